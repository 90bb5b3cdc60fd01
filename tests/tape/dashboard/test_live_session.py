"""A running session as the page shows it equals its journals and records, whatever happens to their files."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

import pytest
from conftest import archive_sealed
from faults import Drop, FaultServer, Reset, Send, Stall, Subscribed
from journal_bars import JournalRow, expected_bars, expected_totals, journal_rows, shown_bars
from recording import FIN, RESET, Answered, ask, trades, wait_for

from tape.dashboard.live import LiveSession
from tape.dashboard.model import Board
from tape.dashboard.series import ANY_LAG
from tasks.capture.recovery import close_killed
from tasks.capture.supervise import Recorder, start_or_attach
from tasks.errors import TerminalError
from tasks.records.sessions import record_of
from tasks.records.status import STATUS_FILE, Status
from tasks.records.trade import NS_PER_S
from tasks.replay.generate import SYMBOLS
from tasks.storage.store import Store

KEY = "a-very-secret-key"
LENGTHS_NS = (NS_PER_S, 5 * NS_PER_S, 60 * NS_PER_S)
Archiving = Callable[[], AbstractContextManager[Path]]


@pytest.fixture
def recorder(store: Store) -> Iterator[Callable[..., Recorder]]:
    """Starts a recorder as a process of its own: `recorder(url, symbols, …) -> Recorder`."""
    started: list[Recorder] = []

    def start(url: str, symbols: tuple[str, ...], **changes: Any) -> Recorder:
        started.append(start_or_attach(ask(store.root, url, symbols, **changes), KEY))
        return started[-1]

    yield start
    for each in started:
        with suppress(ProcessLookupError):
            os.kill(status_of(each).pid, signal.SIGCONT)
        each.stop()
        wait_for(lambda each=each: not each.is_alive)


@pytest.fixture
def watch(store: Store) -> Iterator[Callable[..., LiveSession]]:
    """Opens a session as the page does: `watch(session, …) -> LiveSession`."""
    opened: list[LiveSession] = []

    def start(session: str, *options: Any) -> LiveSession:
        opened.append(LiveSession(store, session, *options))
        return opened[-1]

    yield start
    for each in opened:
        each.close()


def status_of(recorder: Recorder) -> Status:
    return wait_for(recorder.status)


def stop(pid: int) -> None:
    """Stop a process, and return once it does nothing anymore."""
    os.kill(pid, signal.SIGSTOP)
    wait_for(lambda: Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "T")


def board_when(live: LiveSession, holds: Callable[[Board], Any]) -> Board:
    """Refresh until that holds of the board."""

    def look() -> Board | None:
        live.refresh()
        return live.board() if live.board().loaded == 1 and holds(live.board()) else None

    return wait_for(look, 60.0)


def assert_equals_journal(live: LiveSession, rows: list[JournalRow]) -> None:
    """Last, change, volume, and trades of all symbols, the newest stamp of each, and their bars, are the journal's."""
    board, expected = live.board(), expected_totals(rows)
    shown = {row.symbol: row for row in board.rows if row.trades}
    assert shown.keys() == expected.keys()
    for symbol, each in expected.items():
        row = shown[symbol]
        assert (row.last, row.change, row.trades) == (each["last"], each["change"], each["trades"])
        assert row.volume == pytest.approx(each["volume"], rel=3e-16, abs=0)
        assert live.prints(symbol, 1)[0].ts_recv_ns == each["newest"]
        for every_ns in LENGTHS_NS:
            wanted = expected_bars(rows, symbol, every_ns)[-40:]
            found = shown_bars(live.bars(symbol, every_ns, 40))
            assert [bar[:5] + bar[6:] for bar in found] == [bar[:5] + bar[6:] for bar in wanted]
            assert [bar[5] for bar in found] == pytest.approx([bar[5] for bar in wanted], rel=3e-16, abs=0)
    assert board.newest_recv_ns == max(row.ts_recv for row in rows)
    assert board.trades == sum(row.trades for row in board.rows) == len(rows)


