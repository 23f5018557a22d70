#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The first process of a workbench's container: JupyterLab and an SSH server, as the workbench's user.

    workbench [jupyter] [ssh]        without arguments: what the image has

Started as root it makes the account GPUREADY_USER with the ids that own /home/GPUREADY_USER, copies what is
secret from the read-only folder /etc/gpuready/workbench to /run/gpuready, and becomes that user for good:
neither Jupyter nor the SSH server runs as root. Started as a user it leaves out the account. It runs with the
Python of whatever image it is in: 3.6 and newer, standard library only.
"""

import contextlib
import grp
import os
import pwd
import re
import shutil
import signal
import stat
import subprocess
import sys
import time

MOUNT = "/etc/gpuready/workbench"
RUN = "/run/gpuready"
SSHD = "/usr/sbin/sshd"
JUPYTER_PORT, SSH_PORT = 8888, 2222
SERVICES = ("jupyter", "ssh")
STOP_SECONDS = 8  # docker stop kills after ten
CONFIGURATION_ERROR = 78  # EX_CONFIG of sysexits.h
# What is a session's own, or would be wrong in one.
NOT_FOR_SESSIONS = (
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "PWD",
    "OLDPWD",
    "HOSTNAME",
    "TERM",
    "SHLVL",
    "_",
    "MAIL",
)


class Refusal(Exception):
    """It cannot be started like this; the message says what helps."""


def say(text):
    sys.stderr.write(f"workbench: {text}\n")
    sys.stderr.flush()


def here(*names):
    return os.path.join(MOUNT, *names)


# --- what is wanted --------------------------------------------------------------------------------


def wanted(arguments):
    """The services to start."""
    there = {"jupyter": shutil.which("jupyter-lab"), "ssh": SSHD if os.access(SSHD, os.X_OK) else None}
    for name in arguments:
        if name not in SERVICES:
            raise Refusal(f"{name!r} is no service: say jupyter, ssh or both")
        if not there[name]:
            recipe = f"{name}: true"
            raise Refusal(f"this image has no {name}: build it from a recipe with `{recipe}`")
    services = list(arguments) or [name for name in SERVICES if there[name]]
    if not services:
        raise Refusal("this image has neither JupyterLab nor an SSH server: set jupyter or ssh in its recipe")
    return services


# --- who runs them ---------------------------------------------------------------------------------


def user_name():
    name = os.environ.get("GPUREADY_USER", "")
    if not name and os.getuid():
        try:
            name = pwd.getpwuid(os.getuid()).pw_name
        except KeyError:
            raise Refusal(f"user {os.getuid()} has no name in this container: set GPUREADY_USER") from None
    if not re.match(r"^[a-z_][a-z0-9_-]{0,31}$", name):
        raise Refusal(f"GPUREADY_USER is {name!r}: it must name the user of this workbench")
    if name == "root":
        raise Refusal("GPUREADY_USER is root: nothing here runs as root")
    return name


def rewrite(path, line):
    """Puts a line first, so that it wins where a name or a number is there twice."""
    name = line.split(":", 1)[0]
    with open(path) as handle:
        kept = [other for other in handle if not other.startswith(name + ":")]
    try:
        with open(path, "w") as handle:
            handle.writelines([line + "\n", *kept])
    except OSError as error:
        raise Refusal(f"{path} cannot be written: {error.strerror}") from error


def make_account(name, home):
    """The account of the ids that own the home. Returns (uid, gid)."""
    try:
        owner = os.stat(home)
    except OSError as error:
        raise Refusal(f"the home {home}: {error.strerror}; mount it there") from error
    if owner.st_uid == 0:
        raise Refusal(f"the home {home} belongs to root: give it to a user of its own")
    shell = "/bin/bash" if os.path.exists("/bin/bash") else "/bin/sh"
    rewrite("/etc/passwd", f"{name}:x:{owner.st_uid}:{owner.st_gid}::{home}:{shell}")
    rewrite("/etc/group", f"{name}:x:{owner.st_gid}:")
    return owner.st_uid, owner.st_gid


def become(uid, gid):
    """For good: no capability survives the change of all three ids from root."""
    # Groups that `docker run --group-add` gave, such as the GPU devices'; none of root's own.
    roots = {group.gr_gid for group in grp.getgrall() if "root" in group.gr_mem} | {0}
    os.setgroups(sorted({gid, *os.getgroups()} - roots))
    os.setgid(gid)
    os.setuid(uid)


def give(content, path, uid, gid):
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(handle, "wb") as out:
        out.write(content)
    if os.getuid() == 0:
        os.chown(path, uid, gid)


def copy_secrets(uid, gid):
    """What only root may read on the node, for the user who runs the services."""
    jupyter = os.path.join(RUN, "jupyter")
    try:
        os.makedirs(RUN, exist_ok=True)
        os.makedirs(jupyter, mode=0o700, exist_ok=True)
    except OSError as error:
        raise Refusal(f"{RUN} cannot be used: {error.strerror}; mount a tmpfs there") from error
    if os.getuid() == 0:
        os.chmod(RUN, 0o755)
        os.chown(jupyter, uid, gid)
    for folder, is_secret in ((MOUNT, closed), (here("ssh_host_keys"), is_host_key)):
        for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else []:
            path = os.path.join(folder, name)
            if not os.path.isfile(path) or not is_secret(path):
                continue
            try:
                with open(path, "rb") as handle:
                    content = handle.read()
            except OSError as error:
                raise Refusal(f"{path} cannot be read: {error.strerror}") from error
            # Jupyter takes a line's end for a part of the token.
            give(content.strip() if name == "token" else content, os.path.join(RUN, name), uid, gid)


def closed(path):
    return not stat.S_IMODE(os.stat(path).st_mode) & 0o044


def is_host_key(path):
    return bool(re.match(r"ssh_host_\w+_key$", os.path.basename(path)))


# --- how they run ----------------------------------------------------------------------------------


def environment(name, home):
    account = dict(os.environ, HOME=home, USER=name, LOGNAME=name, JUPYTER_RUNTIME_DIR=RUN + "/jupyter")
    account["SHELL"] = "/bin/bash" if os.path.exists("/bin/bash") else "/bin/sh"
    account["PATH"] = "{}/.local/bin:{}".format(home, os.environ.get("PATH", os.defpath))
    account["GPUREADY_PATH"] = account["PATH"]
    account.pop("JUPYTER_TOKEN", None)
    return account


def jupyter_command(env, home):
    token = os.path.join(RUN, "token")
    config = here("jupyter_server_config.py")
    if os.path.exists(token):
        if not os.path.getsize(token):
            raise Refusal("the token is empty: whoever reaches the port would be let in")
        env["JUPYTER_TOKEN_FILE"] = token
    elif not os.path.exists(config):
        raise Refusal(f"there is neither a token nor a configuration in {MOUNT}: nobody could log in")
    command = ["jupyter-lab", "--no-browser", "--ip=0.0.0.0", f"--port={JUPYTER_PORT}"]
    command += ["--ServerApp.port_retries=0", f"--ServerApp.root_dir={home}"]
    return command + ([f"--config={config}"] if os.path.exists(config) else [])


def ssh_command(env, name):
    keys = sorted(key for key in os.listdir(RUN) if is_host_key(key))
    if not keys:
        raise Refusal("there are no host keys in {}: make them with ssh-keygen".format(here("ssh_host_keys")))
    config = here("sshd_config")
    # The first value wins: whatever the file says, only keys let anybody in, and only this user.
    forced = [f"Port={SSH_PORT}", f"AllowUsers={name}", "AuthenticationMethods=publickey"]
    forced += ["PasswordAuthentication=no", "KbdInteractiveAuthentication=no", "PermitEmptyPasswords=no"]
    forced += ["PermitRootLogin=no", "UsePAM=no", "PidFile=none"]
    forced += ["AuthorizedKeysFile={}".format(here("authorized_keys")), session_environment(env)]
    forced += [f"HostKey={os.path.join(RUN, key)}" for key in keys]
    command = [SSHD, "-D", "-e", "-f", config if os.path.exists(config) else "/etc/ssh/sshd_config"]
    for option in forced:
        command += ["-o", option]
    return command


def session_environment(env):
    """A session starts with nothing: without LD_LIBRARY_PATH, TensorFlow finds no cuDNN and so no GPU."""
    pairs = [f"{key}={value}" for key, value in sorted(env.items()) if key not in NOT_FOR_SESSIONS]
    # sshd can quote words, but not the quotes in them.
    return "SetEnv={}".format(" ".join(f'"{pair}"' for pair in pairs if not re.search(r'["\\\n\r]', pair)))


def supervise(commands, env, home):
    """Run all until one ends or somebody stops us; reap what they leave. Returns the exit code."""
    stopping = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda got, _frame: stopping.append(got))
    running = {}
    for name, command in commands.items():
        running[subprocess.Popen(command, env=env, cwd=home, stdin=subprocess.DEVNULL).pid] = name
        say(f"started {name}")
    code, ended = 0, False
    while running and not stopping and not ended:
        for pid, status in reaped():
            if pid in running:
                say(f"{running.pop(pid)} ended ({words(status)})")
                code, ended = 1, True
        time.sleep(0.2)
    stop(running)
    return code


def reaped():
    """Children that have ended; the first process inherits everybody else's, too."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not pid:
            return
        yield pid, status


