"""apt_hold: decides from dpkg's selections and sets them in one call."""

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
from ansible_collections.gpuready.node.plugins.modules import apt_hold  # noqa: E402

START = {
    "nvidia-utils:amd64": ("install", "installed"),
    "libnvidia-gl:amd64": ("install", "installed"),
    "libnvidia-gl:i386": ("install", "installed"),
    "bash:amd64": ("hold", "installed"),
    "removed:amd64": ("deinstall", "config-files"),
    "known:": ("unknown", "not-installed"),
}


class Dpkg:
    """dpkg's selections, and what it was told."""

    def __init__(self) -> None:
        self.packages = dict(START)
        self.calls: list[str] = []
        self.locked = 0
        self.deaf = False

    def run_command(self, argv: list[str], data: str | None = None, **_options: Any) -> tuple[int, str, str]:
        if argv[0] == "dpkg-query":
            lines = []
            for label, (want, status) in self.packages.items():
                name, _colon, arch = label.partition(":")
                lines.append("\t".join([name, arch, "1.0", want, status, "ok"]))
            return 0, "\n".join(lines) + "\n", ""
        assert argv == ["dpkg", "--set-selections"] and data is not None
        if self.locked:
            self.locked -= 1
            return 2, "", "dpkg: error: dpkg frontend lock was locked by another process with pid 7\n"
        self.calls.append(data)
        for line in data.splitlines():
            label, want = line.split()
            if not self.deaf:
                self.packages[label] = (want, self.packages[label][1])
        return 0, "", ""


@pytest.fixture
def dpkg(monkeypatch):
    made = Dpkg()
    monkeypatch.setattr(
        apt_hold.AnsibleModule, "run_command", lambda _self, *a, **k: made.run_command(*a, **k)
    )
    monkeypatch.setattr(apt_hold.time, "sleep", lambda _seconds: None)
    return made


@pytest.fixture
def run(dpkg, capsys, monkeypatch):
    # Beside tests of controller plugins Ansible takes this process for a controller, and shows warnings
    # instead of returning them.
    warned: list[str] = []
    monkeypatch.setattr(apt_hold.AnsibleModule, "warn", lambda _self, text: warned.append(text))

    def call(names: list[str], check: bool = False, **params: Any) -> dict[str, Any]:
        capsys.readouterr()
        warned.clear()
        arguments = {"names": names, **params, "_ansible_check_mode": check, "_ansible_diff": True}
        with patch_module_args(arguments), pytest.raises(SystemExit):
            apt_hold.main()
        result: dict[str, Any] = json.loads(capsys.readouterr().out)
        return {**result, "warnings": list(warned)}

    return call


def test_hold_is_one_call_and_idempotent(run, dpkg):
    first = run(["nvidia-utils", "libnvidia-gl", "nvidia-utils"])
    assert first["changed"] is True and first["packages"] == ["nvidia-utils", "libnvidia-gl"]
    assert dpkg.calls == ["libnvidia-gl:amd64 hold\nlibnvidia-gl:i386 hold\nnvidia-utils:amd64 hold\n"]
    assert first["held"] == ["bash", "libnvidia-gl", "nvidia-utils"]
    assert first["diff"]["before"] == "bash\n"
    second = run(["nvidia-utils", "libnvidia-gl"])
    assert second["changed"] is False and len(dpkg.calls) == 1


def test_one_architecture_only(run, dpkg):
    run(["libnvidia-gl:i386"])
    assert dpkg.calls == ["libnvidia-gl:i386 hold\n"]


def test_release(run, dpkg):
    assert run(["bash", "known", "nowhere"], state="unheld")["packages"] == ["bash"]
    assert dpkg.calls == ["bash:amd64 install\n"]
    assert run(["bash"], state="unheld")["changed"] is False


def test_check_mode_changes_nothing(run, dpkg):
    result = run(["nvidia-utils"], check=True)
    assert result["changed"] is True and result["held"] == ["bash", "nvidia-utils"] and dpkg.calls == []


@pytest.mark.parametrize("name", ["nowhere", "known", "removed"])
def test_what_is_not_installed_cannot_be_held(run, dpkg, name):
    result = run(["nvidia-utils", name])
    assert result["failed"] is True and name in result["msg"] and "nothing was changed" in result["msg"]
    assert dpkg.calls == []


def test_missing_may_be_ignored(run, dpkg):
    result = run(["nvidia-utils", "nowhere", "removed"], missing="ignore")
    assert result["packages"] == ["nvidia-utils"]


def test_check_mode_takes_an_announced_package_for_granted(run, dpkg):
    result = run(["nowhere"], check=True)
    assert result["changed"] is True and "nowhere" in str(result["warnings"])


@pytest.mark.parametrize("name", ["nvidia-utils=580.1", "nvidia-*", "Nvidia", "", "--all"])
def test_what_is_no_name_is_refused(run, dpkg, name):
    result = run([name])
    assert result["failed"] is True and f"'{name}'" in result["msg"] and dpkg.calls == []


def test_lock_is_waited_for(run, dpkg):
    dpkg.locked = 3
    assert run(["nvidia-utils"])["changed"] is True and len(dpkg.calls) == 1


def test_lock_that_stays_is_quoted(run, dpkg):
    dpkg.locked = 1000
    result = run(["nvidia-utils"], lock_timeout_seconds=0)
    assert result["failed"] is True and "locked by another process with pid 7" in result["msg"]


def test_dpkg_that_does_nothing_is_found_out(run, dpkg):
    dpkg.deaf = True
    result = run(["nvidia-utils"])
    assert result["failed"] is True and "nvidia-utils" in result["msg"]


def test_nothing_to_do_for_no_names(run, dpkg):
    assert run([])["changed"] is False
