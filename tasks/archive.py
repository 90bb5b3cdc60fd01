"""What does an archived file hold, and how does the sealed journal come back from it, byte for byte?

An archived batch is Parquet: the journal's columns in the journal's order, one row for each valid trade, every value
absolute, so that any reader of Parquet can use it with no code of ours. Layout A: zstd, rows by (connection,
recv_seq), texts and connection as dictionaries, counters as deltas, a checksum on every page.
"""

import base64
import hashlib
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from tasks import quarantine
from tasks.errors import CorruptionError
from tasks.trade import JOURNAL_COLUMNS, JOURNAL_HEADER

LAYOUT = "A"
ROWS_PER_GROUP = 1_000_000
TIMESTAMP = pa.timestamp("ns", "UTC")
TEXTS = ("symbol", "price", "size", "conditions")
_NS = ("ts_recv", "ts_event")
_WINDOW_ROWS = 500_000


def _field(name: str, kind: pa.DataType, unit: str, source: str, description: str) -> pa.Field:
    return pa.field(name, kind, nullable=False, metadata={"unit": unit, "source": source, "description": description})


SCHEMA = pa.schema(
    [
        _field("connection", pa.int32(), "1", "recorder", "number of the connection within the session, from 1"),
        _field("recv_seq", pa.int64(), "1", "recorder", "trades in order of receipt, from 1 within a connection"),
        _field("ts_recv", TIMESTAMP, "ns since 1970 UTC", "recorder", "when the bytes left the socket"),
        _field("ts_event", TIMESTAMP, "ns since 1970 UTC", "vendor", "the exchange's time"),
        _field("symbol", pa.large_string(), "text", "vendor", "the vendor's name of the instrument"),
        _field("price", pa.large_string(), "quote currency per unit, decimal text", "vendor", "digits as received"),
        _field("size", pa.large_string(), "units, decimal text", "vendor", "digits as received; 0 is no trade"),
        _field("conditions", pa.large_string(), "text", "vendor", "condition codes, joined by ;"),
        _field("duplicate", pa.bool_(), "1", "recorder", "equals an earlier row of the batch in all vendor columns"),
    ]
)

# The same rows with each text as a number into the texts that occur: how they lie in `validated/`, in a fifth of the
# memory. Parquet holds texts so anyway; written from either, an archived file has the same bytes.
_CODED = pa.dictionary(pa.int32(), pa.large_string())
CODED_SCHEMA = pa.schema([field.with_type(_CODED) if field.name in TEXTS else field for field in SCHEMA])

WRITER_OPTIONS = {
    "compression": "zstd",
    "compression_level": 3,
    "use_dictionary": ["connection", "symbol", "price", "size", "conditions"],
    "column_encoding": {
        "ts_recv": "PLAIN",
        "recv_seq": "DELTA_BINARY_PACKED",
        "ts_event": "DELTA_BINARY_PACKED",
    },
    "dictionary_pagesize_limit": 4 << 20,
    "max_rows_per_page": 10_000_000,
    "write_page_checksum": True,
}


def file_schema(**facts: str) -> pa.Schema:
    """The schema with what the file says of itself: `facts` by name, and each column's unit, source and meaning."""
    columns = {field.name: {key.decode(): value.decode() for key, value in field.metadata.items()} for field in SCHEMA}
    return SCHEMA.with_metadata({**facts, "layout": LAYOUT, "columns": json.dumps(columns)})


@contextmanager
def writing(target: Path, schema: pa.Schema) -> Iterator[pq.ParquetWriter]:
    """A writer of tables of `CODED_SCHEMA` into a file that says it is of `schema` (`file_schema`): plain texts."""
    facts = {**schema.metadata, b"ARROW:schema": base64.b64encode(schema.serialize())}
    with pq.ParquetWriter(target, CODED_SCHEMA, store_schema=False, **WRITER_OPTIONS) as writer:
        writer.add_key_value_metadata(facts)
        yield writer


def read_groups(parquet: Path, *, coded: bool = False) -> Iterator[pa.Table]:
    """The file's row groups in order, as tables of `SCHEMA`'s columns and types, every page's checksum verified.

    `coded`: with dictionaries in the place of texts, for a third of the CPU. Raises FileNotFoundError, and
    CorruptionError where the file is damaged or of another layout.
    """
    with _open(parquet, TEXTS if coded else ()) as file:
        for group in range(file.num_row_groups):
            yield file.read_row_group(group)


def count_rows(parquet: Path) -> int:
    """How many rows the file says it has. Raises as `read_groups`."""
    with _open(parquet) as file:
        return int(file.metadata.num_rows)


