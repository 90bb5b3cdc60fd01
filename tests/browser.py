"""A tab of a real Chromium, and the page served as `tape dashboard` serves it: a plugin of all tests."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    # Nothing but this machine has a name.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
)  # fmt: skip
# A ceiling for what takes a second on a machine that is not busy.
WITHIN_MS = 60_000
SERVED = Path(__file__).with_name("served_page.py")


class Tab:
    """A page that notes every error and every request."""

    def __init__(self, page: "Page") -> None:
        self.page = page
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.sockets: list[Any] = []
        page.set_default_timeout(WITHIN_MS)
        page.set_default_navigation_timeout(WITHIN_MS)
        page.on("console", lambda said: self.errors.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("websocket", self._opened)

    def _opened(self, websocket: Any) -> None:
        self.requests.append(websocket.url)
        self.sockets.append(websocket)

    def text(self, testid: str) -> str:
        """The text of a part."""
        return self.page.get_by_test_id(testid).inner_text().strip()

    def until(self, condition: str, argument: Any = None) -> Any:
        """Wait until a condition in JavaScript holds; gives what it gave."""
        return self.page.wait_for_function(condition, arg=argument, timeout=WITHIN_MS).json_value()

    def chart(self, testid: str = "chart") -> Any:
        """The options of a chart as ECharts has them."""
        read = """(id) => { const e = document.querySelector(`[data-testid=${id}]`);
            return getElement(e.id.slice(1)).chart.getOption(); }"""
        return self.page.evaluate(read, testid)

    def rows(self) -> list[dict[str, Any]]:
        """The rows of the watch-list in the order shown."""
        read = """() => { const rows = [], e = document.querySelector("[data-testid=watchlist]");
            getElement(e.id.slice(1)).api.forEachNodeAfterFilterAndSort((node) => rows.push(node.data));
            return rows; }"""
        return self.page.evaluate(read)

    def live(self) -> "Tab":
        """Wait until the page is drawn and has its connection."""
        self.until("() => window.did_handshake && document.querySelectorAll('canvas').length >= 3")
        self.page.locator(".ag-row").first.wait_for()
        return self


OpenTab = Callable[..., Tab]


def is_here(url: str) -> bool:
    return url.split(":", 1)[0] in ("data", "blob") or url.split("/")[2].split(":")[0] in ("127.0.0.1", "localhost")


@contextmanager
def process(*command: object, port: int, **options: Any) -> Iterator["subprocess.Popen[str]"]:
    """A server that is ready once its health route answers, and that ends when told."""
    started = subprocess.Popen(
        [str(word) for word in command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, **options,
    )  # fmt: skip
    try:
        end_s = time.monotonic() + 60
        while not answers(port):
            if started.poll() is not None or time.monotonic() > end_s:
                started.kill()
                raise AssertionError(started.communicate())
            time.sleep(0.05)
        yield started
    finally:
        started.send_signal(signal.SIGTERM)
        try:
            started.communicate(timeout=30)
        finally:
            started.kill()


def answers(port: int) -> bool:
    """Whether a server answers there."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5) as answer:
            return answer.read() == b"ok\n"
    except OSError:
        return False


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


@contextmanager
def generated(port: int = 0, **options: Any) -> Iterator[str]:
    """The page of generated sessions; gives its URL."""
    port = port or free_port()
    with process(sys.executable, SERVED, port, json.dumps(options), port=port):
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def chromium() -> "Iterator[Browser]":
    """A browser for a module's tests. Not for more: while it runs, its event loop does too, and no other can start."""
    if not CHROMIUM.exists():
        pytest.skip(f"{CHROMIUM} is missing, so no page can be tested: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=list(FLAGS))
        yield browser
        browser.close()


@pytest.fixture
def tab(chromium: "Browser") -> Iterator[OpenTab]:
    """Opens tabs; at the end no tab has reported an error or asked another host for anything."""
    tabs: list[Tab] = []
    contexts = []

    def open_tab(url: str, *, width: int = 1440, height: int = 900, expect_errors: bool = False, **options: Any) -> Tab:
        context = chromium.new_context(viewport={"width": width, "height": height}, **options)
        contexts.append(context)
        it = Tab(context.new_page())
        if not expect_errors:
            tabs.append(it)
        it.page.goto(url)
        return it

    yield open_tab
    problems = [error for each in tabs for error in each.errors]
    foreign = [url for each in tabs for url in each.requests if not is_here(url)]
    for context in contexts:
        context.close()
    assert problems == []
    assert foreign == []


@pytest.fixture(scope="module")
def page_url() -> Iterator[str]:
    """The page of a generated session that has been recorded for ten minutes, with gaps; shared by a module's tests."""
    with generated() as url:
        yield url


@pytest.fixture
def dashboard(tmp_path: Path) -> Iterator[Callable[..., str]]:
    """Starts `tape dashboard` for a data folder; gives its URL."""
    running = []

    def start(data: Path, *words: str, **settings: str) -> str:
        port = free_port()
        tape = Path(sys.executable).with_name("tape")
        environment = {name: value for name, value in os.environ.items() if not name.startswith("TAPE_")}
        environment |= {"TAPE_MAX_EVENT_AGE": "off", **settings}  # The trades of the tests have times long ago.
        command = (tape, "dashboard", "--data-dir", data, "--port", port, *words)
        it = process(*command, port=port, cwd=tmp_path, env=environment)
        it.__enter__()
        running.append(it)
        return f"http://127.0.0.1:{port}"

    yield start
    for it in running:
        it.__exit__(None, None, None)
