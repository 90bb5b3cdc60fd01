"""How is a recorder started, found again, watched and stopped by somebody who may die before it does?

The recorder is told everything through its session's folder and its standard input, and says everything through
that folder; its output goes to `recorder.log` there. Nothing of it depends on the process that started it.
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
# How often in a row a recorder may die of the same before it has recorded anything; a next try would end likewise.
_GIVE_UP_AFTER = 5
_WORDS_BYTES = 64 << 10

# Isolated (-I), Python imports nothing from the working folder, from PYTHONPATH or from the user's own packages. Where
# this package or a library is found by these alone, it is found after all that Python has by itself, and hides nothing.
_PROGRAM = (
    "import runpy, sys; sys.path += sys.argv[2:]; del sys.argv[2:]; "
    "runpy.run_module('tasks.capture.recorder', None, '__main__', True)"
)
# What of our environment reaches a recorder: where programs, libraries, certificates, names and times are found, the
# language, and the proxies. Not our settings, and no secret, whatever its name.
_HANDED_ON = re.compile(
    "PATH|HOME|TMPDIR|LANG|LANGUAGE|LC_[A-Z]+|TZ|TZDIR|PYTHONTZPATH|LD_LIBRARY_PATH"
    "|(NIX_)?SSL_CERT_FILE|SSL_CERT_DIR|OPENSSL_CONF|OPENSSL_MODULES|RES_OPTIONS|LOCALDOMAIN|HOSTALIASES"
    "|(?i:https?|all|no)_(?i:proxy)"
)

# The recorders that this process watches, the newest last: what a live view shows and a Ctrl-C stops.
watched: list["Recorder"] = []
# The last words of recorders that died before they recorded anything, in a row, by session.
_stillborn: dict[str, list[str]] = {}
_START_S = 30.0
# A recorder that ends unsubscribes, takes what is in flight and seals: seconds, on a slow disk a minute.
_END_S = 120.0


class Recorder:
    """A recorder that runs, or has run, for one session, as one of the runs that want it sees it.

    `request` is the session's, `wanted` what this run wants of it. `attached` says that another run had started it.
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
        """Whether the recorder still runs."""
        if self._process is not None:
            return self._process.poll() is None
        return is_held(self.request.folder / SESSION_LOCK)

    @property
    def came_second(self) -> bool:
        """Whether it ended because another recorder had taken the key, or the session, a moment before."""
        return self._process is not None and self._process.poll() == recorder.BUSY

    def status(self) -> Status | None:
        """The recorder's newest word on how it stands, or None before the first."""
        return read_status(self.request.folder)

    def stop(self) -> None:
        """Want no more of it: it ends in order, unless another run wants it. It unsubscribes, takes the rest, seals."""
        withdraw(self.request.folder, self.wanted.id, time.time_ns())

    @property
    def is_done(self) -> bool:
        """Whether all that this run wanted is in sealed batches, though the recorder may go on for others."""
        status = self.status()
        return status is not None and self.wanted.id in status.settled

    def sealed(self) -> Iterator[BatchName]:
        """The session's batches as they are sealed, each once; ends with the recorder, or when this run is done."""
        seen: set[BatchName] = set()
        alive = True
        while alive:
            alive = self.is_alive and not self.is_done  # Before the look: what it sealed last is then not missed.
            for name in Store(self.request.data_dir).sealed_batches():
                if name.session == self.request.session and name not in seen:
                    seen.add(name)
                    yield name
            if alive:
                time.sleep(_LOOK_EVERY_S)

    def record(self) -> SessionRecord:
        """What the session came to, once the recorder has ended.

        Raises TransientError where it died without a record: a new start goes on with the session. One that dies of
        the same again and again, before it has recorded anything, is given up: the session has then failed for that.
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
        # Who kills it is not the same as what it dies of.
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
        """The last line that it wrote: where it died of an exception, that."""
        with (self.request.folder / LOG_FILE).open("rb") as log:
            log.seek(max(self._log_begins, log.seek(0, os.SEEK_END) - _WORDS_BYTES))
            lines = [line for line in log.read().decode(errors="replace").splitlines() if line.strip()]
        last = lines[-1] if lines and self._process is not None else ""
        return "".join(letter if letter.isprintable() else " " for letter in last)[:300]


def recording_session(store: Store, session: str | None) -> tuple[Path, Status]:
    """The folder and status of the session that records: the one named, or the only one there is.

    Raises TerminalError where there is none, or more than one and none is named.
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
    """Have the session in that folder record what `wish` makes of its list; waits until it does.

    With `request_id` only what that run wants is changed, else what every run wants.

    Raises TerminalError where nothing would be left to hear, TransientError where the recorder does not follow.
    """
    union = change(folder, wish, time.time_ns(), request_id)
    _until(lambda: set(getattr(read_status(folder), "symbols", ())) == set(union), _START_S)


def record_of(request: CaptureRequest) -> SessionRecord | None:
    """The record of that session, or None before it has ended."""
    try:
        return read(request.folder / RECORD_FILE, SessionRecord)
    except FileNotFoundError:
        return None


def start_or_attach(session: CaptureRequest, key: str, wanted: Request | None = None) -> Recorder:
    """The recorder for what a run wants: the one that already records with this key, or a new one.

    A recorder that runs for others records for this run too, whatever its symbols and its end. Raises ConflictError
    where the key is in use in another data folder or for another feed, TerminalError where a recorder cannot be
    started.
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
        else:  # That one is ending, and takes no more: the key is free in a moment.
            _until(lambda: not is_held(key_lock_path(session.feed_url, key)), _END_S)


def _watched(recorder: Recorder) -> Recorder:
    watched.append(recorder)
    return recorder


def _discard_unused(folder: Path) -> None:
    """Remove the folder of a session that never began: it would be taken for one whose recorder was killed."""
    if read_status(folder) is None:
        shutil.rmtree(folder)


def _running(session: CaptureRequest, key: str) -> CaptureRequest | None:
    """The session of the recorder that holds this key, or None where there is none."""
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
    """Where we import from and a Python by itself does not: this package first, the working folder never."""
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
