"""The modules for derived images, against a `docker` of our own: a program with its images in a file."""

from __future__ import annotations

import json
import stat
import sys
from pathlib import Path
from typing import Any

import pytest

COLLECTIONS = str(Path(__file__).resolve().parents[6])
if COLLECTIONS not in sys.path:
    sys.path.insert(0, COLLECTIONS)

from ansible.module_utils.testing import patch_module_args  # noqa: E402
from ansible_collections.gpuready.node.plugins.module_utils import recipes  # noqa: E402
from ansible_collections.gpuready.node.plugins.modules import (  # noqa: E402
    docker_image_build,
    docker_image_prune,
)

BASE = "tensorflow/tensorflow:2.9.0-gpu"
IMAGE = "gpuready/tf-dev:0123456789ab"
UNCHECKED = "gpuready/tf-dev:unchecked"
SHARED = "registry:5000/" + IMAGE
HASH = "0123456789ab" + "0" * 52

# Images by id with their labels, names by image; state says how a build and the framework behave.
DOCKER = """\
#!{python}
import json, os, sys
from pathlib import Path
file = Path({state!r}); state = json.loads(file.read_text())
words = sys.argv[1:]
names, images = state["names"], state["images"]
state["calls"].append(" ".join(words))
def end(code=0, out="", err=""):
    file.write_text(json.dumps(state))
    sys.stdout.write(out); sys.stderr.write(err); sys.exit(code)
def find(word):
    return names.get(word) or (word if word in images else None)
if words[:2] == ["image", "inspect"]:
    image = find(words[2])
    if image is None:
        end(1, "[]", "Error: No such image: " + words[2])
    tags = [name for name in names if names[name] == image]
    config = {{"Labels": images[image], "User": "app"}}
    end(0, json.dumps([{{"Id": image, "RepoTags": tags, "Config": config}}]))
if words[:2] == ["image", "rm"]:
    if words[2] in names:
        image = names.pop(words[2])
        if image not in names.values():
            images.pop(image)
        end()
    if words[2] in images:
        if words[2] in state["in_use"]:
            end(1, err="conflict: unable to delete, image is being used by running container 1")
        images.pop(words[2])
        end()
    end(1, err="Error: No such image: " + words[2])
if words[:2] == ["image", "ls"]:
    rows = [(names[name], name) for name in names]
    rows += [(image, "<none>:<none>") for image in images if image not in names.values()]
    rows = [row for row in rows if "io.gpuready.recipe" in images[row[0]]]
    end(0, "".join("%s %s\\n" % row for row in rows))
if words[0] == "ps":
    image = words[words.index("--filter") + 1].partition("=")[2]
    end(0, "".join(name + "\\n" for name in state["users"].get(find(image) or image, [])))
if words[0] == "tag":
    names[words[2]] = names[words[1]]
    end()
if words[0] == "pull":
    found = state["registry"].get(words[-1])
    if found is None:
        end(1, err="Error response from daemon: manifest for %s not found: manifest unknown" % words[-1])
    names[words[-1]] = found["id"]; images[found["id"]] = found["labels"]
    end()
if words[0] == "push":
    if state["no_push"]:
        end(1, err="denied: requested access to the resource is denied")
    state["registry"][words[1]] = {{"id": names[words[1]], "labels": images[names[words[1]]]}}
    end()
if words[0] == "build":
    label = dict(words[i + 1].split("=", 1) for i, word in enumerate(words) if word == "--label")
    tag = words[words.index("--tag") + 1]
    if words[-1] == "-":
        base = sys.stdin.read().split()[1]
        images["sha256:checked"] = dict(images[names[base]], **label)
        names[tag] = "sha256:checked"
        end()
    folder = Path(words[-1])
    state["context"] = {{p.name: [oct(p.stat().st_mode & 0o777), p.read_text()] for p in folder.iterdir()}}
    state["progress"] = os.environ.get("BUILDKIT_PROGRESS")
    if state["build_says"]:
        images["0123456789ab"] = {{}}
        end(1, state["build_says"])
    images["sha256:new"] = label
    names[tag] = "sha256:new"
    cached = state["cached"] and "--no-cache" not in words
    state["fresh"] = not cached
    end(0, " ---> Using cache\\n" if cached else "done\\n")
if words[0] == "run":
    image = words[words.index("python3") - 1]
    if image == {unchecked!r} and not (state["fresh"] and state["good_when_fresh"]):
        answer, err = state["new_answer"], state["new_says"]
    else:
        answer, err = state["base_answer"], ""
    if answer is None:
        end(1, "", err)
    end(0, "GPUREADY-PROBE " + json.dumps(answer) + "\\n")
end(64, err="what is " + " ".join(words))
"""


