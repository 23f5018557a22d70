"""The report of 500 nodes, as a person uses it: in a browser, with mouse and keyboard, from a file.

What must be shown is computed from the documents; nothing here asks the page's own code.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from gpuready import report, report_html
from kit import fleet as made_up
from kit.browser import PICTURES, chromium
from playwright.sync_api import Browser, Page, expect

COUNT, FEW = 500, 60
#: Generous: other tests use the machine at the same time. On an idle one it is a tenth of it.
READY_MS, FILTER_MS = 10_000, 1_500
SHOWN = "tbody.entry:not([hidden])"


class Run:
    """A made-up run and its folder."""

    def __init__(self, root: Path, count: int) -> None:
        self.nodes, self.fleet = made_up.run(count)
        self.folder = report.write_run(
            root, made_up.RUN, self.nodes, self.fleet, report.report_text(self.nodes, self.fleet)
        )

    @property
    def address(self) -> str:
        return (self.folder / "report.html").as_uri()

    def hosts(self, wanted: Callable[[dict[str, Any]], bool]) -> set[str]:
        return {node["host"] for node in self.nodes if wanted(node)}

    @property
    def trouble(self) -> set[str]:
        return self.hosts(lambda node: node["status"] in report.BAD_STATUSES)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run(tmp_path_factory.mktemp("report"), COUNT)


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """What has nothing to do with how many nodes there are is tried with fewer."""
    return Run(tmp_path_factory.mktemp("few"), FEW)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.fixture
def opened(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Opens an address in a window of its own, and afterwards looks whether anything went wrong in it."""
    contexts, wrong = [], []

    def go(address: str, *, ready: bool = True, **settings: Any) -> Page:
        context = browser.new_context(**{"viewport": {"width": 1440, "height": 1000}, **settings})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.on("console", lambda message: wrong.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(address)
        if ready:
            page.locator("html.ready").wait_for(state="attached")
        return page

    asked: list[str] = []
    yield go
    for context in contexts:
        context.close()
    assert wrong == []
    # It needs no network: not even a picture or a font is fetched.
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    assert len([url for url in asked if url.startswith("file:")]) == len(contexts)


def shown(page: Page) -> list[str]:
    """The nodes that the table shows, in its order."""
    return page.locator(f"{SHOWN} th button.node bdi").all_inner_texts()


def search(page: Page, query: str) -> set[str]:
    page.locator("#q").fill(query)
    page.wait_for_timeout(200)
    found = shown(page)
    assert len(found) == len(set(found))
    said, count = page.locator("#shown").inner_text(), page.locator("tbody.entry").count()
    assert said == (f"{count} nodes" if len(found) == count else f"{len(found)} of {count} nodes")
    return set(found)


def test_it_shows_every_node_and_is_looked_at(run: Run, opened: Callable[..., Page]) -> None:
    page = opened(run.address)
    took = page.evaluate("performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd")
    assert took < READY_MS, f"{took:.0f} ms until 500 nodes are there"
    size = (run.folder / "report.html").stat().st_size / 1e6
    print(f"\n{COUNT} nodes: {size:.1f} MB, ready after {took:.0f} ms")
    assert len(shown(page)) == COUNT and page.locator(".map .cell").count() == COUNT
    expect(page.locator(".verdict")).to_contain_text(
        f"{len(run.trouble)} of {COUNT} nodes are not as asked for, {COUNT - len(run.trouble)} are."
    )
    tiles = {
        tile.get_attribute("data-query"): int(tile.locator("b").inner_text())
        for tile in page.locator(".tile").all()
    }
    assert tiles == {f"status:{status}": count for status, count in run.fleet["totals"].items()}
    # What is wrong and what is done about it is on the first screen.
    causes = page.locator(".causes")
    assert causes.bounding_box()["y"] < 1000  # type: ignore[index]
    assert "run site.yml: it restarts Docker" in causes.inner_text()
    PICTURES.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=str(PICTURES / "report.png"))
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_search_finds_what_the_documents_say(run: Run, opened: Callable[..., Page]) -> None:
    page = opened(run.address)
    failed = run.hosts(lambda node: node["status"] == "failed")
    assert search(page, "status:failed") == failed
    assert search(page, "is:trouble") == run.trouble
    assert search(page, "-is:trouble") == run.hosts(lambda node: True) - run.trouble
    assert search(page, "status:failed,unreachable") == failed | run.hosts(
        lambda node: node["status"] == "unreachable"
    )
    assert search(page, "gpu017") == {"gpu017"}
    assert search(page, "host:gpu01") == run.hosts(lambda node: node["host"].startswith("gpu01"))
    assert search(page, "driver:580.82 group:rack2") == run.hosts(
        lambda node: str(node["versions"]["driver"]).startswith("580.82") and "rack2" in node["groups"]
    )
    assert search(page, 'os:"Ubuntu 24.04 LTS"') == run.hosts(
        lambda node: node["versions"]["os"] == "Ubuntu 24.04 LTS"
    )
    assert search(page, "container_runtime:bad") == run.hosts(
        lambda node: node["layers"]["container_runtime"]["state"] == "bad"
    )
    assert search(page, "host:bad") == run.hosts(lambda node: node["layers"]["host"]["state"] == "bad")
    # Somewhere in what is known of the node, open or not.
    assert search(page, "lock-frontend") == run.hosts(lambda node: "lock-frontend" in str(node["error"]))
    assert search(page, "no such thing at all") == set()
    expect(page.locator("#none")).to_be_visible()
    page.keyboard.press("Escape")
    assert len(shown(page)) == COUNT


