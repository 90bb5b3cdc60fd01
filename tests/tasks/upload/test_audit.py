"""`tape verify --remote`: each way in which a bucket can differ from its receipts is found, by key."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from relay import Relay

from tasks.batch import BatchName
from tasks.errors import TerminalError
from tasks.manifest import ObjectReceipt, Receipt, encode, read
from tasks.store import Store, write_whole
from tasks.upload.audit import audit
from tasks.upload.bucket import Bucket
from tasks.upload.multipart import ABANDONED_AFTER_NS
from tasks.upload.once import upload

Archived = Callable[..., BatchName]
FOLDER = "trades/feed=finnhub/date=2026-11-24"
NOW_NS = 1_795_000_000_000_000_000


@pytest.fixture
def uploaded(store: Store, archived: Archived, bucket: Bucket) -> BatchName:
    """A batch of which the bucket holds both objects."""
    name = archived()
    upload(store, name, bucket, lambda: NOW_NS)
    return name


def kinds(store: Store, bucket: Bucket, now_ns: int = 0) -> list[tuple[str, str]]:
    return [(wrong.kind, wrong.key) for wrong in audit(store, bucket, now_ns).wrong]


def test_a_whole_bucket_holds_by_the_stores_own_checksums(store: Store, uploaded: BatchName, bucket: Bucket) -> None:
    """Where all is as its receipts say nothing is wrong, and nothing had to be downloaded."""
    verdict = audit(store, bucket, 0)
    assert verdict.wrong == ()
    assert verdict.holds
    assert (verdict.batches, verdict.objects, verdict.downloaded) == (1, 2, 0)


@pytest.mark.parametrize("file", ["archived", "manifest"])
def test_a_missing_object_is_named(
    store: Store, uploaded: BatchName, bucket: Bucket, object_store: Any, file: str
) -> None:
    """An object that someone removed is missing."""
    key = f"{FOLDER}/{getattr(uploaded, file)}"
    object_store.server.client().delete_object(Bucket=bucket.name, Key=key)
    assert kinds(store, bucket) == [("missing", key)]


@pytest.mark.parametrize("file", ["archived", "manifest"])
def test_a_single_other_bit_in_the_bucket_is_named(
    store: Store, uploaded: BatchName, bucket: Bucket, object_store: Any, file: str
) -> None:
    """An object replaced by one of the same length, one bit apart, is different."""
    key = f"{FOLDER}/{getattr(uploaded, file)}"
    body = bytearray(object_store.body(key))
    body[len(body) // 2] ^= 1
    object_store.server.client().put_object(Bucket=bucket.name, Key=key, Body=bytes(body))
    assert kinds(store, bucket) == [("different", key)]


def test_what_is_of_no_batch_is_foreign_and_other_prefixes_are_not_ours(
    store: Store, uploaded: BatchName, bucket: Bucket, object_store: Any
) -> None:
    """An object under our prefix that no manifest tells of is named; one beside the prefix is nobody's business."""
    client = object_store.server.client()
    for key in (f"{FOLDER}/stray.parquet", "trades-of-others/stray"):
        client.put_object(Bucket=bucket.name, Key=key, Body=b"stray")
    assert kinds(store, bucket) == [("foreign", f"{FOLDER}/stray.parquet")]


def test_parts_that_a_killed_upload_left_are_named_once_they_are_old(
    store: Store, uploaded: BatchName, bucket: Bucket, object_store: Any
) -> None:
    """A multipart of a day ago is abandoned, a young one may be a living upload's."""
    begun = object_store.server.client().create_multipart_upload(Bucket=bucket.name, Key=f"{FOLDER}/part")
    assert begun["UploadId"]
    assert kinds(store, bucket) == []
    assert kinds(store, bucket, 2 * NOW_NS + ABANDONED_AFTER_NS) == [("abandoned", f"{FOLDER}/part")]


