"""What is one session asked to do? Written to `sessions/<session>/request.json`; holds no secret."""

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
    """A session as its first run asks for it: from `started_ns` to `deadline_ns` (UTC ns), these symbols, this feed.

    It goes on for as long as any run wants it: see `tasks/records/requests.py`.

    `feed_url` holds no key. `zone` is the exchange's time zone, whose midnights end batches
    but those of symbols that never close (`routes.py`). `batch_for_ns` and
    `batch_bytes` bound a batch's age and size; `queue_bytes` bounds what waits between socket and journal.
    Below `disk_reserve_bytes` of free space the session ends. What it puts into quarantine is kept up to
    `quarantine_bytes`, then counted. `ping_every_s` is also how long a pong may take.
    `reconnect_within_s` is the longest wait before a new connection, but where the feed counts another on the key.
    `market_hours` are the stretches (UTC ns) in which the exchange trades: only in them is a stock's silence strange.
    `max_message_bytes` is the largest message that is read; a larger one ends its connection.
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
    reconnect_within_s: float = 30.0
    max_message_bytes: int = 16 << 20
    market_hours: tuple[tuple[int, int], ...] = ()

    @property
    def folder(self) -> Path:
        """The session's own folder."""
        return self.data_dir / "sessions" / self.session


def own_request(session: CaptureRequest) -> Request:
    """What the session's first run wants of it, where that run says nothing else."""
    return Request(
        id=session.session, owner="", symbols=session.symbols, start_ns=session.started_ns,
        until_ns=session.deadline_ns, hours=session.market_hours, process=this_process(), feed=session.feed,
    )  # fmt: skip


def save_request(request: CaptureRequest) -> None:
    """Write the request into its session's folder, which is made."""
    request.folder.mkdir(parents=True, exist_ok=True)
    sync(request.folder.parent)
    content = msgspec.json.encode(request, enc_hook=str)
    write_whole(request.folder / REQUEST_FILE, msgspec.json.format(content, indent=2) + b"\n")


def read_request(folder: Path) -> CaptureRequest:
    """The request of the session in that folder, wherever the data folder has moved since.

    Raises FileNotFoundError where there is none, CorruptionError where it cannot be read.
    """
    path = folder / REQUEST_FILE
    try:
        request = msgspec.json.decode(path.read_bytes(), type=CaptureRequest, dec_hook=lambda kind, value: kind(value))
    except msgspec.MsgspecError as error:
        raise CorruptionError(f"{path}: not a request ({error}); restore it from a copy") from error
    return replace(request, data_dir=folder.parents[1])


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
