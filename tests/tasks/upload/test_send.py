"""How few requests an upload takes once the store has shown its habits, and that a weaker store is never trusted."""

import base64
import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from relay import Relay

from tasks.errors import ConflictError, TerminalError
from tasks.upload import client as door
from tasks.upload.bucket import Bucket
from tasks.upload.habits import habits_of
from tasks.upload.object_store import ObjectStore
from tasks.upload.send import outgoing, send

Send = Callable[..., None]


@pytest.fixture
def sent(tmp_path: Path) -> Send:
    """Sends a file of that content under that key: `sent(bucket, "k", b"…")`."""

    def run(bucket: Bucket, key: str, content: bytes = b"trades") -> None:
        file = tmp_path / "file"
        file.write_bytes(content)
        send(ObjectStore(bucket), outgoing(file, key))

    return run


def test_a_store_that_has_shown_its_habits_is_asked_once(bucket_by_relay: Bucket, relay: Relay, sent: Send) -> None:
    """At first look, put, look; once it was seen to refuse a second put, and to tell the truth, the put alone."""

    def asked(key: str) -> list[str]:
        relay.seen.clear()
        sent(bucket_by_relay, key)
        return [method for method, _ in relay.seen]

    careful = ["HEAD", "PUT", "HEAD"]
    assert [asked(str(number)) for number in range(6)] == [
        careful, careful, careful, [*careful, "PUT"], ["PUT"], ["PUT"],
    ]  # fmt: skip
    assert asked("5") == ["PUT", "HEAD"], "what stands already is refused, and compared"


def test_another_object_is_found_also_without_the_look(bucket: Bucket, object_store: Any, sent: Send) -> None:
    """A key that is taken by other bytes is a conflict whether they were looked for or not, and stays."""
    for number in range(5):
        sent(bucket, str(number))
    assert habits_of(bucket).refuses_second
    with pytest.raises(ConflictError):
        sent(bucket, "0", b"others")
    assert object_store.body("0") == b"trades"


def test_a_large_file_is_looked_for_first(bucket_by_relay: Bucket, relay: Relay, sent: Send) -> None:
    """What stands already is not sent again in vain where that costs more than to ask."""
    for number in range(5):
        sent(bucket_by_relay, str(number))
    large = bytes(9 << 20)
    sent(bucket_by_relay, "large", large)
    relay.seen.clear()
    sent(bucket_by_relay, "large", large)
    assert [method for method, _ in relay.seen] == ["HEAD"]


def test_a_store_that_ignores_the_condition_is_always_asked_first(odd_store: Any, sent: Send) -> None:
    """It takes the second put, once, of the same bytes; from then on each key is looked for, and nothing is lost."""
    for number in range(8):
        sent(odd_store.bucket, str(number))
    assert habits_of(odd_store.bucket).refuses_second is False
    odd_store.objects["taken"] = b"others"
    odd_store.requests.clear()
    with pytest.raises(ConflictError):
        sent(odd_store.bucket, "taken")
    assert "PUT" not in [method for method, _ in odd_store.requests]
    assert odd_store.objects["taken"] == b"others"


def test_a_store_that_only_repeats_what_it_was_told_is_not_believed(odd_store: Any, sent: Send) -> None:
    """Without a SHA-256 of the object itself each one is downloaded, however often that went well."""
    odd_store.repeats = True
    for number in range(8):
        odd_store.requests.clear()
        sent(odd_store.bucket, str(number))
        assert ("GET", str(number)) in odd_store.requests


def test_a_store_that_ignores_the_condition_is_looked_at_after_each_put(odd_store: Any, sent: Send) -> None:
    """Whatever its checksums: another's object that came over ours is seen, and said."""
    odd_store.repeats = odd_store.knows = True
    for number in range(8):
        sent(odd_store.bucket, str(number))
    assert habits_of(odd_store.bucket).tells_sha256
    looks: list[str] = []

    def raced(method: str, key: str, headers: Any) -> None:
        looks.extend([key] if method == "HEAD" else [])
        if len(looks) == 2:
            odd_store.objects[key] = b"others"

    odd_store.answer = raced
    with pytest.raises(ConflictError):
        sent(odd_store.bucket, "raced")


def test_a_bucket_teaches_nothing_about_another(bucket: Bucket, object_store: Any, sent: Send) -> None:
    """Habits are of one bucket at one endpoint: some stores honour conditions in some buckets only."""
    for number in range(5):
        sent(bucket, str(number))
    assert habits_of(bucket).refuses_second
    for other in (replace(bucket, name="another"), replace(bucket, endpoint_url="http://127.0.0.1:1")):
        assert habits_of(other).refuses_second is None


def test_a_store_that_will_not_be_asked_twice_fails_no_upload(
    bucket_by_relay: Bucket, relay: Relay, sent: Send
) -> None:
    """Where the second put is refused for another reason, the upload is done and the careful way is kept."""
    for number in range(8):
        relay.answer = lambda method, path: None
        met: list[str] = []

        def second(method: str, path: str, met: list[str] = met) -> tuple[int, str] | None:
            met += [path] if method == "PUT" else []
            return (403, "AccessDenied") if len(met) > 1 else None

        relay.answer = second
        sent(bucket_by_relay, str(number))
    assert habits_of(bucket_by_relay).refuses_second is False


def test_the_checksum_goes_with_every_put(bucket_by_relay: Bucket, relay: Relay, sent: Send) -> None:
    """Also where nothing is asked afterwards, the store is told the SHA-256 and refuses other bytes."""
    for number in range(6):
        sent(bucket_by_relay, str(number))
    said = {each for (method, _), each in zip(relay.seen, relay.sha256s, strict=True) if method == "PUT"}
    assert said == {base64.b64encode(hashlib.sha256(b"trades").digest()).decode()}


def test_one_client_serves_a_bucket_until_its_credentials_fail(bucket: Bucket, sent: Send) -> None:
    """Whatever prefix or form of storage: one client; after a refusal the next one reads credentials anew."""
    door.client_of.cache_clear()
    sent(bucket, "a")
    sent(replace(bucket, prefix="other", storage_class="STANDARD", multipart_from_bytes=1 << 30), "b")
    assert door.client_of.cache_info().currsize == 1
    with pytest.raises(TerminalError):
        sent(replace(bucket, secret_access_key=SecretStr("wrong-secret")), "c")
    assert door.client_of.cache_info().currsize == 0
    sent(bucket, "c")


def test_no_secret_shows_in_what_a_client_is_known_by(bucket: Bucket) -> None:
    """The key under which a client is kept hides its secrets as the bucket does."""
    plain = replace(bucket, secret_access_key="plain-secret", session_token="plain-token")
    shown = repr(door.connection(plain)) + str(door.connection(plain))
    assert "plain-secret" not in shown
    assert "plain-token" not in shown
