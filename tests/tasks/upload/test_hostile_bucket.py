"""A restore accepts nothing harmful from a bucket that others can write to."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.archive.encodings import read_groups
from tasks.errors import ConflictError, CorruptionError
from tasks.merge.day import merge
from tasks.records.manifest import Day, decode, encode, read
from tasks.records.names import BatchName
from tasks.retain.retain import retain
from tasks.retain.rule import Rule
from tasks.storage.store import Store
from tasks.upload.bucket import Bucket
from tasks.upload.restore import restore
from tasks.upload.uploads import upload_batch, upload_day, upload_session

DATE = "2026-11-24"
FOLDER, DAY_FOLDER = f"trades/feed=finnhub/date={DATE}", f"trades-by-day/feed=finnhub/date={DATE}"


def now() -> int:
    return 1_795_000_000_000_000_000


def contents(store: Store) -> dict[str, bytes]:
    """The files of the data folder, except locks and receipts."""
    paths = [path for path in store.root.rglob("*") if path.is_file() and path.parent != store.locks]
    return {str(path.relative_to(store.root)): path.read_bytes() for path in paths if "receipt" not in path.name}


@pytest.fixture
def uploaded(whole: Store, bucket: Bucket) -> Store:
    """A session of three batches in the bucket, with its record and its first day, closed."""
    for manifest in whole.manifests():
        upload_batch(whole, BatchName.parse(manifest.name), bucket, now)
    merge(whole, "finnhub", DATE)
    upload_day(whole, "finnhub", DATE, bucket, now, lambda said: None)
    upload_session(whole, next(whole.sessions.iterdir()).name, bucket, now)
    return whole


@pytest.fixture
def put(object_store: Any, bucket: Bucket) -> Any:
    """Write an object like anyone with the bucket's credentials could."""
    client = object_store.server.client()
    return lambda key, body: client.put_object(Bucket=bucket.name, Key=key, Body=body)


def filled(table: pa.Table, column: str, number: float) -> pa.Table:
    """Return the table with this number in every row of a column, and no text beside it."""
    for name, value in ((column, number), (f"{column}_text", None)):
        at = table.schema.get_field_index(name)
        field = table.schema.field(at)
        table = table.set_column(at, field, pa.array([value] * len(table), field.type))
    return table


def forge_day(store: Store, put: Any, tmp_path: Path) -> None:
    """Forge a day with one batch more and other prices, with a matching record and hashes."""
    record = store.day_record("finnhub", DATE)
    day = read(record, Day)
    table = pq.read_table(record.with_name(str(day.file)))
    pq.write_table(filled(table, "price", 1.0), tmp_path / "forged")
    body = (tmp_path / "forged").read_bytes()
    late = replace(day.batches[0].seal, batch="20261124T150000Z-00000000-0-000000", quarantine={})
    forged = replace(
        day, file=f"{DATE}-0123456789ab.parquet", sha256=hashlib.sha256(body).hexdigest(), bytes=len(body),
        batches=(*day.batches, replace(day.batches[0], batch=late.batch, file=None, rows=0, seal=late)),
    )  # fmt: skip
    put(f"{DAY_FOLDER}/{forged.file}", body)
    put(f"{DAY_FOLDER}/_{DATE}-0123456789ab.day.json", encode(forged))


def test_a_closed_day_gives_way_to_no_other_rows(uploaded: Store, bucket: Bucket, put: Any, tmp_path: Path) -> None:
    """A record that matches forged rows removes nothing here, because the rows are compared first."""
    for path in uploaded.archive.rglob("*.parquet"):
        path.unlink()  # What retention does: the day's file is the only copy here.
    before = contents(uploaded)
    forge_day(uploaded, put, tmp_path)
    with pytest.raises(ConflictError, match=r"does not hold the rows that are here .* nothing was replaced"):
        restore(uploaded, bucket, DATE, now)
    assert {name: body for name, body in contents(uploaded).items() if name in before} == before
    assert not list(uploaded.days.rglob("*0123456789ab*"))


def test_a_forged_day_takes_no_batches_place(uploaded: Store, bucket: Bucket, put: Any, tmp_path: Path) -> None:
    """A day from the bucket whose rows differ from the local batches is not accepted."""
    forge_day(uploaded, put, tmp_path)
    for path in list(uploaded.days.rglob("*.*")):
        if path.is_file():
            path.unlink()
    before = contents(uploaded)
    with pytest.raises(ConflictError, match="nothing was replaced"):
        restore(uploaded, bucket, DATE, now)
    after = contents(uploaded)
    assert {name: after[name] for name in before} == before
    assert not list(uploaded.days.rglob("*0123456789ab*"))


