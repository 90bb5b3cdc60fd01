"""Bars, totals, lags, and prints of a series equal those computed trade by trade, however the trades were added."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from journal_bars import JournalRow, expected_bars, expected_totals, shown_bars

from tape.dashboard.series import DAY_NS, Series, Symbols
from tasks.records.trade import NS_PER_MS, NS_PER_S
from tasks.zones import day_span

START_NS = 1_795_530_600_000_000_000
MINUTE_NS = 60 * NS_PER_S
SYMBOLS = ("A", "BINANCE:BTCUSDT", "C")
# Few times, so that many trades share one; sizes whose float64 sums depend on the order.
_row = st.builds(
    lambda at, late, symbol, price, size: JournalRow(at, at - late, symbol, price, size, ""),
    st.sampled_from((0, 1, 2, 3, 4, 40)).map(lambda n: START_NS + n * NS_PER_S // 4),
    st.sampled_from((0, 0, 0, 1, 3)).map(lambda n: n * NS_PER_S),
    st.sampled_from(SYMBOLS),
    st.sampled_from(("1.1", "2", "0.333", "97123.45", "1e-7")),
    st.sampled_from(("0.1", "0.2", "0.00000001", "1000000", "0", "3.3e-05", "0.7")),
)


def frame(rows: Sequence[JournalRow]) -> pl.DataFrame:
    names = ("ts_recv", "ts_event", "symbol", "price", "size", "conditions")
    types = [pl.Int64, pl.Int64, *[pl.String] * 4]
    return pl.DataFrame(
        {each: [getattr(row, each) for row in rows] for each in names}, dict(zip(names, types, strict=True))
    )


def row(event_ns: int, price: str = "1", size: str = "1", symbol: str = "A", lag_ns: int = 0) -> JournalRow:
    return JournalRow(event_ns + lag_ns, event_ns, symbol, price, size, "1;12")


def series_of(*pieces: Sequence[JournalRow]) -> Series:
    series = Series(Symbols())
    for piece in pieces:
        series.add(frame(piece))
    return series


def totals_by_symbol(series: Series, totals: object = None) -> dict[str, tuple[float, float, float, int]]:
    found = series.totals() if totals is None else totals
    columns = zip(found.numbers, found.last, found.first, found.volume, found.trades, strict=True)
    by_number = {number: (last, last / first - 1, volume, trades) for number, last, first, volume, trades in columns}
    return {name: by_number[number] for name, number in series.symbols.numbers.items() if number in by_number}


@given(st.lists(_row, min_size=1, max_size=60), st.lists(st.integers(0, 60), max_size=12), st.integers(0, 12))
def test_any_split_of_the_trades_gives_the_same(rows: list[JournalRow], cuts: list[int], earlier: int) -> None:
    """Added in pieces of any size, some of them by another series afterwards: bars, totals and stamps are exact."""
    edges = [0, *sorted(min(cut, len(rows)) for cut in cuts), len(rows)]
    pieces = [rows[start:stop] for start, stop in pairwise(edges)]
    past, series = Series(symbols := Symbols()), Series(symbols)
    for piece in pieces[earlier:]:
        series.add(frame(piece))
    for piece in pieces[:earlier]:
        past.add(frame(piece))
    past.compact()
    series.prepend(past)
    for every_ns in (NS_PER_S, 2 * NS_PER_S, 7 * NS_PER_S, MINUTE_NS):
        for symbol in SYMBOLS:
            wanted = expected_bars(rows, symbol, every_ns)
            assert shown_bars(series.bars(symbol, every_ns, 1_000)) == approx(wanted)
            assert shown_bars(series.bars(symbol, every_ns, 3)) == approx(wanted[-3:])
    expected = expected_totals(rows)
    found = totals_by_symbol(series)
    assert found == {
        name: pytest.approx((each["last"], each["change"], each["volume"], each["trades"]), rel=1e-15, abs=1e-15)
        for name, each in expected.items()
    }
    assert series.newest_recv_ns == max(row.ts_recv for row in rows)
    newest = series.newest_of_each()
    assert {name: newest[number] for name, number in symbols.numbers.items()} == {
        name: each["newest"] for name, each in expected.items()
    }
    assert series.rows == len(rows)
    assert int(series.lags.counts(START_NS // NS_PER_S, START_NS // NS_PER_S + 10).sum()) == len(rows)


def approx(bars: list[tuple]) -> list[tuple]:
    """The same bars; a volume may differ in the last bit of a float64, from the sum of two parts that are exact."""
    return [(*bar[:5], pytest.approx(bar[5], rel=3e-16, abs=0), bar[6]) for bar in bars]


@given(st.lists(_row, min_size=1, max_size=40), st.integers(-1, 12))
def test_totals_at_any_second_are_those_of_the_trades_before_it(rows: list[JournalRow], seconds: int) -> None:
    """A scrubber's moment: last, change, volume, and count of each symbol that had traded by then."""
    series = series_of(rows)
    series.compact()
    until_s = START_NS // NS_PER_S + seconds - 3
    before = [row for row in rows if row.ts_event < until_s * NS_PER_S]
    assert totals_by_symbol(series, series.totals_until(until_s)) == {
        name: pytest.approx((each["last"], each["change"], each["volume"], each["trades"]), rel=1e-15, abs=1e-15)
        for name, each in expected_totals(before).items()
    }
    for symbol in SYMBOLS:
        assert shown_bars(series.bars(symbol, NS_PER_S, 99, until_s)) == approx(expected_bars(before, symbol, NS_PER_S))


