"""Which symbols is a session asked to hear, now and ever?

The recorder follows what the session's requests ask for, and keeps what it did in `watchlist.json`, so that a killed
recorder's successor goes on with the same list.
"""

import threading
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from tasks.records.ledger import SymbolChange
from tasks.records.manifest import encode, read
from tasks.records.sessions import SavedWatchList
from tasks.storage.store import write_whole


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
