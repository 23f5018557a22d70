"""Hosts go into YAML inventories, move and leave; the rest stays as somebody wrote it."""

from __future__ import annotations

import pytest
import yaml
from gpuready import inventory_edit as inventories
from gpuready.inventory_edit import InventoryError, edit, read

SITE = """\
---
# Our nodes. Ask Alice before you touch the second rack.
all:
  children:
    gpu_nodes:
      children:
        # The training cluster.
        a100:
          hosts:
            gpu01:
              ansible_host: 10.0.0.11   # rack 1
            "gpu02": {ansible_host: 10.0.0.12}
            # gpu03 is at the vendor's.
        t4:
          hosts:
            gpu20:
              # Slow disk, see ticket 4711.
              ansible_host:   10.0.0.20
              note: |
                first line

                # no comment, but text

              # the last word of gpu20

        empty: {}
      vars:
        ansible_user: ubuntu
    racks:
      hosts:
        gpu01:
        gpu20: {rack: 2}
"""


def added(before: str, after: str) -> str:
    """What was put in, if nothing else happened."""
    start = 0
    while start < len(before) and before[start] == after[start]:
        start += 1
    end = len(before) - start
    assert end == 0 or after.endswith(before[start:]), "something else changed"
    return after[start : len(after) - end]


def test_new_host_comes_to_the_end_of_its_group():
    edited = edit(SITE, name="gpu04", groups=["a100"], variables={"ansible_host": "10.0.0.14", "n": 3})
    assert edited.changed and edited.groups == ["a100"] and edited.groups_before == []
    assert edited.variables == {"ansible_host": "10.0.0.14", "n": 3}
    assert added(SITE, edited.text).split() == ["gpu04:", "ansible_host:", "10.0.0.14", "n:", "3"]
    # Right behind the last host, before the comment that is at the hosts' own depth.
    assert (
        '            "gpu02": {ansible_host: 10.0.0.12}\n            gpu04:\n              ansible_host'
        in edited.text
    )


def test_second_time_changes_nothing():
    once = edit(SITE, name="gpu04", groups=["a100"], variables={"ansible_host": "10.0.0.14"})
    again = edit(once.text, name="gpu04", groups=["a100"], variables={"ansible_host": "10.0.0.14"})
    assert not again.changed and again.text == once.text


def test_quarantine_is_made_beside_the_nodes_in_service():
    edited = edit(SITE, name="gpu04", groups=["gpu_quarantine"], variables={"ansible_host": "10.0.0.14"})
    data = yaml.safe_load(edited.text)
    assert data["all"]["children"]["gpu_quarantine"] == {"hosts": {"gpu04": {"ansible_host": "10.0.0.14"}}}
    assert added(SITE, edited.text).lstrip().startswith(inventories.QUARANTINE_COMMENT)


def test_move_takes_the_hosts_own_lines_and_comments_along():
    moved = edit(SITE, name="gpu20", groups=["gpu_quarantine"])
    assert moved.groups_before == ["t4", "racks"] and moved.groups == ["racks", "gpu_quarantine"]
    block = moved.text.partition("gpu_quarantine:\n")[2]
    assert block == (
        "      hosts:\n"
        "        gpu20:\n"
        "          # Slow disk, see ticket 4711.\n"
        "          ansible_host:   10.0.0.20\n"
        "          note: |\n"
        "            first line\n"
        "\n"
        "            # no comment, but text\n"
        "\n"
        "          # the last word of gpu20\n"
    )
    assert read(moved.text).variables_of("gpu20") == read(SITE).variables_of("gpu20")
    back = edit(moved.text, name="gpu20", groups=["t4"])
    assert (
        read(back.text).data["all"]["children"]["gpu_nodes"]
        == read(SITE).data["all"]["children"]["gpu_nodes"]
    )