def test_volumes_are_the_same_to_the_last_bit_in_any_order() -> None:
    """A thousand sizes that no float64 holds exactly: one piece or many, forward or backward, one number."""
    rows = [row(START_NS, size=f"{n * 7919 % 1000 / 1e5:.8f}") for n in range(1_000)]
    ways = [series_of(rows), series_of(*([each] for each in rows)), series_of(rows[::-1])]
    volumes = [float(way.bars("A", NS_PER_S, 1).volume[0]) for way in ways]
    assert len(set(volumes)) == 1
    assert volumes[0] == float(sum(round(float(each.size) * 1e8) for each in rows) / 1e8)


def test_a_long_session_stays_in_few_pieces() -> None:
    """Thousands of additions are merged as they come; no second is missing, and a late print is in its own."""
    series = Series(Symbols())
    rows = [row(START_NS + n * NS_PER_S, str(n + 1)) for n in range(3_000)]
    for each in rows:
        series.add(frame([each]))
    series.add(frame([late := row(START_NS + 5 * NS_PER_S, "9999")]))
    assert len(series._pieces) <= 32
    assert shown_bars(series.bars("A", NS_PER_S, 4_000)) == expected_bars([*rows, late], "A", NS_PER_S)
    assert shown_bars(series.bars("A", MINUTE_NS, 50)) == expected_bars([*rows, late], "A", MINUTE_NS)


@pytest.mark.parametrize(
    "bad",
    [
        {"price": "0"}, {"price": "-1"}, {"price": "x"}, {"price": "inf"}, {"price": "nan"}, {"price": ""},
        {"size": "-1"}, {"size": "x"}, {"size": "inf"}, {"event_ns": -5}, {"lag_ns": -2 * MINUTE_NS},
        {"lag_ns": 2 * DAY_NS},
    ],
)  # fmt: skip
def test_trades_that_validation_rejects_are_not_shown(bad: dict) -> None:
    """They will be in quarantine, and in no archive; but they are rows of the journal."""
    series = Series(Symbols(), lags_ns=(-MINUTE_NS, DAY_NS))
    series.add(frame([row(START_NS), row(**{"event_ns": START_NS + 1, "price": "5", **bad})]))
    assert shown_bars(series.bars("A", MINUTE_NS, 9)) == expected_bars([row(START_NS)], "A", MINUTE_NS)
    assert (series.rows, len(series.prints("A", 9))) == (2, 1)


