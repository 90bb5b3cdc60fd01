"""The changes that make up a session's gaps, and what counts of a torn or foreign file."""

import zlib
from pathlib import Path

import msgspec
import pytest

from tasks.records.checked_line import checked_line, text_of
from tasks.records.gaps import Change, Gaps, SavedGaps, line_of, read_gaps
from tasks.records.ledger import Gap
from tasks.records.manifest import encode


def gap(symbols: str, start_ns: int, end_ns: int | None, reason: str = "lost") -> Gap:
    return Gap(symbols=tuple(symbols), start_ns=start_ns, end_ns=end_ns, reason=reason)


def opened(symbols: str, at_ns: int, reason: str = "lost") -> Change:
    return Change(tuple(symbols), at_ns, reason)


def closed(symbols: str, at_ns: int) -> Change:
    return Change(tuple(symbols), at_ns)


def test_a_line_ends_in_the_checksum_of_the_rest() -> None:
    """A line is its text, a tab, eight hexadecimal digits and a line feed; tabs in the text are the text's."""
    assert checked_line(b"a\tb") == b"a\tb\t%08x\n" % zlib.crc32(b"a\tb")
    assert text_of(checked_line(b"a\tb")[:-1]) == b"a\tb"
    assert text_of(checked_line(b"")[:-1]) == b""


@pytest.mark.parametrize("line", [b"", b"a", b"a\t", b"a\t00000000", checked_line(b"a")[:-2], checked_line(b"a")])
def test_a_line_whose_checksum_is_another_has_no_text(line: bytes) -> None:
    """Torn, damaged, and foreign lines are distinguished from an empty text."""
    assert text_of(line) is None


def test_a_change_says_whether_anything_is_different() -> None:
    """Opening a gap for symbols in one, or closing one for symbols in none, changes nothing."""
    gaps = Gaps()
    assert gaps.apply(opened("AB", 10)) is True
    assert gaps.apply(opened("AB", 20, "again")) is False
    assert gaps.apply(closed("C", 30)) is False
    assert gaps.apply(closed("A", 30)) is True
    assert gaps.apply(closed("A", 40)) is False
    assert gaps.all == [gap("A", 10, 30), gap("B", 10, None)]


def test_a_gap_ends_for_each_symbol_at_its_time() -> None:
    """Symbols that return leave the others in the gap; closed gaps keep their ends and order."""
    gaps = Gaps()
    for change in (opened("A", 10), closed("A", 20), opened("ABC", 30, "silent"), closed("ACX", 40), closed("B", 50)):
        gaps.apply(change)
    assert gaps.all == [gap("A", 10, 20), gap("AC", 30, 40, "silent"), gap("B", 30, 50, "silent")]


def test_a_stretch_that_is_found_out_later_leaves_the_others_as_they_are(tmp_path: Path) -> None:
    """It gets what no gap of its symbol has; one that lasts goes on, and the file tells the same."""
    gaps, path = Gaps(), tmp_path / "gaps.log"
    found_out = Change(("A", "B"), 5, "missing", 35)
    changes = opened("A", 10), closed("A", 20), opened("A", 30, "again"), found_out
    assert [gaps.apply(change) for change in (*changes, found_out)] == [True, True, True, True, False]
    assert gaps.all == [
        gap("A", 10, 20), gap("A", 30, None, "again"), gap("A", 5, 10, "missing"), gap("A", 20, 30, "missing"),
        gap("B", 5, 35, "missing"),
    ]  # fmt: skip
    path.write_bytes(b"".join(map(line_of, changes)))
    assert read_gaps(path)[0] == gaps


def test_no_gap_ends_before_it_begins() -> None:
    """A clock set back makes an empty gap, not a negative one."""
    gaps = Gaps()
    gaps.apply(opened("A", 10))
    gaps.apply(closed("A", 4))
    assert gaps.all == [gap("A", 10, 10)]


def test_a_gap_leaves_out_what_an_earlier_one_has() -> None:
    """Told late, a gap lies around the symbol's gap that has ended after its beginning, and not around others'."""
    gaps = Gaps([gap("A", 10, 20), gap("B", 15, 30)])
    assert gaps.apply(opened("A", 5, "late"))
    assert gaps.all[2:] == [gap("A", 5, 10, "late"), gap("A", 20, None, "late")]
    gaps = Gaps([gap("A", 10, 20)])
    gaps.apply(opened("BA", 20, "next"))
    assert gaps.all[1:] == [gap("BA", 20, None, "next")]
    gaps = Gaps([gap("A", 10, 20)])
    gaps.apply(opened("CAB", 12, "next"))
    assert gaps.all[1:] == [gap("CB", 12, None, "next"), gap("A", 20, None, "next")]


def test_a_file_gives_its_gaps_and_the_length_of_its_whole_lines(tmp_path: Path) -> None:
    """Anything after the last complete line, or after a damaged one, counts as not written."""
    path = tmp_path / "gaps.log"
    assert read_gaps(path) == (Gaps(), 0)
    first, second = line_of(opened("AB", 10)), line_of(closed("A", 20))
    for torn in (b"", second[:-1], second[:-3] + b"?!\n" + second, checked_line(b"{}") + second, checked_line(b"[")):
        path.write_bytes(first + torn)
        assert read_gaps(path) == (Gaps([gap("AB", 10, None)]), len(first))
    path.write_bytes(first + second)
    assert read_gaps(path) == (Gaps([gap("A", 10, 20), gap("B", 10, None)]), len(first) + len(second))


def test_a_change_is_written_without_names() -> None:
    """A line has symbols, time, and, if a gap opens, the reason."""
    assert text_of(line_of(opened("AB", 10))[:-1]) == b'[["A","B"],10,"lost"]'
    assert msgspec.json.decode(text_of(line_of(closed("A", 20))[:-1]) or b"") == [["A"], 20, None]


def test_what_earlier_versions_kept_comes_first(tmp_path: Path) -> None:
    """The gaps of an older file are read, and later changes apply to them."""
    (tmp_path / "gaps.json").write_bytes(encode(SavedGaps((gap("A", 1, None),))))
    path = tmp_path / "gaps.log"
    assert read_gaps(path) == (Gaps([gap("A", 1, None)]), 0)
    path.write_bytes(line_of(closed("A", 9)))
    assert read_gaps(path)[0].all == [gap("A", 1, 9)]
