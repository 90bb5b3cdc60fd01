"""How do messages get from the socket's thread into journals, in order, without holding up the socket?

A lane is a bounded queue, a writer thread and a journal; a symbol always travels in the same one. With one lane
the writer reads the messages; with several the socket's thread does, to know where each trade belongs. A full
queue blocks whoever puts: the kernel's buffer fills, and TCP holds the sender. Nothing is dropped.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from tasks.capture.clock import Clock
from tasks.capture.frames import Cut
from tasks.capture.journal import Block, Heading, Journal, Room
from tasks.capture.request import CaptureRequest
from tasks.capture.routes import Routes
from tasks.feeds.base import Parser, Reading, Rejected
from tasks.feeds.registry import feed_named
from tasks.records.names import BatchName
from tasks.storage.store import Store
from tasks.zones import date_in, day_span

# A block that a full disk tears is lost as a whole; beyond this size a larger one saves nothing.
_BLOCK_BYTES = 256 << 10
# How often a journal into which nothing comes is asked for its age.
_LOOK_EVERY_S = 1.0


@dataclass(slots=True)
class Received:
    """What one `recv` completed, as the socket's thread hands it on.

    `through_ns` is the time (UTC ns) up to which all that was sent is then here; 0 where that is `ts_recv_ns`.
    """

    connection: int
    ts_recv_ns: int
    cut: Cut
    size_bytes: int
    through_ns: int = 0


@dataclass(slots=True)
class Portion:
    """The part of one receipt that one lane writes."""

    connection: int
    ts_recv_ns: int
    size_bytes: int
    block: bytes = b""
    symbols: list[str] = field(default_factory=list)
    first_seq: int = 0
    last_seq: int = 0
    received: int = 0
    trade: int = 0
    control: int = 0
    rejected: list[Rejected] = field(default_factory=list)
    through_ns: int = 0


@dataclass(frozen=True, slots=True)
class Roll:
    """Asks a lane to end its journal here; `done` is called once all that came before is sealed."""

    done: Callable[[], object]
    size_bytes: int = 0


Item = Received | Portion | Roll


class LaneClosed(Exception):
    """The lane takes no more: its writer has failed, or has been told to finish."""


class ByteQueue:
    """A queue whose bound is the size of what waits in it, emptied at one go. One item always fits."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._lock = threading.Lock()
        self._filled, self._emptied = threading.Condition(self._lock), threading.Condition(self._lock)
        self._items: list[Item] = []
        self._closed = False
        self.bytes = 0
        self.blocked_s = 0.0

    def put(self, *items: Item) -> None:
        """Add items, and wake the taker once for all; waits while the queue is full. Raises LaneClosed."""
        with self._lock:
            for item in items:
                if item.size_bytes and self._is_full_for(item):
                    self._await_room(item)
                if self._closed:
                    raise LaneClosed
                self._items.append(item)
                self.bytes += item.size_bytes
            self._filled.notify()

    def _await_room(self, item: Item) -> None:
        start = time.monotonic()
        self._filled.notify()  # It may not know yet of the items before.
        while self._is_full_for(item):
            self._emptied.wait()
        self.blocked_s += time.monotonic() - start

    def _is_full_for(self, item: Item) -> bool:
        return bool(self.bytes) and self.bytes + item.size_bytes > self._limit_bytes and not self._closed

    def take_all(self, timeout_s: float) -> list[Item]:
        """Everything that waits, waiting up to `timeout_s` for a first item. Then `taken` must be told."""
        with self._lock:
            if not self._items and not self._closed:
                self._filled.wait(timeout_s)
            items, self._items = self._items, []
            return items

    def taken(self, size_bytes: int) -> None:
        """So much of what was taken is written: there is room for more."""
        with self._lock:
            self.bytes -= size_bytes
            self._emptied.notify_all()

    def close(self) -> None:
        """Refuse further items; those that wait can still be taken."""
        with self._lock:
            self._closed = True
            self._filled.notify()
            self._emptied.notify_all()

    @property
    def closed(self) -> bool:
        return self._closed


class Keeper(Protocol):
    """Who syncs and seals journals, off the lanes' threads."""

    def watch(self, journal: Journal) -> None: ...
    def seal(self, journal: Journal) -> None: ...
    def tell(self, done: Callable[[], object]) -> None: ...


