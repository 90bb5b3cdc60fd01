"""An archived batch is uploaded once, compared, and never over another, however a store fails."""

import shutil
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from tasks.errors import ConflictError, CorruptionError, RecorderError, SettingsError, TerminalError, TransientError
from tasks.records.manifest import Manifest, Receipt, read
from tasks.records.names import BatchName
from tasks.storage.store import Store
from tasks.upload.bucket import Bucket
from tasks.upload.probe import PROBE
from tasks.upload.uploads import upload_batch

Archived = Callable[..., BatchName]
FOLDER = "trades/feed=finnhub/date=2026-11-24"


def now() -> int:
    return 1_795_000_000_000_000_000


def receipt_of(store: Store, name: BatchName) -> Path:
    manifest = store.manifest_of(name)
    assert manifest is not None
    return manifest.with_name(name.receipt)


def test_the_file_and_its_manifest_stand_in_the_bucket(
    store: Store, archived: Archived, bucket: Bucket, object_store: Any
) -> None:
    """An upload leaves both objects under Hive-style keys, equal byte for byte, and a receipt that says so."""
    name = archived()
    receipt = upload_batch(store, name, bucket, now)
    manifest = store.manifest_of(name)
    assert manifest is not None
    assert object_store.keys() == [f"{FOLDER}/{name.archived}", f"{FOLDER}/{name.manifest}"]
    assert object_store.body(f"{FOLDER}/{name.manifest}") == manifest.read_bytes()
    assert object_store.body(f"{FOLDER}/{name.archived}") == manifest.with_name(name.archived).read_bytes()
    assert receipt.object is not None
    assert receipt.object.sha256 == read(manifest, Manifest).sha256
    assert receipt.object.checked == "sha256 given by the store"
    assert read(receipt_of(store, name), Receipt) == receipt
    assert receipt.uploaded_ns == now()


def test_a_batch_without_rows_is_its_manifest_alone(
    store: Store, archived: Archived, bucket: Bucket, object_store: Any
) -> None:
    """Without valid rows there is no file to send."""
    name = archived(None)
    assert upload_batch(store, name, bucket, now).object is None
    assert object_store.keys() == [f"{FOLDER}/{name.manifest}"]


def test_a_second_run_gives_the_same_and_asks_nothing(store: Store, archived: Archived, odd_store: Any) -> None:
    """With a receipt, the store is not asked."""
    name = archived()
    first = upload_batch(store, name, odd_store.bucket, now)
    asked = len(odd_store.requests)
    assert upload_batch(store, name, odd_store.bucket, lambda: 0) == first
    assert len(odd_store.requests) == asked


def test_a_lost_receipt_is_written_again_without_a_second_put(store: Store, archived: Archived, odd_store: Any) -> None:
    """A run that was killed before its receipt finds the objects equal and sends nothing."""
    name = archived()
    first = upload_batch(store, name, odd_store.bucket, now)
    receipt_of(store, name).unlink()
    odd_store.requests.clear()
    assert upload_batch(store, name, odd_store.bucket, now) == first
    assert odd_store.puts == []


def test_a_damaged_receipt_is_replaced(store: Store, archived: Archived, bucket: Bucket) -> None:
    """An unreadable receipt counts as none."""
    name = archived()
    first = upload_batch(store, name, bucket, now)
    receipt_of(store, name).write_bytes(b"{")
    assert upload_batch(store, name, bucket, now) == first


def test_a_receipt_of_another_bucket_counts_as_none(
    store: Store, archived: Archived, bucket: Bucket, object_store: Any
) -> None:
    """After a change of bucket a batch is uploaded to the new one."""
    name = archived()
    upload_batch(store, name, bucket, now)
    object_store.server.client().create_bucket(Bucket=f"{bucket.name}-new")
    receipt = upload_batch(store, name, replace(bucket, name=f"{bucket.name}-new"), now)
    assert receipt.bucket == f"{bucket.name}-new"


def test_a_run_killed_between_file_and_manifest_is_finished(store: Store, archived: Archived, odd_store: Any) -> None:
    """An earlier uploaded file stays; the manifest follows, and the receipt is written last."""
    name = archived()
    odd_store.answer = lambda method, key, headers: (503, "SlowDown") if "manifest" in key else None
    with pytest.raises(TransientError):
        upload_batch(store, name, odd_store.bucket, now)
    assert list(odd_store.objects) == [f"{FOLDER}/{name.archived}"]
    assert not receipt_of(store, name).exists()
    odd_store.answer = lambda method, key, headers: None
    odd_store.requests.clear()
    upload_batch(store, name, odd_store.bucket, now)
    assert odd_store.puts == [f"{FOLDER}/{name.manifest}"]


