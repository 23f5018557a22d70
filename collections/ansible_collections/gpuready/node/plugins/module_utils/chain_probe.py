"""Active probes of the way into a container: what is there, in it, and what the toolkit says. Runs on nodes.

Nothing is changed and nothing is pulled. A container that is started here has no network and is removed, also
when it hangs; in somebody else's container only a short script is run, which loads no framework and takes no
GPU memory. What the script starts ends with it: it has time limits of its own, and what outlives even those
is ended from outside by the marker on its command line.
"""

from __future__ import annotations

import json
import os
import pkgutil
import re
import signal
import subprocess
import threading
import time
import uuid
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

# Not to be run here: only what is imported travels to the node with a module, and its text is sent on.
from . import chain_python  # so that it is sent with this module
from .secrecy import without_secrets

MARKER = "GPUREADY-CHAIN"
PYTHON_MARKER = "GPUREADY-PYTHON"
MAX_OUTPUT = 400000
LOG_LINES = 200
LABEL = "gpuready.probe=true"

# Only what concerns the GPU, the loading of libraries and the framework: the rest may hold secrets.
ENVIRONMENT = re.compile(
    r"^(?:CUDA_\w+|CUDNN_\w+|NV_\w*VERSION|NVIDIA_\w+|LD_LIBRARY_PATH|LD_PRELOAD|PATH|PYTHONPATH|PYTHONHOME"
    r"|TF_\w+|TF2_\w+|XLA_\w+|JAX_\w+|PYTORCH_\w+|TORCH_\w+|NCCL_\w+|CONDA_PREFIX|CONDA_DEFAULT_ENV|VIRTUAL_ENV"
    r"|HIP_VISIBLE_DEVICES|ROCR_VISIBLE_DEVICES|GPU_DEVICE_ORDINAL|OMP_NUM_THREADS)$"
)
# The names that a shell is asked for one by one: it has no other way to name only these.
NAMES = (
    "CUDA_VISIBLE_DEVICES CUDA_DEVICE_ORDER CUDA_HOME CUDA_PATH CUDA_VERSION CUDA_MPS_PIPE_DIRECTORY "
    "CUDA_CACHE_DISABLE CUDA_DISABLE_PTX_JIT CUDA_FORCE_PTX_JIT CUDA_MODULE_LOADING NVIDIA_VISIBLE_DEVICES "
    "NVIDIA_DRIVER_CAPABILITIES NVIDIA_REQUIRE_CUDA NVIDIA_DISABLE_REQUIRE NVIDIA_MIG_CONFIG_DEVICES "
    "LD_LIBRARY_PATH LD_PRELOAD PATH PYTHONPATH PYTHONHOME TF_CPP_MIN_LOG_LEVEL TF_FORCE_GPU_ALLOW_GROWTH "
    "XLA_FLAGS JAX_PLATFORMS JAX_PLATFORM_NAME PYTORCH_CUDA_ALLOC_CONF PYTORCH_NVML_BASED_CUDA_CHECK "
    "CONDA_PREFIX CONDA_DEFAULT_ENV VIRTUAL_ENV HIP_VISIBLE_DEVICES ROCR_VISIBLE_DEVICES NCCL_DEBUG"
)