def words(status):
    if os.WIFSIGNALED(status):
        return f"signal {os.WTERMSIG(status)}"
    return f"exit code {os.WEXITSTATUS(status)}"


def stop(running):
    for number, seconds in ((signal.SIGTERM, STOP_SECONDS), (signal.SIGKILL, 2)):
        for pid in running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        until = time.monotonic() + seconds
        while running and time.monotonic() < until:
            for pid, _status in reaped():
                running.pop(pid, None)
            time.sleep(0.1)


def main(arguments):
    try:
        services = wanted(arguments)
        name = user_name()
        home = os.path.join("/home", name)
        uid, gid = os.getuid(), os.getgid()
        if uid == 0:
            uid, gid = make_account(name, home)
        elif not os.path.isdir(home):
            home = os.environ.get("HOME", "/")
        copy_secrets(uid, gid)
        if os.getuid() == 0:
            become(uid, gid)
        env = environment(name, home)
        makers = {"jupyter": lambda: jupyter_command(env, home), "ssh": lambda: ssh_command(env, name)}
        # In this order: what Jupyter's needs of the environment is no business of SSH sessions.
        commands = {service: makers[service]() for service in sorted(services, reverse=True)}
    except Refusal as refusal:
        say(str(refusal))
        return CONFIGURATION_ERROR
    return supervise(commands, env, home)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
