"""Measures a cold query: one symbol's minute bars from a day of trades.

    python tests/benchmarks/query.py [--rows 5000000] [--symbols 100] [--repeats 5] [--json]

The day is one file in encoding A, as closing a day writes it: sorted by symbol and event time, in row groups of
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
ROWS_PER_BATCH = 64_000
SEED = 20261124
MINUTE_NS = 60_000_000_000


# The ways: each runs as `query.py --way NAME FOLDER SYMBOL` and prints the bars it made and the bytes it read.
def ours(folder: Path, symbol: str) -> Callable[[], int]:
    from tasks.query.bars import bars
    from tasks.query.sources import sources_of
    from tasks.storage.store import Store

    store = Store(folder)
    return lambda: len(bars(sources_of(store, store.manifests(), symbol), symbol, MINUTE_NS))


def polars_scan(folder: Path, symbol: str) -> Callable[[], int]:
    import polars as pl

    price, size = pl.col("price").cast(pl.Float64), pl.col("size").cast(pl.Float64)

    def run() -> int:
        trades = pl.scan_parquet(folder / "days/**/*.parquet").filter(pl.col("symbol") == symbol).sort("ts_event")
        by_minute = trades.group_by_dynamic("ts_event", every="1m")
        return by_minute.agg(
            price.first().alias("open"), price.max().alias("high"), price.min().alias("low"),
            price.last().alias("close"), size.sum().alias("volume"),
        ).collect().height  # fmt: skip

    return run


def whole_file(folder: Path, symbol: str) -> Callable[[], int]:
    """Read the whole file with pyarrow, like a reader without statistics."""
    file = next((folder / "days").rglob("*.parquet"))

    def run() -> int:
        table = pq.read_table(file, columns=["symbol", "ts_event", "price", "size"])
        mine = table.filter(pa.compute.equal(table["symbol"], symbol))
        return len(
            np.unique(mine["ts_event"].cast(pa.timestamp("s", "UTC"), safe=False).cast(pa.int64()).to_numpy() // 60)
        )

    return run


WAYS = {"ours": ours, "polars scan_parquet": polars_scan, "pyarrow, the whole file": whole_file}


def write_day(folder: Path, rows: int, symbols: int) -> Path:
    """A day of so many trades over so many symbols, evenly spread, recorded in batches, archived and closed."""
    from tasks.compress.parquet import compress
    from tasks.merge.day import merge
    from tasks.records.names import BatchName
    from tasks.storage.store import Store
    from tasks.validate.schema import Limits
    from tasks.validate.split import split

    chance, store = np.random.default_rng(SEED), Store(folder).prepare()
    event_ms = np.sort(chance.integers(0, HOURS_NS // 1_000_000, rows))
    cents = np.full(symbols, 10_000) + 100 * np.arange(symbols)
    for number, first in enumerate(range(0, rows, ROWS_PER_BATCH)):
        name = BatchName(SESSION, 0, number)
        _seal(store, name, first + 1, event_ms[first : first + ROWS_PER_BATCH], cents, chance)
        split(store, name, Limits(None, None))
        compress(store, name)
    day = merge(store, "finnhub", DATE)
    assert day is not None
    assert day.file is not None
    return store.day_folder("finnhub", DATE) / day.file


def _seal(store: Any, name: Any, first: int, event_ms: Any, cents: Any, chance: np.random.Generator) -> None:
    """One sealed batch, its trades in order of receipt; `cents` are the symbols' prices, which go on."""
    import polars as pl

    from tasks.records.ledger import FrameCounts
    from tasks.records.manifest import ConnectionRange, Seal, encode
    from tasks.storage.store import write_whole

    rows, symbols = len(event_ms), len(cents)
    symbol, step = chance.integers(0, symbols, rows), chance.integers(-1, 2, rows)
    # Each symbol's price walks by a cent up or down, or stands.
    walked = pl.DataFrame({"symbol": symbol, "step": step}).select(pl.col("step").cum_sum().over("symbol")).to_series()
    price = cents[symbol] + walked.to_numpy()
    np.add.at(cents, symbol, step)
    received = START_NS + np.maximum.accumulate(event_ms * 1_000_000 + chance.integers(1_000_000, 50_000_000, rows))
    trades = pl.DataFrame(
        {
            "connection": np.ones(rows, np.int32), "recv_seq": np.arange(first, first + rows), "ts_recv": received,
            "ts_event": START_NS + event_ms * 1_000_000, "symbol": [_symbol_name(each) for each in symbol.tolist()],
            "price": [f"{each / 100:.2f}" for each in np.maximum(price, 1).tolist()],
            "size": [str(each) for each in (chance.integers(1, 11, rows) * 100).tolist()],
            "conditions": ["1"] * rows,
        }
    )  # fmt: skip
    journal = store.sealed / name.sealed
    trades.write_csv(journal, quote_style="never")
    per_symbol = dict(trades["symbol"].value_counts().sort("symbol").iter_rows())
    connection = ConnectionRange(
        connection=1, rows=rows, first_seq=first, last_seq=first + rows - 1, first_recv_ns=int(received[0]),
        last_recv_ns=int(received[-1]), before_seq=first - 1,
    )  # fmt: skip
    seal = Seal(
        batch=str(name), feed="finnhub", date=DATE, symbols=tuple(map(_symbol_name, range(symbols))), lanes=1,
        opened_ns=int(received[0]), sealed_ns=int(received[-1]), rows=rows, bytes=journal.stat().st_size,
        sha256=sha256(journal.read_bytes()).hexdigest(), frames=FrameCounts(), trades_refused=0,
        connections=(connection,), per_symbol=per_symbol,
    )  # fmt: skip
    write_whole(store.sealed / name.seal, encode(seal))


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
    """Return a command's median wall time, cold each time, and its outputs."""
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
    print(f"{platform.machine()}, {os.cpu_count()} cores; the day closed, {results[0]['file_bytes'] / 1e6:.1f} MB; "
          f"cold; median of {options.repeats}\n")  # fmt: skip
    print("| way | bars | wall of the command, s | work, s | bytes read | of the file |\n|---|---|---|---|---|---|")
    for row in results:
        work = "" if row["work_s"] is None else f"{row['work_s']:.3f}"
        read = "" if row["bytes"] is None else f"{row['bytes'] / 1e6:.2f} MB"
        share = "" if row["bytes"] is None else f"{row['bytes'] / row['file_bytes']:.1%}"
        print(f"| {row['way']} | {row['bars']} | {row['wall_s']:.2f} | {work} | {read} | {share} |")


def _results(folder: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    file = write_day(folder, options.rows, options.symbols)
    symbol, file_bytes = _symbol_name(options.symbols // 2), file.stat().st_size
    command = [sys.executable, "-m", "tape.cli.app", "bars", symbol, "--date", DATE, "--data-dir", str(folder), "--csv"]
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
