# Apache-2.0 (see LICENSE)
"""Where the chain from the PCI bus to the container broke first: a short answer, not the full diagnosis."""

from __future__ import annotations

import re
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence

Finding = Dict[str, Any]


def _get(data: Any, *path: str) -> Any:
    for name in path:
        if not isinstance(data, Mapping):
            return None
        data = data.get(name)
    return data


def finding(layer: str, text: str, evidence: Sequence[Any], fix: Sequence[str]) -> Finding:
    return {
        "layer": layer,
        "finding": text,
        "evidence": [str(item) for item in evidence if item],
        "fix": list(fix),
    }


class Clue(NamedTuple):
    """A line in the container's log, and what it means."""

    pattern: str
    layer: str
    text: str
    fix: Sequence[str]


RELOAD = "run site.yml: it loads the modules anew, or reboots where something uses them (host_reboot_allowed)"
FABRIC_LOG = "journalctl -u nvidia-fabricmanager names the reason if it does not start"

# The first that matches counts, so what is nearer to the cause comes first.
CLUES = (
    Clue(
        r'could not select device driver "cdi"',
        "container_runtime",
        "dockerd has no CDI: it is older than 28.2 and features.cdi is not set",
        ["set nvidia_container_toolkit_cdi: enabled and run site.yml, or use gpu_verify_launch: gpus"],
    ),
    Clue(
        r'could not select device driver "(nvidia)?" with capabilities',
        "container_runtime",
        "dockerd cannot give a container a GPU: the toolkit's hook was not on its PATH when it started",
        ["run site.yml: it installs the toolkit and restarts Docker"],
    ),
    Clue(
        r"(unknown or invalid runtime name: nvidia|Unknown runtime specified nvidia)",
        "container_runtime",
        "dockerd does not know the runtime nvidia",
        ["run site.yml: it merges the runtime into daemon.json and restarts Docker"],
    ),
    Clue(
        r"(no CDI device driver registered|unresolvable CDI devices)",
        "container_runtime",
        "dockerd finds no CDI specification for the GPU",
        ["run site.yml: it writes the specification", "look at what dockerd sees: nvidia-ctk cdi list"],
    ),
    Clue(
        r"nvidia-container-cli: requirement error: unsatisfied condition: .*",
        "host",
        "the image asks for a newer driver than the node has (NVIDIA_REQUIRE_…)",
        ["raise nvidia_driver_min_version or choose a newer nvidia_driver_branch, and run site.yml"],
    ),
    Clue(
        r"nvidia-container-cli: initialization error: load library failed: libnvidia-ml\.so\.1",
        "host",
        "the driver's libraries are not on the node, or ldconfig does not know them",
        ["run site.yml: it installs the driver's packages again", "ldconfig"],
    ),
    Clue(
        r"nvidia-container-cli: initialization error: (nvml error: )?driver not loaded",
        "host",
        "the driver is not loaded on the node",
        ["run site.yml: it loads the driver"],
    ),
    Clue(
        r"nvidia-container-cli: initialization error: driver rpc error: timed out",
        "host",
        "the driver does not answer: the GPU may hang",
        ["look for Xid and NVRM in dmesg; a reboot is the usual way out"],
    ),
    Clue(
        r"(pull access denied|manifest unknown|manifest for \S+ not found|repository does not exist)",
        "framework",
        "the registry does not have the image",
        ["check framework_image_registry_mirror, or load the image with framework_image_archive"],
    ),
    Clue(
        r"(no such host|connection refused|i/o timeout|TLS handshake timeout|gave HTTP response to HTTPS)",
        "framework",
        "the registry cannot be reached from dockerd",
        [
            "check framework_image_registry_mirror, the node's DNS and proxy",
            "a registry without TLS must be in insecure-registries (docker_engine_daemon_config)",
        ],
    ),
    Clue(
        r"(kernel version \S+ does not match DSO version|DRIVER_MISMATCH|Driver/library version mismatch)",
        "host",
        "the loaded driver and its libraries are of two versions",
        [RELOAD],
    ),
    Clue(
        r"(CUDA_ERROR_SYSTEM_NOT_READY|system not yet initialized|cudaErrorSystemNotReady)",
        "host",
        "the NVSwitches are not set up: the fabric manager does not run, or is of another version",
        ["run site.yml: it installs the driver's own fabric manager and starts it", FABRIC_LOG],
    ),
    Clue(
        r"kernel driver does not appear to be running on this host",
        "host",
        "the driver is not loaded on the node",
        ["run site.yml: it loads the driver"],
    ),
    Clue(
        r"no NVIDIA GPU device is present: /dev/nvidia0 does not exist",
        "container_runtime",
        "the driver runs, but the container was given no GPU",
        [
            "see how the container was launched (gpu_verify_launch)",
            "look for NVIDIA_VISIBLE_DEVICES in the image",
        ],
    ),
    Clue(
        r"Could not load dynamic library 'libcuda\.so\.1'"
        r"|failed call to cuInit: UNKNOWN ERROR \((303|-1|34)\)|CUDA_ERROR_STUB_LIBRARY",
        "container_runtime",
        "libcuda was not brought into the container",
        [
            "run site.yml: it repairs the toolkit",
            "nvidia-container-cli list --libraries shows what it would bring",
        ],
    ),
    Clue(
        r"Could not load dynamic library '(lib(cudnn|cublas|cudart|cufft|curand|cusolver|cusparse)\S*)'",
        "framework",
        "a CUDA library is missing in the image",
        ["use the official image of the workload, or repair LD_LIBRARY_PATH in yours"],
    ),
    Clue(
        r"failed call to cuInit: CUDA_ERROR_NO_DEVICE",
        "application",
        "libcuda is there, but no GPU may be used",
        ["look for CUDA_VISIBLE_DEVICES in the image and the launch"],
    ),
    Clue(
        r"(failed call to cuInit: CUDA_ERROR_UNKNOWN|CUDA unknown error)",
        "host",
        "libcuda cannot talk to nvidia-uvm",
        ["run site.yml: it loads nvidia_uvm and writes the CDI specification anew"],
    ),
    Clue(
        r"(CUDA driver version is insufficient|UNSUPPORTED_PTX_VERSION|unsupported toolchain)",
        "host",
        "the driver is older than the image's CUDA needs",
        ["raise nvidia_driver_min_version or choose a newer nvidia_driver_branch, and run site.yml"],
    ),
    Clue(
        r"(CUDA_ERROR_INVALID_PTX|device kernel image is invalid)",
        "framework",
        "the framework has no code that this GPU runs",
        ["use a workload that supports the GPU (gpuready resolve --gpu …)"],
    ),
)


