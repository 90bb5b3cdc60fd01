"""Which trades did the feed deliver again, by the evidence of their order?

Equal prints are real, so equality alone proves nothing. Two patterns do: a run of three or more different trades that
repeats earlier ones at one constant distance (`runs.py`: a message, or the last seconds after a reconnect, sent
again), and messages that each come twice (`doubled.py`). Only valid rows count, in the order of the journal.
"""

import numpy as np

from tasks.validate.doubled import Doubled
from tasks.validate.prints import Hashes, Marks, Prints, Times
from tasks.validate.runs import Runs


class Resent:
    """Marks rows as they come. Whether a row is marked depends on some rows after it, so marks come later than rows."""

    def __init__(self, runs: Runs | None = None, doubled: Doubled | None = None) -> None:
        self._prints, self._given = Prints(), 0
        self._runs, self._doubled = runs or Runs(), doubled or Doubled()

    def begin_after(self, hashes: Hashes, ts_event_ns: Times) -> None:
        """Rows that came before the first one; they are compared with, and not marked."""
        self._prints.append(hashes, ts_event_ns)
        self._given = len(hashes)

    def add(self, hashes: Hashes, ts_event_ns: Times) -> Marks:
        """Add the next rows; gives the next marks that are certain, in the order of rows."""
        self._prints.append(hashes, ts_event_ns)
        by_runs = self._runs.mark(self._prints)
        return self._next(min(by_runs, self._doubled.mark(self._prints, self._runs.repeated, ended=False)))

    def end(self) -> Marks:
        """The marks of the rows that are left; no more rows come."""
        self._runs.mark(self._prints)
        self._doubled.mark(self._prints, self._runs.repeated, ended=True)
        return self._next(self._prints.rows)

    def _next(self, known: int) -> Marks:
        given, self._given = self._given, max(self._given, known)
        return np.array(self._prints.marks[given : self._given])
