"""SIMULATED nvidia-cdi-hook: the createContainer hooks that a CDI specification names. They run in the
container's mount namespace, before its root becomes the root."""

import os
import subprocess
import sys

from .common import (
    Failure,
    Log,
    container_state,
    default_ldconfig,
    inside,
    run_ldconfig,
    version_text,
)


def flags(words):
    values: dict[str, list[str]] = {}
    words = list(words)
    while words:
        name, sign, value = words.pop(0).lstrip("-").partition("=")
        values.setdefault(name, []).append(
            value if sign else words.pop(0) if words and not words[0].startswith("--") else "true"
        )
    return values


def root_of(values):
    source = (values.get("container-spec") or ["-"])[-1]
    if source in ("", "-"):
        return container_state(sys.stdin)[2]
    with open(source, encoding="utf-8") as stream:
        return container_state(stream)[2]


def update_ldcache(values):
    root = root_of(values)
    folders = values.get("folder") or []
    directory = inside(root, "/etc/ld.so.conf.d")
    if folders and os.path.exists(inside(root, "/etc/ld.so.conf")):
        os.makedirs(directory, exist_ok=True)
        with open(os.path.join(directory, "00-nvcr-simulated.conf"), "w", encoding="utf-8") as stream:
            stream.write("".join(folder + "\n" for folder in folders))
    program = (values.get("ldconfig-path") or [default_ldconfig()])[-1]
    run_ldconfig(program, root, folders)


def create_symlinks(values):
    root = root_of(values)
    for item in values.get("link") or []:
        target, _, link = item.partition("::")
        path = os.path.join(inside(root, os.path.dirname(link)), os.path.basename(link))
        if os.path.islink(path) and os.readlink(path) == target:
            continue
        os.makedirs(os.path.dirname(path), exist_ok=True)
        if os.path.lexists(path):
            os.unlink(path)
        os.symlink(target, path)


def change_mode(values):
    root = root_of(values)
    for path in values.get("path") or []:
        os.chmod(inside(root, path), int(values["mode"][-1], 8))


def disable_device_node_modification(values):
    """The driver must not touch device nodes from inside: its parameters say so in the container."""
    root = root_of(values)
    source = "/proc/driver/nvidia/params"
    if not os.path.exists(source) or not os.path.exists(inside(root, source)):
        return
    with open(source, encoding="utf-8") as stream:
        text = stream.read()
    changed = text.replace("ModifyDeviceFiles: 1", "ModifyDeviceFiles: 0")
    if changed == text:
        return
    scratch = f"/run/nvidia-cdi-hook-params.{os.getpid()}"
    with open(scratch, "w", encoding="utf-8") as stream:
        stream.write(changed)
    os.chmod(scratch, 0o444)
    subprocess.run(["/bin/mount", "--bind", scratch, inside(root, source)], check=True)
    os.unlink(scratch)


def enable_cuda_compat(values):
    """An image's own compatibility libraries go into the library path if they are newer than the driver."""
    root = root_of(values)
    host = (values.get("host-driver-version") or [""])[-1]
    base = inside(root, "/usr/local/cuda/compat")
    found = (
        [name for name in os.listdir(base) if name.startswith("libcuda.so.") and name.count(".") > 2]
        if os.path.isdir(base)
        else []
    )
    if not host or not found:
        return
    newest = max(int(name.split(".")[2]) for name in found)
    if newest <= int(host.split(".")[0]):
        return
    directory = inside(root, "/etc/ld.so.conf.d")
    os.makedirs(directory, exist_ok=True)
    with open(os.path.join(directory, "00-compat-simulated.conf"), "w", encoding="utf-8") as stream:
        stream.write("/usr/local/cuda/compat\n")


COMMANDS = {
    "update-ldcache": update_ldcache,
    "create-symlinks": create_symlinks,
    "chmod": change_mode,
    "disable-device-node-modification": disable_device_node_modification,
    "enable-cuda-compat": enable_cuda_compat,
    "cudacompat": enable_cuda_compat,
}


def main():
    words = sys.argv[1:]
    while words and words[0] in ("--debug", "-d", "--quiet"):
        words.pop(0)
    if words[:1] in (["--version"], ["-v"]):
        print(version_text("NVIDIA CDI Hook"))
        return 0
    command = COMMANDS.get(words[0]) if words else None
    if not command:
        if words and words[0] in ("--help", "-h"):
            print("nvidia-cdi-hook (SIMULATED): " + ", ".join(sorted(COMMANDS)))
            return 0
        # An unknown hook must not keep a container from starting: a warning, as the real one gives.
        Log.warning("Unsupported CDI hook: %s" % (words[0] if words else ""))
        return 0
    try:
        command(flags(words[1:]))
    except (Failure, OSError, ValueError, KeyError, subprocess.CalledProcessError) as error:
        Log.error(str(error))
        return 1
    return 0


sys.exit(main())
