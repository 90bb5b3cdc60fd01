"""What does it cost to take a sealed journal to the archive, beside tools that validate nothing, and how small is it?

    python tests/benchmarks/archive.py [--rows N] [--repeats R] [--json]

On the trades of a real day (as often as it takes for N rows, each time a day later), where `../shared/tape` is
there, and on generated ones; each with receive times of a live feed. Every way is a fresh process, one after the
other, repeated; the table gives the median. CPU is user + system, `work` without the start-up of Python and its
imports, `whole` with them; peak RSS is the process's.
"""

import argparse
import gzip
import hashlib
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

REAL = ROOT / ".." / "shared" / "tape" / "us-equities-20131008.csv.gz"
BATCH = "20261124T143000Z-9f3c01ab-0-000000"
DAY_NS = 86_400_000_000_000
Row = dict[str, Any]


# The ways: each is run as `archive.py --way NAME FOLDER` and prints what it measured.
def validate(folder: Path) -> Callable[[], None]:
    from tasks.batch import BatchName
    from tasks.store import Store
    from tasks.validate.split import Limits, split

    return lambda: print(split(Store(folder), BatchName.parse(BATCH), Limits(3_600_000_000_000, 1_000_000_000)).valid)


def compress(folder: Path) -> Callable[[], None]:
    from tasks.batch import BatchName
    from tasks.compress import parquet
    from tasks.store import Store

    return lambda: print(parquet.compress(Store(folder), BatchName.parse(BATCH)).rows)


def duckdb_copy(folder: Path) -> Callable[[], None]:
    import duckdb

    columns = "{'connection':'INT','recv_seq':'BIGINT','ts_recv':'BIGINT','ts_event':'BIGINT',"
    columns += "'symbol':'VARCHAR','price':'VARCHAR','size':'VARCHAR','conditions':'VARCHAR'}"
    journal, out = folder / "sealed" / f"{BATCH}.csv", folder / "duckdb.parquet"
    query = f"COPY (SELECT * FROM read_csv('{journal}', quote='', header=true, columns={columns}))"
    return lambda: print(duckdb.connect().execute(f"{query} TO '{out}' (FORMAT parquet, COMPRESSION zstd)").fetchall())


def polars_default(folder: Path) -> Callable[[], None]:
    texts = dict.fromkeys(("symbol", "price", "size", "conditions"), pl.String)
    journal, out = folder / "sealed" / f"{BATCH}.csv", folder / "polars.parquet"
    return lambda: pl.read_csv(journal, schema_overrides=texts, quote_char=None).write_parquet(out)


def gzip_6(folder: Path) -> Callable[[], None]:
    journal, out = folder / "sealed" / f"{BATCH}.csv", folder / "gzip.csv.gz"

    def run() -> None:
        with journal.open("rb") as source, gzip.open(out, "wb", compresslevel=6) as target:
            shutil.copyfileobj(source, target, 1 << 20)

    return run


WAYS = {"validate": validate, "compress": compress, "duckdb": duckdb_copy, "polars": polars_default, "gzip": gzip_6}


def cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def run_way(name: str, folder: Path) -> None:
    """Run one way in this process and print its figures as the last line."""
    run = WAYS[name](folder)
    cpu, wall = cpu_s(), time.perf_counter()
    run()
    figures = {"work_cpu_s": cpu_s() - cpu, "wall_s": time.perf_counter() - wall, "whole_cpu_s": cpu_s()}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({**figures, "peak_bytes": peak}))