def _bus(stack: Mapping[str, Any]) -> Optional[Finding]:
    gpus = _get(stack, "host", "gpus")
    if gpus is not None and not gpus:
        return finding(
            "host",
            "there is no NVIDIA GPU on the PCI bus",
            ["no PCI device of vendor 10de with a display class"],
            ["check that the GPU is seated, powered and passed through: lspci -nn -d 10de:"],
        )
    for gpu in gpus or []:
        bound = gpu.get("driver_bound")
        if bound and bound != "nvidia":
            fix = ["run site.yml: it blacklists nouveau and reboots"] if bound == "nouveau" else ["unbind it"]
            return finding(
                "host",
                "another driver holds the GPU: %s" % bound,
                ["GPU %s is bound to %s" % (gpu.get("pci"), bound)],
                fix,
            )
    return None


def _module(stack: Mapping[str, Any]) -> Optional[Finding]:
    driver = _get(stack, "driver") or {}
    loaded, on_disk = driver.get("loaded"), driver.get("on_disk")
    kernel = _get(stack, "host", "kernel", "running")
    if not loaded:
        if not on_disk:
            evidence = ["kernel %s has no module nvidia" % kernel]
            other = driver.get("on_disk_next_boot")
            if other:
                evidence.append("kernel %s has it: %s" % (other.get("kernel"), other.get("version")))
            return finding(
                "host",
                "no driver is installed for the running kernel",
                evidence,
                ["run site.yml: it installs the driver, or reboots into the kernel that has it"]
                if other
                else ["run site.yml: it installs the driver"],
            )
        evidence = ["on disk: %s (%s)" % (on_disk.get("version"), on_disk.get("path")), "loaded: none"]
        fix = [
            "run site.yml: it loads the driver",
            "modprobe nvidia and dmesg name the reason if it does not load",
        ]
        if _get(stack, "host", "secure_boot") and on_disk.get("signed") is False:
            return finding(
                "host", "Secure Boot refuses the driver: its module is not signed", evidence, fix[:1]
            )
        return finding("host", "the driver is installed, but not loaded", evidence, fix)
    version = loaded.get("version")
    libraries = _get(driver, "userspace", "version")
    if version and libraries and version != libraries:
        return finding(
            "host",
            "the loaded driver and its libraries are of two versions",
            [
                "loaded: %s" % version,
                "libraries: %s" % libraries,
                on_disk and "on disk: %s" % on_disk.get("version"),
                *("in use by %s" % _user(row) for row in _users(driver)),
            ],
            [RELOAD],
        )
    if not _get(driver, "userspace", "libcuda") and _get(driver, "userspace") is not None:
        return finding(
            "host",
            "the driver's libraries are not on the node",
            ["libcuda.so.1 is not found"],
            ["run site.yml: it installs the driver's packages again"],
        )
    gpus, devices = _get(stack, "host", "gpus"), driver.get("devices")
    if gpus and devices is None and _get(driver, "nvml", "error"):
        return finding(
            "host",
            "the driver does not answer",
            [_get(driver, "nvml", "error")],
            ["dmesg: look for NVRM and Xid"],
        )
    if gpus and devices is not None and len(devices) < len(gpus):
        present = {str(device.get("pci", ""))[-12:].lower() for device in devices}
        lost = [str(gpu.get("pci")) for gpu in gpus if str(gpu.get("pci", ""))[-12:].lower() not in present]
        return finding(
            "host",
            "the driver does not drive every GPU of the bus",
            ["NVML lists %d of %d GPUs" % (len(devices), len(gpus)), "not listed: %s" % ", ".join(lost)],
            ["dmesg: look for NVRM and Xid of that address; a reset or a reboot may bring it back"],
        )
    nodes = driver.get("device_nodes")
    wanted = ["/dev/nvidia0", "/dev/nvidiactl", "/dev/nvidia-uvm"]
    absent = [path for path in wanted if nodes is not None and path not in nodes]
    if absent:
        return finding(
            "host",
            "device files are missing",
            ["%s does not exist" % path for path in absent],
            ["run site.yml: it loads nvidia_uvm and makes the device files"],
        )
    return None


