"""The board's memory and what it shows, without a terminal."""

from __future__ import annotations

import re

import pytest
from gpuready import board as boards
from gpuready import board_view as views
from gpuready.board import Board
from gpuready.board_view import Look
from hypothesis import given
from hypothesis import strategies as st

SGR = re.compile(r"\x1b\[[0-9;]*m")
WIDE = Look(140, 30, colour=False)


def a_board(*hosts: str, **options) -> Board:
    board = Board("site.yml", 0.0, **options)
    board.begin_play("Provision the nodes", hosts or ["gpu01", "gpu02"])
    return board


def shown(board: Board, now: float, look: Look = WIDE) -> str:
    return "\n".join(SGR.sub("", line) for line in views.lines(board, look, now))


def row(board: Board, host: str, now: float, look: Look = WIDE) -> str:
    return next(line for line in shown(board, now, look).splitlines() if line.startswith(host))


# --- the memory -------------------------------------------------------------------------------------------


def test_stage_takes_the_time_of_its_tasks_and_not_the_waiting_between_them():
    board = a_board()
    board.begin_task("gpu01", "nvidia_driver", "Install", 10)
    board.end_task("gpu01", 14)
    board.begin_task("gpu01", "nvidia_driver", "Load", 30)
    board.end_task("gpu01", 31)
    board.begin_task("gpu01", "verify", "Ask the framework for its GPUs", 32)
    stages = board.nodes["gpu01"].stages
    assert (stages["nvidia_driver"].state, stages["nvidia_driver"].seconds(99)) == ("done", 5)
    assert (stages["verify"].state, stages["verify"].seconds(35)) == ("running", 3)


def test_stage_that_is_entered_again_goes_on_counting():
    board = a_board()
    for start in (0, 100):
        board.begin_task("gpu01", "observe", "Observe", start)
        board.end_task("gpu01", start + 2)
        board.begin_task("gpu01", "nvidia_driver", "Install", start + 10)
        board.end_task("gpu01", start + 11)
    assert board.nodes["gpu01"].stages["observe"].seconds(500) == 4


def test_task_of_no_stage_does_not_end_the_stage_and_its_failure_is_not_the_stages():
    board = a_board()
    board.begin_task("gpu01", "docker_engine", "Install", 0)
    board.end_task("gpu01", 1)
    board.begin_task("gpu01", "other", "Include", 1)
    board.end_task("gpu01", 2)
    assert board.nodes["gpu01"].stages["docker_engine"].state == "running"
    board.begin_task("gpu01", "other", "Stop", 2)
    board.fail("gpu01", "Stop: no", 3)
    assert board.nodes["gpu01"].stages["docker_engine"].state == "done"
    assert board.nodes["gpu01"].state == "failed"


def test_failure_is_forgiven_by_the_next_task_of_the_host():
    board = a_board()
    board.begin_task("gpu01", "nvidia_driver", "Install", 0)
    board.fail("gpu01", "Install: apt failed", 5)
    assert board.nodes["gpu01"].state == "failed" and "apt failed" in row(board, "gpu01", 6)
    board.begin_task("gpu01", "nvidia_driver", "Go back", 6)
    assert board.nodes["gpu01"].state == "running"
    board.finish([], 9)
    assert board.nodes["gpu01"].state == "done"
    assert board.nodes["gpu01"].stages["nvidia_driver"].state == "done"


def test_end_of_the_run_says_who_failed():
    board = a_board()
    board.begin_task("gpu01", "observe", "Observe", 0)
    board.fail("gpu01", "Observe: no", 1, unreachable=True)
    board.begin_task("gpu02", "observe", "Observe", 0)
    board.end_task("gpu02", 1)
    board.finish(["gpu01"], 2)
    assert board.counts() == {"failed": 1, "done": 1}
    assert "unreachable: Observe: no" in row(board, "gpu01", 5)
    assert board.nodes["gpu02"].elapsed(100) == 2


def test_plan_shows_what_is_ahead_and_a_newer_plan_replaces_it():
    board = a_board("gpu01")
    board.begin_task("gpu01", "observe", "Observe", 0)
    board.plan("gpu01", ["nvidia_driver", "docker_engine", "host_reboot"], 1)
    board.end_task("gpu01", 1)
    assert board.columns() == ["observe", "docker_engine", "nvidia_driver", "host_reboot"]
    assert "·" in row(board, "gpu01", 1)
    board.begin_task("gpu01", "docker_engine", "Install", 2)
    board.plan("gpu01", ["nvidia_driver"], 3)
    assert board.columns() == ["observe", "docker_engine", "nvidia_driver"]


