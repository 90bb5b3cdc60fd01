"""The commands that use the archive: `ls`, `show`, `bars`, `query`, `restore`, and `verify --remote`."""

import datetime as dt
import hashlib
import shutil
import time
from pathlib import Path
from typing import Annotated, Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

import msgspec
import typer

from flows.settings import Settings, settings_to_write
from flows.surroundings import check_tls
from tape import report
from tape.cli.progress import progress
from tape.cli.rows import as_json_line, print_json, print_rows
from tasks.duration import duration_ns
from tasks.errors import SettingsError, TerminalError
from tasks.records.manifest import Manifest, read
from tasks.records.names import is_session_name
from tasks.records.trade import NS_PER_S
from tasks.shown import plain
from tasks.storage.store import Store

DataDir = Annotated[Path | None, typer.Option("--data-dir", help="The data folder. [TAPE_DATA_DIR, ./data]")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
AsCsv = Annotated[bool, typer.Option("--csv", help="Print CSV.")]
Remote = Annotated[bool, typer.Option("--remote", help="Read from the bucket; files are downloaded once and cached.")]
Date = Annotated[str | None, typer.Option("--date", help="Only this day: YYYY-MM-DD, today or yesterday.")]

_DAY_NS = 86_400 * NS_PER_S
_PLOT_LINES = 16


def add_to(app: typer.Typer) -> None:
    """Add these commands to the app."""
    for command in (ls, show, bars, query, restore):
        app.command()(command)


def ls(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """List the recorded days and sessions, and how far each has come."""
    from tape.cli.holdings import days_and_sessions, print_days_and_sessions

    days, sessions = days_and_sessions(_store(settings_to_write(data_dir=data_dir)), time.time_ns())
    if as_json:
        print_json({"days": days, "sessions": sessions})
    else:
        print_days_and_sessions(days, sessions)


def show(
    what: Annotated[str, typer.Argument(help="A session's name, or a day: YYYY-MM-DD, today or yesterday.")],
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Show one session or day: ledger, gaps, symbols, lag, and reasons for quarantine."""
    from tape.cli.holdings import print_shown
    from tape.cli.holdings import shown as known

    settings = settings_to_write(data_dir=data_dir)
    if not is_session_name(what):
        what = day_of(what, "the argument", settings)
    found, ledger = known(_store(settings), what, time.time_ns())
    if as_json:
        print_json({**found, "ledger": report.as_json(ledger) if ledger else None})
    else:
        print_shown(found, ledger, settings.data_dir)


def bars(
    symbol: Annotated[str, typer.Argument(help="The symbol, as the feed spells it.")],
    date: Annotated[str, typer.Option("--date", help="The day: YYYY-MM-DD, today or yesterday.")],
    every: Annotated[str, typer.Option("--every", help="The length of a bar: 10s, 1m, 1h.")] = "1m",
    tz: Annotated[str, typer.Option("--tz", help="The time zone of the bars' start times.")] = "UTC",
    plot: Annotated[bool, typer.Option("--plot", help="Draw a chart in plain characters.")] = False,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
    remote: Remote = False,
    data_dir: DataDir = None,
) -> None:
    """Print a symbol's OHLCV bars for one day, by event time."""
    from tasks.query import bars as engine
    from tasks.query.sources import sources_of

    every_ns, zone = duration_ns(every), _zone(tz)
    if not 0 < every_ns <= _DAY_NS:
        raise SettingsError(f"--every: {every} is not the length of a bar; write 10s, 1m, 1h, or 1d")
    settings = settings_to_write(data_dir=data_dir)
    _one_form(as_json, as_csv, plot)
    date = day_of(date, "--date", settings)
    store, manifests = _manifests(settings, remote, date, symbol)
    found = engine.bars(sources_of(store, manifests, symbol), symbol, every_ns)
    if not found:
        held = {each for path in manifests for each in read(path, Manifest).report.per_symbol}
        near = report.did_you_mean(symbol, held) or f"`tape show {date}` lists that day's symbols"
        raise TerminalError(f"{symbol}: no trade of {date} is archived; {near}")
    if as_json:
        print_json(
            {"symbol": symbol, "date": date, "every": every, "tz": tz, "bars": [_bar(bar, zone) for bar in found]}
        )
    elif plot:
        print(f"{plain(symbol)} {date}, {every} bars, times of {tz}: O rose, # fell, | low to high")
        width = shutil.get_terminal_size((100, 24)).columns
        print("\n".join(engine.plot(found, width, _PLOT_LINES, lambda ns: _local(ns, zone)[11:16])))
    else:
        start, *others = _bar(found[0], zone)
        columns = (start if as_csv else f"{start} ({tz})", *others)
        print_rows(columns, (tuple(_bar(bar, zone).values()) for bar in found), as_csv)


def query(
    sql: Annotated[str, typer.Argument(help='One SELECT over trades, gaps and sessions: "select …".')],
    date: Date = None,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
    remote: Remote = False,
    data_dir: DataDir = None,
) -> None:
    """Query the archive with SQL (DuckDB). --json prints one object per line."""
    from tasks.query.ask import ask
    from tasks.query.sources import sources_of
    from tasks.query.views import add_sessions, connect

    _one_form(as_json, as_csv)
    settings = settings_to_write(data_dir=data_dir)
    date = None if date is None else day_of(date, "--date", settings)
    store, manifests = _manifests(settings, remote, date, None)
    spill = settings.data_dir / "cache" / "spill"
    spill.mkdir(parents=True, exist_ok=True)
    with connect(sources_of(store, manifests), spill) as database:
        if any(view in sql.lower() for view in ("sessions", "gaps", "tables")):
            add_sessions(database, store, manifests, date)
        answer = ask(database, sql)
        if as_json:
            for row in answer.rows:
                print(as_json_line(dict(zip(answer.columns, row, strict=True))))
        else:
            print_rows(answer.columns, answer.rows, as_csv)


def restore(date: Date = None, data_dir: DataDir = None) -> None:
    """Restore a day, or everything, from the bucket, verified; never overwrites anything that differs."""
    settings = settings_to_write(data_dir=data_dir)
    day = None if date is None else day_of(date, "--date", settings)
    bucket = _bucket(settings)
    from tasks.upload.restore import restore as bring

    with progress("days restored") as told:
        done = bring(Store(settings.data_dir).prepare(), bucket, day, time.time_ns, told)
    print(
        f"{day or 'everything'}: {done.fetched:,} batches restored ({done.bytes:,} bytes, SHA-256 compared), "
        f"{done.equal:,} were already here and equal; {done.days:,} merged days and {done.sessions:,} session records"
    )
    for note in done.notes:
        report.line(("note", "yellow"), f" {note}")


def verify_remote(settings: Settings, as_json: bool) -> bool:
    """Compare the bucket with the local records and print the result; return whether all holds."""
    bucket = _bucket(settings)
    from tasks.upload.audit import audit

    verdict = audit(_store(settings), bucket)
    if as_json:
        print_json({"holds": verdict.holds, **msgspec.to_builtins(verdict)})
        return verdict.holds
    for wrong in verdict.wrong:
        report.line((wrong.kind, "red"), f" {wrong.key}: {wrong.message}")
    how = "by the store's SHA-256" + (f", {verdict.downloaded:,} by download" if verdict.downloaded else "")
    merged = f" ({verdict.merged:,} only as part of their day)" if verdict.merged else ""
    count = (
        f"{verdict.batches:,} batches{merged}, {verdict.sessions:,} sessions, {verdict.days:,} merged days: "
        f"{verdict.objects:,} objects, {verdict.bytes:,} bytes compared {how}"
    )
    end = "everything matches its receipt" if verdict.holds else f"{len(verdict.wrong)} problems found"
    report.out.print(f"{verdict.bucket}: {count}: {end}", soft_wrap=True)
    return verdict.holds


def _manifests(settings: Settings, remote: bool, date: str | None, symbol: str | None) -> tuple[Store, list[Path]]:
    """Return the manifests of one day or all; the bucket's are downloaded into a cache in the data folder."""
    if not remote:
        store = _store(settings)
        return store, store.manifests(date=date or "*")
    bucket = _bucket(settings)
    from tasks.upload.mirror import mirror

    place = hashlib.sha256(msgspec.json.encode([bucket.endpoint_url, bucket.name, bucket.prefix])).hexdigest()[:16]
    cache = Store(settings.data_dir / "cache" / place)

    def wanted(day: str, manifest: Manifest | None) -> bool:
        here = manifest is None or symbol is None or symbol in manifest.report.per_symbol
        return date in (None, day) and here

    return cache, mirror(cache, bucket, wanted, time.time_ns)


def _bucket(settings: Settings) -> Any:
    if settings.s3_bucket is None:
        raise SettingsError("TAPE_S3_BUCKET: is not set; name the bucket that holds the archive")
    check_tls()
    from flows.bucket import bucket_of

    return bucket_of(settings)


def _store(settings: Settings) -> Store:
    if not settings.data_dir.is_dir():
        raise SettingsError(f"{settings.data_dir}: there is no such data folder; give --data-dir or set TAPE_DATA_DIR")
    return Store(settings.data_dir)


def day_of(text: str, place: str, settings: Settings) -> str:
    """Parse a day (YYYY-MM-DD); today and yesterday are the exchange's. Raises SettingsError."""
    from tasks.market.hours import exchange_zone

    ago = {"today": 0, "yesterday": 1}.get(text.strip().lower())
    if ago is not None:
        return (dt.datetime.now(exchange_zone(settings.calendar)).date() - dt.timedelta(days=ago)).isoformat()
    try:
        return dt.date.fromisoformat(text).isoformat()
    except ValueError as error:
        raise SettingsError(
            f"{place}: {text[:40]!r} is not a day; write YYYY-MM-DD, today, or yesterday; `tape ls` lists days"
        ) from error


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ValueError, OSError, ZoneInfoNotFoundError) as error:
        near = report.did_you_mean(name, available_timezones()) or "use a name such as America/New_York"
        raise SettingsError(f"--tz: {name[:40]!r} is not a time zone; {near}") from error


def _one_form(*forms: bool) -> None:
    if sum(forms) > 1:
        raise SettingsError("give only one of --json, --csv, and --plot")


def _bar(bar: Any, zone: ZoneInfo) -> dict[str, Any]:
    """Return a bar as it is printed: its start as text, its numbers without trailing zeros."""
    from tasks.query.decimals import trimmed

    numbers = {name: trimmed(getattr(bar, name)) for name in ("open", "high", "low", "close", "volume", "vwap")}
    return {"start": _local(bar.start_ns, zone), **numbers, "trades": bar.trades}


def _local(ns: int, zone: ZoneInfo) -> str:
    moment = dt.datetime.fromtimestamp(ns // NS_PER_S, zone)
    return f"{moment:%Y-%m-%d %H:%M:%S}" + (f".{ns % NS_PER_S:09d}".rstrip("0") if ns % NS_PER_S else "")
