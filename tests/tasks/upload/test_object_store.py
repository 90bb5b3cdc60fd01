"""Checks whether the store has certain bytes now, and removes objects."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tasks.errors import TerminalError, TransientError
from tasks.records.manifest import ObjectReceipt
from tasks.records.names import BatchName
from tasks.storage.store import Store
from tasks.upload.bucket import Bucket
from tasks.upload.object_store import object_matches, remove_objects
from tasks.upload.uploads import upload_batch

Archived = Callable[..., BatchName]


@pytest.fixture
def receipt(store: Store, archived: Archived, bucket: Bucket) -> ObjectReceipt:
    """The receipt of an object in the bucket."""
    found = upload_batch(store, archived(), bucket, lambda: 1).object
    assert found is not None
    return found


def test_what_stands_stands(bucket: Bucket, receipt: ObjectReceipt) -> None:
    """An object is checked by the store's own SHA-256."""
    assert object_matches(bucket, receipt)


def test_another_object_of_the_same_length_does_not(bucket: Bucket, receipt: ObjectReceipt, object_store: Any) -> None:
    """One changed bit, another length, or a missing object is detected."""
    client, body = object_store.server.client(), bytearray(object_store.body(receipt.key))
    for change in (lambda: body.__setitem__(0, body[0] ^ 1), lambda: body.append(0)):
        change()
        client.put_object(Bucket=bucket.name, Key=receipt.key, Body=bytes(body))
        assert not object_matches(bucket, receipt)
    client.delete_object(Bucket=bucket.name, Key=receipt.key)
    assert not object_matches(bucket, receipt)


def test_a_store_without_checksums_is_read(store: Store, archived: Archived, odd_store: Any) -> None:
    """Without a SHA-256 from the store, the object is downloaded and hashed."""
    receipt = upload_batch(store, archived(), odd_store.bucket, lambda: 1).manifest
    odd_store.requests.clear()
    assert object_matches(odd_store.bucket, receipt)
    assert [method for method, _ in odd_store.requests] == ["HEAD", "GET"]
    odd_store.objects[receipt.key] = odd_store.objects[receipt.key].replace(b"finnhub", b"finnhuc")
    assert not object_matches(odd_store.bucket, receipt)


def test_a_store_that_cannot_be_asked_is_no_answer(odd_store: Any, receipt: ObjectReceipt) -> None:
    """A denied request or an unreachable store raises an error instead of an answer."""
    odd_store.answer = lambda method, key, headers: (403, "AccessDenied")
    with pytest.raises(TerminalError):
        object_matches(odd_store.bucket, receipt)
    odd_store.answer = lambda method, key, headers: (503, "SlowDown")
    with pytest.raises(TransientError):
        object_matches(odd_store.bucket, receipt)
    with pytest.raises(TransientError):
        object_matches(replace(odd_store.bucket, endpoint_url="http://127.0.0.1:1"), receipt)


def test_what_is_removed_is_gone_and_may_be_removed_again(
    bucket: Bucket, receipt: ObjectReceipt, object_store: Any
) -> None:
    """Only the named keys are removed, and removing twice is no error."""
    others = [key for key in object_store.keys() if key != receipt.key]  # noqa: SIM118 - a list of the bucket's
    for _ in range(2):
        remove_objects(bucket, [receipt.key])
        assert object_store.keys() == others
