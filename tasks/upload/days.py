"""How does a closed day's file become an object, and what becomes of the one whose place it takes?

Keys are `<prefix>-by-day/feed=…/date=…/<stem>.parquet` and, last, `_<stem>.day.json`, whose stem says what the day was
made of: a day merged anew has other keys. Only once the new ones stand are those of a merge removed whose batches are
all in it; the day of another machine, of other batches, stays.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

from tasks.archive.side_records import acknowledged, removed
from tasks.errors import TerminalError
from tasks.records.manifest import Day, ObjectReceipt, Receipt, encode, read
from tasks.records.names import day_record, receipt_record
from tasks.storage.store import Store, write_whole
from tasks.upload.bucket import Bucket
from tasks.upload.object_store import ObjectStore
from tasks.upload.once import as_acknowledged
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
        record = store.day_record(feed, date)
        day = read(record, Day) if record.exists() else None
        if day is None or day.file is None:
            return None
        standing = acknowledged(record, bucket.place)
        sent = send_all(bucket, list(_wanted(record, day, day.file, bucket, standing)), standing)
        if standing is not None and standing.objects == tuple(sent):
            return standing
        _remove_superseded(ObjectStore(bucket), day, sent, warn)
        receipt = Receipt(
            batch=Path(day.file).stem, bucket=bucket.name, endpoint=bucket.endpoint_url, uploaded_ns=now_ns(),
            object=sent[0], manifest=sent[1],
        )  # fmt: skip
        write_whole(receipt_record(record), encode(receipt))
        return receipt


def day_keys(bucket: Bucket, day: Day) -> tuple[str, str]:
    """The keys of a day's file and of its record."""
    file, keys = str(day.file), bucket.keys
    return keys.of_day(day.feed, day.date, file), keys.of_day(day.feed, day.date, day_record(Path(file).stem))


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
