"""Debian's driver packages: names without a branch, files in a directory per series, and alternatives.

The kernel modules are renamed (nvidia-current.ko) and built by DKMS. A legacy series has its branch in names.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from binaries import DRIVERS, Driver
from debs import Deb
from parts import (
    LIB,
    PERSISTENCED_PRERM,
    UPDATE_INITRAMFS,
    add_dkms_source,
    dkms_scripts,
)

GLX_VERSION = "1.2.2"

#: nvidia-alternative's and glx-alternative-nvidia's scripts, as far as a node without a screen needs them. As
#: the real ones they run as triggers, because what the alternatives point to belongs to other packages.
NVIDIA_ALTERNATIVE = """#!/bin/sh
set -e
slave() {{ if [ -f "$3" ]; then echo "--slave $1 nvidia--$2 $3"; fi; }}
if [ "$1" = triggered ]; then
    slaves="
        $(slave {lib}/libcuda.so.1 libcuda.so.1-x86_64-linux-gnu {lib}/nvidia/{series}/libcuda.so.1)
        $(slave {lib}/libcuda.so libcuda.so-x86_64-linux-gnu {lib}/nvidia/{series}/libcuda.so)
        $(slave {lib}/libnvidia-ml.so.1 libnvidia-ml.so.1-x86_64-linux-gnu \\
            {lib}/nvidia/{series}/libnvidia-ml.so.1)
        $(slave /usr/bin/nvidia-smi nvidia-smi /usr/lib/nvidia/{series}/nvidia-smi)
"
    kmod() {{
        for name in nvidia-blacklists-nouveau.conf nvidia-modprobe.conf nvidia-load.conf; do
            slave "/etc/nvidia/$name" "$name" "$1/$name"
        done
        slave /etc/modprobe.d/nvidia-options.conf nvidia-options.conf "$1/nvidia-options.conf"
    }}
    alternative() {{
        if [ -z "$3" ]; then
            update-alternatives --quiet --remove nvidia "$1"
        else
            update-alternatives --quiet --install /usr/lib/nvidia/nvidia nvidia "$1" "$2" $3
        fi
    }}
    normal=$(kmod /etc/nvidia/{series})
    open=$(kmod /etc/nvidia/{series}-open)
    slaves=$(echo $slaves)
    # Without any kernel module the libraries go into the normal one.
    if [ -z "$slaves" ] || {{ [ -z "$normal" ] && [ -n "$open" ]; }}; then
        alternative /usr/lib/nvidia/{series} {priority} ""
    else
        alternative /usr/lib/nvidia/{series} {priority} "$slaves $normal"
    fi
    if [ -z "$slaves" ] || [ -z "$open" ]; then
        alternative /usr/lib/nvidia/{series}-open 0 ""
    else
        alternative /usr/lib/nvidia/{series}-open $(({priority} - 1)) "$slaves $open"
    fi
    dpkg-trigger --no-await register-glx-alternative-nvidia
fi
if [ "$1" = configure ]; then dpkg-trigger register-{trigger}; fi
"""
NVIDIA_ALTERNATIVE_PRERM = """#!/bin/sh
set -e
if [ "$1" = remove ]; then
    update-alternatives --quiet --remove nvidia /usr/lib/nvidia/{series}
    update-alternatives --quiet --remove nvidia /usr/lib/nvidia/{series}-open
    dpkg-trigger --no-await register-glx-alternative-nvidia
fi
"""
GLX_ALTERNATIVE = """#!/bin/sh
set -e
if [ "$1" = configure ] || [ "$1" = triggered ]; then
    slaves=
    for pair in modprobe.d/nvidia.conf=nvidia-modprobe.conf \\
        modprobe.d/nvidia-blacklists-nouveau.conf=nvidia-blacklists-nouveau.conf \\
        modules-load.d/nvidia.conf=nvidia-load.conf; do
        if [ -f "/etc/nvidia/${pair#*=}" ]; then
            slaves="$slaves --slave /etc/${pair%%=*} glx--${pair#*=} /etc/nvidia/${pair#*=}"
        fi
    done
    if [ -e /usr/lib/nvidia/nvidia ] && [ -n "$slaves" ]; then
        update-alternatives --quiet --install /usr/lib/glx glx /usr/lib/nvidia 100 $slaves
    else
        update-alternatives --quiet --remove glx /usr/lib/nvidia
    fi
    if [ -x /usr/sbin/update-initramfs ]; then update-initramfs -u; fi
