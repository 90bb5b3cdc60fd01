"""A closed day is uploaded, file first; a new merge replaces only days whose batches it contains."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from relay import Relay

from tasks.archive.catalog import Catalog
from tasks.errors import CorruptionError, TerminalError, TransientError
from tasks.merge.day import merge
from tasks.records.manifest import Day, Receipt, Removed, encode, read
from tasks.records.names import BatchName, receipt_record, removed_record
from tasks.storage.store import Store, write_whole
from tasks.upload.bucket import Bucket
from tasks.upload.probe import PROBE
from tasks.upload.uploads import upload_day

SESSION = "20261124T143000Z-9f3c01ab"
DATE = "2026-11-24"
FOLDER = f"trades-by-day/feed=finnhub/date={DATE}"


def now() -> int:
    return 1_795_700_000_000_000_000


def send(store: Store, bucket: Bucket, said: list[str] | None = None) -> Receipt | None:
    return upload_day(store, "finnhub", DATE, bucket, now, (said if said is not None else []).append)


def merged(store: Store, batches: int = 2) -> Day:
    """Merge the day from its first batches, with the others hidden."""
    for number in range(batches, 2):
        for path in list(store.archive.rglob(f"*{BatchName(SESSION, 0, number)}*")):
            path.rename(store.root / path.name)
    day = merge(store, "finnhub", DATE)
    assert day is not None
    return day


def merged_anew(store: Store, bucket: Bucket) -> tuple[Day, Day]:
    """A day of one batch in the bucket, merged again here with two."""
    first = merged(store, 1)
    send(store, bucket)
    for path in store.root.glob(f"*{SESSION}*"):
        path.rename(store.archive_folder("finnhub", DATE) / path.name)
    return first, merged(store)


def keys_of(day: Day) -> list[str]:
    stem = str(day.file).removesuffix(".parquet")
    return [f"{FOLDER}/{day.file}", f"{FOLDER}/_{stem}.day.json"]


def test_a_day_goes_up_with_its_record_last(
    whole: Store, bucket_by_relay: Bucket, relay: Relay, object_store: Any
) -> None:
    """A day gets its own keys, equal bytes, and a receipt, and a second run asks nothing."""
    day, record = merged(whole), whole.day_record("finnhub", DATE)
    assert Catalog(whole).days_awaiting_upload(bucket_by_relay.place) == [("finnhub", DATE)]
    receipt = send(whole, bucket_by_relay)
    assert receipt is not None
    put_paths = [path for method, path in relay.seen if method == "PUT" and PROBE not in path]
    put = [unquote(path.split("?")[0].split("/", 2)[2]) for path in put_paths]
    assert put == keys_of(day)
    assert [object_store.body(key) for key in put] == [
        record.with_name(str(day.file)).read_bytes(), record.read_bytes()
    ]  # fmt: skip
    assert (receipt.batch, receipt.object and receipt.object.sha256) == (str(day.file)[:-8], day.sha256)
    assert read(receipt_record(record), Receipt) == receipt
    assert Catalog(whole).days_awaiting_upload(bucket_by_relay.place) == []
    relay.seen.clear()
    assert send(whole, bucket_by_relay) == receipt
    assert relay.seen == []


def test_a_day_that_is_not_closed_or_has_no_rows_is_none(whole: Store, bucket: Bucket, object_store: Any) -> None:
    """A day that is not closed has nothing to send, which is no error."""
    assert send(whole, bucket) is None
    day = merged(whole)
    record = whole.day_record("finnhub", DATE)
    write_whole(record, encode(replace(day, file=None, rows=0)))
    assert send(whole, bucket) is None
    assert Catalog(whole).days_awaiting_upload(bucket.place) == []
    assert object_store.keys() == []


def test_a_day_merged_anew_takes_the_place_of_the_one_before(whole: Store, bucket: Bucket, object_store: Any) -> None:
    """New objects are written before the old ones are removed, and in the end each trade is there once."""
    first, second = merged_anew(whole, bucket)
    assert second.file != first.file
    assert Catalog(whole).days_awaiting_upload(bucket.place) == [("finnhub", DATE)]
    send(whole, bucket)
    assert object_store.keys() == sorted(keys_of(second))
    assert Catalog(whole).days_awaiting_upload(bucket.place) == []


def test_a_store_that_denies_removal_is_a_warning(
    whole: Store, bucket_by_relay: Bucket, relay: Relay, object_store: Any
) -> None:
    """If removal is denied, the superseded day stays beside the new one, and a warning explains it."""
    (first, second), said = merged_anew(whole, bucket_by_relay), list[str]()
    relay.answer = lambda method, path: (403, "AccessDenied") if method == "DELETE" else None
    receipt = send(whole, bucket_by_relay, said)
    assert receipt is not None
    assert receipt.batch == str(second.file)[:-8]
    assert ["counted twice" in each and "AccessDenied" in each for each in said] == [True]
    assert object_store.keys() == sorted([*keys_of(first), *keys_of(second)])


def test_nothing_is_removed_for_a_day_that_does_not_stand(
    whole: Store, bucket_by_relay: Bucket, relay: Relay, object_store: Any
) -> None:
    """If the new file differs when checked again, the old one stays."""
    first, second = merged_anew(whole, bucket_by_relay)
    client = object_store.server.client()

    def spoil(method: str, path: str) -> tuple[int, str] | None:
        if "list-type" in path:  # The last question before the removal.
            client.put_object(Bucket=object_store.bucket, Key=keys_of(second)[0], Body=b"another's")
        return None

    relay.answer = spoil
    send(whole, bucket_by_relay)
    assert set(keys_of(first)) <= {*object_store.keys()}


def test_the_day_of_another_machine_stays(whole: Store, bucket: Bucket, object_store: Any, tmp_path: Path) -> None:
    """Days of different batches with the same date both stay, in any order of upload."""
    other = Store(tmp_path / "other")
    shutil.copytree(whole.root, other.root)
    first = merged(whole, 1)
    for path in list(other.archive.rglob(f"*{BatchName(SESSION, 0, 0)}*")):
        path.unlink()
    second = merged(other)
    send(whole, bucket)
    send(other, bucket)
    assert object_store.keys() == sorted([*keys_of(first), *keys_of(second)])


def test_two_machines_with_the_same_day_leave_it_once(
    whole: Store, bucket: Bucket, object_store: Any, tmp_path: Path
) -> None:
    """Two concurrent uploads leave one file and one record, and both get a receipt."""
    day = merged(whole)
    other = Store(tmp_path / "other")
    shutil.copytree(whole.root, other.root)
    with ThreadPoolExecutor(2) as pool:
        receipts = list(pool.map(lambda each: send(each, bucket), [whole, other]))
    assert [receipt and receipt.object and receipt.object.sha256 for receipt in receipts] == [day.sha256] * 2
    assert object_store.keys() == sorted(keys_of(day))


def test_a_store_killed_between_file_and_record_is_transient(
    whole: Store, bucket_by_relay: Bucket, relay: Relay, object_store: Any
) -> None:
    """A record never precedes its file; after a failure the next try finishes, then removes the old day."""
    first, second = merged_anew(whole, bucket_by_relay)

    def kill(method: str, path: str, sent_bytes: int) -> None:
        if method == "PUT" and "day.json" in path:
            object_store.server.kill()

    relay.passing = kill
    try:
        with pytest.raises(TransientError):
            send(whole, bucket_by_relay)
        assert object_store.server.process is None, "the fault struck"
    finally:
        relay.passing = lambda method, path, sent_bytes: None
        object_store.server.kill()
        object_store.server.start()
    assert object_store.keys() == sorted([*keys_of(first), keys_of(second)[0]])
    assert Catalog(whole).days_awaiting_upload(bucket_by_relay.place) == [("finnhub", DATE)]
    send(whole, bucket_by_relay)
    assert object_store.keys() == sorted(keys_of(second))


def test_a_damaged_day_is_never_sent(whole: Store, odd_store: Any) -> None:
    """A day's file that does not match its record is found before any request."""
    day = merged(whole)
    file = whole.day_record("finnhub", DATE).with_name(str(day.file))
    body = bytearray(file.read_bytes())
    body[len(body) // 2] ^= 1
    file.write_bytes(body)
    with pytest.raises(CorruptionError, match=file.name):
        send(whole, odd_store.bucket)
    assert odd_store.requests == []


def test_a_removed_day_keeps_its_receipt(whole: Store, bucket: Bucket) -> None:
    """A removed day's receipt still counts; for another bucket there is nothing to send."""
    day, record = merged(whole), whole.day_record("finnhub", DATE)
    receipt = send(whole, bucket)
    said = Removed(batch=str(day.file)[:-8], file=str(day.file), removed_ns=1, why="age", held_in=("the bucket",))
    write_whole(removed_record(record), encode(said))
    record.with_name(str(day.file)).unlink()
    assert send(whole, bucket) == receipt
    assert Catalog(whole).days_awaiting_upload(bucket.place) == []
    another = replace(bucket, name="another")
    assert Catalog(whole).days_awaiting_upload(another.place) == []
    with pytest.raises(TerminalError, match="was removed here"):
        send(whole, another)
