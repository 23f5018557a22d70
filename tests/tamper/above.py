"""Damages to what stands on a node's GPUs: derived images, environments, workbenches, monitoring."""

from __future__ import annotations

from typing import Any

from damages import Groups, damage

# The image needs no framework of its own: the wheel brings it, and the build checks it all the same.
RECIPE = {
    "name": "torch-notebook",
    "base": "gpulab-registry:5000/gpulab/python-slim:1",
    "workload": "pytorch-2.5-cu124",
    "jupyter": True,
    "ssh": True,
}
WISHES: dict[str, Any] = {
    "framework_image_recipes": [RECIPE],
    # The small image is Debian 12, the lab's TensorFlow image 11.
    "framework_image_build_apt_sources": ["deb [trusted=yes] http://gpulab-mirror/images bookworm main"],
    "framework_venv_environments": [{"name": "research", "workload": "pytorch-2.5-cu124"}],
    "gpu_workbench_users": [
        {
            "name": "alice",
            "recipe": RECIPE["name"],
            "jupyter_port": 8888,
            "ssh_port": 2222,
            "authorized_keys": ["{{ gpulab_public_key }}"],
        }
    ],
    "gpu_health_enabled": True,
}

# Substitutions for the node's shell.
NAME = (
    f"$(docker image ls --format '{{{{.Repository}}}}:{{{{.Tag}}}}' 'gpuready/{RECIPE['name']}' | head -n 1)"
)
ENVIRONMENT = "/opt/gpuready/venvs/research"
BENCH = "/etc/gpuready/workbench"
UNIT = "gpuready-workbench-alice.service"

ABOVE: Groups = {
    "images": (
        # Its name now means what it was built on.
        damage(
            "image_replaced_by_its_base",
            f"docker tag {RECIPE['base']} {NAME}",
            "image.build",
            may=("workbench.start",),
        ),
        damage(
            "image_of_a_recipe_that_is_gone",
            f"printf 'FROM %s\\nLABEL io.gpuready.recipe=old\\n' {NAME} "
            "| docker build -q -t gpuready/old:0123456789ab -",
            "image.prune",
        ),
    ),
    "environments": (
        damage(
            "environment_that_nobody_declares",
            f"cp -a $(readlink -f {ENVIRONMENT}) {ENVIRONMENT}2@0123456789ab; "
            f"ln -s research2@0123456789ab {ENVIRONMENT}2",
            "venv.remove",
        ),
        damage("environment_removed", f"rm {ENVIRONMENT}", "venv.install"),
    ),
    "workbench": (
        damage(
            "configuration_edited",
            f"sed -i 's/8888/8887/' {BENCH}/alice/workbench.json",
            "workbench.configure",
            may=("workbench.start",),
        ),
        damage(
            "workbench_that_nobody_declares",
            f"cp -a {BENCH}/alice {BENCH}/mallory",
            "workbench.remove",
        ),
    ),
    "services": (
        damage("workbench_stopped_and_disabled", f"systemctl disable --now {UNIT}", "workbench.start"),
        damage("workbench_token_of_two_letters", f"echo ab > {BENCH}/alice/token", "workbench.configure"),
        damage(
            "health_configuration_edited",
            "sed -i 's/\\[/[ /' /etc/gpuready/health/health.json",
            "health.configure",
            may=("health.start",),
        ),
    ),
    "health": (
        damage(
            "check_timer_stopped_and_disabled",
            "systemctl disable --now gpuready-health-check.timer",
            "health.start",
        ),
        damage(
            "exporter_removed",
            "apt-get -y -qq purge prometheus-node-exporter",
            "health.packages",
            may=("health.configure",),
        ),
    ),
}
