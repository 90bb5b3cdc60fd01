"""Turns a series and the records of a session into what the page shows of it."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from operator import attrgetter

import numpy as np
import polars as pl

from tape.dashboard.model import Print, ShownGap, SymbolRow
from tape.dashboard.series import Series, Totals, percentile
from tasks.feeds.registry import FEEDS
from tasks.records.ledger import Gap
from tasks.records.trade import NS_PER_S

Newest = Sequence[int] | Mapping[int, int]

# Over how many seconds the page's rate and lag are taken.
RATE_S = 5


def symbol_rows(
    series: Series, totals: Totals, symbols: Iterable[str], in_gap: Collection[str], now_ns: int, newest: Newest
) -> tuple[SymbolRow, ...]:
    """Return a row for each of these symbols; `newest` has when (UTC ns) the last trade of each number came."""
    places = {number: place for place, number in enumerate(totals.numbers)}
    first, last, trades = totals.first, totals.last, totals.trades
    numbers, rows = series.symbols.numbers, []
    for symbol in symbols:
        number = numbers.get(symbol, -1)
        at = places.get(number)
        if at is None:
            rows.append(_never_traded(symbol, symbol in in_gap))
            continue
        lasted_s = (totals.last_ns[at] - totals.first_ns[at]) / NS_PER_S
        rows.append(
            SymbolRow(
                symbol=symbol, last=last[at], change=last[at] / first[at] - 1, volume=totals.volume[at],
                trades=trades[at], rhythm_s=lasted_s / (trades[at] - 1) if trades[at] > 1 else None,
                silent_s=max(0.0, (now_ns - newest[number]) / NS_PER_S), in_gap=symbol in in_gap,
                decimals=series.decimals(number),
            )
        )  # fmt: skip
    return tuple(rows)


def _never_traded(symbol: str, in_gap: bool) -> SymbolRow:
    return SymbolRow(
        symbol=symbol, last=None, change=None, volume=0.0, trades=0, rhythm_s=None, silent_s=None, in_gap=in_gap,
        decimals=2,
    )  # fmt: skip


def gaps_shown(gaps: Iterable[Gap]) -> tuple[ShownGap, ...]:
    """Return gaps in order of their start."""
    shown = (
        ShownGap(symbols=each.symbols, start_ns=each.start_ns, end_ns=each.end_ns, reason=each.reason) for each in gaps
    )
    return tuple(sorted(shown, key=attrgetter("start_ns")))


def prints_shown(trades: pl.DataFrame, feed: str) -> tuple[Print, ...]:
    """Return these trades with the names of their conditions."""
    rules = FEEDS[feed].condition_rules if feed in FEEDS else None
    names = rules.names if rules else {}
    return tuple(
        Print(
            symbol=row["symbol"], ts_event_ns=row["ts_event"], ts_recv_ns=row["ts_recv"], price=row["price"],
            size=row["size"],
            conditions=tuple(
                f"{code} {names[code]}" if code in names else code for code in row["conditions"].split(";") if code
            ),
        )
        for row in trades.iter_rows(named=True)
    )  # fmt: skip


def rate_and_lag(series: Series, until_s: int) -> tuple[float, list[float | None]]:
    """Return trades per second, and p50, p95, and p99 of the lag (ms), over the last seconds before `until_s`."""
    counts = series.lags.counts(until_s - RATE_S, until_s - 1).sum(axis=0, keepdims=True, dtype=np.uint32)
    trades = int(counts.sum())
    lags = [float(percentile(counts, share)[0]) if trades else None for share in (0.5, 0.95, 0.99)]
    return trades / RATE_S, lags
