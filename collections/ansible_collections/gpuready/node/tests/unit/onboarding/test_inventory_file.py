"""The inventory's file: found, locked, replaced in one step, and never left half-written."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from gpuready.inventory_edit import InventoryError, edit, read
from gpuready.inventory_file import change_file, resolve

START = "# ours\ngpu_nodes:\n  hosts:\n    gpu01: {ansible_host: 10.0.0.1}  # the first\n"


def write(path: Path, name: str, groups: tuple[str, ...] = ("gpu_nodes",), **options) -> bool:
    change = change_file(
        path, lambda text: edit(text, name=name, groups=groups, variables={"n": name}), **options
    )
    return change[1].changed


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "hosts.yml"
    path.write_text(START)
    return path


def test_mode_owner_and_times_are_those_of_a_careful_edit(file):
    file.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(file, 12345, 54321)
    before = file.stat()
    os.utime(file, (1, 1))
    assert write(file, "new")
    after = file.stat()
    assert stat.S_IMODE(after.st_mode) == 0o640
    assert (after.st_uid, after.st_gid) == (before.st_uid, before.st_gid)
    assert after.st_mtime > 1
    assert sorted(path.name for path in file.parent.iterdir()) == ["hosts.yml"]


def test_nothing_to_do_touches_nothing(file):
    write(file, "new")
    before = file.stat()
    assert not write(file, "new")
    assert file.stat() == before


def test_check_mode_says_it_and_leaves_the_file_alone(file):
    before = file.stat()
    assert write(file, "new", check_mode=True)
    assert file.stat() == before and file.read_text() == START


def test_link_stays_a_link(file, tmp_path):
    link = tmp_path / "link.yml"
    link.symlink_to("hosts.yml")
    assert write(link, "new")
    assert link.is_symlink() and "new" in read(file.read_text()).hosts()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"a: [", "it cannot be parsed: line "),
        (b"\xff\xfea: 1\n", "it is not UTF-8 at byte 0"),
        (b"- a\n", "it is no inventory"),
    ],
)
def test_file_that_cannot_be_read_is_not_touched(file, content, words):
    file.write_bytes(content)
    before = file.stat()
    with pytest.raises(InventoryError) as refused:
        write(file, "new")
    assert str(refused.value).startswith(f"{file}: ") and words in str(refused.value)
    assert file.stat() == before and file.read_bytes() == content


def test_missing_file_and_folder_are_told(tmp_path):
    with pytest.raises(InventoryError, match=r"no\.yml: there is no such file; make it first"):
        write(tmp_path / "no.yml", "new")
    with pytest.raises(InventoryError, match="it is a folder"):
        write(tmp_path, "new")


def test_disk_full_leaves_the_old_file(file, monkeypatch):
    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("gpuready.inventory_file.os.fsync", full)
    with pytest.raises(InventoryError, match="it cannot be written: No space left on device"):
        write(file, "new")
    assert file.read_text() == START and len(list(file.parent.iterdir())) == 1


def test_owner_that_cannot_be_kept_is_told(file, monkeypatch):
    def refuse(*_arguments: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("gpuready.inventory_file._same_owner", lambda *_two: False)
    monkeypatch.setattr("gpuready.inventory_file.os.fchown", refuse)
    with pytest.raises(InventoryError, match=r"its owner .* cannot be kept .* run this as that user"):
        write(file, "new")
    assert file.read_text() == START


def test_somebody_else_who_holds_it_for_long_is_told(file):
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import fcntl, sys; f = open(sys.argv[1]); fcntl.flock(f, 2); print(flush=True); input()",
            str(file),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert holder.stdout and holder.stdout.readline()
    try:
        with pytest.raises(InventoryError, match=r"somebody else has held it for 0\.2 s"):
            write(file, "new", lock_seconds=0.2)
    finally:
        holder.kill()
        holder.communicate()
    assert write(file, "new", lock_seconds=5)


def _work(path: Path, worker: int) -> None:
    for number in range(4):
        name = f"w{worker}n{number}"
        write(path, name, ("gpu_quarantine",))
        write(path, name, ("gpu_nodes",))
        if number % 2:
            change_file(path, lambda text, name=name: edit(text, name=name, state="absent"))


def test_many_writers_at_once_lose_nothing(file):
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_work, args=(file, number)) for number in range(8)]
    for worker in workers:
        worker.start()
    while any(worker.is_alive() for worker in workers):
        # Who looks meanwhile sees a whole inventory, always.
        assert "gpu01" in read(file.read_text()).hosts()
        time.sleep(0.01)
    assert [worker.exitcode for worker in workers] == [0] * 8
    text = file.read_text()
    assert text.startswith(START.rstrip("\n"))
    expected = {f"w{worker}n{number}" for worker in range(8) for number in (0, 2)} | {"gpu01"}
    assert set(read(text).hosts()) == expected
    assert all(read(text).groups_of(name) == ["gpu_nodes"] for name in expected)


FOR_EVER = """
import itertools, sys
from pathlib import Path
from gpuready.inventory_edit import edit
from gpuready.inventory_file import change_file
print(flush=True)
for n in itertools.count():
    group = "gpu_nodes" if n % 2 else "gpu_quarantine"
    change_file(Path(sys.argv[1]), lambda text: edit(text, name="new", groups=[group], variables={"n": n}))