def is_quiet(recorder: Recorder) -> bool:
    """Whether the recorder, asked twice with two reports in between, has received nothing new."""
    first = status_of(recorder)
    wait_for(lambda: status_of(recorder).updated_ns > first.updated_ns + NS_PER_S)
    last = status_of(recorder)
    return (first.frames, first.trades, last.queue_bytes) == (last.frames, last.trades, 0)


def test_a_stopped_feed_leaves_what_the_journal_has(
    feed_process: Callable[..., tuple[str, int]], recorder: Callable[..., Recorder], watch: Callable[..., LiveSession],
    archiving: Archiving, store: Store,
) -> None:  # fmt: skip
    """Two lanes whose batches roll every few thousand rows and are archived meanwhile, watched from the middle on."""
    url, pid = feed_process(160, 4.0)
    running = recorder(url, SYMBOLS, lanes=2, batch_bytes=100_000)
    session = status_of(running).session
    with archiving() as copies:
        wait_for(lambda: len(store.manifests()) > 2, 60)
        live = watch(session)
        for _ in range(4):  # Between two looks several batches of each lane come and go, and some only begin or end.
            shown = live.board().status.trades
            wait_for(lambda shown=shown: status_of(running).trades > shown + 3_000, 60)
            live.refresh()
        stop(pid)
        try:
            wait_for(lambda: is_quiet(running), 60)
            board_when(live, lambda board: True)
            rows = journal_rows(copies, store.sealed, store.spool / session)
            assert_equals_journal(live, rows)
            assert_equals_journal(watch_from_now(watch, session), rows)
        finally:
            os.kill(pid, signal.SIGCONT)
        assert {"recording", "archived"} <= {batch.stage for batch in live.board().batches}
        board_when(live, lambda board: board.trades > len(rows))


def watch_from_now(watch: Callable[..., LiveSession], session: str) -> LiveSession:
    """A page that came when everything was recorded already."""
    live = watch(session)
    board_when(live, lambda board: board.loaded == 1)
    return live


def test_every_batch_is_shown_at_its_stage_and_counted_once(
    store: Store, fault_server: Callable[..., FaultServer], recorder: Callable[..., Recorder],
    watch: Callable[..., LiveSession],
) -> None:  # fmt: skip
    """Sealed, archived, and recording; with the reasons of what is in quarantine, and the rows of each."""
    more = threading.Event()
    server = fault_server(
        [Subscribed("A"), Send(trades(300)), Answered(), Stall(more), Send(trades(9, 300)), Answered()]
    )
    running = recorder(server.url, ("A",), batch_for_ns=NS_PER_S)
    live = watch(status_of(running).session)
    (name,) = wait_for(store.sealed_batches)
    board = board_when(live, lambda board: [each.stage for each in board.batches] == ["sealed"])
    assert (board.batches[0].rows, board.quarantine) == (300, {})
    archive_sealed(store, name)
    board = board_when(live, lambda board: [each.stage for each in board.batches] == ["archived"])
    assert (board.batches[0].name, board.batches[0].quarantined) == (str(name), 1)
    assert board.quarantine == {"price": 1}  # The first trade's price is 0.
    more.set()
    board = board_when(live, lambda board: len(board.batches) == 2 and board.trades == 309)
    assert sum(batch.rows for batch in board.batches) == 309
    assert board.rows[0].trades == 308
    running.stop()
    board = board_when(live, lambda board: board.health == "ended")
    # On a busy machine, another batch may have begun in the meantime, without rows.
    filled = [(each.stage, each.rows) for each in board.batches if each.rows]
    assert filled == [("archived", 300), ("sealed", 9)]


