#!/usr/bin/python
# Copyright: gpuready developers
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

DOCUMENTATION = r"""
module: docker_images
short_description: Brings container images to a node, under their official names
version_added: "0.1.0"
description:
  - Pulls images that are not on the node, by their own names or through a mirror, or loads them from an
    archive. An image that came under another name gets its official one too, so that users find it under
    that.
  - The mirror's name stays beside it; Docker keeps the image's digest with it.
  - An image fails or comes as a whole. No name is left on an image that is not the one asked for.
  - Meant to run asynchronously as well; images take minutes.
options:
  images:
    description: The images.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description:
          - The official reference, with a tag other than V(latest), or with a digest when it is pulled by
            that very name.
        type: str
        required: true
      pull:
        description: The reference to pull instead, at a mirror. The same as O(images[].name) when empty.
        type: str
        default: ""
  archive:
    description:
      - A file on the node, made by C(docker save), to load the images from. Nothing is pulled then.
    type: path
  state:
    description:
      - V(present) brings what is missing. V(absent) removes the images' names, and their layers when no other
        image needs them; it fails, with nothing removed, when a container uses one.
    type: str
    choices: [present, absent]
    default: present
  socket:
    description: The socket at which dockerd answers.
    type: path
    default: /var/run/docker.sock
attributes:
  check_mode:
    description: Says what would change; fetches nothing.
    support: full
  diff_mode:
    description: Shows the images' ids before and after.
    support: full
  idempotent:
    description: An image that is there under its official name is left as it is.
    support: full
  async:
    description: May run with C(async).
    support: full
  platform:
    description: Linux with Docker.
    support: full
    platforms: linux
author: gpuready developers
"""

EXAMPLES = r"""
- name: Fetch TensorFlow's image through the site's mirror
  gpuready.node.docker_images:
    images:
      - name: tensorflow/tensorflow:2.9.0-gpu
        pull: registry.example:5000/tensorflow/tensorflow:2.9.0-gpu

- name: Load it where there is no registry
  gpuready.node.docker_images:
    images:
      - name: tensorflow/tensorflow:2.9.0-gpu
    archive: /srv/images/tensorflow-2.9.0-gpu.tar
"""

RETURN = r"""
images:
  description: The images as they are now.
  returned: always
  type: list
  elements: dict
  contains:
    name:
      description: The official reference.
      type: str
      sample: tensorflow/tensorflow:2.9.0-gpu
    id:
      description: The image's id. Null when it is not on the node.
      type: str
      sample: sha256:0e0a…
    digests:
      description: The digests by which registries know the image; empty for one that came from an archive.
      type: list
      elements: str
      sample: ["registry.example:5000/tensorflow/tensorflow@sha256:5a2c…"]
    size_mib:
      description: Its size in MiB. Null when it is not on the node.
      type: int
      sample: 3800
    how:
      description:
        - What this call did for it, V(pulled), V(loaded), V(tagged) (it was there under the mirror's name) or
          V(removed). Null when there was nothing to do.
      type: str
      sample: pulled
image:
  description: The image that could not be fetched.
  returned: when one could not
  type: str
reason:
  description:
    - Why it could not be fetched, one of V(unreachable), V(missing), V(denied), V(untrusted), V(plain_http),
      V(rate_limited), V(disk_full), V(wrong_platform), V(broken_archive), V(wrong_archive), V(no_archive),
      V(no_docker), V(in_use), V(unknown).
  returned: when one could not
  type: str
said:
  description: Docker's own words.
  returned: when one could not
  type: str
"""

import json
import os
from typing import Any, Callable

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.gpuready.node.plugins.module_utils import docker_images, docker_progress, progress

MIB = 1024 * 1024
ENVIRONMENT = {"LC_ALL": "C.UTF-8", "LANGUAGE": "C"}


