"""Each law of `tape verify` by itself: one forged violation is found and reported in that law's words."""

import hashlib
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tasks.compress.parquet import compress
from tasks.merge.day import merge
from tasks.records.ledger import FrameCounts, Gap
from tasks.records.manifest import Day, Manifest, ObjectReceipt, Place, Receipt, Removed, Seal, encode, read
from tasks.records.names import BatchName, receipt_record, removed_record
from tasks.storage.store import Store, write_whole
from tasks.validate.schema import Limits
from tasks.validate.split import split
from tasks.verify.account import ledger_for
from tasks.verify.laws import verify

SESSION = "20261124T143000Z-9f3c01ab"
NAME = BatchName(SESSION, 0, 1)
NAMES = [BatchName(SESSION, 0, number) for number in range(3)]
DATE = "2026-11-24"
PLACE = Place(bucket="tape", endpoint=None, prefix="trades")
START_NS = 1_795_530_600_000_000_000
OTHER = f"{SESSION}-0-000007"
OTHER_FILE = f"{OTHER}.parquet"

Recorded = Callable[..., Store]
Forge = Callable[[Store], object]


def said(store: Store) -> list[str]:
    """Every broken law as `law file: message`."""
    return [f"{each.law} {Path(each.file).name}: {each.message}" for each in verify(store).broken]


def assert_says(store: Store, says: str) -> None:
    assert any(says in line for line in said(store)), said(store)


def manifest_path(store: Store, name: BatchName = NAME) -> Path:
    path = store.manifest_of(name)
    assert path is not None
    return path


def forge(store: Store, name: BatchName = NAME, **changes: Any) -> Manifest:
    """Write a manifest with a valid checksum and wrong content."""
    path = manifest_path(store, name)
    manifest = read(path, Manifest)
    for part in ("seal", "report"):
        if part in changes:
            changes[part] = replace(getattr(manifest, part), **changes[part])
    manifest = replace(manifest, **changes)
    write_whole(path, encode(manifest))
    return manifest


def gap(symbols: Sequence[str] = ("AAPL",), start_ns: int = 1, end_ns: int | None = 2, reason: str = "x") -> Gap:
    return Gap(symbols=tuple(symbols), start_ns=start_ns, end_ns=end_ns, reason=reason)


def archive(store: Store) -> Store:
    """Split and archive all sealed batches."""
    for name in store.sealed_batches():
        split(store, name, Limits(None, None))
        compress(store, name)
    return store


def reseal(store: Store, name: BatchName, edit: Callable[[list[bytes]], object], **changes: Any) -> None:
    """Edit the lines of a sealed journal, and its seal to match."""
    path = store.sealed / name.sealed
    lines = path.read_bytes().splitlines(keepends=True)
    edit(lines)
    content = b"".join(lines)
    path.write_bytes(content)
    seal = read(store.sealed / name.seal, Seal)
    sha256 = hashlib.sha256(content).hexdigest()
    write_whole(store.sealed / name.seal, encode(replace(seal, bytes=len(content), sha256=sha256, **changes)))


def with_time(line: bytes, recv_ns: int) -> bytes:
    connection, seq, _, rest = line.split(b",", 3)
    return b"%s,%s,%d,%s" % (connection, seq, recv_ns, rest)


def rows(*seqs: int, symbol: str = "AAPL") -> list[tuple[int, int, str, str]]:
    return [(1, seq, symbol, "1.5") for seq in seqs]


