# Apache-2.0 (see LICENSE)
"""Signs of the host: from the bus to the device nodes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from .. import aptsources, catalog
from ..passthrough import PASSTHROUGH
from ..requirements import chips_named
from ..versions import driver_branch, driver_version
from .facts import Facts
from .signs import UNKNOWN, Sign, ask, no, sign, yes

# What virtual machines are called by systemd-detect-virt and by lscpu; containers are not among them.
HYPERVISORS = (
    "kvm qemu vmware microsoft hyperv hyper-v oracle virtualbox xen parallels bhyve amazon google proxmox"
)
# Half-way states of dpkg.
BROKEN_STATES = ("half-configured", "half-installed", "unpacked", "triggers-awaited", "reinstreq")
_FELL_OFF = re.compile(r"fallen off the bus|Xid \([^)]*\): 79,")
_KERNEL_OF_PACKAGE = re.compile(
    r"^linux-(?:modules|objects)-nvidia-\d+(?:-server)?(?:-open)?-(\d+\.\d+\.\S+)$"
)
_DKMS_MODULE = re.compile(
    r"^nvidia(?:-current|-tesla|-legacy|-open|-srv|-srv-open|-server|-kernel|[-0-9.x]|$)"
)


def _said(facts: Facts, path: str) -> bool:
    """Is it known at all? In an observation null often means "none", in a text what is absent is unknown."""
    parent, _, name = path.rpartition(".")
    holder = facts.get(parent)
    if not isinstance(holder, Mapping) or name not in holder:
        return False
    # A probe that failed leaves null behind, and says so.
    probe = path.replace("gpu_stack.", "", 1)
    problems = facts.rows("gpu_stack.problems")
    return holder[name] is not None or not any(row.get("probe") == probe for row in problems)


def _holds(name: str, facts: Facts) -> bool | None:
    """Another sign's state."""
    return ask(name, facts).state


def _first(names: Iterable[str], facts: Facts) -> Sign | None:
    """The first of these signs that holds."""
    for name in names:
        found = ask(name, facts)
        if found.state:
            return found
    return None


def gpus(facts: Facts) -> list[Mapping[str, Any]]:
    """The GPUs of the bus with what the catalog knows of them; without a bus, those that NVML lists."""
    # A name is searched in all of pci.ids: once per question, not once per sign.
    found: list[Mapping[str, Any]] = facts.recall("gpus", lambda: _gpus(facts))
    return found


def _gpus(facts: Facts) -> list[Mapping[str, Any]]:
    stack = facts.get("gpu_stack")
    if not isinstance(stack, Mapping):
        return []
    if facts.rows("gpu_stack.host.gpus"):
        named = [dict(row) for row in catalog.annotate(stack, facts.catalog)["host"]["gpus"]]
    else:
        named = [
            {key: row.get(key) for key in ("pci", "name", "compute_capability")}
            for row in facts.rows("gpu_stack.driver.devices")
        ]
    for row in named:
        capability = row.get("compute_capability")
        if not row.get("arch"):
            row["arch"] = (
                facts.catalog.arch_of(str(capability)) if capability else _arch_of(row, facts.catalog)
            )
    return list(named)


def _arch_of(gpu: Mapping[str, Any], known: catalog.Catalog) -> str | None:
    """The architecture of a GPU of which only the name is known, as in a text; None where it fits several."""
    kinds = {chip.arch for chip in chips_named(known, str(gpu.get("name") or ""))}
    return kinds.pop() if len(kinds) == 1 else None


def _label(gpu: Mapping[str, Any]) -> str:
    return " ".join(str(value) for value in ("GPU", gpu.get("pci"), gpu.get("name")) if value)


def _wsl(facts: Facts) -> bool:
    return facts.get("platform.wsl") is True or facts.get("gpu_stack.host.virtual") == "wsl"


@sign("facts.silent", "the facts alone cannot refute it")
def _facts_silent(facts: Facts) -> Sign:
    """Always unknown: in `any: [X, facts.silent]` X establishes a cause, and its absence refutes nothing."""
    return UNKNOWN


@sign("facts.observed", "the facts were seen on a node, and not read out of a text")
def _facts_observed(facts: Facts) -> Sign:
    return yes() if facts.observed else UNKNOWN


# The bus ----------------------------------------------------------------------------------------------------


@sign("bus.gpu", "an NVIDIA GPU is on the PCI bus")
def _bus_gpu(facts: Facts) -> Sign:
    found = facts.get("gpu_stack.host.gpus")
    seen = [gpu for gpu in gpus(facts) if gpu.get("pci")]
    if found and seen:
        return yes(*("on the bus: %s" % _label(gpu) for gpu in seen))
    listed = facts.rows("gpu_stack.driver.devices")
    if listed:
        return yes(
            "NVML lists %s" % ", ".join(str(row.get("name") or row.get("uuid") or "a GPU") for row in listed)
        )
    # A GPU without an address is only spoken of.
    if found or found is None or _wsl(facts):
        return UNKNOWN
    return no("no PCI device of vendor 10de with a display class")


@sign("bus.virtual_machine", "the host is a virtual machine")
def _bus_virtual_machine(facts: Facts) -> Sign:
    kind = facts.get("gpu_stack.host.virtual")
    if kind:
        known = str(kind).lower()
        return (
            yes("it is a virtual machine: %s" % kind)
            if known in HYPERVISORS
            else no("virtualisation: %s" % kind)
        )
    stated = facts.get("platform.virtual_machine")
    if stated is None:
        return UNKNOWN
    return yes("it is a virtual machine") if stated else no("it is no virtual machine")


@sign("bus.lost_gpu", "a GPU fell off the bus in this boot")
def _bus_lost_gpu(facts: Facts) -> Sign:
    dead = [gpu for gpu in facts.rows("gpu_stack.host.gpus") if gpu.get("rev") == "ff"]
    if dead:
        return yes(*("%s reads back as all ones (rev ff)" % _label(gpu) for gpu in dead))
    lines = facts.get("gpu_stack.host.kernel_log.lines")
    if not isinstance(lines, (list, tuple)):
        return UNKNOWN
    found = [str(line) for line in lines if _FELL_OFF.search(str(line))]
    if not found:
        return no()
    if _holds("nvml.lists_all", facts):
        return no("a GPU was lost in this boot, but NVML lists all of them now")
    return yes(*found[:2])


