"""Measures the cost and size of archiving a sealed journal, next to tools that validate nothing.

    python tests/benchmarks/archive.py [--rows N] [--repeats R] [--short] [--json]

On the trades of a real day (as often as it takes for N rows, each time a day later), where `../shared/tape` is
there, and on generated ones; each with receive times of a live feed; then with every second row bad, and on a batch
of five million. Every way is a fresh process, one after the other, repeated; the tables give
medians; no repeat is begun after 45 s. CPU is user +
system and, like the wall time, that of a process which has archived a small batch before, as a session's has; beside
it that of whole processes, Python's start and imports included. `gate` is a part of `validate`. Prints Markdown.
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
GZIP, POLARS, DBN = "gzip -6 of the CSV", "polars' default Parquet", "DBN, records of 48 bytes + zstd -9"
# Per trade of the real tape, with event times in milliseconds and conditions as one text.
FORMAT_1_BYTES = 3.79
STARTED = time.perf_counter()
REPEAT_FOR_S = 45  # After so long each way is run once: on a busy machine the whole stays within its minute and a half.


# The ways: each is run as `archive.py --way NAME FOLDER` and prints what it measured.
def validate(folder: Path) -> Callable[[], None]:
    from tasks.records.names import BatchName
    from tasks.storage.store import Store
    from tasks.validate.schema import Limits
    from tasks.validate.split import split

    return lambda: print(split(Store(folder), BatchName.parse(BATCH), Limits(3_600_000_000_000, 1_000_000_000)).valid)


def compress(folder: Path) -> Callable[[], None]:
    from tasks.compress import parquet
    from tasks.records.names import BatchName
    from tasks.storage.store import Store

    return lambda: print(parquet.compress(Store(folder), BatchName.parse(BATCH)).rows)


def merge(folder: Path) -> Callable[[], None]:
    from tasks.merge import day
    from tasks.storage.store import Store

    return lambda: print(day.merge(Store(folder), "finnhub", "2026-11-24"))


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


def gate(folder: Path) -> Callable[[], None]:
    from tasks.records.manifest import Seal, read
    from tasks.records.names import BatchName
    from tasks.validate.lines import slices
    from tasks.validate.order import Disorder
    from tasks.validate.schema import Gate, Limits, rules

    name = BatchName.parse(BATCH)
    table = rules(read(folder / "sealed" / name.seal, Seal), Limits(3_600_000_000_000, 1_000_000_000))
    pieces = list(slices(folder / "sealed" / name.sealed, 16 << 20))
    frames = [piece.frame.with_columns(Disorder.columns(None, piece)) for piece in pieces]
    return lambda: print([ask(frame).width for ask in (Gate(table).broken,) for frame in frames])


WAYS = {
    "gate": gate,
    "validate": validate,
    "compress": compress,
    "merge": merge,
    "duckdb": duckdb_copy,
    "polars": polars_default,
    "gzip": gzip_6,
}


def cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def peak_bytes() -> int:
    """Return this process's own peak memory; getrusage may give the parent's, which is inherited."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return int(status.read_text().split("VmHWM:")[1].split()[0]) * 1024


def run_way(name: str, folder: Path) -> None:
    """Run one way in this process, first on a batch of a thousand rows, and print its figures as the last line."""
    WAYS[name](folder / "small")()
    run = WAYS[name](folder)
    cpu, wall = cpu_s(), time.perf_counter()
    run()
    figures = {"work_cpu_s": cpu_s() - cpu, "wall_s": time.perf_counter() - wall, "whole_cpu_s": cpu_s()}
    print(json.dumps({**figures, "peak_bytes": peak_bytes()}))


def measure(name: str, folder: Path) -> Row:
    """Measure one way in a fresh process."""
    command = [sys.executable, __file__, "--way", name, str(folder)]
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    figures: Row = json.loads(done.stdout.splitlines()[-1])
    return figures | {"whole_wall_s": time.perf_counter() - started}


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
    """Return the real tape's trades, repeating days until there are enough."""
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
    from tasks.records.ledger import FrameCounts
    from tasks.records.manifest import ConnectionRange, Seal, encode
    from tasks.records.names import BatchName
    from tasks.storage.store import Store, write_whole

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


def spoilt(trades: pl.DataFrame) -> pl.DataFrame:
    """Return trades of which every second one is bad in one of four ways."""
    kind = pl.int_range(pl.len()) % 8
    return trades.with_columns(
        pl.when(kind == 1).then(pl.lit("-1")).otherwise("price").alias("price"),
        pl.when(kind == 3).then(pl.lit("nan")).otherwise("size").alias("size"),
        pl.when(kind == 5).then(0).otherwise("ts_event").alias("ts_event"),
        pl.when(kind == 7).then(pl.lit("1\t")).otherwise("conditions").alias("conditions"),
    )


