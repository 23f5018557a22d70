"""The lab's services: the package mirror and the image registry, each a container in the lab's network."""

from __future__ import annotations

import contextlib
import shutil
import time
import urllib.request

from . import machine, rootfs, settings
from .engine import Docker
from .errors import LabError


def recipe(host: machine.Machine) -> rootfs.Recipe:
    """One small image serves for both."""
    suite = "jammy" if host.distribution == "ubuntu" else "bookworm"
    components = ("main", "universe") if host.distribution == "ubuntu" else ("main",)
    return rootfs.Recipe(suite=suite, components=components, packages=("nginx-light", "docker-registry"))


BASE = f"{settings.PREFIX}-infra-base:1"


def ensure_image(host: machine.Machine, docker: Docker) -> str:
    """Build the services' image if its content changed."""
    word = rootfs.ensure_base(host, docker, BASE, recipe(host))
    tree = settings.SOURCE / "files" / "infra"
    digest = rootfs.digest_of(rootfs.base_digest(docker, BASE), rootfs.digest_tree(tree))
    layered = rootfs.ensure_layered(docker, settings.INFRA_IMAGE, BASE, rootfs.overlay([tree]), digest)
    return word if word == "built" else layered


def ensure_service(
    docker: Docker, name: str, role: str, mount: str, command: list[str], *, publish: int | None = None
) -> str:
    """A running service container of the current image."""
    digest = rootfs.base_digest(docker, settings.INFRA_IMAGE)
    found = docker.inspect("container", name)
    if found is not None:
        labels = found["Config"].get("Labels") or {}
        if settings.LABEL not in labels:
            raise LabError(f"a container {name} exists that the lab did not make: rename or remove it")
        if labels.get(settings.LABEL_HASH) == digest:
            if found["State"]["Running"]:
                return "running"
            docker.out("start", name)
            return "started"
        docker.out("rm", "--force", name)
    ports = [f"--publish=127.0.0.1::{publish}"] if publish else []
    docker.out(
        "run",
        "--detach",
        "--name",
        name,
        "--hostname",
        name,
        "--network",
        settings.NETWORK,
        "--restart=always",
        *ports,
        "--volume",
        mount,
        f"--label={settings.LABEL}=1",
        f"--label={settings.LABEL_ROLE}={role}",
        f"--label={settings.LABEL_HASH}={digest}",
        settings.INFRA_IMAGE,
        *command,
        what=f"starting {name}",
    )
    return "started"


def ensure_mirror(docker: Docker) -> str:
    """The package mirror; what it serves can change under it."""
    root = settings.home() / "mirror"
    root.mkdir(parents=True, exist_ok=True)
    return ensure_service(
        docker, settings.MIRROR, "mirror", f"{root}:/srv/mirror:ro", ["nginx", "-c", "/etc/nginx/gpulab.conf"]
    )


def ensure_registry(docker: Docker) -> str:
    """The image registry, published on a free port of loopback for pushing."""
    root = settings.home() / "registry"
    root.mkdir(parents=True, exist_ok=True)
    word = ensure_service(
        docker,
        settings.REGISTRY,
        "registry",
        f"{root}:/srv/registry",
        ["docker-registry", "serve", "/etc/gpulab/registry.yml"],
        publish=5000,
    )
    wait_http(f"{registry_url(docker)}/v2/", settings.REGISTRY)
    return word


def registry_url(docker: Docker) -> str:
    """The registry as this machine reaches it."""
    address = docker.out("port", settings.REGISTRY, "5000/tcp").splitlines()[0]
    return f"http://{address}"


def wait_http(url: str, name: str, seconds: float = 20) -> None:
    """Until a service answers."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), opener.open(url, timeout=2):
            return
        time.sleep(0.1)
    raise LabError(f"{name} does not answer on {url}: see `docker logs {name}`")


def drop_pushed(docker: Docker) -> list[str]:
    """Take out of the registry what tests and nodes pushed; the names of what went."""
    repositories = settings.home() / "registry" / "docker" / "registry" / "v2" / "repositories"
    own = {reference.partition("/")[0] for reference in (settings.TF_IMAGE, settings.SLIM_IMAGE)}
    gone = [path for path in sorted(repositories.glob("*")) if path.name not in own]
    for path in gone:
        shutil.rmtree(path)
    if gone:
        collect_garbage(docker)
    return [path.name for path in gone]


def collect_garbage(docker: Docker) -> None:
    """Drop what no tag of the registry names any more."""
    collect = ("docker-registry", "garbage-collect", "--delete-untagged", "/etc/gpulab/registry.yml")
    docker.run("exec", settings.REGISTRY, *collect, what="cleaning up the registry")
    # The registry remembers blobs that are gone now.
    docker.run("restart", settings.REGISTRY)
    wait_http(f"{registry_url(docker)}/v2/", settings.REGISTRY)