@sign(
    "bus.gpu_too_old", "the GPU is of an architecture that CUDA 11 and the drivers of this time do not know"
)
def _bus_gpu_too_old(facts: Facts) -> Sign:
    known = [gpu for gpu in gpus(facts) if gpu.get("arch")]
    old = [gpu for gpu in known if gpu.get("arch") in ("tesla", "fermi")]
    if old and len(old) == len(known):
        return yes(*("%s is of the architecture %s" % (_label(gpu), gpu["arch"]) for gpu in old))
    return no() if known else UNKNOWN


@sign("link.bus", "a GPU is on the PCI bus")
def _link_bus(facts: Facts) -> Sign:
    lost = ask("bus.lost_gpu", facts)
    if lost.state:
        return no(*lost.evidence)
    return ask("bus.gpu", facts)


# Packages ---------------------------------------------------------------------------------------------------


def _apt_error(facts: Facts, pattern: str) -> Sign:
    errors = facts.get("gpu_stack.apt.errors")
    if not isinstance(errors, (list, tuple)):
        return UNKNOWN
    found = [str(line) for line in errors if re.search(pattern, str(line))]
    return yes(*found[:3]) if found else no()


@sign("packages.signed_by_conflict", "two of apt's sources name different keys for one archive")
def _packages_signed_by_conflict(facts: Facts) -> Sign:
    said = _apt_error(facts, r"Conflicting values set for option Signed-By")
    if said.state:
        return said
    rows = facts.get("gpu_stack.apt.sources")
    if rows is None:
        return said
    arch = str(facts.get("gpu_stack.host.os.arch") or "")
    keys: dict[tuple[str, str], dict[str, str]] = {}
    for row in facts.rows("gpu_stack.apt.sources"):
        if row.get("enabled") is False:
            continue
        for uri in row.get("uris") or []:
            for suite in row.get("suites") or []:
                place = (aptsources.normalise_uri(str(uri), arch), str(suite))
                keys.setdefault(place, {})[str(row.get("signed_by") or "")] = str(row.get("file"))
    for (uri, suite), files in sorted(keys.items()):
        if len(files) > 1:
            named = ("%s says %s" % (file, key or "nothing") for key, file in sorted(files.items()))
            return yes("two keys for %s %s: %s" % (uri, suite, "; ".join(named)))
    return no()


@sign("packages.key_expired", "a key that signs one of apt's sources has expired")
def _packages_key_expired(facts: Facts) -> Sign:
    said = _apt_error(facts, r"EXPKEYSIG|key (?:has )?expired")
    if said.state:
        return said
    known = False
    for row in facts.rows("gpu_stack.apt.sources"):
        keys = [key for key in row.get("keys") or [] if isinstance(key, Mapping)]
        states = [key.get("expired") for key in keys if row.get("enabled") is not False]
        known = known or any(state is not None for state in states)
        # A keyring with a key that still holds is enough for apt.
        if states and all(state is True for state in states):
            what = ", ".join(str(key.get("fingerprint")) for key in keys)
            return yes("the key of %s has expired: %s" % (row.get("file"), what))
    return no() if known or said.state is False else UNKNOWN


@sign("packages.interrupted", "dpkg has packages that are half installed")
def _packages_interrupted(facts: Facts) -> Sign:
    broken = [
        "%s is %s" % (row.get("name"), row.get("status"))
        for path in (
            "gpu_stack.apt.broken",
            "gpu_stack.driver.packages",
            "gpu_stack.container_runtime.toolkit.packages",
        )
        for row in facts.rows(path)
        if row.get("status") in BROKEN_STATES
    ]
    stated = facts.get("gpu_stack.apt.dpkg_interrupted")
    if broken or stated:
        return yes(*(dict.fromkeys(broken) or ["dpkg was interrupted"]))
    return UNKNOWN if stated is None else no()


@sign("packages.held_back", "a held package keeps apt from installing what is needed")
def _packages_held_back(facts: Facts) -> Sign:
    conflicts = facts.get("plan.conflicts")
    if conflicts is None:
        return UNKNOWN
    for row in facts.rows("plan.conflicts"):
        if row.get("id") == "driver.held":
            return yes(str(row.get("what")), *(str(text) for text in row.get("because") or []))
    return no()


@sign("packages.disk_full", "the file system that packages are written to is full")
def _packages_disk_full(facts: Facts) -> Sign:
    rows = facts.rows("gpu_stack.disk")
    places = {str(row.get("path")): row for row in rows if row.get("free_mib") is not None}
    if not places:
        return UNKNOWN
    for path in ("/", "/var"):
        row = places.get(path)
        if row and row["free_mib"] < 64:
            return yes("%s has %s MiB free" % (path, row["free_mib"]))
    return no()


@sign("packages.boot_full", "/boot is full: no initramfs can be written")
def _packages_boot_full(facts: Facts) -> Sign:
    for row in facts.rows("gpu_stack.disk"):
        if row.get("path") == "/boot" and row.get("free_mib") is not None:
            free = row["free_mib"]
            return yes("/boot has %s MiB free" % free) if free < 16 else no()
    return UNKNOWN


@sign("packages.locked", "somebody else is installing packages now")
def _packages_locked(facts: Facts) -> Sign:
    locked = facts.get("gpu_stack.apt.lock_held")
    if locked is None:
        return UNKNOWN
    return yes("/var/lib/dpkg/lock-frontend is held") if locked else no()


@sign("packages.foreign_driver", "the driver on the disk belongs to no package")
def _packages_foreign_driver(facts: Facts) -> Sign:
    packages = facts.get("gpu_stack.driver.packages")
    module = facts.get("gpu_stack.driver.on_disk")
    if packages is None:
        return UNKNOWN
    if any(_whole(row) for row in facts.rows("gpu_stack.driver.packages")):
        return no()
    if not module:
        return UNKNOWN
    return yes("module %s belongs to no package" % module.get("path"))


