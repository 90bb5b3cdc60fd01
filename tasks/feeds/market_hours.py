"""Whether a symbol's market is open, based on the hours that its feed reports."""

from collections.abc import Iterable
from datetime import datetime
from zoneinfo import ZoneInfo

from tasks.feeds.base import MarketHours
from tasks.records.trade import NS_PER_S

# Currencies trade from Sunday to Friday, 5 p.m. in New York.
_NEW_YORK = ZoneInfo("America/New_York")
_FRIDAY, _SATURDAY, _SUNDAY, _ROLLOVER_HOUR = 4, 5, 6, 17


def is_trading(kept: MarketHours, ns: int, exchange_hours: Iterable[tuple[int, int]]) -> bool:
    """Return whether a market with these hours is open at `ns`; `exchange_hours` are intervals. All in UTC ns."""
    if kept == "exchange":
        return any(start <= ns < end for start, end in exchange_hours)
    return kept == "always" or _currencies_trade(ns)


def _currencies_trade(ns: int) -> bool:
    now = datetime.fromtimestamp(ns // NS_PER_S, _NEW_YORK)
    day, is_past_five = now.weekday(), now.hour >= _ROLLOVER_HOUR
    return day != _SATURDAY and not (day == _FRIDAY and is_past_five) and (day != _SUNDAY or is_past_five)
