"""Bring what a query needs from the bucket into a cache, and no more."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

from tasks.archive.catalog import Catalog
from tasks.records.ledger import SessionRecord
from tasks.records.manifest import Manifest, decode, read
from tasks.records.names import SESSION_RECORD, BatchName, feed_and_date
from tasks.storage.store import Store
from tasks.upload.bucket import Bucket
from tasks.upload.download import RemoteDay, keys_of_days, read_record, remote_days, write_record
from tasks.upload.object_store import ObjectStore
from tasks.upload.restore_files import Transfer, batch_record, restore_days, restore_rows

_Record = TypeVar("_Record")


def mirror(
    cache: Store,
    bucket: Bucket,
    wanted: Callable[[str, Manifest | None], bool],
    now_ns: Callable[[], int],
    also: Callable[[str], bool] = lambda _session: False,
) -> list[Path]:
    """Bring the batches that are wanted into a cache, which is laid out as a data folder; returns their manifests.

    `wanted` is called with each day (YYYY-MM-DD, None) before its manifests are fetched, then with each manifest before
    its file is. A batch whose object is gone comes as its day's file. The records of their sessions, and of those that
    `also` names, come too. What the cache has is not fetched again: an object never changes. Raises as `restore`.
    """
    objects, found = ObjectStore(bucket), []
    transfer = Transfer(cache, objects, objects.keys(bucket.keys.batches), now_ns)
    for key in sorted(filter(bucket.keys.holds_manifest, transfer.listed)):
        path = batch_record(cache, objects, key)
        _, date = feed_and_date(path.parent)
        # A cache's manifest may be there before its file: it says what the bucket has, not what the cache has.
        if wanted(date, None) and wanted(date, manifest := _record(objects, key, path, Manifest)):
            restore_rows(transfer, path, manifest, partial(_bring_days, transfer, path, manifest))
            found.append(path)
    _bring_sessions(transfer, {BatchName.parse(path.name).session for path in found}, also)
    return found


def _bring_days(transfer: Transfer, record: Path, manifest: Manifest) -> list[RemoteDay]:
    """Bring the closed day of a batch unless it is in the cache; returns those that the bucket has."""
    if Catalog(transfer.store).day_of_batch(record, manifest) is not None:
        return []
    listed = keys_of_days(transfer.objects, manifest.seal.feed, manifest.seal.date)
    days = remote_days(transfer.objects, listed)
    restore_days(transfer.store, transfer.objects, days, listed)
    return days


def _bring_sessions(transfer: Transfer, of_batches: set[str], also: Callable[[str], bool]) -> None:
    for session in transfer.sessions():
        if session in of_batches or also(session):
            path = transfer.store.sessions / session / SESSION_RECORD
            _record(transfer.objects, transfer.keys.of_session(session), path, SessionRecord)


def _record(objects: ObjectStore, key: str, path: Path, kind: type[_Record]) -> _Record:
    """Return a record from the cache, and bring it there first if it is missing."""
    if not path.exists():
        content = read_record(objects, key)
        decode(content, kind, f"{objects.bucket}: {key}")
        write_record(objects, key, path, content)
    return read(path, kind)
