"""Market sessions by time, for SQL and for bars."""

import threading
from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa

from tasks.records.market_session import MarketSession, MarketSessions
from tasks.records.trade import NS_PER_S

CLOSED = "closed"
_STRETCH_NS = 32 * 86_400 * NS_PER_S


class SessionAt:
    """Finds the market session (pre, regular, post, or closed) of many times at once.

    The calendar is asked, for a month at a time, only about months that occur: loading it takes a second.
    """

    def __init__(self, sessions: MarketSessions) -> None:
        self._sessions = sessions
        self._known: dict[int, tuple[np.ndarray[Any, Any], Any]] = {}
        self._lock = threading.Lock()

    def __call__(self, at_ns: Any) -> pa.Array:
        """Return the session's name for each of these times (UTC ns)."""
        times = at_ns.to_numpy()
        stretches = times // _STRETCH_NS
        found = np.full(len(times), CLOSED, dtype=object)
        for stretch in np.unique(stretches).tolist():
            edges, names = self._of_stretch(stretch)
            chosen = stretches == stretch
            found[chosen] = names[np.searchsorted(edges, times[chosen], side="right")]
        return pa.array(found, pa.string())

    def _of_stretch(self, stretch: int) -> tuple[np.ndarray[Any, Any], Any]:
        with self._lock:
            if stretch not in self._known:
                start_ns = stretch * _STRETCH_NS
                self._known[stretch] = edges_of(self._sessions(start_ns, start_ns + _STRETCH_NS))
            return self._known[stretch]


def edges_of(sessions: Iterable[MarketSession]) -> tuple[np.ndarray[Any, Any], Any]:
    """Return the times at which the session changes, and the names before the first, between them, and after."""
    edges, names = list[int](), [CLOSED]
    for each in sessions:
        if edges and edges[-1] == each.start_ns:
            names[-1] = each.name
        else:
            edges.append(each.start_ns)
            names.append(each.name)
        edges.append(each.end_ns)
        names.append(CLOSED)
    return np.array(edges, np.int64), np.array(names, object)
