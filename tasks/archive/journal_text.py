"""Rebuilds the sealed journal, byte for byte, from an archived file and its quarantined lines.

An archived batch is one file in one of the encodings of `encodings.py`: the journal's columns, in the journal's order,
with one row for each valid trade.
"""

import io
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa

from tasks.archive import quarantine
from tasks.archive.encodings import count_rows, read_groups
from tasks.errors import CorruptionError
from tasks.records.trade import journal_columns, journal_header

_NS = ("ts_recv", "ts_event")
_WINDOW_ROWS = 500_000


def journal_bytes(
    archived: Path | None, quarantined: Path | None, extra: Collection[str] = (), window_rows: int = _WINDOW_ROWS
) -> Iterator[bytes]:
    """Yield the sealed journal in pieces, header first, with each row and quarantined line in its original place.

    `archived` is None if no row was valid, `quarantined` (`quarantine/<batch>.rows.csv`) if all were; `extra` is the
    seal's `extra_columns`. At most one row group is in memory. The joined pieces have the SHA-256 of the batch's seal.
    Raises FileNotFoundError, and CorruptionError if a file cannot be read or the two do not match.
    """
    rows = count_rows(archived) if archived else 0
    yield from journal_of(read_groups(archived) if archived else iter(()), rows, quarantined, extra, window_rows)


def journal_of(
    tables: Iterator[pa.Table],
    rows: int,
    quarantined: Path | None,
    extra: Collection[str] = (),
    window_rows: int = _WINDOW_ROWS,
) -> Iterator[bytes]:
    """Like `journal_bytes`, but from `rows` archived rows given as tables of `SCHEMA` in order."""
    yield journal_header(extra)
    places, ends_whole = _rejected_places(quarantined)
    total = len(places) + rows
    if len(places) and (places[0] < 1 or places[-1] > total or (np.diff(places) < 1).any()):
        raise CorruptionError(
            f"{quarantined}: its line numbers do not match the archived rows; restore both from a copy"
        )
    valid, rejected = (
        _LineReader(_archived_lines(tables, journal_columns(extra))),
        _LineReader(_rejected_lines(quarantined)),
    )
    for start in range(1, total + 1, window_rows):
        stop = min(start + window_rows, total + 1)
        here = places[slice(*np.searchsorted(places, [start, stop]))] - start
        piece = _merge(valid.read(stop - start - len(here)), rejected.read(len(here)), here)
        yield piece if stop <= total or ends_whole else piece[:-1]


class _LineReader:
    """Reads an exact number of lines at a time from pieces of any length."""

    def __init__(self, pieces: Iterator[pa.Array]) -> None:
        self._pieces = pieces
        self._rest = quarantine.split_lines(b"")

    def read(self, rows: int) -> pa.Array:
        parts = [self._rest[:0]]
        while rows > 0:
            self._rest = self._rest if len(self._rest) else next(self._pieces)
            parts.append(self._rest[:rows])
            self._rest = self._rest[rows:]
            rows -= len(parts[-1])
        return pa.concat_arrays(parts)


def _archived_lines(tables: Iterator[pa.Table], columns: tuple[str, ...]) -> Iterator[pa.Array]:
    for table in tables:
        frame = pl.from_arrow(table.select(columns))
        assert isinstance(frame, pl.DataFrame)  # noqa: S101 - a table always gives a frame
        text = io.BytesIO()
        frame.with_columns(pl.col(_NS).to_physical()).write_csv(text, include_header=False, quote_style="never")
        yield quarantine.split_lines(text.getvalue())


def _rejected_lines(quarantined: Path | None) -> Iterator[pa.Array]:
    for frame in _rejected(quarantined):
        text = "\n".join([*frame["text"], ""]).encode()
        yield quarantine.split_lines(quarantine.unescape(text))


def _rejected_places(quarantined: Path | None) -> tuple[np.ndarray, bool]:
    """Return the line numbers of the rejected lines, and whether the journal ends with a line feed."""
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
    """Merge the lines of both, with the rejected ones at `places` (from 0)."""
    if not len(rejected):
        return quarantine.join_lines(valid)
    is_valid = np.ones(len(valid) + len(rejected), bool)
    is_valid[places] = False
    order = np.where(is_valid, np.cumsum(is_valid) - 1, len(valid) + np.cumsum(~is_valid) - 1)
    return quarantine.join_lines(pa.concat_arrays([valid, rejected]).take(pa.array(order)))


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
