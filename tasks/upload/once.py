"""How does an archived batch become objects in a bucket: its file, its rows and frames in quarantine, its manifest?

Keys are `<prefix>/<path below archive/>`, those of quarantine `<prefix>/_quarantine/<file>`. The manifest goes last:
where it is listed, the batch is whole, and with it everything that a restore elsewhere needs. Each object is written
once, as `send` has it.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

from tasks.archive.day_files import removed
from tasks.errors import CorruptionError, TerminalError
from tasks.records.manifest import Manifest, Receipt, encode, quarantined_files, read
from tasks.records.names import BatchName
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
        manifest, receipt_path = read(manifest_path, Manifest), manifest_path.with_name(name.receipt)
        standing = receipt_of(receipt_path, bucket)
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
        write_whole(receipt_path, encode(receipt))
        return receipt


def _wanted(
    store: Store, manifest_path: Path, manifest: Manifest, bucket: Bucket, standing: Receipt | None
) -> Iterator[Outgoing]:
    """What is to be sent, in that order, each checked against its record."""
    folder = f"{bucket.prefix}/{manifest_path.parent.relative_to(store.archive).as_posix()}"
    if manifest.file is not None:
        file, key = manifest_path.with_name(manifest.file), f"{folder}/{manifest.file}"
        if _is_removed(manifest_path, manifest):
            yield as_acknowledged(file, key, manifest.bytes, manifest.sha256, bucket, standing)
        else:
            yield outgoing(file, key, manifest.sha256)
    for name, sha256 in quarantined_files(manifest).items():
        yield outgoing(store.quarantine / name, quarantine_key(bucket, name), sha256)
    yield outgoing(manifest_path, f"{folder}/{manifest_path.name}")


def as_acknowledged(file: Path, key: str, size: int, sha256: str, bucket: Bucket, standing: Receipt | None) -> Outgoing:
    """A file that was removed here, as the receipt has it: what stands so is not sent again. Raises TerminalError."""
    sent = None if standing is None else standing.object
    if sent is None or (sent.key, sent.bytes, sent.sha256) != (key, size, sha256):
        raise TerminalError(
            f"{file}: was removed here, and {bucket} has not acknowledged it; "
            "set the bucket that it went to and run `tape restore`"
        )
    return Outgoing(file, key, size, sha256)


def _is_removed(manifest_path: Path, manifest: Manifest) -> bool:
    """Whether the batch's file is gone from here under a record that says where else it is."""
    file = manifest.file
    return file is not None and not manifest_path.with_name(file).exists() and removed(manifest_path) is not None


def quarantine_key(bucket: Bucket, file: str) -> str:
    """The key of a batch's file in quarantine."""
    return f"{bucket.prefix}/_quarantine/{file}"


def receipt_of(path: Path, bucket: Bucket) -> Receipt | None:
    """The receipt that stands there, where it can be read and is one of this bucket. Asks no store."""
    try:
        receipt = read(path, Receipt)
    except (FileNotFoundError, CorruptionError):
        return None
    return receipt if receipt.is_of(bucket.place) else None


def awaits_upload(store: Store, name: BatchName, bucket: Bucket) -> bool:
    """Whether an archived batch is still to be sent to this bucket, or one of its quarantine files. Asks no store.

    One that was removed here without ever having gone there is not: it has nothing to send.
    """
    manifest_path = store.manifest_of(name)
    if manifest_path is None:
        return False
    receipt = receipt_of(manifest_path.with_name(name.receipt), bucket)
    # The manifest is long, and is read only where it has something to say.
    if receipt is not None and (receipt.beside or not any((store.quarantine / each).exists() for each in name.rejects)):
        return False
    try:
        manifest = read(manifest_path, Manifest)
    except CorruptionError:
        return True
    return bool(quarantined_files(manifest)) if receipt is not None else not _is_removed(manifest_path, manifest)
