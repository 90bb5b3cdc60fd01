"""Compare a bucket with the receipts and records of the data folder, and report what else is in it.

The store's own SHA-256 is compared if it has one of the object; if not, the object is downloaded and hashed.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tasks.archive.catalog import Catalog
from tasks.archive.side_records import acknowledged
from tasks.errors import CorruptionError, RecorderError
from tasks.records.manifest import Day, Manifest, ObjectReceipt, Receipt, quarantined_files, read
from tasks.records.names import DAY_FOLDERS, BatchName, day_record, feed_and_date
from tasks.storage.store import Store, sha256_of
from tasks.upload.bucket import Bucket
from tasks.upload.download import day_keys, is_within, keys_of_days, remote_days
from tasks.upload.object_store import ObjectStore
from tasks.upload.probe import PROBE
from tasks.upload.uploads import ended_sessions


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is not as it should be; its kind is not uploaded, missing, different or foreign."""

    kind: str
    key: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteVerdict:
    """The result of an audit. `objects` are those in our receipts; `downloaded` of them had to be read to be compared.

    `merged` batches have no object of their own any more: the object of their day has their rows.
    """

    bucket: str
    batches: int
    sessions: int
    days: int
    objects: int
    bytes: int
    downloaded: int
    merged: int
    wrong: tuple[Problem, ...]

    @property
    def holds(self) -> bool:
        """Return whether nothing is wrong."""
        return not self.wrong


@dataclass(frozen=True, slots=True, kw_only=True)
class _Expected:
    """A batch, a session's record or a closed day, as the records of the data folder describe it.

    `sha256s` (hex) are those of its objects by key; `name` stands for them if they were not uploaded; `error` says why
    its records cannot be read. `merged` is the key of a batch's file if that may be gone, because the object of its day
    has its rows. `day` is the record of a closed day.
    """

    name: str
    sha256s: dict[str, str] = field(default_factory=dict)
    receipt: Receipt | None = None
    error: str | None = None
    merged: str | None = None
    day: Path | None = None


def audit(store: Store, bucket: Bucket) -> RemoteVerdict:
    """Compare the data folder's batches, sessions and closed days with the bucket, and look for anything else in it.

    Objects are listed once, and each one is asked for by itself. Raises TransientError and TerminalError if the store
    cannot be asked; what it answers about a single object is part of the verdict.
    """
    objects = ObjectStore(bucket)
    comparison = _Comparison(objects, objects.keys(bucket.keys.batches) | keys_of_days(objects))
    batches, sessions = list(_batches(store, bucket)), list(_sessions(store, bucket))
    days = list(_days(store, bucket))
    expected = [*batches, *sessions, *days]
    problems = [found for each in expected for found in comparison.problems(each)]
    problems += _foreign(store, bucket, expected, comparison.listed)
    return RemoteVerdict(
        bucket=str(bucket), batches=len(batches), sessions=len(sessions), days=len(days),
        objects=comparison.compared, bytes=comparison.bytes, downloaded=comparison.downloaded,
        merged=sum(each.merged is not None and each.merged not in comparison.listed for each in expected),
        wrong=tuple(problems),
    )  # fmt: skip


@dataclass(slots=True)
class _Comparison:
    """Compares objects with their receipts, and counts them. `listed` are the bytes of each object by its key."""

    objects: ObjectStore
    listed: dict[str, int]
    compared: int = 0
    bytes: int = 0
    downloaded: int = 0

    def problems(self, each: _Expected) -> Iterator[Problem]:
        """Yield what is wrong with the objects of a batch, a session or a day."""
        if each.error is not None:
            yield Problem("different", each.name, each.error)
        elif each.receipt is not None:
            yield from _receipt_problems(each, each.receipt)
            for receipt in each.receipt.objects:
                if receipt.key in self.listed or not self._may_be_gone(each, receipt.key):
                    yield from self._object_problems(receipt)
        elif each.merged is None:
            yield Problem("not uploaded", each.name, "has no receipt of this bucket; run `tape archive`")

    def _object_problems(self, receipt: ObjectReceipt) -> Iterator[Problem]:
        self.compared += 1
        self.bytes += receipt.bytes
        try:
            stored = self.objects.find(receipt.key)
            if stored is None:
                yield Problem("missing", receipt.key, "is not in the bucket; remove its receipt and run `tape archive`")
                return
            sha256 = stored.sha256
            if sha256 is None and stored.bytes == receipt.bytes:
                self.downloaded += 1
                sha256 = self.objects.read(receipt.key)
        except RecorderError as error:
            yield Problem("different", receipt.key, str(error))
            return
        if (stored.bytes, sha256) != (receipt.bytes, receipt.sha256):
            actual, said = f"{stored.bytes:,} bytes, SHA-256 {sha256}", f"{receipt.bytes:,}, {receipt.sha256}"
            yield Problem("different", receipt.key, f"has {actual}; its receipt says {said}")
        if receipt.key not in self.listed:
            yield Problem("missing", receipt.key, "is there but not listed, so readers may not see it; look again")

    def _may_be_gone(self, each: _Expected, key: str) -> bool:
        """Return whether another object has the rows: the batch's day, or a day that has all batches of this one."""
        if each.day is None:
            return key == each.merged
        day = read(each.day, Day)
        near = [other for other in self.listed if other.startswith(self.objects.bucket.keys.of_day(day.feed, day.date))]
        others = remote_days(self.objects, near, day.date)
        return any(other.file_key in self.listed and is_within(day, other.day) for other in others)


