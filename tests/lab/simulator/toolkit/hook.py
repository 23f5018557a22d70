"""SIMULATED nvidia-container-runtime-hook: the prestart hook behind `docker run --gpus` (Docker up to 29.1)
and the runtime's legacy mode. It reads what the container asks for and calls nvidia-container-cli."""

import os
import sys

from .common import (
    CONFIG_FILE,
    Failure,
    container_state,
    environment_of,
    find_program,
    load_tables,
    requirements_of,
    version_text,
    visible_devices,
)

SUPPORTED = ["compat32", "compute", "display", "graphics", "ngx", "utility", "video"]


def capabilities(env, allowed):
    supported = [
        name for name in SUPPORTED if name in (SUPPORTED if allowed == "all" else allowed.split(","))
    ]
    legacy_image = bool(env.get("CUDA_VERSION")) and not env.get("NVIDIA_REQUIRE_CUDA")
    value = env.get("NVIDIA_DRIVER_CAPABILITIES")
    if value is None and legacy_image:
        return supported
    if not value:
        return [name for name in ("compute", "utility") if name in supported]
    wanted = [name.strip() for name in value.split(",") if name.strip()]
    if "all" in wanted:
        return supported
    chosen = [name for name in supported if name in wanted]
    if len(chosen) != len(set(wanted)):
        raise Failure(
            "unsupported capabilities found in '{}' (allowed '{}')".format(",".join(wanted), ",".join(chosen))
        )
    return chosen


def prestart(config_path):
    tables = load_tables(config_path or CONFIG_FILE)
    top, cli = tables[""], tables["nvidia-container-cli"]
    state, config, root = container_state(sys.stdin)
    env = environment_of(config)
    devices = visible_devices(env)
    if top.get("accept-nvidia-visible-devices-as-volume-mounts"):
        base = "/var/run/nvidia-container-devices/"
        mounted = [
            mount["destination"][len(base) :]
            for mount in config.get("mounts") or []
            if mount["destination"].startswith(base)
        ]
        devices = mounted or devices
    if devices is None:
        return
    caps = set(((config.get("process") or {}).get("capabilities") or {}).get("bounding") or [])
    privileged = "CAP_SYS_ADMIN" in caps
    accept = top.get("accept-nvidia-visible-devices-envvar-when-unprivileged", True)
    if not privileged and not accept:
        print(
            "Ignoring devices specified in NVIDIA_VISIBLE_DEVICES (privileged=false, "
            "accept-nvidia-visible-devices-envvar-when-unprivileged=false) ",
            file=sys.stderr,
        )
        return
    mode = tables["nvidia-container-runtime"]["mode"]
    if not tables["nvidia-container-runtime-hook"].get("skip-mode-detection") and mode not in (
        "auto",
        "legacy",
    ):
        raise Failure(
            "invoking the NVIDIA Container Runtime Hook directly (e.g. specifying the docker --gpus flag) "
            "is not supported. "
            "Please use the NVIDIA Container Runtime (e.g. specify the --runtime=nvidia flag) instead."
        )
    program = cli.get("path") or find_program("nvidia-container-cli")
    if not program:
        raise Failure(
            "couldn't find binary nvidia-container-cli in PATH: "
            'exec: "nvidia-container-cli": executable file not found in $PATH'
        )
    arguments = [program]
    for key, flag in (
        ("root", "--root="),
        ("debug", "--debug="),
        ("ldcache", "--ldcache="),
        ("user", "--user="),
    ):
        if cli.get(key):
            arguments.append(flag + cli[key])
    if cli.get("load-kmods"):
        arguments.append("--load-kmods")
    arguments.append("configure")
    if cli.get("ldconfig"):
        arguments.append("--ldconfig=" + cli["ldconfig"])
    if cli.get("no-cgroups"):
        arguments.append("--no-cgroups")
    arguments.append("--device=" + ",".join(devices))
    arguments += ["--" + name for name in capabilities(env, top["supported-driver-capabilities"])]
    arguments += ["--require=" + text for text in requirements_of(env, top.get("disable-require", False))]
    arguments += [f"--pid={state['pid']}", root]
    environment = dict(os.environ)
    environment.update(item.partition("=")[::2] for item in cli.get("environment") or [])
    os.execve(program, arguments, environment)


USAGE = """Usage of nvidia-container-runtime-hook:
  -config string
    \tconfiguration file
  -debug
    \tenable debug output
  -version
    \tenable version output

Commands:
  prestart
        run the prestart hook
  poststart
        no-op
  poststop
        no-op"""


def main():
    words, config = sys.argv[1:], None
    while words and words[0].startswith("-"):
        word = words.pop(0).lstrip("-")
        if word == "version":
            print(version_text("NVIDIA Container Runtime Hook"))
            return 0
        if word.startswith("config"):
            config = word.partition("=")[2] or words.pop(0)
        elif word != "debug":
            print(USAGE, file=sys.stderr)
            return 2
    if words[:1] == ["prestart"]:
        try:
            prestart(config)
        except (Failure, OSError, ValueError, KeyError) as error:
            print(error, file=sys.stderr)
            return 1
        return 0
    if words[:1] in (["poststart"], ["poststop"]):
        return 0
    print(USAGE, file=sys.stderr)
    return 2


sys.exit(main())
