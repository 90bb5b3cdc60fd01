"""Checks the conservation laws of the merged files of days."""

from collections.abc import Iterator
from pathlib import Path

from tasks.archive.side_records import receipt_of, removed
from tasks.errors import CorruptionError
from tasks.records.manifest import Day, Manifest, Receipt, read
from tasks.records.names import DAY_FOLDERS, BatchName, Keys, day_record, parquet, receipt_record, removed_record
from tasks.storage.store import Store
from tasks.verify.broken import Broken, broken, sha256_of


def day_laws(store: Store) -> Iterator[Broken]:
    """Yield the broken laws of every closed day.

    A day's file must match its record, and the record's manifests must match the batches' own. That the rows are equal
    was proven, value by value, before the file got its name.
    """
    named = set()
    for path in sorted(store.days.glob(f"{DAY_FOLDERS}/{day_record('*')}")):
        try:
            day = read(path, Day)
        except (CorruptionError, OSError) as error:
            yield broken("readable", path, str(error))
            continue
        if day.file is not None:
            named.add(path.with_name(day.file))
        yield from _laws_of(store, path, day)
    for file in store.days.glob(f"{DAY_FOLDERS}/{parquet('*')}"):
        if file not in named:
            yield broken("day", file, "is named by no record beside it; run `tape archive`, or remove it")


def _laws_of(store: Store, path: Path, day: Day) -> Iterator[Broken]:
    if path != store.day_record(day.feed, day.date):
        yield broken("place", path, f"belongs to {store.day_folder(day.feed, day.date)} by its own word")
    receipt: Receipt | None = None
    receipt_path = receipt_record(path)
    try:
        receipt = receipt_of(path)
    except (CorruptionError, OSError) as error:
        yield broken("readable", receipt_path, str(error))
    if day.file is not None:
        yield from _file(path, day, path.with_name(day.file), receipt)
        # A receipt with another name is of an earlier merge, until the day is uploaded again.
        if receipt is not None and receipt.batch == Path(day.file).stem:
            yield from _receipt(path, day, receipt_path, receipt)
    if day.rows != sum(batch.rows for batch in day.batches):
        yield broken("counts", path, f"{day.rows:,} rows, its batches have {sum(each.rows for each in day.batches):,}")
    for batch in day.batches:
        yield from _batch(store, path, batch)


def _file(path: Path, day: Day, file: Path, receipt: Receipt | None) -> Iterator[Broken]:
    gone = None
    try:
        gone = removed(path)
    except (CorruptionError, OSError) as error:
        yield broken("readable", removed_record(path), str(error))
    actual = sha256_of(file)
    if actual is None:
        in_bucket = receipt is not None and receipt.object is not None and receipt.object.sha256 == day.sha256
        if gone is None or gone.file != day.file or not in_bucket:
            yield broken("present", file, f"is missing, though {path.name} lists it; restore it, or close the day")
    elif actual != day.sha256 or file.stat().st_size != day.bytes:
        yield broken("sha256", file, f"is {actual}, {path.name} says {day.sha256}; restore it, or close the day again")


def _receipt(path: Path, day: Day, receipt_path: Path, receipt: Receipt) -> Iterator[Broken]:
    """Compare a day's receipt with its file and record."""
    keys = [Keys("").of_day(day.feed, day.date, each) for each in (str(day.file), day_record(receipt.batch))]
    wanted = [
        (receipt.object, day.sha256, day.bytes, keys[0]),
        (receipt.manifest, sha256_of(path), path.stat().st_size, keys[1]),
    ]
    for said, sha256, size, key in wanted:
        if said is None or (said.sha256, said.bytes) != (sha256, size):
            yield broken("receipt", receipt_path, f"acknowledges other bytes than {path.name} lists; upload it again")
        elif not said.key.endswith(key):
            yield broken("receipt", receipt_path, f"acknowledges the key {said.key}")


def _batch(store: Store, path: Path, batch: Manifest) -> Iterator[Broken]:
    place = store.manifest_of(BatchName.parse(batch.batch))
    if place is None:
        yield broken("day", path, f"holds {batch.batch}, which is not in the archive; restore it from a copy")
        return
    try:
        if read(place, Manifest) != batch:
            yield broken("day", path, f"was made of another {batch.batch} than {place}; close the day again")
    except (CorruptionError, FileNotFoundError):
        return  # Reported with the batch itself.