def compare(trades: pl.DataFrame, repeats: int, once: tuple[str, ...], often: tuple[str, ...]) -> dict[str, Row]:
    """Return the median figures of these ways on these trades; for `ours`, of both steps."""
    runs: dict[str, list[Row]] = {name: [] for name in (*often, *once)}
    with tempfile.TemporaryDirectory() as temporary:
        start = Path(temporary) / "start"
        seal(start, trades)
        seal(start / "small", trades.head(1000))
        for number in range(repeats):
            if number and time.perf_counter() - STARTED > REPEAT_FOR_S:
                break
            folder = Path(temporary) / str(number)
            shutil.copytree(start, folder)
            for name in (*(() if number else once), *often):  # The steps last: they take the batch away.
                runs[name].append(measure(name, folder) | {"bytes": output_bytes(name, folder)})
            shutil.rmtree(folder)
    runs["ours"] = [
        {key: max(a[key], b[key]) if key == "peak_bytes" else a[key] + b[key] for key in a}
        for a, b in zip(runs["validate"], runs["compress"], strict=True)
    ]
    return {name: {key: statistics.median(run[key] for run in of) for key in of[0]} for name, of in runs.items()}


def output_bytes(name: str, folder: Path) -> int:
    """Return the size of the file that a way wrote."""
    globs = {"compress": "archive/*/*/*.parquet", "gzip": "gzip.csv.gz"}
    return sum(path.stat().st_size for path in folder.glob(globs.get(name, f"{name}.parquet")))


def sizes(trades: pl.DataFrame) -> dict[str, int]:
    """Measure the bytes of these trades in each encoding, merged as a day, and in other formats."""
    from tasks.archive.encodings import Encoding
    from tasks.compress import parquet
    from tasks.merge import day
    from tasks.records.names import BatchName
    from tasks.storage.store import Store
    from tasks.validate.schema import Limits
    from tasks.validate.split import split

    found: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as temporary:
        start, name = Path(temporary) / "start", BatchName.parse(BATCH)
        seal(start, trades)
        for way in (polars_default, gzip_6):
            way(start)()
        found[GZIP] = output_bytes("gzip", start)
        found[POLARS] = output_bytes("polars", start)
        found[DBN] = dbn_bytes(as_journal(trades))
        split(Store(start), name, Limits(None, None))
        for encoding in (Encoding(), Encoding("max"), Encoding("plain", "csv.zst"), Encoding("plain", "csv.gz")):
            folder = Path(temporary) / encoding.name
            shutil.copytree(start, folder)
            found[f"ours, {encoding.name}"] = parquet.compress(Store(folder), name, encoding).bytes
            if encoding == Encoding():
                merged = day.merge(Store(folder), "finnhub", "2026-11-24")
                found["ours, the day merged by symbol and time"] = merged.bytes if merged else 0
    return found


def dbn_bytes(rows: pl.DataFrame) -> int:
    """A stand-in for DBN's trade schema, field by field; it has no conditions or fractional shares."""
    import pyarrow as pa

    fields = [
        ("length", "u1"), ("rtype", "u1"), ("publisher", "u2"), ("instrument", "u4"), ("ts_event", "u8"),
        ("price", "i8"), ("size", "u4"), ("action", "S1"), ("side", "S1"), ("flags", "u1"), ("depth", "u1"),
        ("ts_recv", "u8"), ("ts_in_delta", "i4"), ("sequence", "u4"),
    ]  # fmt: skip
    records = np.zeros(rows.height, np.dtype(fields))
    records["length"], records["action"], records["side"] = 12, b"T", b"N"
    records["instrument"] = rows["symbol"].cast(pl.Categorical).to_physical().to_numpy()
    records["price"] = (rows["price"].cast(pl.Float64) * 1e9).round().cast(pl.Int64).to_numpy()
    records["size"] = rows["size"].cast(pl.Float64).cast(pl.UInt32).to_numpy()
    for name in ("ts_event", "ts_recv"):
        records[name] = rows[name].to_numpy()
    records["sequence"] = rows["recv_seq"].to_numpy()
    return len(pa.Codec("zstd", compression_level=9).compress(records.tobytes(), asbytes=True))


def show_sizes(tape: str, rows: int, found: dict[str, int]) -> None:
    """Bytes a trade of each encoding, beside gzip's."""
    zipped = found[GZIP]
    print(f"### Size: {tape}, {rows:,} trades\n")
    print("| kept as | bytes/trade | of gzip -6 |\n| --- | ---: | ---: |")
    for name, size in found.items():
        print(f"| {name} | {size / rows:.2f} | {size / zipped:.3f} |")
    print()


def aims_of_size(tape: str, rows: int, found: dict[str, int]) -> list[tuple[str, str, str]]:
    """Compare the encodings' sizes with the targets."""
    plain, smallest = found["ours, A"], found["ours, B"]
    of_format_1 = (f"{tape}: bytes per trade, of format 1", f"{plain / rows / FORMAT_1_BYTES:.3f}", "≤ 1.03")
    return [
        *([of_format_1] if tape == "real" else []),
        (f"{tape}: size, of gzip -6", f"{plain / found[GZIP]:.3f}", "≤ 0.5"),
        (f"{tape}: size, of polars' default Parquet", f"{plain / found[POLARS]:.3f}", "≤ 0.45"),
        (f"{tape}: size, of DBN + zstd", f"{plain / found[DBN]:.3f}", "≤ 0.6"),
        (f"{tape}: size of `max`, of gzip -6", f"{smallest / found[GZIP]:.3f}", "≤ 0.4"),
    ]


