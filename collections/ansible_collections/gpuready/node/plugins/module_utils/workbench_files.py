# Apache-2.0 (see LICENSE)
"""What a workbench is on its node: its files, its systemd unit, and how Docker starts it. Pure."""

from __future__ import annotations

import hashlib
import ipaddress
import json
import re
from typing import Any, Dict, List, Mapping, NamedTuple, Sequence

from . import owned_files, workbenches
from .workbench_names import FOLDER, HOST_KEYS, LABEL_CONFIG, LABEL_USER, UNITS, container_name, unit_name

# Where the user's folder appears in the container.
INSIDE = "/etc/gpuready/workbench"
# What only the user may read there: the image's start program copies it.
SECRETS_INSIDE = "/run/gpuready"
PROGRAM = "/opt/gpuready/workbench"
JUPYTER_INSIDE = 8888
SSH_INSIDE = 2222
LABEL_DRIVER = "io.gpuready.driver"
# Of root's rights, what giving the secrets to the user and becoming the user take.
RIGHTS = ("CHOWN", "SETGID", "SETUID")
# A runaway program must not take the node's last process; frameworks start many threads.
MOST_PROCESSES = 16384
STOP_SECONDS = 15
_NO_CONFIG = "sha256"
_HOSTNAME = re.compile(r"^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$")


class Settings(NamedTuple):
    """What all workbenches of a node have in common."""

    bind_address: str
    auth: str  # token | password
    secret_bytes: int
    certificate: str  # on the node; empty: no TLS
    key: str
    homes: str
    hostname: str
    launch_way: str  # gpus | runtime | cdi
    driver: str  # its version; empty: not known


def row_of(user: Mapping[str, Any], image: str, settings: Settings) -> Dict[str, Any]:
    """A user's row of `plan.workbench`."""
    name = user["name"]
    folder = "%s/%s" % (FOLDER, name)
    home = "%s/%s" % (settings.homes, name)
    jupyter = user["jupyter_port"] is not None
    ssh = user["ssh_port"] is not None
    tls = jupyter and bool(settings.certificate)
    auth = settings.auth if jupyter else None
    files = {}
    if jupyter:
        files["jupyter_server_config.py"] = jupyter_config(settings.auth, tls)
    if ssh:
        files["sshd_config"] = sshd_config()
    template = unit(user, image, settings, home, _NO_CONFIG)
    config = _digest({"files": files, "unit": template})
    # Whoever adds a key must not end everybody's kernels: sshd reads this file anew at every login.
    if ssh:
        files["authorized_keys"] = "".join(line + "\n" for line in user["authorized_keys"])
    row = {
        "name": name,
        "image": image,
        "home": home,
        "config": config,
        "auth": auth,
        "jupyter": {"address": settings.bind_address, "port": user["jupyter_port"], "tls": tls}
        if jupyter
        else None,
        "ssh": {"address": settings.bind_address, "port": user["ssh_port"]} if ssh else None,
        "tls": {"certificate": settings.certificate, "key": settings.key} if tls else None,
        "gpus": user["gpus"],
    }
    files["workbench.json"] = json.dumps(dict(row, schema=1), indent=2, sort_keys=True) + "\n"
    rows = [owned_files.row("%s/%s" % (folder, file), files[file]) for file in sorted(files)]
    unit_text = unit(user, image, settings, home, config)
    rows.append(owned_files.row("%s/%s" % (UNITS, unit_name(name)), unit_text))
    return dict(
        row,
        unit=unit_name(name),
        container=container_name(name),
        folder=folder,
        uid=user["uid"],
        secret_bytes=settings.secret_bytes,
        jupyter_port=user["jupyter_port"],
        ssh_port=user["ssh_port"],
        files=rows,
    )


def secrets_of(row: Mapping[str, Any]) -> List[str]:
    """The files in a workbench's folder that only the node knows; made there."""
    found = []
    if row["auth"] is not None:
        found.append("token" if row["auth"] == "token" else "password_hash")
    if row["tls"] is not None:
        found += ["tls.crt", "tls.key"]
    # Host keys outlive everything: also a while without SSH.
    found += ["ssh_host_keys/ssh_host_%s_key%s" % (kind, end) for kind in HOST_KEYS for end in ("", ".pub")]
    return ["%s/%s" % (row["folder"], name) for name in found]


def _digest(data: Any) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode("utf-8")).hexdigest()


# the files --------------------------------------------------------------------------------------------------