def answer(gpus: int = 1, **framework: Any) -> dict[str, Any]:
    built = {"name": "tensorflow", "version": "2.9.0", "cuda": "11.2", "cudnn": "8", "built_with_cuda": True}
    devices = [{"device_type": "GPU", "details": {"device_name": "T4"}}] * gpus
    return {"framework": {**built, **framework}, "devices": devices}


def good(**more: str) -> dict[str, str]:
    word = "cuda=11.2 cudnn=8 framework=2.9.0"
    return {
        recipes.RECIPE: "tf-dev",
        recipes.HASH: HASH,
        recipes.BASE: "sha256:base",
        recipes.CHECKED: word,
        **more,
    }


class Docker:
    def __init__(self, folder: Path) -> None:
        self.file = folder / "state.json"
        program = folder / "docker"
        program.write_text(DOCKER.format(python=sys.executable, state=str(self.file), unchecked=UNCHECKED))
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        self.program = str(program)
        state: dict[str, Any] = {
            "names": {BASE: "sha256:base"},
            "images": {"sha256:base": {}},
            "registry": {},
            "users": {},
            "in_use": [],
            "calls": [],
            "build_says": "",
            "cached": False,
            "fresh": True,
            "good_when_fresh": False,
            "base_answer": answer(),
            "new_answer": answer(),
            "new_says": "",
            "no_push": False,
        }
        self.file.write_text(json.dumps(state))

    def __getitem__(self, key: str) -> Any:
        return json.loads(self.file.read_text())[key]

    def set(self, **values: Any) -> None:
        self.file.write_text(json.dumps({**json.loads(self.file.read_text()), **values}))

    def add(self, name: str | None, image: str, labels: dict[str, str]) -> None:
        names = {**self["names"], **({name: image} if name else {})}
        self.set(names=names, images={**self["images"], image: labels})

    def ran(self, word: str) -> list[str]:
        return [call for call in self["calls"] if call.split()[0] == word]


class Ended(BaseException):
    pass


@pytest.fixture
def docker(tmp_path: Path) -> Docker:
    return Docker(tmp_path)


@pytest.fixture
def call(docker: Docker, monkeypatch: pytest.MonkeyPatch) -> Any:
    def run(module: Any, arguments: dict[str, Any], check: bool = False) -> dict[str, Any]:
        result: dict[str, Any] = {}

        def leave(_self: Any, **answer: Any) -> None:
            result.update(answer)
            raise Ended

        monkeypatch.setattr(module.AnsibleModule, "exit_json", leave)
        monkeypatch.setattr(
            module.AnsibleModule, "fail_json", lambda self, **more: leave(self, failed=True, **more)
        )
        monkeypatch.setattr(module.AnsibleModule, "get_bin_path", lambda _self, _name: docker.program)
        with patch_module_args({**arguments, "_ansible_check_mode": check}), pytest.raises(Ended):
            module.main()
        return result

    return run


@pytest.fixture
def build(call: Any) -> Any:
    def run(check: bool = False, **given: Any) -> dict[str, Any]:
        arguments = {
            "image": IMAGE,
            "base_image": BASE,
            "hash": HASH,
            "workload": "tensorflow-2.9",
            "comes_in": False,
            "expect": {"cuda": "11.2", "framework_version": "2.9"},
            "labels": {recipes.RECIPE: "tf-dev", recipes.HASH: HASH},
            "context": [
                {"name": "Dockerfile", "mode": "0644", "content": f"FROM {BASE}\n"},
                {"name": "apt-install", "mode": "0755", "content": "#!/bin/sh\n"},
            ],
            "build_args": {"APT_SOURCES": "deb http://m x main"},
            "build": True,
            "pull": "",
            "push": "",
            "network": "host",
            "timeout_seconds": 30,
            "probe_text": "print()",
            "probe_timeout_seconds": 30,
            "launch_arguments": ["--gpus", "all"],
        }
        return call(docker_image_build, {**arguments, **given}, check)

    return run


# --- building ---------------------------------------------------------------------------------------


