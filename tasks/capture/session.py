"""Session: everything from a session's request to its record.

`Session.run` is the recorder's main thread. It starts the lanes, the keeper, and the listener, writes the status,
watches the deadline, the disk, and failures of the other threads, and ends everything in order. A failed write ends the
session with an error; what was written is sealed, here or by the next start.
"""

import contextlib
import logging
import os
import shutil
import threading
from collections import Counter
from collections.abc import Sequence
from functools import partial
from itertools import groupby
from operator import itemgetter
from pathlib import Path

from tasks.capture.clock import Clock
from tasks.capture.demand import Demand
from tasks.capture.gaps import GapBook, MissingNumbers
from tasks.capture.journal import Room
from tasks.capture.keeper import JournalKeeper
from tasks.capture.lanes import Lane, LaneClosed, Roll
from tasks.capture.listener import Backoff, Listener
from tasks.capture.recovery import ROOM_FILE, past_of, recover_spool, resume
from tasks.capture.request import CaptureRequest, WatchList
from tasks.capture.routes import Received, Router, Routes
from tasks.capture.silence import SilenceWatch
from tasks.errors import RecorderError, TerminalError
from tasks.feeds.base import Reading
from tasks.feeds.registry import feed_named
from tasks.records.ledger import SessionRecord
from tasks.records.manifest import encode
from tasks.records.sessions import GAPS_FILE, RECORD_FILE, WATCHLIST_FILE
from tasks.records.status import State, Status, boot_id, read_status, write_status
from tasks.records.trade import NS_PER_S
from tasks.shown import plain
from tasks.storage.store import Store, sync, write_whole

log = logging.getLogger(__name__)

_STATUS_EVERY_S = 0.5
_VENDOR_TEXT_CHARS, _MOST_VENDOR_TEXTS = 200, 50
# Enough for a torn write, which is kept in quarantine, and for seals, gaps, and record of thousands of symbols.
_ROOM_BYTES = 8 << 20


