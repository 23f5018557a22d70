"""The node's own program: what it writes, what it says, and what it does when something is missing."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from gpuready import observe
from gpuready.health import chain, program, sources, store, verifying
from test_exposition import read

NVML: dict[str, Any] = {"driver_version": "580.1", "cuda_version": "13.0", "gpus": [], "error": None}
EXPECTED: dict[str, Any] = {"gpus": None, "docker": {"runtime": "nvidia"}, "images": ["t:1"]}
OBSERVED: dict[str, Any] = {
    "problems": [],
    "container_runtime": {"docker": {"live": {"reachable": True, "runtimes": ["nvidia"]}}},
    "framework": {"images": [{"ref": "t:1", "id": "sha256:1"}]},
}
RESULT: dict[str, Any] = {
    "workload": "tf",
    "image": "t:1",
    "image_id": "sha256:1",
    "ok": True,
    "at": 1,
    "seconds": 3.4,
    "gpus_listed": 1,
    "findings": [],
}


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> program.Places:
    """A node with a configuration, a driver that answers and packages that stay."""
    (tmp_path / "textfiles").mkdir()
    (tmp_path / "run").mkdir()
    config = {
        "host": "node",
        "simulated": True,
        "textfile": str(tmp_path / "textfiles" / "gpuready.prom"),
        "expected": EXPECTED,
        "workloads": [],
        "package_wait_seconds": 1,
        "package_quiet_seconds": 0,
    }
    (tmp_path / "health.json").write_text(json.dumps(config))
    monkeypatch.setattr(os, "nice", lambda _by: 0)
    monkeypatch.setattr(sources, "nvml", lambda: json.loads(json.dumps(NVML)))
    monkeypatch.setattr(sources, "_kernel_log", lambda: "")
    monkeypatch.setattr(sources, "loaded_driver", lambda: {"version": "580.1", "flavour": "open"})
    monkeypatch.setattr(observe, "observe", lambda _node: json.loads(json.dumps(OBSERVED)))
    monkeypatch.setattr(chain, "packages", lambda: {"docker.io": "1 installed"})
    monkeypatch.setattr(chain, "LOCKS", ())
    monkeypatch.setattr(
        verifying, "verify", lambda _config, reason: {"ok": True, "reason": reason, "results": [RESULT]}
    )
    return program.Places(str(tmp_path / "health.json"), str(tmp_path / "state"), str(tmp_path / "run"))


def run(places: program.Places, *arguments: str) -> int:
    where = ["--config", places.config, "--state", places.state, "--run-directory", places.run]
    return program.main([*arguments, *where])


def textfile(places: program.Places) -> Path:
    return Path(places.run).parent / "textfiles" / "gpuready.prom"


def test_metrics_go_into_the_textfile_in_one_step(places: program.Places) -> None:
    assert run(places, "metrics") == 0
    assert read(textfile(places).read_text())["gpuready_nvml_up"] == [({}, 1.0)]
    assert oct(textfile(places).stat().st_mode)[-3:] == "644"
    assert [path.name for path in textfile(places).parent.iterdir()] == ["gpuready.prom"]


def test_metrics_tell_of_check_and_verification(places: program.Places) -> None:
    assert run(places, "check") == 0
    assert run(places, "verify") == 0
    assert run(places, "metrics") == 0
    metrics = read(textfile(places).read_text())
    assert metrics["gpuready_check_ok"] == [({}, 1.0)]
    assert metrics["gpuready_verify_ok"] == [({"workload": "tf"}, 1.0)]


def test_directory_that_went_away_is_one_clear_error(
    places: program.Places, capsys: pytest.CaptureFixture[str]
) -> None:
    textfile(places).parent.rmdir()
    assert run(places, "metrics") == 1
    error = capsys.readouterr().err
    assert str(textfile(places).parent) in error
    assert "gpu_health_textfile_directory" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("content", [None, "{", "[]"])
def test_configuration_that_is_missing_or_broken_is_one_clear_error(
    places: program.Places, capsys: pytest.CaptureFixture[str], content: str | None
) -> None:
    path = Path(places.config)
    path.unlink() if content is None else path.write_text(content)
    for verb in ("metrics", "check", "verify"):
        assert run(places, verb) == 1
        error = capsys.readouterr().err
        assert str(path) in error and "site.yml" in error
        assert error.count("\n") == 1


def test_state_that_was_damaged_is_made_anew(places: program.Places) -> None:
    Path(places.state).mkdir()
    for name in ("check", "verify"):
        Path(places.of(name)).write_text("half a fi")
    Path(places.run, "metrics.json").write_text("")
    assert run(places, "metrics") == 0
    assert "gpuready_check_ok" not in textfile(places).read_text()
    assert run(places, "check") == 0
    assert json.loads(Path(places.of("check")).read_text())["ok"] is True


def test_check_says_what_drifted(places: program.Places, capsys: pytest.CaptureFixture[str]) -> None:
    OBSERVED_NOW = json.loads(json.dumps(OBSERVED))
    OBSERVED_NOW["container_runtime"]["docker"]["live"]["runtimes"] = ["runc"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(observe, "observe", lambda _node: OBSERVED_NOW)
        assert run(places, "check") == 0  # that something was found out is no failure
        assert "docker_runtime is null, not nvidia" in capsys.readouterr().out
        assert run(places, "run") == 2  # but a person who asks gets it as the exit status


def test_an_image_that_was_replaced_after_its_verification_has_drifted(places: program.Places) -> None:
    store.write_json(places.of("verify"), {"results": [{**RESULT, "image_id": "sha256:former"}]})
    assert program.check(places)["ok"] is False


def test_a_driver_that_does_not_answer_is_no_good_check(
    places: program.Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "nvml", lambda: {**NVML, "gpus": None, "error": "Driver Not Loaded"})
    answer = program.check(places)
    assert answer["ok"] is False
    assert answer["nvml"] == {"up": False, "gpus": None, "errors": ["Driver Not Loaded"]}


def test_packages_that_did_not_change_start_no_verification(
    places: program.Places, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(places, "verify", "--if-packages-changed") == 0  # the first time: nothing is known yet
    before = Path(places.of("verify")).stat().st_mtime_ns
    assert run(places, "verify", "--if-packages-changed") == 0
    assert "no package of the chain has changed" in capsys.readouterr().out
    assert Path(places.of("verify")).stat().st_mtime_ns == before
    monkeypatch.setattr(chain, "packages", lambda: {"docker.io": "2 installed"})
    assert run(places, "verify", "--if-packages-changed", "--reason", "packages") == 0
    answer = json.loads(Path(places.of("verify")).read_text())
    assert (answer["reason"], answer["packages"]) == ("packages", {"docker.io": "2 installed"})


def test_a_change_during_the_verification_starts_another(
    places: program.Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    states = iter(["1", "2", "2", "2", "2"])
    monkeypatch.setattr(chain, "packages", lambda: {"docker.io": next(states)})
    ran: list[str] = []
    monkeypatch.setattr(
        verifying, "verify", lambda _config, reason: ran.append(reason) or {"ok": True, "results": []}
    )
    assert run(places, "verify") == 0
    assert len(ran) == 2


def test_a_lost_gpu_keeps_its_name_for_this_boot(
    places: program.Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gpuready.health.nvml_metrics import FIELDS

    gpu: dict[str, Any] = dict.fromkeys(FIELDS)
    gpu.update(index=0, uuid="GPU-1", name="Tesla T4", pci="0000:4b:00.0")
    monkeypatch.setattr(sources, "nvml", lambda: {**NVML, "gpus": [dict(gpu)]})
    run(places, "metrics")
    lost = dict.fromkeys(FIELDS)
    lost.update(index=0, error="GPU is lost")
    monkeypatch.setattr(sources, "nvml", lambda: {**NVML, "gpus": [dict(lost)]})
    monkeypatch.setattr(
        sources, "_kernel_log", lambda: "[   10.000000] NVRM: Xid (PCI:0000:4b:00): 79, fallen off the bus"
    )
    run(places, "metrics")
    metrics = read(textfile(places).read_text())
    who = {"gpu": "0", "uuid": "GPU-1", "name": "Tesla T4"}
    assert metrics["gpuready_gpu_up"] == [(who, 0.0)]
    assert metrics["gpuready_gpu_xid_errors_total"] == [({**who, "pci": "0000:4b:00.0", "xid": "79"}, 1.0)]


def test_the_service_tells_systemd_and_leaves_no_old_numbers(
    places: program.Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(address)
        systemd.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", address)
        monkeypatch.setattr(signal, "signal", lambda _number, handler: handlers.append(handler))
        handlers: list[Any] = []
        server = threading.Thread(target=lambda: program.serve(places, 1), daemon=True)
        server.start()
        assert systemd.recv(100) == b"READY=1"
        assert systemd.recv(100) == b"WATCHDOG=1"
        assert textfile(places).exists()
        handlers[0](signal.SIGTERM, None)
        server.join(5)
    assert not server.is_alive()
    assert not textfile(places).exists()


def test_the_service_complains_once_and_goes_on(
    places: program.Places, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(signal, "signal", lambda _number, handler: handlers.append(handler))
    handlers: list[Any] = []
    textfile(places).parent.rmdir()
    server = threading.Thread(target=lambda: program.serve(places, 0.01), daemon=True)
    monkeypatch.setattr(program, "max", lambda _least, _wait: 0.01, raising=False)
    server.start()
    time.sleep(0.3)
    textfile(places).parent.mkdir()
    deadline = time.monotonic() + 5
    while not textfile(places).exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    handlers[0](signal.SIGTERM, None)
    server.join(5)
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 2
    assert "is not there" in said[0]
    assert said[1] == "gpuready-health: the metrics are written again"


def test_packages_of_the_chain_are_read_from_dpkgs_status(tmp_path: Path) -> None:
    status = tmp_path / "status"
    status.write_text(
        "Package: nvidia-utils-580-server\nStatus: install ok installed\nVersion: 580.1-1\n\n"
        "Package: bash\nStatus: install ok installed\nVersion: 5.1\n\n"
        "Package: docker.io\nStatus: deinstall ok config-files\nVersion: 20.10\n\n"
        "Package: runc\nDescription: a Version: of\nStatus: hold ok unpacked\nVersion: 1.1\n"
    )
    assert chain.packages(str(status)) == {
        "nvidia-utils-580-server": "580.1-1 installed",
        "runc": "1.1 unpacked",
    }
    assert chain.packages(str(tmp_path / "none")) == {}


def test_a_change_of_packages_is_given_time_to_settle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    status = tmp_path / "status"
    monkeypatch.setattr(chain, "STATUS", str(status))
    monkeypatch.setattr(chain, "LOCKS", ())
    assert chain.wait_for_dpkg(0, quiet=100)  # no dpkg here: nothing to wait for
    status.touch()
    begun = time.monotonic()
    assert chain.wait_for_dpkg(5, quiet=0.4)
    assert 0.2 < time.monotonic() - begun < 5
    os.utime(status, (time.time() + 3600, time.time() + 3600))  # a clock that was set back
    assert chain.wait_for_dpkg(0, quiet=100)


def test_a_lock_is_asked_for_and_not_taken(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    path.touch()
    assert chain.locked(str(path)) is False
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import fcntl, sys, time\n"
            f"handle = open({str(path)!r}, 'w')\n"
            "fcntl.lockf(handle, fcntl.LOCK_EX)\nprint('held', flush=True)\ntime.sleep(30)",
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        assert chain.locked(str(path)) is True
    finally:
        holder.kill()
        holder.wait()
    assert chain.locked(str(path)) is False
    assert chain.locked(str(tmp_path / "none")) is False


def test_a_workload_is_judged_by_verifications_own_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = {
        "devices": [{"name": "/physical_device:GPU:0", "device_type": "GPU"}],
        "framework": {"name": "tensorflow", "version": "2.9.0", "cuda": "11.2"},
    }
    said = {
        "stdout": "GPUREADY-PROBE " + json.dumps(answer),
        "stderr": "a line",
        "exit_code": 0,
        "seconds": 2.0,
    }
    asked: list[Any] = []
    monkeypatch.setattr(verifying, "probe_text", lambda name: f"probe {name}")
    monkeypatch.setattr(
        verifying.probe_run,
        "probe_image",
        lambda *arguments: asked.append(arguments) or {**said, "image_id": "i"},
    )
    config: dict[str, Any] = {
        "host": "node",
        "simulated": True,
        "expected": {"gpus": 1},
        "workloads": [
            {
                "workload": "tensorflow-2.9",
                "image": "t:1",
                "python": None,
                "probe": "tensorflow",
                "level": "list",
                "launch": {"way": "gpus", "arguments": ["--gpus", "all"], "reason": ""},
                "expect": {"framework_version": "2.9", "cuda": "11.2"},
                "timeout_seconds": 60,
            }
        ],
    }
    found = verifying.verify(config, "by hand")
    assert found["ok"] is True and found["results"][0]["gpus_listed"] == 1
    assert asked[0][1:] == ("t:1", "probe tensorflow", "list", ["--gpus", "all"], 60)
    config["expected"]["gpus"] = 2
    (row,) = verifying.verify(config, "by hand")["results"]
    assert row["ok"] is False
    assert row["findings"][0]["finding"] == "the framework lists 1 of 2 GPUs"
    assert row["log"] == ["a line"]
