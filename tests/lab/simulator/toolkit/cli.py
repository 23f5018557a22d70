"""SIMULATED nvidia-container-cli: info, list and configure. `configure` enters the mount namespace of a
created container, mounts the driver's files and device nodes into its root, opens its device cgroup and
updates its library cache, as the real one does."""

import ctypes
import os
import re
import sys
import time

from .common import (
    COMMIT,
    COMPUTE_BINARIES,
    COMPUTE_LIBRARIES,
    IPC_SOCKETS,
    UTILITY_BINARIES,
    UTILITY_LIBRARIES,
    VERSION,
    Failure,
    Nvml,
    NvmlError,
    default_ldconfig,
    driver_binaries,
    driver_libraries,
    inside,
    modprobe,
    run_ldconfig,
)

LIBC = ctypes.CDLL(None, use_errno=True)
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND = 1, 2, 4, 8, 32, 4096
CLONE_NEWNS = 0x20000
CSV_FIELDS = ("index", "minor", "name", "brand", "uuid", "busid", "arch")


class CliError(Failure):
    """`nvidia-container-cli: <stage> error: <text>`."""

    def __init__(self, stage, text):
        super().__init__(
            "{} error: {}".format(
                stage, str(text).lower() if stage in ("initialization", "detection") else text
            )
        )


def log_line(options, text):
    if options.get("debug"):
        with open(options["debug"], "a", encoding="utf-8") as stream:
            stream.write(f"I{time.strftime('%m%d %H:%M:%S.000000')} {os.getpid()} nvc.c:0] {text}\n")


def load_kernel_modules(options):
    for module in ("nvidia", "nvidia-uvm", "nvidia-modeset"):
        log_line(options, "loading kernel module " + module.replace("-", "_"))
        if not modprobe(module):
            log_line(options, "could not load kernel module " + module.replace("-", "_"))


def initialise(options):
    log_line(options, f"initializing library context (version={VERSION}, build={COMMIT})")
    if options.get("load-kmods") and os.geteuid() == 0:
        load_kernel_modules(options)
    try:
        return Nvml()
    except NvmlError as error:
        text = f"load library failed: {error}" if error.code == 12 else f"nvml error: {error}"
        raise CliError("initialization", text) from None


def detect(nvml):
    try:
        return {"version": nvml.driver_version(), "cuda": nvml.cuda_version()}, nvml.gpus()
    except NvmlError as error:
        raise CliError("detection", f"nvml error: {error}") from None


def select(gpus, wanted):
    chosen = []
    for name in [part for part in wanted.split(",") if part and part != "none"]:
        if name == "all":
            return list(gpus)
        for gpu in gpus:
            if name == str(gpu["index"]) or (len(name) > 4 and gpu["uuid"].startswith(name)):
                if gpu not in chosen:
                    chosen.append(gpu)
                break
        else:
            raise CliError("device", f"{name}: unknown device")
    return chosen


# ---------------------------------------------------------------- requirements


def compare(left, operator, right):
    """Versions: part by part, missing parts count as zero."""
    if not re.fullmatch(r"[0-9.]+", left) or not re.fullmatch(r"[0-9.]+", right):
        raise CliError("requirement", "invalid expression")
    a, b = ([int(part) for part in text.split(".") if part] for text in (left, right))
    size = max(len(a), len(b))
    a, b = a + [0] * (size - len(a)), b + [0] * (size - len(b))
    return {"=": a == b, "!=": a != b, "<": a < b, "<=": a <= b, ">": a > b, ">=": a >= b}[operator]


def check_requirement(expression, driver, gpu):
    """Space is OR, comma is AND."""
    satisfied = not expression.strip()
    for alternative in expression.split():
        satisfied = True
        for rule in [part for part in alternative.split(",") if part]:
            match = re.fullmatch(r"([A-Za-z]+)(=|!=|<=?|>=?)(.+)", rule)
            if not match or match.group(1).lower() not in ("cuda", "driver", "arch", "brand"):
                raise CliError("requirement", "invalid expression")
            subject, operator, value = match.group(1).lower(), match.group(2), match.group(3)
            if subject == "cuda":
                holds = compare(driver["cuda"], operator, value)
            elif subject == "driver":
                holds = compare(driver["version"], operator, value)
            elif gpu is None:
                holds = True
            elif subject == "arch":
                holds = compare(gpu["arch"], operator, value)
            else:
                same = gpu["brand"].lower() == value.lower()
                holds = same if operator == "=" else not same
            if not holds:
                satisfied = False
                break
        if satisfied:
            break
    if not satisfied:
        first = expression.split()[0]
        hint = (
            ", please update your driver to a newer version, or use an earlier cuda container"
            if first.startswith("cuda>=")
            else ""
        )
        raise CliError("requirement", f"unsatisfied condition: {first}{hint}")