def test_another_object_under_the_key_is_a_conflict(
    store: Store, archived: Archived, bucket: Bucket, object_store: Any
) -> None:
    """A different object is named with our file and is not changed."""
    name = archived()
    key = f"{FOLDER}/{name.archived}"
    object_store.server.client().put_object(Bucket=bucket.name, Key=key, Body=b"another's")
    with pytest.raises(ConflictError) as caught:
        upload_batch(store, name, bucket, now)
    assert key in str(caught.value)
    assert str(store.archive) in str(caught.value)
    assert object_store.body(key) == b"another's"
    assert object_store.keys() == [key]


def test_a_conflict_of_the_same_length_is_found_without_checksums(
    store: Store, archived: Archived, odd_store: Any
) -> None:
    """Without a checksum from the store, the object is downloaded and hashed."""
    name = archived(b"ours")
    odd_store.objects[f"{FOLDER}/{name.archived}"] = b"hers"
    with pytest.raises(ConflictError):
        upload_batch(store, name, odd_store.bucket, now)
    assert odd_store.objects == {f"{FOLDER}/{name.archived}": b"hers"}


def test_two_uploaders_of_one_store_write_once(store: Store, archived: Archived, odd_store: Any) -> None:
    """Of two uploaders in one data folder the second waits and finds the work done."""
    name = archived()
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: upload_batch(store, name, odd_store.bucket, now), range(2))
    assert first == second
    assert len(odd_store.puts) == 2


def test_two_machines_with_one_batch_leave_one_object(
    store: Store, archived: Archived, bucket: Bucket, object_store: Any, tmp_path: Path
) -> None:
    """Uploaders that share nothing but the bucket both succeed, and there is one object of each."""
    name = archived()
    shutil.copytree(store.root, tmp_path / "other")
    stores = [store, Store(tmp_path / "other")]
    with ThreadPoolExecutor(2) as pool:
        receipts = list(pool.map(lambda each: upload_batch(each, name, bucket, now), stores))
    assert receipts[0].object is not None
    assert receipts[1].object is not None
    assert receipts[0].object.sha256 == receipts[1].object.sha256
    assert len(object_store.keys()) == 2


def test_the_loser_of_a_race_compares(store: Store, archived: Archived, odd_store: Any) -> None:
    """If an equal object appears between lookup and put, the rejected put counts as done."""
    name = archived()
    path = store.archive_folder("finnhub", "2026-11-24")

    def race(method: str, key: str, headers: Any) -> tuple[int, str] | None:
        is_ours = method == "PUT" and PROBE not in key
        if is_ours and headers["If-None-Match"] == "*" and key not in odd_store.objects:
            odd_store.objects[key] = (path / key.rsplit("/", 1)[1]).read_bytes()
            return 412, "PreconditionFailed"
        return None

    odd_store.answer = race
    assert upload_batch(store, name, odd_store.bucket, now).object is not None


def test_what_appears_between_the_look_and_the_put_is_not_overwritten(
    store: Store, archived: Archived, odd_store: Any
) -> None:
    """If other bytes arrive first they stay, and the conditional put's rejection is a conflict."""
    name = archived()

    def race(method: str, key: str, headers: Any) -> tuple[int, str] | None:
        if method == "PUT":
            odd_store.objects.setdefault(key, b"another's")
        return (412, "PreconditionFailed") if method == "PUT" and headers["If-None-Match"] == "*" else None

    odd_store.answer = race
    with pytest.raises(ConflictError):
        upload_batch(store, name, odd_store.bucket, now)
    assert odd_store.objects == {f"{FOLDER}/{name.archived}": b"another's"}


def test_of_two_machines_with_different_bytes_one_wins_and_one_is_told(
    store: Store, archived: Archived, bucket: Bucket, object_store: Any, tmp_path: Path
) -> None:
    """Of two racing uploads with different bytes, one succeeds and the other is a conflict."""
    stores = [store, Store(tmp_path / "other").prepare()]
    contents = [b"a" * 1_000_000, b"b" * 1_000_000]
    for each, content in zip(stores, contents, strict=True):
        name = archived(content, into=each)

    def attempt(each: Store) -> Receipt | ConflictError:
        try:
            return upload_batch(each, name, bucket, now)
        except ConflictError as error:
            return error

    with ThreadPoolExecutor(2) as pool:
        ends = list(pool.map(attempt, stores))
    assert sorted(type(end).__name__ for end in ends) == ["ConflictError", "Receipt"]
    winner = next(content for content, end in zip(contents, ends, strict=True) if isinstance(end, Receipt))
    assert object_store.body(f"{FOLDER}/{name.archived}") == winner


def test_a_store_without_conditional_put_is_written_by_the_weaker_rule(
    store: Store, archived: Archived, odd_store: Any
) -> None:
    """A store that answers 501 to the condition is checked first, written without it, and read back."""
    name = archived()
    odd_store.answer = lambda method, key, headers: (501, "NotImplemented") if headers["If-None-Match"] else None
    receipt = upload_batch(store, name, odd_store.bucket, now)
    assert receipt.manifest.checked == "size, and sha256 of a download"
    assert len(odd_store.objects) == 2


