# Copyright: gpuready contributors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

DOCUMENTATION = r"""
---
name: board
type: stdout
short_description: A live board of nodes and stages on a terminal, Ansible's default output everywhere else
version_added: "0.6.0"
description:
  - On a terminal, shows in the last lines what every node is doing - its stages with the time they took, the
    current task, how far a long step is and how long it will take - and prints above them, at once and in the
    words of P(ansible.builtin.default#callback), what failed, warnings, differences and messages.
  - Without a terminal, in CI (E(CI)), with C(-v) or more, on a terminal that cannot move its cursor
    (E(TERM) is C(dumb) or not set), and with O(mode=off) it is P(ansible.builtin.default#callback) itself.
  - What the default output would have said of the tasks that went well still goes to the log file
    (C(log_path)), if there is one.
options:
  mode:
    description: V(off) for Ansible's default output on terminals as well.
    type: str
    choices: [auto, "off"]
    default: auto
    env:
      - name: GPUREADY_BOARD
    ini:
      - section: gpuready
        key: board
  artifacts_dir:
    description:
      - Folder of former runs' reports, from which the board knows how long a stage takes. By default
        C(artifacts) beside C(site.yml) or, where there is none above the playbook, beside the playbook.
    type: path
    env:
      - name: GPUREADY_ARTIFACTS_DIR
    ini:
      - section: gpuready
        key: artifacts_dir
extends_documentation_fragment:
  - default_callback
  - result_format_callback
author:
  - gpuready contributors (@gpuready)
requirements:
  - set as C(stdout_callback) in C(ansible.cfg)
"""

import atexit
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ansible import constants as C
from ansible import context
from ansible.plugins.callback.default import CallbackModule as Default
from ansible.plugins.loader import callback_loader
from ansible.utils.color import ANSIBLE_COLOR
from ansible.utils.display import Display
from ansible_collections.gpuready.node.plugins.module_utils import (
    board_channel,
    board_screen,
    board_view,
    stage_history,
    stages,
)
from ansible_collections.gpuready.node.plugins.module_utils.board import Board

#: How often the board is drawn while something happens, and how often when only time passes.
FRAME_SECONDS = 0.25
#: What comes when everything that a plan names is done.
FINAL_ROLES = ("gpu_verify", "gpu_acceptance")
PLAN_ACTIONS = {"gpuready.node.gpu_plan"}
FIRST_WORDS = re.compile(r"\S.*")
#: What Ansible puts before the words of those who know.
WRAPPING = re.compile(r"^(?:Task failed: )?(?:.*Make sure this host can be reached over ssh: (?=\S))?")
#: As in the report.
SPEAKING_ACTIONS = {"assert", "container_gpu_probe", "fail", "gpu_diagnose", "gpu_plan"}


def _wanted(mode: str) -> bool:
    """Whether somebody is looking at a terminal that can show a board."""
    arguments = context.CLIARGS or {}
    return (
        mode != "off"
        and os.environ.get("CI", "").lower() not in ("1", "true", "yes")
        and os.environ.get("TERM", "dumb") not in ("", "dumb", "unknown")
        and sys.stdout.isatty()
        and Display().verbosity == 0
        and not C.DEFAULT_DEBUG
        # Of ansible-playbook alone: `ansible` and `ansible-console` show results, not a run.
        and "start_at_task" in arguments
    )


class Quiet:
    """Ansible's display for tasks that went well: their lines go to the log file only."""

    def __init__(self, display: Any) -> None:
        self._real = display

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def display(self, msg: str, *args: Any, **options: Any) -> None:
        if not options.pop("screen_only", False):
            self._real.display(msg, *args, **{**options, "log_only": True})

    def banner(self, msg: str, *args: Any, **options: Any) -> None:
        Display.banner(self, msg, *args, **options)  # type: ignore[arg-type]