def test_searching_500_nodes_does_not_keep_anybody_waiting(run: Run, opened: Callable[..., Page]) -> None:
    page = opened(run.address)
    script = """(query) => {
        const field = document.querySelector('#q');
        const start = performance.now();
        field.value = query;
        dispatchEvent(new Event('hashchange'));
        document.body.offsetHeight;
        return performance.now() - start;
    }"""
    for query in ("tensorflow", "is:trouble", ""):
        took = page.evaluate(script, query)
        assert took < FILTER_MS, f"{query!r} took {took:.0f} ms"


def test_a_cause_leads_to_its_nodes(run: Run, opened: Callable[..., Page]) -> None:
    page = opened(run.address)
    hosts: dict[str, set[str]] = {}
    for node in run.nodes:
        for cause in report.root_causes(node):
            hosts.setdefault(cause["cause"], set()).add(node["host"])
    assert hosts
    for cause, expected in hosts.items():
        button = page.locator(f'.causes button[data-query="cause:{cause}"]')
        assert button.inner_text() == str(len(expected))
        button.click()
        assert set(shown(page)) == expected
        off = page.locator(".map .cell.off").count()
        assert off == COUNT - len(expected)
        # Once more, and it is taken away.
        button.click()
        assert len(shown(page)) == COUNT


def test_versions_drift_and_groups_lead_to_their_nodes(run: Run, opened: Callable[..., Page]) -> None:
    page = opened(run.address)
    for version, hosts in run.fleet["driver_spread"].items():
        page.locator(f'button[data-query="driver:{version}"]').click()
        assert set(shown(page)) == set(hosts), version
        page.locator("#clear").click()
    drifted = Counter(
        row["what"]
        for row in {
            (row["host"], row["what"]): row for row in run.fleet["drift"] if row["managed_before"]
        }.values()
    )
    assert drifted
    for what, count in drifted.items():
        page.locator(f'button[data-query="drift:{what}"]').click()
        assert len(shown(page)) == count, what
        page.locator("#clear").click()
    page.locator("#group").select_option(
        label=next(
            label for label in page.locator("#group option").all_inner_texts() if label.startswith("canary")
        )
    )
    assert set(shown(page)) == run.hosts(lambda node: "canary" in node["groups"])
    page.locator("#layer").select_option("framework:todo")
    assert page.locator("#q").input_value() == "group:canary framework:todo"
    page.locator("#layer").select_option("")
    page.locator("#group").select_option("")
    assert len(shown(page)) == COUNT


def test_columns_sort(few: Run, opened: Callable[..., Page]) -> None:
    page = opened(few.address)
    spent = {node["host"]: round(sum(row["seconds"] for row in node["timings"]), 2) for node in few.nodes}

    def header(title: str) -> Any:
        return page.locator("#nodes > thead th").filter(has=page.get_by_text(title, exact=True))

    # The worst first, as long as nobody asks for anything else.
    assert set(shown(page)[: len(few.trouble)]) == few.trouble
    header("Time").locator("button").click()
    times = [spent[host] for host in shown(page)]
    assert times == sorted(times) and header("Time").get_attribute("aria-sort") == "ascending"
    header("Time").locator("button").click()
    times = [spent[host] for host in shown(page)]
    assert times == sorted(times, reverse=True) and header("Time").get_attribute("aria-sort") == "descending"
    header("Node").locator("button").click()
    assert shown(page) == sorted(spent) and header("Time").get_attribute("aria-sort") is None


