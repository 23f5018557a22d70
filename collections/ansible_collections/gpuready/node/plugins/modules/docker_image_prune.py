#!/usr/bin/python
# Copyright: gpuready contributors
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

DOCUMENTATION = r"""
module: docker_image_prune
short_description: Removes images that gpuready derived and that nobody wants
version_added: "0.1.0"
description:
  - Removes the names of images that carry gpuready's label C(io.gpuready.recipe), but for those in O(keep),
    and their layers when nothing else needs them. Images that lost their name to a newer one of the same
    recipe go as well. No other image is touched.
  - An image that a container uses, running or not, stays.
options:
  keep:
    description: Names that stay.
    type: list
    elements: str
    default: []
  in_use:
    description: What to do where containers use them, V(keep) those or V(fail) before anything is removed.
    type: str
    choices: [keep, fail]
    default: keep
attributes:
  check_mode:
    description: Says what would be removed.
    support: full
  diff_mode:
    description: Shows the images' names before and after.
    support: full
  idempotent:
    description: Where there is nothing to remove, nothing changes.
    support: full
  platform:
    description: Linux with Docker. Without Docker there is nothing to remove.
    support: full
    platforms: linux
author:
  - gpuready contributors (@gpuready)
"""

EXAMPLES = r"""
- name: Remove derived images that no recipe wants
  gpuready.node.docker_image_prune:
    keep: "{{ ansible_facts['gpu_plan'].recipes | map(attribute='image') | list }}"

- name: Remove them all
  gpuready.node.docker_image_prune:
    in_use: fail
"""

RETURN = r"""
removed:
  description: The names that were removed; the id, for an image without one.
  returned: success
  type: list
  elements: str
  sample: [gpuready/tf-notebook:3f2a9c0d1e4b]
kept:
  description: Images that stay because containers use them.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: The image's name, or its id.
      type: str
      sample: gpuready/tf-notebook:3f2a9c0d1e4b
    containers:
      description: The containers' names.
      type: list
      elements: str
      sample: [experiment-3]
"""

from typing import Dict, List, Tuple

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.gpuready.node.plugins.module_utils import docker_images, recipes
from ansible_collections.gpuready.node.plugins.module_utils.probe_run import docker as ask_docker


class Docker:
    """The engine, through its command line."""

    def __init__(self, module: AnsibleModule, binary: str) -> None:
        self.module, self.binary = module, binary

    def ask(self, *arguments: str) -> str:
        code, out, err = ask_docker(self.binary, arguments)
        if code != 0:
            self.module.fail_json(
                msg="docker %s failed: %s"
                % (" ".join(arguments[:2]), docker_images.last_words(err or out) or "no reason was given")
            )
        return out

    def derived(self) -> List[Tuple[str, str]]:
        """(id, name) of every image that gpuready derived; the id once more where it has no name."""
        found = []
        listed = self.ask(
            "image",
            "ls",
            "--no-trunc",
            "--filter",
            "label=%s" % recipes.RECIPE,
            "--format",
            "{{.ID}} {{.Repository}}:{{.Tag}}",
        )
        for line in listed.splitlines():
            identifier, _space, name = line.partition(" ")
            found.append((identifier, identifier if "<none>" in name else name))
        return sorted(set(found), key=lambda row: row[1])

    def users(self, identifier: str) -> List[str]:
        out = self.ask("ps", "--all", "--filter", "ancestor=%s" % identifier, "--format", "{{.Names}}")
        return sorted(out.split())


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "keep": {"type": "list", "elements": "str", "default": []},
            "in_use": {"type": "str", "choices": ["keep", "fail"], "default": "keep"},
        },
        supports_check_mode=True,
    )
    binary = module.get_bin_path("docker")
    if binary is None:
        module.exit_json(changed=False, removed=[], kept=[])
    docker = Docker(module, binary)
    there = docker.derived()
    unwanted = [row for row in there if row[1] not in module.params["keep"]]
    names: Dict[str, List[str]] = {}
    for identifier, name in there:
        names.setdefault(identifier, []).append(name)
    kept, removable = [], []
    for identifier, name in unwanted:
        users = docker.users(identifier)
        # A name may go while the image lives on under another one.
        alone = all(other not in module.params["keep"] for other in names[identifier])
        if users and alone:
            kept.append({"name": name, "containers": users})
        else:
            removable.append(name)
    if kept and module.params["in_use"] == "fail":
        module.fail_json(
            msg="containers use images that gpuready built: %s. Remove them first. Nothing was removed."
            % "; ".join("%s (%s)" % (row["name"], ", ".join(row["containers"])) for row in kept),
            removed=[],
            kept=kept,
        )
    if not module.check_mode:
        for name in removable:
            docker.ask("image", "rm", name)
    before = [name for _identifier, name in there]
    module.exit_json(
        changed=bool(removable),
        removed=removable,
        kept=kept,
        diff={
            "before": {"images": before},
            "after": {"images": [name for name in before if name not in removable]},
        },
    )


if __name__ == "__main__":
    main()
