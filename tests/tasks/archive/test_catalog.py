"""The catalog lists batches, where their rows are, and which bucket has them, whatever its index says."""

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest

from tasks.archive.catalog import Catalog
from tasks.archive.day_listing import known_day
from tasks.archive.side_records import acknowledged
from tasks.compress.parquet import compress
from tasks.errors import CorruptionError, TerminalError
from tasks.merge.day import merge
from tasks.records.manifest import Day, Manifest, ObjectReceipt, Place, Receipt, Removed, encode, read
from tasks.records.names import BatchName, Keys, day_record, receipt_record, removed_record
from tasks.storage.store import Store, write_whole
from tasks.validate.schema import Limits
from tasks.validate.split import split

T = 1_764_000_000_000_000_000
DATE, OTHER_DATE = "2026-11-24", "2026-11-25"
SESSION = "20261124T143000Z-9f3c01ab"
NAMES = [BatchName(SESSION, 0, number) for number in range(4)]
PLACE = Place(bucket="tape", endpoint=None, prefix="trades")


def soon() -> int:
    """A time by which everything written before has settled."""
    return time.time_ns() + 60_000_000_000


@pytest.fixture
def archived(store: Store, sealed_batch: Callable[..., BatchName]) -> Store:
    """Three archived batches, the last on a day of its own with a row in quarantine; the first day is closed."""
    for name in NAMES[:3]:
        archive(store, sealed_batch, name)
    assert merge(store, "finnhub", DATE) is not None
    return store


def archive(store: Store, sealed_batch: Callable[..., BatchName], name: BatchName) -> None:
    lines = [b"1,%d,%d,%d,%s,1.50,%d,\n" % (n + 1, T + n, T - n, (b"A", b"B")[n % 2], n + 1) for n in range(20)]
    if name == NAMES[2]:
        lines.append(b"1,21,%d,%d,A,x,1,\n" % (T + 20, T))
    sealed_batch(lines, name=name, date=OTHER_DATE if name == NAMES[2] else DATE)
    split(store, name, Limits(None, None))
    compress(store, name)


def record_of(store: Store, name: BatchName) -> tuple[Path, Manifest]:
    path = store.manifest_of(name)
    assert path is not None
    return path, read(path, Manifest)


def acknowledge(record: Path, file_sha256: str, place: Place = PLACE, stem: str = "x", beside: int = 0) -> None:
    """Write a receipt beside a manifest or a day's record."""
    folder, keys = record.parent, Keys(place.prefix)
    of = keys.of_day if record.name == day_record(DATE) else keys.of_batch
    feed, date = folder.parent.name.removeprefix("feed="), folder.name.removeprefix("date=")
    sent = ObjectReceipt(key=of(feed, date, record.name), bytes=1, sha256="00", etag="", version=None, checked="size")
    receipt = Receipt(
        batch=stem, bucket=place.bucket, endpoint=place.endpoint, uploaded_ns=1,
        object=replace(sent, sha256=file_sha256), manifest=sent, beside=(sent,) * beside,
    )  # fmt: skip
    write_whole(receipt_record(record), encode(receipt))


def acknowledge_batch(store: Store, name: BatchName, place: Place = PLACE, beside: int = 0) -> None:
    path, manifest = record_of(store, name)
    acknowledge(path, manifest.sha256, place, str(name), beside)


def acknowledge_day(store: Store, place: Place = PLACE, **changes: str) -> None:
    record = store.day_record("finnhub", DATE)
    day = read(record, Day)
    acknowledge(record, **{"file_sha256": day.sha256, "stem": Path(str(day.file)).stem, **changes}, place=place)  # type: ignore[arg-type]


def remove(store: Store, name: BatchName, why: Literal["merged", "age"] = "merged") -> None:
    """Remove a batch's file as the retention rule does."""
    path, manifest = record_of(store, name)
    gone = Removed(batch=str(name), file=str(manifest.file), removed_ns=1, why=why, held_in=("bucket tape: x",))
    write_whole(removed_record(path), encode(gone))
    path.with_name(str(manifest.file)).unlink()


# Which batches there are, and what state each is in


def test_a_batch_is_sealed_then_validated_then_archived(store: Store, sealed_batch: Callable[..., BatchName]) -> None:
    """A batch's stage is given by that stage's record, and earlier records are included."""
    name = sealed_batch([b"1,1,%d,%d,A,1.50,1,\n" % (T, T)], name=NAMES[0], per_symbol={"A": 1})
    batch = Catalog(store).batch(name)
    assert (batch.facts.state, batch.record, batch.facts.trades.journalled) == ("sealed", store.sealed / name.seal, 1)
    split(store, name, Limits(None, None))
    batch = Catalog(store).batch(name)
    assert (batch.facts.state, batch.record, batch.facts.trades.valid) == (
        "validated",
        store.validated / name.report,
        1,
    )
    compress(store, name)
    batch = Catalog(store).batch(name)
    assert (batch.facts.state, batch.record) == ("archived", store.manifest_of(name))
    assert Catalog(store).facts(name) == batch.facts
    assert (batch.facts.trades.archived, batch.facts.by_symbol, batch.facts.acknowledged) == (1, 1, None)


