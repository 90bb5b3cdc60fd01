"""However gaps are opened and closed, those of one symbol do not overlap, and no time is lost."""

import os
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.capture.gaps import GapBook

SYMBOLS = st.frozensets(st.sampled_from("ABC"), min_size=1)
# What is done, to which symbols, how long after the step before, and for `open` how long before that time it began.
STEPS = st.lists(
    st.tuples(st.sampled_from(("open", "close")), SYMBOLS, st.integers(0, 5), st.integers(0, 20)), max_size=12
)


@settings(max_examples=50)
@given(STEPS)
def test_gaps_of_one_symbol_never_overlap_and_nothing_is_lost(
    steps: list[tuple[str, frozenset[str], int, int]],
) -> None:
    """Whatever starts are given, a symbol's gaps do not overlap and together cover all of them."""
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
    """Symbols whose last gaps ended at different times get separate gaps for the time those left out."""
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


def test_the_book_is_on_disk_after_each_change(tmp_path: Path) -> None:
    """Another book of the same file has the same gaps and appends after what the first has written."""
    path = tmp_path / "gaps.log"
    book = GapBook(path)
    assert (book.all(), path.exists()) == ((), False)
    book.open(("A", "B"), 10, "lost")
    assert path.stat().st_mode & 0o111 == 0
    again = GapBook(path)
    assert again.all() == book.all()
    assert [(gap.symbols, gap.start_ns, gap.end_ns, gap.reason) for gap in again.all()] == [
        (("A", "B"), 10, None, "lost")
    ]
    size = path.stat().st_size
    again.open(["A"], 20, "again")
    assert path.stat().st_size == size
    again.close(["A"], 20)
    assert path.stat().st_size > size
    assert GapBook(path).all() == again.all()


def test_what_a_kill_has_torn_is_overwritten(tmp_path: Path) -> None:
    """A torn line of any length is cut before the next one is written."""
    path = tmp_path / "gaps.log"
    GapBook(path).open(["A"], 10, "lost")
    path.write_bytes(path.read_bytes() + b"x" * 500)
    GapBook(path).close(["A"], 20)
    assert b"x" not in path.read_bytes()
    assert [(gap.start_ns, gap.end_ns) for gap in GapBook(path).all()] == [(10, 20)]


def test_the_gaps_that_a_batch_touches(tmp_path: Path) -> None:
    """Gaps that overlap or meet the interval, and open ones that began by its end."""
    book = GapBook(tmp_path / "gaps.log")
    book.open(["A"], 10, "lost")
    book.close(["A"], 20)
    book.open(["B"], 30, "lost")
    assert [[gap.symbols[0] for gap in book.touching(*span)] for span in ((0, 9), (0, 10), (20, 29), (21, 29), (30, 30),
            (90, 99))] == [[], ["A"], ["A"], [], ["B"], ["B"]]  # fmt: skip


def test_the_end_of_a_session_ends_its_gaps(tmp_path: Path) -> None:
    """Open gaps end here, others stay as they are."""
    book = GapBook(tmp_path / "gaps.log")
    book.open(["A"], 10, "lost")
    book.close(["A"], 20)
    book.open(["B", "C"], 30, "lost")
    book.finish(40)
    assert [(gap.symbols, gap.end_ns) for gap in book.all()] == [(("A",), 20), (("B", "C"), 40)]


def test_a_book_that_cannot_be_written_names_its_file(tmp_path: Path) -> None:
    """The disk's error names the file; a link in its place is not followed."""
    path = tmp_path / "gaps.log"
    book = GapBook(path)
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match=r"gaps\.log"):
        book.open(["A"], 10, "lost")
    path.unlink()
    book.open(["B"], 10, "lost")
    if Path("/dev/full").exists():
        path.unlink()
        path.symlink_to("/dev/full")
        with pytest.raises(OSError, match=r"gaps\.log"):
            book.open(["C"], 10, "lost")


def test_one_book_writes_behind_what_it_has_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Change after change, even on a disk that accepts a few bytes at a time; the new file's name is synced once."""
    path, real, synced = tmp_path / "gaps.log", os.pwrite, list[str]()
    sync = os.fsync

    def note(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        sync(descriptor)

    monkeypatch.setattr(os, "pwrite", lambda descriptor, content, at: real(descriptor, content[:9], at))
    monkeypatch.setattr(os, "fsync", note)
    book = GapBook(path)
    for number in range(3):
        book.open(["A"], 10 + number, "lost")
        book.close(["A"], 11 + number)
    monkeypatch.undo()
    assert synced == ["gaps.log", tmp_path.name, *["gaps.log"] * 5]
    assert GapBook(path).all() == book.all()
    assert [(gap.start_ns, gap.end_ns) for gap in book.all()] == [(10, 11), (11, 12), (12, 13)]
