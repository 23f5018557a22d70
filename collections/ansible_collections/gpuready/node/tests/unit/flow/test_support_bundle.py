"""playbooks/support_bundle.yml with the real plugins. See project.py for what is not real."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import observations
import pytest
from project import Project, Run

# In two pieces, so that no scanner takes it for a real one.
TOKEN = "hf" + "_abcdefghijklmnopqrstuvwxyz"
SECRETS = (
    "hunter2secret",
    TOKEN,
    "queenofhearts",
    "10.99.8.7",
    "52:54:00:ab:cd:ef",
)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    made = Project(tmp_path)
    made.inventory({"trainbox7": {}, "trainbox8": {}}, gpuready_simulated=True)
    log = tmp_path / "app.log"
    log.write_text(
        f"password=hunter2secret token {TOKEN}\n"
        "/home/queenofhearts/x: 10.99.8.7 52:54:00:ab:cd:ef trainbox8\nNVRM: kept\n"
    )
    return made


def bundles(project: Project) -> list[dict[str, str]]:
    found = []
    for path in sorted((project.root / "artifacts" / "bundles").glob("*.tar.gz")):
        with tarfile.open(path) as tar:
            found.append(
                {
                    member.name.partition("/")[2]: tar.extractfile(member).read().decode()  # type: ignore[union-attr]
                    for member in tar
                }
            )
    return found


def play(project: Project, *arguments: str) -> Run:
    paths = json.dumps({"support_bundle_paths": [str(project.root / "app.log")]})
    return project.play("playbooks/support_bundle.yml", "-e", paths, *arguments)


def test_every_node_has_a_bundle_without_what_is_private(project):
    broken = observations.converged()
    broken["container_runtime"]["toolkit"]["hook_newer_than_dockerd"] = True
    project.observe("trainbox7", broken)
    project.observe("trainbox8", observations.converged())
    run = play(project)
    assert run.rc == 0, run.text
    assert not any(secret in run.text for secret in SECRETS)
    made = bundles(project)
    assert len(made) == 2
    for files in made:
        everything = "".join(files.values())
        assert not any(secret in everything for secret in (*SECRETS, "trainbox7", "trainbox8"))
        log = next(text for name, text in files.items() if name.endswith("app.log"))
        assert "NVRM: kept" in log and "/home/user-" in log
        assert json.loads(files["facts.json"])["gpu_stack"]["schema"] == 1
    # In the fleet's order, and the same pseudonym in both bundles.
    first, second = made
    assert json.loads(first["manifest.json"])["host"] == "host-1"
    assert json.loads(second["manifest.json"])["host"] == "host-2"
    assert "toolkit-unknown-to-dockerd" in first["diagnosis.txt"]
    assert json.loads(second["diagnosis.json"])["status"] == "healthy"
    assert json.loads(second["verification.json"])[0]["ok"] is True


def test_a_node_that_cannot_be_looked_at_has_one_too_and_fails(project):
    project.observe("trainbox7", observations.converged())
    (project.state / "trainbox7" / "broken").touch()
    run = play(project, "--limit", "trainbox7")
    assert run.rc == 2, run.text
    (files,) = bundles(project)
    assert "the package database is locked" in json.loads(files["run.json"])["error"]
    assert "facts.json" not in files
    assert "the package database is locked" in run.text


def test_check_mode_writes_nothing_and_names_can_stay(project):
    project.observe("trainbox7", observations.converged())
    run = play(project, "--limit", "trainbox7", "--check")
    assert run.rc == 0, run.text
    assert bundles(project) == []
    run = play(project, "--limit", "trainbox7", "-e", "support_bundle_keep_hostnames=true")
    assert run.rc == 0, run.text
    (files,) = bundles(project)
    assert json.loads(files["manifest.json"])["host"] == "trainbox7"
    assert not any(secret in "".join(files.values()) for secret in SECRETS)
