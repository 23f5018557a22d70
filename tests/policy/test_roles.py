"""Every role has the same shape, and its defaults, argument specs and wishes say the same."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from repository import (
    ROOT,
    all_tasks,
    defaults,
    expressions,
    load,
    name,
    options,
    role_names,
    role_tasks,
    specs,
)

TYPES = {"bool", "dict", "float", "int", "list", "path", "raw", "str"}
OF_TYPE: dict[str, tuple[type, ...]] = {
    "bool": (bool,),
    "dict": (dict,),
    "float": (float, int),
    "int": (int,),
    "list": (list,),
    "path": (str,),
    "str": (str,),
    "raw": (object,),
}
ENTRY_POINTS = [(role, entry) for role in role_names() for entry in specs(role)]


@pytest.mark.parametrize("role", role_names())
def test_role_has_its_files(role: str) -> None:
    wanted = [
        f"roles/{role}/tasks/main.yml",
        f"roles/{role}/meta/main.yml",
        f"roles/{role}/meta/argument_specs.yml",
        f"molecule/{role}/molecule.yml",
        f"molecule/{role}/converge.yml",
    ]
    if defaults(role) or options(role):
        wanted.append(f"roles/{role}/defaults/main.yml")
    assert [path for path in wanted if not (ROOT / path).is_file()] == []


@pytest.mark.parametrize("role", role_names())
def test_role_folder_has_no_unknown_part(role: str) -> None:
    known = {"defaults", "files", "handlers", "meta", "tasks", "templates", "vars", "README.md"}
    assert {path.name for path in (ROOT / "roles" / role).iterdir()} - known == set()


@pytest.mark.parametrize("role", role_names())
def test_main_entry_point_documents_every_default(role: str) -> None:
    assert set(options(role)) == set(defaults(role))


@pytest.mark.parametrize(("role", "entry"), ENTRY_POINTS)
def test_entry_point_has_tasks_and_a_description(role: str, entry: str) -> None:
    spec = specs(role)[entry]
    assert (ROOT / f"roles/{role}/tasks/{entry}.yml").is_file()
    assert spec.get("short_description") and not spec["short_description"].endswith(".")
    assert spec.get("description")


@pytest.mark.parametrize(("role", "entry"), ENTRY_POINTS)
def test_options_equal_the_defaults(role: str, entry: str) -> None:
    values = defaults(role)
    for option, spec in options(role, entry).items():
        assert spec["type"] in TYPES, option
        assert spec.get("description"), option
        assert not spec.get("required"), f"{option}: a default makes nothing required"
        assert option in values, f"{option} has no default"
        assert "default" in spec, option
        assert spec["default"] == values[option] and type(spec["default"]) is type(values[option]), option
        assert isinstance(values[option], OF_TYPE[spec["type"]]), option
        assert spec["type"] == "bool" or not isinstance(values[option], bool), option
        if spec["type"] == "list":
            assert spec.get("elements"), f"{option}: elements of what?"
        if "choices" in spec:
            assert values[option] in spec["choices"], option


def test_tasks_from_names_a_documented_entry_point() -> None:
    wrong = []
    for task in all_tasks():
        if task.module in ("ansible.builtin.include_role", "ansible.builtin.import_role"):
            role, entry = str(task.arguments.get("name")), str(task.arguments.get("tasks_from", "main"))
            entry = entry.removesuffix(".yml")
            if "{{" in role + entry:
                continue
            if role not in role_names() or entry not in specs(role):
                wrong.append(f"{task} ({role}:{entry})")
    assert wrong == []


@pytest.mark.parametrize("role", role_names())
def test_variables_carry_the_roles_name(role: str) -> None:
    assert [key for key in defaults(role) if not re.fullmatch(rf"{role}_[a-z0-9_]+", key)] == []
    for path in (ROOT / "roles" / role / "vars").glob("*.yml"):
        assert [key for key in load(path) or {} if not key.startswith(f"__{role}_")] == [], name(path)


def test_registered_and_set_variables_are_private_to_their_role() -> None:
    wrong = []
    for task in role_tasks():
        names = [task.data["register"]] if "register" in task.data else []
        names += list((task.data.get("vars") or {}) if task.module != "ansible.builtin.include_role" else [])
        if task.module == "ansible.builtin.set_fact":
            names += [key for key in task.arguments if key != "cacheable"]
        loop_variable = (task.data.get("loop_control") or {}).get("loop_var")
        names += [loop_variable] if loop_variable else []
        if "loop" in task.data and not loop_variable:
            wrong.append(f"{task}: a loop over `item`; name loop_control.loop_var")
        wrong += [f"{task}: {found}" for found in names if not str(found).startswith(f"__{task.role}_")]
    assert wrong == []


def prose_above(path: Path, key: str) -> str:
    """The comment that ends on the line above a key, without the marks."""
    lines = path.read_text(encoding="utf-8").splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith(f"{key}:"))
    found: list[str] = []
    while at > 0 and lines[at - 1].startswith("#"):
        at -= 1
        found.insert(0, lines[at].lstrip("# ").strip())
    return " ".join(found)


@pytest.mark.parametrize("role", [role for role in role_names() if defaults(role)])
def test_defaults_have_prose_above_them(role: str) -> None:
    path = ROOT / "roles" / role / "defaults/main.yml"
    silent = [key for key in defaults(role) if len(prose_above(path, key)) < 40]
    assert silent == [], "a sentence or two on what it does and when one would change it"


@pytest.mark.parametrize("role", role_names())
def test_role_description_is_its_own(role: str) -> None:
    galaxy = load(ROOT / "roles" / role / "meta/main.yml")["galaxy_info"]
    assert galaxy["role_name"] == role
    assert galaxy["license"] == "Apache-2.0"
    assert len(galaxy["description"]) > 20
    assert not load(ROOT / "roles" / role / "meta/main.yml").get("dependencies"), (
        "roles include what they need"
    )


@pytest.mark.parametrize("role", role_names())
def test_role_is_tagged_with_its_name(role: str) -> None:
    outermost = load(ROOT / f"roles/{role}/tasks/main.yml")
    assert [task.get("name") for task in outermost if role not in as_list(task.get("tags"))] == []


def as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def planned_roles() -> set[str]:
    """The roles that the planner's actions name, by the contract."""
    contract = (ROOT / "docs/contracts.md").read_text(encoding="utf-8")
    paragraph = re.search(r"^Roles: (.*?)\.\n", contract, flags=re.DOTALL | re.MULTILINE)
    assert paragraph, "docs/contracts.md names the roles of the actions no more"
    return set(re.findall(r"`([a-z_]+)` \(", paragraph.group(1)))


