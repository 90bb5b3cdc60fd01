"""The archive in Python: trades, bars, gaps, and coverage as Polars frames.

    from tape.research import bars, load

    load("NVDA", "2026-11-25").filter(pl.col("sets_volume")).select(pl.col("size").sum()).collect()
    bars(["NVDA", "AAPL"], "2026-11-02..2026-11-24", every="5m")

Days are those of the exchange, as text or dates: one, a range such as `2026-11-02..2026-11-24`, or None for all. Times
are in `tz`, by default the exchange's. The archive is the folder `data_dir`, by default that of the settings. With
`remote=True` it is the bucket of the settings: what is needed of it is downloaded once, into the folder's `cache/`.
`feed` limits everything to one feed. Errors are those of `tasks.errors`, each one line.
"""

import datetime as dt
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast, get_args

import polars as pl

from flows.settings import Settings, load_settings, writing_as
from tape.days import days_of, zone_named
from tape.selection import (
    Selection,
    bars_of,
    in_bucket,
    local,
    named_bucket,
    records_in_bucket,
    sessions_of,
    unique,
)
from tasks.duration import duration_ns
from tasks.errors import SettingsError
from tasks.market.hours import exchange_zone
from tasks.query.bars import DAY_NS, Prints, Session, Wanted
from tasks.query.prints import listed
from tasks.query.record_views import Days, add_records
from tasks.query.sources import sources_of
from tasks.query.views import connect
from tasks.storage.store import Store

Symbols = str | Iterable[str] | None
Date = str | dt.date | None


def load(
    symbols: Symbols = None,
    date: Date = None,
    *,
    feed: str | None = None,
    tz: str | None = None,
    remote: bool = False,
    data_dir: str | Path | None = None,
) -> pl.LazyFrame:
    """Return trades, by event time: the columns of the view `trades`, which docs/research.md lists.

    The rows are read at once: name symbols and days that fit into memory. Raises TerminalError if a symbol has no trade
    on these days.
    """
    names = _names(symbols)
    settings, chosen = _chosen(names, date, feed, remote, data_dir)
    where = f"WHERE symbol IN ({listed(names)})" if names else ""
    with writing_as(settings):  # What is found out about a closed day is kept in the cache.
        sources = sources_of(chosen.store, chosen.manifests, names)
    with connect(sources, sessions=sessions_of(settings.calendar)) as database:
        sql = f"SELECT * FROM trades {where} ORDER BY ts_event, ts_recv, connection, recv_seq"  # noqa: S608 - quoted
        frame = database.sql(sql).pl()
    chosen.check_symbols(names, set(frame["symbol"].unique()))
    return _in_zone(frame, settings, tz).lazy()


def bars(
    symbols: str | Iterable[str],
    date: Date,
    every: str = "1m",
    *,
    prints: Prints = "consolidated",
    session: Session = "regular",
    fill: bool = False,
    feed: str | None = None,
    tz: str | None = None,
    remote: bool = False,
    data_dir: str | Path | None = None,
) -> pl.DataFrame:
    """Return OHLCV bars, as `tape bars` does: `start` until just before `end`, with `gap_s` beside each.

    Raises TerminalError if a symbol has no trade on these days, and SettingsError if it has trades of several feeds.
    """
    every_ns = duration_ns(every)
    if not 0 < every_ns <= DAY_NS or date is None:
        raise SettingsError(f"bars: give a day, and the length of a bar up to a day: 10s, 1m, 1h, 1d; not {every[:40]}")
    for given, known in ((prints, Prints), (session, Session)):
        if given not in get_args(known):
            raise SettingsError(f"bars: {given!r} is none of {', '.join(get_args(known))}")
    names = _names(symbols)
    settings, chosen = _chosen(names, date, feed, remote, data_dir)
    wanted = Wanted(
        symbols=names, days=chosen.days, every_ns=every_ns, zone=exchange_zone(settings.calendar).key,
        prints=prints, session=session, fill=fill, until_ns=time.time_ns(),
    )  # fmt: skip
    with writing_as(settings):
        found = bars_of(chosen, wanted, settings.calendar)
    frame = cast(pl.DataFrame, pl.from_arrow(found.table))
    times = {name: pl.from_epoch(f"{name}_ns", time_unit="ns").alias(name) for name in ("start", "end")}
    others = [name for name in frame.columns if name not in ("symbol", "session", "start_ns", "end_ns")]
    return _in_zone(frame.select("symbol", times["start"], times["end"], "session", *others), settings, tz)


