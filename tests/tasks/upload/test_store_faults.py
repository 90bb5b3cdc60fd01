"""A real store that dies, dawdles or refuses in the middle of an upload, and an uploader that is killed there."""

import datetime as dt
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from relay import BLOCK_BYTES, Relay

from tasks.errors import ConflictError, TerminalError, TransientError
from tasks.records.manifest import Receipt, read
from tasks.records.names import BatchName
from tasks.storage.store import Store
from tasks.upload.bucket import Bucket
from tasks.upload.multipart import ABANDONED_AFTER_NS, abort_abandoned
from tasks.upload.object_store import ObjectStore
from tasks.upload.once import upload

Archived = Callable[..., BatchName]
ROOT = Path(__file__).parents[3]
FOLDER = "trades/feed=finnhub/date=2026-11-24"
PART_BYTES = 5 << 20
# Two parts, the last one short.
CONTENT = bytes(range(256)) * 1024 * 21

UPLOADER = """
import sys
from pathlib import Path
from tasks.records.names import BatchName
from tasks.storage.store import Store
from tasks.upload.bucket import Bucket
from tasks.upload.once import upload

root, name, bucket, url, key, secret, multipart_from = sys.argv[1:]
upload(Store(Path(root)), BatchName.parse(name), Bucket(
    name=bucket, endpoint_url=url, access_key_id=key, secret_access_key=secret, addressing="path", max_attempts=1,
    multipart_from_bytes=int(multipart_from), part_bytes=5 << 20), lambda: 1)
"""


def now() -> int:
    return time.time_ns()


def in_parts(bucket: Bucket) -> Bucket:
    return replace(bucket, multipart_from_bytes=PART_BYTES, part_bytes=PART_BYTES)


def receipt_of(store: Store, name: BatchName) -> Path:
    manifest = store.manifest_of(name)
    assert manifest is not None
    return manifest.with_name(name.receipt)


def assert_whole(store: Store, name: BatchName, object_store: Any) -> None:
    """One object of each, equal to the files byte for byte, and a receipt."""
    assert {*object_store.keys()} == {f"{FOLDER}/{name.archived}", f"{FOLDER}/{name.manifest}"}
    assert object_store.body(f"{FOLDER}/{name.archived}") == CONTENT
    assert (
        object_store.body(f"{FOLDER}/{name.manifest}") == receipt_of(store, name).with_name(name.manifest).read_bytes()
    )
    assert read(receipt_of(store, name), Receipt).object is not None


# Where in an upload a fault strikes: is this, of a body with so many bytes handed on, the place?
def in_a_put(method: str, path: str, sent_bytes: int) -> bool:
    return method == "PUT" and ".parquet" in path and sent_bytes > 2 * BLOCK_BYTES


def in_the_second_part(method: str, path: str, sent_bytes: int) -> bool:
    return "partNumber=2" in path and sent_bytes > BLOCK_BYTES


def between_object_and_manifest(method: str, path: str, sent_bytes: int) -> bool:
    return method == "PUT" and ".manifest.json" in path


PLACES = [in_a_put, in_the_second_part, between_object_and_manifest]


def as_the_place_asks(place: Callable[..., bool], bucket: Bucket) -> Bucket:
    return in_parts(bucket) if place is in_the_second_part else bucket


def once_at(place: Callable[..., bool], act: Callable[[], None]) -> Callable[[str, str, int], None]:
    """Acts the first time that the place is met."""
    done: list[bool] = []

    def passing(method: str, path: str, sent_bytes: int) -> None:
        if not done and place(method, path, sent_bytes):
            done.append(True)
            act()

    return passing


def test_a_large_file_goes_in_parts_and_is_compared_whole(
    store: Store, archived: Archived, bucket_by_relay: Bucket, relay: Relay, object_store: Any
) -> None:
    """Each part carries its checksum, the completion its condition; the whole is compared; none is left."""
    name = archived(CONTENT)
    receipt = upload(store, name, in_parts(bucket_by_relay), now)
    assert_whole(store, name, object_store)
    assert receipt.object is not None
    assert receipt.object.checked == "size, and sha256 of a download"
    parts = [CONTENT[:PART_BYTES], CONTENT[PART_BYTES:]]
    sent = zip(relay.seen, relay.sha256s, strict=True)
    assert [said for (method, path), said in sent if method == "PUT" and "partNumber=" in path] == [
        b64encode(hashlib.sha256(part).digest()).decode() for part in parts
    ]
    assert ObjectStore(bucket_by_relay).unfinished_parts("") == []
    receipt_of(store, name).unlink()
    relay.seen.clear()
    assert upload(store, name, in_parts(bucket_by_relay), now).object == receipt.object
    assert {method for method, _ in relay.seen} == {"HEAD", "GET"}, "what is equal is done"


