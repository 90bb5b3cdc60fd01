"""Journals are followed by byte offset: each whole line once, whatever happens to its file meanwhile."""

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tape.dashboard.journal_tail import JournalChangedError, JournalTail, parsed
from tasks.records.names import BatchName
from tasks.records.trade import JOURNAL_HEADER, journal_header

SESSION = "20261124T143000Z-9f3c01ab"
COLUMNS = tuple(JOURNAL_HEADER.decode().strip().split(","))


def name(number: int = 0, lane: int = 0) -> BatchName:
    return BatchName(SESSION, lane, number)


def line(seq: int, symbol: str = "A") -> bytes:
    return b"1,%d,%d,%d,%s,1.50,2,1;12\n" % (seq, 2_000 + seq, 1_000 + seq, symbol.encode())


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    """The spool folder of the session."""
    folder = tmp_path / "spool" / SESSION
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def write(spool: Path) -> Callable[..., Path]:
    """Appends to a journal: `write(b"…", number=0, lane=0) -> path`; a new one begins with its header."""

    def append(content: bytes, number: int = 0, lane: int = 0, header: bytes = JOURNAL_HEADER) -> Path:
        path = spool / name(number, lane).journal
        with path.open("ab") as file:
            file.write(content if path.stat().st_size else header + content)
        return path

    return append


@pytest.fixture
def tail(spool: Path) -> Iterator[JournalTail]:
    """A tail that began when nothing was there."""
    tail = JournalTail(spool)
    assert tail.found() == {}
    yield tail
    tail.close()


def events(tail: JournalTail) -> list[int]:
    """The event times of all rows that are new."""
    return [event - 1_000 for _, frame in tail.read() for event in frame["ts_event"]]


def open_files() -> list[str]:
    """The journals that this process has open, by name; one that is gone says so."""
    found = []
    for path in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):
            found.append(str(path.readlink()))
    return sorted(each for each in found if SESSION in each)


def test_each_line_is_read_once(tail: JournalTail, write: Callable[..., Path]) -> None:
    """What came since the last look, of every lane in order; nothing if nothing came."""
    write(line(1) + line(2))
    write(line(8), lane=1)
    assert events(tail) == [1, 2, 8]
    assert events(tail) == []
    write(line(9), lane=1)
    write(line(3))
    assert events(tail) == [3, 9]
    assert tail.open_rows() == {name(): 3, name(lane=1): 2}


def test_a_torn_line_waits_for_its_rest(tail: JournalTail, write: Callable[..., Path]) -> None:
    """Also a torn header, and one cut in the middle of a number: half of it would be another number."""
    write(b"", header=JOURNAL_HEADER[:20])
    assert events(tail) == []
    write(JOURNAL_HEADER[20:] + line(1) + line(12)[:14])
    assert events(tail) == [1]
    assert events(tail) == []
    write(line(12)[14:-1])
    assert events(tail) == []
    write(b"\n")
    assert events(tail) == [12]


@pytest.mark.parametrize("is_removed", [False, True])
def test_a_sealed_journal_is_read_to_its_end(
    tail: JournalTail, write: Callable[..., Path], tmp_path: Path, is_removed: bool
) -> None:
    """Lines that came between the last look and the move, even if validation has removed the file since."""
    path = write(line(1))
    assert events(tail) == [1]
    write(line(2))
    path.replace(tmp_path / name().sealed)
    write(line(3), number=1)
    if is_removed:
        (tmp_path / name().sealed).unlink()
    assert events(tail) == [2, 3]
    assert events(tail) == []
    assert tail.open_rows() == {name(1): 1}
    assert tail.seen == {name(), name(1)}


def test_a_journal_that_moves_while_it_is_read_is_read_once(
    tail: JournalTail, write: Callable[..., Path], tmp_path: Path
) -> None:
    """Written to, sealed, and replaced by the next one while an earlier journal's rows are being handed over."""
    write(line(1))
    path = write(line(2), lane=1)
    rows = tail.read()
    found = [next(rows)]
    write(line(3), lane=1)
    path.replace(tmp_path / name(lane=1).sealed)
    write(line(4), number=1, lane=1)
    found += rows
    assert [event - 1_000 for _, frame in found for event in frame["ts_event"]] == [1, 2, 3]
    assert events(tail) == [4]


