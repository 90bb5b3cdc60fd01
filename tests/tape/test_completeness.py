"""`tape show DATE` begins with whether the day is complete: what is missing of each symbol, and why."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tape.cli.app import app
from tape.cli.completeness import print_completeness
from tape.completeness import completeness_of
from tasks.market.hours import market_sessions
from tasks.records.ledger import Gap, SessionRecord
from tasks.records.manifest import encode
from tasks.storage.store import Store, write_whole

SESSION, DAY = "20261124T090000Z-9f3c01ab", "2026-11-24"
# 04:00, 09:30, 16:00, and 20:00 in New York.
START_NS = 1_795_510_800_000_000_000
MINUTE_NS = 60_000_000_000
OPEN_NS, CLOSE_NS, END_NS = START_NS + 330 * MINUTE_NS, START_NS + 720 * MINUTE_NS, START_NS + 960 * MINUTE_NS
HOURS = partial(market_sessions, calendar="XNYS")


@pytest.fixture
def record() -> SessionRecord:
    """A session that received AAPL and MSFT from before the open until after the close."""
    return SessionRecord(
        session=SESSION, feed="finnhub", symbols=("AAPL", "MSFT"), started_ns=START_NS, listening_ns=START_NS,
        ended_ns=END_NS, deadline_ns=END_NS, outcome="complete", error=None, connections=1, frames_received=1,
        batches=(1,), gaps=(),
    )  # fmt: skip


def test_a_day_without_a_gap_in_market_hours_is_complete(record: SessionRecord, capsys: pytest.CaptureFixture) -> None:
    """A gap before the open does not matter; the feed's limits are said in any case."""
    early = Gap(symbols=("AAPL",), start_ns=START_NS + 1, end_ns=OPEN_NS, reason="reconnect")
    found = completeness_of([replace(record, gaps=(early,))], DAY, HOURS, END_NS)
    assert (found.is_complete, found.share) == (True, 1)
    print_completeness(found, DAY)
    first, second = capsys.readouterr().out.splitlines()
    assert first == "2026-11-24: complete: 2 symbols, all of market hours could be received"
    assert "IEX" in second


def test_what_is_missing_is_said_with_its_reason(record: SessionRecord, capsys: pytest.CaptureFixture) -> None:
    """A gap across the open counts from the open on; a recording that ended early is missing the rest."""
    gap = Gap(symbols=("AAPL",), start_ns=OPEN_NS - 5, end_ns=OPEN_NS + 3 * MINUTE_NS, reason="reconnect")
    found = completeness_of([replace(record, gaps=(gap,), ended_ns=CLOSE_NS - 60 * MINUTE_NS)], DAY, HOURS, END_NS)
    assert found.missing == {
        "AAPL": (
            ((OPEN_NS, OPEN_NS + 3 * MINUTE_NS), "reconnect"), ((CLOSE_NS - 60 * MINUTE_NS, CLOSE_NS), "not recorded"),
        ),
        "MSFT": (((CLOSE_NS - 60 * MINUTE_NS, CLOSE_NS), "not recorded"),),
    }  # fmt: skip
    assert found.share == pytest.approx(1 - 123 / 780)
    print_completeness(found, DAY)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == (
        "2026-11-24: NOT complete: 84.2 % of market hours could be received; 2 of 2 symbols have something missing"
    )
    assert "  AAPL: 09:30:00 to 09:33:00 America/New_York (3m): reconnect" in lines


def test_what_another_session_received_is_not_missing(record: SessionRecord) -> None:
    """A second session fills the gap of the first."""
    gap = Gap(symbols=("AAPL",), start_ns=OPEN_NS, end_ns=OPEN_NS + 3 * MINUTE_NS, reason="reconnect")
    other = replace(record, session="20261124T100000Z-00c0ffee", symbols=("AAPL",))
    assert completeness_of([replace(record, gaps=(gap,)), other], DAY, HOURS, END_NS).is_complete


def test_holidays_and_days_that_go_on_are_judged_by_what_was_open(record: SessionRecord) -> None:
    """Before the open, and on a holiday, there is nothing to miss; crypto has all day."""
    assert completeness_of([record], DAY, HOURS, OPEN_NS - 1).is_complete is None
    assert completeness_of([replace(record, ended_ns=OPEN_NS + 7)], DAY, HOURS, OPEN_NS + 7).is_complete
    assert completeness_of([record], "2026-11-26", HOURS, END_NS * 2).is_complete is None
    crypto = replace(record, symbols=("BINANCE:BTCUSDT",))
    found = completeness_of([crypto], DAY, HOURS, END_NS * 2)
    assert found.share == pytest.approx((15) / 24), "from 09:00 to the end of the UTC day"


def test_show_begins_with_the_answer(record: SessionRecord, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """`tape show DAY` says first whether the day is complete, and as JSON for each symbol."""
    (store.sessions / SESSION).mkdir()
    write_whole(store.sessions / SESSION / "session.json", encode(replace(record, batches=(0,))))
    monkeypatch.chdir(Path(store.root).parent)
    result = CliRunner().invoke(app, ["show", DAY, "--data-dir", str(store.root)])
    assert result.stdout.startswith("2026-11-24: complete: 2 symbols"), result.output
    result = CliRunner().invoke(app, ["show", DAY, "--data-dir", str(store.root), "--json"])
    assert '"completeness":{"complete":true,"share":1.0,"symbols":{"AAPL":{"hours_s":23400.0' in result.stdout