def measure(name: str, folder: Path) -> Row:
    """The figures of one way, run in a fresh process."""
    command = [sys.executable, __file__, "--way", name, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    figures: Row = json.loads(done.stdout.splitlines()[-1])
    return figures


def as_journal(trades: pl.DataFrame) -> pl.DataFrame:
    """Trades (`ts_event` in ns and the vendor's texts) as the rows of a journal: received 20–60 ms later, in order."""
    late = np.random.default_rng(1).integers(20_000_000, 60_000_000, trades.height)
    received = np.maximum.accumulate(trades["ts_event"].to_numpy() + late)
    return trades.select(
        pl.lit(1).alias("connection"),
        pl.int_range(1, pl.len() + 1).alias("recv_seq"),
        pl.Series("ts_recv", received),
        "ts_event", "symbol", "price", "size", "conditions",
    )  # fmt: skip


def real(rows: int) -> pl.DataFrame:
    """The trades of the real tape, days of them until there are enough."""
    day = pl.read_csv(REAL, infer_schema=False).with_columns(
        pl.col("ts_event_ms").cast(pl.Int64) * 1_000_000, pl.col("conditions").fill_null("")
    )
    days = [day.with_columns(pl.col("ts_event_ms") + number * DAY_NS) for number in range(-(-rows // day.height))]
    return pl.concat(days).head(rows).rename({"ts_event_ms": "ts_event"})


def generated(rows: int) -> pl.DataFrame:
    """A hundred symbols of very different activity, prices that walk by cents, round sizes, few conditions."""
    draw = np.random.default_rng(2)
    symbol = draw.zipf(1.3, rows) % 100
    cents = 10_000 + 50 * symbol + np.cumsum(draw.integers(-1, 2, rows)) // 20
    size = np.where(draw.random(rows) < 0.6, 100, draw.integers(1, 500, rows))
    conditions = np.array(["", "1", "1;12", "12"])[draw.choice(4, rows, p=[0.5, 0.3, 0.15, 0.05])]
    event = 1_764_000_000_000 + np.cumsum(draw.exponential(4, rows)).astype(np.int64)
    return pl.DataFrame(
        {
            "ts_event": event * 1_000_000,
            "symbol": pl.Series(symbol).map_elements(lambda number: f"S{number:02d}", pl.String),
            "price": (pl.Series(np.maximum(cents, 1)) / 100).cast(pl.String),
            "size": pl.Series(size).cast(pl.String),
            "conditions": conditions,
        }
    )


def seal(folder: Path, trades: pl.DataFrame) -> None:
    """Put the trades into the data folder as a sealed batch."""
    from tasks.batch import BatchName
    from tasks.ledger import FrameCounts
    from tasks.manifest import ConnectionRange, Seal, encode
    from tasks.store import Store, write_whole

    store, name, rows = Store(folder).prepare(), BatchName.parse(BATCH), as_journal(trades)
    journal = store.sealed / name.sealed
    rows.write_csv(journal, quote_style="never")
    first, last = rows["ts_recv"][0], rows["ts_recv"][-1]
    record = Seal(
        batch=BATCH, feed="finnhub", date="2026-11-24", symbols=tuple(rows["symbol"].unique().sort()), lanes=1,
        opened_ns=first, sealed_ns=last, rows=rows.height, bytes=journal.stat().st_size,
        sha256=hashlib.sha256(journal.read_bytes()).hexdigest(), frames=FrameCounts(), trades_refused=0,
        connections=(
            ConnectionRange(
                connection=1, rows=rows.height, first_seq=1, last_seq=rows.height, first_recv_ns=first,
                last_recv_ns=last,
            ),
        ),
        per_symbol={},
    )  # fmt: skip
    write_whole(store.sealed / name.seal, encode(record))


def compare(tape: str, trades: pl.DataFrame, repeats: int) -> list[Row]:
    """The figures of every way on these trades."""
    results: list[Row] = []
    runs: dict[str, list[Row]] = {name: [] for name in WAYS}
    sizes: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as temporary:
        start = Path(temporary) / "start"
        seal(start, trades)
        for number in range(repeats):
            folder = Path(temporary) / str(number)
            shutil.copytree(start, folder)
            for name in ("duckdb", "polars", "validate", "compress", *(["gzip"] if not number else [])):
                runs[name].append(measure(name, start if name == "gzip" else folder))
            archived = next(folder.glob("archive/*/*/*.parquet"))
            sizes = {"ours": archived.stat().st_size}
            sizes |= {name: (folder / f"{name}.parquet").stat().st_size for name in ("duckdb", "polars")}
            shutil.rmtree(folder)
        sizes["gzip"] = (start / "gzip.csv.gz").stat().st_size
    ours = [
        {key: max(a[key], b[key]) if key == "peak_bytes" else a[key] + b[key] for key in a}
        for a, b in zip(runs["validate"], runs["compress"], strict=True)
    ]
    rows = {"ours": ours, **runs}
    for name in ("ours", "validate", "compress", "duckdb", "polars", "gzip"):
        figures = {key: statistics.median(run[key] for run in rows[name]) for key in rows[name][0]}
        size = sizes.get(name)
        results.append(
            {"tape": tape, "way": name, "rows": trades.height, **figures, "bytes": size,
             "bytes_per_trade": size / trades.height if size else None}
        )  # fmt: skip
    return results


def show(results: list[Row]) -> None:
    """The figures as a table, and the aims beside what was reached."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(width=140)
    for tape in dict.fromkeys(row["tape"] for row in results):
        of_tape = {row["way"]: row for row in results if row["tape"] == tape}
        ours, duck, zipped, plain = (of_tape[name] for name in ("ours", "duckdb", "gzip", "polars"))
        million = ours["rows"] / 1e6
        table = Table("way", "CPU s/M: work", "whole", "wall s/M", "peak MB", "bytes/trade", box=box.MARKDOWN)
        for name, row in of_tape.items():
            size = row["bytes_per_trade"]
            table.add_row(
                "ours: both steps" if name == "ours" else name,
                *(f"{row[key] / million:.2f}" for key in ("work_cpu_s", "whole_cpu_s", "wall_s")),
                f"{row['peak_bytes'] / 1e6:.0f}",
                f"{size:.2f}" if size else "",
            )
        console.print(f"## Journal → archive: {tape}, {ours['rows']:,} trades\n")
        console.print(table)
        console.print(
            f"ours / duckdb: CPU {ours['work_cpu_s'] / duck['work_cpu_s']:.2f}, with start-up "
            f"{ours['whole_cpu_s'] / duck['whole_cpu_s']:.2f}, wall {ours['wall_s'] / duck['wall_s']:.2f} (aim 1.5); "
            f"bytes: ours / gzip -6 {ours['bytes'] / zipped['bytes']:.3f} (aim 0.5), "
            f"ours / polars {ours['bytes'] / plain['bytes']:.3f}\n"
        )
    console.print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print the figures as JSON in place of the table")
    parser.add_argument("--way", nargs=2, metavar=("NAME", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.way:
        run_way(arguments.way[0], Path(arguments.way[1]))
        return
    results: list[Row] = []
    if REAL.exists():
        results += compare("real", real(arguments.rows), arguments.repeats)
    results += compare("generated", generated(arguments.rows), arguments.repeats)
    if arguments.json:
        print(json.dumps(results, indent=2))
    else:
        show(results)


if __name__ == "__main__":
    main()
