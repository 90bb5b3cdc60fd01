"""Finds runs of trades that repeat earlier ones at one constant distance.

A run begins at a *witness*: three consecutive rows, all different, each of which equals the row `distance` rows earlier
and no row in between. It extends in both directions as long as each row equals the row at that distance, up to
`REACH_ROWS` from the witness. A distance is at most `BACK_ROWS`.

Three rows are required because equal prints are common: on two real days 20 % of all rows equal an earlier one, 1.2 %
are in runs of two, and 0.05 % in runs of three. Requiring that no equal row lies in between excludes bursts of a few
prints repeated over and over; without it 0.16 % would be marked.
"""

from dataclasses import dataclass

import numpy as np

from tasks.validate.prints import Hashes, Marks, Prints, Times

REACH_ROWS = 1000
# A minute of the busiest feeds. If all event times are equal, each slice searches this many rows again.
BACK_ROWS = 1_000_000
_TABLE_BITS = 20
_PIECE_ROWS = 1 << 19
_FIRST, _SECOND = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD6E8FEB86659FD93)


@dataclass(frozen=True, slots=True)
class _Ends:
    """The open ends of runs: the next row of each, its distance, and the row at which it must stop."""

    row: Times
    distance: Times
    stop: Times

    def only(self, which: Marks) -> "_Ends":
        return _Ends(self.row[which], self.distance[which], self.stop[which])

    def step(self, by: int) -> "_Ends":
        return _Ends(self.row + by, self.distance, self.stop)

    def __add__(self, other: "_Ends") -> "_Ends":
        return _Ends(
            np.concatenate([self.row, other.row]),
            np.concatenate([self.distance, other.distance]),
            np.concatenate([self.stop, other.stop]),
        )


_NONE: Times = np.empty(0, np.int64)


class Runs:
    """Marks the rows of runs, as rows are added."""

    def __init__(self, reach_rows: int = REACH_ROWS, back_rows: int = BACK_ROWS) -> None:
        self._reach, self._back = reach_rows, back_rows
        self._searched = 0
        self._latest_ns = np.iinfo(np.int64).min
        self._open = _Ends(_NONE, _NONE, _NONE)
        # First rows of the triples examined last that could equal three earlier rows.
        self.repeated = _NONE

    def mark(self, prints: Prints) -> int:
        """Process the rows added since the last call; return the row before which all marks are final."""
        row, keys = self._repeated_triples(prints)
        self.repeated = row[row >= self._searched - 2]
        row, distance = _witnesses(prints.hashes, row, keys, self._searched - 2)
        row, distance = row[distance <= self._back], distance[distance <= self._back]
        self._open = self._extended(prints, row, distance)
        self._latest_ns = max(self._latest_ns, int(prints.ts_event_ns[self._searched :].max(initial=self._latest_ns)))
        self._searched = prints.rows
        return max(0, prints.rows - 2 - self._reach)

    def _repeated_triples(self, prints: Prints) -> tuple[Times, Hashes]:
        """Return the first rows and keys of triples whose last row is new and that occur more than once.

        May include false positives; preceded by the earlier triples that could equal one of them.
        """
        first = max(0, self._searched - 2)
        found = prints.hashes[first:]
        if len(found) < 3:
            return _NONE, found[:0]
        keys = _keys(found[:-2], found[1:-1], found[2:])
        old, old_keys = self._earlier(prints, first, keys)
        again = np.flatnonzero(_among(keys, np.concatenate([_repeated(keys), old_keys])))
        return np.concatenate([old, first + again]), np.concatenate([old_keys, keys[again]])

    def _earlier(self, prints: Prints, first: int, keys: Hashes) -> tuple[Times, Hashes]:
        """Return the first rows and keys of earlier triples that could equal some of the new ones.

        Equal trades have equal event times, so few rows need to be examined.
        """
        times = prints.ts_event_ns
        before = np.flatnonzero(times[first + 2 :] <= self._latest_ns)
        if not len(before):
            return _NONE, keys[:0]
        earliest, wanted, found = times[first + 2 :][before].min(), keys[before], prints.hashes
        parts = [(_NONE, keys[:0])]
        # Piece by piece, because in the worst case all event times are equal and every earlier row is examined.
        for start in range(max(0, first - self._back), self._searched - 2, _PIECE_ROWS):
            stop = min(start + _PIECE_ROWS, self._searched - 2)
            old = start + np.flatnonzero(times[start + 2 : stop + 2] >= earliest)
            old_keys = _keys(found[old], found[old + 1], found[old + 2])
            known = _among(old_keys, wanted)
            parts.append((old[known], old_keys[known]))
        return np.concatenate([row for row, _ in parts]), np.concatenate([each for _, each in parts])

    def _extended(self, prints: Prints, row: Times, distance: Times) -> _Ends:
        """Mark the witnesses and the runs around them; return the ends that more rows could extend."""
        begin = max(0, prints.rows if not len(row) else int(row[0]) - self._reach)
        owner = np.zeros(prints.rows - begin, np.int64)
        for step in range(3):
            prints.marks[row + step] = True
            owner[row + step - begin] = distance
        apart = (np.diff(row) != 1) | (np.diff(distance) != 0)
        starts, ends = np.append(True, apart)[: len(row)], np.append(apart, True)[: len(row)]
        left = _Ends(row - 1, distance, row - self._reach - 1).only(starts)
        _extend(prints, left, -1, owner, begin)
        right = _Ends(row + 3, distance, row + self._reach + 1).only(ends)
        return _extend(prints, self._open + right, 1, owner, begin)