@sign("link.packages", "apt and dpkg can install what is needed")
def _link_packages(facts: Facts) -> Sign:
    names = (
        "packages.interrupted",
        "packages.signed_by_conflict",
        "packages.key_expired",
        "packages.disk_full",
        "packages.held_back",
    )
    broken = _first(names, facts)
    if broken:
        return no(*broken.evidence)
    errors = facts.get("gpu_stack.apt.errors")
    if errors:
        return no(*(str(line) for line in list(errors)[:3]))
    if _holds("packages.interrupted", facts) is None or _holds("packages.signed_by_conflict", facts) is None:
        return UNKNOWN
    return yes("dpkg has no half-installed package", "apt's sources contradict each other nowhere")


# Who drives the GPU -----------------------------------------------------------------------------------------


def _bound(facts: Facts) -> list[tuple[Mapping[str, Any], str]]:
    return [(gpu, str(gpu["driver_bound"])) for gpu in gpus(facts) if gpu.get("driver_bound")]


@sign("binding.nouveau", "nouveau holds the GPU")
def _binding_nouveau(facts: Facts) -> Sign:
    held = [gpu for gpu, name in _bound(facts) if name == "nouveau"]
    if held:
        return yes(*("%s is bound to nouveau" % _label(gpu) for gpu in held))
    loaded = facts.get("gpu_stack.host.nouveau.loaded")
    ours = [gpu for gpu, name in _bound(facts) if name == "nvidia"]
    if loaded and not ours and not facts.get("gpu_stack.driver.loaded"):
        return yes("nouveau is loaded, nvidia is not")
    if ours or loaded is False:
        return no()
    return UNKNOWN


@sign("binding.nouveau_blacklisted", "modprobe's configuration keeps nouveau away")
def _binding_nouveau_blacklisted(facts: Facts) -> Sign:
    state = facts.get("gpu_stack.host.nouveau.blacklisted")
    if state is None:
        return UNKNOWN
    files = facts.get("gpu_stack.host.nouveau.files") or []
    return (
        yes(*("%s blacklists nouveau" % file for file in files))
        if state
        else no("nothing blacklists nouveau")
    )


@sign("binding.initramfs_stale", "the initramfs is older than what blacklists nouveau")
def _binding_initramfs_stale(facts: Facts) -> Sign:
    state = facts.get("gpu_stack.host.initramfs.stale")
    if state is None:
        return UNKNOWN
    return yes("the initramfs of the next boot is older than the blacklist") if state else no()


@sign("binding.passthrough", "every GPU is given to virtual machines")
def _binding_passthrough(facts: Facts) -> Sign:
    known = gpus(facts)
    held = [(gpu, name) for gpu, name in _bound(facts) if name in PASSTHROUGH]
    if known and len(held) == len(known):
        return yes(*("%s is bound to %s" % (_label(gpu), name) for gpu, name in held))
    if any(gpu.get("driver_bound") for gpu in known) or facts.rows("gpu_stack.driver.devices"):
        return no()
    return UNKNOWN


@sign("binding.some_passthrough", "one of several GPUs is given to a virtual machine")
def _binding_some_passthrough(facts: Facts) -> Sign:
    bound = _bound(facts)
    held = [(gpu, name) for gpu, name in bound if name in PASSTHROUGH]
    if held and len(held) < len(gpus(facts)):
        return yes(*("%s is bound to %s" % (_label(gpu), name) for gpu, name in held))
    return no() if bound else UNKNOWN


@sign("binding.other", "another driver than NVIDIA's, nouveau's or a virtual machine's holds the GPU")
def _binding_other(facts: Facts) -> Sign:
    bound = _bound(facts)
    ours = ("nvidia", "nouveau", *PASSTHROUGH)
    held = [(gpu, name) for gpu, name in bound if name not in ours]
    if held:
        return yes(*("%s is bound to %s" % (_label(gpu), name) for gpu, name in held))
    return no() if bound else UNKNOWN


@sign("link.binding", "the GPU is free for NVIDIA's driver")
def _link_binding(facts: Facts) -> Sign:
    foreign = _first(("binding.nouveau", "binding.passthrough", "binding.other"), facts)
    if foreign:
        return no(*foreign.evidence)
    if any(name == "nvidia" for _, name in _bound(facts)) or facts.rows("gpu_stack.driver.devices"):
        return yes("NVIDIA's driver holds the GPU")
    if facts.get("gpu_stack.host.gpus") and _holds("binding.nouveau", facts) is False:
        return yes("no other driver holds the GPU")
    return UNKNOWN


# Secure Boot ------------------------------------------------------------------------------------------------


@sign("secure_boot.on", "Secure Boot is on")
def _secure_boot_on(facts: Facts) -> Sign:
    state = facts.get("gpu_stack.host.secure_boot")
    if state is None:
        return UNKNOWN
    return yes("Secure Boot is on") if state else no("Secure Boot is off")


@sign("secure_boot.key_not_enrolled", "the firmware does not know the key that DKMS signs with")
def _secure_boot_key_not_enrolled(facts: Facts) -> Sign:
    enrolled = facts.get("gpu_stack.host.mok.enrolled")
    if enrolled is None:
        return UNKNOWN
    key = facts.get("gpu_stack.host.mok.key")
    return no("%s is enrolled" % key) if enrolled else yes("%s is not enrolled" % (key or "DKMS's key"))


@sign("secure_boot.rejects", "Secure Boot keeps the module on the disk from being loaded")
def _secure_boot_rejects(facts: Facts) -> Sign:
    if facts.get("gpu_stack.driver.loaded"):
        return no("the module is loaded")
    on = ask("secure_boot.on", facts)
    if on.state is not True:
        return no(*on.evidence) if on.state is False else UNKNOWN
    module = facts.get("gpu_stack.driver.on_disk")
    if _holds("module.loaded", facts) is None or not module:
        return UNKNOWN
    if module.get("signed") is False:
        return yes(*on.evidence, "the module is not signed: %s" % module.get("path"))
    built = [row for row in facts.rows("gpu_stack.driver.dkms") if _DKMS_MODULE.match(str(row.get("module")))]
    unknown_key = ask("secure_boot.key_not_enrolled", facts)
    if built and unknown_key.state:
        return yes(*on.evidence, "DKMS built and signed the module", *unknown_key.evidence)
    if module.get("signed") and (not built or unknown_key.state is False):
        return no("the module is signed")
    return UNKNOWN


