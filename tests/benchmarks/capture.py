"""Measures the cost of a trade from socket to file: ours, the plain design, and other libraries.

    python tests/benchmarks/capture.py --trades 200000 --per-frame 1,5 [--json]

One server (`blast.py`) sends the same frames to each peer, a process of its own:

    python peer_x.py URL SYMBOLS FOLDER

which subscribes SYM0000… (SYMBOLS of them), writes what it hears to `*.csv` (or `*.raw`) below FOLDER, and ends when
the server closes. Its CPU (user and system, of it and of the children that it waited for) less that of a run with
few trades (the median of those), per trade; the slow are given fewer trades, the quick more. Runs are interleaved
and repeated; a peer that lost rows is reported so, never averaged away.
"""

import argparse
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

HERE = Path(__file__).parent
FEW_TRADES = 100


@dataclass(frozen=True, slots=True)
class Peer:
    """A design to measure: its script, what it is, the share of the trades it is given, the libraries it needs."""

    name: str
    script: str
    design: str
    share: float = 1.0
    needs: tuple[str, ...] = ()

    @property
    def missing(self) -> str | None:
        """Return why it cannot run here, or None."""
        if not (HERE / self.script).exists():
            return f"{self.script} is not there"
        absent = [library for library in self.needs if importlib.util.find_spec(library) is None]
        return f"{', '.join(absent)} cannot be imported" if absent else None


PEERS = (
    Peer("ours", "peer_ours.py", "Stock Tracing's capture, CSV journal with checksums"),
    Peer("plain", "peer_plain.py", "WebSocketApp, json, queue and thread per ticker, file opened per trade", share=0.1),
    Peer("websocketapp", "peer_websocketapp.py", "WebSocketApp → SimpleQueue → one writer, msgspec, f-string"),
    Peer(
        "picows",
        "peer_picows.py",
        "picows, uvloop → SimpleQueue → one writer, msgspec, f-string",
        needs=("picows", "uvloop"),
    ),
    Peer("rawdump", "peer_rawdump.py", "raw bytes to a file, unread: the floor", share=5.0),
)


@dataclass(frozen=True, slots=True)
class Load:
    """The load of one run."""

    trades: int
    per_frame: int
    symbols: int
    rate: float = 0.0
    certificate: Path | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """One peer under one load: CPU in µs per trade over the runs, and rows lost in the worst of them."""

    peer: str
    per_frame: int
    trades: int
    runs_us: tuple[float, ...]
    lost: int

    @property
    def median_us(self) -> float:
        return statistics.median(self.runs_us)


def main() -> None:
    options = parse()
    peers = [peer for peer in PEERS if peer.name in options.peers and not peer.missing]
    notes = [f"{peer.name}: not run, {peer.missing}" for peer in PEERS if peer.name in options.peers and peer.missing]
    with certificate(options.tls) as pem:
        results = [
            result
            for per_frame in options.per_frame
            for result in compare(
                peers, Load(options.trades, per_frame, options.symbols, options.rate, pem), options.repeat
            )
        ]
    notes += [f"{r.peer}: LOST {r.lost:,} of {r.trades:,} rows at {r.per_frame} a frame" for r in results if r.lost]
    if options.json:
        print(json.dumps([{**asdict(result), "median_us": result.median_us} for result in results]))
    else:
        print(table(peers, results, options, notes))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--trades", type=int, default=200_000)
    parser.add_argument("--per-frame", type=lambda text: [int(part) for part in text.split(",")], default=[1, 5])
    parser.add_argument("--symbols", type=int, default=50)
    parser.add_argument("--rate", type=float, default=0, help="trades a second; 0: as fast as the peer takes")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--tls", action="store_true", help="serve wss with a certificate of its own")
    parser.add_argument("--peers", type=lambda text: text.split(","), default=[peer.name for peer in PEERS])
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def compare(peers: list[Peer], load: Load, repeat: int) -> list[Result]:
    """Run every peer `repeat` times under this load, taking turns so that disturbances affect all alike."""
    starts: dict[str, list[float]] = {peer.name: [] for peer in peers}
    totals: dict[str, list[float]] = {peer.name: [] for peer in peers}
    lost = dict.fromkeys(totals, 0)
    few = sized(load, FEW_TRADES)
    for turn in range(repeat):
        for peer in peers:
            own = sized(load, load.trades * peer.share)
            starts[peer.name].append(run(peer, few)[0])
            cpu_s, rows = run(peer, own)
            totals[peer.name].append(cpu_s)
            lost[peer.name] = max(lost[peer.name], own.trades - rows, key=abs)
            print(f"{load.per_frame} a frame, {peer.name}, run {turn + 1}: {cpu_s:.2f} s of CPU", file=sys.stderr)
    results = []
    for peer in peers:
        trades, start_s = sized(load, load.trades * peer.share).trades, statistics.median(starts[peer.name])
        runs_us = tuple((total - start_s) / (trades - few.trades) * 1e6 for total in totals[peer.name])
        results.append(Result(peer.name, load.per_frame, trades, runs_us, lost[peer.name]))
    return results


