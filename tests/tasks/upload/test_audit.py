"""`tape verify --remote`: each way in which a bucket can differ from its receipts is found, by key."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tasks.errors import TerminalError
from tasks.merge.day import merge
from tasks.records.manifest import Day, ObjectReceipt, Receipt, Removed, encode, read
from tasks.records.names import BatchName, removed_record
from tasks.storage.store import Store, write_whole
from tasks.upload.audit import audit
from tasks.upload.bucket import Bucket
from tasks.upload.uploads import upload_batch, upload_day, upload_session

Archived = Callable[..., BatchName]
FOLDER = "trades/feed=finnhub/date=2026-11-24"
DAY_FOLDER = "trades-by-day/feed=finnhub/date=2026-11-24"
SESSION = "20261124T143000Z-9f3c01ab"
NAMES = [BatchName(SESSION, 0, number) for number in range(3)]
NOW_NS = 1_795_000_000_000_000_000


@pytest.fixture
def uploaded(store: Store, archived: Archived, bucket: Bucket) -> BatchName:
    """A batch whose two objects are in the bucket."""
    name = archived()
    upload_batch(store, name, bucket, lambda: NOW_NS)
    return name


def kinds(store: Store, bucket: Bucket) -> list[tuple[str, str]]:
    return [(wrong.kind, wrong.key) for wrong in audit(store, bucket).wrong]


def test_a_whole_bucket_holds_by_the_stores_own_checksums(store: Store, uploaded: BatchName, bucket: Bucket) -> None:
    """If everything matches the receipts, nothing is wrong and nothing is downloaded."""
    verdict = audit(store, bucket)
    assert verdict.wrong == ()
    assert verdict.holds
    assert (verdict.batches, verdict.objects, verdict.downloaded) == (1, 2, 0)


@pytest.mark.parametrize("file", ["archived", "manifest"])
def test_a_missing_object_is_named(
    store: Store, uploaded: BatchName, bucket: Bucket, object_store: Any, file: str
) -> None:
    """A removed object is reported as missing."""
    key = f"{FOLDER}/{getattr(uploaded, file)}"
    object_store.server.client().delete_object(Bucket=bucket.name, Key=key)
    assert kinds(store, bucket) == [("missing", key)]


@pytest.mark.parametrize("file", ["archived", "manifest"])
def test_a_single_other_bit_in_the_bucket_is_named(
    store: Store, uploaded: BatchName, bucket: Bucket, object_store: Any, file: str
) -> None:
    """An object with one bit changed is reported as different."""
    key = f"{FOLDER}/{getattr(uploaded, file)}"
    body = bytearray(object_store.body(key))
    body[len(body) // 2] ^= 1
    object_store.server.client().put_object(Bucket=bucket.name, Key=key, Body=bytes(body))
    assert kinds(store, bucket) == [("different", key)]


def test_what_is_of_no_batch_is_foreign_and_other_prefixes_are_not_ours(
    store: Store, uploaded: BatchName, bucket: Bucket, object_store: Any
) -> None:
    """An object under our prefix without a manifest is named; objects outside the prefix are ignored."""
    client = object_store.server.client()
    for key in (f"{FOLDER}/stray.parquet", "trades-of-others/stray"):
        client.put_object(Bucket=bucket.name, Key=key, Body=b"stray")
    assert kinds(store, bucket) == [("foreign", f"{FOLDER}/stray.parquet")]


def test_a_batch_without_a_receipt_of_this_bucket_is_not_uploaded(
    store: Store, uploaded: BatchName, bucket: Bucket, object_store: Any
) -> None:
    """A lost receipt, or one of another bucket, is no proof; the objects are not called foreign."""
    manifest = store.manifest_of(uploaded)
    assert manifest is not None
    receipt = manifest.with_name(uploaded.receipt)
    write_whole(receipt, encode(replace(read(receipt, Receipt), bucket="another")))
    assert kinds(store, bucket) == [("not uploaded", f"{FOLDER}/{uploaded}")]
    receipt.unlink()
    assert kinds(store, bucket) == [("not uploaded", f"{FOLDER}/{uploaded}")]


def test_a_receipt_that_is_not_its_manifests_is_named(store: Store, uploaded: BatchName, bucket: Bucket) -> None:
    """A receipt of other bytes than the manifest's is reported, whatever the bucket holds."""
    manifest = store.manifest_of(uploaded)
    assert manifest is not None
    place = manifest.with_name(uploaded.receipt)
    receipt = read(place, Receipt)
    assert isinstance(receipt.object, ObjectReceipt)
    write_whole(place, encode(replace(receipt, object=replace(receipt.object, sha256="0" * 64))))
    assert ("different", f"{FOLDER}/{uploaded.archived}") in kinds(store, bucket)


