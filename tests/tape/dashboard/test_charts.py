"""Charts as pure functions: what is in the options, without a browser."""

import json
import math

import numpy as np
import pytest
from generated_session import HOSTILE, Generated

from tape.dashboard.charts import Window, lag_chart, rate_chart, symbol_chart, window_of
from tape.dashboard.model import Bars, Pace, ShownGap
from tape.dashboard.palette import DARK, LIGHT
from tasks.records.trade import NS_PER_S

T0 = 1_800_000_000
WINDOW = Window(T0 * NS_PER_S, (T0 + 60) * NS_PER_S)


def bars(*rows: tuple[int, float, float, float, float, float]) -> Bars:
    """Bars of one second: second after T0, open, high, low, close, volume."""
    columns = [np.array(column, float) for column in zip(*rows, strict=True)] or [np.empty(0)] * 6
    return Bars(
        every_ns=NS_PER_S, start_ns=((columns[0] + T0) * NS_PER_S).astype(np.int64), open=columns[1], high=columns[2],
        low=columns[3], close=columns[4], volume=columns[5], trades=np.ones(len(columns[0]), np.int64),
    )  # fmt: skip


def gap(start: float, end: float | None) -> ShownGap:
    end_ns = None if end is None else int((T0 + end) * NS_PER_S)
    return ShownGap(symbols=("A",), start_ns=int((T0 + start) * NS_PER_S), end_ns=end_ns, reason="x")


TWO = bars((3, 10, 12, 9, 11, 100), (10, 11, 11, 8, 9, 50))


def test_a_bar_is_at_its_time_with_its_prices() -> None:
    """Candles are [time, open, close, low, high]; volume is in the series of its direction; nothing is made up."""
    chart = symbol_chart(TWO, WINDOW, (), 2, DARK, as_line=False)
    candles, _, rose, fell = chart["series"]
    assert candles["data"] == [[(T0 + 3) * 1000, 10, 11, 9, 12], [(T0 + 10) * 1000, 11, 9, 8, 11]]
    assert rose["data"] == [[(T0 + 3) * 1000, 100]]
    assert fell["data"] == [[(T0 + 10) * 1000, 50]]
    assert [axis["type"] for axis in chart["xAxis"]] == ["time", "time"]
    assert {(axis["min"], axis["max"]) for axis in chart["xAxis"]} == {(T0 * 1000, (T0 + 60) * 1000)}


def test_a_candle_is_as_wide_as_its_period() -> None:
    """Where periods are missing between bars, a candle must not grow into them."""
    candles = symbol_chart(TWO, WINDOW, (), 2, DARK, as_line=False)["series"][0]
    assert candles["barWidth"] == "10.00%"  # 70 % of one of seven seconds.
    close = bars((3, 1, 1, 1, 1, 1), (4, 1, 1, 1, 1, 1))
    assert symbol_chart(close, WINDOW, (), 2, DARK, as_line=False)["series"][0]["barWidth"] == "70.00%"


def test_gaps_are_shaded_within_the_window() -> None:
    """One that is open reaches to the window's end; one that began before it is cut; one outside is not there."""
    gaps = [gap(-30, -20), gap(-5, 2), gap(5, 7.5), gap(50, None)]
    shaded = symbol_chart(TWO, WINDOW, gaps, 2, DARK, as_line=False)["series"][1]["markArea"]["data"]
    spans = [(left["xAxis"] / 1000 - T0, right["xAxis"] / 1000 - T0) for left, right in shaded]
    assert spans == [(0, 2), (5, 7.5), (50, 60)]


def test_a_line_is_interrupted_by_a_gap() -> None:
    """No line connects two prices if nothing could be received between them."""
    line = symbol_chart(TWO, WINDOW, [gap(5, 7)], 2, DARK, as_line=True)["series"][1]
    assert line["data"] == [[(T0 + 3) * 1000, 11], [(T0 + 5) * 1000, None], [(T0 + 10) * 1000, 9]]
    assert line["connectNulls"] is False


def test_the_last_price_has_the_decimals_of_the_symbol() -> None:
    """The mark at the last price is written as in the watch-list, in the color of its direction."""
    mark = symbol_chart(TWO, WINDOW, (), 5, LIGHT, as_line=False)["series"][1]["markLine"]
    assert mark["data"][0]["label"]["formatter"] == "9.00000"
    assert mark["label"]["backgroundColor"] == LIGHT.down


def test_a_symbol_without_a_trade_has_an_empty_chart() -> None:
    """The axes are there, and no bar."""
    chart = symbol_chart(bars(), WINDOW, (), 2, DARK, as_line=False)
    assert [series["data"] for series in chart["series"]] == [[], [], [], []]
    assert chart["series"][1]["markLine"]["data"] == []


def test_bars_before_the_window_are_left_out() -> None:
    """A sparse symbol's last bars may be hours old: only those of the window are drawn."""
    chart = symbol_chart(bars((-5, 1, 1, 1, 1, 9), (5, 2, 2, 2, 2, 9)), WINDOW, (), 2, DARK, as_line=False)
    assert [bar[0] for bar in chart["series"][0]["data"]] == [(T0 + 5) * 1000]


@pytest.mark.parametrize("every_s", [1, 60, 86_400])
def test_a_window_ends_with_the_current_period(every_s: int) -> None:
    """It has whole periods, and now is in the last one."""
    now_ns, every_ns = T0 * NS_PER_S + 123_456_789, every_s * NS_PER_S
    window = window_of(now_ns, every_ns, 120)
    assert window.start_ns % every_ns == window.end_ns % every_ns == 0
    assert window.end_ns - window.start_ns == 120 * every_ns
    assert window.end_ns - every_ns <= now_ns < window.end_ns


def test_rate_and_lag_have_a_point_for_each_second() -> None:
    """A second without a trade has the rate 0 and no lag."""
    nan = math.nan
    pace = Pace(
        second_ns=np.array([T0, T0 + 1]) * NS_PER_S, trades=np.array([7, 0]), lag_p50_ms=np.array([1.23456, nan]),
        lag_p95_ms=np.array([2.0, nan]), lag_p99_ms=np.array([3.0, nan]),
    )  # fmt: skip
    assert rate_chart(pace, WINDOW, (), DARK)["series"][0]["data"] == [[T0 * 1000, 7], [T0 * 1000 + 1000, 0]]
    p50, p95, p99 = lag_chart(pace, WINDOW, [gap(1, None)], DARK)["series"]
    assert p50["data"] == [[T0 * 1000, 1.235], [T0 * 1000 + 1000, None]]
    assert len({str(line["lineStyle"]["type"]) for line in (p50, p95, p99)}) == 3
    assert len(p50["markArea"]["data"]) == 1


def test_no_name_from_a_feed_is_in_a_chart() -> None:
    """ECharts writes tooltips as HTML: neither a symbol nor a reason is in any option."""
    source = Generated()
    board = source.board()
    options = [
        symbol_chart(source.bars(HOSTILE, NS_PER_S, 50), window_of(board.now_ns, NS_PER_S, 50), board.gaps, 1, DARK,
                     as_line=False),
        rate_chart(source.pace(60), WINDOW, board.gaps, DARK),
        lag_chart(source.pace(60), WINDOW, board.gaps, DARK),
    ]  # fmt: skip
    text = json.dumps(options)
    assert "<img" not in text
    assert board.gaps[0].reason not in text
