"""Looking at GPUs and processes: of a made-up /proc, and of this machine's own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from gpuready import chain_probe, usage_processes, usage_sample
from gpuready.usage_processes import Processes

CONTAINER = "a" * 64
NODE = "b" * 64


def stat(pid: int, name: str, parent: int, cpu: int, started: int = 100, state: str = "S") -> str:
    zeros = " ".join(["0"] * 9)
    return f"{pid} ({name}) {state} {parent} {zeros} {cpu} 0 0 0 20 0 1 0 {started} 0 0\n"


class Proc:
    """A /proc of made-up processes."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.add(1, "systemd", 0, cgroup=f"/docker/{NODE}")

    def add(self, pid: int, name: str, parent: int = 1, cpu: int = 0, cgroup: str = "/", **more: Any) -> None:
        folder = self.root / str(pid)
        folder.mkdir(exist_ok=True)
        (folder / "stat").write_text(stat(pid, name, parent, cpu, **more))
        (folder / "cgroup").write_text(f"9:name=systemd:{cgroup}\n")

    @property
    def processes(self) -> Processes:
        return Processes(str(self.root))


@pytest.fixture
def proc(tmp_path: Path) -> Proc:
    return Proc(tmp_path)


def nvml(*processes: dict[str, Any], shares: dict[int, int] | None = None, use: int = 0, **more: Any) -> Any:
    gpu = {
        "index": 0,
        "name": "A100",
        "utilization_percent": use,
        "processes": list(processes),
        "error": None,
    }
    gpu.update(process_utilization=shares, **more)
    return lambda since_seconds: {"driver_version": "580.95.05", "gpus": [dict(gpu)], "error": None}


def test_stat_with_brackets_and_spaces_in_the_name() -> None:
    row = usage_processes.parse_stat(stat(7, "a) b (c", 1, 250, started=42), 100.0)
    assert row is not None
    assert (row.pid, row.name, row.parent, row.cpu_seconds, row.started) == (7, "a) b (c", 1, 2.5, 42)


@pytest.mark.parametrize("text", ["", "7 (x", "7 (x) S 1", "x (y) " + "0 " * 30])
def test_stat_that_is_none_is_no_row(text: str) -> None:
    assert usage_processes.parse_stat(text, 100.0) is None


def test_container_is_not_the_node_itself(proc: Proc) -> None:
    proc.add(10, "python3", cgroup=f"/docker/{NODE}/docker/{CONTAINER}")
    proc.add(11, "sshd", cgroup=f"/docker/{NODE}")
    proc.add(12, "python3", cgroup=f"/system.slice/docker-{CONTAINER}.scope")
    assert [proc.processes.container(pid) for pid in (10, 11, 12, 99)] == [CONTAINER, None, CONTAINER, None]


def test_descendants_are_found_and_circles_end(proc: Proc) -> None:
    for pid, parent in ((10, 1), (11, 10), (12, 11), (20, 1)):
        proc.add(pid, "x", parent)
    assert usage_processes.descendants(proc.processes.table(), [10]) == {10, 11, 12}
    assert usage_processes.descendants(proc.processes.table(), [99]) == set()


def test_look_joins_nvml_and_the_processes(proc: Proc) -> None:
    proc.add(10, "python3", cpu=100, cgroup=f"/docker/{CONTAINER}")
    asked = []

    def names() -> dict[str, str]:
        asked.append(1)
        return {CONTAINER: "training"}

    clock = iter([0.0, 2.0])
    read = nvml({"pid": 10, "type": "C", "memory_mib": 4000}, shares={10: 91})
    sampler = usage_sample.Sampler(read, proc.processes, names, lambda: next(clock))
    (row,) = sampler.look()["processes"]
    assert row["container"] == {"id": CONTAINER, "name": "training"}
    assert (row["sm_percent"], row["cpu_percent"]) == (91, None)
    proc.add(10, "python3", cpu=400, cgroup=f"/docker/{CONTAINER}")
    (row,) = sampler.look()["processes"]
    assert row["cpu_percent"] == 150.0  # three seconds of a CPU within two
    assert asked == [1], "Docker is asked once for a container"


