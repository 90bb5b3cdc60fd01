"""What `tape doctor` can report about a store."""

from dataclasses import replace
from typing import Any

import pytest

from tasks.errors import TerminalError, TransientError
from tasks.upload.bucket import Bucket
from tasks.upload.probe import probe


def test_a_good_store_honours_both_and_is_left_as_it_was(bucket: Bucket, object_store: Any) -> None:
    """The probe finds conditional puts and checksums, and removes its object."""
    found = probe(bucket)
    assert (found.conditional_put, found.checksums) == (True, True)
    assert object_store.keys() == []


def test_a_store_that_ignores_the_condition_is_found_out(odd_store: Any) -> None:
    """A store that ignores the condition and has no checksums is reported as such."""
    found = probe(odd_store.bucket)
    assert (found.conditional_put, found.checksums) == (False, False)
    assert "weaker rule" in str(found)
    assert odd_store.objects == {}


def test_a_store_that_refuses_the_condition_is_found_out(odd_store: Any) -> None:
    """A store that answers 501 to the condition can still be used."""
    odd_store.answer = lambda method, key, headers: (501, "NotImplemented") if headers["If-None-Match"] else None
    assert not probe(odd_store.bucket).conditional_put
    assert odd_store.objects == {}


def test_a_missing_bucket_says_what_to_do(bucket: Bucket) -> None:
    """Probing a missing bucket names the setting."""
    with pytest.raises(TerminalError, match="TAPE_S3_BUCKET"):
        probe(replace(bucket, name="no-such-bucket"))


def test_an_unreachable_store_is_transient(bucket: Bucket) -> None:
    """A closed port is a transient error."""
    with pytest.raises(TransientError, match="is it up"):
        probe(replace(bucket, endpoint_url="http://127.0.0.1:1"))
