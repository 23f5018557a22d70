"""SIMULATED NVIDIA Container Toolkit: what its programs share. packages.py puts this file in front of each
program, so that every program is one file, as in the real packages.

The programs follow the real toolkit's command lines, files and messages. What they do is real: they read and
write the same files, bind-mount driver files into containers and open their device cgroups.
"""

import ctypes
import json
import os
import re
import subprocess
import sys
import time
from typing import Any

VERSION = "@VERSION@"
COMMIT = "@COMMIT@"
JIT_CDI = tuple(int(part) for part in VERSION.split(".")[:2] if part.isdigit()) >= (1, 18)
CONFIG_FILE = "/etc/nvidia-container-runtime/config.toml"
CDI_DIRS = ["/etc/cdi", "/var/run/cdi"]
STARTED = time.time()


# ---------------------------------------------------------------- logging, as logrus prints


class Log:
    quiet = False
    debug_on = False

    @classmethod
    def _emit(cls, level, message):
        if cls.quiet and level != "error":
            return
        if sys.stderr.isatty():
            name = {"warning": "WARN", "error": "ERRO"}.get(level, level.upper())
            colour = {"warning": 33, "error": 31, "debug": 37}.get(level, 36)
            line = f"\x1b[{colour}m{name}\x1b[0m[{int(time.time() - STARTED):04d}] {message:44} "
        else:
            zone = time.strftime("%z")
            stamp = time.strftime("%Y-%m-%dT%H:%M:%S") + (
                zone[:3] + ":" + zone[3:] if zone != "+0000" else "Z"
            )
            line = f"time={json.dumps(stamp)} level={level} msg={json.dumps(message)}"
        print(line, file=sys.stderr, flush=True)

    @classmethod
    def debug(cls, message):
        if cls.debug_on:
            cls._emit("debug", message)

    @classmethod
    def info(cls, message):
        cls._emit("info", message)

    @classmethod
    def warning(cls, message):
        cls._emit("warning", message)

    @classmethod
    def error(cls, message):
        cls._emit("error", message)


class Failure(Exception):
    """The message with which the real program ends."""


def version_text(name, *more):
    return "\n".join([f"{name} version {VERSION}", "commit: " + COMMIT, *more])


# ---------------------------------------------------------------- config.toml


def default_ldconfig():
    return "@/sbin/ldconfig.real" if os.path.exists("/sbin/ldconfig.real") else "@/sbin/ldconfig"


def default_config():
    """Tables of the default configuration; the values of COMMENTED are written as comments."""
    cdi = {
        "annotation-prefixes": ["cdi.k8s.io/"],
        "default-kind": "nvidia.com/gpu",
        "spec-dirs": list(CDI_DIRS),
    }
    tables: dict[str, dict[str, Any]] = {
        "": {
            "disable-require": False,
            "supported-driver-capabilities": "compat32,compute,display,graphics,ngx,utility,video",
        },
        "nvidia-container-cli": {"environment": [], "ldconfig": default_ldconfig(), "load-kmods": True},
        "nvidia-container-runtime": {"log-level": "info", "mode": "auto", "runtimes": ["runc", "crun"]},
        "nvidia-container-runtime.modes.cdi": cdi,
        "nvidia-container-runtime.modes.csv": {
            "mount-spec-path": "/etc/nvidia-container-runtime/host-files-for-container.d"
        },
        "nvidia-container-runtime.modes.legacy": {"cuda-compat-mode": "ldconfig"},
        "nvidia-container-runtime-hook": {
            "path": "nvidia-container-runtime-hook",
            "skip-mode-detection": False,
        },
        "nvidia-ctk": {"path": "nvidia-ctk"},
    }
    if JIT_CDI:
        tables["nvidia-container-runtime.modes.jit-cdi"] = {
            "load-kernel-modules": ["nvidia", "nvidia-uvm", "nvidia-modeset"]
        }
    return tables