def test_a_pid_that_is_used_again_has_no_cpu_of_its_predecessor(proc: Proc) -> None:
    proc.add(10, "python3", cpu=5000)
    clock = iter([0.0, 1.0])
    sampler = usage_sample.Sampler(
        nvml({"pid": 10, "type": "C", "memory_mib": 1}), proc.processes, dict, lambda: next(clock)
    )
    sampler.look()
    proc.add(10, "other", cpu=10, started=900)
    assert sampler.look()["processes"][0]["cpu_percent"] is None


def test_process_that_ended_meanwhile_is_kept_with_what_is_known(proc: Proc) -> None:
    sampler = usage_sample.Sampler(nvml({"pid": 77, "type": "C", "memory_mib": None}), proc.processes, dict)
    (row,) = sampler.look()["processes"]
    assert (row["name"], row["user"], row["container"], row["sm_percent"]) == (None, None, None, None)


def test_gpus_that_do_not_tell_are_named(proc: Proc) -> None:
    sampler = usage_sample.Sampler(nvml(processes=None), proc.processes, dict)
    assert sampler.look()["silent_gpus"] == [0]


@pytest.mark.parametrize(
    ("gpu", "hidden"),
    [
        ({"processes": None}, True),
        ({"processes": [], "utilization_percent": 90, "memory_used_mib": 8000}, True),
        ({"processes": [], "utilization_percent": 0, "memory_used_mib": 600}, False),  # the driver's own
        ({"processes": [], "utilization_percent": None, "memory_used_mib": None}, False),
        ({"processes": [{"pid": 1}], "utilization_percent": 90, "memory_used_mib": 8000}, False),
    ],
)
def test_gpu_that_works_for_nobody_hides_somebody(gpu: dict[str, Any], hidden: bool) -> None:
    assert usage_sample.hides(gpu) is hidden


def test_gpu_that_works_on_for_a_moment_hides_nobody(proc: Proc) -> None:
    left = nvml(shares={}, use=40, memory_used_mib=4000)
    assert watched(proc, [left, nvml(shares={})])["silent_gpus"] == []
    assert watched(proc, [left, left])["silent_gpus"] == [0]


def test_nvml_that_does_not_answer_ends_the_watch_at_once(proc: Proc) -> None:
    def read(since_seconds: float) -> dict[str, Any]:
        return {"driver_version": None, "gpus": None, "error": "Driver Not Loaded"}

    seen = usage_sample.watch(usage_sample.Sampler(read, proc.processes, dict), None, 60, 1)
    assert (seen["error"], seen["gpus"], seen["samples"]) == ("Driver Not Loaded", [], 1)


def watched(proc: Proc, reads: list[Any], subject: usage_sample.Subject | None = None) -> dict[str, Any]:
    """A watch of as many looks as there are answers, a second each."""
    now = [0.0]
    left = iter(reads)

    def sleep(seconds: float) -> None:
        now[0] += seconds

    sampler = usage_sample.Sampler(
        lambda since_seconds: next(left)(since_seconds), proc.processes, dict, lambda: now[0]
    )
    return usage_sample.watch(sampler, subject, len(reads) - 1, 1, lambda: now[0], sleep)


def test_means_and_peaks_over_the_time(proc: Proc) -> None:
    proc.add(10, "python3")
    job = {"pid": 10, "type": "C", "memory_mib": 100}
    reads = [
        nvml({**job}, shares={10: 0}, use=0),
        nvml({**job, "memory_mib": 900}, shares={10: 80}, use=90),
        nvml({**job}, shares={10: 40}, use=30),
    ]
    seen = watched(proc, reads)
    assert seen["gpus"][0]["utilization"] == {"mean": 40.0, "max": 90.0}
    (row,) = seen["processes"]
    assert row["sm_percent"] == {"mean": 40.0, "max": 80.0} and row["memory_mib"] == 900
    assert (seen["seconds"], seen["samples"]) == (2.0, 3)


def test_a_job_that_comes_for_a_moment_is_seen(proc: Proc) -> None:
    proc.add(10, "python3")
    reads = [
        nvml(shares={}),
        nvml({"pid": 10, "type": "C", "memory_mib": 5}, shares={10: 90}),
        nvml(shares={}),
    ]
    (row,) = watched(proc, reads)["processes"]
    assert row["sm_percent"] == {"mean": 30.0, "max": 90.0}


