"""Measures queries: one symbol of a closed day, and a year's daily average; and what the tape's rules do to bars.

    python tests/benchmarks/query.py [--rows 5000000] [--symbols 100] [--days 250] [--repeats 5] [--json]

The days are closed as `tape close` does it, in encoding A. They are written here, so that they are the same whatever
wrote an archive. Each way is a fresh process, which has asked the same of a small day before, as an open session has;
the files are dropped from the page cache before it. `bytes read` is what it read by system calls
(`/proc/self/io`), records included; Polars maps its files, so of these only the footers are counted. `plain` are the
same rows as Polars writes them by default. The last table has regular-hours minute bars of the real days, by the rules
of the consolidated tape beside all prints, where `../shared/tape` is there.
"""

import argparse
import datetime as dt
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any, cast

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
REAL = ROOT / ".." / "shared" / "tape"

DATE = "2026-11-24"
# 14:30 UTC, the open in New York.
START_NS = 1_795_530_600_000_000_000
HOURS_NS, DAY_NS, MINUTE_NS = 23_400_000_000_000, 86_400_000_000_000, 60_000_000_000
ROWS_PER_BATCH, ROWS_PER_YEARS_DAY = 64_000, 20_000
SEED = 20261124
HALF_AN_HOUR = (START_NS + 30 * MINUTE_NS, START_NS + 60 * MINUTE_NS)
Run = Callable[[], int]


# The ways: each runs as `query.py --way NAME FOLDER SYMBOL` and prints how many rows it made and the bytes it read.
def our_bars(folder: Path, symbol: str) -> Run:
    from functools import partial

    from tasks.market.hours import market_sessions
    from tasks.query.bars import Wanted, bars
    from tasks.query.sources import sources_of
    from tasks.storage.store import Store

    store, sessions = Store(folder), partial(market_sessions, calendar="XNYS")
    wanted = Wanted(symbols=(symbol,), days=(DATE,), every_ns=MINUTE_NS, zone="America/New_York")
    return lambda: len(bars(sources_of(store, store.manifests(), (symbol,)), wanted, sessions).table)


def polars_bars(folder: Path, symbol: str) -> Run:
    def run() -> int:
        trades = pl.scan_parquet(folder / "days/**/*.parquet").filter(pl.col("symbol") == symbol).sort("ts_event")
        by_minute = trades.group_by_dynamic("ts_event", every="1m")
        return by_minute.agg(
            pl.first("price").alias("open"), pl.max("price").alias("high"), pl.min("price").alias("low"),
            pl.last("price").alias("close"), pl.sum("size").alias("volume"),
        ).collect().height  # fmt: skip

    return run


