"""The repository as a whole: everything parses, nothing private is in it, the tree says what it is."""

from __future__ import annotations

import ast
import configparser
import hashlib
import os
import re
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml
from repository import (
    COLLECTION,
    ROOT,
    Loader,
    expressions,
    files,
    load,
    name,
    playbook_paths,
    playbook_tasks,
    role_names,
    text,
    yaml_files,
)

YAML = yaml_files()
SHELL = [
    path
    for path in files()
    if path.suffix == ".sh" or re.match(r"#!\s*(/usr/bin/env\s+|/bin/)(ba|da)?sh\b", (text(path) or "")[:80])
]


@pytest.mark.parametrize("path", YAML, ids=[name(path) for path in YAML])
def test_yaml_parses_without_repeated_keys(path: Path) -> None:
    list(yaml.load_all(path.read_text(encoding="utf-8"), Loader=Loader))


@pytest.mark.parametrize("path", YAML, ids=[name(path) for path in YAML])
def test_no_lint_rule_is_switched_off_in_place(path: Path) -> None:
    assert re.findall(r"#\s*(noqa|yamllint disable)", path.read_text(encoding="utf-8")) == []


def test_no_lint_rule_is_switched_off_for_all() -> None:
    lint = load(ROOT / ".ansible-lint")
    assert lint["profile"] == "production"
    assert lint["offline"] is True
    assert {"skip_list", "warn_list"} & set(lint) == set()
    assert not (ROOT / ".ansible-lint-ignore").exists()


@pytest.mark.parametrize("path", SHELL, ids=[name(path) for path in SHELL])
def test_shell_script_is_sound(path: Path) -> None:
    dialect = "sh" if re.match(r"#!\s*(/usr/bin/env\s+|/bin/)(da)?sh\b", text(path) or "") else "bash"
    subprocess.run([dialect, "-n", str(path)], check=True)
    ends_early = re.search(r"^set -\w*e", text(path) or "", flags=re.MULTILINE)
    if not (text(path) or "").startswith("#!"):
        assert not ends_early, "it is read into somebody's shell, which set -e would end"
    elif ROOT / "tests/lab/simulator" not in path.parents:  # those stand in for a command and only pass it on
        assert ends_early, "set -e: a failing command ends it"


def test_lab_is_a_link_to_the_labs_inventory() -> None:
    assert os.readlink(ROOT / "lab").rstrip("/") == "inventories/lab"


def test_site_only_imports() -> None:
    for play in load(ROOT / "site.yml"):
        assert set(play) <= {"name", "ansible.builtin.import_playbook", "vars", "tags"}, play


def test_playbooks_leave_the_work_to_roles() -> None:
    """A playbook says who does what in which order; changing a node is a role's business."""
    builtin = """
        add_host assert debug fail group_by import_role import_tasks include_role include_tasks include_vars
        meta pause set_fact set_stats
    """
    orchestration: set[str | None] = {f"ansible.builtin.{action}" for action in builtin.split()}
    # These only look at a node.
    orchestration |= {
        None,
        *(
            f"gpuready.node.{word}"
            for word in (
                "gpu_diagnose",
                "gpu_plan",
                "gpu_stack_info",
                "gpu_usage",
                "gpu_usage_info",
                "node_login",
                "support_bundle",
            )
        ),
    }
    # These work on the controller: the request, the inventory, known_hosts, the reports.
    orchestration |= {
        f"gpuready.node.{word}"
        for word in (
            "inventory_host",
            "onboarding_candidates",
            "onboarding_proposal",
            "run_report",
            "ssh_host_key",
        )
    }
    own = [task for task in playbook_tasks() if ROOT / "playbooks" in task.path.parents]
    assert [str(task) for task in own if task.module not in orchestration] == []


def test_included_tasks_are_no_playbook() -> None:
    """Two levels down, Ansible looks beside the playbook first, and takes a playbook of that name."""
    playbooks = {path.name for path in (ROOT / "playbooks").glob("*.yml")}
    wrong = [
        str(task)
        for task in playbook_tasks()
        if task.module == "ansible.builtin.include_tasks" and str(task.arguments) in playbooks
    ]
    assert wrong == []


def test_playbooks_gather_no_facts() -> None:
    for path in playbook_paths():
        for play in load(path):
            if "hosts" in play:
                assert play.get("gather_facts") is False, f"{name(path)}: {play.get('name')}"


def test_no_collection_from_outside_is_used() -> None:
    required = load(ROOT / "requirements.yml")
    wanted = {entry["name"] if isinstance(entry, dict) else entry for entry in required["collections"]}
    used = set()
    for path in files():
        if path.suffix in (".yml", ".yaml") and (
            ROOT / "roles" in path.parents or ROOT / "playbooks" in path.parents
        ):
            used |= set(
                re.findall(
                    r"^\s*-?\s*((?!ansible\.builtin|gpuready\.node)[a-z_]+\.[a-z_]+)\.[a-z_]+:",
                    text(path) or "",
                    re.M,
                )
            )
    assert used == wanted


LAB_WORDS = re.compile(
    r"gpulab|labctl|simulator|stand-?in\b|molecule|(?<![a-z])labs?(?![a-z])", re.IGNORECASE
)


