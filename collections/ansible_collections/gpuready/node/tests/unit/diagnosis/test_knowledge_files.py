"""Symptom files: what is wrong in one is said with file, entry and field; the rest still counts."""

from __future__ import annotations

import copy

import pytest
import yaml
from gpuready.diagnosis.knowledge import KnowledgeError, load_knowledge
from small_world import cause, message

SOUND = {
    "schema": 1,
    "messages": [message("a.one", "bridge (?P<name>[a-z]+) collapsed"), message("a.two", "river too wide")],
    "causes": [
        cause(
            "first", when={"all": ["test.a", {"not": "test.b"}]}, messages={"a.one": 0.5}, explains=["second"]
        ),
        cause("second", messages={"a.two": 0.7}, supports={"test.c": 3}, refuted_by=["test.d"]),
    ],
}


def write(place, data, name="host.yml"):
    text = data if isinstance(data, str) else yaml.safe_dump(data, sort_keys=False)
    (place / name).write_text(text, encoding="utf-8")


def changed(kind, number, **fields):
    data = copy.deepcopy(SOUND)
    for name, value in fields.items():
        if value is ...:
            del data[kind][number][name]
        else:
            data[kind][number][name] = value
    return data


def test_sound_files_are_read(tmp_path):
    write(tmp_path, SOUND)
    known = load_knowledge(str(tmp_path))
    assert list(known.messages) == ["a.one", "a.two"]
    assert list(known.causes) == ["first", "second"]
    assert known.problems == ()
    assert known.consequences["first"] == {"second", "a.two"}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (changed("messages", 0, pattern=...), ["message 1 (a.one)", "field pattern", "is missing"]),
        (
            changed("messages", 0, pattern="bridge (collapsed"),
            ["message 1 (a.one)", "pattern", "bridge (collapsed"],
        ),
        (changed("messages", 0, pattern="[a-z]+"), ["field pattern", "fixed characters"]),
        (changed("messages", 0, pattern="bridge [z-a]"), ["field pattern", "bad character range"]),
        (changed("messages", 0, id="one"), ["field id", "'one'", "form"]),
        (changed("messages", 0, basis="rumour"), ["field basis", "'rumour'", "read-partial"]),
        (changed("messages", 0, source=[]), ["field source", "must not be empty"]),
        (changed("messages", 0, means=3), ["field means", "must be text, not 3"]),
        (changed("messages", 0, meaning="x"), ["field meaning", "not known here; known:"]),
        (changed("messages", 1, id="a.one"), ["message a.one", "is in host.yml already"]),
        (
            changed("causes", 0, when={"some": ["test.a"]}),
            ["cause 1 (first)", "field when", "none of all, any, not"],
        ),
        (changed("causes", 0, when="test.z"), ["cause first", "field when", "test.z is no sign"]),
        (changed("causes", 0, when=..., messages=...), ["field when", "it has neither"]),
        (changed("causes", 0, messages={"a.three": 0.5}), ["field messages", "a.three is no message"]),
        (changed("causes", 0, messages={"a.one": 1.5}), ["field messages", "a.one: 1.5", "up to 1"]),
        (changed("causes", 0, messages={"a.one": True}), ["field messages", "a.one: True"]),
        (
            changed("causes", 0, explains=["third"]),
            ["field explains", "third is neither a message nor a cause"],
        ),
        (changed("causes", 0, explains=["first"]), ["field explains", "does not follow from itself"]),
        (changed("causes", 1, supports={"test.c": 0}), ["field supports", "test.c: 0"]),
        (changed("causes", 1, refuted_by=["test.z"]), ["field refuted_by", "test.z is no sign"]),
        (changed("causes", 0, link="moon"), ["field link", "'moon' is none of bus, packages"]),
        (changed("causes", 0, layer="moon"), ["field layer", "'moon' is none of host"]),
        (changed("causes", 0, repair="magic"), ["field repair", "'magic' is none of safe, reboot, manual"]),
        (changed("causes", 0, repair="safe"), ["field actions", "must name the plan's actions"]),
        (changed("causes", 0, actions=["docker.restart"]), ["field actions", "manual cause has none"]),
        (
            changed("causes", 0, repair="safe", actions=["docker.dance"]),
            ["actions", "docker.dance is no action"],
        ),
        (changed("causes", 0, repair="reboot", actions=["driver.load"]), ["actions", "host.reboot"]),
        (changed("causes", 0, fix=["mend {bridge}"]), ["field fix", "{bridge} is neither a group"]),
        (changed("causes", 0, fix="mend it"), ["field fix", "must be a list, not 'mend it'"]),
        (changed("causes", 0, check=[{"a": 1}]), ["field check", "quote it"]),
        (changed("causes", 0, checked="November"), ["field checked", "'November'"]),
        (changed("causes", 1, id="First Cause"), ["field id", "'First Cause'"]),
        ({**SOUND, "schema": 2}, ["host.yml", "schema: 1"]),
        ({**SOUND, "symptoms": []}, ["host.yml", "field symptoms", "not known"]),
        ({**SOUND, "causes": {"a": 1}}, ["host.yml", "field causes", "must be a list"]),
        ({**SOUND, "messages": [*SOUND["messages"], "text"]}, ["message 3", "must be a mapping"]),
        ("schema: [1", ["host.yml", "is not YAML", "line 1"]),
    ],
)
def test_what_is_wrong_is_named(tmp_path, data, words):
    write(tmp_path, data)
    with pytest.raises(KnowledgeError) as caught:
        load_knowledge(str(tmp_path))
    told = "\n".join(caught.value.problems)
    assert "host.yml" in told
    assert all(word in told for word in words), told
    assert len(str(caught.value).splitlines()) == 1


def test_all_problems_are_named_at_once(tmp_path):
    data = changed("causes", 0, link="moon", repair="magic")
    data["messages"][1]["basis"] = "rumour"
    write(tmp_path, data)
    with pytest.raises(KnowledgeError, match=r"and \d more") as caught:
        load_knowledge(str(tmp_path))
    assert len(caught.value.problems) >= 3


def test_a_broken_entry_does_not_take_the_others_along(tmp_path):
    write(tmp_path, changed("causes", 0, link="moon"))
    write(tmp_path, "schema: [1", "framework.yml")
    known = load_knowledge(str(tmp_path), skip_broken=True)
    assert list(known.causes) == ["second"]
    assert len(known.problems) == 2


def test_files_are_one_world(tmp_path):
    write(tmp_path, {"schema": 1, "messages": SOUND["messages"], "causes": []})
    write(tmp_path, {"schema": 1, "messages": [], "causes": SOUND["causes"]}, "framework.yml")
    assert len(load_knowledge(str(tmp_path)).causes) == 2


def test_a_changed_file_is_read_again(tmp_path):
    write(tmp_path, SOUND)
    assert len(load_knowledge(str(tmp_path)).causes) == 2
    (tmp_path / "host.yml").unlink()
    write(tmp_path, {"schema": 1, "messages": SOUND["messages"], "causes": SOUND["causes"][1:]}, "other.yml")
    assert len(load_knowledge(str(tmp_path)).causes) == 1


def test_a_missing_directory_is_named(tmp_path):
    with pytest.raises(KnowledgeError, match="no_such_place"):
        load_knowledge(str(tmp_path / "no_such_place"))