def test_a_multipart_that_is_gone_already_is_aborted_without_error(bucket: Bucket, object_store: Any) -> None:
    """Two runs may abort the same one."""
    objects = ObjectStore(bucket)
    upload_id = objects.begin_parts("k")
    objects.put_part("k", upload_id, 1, b"ours")
    for _ in range(2):
        objects.abort_parts("k", upload_id)
    assert objects.unfinished_parts("") == []


def test_an_object_that_appears_during_a_multipart_is_not_overwritten(
    store: Store, archived: Archived, bucket_by_relay: Bucket, relay: Relay, object_store: Any
) -> None:
    """The completion's condition keeps what another put there meanwhile; both are named, and no part is left."""
    name = archived(CONTENT)
    key = f"{FOLDER}/{name.archived}"
    client = object_store.server.client()
    relay.passing = once_at(
        in_the_second_part, lambda: client.put_object(Bucket=object_store.bucket, Key=key, Body=b"another's")
    )
    with pytest.raises(ConflictError) as caught:
        upload(store, name, in_parts(bucket_by_relay), now)
    assert key in str(caught.value)
    assert str(store.archive) in str(caught.value)
    assert object_store.body(key) == b"another's"
    assert ObjectStore(bucket_by_relay).unfinished_parts("") == []


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__)
def test_a_store_killed_in_the_middle_is_transient_and_the_next_try_ends_it(
    store: Store, archived: Archived, bucket_by_relay: Bucket, relay: Relay, object_store: Any,
    place: Callable[..., bool],
) -> None:  # fmt: skip
    """SIGKILL of the store in a put, in a multipart, before the manifest: tried again, there is one whole object."""
    name = archived(CONTENT)
    bucket = as_the_place_asks(place, bucket_by_relay)
    relay.passing = once_at(place, object_store.server.kill)
    try:
        with pytest.raises(TransientError, match="tried again"):
            upload(store, name, bucket, now)
        assert object_store.server.process is None, "the fault struck"
        assert not receipt_of(store, name).exists()
    finally:
        object_store.server.kill()
        object_store.server.start()
    assert f"{FOLDER}/{name.manifest}" not in {*object_store.keys()}, "an object listed is an object whole"
    upload(store, name, bucket, now)
    assert_whole(store, name, object_store)
    abort_abandoned(ObjectStore(bucket), now(), older_than_ns=-(10**10))
    assert ObjectStore(bucket).unfinished_parts("") == []
    assert_whole(store, name, object_store)


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__)
def test_an_uploader_killed_in_the_middle_leaves_what_the_next_one_ends(
    store: Store, archived: Archived, bucket_by_relay: Bucket, relay: Relay, object_store: Any,
    place: Callable[..., bool],
) -> None:  # fmt: skip
    """SIGKILL of the uploader's process: the next one makes one whole object, and its old parts can be aborted."""
    name = archived(CONTENT)
    bucket = as_the_place_asks(place, bucket_by_relay)
    server = object_store.server
    process = subprocess.Popen(
        [
            sys.executable, "-c", UPLOADER, store.root, str(name), bucket.name, str(bucket.endpoint_url),
            server.access_key_id, server.secret_access_key, str(bucket.multipart_from_bytes),
        ],
        cwd=ROOT,
    )  # fmt: skip

    def kill() -> None:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()

    relay.passing = once_at(place, kill)
    assert process.wait(60) == -signal.SIGKILL
    assert not receipt_of(store, name).exists()
    left = ObjectStore(bucket).unfinished_parts(f"{bucket.prefix}/")
    assert len(left) == (place is in_the_second_part)
    upload(store, name, bucket, now)
    assert_whole(store, name, object_store)
    assert abort_abandoned(ObjectStore(bucket), now()) == [], "a living uploader's are younger"
    aborted = abort_abandoned(ObjectStore(bucket), now() + ABANDONED_AFTER_NS + 10**10)
    assert aborted == [each.key for each in left]
    assert ObjectStore(bucket).unfinished_parts("") == []
    assert_whole(store, name, object_store)


def test_only_our_own_multiparts_are_aborted(bucket: Bucket, object_store: Any) -> None:
    """A multipart under another prefix, even one that begins like ours, is left alone."""
    client = object_store.server.client()
    client.create_multipart_upload(Bucket=bucket.name, Key="trades-of-others/k")
    client.create_multipart_upload(Bucket=bucket.name, Key="trades/feed=x/k")
    objects = ObjectStore(bucket)
    assert abort_abandoned(objects, now() + ABANDONED_AFTER_NS + 10**10) == ["trades/feed=x/k"]
    assert [each.key for each in objects.unfinished_parts("")] == ["trades-of-others/k"]


