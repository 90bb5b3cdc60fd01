"""Due files with a second copy are removed and recorded, and never the only copy."""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from journal_hash import journal_sha256

from tasks.archive.catalog import Catalog
from tasks.archive.day_files import unmerged
from tasks.archive.side_records import removed
from tasks.errors import TerminalError, TransientError
from tasks.records.manifest import Manifest, ObjectReceipt, read
from tasks.records.names import BatchName
from tasks.retain.retain import retain
from tasks.retain.rule import Remote, Retained, Rule
from tasks.storage.store import Store
from tasks.upload.bucket import Bucket
from tasks.upload.uploads import upload_day

from .conftest import DATE, NAMES, SESSION, close, files, remote_of, send

DAY_NS = 86_400 * 10**9
MERGED, AGE = Rule(batches_for_ns=7 * DAY_NS), Rule(local_for_ns=7 * DAY_NS)
EARLY, LATE = 6 * DAY_NS, 8 * DAY_NS


def run(store: Store, rule: Rule, remote: Remote | None = None, after_ns: int = LATE, free: int = 1 << 40) -> Retained:
    """Apply the rule this long after everything was written."""
    return retain(store, rule, lambda: time.time_ns() + after_ns, lambda: free, remote)


def here(store: Store) -> set[str]:
    """The names of the batch and day files that are here."""
    return {path.name for path in store.root.rglob("*.parquet")}


def reasons(found: Retained, *, wrong: bool) -> str:
    """Return why files were kept, all of one kind: with a fault or without."""
    assert {each.wrong for each in found.kept} == {wrong}, found.kept
    return "\n".join(each.reason for each in found.kept)


def test_off_nothing_goes(store: Store, closed: Path) -> None:
    """Without a rule everything is kept, however old it is."""
    before = files(store)
    assert run(store, Rule(), after_ns=3_650 * DAY_NS) == Retained()
    assert files(store) == before


def test_batch_files_go_once_their_day_has_been_closed_so_long(store: Store, closed: Path) -> None:
    """Files are removed on the due day and not before, each with a record, and every journal can be rebuilt."""
    before = files(store)
    assert run(store, MERGED, after_ns=EARLY) == Retained()
    assert files(store) == before
    found = run(store, MERGED)
    assert [Path(each.file).name for each in found.removed] == [name.archived for name in NAMES]
    assert {each.held_in for each in found.removed} == {(f"days/feed=finnhub/date={DATE}/{closed.name}",)}
    assert here(store) == {closed.name}
    left = files(store)
    gone = {path: text for path, text in before.items() if path not in left}
    assert sum(map(len, gone.values())) == found.bytes
    assert {path for path in left if path not in before} == {
        f"archive/feed=finnhub/date={DATE}/{name.removed}" for name in NAMES
    }
    batches = unmerged(closed, list(map(str, NAMES)), store.root / "temporary")
    for name in NAMES:
        path = store.manifest_of(name)
        assert path is not None
        manifest, said = read(path, Manifest), removed(path)
        assert said is not None
        assert (said.batch, said.file, said.why) == (str(name), name.archived, "merged")
        assert Catalog(store).day_of_batch(path, manifest) == closed
        assert journal_sha256(batches[str(name)], store.quarantine / name.rejected_rows) == manifest.seal.sha256
    assert run(store, MERGED) == Retained()


def test_a_damaged_day_removes_nothing(store: Store, closed: Path) -> None:
    """If the day's file has a flipped bit, every batch file stays."""
    whole = closed.read_bytes()
    before = files(store)
    closed.write_bytes(whole[:700] + bytes([whole[700] ^ 4]) + whole[701:])
    found = run(store, MERGED)
    assert found.removed == ()
    assert closed.name in reasons(found, wrong=True)
    closed.unlink()
    assert "is not here" in reasons(run(store, MERGED), wrong=False)
    closed.write_bytes(whole)
    assert files(store) == before
    record = store.day_record("finnhub", DATE)
    record.write_bytes(record.read_bytes().replace(b'"rows": 150', b'"rows": 151'))
    assert "record_sha256" in reasons(run(store, MERGED), wrong=True)
    assert len(here(store)) == 4


def test_a_damaged_batch_stays(store: Store, closed: Path) -> None:
    """A batch file that does not match its manifest stays and is named; the others are removed."""
    path = store.archive_folder("finnhub", DATE) / NAMES[1].archived
    whole = path.read_bytes()
    path.write_bytes(whole[:300] + bytes([whole[300] ^ 1]) + whole[301:])
    found = run(store, MERGED)
    assert path.name in reasons(found, wrong=True)
    assert here(store) == {closed.name, path.name}


