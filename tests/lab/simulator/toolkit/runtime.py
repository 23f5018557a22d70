"""SIMULATED nvidia-container-runtime: an OCI runtime that edits a GPU container's configuration and hands
over to runc."""

import json
import os
import re
import sys
import time

from .common import (
    JIT_CDI,
    Failure,
    Log,
    apply_edits,
    cdi_spec,
    environment_of,
    find_program,
    load_cdi,
    load_tables,
    modprobe,
    version_text,
    visible_devices,
)


def low_level(tables):
    names = tables["nvidia-container-runtime"]["runtimes"]
    for name in names:
        path = find_program(name)
        if path:
            return path
    raise Failure(
        "error constructing low-level runtime: error locating runtime: "
        "no runtime binary found from candidate list: [{}]".format(" ".join(names))
    )


def option(arguments, *names):
    for number, word in enumerate(arguments):
        if word in names and number + 1 < len(arguments):
            return arguments[number + 1]
        for name in names:
            if name.startswith("--") and word.startswith(name + "="):
                return word.split("=", 1)[1]
    return None


def subcommand(arguments):
    """runc's command, past its global options."""
    takes_value = {"--root", "--log", "--log-format", "--criu", "--rootless"}
    words = list(arguments)
    while words:
        word = words.pop(0)
        if word in takes_value:
            words = words[1:]
        elif not word.startswith("-"):
            return word
    return None


def write_log(arguments, message):
    path = option(arguments, "--log")
    if not path:
        return
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    with open(path, "a", encoding="utf-8") as stream:
        if option(arguments, "--log-format") == "json":
            stream.write(json.dumps({"level": "error", "msg": message, "time": stamp}) + "\n")
        else:
            stream.write(f'time="{stamp}" level=error msg={json.dumps(message)}\n')


def qualified(name):
    return re.fullmatch(r"[\w.-]+/[\w.-]+=[\w.:-]+", name) is not None


def remove_nvidia_hook(config):
    hooks = config.get("hooks") or {}
    if hooks.get("prestart"):
        hooks["prestart"] = [
            hook
            for hook in hooks["prestart"]
            if os.path.basename(hook.get("path", ""))
            not in ("nvidia-container-runtime-hook", "nvidia-container-toolkit")
        ]


def legacy(config, tables):
    hook = (
        find_program(tables["nvidia-container-runtime-hook"]["path"])
        or "/usr/bin/nvidia-container-runtime-hook"
    )
    prestart = config.setdefault("hooks", {}).setdefault("prestart", None) or []
    names = ("nvidia-container-runtime-hook", "nvidia-container-toolkit")
    if not any(os.path.basename(item.get("path", "")) in names for item in prestart):
        prestart.append({"path": hook, "args": ["nvidia-container-runtime-hook", "prestart"]})
    config["hooks"]["prestart"] = prestart


def from_specs(config, tables, devices):
    available, errors = load_cdi(tables["nvidia-container-runtime.modes.cdi"]["spec-dirs"])
    missing = [name for name in devices if name not in available]
    if missing:
        for path, error in errors.items():
            Log.warning(f"{path}: {error}")
        raise Failure("failed to inject CDI devices: unresolvable CDI devices " + ", ".join(missing))
    remove_nvidia_hook(config)
    done = []
    for name in devices:
        spec, edits = available[name]
        if spec["kind"] not in done:
            done.append(spec["kind"])
            apply_edits(config, spec.get("containerEdits") or {})
        apply_edits(config, edits)


def just_in_time(config, tables, devices):
    for module in tables.get("nvidia-container-runtime.modes.jit-cdi", {}).get("load-kernel-modules", []):
        modprobe(module)
    try:
        spec = cdi_spec("runtime.nvidia.com", "gpu")
    except Failure as error:
        raise Failure(
            "failed to construct OCI spec modifier: failed to generate automatic CDI spec: " + str(error)
        ) from None
    known = {device["name"]: device["containerEdits"] for device in spec["devices"]}
    wanted = [name.partition("=")[2] or name for name in devices]
    for name in wanted:
        if name not in known and name != "none":
            raise Failure(
                "failed to construct OCI spec modifier: failed to generate automatic CDI spec: "
                "failed to construct device spec generators: unsupported device id: " + name
            )
    remove_nvidia_hook(config)
    apply_edits(config, spec["containerEdits"])
    for name in wanted:
        if name != "none":
            apply_edits(config, known[name])


def modify(bundle, tables):
    path = os.path.join(bundle, "config.json")
    with open(path, encoding="utf-8") as stream:
        config = json.load(stream)
    devices = visible_devices(environment_of(config))
    mode = tables["nvidia-container-runtime"]["mode"]
    if mode == "auto":
        only_cdi = bool(devices) and all(qualified(name) for name in devices)
        if only_cdi and not all(name.startswith("runtime.nvidia.com/gpu=") for name in devices):
            mode = "cdi"
        elif only_cdi or JIT_CDI:
            mode = "jit-cdi"
        else:
            mode = "legacy"
    if mode == "legacy":
        legacy(config, tables)
    elif mode in ("cdi", "jit-cdi"):
        if not devices:
            return
        kind = tables["nvidia-container-runtime.modes.cdi"]["default-kind"]
        if mode == "jit-cdi":
            just_in_time(config, tables, devices)
        else:
            from_specs(config, tables, [name if qualified(name) else f"{kind}={name}" for name in devices])
    else:
        raise Failure("invalid runtime mode: " + mode)
    with open(path, "w", encoding="utf-8") as stream:
        json.dump(config, stream)


def main():
    arguments = sys.argv[1:]
    Log.quiet = True
    if any(word in ("--version", "-version", "-v") for word in arguments):
        print(version_text("NVIDIA Container Runtime", "spec: 1.2.1") + "\n", flush=True)
    try:
        tables = load_tables()
        runtime = low_level(tables)
        if subcommand(arguments) == "create":
            modify(option(arguments, "--bundle", "-b") or ".", tables)
        os.execv(runtime, [os.path.basename(runtime), *arguments])
    except (Failure, OSError, ValueError) as error:
        message = f"failed to create NVIDIA Container Runtime: {error}"
        write_log(arguments, message)
        Log.error(message)
    return 1


sys.exit(main())
