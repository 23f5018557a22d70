"""Light nodes: many copies of one node at once, without an engine of their own.

A light node is a container of what its model was when it was copied: its packages, files, boot and SSH server
are real, systemd is PID 1, and the GPU is simulated as in every node. Its Docker Engine is a stand-in that
repeats what the model's real engine answered, and runs nothing. It is for questions of number: what one more
node costs.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from . import keys, machine, nodes, rootfs, settings
from .engine import Docker
from .errors import LabError
from .nodes import Node

#: How many are made and started at the same time.
AT_ONCE = 4
#: systemd takes about six inotify instances in each node, and all nodes share root's.
INOTIFY_EACH = 8
INOTIFY_LIMIT = Path("/proc/sys/fs/inotify/max_user_instances")
ANSWERS = "etc/gpulab/engine.json"

#: Asks an engine what an observer asks, and prints the answers by path.
RECORDER = """
import http.client, json, socket
from urllib.parse import quote

class Engine(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect("/var/run/docker.sock")

def get(path):
    engine = Engine("docker")
    engine.request("GET", path)
    answer = engine.getresponse()
    found[path] = json.loads(answer.read())
    return found[path]

found = {}
for path in ("/info", "/version", "/containers/json", "/containers/json?all=1"):
    get(path)
if found["/containers/json?all=1"]:
    raise SystemExit("it has containers, which a copy would not have")
for image in get("/images/json"):
    get("/images/%s/json" % quote(image["Id"]))
print(json.dumps(found))
"""


def record_engine(docker: Docker, model: str) -> dict[str, Any]:
    """What the model's engine answers; nothing when it has none."""
    if docker.ask("exec", model, "systemctl", "is-active", "docker.service") != "active":
        return {}
    try:
        return dict(json.loads(docker.out("exec", model, "python3", "-c", RECORDER)))
    except LabError as error:
        raise LabError(f"the Docker Engine of {model} cannot be recorded for light nodes: {error}") from error


def image_of(docker: Docker, model: Node) -> str:
    """An image of the model as it is now, with a stand-in for its engine."""
    answers = record_engine(docker, model.name)
    name = f"{settings.PREFIX}-light:{model.name}"
    files: dict[str, tuple[int, bytes] | str] = {
        ANSWERS: (0o644, json.dumps(answers).encode()),
        "etc/systemd/system/containerd.service": "/dev/null",
    }
    copy = docker.out("commit", model.name, name, what=f"copying {model.name}")
    try:
        rootfs.ensure_layered(
            docker,
            name,
            copy,
            rootfs.overlay(
                [settings.SOURCE / "files" / "light"] if answers else [], files if answers else {}
            ),
            rootfs.digest_of(copy),
            ('CMD ["/usr/local/lib/gpulab/init"]',),
            # Copied files all appeared now; the initramfs did so after what it was made from.
            "sleep 1; touch --no-create /boot/initrd.img-*",
        )
    finally:
        docker.ask("image", "rm", copy)  # its layers stay, as those of the image made of it
    return name


def create_all(
    docker: Docker, host: machine.Machine, model: Node, names: list[str], hardware: dict[str, Any]
) -> list[Node]:
    """Copies of the model that have not booted yet; existing ones of those names are replaced."""
    os_ = nodes.lookup_os(model.os)
    suite = nodes.suite_of(host, os_)
    remove_all(docker, names)
    image = image_of(docker, model)
    raise_inotify_limit(len(names))
    taken = {node.port for node in nodes.all_nodes(docker)}
    free = [port for port in settings.LIGHT_PORTS if port not in taken and nodes.port_is_free(port)]
    if len(free) < len(names):
        raise LabError(
            f"{len(names)} ports are wanted, and of 127.0.0.1:{settings.LIGHT_PORTS.start} to "
            f"{settings.LIGHT_PORTS.stop - 1} only {len(free)} are free: take light nodes down"
        )

    def create(item: tuple[str, int]) -> Node:
        name, port = item
        labels = {
            settings.LABEL: "1",
            settings.LABEL_ROLE: "node",
            settings.LABEL_OS: model.os,
            settings.LABEL_PORT: str(port),
            settings.LABEL_HASH: f"light:{model.name}",
        }
        docker.out(
            "create",
            f"--name={name}",
            f"--hostname={name}",
            f"--network={settings.NETWORK}",
            f"--publish=127.0.0.1:{port}:22",
            *nodes.RUN_FLAGS,
            *(f"--label={key}={value}" for key, value in labels.items()),
            image,
            what=f"creating {name}",
        )
        files = nodes.node_files(name, os_, suite, hardware)
        rootfs.copy_in(docker, name, rootfs.overlay([], {k: v for k, v in files.items() if own(k)}))
        return Node(name, model.os, port, running=False, image=f"light:{model.name}")

    for name in names:
        keys.host_key(name)
    return each(create, zip(names, free, strict=False))


def own(path: str) -> bool:
    """What a copy has for itself; the rest is its model's, such as the sources that somebody has changed."""
    return path.startswith(("etc/machine-id", "etc/ssh/ssh_host_", "etc/gpulab/"))


def start_all(docker: Docker, made: Iterable[Node]) -> None:
    """Boot them and wait for their SSH servers."""
    each(lambda node: nodes.start(docker, node.name, node.port), made)


def remove_all(docker: Docker, names: Iterable[str]) -> list[str]:
    """Remove nodes, light or not; which there were."""
    there = each(lambda name: nodes.remove(docker, name), list(names := list(names)))
    return [name for name, was in zip(names, there, strict=True) if was]


def each(function: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
    """A few at a time, in order."""
    with ThreadPoolExecutor(max_workers=AT_ONCE) as pool:
        return list(pool.map(function, items))


# root's inotify instances --------------------------------------------------------------------------------


def before_file() -> Path:
    """What the machine's limit was before light nodes needed more."""
    return settings.run_dir() / "inotify.json"


def raise_inotify_limit(count: int) -> None:
    """Make room for so many systemds; the machine gets its own limit back with the last light node."""
    now = int(INOTIFY_LIMIT.read_text())
    needed = 128 + INOTIFY_EACH * count
    if now >= needed:
        return
    if not before_file().exists():
        before_file().write_text(json.dumps({"max_user_instances": now}))
    try:
        INOTIFY_LIMIT.write_text(str(needed))
    except OSError as error:
        raise LabError(
            f"{count} light nodes need fs.inotify.max_user_instances={needed}, and this machine does not let "
            f"it be raised from {now} ({error.strerror}): make fewer of them"
        ) from error


def restore_inotify_limit(docker: Docker | None) -> None:
    """Give the machine its limit back, when no light node is left."""
    if not before_file().exists():
        return
    left = [] if docker is None else nodes.all_nodes(docker)
    if any(node.image.startswith("light:") for node in left):
        return
    with contextlib.suppress(OSError):
        INOTIFY_LIMIT.write_text(str(json.loads(before_file().read_text())["max_user_instances"]))
    before_file().unlink()


def drop_images(docker: Docker) -> None:
    """Images of light nodes that nobody uses any more."""
    used = {node.image for node in nodes.all_nodes(docker)}
    for name in docker.out("image", "ls", "--format", "{{.Tag}}", f"{settings.PREFIX}-light").split():
        if f"light:{name}" not in used:
            docker.ask("image", "rm", f"{settings.PREFIX}-light:{name}")