def test_image_is_built_checked_and_named(docker, build):
    result = build()
    assert result["changed"] and result["image"] == {
        "name": IMAGE,
        "id": "sha256:checked",
        "checked": "cuda=11.2 cudnn=8 framework=2.9.0",
        "how": "built",
        "pushed": None,
    }
    assert docker["names"] == {BASE: "sha256:base", IMAGE: "sha256:checked"}
    assert docker["images"]["sha256:checked"] == good()
    assert docker["context"] == {
        "Dockerfile": ["0o644", f"FROM {BASE}\n"],
        "apt-install": ["0o755", "#!/bin/sh\n"],
    }
    first = docker.ran("build")[0]
    assert "--network host" in first and "APT_SOURCES=deb http://m x main" in first
    # The base's own user comes back, and no step asks a registry.
    assert "BASE_USER=app" in first and "--pull" not in first and docker["progress"] == "plain"
    assert result["diff"] == {"before": {IMAGE: None}, "after": {IMAGE: "sha256:checked"}}
    assert docker.ran("pull") == []


def test_second_run_does_nothing(docker, build):
    build()
    calls = len(docker["calls"])
    result = build()
    assert not result["changed"] and result["image"]["how"] is None
    assert all(call.startswith("image inspect") for call in docker["calls"][calls:])


@pytest.mark.parametrize(
    "labels",
    [good(**{recipes.BASE: "sha256:older"}), good(**{recipes.HASH: "x"}), good(**{recipes.CHECKED: ""})],
)
def test_image_of_another_base_or_recipe_is_replaced(docker, build, labels):
    docker.add(IMAGE, "sha256:former", labels)
    assert build()["changed"]
    assert docker["names"][IMAGE] == "sha256:checked" and "sha256:former" not in docker["images"]


def test_former_image_that_a_container_uses_stays_without_a_name(docker, build):
    docker.add(IMAGE, "sha256:former", good(**{recipes.BASE: "sha256:older"}))
    docker.set(in_use=["sha256:former"])
    assert build()["changed"]
    assert docker["names"][IMAGE] == "sha256:checked" and "sha256:former" in docker["images"]


def test_check_mode_builds_nothing(docker, build):
    result = build(check=True)
    assert result["changed"] and result["image"]["id"] is None
    assert not docker.ran("build") and not docker.ran("run")


def test_base_that_is_missing_is_named(docker, build):
    docker.set(names={}, images={})
    result = build()
    assert result["reason"] == "base_missing" and BASE in result["msg"] and not docker.ran("build")


# --- what must not be -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ({"new_answer": answer(cuda=None, cudnn=None, built_with_cuda=False, gpus=0)}, "is a CPU-only build"),
        ({"new_answer": answer(cuda="11.8")}, "is built for CUDA 11.8"),
        ({"new_answer": answer(gpus=0)}, "it lists no GPU, where the base lists T4"),
        ({"new_answer": None, "new_says": "Traceback\nImportError: no numpy\n"}, "ImportError: no numpy"),
    ],
)
def test_broken_chain_leaves_the_former_image(docker, build, state, said):
    docker.add(IMAGE, "sha256:former", good(**{recipes.BASE: "sha256:older"}))
    docker.set(**state)
    result = build()
    assert result["failed"] and result["reason"] == "chain_broken" and said in result["msg"]
    assert result["differences"]
    assert docker["names"] == {BASE: "sha256:base", IMAGE: "sha256:former"}
    assert "sha256:new" not in docker["images"]


def test_base_that_does_not_answer_is_not_the_recipes_fault(docker, build):
    docker.set(base_answer=None)
    result = build()
    assert result["reason"] == "base_silent" and UNCHECKED not in docker["names"]


def test_step_of_an_earlier_build_is_not_trusted_when_the_check_fails(docker, build):
    docker.set(cached=True, new_answer=answer(version="2.8"), good_when_fresh=True)
    result = build()
    assert result["changed"] and "--no-cache" in docker.ran("build")[1]


def test_wheel_that_came_in_is_held_against_its_workload(docker, build):
    wheel = {"comes_in": True, "workload": "pytorch-2.5-cu124", "expect": {"cuda": "12.4"}}
    docker.set(new_answer=answer(name="torch", version="2.5.1+cu124", cuda="12.4"), base_answer=None)
    assert build(**wheel)["changed"]
    docker.set(names={BASE: "sha256:base"}, new_answer=answer(name="torch", cuda=None, built_with_cuda=False))
    result = build(**wheel)
    assert "is a CPU-only build, where pytorch-2.5-cu124 is built for CUDA 12.4" in result["msg"]


