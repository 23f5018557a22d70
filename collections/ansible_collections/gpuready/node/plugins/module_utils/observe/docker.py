"""Docker: what is installed, what daemon.json says, and what dockerd really runs with."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
from typing import Any, Dict, List, Optional, Tuple
from urllib.parse import quote

from .. import daemon_config
from . import packages as dpkg
from .node import SEARCH_PATH, DockerError, MissingTool, Node, error_text

CONFIG = "/etc/docker/daemon.json"
SNAP_CONFIG = "/var/snap/docker/current/config/daemon.json"
SOCKET = "/var/run/docker.sock"
UNIT = "docker.service"
# What systemd gives a service that sets no PATH of its own.
SYSTEMD_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_VERSION = re.compile(r"\d+(?:\.\d+)+")
# Of an image's environment only what tells about CUDA and the framework: the rest may hold secrets.
_TELLING = re.compile(r"^(NVIDIA_\w+|CUDA_\w+|NV_\w*VERSION|CUDNN_\w+|TF_\w+|XLA_\w+|LD_LIBRARY_PATH|PATH)=")
_ROOTLESS_SOCKET = "/run/user/%s/docker.sock"
# What gpuready writes on the images and containers that it makes.
LABELS = "io.gpuready."
MIB = 1024 * 1024


class Process:
    """A running dockerd."""

    def __init__(self, node: Node, pid: int) -> None:
        self.pid = pid
        self.argv = [part for part in (node.text("/proc/%d/cmdline" % pid) or "").split("\0") if part]
        self.started_at = started_at(node, pid)
        self.path: Optional[str] = None
        try:
            environment = node.text("/proc/%d/environ" % pid)
        except OSError as error:
            node.problem("container_runtime.docker", error)
        else:
            for variable in (environment or "").split("\0"):
                if variable.startswith("PATH="):
                    self.path = variable[len("PATH=") :]
            if environment is not None and self.path is None:
                self.path = SYSTEMD_PATH


def started_at(node: Node, pid: int) -> Optional[float]:
    """When a process started, in seconds since the epoch."""
    text = node.text("/proc/%d/stat" % pid)
    if not text:
        return None
    # The command's name, in brackets, may itself hold spaces and brackets.
    fields = text.rpartition(")")[2].split()
    ticks = int(fields[19])
    uptime = node.text("/proc/uptime")
    if not uptime:
        return None
    # /proc/stat's btime is whole seconds; the clock minus the uptime is good to a hundredth.
    boot = node.now() - float(uptime.split()[0])
    return round(boot + ticks / float(os.sysconf("SC_CLK_TCK")), 2)


def find_process(node: Node, unit: Optional[Dict[str, str]]) -> Optional[Process]:
    """dockerd by systemd's word, else by its pid file."""
    candidates = [(unit or {}).get("MainPID", "0")]
    candidates += [
        (node.text(path) or "0").strip() for path in ("/run/docker.pid", "/run/snap.docker/docker.pid")
    ]
    for text in candidates:
        if (
            text.isdigit()
            and int(text) > 0
            and (node.text("/proc/%s/comm" % text) or "").strip() == "dockerd"
        ):
            return Process(node, int(text))
    return None


def option(argv: List[str], *names: str) -> List[str]:
    """The values of an option on a command line, in both spellings."""
    values = []
    for index, word in enumerate(argv):
        for name in names:
            if word == name and index + 1 < len(argv):
                values.append(argv[index + 1])
            elif word.startswith(name + "="):
                values.append(word[len(name) + 1 :])
    return values


def command_line(process: Optional[Process], unit: Optional[Dict[str, str]]) -> List[str]:
    """dockerd's arguments: as it runs, else as systemd would start it."""
    if process is not None and process.argv:
        return process.argv
    match = re.search(r"argv\[\]=(.*?) ; ", (unit or {}).get("ExecStart", ""))
    if not match:
        return []
    try:
        return shlex.split(match.group(1))
    except ValueError:
        return match.group(1).split()


# daemon.json ------------------------------------------------------------------------------------


def daemon_json(node: Node, argv: List[str], snap: bool) -> Dict[str, Any]:
    configured = option(argv, "--config-file")
    path = configured[-1] if configured else CONFIG
    if not configured and snap and not node.exists(CONFIG):
        path = SNAP_CONFIG
    facts: Dict[str, Any] = {
        "path": path,
        "exists": False,
        "valid": None,
        "error": None,
        "sha256": None,
        "content": None,
        "runtimes": {},
        "default_runtime": None,
        "features": {},
    }
    try:
        data = node.data(path)
    except OSError as failure:
        facts.update(exists=True, error=error_text(failure))
        node.problem("container_runtime.docker.daemon_json", failure)
        return facts
    if data is None:
        return facts
    content: Optional[Dict[str, Any]] = None
    error = None
    try:
        content = daemon_config.parse(data)
    except daemon_config.DaemonConfigError as failure:
        error = str(failure)
    facts.update(
        exists=True,
        valid=content is not None,
        error=error,
        sha256=hashlib.sha256(data).hexdigest(),
        content=content,
    )
    if content is not None:
        runtimes, features = content.get("runtimes"), content.get("features")
        default = content.get("default-runtime")
        facts.update(
            runtimes=runtimes if isinstance(runtimes, dict) else {},
            features=features if isinstance(features, dict) else {},
            default_runtime=default if isinstance(default, str) else None,
        )
    return facts


