"""Modules say what they do, do what they say, and run on the oldest Python that a node may have."""

from __future__ import annotations

import ast
import importlib
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from repository import COLLECTION, MODULES, ROOT, load, name

sys.path.insert(0, str(ROOT / "collections"))

from ansible.plugins.action.normal import ActionModule as Normal
from ansible_collections.gpuready.node.plugins.doc_fragments.attributes import ModuleDocFragment

ACTIONS = {path.stem for path in (COLLECTION / "plugins/action").glob("[a-z]*.py")}
PARTS = ("type", "elements", "required", "choices", "default", "aliases", "options", "no_log")
each = pytest.mark.parametrize("path", MODULES, ids=[path.stem for path in MODULES])


def constants(path: Path) -> dict[str, str]:
    """The documentation blocks, read without running the file."""
    found = {}
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if (
            isinstance(node, ast.Assign)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
        ):
            found.update(
                {target.id: node.value.value for target in node.targets if isinstance(target, ast.Name)}
            )
    return found


def documentation(path: Path) -> dict[str, Any]:
    """What a module says of itself, with the attributes that it shares with others."""
    said = yaml.safe_load(constants(path)["DOCUMENTATION"])
    for fragment in said.get("extends_documentation_fragment") or []:
        prefix, _dot, part = fragment.rpartition(".")
        assert prefix == "gpuready.node.attributes", fragment
        shared = yaml.safe_load(getattr(ModuleDocFragment, part.upper()))
        assert set(shared) == {"options", "attributes"}
        twice = set(shared["attributes"]) & set(said.get("attributes") or {})
        assert not twice, f"{fragment} says {twice} as well"
        said["attributes"] = {**(said.get("attributes") or {}), **shared["attributes"]}
    return said


@each
def test_module_documents_itself(path: Path) -> None:
    said = documentation(path)
    assert said["module"] == path.stem
    for key in ("short_description", "description", "author", "version_added", "attributes"):
        assert said.get(key), key
    assert not said["short_description"].endswith(".")
    for mode in ("check_mode", "diff_mode"):
        assert said["attributes"][mode]["support"] in ("full", "partial", "none", "N/A"), mode
        assert said["attributes"][mode]["description"], mode


def undescribed(options: dict[str, Any], *, typed: bool = True) -> list[str]:
    """Names of options or returned values that lack a type or a description, however deep."""
    found = []
    for key, value in options.items():
        if not value.get("description") or (typed and not value.get("type")):
            found.append(key)
        for inner in ("suboptions", "contains"):
            found += [f"{key}.{other}" for other in undescribed(value.get(inner) or {}, typed=typed)]
    return found


@each
def test_options_and_results_are_described(path: Path) -> None:
    assert undescribed(documentation(path).get("options") or {}) == []
    results = yaml.safe_load(constants(path)["RETURN"]) or {}
    assert results
    assert undescribed(results) == []
    assert [key for key, value in results.items() if not value.get("returned")] == []


@each
def test_examples_use_the_module_as_documented(path: Path) -> None:
    options = set(documentation(path).get("options") or {})
    tasks = yaml.safe_load(constants(path)["EXAMPLES"])
    full = f"gpuready.node.{path.stem}"
    own = [task for task in tasks if full in task]
    assert own, f"no example calls {full}"
    for task in own:
        assert task.get("name")
        assert set(task[full] or {}) <= options


class Stopped(Exception):
    """The module got as far as telling Ansible what it accepts."""


