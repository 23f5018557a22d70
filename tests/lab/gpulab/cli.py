"""The command line: labctl VERB."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from . import engine, lab, machine, nodes, settings, tools
from .errors import LabError
from .settings import NodeSpec


def parser() -> argparse.ArgumentParser:
    """The verbs."""
    top = argparse.ArgumentParser(
        prog="labctl", description="The lab: an embedded GPU cluster on one machine without a GPU."
    )
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")

    up = verbs.add_parser("up", help="build what is missing and start the default nodes")
    up.add_argument("--bare", action="store_true", help="make the default nodes bare again")
    verbs.add_parser("wheels", help="publish the Python indexes again after a change of tests/lab/wheels")
    verbs.add_parser("tools", help="get what the tests need on this machine: Chromium, Prometheus")
    verbs.add_parser("engine", help="find or start the Docker Engine; prints its DOCKER_HOST")

    node_up = verbs.add_parser("node-up", help="make one bare node (replaces one of the same name)")
    node_up.add_argument("name")
    hardware = node_up.add_mutually_exclusive_group()
    hardware.add_argument("--profile", type=Path, help="hardware profile, a JSON file")
    hardware.add_argument("--gpus", default="", help="GPU models, comma-separated (a100,t4); none by default")
    node_up.add_argument("--nvswitches", type=int, default=0, help="NVSwitch devices beside the GPUs")
    node_up.add_argument("--os", default="ubuntu-22.04", help=f"one of {', '.join(settings.OSES)}")
    node_up.add_argument("--port", type=int, help="port on 127.0.0.1 for SSH; a free one by default")
    node_up.add_argument("--json", action="store_true", help="print how to reach the node as JSON")
    node_up.add_argument(
        "--light", action="store_true", help="copies of another node (--like), without an engine of their own"
    )
    node_up.add_argument("--like", metavar="NODE", help="with --light: the node that is copied as it is now")
    node_up.add_argument(
        "--count", type=int, help="with --light: how many, as NAME-1, NAME-2, … (default: one, as NAME)"
    )

    node_down = verbs.add_parser("node-down", help="remove nodes")
    node_down.add_argument("names", nargs="+", metavar="name")
    node_reset = verbs.add_parser("node-reset", help="make a node bare again")
    node_reset.add_argument("name")

    execute = verbs.add_parser(
        "node-exec", help="run a command in a node as root: node-exec NAME -- COMMAND …"
    )
    execute.add_argument("name")
    execute.add_argument("command", nargs=argparse.REMAINDER)

    fault = verbs.add_parser(
        "fault", help="change a node's hardware: fault NAME gpu_off_bus=true …; =null repairs"
    )
    fault.add_argument("name")
    fault.add_argument("faults", nargs="*", metavar="key=value")
    fault.add_argument("--clear", action="store_true", help="take every fault away first")

    status = verbs.add_parser("status", help="what runs and how to reach it")
    status.add_argument("--json", action="store_true")
    verbs.add_parser("down", help="remove nodes and services, stop the lab's own engine; keep what was built")
    verbs.add_parser("clean", help="remove everything that the lab made on this machine")
    return top


def main(argv: list[str] | None = None) -> int:
    """Run one verb; a LabError becomes one message and exit code 1."""
    arguments = parser().parse_args(argv)
    try:
        machine.check()
        return VERBS[arguments.verb](arguments)
    except LabError as error:
        print(f"labctl: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nlabctl: interrupted; the next start goes on from what is finished", file=sys.stderr)
        return 130


def verb_up(arguments: argparse.Namespace) -> int:
    """labctl up."""
    lab.up(bare=arguments.bare)
    return 0


def verb_wheels(_: argparse.Namespace) -> int:
    """labctl wheels."""
    lab.publish_wheels()
    return 0


def verb_tools(_: argparse.Namespace) -> int:
    """labctl tools."""
    with lab.exclusive("tools"):
        print("\n".join(tools.ensure(machine.check())))
    return 0


def verb_engine(_: argparse.Namespace) -> int:
    """labctl engine."""
    with lab.exclusive():
        docker, word = engine.ensure()
    print(word, file=sys.stderr)
    print(f"DOCKER_HOST={docker.host}")
    return 0


def verb_node_up(arguments: argparse.Namespace) -> int:
    """labctl node-up."""
    if arguments.light:
        return verb_light_up(arguments)
    if arguments.like or arguments.count is not None:
        raise LabError("--like and --count are for light nodes (--light)")
    spec = NodeSpec(nodes.full_name(arguments.name), arguments.os, (), arguments.port)
    nodes.lookup_os(spec.os)
    hardware = nodes.hardware_profile(
        spec.os, arguments.gpus.split(","), arguments.profile, nvswitches=arguments.nvswitches
    )
    say(lab.node_up(spec, hardware).connection(), as_json=arguments.json)
    return 0


def verb_light_up(arguments: argparse.Namespace) -> int:
    """labctl node-up --light."""
    if not arguments.like:
        raise LabError("a light node is a copy: name the node that is copied (--like)")
    if arguments.gpus or arguments.profile or arguments.nvswitches or arguments.port:
        raise LabError(
            "a light node is as its model (--like): --gpus, --profile, --nvswitches and --port are not"
        )
    if arguments.count is not None and not 1 <= arguments.count <= len(settings.LIGHT_PORTS):
        raise LabError(f"--count is {arguments.count}; give a number from 1 to {len(settings.LIGHT_PORTS)}")
    wanted = [arguments.name]
    if arguments.count is not None:
        wanted = [f"{arguments.name}-{number}" for number in range(1, arguments.count + 1)]
    made = lab.light_up([nodes.full_name(name) for name in wanted], arguments.like)
    if arguments.json:
        print(json.dumps([node.connection() for node in made], indent=2))
    else:
        for node in made:
            say(node.connection(), as_json=False)
    return 0


def verb_node_reset(arguments: argparse.Namespace) -> int:
    """labctl node-reset."""
    say(lab.node_reset(arguments.name).connection(), as_json=False)
    return 0


def verb_node_down(arguments: argparse.Namespace) -> int:
    """labctl node-down."""
    gone = lab.node_down(arguments.names)
    for name in map(nodes.full_name, arguments.names):
        print(f"{name} removed" if name in gone else f"there is no node {name}; nothing to do")
    return 0


def verb_node_exec(arguments: argparse.Namespace) -> int:
    """labctl node-exec."""
    docker = engine.require()
    node = nodes.require(docker, arguments.name)
    command = arguments.command[1:] if arguments.command[:1] == ["--"] else arguments.command
    if not command:
        raise LabError("node-exec needs a command: labctl node-exec NAME -- COMMAND …")
    flags = ["--interactive", *(["--tty"] if sys.stdin.isatty() and sys.stdout.isatty() else [])]
    sys.stdout.flush()
    os.execvpe("docker", ["docker", "exec", *flags, node.name, *command], {**os.environ, **docker.env})


def verb_fault(arguments: argparse.Namespace) -> int:
    """labctl fault."""
    docker = engine.require()
    node = nodes.require(docker, arguments.name)
    faults = nodes.parse_faults(arguments.faults)
    profile = json.loads(nodes.read_file(docker, node.name, nodes.HARDWARE))
    if arguments.clear:
        faults = {**dict.fromkeys(profile.get("faults", {})), **faults}
    if faults:
        profile = nodes.set_faults(docker, node, faults)
    print(f"{node.name}: faults {json.dumps(profile.get('faults', {}))}")
    return 0


def verb_status(arguments: argparse.Namespace) -> int:
    """labctl status."""
    facts = lab.status()
    if arguments.json:
        print(json.dumps(facts, indent=2))
        return 0
    if not facts["engine"]:
        print("The lab is not up.")
        return 0
    about = facts["engine"]
    print(
        f"engine    {'own' if about['own'] else 'user'}  Docker {about['version']} ({about['driver']})  "
        f"DOCKER_HOST={about['host']}"
    )
    for service in facts["services"]:
        print(f"service   {service['name']:<20} {'running' if service['running'] else 'absent'}")
    for node in facts["nodes"]:
        state = "running" if node["running"] else "stopped"
        print(
            f"node      {node['name']:<20} {state:<8} {node['os']:<14} "
            f"ssh {node['user']}@{node['host']} -p {node['port']}"
        )
    return 0


def verb_down(_: argparse.Namespace) -> int:
    """labctl down."""
    print("\n".join(lab.down()) or "nothing to stop")
    return 0


def verb_clean(_: argparse.Namespace) -> int:
    """labctl clean."""
    print("\n".join(lab.clean()) or "nothing to remove")
    return 0


def say(connection: dict[str, Any], *, as_json: bool) -> None:
    """How to reach a node, for a program or for a person."""
    if as_json:
        print(json.dumps(connection, indent=2))
        return
    print(
        f"{connection['name']}: ssh -i {connection['identity_file']} "
        f"-o UserKnownHostsFile={connection['known_hosts']} -p {connection['port']} "
        f"{connection['user']}@{connection['host']}"
    )


VERBS = {
    "up": verb_up,
    "tools": verb_tools,
    "wheels": verb_wheels,
    "engine": verb_engine,
    "node-up": verb_node_up,
    "node-down": verb_node_down,
    "node-reset": verb_node_reset,
    "node-exec": verb_node_exec,
    "fault": verb_fault,
    "status": verb_status,
    "down": verb_down,
    "clean": verb_clean,
}