fi
"""
GLX_ALTERNATIVE_PRERM = """#!/bin/sh
set -e
if [ "$1" = remove ]; then update-alternatives --quiet --remove glx /usr/lib/nvidia; fi
"""
MODPROBE_CONF = """install nvidia modprobe -i {stem} $CMDLINE_OPTS

install nvidia-modeset modprobe nvidia ; modprobe -i {stem}-modeset $CMDLINE_OPTS

install nvidia-drm modprobe nvidia-modeset ; modprobe -i {stem}-drm $CMDLINE_OPTS

install nvidia-uvm modprobe nvidia ; modprobe -i {stem}-uvm $CMDLINE_OPTS

# unloading needs the internal names

remove nvidia modprobe -r -i nvidia-drm nvidia-modeset nvidia-peermem nvidia-uvm nvidia

remove nvidia-modeset modprobe -r -i nvidia-drm nvidia-modeset

alias char-major-195* nvidia
alias pci:v000010DEd*sv*sd*bc03sc02i00* nvidia
alias pci:v000010DEd*sv*sd*bc03sc00i00* nvidia
"""
BLACKLIST_CONF = """# You need to run "update-initramfs -u" after editing this file.
blacklist nouveau
"""
PERSISTENCED_UNIT = """[Unit]
Description=NVIDIA Persistence Daemon
Wants=syslog.target

[Service]
Type=forking
ExecStart=/usr/bin/nvidia-persistenced --user nvpd
ExecStopPost=/bin/rm -rf /var/run/nvidia-persistenced

[Install]
WantedBy=multi-user.target
"""
PERSISTENCED_POSTINST = """#!/bin/sh
set -e
if [ "$1" = configure ]; then
    if ! getent passwd nvpd >/dev/null; then
        adduser --system --group --quiet --home /var/run/nvpd/ --no-create-home \\
            --gecos 'NVIDIA Persistence Daemon' nvpd
    fi
    deb-systemd-helper enable nvidia-persistenced.service >/dev/null || true
    if [ -d /run/systemd/system ]; then
        systemctl --system daemon-reload >/dev/null || true
        if [ -n "$2" ]; then action=restart; else action=start; fi
        deb-systemd-invoke $action nvidia-persistenced.service >/dev/null || true
    fi
fi
"""
PERSISTENCED_POSTRM = """#!/bin/sh
set -e
if [ "$1" = purge ] && [ -x /usr/bin/deb-systemd-helper ]; then
    deb-systemd-helper purge nvidia-persistenced.service >/dev/null || true
fi
"""
NVIDIA_MODPROBE = """#!/bin/sh
# SIMULATED nvidia-modprobe: loads the modules; the simulated kernel makes their device files.
for argument do
    case $argument in
        -u | *u* | --unified-memory) /sbin/modprobe -q nvidia-uvm ;;
    esac
done
/sbin/modprobe -q nvidia || true
"""


@dataclass(frozen=True)
class Series:
    """How the packages of one series are called: the current one, or a legacy one beside it."""

    key: str  # "" or the legacy branch

    @property
    def directory(self) -> str:
        """Below /usr/lib/nvidia and /etc/nvidia."""
        return f"tesla-{self.key}" if self.key else "current"

    @property
    def module(self) -> str:
        """What the kernel modules' files are called instead of nvidia."""
        return f"nvidia-{self.directory}"

    def package(self, name: str) -> str:
        """nvidia-smi → nvidia-tesla-470-smi, libnvidia-ml1 → libnvidia-tesla-470-ml1, libcuda1 → …-cuda1."""
        if not self.key:
            return name
        if name == "libcuda1":
            return f"libnvidia-tesla-{self.key}-cuda1"
        return name.replace("nvidia-", f"nvidia-tesla-{self.key}-", 1)


