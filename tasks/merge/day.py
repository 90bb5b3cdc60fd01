"""How do the archived batches of a day become one file by symbol and time, equal row for row before it has its name?

A step that may be killed at any instruction and run again: the same batches give the same bytes, and a day whose
batches are in its file already is left as it is. The batches stay where they are.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.columns import SCHEMA, TEXTS, TIMESTAMP, field, in_ms
from tasks.errors import CorruptionError
from tasks.forms import WRITER_OPTIONS
from tasks.manifest import Day, Manifest, encode, read
from tasks.merge.portions import ORDER, Portion, as_frame, gather, portions
from tasks.store import Store, at_work_in, publish, sync, unfinished, write_whole

_SOFTWARE = f"stock-tracing {version('stock-tracing')}"
# Of a day of five million trades and a hundred symbols, one symbol is in two or three of these.
ROWS_PER_GROUP = 50_000
_BATCH = field("batch", pa.large_string(), "text", "recorder", "the batch that the trade was recorded in")
DAY_SCHEMA = SCHEMA.append(_BATCH)
_OPTIONS = WRITER_OPTIONS | {
    "use_dictionary": [*WRITER_OPTIONS["use_dictionary"], "batch"],
    "compression_level": WRITER_OPTIONS["compression_level"] | {"batch": 3},
    "column_encoding": {**WRITER_OPTIONS["column_encoding"], "ts_recv": "DELTA_BINARY_PACKED"},
}
# Two or more rows of one batch are told apart by these.
_ROW = ("place", "connection", "recv_seq")


def merge(store: Store, feed: str, date: str) -> Day | None:
    """Merge what is archived of that feed and day; None where nothing is.

    Raises CorruptionError, and leaves everything as it was, where a batch's file is not what its manifest says, or
    what was written differs from the batches in any value; TransientError where the disk is full or gone.
    """
    folder = store.day_folder(feed, date)
    record = folder / f"_{date}.day.json"
    with at_work_in(store.root), store.prepare().locked(f"day-{feed}-{date}"):
        paths = [path for path in store.manifests() if path.parent == store.archive_folder(feed, date)]
        manifests = tuple(read(path, Manifest) for path in paths)
        if not manifests:
            return None
        done = read(record, Day) if record.exists() else None
        if done is not None and done.batches == manifests and _is_there(folder, done):
            _clear(folder, done)
            return done
        folder.mkdir(parents=True, exist_ok=True)
        for made in (store.root, store.days, folder.parent):
            sync(made)
        day = _merged(store, folder, feed, date, manifests)
        write_whole(record, encode(day))
        _clear(folder, day)
        return day


def _is_there(folder: Path, day: Day) -> bool:
    return day.file is None or ((folder / day.file).exists() and (folder / day.file).stat().st_size == day.bytes)


def _clear(folder: Path, day: Day) -> None:
    """Remove what an earlier merge of fewer batches left: files of ours that the record does not name."""
    for path in folder.glob(f"{day.date}-*.parquet"):
        if path.name != day.file:
            path.unlink()


def _merged(store: Store, folder: Path, feed: str, date: str, manifests: tuple[Manifest, ...]) -> Day:
    archive, held = store.archive_folder(feed, date), [each for each in manifests if each.file is not None]
    files = [archive / str(each.file) for each in held]
    for file, manifest in zip(files, held, strict=True):
        if _sha256(file) != manifest.sha256:
            raise CorruptionError(f"{file}: its SHA-256 is not that of its manifest; restore it from a copy")
    rows = sum(each.rows for each in held)
    # Named after what it is made of, so that a file and its record are of one merge, whenever a kill comes.
    made_of = hashlib.sha256("\n".join(f"{each.batch} {each.sha256}" for each in manifests).encode()).hexdigest()
    target, digest, size = folder / f"{date}-{made_of[:12]}.parquet", "", 0
    if rows:
        facts = {"title": "trades of a day", "feed": feed, "date": date, "software": _SOFTWARE}
        try:
            wanted = portions(files)
            groups = _write(unfinished(target), facts, held, files, wanted)
            _compare(unfinished(target), held, files, list(zip(wanted, groups, strict=True)), rows)
        except BaseException:
            unfinished(target).unlink(missing_ok=True)
            raise
        digest, size = _sha256(unfinished(target)), unfinished(target).stat().st_size
        publish(target)
    return Day(
        feed=feed, date=date, file=target.name if rows else None, software=_SOFTWARE, rows=rows, bytes=size,
        sha256=digest, batches=manifests,
    )  # fmt: skip


def _write(
    target: Path, facts: dict[str, str], held: Sequence[Manifest], files: Sequence[Path], wanted: Sequence[Portion]
) -> list[int]:
    """Write the portions, and say in how many row groups each lies."""
    schema = in_ms(DAY_SCHEMA) if all(each.report.event_in_ms for each in held) else DAY_SCHEMA
    columns = {each.name: {key.decode(): text.decode() for key, text in each.metadata.items()} for each in schema}
    schema = schema.with_metadata({**facts, "layout": "day", "columns": json.dumps(columns)})
    by = pq.SortingColumn.from_ordering(schema, [("symbol", "ascending"), ("ts_event", "ascending")])
    with pq.ParquetWriter(target, schema, sorting_columns=by, **_OPTIONS) as writer:
        return [_write_portion(writer, schema, held, gather(files, portion)) for portion in wanted]


def _write_portion(writer: pq.ParquetWriter, schema: pa.Schema, held: Sequence[Manifest], rows: pl.DataFrame) -> int:
    rows = rows.sort(ORDER)
    for start in range(0, rows.height, ROWS_PER_GROUP):
        part = rows[start : start + ROWS_PER_GROUP]
        names = pl.Series("batch", [each.batch for each in held]).gather(part["place"])
        table = part.drop("place").with_columns(names).to_arrow()
        writer.write_table(table.select(schema.names).cast(schema), row_group_size=ROWS_PER_GROUP)
    return -(-rows.height // ROWS_PER_GROUP)


def _compare(
    written: Path, held: Sequence[Manifest], files: Sequence[Path], wanted: Sequence[tuple[Portion, int]], rows: int
) -> None:
    """Read the file back, checksums and all, portion by portion, beside the batches in their own order."""
    places = {each.batch: place for place, each in enumerate(held)}
    seen, first_group, last = 0, 0, pl.DataFrame()
    texts = [*TEXTS, "batch"]
    with pq.ParquetFile(written, page_checksum_verification=True, read_dictionary=texts) as file:
        for portion, groups in wanted:
            table = file.read_row_groups(list(range(first_group, first_group + groups)))
            event = table.schema.get_field_index("ts_event")
            table = table.set_column(event, "ts_event", table["ts_event"].cast(TIMESTAMP))
            theirs = as_frame(table).with_columns(
                pl.col("batch").cast(pl.String).replace_strict(places, return_dtype=pl.Int32).alias("place")
            )
            ours = gather(files, portion)
            if not theirs.drop("batch").sort(_ROW).equals(ours):
                raise CorruptionError(f"{written}: differs from its batches after row {seen:,}; check memory and disk")
            keys = (
                pl.concat([last, theirs.select("symbol", "ts_event")])
                if len(last)
                else theirs[:, ["symbol", "ts_event"]]
            )
            if not keys.select(pl.struct("symbol", "ts_event").is_sorted()).item():
                raise CorruptionError(f"{written}: is not in order after row {seen:,}; check memory and disk")
            seen, first_group, last = seen + theirs.height, first_group + groups, keys.tail(1)
        if (seen, first_group) != (rows, file.num_row_groups):
            raise CorruptionError(f"{written}: holds {seen:,} rows, its batches {rows:,}; run `tape verify`")


def batch_of(day_file: Path, batch: str) -> Iterator[pa.Table]:
    """The rows of one batch in their own order, as tables of `SCHEMA`: what its archived file held.

    Raises FileNotFoundError, and CorruptionError where the file is damaged.
    """
    try:
        with pq.ParquetFile(day_file, page_checksum_verification=True) as file:
            found = [
                table.filter(pa.compute.equal(table["batch"], batch))
                for table in (file.read_row_group(group) for group in range(file.num_row_groups))
            ]
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError) as error:
        raise CorruptionError(f"{day_file}: cannot be read ({error}); restore it from a copy") from error
    rows = pa.concat_tables(found).select(SCHEMA.names).cast(SCHEMA)
    if len(rows):
        yield rows.sort_by([("connection", "ascending"), ("recv_seq", "ascending")])


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError as error:
        raise CorruptionError(f"{path}: is missing beside its manifest; restore it from a copy") from error