@sign("link.secure_boot", "the module may be loaded")
def _link_secure_boot(facts: Facts) -> Sign:
    rejects = ask("secure_boot.rejects", facts)
    if rejects.state is None:
        return UNKNOWN
    return Sign(not rejects.state, rejects.evidence)


# The module -------------------------------------------------------------------------------------------------


def _whole(row: Mapping[str, Any]) -> bool:
    """Is something of the package on the disk, more than configuration files?"""
    return row.get("status") not in ("config-files", "not-installed", "deinstalled")


def _running(facts: Facts) -> str | None:
    kernel = facts.get("gpu_stack.host.kernel.running")
    return str(kernel) if kernel else None


def _dkms_rows(facts: Facts) -> list[Mapping[str, Any]]:
    return [row for row in facts.rows("gpu_stack.driver.dkms") if _DKMS_MODULE.match(str(row.get("module")))]


def _module_kernels(facts: Facts) -> list[str]:
    """The kernels that a module of the driver is there for, as far as it is known."""
    found = [
        str(row["kernel"])
        for row in _dkms_rows(facts)
        if row.get("kernel") and str(row.get("status")).startswith("installed")
    ]
    for row in facts.rows("gpu_stack.driver.packages"):
        match = _KERNEL_OF_PACKAGE.match(str(row.get("name")))
        if match and _whole(row):
            found.append(match.group(1))
    for path in ("gpu_stack.driver.on_disk", "gpu_stack.driver.on_disk_next_boot"):
        kernel = facts.get(path + ".kernel")
        if kernel:
            found.append(str(kernel))
    return list(dict.fromkeys(found))


@sign("driver.installed", "a driver is installed, whole or in part")
def _driver_installed(facts: Facts) -> Sign:
    packages = [str(row.get("name")) for row in facts.rows("gpu_stack.driver.packages") if _whole(row)]
    if packages:
        return yes("installed: %s" % ", ".join(packages[:3]))
    for path in ("on_disk.version", "loaded.version", "userspace.version", "userspace.libcuda"):
        value = facts.get("gpu_stack.driver." + path)
        if value:
            return yes("%s: %s" % (path.partition(".")[0].replace("_", " "), value))
    if _module_kernels(facts):
        return yes("a module is there for kernel %s" % ", ".join(_module_kernels(facts)))
    if facts.get("gpu_stack.driver.packages") is not None and not facts.get("gpu_stack.driver.on_disk"):
        return no("no package of the driver is installed")
    return UNKNOWN


@sign("driver.userspace_only", "the driver's programs and libraries are there, and no module for any kernel")
def _driver_userspace_only(facts: Facts) -> Sign:
    if _module_kernels(facts) or _dkms_rows(facts) or facts.get("gpu_stack.driver.loaded"):
        return no()
    if _holds("module.on_disk", facts) is not False:
        return UNKNOWN
    packages = [str(row.get("name")) for row in facts.rows("gpu_stack.driver.packages") if _whole(row)]
    if not packages:
        return UNKNOWN
    modules = [
        name for name in packages if re.search(r"(?<!no-)dkms|^linux-modules-nvidia|kernel-source", name)
    ]
    return (
        no() if modules else yes("installed: %s" % ", ".join(packages[:4]), "no package with a kernel module")
    )


@sign("module.loaded", "the driver's modules are loaded")
def _module_loaded(facts: Facts) -> Sign:
    loaded = facts.get("gpu_stack.driver.loaded")
    if loaded:
        words = [str(word) for word in (loaded.get("version"), loaded.get("flavour")) if word]
        return yes("loaded: %s" % (" ".join(words) or "nvidia"))
    if facts.rows("gpu_stack.driver.devices"):
        return yes("NVML answers")
    return no("no nvidia module is loaded") if _said(facts, "gpu_stack.driver.loaded") else UNKNOWN


@sign("module.on_disk", "the running kernel has the driver's module on the disk")
def _module_on_disk(facts: Facts) -> Sign:
    module = facts.get("gpu_stack.driver.on_disk")
    if module:
        return yes("on disk: %s" % (module.get("path") or module.get("version")))
    running = _running(facts)
    absent = _said(facts, "gpu_stack.driver.on_disk")
    # A package may be installed, and its files gone: modinfo knows better, where it was asked.
    if running and running in _module_kernels(facts) and not (absent and facts.observed):
        return yes("a module is installed for kernel %s" % running)
    return no("kernel %s has no module nvidia" % (running or "in use")) if absent else UNKNOWN


@sign("module.absent", "the running kernel has no module of the driver on the disk")
def _module_absent(facts: Facts) -> Sign:
    on_disk = ask("module.on_disk", facts)
    return UNKNOWN if on_disk.state is None else Sign(not on_disk.state, on_disk.evidence)


@sign("module.for_another_kernel", "there is a module, but for another kernel than the running one")
def _module_for_another_kernel(facts: Facts) -> Sign:
    if facts.get("gpu_stack.driver.loaded") or _holds("module.on_disk", facts):
        return no()
    running = _running(facts)
    others = [kernel for kernel in _module_kernels(facts) if kernel != running]
    if not running or not others:
        return no() if _holds("module.on_disk", facts) is False and not others else UNKNOWN
    return yes("running: kernel %s" % running, "a module is there for kernel %s" % ", ".join(others))


@sign("module.headers", "the running kernel's headers are there")
def _module_headers(facts: Facts) -> Sign:
    running, known = _running(facts), facts.get("gpu_stack.host.kernel.headers")
    if running is None or known is None:
        return UNKNOWN
    if running in known:
        return yes("headers of kernel %s are there" % running)
    return no("no headers of the running kernel %s" % running)


@sign("module.dkms", "the driver's module is built by DKMS")
def _module_dkms(facts: Facts) -> Sign:
    rows = _dkms_rows(facts)
    if rows:
        first = rows[0]
        return yes("dkms: %s/%s %s" % (first.get("module"), first.get("version"), first.get("status")))
    names = [str(row.get("name")) for row in facts.rows("gpu_stack.driver.packages") if _whole(row)]
    built = [name for name in names if "dkms" in name and "no-dkms" not in name]
    if built:
        return yes("installed: %s" % ", ".join(built))
    return no() if names or facts.get("gpu_stack.driver.dkms") == [] else UNKNOWN