def test_every_batch_and_session_is_found_wherever_it_is(archived: Store, sealed_batch: Callable[..., Any]) -> None:
    """Sealed and archived batches are in one list, by session and in order; a recovery's cut is no batch."""
    late = sealed_batch([], name=BatchName("20261124T150000Z-00000001", 10, 0))
    early = sealed_batch([], name=BatchName("20261124T150000Z-00000001", 9, 7))
    (archived.quarantine / NAMES[3].cut).touch()
    (archived.sessions / "20261123T150000Z-00000000").mkdir()
    catalog = Catalog(archived)
    assert catalog.names() == {SESSION: NAMES[:3], late.session: [early, late]}
    assert catalog.names(late.session) == {late.session: [early, late]}
    assert catalog.sessions() == {"20261123T150000Z-00000000": [], **catalog.names()}
    assert {date: [*names] for date, names in catalog.by_day().items()} == {DATE: NAMES[:2], OTHER_DATE: [NAMES[2]]}


def test_a_batch_of_which_no_record_is_left_is_named(store: Store) -> None:
    """Files without a seal or manifest raise an error that names the batch."""
    with pytest.raises(TerminalError, match=str(NAMES[0])):
        Catalog(store).facts(NAMES[0])


# Where its rows are


def test_the_rows_are_in_the_own_file_then_in_the_days_then_elsewhere(archived: Store) -> None:
    """Rows are in the batch's own file, or else its day's; without both, the error says why and where they are."""
    path, manifest = record_of(archived, NAMES[0])
    catalog = Catalog(archived)
    assert catalog.rows_of(path, manifest) == path.with_name(NAMES[0].archived)
    remove(archived, NAMES[0])
    day_file = catalog.rows_of(path, manifest)
    assert day_file.parent == archived.day_folder("finnhub", DATE)
    day_file.unlink()
    with pytest.raises(TerminalError, match=r"removed here \(merged\) and is in bucket tape: x"):
        catalog.rows_of(path, manifest)
    removed_record(path).unlink()
    with pytest.raises(CorruptionError, match="missing beside its manifest"):
        catalog.rows_of(path, manifest)


# Which bucket has acknowledged it


def test_a_batch_waits_until_that_very_bucket_has_acknowledged_it(archived: Store) -> None:
    """A receipt that is unreadable, or of another bucket, endpoint, or prefix, counts as none."""
    path, _ = record_of(archived, NAMES[0])
    assert Catalog(archived).awaiting_upload(PLACE) == NAMES[:3]
    for change in ({"bucket": "other"}, {"endpoint": "https://store.example"}, {"prefix": "other"}):
        acknowledge_batch(archived, NAMES[0], replace(PLACE, **change))
        assert acknowledged(path, PLACE) is None
        assert Catalog(archived).awaiting_upload(PLACE) == NAMES[:3]
    acknowledge_batch(archived, NAMES[0])
    assert acknowledged(path, PLACE) is not None
    assert Catalog(archived).awaiting_upload(PLACE) == NAMES[1:3]
    receipt_record(path).write_bytes(b"{")
    assert Catalog(archived).awaiting_upload(PLACE) == NAMES[:3]


def test_a_receipt_without_the_quarantine_is_not_all(archived: Store) -> None:
    """A batch awaits upload until its quarantine files are acknowledged too, or are no longer here."""
    acknowledge_batch(archived, NAMES[2])
    assert NAMES[2] in Catalog(archived).awaiting_upload(PLACE)
    acknowledge_batch(archived, NAMES[2], beside=1)
    assert NAMES[2] not in Catalog(archived).awaiting_upload(PLACE)
    acknowledge_batch(archived, NAMES[2])
    (archived.quarantine / NAMES[2].rejected_rows).unlink()
    assert NAMES[2] not in Catalog(archived).awaiting_upload(PLACE)


def test_what_was_removed_without_a_receipt_has_nothing_to_send(archived: Store) -> None:
    """A removed batch does not await upload; one whose file is missing without a record does."""
    remove(archived, NAMES[0])
    assert Catalog(archived).awaiting_upload(PLACE) == NAMES[1:3]
    removed_record(record_of(archived, NAMES[0])[0]).unlink()
    assert Catalog(archived).awaiting_upload(PLACE) == NAMES[:3]


