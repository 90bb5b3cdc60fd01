"""The command `tape`: runs flows, and engines that need no flow, from a terminal.

Results go to stdout, everything else to stderr. Exit status: 0 means done and balanced, 1 not, and 2 that a setting or
argument is wrong. Only commands that run a flow import Prefect; the others start in a fraction of a second.
"""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from flows.deadline import deadline_for
from flows.orchestrator import orchestrated, run
from flows.settings import chosen, load_settings, reach_this_machine_without_a_proxy
from flows.stopping import ended_in_order
from flows.surroundings import check_bucket_of, check_feed, check_tls
from tape import report
from tape.cli import close, dashboard, query, service, status
from tape.cli.options import FAILED, WRONG_USE, DataDir, SessionName, existing
from tape.cli.progress import progress
from tape.cli.terminal import take_any_text
from tape.days import day_of
from tape.live import session_shown
from tape.watched_symbols import change_watched
from tasks.errors import RecorderError, SettingsError
from tasks.feeds.registry import DEFAULT, FEEDS, feed_named
from tasks.records.ledger import Ledger
from tasks.records.manifest import SOFTWARE
from tasks.shown import count
from tasks.storage.store import Store

app = typer.Typer(
    help="Record the live market tape: every trade, with proof that the record is complete.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
symbols_app = typer.Typer(help="Change or list the symbols of a running session.", no_args_is_help=True)
app.add_typer(symbols_app, name="symbols")
query.add_to(app)
status.add_to(app)
app.command()(close.close)
app.command()(dashboard.dashboard)
service.add_to(app)

_FEEDS = " or ".join(FEEDS)

Symbols = Annotated[list[str], typer.Argument(help="One or more symbols.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object, the last line of stdout.")]


_debug = False


def _version(asked: bool) -> None:
    if asked:
        print(SOFTWARE)
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[  # noqa: ARG001 - its callback prints it.
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an unexpected error.")] = False,
) -> None:
    """Record the live market tape: every trade, with proof that the record is complete."""
    global _debug
    _debug = debug


@app.command()
def demo(
    seconds: Annotated[int, typer.Option("--for", help="Seconds to record.", min=5, max=600)] = 30,
    data_dir: Annotated[Path, typer.Option(help="The folder for the demo's data.")] = Path("demo-data"),
    with_dashboard: Annotated[bool, typer.Option("--dashboard", help="Also serve the web page, until Ctrl-C.")] = False,
) -> None:
    """Record a generated tape from a local server: no key, no configuration."""
    check_tls()
    from tape.cli import demo as show

    with ended_in_order(report.tell):
        show.run(seconds, data_dir, report.tell, with_dashboard=with_dashboard)


@app.command()
def record(
    symbols: Annotated[list[str] | None, typer.Argument(help="Symbols to record. [TAPE_SYMBOLS]")] = None,
    record_for: Annotated[str | None, typer.Option("--for", help="Duration: 90s, 5m, 6h30m.")] = None,
    until: Annotated[
        str | None, typer.Option(help="End time: HH:MM[:SS] by this machine's clock, or ISO 8601.")
    ] = None,
    feed: Annotated[str | None, typer.Option(help=f"The feed to record: {_FEEDS}. [TAPE_FEED, {DEFAULT}]")] = None,
    feed_url: Annotated[
        str | None, typer.Option(help="The feed's websocket URL, without a key. [TAPE_FEED_URL]")
    ] = None,
    data_dir: DataDir = None,
    batch_for: Annotated[str | None, typer.Option(help="Seal a batch at this age. [TAPE_BATCH_FOR, 5m]")] = None,
    lanes: Annotated[
        str | None, typer.Option(help="Number of queues, writers, and journals, or ticker. [TAPE_LANES, 1]")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Record one session and archive it as it goes. Exits 0 only if it was recorded and its ledger balances."""
    settings = load_settings(
        symbols=symbols, feed=feed, feed_url=feed_url, data_dir=data_dir, batch_for=batch_for, lanes=lanes
    )
    deadline_for(settings, record_for, until, time.time_ns())  # Report errors before a server is started.
    check_feed(settings)
    check_bucket_of(settings)
    from flows.bucket import refuse_wrong_bucket
    from flows.record_session import RecordFor, RecordUntil, record_session
    from tasks.capture.supervise import watched

    refuse_wrong_bucket(settings, report.tell)
    with (
        chosen(feed=feed, feed_url=feed_url, data_dir=data_dir),
        ended_in_order(report.tell),
        orchestrated(report.tell),
        session_shown(live=sys.stdout.isatty() and not as_json),
    ):
        ledgers, failure = _ledgers_of(
            lambda: [
                run(
                    record_session,
                    report.tell,
                    has_begun=lambda: bool(watched),
                    symbols=list(settings.symbols),
                    end=RecordFor(record_for=record_for) if record_for else RecordUntil(until=until or ""),
                    batch_for=batch_for,
                    lanes=lanes,
                )
            ]
        )
    _print_ledgers(ledgers, as_json, settings.data_dir, single=True, failure=failure)


@symbols_app.command("list")
def symbols_list(session: SessionName = None, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Print the symbols that the session records now, with their trades so far."""
    check_tls()
    from tasks.capture.supervise import recording_session

    _, status = recording_session(existing(load_settings(data_dir=data_dir).data_dir), session)
    trades = {symbol: status.per_symbol.get(symbol, 0) for symbol in status.symbols}
    if as_json:
        print(msgspec.json.encode({"session": status.session, "symbols": trades}).decode())
        return
    for symbol, number in trades.items():
        print(f"{symbol}\t{number}")


@symbols_app.command("add")
def symbols_add(symbols: Symbols, session: SessionName = None, data_dir: DataDir = None) -> None:
    """Also record these symbols from now on, without a reconnect."""
    _change_symbols("added", symbols, session, data_dir)


@symbols_app.command("remove")
def symbols_remove(symbols: Symbols, session: SessionName = None, data_dir: DataDir = None) -> None:
    """Stop recording these symbols; their recorded trades are kept."""
    _change_symbols("removed", symbols, session, data_dir)


def _change_symbols(action: str, symbols: list[str], session: str | None, data_dir: Path | None) -> None:
    check_tls()
    store = existing(load_settings(symbols=symbols, data_dir=data_dir).data_dir)
    for line in change_watched(action, symbols, session, store):
        print(line)


@app.command()
def archive(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Archive every sealed batch that is not archived yet, of any session; close killed sessions."""
    settings = load_settings(data_dir=data_dir)
    check_tls()
    from flows.archive_batches import anything_to_archive, archive_batches

    check_bucket_of(settings)
    if not anything_to_archive(Store(settings.data_dir), settings):
        _print_ledgers([], as_json, settings.data_dir, single=False, failure=None)
        return
    with chosen(data_dir=data_dir), orchestrated(report.tell):
        ledgers, failure = _ledgers_of(lambda: run(archive_batches, report.tell))
    _print_ledgers(ledgers, as_json, settings.data_dir, single=False, failure=failure)


@app.command()
def verify(
    data_dir: DataDir = None,
    as_json: AsJson = False,
    remote: Annotated[
        bool, typer.Option("--remote", help="Compare the bucket with the local records instead.")
    ] = False,
) -> None:
    """Recompute every law of conservation from the files alone. Exits 0 only if all hold."""
    from tasks.verify.laws import verify as verdict_on

    settings = load_settings(data_dir=data_dir)
    if remote:
        if not query.verify_remote(settings, as_json):
            raise typer.Exit(FAILED)
        return
    with progress("sessions verified") as note:
        verdict = verdict_on(existing(settings.data_dir), note)
    if as_json:
        print(msgspec.json.encode({"holds": not verdict.broken, **msgspec.to_builtins(verdict)}).decode())
    else:
        report.print_verdict(verdict)
    if verdict.broken:
        raise typer.Exit(FAILED)


@app.command()
def replay(
    tape: Annotated[Path, typer.Argument(help="A tape: CSV, gzipped or not, or an archived file.")],
    port: Annotated[int, typer.Option(help="The port on 127.0.0.1; 0 picks a free one.", min=0, max=65535)] = 8765,
    speed: Annotated[str, typer.Option(help="A multiple of real time, or max.")] = "1",
    original_times: Annotated[
        bool, typer.Option("--original-times", help="Keep the tape's event times instead of moving them to now.")
    ] = False,
    exit_at_end: Annotated[bool, typer.Option("--exit-at-end", help="Exit at the end of the tape.")] = False,
    feed: Annotated[str, typer.Option(help=f"The vendor to imitate: {_FEEDS}.")] = DEFAULT,
) -> None:
    """Serve a tape as a vendor's websocket, on this machine only."""
    from tasks.replay.run import run
    from tasks.replay.server import ReplayOptions

    feed_named(feed)
    options = ReplayOptions(speed=_speed(speed), original_times=original_times, exit_at_end=exit_at_end, feed=feed)
    run(tape, port, options)


@app.command()
def export(
    out: Annotated[Path, typer.Argument(help="The tape to write: OUT.csv or OUT.csv.gz.")],
    data_dir: DataDir = None,
    date: Annotated[str | None, typer.Option(help="Only this day: YYYY-MM-DD, today or yesterday.")] = None,
    feed: query.Feed = None,
) -> None:
    """Write the archive back as a tape, with the digits of prices and sizes as received."""
    from tasks.export.tape import export as write

    settings = load_settings(data_dir=data_dir)
    day = None if date is None else day_of(date, "--date", settings)
    with progress("trades written") as note:
        rows = write(existing(settings.data_dir), out, day, note, feed=feed)
    report.line(f"{out}: {count(rows, 'trade')}", to=report.out if out.is_file() else report.errors)


@app.command()
def doctor(data_dir: DataDir = None) -> None:
    """Check key, feed, clock, data folder, disk, calendar, Prefect API, and object store, one line each."""
    from tape.cli.doctor import examine

    check_tls()
    if not report.print_findings(examine(load_settings(data_dir=data_dir))):
        raise typer.Exit(FAILED)


def main() -> None:
    """Run the console script: every expected error is one message, without a traceback."""
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    # On its first start Prefect's own server creates its database: 8 to 20 s, more on a busy machine.
    os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "120")
    reach_this_machine_without_a_proxy()
    take_any_text()
    try:
        app(standalone_mode=True)
    except SettingsError as error:
        for line in str(error).splitlines():
            _say(line)
        sys.exit(WRONG_USE)
    except (RecorderError, OSError) as error:
        _say(str(error))
        sys.exit(FAILED)
    except Exception as error:
        if _debug:
            raise
        first = next(iter(str(error).splitlines()), "no message")
        _say(f"{type(error).__name__}: {first} (`tape --debug` shows where)")
        sys.exit(FAILED)


def _ledgers_of(run: Callable[[], list[Ledger]]) -> tuple[list[Ledger], str | None]:
    """Return a flow's ledgers and why it failed, if it did; some failures carry their ledgers."""
    from flows.archive_batches import NotArchived, NotWhole
    from flows.record_session import SessionFailed
    from tape.cli.log_lines import expected_errors_in_a_line

    expected_errors_in_a_line()
    try:
        return run(), None
    except (SessionFailed, NotArchived, NotWhole) as failure:
        return ([failure.ledger] if isinstance(failure, SessionFailed) else failure.ledgers), str(failure)


def _print_ledgers(ledgers: list[Ledger], as_json: bool, data_dir: Path, *, single: bool, failure: str | None) -> None:
    """Print what was recorded; last, on stderr, why it is not what was requested."""
    if as_json:
        shown = [report.as_json(ledger) for ledger in ledgers]
        print(msgspec.json.encode(shown[0] if single else {"sessions": shown}).decode())
    else:
        for ledger in ledgers:
            report.print_ledger(ledger, data_dir)
        if failure is None and not ledgers:
            print("there was nothing to archive")
    if failure is not None:
        _say(failure)
    if failure is not None or not all(ledger.balances for ledger in ledgers):
        raise typer.Exit(FAILED)


def _speed(text: str) -> float | None:
    try:
        speed = None if text == "max" else float(text)
    except ValueError:
        speed = -1.0
    if speed is not None and not 0 < speed < 1e6:
        raise SettingsError(f"--speed: {text!r} is not a speed; write 1, 0.5, 60, or max")
    return speed


def _say(text: str) -> None:
    report.line(("tape:", "red"), f" {text}", to=report.errors)


if __name__ == "__main__":
    main()
