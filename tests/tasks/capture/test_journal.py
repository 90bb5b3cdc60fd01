"""A journal survives being cut anywhere: what its checksums vouch for is sealed, the rest is kept aside."""

import base64
import errno
import hashlib
import json
import os
import random
import zlib
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tasks.capture.gaps import GapBook
from tasks.capture.journal import (
    Heading,
    Journal,
    Receipt,
    Room,
    count_reason,
    discard,
    finish_seal,
    frames_open,
    heading_line,
    read_heading,
    seal,
)
from tasks.capture.recovery import recover_spool, trust
from tasks.feeds.base import Rejected
from tasks.records.checked_line import checked_line
from tasks.records.ledger import FrameCounts, Gap
from tasks.records.manifest import ConnectionRange, Seal, read
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


def receipt(ts_recv_ns: int, connection: int = 1, **fields: Any) -> Receipt:
    return Receipt(connection=connection, ts_recv_ns=ts_recv_ns, through_ns=ts_recv_ns, **fields)


def write(journal: Journal, blocks: list[int], first_seq: int = 5) -> list[bytes]:
    """Write blocks of so many rows, each with a rejected frame; return the blocks."""
    written = []
    for rows in blocks:
        receipts = [
            Receipt(
                connection=1, ts_recv_ns=seq * 10, through_ns=(first_seq + rows) * 10, block=line(seq),
                symbols=["AAPL" if seq % 3 else "MSFT"], first_seq=seq, last_seq=seq,
            )
            for seq in range(first_seq, first_seq + rows)
        ]  # fmt: skip
        receipts[0].received, receipts[0].trade = 2, 1
        receipts[0].rejected = [Rejected("frame", "not a message", b"\xff,\n")]
        journal.append(receipts)
        written.append(b"".join(receipt.block for receipt in receipts))
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
    """The seal's rows, hash, frames, ranges, and per-symbol counts are those of the blocks written."""
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
    """A complete journal of a killed recorder is sealed with the same rows, hash, and counts."""
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
@example(blocks=[1] * 6, which="sums", where=0.859375, how="flip")  # Fewer bytes of frames than the line before.
def test_no_torn_or_damaged_row_is_accepted_and_no_vouched_row_is_lost(
    tmp_path_factory: pytest.TempPathFactory, blocks: list[int], which: str, where: float, how: str
) -> None:
    """Wherever a journal is cut or damaged, the recovered rows are whole blocks from its start; the rest is kept."""
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
    """After a crash between any two moves of a seal, recovery completes it with the same result."""
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


def test_a_heading_comes_back_and_a_damaged_one_does_not() -> None:
    """A heading is read with its checksum or, from earlier recorders, without; never with a changed byte."""
    line = heading_line(HEADING)[:-1]
    assert read_heading(line) == HEADING
    assert read_heading(line.split(b"\t")[0]) == HEADING
    assert read_heading(line[:-1]) is None
    assert read_heading(line.replace(b"AAPL", b"AAPX")) is None
    assert read_heading(b"{}") is None
    assert read_heading(checked_line(b"{}")[:-1]) is None
    assert read_heading(b"") is None
    assert read_heading(line.split(b"\t")[0].replace(b"AAPL", b"AA\xffL")) is None


@pytest.mark.parametrize("change", [{"batch": "../x"}, {"feed": "../x"}, {"date": "2026-13-01"}, {"date": "today"}])
def test_a_heading_names_what_may_be_a_file(change: dict[str, str]) -> None:
    """A damaged journal must not determine where its batch goes."""
    with pytest.raises(ValueError):
        replace(HEADING, **change)  # type: ignore[arg-type]


def test_each_write_has_its_line_in_the_sums(tmp_path: Path) -> None:
    """The header comes first; each line has the block's offset, length, rows, and checksum, then all counts so far."""
    journal = Journal(tmp_path, NAME, HEADING, Room(50_000))
    assert journal.is_empty
    assert (tmp_path / NAME.sums).read_bytes().startswith(heading_line(HEADING))
    refused = [Rejected("frame", "no JSON", b"{"), Rejected("trade", "no price", b"{}")]
    journal.append([
        receipt(60, block=b"a\n", symbols="A", received=1, control=1, rejected=refused),
        receipt(70, block=b"bc\n", symbols="B", received=2, trade=1),
    ])  # fmt: skip
    assert not journal.is_empty
    journal.append([receipt(80, received=1, control=1)])
    journal.append([receipt(90, block=b"d\n", symbols="A", received=1, trade=1, rejected=refused[1:])])
    journal.close()
    frames = (tmp_path / frames_open(NAME)).read_bytes()
    first = b"".join(frames.splitlines(keepends=True)[:2])
    start = len(JOURNAL_HEADER)
    sums = [json.loads(each) for each in (tmp_path / NAME.sums).read_bytes().splitlines()[1:]]
    assert sums == [
        [0, start, 0, zlib.crc32(JOURNAL_HEADER), 0, 0, 0, 0, 0, 0, 7, 0, 0, 0],
        [start, 5, 2, zlib.crc32(b"a\nbc\n"), 3, 1, 1, 1, 1, len(first), 70, zlib.crc32(first), 0, 0],
        [start + 5, 0, 0, 0, 4, 1, 2, 1, 1, len(first), 80, zlib.crc32(first), 0, 0],
        [start + 5, 2, 1, zlib.crc32(b"d\n"), 5, 2, 2, 1, 2, len(frames), 90, zlib.crc32(frames), 0, 0],
    ]
    assert (tmp_path / NAME.journal).read_bytes() == JOURNAL_HEADER + b"a\nbc\nd\n"
    assert (journal.rows, journal.bytes, journal.trades_refused) == (3, start + 7, 2)


