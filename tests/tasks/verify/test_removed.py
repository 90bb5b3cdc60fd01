"""Batches whose files were removed are still checked, by their day's file or as held only by the bucket."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tasks.merge.day import merge
from tasks.records.manifest import Day, Manifest, ObjectReceipt, Place, Receipt, Removed, encode, read
from tasks.records.names import BatchName, removed_record
from tasks.retain.retain import retain
from tasks.retain.rule import Remote, Rule
from tasks.storage.store import Store, write_whole
from tasks.verify.laws import Verdict, verify

Recorded = Callable[..., Store]
DATE = "2026-11-24"
PLACE = Place(bucket="tape", endpoint=None, prefix="trades")
REMOTE = Remote("bucket tape at AWS", PLACE, lambda _: True, lambda _: None)


def removing(store: Store, rule: Rule, remote: Remote | None = None) -> None:
    """Apply the retention rule at a time when everything is old."""
    found = retain(store, rule, lambda: 2**62, lambda: 0, remote)
    assert (bool(found.removed), found.kept) == (True, ())


@pytest.fixture
def closed(recorded: Recorded) -> Store:
    """A session of three batches whose day is closed."""
    store = recorded()
    assert merge(store, "finnhub", DATE) is not None
    return store


@pytest.fixture
def merged(closed: Store) -> Store:
    """The same session without its batch files: only the day's file has their rows."""
    removing(closed, Rule(batches_for_ns=0))
    return closed


@pytest.fixture
def remote_alone(closed: Store) -> Store:
    """The same session, only in the bucket according to its receipts."""
    for path in [*closed.manifests(), closed.day_record("finnhub", DATE)]:
        write_receipt(path, "trades" if path.parent.parent.parent == closed.archive else "trades-by-day")
    removing(closed, Rule(local_for_ns=0), REMOTE)
    assert not list(closed.root.rglob("*.parquet"))
    return closed


def write_receipt(record: Path, prefix: str) -> None:
    """Write the receipt of a batch or day as an upload does."""
    kept: Manifest | Day = read(record, Day if prefix.endswith("day") else Manifest)
    stem, content = str(kept.file).split(".")[0], record.read_bytes()
    folder = f"{prefix}/{record.parent.parent.name}/{record.parent.name}"
    ending = record.name.split(".", 1)[1]

    def sent(name: str, size: int, sha256: str) -> ObjectReceipt:
        return ObjectReceipt(key=f"{folder}/{name}", bytes=size, sha256=sha256, etag="", version=None, checked="")

    receipt = Receipt(
        batch=stem, bucket="tape", endpoint=None, uploaded_ns=1, object=sent(str(kept.file), kept.bytes, kept.sha256),
        manifest=sent(f"_{stem}.{ending}", len(content), hashlib.sha256(content).hexdigest()),
    )  # fmt: skip
    write_whole(record.with_name(f"{record.name.split('.')[0]}.receipt.json"), encode(receipt))


def found(verdict: Verdict) -> set[tuple[str, str]]:
    return {(each.law, Path(each.file).name) for each in verdict.broken}


def batches(store: Store) -> list[BatchName]:
    return [BatchName.parse(path.name) for path in store.manifests()]


def test_every_law_holds_from_the_day_alone(merged: Store) -> None:
    """Journals, order, and counts are checked with the rows of the day's file."""
    verdict = verify(merged)
    assert (verdict.broken, verdict.batches, verdict.trades, verdict.in_bucket_alone) == ((), 3, 53, 0)


def test_a_batch_that_differs_in_its_day_is_found(merged: Store) -> None:
    """The journal rebuilt from the day's file must have the seal's SHA-256."""
    path = merged.manifests()[1]
    manifest = read(path, Manifest)
    forged = replace(manifest, seal=replace(manifest.seal, sha256="00"))
    record = merged.day_record("finnhub", DATE)
    day = read(record, Day)
    write_whole(path, encode(forged))
    assert ("present", str(manifest.file)) in found(verify(merged))
    write_whole(
        record, encode(replace(day, batches=tuple(forged if each == manifest else each for each in day.batches)))
    )
    assert found(verify(merged)) == {("journal", path.name)}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["removed.json", "day.json", "parquet"])
