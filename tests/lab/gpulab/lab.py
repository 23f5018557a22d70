"""The lab as a whole: up, down, clean, and what the checkout's inventory needs to know."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from . import (
    engine,
    images,
    keys,
    light,
    machine,
    mirror,
    nodes,
    registry,
    rootfs,
    services,
    settings,
    shell,
    simulator,
    wheels,
)
from .engine import Docker
from .errors import LabError
from .progress import Step, run_steps
from .settings import NodeSpec


@contextlib.contextmanager
def exclusive(what: str = "lab") -> Iterator[None]:
    """One builder at a time on this machine; the next one waits and says so."""
    settings.run_dir().mkdir(parents=True, exist_ok=True)
    with (settings.run_dir() / f"{what}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"another labctl works on the {what}; waiting for it …", file=sys.stderr, flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def write_dot_lab(docker: Docker) -> None:
    """Give this checkout's inventory the keys, fingerprints and ports of the running lab."""
    target = settings.dot_lab()
    target.mkdir(exist_ok=True)
    target.chmod(0o700)
    known = nodes.all_nodes(docker)
    keys.write_private(target / "ssh" / "id_ed25519", keys.user_key().read_text())
    keys.write_private(
        target / "ssh" / "known_hosts", keys.known_hosts({node.name: node.port for node in known})
    )
    facts = {
        "engine": {"host": docker.host, "own": docker.own},
        "archives": {archive: {"fingerprint": keys.fingerprint(archive)} for archive in keys.ARCHIVES},
        "nodes": [node.connection() for node in known],
    }
    keys.write_private(target / "lab.json", json.dumps(facts, indent=2) + "\n")


