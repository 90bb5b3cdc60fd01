"""A session that is being recorded, as the page shows it: read from its files, once a tick for all tabs.

Nothing is written, and nothing is locked that the recorder or the archiver needs.
"""

import shutil
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial

import polars as pl

from tape.dashboard.batch_rows import batch_rows
from tape.dashboard.journal_tail import JournalChangedError, JournalTail
from tape.dashboard.model import Bars, Board, Health, Pace, Print
from tape.dashboard.series import ANY_LAG, Series, Symbols
from tape.dashboard.shown import gaps_shown, prints_shown, rate_and_lag, symbol_rows
from tape.dashboard.stages import Stages
from tasks.errors import RecorderError, TerminalError
from tasks.feeds.registry import zone_of
from tasks.records.gaps import read_gaps
from tasks.records.ledger import Gap, SessionRecord
from tasks.records.names import BatchName
from tasks.records.sessions import GAPS_FILE, RECORD_FILE, is_recording, record_of
from tasks.records.status import STALE_AFTER_NS, Status, read_status
from tasks.records.trade import NS_PER_S
from tasks.spans import Span
from tasks.storage.store import FileState, Store, state_of

# The newest second is shown once its last trades must be in the journal.
_SETTLED_NS = NS_PER_S // 2

Rows = Callable[[], Iterator[pl.DataFrame]]


