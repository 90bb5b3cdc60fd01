"""Intact sessions hold every law; each kind of damage breaks one in a named file, without a traceback."""

import fcntl
import hashlib
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tasks.records.ledger import FrameCounts, Gap
from tasks.records.manifest import Manifest, ObjectReceipt, Place, Receipt, Report, encode, read
from tasks.records.names import BatchName
from tasks.storage.store import Store, write_whole
from tasks.verify.account import ledger_for
from tasks.verify.laws import Verdict, verify

SESSION = "20261124T143000Z-9f3c01ab"
NAME = BatchName(SESSION, 0, 1)
RECORD = "session.json"
Recorded = Callable[..., Store]


def named(verdict: Verdict) -> set[tuple[str, str]]:
    """The broken laws, each with the name of its file."""
    return {(each.law, Path(each.file).name) for each in verdict.broken}


def manifest_path(store: Store, name: BatchName = NAME) -> Path:
    path = store.manifest_of(name)
    assert path is not None
    return path


def receipt(store: Store, name: BatchName = NAME) -> Receipt:
    path = manifest_path(store, name)
    manifest = read(path, Manifest)
    content = path.read_bytes()

    def sent(file: str, size: int, sha256: str) -> ObjectReceipt:
        key = f"trades/{path.with_name(file).relative_to(store.archive)}"
        return ObjectReceipt(key=key, bytes=size, sha256=sha256, etag="", version=None, checked="test")

    return Receipt(
        batch=str(name), bucket="tape", endpoint=None, uploaded_ns=1,
        object=sent(name.archived, manifest.bytes, manifest.sha256),
        manifest=sent(name.manifest, len(content), hashlib.sha256(content).hexdigest()),
    )  # fmt: skip


def test_a_whole_session_holds_every_law(recorded: Recorded) -> None:
    """Three batches over two connections, with quarantined rows, rejected frames, and a gap, break no law."""
    verdict = verify(recorded())
    assert verdict.broken == ()
    assert (verdict.sessions, verdict.batches, verdict.trades, verdict.recording) == (1, 3, 53, ())
    assert verdict.holds


def test_an_empty_data_folder_holds_every_law(store: Store) -> None:
    """An empty data folder breaks no law."""
    assert verify(store) == Verdict(0, 0, 0, (), ())


def test_lanes_share_the_numbers_of_a_connection(recorded: Recorded) -> None:
    """Two lanes with interleaved batches, the first far ahead of the second, hold every law."""
    odd = [(1, seq, "AAPL", "1.5") for seq in range(1, 61, 2)]
    even = [(1, seq, "MSFT", "2.5") for seq in range(2, 61, 2)]
    assert verify(recorded([[odd[:20], odd[20:]], [even[:2], even[2:4], even[4:]]])).broken == ()


def test_a_number_missing_from_every_lane_is_found(recorded: Recorded) -> None:
    """A trade that no lane wrote is reported as a hole in the connection."""
    odd = [(1, seq, "AAPL", "1.5") for seq in range(1, 61, 2)]
    even = [(1, seq, "MSFT", "2.5") for seq in range(2, 61, 2) if seq != 30]
    verdict = verify(recorded([[odd], [even]]))
    assert named(verdict) == {("order", RECORD)}
    assert "recv_seq 30 " in verdict.broken[0].message


def test_a_number_in_two_lanes_is_found(recorded: Recorded) -> None:
    """A trade that two lanes wrote is reported as a duplicate."""
    verdict = verify(recorded([[[(1, 1, "AAPL", "1"), (1, 2, "AAPL", "1")]], [[(1, 2, "MSFT", "1")]]]))
    assert {law for law, _ in named(verdict)} == {"order"}


def test_what_a_kill_cut_from_one_lane_is_no_hole(recorded: Recorded) -> None:
    """After a kill a lane may lack its last trades, though the other has later ones; before its end it may not."""
    odd = [(1, seq, "AAPL", "1.5") for seq in range(1, 61, 2)]
    even = [(1, seq, "MSFT", "2.5") for seq in range(2, 41, 2)]
    killed = {"outcome": "killed", "connections": 1}
    assert verify(recorded([[odd], [even]], record_changes=killed)).broken == ()