def test_gaps_are_the_disconnects_and_the_open_one(
    store: Store, fault_server: Callable[..., FaultServer], recorder: Callable[..., Recorder],
    watch: Callable[..., LiveSession],
) -> None:  # fmt: skip
    """Each lost connection is a gap of its symbols; one that lasts has no end, and its symbols are in it."""
    script = [Subscribed("A", "B"), Send(trades(20, symbols=("A", "B"))), Answered()]
    server = fault_server([*script, Reset()], [*script, Drop()], script, script)
    running = recorder(server.url, ("A", "B"), reconnect_within_s=0.5)
    live = watch(status_of(running).session)
    board = board_when(live, lambda board: board.trades == 60 and board.status.connection == 3)
    assert [(gap.symbols, gap.end_ns is None) for gap in board.gaps] == [(("A", "B"), False)] * 2
    assert [gap.reason for gap in board.gaps] == [RESET, FIN]
    assert not any(row.in_gap for row in board.rows)
    server.refuse()
    server.connection(2).reset()
    board = board_when(live, lambda board: len(board.gaps) == 3 and board.status.state == "reconnecting")
    assert (board.gaps[2].end_ns, board.gaps[2].symbols) == (None, ("A", "B"))
    assert all(row.in_gap for row in board.rows)
    assert board.health == "up"
    server.listen()
    board = board_when(live, lambda board: all(gap.end_ns for gap in board.gaps))
    assert (board.health, any(row.in_gap for row in board.rows)) == ("up", False)
    assert [gap.start_ns for gap in board.gaps] == sorted(gap.start_ns for gap in board.gaps)
    running.stop()
    board = board_when(live, lambda board: board.health == "ended")
    record = record_of(store.sessions / board.session)
    assert record is not None
    assert [(gap.start_ns, gap.end_ns) for gap in board.gaps] == [(gap.start_ns, gap.end_ns) for gap in record.gaps]


@pytest.fixture
def quiet_feed(fault_server: Callable[..., FaultServer]) -> str:
    """The URL of a feed that sends nine trades of A."""
    return fault_server([Subscribed("A"), Send(trades(9)), Answered()]).url


def test_a_stalled_recorder_is_stale_within_five_seconds(
    quiet_feed: str, recorder: Callable[..., Recorder], watch: Callable[..., LiveSession]
) -> None:
    """By the page's clock: not for a moment's delay, at the latest five seconds after the stop; then up again."""
    running, ahead_ns = recorder(quiet_feed, ("A",)), [0]
    live = watch(status_of(running).session, lambda: time.time_ns() + ahead_ns[0])
    board_when(live, lambda board: board.health == "up" and board.trades == 9)
    stop(status_of(running).pid)
    stopped_ns, updated_ns = time.time_ns(), status_of(running).updated_ns
    for now_ns, health in ((updated_ns + 3 * NS_PER_S, "up"), (stopped_ns + 5 * NS_PER_S, "stale")):
        ahead_ns[0] = now_ns - time.time_ns()
        live.refresh()
        assert live.board().health == health
    assert live.board().trades == 9
    os.kill(status_of(running).pid, signal.SIGCONT)
    ahead_ns[0] = 0
    board_when(live, lambda board: board.health == "up" and board.status.updated_ns > updated_ns)


def test_a_missing_or_torn_status_is_survived(
    quiet_feed: str, recorder: Callable[..., Recorder], watch: Callable[..., LiveSession]
) -> None:
    """What was known stays; a torn one is reported; a missing one becomes stale."""
    running, ahead_ns = recorder(quiet_feed, ("A",)), [0]
    folder = running.request.folder
    live = watch(folder.name, lambda: time.time_ns() + ahead_ns[0])
    known = board_when(live, lambda board: board.trades == 9)
    stop(status_of(running).pid)
    (folder / STATUS_FILE).write_bytes(b'{"session": ')
    live.refresh()
    assert (live.board().status, STATUS_FILE in str(live.board().problem)) == (known.status, True)
    (folder / STATUS_FILE).unlink()
    ahead_ns[0] = 5 * NS_PER_S
    live.refresh()
    assert (live.board().status, live.board().problem, live.board().health) == (known.status, None, "stale")
    late = watch(folder.name, lambda: known.start_ns + NS_PER_S)
    assert (late.board().status, late.board().health) == (None, "up")
    os.kill(known.status.pid, signal.SIGCONT)
    ahead_ns[0] = 0
    board_when(live, lambda board: board.health == "up")
    assert board_when(late, lambda board: board.status is not None).trades == 9


