"""How does a closed day's file become an object, and what becomes of the one whose place it takes?

Keys are `<prefix>-by-day/feed=…/date=…/<stem>.parquet` and, last, `_<stem>.day.json`, whose stem says what the day was
made of: a day merged anew has other keys. Only once the new ones stand are those of a merge removed whose batches are
all in it; the day of another machine, of other batches, stays.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

from tasks.archive.day_files import day_receipt, day_record, removed
from tasks.errors import CorruptionError, TerminalError
from tasks.records.manifest import Day, ObjectReceipt, Receipt, encode, read
from tasks.storage.store import Store, feed_and_date, write_whole
from tasks.upload.bucket import Bucket
from tasks.upload.object_store import ObjectStore
from tasks.upload.once import as_acknowledged, receipt_of
from tasks.upload.proof import object_matches
from tasks.upload.remote_days import is_within, keys_of_days, remote_days
from tasks.upload.send import Outgoing, outgoing, send_all


def upload_day(
    store: Store, feed: str, date: str, bucket: Bucket, now_ns: Callable[[], int], warn: Callable[[str], None]
) -> Receipt | None:
    """Put a closed day's file and record into the bucket, write the receipt beside them; None where it has no rows.

    Run again, it gives the receipt that stands and asks the store nothing. What the new one makes superfluous is
    removed; a store that refuses that is told of by `warn`. Raises as `once.upload`.
    """
    with store.locked(f"day-{feed}-{date}"):
        record = day_record(store, feed, date)
        day = read(record, Day) if record.exists() else None
        if day is None or day.file is None:
            return None
        receipt_path = day_receipt(record)
        standing = receipt_of(receipt_path, bucket)
        sent = send_all(bucket, list(_wanted(record, day, day.file, bucket, standing)), standing)
        if standing is not None and standing.objects == tuple(sent):
            return standing
        _remove_superseded(ObjectStore(bucket), day, sent, warn)
        receipt = Receipt(
            batch=Path(day.file).stem, bucket=bucket.name, endpoint=bucket.endpoint_url, uploaded_ns=now_ns(),
            object=sent[0], manifest=sent[1],
        )  # fmt: skip
        write_whole(receipt_path, encode(receipt))
        return receipt


def days_awaiting_upload(store: Store, bucket: Bucket) -> list[tuple[str, str]]:
    """The feed and date of each closed day of which this bucket has acknowledged nothing, or an earlier merge."""
    return [
        feed_and_date(record.parent)
        for record in sorted(store.days.glob("feed=*/date=*/_*.day.json"))
        if _awaits_upload(record, receipt_of(day_receipt(record), bucket))
    ]


def _awaits_upload(record: Path, receipt: Receipt | None) -> bool:
    # A day's record is long: it is not read where the file that went up is still the one that is here.
    if receipt is not None and record.with_name(f"{receipt.batch}.parquet").exists():
        return False
    try:
        day, gone = read(record, Day), removed(record) is not None
    except CorruptionError:
        return True  # The upload says what is wrong with it.
    acknowledged = receipt is not None and receipt.object is not None and receipt.object.sha256 == day.sha256
    return day.file is not None and not acknowledged and not (gone and receipt is None)


def day_keys(bucket: Bucket, day: Day) -> tuple[str, str]:
    """The keys of a day's file and of its record."""
    folder, stem = f"{bucket.by_day}/feed={day.feed}/date={day.date}", Path(day.file or "").stem
    return f"{folder}/{day.file}", f"{folder}/_{stem}.day.json"


def _wanted(record: Path, day: Day, file: str, bucket: Bucket, standing: Receipt | None) -> Iterator[Outgoing]:
    file_key, record_key = day_keys(bucket, day)
    path = record.with_name(file)
    if not path.exists() and removed(record) is not None:
        yield as_acknowledged(path, file_key, day.bytes, day.sha256, bucket, standing)
    else:
        yield outgoing(path, file_key, day.sha256)
    yield outgoing(record, record_key)


def _remove_superseded(objects: ObjectStore, day: Day, sent: list[ObjectReceipt], warn: Callable[[str], None]) -> None:
    """Remove the days in the bucket all of whose batches are in this one, which is asked for once more before."""
    ours = {each.key for each in sent}
    try:
        listed = keys_of_days(objects, day.feed, day.date)
        others = [key for key in listed if key not in ours]
        old = [each for each in remote_days(objects, others) if is_within(each.day, day)]
        if old and all(object_matches(objects, each) for each in sent):
            for each in old:
                # The file first: without its record it would be counted, and nothing would say that it is old.
                objects.delete(each.file_key)
                objects.delete(each.key)
    except TerminalError as error:
        warn(f"what {day.file} takes the place of may still be in the bucket, and be counted twice: {error}")
