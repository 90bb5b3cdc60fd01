"""Which laws do the merged files of days break?"""

from collections.abc import Iterator
from pathlib import Path

from tasks.batch import BatchName
from tasks.errors import CorruptionError
from tasks.manifest import Day, Manifest, read
from tasks.store import Store
from tasks.verify.broken import Broken, broken, sha256_of


def day_laws(store: Store) -> Iterator[Broken]:
    """The broken laws of every day that was closed.

    A day's file is what its record says, and what the record says of a batch is what the batch's own manifest says:
    that its rows are the batches' was proven, value by value, before it had its name.
    """
    named = set()
    for path in sorted(store.days.glob("feed=*/date=*/_*.day.json")):
        try:
            day = read(path, Day)
        except (CorruptionError, OSError) as error:
            yield broken("readable", path, str(error))
            continue
        if day.file is not None:
            named.add(path.with_name(day.file))
        yield from _laws_of(store, path, day)
    for file in store.days.glob("feed=*/date=*/*.parquet"):
        if file not in named:
            yield broken("day", file, "is named by no record beside it; run `tape archive`, or remove it")


def _laws_of(store: Store, path: Path, day: Day) -> Iterator[Broken]:
    if path.parent != store.day_folder(day.feed, day.date) or path.name != f"_{day.date}.day.json":
        yield broken("place", path, f"belongs to {store.day_folder(day.feed, day.date)} by its own word")
    if day.file is not None:
        file = path.with_name(day.file)
        actual = sha256_of(file)
        if actual is None:
            yield broken("present", file, f"is missing, though {path.name} tells of it; close the day again")
        elif actual != day.sha256 or file.stat().st_size != day.bytes:
            yield broken(
                "sha256", file, f"is {actual}, {path.name} says {day.sha256}; remove it and close the day again"
            )
    if day.rows != sum(batch.rows for batch in day.batches):
        yield broken("counts", path, f"{day.rows:,} rows, its batches have {sum(each.rows for each in day.batches):,}")
    for batch in day.batches:
        yield from _batch(store, path, batch)


def _batch(store: Store, path: Path, batch: Manifest) -> Iterator[Broken]:
    place = store.manifest_of(BatchName.parse(batch.batch))
    if place is None:
        yield broken("day", path, f"holds {batch.batch}, which is not in the archive; restore it from a copy")
        return
    try:
        if read(place, Manifest) != batch:
            yield broken("day", path, f"was made of another {batch.batch} than {place}; close the day again")
    except (CorruptionError, FileNotFoundError):
        return  # Said of the batch itself.
