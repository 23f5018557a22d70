# Apache-2.0 (see LICENSE)
"""What is known of messages and causes: ``data/symptoms/*.yml``, checked and immutable.

``python -m gpuready.diagnosis.knowledge`` checks the files and names every problem.
"""

from __future__ import annotations

import functools
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from ..catalog import BASES, data_directory
from .chain import LINKS
from .logic import Condition, complaint, leaves
from .patterns import PatternError, Shape, shape, translate
from .signs import load_signs

LAYERS = ("host", "container_runtime", "framework", "application")
REPAIRS = ("safe", "reboot", "manual")
LINK_NAMES = tuple(link.name for link in LINKS)
#: What a text may say of the facts: the first names of their paths.
FACT_ROOTS = ("gpu_stack", "plan", "verification", "container", "framework", "platform", "probes")

_MESSAGE_ID = re.compile(r"[a-z][a-z0-9_]*\.[a-z0-9][a-z0-9_]*")
_CAUSE_ID = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_MONTH = re.compile(r"20\d\d-(0[1-9]|1[0-2])")
#: {name}, {name|fallback}; Docker's {{.Name}} and shell's ${NAME} are none.
PLACEHOLDER = re.compile(r"(?<![{$])\{([a-z_][A-Za-z0-9_.]*)(?:\|([^{}]*))?\}(?!\})")


class KnowledgeError(ValueError):
    """Symptom files that cannot be used; every problem names file, entry, field and what to write."""

    def __init__(self, problems: Sequence[str]) -> None:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        super().__init__(problems[0] + more)
        self.problems = tuple(problems)


@dataclass(frozen=True)
class Message:
    """Something that a program says."""

    id: str
    pattern: str
    means: str
    ignorable: bool
    source: tuple[str, ...]
    basis: str
    file: str
    shape: Shape

    @property
    def program(self) -> str:
        return self.id.partition(".")[0]

    @functools.cached_property
    def regex(self) -> re.Pattern[str]:
        """The compiled pattern, only made once a text holds a needle. One that is none matches nothing."""
        try:
            return re.compile(translate(self.pattern), re.MULTILINE)
        except re.error:
            return re.compile(r"(?!)")


@dataclass(frozen=True)
class Cause:
    """Something that is wrong, what it shows itself by, and what to do about it."""

    id: str
    layer: str
    link: str
    title: str
    when: Condition
    messages: Mapping[str, float]
    supports: Mapping[str, float]
    refuted_by: tuple[str, ...]
    explains: tuple[str, ...]
    distinguish: str
    check: tuple[str, ...]
    fix: tuple[str, ...]
    repair: str
    actions: tuple[str, ...]
    source: tuple[str, ...]
    basis: str
    checked: str
    file: str

    @property
    def position(self) -> int:
        """Where in the chain it sits."""
        return LINK_NAMES.index(self.link)


@dataclass(frozen=True)
class Knowledge:
    messages: Mapping[str, Message]
    causes: Mapping[str, Cause]
    #: Entries that were left out, and why (only where the loader was told to go on without them).
    problems: tuple[str, ...] = ()

    @functools.cached_property
    def consequences(self) -> Mapping[str, frozenset[str]]:
        """Per cause, everything that follows from it: messages and causes, what they explain included."""
        found = {}
        for cause in self.causes.values():
            reached: set[str] = set()
            waiting = list(cause.explains)
            while waiting:
                name = waiting.pop()
                if name in reached or name == cause.id:
                    continue
                reached.add(name)
                if name in self.causes:
                    waiting += [*self.causes[name].explains, *self.causes[name].messages]
            found[cause.id] = frozenset(reached)
        return found


