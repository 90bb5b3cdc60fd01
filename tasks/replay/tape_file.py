"""Reads and writes tape files.

A tape is CSV, plain or gzipped, with the header `ts_event_ms,symbol,price,size,conditions` and optional further
columns, which are ignored; or an archived file in any encoding. The first bytes tell which. Files are read in blocks,
so that a tape of any length takes a few MB of memory.
"""

import gzip
import re
import zlib
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, cast

from tasks.errors import TerminalError
from tasks.records.trade import NS_PER_MS, TAPE_COLUMNS, Trade

# Event time (Unix ms), symbol, price text, size text, `;`-joined conditions: TAPE_COLUMNS. It is a plain tuple,
# because a replay at full speed handles each in about 5 µs.
TapeRow = tuple[int, str, str, str, str]

_ARCHIVED = (b"session,connection,recv_seq,", b"connection,recv_seq,")
_PARQUET_COLUMNS = ("ts_event", "symbol", "price", "size", "conditions")
_BLOCK_BYTES = 1 << 18
_LONGEST_LINE_BYTES = 1 << 20
_ROWS_PER_BLOCK = 4096

# Price and size are sent as JSON numbers with the same digits, so they must be JSON numbers.
_NUMBER = r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?"
_JSON_NUMBER = re.compile(_NUMBER)
_LINE = rf'^(-?[0-9]{{1,15}}),([^,"\r\n]+),({_NUMBER}),({_NUMBER}),([^,"\r\n]*)'


def read_tape(path: Path) -> Iterator[list[TapeRow]]:
    """Yield the rows of a tape in the file's order, in blocks of a few thousand.

    Raises TerminalError, which names the file, the line, and the error, if it is not a tape; rows before that line may
    already have been yielded.
    """
    try:
        with path.open("rb") as file:
            start = file.read(4)
            file.seek(0)
            if start in (b"PAR1", b"\x28\xb5\x2f\xfd"):
                yield from _read_archived(path)
            elif start[:2] == b"\x1f\x8b":
                with gzip.GzipFile(fileobj=file) as unzipped:
                    if unzipped.peek(len(_ARCHIVED[0])).startswith(_ARCHIVED):
                        yield from _read_archived(path)
                    else:
                        yield from _read_csv(path, cast(BinaryIO, unzipped))
            else:
                yield from _read_csv(path, file)
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise TerminalError(f"{path}: cannot read this tape ({reason}); give a complete, readable file") from error


def row_of(trade: Trade) -> TapeRow:
    """Convert a Trade to a row; its event time is truncated to milliseconds."""
    at_ms = trade.ts_event_ns // NS_PER_MS
    return at_ms, trade.symbol, trade.price, trade.size, ";".join(trade.conditions)


def write_tape(trades: Iterable[Trade], path: Path) -> int:
    """Write trades as a tape, gzipped if the name ends in `.gz`, and return how many. Raises OSError.

    Equal trades give equal bytes: the gzip header has neither a time nor a name.
    """
    rows = map(row_of, trades)
    count = 0
    with path.open("wb") as raw, _compressing(raw, path) as file:
        file.write(",".join(TAPE_COLUMNS).encode() + b"\n")
        while block := list(islice(rows, _ROWS_PER_BLOCK)):
            file.write("".join([f"{t},{s},{p},{v},{c}\n" for t, s, p, v, c in block]).encode())
            count += len(block)
    return count


def _compressing(raw: BinaryIO, path: Path) -> BinaryIO:
    if path.suffix != ".gz":
        return raw
    return cast(BinaryIO, gzip.GzipFile(filename="", fileobj=raw, mode="wb", compresslevel=6, mtime=0))


def _read_csv(path: Path, file: BinaryIO) -> Iterator[list[TapeRow]]:
    pattern = re.compile(_LINE + _further_columns(path, file.readline(_LONGEST_LINE_BYTES)), re.MULTILINE)
    line = 2
    for block in _whole_lines(path, file):
        text = _decode(path, line, block)
        rows = [(int(at_ms), s, p, v, c) for at_ms, s, p, v, c in pattern.findall(text)]
        lines = text.count("\n")
        if len(rows) != lines:
            raise _bad_line(path, line, text, pattern)
        line += lines
        yield rows


