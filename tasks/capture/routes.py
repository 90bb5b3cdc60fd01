"""Routing: parses what was received and assigns each trade to its symbol's lane.

Symbols that never close have UTC days, the others days of their exchange. A batch has one date, so the two kinds get
separate lanes.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Literal, NamedTuple
from zlib import crc32

from tasks.capture.frames import Cut
from tasks.capture.journal import Receipt
from tasks.feeds.base import Parser, Reading, Rejected
from tasks.feeds.registry import never_closes
from tasks.zones import UTC

# What one receipt takes in a queue besides its lines and rejected messages, roughly.
_OVERHEAD_BYTES = 256


class Received(NamedTuple):
    """The frames that one read completed, not yet parsed, with their stamp; `through_ns` as in `Receipt`."""

    connection: int
    ts_recv_ns: int
    through_ns: int
    cut: Cut


def lanes_for(feed: str, symbols: Sequence[str], lanes: int | Literal["ticker"]) -> int:
    """Return how many lanes a session gets: the requested number, but none idle and at least one for each kind."""
    kinds = len({never_closes(feed, symbol) for symbol in symbols})
    return len(symbols) if lanes == "ticker" else max(min(lanes, len(symbols)), kinds)


class Routes:
    """Assigns symbols to the lanes of one session, given their number from `lanes_for`; the last have UTC days.

    The symbols of a kind are spread evenly over its lanes. If the session started without symbols of a kind, a symbol
    of that kind shares the other lanes and their dates: that it is recorded matters more than in which folder.
    """

    def __init__(self, feed: str, symbols: Sequence[str], lanes: int, zone: str) -> None:
        self._feed = feed
        never = [each for each in symbols if never_closes(feed, each)]
        closing = [each for each in symbols if not never_closes(feed, each)]
        count = round(lanes * len(never) / max(1, len(symbols)))
        # If both kinds share one lane, as old requests may have it, days are those of the exchange.
        count = min(max(count, bool(never)), lanes - bool(closing))
        first_utc = lanes - count
        self._of_kind = {
            False: range(first_utc) or range(lanes),
            True: range(first_utc, lanes) if count else range(lanes),
        }
        self._lane_of = {
            symbol: self._of_kind[kind][index % len(self._of_kind[kind])]
            for kind, some in ((False, closing), (True, never))
            for index, symbol in enumerate(some)
        }
        self.zones = tuple(UTC if lane >= first_utc else zone for lane in range(lanes))

    def lane(self, symbol: str) -> int:
        """Return the number of the symbol's lane, from 0."""
        known = self._lane_of.get(symbol)
        if known is not None:
            return known
        # Not cached if it was not requested: a feed that invents symbols must not fill the memory.
        lanes = self._of_kind[never_closes(self._feed, symbol)]
        return lanes[crc32(symbol.encode()) % len(lanes)]


class Router:
    """Parses what was received, numbers the trades of each connection, and splits them by lane."""

    def __init__(
        self,
        on_control: Callable[[int, Reading], None],
        routes: Routes,
        parser: Parser,
        on_numbers: Callable[[Reading, int], None],
    ) -> None:
        self._on_control = on_control
        self._routes = routes
        self._parser = parser
        self._on_numbers = on_numbers
        self._next_seq: dict[int, int] = {}

    def route(self, received: Sequence[Received]) -> Iterator[tuple[int, Receipt]]:
        """Yield receipts with the numbers of their lanes, in the order of receipt."""
        for each in received:
            yield from self._split(*self._read(each))

    def _read(self, received: Received) -> tuple[Receipt, list[bytes]]:
        """Parse; return the receipt and the lines of its block."""
        connection, ts_recv_ns, through_ns, cut = received
        receipt = Receipt(
            connection=connection, ts_recv_ns=ts_recv_ns, through_ns=through_ns,
            received=cut.frames, control=len(cut.controls),
        )  # fmt: skip
        rejected = [Rejected("frame", "a binary message", payload) for payload in cut.binaries]
        if cut.violation is not None:
            rejected += [Rejected("frame", cut.violation.reason, part) for part in cut.refused]
        lines: list[bytes] = []
        if cut.texts:
            first_seq = self._next_seq.get(connection, 1)
            reading = self._parser.read(cut.texts, connection, first_seq, ts_recv_ns)
            lines, receipt.block, receipt.symbols = reading.lines, reading.block, reading.symbols
            self._next_seq[connection] = first_seq + len(lines)
            receipt.first_seq, receipt.last_seq = first_seq, first_seq + len(lines) - 1
            receipt.trade = reading.trade_frames
            receipt.control += reading.control_frames
            rejected += reading.rejected
            if reading.errors or reading.subscribed:
                self._on_control(ts_recv_ns, reading)
            if reading.trade_ids or reading.last_ids:
                self._on_numbers(reading, ts_recv_ns)
        receipt.rejected = rejected
        receipt.size_bytes = len(receipt.block) + sum(len(each.payload) for each in rejected) + _OVERHEAD_BYTES
        return receipt, lines

    def _split(self, whole: Receipt, lines: list[bytes]) -> Iterator[tuple[int, Receipt]]:
        """Yield the part of each lane. The first one has the frames, which have no symbol."""
        if len(self._routes.zones) == 1 or not whole.symbols:
            yield 0, whole
            return
        by_lane: dict[int, list[int]] = {}
        for index, symbol in enumerate(whole.symbols):
            by_lane.setdefault(self._routes.lane(symbol), []).append(index)
        part = whole
        for lane, indexes in by_lane.items():
            block = b"".join([lines[index] for index in indexes])
            yield lane, replace(
                part, block=block, symbols=[whole.symbols[index] for index in indexes],
                first_seq=whole.first_seq + indexes[0], last_seq=whole.first_seq + indexes[-1],
                size_bytes=part.size_bytes - len(part.block) + len(block),
            )  # fmt: skip
            part = Receipt(
                connection=whole.connection, ts_recv_ns=whole.ts_recv_ns, through_ns=whole.through_ns,
                size_bytes=_OVERHEAD_BYTES,
            )  # fmt: skip
