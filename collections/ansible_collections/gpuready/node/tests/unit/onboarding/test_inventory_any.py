"""Any readable YAML inventory: what is not meant stays byte for byte, and what comes can go again."""

from __future__ import annotations

import difflib
from typing import Any
from unittest import mock

import yaml
from gpuready import yaml_splice
from gpuready.inventory_edit import InventoryError, edit, read
from gpuready.yaml_splice import same
from hypothesis import assume, event, given, settings
from hypothesis import strategies as st

HOSTS = ["a", "b1", "10.0.0.9", "g-h.example", "node_7"]
MANAGED = ["gpu_nodes", "gpu_quarantine", "a100", "t4"]

comments = st.sampled_from(["# rack 7", "#", "#: key: value", "# - a: {b", "#tab\there"])
scalars = st.sampled_from(
    [
        "1",
        "text",
        "'it''s'",
        '"a: #b"',
        "10.0.0.1",
        "~",
        "",
        "yes",
        "{}",
        "[]",
        "[1, {a: b}]",
        "{a: 1, b: [c]}",
        "!unsafe '{{ x }}'",
        "a  b",
        "http://x/y#z",
        "'two\n\n   lines'",
        '"two\n   lines \\\n   here"',
        "[1,\n      2]",
        "!vault |\n          $V;1\n          61",
    ]
)


@st.composite
def block_texts(draw: st.DrawFn, indent: int) -> str:
    """``|`` and ``>`` in all their ways."""
    header = draw(st.sampled_from(["|", ">", "|-", ">-", "|+", ">+", "|  # why"]))
    lines = draw(
        st.lists(st.sampled_from(["word", "  deeper", "", "# text", "a: b"]), min_size=1, max_size=4)
    )
    inner = " " * (indent + 2)
    body = [inner + "first", *(inner + line if line else "" for line in lines)]
    return "\n".join([header, *body])


