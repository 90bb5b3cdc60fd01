"""Which runs want something of a session, and what? One small file for each in `sessions/<session>/requests/`.

A recorder records the union of what is asked for, until the last request ends. So a run that finds a recorder at work
files a request of its own, and one that is cancelled withdraws only that.
"""

import fcntl
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from tasks.errors import TerminalError
from tasks.ledger import Request, SymbolChange
from tasks.manifest import encode, read
from tasks.store import write_whole

_FOLDER = "requests"
_CLOSED = "closed"


def requests_of(session_folder: Path) -> tuple[Request, ...]:
    """Every request of the session in that folder, in the order of their names. Raises CorruptionError."""
    return tuple(read(path, Request) for path in sorted((session_folder / _FOLDER).glob("[!.]*.json")))


def stamp_of(session_folder: Path) -> int:
    """A number that changes whenever a request does: cheap to ask several times a second."""
    try:
        return (session_folder / _FOLDER).stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def join(session_folder: Path, request: Request) -> bool:
    """File a request, or file it again; False where the session takes no more because its recorder is ending."""
    with _locked(session_folder) as folder:
        if (folder / _CLOSED).exists():
            return False
        if not (folder / f"{request.id}.json").exists():
            _save(folder, request)
        return True


def close(session_folder: Path, still_wanted: Callable[[tuple[Request, ...]], bool]) -> bool:
    """Take no more requests, unless one that was just filed is `still_wanted`; gives whether it is closed."""
    with _locked(session_folder) as folder:
        if still_wanted(requests_of(session_folder)):
            return False
        (folder / _CLOSED).touch()
        return True


def reopen(session_folder: Path) -> None:
    """Take requests again: a recorder goes on with the session."""
    with _locked(session_folder) as folder:
        (folder / _CLOSED).unlink(missing_ok=True)


def withdraw(session_folder: Path, request_id: str, at_ns: int) -> bool:
    """End a request at `at_ns` (UTC ns), before its time; gives whether others still want something then."""
    with _locked(session_folder) as folder:
        found = requests_of(session_folder)
        for request in found:
            if request.id == request_id and at_ns < request.end_ns:
                _save(folder, replace(request, withdrawn_ns=at_ns))
        return any(request.id != request_id and at_ns < request.end_ns for request in found)


def change(session_folder: Path, wish: Callable[[Request], Iterable[str]], at_ns: int) -> tuple[str, ...]:
    """Have each request that has not ended at `at_ns` (UTC ns) ask for what `wish` gives; gives their union then.

    Raises TerminalError where nothing would be left of all of them.
    """
    with _locked(session_folder) as folder:
        now = active(requests_of(session_folder), at_ns)
        changed = [_changed(request, tuple(wish(request)), at_ns) for request in now]
        union = symbols_of(changed)
        if not union:
            raise TerminalError("no symbol would be left; end the session instead")
        for request in changed:
            _save(folder, request)
        return union


def active(requests: Iterable[Request], at_ns: int) -> tuple[Request, ...]:
    """Those that have not ended at that time (UTC ns)."""
    return tuple(request for request in requests if at_ns < request.end_ns)


def symbols_of(requests: Iterable[Request]) -> tuple[str, ...]:
    """The union of what they ask for, in order."""
    return tuple(dict.fromkeys(symbol for request in requests for symbol in request.current))


def _changed(request: Request, wish: tuple[str, ...], at_ns: int) -> Request:
    before = request.current
    changes = [SymbolChange(at_ns=at_ns, symbol=symbol, action="removed") for symbol in before if symbol not in wish]
    changes += [SymbolChange(at_ns=at_ns, symbol=symbol, action="added") for symbol in wish if symbol not in before]
    return replace(request, changes=(*request.changes, *changes)) if changes else request


def _save(folder: Path, request: Request) -> None:
    write_whole(folder / f"{request.id}.json", encode(request))


@contextmanager
def _locked(session_folder: Path) -> Iterator[Path]:
    folder = session_folder / _FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield folder
    finally:
        os.close(descriptor)
