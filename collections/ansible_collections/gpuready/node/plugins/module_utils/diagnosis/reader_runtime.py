# Apache-2.0 (see LICENSE)
"""What a text says about Docker and its like: engine, toolkit, CDI, what a container was asked to get."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from .reader_base import Reading, command, fetch, on, put, row
from .reader_framework import _python
from .reader_shell import WINDOWS, Command, Place, mebibytes, relevant

_ARCHS = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64", "ppc64le": "ppc64el"}

# --- the engine


def _docker(reading: Reading, path: str, value: Any, place: Place) -> None:
    """A fact of the engine; what follows a container's output is still about the same host's engine."""
    if place.kind != WINDOWS:
        put(reading.stack, "container_runtime.docker." + path, value)


@on("Docker version ")
def _docker_version(reading: Reading, number: int, text: str, place: Place) -> None:
    match = re.search(r"Docker version (\d+\.\d+(?:\.\d+)?[\w.+~-]*?),", text)
    if match:
        _docker(reading, "version", match.group(1), place)
        _docker(reading, "installed", True, place)


_INFO = {
    "Server Version": "live.server_version",
    "Default Runtime": "live.default_runtime",
    "Docker Root Dir": "live.root_dir",
    "Cgroup Driver": "live.cgroup_driver",
    "Cgroup Version": "live.cgroup_version",
}


@on("Server Version:", "Default Runtime:", "Docker Root Dir:", "Cgroup Driver:", "Cgroup Version:")
def _docker_info(reading: Reading, number: int, text: str, place: Place) -> None:
    name, colon, value = text.strip().partition(":")
    if not colon or name not in _INFO or not value.strip():
        return
    value = value.strip()
    if name == "Server Version" and not re.match(r"^\d+\.\d+(?:\.\d+)?[\w.+~-]*$", value):
        # kubectl has a line of that name, too.
        return
    _docker(reading, _INFO[name], value, place)
    _docker(reading, "live.reachable", True, place)
    if name == "Server Version":
        _docker(reading, "version", value, place)
        _docker(reading, "installed", True, place)
    if name == "Docker Root Dir" and value.startswith("/var/snap/docker"):
        _docker(reading, "snap", True, place)


@on("Runtimes:")
def _docker_runtimes(reading: Reading, number: int, text: str, place: Place) -> None:
    match = re.match(r"^\s*Runtimes: (?P<names>[\w. -]+)$", text)
    if not match:
        return
    # A narrow terminal or `grep -A` leaves the list whole: docker writes it on one line.
    _docker(reading, "live.runtimes", match.group("names").split(), place)
    _docker(reading, "live.reachable", True, place)


@on("CDI spec directories:", "Discovered Devices:")
def _docker_cdi(reading: Reading, number: int, text: str, place: Place) -> None:
    if text.strip().startswith("CDI spec"):
        found = []
        for line in reading.following(number, 6):
            match = re.match(r"^\s+(/\S+)$", line)
            if not match:
                break
            found.append(match.group(1))
        _docker(reading, "live.cdi_spec_dirs", found, place)
        return
    devices = []
    for line in reading.following(number, 80):
        match = re.match(r"^\s+cdi: (\S+)$", line)
        if not match:
            break
        devices.append(match.group(1))
    if devices:
        _docker(reading, "live.cdi_devices", devices, place)


_DESKTOP_SAID = re.compile(
    r"(?i:(?:^|[\s(,:])(?:on|in|using|via|with|under|running|have|installed|version:?|through)\s+(?:the\s+|Windows\s+)?"
    r"Docker Desktop\b)|^\W*Docker Desktop (?:v?\d|for |on )"
)
_NO_DESKTOP = re.compile(
    r"\b(?:not|no|without|instead of|don't|isn't|never|uninstall\w*|removed?|quit)\b", re.IGNORECASE
)


@on("Operating System: ", "Context:", "desktop-linux", "Docker Desktop", "rootless", "/run/user/")
def _docker_kind(reading: Reading, number: int, text: str, place: Place) -> None:
    if (
        re.match(r"^\s*Operating System: +Docker Desktop", text)
        or re.match(r"^Server: Docker Desktop", text)
        or (re.match(r"^\s*(?:Context: +|\W*)desktop-linux\b", text) and "Context" in text)
    ):
        reading.platform["docker_desktop"] = True
    elif re.match(r"^\s*Context: +\S+\s*$", text) and not text.strip().endswith("rootless"):
        _docker(reading, "context", text.split()[-1], place)
    elif (
        re.match(r"^\s*Context: +rootless\s*$", text)
        or re.match(r"^\s+rootless\s*$", text)
        or (re.search(r"unix:///run/user/\d+/docker\.sock", text) and "desktop" not in text)
    ):
        _docker(reading, "rootless", True, place)
    elif re.search(r"/\.docker/desktop/docker\.sock", text):
        reading.platform["docker_desktop"] = True
    elif _DESKTOP_SAID.search(text) and not _NO_DESKTOP.search(text):
        reading.platform.setdefault("docker_desktop", True)


@on(
    "Cannot connect to the Docker daemon",
    "permission denied while trying to connect to the",
    "failed to connect to the docker API",
)
def _docker_unreachable(reading: Reading, number: int, text: str, place: Place) -> None:
    if (place.inside and not place.container.get("way")) or place.kind == WINDOWS:
        return
    error = text.strip()
    docker = reading.stack.setdefault("container_runtime", {}).setdefault("docker", {})
    if "permission denied" in text:
        docker["live"] = {"error": error}
    else:
        docker["live"] = {"reachable": False, "error": error}
    if ".docker/desktop" in text:
        reading.platform["docker_desktop"] = True


@on("/snap/bin/docker", "/var/snap/docker", "/snap/docker/", "snap.docker.dockerd")
def _snap(reading: Reading, number: int, text: str, place: Place) -> None:
    if not re.search(r"\b(?:rm|remove|purge|delete|uninstall)", text) and not place.inside:
        _docker(reading, "snap", True, place)


@on("/nvidia-container-runtime", "/nvidia-ctk", "/nvidia-cdi-hook")
def _binary(reading: Reading, number: int, text: str, place: Place) -> None:
    """A line of `ls -l`."""
    match = re.match(
        r"^-\S{9}[.+]?\s+\d+\s.*\s(?P<path>/\S*/(?P<name>nvidia-ctk|nvidia-cdi-hook"
        r"|nvidia-container-runtime(?:-hook)?))$",
        text,
    )
    if match and reading.concerns_host(place):
        put(reading.stack, "container_runtime.toolkit.binaries." + match.group("name"), match.group("path"))


@command("docker")
def _contexts(reading: Reading, typed: Command, output: list[str]) -> None:
    """`docker context ls` marks the one in use."""
    if "context" not in typed.words[:4]:
        return
    for line in output[:20]:
        match = re.match(r"^(?P<name>[\w.-]+)\s?\*\s", line)
        if match:
            _docker(reading, "context", match.group("name"), typed.output_in)
            if match.group("name").startswith("desktop"):
                reading.platform["docker_desktop"] = True
            elif match.group("name") == "rootless":
                _docker(reading, "rootless", True, typed.output_in)


@command("snap")
def _snap_list(reading: Reading, typed: Command, output: list[str]) -> None:
    if typed.words[-1:] and "list" in typed.words:
        for line in output:
            if re.match(r"^docker\s+\d+\.\d+", line):
                _docker(reading, "snap", True, typed.output_in)


_FORMAT = re.compile(r"\{\{ ?(?:json )?(?P<path>[.\w]+) ?\}\}")


@command("docker", "podman")
def _inspect_format(reading: Reading, typed: Command, output: list[str]) -> None:
    """`docker inspect --format '{{.State.OOMKilled}} {{.State.ExitCode}}' NAME`."""
    if "inspect" not in typed.words[:3] or "{{" not in typed.text:
        return
    paths = _FORMAT.findall(typed.text)
    line = next((line.strip() for line in output if line.strip()), "")
    values = [line] if len(paths) == 1 else line.split()
    if not line or len(values) != len(paths) or line.startswith(("Error", "template")):
        return
    name = typed.words[-1]
    place = reading.transcript._container("\0name:" + name)
    place.last = max(place.last, typed.number)
    container = place.container
    container.setdefault("name", name)
    for path, value in zip(paths, values, strict=True):
        if path in (".State.OOMKilled", ".State.Running") and value in ("true", "false"):
            container["oom_killed" if "OOM" in path else "running"] = value == "true"
        elif path == ".State.ExitCode" and value.isdigit():
            container["exit_code"] = int(value)
        elif path == ".HostConfig.Runtime" and re.match(r"^\"?[\w.-]+\"?$", value):
            container.setdefault("requests", {})["runtime"] = value.strip('"')
        elif path == ".HostConfig.DeviceRequests" and value in ("[]", "null", "<nil>"):
            container.setdefault("requests", {})["gpus"] = False
        elif path == ".HostConfig.DeviceRequests" and "gpu" in value:
            container.setdefault("requests", {})["gpus"] = True
        elif path == ".Config.Image":
            container["image"] = value


@command("which", "command", "whereis", "type")
def _which(reading: Reading, typed: Command, output: list[str]) -> None:
    place = typed.output_in
    if not reading.concerns_host(place):
        return
    for line in output[:20]:
        match = re.search(
            r"(/\S*/(nvidia-ctk|nvidia-container-runtime|nvidia-container-runtime-hook"
            r"|nvidia-cdi-hook|nvidia-container-cli))\b",
            line,
        )
        if match:
            put(reading.stack, "container_runtime.toolkit.binaries." + match.group(2), match.group(1))
        match = re.match(r"^(/\S*/python[\d.]*)$", line.strip())
        if match:
            _python(reading, executable=match.group(1))
        match = re.search(r"(/\S*/nvidia-smi)\b", line)
        if match and line.startswith("/"):
            put(reading.stack, "driver.userspace.nvidia_smi", match.group(1))


@on("unable to configure the Docker daemon with file")
def _daemon_json_error(reading: Reading, number: int, text: str, place: Place) -> None:
    match = re.search(
        r"unable to configure the Docker daemon with file (?P<path>[^\s:]+): (?P<error>.+)", text
    )
    if match and not place.inside:
        error = match.group("error").strip().rstrip('"')
        found = {"path": match.group("path"), "exists": True, "error": error}
        # "the following directives are specified both as a flag …" is about a file that JSON can read.
        found["valid"] = bool(
            re.search(r"directives|merging|hosts:|don't match any configuration option", error)
        )
        put(reading.stack, "container_runtime.docker.daemon_json", found)


@on("/daemon.json")
def _no_daemon_json(reading: Reading, number: int, text: str, place: Place) -> None:
    match = re.match(
        r"^(?:cat|ls|more|less|head): (?:cannot access )?'?(/etc/docker/daemon\.json)'?: No such file", text
    )
    if match and not place.inside:
        put(
            reading.stack,
            "container_runtime.docker.daemon_json",
            {"path": match.group(1), "exists": False, "valid": None, "error": None},
        )


# --- JSON: daemon.json, docker inspect

_DAEMON_KEYS = frozenset(
    [
        "runtimes",
        "default-runtime",
        "exec-opts",
        "insecure-registries",
        "registry-mirrors",
        "data-root",
        "storage-driver",
        "log-driver",
        "log-opts",
        "features",
        "hosts",
        "dns",
        "bip",
        "default-ulimits",
        "live-restore",
        "cdi-spec-dirs",
        "node-generic-resources",
        "builder",
        "default-shm-size",
        "iptables",
        "debug",
        "experimental",
        "userns-remap",
        "no-new-privileges",
        "cgroup-parent",
        "graph",
        "ipv6",
        "mtu",
        "proxies",
        "group",
    ]
)


def _json_blocks(reading: Reading) -> list[tuple[int, Any, str | None]]:
    """(first line, value, error) of what looks like JSON."""
    found = []
    number = 0
    texts = [
        line.raw.strip() if line.raw.lstrip().startswith(("{", "[", "}", "]", '"')) else line.text
        for line in reading.transcript.lines
    ]
    spent = 0
    while number < len(texts) and spent < 20000:
        start = texts[number].lstrip()
        if (
            not start
            or start[0] not in "{["
            or (start[0] == "[" and start not in ("[", "[]") and not start.startswith(("[{", '["')))
        ):
            number += 1
            continue
        if start[0] == "{" and len(start) > 1 and start.lstrip("{ ")[:1] not in ('"', "}", ""):
            number += 1
            continue
        depth = 0
        end = number
        while end < len(texts) and end - number < 4000:
            bare = re.sub(r'"(?:[^"\\]|\\.)*"', "", texts[end])
            depth += bare.count("{") + bare.count("[") - bare.count("}") - bare.count("]")
            end += 1
            spent += 1
            if depth <= 0:
                break
        text = "\n".join(texts[number:end])
        value, error = None, None
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as problem:
            error = str(problem) if depth <= 0 else "cut"
        found.append((number, value, error))
        number = end if value is not None or depth <= 0 else number + 1
    return found


_ADVICE = re.compile(r"\b(?:add|put|create|should|try|edit|change|set|example|e\.g\.)\b", re.IGNORECASE)


def json_facts(reading: Reading) -> None:
    """daemon.json, `docker inspect`."""
    if not any(text.lstrip()[:1] in ("{", "[") for text in reading.texts if text):
        return
    daemon_cats = [
        typed
        for typed in reading.transcript.commands[:500]
        if "daemon.json" in typed.text
        and typed.program in ("cat", "less", "more", "head", "jq", "batcat", "bat")
    ]
    judged = 0
    for start, value, _error in _json_blocks(reading):
        place = reading.transcript.places[start]
        shown = any(typed.start <= start < typed.end for typed in daemon_cats)
        # Keys that only dockerd's file has let a mention further above count, too.
        lines = "\n".join(reading.texts[start : start + 12])
        far = any(key in _DAEMON_KEYS for key in re.findall(r"\"([a-z][a-z-]+)\"\s*:", lines))
        above = reading.texts[max(0, start - (15 if far else 3)) : start]
        titles = [line for line in above if "daemon.json" in line and len(line) < 160]
        titled = bool(titles) and not any(_ADVICE.search(line) for line in titles)
        if (shown or titled) and start >= judged:
            end, text = _whole_file(reading, start)
            judged = end
            try:
                content = json.loads(_untypeset(reading, start, end, text))
            except (ValueError, RecursionError) as problem:
                if '"' in text or "\u201c" in text:
                    _broken_daemon_json(reading, str(problem), place)
                continue
            if isinstance(content, dict):
                _daemon_json(reading, content, place)
            continue
        if isinstance(value, dict) and value and not place.inside:
            keys = set(value)
            if keys <= _DAEMON_KEYS and keys & {
                "runtimes",
                "default-runtime",
                "insecure-registries",
                "exec-opts",
            }:
                _daemon_json(reading, value, place)
                continue
        entries = value if isinstance(value, list) else [value]
        for entry in entries[:50]:
            if isinstance(entry, dict) and isinstance(entry.get("HostConfig"), dict):
                _inspected_container(reading, entry, start)
            elif isinstance(entry, dict) and "RootFS" in entry and "Architecture" in entry:
                _inspected_image(reading, entry)


def _whole_file(reading: Reading, start: int) -> tuple[int, str]:
    """What is shown of a file: up to the end of the block, the next command, or a line that is no JSON."""
    lines = reading.transcript.lines
    prompts = {typed.number for typed in reading.transcript.commands}
    end = start
    while end < len(lines) and end - start < 500:
        line = lines[end]
        if line.fence or end in prompts:
            break
        if line.text and not re.match(r"^\s*(?:[{}\[\]\"',#/]|true|false|null|\d|\w+\s*:)", line.text):
            break
        end += 1
    return end, "\n".join(line.raw for line in lines[start:end]).strip()


_TYPESET = str.maketrans({"\u201c": '"', "\u201d": '"', "\u00a0": " "})


def _untypeset(reading: Reading, start: int, end: int, text: str) -> str:
    """Plain quotes and blanks, where the rest of the text has lost its own, too: a page did that."""
    odd = {char for char in "\u201c\u201d\u00a0" if char in text}
    lines = reading.transcript.lines
    rest = (line.raw for line in (*lines[:start], *lines[end:]))
    if odd and any(not odd.isdisjoint(raw) for raw in rest):
        return text.translate(_TYPESET)
    return text


def _broken_daemon_json(reading: Reading, error: str, place: Place) -> None:
    if place.kind != WINDOWS:
        found = {"path": "/etc/docker/daemon.json", "exists": True, "valid": False, "error": error}
        put(reading.stack, "container_runtime.docker.daemon_json", found)


def _daemon_json(reading: Reading, value: Mapping[str, Any], place: Place) -> None:
    runtimes = value.get("runtimes") if isinstance(value.get("runtimes"), dict) else {}
    found = {
        "path": "/etc/docker/daemon.json",
        "exists": True,
        "valid": True,
        "error": None,
        "content": dict(value),
        "runtimes": {name: entry for name, entry in (runtimes or {}).items() if isinstance(entry, dict)},
        "default_runtime": value.get("default-runtime")
        if isinstance(value.get("default-runtime"), str)
        else None,
        "features": value.get("features") if isinstance(value.get("features"), dict) else {},
    }
    if place.kind != WINDOWS:
        put(reading.stack, "container_runtime.docker.daemon_json", found)


def _inspected_container(reading: Reading, entry: Mapping[str, Any], number: int) -> None:
    """One container of `docker inspect`."""
    host = entry["HostConfig"]
    config = entry.get("Config") if isinstance(entry.get("Config"), dict) else {}
    state = entry.get("State") if isinstance(entry.get("State"), dict) else {}
    name = str(entry.get("Name") or "").lstrip("/")
    place = reading.transcript._container("\0name:" + name if name else None)
    place.last = max(place.last, number)
    container = place.container
    container["way"] = "docker"
    if name:
        container["name"] = name
    image = (config or {}).get("Image")
    if isinstance(image, str) and not image.startswith("sha256:"):
        container["image"] = image
    requests = container.setdefault("requests", {})
    wanted = host.get("DeviceRequests")
    if "DeviceRequests" in host:
        wanted = wanted if isinstance(wanted, list) else []
        gpus = [
            request
            for request in wanted
            if isinstance(request, dict)
            and any("gpu" in (group or []) for group in request.get("Capabilities") or [])
        ]
        requests["gpus"] = bool(gpus)
        for request in gpus:
            if request.get("DeviceIDs"):
                requests["device_ids"] = [str(item) for item in request["DeviceIDs"]]
            elif isinstance(request.get("Count"), int):
                requests["count"] = request["Count"]
        cdi = [
            item
            for request in wanted
            if isinstance(request, dict) and request.get("Driver") == "cdi"
            for item in request.get("DeviceIDs") or []
        ]
        requests["cdi_devices"] = [str(item) for item in cdi]
    if isinstance(host.get("Runtime"), str):
        requests["runtime"] = host["Runtime"]
    if isinstance(host.get("Privileged"), bool):
        requests["privileged"] = host["Privileged"]
    if isinstance(host.get("Devices"), list):
        requests["devices"] = [
            str(item.get("PathOnHost")) for item in host["Devices"] if isinstance(item, dict)
        ]
    if isinstance(host.get("Memory"), int) and host["Memory"]:
        container["memory_limit_mib"] = host["Memory"] // 1048576
    for item in (config or {}).get("Env") or []:
        variable, equals, value = str(item).partition("=")
        if equals and relevant(variable):
            place.env[variable] = value
    labels = (config or {}).get("Labels")
    if isinstance(labels, dict):
        container["compose"] = "com.docker.compose.project" in labels
    for key, field in (("Running", "running"), ("OOMKilled", "oom_killed"), ("ExitCode", "exit_code")):
        if key in (state or {}):
            container[field] = state[key]  # type: ignore[index]


def _inspected_image(reading: Reading, entry: Mapping[str, Any]) -> None:
    config = entry.get("Config") if isinstance(entry.get("Config"), dict) else {}
    tags = entry.get("RepoTags") or []
    env = {}
    for item in (config or {}).get("Env") or []:
        variable, equals, value = str(item).partition("=")
        if equals and relevant(variable):
            env[variable] = value
    images = reading.list_at("framework.images")
    for tag in tags[:5]:
        row(images, ref=str(tag)).update(architecture=entry.get("Architecture"), env=env)


# --- compose and Kubernetes files


def _yaml_blocks(reading: Reading) -> list[tuple[int, str]]:
    """(first line, text) of what looks like a compose file or a Kubernetes object."""
    found = []
    texts = reading.texts
    number = 0
    while number < len(texts):
        text = texts[number]
        if not re.match(
            r"^\s*(?:services:|version: ?[\"']?[23]|apiVersion: ?\S+|kind: ?\S+|x-[\w-]+:|name: [\w-]+$)",
            text,
        ):
            number += 1
            continue
        indent = len(text) - len(text.lstrip())
        end = number + 1
        blank = 0
        while end < len(texts) and end - number < 600:
            line = texts[end]
            if not line.strip():
                blank += 1
                if blank > 2 or reading.transcript.lines[end].fence:
                    break
            else:
                depth = len(line) - len(line.lstrip())
                if depth < indent or (
                    depth == indent and not re.match(r"^\s*(?:[\w./-]+:(?:\s|$)|#|---|- )", line)
                ):
                    break
                blank = 0
            end += 1
        found.append((number, "\n".join(line[indent:] for line in texts[number:end])))
        number = end
    return found


def yaml_facts(reading: Reading) -> None:
    """What compose files and Pod specifications ask for."""
    if not any(word in text for text in reading.texts for word in ("services:", "apiVersion:")):
        return
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    spent = 0
    for number, text in _yaml_blocks(reading):
        spent += len(text)
        if len(text) > 20000 or spent > 60000 or (re.search(r":\s*[&*]\w", text) and text.count("*") > 50):
            continue
        try:
            documents = [value for value in yaml.load_all(text, Loader=loader) if isinstance(value, dict)]
        except (yaml.YAMLError, ValueError, RecursionError, AttributeError, TypeError):
            continue
        for value in documents[:20]:
            if isinstance(value.get("services"), dict):
                _compose(reading, value["services"], number)
            elif "apiVersion" in value and isinstance(value.get("kind"), str):
                _pod(reading, value, number)


_GPU_IMAGE = re.compile(r"cuda|nvidia|gpu|torch|tensorflow|jax|ollama|vllm|triton|jupyter", re.IGNORECASE)


def _suspicion(name: str, entry: Mapping[str, Any], asked: set[str]) -> tuple[bool, bool, bool, bool]:
    """How likely is it that this service is the one that should have a GPU?"""
    requests = _compose_request(entry)[0]
    image = str(entry.get("image") or "") + name
    return (
        bool(requests.get("gpus")),
        bool(requests.get("runtime")),
        name in asked,
        bool(_GPU_IMAGE.search(image)),
    )


def _compose(reading: Reading, services: Mapping[str, Any], number: int) -> None:
    wanted = [(str(name), entry) for name, entry in services.items() if isinstance(entry, dict)]
    if not wanted:
        return
    asked = {
        word for typed in reading.transcript.commands[:500] if "compose" in typed.text for word in typed.words
    }
    best = max(wanted, key=lambda pair: _suspicion(pair[0], pair[1], asked))
    name, entry = best
    place = reading.transcript._container("\0compose")
    place.last = max(place.last, number)
    requests, env = _compose_request(entry)
    container = place.container
    container["compose"] = True
    container.setdefault("way", "docker")
    container["name"] = str(entry.get("container_name") or name)
    if isinstance(entry.get("image"), str):
        container["image"] = entry["image"]
    container.setdefault("requests", {}).update(requests)
    for variable, value in env.items():
        if relevant(variable):
            place.env[variable] = value


def _compose_request(entry: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    requests: dict[str, Any] = {"gpus": False}
    deploy = entry.get("deploy") if isinstance(entry.get("deploy"), dict) else {}
    reservations = fetch(deploy, "resources.reservations") if isinstance(deploy, dict) else None
    devices = reservations.get("devices") if isinstance(reservations, dict) else None
    for device in devices if isinstance(devices, list) else []:
        if not isinstance(device, dict):
            continue
        capabilities = device.get("capabilities")
        flat = (
            [str(item) for part in capabilities for item in (part if isinstance(part, list) else [part])]
            if isinstance(capabilities, list)
            else []
        )
        if "gpu" in flat or device.get("driver") in ("nvidia", "cdi"):
            requests["gpus"] = "gpu" in flat or device.get("driver") == "cdi"
            if flat:
                requests["capabilities"] = flat
            if device.get("count") not in (None, "all"):
                requests["count"] = device["count"] if isinstance(device["count"], int) else None
            if isinstance(device.get("device_ids"), list):
                key = "cdi_devices" if device.get("driver") == "cdi" else "device_ids"
                requests[key] = [str(item) for item in device["device_ids"]]
            if device.get("driver") == "nvidia" and not flat:
                requests["gpus"] = None
    if entry.get("gpus"):
        requests["gpus"] = True
    shared = mebibytes(str(entry["shm_size"])) if entry.get("shm_size") else None
    if shared:
        requests["shm_size_mib"] = shared
    if isinstance(entry.get("runtime"), str):
        requests["runtime"] = entry["runtime"]
    if isinstance(entry.get("devices"), list):
        names = [str(item).partition(":")[0] for item in entry["devices"]]
        requests["devices"] = [item for item in names if item.startswith("/dev")]
        cdi = [str(item) for item in entry["devices"] if re.match(r"^[\w.-]+/[\w-]+=", str(item))]
        if cdi:
            requests["cdi_devices"] = cdi
    if isinstance(entry.get("privileged"), bool):
        requests["privileged"] = entry["privileged"]
    if "extends" in entry or "<<" in entry:
        requests["gpus"] = requests["gpus"] or None
    env: dict[str, str] = {}
    given = entry.get("environment")
    if isinstance(given, dict):
        env = {str(name): "" if value is None else str(value) for name, value in given.items()}
    elif isinstance(given, list):
        for item in given:
            name, equals, value = str(item).partition("=")
            if equals:
                env[name] = value
    return requests, env


def _pod(reading: Reading, value: Mapping[str, Any], number: int) -> None:
    spec = value.get("spec")
    for _ in range(3):
        if isinstance(spec, dict) and "containers" not in spec:
            inner = spec.get("template") or spec.get("jobTemplate")
            spec = inner.get("spec") if isinstance(inner, dict) else spec
    if not isinstance(spec, dict) or not isinstance(spec.get("containers"), list):
        return
    reading.platform["kubernetes"] = True
    place = reading.transcript._container("\0kubernetes")
    place.last = max(place.last, number)
    container = place.container
    container["way"] = "kubernetes"
    requests = container.setdefault("requests", {})
    requests["gpus"] = False
    if isinstance(spec.get("runtimeClassName"), str):
        requests["runtime"] = spec["runtimeClassName"]
    for entry in spec["containers"]:
        if not isinstance(entry, dict):
            continue
        resources = entry.get("resources") if isinstance(entry.get("resources"), dict) else {}
        for part in ("limits", "requests"):
            limits = resources.get(part) if isinstance(resources, dict) else None
            for key, count in (limits or {}).items() if isinstance(limits, dict) else ():
                if str(key).startswith("nvidia.com/"):
                    requests["gpus"] = True
                    if str(count).isdigit():
                        requests["count"] = int(str(count))
        if isinstance(entry.get("image"), str):
            container["image"] = entry["image"]
        for item in entry.get("env") or []:
            if isinstance(item, dict) and relevant(str(item.get("name"))) and item.get("value") is not None:
                place.env[str(item["name"])] = str(item["value"])


# --- the toolkit


@on(
    "NVIDIA Container Toolkit CLI version",
    "NVIDIA Container Runtime Hook version",
    "cli-version:",
    "NVIDIA Container Runtime version",
)
def _toolkit_version(reading: Reading, number: int, text: str, place: Place) -> None:
    match = re.match(
        r"^\s*(?:(?P<what>NVIDIA Container Toolkit CLI|NVIDIA Container Runtime Hook"
        r"|NVIDIA Container Runtime) version|cli-version:)\s+v?(?P<version>\d+\.\d+\.\d+["
        r"\w.~-]*)",
        text,
    )
    if match and reading.concerns_host(place):
        put(reading.stack, "container_runtime.toolkit.version", match.group("version"))
        program = {
            "NVIDIA Container Toolkit CLI": "nvidia-ctk",
            "NVIDIA Container Runtime Hook": "nvidia-container-runtime-hook",
            "NVIDIA Container Runtime": "nvidia-container-runtime",
        }.get(match.group("what") or "", "nvidia-container-cli")
        put(reading.stack, "container_runtime.toolkit.binaries." + program, program)


@on("CDI devices")
def _cdi_list(reading: Reading, number: int, text: str, place: Place) -> None:
    match = re.search(r"Found (\d+) CDI devices", text)
    if not match or not reading.concerns_host(place):
        return
    devices = []
    for line in reading.following(number, 64):
        name = re.match(r"^\s*([\w.-]+/[\w-]+=\S+)\s*$", line)
        if not name:
            break
        devices.append(name.group(1))
    if len(devices) == int(match.group(1)):
        reading.probes["cdi_list"] = {"ran": True, "devices": devices}


@on("Device Index:")
def _container_cli(reading: Reading, number: int, text: str, place: Place) -> None:
    """`nvidia-container-cli info`."""
    if not re.match(r"^\s*Device Index:\s+\d+", text) or not reading.concerns_host(place):
        return
    above = "\n".join(reading.texts[max(0, number - 8) : number])
    driver = re.search(r"NVRM version:\s+(\d{3}[\d.]*\d)", above)
    cuda = re.search(r"CUDA version:\s+(\d+\.\d+)", above)
    if driver:
        from .reader_host import _loaded

        _loaded(reading, driver.group(1), None)
        reading.probes["container_cli"] = {"ran": True, "rc": 0, "output": above.strip() + "\n" + text}
    if cuda:
        nvml = reading.stack.setdefault("driver", {}).setdefault("nvml", {})
        nvml.setdefault("cuda_version", cuda.group(1))
    block = list(reading.following(number, 8))
    devices = reading.list_at("driver.devices")
    device = row(devices, index=int(text.rpartition(":")[2]))
    for line in block:
        name, colon, value = line.partition(":")
        name, value = name.strip(), value.strip()
        if not colon or name == "Device Index":
            break
        if name == "Model":
            device["name"] = value
        elif name == "GPU UUID":
            device["uuid"] = value
        elif name == "Architecture" and re.match(r"^\d+\.\d$", value):
            device["compute_capability"] = value


_UNSATISFIED = re.compile(
    r"unsatisfied condition: (?P<expression>(?P<key>cuda|driver|brand|arch)\s*(?:>=|<=|=|<|>|!=)\s*[\w.]+)"
)


@on("unsatisfied condition:")
def _requirement(reading: Reading, number: int, text: str, place: Place) -> None:
    joined = " ".join([text, *reading.following(number, 1)])
    match = _UNSATISFIED.search(joined)
    if match:
        found = {
            "variable": "NVIDIA_REQUIRE_CUDA",
            "expression": match.group("expression"),
            "holds": False,
            "why": match.group(0),
        }
        reading.probes["requirements"] = [found]
        place.failing = True


# --- what the engine said about a container

_FAILED = (
    "Error response from daemon",
    "OCI runtime create failed",
    "could not select device driver",
    "unresolvable CDI",
    "nvidia-container-cli: ",
    "unknown or invalid runtime name",
    "Unknown runtime specified",
    "failed to create shim",
)


@on(*_FAILED)
def _engine_failed(reading: Reading, number: int, text: str, place: Place) -> None:
    place.failing = True


@on(" exited with code ")
def _exit_code(reading: Reading, number: int, text: str, place: Place) -> None:
    """Compose's word about a service."""
    match = re.match(r"^(?:Gracefully .*|\S+ )?exited with code (\d{1,3})$", text.strip()) or re.match(
        r"^([\w.-]+) exited with code (\d{1,3})(?: \(restarting\))?$", text.strip()
    )
    if match and place.inside:
        place.container["exit_code"] = int(match.group(match.lastindex or 1))