def whole_file(folder: Path, symbol: str) -> Run:
    """Read the whole file with pyarrow, like a reader without statistics."""
    file = next((folder / "days").rglob("*.parquet"))

    def run() -> int:
        table = pq.read_table(file, columns=["symbol", "ts_event", "price", "size"])
        mine = table.filter(pa.compute.equal(table["symbol"], symbol))
        return len(
            np.unique(mine["ts_event"].cast(pa.timestamp("s", "UTC"), safe=False).cast(pa.int64()).to_numpy() // 60)
        )

    return run


def our_sql(sql: str) -> Callable[[Path, str], Run]:
    """Return a way that asks the view `trades`; `{symbol}` is the symbol."""

    def way(folder: Path, symbol: str) -> Run:
        from tasks.query.sources import sources_of
        from tasks.query.views import connect
        from tasks.storage.store import Store

        store = Store(folder)

        def run() -> int:
            with connect(sources_of(store, store.manifests())) as database:
                return len(database.execute(sql.format(symbol=symbol)).fetchall())

        return run

    return way


def polars_half_hour(folder: Path, symbol: str) -> Run:
    at = pl.col("ts_event").to_physical()
    return lambda: (
        pl.scan_parquet(folder / "days/**/*.parquet")
        .filter(pl.col("symbol") == symbol, at >= HALF_AN_HOUR[0], at < HALF_AN_HOUR[1])
        .select(_VWAP)
        .collect()
        .height
    )


def polars_year(files: str) -> Callable[[Path, str], Run]:
    """Return a way that scans these files of a folder."""

    def way(folder: Path, symbol: str) -> Run:
        def run() -> int:
            trades = pl.scan_parquet(folder / files, hive_partitioning=True).filter(pl.col("symbol") == symbol)
            return trades.group_by("date").agg(_VWAP).collect().height

        return run

    return way


_VWAP = (pl.col("price") * pl.col("size")).sum() / pl.sum("size")
_SQL_VWAP = "sum(price * size) FILTER (sets_volume) / sum(size) FILTER (sets_volume)"
_IN_HALF_AN_HOUR = f"epoch_ns(ts_event) >= {HALF_AN_HOUR[0]} AND epoch_ns(ts_event) < {HALF_AN_HOUR[1]}"
ONE_DAY = {
    "minute bars: ours": our_bars,
    "minute bars: polars scan_parquet": polars_bars,
    "minute bars: pyarrow, the whole file": whole_file,
    "average of half an hour: ours": our_sql(
        f"SELECT {_SQL_VWAP} FROM trades WHERE symbol = '{{symbol}}' AND {_IN_HALF_AN_HOUR}"
    ),
    "average of half an hour: polars scan_parquet": polars_half_hour,
}
OURS_OF_YEAR, PLAIN = "ours", "polars scan_parquet, plain Parquet"
YEAR = {
    OURS_OF_YEAR: our_sql(f"SELECT date, {_SQL_VWAP} FROM trades WHERE symbol = '{{symbol}}' GROUP BY date"),
    "polars scan_parquet, our files": polars_year("days/**/*.parquet"),
    PLAIN: polars_year("plain/**/*.parquet"),
}
WAYS = {**ONE_DAY, **YEAR}


def write_day(folder: Path, rows: int, symbols: int, date: str = DATE, start_ns: int = START_NS) -> Path:
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
        name = BatchName(f"{date.replace('-', '')}T143000Z-9f3c01ab", 0, number)
        _seal(store, name, date, start_ns, first + 1, event_ms[first : first + ROWS_PER_BATCH], cents, chance)
        split(store, name, Limits(None, None))
        compress(store, name)
    day = merge(store, "finnhub", date)
    assert day is not None
    assert day.file is not None
    return store.day_folder("finnhub", date) / day.file


def write_year(folder: Path, days: int, symbols: int) -> None:
    """So many days before that one, and the same rows as Polars writes them, in `plain`."""
    for number in range(days):
        date = (dt.date.fromisoformat(DATE) - dt.timedelta(days=number)).isoformat()
        file = write_day(folder, ROWS_PER_YEARS_DAY, symbols, date, START_NS - number * DAY_NS)
        plain = folder / "plain" / f"date={date}"
        plain.mkdir(parents=True)
        pl.read_parquet(file, hive_partitioning=False).write_parquet(plain / "day.parquet")


def _seal(
    store: Any, name: Any, date: str, start_ns: int, first: int, event_ms: Any, cents: Any, chance: np.random.Generator
) -> None:
    """One sealed batch, its trades in order of receipt; `cents` are the symbols' prices, which go on."""
    from tasks.records.ledger import FrameCounts
    from tasks.records.manifest import ConnectionRange, Seal, encode
    from tasks.storage.store import write_whole

    rows, symbols = len(event_ms), len(cents)
    symbol, step = chance.integers(0, symbols, rows), chance.integers(-1, 2, rows)
    # Each symbol's price walks by a cent up or down, or stands.
    walked = pl.DataFrame({"symbol": symbol, "step": step}).select(pl.col("step").cum_sum().over("symbol")).to_series()
    price = cents[symbol] + walked.to_numpy()
    np.add.at(cents, symbol, step)
    received = start_ns + np.maximum.accumulate(event_ms * 1_000_000 + chance.integers(1_000_000, 50_000_000, rows))
    trades = pl.DataFrame(
        {
            "connection": np.ones(rows, np.int32), "recv_seq": np.arange(first, first + rows), "ts_recv": received,
            "ts_event": start_ns + event_ms * 1_000_000, "symbol": [_symbol_name(each) for each in symbol.tolist()],
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
        batch=str(name), feed="finnhub", date=date, symbols=tuple(map(_symbol_name, range(symbols))), lanes=1,
        opened_ns=int(received[0]), sealed_ns=int(received[-1]), rows=rows, bytes=journal.stat().st_size,
        sha256=sha256(journal.read_bytes()).hexdigest(), frames=FrameCounts(), trades_refused=0,
        connections=(connection,), per_symbol=per_symbol,
    )  # fmt: skip
    write_whole(store.sealed / name.seal, encode(seal))


def _symbol_name(number: int) -> str:
    return f"S{number:03d}"


def run_way(way: str, folder: Path, symbol: str) -> None:
    """Run one way, first on the small day, and print its figures."""
    WAYS[way](folder / "small", symbol)()
    run = WAYS[way](folder, symbol)
    before, start_s, cpu_s = _bytes_read(), time.perf_counter(), time.process_time()
    rows = run()
    spent = {"work_s": time.perf_counter() - start_s, "cpu_s": time.process_time() - cpu_s}
    print(json.dumps({"rows": rows, **spent, "bytes": _bytes_read() - before}))


def _bytes_read() -> int:
    return int(Path("/proc/self/io").read_text().split("rchar:")[1].split()[0])


def _cold(folder: Path) -> None:
    for file in folder.rglob("*.parquet"):
        descriptor = os.open(file, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def measure(command: list[str], folder: Path, repeats: int) -> tuple[float, list[str]]:
    """Return a command's median wall time, cold each time, and its outputs."""
    walls, printed = [], []
    for _ in range(repeats):
        _cold(folder)
        start_s = time.perf_counter()
        printed.append(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout)
        walls.append(time.perf_counter() - start_s)
    return statistics.median(walls), printed


def compare(ways: Iterable[str], folder: Path, symbol: str, repeats: int) -> list[dict[str, Any]]:
    """Return the median figures of each way."""
    found = []
    for way in ways:
        wall_s, printed = measure([sys.executable, __file__, "--way", way, str(folder), symbol], folder, repeats)
        each = [json.loads(line) for line in printed]
        # The first may have written the index that the others read.
        medians = {name: statistics.median_low(one[name] for one in each) for name in ("work_s", "cpu_s", "bytes")}
        found.append({"way": way, "rows": each[0]["rows"], "wall_s": wall_s, **medians})
    return found


def one_day(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """One symbol of one day."""
    file = write_day(folder, options.rows, options.symbols)
    write_day(folder / "small", 2_000, options.symbols)
    symbol = _symbol_name(options.symbols // 2)
    # An index keeps no record that changed in the last seconds.
    time.sleep(4)
    command = [sys.executable, "-m", "tape.cli.app", "bars", symbol, "--date", DATE, "--data-dir", str(folder), "--csv"]
    wall_s, printed = measure(command, folder, options.repeats)
    bars = {"way": "`tape bars`", "rows": len(printed[0].splitlines()) - 1, "wall_s": wall_s}
    return {
        "file_bytes": file.stat().st_size, "ways": [bars, *compare(ONE_DAY, folder, symbol, options.repeats)]
    }  # fmt: skip


def one_year(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """One symbol of a year of closed days."""
    write_year(folder, options.days, options.symbols)
    write_year(folder / "small", 2, options.symbols)
    time.sleep(4)
    size = sum(file.stat().st_size for file in (folder / "days").rglob("*.parquet"))
    return {"file_bytes": size, "ways": compare(YEAR, folder, _symbol_name(options.symbols // 2), options.repeats)}


def real_bars(folder: Path) -> list[dict[str, Any]]:
    """Minute bars of the real days by the rules of the consolidated tape, beside those of all prints."""
    from functools import partial

    import real_days

    from tasks.market.hours import market_sessions
    from tasks.query.bars import Wanted, bars
    from tasks.query.sources import sources_of

    symbols = ("AIG", "BAC", "IBM", "SPY")
    store, found = real_days.archive(folder, symbols), []
    for day in real_days.DAYS:
        sources = sources_of(store, store.manifests(date=day))
        wanted = Wanted(symbols=symbols, days=(day,), every_ns=MINUTE_NS, zone="America/New_York")
        ours, every = (
            cast(pl.DataFrame, pl.from_arrow(bars(sources, each, partial(market_sessions, calendar="XNYS")).table))
            for each in (wanted, replace(wanted, prints="all"))
        )
        both = ours.join(every, on=("symbol", "start_ns"), suffix="_all")
        prices = [pl.col(name).ne_missing(pl.col(f"{name}_all")) for name in ("open", "high", "low", "close")]
        ranges = [pl.col("high" + end) - pl.col("low" + end) for end in ("_all", "")]
        per_symbol = both.group_by("symbol").agg(
            pl.len().alias("bars"), pl.any_horizontal(prices).mean().alias("changed"),
            (ranges[0] - ranges[1]).max().alias("range"), (pl.sum("volume_all") / pl.sum("volume") - 1).alias("volume"),
        )  # fmt: skip
        found += [{"day": day, **row} for row in per_symbol.sort("symbol").iter_rows(named=True)]
    return found


def show(title: str, found: dict[str, Any], repeats: int) -> None:
    """Print the figures of some ways as a table."""
    print(f"## {title}\n")
    print(f"{platform.machine()}, {os.cpu_count()} cores; closed, {found['file_bytes'] / 1e6:.1f} MB; "
          f"cold; median of {repeats}\n")  # fmt: skip
    print("| way | rows | wall of the command, s | work, s | CPU, s | bytes read | of the files |")
    print("|---|---|---|---|---|---|---|")
    for row in found["ways"]:
        work = f"{row['work_s']:.3f} | {row['cpu_s']:.3f}" if "work_s" in row else "|"
        read = f"{row['bytes'] / 1e6:.2f} MB" if "bytes" in row else ""
        share = f"{row['bytes'] / found['file_bytes']:.1%}" if "bytes" in row else ""
        print(f"| {row['way']} | {row['rows']} | {row['wall_s']:.2f} | {work} | {read} | {share} |")
    print()


def aims(results: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Compare the measurements with the targets."""
    day = {row["way"]: row for row in results["day"]["ways"]}
    year = {row["way"]: row for row in results["year"]["ways"]}
    shares = [day[f"{what}: ours"]["bytes"] / results["day"]["file_bytes"] for what in
              ("minute bars", "average of half an hour")]  # fmt: skip
    ratios = {name: year[OURS_OF_YEAR][name] / year[PLAIN][name] for name in ("work_s", "cpu_s")}
    return [
        ("one symbol's minute bars: bytes read, of the day", f"{shares[0]:.1%}", "≤ 2 %"),
        ("one symbol's half hour: bytes read, of the day", f"{shares[1]:.1%}", "≤ 2 %"),
        ("a year's daily average of one symbol: CPU, of polars on plain Parquet", f"{ratios['cpu_s']:.2f}", "≤ 1.2"),
        ("the same: wall time, which on a busy machine favors more threads", f"{ratios['work_s']:.2f}", "≤ 1.2"),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--symbols", type=int, default=100)
    parser.add_argument("--days", type=int, default=250)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--way", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        run_way(options.way[0], Path(options.way[1]), options.way[2])
        return
    results: dict[str, Any] = {}
    for name, part in (("day", one_day), ("year", one_year)):
        with tempfile.TemporaryDirectory() as folder:
            results[name] = part(Path(folder), options)
    with tempfile.TemporaryDirectory() as folder:
        results["real bars"] = real_bars(Path(folder)) if REAL.is_dir() else []
    results["aims"] = aims(results)
    if options.json:
        print(json.dumps(results))
        return
    show(f"One symbol of a day of {options.rows:,} trades, {options.symbols} symbols", results["day"], options.repeats)
    title = f"The daily average price of one symbol over {options.days} days of {ROWS_PER_YEARS_DAY:,} trades"
    show(title, results["year"], options.repeats)
    print("## Minute bars of the real days: by the rules of the consolidated tape, beside all prints\n")
    print("| day | symbol | bars | with other prices | widest range added by others, $ | volume added by others |")
    print("|---|---|---|---|---|---|")
    for row in results["real bars"]:
        cells = f"{row['bars']} | {row['changed']:.1%} | {row['range']:.2f} | {row['volume']:.2%}"
        print(f"| {row['day']} | {row['symbol']} | {cells} |")
    print("\n| | reached | aim |\n| --- | ---: | ---: |")
    for line in results["aims"]:
        print("|", " | ".join(line), "|")


if __name__ == "__main__":
    main()