GAPS = [
    ({"reason": ""}, "has no reason"),
    ({"symbols": ()}, "names no symbol"),
    ({"symbols": ("AAPL", "TSLA")}, "names TSLA, not subscribed"),
    ({"start_ns": 9, "end_ns": 1}, "ends at 1, before that"),
]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"rows": 1}, "counts _{}: rows archived (1) ≠ valid (22)"),
        ({"rows": 1}, "rows {}: holds 22 rows, its manifest says 1"),
        ({"bytes": 1}, "bytes {}: has "),
        ({"file": None}, "counts _{}: files archived (0) ≠ whether any row was valid (1)"),
        ({"batch": OTHER, "file": OTHER_FILE}, f"name _{{}}: speaks of {OTHER} and {NAME}"),
        ({"first_event_ns": 1}, "rows {}: holds other symbols or times"),
        ({"last_event_ns": 1}, "rows {}: holds other symbols or times"),
        ({"first_recv_ns": 1}, "rows {}: holds other symbols or times"),
        ({"last_recv_ns": 1}, "rows {}: holds other symbols or times"),
        ({"report": {"valid": 20}}, "counts _{}: rows sealed (25) ≠ valid + quarantined (23)"),
        ({"report": {"rows": 26}}, "counts _{}: rows split (26) ≠ rows sealed (25)"),
        ({"report": {"quarantined": 9}}, "rows _{}: 3 lines in quarantine, its report says 9"),
        ({"report": {"per_symbol": {"AAPL": 1}}}, "counts _{}: rows valid (22) ≠ their sum over the symbols (1)"),
        ({"report": {"per_symbol": {"AAPL": 21, "MSFT": 1}}}, "rows {}: holds other symbols or times"),
        ({"report": {"quarantine_sha256": None}}, f"quarantine {NAME.rejected_rows}: is listed in no record"),
        ({"report": {"quarantine_sha256": "00"}}, f"sha256 {NAME.rejected_rows}: is "),
        ({"sha256": "00"}, "sha256 {}: is "),
        ({"seal": {"batch": OTHER, "quarantine": {}}}, f"name _{{}}: speaks of {NAME} and {OTHER}"),
        ({"seal": {"date": "2026-11-25"}}, "place _{}: belongs to "),
        ({"seal": {"connections": ()}}, "counts _{}: rows sealed (25) ≠ their sum over the connections (0)"),
        ({"seal": {"per_symbol": {"AAPL": 1}}}, "counts _{}: rows sealed (25) ≠ their sum over the symbols (1)"),
        ({"seal": {"frames": FrameCounts(received=27, trade=24, control=1, rejected=1)}},
         "counts _{}: frames received (27) ≠ trade + control + rejected (26)"),
        ({"seal": {"frames": FrameCounts(received=27, trade=24, control=1, rejected=2)}},
         f"quarantine {NAME.rejected_frames}: holds "),
        ({"seal": {"trades_refused": 2}}, f"quarantine {NAME.rejected_frames}: holds "),
        ({"seal": {"cut_bytes": 5}}, "quarantine _{}: 0 bytes were cut, 5 by the seal"),
        ({"seal": {"quarantine": {}}}, f"quarantine {NAME.rejected_frames}: is listed in no record"),
        ({"seal": {"quarantine": {NAME.rejected_frames: "00"}}}, f"sha256 {NAME.rejected_frames}: is "),
        ({"seal": {"sha256": "00"}}, "journal _{}: archive and quarantine together are not the journal"),
        ({"seal": {"bytes": 1}}, "journal _{}: archive and quarantine together are not the journal"),
        ({"seal": {"lanes": 2}}, "lanes _{}: is of 2 lanes, session.json of 1"),
        *(({"seal": {"gaps": (gap(**wrong),)}}, f"gaps _{{}}: the gap from {wrong.get('start_ns', 1)} {what}")
          for wrong, what in GAPS),
    ],
)  # fmt: skip
def test_each_law_of_a_batch(recorded: Recorded, changes: dict[str, Any], says: str) -> None:
    """Wrong content of a manifest is reported as the law that it breaks; `{}` is the file or its manifest."""
    store = recorded()
    forge(store, **changes)
    assert_says(store, says.replace("_{}", NAME.manifest).replace("{}", NAME.archived))


def test_a_gap_of_a_batch_may_last_beyond_it(recorded: Recorded) -> None:
    """A gap that was still open when the batch was sealed breaks no law."""
    store = recorded()
    forge(store, seal={"gaps": (gap(end_ns=None),)})
    assert said(store) == []


@pytest.mark.parametrize("field", ["first_seq", "last_seq", "first_recv_ns", "last_recv_ns", "rows"])
def test_the_ranges_of_a_seal_are_those_of_its_rows(recorded: Recorded, field: str) -> None:
    """Each number in a seal about a connection's rows is compared with the rows."""
    store = recorded()
    first, *others = read(manifest_path(store), Manifest).seal.connections
    forge(store, seal={"connections": (replace(first, **{field: getattr(first, field) - 1}), *others)})
    assert_says(store, f"connections {NAME.manifest}: the seal's connections are not those of its rows")


