"""A real store that dies, stalls, or rejects requests during an upload, and an uploader that is killed."""

import datetime as dt
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from relay import BLOCK_BYTES, Relay

from tasks.errors import TransientError
from tasks.records.manifest import Receipt, read
from tasks.records.names import BatchName
from tasks.storage.store import Store
from tasks.upload.bucket import Bucket
from tasks.upload.uploads import upload_batch

Archived = Callable[..., BatchName]
ROOT = Path(__file__).parents[3]
FOLDER = "trades/feed=finnhub/date=2026-11-24"
CONTENT = bytes(range(256)) * 1024 * 21

UPLOADER = """
import sys
from pathlib import Path
from tasks.records.names import BatchName
from tasks.storage.store import Store
from tasks.upload.bucket import Bucket
from tasks.upload.uploads import upload_batch

root, name, bucket, url, key, secret = sys.argv[1:]
upload_batch(Store(Path(root)), BatchName.parse(name), Bucket(
    name=bucket, endpoint_url=url, access_key_id=key, secret_access_key=secret, addressing="path", max_attempts=1),
    lambda: 1)
"""


def now() -> int:
    return time.time_ns()


def receipt_of(store: Store, name: BatchName) -> Path:
    manifest = store.manifest_of(name)
    assert manifest is not None
    return manifest.with_name(name.receipt)


def assert_whole(store: Store, name: BatchName, object_store: Any) -> None:
    """Check that there is one object of each file, equal byte for byte, and a receipt."""
    assert {*object_store.keys()} == {f"{FOLDER}/{name.archived}", f"{FOLDER}/{name.manifest}"}
    assert object_store.body(f"{FOLDER}/{name.archived}") == CONTENT
    assert (
        object_store.body(f"{FOLDER}/{name.manifest}") == receipt_of(store, name).with_name(name.manifest).read_bytes()
    )
    assert read(receipt_of(store, name), Receipt).object is not None


# Where in an upload a fault strikes: is this, of a body with so many bytes handed on, the place?
def in_a_put(method: str, path: str, sent_bytes: int) -> bool:
    return method == "PUT" and ".parquet" in path and sent_bytes > 2 * BLOCK_BYTES


def between_object_and_manifest(method: str, path: str, sent_bytes: int) -> bool:
    return method == "PUT" and ".manifest.json" in path


PLACES = [in_a_put, between_object_and_manifest]


def once_at(place: Callable[..., bool], act: Callable[[], None]) -> Callable[[str, str, int], None]:
    """Acts when the place is reached for the first time."""
    done: list[bool] = []

    def passing(method: str, path: str, sent_bytes: int) -> None:
        if not done and place(method, path, sent_bytes):
            done.append(True)
            act()

    return passing


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__)
def test_a_store_killed_in_the_middle_is_transient_and_the_next_try_ends_it(
    store: Store, archived: Archived, bucket_by_relay: Bucket, relay: Relay, object_store: Any,
    place: Callable[..., bool],
) -> None:  # fmt: skip
    """After SIGKILL of the store in a put or before the manifest, a retry gives one complete object."""
    name = archived(CONTENT)
    relay.passing = once_at(place, object_store.server.kill)
    try:
        with pytest.raises(TransientError, match="tried again"):
            upload_batch(store, name, bucket_by_relay, now)
        assert object_store.server.process is None, "the fault struck"
        assert not receipt_of(store, name).exists()
    finally:
        object_store.server.kill()
        object_store.server.start()
    assert f"{FOLDER}/{name.manifest}" not in {*object_store.keys()}, "an object listed is an object whole"
    upload_batch(store, name, bucket_by_relay, now)
    assert_whole(store, name, object_store)


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__)
def test_an_uploader_killed_in_the_middle_leaves_what_the_next_one_ends(
    store: Store, archived: Archived, bucket_by_relay: Bucket, relay: Relay, object_store: Any,
    place: Callable[..., bool],
) -> None:  # fmt: skip
    """After SIGKILL of the uploader, the next one completes the object."""
    name = archived(CONTENT)
    server = object_store.server
    process = subprocess.Popen(
        [
            sys.executable, "-c", UPLOADER, store.root, str(name), bucket_by_relay.name,
            str(bucket_by_relay.endpoint_url), server.access_key_id, server.secret_access_key,
        ],
        cwd=ROOT,
    )  # fmt: skip

    def kill() -> None:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()

    relay.passing = once_at(place, kill)
    assert process.wait(60) == -signal.SIGKILL
    assert not receipt_of(store, name).exists()
    upload_batch(store, name, bucket_by_relay, now)
    assert_whole(store, name, object_store)