def test_a_journal_that_came_and_went_between_two_looks_is_not_taken_for_seen(
    tail: JournalTail, write: Callable[..., Path], tmp_path: Path
) -> None:
    """Its rows are read where it is now, by whoever asks which batches were seen."""
    write(line(1)).replace(tmp_path / name().sealed)
    assert events(tail) == []
    assert name() not in tail.seen


def test_what_is_there_at_first_is_read_apart(spool: Path, write: Callable[..., Path]) -> None:
    """The lines that a journal has when it is found come from the function of that journal, the later ones do not."""
    write(line(1) + line(2) + line(3)[:10])
    tail = JournalTail(spool)
    found = tail.found()
    write(line(3)[10:] + line(4))
    assert events(tail) == [3, 4]
    rows = [frame for read in found.values() for frame in read()]
    assert [event - 1_000 for frame in rows for event in frame["ts_event"]] == [1, 2]
    assert tail.open_rows() == {name(): 4}
    tail.close()


def test_closing_leaves_no_file_open(spool: Path, write: Callable[..., Path]) -> None:
    """Neither the journals, nor those whose first lines nobody has read yet, nor one that was sealed meanwhile."""
    before = open_files()
    write(line(1))
    write(line(2), lane=1)
    tail = JournalTail(spool)
    first, _ = tail.found().values()
    list(first())
    assert len(open_files()) == 3
    (spool / name(lane=1).journal).unlink()
    assert events(tail) == []
    tail.close()
    assert open_files() == before


def test_the_first_lines_are_there_even_if_the_journal_is_gone(spool: Path, write: Callable[..., Path]) -> None:
    """The thread that reads them may come late: the file has moved, and the tail has closed it."""
    path = write(line(1))
    tail = JournalTail(spool)
    found = tail.found()
    path.unlink()
    assert events(tail) == []
    assert [frame["ts_event"].to_list() for frame in found[name()]()] == [[1_001]]
    tail.close()


def test_an_empty_journal_leaves_its_name_to_the_next(tail: JournalTail, write: Callable[..., Path]) -> None:
    """A recorder that received nothing discards its journal, and the next one has the same number."""
    path = write(b"")
    assert events(tail) == []
    path.unlink()
    assert events(tail) == []
    write(line(1))
    assert events(tail) == [1]


@pytest.mark.parametrize("how", ["cut", "replaced"])
def test_a_journal_that_lost_lines_is_noticed(
    tail: JournalTail, write: Callable[..., Path], spool: Path, how: str
) -> None:
    """A recovery may cut what was read already; who counted those lines must count again."""
    path = write(line(1) + line(2))
    assert events(tail) == [1, 2]
    if how == "cut":
        os.truncate(path, len(JOURNAL_HEADER) + len(line(1)))
        path.replace(spool.parent / "sealed")
    else:
        path.with_suffix(".new").write_bytes(JOURNAL_HEADER + line(1) + line(2) + line(3))
        path.with_suffix(".new").replace(path)
    with pytest.raises(JournalChangedError):
        events(tail)


def test_a_cut_of_what_was_not_read_changes_nothing(tail: JournalTail, write: Callable[..., Path]) -> None:
    """A torn line that a recovery cuts was never shown."""
    path = write(line(1) + line(2)[:9])
    assert events(tail) == [1]
    os.truncate(path, path.stat().st_size - 9)
    write(line(3))
    assert events(tail) == [3]


@pytest.mark.parametrize(
    "damaged",
    [b"1,2,3\n", b"1,2,3,4,A,5,6,7,8,9\n", b"\0\0\0\0\n", b"\n", b"1,2,x,y,A,1.5,2,\n", b"1,2,3,,A,1.5,2,\n",
     b"1,2,3,\xff\xfe,\xff,1,2,\n"],
)  # fmt: skip
def test_a_damaged_line_does_not_hide_the_others(damaged: bytes) -> None:
    """It is left out, or has a time that is null."""
    frame = parsed(line(1) + damaged + line(2), COLUMNS).drop_nulls()
    assert frame["ts_event"].to_list() == [1_001, 1_002]
    assert frame.row(1) == (2_002, 1_002, "A", "1.50", "2", "1;12")


def test_further_columns_of_a_feed_do_not_matter(tail: JournalTail, write: Callable[..., Path]) -> None:
    """A journal whose feed numbers its trades has more columns than others."""
    write(line(1)[:-1] + b",77,88,buy\n", header=journal_header(("trade_id", "sequence", "side")))
    assert events(tail) == [1]
