"""Prefect tasks that start, watch, and if necessary stop the recorder.

The recorder does not need them: if this process dies, it goes on to its deadline, and the next run of the task finds it
again. Call them directly, never submit them: otherwise a canceled run would not reach the code that stops the recorder.
"""

import contextlib
import contextvars
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from prefect import get_run_logger, task
from prefect.context import TaskRunContext
from prefect.logging.loggers import LoggingAdapter
from prefect.variables import Variable
from pydantic import SecretStr

from tasks.capture.recovery import close_killed, killed_sessions
from tasks.capture.request import CaptureRequest
from tasks.capture.supervise import LOG_FILE, Recorder, change_symbols, record_of, recover, start_or_attach
from tasks.errors import ConflictError, RecorderError, SettingsError, TerminalError
from tasks.feeds.symbols import read_symbols
from tasks.records.ledger import Request, SessionRecord
from tasks.records.names import BatchName, session_name
from tasks.records.status import Status
from tasks.shown import plain
from tasks.storage.store import Store
from tasks.task_options import ONCE, RETRIED

_PROGRESS_EVERY_S = 5.0
_LOG_EVERY_S = 30.0
_KEY_EVERY_S = 1.0
_MOST_LOG_BYTES = 1 << 20
# As `recorder.py` writes them: a time in two parts, the level, the message.
_LOG_LINE = re.compile(r"\S+ \S+ (DEBUG|INFO|WARNING|ERROR|CRITICAL) +(.*)")


@task(
    name="capture",
    task_run_name="capture {session.session}",
    **RETRIED | {"retries": 100, "retry_delay_seconds": 1},
)
def capture(
    session: CaptureRequest,
    wanted: Request,
    key: SecretStr,
    on_sealed: Callable[[BatchName], object],
    symbols_variable: str | None = None,
    wait_for_key: bool = False,
) -> str:
    """Record what a run wants; return the name of the session that did, which may go on for other runs.

    Start a recorder for `session`, or join the one that runs with this key. After the end of `wanted`, record nothing.
    `on_sealed` is called with each batch while recording. If `symbols_variable` is given, the run's symbols follow the
    Prefect variable of that name: a list, or symbols separated by commas.

    Raises TransientError if the recorder died, ConflictError if the key is in use in another data folder. With
    `wait_for_key`, wait for that recorder's end instead, as long as something is left to record.
    """
    log = get_run_logger()
    store = Store(session.data_dir)
    logged = _size_of(session.folder / LOG_FILE)  # What an earlier attempt of this run has relayed.
    if time.time_ns() >= wanted.until_ns:
        return _served_in(store, wanted)
    ended = record_of(session)
    if ended is not None and ended.outcome == "killed":
        # Another run closed the session between its recorder's death and this retry: record the rest in a new one.
        now_ns = time.time_ns()
        session = replace(session, session=session_name(now_ns, os.urandom), started_ns=now_ns)
    elif ended is not None:
        return ended.session
    recorder = _recorder(session, wanted, key, log, wait_for_key)
    if recorder is None:
        return _served_in(store, wanted)
    status = recorder.status()
    log.info(
        "%s the recorder of %s, process %s, %d symbols",
        "joined" if recorder.attached else "started",
        recorder.request.session,
        status.pid if status else "?",
        len(wanted.symbols),
    )
    try:
        tail = _LogTail(
            recorder.request.folder / LOG_FILE, logged if recorder.request.session == session.session else None
        )
        with _accompanied(recorder, log, symbols_variable, tail):
            for name in recorder.sealed():
                on_sealed(name)
    except BaseException:
        log.warning("stopping: the recorder seals what it has")
        recorder.stop()
        for _ in recorder.sealed():
            pass
        raise
    return recorder.request.session if recorder.is_done else recorder.record().session


def _recorder(session: CaptureRequest, wanted: Request, key: SecretStr, log: Any, patient: bool) -> Recorder | None:
    """Return the recorder for a run; None if a `patient` run waited for the key until nothing was left to record."""
    is_logged = False
    while time.time_ns() < wanted.until_ns:
        try:
            return start_or_attach(session, key.get_secret_value(), wanted)
        except ConflictError as error:
            if not patient:
                raise
            if not is_logged:
                log.warning("nothing is recorded until then: %s", error)
            is_logged = True
            time.sleep(_KEY_EVERY_S)
            now_ns = time.time_ns()
            session = replace(session, session=session_name(now_ns, os.urandom), started_ns=now_ns)
    return None


