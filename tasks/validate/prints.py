"""Holds the vendor's fields of many trades as one number for each trade.

Two trades with equal numbers are taken as equal. The number is 64 bits of hash: among the five million trades of a
large batch there is a pair of different trades with equal numbers in one of a million batches, and even then a row
is marked wrongly only if that pair lies within a run of true equals.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from tasks.archive.schema import TEXTS
from tasks.validate.coded import Coded

Hashes = np.ndarray[Any, np.dtype[np.uint64]]
Times = np.ndarray[Any, np.dtype[np.int64]]
Marks = np.ndarray[Any, np.dtype[np.bool_]]
# Odd, without a pattern: the first digits of irrational numbers. One for each text, the last for the time.
_FACTORS = tuple(
    np.uint64(factor)
    for factor in (
        0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0xD6E8FEB86659FD93, 0xA0761D6478BD642F,
    )
)  # fmt: skip
_FIRST_ROWS = 1 << 16


def hashes(ts_event_ns: Times, texts: Mapping[str, Coded]) -> Hashes:
    """One number for each trade; `texts` are its columns of `TEXTS`."""
    found = ts_event_ns.view(np.uint64) * _FACTORS[-1]
    for name, factor in zip(TEXTS, _FACTORS, strict=False):
        found += texts[name].text_hashes(factor)[texts[name].codes]
    # The upper bits depend on all others; folded down, so do the lower ones.
    return found ^ (found >> np.uint64(32))


class Prints:
    """Trades in the order of their receipt, and which of them are marked; it grows at the end."""

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
        """May be written to."""
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
            # Zeros are not in memory until they are written to.
            new = np.zeros(size, old.dtype)
            new[: self.rows] = old
            setattr(self, name, new)