@pytest.mark.parametrize("field", ["before_seq", "before_recv_ns"])
def test_a_batch_follows_on_its_lanes_last(recorded: Recorded, field: str) -> None:
    """A seal that follows on another number or time than its lane's last breaks the chain."""
    store = recorded()
    first, *others = read(manifest_path(store), Manifest).seal.connections
    forge(store, seal={"connections": (replace(first, **{field: getattr(first, field) - 1}), *others)})
    assert_says(store, f"chain {NAME.manifest}: connection 1 follows on ")


def test_a_batch_of_one_lane_begins_with_the_next_number(recorded: Recorded) -> None:
    """A number that is missing between two batches of a single lane breaks the chain."""
    assert_says(recorded([[rows(1, 2), rows(4, 5)]]), f"chain {NAME.manifest}: connection 1 begins at 4")


def forged_file(store: Store) -> None:
    path = manifest_path(store).with_name(NAME.archived)
    path.write_bytes(b"no Parquet file")
    forge(store, bytes=15, sha256=hashlib.sha256(b"no Parquet file").hexdigest())


def forged_frames(store: Store) -> None:
    path = store.quarantine / NAME.rejected_frames
    path.write_bytes(b"no JSON\n")
    forge(store, seal={"quarantine": {NAME.rejected_frames: hashlib.sha256(b"no JSON\n").hexdigest()}})


def second_copy(store: Store, name: str) -> None:
    path = manifest_path(store).with_name(name)
    other = path.parent.with_name("date=2026-11-25")
    other.mkdir()
    shutil.copy(path, other)


def folder_for_a_file(store: Store) -> None:
    path = store.quarantine / NAME.rejected_rows
    path.unlink()
    path.mkdir()


def left_in_the_spool(store: Store) -> None:
    (store.spool / SESSION).mkdir()
    (store.spool / SESSION / BatchName(SESSION, 0, 3).journal).write_bytes(b"")


def forged_cut(store: Store) -> None:
    (store.quarantine / NAME.cut).write_bytes(b"1,21,")
    sha256 = hashlib.sha256(b"1,21,").hexdigest()
    quarantine = read(manifest_path(store), Manifest).seal.quarantine
    forge(store, seal={"quarantine": {**quarantine, NAME.cut: sha256}, "cut_bytes": 4})


@pytest.mark.parametrize(
    ("act", "says"),
    [
        (forged_file, f"readable {NAME.archived}: "),
        (forged_file, f"journal {NAME.manifest}: cannot be built again"),
        (forged_frames, f"quarantine {NAME.rejected_frames}: has a line that cannot be read"),
        (forged_cut, f"quarantine {NAME.manifest}: 5 bytes were cut, 4 by the seal"),
        (folder_for_a_file, f"readable {NAME.rejected_rows}: cannot be read"),
        (left_in_the_spool, f"sealed {BatchName(SESSION, 0, 3).journal}: was left in the spool"),
        (lambda store: second_copy(store, NAME.archived), f"place {NAME.archived}: is a second copy beside "),
        (lambda store: (store.quarantine / f"{NAME}.other").write_bytes(b""),
         f"quarantine {NAME}.other: is listed in no record"),
        (lambda store: (store.quarantine / NAME.rejected_rows).unlink(), f"present {NAME.rejected_rows}: is missing"),
        (lambda store: (store.quarantine / NAME.rejected_frames).unlink(), f"present {NAME.rejected_frames}: is miss"),
        (lambda store: manifest_path(store).with_name(NAME.archived).unlink(), f"present {NAME.archived}: is missing"),
        (lambda store: manifest_path(store).write_bytes(b"{"), f"readable {NAME.manifest}: "),
        (lambda store: (store.sessions / SESSION / "session.json").write_bytes(b"{"), "readable session.json: "),
        (lambda store: (store.sessions / SESSION / "session.json").unlink(),
         "recorded session.json: the session was not recovered"),
    ],
)  # fmt: skip
def test_each_law_of_files(recorded: Recorded, act: Forge, says: str) -> None:
    """Missing, extra, and wrong files are reported as the law that they break."""
    store = recorded()
    act(store)
    assert_says(store, says)


