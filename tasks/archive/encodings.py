"""Writes and reads archived files in every encoding.

| name    | file      | what it is                                                                                    |
| ------- | --------- | --------------------------------------------------------------------------------------------- |
| A       | .parquet  | the default: one row for each trade, every value absolute, for any reader                     |
| B       | .parquet  | the smallest: differences instead of receive times and prices (see `deltas.py`)               |
| csv.zst | .csv.zst  | `session`, the journal's columns, and `resent`, zstd                                          |
| csv.gz  | .csv.gz   | the same, gzip                                                                                |

Parquet rows are sorted by (connection, recv_seq); texts and `connection` are dictionary-encoded, counters are
delta-encoded, and every page has a checksum. A manifest names its file's encoding in `layout`.
"""

import base64
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.archive import csv_files, deltas
from tasks.archive.columns import constant, from_file, to_file
from tasks.archive.schema import (
    CODED_SCHEMA,
    ELEMENTS,
    FILE_SCHEMA,
    MOST_ROWS_PER_GROUP,
    ROWS_PER_GROUP,
    SCHEMA,
    TEXTS,
    completed,
    dictionaries,
    explained,
    known_schemas,
    without_dictionaries,
)
from tasks.errors import CorruptionError
from tasks.records.manifest import FORMAT_VERSION

Layout = Literal["plain", "max"]
Format = Literal["parquet", "csv.zst", "csv.gz"]

WRITER_OPTIONS: dict[str, Any] = {
    "compression": "zstd",
    # At level 6 the other columns are hardly smaller.
    "compression_level": {
        name: 6 if name in {"ts_event", "price", "size", ELEMENTS} else 3
        for name in (*FILE_SCHEMA.names, ELEMENTS, "batch")
    },
    "use_dictionary": [
        "session",
        "connection",
        "symbol",
        "price",
        "price_text",
        "size",
        "size_text",
        ELEMENTS,
        "side",
    ],
    "column_encoding": {
        "ts_recv": "PLAIN",
        "recv_seq": "DELTA_BINARY_PACKED",
        "ts_event": "DELTA_BINARY_PACKED",
        "trade_id": "DELTA_BINARY_PACKED",
        "sequence": "DELTA_BINARY_PACKED",
    },
    "dictionary_pagesize_limit": 4 << 20,
    # A row group's column is one page: by pages of 1 MiB, the default, event times take 4 % more.
    "data_page_size": 64 << 20,
    "max_rows_per_page": 10_000_000,
    "write_page_checksum": True,
    "write_page_index": True,
}
STEPS_OPTIONS: dict[str, Any] = WRITER_OPTIONS | {
    "compression_level": 9,
    "use_dictionary": [*WRITER_OPTIONS["use_dictionary"], "price_step"],
    "column_encoding": {
        "recv_step": "BYTE_STREAM_SPLIT",
        "recv_seq": "DELTA_BINARY_PACKED",
        "ts_event": "DELTA_BINARY_PACKED",
        "trade_id": "DELTA_BINARY_PACKED",
        "sequence": "DELTA_BINARY_PACKED",
    },
}
_SCHEMAS = {
    "A": (FILE_SCHEMA, SCHEMA),
    "B": (deltas.STEPS_SCHEMA, without_dictionaries(deltas.DELTA_SCHEMA)),
}
# A whole row group would be far more in memory as texts than as numbers.
_READ_ROWS = 100_000
Write = Callable[[pa.Table], object]


@dataclass(frozen=True, slots=True)
class Encoding:
    """How an archived file is encoded; `layout` applies to Parquet only.

    A row group has at least `rows_per_group` rows, except the last one.
    """

    layout: Layout = "plain"
    format: Format = "parquet"
    rows_per_group: int = ROWS_PER_GROUP

    @property
    def name(self) -> str:
        """The encoding's name in a manifest."""
        return {"plain": "A", "max": "B"}[self.layout] if self.format == "parquet" else self.format


@contextmanager
def writing(target: Path, encoding: Encoding, facts: dict[str, str], session: str) -> Iterator[Write]:
    """Open a file in this encoding; yields a function that appends a table of `CODED_SCHEMA` as one row group.

    `facts` are stored as the file's metadata (CSV has none). `session` is the session's name, the same in every row.
    """
    if encoding.format != "parquet":
        with csv_files.writing(target, session) as write:
            yield write
        return
    steps = deltas.DeltaEncoder() if encoding.layout == "max" else None
    coded = FILE_SCHEMA if steps is None else deltas.STEPS_SCHEMA
    options = WRITER_OPTIONS if steps is None else STEPS_OPTIONS

    def write_group(table: pa.Table) -> None:
        columns = table if steps is None else steps.encode(table)
        group = to_file(columns, coded, constant(session, len(table)))
        writer.write_table(group, row_group_size=len(table))

    with parquet_writer(target, coded, file_schema(coded, encoding, facts), **options) as writer:
        yield write_group


