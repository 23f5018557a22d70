# Apache-2.0 (see LICENSE)
"""What a text says about the host: GPUs, kernel, driver, packages, device files."""

from __future__ import annotations

import re
from typing import Any

from .reader_base import Reading, command, fetch, on, put, row, version
from .reader_shell import WINDOWS, Command, Place

TOOLKIT_PACKAGES = frozenset(
    (
        "nvidia-container-toolkit",
        "nvidia-container-toolkit-base",
        "libnvidia-container1",
        "libnvidia-container-tools",
        "nvidia-docker2",
        "nvidia-container-runtime",
        "nvidia-docker",
    )
)
DRIVER_PACKAGE = re.compile(
    r"^(?:nvidia-(?!container|docker|cuda-|cudnn|settings|prime|profiler|visual)"
    r"|libnvidia-(?!container|ml-dev)|libcuda1|cuda-drivers|"
    r"linux-(?:modules|objects|signatures)-nvidia|xserver-xorg-video-nvidia|cuda-compat|nvidia-settings)"
)


def pci_address(text: str) -> str:
    """`01:00.0` and `00000000:01:00.0` as sysfs writes them."""
    text = text.lower()
    if text.count(":") == 1:
        return "0000:" + text
    domain, _, rest = text.partition(":")
    return domain[-4:].rjust(4, "0") + ":" + rest


# --- nvidia-smi

_SMI = re.compile(
    r"NVIDIA-SMI\s+(?P<smi>\S+)\s+(?:KMD|Driver) Version:\s*(?P<driver>[^\s|]+)"
    r"(?:[\s|]+CUDA (?:UMD )?Version:\s*(?P<cuda>[^\s|]+))?"
)
_SMI_GPU = re.compile(
    r"^\s*\|\s*(?P<index>\d{1,3})\s+(?P<name>\S.*?)\s+(?P<persistence>On|Off|N/A|WDDM|TCC|MCDM|ERR!)\s*\|"
    r"\s*(?P<pci>[0-9A-Fa-f]{4,8}:[0-9A-Fa-f]{2}:[0-9A-Fa-f]{2}\.[0-7])\s+(?P<display>"
    r"On|Off|N/A)?\s*\|\s*(?P<ecc>[^|]*?)\s*\|"
)
_SMI_NUMBERS = re.compile(
    r"^\s*\|\s*(?P<fan>\S+)\s+(?P<temp>\S+)\s+(?P<state>\S+)\s+\S+\s*/\s*\S+\s*\|"
    r"\s*(?P<used>\d+)MiB\s*/\s*(?P<total>\d+)MiB\s*\|\s*(?P<use>\S+)\s+(?P<compute>[^|]*?)\s*\|"
)
_SMI_MIG = re.compile(r"^\s*\|\s*(?:(?:N/A|None)[^|]*)?\|\s*\|\s*(?P<mig>Enabled|Disabled|N/A)\*?\s*\|")
_MIG_ROW = re.compile(r"^\s*\|\s*(?P<gpu>\d+)\s+(?P<gi>\d+)\s+(?P<ci>\d+)\s+(?P<dev>\d+)\s*\|")


@on("Driver Version:", "KMD Version:")
def _smi_table(reading: Reading, number: int, text: str, place: Place) -> None:
    match = _SMI.search(text)
    if not match:
        return
    driver = version(match.group("driver"))
    cuda = version(match.group("cuda"))
    if not driver:
        return
    if place.inside:
        place.container["nvidia_smi"] = {"ok": True, "error": None, "driver_version": driver}
        if match.group("cuda"):
            # N/A there: libcuda is not in the container, though NVML is.
            place.container["nvidia_smi"]["cuda_version"] = match.group("cuda")
    else:
        put(
            reading.stack,
            "driver.nvml",
            {"source": "nvidia-smi", "driver_version": driver, "cuda_version": cuda, "error": None},
        )
        smi = version(match.group("smi"))
        if smi and smi != driver and smi.count(".") == 1 and driver.count(".") == 1 and place.kind != WINDOWS:
            # Only in WSL do nvidia-smi and the driver, which is Windows's, differ and yet agree.
            reading.platform.setdefault("wsl", True)
        if reading.concerns_host(place):
            put(reading.stack, "driver.userspace.nvidia_smi", "nvidia-smi")
    _loaded(reading, driver, None)
    devices = _smi_rows(reading, number, place)
    if devices and (not place.inside or not fetch(reading.stack, "driver.devices")):
        put(reading.stack, "driver.devices", devices)


def _loaded(reading: Reading, driver: str, flavour: str | None) -> None:
    """The kernel's module has this version; which place asked does not matter."""
    loaded = fetch(reading.stack, "driver.loaded")
    if not isinstance(loaded, dict):
        loaded = {}
    if loaded.get("version") not in (None, driver):
        loaded.pop("flavour", None)
    loaded["version"] = driver
    if flavour:
        loaded["flavour"] = flavour
    put(reading.stack, "driver.loaded", loaded)


def _smi_rows(reading: Reading, number: int, place: Place) -> list[dict[str, Any]]:
    devices: list[dict[str, Any]] = []
    instances: dict[int, int] = {}
    in_mig = no_mig = False
    for text in reading.following(number, 400):
        if "|" not in text:
            if text and not text.lstrip().startswith("+") and not text.lstrip().startswith("="):
                break
            if not text and devices and in_mig:
                continue
            continue
        if "Processes:" in text:
            break
        if "MIG devices:" in text:
            in_mig = True
        if "No MIG devices found" in text:
            no_mig = True
        if in_mig:
            found = _MIG_ROW.match(text)
            if found:
                index = int(found.group("gpu"))
                instances[index] = instances.get(index, 0) + 1
            continue
        match = _SMI_GPU.match(text)
        if match:
            device: dict[str, Any] = {
                "index": int(match.group("index")),
                "name": match.group("name"),
                "pci": pci_address(match.group("pci")),
            }
            if match.group("ecc").isdigit():
                device["ecc_uncorrectable"] = int(match.group("ecc"))
            if match.group("persistence") in ("WDDM", "TCC", "MCDM"):
                reading.platform["os"] = "windows"
            devices.append(device)
            continue
        if not devices:
            continue
        match = _SMI_NUMBERS.match(text)
        if match:
            devices[-1]["memory_used_mib"] = int(match.group("used"))
            devices[-1]["memory_total_mib"] = int(match.group("total"))
            if match.group("temp").rstrip("C").isdigit():
                devices[-1]["temperature_c"] = int(match.group("temp").rstrip("C"))
            if match.group("use").rstrip("%").isdigit():
                devices[-1]["utilization_percent"] = int(match.group("use").rstrip("%"))
            compute = match.group("compute")
            if compute in ("Default", "Prohibited") or "E" in compute[:2]:
                devices[-1]["compute_mode"] = compute
            continue
        match = _SMI_MIG.match(text)
        if match and match.group("mig") != "N/A":
            devices[-1]["mig_mode"] = match.group("mig") == "Enabled"
    for device in devices:
        if device.get("mig_mode") and (in_mig or no_mig):
            device["mig_instances"] = instances.get(device["index"], 0)
    return devices