def test_a_hole_before_the_end_of_a_killed_lane_is_found(recorded: Recorded) -> None:
    """A kill takes only the end of a lane: a number missing before it is a hole."""
    odd = [(1, seq, "AAPL", "1.5") for seq in range(1, 61, 2)]
    even = [(1, seq, "MSFT", "2.5") for seq in range(2, 41, 2) if seq != 30]
    killed = {"outcome": "killed", "connections": 1}
    verdict = verify(recorded([[odd], [even]], record_changes=killed))
    assert named(verdict) == {("order", RECORD)}
    assert "1 trades from recv_seq 30 on" in verdict.broken[0].message


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["parquet", "manifest.json", "rows.csv", "frames.jsonl", RECORD, "receipt.json"])
def test_every_flipped_bit_is_found_and_its_file_named(recorded: Recorded, kind: str) -> None:
    """A bit flipped anywhere in a file of archive or quarantine breaks a law of that file."""
    store = recorded()
    write_whole(manifest_path(store).with_name(NAME.receipt), encode(receipt(store)))
    assert verify(store).holds
    names = {RECORD, f"{NAME}.{kind}", f"_{NAME}.{kind}"}
    path = next(path for path in store.root.rglob(f"*{kind}") if NAME.session in str(path) and path.name in names)
    whole, chance = path.read_bytes(), random.Random(20131007)
    for _ in range(15):
        bit = chance.randrange(len(whole) * 8)
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        found = verify(store)
        assert str(path) in {each.file for each in found.broken}, f"bit {bit} of {path.name}: {found.broken}"
    path.write_bytes(whole)
    assert verify(store).holds


@pytest.mark.parametrize("kind", ["parquet", "manifest.json", "rows.csv", "frames.jsonl", RECORD])
@pytest.mark.parametrize("content", [None, b"", b"{", b"\xff\x00" * 40], ids=["gone", "empty", "torn", "binary"])
def test_missing_and_torn_files_are_named(recorded: Recorded, kind: str, content: bytes | None) -> None:
    """A missing, empty, or foreign file breaks a law and causes no traceback."""
    store = recorded()
    names = {RECORD, f"{NAME}.{kind}", f"_{NAME}.{kind}"}
    path = next(path for path in store.root.rglob(f"*{kind}") if path.name in names)
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    assert any(str(NAME) in each.file or path.name in each.file for each in verify(store).broken)


def forge(store: Store, **changes: Any) -> None:
    """Write a manifest with a valid checksum and wrong content."""
    path = manifest_path(store)
    manifest = read(path, Manifest)
    for part in ("seal", "report"):
        if part in changes:
            changes[part] = replace(getattr(manifest, part), **changes[part])
    write_whole(path, encode(replace(manifest, **changes)))


@pytest.mark.parametrize(
    ("changes", "law"),
    [
        ({"rows": 1}, "counts"),
        ({"first_event_ns": 1}, "rows"),
        ({"last_recv_ns": 1}, "rows"),
        ({"bytes": 1}, "bytes"),
        ({"report": {"per_symbol": {"AAPL": 12, "MSFT": 10}}}, "rows"),
        ({"report": {"valid": 20}}, "counts"),
        ({"report": {"rows": 26}}, "counts"),
        ({"report": {"quarantine_sha256": None}}, "quarantine"),
        ({"seal": {"sha256": "00"}}, "journal"),
        ({"seal": {"bytes": 1}}, "journal"),
        ({"seal": {"date": "2026-11-25"}}, "place"),
        ({"seal": {"rows": 26}}, "counts"),
        ({"seal": {"lanes": 2}}, "lanes"),
        ({"seal": {"frames": FrameCounts(received=9, trade=1, control=1, rejected=1)}}, "counts"),
        ({"seal": {"frames": FrameCounts(received=28, trade=25, control=1, rejected=2)}}, "quarantine"),
        ({"seal": {"trades_refused": 2}}, "quarantine"),
        ({"seal": {"cut_bytes": 5}}, "quarantine"),
        ({"seal": {"connections": ()}}, "counts"),
        ({"seal": {"per_symbol": {}}}, "counts"),
        ({"seal": {"batch": f"{SESSION}-0-000007", "quarantine": {}}}, "name"),
        ({"seal": {"gaps": (Gap(symbols=("AAPL",), start_ns=9, end_ns=1, reason="x"),)}}, "gaps"),
    ],
)
def test_a_manifest_that_is_whole_and_wrong_is_found(recorded: Recorded, changes: dict[str, Any], law: str) -> None:
    """Every count, hash, and path in a manifest is compared with the files."""
    store = recorded()
    forge(store, **changes)
    found = {each.law for each in verify(store).broken if str(NAME) in Path(each.file).name}
    assert law in found


def test_a_chain_that_does_not_fit_is_found(recorded: Recorded) -> None:
    """A batch that follows on another number than its lane's last breaks the chain."""
    store = recorded()
    seal = read(manifest_path(store), Manifest).seal
    forge(store, seal={"connections": (replace(seal.connections[0], before_seq=3), *seal.connections[1:])})
    assert ("chain", NAME.manifest) in named(verify(store))