def test_a_store_that_is_down_is_transient_and_loses_nothing(
    store: Store, archived: Archived, bucket: Bucket, object_store: Any
) -> None:
    """While the store is down the error is transient, and once it is back the upload finishes."""
    name = archived()
    object_store.server.kill()
    try:
        with pytest.raises(TransientError, match="is it up"):
            upload_batch(store, name, bucket, now)
        assert not receipt_of(store, name).exists()
    finally:
        object_store.server.start()
    assert upload_batch(store, name, bucket, now).object is not None
    assert len(object_store.keys()) == 2


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"secret_access_key": SecretStr("wrong-secret")}, "TAPE_S3_SECRET_ACCESS_KEY"),
        ({"access_key_id": "nobody"}, "TAPE_S3_ACCESS_KEY_ID"),
        ({"name": "no-such-bucket"}, "create it or correct TAPE_S3_BUCKET"),
        ({"access_key_id": None, "secret_access_key": None, "profile": "no-such-profile"}, "TAPE_S3_PROFILE"),
        ({"endpoint_url": "http://bad_host!"}, "TAPE_S3"),
    ],
    ids=["wrong secret", "unknown key", "missing bucket", "unknown profile", "impossible host"],
)
def test_what_a_person_must_mend_is_terminal_and_says_how(
    store: Store, archived: Archived, bucket: Bucket, change: dict[str, Any], says: str
) -> None:
    """Wrong credentials or a missing bucket end the upload at once, in one line that names the setting."""
    name = archived()
    with pytest.raises(TerminalError, match=says) as caught:
        upload_batch(store, name, replace(bucket, **change), now)
    assert "\n" not in str(caught.value)
    assert not receipt_of(store, name).exists()


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ((503, "SlowDown"), TransientError),
        ((500, "InternalError"), TransientError),
        ((429, "TooManyRequests"), TransientError),
        ((403, "RequestTimeTooSkewed"), TransientError),
        ((409, "ConditionalRequestConflict"), TransientError),
        ((400, "BadDigest"), TransientError),
        ((403, "AccessDenied"), TerminalError),
        ((400, "ExpiredToken"), TerminalError),
        ((400, "AuthorizationHeaderMalformed"), TerminalError),
        ((400, "InvalidStorageClass"), TerminalError),
        ((400, "SomethingNew"), TerminalError),
    ],
)
def test_each_refusal_is_classed_and_repeats_nothing_of_the_stores(
    store: Store, archived: Archived, odd_store: Any, answer: tuple[int, str], kind: type[RecorderError]
) -> None:
    """Temporary faults are transient, others terminal; the store's own text is not in the message."""
    name = archived()
    odd_store.answer = lambda method, key, headers: answer if method == "PUT" else None
    with pytest.raises(kind, match=answer[1]) as caught:
        upload_batch(store, name, odd_store.bucket, now)
    assert type(caught.value) is kind
    assert "not-to-be-seen" not in str(caught.value)


def test_a_damaged_file_is_never_sent(store: Store, archived: Archived, odd_store: Any) -> None:
    """A file that does not match its manifest is found before any request."""
    name = archived()
    file = store.archive_folder("finnhub", "2026-11-24") / name.archived
    file.write_bytes(file.read_bytes().replace(b"a", b"e", 1))
    with pytest.raises(CorruptionError, match=name.archived):
        upload_batch(store, name, odd_store.bucket, now)
    assert odd_store.requests == []


def test_a_batch_that_is_not_archived_says_so(store: Store, odd_store: Any) -> None:
    """Without a manifest there is nothing to upload."""
    with pytest.raises(TerminalError, match="tape archive"):
        upload_batch(store, BatchName("20261124T143000Z-9f3c01ab", 0, 7), odd_store.bucket, now)


def test_no_secret_shows_in_a_bucket_or_in_an_error(store: Store, archived: Archived, bucket: Bucket) -> None:
    """No repr, text, or traceback contains a secret, even one given as plain text."""
    name = archived()
    plain = replace(bucket, secret_access_key="plain-secret", session_token="plain-token")
    with pytest.raises(TerminalError) as caught:
        upload_batch(store, name, plain, now)
    shown = "".join(traceback.format_exception(caught.value)) + repr(plain) + str(plain)
    assert "plain-secret" not in shown
    assert "plain-token" not in shown


@pytest.mark.parametrize(
    "url", ["http://user:secret-in-url@host:9000", "ftp://host", "host:9000", "http://h/?t=secret-in-url"]
)
def test_an_endpoint_that_is_no_plain_url_is_refused_unseen(url: str) -> None:
    """An endpoint with a user or query is a wrong setting, and its value is not shown."""
    with pytest.raises(SettingsError) as caught:
        Bucket(name="tape", endpoint_url=url)
    assert "secret-in-url" not in str(caught.value)


def test_a_prefix_that_ends_as_closed_days_do_is_refused() -> None:
    """A prefix that would mix batches with another prefix's days is rejected."""
    with pytest.raises(SettingsError, match="TAPE_S3_PREFIX"):
        Bucket(name="tape", prefix="trades-by-day")