class Session:
    """One session in this process. `run` blocks until it has ended; `stop` may be called from a signal handler."""

    def __init__(self, request: CaptureRequest, key: str, clock: Clock | None = None, backoff: Backoff | None = None):
        self._request = request
        self._store = Store(request.data_dir).prepare()
        self._clock = clock or Clock()
        self._demand = Demand(request, self._clock)
        self._asleep_ns, self._awake_until_ns = self._clock.asleep_ns(), self._clock.wall_ns()
        self._ended: set[str] = set()
        self._settling: set[str] = set()
        self._lanes_settled: Counter[str] = Counter()
        self._vendor_errors: Counter[str] = Counter()
        self._boot = boot_id()
        self._wake = threading.Event()
        self._stopped = False
        self._counted: Counter[str] = Counter()
        self._counted_ns = 0
        self._failure: BaseException | None = None
        (self._store.spool / request.session).mkdir(exist_ok=True)
        sync(self._store.spool)
        _keep_room(request.folder / ROOM_FILE)
        earlier = read_status(request.folder)
        self._vendor_errors.update(earlier.vendor_errors if earlier else {})
        self._past = resume(self._store, request, self._clock.wall_ns())
        self._gaps = GapBook(request.folder / GAPS_FILE)
        self._watch = WatchList(request.folder / WATCHLIST_FILE, request.symbols)
        self._keeper = JournalKeeper(
            self._store, lambda: self._watch.ever, self._gaps, self._clock, self._fail, self._through_ns
        )
        feed = feed_named(request.feed)
        routes = Routes(request.feed, request.symbols, request.lanes, request.zone)
        self._router = Router(
            self._on_control, routes, feed.parser(lambda: self._watch.ever), MissingNumbers(self._gaps).note
        )
        room = Room(request.quarantine_bytes - _in_quarantine(self._store, request.session))
        self._lanes = [
            Lane(number, request, zone, self._keeper, self._clock, self._fail, self._past.batches[number], room)
            for number, zone in enumerate(routes.zones)
        ]
        self._listener = Listener(
            request, key, self._put, self._gaps, self._clock, self._fail, self._past.connections, backoff, self._watch
        )
        self._silence = SilenceWatch(self._listener, self._clock, request, feed)
        self._listener.listening_ns = earlier.listening_ns if earlier else None

    def stop(self) -> None:
        """End the session before its deadline, in order."""
        self._stopped = True
        self._wake.set()

    def run(self) -> SessionRecord:
        """Record until the deadline, `stop`, or a failure; return the record, which is then on disk.

        Raises OSError only if not even the record could be written.
        """
        for thread in (self._keeper, *self._lanes, self._listener):
            thread.start()
        while not self._is_over():
            self._report(None)
            self._notice_suspend()
            self._follow_demand()
            self._silence.look(self._counts())
            self._wake.wait(min(_STATUS_EVERY_S, max(0.0, self._demand.left_s)))
        self._end()
        self._counted_ns = 0
        (self._request.folder / ROOM_FILE).unlink(missing_ok=True)
        record = self._account()
        write_whole(self._request.folder / RECORD_FILE, encode(record))
        (self._store.spool / self._request.session).rmdir()
        self._report("ended")
        log.info("the session has ended: %s", record.outcome)
        return record

    def _is_over(self) -> bool:
        free_bytes = shutil.disk_usage(self._request.data_dir).free
        if self._failure is None and free_bytes < self._request.disk_reserve_bytes:
            self._fail(
                TerminalError(
                    f"{self._request.data_dir}: {free_bytes:,} bytes free, below the reserve of "
                    f"{self._request.disk_reserve_bytes:,}; make room or lower TAPE_DISK_RESERVE"
                )
            )
        try:
            self._demand.look()
        except OSError as error:
            self._fail(error)
        now = self._stopped or self._failure is not None
        if not now and self._demand.active:
            return False
        try:
            return self._demand.end(now=now)
        except OSError as error:
            self._fail(error)
            return True

    def _follow_demand(self) -> None:
        """Record what the active requests want, and seal what was received for requests that have ended."""
        symbols = self._demand.symbols
        if symbols and {*symbols} != {*self._watch.current}:
            self._listener.change(symbols)
        ended = {request.id for request in self._demand.all} - {request.id for request in self._demand.active}
        # Requests already ended at the previous look: what was received for them is in the queues by now.
        if self._ended - self._settling:
            with contextlib.suppress(LaneClosed):
                for lane in self._lanes:
                    lane.queue.put(Roll(partial(self._note_settled, self._ended)))
        self._settling |= self._ended
        self._ended = ended

    def _note_settled(self, ended: set[str]) -> None:
        """Note that one lane has sealed everything for these requests; they are settled once all lanes have."""
        for request in ended:
            self._lanes_settled[request] += 1

    def _notice_suspend(self) -> None:
        """Reconnect after the machine was suspended: it received nothing, and the connection is probably dead."""
        asleep_ns, now_ns = self._clock.asleep_ns(), self._clock.wall_ns()
        slept_ns, self._asleep_ns = asleep_ns - self._asleep_ns, asleep_ns
        if slept_ns > NS_PER_S:
            self._listener.renew(f"the machine was suspended for {slept_ns / NS_PER_S:.0f} s", self._awake_until_ns)
        self._awake_until_ns = now_ns

    def _end(self) -> None:
        """End the listener first, so that nothing more arrives; then the lanes, then the keeper, which seals."""
        self._report("draining")
        self._listener.stop()
        self._join(self._listener)
        for lane in self._lanes:
            lane.queue.close()
        for lane in self._lanes:
            self._join(lane)
        self._keeper.finish()
        self._join(self._keeper)

    def _join(self, thread: threading.Thread) -> None:
        while thread.is_alive():
            thread.join(_STATUS_EVERY_S)
            self._report("draining")

    def _put(self, received: Sequence[Received]) -> None:
        """Parse, and queue each lane's part in order of receipt; consecutive parts of one lane wake it once."""
        for lane, parts in groupby(self._router.route(received), key=itemgetter(0)):
            self._lanes[lane].queue.put(*(receipt for _, receipt in parts))

    def _on_control(self, ts_recv_ns: int, reading: Reading) -> None:
        """Act on acknowledgments and errors from the vendor."""
        if reading.subscribed:
            self._listener.acknowledge(reading.subscribed, ts_recv_ns)
        self._listener.obey_errors(reading.errors)
        for error in reading.errors:
            self._count_vendor_error(error.text[:_VENDOR_TEXT_CHARS])
            if error.kind == "key refused":
                self._fail(TerminalError(f"the feed refused the API key: {plain(error.text[:_VENDOR_TEXT_CHARS])}"))

    def _count_vendor_error(self, text: str) -> None:
        """Count it; log each text only at its first, tenth, hundredth, … occurrence."""
        counts = self._vendor_errors
        shown = plain(text)
        key = shown if shown in counts or len(counts) < _MOST_VENDOR_TEXTS else "other messages"
        counts[key] += 1
        if str(counts[key]).strip("0") == "1":
            log.warning("the feed says (%s times so far): %s", f"{counts[key]:,}", key)

    def _fail(self, error: BaseException) -> None:
        """Note the session's first failure and end the session. Called from any thread."""
        if self._failure is None and not isinstance(error, LaneClosed):
            self._failure = error
            log.error("%s", _describe(error), exc_info=None if isinstance(error, RecorderError | OSError) else error)
            self._wake.set()

    def _through_ns(self) -> int:
        """Return the time up to which everything received is journaled."""
        checked_ns = self._listener.checked_ns  # Read before the queues: later data may still wait in them.
        behind = [lane.through_ns for lane in self._lanes if lane.queue.bytes]
        return min(behind) if behind else max(checked_ns, *(lane.through_ns for lane in self._lanes))

    def _counts(self) -> Counter[str]:
        """Return trades by symbol, at most a second old: adding up thousands of symbols is not free."""
        now_ns = self._clock.monotonic_ns()
        if now_ns - self._counted_ns >= NS_PER_S:
            self._counted_ns = now_ns
            self._counted = sum((lane.per_symbol() for lane in self._lanes), Counter(self._past.per_symbol))
        return self._counted

    def _report(self, state: State | None) -> None:
        listener, request = self._listener, self._request
        counts = self._counts()
        gaps = self._gaps.all()
        status = Status(
            session=request.session, pid=os.getpid(), state=state or listener.state, started_ns=request.started_ns,
            deadline_ns=self._demand.until_ns, updated_ns=self._clock.wall_ns(), listening_ns=listener.listening_ns,
            through_ns=self._through_ns(), durable_ns=self._keeper.durable_ns, boot=self._boot,
            connection=listener.connection,
            frames=listener.frames + self._past.frames,
            trades=self._past.per_symbol.total() + sum(lane.rows for lane in self._lanes),
            queue_bytes=sum(lane.queue.bytes for lane in self._lanes), queue_limit_bytes=request.queue_bytes,
            blocked_s=sum(lane.queue.blocked_s for lane in self._lanes),
            batches_sealed=self._keeper.sealed + sum(self._past.batches),
            gaps=sum(gap.end_ns is not None for gap in gaps),
            open_gaps=tuple(gap for gap in gaps if gap.end_ns is None),
            refused_symbols=listener.refused, notice=listener.notice,
            error=_describe(self._failure) if self._failure else None,
            per_symbol={symbol: counts[symbol] for symbol in self._watch.ever},
            symbols=self._watch.current,
            vendor_errors=dict(self._vendor_errors),
            settled=tuple(sorted(each for each, lanes in self._lanes_settled.items() if lanes >= len(self._lanes))),
        )  # fmt: skip
        try:
            write_status(request.folder, status)
        except OSError as error:
            error.filename = error.filename or str(request.folder)
            self._fail(error)

    def _account(self) -> SessionRecord:
        """Return the session's record, once every thread has ended."""
        request, listener, requests = self._request, self._listener, self._demand.all
        was_stopped = self._stopped or self._demand.was_withdrawn
        # A wall clock that was put back must not end the session before its last receive time.
        ended_ns = max(self._clock.wall_ns(), request.started_ns, listener.latest_ns)
        if self._failure is not None:
            # What was requested but not recorded lasts until the deadline.
            through_ns, why = max(request.started_ns, self._through_ns()), _describe(self._failure)
            self._gaps.open(self._watch.current, through_ns, why)
            if any(lane.queue.bytes for lane in self._lanes):  # Also lost before any gap that began later.
                self._gaps.add(self._watch.current, through_ns, max(ended_ns, through_ns), why)
            recover_spool(self._store, request.session, ended_ns, self._gaps)
            ended_ns = max(ended_ns, self._demand.until_ns)
        self._gaps.finish(ended_ns)
        past = past_of(self._store, request.session, request.lanes)
        received = listener.frames + self._past.frames
        return SessionRecord(
            session=request.session, feed=request.feed, symbols=self._watch.ever, started_ns=request.started_ns,
            listening_ns=listener.listening_ns, ended_ns=ended_ns,
            deadline_ns=max(each.until_ns for each in requests),
            outcome="failed" if self._failure else "stopped" if was_stopped else "complete",
            error=_describe(self._failure) if self._failure else None, connections=listener.connection,
            frames_received=received, frames_lost=received - past.frames if self._failure else 0,
            batches=past.batches, gaps=self._gaps.all(),
            never_heard=tuple(symbol for symbol in self._watch.ever if not past.per_symbol[symbol]),
            refused=listener.refused, changes=self._watch.changes, silences=self._silence.ended(ended_ns),
            requests=requests, zone=request.zone, vendor_errors=dict(self._vendor_errors),
        )  # fmt: skip


def _in_quarantine(store: Store, session: str) -> int:
    """Return the bytes that earlier recorders of the session put into quarantine."""
    return sum(path.stat().st_size for path in store.quarantine.glob(f"{session}-*.frames.jsonl"))


def _keep_room(path: Path) -> None:
    """Reserve space on the disk; if there is none, the session's first write reports it."""
    if hasattr(os, "posix_fallocate"):
        with contextlib.suppress(OSError), path.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, _ROOM_BYTES)


def _describe(error: BaseException) -> str:
    """Return a failure in one line: our own errors as they are, system errors with their file."""
    if isinstance(error, RecorderError):
        return str(error)
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return (
            f"writing failed: {where}{error.strerror or error}; make room or repair the disk, then run `tape archive`"
        )
    return f"an error of the recorder itself: {type(error).__name__}: {error}"
