# Apache-2.0 (see LICENSE)
"""From facts and texts to causes (docs/diagnosis.md). Pure: no file, no network.

Two kinds of evidence. *Facts* establish or refute a cause, whatever a text says. *Messages* only speak for
causes, each with a weight; of the causes left, the one is sought that explains best what was said. What
follows from it is its consequence; what it does not explain and names another cause is a fault of its own.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ..catalog import Catalog
from . import logic
from .chain import LINKS
from .facts import Facts
from .knowledge import PLACEHOLDER, Cause, Knowledge, Message
from .patterns import Text
from .reader_text import normalise
from .signs import UNKNOWN, Sign, ask, load_signs

SCHEMA = 1
#: What a fact has established.
CERTAIN = 0.97
#: What a message that merely follows from a cause says for it. With facts that nearly decide, it is enough.
CONSEQUENCE = 0.05
#: What messages alone can come to.
MOST = 0.95
#: From here on the best explanation is called a cause, and a further fault one of its own.
FIRST_ROOT, FURTHER_ROOT = 0.25, 0.5
#: From here on a cause with evidence of its own takes the place of one that follows from it.
DEEPER = 0.4
#: From here on another explanation of the same messages is worth telling, and how many are.
ALTERNATIVE, MOST_ALTERNATIVES = 0.15, 4
#: Roots between two of these are told in the chain's order.
TIERS = (0.8, 0.65, 0.5)
#: How often one message is kept: the first places say it.
MOST_HITS = 3
MOST_LINES = 10
LINE_WIDTH = 200
#: So much of a text's beginning and end is searched for lines that complain.
LOOKED_AT = 100_000

#: Lines that complain. What no cause explains of them is shown, never dropped.
_ERROR = re.compile(
    r"\b(?:error|errors|failed|failure|fatal|cannot|can't|could not|couldn't|unable to|not found|denied|"
    r"no such file|refused|not permitted|invalid|unsupported|unknown|missing|mismatch|panic|timed out)\b|"
    r"\b[A-Z]\w*(?:Error|Exception|Warning)\b:|\bXid\b",
    re.IGNORECASE,
)
#: Lines that deny an error, that inform, commands that search for one, and what people say about it.
_NO_ERROR = re.compile(
    r"\blevel=(?:info|debug)\b|^I \S+:\d+\]|^\[?(?:INFO|DEBUG)\b|"
    r"(?i:\b(?:no|without|0) (?:errors?|failures?)\b|\berrors?: 0\b|^\S*[$#] |\b(?:grep|journalctl|dmesg) -)|"
    r"\b(?:I'm|I've|I'd|[Mm]y|[Aa]nyone|[Pp]lease help)\b|"
    r"\bI (?:am|was|have|had|get|got|try|tried|want|run|ran|use|did|do|can|could|see|saw|think)\b|"
    r"\bI (?:install|notice|start|encounter)\w*",
)


class Hit(NamedTuple):
    """One place where a program says a message."""

    text: str
    #: The first characters of the lines that it covers, within the text.
    lines: frozenset[tuple[str, int]]
    line: str
    groups: Mapping[str, str]


def merge(facts: Mapping[str, Any], others: Mapping[str, Any]) -> dict[str, Any]:
    """Facts, with what only the others know: what a node says beats what somebody pasted."""
    merged = dict(facts)
    for name, value in others.items():
        mine = merged.get(name)
        if isinstance(mine, Mapping) and isinstance(value, Mapping):
            merged[name] = merge(mine, value)
        elif name not in merged:
            merged[name] = value
    return merged


def texts_of(facts: Facts) -> list[tuple[str, str]]:
    """What programs said, as the facts hold it; not of the run without a GPU, which is to complain."""
    found: list[tuple[str, str]] = []

    def add(name: str, value: Any) -> None:
        if isinstance(value, (list, tuple)):
            value = "\n".join(str(line) for line in value)
        if isinstance(value, str) and value.strip():
            found.append((name, value))

    stack = "gpu_stack"
    add("kernel log", facts.get(f"{stack}.host.kernel_log.lines"))
    add("NVML", facts.get(f"{stack}.driver.nvml.error"))
    add("loading the driver", facts.get(f"{stack}.driver.reload_failed"))
    add("apt", facts.get(f"{stack}.apt.errors"))
    add("docker info", facts.get(f"{stack}.container_runtime.docker.live.error"))
    add("daemon.json", facts.get(f"{stack}.container_runtime.docker.daemon_json.error"))
    add("dockerd's log", facts.get(f"{stack}.container_runtime.docker.log"))
    for row in facts.rows(f"{stack}.problems"):
        add(f"observing {row.get('probe')}", row.get("error"))
    for place in ("container", "probes.with_gpu"):
        name = facts.get(f"{place}.name") or "container"
        add(f"{name}'s log", facts.get(f"{place}.log"))
        add(f"nvidia-smi in {name}", facts.get(f"{place}.nvidia_smi.error"))
        add(f"{name}'s start", facts.get(f"{place}.error"))
        add(f"cuInit in {name}", facts.get(f"{place}.cuda_init.error"))
    add("verification", facts.get("verification.log"))
    add("nvidia-container-cli", facts.get("probes.container_cli.output"))
    return found


def find_messages(texts: Sequence[Text], knowledge: Knowledge) -> dict[str, list[Hit]]:
    """What of the known messages the texts hold: per message, the first few places that differ."""
    found = {}
    for message in knowledge.messages.values():
        hits: dict[str, Hit] = {}
        for match, text in _matches(message, texts):
            hit = _hit(text, match)
            hits.setdefault(hit.line, hit)
            if len(hits) >= MOST_HITS:
                break
        if hits:
            found[message.id] = list(hits.values())
    return found


def _matches(message: Message, texts: Sequence[Text]) -> Iterator[tuple[re.Match[str], Text]]:
    for text in texts:
        for begin, end in text.windows(message.shape):
            for match in message.regex.finditer(text.text, begin, end):
                yield match, text


def _hit(text: Text, match: re.Match[str]) -> Hit:
    begin, line = text.line(match.start())
    starts = {(text.name, begin)}
    at = begin + len(line)
    lines = [line]
    while at < match.end() - 1:
        begin, line = text.line(at + 1)
        starts.add((text.name, begin))
        lines.append(line)
        at = begin + len(line)
    groups = {name: " ".join(value.split()) for name, value in match.groupdict().items() if value}
    return Hit(text.name, frozenset(starts), _short(" ".join(lines), " ".join(match.group().split())), groups)


def _short(line: str, part: str = "") -> str:
    """A line on one line; of a long one, what is around the part that matters."""
    line = " ".join(line.split())
    if len(line) <= LINE_WIDTH:
        return line
    more = "\N{HORIZONTAL ELLIPSIS}"
    at = max(0, line.find(part))
    if at + len(part) < LINE_WIDTH:
        return line[: LINE_WIDTH - 1] + more
    begin = max(0, at - max(20, (LINE_WIDTH - len(part)) // 2))
    cut = line[begin : begin + LINE_WIDTH - 2]
    return (more if begin else "") + cut + (more if begin + len(cut) < len(line) else "")


class _Case:
    """One diagnosis in the making."""

    def __init__(self, facts: Facts, texts: Sequence[Text], knowledge: Knowledge) -> None:
        self.facts, self.texts, self.knowledge = facts, texts, knowledge
        self.definitions = load_signs()
        self.signs: dict[str, Sign] = {}
        self.problems: list[dict[str, str]] = []
        self.hits = find_messages(texts, knowledge)
        self.lines = {
            name: frozenset().union(*(hit.lines for hit in hits)) for name, hits in self.hits.items()
        }
        self.established: dict[str, bool | None] = {}
        self.open: dict[str, Cause] = {}
        for cause in knowledge.causes.values():
            state = None if cause.when is None else logic.holds(cause.when, self.state)
            if state is False or any(self.state(name) for name in cause.refuted_by):
                continue
            self.established[cause.id] = state
            if state or any(name in self.hits for name in (*cause.messages, *cause.explains)):
                self.open[cause.id] = cause

    def sign(self, name: str) -> Sign:
        """A sign, found once. One that breaks is unknown, and says so: the others still count."""
        if name not in self.signs:
            try:
                known = name in self.definitions
                self.signs[name] = ask(name, self.facts, self.definitions) if known else UNKNOWN
            except Exception as error:
                self.problems.append({"sign": name, "error": f"{type(error).__name__}: {error}"})
                self.signs[name] = UNKNOWN
        return self.signs[name]

    def state(self, name: str) -> bool | None:
        return self.sign(name).state

    def certain(self, cause: Cause) -> bool:
        return bool(self.established.get(cause.id))

    def consequences(self, cause: Cause) -> frozenset[str]:
        return self.knowledge.consequences[cause.id]

    def follows(self, late: Cause, early: Cause) -> bool:
        """Whether one follows from the other; where each says so of the other, from the earlier link's."""
        if late.id not in self.consequences(early):
            return False
        return early.id not in self.consequences(late) or (early.position, early.id) < (
            late.position,
            late.id,
        )

    def weight(self, cause: Cause, without: Iterable[str] = ()) -> float:
        """How much messages alone speak for a cause: the strongest counts, others add to it within bounds.

        Programs repeat themselves, and each other: five weak lines must not outweigh a discriminating one.
        """
        heard = self.hits.keys() - set(without)
        weights = dict.fromkeys(cause.explains, CONSEQUENCE)
        weights.update(cause.messages)
        said = sorted(((weight, name) for name, weight in weights.items() if name in heard), reverse=True)
        used: set[tuple[str, int]] = set()
        counted = []
        for weight, name in said:
            if self.lines[name] <= used:
                continue
            used |= self.lines[name]
            counted.append(weight)
        if not counted:
            return 0.0
        missing = 1.0
        for weight in counted[1:]:
            missing *= 1 - weight
        return counted[0] + (1 - counted[0]) * 0.5 * (1 - missing)

    def confidence(self, cause: Cause, without: Iterable[str] = ()) -> float:
        """How sure a cause is, with what the facts add to the messages."""
        if self.certain(cause):
            return CERTAIN
        weight = min(self.weight(cause, without), 0.98)
        if not weight:
            return 0.0
        odds = weight / (1 - weight)
        for name, factor in cause.supports.items():
            if self.state(name):
                odds *= factor
        if cause.when is not None:
            # Part of what it presupposes is known to hold, the rest is open.
            known = sum(self.state(name) is wanted for name, wanted in logic.leaves(cause.when))
            odds *= 1.25 ** min(known, 2)
        link = self.state(f"link.{cause.link}")
        if link is not None:
            odds *= 0.5 if link else 1.5
        return min(odds / (1 + odds), MOST)

    def explained_by(self, causes: Iterable[Cause]) -> set[str]:
        """The messages that causes explain: their own, and what follows from them."""
        return {
            name
            for cause in causes
            for name in (*cause.messages, *self.consequences(cause))
            if name in self.hits
        }

    def own_evidence(self, cause: Cause, other: Cause) -> float:
        """What speaks for a cause and not just as well for what follows from it."""
        return CERTAIN if self.certain(cause) else self.confidence(cause, other.messages)


