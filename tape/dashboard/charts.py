"""The charts as ECharts options: pure functions of what a source returns.

Every x axis is a time axis with a fixed window, so that a period without a trade stays visible as a hole. Names from
the feed are in no option: ECharts writes its tooltips as HTML.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tape.dashboard.model import Bars, Floats, Ints, Pace, ShownGap
from tape.dashboard.palette import Palette

Options = dict[str, Any]
_NS_PER_MS = 1_000_000
_FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif'


@dataclass(frozen=True, slots=True)
class Window:
    """The interval that a chart shows, UTC ns."""

    start_ns: int
    end_ns: int


def window_of(now_ns: int, every_ns: int, periods: int) -> Window:
    """Return so many whole periods that end with the current one."""
    end_ns = now_ns // every_ns * every_ns + every_ns
    return Window(end_ns - periods * every_ns, end_ns)


def symbol_chart(
    bars: Bars, window: Window, gaps: Sequence[ShownGap], decimals: int, palette: Palette, *, as_line: bool
) -> Options:
    """Candles or a line with volume below, gaps shaded, and the last price marked."""
    inside = bars.start_ns >= window.start_ns
    start_ns = bars.start_ns[inside]
    o, h, low, c, volume = (each[inside] for each in (bars.open, bars.high, bars.low, bars.close, bars.volume))
    at_ms, rose = _ms(start_ns), c >= o
    # ECharts takes the shortest distance of two bars as the room of each, which is more if periods are missing.
    room_ns = int(np.diff(start_ns).min()) if len(start_ns) > 1 else bars.every_ns
    width = f"{max(1.0, 70 * bars.every_ns / room_ns):.2f}%"
    line = np.column_stack((at_ms, c)) if as_line else np.empty((0, 2))
    last = [{"yAxis": float(c[-1]), "label": {"formatter": f"{c[-1]:,.{decimals}f}"}}] if len(c) else []
    candle = {
        "color": palette.surface, "borderColor": palette.up, "color0": palette.down, "borderColor0": palette.down,
        "borderColorDoji": palette.muted, "borderWidth": 1.25,
    }  # fmt: skip
    return {
        **_frame(),
        "grid": [
            {"left": 12, "right": 78, "top": 10, "bottom": "26%"},
            {"left": 12, "right": 78, "top": "79%", "bottom": 24},
        ],
        "tooltip": {**_tooltip(palette), ":formatter": f"(points) => tape.bar(points, {decimals})"},
        "axisPointer": {"link": [{"xAxisIndex": "all"}], "lineStyle": {"color": palette.muted}},
        "xAxis": [_time_axis(window, palette, 0, labels=False), _time_axis(window, palette, 1)],
        "yAxis": [
            {**_value_axis(palette, 0), "scale": True,
             ":axisLabel": _labels(palette, f"tape.price(value, {decimals})")},
            {**_value_axis(palette, 1), "splitNumber": 2, "splitLine": {"show": False},
             ":axisLabel": _labels(palette, "tape.short(value)")},
        ],
        "series": [
            {
                "type": "candlestick", "name": "bars", "itemStyle": candle, "encode": _OHLC,
                "barWidth": width, "barMaxWidth": 18,
                "data": [] if as_line else np.column_stack((at_ms, o, c, low, h)).tolist(),
            },
            {
                "type": "line", "name": "close", "showSymbol": False, "step": "end", "connectNulls": False,
                "lineStyle": {"color": palette.accent, "width": 1.5}, "itemStyle": {"color": palette.accent},
                "data": _broken(line.tolist(), window, gaps),
                "markArea": _shade(window, gaps, palette),
                "markLine": {
                    "silent": True, "symbol": "none", "animation": False, "data": last,
                    "lineStyle": {"color": palette.muted, "type": [2, 3], "width": 1},
                    "label": {"position": "end", "distance": 4, "padding": [3, 5], "borderRadius": 3, "fontSize": 11.5,
                              "fontWeight": 600, "color": palette.surface,
                              "backgroundColor": palette.up if not len(rose) or rose[-1] else palette.down},
                },
            },
            _volume("volume up", at_ms[rose], volume[rose], palette.up, width),
            _volume("volume down", at_ms[~rose], volume[~rose], palette.down, width),
        ],
    }  # fmt: skip


def rate_chart(pace: Pace, window: Window, gaps: Sequence[ShownGap], palette: Palette) -> Options:
    """Trades of each second."""
    at_ms = _ms(pace.second_ns)
    return _strip(window, palette, "tape.short(value)", "(points) => tape.pace(points, '/s', 0)") | {
        "series": [
            {
                **_line("trades/s", np.column_stack((at_ms, pace.trades)).tolist(), palette.accent, "solid"),
                "step": "end", "areaStyle": {"color": palette.accent, "opacity": 0.14},
                "markArea": _shade(window, gaps, palette),
            },
        ],
    }  # fmt: skip


def lag_chart(pace: Pace, window: Window, gaps: Sequence[ShownGap], palette: Palette) -> Options:
    """Receive minus event time of each second: median, 95th, and 99th percentile, told apart by their dashes."""
    lines: tuple[tuple[str, Floats, str, str | list[float]], ...] = (
        ("p50", pace.lag_p50_ms, palette.accent, "solid"),
        ("p95", pace.lag_p95_ms, palette.text, [5, 3]),
        ("p99", pace.lag_p99_ms, palette.muted, [1.5, 2.5]),
    )
    series = [_line(name, _pairs(pace.second_ns, values), color, dash) for name, values, color, dash in lines]
    series[0]["markArea"] = _shade(window, gaps, palette)
    return _strip(window, palette, "tape.short(value)", "(points) => tape.pace(points, ' ms', 1)") | {"series": series}


_TIMES = {
    "year": "{yyyy}", "month": "{MMM}", "day": "{d} {MMM}", "hour": "{HH}:{mm}", "minute": "{HH}:{mm}",
    "second": "{HH}:{mm}:{ss}", "millisecond": "{HH}:{mm}:{ss}",
}  # fmt: skip
_OHLC = {"x": 0, "y": [1, 2, 3, 4]}


def _frame() -> Options:
    return {"animation": False, "useUTC": True, "textStyle": {"fontFamily": _FONT}, "aria": {"enabled": False}}


def _strip(window: Window, palette: Palette, label: str, tip: str) -> Options:
    return {
        **_frame(),
        "grid": {"left": 12, "right": 46, "top": 8, "bottom": 22},
        "tooltip": {**_tooltip(palette), ":formatter": tip},
        "xAxis": _time_axis(window, palette, 0),
        "yAxis": {**_value_axis(palette, 0), "splitNumber": 2, ":axisLabel": _labels(palette, label)},
    }


def _tooltip(palette: Palette) -> Options:
    return {
        "trigger": "axis", "confine": True, "transitionDuration": 0, "padding": [6, 9], "borderWidth": 1,
        "backgroundColor": palette.surface, "borderColor": palette.line,
        "textStyle": {"color": palette.text, "fontSize": 12}, "extraCssText": "box-shadow: none",
        "axisPointer": {"type": "line", "lineStyle": {"color": palette.muted, "width": 1}, "label": {"show": False}},
    }  # fmt: skip


def _time_axis(window: Window, palette: Palette, grid: int, *, labels: bool = True) -> Options:
    return {
        "type": "time", "gridIndex": grid, "min": window.start_ns // _NS_PER_MS, "max": window.end_ns // _NS_PER_MS,
        "axisLine": {"lineStyle": {"color": palette.line}}, "axisTick": {"show": False}, "splitLine": {"show": False},
        "containShape": False,
        "axisLabel": {"show": labels, "color": palette.muted, "fontSize": 11, "hideOverlap": True,
                      "formatter": _TIMES},
    }  # fmt: skip


def _value_axis(palette: Palette, grid: int) -> Options:
    return {
        "type": "value", "gridIndex": grid, "position": "right", "splitNumber": 5, "axisLine": {"show": False},
        "axisTick": {"show": False}, "splitLine": {"lineStyle": {"color": palette.line}},
    }  # fmt: skip


def _labels(palette: Palette, value: str) -> str:
    return f"({{color: '{palette.muted}', fontSize: 11, formatter: (value) => {value}}})"


def _line(name: str, data: list[Any], color: str, dash: str | list[float]) -> Options:
    style = {"color": color, "width": 1.25, "type": dash}
    return {
        "type": "line", "name": name, "showSymbol": False, "connectNulls": False, "data": data, "lineStyle": style,
        "itemStyle": {"color": color},
    }  # fmt: skip


def _volume(name: str, at_ms: Ints, volume: Floats, color: str, width: str) -> Options:
    return {
        "type": "bar", "name": name, "xAxisIndex": 1, "yAxisIndex": 1, "barGap": "-100%", "barMaxWidth": 18,
        "barWidth": width, "itemStyle": {"color": color, "opacity": 0.55},
        "data": np.column_stack((at_ms, volume)).tolist(),
    }  # fmt: skip


def _shade(window: Window, gaps: Sequence[ShownGap], palette: Palette) -> Options:
    spans = [_cut(window, gap) for gap in gaps]
    return {
        "silent": True, "animation": False, "itemStyle": {"color": palette.gap, "opacity": 0.2},
        "data": [[{"xAxis": start}, {"xAxis": end}] for start, end in spans if start < end],
    }  # fmt: skip


def _cut(window: Window, gap: ShownGap) -> tuple[int, int]:
    start_ns, end_ns = max(gap.start_ns, window.start_ns), min(gap.end_ns or window.end_ns, window.end_ns)
    return start_ns // _NS_PER_MS, end_ns // _NS_PER_MS


def _broken(points: list[Any], window: Window, gaps: Sequence[ShownGap]) -> list[Any]:
    """Interrupt a line where trades could not be received."""
    holes = [[start, None] for start, end in (_cut(window, gap) for gap in gaps) if start < end]
    return sorted([*points, *holes], key=lambda point: point[0]) if points and holes else points


def _ms(times_ns: Ints) -> Ints:
    return times_ns // _NS_PER_MS


def _pairs(times_ns: Ints, values: Floats) -> list[Any]:
    pairs = zip(_ms(times_ns).tolist(), values.tolist(), strict=True)
    return [[at, None if math.isnan(value) else round(value, 3)] for at, value in pairs]
