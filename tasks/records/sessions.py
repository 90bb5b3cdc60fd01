"""What is known of a session, whether it has ended or is still recording.

An ended session has a record. For a running one, the same is assembled from what its recorder keeps next to it:
requests, gaps, watch list, and status.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec

from tasks.errors import CorruptionError
from tasks.feeds.registry import DEFAULT
from tasks.records.gaps import read_gaps
from tasks.records.ledger import SessionRecord, SymbolChange
from tasks.records.manifest import Seal, read
from tasks.records.names import SESSION_RECORD
from tasks.records.requests import requests_of
from tasks.records.status import Status, read_status
from tasks.storage.locks import SESSION_LOCK, is_held

RECORD_FILE = SESSION_RECORD
# The record of a session that was only partly restored.
PARTIAL_FILE = "partial.json"
REQUEST_FILE = "request.json"
GAPS_FILE = "gaps.log"
WATCHLIST_FILE = "watchlist.json"
Kind = TypeVar("Kind")
NOT_CLOSED = "its recorder is gone, and it is not closed yet: run `tape archive`"


@dataclass(frozen=True, slots=True)
class SavedWatchList:
    """The symbols of a session now and since its start, and its changes: `watchlist.json`."""

    current: tuple[str, ...]
    ever: tuple[str, ...]
    changes: tuple[SymbolChange, ...]


class _Asked(msgspec.Struct):
    """What a session was started with; `request.json` has more."""

    session: str
    symbols: tuple[str, ...]
    started_ns: int
    deadline_ns: int
    feed: str = DEFAULT
    zone: str = "America/New_York"
    lanes: int = 1


def is_recording(folder: Path) -> bool:
    """Return whether a recorder is running for the session in that folder."""
    return is_held(folder / SESSION_LOCK)


def record_of(folder: Path, seals: list[Seal] | None = None) -> SessionRecord | None:
    """Return the record of the session in that folder, or None if there is no such session.

    For a session that has not ended, the record is assembled from what is known so far, with the outcome `recording`,
    or `killed` if no recorder is running; its counts come from `seals`. Raises CorruptionError.
    """
    try:
        return read(folder / RECORD_FILE, SessionRecord)
    except FileNotFoundError:
        pass
    recording = is_recording(folder)
    try:
        asked = msgspec.json.decode((folder / REQUEST_FILE).read_bytes(), type=_Asked)
    except FileNotFoundError:
        return None
    except msgspec.MsgspecError as error:
        raise CorruptionError(f"{folder / REQUEST_FILE}: not a request ({error}); restore it from a copy") from error
    return _so_far(folder, asked, read_status(folder), recording, seals or [])


def _so_far(folder: Path, asked: _Asked, status: Status | None, recording: bool, seals: list[Seal]) -> SessionRecord:
    watch = _saved(folder / WATCHLIST_FILE, SavedWatchList) or SavedWatchList(asked.symbols, asked.symbols, ())
    gaps, _ = read_gaps(folder / GAPS_FILE)
    counted = [0] * asked.lanes
    for seal in seals:
        counted[min(int(seal.batch.rsplit("-", 2)[1]), asked.lanes - 1)] += 1
    heard = {symbol for seal in seals for symbol in seal.per_symbol} | {
        symbol for symbol, count in (status.per_symbol if status else {}).items() if count
    }
    return SessionRecord(
        session=asked.session, feed=asked.feed, symbols=watch.ever, started_ns=asked.started_ns,
        listening_ns=status.listening_ns if status else None,
        ended_ns=status.updated_ns if status else asked.started_ns,
        deadline_ns=status.deadline_ns if status else asked.deadline_ns,
        outcome="recording" if recording else "killed", error=None if recording else NOT_CLOSED,
        connections=status.connection if status else 0,
        frames_received=sum(seal.frames.received for seal in seals), batches=tuple(counted), gaps=tuple(gaps.all),
        never_heard=tuple(symbol for symbol in watch.ever if symbol not in heard),
        refused=status.refused_symbols if status else (), changes=watch.changes,
        requests=requests_of(folder), zone=asked.zone, vendor_errors=status.vendor_errors if status else {},
    )  # fmt: skip


def _saved(path: Path, kind: type[Kind]) -> Kind | None:
    try:
        return read(path, kind)
    except FileNotFoundError:
        return None