class Writer:
    """Lines of an inventory as people write them, with all their habits."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw
        self.lines: list[str] = []

    def noise(self, indent: int) -> None:
        for _ in range(self.draw(st.integers(0, 5)) // 4):
            self.lines.append(self.draw(st.sampled_from(["", "   ", " " * indent, "         "])))
            if self.draw(st.booleans()):
                self.lines[-1] = " " * self.draw(st.integers(0, indent + 3)) + self.draw(comments)

    def line(self, indent: int, text: str) -> None:
        trail = self.draw(st.sampled_from(["", "", "", " ", "  # here", "   # 'quoted\""]))
        if "\n" in text or text.endswith(("|", ">", "+", "-")):
            trail = ""
        self.lines += (" " * indent + text + trail).split("\n")
        self.noise(indent)

    def key(self, name: str) -> str:
        return self.draw(st.sampled_from([name, f"'{name}'", f'"{name}"']))

    def variables(self, indent: int, least: int = 1) -> None:
        names = self.draw(
            st.lists(st.sampled_from(["x", "ansible_host", "note"]), unique=True, min_size=least)
        )
        for name in names:
            if self.draw(st.integers(0, 3)) == 0:
                self.line(indent, f"{self.key(name)}: {self.draw(block_texts(indent))}")
            elif self.draw(st.integers(0, 4)) == 0:
                self.line(indent, f"{self.key(name)}:")
                for item in range(self.draw(st.integers(1, 2))):
                    self.line(indent + self.draw(st.integers(0, 2)) * 0, f"- item{item}")
            else:
                self.line(indent, f"{self.key(name)}: {self.draw(scalars)}".rstrip())

    def hosts(self, indent: int) -> None:
        names = self.draw(st.lists(st.sampled_from(HOSTS), unique=True, max_size=3))
        form = self.draw(st.integers(0, 5))
        if not names:
            self.line(indent, self.draw(st.sampled_from(["hosts:", "hosts: {}", "hosts: ~", "hosts: null"])))
        elif form == 0:
            inner = ", ".join(f"{self.key(name)}: {{x: 1}}" for name in names)
            self.line(indent, f"hosts: {{{inner}}}")
        elif form == 1:
            inner = ",\n".join(f"{' ' * (indent + 4)}{name}: {{x: 1}}" for name in names)
            self.line(indent, f"hosts: {{\n{inner}\n{' ' * (indent + 2)}}}")
        else:
            self.line(indent, "hosts:")
            deeper = indent + self.draw(st.integers(1, 4))
            for name in names:
                kind = self.draw(st.integers(0, 3))
                if kind == 0:
                    self.line(
                        deeper,
                        f"{self.key(name)}:{self.draw(st.sampled_from(['', ' {}', ' null', ' {x: 1}']))}",
                    )
                else:
                    self.line(deeper, f"{self.key(name)}:")
                    self.variables(deeper + self.draw(st.integers(1, 3)))

    def group(self, indent: int, name: str, children: list[str]) -> None:
        self.line(indent, f"{self.key(name)}:")
        inner = indent + self.draw(st.integers(1, 4))
        sections = self.draw(st.permutations(["hosts", "vars", "children"]))
        for section in sections[: self.draw(st.integers(0, 3))] if not children else sections:
            if section == "hosts":
                self.hosts(inner)
            elif section == "vars":
                self.line(inner, "vars:")
                self.variables(inner + 2)
            elif children:
                self.line(inner, "children:")
                for child in children:
                    self.group(inner + 2, child, [])


@st.composite
def inventories(draw: st.DrawFn) -> str:
    writer = Writer(draw)
    if draw(st.booleans()):
        writer.lines.append("---")
    writer.noise(0)
    below = draw(st.lists(st.sampled_from(["a100", "t4"]), unique=True))
    if draw(st.booleans()):
        writer.line(0, "all:")
        writer.line(2, "children:")
        for name in draw(st.permutations(["gpu_nodes", "gpu_quarantine", "racks"])):
            writer.group(4, name, below if name == "gpu_nodes" else [])
    else:
        for name in draw(st.permutations(["gpu_nodes", "racks", "web"])):
            writer.group(0, name, below if name == "gpu_nodes" else [])
    text = "\n".join(writer.lines) + draw(st.sampled_from(["\n", "\n", "", "\n\n# the end\n"]))
    if draw(st.booleans()):
        text = text.replace("\n", "\r\n")
    try:
        read(text)
    except InventoryError:
        # A comment may have come between where none may be.
        assume(False)
    return text


def others(text: str, name: str) -> Any:
    """The data without one host."""

    def strip(data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        found = {key: strip(value) for key, value in data.items() if key != name}
        return {key: value for key, value in found.items() if value not in ({}, None)}

    return strip(read(text).data)


def ends_in_a_text(text: str) -> bool:
    """A block of text at the very end, without a line end: whatever comes behind it changes it."""
    return not text.endswith("\n") and any(sign in text for sign in "|>")


def kept(before: str, after: str) -> list[str]:
    """Lines of the old text that the new one lacks."""
    matcher = difflib.SequenceMatcher(a=before.splitlines(True), b=after.splitlines(True), autojunk=False)
    return [
        line
        for tag, start, end, *_rest in matcher.get_opcodes()
        if tag in ("replace", "delete")
        for line in before.splitlines(True)[start:end]
    ]


@settings(max_examples=80)
@given(text=inventories(), group=st.sampled_from(MANAGED), data=st.data())
def test_new_host_adds_its_lines_and_nothing_else(text, group, data):
    known = read(text).groups
    assume(group in known or group in ("gpu_nodes", "gpu_quarantine"))
    value = data.draw(st.sampled_from([{}, {"x": "y"}, {"ansible_host": "10.0.0.1", "l": [1, "#"]}]))
    try:
        came = edit(text, name="new-host", groups=[group], variables=value)
    except InventoryError:
        assert ends_in_a_text(text)
        return
    assert same(others(text, "new-host"), others(came.text, "new-host"))
    assert read(came.text).groups_of("new-host") == [group]
    assert read(came.text).variables_of("new-host") == value
    empty = ("hosts:", "hosts: {}", "hosts: ~", "hosts: null")
    lost = [
        line for line in kept(text, came.text) if line.strip() and text.rstrip("\r\n")[-len(line) :] != line
    ]
    lost = [line for line in lost if not line.strip().startswith(empty)]
    assert all("hosts: {" in line or line.rstrip().endswith("}") for line in lost), lost
    assert not edit(came.text, name="new-host", groups=[group], variables=value).changed
    went = edit(came.text, name="new-host", state="absent")
    if group in known and any(one.group == group and one.hosts for one in read(text).definitions):
        event("went without a trace")
        assert went.text == text


@settings(max_examples=80)
@given(
    text=inventories(), name=st.sampled_from(HOSTS), group=st.sampled_from(["gpu_nodes", "gpu_quarantine"])
)
def test_move_and_removal_leave_everybody_else_alone(text, name, group):
    before = read(text)
    assume(before.groups_of(name))
    try:
        moved = edit(text, name=name, groups=[group])
        gone = edit(text, name=name, state="absent")
    except InventoryError:
        assert ends_in_a_text(text)
        return
    after = read(moved.text)
    assert set(after.groups_of(name)) - {group} == set(before.groups_of(name)) - set(MANAGED)
    assert same(after.variables_of(name), before.variables_of(name))
    for host in set(before.hosts()) - {name}:
        assert after.groups_of(host) == before.groups_of(host)
        assert same(after.variables_of(host), before.variables_of(host))
    assert same(others(gone.text, name), others(text, name))
    assert name not in read(gone.text).hosts()
    # What is gone is the host's own, line by line; its neighbours in braces lose a comma at the most.
    if "hosts: {" not in text.replace("hosts: {}", ""):
        positions = iter(text.splitlines())
        assert all(line in positions for line in gone.text.splitlines() if line.strip())


class Pure(yaml.SafeLoader):
    """PyYAML without libyaml, as on a machine that has none."""


Pure.yaml_constructors = yaml_splice.Loader.yaml_constructors
Pure.yaml_multi_constructors = yaml_splice.Loader.yaml_multi_constructors


@settings(max_examples=40)
@given(text=inventories(), name=st.sampled_from([*HOSTS, "new-host"]))
def test_both_parsers_lead_to_the_same_text(text, name):
    found = []
    for loader in (yaml_splice.Loader, Pure):
        with mock.patch.object(yaml_splice, "Loader", loader):
            try:
                found.append(edit(text, name=name, groups=["gpu_quarantine"], variables={"x": 1}).text)
            except InventoryError:
                found.append("refused")
    assert found[0] == found[1]


@settings(max_examples=80)
@given(
    text=st.one_of(
        st.text(alphabet="ab:{}[],#&*!|>-'\" \n\t?", max_size=60).map(
            lambda tail: "gpu_nodes:\n  hosts:\n    " + tail
        ),
        inventories().map(lambda text: text.replace("{x: 1}", "&x {x: 1}", 1).replace("{x: 1}", "*x")),
    )
)
def test_strange_text_is_edited_as_meant_or_refused(text):
    try:
        before = read(text)
        edited = edit(text, name="new-host", groups=["gpu_nodes"], variables={"x": 1})
    except InventoryError:
        return
    after = read(edited.text)
    assert after.variables_of("new-host") == {"x": 1} and "gpu_nodes" in after.groups_of("new-host")
    assert {host: after.variables_of(host) for host in before.hosts() if host != "new-host"} == {
        host: before.variables_of(host) for host in before.hosts() if host != "new-host"
    }
    yaml.safe_load(yaml.safe_dump(list(after.hosts())))
