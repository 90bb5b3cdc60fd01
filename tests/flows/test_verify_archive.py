"""The weekly verification fails for what is broken here or in the bucket, and for nothing else."""

from collections.abc import Callable
from typing import Any

import pytest


def test_a_sound_archive_passes_and_each_damage_fails(
    tape: Any, object_store: Any, bucket_settings: dict[str, str], sealed_session: Callable[[], str]
) -> None:
    """Archived and uploaded it is verified; an object that is missing and a file that was changed are each named."""
    from flows.archive_batches import archive_batches
    from flows.verify_archive import NotVerified, verify_archive

    sealed_session()
    with tape.here(**bucket_settings, TAPE_MAX_EVENT_AGE="off"):
        archive_batches()
        verify_archive()
        key = next(each for each in list(object_store.keys()) if each.endswith(".parquet"))
        object_store.server.client().delete_object(Bucket=object_store.bucket, Key=key)
        with pytest.raises(NotVerified, match=f"missing: {key}"):
            verify_archive()
        path = next(tape.data.glob("archive/**/*.parquet"))
        path.write_bytes(path.read_bytes()[:-1] + b"x")
        with pytest.raises(NotVerified, match=path.name):
            verify_archive()
