"""Hashes the vendor's fields of each trade to one 64-bit number.

Trades with equal hashes are treated as equal. One in a million large batches (five million trades) contains two
different trades with the same hash, and even then a row is marked wrongly only if they lie within a run of equal rows.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from tasks.archive.schema import TEXTS
from tasks.validate.coded import Coded

Hashes = np.ndarray[Any, np.dtype[np.uint64]]
Times = np.ndarray[Any, np.dtype[np.int64]]
Marks = np.ndarray[Any, np.dtype[np.bool_]]
# Odd multipliers from the digits of irrational numbers: one for each text column, the last for the time.
_FACTORS = tuple(
    np.uint64(factor)
    for factor in (
        0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0xD6E8FEB86659FD93, 0xA0761D6478BD642F,
    )
)  # fmt: skip
_FIRST_ROWS = 1 << 16


def hashes(ts_event_ns: Times, texts: Mapping[str, Coded]) -> Hashes:
    """Hash each trade; `texts` are the columns of `TEXTS`."""
    found = ts_event_ns.view(np.uint64) * _FACTORS[-1]
    for name, factor in zip(TEXTS, _FACTORS, strict=False):
        found += texts[name].text_hashes(factor)[texts[name].codes]
    # The upper bits depend on all others; folding them down makes the lower bits do so too.
    return found ^ (found >> np.uint64(32))


class Prints:
    """Trades in order of receipt, and which of them are marked; grows at the end."""

    def __init__(self) -> None:
        self.rows = 0
        self.latest_ns = np.iinfo(np.int64).min
        self._hashes: Hashes = np.empty(_FIRST_ROWS, np.uint64)
        self._times: Times = np.empty(_FIRST_ROWS, np.int64)
        self._marks: Marks = np.zeros(_FIRST_ROWS, np.bool_)

    @property
    def hashes(self) -> Hashes:
        return self._hashes[: self.rows]

    @property
    def ts_event_ns(self) -> Times:
        return self._times[: self.rows]

    @property
    def marks(self) -> Marks:
        """Writable view of the marks."""
        return self._marks[: self.rows]

    def append(self, hashes: Hashes, ts_event_ns: Times) -> None:
        """Add trades, none of them marked."""
        end = self.rows + len(hashes)
        if end > len(self._hashes):
            self._grow(max(end, len(self._hashes) * 3 // 2))
        self._hashes[self.rows : end] = hashes
        self._times[self.rows : end] = ts_event_ns
        self.rows = end

    def _grow(self, size: int) -> None:
        for name in ("_hashes", "_times", "_marks"):
            old = getattr(self, name)[: self.rows]
            # The OS allocates zeroed pages only when they are written.
            new = np.zeros(size, old.dtype)
            new[: self.rows] = old
            setattr(self, name, new)
