"""The four packages of the container toolkit stand-in."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
COMMITS = {
    "1.17.8": "f202b80a9b9d0db00d9b1d73c0128c8962c55f4d",
    "1.18.2": "9e88ed39710fd94c7e49fbb26d96492c45e574fb",
}
CLI_COMMITS = {
    "1.17.8": "6eda4d76c8c5f8fc174e4abca83e513fb4dd63b0",
    "1.18.2": "9e88ed39710fd94c7e49fbb26d96492c45e574fb",
}

OLD = "nvidia-container-runtime (<= 3.5.0-1), nvidia-container-runtime-hook"

BASE_POSTINST = """#!/bin/sh
set -e
if [ "$1" = configure ]; then
    /usr/bin/nvidia-ctk --quiet config --config-file=/etc/nvidia-container-runtime/config.toml --in-place
@REFRESH@fi
"""
REFRESH_POSTINST = """\
    if command -v systemctl >/dev/null 2>&1; then
        case "$(systemctl is-system-running 2>/dev/null || true)" in
            running | degraded)
                systemctl daemon-reload || echo "Warning: Failed to reload systemd daemon" >&2
                for unit in nvidia-cdi-refresh.path nvidia-cdi-refresh.service; do
                    systemctl enable --now $unit || echo "Warning: Failed to enable $unit" >&2
                done ;;
        esac
    fi
"""
REFRESH_PRERM = """#!/bin/sh
set -e
if [ "$1" = remove ] && [ -d /run/systemd/system ]; then
    systemctl disable --now nvidia-cdi-refresh.path nvidia-cdi-refresh.service || true
fi
"""
REFRESH_SERVICE = """[Unit]
Description=Refresh NVIDIA CDI specification file
ConditionPathExists=|/usr/bin/nvidia-smi
ConditionPathExists=|/usr/sbin/nvidia-smi
ConditionPathExists=/usr/bin/nvidia-ctk
After=multi-user.target

[Service]
Type=oneshot
Environment=NVIDIA_CTK_CDI_OUTPUT_FILE_PATH=/var/run/cdi/nvidia.yaml
EnvironmentFile=-/etc/nvidia-container-toolkit/nvidia-cdi-refresh.env
ExecCondition=/usr/bin/grep -qE '/nvidia(-current)?\\.ko' /lib/modules/%v/modules.dep
ExecStart=/usr/bin/nvidia-ctk cdi generate
CapabilityBoundingSet=CAP_SYS_MODULE CAP_SYS_ADMIN CAP_MKNOD
RemainAfterExit=yes

[Install]
WantedBy=multi-user.target
"""
REFRESH_PATH = """[Unit]
Description=Trigger CDI refresh on NVIDIA driver install / uninstall events

[Path]
PathChanged=/lib/modules/%v/modules.dep
PathChanged=/lib/modules/%v/modules.dep.bin

[Install]
WantedBy=multi-user.target
"""
HOOK_POSTINST = """#!/bin/sh
set -e
if [ "$1" = configure ] && [ ! -e /usr/bin/nvidia-container-toolkit ]; then
    ln -s /usr/bin/nvidia-container-runtime-hook /usr/bin/nvidia-container-toolkit
fi
"""
HOOK_POSTRM = """#!/bin/sh
set -e
case "$1" in
    remove | purge)
        if [ -L /usr/bin/nvidia-container-toolkit ]; then rm -f /usr/bin/nvidia-container-toolkit; fi ;;
esac
"""


def program(name: str, version: str, commit: str) -> bytes:
    """One self-contained script: the shared part, then the program."""
    common = (HERE / "common.py").read_text().replace("@VERSION@", version).replace("@COMMIT@", commit)
    own = re.sub(
        r"^from \.common import \([^)]*\)\n", "", (HERE / f"{name}.py").read_text(), flags=re.MULTILINE
    )
    return f"#!/usr/bin/python3 -IS\n{common}\n\n{own}".encode()


def build(upstream: str, deb: Any) -> list[Any]:
    """The packages of one upstream version, with the real ones' names and dependencies (and python3)."""
    version = f"{upstream}-1"
    commit = COMMITS[upstream]
    refresh = tuple(int(part) for part in upstream.split(".")[:2]) >= (1, 18)

    library = deb(
        "libnvidia-container1",
        version,
        "NVIDIA container runtime library",
        section="utils",
        fields={"Multi-Arch": "same"},
    )

    tools = deb(
        "libnvidia-container-tools",
        version,
        "NVIDIA container runtime library (command-line tools)",
        section="utils",
        fields={"Depends": f"libnvidia-container1 (>= {version}), python3"},
    )
    tools.add("/usr/bin/nvidia-container-cli", program("cli", upstream, CLI_COMMITS[upstream]), 0o755)

    base = deb(
        "nvidia-container-toolkit-base",
        version,
        "NVIDIA Container Toolkit Base",
        section="utils",
        fields={
            "Depends": "python3",
            "Breaks": f"{OLD}, nvidia-container-toolkit (<= 1.10.0-1)",
            "Replaces": f"{OLD}, nvidia-container-toolkit (<= 1.10.0-1)",
        },
    )
    base.add("/usr/bin/nvidia-ctk", program("ctk", upstream, commit), 0o755)
    base.add("/usr/bin/nvidia-container-runtime", program("runtime", upstream, commit), 0o755)
    base.add("/usr/bin/nvidia-cdi-hook", program("cdi_hook", upstream, commit), 0o755)
    base.scripts["postinst"] = BASE_POSTINST.replace("@REFRESH@", REFRESH_POSTINST if refresh else "")
    base.scripts["postrm"] = """#!/bin/sh
set -e
if [ "$1" = purge ]; then rm -rf /etc/nvidia-container-runtime; fi
"""
    if refresh:
        base.add("/etc/systemd/system/nvidia-cdi-refresh.service", REFRESH_SERVICE)
        base.add("/etc/systemd/system/nvidia-cdi-refresh.path", REFRESH_PATH)
        base.add(
            "/etc/nvidia-container-toolkit/nvidia-cdi-refresh.env",
            "# NVIDIA_CTK_CDI_OUTPUT_FILE_PATH=/var/run/cdi/nvidia.yaml\n",
        )
        base.conffiles = [
            "/etc/systemd/system/nvidia-cdi-refresh.service",
            "/etc/systemd/system/nvidia-cdi-refresh.path",
            "/etc/nvidia-container-toolkit/nvidia-cdi-refresh.env",
        ]
        base.scripts["prerm"] = REFRESH_PRERM

    toolkit = deb(
        "nvidia-container-toolkit",
        version,
        "NVIDIA Container toolkit",
        section="utils",
        fields={
            "Depends": f"nvidia-container-toolkit-base (= {version}), "
            f"libnvidia-container-tools (>= {version}), libnvidia-container-tools (<< 2.0.0)",
            "Breaks": OLD,
            "Replaces": OLD,
        },
    )
    toolkit.add("/usr/bin/nvidia-container-runtime-hook", program("hook", upstream, commit), 0o755)
    toolkit.scripts["postinst"] = HOOK_POSTINST
    toolkit.scripts["postrm"] = HOOK_POSTRM
    return [library, tools, base, toolkit]