def test_a_batch_that_its_day_lacks_stays(store: Store, closed: Path, archived: Callable[..., Path]) -> None:
    """A batch that arrived after its day was closed stays until the day is merged again."""
    late = BatchName(SESSION, 0, 3)
    archived(late)
    found = run(store, MERGED)
    assert "close the day again" in reasons(found, wrong=False)
    assert here(store) == {closed.name, late.archived}
    again = close(store)
    assert again.name != closed.name
    assert here(store) == {again.name, late.archived}
    assert len(run(store, MERGED).removed) == 1
    assert here(store) == {again.name}


def test_with_a_bucket_the_day_must_stand_there_too(
    store: Store, closed: Path, bucket: Bucket, remote: Remote, object_store: Any
) -> None:
    """Batch files are removed here and in the bucket once both have the day; manifests and quarantine stay."""
    assert upload_day(store, "finnhub", DATE, bucket, lambda: 1, pytest.fail) is not None
    found = run(store, MERGED, remote)
    assert (found.removed, len(here(store))) == ((), 4)
    assert "the batch has no receipt" in reasons(found, wrong=False)
    send(store, bucket)
    receipt = store.day_record("finnhub", DATE).with_name(f"_{DATE}.receipt.json")
    said = receipt.read_bytes()
    receipt.unlink()
    found = run(store, MERGED, remote)
    assert (found.removed, len(here(store))) == ((), 4)
    assert "the day has no receipt" in reasons(found, wrong=False)
    receipt.write_bytes(said)
    before = set(object_store.keys())
    found = run(store, MERGED, remote)
    assert here(store) == {closed.name}
    assert {len(each.held_in) for each in found.removed} == {2}
    gone = before - set(object_store.keys())
    assert gone == {f"trades/feed=finnhub/date={DATE}/{name.archived}" for name in NAMES}


def test_by_age_only_what_the_bucket_has_goes(
    store: Store, closed: Path, bucket: Bucket, remote: Remote, object_store: Any
) -> None:
    """By age, nothing is removed without a bucket and receipt; with them, only local files are."""
    assert "the only copy" in reasons(run(store, AGE), wrong=False)
    assert "no receipt" in reasons(run(store, AGE, remote), wrong=False)
    send(store, bucket, DATE)
    before = set(object_store.keys())
    assert run(store, AGE, remote, after_ns=EARLY) == Retained()
    found = run(store, AGE, remote)
    assert (len(found.removed), found.kept, here(store)) == (4, (), set())
    assert set(object_store.keys()) == before
    said = removed(store.day_record("finnhub", DATE))
    assert said is not None
    assert (said.batch, said.file, said.why) == (closed.stem, closed.name, "age")


@pytest.mark.parametrize("which", [f"trades/feed=finnhub/date={DATE}/{NAMES[0].archived}", "day", "record"])
@pytest.mark.parametrize("content", [None, b"something else"], ids=["missing", "different"])
def test_what_the_bucket_has_no_more_stays(
    store: Store, closed: Path, bucket: Bucket, remote: Remote, object_store: Any, which: str, content: bytes | None
) -> None:
    """A missing or different object keeps every local file that only it could prove, whatever the receipt says."""
    send(store, bucket, DATE)
    folder = f"trades-by-day/feed=finnhub/date={DATE}"
    key = {"day": f"{folder}/{closed.name}", "record": f"{folder}/_{closed.stem}.day.json"}.get(which, which)
    client = object_store.server.client()
    client.delete_object(Bucket=object_store.bucket, Key=key)
    if content is not None:
        client.put_object(Bucket=object_store.bucket, Key=key, Body=content)
    if which in {"day", "record"}:
        found = run(store, MERGED, remote)
        assert (found.removed, len(here(store))) == ((), 4)
        assert key in reasons(found, wrong=True)
        found = run(store, AGE, remote)
        assert here(store) == {closed.name}
        assert key in reasons(found, wrong=True)
    else:
        # The day in the bucket has the batch's rows.
        assert {each.held_in for each in run(store, AGE, remote).removed if NAMES[0].archived in each.file} == {
            (f"{remote.name}: {folder}/{closed.name}",)
        }