def test_a_store_that_cannot_list_multiparts_is_judged_without_and_that_is_said(
    store: Store, uploaded: BatchName, bucket_by_relay: Bucket, relay: Relay
) -> None:
    """A 501 to that one question does not keep the objects from being compared."""
    place = store.archive_folder("finnhub", "2026-11-24") / uploaded.receipt
    write_whole(place, encode(replace(read(place, Receipt), endpoint=bucket_by_relay.endpoint_url)))
    relay.answer = lambda method, path: (501, "NotImplemented") if "uploads" in path else None
    verdict = audit(store, bucket_by_relay, 0)
    assert (verdict.wrong, verdict.objects) == ((), 2)
    assert "not looked for" in verdict.notes[0]


def test_a_batch_without_a_receipt_of_this_bucket_is_not_uploaded(
    store: Store, uploaded: BatchName, bucket: Bucket, object_store: Any
) -> None:
    """A receipt that is lost, or of another bucket, is no proof; the objects themselves are not called foreign."""
    manifest = store.manifest_of(uploaded)
    assert manifest is not None
    receipt = manifest.with_name(uploaded.receipt)
    write_whole(receipt, encode(replace(read(receipt, Receipt), bucket="another")))
    assert kinds(store, bucket) == [("not uploaded", f"{FOLDER}/{uploaded}")]
    receipt.unlink()
    assert kinds(store, bucket) == [("not uploaded", f"{FOLDER}/{uploaded}")]


def test_a_receipt_that_is_not_its_manifests_is_named(store: Store, uploaded: BatchName, bucket: Bucket) -> None:
    """A receipt of other bytes than the manifest tells of differs, whatever the bucket holds."""
    manifest = store.manifest_of(uploaded)
    assert manifest is not None
    place = manifest.with_name(uploaded.receipt)
    receipt = read(place, Receipt)
    assert isinstance(receipt.object, ObjectReceipt)
    write_whole(place, encode(replace(receipt, object=replace(receipt.object, sha256="0" * 64))))
    assert ("different", f"{FOLDER}/{uploaded.archived}") in kinds(store, bucket)


def test_what_went_in_parts_is_downloaded_to_compare(
    store: Store, archived: Archived, bucket: Bucket, object_store: Any
) -> None:
    """Of a multipart the store has no SHA-256 of the whole: its bytes are read, which the verdict counts."""
    name = archived(bytes(6 << 20))
    small = replace(bucket, multipart_from_bytes=5 << 20, part_bytes=5 << 20)
    upload(store, name, small, lambda: NOW_NS)
    verdict = audit(store, bucket, 0)
    assert (verdict.wrong, verdict.downloaded) == ((), 1)
    key = f"{FOLDER}/{name.archived}"
    object_store.server.client().put_object(
        Bucket=bucket.name, Key=key, Body=bytes((6 << 20) - 1) + b"1", ChecksumAlgorithm="CRC32"
    )
    assert kinds(store, bucket) == [("different", key)]


def test_an_empty_archive_and_bucket_hold(store: Store, bucket: Bucket) -> None:
    """Where nothing was archived and nothing lies in the bucket nothing is wrong."""
    assert audit(store, bucket, 0).wrong == ()


def test_a_missing_bucket_says_so(store: Store, bucket: Bucket) -> None:
    """A bucket that cannot be listed is an error, not a verdict."""
    with pytest.raises(TerminalError, match="TAPE_S3_BUCKET"):
        audit(store, replace(bucket, name="no-such-bucket"), 0)


def test_a_damaged_manifest_here_is_named(store: Store, uploaded: BatchName, bucket: Bucket) -> None:
    """A local manifest that cannot be read is told of by its batch; its objects are not called foreign."""
    manifest = store.manifest_of(uploaded)
    assert isinstance(manifest, Path)
    manifest.write_bytes(manifest.read_bytes().replace(b"finnhub", b"finnhuc", 1))
    assert kinds(store, bucket) == [("different", f"{FOLDER}/{uploaded}")]
