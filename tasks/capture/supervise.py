"""Supervision: start, find, watch, and stop a recorder from a process that may die before it does.

The recorder gets everything through its session's folder and its standard input, and reports everything through that
folder; its output goes to `recorder.log` there. It does not depend on the process that started it.
"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from tasks.capture import recorder
from tasks.capture.recovery import close_killed, killed_sessions
from tasks.capture.request import CaptureRequest, own_request, read_request, save_request
from tasks.errors import ConflictError, TerminalError, TransientError
from tasks.records.ledger import Request, SessionRecord
from tasks.records.manifest import read
from tasks.records.names import BatchName
from tasks.records.requests import change, join, reopen, withdraw
from tasks.records.sessions import RECORD_FILE
from tasks.records.status import Status, read_status
from tasks.storage.locks import SESSION_LOCK, is_held, key_lock_path
from tasks.storage.store import Store

LOG_FILE = "recorder.log"
_LOOK_EVERY_S = 0.2
# How often in a row a recorder may die for the same reason before recording anything; another try would fail too.
_GIVE_UP_AFTER = 5
_WORDS_BYTES = 64 << 10

# Isolated (-I), Python imports nothing from the working folder, PYTHONPATH, or the user's site-packages. If this
# package or a library is found only there, its folder goes to the end of the path, where it shadows nothing.
_PROGRAM = (
    "import runpy, sys; sys.path += sys.argv[2:]; del sys.argv[2:]; "
    "runpy.run_module('tasks.capture.recorder', None, '__main__', True)"
)
# The variables passed on to a recorder: where programs, libraries, certificates, names, and times are found, the
# language, and the proxies. Not our settings, and no secret, whatever its name.
_HANDED_ON = re.compile(
    "PATH|HOME|TMPDIR|LANG|LANGUAGE|LC_[A-Z]+|TZ|TZDIR|PYTHONTZPATH|LD_LIBRARY_PATH"
    "|(NIX_)?SSL_CERT_FILE|SSL_CERT_DIR|OPENSSL_CONF|OPENSSL_MODULES|RES_OPTIONS|LOCALDOMAIN|HOSTALIASES"
    "|(?i:https?|all|no)_(?i:proxy)"
)

# The recorders that this process watches, newest last: the live view shows them, and Ctrl-C stops them.
watched: list["Recorder"] = []
# By session: the last words of recorders that died in a row without recording anything.
_stillborn: dict[str, list[str]] = {}
_START_S = 30.0
# An ending recorder unsubscribes, receives what is in flight, and seals: seconds, on a slow disk a minute.
_END_S = 120.0


class Recorder:
    """The recorder of one session, running or ended, as seen by one of the runs that share it.

    `request` is the session's, `wanted` this run's own. `attached`: another run started it.
    """

    def __init__(
        self,
        request: CaptureRequest,
        process: "subprocess.Popen[bytes] | None",
        wanted: Request | None = None,
        log_begins: int = 0,
    ) -> None:
        self.request = request
        self.wanted = wanted or own_request(request)
        self.attached = process is None
        self._process = process
        self._log_begins = log_begins

    @property
    def is_alive(self) -> bool:
        """Whether the recorder is still running."""
        if self._process is not None:
            return self._process.poll() is None
        return is_held(self.request.folder / SESSION_LOCK)

    @property
    def came_second(self) -> bool:
        """Whether it ended because another recorder acquired the key or the session a moment earlier."""
        return self._process is not None and self._process.poll() == recorder.BUSY

    def status(self) -> Status | None:
        """Return the recorder's latest status, or None before the first one."""
        return read_status(self.request.folder)

    def stop(self) -> None:
        """Withdraw this run's request: unless another run wants more, the recorder ends in order and seals."""
        withdraw(self.request.folder, self.wanted.id, time.time_ns())

    @property
    def is_done(self) -> bool:
        """Whether everything this run wanted is in sealed batches; the recorder may go on for other runs."""
        status = self.status()
        return status is not None and self.wanted.id in status.settled

    def sealed(self) -> Iterator[BatchName]:
        """Yield the session's batches as they are sealed; ends with the recorder or when this run is done."""
        seen: set[BatchName] = set()
        alive = True
        while alive:
            # Checked before the search, so that the last batches are not missed.
            alive = self.is_alive and not self.is_done
            for name in Store(self.request.data_dir).sealed_batches():
                if name.session == self.request.session and name not in seen:
                    seen.add(name)
                    yield name
            if alive:
                time.sleep(_LOOK_EVERY_S)

    def record(self) -> SessionRecord:
        """Return the session's record, once the recorder has ended.

        Raises TransientError if it died without a record: a new start continues the session. If recorders die for the
        same reason again and again before recording anything, the session is closed as failed for that reason.
        """
        record = record_of(self.request)
        if record is not None:
            return record
        code = self._process.returncode if self._process is not None else None
        log_path = self.request.folder / LOG_FILE
        how = "" if code is None else f" ({signal.Signals(-code).name})" if code < 0 else f" (exit status {code})"
        words = self._last_words()
        died = f"died{how}{words and f': {words}'}"
        deaths = _stillborn.setdefault(self.request.session, [])
        # Being killed says nothing about the recorder itself.
        if code is None or code in (-signal.SIGKILL, -signal.SIGTERM) or self._has_recorded():
            deaths.clear()
        else:
            deaths.append(died)
        if deaths[-_GIVE_UP_AFTER:] == [died] * _GIVE_UP_AFTER:
            reason = f"the recorder {died}, {_GIVE_UP_AFTER} times before it recorded anything; see {log_path}"
            return close_killed(Store(self.request.data_dir), self.request.session, time.time_ns(), reason)
        raise TransientError(f"the recorder of {self.request.session} {died}; see {log_path}")

    def _has_recorded(self) -> bool:
        status = self.status()
        return status is not None and self._process is not None and status.pid == self._process.pid

    def _last_words(self) -> str:
        """Return the last line of its log, which names the exception if it died of one."""
        with (self.request.folder / LOG_FILE).open("rb") as log:
            log.seek(max(self._log_begins, log.seek(0, os.SEEK_END) - _WORDS_BYTES))
            lines = [line for line in log.read().decode(errors="replace").splitlines() if line.strip()]
        last = lines[-1] if lines and self._process is not None else ""
        return "".join(letter if letter.isprintable() else " " for letter in last)[:300]


