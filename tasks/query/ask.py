"""Runs a SELECT over the views and streams its rows."""

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
# EXPLAIN ANALYZE runs the explained statement, which may write.
_EXPLAIN = re.compile(r"\s*explain\s+(analyze\s+)?(\([^)]*\)\s*)?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Answer:
    """Column names, and rows as they arrive: numbers, bools, None, Decimals, and text for the rest."""

    columns: tuple[str, ...]
    rows: Iterator[tuple[Any, ...]]


def ask(database: duckdb.DuckDBPyConnection, sql: str) -> Answer:
    """Run one read-only statement. Memory is bounded by what the statement itself needs.

    Raises SettingsError, in one line, if it is not valid SQL, names something unknown, or would change anything;
    reading the rows raises it too, if one cannot be computed.
    """
    try:
        statements = database.extract_statements(sql)
        if len(statements) != 1 or not _reads(database, statements[0]):
            raise SettingsError("query: give one SELECT; the archive is read-only")
        # A relation streams its rows; `execute` would hold them all in memory.
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
    """Describe an error in one line: its first line and the candidates; other lines only show the place in the SQL."""
    lines = [" ".join(line.split()) for line in str(error).splitlines() if line.strip()]
    hints = [line for line in lines[1:] if line.lower().startswith(("candidate", "did you mean"))]
    return SettingsError(f"query: {' '.join(lines[:1] + hints[:1])[:400]}; the views are trades, gaps, and sessions")