def spoken(path: Path) -> list[str]:
    """What a file does rather than explains: names and texts of code, values of YAML; no documentation."""
    content = text(path) or ""
    if path.suffix in (".yml", ".yaml"):
        return [] if path.parent.name == "meta" else list(expressions(load(path)))
    if path.suffix != ".py":
        return [content]
    tree = ast.parse(content)
    explained = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr)
        or (
            isinstance(node, ast.Assign)
            and getattr(node.targets[0], "id", "") in ("DOCUMENTATION", "EXAMPLES", "RETURN")
        )
    }
    found = [
        node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in explained
    ]
    found += [node.id for node in ast.walk(tree) if isinstance(node, ast.Name)]
    return [value for value in found if isinstance(value, str)]


def test_roles_and_plugins_do_nothing_special_in_the_lab() -> None:
    found = [
        f"{name(path)}: {words!r}"
        for path in files()
        if ROOT / "roles" in path.parents or COLLECTION / "plugins" in path.parents
        for words in spoken(path)
        if LAB_WORDS.search(words)
    ]
    assert found == []


def test_every_scenario_belongs_to_a_role_or_says_what_it_proves() -> None:
    scenarios = {path.parent.name for path in (ROOT / "molecule").glob("*/molecule.yml")}
    assert set(role_names()) <= scenarios
    for scenario in scenarios - set(role_names()):
        words = (ROOT / f"molecule/{scenario}/molecule.yml").read_text(encoding="utf-8")
        assert re.match(r"(---\n)?# \w", words), (
            f"{scenario}: its molecule.yml begins with a comment that says so"
        )


# --- what must not be in the repository ----------------------------------------------------------

# SHA-256 of host names of package registries. Which one a machine uses is the machine's own business, so the
# repository names none; and this list does not either.
REGISTRIES = {
    "00a7dc5a0cc388586b8665846e7d8ae94a6dd096f2aa1aa3b4aab4ac484f998a",
    "04280276b5029dcaa286ca72bd5e38a2277e5bae4001851d2b7b9cd2d21c4746",
    "0dc11026ac75c015aaa1deafff4a7a54ef6d0cf6b3c7f9b1d2c8f3502929aa9e",
    "1ba4e37997a2e986efa6cd844e43fd25b9e816359d31612baa9c18b71e3b5294",
    "26b795f2a123f2a2ae16327ac90c1404ee62c7879b706cdf5cc4caf1fca42d3a",
    "2e97613f5a81eaa4f8a58f552a005713c0c8f333e026efb7771ad28429532374",
    "8b5bb5eb9d758455b8635855cf8aaf05b68775e3f83f0291e800ef338fb9783c",
    "9495278a74715c7e246a36404b3589f0f2f0b564defdec00b228aa07ecb515e0",
    "a4aa2ac280bb8d1a0ce7a1be5a7bfb10292b49fe9435ad5cff19f421f3c70e41",
    "c2b35955576ffa710bfb7c4e5de8141335829cb1333377cbaf7daaeff9647b35",
    "c899567ee906851741bf7f3bde17a33777859ff9f53ff54d6f0ea54cf31ad636",
    "d6d7019ca9fcbf07c769e445342515ef0c92e4f18a96adbb3bf6460f5b0ba17f",
    "e680c440a2e92079ab1bf7a927e8d3920f1bcd173c0487e28e020110b2e59efc",
}
HOST = re.compile(r"(?<![\w@.-])((?:[a-z0-9](?:[a-z0-9-]*[a-z0-9])?\.)+[a-z]{2,})(?![\w-])", re.IGNORECASE)


def machines_own_hosts() -> set[str]:
    """The hosts that this very machine gets its packages from, and its proxies."""
    found = [
        value
        for key, value in os.environ.items()
        if re.search(r"(?i)(^|_)(https?_|all_)?proxy$|index_url$|_registry$|goproxy$", key)
    ]
    for path in (Path("/etc/pip.conf"), Path.home() / ".config/pip/pip.conf", Path.home() / ".pip/pip.conf"):
        parser = configparser.RawConfigParser(strict=False)
        if path.is_file():
            parser.read(path)
            found += [value for section in parser.sections() for _key, value in parser.items(section)]
    lists = [
        Path("/etc/apt/sources.list"),
        *Path("/etc/apt").glob("sources.list.d/*"),
        *Path("/etc/apt").glob("apt.conf.d/*"),
    ]
    found += [path.read_text(encoding="utf-8", errors="replace") for path in lists if path.is_file()]
    hosts = {
        urlsplit(url).hostname or "" for value in found for url in re.findall(r"[a-z]+://[^\s\"',;]+", value)
    }
    public = {
        "",
        "localhost",
        "127.0.0.1",
        "::1",
        "download.docker.com",
        "nvidia.github.io",
        "developer.download.nvidia.com",
    }
    return hosts - public


def test_no_registry_and_no_proxy_is_named() -> None:
    own = machines_own_hosts()
    found = []
    for path in files():
        content = text(path) or ""
        for host in {match.lower() for match in HOST.findall(content)}:
            if host in own or hashlib.sha256(host.encode()).hexdigest() in REGISTRIES:
                found.append(f"{name(path)}: {host}")
        found += [
            f"{name(path)}: {host}"
            for host in own
            if host not in HOST.findall(content) and f"//{host}" in content
        ]
    assert found == []


def test_no_private_key_is_in_the_repository() -> None:
    pattern = re.compile("-----BEGIN [A-Z ]*PRIVATE " + "KEY( BLOCK)?-----")
    assert [name(path) for path in files() if pattern.search(text(path) or "")] == []


def test_no_file_is_needlessly_large() -> None:
    large = {name(path): path.stat().st_size for path in files() if path.stat().st_size > 2_000_000}
    assert large == {}
