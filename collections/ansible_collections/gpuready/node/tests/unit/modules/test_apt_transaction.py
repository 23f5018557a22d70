"""apt_transaction: simulates, refuses what nobody asked for, and runs apt once."""

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
from ansible_collections.gpuready.node.plugins.modules import apt_transaction  # noqa: E402

START = {
    "nvidia-utils-570": ("570.1", "hold"),
    "libnvidia-compute-570": ("570.1", "hold"),
    "linux-objects-nvidia-570-k": ("1", "install"),
    "docker.io": ("20.10", "hold"),
    "bash": ("5.1", "install"),
}
SWITCH = """Reading package lists...
Remv nvidia-utils-570 [570.1] [libnvidia-compute-570:amd64 ]
Remv libnvidia-compute-570 [570.1]
Inst libnvidia-compute-580 (580.1 Ubuntu:22.04/jammy [amd64])
Inst nvidia-utils-580 (580.1 Ubuntu:22.04/jammy [amd64])
Conf libnvidia-compute-580 (580.1 Ubuntu:22.04/jammy [amd64])
Conf nvidia-utils-580 (580.1 Ubuntu:22.04/jammy [amd64])
"""
UPGRADE = "Inst nvidia-utils-570 [570.1] (570.2 Ubuntu:22.04/jammy [amd64])\n"


class Node:
    """dpkg's database and an apt that says what it is told to say."""

    def __init__(self) -> None:
        self.packages = {name: list(value) for name, value in START.items()}
        self.foreseen = SWITCH
        self.superfluous = ""
        self.auto: set[str] = set()
        self.broken: str | None = None
        self.half = False
        self.unpacked: set[str] = set()
        self.configures = True
        self.runs: list[list[str]] = []
        self.marked: list[str] = []

    def apply(self, text: str) -> None:
        for step in apt_transaction.steps(text):
            if step.after is None:
                self.packages.pop(step.name, None)
            else:
                # Installing over a hold takes it away.
                self.packages[step.name] = [step.after, "install"]

    def run_command(self, argv: list[str], data: str = "", **_options: Any) -> tuple[int, str, str]:
        if argv[0] == "dpkg-query":
            rows = [
                "\t".join(
                    [name, "amd64", version, want, "unpacked" if name in self.unpacked else "installed", "ok"]
                )
                for name, (version, want) in self.packages.items()
            ]
            return 0, "\n".join(rows) + "\n", ""
        if argv[0] == "dpkg" and "--configure" in argv:
            if not self.configures:
                return 1, "", "dpkg: error processing package nvidia-utils-570 (--configure)"
            self.unpacked.clear()
            return 0, "", ""
        if argv[:2] == ["dpkg", "--set-selections"]:
            for line in data.splitlines():
                name, want = line.split()
                self.packages[name.split(":")[0]][1] = want
            return 0, "", ""
        if argv[:2] == ["apt-mark", "showauto"]:
            return 0, "\n".join(name for name in argv[2:] if name in self.auto) + "\n", ""
        if argv[:2] == ["apt-mark", "auto"]:
            self.marked = argv[2:]
            return 0, "", ""
        assert argv[0] == "apt-get", argv
        if "--simulate" in argv:
            if self.foreseen.startswith("E:"):
                return 100, "", self.foreseen
            auto = "--auto-remove" in argv
            # A suggestion of apt's own would keep the compiler that DKMS brought.
            assert auto == ("--option=APT::AutoRemove::SuggestsImportant=false" in argv)
            more = self.superfluous if auto else ""
            return 0, self.foreseen + more, ""
        self.runs.append(argv)
        if self.broken:
            if self.half:
                self.packages.pop("nvidia-utils-570")
            return 100, "", self.broken
        self.apply(self.foreseen)
        for word in argv[argv.index("install") + 1 :]:
            if word.endswith("-"):
                self.packages.pop(word[:-1], None)
        return 0, self.foreseen, ""