def runtime_paths(node: Node, runtimes: Dict[str, Any], path: Optional[str]) -> Dict[str, Any]:
    """Is the program of each runtime that daemon.json names where dockerd looks for it?

    `path`: the running dockerd's PATH, else systemd's for it.
    """
    found = {}
    for name, settings in sorted(runtimes.items()):
        program = settings.get("path") if isinstance(settings, dict) else None
        if not isinstance(program, str) or not program:
            continue  # a shim by its type (runtimeType) has no path
        if program.startswith("/"):
            there = node.is_file(program)
        else:
            there = node.which(program, (path or SYSTEMD_PATH).split(":")) is not None
        found[name] = {"path": program, "found": there}
    return found


LOG_LINES = 40


def log(node: Node) -> Optional[List[str]]:
    """The end of what dockerd's unit said in this boot, without its debug lines; null when nobody tells."""
    command = ["journalctl", "--unit=" + UNIT, "--boot", "--lines=%d" % (2 * LOG_LINES), "--no-pager"]
    try:
        result = node.run([*command, "--quiet", "--output=cat"])
    except MissingTool:
        return None
    if result.rc != 0:
        return None
    lines = [line.rstrip()[:600] for line in result.out.splitlines() if "level=debug" not in line]
    return [line for line in lines if line][-LOG_LINES:]


# the Engine's API -------------------------------------------------------------------------------


def find_socket(node: Node, argv: List[str], content: Optional[Dict[str, Any]]) -> str:
    hosts = option(argv, "-H", "--host")
    configured = (content or {}).get("hosts")
    if isinstance(configured, list):
        hosts += [host for host in configured if isinstance(host, str)]
    for host in hosts:
        if host.startswith("unix://"):
            return host[len("unix://") :]
    if not node.exists(SOCKET):
        for user in node.listdir("/run/user"):
            if node.exists(_ROOTLESS_SOCKET % user):
                return _ROOTLESS_SOCKET % user
    return SOCKET


def info_facts(info: Dict[str, Any]) -> Dict[str, Any]:
    registries = info.get("RegistryConfig") or {}
    indexes = registries.get("IndexConfigs") or {}
    insecure = [
        name for name, index in indexes.items() if isinstance(index, dict) and index.get("Secure") is False
    ]
    insecure += registries.get("InsecureRegistryCIDRs") or []
    return {
        "reachable": True,
        "error": None,
        "server_version": info.get("ServerVersion"),
        "runtimes": sorted(info.get("Runtimes") or {}),
        "default_runtime": info.get("DefaultRuntime"),
        "root_dir": info.get("DockerRootDir"),
        "cdi_spec_dirs": info.get("CDISpecDirs"),
        "cgroup_version": info.get("CgroupVersion"),
        "cgroup_driver": info.get("CgroupDriver"),
        "insecure_registries": sorted(set(insecure)),
        "registry_mirrors": list(registries.get("Mirrors") or []),
        "live_restore": info.get("LiveRestoreEnabled"),
        "containers_running": info.get("ContainersRunning"),
        "cpus": info.get("NCPU"),
        "security_options": list(info.get("SecurityOptions") or []),
    }


def unreachable(error: str) -> Dict[str, Any]:
    facts: Dict[str, Any] = dict.fromkeys(info_facts({}))
    facts.update(reachable=False, error=error)
    return facts


def ask(node: Node, sock: str) -> Tuple[Dict[str, Any], Dict[str, Any]]:
    """(`live`, the Engine's raw info)."""
    try:
        info = node.docker(sock, "/info")
    except DockerError as error:
        return unreachable(str(error)), {}
    return info_facts(info), info