def action_ids() -> list[str]:
    contract = (ROOT / "docs/contracts.md").read_text(encoding="utf-8")
    paragraph = re.search(r"^Action ids, in order: (.*?)\.\n", contract, flags=re.DOTALL | re.MULTILINE)
    assert paragraph
    return re.findall(r"`([a-z_.]+)`", paragraph.group(1))


@pytest.mark.parametrize("action", action_ids())
def test_every_planned_action_is_applied_by_one_role(action: str) -> None:
    appliers = {
        task.role
        for task in role_tasks()
        if task.role in planned_roles()
        and any(re.search(rf"'{re.escape(action)}'", e) for e in expressions(task.data))
    }
    if action == "host.reboot":  # the only action of its role, which therefore need not name it
        appliers |= {"host_reboot"}
    assert appliers, f"no role applies {action}"


@pytest.mark.parametrize("role", sorted(planned_roles()))
def test_role_that_applies_a_plan_can_be_undone(role: str) -> None:
    assert "remove" in specs(role)


def test_wishes_equal_the_roles_defaults() -> None:
    wishes = pytest.importorskip("gpuready.wishes").DEFAULT_WISHES
    known = {key: value for role in role_names() for key, value in defaults(role).items()}
    assert {key for key in wishes if key not in known} == set(), "a wish that is no role's variable"
    assert {key: value for key, value in wishes.items() if known[key] != value} == {}, (
        "other defaults than the roles'"
    )


def test_example_inventory_shows_variables_that_exist_with_their_defaults() -> None:
    known = {key: value for role in role_names() for key, value in defaults(role).items()}
    prefixes = tuple(f"{role}_" for role in role_names())
    for path in sorted((ROOT / "inventories/example").rglob("*.yml")):
        for line in path.read_text(encoding="utf-8").splitlines():
            shown = re.match(r"#?\s*([a-z_]+):(?:\s+(.*?))?(?:\s+#.*)?$", line)
            if not shown or not shown.group(1).startswith(prefixes):
                continue
            key, value = shown.groups()
            assert key in known, f"{name(path)}: {key}"
            # What is commented out is the default, unless it is a made-up address or a mapping on more lines.
            if line.startswith("#") and value and "example" not in value:
                assert yaml.safe_load(value) == known[key], f"{name(path)}: {key}"
