"""The external sort returns every row once and in order."""

from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.archive.sorting import SortLimits, external_sort, regrouped

Keys = list[list[tuple[int, int]]]
PIECES = st.lists(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5)), max_size=30), max_size=8)


def frames(pieces: Keys) -> list[pl.DataFrame]:
    """Pieces of rows with two keys and a unique number."""
    rows = [pl.DataFrame(piece, {"a": pl.Int32, "b": pl.Int64}, orient="row") for piece in pieces]
    starts = [sum(map(len, pieces[:place])) for place in range(len(pieces))]
    return [
        frame.with_columns(n=pl.int_range(start, start + len(frame), dtype=pl.Int64))
        for frame, start in zip(rows, starts, strict=True)
    ]


@given(pieces=PIECES, run_rows=st.integers(1, 40), block_rows=st.integers(1, 12))
@settings(max_examples=40, deadline=None)
def test_all_rows_in_order(pieces: Keys, run_rows: int, block_rows: int) -> None:
    """For any run and block size and any ties, the rows come back sorted and no file is left behind."""
    given_rows = frames(pieces)
    with TemporaryDirectory() as folder:
        limits = SortLimits(run_rows, block_rows)
        found = list(external_sort(iter(given_rows), ["a", "b", "n"], Path(folder), limits))
        assert not [path for path in Path(folder).rglob("*") if path.is_file()]
    rows = [row for frame in found for row in frame.rows()]
    assert rows == sorted(row for frame in given_rows for row in frame.rows())


@given(pieces=PIECES, rows=st.integers(1, 40))
@settings(max_examples=40, deadline=None)
def test_regrouped(pieces: Keys, rows: int) -> None:
    """The same rows in the same order, in equal pieces except for the last."""
    given_rows = frames(pieces)
    found = list(regrouped(iter(given_rows), rows))
    assert [row for frame in found for row in frame.rows()] == [row for frame in given_rows for row in frame.rows()]
    assert all(frame.height == rows for frame in found[:-1])
    assert all(0 < frame.height <= rows for frame in found[-1:])


def test_no_more_is_in_memory_than_a_run_and_a_block_of_each(tmp_path: Path) -> None:
    """Pieces keep their size, and spilled blocks are loaded only when needed."""
    pieces = frames([[(n * 7 % 40, n * 13 % 50) for n in range(2_000)]])
    left = []
    for frame in external_sort(iter(pieces), ["a", "b", "n"], tmp_path, SortLimits(100, 10)):
        assert frame.height <= 100 + 20 * 10
        left.append(sum(path.is_file() for path in tmp_path.rglob("*")))
    assert (left[0], left[-1]) == (190, 0)
    assert all(before > after for before, after in pairwise(left))
