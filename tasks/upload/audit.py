"""Is everything in the bucket what its receipt and its record say, and does nothing else lie there?

The store's own SHA-256 is compared where it gives one of the whole object, as it does of what went in one put; what
went in parts, or to a store without checksums, is downloaded and hashed.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from tasks.errors import TerminalError
from tasks.records.manifest import Day, Receipt, read
from tasks.storage.store import Store
from tasks.upload.bucket import Bucket
from tasks.upload.compare import Compared, Wrong, compare
from tasks.upload.expected import Expected, Records
from tasks.upload.multipart import ABANDONED_AFTER_NS
from tasks.upload.object_store import ObjectStore
from tasks.upload.probe import PROBE
from tasks.upload.remote_days import is_within, keys_of_days, remote_days


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteVerdict:
    """What was found. `objects` are ours by their receipts; `downloaded` of them had to be read to be compared.

    `merged` batches have no object of their own any more: their day's has their rows. `notes` say what could not be
    looked for.
    """

    bucket: str
    batches: int
    sessions: int
    days: int
    objects: int
    bytes: int
    downloaded: int
    merged: int
    wrong: tuple[Wrong, ...]
    notes: tuple[str, ...] = ()

    @property
    def holds(self) -> bool:
        """Whether nothing is wrong."""
        return not self.wrong


def audit(store: Store, bucket: Bucket, now_ns: int) -> RemoteVerdict:
    """Compare the data folder's batches, sessions and closed days with the bucket, and whatever else lies there.

    Objects are listed once and each is asked for by itself. Raises TransientError and TerminalError where the
    store cannot be asked; what it answers of a single object is part of the verdict.
    """
    objects, count = ObjectStore(bucket), Compared()
    listed = objects.keys(bucket.keys.batches) | keys_of_days(objects)
    records = Records(store, bucket)
    kinds = [list(records.batches()), list(records.sessions()), list(records.days())]
    all_expected = [each for kind in kinds for each in kind]
    wrong = [found for each in all_expected for found in _judged(each, objects, listed, count)]
    wrong += _foreign(store, bucket, all_expected, listed)
    abandoned, notes = _abandoned(objects, now_ns)
    return RemoteVerdict(
        bucket=str(bucket), batches=len(kinds[0]), sessions=len(kinds[1]), days=len(kinds[2]),
        objects=count.objects, bytes=count.bytes, downloaded=count.downloaded,
        merged=sum(each.merged is not None and each.merged not in listed for each in all_expected),
        wrong=(*wrong, *abandoned), notes=notes,
    )  # fmt: skip


def _judged(each: Expected, objects: ObjectStore, listed: Collection[str], count: Compared) -> Iterator[Wrong]:
    """What is wrong with the objects of a batch, a session or a day."""
    if each.error is not None:
        yield Wrong("different", each.name, each.error)
        return
    if each.receipt is None:
        if each.merged is None:
            yield Wrong("not uploaded", each.name, "has no receipt of this bucket; run `tape archive`")
        return
    yield from _against_records(each, each.receipt)
    for receipt in each.receipt.objects:
        if receipt.key in listed or not _may_be_gone(each, receipt.key, objects, listed):
            yield from compare(receipt, objects, listed, count)


def _against_records(each: Expected, receipt: Receipt) -> Iterator[Wrong]:
    """Where the receipt is not of what the records tell."""
    said = {told.key: told.sha256 for told in receipt.objects}
    for key, sha256 in each.sha256s.items():
        if key not in said:
            yield Wrong("not uploaded", key, "is not in the receipt; run `tape archive`")
        elif said[key] != sha256:
            yield Wrong("different", key, "the receipt's SHA-256 is not that of its record; run `tape verify`")
    yield from (
        Wrong("different", key, f"is in the receipt of {each.name}, whose records tell of no such object")
        for key in said.keys() - each.sha256s.keys()
    )


def _may_be_gone(each: Expected, key: str, objects: ObjectStore, listed: Collection[str]) -> bool:
    """Whether another object holds the rows: the batch's day, or a day that has all batches of this one."""
    if each.day is None:
        return key == each.merged
    day = read(each.day, Day)
    near = [other for other in listed if other.startswith(objects.bucket.keys.of_day(day.feed, day.date))]
    return any(other.file_key in listed and is_within(day, other.day) for other in remote_days(objects, near, day.date))


def _foreign(store: Store, bucket: Bucket, ours: list[Expected], listed: dict[str, int]) -> Iterator[Wrong]:
    known = {key for each in ours for key in each.sha256s}
    known |= {told.key for each in ours if each.receipt is not None for told in each.receipt.objects}
    for key, size in sorted(listed.items()):
        if key not in known and not key.startswith(f"{bucket.keys.batches}{PROBE}"):
            of_a_day = key.startswith(bucket.keys.days)
            what = "closed day, or of an earlier merge of one" if of_a_day else "batch or session"
            yield Wrong(
                "foreign", key, f"{size:,} bytes under our prefix, of no {what} of {store.root}; look whose it is"
            )


def _abandoned(objects: ObjectStore, now_ns: int) -> tuple[list[Wrong], tuple[str, ...]]:
    """The multiparts that killed uploads left, or a note where the store cannot list them, as some do not."""
    try:
        unfinished = objects.unfinished_parts(objects.bucket.keys.batches)
        unfinished += objects.unfinished_parts(objects.bucket.keys.days)
    except TerminalError as error:
        return [], (f"parts that killed uploads may have left were not looked for: {error}",)
    said = "parts of an upload that was killed a day ago or before; run `tape archive`"
    return [
        Wrong("abandoned", each.key, said) for each in unfinished if now_ns - each.begun_ns >= ABANDONED_AFTER_NS
    ], ()