def _further_columns(path: Path, header: bytes) -> str:
    """Return the pattern for the extra columns of a line, as many as the header has."""
    names = header.decode("utf-8", "replace").removeprefix("\ufeff").rstrip("\r\n").split(",")
    if tuple(names[: len(TAPE_COLUMNS)]) != TAPE_COLUMNS:
        found = ",".join(names)[:80]
        raise TerminalError(f"{path}: line 1: a tape's header is {','.join(TAPE_COLUMNS)}[,…], found {found!r}")
    return rf"(?:,[^,\n]*){{{len(names) - len(TAPE_COLUMNS)}}}\r?$"


def _whole_lines(path: Path, file: BinaryIO) -> Iterator[bytes]:
    """Yield the rest of the file in blocks of whole lines."""
    rest = b""
    while block := file.read(_BLOCK_BYTES):
        whole, newline, rest_of_block = block.rpartition(b"\n")
        if newline:
            yield rest + whole + newline
            rest = rest_of_block
        else:
            rest += block
        if len(rest) > _LONGEST_LINE_BYTES:
            raise TerminalError(f"{path}: a line of more than {_LONGEST_LINE_BYTES:,} bytes; this is not a tape")
    if rest:
        yield rest + b"\n"


def _decode(path: Path, line: int, block: bytes) -> str:
    try:
        return block.decode()
    except UnicodeDecodeError as error:
        at = line + block.count(b"\n", 0, error.start)
        raise TerminalError(f"{path}: line {at}: not UTF-8 ({error.reason}); rewrite the tape") from error


def _bad_line(path: Path, line: int, text: str, pattern: re.Pattern[str]) -> TerminalError:
    for number, content in enumerate(text.split("\n"), line):
        if not pattern.fullmatch(content):
            wanted = "time in ms, symbol, two JSON numbers, conditions, and the header's further columns"
            return TerminalError(f"{path}: line {number}: a trade is {wanted}; found {content[:80]!r}")
    raise AssertionError("the count of lines and of matches differ, yet each line matches")


def _read_archived(path: Path) -> Iterator[list[TapeRow]]:
    # These imports take half a second, which a CSV tape does not need.
    import pyarrow as pa
    import pyarrow.parquet as pq

    from tasks.archive.csv_files import read as read_text
    from tasks.archive.day_files import day_groups
    from tasks.archive.encodings import read_groups
    from tasks.errors import CorruptionError

    row = 0
    tables: Iterator[Any]
    try:
        with path.open("rb") as file:
            is_parquet = file.read(4) == b"PAR1"
        names = pq.read_schema(path).names if is_parquet else []
        if is_parquet and not {"recv_step", "session"}.intersection(names):
            tables = _parquet_batches(path)
        else:
            read = read_text if not is_parquet else day_groups if "batch" in names else read_groups
            tables = (table for group in read(path) for table in group.to_batches(_ROWS_PER_BLOCK))
        for table in tables:
            rows = _rows(path, row, table)
            row += len(rows)
            yield rows
    except CorruptionError:
        raise
    except (pa.ArrowException, KeyError, TypeError) as error:
        what = str(error).split("\n", 1)[0][:200]
        raise TerminalError(f"{path}: after row {row}: not an archived tape ({what}); restore it") from error


def _parquet_batches(path: Path) -> Iterator[Any]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        yield from file.iter_batches(_ROWS_PER_BLOCK, columns=list(_PARQUET_COLUMNS))


def _rows(path: Path, row: int, batch: Any) -> list[TapeRow]:
    import pyarrow as pa

    at_ns = batch["ts_event"].cast(pa.timestamp("ns", "UTC")).cast(pa.int64()).to_pylist()
    texts = [batch[name].cast(pa.string()).to_pylist() for name in _PARQUET_COLUMNS[1:]]
    rows = [(t // NS_PER_MS, s, p, v, c or "") for t, s, p, v, c in zip(at_ns, *texts, strict=True)]
    if any(None in column for column in (at_ns, *texts[:3])):
        raise TerminalError(f"{path}: after row {row}: a trade has no time, symbol, price, or size")
    for price_or_size in {*texts[1], *texts[2]}:
        if not _JSON_NUMBER.fullmatch(price_or_size):
            raise TerminalError(f"{path}: after row {row}: {price_or_size[:80]!r} is not a JSON number")
    return rows
