"""SIMULATED nvidia-ctk."""

import json
import os
import sys
from typing import Any

from .common import (
    CDI_DIRS,
    COMMENTED,
    COMMIT,
    CONFIG_FILE,
    JIT_CDI,
    VERSION,
    Failure,
    Log,
    cdi_spec,
    default_config,
    dump_toml,
    load_cdi,
    load_tables,
    modprobe,
    to_yaml,
    version_text,
)


class Usage(Failure):
    pass


def parse_flags(words, strings=(), switches=(), aliases=None, env=None):
    """Flags as urfave/cli takes them: one or two dashes, a value after = or as the next word."""
    aliases = aliases or {}
    values: dict[str, Any] = {name: [] for name in strings}
    values.update(dict.fromkeys(switches, False))
    for name, variable in (env or {}).items():
        if os.environ.get(variable):
            values[name] = (
                [os.environ[variable]]
                if name in strings
                else os.environ[variable].lower() in ("1", "t", "true")
            )
    given: set[str] = set()
    rest: list[str] = []
    words = list(words)
    while words:
        word = words.pop(0)
        if word == "--" or not word.startswith("-"):
            rest = [word, *words] if word != "--" else words
            break
        name, sign, value = word.lstrip("-").partition("=")
        name = aliases.get(name, name)
        if name in ("help", "h"):
            raise Usage("help")
        if name in switches:
            values[name] = value.lower() in ("", "1", "t", "true")
        elif name in strings:
            if not sign:
                if not words:
                    raise Usage("flag needs an argument: -" + name)
                value = words.pop(0)
            if name not in given:
                values[name] = []
            values[name].append(value)
        else:
            raise Usage("flag provided but not defined: -" + name)
        given.add(name)
    values["_given"] = given
    return values, rest


def last(values, name, default=""):
    return values[name][-1] if values[name] else default


# ---------------------------------------------------------------- runtime configure


def runtime_configure(words):
    values, _ = parse_flags(
        words,
        strings=(
            "runtime",
            "config",
            "drop-in-config",
            "executable-path",
            "config-mode",
            "config-source",
            "oci-hook-path",
            "hook-path",
            "nvidia-runtime-name",
            "nvidia-runtime-path",
            "nvidia-runtime-hook-path",
        ),
        switches=("dry-run", "nvidia-set-as-default", "cdi.enabled"),
        aliases={
            "runtime-path": "nvidia-runtime-path",
            "set-as-default": "nvidia-set-as-default",
            "cdi.enable": "cdi.enabled",
            "enable-cdi": "cdi.enabled",
        },
    )
    runtime = last(values, "runtime", "docker")
    if runtime not in ("docker", "containerd", "crio"):
        raise Failure(f"unrecognized runtime '{runtime}'")
    if runtime != "docker":
        raise Failure(f"runtime {runtime} is not part of this SIMULATED nvidia-ctk: only docker")
    path = last(values, "config") or "/etc/docker/daemon.json"
    Log.info(f"Loading config from {path}")
    config: Any = {}
    try:
        with open(path, encoding="utf-8") as stream:
            text = stream.read()
    except FileNotFoundError:
        Log.info("Config file does not exist; using empty config")
    except OSError as error:
        raise Failure(f"unable to load config for runtime docker: unable to read config: {error}") from None
    else:
        try:
            # As Go's decoder: the first JSON value of the file, whatever follows it.
            config = json.JSONDecoder().raw_decode(text.lstrip())[0] if text.strip() else None
        except ValueError:
            config = None
        if not isinstance(config, dict):
            kind = {list: "array", str: "string", bool: "bool", int: "number", float: "number"}.get(
                type(config)
            )
            reason = (
                f"json: cannot unmarshal {kind} into Go value of type docker.Config"
                if kind
                else go_json_error(text)
            )
            raise Failure("unable to load config for runtime docker: " + reason)
    runtimes = config.get("runtimes")
    if not isinstance(runtimes, dict):
        runtimes = {}
    name = last(values, "nvidia-runtime-name", "nvidia")
    runtimes[name] = {"args": [], "path": last(values, "nvidia-runtime-path", "nvidia-container-runtime")}
    config["runtimes"] = runtimes
    if values["nvidia-set-as-default"]:
        config["default-runtime"] = name
    if values["cdi.enabled"]:
        features = config.get("features")
        config["features"] = dict(features if isinstance(features, dict) else {}, cdi=True)
    output = go_json(config)
    if values["dry-run"]:
        print(output)
        return
    os.makedirs(os.path.dirname(path) or ".", mode=0o755, exist_ok=True)
    with open(path, "w", encoding="utf-8") as stream:
        stream.write(output)
    Log.info("Wrote updated config to " + path)
    Log.info("It is recommended that docker daemon be restarted.")