COMMENTED: "dict[str, dict[str, Any]]" = {
    "": {
        "accept-nvidia-visible-devices-as-volume-mounts": False,
        "accept-nvidia-visible-devices-envvar-when-unprivileged": True,
        "swarm-resource": "DOCKER_RESOURCE_GPU",
    },
    "nvidia-container-cli": {
        "debug": "/var/log/nvidia-container-toolkit.log",
        "ldcache": "/etc/ld.so.cache",
        "no-cgroups": False,
        "path": "/usr/bin/nvidia-container-cli",
        "root": "/run/nvidia/driver",
        "user": "root:video",
    },
    "nvidia-container-runtime": {"debug": "/var/log/nvidia-container-runtime.log"},
}


def parse_toml(text):
    """The part of TOML that this configuration uses: tables of strings, booleans, numbers and lists."""
    tables: dict[str, dict[str, Any]] = {"": {}}
    table = ""
    pending = ""
    for number, line in enumerate(text.splitlines(), 1):
        line = (pending + " " + line.strip()).strip() if pending else line.strip()
        pending = ""
        if not line or line.startswith("#"):
            continue
        if line.startswith("["):
            table = line.strip("[] ")
            tables.setdefault(table, {})
            continue
        key, sign, value = line.partition("=")
        if not sign:
            raise Failure(f"({number}, 1): was expecting token =, but got EOF instead")
        value = value.strip()
        if value.startswith("[") and not value.rstrip().endswith("]"):
            pending = line
            continue
        name, target = key.strip().strip('"'), table
        if "." in name and not table:
            target, _, name = name.rpartition(".")
        try:
            parsed = (
                json.loads(re.sub(r",\s*\]", "]", value)) if not value.startswith("'") else value.strip("'")
            )
        except ValueError:
            raise Failure(f"({number}, {len(key) + 3}): invalid value {value}") from None
        tables.setdefault(target, {})[name] = parsed
    return tables


def dump_toml(tables):
    def text(value):
        return json.dumps(value)

    names = set(tables) | set(COMMENTED)
    for name in list(names):  # parent tables appear, even when they are empty
        while "." in name:
            name = name.rpartition(".")[0]
            names.add(name)
    lines = []
    for name in sorted(names):
        if name:
            lines += ["", f"[{name}]"]
        values = tables.get(name, {})
        comments = {key: value for key, value in COMMENTED.get(name, {}).items() if key not in values}
        for key in sorted(set(values) | set(comments)):
            lines.append(
                f"#{key} = {text(comments[key])}" if key in comments else f"{key} = {text(values[key])}"
            )
    return "\n".join(lines).lstrip("\n") + "\n"


def load_tables(path=CONFIG_FILE):
    """Defaults, with what the file says laid over them."""
    tables = default_config()
    try:
        with open(path, encoding="utf-8") as stream:
            found = parse_toml(stream.read())
    except FileNotFoundError:
        return tables
    for name, values in found.items():
        tables.setdefault(name, {}).update(values)
    return tables


# ---------------------------------------------------------------- NVML


class NvmlError(Failure):
    def __init__(self, code, text):
        super().__init__(text)
        self.code = code


class Nvml:
    """Enough of NVML to know the driver and its GPUs."""

    def __init__(self, name="libnvidia-ml.so.1"):
        try:
            self.library = ctypes.CDLL(name)
        except OSError as error:
            raise NvmlError(12, str(error)) from None
        self.library.nvmlErrorString.restype = ctypes.c_char_p
        self.call("nvmlInit_v2")

    def call(self, function, *arguments):
        code = getattr(self.library, function)(*arguments)
        if code:
            raise NvmlError(code, self.library.nvmlErrorString(code).decode())

    def text(self, function, *arguments):
        buffer = ctypes.create_string_buffer(96)
        self.call(function, *arguments, buffer, ctypes.c_uint(96))
        return buffer.value.decode()

    def number(self, function, *arguments):
        value = ctypes.c_uint()
        self.call(function, *arguments, ctypes.byref(value))
        return value.value

    def driver_version(self):
        return self.text("nvmlSystemGetDriverVersion")

    def cuda_version(self):
        value = self.number("nvmlSystemGetCudaDriverVersion")
        return f"{value // 1000}.{value % 100 // 10}"

    def gpus(self):
        found = []
        for index in range(self.number("nvmlDeviceGetCount_v2")):
            handle = ctypes.c_void_p()
            self.call("nvmlDeviceGetHandleByIndex_v2", ctypes.c_uint(index), ctypes.byref(handle))
            pci = ctypes.create_string_buffer(68)
            self.call("nvmlDeviceGetPciInfo_v3", handle, pci)
            major, minor = ctypes.c_int(), ctypes.c_int()
            self.call("nvmlDeviceGetCudaComputeCapability", handle, ctypes.byref(major), ctypes.byref(minor))
            found.append(
                {
                    "index": index,
                    "uuid": self.text("nvmlDeviceGetUUID", handle),
                    "name": self.text("nvmlDeviceGetName", handle),
                    "minor": self.number("nvmlDeviceGetMinorNumber", handle),
                    "busid": pci.raw[36:68].split(b"\0")[0].decode().lower(),
                    "arch": f"{major.value}.{minor.value}",
                    "brand": {
                        1: "Quadro",
                        2: "Tesla",
                        3: "NVS",
                        4: "GRID",
                        5: "GeForce",
                        6: "TITAN",
                        14: "Nvidia",
                    }.get(self.number("nvmlDeviceGetBrand", handle), "Unknown"),
                }
            )
        return found


