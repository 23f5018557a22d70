"""Workbenches on a node: real files below a temporary folder, and a Docker and a systemd of our own."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from gpuready import workbench_node
from gpuready.observe.node import Result
from gpuready.workbench_node import WorkbenchError, Workbenches

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="homes are given to others"),
    pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="there is no ssh-keygen"),
]

IMAGE = "gpuready/tf-notebook:0123456789ab"


class Machine:
    """Docker and systemd, as far as the module asks them."""

    def __init__(self) -> None:
        self.images = {IMAGE: "sha256:one"}
        self.containers: dict[str, dict[str, Any]] = {}
        self.enabled: set[str] = set()
        self.networks: set[str] = set()
        self.calls: list[str] = []
        self.broken: set[str] = set()  # configurations that do not start
        self.restarts: dict[str, int] = {}
        self.real_keys = False  # they take a while
        self.units: Path

    def run(self, argv: Sequence[str]) -> Result:
        if argv[0] == "ssh-keygen":
            if self.real_keys:
                done = subprocess.run(argv, capture_output=True, text=True, check=False)
                return Result(done.returncode, done.stdout, done.stderr)
            for end in ("", ".pub"):
                Path(argv[-1] + end).write_text(os.urandom(8).hex())
            return Result(0, "", "")
        self.calls.append(" ".join(argv))
        answer = {"docker": self.docker, "systemctl": self.systemctl}.get(argv[0])
        return answer(list(argv[1:])) if answer else Result(0, "the log\nthe log\nof it\n", "")

    def docker(self, words: list[str]) -> Result:
        name = words[-1]
        if words[:2] == ["image", "inspect"]:
            found = self.images.get(name)
            return Result(0, found + "\n", "") if found else Result(1, "", "Error: No such image: " + name)
        if words[:2] == ["container", "inspect"]:
            there = self.containers.get(name)
            return Result(0, json.dumps([there]), "") if there else Result(1, "", "No such container")
        if words[:2] == ["network", "inspect"]:
            return Result(0 if name in self.networks else 1, "", "")
        if words[:2] in (["network", "ls"], ["ps", "--all"]):
            names = self.networks if words[0] == "network" else self.containers
            return Result(0, "".join(name[len("gpuready-workbench-") :] + "\n" for name in names), "")
        if words[:2] == ["network", "rm"]:
            self.networks.discard(name)
        if words[0] == "rm":
            self.containers.pop(name, None)
        return Result(0, "", "")

    def systemctl(self, words: list[str]) -> Result:
        unit = words[-1]
        name = unit.partition(".service")[0]
        if words[0] == "is-enabled":
            return Result(0, "enabled\n" if unit in self.enabled else "disabled\n", "")
        if words[0] == "enable":
            self.enabled.add(unit)
        if words[0] == "disable":
            self.enabled.discard(unit)
            self.containers.pop(name, None)
        if words[0] == "stop":
            self.containers.pop(name, None)
        if words[0] == "show":
            if unit in self.restarts:
                self.restarts[unit] += 1
            return Result(0, f"{self.restarts.get(unit, 0)}\n", "")
        if words[0] == "restart":
            text = (self.units / unit).read_text()
            config, image = text.split()
            self.networks.add(name)
            if config in self.broken:
                self.restarts[unit] = 0
                self.containers.pop(name, None)
            else:
                self.restarts.pop(unit, None)
                labels = {workbench_node.LABEL_CONFIG: config}
                self.containers[name] = {
                    "State": {"Running": True},
                    "Config": {"Labels": labels},
                    "Image": self.images[image],
                }
        return Result(0, "", "")

    def did(self, words: str) -> int:
        return sum(call.startswith(words) for call in self.calls)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine()
    machine.units = tmp_path / "units"
    machine.units.mkdir()
    monkeypatch.setattr(workbench_node, "FOLDER", str(tmp_path / "etc" / "workbench"))
    monkeypatch.setattr(workbench_node, "FOLDER_ROOTS", (str(tmp_path / "etc" / "workbench"),))
    monkeypatch.setattr(workbench_node, "UNITS", str(machine.units))

    def silent(row: Any) -> str | None:
        return (
            None if "gpuready-workbench-" + row["name"] in machine.containers else "Jupyter does not answer"
        )

    monkeypatch.setattr(workbench_node, "silent", silent)
    return machine


def row_of(tmp_path: Path, name: str = "alice", config: str = "c1", **values: Any) -> dict[str, Any]:
    folder = tmp_path / "etc" / "workbench" / name
    unit = f"gpuready-workbench-{name}.service"
    place = {"address": "127.0.0.1", "port": 8888, "tls": False}
    row: dict[str, Any] = {
        "name": name,
        "image": IMAGE,
        "unit": unit,
        "container": "gpuready-workbench-" + name,
        "folder": str(folder),
        "home": str(tmp_path / "homes" / name),
        "uid": None,
        "config": config,
        "auth": "token",
        "secret_bytes": 32,
        "jupyter": place,
        "ssh": {"address": "127.0.0.1", "port": 2222},
        "tls": None,
        "files": [
            {"path": str(folder / "sshd_config"), "mode": "0644", "content": config + "\n"},
            {
                "path": str(folder / "workbench.json"),
                "mode": "0644",
                "content": json.dumps({"jupyter": place}),
            },
            {"path": str(tmp_path / "units" / unit), "mode": "0644", "content": f"{config} {IMAGE}\n"},
        ],
    }
    row.update(values)
    return row


def made(machine: Machine, *rows: dict[str, Any], **options: Any) -> Workbenches:
    benches = Workbenches(run=machine.run, sleep=lambda _seconds: None, **{"start_timeout": 5, **options})
    benches.present(rows)
    return benches


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_new_workbench_is_written_closed_and_started(machine: Machine, tmp_path: Path) -> None:
    benches = made(machine, row_of(tmp_path))
    folder = tmp_path / "etc" / "workbench" / "alice"
    assert mode_of(folder / "token") == 0o600 and len((folder / "token").read_text().strip()) == 43
    assert mode_of(folder.parent) == 0o700
    for kind in workbench_node.HOST_KEYS:
        assert mode_of(folder / "ssh_host_keys" / f"ssh_host_{kind}_key") == 0o600
        assert (folder / "ssh_host_keys" / f"ssh_host_{kind}_key.pub").is_file()
    home = tmp_path / "homes" / "alice"
    assert mode_of(home) == 0o700 and home.stat().st_uid >= workbench_node.FIRST_UID
    assert benches.homes_made == [str(home)]
    assert machine.enabled == {"gpuready-workbench-alice.service"}
    assert "gpuready-workbench-alice" in machine.containers
    assert not list(folder.glob(".*"))


def test_host_keys_are_real_ones(machine: Machine, tmp_path: Path) -> None:
    machine.real_keys = True
    made(machine, row_of(tmp_path))
    folder = tmp_path / "etc/workbench/alice/ssh_host_keys"
    for kind in workbench_node.HOST_KEYS:
        words = ["ssh-keygen", "-y", "-f", str(folder / f"ssh_host_{kind}_key")]
        public = subprocess.run(words, check=True, capture_output=True, text=True).stdout
        assert (folder / f"ssh_host_{kind}_key.pub").read_text().split()[:2] == public.split()[:2]


def test_second_run_changes_and_restarts_nothing(machine: Machine, tmp_path: Path) -> None:
    made(machine, row_of(tmp_path))
    before, machine.calls = everything(tmp_path), []
    assert made(machine, row_of(tmp_path)).changed == []
    assert everything(tmp_path) == before
    assert machine.did("systemctl restart") == machine.did("systemctl stop") == 0


def test_check_mode_says_it_and_does_nothing(machine: Machine, tmp_path: Path) -> None:
    benches = made(machine, row_of(tmp_path), check=True)
    assert benches.homes_made and any("started" in line for line in benches.changed)
    assert not (tmp_path / "etc").exists() and not (tmp_path / "homes").exists()
    assert machine.did("systemctl restart") == 0
    made(machine, row_of(tmp_path))
    assert made(machine, row_of(tmp_path), check=True).changed == []


def test_no_secret_is_told(machine: Machine, tmp_path: Path) -> None:
    benches = made(machine, row_of(tmp_path))
    token = (tmp_path / "etc/workbench/alice/token").read_text().strip()
    assert token not in "\n".join(benches.changed + machine.calls)


def test_everybody_has_an_id_of_their_own(machine: Machine, tmp_path: Path) -> None:
    made(machine, row_of(tmp_path), row_of(tmp_path, "bob"), row_of(tmp_path, "carol", uid=1234))
    owners = [(tmp_path / "homes" / name).stat().st_uid for name in ("alice", "bob", "carol")]
    assert len(set(owners)) == 3 and owners[2] == 1234


def test_home_that_is_there_stays_as_it_is(machine: Machine, tmp_path: Path) -> None:
    home = tmp_path / "homes" / "alice"
    home.mkdir(parents=True)
    os.chown(home, 4711, 4711)
    (home / "notes").write_text("mine")
    assert made(machine, row_of(tmp_path)).homes_made == []
    assert home.stat().st_uid == 4711 and (home / "notes").read_text() == "mine"
    with pytest.raises(WorkbenchError, match="belongs to 4711"):
        made(machine, row_of(tmp_path, uid=1234))


def test_home_of_root_and_no_folder_are_refused_before_anything_is_done(
    machine: Machine, tmp_path: Path
) -> None:
    home = tmp_path / "homes" / "alice"
    home.mkdir(parents=True)
    with pytest.raises(WorkbenchError, match="belongs to root"):
        made(machine, row_of(tmp_path))
    home.rmdir()
    home.symlink_to("/etc")
    with pytest.raises(WorkbenchError, match="is no folder"):
        made(machine, row_of(tmp_path))
    assert not (tmp_path / "etc").exists()


def test_another_key_restarts_nothing_but_another_configuration_does(
    machine: Machine, tmp_path: Path
) -> None:
    row = row_of(tmp_path)
    keys = {"path": row["folder"] + "/authorized_keys", "mode": "0644", "content": "ssh-ed25519 A\n"}
    made(machine, row)
    machine.calls = []
    made(machine, row_of(tmp_path, files=[*row["files"], keys]))
    assert machine.did("systemctl restart") == 0
    made(machine, row_of(tmp_path, config="c2"))
    assert machine.did("systemctl restart") == 1
    assert not Path(keys["path"]).exists()  # nobody wants it any more


def test_newer_image_of_the_name_is_taken(machine: Machine, tmp_path: Path) -> None:
    made(machine, row_of(tmp_path))
    machine.images[IMAGE] = "sha256:two"
    assert any("from the image" in line for line in made(machine, row_of(tmp_path)).changed)
    assert machine.containers["gpuready-workbench-alice"]["Image"] == "sha256:two"


def test_missing_image_changes_nothing(machine: Machine, tmp_path: Path) -> None:
    machine.images.clear()
    with pytest.raises(WorkbenchError, match="which the node does not have: Error: No such image"):
        made(machine, row_of(tmp_path))
    assert not (tmp_path / "etc").exists()


def test_host_keys_and_token_outlive_configurations(machine: Machine, tmp_path: Path) -> None:
    made(machine, row_of(tmp_path))
    folder = tmp_path / "etc/workbench/alice"
    kept = {path: path.read_bytes() for path in [*folder.glob("ssh_host_keys/*"), folder / "token"]}
    made(machine, row_of(tmp_path, config="c2", ssh=None))
    made(machine, row_of(tmp_path, config="c3"))
    assert len(kept) == 7
    assert {path: path.read_bytes() for path in kept} == kept


def test_short_token_is_made_anew_and_open_one_is_closed(machine: Machine, tmp_path: Path) -> None:
    made(machine, row_of(tmp_path))
    token = tmp_path / "etc/workbench/alice/token"
    good = token.read_text()
    token.chmod(0o644)
    machine.calls = []
    made(machine, row_of(tmp_path))
    assert (mode_of(token), token.read_text(), machine.did("systemctl restart")) == (0o600, good, 0)
    token.write_text("short\n")
    made(machine, row_of(tmp_path))
    assert len(token.read_text().strip()) == 43 and machine.did("systemctl restart") == 1
    before = token.read_text()
    made(machine, row_of(tmp_path), renew=True)
    assert token.read_text() != before


def test_password_is_kept_where_no_container_looks(machine: Machine, tmp_path: Path) -> None:
    made(machine, row_of(tmp_path))
    made(machine, row_of(tmp_path, auth="password", config="c2"))
    folder = tmp_path / "etc/workbench/alice"
    password = tmp_path / "etc/workbench-passwords/alice"
    digest = (folder / "password_hash").read_text()
    assert mode_of(password) == mode_of(folder / "password_hash") == 0o600
    assert mode_of(password.parent) == 0o700 and not (folder / "token").exists()
    assert workbench_node.is_digest_of(digest, password.read_text())
    assert not workbench_node.is_digest_of(digest, "guess") and not workbench_node.is_digest_of(None, "")
    machine.calls = []
    assert made(machine, row_of(tmp_path, auth="password", config="c2")).changed == []
    made(machine, row_of(tmp_path, config="c3"))
    assert not password.exists() and not (folder / "password_hash").exists()


def test_digest_is_what_jupyter_checks() -> None:
    """jupyter_server.auth.security.passwd_check: algorithm:salt:digest of passphrase and salt."""
    import hashlib

    algorithm, salt, digest = workbench_node.digest_of("geheim\n").strip().split(":")
    assert hashlib.new(algorithm, b"geheim" + salt.encode()).hexdigest() == digest


# --- what goes wrong ------------------------------------------------------------------------------


def test_configuration_that_does_not_start_is_put_back(machine: Machine, tmp_path: Path) -> None:
    made(machine, row_of(tmp_path))
    before = everything(tmp_path)
    machine.broken.add("c2")
    with pytest.raises(WorkbenchError) as caught:
        made(machine, row_of(tmp_path, config="c2", auth="password"))
    said = str(caught.value)
    assert "alice's workbench does not start: it ends again and again. It says:\nthe log\nof it" in said
    assert "alice's former workbench runs again" in said
    assert everything(tmp_path) == before
    assert (
        machine.containers["gpuready-workbench-alice"]["Config"]["Labels"][workbench_node.LABEL_CONFIG]
        == "c1"
    )


def test_new_workbench_that_does_not_start_leaves_nothing(machine: Machine, tmp_path: Path) -> None:
    machine.broken.add("c1")
    with pytest.raises(WorkbenchError, match="does not start"):
        made(machine, row_of(tmp_path))
    assert everything(tmp_path) == {} and machine.enabled == set() and machine.networks == set()
    assert not (tmp_path / "homes" / "alice").exists()


def test_the_others_start_all_the_same(machine: Machine, tmp_path: Path) -> None:
    machine.broken.add("bad")
    with pytest.raises(WorkbenchError, match="alice"):
        made(machine, row_of(tmp_path, config="bad"), row_of(tmp_path, "bob"))
    assert "gpuready-workbench-bob" in machine.containers


def test_silence_has_an_end(machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workbench_node, "silent", lambda _row: "Jupyter does not answer at 127.0.0.1:8888")
    with pytest.raises(WorkbenchError, match=r"Jupyter does not answer at 127\.0\.0\.1:8888 within 0 s"):
        made(machine, row_of(tmp_path), start_timeout=0)


def test_token_is_not_in_what_is_said_of_a_failed_start(machine: Machine, tmp_path: Path) -> None:
    made(machine, row_of(tmp_path))
    token = (tmp_path / "etc/workbench/alice/token").read_text().strip()
    answer = machine.run

    def telling(argv: Sequence[str]) -> Result:
        return Result(0, "open http://x/?token=" + token, "") if argv[0] == "journalctl" else answer(argv)

    machine.broken.add("c2")
    benches = Workbenches(run=telling, sleep=lambda _seconds: None, start_timeout=5)
    with pytest.raises(WorkbenchError) as caught:
        benches.present([row_of(tmp_path, config="c2")])
    assert token not in str(caught.value) and "token=***" in str(caught.value)


def test_ports_may_change_hands(machine: Machine, tmp_path: Path) -> None:
    rows = [row_of(tmp_path), row_of(tmp_path, "bob")]
    made(machine, *rows)
    machine.calls = []
    made(machine, row_of(tmp_path, config="c2"), row_of(tmp_path, "bob", config="c2"))
    order = [call for call in machine.calls if call.startswith(("systemctl stop", "systemctl restart"))]
    assert [call.split()[1] for call in order] == ["stop", "stop", "restart", "restart"]


def certificate(tmp_path: Path, name: str = "c") -> dict[str, str]:
    files = {"certificate": str(tmp_path / f"{name}.crt"), "key": str(tmp_path / f"{name}.key")}
    words = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    words += ["-subj", "/CN=node", "-keyout", files["key"], "-out", files["certificate"]]
    subprocess.run(words, check=True, capture_output=True)
    return files


@pytest.mark.skipif(shutil.which("openssl") is None, reason="there is no openssl")
def test_certificate_is_copied_and_followed(machine: Machine, tmp_path: Path) -> None:
    tls = certificate(tmp_path)
    made(machine, row_of(tmp_path, tls=tls))
    folder = tmp_path / "etc/workbench/alice"
    assert (folder / "tls.crt").read_bytes() == Path(tls["certificate"]).read_bytes()
    assert mode_of(folder / "tls.key") == 0o600
    certificate(tmp_path)
    machine.calls = []
    assert any(
        "another certificate, key" in line for line in made(machine, row_of(tmp_path, tls=tls)).changed
    )
    other = certificate(tmp_path, "other")
    with pytest.raises(WorkbenchError, match="cannot be used together"):
        made(machine, row_of(tmp_path, tls={**tls, "key": other["key"]}))
    with pytest.raises(WorkbenchError, match="gpu_workbench_tls_key is /nowhere, which cannot be read"):
        made(machine, row_of(tmp_path, tls={**tls, "key": "/nowhere"}))
    assert (folder / "tls.key").read_bytes() == Path(tls["key"]).read_bytes()


# --- taking away ----------------------------------------------------------------------------------


def test_absent_takes_all_but_the_home(machine: Machine, tmp_path: Path) -> None:
    made(machine, row_of(tmp_path, auth="password"), row_of(tmp_path, "bob"))
    benches = Workbenches(run=machine.run)
    assert benches.names() == ["alice", "bob"]
    benches.absent(["alice", "nobody"])
    assert benches.changed == ["took away the workbench of alice"]
    assert (tmp_path / "homes" / "alice").is_dir() and "gpuready-workbench-bob" in machine.containers
    assert not [path for path in everything(tmp_path / "etc") if "alice" in path]
    assert machine.enabled == {"gpuready-workbench-bob.service"}
    assert machine.networks == {"gpuready-workbench-bob"}


def test_what_is_left_without_any_file_is_found(machine: Machine) -> None:
    machine.containers["gpuready-workbench-carol"] = {"State": {"Running": True}}
    machine.networks = {"gpuready-workbench-dave", "gpuready-workbench-../etc"}
    benches = Workbenches(run=machine.run)
    assert benches.names() == ["carol", "dave"]
    benches.absent(benches.names())
    assert machine.containers == {} and machine.networks == {"gpuready-workbench-../etc"}


def test_homes_go_only_when_they_are_named(machine: Machine, tmp_path: Path) -> None:
    first = made(machine, row_of(tmp_path))
    benches = Workbenches(run=machine.run)
    benches.absent(benches.names())
    benches.remove_folders(first.folders_made)
    assert (tmp_path / "homes" / "alice").is_dir()  # not empty folders stay
    benches.remove_homes(first.homes_made)
    benches.remove_folders(first.folders_made)
    assert [path.name for path in tmp_path.iterdir()] == ["units"]


def test_absent_in_check_mode_does_nothing(machine: Machine, tmp_path: Path) -> None:
    made(machine, row_of(tmp_path))
    before = everything(tmp_path)
    benches = Workbenches(run=machine.run, check=True)
    benches.absent(benches.names())
    benches.remove_homes([str(tmp_path / "homes" / "alice")])
    assert len(benches.changed) == 2 and everything(tmp_path) == before
    assert (tmp_path / "homes" / "alice").is_dir()