def test_an_object_without_a_sha256_is_downloaded_to_compare(
    store: Store, uploaded: BatchName, bucket: Bucket, object_store: Any
) -> None:
    """An object without a SHA-256 from the store is downloaded and hashed, which the verdict counts."""
    key, client = f"{FOLDER}/{uploaded.archived}", object_store.server.client()
    body = object_store.body(key)
    for content in (body, body[:-1] + b"2"):
        client.put_object(Bucket=bucket.name, Key=key, Body=content, ChecksumAlgorithm="CRC32")
        verdict = audit(store, bucket)
        assert verdict.downloaded == 1
        assert [each.key for each in verdict.wrong] == ([] if content == body else [key])


def test_an_empty_archive_and_bucket_hold(store: Store, bucket: Bucket) -> None:
    """An empty archive and an empty bucket have no faults."""
    assert audit(store, bucket).wrong == ()


def test_a_missing_bucket_says_so(store: Store, bucket: Bucket) -> None:
    """A bucket that cannot be listed raises an error instead of giving a verdict."""
    with pytest.raises(TerminalError, match="TAPE_S3_BUCKET"):
        audit(store, replace(bucket, name="no-such-bucket"))


def test_a_damaged_manifest_here_is_named(store: Store, uploaded: BatchName, bucket: Bucket) -> None:
    """An unreadable local manifest is reported with its batch; its objects are not called foreign."""
    manifest = store.manifest_of(uploaded)
    assert isinstance(manifest, Path)
    manifest.write_bytes(manifest.read_bytes().replace(b"finnhub", b"finnhuc", 1))
    assert kinds(store, bucket) == [("different", f"{FOLDER}/{uploaded}")]


@pytest.fixture
def all_uploaded(whole: Store, bucket: Bucket) -> Store:
    """A fully uploaded session with quarantine files and two closed days."""
    for name in NAMES:
        upload_batch(whole, name, bucket, lambda: NOW_NS)
    upload_session(whole, SESSION, bucket, lambda: NOW_NS)
    for date in ("2026-11-24", "2026-11-25"):
        merge(whole, "finnhub", date)
        upload_day(whole, "finnhub", date, bucket, lambda: NOW_NS, print)
    return whole


def test_everything_of_a_session_and_its_days_is_ours_and_compared(
    all_uploaded: Store, bucket: Bucket, object_store: Any
) -> None:
    """Quarantine files, the session's record, and merged days are counted and compared, and are not foreign."""
    verdict = audit(all_uploaded, bucket)
    assert verdict.wrong == ()
    assert (verdict.batches, verdict.sessions, verdict.days, verdict.merged) == (3, 1, 2, 0)
    assert verdict.objects == len(object_store.keys()) == 3 * 5 + 1 + 2 * 2


