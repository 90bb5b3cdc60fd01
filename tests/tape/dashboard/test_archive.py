"""A session or day of the archive equals the session as it was seen live, from whatever files it is opened."""

import csv
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from conftest import archive_sealed
from journal_bars import JournalRow, expected_bars, expected_totals, journal_rows, shown_bars
from recording import Recording, ask, wait_for

from tape.dashboard.archive import Archive
from tape.dashboard.live import LiveSession
from tape.dashboard.model import Source
from tasks.archive.encodings import Encoding
from tasks.compress.parquet import compress
from tasks.errors import ConflictError, TerminalError
from tasks.merge.day import merge
from tasks.records.ledger import Gap, SessionRecord
from tasks.records.manifest import encode, read
from tasks.records.names import BatchName, feed_and_date
from tasks.records.trade import NS_PER_S
from tasks.replay.generate import SYMBOLS, generate
from tasks.replay.run import serve_in_thread
from tasks.replay.server import ReplayOptions
from tasks.storage.store import Store, write_whole
from tasks.upload.bucket import Bucket
from tasks.upload.uploads import upload_batch, upload_day, upload_session
from tasks.validate.schema import Limits
from tasks.validate.split import split

LENGTHS_NS = (NS_PER_S, 5 * NS_PER_S, 60 * NS_PER_S, 86_400 * NS_PER_S)
MINUTE_NS = 60 * NS_PER_S
# 04:00, 09:30, 16:00, and 20:00 in New York on 2026-11-24, a Tuesday.
START_NS = 1_795_510_800_000_000_000
OPEN_NS, CLOSE_NS, END_NS = START_NS + 330 * MINUTE_NS, START_NS + 720 * MINUTE_NS, START_NS + 960 * MINUTE_NS


@dataclass(frozen=True)
class Recorded:
    """A recorded session of which nothing is archived yet, and what a page showed of it while it was live."""

    root: Path
    session: str
    shown: Any
    rows: list[JournalRow]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    """Half a minute of a generated tape over two lanes and several batches, watched from its first second on."""
    root = tmp_path_factory.mktemp("recorded") / "data"
    store = Store(root).prepare()
    options = ReplayOptions(speed=None, original_times=True, exit_at_end=True)
    with serve_in_thread(generate(3, 30), options) as replay:
        recording = Recording(ask(root, replay.url, SYMBOLS, lanes=2, batch_bytes=300_000))
        wait_for(recording.status)
        live = LiveSession(store, recording.request.session)
        wait_for(lambda: live.refresh() or (replay.ended.is_set() and live.board().trades == replay.sent))
        recording.end()
    wait_for(lambda: live.refresh() or (live.board().health == "ended" and live.board().loaded == 1))
    live.close()
    assert len(store.sealed_batches()) > 4
    return Recorded(root, recording.request.session, shown(live), journal_rows(store.sealed))


def shown(source: Source) -> Any:
    """Everything of a source that must be the same: bars of all lengths, totals, counts, and the latest prints."""
    bars = {
        (symbol, every_ns): shown_bars(source.bars(symbol, every_ns, 10_000))
        for symbol in SYMBOLS
        for every_ns in LENGTHS_NS
    }
    rows = [replace(row, silent_s=None) for row in source.board().rows]
    prints = {symbol: source.prints(symbol, 5) for symbol in SYMBOLS}
    return bars, rows, source.board().trades, source.board().newest_recv_ns, prints


def archive_of(store: Store, bucket: Bucket | None = None) -> Archive:
    return Archive(store, "XNYS", time.time_ns, bucket)


def archived(store: Store, **encoding: Any) -> list[str]:
    """Archive every sealed batch in that encoding; gives the days."""
    for name in store.sealed_batches():
        split(store, name, Limits(None, None))
        compress(store, name, Encoding(**encoding))
    return sorted({feed_and_date(path.parent)[1] for path in store.manifests()})


def merged(store: Store) -> list[str]:
    """Archive all, and merge the days into files of their own; the batches' files are gone."""
    days = archived(store)
    for day in days:
        merge(store, "finnhub", day)
    for path in store.archive.rglob("*.parquet"):
        path.unlink()
    return days


