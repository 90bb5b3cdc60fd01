"""Reads the lines of a journal, whatever they contain.

A journal is read in slices. A slice is first read with typed columns. If that fails, or if character counts do not
prove that nothing was lost, it is read again as text and each value is cast by itself, so that a bad line affects no
other line.
"""

import io
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import polars as pl
import polars.selectors as cs
import pyarrow as pa
from polars.exceptions import PolarsError

from tasks.archive.quarantine import split_lines
from tasks.validate.schema import TYPES

Ints = np.ndarray[Any, np.dtype[np.int64]]
Types = Mapping[str, pl.DataType | type[pl.DataType]]
_CACHED_BYTES = 64 << 10
_UNPRINTABLE = r'[\x00-\x09\x0b-\x1f\x7f"]'
_TENS = 10 ** np.arange(1, 19, dtype=np.int64)


@dataclass(frozen=True, slots=True)
class Slice:
    """Consecutive lines of a journal: `first` is the number of the first line (from 1), `text` the lines themselves.

    `frame` has one row per line: the columns of `TYPES` (null if unreadable) and `fields`, `printable`, `ended`,
    `price_number`, `size_number` (Float64, NaN if not a number). Every line in `text` ends with a line feed, even if
    the file's last line does not.
    """

    first: int
    text: bytes
    frame: pl.DataFrame