def test_a_batch_that_waits_to_be_archived_is_named_once_its_session_is_over(recorded: Recorded) -> None:
    """Each batch that is only sealed is reported, with what to do."""
    lines = [line for line in said(recorded(archived=False)) if line.startswith("archived ")]
    assert lines == [f"archived {name.seal}: the batch is not yet archived: run `tape archive`" for name in NAMES]


def test_a_cut_that_makes_no_batch_breaks_no_law(recorded: Recorded) -> None:
    """A recovery's cut without a seal belongs to a journal that was entirely unreadable."""
    store = recorded()
    (store.quarantine / NAME.cut).write_bytes(b"\xff")
    assert said(store) == []


def test_a_batch_that_was_rejected_whole_is_kept_as_it_was_sealed(recorded: Recorded) -> None:
    """A journal with a wrong header is in quarantine with the bytes that its seal lists."""
    store = recorded(archived=False)
    reseal(store, NAME, lambda lines: lines.__setitem__(0, b"x" + lines[0]))
    archive(store)
    kept = store.quarantine / NAME.rejected_batch
    assert said(store) == []
    kept.write_bytes(kept.read_bytes()[:-1])
    assert_says(store, f"sha256 {NAME.rejected_batch}: is ")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"session": "20261124T143000Z-00000000"}, "name session.json: is the record of 20261124T143000Z-00000000"),
        ({"connections": 1}, f"connections {NAME.manifest}: has more connections than "),
        ({"batches": (4,)}, "batches session.json: lane 0 without [3], the record says 4"),
        ({"batches": (2,)}, "batches session.json: lane 0 has 3 batches, the record says 2"),
        ({"batches": (3, 1)}, "batches session.json: lane 1 without [0], the record says 1"),
        ({"batches": (3, 0)}, f"lanes {NAME.manifest}: is of 1 lanes, session.json of 2"),
        ({"frames_received": 1}, "ledger session.json: frames at the socket (1) ≠ read + lost (66)"),
        ({"gaps": (gap(), gap())}, "ledger session.json: gaps that overlap (1) ≠ none (0)"),
        ({"gaps": (gap(end_ns=None),)}, "gaps session.json: the gap from 1 has no end, though the session has"),
        *(({"gaps": (gap(**wrong),)}, f"gaps session.json: the gap from {wrong.get('start_ns', 1)} {what}")
          for wrong, what in GAPS),
    ],
)  # fmt: skip
def test_each_law_of_a_sessions_record(recorded: Recorded, changes: dict[str, Any], says: str) -> None:
    """Wrong content of a session's record is reported as the law that it breaks."""
    assert_says(recorded(record_changes=changes), says)


def test_a_batch_of_a_lane_that_the_session_has_not_is_found(recorded: Recorded) -> None:
    """A second lane's batch breaks a law if it and the record say that there is one lane."""
    one = {"lanes": 1}
    store = recorded([[rows(1)], [rows(2)]], seal_changes={(0, 0): one, (1, 0): one}, record_changes={"batches": (1,)})
    assert_says(store, f"lanes {BatchName(SESSION, 1, 0).manifest}: is of 1 lanes")


def test_a_lost_lane_whose_frames_were_counted_elsewhere_is_found(recorded: Recorded) -> None:
    """A missing batch of the second lane is found although all frame and trade counts agree."""
    lost = BatchName(SESSION, 1, 0)
    none = {"frames": FrameCounts(), "trades_refused": 0, "quarantine": {}}
    store = recorded([[rows(1, 2)], [rows(3, 4, symbol="MSFT")]], seal_changes={(1, 0): none}, archived=False)
    (store.quarantine / lost.rejected_frames).unlink()
    archive(store)
    assert said(store) == []
    assert ledger_for(store, SESSION).balances
    for path in (manifest_path(store, lost).with_name(lost.archived), manifest_path(store, lost)):
        path.unlink()
    assert ledger_for(store, SESSION).imbalances() == ["batches sealed (2) ≠ batches found (1)"]
    assert said(store) == [
        "batches session.json: lane 1 without [0], the record says 1 from 0 on",
        "ledger session.json: batches sealed (2) ≠ batches found (1)",
    ]


