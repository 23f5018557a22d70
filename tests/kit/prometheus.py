"""A real Prometheus of a test's own: Debian's package, on loopback, with a folder that goes with the test."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from . import ROOT
from .browser import free_port

MONITORING = ROOT / "monitoring"
RULES = MONITORING / "prometheus" / "alerts.yml"
CONSOLES = MONITORING / "prometheus" / "consoles"
START_SECONDS = 30


def needed(program: str) -> str:
    """Where a program is; they come with `labctl tools`."""
    found = shutil.which(program)
    if not found:
        raise RuntimeError(f"{program} is not installed: run .venv/bin/python tests/lab/labctl tools")
    return found


class Prometheus:
    """One that runs."""

    def __init__(self, url: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self.url = url
        self._process = process
        self._log = log

    def ask(self, path: str, **parameters: Any) -> Any:
        """One call of its interface; its own words where it refuses."""
        address = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(address, timeout=20) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{parameters}: {json.load(error)['error']}") from error

    def query(self, expression: str) -> list[dict[str, Any]]:
        """What an expression gives now; a number as one row without labels."""
        found = self.ask("query", query=expression)
        if found["resultType"] == "scalar":
            return [{"metric": {}, "value": found["result"]}]
        return list(found["result"])

    def value(self, expression: str) -> float:
        """The one number that an expression gives."""
        (row,) = self.query(expression)
        return float(row["value"][1])

    def page(self, path: str) -> str:
        """A page that it serves."""
        with urllib.request.urlopen(f"{self.url}/{path}", timeout=60) as answer:
            return str(answer.read().decode())

    def wait(self, ready: Callable[[], Any], what: str, seconds: float = 60) -> Any:
        """Wait until it is so."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            found = ready()
            if found:
                return found
            time.sleep(0.3)
        raise RuntimeError(
            f"Prometheus: {what} did not come true within {seconds:.0f} s: {self.log()[-2000:]}"
        )

    def log(self) -> str:
        return self._log.read_text(errors="replace")


@contextmanager
def running(
    folder: Path,
    targets: Mapping[str, Sequence[str]],
    *,
    rules: Path | None = RULES,
    interval: str = "1s",
) -> Iterator[Prometheus]:
    """Scrapes ``targets`` (job → addresses) until the end of the context."""
    configuration = {
        "global": {"scrape_interval": interval, "evaluation_interval": interval},
        "rule_files": [str(rules)] if rules else [],
        "scrape_configs": [
            {"job_name": job, "scrape_timeout": "900ms", "static_configs": [{"targets": list(addresses)}]}
            for job, addresses in targets.items()
        ],
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "prometheus.yml"
    path.write_text(yaml.safe_dump(configuration), encoding="utf-8")
    port = free_port()
    log = folder / "prometheus.log"
    command = [
        needed("prometheus"),
        f"--config.file={path}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        f"--web.console.templates={CONSOLES}",
    ]
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, cwd=folder)
    try:
        found = Prometheus(f"http://127.0.0.1:{port}", process, log)

        def up() -> bool:
            if process.poll() is not None:
                raise RuntimeError(f"prometheus ended with {process.returncode}: {found.log()}")
            try:
                found.ask("query", query="1")
            except (OSError, urllib.error.URLError):
                return False
            return True

        found.wait(up, "an answer", START_SECONDS)
        yield found
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


# -- what a dashboard asks ---------------------------------------------------------------------------------

#: Grafana's own variables, as a test fills them in.
GRAFANA = {"$__rate_interval": "10s", "$__range": "1h", "$__interval": "5s"}


def dashboard_queries(path: Path, variables: Mapping[str, str] = {}) -> dict[str, str]:
    """Panel (and target) → expression of a Grafana dashboard, with its variables filled in."""
    dashboard = json.loads(path.read_text(encoding="utf-8"))
    found: dict[str, str] = {}

    def take(panels: list[dict[str, Any]]) -> None:
        for panel in panels:
            take(panel.get("panels") or [])
            for target in panel.get("targets") or []:
                found[f"{panel['title']}/{target['refId']}"] = fill(target["expr"], variables)

    take(dashboard["panels"])
    return found


def fill(expression: str, variables: Mapping[str, str]) -> str:
    """An expression with Grafana's variables replaced; a variable that nobody knows is a mistake."""
    for name, value in {**GRAFANA, **{f"${key}": value for key, value in variables.items()}}.items():
        expression = expression.replace(name, value)
    left = re.findall(r"\$\w+|\[\[\w+\]\]|\$\{\w+[^}]*\}", expression)
    assert not left, f"{expression}: unknown variables {left}"
    return expression


def console_queries(path: Path) -> list[str]:
    """The expressions that a console page has as fixed text; those made with printf only the page can ask."""
    text = path.read_text(encoding="utf-8")
    fixed = re.findall(r'(?:query|template "one") "((?:[^"\\]|\\.)*)"', text)
    charts = re.findall(r'data-query="([^"]+)"', text)
    return [expression.replace('\\"', '"') for expression in fixed] + charts
