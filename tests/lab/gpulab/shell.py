"""Running commands: output goes to the step's log, a failure shows its last lines."""

from __future__ import annotations

import contextvars
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from .errors import LabError

#: Log of the step that the current thread works on.
current_log: contextvars.ContextVar[Path | None] = contextvars.ContextVar("current_log", default=None)


def tail(text: str, lines: int = 15) -> str:
    """The last lines of a text, indented for an error message."""
    return "\n".join("    " + line for line in text.strip().splitlines()[-lines:])


def run(
    command: Sequence[str | Path],
    *,
    what: str = "",
    env: Mapping[str, str] | None = None,
    stdin: IO[bytes] | None = None,
    text_input: str | None = None,
    check: bool = True,
    cwd: Path | None = None,
) -> None:
    """Run a command for its effect; stdout and stderr go to the step's log."""
    log = current_log.get()
    argv = [str(part) for part in command]
    kwargs: dict[str, Any] = {"env": merged(env), "cwd": cwd}
    if text_input is not None:
        kwargs["input"] = text_input.encode()
    else:
        kwargs["stdin"] = stdin if stdin is not None else subprocess.DEVNULL
    try:
        if log is None:
            done = subprocess.run(
                argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, **kwargs
            )
            output = done.stdout.decode(errors="replace")
        else:
            with log.open("ab") as sink:
                sink.write(("$ " + " ".join(argv)[:400] + "\n").encode())
                sink.flush()
                start = sink.tell()
                done = subprocess.run(argv, stdout=sink, stderr=subprocess.STDOUT, check=False, **kwargs)
            output = ""
            if done.returncode:
                with log.open("rb") as source:
                    source.seek(start)
                    output = source.read().decode(errors="replace")
    except FileNotFoundError as error:
        raise LabError(f"{argv[0]}: command not found") from error
    if check and done.returncode:
        where = f"\n  whole log: {log}" if log else ""
        raise LabError(f"{what or argv[0]} failed (exit code {done.returncode}):\n{tail(output)}{where}")


def output(
    command: Sequence[str | Path],
    *,
    what: str = "",
    env: Mapping[str, str] | None = None,
    text_input: str | None = None,
    cwd: Path | None = None,
) -> str:
    """Run a command for its standard output."""
    argv = [str(part) for part in command]
    try:
        done = subprocess.run(
            argv,
            capture_output=True,
            text=True,
            check=False,
            env=merged(env),
            input=text_input,
            stdin=subprocess.DEVNULL if text_input is None else None,
            cwd=cwd,
        )
    except FileNotFoundError as error:
        raise LabError(f"{argv[0]}: command not found") from error
    if done.returncode:
        said = tail(done.stderr or done.stdout)
        raise LabError(f"{what or ' '.join(argv[:3])} failed (exit code {done.returncode}):\n{said}")
    return done.stdout


def merged(env: Mapping[str, str] | None) -> dict[str, str]:
    """The environment with additions, in a locale whose messages can be read by program."""
    return {**os.environ, "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive", **(env or {})}