def _receipt_problems(each: _Expected, receipt: Receipt) -> Iterator[Problem]:
    """Yield where the receipt does not agree with the records."""
    acknowledged_sha256s = {sent.key: sent.sha256 for sent in receipt.objects}
    for key, sha256 in each.sha256s.items():
        if key not in acknowledged_sha256s:
            yield Problem("not uploaded", key, "is not in the receipt; run `tape archive`")
        elif acknowledged_sha256s[key] != sha256:
            yield Problem("different", key, "the receipt's SHA-256 is not that of its record; run `tape verify`")
    for key in acknowledged_sha256s.keys() - each.sha256s.keys():
        yield Problem("different", key, f"is in the receipt of {each.name}, whose records know no such object")


def _foreign(store: Store, bucket: Bucket, ours: list[_Expected], listed: dict[str, int]) -> Iterator[Problem]:
    """Yield the objects under our prefix that belong to nothing in the data folder."""
    known = {key for each in ours for key in each.sha256s}
    known |= {sent.key for each in ours if each.receipt is not None for sent in each.receipt.objects}
    for key, size in sorted(listed.items()):
        if key not in known and not key.startswith(f"{bucket.keys.batches}{PROBE}"):
            is_of_day = key.startswith(bucket.keys.days)
            what = "closed day, or of an earlier merge of one" if is_of_day else "batch or session"
            message = f"{size:,} bytes under our prefix, of no {what} in {store.root}; find out who wrote it"
            yield Problem("foreign", key, message)


def _batches(store: Store, bucket: Bucket) -> Iterator[_Expected]:
    """Yield every archived batch."""
    catalog, keys = Catalog(store), bucket.keys
    for record in store.manifests():
        name, day = BatchName.parse(record.name), feed_and_date(record.parent)
        try:
            yield _batch(catalog, bucket, record, name)
        except CorruptionError as error:
            # Its content is unknown, but what has its name in the bucket is not foreign.
            possible = [keys.of_batch(*day, each) for each in (name.manifest, *name.archives)]
            possible += map(keys.of_quarantine, name.rejects)
            yield _Expected(name=keys.of_batch(*day, str(name)), sha256s=dict.fromkeys(possible, ""), error=str(error))


def _batch(catalog: Catalog, bucket: Bucket, record: Path, name: BatchName) -> _Expected:
    manifest, keys, day = read(record, Manifest), bucket.keys, feed_and_date(record.parent)
    sha256s, merged = {keys.of_batch(*day, name.manifest): sha256_of(record)}, None
    if manifest.file is not None:
        key = keys.of_batch(*day, manifest.file)
        sha256s[key] = manifest.sha256
        merged = key if catalog.is_merged_in(bucket.place, record, manifest) else None
    sha256s |= {keys.of_quarantine(file): sha256 for file, sha256 in quarantined_files(manifest).items()}
    receipt = acknowledged(record, bucket.place)
    return _Expected(name=keys.of_batch(*day, str(name)), sha256s=sha256s, receipt=receipt, merged=merged)


def _sessions(store: Store, bucket: Bucket) -> Iterator[_Expected]:
    """Yield every session that has ended."""
    for record in ended_sessions(store):
        key = bucket.keys.of_session(record.parent.name)
        yield _Expected(name=key, sha256s={key: sha256_of(record)}, receipt=acknowledged(record, bucket.place))


def _days(store: Store, bucket: Bucket) -> Iterator[_Expected]:
    """Yield every closed day that has rows."""
    for record in sorted(store.days.glob(f"{DAY_FOLDERS}/{day_record('*')}")):
        receipt = acknowledged(record, bucket.place)
        try:
            day = read(record, Day)
        except CorruptionError as error:
            name = bucket.keys.of_day(*feed_and_date(record.parent), record.name)
            yield _Expected(name=name, error=str(error), receipt=receipt)
            continue
        if day.file is not None:
            file_key, record_key = day_keys(bucket, day)
            sha256s = {file_key: day.sha256, record_key: sha256_of(record)}
            yield _Expected(name=file_key, sha256s=sha256s, receipt=receipt, day=record)
