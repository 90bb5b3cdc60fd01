"""What does a SELECT over the views give, row by row, however many rows there are?"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from tasks.errors import SettingsError
from tasks.query.decimals import trimmed

_ROWS_AT_A_TIME = 10_000
# The statement that EXPLAIN explains is run by ANALYZE, and may be one that writes.
_EXPLAIN = re.compile(r"\s*explain\s+(analyze\s+)?(\([^)]*\)\s*)?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Answer:
    """The names of the columns, and the rows as they come: numbers, bools, None, Decimals, and text for the rest."""

    columns: tuple[str, ...]
    rows: Iterator[tuple[Any, ...]]


def ask(database: duckdb.DuckDBPyConnection, sql: str) -> Answer:
    """Run one statement that reads. Memory is bounded by what the statement itself needs to hold.

    Raises SettingsError, one line, where it is no SQL, names what is not there, or would change something; the rows
    raise it too, where one cannot be computed.
    """
    try:
        statements = database.extract_statements(sql)
        if len(statements) != 1 or not _reads(database, statements[0]):
            raise SettingsError("query: give one SELECT; the archive is read, never changed")
        # A relation streams; what `execute` gives is held whole.
        reader = database.sql(statements[0].query).to_arrow_reader(_ROWS_AT_A_TIME)
    except duckdb.Error as error:
        raise _wrong(error) from error
    return Answer(tuple(reader.schema.names), _rows(reader))


def _reads(database: duckdb.DuckDBPyConnection, statement: duckdb.Statement) -> bool:
    """Whether it is a SELECT, or an EXPLAIN of one."""
    if statement.type == duckdb.StatementType.EXPLAIN:
        explained = database.extract_statements(_EXPLAIN.sub("", statement.query, count=1))
        return len(explained) == 1 and explained[0].type == duckdb.StatementType.SELECT
    return bool(statement.type == duckdb.StatementType.SELECT)


def _rows(reader: pa.RecordBatchReader) -> Iterator[tuple[Any, ...]]:
    try:
        for batch in reader:
            yield from zip(*(_values(column) for column in batch.columns), strict=True)
    except (duckdb.Error, pa.ArrowException, OSError) as error:
        raise _wrong(error) from error


def _values(column: pa.Array) -> list[Any]:
    kind = column.type
    if pa.types.is_timestamp(kind) and kind.tz is None:
        return list(pc.cast(column, pa.string()).to_pylist())
    values = column.to_pylist()
    if pa.types.is_decimal(kind):
        return [None if value is None else trimmed(value) for value in values]
    plain = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    if plain or pa.types.is_nested(kind):
        return list(values)
    return [None if value is None else str(value) for value in values]


def _wrong(error: Exception) -> SettingsError:
    """What is wrong, in one line; the lines after the first show the place in the SQL, candidates apart."""
    lines = [" ".join(line.split()) for line in str(error).splitlines() if line.strip()]
    hints = [line for line in lines[1:] if line.lower().startswith(("candidate", "did you mean"))]
    return SettingsError(f"query: {' '.join(lines[:1] + hints[:1])[:400]}; views are trades, gaps and sessions")
