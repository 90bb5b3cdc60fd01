"""The requests of runs to a session, one small file each in `sessions/<session>/requests/`.

A recorder records the union of all requests until the last one ends. So a run that finds a running recorder adds its
own request, and a canceled run withdraws only its own.
"""

import fcntl
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from tasks.errors import CorruptionError, TerminalError
from tasks.records.ledger import Request, SymbolChange
from tasks.records.manifest import encode, read
from tasks.records.status import boot_id
from tasks.storage.store import write_whole

log = logging.getLogger(__name__)

_FOLDER = "requests"
_CLOSED = "closed"


def requests_of(session_folder: Path) -> tuple[Request, ...]:
    """Return every request of the session in that folder, in order of their names.

    A damaged one is logged and skipped, so that the others are still recorded.
    """
    found = []
    for path in sorted((session_folder / _FOLDER).glob("[!.]*.json")):
        try:
            found.append(read(path, Request))
        except CorruptionError as error:
            log.warning("%s", error)
    return tuple(found)


def stamp_of(session_folder: Path) -> int:
    """Return a number that changes whenever a request does; cheap enough to check several times a second."""
    try:
        return (session_folder / _FOLDER).stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def join(session_folder: Path, request: Request, at_ns: int) -> bool:
    """Add a request at `at_ns` (UTC ns), once; return False if the session accepts no more because it is ending.

    A request whose run was killed lasts until its end. If the new request covers all of it, the new one replaces it:
    canceling a run that follows a killed one must end the recording.
    """
    with _locked(session_folder) as folder:
        if (folder / _CLOSED).exists():
            return False
        if not (folder / f"{request.id}.json").exists():
            for other in active(requests_of(session_folder), at_ns):
                if _covers(request, other) and not is_running(other.process):
                    _save(folder, replace(other, withdrawn_ns=at_ns))
            _save(folder, request)
        return True


def this_process() -> str:
    """Return an identifier of this process that is unique on this machine, even if its PID is reused."""
    return _named(os.getpid())


def is_running(process: str) -> bool:
    """Return whether the process with this identifier is still running on this machine."""
    number = process.partition("/")[0]
    return number.isdigit() and _named(int(number)) == process


def close(session_folder: Path, still_wanted: Callable[[tuple[Request, ...]], bool]) -> bool:
    """Accept no more requests, unless one just added is `still_wanted`; return whether it is closed."""
    with _locked(session_folder) as folder:
        if still_wanted(requests_of(session_folder)):
            return False
        (folder / _CLOSED).touch()
        return True


def reopen(session_folder: Path) -> None:
    """Accept requests again, because a recorder continues the session."""
    with _locked(session_folder) as folder:
        (folder / _CLOSED).unlink(missing_ok=True)


def withdraw(session_folder: Path, request_id: str, at_ns: int) -> bool:
    """Withdraw a request at `at_ns` (UTC ns); return whether other requests are still active then."""
    with _locked(session_folder) as folder:
        found = requests_of(session_folder)
        for request in found:
            if request.id == request_id and at_ns < request.end_ns:
                _save(folder, replace(request, withdrawn_ns=at_ns))
        return any(request.id != request_id and at_ns < request.end_ns for request in found)


def change(
    session_folder: Path,
    wish: Callable[[tuple[str, ...]], Iterable[str]],
    at_ns: int,
    request_id: str | None = None,
) -> tuple[str, ...]:
    """Change the requested symbols to `wish(union)` from `at_ns` (UTC ns) on; return the new union.

    Added symbols are added to every active request, and removed symbols are removed from each. With `request_id`, only
    that request is changed, based on its own list. Raises TerminalError if no symbol would be left.
    """
    with _locked(session_folder) as folder:
        now = active(requests_of(session_folder), at_ns)
        mine = [request for request in now if request_id in (None, request.id)]
        before = symbols_of(mine)
        after = tuple(dict.fromkeys(wish(before)))
        added, removed = [each for each in after if each not in before], {*before} - {*after}
        changed = [_changed(each, added, removed, at_ns) if each in mine else each for each in now]
        union = symbols_of(changed)
        if not union:
            raise TerminalError("no symbol would be left; end the session instead")
        for each in changed:
            if each not in now:
                _save(folder, each)
        return union


def active(requests: Iterable[Request], at_ns: int) -> tuple[Request, ...]:
    """Return the requests that have not ended at that time (UTC ns)."""
    return tuple(request for request in requests if at_ns < request.end_ns)


def symbols_of(requests: Iterable[Request]) -> tuple[str, ...]:
    """Return the union of their symbols, in order."""
    return tuple(dict.fromkeys(symbol for request in requests for symbol in request.current))


def _changed(request: Request, added: Iterable[str], removed: Iterable[str], at_ns: int) -> Request:
    before = request.current
    changes = [SymbolChange(at_ns=at_ns, symbol=symbol, action="removed") for symbol in before if symbol in removed]
    changes += [SymbolChange(at_ns=at_ns, symbol=symbol, action="added") for symbol in added if symbol not in before]
    return replace(request, changes=(*request.changes, *changes)) if changes else request


def _covers(request: Request, other: Request) -> bool:
    return request.until_ns >= other.end_ns and {*request.current} >= {*other.current}


def _named(pid: int) -> str:
    """Identify a process by its PID, its start time, and the boot ID, because PIDs are reused."""
    with suppress(OSError):
        state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        if state != "Z":  # A zombie: it has ended, but its parent has not reaped it.
            return f"{pid}/{rest[18]}/{boot_id()}"
    return ""


def _save(folder: Path, request: Request) -> None:
    write_whole(folder / f"{request.id}.json", encode(request))


@contextmanager
def _locked(session_folder: Path) -> Iterator[Path]:
    folder = session_folder / _FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield folder
    finally:
        os.close(descriptor)
