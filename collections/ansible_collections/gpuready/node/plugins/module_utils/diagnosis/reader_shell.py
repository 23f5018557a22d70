# Apache-2.0 (see LICENSE)
"""Where a line of a transcript comes from: prompts and commands divide it into places.

A place is a host, a container, or unknown. A container is entered by a prompt that names one, by a command
that runs something in it (`docker run … nvidia-smi`), or by a log line that carries its name; it ends with
`exit`, with the host's prompt, or with the next command.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from .reader_text import Line

HOST, CONTAINER, UNKNOWN, WINDOWS = "host", "container", "unknown", "windows"


@dataclass
class Place:
    """One place and what is known of it: contract section 8's `container` and `framework`."""

    kind: str
    container: dict[str, Any] = field(default_factory=dict)
    framework: dict[str, Any] = field(default_factory=dict)
    env: dict[str, str] = field(default_factory=dict)
    last: int = 0
    failing: bool = False
    # It ran nothing but nvidia-smi, to see whether that works.
    trial: bool = False

    @property
    def inside(self) -> bool:
        return self.kind == CONTAINER


@dataclass
class Command:
    """A command as it was typed, and the lines of its output: `start` <= number < `end`."""

    number: int
    text: str
    words: list[str]
    typed_in: Place
    output_in: Place
    start: int
    end: int = 0
    prompt: str = ""

    @property
    def program(self) -> str:
        words = simple_command(self.words)
        return words[0].rpartition("/")[2] if words else ""


@dataclass
class Launch:
    """What a command line asks of a container engine."""

    way: str
    verb: str
    image: str | None = None
    name: str | None = None
    inner: list[str] = field(default_factory=list)
    interactive: bool = False
    requests: dict[str, Any] = field(default_factory=dict)
    env: dict[str, str] = field(default_factory=dict)
    memory: int | None = None
    network: str | None = None
    complete: bool = True


_AT = re.compile(
    r"^(?:\([\w./ ~:+-]{1,60}\)\s*)*\[?(?P<user>[A-Za-z_][\w.-]{0,40})@(?P<host>[\w.-]{1,80})"
    r"(?P<dir>[^\n$#%>\u276f\u279c\]]{0,200})\]?\s?[$#%\u276f\u279c](?:\s+(?P<command>.*))?$"
)
_SHELL = re.compile(
    r"^(?:\([\w./-]{1,40}\)\s*)*(?P<shell>(?:bash|sh|zsh|ash)-\d[\d.]*)[$#%]\s*(?P<command>.*)$"
)
_BUSYBOX = re.compile(r"^(?:/[\w./-]*|~) [#$] ?(?P<command>.*)$")
_TF_DOCKER = re.compile(r"^tf-docker \S+ >\s?(?P<command>.*)$")
_POWERSHELL = re.compile(r"^(?:\([\w./-]{1,40}\)\s*)*(?:PS )?[A-Z]:\\[^>\n]{0,200}>\s?(?P<command>.*)$")
_SIMPLE = re.compile(
    r"^(?:\([\w./ -]{1,40}\)\s*)*(?P<sign>\$|#|%|\u276f|\u03bb"
    r"|\u279c\s+\S+(?:\s+git:\(\S+\))?(?:\s+\u2717)?|\+)"
    r"\s*(?P<command>\S.*)$"
)
_PYTHON = re.compile(r"^(?:>>>|In \[\d+\]:)\s?(?P<code>.*)$")
_PYTHON_MORE = re.compile(r"^(?:\s{0,8}\.\.\.:|\.\.\.)(?: (?P<code>.*))?$")
_CONTAINER_ID = re.compile(r"^[0-9a-f]{12}(?:[0-9a-f]{52})?$")
_POD = re.compile(r"-[0-9a-f]{8,10}-[a-z0-9]{5}$|-pod$")