def test_what_is_refused_is_kept_as_it_came(tmp_path: Path) -> None:
    """Text is kept if it is UTF-8, otherwise base64, with its connection, time, kind, and reason."""
    journal = Journal(tmp_path, NAME, HEADING)
    first, second = Rejected("frame", "no JSON", "grüße".encode()), Rejected("trade", "odd", b"\xff{")
    journal.append([receipt(60, 3, received=1, rejected=[first]), receipt(61, 4, received=1, rejected=[second])])
    journal.close()
    assert [json.loads(each) for each in (tmp_path / frames_open(NAME)).read_bytes().splitlines()] == [
        {"kind": "frame", "connection": 3, "ts_recv": 60, "reason": "no JSON", "text": "grüße"},
        {"kind": "trade", "connection": 4, "ts_recv": 61, "reason": "odd",
         "base64": base64.b64encode(b"\xff{").decode()},
    ]  # fmt: skip
    assert journal.frames == FrameCounts(received=2, rejected=1)


def test_a_seal_says_all_that_its_journal_has_counted(tmp_path: Path) -> None:
    """Every field is from the heading, from the caller, or a count, and the hashes are those of the files."""
    journal = Journal(tmp_path, NAME, HEADING)
    empty = journal.sealed_as(9, (), ())
    assert (empty.quarantine, empty.connections, empty.not_kept, empty.refused_reasons) == ({}, (), {}, {})
    rejected = [Rejected("trade", why, b"") for why in ("odd", "none", "none")]
    journal.append([
        receipt(
            50, block=b"a\nb\n", symbols=["MSFT", "AAPL"], first_seq=5, last_seq=6, received=1, rejected=rejected
        ),
        receipt(51, 2, block=b"c\n", symbols=["AAPL"], first_seq=1, last_seq=1, received=1, trade=1),
    ])  # fmt: skip
    journal.append([
        receipt(52, block=b"d\ne\n", symbols=["AAPL", "AAPL"], first_seq=7, last_seq=9, received=2, trade=1, control=1)
    ])  # fmt: skip
    journal.close()
    lost = (Gap(symbols=("A",), start_ns=1, end_ns=2, reason="lost"),)
    csv, frames = (tmp_path / NAME.journal).read_bytes(), (tmp_path / frames_open(NAME)).read_bytes()
    assert journal.sealed_as(99, ("B", "A"), lost) == Seal(
        batch=str(NAME), feed="finnhub", date="2026-01-02", symbols=("B", "A"), lanes=1, opened_ns=7, sealed_ns=99,
        rows=5, bytes=len(csv), sha256=hashlib.sha256(csv).hexdigest(),
        frames=FrameCounts(received=4, trade=2, control=1), trades_refused=3,
        connections=(
            ConnectionRange(connection=1, rows=4, first_seq=5, last_seq=9, first_recv_ns=50, last_recv_ns=52,
                            before_seq=4, before_recv_ns=6),
            ConnectionRange(connection=2, rows=1, first_seq=1, last_seq=1, first_recv_ns=51, last_recv_ns=51,
                            before_seq=0, before_recv_ns=0),
        ),
        per_symbol={"AAPL": 4, "MSFT": 1}, gaps=lost,
        quarantine={NAME.rejected_frames: hashlib.sha256(frames).hexdigest()},
        refused_reasons={"none": 2, "odd": 1}, not_kept={},
    )  # fmt: skip
    assert list(journal.sealed_as(99, (), ()).per_symbol) == ["AAPL", "MSFT"]
    assert list(journal.sealed_as(99, (), ()).refused_reasons) == ["none", "odd"]


def test_beyond_its_room_garbage_is_counted_and_a_short_line_kept_now_and_then() -> None:
    """What fits is kept to the last byte; after that one in 4,096, and no long one."""
    room = Room(10)
    assert [room.has(6), room.has(4)] == [True, True]
    assert [each for each in range(1, 3 * 4096 + 1) if room.has(1)] == [4096, 8192, 12288]
    room = Room(10)
    assert [room.has(11), room.has(1)] == [False, False]
    for _ in range(4093):
        assert not room.has(1)
    assert room.has(4096)
    for _ in range(4095):
        assert not room.has(1)
    assert not room.has(4097)