def driver_packages(
    driver: Driver, revision: str, binary: dict[str, bytes], *, series: Series, open_modules: bool
) -> dict[str, list[Deb]]:
    """component → the packages of one driver version, Debian's own names and dependencies."""
    version, upstream = f"{driver.version}-{revision}", driver.version
    same = f"(= {version})"
    name = series.package
    alternative = name("nvidia-alternative")
    directory = series.directory

    def simple(package: str, summary: str, section: str, **fields: str) -> Deb:
        return Deb(package, version, summary, section=section, fields=fields)

    check = simple(
        name("nvidia-legacy-check"),
        "check for NVIDIA GPUs requiring a legacy driver",
        "non-free/libs",
        **{"Pre-Depends": "pciutils, nvidia-installer-cleanup"},
    )
    alternatives = simple(
        alternative,
        "allows the selection of NVIDIA as GLX provider",
        "non-free/libs",
        Depends="glx-alternative-nvidia (>= 1.2)",
        Provides=f"{alternative}--kmod-alias, {alternative}-{upstream}, nvidia-alternative-any",
        **{"Pre-Depends": f"{name('nvidia-legacy-check')} (>= {driver.branch})"},
    )
    keep = "SIMULATED: a directory of the series' files\n"
    alternatives.add(f"/usr/lib/nvidia/{directory}/README.gpulab", keep)
    alternatives.add(f"/usr/lib/nvidia/{directory}-open/README.gpulab", keep)
    trigger = alternative
    values = {"lib": LIB, "series": directory, "priority": driver.branch, "trigger": trigger}
    alternatives.scripts = {
        "postinst": NVIDIA_ALTERNATIVE.format(**values),
        "prerm": NVIDIA_ALTERNATIVE_PRERM.format(**values),
        "triggers": "".join(
            f"interest-await {path}\n"
            for path in (
                f"register-{trigger}",
                f"/etc/nvidia/{directory}",
                f"/etc/nvidia/{directory}-open",
                f"/usr/lib/nvidia/{directory}",
                f"{LIB}/nvidia/{directory}",
            )
        ),
    }

    def support(package: str, stem: str, where: str, component: str, needs: str, provides: str) -> Deb:
        made = simple(
            package,
            "NVIDIA binary kernel module support files",
            f"{component}/kernel",
            Depends=f"{needs}, nvidia-kernel-common (>= 20151021), nvidia-modprobe (>= {driver.branch[:3]})"
            if series.key == ""
            else f"{needs}, nvidia-kernel-common (>= 20151021), nvidia-modprobe",
            Provides=provides,
        )
        made.add(f"/etc/nvidia/{where}/nvidia-modprobe.conf", MODPROBE_CONF.format(stem=stem))
        made.add(f"/etc/nvidia/{where}/nvidia-blacklists-nouveau.conf", BLACKLIST_CONF)
        made.add(f"/etc/nvidia/{where}/nvidia-load.conf", "nvidia-drm\n")
        made.add(f"/etc/nvidia/{where}/nvidia-options.conf", f"#options {stem} NVreg_DeviceFileMode=0660\n")
        made.conffiles = sorted(path for path in made.files if path.startswith("/etc/"))
        return made

    virtual = f"{name('nvidia-kernel-support')}--v1"
    kernel_support = support(
        name("nvidia-kernel-support"),
        series.module,
        directory,
        "non-free",
        f"{alternative} {same}, {alternative}--kmod-alias",
        f"{virtual}, nvidia-kernel-support-any",
    )
    dkms = simple(
        name("nvidia-kernel-dkms"),
        "NVIDIA binary kernel module DKMS source",
        "non-free/kernel",
        Depends=f"firmware-nvidia-gsp (= {upstream}) | firmware-nvidia-gsp-{upstream}, {virtual}, "
        "dkms (>= 3.0.3-4~)"
        if int(driver.branch) >= 510
        else f"{virtual}, dkms (>= 2.1.0.0)",
        Provides=f"{name('nvidia-kernel')}-{upstream}, nvidia-kernel-dkms-any (= {upstream})",
        **{"Pre-Depends": "nvidia-installer-cleanup"},
    )
    add_dkms_source(dkms, driver, "proprietary", series.module, series.module)
    dkms.scripts = dkms_scripts(series.module, upstream)

    # Since 530 the library brings a piece that talks to OpenSSL.
    pkcs11 = (
        []
        if int(driver.branch) < 530
        else [
            simple(
                name("libnvidia-pkcs11-openssl3"),
                "NVIDIA PKCS #11 Library (OpenSSL 3)",
                "non-free/libs",
                **{"Multi-Arch": "same"},
            )
        ]
    )
    pkcs11_depends = "".join(f"{package.name} {same}, " for package in pkcs11)
    cuda = simple(
        name("libcuda1"),
        "NVIDIA CUDA Driver Library",
        "non-free/libs",
        Depends=f"nvidia-support, {alternative} {same}, "
        f"{name('libnvidia-ptxjitcompiler1')} {same}, {pkcs11_depends}libc6 (>= 2.2.5)",
        Provides=f"libcuda.so.1 (= {upstream}), libcuda1-any",
        Recommends=f"{name('nvidia-kernel-dkms')} {same} | {name('nvidia-kernel')}-{upstream}, "
        f"{name('nvidia-smi')}, "
        "nvidia-persistenced",
        **{"Multi-Arch": "same", "Pre-Depends": f"{name('nvidia-legacy-check')} (>= {driver.branch})"},
    )
    cuda.add(f"{LIB}/nvidia/{directory}/libcuda.so.{upstream}", binary["libcuda"])
    cuda.links[f"{LIB}/nvidia/{directory}/libcuda.so.1"] = f"libcuda.so.{upstream}"
    cuda.links[f"{LIB}/nvidia/{directory}/libcuda.so"] = "libcuda.so.1"
    cuda.scripts["triggers"] = "activate-noawait ldconfig\n"
    ml = simple(
        name("libnvidia-ml1"),
        "NVIDIA Management Library (NVML) runtime library",
        "non-free/libs",
        Depends=f"{alternative} {same}, libc6 (>= 2.2.5)",
        Provides=f"libnvidia-ml.so.1 (= {upstream})",
        **{"Multi-Arch": "same"},
    )
    ml.add(f"{LIB}/nvidia/{directory}/libnvidia-ml.so.{upstream}", binary["libnvidia-ml"])
    ml.links[f"{LIB}/nvidia/{directory}/libnvidia-ml.so.1"] = f"libnvidia-ml.so.{upstream}"
    ml.scripts["triggers"] = "activate-noawait ldconfig\n"
    smi = simple(
        name("nvidia-smi"),
        "NVIDIA System Management Interface",
        "non-free/utils",
        Depends=f"{alternative} {same}, {name('libnvidia-ml1')} {same}, libc6 (>= 2.2.5)",
    )
    smi.add(f"/usr/lib/nvidia/{directory}/nvidia-smi", binary["nvidia-smi"], 0o755)
    jit = simple(
        name("libnvidia-ptxjitcompiler1"),
        "NVIDIA PTX JIT Compiler library",
        "non-free/libs",
        Depends="libc6 (>= 2.2.5)",
        **{"Multi-Arch": "same"},
    )
    cfg = simple(
        name("libnvidia-cfg1"),
        "NVIDIA binary OpenGL/GLX configuration library",
        "non-free/libs",
        Depends=f"{alternative} {same}, libc6 (>= 2.2.5)",
        Provides=f"libnvidia-cfg.so.1 (= {upstream}), libnvidia-cfg1-any",
    )
    found = {"non-free": [check, alternatives, kernel_support, dkms, cuda, ml, smi, jit, cfg, *pkcs11]}
    if int(driver.branch) >= 510:
        found["non-free-firmware"] = [
            Deb(
                "firmware-nvidia-gsp" if not series.key else f"firmware-nvidia-{series.directory}-gsp",
                version,
                "NVIDIA GSP firmware",
                section="non-free-firmware/kernel",
                fields={
                    "Provides": f"firmware-nvidia-gsp (= {upstream}), firmware-nvidia-gsp-{upstream}",
                    "Conflicts": f"firmware-nvidia-gsp-{upstream}",
                },
            )
        ]
    if open_modules:
        needs = f"{alternative}-{upstream}"
        open_support = support(
            "nvidia-open-kernel-support",
            f"{series.module}-open",
            f"{directory}-open",
            "non-free",
            needs,
            "nvidia-kernel-support-any, nvidia-open-kernel-support--v1, "
            f"nvidia-open-kernel-support-{upstream}",
        )
        open_dkms = simple(
            "nvidia-open-kernel-dkms",
            "NVIDIA open kernel module DKMS source",
            "contrib/kernel",
            Depends=f"firmware-nvidia-gsp (= {upstream}) | firmware-nvidia-gsp-{upstream}, "
            "nvidia-open-kernel-support--v1, dkms (>= 3.0.3-4~)",
            Provides=f"nvidia-open-kernel-{upstream}, nvidia-open-kernel-dkms-any (= {upstream})",
            **{"Pre-Depends": "nvidia-installer-cleanup"},
        )
        add_dkms_source(open_dkms, driver, "open", f"{series.module}-open", f"{series.module}-open")
        open_dkms.scripts = dkms_scripts(f"{series.module}-open", upstream)
        found["non-free"].append(open_support)
        found["contrib"] = [open_dkms]
    return found


