#!/usr/bin/python
# Copyright: gpuready contributors
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

DOCUMENTATION = r"""
module: docker_image_build
short_description: Builds an image that a recipe derives, and checks that it left the GPU's chain whole
version_added: "0.1.0"
description:
  - Builds the Dockerfile that the plan rendered from a recipe, on the node, with Docker's own builder or with
    BuildKit, whichever this Docker uses.
  - Before the image gets its name, the framework in it is asked the same as the base's. Another CUDA, cuDNN,
    version or list of GPUs, as a wheel leaves behind that took the place of the base's, is an error that
    names the difference. The former image stays where it was then, and nothing half-made is left.
  - Where a wheel comes in that the base does not have, it is held against what its workload promises.
  - With O(pull), the image comes from a registry if it is there, made from the same recipe and the same base.
options:
  recipe:
    description: The recipe as the plan has it, a row of C(recipes).
    type: dict
    required: true
  build:
    description: Whether the image may be built here. V(false) takes it from O(pull) or not at all.
    type: bool
    default: true
  pull:
    description: The name that it has in a registry. Empty for none.
    type: str
    default: ""
  push:
    description: The name under which it is pushed to a registry after it was built. Empty for none.
    type: str
    default: ""
  pip_index_url:
    description: The index that pip asks during the build; empty for the base's own.
    type: str
    default: ""
  apt_sources:
    description: Lines of a sources.list that stand in for the base's own during the build.
    type: list
    elements: str
    default: []
  network:
    description: The network of the build's containers; empty for Docker's own.
    type: str
    default: ""
  timeout_seconds:
    description: How long the build may take. The unit is seconds.
    type: int
    default: 1800
  probe_timeout_seconds:
    description: How long the framework may take to answer. The unit is seconds.
    type: int
    default: 300
attributes:
  action:
    description: It is an action plugin; part of it runs on the controller.
    support: full
  check_mode:
    description: Says whether it would be built; builds nothing.
    support: full
  diff_mode:
    description: Shows the image's id before and after.
    support: full
  idempotent:
    description: An image of this recipe and this base that has passed its check is left as it is.
    support: full
  platform:
    description: Linux with Docker 20.10 or newer.
    support: full
    platforms: linux
author:
  - gpuready contributors (@gpuready)
"""

EXAMPLES = r"""
- name: Build what the recipes derive
  gpuready.node.docker_image_build:
    recipe: "{{ item }}"
    pip_index_url: http://mirror.example/pypi/simple/
  loop: "{{ ansible_facts['gpu_plan'].recipes }}"

- name: Take an image from the fleet's registry, if it is there
  gpuready.node.docker_image_build:
    recipe: "{{ ansible_facts['gpu_plan'].recipes[0] }}"
    build: false
    pull: registry.example:5000/gpuready/tf-notebook:3f2a9c0d1e4b
"""

RETURN = r"""
image:
  description: The image as it is now.
  returned: always
  type: dict
  contains:
    name:
      description: Its name.
      type: str
      sample: gpuready/tf-notebook:3f2a9c0d1e4b
    id:
      description: Its id. Null when it is not on the node.
      type: str
      sample: sha256:0e0a…
    checked:
      description: What was found to be as in the base. Null when it is not on the node.
      type: str
      sample: cuda=11.2 cudnn=8 framework=2.9.0
    how:
      description: What this call did, V(built) or V(pulled). Null when there was nothing to do.
      type: str
      sample: built
    pushed:
      description: The name under which it was pushed. Null when it was not.
      type: str
missing:
  description: Whether the registry does not have it, or has it from another base. Only with O(build=false).
  returned: success
  type: bool
  sample: false
seconds:
  description: How long it took, in seconds.
  returned: success
  type: float
  sample: 48.2
reason:
  description:
    - Why it was not built, one of V(chain_broken), V(base_silent), V(base_missing), V(no_package),
      V(apt_unsigned), V(apt_unreachable), V(apt_conflict), V(no_distribution), V(pip_conflict),
      V(pip_unreachable), V(pip_untrusted), V(framework_pinned), V(command_failed), V(timed_out),
      V(disk_full), V(no_docker), V(unreachable), V(denied), V(untrusted), V(plain_http), V(unknown).
  returned: when it was not
  type: str
  sample: chain_broken
differences:
  description: What the recipe changed that it must not.
  returned: when RV(reason) is V(chain_broken)
  type: list
  elements: str
  sample: ["tensorflow 2.9.0 is a CPU-only build, where the base has CUDA 11.2"]
log:
  description: The end of what the build printed.
  returned: when it was not built
  type: str
"""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from typing import Any, Dict, List, Optional, Tuple

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.gpuready.node.plugins.module_utils import (
    docker_images,
    image_build,
    recipes,
    verification,
)
from ansible_collections.gpuready.node.plugins.module_utils.probe_run import (
    docker as ask_docker,
)
from ansible_collections.gpuready.node.plugins.module_utils.probe_run import (
    inspect_image,
    probe_image,
)