def _extend(prints: Prints, ends: _Ends, by: int, owner: Times, begin: int) -> _Ends:
    """Extend these ends row by row while rows equal the row at their distance; return those that reach the last row.

    An end stops at a row of another witness with the same distance, which continues from there and reaches further.
    """
    found, at_last = prints.hashes, _Ends(_NONE, _NONE, _NONE)
    while len(ends.row):
        beyond = ends.row >= prints.rows
        if beyond.any():
            at_last, ends = at_last + ends.only(beyond), ends.only(~beyond)
        ends = ends.only((ends.row != ends.stop) & (ends.row >= ends.distance))
        equal = found[ends.row] == found[ends.row - ends.distance]
        owned = np.zeros(len(ends.row), np.int64)
        inside = ends.row >= begin
        owned[inside] = owner[ends.row[inside] - begin]
        ends = ends.only(equal & (owned != ends.distance))
        prints.marks[ends.row] = True
        ends = ends.step(by)
    return at_last


def _keys(a: Hashes, b: Hashes, c: Hashes) -> Hashes:
    """Return a key for three trades in this order; the trades themselves are compared later."""
    keys: Hashes = ((a * _FIRST + b) * _SECOND + c) * _FIRST
    return keys


def _repeated(keys: Hashes) -> Hashes:
    """Return all keys that occur more than once, and hardly any others (their upper halves are compared)."""
    halves = np.sort((keys >> np.uint64(32)).astype(np.uint32))
    repeated: Hashes = halves[1:][halves[1:] == halves[:-1]].astype(np.uint64) << np.uint64(32)
    return repeated


def _among(keys: Hashes, wanted: Hashes) -> Marks:
    """Return which keys may be in `wanted`: no false negatives, one false positive in a million per wanted key."""
    table = np.zeros(1 << _TABLE_BITS, np.bool_)
    shift = np.uint64(64 - _TABLE_BITS)
    table[wanted >> shift] = True
    found: Marks = table[keys >> shift]
    return found


def _nearest(row: Times, keys: Hashes) -> tuple[Times, Times]:
    """Return the rows (ascending) that have an earlier row with the same key, and the distance to the nearest one."""
    order = np.argsort(keys, kind="stable")
    same = np.flatnonzero(keys[order][1:] == keys[order][:-1])
    later, earlier = row[order[same + 1]], row[order[same]]
    rising = np.argsort(later)
    return later[rising], (later - earlier)[rising]


def _witnesses(found: Hashes, row: Times, keys: Hashes, first: int) -> tuple[Times, Times]:
    """Return the first rows (from `first` on) of the witnesses among these repeated rows, and their distances."""
    a, b, c = found[row], found[row + 1], found[row + 2]
    different = (a != b) & (b != c) & (a != c)
    row, distance = _nearest(row[different], keys[different])
    return _last_equal(found, row[row >= first], distance[row >= first])


def _last_equal(found: Hashes, row: Times, distance: Times) -> tuple[Times, Times]:
    """Return the triples that equal the triple at their distance, with no equal row in between."""
    if not len(row):
        return row, distance
    begin, end = int((row - distance).min()), int(row[-1]) + 3
    place = begin + np.flatnonzero(_among(found[begin:end], found[row[:, None] + np.arange(3)].ravel()))
    later, back = _nearest(place, found[place])
    holds = np.ones(len(row), np.bool_)
    for step in range(3):
        at = np.minimum(np.searchsorted(later, row + step), len(later) - 1)
        holds &= (later[at] == row + step) & (back[at] == distance) if len(later) else False
    return row[holds], distance[holds]
