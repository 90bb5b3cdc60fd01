"""What does it cost to ask the archive: one symbol's minute bars out of a day of trades, cold?

    python tests/benchmarks/query.py [--rows 5000000] [--symbols 100] [--repeats 5] [--json]

The day is one file of layout A as the close of a day leaves it: sorted by symbol and event time, in row groups of
which each holds few symbols. It is written here, so that it is the same whatever wrote the archive. Each way is a
fresh process, and the file is dropped from the page cache before it. `bytes read` is what the process read by
system calls after its imports (`/proc/self/io`), beside the file's size; wall is that of the whole command.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

DATE, SESSION = "2026-11-24", "20261124T143000Z-9f3c01ab"
START_NS = 1_795_530_600_000_000_000
HOURS_NS = 23_400_000_000_000
ROWS_PER_GROUP = 65_536
SEED = 20261124
MINUTE_NS = 60_000_000_000


# The ways: each runs as `query.py --way NAME FOLDER SYMBOL` and prints the bars it made and the bytes it read.
def ours(folder: Path, symbol: str) -> Callable[[], int]:
    from tasks.query.bars import bars, files_with
    from tasks.query.views import readable
    from tasks.store import Store

    store = Store(folder)
    return lambda: len(bars(readable(store, files_with(symbol, store.manifests())), symbol, MINUTE_NS))


def polars_scan(folder: Path, symbol: str) -> Callable[[], int]:
    import polars as pl

    price, size = pl.col("price").cast(pl.Float64), pl.col("size").cast(pl.Float64)

    def run() -> int:
        trades = pl.scan_parquet(folder / "archive/**/*.parquet").filter(pl.col("symbol") == symbol).sort("ts_event")
        by_minute = trades.group_by_dynamic("ts_event", every="1m")
        return by_minute.agg(
            price.first().alias("open"), price.max().alias("high"), price.min().alias("low"),
            price.last().alias("close"), size.sum().alias("volume"),
        ).collect().height  # fmt: skip

    return run


def whole_file(folder: Path, symbol: str) -> Callable[[], int]:
    """pyarrow alone, reading the whole file, as a reader without statistics does."""
    file = next((folder / "archive").rglob("*.parquet"))

    def run() -> int:
        table = pq.read_table(file, columns=["symbol", "ts_event", "price", "size"])
        mine = table.filter(pa.compute.equal(table["symbol"], symbol))
        return len(np.unique(mine["ts_event"].cast(pa.int64()).to_numpy() // MINUTE_NS))

    return run


WAYS = {"ours": ours, "polars scan_parquet": polars_scan, "pyarrow, the whole file": whole_file}


def write_day(folder: Path, rows: int, symbols: int) -> Path:
    """A day of so many trades over so many symbols, evenly spread, archived in one file with its manifest."""
    from tasks.archive import CODED_SCHEMA, SCHEMA, WRITER_OPTIONS
    from tasks.batch import BatchName
    from tasks.forms import Form, file_schema
    from tasks.ledger import FrameCounts
    from tasks.manifest import Manifest, Report, Seal, encode
    from tasks.store import Store, write_whole

    chance = np.random.default_rng(SEED)
    place = Store(folder).prepare().archive_folder("finnhub", DATE)
    place.mkdir(parents=True, exist_ok=True)
    name = BatchName(SESSION, 0, 0)
    counts = np.bincount(chance.integers(0, symbols, rows), minlength=symbols)
    seqs = np.arange(1, rows + 1)
    chance.shuffle(seqs)
    schema = file_schema(CODED_SCHEMA, Form(), {"batch": str(name)})
    with pq.ParquetWriter(place / name.archived, schema, **WRITER_OPTIONS) as writer:
        done = 0
        pending: list[pa.Table] = []
        for number, count in enumerate(counts.tolist()):
            pending.append(_symbol(chance, number, seqs[done : done + count], SCHEMA))
            done += count
            waiting = sum(table.num_rows for table in pending)
            if waiting >= ROWS_PER_GROUP or done == rows:
                writer.write_table(pa.concat_tables(pending), row_group_size=ROWS_PER_GROUP)
                pending = []
    file = place / name.archived
    per_symbol = {_symbol_name(number): count for number, count in enumerate(counts.tolist())}
    seal = Seal(
        batch=str(name), feed="finnhub", date=DATE, symbols=tuple(per_symbol), lanes=1, opened_ns=START_NS,
        sealed_ns=START_NS + HOURS_NS, rows=rows, bytes=0, sha256="", frames=FrameCounts(), trades_refused=0,
        connections=(), per_symbol=per_symbol,
    )  # fmt: skip
    write_whole(place / name.manifest, encode(Manifest(
        batch=str(name), file=name.archived, layout="A", software="bench", rows=rows, bytes=file.stat().st_size,
        sha256=sha256(file.read_bytes()).hexdigest(), first_event_ns=None, last_event_ns=None, first_recv_ns=None,
        last_recv_ns=None, seal=seal, report=Report(rows=rows, valid=rows, quarantined=0, per_symbol=per_symbol),
    )))  # fmt: skip
    return file


def _symbol(chance: np.random.Generator, number: int, seqs: Any, schema: pa.Schema) -> pa.Table:
    rows = len(seqs)
    event_ms = np.sort(chance.integers(0, HOURS_NS // 1_000_000, rows))
    event_ns = START_NS + event_ms * 1_000_000
    cents = 10_000 + number * 100 + np.cumsum(chance.integers(-1, 2, rows)) % 500
    return pa.table(
        [
            pa.array(np.ones(rows, np.int32)),
            pa.array(seqs, pa.int64()),
            pa.array(event_ns + chance.integers(1_000_000, 50_000_000, rows), pa.timestamp("ns", "UTC")),
            pa.array(event_ns, pa.timestamp("ns", "UTC")),
            pa.array([_symbol_name(number)] * rows, pa.large_string()),
            pa.array([f"{cent / 100:.2f}" for cent in cents.tolist()], pa.large_string()),
            pa.array([str(size) for size in (chance.integers(1, 11, rows) * 100).tolist()], pa.large_string()),
            pa.array(["1"] * rows, pa.large_string()),
            pa.array(np.zeros(rows, bool)),
        ],
        schema=schema,
    )


def _symbol_name(number: int) -> str:
    return f"S{number:03d}"


def run_way(way: str, folder: Path, symbol: str) -> None:
    run = WAYS[way](folder, symbol)
    before, start_s = _bytes_read(), time.perf_counter()
    bars = run()
    print(json.dumps({"bars": bars, "work_s": time.perf_counter() - start_s, "bytes": _bytes_read() - before}))


def _bytes_read() -> int:
    return int(Path("/proc/self/io").read_text().split("rchar:")[1].split()[0])


def _cold(file: Path) -> None:
    descriptor = os.open(file, os.O_RDONLY)
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


def measure(command: list[str], file: Path, repeats: int) -> tuple[float, list[str]]:
    """The median wall of a command, cold each time, and what it printed each time."""
    walls, printed = [], []
    for _ in range(repeats):
        _cold(file)
        start_s = time.perf_counter()
        printed.append(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout)
        walls.append(time.perf_counter() - start_s)
    return statistics.median(walls), printed


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--symbols", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--way", nargs=3)
    options = parser.parse_args()
    if options.way:
        run_way(options.way[0], Path(options.way[1]), options.way[2])
        return
    with tempfile.TemporaryDirectory() as folder:
        results = _results(Path(folder), options)
    if options.json:
        print(json.dumps(results))
        return
    print(f"## One symbol's minute bars from a day of {options.rows:,} trades, {options.symbols} symbols\n")
    print(f"{platform.machine()}, {os.cpu_count()} cores; file {results[0]['file_bytes'] / 1e6:.1f} MB, row groups of "
          f"{ROWS_PER_GROUP:,}; cold; median of {options.repeats}\n")  # fmt: skip
    print("| way | bars | wall of the command, s | work, s | bytes read | of the file |\n|---|---|---|---|---|---|")
    for row in results:
        work = "" if row["work_s"] is None else f"{row['work_s']:.3f}"
        read = "" if row["bytes"] is None else f"{row['bytes'] / 1e6:.2f} MB"
        share = "" if row["bytes"] is None else f"{row['bytes'] / row['file_bytes']:.1%}"
        print(f"| {row['way']} | {row['bars']} | {row['wall_s']:.2f} | {work} | {read} | {share} |")


def _results(folder: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    file = write_day(folder, options.rows, options.symbols)
    symbol, file_bytes = _symbol_name(options.symbols // 2), file.stat().st_size
    command = [sys.executable, "-m", "flows.cli", "bars", symbol, "--date", DATE, "--data-dir", str(folder), "--csv"]
    wall_s, printed = measure(command, file, options.repeats)
    bars = len(printed[0].splitlines()) - 1
    results = [{"way": "`tape bars`", "bars": bars, "wall_s": wall_s, "work_s": None, "bytes": None}]
    for way in WAYS:
        wall_s, printed = measure([sys.executable, __file__, "--way", way, str(folder), symbol], file, options.repeats)
        each = [json.loads(line) for line in printed]
        work_s = statistics.median(one["work_s"] for one in each)
        results.append({"way": way, "bars": each[0]["bars"], "wall_s": wall_s, "work_s": work_s,
                        "bytes": each[0]["bytes"]})  # fmt: skip
    return [{**row, "file_bytes": file_bytes} for row in results]


if __name__ == "__main__":
    main()