class LiveSession:
    """A session of this data folder (a `Source`). `refresh` once a tick; all methods are called by one thread.

    What was recorded before the page came is read in a thread of its own, newest batch first; `Board.loaded` says how
    far it is. `lags_ns` are the lags (ns) that validation will accept: other trades are not shown. Raises TerminalError
    if there is no such session. If more than `most_late_rows` came between two looks, as when the process was asleep,
    they are read like what was recorded before.
    """

    def __init__(
        self,
        store: Store,
        session: str,
        now_ns: Callable[[], int] = time.time_ns,
        lags_ns: Span = ANY_LAG,
        most_late_rows: int = 1_000_000,
    ) -> None:
        self._store, self._now_ns, self._folder = store, now_ns, store.sessions / session
        self._lags_ns, self._most_late_rows = lags_ns, most_late_rows
        self._record = self._read_record()
        self._is_over = False
        self._status: Status | None = None
        self._gaps: tuple[FileState | None, tuple[Gap, ...]] = (None, ())
        self._problem: str | None = None
        self._start_over()
        self.refresh()

    def refresh(self) -> None:
        """Read what is new. Never raises for a file that is missing, torn, or moving: `Board.problem` says so."""
        now_ns = self._shown_ns = self._now_ns()
        self._problem = None
        # The lock before the record, which a recorder writes before it lets go; and both before the rows: once the
        # session is said to have ended, all rows are there.
        is_alive, is_over = is_recording(self._folder), (self._folder / RECORD_FILE).exists()
        self._read_status(is_over)
        try:
            self._read_rows(now_ns)
        except JournalChangedError:
            self.close()
            self._start_over()
        self._board = self._new_board(now_ns, self._health(now_ns, is_alive, is_over))

    def close(self) -> None:
        """Close the files and end the thread."""
        self._past.stop()
        self._tail.close()

    def board(self) -> Board:
        """Return the state at the last refresh."""
        return self._board

    def pace(self, last_s: int) -> Pace:
        """Return trades and lag of the last whole seconds, by time of receipt."""
        return self._series.pace(last_s, self._until_s())

    def bars(self, symbol: str, every_ns: int, limit: int) -> Bars:
        """Return the last bars of a symbol, at most `limit`; empty for an unknown symbol."""
        return self._series.bars(symbol, every_ns, limit)

    def prints(self, symbol: str, limit: int) -> tuple[Print, ...]:
        """Return the latest trades of a symbol, newest first."""
        return prints_shown(self._series.prints(symbol, limit), self._record.feed)

    def _until_s(self) -> int:
        return (self._shown_ns - _SETTLED_NS) // NS_PER_S

    def _start_over(self) -> None:
        session, symbols = self._folder.name, Symbols()
        record = self._record
        self._new_series = partial(
            Series, symbols, lambda symbol: zone_of(record.feed, symbol, record.zone), self._lags_ns
        )
        self._series = self._new_series()
        self._tail, self._stages = JournalTail(self._store.spool / session), Stages(self._store, session)
        # The spool before the other folders: a batch that moves in between is found there, not missed.
        items: dict[BatchName, Rows] = dict(self._tail.found())
        self._stages.look(self._now_ns())
        for name in self._stages.names() - self._tail.seen:
            items[name] = partial(batch_rows, self._store, name)
        self._taken = set(items)
        self._past = _Past([items[name] for name in sorted(items, key=_newest_first)], self._new_series)

    def _read_rows(self, now_ns: int) -> None:
        rows = list(self._tail.read())
        self._stages.look(now_ns)
        late = self._stages.names() - self._tail.seen - self._taken
        self._taken |= late
        # One that was opened and sealed since the last look: small, and earlier than its lane's newer rows.
        if sum(self._stages.rows(name) for name in late) > self._most_late_rows:
            self.close()
            self._start_over()
            return
        for name in late:
            try:
                rows += [(name, frame) for frame in batch_rows(self._store, name)]
            except (RecorderError, OSError) as error:
                self._problem = str(error)
        for _, frame in sorted(rows, key=lambda item: item[0]):
            self._series.add(frame)
        for part in self._past.done():
            self._series.prepend(part)

    def _read_status(self, is_over: bool) -> None:
        try:
            self._status = read_status(self._folder) or self._status
            if is_over and not self._is_over:
                self._record, self._is_over = self._read_record(), True
            state = state_of((self._folder / GAPS_FILE).stat())
            if state != self._gaps[0]:
                self._gaps = (state, tuple(read_gaps(self._folder / GAPS_FILE)[0].all))
        except FileNotFoundError:
            pass  # No gap yet.
        except (RecorderError, OSError) as error:
            self._problem = str(error)

    def _read_record(self) -> SessionRecord:
        record = record_of(self._folder)
        if record is None:
            raise TerminalError(f"{self._folder}: there is no such session; `tape ls` lists those that exist")
        return record

    def _health(self, now_ns: int, is_alive: bool, is_over: bool) -> Health:
        if is_over or not is_alive:
            return "ended" if is_over else "down"
        reported_ns = self._status.updated_ns if self._status else self._record.started_ns
        return "stale" if now_ns - reported_ns > STALE_AFTER_NS else "up"

    def _new_board(self, now_ns: int, health: Health) -> Board:
        record, status, series = self._record, self._status, self._series
        gaps = record.gaps if self._is_over else self._gaps[1]
        in_gap = {symbol for gap in gaps if gap.end_ns is None for symbol in gap.symbols}
        symbols, is_running = record.symbols, health in ("up", "stale")
        if status is not None:
            symbols = status.symbols if is_running else tuple(dict.fromkeys([*symbols, *status.per_symbol]))
        # What a killed recorder said last was before its end.
        is_told = is_running or (health == "ended" and record.outcome != "killed")
        rate, (p50, p95, p99) = rate_and_lag(series, self._until_s())
        return Board(
            session=record.session, feed=record.feed, now_ns=now_ns, start_ns=record.started_ns,
            end_ns=status.deadline_ns if status else record.deadline_ns, health=health, status=status,
            trades=status.trades if status and is_told else series.rows, trades_per_s=rate,
            lag_p50_ms=p50, lag_p95_ms=p95, lag_p99_ms=p99,
            rows=symbol_rows(series, series.totals(), symbols, in_gap, now_ns, series.newest_of_each()),
            gaps=gaps_shown(gaps), batches=self._stages.shown(self._tail.open_rows()),
            quarantine=self._stages.quarantine, disk_free_bytes=shutil.disk_usage(self._store.root).free,
            newest_recv_ns=series.newest_recv_ns, loaded=self._past.share,
            problem=self._problem or self._stages.problem or self._past.problem,
        )  # fmt: skip


def _newest_first(name: BatchName) -> tuple[int, int]:
    return -name.number, name.lane


class _Past:
    """Reads batches in a thread, each into a series of its own, in the given order."""

    def __init__(self, items: list[Rows], new_series: Callable[[], Series]) -> None:
        self.problem: str | None = None
        self._items, self._new_series = items, new_series
        self._ready: deque[Series] = deque()
        self._shown = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="recorded before", daemon=True)
        self._thread.start()

    @property
    def share(self) -> float:
        """The share of the batches that was handed over."""
        return self._shown / len(self._items) if self._items else 1.0

    def done(self) -> Iterable[Series]:
        """Yield the batches that were read since the last call, each earlier than the one before."""
        while self._ready:
            self._shown += 1
            yield self._ready.popleft()

    def stop(self) -> None:
        """End the thread."""
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        for rows in self._items:
            series = self._new_series()
            try:
                for frame in rows():
                    if self._over.is_set():
                        return
                    series.add(frame)
            except (RecorderError, OSError) as error:
                self.problem = str(error)
            series.compact()
            self._ready.append(series)