# Of NVML's words for its errors, only whole ones: people write titles with them, too.
_SMI_FAILURE = re.compile(
    r"^\s*(?:sudo: )?(?P<error>Failed to initialize NVML: (?:Driver/library version "
    r"mismatch|Unknown Error|Insufficient Permissions"
    r"|GPU access blocked by the operating system|Driver Not Loaded"
    r"|NVML Shared Library Not Found|GPU is lost|Not Found"
    r"|No supported GPUs were found|Timeout|GPU requires reset|Uninitialized|Not Supported|Function Not Found"
    r"|Insufficient External Power|Insufficient Memory|In use by another client)"
    r"|NVIDIA-SMI has failed because [^\"]+|NVIDIA-SMI couldn't [^\"]+"
    r"|Unable to determine the device handle for [^\"]+)\W*$"
)


@on(
    "Failed to initialize NVML",
    "NVIDIA-SMI has failed",
    "NVIDIA-SMI couldn't",
    "Unable to determine the device handle",
)
def _smi_failure(reading: Reading, number: int, text: str, place: Place) -> None:
    match = _SMI_FAILURE.match(text)
    if not match:
        return
    error = match.group("error").strip()
    for more in reading.following(number, 2):
        if not error.endswith(".") and more and re.match(r"^(?:[a-z]|Make sure|running|NVML library)", more):
            error += " " + more.strip()
    if place.inside:
        place.container["nvidia_smi"] = {"ok": False, "error": error, "driver_version": None}
        place.failing = True
    else:
        put(
            reading.stack,
            "driver.nvml",
            {"source": "nvidia-smi", "driver_version": None, "cuda_version": None, "error": error},
        )
        driver = fetch(reading.stack, "driver")
        driver.pop("devices", None)


@on("No devices were found")
def _smi_nothing(reading: Reading, number: int, text: str, place: Place) -> None:
    if not re.match(r"^\W*No devices were found\W*$", text):
        return
    if place.inside:
        place.container["nvidia_smi"] = {
            "ok": False,
            "error": "No devices were found",
            "driver_version": None,
        }
        place.failing = True
    else:
        put(reading.stack, "driver.devices", [])


_SMI_LIST = re.compile(r"^\s*GPU (?P<index>\d+): (?P<name>.+?) \(UUID: (?P<uuid>GPU-[\w-]+)\)")
_SMI_LIST_MIG = re.compile(r"^\s*MIG \S+\s+Device\s+\d+:")


@on("(UUID: GPU-")
def _smi_list(reading: Reading, number: int, text: str, place: Place) -> None:
    match = _SMI_LIST.match(text)
    if not match:
        return
    typed = reading.command_of(number)
    asked = typed is not None and "nvidia-smi" in typed.text
    if place.inside and asked:
        place.container.setdefault("nvidia_smi", {"ok": True, "error": None, "driver_version": None})[
            "ok"
        ] = True
    elif not asked and not place.inside:
        # A line of an issue's form: what is in the machine, and no proof that the driver answers now.
        name = re.sub(r"^NVIDIA ", "", match.group("name"))
        reading.list_at("host.gpus").append({"name": name, "vendor_id": "10de"})
        return
    elif reading.concerns_host(place):
        nvml = reading.stack.setdefault("driver", {}).setdefault("nvml", {})
        nvml.update(source="nvidia-smi", error=None)
    devices = reading.list_at("driver.devices")
    device = row(devices, index=int(match.group("index")))
    device.update(name=match.group("name"), uuid=match.group("uuid"))
    count = sum(1 for line in _while(reading, number, _SMI_LIST_MIG) if line)
    if count:
        device.update(mig_mode=True, mig_instances=count)


def _while(reading: Reading, number: int, pattern: re.Pattern[str]) -> list[str]:
    lines = []
    for text in reading.following(number, 60):
        if not pattern.match(text):
            break
        lines.append(text)
    return lines


@on("NVSMI LOG")
def _smi_query(reading: Reading, number: int, text: str, place: Place) -> None:
    """`nvidia-smi -q`."""
    devices: list[dict[str, Any]] = []
    section: dict[int, str] = {}
    for line in reading.following(number, 2500):
        if not line:
            continue
        if line[0] not in " \t" and not re.match(r"^(?:GPU [0-9A-Fa-f:.]+|[A-Z][\w ]+\s*:)", line):
            break
        gpu = re.match(r"^GPU (?P<pci>[0-9A-Fa-f]{4,8}:[0-9A-Fa-f:.]+)", line)
        if gpu:
            devices.append({"index": len(devices), "pci": pci_address(gpu.group("pci"))})
            section = {}
            continue
        name, colon, value = line.strip().partition(":")
        name, value = name.strip(), value.strip()
        indent = len(line) - len(line.lstrip())
        if not colon:
            section = {depth: title for depth, title in section.items() if depth < indent}
            section[indent] = name
            continue
        inside = [title for depth, title in section.items() if depth < indent]
        if not devices:
            if name in ("Driver Version", "KMD Version") and version(value):
                _loaded(reading, value, None)
                if not place.inside:
                    put(reading.stack, "driver.nvml.driver_version", value)
                    put(reading.stack, "driver.nvml.source", "nvidia-smi")
                    put(reading.stack, "driver.nvml.error", None)
            elif name in ("CUDA Version", "CUDA UMD Version") and version(value) and not place.inside:
                put(reading.stack, "driver.nvml.cuda_version", value)
            continue
        device = devices[-1]
        if name == "Product Name":
            device["name"] = value
        elif name == "GPU UUID":
            device["uuid"] = value
        elif name == "Compute Mode":
            device["compute_mode"] = value
        elif inside[-1:] == ["MIG Mode"] and name == "Current" and value in ("Enabled", "Disabled"):
            device["mig_mode"] = value == "Enabled"
        elif inside[-1:] == ["Fabric"] and name in ("State", "Status"):
            device.setdefault("fabric", {})[name.lower()] = value
        elif inside[-1:] == ["FB Memory Usage"] and name in ("Total", "Used") and value.endswith("MiB"):
            number_text = value.split()[0]
            if number_text.isdigit():
                device["memory_%s_mib" % name.lower()] = int(number_text)
    if devices:
        put(reading.stack, "driver.devices", devices)