def test_a_merged_batch_is_acknowledged_by_its_days_receipt(archived: Store) -> None:
    """A day's receipt covers a batch only for the file that holds it, that bucket, and a removed own file."""
    path, manifest = record_of(archived, NAMES[0])
    acknowledge_day(archived)
    assert not Catalog(archived).is_merged_in(PLACE, path, manifest)
    remove(archived, NAMES[0])
    assert Catalog(archived).is_merged_in(PLACE, path, manifest)
    assert not Catalog(archived).is_merged_in(replace(PLACE, bucket="other"), path, manifest)
    assert not Catalog(archived).is_merged_in(PLACE, path, replace(manifest, rows=1))
    for change in ({"stem": f"{DATE}-000000000000"}, {"file_sha256": "00"}):
        acknowledge_day(archived, **change)
        assert not Catalog(archived).is_merged_in(PLACE, path, manifest)


def test_a_day_waits_until_its_present_file_is_acknowledged(archived: Store) -> None:
    """A day that was merged again awaits upload; one whose file was removed after its upload does not."""
    record = archived.day_record("finnhub", DATE)
    assert Catalog(archived).days_awaiting_upload(PLACE) == [("finnhub", DATE)]
    acknowledge_day(archived, stem=f"{DATE}-000000000000", file_sha256="00")
    assert Catalog(archived).days_awaiting_upload(PLACE) == [("finnhub", DATE)]
    acknowledge_day(archived)
    record.with_name(str(read(record, Day).file)).unlink()
    assert Catalog(archived).days_awaiting_upload(PLACE) == []


# The index


def told(store: Store, now_ns: Callable[[], int] = soon) -> dict[str, Any]:
    """Everything that a catalog returns for this folder."""
    catalog = Catalog(store, now_ns)
    names = catalog.names().get(SESSION, [])
    days = [("finnhub", date) for date in (DATE, OTHER_DATE)]
    return {
        "facts": {name: _or_error(lambda name=name: catalog.facts(name)) for name in names},
        "waiting": catalog.awaiting_upload(PLACE),
        "days": catalog.days_awaiting_upload(PLACE),
        "closed": [_or_error(lambda day=day: catalog.is_closed(*day)) for day in days],
        "day records": [known_day(store, *day, now_ns()) for day in days],
    }


def _or_error(ask: Callable[[], Any]) -> Any:
    try:
        return ask()
    except (CorruptionError, TerminalError) as error:
        return str(error)


def forget(store: Store) -> None:
    shutil.rmtree(store.root / "cache", ignore_errors=True)


def indexes(store: Store) -> list[Path]:
    return sorted((store.root / "cache").rglob("*.index"))


@pytest.fixture
def indexed(archived: Store) -> Store:
    """A data folder that is fully acknowledged and indexed."""
    for name in NAMES[:3]:
        acknowledge_batch(archived, name, beside=1)
    acknowledge_day(archived)
    assert told(archived)["waiting"] == []
    assert len(indexes(archived)) == 2
    return archived


