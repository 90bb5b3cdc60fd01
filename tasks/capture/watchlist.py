"""Which symbols is a session asked to hear, now and ever?

Whoever wants others writes the whole list to `sessions/<session>/wanted.json`; the recorder follows within a second
and keeps what it did in `watchlist.json`, so that a killed recorder's successor goes on with the same list.
"""

import fcntl
import os
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from tasks.ledger import SymbolChange
from tasks.manifest import encode, read
from tasks.sessions import SavedWatchList
from tasks.store import write_whole

WATCHLIST_FILE = "watchlist.json"
WANTED_FILE = "wanted.json"


@dataclass(frozen=True, slots=True)
class _Wanted:
    symbols: tuple[str, ...]


class WatchList:
    """The symbols of one session. `current` in order of subscription, `ever` since its start. Safe from any thread."""

    def __init__(self, path: Path, symbols: tuple[str, ...]) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._list = read(path, SavedWatchList) if path.exists() else SavedWatchList(symbols, symbols, ())

    @property
    def current(self) -> tuple[str, ...]:
        return self._list.current

    @property
    def ever(self) -> tuple[str, ...]:
        return self._list.ever

    @property
    def changes(self) -> tuple[SymbolChange, ...]:
        return self._list.changes

    def change(self, wanted: Iterable[str], at_ns: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Take another list, from `at_ns` (UTC ns) on: gives what was added and what was removed. Saved on return."""
        with self._lock:
            now, wish = self._list, dict.fromkeys(wanted)
            heard = set(now.current)
            added = tuple(symbol for symbol in wish if symbol not in heard)
            removed = tuple(symbol for symbol in now.current if symbol not in wish)
            if added or removed:
                changes = [SymbolChange(at_ns=at_ns, symbol=symbol, action="removed") for symbol in removed]
                changes += [SymbolChange(at_ns=at_ns, symbol=symbol, action="added") for symbol in added]
                self._list = replace(
                    now,
                    current=(*(symbol for symbol in now.current if symbol in wish), *added),
                    ever=tuple(dict.fromkeys((*now.ever, *added))),
                    changes=(*now.changes, *changes),
                )
                write_whole(self._path, encode(self._list))
            return added, removed


def want(folder: Path, change: Callable[[tuple[str, ...]], Iterable[str]], default: tuple[str, ...]) -> tuple[str, ...]:
    """Replace the list that is wanted of the session in `folder` by what `change` makes of it; gives the new one.

    Two who do so at once both have their way, one after the other. `default` is the list where none was wanted yet.
    """
    descriptor = os.open(folder / f"{WANTED_FILE}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        before = wanted(folder)
        after = tuple(dict.fromkeys(change(default if before is None else before)))
        if after != before:
            write_whole(folder / WANTED_FILE, encode(_Wanted(after)))
        return after
    finally:
        os.close(descriptor)


def wanted(folder: Path) -> tuple[str, ...] | None:
    """The list that is wanted of the session in `folder`, None where nobody has asked for another."""
    try:
        return read(folder / WANTED_FILE, _Wanted).symbols
    except FileNotFoundError:
        return None