class _Entry:
    """One entry of a file; every complaint says which file, entry and field."""

    def __init__(self, file: str, kind: str, number: int, data: Any, problems: list[str]) -> None:
        self.file, self.problems, self.sound = file, problems, True
        self.data: Mapping[str, Any] = data if isinstance(data, dict) else {}
        name = self.data.get("id")
        self.where = f"{kind} {number}" + (f" ({name})" if isinstance(name, str) else "")
        self.seen: set[str] = set()
        if not isinstance(data, dict):
            self.problem("id", f"the entry must be a mapping, not {data!r}")

    def problem(self, field: str, text: str, fatal: bool = True) -> None:
        self.problems.append(f"{self.file}: {self.where}: field {field}: {text}")
        self.sound = self.sound and not fatal

    def value(self, field: str, kind: type, default: Any = None, required: bool = False) -> Any:
        self.seen.add(field)
        value = self.data.get(field)
        if value is None:
            if required:
                self.problem(field, "is missing")
            return default
        if not isinstance(value, kind):
            words = {str: "text", list: "a list", dict: "a mapping", bool: "true or false"}
            self.problem(field, f"must be {words[kind]}, not {value!r}")
            return default
        return value

    def text(
        self,
        field: str,
        required: bool = True,
        form: re.Pattern[str] | None = None,
        choices: Sequence[str] = (),
    ) -> str:
        value = self.value(field, str, "", required)
        if value and form and not form.fullmatch(value):
            self.problem(field, f"{value!r} does not have the form {form.pattern}")
        if value and choices and value not in choices:
            self.problem(field, f"{value!r} is none of {', '.join(choices)}")
        return " ".join(value.split()) if field != "pattern" else value

    def texts(self, field: str, required: bool = False) -> tuple[str, ...]:
        values = self.value(field, list, [], required)
        for value in values:
            if not isinstance(value, str) or not value.strip():
                self.problem(field, f"must be a list of texts; {value!r} is none (quote it)")
                return ()
        if required and field in self.data and not values:
            self.problem(field, "must not be empty")
        return tuple(values)

    def numbers(self, field: str, low: float, high: float) -> Mapping[str, float]:
        found = {}
        for name, number in self.value(field, dict, {}).items():
            if isinstance(number, bool) or not isinstance(number, (int, float)) or not low < number <= high:
                self.problem(field, f"{name}: {number!r} must be a number over {low:g} and up to {high:g}")
            else:
                found[str(name)] = float(number)
        return MappingProxyType(found)

    def done(self) -> bool:
        for name in sorted(set(self.data) - self.seen):
            self.problem(name, f"is not known here; known: {', '.join(sorted(self.seen))}", fatal=False)
        return self.sound


def _message(entry: _Entry, thorough: bool) -> Message | None:
    pattern = entry.text("pattern")
    form = Shape((), (), False, 0)
    try:
        if pattern:
            form = shape(pattern)
            if thorough:
                re.compile(translate(pattern), re.MULTILINE)
    except (PatternError, re.error) as error:
        entry.problem("pattern", f"{error}: {pattern}")
    found = Message(
        id=entry.text("id", form=_MESSAGE_ID),
        pattern=pattern,
        means=entry.text("means"),
        ignorable=entry.value("ignorable", bool, False),
        source=entry.texts("source", required=True),
        basis=entry.text("basis", choices=BASES),
        file=entry.file,
        shape=form,
    )
    return found if entry.done() else None


def _cause(entry: _Entry) -> Cause | None:
    when = entry.data.get("when")
    entry.seen.add("when")
    wrong = None if when is None else complaint(when)
    if wrong:
        entry.problem("when", wrong)
    found = Cause(
        id=entry.text("id", form=_CAUSE_ID),
        layer=entry.text("layer", choices=LAYERS),
        link=entry.text("link", choices=LINK_NAMES),
        title=entry.text("title"),
        when=when,
        messages=entry.numbers("messages", 0, 1),
        supports=entry.numbers("supports", 0, 1000),
        refuted_by=entry.texts("refuted_by"),
        explains=entry.texts("explains"),
        distinguish=entry.text("distinguish"),
        check=entry.texts("check", required=True),
        fix=entry.texts("fix", required=True),
        repair=entry.text("repair", choices=REPAIRS),
        actions=entry.texts("actions"),
        source=entry.texts("source", required=True),
        basis=entry.text("basis", choices=BASES),
        checked=entry.text("checked", form=_MONTH),
        file=entry.file,
    )
    if when is None and not found.messages:
        entry.problem("when", "a cause needs a condition (when) or messages; it has neither")
    if found.repair == "manual" and found.actions:
        entry.problem("actions", "a manual cause has none: write repair: safe, or leave them out")
    if found.repair in ("safe", "reboot") and not found.actions:
        entry.problem("actions", f"repair: {found.repair} must name the plan's actions that repair it")
    if found.repair == "reboot" and "host.reboot" not in found.actions:
        entry.problem("actions", "repair: reboot must name host.reboot")
    return found if entry.done() else None