# ---------------------------------------------------------------- configure


def mount(source, target, kind, flags, data=None):
    encode = [None if text is None else os.fsencode(text) for text in (source, target, kind, data)]
    if LIBC.mount(encode[0], encode[1], encode[2], ctypes.c_ulong(flags), encode[3]):
        code = ctypes.get_errno()
        raise CliError("mount", f"mount operation failed: {target}: {os.strerror(code).lower()}")


def mount_point(path, source):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if os.path.isdir(source):
        os.makedirs(path, exist_ok=True)
    elif not os.path.lexists(path):
        with open(path, "w", encoding="ascii"):
            pass


def bind(source, target, flags):
    mount_point(target, source)
    mount(source, target, None, MS_BIND)
    mount(None, target, None, MS_BIND | MS_REMOUNT | flags)


def library_directory(root):
    """Debian and its like have a multiarch directory; others have lib64."""
    return (
        "/usr/lib/x86_64-linux-gnu" if os.path.exists(inside(root, "/etc/debian_version")) else "/usr/lib64"
    )


def mount_proc(root, gpus):
    base = "/proc/driver/nvidia"
    target = inside(root, base)
    if not os.path.isdir(target):
        raise CliError("mount", f"file creation failed: {target}: no such file or directory")
    texts = {}
    for name in ("params", "version", "registry"):
        try:
            with open(os.path.join(base, name), encoding="utf-8") as stream:
                texts[name] = stream.read()
        except FileNotFoundError:
            continue
    mount("tmpfs", target, "tmpfs", 0, "mode=0555")
    texts["params"] = texts.get("params", "").replace("ModifyDeviceFiles: 1", "ModifyDeviceFiles: 0")
    for name, text in texts.items():
        path = os.path.join(target, name)
        with open(path, "w", encoding="utf-8") as stream:
            stream.write(text)
        os.chmod(path, 0o444)
    for gpu in gpus:
        # NVML has a 32-bit PCI domain, the driver's files a 16-bit one.
        source = os.path.join(base, "gpus", gpu["busid"][4:])
        if os.path.isdir(source):
            bind(
                source,
                os.path.join(target, "gpus", gpu["busid"][4:]),
                MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC,
            )
    mount(None, target, None, MS_BIND | MS_REMOUNT | MS_NODEV | MS_NOSUID | MS_NOEXEC)


def device_cgroup(pid):
    """The container's cgroup in the v1 devices hierarchy; None with cgroup v2 (see the lab's runc)."""
    with open(f"/proc/{pid}/cgroup", encoding="utf-8") as stream:
        for line in stream:
            _, controllers, path = line.rstrip("\n").split(":", 2)
            if "devices" in controllers.split(","):
                break
        else:
            return None
    with open("/proc/self/mountinfo", encoding="utf-8") as stream:
        for line in stream:
            left, _, right = line.partition(" - ")
            if right.split()[0] == "cgroup" and "devices" in right.split()[2].split(","):
                root, point = left.split()[3:5]
                relative = path[len(root) :] if root != "/" and path.startswith(root) else path
                return point + ("" if relative == "/" else relative)
    return None


def allow_device(cgroup, path):
    info = os.stat(path)
    with open(os.path.join(cgroup, "devices.allow"), "w", encoding="ascii") as stream:
        stream.write(f"c {os.major(info.st_rdev)}:{os.minor(info.st_rdev)} rw")


