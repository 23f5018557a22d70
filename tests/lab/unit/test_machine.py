"""What the lab asks of a machine, and how it reads a machine's apt."""

from __future__ import annotations

from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
from gpulab import machine, settings
from gpulab.errors import LabError

DEBIAN = {"ID": "debian", "PRETTY_NAME": "Debian GNU/Linux 12 (bookworm)"}
GOOD: dict[str, Any] = {
    "euid": 0,
    "platform": "linux",
    "architecture": "x86_64",
    "os_release": DEBIAN,
    "has_apt": True,
}


def test_a_debian_machine_with_root_has_no_problem() -> None:
    assert machine.problems(**GOOD) == []


def test_a_derivative_is_taken_for_its_family() -> None:
    assert machine.problems(**{**GOOD, "os_release": {"ID": "linuxmint", "ID_LIKE": "ubuntu debian"}}) == []


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"euid": 1000}, "root"),
        ({"platform": "darwin"}, "Linux (this is darwin)"),
        ({"architecture": "aarch64"}, "amd64"),
        ({"os_release": {"ID": "fedora", "PRETTY_NAME": "Fedora Linux 42"}}, "this is Fedora Linux 42"),
        ({"has_apt": False}, "with apt"),
    ],
)
def test_each_missing_thing_is_named_once(change: dict[str, Any], word: str) -> None:
    found = machine.problems(**{**GOOD, **change})
    assert len(found) == 1
    assert word in found[0]


def test_everything_missing_is_named_together() -> None:
    found = machine.problems(
        euid=1000, platform="linux", architecture="riscv64", os_release={}, has_apt=False
    )
    assert len(found) == 3


def test_os_release_is_read_with_and_without_quotes() -> None:
    text = '# comment\nID=debian\nPRETTY_NAME="Debian GNU/Linux 12"\n\n'
    assert machine.parse_os_release(text) == {"ID": "debian", "PRETTY_NAME": "Debian GNU/Linux 12"}


def test_the_archive_is_the_one_of_the_machines_release() -> None:
    listing = (
        "http://vendor.example/tools stable\n"
        "http://archive.example/debian/ bookworm\n"
        "http://archive.example/debian/ bookworm-updates\n"
        "http://security.example/debian-security/ bookworm-security\n"
        "http://other.example/debian/ bookworm\n"
    )
    assert machine.pick_archive(listing, "bookworm") == (
        "http://archive.example/debian/",
        "http://security.example/debian-security/",
    )


def test_a_machine_without_its_release_in_apt_has_no_archive() -> None:
    assert machine.pick_archive("http://vendor.example/tools stable\n", "bookworm") is None


def test_the_main_archive_serves_for_missing_security() -> None:
    assert machine.pick_archive("http://a.example/d/ trixie\n", "trixie") == ("http://a.example/d/",) * 2


def test_too_little_disk_is_one_message_with_the_numbers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(0, 0, 12 * settings.GIB))
    with pytest.raises(
        LabError, match=r"needs 20 GiB free under .*new/place, which has 12\.0 GiB.*GPULAB_HOME"
    ):
        machine.check_disk(20, tmp_path / "new" / "place")
    machine.check_disk(12, tmp_path / "new" / "place")