class Router:
    """Gives each trade its `recv_seq`, and each receipt's parts their lanes."""

    def __init__(
        self,
        on_control: Callable[[int, int, Reading], None],
        routes: Routes,
        parser: Parser,
        on_numbers: Callable[[Reading, int], None],
    ) -> None:
        self._parser = parser
        self._next_seq: dict[int, int] = {}
        self._on_control = on_control
        self._on_numbers = on_numbers
        self._routes = routes

    def read(self, received: Received) -> tuple[Portion, list[bytes]]:
        """One receipt, read; the lines beside the portion are those of its block."""
        cut, connection = received.cut, received.connection
        portion = Portion(connection, received.ts_recv_ns, received.size_bytes)
        portion.through_ns = received.through_ns
        portion.received = cut.frames
        portion.control = len(cut.controls)
        portion.rejected = [Rejected("frame", "a binary message", payload) for payload in cut.binaries]
        if cut.violation is not None:
            portion.rejected += [Rejected("frame", cut.violation.reason, part) for part in cut.refused]
        if not cut.texts:
            return portion, []
        first_seq = self._next_seq.get(connection, 1)
        reading = self._parser.read(cut.texts, connection, first_seq, received.ts_recv_ns)
        self._next_seq[connection] = first_seq + len(reading.lines)
        portion.first_seq, portion.last_seq = first_seq, first_seq + len(reading.lines) - 1
        portion.block, portion.symbols = reading.block, reading.symbols
        portion.trade = reading.trade_frames
        portion.control += reading.control_frames
        portion.rejected += reading.rejected
        if reading.errors or reading.subscribed:
            self._on_control(connection, received.ts_recv_ns, reading)
        if reading.trade_ids or reading.last_ids:
            self._on_numbers(reading, received.ts_recv_ns)
        return portion, reading.lines

    def split(self, received: Received) -> list[tuple[int, Portion]]:
        """One receipt as the portions of its lanes. Frames, which have no symbol, count in the first of them."""
        whole, lines = self.read(received)
        by_lane: dict[int, list[int]] = {}
        for index, symbol in enumerate(whole.symbols):
            by_lane.setdefault(self._routes.lane(symbol), []).append(index)
        portions: list[tuple[int, Portion]] = []
        for lane, indices in by_lane.items() or ((0, []),):
            block = b"".join([lines[index] for index in indices])
            part = Portion(whole.connection, whole.ts_recv_ns, len(block) + 256, block)
            part.through_ns = whole.through_ns
            if indices:
                part.symbols = [whole.symbols[index] for index in indices]
                part.first_seq = whole.first_seq + indices[0]
                part.last_seq = whole.first_seq + indices[-1]
            portions.append((lane, part))
        head = portions[0][1]
        head.received, head.trade, head.control = whole.received, whole.trade, whole.control
        head.rejected = whole.rejected
        return portions


class Lane(threading.Thread):
    """One queue, one writer, one journal after another. A failure to write ends it, and `on_failure` is told."""

    def __init__(
        self,
        number: int,
        request: CaptureRequest,
        zone: str,
        router: Router,
        keeper: Keeper,
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
        self._router = router
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
        """Trades written so far, by symbol. May be called from any thread."""
        journal = self._journal
        return self._sealed_counts + (Counter(dict(journal.per_symbol)) if journal else Counter())

    def _write(self, items: list[Item]) -> None:
        block, waiting, size = Block(), 0, 0
        for item in items:
            if isinstance(item, Roll):
                self._append(block, waiting)
                self._hand_over()
                self._keeper.tell(item.done)
                block, waiting, size = Block(), 0, 0
                continue
            portion = item if isinstance(item, Portion) else self._router.read(item)[0]
            # Not the day: past midnight, or after a reconnect with a wall clock that was put back over it.
            if self._journal is not None and not self._day_ns[0] <= portion.ts_recv_ns < self._day_ns[1]:
                self._append(block, waiting)
                self._hand_over()
                block, waiting, size = Block(), 0, 0
            journal = self._journal or self._open(portion.ts_recv_ns)
            _add(portion, block, journal)
            if portion.symbols:
                self._before[portion.connection] = (portion.last_seq, portion.ts_recv_ns)
            waiting += item.size_bytes
            size += len(portion.block)
            if size >= min(_BLOCK_BYTES, self._request.batch_bytes - journal.bytes):
                self._append(block, waiting)
                block, waiting, size = Block(), 0, 0
                if self._is_due(journal):
                    self._hand_over()
        self._append(block, waiting)

    def _append(self, block: Block, waiting_bytes: int) -> None:
        if self._journal is not None and block.through_ns:
            self._journal.append(block)
            self.rows += block.rows
            self.through_ns = block.through_ns
        self.queue.taken(waiting_bytes)

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
            self._journal = None
            self.batches += not journal.is_empty
            self._keeper.seal(journal)


def _add(portion: Portion, block: Block, journal: Journal) -> None:
    """Note a portion in the journal and put it into the block that will be written."""
    if portion.symbols:
        journal.take(
            portion.connection, portion.first_seq, portion.ts_recv_ns, portion.symbols, portion.last_seq
        )  # fmt: skip
        block.lines.append(portion.block)
        block.rows += len(portion.symbols)
    block.received += portion.received
    block.trade += portion.trade
    block.control += portion.control
    for rejected in portion.rejected:
        block.rejected.append((portion.connection, portion.ts_recv_ns, rejected))
    block.through_ns = portion.through_ns or portion.ts_recv_ns
