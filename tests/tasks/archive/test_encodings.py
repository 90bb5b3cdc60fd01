"""Every encoding holds the same trades, and the documented expressions restore the smallest one."""

import ast
import re
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import duckdb
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from journal_hash import journal_sha256

from tasks.archive.deltas import RESTORED_BY, DeltaEncoder
from tasks.archive.encodings import Encoding, read_groups, writing
from tasks.archive.journal_text import journal_bytes
from tasks.archive.schema import CODED_SCHEMA, SCHEMA, completed, without_missing
from tasks.compress.parquet import compress
from tasks.errors import CorruptionError
from tasks.export.tape import export
from tasks.records.names import BatchName
from tasks.replay.tape_file import read_tape
from tasks.storage.store import Store
from tasks.validate.schema import Limits
from tasks.validate.split import split
from tasks.verify.laws import verify

SealBatch = Callable[..., BatchName]
DOCS = (Path(__file__).parents[3] / "docs" / "archive.md").read_text()
T = 1_764_000_000_000_000_000
ENCODINGS = [Encoding(), Encoding("max"), Encoding("plain", "csv.zst"), Encoding("plain", "csv.gz")]
PRICES = [b"231.3", b"231.30", b"0.000000001", b"1e5", b"1E-7", b"100", b"100.0", b"0.1234567891",
          b"999999999.999999999", b"1234567890", b"64250.01", b"00.5", b"5.", b"0.10"]  # fmt: skip
LINES = [
    b"%d,%d,%d,%d,%s,%s,0.%d,%s\n"
    % (1 + n // 60, n % 60 + 1, T + n // 3 * 7_001, T + n // 2 * 1_000_000 + n % 7 // 6,
       b"SPY" if n % 3 else b"BINANCE:BTCUSDT", PRICES[n % len(PRICES)], n, b"1;2" if n % 5 else b"")
    for n in range(120)
]  # fmt: skip


def archived(store: Store, name: BatchName, encoding: Encoding, slice_bytes: int = 16 << 20) -> Path:
    """Archive a sealed batch in an encoding; returns the file."""
    split(store, name, Limits(None, None, slice_bytes))
    manifest = compress(store, name, encoding)
    assert manifest.layout == encoding.name
    place = store.manifest_of(name)
    assert place is not None
    assert manifest.file is not None
    return place.with_name(manifest.file)