@on("The requested image's platform (")
def _platform(reading: Reading, number: int, text: str, place: Place) -> None:
    joined = " ".join([text, *reading.following(number, 1)])
    match = re.search(
        r"platform \(linux/(\w+)\S*\) does not match the detected host platform \(linux/(\w+)", joined
    )
    if match:
        put(reading.stack, "host.os.arch", match.group(2))
        target = place if place.inside else reading.transcript._container("\0platform")
        target.container["architecture"] = match.group(1)
        target.failing = True


@on("Docker Compose version ", "docker-compose version ", "Emulate Docker CLI using podman")
def _compose_version(reading: Reading, number: int, text: str, place: Place) -> None:
    match = re.search(r"(?:Docker Compose|docker-compose) version v?(\d+\.\d+(?:\.\d+)?)", text)
    if match:
        _docker(reading, "compose_version", match.group(1), place)
    elif "Emulate Docker CLI using podman" in text:
        _docker(reading, "podman", True, place)


@on("DOCKER_HOST=")
def _docker_host(reading: Reading, number: int, text: str, place: Place) -> None:
    match = re.match(r"^\s*(?:export )?DOCKER_HOST=[\"']?([a-z]+://[^\s\"']+)", text)
    if match:
        _docker(reading, "docker_host", match.group(1), place)


