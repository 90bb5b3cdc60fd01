"""How does an archived batch become objects in a bucket: its file, its rows and frames in quarantine, its manifest?

Keys are `<prefix>/<path below archive/>`, those of quarantine `<prefix>/_quarantine/<file>`. The manifest goes last:
where it is listed, the batch is whole, and with it everything that a restore elsewhere needs. Each object is written
once, as `send` has it.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

from tasks.archive.side_records import acknowledged, removed
from tasks.errors import TerminalError
from tasks.records.manifest import Manifest, Receipt, encode, quarantined_files, read
from tasks.records.names import BatchName, feed_and_date, receipt_record
from tasks.storage.store import Store, write_whole
from tasks.upload.bucket import Bucket
from tasks.upload.send import Outgoing, outgoing, send_all


def upload(store: Store, name: BatchName, bucket: Bucket, now_ns: Callable[[], int]) -> Receipt:
    """Put an archived batch's file, quarantine files and manifest into the bucket, and write the receipt beside them.

    Run again, it gives the receipt that stands and asks the store nothing; one that lacks an object is completed, one
    of another bucket or of other bytes is replaced, after the store was asked. Raises TransientError; CorruptionError
    where a file is not what its record says, before anything is sent; ConflictError where another object stands under
    a key; TerminalErrors where the file was removed here and this bucket has none, or the store refuses.
    """
    with store.locked(name):
        manifest_path = store.manifest_of(name)
        if manifest_path is None:
            raise TerminalError(f"{name}: is not archived in {store.archive}; run `tape archive`")
        manifest, standing = read(manifest_path, Manifest), acknowledged(manifest_path, bucket.place)
        sent = send_all(bucket, list(_wanted(store, manifest_path, manifest, bucket, standing)), standing)
        if standing is not None and standing.objects == tuple(sent):
            return standing
        has_file = manifest.file is not None
        receipt = Receipt(
            batch=str(name),
            bucket=bucket.name,
            endpoint=bucket.endpoint_url,
            uploaded_ns=now_ns(),
            object=sent[0] if has_file else None,
            beside=tuple(sent[has_file:-1]),
            manifest=sent[-1],
        )
        write_whole(receipt_record(manifest_path), encode(receipt))
        return receipt


def _wanted(
    store: Store, manifest_path: Path, manifest: Manifest, bucket: Bucket, standing: Receipt | None
) -> Iterator[Outgoing]:
    """What is to be sent, in that order, each checked against its record."""
    keys, day = bucket.keys, feed_and_date(manifest_path.parent)
    if manifest.file is not None:
        file, key = manifest_path.with_name(manifest.file), keys.of_batch(*day, manifest.file)
        if not file.exists() and removed(manifest_path) is not None:
            yield as_acknowledged(file, key, manifest.bytes, manifest.sha256, bucket, standing)
        else:
            yield outgoing(file, key, manifest.sha256)
    for name, sha256 in quarantined_files(manifest).items():
        yield outgoing(store.quarantine / name, keys.of_quarantine(name), sha256)
    yield outgoing(manifest_path, keys.of_batch(*day, manifest_path.name))


def as_acknowledged(file: Path, key: str, size: int, sha256: str, bucket: Bucket, standing: Receipt | None) -> Outgoing:
    """A file that was removed here, as the receipt has it: what stands so is not sent again. Raises TerminalError."""
    sent = None if standing is None else standing.object
    if sent is None or (sent.key, sent.bytes, sent.sha256) != (key, size, sha256):
        raise TerminalError(
            f"{file}: was removed here, and {bucket} has not acknowledged it; "
            "set the bucket that it went to and run `tape restore`"
        )
    return Outgoing(file, key, size, sha256)
