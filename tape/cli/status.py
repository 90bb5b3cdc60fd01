"""The commands `tape status` and `tape watch`: the running sessions of a data folder, whoever started them."""

import sys
import time
from typing import Annotated, Any

import msgspec
import typer

from flows.settings import settings_to_write
from tape import report
from tape.cli.options import FAILED, DataDir, SessionName, existing
from tape.cli.rows import print_json
from tape.live import batches_of, session_watched
from tasks.errors import TerminalError
from tasks.records.sessions import is_recording
from tasks.records.status import STALE_AFTER_NS, Status, read_status
from tasks.records.trade import NS_PER_S
from tasks.shown import count, countdown, plain
from tasks.storage.store import Store

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]

_LOOK_EVERY_S = 0.5


def add_to(app: typer.Typer) -> None:
    """Add these commands to the app."""
    for command in (status, watch):
        app.command()(command)


def status(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Show every running session once. Exits 0 only if one is running and each one's recorder reports."""
    store = existing(settings_to_write(data_dir=data_dir).data_dir)
    found, now_ns = running(store), time.time_ns()
    if as_json:
        print_json({"sessions": [_as_json(store, each, now_ns) for each in found]})
    elif not found:
        report.out.print(f"no session is being recorded in {store.root}", soft_wrap=True)
    for each in () if as_json else found:
        _print(store, each, now_ns)
    if not found or any(_is_stale(each, now_ns) for each in found):
        raise typer.Exit(FAILED)


def watch(session: SessionName = None, data_dir: DataDir = None) -> None:
    """Watch a running session, as `tape record` shows it, until it ends. Ctrl-C ends only the watching."""
    store = existing(settings_to_write(data_dir=data_dir).data_dir)
    name = _chosen(running(store), session, store).session
    folder = store.sessions / name

    def current() -> tuple[Status, Store] | None:
        found = read_status(folder)
        return None if found is None else (found, store)

    try:
        with session_watched(current, live=sys.stdout.isatty()):
            while is_recording(folder):
                time.sleep(_LOOK_EVERY_S)
    except KeyboardInterrupt:
        report.tell(f"{name} is still being recorded")
        return
    report.tell(f"{name} has ended; `tape show {name}` shows it")


def running(store: Store) -> list[Status]:
    """Return the status of each session that a recorder is running for, oldest first."""
    folders = [folder for folder in sorted(store.sessions.glob("*")) if is_recording(folder)]
    return [found for folder in folders if (found := read_status(folder)) is not None]


def _chosen(found: list[Status], session: str | None, store: Store) -> Status:
    wanted = [each for each in found if session in (None, each.session)]
    if len(wanted) != 1:
        names = ", ".join(each.session for each in found) or "none"
        raise TerminalError(f"running in {store.root}: {names}; choose one with --session")
    return wanted[0]


def _print(store: Store, found: Status, now_ns: int) -> None:
    state, left_s = found.state, (found.deadline_ns - now_ns) // NS_PER_S
    stale = _is_stale(found, now_ns)
    speaking = sum(count > 0 for count in found.per_symbol.values())
    sealed, validated, archived = batches_of(store, found.session)
    report.line(
        (f"{'stale' if stale else state}", "green" if state == "recording" and not stale else "red"),
        f"  {found.session}  process {found.pid}, connection {found.connection}, {countdown(left_s)} left",
    )
    report.line(
        f"  {count(found.trades, 'trade')} of {speaking} of {count(len(found.per_symbol), 'symbol')}; "
        f"queue {100 * found.queue_bytes / max(1, found.queue_limit_bytes):.0f} %; "
        f"{count(found.gaps + len(found.open_gaps), 'gap')}; "
        f"batches: {sealed} sealed, {validated} validated, {archived} archived"
    )
    if stale:
        age_s = (now_ns - found.updated_ns) / NS_PER_S
        report.line(("  the recorder has not reported", "red"), f" for {age_s:,.0f} s: look at the disk and its log")
    for gap in found.open_gaps:
        report.line((f"  cannot receive {count(len(gap.symbols), 'symbol')}", "red"), f": {plain(gap.reason)}")
    for text in (found.notice, found.error):
        if text:
            report.line((f"  {plain(text)}", "yellow"))


def _as_json(store: Store, found: Status, now_ns: int) -> dict[str, Any]:
    sealed, validated, archived = batches_of(store, found.session)
    batches = {"sealed": sealed, "validated": validated, "archived": archived}
    return {**msgspec.to_builtins(found), "stale": _is_stale(found, now_ns), "batches": batches}


def _is_stale(found: Status, now_ns: int) -> bool:
    return now_ns - found.updated_ns > STALE_AFTER_NS