def test_failed_build_says_why_and_leaves_no_step(docker, build):
    said = " ---> 0123456789ab\nE: Unable to locate package nosuch\n"
    docker.set(build_says=said)
    result = build()
    assert result["reason"] == "no_package" and "have no package nosuch" in result["msg"]
    assert "E: Unable to locate package nosuch" in result["log"]
    assert docker["names"] == {BASE: "sha256:base"} and set(docker["images"]) == {"sha256:base"}


def test_build_that_takes_too_long_is_ended(docker, build, monkeypatch):
    program = Path(docker.program)
    text = program.read_text().replace(
        'if words[0] == "build":', 'if words[0] == "build":\n    import time; time.sleep(60)', 1
    )
    program.write_text(text)
    result = build(timeout_seconds=1)
    assert result["reason"] == "timed_out" and "within 1 seconds" in result["msg"]


# --- the fleet's registry ---------------------------------------------------------------------------


def test_image_comes_from_the_registry(docker, build):
    docker.set(registry={SHARED: {"id": "sha256:theirs", "labels": good()}})
    result = build(build=False, pull=SHARED)
    assert result["changed"] and result["image"]["how"] == "pulled" and not result["missing"]
    assert docker["names"][IMAGE] == docker["names"][SHARED] == "sha256:theirs"
    assert not docker.ran("build") and not build(build=False, pull=SHARED)["changed"]


@pytest.mark.parametrize(
    "labels", [None, good(**{recipes.BASE: "sha256:older"}), good(**{recipes.CHECKED: ""})]
)
def test_registry_without_this_image_is_no_failure(docker, build, labels):
    if labels is not None:
        docker.set(registry={SHARED: {"id": "sha256:theirs", "labels": labels}})
    result = build(build=False, pull=SHARED)
    assert result["missing"] and not result["changed"]
    assert docker["names"] == {BASE: "sha256:base"}


def test_built_image_is_pushed(docker, build):
    result = build(push=SHARED)
    assert result["image"]["pushed"] == SHARED and docker["registry"][SHARED]["labels"] == good()


def test_push_that_fails_is_named(docker, build):
    docker.set(no_push=True)
    result = build(push=SHARED)
    assert result["reason"] == "denied" and "cannot be pushed" in result["msg"]
    assert SHARED not in docker["names"] and IMAGE in docker["names"]


# --- removing ---------------------------------------------------------------------------------------


@pytest.fixture
def prune(call: Any) -> Any:
    return lambda check=False, **given: call(docker_image_prune, given, check)


def test_images_that_nobody_wants_go(docker, prune):
    docker.add(IMAGE, "sha256:kept", good())
    docker.add("gpuready/old:1", "sha256:old", good())
    docker.add(None, "sha256:nameless", good())
    docker.add("somebody/else:1", "sha256:else", {})
    before = docker["names"]
    assert prune(check=True, keep=[IMAGE])["removed"] == ["gpuready/old:1", "sha256:nameless"]
    assert docker["names"] == before
    result = prune(keep=[IMAGE])
    assert result["changed"] and result["removed"] == ["gpuready/old:1", "sha256:nameless"]
    assert set(docker["names"]) == {BASE, IMAGE, "somebody/else:1"}
    assert not prune(keep=[IMAGE])["changed"]


def test_image_in_use_stays_or_stops_everything(docker, prune):
    docker.add("gpuready/old:1", "sha256:old", good())
    docker.add("gpuready/other:1", "sha256:other", good())
    docker.set(users={"sha256:old": ["experiment"]})
    result = prune(in_use="fail")
    assert result["failed"] and "gpuready/old:1 (experiment)" in result["msg"]
    assert "gpuready/other:1" in docker["names"]
    result = prune()
    assert result["removed"] == ["gpuready/other:1"]
    assert result["kept"] == [{"name": "gpuready/old:1", "containers": ["experiment"]}]


def test_second_name_goes_while_the_image_is_used_under_the_first(docker, prune):
    docker.add(IMAGE, "sha256:kept", good())
    docker.add(SHARED, "sha256:kept", good())
    docker.set(users={"sha256:kept": ["gpuready-workbench-alice"]})
    assert prune(keep=[IMAGE])["removed"] == [SHARED]
