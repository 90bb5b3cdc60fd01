"""Writes archived trades as compressed CSV and reads them back.

The columns are `session`, the journal's, and `resent` (true or false), under one header line; prices, sizes, and
conditions are texts as received. Format 1 had no session. No field contains a comma, a
quote, or a line break. The output is deterministic: the same rows give the same bytes.
"""

import gzip
import io
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from tasks.archive.line_blocks import line_blocks
from tasks.archive.schema import SCHEMA, before_resent, completed
from tasks.errors import CorruptionError

GZIP = b"\x1f\x8b"
HEADER = ",".join(("session", *SCHEMA.names)).encode() + b"\n"
_OLD_HEADERS = tuple(",".join(each.names).encode() + b"\n" for each in (SCHEMA, before_resent(SCHEMA)))
_TIMES = ("ts_recv", "ts_event")
_BLOCK_BYTES = 16 << 20
_GZIP_LEVEL = 6
_ZSTD_LEVEL = 9


@contextmanager
def writing(target: Path, session: str) -> Iterator[Callable[[pa.Table], object]]:
    """Open a file for writing; yields a function that appends a table with `SCHEMA`'s columns of that session."""
    with target.open("wb") as raw, _compressing(raw, target) as write:
        write(HEADER)
        yield lambda table: write(_lines(table, session))


def _lines(table: pa.Table, session: str) -> bytes:
    frame = cast(pl.DataFrame, pl.from_arrow(table.cast(SCHEMA)))
    text = io.BytesIO()
    frame = frame.select(pl.lit(session).alias("session"), pl.exclude(_TIMES), pl.col(_TIMES).to_physical())
    frame.select("session", *SCHEMA.names).write_csv(text, include_header=False, quote_style="never")
    return text.getvalue()


@contextmanager
def _compressing(raw: IO[bytes], target: Path) -> Iterator[Callable[[bytes], object]]:
    if ".gz" in target.suffixes:  # Not only the last suffix: a temporary name may add another.
        # No file name and no time in the header, so that the output is deterministic.
        with gzip.GzipFile("", "wb", _GZIP_LEVEL, raw, mtime=0) as zipped:
            yield zipped.write
        return
    codec = pa.Codec("zstd", compression_level=_ZSTD_LEVEL)
    yield lambda text: raw.write(codec.compress(text, asbytes=True))  # Concatenated zstd frames form one valid file.


def read(archived: Path) -> Iterator[pa.Table]:
    """Yield the rows in pieces, as tables of `SCHEMA`. Raises FileNotFoundError, or CorruptionError if damaged."""
    types = {each.name: pa.int64() if each.name in _TIMES else each.type for each in (*SCHEMA, *before_resent(SCHEMA))}
    types["session"] = pa.large_string()
    options = pa_csv.ConvertOptions(column_types=types, null_values=[""], strings_can_be_null=False)
    header = b""
    with _reading(archived) as file:
        for block in line_blocks(file, _BLOCK_BYTES):
            lines = block if header else block.removeprefix(header := _header(block, archived))
            if not lines:
                continue
            names = header.decode().rstrip("\n").split(",")
            table = pa_csv.read_csv(
                pa.BufferReader(lines),
                read_options=pa_csv.ReadOptions(column_names=names, block_size=len(lines), use_threads=False),
                parse_options=pa_csv.ParseOptions(quote_char=False),
                convert_options=options,
            )
            table = completed(table).select(SCHEMA.names)
            side = table.schema.get_field_index("side")
            given = pc.if_else(pc.equal(table["side"], ""), None, table["side"])
            table = table.set_column(side, SCHEMA.field("side"), given)
            if any(table[each.name].null_count for each in SCHEMA if not each.nullable):
                raise _other_columns(archived)
            yield table.cast(SCHEMA)


def _header(block: bytes, archived: Path) -> bytes:
    """Return the header line of a file: today's, or an older one."""
    for header in (HEADER, *_OLD_HEADERS):
        if block.startswith(header):
            return header
    raise _other_columns(archived)


def _other_columns(archived: Path) -> CorruptionError:
    return CorruptionError(f"{archived}: is not CSV with the archive's columns; restore it from a copy")


def count_rows(archived: Path) -> int:
    """Count the lines after the header. Raises the same errors as `read`."""
    lines = 0
    with _reading(archived) as file:
        while block := file.read(_BLOCK_BYTES):
            lines += block.count(b"\n")
    return lines - 1


def _starts_with(path: Path, magic: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(magic)) == magic


@contextmanager
def _reading(archived: Path) -> Iterator[IO[bytes]]:
    try:
        if _starts_with(archived, GZIP):
            with gzip.open(archived, "rb") as file:
                yield cast(IO[bytes], file)
        else:
            with archived.open("rb") as raw, pa.CompressedInputStream(raw, "zstd") as file:
                yield cast(IO[bytes], file)
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError, EOFError, zlib.error) as error:
        raise CorruptionError(
            f"{archived}: cannot be read ({' '.join(str(error).split())[:200]}); restore it from a copy"
        ) from error
