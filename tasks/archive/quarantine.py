"""How is a rejected line of a journal written down, so that it is readable and yet comes back byte for byte?

`quarantine/<batch>.rows.csv` has a header and one line for each rejected one, ordinary CSV with quotes:

| column  | meaning                                                                                       |
| ------- | --------------------------------------------------------------------------------------------- |
| line    | which trade of the batch it was, from 1 (the journal's header is not counted)                 |
| reasons | the names of all rules it broke, `;`-joined (`validate/schema.py` says each in a sentence)     |
| text    | the line as it stood, without its line feed                                                   |

In `text` a backslash stands as `\\\\`, and a byte that is a control character or no part of valid UTF-8 as `\\xNN`:
a quarantined line is always one printable line. A line that broke `LINE_END` was the file's last and had no line feed.
"""

import io
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.csv as pa_csv

from tasks.archive.line_blocks import line_blocks

COLUMNS = ("line", "reasons", "text")
HEADER = ",".join(COLUMNS).encode() + b"\n"
LINE_END = "line_end"

_BLOCK_BYTES = 16 << 20
_CONTROLS = bytes([*range(0x0A), *range(0x0B, 0x20), 0x7F])
_ESCAPED = re.compile(rb"\\(?:\\|x([0-9a-f]{2}))")


def escape(lines: bytes) -> str:
    """Lines, each with its line feed, in the escaped text of the `text` column; line feeds stay."""
    lines = lines.replace(b"\\", b"\\\\")
    if lines.translate(None, _CONTROLS) != lines:
        for control in _CONTROLS:
            lines = lines.replace(bytes([control]), b"\\x%02x" % control)
    return lines.decode("utf-8", "backslashreplace")


def unescape(lines: bytes) -> bytes:
    """The inverse of `escape`."""
    return _ESCAPED.sub(_byte, lines) if b"\\" in lines else lines


def split_lines(text: bytes) -> pa.Array:
    """The lines of a text whose last one ends too, each with its line feed, as large_binary: a view, not a copy."""
    ends = np.flatnonzero(np.frombuffer(text, np.uint8) == 0x0A) + 1
    offsets = np.concatenate([[0], ends]).astype(np.int64)
    return pa.Array.from_buffers(pa.large_binary(), len(ends), [None, pa.py_buffer(offsets), pa.py_buffer(text)])


def join_lines(lines: pa.Array) -> bytes:
    """The inverse of `split_lines`."""
    if not len(lines):
        return b""
    offsets = np.frombuffer(lines.buffers()[1], np.int64)[lines.offset : lines.offset + len(lines) + 1]
    return bytes(memoryview(lines.buffers()[2])[offsets[0] : offsets[-1]])


def encode(lines: pl.Series, reasons: pl.Series, texts: pl.Series) -> bytes:
    """Rows of the quarantine file, without its header, from line numbers, joined reasons and escaped texts."""
    buffer = io.BytesIO()
    frame = pl.DataFrame({"line": lines, "reasons": reasons, "text": texts})
    frame.write_csv(buffer, include_header=False, quote_style="non_numeric")
    return buffer.getvalue()


def read(path: Path) -> Iterator[pl.DataFrame]:
    """The file's rows in bounded pieces: `line` Int64, `reasons` and escaped `text` String, in the order of lines.

    Raises FileNotFoundError, and pyarrow.ArrowInvalid where the file is not a quarantine file.
    """
    types = {"line": pa.int64(), "reasons": pa.large_string(), "text": pa.large_string()}
    with path.open("rb") as file:
        for number, block in enumerate(line_blocks(file, _BLOCK_BYTES)):
            if number == 0 and not block.startswith(HEADER):
                raise pa.ArrowInvalid("its first line does not name the columns")
            lines = block.removeprefix(HEADER) if number == 0 else block
            if not lines:
                continue
            table = pa_csv.read_csv(
                pa.BufferReader(lines),
                read_options=pa_csv.ReadOptions(column_names=COLUMNS, block_size=len(lines), use_threads=False),
                convert_options=pa_csv.ConvertOptions(column_types=types),
            )
            frame = pl.from_arrow(table)
            assert isinstance(frame, pl.DataFrame)  # noqa: S101 - a table always gives a frame
            yield frame


def _byte(match: re.Match[bytes]) -> bytes:
    return bytes.fromhex(match[1].decode()) if match[1] else b"\\"