# For any shell that calls itself sh, in an image with nothing else in it. $0: a marker. $1: text for Python.
SCRIPT = r"""
say() { printf '%%s\n' "%(marker)s $*"; }
limited() {
  if command -v timeout >/dev/null 2>&1 && timeout 1 true 2>/dev/null; then timeout 15 "$@"; else "$@"; fi
}
say begin
for name in %(names)s; do
  eval "there=\${$name+x}; value=\${$name-}"
  if [ -n "$there" ]; then say env "$name=$value"; fi
done
for path in /dev/nvidia[0-9]* /dev/nvidiactl /dev/nvidia-uvm /dev/nvidia-uvm-tools /dev/nvidia-modeset \
  /dev/dxg; do
  [ -e "$path" ] || continue
  if said=$( { true <"$path"; } 2>&1 ); then say device "$path" ok; else say device "$path" "$said"; fi
done
say devices
if [ -e /proc/driver/nvidia/version ]; then
  IFS= read -r line </proc/driver/nvidia/version
  say driver "$line"
else
  say no_driver
fi
for tool in ldconfig /sbin/ldconfig /usr/sbin/ldconfig; do
  if command -v "$tool" >/dev/null 2>&1; then
    "$tool" -p 2>/dev/null | while IFS= read -r line; do
      case $line in *libcuda.so*|*libnvidia-ml.so*|*libcudnn.so*|*libcudart.so*) say library "$line" ;; esac
    done
    say ldconfig
    break
  fi
done
before=$IFS
IFS=:
real=
for folder in ${LD_LIBRARY_PATH-}; do
  if [ -n "$folder" ] && [ -e "$folder/libcuda.so.1" ]; then
    real=$(readlink -f "$folder/libcuda.so.1" 2>/dev/null)
    real=${real:-$folder/libcuda.so.1}
    break
  fi
done
IFS=$before
if [ -n "$real" ]; then say on_path "$real"; fi
for folder in /usr/lib/x86_64-linux-gnu /usr/lib/aarch64-linux-gnu /usr/lib64 /usr/lib/wsl/lib /usr/lib; do
  if [ -e "$folder/libcuda.so.1" ]; then
    say by_default "$folder/libcuda.so.1" "$(readlink -f "$folder/libcuda.so.1" 2>/dev/null)"
    break
  fi
done
if command -v nvidia-smi >/dev/null 2>&1; then
  said=$(limited nvidia-smi --query-gpu=driver_version,name --format=csv,noheader 2>&1)
  say smi $?
  printf '%%s\n' "$said" | while IFS= read -r line; do say smi_line "$line"; done
else
  say no_smi
fi
for python in python3 python /opt/conda/bin/python /usr/local/bin/python3 /opt/venv/bin/python; do
  if command -v "$python" >/dev/null 2>&1; then
    say python "$python"
    PYTHONDONTWRITEBYTECODE=1 "$python" -c "$1" 2>/dev/null
    break
  fi
done
say end
exit 0
""" % {"marker": MARKER, "names": NAMES}

_DRIVER_VERSION = re.compile(r"Kernel Module\b.*?\s(\d+\.\d+(?:\.\d+)*)\b")
_SONAME_VERSION = re.compile(r"\.so\.(\d+\.\d+(?:\.\d+)*)$")
_LDCONFIG = re.compile(r"^\s*(\S+)\s+\(([^)]*)\)\s+=>\s+(\S+)$")
_TELLING = re.compile(
    r"cuda|cudnn|cublas|nvidia|nvml|nccl|\bgpus?\b|tensorflow|torch|\bjax|xla|onnx|libcu|dlopen|cuInit|driver"
    r"|out of memory|OOM|\bkilled\b|\berror\b|exception|traceback|warning|no space|permission denied",
    re.I,
)
_NO_SHELL = re.compile(r"exec: \"sh\": (?:executable file not found|stat sh: no such file)")


class Answer(NamedTuple):
    """What a program said; rc is null when it was ended for taking too long."""

    rc: Optional[int]
    out: str
    err: str


Run = Callable[[Sequence[str], float], Answer]


def run(argv: Sequence[str], timeout: float) -> Answer:
    """Run a program with a time limit and English messages."""
    environment = dict(os.environ, LC_ALL="C", LANGUAGE="")
    process = subprocess.Popen(
        list(argv), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    )
    code: Optional[int]
    try:
        out, err = process.communicate(timeout=timeout)
        code = process.returncode
    except subprocess.TimeoutExpired:
        process.kill()
        try:
            out, err = process.communicate(timeout=5)
        except subprocess.TimeoutExpired:
            # A child of it keeps the pipe open, or it hangs in the kernel: it is not waited for.
            out, err = b"", b""
        code = None
    return Answer(
        code, out.decode("utf-8", "replace")[-MAX_OUTPUT:], err.decode("utf-8", "replace")[-MAX_OUTPUT:]
    )