def configure(options, root):
    nvml = initialise(options)
    driver, gpus = detect(nvml)
    chosen = select(gpus, options.get("device", ""))
    for gpu in chosen or [None]:
        for expression in options.get("require", []):
            check_requirement(expression, driver, gpu)

    pid = int(options.get("pid") or os.getppid())
    flags = {
        name for name in ("compute", "utility", "video", "graphics", "display", "ngx") if options.get(name)
    }
    libraries = driver_libraries(
        driver["version"],
        (UTILITY_LIBRARIES if "utility" in flags else []) + (COMPUTE_LIBRARIES if "compute" in flags else []),
    )
    binaries = driver_binaries(
        (UTILITY_BINARIES if "utility" in flags else []) + (COMPUTE_BINARIES if "compute" in flags else [])
    )
    sockets = [
        path
        for path in IPC_SOCKETS
        if os.path.exists(path) and ("compute" if "mps" in path else "utility") in flags
    ]
    control = ["/dev/nvidiactl"]
    if flags & {"compute", "graphics", "video", "ngx"}:
        control += ["/dev/nvidia-uvm", "/dev/nvidia-uvm-tools"]
    if flags & {"graphics", "display"}:
        control.append("/dev/nvidia-modeset")
    nodes = [path for path in control if os.path.exists(path)]
    for gpu in chosen:
        path = f"/dev/nvidia{gpu['minor']}"
        if not os.path.exists(path):
            raise CliError("detection", f"stat failed: {path}: no such file or directory")
        nodes.append(path)
    cgroup = None if options.get("no-cgroups") else device_cgroup(pid)

    namespace = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY)
    if LIBC.setns(namespace, CLONE_NEWNS):
        raise CliError(
            "container", f"namespace association failed: {os.strerror(ctypes.get_errno()).lower()}"
        )
    os.chdir("/")
    readonly = MS_RDONLY | MS_NOSUID | MS_NODEV
    if os.path.isdir("/proc/driver/nvidia"):
        mount_proc(root, chosen)
    directory = library_directory(root)
    for path in libraries:
        bind(path, os.path.join(inside(root, directory), os.path.basename(path)), readonly)
    for path in binaries:
        bind(path, inside(root, "/usr/bin/" + os.path.basename(path)), readonly)
    for path in sockets:
        bind(path, inside(root, path), MS_NODEV | MS_NOSUID | MS_NOEXEC)
    for path in nodes:
        bind(path, inside(root, path), MS_RDONLY | MS_NOSUID | MS_NOEXEC)
        if cgroup:
            allow_device(cgroup, path)
    ldconfig = options.get("ldconfig") or default_ldconfig()
    if not ldconfig.startswith("@"):
        ldconfig = "@" + inside(root, ldconfig)
    try:
        run_ldconfig(ldconfig, root, [directory])
    except Failure as error:
        raise CliError("ldcache", error) from None
    link = os.path.join(inside(root, directory), "libcuda.so")
    if any(os.path.basename(path).startswith("libcuda.so.") for path in libraries) and not os.path.lexists(
        link
    ):
        os.symlink("libcuda.so.1", link)


# ---------------------------------------------------------------- info, list


def show_info(options):
    driver, gpus = detect(initialise(options))
    if options.get("csv"):
        print("NVRM version,CUDA version\n{},{}\n".format(driver["version"], driver["cuda"]))
        print("Device Index,Device Minor,Model,Brand,GPU UUID,Bus Location,Architecture")
        for gpu in gpus:
            print(",".join(str(gpu[key]) for key in CSV_FIELDS))
        return
    print(f"{'NVRM version:':15} {driver['version']}\n{'CUDA version:':15} {driver['cuda']}")
    for gpu in gpus:
        rows = (
            ("Device Index:", gpu["index"]),
            ("Device Minor:", gpu["minor"]),
            ("Model:", gpu["name"]),
            ("Brand:", gpu["brand"]),
            ("GPU UUID:", gpu["uuid"]),
            ("Bus Location:", gpu["busid"]),
            ("Architecture:", gpu["arch"]),
        )
        print("\n" + "\n".join(f"{label:15} {value}" for label, value in rows))


def show_list(options):
    driver, gpus = detect(initialise(options))
    everything = not any(options.get(name) for name in ("device", "libraries", "binaries", "ipcs"))
    if options.get("device") or everything:
        for path in ("/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools", "/dev/nvidia-modeset"):
            if os.path.exists(path):
                print(path)
        for gpu in select(gpus, options.get("device") or "all"):
            print(f"/dev/nvidia{gpu['minor']}")
    if options.get("binaries") or everything:
        print("\n".join(driver_binaries(UTILITY_BINARIES + COMPUTE_BINARIES)))
    if options.get("libraries") or everything:
        print("\n".join(driver_libraries(driver["version"], UTILITY_LIBRARIES + COMPUTE_LIBRARIES)))
    if options.get("ipcs") or everything:
        for path in IPC_SOCKETS:
            if os.path.exists(path):
                print(path)


# ---------------------------------------------------------------- command line

