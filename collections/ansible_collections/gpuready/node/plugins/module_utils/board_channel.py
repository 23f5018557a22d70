# Copyright: gpuready contributors
# SPDX-License-Identifier: Apache-2.0
"""From a node's progress files to the live board, while a task of that node is running. Controller only.

Ansible runs each host's task in a process of its own, which hears nothing of a module before it ends.
Beside it, a thread reads ``/run/gpuready/progress`` on the node over the same connection and tells the
board by a message that is meant for neither screen nor log: where there is no board, Ansible drops it, and
nothing is read at all.
"""

from __future__ import annotations

import copy
import json
import threading
from typing import Any

from ansible.errors import AnsibleError
from ansible.utils.display import Display

from . import progress

#: What such a message begins with.
MARK = "gpuready.node.board "
#: How often a node is asked, and how long the end of a task waits for the last answer.
EVERY_SECONDS = 1.0
PATIENCE_SECONDS = 2.0
#: Connections that may be used for a second command at the same time.
TRANSPORTS = ("ssh", "local")
LIVE = "gpuready_board_is_live"


def is_live() -> bool:
    """Whether this run has a live board; known in the processes of the tasks as well."""
    return bool(getattr(Display(), LIVE, False))


def message(host: str, told: list[dict[str, Any]]) -> str:
    return MARK + json.dumps({"host": host, "progress": told})


def read_message(text: str) -> tuple[str, list[Any]] | None:
    """What a message says; none where it is another text."""
    if not text.startswith(MARK):
        return None
    try:
        said = json.loads(text[len(MARK) :])
        return str(said["host"]), list(said["progress"])
    except (ValueError, KeyError, TypeError):
        return None


class Watch:
    """Tells the board of a node's progress for as long as the block runs::

    with Watch(self._connection, task_vars["inventory_hostname"]):
        return super().run(tmp, task_vars)
    """

    def __init__(self, connection: Any, host: str, every: float = EVERY_SECONDS) -> None:
        self.host, self.every = host, every
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self._connection = None
        if is_live() and getattr(connection, "transport", None) in TRANSPORTS:
            # Its own state, and nobody's rights: the files can be read by everybody.
            self._connection = copy.copy(connection)
            self._connection.become = None

    def __enter__(self) -> Watch:
        if self._connection is not None:
            self._thread = threading.Thread(target=self._watch, name="gpuready-progress", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_reason: object) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join(PATIENCE_SECONDS)

    def _watch(self) -> None:
        said = False
        while not self._over.wait(self.every):
            try:
                told = self.look()
            except (AnsibleError, OSError) as error:
                # The task itself says what is wrong with the connection.
                Display().vvv(f"the progress of {self.host} cannot be read: {error}", host=self.host)
                return
            if self._over.is_set():
                return
            if told or said:
                Display().display(message(self.host, told), screen_only=True, log_only=True)
            said = bool(told)

    def look(self) -> list[dict[str, Any]]:
        """What the node's files say now."""
        assert self._connection is not None
        code, out, _err = self._connection.exec_command(progress.READ, in_data=None, sudoable=False)
        return progress.parse(out.decode("utf-8", "replace")) if code == 0 else []