def test_what_the_playbook_has_behind_the_plan_is_ahead_of_every_node():
    board = a_board("gpu01", "gpu02")
    board.final = ("verify",)
    board.begin_task("gpu01", "observe", "Observe", 0)
    for roles in (["nvidia_driver"], []):
        board.plan("gpu01", roles, 1)
    assert board.columns() == ["observe", "verify"]
    assert board.nodes["gpu01"].stages["verify"].state == "planned"
    # It was not verified: nobody had promised it.
    board.finish([], 5)
    assert board.columns() == ["observe"]


# --- progress and estimates -------------------------------------------------------------------------------

FETCH = {
    "step": "image_fetch",
    "done": 1024**3,
    "total": 4 * 1024**3,
    "unit": "bytes",
    "started": 1000.0,
    "updated": 1010.0,
    "text": "tensorflow",
}


def test_bytes_of_the_image_are_shown_with_share_and_time_left():
    board = a_board()
    board.begin_task("gpu01", "framework_image", "Wait for the images", 0)
    board.tell("gpu01", [FETCH], 10)
    line = row(board, "gpu01", 10)
    assert "1.0 GiB of 4.0 GiB · 25 %" in line and "≈ 30 s left" in line and "▶ 25%" in line
    # The clock goes on between two words of the node.
    assert "≈ 20 s left" in row(board, "gpu01", 20)


def test_image_that_comes_while_the_driver_installs_is_shown_beside_it():
    board = a_board("gpu01")
    board.begin_task("gpu01", "framework_image", "Begin to fetch the images", 0)
    board.end_task("gpu01", 1)
    board.begin_task("gpu01", "nvidia_driver", "Install the driver's packages", 1)
    apt = {
        "step": "apt",
        "done": 12,
        "total": 31,
        "unit": "packages",
        "started": 5.0,
        "updated": 11.0,
        "text": "Unpacking nvidia-utils-580-server",
    }
    board.tell("gpu01", [FETCH, apt], 12)
    line = row(board, "gpu01", 12, Look(200, 30, colour=False))
    assert "12 of 31 packages · 39 % · Unpacking nvidia-utils-580-server" in line
    assert line.index("12 of 31") < line.index("image: 1.0 GiB")
    assert "▶ 25%" in line and "▶ 39%" in line


def test_job_behind_the_tasks_goes_on_until_it_was_waited_for():
    board = a_board("gpu01")
    board.begin_task("gpu01", "framework_image", "Begin to fetch the images", 0)
    board.begin_job("gpu01", "j1", 1)
    board.end_task("gpu01", 1)
    board.begin_task("gpu01", "nvidia_driver", "Hold the driver", 1)
    assert row(board, "gpu01", 31).split()[1:5] == ["▶", "30s", "▶", "30s"]
    board.end_task("gpu01", 31)
    board.end_job("gpu01", "j1")
    board.begin_task("gpu01", "verify", "Ask", 31)
    assert row(board, "gpu01", 32).split()[1:5] == ["✔", "1s", "✔", "30s"]


def test_whole_that_nobody_knows_is_not_invented():
    board = a_board("gpu01")
    board.begin_task("gpu01", "framework_image", "Wait", 0)
    board.tell("gpu01", [{**FETCH, "total": None, "text": "3 of 12 layers"}], 10)
    line = row(board, "gpu01", 10)
    assert "1.0 GiB · 3 of 12 layers" in line and "%" not in line and "left" not in line


@pytest.mark.parametrize(
    "told",
    [
        {},
        {**FETCH, "done": "much"},
        {**FETCH, "started": None},
        {**FETCH, "step": 7},
        {**FETCH, "done": True},
        "text",
        None,
    ],
)
def test_progress_that_is_none_is_left_out(told):
    board = a_board("gpu01")
    board.begin_task("gpu01", "framework_image", "Wait", 0)
    board.tell("gpu01", [told], 10)
    assert board.nodes["gpu01"].progress == []
    assert "Wait" in row(board, "gpu01", 10)


def test_earlier_runs_say_how_long_a_stage_takes():
    usual = {"nvidia_driver": 100.0, "verify": 20.0}
    board = a_board("gpu01", expected=lambda _host, stage: usual.get(stage))
    board.begin_task("gpu01", "nvidia_driver", "Install", 0)
    board.plan("gpu01", ["verify"], 0)
    assert board.stage_left(board.nodes["gpu01"], 40) == 60
    assert board.left(40) == 80
    assert "≈ 60 s left" in row(board, "gpu01", 40) and "≈ 80 s left" in shown(board, 40).splitlines()[1]
    # It takes longer than usual: nobody knows how long.
    assert board.stage_left(board.nodes["gpu01"], 140) is None and board.left(140) is None
    assert "left" not in shown(board, 140)


