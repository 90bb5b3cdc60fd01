"""What does an archived file hold, and how does the sealed journal come back from it, byte for byte?

An archived batch is one file: the journal's columns in the journal's order, one row for each valid trade, in one of
the forms of `forms.py`.
"""

import hashlib
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


def journal_bytes(archived: Path | None, quarantined: Path | None, extra: Collection[str] = ()) -> Iterator[bytes]:
    """The sealed journal, header first, in pieces: archived rows and quarantined lines, each in its old place.

    `archived` is None where no row was valid, `quarantined` (`quarantine/<batch>.rows.csv`) where all were; `extra` are
    the seal's `extra_columns`. Memory is bounded by a row group. Joined, the pieces have the SHA-256 of the batch's
    seal. Raises FileNotFoundError, and CorruptionError where a file cannot be read or the two do not fit each other.
    """
    rows = count_rows(archived) if archived else 0
    yield from journal_of(read_groups(archived) if archived else iter(()), rows, quarantined, extra)


def journal_of(
    tables: Iterator[pa.Table], rows: int, quarantined: Path | None, extra: Collection[str] = ()
) -> Iterator[bytes]:
    """As `journal_bytes`, from so many archived rows, wherever they come from: tables of `SCHEMA` in their order."""
    yield journal_header(extra)
    places, ends_whole = _rejected_places(quarantined)
    total = len(places) + rows
    if len(places) and (places[0] < 1 or places[-1] > total or (np.diff(places) < 1).any()):
        raise CorruptionError(f"{quarantined}: its line numbers do not fit the archived rows; restore both from a copy")
    valid, rejected = _Cursor(_archived_lines(tables, journal_columns(extra))), _Cursor(_rejected_lines(quarantined))
    for start in range(1, total + 1, _WINDOW_ROWS):
        stop = min(start + _WINDOW_ROWS, total + 1)
        here = places[slice(*np.searchsorted(places, [start, stop]))] - start
        piece = _merge(valid.take(stop - start - len(here)), rejected.take(len(here)), here)
        yield piece if stop <= total or ends_whole else piece[:-1]


def journal_sha256(archived: Path | None, quarantined: Path | None, extra: Collection[str] = ()) -> str:
    """The SHA-256 (hex) of the journal that these two files hold; equal to `Seal.sha256`. Raises as `journal_bytes`."""
    digest = hashlib.sha256()
    for piece in journal_bytes(archived, quarantined, extra):
        digest.update(piece)
    return digest.hexdigest()


class _Cursor:
    """Takes an exact number of lines at a time from pieces of any length."""

    def __init__(self, pieces: Iterator[pa.Array]) -> None:
        self._pieces = pieces
        self._rest = quarantine.split_lines(b"")

    def take(self, rows: int) -> pa.Array:
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
    """The line numbers of the rejected lines, and whether the journal ends in a line feed."""
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
    """The lines of both as one piece, the rejected ones at `places` (from 0)."""
    if not len(rejected):
        return quarantine.join_lines(valid)
    is_valid = np.ones(len(valid) + len(rejected), bool)
    is_valid[places] = False
    order = np.where(is_valid, np.cumsum(is_valid) - 1, len(valid) + np.cumsum(~is_valid) - 1)
    return quarantine.join_lines(pa.concat_arrays([valid, rejected]).take(pa.array(order)))


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