_CSV_FIELDS = {
    "name": "name",
    "gpu_name": "name",
    "driver_version": "driver",
    "uuid": "uuid",
    "pci.bus_id": "pci",
    "index": "index",
    "memory.total [MiB]": "total",
    "memory.used [MiB]": "used",
    "compute_cap": "capability",
    "mig.mode.current": "mig",
}


@on("driver_version", "compute_cap", "memory.total [MiB]")
def _smi_csv(reading: Reading, number: int, text: str, place: Place) -> None:
    names = [part.strip() for part in text.split(",")]
    if (len(names) < 2 and names[0] not in ("driver_version", "compute_cap")) or any(
        " " in name and "[" not in name for name in names
    ):
        return
    if not any(name in _CSV_FIELDS for name in names) or "--query" in text:
        return
    for index, line in enumerate(reading.following(number, 32)):
        values = [part.strip() for part in line.split(",")]
        if len(values) != len(names) or not values[0]:
            break
        found = {
            _CSV_FIELDS[name]: value for name, value in zip(names, values, strict=True) if name in _CSV_FIELDS
        }
        if version(found.get("driver")):
            _loaded(reading, found["driver"], None)
        devices = reading.list_at("driver.devices")
        device = row(devices, index=int(found["index"]) if found.get("index", "").isdigit() else index)
        if found.get("name"):
            device["name"] = found["name"]
        if re.match(r"^\d+\.\d$", found.get("capability", "")):
            device["compute_capability"] = found["capability"]
        if found.get("mig") in ("Enabled", "Disabled"):
            device["mig_mode"] = found["mig"] == "Enabled"
        total = re.match(r"^(\d+) MiB", found.get("total", ""))
        if total:
            device["memory_total_mib"] = int(total.group(1))


# --- the loaded module

_NVRM_VERSION = re.compile(
    r"NVRM version: NVIDIA UNIX (?P<what>.*?Kernel Module)\s*(?:for \w+)?\s+(?P<version>\d{3}[\d.]*)"
)
_NVRM_LOADING = re.compile(
    r"NVRM: loading NVIDIA UNIX (?P<what>.*?Kernel Module)\s*(?:for \w+)?\s+(?P<version>\d{3}[\d.]*)"
)


@on("NVRM version: NVIDIA UNIX", "NVRM: loading NVIDIA UNIX")
def _nvrm_version(reading: Reading, number: int, text: str, place: Place) -> None:
    match = _NVRM_VERSION.search(text) or _NVRM_LOADING.search(text)
    if match:
        _loaded(reading, match.group("version"), "open" if "Open" in match.group("what") else "proprietary")
        if place.inside and "NVRM version" in text:
            place.container["proc_driver_version"] = match.group("version")


@on("NVRM: None of the NVIDIA", "NVRM: No NVIDIA")
def _nvrm_gives_up(reading: Reading, number: int, text: str, place: Place) -> None:
    """The module was loaded, found nothing to drive, and was thrown out again."""
    if (
        "devices were initialized" in text
        or "GPU found" in text
        or "graphics adapter found" in text
        or "devices probed" in text
    ):
        driver = reading.stack.setdefault("driver", {})
        driver["loaded"] = False


@on("/proc/driver/nvidia/version")
def _proc_version_absent(reading: Reading, number: int, text: str, place: Place) -> None:
    if "No such file" in text and text.startswith(("cat:", "ls:", "head:")):
        if place.inside:
            place.container["proc_driver_version"] = False
        elif place.kind != WINDOWS:
            put(reading.stack, "driver.loaded", False)
    elif "does not exist" in text and place.inside:
        place.container["proc_driver_version"] = False


_MISMATCH = re.compile(
    r"API mismatch: the client(?: '[^']*'(?: \(pid \d+\))?)? has (?:the )?version (?P<client>\d[\d.]*\d)"
    r".{0,40}?kernel module has (?:the )?version (?P<module>\d[\d.]*\d)"
)


@on("API mismatch: the client")
def _api_mismatch(reading: Reading, number: int, text: str, place: Place) -> None:
    joined = re.sub(r"\s*NVRM:\s*", " ", " ".join([text, *reading.following(number, 3)]))
    match = _MISMATCH.search(joined)
    if match:
        # The client may be a container's; then its library is not the host's.
        _loaded(reading, match.group("module"), None)
        if (
            reading.concerns_host(place)
            and place.kind == "host"
            and not fetch(reading.stack, "driver.userspace.version")
        ):
            put(reading.stack, "driver.userspace.version", match.group("client"))


_LSMOD_ROW = re.compile(r"^\s*(?P<module>nvidia(?:_\w+)?|nouveau)\s+\d{4,}\s+-?\d+(?:\s|$)")


@on("nvidia ", "nvidia_uvm ", "nvidia_drm ", "nvidia_modeset ", "nouveau ")
def _lsmod_row(reading: Reading, number: int, text: str, place: Place) -> None:
    match = _LSMOD_ROW.match(text)
    if not match or place.kind == WINDOWS:
        return
    name = match.group("module")
    if name == "nouveau":
        put(reading.stack, "host.nouveau.loaded", True)
        return
    loaded = fetch(reading.stack, "driver.loaded")
    if not isinstance(loaded, dict):
        loaded = {"version": None}
        put(reading.stack, "driver.loaded", loaded)
    if name not in loaded.setdefault("modules", []):
        loaded["modules"].append(name)


@command("lsmod")
def _lsmod(reading: Reading, typed: Command, output: list[str]) -> None:
    if typed.typed_in.kind == WINDOWS:
        return
    filtered = typed.text.partition("|")[2].lower()
    rows = [line for line in output if re.match(r"^\w+\s+\d+\s+-?\d+", line)]
    if not filtered:
        # The whole list: what is not in it is not loaded.
        if len(rows) > 15 and any(re.match(r"^Module\s+Size", line) for line in output):
            names = {line.split()[0] for line in rows}
            if "nvidia" not in names:
                put(reading.stack, "driver.loaded", False)
            put(reading.stack, "host.nouveau.loaded", "nouveau" in names)
        return
    if reading.answered_with_nothing(typed):
        if re.search(r"grep\s+(?:-\S+\s+)*[\"']?(?:nvidia|nv)[\"']?\s*$", filtered):
            put(reading.stack, "driver.loaded", False)
        elif re.search(r"grep\s+(?:-\S+\s+)*[\"']?nouveau[\"']?\s*$", filtered):
            put(reading.stack, "host.nouveau.loaded", False)


# --- the module on the disk

_FIELD = re.compile(r"^(?P<name>[\w]+):\s*(?P<value>.*)$")


