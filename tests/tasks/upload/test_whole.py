"""A whole session restored from a bucket into an empty folder holds every law of `tape verify`."""

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from relay import Relay

from tasks.archive.catalog import Catalog
from tasks.errors import ConflictError, CorruptionError, TransientError
from tasks.merge.day import merge
from tasks.records.manifest import Manifest, Receipt, Removed, encode, quarantined_files, read
from tasks.records.names import BatchName, removed_record
from tasks.storage.store import Store, write_whole
from tasks.upload.audit import audit
from tasks.upload.bucket import Bucket
from tasks.upload.mirror import mirror
from tasks.upload.probe import PROBE
from tasks.upload.restore import restore
from tasks.upload.uploads import upload_batch, upload_day, upload_session
from tasks.verify.account import ledger_for
from tasks.verify.laws import verify

SESSION = "20261124T143000Z-9f3c01ab"
NAMES = [BatchName(SESSION, 0, number) for number in range(3)]
DAY, NEXT_DAY = "2026-11-24", "2026-11-25"
FOLDERS = ("archive", "quarantine", "days", "sessions")


def now() -> int:
    return 1_795_700_000_000_000_000


def refuse_to_warn(said: str) -> None:
    raise AssertionError(said)


def send_all(store: Store, bucket: Bucket) -> None:
    """Upload the whole session and its days."""
    for name in NAMES:
        upload_batch(store, name, bucket, now)
    upload_session(store, SESSION, bucket, now)
    for date in (DAY, NEXT_DAY):
        merge(store, "finnhub", date)
        upload_day(store, "finnhub", date, bucket, now, refuse_to_warn)


def files(store: Store) -> dict[str, bytes]:
    """The files of the data folder, except receipts."""
    paths = [path for folder in FOLDERS for path in (store.root / folder).rglob("*") if path.is_file()]
    return {str(path.relative_to(store.root)): path.read_bytes() for path in paths if "receipt" not in path.name}


def manifest_path(store: Store, name: BatchName) -> Path:
    path = store.manifest_of(name)
    assert path is not None
    return path


def remove_merged(store: Store, object_store: Any, bucket: Bucket, name: BatchName) -> None:
    """Remove a batch's file here and in the bucket, as retention does once its day has the rows."""
    path = manifest_path(store, name)
    content = encode(
        Removed(batch=str(name), file=name.archived, removed_ns=now(), why="merged", held_in=(f"days/{DAY}",))
    )
    write_whole(removed_record(path), content)
    path.with_name(name.archived).unlink()
    key = f"trades/{path.with_name(name.archived).relative_to(store.archive)}"
    object_store.server.client().delete_object(Bucket=bucket.name, Key=key)


def test_what_is_restored_into_an_empty_folder_is_all_there_was(whole: Store, bucket: Bucket, elsewhere: Store) -> None:
    """Quarantine, cuts, a gap, and merged days are restored byte for byte, and `tape verify` holds."""
    send_all(whole, bucket)
    done = restore(elsewhere, bucket, None, now)
    assert files(elsewhere) == files(whole)
    assert (done.fetched, done.days, done.sessions, done.notes) == (3, 2, 1, ())
    assert done.bytes == sum(map(len, files(whole).values()))
    assert verify(elsewhere).broken == ()
    again = restore(elsewhere, bucket, None, now)
    assert (again.fetched, again.bytes, again.equal, again.days, again.sessions) == (0, 0, 3, 0, 0)


def test_one_day_of_a_longer_session_comes_without_the_sessions_record(
    whole: Store, bucket: Bucket, elsewhere: Store
) -> None:
    """A restored single day gets a note that its session is partial, with the command for the rest."""
    send_all(whole, bucket)
    done = restore(elsewhere, bucket, DAY, now)
    assert (done.fetched, done.days, done.sessions) == (2, 1, 0)
    assert [SESSION in note and "without --date" in note for note in done.notes] == [True]
    assert not list(elsewhere.sessions.glob("*/session.json"))
    done = restore(elsewhere, bucket, NEXT_DAY, now)
    assert (done.fetched, done.days, done.sessions, done.notes) == (1, 1, 1, ())
    assert verify(elsewhere).broken == ()


def test_a_day_restored_alone_verifies_as_what_it_is(whole: Store, bucket: Bucket, elsewhere: Store) -> None:
    """In a partial session only damage breaks laws, and restoring the other day completes it."""
    send_all(whole, bucket)
    for date in (DAY, NEXT_DAY):
        alone = Store(elsewhere.root / date).prepare()
        restore(alone, bucket, date, now)
        verdict = verify(alone)
        assert (verdict.broken, verdict.partial) == ((), (SESSION,))
        file = next(alone.archive.rglob("*.parquet"))
        content = file.read_bytes()
        file.write_bytes(content[:-9] + b"!" + content[-8:])
        assert {"sha256"} <= {broken.law for broken in verify(alone).broken}
        file.write_bytes(content)
    restore(alone, bucket, DAY, now)
    verdict = verify(alone)
    assert (verdict.broken, verdict.partial) == ((), ())
    assert files(alone) == files(whole)