def parquet_writer(target: Path, coded: pa.Schema, said: pa.Schema, **options: Any) -> pq.ParquetWriter:
    """Open a writer of tables of `coded`, for a file that describes itself with the schema and metadata of `said`."""
    writer = pq.ParquetWriter(target, coded, store_schema=False, **options)
    writer.add_key_value_metadata({**said.metadata, b"ARROW:schema": base64.b64encode(said.serialize())})
    return writer


def file_schema(coded: pa.Schema, encoding: Encoding, facts: dict[str, str]) -> pa.Schema:
    """Return the schema with its metadata: `facts` by name, and each column's unit, source, and meaning."""
    said = {**facts, "format_version": str(FORMAT_VERSION), "layout": encoding.name, "columns": explained(coded)}
    if encoding.layout == "max":
        said["restored_by"] = json.dumps(deltas.RESTORED_BY)
    return without_dictionaries(coded).with_metadata(said)


def read_groups(archived: Path, *, coded: bool = False, last_rows: int | None = None) -> Iterator[pa.Table]:
    """Yield the file's rows in order, as tables of `SCHEMA`; verifies every page's checksum.

    `coded` gives dictionaries instead of texts, for a third of the CPU. `last_rows` asks for at least that many of the
    last rows; earlier groups are skipped if the encoding allows it. Memory is bounded by a row group as it is in the
    file. Raises FileNotFoundError, and CorruptionError if the file is damaged or has other columns.
    """
    schema = CODED_SCHEMA if coded else SCHEMA
    if archived.suffix != ".parquet" and ".csv" in archived.suffixes:
        for table in csv_files.read(archived):
            yield _as(table, schema)
        return
    with _open(archived, coded=coded) as file:
        steps = deltas.DeltaEncoder() if _layout(file.metadata) == "B" else None
        first = 0 if last_rows is None or steps is not None else _group_before_last(file.metadata, last_rows)
        for group in range(first, file.num_row_groups):
            for piece in file.iter_batches(_READ_ROWS, row_groups=[group]):
                table = completed(from_file(pa.Table.from_batches([piece])))
                yield _as(table if steps is None else steps.decode(table), schema)


def _group_before_last(footer: pq.FileMetaData, rows: int) -> int:
    """Return the first of the trailing row groups that together have at least `rows` rows."""
    group = int(footer.num_row_groups)
    while group and rows > 0:
        group -= 1
        rows -= footer.row_group(group).num_rows
    return group


def _as(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Cast the table to the schema's types without copying dictionaries."""
    columns = []
    for each in schema:
        column = table[each.name]
        if pa.types.is_dictionary(each.type):
            column = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
        elif column.type != each.type:
            column = column.cast(each.type)
        columns.append(column)
    return pa.table(columns, names=schema.names) if schema is CODED_SCHEMA else pa.table(columns, schema=schema)


def count_rows(archived: Path) -> int:
    """Count the file's rows, from the Parquet footer or by reading CSV. Raises the same errors as `read_groups`."""
    if archived.suffix != ".parquet" and ".csv" in archived.suffixes:
        return csv_files.count_rows(archived)
    with _open(archived) as file:
        return int(file.metadata.num_rows)


def check_groups(file: pq.ParquetFile, path: Path) -> None:
    """Raise CorruptionError if one of the file's row groups is larger than any that we write."""
    largest = max((file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)), default=0)
    if largest > MOST_ROWS_PER_GROUP:
        raise CorruptionError(
            f"{path}: a row group has {largest:,} rows, more than we ever write; restore it from a copy"
        )


def _layout(footer: pq.FileMetaData) -> str:
    return str((footer.metadata or {}).get(b"layout", b"A").decode())


@contextmanager
def _open(parquet: Path, *, coded: bool = False) -> Iterator[pq.ParquetFile]:
    try:
        footer = pq.read_metadata(parquet)
        schemas = _SCHEMAS.get(_layout(footer), _SCHEMAS["A"])
        known = known_schemas(*schemas, footer.metadata, parquet)
        if not any(footer.schema.to_arrow_schema().equals(each) for each in known):
            raise CorruptionError(f"{parquet}: has columns of neither encoding A nor B; restore it from a copy")
        old_texts = [name for name in (*TEXTS, "price_text") if coded and name in known[0].names]
        texts = dictionaries(footer) if "session" in known[0].names else old_texts
        with pq.ParquetFile(parquet, metadata=footer, page_checksum_verification=True, read_dictionary=texts) as file:
            check_groups(file, parquet)
            yield file
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise CorruptionError(
            f"{parquet}: cannot be read ({' '.join(str(error).split())[:200]}); restore it from a copy"
        ) from error
