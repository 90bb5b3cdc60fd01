"""Measures the capture's limits: latency, memory, a stalled disk, TLS, many symbols.

    python tests/benchmarks/limits.py [--seconds 10] [--json]

Uses the server and the harness of `capture.py`. Latency is receive stamp → line in the journal, as a process that
tails the journal sees it, so its own polling (1 ms) is in the figure.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import capture
from capture import HERE, PEERS, Load, certificate, compare, served

OURS = next(peer for peer in PEERS if peer.name == "ours")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = [
        *latency(50_000, options.seconds),
        *memory(1_000_000, options.seconds),
        *stall(50_000, options.seconds),
        *tls(),
        *many_symbols(),
    ]
    if options.json:
        print(json.dumps([{"what": what, "aim": aim, "measured": measured} for what, aim, measured in rows]))
    else:
        print("## Limits of the capture\n\n| what | aim | measured |\n| --- | --- | --- |")
        for what, aim, measured in rows:
            print(f"| {what} | {aim} | {measured} |")


Row = tuple[str, str, str]


def latency(rate: int, seconds: int) -> list[Row]:
    """Tail the journal while it is written at that rate, and compare each line's stamp with the clock."""
    load = Load(rate * seconds, 5, 50, rate)
    with tempfile.TemporaryDirectory() as folder, served(load) as url:
        command = [sys.executable, HERE / OURS.script, url, str(load.symbols), folder]
        with subprocess.Popen(command, stdin=subprocess.DEVNULL) as process:
            late_ns = tailed(Path(folder), process)
    late_ns.sort()
    p50, p99, worst = (late_ns[int(len(late_ns) * part) - 1] / 1e6 for part in (0.5, 0.99, 1.0))
    measured = f"p50 {p50:.1f}, p99 {p99:.1f}, worst {worst:.1f} ms over {len(late_ns):,} trades"
    return [(f"receive stamp → line in the journal at {rate:,} trades/s", "p99 ≤ 50 ms", measured)]


def tailed(folder: Path, process: "subprocess.Popen[bytes]") -> list[int]:
    """The lateness (ns) of each line, as it becomes visible."""
    late: list[int] = []
    while not (found := list(folder.glob("spool/*/*.csv.open"))):
        assert process.poll() is None, "the recorder ended before it had a journal"
        time.sleep(0.01)
    descriptor = os.open(found[0], os.O_RDONLY)
    rest = b""
    try:
        while True:
            alive = process.poll() is None
            chunk = os.read(descriptor, 1 << 20)
            now_ns = time.time_ns()
            if chunk:
                *lines, rest = (rest + chunk).split(b"\n")
                late += [now_ns - int(line.split(b",", 3)[2]) for line in lines if line[:1].isdigit()]
            elif not alive:
                return late
            time.sleep(0.001)
    finally:
        os.close(descriptor)


def memory(rate: int, seconds: int) -> list[Row]:
    """The largest resident size of the recorder while more is offered than it can take."""
    load = Load(min(rate * seconds, 4_000_000), 5, 50, rate)
    with tempfile.TemporaryDirectory() as folder, served(load) as url:
        command = [sys.executable, HERE / OURS.script, url, str(load.symbols), folder]
        start = time.monotonic()
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        took_s = time.monotonic() - start
        lost = load.trades - capture.rows_in(Path(folder))
    measured = (
        f"{usage.ru_maxrss / 1024:.0f} MB, {load.trades / took_s:,.0f} trades/s taken, {lost} of {load.trades:,} lost"
    )
    return [(f"memory at {rate:,} trades/s offered", "≤ 200 MB, nothing lost", measured)]


def stall(rate: int, seconds: int) -> list[Row]:
    """Stall every write to the journal once, in the middle of the stream."""
    load = Load(rate * seconds, 5, 50, rate)
    os.environ["BENCH_STALL_S"] = str(seconds)
    try:
        with tempfile.TemporaryDirectory() as folder, served(load) as url:
            command = [sys.executable, HERE / OURS.script, url, str(load.symbols), folder]
            subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
            rows = [
                int(line.split(b",", 2)[1])
                for path in sorted(Path(folder).glob("sealed/*.csv"))
                for line in path.read_bytes().splitlines()[1:]
            ]
    finally:
        del os.environ["BENCH_STALL_S"]
    ordered = rows == list(range(1, len(rows) + 1))
    measured = f"{load.trades - len(rows)} of {load.trades:,} lost, order {'kept' if ordered else 'BROKEN'}"
    return [(f"{seconds} s stall of the disk at {rate:,} trades/s", "nothing lost, order kept", measured)]


def tls() -> list[Row]:
    """Compare CPU per trade with and without TLS, taking turns."""
    rows = []
    with certificate(True) as pem:
        for per_frame in (1, 5):
            plain = Load(200_000, per_frame, 50)
            pairs = [
                (
                    compare([OURS], replace(plain, certificate=pem), 1)[0].median_us,
                    compare([OURS], plain, 1)[0].median_us,
                )
                for _ in range(3)
            ]
            ratio = statistics.median(secure / open_ for secure, open_ in pairs)
            rows.append((f"wss beside ws, {per_frame} a frame", "≤ 1.3 ×", f"{ratio:.2f} ×"))
    return rows


def many_symbols() -> list[Row]:
    """CPU per trade by the number of symbols."""
    results = {count: compare([OURS], Load(300_000, 5, count), 3)[0].median_us for count in (1, 50, 500, 8_000)}
    low, high = min(results.values()), max(results.values())
    figures = ", ".join(f"{count:,}: {cost:.2f} µs" for count, cost in results.items())
    return [("1, 50, 500, 8,000 symbols, 5 a frame", "flat within 1.3 ×", f"{high / low:.2f} × ({figures})")]


if __name__ == "__main__":
    main()
