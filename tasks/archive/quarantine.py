"""Stores the rejected lines of a journal so that they are readable and can be restored byte for byte.

`quarantine/<batch>.rows.csv` is quoted CSV with a header and one line for each rejected line:

| column  | meaning                                                                                       |
| ------- | --------------------------------------------------------------------------------------------- |
| line    | which trade of the batch it was, from 1 (the journal's header is not counted)                 |
| reasons | the names of all rules it broke, joined by `;` (`validate/schema.py` describes each rule)      |
| text    | the original line without its line feed                                                       |

In `text`, a backslash is escaped as `\\\\`, and control characters and invalid UTF-8 bytes as `\\xNN`, so that a
quarantined line is always one printable line. A line that broke `LINE_END` was the last one and had no line feed.
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
    """Escape lines for the `text` column; line feeds are kept."""
    lines = lines.replace(b"\\", b"\\\\")
    if lines.translate(None, _CONTROLS) != lines:
        for control in _CONTROLS:
            lines = lines.replace(bytes([control]), b"\\x%02x" % control)
    return lines.decode("utf-8", "backslashreplace")


def unescape(lines: bytes) -> bytes:
    """Reverse `escape`."""
    return _ESCAPED.sub(_byte, lines) if b"\\" in lines else lines


def split_lines(text: bytes) -> pa.Array:
    """Split a text into lines, each with its line feed (the last one too), as a large_binary view without copying."""
    ends = np.flatnonzero(np.frombuffer(text, np.uint8) == 0x0A) + 1
    offsets = np.concatenate([[0], ends]).astype(np.int64)
    return pa.Array.from_buffers(pa.large_binary(), len(ends), [None, pa.py_buffer(offsets), pa.py_buffer(text)])


def join_lines(lines: pa.Array) -> bytes:
    """Reverse `split_lines`."""
    if not len(lines):
        return b""
    offsets = np.frombuffer(lines.buffers()[1], np.int64)[lines.offset : lines.offset + len(lines) + 1]
    return bytes(memoryview(lines.buffers()[2])[offsets[0] : offsets[-1]])


def encode(lines: pl.Series, reasons: pl.Series, texts: pl.Series) -> bytes:
    """Format rows of the quarantine file, without header, from line numbers, joined reasons, and escaped texts."""
    buffer = io.BytesIO()
    frame = pl.DataFrame({"line": lines, "reasons": reasons, "text": texts})
    frame.write_csv(buffer, include_header=False, quote_style="non_numeric")
    return buffer.getvalue()


def read(path: Path) -> Iterator[pl.DataFrame]:
    """Yield the file's rows in bounded pieces, in line order: `line` Int64, `reasons` and escaped `text` String.

    Raises FileNotFoundError, and pyarrow.ArrowInvalid if the file is not a quarantine file.
    """
    types = {"line": pa.int64(), "reasons": pa.large_string(), "text": pa.large_string()}
    with path.open("rb") as file:
        for number, block in enumerate(line_blocks(file, _BLOCK_BYTES)):
            if number == 0 and not block.startswith(HEADER):
                raise pa.ArrowInvalid("its first line is not the header")
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