def test_what_goes_on_behind_the_tasks_counts_for_the_whole_and_is_not_guessed():
    board = a_board("gpu01", expected=lambda _host, _stage: 10.0)
    board.begin_task("gpu01", "framework_image", "Begin", 0)
    board.begin_job("gpu01", "j1", 0)
    board.end_task("gpu01", 0)
    board.begin_task("gpu01", "nvidia_driver", "Install", 0)
    # Nobody knows how long the image takes; how long it was waited for in former runs is no answer.
    assert board.left(5) is None
    board.tell("gpu01", [FETCH], 5)
    assert board.left(5) == 30
    # The stage itself is not over before its usual time is.
    apt = {**FETCH, "step": "apt", "unit": "percent", "done": 99, "total": 100}
    board.tell("gpu01", [FETCH, apt], 5)
    assert board.stage_left(board.nodes["gpu01"], 5) == 5
    board.end_job("gpu01", "j1")
    assert board.left(5) == 5


def test_no_estimate_of_the_whole_where_a_part_is_unknown():
    board = a_board("gpu01", expected={("gpu01", "verify"): 5.0}.get and (lambda host, stage: None))
    board.begin_task("gpu01", "nvidia_driver", "Install", 0)
    assert board.left(5) is None


# --- the lines --------------------------------------------------------------------------------------------


def test_board_names_nodes_stages_tasks_and_times():
    board = a_board("gpu01", "gpu02", "gpu03")
    board.simulated = True
    board.begin_task("gpu01", "observe", "Observe", 0)
    board.end_task("gpu01", 2)
    board.begin_task("gpu01", "nvidia_driver", "Install the driver's packages", 2)
    board.begin_task("gpu02", "observe", "Observe", 0)
    board.fail("gpu02", "Observe: no route to host", 3, unreachable=True)
    lines = shown(board, 75).splitlines()
    assert lines[0] == ""
    assert lines[1] == (
        "site.yml · Provision the nodes · simulated GPUs · 1:15 · 3 nodes: 1 failed, 1 running, 1 not begun"
    )
    assert lines[2].split() == ["observe", "driver"]
    assert [" ".join(line.split()) for line in lines[3:]] == [
        "gpu01 ✔ 2s ▶ 73s Install the driver's packages · 1:13",
        "gpu02 ✘ 3s ✘ unreachable: Observe: no route to host",
        "gpu03 not begun",
    ]


def test_narrow_terminal_keeps_names_stages_and_the_task():
    board = a_board("gpu01")
    board.begin_task("gpu01", "observe", "Observe", 0)
    board.plan("gpu01", ["docker_engine", "nvidia_driver"], 1)
    board.begin_task("gpu01", "docker_engine", "Install Docker's packages", 2)
    lines = shown(board, 9, Look(50, 24, colour=False)).splitlines()
    assert lines[2] == "gpu01  ✔▶·  docker: Install Docker's packages · …"
    assert lines[2].startswith("gpu01") and max(map(len, lines)) < 50
    assert "gpu01" in shown(board, 9, Look(24, 24, colour=False))


def test_terminal_without_unicode_and_colour_says_the_same():
    board = a_board("gpu01", "gpu02")
    board.begin_task("gpu01", "observe", "Observe ✔", 0)
    board.fail("gpu01", "Observe: kaputt ✘", 1)
    text = "\n".join(views.lines(board, Look(100, 24, unicode=False, colour=False), 2))
    assert text.isascii() and "\x1b" not in text
    assert "X 1s" in text and "kaputt" in text