def python_text() -> str:
    """The text that the container's own Python runs."""
    package, _dot, name = chain_python.__name__.rpartition(".")
    data = pkgutil.get_data(package, name + ".py")
    if data is None:
        raise RuntimeError("chain_python.py did not come with the module")
    return data.decode("utf-8")


def tail(text: str, lines: int = LOG_LINES) -> str:
    return "\n".join(without_secrets(line[:2000]) for line in text.rstrip().splitlines()[-lines:])


def telling(text: str, lines: int = LOG_LINES) -> str:
    """The end of what somebody's program wrote, and of that only the lines that concern a GPU or an error."""
    return tail("\n".join(line for line in text.splitlines() if _TELLING.search(line)), lines)


def environment_of(pairs: Optional[Sequence[str]]) -> Dict[str, str]:
    found = {}
    for pair in pairs or []:
        name, equals, value = str(pair).partition("=")
        if equals and ENVIRONMENT.match(name):
            found[name] = value
    return found


# -- what the script answers -----------------------------------------------------------------------


def access(said: str) -> str:
    """A shell's words about a file that it could not open."""
    lower = said.lower()
    if "operation not permitted" in lower:
        return "denied"  # EPERM is the device cgroup's answer
    if "permission denied" in lower:
        return "no_permission"  # EACCES is the file's mode, or a security module's
    if "no such file" in lower or "nonexistent" in lower:
        return "missing"
    if "no such device" in lower:
        return "no_driver"  # nobody answers under these numbers
    return "ok"  # it is there and may be opened: busy, or not to be read


def library_kind(path: str) -> str:
    """driver, stub or compat: whose libcuda it is, by where it lies."""
    if "/stubs/" in path or path.endswith("-stub.so"):
        return "stub"
    return "compat" if re.search(r"/compat(?:[-_/]|$)|/cuda-compat", path) else "driver"


def library_facts(path: str) -> Dict[str, Any]:
    match = _SONAME_VERSION.search(path)
    return {"path": path, "version": match.group(1) if match else None, "kind": library_kind(path)}


def parse(out: str) -> Dict[str, Any]:
    """The script's lines as facts of a container. What it did not come to is null."""
    said: Dict[str, List[str]] = {}
    python: Dict[str, Any] = {}
    for line in out.splitlines():
        if line.startswith(MARKER + " "):
            key, _space, rest = line[len(MARKER) + 1 :].partition(" ")
            said.setdefault(key, []).append(rest)
        elif line.startswith(PYTHON_MARKER + " "):
            _marker, key, text = [*line.split(" ", 2), "", ""][:3]
            try:
                python[key] = json.loads(text)
            except ValueError:
                continue
    facts: Dict[str, Any] = {
        "env": {},
        "device_nodes": None,
        "device_access": None,
        "proc_driver_version": None,
        "libcuda": None,
        "nvidia_smi": None,
        "cuda_init": None,
        "ended": "end" in said,
    }
    for pair in said.get("env", []):
        name, _equals, value = pair.partition("=")
        facts["env"][name] = value
    if "devices" in said:
        rows = [row.partition(" ") for row in said.get("device", [])]
        facts["device_nodes"] = [path for path, _space, _said in rows]
        facts["device_access"] = {path: "ok" if word == "ok" else access(word) for path, _space, word in rows}
        for path in ("/dev/nvidiactl", "/dev/nvidia-uvm"):
            facts["device_access"].setdefault(path, "missing")
    if "no_driver" in said:
        facts["proc_driver_version"] = False
    elif "driver" in said:
        match = _DRIVER_VERSION.search(said["driver"][0])
        facts["proc_driver_version"] = match.group(1) if match else said["driver"][0].strip() or None
    facts["libcuda"] = _libcuda(said, python.get("cuda"))
    facts["cuda_init"] = _cuda_init(python.get("cuda"))
    if "smi" in said:
        facts["nvidia_smi"] = _nvidia_smi(said)
    elif "no_smi" in said:
        facts["nvidia_smi"] = {"found": False, "ok": None, "error": None, "driver_version": None}
    facts["python"] = python.get("survey")
    return facts