@pytest.mark.parametrize(
    ("lanes", "says"),
    [
        ([[rows(1, 2)], [rows(2)]], "numbers of recv_seq are there twice"),
        ([[rows(3)], [rows(3)], [rows(1, 2)]], "numbers of recv_seq are there twice"),
        ([[rows(1, 1, 2)]], "numbers of recv_seq are there twice"),
        ([[rows(1, 2, 5)], [rows(4)]], "1 trades from recv_seq 3 on are missing"),
    ],
    ids=["in another lane", "in another lane, before the lower ones", "in its batch", "in no lane"],
)
def test_each_number_is_there_once(recorded: Recorded, lanes: Any, says: str) -> None:
    """A duplicate trade, anywhere, or a missing one breaks the order of its connection."""
    assert any(line.startswith("order ") and says in line for line in said(recorded(lanes)))


def test_time_that_goes_backwards_in_a_batch_is_found(recorded: Recorded) -> None:
    """A receive time earlier than the previous trade's breaks the order."""
    store = recorded([[rows(1, 2, 3)]], archived=False)
    reseal(store, NAMES[0], lambda lines: lines.__setitem__(2, with_time(lines[2], START_NS)))
    assert said(archive(store)) == [
        f"order {NAMES[0].manifest}: connection 1: ts_recv runs backwards 1 times"
    ]  # fmt: skip


def test_time_that_goes_backwards_between_batches_is_found(recorded: Recorded) -> None:
    """A batch whose first trade was received before the previous batch's last one breaks the order."""
    store = recorded([[rows(1, 2), rows(3, 4)]], archived=False)
    (range_,) = read(store.sealed / NAME.seal, Seal).connections
    reseal(
        store, NAME, lambda lines: lines.__setitem__(1, with_time(lines[1], START_NS)),
        connections=(replace(range_, first_recv_ns=START_NS),),
    )  # fmt: skip
    assert said(archive(store)) == [f"order {NAME.manifest}: connection 1: ts_recv runs backwards 1 times"]


def test_time_that_goes_backwards_after_a_killed_lanes_end_is_found(recorded: Recorded) -> None:
    """In a killed session, trades after the number up to which it is complete must still have rising times."""
    killed = {"outcome": "killed", "connections": 1}
    store = recorded([[rows(1, 3, 5, 7)], [rows(2)]], archived=False, record_changes=killed)
    reseal(store, NAMES[0], lambda lines: lines.__setitem__(3, with_time(lines[3], START_NS)))
    assert said(archive(store)) == ["order session.json: connection 1: ts_recv runs backwards 1 times"]


@pytest.mark.parametrize(
    ("outcome", "recovered", "says"),
    [
        ("killed", False, []),
        ("failed", False, []),
        ("complete", True, []),
        ("complete", False, ["order session.json: connection 1: 2 trades from recv_seq 4 on are missing"]),
    ],
)
def test_only_a_kill_or_a_failure_may_cut_a_lanes_end(
    recorded: Recorded, outcome: str, recovered: bool, says: list[str]
) -> None:
    """Numbers missing after a lane's end are no holes if the session was killed or failed, or the batch recovered."""
    store = recorded(
        [[rows(1, 3, 5, 7)], [rows(2)]], seal_changes={(1, 0): {"recovered": recovered}},
        record_changes={"outcome": outcome, "connections": 1},
    )  # fmt: skip
    assert said(store) == says


def test_with_one_lane_a_kill_excuses_no_hole(recorded: Recorded) -> None:
    """A kill cuts a single lane only at its end: a number missing before it is a hole."""
    store = recorded([[rows(1, 2), rows(4, 5)]], record_changes={"outcome": "killed", "connections": 1})
    assert "order session.json: connection 1: 1 trades from recv_seq 3 on are missing" in said(store)


def sent(file: Path, key: str) -> ObjectReceipt:
    content = file.read_bytes()
    sha256 = hashlib.sha256(content).hexdigest()
    return ObjectReceipt(key=key, bytes=len(content), sha256=sha256, etag="", version=None, checked="test")