_SUDO = r"(?:(?:sudo|time|nohup)\s+(?:-[A-Za-z]+\s+)*)*(?:[A-Z_][A-Z0-9_]*=\S*\s+)*"
_KNOWN = (
    r"(?:docker|nvidia-docker2?|podman|nerdctl)\s+(?:--?[\w-]+(?:[= ]\S+)?\s+)*"
    r"(?:run|exec|compose|info|version|inspect|container|image|images|ps|pull|build"
    r"|logs|start|create|system|context|stack|service|"
    r"--version|-v)\b.*"
    r"|(?:docker|podman)-compose\s+(?:-\S+\s+\S+\s+)*(?:up|run|exec|logs|config"
    r"|--version|version|build|start|restart)\b.*"
    r"|kubectl\s+(?:-\S+\s+\S+\s+)*(?:exec|logs|describe|get|apply|run)\b.*"
    r"|(?:singularity|apptainer)\s+(?:exec|run|shell)\b.*"
    r"|nvidia-smi(?:\s+(?:-|\||>|nvlink|topo|mig|dmon|pmon|vgpu).*)?"
    r"|(?:lsmod|lspci|lshw|lsb_release|dmesg|journalctl|ldconfig|uname|dpkg|printenv"
    r"|env|pstree|lscpu|inxi)(?:\s+(?:-|\||>|/).*)?"
    r"|(?:dkms|mokutil|ubuntu-drivers)\s+(?:-|status|build|install|autoinstall|list|devices|add).*"
    r"|(?:modinfo|modprobe)\s+(?:-\S+\s+)*[\w-]+(?:\s*\|.*)?"
    r"|(?:systemctl|service)\s+\S+.*"
    r"|(?:apt|apt-get|apt-cache|apt-mark|aptitude)\s+(?:-\S+\s+)*"
    r"(?:update|upgrade|install|remove|purge|list|policy|show|showhold|search|full-upgrade|dist-upgrade|-).*"
    r"|(?:pip|pip3|pipx|uv pip|python3? -m pip)\s+(?:list|freeze|show|install|uninstall)\b.*"
    r"|(?:conda|mamba|micromamba)\s+(?:list|install|info|create|env|search|activate)\b.*"
    r"|python[\d.]*(?:\s+(?:-|\S+\.py\b).*)?"
    r"|ipython|jupyter\s.*"
    r"|(?:cat|more|less|head|tail|nano|vi|vim|ls|ll|stat|file|find|grep"
    r"|jq)\s+(?:-\S+\s+)*(?:\S*/\S+|\S+\.(?:ya?ml|json|conf|list)|\$\w+).*"
    r"|(?:which|whereis|command -v|type)\s+\S+(?:\s+\S+){0,3}"
    r"|echo\s+\"?\$\w+\"?|export\s+[A-Z_]+=.*|unset\s+[A-Z_]+"
    r"|snap\s+(?:list|info|install).*|nvcc\s+(?:--version|-V)|rpm\s+-q.*|(?:dnf|yum)\s+\S+.*"
    r"|(?:nvidia-ctk|nvidia-container-cli|nvidia-container-toolkit"
    r"|nvidia-container-runtime|nvidia-cdi-hook|nv-fabricmanager)"
    r"\s+(?:-|cdi|runtime|info|list|configure|config|system).*"
    r"|systemd-detect-virt|df\s+-.*|free(?:\s+-\w+)?|nvidia-debugdump.*"
    r"|nvidia-modprobe.*|collect_env.*|wsl(?:\.exe)?\s+-.*"
)
_BARE = re.compile(
    r"^(?:(?:(?:[Tt]he|[Mm]y|[Tt]his is|[Hh]ere(?: is|\'s)|[Tt]hen|[Aa]nd|[Aa]lso"
    r"|[Rr]unning|[Ii] ran|[Oo]utput|[Rr]esults?|of|from|for):? ){1,5})?(?P<command>"
    + _SUDO
    + r"(?:"
    + _KNOWN
    + r"))$"
)
_BARE_PROGRAM = re.compile(
    r"(?:docker|podman|nvidia|nerdctl|kubectl|singularity|apptainer|ls|lspci|dmesg"
    r"|journalctl|ldconfig|uname|dpkg|printenv|env|ps"
    r"|dkms|mokutil|ubuntu|mod|systemctl|service|apt|pip|uv|conda|mamba|micromamba"
    r"|python|ipython|jupyter|cat|more|less|head|tail"
    r"|nano|vim?|ll|stat|file|find|grep|jq|which|whereis|command|type|echo|export"
    r"|unset|snap|nvcc|rpm|dnf|yum|nv-|inxi"
    r"|df|free|collect|wsl|sudo|time|nohup|[A-Z_]+=|[Oo]utput|[Rr]esult|[Tt]he|[Mm]y "
    r"|[Tt]his|[Hh]ere|[Tt]hen|[Aa]nd|[Aa]lso|[Rr]unning|I ran)"
)
_AFTER_COLON = re.compile(
    r"^[^:|{}\"]{3,60}:\s+(?P<command>(?:sudo )?(?:docker|nvidia-docker|podman) (?:run|exec|compose) .+)$"
)