def _deepest(case: _Case, cause: Cause, candidates: Iterable[Cause]) -> Cause:
    """The cause behind a cause, as far as there is evidence for it."""
    seen = {cause.id}
    while True:
        deeper = [
            other
            for other in candidates
            if other.id not in seen
            and case.follows(cause, other)
            and case.own_evidence(other, cause) >= DEEPER
        ]
        if not deeper:
            return cause
        cause = min(deeper, key=lambda row: (-case.own_evidence(row, cause), row.position, row.id))
        seen.add(cause.id)


def _roots(case: _Case) -> list[Cause]:
    """The causes that are none's consequence, in the order in which they were found."""
    candidates = list(case.open.values())
    roots: list[Cause] = []

    def take(cause: Cause) -> None:
        roots[:] = [root for root in roots if not case.follows(root, cause)]
        if cause not in roots and not any(case.follows(cause, root) for root in roots):
            roots.append(cause)

    for cause in sorted(candidates, key=lambda row: (row.position, row.id)):
        if case.certain(cause):
            take(_deepest(case, cause, candidates))
    while True:
        explained = case.explained_by(roots)
        left = [
            cause
            for cause in candidates
            if cause not in roots
            and not case.certain(cause)
            and not any(case.follows(cause, root) for root in roots)
        ]
        rated = {cause.id: case.confidence(cause, explained) for cause in left}
        said = [
            name
            for name in case.hits
            if name not in explained and not case.knowledge.messages[name].ignorable
        ]

        def score(cause: Cause, rated: Mapping[str, float] = rated, said: Sequence[str] = said) -> float:
            covers = len(case.explained_by([cause]).intersection(said)) / len(said) if said else 0.0
            return round(rated[cause.id] + 0.12 * covers, 6)

        threshold = FURTHER_ROOT if roots else FIRST_ROOT
        fit = [cause for cause in left if rated[cause.id] >= threshold]
        if not fit:
            return roots
        best = min(fit, key=lambda row: (-score(row), row.position, row.id))
        before = list(roots)
        take(_deepest(case, best, left))
        if roots == before:
            return roots


