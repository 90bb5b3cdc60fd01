"""Killed before any disk operation, what was written is sealed and what was torn is kept, each once."""

from pathlib import Path

import pytest
from calls import killed_everywhere, recorded
from recording import ask

from tasks.capture.gaps import GapBook
from tasks.capture.journal import Heading, Journal, Receipt, frames_open, seal
from tasks.capture.recovery import close_killed, recover_spool
from tasks.capture.request import own_request
from tasks.feeds.base import Rejected
from tasks.records.ledger import SessionRecord
from tasks.records.manifest import Seal, read
from tasks.records.names import BatchName
from tasks.records.requests import join
from tasks.records.trade import JOURNAL_HEADER
from tasks.storage.store import Store

SESSION = "20261124T143000Z-9f3c01ab"
NAMES = [BatchName(SESSION, 0, number) for number in range(2)]
NAME = NAMES[0]
ROWS = [b"1,%d,%d,7,SPY,1.50,1,1\n" % (n, n * 10) for n in range(1, 13)]
PROGRAM = """
sys.path.insert(0, HERE)
from test_killed import close_up, write_and_seal
from tasks.records.requests import join
from tasks.storage.store import Store

def work(folder, number):
    WORK(Store(folder))
""".replace("HERE", repr(str(Path(__file__).parent)))


def write(store: Store, name: BatchName) -> Journal:
    """A journal of three blocks, each of two rows and a rejected frame."""
    heading = Heading(
        batch=str(name), feed="finnhub", date="2026-11-24", symbols=("SPY",), lanes=1, opened_ns=7, before={}
    )
    made = Journal(store.spool / SESSION, name, heading)
    for n in range(6 * name.number + 1, 6 * name.number + 7, 2):
        refused = [Rejected("frame", f"not message {n}", b"{")]
        made.append([
            Receipt(
                connection=1, ts_recv_ns=n * 10, through_ns=n * 10, block=b"".join(ROWS[n - 1 : n + 1]),
                symbols=["SPY", "SPY"], first_seq=n, last_seq=n + 1, received=3, trade=2, rejected=refused,
            )
        ])  # fmt: skip
    return made


def write_and_seal(store: Store) -> None:
    """Do what a recorder does with a journal, from its creation to its seal."""
    made = write(store, NAME)
    made.close()
    seal(store, NAME, made.sealed_as(99, ("SPY",), ()))


def close_up(store: Store) -> None:
    """Close a session whose recorder was killed."""
    close_killed(store, SESSION, 999)


def recover(store: Store) -> None:
    recover_spool(store, SESSION, 99, GapBook(store.sessions / SESSION / "gaps.json"))


def prepared(root: Path) -> Store:
    """A data folder with the two folders of a session that wants to record."""
    store = Store(root).prepare()
    request = ask(root, "ws://127.0.0.1:1", ("SPY",), session=SESSION, started_ns=5, deadline_ns=900)
    assert join(request.folder, own_request(request), 5)
    (store.spool / SESSION).mkdir()
    return store


def files(store: Store) -> dict[str, bytes]:
    """Every file of the data folder except locks."""
    found = {str(path.relative_to(store.root)): path.read_bytes() for path in store.root.rglob("*") if path.is_file()}
    return {path: content for path, content in found.items() if not path.startswith("locks/")}


def test_a_journal_killed_at_any_change_loses_nothing_that_was_written(tmp_path: Path) -> None:
    """Each block whose sum was written is sealed once; what came after is kept aside."""
    whole, root = prepared(tmp_path / "whole"), tmp_path / "killed"
    with recorded() as calls:
        write_and_seal(whole)
    prepared(root / "start")
    folders = killed_everywhere(root, PROGRAM.replace("WORK", "write_and_seal"))
    assert len(folders) == len(calls.all) + 1
    blocks = [JOURNAL_HEADER, *(b"".join(ROWS[n : n + 2]) for n in (0, 2, 4))]
    frames = (whole.quarantine / NAME.rejected_frames).read_bytes().splitlines(keepends=True)
    for at, folder in enumerate(folders):
        store = Store(folder)
        rows, refused, sums = (
            sum(call.kind == "write" and call.path.name == name for call in calls.all[:at])
            for name in (NAME.journal, frames_open(NAME), NAME.sums)
        )
        vouched = max(0, sums - 1)  # The first line of the sums says what the batch is.
        recover(store)
        left = files(store)
        sealed, cut = left.get(f"sealed/{NAME.sealed}", b""), left.get(f"quarantine/{NAME.cut}", b"")
        kept = [left.get(f"quarantine/{name}", b"") for name in (NAME.rejected_frames, NAME.cut_frames)]
        # A journal into which nothing had come is discarded, header and all.
        is_empty = vouched <= 1 and not cut and not kept[1]
        assert sealed == (b"" if is_empty else b"".join(blocks[:vouched])), at
        assert cut == b"".join(blocks[vouched:rows]), at
        assert b"".join(kept) == b"".join(frames[:refused]), at
        if sealed:
            record = read(store.sealed / NAME.seal, Seal)
            assert (record.rows, record.frames.rejected) == (2 * (vouched - 1), kept[0].count(b"\n"))
        assert not any(path.startswith("spool/") for path in left), at
        recover(store)
        assert files(store) == left, at


@pytest.mark.slow
def test_the_recovery_of_a_session_killed_at_any_change_comes_to_the_same_end(tmp_path: Path) -> None:
    """If recovery itself is killed and run again, every seal, cut, gap, and count is as after one run."""
    root = tmp_path / "killed"
    start = prepared(root / "start")
    for name in NAMES:
        write(start, name).abandon()
    for torn, tail in ((NAMES[1].journal, b"1,13,130,to"), (frames_open(NAMES[1]), b'{"kind":"fr')):
        with (start.spool / SESSION / torn).open("ab") as file:
            file.write(tail)
    folders = killed_everywhere(root, PROGRAM.replace("WORK", "close_up"))
    assert len(folders) > 40
    ends = []
    for folder in folders:
        store = Store(folder)
        if not (store.sessions / SESSION / "session.json").exists() or (store.spool / SESSION).exists():
            close_up(store)
        ends.append(files(store))
    assert ends == [ends[-1]] * len(ends)
    store = Store(folders[-1])
    record = read(store.sessions / SESSION / "session.json", SessionRecord)
    assert (record.outcome, record.batches, record.frames_received) == ("killed", (2,), 18)
    seals = [read(store.sealed / name.seal, Seal) for name in NAMES]
    assert [(each.rows, each.cut_bytes) for each in seals] == [(6, 0), (6, 22)]
    assert (store.quarantine / NAMES[1].cut).read_bytes() == b"1,13,130,to"
    assert [(gap.start_ns, gap.end_ns) for gap in record.gaps] == [(110, 900)]
    assert not (store.spool / SESSION).exists()