@pytest.mark.parametrize(
    ("changes", "law"),
    [
        ({"batches": (4,)}, "batches"),
        ({"batches": (2,)}, "batches"),
        ({"batches": (3, 1)}, "batches"),
        ({"frames_received": 1}, "ledger"),
        ({"session": "20261124T143000Z-00000000"}, "name"),
        ({"gaps": (Gap(symbols=("TSLA",), start_ns=1, end_ns=2, reason="x"),)}, "gaps"),
        ({"gaps": (Gap(symbols=("AAPL",), start_ns=1, end_ns=None, reason="x"),)}, "gaps"),
        ({"gaps": (Gap(symbols=("AAPL",), start_ns=1, end_ns=2, reason=""),)}, "gaps"),
    ],
)
def test_a_session_record_that_does_not_fit_is_found(recorded: Recorded, changes: dict[str, Any], law: str) -> None:
    """A session's record is compared with its batches, and its gaps must be valid."""
    assert (law, RECORD) in named(verify(recorded(record_changes=changes)))


def test_a_receipt_of_other_bytes_is_found(recorded: Recorded) -> None:
    """A receipt must acknowledge exactly the bytes of the file and of the manifest."""
    store = recorded()
    path, good = manifest_path(store).with_name(NAME.receipt), receipt(store)
    assert good.object is not None
    for bad in (
        replace(good, object=replace(good.object, sha256="00")),
        replace(good, manifest=replace(good.manifest, bytes=1)),
        replace(good, manifest=replace(good.manifest, key="trades/elsewhere")),
        replace(good, object=None),
    ):
        write_whole(path, encode(bad))
        assert named(verify(store)) == {("receipt", NAME.receipt)}


def test_a_sealed_batch_waits_to_be_archived(recorded: Recorded) -> None:
    """A batch that is only sealed breaks a law, and the message says what to do."""
    verdict = verify(recorded(archived=False))
    assert ("archived", NAME.seal) in named(verdict)
    assert "tape archive" in verdict.broken[0].message


def test_a_session_that_records_is_not_judged(recorded: Recorded) -> None:
    """While its recorder runs, a session is listed as recording, and waiting batches break no law."""
    store = recorded(archived=False)
    (store.sessions / SESSION / RECORD).unlink()
    with (store.sessions / SESSION / "recorder.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        verdict = verify(store)
        assert (verdict.broken, verdict.recording) == ((), (SESSION,))
    verdict = verify(store)
    assert ("recorded", RECORD) in named(verdict)
    assert verdict.recording == ()


def test_a_batch_without_its_session_is_found(recorded: Recorded) -> None:
    """Batches whose session folder is gone are reported as a session that was not recovered."""
    store = recorded()
    (store.sessions / SESSION / RECORD).unlink()
    (store.sessions / SESSION).rmdir()
    assert named(verify(store)) == {("recorded", RECORD)}


def test_the_ledger_counts_every_stage(recorded: Recorded) -> None:
    """The ledger adds up the small records, and balances."""
    ledger = ledger_for(recorded(), SESSION)
    assert ledger.balances, ledger.imbalances()
    assert (ledger.trades.received, ledger.trades.refused, ledger.trades.journalled) == (63, 3, 60)
    assert (ledger.trades.valid, ledger.trades.quarantined, ledger.trades.archived) == (53, 7, 53)
    assert ledger.per_symbol == {"AAPL": 27, "MSFT": 26}
    assert (ledger.frames.received, ledger.batches.sealed, ledger.batches.archived) == (66, 3, 3)


def test_the_ledger_waits_for_the_bucket_where_one_is_expected(recorded: Recorded) -> None:
    """If an upload is expected, batches without that bucket's receipt unbalance the ledger."""
    store, place = recorded(), Place(bucket="tape", endpoint=None, prefix="trades")
    assert not ledger_for(store, SESSION, place).balances
    for number in range(3):
        name = BatchName(SESSION, 0, number)
        write_whole(manifest_path(store, name).with_name(name.receipt), encode(receipt(store, name)))
    assert ledger_for(store, SESSION, place).balances
    for other in ({"bucket": "another"}, {"endpoint": "https://store.example"}, {"prefix": "tape"}):
        ledger = ledger_for(store, SESSION, replace(place, **other))
        assert (ledger.batches.uploaded, ledger.balances) == (0, False), other


def test_a_batch_between_two_stages_is_counted_once(recorded: Recorded) -> None:
    """If a crash left a batch's records in two stages, the later one counts."""
    store = recorded()
    manifest = read(manifest_path(store), Manifest)
    write_whole(store.validated / NAME.report, encode(manifest.report))
    write_whole(store.sealed / NAME.seal, encode(manifest.seal))
    assert ledger_for(store, SESSION).balances
    assert isinstance(read(store.validated / NAME.report, Report), Report)