def _ranked(case: _Case, roots: Sequence[Cause]) -> list[Cause]:
    """What is certain or nearly so by its place in the chain, then the less certain.

    Who pastes a text asks about what it says. What merely follows from values in it may be by the way, and
    comes second there. A node's facts are its own.
    """
    pasted = not case.facts.observed

    def key(cause: Cause) -> tuple[int, bool, int, float, str]:
        sure = case.confidence(cause)
        tier = sum(sure < bound for bound in TIERS)
        return tier, pasted and not case.explained_by([cause]), cause.position, -sure, cause.id

    return sorted(roots, key=key)


def _alternatives(case: _Case, roots: Sequence[Cause]) -> list[tuple[Cause, float]]:
    """Other explanations of what was said, the likelier ones first."""
    explained = case.explained_by(roots)
    sure = any(case.certain(root) for root in roots)
    found = []
    for cause in case.open.values():
        if cause in roots or case.certain(cause) or any(case.follows(cause, root) for root in roots):
            continue
        confidence = case.confidence(cause)
        if sure and explained.issuperset(name for name in cause.messages if name in case.hits):
            # A fact has decided between them.
            confidence *= 0.4
        if confidence >= ALTERNATIVE:
            found.append((cause, confidence))
    found.sort(key=lambda row: (-round(row[1], 6), row[0].position, row[0].id))
    return found[:MOST_ALTERNATIVES]