def recording_session(store: Store, session: str | None) -> tuple[Path, Status]:
    """Return the folder and status of the named running session, or of the only one.

    Raises TerminalError if there is none, or more than one and none is named.
    """
    folders = [path.parent for path in sorted(store.sessions.glob(f"*/{SESSION_LOCK}")) if is_held(path)]
    found = [folder for folder in folders if session is None or folder.name == session]
    if len(found) != 1:
        names = ", ".join(folder.name for folder in folders) or "none"
        raise TerminalError(f"no session to change: {names} records in {store.root}; name one with --session")
    _until(lambda: read_status(found[0]) is not None, _START_S)
    status = read_status(found[0])
    if status is None:
        raise TerminalError(f"{found[0].name} has no status yet; try again")
    return found[0], status


def change_symbols(
    folder: Path, wish: Callable[[tuple[str, ...]], Iterable[str]], request_id: str | None = None
) -> None:
    """Change the list of the session in that folder to what `wish` returns for it; wait until the recorder follows.

    With `request_id` only that run's list is changed, otherwise every run's. Raises TerminalError if no symbol would be
    left, TransientError if the recorder does not follow.
    """
    union = change(folder, wish, time.time_ns(), request_id)
    _until(lambda: set(getattr(read_status(folder), "symbols", ())) == set(union), _START_S)


def record_of(request: CaptureRequest) -> SessionRecord | None:
    """Return the record of that session, or None before it has ended."""
    try:
        return read(request.folder / RECORD_FILE, SessionRecord)
    except FileNotFoundError:
        return None


