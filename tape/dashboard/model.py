"""What the page shows, as plain records: built from files once a tick, and shared by all tabs.

Prices and sizes are float64 for charts; `Print` carries the digits as received. Times are UTC ns.
"""

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from tasks.records.status import Status

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

Health = Literal["up", "down", "stale", "ended"]
Stage = Literal["recording", "sealed", "validated", "archived", "uploaded"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bars:
    """The bars of one symbol, oldest first, all arrays of one length; a period without a trade has no bar."""

    every_ns: int
    start_ns: Ints
    open: Floats
    high: Floats
    low: Floats
    close: Floats
    volume: Floats
    trades: Ints


@dataclass(frozen=True, slots=True, kw_only=True)
class SymbolRow:
    """One line of the watch-list; `last` and `change` are None before the first trade.

    `change` is the fraction since the first trade of the session or day; `rhythm_s` the usual time between trades;
    `silent_s` the time since the last one; `decimals` how many digits the symbol's prices have.
    """

    symbol: str
    last: float | None
    change: float | None
    volume: float
    trades: int
    rhythm_s: float | None
    silent_s: float | None
    in_gap: bool
    decimals: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Print:
    """One trade as received; `conditions` are the vendor's codes, each with its name if the feed's rules know it."""

    symbol: str
    ts_event_ns: int
    ts_recv_ns: int
    price: str
    size: str
    conditions: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownGap:
    """An interval in which these symbols could not be received; `end_ns` is None while it is open."""

    symbols: tuple[str, ...]
    start_ns: int
    end_ns: int | None
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """Trades and lag (receive minus event time, ms) of each second, oldest first; NaN where no trade came."""

    second_ns: Ints
    trades: Ints
    lag_p50_ms: Floats
    lag_p95_ms: Floats
    lag_p99_ms: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchShown:
    """A batch and the stage it has reached."""

    name: str
    stage: Stage
    rows: int
    quarantined: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """Everything about a session at `now_ns` that does not depend on the symbol chosen.

    `status` is None for a session that has none, such as one restored from a bucket. `newest_recv_ns` is when the
    latest trade was received. `loaded` is the share of the batches recorded before the page came that has been read; it
    is 1 once all are shown. `problem` says in one line what could not be read, if anything.
    """

    session: str
    feed: str
    now_ns: int
    start_ns: int
    end_ns: int
    health: Health
    status: Status | None
    trades: int
    trades_per_s: float
    lag_p50_ms: float | None
    lag_p95_ms: float | None
    lag_p99_ms: float | None
    rows: tuple[SymbolRow, ...]
    gaps: tuple[ShownGap, ...]
    batches: tuple[BatchShown, ...]
    quarantine: dict[str, int]
    disk_free_bytes: int
    newest_recv_ns: int | None = None
    loaded: float = 1.0
    problem: str | None = None


DayState = Literal["complete", "gaps", "short", "missing", "unknown", "closed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DayShown:
    """A day (YYYY-MM-DD) of the calendar.

    `state`: complete; `gaps` in market hours; `short` of them, because no session was there for all; `missing`,
    although the market was open; `unknown`, because no record of its sessions is here; or `closed`, without market
    hours. `share` is that of market hours in which trades could be received, None if unknown or if there were none.
    """

    date: str
    state: DayState
    share: float | None
    sessions: tuple[str, ...]
    trades: int
    is_recording: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionShown:
    """A session of the archive; `balances` is whether its ledger does, None if no record of it is here."""

    session: str
    days: tuple[str, ...]
    outcome: str
    trades: int
    gaps: int
    batches: int
    archived: int
    uploaded: int
    coverage: float | None
    balances: bool | None


class Source(Protocol):
    """A session or day to show: one that is being recorded, or one of the archive up to a moment."""

    def board(self) -> Board:
        """Return the state at the last refresh."""

    def pace(self, last_s: int) -> Pace:
        """Return trades and lag of the last seconds."""

    def bars(self, symbol: str, every_ns: int, limit: int) -> Bars:
        """Return the last bars of a symbol, at most `limit`; empty for an unknown symbol."""

    def prints(self, symbol: str, limit: int) -> tuple[Print, ...]:
        """Return the latest trades of a symbol, newest first."""
