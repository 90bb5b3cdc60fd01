"""The archived file equals the batch, is readable by other tools, and is the same on every run."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.archive.encodings import WRITER_OPTIONS
from tasks.archive.schema import FILE_SCHEMA, without_dictionaries
from tasks.compress.parquet import compress
from tasks.errors import CorruptionError, TerminalError
from tasks.records.manifest import Manifest, Report, encode, read
from tasks.records.names import BatchName
from tasks.storage.store import Store
from tasks.validate.schema import Limits
from tasks.validate.split import split

SealBatch = Callable[..., BatchName]
OFF = Limits(None, None)
T = 1_764_000_000_000_000_000
LINES = [
    b"1,%d,%d,%d,%s,1%d.50,0.%d,%s\n"
    % (n, T + n, T + n // 2, b"SPY" if n % 3 else b"BINANCE:BTCUSDT", n % 7, n, b"1;2")
    for n in range(1, 201)
]
LINES[40] = b"1,41,broken\n"


def files(store: Store) -> dict[str, bytes]:
    """Every file of the data folder."""
    return {str(path.relative_to(store.root)): path.read_bytes() for path in store.root.rglob("*") if path.is_file()}


def test_the_archive_equals_the_batch(store: Store, sealed_batch: SealBatch) -> None:
    """The file has every valid value, the manifest describes it, and no other file of the batch is left."""
    name = sealed_batch(LINES, feed="finnhub", date="2026-11-24")
    report = split(store, name, OFF)
    manifest = compress(store, name)
    folder = store.archive / "feed=finnhub" / "date=2026-11-24"
    rows = pl.read_parquet(folder / name.archived).with_columns(pl.col("ts_recv", "ts_event").to_physical())
    assert rows["session"].unique().to_list() == [name.session]
    columns = ("connection", "recv_seq", "ts_recv", "ts_event", "symbol", "price_text", "size", "conditions")
    assert rows.select(columns).rows() == [
        (*map(int, line[:4]), *line[4:6], float(line[6]), line[7].split(";"))
        for line in (text.decode().rstrip("\n").split(",") for n, text in enumerate(LINES) if n != 40)
    ]
    assert manifest == read(folder / name.manifest, Manifest)
    assert (manifest.rows, manifest.report, manifest.bytes) == (199, report, (folder / name.archived).stat().st_size)
    assert (manifest.first_event_ns, manifest.last_event_ns) == (T, T + 100)
    assert (manifest.first_recv_ns, manifest.last_recv_ns) == (T + 1, T + 200)
    assert not list(store.validated.iterdir())


def test_others_read_it(store: Store, sealed_batch: SealBatch) -> None:
    """DuckDB reads times as UTC and texts as texts, and the file documents its columns."""
    name = sealed_batch(LINES)
    split(store, name, OFF)
    compress(store, name)
    path = store.archive_folder("finnhub", "2026-11-24") / name.archived
    query = f"select count(*), min(price), epoch_ns(min(ts_recv)) from '{path}' where symbol = 'SPY'"
    assert duckdb.sql(query).fetchall() == [(133, 10.5, T + 1)]
    file = pq.ParquetFile(path)
    facts = {key.decode(): value.decode() for key, value in file.metadata.metadata.items() if key != b"ARROW:schema"}
    assert (facts["batch"], facts["session"], facts["feed"]) == (str(name), name.session, "finnhub")
    assert facts["software"].startswith("stock-tracing ")
    assert set(json.loads(facts["columns"])) == set(FILE_SCHEMA.names)
    assert facts["format_version"] == "2"
    assert file.schema_arrow.field("price").metadata[b"unit"]
    assert file.schema_arrow.field("ts_event").type == pa.timestamp("ns", "UTC")


def test_two_runs_give_the_same_bytes(store: Store, sealed_batch: SealBatch) -> None:
    """Splitting and archiving a batch twice gives equal files; running a finished step again changes none."""
    ends = []
    for _ in range(2):
        name = sealed_batch(LINES)
        split(store, name, OFF)
        compress(store, name)
        ends.append(files(store))
        assert split(store, name, OFF) == compress(store, name).report
        assert files(store) == ends[-1]
        path = store.manifest_of(name)
        assert path is not None
        path.unlink()
    assert ends[0] == ends[1]


@pytest.mark.parametrize("lines", [[], [b"rubbish\n"]], ids=["empty", "all bad"])
def test_no_valid_row_gives_a_manifest_alone(store: Store, sealed_batch: SealBatch, lines: list[bytes]) -> None:
    """A batch without valid rows is archived as a manifest only."""
    name = sealed_batch(lines, symbols=["SPY"])
    split(store, name, OFF)
    manifest = compress(store, name)
    assert (manifest.file, manifest.rows, manifest.bytes, manifest.first_event_ns) == (None, 0, 0, None)
    assert sorted(files(store)) == sorted(
        [f"archive/feed=finnhub/date=2026-11-24/{name.manifest}"] + [f"quarantine/{name.rejected_rows}"] * len(lines)
    )


def test_a_structural_reject_balances(store: Store, sealed_batch: SealBatch) -> None:
    """A sealed file that is not a journal ends as a manifest of zero rows and a quarantine file."""
    name = sealed_batch([b"x\n"], header=b"")
    split(store, name, OFF)
    manifest = compress(store, name)
    assert (manifest.rows, manifest.report.quarantined, manifest.seal.rows) == (0, 1, 1)
    assert (store.quarantine / name.rejected_batch).read_bytes() == b"x\n"


def vouch(store: Store, name: BatchName) -> None:
    """Make the report match the current validated file."""
    path = store.validated / name.report
    sha256 = hashlib.sha256((store.validated / name.validated).read_bytes()).hexdigest()
    path.write_bytes(encode(replace(read(path, Report), validated_sha256=sha256)))


@pytest.mark.parametrize("place", [0.0, 0.2, 0.5, 0.8, 0.999])
def test_a_flipped_bit_is_found_before_anything_is_removed(store: Store, sealed_batch: SealBatch, place: float) -> None:
    """A validated file with a flipped bit is named, nothing is archived, and no file changes."""
    name = sealed_batch(LINES)
    split(store, name, OFF)
    path = store.validated / name.validated
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 1
    path.write_bytes(content)
    before = files(store)
    with pytest.raises(CorruptionError, match=f"{path.name}: does not match its report"):
        compress(store, name)
    assert files(store) == before


@pytest.mark.parametrize("slice_bytes", [500, 1 << 20])
def test_the_file_is_the_one_that_plain_texts_give(store: Store, sealed_batch: SealBatch, slice_bytes: int) -> None:
    """However the batch is sliced, the archived pages equal those that pyarrow writes from plain texts."""
    name = sealed_batch(LINES)
    split(store, name, replace(OFF, slice_bytes=slice_bytes))
    compress(store, name)
    archived = store.archive_folder("finnhub", "2026-11-24") / name.archived
    file = pq.ParquetFile(archived)
    table = pq.read_table(archived)
    facts = {key: text for key, text in file.metadata.metadata.items() if key != b"ARROW:schema"}
    plain = store.root / "plain.parquet"
    with pq.ParquetWriter(plain, without_dictionaries(FILE_SCHEMA).with_metadata(facts), **WRITER_OPTIONS) as writer:
        writer.write_table(table.replace_schema_metadata(facts))
    assert pages(plain) == pages(archived)


def pages(parquet: Path) -> bytes:
    """Return the file without its footer, in which the order of the metadata may differ."""
    content = parquet.read_bytes()
    return content[: -8 - int.from_bytes(content[-8:-4], "little")]


def test_a_damaged_batch_is_not_archived(store: Store, sealed_batch: SealBatch) -> None:
    """Missing, truncated, or unordered validated rows raise an error that names the file, and nothing is removed."""
    name = sealed_batch(LINES)
    split(store, name, OFF)
    path = store.validated / name.validated
    whole = path.read_bytes()
    with pa.OSFile(str(path)) as file, pa.ipc.open_stream(file) as reader:
        table = reader.read_all()
    for damaged in (table[:-1], table.take(list(range(198, -1, -1)))):
        with pa.ipc.new_stream(str(path), damaged.schema) as writer:
            writer.write_table(damaged)
        vouch(store, name)
        with pytest.raises(CorruptionError, match=path.name):
            compress(store, name)
        assert store.manifest_of(name) is None
        assert path.exists()
    path.write_bytes(whole[: len(whole) // 2])
    vouch(store, name)
    with pytest.raises(CorruptionError, match=path.name):
        compress(store, name)
    path.write_bytes(whole)
    vouch(store, name)
    assert compress(store, name).rows == 199


def test_no_batch(store: Store) -> None:
    """The name of a batch that is not validated raises an error that names the file."""
    with pytest.raises(TerminalError, match="no such validated batch"):
        compress(store, BatchName("20261124T143000Z-9f3c01ab", 0, 7))


KILLED = """
import os, signal, sys
from pathlib import Path
from tasks.records.names import BatchName
from tasks.compress.parquet import compress
from tasks.storage.store import Store
from tasks.validate.split import Limits, split