@on("filename:")
def _modinfo(reading: Reading, number: int, text: str, place: Place) -> None:
    match = re.match(r"^\s*filename:\s+(?P<path>\S+/nvidia(?:-current)?\.ko\S*)", text)
    if not match or not reading.concerns_host(place):
        return
    found: dict[str, Any] = {"path": match.group("path")}
    kernel = re.search(r"/lib/modules/([^/]+)/", found["path"])
    if kernel:
        found["kernel"] = kernel.group(1)
    seen_magic = seen_parm = False
    for line in reading.following(number, 400):
        entry = _FIELD.match(line.strip())
        if not entry:
            if line.strip() and line[0] not in " \t":
                break
            continue
        name, value = entry.group("name"), entry.group("value").strip()
        if name == "version":
            found["version"] = value
        elif name == "license":
            found["flavour"] = "open" if "MIT" in value else "proprietary"
        elif name in ("sig_id", "signer", "sig_key"):
            found["signed"] = True
        elif name == "vermagic":
            seen_magic = True
        elif name == "parm":
            seen_parm = seen_parm or seen_magic
    if seen_parm:
        found.setdefault("signed", False)
    put(reading.stack, "driver.on_disk", found)


@on("Module nvidia not found")
def _no_module(reading: Reading, number: int, text: str, place: Place) -> None:
    match = re.match(
        r"^\W*(?:modinfo: ERROR|modprobe: (?:FATAL|ERROR)): Module nvidia not found(?: in "
        r"directory /lib/modules/(?P<kernel>\S+))?",
        text,
    )
    if match and reading.concerns_host(place):
        put(reading.stack, "driver.on_disk", False)
        if match.group("kernel"):
            put(reading.stack, "host.kernel.running", match.group("kernel").rstrip("."))


_DKMS = re.compile(
    r"^\s*(?P<module>nvidia[\w-]*?)(?:/|, )(?P<version>\d[\w.~+-]*)(?:, "
    r"(?P<kernel>[\w.~+-]+)(?:, \w+)?)?: (?P<status>added|built|installed|broken)\b"
)


@on(": installed", ": added", ": built", ": broken")
def _dkms_status(reading: Reading, number: int, text: str, place: Place) -> None:
    match = _DKMS.match(text)
    if not match or not reading.concerns_host(place):
        return
    entry = row(
        reading.list_at("driver.dkms"),
        module=match.group("module"),
        version=match.group("version"),
        kernel=match.group("kernel"),
    )
    entry["status"] = match.group("status")


@on("Your kernel headers for kernel", "kernel headers for kernel")
def _headers_missing(reading: Reading, number: int, text: str, place: Place) -> None:
    joined = " ".join([text, *reading.following(number, 1)])
    match = re.search(r"kernel headers for kernel (\S+) (?:cannot be found|(?:are|is) missing)", joined)
    if (
        match
        and reading.concerns_host(place)
        and match.group(1) not in (fetch(reading.stack, "host.kernel.headers") or [])
    ):
        put(reading.stack, "host.kernel.headers", [])


# --- PCI

_LSPCI = re.compile(
    r"^\s*(?P<pci>(?:[0-9a-fA-F]{4,8}:)?[0-9a-fA-F]{2}:[0-9a-fA-F]{2}\.[0-7])\s+\"?(?P"
    r"<class>[A-Z0-9][\w /-]{2,40}?)"
    r"(?: \[(?P<code>[0-9a-f]{4})\])?(?::|\") \"?(?P<what>.*)$"
)
_CLASSES = {
    "VGA compatible controller": "030000",
    "3D controller": "030200",
    "Display controller": "038000",
    "Bridge": "068000",
}


@on("NVIDIA Corporation", "nVidia Corporation", "[10de:")
def _lspci(reading: Reading, number: int, text: str, place: Place) -> None:
    match = _LSPCI.match(text)
    if not match or place.kind == WINDOWS:
        return
    kind = _CLASSES.get(match.group("class"))
    if match.group("code"):
        kind = {"0300": "030000", "0302": "030200", "0380": "038000", "0680": "068000"}.get(
            match.group("code")
        )
    if kind is None:
        return
    what = match.group("what")
    device_id = re.search(r"\[10de:([0-9a-f]{4})\]", what) or re.search(
        r"Corporation Device (?:\[)?([0-9a-f]{4})\b", what
    )
    found: dict[str, Any] = {"vendor_id": "10de", "class": kind}
    if device_id:
        found["device_id"] = device_id.group(1)
    if re.search(r"\(rev ff\)", what):
        found["rev"] = "ff"
    if kind == "068000":
        if "NVSwitch" in what or device_id:
            row(reading.list_at("host.nvswitches"), pci=pci_address(match.group("pci"))).update(found)
        return
    name = re.search(r"(?P<chip>[A-Z]{1,2}\d{2,3}[A-Z]*) \[(?P<name>[^\]]+)\]", what)
    if name:
        found["chip"] = name.group("chip")[:5]
        found["name"] = name.group("name")
    gpu = row(reading.list_at("host.gpus"), pci=pci_address(match.group("pci")))
    gpu.update(found)
    detailed = in_use = False
    for line in reading.following(number, 80):
        if not line.strip() or line[0] not in " \t":
            break
        detail = line.strip()
        if detail.startswith("Kernel driver in use:"):
            gpu["driver_bound"] = detail.partition(":")[2].strip() or None
            in_use = True
        elif detail.startswith("Kernel modules:"):
            detailed = True
            gpu["modules"] = [part.strip() for part in detail.partition(":")[2].split(",")]
        elif "Unknown header type" in detail:
            gpu["rev"] = "ff"
    if detailed and not in_use:
        gpu["driver_bound"] = None


@command("lspci")
def _lspci_empty(reading: Reading, typed: Command, output: list[str]) -> None:
    if not reading.concerns_host(typed.typed_in) or not reading.answered_with_nothing(typed):
        return
    filtered = typed.text.partition("|")[2].lower()
    by_vendor = not filtered and re.search(r"\s-d ?10de:(?:\s|$)", typed.text)
    # Without -i, grep would miss the vendor's capitals.
    by_name = re.search(r"grep\s+-\w*i\w*\s+[\"']?nvidia[\"']?\s*$", filtered)
    if by_vendor or by_name:
        put(reading.stack, "host.gpus", [])


@on("configuration: driver=")
def _lshw(reading: Reading, number: int, text: str, place: Place) -> None:
    """`lshw -C display`: vendor and bus info stand above the configuration."""
    match = re.search(r"configuration: driver=(\S+)", text)
    above = reading.texts[max(0, number - 16) : number]
    start = max((index for index, line in enumerate(above) if "*-" in line), default=0)
    block = "\n".join(above[start:])
    if not match or "NVIDIA" not in block or not reading.concerns_host(place):
        return
    bus = re.search(r"bus info: pci@([0-9a-f:.]+)", block)
    if bus and "*-display" in block:
        row(reading.list_at("host.gpus"), pci=pci_address(bus.group(1)))["driver_bound"] = match.group(1)


# --- kernel and system