_HOST_WORDS = re.compile(
    r"^(?:[-*#\d.) ]*)(?:output |nvidia-smi |running |works? |and )?(?:on|from|outside)\b.{0,20}?\b"
    r"(?:host|bare ?metal|the (?:server|machine|node)|outside)\b.{0,40}$"
    r"|^(?:[-*#\d.) ]*)(?:my )?host(?: machine| system)?(?: info\w*| side)?\s*:?$"
    r"|^(?:[-*#\d.) ]*)outside (?:of )?(?:the )?(?:docker|container).{0,30}$",
    re.IGNORECASE,
)
_CONTAINER_WORDS = re.compile(
    r"^(?:[-*#\d.) ]*)(?:output |nvidia-smi |running |then |and |but )?(?:in|inside"
    r"|within|from)(?: of)?(?: the| my| a)?"
    r" (?:docker )?(?:container|docker|pod)\b.{0,40}$"
    r"|^(?:[-*#\d.) ]*)(?:container|pod)(?: logs?| output| side)?\s*:$",
    re.IGNORECASE,
)
_PROSE = re.compile(r"^[A-Z][a-z']*(?: [\w'/.,()-]+){1,14}:$")
_HEADING = re.compile(r"^#{1,6} [A-Za-z]")
_TF_HOST = re.compile(r"(?:information for host: |hostname: |on this host \()(?P<host>[\w.-]+)")

_RUN_FLAGS = frozenset(
    [
        "-d",
        "--detach",
        "-i",
        "--interactive",
        "-t",
        "--tty",
        "--rm",
        "--privileged",
        "--init",
        "-P",
        "--publish-all",
        "--read-only",
        "--no-healthcheck",
        "--oom-kill-disable",
        "--sig-proxy",
        "--disable-content-trust",
        "-q",
        "--quiet",
        "--help",
        "--no-hosts",
        "--replace",
        "--tls-verify",
        "--nv",
        "--rocm",
        "--contain",
        "-C",
        "--cleanenv",
        "--writable",
        "--fakeroot",
        "--nvccli",
        "-T",
        "--no-deps",
        "--service-ports",
        "--build",
        "-S",
        "--stdin",
        "--containall",
        "--no-home",
        "--writable-tmpfs",
        "--use-aliases",
        "--remove-orphans",
        "--force-recreate",
    ]
)
_SHELLS = frozenset(("bash", "sh", "/bin/bash", "/bin/sh", "zsh", "/usr/bin/bash", "ash", "fish"))
_ENV_NAMES = re.compile(
    r"^(?:CUDA_|NVIDIA_|NV_|LD_|TF_|XLA_|JAX_|PYTORCH_|TORCH_|NCCL_|CUDNN|ROCR?_|HIP_"
    r"|ORT_|KERAS_|PYTHONPATH$|CONDA_|VIRTUAL_ENV$"
    r"|PATH$|OMPI_COMM|LOCAL_RANK$|GPU_)"
)


def relevant(name: str) -> bool:
    """Does an environment variable concern the GPU, the loading of libraries, or a framework?"""
    return bool(_ENV_NAMES.match(name))


def split_words(text: str) -> list[str]:
    try:
        return shlex.split(text, comments=False)
    except ValueError:
        return text.replace('"', "").replace("'", "").split()