class Builder:
    """The steps of `up` and of `node-up`, and what they hand to each other."""

    def __init__(self, host: machine.Machine) -> None:
        self.host = host
        self.docker: Docker | None = None

    @property
    def engine(self) -> Docker:
        """The engine, once its step is done."""
        assert self.docker is not None
        return self.docker

    def install(self) -> str:
        """Packages the builds need."""
        missing = machine.missing_packages()
        machine.install(missing)
        return " ".join(missing) if missing else "nothing missing"

    def start_engine(self) -> str:
        """Engine and network."""
        self.docker, word = engine.ensure()
        if not self.docker.own:
            machine.check_disk(disk_needed(), Path((engine.info(self.docker.host) or {})["DockerRootDir"]))
        engine.ensure_network(self.docker)
        return word

    def make_keys(self) -> None:
        """All keys, before steps that run side by side need them."""
        keys.user_key()
        for archive in keys.ARCHIVES:
            keys.gpg_home(archive)

    def base(self, suite: str) -> str:
        """Root file system of the nodes, and the packages of that release for the mirror."""
        recipe = nodes.recipe(suite, mirror.downloads(suite))
        return rootfs.ensure_base(
            self.host, self.engine, nodes.base_image(suite), recipe, debs=mirror.debs_dir(suite)
        )

    def node_image(self, os_: settings.NodeOs) -> str:
        """The node image."""
        suite = nodes.suite_of(self.host, os_)
        return nodes.ensure_image(self.engine, os_, suite, simulator.output_dir())

    def make_node(self, spec: NodeSpec, hardware: dict[str, Any], *, keep: bool) -> str:
        """One node; `keep` = an existing one of the same image stays as it is."""
        docker = self.engine
        found = nodes.find(docker, spec.name) if keep else None
        image = rootfs.base_digest(docker, nodes.node_image(nodes.lookup_os(spec.os)))
        if found is not None and (found.os, found.image) == (spec.os, image):
            # Does nothing to a running one but wait until it is reachable.
            nodes.start(docker, found.name, found.port)
            return f"{'kept' if found.running else 'kept, started'}, port {found.port}"
        node = nodes.create(docker, self.host, spec, hardware, any_port=True)
        nodes.boot_new(docker, node)
        return f"bare {spec.os}, port {node.port}"

    @property
    def registry(self) -> registry.Registry:
        """The registry's client."""
        return registry.Registry(services.registry_url(self.engine))

    def suites(self, wanted: Iterable[settings.NodeOs] = ()) -> dict[str, str]:
        """Release of each archive → release that its packages come from.

        A release that is made of an unusual root file system has an archive from its first node on.
        """
        usual = set(settings.USUAL_SUITES[self.host.distribution])
        usual |= {nodes.suite_of(self.host, os_) for os_ in wanted}
        found = {os_.codename: nodes.suite_of(self.host, os_) for os_ in settings.OSES.values()}
        return {
            codename: suite
            for codename, suite in found.items()
            if suite in usual or (mirror.debs_dir(suite) / ".complete").exists()
        }

    def tf_ready(self) -> bool:
        """The registry serves the TensorFlow image already."""
        made = self.registry.label(settings.TF_IMAGE, settings.LABEL_HASH)
        return made == images.tf_digest() and images.has_packages(images.CUDA)

    def steps(self, oses: Iterable[str]) -> list[Step]:
        """What nodes of these operating systems need, in an order that lets long steps run side by side."""
        wanted = [nodes.lookup_os(key) for key in dict.fromkeys(oses)]
        archives = self.suites(wanted)
        suites = sorted(set(archives.values()))
        bases = tuple(f"base-{suite}" for suite in suites)
        steps = [
            Step("packages", "install what the builds need", self.install),
            Step("engine", "start the Docker Engine", self.start_engine, ("packages",)),
            Step("keys", "make keys", self.make_keys, ("packages",)),
            Step(
                "services-image",
                "build the services' image",
                lambda: services.ensure_image(self.host, self.engine),
                ("engine",),
            ),
            *(
                Step(
                    base,
                    f"build the nodes' {suite} root file system",
                    functools.partial(self.base, suite),
                    ("engine",),
                )
                for base, suite in zip(bases, suites, strict=True)
            ),
            Step(
                "simulator",
                "build the simulated driver and toolkit",
                simulator.ensure,
                ("packages",),
            ),
            Step(
                "registry",
                "start the registry",
                lambda: services.ensure_registry(self.engine),
                ("services-image",),
            ),
            Step(
                "mirror",
                "sign the package archives",
                lambda: mirror.ensure(archives, simulator.output_dir()),
                (*bases, "simulator", "keys"),
            ),
            Step(
                "mirror-up",
                "start the package mirror",
                lambda: services.ensure_mirror(self.engine),
                ("mirror", "services-image"),
            ),
            *(
                Step(
                    f"node-{os_.key}",
                    f"build the {os_.key} node image",
                    functools.partial(self.node_image, os_),
                    (f"base-{nodes.suite_of(self.host, os_)}", "simulator"),
                )
                for os_ in wanted
            ),
        ]
        return steps

    def image_steps(self) -> list[Step]:
        """The registry's images."""

        def unless_ready(work: Callable[[], str]) -> Callable[[], str]:
            return lambda: "reused" if self.tf_ready() else work()

        return [
            Step(
                "tf-packages",
                "fetch TensorFlow 2.9 and cuDNN",
                unless_ready(images.build_tf_packages),
                ("registry",),
            ),
            Step(
                "tf-root",
                "install CUDA 11.2",
                unless_ready(lambda: images.build_tf_root(self.host)),
                ("registry",),
            ),
            Step(
                "slim",
                "push the small Python image",
                lambda: images.ensure_slim(self.host, self.registry),
                ("registry",),
            ),
            Step(
                "tf-push",
                "push the TensorFlow image",
                unless_ready(lambda: images.push_tf(self.engine, self.registry)),
                ("tf-root", "tf-packages"),
            ),
            Step(
                "images-archive",
                "sign the images' packages",
                lambda: mirror.ensure_images(images.suites(self.host)),
                # Who signs last stops the agents.
                ("tf-root", "slim", "mirror"),
            ),
            # What a node needs comes first.
            *self.wheel_steps(("mirror", "tf-packages")),
        ]

    def wheel_steps(self, after: tuple[str, ...] = ()) -> list[Step]:
        """The Python indexes."""
        locks = wheels.locks(self.host)
        fetched = tuple(f"wheels-{lock.name}-{lock.python}" for lock in locks)
        return [
            *(
                Step(key, f"fetch {lock.requirements.stem}", functools.partial(wheels.fetch, lock), after)
                for key, lock in zip(fetched, locks, strict=True)
            ),
            Step("pypi", "write the Python indexes", lambda: wheels.ensure(self.host), fetched),
        ]