def _users(driver: Mapping[str, Any]) -> List[Mapping[str, Any]]:
    """Who would have to end before the modules can be loaded anew; the driver's own services do not."""
    return [row for row in driver.get("processes") or [] if not row.get("service")]


def _user(row: Mapping[str, Any]) -> str:
    text = "%s (pid %s)" % (row.get("name") or "a process", row.get("pid"))
    return text + " in container %s" % str(row["container"])[:12] if row.get("container") else text


def _fabric(stack: Mapping[str, Any]) -> Optional[Finding]:
    """GPUs behind NVSwitches do nothing before a fabric manager of the driver's very version set them up."""
    switches = _get(stack, "host", "nvswitches")
    manager = _get(stack, "driver", "fabricmanager") or {}
    version = _get(stack, "driver", "loaded", "version")
    if not switches or manager.get("installed") is None:
        return None
    count = "%d NVSwitches on the PCI bus" % len(switches)
    fix = ["run site.yml: it installs the driver's own fabric manager and starts it"]
    if not manager["installed"]:
        return finding(
            "host", "the fabric manager is missing, without which these GPUs do not work", [count], fix
        )
    if version and manager.get("version") and manager["version"] != version:
        return finding(
            "host",
            "the fabric manager and the driver are of two versions",
            [count, "fabric manager: %s" % manager["version"], "driver: %s" % version],
            fix,
        )
    if manager.get("active") is False:
        return finding(
            "host",
            "the fabric manager does not run",
            [count, "nvidia-fabricmanager is not active"],
            [*fix, FABRIC_LOG],
        )
    return None


def warnings(stack: Mapping[str, Any]) -> List[Finding]:
    """What still works, but will not after the next boot, or the next time that the driver is loaded."""
    found = []
    kernel = _get(stack, "host", "kernel") or {}
    driver = _get(stack, "driver") or {}
    on_disk, loaded = driver.get("on_disk"), driver.get("loaded")
    following = kernel.get("next_boot")
    if following and following != kernel.get("running") and on_disk and not driver.get("on_disk_next_boot"):
        found.append(
            finding(
                "host",
                "the kernel of the next boot, %s, has no driver" % following,
                ["kernel %s has driver %s" % (kernel.get("running"), on_disk.get("version"))],
                ["run site.yml: it adds the module where one is to be had"],
            )
        )
    libraries = _get(driver, "userspace", "version")
    # Where loaded and libraries do not fit either, it is a mismatch already and not only to come.
    fits = loaded and loaded.get("version") == libraries
    if fits and on_disk and on_disk.get("version") not in (None, libraries):
        found.append(
            finding(
                "host",
                "the driver that the next boot loads and the libraries are of two versions",
                ["on disk: %s" % on_disk["version"], "libraries: %s" % libraries],
                ["run site.yml: it brings both to one version"],
            )
        )
    return found