def show(tape: str, rows: int, found: dict[str, Row]) -> None:
    """The figures of one tape as a table."""
    names = {"ours": "**journal → validated → archived**", "duckdb": "duckdb COPY", "polars": "polars' defaults"}
    print(f"### Journal → archive: {tape}, {rows:,} trades\n")
    print("| way | CPU s/M | wall s/M | CPU s/M, start-up included | wall s/M, same | peak MB | bytes/trade |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for name in ("ours", *(name for name in found if name != "ours")):
        row = found[name]
        costs = [row[key] * 1e6 / rows for key in ("work_cpu_s", "wall_s", "whole_cpu_s", "whole_wall_s")]
        cells = [*(f"{cost:.2f}" for cost in costs), f"{row['peak_bytes'] / 1e6:.0f}"]
        print(
            "|", " | ".join([names.get(name, name), *cells, f"{row['bytes'] / rows:.2f}" if row["bytes"] else ""]), "|"
        )
    print()


def aims(found: dict[str, dict[str, Row]], rows: int) -> list[tuple[str, str, str]]:
    """Compare the measurements with the targets."""
    lines = []
    for tape in (name for name in found if "duckdb" in found[name]):
        ours, duck = (found[tape][name] for name in ("ours", "duckdb"))
        ratios = {key: ours[key] / duck[key] for key in ("work_cpu_s", "wall_s", "whole_cpu_s")}
        lines += [
            (f"{tape}: CPU, of duckdb's", f"{ratios['work_cpu_s']:.2f}", "≤ 1.4"),
            (f"{tape}: wall time, of duckdb's", f"{ratios['wall_s']:.2f}", "≤ 1.5"),
            (f"{tape}: CPU of both processes, of duckdb's", f"{ratios['whole_cpu_s']:.2f}", ""),
            (f"{tape}: rules and gate, CPU s/M", f"{found[tape]['gate']['work_cpu_s'] * 1e6 / rows:.2f}", "≤ 0.35"),
        ]
    bad, clean = found["half bad"]["ours"], next(iter(found.values()))["ours"]
    lines.append(("half of the rows bad: CPU, of clean", f"{bad['work_cpu_s'] / clean['work_cpu_s']:.2f}", "≤ 2"))
    lines.append(("half of the rows bad: wall, of clean", f"{bad['wall_s'] / clean['wall_s']:.2f}", "≤ 2"))
    if "long" in found:
        lines.append(("5,000,000 rows: peak MB", f"{found['long']['ours']['peak_bytes'] / 1e6:.0f}", "≤ 800"))
        merged = found["long"]["merge"]
        lines.append(("the same merged as a day: peak MB", f"{merged['peak_bytes'] / 1e6:.0f}", "≤ 800"))
        lines.append(("the same merged as a day: CPU s/M", f"{merged['work_cpu_s'] / 5:.2f}", ""))
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--short", action="store_true", help="leave out the batch of five million rows")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON in place of the tables")
    parser.add_argument("--way", nargs=2, metavar=("NAME", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.way:
        run_way(arguments.way[0], Path(arguments.way[1]))
        return
    rows, repeats = arguments.rows, arguments.repeats
    tapes = {"real": real(rows)} if REAL.exists() else {}
    tapes["generated"] = generated(rows)
    steps = ("validate", "compress")
    found = {
        tape: compare(each, repeats, ("polars", "gzip"), ("duckdb", "gate", *steps)) for tape, each in tapes.items()
    }
    found["half bad"] = compare(spoilt(next(iter(tapes.values()))), repeats, (), steps)
    if not arguments.short:
        found["long"] = compare(generated(5_000_000), 1, (), (*steps, "merge"))
    # One day as it was: a tape that repeats itself compresses better than any real one.
    weighed = {tape: (each.head(388_000), sizes(each.head(388_000))) for tape, each in tapes.items()}
    reached = aims(found, rows) + [
        line for tape, (trades, each) in weighed.items() for line in aims_of_size(tape, trades.height, each)
    ]
    if arguments.json:
        print(
            json.dumps(
                {
                    "rows": rows,
                    "figures": found,
                    "sizes": {tape: each for tape, (_, each) in weighed.items()},
                    "aims": reached,
                }
            )
        )
        return
    for tape in tapes:
        show(tape, rows, found[tape])
        show_sizes(tape, weighed[tape][0].height, weighed[tape][1])
    print("| | reached | aim |\n| --- | ---: | ---: |")
    for line in reached:
        print("|", " | ".join(line), "|")
    print(f"\n{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}; medians of ≤ {repeats}")


if __name__ == "__main__":
    main()