_STEP = re.compile(
    r"^(?:Step \d+/\d+ : RUN |#\d+ \[\S* ?\d+/\d+\] RUN | ?=> (?:ERROR "
    r"|CACHED )?\[\S* ?\d+/\d+\] RUN |> \[\S* ?\d+/\d+\] RUN )"
)


@on("] RUN ", " : RUN ")
def _build_step(reading: Reading, number: int, text: str, place: Place) -> None:
    if _STEP.match(text):
        target = place if place.inside else reading.transcript._container("\0build")
        target.container["build"] = True
        target.last = max(target.last, number)


@on("/dev/shm")
def _shm(reading: Reading, number: int, text: str, place: Place) -> None:
    match = re.match(r"^(?:shm|tmpfs|none)\s+(?P<size>[\d.]+)(?P<unit>[MG])\s.*%\s+/dev/shm$", text)
    if match and place.inside:
        place.container["shm_size_mib"] = int(
            float(match.group("size")) * (1024 if match.group("unit") == "G" else 1)
        )


@on('"OOMKilled": true')
def _oom(reading: Reading, number: int, text: str, place: Place) -> None:
    if place.inside:
        place.container["oom_killed"] = True


@on("Architecture: ", "architecture: ")
def _architecture(reading: Reading, number: int, text: str, place: Place) -> None:
    match = re.match(r"^\s*Architecture: (x86_64|aarch64|ppc64le)$", text)
    if match and reading.concerns_host(place):
        put(reading.stack, "host.os.arch", _ARCHS[match.group(1)])