def _values(case: _Case, cause: Cause) -> dict[str, str]:
    """The named groups of a cause's messages; the message that says most for it wins."""
    values: dict[str, str] = {}
    for name in sorted(cause.messages, key=lambda row: (-cause.messages[row], row)):
        for hit in case.hits.get(name, ()):
            for group, value in hit.groups.items():
                values.setdefault(group, value)
    return values


def _fill(text: str, values: Mapping[str, str], facts: Facts) -> str:
    """A text with the observed values in it."""

    def value(match: re.Match[str]) -> str:
        name, fallback = match.group(1), match.group(2)
        known = values.get(name)
        if known is None and "." in name:
            fact = facts.get(name)
            known = ", ".join(map(str, fact)) if isinstance(fact, (list, tuple)) else fact
        if known in (None, ""):
            known = f"<{name.rpartition('.')[2]}>" if fallback is None else fallback
        return str(known)

    return PLACEHOLDER.sub(value, text)


def _evidence(case: _Case, cause: Cause) -> list[str]:
    """What a cause rests on: the facts, then the lines."""
    found: list[str] = []
    if cause.when is not None:
        for name, wanted in logic.leaves(cause.when):
            if case.state(name) is wanted:
                found += case.sign(name).evidence
    for name, factor in cause.supports.items():
        if factor > 1 and case.state(name):
            found += case.sign(name).evidence
    for name in sorted(
        (name for name in cause.messages if name in case.hits), key=lambda row: (-cause.messages[row], row)
    ):
        found += [f"{hit.text}: {hit.line}" for hit in case.hits[name][:1]]
    return list(dict.fromkeys(found))[:8]


