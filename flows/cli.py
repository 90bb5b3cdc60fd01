"""`tape`: the flows, and the engines that need no flow, from a terminal.

Results go to stdout, everything else to stderr. Exit status: 0 done and balanced, 1 not, 2 a setting or an argument
is wrong. Prefect is imported only by the commands that run a flow: the others start in a fraction of a second.
"""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated

import msgspec
import typer
from rich.console import Console

from flows import cli_close, cli_use, report
from flows.deadline import deadline_for
from flows.live import session_shown
from flows.settings import load_settings
from tasks.errors import RecorderError, SettingsError
from tasks.ledger import Ledger
from tasks.store import Store

app = typer.Typer(
    help="Record the live market tape: every trade print, with proof that the record is whole.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
symbols_app = typer.Typer(help="Change what a session hears while it records.", no_args_is_help=True)
app.add_typer(symbols_app, name="symbols")
cli_use.add_to(app)
app.command()(cli_close.close)
errors = Console(stderr=True, highlight=False, soft_wrap=True)

FAILED, WRONG_USE = 1, 2

DataDir = Annotated[Path | None, typer.Option("--data-dir", help="The data folder. [TAPE_DATA_DIR, ./data]")]
SessionName = Annotated[str | None, typer.Option("--session", help="Which session, where several record.")]
Symbols = Annotated[list[str], typer.Argument(help="One or more symbols.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object, the last line of stdout.")]


@app.command()
def demo(
    seconds: Annotated[int, typer.Option("--for", help="How many seconds to record.", min=5, max=600)] = 30,
    data_dir: Annotated[Path, typer.Option(help="Where the demo records to.")] = Path("demo-data"),
) -> None:
    """Record a generated tape from a server of our own: no key, no configuration."""
    from flows import demo as show

    with _stopped_by_ctrl_c():
        show.run(seconds, data_dir)


@app.command()
def record(
    symbols: Annotated[list[str] | None, typer.Argument(help="What to record. [TAPE_SYMBOLS]")] = None,
    record_for: Annotated[str | None, typer.Option("--for", help="How long: 90s, 5m, 6h30m.")] = None,
    until: Annotated[
        str | None, typer.Option(help="Until when: HH:MM[:SS] by this machine's clock, or ISO 8601.")
    ] = None,
    feed_url: Annotated[str | None, typer.Option(help="The feed's websocket, without the key. [TAPE_FEED_URL]")] = None,
    data_dir: DataDir = None,
    batch_for: Annotated[str | None, typer.Option(help="Seal a batch at this age. [TAPE_BATCH_FOR, 5m]")] = None,
    lanes: Annotated[
        str | None, typer.Option(help="Queues, writers and journals: a number, or ticker. [TAPE_LANES, 1]")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Record trades until a time is up, and archive them meanwhile. Exits 0 only where the ledger balances."""
    settings = load_settings(symbols=symbols, feed_url=feed_url, data_dir=data_dir, batch_for=batch_for, lanes=lanes)
    deadline_for(settings, record_for, until, time.time_ns())  # What is wrong is said before a server is started.
    from flows.bucket_check import refuse_wrong_bucket
    from flows.record_session import record_session

    refuse_wrong_bucket(settings, errors.print)

    with session_shown(live=sys.stdout.isatty() and not as_json), _stopped_by_ctrl_c():
        ledgers, well = _ledgers_of(
            lambda: [
                record_session(
                    symbols=list(settings.symbols),
                    record_for=record_for,
                    until=until,
                    feed_url=feed_url,
                    data_dir=data_dir,
                    batch_for=batch_for,
                    lanes=lanes,
                )
            ]
        )
    _print_ledgers(ledgers, as_json, settings.data_dir, single=True, well=well)


@symbols_app.command("list")
def symbols_list(session: SessionName = None, data_dir: DataDir = None) -> None:
    """Print what the session hears now, with its trades so far."""
    from tasks.capture.task import recording_session

    _, status = recording_session(Store(_existing(load_settings(data_dir=data_dir).data_dir)), session)
    for symbol in status.symbols:
        print(f"{symbol}\t{status.per_symbol.get(symbol, 0)}")


@symbols_app.command("add")
def symbols_add(symbols: Symbols, session: SessionName = None, data_dir: DataDir = None) -> None:
    """Hear these symbols too, from now on, without a reconnect."""
    _change_symbols(lambda now, given: (*now, *given), symbols, session, data_dir)


@symbols_app.command("remove")
def symbols_remove(symbols: Symbols, session: SessionName = None, data_dir: DataDir = None) -> None:
    """Hear these symbols no more; what was recorded of them stays."""
    _change_symbols(lambda now, given: tuple(each for each in now if each not in given), symbols, session, data_dir)


def _change_symbols(
    change: Callable[[tuple[str, ...], tuple[str, ...]], tuple[str, ...]],
    symbols: list[str],
    session: str | None,
    data_dir: Path | None,
) -> None:
    from tasks.capture.task import change_symbols, recording_session

    settings = load_settings(symbols=symbols, data_dir=data_dir)
    folder, _ = recording_session(Store(_existing(settings.data_dir)), session)
    change_symbols(folder, lambda now: change(now, settings.symbols))
    print(f"{folder.name}: {', '.join(settings.symbols)}: done, within a second and without a reconnect")


@app.command()
def archive(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Archive whatever is sealed and not archived yet, whichever session left it; close killed sessions."""
    settings = load_settings(data_dir=data_dir)
    from flows.process_batches import process_batches

    ledgers, well = _ledgers_of(lambda: process_batches(data_dir=data_dir))
    _print_ledgers(ledgers, as_json, settings.data_dir, single=False, well=well)


@app.command()
def verify(
    data_dir: DataDir = None,
    as_json: AsJson = False,
    remote: Annotated[bool, typer.Option("--remote", help="Compare the bucket with the archive instead.")] = False,
) -> None:
    """Recompute every law of conservation from the files alone. Exits 0 only where all hold."""
    from tasks.verify.laws import verify as verdict_on

    settings = load_settings(data_dir=data_dir)
    if remote:
        if not cli_use.verify_remote(settings, time.time_ns(), as_json):
            raise typer.Exit(FAILED)
        return
    verdict = verdict_on(Store(_existing(settings.data_dir)))
    if as_json:
        print(msgspec.json.encode({"holds": not verdict.broken, **msgspec.to_builtins(verdict)}).decode())
    else:
        report.print_verdict(verdict)
    if verdict.broken:
        raise typer.Exit(FAILED)


@app.command()
def replay(
    tape: Annotated[Path, typer.Argument(help="A tape: CSV, gzip'd or not, or an archived Parquet file.")],
    port: Annotated[int, typer.Option(help="The port on 127.0.0.1; 0 is a free one.", min=0, max=65535)] = 8765,
    speed: Annotated[str, typer.Option(help="So many times real time, or max.")] = "1",
    original_times: Annotated[bool, typer.Option("--original-times", help="Keep the tape's event times.")] = False,
    exit_at_end: Annotated[bool, typer.Option("--exit-at-end", help="End when the tape has ended.")] = False,
) -> None:
    """Serve a tape as Finnhub's websocket, on this machine alone, to whoever subscribes."""
    from tasks.replay.run import run
    from tasks.replay.server import ReplayOptions

    run(tape, port, ReplayOptions(speed=_speed(speed), original_times=original_times, exit_at_end=exit_at_end))


@app.command()
def export(
    out: Annotated[Path, typer.Argument(help="The tape to write: OUT.csv, or OUT.csv.gz.")],
    data_dir: DataDir = None,
    date: Annotated[str | None, typer.Option(help="Only this day, YYYY-MM-DD.")] = None,
) -> None:
    """Write the archive back as a tape, the digits of prices and sizes as they were received."""
    from tasks.export.tape import export as write

    settings = load_settings(data_dir=data_dir)
    rows = write(Store(_existing(settings.data_dir)), out, date)
    print(f"{out}: {rows:,} trades")


@app.command()
def doctor(data_dir: DataDir = None) -> None:
    """Check key, clock, disk, data folder, calendar, Prefect API and object store, one line each."""
    from flows.doctor import examine

    if not report.print_findings(examine(load_settings(data_dir=data_dir))):
        raise typer.Exit(FAILED)


def main() -> None:
    """The console script: every expected error is its own message, without a traceback."""
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    # The first start of Prefect's own server makes its database: 8 to 20 s, more on a busy machine.
    os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "120")
    try:
        app(standalone_mode=True)
    except SettingsError as error:
        for line in str(error).splitlines():
            errors.print(f"[red]tape:[/red] {line}")
        sys.exit(WRONG_USE)
    except (RecorderError, OSError) as error:
        errors.print(f"[red]tape:[/red] {error}")
        sys.exit(FAILED)


def _ledgers_of(run: Callable[[], list[Ledger]]) -> tuple[list[Ledger], bool]:
    """The ledgers that a flow gives, also where it fails because of what they say; and whether it did not fail."""
    from flows.log_lines import expected_errors_in_a_line
    from flows.process_batches import NotArchived
    from flows.record_session import SessionFailed

    expected_errors_in_a_line()
    try:
        return run(), True
    except (SessionFailed, NotArchived) as failure:
        errors.print(f"[red]tape:[/red] {failure}")
        return ([failure.ledger] if isinstance(failure, SessionFailed) else failure.ledgers), False


def _print_ledgers(ledgers: list[Ledger], as_json: bool, data_dir: Path, *, single: bool, well: bool) -> None:
    if as_json:
        shown = [report.as_json(ledger) for ledger in ledgers]
        print(msgspec.json.encode(shown[0] if single else {"sessions": shown}).decode())
    else:
        for ledger in ledgers:
            report.print_ledger(ledger, data_dir)
        if well and not ledgers:
            print("nothing waited to be archived")
    if not well or not all(ledger.balances for ledger in ledgers):
        raise typer.Exit(FAILED)


def _speed(text: str) -> float | None:
    try:
        speed = None if text == "max" else float(text)
    except ValueError:
        speed = -1.0
    if speed is not None and not 0 < speed < 1e6:
        raise SettingsError(f"--speed: {text!r} is no speed; write 1, 0.5, 60 or max")
    return speed


def _existing(data_dir: Path) -> Path:
    if not data_dir.is_dir():
        raise SettingsError(f"{data_dir}: there is no such data folder; give --data-dir or set TAPE_DATA_DIR")
    return data_dir


@contextmanager
def _stopped_by_ctrl_c() -> Iterator[None]:
    """The first Ctrl-C ends the recording in order, and what was recorded is archived; the second ends us."""
    from tasks.capture.task import watched

    def stop(_number: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, previous)
        if not watched:  # Nothing records yet: there is nothing to end in order.
            raise KeyboardInterrupt
        errors.print("ending the recording in order; Ctrl-C again leaves without archiving")
        for recorder in watched:
            recorder.stop()

    previous = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


if __name__ == "__main__":
    main()