def sized(load: Load, trades: float) -> Load:
    """Return the load with about this many trades, in whole frames."""
    frames = max(1, round(trades / load.per_frame))
    return Load(frames * load.per_frame, load.per_frame, load.symbols, load.rate, load.certificate)


def run(peer: Peer, load: Load) -> tuple[float, int]:
    """One run: the peer's CPU in seconds, and the rows it wrote."""
    with tempfile.TemporaryDirectory() as folder, served(load) as url:
        command = [sys.executable, HERE / peer.script, url, str(load.symbols), folder]
        pem = str(load.certificate or "")
        trust = {"SSL_CERT_FILE": pem, "WEBSOCKET_CLIENT_CA_BUNDLE": pem} if pem else {}
        process = subprocess.Popen(command, env={**os.environ, **trust}, stdin=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            sys.exit(f"capture: {peer.script} ended with code {process.returncode}; run it by hand to see why")
        return usage.ru_utime + usage.ru_stime, rows_in(Path(folder))


@contextmanager
def served(load: Load) -> Iterator[str]:
    """The URL of a server that sends this load to its first client."""
    command = [
        sys.executable, HERE / "blast.py", f"--trades={load.trades}", f"--per-frame={load.per_frame}",
        f"--symbols={load.symbols}", f"--rate={load.rate}",
    ]  # fmt: skip
    if load.certificate:
        command.append(f"--certificate={load.certificate}")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield f"{'wss' if load.certificate else 'ws'}://127.0.0.1:{int(server.stdout.readline())}/?token=bench"
        finally:
            try:
                server.wait(5)
            except subprocess.TimeoutExpired:
                server.kill()


def rows_in(folder: Path) -> int:
    """Count the rows of every CSV below the folder, without headers, and the trades in every raw dump."""
    rows = sum(path.read_bytes().count(b'"s":"') for path in folder.rglob("*.raw"))
    for path in [*folder.rglob("*.csv"), *folder.rglob("*.csv.open")]:
        content = path.read_bytes()
        rows += content.count(b"\n") - content.startswith(b"connection,")
    return rows


@contextmanager
def certificate(wanted: bool) -> Iterator[Path | None]:
    """A PEM file with a key and a certificate for 127.0.0.1, of its own CA, by openssl."""
    if not wanted:
        yield None
        return
    with tempfile.TemporaryDirectory() as folder:
        pem, command = (
            Path(folder, "both.pem"),
            ["openssl", "req", "-x509", "-nodes", "-days", "1", "-newkey", "rsa:2048"],
        )
        command += ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
        subprocess.run([*command, "-keyout", pem, "-out", f"{pem}.crt"], check=True, capture_output=True)
        pem.write_text(pem.read_text() + Path(f"{pem}.crt").read_text())
        yield pem


def table(peers: list[Peer], results: list[Result], options: argparse.Namespace, notes: list[str]) -> str:
    """The results as Markdown: a row for each peer, medians, and how many times ours (or the floor's) they are."""
    by_place = {(result.peer, result.per_frame): result for result in results}
    base = next((name for name in ("ours", "rawdump") if any(peer.name == name for peer in peers)), peers[0].name)
    heads = "".join(f" {count} a frame, µs | × {base} |" for count in options.per_frame)
    lines = [
        "## CPU per trade, socket → file",
        "",
        f"{options.trades:,} trades over {options.symbols} symbols{' by TLS' if options.tls else ''}, medians of"
        f" {options.repeat} interleaved runs (lowest–highest); Python {platform.python_version()}.",
        "",
        f"| peer | design |{heads}",
        "| --- | --- |" + " ---: | ---: |" * len(options.per_frame),
    ]
    for peer in peers:
        row = f"| {peer.name} | {peer.design} |"
        for count in options.per_frame:
            result, other = by_place[peer.name, count], by_place[base, count]
            spread = f"{min(result.runs_us):.2f}–{max(result.runs_us):.2f}"
            row += f" {result.median_us:.2f} ({spread}) | {result.median_us / other.median_us:.2f} |"
        lines.append(row)
    return "\n".join([*lines, *([""] if notes else []), *(f"- {note}" for note in notes)])


if __name__ == "__main__":
    main()
