"""The commands that use the archive: `ls`, `show`, `bars`, `query`, `restore`, and `verify --remote`."""

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from flows.settings import Settings, settings_to_write
from tape import report
from tape.cli.options import DataDir, existing
from tape.cli.progress import progress
from tape.cli.rows import as_json_line, print_json, print_rows
from tape.days import day_of, days_of
from tasks.errors import SettingsError
from tasks.records.names import is_session_name
from tasks.shown import count
from tasks.storage.store import Store

if TYPE_CHECKING:
    from tape.selection import Selection

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
AsCsv = Annotated[bool, typer.Option("--csv", help="Print CSV.")]
Remote = Annotated[bool, typer.Option("--remote", help="Read from the bucket; files are downloaded once and cached.")]
_DAYS = "A day or a range of days: YYYY-MM-DD, today, yesterday, A..B"
Date = Annotated[str | None, typer.Option("--date", help=f"{_DAYS}. [all]")]
Day = Annotated[str | None, typer.Option("--date", help="Only this day: YYYY-MM-DD, today or yesterday.")]
Feed = Annotated[str | None, typer.Option("--feed", help="Only what came from this feed. [all]")]
Out = Annotated[
    Path | None,
    typer.Option("--out", help="Write to this new file: .parquet, .csv, .csv.gz, .csv.zst, .jsonl, .jsonl.gz."),
]

_SYMBOL_TESTS = re.compile(r"\bsymbol\s*(?:=\s*'[^']+'|in\s*\([^)]*\))", re.IGNORECASE)


def add_to(app: typer.Typer) -> None:
    """Add these commands to the app."""
    for command in (ls, show, bars, query, restore):
        app.command()(command)