def half_way(store: Store) -> None:
    """Some batches archived, some validated, some sealed."""
    first, second, *_ = store.sealed_batches()
    archive_sealed(store, first)
    split(store, second, Limits(None, None))


WAYS: dict[str, Callable[[Store], object]] = {
    "journals": lambda _: None,
    "half way": half_way,
    "parquet": archived,
    "smallest parquet": lambda store: archived(store, layout="max"),
    "csv.zst": lambda store: archived(store, format="csv.zst"),
    "csv.gz": lambda store: archived(store, format="csv.gz"),
    "day files": merged,
}


@pytest.fixture
def copy(recorded: Recorded, tmp_path: Path) -> Store:
    """A data folder of the test's own with the recorded session."""
    return Store(shutil.copytree(recorded.root, tmp_path / "copy"))


@pytest.mark.parametrize("way", WAYS)
def test_a_session_is_as_it_was_live(recorded: Recorded, copy: Store, way: str) -> None:
    """To the last bit of every bar, total, and stamp, and to the last digit of the prints."""
    WAYS[way](copy)
    source = archive_of(copy).open(recorded.session)
    assert shown(source) == recorded.shown
    assert sum(bar[6] for bar in recorded.shown[0]["SPY", NS_PER_S]) == expected_totals(recorded.rows)["SPY"]["trades"]


@pytest.mark.parametrize("by_day", [False, True])
def test_a_session_from_the_bucket_is_as_it_was_live(
    recorded: Recorded, copy: Store, bucket: Bucket, object_store: Any, by_day: bool
) -> None:
    """With nothing of it left here: its batches, or the files of its days if those are all that is left there."""
    days = archived(copy)
    for path in copy.manifests():
        upload_batch(copy, BatchName.parse(path.name), bucket, lambda: 1)
    upload_session(copy, recorded.session, bucket, lambda: 1)
    for day in days if by_day else ():
        merge(copy, "finnhub", day)
        upload_day(copy, "finnhub", day, bucket, lambda: 1, pytest.fail)
        for key in [each for each in object_store.keys() if each.startswith("trades/feed") and "parquet" in each]:  # noqa: SIM118
            object_store.server.client().delete_object(Bucket=bucket.name, Key=key)
    shutil.rmtree(copy.root)
    empty = archive_of(copy.prepare(), bucket)
    assert empty.in_bucket() == {recorded.session: set(days)}
    assert shown(empty.open(recorded.session, remote=True)) == recorded.shown
    assert shown(empty.open(days[0], remote=True)) == recorded.shown
    report, ledger = empty.report(recorded.session, remote=True)
    assert (report["trades"], ledger is not None and ledger.balances) == (len(recorded.rows), True)
    assert empty.calendar() == ((), ())


def test_a_day_has_the_trades_of_its_sessions(recorded: Recorded, copy: Store) -> None:
    """A day of one session is that session, from batches and from the day's own file."""
    (day,) = archived(copy)
    assert shown(archive_of(copy).open(day)) == recorded.shown
    merged(copy)
    assert shown(archive_of(copy).open(day)) == recorded.shown
    with pytest.raises(TerminalError, match="2020-01-01: not found"):
        archive_of(copy).open("2020-01-01")


SESSION = "20261124T090000Z-9f3c01ab"


@pytest.fixture
def hand_made(store: Store, sealed_batch: Callable[..., BatchName]) -> Callable[..., list[JournalRow]]:
    """Archives a session from the open on: `hand_made(seconds, symbols, …) -> rows`, one trade of each a second."""

    def make(seconds: int, symbols: tuple[str, ...] = ("AAPL", "MSFT"), **record: Any) -> list[JournalRow]:
        rows = [
            JournalRow(
                at := OPEN_NS + (n * 1000 + place) * 10**6, at - 5 * 10**6, symbol, f"{100 + n}.50", f"{n}", "1;12"
            )
            for n in range(seconds)
            for place, symbol in enumerate(symbols, 5)
        ]
        lines = [
            f"1,{seq},{row.ts_recv},{row.ts_event},{row.symbol},{row.price},{row.size},{row.conditions}\n".encode()
            for seq, row in enumerate([*rows, replace(rows[-1], price="-1")], 1)
        ]
        made = SessionRecord(**{
            "session": SESSION, "feed": "finnhub", "symbols": symbols, "started_ns": START_NS,
            "listening_ns": START_NS, "ended_ns": END_NS, "deadline_ns": END_NS, "outcome": "complete", "error": None,
            "connections": 1, "frames_received": len(lines), "batches": (1,), "gaps": (), **record,
        })  # fmt: skip
        archive_sealed(store, sealed_batch(lines, name=BatchName(made.session, 0, 0), date="2026-11-24"))
        (store.sessions / made.session).mkdir()
        write_whole(store.sessions / made.session / "session.json", encode(made))
        return rows

    return make


