"""An archive of format 1 is read, verified, queried, merged, and restored; a later format than ours is refused.

`format_1.tar.gz` is a data folder that the software wrote before format 2: encodings A, B, and csv.gz, with event times
in ms and in ns, a quarantined row, and a closed day.
"""

import tarfile
from dataclasses import replace
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from journal_hash import journal_sha256

from tasks.archive.day_files import day_groups
from tasks.archive.encodings import read_groups
from tasks.errors import CorruptionError
from tasks.export.tape import export
from tasks.merge.day import merge
from tasks.query.sources import sources_of
from tasks.query.views import connect
from tasks.records.manifest import FORMAT_VERSION, Day, Manifest, encode, read
from tasks.records.names import BatchName
from tasks.storage.store import Store, write_whole
from tasks.upload.bucket import Bucket
from tasks.upload.object_store import ObjectStore
from tasks.upload.restore import restore
from tasks.upload.uploads import upload_batch, upload_day
from tasks.verify.laws import verify

PRICES = ["231.3", "231.30", "1e5", "0.000012", "100", "0.1234567891234567891"]


@pytest.fixture
def old(tmp_path: Path) -> Store:
    """A data folder as it was written before format 2."""
    with tarfile.open(Path(__file__).parent / "format_1.tar.gz") as archive:
        archive.extractall(tmp_path / "old", filter="data")
    return Store(tmp_path / "old").prepare()


def files(store: Store) -> dict[str, bytes]:
    """The files with rows and the records of batches and days, except receipts and what the restore notes."""
    found = [*store.archive.rglob("*.*"), *store.days.rglob("*.*")]
    return {
        str(path.relative_to(store.root)): path.read_bytes()
        for path in found
        if not path.name.endswith((".receipt.json", ".removed.json")) and path.is_file()
    }


def test_every_old_journal_comes_back(old: Store) -> None:
    """Each journal has the SHA-256 of its seal, verify finds nothing, and records keep their bytes."""
    for path in old.manifests():
        manifest, name = read(path, Manifest), BatchName.parse(path.name)
        assert manifest.version == 1
        assert encode(manifest) == path.read_bytes()
        rejected = old.quarantine / name.rejected_rows
        assert manifest.file is not None
        found = journal_sha256(path.with_name(manifest.file), rejected if rejected.exists() else None)
        assert found == manifest.seal.sha256
    assert {each.law for each in verify(old).broken} <= {"recorded"}  # Its session's record is not there.


def test_old_and_new_files_are_one_view(old: Store, tmp_path: Path) -> None:
    """SQL sees the same rows in old batches, in the old day, and in a day merged from old batches."""
    asked = "SELECT batch, recv_seq, ts_event, price_text, size_text, conditions FROM trades ORDER BY recv_seq"
    found = []
    for _ in range(2):
        with connect(sources_of(old, old.manifests())) as database:
            found.append(database.execute(asked).fetchall())
        assert merge(old, "finnhub", "2026-11-25")
    assert found[0] == found[1]
    assert [row[3] for row in found[0]] == [PRICES[row[1] % 6] for row in found[0]]
    assert len(found[0]) == 179
    assert export(old, tmp_path / "tape.csv", None) == 179


def test_an_old_day_is_merged_anew(old: Store) -> None:
    """Once its file is lost, a day is merged from old batches into a file of this format, with the same rows."""
    record = old.day_record("finnhub", "2026-11-24")
    day = read(record, Day)
    file = record.with_name(str(day.file))
    before = pa.concat_tables([each.cast(pa.schema(each.schema)) for each in day_groups(file)])
    file.unlink()
    again = merge(old, "finnhub", "2026-11-24")
    assert again is not None
    assert (again.version, again.batches) == (FORMAT_VERSION, day.batches)
    assert pq.read_metadata(file).metadata[b"format_version"] == b"2"
    assert pq.read_schema(file).field("price").type == pa.float64()
    after = pa.concat_tables(list(day_groups(file)))
    assert pl.DataFrame(after).equals(pl.DataFrame(before.select(after.column_names)))


def test_an_old_archive_is_restored_from_the_bucket(old: Store, bucket: Bucket, tmp_path: Path) -> None:
    """Batches and days of format 1 come back byte for byte, and verified; also a batch only its day still has."""
    for path in old.manifests():
        upload_batch(old, BatchName.parse(path.name), bucket, lambda: 1)
    assert upload_day(old, "finnhub", "2026-11-24", bucket, lambda: 1, pytest.fail)
    gone = BatchName("20261124T143000Z-9f3c01ab", 0, 0)
    ObjectStore(bucket).delete(bucket.keys.of_batch("finnhub", "2026-11-24", gone.archived))
    again = Store(tmp_path / "restored").prepare()
    done = restore(again, bucket, None, lambda: 1)
    assert (done.fetched, done.days) == (6, 1)
    assert files(again) == {path: content for path, content in files(old).items() if gone.archived not in path}
    assert {each.law for each in verify(again).broken} <= {"recorded"}
    asked = "SELECT batch, recv_seq, ts_event, price_text, size_text, conditions FROM trades ORDER BY recv_seq"
    found = []
    for store in (old, again):
        with connect(sources_of(store, store.manifests())) as database:
            found.append(database.execute(asked).fetchall())
    assert found[0] == found[1]
    assert len(found[0]) == 179


def test_a_later_format_is_refused(old: Store) -> None:
    """A file or record of a later format is refused in one line that says what to do, not read as damaged."""
    path = next(iter(old.manifests(date="2026-11-25")))
    manifest = read(path, Manifest)
    file = path.with_name(str(manifest.file))
    table = pq.read_table(file)
    pq.write_table(table.replace_schema_metadata({b"layout": b"A", b"format_version": b"3"}), file)
    with pytest.raises(CorruptionError, match=r"format version 3, .* up to 2; update stock-tracing") as refused:
        next(read_groups(file))
    assert str(refused.value).startswith(f"{file}: ")
    assert "\n" not in str(refused.value)
    write_whole(path, encode(replace(manifest, version=3)))
    with pytest.raises(CorruptionError, match="format version 3"):
        read(path, Manifest)
    write_whole(path, encode({"version": 3, "unknown": 1}))
    with pytest.raises(CorruptionError, match="format version 3"):
        read(path, Manifest)
    day = next(old.days.rglob("*.parquet"))
    table = pq.read_table(day)
    pq.write_table(table.replace_schema_metadata({b"layout": b"day", b"format_version": b"3"}), day)
    with pytest.raises(CorruptionError, match="format version 3"):
        next(day_groups(day))