class Docker:
    """The engine, through its command line: that knows the node's registry credentials."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.program = module.get_bin_path("docker")
        if not self.program:
            module.fail_json(
                msg="docker is not installed on this node. Install it first (role docker_engine).",
                reason="no_docker",
                said="",
                images=[],
            )

    def command(self, *arguments: str) -> list[str]:
        return [self.program, "--host", f"unix://{self.module.params['socket']}", *arguments]

    def run(self, *arguments: str, begun: Callable[[Any], None] | None = None) -> tuple[int, str, str]:
        """Exit status, output, complaints; ``begun`` is called with the process when it runs."""
        return self.module.run_command(
            self.command(*arguments), environ_update=ENVIRONMENT, before_communicate_callback=begun
        )

    def pull(self, reference: str) -> tuple[int, str, str]:
        """As ``run``, telling the bytes meanwhile."""
        with progress.Step("image_fetch", "bytes") as step:
            told = docker_progress.Told(step, reference.rpartition("/")[2])
            try:
                return docker_progress.pull(
                    self.command("pull", reference), {**os.environ, **ENVIRONMENT}, told
                )
            except OSError:
                # No terminals here (a container without /dev/pts): Docker says nothing on its way then.
                return self.run("pull", "--quiet", reference)

    def load(self, archive: str) -> tuple[int, str, str]:
        """As ``run``, telling how much of the archive was read."""
        path = os.path.realpath(archive)
        found: list[Any] = []
        with progress.Step("image_load", "bytes", os.path.getsize(path)) as step:

            def look() -> None:
                read = docker_progress.read_of(found[0].pid, path) if found else None
                if read is not None:
                    step.tell(read, text=os.path.basename(path))

            with progress.Ticker(look):
                return self.run("load", "--quiet", "--input", archive, begun=found.append)

    def inspect(self, reference: str) -> dict[str, Any] | None:
        code, out, err = self.run("image", "inspect", reference)
        if code == 0:
            found: dict[str, Any] = json.loads(out)[0]
            return found
        if "no such image" in err.lower():
            return None
        self.module.fail_json(
            msg=f"docker cannot be asked for its images: {docker_images.last_words(err)}",
            reason=docker_images.reason(err),
            said=err.strip(),
            images=[],
        )
        return None

    def names(self) -> set[str]:
        _code, out, _err = self.run(
            "image", "ls", "--no-trunc", "--format", "{{.Repository}}:{{.Tag}} {{.ID}}"
        )
        return {word for line in out.splitlines() for word in line.split() if "<none>" not in word}


class Fetch:
    """The images of one call."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.docker = Docker(module)
        self.images = module.params["images"]
        self.how: dict[str, str] = {}

    def report(self) -> list[dict[str, Any]]:
        return [self.entry(image["name"]) for image in self.images]

    def entry(self, name: str) -> dict[str, Any]:
        found = self.docker.inspect(name)
        return {
            "name": name,
            "id": found and found["Id"],
            "digests": sorted((found or {}).get("RepoDigests") or []),
            "size_mib": found and int(found.get("Size") or 0) // MIB,
            "how": self.how.get(name),
        }

    def fail(self, image: str, reason: str, what: str, said: str = "") -> None:
        said = said.strip()
        words = f" Docker said: {docker_images.last_words(said)}" if said else ""
        self.module.fail_json(
            msg=f"{image}: {what}{words}", image=image, reason=reason, said=said, images=self.report()
        )

    # -- present -----------------------------------------------------------------------------------

    def missing(self) -> list[dict[str, str]]:
        return [image for image in self.images if self.docker.inspect(image["name"]) is None]

    def bring(self, missing: list[dict[str, str]]) -> None:
        if missing and self.module.params["archive"]:
            self.load(missing)
            return
        for image in missing:
            self.pull(image["name"], image["pull"] or image["name"])

    def pull(self, name: str, pull: str) -> None:
        there = pull != name and self.docker.inspect(pull) is not None
        if not there:
            code, out, err = self.docker.pull(pull)
            if code != 0:
                self.fail(name, docker_images.reason(err or out), f"cannot be pulled as {pull}.", err or out)
        if pull != name:
            self.tag(pull, name, undo=not there)
        self.how[name] = "tagged" if there else "pulled"

    def tag(self, source: str, name: str, undo: bool) -> None:
        code, out, err = self.docker.run("tag", source, name)
        if code != 0:
            if undo:
                self.docker.run("image", "rm", source)
            self.fail(name, "unknown", f"{source} cannot be given this name.", err or out)

    def load(self, missing: list[dict[str, str]]) -> None:
        archive = self.module.params["archive"]
        first = missing[0]["name"]
        if not os.path.isfile(archive):
            self.fail(first, "no_archive", f"there is no file {archive} on this node to load it from.")
        before = self.docker.names()
        code, out, err = self.docker.load(archive)
        if code != 0:
            self.fail(first, self.archive_reason(err or out), f"{archive} cannot be loaded.", err or out)
        brought = docker_images.loaded_names(out)
        for image in missing:
            name, pull = image["name"], image["pull"] or image["name"]
            if self.docker.inspect(name) is None:
                if self.docker.inspect(pull) is None:
                    # The archive holds something else: nobody asked for that.
                    self.forget([loaded for loaded in brought if loaded not in before])
                    self.fail(
                        name, "wrong_archive", f"{archive} does not hold it, only {', '.join(brought)}."
                    )
                self.tag(pull, name, undo=pull not in before)
            self.how[name] = "loaded"

    @staticmethod
    def archive_reason(said: str) -> str:
        reason = docker_images.reason(said)
        # An archive that ends early reads like a connection that does.
        return "broken_archive" if reason in ("unreachable", "unknown") else reason

    def forget(self, names: list[str]) -> None:
        wanted = {image["name"] for image in self.images}
        for name in names:
            if name not in wanted:
                self.docker.run("image", "rm", name)

    # -- absent ------------------------------------------------------------------------------------

    def present(self) -> list[str]:
        names = [name for image in self.images for name in (image["name"], image["pull"]) if name]
        return [name for name in dict.fromkeys(names) if self.docker.inspect(name) is not None]

    def remove(self, present: list[str]) -> None:
        for name in present:
            _code, users, _err = self.docker.run(
                "ps", "--all", "--filter", f"ancestor={name}", "--format", "{{.Names}}"
            )
            if users.strip():
                self.fail(
                    name, "in_use", f"containers use it: {', '.join(users.split())}. Nothing was removed."
                )
        for name in present:
            code, out, err = self.docker.run("image", "rm", name)
            if code != 0:
                said = err or out
                reason = "in_use" if "is using" in said or "being used" in said else "unknown"
                self.fail(name, reason, "cannot be removed.", said)
            self.how[name] = "removed"


