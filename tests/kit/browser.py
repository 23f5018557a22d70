"""JupyterLab as a person uses it: a headless Chromium here, through an SSH tunnel or to the node's address.

Nothing here knows of gpuready: what counts is what the page shows. The page that is left behind when a step
fails is kept as a picture, so that a failure can be looked at.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

from playwright.sync_api import Browser, BrowserContext, Page, Response, ViewportSize, sync_playwright
from playwright.sync_api import Error as BrowserError

from . import ROOT

#: Where pictures go unless a test says otherwise.
PICTURES = ROOT / "artifacts" / "pictures"
#: Without these a closed network is asked for updates at every start.
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
)
NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
SIZE = ViewportSize(width=1280, height=800)
#: Machines on which these tests run may be busy.
PATIENCE_MS = 90_000


def executable() -> str:
    """The machine's own Chromium; Playwright's downloads are not needed."""
    found = os.environ.get("GPUREADY_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if not found:
        raise RuntimeError("no Chromium on this machine: install the package chromium (tests/lab/README.md)")
    return found


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """A headless browser without any memory of former ones."""
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=executable(), args=list(FLAGS))
        try:
            yield browser
        finally:
            browser.close()


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def answers(port: int, address: str = "127.0.0.1") -> bool:
    """Whether a TCP connection can be made."""
    try:
        with socket.create_connection((address, port), timeout=2):
            return True
    except OSError:
        return False


@contextlib.contextmanager
def tunnel(
    ssh: Sequence[str], port: int, *, address: str = "127.0.0.1", seconds: float = 30
) -> Iterator[int]:
    """A port here that leads to a port of the node's loopback: `ssh -L`, as the documentation tells people.

    ``ssh``: the words that lead to the node, from ``ssh`` to its name.
    """
    local = free_port()
    forward = [
        "-N",
        "-o",
        "ExitOnForwardFailure=yes",
        "-o",
        "ControlPath=none",
        "-L",
        f"127.0.0.1:{local}:{address}:{port}",
    ]
    process = subprocess.Popen(
        [ssh[0], *forward, *ssh[1:]],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + seconds
        while not answers(local):
            if process.poll() is not None:
                raise RuntimeError(
                    f"the tunnel to port {port} broke: {process.stderr and process.stderr.read()}"
                )
            if time.monotonic() > deadline:
                raise RuntimeError(f"no tunnel to port {port} within {seconds:.0f} s")
            time.sleep(0.1)
        yield local
    finally:
        process.terminate()
        process.communicate()


@dataclass
class Lab:
    """JupyterLab in one browser window.

    ``base``: its address up to the first slash, ``https://10.0.0.7:8888``.
    """

    base: str
    page: Page
    pictures: Path = PICTURES

    def picture(self, name: str) -> Path:
        """Keep what the window shows."""
        self.pictures.mkdir(parents=True, exist_ok=True)
        path = self.pictures / f"{name}.png"
        self.page.screenshot(path=str(path))
        return path

    def visit(self, path: str = "/lab", **query: str) -> Response:
        """Go there; the last answer of the server on the way."""
        address = f"{self.base}{path}" + (f"?{urlencode(query)}" if query else "")
        answer = self.page.goto(address, wait_until="domcontentloaded", timeout=PATIENCE_MS)
        assert answer is not None, address
        return answer

    @property
    def refuses(self) -> bool:
        """Whether the window shows the login page and nothing else."""
        return (
            urlsplit(self.page.url).path.startswith("/login")
            and self.page.locator("#password_input").is_visible()
            and self.page.locator("#jp-main-dock-panel, .jp-Launcher, .jp-LabShell").count() == 0
        )

    def open(self, token: str = "") -> None:
        """Open JupyterLab and wait until it is there; with a token, by the link that people are given."""
        self.visit("/lab", **({"token": token} if token else {}))
        self.ready()

    def log_in(self, secret: str) -> None:
        """Fill in the login page, wherever it is asked for, and send it."""
        field = self.page.locator("#password_input")
        field.fill(secret)
        field.press("Enter")
        self.page.wait_for_load_state("domcontentloaded")

    def ready(self) -> None:
        """Wait until the launcher shows what can be started."""
        with self.kept_when_it_fails("not-ready"):
            self.page.locator(".jp-LabShell").wait_for(state="attached", timeout=PATIENCE_MS)
            self.page.locator("#jupyterlab-splash").wait_for(state="detached", timeout=PATIENCE_MS)
            # A question about news or a former session's notebook may lie above everything.
            for button in self.page.locator(
                ".jp-toast-button:has-text('No'), .jp-Dialog .jp-mod-reject"
            ).all():
                button.click()

    def new_notebook(self) -> None:
        """Start one with the first kernel that is offered, which is the framework's own Python."""
        with self.kept_when_it_fails("no-notebook"):
            card = self.page.locator(".jp-LauncherCard[data-category=Notebook]").first
            if not card.is_visible():
                self.page.keyboard.press("Control+Shift+L")
            with self.page.expect_websocket(lambda opened: "/channels" in opened.url) as channel:
                card.click(timeout=PATIENCE_MS)
            self.page.locator(".jp-Notebook:visible .jp-CodeCell").first.wait_for(timeout=PATIENCE_MS)
            # What is run before the kernel has said a word is dropped.
            channel.value.wait_for_event("framereceived", timeout=PATIENCE_MS)

    def run(self, code: str, *, seconds: float = 120) -> str:
        """Type code into the last cell, run it with Shift+Enter, and return what stands below it."""
        with self.kept_when_it_fails("cell-failed"):
            cells = self.page.locator(".jp-Notebook:visible .jp-CodeCell")
            cell = cells.nth(cells.count() - 1)
            cell.locator(".cm-content").click()
            # Typed as one insertion: key by key, the editor would close every bracket once more.
            self.page.keyboard.insert_text(code)
            prompt = cell.locator(".jp-InputPrompt")
            deadline = time.monotonic() + seconds
            asked = 0.0
            while not re.search(r"\[\d+\]", prompt.inner_text()):
                if time.monotonic() > deadline:
                    raise TimeoutError(f"the cell did not end within {seconds:.0f} s")
                # JupyterLab drops what is run before its kernel is connected; a person would do it again.
                if "*" not in prompt.inner_text() and time.monotonic() > asked + 5:
                    cell.locator(".cm-content").click()
                    self.page.keyboard.press("Shift+Enter")
                    asked = time.monotonic()
                self.page.wait_for_timeout(200)
            return "\n".join(cell.locator(".jp-OutputArea-output").all_inner_texts()).strip()

    def close_notebook(self) -> None:
        """Throw the notebook and its kernel away: what a test made is nobody's work."""
        name = self.page.locator(".jp-mod-current .lm-TabBar-tabLabel, .lm-mod-current .lm-TabBar-tabLabel")
        self.fetch(f"/api/contents/{name.last.inner_text()}", "DELETE")
        for kernel in json.loads(self.fetch("/api/kernels")["text"]):
            self.fetch(f"/api/kernels/{kernel['id']}", "DELETE")

    def fetch(self, path: str, method: str = "GET") -> dict[str, Any]:
        """Ask the server from within the page, with what it knows: ``{status, text}``."""
        script = """async ([path, method]) => {
            const cookie = document.cookie.match(/_xsrf=([^;]*)/);
            const headers = cookie ? {"X-XSRFToken": cookie[1]} : {};
            const answer = await fetch(path, {method, headers});
            return {status: answer.status, text: await answer.text()};
        }"""
        return self.page.evaluate(script, [path, method])

    @contextlib.contextmanager
    def kept_when_it_fails(self, name: str) -> Iterator[None]:
        """Keep the picture and the address of a window in which a step does not come to its end."""
        try:
            yield
        except (BrowserError, TimeoutError) as failure:
            where = self.picture(name)
            raise AssertionError(
                f"{failure}\nat {without_token(self.page.url)}, picture: {where}"
            ) from failure


def without_token(address: str) -> str:
    """An address that may be printed."""
    return re.sub(r"(token=)[^&]+", r"\1***", address)


@contextlib.contextmanager
def jupyter(
    browser: Browser, base: str, *, pictures: Path = PICTURES, certificate_errors: bool = False
) -> Iterator[Lab]:
    """A window of its own, without cookies, on a JupyterLab."""
    context: BrowserContext = browser.new_context(viewport=SIZE, ignore_https_errors=certificate_errors)
    context.set_default_timeout(PATIENCE_MS)
    try:
        yield Lab(base, context.new_page(), pictures)
    finally:
        context.close()
