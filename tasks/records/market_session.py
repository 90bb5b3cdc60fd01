"""A part of a trading day, as calendars give it and readers of the archive use it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

SessionName = Literal["pre", "regular", "post"]


@dataclass(frozen=True, slots=True)
class MarketSession:
    """A part of the trading day `date` (YYYY-MM-DD) of an exchange, from `start_ns` until just before `end_ns`.

    Both are UTC ns. `regular` has two parts around a break.
    """

    name: SessionName
    date: str
    start_ns: int
    end_ns: int


# The sessions that touch an interval (UTC ns), in order.
MarketSessions = Callable[[int, int], Sequence[MarketSession]]


def no_sessions(_start_ns: int, _end_ns: int) -> Sequence[MarketSession]:
    """Return no session: for readers that do not ask for market hours."""
    return ()