_UNAME = re.compile(
    r"^Linux (?P<node>\S+) (?P<release>\d+\.\d+[\w.+~-]*) #\S+.*?(?P<arch>x86_64|aarch64|ppc64le)?"
)
_ARCHS = {"x86_64": "amd64", "aarch64": "arm64", "ppc64le": "ppc64el"}


def _release(reading: Reading, release: str, place: Place) -> None:
    if place.kind == WINDOWS:
        return
    put(reading.stack, "host.kernel.running", release)
    reading.platform.setdefault("os", "linux")
    if "microsoft" in release.lower():
        reading.platform["wsl"] = True


@on("Linux ")
def _uname(reading: Reading, number: int, text: str, place: Place) -> None:
    match = _UNAME.match(text)
    if match:
        _release(reading, match.group("release"), place)
        arch = re.search(r"\b(x86_64|aarch64|ppc64le)\b", text)
        if arch:
            put(reading.stack, "host.os.arch", _ARCHS[arch.group(1)])
        return
    match = re.match(r"^Linux version (\d+\.\d+[\w.+~-]*) \(", text)
    if match:
        _release(reading, match.group(1), place)


@command("uname")
def _uname_r(reading: Reading, typed: Command, output: list[str]) -> None:
    lines = [line for line in output if line.strip()]
    if lines and typed.words[1:2] == ["-r"] and re.match(r"^\d+\.\d+[\w.+~-]*$", lines[0]):
        _release(reading, lines[0], typed.output_in)


@on("Kernel Version: ", "Kernel: ")
def _kernel_version(reading: Reading, number: int, text: str, place: Place) -> None:
    match = re.match(r"^\s*Kernel(?: Version)?: (?:Linux )?(\d+\.\d+\.\d+[\w.+~-]*)", text)
    if match:
        _release(reading, match.group(1), place)


@on("Linux-")
def _python_platform(reading: Reading, number: int, text: str, place: Place) -> None:
    match = re.match(
        r"^\W*(?:Python )?[Pp]latform(?: version)?: "
        r"?Linux-(\d+\.\d+\.\d+[\w.+~-]*?)-(x86_64|aarch64|ppc64le)",
        text,
    )
    if match:
        _release(reading, match.group(1), place)


@on("PRETTY_NAME=", "VERSION_ID=", "Description:", "OS: ")
def _os_release(reading: Reading, number: int, text: str, place: Place) -> None:
    if not reading.concerns_host(place):
        return
    match = re.match(
        r"^(?:PRETTY_NAME=|Description:\s+|\W*OS: )\"?(?P<name>(?P<id>Ubuntu"
        r"|Debian)\D{0,18}(?P<version>\d+(?:\.\d+)?)[^\"]*)\"?$",
        text,
    )
    if match:
        put(reading.stack, "host.os.pretty_name", match.group("name").strip())
        put(reading.stack, "host.os.id", match.group("id").lower())
        put(reading.stack, "host.os.version_id", match.group("version"))
        return
    match = re.match(r"^\W*OS: (?:Microsoft )?(?P<name>Windows.*|mac ?OS.*)", text, re.IGNORECASE)
    if match:
        reading.platform["os"] = "windows" if match.group("name").lower().startswith("win") else "darwin"


@on("SecureBoot ", "Secure boot ", "secureboot", "EFI variables are not supported")
def _secure_boot(reading: Reading, number: int, text: str, place: Place) -> None:
    if not reading.concerns_host(place):
        return
    match = re.match(r"^\W*SecureBoot (enabled|disabled)", text) or re.search(
        r"[Ss]ecure ?boot: Secure boot (enabled|disabled)", text
    )
    if match:
        put(reading.stack, "host.secure_boot", match.group(1) == "enabled")
    elif text.startswith("EFI variables are not supported on this system"):
        put(reading.stack, "host.secure_boot", False)


@on("is already enrolled", "is not enrolled")
def _mok(reading: Reading, number: int, text: str, place: Place) -> None:
    match = re.match(r"^(/\S+) is (already|not) enrolled", text)
    if match:
        reading.put("host.mok", {"key": match.group(1), "enrolled": match.group(2) == "already"}, place)


@on("Hypervisor vendor:", "Hypervisor detected: ", "Virtualization: ")
def _hypervisor(reading: Reading, number: int, text: str, place: Place) -> None:
    match = re.search(
        r"(?:Hypervisor vendor|Hypervisor detected|^\s*Virtualization): +(?P<name>KVM"
        r"|VMware|Microsoft|Xen|Oracle|kvm|vmware|microsoft|xen|oracle|wsl)\b",
        text,
    )
    if match:
        name = match.group("name").lower()
        if name != "microsoft":
            reading.put("host.virtual", name, place)
            reading.platform["virtual_machine"] = name


@command("systemd-detect-virt")
def _detect_virt(reading: Reading, typed: Command, output: list[str]) -> None:
    lines = [line for line in output if line.strip()]
    if lines and re.match(r"^[a-z-]{2,20}$", lines[0]) and reading.concerns_host(typed.output_in):
        put(reading.stack, "host.virtual", lines[0])
        reading.platform["virtual_machine"] = None if lines[0] in ("none", "docker", "lxc") else lines[0]
        if lines[0] == "wsl":
            reading.platform["wsl"] = True


@on("blacklist nouveau")
def _blacklist(reading: Reading, number: int, text: str, place: Place) -> None:
    """Only as a line of a configuration file, not as somebody's advice."""
    if re.match(r"^\s*(?:/etc/modprobe\.d/\S+:(?:\d+:)?)?blacklist nouveau\s*$", text):
        typed = [one for one in reading.transcript.commands if one.start <= number < one.end]
        if typed and typed[-1].program in ("cat", "grep", "more", "less", "head", "tail", "modprobe"):
            reading.put("host.nouveau.blacklisted", True, place)


# --- files

_NODE = re.compile(
    r"^c(?P<mode>[rwxsStT-]{9})[.+]?\s+\d+\s+(?P<owner>\S+)\s+(?P<group>\S+)\s+(?P<maj"
    r"or>\d+),\s*(?P<minor>\d+)\s.*?(?P<path>(?:/dev/)?nvidia[\w-]*(?:/\S+)?)$"
)


@on("nvidia")
def _device_node(reading: Reading, number: int, text: str, place: Place) -> None:
    if text[0] != "c":
        return
    match = _NODE.match(text)
    if not match or place.kind == WINDOWS:
        return
    name = match.group("path").rpartition("/")[2]
    if "cap" in name:
        return
    path = "/dev/" + name
    bits = match.group("mode")
    mode = 0
    for index, letter in enumerate(bits):
        mode |= (letter not in "-ST") << (8 - index)
    if place.inside:
        nodes = place.container.setdefault("device_nodes", [])
        place.container["device_nodes"] = nodes if path in nodes else [*nodes, path]
        return
    nodes = reading.list_at("driver.device_nodes")
    if path not in nodes:
        nodes.append(path)
    access = {"mode": "%04o" % mode, "owner": match.group("owner") + ":" + match.group("group")}
    access["device"] = match.group("major") + ":" + match.group("minor")
    put_access = reading.stack["driver"].setdefault("device_access", {})
    put_access[path] = access