def test_a_moment_of_a_session_is_what_had_been_traded_by_then(
    hand_made: Callable[..., list[JournalRow]], store: Store
) -> None:
    """The scrubber moves forward and back: totals, bars, pace, prints, and gaps of then; at the end everything."""
    gap = Gap(symbols=("MSFT",), start_ns=OPEN_NS + 10 * NS_PER_S, end_ns=OPEN_NS + 15 * NS_PER_S, reason="reconnect")
    rows = hand_made(40, gaps=(gap,))
    source = archive_of(store).open(SESSION)
    assert source.span_ns == (START_NS, END_NS)
    for seconds in (12, 33, 5, 0):
        until_ns = OPEN_NS + seconds * NS_PER_S
        source.show_until(until_ns)
        before, board = [row for row in rows if row.ts_event < until_ns], source.board()
        expected = expected_totals(before)
        assert {row.symbol: row.last for row in board.rows if row.trades} == {
            symbol: each["last"] for symbol, each in expected.items()
        }
        assert [row.volume for row in board.rows] == [each["volume"] for each in expected.values()] or not seconds
        assert (board.trades, board.now_ns) == (len(before), until_ns)
        assert shown_bars(source.bars("MSFT", 7 * NS_PER_S, 3)) == expected_bars(before, "MSFT", 7 * NS_PER_S)[-3:]
        assert [each.price for each in source.prints("AAPL", 2)] == [
            row.price for row in before[::-1] if row.symbol == "AAPL"
        ][:2]
        assert source.pace(60).trades.tolist() == [0] * (60 - seconds) + [2] * seconds
        in_gap = [row.symbol for row in board.rows if row.in_gap]
        assert (in_gap, [each.end_ns for each in board.gaps]) == {
            12: (["MSFT"], [None]), 33: ([], [gap.end_ns]), 5: ([], []), 0: ([], [])
        }[seconds]  # fmt: skip
    source.show_until(END_NS)
    assert (source.board().trades, source.board().rows[0].last) == (80, 139.5)
    assert source.board().quarantine == {"price": 1}


