"""A real Chromium for the tests of the page; each test ends without an error in it and without a foreign request."""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import CHROMIUM, FLAGS, OpenTab, Tab, free_port, generated, is_here, process
from playwright.sync_api import Browser, sync_playwright


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """A browser for all tests of this process."""
    if not CHROMIUM.exists():
        pytest.skip(f"{CHROMIUM} is missing, so no page can be tested: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=list(FLAGS))
        yield browser
        browser.close()


@pytest.fixture
def tab(chromium: Browser) -> Iterator[OpenTab]:
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
        environment = {name: value for name, value in os.environ.items() if not name.startswith("TAPE_")} | settings
        command = (tape, "dashboard", "--data-dir", data, "--port", port, *words)
        it = process(*command, port=port, cwd=tmp_path, env=environment)
        it.__enter__()
        running.append(it)
        return f"http://127.0.0.1:{port}"

    yield start
    for it in running:
        it.__exit__(None, None, None)