def receipt_of(record: Path, file: str, prefix: str = "trades", record_key: str | None = None) -> Receipt:
    """Write a receipt for an upload of a record and its file."""
    folder = f"{prefix}/{record.parent.parent.name}/{record.parent.name}"
    return Receipt(
        batch=file.split(".")[0], bucket="tape", endpoint=None, uploaded_ns=1,
        object=sent(record.with_name(file), f"{folder}/{file}"),
        manifest=sent(record, f"{folder}/{record_key or record.name}"),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("part", "changes", "says"),
    [
        ("object", {"sha256": "00"}, f"acknowledges other bytes than {NAME.archived} has"),
        ("object", {"bytes": 1}, f"acknowledges other bytes than {NAME.archived} has"),
        ("object", {"key": "trades/elsewhere"}, f"acknowledges the key trades/elsewhere for {NAME.archived}"),
        ("manifest", {"sha256": "00"}, f"acknowledges other bytes than {NAME.manifest} has"),
        ("manifest", {"bytes": 1}, f"acknowledges other bytes than {NAME.manifest} has"),
        ("manifest", {"key": "trades/elsewhere"}, f"acknowledges the key trades/elsewhere for {NAME.manifest}"),
        (None, {"batch": OTHER}, "is of another batch than its manifest"),
        (None, {"object": None}, "is of another batch than its manifest"),
    ],
)
def test_each_law_of_a_batchs_receipt(recorded: Recorded, part: str | None, changes: dict[str, Any], says: str) -> None:
    """A receipt of other bytes, another key, or another batch breaks only the receipt's law."""
    store = recorded()
    path = manifest_path(store)
    good = receipt_of(path, NAME.archived)
    write_whole(path.with_name(NAME.receipt), encode(good))
    assert said(store) == []
    bad = replace(good, **(changes if part is None else {part: replace(getattr(good, part), **changes)}))
    write_whole(path.with_name(NAME.receipt), encode(bad))
    (line,) = said(store)
    assert line.startswith(f"receipt {NAME.receipt}: {says}")


@pytest.fixture
def closed(recorded: Recorded) -> Store:
    """A session of three batches whose day is closed, and acknowledged by a bucket."""
    store = recorded()
    day = merge(store, "finnhub", DATE)
    assert day is not None
    assert day.file is not None
    record = store.day_record("finnhub", DATE)
    stem = day.file.removesuffix(".parquet")
    receipt = receipt_of(record, day.file, "trades-by-day", f"_{stem}.day.json")
    write_whole(receipt_record(record), encode(receipt))
    return store


def day_of(store: Store) -> tuple[Path, Day]:
    record = store.day_record("finnhub", DATE)
    return record, read(record, Day)


def forge_day(store: Store, **changes: Any) -> None:
    record, day = day_of(store)
    record.write_bytes(encode(replace(day, **changes)))


def forge_day_receipt(store: Store, part: str | None = None, **changes: Any) -> None:
    record, _ = day_of(store)
    good = read(receipt_record(record), Receipt)
    bad = replace(good, **(changes if part is None else {part: replace(getattr(good, part), **changes)}))
    write_whole(receipt_record(record), encode(bad))


def remove_day(store: Store, **changes: Any) -> None:
    """Remove a day's file as the retention rule does, with changes to its record."""
    record, day = day_of(store)
    file = str(day.file)
    gone = Removed(batch=file.split(".")[0], file=file, removed_ns=1, why="age", held_in=("bucket tape",))
    write_whole(removed_record(record), encode(replace(gone, **changes)))
    record.with_name(file).unlink()


def remove_batch(store: Store, name: BatchName = NAME, **changes: Any) -> None:
    """Remove a batch's file as the retention rule does, with changes to its record."""
    path = manifest_path(store, name)
    gone = Removed(batch=str(name), file=name.archived, removed_ns=1, why="merged", held_in=("the day's file",))
    write_whole(path.with_name(name.removed), encode(replace(gone, **changes)))
    path.with_name(name.archived).unlink()


def test_a_day_that_was_closed_sent_and_removed_breaks_no_law(closed: Store) -> None:
    """A closed and uploaded day breaks no law, nor does the receipt of an earlier merge."""
    assert said(closed) == []
    forge_day_receipt(closed, batch=f"{DATE}-000000000000")
    forge_day_receipt(closed, "manifest", sha256="00")
    assert said(closed) == []
    remove_day(closed)
    assert said(closed) == []


