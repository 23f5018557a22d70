"""The images in the lab's registry: TensorFlow 2.9 with CUDA 11.2.2 and cuDNN 8, and a small Python."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from . import machine, mirror, registry, rootfs, services, settings, wheels
from .engine import Docker
from .shell import run

REQUIREMENTS = settings.SOURCE / "requirements-tensorflow.txt"
SITE = "usr/local/lib/python3.9/dist-packages"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

#: What derived images install beside Python packages; the mirror has them with all they need.
EXTRAS = ("openssh-server", "ca-certificates", "curl", "git", "less", "procps", "python3-pip", "sudo", "tini")

#: Debian 11's non-free section holds CUDA 11.2.2's libraries; TensorFlow 2.9 has wheels for its Python 3.9.
CUDA = rootfs.Recipe(
    suite="bullseye",
    components=("main", "contrib", "non-free"),
    updates=False,
    packages=(
        "python3",
        # pip does not start without it; the official image has it, too.
        "python3-distutils",
        "ca-certificates",
        "libcudart11.0",
        "libcublas11",
        "libcublaslt11",
        "libcufft10",
        "libcurand10",
        "libcusolver11",
        "libcusparse11",
    ),
    download=EXTRAS,
    hooks=(
        'ln -s /usr/bin/python3 "$1"/usr/local/bin/python',
        f'mkdir -p "$1"/{SITE}',
        # Its wheel's own script would name another interpreter.
        'printf "#!/bin/sh\\nexec python3 -m pip \\"\\$@\\"\\n" >"$1"/usr/local/bin/pip3',
        'chmod 755 "$1"/usr/local/bin/pip3 && ln -s pip3 "$1"/usr/local/bin/pip',
    ),
)

#: As in the official image, where it decides how containers get their GPU.
TF_ENV = {
    "PATH": f"/usr/local/nvidia/bin:/usr/local/cuda/bin:{PATH}",
    "LD_LIBRARY_PATH": f"/usr/local/nvidia/lib:/usr/local/nvidia/lib64:/{SITE}/nvidia/cudnn/lib",
    "NVIDIA_VISIBLE_DEVICES": "all",
    "NVIDIA_DRIVER_CAPABILITIES": "compute,utility",
    "NVIDIA_REQUIRE_CUDA": "cuda>=11.2 brand=tesla,driver>=418,driver<419 brand=tesla,driver>=450,driver<451",
    "CUDA_VERSION": "11.2.2",
    "LANG": "C.UTF-8",
}

SLIM_PATHS = (
    "usr/share/doc",
    "usr/share/locale",
    "usr/share/zoneinfo",
    "usr/lib/x86_64-linux-gnu/gconv",
)


def slim_recipe(host: machine.Machine) -> rootfs.Recipe:
    """A base with Python, pip and apt, and little else."""
    suite = "jammy" if host.distribution == "ubuntu" else "bookworm"
    components = ("main", "universe") if host.distribution == "ubuntu" else ("main",)
    drop = " ".join(f'"$1"/{path}' for path in SLIM_PATHS)
    return rootfs.Recipe(
        suite=suite,
        components=components,
        packages=("python3", "python3-pip", "ca-certificates"),
        variant="apt",
        download=EXTRAS,
        hooks=(f"rm -rf {drop}",),
    )


def suites(host: machine.Machine) -> tuple[str, ...]:
    """What the images are made of."""
    return CUDA.suite, slim_recipe(host).suite


def make_root(host: machine.Machine, recipe: rootfs.Recipe, target: Path) -> None:
    """A root file system from scratch, and the packages that images made of it may want."""
    shutil.rmtree(target, ignore_errors=True)
    debs = mirror.image_debs_dir(recipe.suite)
    rootfs.mmdebstrap(host, recipe, target, debs=debs)
    (debs / ".complete").write_text(recipe.digest())


def has_packages(recipe: rootfs.Recipe) -> bool:
    """Whether those packages are there."""
    stamp = mirror.image_debs_dir(recipe.suite) / ".complete"
    return stamp.exists() and stamp.read_text() == recipe.digest()


def build_dir(name: str, digest: str) -> Path:
    """Where an image is put together; what an interrupted build finished is found again by the digest."""
    path = settings.home() / "build" / f"{name}-{digest}"
    path.mkdir(parents=True, exist_ok=True)
    for other in path.parent.glob(f"{name}-*"):
        if other != path:
            shutil.rmtree(other, ignore_errors=True)  # a step beside this one may be at it too
    return path


def tf_digest() -> str:
    """Changes when the image's content would."""
    return rootfs.digest_of(CUDA.digest(), hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest(), TF_ENV, 2)