def simple_command(words: Sequence[str]) -> list[str]:
    """Without sudo, time and assignments in front."""
    rest = list(words)
    while rest:
        if rest[0] in ("sudo", "time", "nohup", "exec"):
            rest.pop(0)
            while rest and rest[0].startswith("-") and len(rest) > 1:
                option = rest.pop(0)
                if option in ("-u", "-g"):
                    rest.pop(0)
        elif re.match(r"^[A-Za-z_]\w*=", rest[0]):
            rest.pop(0)
        else:
            break
    return rest


def assignments(words: Sequence[str]) -> dict[str, str]:
    """The variables that are set in front of a command."""
    found: dict[str, str] = {}
    for word in words:
        if word in ("sudo", "env", "time", "nohup", "exec") or (word.startswith("-") and len(word) < 4):
            continue
        name, equals, value = word.partition("=")
        if not equals or not re.match(r"^[A-Za-z_]\w*$", name):
            break
        found[name] = value
    return found


def mebibytes(text: str) -> int | None:
    """`64m`, `8gb`, `67108864` as Docker's options take them."""
    match = re.match(r"^(\d+(?:\.\d+)?)\s*([bkmgt]?)i?b?$", text.strip().lower())
    if not match:
        return None
    factor = {"": 1 / 1048576, "b": 1 / 1048576, "k": 1 / 1024, "m": 1, "g": 1024, "t": 1048576}[
        match.group(2)
    ]
    return int(float(match.group(1)) * factor)


def _gpus(value: str, requests: dict[str, Any]) -> None:
    requests["gpus"] = True
    text = value.strip("\"' ")
    capabilities = re.search(r"capabilities=([a-z,]+)", text)
    if capabilities:
        requests["capabilities"] = capabilities.group(1).split(",")
    devices = re.search(r"device=([^\s\"']+)", text)
    if devices:
        requests["device_ids"] = [
            part for part in devices.group(1).strip("\"',").split(",") if part and "=" not in part
        ]
    elif text.isdigit():
        requests["count"] = int(text)
        if text == "0":
            requests["gpus"] = False
    elif text.partition(",")[0] == "all":
        requests["count"] = -1
    elif text in ("none", "void", ""):
        requests["gpus"] = False


def parse_launch(words: Sequence[str]) -> Launch | None:
    """A container engine's command line; None when it starts or enters no container."""
    rest = simple_command(words)
    if not rest:
        return None
    program = rest.pop(0).rpartition("/")[2]
    way = {
        "docker": "docker",
        "nvidia-docker": "docker",
        "nvidia-docker2": "docker",
        "docker-compose": "docker",
    }.get(program)
    way = way or {
        "podman": "podman",
        "podman-compose": "podman",
        "nerdctl": "containerd",
        "kubectl": "kubernetes",
    }.get(program)
    way = way or {"singularity": "singularity", "apptainer": "singularity"}.get(program)
    if way is None:
        return None
    compose = program.endswith("-compose")
    while rest and rest[0].startswith("-"):
        option = rest.pop(0)
        if (
            "=" not in option
            and option not in ("-D", "--debug", "--tls")
            and rest
            and not option.startswith("--tls")
        ):
            rest.pop(0)
    if rest and rest[0] in ("compose", "container") and way != "kubernetes":
        compose = compose or rest.pop(0) == "compose"
        if rest and rest[0] == "container":
            rest.pop(0)
        while compose and rest and rest[0].startswith("-"):
            option = rest.pop(0)
            if (
                "=" not in option
                and rest
                and option in ("-f", "--file", "-p", "--project-name", "--profile", "--env-file")
            ):
                rest.pop(0)
    if not rest:
        return None
    verb = rest.pop(0)
    if verb == "build" and way in ("docker", "podman"):
        return Launch(way=way, verb="build")
    if verb not in ("run", "exec", "create", "up", "logs", "start", "shell", "restart", "attach"):
        return None
    launch = Launch(way=way, verb=("compose " + verb) if compose else verb)
    launch.complete = not any("..." in word or word in ("[OPTIONS]", "<options>") for word in rest)
    if program.startswith("nvidia-docker"):
        launch.requests["runtime"] = "nvidia"
    if verb in ("up", "logs", "start", "restart", "attach"):
        names = [word for word in rest if not word.startswith("-")]
        launch.name = names[0] if names and not compose else None
        launch.inner = []
        return launch
    _options(rest, launch)
    if rest:
        target = rest.pop(0)
        if (
            verb in ("run", "create", "shell") and not compose and way != "kubernetes"
        ) or way == "singularity":
            launch.image = target if re.match(r"^[\w][\w./:@+-]*$", target) else None
        else:
            launch.name = target
    if rest and rest[0] == "--":
        rest.pop(0)
    launch.inner = rest
    if way == "singularity":
        launch.requests.setdefault("gpus", False)
    if way == "docker" and verb in ("run", "create") and not compose and launch.complete and launch.image:
        launch.requests.setdefault("gpus", False)
        launch.requests.setdefault("privileged", False)
    return launch


