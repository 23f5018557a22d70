"""The Docker Engine that carries the lab: the user's if it works, else our own beside it."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from . import firewall, machine, settings
from .errors import LabError
from .shell import output, run


@dataclass(frozen=True)
class Docker:
    """A Docker client bound to one engine."""

    host: str
    own: bool

    @property
    def env(self) -> dict[str, str]:
        """What makes a docker command talk to this engine and to no other."""
        return {"DOCKER_HOST": self.host, "DOCKER_CONTEXT": "", "DOCKER_CLI_HINTS": "false"}

    def run(self, *args: str | Path, what: str = "", stdin: IO[bytes] | None = None) -> None:
        """A command for its effect."""
        run(["docker", *args], what=what or f"docker {args[0]}", env=self.env, stdin=stdin)

    def out(self, *args: str | Path, what: str = "") -> str:
        """A command for its output."""
        return output(["docker", *args], what=what or f"docker {args[0]}", env=self.env).strip()

    def ask(self, *args: str | Path) -> str | None:
        """The output, or None when the thing asked about is not there."""
        done = subprocess.run(
            ["docker", *map(str, args)],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, **self.env},
        )
        return done.stdout.strip() if done.returncode == 0 else None

    def inspect(self, kind: str, name: str) -> dict[str, Any] | None:
        """One object, or None."""
        text = self.ask(kind, "inspect", name)
        return json.loads(text)[0] if text else None

    def ours(self, kind: str) -> list[str]:
        """Ids of everything of a kind that carries the lab's label."""
        everything = {"container": ["--all"], "image": ["--all"], "volume": [], "network": []}[kind]
        text = self.out(kind, "ls", *everything, "--quiet", "--filter", f"label={settings.LABEL}=1")
        return list(dict.fromkeys(text.split()))


def socket_path() -> Path:
    """Where our own engine listens."""
    return settings.run_dir() / "docker.sock"


def own_host() -> str:
    """DOCKER_HOST of our own engine."""
    return f"unix://{socket_path()}"


def pid_file() -> Path:
    """Our own engine's process."""
    return settings.run_dir() / "docker.pid"


def info(host: str | None, timeout: float = 20) -> dict[str, Any] | None:
    """`docker info` of an engine, or None when it does not answer."""
    if shutil.which("docker") is None:
        return None
    env = {**os.environ, **({"DOCKER_HOST": host, "DOCKER_CONTEXT": ""} if host else {})}
    try:
        done = subprocess.run(
            ["docker", "info", "--format", "{{json .}}"],
            capture_output=True,
            text=True,
            check=False,
            env=env,
            timeout=timeout,
        )
        facts = json.loads(done.stdout) if done.returncode == 0 else {}
    except (subprocess.TimeoutExpired, json.JSONDecodeError):
        return None
    return facts if facts.get("ServerVersion") and not facts.get("ServerErrors") else None


def usable(facts: dict[str, Any], host: str) -> str | None:
    """Why a user's engine cannot carry the lab; None when it can."""
    if not host.startswith("unix://"):
        return f"it is not on this machine ({host})"
    if any("rootless" in option for option in facts.get("SecurityOptions") or []):
        return "it runs rootless"
    if facts.get("OSType") != "linux" or "Docker Desktop" in str(facts.get("OperatingSystem", "")):
        return "it runs in a virtual machine"
    return None


def user_host() -> str:
    """The engine that a plain `docker` command talks to."""
    if os.environ.get("DOCKER_HOST"):
        return os.environ["DOCKER_HOST"]
    text = output(
        ["docker", "context", "inspect", "--format", "{{.Endpoints.docker.Host}}"], what="docker context"
    )
    return text.strip() or "unix:///var/run/docker.sock"


def find() -> Docker | None:
    """The running engine that carries (or would carry) the lab; starts nothing."""
    if socket_path().exists() and info(own_host()):
        return Docker(own_host(), own=True)
    if (
        remembered() != "own"
        and shutil.which("docker")
        and (facts := info(None))
        and usable(facts, user_host()) is None
    ):
        return Docker(user_host(), own=False)
    return None


def remembered() -> str | None:
    """Which kind of engine carries the lab since its first start."""
    with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):
        return str(json.loads((settings.home() / "engine.json").read_text()).get("kind"))
    return None


def require() -> Docker:
    """The lab's engine, for verbs that need the lab to be up."""
    docker = find()
    if docker is None:
        raise LabError("the lab is not up: run `make lab-up` first (labctl up)")
    return docker


def ensure() -> tuple[Docker, str]:
    """A working engine: the user's as it is, or our own."""
    docker = find()
    if docker is None:
        if shutil.which("dockerd") is None or shutil.which("docker") is None:
            machine.install(["docker.io"])
            # On a machine with systemd the package has just started the distribution's service.
            docker = find()
        if docker is None:
            start_own()
            docker = Docker(own_host(), own=True)
    facts = info(docker.host) or {}
    settings.home().mkdir(parents=True, exist_ok=True)
    (settings.home() / "engine.json").write_text(
        json.dumps({"kind": "own" if docker.own else "user", "host": docker.host})
    )
    if facts.get("Driver") == "vfs":
        raise LabError(
            f"the Docker Engine at {docker.host} uses the vfs storage driver, which copies every "
            "image in full for every container: put the lab where overlay2 works (GPULAB_HOME=/on/ext4)"
        )
    whose = "own" if docker.own else "the user's"
    version, driver, cgroup = (facts.get(key, "?") for key in ("ServerVersion", "Driver", "CgroupVersion"))
    return docker, f"{whose}, Docker {version}, {driver}, cgroup v{cgroup}"