# ---------------------------------------------------------------- driver files on the host

UTILITY_BINARIES = ["nvidia-smi", "nvidia-debugdump", "nvidia-persistenced", "nv-fabricmanager"]
COMPUTE_BINARIES = ["nvidia-cuda-mps-control", "nvidia-cuda-mps-server"]
UTILITY_LIBRARIES = ["libnvidia-ml", "libnvidia-cfg", "libnvidia-nscq"]
COMPUTE_LIBRARIES = [
    "libcuda",
    "libcudadebugger",
    "libnvidia-opencl",
    "libnvidia-gpucomp",
    "libnvidia-ptxjitcompiler",
    "libnvidia-allocator",
    "libnvidia-compiler",
    "libnvidia-pkcs11",
    "libnvidia-nvvm",
]
IPC_SOCKETS = ["/run/nvidia-persistenced/socket", "/run/nvidia-fabricmanager/socket", "/tmp/nvidia-mps"]


def ldcache():
    """Library name -> path, from the host's ldconfig cache."""
    done = subprocess.run(
        ["/sbin/ldconfig", "-p"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False
    )
    entries: dict[str, str] = {}
    for match in re.finditer(r"^\s+(\S+) \([^)]*x86-64[^)]*\) => (\S+)$", done.stdout, re.MULTILINE):
        entries.setdefault(match.group(1), match.group(2))
    return entries


def driver_libraries(version, stems):
    """Real paths of the driver's libraries of that version."""
    paths, cache = [], ldcache()
    for stem in stems:
        for name, path in cache.items():
            if name.startswith(stem + ".so"):
                real = os.path.realpath(path)
                if real.endswith(".so." + version) and real not in paths:
                    paths.append(real)
    return paths


def driver_binaries(names):
    paths = []
    for name in names:
        for directory in ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"):
            path = os.path.join(directory, name)
            if os.path.exists(path):
                paths.append(os.path.realpath(path))
                break
    return paths


def find_program(name, extra="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"):
    if os.path.isabs(name):
        return name
    for directory in (os.environ.get("PATH", "") + ":" + extra).split(":"):
        path = os.path.join(directory, name)
        if directory and os.access(path, os.X_OK) and os.path.isfile(path):
            return path
    return None


def modprobe(module):
    """Load a kernel module; False when it cannot be."""
    program = find_program("modprobe")
    if not program:
        return False
    quiet = subprocess.DEVNULL
    return subprocess.run([program, "-q", module], stdout=quiet, stderr=quiet, check=False).returncode == 0


def inside(root, path):
    """`path` in the container's root, with its symbolic links followed inside that root only."""
    parts = [part for part in path.split("/") if part]
    done: list[str] = []
    hops = 0
    while parts:
        part = parts.pop(0)
        if part in (".", ""):
            continue
        if part == "..":
            done = done[:-1]
            continue
        here = os.path.join(root, *done, part)
        if os.path.islink(here):
            hops += 1
            if hops > 40:
                raise Failure("too many symbolic links: " + path)
            target = os.readlink(here)
            if target.startswith("/"):
                done = []
            parts = [piece for piece in target.split("/") if piece] + parts
        else:
            done.append(part)
    return os.path.join(root, *done)


def run_ldconfig(program, root, folders):
    """The host's ldconfig on the container's root: soname links and the cache."""
    program = program.lstrip("@")
    done = subprocess.run(
        [program, "-r", root, "-f", "/etc/ld.so.conf", "-C", "/etc/ld.so.cache", *folders],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        raise Failure(f"process {program} failed with error code: {done.returncode}")


# ---------------------------------------------------------------- CDI

MOUNT_OPTIONS = ["ro", "nosuid", "nodev"] + (["rbind", "rprivate"] if JIT_CDI else ["bind"])


def cdi_hook(*arguments):
    hook = {
        "hookName": "createContainer",
        "path": find_program("nvidia-cdi-hook") or "/usr/bin/nvidia-cdi-hook",
        "args": ["nvidia-cdi-hook", *arguments],
    }
    if JIT_CDI:
        hook["env"] = ["NVIDIA_CTK_DEBUG=false"]
    return hook


def open_nvml():
    cache = ldcache()
    if "libnvidia-ml.so.1" in cache:
        Log.info("Using " + os.path.realpath(cache["libnvidia-ml.so.1"]))
    return Nvml()


def device_edits(minors):
    return {"deviceNodes": [{"path": f"/dev/nvidia{minor}"} for minor in minors]}


def common_edits(version):
    nodes = []
    for path in ("/dev/nvidia-modeset", "/dev/nvidia-uvm-tools", "/dev/nvidia-uvm", "/dev/nvidiactl"):
        if os.path.exists(path):
            Log.info(f"Selecting {path} as {path}")
            nodes.append({"path": path})
        else:
            Log.warning(f"Could not locate {path}: pattern {path} not found")
    mounts = []
    libraries = driver_libraries(version, COMPUTE_LIBRARIES + UTILITY_LIBRARIES)
    if not any(os.path.basename(path).startswith("libcuda.so.") for path in libraries):
        raise Failure(
            "failed to create edits common for entities: failed to create discoverer for common entities: "
            "failed to create discoverer for driver files: failed to create discoverer for driver libraries: "
            f"failed to get libraries for driver version: failed to locate libcuda.so.{version}: "
            f"pattern libcuda.so.{version} not found\n64-bit library libcuda.so.{version}: not found"
        )
    for path in sorted(libraries) + driver_binaries(UTILITY_BINARIES + COMPUTE_BINARIES):
        Log.info(f"Selecting {path} as {path}")
        mounts.append({"hostPath": path, "containerPath": path, "options": MOUNT_OPTIONS})
    for path in IPC_SOCKETS:
        if os.path.exists(path):
            Log.info(f"Selecting {path} as {path}")
            options = ["nosuid", "nodev"] + (["rbind", "rprivate"] if JIT_CDI else ["bind"]) + ["noexec"]
            mounts.append({"hostPath": path, "containerPath": path, "options": options})
        else:
            Log.warning(f"Could not locate {path}: pattern {path} not found")
    folders = sorted({os.path.dirname(path) for path in libraries})
    hooks = [cdi_hook("create-symlinks", "--link", f"libcuda.so.1::{folders[0]}/libcuda.so")]
    hooks.append(cdi_hook("enable-cuda-compat", "--host-driver-version=" + version))
    hooks.append(cdi_hook("update-ldcache", *[word for folder in folders for word in ("--folder", folder)]))
    if JIT_CDI:
        hooks.append(cdi_hook("disable-device-node-modification"))
    env = ["NVIDIA_CTK_LIBCUDA_DIR=" + folders[0]] if JIT_CDI else []
    return {
        "env": [*env, "NVIDIA_VISIBLE_DEVICES=void"],
        "deviceNodes": nodes,
        "hooks": hooks,
        "mounts": mounts,
    }


def cdi_spec(vendor="nvidia.com", kind="gpu", strategies=("index", "uuid")):
    """The whole CDI specification, made from what NVML and the file system say now."""
    try:
        nvml = open_nvml()
        gpus = nvml.gpus()
        version = nvml.driver_version()
    except NvmlError as error:
        text = "failed to initialize NVML: %s" % (error if error.code != 12 else "ERROR_LIBRARY_NOT_FOUND")
        raise Failure(
            "failed to create device CDI specs: "
            + ("failed to construct device spec generators: " if JIT_CDI else "")
            + text
        ) from None
    Log.info("Using driver version " + version)
    devices = []
    for gpu in gpus:
        Log.info(f"Selecting /dev/nvidia{gpu['minor']} as /dev/nvidia{gpu['minor']}")
        for strategy in strategies:
            name = {"index": str(gpu["index"]), "uuid": gpu["uuid"], "type-index": f"gpu{gpu['index']}"}[
                strategy
            ]
            devices.append({"name": name, "containerEdits": device_edits([gpu["minor"]])})
    if gpus:
        devices.append({"name": "all", "containerEdits": device_edits([gpu["minor"] for gpu in gpus])})
    else:
        Log.warning("No devices found")
    return {
        "cdiVersion": "0.5.0",
        "kind": f"{vendor}/{kind}",
        "devices": devices,
        "containerEdits": common_edits(version),
    }


def to_yaml(value, indent=0):
    """A dictionary of dictionaries, lists and strings, in the layout of the Go YAML encoder."""
    # The encoder indents by four, counted from the margin: the keys of a list's element stand at +2.
    lines, pad, child = [], " " * indent, (indent // 4 + 1) * 4

    def scalar(item):
        text = str(item)
        plain = re.fullmatch(r"[A-Za-z/_.][A-Za-z0-9/_.:=,+@-]*(?<!:)", text) and ": " not in text
        reserved = re.fullmatch(r"(?i)true|false|null|yes|no|on|off|~", text)
        if plain and not reserved:
            return text
        if re.fullmatch(r"\d+(\.\d+){2,}", text) or text.startswith("--"):
            return text
        return json.dumps(text)

    for key, item in value.items():
        if isinstance(item, dict):
            lines.append(f"{pad}{key}:")
            lines += to_yaml(item, child)
        elif isinstance(item, list):
            lines.append("{}{}:{}".format(pad, key, "" if item else " []"))
            for element in item:
                if isinstance(element, dict):
                    nested = to_yaml(element, child + 2)
                    lines.append("{}- {}".format(" " * child, nested[0].lstrip()))
                    lines += nested[1:]
                else:
                    lines.append("{}- {}".format(" " * child, scalar(element)))
        else:
            lines.append(f"{pad}{key}: {scalar(item)}")
    return lines


def parse_cdi(text):
    """A CDI file: JSON, or YAML of the simple block kind that CDI generators write."""
    if text.lstrip().startswith("{"):
        return json.loads(text)
    rows = []
    for line in text.splitlines():
        if line.strip() and not line.strip().startswith("#") and line.strip() != "---":
            rows.append((len(line) - len(line.lstrip()), line.strip()))

    def value_of(word):
        word = word.strip()
        if word in ("[]", "{}"):
            return [] if word == "[]" else {}
        if word[:1] == '"':
            return json.loads(word)
        return word[1:-1].replace("''", "'") if word[:1] == "'" else word

    def block(start, depth):
        if start < len(rows) and rows[start][1].startswith("- "):
            items = []
            while start < len(rows) and rows[start][0] == depth and rows[start][1].startswith("- "):
                rest = rows[start][1][2:].strip()
                if re.match(r"[\w.-]+:( |$)", rest):
                    rows[start] = (depth + 2, rest)
                    item, start = block(start, depth + 2)
                else:
                    item, start = value_of(rest), start + 1
                items.append(item)
            return items, start
        result = {}
        while start < len(rows) and rows[start][0] == depth and not rows[start][1].startswith("- "):
            key, _, rest = rows[start][1].partition(":")
            if rest.strip():
                result[key], start = value_of(rest), start + 1
            elif start + 1 < len(rows) and (
                rows[start + 1][0] > depth
                or (rows[start + 1][0] == depth and rows[start + 1][1].startswith("- "))
            ):
                result[key], start = block(start + 1, rows[start + 1][0])
            else:
                result[key], start = None, start + 1
        return result, start

    return block(0, rows[0][0])[0] if rows else {}


def load_cdi(directories):
    """{qualified device name: (spec, device edits)} of all specifications, and {path: error}."""
    devices, errors = {}, {}
    for directory in directories:
        for name in sorted(os.listdir(directory)) if os.path.isdir(directory) else []:
            path = os.path.join(directory, name)
            if not name.endswith((".json", ".yaml", ".yml")):
                continue
            try:
                with open(path, encoding="utf-8") as stream:
                    spec = parse_cdi(stream.read())
                for device in spec["devices"]:
                    devices["{}={}".format(spec["kind"], device["name"])] = (
                        spec,
                        device.get("containerEdits") or {},
                    )
            except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
                errors[path] = f"failed to load CDI Spec {path}: {error}"
    return devices, errors


def apply_edits(config, edits):
    """CDI container edits on an OCI configuration."""
    process = config.setdefault("process", {})
    env = process.setdefault("env", [])
    for item in edits.get("env") or []:
        name = item.partition("=")[0] + "="
        env[:] = [old for old in env if not old.startswith(name)] + [item]
    linux = config.setdefault("linux", {})
    for node in edits.get("deviceNodes") or []:
        host = node.get("hostPath") or node["path"]
        info = os.stat(host)
        major, minor = os.major(info.st_rdev), os.minor(info.st_rdev)
        devices = linux.setdefault("devices", []) or linux.update(devices=[]) or linux["devices"]
        devices[:] = [old for old in devices if old["path"] != node["path"]]
        devices.append(
            {
                "path": node["path"],
                "type": "c",
                "major": major,
                "minor": minor,
                "fileMode": info.st_mode & 0o777,
                "uid": 0,
                "gid": 0,
            }
        )
        rules = linux.setdefault("resources", {}).setdefault("devices", [])
        rules.append({"allow": True, "type": "c", "major": major, "minor": minor, "access": "rwm"})
    mounts = config.setdefault("mounts", [])
    for mount in edits.get("mounts") or []:
        mounts[:] = [old for old in mounts if old["destination"] != mount["containerPath"]]
        mounts.append(
            {
                "destination": mount["containerPath"],
                "type": "bind",
                "source": mount["hostPath"],
                "options": list(mount.get("options") or []),
            }
        )
    for hook in edits.get("hooks") or []:
        item = {"path": hook["path"], "args": list(hook.get("args") or [])}
        if hook.get("env"):
            item["env"] = list(hook["env"])
        config.setdefault("hooks", {}).setdefault(hook["hookName"], []).append(item)


# ---------------------------------------------------------------- containers


def environment_of(config):
    return dict(item.partition("=")[::2] for item in (config.get("process") or {}).get("env") or [])


def visible_devices(env):
    """The GPUs an image asks for; None when it is no GPU container."""
    legacy = bool(env.get("CUDA_VERSION")) and not env.get("NVIDIA_REQUIRE_CUDA")
    value = env.get("NVIDIA_VISIBLE_DEVICES")
    if value is None:
        return ["all"] if legacy else None
    devices = [part.strip() for part in value.split(",") if part.strip()]
    if not devices or "void" in devices:
        return None
    return devices


def requirements_of(env, disabled=False):
    if disabled or env.get("NVIDIA_DISABLE_REQUIRE", "").lower() in ("1", "t", "true"):
        return []
    found = [
        value
        for name, value in env.items()
        if name.startswith("NVIDIA_REQUIRE_") and not name.startswith("NVIDIA_REQUIRE_JETPACK")
    ]
    if env.get("CUDA_VERSION") and not env.get("NVIDIA_REQUIRE_CUDA"):
        match = re.match(r"v?(\d+)\.(\d+)", env["CUDA_VERSION"])
        if match:
            found.append("cuda>={}.{}".format(*match.groups()))
    return found


def container_state(stream):
    """The OCI state that hooks get on standard input, with the bundle's configuration and its root."""
    state = json.load(stream)
    bundle = state.get("bundle") or state.get("bundlePath")
    with open(os.path.join(bundle, "config.json"), encoding="utf-8") as config_file:
        config = json.load(config_file)
    root = config["root"]["path"]
    return state, config, root if os.path.isabs(root) else os.path.join(bundle, root)