def _consequences(case: _Case, cause: Cause, roots: Sequence[Cause]) -> list[dict[str, str]]:
    """What else is wrong, or was said, because of a cause."""
    rows: list[dict[str, str]] = []
    for other in sorted(case.open.values(), key=lambda row: (row.position, row.id)):
        if other not in roots and case.follows(other, cause) and case.confidence(other) >= ALTERNATIVE:
            rows.append({"cause": other.id, "title": _fill(other.title, _values(case, other), case.facts)})
    for name in case.hits:
        if name in case.consequences(cause) and name not in cause.messages:
            message = case.knowledge.messages[name]
            rows.append(
                {"message": name, "title": _fill(message.means, case.hits[name][0].groups, case.facts)}
            )
    return rows


def _site(case: _Case, cause: Cause) -> list[dict[str, str]] | None:
    """What of the node's plan repairs a cause: nothing where it has a conflict. None without a plan."""
    if case.facts.get("plan") is None:
        return None
    if case.facts.rows("plan.conflicts"):
        return []
    return [
        {"id": row["id"], "reason": str(row.get("reason") or "")}
        for row in case.facts.rows("plan.actions")
        if row.get("id") in cause.actions
    ]


def _repair(case: _Case, cause: Cause, site: Sequence[Mapping[str, str]] | None) -> str:
    """Who repairs a cause: as a rule, or, with a plan, on this very node."""
    if cause.repair == "manual" or site is None:
        return cause.repair
    if not site:
        return "manual"
    reboots = any(row["id"] == "host.reboot" for row in site)
    return (
        "reboot" if reboots or (cause.repair == "reboot" and case.facts.get("plan.reboot.needed")) else "safe"
    )


def _chain(case: _Case, roots: Sequence[Cause]) -> list[dict[str, Any]]:
    rows = []
    for link in LINKS:
        sign = case.sign(f"link.{link.name}")
        state, evidence = sign.state, list(sign.evidence)
        # A link may look whole and still hold a fault: a GPU is listed, and the kernel reports a Xid.
        broken = [
            cause
            for cause in roots
            if cause.link == link.name and (state is None or case.confidence(cause) >= FURTHER_ROOT)
        ]
        if broken and state is not False:
            state = False
            evidence = [_fill(cause.title, _values(case, cause), case.facts) for cause in broken]
        rows.append({"link": link.name, "layer": link.layer, "state": state, "evidence": evidence})
    return rows


def _unexplained(case: _Case, roots: Sequence[Cause]) -> list[str]:
    """Lines that complain and that no cause explains."""
    told = case.explained_by(roots)
    shown = "\n".join(text for cause in roots for text in _evidence(case, cause))
    texts = {text.name: text for text in case.texts}
    known: set[tuple[str, int]] = set()
    left: set[tuple[str, int]] = set()
    for name in case.hits:
        if name in told:
            # Programs announce an error, wrap it, and say after it that there was one.
            known |= {near for place, begin in case.lines[name] for near in _neighbours(texts[place], begin)}
        elif case.knowledge.messages[name].ignorable:
            known |= case.lines[name]
        else:
            left |= case.lines[name]
    known -= left.difference(*(case.lines[name] for name in case.hits if name in told))
    patterns = [
        case.knowledge.messages[name].regex
        for name in case.hits
        if name in told or case.knowledge.messages[name].ignorable
    ]
    rows: dict[str, None] = {}
    for text in case.texts:
        # Of very much text, its beginning and its end.
        size = len(text.text)
        parts = [(0, size)] if size <= 2 * LOOKED_AT else [(0, LOOKED_AT), (size - LOOKED_AT, size)]
        for at, end in parts:
            while match := _ERROR.search(text.text, at, end):
                begin, line = text.line(match.start())
                at = begin + len(line) + 1
                short = _short(line)
                if short in rows or short in shown or (text.name, begin) in known or _NO_ERROR.search(line):
                    continue
                if not any(pattern.search(line) for pattern in patterns):
                    rows[short] = None
                if len(rows) >= MOST_LINES:
                    return list(rows)
    return list(rows)


