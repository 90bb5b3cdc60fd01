"""Finds the lines of a batch that break the order of receipt, without rejecting their good neighbors.

As few lines as possible are rejected: those that remain are the longest series that is in order.
"""

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import polars as pl

from tasks.records.manifest import Seal
from tasks.validate.lines import Slice
from tasks.validate.schema import MOST_TRADES

Ints = np.ndarray[Any, np.dtype[np.int64]]
Bools = np.ndarray[Any, np.dtype[np.bool_]]
_SEQ_BITS = MOST_TRADES.bit_length() - 1


@dataclass(frozen=True, slots=True)
class Receipts:
    """The receipt columns of lines: line number, index of the connection in the seal, `recv_seq`, `ts_recv`.

    Unreadable values are -1.
    """

    line: Ints
    connection: Ints
    seq: Ints
    time: Ints

    @classmethod
    def of(cls, piece: Slice, seal: Seal) -> Self:
        known = [row.connection for row in seal.connections]
        frame = piece.frame.select(
            pl.col("connection").replace_strict(known, range(len(known)), default=-1, return_dtype=pl.Int64),
            pl.when(pl.col("recv_seq").is_between(1, MOST_TRADES - 1)).then("recv_seq"),
            pl.when(pl.col("ts_recv") >= 0).then("ts_recv"),
        )
        line = np.arange(piece.first, piece.first + frame.height)
        return cls(line, *(frame[name].fill_null(-1).to_numpy() for name in frame.columns))

    @classmethod
    def all_of(cls, pieces: Iterable[Slice], seal: Seal) -> Self:
        parts = [cls.of(piece, seal) for piece in pieces]
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in cls.__slots__))


@dataclass(frozen=True, slots=True)
class Disorder:
    """The lines that break the order, one boolean for each line of the batch.

    `seq`: `recv_seq` does not rise. `gap`: a trade is missing before this line. `time`: `ts_recv` falls.
    """

    seq: Bools
    gap: Bools
    time: Bools

    @staticmethod
    def columns(blamed: "Disorder | None", piece: Slice) -> list[pl.Series | pl.Expr]:
        """Return `seq_rises`, `seq_follows`, and `time_rises` for the lines of `piece`; all true if none is blamed."""
        names = ("seq_rises", "seq_follows", "time_rises")
        if blamed is None:
            return [pl.lit(value=True).alias(name) for name in names]
        here = slice(piece.first - 1, piece.first - 1 + piece.frame.height)
        found = (blamed.seq, blamed.gap, blamed.time)
        return [pl.Series(name, ~lines[here]) for name, lines in zip(names, found, strict=True)]


class InOrder:
    """Checks slice by slice whether everything is in order so far; fast, but does not find the faulty lines."""

    def __init__(self, seal: Seal) -> None:
        self._lanes = seal.lanes
        self._before_seq, self._before_time = _before(seal)
        self._last = [np.array([value]) for value in (0, -1, 0, 0)]

    def holds(self, rows: Receipts) -> bool:
        """Return whether the next lines are in order; entirely unreadable lines are ignored."""
        readable = (rows.connection >= 0) & (rows.seq >= 0) & (rows.time >= 0)
        if ((rows.connection >= 0) & ~readable).any():
            return False
        columns = [rows.line, rows.connection, rows.seq, rows.time]
        columns = columns if readable.all() else [column[readable] for column in columns]
        first = [np.concatenate([last, column[:1]]) for last, column in zip(self._last, columns, strict=True)]
        self._last = [np.concatenate([last, column[-1:]])[-1:] for last, column in zip(first, columns, strict=True)]
        return self._rise(*first) and self._rise(*columns)

    def _rise(self, line: Ints, connection: Ints, seq: Ints, time: Ints) -> bool:
        same, index = connection[1:] == connection[:-1], connection[1:]
        seq_before, time_before = seq[:-1], time[:-1]
        if not same.all():
            seq_before = np.where(same, seq_before, self._before_seq[index])
            time_before = np.where(same, time_before, self._before_time[index])
        distance = np.diff(line) if self._lanes == 1 else 1
        steps = seq[1:] - seq_before
        whole = steps == distance if self._lanes == 1 else steps >= distance
        return bool(whole.all() and (time[1:] >= time_before).all() and (connection[1:] >= connection[:-1]).all())