# Registries are asked for layers of gigabytes.
TRANSFER_SECONDS = 3600


class Failure(Exception):
    """It was not built; what the answer has beside the message."""

    def __init__(self, reason: str, message: str, **more: Any) -> None:
        super().__init__(message)
        self.reason, self.more = reason, more


class Build:
    """One recipe's image."""

    def __init__(self, module: AnsibleModule, binary: str) -> None:
        self.module, self.binary, self.given = module, binary, module.params
        self.image: str = self.given["image"]
        self.unchecked = "%s:unchecked" % self.image.rpartition(":")[0]
        self.how: Optional[str] = None
        self.pushed: Optional[str] = None
        self.base = self.inspect(self.given["base_image"])

    # -- what there is -----------------------------------------------------------------------------

    def docker(self, *arguments: str, seconds: int = 300) -> Tuple[int, str, str]:
        return ask_docker(self.binary, arguments, seconds)

    def inspect(self, reference: str) -> Optional[Dict[str, Any]]:
        found, error, missing = inspect_image(self.binary, reference)
        if found is None and not missing:
            words = docker_images.last_words(error or "")
            raise Failure(
                docker_images.reason(error or ""), "docker cannot be asked for its images: %s" % words
            )
        return found

    def is_good(self, found: Optional[Dict[str, Any]]) -> bool:
        """Of this recipe, of the base that is here now, and checked."""
        has = labels(found)
        return bool(
            found
            and self.base
            and has.get(recipes.HASH) == self.given["hash"]
            and has.get(recipes.BASE) == self.base["Id"]
            and has.get(recipes.CHECKED)
        )

    def report(self) -> Dict[str, Any]:
        found = self.inspect(self.image)
        return {
            "name": self.image,
            "id": found and found["Id"],
            "checked": labels(found).get(recipes.CHECKED),
            "how": self.how,
            "pushed": self.pushed,
        }

    # -- from a registry ---------------------------------------------------------------------------

    def fetch(self) -> bool:
        """Takes it from the registry; False when that has it not, or made from another base."""
        pull = self.given["pull"]
        code, out, err = self.docker("pull", "--quiet", pull, seconds=TRANSFER_SECONDS)
        if code != 0:
            reason = docker_images.reason(err or out)
            if reason == "missing":
                return False
            words = docker_images.last_words(err or out)
            raise Failure(reason, "%s cannot be pulled: %s" % (pull, words))
        if not self.is_good(self.inspect(pull)):
            self.docker("image", "rm", pull)
            return False
        self.must("tag", pull, self.image)
        self.how = "pulled"
        return True

    def must(self, *arguments: str, seconds: int = 300) -> None:
        code, out, err = self.docker(*arguments, seconds=seconds)
        if code != 0:
            words = docker_images.last_words(err or out)
            raise Failure(
                docker_images.reason(err or out), "docker %s failed: %s" % (" ".join(arguments[:2]), words)
            )

    # -- by building -------------------------------------------------------------------------------

    def build(self) -> None:
        if self.base is None:
            raise Failure(
                "base_missing",
                "its base %s is not on the node, so it cannot be built" % self.given["base_image"],
            )
        printed = self.build_unchecked(no_cache=False)
        try:
            chain = self.check()
        except Failure:
            if not image_build.used_cache(printed):
                raise
            # A step of an earlier build may have brought what an index had then.
            self.docker("image", "rm", self.unchecked)
            self.build_unchecked(no_cache=True)
            chain = self.check()
        former = self.inspect(self.image)
        label = "%s=%s" % (recipes.CHECKED, recipes.checked_word(chain))
        code, printed = self.run_build(
            ["--label", label, "--tag", self.image, "-"], "FROM %s\n" % self.unchecked
        )
        if code != 0:
            raise self.build_failure(printed)
        self.how = "built"
        self.docker("image", "rm", self.unchecked)
        if former and not self.names_of(former["Id"]):
            # Containers may still use it: then image.prune takes it once they have moved on.
            self.docker("image", "rm", former["Id"])

    def build_unchecked(self, no_cache: bool) -> str:
        folder = tempfile.mkdtemp(prefix="gpuready-image-")
        try:
            for part in self.given["context"]:
                path = os.path.join(folder, part["name"])
                with open(path, "w", encoding="utf-8") as out:
                    out.write(part["content"])
                os.chmod(path, int(part["mode"], 8))
            arguments = ["--force-rm", "--tag", self.unchecked]
            if no_cache:
                arguments.append("--no-cache")
            if self.given["network"]:
                arguments += ["--network", self.given["network"]]
            assert self.base is not None
            has = dict(self.given["labels"])
            has[recipes.BASE] = self.base["Id"]
            user = (self.base.get("Config") or {}).get("User") or "0"
            given = dict(self.given["build_args"], BASE_USER=user)
            for key, value in sorted(has.items()):
                arguments += ["--label", "%s=%s" % (key, value)]
            for key, value in sorted(given.items()):
                arguments += ["--build-arg", "%s=%s" % (key, value)]
            code, printed = self.run_build([*arguments, folder])
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        if code != 0:
            self.forget_steps(printed)
            raise self.build_failure(printed)
        return printed

    def run_build(self, arguments: List[str], stdin: str = "") -> Tuple[int, str]:
        """(exit code, what it printed); a build that takes too long is ended."""
        # BUILDKIT_PROGRESS: lines, which can be read afterwards.
        environment = dict(os.environ, LC_ALL="C.UTF-8", BUILDKIT_PROGRESS="plain")
        process = subprocess.Popen(
            [self.binary, "build", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
        try:
            out, _none = process.communicate(stdin.encode("utf-8"), timeout=self.given["timeout_seconds"])
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                out, _none = process.communicate(timeout=30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                out, _none = process.communicate()
            printed = out.decode("utf-8", "replace")
            self.forget_steps(printed)
            raise Failure(
                "timed_out",
                "it was not built within %d seconds" % self.given["timeout_seconds"],
                log=image_build.last_lines(printed),
            ) from None
        return process.returncode, out.decode("utf-8", "replace")

    @staticmethod
    def build_failure(printed: str) -> Failure:
        found = image_build.reason(printed)
        return Failure(found.word, found.what, log=image_build.last_lines(printed))

    def forget_steps(self, printed: str) -> None:
        """The old builder leaves an image per step that went well; none of them is anybody's."""
        for short in image_build.intermediate_images(printed):
            found = self.inspect(short)
            if found and not found.get("RepoTags") and not found.get("RepoDigests"):
                # Its own nameless parents go with it; what something else is made of stays.
                self.docker("image", "rm", short)
                return

    def names_of(self, identifier: str) -> List[str]:
        found = self.inspect(identifier)
        return list((found or {}).get("RepoTags") or [])

    # -- the check ---------------------------------------------------------------------------------

    def check(self) -> Dict[str, Any]:
        """What the new image answers, when that is as it should be. Else it is taken away again."""
        try:
            if self.given["comes_in"]:
                chain = recipes.chain_of(self.answer_of(self.unchecked))
                wrong = recipes.unexpected(chain, self.given["expect"], self.given["workload"])
            else:
                before = recipes.chain_of(self.answer_of(self.given["base_image"], is_base=True))
                chain = recipes.chain_of(self.answer_of(self.unchecked))
                wrong = recipes.broken(before, chain)
            if wrong:
                raise Failure(
                    "chain_broken", "it is not what its base is: %s" % "; ".join(wrong), differences=wrong
                )
        except Failure:
            self.docker("image", "rm", self.unchecked)
            raise
        return chain

    def answer_of(self, image: str, is_base: bool = False) -> Dict[str, Any]:
        given = self.given
        run = probe_image(
            self.binary,
            image,
            given["probe_text"],
            "list",
            given["launch_arguments"],
            given["probe_timeout_seconds"],
        )
        answer = verification.parse_answer(run.get("stdout") or "")
        if answer is not None:
            return answer
        stderr = run.get("stderr") or ""
        if run.get("timed_out"):
            why = "no answer within %d seconds" % given["probe_timeout_seconds"]
        else:
            why = run.get("error") or image_build.why_silent(stderr) or "exit code %s" % run.get("exit_code")
        log = image_build.last_lines(stderr)
        if is_base:
            raise Failure("base_silent", "its base %s does not answer itself: %s" % (image, why), log=log)
        wrong = ["the framework does not answer any more: %s" % why]
        raise Failure("chain_broken", wrong[0], differences=wrong, log=log)

    # -- to a registry -----------------------------------------------------------------------------

    def push(self) -> None:
        push = self.given["push"]
        self.must("tag", self.image, push)
        code, out, err = self.docker("push", push, seconds=TRANSFER_SECONDS)
        if code != 0:
            self.docker("image", "rm", push)
            words = docker_images.last_words(err or out)
            raise Failure(
                docker_images.reason(err or out),
                "it was built, but cannot be pushed as %s: %s" % (push, words),
            )
        self.pushed = push


def labels(found: Optional[Dict[str, Any]]) -> Dict[str, str]:
    return ((found or {}).get("Config") or {}).get("Labels") or {}


def run(module: AnsibleModule, build: Build) -> Dict[str, Any]:
    given = module.params
    before = build.report()
    if build.is_good(build.inspect(build.image)):
        return {"changed": False, "image": before, "missing": False}
    missing = False
    if not module.check_mode:
        missing = not (given["pull"] and build.fetch())
        if missing and given["build"]:
            build.build()
            missing = False
            if given["push"]:
                build.push()
    after = build.report()
    return {
        "changed": module.check_mode or not missing,
        "image": after,
        "missing": missing,
        "diff": {"before": {build.image: before["id"]}, "after": {build.image: after["id"]}},
    }


def main() -> None:
    # What people write is validated by the action plugin of this name; these are its words to the node.
    module = AnsibleModule(
        argument_spec={
            "image": {"type": "str", "required": True},
            "base_image": {"type": "str", "required": True},
            "hash": {"type": "str", "required": True},
            "workload": {"type": "str", "required": True},
            "comes_in": {"type": "bool", "required": True},
            "expect": {"type": "dict", "required": True},
            "labels": {"type": "dict", "required": True},
            "context": {"type": "list", "elements": "dict", "required": True},
            "build_args": {"type": "dict", "required": True},
            "build": {"type": "bool", "required": True},
            "pull": {"type": "str", "required": True},
            "push": {"type": "str", "required": True},
            "network": {"type": "str", "required": True},
            "timeout_seconds": {"type": "int", "required": True},
            "probe_text": {"type": "str", "required": True},
            "probe_timeout_seconds": {"type": "int", "required": True},
            "launch_arguments": {"type": "list", "elements": "str", "required": True},
        },
        supports_check_mode=True,
    )
    started = time.monotonic()
    binary = module.get_bin_path("docker")
    name = module.params["image"]
    if binary is None:
        module.fail_json(
            msg="%s: docker is not installed on this node. Install it first (role docker_engine)." % name,
            reason="no_docker",
        )
    try:
        answer = run(module, Build(module, binary))
    except Failure as failure:
        log = failure.more.get("log")
        shown = "\nIt ended with:\n%s" % "\n".join("  " + line for line in log.splitlines()) if log else ""
        module.fail_json(msg="%s: %s.%s" % (name, failure, shown), reason=failure.reason, **failure.more)
    module.exit_json(seconds=round(time.monotonic() - started, 1), **answer)


if __name__ == "__main__":
    main()
