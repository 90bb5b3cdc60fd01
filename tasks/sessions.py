"""What is known of a session: by its record, or, before it has one, by the other files of its folder?

A recorder keeps these files while it records; the record says the same once it has ended.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec

from tasks.batch import BatchName, is_session_name
from tasks.errors import CorruptionError
from tasks.ledger import Gap, SessionRecord, SymbolChange
from tasks.locks import SESSION_LOCK, is_held
from tasks.manifest import read
from tasks.requests import requests_of
from tasks.status import Status, read_status
from tasks.store import Store

RECORD_FILE = "session.json"
REQUEST_FILE = "request.json"
GAPS_FILE = "gaps.json"
WATCHLIST_FILE = "watchlist.json"
_Saved = TypeVar("_Saved")
NOT_CLOSED = "the recorder is gone, and what it left is not archived: run `tape archive`"


@dataclass(frozen=True, slots=True)
class SavedGaps:
    """All gaps of a session so far: `gaps.json`."""

    gaps: tuple[Gap, ...]


@dataclass(frozen=True, slots=True)
class SavedWatchList:
    """The symbols of a session now, those since its start, and when they changed: `watchlist.json`."""

    current: tuple[str, ...]
    ever: tuple[str, ...]
    changes: tuple[SymbolChange, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """The part of a session's `request.json` that its record repeats."""

    session: str
    symbols: tuple[str, ...]
    started_ns: int
    deadline_ns: int
    feed: str = "finnhub"
    zone: str = "America/New_York"
    lanes: int = 1


def sessions_here(store: Store) -> list[str]:
    """The sessions that have a folder of their own, oldest first."""
    return sorted(path.name for path in store.sessions.glob("*") if path.is_dir() and is_session_name(path.name))


def session_record(store: Store, session: str) -> SessionRecord | None:
    """The session's record, or one made of what is known so far; None where there is neither.

    Made so, its outcome is recording, and `ended_ns` the time of the recorder's newest word; or killed, where no
    recorder runs and nobody has closed the session. Raises CorruptionError where a file cannot be read.
    """
    folder = store.sessions / session
    # A recorder that ends meanwhile writes its record before it lets go of its lock.
    recording = is_held(folder / SESSION_LOCK)
    try:
        return read(folder / RECORD_FILE, SessionRecord)
    except FileNotFoundError:
        return _record_so_far(store, folder, recording)


def has_ended(store: Store, session: str) -> bool:
    """Whether the session has a record: it records no more, and what it left is accounted for."""
    return (store.sessions / session / RECORD_FILE).exists()


def records_of(store: Store, feed: str | None = None) -> Iterator[SessionRecord]:
    """What is known of every session, or of every one of that feed, oldest first. Raises CorruptionError."""
    for session in sessions_here(store):
        record = session_record(store, session)
        if record is not None and feed in (None, record.feed):
            yield record


def _record_so_far(store: Store, folder: Path, recording: bool) -> SessionRecord | None:
    try:
        content = (folder / REQUEST_FILE).read_bytes()
    except FileNotFoundError:
        return None
    try:
        asked = msgspec.json.decode(content, type=_Asked)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise CorruptionError(f"{folder / REQUEST_FILE}: not a request ({error}); restore it from a copy") from error
    status = read_status(folder)
    symbols = _saved(folder / WATCHLIST_FILE, SavedWatchList) or SavedWatchList(asked.symbols, asked.symbols, ())
    gaps = (_saved(folder / GAPS_FILE, SavedGaps) or SavedGaps(())).gaps
    counts = status.per_symbol if status else {}
    newest_ns = max(asked.started_ns, status.updated_ns if status else 0)
    return SessionRecord(
        session=asked.session, feed=asked.feed, symbols=symbols.ever, started_ns=asked.started_ns,
        listening_ns=status.listening_ns if status else None,
        ended_ns=newest_ns if recording else asked.deadline_ns, deadline_ns=asked.deadline_ns,
        outcome="recording" if recording else "killed", error=None if recording else NOT_CLOSED,
        connections=status.connection if status else 0, frames_received=status.frames if status else 0,
        batches=_batches(store, asked), gaps=gaps if recording else (*gaps, *_left(gaps, symbols, asked, status)),
        never_heard=tuple(symbol for symbol in symbols.ever if not counts.get(symbol)),
        refused=status.refused_symbols if status else (), changes=symbols.changes,
        requests=requests_of(folder), zone=asked.zone,
    )  # fmt: skip


def _left(gaps: tuple[Gap, ...], symbols: SavedWatchList, asked: _Asked, status: Status | None) -> Iterator[Gap]:
    """The gap of a session whose recorder is gone: from its last word on, of what was not in a gap already."""
    lasting = {symbol for gap in gaps if gap.end_ns is None for symbol in gap.symbols}
    unheard = tuple(symbol for symbol in symbols.current if symbol not in lasting)
    start_ns = max(asked.started_ns, status.through_ns if status else 0)
    if unheard and start_ns < asked.deadline_ns:
        reason = status.error if status is not None and status.error is not None else NOT_CLOSED
        yield Gap(symbols=unheard, start_ns=start_ns, end_ns=None, reason=reason)


def _batches(store: Store, asked: _Asked) -> tuple[int, ...]:
    """How many batches of each lane are sealed so far, wherever they stand."""
    found = [*store.sealed.glob(f"{asked.session}-*.seal.json"), *store.validated.glob(f"{asked.session}-*.seal.json")]
    found += store.archive.glob(f"feed=*/date=*/_{asked.session}-*.manifest.json")
    names = {BatchName.parse(path.name) for path in found}
    return tuple(max((n.number + 1 for n in names if n.lane == lane), default=0) for lane in range(asked.lanes))


def _saved(path: Path, kind: type[_Saved]) -> _Saved | None:
    try:
        return read(path, kind)
    except FileNotFoundError:
        return None