def disk_needed() -> int:
    """GiB that this start may still fill."""
    pushed = settings.home() / "registry/docker/registry/v2/repositories" / settings.TF_IMAGE.split(":")[0]
    return settings.DISK_WARM_GIB if pushed.exists() else settings.DISK_COLD_GIB


def up(*, bare: bool = False) -> None:
    """Everything for the default nodes; what is there already is reused."""
    host = machine.check()
    machine.check_disk(disk_needed(), settings.home())
    started = time.monotonic()
    with exclusive():
        builder = Builder(host)
        steps = builder.steps(spec.os for spec in settings.DEFAULT_NODES)
        ready = (*(step.key for step in steps if step.key.startswith("node-")), "mirror-up", "keys")
        steps += builder.image_steps()
        for spec in settings.DEFAULT_NODES:
            hardware = nodes.hardware_profile(spec.os, spec.gpus, None)
            steps.append(
                Step(
                    spec.name,
                    f"boot {spec.name}",
                    functools.partial(builder.make_node, spec, hardware, keep=not bare),
                    ready,
                )
            )
        run_steps(steps, logs=settings.home() / "logs")
        if bare:
            services.drop_pushed(builder.engine)
        write_dot_lab(builder.engine)
        drop_old_node_images(builder.engine)
        # What this start replaced; images that a container still uses stay.
        builder.engine.out("image", "prune", "--force", "--filter", f"label={settings.LABEL}=1")
    print(
        f"The lab is up after {time.monotonic() - started:.0f} s: "
        f"{', '.join(node.name for node in nodes.all_nodes(builder.engine))}."
    )


def publish_wheels() -> None:
    """The Python indexes alone, after a change of their stand-ins or locks."""
    with exclusive():
        run_steps(Builder(machine.check()).wheel_steps(), logs=settings.home() / "logs" / "wheels")


def drop_old_node_images(docker: Docker) -> None:
    """Node images under names that this version of the lab does not make any more."""
    known = {nodes.node_image(os_) for os_ in settings.OSES.values()}
    names = docker.out(
        "image", "ls", "--format", "{{.Repository}}:{{.Tag}}", f"{settings.PREFIX}-node"
    ).split()
    for name in set(names) - known:
        docker.ask("image", "rm", name)  # in use by a node of an older version: the next start tries again


def node_up(spec: NodeSpec, hardware: dict[str, Any]) -> nodes.Node:
    """One more node, made bare; images are built first if they are missing."""
    host = machine.check()
    nodes.lookup_os(spec.os)
    with exclusive():
        builder = Builder(host)
        run_steps(builder.steps([spec.os]), logs=settings.home() / "logs" / spec.name)
        if spec.port is None and (before := nodes.find(builder.engine, spec.name)):
            spec = replace(spec, port=before.port)
        node = nodes.create(builder.engine, host, spec, hardware)
        write_dot_lab(builder.engine)
    # Others may build meanwhile: booting takes most of the time and shares nothing.
    nodes.boot_new(builder.engine, node)
    return nodes.require(builder.engine, spec.name)


def light_up(names: list[str], like: str) -> list[nodes.Node]:
    """Light copies of a node, several at once."""
    host = machine.check()
    docker = engine.require()
    model = nodes.require(docker, like)
    if not model.running:
        raise LabError(f"{model.name} does not run, and only a running node can be copied (--like)")
    if model.name in names:
        raise LabError(f"{model.name} cannot be replaced by a copy of itself (--like): choose another name")
    hardware = json.loads(nodes.read_file(docker, model.name, nodes.HARDWARE))
    with exclusive():
        made = light.create_all(docker, host, model, names, hardware)
        write_dot_lab(docker)
    light.start_all(docker, made)
    return [replace(node, running=True) for node in made]


def node_reset(name: str) -> nodes.Node:
    """The same node again, bare; hardware faults are gone too."""
    docker = engine.require()
    node = nodes.require(docker, name)
    hardware = json.loads(nodes.read_file(docker, node.name, nodes.HARDWARE))
    hardware["faults"] = {}
    return node_up(NodeSpec(node.name, node.os, (), node.port), hardware)