@pytest.mark.parametrize("refusal", [(500, "InternalError"), (503, "SlowDown")])
def test_a_store_that_asks_for_time_gets_it(
    store: Store, archived: Archived, bucket_by_relay: Bucket, relay: Relay, object_store: Any,
    refusal: tuple[int, str],
) -> None:  # fmt: skip
    """A 500 or 503 at any request is transient, and retries give one complete object."""
    name = archived(CONTENT)
    met = set[tuple[str, str]]()

    def each_once(method: str, path: str) -> tuple[int, str] | None:
        place = (method, path)
        if method in {"DELETE", "HEAD"} or place in met:
            return None
        met.add(place)
        return refusal

    relay.answer = each_once
    for _ in range(20):
        try:
            upload_batch(store, name, bucket_by_relay, now)
            break
        except TransientError:
            assert not receipt_of(store, name).exists()
    relay.answer = lambda method, path: None
    assert len(met) >= 2
    assert_whole(store, name, object_store)


def test_a_slow_store_is_waited_for_and_a_silent_one_is_transient(
    store: Store, archived: Archived, bucket_by_relay: Bucket, relay: Relay, object_store: Any
) -> None:
    """A slow response is no fault; one that exceeds the time limit is a transient error."""
    name = archived(CONTENT)
    silent_for_s = 1.0

    def dawdle(method: str, path: str, sent_bytes: int) -> None:
        whole = sent_bytes == len(CONTENT)
        time.sleep(silent_for_s if whole else 0.001)  # This is the fault itself, not a wait for luck.

    relay.passing = dawdle
    with pytest.raises(TransientError, match="ReadTimeoutError"):
        upload_batch(store, name, replace(bucket_by_relay, read_timeout_s=0.5), now)
    silent_for_s = 0.0
    upload_batch(store, name, replace(bucket_by_relay, read_timeout_s=0.5), now)
    assert_whole(store, name, object_store)


def test_a_clock_that_is_off_is_said_and_mends_itself(
    store: Store, archived: Archived, bucket: Bucket, object_store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real store rejects a signature one hour old; with the right clock the upload succeeds."""
    import botocore.auth

    name = archived(CONTENT)

    def an_hour_ago(remove_tzinfo: bool = True) -> dt.datetime:
        moment = dt.datetime.now(dt.UTC) - dt.timedelta(hours=1)
        return moment.replace(tzinfo=None) if remove_tzinfo else moment

    with monkeypatch.context() as patch:
        patch.setattr(botocore.auth, "get_current_datetime", an_hour_ago)
        with pytest.raises(TransientError, match=r"RequestTimeTooSkewed.*clock"):
            upload_batch(store, name, bucket, now)
    upload_batch(store, name, bucket, now)
    assert_whole(store, name, object_store)


def test_two_workers_at_once_leave_one_object_and_none_fails(
    store: Store, archived: Archived, bucket: Bucket, object_store: Any, tmp_path: Path
) -> None:
    """Independent workers upload one batch at once: both get a receipt, and there is one object."""
    name = archived(CONTENT)
    shutil.copytree(store.root, tmp_path / "other")
    stores = [store, Store(tmp_path / "other")]
    with ThreadPoolExecutor(2) as pool:
        receipts = list(pool.map(lambda each: upload_batch(each, name, bucket, now), stores))
    assert {receipt.object.sha256 for receipt in receipts if receipt.object} == {receipts[0].object.sha256}  # type: ignore[union-attr]
    for each in stores:
        assert_whole(each, name, object_store)