def argument_spec(path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the module really accepts, caught on its way to Ansible."""
    caught: dict[str, Any] = {}

    def catch(*_args: Any, **kwargs: Any) -> None:
        caught.update(kwargs or {"argument_spec": _args[0]})
        raise Stopped

    module = importlib.import_module(f"ansible_collections.gpuready.node.plugins.modules.{path.stem}")
    monkeypatch.setattr(module, "AnsibleModule", catch)
    with pytest.raises(Stopped):
        module.main()
    return caught


def compare(documented: dict[str, Any], accepted: dict[str, Any], where: str = "") -> list[str]:
    """Differences between documented and accepted options."""
    found = [f"{where}{key}: only documented" for key in documented if key not in accepted]
    found += [f"{where}{key}: not documented" for key in accepted if key not in documented]
    for key in documented.keys() & accepted.keys():
        said, taken = documented[key], accepted[key]
        for part, fallback in (("type", "str"), ("elements", None), ("required", False), ("default", None)):
            if said.get(part, fallback) != taken.get(part, fallback):
                found.append(
                    f"{where}{key}.{part}: {said.get(part)!r} documented, {taken.get(part)!r} accepted"
                )
        if list(said.get("choices") or []) != list(taken.get("choices") or []):
            found.append(f"{where}{key}.choices")
        found += compare(said.get("suboptions") or {}, taken.get("options") or {}, f"{where}{key}.")
    return found


@each
def test_documented_options_are_the_accepted_ones(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if path.stem in ACTIONS:
        # People talk to the action plugin; what it says to a module of the same name is between those two.
        action = importlib.import_module(f"ansible_collections.gpuready.node.plugins.action.{path.stem}")
        if hasattr(action, "ARGUMENTS"):
            assert compare(documentation(path).get("options") or {}, action.ARGUMENTS) == []
            return
        # One that takes nothing itself hands everything on.
        assert issubclass(action.ActionModule, Normal)
    caught = argument_spec(path, monkeypatch)
    assert compare(documentation(path).get("options") or {}, caught["argument_spec"]) == []
    claims = documentation(path)["attributes"]["check_mode"]["support"] in ("full", "partial")
    assert bool(caught.get("supports_check_mode")) == claims


def test_every_action_plugin_has_its_documentation() -> None:
    assert ACTIONS - {path.stem for path in MODULES} == set()


def test_every_module_is_listed_for_action_groups_by_name_only() -> None:
    runtime = load(COLLECTION / "meta/runtime.yml")
    for group in (runtime.get("action_groups") or {}).values():
        assert set(group) <= {path.stem for path in MODULES}


def imported(path: Path) -> set[Path]:
    """The files of module_utils that a file imports."""
    utils = COLLECTION / "plugins/module_utils"
    found: set[Path] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.ImportFrom):
            continue
        if node.level:
            base = path.parent
            for _ in range(node.level - 1):
                base = base.parent
        elif node.module and ".plugins.module_utils" in f".{node.module}":
            base = utils
        else:
            continue
        inner = (node.module or "").split("plugins.module_utils")[-1].strip(".")
        target = base / inner.replace(".", "/") if inner else base
        candidates = [target.with_suffix(".py"), target / "__init__.py"]
        candidates += [target / f"{alias.name}.py" for alias in node.names]
        found |= {candidate for candidate in candidates if candidate.is_file()}
    return found


def on_nodes() -> list[Path]:
    """Modules, the node's own health program, and all of module_utils that travels with them."""
    found: set[Path] = set()
    waiting = {*MODULES, COLLECTION / "plugins/module_utils/health/program.py"}
    while waiting:
        path = waiting.pop()
        found.add(path)
        waiting |= imported(path) - found
    return sorted(found)


# Names that Python 3.8 does not have.
TOO_NEW = re.compile(
    r"\.(removeprefix|removesuffix|is_relative_to|bit_count)\(|\.readlink\(\)|\bpairwise\(|"
    r"\bfunctools\.cache\b|import cache\b|\b(zoneinfo|tomllib|graphlib)\b|\bdatetime\.UTC\b|import UTC\b|"
    r"strict=(True|False)\)|\b(slots|kw_only)=True|\bast\.unparse\b|\bmath\.lcm\b|"
    r"importlib\.resources import files|resources\.files\(|\b(ExceptionGroup|StrEnum|BooleanOptionalAction)\b"
)
BUILT_IN = {"dict", "frozenset", "list", "set", "tuple", "type"}


def evaluated(tree: ast.Module) -> list[ast.AST]:
    """All nodes that are evaluated: annotations are not, thanks to `from __future__ import annotations`."""
    skipped: set[int] = set()
    for node in ast.walk(tree):
        for field in ("annotation", "returns"):
            inner = getattr(node, field, None)
            if isinstance(inner, ast.AST):
                skipped |= {id(child) for child in ast.walk(inner)}
    return [node for node in ast.walk(tree) if id(node) not in skipped]


# Sent on into containers, whose Python is of any age (the unit tests of gpu_chain_probe hold it to that).
IN_CONTAINERS = ("chain_python.py",)


@pytest.mark.parametrize("path", on_nodes(), ids=[name(path) for path in on_nodes()])
def test_code_on_nodes_runs_on_python_3_8(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    tree = ast.parse(source, filename=str(path), feature_version=(3, 8))
    if path.name in IN_CONTAINERS:
        assert "__future__ import annotations" not in source
    elif any(isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.AnnAssign)) for node in tree.body):
        assert "from __future__ import annotations" in source
    assert TOO_NEW.findall(source) == []
    # typing's own names take [] there, those of collections.abc and the built-in ones do not.
    generic = BUILT_IN | {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "collections.abc"
        for alias in node.names
    }
    for node in evaluated(tree):
        line = getattr(node, "lineno", 0)
        if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name):
            assert node.value.id not in generic, f"line {line}: {node.value.id}[…] is evaluated"
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
            sides = (node.left, node.right)
            assert not any(isinstance(side, ast.Constant) and side.value is None for side in sides), (
                f"line {line}: X | None"
            )
            assert not any(isinstance(side, ast.Dict) for side in sides), f"line {line}: dict | dict"
        if isinstance(node, ast.With) and len(node.items) > 1:
            assert ast.get_source_segment(source, node) is None or not re.match(
                r"with\s*\(", ast.get_source_segment(source, node) or ""
            ), f"line {line}: parenthesised with"
    # What stands in a try may be missing.
    names = {alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in tree.body if isinstance(node, ast.ImportFrom) and not node.level}
    roots = {found.split(".")[0] for found in names}
    foreign = roots - sys.stdlib_module_names - {"ansible", "ansible_collections"}
    assert foreign == set(), "nodes have the standard library only"
