"""Upload archived batches, records of sessions and closed days, each with a receipt beside its record.

- A batch: `<prefix>/<path below archive/>` for its file, `<prefix>/_quarantine/<file>` for rows and frames in
  quarantine, and last its manifest. If the manifest is listed, the batch is complete, and so is all that a restore
  needs.
- A session that has ended: its record, `<prefix>/_sessions/<session>/session.json`.
- A closed day: `<prefix>-by-day/feed=…/date=…/<stem>.parquet`, and last `_<stem>.day.json`. The stem says what the day
  was made of, so a day that is merged again has other keys. Once these exist, earlier merges are removed if all their
  batches are in the new one; the day of another machine, of other batches, stays.

Every function may be run again: it returns the receipt that exists and asks the store nothing. A receipt that lacks an
object is completed; one of another bucket or of other bytes is replaced, after the store was asked.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

from tasks.archive.side_records import acknowledged, removed
from tasks.errors import TerminalError
from tasks.records.manifest import Day, Manifest, ObjectReceipt, Receipt, encode, quarantined_files, read
from tasks.records.names import SESSION_RECORD, BatchName, feed_and_date, is_session_name, receipt_record
from tasks.storage.store import Store, write_whole
from tasks.upload.bucket import Bucket
from tasks.upload.download import day_keys, is_within, keys_of_days, remote_days
from tasks.upload.object_store import ObjectStore
from tasks.upload.send import Outgoing, outgoing, send_all


def upload_batch(store: Store, name: BatchName, bucket: Bucket, now_ns: Callable[[], int]) -> Receipt:
    """Upload an archived batch: its file, its files in quarantine, its manifest.

    Raises TransientError; CorruptionError if a file is not what its record says, before anything is sent; ConflictError
    if another object has one of its keys; other TerminalErrors if the file was removed here and this bucket does not
    have it, if a file is too large, or if the store refuses.
    """
    with store.locked(name):
        record = store.manifest_of(name)
        if record is None:
            raise TerminalError(f"{name}: is not archived in {store.archive}; run `tape archive`")
        manifest, existing = read(record, Manifest), acknowledged(record, bucket.place)
        sent = send_all(bucket, list(_batch_files(store, record, manifest, bucket)), existing)
        return _acknowledge(record, str(name), bucket, existing, sent, now_ns, has_file=manifest.file is not None)


def upload_session(store: Store, session: str, bucket: Bucket, now_ns: Callable[[], int]) -> Receipt | None:
    """Upload the record of a session; None if it still records. Raises as `upload_batch`."""
    with store.locked(f"session-{session}"):
        record = store.sessions / session / SESSION_RECORD
        if not record.exists():
            return None
        existing = acknowledged(record, bucket.place)
        sent = send_all(bucket, [outgoing(record, bucket.keys.of_session(session))], existing)
        return _acknowledge(record, session, bucket, existing, sent, now_ns, has_file=False)


def upload_day(
    store: Store, feed: str, date: str, bucket: Bucket, now_ns: Callable[[], int], warn: Callable[[str], None]
) -> Receipt | None:
    """Upload a closed day's file and record, and remove the merges that it replaces; None if it has no rows.

    `warn` is called if these cannot be removed. Raises as `upload_batch`.
    """
    with store.locked(f"day-{feed}-{date}"):
        record = store.day_record(feed, date)
        day = read(record, Day) if record.exists() else None
        if day is None or day.file is None:
            return None
        existing = acknowledged(record, bucket.place)
        sent = send_all(bucket, list(_day_files(record, day, day.file, bucket)), existing)
        if existing is None or existing.objects != tuple(sent):
            # Before the receipt is written: after a kill between the two, the next run removes them.
            _remove_superseded(ObjectStore(bucket), day, sent, warn)
        return _acknowledge(record, Path(day.file).stem, bucket, existing, sent, now_ns, has_file=True)


def ended_sessions(store: Store) -> list[Path]:
    """Return the records of all sessions that have ended, oldest first."""
    return sorted(path for path in store.sessions.glob(f"*/{SESSION_RECORD}") if is_session_name(path.parent.name))


def sessions_awaiting_upload(store: Store, bucket: Bucket) -> list[str]:
    """Return the sessions that have ended and whose record has no receipt of this bucket. Asks no store."""
    return [path.parent.name for path in ended_sessions(store) if acknowledged(path, bucket.place) is None]


def _batch_files(store: Store, record: Path, manifest: Manifest, bucket: Bucket) -> Iterator[Outgoing]:
    """Yield the files of a batch in the order of their upload, each checked against its record."""
    keys, day = bucket.keys, feed_and_date(record.parent)
    if manifest.file is not None:
        key = keys.of_batch(*day, manifest.file)
        file = Outgoing(record.with_name(manifest.file), key, manifest.bytes, manifest.sha256)
        yield _checked(record, file, bucket)
    for name, sha256 in quarantined_files(manifest).items():
        yield outgoing(store.quarantine / name, keys.of_quarantine(name), sha256)
    yield outgoing(record, keys.of_batch(*day, record.name))


def _day_files(record: Path, day: Day, file: str, bucket: Bucket) -> Iterator[Outgoing]:
    file_key, record_key = day_keys(bucket, day)
    yield _checked(record, Outgoing(record.with_name(file), file_key, day.bytes, day.sha256), bucket)
    yield outgoing(record, record_key)


def _checked(record: Path, wanted: Outgoing, bucket: Bucket) -> Outgoing:
    """Return the file as it is here, or as the receipt has it if it was removed here. Raises TerminalError."""
    if wanted.file.exists() or removed(record) is None:
        return outgoing(wanted.file, wanted.key, wanted.sha256)
    receipt = acknowledged(record, bucket.place)
    sent = None if receipt is None else receipt.object
    if sent is None or (sent.key, sent.bytes, sent.sha256) != (wanted.key, wanted.bytes, wanted.sha256):
        raise TerminalError(
            f"{wanted.file}: was removed here, and {bucket} has not acknowledged it; "
            "set the bucket that it went to and run `tape restore`"
        )
    return wanted


def _acknowledge(
    record: Path, name: str, bucket: Bucket, existing: Receipt | None, sent: list[ObjectReceipt],
    now_ns: Callable[[], int], *, has_file: bool,
) -> Receipt:  # fmt: skip
    """Write the receipt of these objects beside their record, unless it exists."""
    if existing is not None and existing.objects == tuple(sent):
        return existing
    receipt = Receipt(
        batch=name, bucket=bucket.name, endpoint=bucket.endpoint_url, uploaded_ns=now_ns(),
        object=sent[0] if has_file else None, beside=tuple(sent[has_file:-1]), manifest=sent[-1],
    )  # fmt: skip
    write_whole(receipt_record(record), encode(receipt))
    return receipt


def _remove_superseded(objects: ObjectStore, day: Day, sent: list[ObjectReceipt], warn: Callable[[str], None]) -> None:
    """Remove the days in the bucket whose batches are all in this one, once it is confirmed that this one is there."""
    ours = {each.key for each in sent}
    try:
        others = [key for key in keys_of_days(objects, day.feed, day.date) if key not in ours]
        old = [each for each in remote_days(objects, others) if is_within(each.day, day)]
        if old and all(objects.matches(each) for each in sent):
            for each in old:
                # The file first: without its record it would be counted, and nothing would say that it is old.
                objects.delete(each.file_key)
                objects.delete(each.key)
    except TerminalError as error:
        warn(f"earlier merges that {day.file} replaces may still be in the bucket, and be counted twice: {error}")
