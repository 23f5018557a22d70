"""The execution environment is one that ansible-builder builds, and holds what a controller has."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import yaml
from repository import ROOT

FILE = ROOT / "execution-environment.yml"


def requirement(text: str) -> tuple[str, frozenset[str]]:
    """Name and limits, however they are written."""
    name, limits = re.fullmatch(r"([A-Za-z0-9._-]+)(.*)", text.strip()).groups()  # type: ignore[union-attr]
    return re.sub(r"[-_.]+", "-", name).lower(), frozenset(limits.replace(" ", "").split(","))


def test_it_holds_what_a_controller_has() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    said = yaml.safe_load(FILE.read_text(encoding="utf-8"))["dependencies"]
    inside = [said["ansible_core"]["package_pip"], said["ansible_runner"]["package_pip"], *said["python"]]
    wanted = [*project["optional-dependencies"]["run"], *project["dependencies"]]
    assert {requirement(text) for text in inside} == {requirement(text) for text in wanted}


def test_ansible_builder_makes_a_build_of_it(tmp_path: Path) -> None:
    builder = Path(sys.executable).parent / "ansible-builder"
    done = subprocess.run(
        [
            builder,
            "create",
            "--file",
            FILE,
            "--context",
            tmp_path / "context",
            "--output-filename",
            "Containerfile",
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    words = (tmp_path / "context" / "Containerfile").read_text(encoding="utf-8")
    said = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    assert f'ARG EE_BASE_IMAGE="{said["images"]["base_image"]["name"]}"' in words
    assert "ansible-core>=2.19,<2.20 ansible-runner>=2.4,<3" in words
    assert re.search(r"^USER 1000$", words, re.MULTILINE)
    built = tmp_path / "context" / "_build"
    assert (built / "requirements.txt").read_text().split() == said["dependencies"]["python"]
    # gpuready is the project that runs in it: nothing of a checkout is copied in.
    assert {path.name for path in built.iterdir()} == {"bindep.txt", "requirements.txt", "scripts"}