def test_a_day_is_the_exchanges() -> None:
    """Trades of one UTC day on both sides of New York's midnight are in two bars; an always open symbol's in one."""
    midnight_ns, end_ns = day_span("2026-11-24", "America/New_York")
    times = (midnight_ns - 1, midnight_ns, end_ns - 1, end_ns)
    rows = [row(at, symbol=symbol) for symbol in ("A", "C") for at in times]
    series = Series(Symbols(), {"A": "America/New_York", "C": "UTC"}.__getitem__)
    series.add(frame(rows))
    stock, coin = series.bars("A", DAY_NS, 9), series.bars("C", DAY_NS, 9)
    assert stock.start_ns.tolist() == [day_span(f"2026-11-{day}", "America/New_York")[0] for day in (23, 24, 25)]
    assert stock.trades.tolist() == [1, 2, 1]
    assert coin.start_ns.tolist() == [day_span(f"2026-11-{day}", "UTC")[0] for day in (24, 25)]
    assert coin.trades.tolist() == [2, 2]


def test_the_decimals_are_those_of_the_most_exact_price() -> None:
    """As received, also with an exponent."""
    prices = {"A": ("1", "1.50", "1.5"), "B": ("7", "70"), "C": ("1.5e-7", "1"), "D": ("92e-8",), "E": ("2E+2",)}
    rows = [row(START_NS, price, symbol=symbol) for symbol, some in prices.items() for price in some]
    series = series_of(rows[:4], rows[4:])
    decimals = {symbol: series.decimals(number) for symbol, number in series.symbols.numbers.items()}
    assert decimals == {"A": 2, "B": 0, "C": 8, "D": 8, "E": 0}


def test_the_lag_of_a_second_is_known_to_five_percent() -> None:
    """Percentiles of each second of receipt; NaN where nothing came; a clock that is behind gives a negative lag."""
    lags_ms = [*range(1, 100), 5_000]
    rows = [row(START_NS - lag * NS_PER_MS, lag_ns=lag * NS_PER_MS) for lag in lags_ms]
    ahead = [row(START_NS + 2 * NS_PER_S + 40 * NS_PER_MS, lag_ns=-40 * NS_PER_MS)]
    series = series_of(rows, ahead)
    pace = series.pace(4, START_NS // NS_PER_S + 3)
    assert pace.second_ns.tolist() == [START_NS + n * NS_PER_S for n in (-1, 0, 1, 2)]
    assert pace.trades.tolist() == [0, 100, 0, 1]
    assert [pace.lag_p50_ms[1], pace.lag_p95_ms[1], pace.lag_p99_ms[1]] == pytest.approx([50, 95, 99], rel=0.05)
    assert np.isnan(pace.lag_p50_ms[[0, 2]]).all()
    assert -64 <= pace.lag_p50_ms[3] <= -32


def test_the_latest_prints_are_as_received() -> None:
    """Newest first, with the digits and conditions of the journal; those of a quiet symbol outlast a busy one's."""
    quiet = row(START_NS, "7.10", "3.00", "QUIET")
    busy = [[row(START_NS + n * 100 + m, f"{n}.{m:02}0") for m in range(1, 100)] for n in range(1, 60)]
    series = series_of([quiet], *busy)
    assert series.prints("QUIET", 5).rows() == [(START_NS, START_NS, "QUIET", "7.10", "3.00", "1;12", 0)]
    assert series.prints("A", 3)["price"].to_list() == ["59.990", "59.980", "59.970"]
    assert series.prints("A", 150)["price"].to_list() == [each.price for part in busy for each in part][:-151:-1]
    assert series.prints("unknown", 3).is_empty()


def test_an_unknown_symbol_has_no_bars() -> None:
    """Neither before the first trade nor after it."""
    assert len(series_of().bars("A", NS_PER_S, 5).open) == 0
    assert len(series_of([row(START_NS)]).bars("B", DAY_NS, 5).open) == 0