def test_retention_removes_no_batch_for_a_forged_day(uploaded: Store, tmp_path: Path) -> None:
    """A day's file that matches its record but not its batches does not cause their removal."""
    record = uploaded.day_record("finnhub", DATE)
    day = read(record, Day)
    file = record.with_name(str(day.file))
    table = pq.read_table(file)
    pq.write_table(filled(table, "size", 7.0), file)
    body = file.read_bytes()
    record.write_bytes(encode(replace(day, sha256=hashlib.sha256(body).hexdigest(), bytes=len(body))))
    before = {path: path.read_bytes() for path in uploaded.archive.rglob("*.parquet")}
    retained = retain(uploaded, Rule(0, None, None), lambda: now() * 2, lambda: 1 << 40, None)
    assert retained.removed == ()
    assert any("differs" in each.reason for each in retained.kept)
    assert {path: path.read_bytes() for path in uploaded.archive.rglob("*.parquet")} == before


@pytest.mark.parametrize(
    "key",
    [
        f"{FOLDER}/_.manifest.json", f"{FOLDER}/stray.manifest.json", "trades/feed=finnhub/_x.manifest.json",
        f"{FOLDER}/deep/_20261124T143000Z-9f3c01ab-0-000000.manifest.json",
        "trades/feed=finnhub/date=2026-99-99/_20261124T143000Z-9f3c01ab-0-000000.manifest.json",
        f"trades/feed=..%2F/date={DATE}/_20261124T143000Z-9f3c01ab-0-000000.manifest.json",
        f"{FOLDER}/_20261124T143000Z-9f3c01ab-0-000009.manifest.json", f"{DAY_FOLDER}/_{DATE}-00.day.json",
        "trades/_sessions/20261124T143000Z-00000000/session.json",
    ],
)  # fmt: skip
def test_a_stray_key_costs_nothing_but_a_line(
    uploaded: Store, bucket: Bucket, elsewhere: Store, put: Any, key: str
) -> None:
    """Foreign objects are named by key; everything else is restored."""
    put(key, b"{}")
    with pytest.raises(CorruptionError) as caught:
        restore(elsewhere, bucket, None, now)
    assert key.rsplit("/", 1)[-1] in str(caught.value)
    assert "all else is restored" in str(caught.value)
    assert len(elsewhere.manifests()) == len(uploaded.manifests())
    assert (elsewhere.sessions / next(uploaded.sessions.iterdir()).name / "session.json").exists()


@pytest.mark.parametrize(
    "file",
    ["", ".", "..", "a\0b", "../x.parquet", "/etc/passwd", "x.parquet", "20261124T143000Z-9f3c01ab-0-000001.parquet"],
)
def test_a_record_names_its_own_files_alone(
    uploaded: Store, bucket: Bucket, elsewhere: Store, put: Any, file: str
) -> None:
    """A manifest with another batch's file name is rejected by key; the rest is restored."""
    manifest = uploaded.manifests()[0]
    own = json.dumps(f"{BatchName.parse(manifest.name)}.parquet").encode()
    content = manifest.read_bytes().replace(b'"file": ' + own, b'"file": ' + json.dumps(file).encode())
    body = content[: content.rindex(b',\n  "record_sha256"')] + b"\n}\n"
    digest = hashlib.sha256(body).hexdigest().encode()
    put(f"{FOLDER}/{manifest.name}", body.removesuffix(b"\n}\n") + b',\n  "record_sha256": "%s"' % digest + b"\n}\n")
    with pytest.raises(CorruptionError, match=manifest.name):
        restore(elsewhere, bucket, None, now)
    names = {path.name for path in elsewhere.root.rglob("*") if path.is_file()}
    assert manifest.name not in names
    assert len(elsewhere.manifests()) == len(uploaded.manifests()) - 1


def test_an_endless_object_fills_no_disk(uploaded: Store, bucket: Bucket, elsewhere: Store, put: Any) -> None:
    """No more bytes of an object are written than its record says."""
    manifest = uploaded.manifests()[0]
    put(f"{FOLDER}/{manifest.name[1:].split('.')[0]}.parquet", b"x" * (32 << 20))
    with pytest.raises(CorruptionError, match="is larger than"):
        restore(elsewhere, bucket, None, now)
    assert sum(path.stat().st_size for path in elsewhere.root.rglob("*") if path.is_file()) < 8 << 20


def test_a_record_of_any_size_is_not_read_whole() -> None:
    """An object larger than any record is rejected by its length."""
    with pytest.raises(CorruptionError, match="too large for a record"):
        decode(bytes((256 << 20) + 1), Day, "key")


def test_a_small_file_that_claims_many_rows_is_refused(uploaded: Store) -> None:
    """An oversized row group is not read, however few bytes it takes."""
    path = next(uploaded.archive.rglob("*.parquet"))
    row = pq.read_table(path).slice(0, 1)
    frame = pl.concat([pl.from_arrow(row)] * 1).select(pl.all().repeat_by(4_000_001).explode())  # type: ignore[type-var]
    pq.write_table(frame.to_arrow().cast(row.schema), path, row_group_size=5_000_000)
    assert path.stat().st_size < 1 << 20
    with pytest.raises(CorruptionError, match="a row group has 4,000,001 rows"):
        next(read_groups(path))
