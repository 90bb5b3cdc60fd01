"""Measures what the data of the page costs with four tabs but no browser, and the recorder beside it.

    python tests/benchmarks/dashboard_data.py [--rate 5000] [--seconds 10] [--repeat 3] [--symbols 24,500] [--json]

The recorder and the feed are those of `paced.py`; the reader is a process that does, twice a second, what the page does
for all tabs (refresh) and for four tabs that each show another symbol (bars, prints, pace). The recorder is measured
with and without it in turn. A day in memory is measured apart: that many trades are added to a series.
"""

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parent))

from capture import Load, rows_in, served
from paced import OURS, SETTLE_S, cpu_of, started

TICK_S, TABS, BARS = 0.5, 4, 300
DAY_S = 23_400
# By then the recorder and the reader have started, on a busy machine too.
_START_S = 8


@dataclass(frozen=True, slots=True)
class Result:
    """One way to record at one number of symbols: CPU in percent of a core, and rows lost, over the runs."""

    symbols: int
    recorder_alone: tuple[float, ...]
    recorder_watched: tuple[float, ...]
    reader: tuple[float, ...]
    lost: int


def main() -> None:
    options = parse()
    if options.read is not None:
        read(Path(options.read))
        return
    results = [compare(options, symbols) for symbols in options.symbols]
    day = in_memory(max(options.symbols), options.day_trades)
    if options.json:
        print(json.dumps({"cpu": [asdict(result) for result in results], "day": day}))
    else:
        print(table(results, day, options))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rate", type=int, default=5_000)
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--symbols", type=lambda text: [int(part) for part in text.split(",")], default=[24, 500])
    parser.add_argument("--day-trades", type=int, default=5_000_000)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--read", help=argparse.SUPPRESS)
    return parser.parse_args()


def compare(options: argparse.Namespace, symbols: int) -> Result:
    """Record alone and watched, in turn, so that disturbances affect both alike."""
    alone, watched, reader, lost = [], [], [], 0
    for turn in range(options.repeat):
        for is_watched in (False, True):
            used, read_used, missing = run(options, symbols, is_watched)
            (watched if is_watched else alone).append(used)
            reader += [read_used] if is_watched else []
            lost = max(lost, missing, key=abs)
            print(f"{symbols} symbols, {'watched' if is_watched else 'alone'}, run {turn + 1}: {used:.2f} % of a core "
                  f"and {read_used:.2f} % to watch", file=sys.stderr)  # fmt: skip
    return Result(symbols, tuple(alone), tuple(watched), tuple(reader), lost)


def run(options: argparse.Namespace, symbols: int, is_watched: bool) -> tuple[float, float, int]:
    """One run: CPU of the recorder and of the reader in percent of a core, and rows lost."""
    load = Load(round(options.rate * (_START_S + options.seconds)), 1, symbols, options.rate)
    with tempfile.TemporaryDirectory() as folder, served(load) as url, started(OURS, url, load, folder) as recorder:
        time.sleep(SETTLE_S)
        with watching(folder, is_watched) as reader:
            processes = [recorder, *reader]
            before, wall_s = [cpu_of(each) for each in processes], time.monotonic()
            time.sleep(options.seconds)
            lasted_s = time.monotonic() - wall_s
            used = [100 * (cpu_of(each) - start) / lasted_s for each, start in zip(processes, before, strict=True)]
        if recorder.wait(60):
            sys.exit(f"dashboard: {OURS.script} ended with code {recorder.returncode}; run it by hand to see why")
        return used[0], used[1] if reader else 0.0, load.trades - rows_in(Path(folder))


@contextmanager
def watching(folder: str, is_watched: bool) -> Iterator[list["subprocess.Popen[bytes]"]]:
    """A reader that has begun to read, or none."""
    if not is_watched:
        yield []
        return
    command = [sys.executable, __file__, "--read", folder]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            yield [process]
        finally:
            process.kill()


def read(folder: Path) -> None:
    """Do what the page does for four tabs, without end; print a line once that has begun."""
    from tape.dashboard.live import LiveSession
    from tasks.records.trade import NS_PER_S
    from tasks.storage.store import Store

    (session,) = (folder / "sessions").iterdir()
    live = LiveSession(Store(folder), session.name)
    print("reading", flush=True)
    due_s = time.monotonic()
    while True:
        live.refresh()
        for row in live.board().rows[:: max(1, len(live.board().rows) // TABS)][:TABS]:
            live.bars(row.symbol, NS_PER_S, BARS)
            live.prints(row.symbol, 50)
            live.pace(BARS)
        due_s += TICK_S
        time.sleep(max(0.0, due_s - time.monotonic()))


def in_memory(symbols: int, trades: int) -> dict[str, float]:
    """Add a day of trades to a series: CPU s, the slowest addition, MB, and what 300 bars of a second take then."""
    import numpy as np
    import polars as pl

    from tape.dashboard.series import Series, Symbols
    from tasks.records.trade import NS_PER_S

    names, random, size = [f"SYM{number:04}" for number in range(symbols)], np.random.default_rng(1), 20_000
    series, start_mb, slowest_s, cpu_s = Series(Symbols()), most_mb(), 0.0, 0.0
    for number in range(trades // size):
        recv = number * (span_ns := DAY_S * NS_PER_S * size // trades) + np.sort(random.integers(0, span_ns, size))
        frame = pl.DataFrame({
            "ts_recv": recv, "ts_event": recv, "symbol": [names[each] for each in random.integers(0, symbols, size)],
            "price": pl.Series(random.integers(10_000, 20_000, size) / 100).cast(pl.String),
            "size": pl.Series(random.integers(1, 500, size)).cast(pl.String), "conditions": ["1"] * size,
        })  # fmt: skip
        before_s = time.process_time()
        series.add(frame)
        slowest_s = max(slowest_s, took_s := time.process_time() - before_s)
        cpu_s += took_s
    before_s = time.process_time()
    for name in names[:20]:
        series.bars(name, NS_PER_S, BARS)
    took_s = (time.process_time() - before_s) / 20
    return {"trades": series.rows, "symbols": symbols, "cpu_s": cpu_s, "slowest_ms": 1e3 * slowest_s,
            "mb": most_mb() - start_mb, "bars_ms": 1e3 * took_s}  # fmt: skip


def most_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def table(results: list[Result], day: dict[str, float], options: argparse.Namespace) -> str:
    """The results as Markdown."""
    lines = [
        "## What the page's data costs",
        "",
        f"{options.rate:,} trades/s, one a frame, four tabs, two looks a second; percent of one core, medians of"
        f" {options.repeat} interleaved runs of {options.seconds} s (lowest–highest); Python"
        f" {platform.python_version()}.",
        "",
        "| symbols | recorder alone | recorder watched | reader (aim: < 10 with the page) | rows lost (aim: 0) |",
        "| ---: | ---: | ---: | ---: | ---: |",
    ]
    for each in results:
        columns = (each.recorder_alone, each.recorder_watched, each.reader)
        cells = (f"{statistics.median(runs):.2f} ({min(runs):.2f}–{max(runs):.2f})" for runs in columns)
        lines.append(f"| {each.symbols} | {' | '.join(cells)} | {each.lost} |")
    return "\n".join([
        *lines, "",
        f"A day of {day['trades']:,} trades over {day['symbols']} symbols takes {day['cpu_s']:.1f} s of CPU and"
        f" {day['mb']:.0f} MB to hold, the slowest of its additions {day['slowest_ms']:.0f} ms; {BARS} bars of a second"
        f" then take {day['bars_ms']:.2f} ms.",
    ])  # fmt: skip


if __name__ == "__main__":
    main()