def test_subject_is_a_process_and_what_it_started(proc: Proc) -> None:
    proc.add(10, "bash", cpu=0)
    proc.add(11, "python3", 10, cpu=100)
    proc.add(20, "other", 1, cpu=100)
    subject = usage_sample.Subject(proc.processes, pid=10, asked="10")

    def later(since_seconds: float) -> Any:
        proc.add(11, "python3", 10, cpu=200)
        return nvml()(since_seconds)

    said = watched(proc, [nvml(), later], subject)["subject"]
    assert [row["pid"] for row in said["processes"]] == [10, 11]
    assert said["cpu_percent"] == 100.0 and said["running"]


def test_how_often_the_subject_was_ready_to_compute(proc: Proc) -> None:
    proc.add(10, "python3", state="R")
    subject = usage_sample.Subject(proc.processes, pid=10, asked="10")

    def later(since_seconds: float) -> Any:
        proc.add(10, "python3", state="S")
        return nvml()(since_seconds)

    assert watched(proc, [nvml(), nvml(), nvml(), later], subject)["subject"]["wants_cpu_percent"] == 75.0


def test_subject_that_ends_while_watched_is_told(proc: Proc) -> None:
    proc.add(10, "python3")
    subject = usage_sample.Subject(proc.processes, pid=10, asked="10")

    def gone(since_seconds: float) -> Any:
        proc.add(10, "new", started=999)  # the pid is used again
        return nvml()(since_seconds)

    said = watched(proc, [nvml(), gone], subject)["subject"]
    assert not said["running"] and [row["name"] for row in said["processes"]] == ["python3"]


def test_zombie_does_not_run(proc: Proc) -> None:
    proc.add(10, "python3", state="Z")
    assert not usage_sample.Subject(proc.processes, pid=10, asked="10").running


def test_container_has_what_was_started_in_it_later_too(proc: Proc) -> None:
    proc.add(10, "sh", cgroup=f"/docker/{CONTAINER}")
    proc.add(50, "python3", 1, cgroup=f"/docker/{CONTAINER}")  # docker exec
    proc.add(60, "python3", 1, cgroup=f"/docker/{'c' * 64}")
    container = {"id": CONTAINER, "name": "training", "running": True, "pid": 10}
    subject = usage_sample.Subject(proc.processes, container=container, asked="training")
    said = watched(proc, [nvml()], subject)["subject"]
    assert [row["pid"] for row in said["processes"]] == [10, 50]


# -- Docker's answers --------------------------------------------------------------------------------------


@pytest.fixture
def docker(monkeypatch: pytest.MonkeyPatch) -> dict[str, chain_probe.Answer]:
    answers: dict[str, chain_probe.Answer] = {}
    monkeypatch.setattr(chain_probe, "run", lambda argv, timeout: answers[argv[1]])
    return answers


def test_unknown_container_names_those_there_are(docker: dict[str, chain_probe.Answer]) -> None:
    docker["container"] = chain_probe.Answer(1, "[]", "Error: No such container: nope")
    docker["ps"] = chain_probe.Answer(0, "a\nb\n", "")
    with pytest.raises(usage_sample.UsageError, match=r"no container 'nope'; docker ps --all lists: a, b"):
        usage_sample.find_container("docker", "nope")


def test_docker_that_does_not_answer_is_told_in_its_words(docker: dict[str, chain_probe.Answer]) -> None:
    docker["container"] = chain_probe.Answer(1, "", "Cannot connect to the Docker daemon at unix:///x")
    with pytest.raises(usage_sample.UsageError, match="Cannot connect to the Docker daemon"):
        usage_sample.find_container("docker", "a")


def test_docker_that_hangs_is_told(docker: dict[str, chain_probe.Answer]) -> None:
    docker["container"] = chain_probe.Answer(None, "", "")
    with pytest.raises(usage_sample.UsageError, match="did not say within 20 s"):
        usage_sample.find_container("docker", "a")


