"""The command `tape bars`: its options as what the engine wants; bars as a table, CSV, JSON, plot, or file."""

import shutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args
from zoneinfo import ZoneInfo

import pyarrow as pa

from tape import report
from tape.cli.rows import print_json, print_rows
from tape.days import local_time, zone_named
from tape.selection import Selection, bars_of, unique
from tasks.duration import duration_ns
from tasks.errors import SettingsError, TerminalError
from tasks.query.bars import DAY_NS, Bar, Bars, Prints, Session, Wanted
from tasks.query.numbers import plain_number
from tasks.shown import count, plain

_PLOT_LINES = 16
Form = Literal["table", "csv", "json", "plot"]


@dataclass(frozen=True, slots=True)
class Asked:
    """The options of `tape bars` as given."""

    symbols: list[str]
    date: str
    every: str
    prints: str
    session: str
    tz: str | None
    fill: bool

    def wanted(self, days: tuple[str, ...], exchange_zone: str) -> Wanted:
        """Return what the engine wants. Raises SettingsError for an option that is wrong."""
        every_ns = duration_ns(self.every)
        if not 0 < every_ns <= DAY_NS:
            raise SettingsError(f"--every: {self.every} is not the length of a bar; write 10s, 1m, 1h, or 1d")
        return Wanted(
            symbols=unique(self.symbols), days=days, every_ns=every_ns, zone=exchange_zone,
            prints=cast(Prints, one_of(self.prints, "--prints", get_args(Prints))),
            session=cast(Session, one_of(self.session, "--session", get_args(Session))),
            fill=self.fill, until_ns=time.time_ns(),
        )  # fmt: skip


def one_of(given: str, place: str, known: Iterable[str]) -> str:
    """Return what is given if it is one of these. Raises SettingsError."""
    if given not in known:
        raise SettingsError(f"{place}: {given[:40]!r} is none of {', '.join(known)}")
    return given


def print_bars(selection: Selection, asked: Asked, calendar: str, form: Form, out: Path | None) -> None:
    """Print the bars in that form, or write them to the file."""
    from tasks.market.hours import exchange_zone
    from tasks.query.ask import check_out

    if out is not None:
        check_out(out)
    days_zone = exchange_zone(calendar)
    zone = days_zone if asked.tz is None else zone_named(asked.tz)
    found = bars_of(selection, asked.wanted(selection.days, days_zone.key), calendar)
    if found.unknown:
        report.tell(f"{count(found.unknown, 'print')} with unknown conditions: in the volume, but in no price")
    if not len(found.table):
        raise TerminalError(
            f"{', '.join(asked.symbols)}: no trade of {selection.title} is in the {asked.session} session; "
            "--session extended or all has the others"
        )
    if out is not None:
        report.line(f"{out}: {count(_write(found, zone, out.absolute()), 'bar')}")
    elif form == "json":
        rows = [_plain(bar, zone) for bar in found.rows()]
        print_json({
            "symbols": asked.symbols, "date": asked.date, "every": asked.every, "prints": asked.prints,
            "session": asked.session, "tz": zone.key, "bars": rows,
        })  # fmt: skip
    elif form == "plot":
        _print_plots(found, asked, zone)
    else:
        _print_rows(found, asked, zone, as_csv=form == "csv")


def _print_rows(found: Bars, asked: Asked, zone: ZoneInfo, *, as_csv: bool) -> None:
    """Print a table or CSV; a table leaves out the columns that say the same in each row."""
    same = set[str]()
    if not as_csv:
        same |= {"symbol"} if len(asked.symbols) == 1 else set()
        same |= {"session"} if asked.session == "regular" else set()
    rows = ({name: each for name, each in _plain(bar, zone).items() if name not in same} for bar in found.rows())
    columns = [name for name in ("symbol", "start", *_NAMES) if name not in same]
    if not as_csv:
        columns[columns.index("start")] = f"start ({zone.key})"
        rows = ({**row, "start": row["start"][:-6]} for row in rows)
    print_rows(tuple(columns), ([_text(each) for each in row.values()] for row in rows), as_csv)


_NAMES = ("session", "open", "high", "low", "close", "volume", "vwap", "trades", "gap_s")


def _plain(bar: Bar, zone: ZoneInfo) -> dict[str, Any]:
    values = {name: getattr(bar, name) for name in _NAMES}
    return {"symbol": bar.symbol, "start": local_time(bar.start_ns, zone), **values}


def _text(value: Any) -> str | None:
    return plain_number(value) if isinstance(value, float) else value


def _print_plots(found: Bars, asked: Asked, zone: ZoneInfo) -> None:
    from tasks.query.plot import plot

    width = shutil.get_terminal_size((100, 24)).columns
    for symbol, bars in _by_symbol(found.rows()):
        print(f"{plain(symbol)} {asked.date}, {asked.every} bars, times of {zone.key}: O rose, # fell, | low to high")
        first, last = (local_time(ns, zone)[:10] for ns in (bars[0].start_ns, bars[-1].end_ns - 1))
        label = slice(11, 16) if first == last else slice(5, 16)

        def time_of(ns: int, label: slice = label) -> str:
            return local_time(ns, zone)[label]

        lines = plot(bars, width, _PLOT_LINES, time_of)
        print("\n".join(lines) if lines else "no print may set a price")


def _by_symbol(bars: Iterator[Bar]) -> Iterator[tuple[str, list[Bar]]]:
    found: dict[str, list[Bar]] = {}
    for bar in bars:
        found.setdefault(bar.symbol, []).append(bar)
    yield from found.items()


def _write(found: Bars, zone: ZoneInfo, out: Path) -> int:
    """Write the bars: Parquet has UTC times, text files have local ones with their offset."""
    from tasks.query.ask import write
    from tasks.query.sources import Sources
    from tasks.query.views import connect
    from tasks.storage.store import unfinished

    start = found.table["start_ns"]
    if out.name.lower().endswith(".parquet"):
        times = start.cast(pa.timestamp("ns")).cast(pa.timestamp("us", "UTC"))
    else:
        times = pa.array([local_time(ns, zone) for ns in start.to_pylist()], pa.string())
    table = found.table.select(["symbol", *_NAMES]).add_column(1, "start", times)
    with connect(Sources(), out=unfinished(out)) as database:
        database.register("bars", table)
        return write(database, "FROM bars", out)