@pytest.fixture
def node(monkeypatch):
    made = Node()
    monkeypatch.setattr(
        apt_transaction.AnsibleModule,
        "run_command",
        lambda _self, argv, **options: made.run_command(argv, **options),
    )
    return made


@pytest.fixture
def run(capsys):
    def play(check: bool = False, **arguments: Any) -> dict[str, Any]:
        with patch_module_args({**arguments, "_ansible_check_mode": check}), pytest.raises(SystemExit):
            apt_transaction.main()
        return json.loads(capsys.readouterr().out)

    return play


NEW = ["nvidia-utils-580=580.1", "libnvidia-compute-580=580.1"]
OLD = ["nvidia-utils-570", "libnvidia-compute-570"]


def names(rows: list[dict[str, Any]]) -> list[str]:
    return [row["name"] for row in rows]


def test_switch_is_one_run_of_apt(node: Node, run: Any) -> None:
    result = run(install=NEW, remove=OLD)
    assert result["changed"] and len(node.runs) == 1
    assert node.runs[0][node.runs[0].index("install") + 1 :] == [
        *NEW,
        "nvidia-utils-570-",
        "libnvidia-compute-570-",
    ]
    assert names(result["installed"]) == ["libnvidia-compute-580", "nvidia-utils-580"]
    assert names(result["removed"]) == ["libnvidia-compute-570", "nvidia-utils-570"]


