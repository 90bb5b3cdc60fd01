"""Where are the rows of an archived batch now: in its own file, or in the merged file of its day?

A day's file holds the rows of all its batches by symbol and event time, each with the name of its batch; its record
beside it holds their manifests. A batch's own file may be gone, under a `Removed` record; its manifest never is.
"""

import shutil
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from itertools import groupby
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks.archive.dictionary_encoder import DictionaryEncoder, text_array
from tasks.archive.encodings import Encoding, check_groups, writing
from tasks.archive.schema import SCHEMA, TEXTS, TIMESTAMP, field, in_ms
from tasks.archive.sorting import external_sort
from tasks.errors import CorruptionError, RecorderError, TerminalError
from tasks.records.manifest import Day, Manifest, Removed, read
from tasks.storage.store import Store

DAY_SCHEMA = SCHEMA.append(
    field("batch", pa.large_string(), "text", "recorder", "the batch that the trade was recorded in")
)
# A batch's own order, batch after batch; `place` is the number of the batch.
ROW = ("place", "connection", "recv_seq")


def day_record(store: Store, feed: str, date: str) -> Path:
    """Where the record of that feed and day lies, or would lie."""
    return store.day_folder(feed, date) / f"_{date}.day.json"


def is_closed(store: Store, feed: str, date: str) -> bool:
    """Whether all that is archived of that feed and day is in its day's file, by the batches' names.

    A file that was removed because the bucket holds it counts. Raises CorruptionError where the record cannot be read.
    """
    record = day_record(store, feed, date)
    if not record.exists():
        return False
    day = read(record, Day)
    named = {path.name for path in store.archive_folder(feed, date).glob("_*.manifest.json")}
    if not named <= {f"_{each.batch}.manifest.json" for each in day.batches}:
        return False
    return day.file is None or record.with_name(day.file).exists() or removed(record) is not None


def day_of_batch(store: Store, manifest_path: Path, manifest: Manifest) -> Path | None:
    """The merged file whose record lists this very manifest, where that file is here; its bytes are not looked at.

    Raises CorruptionError where the day's record cannot be read.
    """
    path = day_record(store, manifest.seal.feed, manifest.seal.date)
    if not path.exists() or manifest_path.parent != store.archive_folder(manifest.seal.feed, manifest.seal.date):
        return None
    file, batches = held_by(path)
    if file is None or batches.get(manifest.batch) != manifest:
        return None
    return path.with_name(file) if path.with_name(file).exists() else None


def held_by(record: Path) -> tuple[str | None, dict[str, Manifest]]:
    """The file that a day's record names, and by their names the manifests of the batches in it.

    Raises FileNotFoundError, and CorruptionError where the record cannot be read.
    """
    state = record.stat()
    return _held(record, (state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns))


@lru_cache(maxsize=4)  # A day has hundreds of batches, and each of them asks.
def _held(record: Path, _state: tuple[int, ...]) -> tuple[str | None, dict[str, Manifest]]:
    day = read(record, Day)
    return day.file, {each.batch: each for each in day.batches}


def removed(record: Path) -> Removed | None:
    """Why the file of that manifest, or of that day's record, was removed, None where nothing says so.

    Raises CorruptionError.
    """
    path = removed_record(record)
    return read(path, Removed) if path.exists() else None


def day_receipt(record: Path) -> Path:
    """Where the receipt of that day's record lies, or would lie."""
    return record.with_name(record.name.replace(".day.json", ".receipt.json"))


def nowhere_here(manifest_path: Path, manifest: Manifest) -> RecorderError:
    """The error of rows that are asked for and lie neither in the batch's own file nor in its day's."""
    why, file = removed(manifest_path), manifest_path.with_name(str(manifest.file))
    if why is not None:
        return TerminalError(
            f"{file}: was removed here ({why.why}) and is in {', '.join(why.held_in)}; "
            f"`tape restore --date {manifest.seal.date}` brings it back"
        )
    return CorruptionError(
        f"{file}: is missing beside its manifest; `tape restore --date {manifest.seal.date}`, or restore it from a copy"
    )


