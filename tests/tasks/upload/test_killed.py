"""Killed before any change or request, the bucket always has the day, and exactly once in the end."""

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from calls import killed_everywhere

from tasks.archive.catalog import Catalog
from tasks.merge.day import merge
from tasks.records.manifest import Day, Receipt
from tasks.records.names import BatchName, receipt_record
from tasks.storage.store import Store
from tasks.upload.bucket import Bucket
from tasks.upload.download import day_keys
from tasks.upload.uploads import upload_day

MOST_KILLS = 40
DATE = "2026-11-24"
SESSION = "20261124T143000Z-9f3c01ab"
PROGRAM = """
from pydantic import SecretStr
from tasks.storage.store import Store
from tasks.upload.bucket import Bucket
from tasks.upload.uploads import upload_day
import boto3, botocore.session  # Before the forks: they take a second.

def work(folder, number):
    name, endpoint, key, secret = sys.argv[3:]
    bucket = Bucket(
        name=name, endpoint_url=endpoint, access_key_id=key, secret_access_key=SecretStr(secret), addressing="path",
        max_attempts=1, prefix=f"killed-{number}",
    )
    assert upload_day(Store(folder), "finnhub", "2026-11-24", bucket, lambda: 7, print) is not None
"""


def send(store: Store, bucket: Bucket) -> Receipt | None:
    return upload_day(store, "finnhub", DATE, bucket, lambda: 7, pytest.fail)


def closed(store: Store) -> Day:
    day = merge(store, "finnhub", DATE)
    assert day is not None
    return day


def numbered(bucket: Bucket, number: int) -> Bucket:
    """The place in the bucket for an upload killed at this point."""
    return replace(bucket, prefix=f"killed-{number}")


def assert_a_whole_day_stands(object_store: Any, bucket: Bucket, days: list[Day]) -> None:
    """Check that the bucket has one of these days' files as its record says, and the record."""
    keys = object_store.keys()
    stands = [
        {*day_keys(bucket, day)} <= {*keys}
        and hashlib.sha256(object_store.body(day_keys(bucket, day)[0])).hexdigest() == day.sha256
        for day in days
    ]
    assert any(stands), bucket.prefix


@pytest.mark.slow
@pytest.mark.parametrize("is_first", [True, False], ids=["first", "anew"])
def test_an_upload_of_a_day_killed_at_any_moment(
    whole: Store, bucket: Bucket, object_store: Any, tmp_path: Path, is_first: bool
) -> None:
    """The bucket always has a complete day, receipts are never too early, and one day is left at the end."""
    for path in list(whole.archive_folder("finnhub", DATE).glob(f"*{BatchName(SESSION, 0, 1)}*")):
        path.rename(whole.root / path.name)
    first, root = closed(whole), tmp_path / "killed"
    for number in range(1, 0 if is_first else MOST_KILLS):
        assert send(whole, numbered(bucket, number)) is not None
    receipt_record(whole.day_record("finnhub", DATE)).unlink(missing_ok=True)
    for path in whole.root.glob(f"*{SESSION}*"):
        path.rename(whole.archive_folder("finnhub", DATE) / path.name)
    second = closed(whole)
    shutil.copytree(whole.root, root / "start")
    folders = killed_everywhere(
        root, PROGRAM, bucket.name, str(bucket.endpoint_url), str(bucket.access_key_id),
        object_store.server.secret_access_key,
    )  # fmt: skip
    assert 15 < len(folders) < MOST_KILLS
    for number, folder in enumerate(folders, 1):
        store, place = Store(folder), numbered(bucket, number)
        if receipt_record(store.day_record("finnhub", DATE)).exists():
            assert_a_whole_day_stands(object_store, place, [second])
        elif not is_first:
            assert_a_whole_day_stands(object_store, place, [first, second])
        assert send(store, place) is not None
        assert Catalog(store).days_awaiting_upload(place.place) == []
        keys: list[str] = object_store.keys()
        mine = [key for key in keys if key.startswith(place.keys.days)]
        assert mine == sorted(day_keys(place, second)), number
        assert_a_whole_day_stands(object_store, place, [second])