# --- environment

_VARIABLE = re.compile(
    r"^\s*(?:export |set |declare -x |ENV )?[\"']?(?P<name>(?:CUDA|NVIDIA|LD|TF|XLA"
    r"|JAX|PYTORCH|NCCL)_[A-Z0-9_]+)=(?P<value>\S*|\"[^\"]*\"|'[^']*')[\"']?\s*$"
)


@on(
    "CUDA_VISIBLE_DEVICES",
    "NVIDIA_VISIBLE_DEVICES",
    "LD_LIBRARY_PATH",
    "NVIDIA_DRIVER_CAPABILITIES",
    "NVIDIA_REQUIRE_",
    "NVIDIA_DISABLE_REQUIRE",
    "LD_PRELOAD",
    "CUDA_HOME",
    "CUDA_VERSION",
    "CUDA_DEVICE_ORDER",
    "XLA_FLAGS",
    "JAX_PLATFORM",
    "TF_FORCE_GPU",
    "TF_CPP_MIN",
    "NVIDIA_PYTORCH_VERSION",
)
def _variable(reading: Reading, number: int, text: str, place: Place) -> None:
    """`NAME=value` on a line of its own: `env`, an export, a Dockerfile."""
    match = _VARIABLE.match(text)
    if match:
        value = match.group("value")
        if "$" in value:
            # What the other variable holds is not said.
            return
        reading.environ(match.group("name"), value.strip("\"'"), place)
        return
    tail = re.search(r"; LD_LIBRARY_PATH: (?P<value>\S*)\s*$", text)
    if tail:
        reading.environ("LD_LIBRARY_PATH", tail.group("value"), place)
        return
    script = re.match(
        r"^\W{0,4}(?:import os; ?)?os\.environ\[[\"'](?P<name>[A-Z_]+)[\"']\] ?= "
        r"?[\"'](?P<value>[^\"']*)[\"']",
        text,
    )
    if script:
        reading.environ(script.group("name"), script.group("value"), place)


@command("echo")
def _echo(reading: Reading, typed: Command, output: list[str]) -> None:
    match = re.match(r"^echo \"?\$\{?([A-Z_]+)\}?\"?$", typed.text)
    if not match:
        return
    lines = [line for line in output if line.strip()]
    if lines and len(lines[0]) < 500 and not lines[0].startswith(("bash:", "$")):
        reading.environ(match.group(1), lines[0].strip(), typed.output_in)


@command("export")
def _export(reading: Reading, typed: Command, output: list[str]) -> None:
    for word in typed.words[1:]:
        name, equals, value = word.partition("=")
        if equals and "$" not in value:
            reading.environ(name, value, typed.output_in)


@command("unset")
def _unset(reading: Reading, typed: Command, output: list[str]) -> None:
    for name in typed.words[1:]:
        typed.output_in.env.pop(name, None)