def test_simulation_has_the_same_arguments(node: Node, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []
    inner = node.run_command
    node.run_command = lambda argv, **options: (seen.append(list(argv)), inner(argv, **options))[1]  # type: ignore[method-assign]
    run(install=NEW, remove=OLD, allow_downgrade=True)
    simulated = [argv for argv in seen if "--simulate" in argv][-1]
    # The real one also says how far it is.
    real = [word for word in node.runs[0] if not word.startswith("--option=APT::Status-Fd=")]
    assert len(real) == len(node.runs[0]) - 1
    assert [word for word in simulated if word != "--simulate"] == real
    assert "--allow-downgrades" in simulated


def test_check_mode_only_simulates(node: Node, run: Any) -> None:
    result = run(check=True, install=NEW, remove=OLD)
    assert result["changed"] and node.runs == []
    assert "nvidia-utils-580 580.1" in result["diff"]["after"]
    assert "nvidia-utils-570 570.1" in result["diff"]["before"]


def test_nothing_to_do_asks_apt_nothing(node: Node, run: Any) -> None:
    node.foreseen = "E: apt must not be asked\n"
    result = run(install=["bash", "nvidia-utils-570=570.1"], remove=["nvidia-utils-580"])
    assert not result["changed"] and node.runs == [] and result["command"] == []


def test_what_came_along_is_put_back_at_its_version(node: Node, run: Any) -> None:
    """Asked for by no name, but its files are gone; what is not there is nothing to put back."""
    node.foreseen = "Inst libnvidia-compute-570 [570.1] (570.1 Ubuntu:22.04/jammy [amd64])\n"
    result = run(install=["nvidia-utils-570=570.1"], reinstall=["libnvidia-compute-570", "gone"])
    assert result["changed"] and "--reinstall" in node.runs[0]
    assert node.runs[0][node.runs[0].index("install") + 1 :] == ["libnvidia-compute-570=570.1"]


def test_what_was_only_unpacked_is_configured(node: Node, run: Any) -> None:
    """As a power cut in the middle of apt leaves it."""
    node.unpacked = {"nvidia-utils-570"}
    result = run(install=["nvidia-utils-570=570.1"])
    assert result["changed"] and node.unpacked == set() and node.runs == []
    assert run(install=["nvidia-utils-570=570.1"])["changed"] is False


def test_package_that_cannot_be_configured_is_named_unless_it_goes_or_changes(node: Node, run: Any) -> None:
    node.unpacked, node.configures = {"nvidia-utils-570"}, False
    failed = run(install=["libnvidia-compute-570=570.1"])
    assert failed["failed"] and "nvidia-utils-570" in failed["msg"] and node.runs == []
    node.foreseen = UPGRADE
    assert run(install=["nvidia-utils-570=570.2"])["changed"] is True
    node.foreseen = "Remv nvidia-utils-570 [570.1]\n"
    assert run(remove=["nvidia-utils-570"])["changed"] is True


def test_removal_of_anything_but_the_driver_is_refused(node: Node, run: Any) -> None:
    node.foreseen = SWITCH + "Remv bash [5.1]\n"
    result = run(install=NEW, remove=OLD)
    assert result["failed"] and result["reason"] == "removal" and "bash" in result["msg"]
    assert node.runs == [] and not result["changed"]


def test_removal_of_what_is_asked_for_is_refused(node: Node, run: Any) -> None:
    node.foreseen = "Remv nvidia-utils-580 [580.1]\nInst libnvidia-compute-580 (580.1 U [amd64])\n"
    result = run(install=NEW)
    assert result["failed"] and "what is to be installed" in result["msg"] and node.runs == []


def test_change_of_somebody_elses_held_package_is_refused(node: Node, run: Any) -> None:
    node.foreseen = SWITCH + "Inst docker.io [20.10] (20.11 Debian:12 [amd64])\n"
    result = run(install=NEW, remove=OLD)
    assert (
        result["failed"] and result["reason"] == "held" and "docker.io" in result["msg"] and node.runs == []
    )


def test_refusal_by_apt_is_told_in_its_words(node: Node, run: Any) -> None:
    node.foreseen = "E: Version '580.1' for 'nvidia-utils-580' was not found\n"
    result = run(install=NEW)
    assert result["failed"] and "was not found" in result["msg"] and not result["changed"]


def test_hold_of_an_upgraded_package_is_kept(node: Node, run: Any) -> None:
    node.foreseen = UPGRADE
    result = run(install=["nvidia-utils-570=570.2"])
    assert node.packages["nvidia-utils-570"] == ["570.2", "hold"]
    assert result["held"] == ["nvidia-utils-570"]


def test_hold_is_kept_when_apt_fails_and_the_change_is_told(node: Node, run: Any) -> None:
    node.foreseen, node.broken = UPGRADE, "E: Sub-process /usr/bin/dpkg returned an error code (1)\n"
    whole = run(install=["nvidia-utils-570=570.2"])
    assert whole["failed"] and not whole["changed"] and "Sub-process" in whole["msg"]
    node.half = True
    torn = run(install=["nvidia-utils-570=570.2"])
    assert torn["failed"] and torn["changed"]
    assert node.packages["libnvidia-compute-570"][1] == "hold"


def test_automatic_mark_is_kept(node: Node, run: Any) -> None:
    node.foreseen, node.auto = UPGRADE, {"nvidia-utils-570"}
    result = run(install=["nvidia-utils-570=570.2"])
    assert result["automatic"] == ["nvidia-utils-570"] and node.marked == ["nvidia-utils-570"]


def test_automatic_mark_can_be_given_back(node: Node, run: Any) -> None:
    run(install=NEW, remove=OLD, automatic=["libnvidia-compute-580", "not-there"])
    assert node.marked == ["libnvidia-compute-580"]


def test_leftovers_go_only_when_they_are_among_those_named(node: Node, run: Any) -> None:
    node.superfluous = "Remv linux-objects-nvidia-570-k [1]\nRemv bash [5.1]\n"
    run(install=NEW, remove=OLD, autoremove=["linux-objects-nvidia-570-k", "docker.io"])
    assert "linux-objects-nvidia-570-k-" in node.runs[0] and "bash-" not in node.runs[0]


@pytest.mark.parametrize("wrong", ["nvidia utils", "nvidia-utils=", "--purge", "nvidia;reboot"])
def test_what_is_no_package_is_refused(run: Any, wrong: str) -> None:
    result = run(install=[wrong])
    assert result["failed"] and wrong in result["msg"]