@sign("module.dkms_not_built", "DKMS knows the driver, and has built it for no kernel")
def _module_dkms_not_built(facts: Facts) -> Sign:
    rows = _dkms_rows(facts)
    if facts.get("gpu_stack.driver.loaded"):
        return no()
    if not rows:
        return UNKNOWN
    if any(str(row.get("status")).startswith(("installed", "built")) for row in rows):
        return no()
    words = ("%s/%s: %s" % (row.get("module"), row.get("version"), _dkms_words(row)) for row in rows[:3])
    return yes("dkms status: %s" % "; ".join(words), "running: kernel %s" % (_running(facts) or "unknown"))


def _dkms_words(row: Mapping[str, Any]) -> str:
    return " ".join(str(value) for value in (row.get("status"), row.get("kernel")) if value)


@sign("module.built_not_installed", "DKMS built the module for the running kernel, but did not install it")
def _module_built_not_installed(facts: Facts) -> Sign:
    running = _running(facts)
    rows = [row for row in _dkms_rows(facts) if row.get("kernel") and row["kernel"] == running]
    if not rows:
        return UNKNOWN
    if any(str(row.get("status")).startswith("installed") for row in rows):
        return no()
    built = [row for row in rows if str(row.get("status")).startswith("built")]
    return yes("dkms status: %s built, not installed" % built[0].get("module")) if built else UNKNOWN


@sign("module.next_boot_lacks", "the kernel of the next boot has no module of the driver")
def _module_next_boot_lacks(facts: Facts) -> Sign:
    upcoming, running = facts.get("gpu_stack.host.kernel.next_boot"), _running(facts)
    if not upcoming or not running:
        return UNKNOWN
    if upcoming == running:
        return no()
    if facts.get("gpu_stack.driver.on_disk_next_boot") or upcoming in _module_kernels(facts):
        return no("kernel %s has the module" % upcoming)
    if _said(facts, "gpu_stack.driver.on_disk_next_boot"):
        return yes("the next boot takes kernel %s, which has no module" % upcoming)
    return UNKNOWN


# Which driver: flavour and branch, by the GPU ---------------------------------------------------------------


def _driver(facts: Facts) -> tuple[str | None, str | None]:
    """(version, flavour) of the driver that is loaded, else of the one that would be."""
    for path in ("loaded", "on_disk"):
        found = facts.get("gpu_stack.driver." + path)
        if found and (found.get("version") or found.get("flavour")):
            return found.get("version"), found.get("flavour")
    for row in facts.rows("gpu_stack.driver.packages"):
        match = re.match(
            r"^(?:linux-modules-nvidia|nvidia-(?:dkms|driver|headless))-(?:no-dkms-)?(\d{3})\b",
            str(row.get("name")),
        )
        if match and _whole(row):
            version = driver_version(str(row.get("version") or "")) or match.group(1)
            return version, "open" if "-open" in str(row["name"]) else "proprietary"
    version = facts.get("gpu_stack.driver.userspace.version") or facts.get(
        "gpu_stack.driver.nvml.driver_version"
    )
    return version, None


def _rules(facts: Facts) -> list[tuple[Mapping[str, Any], Any, str]]:
    """(GPU, its architecture's row, what it says of open modules) of every GPU that the catalog knows."""
    found = []
    for gpu in gpus(facts):
        row = facts.catalog.architectures.get(str(gpu.get("arch")))
        if row is not None and gpu.get("driver_bound") not in PASSTHROUGH:
            product = catalog.product_of(gpu, facts.catalog)
            found.append((gpu, row, (product.open_modules if product else None) or row.open_modules))
    return found


def _flavour(facts: Facts, wrong: str, rule: str, words: str) -> Sign:
    version, flavour = _driver(facts)
    rules = _rules(facts)
    if flavour is None or not rules:
        return UNKNOWN
    hit = [gpu for gpu, _, asks in rules if asks == rule]
    if flavour != wrong or not hit:
        return no()
    return yes(
        "the %s modules %s are there" % (flavour, version or ""),
        *("%s (%s) %s" % (_label(gpu), gpu.get("arch"), words) for gpu in hit),
    )


@sign("flavour.open_on_old_gpu", "open modules are there for a GPU without the processor that they need")
def _flavour_open_on_old_gpu(facts: Facts) -> Sign:
    return _flavour(facts, "open", "impossible", "runs only with the proprietary modules")


@sign("flavour.proprietary_on_new_gpu", "proprietary modules are there for a GPU that only open ones drive")
def _flavour_proprietary_on_new_gpu(facts: Facts) -> Sign:
    return _flavour(facts, "proprietary", "required", "runs only with the open modules")


def _branch(facts: Facts, low: bool) -> Sign:
    version, _ = _driver(facts)
    branch, rules = driver_branch(version) if version else None, _rules(facts)
    if branch is None or not rules:
        return UNKNOWN
    hit = []
    for gpu, row, _ in rules:
        limit = row.first_branch if low else row.last_branch
        if limit is not None and (branch < limit if low else branch > limit):
            hit.append(
                "%s (%s) is driven by branches %s %d"
                % (_label(gpu), row.arch, "from" if low else "up to", limit)
            )
    return yes("driver: %s" % version, *hit) if hit else no()


@sign("branch.dropped_gpu", "the driver's branch no longer drives this GPU")
def _branch_dropped_gpu(facts: Facts) -> Sign:
    return _branch(facts, low=False)


@sign("branch.older_than_gpu", "the driver's branch is older than this GPU")
def _branch_older_than_gpu(facts: Facts) -> Sign:
    return _branch(facts, low=True)


_UNSUITED = (
    "flavour.open_on_old_gpu",
    "flavour.proprietary_on_new_gpu",
    "branch.dropped_gpu",
    "branch.older_than_gpu",
)