def _references(cause: Cause, messages: Mapping[str, Message], causes: Mapping[str, Cause]) -> Iterator[str]:
    """What a cause names that is not there."""
    from ..draft import ACTIONS

    where = f"{cause.file}: cause {cause.id}: field"
    signs = load_signs()
    for name in cause.actions:
        if name not in ACTIONS:
            yield f"{where} actions: {name} is no action of the plan: {', '.join(ACTIONS)}"
    for name in cause.messages:
        if name not in messages:
            yield f"{where} messages: {name} is no message of any file"
    for name in cause.explains:
        if name not in messages and name not in causes:
            yield f"{where} explains: {name} is neither a message nor a cause of any file"
        if name == cause.id:
            yield f"{where} explains: a cause does not follow from itself"
    named = [("refuted_by", name) for name in cause.refuted_by] + [
        ("supports", name) for name in cause.supports
    ]
    if cause.when is not None:
        named += [("when", name) for name, _wanted in leaves(cause.when)]
    for field, name in named:
        if name not in signs:
            yield f"{where} {field}: {name} is no sign (signs_host.py, signs_runtime.py, signs_framework.py)"
    groups = {
        group
        for name in cause.messages
        if name in messages
        for group in re.findall(r"\(\?P<(\w+)>", messages[name].pattern)
    }
    for field in ("title", "distinguish", "check", "fix"):
        value = getattr(cause, field)
        for text in [value] if isinstance(value, str) else value:
            for name, _fallback in PLACEHOLDER.findall(text):
                if name not in groups and name.partition(".")[0] not in FACT_ROOTS:
                    yield (
                        f"{where} {field}: {{{name}}} is neither a group of one of its messages nor a "
                        f"path of facts ({', '.join(FACT_ROOTS)})"
                    )


def _files(directory: str, problems: list[str]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    for file in sorted(name for name in os.listdir(directory) if name.endswith(".yml")):
        with open(os.path.join(directory, file), encoding="utf-8") as handle:
            try:
                data = yaml.load(handle, Loader=loader)
            except (yaml.YAMLError, UnicodeDecodeError) as error:
                problems.append(f"{file}: is not YAML: {' '.join(str(error).split())}")
                continue
        if not isinstance(data, dict) or data.get("schema") != 1:
            problems.append(f"{file}: must be a mapping with schema: 1, messages: […] and causes: […]")
            continue
        for name in sorted(set(data) - {"schema", "messages", "causes"}):
            problems.append(f"{file}: field {name}: is not known here; known: schema, messages, causes")
        yield file, data


def _rows(
    files: Sequence[tuple[str, Mapping[str, Any]]], field: str, build: Any, problems: list[str]
) -> dict[str, Any]:
    rows: dict[str, Any] = {}
    for file, data in files:
        entries = data.get(field) or []
        if not isinstance(entries, list):
            problems.append(f"{file}: field {field}: must be a list")
            continue
        for number, item in enumerate(entries, start=1):
            found = build(_Entry(file, field[:-1], number, item, problems))
            if found is None:
                continue
            if found.id in rows:
                problems.append(f"{file}: {field[:-1]} {found.id}: is in {rows[found.id].file} already")
                continue
            rows[found.id] = found
    return rows


@functools.lru_cache(maxsize=4)
def _load(directory: str, _times: tuple[tuple[str, int], ...], thorough: bool) -> Knowledge:
    problems: list[str] = []
    files = list(_files(directory, problems))
    messages = _rows(files, "messages", lambda entry: _message(entry, thorough), problems)
    causes = _rows(files, "causes", _cause, problems)
    if thorough:
        for cause in causes.values():
            problems += _references(cause, messages, causes)
    return Knowledge(MappingProxyType(messages), MappingProxyType(causes), tuple(problems))


def load_knowledge(directory: str | None = None, *, skip_broken: bool = False) -> Knowledge:
    """All messages and causes; with ``skip_broken``, without the entries that cannot be used.

    A diagnosis is made when things are bad already: one wrong entry must not take the others along.
    """
    place = directory or os.path.join(data_directory(), "symptoms")
    try:
        names = sorted(name for name in os.listdir(place) if name.endswith(".yml"))
        times = tuple((name, os.stat(os.path.join(place, name)).st_mtime_ns) for name in names)
        knowledge = _load(place, times, not skip_broken)
    except OSError as error:
        raise KnowledgeError([f"{error.filename}: cannot be read ({error.strerror})"]) from error
    if knowledge.problems and not skip_broken:
        raise KnowledgeError(knowledge.problems)
    return knowledge


def main() -> int:
    """Check the files; 0 when all is sound."""
    try:
        knowledge = load_knowledge()
    except KnowledgeError as error:
        print("\n".join(error.problems), file=sys.stderr)
        return 2
    print(f"{len(knowledge.causes)} causes, {len(knowledge.messages)} messages: all entries are sound")
    return 0


if __name__ == "__main__":
    sys.exit(main())
