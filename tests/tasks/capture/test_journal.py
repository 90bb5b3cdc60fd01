"""A journal survives being cut anywhere: what its checksums vouch for is sealed, the rest is kept aside."""

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.capture.gaps import GapBook
from tasks.capture.journal import Block, Heading, Journal, finish_seal, frames_open, seal
from tasks.capture.recovery import recover_spool, trust
from tasks.feeds.base import Rejected
from tasks.records.manifest import Seal, read
from tasks.records.names import BatchName
from tasks.records.trade import JOURNAL_HEADER
from tasks.storage.store import Store

NAME = BatchName("20260102T150405Z-00c0ffee", 0, 0)
HEADING = Heading(
    batch=str(NAME), feed="finnhub", date="2026-01-02", symbols=("AAPL", "MSFT"), lanes=1, opened_ns=7,
    before={1: (4, 6)},
)  # fmt: skip


def line(seq: int) -> bytes:
    return b"1,%d,%d,1575526691134000000,%s,1.10,3,1;12\n" % (seq, seq * 10, b"AAPL" if seq % 3 else b"MSFT")


def write(journal: Journal, blocks: list[int], first_seq: int = 5) -> list[bytes]:
    """Write blocks of so many rows, each with a frame that was refused; gives the blocks."""
    written = []
    for rows in blocks:
        lines = [line(seq) for seq in range(first_seq, first_seq + rows)]
        block = Block(lines=lines, rows=rows, received=2, trade=1, through_ns=(first_seq + rows) * 10)
        for seq in range(first_seq, first_seq + rows):
            journal.take(1, seq, seq * 10, ["AAPL" if seq % 3 else "MSFT"], seq)
        block.rejected.append((1, first_seq * 10, Rejected("frame", "not a message", b"\xff,\n")))
        journal.append(block)
        written.append(b"".join(lines))
        first_seq += rows
    return written


def new_store(root: Path) -> Store:
    store = Store(root).prepare()
    (store.spool / NAME.session).mkdir()
    (store.sessions / NAME.session).mkdir()
    return store


def gaps(store: Store) -> GapBook:
    return GapBook(store.sessions / NAME.session / "gaps.log")


def test_a_sealed_journal_holds_what_was_written_and_says_so(tmp_path: Path) -> None:
    """The seal's rows, hash, frames, ranges and per-symbol counts are those of the blocks written."""
    store = new_store(tmp_path)
    journal = Journal(store.spool / NAME.session, NAME, HEADING)
    blocks = write(journal, [3, 1, 4])
    journal.close()
    seal(store, NAME, journal.sealed_as(99, HEADING.symbols, ()))
    assert (store.sealed / NAME.sealed).read_bytes() == JOURNAL_HEADER + b"".join(blocks)
    record = read(store.sealed / NAME.seal, Seal)
    assert (record.rows, record.frames.received, record.frames.trade, record.frames.rejected) == (8, 6, 3, 3)
    only = record.connections[0]
    assert (only.first_seq, only.last_seq, only.rows, only.before_seq, only.before_recv_ns) == (5, 12, 8, 4, 6)
    assert record.per_symbol == {"AAPL": 5, "MSFT": 3}
    assert len((store.quarantine / NAME.rejected_frames).read_bytes().splitlines()) == 3
    assert list((store.spool / NAME.session).iterdir()) == []


def test_recovery_seals_the_same_as_the_recorder_would_have(tmp_path: Path) -> None:
    """A journal that was whole when its recorder was killed is sealed with the same rows, hash and counts."""
    seals = []
    for name, killed in (("a", False), ("b", True)):
        store = new_store(tmp_path / name)
        journal = Journal(store.spool / NAME.session, NAME, HEADING)
        write(journal, [3, 1, 4])
        if killed:
            journal.abandon()
            assert recover_spool(store, NAME.session, 99, gaps(store))
        else:
            journal.close()
            seal(store, NAME, journal.sealed_as(99, HEADING.symbols, ()))
        seals.append(read(store.sealed / NAME.seal, Seal))
    ordered, recovered = seals
    assert recovered.recovered
    assert not ordered.recovered
    for field in ("rows", "bytes", "sha256", "frames", "connections", "per_symbol", "quarantine", "symbols", "date"):
        assert getattr(ordered, field) == getattr(recovered, field), field