def test_a_node_opens_and_says_what_is_wrong_and_what_to_do(few: Run, opened: Callable[..., Page]) -> None:
    page = opened(few.address)
    node = next(node for node in few.nodes if report.root_causes(node))
    cause = report.root_causes(node)[0]
    search(page, f"host:{node['host']}")
    entry = page.locator(SHOWN)
    button, detail = entry.locator("button.node"), entry.locator("tr.detail")
    expect(detail).to_be_hidden()
    assert button.get_attribute("aria-expanded") == "false"
    button.click()
    expect(detail).to_be_visible()
    assert button.get_attribute("aria-expanded") == "true"
    said = " ".join(detail.inner_text().split())
    for line in (cause["title"], *cause["evidence"], *cause["fix"], *cause["check"]):
        assert " ".join(line.split()) in said
    assert detail.locator(".chain li.bad").count() >= 1
    link = detail.locator("a").first.get_attribute("href")
    assert json.loads((few.folder / str(link)).read_text())["host"] == node["host"]
    page.screenshot(path=str(PICTURES / "report-node.png"))
    button.click()
    expect(detail).to_be_hidden()


def test_the_keyboard_is_enough(few: Run, opened: Callable[..., Page]) -> None:
    page = opened(few.address)
    page.keyboard.press("/")
    page.keyboard.type("rolled")
    page.wait_for_timeout(200)
    assert set(shown(page)) >= few.hosts(lambda node: node["status"] == "rolled_back")
    page.keyboard.press("Escape")
    page.keyboard.press("t")
    listed = shown(page)
    assert set(listed) == few.trouble

    def focused() -> str:
        return page.evaluate("document.activeElement.closest('tbody').getAttribute('data-f-host')")

    page.keyboard.press("j")
    assert focused() == listed[0]
    page.keyboard.press("j")
    page.keyboard.press("ArrowDown")
    assert focused() == listed[2]
    page.keyboard.press("k")
    assert focused() == listed[1]
    page.keyboard.press("Enter")
    expect(page.locator("tbody.open tr.detail")).to_have_count(1)
    page.keyboard.press("e")
    expect(page.locator("tbody.open tr.detail")).to_have_count(len(listed))
    page.keyboard.press("e")
    expect(page.locator("tbody.open")).to_have_count(0)
    page.keyboard.press("?")
    expect(page.locator("#help")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#help")).to_be_hidden()
    # Nobody meets a control without a name, and Tab does not lead through 500 cells of the map.
    nameless = page.evaluate(
        """Array.from(document.querySelectorAll('button, input, select, a')).filter(
            (one) => !(one.innerText || one.textContent || '').trim() && !one.title && !one.labels?.length
                     && !one.getAttribute('aria-label')).map((one) => one.outerHTML)"""
    )
    assert nameless == []
    assert page.locator(".map .cell:not([tabindex='-1'])").count() == 0


def test_names_of_the_shown_nodes_are_there_for_limit(few: Run, opened: Callable[..., Page]) -> None:
    page = opened(few.address)
    search(page, "status:failed")
    page.locator("#names").click()
    names = page.locator("#limit").input_value().split(",")
    assert set(names) == few.hosts(lambda node: node["status"] == "failed")


def test_the_address_keeps_the_search(few: Run, opened: Callable[..., Page]) -> None:
    page = opened(few.address + "#q=status%3Aconflict&sort=0d")
    expected = sorted(few.hosts(lambda node: node["status"] == "conflict"), reverse=True)
    assert shown(page) == expected
    assert page.locator("#q").input_value() == "status:conflict"
    search(page, "status:unreachable")
    assert page.url.endswith("#q=status%3Aunreachable&sort=0d")
    # A cell of the map leads to its node.
    page.locator("#clear").click()
    page.locator(".map .cell").nth(3).click()
    expect(page.locator("tbody.open")).to_have_count(1)
    expect(page.locator("tbody.open")).to_be_in_viewport()


def brightness(page: Page, what: str = "body") -> float:
    script = """(what) => {
        const canvas = document.createElement('canvas').getContext('2d');
        canvas.fillStyle = getComputedStyle(document.querySelector(what)).backgroundColor;
        canvas.fillRect(0, 0, 1, 1);
        return Array.from(canvas.getImageData(0, 0, 1, 1).data.slice(0, 3)).reduce((a, b) => a + b) / 765;
    }"""
    return float(page.evaluate(script, what))


def test_it_is_dark_where_the_system_is_and_where_it_is_asked_for(
    few: Run, opened: Callable[..., Page]
) -> None:
    page = opened(few.address, color_scheme="dark")
    assert brightness(page) < 0.2
    page.screenshot(path=str(PICTURES / "report-dark.png"))
    page.locator("#theme").click()
    assert brightness(page) > 0.9
    page.emulate_media(media="print")
    page.locator("html").evaluate("one => one.className = 'js dark'")
    assert brightness(page) > 0.9
    assert brightness(opened(few.address, color_scheme="light")) > 0.9


def test_paper_shows_what_is_wrong_and_no_buttons(few: Run, opened: Callable[..., Page]) -> None:
    page = opened(few.address)
    page.keyboard.press("t")
    paper = page.pdf(format="A4", landscape=True)
    assert (
        paper.startswith(b"%PDF") and 1 <= paper.count(b"/Type /Page\n") + paper.count(b"/Type /Page ") < 60
    )
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    expect(page.locator(".toolbar")).to_be_hidden()
    expect(page.locator("#theme")).to_be_hidden()
    bad = few.hosts(lambda node: node["status"] in report.BAD_STATUSES and node["status"] != "reboot_pending")
    expect(page.locator("tbody.open")).to_have_count(len(bad))
    assert page.locator(SHOWN).count() == len(few.trouble)
    assert (
        page.locator("#nodes > thead").evaluate("one => getComputedStyle(one).display")
        == "table-header-group"
    )
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    expect(page.locator("tbody.open")).to_have_count(0)


def test_without_a_script_everything_is_open(few: Run, opened: Callable[..., Page]) -> None:
    page = opened(few.address, ready=False, java_script_enabled=False)
    assert page.locator("tbody.entry").count() == FEW
    expect(page.locator(".toolbar")).to_be_hidden()
    expect(page.locator("tr.detail").first).to_be_visible()
    expect(page.locator("tr.detail").last).to_be_visible()


@pytest.mark.parametrize("width", [390, 820, 1100, 2560])
def test_every_width_will_do(few: Run, opened: Callable[..., Page], width: int) -> None:
    page = opened(few.address, viewport={"width": width, "height": 900})
    page.locator("#trouble").click()
    page.locator(f"{SHOWN} button.node").first.click()
    expect(page.locator("tbody.open tr.detail")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_nothing_that_a_node_says_runs(tmp_path: Path, few: Run, opened: Callable[..., Page]) -> None:
    attempts = [
        "<script>window.poisoned=1</script>",
        "</script><img src=x onerror=window.poisoned=1>",
        '" autofocus onfocus="window.poisoned=1" x="',
        "</style></title><svg/onload=window.poisoned=1>",
        "'-window.poisoned-'\nis:trouble\n]]>",
    ]

    def poisoned(value: Any, attempt: str) -> Any:
        if isinstance(value, dict):
            return {
                key: item if key in ("status", "state", "schema") else poisoned(item, attempt)
                for key, item in value.items()
            }
        if isinstance(value, list):
            return [poisoned(item, attempt) for item in value]
        return f"{value} {attempt}" if isinstance(value, str) else value

    nodes = [poisoned(node, attempts[n % len(attempts)]) for n, node in enumerate(few.nodes[:40])]
    path = tmp_path / "report.html"
    path.write_text(report_html.render(nodes, poisoned(few.fleet, attempts[0])), encoding="utf-8")
    page = opened(path.as_uri())
    for button in ("#all", "#trouble", "#names", "#clear"):
        page.locator(button).click()
    for chooser in page.locator(".causes button[data-query]").all()[:3]:
        chooser.click()
        assert shown(page)
        chooser.click()
    assert page.evaluate("window.poisoned") is None
    assert page.locator("script").count() == 2 and page.locator("img").count() == 0
