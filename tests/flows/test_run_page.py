"""The page of a run says what is wrong first, counts what is known, and shows the feed's words literally."""

import base64
import re
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import SealBatch, archive_sealed

from flows.orchestrator import beside
from flows.run_page import Facts, page, summary
from flows.settings import Settings, load_settings
from tasks.query.minutes import MINUTE_NS, Minute, Minutes
from tasks.records.coverage import coverage
from tasks.records.ledger import Gap, Request, SessionRecord, TradeCounts
from tasks.records.status import Status
from tasks.storage.store import Store

START_NS = 1_795_530_600_000_000_000  # 2026-11-24 9:30 in New York.
END_NS = START_NS + 390 * MINUTE_NS
NOW_NS = START_NS + 39 * MINUTE_NS
SYMBOLS = ("AAPL", "[x](http://evil.example)|", "MSFT")
CLOSED = Gap(symbols=SYMBOLS, start_ns=START_NS + 10 * MINUTE_NS, end_ns=START_NS + 13 * MINUTE_NS, reason="reset")
OPEN = Gap(symbols=("MSFT",), start_ns=NOW_NS - MINUTE_NS, end_ns=None, reason="refused <b>")


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings of a folder of the test's own, in New York."""
    monkeypatch.chdir(tmp_path)
    return load_settings(data_dir=tmp_path / "data", calendar="XNYS")


@pytest.fixture
def facts() -> Facts:
    """A tenth of a trading day is over: one gap has ended, one lasts."""
    request = Request(
        id="1", owner="a run", symbols=SYMBOLS, start_ns=START_NS, until_ns=END_NS, hours=((START_NS, END_NS),)
    )
    record = SessionRecord(
        session="20261124T143000Z-9f3c01ab", feed="finnhub", symbols=SYMBOLS, started_ns=START_NS,
        listening_ns=START_NS, ended_ns=NOW_NS, deadline_ns=END_NS, outcome="recording", error=None, connections=1,
        frames_received=9, batches=(1,), gaps=(CLOSED, OPEN),
    )  # fmt: skip
    status = Status(
        session=record.session, pid=1, state="recording", started_ns=START_NS, deadline_ns=END_NS, updated_ns=NOW_NS,
        open_gaps=(OPEN,), trades=1_000, per_symbol={"AAPL": 1_000}, symbols=SYMBOLS,
    )  # fmt: skip
    return Facts(
        now_ns=NOW_NS, request=request, statuses=(status,),
        coverage=coverage([replace(request, until_ns=NOW_NS)], [record]),
        trades=TradeCounts(received=1_000, quarantined=2, refused=1), per_symbol={"AAPL": 1_000},
        reasons={"price | not positive": 3}, waiting=1, minutes=[Minute(START_NS, 900, 20.0, 80.0, 1_500.0)],
        free_bytes=50 * 10**9, recorded_bytes=10**7, to_upload=4, rate=12.5, lag_ms=21.0, silent=("MSFT",),
    )  # fmt: skip


def test_the_final_page_counts_the_trades_that_the_run_counts(facts: Facts, settings: Settings) -> None:
    """A session can have trades from before and after a run's time: the verdict has those that its message has."""
    assert "**995 trades of 3 symbols, " in page("XNYS 2026-11-24", replace(facts, asked=995), settings, None, None)


def test_an_open_gap_is_seen_first(facts: Facts, settings: Settings) -> None:
    """While symbols cannot be received the page is red, and says since when and why before anything else."""
    lines = page("XNYS 2026-11-24", facts, settings, None, None).splitlines()
    assert lines[0] == "# 🔴 XNYS 2026-11-24"
    assert lines[2].startswith("**1,000 trades of 3 symbols, 2 gaps, ")
    assert lines[4] == "🔴 **cannot receive 1 symbol** since 10:08:00: `refused <b>`"


def test_every_figure_is_there(facts: Facts, settings: Settings) -> None:
    """State, rate, lag, silence, quarantine by reason, what waits, and the disk, in the exchange's time."""
    text = page("XNYS 2026-11-24", facts, settings, None, None)
    for row in (
        "| state | recording, 10 % of 09:30:00 to 16:00:00 (America/New_York) |",
        "| trades | 1,000; 12.5/s now; at most 900 a minute |",
        "| lag | 21 ms now; worst 1,500 ms |",
        "| silent since the last look | `MSFT` |",
        "| quarantined | 3 (`price \\x7c not positive` 3) |",
        "| batches waiting | 1 to archive, 4 to upload |",
        "50.0 GB free, enough for 500 more recordings like this one |",
        "| 09:40:00 | 09:43:00 | 180.0 s |",
    ):
        assert row in text
    assert text.count("](data:image/svg+xml;base64,") == 3


def test_what_the_feed_says_is_no_markup(facts: Facts, settings: Settings) -> None:
    """A symbol that looks like a link and a reason that looks like HTML are shown literally, also in the pictures."""
    text = page("XNYS 2026-11-24", facts, settings, None, "a | <i>reason</i>")
    assert "`[x](http://evil.example)\\x7c`" in text
    assert "`a \\x7c <i>reason</i>`" in text
    for encoded in re.findall(r"base64,([^)]*)\)", text):
        svg = base64.b64decode(encoded).decode()
        assert svg.startswith("<?xml")
        assert "evil" not in svg


def test_minutes_are_those_of_the_rows(store: Store, sealed_batch: SealBatch) -> None:
    """Trades, median, 99th percentile, and worst lag of each minute are exact to a millisecond; a lost file is none."""
    lags_ms = [*range(1, 101), 7]
    times_ns = [START_NS + n * 10**6 for n in range(100)] + [START_NS + MINUTE_NS]
    lines = [
        f"1,{n},{at_ns},{at_ns - lag * 10**6},A,1.5,1,\n".encode()
        for n, (at_ns, lag) in enumerate(zip(times_ns, lags_ms, strict=True), 1)
    ]
    manifest = archive_sealed(store, sealed_batch(lines))
    (file,) = manifest.parent.glob("*.parquet")
    assert Minutes().of([file, file.with_name("gone.parquet")]) == [
        Minute(START_NS, 100, 50.0, 99.0, 100.0),
        Minute(START_NS + MINUTE_NS, 1, 7.0, 7.0, 7.0),
    ]


def test_an_api_that_hangs_holds_up_nothing() -> None:
    """What is only for the UI is waited for as long as said, and no longer."""
    answered = threading.Event()
    beside(answered.wait, 0.01)
    assert not answered.is_set()
    answered.set()


def test_the_summary_is_one_line(facts: Facts) -> None:
    """One symbol and one gap are singular; less than the whole is never 100 %."""
    assert summary(47_963, 25, replace(facts.coverage, gaps=())).startswith("47,963 trades of 25 symbols, 0 gaps, ")
    assert summary(1, 1, facts.coverage).startswith("1 trade of 1 symbol, 2 gaps, 9")
