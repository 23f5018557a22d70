"""The module that fetches images, against a `docker` of our own: a program with its images in a file."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

COLLECTIONS = str(Path(__file__).resolve().parents[6])
if COLLECTIONS not in sys.path:
    sys.path.insert(0, COLLECTIONS)

from ansible.module_utils.testing import patch_module_args  # noqa: E402
from ansible_collections.gpuready.node.plugins.modules import docker_images  # noqa: E402

NAME = "tensorflow/tensorflow:2.9.0-gpu"
MIRROR = "registry:5000/tensorflow/tensorflow:2.9.0-gpu"

DOCKER = """\
#!{python}
import json, sys
from pathlib import Path
file = Path({state!r}); state = json.loads(file.read_text())
assert sys.argv[1:3] == ["--host", "unix:///var/run/docker.sock"], sys.argv
words = sys.argv[3:]
images = state["images"]
state["calls"].append(" ".join(words[:2] if words[0] == "image" else words[:1]))
def end(code=0, out="", err=""):
    file.write_text(json.dumps(state))
    sys.stdout.write(out); sys.stderr.write(err); sys.exit(code)
if state["down"]:
    end(1, err="Cannot connect to the Docker daemon at unix:///x.sock. Is the docker daemon running?")
if words[:2] == ["image", "inspect"]:
    name = words[2]
    if name not in images:
        end(1, "[]", "Error: No such image: " + name)
    same = [other for other in images if images[other] == images[name] and other in state["registry"]]
    digests = [other.rpartition(":")[0] + "@sha256:d" for other in same]
    end(0, json.dumps([{{"Id": images[name], "RepoDigests": digests, "Size": 3 * 1024 * 1024}}]))
if words[:2] == ["image", "ls"]:
    end(0, "".join("%s %s\\n" % pair for pair in images.items()))
if words[0] == "pull":
    name = words[-1]
    if name not in state["registry"]:
        end(1, err="Error response from daemon: manifest for %s not found: manifest unknown" % name)
    images[name] = state["registry"][name]
    end(0, name + "\\n")
if words[0] == "tag":
    if state["no_tag"]:
        end(1, err="Error response from daemon: invalid reference format")
    images[words[2]] = images[words[1]]
    end()
if words[0] == "load":
    held = json.loads(Path(words[-1]).read_text())
    images.update(held)
    end(0, "".join("Loaded image: %s\\n" % name for name in held))
if words[0] == "ps":
    end(0, "".join(name + "\\n" for name in state["users"]))
if words[:2] == ["image", "rm"]:
    del images[words[2]]
    end()
