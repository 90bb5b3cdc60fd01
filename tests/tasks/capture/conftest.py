"""Sessions for the tests of faults."""

import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from certificates import make_certificates
from recording import AT_ONCE, Recording, StartSession, ask

from tasks.capture.clock import Clock
from tasks.capture.listener import Backoff


@pytest.fixture
def session(tmp_path: Path) -> Iterator[StartSession]:
    """Record in a thread, as `session(url, symbols, …) -> Recording`; end what a failing test leaves running."""
    started: list[Recording] = []

    def start(
        url: str,
        symbols: tuple[str, ...] = ("A",),
        *,
        root: Path = tmp_path / "data",
        backoff: Backoff = AT_ONCE,
        clock: Clock | None = None,
        **changes: Any,
    ) -> Recording:
        started.append(Recording(ask(root, url, symbols, **changes), backoff, clock))
        return started[-1]

    yield start
    for each in started:
        each.session.stop()
        each.join()


@pytest.fixture
def disk_goes(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """The journals' writes wait for this event."""
    goes, real = threading.Event(), os.write

    def write(descriptor: int, content: bytes) -> int:
        if threading.current_thread().name.startswith("lane-"):
            goes.wait(20)
        return real(descriptor, content)

    monkeypatch.setattr(os, "write", write)
    return goes


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two authorities, and a certificate from the first, as `make_certificates` names them."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl makes the certificates")
    return make_certificates(tmp_path_factory.mktemp("tls"))
