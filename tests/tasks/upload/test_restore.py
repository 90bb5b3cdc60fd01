"""A day is restored from the bucket: equal, verified, never over different files, and finished after a kill."""

from collections.abc import Callable
from typing import Any

import pytest
from relay import Relay

from tasks.errors import ConflictError, CorruptionError, TerminalError, TransientError
from tasks.records.manifest import Manifest
from tasks.records.names import BatchName
from tasks.storage.store import Store
from tasks.upload.bucket import Bucket
from tasks.upload.mirror import mirror
from tasks.upload.restore import Restored, restore
from tasks.upload.uploads import upload_batch

Archived = Callable[..., BatchName]
DATE = "2026-11-24"
FOLDER = f"trades/feed=finnhub/date={DATE}"


def now() -> int:
    return 1_795_000_000_000_000_000


def files(store: Store, leaving: str = "receipt") -> dict[str, bytes]:
    """The files of the archive, except receipts."""
    paths = [path for path in store.archive.rglob("*") if path.is_file() and leaving not in path.name]
    return {str(path.relative_to(store.archive)): path.read_bytes() for path in paths}


def test_a_day_comes_back_byte_for_byte(store: Store, archived: Archived, bucket: Bucket, elsewhere: Store) -> None:
    """On another machine the day's files are restored unchanged, and a second run finds them equal."""
    upload_batch(store, archived(), bucket, lambda: 1)
    restored = restore(elsewhere, bucket, DATE, now)
    assert files(elsewhere) == files(store)
    assert (restored.fetched, restored.equal) == (1, 0)
    assert restored.bytes == sum(map(len, files(store).values()))
    assert restore(elsewhere, bucket, DATE, now) == Restored(0, 0, 1)


def test_a_batch_without_rows_comes_back_as_its_manifest(
    store: Store, archived: Archived, bucket: Bucket, elsewhere: Store
) -> None:
    """A batch without a file is restored without one."""
    upload_batch(store, archived(None), bucket, lambda: 1)
    restore(elsewhere, bucket, DATE, now)
    assert files(elsewhere) == files(store)


@pytest.mark.parametrize("file", ["archived", "manifest"])
def test_what_differs_here_is_never_overwritten(store: Store, archived: Archived, bucket: Bucket, file: str) -> None:
    """A different local file is named with the object, and is not changed."""
    name = archived()
    upload_batch(store, name, bucket, lambda: 1)
    path = store.archive_folder("finnhub", DATE) / getattr(name, file)
    path.write_bytes(b"mine")
    before = files(store)
    with pytest.raises(ConflictError, match=getattr(name, file)) as caught:
        restore(store, bucket, DATE, now)
    assert FOLDER in str(caught.value)
    assert files(store) == before


@pytest.mark.parametrize("file", ["archived", "manifest"])
def test_a_damaged_object_is_not_restored(
    store: Store, archived: Archived, bucket: Bucket, elsewhere: Store, object_store: Any, file: str
) -> None:
    """An object or manifest with a flipped bit leaves nothing here."""
    name = archived()
    upload_batch(store, name, bucket, lambda: 1)
    key = f"{FOLDER}/{getattr(name, file)}"
    body = bytearray(object_store.body(key))
    body[len(body) // 2] ^= 1
    object_store.server.client().put_object(Bucket=bucket.name, Key=key, Body=bytes(body))
    with pytest.raises(CorruptionError, match=key):
        restore(elsewhere, bucket, DATE, now)
    assert files(elsewhere) == {}


def test_a_day_that_the_bucket_lacks_is_said(store: Store, archived: Archived, bucket: Bucket) -> None:
    """A day without batches raises an error; an object without a manifest is not a batch."""
    upload_batch(store, archived(), bucket, lambda: 1)
    with pytest.raises(TerminalError, match="2026-11-25"):
        restore(store, bucket, "2026-11-25", now)


def test_a_restore_that_broke_off_is_finished_by_the_next(
    store: Store, archived: Archived, bucket_by_relay: Bucket, relay: Relay, elsewhere: Store
) -> None:
    """If the store fails between manifest and file, no batch is left; a second run completes the day."""
    upload_batch(store, archived(), bucket_by_relay, lambda: 1)
    relay.answer = lambda method, path: (503, "SlowDown") if method == "GET" and path.endswith(".parquet") else None
    with pytest.raises(TransientError):
        restore(elsewhere, bucket_by_relay, DATE, now)
    assert files(elsewhere) == {}
    relay.answer = lambda method, path: None
    restore(elsewhere, bucket_by_relay, DATE, now)
    assert files(elsewhere) == files(store)


def test_a_restored_batch_counts_as_archived_and_uploads_to_nothing_new(
    store: Store, archived: Archived, bucket_by_relay: Bucket, relay: Relay, elsewhere: Store
) -> None:
    """A restored batch gets its receipt by comparison: puts are rejected and existing objects compared."""
    name = archived()
    upload_batch(store, name, bucket_by_relay, lambda: 1)
    restore(elsewhere, bucket_by_relay, DATE, now)
    relay.seen.clear()
    upload_batch(elsewhere, name, bucket_by_relay, lambda: 1)
    assert [method for method, _ in relay.seen] == ["PUT", "HEAD"] * 2


def test_a_mirror_fetches_what_is_wanted_once(
    store: Store, archived: Archived, bucket_by_relay: Bucket, relay: Relay, elsewhere: Store
) -> None:
    """Unwanted days and batches are not downloaded, and a second run downloads nothing."""
    name = archived()
    upload_batch(store, name, bucket_by_relay, lambda: 1)

    def fetched(wanted: Callable[[str, Manifest | None], bool]) -> tuple[int, list[str]]:
        relay.seen.clear()
        found = mirror(elsewhere, bucket_by_relay, wanted, now)
        return len(found), [path.rsplit("/", 1)[1] for method, path in relay.seen if "list-type" not in path]

    assert fetched(lambda day, manifest: day == "2026-11-25") == (0, [])
    assert fetched(lambda day, manifest: manifest is None) == (0, [name.manifest])
    assert fetched(lambda day, manifest: True) == (1, [name.archived])
    assert fetched(lambda day, manifest: True) == (1, [])
    assert files(elsewhere) == files(store)