def gaps(
    symbols: Symbols = None,
    date: Date = None,
    *,
    feed: str | None = None,
    tz: str | None = None,
    remote: bool = False,
    data_dir: str | Path | None = None,
) -> pl.DataFrame:
    """Return when a session could not receive a symbol, clipped to the days: `start_at` until just before `end_at`.

    `end_at` is null while a gap is open. Another session may have received what one has missed; see `coverage`.
    """
    return _view("gaps", "start_at", symbols, date, feed, tz, remote, data_dir)


def coverage(
    symbols: Symbols = None,
    date: Date = None,
    *,
    feed: str | None = None,
    tz: str | None = None,
    remote: bool = False,
    data_dir: str | Path | None = None,
) -> pl.DataFrame:
    """Return for each symbol and minute of its market's hours whether a trade could be received, and for how long."""
    return _view("coverage", "minute", symbols, date, feed, tz, remote, data_dir)


def _view(
    name: str,
    order: str,
    symbols: Symbols,
    date: Date,
    feed: str | None,
    tz: str | None,
    remote: bool,
    data_dir: str | Path | None,
) -> pl.DataFrame:
    names, settings = _names(symbols), _settings(data_dir, remote)
    days, sessions = _days(date, settings), sessions_of(settings.calendar)
    if remote:
        with writing_as(settings):
            chosen = records_in_bucket(settings.data_dir, named_bucket(settings), days, feed)
    else:
        chosen = Selection(Store(settings.data_dir), days, (), feed)
    where = f"WHERE symbol IN ({listed(names)})" if names else ""
    with connect(sources_of(chosen.store, ())) as database:
        add_records(database, chosen.store, (), Days(chosen.first, chosen.last), sessions, [name], feed)
        sql = f"SELECT * FROM {name} {where} ORDER BY symbol, {order}"  # noqa: S608 - quoted
        return _in_zone(database.sql(sql).pl(), settings, tz)


def _chosen(
    names: tuple[str, ...], date: Date, feed: str | None, remote: bool, data_dir: str | Path | None
) -> tuple[Settings, Selection]:
    settings = _settings(data_dir, remote)
    days = _days(date, settings)
    if not remote:
        return settings, local(Store(settings.data_dir), days, feed)
    with writing_as(settings):
        return settings, in_bucket(
            settings.data_dir, named_bucket(settings), days, names, feed, exchange_zone(settings.calendar).key
        )


def _settings(data_dir: str | Path | None, remote: bool) -> Settings:
    settings = load_settings(data_dir=None if data_dir is None else Path(data_dir))
    if not remote and not settings.data_dir.is_dir():
        raise SettingsError(f"{settings.data_dir}: there is no such data folder; give data_dir or set TAPE_DATA_DIR")
    return settings


def _days(date: Date, settings: Settings) -> tuple[str, ...]:
    return days_of(date.isoformat() if isinstance(date, dt.date) else date, "date", settings)


def _names(symbols: Symbols) -> tuple[str, ...]:
    return unique((symbols,) if isinstance(symbols, str) else tuple(symbols or ()))


def _in_zone(frame: pl.DataFrame, settings: Settings, tz: str | None) -> pl.DataFrame:
    """Return the frame with every time, which is in UTC, in that zone or the exchange's."""
    zone: Any = exchange_zone(settings.calendar) if tz is None else zone_named(tz, "tz")
    times = pl.selectors.datetime().dt.replace_time_zone("UTC").dt.convert_time_zone(zone.key)
    return frame.with_columns(times)
