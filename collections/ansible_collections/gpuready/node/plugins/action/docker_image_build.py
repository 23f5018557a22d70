# Copyright: gpuready contributors
# SPDX-License-Identifier: Apache-2.0
"""Send a recipe's files and the framework's probe to the node. See modules/docker_image_build.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.utils.vars import transform_to_native_types
from ansible_collections.gpuready.node.plugins.module_utils import recipes
from ansible_collections.gpuready.node.plugins.module_utils.catalog import load_catalog
from ansible_collections.gpuready.node.plugins.module_utils.verification import LAUNCH_ARGUMENTS

PROBES = Path(__file__).parents[2] / "data" / "probes"

ARGUMENTS: dict[str, dict[str, Any]] = {
    "recipe": {"type": "dict", "required": True},
    "build": {"type": "bool", "default": True},
    "pull": {"type": "str", "default": ""},
    "push": {"type": "str", "default": ""},
    "pip_index_url": {"type": "str", "default": ""},
    "apt_sources": {"type": "list", "elements": "str", "default": []},
    "network": {"type": "str", "default": ""},
    "timeout_seconds": {"type": "int", "default": 1800},
    "probe_timeout_seconds": {"type": "int", "default": 300},
}


class ActionModule(ActionBase):
    """Turn the plan's row into what the node needs to build and check it."""

    TRANSFERS_FILES = False
    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        task_vars = task_vars or {}
        _validation, arguments = self.validate_argument_spec(argument_spec=ARGUMENTS)
        arguments = transform_to_native_types(arguments, redact=False)
        for name in ("timeout_seconds", "probe_timeout_seconds"):
            if arguments[name] < 1:
                raise AnsibleActionFail(f"{name} must be at least 1")
        row = arguments["recipe"]
        workload = load_catalog().frameworks.get(row.get("workload") or "")
        if workload is None or workload.probe is None:
            raise AnsibleActionFail("recipe: this is no row of the plan's recipes; make the plan anew")
        parts = [recipes.part(name) for name in row["parts"]]
        if recipes.content_hash(row["dockerfile"], parts) != row["hash"]:
            raise AnsibleActionFail(
                f"recipe: {row['name']} was planned by another version of gpuready; plan anew"
            )
        facts = task_vars.get("ansible_facts") or {}
        plan = transform_to_native_types(facts.get("gpu_plan"), redact=False) or {}
        way = ((plan.get("container_runtime") or {}).get("launch") or {}).get("way") or "gpus"
        return self._execute_module(
            module_name="gpuready.node.docker_image_build",
            module_args={
                "image": row["image"],
                "base_image": row["base"]["image"],
                "hash": row["hash"],
                "workload": workload.name,
                "comes_in": bool(row["wheel"]),
                "expect": {key: value for key, value in workload.expect.items() if value},
                "labels": self._labels(row),
                "context": self._context(row, parts),
                "build_args": self._build_args(arguments, row),
                "probe_text": (PROBES / f"{workload.probe}.py").read_text(encoding="utf-8"),
                "launch_arguments": LAUNCH_ARGUMENTS[way],
                **{
                    name: arguments[name]
                    for name in (
                        "build",
                        "pull",
                        "push",
                        "network",
                        "timeout_seconds",
                        "probe_timeout_seconds",
                    )
                },
            },
            task_vars=task_vars,
        )

    @staticmethod
    def _labels(row: dict[str, Any]) -> dict[str, str]:
        found = {
            recipes.RECIPE: row["name"],
            recipes.HASH: row["hash"],
            f"{recipes.LABEL}dockerfile": recipes.text_hash(row["dockerfile"]),
            f"{recipes.LABEL}workload": row["workload"],
        }
        found.update({f"{recipes.LABEL}{word}": "true" for word in ("jupyter", "ssh") if row[word]})
        return found

    @staticmethod
    def _context(row: dict[str, Any], parts: list[recipes.Part]) -> list[dict[str, str]]:
        dockerfile = recipes.Part("Dockerfile", "0644", row["dockerfile"])
        return [dict(part._asdict()) for part in (dockerfile, *parts)]

    @staticmethod
    def _build_args(arguments: dict[str, Any], row: dict[str, Any]) -> dict[str, str]:
        pip, wheel = arguments["pip_index_url"], row["wheel_index_url"] or ""
        given = {
            "APT_SOURCES": "\n".join(arguments["apt_sources"]),
            "PIP_INDEX_URL": pip,
            "WHEEL_INDEX_URL": wheel,
            "PIP_TRUSTED_HOST": recipes.trusted_host([pip, wheel]),
        }
        # The old builder takes an argument that the Dockerfile does not declare for an error.
        return {
            name: value for name, value in given.items() if value and f"ARG {name}\n" in row["dockerfile"]
        }