@pytest.mark.slow
def test_a_restore_broken_off_anywhere_is_finished_by_the_next(
    whole: Store, bucket_by_relay: Bucket, relay: Relay, elsewhere: Store
) -> None:
    """A restore interrupted at any kind of download continues and completes."""
    send_all(whole, bucket_by_relay)
    met: set[tuple[str, str]] = set()

    def at_each_kind(method: str, path: str) -> tuple[int, str] | None:
        _, _, top, *below = path.split("?")[0].split("/") if path.count("/") > 2 else ["", "", ""]
        file = below[-1] if below else ""
        kind = (top, file.split(".", 1)[-1])
        if method != "GET" or not file or kind in met:
            return None
        met.add(kind)
        return 503, "SlowDown"

    relay.answer = at_each_kind
    broken_off = 0
    while broken_off < 20:
        try:
            restore(elsewhere, bucket_by_relay, None, now)
            break
        except TransientError:
            broken_off += 1
    kinds = ("parquet", "manifest.json", "rows.csv", "frames.jsonl", "cut", "json")
    assert met == {("trades-by-day", "parquet"), ("trades-by-day", "day.json"), *(("trades", kind) for kind in kinds)}
    assert broken_off == len(met)
    assert files(elsewhere) == files(whole)
    assert verify(elsewhere).broken == ()


def test_a_batch_whose_object_is_gone_comes_as_its_days_file(
    whole: Store, bucket: Bucket, elsewhere: Store, object_store: Any
) -> None:
    """A batch held by its day is restored as a record; once its object is back, so is its file."""
    send_all(whole, bucket)
    path = manifest_path(whole, NAMES[0]).with_name(NAMES[0].archived)
    key, body = f"trades/{path.relative_to(whole.archive)}", path.read_bytes()
    remove_merged(whole, object_store, bucket, NAMES[0])
    done = restore(elsewhere, bucket, None, now)
    assert (done.fetched, done.sessions) == (3, 1)
    place = manifest_path(elsewhere, NAMES[0])
    said = read(removed_record(place), Removed)
    assert (said.batch, said.file, said.why) == (str(NAMES[0]), NAMES[0].archived, "merged")
    assert f"trades-by-day/feed=finnhub/date={DAY}/" in said.held_in[0]
    assert not place.with_name(NAMES[0].archived).exists()
    assert elsewhere.day_record("finnhub", DAY).exists()
    assert verify(elsewhere).broken == ()
    assert restore(elsewhere, bucket, None, now).bytes == 0
    object_store.server.client().put_object(Bucket=bucket.name, Key=key, Body=body)
    restore(elsewhere, bucket, None, now)
    assert place.with_name(NAMES[0].archived).read_bytes() == body
    assert not removed_record(place).exists()


def test_what_came_as_a_day_counts_as_uploaded_once_the_day_is(
    whole: Store, bucket: Bucket, elsewhere: Store, object_store: Any
) -> None:
    """A restored batch without an object has nothing to send; its day's receipt is its proof."""
    send_all(whole, bucket)
    remove_merged(whole, object_store, bucket, NAMES[0])
    restore(elsewhere, bucket, None, now)
    assert [name in Catalog(elsewhere).awaiting_upload(bucket.place) for name in NAMES] == [False, True, True]
    for name in NAMES[1:]:
        upload_batch(elsewhere, name, bucket, now)
    upload_session(elsewhere, SESSION, bucket, now)
    assert ledger_for(elsewhere, SESSION, bucket.place).batches.uploaded == 2
    for date in (DAY, NEXT_DAY):
        upload_day(elsewhere, "finnhub", date, bucket, now, refuse_to_warn)
    assert ledger_for(elsewhere, SESSION, bucket.place).balances
    assert audit(elsewhere, bucket).wrong == ()
    assert audit(elsewhere, bucket).merged == 1


def test_a_batch_that_nothing_holds_is_named(whole: Store, bucket: Bucket, elsewhere: Store, object_store: Any) -> None:
    """A batch without object or day cannot be restored, which is reported; everything else is."""
    for name in NAMES:
        upload_batch(whole, name, bucket, now)
    remove_merged(whole, object_store, bucket, NAMES[0])
    with pytest.raises(CorruptionError, match=f"{NAMES[0]} is missing, and no merged day holds it"):
        restore(elsewhere, bucket, None, now)
    assert [elsewhere.manifest_of(name) is not None for name in NAMES] == [False, True, True]