# Jupyter leaves out an address's token, but not that of an address within it (/login?next=...).
_NO_TOKEN_IN_LOGS = (
    "# Whoever may read the node's journal is not thereby let in.",
    "import logging, re",
    "def _without_tokens(*args, _make=logging.getLogRecordFactory(), _sub=re.sub, **more):",
    "    record = _make(*args, **more)",
    "    try:",
    "        text = record.getMessage()",
    "    except (TypeError, ValueError):",
    "        return record",
    '    record.msg = _sub(r"(?i)(token(?:=|%(?:25)*3D))[A-Za-z0-9_-]+", r"\\1[secret]", text)',
    "    record.args = ()",
    "    return record",
    "logging.setLogRecordFactory(_without_tokens)",
)


def jupyter_config(auth: str, tls: bool) -> str:
    """The image's start program says the rest: address, port, working folder, and where the token is."""
    lines = [
        "# Written by gpuready (role gpu_workbench): changes are lost. Secrets are in files of their own.",
        "c.ServerApp.allow_root = False",
        'c.ServerApp.terminado_settings = {"shell_command": ["/bin/bash", "-l"]}',
        *_NO_TOKEN_IN_LOGS,
        "# Else whoever has the token once could set a password of two letters.",
        "c.PasswordIdentityProvider.allow_password_change = False",
    ]
    if auth == "token":
        lines.append('c.PasswordIdentityProvider.hashed_password = ""')
    else:
        lines += [
            'c.IdentityProvider.token = ""',
            'with open("%s/password_hash", encoding="ascii") as handle:' % SECRETS_INSIDE,
            "    c.PasswordIdentityProvider.hashed_password = handle.read().strip()",
            "c.PasswordIdentityProvider.password_required = True",
        ]
    if tls:
        lines += [
            'c.ServerApp.certfile = "%s/tls.crt"' % INSIDE,
            'c.ServerApp.keyfile = "%s/tls.key"' % SECRETS_INSIDE,
        ]
    return "\n".join(lines) + "\n"


def sshd_config() -> str:
    """The image's start program says the rest, and forces what must not be otherwise: keys only, one user."""
    lines = [
        "# Written by gpuready (role gpu_workbench): changes here are lost.",
        "AuthenticationMethods publickey",
        "PasswordAuthentication no",
        "ChallengeResponseAuthentication no",
        "HostbasedAuthentication no",
        "PermitEmptyPasswords no",
        "PermitRootLogin no",
        "PermitUserEnvironment no",
        "UsePAM no",
        "MaxAuthTries 4",
        "LoginGraceTime 30",
        "X11Forwarding no",
        "PrintMotd no",
        "Subsystem sftp internal-sftp",
    ]
    return "\n".join(lines) + "\n"


# how it is started ------------------------------------------------------------------------------------------


def unit(user: Mapping[str, Any], image: str, settings: Settings, home: str, config: str) -> str:
    name = user["name"]
    container = container_name(name)
    run = " \\\n  ".join(_systemd_word(word) for word in docker_run(user, image, settings, home, config))
    return """\
# Written by gpuready (role gpu_workbench): changes here are lost.
[Unit]
Description=Workbench of %(name)s (gpuready)
After=docker.service network-online.target
Wants=network-online.target
Requires=docker.service
# At a boot the GPU may come after Docker: it tries until it works.
StartLimitIntervalSec=0

[Service]
# Before Docker 28, other machines reach what is published on loopback by way of the container's own address:
# iptables keeps them out of a workbench that is for the node itself.
ExecStartPre=/bin/sh -c "%(prepare)s"
ExecStart=%(run)s
ExecStop=-/usr/bin/docker stop -t %(stop)d %(container)s
ExecStopPost=/bin/sh -c "iptables -w -D DOCKER-USER %(rule)s 2>/dev/null; true"
Restart=always
RestartSec=5
TimeoutStopSec=%(timeout)d

[Install]
WantedBy=multi-user.target
""" % {
        "name": name,
        "container": container,
        "prepare": _prepare(name, workbenches.is_loopback(settings.bind_address)),
        "rule": guard_rule(name),
        "run": run,
        "stop": STOP_SECONDS,
        "timeout": 2 * STOP_SECONDS,
    }


def _prepare(name: str, guarded: bool) -> str:
    """What may be left of the last time goes, and the network comes: quietly, but for what goes wrong."""
    container, rule = container_name(name), guard_rule(name)
    steps = [
        "docker rm --force %s >/dev/null 2>&1" % container,
        "docker network rm %s >/dev/null 2>&1" % container,
        "iptables -w -D DOCKER-USER %s 2>/dev/null" % rule,
        "docker network create --label %s=%s --opt com.docker.network.bridge.name=%s %s >/dev/null || exit 1"
        % (LABEL_USER, name, bridge_name(name), container),
    ]
    if guarded:
        # No such chain: Docker was told to leave the firewall alone, and publishes nothing in it.
        steps.append("! iptables -w -nL DOCKER-USER >/dev/null 2>&1 || iptables -w -I DOCKER-USER %s" % rule)
    return "; ".join(steps)