def test_any_flipped_bit_is_found(merged: Store, kind: str) -> None:
    """A bit flipped in a removal's record, the day's record, or the day's file is reported for that file."""
    path = next(path for path in sorted(merged.root.rglob(f"*.{kind}")))
    whole = path.read_bytes()
    for at in range(0, len(whole), max(1, len(whole) // 12)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 2]) + whole[at + 1 :])
        assert str(path) in {each.file for each in verify(merged).broken}, at
    path.write_bytes(whole)
    assert verify(merged).holds


def test_rows_that_are_nowhere_are_named(merged: Store) -> None:
    """Without the day's file, each removed batch and the day are reported as missing."""
    file = next(merged.root.rglob("*.parquet"))
    file.unlink()
    assert found(verify(merged)) == {("present", file.name), *(("present", name.archived) for name in batches(merged))}


def test_a_missing_file_without_a_record_stays_broken(merged: Store) -> None:
    """A file removed without a record is reported even if the day's file has its rows."""
    name = batches(merged)[0]
    (merged.archive_folder("finnhub", DATE) / name.removed).unlink()
    assert found(verify(merged)) == {("present", name.archived)}


def test_a_record_of_another_file_is_named(merged: Store) -> None:
    """A removal's record that names another file than the manifest beside it breaks a law."""
    path = merged.archive_folder("finnhub", DATE) / batches(merged)[0].removed
    write_whole(path, encode(replace(read(path, Removed), file="other.parquet")))
    assert found(verify(merged)) == {("removed", path.name)}


def test_what_the_bucket_alone_has_is_counted(remote_alone: Store) -> None:
    """With records and receipts no law is broken, and batches only in the bucket are counted."""
    verdict = verify(remote_alone)
    assert (verdict.broken, verdict.in_bucket_alone, verdict.batches, verdict.trades) == ((), 3, 3, 53)


def test_in_the_bucket_by_no_receipt_is_nowhere(remote_alone: Store) -> None:
    """A day's receipt covers a batch without its own; without both, batch and day are reported as missing."""
    name = batches(remote_alone)[0]
    (remote_alone.archive_folder("finnhub", DATE) / name.receipt).unlink()
    assert verify(remote_alone).holds
    record = remote_alone.day_record("finnhub", DATE)
    file = str(read(record, Day).file)
    record.with_name(f"_{DATE}.receipt.json").unlink()
    assert found(verify(remote_alone)) == {("present", name.archived), ("present", file)}


def test_a_day_removed_without_a_record_is_missing(remote_alone: Store) -> None:
    """A receipt alone does not excuse a missing day's file."""
    record = remote_alone.day_record("finnhub", DATE)
    removed_record(record).unlink()
    assert found(verify(remote_alone)) == {("present", str(read(record, Day).file))}


def test_receipts_of_days_are_judged(remote_alone: Store) -> None:
    """A day's receipt must match its file and record; one of an earlier merge is accepted until the next upload."""
    record = remote_alone.day_record("finnhub", DATE)
    path = record.with_name(f"_{DATE}.receipt.json")
    good = read(path, Receipt)
    assert good.object is not None
    removed_record(record).unlink()
    merge_file = record.with_name(str(read(record, Day).file))
    whole = path.read_bytes()
    for bad in (
        replace(good, object=replace(good.object, bytes=1)),
        replace(good, manifest=replace(good.manifest, sha256="00")),
        replace(good, manifest=replace(good.manifest, key="elsewhere")),
    ):
        write_whole(path, encode(bad))
        assert found(verify(remote_alone)) == {("receipt", path.name), ("present", merge_file.name)}
    path.write_bytes(whole[:50] + bytes([whole[50] ^ 1]) + whole[51:])
    assert ("readable", path.name) in found(verify(remote_alone))
    write_whole(path, encode(replace(good, batch="2026-11-24-000000000000")))
    assert ("receipt", path.name) not in found(verify(remote_alone))
