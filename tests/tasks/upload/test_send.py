"""Uploads need few requests on a store with conditions and checksums, and never trust a weaker store."""

import base64
import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from relay import Relay

from tasks.errors import ConflictError, TerminalError, TransientError
from tasks.upload import client as door
from tasks.upload.bucket import Bucket
from tasks.upload.object_store import ObjectStore
from tasks.upload.probe import PROBE, abilities_of
from tasks.upload.send import outgoing, send, send_all

Send = Callable[..., None]


@pytest.fixture
def sent(tmp_path: Path) -> Send:
    """Sends a file with this content under a key: `sent(bucket, "k", b"…")`."""

    def run(bucket: Bucket, key: str, content: bytes = b"trades") -> None:
        file = tmp_path / "file"
        file.write_bytes(content)
        send(ObjectStore(bucket), outgoing(file, key))

    return run


def test_a_store_that_keeps_both_rules_is_asked_once_for_each_object(
    bucket_by_relay: Bucket, relay: Relay, sent: Send
) -> None:
    """The bucket is probed before the first object; then a single put writes and proves each one."""

    def asked(key: str) -> list[str]:
        relay.seen.clear()
        sent(bucket_by_relay, key)
        return [method for method, _ in relay.seen]

    assert asked("0") == ["PUT", "PUT", "HEAD", "DELETE", "PUT"]
    assert [asked(str(number)) for number in range(1, 4)] == [["PUT"]] * 3
    assert asked("3") == ["PUT", "HEAD"], "what exists is refused, and compared"


def test_threads_probe_a_bucket_once(bucket_by_relay: Bucket, relay: Relay, object_store: Any) -> None:
    """Concurrent uploads wait for one probe, which leaves nothing behind."""
    with ThreadPoolExecutor(4) as pool:
        found = set(pool.map(lambda _: abilities_of(ObjectStore(bucket_by_relay)), range(8)))
    assert [method for method, _ in relay.seen] == ["PUT", "PUT", "HEAD", "DELETE"]
    assert [(each.conditional_put, each.checksums, each.left) for each in found] == [(True, True, None)]
    assert object_store.keys() == []


def test_a_probe_that_failed_is_made_again(bucket_by_relay: Bucket, relay: Relay, sent: Send) -> None:
    """After a store asked to slow down, the next upload probes again."""
    relay.answer = lambda method, path: (503, "SlowDown")
    with pytest.raises(TransientError):
        sent(bucket_by_relay, "a")
    relay.answer = lambda method, path: None
    sent(bucket_by_relay, "a")
    relay.seen.clear()
    sent(bucket_by_relay, "b")
    assert [method for method, _ in relay.seen] == ["PUT"]


def test_a_store_that_refuses_the_probe_fails_no_upload(
    bucket_by_relay: Bucket, relay: Relay, sent: Send, object_store: Any
) -> None:
    """If the probe's object may not be written, each key is looked up before and compared after."""
    relay.answer = lambda method, path: (403, "AccessDenied") if PROBE in path else None
    for key in "ab":
        relay.seen.clear()
        sent(bucket_by_relay, key)
        assert [method for method, path in relay.seen if PROBE not in path] == ["HEAD", "PUT", "HEAD"]
    with pytest.raises(ConflictError):
        sent(bucket_by_relay, "a", b"others")
    assert object_store.body("a") == b"trades"


def test_a_bucket_whose_objects_cannot_be_read_back_at_once_is_probed(
    bucket_by_relay: Bucket, relay: Relay, object_store: Any
) -> None:
    """In storage classes without GET, the store's SHA-256 is enough and the probe does not fail."""
    relay.answer = lambda method, path: (403, "InvalidObjectState") if method == "GET" else None
    found = abilities_of(ObjectStore(bucket_by_relay))
    assert (found.conditional_put, found.checksums) == (True, True)


def test_a_probe_object_that_may_not_be_removed_serves_the_next_process(
    bucket_by_relay: Bucket, relay: Relay, object_store: Any
) -> None:
    """Without permission to delete, all processes share one probe object with the same result."""
    relay.answer = lambda method, path: (403, "AccessDenied") if method == "DELETE" else None
    for _ in range(3):
        found = abilities_of(ObjectStore(bucket_by_relay), known={})
        assert (found.conditional_put, found.checksums) == (True, True)
    assert object_store.keys() == [f"trades/{PROBE}"]


def test_another_object_is_found_also_without_the_look(bucket: Bucket, object_store: Any, sent: Send) -> None:
    """A key with other bytes is a conflict even without a lookup, and the object stays."""
    sent(bucket, "0")
    with pytest.raises(ConflictError):
        sent(bucket, "0", b"others")
    assert object_store.body("0") == b"trades"


def test_a_large_file_is_looked_up_first(bucket_by_relay: Bucket, relay: Relay, sent: Send) -> None:
    """A large existing object is looked up instead of sent again."""
    large = bytes(9 << 20)
    sent(bucket_by_relay, "large", large)
    relay.seen.clear()
    sent(bucket_by_relay, "large", large)
    assert [method for method, _ in relay.seen] == ["HEAD"]