@pytest.mark.parametrize("rows", [4, 10, 24, 60])
@pytest.mark.parametrize("columns", [20, 60, 80, 200])
def test_board_of_500_hosts_fits_and_shows_failures_and_what_runs(rows, columns):
    names = [f"gpu{number:03}" for number in range(500)]
    board = a_board(*names)
    for place, name in enumerate(names[:40]):
        board.begin_task(name, "observe", "Observe", 0)
        if place < 3:
            board.fail(name, "Observe: broken", 2)
        elif place >= 20:
            board.end_task(name, 2)
    board.begin_task("gpu499", "nvidia_driver", "Install", 1)
    lines = shown(board, 9, Look(columns, rows, colour=False)).splitlines()
    assert len(lines) <= rows - 1
    assert all(views.width(line) < columns for line in lines)
    if rows >= 24:
        # There is room for all that failed, and for some of those that run.
        assert all(any(line.startswith(name) for line in lines) for name in ("gpu000", "gpu001", "gpu002"))
        assert any(line.startswith("gpu003") for line in lines)
        assert lines[-1].startswith("… and ")
        left_out = int(re.search(r"and (\d+) more", lines[-1])[1])
        assert left_out + sum(line.startswith("gpu") for line in lines) == 500


def test_many_failures_leave_room_for_what_runs():
    names = [f"gpu{number:03}" for number in range(100)]
    board = a_board(*names)
    for name in names:
        board.begin_task(name, "observe", "Observe", 0)
    for name in names[:90]:
        board.fail(name, "broken", 1)
    lines = shown(board, 5, Look(100, 24, colour=False)).splitlines()
    running = [line for line in lines if " ▶ " in line]
    assert len(running) == 10


def test_words_of_a_node_cannot_move_the_cursor():
    board = a_board("gpu01")
    board.begin_task("gpu01", "framework_image", "Wait\x1b[2J\r\nfor\tit", 0)
    board.tell("gpu01", [{**FETCH, "text": "\x1b]0;title\x07\x9b31m\u202eevil"}], 3)
    for line in views.lines(board, WIDE, 3):
        assert not re.search("[\x00-\x1f\x7f-\x9f\u202e]", SGR.sub("", line)), line
    board.fail("gpu01", "bad\x1b[31m\nsecond line", 4)
    assert "\x1b[31m" not in "\n".join(views.lines(board, Look(120, 24, colour=False), 5))


events = st.one_of(
    st.tuples(st.just("begin"), st.sampled_from(["observe", "nvidia_driver", "other", "my_role"])),
    st.tuples(st.sampled_from(["end", "fail", "retry", "finish"]), st.none()),
    st.tuples(st.just("plan"), st.lists(st.sampled_from(["nvidia_driver", "verify", "x"]), max_size=3)),
    st.tuples(
        st.just("tell"),
        st.fixed_dictionaries(
            {
                "step": st.sampled_from(["image_fetch", "apt", "dkms"]),
                "done": st.one_of(st.floats(), st.integers(), st.none()),
                "total": st.one_of(st.floats(), st.integers(), st.none()),
                "unit": st.text(max_size=5),
                "started": st.floats(0, 9),
                "updated": st.floats(0, 99),
                "text": st.text(),
            }
        ),
    ),
)


@given(
    st.lists(st.tuples(st.sampled_from(["a", "gpu-ü", "節点01"]), events), max_size=30),
    st.integers(1, 150),
    st.integers(1, 40),
    st.booleans(),
)
def test_whatever_happens_the_board_fits(happened, columns, rows, unicode):
    board = a_board("a", "gpu-ü", "節点01")
    for now, (host, (kind, value)) in enumerate(happened):
        if kind == "begin":
            board.begin_task(host, value, "Do it", now)
        elif kind == "end":
            board.end_task(host, now)
        elif kind == "fail":
            board.fail(host, "broken", now)
        elif kind == "retry":
            board.retry(host, 2, 3)
        elif kind == "plan":
            board.plan(host, value, now)
        elif kind == "tell":
            board.tell(host, [value], now)
        else:
            board.finish([host], now)
    found = views.lines(board, Look(columns, rows, unicode=unicode), len(happened) + 1)
    assert len(found) <= max(0, rows - 1)
    for line in found:
        assert views.width(SGR.sub("", line)) < max(2, columns), line
        assert line.count("\x1b[") == 2 * line.count("\x1b[0m")


def test_times_and_amounts_are_short():
    assert [views.short(value) for value in (0.2, 99, 100, 5900, 7300)] == ["0s", "99s", "2m", "98m", "2h"]
    assert [views.clock(value) for value in (7, 750, 3723)] == ["0:07", "12:30", "1:02:03"]
    assert [views.estimate(value) for value in (2, 31, 89, 200, 7000)] == [
        "a few s",
        "30 s",
        "90 s",
        "3 min",
        "1.9 h",
    ]
    assert [views.amount(value) for value in (900, 5 << 20, 3 << 30)] == ["1 KiB", "5.0 MiB", "3.0 GiB"]
    assert views.cut("節点01", 4) == "節…" and boards.Node("a").state == "new"
