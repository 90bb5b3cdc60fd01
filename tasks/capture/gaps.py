"""Who notes, for all threads of a recorder, in which stretches of time a symbol could not be heard?"""

import os
import threading
from collections.abc import Iterable
from pathlib import Path

from tasks.records.gaps import Change, line_of, read_gaps
from tasks.records.ledger import Gap
from tasks.storage.store import sync


class GapBook:
    """The gaps of one session, those that last included. Safe to use from any thread.

    Each change is on disk before the call returns, so that a killed recorder's gaps are known.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._gaps, self._size = read_gaps(path)

    def open(self, symbols: Iterable[str], start_ns: int, reason: str) -> None:
        """These symbols cannot be heard from `start_ns` on; those already in a gap stay in theirs.

        Gaps of one symbol do not overlap: what earlier ones have of that time stays theirs.
        """
        self._note(Change(tuple(symbols), start_ns, reason))

    def add(self, symbols: Iterable[str], start_ns: int, end_ns: int, reason: str) -> None:
        """These symbols could not be heard between two times, as is found out later; a gap that lasts goes on."""
        self._note(Change(tuple(symbols), start_ns, reason, end_ns))

    def close(self, symbols: Iterable[str], end_ns: int) -> None:
        """These symbols can be heard again from `end_ns` on."""
        self._note(Change(tuple(symbols), end_ns))

    def finish(self, end_ns: int) -> None:
        """The session is over: gaps that last end here."""
        self.close({symbol for gap in self.all() if gap.end_ns is None for symbol in gap.symbols}, end_ns)

    def all(self) -> tuple[Gap, ...]:
        """Every gap, in order of opening; `end_ns` is None while it lasts."""
        with self._lock:
            return tuple(self._gaps.all)

    def touching(self, start_ns: int, end_ns: int) -> tuple[Gap, ...]:
        """The gaps that overlap that stretch of time."""
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
            os.ftruncate(descriptor, self._size)  # What a kill, or a full disk, has torn.
            written = 0
            while written < len(line):
                written += os.pwrite(descriptor, line[written:], self._size + written)
            os.fsync(descriptor)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self._path)) from None
        finally:
            os.close(descriptor)
        if not self._size:  # The file is new: a name that is lost is a file that is lost.
            sync(self._path.parent)
        self._size += len(line)