def test_host_of_two_groups_keeps_all_its_variables_when_it_leaves_one():
    text = (
        "gpu_nodes:\n  hosts:\n    a: {x: 1, y: 1}\n  children:\n    big:\n      hosts:\n        a: {y: 2}\n"
    )
    edited = edit(text, name="a", groups=["gpu_quarantine"])
    assert edited.groups == ["gpu_quarantine"] and edited.variables == {"x": 1, "y": 2}
    stays = edit(text, name="a", groups=["big"])
    assert stays.groups == ["big"] and stays.variables == {"x": 1, "y": 2}


def test_absent_takes_every_entry_away_and_nothing_else():
    edited = edit(SITE, name="gpu01", state="absent")
    assert edited.groups_before == ["a100", "racks"] and edited.groups == []
    kept = [line for line in SITE.splitlines() if "gpu01" not in line and "10.0.0.11" not in line]
    assert edited.text.splitlines() == kept
    assert not edit(edited.text, name="gpu01", state="absent").changed


def test_what_came_goes_without_a_trace():
    for group in ("a100", "t4", "racks"):
        came = edit(
            SITE, name="new", groups=["gpu_nodes" if group == "racks" else group], variables={"x": "y"}
        )
        if group != "racks":
            assert edit(came.text, name="new", state="absent").text == SITE


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("gpu_nodes:\n  hosts: {}  # none yet\n", "gpu_nodes:\n  hosts:  # none yet\n    new:\n      x: 1\n"),
        ("gpu_nodes:\n  hosts: ~\n", "gpu_nodes:\n  hosts:\n    new:\n      x: 1\n"),
        ("gpu_nodes:\n  hosts:\n", "gpu_nodes:\n  hosts:\n    new:\n      x: 1\n"),
        ("gpu_nodes:\n", "gpu_nodes:\n  hosts:\n    new:\n      x: 1\n"),
        ("gpu_nodes:", "gpu_nodes:\n  hosts:\n    new:\n      x: 1"),
        ("gpu_nodes:\n  hosts: old\n", "gpu_nodes:\n  hosts:\n    old:\n    new:\n      x: 1\n"),
        ("gpu_nodes: {hosts: {a, b: }}\n", 'gpu_nodes: {hosts: {a, b: , "new": {"x": 1}}}\n'),
        ('{"gpu_nodes": {"hosts": {}}}', '{"gpu_nodes": {"hosts": {"new": {"x": 1}}}}'),
        (
            '{\n  "gpu_nodes": {\n    "hosts": {\n      "a": {}\n    }\n  }\n}\n',
            '{\n  "gpu_nodes": {\n    "hosts": {\n      "a": {},\n      "new": {"x": 1}\n    }\n  }\n}\n',
        ),
        (
            "gpu_nodes:\r\n  hosts:\r\n    a:\r\n",
            "gpu_nodes:\r\n  hosts:\r\n    a:\r\n    new:\r\n      x: 1\r\n",
        ),
        ("\ufeffgpu_nodes:\n    hosts:\n", "\ufeffgpu_nodes:\n    hosts:\n        new:\n            x: 1\n"),
        (
            "gpu_nodes:\n  hosts:\n    a:\n...\n",
            "gpu_nodes:\n  hosts:\n    a:\n    new:\n      x: 1\n...\n",
        ),
        ("", "all:\n  children:\n    gpu_nodes:\n      hosts:\n        new:\n          x: 1\n"),
        (
            "# ours\n",
            "# ours\nall:\n  children:\n    gpu_nodes:\n      hosts:\n        new:\n          x: 1\n",
        ),
        (
            "all:\n  vars: {z: 1}\n",
            "all:\n  vars: {z: 1}\n  children:\n    gpu_nodes:\n      hosts:\n        new:\n          x: 1\n",
        ),
        ("web:\n  hosts:\n    w:\n", "web:\n  hosts:\n    w:\ngpu_nodes:\n  hosts:\n    new:\n      x: 1\n"),
        (
            "gpu_nodes:\n  hosts:\n    ? a\n    : {y: 2}\n",
            "gpu_nodes:\n  hosts:\n    ? a\n    : {y: 2}\n    new:\n      x: 1\n",
        ),
        (
            "gpu_nodes:\n  hosts:\n    a:\n      t: |+\n        text\n\n\n  vars: {}\n",
            "gpu_nodes:\n  hosts:\n    a:\n      t: |+\n        text\n\n\n    new:\n      x: 1\n  vars: {}\n",
        ),
    ],
)
def test_however_the_group_is_written(before, after):
    edited = edit(before, name="new", groups=["gpu_nodes"], variables={"x": 1})
    assert edited.text == after
    assert "new" not in read(edit(after, name="new", state="absent").text).hosts()