@pytest.mark.parametrize("parts", [False, True], ids=["put", "multipart"])
@pytest.mark.parametrize("refusal", [(500, "InternalError"), (503, "SlowDown")])
def test_a_store_that_asks_for_time_gets_it(
    store: Store, archived: Archived, bucket_by_relay: Bucket, relay: Relay, object_store: Any, parts: bool,
    refusal: tuple[int, str],
) -> None:  # fmt: skip
    """A 500 or 503 at any request is transient; tried again as often as it takes, there is one whole object."""
    name = archived(CONTENT)
    bucket = in_parts(bucket_by_relay) if parts else bucket_by_relay
    met = set[tuple[str, str]]()

    def each_once(method: str, path: str) -> tuple[int, str] | None:
        place = (method, re.sub("uploadId=[^&]*", "", path))
        if method in {"DELETE", "HEAD"} or place in met:
            return None
        met.add(place)
        return refusal

    relay.answer = each_once
    for _ in range(20):
        try:
            upload(store, name, bucket, now)
            break
        except TransientError:
            assert not receipt_of(store, name).exists()
    relay.answer = lambda method, path: None
    assert len(met) >= (6 if parts else 2)
    assert_whole(store, name, object_store)
    assert ObjectStore(bucket).unfinished_parts("") == []


def test_a_slow_store_is_waited_for_and_a_silent_one_is_transient(
    store: Store, archived: Archived, bucket_by_relay: Bucket, relay: Relay, object_store: Any
) -> None:
    """Bytes that trickle are no fault; an answer that does not come within the time limit is, and mends itself."""
    name = archived(CONTENT)
    silent_for_s = 1.0

    def dawdle(method: str, path: str, sent_bytes: int) -> None:
        whole = sent_bytes == len(CONTENT)
        time.sleep(silent_for_s if whole else 0.001)  # This is the fault itself, not a wait for luck.

    relay.passing = dawdle
    with pytest.raises(TransientError, match="ReadTimeoutError"):
        upload(store, name, replace(bucket_by_relay, read_timeout_s=0.5), now)
    silent_for_s = 0.0
    upload(store, name, replace(bucket_by_relay, read_timeout_s=0.5), now)
    assert_whole(store, name, object_store)


@pytest.mark.parametrize(
    ("refusal", "says"),
    [
        ((403, "AccessDenied"), "grant these credentials"),
        ((400, "ExpiredToken"), "the credentials have expired"),
        ((301, "PermanentRedirect"), "set TAPE_S3_REGION"),
    ],
)
def test_what_is_refused_in_the_middle_of_a_multipart_leaves_nothing(
    store: Store, archived: Archived, bucket_by_relay: Bucket, relay: Relay, object_store: Any,
    refusal: tuple[int, str], says: str,
) -> None:  # fmt: skip
    """Rights lost, credentials expired, a bucket moved or gone at the second part: terminal, aborted, then mended."""
    name = archived(CONTENT)
    relay.answer = lambda method, path: refusal if "partNumber=2" in path else None
    with pytest.raises(TerminalError, match=says):
        upload(store, name, in_parts(bucket_by_relay), now)
    assert ObjectStore(bucket_by_relay).unfinished_parts("") == []
    assert object_store.keys() == []
    relay.answer = lambda method, path: None
    upload(store, name, in_parts(bucket_by_relay), now)
    assert_whole(store, name, object_store)


def test_a_clock_that_is_off_is_said_and_mends_itself(
    store: Store, archived: Archived, bucket: Bucket, object_store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real store refuses a signature of an hour ago; the clock set right, the upload ends."""
    import botocore.auth

    name = archived(CONTENT)

    def an_hour_ago(remove_tzinfo: bool = True) -> dt.datetime:
        moment = dt.datetime.now(dt.UTC) - dt.timedelta(hours=1)
        return moment.replace(tzinfo=None) if remove_tzinfo else moment

    with monkeypatch.context() as patch:
        patch.setattr(botocore.auth, "get_current_datetime", an_hour_ago)
        with pytest.raises(TransientError, match=r"RequestTimeTooSkewed.*clock"):
            upload(store, name, bucket, now)
    upload(store, name, bucket, now)
    assert_whole(store, name, object_store)


@pytest.mark.parametrize("parts", [False, True], ids=["put", "multipart"])
def test_two_workers_at_once_leave_one_object_and_none_fails(
    store: Store, archived: Archived, bucket: Bucket, object_store: Any, tmp_path: Path, parts: bool
) -> None:
    """Workers that share nothing but the bucket upload one batch at once: both have a receipt, one object stands."""
    name = archived(CONTENT)
    shutil.copytree(store.root, tmp_path / "other")
    target = in_parts(bucket) if parts else bucket
    stores = [store, Store(tmp_path / "other")]
    with ThreadPoolExecutor(2) as pool:
        receipts = list(pool.map(lambda each: upload(each, name, target, now), stores))
    assert {receipt.object.sha256 for receipt in receipts if receipt.object} == {receipts[0].object.sha256}  # type: ignore[union-attr]
    for each in stores:
        assert_whole(each, name, object_store)
    assert ObjectStore(bucket).unfinished_parts("") == []
