"""What the mirror serves is switched in one step, and tools are taken out of packages."""

from __future__ import annotations

from pathlib import Path

import pytest
from gpulab import machine, services, tools, trees
from gpulab.engine import Docker


def test_a_tree_is_built_once_per_content_and_the_former_one_goes(tmp_path: Path) -> None:
    def build(folder: Path) -> str:
        (folder / "file").write_text(folder.name)
        return "built"

    assert trees.ensure(tmp_path, "one", build) == "built"
    assert trees.ensure(tmp_path, "one", build) == "reused"
    assert (tmp_path / "current/file").read_text() == "one.new"
    assert trees.ensure(tmp_path, "two", build) == "built"
    assert (tmp_path / "current").readlink() == Path("two")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["current", "two"]


def test_a_build_that_fails_leaves_what_was_served(tmp_path: Path) -> None:
    def good(folder: Path) -> str:
        (folder / "file").write_text("good")
        return ""

    def bad(folder: Path) -> str:
        (folder / "file").write_text("half")
        raise RuntimeError("no room")

    trees.ensure(tmp_path, "one", good)
    with pytest.raises(RuntimeError):
        trees.ensure(tmp_path, "two", bad)
    assert (tmp_path / "current/file").read_text() == "good"
    assert trees.ensure(tmp_path, "two", good) == "", "what is left of the attempt is no hindrance"


def test_tools_that_are_there_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(tools, "unpack", lambda *_: pytest.fail("nothing is missing"))
    monkeypatch.setattr(machine, "install", lambda *_: pytest.fail("nothing is missing"))
    assert tools.ensure(machine.Machine("debian", "bookworm")) == [
        "chromium: /usr/bin/chromium",
        "prometheus: /usr/bin/prometheus",
        "promtool: /usr/bin/promtool",
    ]


def test_a_missing_prometheus_is_taken_out_of_its_package_and_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPULAB_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(tools.settings, "REPO", tmp_path)
    monkeypatch.setattr(tools.shutil, "which", lambda name: None if name in tools.PROMETHEUS else name)
    monkeypatch.setattr(machine, "install", lambda *_: pytest.fail("its package would start a server"))
    asked: list[str] = []
    monkeypatch.setattr(tools, "unpack", lambda package, _: asked.append(package))
    (tmp_path / ".venv/bin").mkdir(parents=True)
    tools.ensure(machine.Machine("debian", "bookworm"))
    assert asked == ["prometheus"]
    link = tmp_path / ".venv/bin/promtool"
    assert link.readlink() == tmp_path / "home/tools/prometheus/usr/bin/promtool"


def test_a_bare_start_takes_out_what_tests_pushed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPULAB_HOME", str(tmp_path))
    collected: list[bool] = []
    monkeypatch.setattr(services, "collect_garbage", lambda _: collected.append(True))
    repositories = tmp_path / "registry/docker/registry/v2/repositories"
    docker = Docker("unix:///nowhere", own=True)
    assert services.drop_pushed(docker) == [], "nothing was pushed yet"
    for name in ("tensorflow/tensorflow", "gpulab/python-slim", "gpuready/tf-notebook", "standin/tensorflow"):
        (repositories / name).mkdir(parents=True)
    assert services.drop_pushed(docker) == ["gpuready", "standin"]
    assert sorted(path.name for path in repositories.iterdir()) == ["gpulab", "tensorflow"]
    assert collected == [True]
