"""Gaps: the intervals of a session in which symbols could not be received, and trade numbers that never came.

Every missing number lies in a gap: in a known one, such as that of a lost connection, or in a new one from the trade
before the missing number to the trade after it.
"""

import logging
import os
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

from tasks.feeds.base import Reading
from tasks.records.gaps import Change, line_of, overlaps, read_gaps
from tasks.records.ledger import Gap
from tasks.records.manifest import MissingIds
from tasks.storage.store import sync

log = logging.getLogger(__name__)

# A feed with endless holes in its numbers must not fill the disk with gaps: beyond this many, one gap stays open.
_MOST_HOLES = 1_000
_TOO_MANY = "trade numbers are missing again and again"


class GapBook:
    """The gaps of one session, including open ones. Safe to use from any thread.

    Each change is on disk before the call returns, so that a killed recorder's gaps are known.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._gaps, self._size = read_gaps(path)

    def open(self, symbols: Iterable[str], start_ns: int, reason: str) -> None:
        """Open a gap for these symbols at `start_ns`; those in an open gap stay in theirs.

        Gaps of one symbol do not overlap: time that an earlier gap has stays in that one.
        """
        self._note(Change(tuple(symbols), start_ns, reason))

    def add(self, symbols: Iterable[str], start_ns: int, end_ns: int, reason: str) -> None:
        """Add a gap between two past times; an open gap stays open."""
        self._note(Change(tuple(symbols), start_ns, reason, end_ns))

    def close(self, symbols: Iterable[str], end_ns: int) -> None:
        """End the open gaps of these symbols at `end_ns`."""
        self._note(Change(tuple(symbols), end_ns))

    def finish(self, end_ns: int) -> None:
        """End all open gaps: the session is over."""
        self.close({symbol for gap in self.all() if gap.end_ns is None for symbol in gap.symbols}, end_ns)

    def all(self) -> tuple[Gap, ...]:
        """Return all gaps in order of opening; `end_ns` is None while a gap is open."""
        with self._lock:
            return tuple(self._gaps.all)

    def touching(self, start_ns: int, end_ns: int) -> tuple[Gap, ...]:
        """Return the gaps that overlap that interval."""
        return tuple(
            gap for gap in self.all() if gap.start_ns <= end_ns and (gap.end_ns is None or gap.end_ns >= start_ns)
        )

    def _note(self, change: Change) -> None:
        with self._lock:
            if self._gaps.apply(change):
                self._append(line_of(change))

    def _append(self, line: bytes) -> None:
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        try:
            os.ftruncate(descriptor, self._size)  # Cuts a line torn by a kill or a full disk.
            written = 0
            while written < len(line):
                written += os.pwrite(descriptor, line[written:], self._size + written)
            os.fsync(descriptor)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self._path)) from None
        finally:
            os.close(descriptor)
        if not self._size:  # The file is new: without its name it would be lost.
            sync(self._path.parent)
        self._size += len(line)


class Sequence:
    """Follows the trade numbers of each symbol. Pure.

    A message with the newest number, such as a heartbeat, may overtake a trade. So a number it reports is missing only
    if its trade has not come by the next such message. If it has come, nothing was missing at the time of the report,
    and a later hole begins no earlier.
    """

    def __init__(self) -> None:
        self._last: dict[str, tuple[int, int]] = {}
        self._reported: dict[str, tuple[int, int]] = {}

    def holes(self, reading: Reading, ts_recv_ns: int) -> Iterator[MissingIds]:
        """Yield the holes that these messages, received at `ts_recv_ns` (UTC ns), reveal."""
        for symbol, number in reading.before_ids.items():
            self._last.setdefault(symbol, (number, ts_recv_ns))
        for symbol, number in zip(reading.symbols, reading.trade_ids, strict=True):
            yield from self._reach(symbol, number, number - 1, ts_recv_ns)
        for symbol, number in reading.last_ids.items():
            (newest, newest_ns), self._reported[symbol] = self._reported.get(symbol, (0, 0)), (number, ts_recv_ns)
            self._last.setdefault(symbol, (number, ts_recv_ns))
            yield from self._reach(symbol, newest, newest, ts_recv_ns)
            last, since_ns = self._last[symbol]
            if last == newest:
                self._last[symbol] = (last, max(since_ns, newest_ns))

    def _reach(self, symbol: str, number: int, missing_to: int, now_ns: int) -> Iterator[MissingIds]:
        last, since_ns = self._last.get(symbol, (missing_to, now_ns))
        if missing_to > last:
            yield MissingIds(symbol, last + 1, missing_to, since_ns, now_ns)
        if number > last or symbol not in self._last:
            self._last[symbol] = (number, now_ns)


class MissingNumbers:
    """Opens gaps for missing trade numbers of a session."""

    def __init__(self, gaps: GapBook) -> None:
        self._gaps = gaps
        self._sequence = Sequence()
        self._named = 0

    def note(self, reading: Reading, ts_recv_ns: int) -> None:
        """Open a gap for each hole that lies in none yet. Raises OSError if the gaps cannot be written."""
        for hole in self._sequence.holes(reading, ts_recv_ns):
            if not any(hole.symbol in gap.symbols and overlaps(gap, *hole.span_ns) for gap in self._gaps.all()):
                self._name(hole)

    def _name(self, hole: MissingIds) -> None:
        self._named += 1
        if self._named > _MOST_HOLES:
            self._gaps.open((hole.symbol,), hole.after_ns, _TOO_MANY)
            return
        reason = f"trade numbers {hole.first_id} to {hole.last_id} are missing"
        log.warning("%s: %s", hole.symbol, reason)
        self._gaps.add((hole.symbol,), *hole.span_ns, reason)
