"""Draws the pictures of a run's page as SVG in Markdown, readable on a light and on a dark background.

Prefect's UI strips inline SVG from Markdown, but shows an image whose address is its data.
"""

import base64
import datetime as dt
import io
from collections.abc import Callable, Sequence
from typing import Any
from zoneinfo import ZoneInfo

from tasks.query.minutes import MINUTE_NS, Minute
from tasks.records.ledger import Gap
from tasks.records.trade import NS_PER_S
from tasks.spans import Span

_SIZE_IN = (9.0, 2.0)
# Both stand out on white and on black, and from each other for the color-blind (Okabe and Ito, 2008).
_BLUE, _ORANGE, _RED, _GRAY = "#3d8fd1", "#e69f00", "#d55e00", "#8a8f98"
_MOST_GAPS = 2_000


def trades_picture(minutes: Sequence[Minute], span: Span, zone: ZoneInfo) -> str:
    """Return a picture of the trades in each minute."""

    def draw(axes: Any) -> None:
        counts = {each.start_ns: each.trades for each in minutes}
        times = sorted({ns for start_ns in counts for ns in (start_ns, start_ns + MINUTE_NS)})
        axes.fill_between(
            [_at(ns, zone) for ns in times], [counts.get(ns, 0) for ns in times], step="post", color=_BLUE
        )
        axes.set_ylim(bottom=0)

    most = max((each.trades for each in minutes), default=0)
    return _picture("trades a minute", f"Trades a minute; the most are {most:,}.", span, zone, draw)


def lag_picture(minutes: Sequence[Minute], span: Span, zone: ZoneInfo) -> str:
    """Return a picture of the lag from event to receipt: median and 99th percentile of each minute."""

    def draw(axes: Any) -> None:
        times = [_at(each.start_ns + MINUTE_NS // 2, zone) for each in minutes]
        for name, color, values in (
            ("p99", _ORANGE, [each.p99_ms for each in minutes]),
            ("median", _BLUE, [each.p50_ms for each in minutes]),
        ):
            axes.plot(times, values, color=color, label=name, linewidth=1.5, marker="." if len(times) < 30 else None)
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), frameon=False, labelcolor=_GRAY, fontsize=8, ncols=2)

    most = max((each.most_ms for each in minutes), default=0)
    return _picture("lag, ms", f"Lag from event to receipt; the worst is {most:,.0f} ms.", span, zone, draw)


def gap_picture(gaps: Sequence[Gap], hours: Sequence[Span], span: Span, until_ns: int, zone: ZoneInfo) -> str:
    """Return a timeline: market hours, what was recorded of the requested time until `until_ns`, and the gaps in it."""

    def draw(axes: Any) -> None:
        def bars(row: int, spans: Sequence[Span], color: str) -> None:
            found = [(_at(start, zone), _at(end, zone) - _at(start, zone)) for start, end in spans if end > start]
            axes.broken_barh(found, (row - 0.35, 0.7), color=color)

        bars(2, hours, _GRAY)
        bars(1, [(span[0], min(span[1], until_ns))], _BLUE)
        ends = ((gap.start_ns, until_ns if gap.end_ns is None else gap.end_ns) for gap in gaps[:_MOST_GAPS])
        # A gap of seconds in a day is narrower than a dot: each is drawn at least so wide.
        least_ns = (span[1] - span[0]) // 300
        bars(0, [(start, max(end, start + least_ns)) for start, end in ends], _RED)
        axes.set_yticks([2, 1, 0], ["market hours", "requested", "gaps"])
        axes.set_ylim(-0.6, 2.6)

    said = f"Timeline with {len(gaps):,} gaps." if gaps else "Timeline without a gap."
    return _picture("", said, span, zone, draw)


def _picture(title: str, text: str, span: Span, zone: ZoneInfo, draw: Callable[[Any], None]) -> str:
    """Return the drawing as an image in Markdown, `text` its alternative text."""
    # Imported here: it takes a second, which a run that has nothing to show need not wait.
    import matplotlib
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter, date2num
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.fonttype": "none", "font.family": "sans-serif", "svg.hashsalt": "tape"}):
        figure = Figure(figsize=_SIZE_IN, layout="constrained")
        axes = figure.subplots()
        draw(axes)
        axes.set_xlim(*(date2num(_at(ns, zone)) for ns in span))  # type: ignore[no-untyped-call]
        locator = AutoDateLocator(tz=zone, minticks=4, maxticks=10)  # type: ignore[no-untyped-call]
        axes.xaxis.set_major_locator(locator)
        axes.xaxis.set_major_formatter(ConciseDateFormatter(locator, tz=zone))  # type: ignore[no-untyped-call]
        axes.set_ylabel(title, color=_GRAY)
        axes.tick_params(colors=_GRAY, labelsize=8)
        axes.xaxis.get_offset_text().set_color(_GRAY)
        axes.grid(axis="y", color=_GRAY, alpha=0.25, linewidth=0.5)
        axes.set_axisbelow(True)
        for name, spine in axes.spines.items():
            spine.set_visible(name == "bottom")
            spine.set_color(_GRAY)
        out = io.BytesIO()
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    return f"![{text}](data:image/svg+xml;base64,{base64.b64encode(out.getvalue()).decode()})"


def _at(ns: int, zone: ZoneInfo) -> dt.datetime:
    return dt.datetime.fromtimestamp(ns / NS_PER_S, zone)