@pytest.mark.parametrize(
    "value",
    [
        "10.0.0.1",
        "yes",
        "1e3",
        "0x10",
        "1:30",
        "~",
        "",
        " x ",
        "a: b",
        "# c",
        "{{ x }}",
        "é",
        "a\nb\n",
        "\u2028",
        "'\"",
        True,
        None,
        0,
        -3.5,
        [],
        {},
        ["a", {"b": [1, "2"]}],
        {"k k": "v, w", "x": "l1\nl2"},
        "2026-01-01",
        "&a",
        "*a",
        "!t",
    ],
)
@pytest.mark.parametrize("text", [SITE, '{"gpu_nodes": {"children": {"t4": {"hosts": {"gpu20": {}}}}}}'])
def test_any_value_is_read_as_it_was_given(text, value):
    edited = edit(text, name="gpu20", variables={"x": value})
    found = read(edited.text).variables_of("gpu20")["x"]
    assert found == value and type(found) is type(value)
    other = edit(edited.text, name="gpu20", variables={"x": "other"})
    assert read(other.text).variables_of("gpu20")["x"] == "other"


def test_value_is_replaced_where_it_stands():
    edited = edit(SITE, name="gpu01", variables={"ansible_host": "10.9.9.9"})
    assert edited.text == SITE.replace("10.0.0.11", "10.9.9.9")
    edited = edit(SITE, name="gpu02", variables={"ansible_host": "10.9.9.9"})
    assert edited.text == SITE.replace("10.0.0.12", '"10.9.9.9"')
    edited = edit(SITE, name="gpu20", variables={"note": "short"})
    assert "ansible_host:   10.0.0.20\n              note: short\n" in edited.text
    assert "# the last word of gpu20" in edited.text


@pytest.mark.parametrize(
    "name", ["10.0.0.17", "1e3", "017", "yes", "null", "2001-db8--17", "gpu_1.example.org"]
)
def test_name_stays_a_text(name):
    assert name in read(edit(SITE, name=name, groups=["a100"]).text).hosts()


def test_tags_anchors_and_templates_elsewhere_are_left_alone():
    text = (
        "gpu_nodes:\n  hosts:\n    a: &common\n"
        "      key: !vault |\n        $ANSIBLE_VAULT;1.1;AES256\n        6162\n"
        "      raw: !unsafe '{{ x }}'\n      nan: .nan\n"
        "    b: *common\n    c:\n      <<: *common\n      own: 1\n"
    )
    edited = edit(text, name="new", groups=["gpu_nodes"], variables={"x": 1})
    assert edited.text == text + "    new:\n      x: 1\n"
    merged = edit(text, name="c", variables={"raw": "mine"})
    assert added(text, merged.text) == "      raw: mine\n"


def test_vaulted_value_moves_as_it_is():
    text = (
        "gpu_nodes:\n  hosts:\n    a:\n      key: !vault |\n        $ANSIBLE_VAULT;1.1;AES256\n        6162\n"
    )
    moved = edit(text, name="a", groups=["gpu_quarantine"])
    assert "key: !vault |\n        $ANSIBLE_VAULT;1.1;AES256\n        6162\n" in moved.text
    assert moved.variables == read(text).variables_of("a")


