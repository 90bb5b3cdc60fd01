"""Marks the trades that the feed redelivered, judged by their order.

Identical prints are real, so equality alone proves nothing. Two patterns do: a run of three or more different trades
that repeats earlier ones at one constant distance (`runs.py`: a message sent again, or the last seconds repeated after
a reconnect), and messages that each arrive twice (`doubled.py`). Only valid rows count, in journal order.
"""

import numpy as np

from tasks.validate.doubled import Doubled
from tasks.validate.prints import Hashes, Marks, Prints, Times
from tasks.validate.runs import Runs


class Resent:
    """Marks rows as they are added; a mark depends on some later rows, so it is returned with a delay."""

    def __init__(self, runs: Runs | None = None, doubled: Doubled | None = None) -> None:
        self._prints, self._given = Prints(), 0
        self._runs, self._doubled = runs or Runs(), doubled or Doubled()

    def begin_after(self, hashes: Hashes, ts_event_ns: Times) -> None:
        """Set the rows before the first one; they are used for comparison only and not marked."""
        self._prints.append(hashes, ts_event_ns)
        self._given = len(hashes)

    def add(self, hashes: Hashes, ts_event_ns: Times) -> Marks:
        """Add the next rows; return the next final marks, in row order."""
        self._prints.append(hashes, ts_event_ns)
        by_runs = self._runs.mark(self._prints)
        return self._next(min(by_runs, self._doubled.mark(self._prints, self._runs.repeated, ended=False)))

    def end(self) -> Marks:
        """Return the remaining marks; no more rows may be added."""
        self._runs.mark(self._prints)
        self._doubled.mark(self._prints, self._runs.repeated, ended=True)
        return self._next(self._prints.rows)

    def _next(self, known: int) -> Marks:
        given, self._given = self._given, max(self._given, known)
        return np.array(self._prints.marks[given : self._given])