end(64, err="what is " + " ".join(words))
"""


class Docker:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "state.json"
        self.set(
            images={},
            registry={MIRROR: "sha256:tf", NAME: "sha256:tf"},
            users=[],
            calls=[],
            down=False,
            no_tag=False,
        )
        self.program = folder / "docker"
        self.program.write_text(DOCKER.format(python=sys.executable, state=str(self.file)))
        self.program.chmod(0o755)

    def __getitem__(self, key: str) -> Any:
        return json.loads(self.file.read_text())[key]

    def set(self, **values: Any) -> None:
        state = json.loads(self.file.read_text()) if self.file.exists() else {}
        self.file.write_text(json.dumps({**state, **values}))

    def archive(self, **held: str) -> str:
        path = self.folder / "archive.tar"
        path.write_text(json.dumps(held))
        return str(path)


@pytest.fixture
def docker(tmp_path, monkeypatch):
    docker = Docker(tmp_path)
    monkeypatch.setattr(
        docker_images.AnsibleModule,
        "get_bin_path",
        lambda _self, name, *_arguments, **_options: str(docker.program) if docker.program.exists() else None,
    )
    return docker


@pytest.fixture
def call(docker, capsys):
    def run(**arguments: Any) -> dict[str, Any]:
        arguments = {
            "images": [{"name": NAME, "pull": MIRROR}],
            "_ansible_check_mode": arguments.pop("check", False),
            **arguments,
        }
        capsys.readouterr()
        with patch_module_args(arguments), pytest.raises(SystemExit):
            docker_images.main()
        return json.loads(capsys.readouterr().out)

    return run


def test_an_image_comes_through_the_mirror_under_its_official_name(docker, call):
    result = call()
    assert result["changed"]
    assert docker["images"] == {MIRROR: "sha256:tf", NAME: "sha256:tf"}
    (image,) = result["images"]
    assert image["how"] == "pulled" and image["size_mib"] == 3
    assert "registry:5000/tensorflow/tensorflow@sha256:d" in image["digests"]


def test_a_second_call_asks_the_registry_for_nothing(docker, call):
    call()
    docker.set(calls=[], registry={})
    result = call()
    assert not result["changed"]
    assert set(docker["calls"]) == {"image inspect"}
    assert result["images"][0]["how"] is None


def test_without_a_mirror_the_official_name_is_pulled(docker, call):
    assert call(images=[{"name": NAME}])["changed"]
    assert docker["images"] == {NAME: "sha256:tf"}


def test_an_image_that_is_there_under_the_mirrors_name_is_only_named(docker, call):
    docker.set(images={MIRROR: "sha256:tf"}, registry={})
    result = call()
    assert result["changed"] and result["images"][0]["how"] == "tagged"
    assert "pull" not in docker["calls"]


def test_check_mode_fetches_nothing(docker, call):
    assert call(check=True)["changed"]
    assert docker["images"] == {} and set(docker["calls"]) == {"image inspect"}


def test_an_image_that_the_registry_does_not_have_is_named(docker, call):
    docker.set(registry={})
    result = call()
    assert result["failed"] and result["reason"] == "missing"
    assert NAME in result["msg"] and MIRROR in result["msg"] and "manifest unknown" in result["msg"]
    assert docker["images"] == {}


def test_a_failed_naming_takes_the_pulled_name_back(docker, call):
    docker.set(no_tag=True)
    assert call()["failed"]
    assert docker["images"] == {}
    # … but not a name that was there before
    docker.set(images={MIRROR: "sha256:tf"})
    assert call()["failed"]
    assert docker["images"] == {MIRROR: "sha256:tf"}


def test_the_images_that_came_before_a_failure_stay(docker, call):
    result = call(
        images=[{"name": NAME, "pull": MIRROR}, {"name": "other:1", "pull": "registry:5000/other:1"}]
    )
    assert result["failed"] and result["image"] == "other:1"
    assert docker["images"] == {MIRROR: "sha256:tf", NAME: "sha256:tf"}


def test_an_archive_brings_the_image(docker, call):
    result = call(archive=docker.archive(**{NAME: "sha256:tf"}))
    assert result["changed"] and result["images"][0]["how"] == "loaded"
    assert "pull" not in docker["calls"]


def test_an_archive_with_the_mirrors_name_will_do(docker, call):
    call(archive=docker.archive(**{MIRROR: "sha256:tf"}))
    assert docker["images"][NAME] == "sha256:tf"


def test_an_archive_of_something_else_leaves_nothing(docker, call):
    docker.set(images={"kept:1": "sha256:k"})
    result = call(archive=docker.archive(**{"other:1": "sha256:o", "kept:1": "sha256:k"}))
    assert result["failed"] and result["reason"] == "wrong_archive" and "other:1" in result["msg"]
    assert docker["images"] == {"kept:1": "sha256:k"}


def test_an_archive_that_is_not_there_is_named(docker, call):
    result = call(archive="/nowhere/archive.tar")
    assert result["reason"] == "no_archive" and "/nowhere/archive.tar" in result["msg"]


def test_absent_removes_both_names_once(docker, call):
    call()
    assert call(state="absent")["changed"]
    assert docker["images"] == {}
    assert not call(state="absent")["changed"]


def test_absent_removes_nothing_that_a_container_uses(docker, call):
    call()
    docker.set(users=["job1"])
    result = call(state="absent")
    assert result["reason"] == "in_use" and "job1" in result["msg"]
    assert len(docker["images"]) == 2


def test_a_docker_that_is_down_or_missing_is_named(docker, call):
    docker.set(down=True)
    assert call()["reason"] == "no_docker"
    docker.program.unlink()
    assert "docker is not installed" in call()["msg"]


@pytest.mark.parametrize(
    ("image", "words"),
    [
        ({"name": "tensorflow/tensorflow"}, "names no version"),
        ({"name": "tensorflow/tensorflow:latest"}, "names no version"),
        ({"name": NAME, "pull": "registry:5000/tensorflow/tensorflow"}, "names no version"),
        ({"name": "a/b@sha256:0", "pull": "registry:5000/a/b:1"}, "by a tag"),
    ],
)
def test_a_reference_that_names_no_version_is_refused(docker, call, image, words):
    result = call(images=[image])
    assert result["failed"] and words in result["msg"]
    assert docker["calls"] == []
