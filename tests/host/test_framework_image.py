"""The framework: the workloads' images are on the node, and so are those that recipes derive from them."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from typing import Any

import pytest
from gpuready import recipes
from workloads import images_of

pytestmark = pytest.mark.framework_image

Image = dict[str, Any]


def refs(host: Any) -> set[str]:
    return set(host.check_output("docker image ls --format '{{.Repository}}:{{.Tag}}'").split())


@pytest.fixture(scope="module")
def declared(wished: Callable[[str, Any], Any]) -> dict[str, dict[str, Any]]:
    """The recipes of this inventory, by name."""
    rows, problem = recipes.rule("framework_image_recipes", wished("framework_image_recipes", None))
    assert problem is None
    return {row["name"]: row for row in rows}


@pytest.fixture(scope="module")
def derived(host: Any, declared: dict[str, Any]) -> list[Image]:
    """What Docker says of the derived images, and their recipes."""
    if not declared:
        pytest.skip("no recipes in this inventory")
    found = []
    for ref in sorted(refs(host)):
        (image,) = json.loads(host.check_output(f"docker image inspect {ref}"))
        name = (image["Config"].get("Labels") or {}).get(recipes.RECIPE)
        if name and ref.startswith(recipes.REPOSITORY + "/"):
            found.append({"ref": ref, "recipe": declared.get(name), **image})
    return found


def inside(host: Any, image: Image, script: str, *options: str) -> str:
    """What a shell in the image prints."""
    words = [*options, "--network=none", "--entrypoint=sh", image["ref"], "-c", script]
    return host.check_output(f"docker run --rm {shlex.join(words)}")


def test_workload_images_are_present(host: Any, wished: Callable[[str, Any], Any]) -> None:
    wanted = images_of(wished("gpuready_workloads", None))
    assert wanted
    assert {image for image in wanted.values() if image} - refs(host) == set()


def test_every_recipe_has_its_image_and_no_other(derived: list[Image], declared: dict[str, Any]) -> None:
    assert sorted(image["Config"]["Labels"][recipes.RECIPE] for image in derived) == sorted(declared)
    for image in derived:
        labels = image["Config"]["Labels"]
        assert image["ref"] == recipes.image_of(labels[recipes.RECIPE], labels[recipes.HASH])


def test_derived_image_is_made_of_its_base_and_was_checked(host: Any, derived: list[Image]) -> None:
    for image in derived:
        labels = image["Config"]["Labels"]
        (base,) = json.loads(host.check_output(f"docker image inspect {labels[recipes.BASE]}"))
        layers = base["RootFS"]["Layers"]
        assert image["RootFS"]["Layers"][: len(layers)] == layers
        assert labels[recipes.CHECKED].startswith("cuda=")
        # Whoever used the base uses it in the same way.
        for key in ("User", "Entrypoint", "Cmd", "WorkingDir"):
            assert (image["Config"].get(key) or None) in (base["Config"].get(key) or None, "0")


def test_derived_image_tells_how_it_was_made(host: Any, derived: list[Image]) -> None:
    for image in derived:
        text = host.check_output(f"docker run --rm --entrypoint=cat {image['ref']} /opt/gpuready/Dockerfile")
        labels = image["Config"]["Labels"]
        assert recipes.text_hash(text + "\n") == labels[f"{recipes.LABEL}dockerfile"]


def test_derived_image_holds_what_its_recipe_says(host: Any, derived: list[Image]) -> None:
    for image in derived:
        recipe = image["recipe"]
        env = dict(pair.split("=", 1) for pair in image["Config"]["Env"])
        assert {key: env.get(key) for key in recipe["env"]} == recipe["env"]
        for package in recipe["apt"]:
            assert "ok installed" in inside(host, image, f"dpkg -s {package.partition('=')[0]}")
        for requirement in recipe["pip"]:
            name = requirement.partition(";")[0].split("<")[0].split(">")[0].split("=")[0].split("[")[0]
            assert "Version:" in inside(host, image, f"python3 -m pip show {name} 2>/dev/null")
        if recipe["jupyter"]:
            assert "python3" in inside(host, image, "jupyter kernelspec list 2>/dev/null")


def test_derived_image_keeps_no_caches_and_nobodys_keys(host: Any, derived: list[Image]) -> None:
    left = (
        "ls -A /var/lib/apt/lists /var/cache/apt/archives /root/.cache 2>/dev/null "
        "| grep -vE '^(/.*:|partial|lock|)$'; "
        "ls /etc/ssh/ssh_host_* /root/.ssh/* 2>/dev/null; "
        "grep -rls gpulab-mirror /etc/apt /etc/pip.conf 2>/dev/null; true"
    )
    for image in derived:
        assert inside(host, image, left) == ""


def test_where_packages_came_from_is_not_in_the_environment(derived: list[Image]) -> None:
    for image in derived:
        names = {pair.partition("=")[0] for pair in image["Config"]["Env"]}
        assert not names & {"PIP_INDEX_URL", "PIP_TRUSTED_HOST", "WHEEL_INDEX_URL", "APT_SOURCES"}


def test_ssh_server_takes_keys_only_and_listens_to_nobody(host: Any, derived: list[Image]) -> None:
    images = [image for image in derived if image["recipe"]["ssh"]]
    if not images:
        pytest.skip("no recipe with ssh in this inventory")
    for image in images:
        said = inside(
            host,
            image,
            "ssh-keygen -q -t ed25519 -N '' -f /tmp/k; mkdir -p /run/sshd; /usr/sbin/sshd -T -h /tmp/k",
        ).lower()
        for line in (
            "passwordauthentication no",
            "permitrootlogin no",
            "authenticationmethods publickey",
            "permitemptypasswords no",
            "kbdinteractiveauthentication no",
        ):
            assert line in said.splitlines() or line.replace("kbdinteractive", "challengeresponse") in said
        # Neither does it start with the container.
        assert "sshd" not in inside(host, image, "cat /proc/[0-9]*/comm")


def test_derived_image_works_for_users_who_are_not_root(host: Any, derived: list[Image]) -> None:
    for image in derived:
        said = inside(host, image, "id -u; python3 -c 'print(6 * 7)'", "--user=12345:12345")
        assert said.split() == ["12345", "42"]
        if image["recipe"]["jupyter"]:
            assert inside(host, image, "HOME=/tmp jupyter lab --version", "--user=12345:12345")


def test_workbench_without_secrets_refuses_to_start(host: Any, derived: list[Image]) -> None:
    images = [image for image in derived if image["recipe"]["ssh"] or image["recipe"]["jupyter"]]
    for image in images:
        run = f"docker run --rm --network=none --env GPUREADY_USER=alice {{}} {image['ref']}"
        program = "--entrypoint=/opt/gpuready/workbench"
        refused = host.run(run.format(program))
        assert refused.rc == 78 and "/home/alice: No such file or directory; mount it there" in refused.stderr
        refused = host.run(run.format(f"{program} --tmpfs /home/alice --tmpfs /run/gpuready"))
        assert refused.rc == 78 and "belongs to root" in refused.stderr
        refused = host.run(
            run.format(f"{program} --tmpfs /home/alice:uid=20001,gid=20001 --tmpfs /run/gpuready")
        )
        assert refused.rc == 78
        assert "no host keys" in refused.stderr or "neither a token nor a configuration" in refused.stderr