@contextmanager
def _open(parquet: Path, coded: tuple[str, ...] = ()) -> Iterator[pq.ParquetFile]:
    try:
        with pq.ParquetFile(parquet, page_checksum_verification=True, read_dictionary=coded) as file:
            if not _plain(file.schema_arrow).equals(SCHEMA):
                raise CorruptionError(
                    f"{parquet}: its columns are not those of layout {LAYOUT}; restore it from a copy"
                )
            yield file
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError) as error:
        raise CorruptionError(f"{parquet}: cannot be read ({_line(error)}); restore it from a copy") from error


def _plain(schema: pa.Schema) -> pa.Schema:
    """The schema with texts in the place of dictionaries."""
    return pa.schema([f.with_type(pa.large_string()) if pa.types.is_dictionary(f.type) else f for f in schema])


def journal_bytes(parquet: Path | None, quarantined: Path | None) -> Iterator[bytes]:
    """The sealed journal, header first, in pieces: archived rows and quarantined lines, each in its old place.

    `parquet` is None where no row was valid, `quarantined` (`quarantine/<batch>.rows.csv`) where all were. Memory
    is bounded by a row group. Joined, the pieces have the SHA-256 of the batch's seal. Raises FileNotFoundError,
    and CorruptionError where a file cannot be read or the two do not fit each other.
    """
    yield JOURNAL_HEADER
    places, ends_whole = _rejected_places(quarantined)
    total = len(places) + (count_rows(parquet) if parquet else 0)
    if len(places) and (places[0] < 1 or places[-1] > total or (np.diff(places) < 1).any()):
        raise CorruptionError(f"{quarantined}: its line numbers do not fit the archived rows; restore both from a copy")
    valid, rejected = _Cursor(_archived_lines(parquet)), _Cursor(_rejected_lines(quarantined))
    for start in range(1, total + 1, _WINDOW_ROWS):
        stop = min(start + _WINDOW_ROWS, total + 1)
        here = places[slice(*np.searchsorted(places, [start, stop]))] - start
        piece = _merge(valid.take(stop - start - len(here)), rejected.take(len(here)), here)
        yield piece if stop <= total or ends_whole else piece[:-1]


def journal_sha256(parquet: Path | None, quarantined: Path | None) -> str:
    """The SHA-256 (hex) of the journal that these two files hold; equal to `Seal.sha256`. Raises as `journal_bytes`."""
    digest = hashlib.sha256()
    for piece in journal_bytes(parquet, quarantined):
        digest.update(piece)
    return digest.hexdigest()


class _Cursor:
    """Takes an exact number of lines at a time from pieces of any length."""

    def __init__(self, pieces: Iterator[pa.Array]) -> None:
        self._pieces = pieces
        self._rest = quarantine.split_lines(b"")

    def take(self, rows: int) -> pa.Array:
        parts = [self._rest[:0]]
        while rows > 0:
            self._rest = self._rest if len(self._rest) else next(self._pieces)
            parts.append(self._rest[:rows])
            self._rest = self._rest[rows:]
            rows -= len(parts[-1])
        return pa.concat_arrays(parts)


def _archived_lines(parquet: Path | None) -> Iterator[pa.Array]:
    for table in read_groups(parquet) if parquet else ():
        frame = pl.from_arrow(table.select(JOURNAL_COLUMNS))
        assert isinstance(frame, pl.DataFrame)  # noqa: S101 - a table always gives a frame
        text = io.BytesIO()
        frame.with_columns(pl.col(_NS).to_physical()).write_csv(text, include_header=False, quote_style="never")
        yield quarantine.split_lines(text.getvalue())


def _rejected_lines(quarantined: Path | None) -> Iterator[pa.Array]:
    for frame in _rejected(quarantined):
        text = "\n".join([*frame["text"], ""]).encode()
        yield quarantine.split_lines(quarantine.unescape(text))


def _rejected_places(quarantined: Path | None) -> tuple[np.ndarray, bool]:
    """The line numbers of the rejected lines, and whether the journal ends in a line feed."""
    parts, reasons = [np.empty(0, np.int64)], ""
    for frame in _rejected(quarantined):
        parts.append(frame["line"].to_numpy())
        reasons = frame["reasons"][-1]
    return np.concatenate(parts), quarantine.LINE_END not in reasons.split(";")


def _rejected(quarantined: Path | None) -> Iterator[pl.DataFrame]:
    try:
        yield from quarantine.read(quarantined) if quarantined else ()
    except pa.ArrowException as error:
        raise CorruptionError(f"{quarantined}: cannot be read ({_line(error)}); restore it from a copy") from error


def _merge(valid: pa.Array, rejected: pa.Array, places: np.ndarray) -> bytes:
    """The lines of both as one piece, the rejected ones at `places` (from 0)."""
    if not len(rejected):
        return quarantine.join_lines(valid)
    is_valid = np.ones(len(valid) + len(rejected), bool)
    is_valid[places] = False
    order = np.where(is_valid, np.cumsum(is_valid) - 1, len(valid) + np.cumsum(~is_valid) - 1)
    return quarantine.join_lines(pa.concat_arrays([valid, rejected]).take(pa.array(order)))


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
