"""Where are the rows of an archived batch now: in its own file, or in the merged file of its day?

A day's file holds the rows of all its batches by symbol and event time, each with the name of its batch; its record
beside it holds their manifests. A batch's own file may be gone, under a `Removed` record; its manifest never is.
"""

import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks.batch import BatchName
from tasks.codes import Codes
from tasks.columns import SCHEMA, TEXTS, TIMESTAMP, field, in_ms
from tasks.errors import CorruptionError
from tasks.forms import Form, writing
from tasks.manifest import Day, Manifest, Removed, read
from tasks.sorting import in_order
from tasks.store import Store

DAY_SCHEMA = SCHEMA.append(
    field("batch", pa.large_string(), "text", "recorder", "the batch that the trade was recorded in")
)
# A batch's own order, batch after batch; `place` is the number of the batch.
ROW = ("place", "connection", "recv_seq")


def day_record(store: Store, feed: str, date: str) -> Path:
    """Where the record of that feed and day lies, or would lie."""
    return store.day_folder(feed, date) / f"_{date}.day.json"


def day_of_batch(store: Store, manifest_path: Path, manifest: Manifest) -> Path | None:
    """The merged file whose record lists this very manifest, where that file is here; its bytes are not looked at.

    Raises CorruptionError where the day's record cannot be read.
    """
    path = day_record(store, manifest.seal.feed, manifest.seal.date)
    if not path.exists() or manifest_path.parent != store.archive_folder(manifest.seal.feed, manifest.seal.date):
        return None
    state = path.stat()
    file, batches = _held(path, (state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns))
    if file is None or batches.get(manifest.batch) != manifest:
        return None
    return path.with_name(file) if path.with_name(file).exists() else None


@lru_cache(maxsize=4)  # A day has hundreds of batches, and each of them asks.
def _held(record: Path, _state: tuple[int, ...]) -> tuple[str | None, dict[str, Manifest]]:
    day = read(record, Day)
    return day.file, {each.batch: each for each in day.batches}


def removed(manifest_path: Path) -> Removed | None:
    """Why the file of that manifest was removed, None where nothing says so. Raises CorruptionError."""
    path = manifest_path.with_name(BatchName.parse(manifest_path.name).removed)
    return read(path, Removed) if path.exists() else None


def day_removed(record: Path) -> Removed | None:
    """Why the file of that day's record was removed, None where nothing says so. Raises CorruptionError."""
    path = record.with_name(record.name.replace(".day.json", ".removed.json"))
    return read(path, Removed) if path.exists() else None


def unmerged(day_file: Path, batches: Collection[str], folder: Path) -> dict[str, Path]:
    """The rows of these batches, each in its own order, as files in `folder` that `forms.read_groups` reads.

    One pass over the day's file, every page's checksum verified; memory is bounded, whatever the day's size. Raises
    FileNotFoundError, CorruptionError where the file is damaged or has no row of one of them, and OSError where
    `folder` cannot be written.
    """
    names, files = sorted(batches), dict[str, Path]()
    for place, rows in batch_by_batch(day_file, names, folder):
        files[names[place]] = target = folder / f"{names[place]}.parquet"
        with writing(target, Form(), {"title": "trades as received", "batch": names[place]}) as write:
            for table in rows:
                write(table)
    missing = [name for name in names if name not in files]
    if missing:
        raise CorruptionError(f"{day_file}: holds no row of {missing[0]}; run `tape verify`")
    return files


def batch_by_batch(day_file: Path, batches: Collection[str], folder: Path) -> Iterator[tuple[int, Iterator[pa.Table]]]:
    """The rows of these batches, in the batches' own order and that of each; what memory does not hold is in `folder`.

    Each is given as its place among `batches` and its rows as tables of `CODED_SCHEMA`, to be taken before the next
    batch is. Raises as `unmerged`, but for a batch without a row.
    """
    aside = folder / "rows"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    codes = Codes()
    ordered = in_order(_rows_of(day_file, list(batches), codes), ROW, aside)
    parts = (part for rows in ordered for part in rows.partition_by("place", maintain_order=True))
    part = next(parts, None)
    while part is not None:
        place, rest = int(part["place"][0]), list[pl.DataFrame]()
        yield place, (codes.table(rows) for rows in _of_one(place, part, parts, rest))
        part = rest[0] if rest else None
    shutil.rmtree(aside)


def _of_one(
    place: int, part: pl.DataFrame | None, parts: Iterator[pl.DataFrame], rest: list[pl.DataFrame]
) -> Iterator[pl.DataFrame]:
    """The parts of one batch; the first of the next one is left in `rest`."""
    while part is not None and part["place"][0] == place:
        yield part
        part = next(parts, None)
    rest += [] if part is None else [part]


def day_groups(day_file: Path) -> Iterator[pa.Table]:
    """The row groups of a day's file, checksums verified: `DAY_SCHEMA`, texts as dictionaries, event times in ns.

    Raises FileNotFoundError, and CorruptionError where the file is damaged or of another form.
    """
    with _open(day_file) as file:
        for group in range(file.num_row_groups):
            table = file.read_row_group(group)
            at = table.schema.get_field_index("ts_event")
            yield table.set_column(at, "ts_event", table["ts_event"].cast(TIMESTAMP))


def _rows_of(day_file: Path, batches: list[str], codes: Codes) -> Iterator[pl.DataFrame]:
    """The rows of these batches, each with its batch's place among them."""
    names = pa.array(batches, pa.large_string())
    for table in day_groups(day_file):
        batch = table["batch"].combine_chunks()
        places = pc.index_in(batch.dictionary.cast(pa.large_string()), names).take(batch.indices)
        rows = codes.of(table.drop_columns("batch"))
        yield rows.with_columns(pl.Series("place", places, pl.Int32)).drop_nulls("place")


@contextmanager
def _open(day_file: Path) -> Iterator[pq.ParquetFile]:
    texts = [*TEXTS, "batch"]
    try:
        with pq.ParquetFile(day_file, page_checksum_verification=True, read_dictionary=texts) as file:
            plain = pq.read_schema(day_file)
            if not (plain.equals(DAY_SCHEMA) or plain.equals(in_ms(DAY_SCHEMA))):
                raise CorruptionError(f"{day_file}: its columns are not those of a day; restore it from a copy")
            yield file
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError) as error:
        said = " ".join(str(error).split())[:200]
        raise CorruptionError(f"{day_file}: cannot be read ({said}); restore it from a copy") from error
