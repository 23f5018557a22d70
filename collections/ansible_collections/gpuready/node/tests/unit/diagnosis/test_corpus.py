# Apache-2.0 (see LICENSE)
"""The corpus: transcripts of every layer, each with the cause that has to be named first, and healthy ones.

``corpus/<layer>.yml``: programs' output, typed anew after known message formats, with hosts, versions and
surroundings of its own. A transcript made worse in the ways that people paste must give the same answer.
"""

from __future__ import annotations

import json
import pathlib
import re
import time

import pytest
import yaml
from gpuready.catalog import load_catalog
from gpuready.diagnosis import engine, reader
from gpuready.diagnosis.chain import LINKS
from gpuready.diagnosis.knowledge import load_knowledge

CORPUS = pathlib.Path(__file__).with_name("corpus")
FIELDS = {"id", "cause", "accept", "also", "healthy", "layer", "recorded", "source", "text"}


def _transcripts():
    rows = []
    for path in sorted(CORPUS.glob("*.yml")):
        rows += [dict(row, file=path.name) for row in yaml.safe_load(path.read_text(encoding="utf-8"))]
    for row in rows:
        row["text"] = row["text"].replace("↩\n", "")
    return rows


TRANSCRIPTS = _transcripts()
FAULTS = [row for row in TRANSCRIPTS if not row.get("healthy")]
HEALTHY = [row for row in TRANSCRIPTS if row.get("healthy")]


@pytest.fixture(scope="module")
def known():
    return load_knowledge(), load_catalog()


def _diagnose(known, text):
    knowledge, catalog = known
    return engine.diagnose(reader.read(text), [("the text", text)], knowledge=knowledge, catalog=catalog)


def _roots(answer):
    return [row["cause"] for row in answer["causes"] if row["standing"] == "root"]


def _wrong(row, answer):
    """What is not as the transcript demands; empty if all is."""
    roots = _roots(answer)
    wrong = []
    if not roots or roots[0] not in (row["cause"], *row.get("accept", ())):
        wrong.append(f"named first: {roots[:1] or answer['status']}")
    elif row["layer"] != answer["causes"][0]["layer"] and roots[0] == row["cause"]:
        wrong.append(f"layer: {answer['causes'][0]['layer']}")
    wrong += [f"not named: {cause}" for cause in row.get("also", ()) if cause not in roots]
    return wrong


def _explain(row, answer):
    named = [(cause["cause"], cause["confidence"], cause["standing"]) for cause in answer["causes"]]
    told = {"expected": row.get("cause"), "named": named, "unexplained": answer["unexplained"]}
    return json.dumps(told, indent=1)


def test_the_corpus_is_whole(known):
    knowledge, _ = known
    layers = {link.layer for link in LINKS}
    ids = [row["id"] for row in TRANSCRIPTS]
    assert sorted(set(ids)) == sorted(ids)
    assert len(FAULTS) >= 100 and len(HEALTHY) >= 15
    for row in TRANSCRIPTS:
        assert set(row) - {"file"} <= FIELDS, row["id"]
        assert isinstance(row["recorded"], bool) and row["text"].strip(), row["id"]
        if row.get("healthy"):
            continue
        assert row["source"], row["id"]
        assert row["layer"] in layers, row["id"]
        for cause in (row["cause"], *row.get("accept", ()), *row.get("also", ())):
            assert cause in knowledge.causes, f"{row['id']}: {cause}"
        assert knowledge.causes[row["cause"]].layer == row["layer"], row["id"]
    assert {row["layer"] for row in FAULTS} == layers


@pytest.mark.parametrize("row", FAULTS, ids=lambda row: row["id"])
def test_names_the_cause_first(known, row):
    answer = _diagnose(known, row["text"])
    assert not _wrong(row, answer), _explain(row, answer)


@pytest.mark.parametrize("row", HEALTHY, ids=lambda row: row["id"])
def test_no_false_alarm(known, row):
    answer = _diagnose(known, row["text"])
    assert answer["status"] in ("healthy", "unknown") and not _roots(answer), _explain(row, answer)


def _quoted(text):
    quoted = "\n".join(f"> {line}" for line in text.splitlines())
    return f"Hello all, this is what I see:\n\n{quoted}\n\nThanks!\n"


def _fenced(text):
    return f"### The bug\n\nIt fails.\n\n```console\n{text.strip()}\n```\n\n### Expected\n\nIt works.\n"


def _windows_line_ends(text):
    return text.replace("\n", "\r\n")


def _unrelated_around(text):
    before = (
        "[    0.000000] Command line: BOOT_IMAGE=/vmlinuz root=/dev/sda2 ro quiet\n"
        "[    1.210021] usb 1-4: new high-speed USB device number 2 using xhci_hcd\n"
        "Mounted /data\n\n"
    )
    after = "\n\n[   77.002112] e1000e 0000:00:1f.6 eno1: NIC Link is Up 1000 Mbps Full Duplex\nlogout\n"
    return before + text + after


def _coloured(text):
    return re.sub(r"(?m)^(.{4,}?)(\s|$)", "\x1b[0;31m\\1\x1b[0m\\2", text)


WORSE = (_quoted, _fenced, _windows_line_ends, _unrelated_around, _coloured)


@pytest.mark.parametrize("worse", WORSE, ids=lambda how: how.__name__.strip("_"))
def test_survives_how_people_paste(known, worse):
    changed = {}
    for row in FAULTS:
        answer = _diagnose(known, worse(row["text"]))
        if _wrong(row, answer):
            changed[row["id"]] = _wrong(row, answer)
    assert not changed


def test_no_false_alarm_however_pasted(known):
    alarms = {}
    for row in HEALTHY:
        for worse in WORSE:
            roots = _roots(_diagnose(known, worse(row["text"])))
            if roots:
                alarms[row["id"], worse.__name__] = roots
    assert not alarms


def test_all_at_once_is_quick(known):
    """A whole evening's terminal in one file: every transcript, one after the other."""
    text = "\n\n".join(row["text"] for row in TRANSCRIPTS)
    began = time.process_time()
    answer = _diagnose(known, text)
    assert time.process_time() - began < 3
    assert answer["status"] == "cause_found"
