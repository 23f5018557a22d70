"""The verdict out of what was seen: never a guess."""

from __future__ import annotations

from typing import Any

import pytest
from gpuready import usage

A100 = {"index": 0, "uuid": "GPU-a", "name": "NVIDIA A100", "memory_total_mib": 81920, "error": None}


def gpu(index: int = 0, mean: float | None = 0.0, peak: float | None = None, **more: Any) -> dict[str, Any]:
    spread = None if mean is None else {"mean": mean, "max": mean if peak is None else peak}
    return {**A100, "index": index, "utilization": spread, **more}


def on_gpu(pid: int, share: float | None = 0.0, memory: int | None = 4000, **more: Any) -> dict[str, Any]:
    spread = None if share is None else {"mean": share, "max": share}
    return {
        "pid": pid,
        "name": "python3",
        "type": "C",
        "gpu": 0,
        "memory_mib": memory,
        "sm_percent": spread,
        **more,
    }


def member(pid: int, **more: Any) -> dict[str, Any]:
    base = {"pid": pid, "name": "python3", "user": "root", "cpu_percent": 100.0, "gpus": [], "libcuda": None}
    return {**base, "frameworks": [], **more}


def seen(
    *,
    gpus: list[dict[str, Any]] | None = None,
    rows: list[dict[str, Any]] | None = None,
    error: str | None = None,
    silent: list[int] | None = None,
    **subject: Any,
) -> dict[str, Any]:
    """What gpu_usage_info returns of the container `training` with the process 10."""
    base = {
        "kind": "container",
        "asked": "training",
        "running": True,
        "pid": None,
        "name": None,
        "user": None,
        "container": {"id": "c" * 64, "name": "training", "running": True, "exit_code": None},
        "processes": [member(10)],
        "cpu_percent": 100.0,
        "program": None,
    }
    return {
        "seconds": 5.0,
        "samples": 10,
        "gpus": [gpu()] if gpus is None else gpus,
        "processes": rows or [],
        "silent_gpus": silent or [],
        "error": error,
        "subject": {**base, **subject},
    }


def verdict(said: dict[str, Any], **more: Any) -> dict[str, Any]:
    return usage.judge(said, host="gpu01", **more)


def test_own_share_of_the_gpu_is_use() -> None:
    answer = verdict(seen(rows=[on_gpu(10, 91.0)], gpus=[gpu(mean=92.0)]))
    assert answer["verdict"] == "on_gpu" and usage.is_good(answer)
    assert answer["memory_mib"] == 4000
    assert answer["utilization_percent"]["mean"] == 92.0  # alone on it: NVML's samples of a process miss some
    assert [row["index"] for row in answer["gpus"]] == [0]


def test_another_job_on_the_same_gpu_does_not_count_as_use() -> None:
    answer = verdict(seen(rows=[on_gpu(10, 0.0), on_gpu(99, 95.0)], gpus=[gpu(mean=95.0)]))
    assert answer["verdict"] == "idle_on_gpu"
    assert answer["utilization_percent"] == {"mean": 0.0, "max": 0.0}


def test_shared_gpu_without_shares_is_unknown() -> None:
    answer = verdict(seen(rows=[on_gpu(10, None), on_gpu(99, None)], gpus=[gpu(mean=60.0)]))
    assert answer["verdict"] == "unknown"
    assert "does not tell how much of it is this job's" in " ".join(answer["because"])


def test_shared_gpu_that_nobody_uses_is_idle() -> None:
    assert verdict(seen(rows=[on_gpu(10, None), on_gpu(99, None)]))["verdict"] == "idle_on_gpu"


def test_alone_on_a_gpu_the_gpus_use_is_the_jobs() -> None:
    answer = verdict(seen(rows=[on_gpu(10, None)], gpus=[gpu(mean=40.0)]))
    assert answer["verdict"] == "on_gpu"
    assert "nobody else computes on it" in answer["because"][1]


def test_processes_of_one_job_add_up() -> None:
    rows = [on_gpu(10, 3.0), on_gpu(11, 4.0)]
    answer = verdict(seen(rows=rows, gpus=[gpu(mean=7.0)], processes=[member(10), member(11)]))
    assert answer["verdict"] == "on_gpu" and answer["memory_mib"] == 8000
    assert answer["utilization_percent"] == {"mean": 7.0, "max": 7.0}


def test_short_bursts_are_use() -> None:
    answer = verdict(seen(rows=[on_gpu(10, None)], gpus=[gpu(mean=0.6, peak=40.0)]))
    assert answer["verdict"] == "on_gpu"


def test_gpu_that_waits_for_the_cpu_is_told() -> None:
    answer = verdict(seen(rows=[on_gpu(10, 4.0)], gpus=[gpu(mean=4.0)], cpu_percent=800.0))
    assert answer["verdict"] == "on_gpu"
    assert any("keep the GPU waiting" in reason for reason in answer["because"])


def test_one_of_two_gpus_idle_is_told() -> None:
    rows = [on_gpu(10, 90.0), {**on_gpu(10, 0.0), "gpu": 1}]
    answer = verdict(seen(rows=rows, gpus=[gpu(0, 90.0), gpu(1, 0.0)]))
    assert answer["verdict"] == "on_gpu"
    assert "1 of its GPUs is not used at the moment" in answer["because"]