def go_json(value):
    """json.MarshalIndent: sorted keys, four spaces, <, > and & escaped."""
    text = json.dumps(value, indent=4, sort_keys=True, ensure_ascii=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def go_json_error(text):
    if not text.strip():
        return "EOF"
    try:
        json.loads(text)
    except ValueError as error:
        at = getattr(error, "pos", 0)
        if at >= len(text.rstrip()):
            return "unexpected EOF"
        return f"invalid character {text[at]!r} looking for beginning of value"
    return "unexpected end of JSON input"


# ---------------------------------------------------------------- cdi


def cdi_generate(words):
    values, _ = parse_flags(
        words,
        strings=(
            "output",
            "format",
            "mode",
            "dev-root",
            "device-name-strategy",
            "driver-root",
            "library-search-path",
            "nvidia-ctk-path",
            "nvidia-cdi-hook-path",
            "ldconfig-path",
            "vendor",
            "class",
            "csv.file",
            "csv.ignore-pattern",
            "config-search-path",
            "disable-hook",
            "enable-hook",
            "device-id",
            "feature-flag",
        ),
        switches=("no-all-device",),
        aliases={
            "discovery-mode": "mode",
            "cdi-vendor": "vendor",
            "cdi-class": "class",
            "disable-hooks": "disable-hook",
            "device": "device-id",
        },
        env={"output": "NVIDIA_CTK_CDI_OUTPUT_FILE_PATH", "driver-root": "NVIDIA_CTK_DRIVER_ROOT"}
        if JIT_CDI
        else None,
    )
    output = last(values, "output")
    form = last(values, "format", "yaml").lower()
    if form not in ("json", "yaml"):
        raise Failure("invalid output format: " + form)
    mode = last(values, "mode", "auto").lower()
    if mode not in ("auto", "nvml", "csv", "wsl", "management", "gds", "mofed", "imex"):
        raise Failure("invalid discovery mode: " + mode)
    if "format" not in values["_given"] and output.endswith(".json"):
        form = "json"
    strategies = values["device-name-strategy"] or ["index", "uuid"]
    for strategy in strategies:
        if strategy not in ("index", "uuid", "type-index"):
            raise Failure("invalid device name strategy: " + strategy)
    if mode == "auto":
        Log.info("Auto-detected mode as 'nvml'")
    try:
        spec = cdi_spec(last(values, "vendor", "nvidia.com"), last(values, "class", "gpu"), strategies)
    except Failure as error:
        raise Failure(f"failed to generate CDI spec: {error}") from None
    disabled = {name for value in values["disable-hook"] for name in value.split(",")}
    spec["containerEdits"]["hooks"] = [
        hook
        for hook in spec["containerEdits"]["hooks"]
        if "all" not in disabled and hook["args"][1] not in disabled
    ]
    Log.info("Generated CDI spec with version " + spec["cdiVersion"])
    text = (
        json.dumps(spec, separators=(",", ":"))
        if form == "json"
        else "---\n" + "\n".join(to_yaml(spec)) + "\n"
    )
    if not output:
        sys.stdout.write(text)
        return
    os.makedirs(os.path.dirname(output) or ".", exist_ok=True)
    temporary = f"{output}.{os.getpid()}.tmp"
    with open(temporary, "w", encoding="utf-8") as stream:
        stream.write(text)
    os.chmod(temporary, 0o644)
    os.rename(temporary, output)


def cdi_list(words):
    values, _ = parse_flags(words, strings=("spec-dir",), env={"spec-dir": "NVIDIA_CTK_CDI_SPEC_DIRS"})
    directories = [part for value in values["spec-dir"] for part in value.split(",")] or CDI_DIRS
    devices, errors = load_cdi(directories)
    if errors:
        Log.warning("The following registry errors were reported:")
        for path, error in errors.items():
            Log.warning(f"{path}: [{error}]")
    Log.info(f"Found {len(devices)} CDI devices")
    for name in sorted(devices):
        print(name)


# ---------------------------------------------------------------- config, info, system


def config_command(words):
    values, rest = parse_flags(
        words,
        strings=("config-file", "set", "output"),
        switches=("in-place",),
        aliases={"config": "config-file", "c": "config-file", "i": "in-place", "o": "output"},
    )
    path = last(values, "config-file", CONFIG_FILE)
    tables = default_config() if rest[:1] == ["default"] else load_tables(path)
    for item in values["set"]:
        key, sign, value = item.partition("=")
        table, _, name = key.rpartition(".")
        known = {**COMMENTED.get(table, {}), **default_config().get(table, {})}
        if name not in known and table != "features":
            raise Failure(f'invalid --set option {item}: invalid config option: undefined field: "{name}"')
        sample = known.get(name, False)
        if isinstance(sample, bool):
            if sign and value.lower() not in ("true", "false", "1", "0", "t", "f"):
                raise Failure(
                    f"invalid --set option {item}: invalid format: "
                    f"strconv.ParseBool: parsing {json.dumps(value)}: invalid syntax"
                )
            parsed = not sign or value.lower() in ("true", "1", "t")
        elif not sign:
            raise Failure(f"invalid --set option {item}: invalid format: expected key=value; got {item}")
        else:
            parsed = value.split(",") if isinstance(sample, list) else value
        tables.setdefault(table, {})[name] = parsed
    output = path if values["in-place"] else last(values, "output")
    if not output:
        sys.stdout.write(dump_toml(tables))
        return
    os.makedirs(os.path.dirname(output) or ".", exist_ok=True)
    with open(output, "w", encoding="utf-8") as stream:
        stream.write(dump_toml(tables))


def create_device_nodes(words):
    parse_flags(
        words,
        strings=("dev-root", "driver-root", "root"),
        switches=("control-devices", "load-kernel-modules", "dry-run"),
        aliases={"control-device": "control-devices"},
    )
    for module in ("nvidia", "nvidia-uvm", "nvidia-modeset"):
        if not modprobe(module):
            raise Failure(f"failed to load NVIDIA kernel modules: failed to load module {module}")


COMMANDS = {
    ("runtime", "configure"): runtime_configure,
    ("cdi", "generate"): cdi_generate,
    ("cdi", "list"): cdi_list,
    ("config",): config_command,
    ("system", "create-device-nodes"): create_device_nodes,
}

HELP = """NAME:
   NVIDIA Container Toolkit CLI - Tools to configure the NVIDIA Container Toolkit (SIMULATED)

USAGE:
   nvidia-ctk [global options] command [command options]

VERSION:
   %s
commit: %s

COMMANDS:
   runtime configure    Add a runtime to the specified container engine
   cdi generate         Generate CDI specifications for use with CDI-enabled runtimes
   cdi list             List the available CDI devices
   config               Interact with the NVIDIA Container Toolkit configuration
   system create-device-nodes

GLOBAL OPTIONS:
   --debug, -d    Enable debug-level logging [$NVIDIA_CTK_DEBUG]
   --quiet        Suppress all output except for errors; overrides --debug [$NVIDIA_CTK_QUIET]
   --help, -h     show help
   --version, -v  print the version"""


def main():
    words = sys.argv[1:]
    while words and words[0].startswith("-"):
        word = words.pop(0)
        if word in ("--version", "-v", "-version"):
            print(version_text("NVIDIA Container Toolkit CLI"))
            return 0
        if word in ("--quiet", "-quiet"):
            Log.quiet = True
        elif word in ("--debug", "-d"):
            Log.debug_on = True
        else:
            print(HELP % (VERSION, COMMIT))
            return 0 if word in ("--help", "-h") else 1
    for length in (2, 1):
        command = COMMANDS.get(tuple(words[:length]))
        if command:
            try:
                command(words[length:])
            except Usage as error:
                if str(error) != "help":
                    print(f"Incorrect Usage: {error}\n", file=sys.stderr)
                    Log.error(str(error))
                    return 1
                print(HELP % (VERSION, COMMIT))
            except (Failure, OSError) as error:
                Log.error(str(error))
                return 1
            return 0
    print(HELP % (VERSION, COMMIT))
    return 0 if not words else 3


sys.exit(main())