def test_a_calendar_tells_days_apart(
    hand_made: Callable[..., list[JournalRow]], store: Store, sealed_batch: Callable[..., BatchName]
) -> None:
    """Complete, with gaps, short of market hours, missing, and closed: each only for the reason that it says.

    Asked again, it knows what has changed: a record, and a batch that was archived.
    """
    hand_made(5)
    day_ns = 86_400 * NS_PER_S
    gap = Gap(symbols=("MSFT",), start_ns=OPEN_NS + 7 * day_ns, end_ns=OPEN_NS + 7 * day_ns + 1, reason="reconnect")
    early = replace(gap, start_ns=START_NS + 6 * day_ns, end_ns=OPEN_NS + 6 * day_ns)
    for days, ended_ns, gaps in ((6, END_NS, (early,)), (7, END_NS, (gap,)), (8, CLOSE_NS - MINUTE_NS, ())):
        date = time.strftime("%Y%m%d", time.gmtime((START_NS + days * day_ns) // NS_PER_S))
        record = SessionRecord(
            session=f"{date}T090000Z-9f3c01ab", feed="finnhub", symbols=("MSFT",), started_ns=START_NS + days * day_ns,
            listening_ns=START_NS + days * day_ns, ended_ns=ended_ns + days * day_ns,
            deadline_ns=END_NS + days * day_ns, outcome="complete", error=None, connections=1, frames_received=0,
            batches=(0,), gaps=gaps,
        )  # fmt: skip
        (store.sessions / record.session).mkdir()
        write_whole(store.sessions / record.session / "session.json", encode(record))
    archive = Archive(store, "XNYS", lambda: END_NS + 8 * day_ns)
    days, sessions = archive.calendar()
    assert {day.date: day.state for day in days} == {
        "2026-11-24": "complete", "2026-11-25": "missing", "2026-11-26": "closed", "2026-11-27": "missing",
        "2026-11-28": "closed", "2026-11-29": "closed", "2026-11-30": "complete", "2026-12-01": "gaps",
        "2026-12-02": "short",
    }  # fmt: skip
    assert (days[0].trades, days[0].sessions, days[0].share) == (10, (SESSION,), 1)
    assert 0.99 < (days[-1].share or 0) < 1
    assert sessions[0].days == ("2026-11-24",)
    assert (sessions[0].session, sessions[0].trades, sessions[0].balances) == (SESSION, 10, True)
    assert archive.calendar() == (days, sessions)
    mended = store.sessions / sessions[2].session / "session.json"
    write_whole(mended, encode(replace(read(mended, SessionRecord), gaps=())))
    archive_sealed(
        store, sealed_batch([b"1,1,7,7,MSFT,1,1,\n"], name=BatchName(sessions[2].session, 0, 0), date="2026-12-01")
    )
    days, sessions = archive.calendar()
    assert [(day.date, day.state, day.trades) for day in days][-2:] == [
        ("2026-12-01", "complete", 1), ("2026-12-02", "short", 0)
    ]  # fmt: skip
    assert (sessions[2].gaps, sessions[2].archived) == (0, 1)


def test_a_day_without_a_record_is_unknown(hand_made: Callable[..., list[JournalRow]], store: Store) -> None:
    """Its trades are here, but nothing says what could have been received."""
    hand_made(5)
    shutil.rmtree(store.sessions / SESSION)
    days, sessions = Archive(store, "XNYS", lambda: END_NS).calendar()
    assert [(day.date, day.state, day.share, day.trades) for day in days] == [("2026-11-24", "unknown", None, 10)]
    assert [(each.session, each.days, each.balances) for each in sessions] == [(SESSION, ("2026-11-24",), None)]
    source = archive_of(store).open(SESSION)
    assert (source.board().trades, source.feed) == (10, "finnhub")
    assert source.span_ns == (OPEN_NS, OPEN_NS + 4_006 * 10**6)


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_a_symbols_day_is_downloaded(
    hand_made: Callable[..., list[JournalRow]], store: Store, tmp_path: Path, form: str
) -> None:
    """All its trades in order and no other symbol's; never over a file that exists."""
    rows = [row for row in hand_made(9) if row.symbol == "MSFT"]
    out = tmp_path / f"MSFT.{form}"
    assert archive_of(store).download("MSFT", "2026-11-24", out) == 9
    if form == "csv":
        found = [(each["symbol"], float(each["price"]), each["size_text"]) for each in csv.DictReader(out.open())]
    else:
        found = pl.read_parquet(out).select("symbol", "price", "size_text").rows()
    assert found == [("MSFT", float(row.price), row.size) for row in rows]
    with pytest.raises(ConflictError):
        archive_of(store).download("MSFT", "2026-11-24", out)
    with pytest.raises(TerminalError, match="did you mean MSFT"):
        archive_of(store).download("MSTF", "2026-11-24", tmp_path / f"other.{form}")
    assert [path.name for path in tmp_path.glob("*.*")] == [out.name]


def test_a_report_has_the_laws_and_the_reasons(hand_made: Callable[..., list[JournalRow]], store: Store) -> None:
    """As `tape show` says: every law, and how many rows are in quarantine for which reason."""
    hand_made(5)
    report, ledger = archive_of(store).report(SESSION)
    assert (report["trades"], report["reasons"], report["quarantined"]) == (10, {"price": 1}, 1)
    assert ledger is not None
    assert ledger.imbalances() == []
    day, none = archive_of(store).report("2026-11-24")
    assert (day["completeness"].is_complete, none) == (True, None)