def test_a_bucket_out_of_reach_keeps_everything(store: Store, closed: Path, bucket: Bucket, remote: Remote) -> None:
    """An unreachable store is asked once, not for each file, and nothing is removed."""
    send(store, bucket, DATE)
    asked: list[str] = []

    def away(receipt: ObjectReceipt) -> bool:
        asked.append(receipt.key)
        raise TransientError(f"{bucket}: cannot be reached; try again")

    before = files(store)
    found = run(store, Rule(0, 0, 1 << 50), replace(remote, stands=away))
    assert (found.removed, len(asked)) == ((), 1)
    assert "cannot be reached" in reasons(found, wrong=False)
    assert files(store) == before


def test_another_bucket_proves_nothing(store: Store, closed: Path, bucket: Bucket, remote: Remote) -> None:
    """Receipts of a previously configured bucket do not count."""
    send(store, bucket, DATE)
    other = replace(remote, place=replace(remote.place, prefix="elsewhere"))
    assert "no receipt" in reasons(run(store, AGE, other), wrong=False)
    assert len(here(store)) == 4


@pytest.mark.parametrize("error", [TransientError, TerminalError])
def test_a_bucket_that_removes_nothing(
    store: Store, closed: Path, bucket: Bucket, remote: Remote, error: type[Exception], object_store: Any
) -> None:
    """A store that denies removal is reported and local files go; one that fails is tried again later."""
    send(store, bucket, DATE)

    def refuse(_keys: Sequence[str]) -> None:
        raise error("no")

    keys = object_store.keys()
    found = run(store, MERGED, replace(remote, remove=refuse))
    assert [each.reason for each in found.kept] == ["no"] * 3
    assert object_store.keys() == keys
    assert len(here(store)) == (1 if error is TerminalError else 4)
    assert not run(store, MERGED, remote).kept
    assert here(store) == {closed.name}


def test_for_space_the_oldest_goes_first_and_no_more_than_is_needed(
    store: Store, closed: Path, archived: Callable[..., Path], bucket: Bucket, remote: Remote
) -> None:
    """While too little is free, the oldest day's batches and then its file are removed, whatever their age."""
    name = BatchName("20261125T143000Z-9f3c01ab", 0, 0)
    archived(name, date="2026-11-25")
    newer = close(store, "2026-11-25")
    send(store, bucket, DATE, "2026-11-25")
    sizes = {path.name: path.stat().st_size for path in store.root.rglob("*.parquet")}
    oldest = [*(each.archived for each in NAMES), closed.name]

    def free_bytes() -> int:
        return sum(sizes.values()) - sum(path.stat().st_size for path in store.root.rglob("*.parquet"))

    for wanted, goes in (
        (sum(sizes[each] for each in oldest[:2]), oldest[:2]),
        (free_bytes() + sum(sizes[each] for each in oldest[:2]), []),
        (sum(sizes[each] for each in oldest[:3]) + 1, oldest[2:]),
        (sum(sizes[each] for each in oldest), []),
    ):
        found = retain(store, Rule(free_bytes=wanted), time.time_ns, free_bytes, remote)
        assert [Path(each.file).name for each in found.removed] == goes
        assert {each.why for each in found.removed} <= {"space"}
    assert here(store) == {name.archived, newer.name}


def test_a_copied_file_is_as_old_as_it_lay_here(store: Store, closed: Path, bucket: Bucket, remote: Remote) -> None:
    """A file that was written later, such as a restored one, is kept for its own period."""
    send(store, bucket, DATE)
    old_ns = time.time_ns() - LATE
    for path in store.root.rglob("*.parquet"):
        if path.name != NAMES[2].archived:
            os.utime(path, ns=(old_ns, old_ns))
    run(store, AGE, remote, after_ns=0)
    assert here(store) == {NAMES[2].archived}


def test_a_record_that_cannot_be_written_keeps_the_file(store: Store, closed: Path) -> None:
    """If a removal's record cannot be written, nothing of that batch is removed."""
    folder = store.archive_folder("finnhub", DATE)
    (folder / f".{NAMES[0].removed}.tmp").mkdir()
    found = run(store, MERGED)
    assert NAMES[0].removed in reasons(found, wrong=True)
    assert here(store) == {closed.name, NAMES[0].archived}


def test_a_bucket_of_nobody(store: Store, closed: Path, bucket: Bucket, remote: Remote) -> None:
    """A real endpoint that does not answer counts as unreachable."""
    send(store, bucket, DATE)
    nowhere = remote_of(replace(bucket, endpoint_url="http://127.0.0.1:1"))
    found = run(store, AGE, replace(nowhere, place=remote.place))
    assert (found.removed, len(here(store))) == ((), 4)
    assert "127.0.0.1:1" in reasons(found, wrong=False)
