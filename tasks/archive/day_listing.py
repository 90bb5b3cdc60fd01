"""Lists one day's folder of the archive, using an index to avoid reading records that have not changed.

The index is a cache: it can be deleted at any time. For each record it keeps a summary with the record's inode, size,
and times. If one of these differs, or if the index is damaged or belongs to another day, the record is read again.
The folder itself is always listed, so an index can never hide a batch. Two changes within the resolution of the file
system's clock would look the same, so records that changed in the last seconds are not kept in the index.
"""

import os
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path

import msgspec
from msgspec import UNSET

from tasks.archive.batch_facts import Acknowledged, BatchFacts, facts_of
from tasks.archive.side_records import acknowledged, receipt_of
from tasks.errors import CorruptionError
from tasks.records.manifest import Day, Manifest, Place, Receipt, read, record_sha256
from tasks.records.names import BatchName, archived_in
from tasks.storage.store import FileState, Store, state_of, write_whole

# Longer than the coarsest file system timestamp (two seconds).
SETTLED_AFTER_NS = 3_000_000_000
# Increment when the meaning of `BatchFacts` or `DayFacts` changes.
_VERSION = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownBatch:
    """The summary of an archived batch's manifest and receipt, with the states of the files that it was read from."""

    manifest: FileState
    receipt: FileState | None
    facts: BatchFacts


@dataclass(frozen=True, slots=True, kw_only=True)
class DayFacts:
    """A closed day's record in short: its file, that file's SHA-256 (hex), and the names of its batches.

    `records` has the `record_sha256` of each batch's manifest. `before_resent`: one is from before `resent` existed.
    """

    file: str | None
    sha256: str
    batches: tuple[str, ...]
    version: int
    records: tuple[str, ...]
    symbols: frozenset[str]
    before_resent: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class DayIndex:
    """The cached summaries of one feed and day; `record` is the file state of the day's own record."""

    version: int = _VERSION
    feed: str
    date: str
    batches: dict[str, KnownBatch] = field(default_factory=dict)
    record: FileState | None = None
    day: DayFacts | None = None

    def settled(self, now_ns: int) -> "DayIndex":
        """Return the entries whose files cannot change after `now_ns` (UTC) without a change of file state."""
        batches = {
            name: each
            for name, each in self.batches.items()
            if _is_settled(each.manifest, now_ns) and _is_settled(each.receipt, now_ns)
        }
        settled = replace(self, batches=batches)
        return settled if _is_settled(self.record, now_ns) else replace(settled, record=None, day=None)


@dataclass(frozen=True, slots=True)
class DayListing:
    """The archived batches of one feed and day, all file names in their folder, and the records' summaries."""

    path: Path
    files: frozenset[str]
    batches: tuple[BatchName, ...]
    known: DayIndex

    def awaits_upload(self, name: BatchName, place: Place, rejects: Collection[str]) -> bool:
        """Return whether the bucket has yet to acknowledge the batch, or its quarantine files (those in `rejects`)."""
        known = self.known.batches.get(str(name))
        told: Acknowledged | Receipt | None = (
            acknowledged(self.path / name.manifest, place) if known is None else known.facts.acknowledged
        )
        if told is None or not told.is_of(place):
            # A file that was removed here and never uploaded there leaves nothing to send.
            return not (name.removed in self.files and self.files.isdisjoint(name.archives))
        has_quarantine = known is None or known.facts.has_quarantine
        return has_quarantine and not told.beside and any(each in rejects for each in name.rejects)


def look(store: Store, feed: str, date: str, now_ns: int) -> DayListing:
    """List a day's folder and read the records whose current state is not in the index."""
    index, path = _read_index(store, feed, date), store.archive_folder(feed, date)
    files = {each.name: each for each in files_in(path)}
    names = archived_in(files)
    batches = {
        str(name): known
        for name in names
        if (known := _known_batch(path, name, files, index.batches.get(str(name)))) is not None
    }
    found = replace(_known_day(store.day_record(feed, date), index), batches=batches)
    if (settled := found.settled(now_ns)) != index:
        _write_index(store, settled)
    return DayListing(path, frozenset(files), tuple(names), found)