def test_of_two_machines_days_one_comes_and_the_other_is_named(
    whole: Store, bucket: Bucket, elsewhere: Store, object_store: Any, tmp_path: Path
) -> None:
    """A batch that is only in another merge of its date is not restored, and the message names that merge."""
    other = Store(tmp_path / "other")
    shutil.copytree(whole.root, other.root)
    for store, name in ((whole, NAMES[1]), (other, NAMES[0])):
        for path in list(store.archive.rglob(f"*{name}*")):
            path.unlink()
    for store, name in ((whole, NAMES[0]), (other, NAMES[1])):
        upload_batch(store, name, bucket, now)
        merge(store, "finnhub", DAY)
        upload_day(store, "finnhub", DAY, bucket, now, refuse_to_warn)
        remove_merged(store, object_store, bucket, name)
    with pytest.raises(CorruptionError, match=r"trades-by-day/.*TAPE_S3_PREFIX"):
        restore(elsewhere, bucket, DAY, now)
    assert sum(elsewhere.manifest_of(name) is not None for name in NAMES) == 1
    assert verify(elsewhere).batches == 1


def test_a_mirror_reads_the_day_where_the_objects_are_gone(
    whole: Store, bucket: Bucket, elsewhere: Store, object_store: Any
) -> None:
    """A query of the bucket finds every batch, in its own file or its day's."""
    send_all(whole, bucket)
    remove_merged(whole, object_store, bucket, NAMES[0])
    found = mirror(elsewhere, bucket, lambda date, manifest: date == DAY, now)
    assert [path.name for path in found] == [name.manifest for name in NAMES[:2]]
    assert found[1].with_name(NAMES[1].archived).exists()
    record = elsewhere.day_record("finnhub", DAY)
    assert record.read_bytes() == whole.day_record("finnhub", DAY).read_bytes()
    assert len(list(record.parent.glob("*.parquet"))) == 1
    assert not list(elsewhere.days.glob(f"feed=*/date={NEXT_DAY}"))


def test_a_mirror_has_the_records_of_the_sessions_it_has_batches_of(
    whole: Store, bucket_by_relay: Bucket, relay: Relay, elsewhere: Store
) -> None:
    """A day's file is fetched once, and only if one of its batches is wanted."""
    send_all(whole, bucket_by_relay)
    assert mirror(elsewhere, bucket_by_relay, lambda date, manifest: False, now) == []
    assert not list(elsewhere.sessions.glob("*/session.json"))
    for _ in range(2):
        relay.seen.clear()
        mirror(elsewhere, bucket_by_relay, lambda date, manifest: date == DAY, now)
        path = elsewhere.sessions / SESSION / "session.json"
        assert path.read_bytes() == (whole.sessions / SESSION / "session.json").read_bytes()
    assert [path for method, path in relay.seen if method == "GET" and "list-type" not in path] == []


def test_of_a_batch_whose_manifest_differs_here_nothing_is_written(
    whole: Store, bucket: Bucket, elsewhere: Store
) -> None:
    """A batch whose local manifest differs gets neither file nor quarantine."""
    upload_batch(whole, NAMES[2], bucket, now)
    place = elsewhere.archive / manifest_path(whole, NAMES[2]).relative_to(whole.archive)
    place.parent.mkdir(parents=True)
    write_whole(place, b"mine")
    with pytest.raises(ConflictError, match=place.name):
        restore(elsewhere, bucket, NEXT_DAY, now)
    assert [path.name for path in elsewhere.archive.rglob("*") if path.is_file()] == [place.name]
    assert not list(elsewhere.quarantine.iterdir())


def test_a_quarantine_file_that_differs_here_is_never_overwritten(
    whole: Store, bucket: Bucket, elsewhere: Store
) -> None:
    """A different local quarantine file is named and not changed, and its batch is not restored."""
    upload_batch(whole, NAMES[0], bucket, now)
    path = elsewhere.quarantine / NAMES[0].rejected_frames
    write_whole(path, b"mine")
    with pytest.raises(ConflictError, match=path.name):
        restore(elsewhere, bucket, None, now)
    assert path.read_bytes() == b"mine"
    assert elsewhere.manifest_of(NAMES[0]) is None


def test_a_damaged_quarantine_object_is_not_restored(
    whole: Store, bucket: Bucket, elsewhere: Store, object_store: Any
) -> None:
    """A quarantine object with another SHA-256 than the seal's leaves nothing here."""
    upload_batch(whole, NAMES[0], bucket, now)
    key = f"trades/_quarantine/{NAMES[0].rejected_frames}"
    object_store.server.client().put_object(Bucket=bucket.name, Key=key, Body=b"another's")
    with pytest.raises(CorruptionError, match=key):
        restore(elsewhere, bucket, None, now)
    assert not (elsewhere.quarantine / NAMES[0].rejected_frames).exists()