GLOBAL = {
    "d": "debug=",
    "debug": "debug=",
    "k": "load-kmods",
    "load-kmods": "load-kmods",
    "n": "no-pivot",
    "no-pivot": "no-pivot",
    "u": "user?",
    "user": "user?",
    "r": "root=",
    "root": "root=",
    "l": "ldcache=",
    "ldcache": "ldcache=",
    "no-create-imex-channels": "no-create-imex-channels",
}
LOCAL = {
    "info": {"csv": "csv"},
    "list": {
        "d": "device=",
        "device": "device=",
        "l": "libraries",
        "libraries": "libraries",
        "b": "binaries",
        "binaries": "binaries",
        "i": "ipcs",
        "ipcs": "ipcs",
        "compat32": "compat32",
        "mig-config": "mig-config=",
        "mig-monitor": "mig-monitor=",
        "imex-channel": "imex-channel=",
    },
    "configure": {
        "p": "pid=",
        "pid": "pid=",
        "d": "device=",
        "device": "device=",
        "r": "require=",
        "require": "require=",
        "l": "ldconfig=",
        "ldconfig": "ldconfig=",
        "c": "compute",
        "compute": "compute",
        "u": "utility",
        "utility": "utility",
        "v": "video",
        "video": "video",
        "g": "graphics",
        "graphics": "graphics",
        "D": "display",
        "display": "display",
        "n": "ngx",
        "ngx": "ngx",
        "compat32": "compat32",
        "no-cgroups": "no-cgroups",
        "no-devbind": "no-devbind",
        "mig-config": "mig-config=",
        "mig-monitor": "mig-monitor=",
        "imex-channel": "imex-channel=",
        "cuda-compat-mode": "cuda-compat-mode=",
        "no-gsp-firmware": "no-gsp-firmware",
        "no-persistenced": "no-persistenced",
        "no-fabricmanager": "no-fabricmanager",
    },
}
USAGE = """Usage: nvidia-container-cli [OPTION...] COMMAND [ARG...]
Try `nvidia-container-cli --help' or `nvidia-container-cli --usage' for more
information."""


def parse(words, table, options):
    """Options up to the first word that is none."""
    words = list(words)
    while words and words[0].startswith("-") and words[0] != "-":
        word = words.pop(0)
        if word.startswith("--"):
            name, sign, value = word[2:].partition("=")
        else:
            name, sign, value = word[1], "", ""
            if len(word) > 2:
                if (table.get(name) or "").endswith(("=", "?")):
                    sign, value = "=", word[2:]
                else:
                    words.insert(0, "-" + word[2:])
        if name not in table:
            print(f"nvidia-container-cli: unrecognized option '{word}'\n{USAGE}", file=sys.stderr)
            sys.exit(1)
        target = table[name]
        if target.endswith("="):
            if not sign:
                if not words:
                    print(
                        f"nvidia-container-cli: option '{word}' requires an argument\n{USAGE}",
                        file=sys.stderr,
                    )
                    sys.exit(1)
                value = words.pop(0)
            target = target[:-1]
            if target == "require":
                options.setdefault("require", []).append(value)
            elif target == "device" and options.get("device"):
                options["device"] += "," + value
            else:
                options[target] = value
        else:
            options[target.rstrip("?")] = value or True
    return words


def main():
    if any(word in ("-V", "--version") for word in sys.argv[1:]):
        print(
            f"cli-version: {VERSION}\nlib-version: {VERSION}\nbuild date: 2025-05-30T13:47+00:00\n"
            f"build revision: {COMMIT}\nbuild compiler: none (SIMULATED)\n"
            "build platform: x86_64\nbuild flags: none (SIMULATED)"
        )
        return 0
    if any(word in ("-?", "--help") for word in sys.argv[1:]):
        print(
            USAGE
            + "\nCommand line utility for manipulating NVIDIA GPU containers (SIMULATED)."
            + "\nCommands: info, list, configure"
        )
        return 0
    options: dict = {}
    words = parse(sys.argv[1:], GLOBAL, options)
    if not words or words[0] not in LOCAL:
        print(USAGE, file=sys.stderr)
        return 1
    command = words[0]
    rest = parse(words[1:], LOCAL[command], options)
    try:
        if command == "configure":
            if len(rest) != 1:
                print(USAGE, file=sys.stderr)
                return 1
            if not rest[0].startswith("/") or rest[0] == "/":
                raise CliError("input", "invalid rootfs directory")
            configure(options, rest[0])
        elif command == "info":
            show_info(options)
        else:
            show_list(options)
    except Failure as error:
        print(f"nvidia-container-cli: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(
            "nvidia-container-cli: mount error: {}: {}".format(
                error.filename, (error.strerror or "").lower()
            ),
            file=sys.stderr,
        )
        return 1
    return 0


sys.exit(main())