"""


def test_killed_at_any_moment_leaves_the_old_or_the_new_file(file):
    """Kill -9 again and again, at another moment each time; the next writer also cleans up."""
    seed = random.Random(6)
    for _round in range(12):
        writer = subprocess.Popen([sys.executable, "-c", FOR_EVER, str(file)], stdout=subprocess.PIPE)
        assert writer.stdout and writer.stdout.readline()
        time.sleep(seed.uniform(0.0, 0.06))
        writer.send_signal(signal.SIGKILL)
        writer.communicate()
        text = file.read_text()
        assert text.startswith(START.rstrip("\n"))
        assert set(read(text).hosts()) <= {"gpu01", "new"} and "gpu01" in read(text).hosts()
    (file.parent / ".hosts.yml.gpuready-left").write_text("of one who was killed")
    assert write(file, "after", lock_seconds=5)
    assert sorted(path.name for path in file.parent.iterdir()) == ["hosts.yml"]


# --- which file ---------------------------------------------------------------------------------------------


def test_file_is_the_only_yaml_one_among_the_sources(file, tmp_path):
    site = tmp_path / "site"
    (site / "group_vars").mkdir(parents=True)
    (site / "acceptance").mkdir()
    (site / "group_vars" / "gpu_nodes.yml").write_text("a: 1\n")
    (site / "acceptance" / "gpu01.json").write_text("{}")
    (site / "main.yaml").write_text("gpu_nodes:\n")
    (site / "racks.ini").write_text("[racks]\n")
    assert resolve([str(site)]) == site / "main.yaml"
    assert resolve(["a,b", str(site)]) == site / "main.yaml"
    (site / "hosts.yml").write_text("gpu_nodes:\n")
    assert resolve([str(site)]) == site / "hosts.yml"
    assert resolve([str(site)], str(site / "main.yaml")) == site / "main.yaml"
    with pytest.raises(
        InventoryError, match=r"there are several YAML inventories .*: say which YAML file to edit"
    ):
        resolve([str(site), str(file)])


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("hosts.py", "#!/usr/bin/env python3\n", "is a script, which makes its hosts itself"),
        ("hosts.ini", "[gpu_nodes]\na\n", "is no YAML file (it ends in .ini)"),
        ("hosts", "[gpu_nodes]\na\n", "is no YAML inventory (an INI file?)"),
        ("hosts.yml", "a: [\n", "is no YAML inventory: it cannot be parsed"),
        ("aws.yml", "plugin: aws_ec2\n", "it configures the inventory plugin aws_ec2"),
    ],
)
def test_what_cannot_be_edited_is_told(tmp_path, name, content, words):
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(InventoryError) as refused:
        resolve([str(path)])
    assert "there is no inventory file that could be edited" in str(refused.value)
    assert words in str(refused.value) and "-e inventory_file=" in str(refused.value)


def test_file_without_an_ending_may_be_yaml(tmp_path):
    path = tmp_path / "hosts"
    path.write_text("gpu_nodes:\n")
    assert resolve([str(path)]) == path


def test_given_file_that_is_not_there_is_told(tmp_path):
    with pytest.raises(InventoryError, match=r"inventory_file: .* is not there"):
        resolve([], str(tmp_path / "none.yml"))
    with pytest.raises(InventoryError, match="the run has no inventory file"):
        resolve([])
