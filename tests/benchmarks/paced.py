"""Measures the cost of a feed at realistic rates, where each wake-up handles only a few trades.

    python tests/benchmarks/paced.py --rates 0,300,3000,20000 --seconds 4 --repeat 3 [--json]

The server and the peers of `capture.py`; the server's clock drives the feed, one trade a frame, what is due each 5 ms.
Measured is the CPU of a peer's process, all its threads, while it hears, as a share of one core. A rate of 0 is a feed
that says nothing. Latency, of ours alone and in a run of its own, is receive stamp → line in the journal, as in
`limits.py`.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from capture import HERE, PEERS, Load, Peer, rows_in, served
from limits import OURS, tailed

BASE = "picows"
# From the start of a peer until it is measured: by then it has imported, connected and subscribed.
SETTLE_S = 1.5


@dataclass(frozen=True, slots=True)
class Result:
    """One peer at one rate: CPU in percent of one core over the runs, and rows lost in the worst of them."""

    peer: str
    rate: int
    runs_percent: tuple[float, ...]
    lost: int

    @property
    def median_percent(self) -> float:
        return statistics.median(self.runs_percent)


def main() -> None:
    options = parse()
    peers = [peer for peer in PEERS if peer.name in options.peers and not peer.missing]
    results = [result for rate in options.rates for result in compare(peers, rate, options.seconds, options.repeat)]
    late_ms = {rate: latency_ms(rate, options.seconds) for rate in options.rates if rate}
    if options.json:
        figures = [{**asdict(result), "median_percent": result.median_percent} for result in results]
        print(json.dumps({"cpu": figures, "late_ms": late_ms}))
    else:
        print(table(peers, results, options, late_ms))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    rates, names = [0, 300, 3_000, 20_000], ["ours", "websocketapp", "picows"]
    parser.add_argument("--rates", type=lambda text: [int(part) for part in text.split(",")], default=rates)
    parser.add_argument("--seconds", type=int, default=4)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--peers", type=lambda text: text.split(","), default=names)
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def compare(peers: list[Peer], rate: int, seconds: int, repeat: int) -> list[Result]:
    """Run every peer `repeat` times at this rate, taking turns so that disturbances affect all alike."""
    percent: dict[str, list[float]] = {peer.name: [] for peer in peers}
    lost = dict.fromkeys(percent, 0)
    for turn in range(repeat):
        for peer in peers:
            used, missing = run(peer, rate, seconds)
            percent[peer.name].append(used)
            lost[peer.name] = max(lost[peer.name], missing, key=abs)
            print(f"{rate} trades/s, {peer.name}, run {turn + 1}: {used:.2f} % of a core", file=sys.stderr)
    return [Result(peer.name, rate, tuple(percent[peer.name]), lost[peer.name]) for peer in peers]


def load_of(rate: int, seconds: float) -> Load:
    """Send trades at this rate for some time; at rate zero, one trade at the start and one at the end."""
    trades = max(2, round(rate * seconds))
    return Load(trades, 1, 50, rate or 1 / seconds)


def run(peer: Peer, rate: int, seconds: int) -> tuple[float, int]:
    """One run: CPU in percent of a core while the feed sends, and rows lost."""
    load = load_of(rate, SETTLE_S + seconds + 0.5)
    with tempfile.TemporaryDirectory() as folder, served(load) as url, started(peer, url, load, folder) as process:
        time.sleep(SETTLE_S)
        cpu_s, wall_s = cpu_of(process), time.monotonic()
        time.sleep(seconds)
        used = (cpu_of(process) - cpu_s) / (time.monotonic() - wall_s)
        if process.wait(60):
            sys.exit(f"paced: {peer.script} ended with code {process.returncode}; run it by hand to see why")
        return 100 * used, load.trades - rows_in(Path(folder))


@contextmanager
def started(peer: Peer, url: str, load: Load, folder: str) -> Iterator["subprocess.Popen[bytes]"]:
    command = [sys.executable, HERE / peer.script, url, str(load.symbols), folder]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            process.kill()


def cpu_of(process: "subprocess.Popen[bytes]") -> float:
    """CPU seconds of all its threads so far, to the nanosecond: clock_getcpuclockid(3)."""
    return time.clock_gettime(~process.pid << 3 | 2)


def latency_ms(rate: int, seconds: int) -> tuple[float, float]:
    """Median and 99th percentile from receive stamp to the journal's line, by a process that tails it each 1 ms."""
    load = load_of(rate, seconds)
    with tempfile.TemporaryDirectory() as folder, served(load) as url, started(OURS, url, load, folder) as process:
        late_ns = sorted(tailed(Path(folder), process))
    return late_ns[len(late_ns) // 2] / 1e6, late_ns[int(len(late_ns) * 0.99) - 1] / 1e6


def table(
    peers: list[Peer], results: list[Result], options: argparse.Namespace, late_ms: dict[int, tuple[float, float]]
) -> str:
    """The results as Markdown: a row for each peer, medians, and how many times the compiled client's they are."""
    by_place = {(result.peer, result.rate): result for result in results}
    base = BASE if any(peer.name == BASE for peer in peers) else peers[0].name
    # Beside a peer that does nothing while nothing comes, a ratio says nothing.
    heads = "".join(f" {rate:,}/s, % | × {base} |" if rate else " idle, % |" for rate in options.rates)
    lines = [
        "## CPU at a steady pace",
        "",
        f"Percent of one core by trades a second, one trade a frame, 50 symbols; medians of {options.repeat}"
        f" interleaved runs of {options.seconds} s (lowest–highest); Python {platform.python_version()}.",
        "",
        f"| peer |{heads}",
        "| --- |" + "".join(" ---: | ---: |" if rate else " ---: |" for rate in options.rates),
    ]
    for peer in peers:
        row = f"| {peer.name} |"
        for rate in options.rates:
            result, other = by_place[peer.name, rate], by_place[base, rate]
            spread = f"{min(result.runs_percent):.2f}–{max(result.runs_percent):.2f}"
            row += f" {result.median_percent:.2f} ({spread}) |"
            if rate:
                row += f" {result.median_percent / other.median_percent:.2f} |"
        lines.append(row)
    lines += ["", "Ours, receive stamp → line in the journal (aim: p99 ≤ 50 ms):", ""]
    lines += [f"- {rate:,}/s: p50 {p50:.1f} ms, p99 {p99:.1f} ms" for rate, (p50, p99) in late_ms.items()]
    lines += [f"- {r.peer}: LOST {r.lost:,} rows at {r.rate:,}/s" for r in results if r.lost]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