@pytest.mark.parametrize("encoding", ENCODINGS, ids=lambda encoding: encoding.name)
@pytest.mark.parametrize("slice_bytes", [700, 1 << 20])
def test_every_form_is_the_same_trades(
    store: Store,
    sealed_batch: SealBatch,
    monkeypatch: pytest.MonkeyPatch,
    encoding: Encoding,
    slice_bytes: int,
    tmp_path: Path,
) -> None:
    """The sealed journal, the tape and the replay come back from each encoding, whatever its row groups."""
    encoding = replace(encoding, rows_per_group=17 if slice_bytes == 700 else 1_000_000)
    name = sealed_batch([*LINES, b"rubbish\n"])
    file = archived(store, name, encoding, slice_bytes)
    assert file.name == f"{name}.{encoding.format}"
    assert journal_sha256(file, store.quarantine / name.rejected_rows) == verify_seal(store, name)
    plain, coded = (pa.concat_tables(read_groups(file, coded=coded)) for coded in (False, True))
    assert plain.schema.equals(SCHEMA)
    assert coded.cast(SCHEMA).equals(plain)
    assert export(store, tmp_path / "tape.csv", None) == 120
    lines = (tmp_path / "tape.csv").read_bytes().splitlines(keepends=True)[1:]
    assert lines == [b",".join([b"%d" % (int(line.split(b",")[3]) // 10**6), *line.split(b",")[4:]]) for line in LINES]


def verify_seal(store: Store, name: BatchName) -> str:
    """Return the SHA-256 in the seal, after checking every law of the batch's own files."""
    from tasks.records.manifest import Manifest, read

    place = store.manifest_of(name)
    assert place is not None
    said = [each.law for each in verify(store).broken]
    assert set(said) <= {"recorded", "counts", "connections"}, verify(store).broken
    return read(place, Manifest).seal.sha256


@pytest.mark.parametrize("encoding", ENCODINGS, ids=lambda encoding: encoding.name)
def test_a_replay_reads_every_form(store: Store, sealed_batch: SealBatch, encoding: Encoding) -> None:
    """A tape may be an archived file of any encoding."""
    lines = [line for line in LINES if re.fullmatch(rb"(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?", line.split(b",")[5])]
    lines = [b"1,%d,%s" % (n, line.split(b",", 2)[2]) for n, line in enumerate(lines, 1)]
    rows = [row for block in read_tape(archived(store, sealed_batch(lines), encoding)) for row in block]
    assert [(row[1], row[2]) for row in rows] == [tuple(line.decode().split(",")[4:6]) for line in lines]


@pytest.mark.parametrize("encoding", ENCODINGS, ids=lambda encoding: encoding.name)
def test_two_runs_of_a_form_give_the_same_bytes(store: Store, sealed_batch: SealBatch, encoding: Encoding) -> None:
    """An encoded file depends only on the batch; a run after a killed one with another encoding leaves one file."""
    found = []
    for other in (Encoding("plain", "csv.gz"), Encoding("max")):
        file = archived(store, sealed_batch(LINES), other)
        (file.parent / f"_{BatchName.parse(file.name)}.manifest.json").unlink()
        file = archived(store, sealed_batch(LINES), encoding)
        assert [path.name for path in file.parent.iterdir() if "manifest" not in path.name] == [file.name]
        found.append(file.read_bytes())
        (file.parent / f"_{BatchName.parse(file.name)}.manifest.json").unlink()
    assert found[0] == found[1]


@pytest.mark.parametrize("encoding", ENCODINGS[1:], ids=lambda encoding: encoding.name)
def test_flipped_bits_are_found_in_every_form(store: Store, sealed_batch: SealBatch, encoding: Encoding) -> None:
    """`tape verify` finds a flipped bit anywhere and names the file; it is never read as other trades unnoticed."""
    file = archived(store, sealed_batch(LINES), encoding)
    whole = file.read_bytes()
    for place in range(0, len(whole), max(1, len(whole) // 25)):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        assert str(file) in {each.file for each in verify(store).broken if each.law == "sha256"}
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CorruptionError, match=re.escape(file.name)):
        list(read_groups(file))


def test_event_times_are_in_ns_in_every_file(store: Store, sealed_batch: SealBatch) -> None:
    """Files of whole milliseconds and of finer times have one unit, and can be scanned together."""
    files = [archived(store, sealed_batch(LINES), Encoding())]
    odd = LINES[0].replace(b",%d,BIN" % T, b",%d,BIN" % (T + 1))
    for number, encoding in enumerate((Encoding(), Encoding("max")), 1):
        name = BatchName("20261124T143000Z-9f3c01ab", 0, number)
        files.append(archived(store, sealed_batch([odd, *LINES[1:]], name=name), encoding))
        assert b"".join(journal_bytes(files[-1], None)).splitlines()[1].split(b",")[3] == b"%d" % (T + 1)
    frame = pl.scan_parquet(files[:2]).collect()
    assert frame["ts_event"].to_physical().to_list()[::120] == [T, T + 1]


def test_others_restore_the_smallest_form(store: Store, sealed_batch: SealBatch) -> None:
    """The expressions in the file's metadata for polars and duckdb restore receive times and prices."""
    name = sealed_batch(LINES)
    plain = archived(store, name, Encoding())
    expected = pl.read_parquet(plain)
    (plain.parent / name.manifest).unlink()
    file = archived(store, sealed_batch(LINES), Encoding("max"))
    given_by = {column: eval(text, {"pl": pl}) for column, text in RESTORED_BY["polars"].items()}
    unusual = pl.col("price_text").cast(pl.Float64)
    frame = pl.read_parquet(file).with_columns(ts_recv=given_by["ts_recv"], ts_event=given_by["ts_event"])
    frame = frame.with_columns(pl.coalesce(unusual, given_by["price"]).alias("price"))
    assert frame.select("ts_recv", "ts_event").equals(expected.select("ts_recv", "ts_event"))
    # A float has 53 bits: more than nine million with nine digits after the point is exact in price_step alone.
    assert frame["price"].to_list() == pytest.approx(expected["price"].to_list(), rel=1e-15)
    usual = expected["price"] < 9_000_000
    assert frame["price"].filter(usual).equals(expected["price"].filter(usual))
    sql = RESTORED_BY["duckdb"]
    rows = duckdb.sql(
        f"select epoch_ns({sql['ts_recv']}), coalesce(price_text::DOUBLE, {sql['price']}), epoch_ns({sql['ts_event']}) "
        f"from read_parquet('{file}', file_row_number = true) order by file_row_number"
    ).fetchall()
    assert [row[0] for row in rows] == expected["ts_recv"].to_physical().to_list()
    assert [row[1] for row in rows] == pytest.approx(expected["price"].to_list(), rel=1e-15)
    assert [row[2] for row in rows] == expected["ts_event"].to_physical().to_list()


def test_the_docs_restore_the_smallest_form(store: Store, sealed_batch: SealBatch) -> None:
    """The polars and duckdb expressions in docs/archive.md restore receive times and prices."""
    lines = [line for number, line in enumerate(LINES) if PRICES[number % len(PRICES)] not in {b"00.5", b"5."}]
    lines = [re.sub(rb"^1,\d+|^2,\d+", b"1,%d" % seq, line) for seq, line in enumerate(lines, 1)]
    file = archived(store, sealed_batch(lines), Encoding("max"))
    (block,) = (each for each in re.findall(r"```python\n(.*?)```", DOCS, re.DOTALL) if "recv_step" in each)
    shown = [each for each in ast.parse(block).body if isinstance(each, ast.Expr)]
    names = {"pl": pl, "duckdb": duckdb, "file": str(file)}
    frame, relation = (eval(compile(ast.Expression(each.value), "docs/archive.md", "eval"), names) for each in shown)
    expected = [(int(line.split(b",")[2]), float(line.split(b",")[5])) for line in lines]
    assert frame["ts_recv"].to_physical().to_list() == [each[0] for each in expected]
    assert frame["price"].to_list() == pytest.approx([each[1] for each in expected], rel=1e-15)
    rows = relation.project("epoch_ns(ts_recv), price, file_row_number").order("file_row_number").fetchall()
    assert [row[0] for row in rows] == [each[0] for each in expected]
    assert [row[1] for row in rows] == pytest.approx([each[1] for each in expected], rel=1e-15)


NUMBERS = st.one_of(
    st.decimals(min_value="0.000000001", max_value=10**12, allow_nan=False).map(str),
    st.sampled_from([text.decode() for text in PRICES]),
    st.from_regex(r"\A[0-9]{1,12}(\.[0-9]{0,12})?\Z"),
    st.text("0123456789.eE+-x", max_size=14),
)


@pytest.mark.slow
@settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(st.sampled_from("ABC"), NUMBERS, st.integers(-5, 5)), min_size=1, max_size=30), st.data())
def test_steps_are_lossless(tmp_path: Path, trades: list[tuple[str, str, int]], data: st.DataObject) -> None:
    """Any price texts of any symbols, in any row groups, are restored digit by digit from encoding B."""
    cuts = sorted(data.draw(st.sets(st.integers(0, len(trades)), max_size=3)) | {0, len(trades)})
    parts = [part for start, stop in pairwise(cuts) if (part := trades[start:stop])]
    tables = [
        pa.table(
            {
                "connection": [1] * len(part), "recv_seq": range(1, len(part) + 1),
                "ts_recv": [T + row[2] for row in part], "ts_event": [T] * len(part),
                "symbol": [row[0] for row in part], "price": [row[1] for row in part], "size": ["1"] * len(part),
                "conditions": [""] * len(part), "resent": [False] * len(part),
            }
        ).cast(without_missing(SCHEMA, ())).cast(without_missing(CODED_SCHEMA, ())).combine_chunks()
        for part in parts
    ]  # fmt: skip
    with writing(tmp_path / "x.parquet", Encoding("max"), {}, "20261124T143000Z-9f3c01ab") as write:
        for table in tables:
            write(completed(table).select(CODED_SCHEMA.names).cast(CODED_SCHEMA))
    back = pa.concat_tables(read_groups(tmp_path / "x.parquet"))
    assert back.column("price").to_pylist() == [row[1] for row in trades]
    assert back.column("ts_recv").cast(pa.int64()).to_pylist() == [T + row[2] for row in trades]
    assert DeltaEncoder().encode(completed(tables[0]).select(CODED_SCHEMA.names).cast(CODED_SCHEMA)).num_rows == len(
        parts[0]
    )