def images(node: Node, sock: str) -> List[Dict[str, Any]]:
    """One entry per name of an image; an image without any name is left out."""
    found = []
    users = containers_by_image(node, sock)
    for image in node.docker(sock, "/images/json"):
        digests = [digest for digest in image.get("RepoDigests") or [] if not digest.startswith("<none>")]
        refs = [tag for tag in image.get("RepoTags") or [] if tag != "<none>:<none>"] or digests[:1]
        if not refs:
            continue
        identifier = image["Id"]
        try:
            details = node.docker(sock, "/images/%s/json" % quote(identifier))
            environment: Optional[List[str]] = [
                pair for pair in (details.get("Config") or {}).get("Env") or [] if _TELLING.match(pair)
            ]
            labels: Optional[Dict[str, str]] = own_labels(details)
            architecture = details.get("Architecture") or None
        except DockerError as error:  # it may have been removed meanwhile
            if "timed out" in str(error):
                raise  # the others would take as long
            node.problem("framework.images", error)
            environment = labels = None
            architecture = None
        for ref in refs:
            found.append(
                {
                    "ref": ref,
                    "id": identifier,
                    "digests": digests,
                    "size_mib": int(image.get("Size") or 0) // MIB,
                    "env": environment_of(environment),
                    "labels": labels,
                    "architecture": architecture,
                    "containers": None if users is None else users.get(identifier, []),
                }
            )
    return sorted(found, key=lambda image: (image["ref"], image["id"]))


def containers_by_image(node: Node, sock: str) -> Optional[Dict[str, List[str]]]:
    """Image id -> its containers' names, those that do not run as well; None when it cannot be known."""
    found: Dict[str, List[str]] = {}
    try:
        for container in node.docker(sock, "/containers/json?all=1"):
            names = container.get("Names") or [container["Id"][:12]]
            found.setdefault(container.get("ImageID") or "", []).append(names[0].lstrip("/"))
    except DockerError as error:
        if "timed out" in str(error):
            raise
        node.problem("framework.images", error)
        return None
    return {identifier: sorted(names) for identifier, names in found.items()}


def own_labels(details: Dict[str, Any]) -> Dict[str, str]:
    """gpuready's own labels of an image or a container; others may hold anything."""
    labels = (details.get("Config") or {}).get("Labels") or {}
    return {key: str(value) for key, value in labels.items() if key.startswith(LABELS)}


def environment_of(pairs: Optional[List[str]]) -> Optional[Dict[str, str]]:
    if pairs is None:
        return None
    environment = {}
    for pair in pairs:
        name, _equals, value = pair.partition("=")
        environment[name] = value
    return environment


def holds_gpu(container: Dict[str, Any]) -> bool:
    """Does this container's configuration give it an NVIDIA GPU?"""
    host = container.get("HostConfig") or {}
    for request in host.get("DeviceRequests") or []:
        capabilities = [name for group in request.get("Capabilities") or [] for name in group]
        if request.get("Driver") == "nvidia" or "gpu" in capabilities:
            return True
        if any(str(name).startswith("nvidia.com/") for name in request.get("DeviceIDs") or []):
            return True
    environment = environment_of((container.get("Config") or {}).get("Env") or []) or {}
    visible = environment.get("NVIDIA_VISIBLE_DEVICES", "")
    if host.get("Runtime") in ("nvidia", "nvidia-cdi", "nvidia-legacy") and visible not in (
        "",
        "void",
        "none",
    ):
        return True
    return any(
        (device.get("PathOnHost") or "").startswith("/dev/nvidia") for device in host.get("Devices") or []
    )


def gpu_containers(node: Node, sock: str) -> List[Dict[str, Any]]:
    found = []
    for summary in node.docker(sock, "/containers/json"):
        try:
            container = node.docker(sock, "/containers/%s/json" % quote(summary["Id"]))
        except DockerError as error:  # it may have ended meanwhile
            if "timed out" in str(error):
                raise
            if "o such container" not in str(error):
                node.problem("container_runtime.gpu_containers", error)
            continue
        if holds_gpu(container):
            name = (container.get("Name") or "").lstrip("/")
            image = (container.get("Config") or {}).get("Image")
            found.append({"id": summary["Id"], "name": name, "image": image, "labels": own_labels(container)})
    return found


# what is installed ------------------------------------------------------------------------------


def package(found: List[dpkg.Package]) -> Optional[dpkg.Package]:
    for name in dpkg.DOCKER:
        entry = dpkg.installed(found, name)
        if entry is not None:
            return entry
    return None


def version_of(text: Optional[str]) -> Optional[str]:
    """The upstream version in a package's (5:27.3.1-1~ubuntu.22.04~jammy) or dockerd's own words."""
    match = _VERSION.search((text or "").split(":", 1)[-1])
    return match.group(0) if match else None


def is_snap(node: Node) -> bool:
    if node.exists("/snap/bin/docker") or node.exists("/snap/docker"):
        return True
    return any(name.startswith("docker_") for name in node.listdir("/var/lib/snapd/snaps"))


def dockerd(node: Node) -> Optional[str]:
    return node.which("dockerd", (*SEARCH_PATH, "/snap/bin"))