def test_what_there_is_no_room_for_is_counted_by_kind(tmp_path: Path) -> None:
    """What is not kept is counted in the sums and in the seal; the file has what was kept."""
    journal = Journal(tmp_path, NAME, HEADING, Room(0))
    kinds = ("frame", "trade", "trade")
    journal.append([receipt(1, received=3, rejected=[Rejected(kind, "odd", b"x") for kind in kinds])])
    journal.close()
    assert (tmp_path / frames_open(NAME)).read_bytes() == b""
    assert json.loads((tmp_path / NAME.sums).read_bytes().splitlines()[-1])[-2:] == [1, 2]
    record = journal.sealed_as(9, (), ())
    assert (record.not_kept, record.quarantine, record.trades_refused) == ({"frame": 1, "trade": 2}, {}, 2)


def test_reasons_that_a_feed_invents_are_counted_together() -> None:
    """Fifty reasons have a count of their own, and keep it."""
    counts = Counter[str]()
    for number in range(60):
        count_reason(counts, f"reason {number}")
    count_reason(counts, "reason 49")
    count_reason(counts, "reason 50")
    assert (len(counts), counts["reason 49"], counts["other reasons"]) == (51, 2, 11)


def test_a_write_that_takes_less_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that accepts a few bytes at a time gets all of them, once."""
    journal, real = Journal(tmp_path, NAME, HEADING), os.write
    monkeypatch.setattr(os, "write", lambda descriptor, content: real(descriptor, bytes(content)[:3]))
    write(journal, [2, 3])
    journal.close()
    assert (tmp_path / NAME.journal).read_bytes() == JOURNAL_HEADER + b"".join(line(seq) for seq in range(5, 10))
    assert trust(tmp_path, NAME) is not None


@pytest.mark.parametrize(("failing", "file"), [(0, NAME.journal), (1, frames_open(NAME)), (2, NAME.sums)])
@pytest.mark.parametrize("call", ["write", "fdatasync"])
def test_an_error_of_the_disk_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int, file: str, call: str
) -> None:
    """The error names the one of the three files that failed, with the disk's own text."""
    journal, real = Journal(tmp_path, NAME, HEADING), getattr(os, call)

    def refuse(descriptor: int, *content: bytes) -> object:
        if Path(f"/proc/self/fd/{descriptor}").readlink().name == file:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, *content)

    monkeypatch.setattr(os, call, refuse)
    with pytest.raises(OSError, match="No space left on device") as told:
        write(journal, [1]) and journal.sync()
    monkeypatch.undo()
    journal.abandon()
    assert (told.value.errno, told.value.filename) == (errno.ENOSPC, str(tmp_path / file))


def test_a_journal_is_never_begun_twice(tmp_path: Path) -> None:
    """Existing files belong to someone else and are not written to."""
    Journal(tmp_path, NAME, HEADING).abandon()
    with pytest.raises(FileExistsError):
        Journal(tmp_path, NAME, HEADING)
    assert ((tmp_path / NAME.journal).stat().st_mode & 0o777) & ~0o644 == 0


def test_a_close_syncs_the_folder_once_and_closes_all_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are synced first, sums last; the folder at the first sync only; no descriptor is left."""
    synced: list[str] = []
    for call in ("fsync", "fdatasync"):
        real = getattr(os, call)

        def note(descriptor: int, real: object = real) -> None:
            synced.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
            real(descriptor)  # type: ignore[operator]

        monkeypatch.setattr(os, call, note)
    before = sum(1 for _ in Path("/proc/self/fd").iterdir())
    journal = Journal(tmp_path, NAME, HEADING)
    journal.sync()
    journal.close()
    files = [NAME.journal, frames_open(NAME), NAME.sums]
    assert synced == [tmp_path.name, *files, *files]
    assert sum(1 for _ in Path("/proc/self/fd").iterdir()) == before


def test_a_journal_without_refused_frames_leaves_no_file_of_them(tmp_path: Path) -> None:
    """Sealed or discarded, nothing stays in the spool; doing either again does nothing."""
    store = new_store(tmp_path)
    folder = store.spool / NAME.session
    journal = Journal(folder, NAME, HEADING)
    journal.append([receipt(50, block=line(5), symbols=["AAPL"], received=1, trade=1)])
    journal.close()
    seal(store, NAME, journal.sealed_as(99, (), ()))
    finish_seal(store, NAME)
    assert list(folder.iterdir()) == list(store.quarantine.iterdir()) == []
    assert {path.name for path in store.sealed.iterdir()} == {NAME.sealed, NAME.seal}
    journal = Journal(folder, NAME, HEADING)
    journal.close()
    discard(store, NAME)
    discard(store, NAME)
    assert list(folder.iterdir()) == []