def _libcuda(said: Dict[str, List[str]], opened: Any) -> Any:
    """What dlopen takes by its own word, else what it would take: false where there is none."""
    if isinstance(opened, dict) and opened.get("path"):
        return library_facts(str(opened["path"]))
    for path in said.get("on_path", []):
        return library_facts(path)
    cached = [match.group(3) for match in map(_LDCONFIG.match, said.get("library", [])) if match]
    for row in said.get("library", []):
        match = _LDCONFIG.match(row)
        if match and match.group(1) == "libcuda.so.1" and ("x86-64" in row or "AArch64" in row):
            real = next(
                (
                    r
                    for path, _s, r in (x.partition(" ") for x in said.get("by_default", []))
                    if path == match.group(3)
                ),
                "",
            )
            return library_facts(real or match.group(3))
    for row in said.get("by_default", []):
        path, _space, real = row.partition(" ")
        return library_facts(real or path)
    nowhere = isinstance(opened, dict) or "ldconfig" in said or "end" in said
    return False if (nowhere and not cached) or isinstance(opened, dict) else None


def _cuda_init(opened: Any) -> Optional[Dict[str, Any]]:
    if not isinstance(opened, dict):
        return None
    code, name = opened.get("code"), opened.get("name")
    error = opened.get("error")
    if code:
        error = "failed call to cuInit: %s" % (name or "error %s" % code)
    return {
        "code": code,
        "name": name,
        "error": error,
        "api": opened.get("api"),
        "devices": opened.get("devices"),
    }


def _nvidia_smi(said: Dict[str, List[str]]) -> Dict[str, Any]:
    lines = [line.strip() for line in said.get("smi_line", []) if line.strip()]
    ok = said["smi"][0].strip() == "0" and bool(lines) and "No devices were found" not in lines[0]
    versions = [
        match.group(1) for match in (re.match(r"^(\d{3,4}\.[\d.]+),", line) for line in lines) if match
    ]
    return {
        "found": True,
        "ok": ok,
        "error": None if ok else "\n".join(lines)[:2000] or "exit status %s" % said["smi"][0],
        "driver_version": versions[0] if versions else None,
        "gpus": len(versions) if ok else None,
    }


#: Our names for frameworks, and the packages that bring them.
FRAMEWORKS = (
    (
        "tensorflow",
        re.compile(r"^(?:intel-)?tensorflow(?:-gpu|-cpu|-intel|-rocm|-cpu-aws)?$|^tf-nightly(?:-gpu|-cpu)?$"),
    ),
    ("pytorch", re.compile(r"^torch$")),
    ("jax", re.compile(r"^jaxlib$")),
    ("onnxruntime", re.compile(r"^onnxruntime(?:-gpu|-training|-openvino)?$")),
)


def framework_facts(survey: Any, preferred: Optional[str] = None) -> Optional[Dict[str, Any]]:
    """The framework in a container: a running process's, else the preferred one, else the first there is."""
    if not isinstance(survey, dict):
        return None
    pythons = [row for row in survey.get("pythons") or [] if isinstance(row, dict)]
    running = [row for row in survey.get("processes") or [] if isinstance(row, dict)]
    choices: List[Tuple[int, int, str, Dict[str, Any], Optional[Dict[str, Any]]]] = []
    for at, python in enumerate(pythons):
        users = [row for row in running if row.get("executable") == python.get("executable")]
        for order, (name, pattern) in enumerate(FRAMEWORKS):
            if not any(map(pattern.match, python.get("packages") or {})) and name not in (
                python.get("builds") or {}
            ):
                continue
            using = [row for row in users if name in (row.get("frameworks") or [])]
            kernel = [row for row in users if row.get("kernel")]
            rank = 0 if using else 1 if kernel else 2 if name == preferred else 3 if users else 4
            choices.append((rank, at * 10 + order, name, python, next(iter(using or kernel or users), None)))
    if not choices:
        first = pythons[0] if pythons else {}
        return _framework(None, first, None, pythons, survey) if first.get("packages") else None
    _rank, _at, name, python, process = min(choices, key=lambda row: row[:2])
    return _framework(name, python, process, pythons, survey)


