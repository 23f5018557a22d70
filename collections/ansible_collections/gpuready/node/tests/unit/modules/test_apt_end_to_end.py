"""The apt modules and the observation through real Ansible, on copies of this machine's own files.

A mount namespace puts copies over /etc/apt, /var/lib/dpkg and /var/backups, so that the modules see a real
system and this one stays as it is.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

COLLECTIONS = Path(__file__).resolve().parents[6]
ANSIBLE = Path(sys.executable).with_name("ansible")


def _can_mount() -> bool:
    if os.geteuid() != 0 or not shutil.which("apt-get") or not ANSIBLE.exists():
        return False
    return (
        subprocess.run(["unshare", "-m", "mount", "-t", "tmpfs", "x", "/mnt"], capture_output=True).returncode
        == 0
    )


pytestmark = pytest.mark.skipif(not _can_mount(), reason="needs root, apt and mount namespaces")


class Copy:
    def __init__(self, place: Path) -> None:
        self.place = place
        for name in ("apt/sources.list.d", "apt/apt.conf.d", "apt/preferences.d", "apt/keyrings", "backups"):
            (place / name).mkdir(parents=True)
        shutil.copytree("/var/lib/dpkg", place / "dpkg", symlinks=True)
        (place / "ansible.cfg").write_text(f"[defaults]\ncollections_path = {COLLECTIONS}\n")

    def __call__(self, module: str, params: dict[str, Any], *options: str) -> dict[str, Any]:
        command = [
            str(ANSIBLE),
            "localhost",
            "-i",
            "localhost,",
            "-c",
            "local",
            "-m",
            f"gpuready.node.{module}",
        ]
        command += ["-e", f"ansible_python_interpreter={sys.executable}", "-a", json.dumps(params), *options]
        mounts = [
            f"mount --bind {self.place}/{there} {here}"
            for there, here in (("apt", "/etc/apt"), ("dpkg", "/var/lib/dpkg"), ("backups", "/var/backups"))
        ]
        script = " && ".join([*mounts, "exec " + shlex.join(command)])
        environment = {
            **os.environ,
            "ANSIBLE_CONFIG": str(self.place / "ansible.cfg"),
            "ANSIBLE_CALLBACK_RESULT_FORMAT": "json",
        }
        answer = subprocess.run(
            ["unshare", "-m", "sh", "-c", script], capture_output=True, text=True, env=environment
        )
        assert "=> {" in answer.stdout, answer.stderr
        found = answer.stdout[answer.stdout.index("=> {") + 3 :]
        result: dict[str, Any] = json.loads(found)
        return {**result, "failed": "FAILED!" in answer.stdout}


@pytest.fixture
def copy(tmp_path):
    return Copy(tmp_path)


def test_guard_and_holds_are_set_seen_and_taken_back(copy):
    guard = copy.place / "apt/apt.conf.d/52gpuready-nvidia"
    assert copy("apt_upgrade_guard", {"state": "present"}, "--check")["changed"] is True
    assert not guard.exists()
    assert copy("apt_upgrade_guard", {"state": "present"})["changed"] is True
    assert copy("apt_upgrade_guard", {"state": "present"})["changed"] is False
    assert copy("apt_hold", {"names": ["dpkg", "coreutils"]})["packages"] == ["dpkg", "coreutils"]
    assert copy("apt_hold", {"names": ["dpkg", "coreutils"]})["changed"] is False
    observed = copy("gpu_stack_info", {"timeout_seconds": 20})["gpu_stack"]["apt"]
    assert observed["unattended_upgrades"]["guard_file"] is True
    assert "libnvidia-" in observed["unattended_upgrades"]["blacklist"]
    assert {"dpkg", "coreutils"} <= set(observed["holds"])
    guard.write_text(guard.read_text().replace("libnvidia-", "libc6"))
    assert copy("apt_upgrade_guard", {"state": "present"})["changed"] is True
    assert copy("apt_upgrade_guard", {"state": "absent"})["changed"] is True
    assert not guard.exists()
    assert copy("apt_hold", {"names": ["dpkg"], "state": "unheld"})["held"] == ["coreutils"]
    failed = copy("apt_hold", {"names": ["no-such-package"]})
    assert failed["failed"] is True and "no-such-package" in failed["msg"]


def test_source_is_written_seen_and_removed(copy):
    keyring = next(iter(sorted(Path("/usr/share/keyrings").glob("*.gpg"))), None)
    if keyring is None:
        pytest.skip("needs a keyring to take a key from")
    from gpuready import openpgp

    pinned = openpgp.keys(keyring.read_bytes())[0].fingerprint
    old = copy.place / "apt/sources.list.d/old.list"
    old.write_text(
        "deb [signed-by=/a.gpg] https://x.example/deb/$(ARCH) /\n"
        "deb [signed-by=/b.gpg] https://x.example/deb/amd64 /\n"
    )
    params = {
        "name": "x",
        "uris": ["https://x.example/deb/$(ARCH)"],
        "suites": ["/"],
        "key_url": f"file://{keyring}",
        "key_fingerprint": [pinned],
    }
    refused = copy("apt_source", {**params, "key_fingerprint": ["0" * 40]})
    assert refused["failed"] is True and "0" * 40 in refused["msg"] and pinned in refused["msg"]
    assert len(copy("apt_source", params)["disabled"]) == 2
    assert copy("apt_source", params)["changed"] is False
    observed = copy("gpu_stack_info", {"timeout_seconds": 20})["gpu_stack"]
    source = next(entry for entry in observed["apt"]["sources"] if entry["enabled"])
    assert source["uris"] == params["uris"] and source["signed_by"] == "/etc/apt/keyrings/x.asc"
    assert source["fingerprints"] == [pinned]
    assert copy("apt_source", {"name": "x", "state": "absent"})["restored"] == [
        "/etc/apt/sources.list.d/old.list"
    ]
    assert "Disabled" not in old.read_text()
    assert not list((copy.place / "apt/keyrings").iterdir())


def test_observation_of_this_machine_keeps_the_contract(copy):
    from gpuready.observe import schema

    result = copy("gpu_stack_info", {"endpoints": [{"name": "nobody", "address": "127.0.0.1:1"}]}, "--check")
    assert result["changed"] is False
    assert schema.complaints(result["gpu_stack"]) == []
    assert result["gpu_stack"]["framework"]["endpoints"][0]["reachable"] is False
    wrong = copy("gpu_stack_info", {"endpoints": [{"name": "x", "address": "here"}]})
    assert wrong["failed"] is True and "'here' is not host:port" in wrong["msg"]