def _served_in(store: Store, wanted: Request) -> str:
    """Return the latest session that served a run whose time is over; write its record if it was killed."""
    found = sorted(store.sessions.glob(f"*/requests/{wanted.id}.json"))
    if not found:
        raise TerminalError("the time to record was over before the recording began; give a later end")
    folder = found[-1].parents[1]
    if folder.name in killed_sessions(store):
        close_killed(store, folder.name, time.time_ns())
    return folder.name


@task(name="recover", **ONCE)
def recover_sessions(data_dir: Path) -> list[SessionRecord]:
    """Close every session whose recorder was killed: seal what it had journaled, name the gap."""
    log = get_run_logger()
    records = recover(Store(data_dir).prepare(), time.time_ns())
    for record in records:
        log.warning("%s: %s; what it had journaled is sealed", record.session, record.error)
    return records


@contextlib.contextmanager
def _accompanied(
    recorder: Recorder, log: "LoggingAdapter | Any", variable: str | None, tail: "_LogTail"
) -> Iterator[None]:
    """Relay the recorder's log and follow the variable from a thread: a hanging API must not hold up the capture."""
    over = threading.Event()
    context = contextvars.copy_context()
    thread = threading.Thread(target=context.run, args=(_accompany, recorder, log, variable, tail, over), daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()


def _accompany(recorder: Recorder, log: Any, variable: str | None, tail: "_LogTail", over: threading.Event) -> None:
    logged_s = time.monotonic()
    trades = 0
    followed = _Followed()
    is_last = False
    while not is_last:
        is_last = over.wait(_PROGRESS_EVERY_S)  # One more look after the end.
        for level, text in tail.lines():
            log.log(level, "recorder: %s", plain(text))
        status = recorder.status()
        if status is None or is_last:
            continue
        if time.monotonic() - logged_s >= _LOG_EVERY_S:
            rate = (status.trades - trades) / (time.monotonic() - logged_s)
            log.info("%s", describe(status, rate))
            logged_s, trades = time.monotonic(), status.trades
        if variable is not None and TaskRunContext.get() is not None:  # Without Prefect there is none to follow.
            followed = _follow(variable, followed, recorder, log)


class _LogTail:
    """The lines that a recorder adds to its log, from an offset on; from its end if none is given."""

    def __init__(self, path: Path, offset: int | None) -> None:
        self._path = path
        self._offset = _size_of(path) if offset is None else offset

    def lines(self) -> Iterator[tuple[int, str]]:
        """Yield each new whole line with its level; a line without one belongs to the line before it."""
        with contextlib.suppress(OSError), self._path.open("rb") as file:
            file.seek(self._offset)
            whole = file.read(_MOST_LOG_BYTES).rpartition(b"\n")[0]
            self._offset += len(whole) + bool(whole)
            level = logging.INFO
            for line in whole.decode("utf-8", "replace").splitlines():
                found = _LOG_LINE.fullmatch(line)
                level = level if found is None else logging.getLevelNamesMapping()[found[1]]
                yield level, line if found is None else found[2]


def _size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


@dataclass(frozen=True, slots=True)
class _Followed:
    """The symbols last taken from the Prefect variable, and the error last logged about it."""

    symbols: tuple[str, ...] = ()
    complaint: str | None = None


def _follow(variable: str, before: _Followed, recorder: Recorder, log: Any) -> _Followed:
    """Make the session record the symbols in the Prefect variable, if they have changed.

    An invalid value or an unreachable API changes nothing and is logged once.
    """
    try:
        symbols = _listed(variable)
        if symbols != before.symbols:
            change_symbols(recorder.request.folder, lambda _now: symbols, recorder.wanted.id)
            log.info("the watch-list follows the variable %s: %d symbols", variable, len(symbols))
    except Exception as error:
        complaint = str(error) if isinstance(error, RecorderError) else type(error).__name__
        if complaint != before.complaint:
            log.warning("the variable %s is not followed, the list stays as it is: %s", variable, complaint)
        return replace(before, complaint=complaint)
    return _Followed(symbols)


def _listed(variable: str) -> tuple[str, ...]:
    symbols = read_symbols(Variable.get(variable, ""))
    if not symbols:
        raise SettingsError(f"it is not set, or empty; run `prefect variable set {variable} AAPL,MSFT --overwrite`")
    return symbols


def describe(status: Status, trades_per_s: float | None) -> str:
    """Return a status in one line."""
    rate = "" if trades_per_s is None else f" ({trades_per_s:,.0f}/s)"
    gap = f", in a gap: {plain(status.open_gaps[0].reason)}" if status.open_gaps else ""
    return (
        f"{status.state}: {status.trades:,} trades{rate}, {status.batches_sealed} batches sealed, "
        f"{status.queue_bytes:,} bytes waiting, {status.gaps} gaps{gap}"
    )
