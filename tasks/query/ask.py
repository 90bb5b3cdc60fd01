"""Runs a SELECT over the views: streams its rows, or writes them to one file."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from tasks.errors import ConflictError, SettingsError
from tasks.query.numbers import trimmed
from tasks.query.prints import quoted
from tasks.storage.store import begun, publish

_ROWS_AT_A_TIME = 10_000
# EXPLAIN ANALYZE runs the explained statement, which may write.
# What DuckDB writes, by the end of a file's name. It may not write a temporary file of its own.
_FORMATS = {
    ".parquet": "FORMAT parquet, COMPRESSION zstd",
    ".csv": "FORMAT csv, HEADER",
    ".csv.gz": "FORMAT csv, HEADER, COMPRESSION gzip",
    ".csv.zst": "FORMAT csv, HEADER, COMPRESSION zstd",
    ".jsonl": "FORMAT json",
    ".jsonl.gz": "FORMAT json, COMPRESSION gzip",
}
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


def check_out(out: Path) -> None:
    """Raise SettingsError if that file is of no known format or cannot be created, and ConflictError if it exists."""
    if _format_of(out) is None:
        raise SettingsError(f"--out: {out.name}: is none of {', '.join('*' + each for each in _FORMATS)}")
    if out.exists() or out.is_symlink():
        raise ConflictError(f"{out}: exists already and is not overwritten; remove it or give another name")
    if not out.parent.is_dir():
        raise SettingsError(f"--out: {out.parent}: there is no such folder")


def write(database: duckdb.DuckDBPyConnection, sql: str, out: Path) -> int:
    """Write the rows of one SELECT to a new file, whole or not at all, and return how many there are.

    The database must have been opened with `out=unfinished(out)`. Raises as `check_out` and `ask` do.
    """
    check_out(out)
    temporary = begun(out)
    try:
        rows = _copied(database, sql, temporary, str(_format_of(out)))
        # A link, unlike a rename, fails if someone else has created the file meanwhile.
        os.link(temporary, out)
        publish(out)
    except FileExistsError as error:
        raise ConflictError(f"{out}: exists already and is not overwritten; remove it or give another name") from error
    except duckdb.Error as error:
        raise _wrong(error) from error
    finally:
        temporary.unlink(missing_ok=True)
    return rows


def _copied(database: duckdb.DuckDBPyConnection, sql: str, file: Path, options: str) -> int:
    statements = database.extract_statements(sql)
    if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
        raise SettingsError("query: give one SELECT; the archive is read-only")
    relation = database.sql(statements[0].query)
    relation.create_view("wanted")
    row = database.execute(f"COPY (FROM wanted) TO {quoted(str(file))} ({options}, USE_TMP_FILE false)").fetchone()
    return int(row[0]) if row else 0


def _format_of(out: Path) -> str | None:
    name = out.name.lower()
    return next((form for end, form in _FORMATS.items() if name.endswith(end) and name != end), None)


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
    return SettingsError(
        f"query: {' '.join(lines[:1] + hints[:1])[:400]}; the views are trades, gaps, coverage, sessions, and days"
    )