def test_what_is_known_is_not_read_again(indexed: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """With an index, no record of a batch or day is opened, and the index is not rewritten."""
    written = [path.stat().st_ino for path in indexes(indexed)]
    opened = list[str]()
    real = Path.open
    monkeypatch.setattr(
        Path, "open", lambda path, *args, **more: (opened.append(path.name), real(path, *args, **more))[1]
    )
    told(indexed)
    assert [name for name in opened if "manifest" in name or "day" in name] == []
    assert [path.stat().st_ino for path in indexes(indexed)] == written


def _receipt(store: Store) -> Path:
    return receipt_record(record_of(store, NAMES[0])[0])


def _rewrite(path: Path, content: bytes) -> None:
    """Overwrite bytes in place and restore the file's times."""
    before = path.stat()
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def _other(store: Store) -> bytes:
    """Replace a receipt by one of the same length for another bucket."""
    receipt = read(_receipt(store), Receipt)
    return encode(replace(receipt, bucket="epat"))


CHANGES = {
    "a receipt is gone": lambda store: _receipt(store).unlink(),
    "a receipt is of another bucket": lambda store: write_whole(_receipt(store), _other(store)),
    "a receipt was overwritten in place": lambda store: _rewrite(_receipt(store), _other(store)),
    "a receipt is damaged": lambda store: _rewrite(_receipt(store), _receipt(store).read_bytes()[:-1] + b" "),
    "a manifest is damaged": lambda store: _rewrite(record_of(store, NAMES[1])[0], b"{"),
    "a manifest is gone": lambda store: record_of(store, NAMES[1])[0].unlink(),
    "a manifest says something else": lambda store: write_whole(
        record_of(store, NAMES[1])[0], encode(replace(record_of(store, NAMES[1])[1], rows=7))
    ),
    "a file is gone": lambda store: record_of(store, NAMES[1])[0].with_name(NAMES[1].archived).unlink(),
    "a day's folder is gone": lambda store: shutil.rmtree(store.archive_folder("finnhub", OTHER_DATE)),
    "a day's record is damaged": lambda store: _rewrite(store.day_record("finnhub", DATE), b"{"),
    "a day's record is gone": lambda store: store.day_record("finnhub", DATE).unlink(),
    "a day's file is gone": lambda store: next(store.day_folder("finnhub", DATE).glob("*.parquet")).unlink(),
    "a day's receipt is gone": lambda store: receipt_record(store.day_record("finnhub", DATE)).unlink(),
    "the archive came from elsewhere": lambda store: (
        shutil.copytree(store.archive, store.root / "copy"),
        shutil.rmtree(store.archive),
        (store.root / "copy").rename(store.archive),
        _receipt(store).unlink(),
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_stale_index_is_noticed(indexed: Store, change: str) -> None:
    """After any change the catalog gives the same answers with an index as without one."""
    before = told(indexed)
    CHANGES[change](indexed)
    found = told(indexed)
    again = told(indexed)
    forget(indexed)
    assert found == again == told(indexed) != (before if change != "a file is gone" else None)


def test_a_batch_that_came_since_is_found(indexed: Store, sealed_batch: Callable[..., BatchName]) -> None:
    """No index can hide a batch that awaits upload, or a closed day that is no longer complete."""
    archive(indexed, sealed_batch, NAMES[3])
    found = told(indexed)
    assert found["waiting"] == [NAMES[3]]
    assert found["closed"] == [False, False]
    assert found["facts"][NAMES[3]].trades.archived == 20


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _swap(path: Path) -> None:
    """The index of another day."""
    other = next(each for each in path.parent.iterdir() if each != path)
    path.write_bytes(other.read_bytes())


FAULTS: dict[str, Callable[[Path], Any]] = {
    "deleted": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-20]),
    "a bit flipped": _flip,
    "something else": lambda path: path.write_bytes(b"nonsense\n\x81"),
    "of another day": _swap,
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "a dead link": lambda path: (path.unlink(), path.symlink_to("nowhere")),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_an_index_that_does_not_fit_is_made_anew(indexed: Store, fault: str) -> None:
    """A damaged, deleted, or foreign index changes no answer, and is replaced if possible."""
    whole, before = [path.read_bytes() for path in indexes(indexed)], told(indexed)
    for path in indexes(indexed):
        FAULTS[fault](path)
    _receipt(indexed).unlink()
    found = told(indexed)
    assert (found["waiting"], before["waiting"]) == ([NAMES[0]], [])
    acknowledge_batch(indexed, NAMES[0], beside=1)
    assert told(indexed) == before
    if fault != "a folder":
        assert [len(path.read_bytes()) for path in indexes(indexed)] == [len(each) for each in whole]


def test_what_changed_just_now_is_not_kept(archived: Store) -> None:
    """A file may change again within one clock tick, so it is indexed only after some seconds, by any clock."""
    changed_ns = min(path.stat().st_ctime_ns for path in archived.root.rglob("*.json"))
    for now_ns in (changed_ns, changed_ns + 2_900_000_000, changed_ns - 3_600_000_000_000):
        told(archived, lambda now_ns=now_ns: now_ns)
        assert indexes(archived) == [], "the clock may have been put back meanwhile"
    told(archived)
    assert len(indexes(archived)) == 2


def test_a_clock_that_was_put_back_hides_no_change(indexed: Store) -> None:
    """A record replaced by one with an older time is read again, and indexed once that time has passed."""
    _receipt(indexed).unlink()
    acknowledge_batch(indexed, NAMES[0], replace(PLACE, bucket="other"))
    os.utime(_receipt(indexed), ns=(1, 1))
    assert told(indexed, lambda: 2)["waiting"] == [NAMES[0]]
    assert told(indexed)["waiting"] == [NAMES[0]]


@pytest.mark.parametrize("obstacle", ["a file", "another's"])
def test_where_no_index_can_be_written_all_is_told_without_one(
    archived: Store, obstacle: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A data folder that is read-only or belongs to another user can still be listed."""
    if obstacle == "a file":
        (archived.root / "cache").write_bytes(b"")
    else:
        monkeypatch.setattr(os, "geteuid", lambda: archived.root.stat().st_uid + 1)
    assert told(archived)["waiting"] == NAMES[:3]
    assert indexes(archived) == []
