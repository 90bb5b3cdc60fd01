"""Lists a data folder: its batches and days, the stage each has reached, and where its rows are now.

A day's file holds the rows of all its batches, sorted by symbol and event time, each row with its batch's name; the
day's record beside it holds the batches' manifests. A batch's own file may have been removed, which a `Removed`
record documents; its manifest is never removed.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tasks.archive.batch_facts import BatchFacts, facts_of
from tasks.archive.day_listing import DayFacts, DayListing, KnownBatch, files_in, look, short
from tasks.archive.side_records import acknowledged, day_and_manifests, missing_rows_error, receipt_of, removed
from tasks.errors import CorruptionError, TerminalError
from tasks.records.manifest import Day, Manifest, Place, Receipt, Report, Seal, read
from tasks.records.names import DAY_FOLDERS, BatchName, batches_in, feed_and_date, in_order, is_session_name, parquet
from tasks.storage.store import Store

# A batch may move to its next stage while it is being looked up; the next look finds it there.
_LOOKS = 3


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch at the latest stage it has reached; `record` is the file that proves that stage.

    A sealed batch has a seal, a validated one also a report, an archived one also a manifest, and an uploaded one
    also a receipt.
    """

    name: BatchName
    record: Path
    seal: Seal
    report: Report | None = None
    manifest: Manifest | None = None
    receipt: Receipt | None = None

    @property
    def facts(self) -> BatchFacts:
        """The summary of its records."""
        return facts_of(self.seal, self.report, self.manifest, self.receipt)


