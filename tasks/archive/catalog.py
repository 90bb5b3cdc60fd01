"""What is in a data folder: which batches and days there are, how far each has come, and where its rows are now.

A day's file holds the rows of all its batches by symbol and event time, each with the name of its batch; its record
beside it holds their manifests. A batch's own file may be gone, under a `Removed` record; its manifest never is.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tasks.archive.batch_facts import BatchFacts, facts_of
from tasks.archive.day_listing import DayFacts, DayListing, KnownBatch, files_in, look, short
from tasks.archive.side_records import acknowledged, held_by, nowhere_here, receipt_of, removed
from tasks.errors import CorruptionError, TerminalError
from tasks.records.manifest import Day, Manifest, Place, Receipt, Report, Seal, read
from tasks.records.names import DAY_FOLDERS, BatchName, batches_in, feed_and_date, in_order, is_session_name, parquet
from tasks.storage.store import Store

# A batch that moves on between two looks is met at its new place by a later one.
_LOOKS = 3


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch at the farthest stage it has reached; `record` is the file of that stage that says so.

    Sealed, it has a seal; validated, a report too; archived, a manifest, and once uploaded a receipt.
    """

    name: BatchName
    record: Path
    seal: Seal
    report: Report | None = None
    manifest: Manifest | None = None
    receipt: Receipt | None = None

    @property
    def facts(self) -> BatchFacts:
        """What its records come to."""
        return facts_of(self.seal, self.report, self.manifest, self.receipt)