def start_own() -> None:
    """Start dockerd with its own data, sockets and configuration; nothing is shared with a user's engine."""
    home, run_dir = settings.home(), settings.run_dir()
    for directory in (home / "docker", home / "logs", run_dir):
        directory.mkdir(parents=True, exist_ok=True)
    stop_own()
    config = home / "daemon.json"
    config.write_text("{}\n")
    firewall.note(home / "firewall.json")
    log = home / "logs" / "dockerd.log"
    command = [
        "dockerd",
        "--config-file",
        config,
        "--data-root",
        home / "docker",
        "--exec-root",
        run_dir / "exec",
        "--pidfile",
        pid_file(),
        "--host",
        own_host(),
        "--bridge",
        "none",
        # Only matters where dockerd finds a system containerd and uses that.
        "--containerd-namespace",
        settings.PREFIX,
        "--containerd-plugins-namespace",
        f"{settings.PREFIX}-plugins",
    ]
    with log.open("wb") as sink:
        process = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            start_new_session=True,
        )
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        if socket_path().exists() and info(own_host(), timeout=5):
            return
        time.sleep(0.2)
    end = "\n".join("    " + line for line in log.read_text(errors="replace").splitlines()[-12:])
    state = (
        f"ended with code {process.returncode}"
        if process.poll() is not None
        else "does not answer after 60 s"
    )
    raise LabError(f"the lab's Docker Engine {state}:\n{end}\n  whole log: {log}")


def end_orphans() -> None:
    """End a containerd that outlived its dockerd: the next dockerd cannot start one beside it."""
    mark = str(settings.run_dir() / "exec" / "containerd" / "containerd.toml")

    def alive() -> list[int]:
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                if mark in path.read_text(errors="replace").split("\0"):
                    found.append(int(path.parent.name))
        return found

    for number in (signal.SIGTERM, signal.SIGKILL):
        for pid in alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        deadline = time.monotonic() + 10
        while alive() and time.monotonic() < deadline:
            time.sleep(0.1)
    for name in ("containerd.pid", "containerd.sock", "containerd.sock.ttrpc"):
        (settings.run_dir() / "exec" / "containerd" / name).unlink(missing_ok=True)


def own_pid() -> int | None:
    """Process id of our own engine, made sure that it is ours."""
    with contextlib.suppress(FileNotFoundError, ValueError):
        pid = int(pid_file().read_text())
        with contextlib.suppress(OSError):
            if str(socket_path()) in Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " "):
                return pid
    return None


def stop_own() -> bool:
    """Stop our own engine and clear what it leaves behind; True if it ran."""
    pid = own_pid()
    if pid is not None:
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + 60
        while own_pid() is not None:
            if time.monotonic() > deadline:
                raise LabError(f"the lab's Docker Engine (process {pid}) does not stop within 60 s")
            time.sleep(0.2)
    end_orphans()
    for leftover in (pid_file(), socket_path()):
        leftover.unlink(missing_ok=True)
    if pid is not None:
        firewall.restore(settings.home() / "firewall.json", settings.bridge())
    return pid is not None


def free_subnet(candidates: Iterable[str], routes: Iterable[str]) -> str | None:
    """The first candidate that overlaps no route."""
    taken = []
    for route in routes:
        with contextlib.suppress(ValueError):
            network = ipaddress.ip_network(route, strict=False)
            if network.version == 4 and network.prefixlen:
                taken.append(network)
    for candidate in candidates:
        network = ipaddress.ip_network(candidate)
        if not any(network.overlaps(other) for other in taken):
            return candidate
    return None


def ensure_network(docker: Docker) -> None:
    """The lab's network. Nothing is translated on the way out, so a node reaches the lab and nothing else."""
    found = docker.inspect("network", settings.NETWORK)
    if found is not None:
        if settings.LABEL not in (found.get("Labels") or {}):
            raise LabError(
                f"the Docker network {settings.NETWORK} exists and is not the lab's: remove or rename it"
            )
        return
    routes = [route.get("dst", "") for route in json.loads(output(["ip", "-json", "-4", "route"]))]
    subnet = free_subnet(settings.SUBNETS, routes)
    if subnet is None:
        raise LabError(
            f"every subnet the lab could use overlaps a route of this machine: {', '.join(settings.SUBNETS)}"
        )
    docker.run(
        "network",
        "create",
        "--label",
        f"{settings.LABEL}=1",
        "--subnet",
        subnet,
        "--opt",
        f"com.docker.network.bridge.name={settings.bridge()}",
        "--opt",
        "com.docker.network.bridge.enable_ip_masquerade=false",
        settings.NETWORK,
    )