class Live:
    """The board on the terminal: draws it, and steps aside for everything else that Ansible writes."""

    def __init__(self, display: Any, board: Board) -> None:
        self.display, self.board = display, board
        self.screen = board_screen.Screen(sys.stdout)
        self.lock = threading.Lock()  # the board's
        self._aside = 0
        self._over = threading.Event()
        self._replaced: list[str] = []
        self._unicode = _speaks_unicode()
        self._thread = threading.Thread(target=self._draw, name="gpuready-board", daemon=True)

    # --- life ---------------------------------------------------------------------------------------------

    def start(self) -> None:
        self._replace("display", self._wrapped_display)
        for name in ("prompt_until", "prompt", "do_var_prompt"):
            self._replace(name, self._stepping_aside)
        setattr(self.display, board_channel.LIVE, True)
        # A process of a task has the board's memory and must not draw it; but it knows that there is one.
        os.register_at_fork(after_in_child=self._give_back)
        atexit.register(self.close)
        signal.signal(signal.SIGCONT, self.screen.lose)
        self._thread.start()

    def close(self) -> None:
        """Leave the last state as ordinary text. Also when the run was interrupted."""
        if self._over.is_set():
            return
        self._over.set()
        with self.display._lock:
            self.screen.erase()
            self._give_back()
            self.display.__dict__.pop(board_channel.LIVE, None)
            self.board.ended = self.board.ended or "interrupted"
            lines = self.lines(final=True)
            if lines and self.screen.may_paint():
                self.screen.stream.write("".join(f"{line}\n" for line in lines))
                self.screen.stream.flush()

    def _give_back(self) -> None:
        """Ansible's display as it was. Touches no lock: in a new process, nobody would ever let go of it."""
        for name in self._replaced:
            self.display.__dict__.pop(name, None)
        self._replaced = []

    def _replace(self, name: str, wrapper: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
        setattr(self.display, name, wrapper(getattr(self.display, name)))
        self._replaced.append(name)

    # --- drawing ------------------------------------------------------------------------------------------

    def lines(self, *, final: bool = False) -> list[str]:
        columns, rows = self.screen.size()
        look = board_view.Look(columns, max(rows, 60) if final else rows, self._unicode, bool(ANSIBLE_COLOR))
        with self.lock:
            return board_view.lines(self.board, look, time.monotonic())

    def _draw(self) -> None:
        size = self.screen.size()
        while not self._over.wait(FRAME_SECONDS):
            # A window that is being dragged is left alone until it has its new size.
            now, size = size, self.screen.size()
            if now == size:
                self.paint()

    def paint(self) -> None:
        # Ansible starts the tasks' processes under this lock: none is born in the middle of a line.
        with self.display._lock:
            if not self._over.is_set() and not self._aside:
                self.screen.paint(self.lines())

    # --- what else is written -----------------------------------------------------------------------------

    def _wrapped_display(self, original: Callable[..., None]) -> Callable[..., None]:
        def display(msg: Any, *args: Any, **options: Any) -> None:
            hidden = options.get("screen_only") and options.get("log_only")
            if hidden and isinstance(msg, str):
                told = board_channel.read_message(msg)
                if told is not None:
                    with self.lock:
                        self.board.tell(*told, time.monotonic())
                    return
            if options.get("log_only"):
                original(msg, *args, **options)
                return
            with self.display._lock:
                shown = self.screen.visible
                self.screen.erase()
                original(msg, *args, **options)
                newline = options.get("newline", True)
                self.screen.above(f"{msg}\n" if newline else str(msg))
                sys.stdout.flush()
                if shown and not self._aside:
                    self.screen.paint(self.lines())

        return display

    def _stepping_aside(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """For what asks a person: the board is away until there is an answer."""

        def ask(*args: Any, **options: Any) -> Any:
            with self.display._lock:
                self._aside += 1
                self.screen.erase()
            try:
                return original(*args, **options)
            finally:
                with self.display._lock:
                    self._aside -= 1

        return ask


def _speaks_unicode() -> bool:
    if os.environ.get("TERM") == "linux":  # the text console's font has no check marks
        return False
    try:
        "✔✘▶…≈·".encode(sys.stdout.encoding or "ascii")
    except (LookupError, UnicodeEncodeError):
        return False
    return True


class CallbackModule(Default):
    """The default callback, which on a terminal draws a board instead of a line per task."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "stdout"
    CALLBACK_NAME = "gpuready.node.board"

    def __init__(self) -> None:
        self._live: Live | None = None
        self._shown_banner: str | None = None
        if type(self) is not CallbackModule:  # ansible-runner builds its own callback upon this one
            super().__init__()
            return
        if not _wanted(
            C.config.get_config_value("mode", plugin_type="callback", plugin_name=self._load_name)
        ):
            become_default(self)
            return
        super().__init__()
        self._real: Any = Display()
        self._live = Live(self._real, Board("", time.monotonic()))

    # --- the run ------------------------------------------------------------------------------------------

    def v2_playbook_on_start(self, playbook: Any) -> None:
        if self._live is not None:
            path = Path(playbook._file_name)
            board = self._live.board
            board.title, board.started = path.name, time.monotonic()
            board.check_mode = bool(context.CLIARGS.get("check"))
            board.final = _final_stages(playbook)
            board.expected = stage_history.History(self._artifacts(path)).seconds
            self._live.start()
        super().v2_playbook_on_start(playbook)

    def v2_playbook_on_play_start(self, play: Any) -> None:
        if self._live is not None and str(play.strategy).rpartition(".")[2] == "debug":
            # It asks on the terminal by itself.
            self._stop()
        if self._live is None:
            super().v2_playbook_on_play_start(play)
            return
        with self._live.lock:
            self._live.board.begin_play(play.get_name().strip(), _hosts(play))
        self._quietly(super().v2_playbook_on_play_start, play)

    def v2_playbook_on_stats(self, stats: Any) -> None:
        if self._live is not None:
            bad = [host for host in stats.processed if stats.failures.get(host) or stats.dark.get(host)]
            with self._live.lock:
                self._live.board.finish(bad, time.monotonic())
            self._stop()
        super().v2_playbook_on_stats(stats)

    def _stop(self) -> None:
        assert self._live is not None
        self._live.close()
        self._live = None

    def _artifacts(self, playbook: Path) -> Path:
        chosen = self.get_option("artifacts_dir")
        if chosen:
            return Path(chosen)
        folder = playbook.absolute().parent
        root = next((above for above in (folder, *folder.parents) if (above / "site.yml").is_file()), folder)
        return root / "artifacts"

    # --- tasks --------------------------------------------------------------------------------------------

    def v2_playbook_on_task_start(self, task: Any, is_conditional: bool) -> None:
        self._task_begins(super().v2_playbook_on_task_start, task, is_conditional)

    def v2_playbook_on_handler_task_start(self, task: Any) -> None:
        self._task_begins(super().v2_playbook_on_handler_task_start, task)

    def _task_begins(self, default: Callable[..., None], task: Any, *args: Any) -> None:
        if self._live is not None and getattr(task, "debugger", None) in (
            "always",
            "on_failed",
            "on_skipped",
        ):
            self._stop()
        if self._live is None:
            default(task, *args)
        else:
            self._quietly(default, task, *args)

    def v2_runner_on_start(self, host: Any, task: Any) -> None:
        if self._live is None:
            super().v2_runner_on_start(host, task)
            return
        name, stage = _name(task), _stage(task)
        with self._live.lock:
            self._live.board.begin_task(host.get_name(), stage, name, time.monotonic())
        self._quietly(super().v2_runner_on_start, host, task)

    def v2_runner_on_ok(self, result: Any) -> None:
        if self._live is None:
            super().v2_runner_on_ok(result)
            return
        self._ended(result, changed=bool(result.result.get("changed")))
        self._take_plan(result)
        self._take_job(result)
        # `debug` is for people.
        if result.result.get("_ansible_verbose_always") and not result.result.get(
            "_ansible_verbose_override"
        ):
            self._aloud(super().v2_runner_on_ok, result)
        else:
            self._quietly(super().v2_runner_on_ok, result)

    def v2_runner_on_skipped(self, result: Any) -> None:
        if self._live is None:
            super().v2_runner_on_skipped(result)
            return
        self._ended(result)
        self._quietly(super().v2_runner_on_skipped, result)

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        if self._live is None:
            super().v2_runner_on_failed(result, ignore_errors)
            return
        if ignore_errors:
            self._ended(result)
        else:
            self._failed(result, unreachable=False)
        self._aloud(super().v2_runner_on_failed, result, ignore_errors)

    def v2_runner_on_unreachable(self, result: Any) -> None:
        if self._live is None:
            super().v2_runner_on_unreachable(result)
            return
        self._failed(result, unreachable=True)
        self._aloud(super().v2_runner_on_unreachable, result)

    def v2_runner_retry(self, result: Any) -> None:
        if self._live is None:
            super().v2_runner_retry(result)
            return
        answer = result.result
        with self._live.lock:
            self._live.board.retry(
                result.host.get_name(), int(answer["attempts"]) + 1, int(answer["retries"])
            )
        self._quietly(super().v2_runner_retry, result)

    def v2_runner_item_on_ok(self, result: Any) -> None:
        if self._live is None:
            super().v2_runner_item_on_ok(result)
        elif result.result.get("_ansible_verbose_always"):
            self._aloud(super().v2_runner_item_on_ok, result)
        else:
            self._quietly(super().v2_runner_item_on_ok, result)

    def v2_runner_item_on_skipped(self, result: Any) -> None:
        self._either(super().v2_runner_item_on_skipped, result)

    def v2_playbook_on_include(self, included_file: Any) -> None:
        self._either(super().v2_playbook_on_include, included_file)

    def v2_runner_on_async_poll(self, result: Any) -> None:
        self._either(super().v2_runner_on_async_poll, result)

    def v2_runner_on_async_ok(self, result: Any) -> None:
        self._either(super().v2_runner_on_async_ok, result)

    def v2_runner_item_on_failed(self, result: Any) -> None:
        self._either(super().v2_runner_item_on_failed, result, aloud=True)

    def v2_on_file_diff(self, result: Any) -> None:
        self._either(super().v2_on_file_diff, result, aloud=True)

    # --- what is said -------------------------------------------------------------------------------------

    def _either(self, default: Callable[..., None], argument: Any, *, aloud: bool = False) -> None:
        if self._live is None:
            default(argument)
        elif aloud:
            self._aloud(default, argument)
        else:
            self._quietly(default, argument)

    def _quietly(self, default: Callable[..., None], *args: Any) -> None:
        """As the default callback would, for the log file. Warnings and errors are still shown."""
        self._display = Quiet(self._real)
        try:
            default(*args)
        finally:
            self._display = self._real

    def _aloud(self, default: Callable[..., None], result: Any, *args: Any) -> None:
        """As the default callback would, with the task's heading, which has not been shown so far."""
        task = result.task
        if self._last_task_banner == task._uuid and self._shown_banner != task._uuid:
            super()._print_task_banner(task)
        self._shown_banner = task._uuid
        default(result, *args)

    # --- what the board is told ---------------------------------------------------------------------------

    def _ended(self, result: Any, *, changed: bool = False) -> None:
        assert self._live is not None
        with self._live.lock:
            self._live.board.end_task(result.host.get_name(), time.monotonic(), changed=changed)

    def _failed(self, result: Any, *, unreachable: bool) -> None:
        assert self._live is not None
        with self._live.lock:
            self._live.board.fail(
                result.host.get_name(), _cause(result), time.monotonic(), unreachable=unreachable
            )

    def _take_job(self, result: Any) -> None:
        """What was begun with `async` goes on until somebody has waited for it."""
        assert self._live is not None
        job = result.result.get("ansible_job_id")
        if not isinstance(job, str):
            return
        host = result.host.get_name()
        with self._live.lock:
            if result.result.get("finished"):
                self._live.board.end_job(host, job)
            elif result.task.async_val and not result.task.poll:
                self._live.board.begin_job(host, job, time.monotonic())

    def _take_plan(self, result: Any) -> None:
        plan = result.result.get("plan")
        if _action(result.task) not in PLAN_ACTIONS or not isinstance(plan, dict):
            return
        assert self._live is not None
        roles = [str(action.get("role")) for action in plan.get("actions") or [] if isinstance(action, dict)]
        board = self._live.board
        with self._live.lock:
            board.simulated = board.simulated or bool(plan.get("simulated"))
            board.plan(
                result.host.get_name(), [stages.stage_of(role, "") for role in roles], time.monotonic()
            )


def become_default(callback: Any) -> None:
    """Make it the default callback: the same class, under the same name, with the same options."""
    callback.__dict__.clear()
    callback.__class__ = Default
    callback.__init__()
    callback._is_like = callback_loader.get("ansible.builtin.default", class_only=True)
    callback.__class__ = _Default


class _Default(Default):
    """On its way: the loader writes its names into what it has made; then this is what is called first."""

    _is_like: Any

    def _init_callback_methods(self) -> None:
        like = self.__dict__.pop("_is_like")
        for name in ("_original_path", "_load_name", "_redirected_names", "ansible_aliases", "ansible_name"):
            setattr(self, name, getattr(like, name, None))
        self.__class__ = Default  # type: ignore[assignment]
        self._init_callback_methods()


def _action(task: Any) -> str:
    return str(getattr(task, "resolved_action", None) or task.action)


def _stage(task: Any) -> str:
    role = getattr(task, "_role", None)
    name = str(role.get_name()).rpartition(".")[2] if role is not None else None
    return stages.stage_of(name, _action(task))


def _name(task: Any) -> str:
    """The task's name without the role's: the stage says that."""
    return str(task.name or _action(task).rpartition(".")[2]).strip()


def _final_stages(playbook: Any) -> tuple[str, ...]:
    """The stages that no plan names and that a run comes to in the end, as far as the playbook shows it."""

    def roles(blocks: list[Any]) -> Iterator[str]:
        for entry in blocks:
            if hasattr(entry, "block"):
                yield from roles([*entry.block, *entry.rescue, *entry.always])
            elif entry.action in C._ACTION_INCLUDE_ROLE:
                yield str(entry.args.get("name") or "")

    found = {role for play in playbook.get_plays() for role in roles(play.tasks)}
    return tuple(stages.stage_of(role, "") for role in FINAL_ROLES if role in found)


def _hosts(play: Any) -> list[str]:
    """Every host of the play, also those of later batches."""
    manager = play.get_variable_manager()
    found = (
        manager.get_vars(play=play, include_hostvars=False).get("ansible_play_hosts_all") if manager else None
    )
    return [str(host) for host in found or []]


def _cause(result: Any) -> str:
    """A failure in one line; never of one that is hidden."""
    answer = result.result
    if result.task.no_log is True or "censored" in answer:
        return f"{_name(result.task)}: failed; its output is hidden (no_log)"
    # Their messages are written for people and stand alone; so does what ssh says.
    alone = _action(result.task).rpartition(".")[2] in SPEAKING_ACTIONS or bool(answer.get("unreachable"))
    items = [item for item in answer.get("results") or [] if isinstance(item, dict) and item.get("failed")]
    for said in [item.get("msg") for item in items] + [answer.get("msg"), answer.get("stderr")]:
        found = FIRST_WORDS.search(WRAPPING.sub("", str(said or "")))
        if found:
            return found.group(0) if alone else f"{_name(result.task)}: {found.group(0)}"
    return f"{_name(result.task)}: failed without a message"
