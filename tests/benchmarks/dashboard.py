"""Measures what the web page costs and how fresh it is, beside a recorder at a steady rate.

    python tests/benchmarks/dashboard.py [--rate 5000] [--seconds 20] [--tabs 0,1,4] [--json]

A generated tape that is replayed some times as fast as it is, a recorder, `tape dashboard`, and tabs of a headless
Chromium. Without tabs there is no dashboard either. CPU is that of a process, in percent of one core, over the seconds
measured. The age of a price is now minus the receipt of the newest trade on the screen, looked at each 50 ms, so it
contains the wait for the next update. The first paint is that of the drawn page; beside it is the CPU of the page's
main thread until then, which a busy machine does not lengthen.
"""

import argparse
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

from browser import CHROMIUM, FLAGS  # noqa: E402
from paced import SETTLE_S  # noqa: E402
from recording import ask, wait_for  # noqa: E402

from tasks.capture.supervise import Recorder, start_or_attach  # noqa: E402
from tasks.records.status import Status  # noqa: E402
from tasks.replay.generate import SYMBOLS, generate  # noqa: E402
from tasks.replay.tape_file import write_tape  # noqa: E402
from tasks.storage.store import Store  # noqa: E402

# Of the generated tape as it is.
TAPE_RATE = 1_300
_FEED = """
import sys
from pathlib import Path
from tasks.replay.run import run  # noqa: E402
from tasks.replay.server import ReplayOptions  # noqa: E402
run(Path(sys.argv[1]), options=ReplayOptions(speed=float(sys.argv[2])))
"""
_AGES = """(ms) => new Promise((resolve) => { const ages = [], timer = setInterval(() => {
    const row = document.querySelector('[data-testid=prints] tbody tr'); if (!row) return;
    const [h, m, s] = row.firstChild.textContent.split(':').map(Number);
    const received = (h * 3600 + m * 60 + s) * 1000 + Number(row.title.replace(/[^0-9-]/g, ''));
    ages.push((Date.now() - received) % 86400000); }, 50);
    setTimeout(() => { clearInterval(timer); resolve(ages); }, ms); })"""
_PAINT = "() => performance.getEntriesByName('first-contentful-paint')[0].startTime"


@dataclass(frozen=True, slots=True)
class Result:
    """One run: CPU in percent of a core, milliseconds, and rows."""

    tabs: int
    server_percent: float
    recorder_percent: float
    browser_percent: float
    age_p50_ms: float
    age_p95_ms: float
    paint_ms: float
    paint_cpu_ms: float
    trades_per_s: float
    frames_lost: int


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rate", type=int, default=5_000)
    parser.add_argument("--seconds", type=int, default=20)
    parser.add_argument("--tabs", type=lambda text: [int(part) for part in text.split(",")], default=[0, 1, 4])
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if not CHROMIUM.exists():
        print("## The web page\n\nNot measured: Chromium is missing (apt-get install chromium).")
        return
    speed = options.rate / TAPE_RATE
    with tempfile.TemporaryDirectory() as folder:
        tape = Path(folder) / "tape.csv"
        # Importing, starting a browser, and opening tabs come before what is measured.
        write_tape(generate(7, speed * (options.seconds + 30 + 5 * max(options.tabs))), tape)
        results = [run(tape, speed, options.seconds, tabs) for tabs in options.tabs]
    print(json.dumps([asdict(result) for result in results]) if options.json else table(results, options))


def run(tape: Path, speed: float, seconds: int, tabs: int) -> Result:
    """Record, watch, and measure."""
    with (
        tempfile.TemporaryDirectory() as folder,
        replayed(tape, speed) as url,
        recording(Path(folder), url) as recorder,
    ):
        wait_for(lambda: status_of(recorder).trades > 0, 60)
        time.sleep(SETTLE_S)
        ages: list[float] = []
        paint_ms = paint_cpu_ms = 0.0
        if tabs:
            with dashboard(Path(folder)) as (server, address), browser() as chromium:
                pages = [chromium.new_page(viewport={"width": 1440, "height": 900}) for _ in range(tabs)]
                devtools = pages[0].context.new_cdp_session(pages[0])
                devtools.send("Performance.enable", {"timeDomain": "threadTicks"})
                for page in pages:
                    page.goto(address)
                    page.wait_for_selector("[data-testid=prints] tbody tr", timeout=60_000)
                    if page is pages[0]:
                        paint_ms, paint_cpu_ms = page.evaluate(_PAINT), 1_000 * task_s(devtools)
                time.sleep(SETTLE_S)
                before = measured(server.pid, recorder)
                ages = pages[0].evaluate(_AGES, 1_000 * seconds)
                after = measured(server.pid, recorder)
        else:
            before = measured(None, recorder)
            time.sleep(seconds)
            after = measured(None, recorder)
        recorder.stop()
        wait_for(lambda: not recorder.is_alive, 120)
        record = wait_for(recorder.record, 60)
    wall_s, *used = (now - then for then, now in zip(before, after, strict=True))
    p50, p95 = (statistics.quantiles(ages, n=20)[at] if len(ages) > 1 else 0.0 for at in (9, 18))
    return Result(
        tabs,
        *(100 * each / wall_s for each in used[:3]),
        p50,
        p95,
        paint_ms,
        paint_cpu_ms,
        used[3] / wall_s,
        record.frames_lost,
    )