def _options(rest: list[str], launch: Launch) -> None:
    """Take the options of `run` and `exec` off the front of the words."""
    requests = launch.requests
    while rest and rest[0].startswith("-") and rest[0] != "--":
        option = rest.pop(0)
        if option == "-":
            continue
        name, equals, value = option.partition("=")
        if not option.startswith("--"):
            if re.match(r"^-[ditPqTSC]+$", option):
                launch.interactive = launch.interactive or "i" in option or "t" in option
                continue
            bundle = re.match(r"^-[dit]*([evpwuhmlac])(.*)$", option)
            if bundle:
                launch.interactive = launch.interactive or "i" in option.partition(bundle.group(1))[0]
                name, value, equals = "-" + bundle.group(1), bundle.group(2), "=" if bundle.group(2) else ""
        if name in _RUN_FLAGS:
            if name in ("--interactive", "--tty", "-i", "-t"):
                launch.interactive = True
            if name == "--privileged":
                requests["privileged"] = value not in ("false", "0")
            if name in ("--nv", "--nvccli"):
                requests["gpus"] = True
            continue
        if not equals:
            if not rest:
                break
            value = rest.pop(0)
        if name == "--gpus":
            _gpus(value, requests)
        elif name == "--runtime":
            requests["runtime"] = value
        elif name == "--device":
            key = "cdi_devices" if re.match(r"^[\w.-]+/[\w-]+=", value) else "devices"
            requests.setdefault(key, []).append(value.partition(":")[0] if key == "devices" else value)
        elif name in ("-e", "--env"):
            variable, equals, content = value.partition("=")
            if equals:
                launch.env[variable] = content
        elif name in ("-m", "--memory"):
            launch.memory = mebibytes(value)
        elif name == "--shm-size":
            size = mebibytes(value)
            if size:
                requests["shm_size_mib"] = size
        elif name == "--name":
            launch.name = value
        elif name in ("--network", "--net"):
            launch.network = value


