"""Finds messages that were delivered twice, one after the other: `A A B B C C`, or `A B A B C D E C D E`.

A journal does not show where a message ends, so a *pair* is any stretch of at most `WIDTH_ROWS` rows followed by the
same rows again. A single pair proves nothing: 12 % of real rows equal the row before. A *chain* is a series of pairs
without rows in between; it counts as evidence if the trade changes `CHANGES` times within `PAIRS` pairs (counting one
half of each pair). On two real days this marks 0.03 % and 0.01 % of all rows; five changes would mark 0.07 %. The
second half of each pair in a chain is marked.
"""

from dataclasses import dataclass

import numpy as np

from tasks.validate.prints import Hashes, Marks, Prints, Times

WIDTH_ROWS = 32
CHANGES = 6
PAIRS = 6


@dataclass(frozen=True, slots=True)
class _Pairs:
    """The rows at which pairs of one width begin, and how often the trade changes in the first half of each."""

    width: int
    row: Times
    changes: Times

    def only(self, which: Marks) -> "_Pairs":
        return _Pairs(self.width, self.row[which], self.changes[which])


class Doubled:
    """Marks the second halves of pairs in chains, as rows are added.

    A chain is read from left to right. If several pairs begin at a row, the one whose next `PAIRS` pairs have the most
    changes is used; ties go to the shortest.
    """

    def __init__(self, width_rows: int = WIDTH_ROWS, changes: int = CHANGES, pairs: int = PAIRS) -> None:
        self._width, self._changes, self._pairs = width_rows, changes, pairs
        self._at = 0
        self._in_chain = False
        self._repeated: Times = np.empty(0, np.int64)

    def mark(self, prints: Prints, repeated: Times, *, ended: bool) -> int:
        """Process the rows added since the last call; return the row before which all marks are final.

        `repeated` contains at least the first row of every three consecutive rows that equal three earlier ones and
        whose last row is new. `ended`: no more rows will come.
        """
        self._repeated = np.concatenate([self._repeated[self._repeated >= self._at], repeated])
        # The pair that begins at a row can be chosen once all pairs that could follow it are known.
        known = prints.rows if ended else prints.rows - 2 * self._width * self._pairs
        if known > self._at:
            begin = self._at
            rows, widths, changes = self._best(prints.hashes, begin)
            starts = rows[changes >= self._changes]
            is_read = self._in_chain or len(starts)  # Seldom.
            taken = dict(zip(rows.tolist(), widths.tolist(), strict=True)) if is_read else {}
            self._read(prints, taken, starts, begin, known)
        return self._at

    def _best(self, found: Hashes, begin: int) -> tuple[Times, Times, Times]:
        """Return the rows from `begin` on at which pairs begin, the width to use for each, and the changes from it on.

        Pairs that cannot be part of a chain are left out.
        """
        pairs = _chained(
            _pairs(found, begin, self._repeated, self._width), len(found) - begin, self._changes, self._in_chain
        )
        begins = np.zeros(len(found) - begin, np.bool_)
        begins[np.concatenate([pair.row for pair in pairs]) if pairs else []] = True
        rows = np.flatnonzero(begins)
        taken, ahead = np.zeros(len(rows) + 1, np.int64), np.zeros(len(rows) + 1, np.int64)
        places = [(pair, np.searchsorted(rows, pair.row), _places(rows, pair.row + 2 * pair.width)) for pair in pairs]
        for _ in range(self._pairs):
            best = np.full(len(rows) + 1, -1)
            for pair, place, after in places:
                now = pair.changes + ahead[after]
                more = now > best[place]
                best[place[more]], taken[place[more]] = now[more], pair.width
            ahead = np.maximum(best, 0)
        return rows, taken[:-1], ahead[:-1]

    def _read(self, prints: Prints, taken: dict[int, int], starts: Times, begin: int, known: int) -> None:
        """Follow the chains through the rows from `begin` to `known`, and mark them."""
        at, chain = 0, self._in_chain
        while at < known - begin:
            width = taken.get(at, 0) if chain else 0
            if width:
                prints.marks[begin + at + width : begin + at + 2 * width] = True
                at += 2 * width
                continue
            place = int(np.searchsorted(starts, at))
            chain = place < len(starts) and int(starts[place]) < known - begin
            at = int(starts[place]) if chain else known - begin
        self._at, self._in_chain = begin + at, chain


def _pairs(found: Hashes, begin: int, repeated: Times, width_rows: int) -> list[_Pairs]:
    """Return the pairs from row `begin` on, grouped by width."""
    here, pairs = found[begin:], list[_Pairs]()
    is_change = np.ones(len(here), np.int32)
    is_change[1:] = here[1:] != here[:-1]
    is_change[0] = begin == 0 or found[begin] != found[begin - 1]
    count = np.concatenate([[0], np.cumsum(is_change)])
    triples = repeated[repeated >= begin] - begin
    first = here[triples]
    for width in range(1, min(width_rows, len(here) // 2) + 1):
        row = _short(here, width) if width < 3 else _wide(here, width, triples, first)
        if len(row):
            pairs.append(_Pairs(width, row, count[row + width] - count[row]))
    return pairs


def _short(here: Hashes, width: int) -> Times:
    """Return the rows at which a pair of width 1 or 2 begins."""
    equal = here[width:] == here[:-width]
    return np.flatnonzero(equal if width == 1 else equal[1:] & equal[:-1])


def _wide(here: Hashes, width: int, triples: Times, first: Hashes) -> Times:
    """Return the rows at which a pair of `width` (3 or more) begins: `width - 2` consecutive triples are equal."""
    later = triples[(first == here[triples - width]) & (triples >= width)]
    for step in (1, 2):
        later = later[here[later + step] == here[later + step - width]]
    starts = later[: max(0, len(later) - width + 3)]
    rows: Times = starts[later[width - 3 :] - starts == width - 3] - width
    return rows


def _chained(pairs: list[_Pairs], rows: int, changes: int, in_chain: bool) -> list[_Pairs]:
    """Return the pairs next to another pair, or with enough changes by themselves."""
    begins, ends = np.zeros(rows + 1, np.bool_), np.zeros(rows + 1, np.bool_)
    ends[0] = in_chain
    for pair in pairs:
        begins[pair.row] = True
        ends[pair.row + 2 * pair.width] = True
    kept = [pair.only(ends[pair.row] | begins[pair.row + 2 * pair.width] | (pair.changes >= changes)) for pair in pairs]
    return [pair for pair in kept if len(pair.row)]


def _places(rows: Times, wanted: Times) -> Times:
    """Return the index of each wanted row in `rows`, or `len(rows)` if it is absent."""
    place = np.searchsorted(rows, wanted)
    place[rows[np.minimum(place, len(rows) - 1)] != wanted] = len(rows)
    return place