def check_references(module: AnsibleModule) -> None:
    for image in module.params["images"]:
        for key in ("name", "pull"):
            reference = image[key]
            tag = reference.rpartition("/")[2].partition(":")[2]
            if reference and "@sha256:" not in reference and tag in ("", "latest"):
                module.fail_json(
                    msg=f"{key} is {reference!r}, which names no version. Give it a tag other than latest, "
                    "or a digest; `latest` is another image every week."
                )
        if "@sha256:" in image["name"] and image["pull"] not in ("", image["name"]):
            module.fail_json(
                msg=f"name is {image['name']!r}, which Docker gives to no image that comes from elsewhere "
                f"({image['pull']}). Name the image by a tag, or pull it by its own name."
            )


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "images": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "name": {"type": "str", "required": True},
                    "pull": {"type": "str", "default": ""},
                },
            },
            "archive": {"type": "path"},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "socket": {"type": "path", "default": "/var/run/docker.sock"},
        },
        supports_check_mode=True,
    )
    check_references(module)
    fetch = Fetch(module)
    before = fetch.report()
    if module.params["state"] == "present":
        missing = fetch.missing()
        changed = bool(missing)
        if not module.check_mode:
            fetch.bring(missing)
    else:
        present = fetch.present()
        changed = bool(present)
        if not module.check_mode:
            fetch.remove(present)
    after = fetch.report()
    module.exit_json(
        changed=changed,
        images=after,
        diff={
            "before": {entry["name"]: entry["id"] for entry in before},
            "after": {entry["name"]: entry["id"] for entry in after},
        },
    )


if __name__ == "__main__":
    main()
