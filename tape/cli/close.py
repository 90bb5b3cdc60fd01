"""The command `tape close`: closes days and prints the result."""

import datetime as dt
import time
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from flows.orchestrator import orchestrated, run
from flows.settings import chosen, load_settings
from flows.surroundings import check_bucket_of, check_tls
from tape import report
from tape.cli.options import FAILED, DataDir
from tape.cli.rows import print_json
from tasks.errors import SettingsError
from tasks.market.hours import exchange_zone

if TYPE_CHECKING:  # Importing it imports Prefect.
    from flows.close_days import Closing


def close(
    date: Annotated[
        str | None, typer.Option("--date", help="Only this day, YYYY-MM-DD; by default every day that is over.")
    ] = None,
    data_dir: DataDir = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Merge days into one file each, upload them, and apply the retention settings."""
    settings = load_settings(data_dir=data_dir)  # Report errors before a server is started.
    exchange_zone(settings.calendar)
    check_tls()
    day = None if date is None else _date(date)
    from flows.close_days import Closing, NotClosed, anything_to_close, close_day
    from tape.cli.log_lines import expected_errors_in_a_line

    check_bucket_of(settings)
    expected_errors_in_a_line()
    failure = None
    closing = Closing((), (), ())
    try:
        if anything_to_close(settings, day, time.time_ns()):
            with chosen(data_dir=data_dir), orchestrated(report.tell):
                closing = run(close_day, report.tell, date=day)
    except NotClosed as error:
        failure, closing = error, error.closing
    if as_json:
        print_json(_as_json(closing) | {"closed": failure is None})
    else:
        _print(closing)
    if failure is not None:
        for line in str(failure).splitlines():
            report.line(("tape:", "red"), f" {line}", to=report.errors)
        raise typer.Exit(FAILED)


def _as_json(closing: "Closing") -> dict[str, Any]:
    found: dict[str, Any] = msgspec.to_builtins(closing)
    for day in found["days"]:
        day["batches"] = len(day["batches"])
    return found


def _print(closing: "Closing") -> None:
    for day in closing.days:
        held = f"{day.rows:,} trades of {len(day.batches):,} batches in {day.bytes:,} bytes"
        report.out.print(f"{day.feed} {day.date}: {held}")
    if not closing.days:
        report.out.print("there was no day to close")
    if closing.removed:
        size = sum(each.bytes for each in closing.removed)
        report.out.print(f"{len(closing.removed):,} files deleted, {size:,} bytes, each proven to be elsewhere")
    for each in closing.kept:
        report.line(("kept", "yellow"), f" {each.file}: {each.reason}")


def _date(text: str) -> dt.date:
    try:
        return dt.date.fromisoformat(text)
    except ValueError as error:
        raise SettingsError(f"--date: {text[:40]!r} is not a day; write YYYY-MM-DD, `tape ls` lists them") from error
