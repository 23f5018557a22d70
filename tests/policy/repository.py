"""What the policy tests read of the repository: its files, roles, tasks and modules."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
COLLECTION = ROOT / "collections/ansible_collections/gpuready/node"
MODULES = sorted((COLLECTION / "plugins/modules").glob("[a-z]*.py"))

# Keywords of a task that are not the name of its module.
BLOCK_KEYS = ("block", "rescue", "always")
KEYWORDS = """
any_errors_fatal args async become become_exe become_flags become_method become_user changed_when check_mode
collections connection debugger delay delegate_facts delegate_to diff environment failed_when ignore_errors
ignore_unreachable listen loop loop_control module_defaults name no_log notify poll port register remote_user
retries run_once tags throttle timeout until vars when block rescue always
"""
TASK_KEYWORDS = set(KEYWORDS.split())


class Loader(yaml.SafeLoader):
    """YAML as Ansible writes it: its own tags are read as what they stand before."""


def _tagged(loader: Loader, _suffix: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.ScalarNode):
        return loader.construct_scalar(node)
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    assert isinstance(node, yaml.MappingNode)
    return loader.construct_mapping(node, deep=True)


def _mapping_without_duplicates(loader: Loader, node: yaml.MappingNode, deep: bool = True) -> dict[Any, Any]:
    keys = [loader.construct_object(key, deep=True) for key, _value in node.value]
    twice = {str(key) for key in keys if keys.count(key) > 1}
    if twice:
        raise yaml.constructor.ConstructorError(None, None, f"twice the key {sorted(twice)}", node.start_mark)
    return yaml.SafeLoader.construct_mapping(loader, node, deep=True)


Loader.add_multi_constructor("!", _tagged)
Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping_without_duplicates)


def load(path: Path) -> Any:
    """The one document of a YAML file."""
    return yaml.load(path.read_text(encoding="utf-8"), Loader=Loader)


@cache
def files() -> tuple[Path, ...]:
    """Every file that is in the repository or would be added by `git add -A`; links are left out."""
    names = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split("\0")
    paths = (ROOT / name for name in names if name)
    return tuple(sorted(path for path in paths if path.is_file() and not path.is_symlink()))


def text(path: Path) -> str | None:
    """A file's text; None when it is not text."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return None


def name(path: Path) -> str:
    """A file's path as people write it."""
    return str(path.relative_to(ROOT))


def yaml_files() -> list[Path]:
    return [path for path in files() if path.suffix in (".yml", ".yaml")]


def role_names() -> list[str]:
    return sorted(path.name for path in (ROOT / "roles").iterdir() if path.is_dir())


@dataclass(frozen=True)
class Task:
    """One task, wherever it stands in blocks."""

    path: Path
    role: str | None
    data: dict[str, Any]

    @property
    def module(self) -> str | None:
        """The module (or action) that it calls; None for a block."""
        if any(key in self.data for key in BLOCK_KEYS):
            return None
        found = [key for key in self.data if key not in TASK_KEYWORDS and not key.startswith("with_")]
        assert len(found) == 1, f"{name(self.path)}: not one module but {found} in {self.data.get('name')!r}"
        return found[0]

    @property
    def arguments(self) -> Any:
        return self.data[self.module] if self.module else None

    def __str__(self) -> str:
        return f"{name(self.path)}: {self.data.get('name', '(no name)')}"


def _flatten(path: Path, role: str | None, items: list[dict[str, Any]]) -> Iterator[Task]:
    for item in items:
        yield Task(path, role, item)
        for key in BLOCK_KEYS:
            yield from _flatten(path, role, item.get(key) or [])


@cache
def role_tasks() -> tuple[Task, ...]:
    """The tasks and handlers of all roles."""
    found: list[Task] = []
    for role in role_names():
        for folder in ("tasks", "handlers"):
            for path in sorted((ROOT / "roles" / role / folder).rglob("*.yml")):
                found.extend(_flatten(path, role, load(path) or []))
    return tuple(found)


def playbook_paths() -> list[Path]:
    own = [ROOT / "site.yml", *sorted((ROOT / "playbooks").glob("*.yml"))]
    return [path for path in own if path.is_file()]


@cache
def playbook_tasks() -> tuple[Task, ...]:
    """The tasks that stand in playbooks themselves, those of molecule and of tests included."""
    found: list[Task] = []
    for path in [*playbook_paths(), *sorted((ROOT / "molecule").rglob("*.yml"))]:
        content = load(path)
        if not isinstance(content, list):
            continue
        for play in content:
            if not isinstance(play, dict):
                continue
            for section in ("pre_tasks", "tasks", "post_tasks", "handlers"):
                found.extend(_flatten(path, None, play.get(section) or []))
    for path in sorted((ROOT / "playbooks").rglob("*.yml")):
        if path.parent not in (ROOT / "playbooks", ROOT / "playbooks/vars"):
            found.extend(_flatten(path, None, load(path) or []))
    return tuple(found)


def all_tasks() -> tuple[Task, ...]:
    return role_tasks() + playbook_tasks()


def specs(role: str) -> dict[str, Any]:
    """The entry points of a role and their options; none when it has no argument specs (a test says so)."""
    path = ROOT / "roles" / role / "meta/argument_specs.yml"
    return load(path)["argument_specs"] if path.is_file() else {}


def options(role: str, entry: str = "main") -> dict[str, Any]:
    return (specs(role).get(entry) or {}).get("options") or {}


def defaults(role: str) -> dict[str, Any]:
    path = ROOT / "roles" / role / "defaults/main.yml"
    return (load(path) or {}) if path.is_file() else {}


def expressions(value: Any) -> Iterator[str]:
    """Every string inside a piece of YAML."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from expressions(key)
            yield from expressions(item)
    elif isinstance(value, list):
        for item in value:
            yield from expressions(item)


def conditions(task: Task) -> list[str]:
    """The bare Jinja expressions of a task's keywords."""
    found: list[str] = []
    for key in ("when", "changed_when", "failed_when", "until"):
        value = task.data.get(key)
        found.extend(
            str(item) for item in (value if isinstance(value, list) else [value]) if item is not None
        )
    return found


def jinja(value: Any) -> Iterator[str]:
    """The insides of every Jinja expression and statement in a piece of YAML."""
    for expression in expressions(value):
        yield from re.findall(r"\{[{%](.*?)[%}]\}", expression, flags=re.DOTALL)


def without_blocks(task: Task) -> dict[str, Any]:
    """A task's own words; those of the tasks inside it are theirs."""
    return {key: value for key, value in task.data.items() if key not in BLOCK_KEYS}
