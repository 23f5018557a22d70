"""The kit itself, as far as it can be tried without a node."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from kit import fingerprint, questions, runs
from kit.nodes import Node


def printed(**changed: str) -> str:
    """What the script of a fingerprint prints on a node."""
    known = {
        "packages": "curl 8.5 ii",
        "boot": "b1",
        **{name.replace("_", " "): v for name, v in changed.items()},
    }
    return "".join(f"{fingerprint.MARK}{name}\n{known.get(name, '')}\n" for name in fingerprint.PROBES)


def test_fingerprints_of_the_same_state_do_not_differ() -> None:
    assert fingerprint.read(printed()).differences(fingerprint.read(printed())) == []


def test_difference_names_section_and_lines() -> None:
    after = fingerprint.read(printed(holds="curl", packages="curl 8.6 ii"))
    assert fingerprint.read(printed()).differences(after) == [
        "packages: - curl 8.5 ii",
        "packages: + curl 8.6 ii",
        "holds: + curl",
    ]


def test_lasting_leaves_out_what_time_changes() -> None:
    before, after = fingerprint.read(printed()), fingerprint.read(printed(boot="b2", package_lists="new"))
    assert len(before.differences(after)) == 3
    assert before.lasting().differences(after.lasting()) == []


def test_lines_can_be_left_out() -> None:
    taken = fingerprint.read(printed(apt="a\nb~"))
    assert taken.without("apt", lambda line: line.endswith("~"))["apt"] == ("a",)


def test_fingerprint_that_is_incomplete_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="incomplete"):
        fingerprint.read(printed(packages=""))
    with pytest.raises(RuntimeError, match="incomplete"):
        fingerprint.read("no such node")


def test_script_of_the_fingerprint_is_sound_shell() -> None:
    subprocess.run(["bash", "-n", "-c", fingerprint.SCRIPT], check=True)


def test_inventory_keeps_what_each_host_has_of_its_own(tmp_path: Path) -> None:
    reached = {"host": "127.0.0.1", "port": 1, "user": "u", "identity_file": "/k", "known_hosts": "/h"}
    text = runs.inventory_file(
        tmp_path / "i.json", [Node("one", reached)], {"one": {"a": 1}, "two": {"b": 2}}
    ).read_text()
    assert '"a": 1' in text and '"ansible_port": 1' in text and '"b": 2' in text


@pytest.mark.parametrize(
    ("name", "driver", "screen"),
    [
        ("nvidia-utils-580-server", True, False),
        ("linux-modules-nvidia-580-server-open-5.15.0-157-generic", True, False),
        ("linux-signatures-nvidia-5.15.0-157-generic", False, False),
        ("libcuda1", True, False),
        ("nvidia-container-toolkit", False, False),
        ("libnvidia-container1", False, False),
        ("libnvidia-gl-580-server", True, True),
        ("xserver-xorg-core", False, True),
        ("curl", False, False),
    ],
)
def test_packages_are_told_apart(name: str, driver: bool, screen: bool) -> None:
    assert bool(questions.DRIVER_PACKAGE.match(name)) is driver
    assert bool(questions.GRAPHICS.match(name)) is screen


def test_driver_is_whole_only_when_all_three_agree() -> None:
    assert questions.DriverVersions("1.2", "1.2", "1.2").agree
    assert not questions.DriverVersions("1.2", "1.2", "1.3").agree
    assert not questions.DriverVersions(None, None, None).agree