@on("/dev/nvidia")
def _no_device_node(reading: Reading, number: int, text: str, place: Place) -> None:
    if not text.startswith(("ls:", "stat:")) or "No such file" not in text or place.kind == WINDOWS:
        return
    if re.search(r"/dev/nvidia\*", text) or "/dev/nvidia'" in text:
        if place.inside:
            place.container["device_nodes"] = []
        else:
            put(reading.stack, "driver.device_nodes", [])


_LINK = re.compile(
    r"(?P<name>libcuda\.so(?:\.1)?|libnvidia-ml\.so(?:\.1)?) -> "
    r"(?:\S*/)?(?P<real>lib[\w-]+\.so\.(?P<version>\d{3}[\d.]+))"
)


@on("libcuda.so", "libnvidia-ml.so")
def _library(reading: Reading, number: int, text: str, place: Place) -> None:
    match = _LINK.search(text)
    full = re.search(
        r"(?P<path>/\S*/(?:libcuda|libnvidia-ml)\.so\.(?P<version>\d{3}\.[\d.]*\d))(?=[\s:]|$)", text
    )
    if place.kind == WINDOWS or not (match or full):
        return
    found = match or full
    assert found is not None
    number_found = found.group("version")
    name = "libcuda" if "libcuda" in found.group(0) else "libnvidia_ml"
    path = full.group("path") if full else None
    if place.inside:
        if name == "libcuda" and "compat" not in text and "stubs" not in text:
            place.container["libcuda"] = {"path": path, "version": number_found, "kind": "driver"}
    elif "compat" not in text and "stubs" not in text and "i386" not in text and "lib32" not in text:
        put(reading.stack, "driver.userspace.version", number_found)
        put(reading.stack, "driver.userspace.%s" % name, path or found.group("real"))


@on(
    "nvidia-smi", "nvidia-container-cli", "nvidia-container-toolkit", "nvidia-ctk", "nvidia-container-runtime"
)
def _not_found(reading: Reading, number: int, text: str, place: Place) -> None:
    match = re.search(
        r"(?:^|[\s:'\"/])(?P<name>nvidia-(?:smi|container-cli|container-toolkit|ctk"
        r"|container-runtime(?:-hook)?))'?:? (?:command )?not found\b"
        r"|command not found: (?P<zsh>nvidia-(?:smi|ctk|container-cli))\b"
        r"|Command '(?P<ubuntu>nvidia-smi|nvidia-ctk|nvidia-container-cli)' not found"
        r"|exec: \"(?P<oci>nvidia-smi)\": executable file not found in",
        text,
    )
    if not match or place.kind == WINDOWS:
        return
    name = match.group("name") or match.group("ubuntu") or match.group("zsh") or match.group("oci")
    if name == "nvidia-smi":
        if place.inside or match.group("oci"):
            target = place if place.inside else None
            if target is not None:
                target.container["nvidia_smi"] = {
                    "ok": False,
                    "error": "nvidia-smi: not found",
                    "driver_version": None,
                }
                target.failing = True
        else:
            put(reading.stack, "driver.userspace.nvidia_smi", False)
    elif not place.inside:
        key = {"nvidia-container-toolkit": "nvidia-container-runtime-hook"}.get(name, name)
        put(reading.stack, "container_runtime.toolkit.binaries.%s" % key, False)


# --- services


@on("Loaded: ", "Active: ")
def _service(reading: Reading, number: int, text: str, place: Place) -> None:
    """`systemctl status`."""
    if not reading.concerns_host(place) or not re.match(r"^\s*(?:Loaded|Active): ", text):
        return
    unit = None
    for back in range(number - 1, max(-1, number - 6), -1):
        named = re.match(r"^\W*([\w@.-]+?)\.(service|socket)\b", reading.texts[back])
        if named:
            unit = named.group(1) if named.group(2) == "service" else None
            break
    if unit is None:
        return
    found: dict[str, Any] = {}
    loaded = re.match(
        r"^\s*Loaded: (?P<state>loaded|not-found|masked|bad-setting"
        r"|error)(?: \([^;)]*; (?P<enabled>[\w-]+))?",
        text,
    )
    active = re.match(
        r"^\s*Active: (?P<state>active|inactive|failed|activating|deactivating|reloading)\b", text
    )
    if loaded:
        if loaded.group("state") == "not-found":
            found["installed"] = False
        elif loaded.group("enabled"):
            found["enabled"] = loaded.group("enabled") in (
                "enabled",
                "static",
                "enabled-runtime",
                "alias",
                "indirect",
            )
    if active:
        found["active"] = active.group("state") in ("active", "reloading")
    _service_fact(reading, unit, found)


def _service_fact(reading: Reading, unit: str, found: dict[str, Any]) -> None:
    if unit in ("nvidia-fabricmanager", "nvidia-persistenced"):
        service = reading.stack.setdefault("driver", {}).setdefault(unit.partition("-")[2], {})
        if found.get("installed", True) and found:
            found.setdefault("installed", True)
        service.update(found)
    elif unit == "docker":
        if found.get("installed") is False:
            put(reading.stack, "container_runtime.docker.service", False)
            return
        service = fetch(reading.stack, "container_runtime.docker.service")
        if not isinstance(service, dict):
            service = {"unit": "docker.service"}
            put(reading.stack, "container_runtime.docker.service", service)
        service.update(found)


@on(".service could not be found", ".service not found", ".service not loaded")
def _no_unit(reading: Reading, number: int, text: str, place: Place) -> None:
    match = re.search(
        r"Unit (?:file )?(docker|nvidia-fabricmanager"
        r"|nvidia-persistenced)\.service (?:could not be found|not found|not loaded)",
        text,
    )
    if match and reading.concerns_host(place):
        _service_fact(reading, match.group(1), {"installed": False, "active": False})


@command("systemctl")
def _is_active(reading: Reading, typed: Command, output: list[str]) -> None:
    words = [word for word in typed.words if word not in ("sudo",) and not word.startswith("-")]
    lines = [line.strip() for line in output if line.strip()]
    if (
        len(words) == 3
        and words[1] == "is-active"
        and lines
        and lines[0] in ("active", "inactive", "failed", "unknown")
        and reading.concerns_host(typed.output_in)
    ):
        _service_fact(reading, words[2].partition(".service")[0], {"active": lines[0] == "active"})


