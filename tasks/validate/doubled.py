"""Finds messages that were delivered twice, one after the other: `A A B B C C`, or `A B A B C D E C D E`.

A journal does not say where a message ends, so a *pair* is any stretch of at most `WIDTH_ROWS` rows that is followed
by the same rows again. One pair proves nothing: 12 % of real rows equal the row before. Pairs that follow each other
without a row between them are a *chain*; it counts if, read once, the trade in it changes `CHANGES` times within
`PAIRS` pairs. On two real days that marks 0.03 % and 0.01 % of all rows; with five changes it would be 0.07 %.
The second half of each pair of a chain is marked.
"""

from dataclasses import dataclass

import numpy as np

from tasks.validate.prints import Hashes, Marks, Prints, Times

WIDTH_ROWS = 32
CHANGES = 6
PAIRS = 6


@dataclass(frozen=True, slots=True)
class _Pairs:
    """The rows at which pairs of this width begin, and how often the trade changes in the first half of each."""

    width: int
    row: Times
    changes: Times

    def only(self, which: Marks) -> "_Pairs":
        return _Pairs(self.width, self.row[which], self.changes[which])


class Doubled:
    """Marks the second halves of pairs in chains, as rows are added.

    A chain is read from left to right; where several pairs begin at a row, the one is taken from which the next
    `PAIRS` pairs have the most changes, the shortest of equals.
    """

    def __init__(self, width_rows: int = WIDTH_ROWS, changes: int = CHANGES, pairs: int = PAIRS) -> None:
        self._width, self._changes, self._pairs = width_rows, changes, pairs
        self._at = 0
        self._in_chain = False
        self._repeated: Times = np.empty(0, np.int64)

    def mark(self, prints: Prints, repeated: Times, *, ended: bool) -> int:
        """Look at the rows added since the last call; gives up to which row no mark will change any more.

        `repeated` has at least the first rows of any three consecutive ones, the last of them new, that equal three
        earlier ones. `ended`: no more rows will come.
        """
        self._repeated = np.concatenate([self._repeated[self._repeated >= self._at], repeated])
        # What a row begins is known once all pairs are there that could follow it.
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
        """The rows from `begin` on at which pairs begin; for each the width to take, and the changes from it on.

        Pairs that can belong to no chain are left out.
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
    """The pairs from the row `begin` on, by their width."""
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
    """The rows at which a pair of one or two rows begins."""
    equal = here[width:] == here[:-width]
    return np.flatnonzero(equal if width == 1 else equal[1:] & equal[:-1])


def _wide(here: Hashes, width: int, triples: Times, first: Hashes) -> Times:
    """The rows at which a pair of three or more rows begins: so many less two triples are equal in a row."""
    later = triples[(first == here[triples - width]) & (triples >= width)]
    for step in (1, 2):
        later = later[here[later + step] == here[later + step - width]]
    starts = later[: max(0, len(later) - width + 3)]
    rows: Times = starts[later[width - 3 :] - starts == width - 3] - width
    return rows


def _chained(pairs: list[_Pairs], rows: int, changes: int, in_chain: bool) -> list[_Pairs]:
    """The pairs that follow another or are followed by one, or are enough by themselves."""
    begins, ends = np.zeros(rows + 1, np.bool_), np.zeros(rows + 1, np.bool_)
    ends[0] = in_chain
    for pair in pairs:
        begins[pair.row] = True
        ends[pair.row + 2 * pair.width] = True
    kept = [pair.only(ends[pair.row] | begins[pair.row + 2 * pair.width] | (pair.changes >= changes)) for pair in pairs]
    return [pair for pair in kept if len(pair.row)]


def _places(rows: Times, wanted: Times) -> Times:
    """Where these rows stand among `rows`, the end where they do not."""
    place = np.searchsorted(rows, wanted)
    place[rows[np.minimum(place, len(rows) - 1)] != wanted] = len(rows)
    return place