@pytest.mark.parametrize(("cpu", "expected"), [(99.8, "on_cpu"), (0.4, "idle"), (None, "unknown")])
def test_without_a_context_the_cpu_tells(cpu: float | None, expected: str) -> None:
    answer = verdict(seen(cpu_percent=cpu))
    assert answer["verdict"] == expected and not usage.is_good(answer)
    assert answer["memory_mib"] == 0


def test_job_that_starves_on_a_busy_cpu_is_not_idle() -> None:
    answer = verdict(seen(cpu_percent=0.8, wants_cpu_percent=90.0))
    assert answer["verdict"] == "on_cpu" and "gets 0.8 % of a busy core" in answer["because"][-1]


def test_drawing_is_not_computing() -> None:
    answer = verdict(seen(rows=[on_gpu(10, type="G")]))
    assert answer["verdict"] == "on_cpu" and "type G" in answer["because"][0]


def test_a_library_that_was_loaded_is_told() -> None:
    answer = verdict(seen(processes=[member(10, libcuda="/usr/lib/libcuda.so.580.95.05")]))
    assert any("a GPU was looked for, and none was taken" in reason for reason in answer["because"])


@pytest.mark.parametrize("error", ["Driver Not Loaded", "NVML Shared Library Not Found"])
def test_without_a_driver_it_is_the_cpu(error: str) -> None:
    assert verdict(seen(error=error, gpus=[]))["verdict"] == "on_cpu"


def test_mismatch_leaves_it_unknown_since_old_jobs_go_on() -> None:
    answer = verdict(seen(error="Driver/library version mismatch", gpus=[]))
    assert answer["verdict"] == "unknown" and answer["memory_mib"] is None


def test_gpus_that_hide_their_processes_leave_it_unknown() -> None:
    assert verdict(seen(silent=[0]))["verdict"] == "unknown"


def test_lost_gpu_leaves_it_unknown() -> None:
    answer = verdict(seen(gpus=[gpu(error="GPU is lost")], silent=[0]))
    assert answer["verdict"] == "unknown" and "GPU is lost" in answer["because"][0]


def test_ended_container_is_not_running() -> None:
    container = {"name": "training", "exit_code": 137, "finished_at": "2026-11-23T10:00:00.12Z"}
    answer = verdict(seen(running=False, container=container, processes=[]))
    assert answer["verdict"] == "not_running"
    assert answer["because"] == ["the container ended with exit code 137 at 2026-11-23T10:00:00"]


@pytest.mark.parametrize(("name", "said"), [(None, "there is no such process"), ("python3", "it has ended")])
def test_ended_process_is_not_running(name: str | None, said: str) -> None:
    answer = verdict(seen(kind="pid", asked="4711", running=False, name=name, container=None, processes=[]))
    assert answer["because"] == [said]


def diagnosis(*titles: str, status: str = "cause_found") -> dict[str, Any]:
    causes = [
        {"title": title, "standing": "root", "evidence": [f"saw {title}"], "fix": [f"undo {title}"]}
        for title in titles
    ]
    return {"status": status, "causes": causes}


def test_causes_are_named_with_evidence_and_fix() -> None:
    answer = verdict(seen(), diagnosis=diagnosis("the container was started without asking for a GPU"))
    assert "why: the container was started without asking for a GPU" in answer["because"]
    text = usage.render(answer)
    assert text.startswith("gpu01: container training computes on the CPU\n")
    assert "fix: undo the container" in text and "saw the container" in text


def test_healthy_container_on_the_cpu_does_not_ask_for_its_gpu() -> None:
    answer = verdict(seen(), diagnosis=diagnosis(status="healthy"))
    assert any("The program does not ask for it" in reason for reason in answer["because"])


def test_nothing_is_claimed_of_a_program_that_was_not_seen() -> None:
    said = seen(kind="pid", asked="4711", pid=4711, name="a.out", container=None)
    answer = verdict(said, diagnosis=diagnosis(status="healthy"))
    assert any("what the program is made of was not seen" in reason for reason in answer["because"])


def test_good_verdict_needs_no_reason() -> None:
    answer = verdict(seen(rows=[on_gpu(10, 90.0)]), diagnosis=diagnosis("something else"))
    assert not any(reason.startswith("why:") for reason in answer["because"])
    assert "fix" not in usage.render(answer)


def test_simulated_is_said() -> None:
    assert "gpu01 (simulated):" in usage.render(verdict(seen(), simulated=True))


def test_unknown_is_said_as_a_question() -> None:
    text = usage.render(verdict(seen(silent=[0])))
    assert text.startswith("gpu01: whether container training computes on the GPU cannot be told")


def test_process_in_a_container_is_named_with_it() -> None:
    said = seen(kind="pid", asked="10", pid=10, name="python3")
    assert usage.name_of(said["subject"]) == "process 10 (python3) in container training"


def test_same_seen_same_verdict_and_nothing_is_changed() -> None:
    said = seen(rows=[on_gpu(10, 90.0)])
    before = repr(said)
    assert verdict(said) == verdict(said)
    assert repr(said) == before
