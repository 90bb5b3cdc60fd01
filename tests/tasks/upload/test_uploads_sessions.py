"""A session's record is uploaded once, compared, and only after the session's end."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from relay import Relay

from tasks.errors import ConflictError
from tasks.records.ledger import SessionRecord
from tasks.records.manifest import Receipt, encode, read
from tasks.storage.store import Store, write_whole
from tasks.upload.bucket import Bucket
from tasks.upload.uploads import sessions_awaiting_upload, upload_session

SESSION = "20261124T143000Z-9f3c01ab"
KEY = f"trades/_sessions/{SESSION}/session.json"


def now() -> int:
    return 1_795_700_000_000_000_000


def test_a_session_that_has_ended_goes_up_once(
    whole: Store, bucket_by_relay: Bucket, relay: Relay, object_store: Any
) -> None:
    """The record is in the bucket and its receipt here; a second run asks nothing."""
    assert sessions_awaiting_upload(whole, bucket_by_relay) == [SESSION]
    receipt = upload_session(whole, SESSION, bucket_by_relay, now)
    record = whole.sessions / SESSION / "session.json"
    assert object_store.keys() == [KEY]
    assert object_store.body(KEY) == record.read_bytes()
    assert read(record.with_name("receipt.json"), Receipt) == receipt
    assert sessions_awaiting_upload(whole, bucket_by_relay) == []
    assert sessions_awaiting_upload(whole, replace(bucket_by_relay, prefix="tape")) == [SESSION]
    relay.seen.clear()
    assert upload_session(whole, SESSION, bucket_by_relay, now) == receipt
    assert relay.seen == []


def test_a_session_that_records_has_nothing_to_send(whole: Store, odd_store: Any) -> None:
    """Without its record there is no upload, and no error."""
    (whole.sessions / SESSION / "session.json").unlink()
    assert sessions_awaiting_upload(whole, odd_store.bucket) == []
    assert upload_session(whole, SESSION, odd_store.bucket, now) is None
    assert odd_store.requests == []


def test_two_machines_with_one_session_leave_its_record_once(
    whole: Store, bucket: Bucket, object_store: Any, tmp_path: Path
) -> None:
    """Two copies of a data folder upload at once: both get a receipt, and there is one object."""
    shutil.copytree(whole.root, tmp_path / "other")
    with ThreadPoolExecutor(2) as pool:
        stores = [whole, Store(tmp_path / "other")]
        receipts = list(pool.map(lambda each: upload_session(each, SESSION, bucket, now), stores))
    assert [receipt and receipt.manifest.key for receipt in receipts] == [KEY, KEY]
    assert object_store.keys() == [KEY]


def test_another_record_of_that_session_is_a_conflict(whole: Store, bucket: Bucket, object_store: Any) -> None:
    """A record that differs from the bucket's is named beside it, and nothing is overwritten."""
    upload_session(whole, SESSION, bucket, now)
    path = whole.sessions / SESSION / "session.json"
    before = path.read_bytes()
    write_whole(path, encode(replace(read(path, SessionRecord), outcome="stopped")))
    with pytest.raises(ConflictError, match=KEY):
        upload_session(whole, SESSION, bucket, now)
    assert object_store.body(KEY) == before
