"""What a page must show, computed from journals line by line, with nothing of the page's own code."""

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from tasks.records.names import BatchName


@dataclass(frozen=True, slots=True)
class JournalRow:
    """One line of a journal."""

    ts_recv: int
    ts_event: int
    symbol: str
    price: str
    size: str
    conditions: str


def journal_rows(*folders: Path) -> list[JournalRow]:
    """The lines of every journal in these folders, of each lane in order of receipt; a file in two folders once."""
    files = {BatchName.parse(path.name): path for folder in folders for path in folder.glob("*.csv*")}
    return [
        JournalRow(
            int(row["ts_recv"]), int(row["ts_event"]), row["symbol"], row["price"], row["size"], row["conditions"]
        )
        for _, path in sorted(files.items())
        for row in csv.DictReader(path.read_text().splitlines(keepends=True))
    ]


def expected_totals(rows: Iterable[JournalRow]) -> dict[str, dict[str, Any]]:
    """Last price, change, volume, trades and newest receive stamp of each symbol."""
    found: dict[str, list[JournalRow]] = {}
    for row in rows:
        found.setdefault(row.symbol, []).append(row)
    totals = {}
    for symbol, mine in found.items():
        by_time = sorted(mine, key=lambda row: row.ts_event)  # Stable: equal times stay in order of receipt.
        first, last = float(by_time[0].price), float(by_time[-1].price)
        totals[symbol] = {
            "last": last, "change": last / first - 1, "volume": float(sum(Decimal(row.size) for row in mine)),
            "trades": len(mine), "newest": max(row.ts_recv for row in mine),
        }  # fmt: skip
    return totals


def expected_bars(rows: Iterable[JournalRow], symbol: str, every_ns: int) -> list[tuple[Any, ...]]:
    """Start, open, high, low, close, volume and trades of each interval in which the symbol traded."""
    by_start: dict[int, list[JournalRow]] = {}
    for row in sorted((row for row in rows if row.symbol == symbol), key=lambda row: row.ts_event):
        by_start.setdefault(row.ts_event // every_ns * every_ns, []).append(row)
    bars = []
    for start, mine in sorted(by_start.items()):
        prices = [float(row.price) for row in mine]
        volume = float(sum(Decimal(row.size) for row in mine))
        bars.append((start, prices[0], max(prices), min(prices), prices[-1], volume, len(mine)))
    return bars


def shown_bars(bars: Any) -> list[tuple[Any, ...]]:
    """The page's bars in the same form."""
    columns = (bars.start_ns, bars.open, bars.high, bars.low, bars.close, bars.volume, bars.trades)
    return list(zip(*(each.tolist() for each in columns), strict=True))