def slices(journal: Path, slice_bytes: int) -> Iterator[Slice]:
    """Yield the lines after the header, in order, in slices of whole lines of about `slice_bytes` bytes."""
    first = 1
    with journal.open("rb") as file:
        columns = file.readline().decode("ascii", "replace").rstrip("\n").split(",")
        while text := _next(file, slice_bytes):
            ended = text.endswith(b"\n")
            text = text if ended else text + b"\n"
            frame = _read(text, columns, max(1, slice_bytes // 2))
            last = pl.int_range(1, pl.len() + 1) == pl.len()
            yield Slice(first, text, frame.with_columns(ended=~last if not ended else pl.lit(value=True)))
            first += frame.height


def _next(file: BinaryIO, slice_bytes: int) -> bytes:
    """Read the next whole lines, about `slice_bytes` bytes, in one read: joining two pieces would copy both."""
    start = file.tell()
    file.seek(slice_bytes, os.SEEK_CUR)
    file.readline()
    stop = file.tell()
    file.seek(start)
    return file.read(stop - start)


def _read(text: bytes, columns: Sequence[str], piece_bytes: int) -> pl.DataFrame:
    """Return one row per line; values are cast one by one only in pieces that cannot be read typed."""
    # Categories of this slice only, so memory is bounded however many distinct texts a batch has.
    types: dict[str, pl.DataType | type[pl.DataType]] = {
        name: pl.Categorical(pl.Categories.random()) if TYPES[name] is pl.Categorical else TYPES[name]
        for name in columns
    }
    frame = _typed(text, types)
    if frame is None:
        frame = _read_pieces(text, types, piece_bytes)
    return frame.with_columns(_numbers(frame[name]) for name in ("price", "size"))


def _read_pieces(text: bytes, types: Types, piece_bytes: int) -> pl.DataFrame:
    file, frames = io.BytesIO(text), []
    while piece := file.read(piece_bytes):
        piece += file.readline()
        frame = _typed(piece, types)
        frames.append(_cast(piece, types) if frame is None else frame)
    return pl.concat(frames)


def _numbers(texts: pl.Series) -> pl.Series:
    """Parse texts as Float64, NaN if not a number or missing; each distinct text is parsed once."""
    known = texts.drop_nulls().unique()
    places = known.to_physical().to_numpy()
    values = np.full(int(places.max(initial=0)) + 2, np.nan)
    values[places] = known.cast(pl.String).cast(pl.Float64, strict=False).fill_null(np.nan).to_numpy()
    return pl.Series(f"{texts.name}_number", values[texts.to_physical().fill_null(len(values) - 1).to_numpy()])


def _typed(text: bytes, types: Types) -> pl.DataFrame | None:
    """Read the slice typed; None unless it is proven that writing the values would give `text` again."""
    lines, others = _controls(text)
    if others or b"\x7f" in text or b'"' in text:
        return None
    try:
        frame = pl.read_csv(io.BytesIO(text), has_header=False, schema=types, quote_char=None)
    except PolarsError:
        return None
    if frame["conditions"].null_count():
        frame = frame.with_columns(pl.col("conditions").fill_null(""))
    if frame.height != lines or any(frame.null_count().row(0)):
        return None
    # No other spelling of an integer (+5, 05, " 5") is shorter than the plain one, so equal totals mean equal lines.
    texts = frame.select(pl.sum_horizontal(cs.categorical().cat.len_bytes().sum())).item()
    digits = sum(_digits(frame[name].to_numpy()) for name in _integers(types))
    if texts + digits + len(types) * frame.height != len(text):
        return None
    return frame.with_columns(fields=pl.lit(len(types), pl.Int32), printable=pl.lit(value=True))


def _integers(types: Types) -> list[str]:
    return [name for name in types if TYPES[name] is not pl.Categorical]


def _controls(text: bytes) -> tuple[int, int]:
    """Count line feeds and other control bytes, in pieces that fit in the CPU cache."""
    codes, lines, controls = np.frombuffer(text, np.uint8), 0, 0
    for start in range(0, len(codes), _CACHED_BYTES):
        piece = codes[start : start + _CACHED_BYTES]
        lines += int(np.count_nonzero(piece == 0x0A))
        controls += int(np.count_nonzero(piece < 0x20))
    return lines, controls - lines


def _digits(values: Ints) -> int:
    """Count the characters of these integers, written plainly."""
    low, high = int(values.min()), int(values.max())
    if len(str(low)) == len(str(high)) and low >= 0:
        return len(values) * len(str(high))
    sizes = np.abs(values)
    more = sum(int(np.count_nonzero(sizes >= ten)) for ten in _TENS if ten <= max(abs(low), abs(high)))
    return len(values) + more + int(np.count_nonzero(values < 0))


def _cast(text: bytes, types: Types) -> pl.DataFrame:
    """Read the slice as text and cast each value by itself."""
    readable = text.decode("utf-8", "backslashreplace").encode()
    lengths = _lengths(readable)
    line = pl.Series("line", split_lines(readable).cast(pa.large_string()))
    is_utf8 = pl.Series(lengths == _lengths(text))
    numbers = _integers(types)
    return _columns(readable, line, lengths, list(types)).select(
        *(_plain_integer(name) if name in numbers else pl.col(name).cast(types[name]) for name in types),
        fields=line.str.count_matches(",", literal=True).cast(pl.Int32) + 1,
        printable=is_utf8 & ~line.str.contains(_UNPRINTABLE),
    )


def _columns(text: bytes, line: pl.Series, lengths: Ints, names: list[str]) -> pl.DataFrame:
    """Return each line's fields as text, null if the line has fewer than `names`; extra fields are dropped."""
    try:
        frame = pl.read_csv(
            io.BytesIO(",".join(names).encode() + b"\n" + text),
            schema=dict.fromkeys(names, pl.String),
            quote_char=None,
            truncate_ragged_lines=True,
        )
    except PolarsError:
        return _split(line, names)
    if frame.height != len(lengths):
        return _split(line, names)
    frame = frame.with_columns(pl.col("conditions").fill_null(""))
    exact = frame.select(pl.sum_horizontal(pl.all().str.len_bytes()) + len(names) - 1 == pl.lit(pl.Series(lengths)))
    # Lines that the reader cut, padded, or skipped are split one by one.
    odd = (~exact.to_series()).arg_true()
    places = np.arange(frame.height)
    places[odd] = frame.height + np.arange(len(odd))
    return pl.concat([frame, _split(line.gather(odd), names)]).select(pl.all().gather(places)) if len(odd) else frame


def _split(line: pl.Series, names: list[str]) -> pl.DataFrame:
    parts = line.str.strip_suffix("\n").str.split_exact(",", len(names)).struct.unnest()
    return parts.select(pl.nth(index).alias(name) for index, name in enumerate(names))


def _plain_integer(name: str) -> pl.Expr:
    number = pl.col(name).cast(TYPES[name], strict=False)
    return pl.when(number.cast(pl.String) == pl.col(name)).then(number).alias(name)


def _lengths(text: bytes) -> Ints:
    """Return the length of each line in bytes, without its line feed."""
    ends = np.flatnonzero(np.frombuffer(text, np.uint8) == 0x0A)
    return np.diff(ends, prepend=-1) - 1