def removed_record(record: Path) -> Path:
    """Where it is said that the file of that manifest, or of that day's record, was removed."""
    return record.with_name(f"{record.name.split('.', 1)[0]}.removed.json")


def unmerged(day_file: Path, batches: Collection[str], folder: Path) -> dict[str, Path]:
    """The rows of these batches, each in its own order, as files in `folder` that `forms.read_groups` reads.

    One pass over the day's file, every page's checksum verified; memory is bounded, whatever the day's size. Raises
    FileNotFoundError, CorruptionError where the file is damaged or has no row of one of them, and OSError where
    `folder` cannot be written.
    """
    names, codes = sorted(batches), DictionaryEncoder()
    files = {name: folder / f"{name}.parquet" for name in names}
    ordered = rows_in_order(day_file, names, folder / "rows", codes)
    parts = (part for rows in ordered for part in rows.partition_by("place", maintain_order=True))
    for place, of_batch in groupby(parts, key=lambda part: int(part["place"][0])):
        facts = {"title": "trades as received", "batch": names[place]}
        with writing(files[names[place]], Encoding(), facts) as write:
            for part in of_batch:
                write(codes.table(part))
    missing = [name for name, file in files.items() if not file.exists()]
    if missing:
        raise CorruptionError(f"{day_file}: holds no row of {missing[0]}; run `tape verify`")
    return files


def rows_in_order(
    day_file: Path, batches: Sequence[str], folder: Path, codes: DictionaryEncoder
) -> Iterator[pl.DataFrame]:
    """The rows of these batches as numbers: batch after batch, whose number is `place`, each in its own order.

    What memory does not hold lies in `folder` meanwhile, which is emptied before and removed after. Raises as
    `unmerged`, but for a batch without a row.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    yield from external_sort(_rows_of(day_file, batches, codes), ROW, folder)
    shutil.rmtree(folder)


def day_groups(day_file: Path) -> Iterator[pa.Table]:
    """The row groups of a day's file, checksums verified: `DAY_SCHEMA`, texts as dictionaries, event times in ns.

    Raises FileNotFoundError, and CorruptionError where the file is damaged or has other columns.
    """
    with _open(day_file) as file:
        for group in range(file.num_row_groups):
            table = file.read_row_group(group)
            at = table.schema.get_field_index("ts_event")
            yield table.set_column(at, "ts_event", table["ts_event"].cast(TIMESTAMP))


def _rows_of(day_file: Path, batches: Sequence[str], codes: DictionaryEncoder) -> Iterator[pl.DataFrame]:
    """The rows of these batches, each with its batch's place among them."""
    names = text_array(batches)
    for table in day_groups(day_file):
        batch = table["batch"].combine_chunks()
        places = pc.index_in(batch.dictionary.cast(pa.large_string()), names).take(batch.indices)
        rows = codes.of(table.drop_columns("batch"))
        yield rows.with_columns(pl.Series("place", places, pl.Int32)).drop_nulls("place")


@contextmanager
def _open(day_file: Path) -> Iterator[pq.ParquetFile]:
    try:
        columns = pq.read_schema(day_file)
        if not (columns.equals(DAY_SCHEMA) or columns.equals(in_ms(DAY_SCHEMA))):
            raise CorruptionError(f"{day_file}: its columns are not those of a day; restore it from a copy")
        texts = [*TEXTS, "batch"]
        with pq.ParquetFile(day_file, page_checksum_verification=True, read_dictionary=texts) as file:
            check_groups(file, day_file)
            yield file
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError) as error:
        said = " ".join(str(error).split())[:200]
        raise CorruptionError(f"{day_file}: cannot be read ({said}); restore it from a copy") from error