def test_quarantine_goes_between_file_and_manifest_and_is_acknowledged(
    whole: Store, bucket_by_relay: Bucket, relay: Relay, object_store: Any
) -> None:
    """Each quarantine file is uploaded with the SHA-256 of its record, and the manifest last."""
    receipt = upload_batch(whole, NAMES[0], bucket_by_relay, now)
    put = [path.split("?")[0].rsplit("/", 1)[1] for method, path in relay.seen if method == "PUT" and PROBE not in path]
    expected = quarantined_files(read(manifest_path(whole, NAMES[0]), Manifest))
    assert sorted(expected) == sorted([NAMES[0].rejected_rows, NAMES[0].rejected_frames, NAMES[0].cut])
    assert put == [NAMES[0].archived, *expected, NAMES[0].manifest]
    assert {each.key.rsplit("/", 1)[1]: each.sha256 for each in receipt.beside} == expected
    for file in expected:
        assert object_store.body(f"trades/_quarantine/{file}") == (whole.quarantine / file).read_bytes()


def test_a_quarantine_file_that_is_not_its_records_is_never_sent(whole: Store, odd_store: Any) -> None:
    """A damaged quarantine file is named before any request."""
    write_whole(whole.quarantine / NAMES[0].cut, b"tore")
    with pytest.raises(CorruptionError, match=NAMES[0].cut):
        upload_batch(whole, NAMES[0], odd_store.bucket, now)
    assert odd_store.requests == []


def test_a_receipt_of_before_is_completed_by_what_it_lacks(whole: Store, bucket_by_relay: Bucket, relay: Relay) -> None:
    """A batch whose receipt lacks its quarantine files awaits upload; the next upload sends only those."""
    first = upload_batch(whole, NAMES[0], bucket_by_relay, now)
    assert NAMES[0] not in Catalog(whole).awaiting_upload(bucket_by_relay.place)
    path = manifest_path(whole, NAMES[0]).with_name(NAMES[0].receipt)
    write_whole(path, encode(replace(first, beside=())))
    assert NAMES[0] in Catalog(whole).awaiting_upload(bucket_by_relay.place)
    relay.seen.clear()
    assert upload_batch(whole, NAMES[0], bucket_by_relay, now) == first == read(path, Receipt)
    assert all("_quarantine" in path for _, path in relay.seen)
    assert NAMES[0] not in Catalog(whole).awaiting_upload(bucket_by_relay.place)


def test_a_store_killed_between_quarantine_and_manifest_is_transient(
    whole: Store, bucket_by_relay: Bucket, relay: Relay, object_store: Any
) -> None:
    """A manifest never precedes the rest of its batch; the next try finishes."""
    relay.passing = kill_at(object_store, lambda method, path: method == "PUT" and "manifest" in path)
    try:
        with pytest.raises(TransientError):
            upload_batch(whole, NAMES[0], bucket_by_relay, now)
        assert object_store.server.process is None, "the fault struck"
    finally:
        relay.passing = lambda method, path, sent_bytes: None
        object_store.server.kill()
        object_store.server.start()
    assert NAMES[0] in Catalog(whole).awaiting_upload(bucket_by_relay.place)
    stand = [key.rsplit("/", 1)[1] for key in {*object_store.keys()}]
    assert len(stand) == 4
    assert NAMES[0].manifest not in stand
    upload_batch(whole, NAMES[0], bucket_by_relay, now)
    assert len(object_store.keys()) == 5


def kill_at(object_store: Any, strikes: Callable[[str, str], bool]) -> Callable[[str, str, int], None]:
    """Kills the store at the first request of a kind."""

    def passing(method: str, path: str, sent_bytes: int) -> None:
        if strikes(method, path) and object_store.server.process is not None:
            object_store.server.kill()

    return passing


def test_a_removed_batch_keeps_its_receipt_and_sends_nothing(
    whole: Store, bucket_by_relay: Bucket, relay: Relay
) -> None:
    """A removed batch's receipt still counts, without a request."""
    receipt = upload_batch(whole, NAMES[0], bucket_by_relay, now)
    path = manifest_path(whole, NAMES[0])
    said = Removed(batch=str(NAMES[0]), file=NAMES[0].archived, removed_ns=1, why="age", held_in=("the bucket",))
    write_whole(removed_record(path), encode(said))
    path.with_name(NAMES[0].archived).unlink()
    relay.seen.clear()
    assert upload_batch(whole, NAMES[0], bucket_by_relay, now) == receipt
    assert relay.seen == []
    assert NAMES[0] not in Catalog(whole).awaiting_upload(bucket_by_relay.place)
    assert NAMES[0] not in Catalog(whole).awaiting_upload(replace(bucket_by_relay, name="another").place), (
        "it has nothing to send"
    )
    assert hashlib.sha256(path.read_bytes()).hexdigest() == receipt.manifest.sha256