@sign("link.module", "the driver is installed for this kernel and this GPU, and loaded")
def _link_module(facts: Facts) -> Sign:
    if _wsl(facts):
        return UNKNOWN  # the driver is Windows'
    loaded = ask("module.loaded", facts)
    if _holds("nvml.lists_all", facts):
        return loaded if loaded.state else yes("NVML lists every GPU")
    unsuited = _first(_UNSUITED, facts)
    if unsuited:
        return no(*unsuited.evidence)
    if loaded.state is not None:
        return loaded if loaded.state else no(*loaded.evidence, *ask("module.on_disk", facts).evidence)
    on_disk = ask("module.on_disk", facts)
    return no(*on_disk.evidence) if on_disk.state is False else UNKNOWN


# Versions ---------------------------------------------------------------------------------------------------


def _version(facts: Facts, part: str) -> str | None:
    value = facts.get("gpu_stack.driver.%s.version" % part)
    return str(value) if value else None


def _same(left: str, right: str) -> bool:
    """NVML names its own version in two numbers, the module in three."""
    shorter, longer = sorted((left.split("."), right.split(".")), key=len)
    return longer[: len(shorter)] == shorter


@sign("versions.libraries", "the driver's libraries are on the disk")
def _versions_libraries(facts: Facts) -> Sign:
    known = facts.get("gpu_stack.driver.userspace")
    if not isinstance(known, Mapping):
        return UNKNOWN
    names = {"libcuda": "libcuda.so.1", "libnvidia_ml": "libnvidia-ml.so.1"}
    absent = [names[key] for key in names if key in known and not known[key]]
    there = [str(known[key]) for key in names if known.get(key)]
    if absent and not any(row.get("probe") == "driver.userspace" for row in facts.rows("gpu_stack.problems")):
        return no(*("%s is not found" % name for name in absent))
    return yes(*there) if there else UNKNOWN


def _compared(left: tuple[str, str | None], right: tuple[str, str | None], differ: bool) -> Sign:
    """Two versions with their names: whether they differ, or whether they agree."""
    if not left[1] or not right[1]:
        return UNKNOWN
    words = ("%s: %s" % left, "%s: %s" % right)
    return no(*words) if _same(left[1], right[1]) == differ else yes(*words)


@sign("versions.equal", "the loaded module and the libraries are of one version")
def _versions_equal(facts: Facts) -> Sign:
    loaded, libraries = _version(facts, "loaded"), _version(facts, "userspace")
    return _compared(("loaded", loaded), ("libraries", libraries), differ=False)


@sign("versions.stale_module", "an older or newer module than the one on the disk is still loaded")
def _versions_stale_module(facts: Facts) -> Sign:
    loaded, on_disk = _version(facts, "loaded"), _version(facts, "on_disk")
    return _compared(("loaded", loaded), ("on disk", on_disk), differ=True)


@sign("versions.files_differ", "the module on the disk and the libraries are of two installs")
def _versions_files_differ(facts: Facts) -> Sign:
    on_disk, libraries = _version(facts, "on_disk"), _version(facts, "userspace")
    return _compared(("module on disk", on_disk), ("libraries", libraries), differ=True)


@sign("versions.libcuda_differs", "libcuda is of another version than the driver's other libraries")
def _versions_libcuda_differs(facts: Facts) -> Sign:
    cuda = driver_version(str(facts.get("gpu_stack.driver.userspace.libcuda") or ""))
    other = driver_version(str(facts.get("gpu_stack.driver.userspace.libnvidia_ml") or ""))
    if not cuda or not other:
        return UNKNOWN
    words = ("libcuda: %s" % cuda, "libnvidia-ml: %s" % other)
    return no() if _same(cuda, other) else yes(*words)


@sign("link.versions", "module and libraries are of one version")
def _link_versions(facts: Facts) -> Sign:
    if _wsl(facts):
        return UNKNOWN
    libraries = ask("versions.libraries", facts)
    if libraries.state is False and _holds("driver.installed", facts):
        return libraries
    equal = ask("versions.equal", facts)
    if equal.state is False:
        return equal
    differ = _first(("versions.stale_module", "versions.files_differ", "versions.libcuda_differs"), facts)
    if differ:
        return no(*differ.evidence)
    if facts.rows("gpu_stack.driver.devices"):
        return yes("NVML of one version answers")
    return equal


# NVML -------------------------------------------------------------------------------------------------------


def _nvml_error(facts: Facts, pattern: str) -> Sign:
    error = facts.get("gpu_stack.driver.nvml.error")
    if error:
        return yes(str(error).strip()[:300]) if re.search(pattern, str(error), re.I) else no()
    return UNKNOWN if facts.get("gpu_stack.driver.devices") is None else no()


def _on_bus(facts: Facts) -> list[Mapping[str, Any]]:
    """The GPUs that the driver is to list."""
    rows = facts.rows("gpu_stack.host.gpus")
    return [row for row in rows if row.get("pci") and row.get("driver_bound") not in PASSTHROUGH]


@sign("nvml.answers", "the driver answers NVML")
def _nvml_answers(facts: Facts) -> Sign:
    devices = facts.get("gpu_stack.driver.devices")
    if devices is not None:
        return yes("NVML lists %d GPUs" % len(devices))
    nvml = facts.get("gpu_stack.driver.nvml") or {}
    if nvml.get("error"):
        return no(str(nvml["error"]).strip()[:300])
    if nvml.get("source") and nvml.get("driver_version"):
        return yes("%s answers with driver %s" % (nvml["source"], nvml["driver_version"]))
    return UNKNOWN


@sign("nvml.lists_all", "NVML lists every GPU of the bus")
def _nvml_lists_all(facts: Facts) -> Sign:
    devices = facts.get("gpu_stack.driver.devices")
    if devices is None:
        return no() if facts.get("gpu_stack.driver.nvml.error") else UNKNOWN
    on_bus = _on_bus(facts)
    if not devices or len(devices) < len(on_bus):
        present = {str(row.get("pci") or "")[-12:].lower() for row in facts.rows("gpu_stack.driver.devices")}
        lost = [
            str(gpu.get("pci")) for gpu in on_bus if str(gpu.get("pci") or "")[-12:].lower() not in present
        ]
        words = ["NVML lists %d of %s GPUs" % (len(devices), len(on_bus) or "the")]
        return no(*words, *(["not listed: %s" % ", ".join(lost)] if lost else []))
    error = facts.get("gpu_stack.driver.nvml.error")
    if error:
        # In a text it may have been another time, or another place.
        return no(str(error)) if facts.observed else UNKNOWN
    return yes("NVML lists %d GPUs" % len(devices))


