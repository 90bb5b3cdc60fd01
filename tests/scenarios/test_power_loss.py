"""A power loss cannot undo what a later step relies on, judged by each stage's recorded system calls."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from calls import Call, recorded
from faults import FaultServer, Send, Stall, Subscribed
from recording import Answered, Recording, ask, trades

from tasks.capture.gaps import GapBook
from tasks.capture.journal import Block, Heading, Journal, frames_open, seal
from tasks.capture.recovery import recover_spool
from tasks.compress.parquet import compress
from tasks.feeds.base import Rejected
from tasks.merge.day import merge
from tasks.records.manifest import Day, Seal, read
from tasks.records.names import BatchName
from tasks.storage.store import Store, unfinished, write_whole
from tasks.validate.schema import Limits
from tasks.validate.split import split

SealBatch = Callable[..., BatchName]
NAME = BatchName("20261124T143000Z-9f3c01ab", 0, 0)
OFF = Limits(None, None)
LINES = [b"1,%d,%d,%d,SPY,1.50,1,1\n" % (n, n * 10, n * 10) for n in range(1, 21)]


def test_a_file_is_synced_before_its_name_and_its_name_after(tmp_path: Path) -> None:
    """Content is synced under the temporary name, then renamed, then the folder is synced."""
    path = tmp_path / "file"
    with recorded() as calls:
        write_whole(path, b"1")
    new = unfinished(path)
    wanted = [Call("write", new), Call("sync", new), Call("rename", new, path), Call("sync", tmp_path)]
    assert [call for call in calls.all if call in wanted] == wanted
    assert calls.all[-1] == wanted[-1]


@pytest.mark.parametrize("header", [None, b"no journal\n"], ids=["rows", "structural"])
def test_a_split_removes_the_batch_only_when_its_parts_are_safe(
    store: Store, sealed_batch: SealBatch, header: bytes | None
) -> None:
    """Rows, rejects, seal, and report are synced and renamed before the sealed batch is removed, its seal last."""
    lines = [*LINES[:-1], b"rubbish\n"]
    name = sealed_batch(lines) if header is None else sealed_batch(lines, header=header)
    with recorded() as calls:
        split(store, name, OFF)
    assert calls.at_risk() == []
    journal, sealed = store.sealed / name.sealed, store.sealed / name.seal
    named = calls.place("rename", store.validated / name.report)
    removed = calls.place("unlink", journal, named)
    assert removed < calls.place("sync", store.sealed, removed) < calls.place("unlink", sealed)
    rejected = name.rejected_rows if header is None else name.rejected_batch
    assert calls.place("rename", store.quarantine / rejected) < named


def test_an_archived_file_and_its_new_folders_are_safe_before_the_batch_goes(
    store: Store, sealed_batch: SealBatch
) -> None:
    """A new day's folders, file, and manifest are synced in that order before the rows are removed."""
    name = sealed_batch(LINES)
    split(store, name, OFF)
    with recorded() as calls:
        compress(store, name)
    assert calls.at_risk() == []
    folder = store.archive_folder("finnhub", "2026-11-24")
    for made in (folder.parent, folder):
        calls.place("sync", made.parent, calls.place("mkdir", made))
    file = calls.place("rename", folder / name.archived)
    manifest = calls.place("rename", folder / name.manifest, file)
    gone = [calls.place("unlink", store.validated / each) for each in (name.validated, name.seal, name.report)]
    assert [file, manifest, *gone] == sorted([file, manifest, *gone])
    assert calls.place("sync", store.validated, gone[1]) < gone[2]


def test_a_killed_step_does_not_clear_away_before_the_manifest_is_there(store: Store, sealed_batch: SealBatch) -> None:
    """If the disk is full for the manifest, nothing of the validated batch is removed."""
    name = sealed_batch(LINES)
    split(store, name, OFF)
    before = sorted(store.validated.iterdir())

    def full(call: Call) -> None:
        if call.kind == "write" and name.manifest in call.path.name:
            raise OSError(28, "No space left on device")

    with recorded(full), pytest.raises(Exception, match="No space"):
        compress(store, name)
    assert sorted(store.validated.iterdir()) == before


def test_a_day_and_its_new_folders_are_safe_before_the_earlier_merge_goes(
    store: Store, sealed_batch: SealBatch
) -> None:
    """The first close syncs folders, file, and record; a later close then removes the old file."""
    folder, days = store.day_folder("finnhub", "2026-11-24"), list[Day]()
    for number in range(2):
        name = BatchName(NAME.session, 0, number)
        sealed_batch([line.replace(b"1,", b"%d," % (number + 1), 1) for line in LINES], name=name)
        split(store, name, OFF)
        compress(store, name)
        with recorded() as calls:
            day = merge(store, "finnhub", "2026-11-24")
        assert day is not None
        assert calls.at_risk() == []
        named = calls.place("rename", folder / str(day.file))
        record = calls.place("rename", folder / "_2026-11-24.day.json", named)
        days.append(day)
        if number == 0:
            for made in (store.days, folder.parent, folder):
                assert calls.place("mkdir", made) < calls.place("sync", made.parent) < named
        else:
            assert calls.place("sync", folder, record) < calls.place("unlink", folder / str(days[0].file))


