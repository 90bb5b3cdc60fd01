"""Counts of a batch's rows, slice by slice: late, out of order, odd."""

from collections.abc import Sequence

import polars as pl

from tasks.records.trade import NS_PER_MS, NS_PER_S
from tasks.validate.coded import Coded
from tasks.validate.row_counts import RowCounts

T = 1_764_000_000 * NS_PER_S


def add(
    counts: RowCounts, *rows: tuple[int, str], lag_ns: int | list[int] = 0, conditions: Sequence[str] | None = None
) -> None:
    """Count a slice of rows, each (time after T in ns, symbol)."""
    lags = lag_ns if isinstance(lag_ns, list) else [lag_ns] * len(rows)
    frame = pl.DataFrame(
        {
            "ts_event": [T + row[0] for row in rows],
            "ts_recv": [T + row[0] + lag for row, lag in zip(rows, lags, strict=True)],
        },
        {"ts_event": pl.Int64, "ts_recv": pl.Int64},
    )
    symbols, codes = ([row[1] for row in rows], conditions or ["1;12"] * len(rows))
    coded = [Coded.of(pl.Series(texts, dtype=pl.Categorical)) for texts in (symbols, codes)]
    counts.add(frame, *coded)


def test_what_is_late_out_of_order_and_odd_is_counted() -> None:
    """Late: over ten seconds; out of order: before an earlier time of its symbol; odd: conditions of unknown form."""
    counts = RowCounts()
    add(counts, (0, "A"), lag_ns=10 * NS_PER_S)
    assert (counts.late, counts.out_of_order, counts.odd_conditions) == (0, 0, 0)
    add(counts, (1, "A"), (2, "A"), lag_ns=10 * NS_PER_S + 1)
    assert counts.late == 2
    add(counts, (1, "A"), (1, "B"), (0, "B"), (2, "A"))
    assert counts.out_of_order == 2
    add(counts, (3, "B"), (2, "B"), (2, "A"), (3, "A"), (2, "A"))
    assert counts.out_of_order == 4
    add(counts, (9, "A"), (9, "B"), (9, "C"), (9, "A"), conditions=["?", "?;1;?", "1;?", "?"])
    add(counts, (9, "C"), conditions=["?"])
    assert counts.odd_conditions == 4
    assert counts.late == 2
    assert counts.per_symbol == {"A": 10, "B": 5, "C": 2}


def test_the_symbols_of_earlier_slices_keep_their_latest_times() -> None:
    """Order is judged by a symbol's latest time, not its last one and not another symbol's."""
    counts = RowCounts()
    add(counts, (50, "A"), (20, "A"), (10, "B"))
    assert counts.out_of_order == 1
    add(counts, (11, "B"), (49, "A"))
    assert counts.out_of_order == 2
    add(counts, (50, "A"), (10, "B"))
    assert counts.out_of_order == 3
    add(counts, (90, "C"))
    add(counts, (49, "A"), (12, "B"))
    assert counts.out_of_order == 4


def test_whole_milliseconds_are_told_until_one_is_not() -> None:
    """A single finer event time in any slice makes the batch's event times finer than milliseconds."""
    counts = RowCounts()
    assert counts.event_in_ms is True
    add(counts, (0, "A"), (3 * NS_PER_MS, "A"))
    assert counts.event_in_ms is True
    add(counts, (0, "A"), (NS_PER_MS + 1, "A"))
    add(counts, (0, "A"))
    assert counts.event_in_ms is False


def test_the_lags_are_those_of_all_slices() -> None:
    """Percentiles of receive time minus event time over all rows, in ms; empty without rows."""
    counts = RowCounts()
    assert counts.lag_ms() == {}
    add(counts)
    assert counts.lag_ms() == {}
    add(counts, (0, "A"), lag_ns=1_500_000)
    assert counts.lag_ms() == {"p50": 1.5, "p90": 1.5, "p99": 1.5, "max": 1.5}
    counts = RowCounts()
    for first in (101, 1):
        add(counts, *[(0, "A")] * 100, lag_ns=[lag * NS_PER_MS for lag in range(first + 99, first - 1, -1)])
    assert counts.lag_ms() == {"p50": 101.0, "p90": 181.0, "p99": 199.0, "max": 200.0}