def _framework(
    name: Optional[str],
    python: Dict[str, Any],
    process: Optional[Dict[str, Any]],
    pythons: Sequence[Dict[str, Any]],
    survey: Dict[str, Any],
) -> Dict[str, Any]:
    packages = python.get("packages") or {}
    build = (python.get("builds") or {}).get(name) or {}
    pattern = dict(FRAMEWORKS).get(name or "")
    versions = [
        version for package, version in sorted(packages.items()) if pattern and pattern.match(package)
    ]
    looked = survey.get("libraries") or {} if name == "tensorflow" else {}
    loaded = (process or {}).get("libraries") or {}
    cuda = build.get("cuda")
    if name == "jax" and cuda is None:
        plugin = [re.match(r"^jax-cuda(\d+)-(?:plugin|pjrt)$", package) for package in packages]
        local = re.search(r"\+cuda(\d+)", (versions or [""])[0])
        numbers = [match.group(1) for match in (*plugin, local) if match]
        cuda = numbers[0] if numbers else None
    cudnn = next((path for key, path in looked.items() if key.startswith("libcudnn.") and path), None)
    return {
        "place": "container",
        "name": name,
        "version": build.get("version") or (versions[0] if versions else None),
        "cuda": cuda,
        "cuda_loaded": _library_version(loaded.get("libcudart")),
        "cudnn": build.get("cudnn"),
        "cudnn_loaded": _library_version(loaded.get("libcudnn") or cudnn) or _wheel_cudnn(packages),
        "archs": build.get("archs") or None,
        "available": None,
        "gpus_listed": None,
        "libraries_missing": sorted(key for key, path in looked.items() if not path) if looked else None,
        "rocm": build.get("rocm"),
        "python": {
            "version": python.get("version"),
            "executable": python.get("executable"),
            "environment": python.get("environment"),
            "kernel": python.get("kernel"),
        },
        "packages": packages,
        # Everywhere in the container that a framework lies: the notebook's kernel may be another Python.
        "pythons": _pythons(pythons),
    }


def _pythons(pythons: Sequence[Dict[str, Any]]) -> List[Dict[str, Any]]:
    """A row for each Python and each framework in it."""
    rows = []
    for python in pythons:
        found = python.get("packages") or {}
        for name, pattern in FRAMEWORKS:
            version = next((found[key] for key in sorted(found) if pattern.match(key)), None)
            build = (python.get("builds") or {}).get(name) or {}
            if version or build:
                rows.append(
                    {
                        "executable": python.get("executable"),
                        "kernel": python.get("kernel"),
                        "source": python.get("source"),
                        "name": name,
                        "version": build.get("version") or version,
                        "cuda": build.get("cuda"),
                        "available": None,
                    }
                )
    return rows


def _library_version(path: Optional[str]) -> Optional[str]:
    match = _SONAME_VERSION.search(path or "")
    return match.group(1) if match else None


def _wheel_cudnn(packages: Dict[str, str]) -> Optional[str]:
    found = [version for name, version in sorted(packages.items()) if re.match(r"^nvidia-cudnn-cu\d+$", name)]
    # 8.9.2.26 is cuDNN 8.9.2: the fourth number counts wheels.
    return ".".join(found[0].split(".")[:3]) if found else None


# -- Docker ----------------------------------------------------------------------------------------


def requests_of(inspected: Dict[str, Any], default_runtime: Optional[str] = None) -> Dict[str, Any]:
    """What a container asked for: `docker inspect`'s HostConfig in the words of the contract."""
    host = inspected.get("HostConfig") or {}
    gpus = False
    count = None
    device_ids: Optional[List[str]] = None
    cdi: List[str] = []
    for request in host.get("DeviceRequests") or []:
        names = [str(name) for name in request.get("DeviceIDs") or []]
        qualified = [name for name in names if re.match(r"^[\w.-]+/[\w.-]+=", name)]
        cdi += qualified
        capabilities = {str(name) for group in request.get("Capabilities") or [] for name in group}
        if qualified or not (request.get("Driver") == "nvidia" or capabilities & {"gpu", "nvidia"}):
            continue
        gpus = True
        device_ids = names or device_ids
        if isinstance(request.get("Count"), int) and request["Count"] and not names:
            count = request["Count"]
    runtime = host.get("Runtime") or None
    shared = host.get("ShmSize")
    return {
        "gpus": gpus,
        "runtime": None if runtime == default_runtime else runtime,
        "cdi_devices": cdi,
        "devices": [str(row.get("PathOnHost")) for row in host.get("Devices") or [] if isinstance(row, dict)],
        "privileged": bool(host.get("Privileged")),
        "count": count,  # -1: all
        "device_ids": device_ids,
        "shm_size_mib": shared // (1 << 20) if isinstance(shared, int) and shared else None,
    }