def journal(store: Store, blocks: int = 2) -> Journal:
    """A journal of blocks with one row and one rejected frame each."""
    folder = store.spool / NAME.session
    folder.mkdir()
    (store.sessions / NAME.session).mkdir()
    heading = Heading(
        batch=str(NAME), feed="finnhub", date="2026-11-24", symbols=("SPY",), lanes=1, opened_ns=7, before={}
    )
    made = Journal(folder, NAME, heading)
    for n in range(1, blocks + 1):
        made.take(1, n, n * 10, ["SPY"], n)
        refused = [(1, n * 10, Rejected("frame", "not a message", b"{"))]
        made.append(Block([LINES[n - 1]], 1, 2, 1, 0, refused, n * 10))
    return made


def assert_sealed_in_order(store: Store, calls: list[Call]) -> None:
    """Frames, rows, and seal are moved in that order, each synced before the next; the checksums go last."""
    moved = [
        (place, call.to) for place, call in enumerate(calls) if call.kind == "rename" and call.to is not None
        and call.to.parent in {store.sealed, store.quarantine} and not call.path.name.endswith(".tmp")
    ]  # fmt: skip
    assert [path for _, path in moved] == [
        store.quarantine / NAME.rejected_frames, store.sealed / NAME.sealed, store.sealed / NAME.seal
    ]  # fmt: skip
    assert [calls[place + 1] for place, _ in moved] == [Call("sync", path.parent) for _, path in moved]
    assert calls[-1] == Call("unlink", store.spool / NAME.session / NAME.sums)


def test_a_journal_is_moved_before_its_seal(store: Store) -> None:
    """The seal appears in `sealed/` after the files it covers, and checksums are removed when unneeded."""
    made = journal(store)
    with recorded() as calls:
        made.close()
        seal(store, NAME, made.sealed_as(99, ("SPY",), ()))
    assert calls.at_risk() == []
    assert_sealed_in_order(store, calls.all)
    folder = store.spool / NAME.session
    assert calls.place("rename", folder / NAME.seal) < calls.place("rename", store.quarantine / NAME.rejected_frames)


def test_a_journal_is_synced_before_it_is_closed(store: Store) -> None:
    """All three files are synced between the last write and their seal."""
    with recorded() as calls:
        made = journal(store)
        made.close()
        seal(store, NAME, made.sealed_as(99, ("SPY",), ()))
    folder = store.spool / NAME.session
    vouched = calls.place("create", unfinished(folder / NAME.seal))
    for name in (NAME.journal, frames_open(NAME), NAME.sums):
        assert calls.last("write", folder / name) < calls.last("sync", folder / name) < vouched


def test_recovery_keeps_what_it_cuts_before_it_cuts(store: Store) -> None:
    """A torn tail of rows or frames is quarantined and synced before the journal is truncated."""
    journal(store).abandon()
    folder = store.spool / NAME.session
    torn = {NAME.journal: b"1,3,30,torn", frames_open(NAME): b'{"kind":"fr'}
    for name, tail in torn.items():
        with (folder / name).open("ab") as file:
            file.write(tail)
    gaps = GapBook(store.sessions / NAME.session / "gaps.json")
    with recorded() as calls:
        recover_spool(store, NAME.session, 99, gaps)
    for name, kept_as in ((NAME.journal, NAME.cut), (frames_open(NAME), NAME.cut_frames)):
        kept = store.quarantine / kept_as
        assert kept.read_bytes() == torn[name]
        synced, named = calls.place("sync", unfinished(kept)), calls.place("rename", kept)
        cut = calls.place("truncate", folder / name)
        assert synced < named < calls.place("sync", store.quarantine, named) < cut
        assert cut < calls.place("sync", folder / name, cut) < calls.place("rename", folder / NAME.seal)
    assert_sealed_in_order(store, calls.all)
    assert read(store.sealed / NAME.seal, Seal).cut_bytes == sum(map(len, torn.values()))


def test_recovery_that_cannot_keep_cuts_nothing(store: Store) -> None:
    """If the quarantine's disk is full, the journal stays as the kill left it for a later run."""
    journal(store).abandon()
    path = store.spool / NAME.session / NAME.journal
    with path.open("ab") as file:
        file.write(b"torn")
    before = path.read_bytes()

    def full(call: Call) -> None:
        if call.kind == "write" and call.path.parent == store.quarantine:
            raise OSError(28, "No space left on device")

    gaps = GapBook(store.sessions / NAME.session / "gaps.json")
    with recorded(full), pytest.raises(OSError, match="No space"):
        recover_spool(store, NAME.session, 99, gaps)
    assert path.read_bytes() == before
    recover_spool(store, NAME.session, 99, gaps)
    assert (store.quarantine / NAME.cut).read_bytes() == b"torn"


def test_the_folders_of_a_new_data_folder_and_session_are_safe(
    tmp_path: Path, fault_server: Callable[..., FaultServer]
) -> None:
    """The store's folders and a session's two are synced before a journal is started in them."""
    store = Store(tmp_path / "data")
    server = fault_server([Subscribed("A"), Send(trades(3)), Answered(), Stall(threading.Event())])
    with recorded() as calls:
        recording = Recording(ask(store.root, server.url))
        recording.when(lambda status: status.trades == 3)
        assert sum(recording.end().batches) == 1
    session = recording.request.session
    created = next(place for place, call in enumerate(calls.all) if call.path.name.endswith(".csv.open"))
    for folder in (store.spool, store.sealed, store.quarantine, store.sessions, store.sessions / session):
        assert calls.place("sync", folder.parent, calls.place("mkdir", folder)) < created
    assert calls.place("sync", store.spool, calls.place("mkdir", store.spool / session)) < created