def _engine(stack: Mapping[str, Any], way: Optional[str]) -> Optional[Finding]:
    docker = _get(stack, "container_runtime", "docker") or {}
    toolkit = _get(stack, "container_runtime", "toolkit") or {}
    if docker.get("installed") is False:
        return finding(
            "container_runtime", "Docker is not installed", ["no dockerd was found"], ["run site.yml"]
        )
    if _get(docker, "daemon_json", "valid") is False:
        return finding(
            "container_runtime",
            "daemon.json cannot be read",
            [_get(docker, "daemon_json", "error")],
            ["correct %s by hand, then run site.yml" % _get(docker, "daemon_json", "path")],
        )
    if _get(docker, "live", "reachable") is False:
        return finding(
            "container_runtime",
            "dockerd does not answer",
            [_get(docker, "live", "error")],
            ["journalctl -u docker names the reason", "run site.yml: it starts Docker"],
        )
    binaries = toolkit.get("binaries") or {}
    hook = binaries.get("nvidia-container-runtime-hook")
    if binaries and not hook:
        return finding(
            "container_runtime",
            "the container toolkit is not installed, or not whole",
            ["nvidia-container-runtime-hook is not found"],
            ["run site.yml: it installs the toolkit and restarts Docker"],
        )
    if way == "gpus" and toolkit.get("hook_newer_than_dockerd"):
        return finding(
            "container_runtime",
            "dockerd was started before the toolkit was installed and does not know its hook",
            ["%s is newer than dockerd's start" % hook],
            ["run site.yml: it restarts Docker"],
        )
    if way == "gpus" and toolkit.get("hook_on_dockerd_path") is False:
        return finding(
            "container_runtime",
            "the toolkit's hook is not on dockerd's PATH",
            ["the hook is %s" % hook],
            ["set gpu_verify_launch: runtime, or put the hook's folder on the PATH of docker.service"],
        )
    runtimes = _get(docker, "live", "runtimes")
    if way == "runtime" and runtimes is not None and "nvidia" not in runtimes:
        return finding(
            "container_runtime",
            "dockerd does not know the runtime nvidia",
            ["dockerd runs with: %s" % ", ".join(runtimes)],
            ["run site.yml: it merges the runtime into daemon.json and restarts Docker"],
        )
    if way == "cdi":
        return _cdi(stack)
    return None


def _cdi(stack: Mapping[str, Any]) -> Optional[Finding]:
    specs = _get(stack, "container_runtime", "cdi", "specs")
    ours = [spec for spec in specs or [] if spec.get("kind") == "nvidia.com/gpu"]
    fix = ["run site.yml: it writes the specification"]
    if specs is not None and not ours:
        return finding(
            "container_runtime", "there is no CDI specification for the GPU", ["/etc/cdi, /var/run/cdi"], fix
        )
    for spec in ours:
        if spec.get("stale"):
            missing = ["%s is not there" % path for path in (spec.get("missing_paths") or [])[:4]]
            made = ["%s was made for driver %s" % (spec.get("path"), spec.get("driver_version"))]
            return finding(
                "container_runtime", "the CDI specification no longer fits the driver", made + missing, fix
            )
    return None


def _log(verification: Mapping[str, Any]) -> Optional[Finding]:
    """What the container's own log says."""
    texts = [str(verification.get("log") or "")]
    texts += [str(line) for row in verification.get("findings") or [] for line in row.get("evidence") or []]
    text = "\n".join(texts)
    for clue in CLUES:
        match = re.search(clue.pattern, text)
        if match:
            start = text.rfind("\n", 0, match.start()) + 1
            end = text.find("\n", match.end())
            line = text[start : end if end >= 0 else len(text)].strip()
            return finding(clue.layer, clue.text, [line[:400]], clue.fix)
    return None


def first_findings(
    observed: Mapping[str, Any], verification: Optional[Mapping[str, Any]] = None
) -> List[Finding]:
    """The first broken link on the way from the bus into the container, and what the log adds to it.

    The earliest link comes first, since what follows it is broken only because it is. Empty when the node
    looks whole and the log says nothing known.
    """
    verification = verification or {}
    found: List[Finding] = []
    way = _get(verification, "launch", "way") or "gpus"
    for broken in (_bus(observed), _module(observed), _fabric(observed), _engine(observed, way)):
        if broken:
            found.append(broken)
            break
    said = _log(verification)
    if said and all(said["finding"] != row["finding"] for row in found):
        found.append(said)
    return found