class Catalog:
    """The batches and days of a data folder.

    Methods that cover many batches answer from one snapshot, taken on their first call. Only records that changed
    since the last catalog read them are read again; for the others, listing the folder is enough.
    """

    def __init__(self, store: Store, now_ns: Callable[[], int] = time.time_ns) -> None:
        self._store, self._now_ns = store, now_ns
        self._folders: dict[tuple[str, str], DayListing] = {}

    def names(self, session: str = "") -> dict[str, list[BatchName]]:
        """Return the batches that have any file now, grouped by session and in order, for all sessions or for one."""
        store = self._store
        folders = [store.sealed, store.validated, store.quarantine, *store.archive.glob(DAY_FOLDERS)]
        texts = batches_in(file.name for folder in folders for file in files_in(folder))
        found: dict[str, list[BatchName]] = {}
        for name in in_order(BatchName.parse(text) for text in texts if text.startswith(session)):
            found.setdefault(name.session, []).append(name)
        return found

    def sessions(self) -> dict[str, list[BatchName]]:
        """Return every session that has a folder or a batch, oldest first, with its batches in order."""
        folders = [*files_in(self._store.sessions), *files_in(self._store.spool)]
        named = {each.name for each in folders if is_session_name(each.name) and each.is_dir()}
        names = self.names()
        return {session: names.get(session, []) for session in sorted(named | names.keys())}

    def batch(self, name: BatchName) -> Batch:
        """Return the current state of a batch, with all its records.

        Raises CorruptionError for an unreadable record and TerminalError if there is no record.
        """
        for _ in range(_LOOKS):
            with suppress(FileNotFoundError):
                return self._read(name)
        raise TerminalError(f"{name}: has files but neither seal nor manifest; restore them from a copy")

    def _read(self, name: BatchName) -> Batch:
        record, store = self._store.manifest_of(name), self._store
        if record is not None:
            manifest = read(record, Manifest)
            return Batch(name, record, manifest.seal, manifest.report, manifest, receipt_of(record))
        record = store.validated / name.report
        if record.exists():
            return Batch(name, record, read(store.validated / name.seal, Seal), read(record, Report))
        record = store.sealed / name.seal
        return Batch(name, record, read(record, Seal))

    def facts(self, name: BatchName) -> BatchFacts:
        """Return the summary of a batch's records. Raises the same errors as `batch`."""
        known = self._known.get(str(name))
        return self.batch(name).facts if known is None else known.facts

    def by_day(self) -> dict[str, dict[BatchName, Path]]:
        """Return each day's (YYYY-MM-DD) archived batches with their folders, in order, oldest day first."""
        days: dict[str, dict[BatchName, Path]] = {}
        for folder in sorted(self._archive, key=lambda folder: folder.known.date):
            days.setdefault(folder.known.date, {}).update(dict.fromkeys(folder.batches, folder.path))
        return {date: {name: found[name] for name in in_order(found)} for date, found in days.items() if found}

    def is_archived(self, name: BatchName) -> bool:
        """Return whether the batch is in the archive."""
        return name in self._archived

    def is_closed(self, feed: str, date: str) -> bool:
        """Return whether the day's file contains every archived batch of this feed and day, compared by name.

        A day's file that was removed because the bucket holds it counts as present. Raises CorruptionError for an
        unreadable record.
        """
        record = self._store.day_record(feed, date)
        if not record.exists():
            return False
        day = self._day(feed, date)
        if not {str(name) for name in self._folder(feed, date).batches} <= set(day.batches):
            return False
        return day.file is None or record.with_name(day.file).exists() or removed(record) is not None

    def awaiting_upload(self, place: Place) -> list[BatchName]:
        """Return the archived batches that this bucket has not fully acknowledged, judged by local receipts.

        A batch that was removed here and never uploaded to this bucket is left out: there is nothing to send.
        """
        rejects = {each.name for each in files_in(self._store.quarantine)}
        return in_order(
            name for folder in self._archive for name in folder.batches if folder.awaits_upload(name, place, rejects)
        )

    def days_awaiting_upload(self, place: Place) -> list[tuple[str, str]]:
        """Return (feed, date) of each closed day whose latest file this bucket has not acknowledged."""
        days = (feed_and_date(folder) for folder in sorted(self._store.days.glob(DAY_FOLDERS)))
        return [day for day in days if self._store.day_record(*day).exists() and self._day_awaits(*day, place)]

    def _day_awaits(self, feed: str, date: str, place: Place) -> bool:
        record = self._store.day_record(feed, date)
        receipt = acknowledged(record, place)
        # A day's record is long; skip reading it if the uploaded file is still the one that is here.
        if receipt is not None and record.with_name(parquet(receipt.batch)).exists():
            return False
        try:
            day, gone = self._day(feed, date), removed(record) is not None
        except CorruptionError:
            return True  # The upload reports what is wrong with the record.
        sent = receipt is not None and receipt.object is not None and receipt.object.sha256 == day.sha256
        return day.file is not None and not sent and not (gone and receipt is None)

    def day_of_batch(self, record: Path, manifest: Manifest) -> Path | None:
        """Return the local day's file that holds exactly this batch, or None; the file itself is not read.

        `record` is the path of the batch's manifest. Raises CorruptionError if the day's record cannot be read.
        """
        path = self._store.day_record(manifest.seal.feed, manifest.seal.date)
        if not path.exists() or record.parent != self._store.archive_folder(manifest.seal.feed, manifest.seal.date):
            return None
        day, batches = day_and_manifests(path)
        if day.file is None or batches.get(manifest.batch) != manifest:
            return None
        return path.with_name(day.file) if path.with_name(day.file).exists() else None

    def rows_of(self, record: Path, manifest: Manifest) -> Path:
        """Return the local file that holds a batch's rows: its own file, or else its day's.

        The batch must have rows. Raises TerminalError if only the bucket has them, and CorruptionError if no record
        says where they are.
        """
        own = record.with_name(str(manifest.file))
        day = None if own.exists() else self.day_of_batch(record, manifest)
        if day is None and not own.exists():
            raise missing_rows_error(record, manifest)
        return day or own

    def receipt_of_day(self, manifest: Manifest, place: Place | None = None) -> Receipt | None:
        """Return the receipt of the day's file that holds exactly this batch, or None.

        With `place`, only a readable receipt of that bucket counts. Otherwise an unreadable record raises
        CorruptionError.
        """
        record = self._store.day_record(manifest.seal.feed, manifest.seal.date)
        receipt = receipt_of(record) if place is None else acknowledged(record, place)
        if receipt is None or receipt.object is None or not record.exists():
            return None
        day, batches = day_and_manifests(record)
        is_of_it = (parquet(receipt.batch), receipt.object.sha256) == (day.file, day.sha256)
        return receipt if is_of_it and batches.get(manifest.batch) == manifest else None

    def is_merged_in(self, place: Place, record: Path, manifest: Manifest) -> bool:
        """Return whether a batch's file was removed in favor of its day's file, and this bucket acknowledged that file.

        Raises CorruptionError if a record cannot be read.
        """
        said = removed(record)
        return said is not None and said.why == "merged" and self.receipt_of_day(manifest, place) is not None

    def _day(self, feed: str, date: str) -> DayFacts:
        """The summary of a day's record. Raises FileNotFoundError and CorruptionError."""
        return self._folder(feed, date).known.day or short(read(self._store.day_record(feed, date), Day))

    def _folder(self, feed: str, date: str) -> DayListing:
        if (feed, date) not in self._folders:
            self._folders[feed, date] = look(self._store, feed, date, self._now_ns())
        return self._folders[feed, date]

    @cached_property
    def _archive(self) -> list[DayListing]:
        return [self._folder(*feed_and_date(path)) for path in sorted(self._store.archive.glob(DAY_FOLDERS))]

    @cached_property
    def _archived(self) -> set[BatchName]:
        return {name for folder in self._archive for name in folder.batches}

    @cached_property
    def _known(self) -> dict[str, KnownBatch]:
        return {name: known for folder in self._archive for name, known in folder.known.batches.items()}