def test_a_file_that_no_put_takes_is_refused_before_anything_is_sent(odd_store: Any, tmp_path: Path) -> None:
    """A file above 5 GiB gives a one-line error without being read."""
    file = tmp_path / "large"
    with file.open("wb") as sparse:
        sparse.truncate((5 << 30) + 1)
    with pytest.raises(TerminalError, match="TAPE_BATCH_BYTES") as refused:
        send_all(odd_store.bucket, [outgoing(file, "large")], None)
    assert str(refused.value).startswith(f"{file}: has 5,368,709,121 bytes")
    assert "\n" not in str(refused.value)
    assert odd_store.requests == []


def test_a_store_that_ignores_the_condition_is_always_asked_first(odd_store: Any, sent: Send) -> None:
    """If the probe finds that the store ignores conditions, each key is looked up and nothing is lost."""
    sent(odd_store.bucket, "a")
    assert not abilities_of(ObjectStore(odd_store.bucket)).conditional_put
    odd_store.objects["taken"] = b"others"
    odd_store.requests.clear()
    with pytest.raises(ConflictError):
        sent(odd_store.bucket, "taken")
    assert odd_store.puts == []
    assert odd_store.objects["taken"] == b"others"


def test_a_store_that_stops_taking_the_condition_is_looked_at_again(odd_store: Any, sent: Send) -> None:
    """A 501 to the condition leads to a lookup before and after a plain put, whatever the probe found."""
    odd_store.repeats = odd_store.knows = True

    def answer(method: str, key: str, headers: Any) -> tuple[int, str] | None:
        if method != "PUT" or headers["If-None-Match"] is None:
            return None
        return (412, "PreconditionFailed") if PROBE in key and key in odd_store.objects else (
            None if PROBE in key else (501, "NotImplemented")
        )  # fmt: skip

    odd_store.answer = answer
    sent(odd_store.bucket, "a")
    assert [method for method, key in odd_store.requests if key == "a"] == ["PUT", "HEAD", "PUT", "HEAD"]
    odd_store.objects["taken"] = b"others"
    with pytest.raises(ConflictError):
        sent(odd_store.bucket, "taken")
    assert odd_store.objects["taken"] == b"others"


@pytest.mark.parametrize("honors", [False, True], ids=["ignores the condition", "honors the condition"])
def test_a_store_that_only_repeats_what_it_was_told_is_not_believed(odd_store: Any, sent: Send, honors: bool) -> None:
    """Without a SHA-256 from the store every object is downloaded and compared."""
    odd_store.repeats = True
    odd_store.answer = lambda method, key, headers: (
        (412, "PreconditionFailed") if honors and method == "PUT" and key in odd_store.objects else None
    )
    for number in range(4):
        odd_store.requests.clear()
        sent(odd_store.bucket, str(number))
        assert ("GET", str(number)) in odd_store.requests


def test_a_store_that_ignores_the_condition_is_looked_at_after_each_put(odd_store: Any, sent: Send) -> None:
    """Another uploader's object that overwrote ours is detected and reported."""
    odd_store.repeats = odd_store.knows = True
    sent(odd_store.bucket, "a")
    assert abilities_of(ObjectStore(odd_store.bucket)).checksums
    looks: list[str] = []

    def raced(method: str, key: str, headers: Any) -> None:
        looks.extend([key] if method == "HEAD" else [])
        if len(looks) == 2:
            odd_store.objects[key] = b"others"

    odd_store.answer = raced
    with pytest.raises(ConflictError):
        sent(odd_store.bucket, "raced")


def test_a_bucket_teaches_nothing_about_another(bucket_by_relay: Bucket, relay: Relay) -> None:
    """Probe results apply to one bucket, endpoint, and prefix only."""
    abilities_of(ObjectStore(bucket_by_relay))
    relay.seen.clear()
    abilities_of(ObjectStore(bucket_by_relay))
    assert relay.seen == []
    abilities_of(ObjectStore(replace(bucket_by_relay, prefix="other")))
    assert len(relay.seen) == 4


def test_the_checksum_goes_with_every_put(bucket_by_relay: Bucket, relay: Relay, sent: Send) -> None:
    """The SHA-256 is sent with the upload, so that the store rejects other bytes even without a later check."""
    for number in range(6):
        sent(bucket_by_relay, str(number))
    seen = zip(relay.seen, relay.sha256s, strict=True)
    said = {sha256 for (method, path), sha256 in seen if method == "PUT" and PROBE not in path}
    assert said == {base64.b64encode(hashlib.sha256(b"trades").digest()).decode()}


def test_one_client_serves_a_bucket_until_its_credentials_fail(bucket: Bucket, sent: Send) -> None:
    """One client serves all prefixes and storage classes; after a denial the next one rereads credentials."""
    door.client_of.cache_clear()
    sent(bucket, "a")
    sent(replace(bucket, prefix="other", storage_class="STANDARD"), "b")
    assert door.client_of.cache_info().currsize == 1
    with pytest.raises(TerminalError):
        sent(replace(bucket, secret_access_key=SecretStr("wrong-secret")), "c")
    assert door.client_of.cache_info().currsize == 0
    sent(bucket, "c")


def test_no_secret_shows_in_what_a_client_is_known_by(bucket: Bucket) -> None:
    """The cache key of a client hides its secrets."""
    plain = replace(bucket, secret_access_key="plain-secret", session_token="plain-token")
    shown = repr(door.connection(plain)) + str(door.connection(plain))
    assert "plain-secret" not in shown
    assert "plain-token" not in shown
