# Copyright: gpuready contributors
# SPDX-License-Identifier: Apache-2.0
"""``junit.xml``: a run as test results, for what runs playbooks in CI. Pure; used on the controller only.

A node is a suite and each of its layers a case. A node that is not what was asked for has at least one case
that failed, and another one has none: whoever reads the file comes to the same verdict as ``fleet.json``.
What a plan would still do is no failure but a case that was skipped.
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections import Counter
from typing import Any

from .report import BAD_STATUSES, LAYERS, layer_state
from .report_view import complaints, get, mapping, number, roots, rows, text, words

#: The layer that a stage works on.
LAYER_OF_STAGE = {
    "host_prepare": "host",
    "nvidia_driver": "host",
    "host_reboot": "host",
    "docker_engine": "container_runtime",
    "nvidia_container_toolkit": "container_runtime",
    "framework_image": "framework",
    "framework_venv": "framework",
    "gpu_workbench": "application",
    "gpu_health": "application",
    "gpu_acceptance": "application",
    "verify": "application",
    "diagnose": "application",
}


def _explained(node: dict[str, Any], layer: str) -> str:
    """Everything that is known of what is wrong in a layer."""
    lines = []
    found = [cause for cause in roots(node) if cause.get("layer") == layer]
    for row in (*found, *rows(get(node, "plan", "conflicts"))):
        if row.get("layer") != layer:
            continue
        lines.append(text(row.get("title") or row.get("what")))
        lines += [f"  seen: {line}" for line in words(row.get("evidence") or row.get("because"))]
        lines += [f"  fix: {line}" for line in words(row.get("fix") or row.get("options"))]
    for finding in words(get(node, "layers", layer, "findings")):
        if finding not in lines:
            lines.append(finding)
    return "\n".join(lines)


def _guilty(node: dict[str, Any], tones: dict[str, str]) -> str | None:
    """The layer to which a failure belongs that no layer shows by itself."""
    if node.get("status") not in BAD_STATUSES or "bad" in tones.values():
        return None
    stage = text(node.get("error_stage"))
    waiting = [layer for layer in LAYERS if tones[layer] != "ok"]
    return LAYER_OF_STAGE.get(stage) or (waiting or list(LAYERS))[0]


def _suite(node: dict[str, Any], fleet: dict[str, Any]) -> ElementTree.Element:
    host, status = text(node.get("host")), text(node.get("status"))
    bad = status in BAD_STATUSES
    seconds = dict.fromkeys(LAYERS, 0.0)
    for row in rows(node.get("timings")):
        seconds[LAYER_OF_STAGE.get(text(row.get("stage")), "host")] += number(row.get("seconds"))
    tones = {layer: layer_state(get(node, "layers", layer)) for layer in LAYERS}
    guilty = _guilty(node, tones)
    counts: Counter[str] = Counter()
    suite = ElementTree.Element("testsuite")
    properties = ElementTree.SubElement(suite, "properties")
    known = mapping(node.get("versions"))
    facts = {
        "status": status,
        "address": node.get("address"),
        "simulated": bool(node.get("simulated")),
        **known,
    }
    for name, value in facts.items():
        if value is not None:
            ElementTree.SubElement(properties, "property", name=text(name), value=text(value))
    for layer in LAYERS:
        version = text(get(node, "layers", layer, "version"))
        case = ElementTree.SubElement(
            suite, "testcase", classname=f"gpuready.{host}", name=layer, time=f"{seconds[layer]:.2f}"
        )
        detail = text(get(node, "layers", layer, "detail"))
        tone = tones[layer]
        if layer == guilty:
            told = complaints(node)
            message = told[0]["title"] if told else status
            kind = ElementTree.SubElement(case, "error", type=status, message=message)
            kind.text = text(node.get("error")) or message
            counts["errors"] += 1
        elif bad and tone == "bad":
            kind = ElementTree.SubElement(case, "failure", type=status, message=detail or status)
            kind.text = _explained(node, layer) or detail
            counts["failures"] += 1
        elif tone != "ok":
            word = "to be done: " if tone == "todo" else ""
            ElementTree.SubElement(case, "skipped", message=f"{word}{detail or 'not known'}")
            counts["skipped"] += 1
        said = [version, *(f"warning: {line}" for line in words(get(node, "layers", layer, "warnings")))]
        if any(said):
            ElementTree.SubElement(case, "system-out").text = "\n".join(line for line in said if line)
    if node.get("error"):
        ElementTree.SubElement(suite, "system-err").text = text(node["error"])
    suite.attrib.update(
        name=host,
        hostname=host,
        timestamp=text(fleet.get("started"))[:19],
        tests=str(len(LAYERS)),
        failures=str(counts["failures"]),
        errors=str(counts["errors"]),
        skipped=str(counts["skipped"]),
        time=f"{sum(seconds.values()):.2f}",
    )
    return suite


def _not_run(host: str, fleet: dict[str, Any]) -> ElementTree.Element:
    suite = ElementTree.Element(
        "testsuite",
        name=host,
        hostname=host,
        timestamp=text(fleet.get("started"))[:19],
        tests=str(len(LAYERS)),
        failures="0",
        errors="1",
        skipped=str(len(LAYERS) - 1),
        time="0.00",
    )
    for layer in LAYERS:
        case = ElementTree.SubElement(
            suite, "testcase", classname=f"gpuready.{host}", name=layer, time="0.00"
        )
        kind = "error" if layer == LAYERS[0] else "skipped"
        ElementTree.SubElement(case, kind, message="the run stopped before it came to this node")
    return suite


def render(nodes: list[dict[str, Any]], fleet: dict[str, Any]) -> str:
    """The file's text."""
    suites = [_suite(node, fleet) for node in nodes]
    suites += [_not_run(text(host), fleet) for host in words(fleet.get("not_run"))]
    top = ElementTree.Element("testsuites", name=text(fleet.get("run")))
    for key in ("tests", "failures", "errors", "skipped"):
        top.set(key, str(sum(int(suite.attrib[key]) for suite in suites)))
    top.set("time", f"{number(fleet.get('seconds')):.2f}")
    top.extend(suites)
    ElementTree.indent(top)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ElementTree.tostring(top, encoding="unicode")}\n'
