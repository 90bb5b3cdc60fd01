"""Everything that a feed can influence is bounded."""

import json
import logging
import time
import zlib
from pathlib import Path

import msgspec
import pytest
from faults import TEXT, Raw, StartServer, Subscribed
from recording import Answered, Babble, StartSession, frame

from tasks.capture.gaps import GapBook
from tasks.capture.journal import Room
from tasks.capture.recorder import Bounded
from tasks.compress.parquet import compress
from tasks.feeds.finnhub import Parser
from tasks.records.gaps import Change, SavedGaps, line_of, read_gaps
from tasks.records.ledger import Gap
from tasks.records.manifest import Seal, encode, read
from tasks.storage.store import Store
from tasks.validate.schema import Limits
from tasks.validate.split import split
from tasks.verify.account import ledger_for
from tasks.verify.laws import verify


@pytest.mark.parametrize("lanes", [1, 2])
def test_quarantine_has_room_for_so_much_and_the_rest_is_counted(
    store: Store, fault_server: StartServer, session: StartSession, caplog: pytest.LogCaptureFixture, lanes: int
) -> None:
    """Beyond its limit the quarantine keeps hardly anything, says so once, and the ledger balances by the counts."""
    caplog.set_level(logging.ERROR)
    garbage = [Raw(frame(TEXT, b"%05d" % number * 50) * 50) for number in range(200)]
    server = fault_server([Subscribed("A", "B"), *garbage, Answered(b"last")])
    recording = session(server.url, ("A", "B"), lanes=lanes, quarantine_bytes=50_000, batch_bytes=10_000)
    server.connection(0).wait_heard("pong", b"last")
    record = recording.end()
    kept = sum(path.stat().st_size for path in store.quarantine.iterdir())
    assert 40_000 < kept < 60_000
    seals = [read(path, Seal) for path in store.sealed.glob("*.seal.json")]
    assert sum(seal.frames.rejected for seal in seals) == 10_000
    assert sum(seal.not_kept["frame"] for seal in seals if seal.not_kept) > 9_000
    assert [entry.message for entry in caplog.records if "quarantine is full" in entry.message] != []
    assert len([entry for entry in caplog.records if "quarantine is full" in entry.message]) == 1
    for name in store.sealed_batches():
        split(store, name, Limits(None, None))
        compress(store, name)
    assert ledger_for(store, record.session).balances
    assert verify(store).broken == ()


def test_a_sample_is_kept_of_what_has_no_room() -> None:
    """Beyond the limit one short line in some thousands is kept, and never a long one."""
    room = Room(100)
    assert [room.has(60), room.has(60)] == [True, False]
    assert 1 <= sum(room.has(10) for _ in range(10_000)) <= 3
    assert not any(room.has(5_000) for _ in range(10_000))


def test_symbols_that_nobody_asked_for_are_refused_beyond_a_bound() -> None:
    """Ten thousand unrequested symbols are recorded, then further ones refused; a requested one never is."""
    reader = Parser(lambda: ("ASKED", "LATER"))

    def one(symbol: str) -> tuple[int, int]:
        said = json.dumps({"type": "trade", "data": [{"s": symbol, "p": 1, "t": 1, "v": 1}]}).encode()
        reading = reader.read([said], 1, 1, 1)
        return len(reading.lines), len(reading.rejected)

    assert [one(f"X{number}") for number in (0, 1)] == [(1, 0)] * 2
    for number in range(2, 10_000):
        one(f"X{number}")
    assert one("Y") == (0, 1)
    assert one("X5") == (1, 0)
    assert one("ASKED") == one("LATER") == (1, 0)


def test_gaps_cost_what_changes_and_not_what_there_is(tmp_path: Path) -> None:
    """A thousand lost connections take two lines each: what is written does not grow with what was."""
    book, symbols = GapBook(tmp_path / "gaps.log"), tuple(f"SYMBOL{number}" for number in range(50))
    for number in range(1_000):
        book.open(symbols, 10 * number, "lost")
        book.close(symbols, 10 * number + 5)
    assert (tmp_path / "gaps.log").read_bytes().count(b"\n") == 2_000
    assert (tmp_path / "gaps.log").stat().st_size < 2_000 * 800
    assert GapBook(tmp_path / "gaps.log").all() == book.all()
    assert len(book.all()) == 1_000


def test_a_torn_line_of_gaps_is_cut_and_written_over(tmp_path: Path) -> None:
    """If its last line is cut or damaged at any byte, the file has all earlier lines and accepts the next change."""
    path = tmp_path / "gaps.log"
    book = GapBook(path)
    book.open(("A",), 1, "lost")
    whole = path.read_bytes()
    book.close(("A",), 2)
    both = path.read_bytes()
    for cut in range(len(whole), len(both)):
        for content in (both[:cut], both[:cut] + bytes([both[cut] ^ 1]) + both[cut + 1 :]):
            path.write_bytes(content)
            again = GapBook(path)
            assert [(gap.start_ns, gap.end_ns) for gap in again.all()] == [(1, None)]
            again.close(("A",), 3)
            assert [(gap.start_ns, gap.end_ns) for gap in read_gaps(path)[0].all] == [(1, 3)]


def test_gaps_that_an_earlier_version_kept_are_known(tmp_path: Path) -> None:
    """A session left open by an earlier version keeps its gaps."""
    gap = Gap(symbols=("A",), start_ns=1, end_ns=None, reason="lost")
    (tmp_path / "gaps.json").write_bytes(encode(SavedGaps((gap,))))
    book = GapBook(tmp_path / "gaps.log")
    book.finish(9)
    assert [(each.start_ns, each.end_ns) for each in GapBook(tmp_path / "gaps.log").all()] == [(1, 9)]


def test_a_line_of_gaps_vouches_for_itself() -> None:
    """A line ends in the CRC-32 of the rest."""
    text, _, crc = line_of(Change(("A",), 1, "lost")).rstrip(b"\n").rpartition(b"\t")
    assert crc == b"%08x" % zlib.crc32(text)
    assert msgspec.json.decode(text) == [["A"], 1, "lost"]


def test_the_recorders_log_ends_where_its_room_does() -> None:
    """After so many characters one line says that the rest is left out, and nothing follows."""
    bounded = Bounded(most_chars=1_000)
    entries = [logging.makeLogRecord({"msg": "x" * 100}) for _ in range(100)]
    passed = [entry.getMessage() for entry in entries if bounded.filter(entry)]
    assert 5 < len(passed) < 12
    assert passed[-1] == "this log is full: further messages are left out"


def test_leaving_a_feed_that_never_stops_takes_seconds_in_all(
    store: Store, fault_server: StartServer, session: StartSession
) -> None:
    """A feed that answers the last ping but never stops sending delays the end by a few seconds at most."""
    server = fault_server([Subscribed("A"), Babble(0.0, deaf=True)])
    recording = session(server.url)
    recording.when(lambda status: status.trades > 10)
    started_s = time.monotonic()
    assert recording.end().outcome == "stopped"
    assert time.monotonic() - started_s < 12