def move_record(store: Store) -> None:
    record, _ = day_of(store)
    record.rename(record.with_name("_2026-11-25.day.json"))


def unnamed_file(store: Store) -> None:
    record, _ = day_of(store)
    record.with_name(f"{DATE}-000000000000.parquet").write_bytes(b"")


def without_a_batch(store: Store) -> None:
    for path in (manifest_path(store).with_name(NAME.archived), manifest_path(store)):
        path.unlink()


@pytest.mark.parametrize(
    ("act", "says"),
    [
        (lambda store: day_of(store)[0].write_bytes(b"{"), f"readable _{DATE}.day.json: "),
        (unnamed_file, f"day {DATE}-000000000000.parquet: is named by no record"),
        (lambda store: forge_day(store, feed="another"), f"place _{DATE}.day.json: belongs to "),
        (move_record, "place _2026-11-25.day.json: belongs to "),
        (lambda store: forge_day(store, rows=54), f"counts _{DATE}.day.json: 54 rows, its batches have 53"),
        (lambda store: forge_day(store, bytes=1), "sha256 {}: is "),
        (lambda store: forge_day(store, sha256="00"), "sha256 {}: is "),
        (lambda store: forge(store, software="another"), f"day _{DATE}.day.json: was made of another {NAME}"),
        (without_a_batch, f"day _{DATE}.day.json: holds {NAME}, which is not in the archive"),
        (lambda store: receipt_record(day_of(store)[0]).write_bytes(b"{"), f"readable _{DATE}.receipt.json: "),
        (lambda store: forge_day_receipt(store, "object", sha256="00"), "receipt _{}: acknowledges other bytes"),
        (lambda store: forge_day_receipt(store, "object", bytes=1), "receipt _{}: acknowledges other bytes"),
        (lambda store: forge_day_receipt(store, "object", key="x"), "receipt _{}: acknowledges the key x"),
        (lambda store: forge_day_receipt(store, "manifest", sha256="00"), "receipt _{}: acknowledges other bytes"),
        (lambda store: forge_day_receipt(store, "manifest", bytes=1), "receipt _{}: acknowledges other bytes"),
        (lambda store: forge_day_receipt(store, "manifest", key="x"), "receipt _{}: acknowledges the key x"),
        (lambda store: forge_day_receipt(store, object=None), "receipt _{}: acknowledges other bytes"),
        (lambda store: removed_record(day_of(store)[0]).write_bytes(b"{"), f"readable _{DATE}.removed.json: "),
        (lambda store: day_of(store)[0].with_name(str(day_of(store)[1].file)).unlink(), "present {}: is missing"),
        (lambda store: remove_day(store, file="another.parquet"), "present {}: is missing"),
        (lambda store: (forge_day_receipt(store, "object", sha256="00"), remove_day(store)), "present {}: is missing"),
    ],
)
def test_each_law_of_a_day(closed: Store, act: Forge, says: str) -> None:
    """A fault of a closed day is reported as the law that it breaks; `{}` is the day's file or receipt."""
    file = str(day_of(closed)[1].file)
    act(closed)
    assert_says(closed, says.replace("_{}", f"_{DATE}.receipt.json").replace("{}", file))


def own_receipt(store: Store, sha256: str | None = None) -> None:
    path = manifest_path(store)
    receipt = receipt_of(path, NAME.archived)
    assert receipt.object is not None
    changed = receipt if sha256 is None else replace(receipt, object=replace(receipt.object, sha256=sha256))
    write_whole(path.with_name(NAME.receipt), encode(changed))


def not_in_its_day(store: Store) -> None:
    remove_batch(store, why="age")
    forge(store, software="another")


def damaged_day(store: Store) -> None:
    remove_batch(store)
    record, day = day_of(store)
    record.with_name(str(day.file)).write_bytes(b"no Parquet file")