def container_facts(inspected: Dict[str, Any], default_runtime: Optional[str] = None) -> Dict[str, Any]:
    """`docker inspect` of a container, as far as it concerns the GPU."""
    state, config = inspected.get("State") or {}, inspected.get("Config") or {}
    limit = (inspected.get("HostConfig") or {}).get("Memory") or 0
    # One that starts again and again is "running" to Docker, and cannot be entered.
    running = bool(state.get("Running")) and not state.get("Restarting")
    requests = requests_of(inspected, default_runtime)
    return {
        "name": str(inspected.get("Name") or "").lstrip("/") or None,
        "image": config.get("Image"),
        "architecture": None,
        "running": running,
        "compose": "com.docker.compose.project" in (config.get("Labels") or {}),
        "way": "docker",
        "requests": requests,
        "shm_size_mib": requests["shm_size_mib"],
        "env": environment_of(config.get("Env")),
        "memory_limit_mib": limit // (1 << 20) or None,
        "exit_code": None if running else state.get("ExitCode"),
        "oom_killed": state.get("OOMKilled"),
        "error": state.get("Error") or None,
        "started_at": state.get("StartedAt"),
        "log": "",
    }


def end_marked(marker: str, proc: str = "/proc") -> List[int]:
    """End what carries the marker on its command line, with everything that it started."""
    children: Dict[int, List[int]] = {}
    marked = []
    for name in os.listdir(proc):
        if not name.isdigit():
            continue
        pid = int(name)
        try:
            with open("%s/%s/stat" % (proc, name), encoding="utf-8", errors="replace") as handle:
                parent = int(handle.read().rpartition(")")[2].split()[1])
            with open("%s/%s/cmdline" % (proc, name), "rb") as binary:
                words = binary.read().split(b"\0")
        except (OSError, ValueError, IndexError):
            continue  # it has ended meanwhile
        children.setdefault(parent, []).append(pid)
        # The script's own name, and not this module or a docker client that passes it on.
        if marker.encode() in words and os.path.basename(words[0]) not in (b"docker", b"podman"):
            marked.append(pid)
    ended: List[int] = []
    while marked:
        pid = marked.pop()
        if pid in ended or pid == os.getpid():
            continue
        marked += children.get(pid, [])
        try:
            os.kill(pid, signal.SIGKILL)
            ended.append(pid)
        except (ProcessLookupError, PermissionError):
            continue
    return ended


