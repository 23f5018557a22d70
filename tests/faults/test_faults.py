"""Every fault of the table: injected, named first, repaired (by a run where that is safe), gone.

Singles, pairs and groups (what one run repairs) are injected for real, one node after the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pytest
from conftest import TABLE
from faultlab import Diagnosis, FaultLab, Record, Recorder, diagnose_text, transcript
from faulttable import TEXT, Fault
from kit.runs import action_ids

pytestmark = pytest.mark.lab
NODES = tuple(TABLE.nodes)
CONVERGED = tuple(name for name, profile in TABLE.nodes.items() if profile.converged)


def on(node: str, *values: Any, name: str) -> Any:
    """A parameter that belongs to a node."""
    return pytest.param(*values, id=name, marks=pytest.mark.fault_node(node))


def named(faults: Iterable[Fault]) -> list[str]:
    """The causes that the faults must bring up."""
    return [fault.cause for fault in faults]


def check_named(diagnosis: Diagnosis, faults: Sequence[Fault]) -> None:
    """All of them are named, in the table's layer, with evidence and a way out."""
    assert diagnosis.answer["status"] == "cause_found", diagnosis.summary()
    for fault in faults:
        assert fault.cause in diagnosis.roots, f"{fault.cause} is not named:\n{diagnosis.summary()}"
        cause = diagnosis.of(fault.cause)
        assert cause["layer"] == fault.layer, diagnosis.summary()
        assert cause["evidence"] and cause["fix"], diagnosis.summary()


def check_healthy(diagnosis: Diagnosis) -> None:
    """No alarm."""
    assert diagnosis.answer["status"] == "healthy", diagnosis.summary()
    assert diagnosis.names == [], diagnosis.summary()


def record(kind: str, name: str, faults: Sequence[Fault], diagnosis: Diagnosis) -> Record:
    """A line for the benchmark."""
    wanted = named(faults)
    return Record(
        kind=kind,
        id=name,
        expected=wanted,
        named=diagnosis.names,
        first=diagnosis.names[:1] == wanted[:1],
        top_three=all(cause in diagnosis.names[:3] for cause in wanted),
        seconds=diagnosis.seconds,
        engine_seconds=diagnosis.answer["seconds"],
        recorded=any(fault.how == "recorded" for fault in faults),
    )


@pytest.mark.parametrize("node", [on(name, name, name=name) for name in CONVERGED])
def test_healthy_at_first(lab: FaultLab, recorder: Recorder, node: str) -> None:
    diagnosis = lab.diagnose()
    recorder.write(record("healthy", f"{node}, before", [], diagnosis))
    check_healthy(diagnosis)


def repair(lab: FaultLab, faults: Sequence[Fault], recorder: Recorder) -> None:
    """A run of gpuready repairs what it said that it would, and the diagnosis finds nothing any more."""
    wishes = lab.wishes(*faults)
    lab.provision(wishes)
    lab.tidy(faults)
    after = lab.diagnose()
    left = [cause for cause in named(faults) if cause in after.names]
    for fault in faults:
        recorder.write(
            Record("repair", fault.id, [fault.cause], after.names, repaired=fault.cause not in after.names)
        )
    assert left == [], after.summary()
    if not wishes:
        check_healthy(after)


def check_repair(diagnosis: Diagnosis, fault: Fault) -> None:
    """Who repairs it: what a run does stands in the plan, which the diagnosis quotes."""
    cause = diagnosis.of(fault.cause)
    assert cause["repair"] == fault.repair, diagnosis.summary()
    if fault.how not in ("text", "recorded"):
        assert bool(cause["site"]) == (fault.repair != "manual"), cause["site"]


@pytest.mark.parametrize(
    "fault", [on(fault.node, fault, name=fault.id) for fault in TABLE.faults.values() if fault.node != TEXT]
)
def test_single(lab: FaultLab, recorder: Recorder, fault: Fault) -> None:
    if fault.provision_first is not None:
        lab.provision(fault.provision_first)
    undone = False
    try:
        lab.inject(fault)
        diagnosis = lab.diagnose(fault)
        recorder.write(record("single", fault.id, [fault], diagnosis))
        check_named(diagnosis, [fault])
        assert diagnosis.names[0] == fault.cause, diagnosis.summary()
        check_repair(diagnosis, fault)
        if fault.repaired:
            repair(lab, [fault], recorder)
            undone = True
    finally:
        if not undone:
            lab.undo_all([fault])


PAIRS = [
    on(TABLE.node_of_pairs(pair[0].node), pair, name="+".join(fault.id for fault in pair))
    for pair in TABLE.pairs
]


@pytest.mark.parametrize("faults", PAIRS)
def test_pair(lab: FaultLab, recorder: Recorder, faults: tuple[Fault, Fault]) -> None:
    injected: list[Fault] = []
    try:
        # What needs a running Docker comes before what stops it.
        for fault in sorted(faults, key=lambda fault: not fault.container):
            injected.append(fault)
            lab.inject(fault)
        diagnosis = lab.diagnose(*faults)
        recorder.write(record("pair", "+".join(fault.id for fault in faults), faults, diagnosis))
        check_named(diagnosis, faults)
    finally:
        lab.undo_all(injected)


GROUPS = [(node, name, tuple(faults)) for node in NODES for name, faults in TABLE.groups(node).items()]


@pytest.mark.parametrize("faults", [on(node, faults, name=f"{node}-{name}") for node, name, faults in GROUPS])
def test_repair(lab: FaultLab, recorder: Recorder, faults: tuple[Fault, ...]) -> None:
    for fault in faults:
        lab.inject(fault)
    repair(lab, faults, recorder)
    assert action_ids(lab.runs.plan()) == []


@pytest.mark.parametrize("node", [on(name, name, name=name) for name in NODES])
def test_healthy_at_last(lab: FaultLab, recorder: Recorder, node: str) -> None:
    diagnosis = lab.diagnose()
    recorder.write(record("healthy", f"{node}, after", [], diagnosis))
    check_healthy(diagnosis)


@pytest.mark.parametrize("fault", [on(TEXT, fault, name=fault.id) for fault in TABLE.of(TEXT)])
def test_recorded_single(recorder: Recorder, fault: Fault) -> None:
    diagnosis = diagnose_text(transcript(fault))
    recorder.write(record("single", fault.id, [fault], diagnosis))
    check_named(diagnosis, [fault])
    assert diagnosis.names[0] == fault.cause, diagnosis.summary()
    check_repair(diagnosis, fault)