def known_day(store: Store, feed: str, date: str, now_ns: int) -> DayFacts | None:
    """Return the summary of a closed day's record, None if it is missing or unreadable.

    The record itself may be larger than all trades of one symbol; it is read only if the index does not have it.
    """
    index = _read_index(store, feed, date)
    found = _known_day(store.day_record(feed, date), index)
    if found != index and (settled := found.settled(now_ns)) != index:
        _write_index(store, settled)
    return found.day


def files_in(folder: Path) -> list[os.DirEntry[str]]:
    """Return the entries of a folder; an empty list if it does not exist."""
    with suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as found:
        return list(found)
    return []


def short(day: Day) -> DayFacts:
    """Return the summary of a day's record."""
    return DayFacts(
        file=day.file, sha256=day.sha256, batches=tuple(each.batch for each in day.batches), version=day.version,
        records=tuple(map(record_sha256, day.batches)),
        symbols=frozenset(symbol for each in day.batches for symbol in each.report.per_symbol),
        before_resent=any(each.report.resent is UNSET for each in day.batches),
    )  # fmt: skip


def _known_batch(
    folder: Path, name: BatchName, files: Mapping[str, os.DirEntry[str]], known: KnownBatch | None
) -> KnownBatch | None:
    """Summarize a manifest and its receipt, from the index or by reading them; None if they cannot be read."""
    beside = files.get(name.receipt)
    try:
        # States are taken before reading: a file replaced in between has another state and is read again next time.
        manifest_state = state_of(files[name.manifest].stat())
        receipt_state = None if beside is None else state_of(beside.stat())
        if known is not None and (known.manifest, known.receipt) == (manifest_state, receipt_state):
            return known
        manifest = read(folder / name.manifest, Manifest)
        facts = facts_of(manifest.seal, manifest.report, manifest, receipt_of(folder / name.manifest))
    except (CorruptionError, OSError):
        return None  # `Catalog.batch` raises the error to whoever asks for this batch.
    return KnownBatch(manifest=manifest_state, receipt=receipt_state, facts=facts)


def _known_day(record: Path, index: DayIndex) -> DayIndex:
    """Return the index with the current day record's summary, or without one if the record is missing or unreadable."""
    with suppress(CorruptionError, OSError):
        state = state_of(record.stat())
        return index if index.record == state else replace(index, record=state, day=short(read(record, Day)))
    return replace(index, record=None, day=None)


def _is_settled(state: FileState | None, now_ns: int) -> bool:
    return state is None or max(state[2:]) <= now_ns - SETTLED_AFTER_NS


def _read_index(store: Store, feed: str, date: str) -> DayIndex:
    """Return the index of a day; an empty one if it is missing, unreadable, or of another day."""
    with suppress(OSError, msgspec.MsgspecError):
        digest, _, content = store.index_of(feed, date).read_bytes().partition(b"\n")
        found = msgspec.msgpack.decode(content, type=DayIndex)
        is_whole = sha256(content).hexdigest().encode() == digest
        if is_whole and (found.version, found.feed, found.date) == (_VERSION, feed, date):
            return found
    return DayIndex(feed=feed, date=date)


def _write_index(store: Store, index: DayIndex) -> None:
    """Save the index if this user owns the data folder; a failed write is ignored, since the index is only a cache."""
    with suppress(OSError):
        if store.root.stat().st_uid == os.geteuid():
            path = store.index_of(index.feed, index.date)
            path.parent.mkdir(parents=True, exist_ok=True)
            content = msgspec.msgpack.encode(index)
            write_whole(path, sha256(content).hexdigest().encode() + b"\n" + content)
