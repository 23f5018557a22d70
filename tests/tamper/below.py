"""Damages to the node itself: host, driver, container runtime, images."""

from __future__ import annotations

from typing import Any

from damages import Groups, damage
from small_image import MIRROR

WISHES: dict[str, Any] = {
    # An image is removed and fetched again here; the real one would take minutes and prove no more.
    "framework_image_registry_mirror": MIRROR,
    "docker_engine_daemon_config": {
        "insecure-registries": [MIRROR.partition("/")[0]],
        # A setting of the user's own: one of the things that can be tampered with.
        "log-opts": {"max-size": "9m"},
    },
}

DAEMON_JSON = "/etc/docker/daemon.json"
EDIT_JSON = """python3 - <<'EOF'
import json
with open("/etc/docker/daemon.json") as file: data = json.load(file)
%s
with open("/etc/docker/daemon.json", "w") as file: json.dump(data, file, indent=4)
EOF
"""


# Substitutions for the node's shell.
UTILS = "$(dpkg-query -W -f '${Package}\\n' 'nvidia-utils-*' | head -n 1)"
TOOLKIT_SOURCE = "$(grep -l libnvidia-container /etc/apt/sources.list.d/*.sources)"
TOOLKIT_KEY = f"$(sed -n 's/^Signed-By: *//p' {TOOLKIT_SOURCE})"
HOOK = "/usr/bin/nvidia-container-runtime-hook"

BELOW: Groups = {
    "settings": (
        damage(
            "nouveau_file_removed",
            "rm $(grep -rl 'blacklist nouveau' /etc/modprobe.d /lib/modprobe.d)",
            "host.nouveau_off",
        ),
        damage(
            "upgrade_guard_edited",
            "sed -i 's/nvidia/nvidja/' /etc/apt/apt.conf.d/52gpuready-nvidia",
            "driver.upgrade_guard",
        ),
        damage("driver_hold_removed", f"apt-mark unhold {UTILS}", "driver.hold"),
        damage("toolkit_hold_removed", "apt-mark unhold nvidia-container-toolkit", "toolkit.hold"),
        damage(
            "toolkit_source_edited",
            f"sed -i '/^URIs/s/$/-elsewhere/' {TOOLKIT_SOURCE}",
            "toolkit.source",
            may=("apt.refresh_lists",),
        ),
        damage(
            "users_wished_key_removed",
            EDIT_JSON % 'del data["log-opts"]',
            "docker.daemon_config",
            may=("docker.restart",),
        ),
        damage("image_removed", "docker image rm --force $(docker image ls --quiet)", "image.fetch"),
    ),
    "runtime": (
        damage("upgrade_guard_removed", "rm /etc/apt/apt.conf.d/52gpuready-nvidia", "driver.upgrade_guard"),
        damage(
            "runtime_removed_from_daemon_json",
            EDIT_JSON % 'del data["runtimes"]["nvidia"]',
            "toolkit.runtime",
        ),
        damage(
            "persistenced_stopped_and_disabled",
            "systemctl disable --now nvidia-persistenced.service",
            "driver.persistenced",
        ),
    ),
    "hook": (
        damage(
            "hook_newer_than_dockerd",
            # As an upgrade by hand would leave it.
            f"sleep 1.1; cp -a {HOOK} {HOOK}.new && touch {HOOK}.new && mv {HOOK}.new {HOOK}",
            "docker.restart",
        ),
        damage(
            "toolkit_key_removed",
            f"rm {TOOLKIT_KEY}",
            "toolkit.source",
            may=("apt.refresh_lists",),
        ),
    ),
    "live_runtime": (
        # daemon.json is right again, but dockerd was started while it was not.
        damage(
            "dockerd_runs_without_the_runtime",
            f"cp -a {DAEMON_JSON} /root/kept.json && "
            + EDIT_JSON % 'del data["runtimes"]'
            + f"systemctl restart docker && cp -a /root/kept.json {DAEMON_JSON}",
            "docker.restart",
        ),
        # The driver's own file where it brings one, as on a node whose disk was copied; else gpuready's.
        damage(
            "initramfs_older_than_the_blacklist",
            "sleep 0.1; "
            "touch $(grep -ls 'blacklist nouveau' /usr/lib/modprobe.d/* /etc/modprobe.d/* | head -n 1)",
            "host.nouveau_off",
        ),
    ),
    "services": (
        damage(
            "docker_stopped_and_disabled",
            "systemctl disable --now docker.service; systemctl stop docker.socket",
            "docker.service",
            may=("image.fetch",),
        ),
        damage(
            "driver_unloaded",
            "systemctl stop nvidia-persistenced.service; "
            "for m in nvidia_drm nvidia_modeset nvidia_uvm nvidia; do "
            "[ ! -e /sys/module/$m ] || modprobe -r $m || exit; done",
            "driver.load",
            may=("driver.persistenced",),
        ),
    ),
    "packages": (
        damage(
            "toolkit_package_removed",
            "dpkg --remove --force-depends nvidia-container-toolkit",
            "toolkit.install",
            # The lists are older than a source that a former group's repair wrote anew.
            may=("toolkit.hold", "docker.restart", "apt.refresh_lists"),
        ),
        damage(
            "driver_package_removed",
            f"dpkg --remove --force-depends {UTILS}",
            "driver.install",
            may=("driver.hold", "driver.persistenced"),
        ),
    ),
    "dpkg": (
        damage(
            "dpkg_interrupted",
            "sed -i '/^Package: sudo$/,/^$/s/^Status: .*/Status: install ok unpacked/' /var/lib/dpkg/status",
            "apt.finish_dpkg",
        ),
    ),
    "docker_package": (
        damage(
            "docker_package_removed",
            "systemctl stop docker.service docker.socket; dpkg --remove --force-depends docker.io",
            "docker.install",
            may=("docker.service", "image.fetch", "toolkit.runtime"),
        ),
        # The lists are of use only where something is to be installed.
        damage("package_lists_removed", "rm -rf /var/lib/apt/lists/*", "apt.refresh_lists"),
    ),
}
