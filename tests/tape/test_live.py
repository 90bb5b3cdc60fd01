"""The live view fits the terminal, and log lines do not break it."""

import io
import logging
from pathlib import Path

import pytest
from rich.console import Console
from rich.live import Live

from tape import live
from tasks.records.ledger import Gap
from tasks.records.status import Status
from tasks.storage.store import Store

_STATUS = Status(
    session="20261124T143000Z-9f3c01ab",
    pid=4_194_303,
    state="reconnecting",
    started_ns=0,
    deadline_ns=6 * 3600 * 10**9,
    updated_ns=3600 * 10**9,
    connection=150,
    trades=123_456_789,
    queue_bytes=1,
    queue_limit_bytes=2,
    gaps=149,
    open_gaps=(Gap(symbols=("AAPL",), start_ns=0, end_ns=None, reason="connection lost"),),
    notice="the sender is held",
    per_symbol={f"BINANCE:SYMBOL{n:03}USDT": n * 1_000_000 for n in range(50)},
)


def test_the_view_fits_into_80_by_24(tmp_path: Path) -> None:
    """Nothing runs into the next line or past the edge, though counts, names and process are large."""
    console = Console(width=80, height=24, file=io.StringIO())
    with console.capture() as shown:
        console.print(live._picture(_STATUS, Store(tmp_path).prepare(), live._Rate()))
    lines = [line.rstrip() for line in shown.get().splitlines()]
    assert len(lines) < 24
    assert max(map(len, lines)) <= 80
    assert "batches so far: 0 sealed → 0 validated → 0 archived" in lines
    assert {"cannot receive 1 symbol: connection lost", "the sender is held"} <= set(lines)


def test_what_is_logged_stands_above_the_view(monkeypatch: pytest.MonkeyPatch) -> None:
    """A warning of Prefect's goes through the view while there is one, brackets and all, and past it afterwards."""
    from prefect.logging.handlers import PrefectConsoleHandler

    past, terminal = io.StringIO(), io.StringIO()
    handler = PrefectConsoleHandler(stream=past)
    handler.console = Console(file=past, force_terminal=True)
    monkeypatch.setattr(logging.getLogger("prefect"), "handlers", [handler])
    view = Live("view", console=Console(file=terminal, force_terminal=True, width=80))
    with view, live._logged_above(view):
        logging.getLogger("prefect").warning("held [by TCP]")
    assert "held [by TCP]" in terminal.getvalue()
    assert past.getvalue() == ""
    logging.getLogger("prefect").warning("after")
    assert "after" in past.getvalue()