changes = {"open", "os.rename", "os.remove", "os.unlink", "os.mkdir", "shutil.copyfile"}
for at in range(1, 400):
    child = os.fork()
    if child == 0:
        seen = 0
        def hook(event, args):
            global seen
            if event not in changes or (event == "open" and not isinstance(args[2], int)):
                return
            if event == "open" and not args[2] & (os.O_WRONLY | os.O_RDWR):
                return
            seen += 1
            if seen == at:
                os.kill(os.getpid(), signal.SIGKILL)
        root = Path(sys.argv[1])
        os.system(f"cp -r {root}/start {root}/{at}")
        sys.addaudithook(hook)
        store, name = Store(root / str(at)), BatchName.parse(sys.argv[2])
        split(store, name, Limits(None, None))
        compress(store, name)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if not os.WIFSIGNALED(status):
        assert status == 0
        print(at)
        break
"""


@pytest.mark.slow
@pytest.mark.parametrize("header", [None, b"no journal\n"], ids=["rows", "structural"])
def test_killed_at_any_change_of_the_folder(
    store: Store, sealed_batch: SealBatch, tmp_path: Path, header: bytes | None
) -> None:
    """Killed before any file creation, rename, or removal, both steps reach the same end when run again."""
    name = sealed_batch(LINES[:50]) if header is None else sealed_batch(LINES[:50], header=header)
    root = tmp_path / "killed"
    root.mkdir()
    store.root.rename(root / "start")
    environment = {**os.environ, "POLARS_MAX_THREADS": "1", "ARROW_NUM_THREADS": "1"}
    run = subprocess.run(
        [sys.executable, "-c", KILLED, str(root), str(name)],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    killed = int(run.stdout)
    assert killed > 15
    ends = []
    for at in range(1, killed + 1):
        again = Store(root / str(at))
        for waiting in again.sealed_batches():
            split(again, waiting, OFF)
        for waiting in again.validated_batches():
            compress(again, waiting)
        ends.append({path: text for path, text in files(again).items() if not path.startswith("locks/")})
    assert ends == [ends[-1]] * killed
    assert len(ends[-1]) == (3 if header is None else 2)