def _neighbours(text: Text, begin: int) -> Iterator[tuple[str, int]]:
    """A line, two before it and one after it, each by its first character's place."""
    at = begin
    for _ in range(3):
        yield text.name, at
        if not at:
            break
        at = text.line(at - 1)[0]
    after = begin + len(text.line(begin)[1]) + 1
    if after < len(text.text):
        yield text.name, after


def _works(case: _Case, unexplained: Sequence[str]) -> bool:
    """Whether health is proved: the framework used its GPUs, or nothing contradicts a driver that works."""
    operation = case.state("link.operation")
    if operation is None:
        return bool(case.state("link.nvml")) and not unexplained
    return operation


def diagnose(
    facts: Mapping[str, Any],
    texts: Sequence[tuple[str, str]] = (),
    *,
    knowledge: Knowledge,
    catalog: Catalog,
    host: str | None = None,
    simulated: bool = False,
) -> dict[str, Any]:
    """What is wrong, in which layer, and what to do (docs/contracts.md, section 8)."""
    began = time.perf_counter()
    view = Facts(facts, catalog)
    given: dict[str, str] = {}
    lines = {""}
    for name, text in (*texts, *texts_of(view)):
        clean = normalise(text)
        # What the reader took out of a text says nothing new.
        if not lines.issuperset(clean.splitlines()):
            given[clean] = name
            lines.update(clean.splitlines())
    case = _Case(view, [Text(name, text) for text, name in given.items()], knowledge)
    roots = _ranked(case, _roots(case))
    alternatives = _alternatives(case, roots)
    chain = _chain(case, roots)
    first = next((row["link"] for row in chain if row["state"] is False), None)

    def row(cause: Cause, confidence: float, standing: str) -> dict[str, Any]:
        values = _values(case, cause)
        site = _site(case, cause)
        return {
            "host": host,
            "layer": cause.layer,
            "link": cause.link,
            "cause": cause.id,
            "title": _fill(cause.title, values, view),
            "confidence": round(confidence, 2),
            "certain": case.certain(cause),
            "standing": standing,
            "evidence": _evidence(case, cause),
            "distinguish": _fill(cause.distinguish, values, view),
            "check": [_fill(text, values, view) for text in cause.check],
            "fix": [_fill(text, values, view) for text in cause.fix],
            "repair": _repair(case, cause, site),
            "site": site,
            "consequences": _consequences(case, cause, roots) if standing == "root" else [],
            "see": list(cause.source),
        }

    unexplained = _unexplained(case, roots)
    if roots:
        status = "cause_found"
    elif first is None and _works(case, unexplained):
        status = "healthy"
    else:
        status = "unknown"
    return {
        "schema": SCHEMA,
        "host": host,
        "simulated": simulated,
        "status": status,
        "first_broken": first,
        "chain": chain,
        "causes": [row(cause, case.confidence(cause), "root") for cause in roots]
        + [row(cause, confidence, "alternative") for cause, confidence in alternatives],
        "unexplained": unexplained,
        "ignored": [
            {"message": name, "line": case.hits[name][0].line}
            for name in case.hits
            if case.knowledge.messages[name].ignorable
        ],
        "problems": case.problems,
        "seconds": round(time.perf_counter() - began, 3),
    }