def test_a_killed_recorder_is_down_and_what_its_recovery_cuts_is_not_counted(
    quiet_feed: str, recorder: Callable[..., Recorder], watch: Callable[..., LiveSession], store: Store
) -> None:
    """A line that the recorder wrote, but did not vouch for, goes to quarantine: it was shown, and is not anymore."""
    running = recorder(quiet_feed, ("A",))
    session = status_of(running).session
    live = watch(session)
    board_when(live, lambda board: board.trades == 9)
    os.kill(status_of(running).pid, signal.SIGKILL)
    (journal,) = (store.spool / session).glob("*.csv.open")
    with journal.open("ab") as file:
        file.write(b"1,10,9,9,A,77,7,\n1,11,10,10,A,7")
    board = board_when(live, lambda board: board.health == "down")
    assert board.rows[0].trades == 9  # Of ten, the first has no valid price.
    close_killed(store, session, time.time_ns())
    board = board_when(live, lambda board: board.health == "ended")
    rows = [row for row in journal_rows(store.sealed) if float(row.price) > 0]
    assert (board.rows[0].trades, board.rows[0].volume) == (8, expected_totals(rows)["A"]["volume"])
    assert [each.end_ns for each in board.gaps] == [record_of(store.sessions / session).gaps[-1].end_ns]


def test_watching_writes_nothing(
    quiet_feed: str, recorder: Callable[..., Recorder], watch: Callable[..., LiveSession], store: Store
) -> None:
    """Neither a file nor a cache nor a lock: the data folder is as it was, to the time of each folder."""
    running = recorder(quiet_feed, ("A",))
    wait_for(lambda: status_of(running).trades == 9)
    running.stop()
    wait_for(lambda: not running.is_alive)
    archive_sealed(store, store.sealed_batches()[0])
    before = {path: path.stat().st_mtime_ns for path in store.root.rglob("*")}
    live = watch(running.request.session)
    board = board_when(live, lambda board: board.loaded == 1)
    assert (board.rows[0].trades, board.batches[0].stage) == (8, "archived")
    assert {path: path.stat().st_mtime_ns for path in store.root.rglob("*")} == before


def test_a_page_that_was_asleep_reads_what_it_missed_in_its_thread(
    store: Store, fault_server: Callable[..., FaultServer], recorder: Callable[..., Recorder],
    watch: Callable[..., LiveSession],
) -> None:  # fmt: skip
    """Batches that came and went meanwhile, more than a page may read in one look: it stays responsive, and whole."""
    more = threading.Event()
    later = [step for n in range(9, 3_009, 300) for step in (Send(trades(300, n)), Answered())]
    server = fault_server([Subscribed("A"), Send(trades(9)), Answered(), Stall(more), *later])
    running = recorder(server.url, ("A",), batch_bytes=20_000)
    live = watch(status_of(running).session, time.time_ns, ANY_LAG, 1_000)
    board_when(live, lambda board: board.trades == 9)
    more.set()
    wait_for(lambda: status_of(running).trades == 3_009)
    live.refresh()
    assert live.board().loaded < 1
    board_when(live, lambda board: board.rows[0].trades == 3_008)
    rows = [row for row in journal_rows(store.sealed, store.spool / live.board().session) if float(row.price) > 0]
    assert shown_bars(live.bars("A", NS_PER_S, 99)) == expected_bars(rows, "A", NS_PER_S)


def test_an_unknown_session_is_an_error(store: Store) -> None:
    """One line says what to do."""
    with pytest.raises(TerminalError, match="no such session"):
        LiveSession(store, "20261124T143000Z-9f3c01ab")