def bridge_name(user: str) -> str:
    """The network's interface on the node; at most 15 letters.

    >>> bridge_name("alice")
    'gpuready-2bd806'
    """
    return "gpuready-%s" % hashlib.sha256(user.encode("utf-8")).hexdigest()[:6]


def guard_rule(user: str) -> str:
    """New connections from other machines to this workbench's network; the node's own come another way."""
    return "-o {0} ! -i {0} -m conntrack --ctstate NEW -j DROP".format(bridge_name(user))


def _systemd_word(word: str) -> str:
    """A word of a command line as systemd reads it."""
    word = word.replace("%", "%%").replace("$", "$$")
    if re.search(r"[\s\"'\\;]", word):
        return '"%s"' % word.replace("\\", "\\\\").replace('"', '\\"')
    return word


def docker_run(user: Mapping[str, Any], image: str, settings: Settings, home: str, config: str) -> List[str]:
    name = user["name"]
    hostname = settings.hostname if _HOSTNAME.match(settings.hostname) else "workbench"
    words = ["/usr/bin/docker", "run", "--rm", "--pull=never", "--name=" + container_name(name)]
    words += ["--label=%s=%s" % (LABEL_USER, name), "--label=%s=%s" % (LABEL_CONFIG, config)]
    # The driver's libraries are mounted at the start: with another driver it starts anew.
    words.append("--label=%s=%s" % (LABEL_DRIVER, settings.driver))
    words += ["--hostname=" + hostname, "--log-driver=none", "--stop-timeout=%d" % STOP_SECONDS]
    # Root only until the start program has become the user, and nobody becomes it again.
    words += ["--user=0:0", "--cap-drop=ALL", *["--cap-add=" + right for right in RIGHTS]]
    words += ["--security-opt=no-new-privileges", "--pids-limit=%d" % MOST_PROCESSES]
    # A network of its own: other containers do not reach this one.
    words.append("--network=" + container_name(name))
    for port, inside in ((user["jupyter_port"], JUPYTER_INSIDE), (user["ssh_port"], SSH_INSIDE)):
        if port is not None:
            words.append("--publish=%s:%d:%d/tcp" % (bracketed(settings.bind_address), port, inside))
    for option in ("memory", "cpus", "shm_size"):
        if user[option] is not None:
            words.append("--%s=%s" % (option.replace("_", "-"), user[option]))
    words += gpu_words(user["gpus"], settings.launch_way)
    words += ["--env=GPUREADY_USER=" + name, "--workdir=/", "--tmpfs=" + SECRETS_INSIDE]
    words.append("--mount=type=bind,source=%s/%s,target=%s,readonly" % (FOLDER, name, INSIDE))
    words.append("--mount=type=bind,source=%s,target=/home/%s" % (home, name))
    words += ["--entrypoint=" + PROGRAM, image]
    words += ["jupyter"] if user["jupyter_port"] is not None else []
    words += ["ssh"] if user["ssh_port"] is not None else []
    return words


def gpu_words(gpus: Any, way: str) -> List[str]:
    """How docker run hands these GPUs in.

    >>> gpu_words("all", "gpus"), gpu_words(["0", "1"], "gpus")
    (['--gpus=all'], ['--gpus="device=0,1"'])
    >>> gpu_words(["0", "1"], "cdi")
    ['--device=nvidia.com/gpu=0', '--device=nvidia.com/gpu=1']
    >>> gpu_words([], "gpus")
    ['--env=NVIDIA_VISIBLE_DEVICES=void']
    """
    chosen: Sequence[str] = ["all"] if gpus == "all" else gpus
    if not chosen:
        # Also where NVIDIA's runtime is the default one, and images ask for all.
        return ["--env=NVIDIA_VISIBLE_DEVICES=void"]
    if way == "cdi":
        return ["--device=nvidia.com/gpu=%s" % item for item in chosen]
    if way == "runtime":
        return ["--runtime=nvidia", "--env=NVIDIA_VISIBLE_DEVICES=%s" % ",".join(chosen)]
    # Docker reads the value as CSV: the quotes keep the list together.
    return ["--gpus=all" if gpus == "all" else '--gpus="device=%s"' % ",".join(chosen)]


def bracketed(address: str) -> str:
    """
    >>> bracketed("::1"), bracketed("127.0.0.1")
    ('[::1]', '127.0.0.1')
    """
    return "[%s]" % address if ipaddress.ip_address(address).version == 6 else address