def task_s(devtools: Any) -> float:
    """CPU seconds of the page's main thread so far, which do not depend on how busy the machine is."""
    metrics = devtools.send("Performance.getMetrics")["metrics"]
    return next(float(each["value"]) for each in metrics if each["name"] == "TaskDuration")


def measured(server: int | None, recorder: Recorder) -> tuple[float, float, float, float, float]:
    """The time, CPU seconds of server, recorder, and browser, and trades received, all until now."""
    status = status_of(recorder)
    server_s = cpu_s(server) if server else 0.0
    return time.monotonic(), server_s, cpu_s(status.pid), browser_cpu_s(), status.trades


def cpu_s(pid: int) -> float:
    """CPU seconds of all threads of a process so far, to the nanosecond: clock_getcpuclockid(3)."""
    return time.clock_gettime(~pid << 3 | 2)


def status_of(recorder: Recorder) -> Status:
    status: Status = wait_for(recorder.status, 60)
    return status


@contextmanager
def replayed(tape: Path, speed: float) -> Iterator[str]:
    """The URL of a feed that replays the tape."""
    command = [sys.executable, "-c", _FEED, str(tape), str(speed)]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as feed:
        assert feed.stdout is not None
        try:
            yield feed.stdout.readline().strip()
        finally:
            feed.kill()


@contextmanager
def recording(folder: Path, url: str) -> Iterator[Recorder]:
    """A recorder of all symbols of the tape."""
    Store(folder).prepare()
    deadline_ns = time.time_ns() + 600 * 10**9
    recorder = start_or_attach(ask(folder, url, tuple(SYMBOLS), deadline_ns=deadline_ns), "bench")
    try:
        yield recorder
    finally:
        recorder.stop()
        wait_for(lambda: not recorder.is_alive, 120)


@contextmanager
def dashboard(folder: Path) -> Iterator[tuple["subprocess.Popen[bytes]", str]]:
    """The page of that data folder, once it answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    tape = Path(sys.executable).with_name("tape")
    command = [str(tape), "dashboard", "--data-dir", str(folder), "--port", str(port)]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
        try:
            for _ in range(600):
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5).close()
                    break
                except OSError:
                    time.sleep(0.1)
            yield process, f"http://127.0.0.1:{port}/"
        finally:
            process.terminate()


@contextmanager
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=str(CHROMIUM), args=list(FLAGS))
        yield chromium
        chromium.close()


def browser_cpu_s() -> float:
    """CPU seconds of all our descendants that are Chromium: its processes are not our children."""
    ticks, mine = 0, {os.getpid()}
    stats = [path.read_text() for path in Path("/proc").glob("[0-9]*/stat") if path.exists()]
    found = [(text.split(" ", 1)[0], text[text.index("(") + 1 : text.rindex(")")], text[text.rindex(")") + 2 :].split())
             for text in stats]  # fmt: skip
    for pid, name, fields in sorted(found, key=lambda each: int(each[0])):
        if int(fields[1]) in mine:
            mine.add(int(pid))
            ticks += int(fields[11]) + int(fields[12]) if name.startswith("chrom") else 0
    return ticks / os.sysconf("SC_CLK_TCK")


def table(results: list[Result], options: argparse.Namespace) -> str:
    """The results as Markdown: a row for each number of tabs."""
    lines = [
        "## The web page",
        "",
        f"{options.rate:,} trades/s of {len(SYMBOLS)} symbols, {options.seconds} s; CPU in % of one core; Python"
        f" {platform.python_version()}; aims: server below 10 %, median age below 1 s, first paint below 1.5 s.",
        "",
        "| tabs | server | recorder | browser | age of newest price, p50 / p95 | first paint (CPU) | trades/s | lost |",
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for each in results:
        age, paint = (
            f"{each.age_p50_ms:,.0f} / {each.age_p95_ms:,.0f} ms",
            f"{each.paint_ms:,.0f} ({each.paint_cpu_ms:,.0f}) ms",
        )
        seen = f"{age} | {paint}" if each.tabs else "– | –"
        lines.append(
            f"| {each.tabs or 'no page'} | {each.server_percent:.1f} | {each.recorder_percent:.1f} |"
            f" {each.browser_percent:.0f} | {seen} | {each.trades_per_s:,.0f} | {each.frames_lost:,} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