REFUSED = {
    "list": ("- a\n", "a mapping of groups is wanted, and it is a list"),
    "vault": ("$ANSIBLE_VAULT;1.1;AES256\n6162\n", "it is encrypted as a whole"),
    "text": ("hello\n", "a mapping of groups is wanted, and it is a text"),
    "broken": ("a:\n  b: [1\n", "it cannot be parsed: line 3, column 1"),
    "tab": ("a:\n\tb: 1\n", "it cannot be parsed: line 2"),
    "two documents": ("a:\n---\nb:\n", "it cannot be parsed: line 2"),
    "date": ("a:\n  vars: {d: 2026-13-45}\n", "it cannot be parsed"),
    "plugin": ("plugin: aws_ec2\n", "it configures the inventory plugin aws_ec2"),
    "hosts list": ("gpu_nodes:\n  hosts: [a, b]\n", "hosts of gpu_nodes is a list, and a mapping is wanted"),
    "group list": ("gpu_nodes: [a]\n", "'gpu_nodes' at the top is no group (a list)"),
    "number": ("gpu_nodes:\n  hosts:\n    17:\n", "17 in gpu_nodes is no host name; quote it"),
    "twice": (
        "gpu_nodes:\n  hosts:\n    a:\n  hosts:\n    b:\n",
        "hosts is there twice in gpu_nodes (lines 2 and 4)",
    ),
    "inside": ("gpu_nodes:\n  children:\n    gpu_quarantine:\n", "gpu_quarantine is below gpu_nodes"),
    "range": (
        "gpu_quarantine:\n  hosts:\n    new[1:3]:\n    ne[v:x]:\n",
        "new is in gpu_quarantine as part of 'ne[v:x]'",
    ),
    "alias": ("x: {hosts: &h {a: }}\ngpu_nodes:\n  hosts: *h\n", "no mapping of its own"),
    "shared": ("gpu_nodes:\n  hosts: &h\n    a:\nx:\n  hosts: *h\n", "cannot be edited safely"),
    "itself": ("gpu_nodes: &g\n  children:\n    b: *g\n", "the group b is below itself"),
}


@pytest.mark.parametrize("text, words", REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_edited_safely_is_refused_with_the_reason(text, words):
    with pytest.raises(InventoryError) as refused:
        edit(text, name="new", groups=["gpu_nodes"])
    assert words in str(refused.value)


@pytest.mark.parametrize(
    ("groups", "words"),
    [
        (["a10"], "there is no group a10: it has gpu_nodes, a100, t4, empty, racks"),
        ([], "no group was given"),
        (["all"], "every host is in all anyway"),
        (["a100", "gpu_quarantine"], "in service (a100) or in quarantine (gpu_quarantine), never in both"),
        (None, "new is in none of its groups"),
    ],
)
def test_groups_that_cannot_be(groups, words):
    with pytest.raises(InventoryError) as refused:
        edit(SITE, name="new", groups=groups)
    assert words in str(refused.value)


def test_range_covers_its_hosts():
    text = "gpu_nodes:\n  hosts:\n    gpu[01:03]: {x: 1}\n"
    assert not edit(text, name="gpu02", groups=["gpu_nodes"], variables={"x": 1}).changed
    own = edit(text, name="gpu02", variables={"x": 2})
    assert own.variables == {"x": 2} and own.text == text + "    gpu02:\n      x: 2\n"
    with pytest.raises(InventoryError, match="write its hosts out one by one"):
        edit(text, name="gpu02", state="absent")
    assert not edit(text, name="gpu04", state="absent").changed


def test_group_elsewhere_is_joined_and_never_left():
    edited = edit(SITE, name="new", groups=["a100", "racks"])
    assert edited.groups == ["a100", "racks"]
    assert edit(edited.text, name="new", groups=["gpu_quarantine"]).groups == ["racks", "gpu_quarantine"]


def test_text_that_keeps_its_blank_lines_takes_none_of_its_neighbours():
    keeps = "gpu_nodes:\n  hosts:\n    a:\n      t: |+\n        text\n    b:\n\n\nracks:\n\n# the end\n"
    gone = edit(keeps, name="b", state="absent")
    assert gone.text == "gpu_nodes:\n  hosts:\n    a:\n      t: |+\n        text\nracks:\n\n# the end\n"
    moved = edit(keeps, name="a", groups=["gpu_quarantine"])
    assert moved.variables == {"t": "text\n"} and moved.text.endswith(
        "      t: |+\n        text\n# the end\n"
    )