class Prober:
    """Asks Docker and the toolkit on this node."""

    def __init__(
        self,
        docker: Optional[str],
        tools: Dict[str, Optional[str]],
        timeout: float = 30.0,
        runner: Run = run,
        end: Callable[[str], List[int]] = end_marked,
        python: Optional[str] = None,
    ) -> None:
        self.docker = docker
        self.tools = tools
        self.timeout = timeout
        self._run = runner
        self._end = end
        self._python = python_text() if python is None else python
        self._short = min(timeout, 10.0)

    # docker ------------------------------------------------------------------------------------------

    def _inspect(self, kind: str, name: str) -> Tuple[Optional[Dict[str, Any]], Optional[str]]:
        answer = self._run([str(self.docker), kind, "inspect", name], self._short)
        if answer.rc == 0:
            try:
                return json.loads(answer.out)[0], None
            except (ValueError, IndexError, KeyError):
                return None, "docker %s inspect %s did not answer with JSON" % (kind, name)
        return None, answer.err.strip() or self._silent("docker %s inspect" % kind, answer)

    def _silent(self, what: str, answer: Answer) -> str:
        if answer.rc is None:
            return "%s did not answer in time" % what
        return "%s ended with %d" % (what, answer.rc)

    def default_runtime(self) -> Optional[str]:
        answer = self._run([str(self.docker), "info", "--format", "{{.DefaultRuntime}}"], self._short)
        return answer.out.strip() or None if answer.rc == 0 else None

    def names(self) -> List[str]:
        answer = self._run([str(self.docker), "ps", "--all", "--format", "{{.Names}}"], self._short)
        return answer.out.split() if answer.rc == 0 else []

    def image(self, image: str, launch: Sequence[str] = ()) -> Dict[str, Any]:
        """The script in a container of its own, made from an image and removed again."""
        facts: Dict[str, Any] = {"ran": False, "exit_code": None, "error": None, "image": image}
        if self.docker is None:
            return dict(facts, error="there is no docker command on the node")
        inspected, error = self._inspect("image", image)
        if inspected is None:
            return dict(facts, error=error)
        marker = "gpuready-%s" % uuid.uuid4().hex[:16]
        command = [self.docker, "run", "--rm", "--name", marker, "--label", LABEL, "--pull", "never"]
        command += [
            "--network",
            "none",
            *launch,
            "--entrypoint",
            "sh",
            image,
            "-c",
            SCRIPT,
            marker,
            self._python,
        ]
        begun = time.monotonic()
        answer = self._run(command, self.timeout)
        if answer.rc is None:
            # The client's end is not the container's.
            self._run([self.docker, "rm", "--force", marker], self._short)
        found = parse(answer.out)
        environment = environment_of((inspected.get("Config") or {}).get("Env"))
        environment.update(found.pop("env"))
        survey = found.pop("python")
        ran = MARKER + " begin" in answer.out
        said = answer.err.strip()[-4000:] or self._silent("docker run", answer)
        # An image without a shell is no fault; it only cannot be looked into.
        no_shell = not ran and _NO_SHELL.search(said) is not None
        facts.update(
            found,
            env=environment,
            ran=ran,
            running=False,
            architecture=inspected.get("Architecture"),
            way="docker",
            compose=False,
            requests=launched(launch),
            exit_code=answer.rc,
            error=None if ran or no_shell else said,
            probed=ran,
            probe_error=said if no_shell else None,
            timed_out=answer.rc is None,
            log="" if no_shell else tail(answer.err),
            seconds=round(time.monotonic() - begun, 3),
            memory_limit_mib=None,
            oom_killed=None,
        )
        facts["framework"] = framework_facts(survey)
        return facts

    def container(self, name: str) -> Dict[str, Any]:
        """Somebody's own container: how it was made, and the script in it where it runs."""
        if self.docker is None:
            return {"missing": True, "unknown": False, "error": "there is no docker command on the node"}
        inspected, error = self._inspect("container", name)
        if inspected is None:
            unknown = "no such container" in (error or "").lower()
            return {
                "missing": True,
                "unknown": unknown,
                "error": error,
                "names": self.names() if unknown else [],
            }
        facts = container_facts(inspected, self.default_runtime())
        image, _error = self._inspect("image", str(inspected.get("Image")))
        facts["architecture"] = (image or {}).get("Architecture")
        facts["image_env"] = environment_of(((image or {}).get("Config") or {}).get("Env"))
        written = self._run(
            [self.docker, "logs", "--tail", "2000", str(inspected.get("Id") or name)], self._short
        )
        facts["log"] = telling(written.out + "\n" + written.err)
        facts["framework"] = None
        facts["probed"] = None
        if facts["running"]:
            facts.update(self._enter(str(inspected.get("Id") or name), facts))
        return facts

    def _enter(self, identifier: str, facts: Dict[str, Any]) -> Dict[str, Any]:
        marker = "gpuready-%s" % uuid.uuid4().hex[:16]
        command = [str(self.docker), "exec", identifier, "sh", "-c", SCRIPT, marker, self._python]
        answer = self._run(command, self.timeout)
        if answer.rc is None:
            # The client's end is not that of what it started in the container.
            self._end(marker)
        if MARKER + " begin" not in answer.out:
            said = answer.err.strip()[-2000:] or answer.out.strip()[-2000:]
            return {"probed": False, "probe_error": said or self._silent("docker exec", answer)}
        found = parse(answer.out)
        survey = found.pop("python")
        environment = dict(facts["env"])
        environment.update(found.pop("env"))
        framework = framework_facts(survey)
        # What the program itself was started with beats what a new shell in the container gets.
        executable = ((framework or {}).get("python") or {}).get("executable")
        for row in (survey or {}).get("processes") or []:
            if row.get("executable") == executable and (row.get("frameworks") or row.get("kernel")):
                environment.update(environment_of(["%s=%s" % pair for pair in row["environ"].items()]))
                opened = (row.get("libraries") or {}).get("libcuda")
                if opened:
                    found["libcuda"] = library_facts(opened)
                break
        return dict(found, env=environment, framework=framework, probed=True)

    # the toolkit -------------------------------------------------------------------------------------

    def container_cli(self) -> Dict[str, Any]:
        """What the legacy way sees of the driver. Without -k: that would load modules, and hide a fault."""
        tool = self.tools.get("nvidia-container-cli")
        if not tool:
            return {"ran": False, "rc": None, "output": None}
        answer = self._run([tool, "--debug=/dev/stderr", "info"], self.timeout)
        return {"ran": True, "rc": answer.rc, "output": tail(answer.out + "\n" + answer.err, 80)}

    def cdi_list(self) -> Dict[str, Any]:
        tool = self.tools.get("nvidia-ctk")
        if not tool:
            return {"ran": False, "rc": None, "devices": None, "output": None}
        answer = self._run([tool, "cdi", "list"], self._short)
        devices = [line.strip() for line in answer.out.splitlines() if re.match(r"^\s*\S+/\S+=\S+\s*$", line)]
        return {
            "ran": True,
            "rc": answer.rc,
            "devices": devices if answer.rc == 0 else None,
            "output": tail(answer.err, 20),
        }