@sign("nvml.none", "the driver runs and drives no GPU at all")
def _nvml_none(facts: Facts) -> Sign:
    devices = facts.get("gpu_stack.driver.devices")
    if devices is None:
        return _nvml_error(facts, r"No devices were found|No devices found")
    return no() if devices else yes("NVML lists no GPU")


@sign("nvml.fewer", "the driver drives some of the GPUs, and not all")
def _nvml_fewer(facts: Facts) -> Sign:
    if not facts.rows("gpu_stack.driver.devices"):
        return UNKNOWN if facts.get("gpu_stack.driver.devices") is None else no()
    on_bus = _on_bus(facts)
    if not on_bus:
        return UNKNOWN
    all_of_them = ask("nvml.lists_all", facts)
    listed = len(facts.rows("gpu_stack.driver.devices"))
    # A text may show a part of either list.
    return Sign(listed < len(on_bus), all_of_them.evidence) if facts.observed else UNKNOWN


@sign("nvml.says_unknown", "NVML answers with an unknown error")
def _nvml_says_unknown(facts: Facts) -> Sign:
    return _nvml_error(facts, r"Unknown Error")


@sign("nvml.says_lost", "NVML says that a GPU is lost")
def _nvml_says_lost(facts: Facts) -> Sign:
    return _nvml_error(
        facts, r"GPU is lost|Unable to determine the device handle(?!.*: Not Found)|GPU requires reset"
    )


@sign("nvml.says_mismatch", "NVML says that driver and library are of two versions")
def _nvml_says_mismatch(facts: Facts) -> Sign:
    return _nvml_error(facts, r"version mismatch")


@sign("nvml.says_no_permission", "NVML may not open the device files")
def _nvml_says_no_permission(facts: Facts) -> Sign:
    return _nvml_error(facts, r"Insufficient Permissions")


@sign("mig.no_instances", "MIG is on and a GPU has no instance")
def _mig_no_instances(facts: Facts) -> Sign:
    known = False
    for row in facts.rows("gpu_stack.driver.devices"):
        if row.get("mig_mode") is True and row.get("mig_instances") == 0:
            return yes("MIG is on for GPU %s, which has no MIG device" % row.get("index"))
        known = known or row.get("mig_mode") is False or row.get("mig_instances") is not None
    return no() if known else UNKNOWN


@sign("mig.on", "MIG is on")
def _mig_on(facts: Facts) -> Sign:
    rows = [row for row in facts.rows("gpu_stack.driver.devices") if row.get("mig_mode") is not None]
    on = [str(row.get("index")) for row in rows if row["mig_mode"] is True]
    if on:
        return yes("MIG is on for GPU %s" % ", ".join(on))
    return no() if rows else UNKNOWN


def _compute_mode(facts: Facts, pattern: str) -> Sign:
    modes = [
        str(row["compute_mode"]) for row in facts.rows("gpu_stack.driver.devices") if row.get("compute_mode")
    ]
    hit = [mode for mode in modes if re.search(pattern, mode, re.I)]
    if hit:
        return yes("compute mode: %s" % hit[0])
    return no() if modes else UNKNOWN


@sign("compute_mode.prohibited", "a GPU's compute mode forbids CUDA")
def _compute_mode_prohibited(facts: Facts) -> Sign:
    return _compute_mode(facts, r"prohibited")


@sign("compute_mode.exclusive", "a GPU takes one process at a time")
def _compute_mode_exclusive(facts: Facts) -> Sign:
    return _compute_mode(facts, r"e\. ?process|exclusive")


@sign("link.nvml", "the driver answers and lists every GPU")
def _link_nvml(facts: Facts) -> Sign:
    trouble = _first(("mig.no_instances", "compute_mode.prohibited"), facts)
    if trouble:
        return no(*trouble.evidence)
    return ask("nvml.lists_all", facts)


# NVSwitches -------------------------------------------------------------------------------------------------


@sign("fabric.nvswitches", "the GPUs sit behind NVSwitches")
def _fabric_nvswitches(facts: Facts) -> Sign:
    switches = facts.get("gpu_stack.host.nvswitches")
    if switches is None:
        return UNKNOWN
    return yes("%d NVSwitches on the PCI bus" % len(switches)) if switches else no()


@sign("fabric.installed", "the fabric manager is installed")
def _fabric_installed(facts: Facts) -> Sign:
    state = facts.get("gpu_stack.driver.fabricmanager.installed")
    if state is None:
        return UNKNOWN
    return yes("nvidia-fabricmanager is installed") if state else no("nvidia-fabricmanager is not installed")


@sign("fabric.same_version", "the fabric manager is of the driver's version")
def _fabric_same_version(facts: Facts) -> Sign:
    manager = facts.get("gpu_stack.driver.fabricmanager.version")
    driver = _version(facts, "loaded") or _version(facts, "on_disk")
    if not manager or not driver:
        return UNKNOWN
    words = ("fabric manager: %s" % manager, "driver: %s" % driver)
    return yes(*words) if str(manager) == driver else no(*words)


@sign("fabric.active", "the fabric manager runs")
def _fabric_active(facts: Facts) -> Sign:
    state = facts.get("gpu_stack.driver.fabricmanager.active")
    if state is None:
        return UNKNOWN
    return yes("nvidia-fabricmanager is active") if state else no("nvidia-fabricmanager is not active")


@sign("link.fabric", "the NVSwitches are set up, or there are none")
def _link_fabric(facts: Facts) -> Sign:
    switches = ask("fabric.nvswitches", facts)
    if switches.state is not True:
        return yes("no NVSwitches") if switches.state is False else UNKNOWN
    states = [ask(name, facts) for name in ("fabric.installed", "fabric.same_version", "fabric.active")]
    broken = [found for found in states if found.state is False]
    if broken:
        return no(*switches.evidence, *broken[0].evidence)
    return yes(*switches.evidence) if all(found.state for found in states) else UNKNOWN


# Device files -----------------------------------------------------------------------------------------------


