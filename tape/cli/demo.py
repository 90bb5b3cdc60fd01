"""The command `tape demo`: records a generated tape from this machine with the flow used in production."""

import logging
import os
import signal
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console

from flows.orchestrator import orchestrated
from flows.orchestrator import run as start
from flows.settings import chosen
from tape import report
from tape.cli.dashboard import dashboard_of
from tape.live import session_shown
from tasks.feeds.registry import KEY_SETTINGS
from tasks.replay.generate import SYMBOLS, generate
from tasks.replay.run import serve_in_thread
from tasks.replay.server import ReplayOptions
from tasks.replay.tape_file import write_tape

# The tape is longer than the recording, so that the session ends as a real one does: mid-stream.
_EXTRA_TAPE_S = 30
_SEED = 20261124
console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)


def run(seconds: int, data_dir: Path, tell: Callable[[str], None], *, with_dashboard: bool = False) -> None:
    """Generate a tape, serve it, record it for some seconds, and print the ledger and what to try next.

    The web page, if wanted, is served meanwhile and afterwards until Ctrl-C.
    """
    shown, data_dir = data_dir, data_dir.absolute()
    data_dir.mkdir(parents=True, exist_ok=True)
    _leave_settings_alone(data_dir)
    logging.getLogger("tasks.replay.server").setLevel(logging.WARNING)
    tape = data_dir / "tape.csv.gz"
    console.print(f"generating a tape of {seconds + _EXTRA_TAPE_S} s, {len(SYMBOLS)} symbols: {shown}/{tape.name}")
    write_tape(generate(_SEED, seconds + _EXTRA_TAPE_S), tape)
    with ExitStack() as beside:
        page = beside.enter_context(dashboard_of(data_dir)) if with_dashboard else None
        _record(seconds, data_dir, shown, tape, tell)
        if page is not None:
            console.print("\nthe web page stays until Ctrl-C")
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, lambda *_: page.terminate())
            page.wait()


def _record(seconds: int, data_dir: Path, shown: Path, tape: Path, tell: Callable[[str], None]) -> None:
    with serve_in_thread(tape, ReplayOptions(speed=1.0)) as served:
        console.print(f"serving it in Finnhub's format on {served.url}")
        console.print("starting Prefect's server for this run: 5 to 20 s, more on a busy machine …")
        from flows.record_session import RecordFor, record_session

        with (
            chosen(feed_url=served.url, data_dir=data_dir),
            orchestrated(tell),
            session_shown(live=sys.stdout.isatty()),
        ):
            ledger = start(
                record_session,
                tell,
                symbols=list(SYMBOLS),
                end=RecordFor(record_for=f"{seconds}s"),
                batch_for=f"{max(1.0, seconds / 6):g}s",
            )
    report.print_ledger(ledger, shown)
    console.print("\nwhat to try next, in this folder, with .venv/bin on your PATH:")
    for command, meaning in (
        (f"tape verify --data-dir {shown}", "recomputes the ledger from the files"),
        (f"tape export --data-dir {shown} tape.csv", "writes the tape back"),
        ("prefect server start", "shows this run on 127.0.0.1:4200"),
        ("FINNHUB_API_KEY=… tape record AAPL --for 5m", "records the live feed"),
    ):
        console.print(f"  {command:<44} {meaning}")


def _leave_settings_alone(data_dir: Path) -> None:
    """Ignore the user's configuration: the demo must not touch a real key or bucket.

    `.env` is read from the working folder, so the demo moves to a folder of its own.
    """
    os.chdir(data_dir)
    for name in [name for name in os.environ if name.upper().startswith(("TAPE_", *KEY_SETTINGS))]:
        del os.environ[name]