def start_or_attach(session: CaptureRequest, key: str, wanted: Request | None = None) -> Recorder:
    """Return the recorder for a run: the one already recording with this key, or a new one.

    A running recorder serves this run too, whatever its symbols and its end. Raises ConflictError if the key is in use
    in another data folder or for another feed, TerminalError if a recorder cannot be started.
    """
    wanted = wanted or own_request(session)
    while True:
        running = _running(session, key)
        if running is None:
            save_request(session)
            reopen(session.folder)
            join(session.folder, wanted, time.time_ns())
            started = _start(session, key, wanted)
            if not started.came_second:
                return _watched(started)
            _discard_unused(session.folder)
        elif join(running.folder, wanted, time.time_ns()):
            return _watched(Recorder(running, None, wanted))
        else:  # That one is ending and accepts no more: the key is free in a moment.
            _until(lambda: not is_held(key_lock_path(session.feed_url, key)), _END_S)


def _watched(recorder: Recorder) -> Recorder:
    watched.append(recorder)
    return recorder


def _discard_unused(folder: Path) -> None:
    """Remove the folder of a session that never began: it would be taken for one whose recorder was killed."""
    if read_status(folder) is None:
        shutil.rmtree(folder)


def _running(session: CaptureRequest, key: str) -> CaptureRequest | None:
    """Return the request of the session whose recorder holds this key, or None."""
    lock = key_lock_path(session.feed_url, key)
    if not is_held(lock):
        return None
    _until(lambda: bool(lock.read_text()) or not is_held(lock), _START_S)
    folder = Path(lock.read_text())
    if folder.parent != session.folder.resolve().parent:
        raise ConflictError(
            f"this API key is in use by the recorder of {folder}; a key allows one connection: wait for its end, "
            f"or stop process {(folder / SESSION_LOCK).read_text()}"
        )
    request = read_request(folder)
    if request.feed != session.feed:
        raise ConflictError(
            f"the recorder of {folder} has this address and key, and records the feed {request.feed}, not "
            f"{session.feed}: wait for its end, or stop process {(folder / SESSION_LOCK).read_text()}"
        )
    return request


def _start(request: CaptureRequest, key: str, wanted: Request) -> Recorder:
    with (request.folder / LOG_FILE).open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-I", "-c", _PROGRAM, str(request.folder), *_paths()],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            start_new_session=True,  # A Ctrl-C, a killed worker or a closed terminal must not reach it.
            env=_environment(),
        )
        started = Recorder(request, process, wanted, output.tell())
    if process.stdin is None:
        raise TerminalError("the recorder has no standard input")
    with contextlib.suppress(BrokenPipeError), process.stdin as stdin:
        stdin.write(key.encode() + b"\n")
    _until(lambda: is_held(request.folder / SESSION_LOCK) or not started.is_alive, _START_S)
    return started


def _paths() -> list[str]:
    """Return the folders we import from that an isolated Python lacks: this package first, never the working folder."""
    try:
        here = Path.cwd()
    except FileNotFoundError:  # It was removed meanwhile.
        here = None
    known = (sys.prefix, sys.base_prefix)
    others = [path for path in map(Path, sys.path) if path.is_absolute() and path != here]
    others = [path for path in others if not any(path.is_relative_to(prefix) for prefix in known)]
    return [str(path) for path in dict.fromkeys([Path(__file__).parents[2], *others])]


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if _HANDED_ON.fullmatch(name)}


def _until(done: Callable[[], bool], timeout_s: float) -> None:
    end = time.monotonic() + timeout_s
    while not done():
        if time.monotonic() > end:
            raise TransientError(f"the recorder did not answer within {timeout_s:g} s; the machine may be overloaded")
        time.sleep(0.01)


def recover(store: Store, now_ns: int) -> list[SessionRecord]:
    """Close every session whose recorder is gone: seal what it left, name the gap, write its record."""
    return [close_killed(store, session, now_ns) for session in killed_sessions(store)]
