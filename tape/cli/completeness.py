"""Prints whether a day is complete: which share of its market's hours could be received, and why not all of it."""

from zoneinfo import ZoneInfo

from tape import report
from tape.completeness import Completeness
from tape.days import local_time
from tasks.duration import format_duration
from tasks.errors import SettingsError
from tasks.feeds.registry import feed_named
from tasks.records.trade import NS_PER_S
from tasks.shown import count, share
from tasks.spans import Span

_SHOWN = 10


def print_completeness(found: Completeness, day: str) -> None:
    """Print the answer in one line; then what is missing and why, worst first; then what the feed carries at best."""
    symbols = count(len(found.hours), "symbol")
    if found.is_complete is None:
        report.line(f"{day}: no market of {symbols} was open")
    elif found.is_complete:
        report.line((f"{day}: complete", "green"), f": {symbols}, all of market hours could be received")
    else:
        lost = sum(bool(pieces) for pieces in found.missing.values())
        report.line(
            (f"{day}: NOT complete", "red"),
            f": {share(found.share)} of market hours could be received; {lost:,} of {symbols} have something missing",
        )
    _print_missing(found)
    for feed in found.feeds:
        try:
            report.line(f"  {feed} carries {feed_named(feed).carries}")
        except SettingsError:
            continue  # A feed of a later version.


def _print_missing(found: Completeness) -> None:
    alike: dict[tuple[tuple[Span, str], ...], list[str]] = {}
    for symbol, pieces in found.missing.items():
        if pieces:
            alike.setdefault(pieces, []).append(symbol)
    lines = []
    for pieces, symbols in alike.items():
        zone = ZoneInfo(found.zones[symbols[0]])
        names = ", ".join(symbols[:5]) + (f" and {len(symbols) - 5:,} more" if len(symbols) > 5 else "")
        for (start, end), why in pieces:
            times = f"{local_time(start, zone)[11:19]} to {local_time(end, zone)[11:19]} {zone.key}"
            lines.append(((end - start) * len(symbols), f"  {names}: {times} ({_rounded(end - start)}): {why}"))
    for _, text in sorted(lines, reverse=True)[:_SHOWN]:
        report.line(text)
    if len(lines) > _SHOWN:
        report.line(f"  … and {len(lines) - _SHOWN:,} more; `tape show --json` lists them")


def _rounded(ns: int) -> str:
    return format_duration(round(ns / NS_PER_S) * NS_PER_S) if ns >= NS_PER_S else f"{ns / NS_PER_S:.3f}s"