def launched(launch: Sequence[str]) -> Dict[str, Any]:
    """The requests that arguments of `docker run` make (only those that a plan gives)."""
    words = list(launch)
    devices = [words[at + 1] for at, word in enumerate(words[:-1]) if word == "--device"]
    runtime = [word.partition("=")[2] for word in words if word.startswith("--runtime=")]
    gpus = "--gpus" in words
    return {
        "gpus": gpus,
        "runtime": runtime[0] if runtime else None,
        "cdi_devices": [name for name in devices if "=" in name],
        "devices": [name for name in devices if "=" not in name],
        "privileged": False,
        "count": -1 if gpus else None,
        "device_ids": None,
        "shm_size_mib": None,
    }


def probe(
    prober: Prober, container: Optional[str] = None, image: Optional[str] = None, launch: Sequence[str] = ()
) -> Dict[str, Any]:
    """All questions at the same time; what was not asked for is null."""
    questions: Dict[str, Callable[[], Any]] = {
        "container_cli": prober.container_cli,
        "cdi_list": prober.cdi_list,
    }
    if container:
        questions["container"] = lambda: prober.container(container)
    if image:
        questions["with_gpu"] = lambda: prober.image(image, launch)
        questions["without_gpu"] = lambda: prober.image(image)
    answers: Dict[str, Any] = dict.fromkeys(("container", "with_gpu", "without_gpu"))
    problems: List[Dict[str, str]] = []

    def ask(name: str, question: Callable[[], Any]) -> None:
        try:
            answers[name] = question()
        except Exception as error:  # one probe that fails must not take the others with it
            problems.append({"probe": name, "error": "%s: %s" % (type(error).__name__, error)})

    threads = [
        threading.Thread(target=ask, args=(name, question), daemon=True)
        for name, question in questions.items()
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        # Every question has a time limit; this one is for what hangs in the kernel nevertheless.
        thread.join(prober.timeout * 3 + 30)
    return dict(
        {name: answers.get(name) for name in (*questions, "container", "with_gpu", "without_gpu")},
        problems=problems,
    )
