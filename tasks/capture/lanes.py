"""Lanes: from the connection's thread into journals, in order, without the disk holding up the socket.

A lane is a bounded queue, a writer thread, and one journal after another; a symbol always uses the same lane. A full
queue blocks the connection's thread: the kernel's buffer fills, and TCP stops the sender. Nothing is dropped.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from tasks.capture.clock import Clock
from tasks.capture.journal import Heading, Journal, Receipt, Room
from tasks.capture.keeper import JournalKeeper
from tasks.capture.request import CaptureRequest
from tasks.feeds.registry import feed_named
from tasks.records.names import BatchName
from tasks.storage.store import Store
from tasks.zones import date_in, day_span

# A block torn by a full disk is lost as a whole, and blocks larger than this are not any cheaper.
_BLOCK_BYTES = 256 << 10
# How often the age of a journal is checked while nothing arrives.
_LOOK_EVERY_S = 1.0


@dataclass(frozen=True, slots=True)
class Roll:
    """Makes a lane end its journal here; `done` is called once everything before it is sealed."""

    done: Callable[[], object]
    size_bytes: int = 0


Item = Receipt | Roll


class LaneClosed(Exception):
    """The lane accepts no more: its writer has failed or is finishing."""


class ByteQueue:
    """A queue bounded by the size of its items and emptied all at once. An empty queue takes any one item."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._lock = threading.Lock()
        self._filled, self._emptied = threading.Condition(self._lock), threading.Condition(self._lock)
        self._items: list[Item] = []
        self.closed = False
        self.bytes = 0
        self.blocked_s = 0.0

    def put(self, *items: Item) -> None:
        """Add items and wake the taker once; blocks while the queue is full. Raises LaneClosed."""
        with self._lock:
            for item in items:
                if item.size_bytes and self._is_full_for(item):
                    self._await_room(item)
                if self.closed:
                    raise LaneClosed
                self._items.append(item)
                self.bytes += item.size_bytes
            self._filled.notify()

    def _await_room(self, item: Item) -> None:
        start = time.monotonic()
        self._filled.notify()  # It may not know of the earlier items yet.
        while self._is_full_for(item):
            self._emptied.wait()
        self.blocked_s += time.monotonic() - start

    def _is_full_for(self, item: Item) -> bool:
        return bool(self.bytes) and self.bytes + item.size_bytes > self._limit_bytes and not self.closed

    def take_all(self, timeout_s: float) -> list[Item]:
        """Return all items, waiting up to `timeout_s` for a first one. Call `taken` once they are written."""
        with self._lock:
            if not self._items and not self.closed:
                self._filled.wait(timeout_s)
            items, self._items = self._items, []
            return items

    def taken(self, size_bytes: int) -> None:
        """Make room for more: this much of what was taken is written."""
        with self._lock:
            self.bytes -= size_bytes
            self._emptied.notify_all()

    def close(self) -> None:
        """Refuse further items; those in the queue can still be taken."""
        with self._lock:
            self.closed = True
            self._filled.notify()
            self._emptied.notify_all()


class Lane(threading.Thread):
    """One queue, one writer, one journal after another. A failure ends it and is passed to `on_failure`."""

    def __init__(
        self,
        number: int,
        request: CaptureRequest,
        zone: str,
        keeper: JournalKeeper,
        clock: Clock,
        on_failure: Callable[[BaseException], None],
        first_batch: int = 0,
        room: Room | None = None,
    ) -> None:
        super().__init__(name=f"lane-{number}", daemon=True)
        self.queue = ByteQueue(max(1, request.queue_bytes // request.lanes))
        self.batches = first_batch
        self.through_ns = 0
        self.rows = 0
        self._number = number
        self._request = request
        self._zone = zone
        self._keeper = keeper
        self._clock = clock
        self._on_failure = on_failure
        self._room = room
        self._before: dict[int, tuple[int, int]] = {}
        self._sealed_counts: Counter[str] = Counter()
        self._journal: Journal | None = None
        self._opened_mono_ns = 0
        self._day_ns = (0, 0)

    def run(self) -> None:
        try:
            while True:
                items = self.queue.take_all(_LOOK_EVERY_S)
                if items:
                    self._write(items)
                elif self.queue.closed:
                    break
                if self._journal is not None and self._is_due(self._journal):
                    self._hand_over()
            self._hand_over()
        except BaseException as error:
            self.queue.close()
            if self._journal is not None:
                self._journal.abandon()
            self._on_failure(error)

    def per_symbol(self) -> Counter[str]:
        """Return the trades written so far by symbol. May be called from any thread."""
        journal = self._journal
        return self._sealed_counts + (Counter(dict(journal.per_symbol)) if journal else Counter())

    def _write(self, items: list[Item]) -> None:
        block: list[Receipt] = []
        size_bytes = 0
        for item in items:
            if isinstance(item, Roll):
                self._append(block)
                self._hand_over()
                self._keeper.call_when_sealed(item.done)
                continue
            # The day's bounds, not its end: the wall clock may be put back past midnight before a reconnect.
            if self._journal is not None and not self._day_ns[0] <= item.ts_recv_ns < self._day_ns[1]:
                self._append(block)
                self._hand_over()
            journal = self._journal or self._open(item.ts_recv_ns)
            size_bytes = size_bytes + len(item.block) if block else len(item.block)
            block.append(item)
            if size_bytes >= min(_BLOCK_BYTES, self._request.batch_bytes - journal.bytes):
                self._append(block)
                if self._is_due(journal):
                    self._hand_over()
        self._append(block)

    def _append(self, block: list[Receipt]) -> None:
        """Write the block, make room for as much in the queue, and begin a new block."""
        if block and self._journal is not None:
            self._journal.append(block)
            self.rows += sum(len(receipt.symbols) for receipt in block)
            self.through_ns = block[-1].through_ns
        self.queue.taken(sum(receipt.size_bytes for receipt in block))
        block.clear()

    def _open(self, now_ns: int) -> Journal:
        request = self._request
        name = BatchName(request.session, self._number, self.batches)
        date = date_in(self._zone, now_ns)
        heading = Heading(
            batch=str(name), feed=request.feed, date=date, symbols=request.symbols,
            lanes=request.lanes, opened_ns=now_ns, before=dict(list(self._before.items())[-2:]),
            extra_columns=feed_named(request.feed).extra_columns,
        )  # fmt: skip
        self._journal = Journal(Store(request.data_dir).spool / request.session, name, heading, self._room)
        self._day_ns = day_span(date, self._zone)
        self._opened_mono_ns = self._clock.monotonic_ns()
        self._keeper.watch(self._journal)
        return self._journal

    def _is_due(self, journal: Journal) -> bool:
        age_ns = self._clock.monotonic_ns() - self._opened_mono_ns
        return journal.bytes >= self._request.batch_bytes or (
            age_ns >= self._request.batch_for_ns and not journal.is_empty
        )

    def _hand_over(self) -> None:
        journal = self._journal
        if journal is not None:
            self._sealed_counts += journal.per_symbol
            self._before |= {each.connection: (each.last_seq, each.last_recv_ns) for each in journal.ranges}
            self._journal = None
            self.batches += not journal.is_empty
            self._keeper.seal(journal)