def test_each_of_them_is_missed_and_seen_to_differ(all_uploaded: Store, bucket: Bucket, object_store: Any) -> None:
    """A flipped bit or a missing object is reported with its key."""
    keys = [f"trades/_quarantine/{NAMES[0].rejected_rows}", f"trades/_quarantine/{NAMES[0].cut}"]
    keys += [key for key in [*object_store.keys()] if key.startswith(("trades/_sessions", DAY_FOLDER))]
    assert len(keys) == 5
    client = object_store.server.client()
    for key in keys:
        body = bytearray(object_store.body(key))
        body[len(body) // 2] ^= 1
        client.put_object(Bucket=bucket.name, Key=key, Body=bytes(body))
    assert sorted(kinds(all_uploaded, bucket)) == sorted(("different", key) for key in keys)
    for key in keys:
        client.delete_object(Bucket=bucket.name, Key=key)
    assert sorted(kinds(all_uploaded, bucket)) == sorted(("missing", key) for key in keys)


def test_what_was_not_sent_is_named_by_kind(whole: Store, bucket: Bucket) -> None:
    """A session's record, a day, and quarantine files without receipts are reported as not uploaded."""
    receipt = upload_batch(whole, NAMES[0], bucket, lambda: NOW_NS)
    upload_batch(whole, NAMES[1], bucket, lambda: NOW_NS)
    upload_batch(whole, NAMES[2], bucket, lambda: NOW_NS)
    merge(whole, "finnhub", "2026-11-24")
    manifest = whole.manifest_of(NAMES[0])
    assert manifest is not None
    write_whole(manifest.with_name(NAMES[0].receipt), encode(replace(receipt, beside=())))
    wrong = audit(whole, bucket).wrong
    assert {each.kind for each in wrong} == {"not uploaded"}
    keys = [each.key for each in wrong]
    assert f"trades/_sessions/{SESSION}/session.json" in keys
    assert [key for key in keys if key.startswith(DAY_FOLDER)]
    assert sorted(key for key in keys if "_quarantine" in key) == sorted(each.key for each in receipt.beside)


@pytest.mark.parametrize("why", ["merged", "age"])
def test_a_batch_that_was_removed_here_is_compared_by_its_receipt(
    all_uploaded: Store, bucket: Bucket, object_store: Any, why: Any
) -> None:
    """A batch's object may be missing only if its day is in the bucket and has its rows."""
    manifest = all_uploaded.manifest_of(NAMES[0])
    assert manifest is not None
    said = Removed(batch=str(NAMES[0]), file=NAMES[0].archived, removed_ns=1, why=why, held_in=("elsewhere",))
    write_whole(removed_record(manifest), encode(said))
    manifest.with_name(NAMES[0].archived).unlink()
    assert audit(all_uploaded, bucket).wrong == ()
    key, client = f"{FOLDER}/{NAMES[0].archived}", object_store.server.client()
    client.put_object(Bucket=bucket.name, Key=key, Body=b"another's")
    assert kinds(all_uploaded, bucket) == [("different", key)]
    client.delete_object(Bucket=bucket.name, Key=key)
    verdict = audit(all_uploaded, bucket)
    assert [(wrong.kind, wrong.key) for wrong in verdict.wrong] == ([] if why == "merged" else [("missing", key)])
    assert verdict.merged == (why == "merged")
    next(all_uploaded.days.rglob("_2026-11-24.receipt.json")).unlink()
    assert ("missing", key) in kinds(all_uploaded, bucket), "its day was never acknowledged"


def test_a_day_that_a_fuller_one_took_the_place_of_is_not_missed(
    all_uploaded: Store, bucket: Bucket, object_store: Any, tmp_path: Path
) -> None:
    """Another machine's day with all our batches is accepted, with a note that it is not our merge."""
    record = next(all_uploaded.days.rglob("_2026-11-24.day.json"))
    ours = read(record, Day)
    late = BatchName(SESSION, 0, 7)
    extra = replace(ours.batches[0], batch=str(late), file=late.archived)
    fuller = replace(ours, file="2026-11-24-0123456789ab.parquet", batches=(*ours.batches, extra))
    client = object_store.server.client()
    for key in [each for each in [*object_store.keys()] if each.startswith(DAY_FOLDER)]:
        client.delete_object(Bucket=bucket.name, Key=key)
    theirs = [f"{DAY_FOLDER}/_2026-11-24-0123456789ab.day.json", f"{DAY_FOLDER}/{fuller.file}"]
    for key, body in zip(theirs, (encode(fuller), b"their rows"), strict=True):
        client.put_object(Bucket=bucket.name, Key=key, Body=body)
    assert sorted(kinds(all_uploaded, bucket)) == [("foreign", key) for key in sorted(theirs)]


def test_a_damaged_day_record_here_is_named(all_uploaded: Store, bucket: Bucket) -> None:
    """An unreadable record is reported; objects in its receipt are not foreign."""
    record = next(all_uploaded.days.rglob("_2026-11-24.day.json"))
    record.write_bytes(record.read_bytes().replace(b"finnhub", b"finnhuc", 1))
    assert kinds(all_uploaded, bucket) == [("different", f"{DAY_FOLDER}/{record.name}")]