def ls(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """List the recorded days and sessions, and how far each has come."""
    from tape.cli.holdings import print_days_and_sessions
    from tape.holdings import days_and_sessions

    days, sessions = days_and_sessions(existing(settings_to_write(data_dir=data_dir).data_dir), time.time_ns())
    if as_json:
        print_json({"days": days, "sessions": sessions})
    else:
        print_days_and_sessions(days, sessions)


def show(
    what: Annotated[str, typer.Argument(help="A session's name, or a day: YYYY-MM-DD, today or yesterday.")],
    feed: Feed = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Show one session or day: whether it is complete, ledger, gaps, symbols, lag, and reasons for quarantine."""
    from tape.cli.holdings import print_shown
    from tape.holdings import shown as known

    settings = settings_to_write(data_dir=data_dir)
    if not is_session_name(what):
        what = day_of(what, "the argument", settings)
    found, ledger = known(existing(settings.data_dir), what, time.time_ns(), settings.calendar, feed)
    if as_json:
        whole = found["completeness"] and found["completeness"].as_json()
        print_json({**found, "completeness": whole, "ledger": report.as_json(ledger) if ledger else None})
    else:
        print_shown(found, ledger, settings.data_dir)


def bars(
    symbols: Annotated[list[str], typer.Argument(help="One or more symbols, as the feed spells them.")],
    date: Annotated[str, typer.Option("--date", help=f"{_DAYS}.")],
    every: Annotated[str, typer.Option("--every", help="The length of a bar: 10s, 1m, 1h, 1d.")] = "1m",
    prints: Annotated[
        str, typer.Option("--prints", help="consolidated: those that set the tape's prices; or all.")
    ] = "consolidated",
    session: Annotated[
        str, typer.Option("--session", help="regular hours, extended (also before and after them), or all.")
    ] = "regular",
    tz: Annotated[str | None, typer.Option("--tz", help="The time zone of start times. [the exchange's]")] = None,
    fill: Annotated[bool, typer.Option("--fill", help="Also print bars without a trade: the last price.")] = False,
    plot: Annotated[bool, typer.Option("--plot", help="Draw a chart in plain characters.")] = False,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
    out: Out = None,
    feed: Feed = None,
    remote: Remote = False,
    data_dir: DataDir = None,
) -> None:
    """Print OHLCV bars by event time, of the exchange's days."""
    from tape.cli.bars import Asked, Form, print_bars
    from tape.selection import in_bucket, local, named_bucket
    from tasks.market.hours import exchange_zone

    _one_form(as_json, as_csv, plot, out is not None)
    settings = settings_to_write(data_dir=data_dir)
    asked = Asked(symbols, date, every, prints, session, tz, fill)
    form: Form = "json" if as_json else "csv" if as_csv else "plot" if plot else "table"
    days = days_of(date, "--date", settings)
    if remote:
        zone = exchange_zone(settings.calendar).key
        selection = in_bucket(settings.data_dir, named_bucket(settings), days, symbols, feed, zone)
    else:
        selection = local(existing(settings.data_dir), days, feed)
    print_bars(selection, asked, settings.calendar, form, out)


def query(
    sql: Annotated[str, typer.Argument(help='One SELECT over the views: "select … from trades".')],
    date: Date = None,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
    out: Out = None,
    feed: Feed = None,
    remote: Remote = False,
    data_dir: DataDir = None,
) -> None:
    """Query the archive with SQL (DuckDB): trades, gaps, coverage, sessions, and days.

    --json prints one object per line.
    """
    from tape.selection import in_bucket, local, named_bucket, sessions_of
    from tasks.query.ask import ask, check_out, write
    from tasks.query.record_views import VIEWS, Days, add_records
    from tasks.query.sources import sources_of
    from tasks.query.views import connect
    from tasks.storage.store import unfinished

    _one_form(as_json, as_csv, out is not None)
    if out is not None:
        check_out(out)
    settings = settings_to_write(data_dir=data_dir)
    days = days_of(date, "--date", settings)
    if remote:
        chosen = in_bucket(settings.data_dir, named_bucket(settings), days, (), feed)
    else:
        chosen = local(existing(settings.data_dir), days, feed)
    spill = settings.data_dir / "cache" / "spill"
    spill.mkdir(parents=True, exist_ok=True)
    sessions, file = sessions_of(settings.calendar), None if out is None else unfinished(out.absolute())
    with connect(sources_of(chosen.store, chosen.manifests), spill, sessions, file) as database:
        lower = sql.lower()
        only = VIEWS if "tables" in lower else [view for view in VIEWS if view in lower]
        limits = Days(chosen.first, chosen.last)
        add_records(database, chosen.store, chosen.manifests, limits, sessions, only, feed)
        if out is not None:
            rows = write(database, sql, out.absolute())
            report.line(f"{out}: {count(rows, 'row')}")
        else:
            answer = ask(database, sql)
            rows = _print_answer(answer, as_json, as_csv)
    if not rows:
        _say_unknown(sql, chosen)


def _print_answer(answer: Any, as_json: bool, as_csv: bool) -> int:
    """Print an answer's rows as they arrive, and return how many there were."""
    counted = _Counted(answer.rows)
    if as_json:
        for row in counted:
            print(as_json_line(dict(zip(answer.columns, row, strict=True))))
    else:
        print_rows(answer.columns, counted, as_csv)
    return counted.count


class _Counted:
    """Counts what passes."""

    def __init__(self, rows: Iterator[Any]) -> None:
        self._rows = rows
        self.count = 0

    def __iter__(self) -> Iterator[Any]:
        for row in self._rows:
            self.count += 1
            yield row


def _say_unknown(sql: str, chosen: "Selection") -> None:
    """Tell the user about a symbol in the statement that has no trade: most likely a slip."""
    from tape.selection import near

    texts = [text for found in _SYMBOL_TESTS.finditer(sql) for text in re.findall(r"'([^']+)'", found[0])]
    known = chosen.symbols() if texts else set()
    for text in texts:
        if text not in known:
            report.tell(f"{text}: no trade of {chosen.title} is archived; {near(text, known, chosen)}")


def restore(date: Day = None, data_dir: DataDir = None) -> None:
    """Restore a day, or everything, from the bucket, verified; never overwrites anything that differs."""
    settings = settings_to_write(data_dir=data_dir)
    day = None if date is None else day_of(date, "--date", settings)
    from tape.selection import named_bucket
    from tasks.upload.restore import restore as bring

    bucket = named_bucket(settings)

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
    from tape.selection import named_bucket
    from tasks.upload.audit import audit

    verdict = audit(existing(settings.data_dir), named_bucket(settings))
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


def _one_form(*forms: bool) -> None:
    if sum(forms) > 1:
        raise SettingsError("give only one of --json, --csv, --plot, and --out")