_FABRIC = re.compile(
    r"[Ff]abric ?[Mm]anager(?:'s)? NVIDIA GPU driver interface version "
    r"(?P<fabric>\d{3}[\d.]*\d) (?:don't|doesn't|does not) match with driver"
    r" version (?P<driver>\d{3}[\d.]*\d)"
)


@on("driver interface version", "Fabric Manager version is")
def _fabric_manager(reading: Reading, number: int, text: str, place: Place) -> None:
    joined = " ".join([text, *reading.following(number, 1)])
    match = _FABRIC.search(joined)
    if match:
        reading.put("driver.fabricmanager.version", match.group("fabric"), place)
        reading.put("driver.fabricmanager.installed", True, place)
        _loaded(reading, match.group("driver"), None)
    match = re.search(r"Fabric Manager version is ?: (\d{3}[\d.]*\d)", text)
    if match:
        reading.put("driver.fabricmanager.version", match.group(1), place)
        reading.put("driver.fabricmanager.installed", True, place)


# --- packages

_DPKG = re.compile(
    r"^\s*(?P<want>[uihrp])(?P<status>[ncHUFWti])(?P<error>[R "
    r"]?)\s*(?P<name>[a-z0-9][a-z0-9+.-]+)(?::\w+)?\s+(?P<version>\S*\d\S*)\s+"
    r"(?:amd64|all|arm64|i386|ppc64el|armhf)\b"
)
_STATUS = {
    "n": "not-installed", "c": "config-files", "H": "half-installed", "U": "unpacked", "F": "half-configured",
    "W": "triggers-awaited", "t": "triggers-pending", "i": "installed",
}  # fmt: skip


@on("ii  ", "rc  ", "iU  ", "iF  ", "hi  ", "iH  ", "pn  ", "rH  ", "iW  ", "it  ", "iHR ", "hF  ", "ri  ")
def _dpkg_row(reading: Reading, number: int, text: str, place: Place) -> None:
    match = _DPKG.match(text)
    if match and reading.concerns_host(place):
        _package(
            reading,
            match.group("name"),
            match.group("version"),
            _STATUS[match.group("status")],
            match.group("want") == "h",
        )


def _package(reading: Reading, name: str, number: str, status: str, held: bool | None) -> None:
    entry: dict[str, Any] = {"name": name, "version": number, "status": status}
    if held is not None:
        entry["held"] = held
    if name in TOOLKIT_PACKAGES:
        row(reading.list_at("container_runtime.toolkit.packages"), name=name).update(entry)
    elif DRIVER_PACKAGE.match(name):
        row(reading.list_at("driver.packages"), name=name).update(entry)
        if name.startswith("nvidia-fabricmanager-") and "dev" not in name and status == "installed":
            found = version(re.sub(r"^\d+:", "", number))
            put(reading.stack, "driver.fabricmanager.installed", True)
            put(reading.stack, "driver.fabricmanager.version", found)
    elif name in ("docker.io", "docker-ce") and status == "installed":
        put(reading.stack, "container_runtime.docker.installed", True)
        put(reading.stack, "container_runtime.docker.package", name)
    elif name.startswith("linux-headers-") and name[14:15].isdigit() and status == "installed":
        headers = reading.list_at("host.kernel.headers")
        if name[14:] not in headers:
            headers.append(name[14:])
    elif name.startswith("linux-image-") and name[12:13].isdigit() and status == "installed":
        kernels = reading.list_at("host.kernel.installed")
        if name[12:] not in kernels:
            kernels.append(name[12:])
    else:
        return
    if status not in ("installed", "config-files", "not-installed"):
        row(reading.list_at("apt.broken"), name=name)["status"] = status


_APT_LIST = re.compile(
    r"^(?P<name>[a-z0-9][a-z0-9+.-]+)/(?P<suites>\S+) (?P<version>\S*\d\S*) \w+ "
    r"\[(?P<state>installed|residual)[^\]]*\]"
)


@on(" [installed", " [residual-config]")
def _apt_list(reading: Reading, number: int, text: str, place: Place) -> None:
    match = _APT_LIST.match(text)
    if match and reading.concerns_host(place):
        status = "installed" if match.group("state") == "installed" else "config-files"
        _package(reading, match.group("name"), match.group("version"), status, None)


@on("Setting up ")
def _set_up(reading: Reading, number: int, text: str, place: Place) -> None:
    """apt's and dpkg's word that a package is configured now."""
    match = re.match(
        r"^\s*Setting up (?P<name>[a-z0-9][a-z0-9+.-]+)(?::\w+)? \((?P<version>\S*\d\S*)\) "
        r"\.\.\.",
        text,
    )
    if match and reading.concerns_host(place):
        _package(reading, match.group("name"), match.group("version"), "installed", None)


@on("Candidate: ")
def _apt_policy(reading: Reading, number: int, text: str, place: Place) -> None:
    candidate = re.match(r"^\s+Candidate: (\S+)", text)
    if not candidate or number < 2 or not reading.concerns_host(place):
        return
    name = re.match(r"^([a-z0-9][a-z0-9+.-]+):\s*$", reading.texts[number - 2])
    installed = re.match(r"^\s+Installed: (\S+)", reading.texts[number - 1])
    if not name or not installed:
        return
    entry = {
        "candidate": None if candidate.group(1) == "(none)" else candidate.group(1),
        "installed": None if installed.group(1) == "(none)" else installed.group(1),
    }
    reading.stack.setdefault("apt", {}).setdefault("candidates", {})[name.group(1)] = entry
    if entry["installed"]:
        _package(reading, name.group(1), entry["installed"], "installed", None)


@on("E: ", "W: ")
def _apt_error(reading: Reading, number: int, text: str, place: Place) -> None:
    if text[:3] not in ("E: ", "W: ") or not reading.concerns_host(place):
        return
    if text[:3] == "E: ":
        errors = reading.list_at("apt.errors")
        if text not in errors and len(errors) < 50:
            errors.append(text)
    if text.startswith("E: dpkg was interrupted"):
        put(reading.stack, "apt.dpkg_interrupted", True)
    if "Could not get lock /var/lib/dpkg/lock" in text:
        put(reading.stack, "apt.lock_held", True)


@command("apt-mark")
def _holds(reading: Reading, typed: Command, output: list[str]) -> None:
    if "showhold" not in typed.words or not reading.concerns_host(typed.output_in):
        return
    names = [line.strip() for line in output if re.match(r"^[a-z0-9][a-z0-9+.-]+$", line.strip())]
    if names:
        put(reading.stack, "apt.holds", names)


_DF = re.compile(
    r"^(?P<device>\S+)\s+(?P<size>[\d.,]+[KMGTP]?)i?\s+(?P<used>[\d.,]+[KMGTP]?)i?\s+("
    r"?P<free>[\d.,]+[KMGTP]?)i?\s+\d+%\s+(?P<path>/\S*)$"
)