def helper_packages(release: dict[str, Any], binary: dict[str, bytes]) -> list[Deb]:
    """contrib's packages around the driver, each with a version of its own."""
    support = release["support"]
    cleanup = Deb(
        "nvidia-installer-cleanup", support, "cleanup after driver installation", section="contrib/misc"
    )
    nvidia_support = Deb(
        "nvidia-support", support, "NVIDIA binary graphics driver support files", section="contrib/misc"
    )
    common = Deb(
        "nvidia-kernel-common", support, "NVIDIA binary kernel module support files", section="contrib/kernel"
    )
    common.add("/lib/udev/rules.d/60-nvidia-kernel-common.rules", "# SIMULATED: access for console users\n")
    update_glx = Deb(
        "update-glx", GLX_VERSION, "utility for switching the GLX implementation", section="contrib/x11"
    )
    glx = Deb(
        "glx-alternative-nvidia",
        GLX_VERSION,
        "allows the selection of NVIDIA as GLX provider",
        section="contrib/libs",
        fields={"Depends": f"update-glx (= {GLX_VERSION})"},
    )
    glx.scripts = {
        "postinst": GLX_ALTERNATIVE,
        "prerm": GLX_ALTERNATIVE_PRERM,
        "postrm": UPDATE_INITRAMFS.format(when="remove"),
        "triggers": "interest-await register-glx-alternative-nvidia\n",
    }
    modprobe = Deb(
        "nvidia-modprobe",
        release["modprobe"],
        "utility to load NVIDIA kernel modules and create device nodes",
        section="contrib/utils",
        fields={"Depends": "libc6 (>= 2.2.5)"},
    )
    modprobe.add("/usr/bin/nvidia-modprobe", NVIDIA_MODPROBE, 0o755)
    legacy = "".join(f" | libnvidia-tesla-{branch}-cfg1" for branch, *_ in release.get("legacy", []))
    persistenced = Deb(
        "nvidia-persistenced",
        release["persistenced"],
        "daemon to maintain persistent software state in the NVIDIA driver",
        section="contrib/utils",
        fields={"Depends": f"libnvidia-cfg1{legacy} | libnvidia-cfg.so.1 | libnvidia-cfg1-any, adduser"},
    )
    persistenced.add("/usr/bin/nvidia-persistenced", binary["nvidia-persistenced"], 0o755)
    persistenced.add("/lib/systemd/system/nvidia-persistenced.service", PERSISTENCED_UNIT)
    persistenced.scripts = {
        "postinst": PERSISTENCED_POSTINST,
        "prerm": PERSISTENCED_PRERM,
        "postrm": PERSISTENCED_POSTRM,
    }
    return [cleanup, nvidia_support, common, update_glx, glx, modprobe, persistenced]


