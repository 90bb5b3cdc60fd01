"""What is in one day's folder of the archive, without reading again what was read before?

The index of a day is derived, never the truth, and may be removed at any time. It keeps what each record said beside
the record's inode, size and times. Which records there are it does not say: the folders are listed each time, so no
index can hide a batch. Where one of the four differs, or the index is damaged or of another day, the record is read.
Times tell a change only where no other change can have had the same: what changed within the last seconds is not kept.
"""

import os
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path

import msgspec

from tasks.archive.batch_facts import Acknowledged, BatchFacts, facts_of
from tasks.archive.side_records import acknowledged, receipt_of
from tasks.errors import CorruptionError
from tasks.records.manifest import Day, Manifest, Place, Receipt, read
from tasks.records.names import BatchName, archived_in
from tasks.storage.store import FileState, Store, state_of, write_whole

# Longer than the coarsest clock of a file system: two seconds.
SETTLED_AFTER_NS = 3_000_000_000
# Counts up where `BatchFacts` or `DayFacts` come to mean something else.
_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownBatch:
    """What an archived batch's manifest and receipt (None where there is none) said, and as what files."""

    manifest: FileState
    receipt: FileState | None
    facts: BatchFacts


@dataclass(frozen=True, slots=True, kw_only=True)
class DayFacts:
    """What the record of a closed day says in short: its file, that file's SHA-256 (hex), and its batches' names."""

    file: str | None
    sha256: str
    batches: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DayIndex:
    """What is known of the records of one feed and day; `record` is the state of the day's own."""

    version: int = _VERSION
    feed: str
    date: str
    batches: dict[str, KnownBatch] = field(default_factory=dict)
    record: FileState | None = None
    day: DayFacts | None = None

    def settled(self, now_ns: int) -> "DayIndex":
        """Return the part of it whose files cannot change from now on (UTC ns) without another state."""
        batches = {
            name: each
            for name, each in self.batches.items()
            if _is_settled(each.manifest, now_ns) and _is_settled(each.receipt, now_ns)
        }
        settled = replace(self, batches=batches)
        return settled if _is_settled(self.record, now_ns) else replace(settled, record=None, day=None)


@dataclass(frozen=True, slots=True)
class DayListing:
    """The archived batches of one feed and day, the names of all files in their folder, and what the records say."""

    path: Path
    files: frozenset[str]
    batches: tuple[BatchName, ...]
    known: DayIndex

    def awaits_upload(self, name: BatchName, place: Place, rejects: Collection[str]) -> bool:
        """Return whether that bucket has not acknowledged the batch, or its files among the `rejects` in quarantine."""
        known = self.known.batches.get(str(name))
        told: Acknowledged | Receipt | None = (
            acknowledged(self.path / name.manifest, place) if known is None else known.facts.acknowledged
        )
        if told is None or not told.is_of(place):
            # What was removed here without ever having gone there has nothing to send.
            return not (name.removed in self.files and self.files.isdisjoint(name.archives))
        has_quarantine = known is None or known.facts.has_quarantine
        return has_quarantine and not told.beside and any(each in rejects for each in name.rejects)


def look(store: Store, feed: str, date: str, now_ns: int) -> DayListing:
    """List that day's folder, and read those of its records that are not known as they are now."""
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


def files_in(folder: Path) -> list[os.DirEntry[str]]:
    """Return everything in a folder, nothing where there is none."""
    with suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as found:
        return list(found)
    return []


def short(day: Day) -> DayFacts:
    """Return a day's record in short."""
    return DayFacts(file=day.file, sha256=day.sha256, batches=tuple(each.batch for each in day.batches))


def _known_batch(
    folder: Path, name: BatchName, files: Mapping[str, os.DirEntry[str]], known: KnownBatch | None
) -> KnownBatch | None:
    """What that manifest and its receipt say: as it is known, else by reading them; None where that cannot be."""
    beside = files.get(name.receipt)
    try:
        # Before they are read: one that is replaced meanwhile has another state, and is read again the next time.
        manifest_state = state_of(files[name.manifest].stat())
        receipt_state = None if beside is None else state_of(beside.stat())
        if known is not None and (known.manifest, known.receipt) == (manifest_state, receipt_state):
            return known
        manifest = read(folder / name.manifest, Manifest)
        facts = facts_of(manifest.seal, manifest.report, manifest, receipt_of(folder / name.manifest))
    except (CorruptionError, OSError):
        return None  # Whoever asks for it by its name is told.
    return KnownBatch(manifest=manifest_state, receipt=receipt_state, facts=facts)


def _known_day(record: Path, index: DayIndex) -> DayIndex:
    """The index with what the day's record says now; nothing of that where it is not there, or cannot be read."""
    with suppress(CorruptionError, OSError):
        state = state_of(record.stat())
        return index if index.record == state else replace(index, record=state, day=short(read(record, Day)))
    return replace(index, record=None, day=None)


def _is_settled(state: FileState | None, now_ns: int) -> bool:
    return state is None or max(state[2:]) <= now_ns - SETTLED_AFTER_NS


def _read_index(store: Store, feed: str, date: str) -> DayIndex:
    """What is known of that day; nothing where there is no index, or none of that day that can be read."""
    with suppress(OSError, msgspec.MsgspecError):
        digest, _, content = store.index_of(feed, date).read_bytes().partition(b"\n")
        found = msgspec.msgpack.decode(content, type=DayIndex)
        is_whole = sha256(content).hexdigest().encode() == digest
        if is_whole and (found.version, found.feed, found.date) == (_VERSION, feed, date):
            return found
    return DayIndex(feed=feed, date=date)


def _write_index(store: Store, index: DayIndex) -> None:
    """Keep what is known, where it can be written and the data folder is this user's own: it is no loss where not."""
    with suppress(OSError):
        if store.root.stat().st_uid == os.geteuid():
            path = store.index_of(index.feed, index.date)
            path.parent.mkdir(parents=True, exist_ok=True)
            content = msgspec.msgpack.encode(index)
            write_whole(path, sha256(content).hexdigest().encode() + b"\n" + content)
