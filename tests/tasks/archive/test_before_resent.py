"""Archives from before `resent` existed can still be read, verified, queried, and merged."""

import gzip
import hashlib
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from journal_hash import journal_sha256
from msgspec import UNSET

from tasks.archive.day_files import DAY_SCHEMA, day_groups
from tasks.archive.deltas import DELTA_SCHEMA, DeltaEncoder
from tasks.archive.encodings import Encoding, read_groups
from tasks.archive.schema import CODED_SCHEMA, SCHEMA, before_resent, without_dictionaries
from tasks.compress.parquet import compress
from tasks.merge.day import merge
from tasks.query.sources import sources_of
from tasks.query.views import connect
from tasks.records.manifest import Day, Manifest, Report, encode, read, record_sha256, sha256_said
from tasks.records.names import BatchName
from tasks.records.trade import EXTRA_COLUMNS
from tasks.storage.store import Store, write_whole
from tasks.validate.schema import Limits
from tasks.validate.split import split
from tasks.verify.laws import verify

SealBatch = Callable[..., BatchName]
T = 1_795_530_600_000_000_000
ENCODINGS = [Encoding(), Encoding("max"), Encoding("plain", "csv.gz")]


def made_old(file: Path) -> None:
    """Give an archived file its old columns, with `duplicate` true in every row."""
    if file.suffix == ".gz":
        text = gzip.decompress(file.read_bytes())
        text = text.replace(b"session,", b"").replace(b"20261124T143000Z-9f3c01ab,", b"")
        text = text.replace(b",trade_id,sequence,side,resent\n", b",duplicate\n").replace(b",,,,false\n", b",true\n")
        file.write_bytes(gzip.compress(text))
        return
    of_day = file.parent.parent.parent.name == "days"
    groups = [group.combine_chunks() for group in (day_groups if of_day else partial(read_groups, coded=True))(file)]
    layout = (pq.read_metadata(file).metadata or {})[b"layout"]
    if layout == b"B":
        steps = DeltaEncoder()
        groups = [steps.encode(group) for group in groups]
    table = pa.concat_tables(groups)
    table = table.cast(without_dictionaries(table.schema)).drop_columns(list(EXTRA_COLUMNS))
    place = table.schema.get_field_index("resent")
    old = pa.field("duplicate", pa.bool_(), nullable=False)
    every = (*without_dictionaries(DELTA_SCHEMA), *without_dictionaries(DAY_SCHEMA), *SCHEMA)
    known = {each.name: each for each in every}
    table = table.set_column(place, old, pa.array([True] * len(table)))
    schema = pa.schema([old if each == "duplicate" else known[each] for each in table.column_names])
    pq.write_table(table.cast(schema.with_metadata({b"layout": layout})), file)


def old_archive(store: Store, sealed_batch: SealBatch, encoding: Encoding) -> Path:
    """Archive a batch in the old format; returns its manifest."""
    lines = [f"1,{n},{T + n * 1000 + 7},{T + n * 1000},A,{100 + n % 3}.5,1,\n".encode() for n in range(1, 21)]
    name = sealed_batch(lines, per_symbol={"A": 20})
    split(store, name, Limits(None, None))
    manifest = compress(store, name, encoding)
    path = store.manifest_of(name)
    assert path is not None
    file = path.with_name(str(manifest.file))
    made_old(file)
    report = replace(manifest.report, resent=UNSET, duplicates=20)
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    write_whole(path, encode(replace(manifest, version=1, report=report, bytes=file.stat().st_size, sha256=sha256)))
    return path


@pytest.mark.parametrize("encoding", ENCODINGS, ids=lambda each: each.name)
def test_an_old_batch_is_read_as_without_marks(store: Store, sealed_batch: SealBatch, encoding: Encoding) -> None:
    """The old mark counts for nothing: `resent` is false in every row, and journal and verify are fine."""
    path = old_archive(store, sealed_batch, encoding)
    manifest = read(path, Manifest)
    file = path.with_name(str(manifest.file))
    for coded in (False, True):
        assert not any(pa.concat_tables(read_groups(file, coded=coded))["resent"].to_pylist())
    assert journal_sha256(file, None) == manifest.seal.sha256
    assert {each.law for each in verify(store).broken} <= {"recorded"}  # The test's session has no record.


def test_an_old_record_keeps_its_bytes(store: Store, sealed_batch: SealBatch) -> None:
    """An old record keeps its bytes when read and rewritten; a new record has no old count."""
    path = old_archive(store, sealed_batch, Encoding())
    manifest = read(path, Manifest)
    assert encode(manifest) == path.read_bytes()
    assert record_sha256(manifest) == sha256_said(path)
    assert (manifest.report.duplicates, manifest.report.resent_rows) == (20, 0)
    new = encode(Report(rows=1, valid=1, quarantined=0, resent=1))
    assert b'"resent": 1' in new
    assert b"duplicates" not in new


@pytest.mark.parametrize("encoding", ENCODINGS, ids=lambda each: each.name)
@pytest.mark.parametrize("closed", [False, True], ids=["batches", "days"])
def test_old_rows_can_be_asked(store: Store, sealed_batch: SealBatch, encoding: Encoding, closed: bool) -> None:
    """SQL sees old and new files of batches and days in one view, with `resent` false in the old ones."""
    old_archive(store, sealed_batch, encoding)
    other = BatchName("20261125T143000Z-00c0ffee", 0, 0)
    rows = [*range(5), *range(5)]
    lines = [f"1,{n},{T + n},{T + price},A,{price + 1},1,\n".encode() for n, price in enumerate(rows, 1)]
    sealed_batch(lines, name=other, date="2026-11-25")
    split(store, other, Limits(None, None))
    compress(store, other)
    if closed:
        for date in ("2026-11-24", "2026-11-25"):
            assert merge(store, "finnhub", date)
        made_old(next(store.days.glob("feed=*/date=2026-11-24/*.parquet")))
        record = store.day_record("finnhub", "2026-11-24")
        write_whole(record, encode(replace(read(record, Day), version=1)))
    with connect(sources_of(store, store.manifests())) as database:
        asked = database.execute("SELECT count(*), count(*) FILTER (resent), count(resent) FROM trades").fetchall()
    assert asked == [(30, 5, 30)]


def test_a_batch_validated_before_is_archived(store: Store, sealed_batch: SealBatch) -> None:
    """A batch validated before the change and archived after it gets the new column, false in every row."""
    name = sealed_batch([f"1,{n},{T + n},{T},A,1,1,\n".encode() for n in range(1, 4)])
    report = split(store, name, Limits(None, None))
    path = store.validated / name.validated
    with pa.OSFile(str(path)) as file, pa.ipc.open_stream(file) as stream:
        table = stream.read_all()
    old = before_resent(CODED_SCHEMA)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, old) as writer:
        writer.write_table(table.rename_columns(old.names).cast(old))
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    old_report = replace(report, resent=UNSET, duplicates=2, validated_sha256=sha256)
    write_whole(store.validated / name.report, encode(old_report))
    manifest = compress(store, name)
    file = store.archive_folder("finnhub", "2026-11-24") / str(manifest.file)
    assert pa.concat_tables(read_groups(file))["resent"].to_pylist() == [False] * 3