def node_down(names: Iterable[str]) -> list[str]:
    """Remove nodes; which there were."""
    docker = engine.require()
    with exclusive():
        gone = light.remove_all(docker, [nodes.full_name(name) for name in names])
        light.drop_images(docker)
        light.restore_inotify_limit(docker)
        write_dot_lab(docker)
    return gone


def down() -> list[str]:
    """Remove the lab's containers and stop its own engine; images and caches stay for the next start."""
    done = []
    with exclusive():
        docker = engine.find()
        if docker is None and engine.remembered() == "own" and (settings.home() / "docker").exists():
            # Its containers have a restart policy: remove them now, or they come back with the engine.
            docker, _ = engine.ensure()
        if docker is not None:
            done += remove_containers(docker)
        light.restore_inotify_limit(None)
        if engine.stop_own():
            done.append("stopped the lab's own Docker Engine")
        (settings.dot_lab() / "lab.json").unlink(missing_ok=True)
    return done


def remove_containers(docker: Docker) -> list[str]:
    """Containers, volumes and the network; nothing without the lab's label."""
    done = []
    if containers := docker.ours("container"):
        docker.out("rm", "--force", "--volumes", *containers)
        done.append(f"removed {len(containers)} containers")
    if volumes := docker.ours("volume"):
        docker.out("volume", "rm", "--force", *volumes)
        done.append(f"removed {len(volumes)} volumes")
    if networks := docker.ours("network"):
        docker.out("network", "rm", *networks)
        done.append("removed the network")
    return done


def clean() -> list[str]:
    """Remove everything that the lab made on this machine."""
    docker = engine.find()
    done = []
    if docker is not None and not docker.own:
        with exclusive():
            done += remove_containers(docker)
            if images := docker.ours("image"):
                docker.out("image", "rm", "--force", *images)
                done.append(f"removed {len(images)} images")
    done += down()
    for directory in (settings.home(), settings.dot_lab(), settings.run_dir()):
        if remove_owned(directory):
            done.append(f"removed {directory}")
    return done


#: Everything that the lab puts into its directories. GPULAB_HOME may hold other things too.
OWNED = (
    "build",
    "cache",
    "daemon.json",
    "docker",
    "docker.pid",
    "docker.sock",
    "engine.json",
    "exec",
    "firewall.json",
    "inotify.json",
    "keys",
    "lab.json",
    "lab.lock",
    "logs",
    "mirror",
    "registry",
    "simulator",
    "simulator.new",
    "ssh",
    "tools",
)


def mounts_below(path: Path, mountinfo: str) -> list[str]:
    """Mount points at and under a directory, the last one first."""
    points = [line.split()[4].replace("\\040", " ") for line in mountinfo.splitlines()]
    return [point for point in reversed(points) if point == str(path) or point.startswith(f"{path}/")]


def remove_owned(directory: Path) -> bool:
    """Remove what the lab made in a directory, and the directory if nothing else is in it."""
    found = [path for name in OWNED if (path := directory / name).exists() or path.is_symlink()]
    for path in found:
        # An engine that was killed leaves its mounts behind.
        for mount in mounts_below(path, Path("/proc/self/mountinfo").read_text()):
            shell.run(["umount", mount], what=f"unmounting {mount}")
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    with contextlib.suppress(OSError):
        directory.rmdir()
    return bool(found)


def status() -> dict[str, Any]:
    """What runs and where."""
    docker = engine.find()
    if docker is None:
        return {"up": False, "engine": None, "nodes": [], "services": [], "disk_gib": None}
    facts = engine.info(docker.host) or {}
    services = {name: docker.inspect("container", name) for name in (settings.MIRROR, settings.REGISTRY)}
    known = nodes.all_nodes(docker)
    return {
        "up": bool(known),
        "engine": {
            "host": docker.host,
            "own": docker.own,
            "version": facts.get("ServerVersion"),
            "driver": facts.get("Driver"),
        },
        "nodes": [node.connection() for node in known],
        "services": [
            {"name": name, "running": bool(found and found["State"]["Running"])}
            for name, found in services.items()
        ],
        "home": str(settings.home()),
    }
