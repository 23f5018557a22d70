# Copyright: gpuready contributors
# SPDX-License-Identifier: Apache-2.0
"""A site's inventory, cut into slices that stand alone on another machine.

``python -m gpuready.slices`` reads the inventory with Ansible in a process of its own (a question as JSON on
standard input, an answer on standard output); the rest is pure. Controller only.

A slice is one file. Variables stay the templates that they are, with two exceptions: what only the machine
with the inventory can answer (a lookup, a file's existence, the inventory's own folder) and the connection's
variables are evaluated here, and vaulted values are opened here: execution nodes have no vault password.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

#: Marks a text that is no template, whatever it looks like, on its way between the two processes.
UNSAFE = "__gpuready_unsafe"
TEMPLATE_MARKS = ("{{", "{%", "{#")
#: Templates that only this machine can answer.
HERE_ONLY = re.compile(
    r"""
    \b(?:lookup|query|q)\s*\(
    | \b(?:inventory_dir|inventory_file|ansible_config_file|ansible_inventory_sources)\b
    | \bis\s+(?:not\s+)?(?:ansible\.builtin\.)?(?:exists|file|directory|link|link_exists|mount)\b
    | \|\s*(?:ansible\.builtin\.)?(?:realpath|expanduser|expandvars|fileglob|unvault)\b
    """,
    re.VERBOSE,
)


class SliceError(ValueError):
    """The inventory cannot be read; one line that says why."""


# --- in the process with Ansible --------------------------------------------------------------------------


def _mentions(value: Any, trusted: Any) -> bool:
    """Whether a template in a value can be answered here only."""
    if isinstance(value, Mapping):
        return any(_mentions(item, trusted) for item in value.values())
    if isinstance(value, (list, tuple)):
        return any(_mentions(item, trusted) for item in value)
    return isinstance(value, str) and trusted(value) and bool(HERE_ONLY.search(value))


def read(question: Mapping[str, Any]) -> dict[str, Any]:
    """The hosts with their variables, and the groups. Imports Ansible, which changes how Python imports."""
    from ansible import constants
    from ansible.cli import CLI
    from ansible.errors import AnsibleError
    from ansible.inventory.manager import InventoryManager
    from ansible.parsing.dataloader import DataLoader
    from ansible.parsing.vault import EncryptedString
    from ansible.plugins.loader import connection_loader, init_plugin_loader
    from ansible.template import Templar, is_trusted_as_template
    from ansible.vars.manager import VariableManager

    def plain(value: Any, *, result: bool) -> Any:
        """JSON types. ``result``: what templates came to, in which nothing is a template any more."""
        if isinstance(value, EncryptedString):
            return {UNSAFE: str(value)}
        if isinstance(value, str):
            text = str(value)
            template = any(mark in text for mark in TEMPLATE_MARKS)
            return {UNSAFE: text} if template and (result or not is_trusted_as_template(value)) else text
        if isinstance(value, bool) or value is None:
            return value
        if isinstance(value, int):
            return int(value)
        if isinstance(value, float):
            return float(value)
        if isinstance(value, Mapping):
            return {str(key): plain(item, result=result) for key, item in value.items()}
        if isinstance(value, Iterable):
            return [plain(item, result=result) for item in value]
        return str(value)

    try:
        init_plugin_loader()
        loader = DataLoader()
        loader.set_basedir(question["basedir"])
        # Where the site's configuration says how; nobody is asked for a password.
        vaults = list(constants.DEFAULT_VAULT_IDENTITY_LIST or [])
        loader.set_vault_secrets(CLI.setup_vault_secrets(loader, vaults, auto_prompt=False))
        inventory = InventoryManager(loader=loader, sources=list(question["inventory"]))
        variables = VariableManager(loader=loader, inventory=inventory)
        connection_loader.get("ssh", class_only=True)
        connection = set(constants.config.get_plugin_vars("connection", "ssh"))
    except AnsibleError as error:
        raise SliceError(" ".join(str(error).split())) from error
    wanted = f"--limit {','.join(question['limit'])} within {question['pattern']}"
    try:
        if question["limit"]:
            inventory.subset(",".join(question["limit"]))
        hosts = inventory.get_hosts(question["pattern"])
    except AnsibleError as error:
        # A pattern that matches nothing may be an error by the site's configuration.
        raise SliceError(f"{wanted}: {' '.join(str(error).split())}") from error
    found: dict[str, dict[str, Any]] = {}
    for host in hosts:
        own = variables.get_vars(host=host, include_hostvars=False, stage="all")
        templar = Templar(loader=loader, variables={**own, **question["variables"]})
        kept: dict[str, Any] = {}
        for name, value in own.items():
            if name in constants.INTERNAL_STATIC_VARS:
                continue
            try:
                if name in connection or _mentions(value, is_trusted_as_template):
                    try:
                        kept[name] = plain(templar.template(value), result=True)
                        continue
                    except AnsibleError:
                        # It needs what only a run knows (facts, variables of roles): it stays a template, and
                        # the run says what is missing, as it would here.
                        pass
                kept[name] = plain(value, result=False)
            except AnsibleError as error:
                raise SliceError(f"{host.name}: {name}: {' '.join(str(error).split())}") from error
        found[host.name] = kept
    members = {
        name: [host.name for host in group.get_hosts() if host.name in found]
        for name, group in inventory.groups.items()
        if name not in ("all", "ungrouped")
    }
    return {
        "hosts": found,
        "groups": members,
        # A site's default key and its vault's password file are this machine's.
        "private_key_file": constants.DEFAULT_PRIVATE_KEY_FILE,
        "vault_configured": bool(constants.DEFAULT_VAULT_PASSWORD_FILE or vaults),
    }


def main() -> int:
    """Answer the question on standard input."""
    question = json.load(sys.stdin)
    # Whatever a plugin prints is not the answer.
    answer_to, sys.stdout = sys.stdout, sys.stderr
    try:
        answer = read(question)
    except SliceError as error:
        answer = {"error": str(error)}
    json.dump(answer, answer_to)
    return 0


# --- pure -------------------------------------------------------------------------------------------------


def deal(hosts: Sequence[str], count: int) -> list[list[str]]:
    """The hosts dealt out like cards, so that neighbours (a rack, a group) do not end up in one slice.

    >>> deal(["a", "b", "c", "d", "e"], 2)
    [['a', 'c', 'e'], ['b', 'd']]
    """
    return [list(hosts[n::count]) for n in range(min(count, len(hosts)))]


def document(answer: Mapping[str, Any], hosts: Sequence[str]) -> dict[str, Any]:
    """A slice's inventory in YAML's form: its hosts, and every group of the site, be it empty."""
    wanted = set(hosts)
    groups: dict[str, Any] = {
        name: {"hosts": {host: {} for host in members if host in wanted}}
        for name, members in answer["groups"].items()
    }
    return {"all": {"hosts": {host: answer["hosts"][host] for host in hosts}, "children": groups}}


def text(slice_document: Mapping[str, Any]) -> str:
    """The inventory file. What is no template, and looks like one, says so."""
    import yaml

    class Unsafe(str):
        """A text that Ansible must not evaluate."""

    class Dumper(yaml.SafeDumper):
        """YAML that spells everything out."""

        def ignore_aliases(self, data: Any) -> bool:
            return True

    def unsafe(dumper: yaml.SafeDumper, value: Unsafe) -> yaml.Node:
        return dumper.represent_scalar("!unsafe", str(value), style='"')

    Dumper.add_representer(Unsafe, unsafe)

    def marked(value: Any) -> Any:
        if isinstance(value, Mapping):
            return (
                Unsafe(value[UNSAFE])
                if set(value) == {UNSAFE}
                else {key: marked(item) for key, item in value.items()}
            )
        return [marked(item) for item in value] if isinstance(value, list) else value

    return yaml.dump(marked(slice_document), Dumper=Dumper, allow_unicode=True, sort_keys=False, width=1000)


# --- files that connections need --------------------------------------------------------------------------

PATH_OPTIONS = re.compile(
    r"""(?ix)
    (?P<name>UserKnownHostsFile|GlobalKnownHostsFile|IdentityFile|CertificateFile)
    (?P<between>\s*=\s*|\s+)
    (?P<value>"[^"]*"|'[^']*'|[^\s"']+)
    """
)
KEY_FLAG = re.compile(r"""(?x)(?P<before>^|\s)-i\s+(?P<value>"[^"]*"|'[^']*'|[^\s"']+)""")
KEY_VARIABLES = ("ansible_ssh_private_key_file", "ansible_private_key_file")
ARGUMENT_VARIABLES = ("ansible_ssh_common_args", "ansible_ssh_extra_args", "ansible_ssh_args")


class Carried:
    """Files of this machine that the slices' connections name, and where they lie on an execution node.

    Private keys do not travel: in their place goes the public half, by which ssh asks the agent.
    """

    def __init__(self, folder: str, *, keys: bool = True) -> None:
        self.folder = folder
        self.keys_by_agent = keys
        self.files: dict[str, str] = {}  # local path -> name in the folder
        self.keys: dict[str, str] = {}  # local path of a private key -> name of its public half

    def place(self, path: str, *, key: bool) -> str | None:
        """The path on the execution node; None where this is no file of this machine's to be carried."""
        local = os.path.expanduser(path)
        if not os.path.isfile(local) or (key and not self.keys_by_agent):
            return None
        names = self.keys if key else self.files
        name = names.setdefault(local, f"{'key' if key else 'file'}-{len(names) + 1}{'.pub' if key else ''}")
        return f"{self.folder}/{name}"

    def arguments(self, words: str) -> str:
        """ssh's arguments with the paths of the execution node."""

        def moved(match: re.Match[str]) -> str:
            value = match["value"].strip("\"'")
            key = match["name"].lower() == "identityfile"
            if match["name"].lower().endswith("knownhostsfile"):
                places = [self.place(part, key=False) or part for part in value.split()]
                new = places[0] if len(places) == 1 else f'"{" ".join(places)}"'
                return f"{match['name']}{match['between']}{new}"
            place = self.place(value, key=key)
            return f"{match['name']}{match['between']}{place}" if place else match.group(0)

        def flagged(match: re.Match[str]) -> str:
            place = self.place(match["value"].strip("\"'"), key=True)
            return f"{match['before']}-i {place}" if place else match.group(0)

        return KEY_FLAG.sub(flagged, PATH_OPTIONS.sub(moved, words))

    def host(
        self, variables: Mapping[str, Any], *, default_key: str | None, known_hosts: str
    ) -> dict[str, Any]:
        """A host's variables as they are true on the execution node.

        :param default_key: the site's private key where a host names none.
        :param known_hosts: the file with this machine's known hosts, where a host names none.
        """
        moved = dict(variables)
        named = [name for name in KEY_VARIABLES if isinstance(moved.get(name), str) and moved[name]]
        for name in named:
            moved[name] = self.place(moved[name], key=True) or moved[name]
        if not named and default_key and (place := self.place(default_key, key=True)):
            moved[KEY_VARIABLES[0]] = place
        for name in ARGUMENT_VARIABLES:
            if isinstance(moved.get(name), str):
                moved[name] = self.arguments(moved[name])
        said = " ".join(str(moved.get(name) or "") for name in ARGUMENT_VARIABLES)
        if "userknownhostsfile" not in said.lower():
            extra = moved.get("ansible_ssh_extra_args")
            option = f"-o UserKnownHostsFile={known_hosts}"
            if not extra or isinstance(extra, str):
                moved["ansible_ssh_extra_args"] = f"{extra or ''} {option}".strip()
        return moved


if __name__ == "__main__":
    sys.exit(main())
