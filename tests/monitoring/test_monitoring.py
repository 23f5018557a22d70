"""Alerts, dashboard and console ask for what the exporter says, and a real Prometheus understands them."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from typing import Any

import fleet
import pytest
import yaml
from gpuready.health import exposition
from kit import ROOT, prometheus
from kit.browser import PICTURES, chromium

FOLDER = prometheus.MONITORING / "prometheus"
DASHBOARD = prometheus.MONITORING / "grafana" / "gpuready.json"
CONSOLE = prometheus.CONSOLES / "gpuready.html"
QUERIES = prometheus.dashboard_queries(DASHBOARD, {"node": ".*", "gpu": ".*"})
RULES = [rule for group in yaml.safe_load(prometheus.RULES.read_text())["groups"] for rule in group["rules"]]
NAME = re.compile(r"\bgpuready_\w+")
DOCUMENTED = (ROOT / "docs" / "monitoring.md").read_text(encoding="utf-8")


def promtool(*words: str) -> subprocess.CompletedProcess[str]:
    """promtool, in the rules' folder."""
    return subprocess.run(
        [prometheus.needed("promtool"), *words], cwd=FOLDER, capture_output=True, text=True, check=False
    )


def exported() -> set[str]:
    """The names that the exporter writes for nodes with everything there is."""
    text = fleet.busy(0.0) + fleet.troubled(0.0)
    return set(re.findall(r"^# TYPE (\S+)", text, re.M))


def asked() -> Iterator[tuple[str, str]]:
    """Who asks for what."""
    for title, expression in QUERIES.items():
        yield f"dashboard: {title}", expression
    for rule in RULES:
        yield f"alert: {rule['alert']}", rule["expr"]
    for group in yaml.safe_load((FOLDER / "dcgm.yml").read_text(encoding="utf-8"))["groups"]:
        for rule in group["rules"]:
            yield f"what DCGM's {rule['expr']} becomes", rule["record"]
    yield "console", CONSOLE.read_text(encoding="utf-8").replace("consoles/gpuready.html", "")
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    for variable in dashboard["templating"]["list"]:
        yield f"variable: {variable['name']}", str(variable.get("definition", ""))
    for annotation in dashboard["annotations"]["list"]:
        yield f"annotation: {annotation['name']}", str(annotation.get("expr", ""))


def test_rules_are_valid_and_fire_when_they_should() -> None:
    for words in (
        ("check", "rules", "alerts.yml", "dcgm.yml"),
        ("check", "config", "scrape.example.yml"),
        ("test", "rules", "alerts.test.yml", "dcgm.test.yml"),
    ):
        done = promtool(*words)
        assert done.returncode == 0, f"promtool {' '.join(words)}: {done.stdout}{done.stderr}"


def test_every_alert_is_seen_to_fire_and_to_stay_silent() -> None:
    told: dict[str, set[bool]] = {}
    for test in yaml.safe_load((FOLDER / "alerts.test.yml").read_text(encoding="utf-8"))["tests"]:
        for row in test["alert_rule_test"]:
            told.setdefault(row["alertname"], set()).add(bool(row["exp_alerts"]))
    assert {rule["alert"]: {True, False} for rule in RULES} == told


def test_every_alert_says_what_to_do() -> None:
    for rule in RULES:
        assert rule["labels"]["severity"] in ("critical", "warning", "info"), rule["alert"]
        assert set(rule["annotations"]) == {"summary", "description", "action"}, rule["alert"]


def test_only_exported_metrics_are_asked_for() -> None:
    names = exported()
    wrong = {f"{who}: {name}" for who, text in asked() for name in NAME.findall(text) if name not in names}
    assert wrong == set()


def test_every_exported_metric_is_explained() -> None:
    assert {
        name for name in exported() if f"`{name.removeprefix(exposition.PREFIX)}`" not in DOCUMENTED
    } == set()


@pytest.mark.parametrize("title", QUERIES)
def test_every_panel_has_data(server: prometheus.Prometheus, title: str) -> None:
    assert server.query(QUERIES[title]), QUERIES[title]


@pytest.mark.parametrize("expression", prometheus.console_queries(CONSOLE))
def test_every_query_of_the_console_has_data(server: prometheus.Prometheus, expression: str) -> None:
    assert server.wait(lambda: server.query(expression), expression, 15)


def test_every_alert_is_understood_by_the_server(server: prometheus.Prometheus) -> None:
    groups = server.ask("rules", type="alert")["groups"]
    health = {
        rule["name"]: (rule["health"], rule.get("lastError")) for group in groups for rule in group["rules"]
    }
    assert health == {rule["alert"]: ("ok", None) for rule in RULES}


def test_trouble_fires_and_health_does_not(server: prometheus.Prometheus) -> None:
    def alerts() -> dict[str, list[dict[str, Any]]]:
        found: dict[str, list[dict[str, Any]]] = {}
        for alert in server.ask("alerts")["alerts"]:
            found.setdefault(alert["labels"]["alertname"], []).append(alert)
        return found

    expected = {"GpuLost", "GpuNodeDrift", "GpuVerificationFailed", "GpuXidFatal", "GpuSlowedByHeat"}
    server.wait(lambda: expected <= set(alerts()), str(expected), 15)
    found = alerts()
    troubled = {row["metric"]["instance"] for row in server.query("gpuready_gpu_up == 0")}
    for name in expected:
        assert {alert["labels"]["instance"] for alert in found[name]} == troubled, name
    assert "GpuMissing" not in found, "the lost GPU has an alert of its own"


def test_console_page_shows_the_fleet(server: prometheus.Prometheus) -> None:
    page = server.page("consoles/gpuready.html")
    assert "error" not in page.lower().replace("errors", ""), page
    for words in (
        "computing",
        "held, idle",
        "slowed: sw thermal slowdown",
        "does not answer",
        "training",
        "39.37GiB",
        "no: toolkit",
        "pytorch-2.5-cu124 failed",
        "580.95.05 open",
        "some of these GPUs are simulated",
    ):
        assert words in page, words


def test_a_browser_draws_the_charts(server: prometheus.Prometheus) -> None:
    """As a person sees it; the picture is kept."""
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 1200, "height": 900})
        wrong: list[str] = []
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.goto(f"{server.url}/consoles/gpuready.html?span=60")
        page.wait_for_selector("body[data-ready=yes]", timeout=60_000)
        drawn = page.eval_on_selector_all(".chart", "all => all.map(one => one.dataset.drawn)")
        widest = page.evaluate("document.documentElement.scrollWidth")
        PICTURES.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=PICTURES / "prometheus-console.png", full_page=True)
    assert wrong == []
    assert drawn == ["3"] * 4, "three of the four GPUs answer"
    assert widest <= 1200, "nothing is cut off at the side"


def grafana_panels() -> list[dict[str, Any]]:
    return json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]


def test_dashboard_is_whole() -> None:
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    panels = grafana_panels()
    assert dashboard["id"] is None, "an id belongs to one Grafana"
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] >= 0 and place["x"] + place["w"] <= 24, panel["title"]
        # Another site's data source has another name: only the variable is named.
        sources = [target["datasource"]["uid"] for target in panel.get("targets") or []]
        assert set(sources) <= {"${datasource}"}, panel["title"]
        if panel["type"] != "row":
            assert panel["description"], f"{panel['title']} says nothing about itself"


def test_panels_do_not_cover_each_other() -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in grafana_panels():
        place = panel["gridPos"]
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert (x, y) not in taken, f"{panel['title']} covers {taken[x, y]}"
                taken[x, y] = panel["title"]