@on("Mounted on")
def _df(reading: Reading, number: int, text: str, place: Place) -> None:
    if "Filesystem" not in text or not reading.concerns_host(place):
        return
    unit = 1 / 1024
    if "1M-blocks" in text:
        unit = 1.0
    disks = reading.list_at("disk")
    for line in reading.following(number, 40):
        match = _DF.match(line)
        if not match:
            if not line.strip():
                break
            continue
        if match.group("path") in ("/", "/var", "/boot") or match.group("path").startswith("/var/lib/docker"):
            entry = row(disks, path=match.group("path"))
            entry.update(
                total_mib=_size(match.group("size"), unit), free_mib=_size(match.group("free"), unit)
            )
    if not disks:
        del reading.stack["disk"]


def _size(text: str, unit: float) -> int:
    text = text.replace(",", ".")
    factor = {"K": 1 / 1024, "M": 1.0, "G": 1024.0, "T": 1048576.0, "P": 1073741824.0}
    try:
        if text[-1] in factor:
            return int(float(text[:-1]) * factor[text[-1]])
        return int(float(text) * unit)
    except ValueError:
        return 0


# --- where we are


_WSL_SAID = re.compile(
    r"\bWSL ?-?[12]\b|\bWSL (?:[Vv]ersion|[Dd]istro|[Uu]buntu|[Kk]ernel)"
    r"|\bWindows Subsystem for Linux\b|\bUbuntu\b.{0,30}\bWSL\b"
    r"|\b(?:in|on|under|using|via|with|inside|through)\W{1,3}(?:Windows \d+ ?\W{0,3})?WSL\b",
    re.IGNORECASE,
)
_DENIED = re.compile(
    r"\b(?:not|no|non|without|instead of|don't|isn't|never|if|whether|unless|e\.g\."
    r"|or WSL|either)\b|\[ \]|dxcore|to see if",
    re.IGNORECASE,
)


@on("WSL", "wsl", "/dev/dxg", "Windows Subsystem for Linux", "/mnt/c/")
def _wsl(reading: Reading, number: int, text: str, place: Place) -> None:
    if re.search(
        r"microsoft-standard-WSL|/usr/lib/wsl/|/mnt/wslg|/dev/dxg\b|\bWSL_DISTRO_NAME="
        r"|:/mnt/c/|^/mnt/c/",
        text,
    ):
        reading.platform["wsl"] = True
    elif _WSL_SAID.search(text) and not _DENIED.search(text):
        reading.platform.setdefault("wsl", True)


_WINDOWS = re.compile(
    r"Microsoft Windows \[Version|\b(?:cudart|cudnn|cublas|cufft|nvcuda)\w*\.dll\b"
    r"|\\(?:site-packages|AppData|Users)\\"
    r"|(?:[Pp]latform|OS|[Ss]ystem|[Mm]y|[Oo]n|[Uu]sing"
    r"|[Rr]unning)\b.{0,50}?\b(?:[Ww]indows ?(?:10|11|7|8|Server)|[Ww]in ?(?:10|11)\b"
    r"|Windows-1\d)"
)
_OS_QUESTION = re.compile(r"^(?:#+ )?(?:OS|[Oo]perating [Ss]ystem|OS [Pp]latform.*)\W*$")


@on(
    "Microsoft Windows [Version",
    ".dll",
    "\\site-packages\\",
    "\\AppData\\",
    "\\Users\\",
    "indows",
    "win10",
    "win11",
    "Win10",
    "Win11",
    "in 10",
    "in 11",
)
def _windows(reading: Reading, number: int, text: str, place: Place) -> None:
    above = next((line for line in reversed(reading.texts[max(0, number - 3) : number]) if line), "")
    if _WINDOWS.search(text) or (re.match(r"^[Ww]in(?:dows)? ?\d", text) and _OS_QUESTION.match(above)):
        reading.windows_lines += 1


_LXC = re.compile(
    r"\blxc\.cgroup2?\.devices|\b(?:in|inside|within|on|an?|unprivileged|privileged) (?:an? )?"
    r"(?:unprivileged |privileged )?(?:Proxmox )?LX[CD]\b"
)


@on("LXC", "LXD", "Proxmox", "lxc.cgroup", "lxc config")
def _lxc(reading: Reading, number: int, text: str, place: Place) -> None:
    match = _LXC.search(text)
    if match and not _DENIED.search(text[max(0, match.start() - 30) : match.end()]):
        reading.stack.setdefault("host", {}).setdefault("virtual", "lxc")


_MAC = re.compile(
    r"^Darwin \S+ \d|Darwin Kernel Version|\bmacOS-\d|(?:[Pp]latform|OS"
    r"|[Ss]ystem)\b.{0,50}?\b(?:macOS|Mac OS|Darwin)"
    r"|@[\w.-]*MacBook[\w.-]* |\bMacBook\b|\bApple (?:M[1-5]|[Ss]ilicon)\b"
    r"|\b(?:my|on|an?) (?:\w+ )?[Mm]ac(?: (?:laptop|mini|studio|pro|with|M[1-5])\b|[.,])"
)


@on("Darwin", "macOS", "Mac OS", "MacBook", "Apple ", " Mac", " mac")
def _mac(reading: Reading, number: int, text: str, place: Place) -> None:
    match = _MAC.search(text)
    if match and not _DENIED.search(text[max(0, match.start() - 30) : match.end()]):
        reading.platform["os"] = "darwin"


@on(
    "google.colab", "/usr/local/lib/python3.10/dist-packages/google", "colab.research.google.com", "COLAB_GPU"
)
def _colab(reading: Reading, number: int, text: str, place: Place) -> None:
    reading.platform["colab"] = True


@on("kubelet", "nvidia-device-plugin", "nvidia.com/gpu:", "gpu-operator", "FailedCreatePodSandBox")
def _kubernetes(reading: Reading, number: int, text: str, place: Place) -> None:
    reading.platform["kubernetes"] = True


_KERNEL_LOG = re.compile(
    r"NVRM|nvidia|nouveau|Xid|[Ll]ockdown|Secure ?[Bb]oot|[Oo]ut of memory|oom-kill"
    r"|NVSwitch|pcieport|vfio|AER:|module verification|IOMMU|DMAR"
)


def kernel_log(reading: Reading) -> None:
    """Lines of the kernel's log, which the node's observation also carries."""
    lines: list[str] = []
    for line in reading.transcript.lines:
        if (line.origin == "kernel" or line.text.lstrip().startswith("NVRM: ")) and _KERNEL_LOG.search(
            line.text
        ):
            lines.append(line.text)
            if len(lines) == 200:
                break
    if lines:
        put(reading.stack, "host.kernel_log", {"source": "text", "lines": lines})
