"""Defines the columns of an archived trade: order, type, unit, and source.

`SCHEMA` is a row as the recorder handles it, with digits as text; `FILE_SCHEMA` is a row of a file. `columns.py`
converts between the two. Files from before format 2 have the columns of `SCHEMA`, or those of `before_resent`.
"""

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.records.manifest import FORMAT_VERSION, check_version
from tasks.records.trade import EXTRA_COLUMNS

TIMESTAMP = pa.timestamp("ns", "UTC")
TEXTS = ("symbol", "price", "size", "conditions")
NUMBERS = ("price", "size")
ROWS_PER_GROUP = 1_000_000
# We never write larger groups. A few bytes can claim millions of rows, which would all be read at once.
MOST_ROWS_PER_GROUP = 4 * ROWS_PER_GROUP


def field(name: str, kind: pa.DataType, unit: str, source: str, description: str, **options: Any) -> pa.Field:
    """Return a column with its documentation as metadata; not nullable unless `nullable=True`."""
    facts = {"unit": unit, "source": source, "description": description}
    return pa.field(name, kind, **{"nullable": False, **options}, metadata=facts)


SCHEMA = pa.schema(
    [
        field("connection", pa.int32(), "1", "recorder", "number of the connection within the session, from 1"),
        field("recv_seq", pa.int64(), "1", "recorder", "trades in order of receipt, from 1 within a connection"),
        field("ts_recv", TIMESTAMP, "ns since 1970 UTC", "recorder", "when the bytes left the socket"),
        field("ts_event", TIMESTAMP, "ns since 1970 UTC", "vendor", "the exchange's time"),
        field("symbol", pa.large_string(), "text", "vendor", "the vendor's name of the instrument"),
        field("price", pa.large_string(), "quote currency per unit, decimal text", "vendor", "digits as received"),
        field("size", pa.large_string(), "units, decimal text", "vendor", "digits as received; 0 is no trade"),
        field("conditions", pa.large_string(), "text", "vendor", "condition codes, joined by ;"),
        field("trade_id", pa.int64(), "1", "vendor", "the venue's number of the trade", nullable=True),
        field("sequence", pa.int64(), "1", "vendor", "the venue's number of the message", nullable=True),
        field("side", pa.large_string(), "text", "vendor", "the aggressor: buy or sell", nullable=True),
        field("resent", pa.bool_(), "1", "recorder", "the order of rows shows that the feed delivered it before"),
    ]
)

# The same rows with dictionary-encoded texts, as in `validated/`: a fifth of the memory. Parquet encodes texts as
# dictionaries anyway, so an archived file has the same bytes when written from either schema.
CODED = pa.dictionary(pa.int32(), pa.large_string())
CODED_SCHEMA = pa.schema([each.with_type(CODED) if each.name in TEXTS else each for each in SCHEMA])

_LIST = pa.list_(pa.field("element", CODED, nullable=False))
_UNUSUAL = "digits as received, where they are not the number's canonical form"
_IN_FILES = {
    "price": [
        field("price", pa.float64(), "quote currency per unit", "vendor", "the price"),
        field("price_text", CODED, "decimal text", "vendor", _UNUSUAL, nullable=True),
    ],
    "size": [
        field("size", pa.float64(), "units", "vendor", "the quantity; 0 is no trade"),
        field("size_text", CODED, "decimal text", "vendor", _UNUSUAL, nullable=True),
    ],
    "conditions": [field("conditions", _LIST, "text", "vendor", "condition codes")],
}
_SESSION = field("session", CODED, "text", "recorder", "name of the session; with connection and recv_seq a unique key")
# Dictionary-encoded like `CODED_SCHEMA`; `without_dictionaries` gives what a reader sees.
FILE_SCHEMA = pa.schema([_SESSION, *(each for column in CODED_SCHEMA for each in _IN_FILES.get(column.name, [column]))])
ELEMENTS = "conditions.list.element"
_DICTIONARIES = ("session", "symbol", "price_text", "size_text", ELEMENTS)

# Before format 2, a file whose event times were all whole milliseconds had them in ms.
_MS = pa.timestamp("ms", "UTC")
_MS_FIELD = field("ts_event", _MS, "ms since 1970 UTC", "vendor", "the exchange's time")


def without_missing(schema: pa.Schema, extra: Collection[str]) -> pa.Schema:
    """Return the schema without the `EXTRA_COLUMNS` that a feed lacks; all-null columns would take space."""
    missing = {*EXTRA_COLUMNS}.difference(extra)
    return pa.schema([each for each in schema if each.name not in missing])


def before_resent(schema: pa.Schema) -> pa.Schema:
    """Return the old schema: without `EXTRA_COLUMNS`, and with `duplicate` instead of `resent`.

    `duplicate` marked every row that equals an earlier one.
    """
    fields = without_missing(schema, ())
    return pa.schema([each.with_name("duplicate") if each.name == "resent" else each for each in fields])


def completed(table: pa.Table) -> pa.Table:
    """Return the table with every column of `SCHEMA`; columns that the feed or an old file lacks are null.

    An old `duplicate` column becomes `resent` = false: a fifth of real prints equal an earlier one, so the old mark
    is no evidence of redelivery.
    """
    place = table.schema.get_field_index("duplicate")
    if place >= 0:
        not_marked = pa.repeat(pa.scalar(value=False), len(table))
        table = table.set_column(place, SCHEMA.field("resent"), not_marked)
    for name in EXTRA_COLUMNS:
        if name not in table.column_names:
            table = table.append_column(SCHEMA.field(name), pa.nulls(len(table), SCHEMA.field(name).type))
    return table


def in_ms(schema: pa.Schema) -> pa.Schema:
    """Return the schema with `ts_event` in milliseconds."""
    place = schema.get_field_index("ts_event")
    return schema.set(place, _MS_FIELD)


def explained(schema: pa.Schema) -> str:
    """Return the columns' documentation as JSON, for readers that show a file's metadata but not a column's."""
    said = {each.name: {key.decode(): text.decode() for key, text in each.metadata.items()} for each in schema}
    return json.dumps(said)


def without_dictionaries(schema: pa.Schema) -> pa.Schema:
    """Return the schema with texts instead of dictionaries."""
    return pa.schema([each.with_type(_without_dictionary(each.type)) for each in schema])


def _without_dictionary(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_list(kind):
        return pa.list_(kind.value_field.with_type(_without_dictionary(kind.value_type)))
    return pa.large_string() if pa.types.is_dictionary(kind) else kind


def dictionaries(footer: pq.FileMetaData) -> list[str]:
    """Return the columns of a file of format 2 whose texts are read as dictionaries.

    A damaged footer may name them otherwise within a schema that looks right.
    """
    paths = {footer.schema.column(at).path for at in range(footer.num_columns)}
    return [name for name in _DICTIONARIES if name in paths]


def known_schemas(schema: pa.Schema, old: pa.Schema, facts: dict[bytes, bytes] | None, where: Path) -> list[pa.Schema]:
    """Return the columns that a file with this metadata can have: `schema`, or variants of `old` before format 2.

    Raises CorruptionError if the file is of a later format.
    """
    said = (facts or {}).get(b"format_version", b"1")
    version = int(said) if said.isdigit() else 1
    check_version(version, where)
    if version == FORMAT_VERSION:
        return [without_dictionaries(schema)]
    return [*(known := (old, in_ms(old))), *map(before_resent, known)]