def test_without_docker_there_is_no_container() -> None:
    with pytest.raises(usage_sample.UsageError, match="docker is not installed"):
        usage_sample.find_container(None, "a")


@pytest.mark.parametrize("paused", [True, False])
def test_paused_container_does_not_run(docker: dict[str, chain_probe.Answer], paused: bool) -> None:
    state = f'{{"Running": true, "Paused": {str(paused).lower()}, "Pid": 10}}'
    docker["container"] = chain_probe.Answer(
        0, f'[{{"Id": "{CONTAINER}", "Name": "/a", "State": {state}}}]', ""
    )
    assert usage_sample.find_container("docker", "a")["running"] is not paused


# -- this machine ------------------------------------------------------------------------------------------


def test_this_process_is_described() -> None:
    found = Processes().describe(os.getpid())
    assert found["pid"] == os.getpid() and found["name"] and found["user"]


def test_hidden_or_ended_process_is_null() -> None:
    assert Processes().describe(2**22 + 1) == {
        "pid": 2**22 + 1,
        "name": None,
        "user": None,
        "container_id": None,
    }


def test_a_busy_python_of_the_host_is_looked_into() -> None:
    """Its own interpreter says what it has; its environment is the one that counts."""
    job = subprocess.Popen(
        [sys.executable, "-c", "print(flush=True)\nwhile True: pass"],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1", "API_TOKEN": "a secret of the job"},
        stdout=subprocess.PIPE,
    )
    try:
        assert job.stdout is not None
        job.stdout.readline()
        processes = Processes()
        subject = usage_sample.Subject(processes, pid=job.pid, asked=str(job.pid))
        sampler = usage_sample.Sampler(nvml(), processes, dict)
        seen = usage_sample.watch(sampler, subject, 0.6, 0.2)
        usage_sample.add_program(seen, processes)
    finally:
        job.kill()
        job.wait()
    assert seen["subject"]["cpu_percent"] > 0  # how much is the machine's affair
    program = seen["subject"]["program"]
    assert (program["place"], program["env"]["CUDA_VISIBLE_DEVICES"]) == ("host", "-1")
    assert "a secret" not in repr(seen)


def test_owner_is_become_and_not_only_named(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else")
    become = usage_sample._as_owner(65534, 65534)
    assert become is not None
    done = subprocess.run(["id", "-u"], preexec_fn=become, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "65534"


def test_container_names_without_docker_are_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert usage_processes.container_names(None) == {}
    assert usage_processes.container_names(str(tmp_path / "no-docker")) == {}


def test_looking_costs_little() -> None:
    processes = Processes()
    started = time.monotonic()
    processes.table()
    assert time.monotonic() - started < 2


def test_a_program_that_is_no_python_has_its_environment() -> None:
    job = subprocess.Popen(["sleep", "60"], env={"CUDA_VISIBLE_DEVICES": "", "SECRET": "x"})
    try:
        found = usage_sample.look_into(job.pid, Processes())
    finally:
        job.kill()
        job.wait()
    assert found == {"place": "host", "name": None, "env": {"CUDA_VISIBLE_DEVICES": ""}}


def test_a_python_with_a_framework_says_which(tmp_path: Path) -> None:
    """A wheel for the CPU in a virtual environment, as pip leaves it there."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv")], check=True)
    (site,) = (tmp_path / "venv").glob("lib/python3*/site-packages")
    (site / "torch").mkdir()
    (site / "torch/version.py").write_text("__version__ = '2.5.1+cpu'\ncuda = None\nhip = None\n")
    (site / "torch-2.5.1+cpu.dist-info").mkdir()
    (site / "torch-2.5.1+cpu.dist-info/METADATA").write_text("Name: torch\n")
    command = [str(tmp_path / "venv/bin/python"), "-c", "import time; print(flush=True); time.sleep(60)"]
    job = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        assert job.stdout is not None
        job.stdout.readline()  # a program that has just begun has no words yet
        found = usage_sample.look_into(job.pid, Processes())
    finally:
        job.kill()
        job.wait()
    assert found is not None
    assert (found["name"], found["version"], found["cuda"], found["place"]) == (
        "pytorch",
        "2.5.1+cpu",
        False,
        "host",
    )
