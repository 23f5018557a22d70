"""Steps run in the order of their needs, side by side, with a line each."""

from __future__ import annotations

import io
import threading
from pathlib import Path

import pytest
from gpulab import progress
from gpulab.errors import LabError
from gpulab.progress import Step, run_steps
from gpulab.shell import run


def test_a_step_waits_for_what_it_needs(tmp_path: Path) -> None:
    order: list[str] = []
    steps = [
        Step("a", "first", lambda: order.append("a")),
        Step("b", "second", lambda: order.append("b"), ("a",)),
        Step("c", "third", lambda: order.append("c"), ("b",)),
    ]
    stream = io.StringIO()
    done = run_steps(steps, logs=tmp_path, stream=stream)
    assert order == ["a", "b", "c"]
    assert list(done) == ["a", "b", "c"]
    assert [line[:14] for line in stream.getvalue().splitlines()] == [
        "[1/3] first … ",
        "[2/3] second …",
        "[3/3] third … ",
    ]


def test_independent_steps_run_at_the_same_time(tmp_path: Path) -> None:
    barrier = threading.Barrier(2, timeout=5)
    steps = [Step(key, key, lambda: str(barrier.wait())) for key in ("a", "b")]
    assert set(run_steps(steps, logs=tmp_path, stream=io.StringIO())) == {"a", "b"}


def test_a_failure_stops_what_depends_on_it_and_is_named(tmp_path: Path) -> None:
    ran: list[str] = []

    def fail() -> str:
        raise LabError("no more disk")

    steps = [Step("a", "first", fail), Step("b", "second", lambda: ran.append("b"), ("a",))]
    stream = io.StringIO()
    with pytest.raises(LabError, match="no more disk"):
        run_steps(steps, logs=tmp_path, stream=stream)
    assert ran == []
    assert "[1/2] first … FAILED" in stream.getvalue()


def test_a_long_step_says_every_now_and_then_that_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "HEARTBEAT_SECONDS", 0.2)
    stream = io.StringIO()
    run_steps(
        [Step("a", "sleep", lambda: run(["sh", "-c", "echo unpacking; sleep 1"]))],
        logs=tmp_path,
        stream=stream,
    )
    assert "[1/1] sleep … still running, 0 s (unpacking)" in stream.getvalue()


def test_a_need_that_no_earlier_step_meets_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="step a needs"):
        progress.check_graph([Step("a", "first", lambda: None, ("b",)), Step("b", "second", lambda: None)])


def test_a_failing_commands_last_lines_reach_the_message(tmp_path: Path) -> None:
    steps = [Step("a", "first", lambda: run(["sh", "-c", "echo it broke here; exit 3"], what="building"))]
    with pytest.raises(
        LabError, match=r"building failed \(exit code 3\):\n    it broke here\n  whole log: .*01-a\.log"
    ):
        run_steps(steps, logs=tmp_path, stream=io.StringIO())
