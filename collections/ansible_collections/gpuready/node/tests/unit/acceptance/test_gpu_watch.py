"""What a watch sums up, and how it is begun and ended."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from gpuready import gpu_watch

LINE = "[{:12.6f}] NVRM: Xid (PCI:0000:3b:00): {}, pid='<unknown>', name=<unknown>, something"


def look(index: int, **changes: Any) -> dict[str, Any]:
    """A GPU as nvml_metrics reads it."""
    return {
        "index": index,
        "uuid": f"GPU-{index}",
        "name": "NVIDIA A100 80GB PCIe",
        "pci": "0000:3b:00.0",
        "temperature_c": 60,
        "power_watts": 100.0,
        "utilization_percent": 50,
        "memory_used_mib": 400,
        "clock_sm_mhz": 1410,
        "throttled": {"hw_slowdown": False, "sw_power_cap": False},
        "ecc": {"corrected": 0, "uncorrected": 0},
        "remapped_rows": {"corrected": 0, "uncorrected": 0, "pending": False, "failed": False},
        "error": None,
        **changes,
    }


def said(*gpus: dict[str, Any]) -> dict[str, Any]:
    return {"gpus": list(gpus), "error": None}


class Clock:
    """Time that passes when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def run(
    looks: list[dict[str, Any]],
    *,
    logs: list[str | None] | None = None,
    interval: float = 1.0,
    limit: float = 1000.0,
    slow: float = 0.0,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A watch that is told to end when its looks are used up."""
    clock, notes, left = Clock(), [], list(looks)
    texts = list(logs or [""])

    def read() -> dict[str, Any]:
        clock.now += slow
        return left.pop(0) if len(left) > 1 else left[0]

    watched = gpu_watch.watch(
        read,
        lambda: texts.pop(0) if len(texts) > 1 else texts[0],
        lambda: len(left) <= 1,
        notes.append,
        interval=interval,
        limit=limit,
        clock=clock,
        sleep=clock.sleep,
    )
    return watched, notes


def test_highest_and_mean_of_what_is_known() -> None:
    watched, _notes = run(
        [
            said(look(0, temperature_c=40, power_watts=None)),
            said(look(0, temperature_c=80)),
            said(look(0, temperature_c=60)),
            said(look(0, temperature_c=60)),
        ]
    )
    (gpu,) = watched["gpus"]
    assert gpu["temperature_c"] == {"max": 80.0, "mean": 60.0}
    assert gpu["power_watts"] == {"max": 100.0, "mean": 100.0}
    assert (watched["samples"], watched["ended"], watched["failures"]) == (4, "told", 0)
    assert json.loads(json.dumps(watched)) == watched


def test_time_of_lowered_clocks_is_counted() -> None:
    slow = look(0, throttled={"hw_slowdown": True, "sw_power_cap": False})
    watched, _notes = run([said(look(0)), said(slow), said(slow), said(look(0))])
    assert watched["gpus"][0]["throttled"] == {"hw_slowdown": 2.0}


def test_errors_that_came_up_are_told_from_those_before() -> None:
    watched, _notes = run(
        [
            said(look(0, ecc={"corrected": 4, "uncorrected": 1})),
            said(look(0, ecc={"corrected": 6, "uncorrected": 3})),
            said(look(0, ecc={"corrected": 6, "uncorrected": 3})),
        ]
    )
    (gpu,) = watched["gpus"]
    assert (gpu["ecc_uncorrected"], gpu["ecc_corrected"]) == (3, 6)
    assert gpu["ecc_new"] == {"uncorrected": 2, "corrected": 2}


def test_remapped_rows_that_came_up_are_told() -> None:
    rows = {"corrected": 0, "uncorrected": 1, "pending": False, "failed": False}
    watched, _notes = run(
        [said(look(0, remapped_rows=rows))]
        + [said(look(0, remapped_rows={**rows, "uncorrected": 3, "pending": True}))] * 2
    )
    assert watched["gpus"][0]["remapped_rows"] == {**rows, "uncorrected": 3, "pending": True, "new": 2}


@pytest.mark.parametrize(
    ("later", "lost"),
    [
        (said(look(0), look(1, uuid=None, error="GPU is lost")), "GPU is lost"),
        (said(look(0)), "the driver does not list it any more"),
    ],
)
def test_lost_gpu_is_told_by_its_own_name(later: dict[str, Any], lost: str) -> None:
    watched, _notes = run([said(look(0), look(1)), later, later])
    assert [gpu["lost"] for gpu in watched["gpus"]] == [None, lost]
    assert [gpu["uuid"] for gpu in watched["gpus"]] == ["GPU-0", "GPU-1"]


def test_gpu_that_comes_back_is_not_lost() -> None:
    gone = said(look(0), look(1, uuid=None, error="Unknown Error"))
    watched, _notes = run([said(look(0), look(1)), gone, said(look(0), look(1)), said(look(0), look(1))])
    assert watched["gpus"][1]["lost"] is None


def test_driver_that_does_not_answer_is_counted() -> None:
    silent = {"gpus": None, "error": "Driver/library version mismatch"}
    watched, _notes = run([said(look(0)), silent, silent, silent])
    assert (watched["samples"], watched["failures"]) == (1, 3)
    assert watched["error"] == "Driver/library version mismatch"


def test_only_new_xids_count() -> None:
    before = LINE.format(10.0, 13)
    watched, _notes = run(
        [said(look(0))] * 4, logs=[before, f"{before}\n{LINE.format(20.0, 79)}\n{LINE.format(20.5, 48)}"]
    )
    assert [xid["xid"] for xid in watched["xids"]] == [79, 48]
    assert watched["xids"][0]["pci"] == "0000:3b:00.0"
    assert watched["xids"][0]["line"].startswith("NVRM: Xid (PCI:0000:3b:00): 79")


def test_log_that_cannot_be_read_is_no_empty_log() -> None:
    watched, _notes = run([said(look(0))] * 3, logs=[None])
    assert watched["xids"] is None


def test_flood_of_xids_is_counted_and_quoted_in_part() -> None:
    flood = "\n".join(LINE.format(20.0 + number, 31) for number in range(200))
    watched, _notes = run([said(look(0))] * 3, logs=["", flood])
    assert (len(watched["xids"]), watched["xid_count"]) == (gpu_watch.XID_LINES, 200)


def test_longest_time_without_a_look_is_told() -> None:
    watched, _notes = run([said(look(0))] * 4, slow=7.0)
    assert watched["longest_gap_seconds"] >= 7.0


def test_nobody_ends_it_so_it_ends_itself() -> None:
    clock = Clock()
    watched = gpu_watch.watch(
        lambda: said(look(0)),
        lambda: "",
        lambda: False,
        lambda _what: None,
        interval=1.0,
        limit=12.0,
        clock=clock,
        sleep=clock.sleep,
    )
    assert watched["ended"] == "limit"
    assert 12.0 <= watched["seconds"] <= 13.5


def test_it_notes_what_it_saw_now_and_then() -> None:
    _watched, notes = run([said(look(0))] * 20)
    assert len(notes) >= 3
    assert all("ended" not in note for note in notes)


# -- begun and ended -------------------------------------------------------------------------------------


def begin(folder: Path, interval: float = 0.02) -> threading.Thread:
    """A watch in a thread, as the module runs it."""
    place = gpu_watch.Place("x", str(folder))
    place.take()

    def work() -> None:
        watched = gpu_watch.watch(
            lambda: said(look(0)), lambda: "", lambda: place.told, place.note, interval=interval, limit=60
        )
        place.note(watched)
        place.leave()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def test_ended_watch_tells_what_it_saw_and_leaves_nothing(tmp_path: Path) -> None:
    thread = begin(tmp_path)
    time.sleep(0.2)
    watched, problem = gpu_watch.Place("x", str(tmp_path)).finish()
    thread.join(5)
    assert problem is None and watched is not None
    assert watched["ended"] == "told" and watched["samples"] > 2
    assert list(tmp_path.iterdir()) == []


def test_no_watch_is_said(tmp_path: Path) -> None:
    watched, problem = gpu_watch.Place("x", str(tmp_path)).finish()
    assert watched is None and "there was no watch" in str(problem)


def test_watch_that_died_is_found_out(tmp_path: Path) -> None:
    """Its process is gone, and so is its lock; what it had noted is still there."""
    child = os.fork()
    if child == 0:
        place = gpu_watch.Place("x", str(tmp_path))
        place.take()
        place.note({"seconds": 12.0, "samples": 12, "gpus": []})
        os._exit(9)
    os.waitpid(child, 0)
    watched, problem = gpu_watch.Place("x", str(tmp_path)).finish()
    assert watched is not None and watched["ended"] == "died"
    assert problem == "the watch died after 12 s"
    assert list(tmp_path.iterdir()) == []


def test_next_watch_ends_the_one_before(tmp_path: Path) -> None:
    thread = begin(tmp_path)
    second = gpu_watch.Place("x", str(tmp_path))
    second.take(patience=5)
    thread.join(5)
    assert not thread.is_alive()
    assert not second.told, "what ended the first one is not for the second"
    second.leave()


def test_watch_that_does_not_end_is_an_error(tmp_path: Path) -> None:
    stubborn = gpu_watch.Place("x", str(tmp_path))
    stubborn.take()
    with pytest.raises(gpu_watch.Busy, match="did not end within"):
        gpu_watch.Place("x", str(tmp_path)).take(patience=0.2)
    stubborn.leave()
