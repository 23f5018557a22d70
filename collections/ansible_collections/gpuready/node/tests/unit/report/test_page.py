"""The page of a run, as text: nothing of a node becomes markup, and everything that counts is there."""

from __future__ import annotations

import base64
import copy
import doctest
import hashlib
import itertools
import re
from html.parser import HTMLParser
from typing import Any

import pytest
from gpuready import report, report_csv, report_html, report_markup, report_view
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kit import fleet as made_up
from poison import ATTEMPTS, junk, poisoned, texts

TAGS = set(
    re.findall(
        r"\w+",
        """
        a b bdi body button caption code col colgroup dd details dialog div dl dt footer form h1 h2 h3 h4 head
        header html i input kbd label li link main meta nav ol option output p pre rect script section select
        small span strong style svg table tbody td th thead time title tr ul""",
    )
)
VOID = frozenset({"meta", "link", "input", "col"})


class Page(HTMLParser):
    """What a browser makes of it: elements, attributes, and that everything is closed."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.raw: dict[str, list[str]] = {"script": [], "style": []}
        self.said: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _value in attrs]
        assert len(names) == len(set(names)), (tag, names)
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag in self.raw:
            self.raw[tag].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data}")

    def unknown_decl(self, data: str) -> None:
        raise AssertionError(f"a declaration: {data}")

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in self.raw:
            self.raw[self.open[-1]][-1] += data
        else:
            self.said.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.said).split())


def checked(text: str) -> Page:
    """A page in which nothing is but what the report puts there."""
    page = Page(text)
    assert page.open == []
    assert {tag for tag, _ in page.elements} <= TAGS
    for tag, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on") or name == "style"], (
            tag,
            attributes,
        )
        for name in ("src", "srcset", "action", "formaction", "background"):
            assert name not in attributes, (tag, attributes)
        if "href" in attributes:
            href = attributes["href"] or ""
            assert re.match(r"#n\d+$|#nodes$|\./(?:acceptance/)?[A-Za-z0-9._-]+$|data:image/svg", href), href
    assert page.raw["script"] == [report_html.HEAD_SCRIPT, str(report_html._asset("report.js"))]
    assert page.raw["style"] == [str(report_html._asset("report.css"))]
    policy = next(
        dict(attributes)["content"] for tag, attributes in page.elements if "http-equiv" in attributes
    )
    for content in (*page.raw["script"], *page.raw["style"]):
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in (policy or "")
    assert "default-src 'none'" in (policy or "") and "unsafe" not in (policy or "")
    assert not re.search(
        r"https?://(?!www\.w3\.org/2000/svg)", "".join(page.raw["style"] + page.raw["script"])
    )
    return page


NODES, FLEET = made_up.run(24, not_run=("gpu900",))


def test_every_node_and_every_kind_of_trouble_is_on_the_page() -> None:
    page = checked(report_html.render(NODES, FLEET))
    bodies = [attributes for tag, attributes in page.elements if tag == "tbody" and "id" in attributes]
    assert {body["data-f-host"] for body in bodies} == {*(node["host"] for node in NODES), "gpu900"}
    bad = sum(1 for node in NODES if node["status"] in report.BAD_STATUSES)
    said = (
        f"{bad} of 24 nodes are not as asked for, {24 - bad} are. The run stopped before it came to 1 node."
    )
    assert said in page.text
    for status, count in FLEET["totals"].items():
        assert f"{count}" in page.text and status.replace("_", " ") in page.text
    for node in NODES:
        for cause in report.root_causes(node):
            assert cause["title"] in page.text
            assert all(" ".join(line.split()) in page.text for line in cause["fix"])
        if node["error"]:
            assert " ".join(node["error"].split()) in page.text
        assert f"./{node['host']}.json" in {attributes.get("href") for _tag, attributes in page.elements}


def test_the_worst_come_first() -> None:
    found = re.findall(r'<tbody[^>]*data-f-status="(\w+)"', report_html.render(NODES, FLEET))
    ranks = [report_view.SEVERITY.index(status) for status in found[:-1]]
    assert ranks == sorted(ranks) and found[-1] == "not_run"


@pytest.mark.parametrize(
    ("count", "change", "said"),
    [
        (0, {}, "The run came to no node."),
        (1, {"status": "verified"}, "The one node is as asked for."),
        (3, {"status": "verified"}, "All 3 nodes are as asked for."),
        (2, {"status": "planned", "plan": {"actions": []}}, "All 2 nodes are as asked for."),
        (2, {"status": "planned", "plan": {"actions": [{"id": "x"}]}}, "2 of 2 nodes would be changed."),
        (1, {"status": "failed"}, "1 of 1 node is not as asked for."),
        (0, {"not_run": ["n9"]}, "The run came to no node. The run stopped before it came to 1 node."),
    ],
)
def test_the_verdict_is_one_sentence(count: int, change: dict[str, Any], said: str) -> None:
    missing = change.pop("not_run", ())
    nodes = [{**node, **change} for node in NODES[:count]]
    fleet = report.fleet_document(
        nodes, run="r", playbook="p", started="", finished="", seconds=0, not_run=missing
    )
    assert said in checked(report_html.render(nodes, fleet)).text


@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_no_text_of_a_node_becomes_markup(attempt: str) -> None:
    nodes = [poisoned(node, lambda: attempt) | {"host": f"n{n}{attempt}"} for n, node in enumerate(NODES)]
    fleet = poisoned(FLEET, lambda: attempt) | {"not_run": [attempt]}
    page = checked(report_html.render(nodes, fleet))
    shown = " ".join(report_view.text(attempt).split())
    assert shown in page.text


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.lists(texts, min_size=1, max_size=40), st.integers(0, len(NODES) - 1))
def test_no_text_becomes_markup_wherever_it_stands(said: list[str], index: int) -> None:
    turn = itertools.cycle(said)
    node = poisoned(copy.deepcopy(NODES[index]), lambda: next(turn))
    checked(report_html.render([node], FLEET))


@settings(max_examples=150)
@given(st.data())
def test_a_document_of_another_shape_breaks_no_page(data: st.DataObject) -> None:
    node = dict(data.draw(st.sampled_from(NODES)))
    keys = [key for key in node if key not in ("host", "status", "schema", "run")]
    for key in data.draw(st.lists(st.sampled_from(keys), min_size=1, max_size=6)):
        node[key] = data.draw(junk)
    checked(report_html.render([node], FLEET))


def test_the_verdict_of_a_run_that_stopped_tells_what_was_left() -> None:
    bad = next(node for node in NODES if node["status"] == "failed")
    good = next(node for node in NODES if node["status"] == "verified")
    waiting = {**good, "status": "planned", "plan": {"actions": [{"id": "driver.install"}]}}
    nodes = [{**node, "host": f"n{n}"} for n, node in enumerate([bad, good, waiting, waiting])]
    fleet = report.fleet_document(nodes, run="r", playbook="p", started="", finished="", seconds=0)
    said = "1 of 4 nodes is not as asked for, 1 is; 2 are still to be changed."
    assert said in checked(report_html.render(nodes, fleet)).text


def test_the_same_failure_of_several_nodes_is_one_complaint() -> None:
    def keys(host: str, error: str) -> list[tuple[str, str]]:
        node = {"host": host, "address": f"10.0.0.{len(host)}", "status": "failed", "error": error}
        return [(row["key"], row["title"]) for row in report_view.complaints(node)]

    said = "Install: apt-get failed with 100\nReading...\nE: Could not get lock. It is held by process {}"
    one, other = keys("gpu1", said.format(812)), keys("gpu02", said.format(4711))
    assert one[0][0] == other[0][0]
    assert one[0][1] == "Install: apt-get failed with 100 E: Could not get lock. It is held by process 812"
    lost = [keys(host, f"{host}: no route to host") for host in ("gpu1", "gpu2")]
    assert lost[0] == lost[1]
    assert keys("gpu1", "another") != one


def test_links_lead_to_the_nodes_files_even_if_names_collide(tmp_path) -> None:
    nodes = [NODES[0] | {"host": host} for host in ("a/b", "a_b", "A_B", "fleet")]
    folder = report.write_run(tmp_path, "r", nodes, FLEET, "text\n")
    page = checked((folder / "report.html").read_text())
    links = {
        attributes["href"] for tag, attributes in page.elements if tag == "a" and "class" not in attributes
    }
    files = {f"./{path.name}" for path in folder.glob("*.json") if path.name != "fleet.json"}
    assert len(files) == 4 and files <= links
    assert {node["host"] for node in report.load_run(folder)[0]} == {"a/b", "a_b", "A_B", "fleet"}


@pytest.mark.parametrize("module", [report, report_csv, report_markup, report_view])
def test_examples_hold(module: Any) -> None:
    assert doctest.testmod(module).failed == 0


# --- colours ----------------------------------------------------------------------------------------------

#: How the three kinds of colour blindness see linear RGB (Machado, Oliveira, Fernandes 2009, severity 1).
VISIONS = {
    "usual": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "protanopia": (
        (0.152286, 1.052583, -0.204868),
        (0.114503, 0.786281, 0.099216),
        (-0.003882, -0.048116, 1.051998),
    ),
    "deuteranopia": (
        (0.367322, 0.860646, -0.227968),
        (0.280085, 0.672501, 0.047413),
        (-0.01182, 0.04294, 0.968881),
    ),
    "tritanopia": (
        (1.255528, -0.076749, -0.178779),
        (-0.078411, 0.930809, 0.147602),
        (0.004733, 0.691367, 0.3039),
    ),
}


def linear(colour: str) -> list[float]:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    return [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]


def lab(rgb: list[float]) -> tuple[float, float, float]:
    red, green, blue = (min(1.0, max(0.0, part)) for part in rgb)
    xyz = (
        (0.4124 * red + 0.3576 * green + 0.1805 * blue) / 0.9505,
        0.2126 * red + 0.7152 * green + 0.0722 * blue,
        (0.0193 * red + 0.1192 * green + 0.9505 * blue) / 1.089,
    )
    x, y, z = (part ** (1 / 3) if part > 0.008856 else 7.787 * part + 16 / 116 for part in xyz)
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


def contrast(one: str, other: str) -> float:
    weights = (0.2126, 0.7152, 0.0722)
    light, dark = sorted(
        (sum(w * part for w, part in zip(weights, linear(colour), strict=True)) for colour in (one, other)),
        reverse=True,
    )
    return (light + 0.05) / (dark + 0.05)


def palette(theme: int) -> dict[str, str]:
    """The colours of the light (0) or the dark (1) page."""
    style = str(report_html._asset("report.css"))
    return {
        name: (light, dark)[theme]
        for name, light, dark in re.findall(r"--([\w-]+): light-dark\((#\w{6}), (#\w{6})\)", style)
    }


@pytest.mark.parametrize("vision", VISIONS)
@pytest.mark.parametrize("theme", [0, 1])
def test_layers_are_told_apart_with_every_kind_of_colour_vision(theme: int, vision: str) -> None:
    colours = palette(theme)
    seen = {
        tone: lab(
            [
                sum(w * part for w, part in zip(row, linear(colours[tone]), strict=True))
                for row in VISIONS[vision]
            ]
        )
        for tone in ("ok", "todo", "bad", "unknown")
    }
    for one, other in itertools.combinations(seen, 2):
        distance = sum((a - b) ** 2 for a, b in zip(seen[one], seen[other], strict=True)) ** 0.5
        assert distance >= 20, (one, other, distance)


@pytest.mark.parametrize("theme", [0, 1])
def test_texts_are_readable_on_their_grounds(theme: int) -> None:
    colours = palette(theme)
    for ink in ("ink", "soft", "link"):
        for ground in ("paper", "raised"):
            assert contrast(colours[ink], colours[ground]) >= 4.5, (ink, ground)
    for tone in ("ok", "todo", "bad", "unknown"):
        for ground in ("paper", "raised", f"{tone}-ground"):
            assert contrast(colours[f"{tone}-ink"], colours[ground]) >= 4.5, (tone, ground)
        assert contrast(colours["soft"], colours[f"{tone}-ground"]) >= 4.5, tone