def disorder(rows: Receipts, seal: Seal) -> Disorder:
    """Find the lines that break the order, over all lines of a batch."""
    before_seq, before_time = _before(seal)
    known = rows.connection >= 0
    has_seq = known & (rows.seq >= 0)
    rises = has_seq & (rows.seq > before_seq[rows.connection])
    keys = (rows.connection << _SEQ_BITS) | rows.seq
    rises[rises] = _longest_series(keys[rises], strict=True, steady=_steady(keys[rises]))
    has_time = known & (rows.time >= 0)
    late = has_time & (rows.time >= before_time[rows.connection])
    late[late] = _never_falling(rows.connection[late], rows.time[late])
    gap = _gaps(rows, rises, before_seq) if seal.lanes == 1 else np.zeros(len(known), bool)
    return Disorder(seq=has_seq & ~rises, gap=gap, time=has_time & ~late)


def _gaps(rows: Receipts, rises: Bools, before_seq: Ints) -> Bools:
    """Return the lines whose `recv_seq` is higher than the lines before it (unreadable ones included) can explain."""
    found = np.zeros(len(rises), bool)
    at, ended = np.flatnonzero(rises), 0
    for index in np.unique(rows.connection[at]):
        here = at[rows.connection[at] == index]
        ahead = rows.seq[here] - (rows.line[here] - ended)
        highest = np.maximum.accumulate(np.concatenate([before_seq[index : index + 1], ahead]))
        found[here] = ahead > highest[:-1]
        ended = int(rows.line[here[-1]])
    return found


def _never_falling(connection: Ints, time: Ints) -> Bools:
    """Return which rows to keep so that times never fall within a connection."""
    by_connection = np.argsort(connection, kind="stable")
    rank = np.unique(time, return_inverse=True)[1].astype(np.int64)
    kept = np.empty(len(time), np.bool_)
    kept[by_connection] = _longest_series(((connection << _SEQ_BITS) | rank)[by_connection], strict=False)
    return kept


def _steady(keys: Ints) -> Bools:
    """Return which keys directly follow or precede their neighbor's key; among equal keys these are preferred."""
    steps = np.diff(keys) == 1
    return np.concatenate([[False], steps]) | np.concatenate([steps, [False]]) if len(keys) else np.empty(0, np.bool_)


def _longest_series(values: Ints, *, strict: bool, steady: Bools | None = None) -> Bools:
    """Return which values form a longest series that rises (or, if not `strict`, never falls)."""
    if not len(values):
        return np.zeros(0, bool)
    highest = np.maximum.accumulate(values[:-1])
    lowest = np.minimum.accumulate(values[:0:-1])[::-1]
    bad_after, bad_before = (
        (values[1:] <= highest, values[:-1] >= lowest) if strict else (values[1:] < highest, values[:-1] > lowest)
    )
    # A value in order with all others is in every longest series; only the rest needs the slow search.
    disputed = np.concatenate([[False], bad_after]) | np.concatenate([bad_before, [False]])
    steady = (np.zeros(len(values), np.bool_) if steady is None else steady)[disputed]
    kept: Bools = ~disputed
    kept[np.flatnonzero(disputed)[_search(values[disputed], steady, strict=strict)]] = True
    return kept


def _search(values: Ints, steady: Bools, *, strict: bool) -> list[int]:
    """Return the indices of a longest series by patience sorting; ties go to the smallest last values.

    Among equal values the first `steady` one is used, or else the first.
    """
    seek = bisect_left if strict else bisect_right
    tails: list[int] = []
    tops: list[int] = []
    previous = array("q")
    for place, value in enumerate(values.tolist()):
        pile = seek(tails, value)
        previous.append(tops[pile - 1] if pile else -1)
        if tails[pile : pile + 1] == [value] and (steady[tops[pile]] or not steady[place]):
            continue
        tails[pile : pile + 1] = [value]
        tops[pile : pile + 1] = [place]
    series, place = [], tops[-1] if tops else -1
    while place >= 0:
        series.append(place)
        place = previous[place]
    return series


def _before(seal: Seal) -> tuple[Ints, Ints]:
    """Return `before_seq` and `before_recv_ns` by connection index, plus an entry for lines without a connection."""
    return (
        np.array([row.before_seq for row in seal.connections] + [0], np.int64),
        np.array([row.before_recv_ns for row in seal.connections] + [0], np.int64),
    )
