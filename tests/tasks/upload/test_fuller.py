"""A fuller day stays, files that are unreadable or without rows are still sent, and records outlive their files."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from relay import Relay

from tasks.archive.catalog import Catalog
from tasks.compress.parquet import compress
from tasks.errors import CorruptionError
from tasks.merge.day import merge
from tasks.records.manifest import Day
from tasks.records.names import BatchName
from tasks.storage.store import Store
from tasks.upload.bucket import Bucket
from tasks.upload.download import day_keys
from tasks.upload.restore import restore
from tasks.upload.uploads import upload_batch, upload_day
from tasks.validate.schema import Limits
from tasks.validate.split import split

DATE = "2026-11-24"
SESSION = "20261124T143000Z-9f3c01ab"
NAMES = [BatchName(SESSION, 0, number) for number in range(2)]


def now() -> int:
    return 1_795_700_000_000_000_000


def only(whole: Store, root: Path, *names: BatchName) -> Store:
    """A copy of the data folder with only these batches of the day archived."""
    store = Store(root)
    shutil.copytree(whole.root, store.root)
    for name in {*NAMES} - {*names}:
        for path in list(store.archive.rglob(f"*{name}*")):
            path.unlink()
    return store


def closed(store: Store) -> Day:
    day = merge(store, "finnhub", DATE)
    assert day is not None
    return day


def send(store: Store, bucket: Bucket) -> None:
    """Upload every batch of that day, and the day."""
    for path in store.manifests():
        if path.parent == store.archive_folder("finnhub", DATE):
            upload_batch(store, BatchName.parse(path.name), bucket, now)
    assert upload_day(store, "finnhub", DATE, bucket, now, pytest.fail) is not None


def days(store: Store) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in store.days.rglob("*") if path.is_file()}


@pytest.mark.parametrize("theirs", [(0,), (1,)], ids=["of the first", "of the second"])
@pytest.mark.parametrize("ours", [(0, 1), (0,)], ids=["fuller", "another"])
def test_a_day_here_gives_way_only_to_one_of_all_its_batches(
    whole: Store, bucket: Bucket, tmp_path: Path, ours: tuple[int, ...], theirs: tuple[int, ...]
) -> None:
    """A day in the bucket with fewer or other batches does not replace the local day."""
    there, here = (
        only(whole, tmp_path / kind, *(NAMES[number] for number in numbers))
        for kind, numbers in (("there", theirs), ("here", ours))
    )
    closed(there)
    closed(here)
    send(there, bucket)
    before = days(here)
    restore(here, bucket, DATE, now)
    assert days(here) == before


def test_a_day_here_gives_way_to_a_fuller_one(whole: Store, bucket: Bucket, tmp_path: Path) -> None:
    """A day in the bucket with all local batches and more replaces the local day and its file."""
    there, here = only(whole, tmp_path / "there", *NAMES), only(whole, tmp_path / "here", NAMES[0])
    closed(there)
    closed(here)
    send(there, bucket)
    restore(here, bucket, DATE, now)
    fuller = {name: content for name, content in days(there).items() if "receipt" not in name}
    assert {name: content for name, content in days(here).items() if "receipt" not in name} == fuller


def test_a_superseded_day_loses_its_record_after_its_file(
    whole: Store, bucket_by_relay: Bucket, relay: Relay, object_store: Any, tmp_path: Path
) -> None:
    """If the store fails between file and record, the old record remains and the next run finishes."""
    earlier = only(whole, tmp_path / "earlier", NAMES[0])
    first, second = closed(earlier), closed(whole)
    send(earlier, bucket_by_relay)
    relay.seen.clear()
    file_key, record_key = day_keys(bucket_by_relay, first)
    relay.answer = lambda method, path: (403, "AccessDenied") if method == "DELETE" and "day.json" in path else None
    said: list[str] = []
    upload_day(whole, "finnhub", DATE, bucket_by_relay, now, said.append)
    removed = [unquote(path.split("?")[0].split("/", 2)[2]) for method, path in relay.seen if method == "DELETE"]
    assert removed == [file_key, record_key]
    assert len(said) == 1
    keys = {*object_store.keys()}
    assert {record_key, *day_keys(bucket_by_relay, second)} <= keys
    assert file_key not in keys


@pytest.mark.parametrize("damage", [b"", b"{", b'{"batch": 1}'])
def test_a_damaged_manifest_still_awaits_its_upload(
    store: Store, archived: Callable[..., BatchName], odd_store: Any, damage: bytes
) -> None:
    """An unreadable batch is listed as waiting; its upload reports the fault and sends nothing."""
    name = archived()
    assert name in Catalog(store).awaiting_upload(odd_store.bucket.place)
    path = store.manifest_of(name)
    assert path is not None
    path.write_bytes(damage)
    assert name in Catalog(store).awaiting_upload(odd_store.bucket.place)
    with pytest.raises(CorruptionError, match=path.name):
        upload_batch(store, name, odd_store.bucket, now)
    assert odd_store.requests == []


def test_a_damaged_record_of_a_day_still_awaits_its_upload(whole: Store, odd_store: Any) -> None:
    """A day with an unreadable record is listed; its upload reports that and sends nothing."""
    closed(whole)
    record = whole.day_record("finnhub", DATE)
    record.write_bytes(record.read_bytes()[:-40])
    assert Catalog(whole).days_awaiting_upload(odd_store.bucket.place) == [("finnhub", DATE)]
    with pytest.raises(CorruptionError, match=record.name):
        upload_day(whole, "finnhub", DATE, odd_store.bucket, now, pytest.fail)
    assert odd_store.requests == []


@pytest.mark.parametrize("structural", [False, True], ids=["each row", "structural"])
def test_a_wholly_rejected_batch_goes_up_and_comes_back(
    store: Store, sealed_batch: Callable[..., BatchName], bucket: Bucket, elsewhere: Store, structural: bool
) -> None:
    """A batch without valid rows is uploaded with its quarantine, and a restore elsewhere brings both back."""
    name = sealed_batch([b"rubbish\n"], symbols=["SPY"], **({"header": b"no journal\n"} if structural else {}))
    split(store, name, Limits(None, None))
    assert compress(store, name).file is None
    assert name in Catalog(store).awaiting_upload(bucket.place)
    receipt = upload_batch(store, name, bucket, now)
    assert (receipt.object, len(receipt.beside)) == (None, 1)
    assert name not in Catalog(store).awaiting_upload(bucket.place)
    restore(elsewhere, bucket, DATE, now)
    rejected = name.rejected_batch if structural else name.rejected_rows
    assert (elsewhere.quarantine / rejected).read_bytes() == (store.quarantine / rejected).read_bytes()
    assert elsewhere.manifest_of(name) is not None
