# Copyright: gpuready contributors
# SPDX-License-Identifier: Apache-2.0
"""Runs a probe where a workload lives, and brings back what it said; `verification.judge` says what it means.

For the module `container_gpu_probe` and for the node's own health program. Runs on nodes: Python 3.8.
"""

from __future__ import annotations

import json
import os
import pwd
import signal
import subprocess
import time
import uuid
from typing import Any, Dict, List, Optional, Sequence, Tuple

# An answer is a few KiB; more than this is a program gone wild, and must not fill the controller.
MAX_OUTPUT_CHARACTERS = 200000
# How long docker's own short answers may take, in seconds.
PATIENCE = 60


def _environment() -> Dict[str, str]:
    # Messages are read by machines, here and later: keep them in English.
    return dict(os.environ, LC_ALL="C.UTF-8")


def docker(binary: str, arguments: Sequence[str], timeout: int = PATIENCE) -> Tuple[int, str, str]:
    """Run a short docker command: (rc, stdout, stderr)."""
    try:
        done = subprocess.run(
            [binary, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=_environment(),
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return 124, "", "docker %s did not answer in %d s" % (" ".join(arguments[:2]), timeout)
    except OSError as error:
        return 127, "", "%s: %s" % (binary, error)
    return done.returncode, done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace")


def inspect_image(binary: str, image: str) -> Tuple[Optional[Dict[str, Any]], Optional[str], bool]:
    """(image, error, missing): what the node knows of the image."""
    rc, out, err = docker(binary, ["image", "inspect", image])
    if rc == 0:
        try:
            return json.loads(out)[0], None, False
        except (ValueError, IndexError):
            return None, "docker image inspect {0} did not answer with JSON".format(image), False
    error = err.strip() or "docker image inspect {0} ended with {1}".format(image, rc)
    return None, error, "no such image" in error.lower()


def _decoded(out: bytes, err: bytes) -> Dict[str, str]:
    return {
        "stdout": out.decode("utf-8", "replace")[-MAX_OUTPUT_CHARACTERS:],
        "stderr": err.decode("utf-8", "replace")[-MAX_OUTPUT_CHARACTERS:],
    }


def run_container(binary: str, name: str, command: List[str], probe: str, timeout: int) -> Dict[str, Any]:
    """Run the container to its end or to the timeout, whichever comes first."""
    started = time.monotonic()
    result: Dict[str, Any] = {"timed_out": False, "exit_code": None, "error": None}
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=_environment(),
    )
    try:
        out, err = process.communicate(probe.encode("utf-8"), timeout=timeout)
        result["exit_code"] = process.returncode
    except subprocess.TimeoutExpired:
        result["timed_out"] = True
        # The client's end does not end the container: end that by its own name, then collect the client.
        docker(binary, ["kill", name])
        try:
            out, err = process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
        docker(binary, ["rm", "--force", name])
    result["seconds"] = round(time.monotonic() - started, 3)
    result.update(_decoded(out, err))
    return result


def run_python(
    python: str, probe: str, level: str, timeout: int, arguments: Sequence[str] = ()
) -> Dict[str, Any]:
    """What an environment's Python on the host answers to the probe; a `run` for `judge`.

    It runs as whoever owns the environment: a user's own files are not run as root.
    """
    command = [python, "-", "--level", level, *arguments]
    result: Dict[str, Any] = {"image_id": None, "digests": [], "missing": False, "command": command}
    environment = _environment()
    # What a login shell or the caller's own Python has set is none of the environment's.
    for name in [name for name in environment if name.startswith("PYTHON") or name == "LD_LIBRARY_PATH"]:
        del environment[name]
    try:
        owner = os.stat(os.path.dirname(os.path.dirname(python)))
    except OSError as error:
        return dict(result, missing=True, error="{0}: {1}".format(python, error.strerror))
    if not os.path.exists(python):
        return dict(result, missing=True, error="{0}: there is no such file".format(python))
    before: Any = None
    if os.geteuid() == 0 and owner.st_uid != 0:
        known = pwd.getpwuid(owner.st_uid)
        environment.update(HOME=known.pw_dir, USER=known.pw_name, LOGNAME=known.pw_name)

        def become() -> None:
            os.initgroups(known.pw_name, known.pw_gid)
            os.setgid(known.pw_gid)
            os.setuid(known.pw_uid)

        before = become
    started = time.monotonic()
    result.update(timed_out=False, exit_code=None, error=None)
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            cwd="/",
            start_new_session=True,
            preexec_fn=before,
        )
    except (OSError, subprocess.SubprocessError) as error:
        return dict(result, error="{0}: {1}".format(python, error))
    try:
        out, err = process.communicate(probe.encode("utf-8"), timeout=timeout)
        result["exit_code"] = process.returncode
    except subprocess.TimeoutExpired:
        result["timed_out"] = True
        os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate()
    result["seconds"] = round(time.monotonic() - started, 3)
    result.update(_decoded(out, err))
    return result


def probe_image(
    binary: Optional[str],
    image: str,
    probe: str,
    level: str,
    launch_arguments: Sequence[str],
    timeout: int,
    arguments: Sequence[str] = (),
) -> Dict[str, Any]:
    """What the image's own Python answers to the probe, run as a user would run it; a `run` for `judge`."""
    result: Dict[str, Any] = {"image_id": None, "digests": [], "missing": False, "command": None}
    if binary is None:
        return dict(result, error="there is no docker command on the node")
    inspected, error, missing = inspect_image(binary, image)
    if inspected is None:
        return dict(result, error=error, missing=missing)
    result["image_id"] = inspected.get("Id")
    result["digests"] = inspected.get("RepoDigests") or []

    name = "gpuready-probe-{0}".format(uuid.uuid4().hex[:12])
    command = [binary, "run", "--rm", "-i", "--name", name, "--label", "gpuready.probe=true"]
    command += ["--pull", "never", "--network", "none", *launch_arguments]
    command += [image, "python3", "-", "--level", level, *arguments]
    result["command"] = command
    try:
        result.update(run_container(binary, name, command, probe, timeout))
    except OSError as failure:
        result["error"] = "{0}: {1}".format(binary, failure)
    return result
