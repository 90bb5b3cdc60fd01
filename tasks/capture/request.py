"""A session's request and its watch-list: what to record. Both are files in the session's folder, without secrets."""

import threading
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from tasks.errors import CorruptionError
from tasks.feeds.registry import DEFAULT
from tasks.records.ledger import Request, SymbolChange
from tasks.records.manifest import encode, read
from tasks.records.requests import this_process
from tasks.records.sessions import REQUEST_FILE, SavedWatchList
from tasks.records.trade import NS_PER_S
from tasks.storage.store import sync, write_whole


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptureRequest:
    """A session as its first run requests it: from `started_ns` to `deadline_ns` (UTC ns), these symbols, this feed.

    It goes on while any run wants it: see `tasks/records/requests.py`.

    `feed_url` has no key. `zone` is the exchange's time zone: its midnights end batches, except those of symbols that
    never close (`routes.py`). `batch_for_ns` and `batch_bytes` bound a batch's age and size; `queue_bytes` bounds what
    waits between socket and journal. The session ends if less than `disk_reserve_bytes` is free. Rejected frames are
    kept up to `quarantine_bytes`, then only counted. `ping_every_s` is also the time limit for a pong; a peer that
    keeps sending after the last request is left after `leave_within_s`.
    `reconnect_within_s` is the longest wait before a new connection, unless the feed counts another one on the key.
    `market_hours` are the intervals (UTC ns) in which the exchange trades: only in them is a stock's silence unusual.
    A message larger than `max_message_bytes` ends its connection.
    """

    session: str
    data_dir: Path
    feed_url: str
    symbols: tuple[str, ...]
    started_ns: int
    deadline_ns: int
    feed: str = DEFAULT
    zone: str = "America/New_York"
    lanes: int = 1
    batch_for_ns: int = 300 * NS_PER_S
    batch_bytes: int = 64 << 20
    queue_bytes: int = 64 << 20
    disk_reserve_bytes: int = 0
    quarantine_bytes: int = 256 << 20
    connect_timeout_s: float = 15.0
    ping_every_s: float = 10.0
    leave_within_s: float = 5.0
    reconnect_within_s: float = 30.0
    max_message_bytes: int = 16 << 20
    market_hours: tuple[tuple[int, int], ...] = ()

    @property
    def folder(self) -> Path:
        """The session's own folder."""
        return self.data_dir / "sessions" / self.session


def own_request(session: CaptureRequest) -> Request:
    """Return the request of the session's first run: everything that the session was started for."""
    return Request(
        id=session.session, owner="", symbols=session.symbols, start_ns=session.started_ns,
        until_ns=session.deadline_ns, hours=session.market_hours, process=this_process(), feed=session.feed,
    )  # fmt: skip


def save_request(request: CaptureRequest) -> None:
    """Write the request into its session's folder, creating the folder."""
    request.folder.mkdir(parents=True, exist_ok=True)
    sync(request.folder.parent)
    content = msgspec.json.encode(request, enc_hook=str)
    write_whole(request.folder / REQUEST_FILE, msgspec.json.format(content, indent=2) + b"\n")


def read_request(folder: Path) -> CaptureRequest:
    """Return the request of the session in that folder, even if the data folder has moved since.

    Raises FileNotFoundError if there is none, CorruptionError if it cannot be read.
    """
    path = folder / REQUEST_FILE
    try:
        request = msgspec.json.decode(path.read_bytes(), type=CaptureRequest, dec_hook=lambda kind, value: kind(value))
    except msgspec.MsgspecError as error:
        raise CorruptionError(f"{path}: not a request ({error}); restore it from a copy") from error
    return replace(request, data_dir=folder.parents[1])


class WatchList:
    """The symbols of one session: `current` ones in order of subscription, and all `ever` recorded. Thread-safe.

    It is saved in `watchlist.json`, so that a killed recorder's successor continues with the same list.
    """

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
        """Replace the list as of `at_ns` (UTC ns) and save it; return the added and the removed symbols."""
        with self._lock:
            now, wish = self._list, dict.fromkeys(wanted)
            known = set(now.current)
            added = tuple(symbol for symbol in wish if symbol not in known)
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
