"""What dockerd changes in the machine's firewall: noted before our engine starts, put back after it ends."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

FORWARDING = Path("/proc/sys/net/ipv4/ip_forward")
#: command, table
TABLES = [(command, table) for command in ("iptables", "ip6tables") for table in ("filter", "nat")]

Save = Callable[[str, str], str]


def save(command: str, table: str) -> str:
    """The rules of a table; nothing where the machine has no such firewall."""
    if shutil.which(f"{command}-save") is None:
        return ""
    done = subprocess.run([f"{command}-save", "-t", table], capture_output=True, text=True, check=False)
    return done.stdout if done.returncode == 0 else ""


def note(path: Path) -> None:
    """Remember how the machine was; a note from before stays, for it is older."""
    if path.exists():
        return
    state = {
        "docker": any(":DOCKER" in save(command, table) for command, table in TABLES),
        "forward_policy": {command: policy(save(command, "filter")) for command in ("iptables", "ip6tables")},
        "ip_forward": FORWARDING.read_text().strip() if FORWARDING.exists() else None,
    }
    path.write_text(json.dumps(state))


def policy(rules: str) -> str | None:
    """Policy of the chain FORWARD in a saved table."""
    found = re.search(r"^:FORWARD (\S+)", rules, re.MULTILINE)
    return found.group(1) if found else None


def undo(command: str, table: str, rules: str, bridge: str) -> list[list[str]]:
    """Commands that take dockerd's chains and our bridge's rules out of a table."""
    chains = re.findall(r"^:(DOCKER\S*) ", rules, re.MULTILINE)
    commands = []
    for line in rules.splitlines():
        words = shlex.split(line) if line.startswith("-A ") else []
        if not words or words[1] in chains:
            continue
        target = words[words.index("-j") + 1] if "-j" in words else ""
        if target in chains or bridge in words:
            commands.append([command, "-t", table, "-D", *words[1:]])
    commands += [[command, "-t", table, "-F", chain] for chain in chains]
    commands += [[command, "-t", table, "-X", chain] for chain in chains]
    return commands


def restore(path: Path, bridge: str) -> None:
    """Put the firewall back, unless another engine lives on it."""
    if not path.exists() or other_engine():
        return
    state = json.loads(path.read_text())
    if not state["docker"]:
        for command, table in TABLES:
            for argv in undo(command, table, save(command, table), bridge):
                subprocess.run(argv, capture_output=True, check=False)
        for command, before in state["forward_policy"].items():
            if before and policy(save(command, "filter")) != before:
                subprocess.run([command, "-P", "FORWARD", before], capture_output=True, check=False)
        if state["ip_forward"] is not None:
            FORWARDING.write_text(state["ip_forward"])
    path.unlink()


def other_engine() -> bool:
    """Another dockerd runs on this machine."""
    for comm in Path("/proc").glob("[0-9]*/comm"):
        try:
            if comm.read_text().strip() == "dockerd":
                return True
        except OSError:
            continue
    return False