class Catalog:
    """What there is in a data folder. Of many batches at once it tells what was so when it was first asked.

    Its cost grows with what has changed since anybody asked before: of the rest only the folders are listed.
    """

    def __init__(self, store: Store, now_ns: Callable[[], int] = time.time_ns) -> None:
        self._store, self._now_ns = store, now_ns
        self._folders: dict[tuple[str, str], DayListing] = {}

    def names(self, session: str = "") -> dict[str, list[BatchName]]:
        """Return the batches of which there is any file now, by session, in order; of all sessions, or of one."""
        store = self._store
        folders = [store.sealed, store.validated, store.quarantine, *store.archive.glob(DAY_FOLDERS)]
        texts = batches_in(file.name for folder in folders for file in files_in(folder))
        found: dict[str, list[BatchName]] = {}
        for name in in_order(BatchName.parse(text) for text in texts if text.startswith(session)):
            found.setdefault(name.session, []).append(name)
        return found

    def sessions(self) -> dict[str, list[BatchName]]:
        """Return every session of which there is a folder or a batch, oldest first, with its batches in order."""
        folders = [*files_in(self._store.sessions), *files_in(self._store.spool)]
        named = {each.name for each in folders if is_session_name(each.name) and each.is_dir()}
        names = self.names()
        return {session: names.get(session, []) for session in sorted(named | names.keys())}

    def batch(self, name: BatchName) -> Batch:
        """Return that batch as it stands now, with all its records.

        Raises CorruptionError for a record that cannot be read, TerminalError where there is none.
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
        """Return what the records of that batch come to. Raises as `batch`."""
        known = self._known.get(str(name))
        return self.batch(name).facts if known is None else known.facts

    def by_day(self) -> dict[str, dict[BatchName, Path]]:
        """Return the archived batches of each day (YYYY-MM-DD), each with its folder, in order, oldest day first."""
        days: dict[str, dict[BatchName, Path]] = {}
        for folder in sorted(self._archive, key=lambda folder: folder.known.date):
            days.setdefault(folder.known.date, {}).update(dict.fromkeys(folder.batches, folder.path))
        return {date: {name: found[name] for name in in_order(found)} for date, found in days.items() if found}

    def is_archived(self, name: BatchName) -> bool:
        """Return whether that batch is in the archive."""
        return name in self._archived

    def is_closed(self, feed: str, date: str) -> bool:
        """Return whether all that is archived of that feed and day is in its day's file, by the batches' names.

        A file that was removed because the bucket holds it counts. Raises CorruptionError for an unreadable record.
        """
        record = self._store.day_record(feed, date)
        if not record.exists():
            return False
        day = self._day(feed, date)
        if not {str(name) for name in self._folder(feed, date).batches} <= set(day.batches):
            return False
        return day.file is None or record.with_name(day.file).exists() or removed(record) is not None

    def awaiting_upload(self, place: Place) -> list[BatchName]:
        """Return the archived batches of which this bucket has not acknowledged all. Asks no store.

        One that was removed here without ever having gone there is not among them: it has nothing to send.
        """
        rejects = {each.name for each in files_in(self._store.quarantine)}
        return in_order(
            name for folder in self._archive for name in folder.batches if folder.awaits_upload(name, place, rejects)
        )

    def days_awaiting_upload(self, place: Place) -> list[tuple[str, str]]:
        """Return feed and date of each closed day of which this bucket has acknowledged nothing, or an old merge."""
        days = (feed_and_date(folder) for folder in sorted(self._store.days.glob(DAY_FOLDERS)))
        return [day for day in days if self._store.day_record(*day).exists() and self._day_awaits(*day, place)]

    def _day_awaits(self, feed: str, date: str, place: Place) -> bool:
        record = self._store.day_record(feed, date)
        receipt = acknowledged(record, place)
        # A day's record is long: it is not looked at where the file that went up is still the one that is here.
        if receipt is not None and record.with_name(parquet(receipt.batch)).exists():
            return False
        try:
            day, gone = self._day(feed, date), removed(record) is not None
        except CorruptionError:
            return True  # The upload says what is wrong with it.
        sent = receipt is not None and receipt.object is not None and receipt.object.sha256 == day.sha256
        return day.file is not None and not sent and not (gone and receipt is None)

    def day_of_batch(self, record: Path, manifest: Manifest) -> Path | None:
        """Return the merged file that holds this very batch, where it is here; its bytes are not looked at.

        `record` is the batch's manifest. Raises CorruptionError where the day's record cannot be read.
        """
        path = self._store.day_record(manifest.seal.feed, manifest.seal.date)
        if not path.exists() or record.parent != self._store.archive_folder(manifest.seal.feed, manifest.seal.date):
            return None
        day, batches = held_by(path)
        if day.file is None or batches.get(manifest.batch) != manifest:
            return None
        return path.with_name(day.file) if path.with_name(day.file).exists() else None

    def rows_of(self, record: Path, manifest: Manifest) -> Path:
        """Return the file here that holds the rows of a batch that has some: its own, else its day's.

        Raises TerminalError where the bucket alone has them, and CorruptionError where nothing says where they are.
        """
        own = record.with_name(str(manifest.file))
        day = None if own.exists() else self.day_of_batch(record, manifest)
        if day is None and not own.exists():
            raise nowhere_here(record, manifest)
        return day or own

    def receipt_of_day(self, manifest: Manifest, place: Place | None = None) -> Receipt | None:
        """Return the receipt of the day's file that holds this very batch, of that bucket or of any; None without one.

        One that cannot be read is none of that bucket. Raises CorruptionError for any other such record.
        """
        record = self._store.day_record(manifest.seal.feed, manifest.seal.date)
        receipt = receipt_of(record) if place is None else acknowledged(record, place)
        if receipt is None or receipt.object is None or not record.exists():
            return None
        day, batches = held_by(record)
        is_of_it = (parquet(receipt.batch), receipt.object.sha256) == (day.file, day.sha256)
        return receipt if is_of_it and batches.get(manifest.batch) == manifest else None

    def is_merged_in(self, place: Place, record: Path, manifest: Manifest) -> bool:
        """Return whether a batch's file went because its day's file holds its rows, and that bucket acknowledged this.

        Raises CorruptionError where a record cannot be read.
        """
        said = removed(record)
        return said is not None and said.why == "merged" and self.receipt_of_day(manifest, place) is not None

    def _day(self, feed: str, date: str) -> DayFacts:
        """What that day's record says in short. Raises FileNotFoundError and CorruptionError."""
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