def archive_packages(
    release: dict[str, Any], binaries: dict[str, dict[str, bytes]]
) -> dict[str, dict[str, list[Deb]]]:
    """suite (release, security) → component → packages."""
    upstream, revision = release["driver"]
    open_modules = bool(release.get("open"))
    suites: dict[str, dict[str, list[Deb]]] = {
        "release": driver_packages(
            DRIVERS[upstream], revision, binaries[upstream], series=Series(""), open_modules=open_modules
        )
    }
    for branch, legacy, legacy_revision in release.get("legacy", []):
        more = driver_packages(
            DRIVERS[legacy], legacy_revision, binaries[legacy], series=Series(branch), open_modules=False
        )
        for component, packages in more.items():
            suites["release"].setdefault(component, []).extend(packages)
    suites["release"].setdefault("contrib", []).extend(helper_packages(release, binaries[upstream]))
    if "security" in release:
        newer, newer_revision = release["security"]
        # The security team builds no open modules.
        suites["security"] = driver_packages(
            DRIVERS[newer], newer_revision, binaries[newer], series=Series(""), open_modules=False
        )
        modprobe = Deb(
            "nvidia-modprobe",
            f"{newer}-{newer_revision}",
            "utility to load NVIDIA kernel modules and create device nodes",
            section="contrib/utils",
            fields={"Depends": "libc6 (>= 2.2.5)"},
        )
        modprobe.add("/usr/bin/nvidia-modprobe", NVIDIA_MODPROBE, 0o755)
        suites["security"]["contrib"] = [modprobe]
    return suites