@sign("uvm.loaded", "the module nvidia_uvm is loaded")
def _uvm_loaded(facts: Facts) -> Sign:
    modules = facts.get("gpu_stack.driver.loaded.modules")
    if modules:
        found = {str(name).replace("-", "_") for name in modules}
        return yes("nvidia_uvm is loaded") if "nvidia_uvm" in found else no("module nvidia_uvm is not loaded")
    return UNKNOWN


def _nodes(facts: Facts) -> list[str] | None:
    nodes = facts.get("gpu_stack.driver.device_nodes")
    return [str(path) for path in nodes] if isinstance(nodes, (list, tuple)) else None


@sign("device_nodes.uvm", "/dev/nvidia-uvm is there")
def _device_nodes_uvm(facts: Facts) -> Sign:
    nodes = _nodes(facts)
    if nodes is None:
        return UNKNOWN
    if "/dev/nvidia-uvm" in nodes:
        return yes("/dev/nvidia-uvm")
    # A text may show a part of the files.
    whole = facts.observed or not nodes or {"/dev/nvidiactl", "/dev/nvidia0"} <= set(nodes)
    return no("/dev/nvidia-uvm is missing") if whole else UNKNOWN


@sign("device_nodes.present", "/dev/nvidiactl and a device file per GPU are there")
def _device_nodes_present(facts: Facts) -> Sign:
    nodes = _nodes(facts)
    if nodes is None:
        return UNKNOWN
    if nodes and not facts.observed and "/dev/nvidiactl" not in nodes:
        return UNKNOWN  # a text may show a part of the files
    missing = [] if "/dev/nvidiactl" in nodes else ["/dev/nvidiactl is missing"]
    numbered = [path for path in nodes if re.match(r"^/dev/nvidia\d+$", path)]
    driven = [gpu for gpu in facts.rows("gpu_stack.host.gpus") if gpu.get("driver_bound") in ("nvidia", None)]
    wanted = max(len(driven), 1)
    if len(numbered) < wanted:
        missing.append("%d of %d GPUs have a device file /dev/nvidia<number>" % (len(numbered), wanted))
    return no(*missing) if missing else yes(*numbered)


@sign("device_nodes.permitted", "everybody may open the device files")
def _device_nodes_permitted(facts: Facts) -> Sign:
    access = facts.get("gpu_stack.driver.device_access")
    if not isinstance(access, Mapping):
        return UNKNOWN
    known, closed = False, []
    for path, row in sorted(access.items()):
        mode = str(row.get("mode") or "") if isinstance(row, Mapping) else ""
        if not re.match(r"^/dev/nvidia(?:\d+|ctl|-uvm)$", str(path)) or not mode[-1:].isdigit():
            continue
        known = True
        if int(mode[-1]) & 6 != 6:
            closed.append("%s is %s of %s" % (path, mode, row.get("owner")))
    if closed:
        return no(*closed)
    return yes() if known else UNKNOWN


@sign("uvm.there", "nvidia_uvm is loaded, and its device file is there")
def _uvm_there(facts: Facts) -> Sign:
    states = [ask(name, facts) for name in ("uvm.loaded", "device_nodes.uvm")]
    if any(found.state is False for found in states):
        return no(*(text for found in states if found.state is False for text in found.evidence))
    return yes("nvidia_uvm is loaded", "/dev/nvidia-uvm") if all(found.state for found in states) else UNKNOWN


@sign("uvm.absent", "nvidia_uvm is not loaded, or its device file is missing")
def _uvm_absent(facts: Facts) -> Sign:
    there = ask("uvm.there", facts)
    if there.state is None or not _holds("module.loaded", facts):
        return UNKNOWN
    return Sign(not there.state, there.evidence)


@sign("link.device_nodes", "the device files are there, nvidia-uvm's too, and open to users")
def _link_device_nodes(facts: Facts) -> Sign:
    if _wsl(facts):
        return UNKNOWN  # there it is /dev/dxg
    states = [
        ask(name, facts) for name in ("device_nodes.present", "device_nodes.uvm", "device_nodes.permitted")
    ]
    broken = [found for found in states if found.state is False]
    if broken:
        return no(*(text for found in broken for text in found.evidence))
    uvm = ask("uvm.loaded", facts)
    if uvm.state is False and states[1].state is not True:
        return uvm
    return yes("/dev/nvidiactl, /dev/nvidia-uvm") if states[0].state and states[1].state else UNKNOWN


# WSL --------------------------------------------------------------------------------------------------------


@sign("wsl.is", "the host is WSL, where the driver is Windows'")
def _wsl_is(facts: Facts) -> Sign:
    if _wsl(facts):
        return yes("it is WSL")
    known = facts.get("platform.wsl")
    kernel = _running(facts)
    if known is False or (kernel and "microsoft" not in kernel.lower()):
        return no()
    return UNKNOWN


@sign("host.windows", "the host is Windows itself, not WSL")
def _host_windows(facts: Facts) -> Sign:
    system = facts.get("platform.os")
    if system is None or _wsl(facts):
        return UNKNOWN if system is None else no("it is WSL")
    return yes("it is Windows") if str(system).lower() == "windows" else no()


@sign("host.mac", "the machine is a Mac")
def _host_mac(facts: Facts) -> Sign:
    system = facts.get("platform.os")
    if system is None:
        return UNKNOWN
    return yes("it is a Mac") if str(system).lower() in ("darwin", "macos") else no()


@sign("host.tegra", "the host is a Jetson, with NVIDIA's own kernel and driver")
def _host_tegra(facts: Facts) -> Sign:
    running = _running(facts)
    if running is None:
        return UNKNOWN
    return yes("kernel %s" % running) if "tegra" in running else no()


@sign("wsl.linux_driver", "a Linux driver is installed within WSL")
def _wsl_linux_driver(facts: Facts) -> Sign:
    if not _wsl(facts):
        return no() if _holds("wsl.is", facts) is False else UNKNOWN
    names = [str(row.get("name")) for row in facts.rows("gpu_stack.driver.packages") if _whole(row)]
    if names:
        return yes("installed within WSL: %s" % ", ".join(names[:3]))
    return UNKNOWN if facts.get("gpu_stack.driver.packages") is None else no()
