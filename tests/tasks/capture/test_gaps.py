"""The book of gaps: whatever is opened and closed, a symbol's gaps are apart and nothing of them is lost."""

from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given
from hypothesis import strategies as st

from tasks.capture.gaps import GapBook

SYMBOLS = st.frozensets(st.sampled_from("ABC"), min_size=1)
# What is done, to which symbols, how long after the step before, and for `open` how long before that time it began.
STEPS = st.lists(
    st.tuples(st.sampled_from(("open", "close")), SYMBOLS, st.integers(0, 5), st.integers(0, 20)), max_size=12
)


@given(STEPS)
def test_gaps_of_one_symbol_never_overlap_and_nothing_is_lost(
    steps: list[tuple[str, frozenset[str], int, int]],
) -> None:
    """However early a gap is said to have begun, each symbol's gaps are apart, and together they cover all of them."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "gaps.log"
        lost: dict[str, set[int]] = {symbol: set() for symbol in "ABC"}
        since: dict[str, int] = {}
        now = 20
        for action, symbols, later, back in steps:
            now += later
            book = GapBook(path)  # As after a kill: what is on disk is all there is.
            if action == "open":
                book.open(sorted(symbols), now - back, "lost")
                since |= {symbol: now - back for symbol in symbols if symbol not in since}
            else:
                book.close(symbols, now)
                for symbol in symbols & since.keys():
                    lost[symbol].update(range(since.pop(symbol), now))
        GapBook(path).finish(now)
        for symbol, start in since.items():
            lost[symbol].update(range(start, now))
        gaps = GapBook(path).all()
        for symbol in "ABC":
            mine = sorted(
                (gap.start_ns, gap.end_ns or 0) for gap in gaps if symbol in gap.symbols and gap.start_ns != gap.end_ns
            )
            assert all(before[1] <= after[0] for before, after in pairwise(mine))
            assert {at for start, end in mine for at in range(start, end)} == lost[symbol]


def test_a_gap_that_would_begin_within_the_last_one_begins_at_its_end(tmp_path: Path) -> None:
    """Symbols whose last gaps ended at different times get gaps of their own, with what earlier ones have left out."""
    book = GapBook(tmp_path / "gaps.log")
    book.open("AB", 10, "lost")
    book.close("A", 20)
    book.close("B", 30)
    book.open("ABC", 15, "silent")
    assert [(gap.symbols, gap.start_ns, gap.end_ns) for gap in book.all()[2:]] == [
        (("C",), 15, None), (("A",), 20, None), (("B",), 30, None),
    ]  # fmt: skip
    book.finish(40)
    book.open("A", 5, "late")
    assert [(gap.start_ns, gap.end_ns) for gap in book.all() if gap.reason == "late"] == [(5, 10), (40, None)]