class Transcript:
    """The lines with their places, and the commands among them."""

    def __init__(self, lines: Sequence[Line]) -> None:
        self.lines = lines
        self.texts = [line.text for line in lines]
        self.unknown = Place(UNKNOWN)
        self.host = Place(HOST)
        self.windows = Place(WINDOWS)
        self.places: list[Place] = []
        self.containers: list[Place] = []
        self.commands: list[Command] = []
        self.statements: list[tuple[int, str, Place]] = []
        self._named: dict[str, Place] = {}
        self._divide()

    def _container(self, name: str | None = None) -> Place:
        if name and name in self._named:
            return self._named[name]
        place = Place(CONTAINER)
        self.containers.append(place)
        if name:
            self._named[name] = place
        return place

    def _place_of_host(self, user: str, host: str, inside: Place | None, left: str) -> Place:
        """Whose prompt user@host is; `inside`: the container entered last, from the prompt `left`."""
        name = host
        if name in self._named:
            return self._named[name]
        if _CONTAINER_ID.match(host) or _POD.search(host):
            place = inside if inside is not None and inside not in self._named.values() else self._container()
            self._named[name] = place
            return place
        if (
            inside is not None
            and left
            and user + "@" + host != left
            and (user in ("root", "jovyan") or host != left.partition("@")[2])
        ):
            if host != left.partition("@")[2]:
                self._named[name] = inside
            return inside
        return self.host

    def _divide(self) -> None:
        place = self.unknown
        base = self.unknown
        entered: Place | None = None
        left = inner = ""
        current: Command | None = None
        number = 0
        texts = self.texts
        count = len(texts)
        while number < count:
            line = self.lines[number]
            text = texts[number]
            if not text:
                if current is not None and line.fence and entered is None and self._answered(current, number):
                    # The block with the command's output is over.
                    self._close(current, number)
                    current, place = None, base
                self.places.append(place)
                number += 1
                continue
            if line.origin:
                self.places.append(self._by_origin(line, place))
                number += 1
                continue
            found = self._prompt(text, entered, left)
            if found is None:
                head = text[0]
                if head in ">I":
                    python = _PYTHON.match(text)
                    if python:
                        if (
                            current is not None
                            and current.program not in ("python", "python3", "ipython")
                            and not current.output_in.inside
                        ):
                            self._close(current, number)
                            current = None
                        code = python.group("code")
                        self.places.append(place)
                        while number + 1 < count and len(code) < 4000:
                            more = _PYTHON_MORE.match(texts[number + 1])
                            if not more:
                                break
                            code += "\n" + (more.group("code") or "")
                            self.places.append(place)
                            number += 1
                        self.statements.append((number, code, place))
                        number += 1
                        continue
                if text in ("exit", "logout"):
                    if entered is not None:
                        entered, place = None, base
                        self._close(current, number)
                        current = None
                elif len(text) < 90 and (head.isalpha() or head in "-*#"):
                    if _HOST_WORDS.match(text):
                        self._close(current, number)
                        current, entered, place = None, None, self.host
                    elif _CONTAINER_WORDS.match(text):
                        self._close(current, number)
                        current = None
                        place = entered or (self.containers[-1] if self.containers else self._container())
                    elif head == "#" and _HEADING.match(text):
                        self._close(current, number)
                        current, entered, place = None, None, self.unknown
                    elif (
                        current is not None
                        and entered is None
                        and text[-1] == ":"
                        and not texts[number - 1]
                        and _PROSE.match(text)
                    ):
                        self._close(current, number)
                        current, place = None, base
                if "host" in text:
                    named = _TF_HOST.search(text)
                    if named and _CONTAINER_ID.match(named.group("host")) and not place.inside:
                        place = self._container(named.group("host"))
                        self._backdate(place)
                self.places.append(place)
                number += 1
                continue
            typed_in, command, prompt = found
            self._close(current, number)
            current = None
            if (
                typed_in is None
                and entered is not None
                and prompt
                and prompt == left
                and inner not in ("", left)
            ):
                # The prompt that the container was entered from, not the container's own.
                entered = None
            if typed_in is None:
                typed_in = entered or (place if not prompt and place.kind == HOST else base)
            if prompt and typed_in.kind in (HOST, WINDOWS):
                entered, base = None, typed_in
            elif prompt and typed_in.inside:
                entered, inner = typed_in, prompt
            if command in ("exit", "logout") and typed_in.inside:
                entered, place, inner = None, base, ""
                self.places.append(typed_in)
                number += 1
                continue
            if not command:
                place = typed_in
                self.places.append(place)
                number += 1
                continue
            start = number
            self.places.append(typed_in)
            number += 1
            while command.endswith("\\") or (typed_in is self.windows and command.endswith(("`", "^"))):
                command = command[:-1] + " "
                if number >= count or number - start > 60:
                    break
                command += (
                    texts[number].lstrip("> ").strip()
                    if texts[number].startswith(">")
                    else texts[number].strip()
                )
                self.places.append(typed_in)
                number += 1
            words = split_words(command[:4000])
            output = self._output_place(words, typed_in, start)
            current = Command(start, command, words, typed_in, output, number, prompt=prompt)
            self.commands.append(current)
            place = output
            launch = parse_launch(words)
            if launch is not None and _opens_shell(launch):
                entered, left, inner = output, prompt, ""
                if not typed_in.inside:
                    base = typed_in
        self._close(current, count)

    def _backdate(self, place: Place) -> None:
        """TensorFlow names its host late: what stands right before it and has no place yet is of the same."""
        for index in range(len(self.places) - 1, max(-1, len(self.places) - 40), -1):
            if self.places[index] is not self.unknown:
                break
            self.places[index] = place

    def _by_origin(self, line: Line, place: Place) -> Place:
        if line.origin == "container":
            return place if place.inside else self._container("\0logs")
        return self.host

    def _answered(self, command: Command, number: int) -> bool:
        return any(text for text in self.texts[command.start : min(number, command.start + 50)])

    @staticmethod
    def _close(command: Command | None, number: int) -> None:
        if command is not None:
            command.end = number

    def _output_place(self, words: Sequence[str], typed_in: Place, number: int) -> Place:
        launch = parse_launch(words)
        if launch is None:
            return typed_in
        key = None
        if (launch.name and launch.verb in ("exec", "logs", "start", "attach", "restart")) or (
            launch.verb in ("run", "create") and launch.name
        ):
            key = "\0name:" + launch.name
        elif launch.verb.startswith("compose"):
            key = "\0compose"
        place = self._container(key)
        container = place.container
        container["way"] = launch.way
        if launch.verb.startswith("compose"):
            container["compose"] = True
        elif launch.verb == "build":
            container["build"] = True
        elif launch.verb in ("run", "create"):
            container["compose"] = False
        if launch.image:
            container["image"] = launch.image
        if launch.name and launch.way != "kubernetes":
            container["name"] = launch.name
        if launch.requests:
            container.setdefault("requests", {}).update(launch.requests)
        for variable, value in launch.env.items():
            if relevant(variable):
                place.env[variable] = value
        asked = (
            launch.requests.get("gpus")
            or launch.requests.get("cdi_devices")
            or launch.requests.get("runtime")
        )
        place.trial = launch.verb == "run" and bool(asked) and launch.inner[:1] == ["nvidia-smi"]
        if launch.memory:
            container["memory_limit_mib"] = launch.memory
        place.last = number
        return place

    def _prompt(self, text: str, entered: Place | None, left: str) -> tuple[Place | None, str, str] | None:
        """(place, None where the prompt does not tell; command; prompt) of a line that begins with one."""
        head = text[0]
        if "@" in text[:140] and (head.isalpha() or head in "([_"):
            match = _AT.match(text)
            if match:
                user, host = match.group("user"), match.group("host")
                place = self._place_of_host(user, host, entered, left)
                return place, (match.group("command") or "").strip(), user + "@" + host
        if head in "bsza(":
            match = _SHELL.match(text)
            if match:
                return None, match.group("command").strip(), match.group("shell")
        if head in "/~":
            match = _BUSYBOX.match(text)
            if match:
                inside = entered or (self._container("\0busybox") if head == "/" else None)
                return inside, match.group("command").strip(), "/ #"
        if head == "t" and text.startswith("tf-docker "):
            match = _TF_DOCKER.match(text)
            if match:
                return entered or self._container("\0tf-docker"), match.group("command").strip(), "tf-docker"
        if "\\" in text[:12] and ">" in text:
            match = _POWERSHELL.match(text)
            if match:
                return self.windows, match.group("command").strip(), "windows"
        if head in "$#%(+\u276f\u279c\u03bb":
            match = _SIMPLE.match(text)
            if match:
                command = match.group("command").strip()
                if match.group("sign") == "$" or _BARE.match(command):
                    return None, command, match.group("sign")
        if head == "!" and len(text) > 2 and (text[1].isalpha() or text[1] in "/ "):
            return None, text[1:].strip(), "!"
        if _BARE_PROGRAM.match(text) and len(text) < 2000:
            stripped = text.rstrip(":").strip()
            match = _BARE.match(stripped)
            if match:
                return None, match.group("command"), ""
        if "docker" in text or "podman" in text:
            match = _AFTER_COLON.match(text)
            if match:
                return None, match.group("command"), ""
        return None


def _opens_shell(launch: Launch) -> bool:
    """Does the person type in the container from here on?"""
    if launch.verb in ("start", "logs", "compose up", "compose logs", "create", "restart", "build"):
        return False
    if launch.verb in ("shell", "attach"):
        return True
    last = launch.inner[0] if launch.inner else None
    if last is None:
        return launch.interactive and launch.verb == "run"
    return last in _SHELLS and "-c" not in launch.inner and "-lc" not in launch.inner