def build_tf_root(host: machine.Machine) -> str:
    """The CUDA root file system."""
    directory = build_dir("tf", tf_digest())
    done = directory / "root.done"
    if done.exists() and has_packages(CUDA):
        return "reused"
    make_root(host, CUDA, directory / "root")
    done.touch()
    return "built"


def build_tf_packages() -> str:
    """TensorFlow, cuDNN and what they need, as wheels for the image's Python."""
    directory = build_dir("tf", tf_digest())
    done = directory / "packages.done"
    if done.exists():
        return "reused"
    target = directory / "packages"
    shutil.rmtree(target, ignore_errors=True)
    run(
        [
            *wheels.pip_command(),
            "install",
            "--quiet",
            "--no-compile",
            "--no-cache-dir",
            "--target",
            target,
            *wheels.target_options("3.9", glibc=17),
            "--requirement",
            REQUIREMENTS,
        ],
        what="fetching TensorFlow's wheels with pip",
    )
    done.touch()
    return "built"


def push_tf(docker: Docker, client: registry.Registry) -> str:
    """Put the parts together, import TensorFlow once (a check, and it leaves the byte code), and push."""
    digest = tf_digest()
    directory = build_dir("tf", digest)
    root, packages = directory / "root", directory / "packages"
    joined = directory / "joined.done"
    if not joined.exists():
        # Only a rename: the packages become a part of the root file system.
        target = root / SITE
        if packages.exists():
            shutil.rmtree(target, ignore_errors=True)
            packages.rename(target)
        joined.touch()
    check = "import tensorflow as tf; assert tf.__version__ == '2.9.0'; tf.config.list_physical_devices()"
    run(
        [
            "chroot",
            root,
            "/usr/bin/env",
            "-i",
            *(f"{name}={value}" for name, value in TF_ENV.items()),
            "TF_CPP_MIN_LOG_LEVEL=2",
            "python3",
            "-c",
            check,
        ],
        what="importing TensorFlow in the finished image",
    )
    layers = registry.tree_layers(root, "Debian 11, CUDA 11.2.2, cuDNN 8.5, TensorFlow 2.9.0")
    outdated = client.label(settings.TF_IMAGE, settings.LABEL_HASH) is not None
    size = client.push(
        registry.Image(settings.TF_IMAGE, layers, TF_ENV, labels=registry.image_labels(digest))
    )
    if outdated:
        services.collect_garbage(docker)
    shutil.rmtree(directory)
    return f"{size / settings.GIB:.1f} GiB in {len(layers)} layers"


def ensure_slim(host: machine.Machine, client: registry.Registry) -> str:
    """The small image."""
    recipe = slim_recipe(host)
    digest = recipe.digest()
    if client.label(settings.SLIM_IMAGE, settings.LABEL_HASH) == digest and has_packages(recipe):
        return "reused"
    directory = build_dir("slim", digest)
    make_root(host, recipe, directory / "root")
    layers = registry.tree_layers(directory / "root", "Python")
    env = {"PATH": PATH, "LANG": "C.UTF-8"}
    size = client.push(
        registry.Image(settings.SLIM_IMAGE, layers, env, ("python3",), registry.image_labels(digest))
    )
    shutil.rmtree(directory)
    return f"{size / (1 << 20):.0f} MiB"
