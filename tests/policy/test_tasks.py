"""What no task of this repository does."""

from __future__ import annotations

import ast
import re

import pytest
from repository import (
    ROOT,
    Task,
    all_tasks,
    conditions,
    expressions,
    files,
    jinja,
    name,
    options,
    role_names,
    text,
    without_blocks,
)

# Commands that only read. `changed_when: false` is true for these, and for nothing else.
READ_ONLY = (
    r"apt-cache( |$)",
    r"apt-get --simulate ",
    r"apt-mark show",
    r"cat ",
    r"dmesg$",
    r"docker (info|image inspect|images|inspect|logs|ps|version)( |$)",
    r"dpkg --audit$",
    r"dpkg-query ",
    r"find /boot -maxdepth 1 ",
    r"modinfo ",
    r"nvidia-ctk (--version|cdi list)",
    r"nvidia-ctk cdi generate (?!.*--output)",  # prints
    r"nvidia-smi (-L|--query-gpu=\S+)",
    r"udevadm settle ",
    r"systemctl (is-active|is-enabled|is-failed|is-system-running|list-units|show|status)( |$)",
)
# Modules that know nothing of a change, for which the keyword says it.
WITHOUT_CHANGE = {
    f"ansible.builtin.{action}"
    for action in ("async_status", "group_by", "include_role", "include_tasks", "slurp", "stat", "wait_for")
}

# Ansible's own variables: all but injected facts.
MAGIC = re.compile(
    r"ansible_(facts|check_mode|diff_mode|connection|host|port|user|become\w*|ssh_\w+|python_interpreter|failed_\w+|"
    r"loop\w*|index_var|play_\w+|playbook_python|role_names?|parent_role\w*|run_tags|skip_tags|verbosity|version|forks|"
    r"config_file|inventory_sources|limit|search_path|collection_name|remote_tmp|shell_type|timeout|collections|playbook|"
    r"job_id|async_dir|common_remote_group|private_key_file|password|pipelining|managed|name|date_time_never)$"
)

IDS = [str(task) for task in all_tasks()]
everything = pytest.mark.parametrize("task", all_tasks(), ids=IDS)


def says(task: Task, key: str, *values: object) -> bool:
    given = task.data.get(key)
    listed = given if isinstance(given, list) else [given]
    return any(
        item is value or str(item).lower() == str(value).lower() for item in listed for value in values
    )


@everything
def test_task_hides_no_failure(task: Task) -> None:
    assert "ignore_errors" not in task.data
    assert "ignore_unreachable" not in task.data
    assert not says(task, "failed_when", False, "no"), "failed_when: false hides every failure"


@everything
def test_task_has_a_sentence_for_a_name(task: Task) -> None:
    title = task.data.get("name")
    assert title, f"{name(task.path)}: a task without a name"
    assert title[0].isupper() or not title[0].isalpha(), title
    assert not title.rstrip().endswith("."), title
    assert " | " not in title, title


@everything
def test_module_is_named_in_full(task: Task) -> None:
    assert task.module is None or task.module.count(".") == 2, task.module
    assert task.module not in (
        "ansible.builtin.apt_key",
        "ansible.builtin.shell",
        "ansible.builtin.raw",
        "ansible.builtin.script",
    ), "there is a better way"


@everything
def test_assertion_asserts(task: Task) -> None:
    if task.module == "ansible.builtin.assert":
        that = task.arguments.get("that")
        listed = that if isinstance(that, list) else [that]
        assert listed and not any(
            item is True or str(item).strip().lower() in ("true", "yes", "1 == 1") for item in listed
        )
        assert task.arguments.get("fail_msg"), "an assertion says what is wrong and how to repair it"


@everything
def test_only_reading_is_called_unchanged(task: Task) -> None:
    if not says(task, "changed_when", False, "no") or task.module in WITHOUT_CHANGE:
        return
    if says(task, "check_mode", True, "yes"):
        return  # it only says what it would do
    assert task.module == "ansible.builtin.command", (
        f"{task.module} knows itself whether it changes something"
    )
    argv = task.arguments.get("argv") if isinstance(task.arguments, dict) else None
    if isinstance(argv, str) and (fixed := re.match(r"\{\{ (\[[^]]*\]) \+ ", argv)):
        argv = ast.literal_eval(fixed.group(1))  # fixed words, then computed ones
    assert isinstance(argv, list), "write the command as argv"
    command = " ".join(str(word) for word in argv)
    assert any(re.match(pattern, command) for pattern in READ_ONLY), f"does this only read? {command}"


@everything
def test_command_is_a_list_of_words(task: Task) -> None:
    if task.module == "ansible.builtin.command":
        assert isinstance(task.arguments, dict) and "argv" in task.arguments, "argv needs no quoting"


@everything
def test_task_asks_for_no_moving_version(task: Task) -> None:
    if isinstance(task.arguments, dict):
        assert task.arguments.get("state") != "latest"
        assert task.arguments.get("upgrade") in (None, False, "no")


@everything
def test_no_fact_is_read_as_a_variable(task: Task) -> None:
    found = {
        word
        for expression in expressions(without_blocks(task))
        # ansible_facts['x'] and paths are not variables
        for word in re.findall(r"(?<![\w./'\"-])(ansible_[a-z0-9_]+)\b(?!['\"./-])", expression)
        if not MAGIC.match(word)
    }
    assert found == set(), "write ansible_facts['…']"


BOOLEANS = "|".join(
    option for role in role_names() for option, spec in options(role).items() if spec["type"] == "bool"
)


@everything
def test_booleans_from_the_command_line_are_converted(task: Task) -> None:
    """``-e host_reboot_allowed=false`` is the text "false", which is true without ``| bool``."""
    found = [
        expression
        for expression in [*conditions(task), *jinja(without_blocks(task))]
        if re.search(rf"\b({BOOLEANS})\b(?!\s*\|\s*(default\(\w+\)\s*\|\s*)?bool\b)", expression)
    ]
    assert found == []


def test_names_of_tasks_are_unique_in_their_file() -> None:
    seen: dict[tuple[str, str], int] = {}
    for task in all_tasks():
        key = (name(task.path), str(task.data.get("name")))
        seen[key] = seen.get(key, 0) + 1
    assert [key for key, count in seen.items() if count > 1] == []


def test_nothing_is_piped_from_the_network_into_a_shell() -> None:
    pattern = re.compile(r"\b(curl|wget)\b[^\n|;]*\|\s*(sudo\s+)?(ba|da|z)?sh\b")
    folders = ("roles/", "playbooks/", "collections/", "tests/lab/", "docs/", "README.md", "Makefile", ".ci/")
    found = [name(p) for p in files() if name(p).startswith(folders) and pattern.search(text(p) or "")]
    assert found == []


def test_apt_key_is_used_nowhere() -> None:
    folders = (ROOT / "roles", ROOT / "playbooks", ROOT / "collections")
    wrong = [
        name(path)
        for path in files()
        if any(folder in path.parents for folder in folders)
        # The diagnosis knows what goes wrong with keys, and what the program says; it calls nothing.
        and not {"symptoms", "diagnosis"} & set(path.parts)
        and re.search(r"\bapt-key\b|\bapt_key\b", text(path) or "")
    ]
    assert wrong == []