@pytest.mark.parametrize(
    ("act", "says"),
    [
        (lambda store: manifest_path(store).with_name(NAME.removed).write_bytes(b"{"), f"readable {NAME.removed}: "),
        (lambda store: remove_batch(store, batch=OTHER), f"removed {NAME.removed}: tells of {NAME.archived}, "),
        (lambda store: remove_batch(store, file="another.parquet"), f"removed {NAME.removed}: tells of another.par"),
        (lambda store: (remove_batch(store), day_of(store)[0].unlink()), f"present {NAME.archived}: was removed"),
        (lambda store: (remove_batch(store), day_of(store)[0].write_bytes(b"{")),
         f"readable _{DATE}.day.json: "),
        (damaged_day, f"readable {DATE}-"),
        (lambda store: (own_receipt(store), remove_batch(store), day_of(store)[0].unlink()),
         f"present {NAME.archived}: was removed"),
        (lambda store: (own_receipt(store, "00"), remove_batch(store, why="age"), day_of(store)[0].unlink()),
         f"present {NAME.archived}: was removed"),
        (lambda store: (remove_batch(store), forge_day_receipt(store, "object", sha256="00"), remove_day(store)),
         f"present {NAME.archived}: was removed"),
        (not_in_its_day, f"present {NAME.archived}: was removed"),
    ],
)  # fmt: skip
def test_each_law_of_a_removed_batch(closed: Store, act: Forge, says: str) -> None:
    """A batch's file may be missing only if a record documents its removal and names a proven copy."""
    act(closed)
    assert_says(closed, says)


def test_a_removed_batch_is_in_the_bucket_by_its_own_receipt(closed: Store) -> None:
    """A batch removed by age needs no day's file if its own object was acknowledged."""
    own_receipt(closed)
    remove_batch(closed, why="age")
    receipt_record(day_of(closed)[0]).unlink()
    record, day = day_of(closed)
    record.with_name(str(day.file)).unlink()
    record.unlink()
    verdict = verify(closed)
    assert (verdict.broken, verdict.in_bucket_alone) == ((), 1)


@pytest.mark.parametrize(
    ("act", "uploaded"),
    [
        (lambda _: None, 3),
        (lambda store: forge_day_receipt(store, bucket="another"), 0),
        (lambda store: forge_day_receipt(store, endpoint="https://store.example"), 0),
        (lambda store: forge_day_receipt(store, batch=f"{DATE}-000000000000"), 0),
        (lambda store: forge(store, software="another"), 2),
        (lambda store: receipt_record(day_of(store)[0]).unlink(), 0),
    ],
    ids=["of its day", "of another bucket", "of another store", "of another merge", "of another batch", "none"],
)
def test_a_merged_batch_is_uploaded_by_the_receipt_of_its_day(closed: Store, act: Forge, uploaded: int) -> None:
    """A day's receipt makes a batch count as uploaded only for that bucket, merge, and batch."""
    for name in NAMES:
        remove_batch(closed, name)
    act(closed)
    ledger = ledger_for(closed, SESSION, PLACE)
    assert (ledger.batches.uploaded, ledger.balances) == (uploaded, uploaded == 3)


def test_a_batch_that_was_not_removed_for_its_day_needs_its_own_receipt(closed: Store) -> None:
    """A day's receipt does not cover a batch whose file is here or was removed by age."""
    remove_batch(closed, why="age")
    assert ledger_for(closed, SESSION, PLACE).batches.uploaded == 0


def test_a_batch_is_uploaded_by_its_own_receipt_of_that_bucket(recorded: Recorded) -> None:
    """A receipt of another bucket, store, or prefix does not count."""
    store = recorded()
    path = manifest_path(store)
    good = receipt_of(path, NAME.archived)
    elsewhere = receipt_of(path, NAME.archived, "another")
    receipts = (good, replace(good, bucket="another"), replace(good, endpoint="https://store.example"), elsewhere)
    uploaded = []
    for receipt in receipts:
        write_whole(path.with_name(NAME.receipt), encode(receipt))
        uploaded.append(ledger_for(store, SESSION, PLACE).batches.uploaded)
    assert uploaded == [1, 0, 0, 0]


def test_a_days_record_that_cannot_be_read_is_said_of_its_batches_too(closed: Store) -> None:
    """A damaged day's record is reported once for the day, and once for each batch that needs it."""
    for name in NAMES[:2]:
        remove_batch(closed, name)
    day_of(closed)[0].write_bytes(b"{")
    assert [line.partition(":")[0] for line in said(closed)].count(f"readable _{DATE}.day.json") == 3