@settings(deadline=None, max_examples=150)
@given(
    blocks=st.lists(st.integers(1, 6), min_size=1, max_size=6),
    which=st.sampled_from(["csv", "sums", "frames"]),
    where=st.floats(0, 1),
    how=st.sampled_from(["cut", "flip", "garbage"]),
)
def test_no_torn_or_damaged_row_is_accepted_and_no_vouched_row_is_lost(
    tmp_path_factory: pytest.TempPathFactory, blocks: list[int], which: str, where: float, how: str
) -> None:
    """Wherever a journal is cut or damaged, the recovered rows are whole blocks from its start, the rest is kept."""
    store = new_store(tmp_path_factory.mktemp("store"))
    folder = store.spool / NAME.session
    journal = Journal(folder, NAME, HEADING)
    written = write(journal, blocks)
    journal.abandon()
    refused = (folder / frames_open(NAME)).read_bytes()
    path = folder / {"csv": NAME.journal, "sums": NAME.sums, "frames": frames_open(NAME)}[which]
    content = bytearray(path.read_bytes())
    at = int(where * (len(content) - 1))
    if how == "cut":
        del content[at:]
    elif how == "flip":
        content[at] ^= 1 << random.Random(at).randrange(8)
    else:
        content[at:] = b"\0garbage,"
    path.write_bytes(content)
    before = (folder / NAME.journal).read_bytes()
    trusted = trust(folder, NAME)
    recover_spool(store, NAME.session, 99, gaps(store))
    sealed = (store.sealed / NAME.sealed).read_bytes() if (store.sealed / NAME.sealed).exists() else b""
    whole = [JOURNAL_HEADER + b"".join(written[:count]) for count in range(len(written) + 1)]
    assert sealed == b"" or sealed in whole
    # Without a row, too: what is cut, here always something where no row is left, must have a batch.
    assert sealed == (before[: trusted.end] if trusted else b"")
    if which == "csv":
        intact = sum(len(JOURNAL_HEADER + b"".join(written[: n + 1])) <= at for n in range(len(written)))
        assert sealed.count(b"\n") >= (1 + sum(blocks[:intact]) if intact else 0)
    if sealed:
        rejected = read(store.sealed / NAME.seal, Seal).frames.rejected
        lines = b"".join(refused.splitlines(keepends=True)[:rejected])
        accepted = store.quarantine / NAME.rejected_frames
        assert (accepted.read_bytes() if accepted.exists() else None) == (lines or None)
    kept = store.quarantine / NAME.cut
    assert (kept.read_bytes() if kept.exists() else b"") == before[len(sealed) or (trusted.end if trusted else 0) :]
    assert recover_spool(store, NAME.session, 99, gaps(store)) == []


def test_a_seal_that_was_interrupted_is_finished(tmp_path: Path) -> None:
    """A crash between any two moves of a seal leaves the rest to the recovery, which gives the same end."""
    for moves in range(4):
        store = new_store(tmp_path / str(moves))
        folder = store.spool / NAME.session
        journal = Journal(folder, NAME, HEADING)
        blocks = write(journal, [2])
        journal.close()
        record = journal.sealed_as(99, HEADING.symbols, ())
        seal(store, NAME, record)
        # Put back what the last moves had moved.
        (folder / NAME.sums).write_bytes(b"{}\n")
        back = [
            (store.sealed / NAME.seal, folder / NAME.seal),
            (store.sealed / NAME.sealed, folder / NAME.journal),
            (store.quarantine / NAME.rejected_frames, folder / frames_open(NAME)),
        ]
        for source, place in back[:moves]:
            source.rename(place)
        recover_spool(store, NAME.session, 99, gaps(store))
        finish_seal(store, NAME)
        assert read(store.sealed / NAME.seal, Seal) == record
        assert (store.sealed / NAME.sealed).read_bytes() == JOURNAL_HEADER + blocks[0]
        assert list(folder.iterdir()) == []
