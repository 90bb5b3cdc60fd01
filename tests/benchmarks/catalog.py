"""Measures listing a year of archive: `tape ls`, and the search for waiting batches.

    python tests/benchmarks/catalog.py [--days 250] [--batches 80] [--symbols 50] [--repeats 3] [--json]

One batch is recorded, archived and merged by the project's own engines; the year is that batch under other names and
dates, each with its manifest and receipt, in one session and one closed day for each date. Of days older than
`--keep-days` the batch files were removed. Each way is a fresh process: `tape ls` as the whole command, and what
`archive-batches` asks each quarter of an hour, without the imports. `first` is the one after everything was copied,
`again` the median of those that follow, `one more` that with a batch that came since. Prints Markdown.
"""

import argparse
import datetime as dt
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

from query import write_day  # noqa: E402

from tasks.records.ledger import SessionRecord  # noqa: E402
from tasks.records.manifest import Day, Manifest, ObjectReceipt, Receipt, Removed, encode, read  # noqa: E402
from tasks.records.names import BatchName  # noqa: E402
from tasks.storage.store import Store  # noqa: E402

FEED, BUCKET, ENDPOINT, PREFIX = "finnhub", "tape", "http://127.0.0.1:9", "trades"
ROWS, DAY_NS = 2_000, 86_400_000_000_000
# So long after the last change a file's times can be trusted to tell the next.
SETTLES_S = 3.0


@dataclass(frozen=True, slots=True)
class Original:
    """The batch and the day that were made by the engines, and where their files lie."""

    manifest: Manifest
    file: Path
    day: Day
    day_file: Path


def original(folder: Path, symbols: int) -> Original:
    """One real batch, archived and merged in a data folder of its own."""
    day_file = write_day(folder, ROWS, symbols)
    path = Store(folder).manifests()[0]
    manifest = read(path, Manifest)
    day = read(next(day_file.parent.glob("_*.day.json")), Day)
    return Original(manifest, path.with_name(str(manifest.file)), day, day_file)


def trading_dates(count: int) -> list[dt.date]:
    """Return this many weekdays, ending a few days ago."""
    today = dt.datetime.now(dt.UTC).date()
    dates = (today - dt.timedelta(days=back) for back in range(3, 2 * count + 9))
    return sorted([each for each in dates if each.weekday() < 5][:count])


def make_year(store: Store, made: Original, days: int, batches: int, keep_days: int) -> None:
    """Make closed, fully uploaded days with this many batches each."""
    dates = trading_dates(days)
    for number, date in enumerate(dates):
        session = f"{date:%Y%m%d}T143000Z-{number:08x}"
        manifests = [clone(made.manifest, BatchName(session, 0, each), date) for each in range(batches)]
        for manifest in manifests:
            put_batch(store, made, manifest, kept=number >= len(dates) - keep_days)
        put_day(store, made, manifests)
        put_session(store, session, manifests)


def clone(manifest: Manifest, name: BatchName, date: dt.date) -> Manifest:
    """That manifest as one of another batch and date, at the time of day that its number gives."""
    first = dt.date.fromisoformat(manifest.seal.date)
    shift_ns = (date - first).days * DAY_NS + name.number * 300_000_000_000
    seal = manifest.seal
    moved = {key: getattr(manifest, key) + shift_ns
             for key in ("first_event_ns", "last_event_ns", "first_recv_ns", "last_recv_ns")}  # fmt: skip
    seal = replace(
        seal, batch=str(name), date=date.isoformat(), opened_ns=seal.opened_ns + shift_ns,
        sealed_ns=seal.sealed_ns + shift_ns,
    )  # fmt: skip
    return replace(manifest, batch=str(name), file=name.archived, seal=seal, **moved)


def put_batch(store: Store, made: Original, manifest: Manifest, *, kept: bool, uploaded: bool = True) -> None:
    """The batch's file, or why it was removed; its manifest, and its receipt."""
    folder, name = store.archive_folder(FEED, manifest.seal.date), BatchName.parse(manifest.batch)
    folder.mkdir(parents=True, exist_ok=True)
    if kept:
        shutil.copyfile(made.file, folder / str(manifest.file))
    else:
        gone = Removed(
            batch=manifest.batch, file=str(manifest.file), removed_ns=time.time_ns(), why="merged", held_in=("days",)
        )
        (folder / name.removed).write_bytes(encode(gone))
    (folder / name.manifest).write_bytes(content := encode(manifest))
    if uploaded:
        key = f"{PREFIX}/feed={FEED}/date={manifest.seal.date}"
        file = acknowledged(f"{key}/{manifest.file}", manifest.bytes, manifest.sha256)
        record = acknowledged(f"{key}/{name.manifest}", len(content), sha256(content).hexdigest())
        (folder / name.receipt).write_bytes(encode(receipt_of(manifest.batch, file, record)))


def put_day(store: Store, made: Original, manifests: list[Manifest]) -> None:
    """The day's file, its record and its receipt."""
    date = manifests[0].seal.date
    folder = store.day_folder(FEED, date)
    folder.mkdir(parents=True)
    made_of = sha256("\n".join(f"{each.batch} {each.sha256}" for each in manifests).encode()).hexdigest()
    day = replace(made.day, date=date, file=f"{date}-{made_of[:12]}.parquet", batches=tuple(manifests),
                  rows=sum(each.rows for each in manifests))  # fmt: skip
    shutil.copyfile(made.day_file, folder / str(day.file))
    (folder / f"_{date}.day.json").write_bytes(content := encode(day))
    key, stem = f"{PREFIX}-by-day/feed={FEED}/date={date}", Path(str(day.file)).stem
    file = acknowledged(f"{key}/{day.file}", day.bytes, day.sha256)
    record = acknowledged(f"{key}/_{stem}.day.json", len(content), sha256(content).hexdigest())
    (folder / f"_{date}.receipt.json").write_bytes(encode(receipt_of(stem, file, record)))


def put_session(store: Store, session: str, manifests: list[Manifest]) -> None:
    """The record of the session that recorded these batches, and its receipt."""
    folder = store.sessions / session
    folder.mkdir(parents=True)
    seals = [each.seal for each in manifests]
    record = SessionRecord(
        session=session, feed=FEED, symbols=seals[0].symbols, started_ns=seals[0].opened_ns,
        listening_ns=seals[0].opened_ns, ended_ns=seals[-1].sealed_ns, deadline_ns=seals[-1].sealed_ns,
        outcome="complete", error=None, connections=1, frames_received=sum(each.frames.received for each in seals),
        batches=(len(seals),), gaps=(),
    )  # fmt: skip
    (folder / "session.json").write_bytes(content := encode(record))
    sent = acknowledged(f"{PREFIX}/_sessions/{session}/session.json", len(content), sha256(content).hexdigest())
    (folder / "receipt.json").write_bytes(encode(receipt_of(session, None, sent)))


def acknowledged(key: str, size: int, digest: str) -> ObjectReceipt:
    return ObjectReceipt(key=key, bytes=size, sha256=digest, etag="e", version=None, checked="sha256")


def receipt_of(name: str, file: ObjectReceipt | None, record: ObjectReceipt) -> Receipt:
    return Receipt(
        batch=name, bucket=BUCKET, endpoint=ENDPOINT, uploaded_ns=time.time_ns(), object=file, manifest=record
    )


def look_for_what_waits(folder: Path) -> None:
    """The questions of `archive-batches`, as its flow asks them; prints what was found, and how long it took."""
    from flows.archive_batches import days_left, sessions_left, waiting
    from flows.settings import load_settings

    settings = load_settings(data_dir=folder, s3_bucket=BUCKET, s3_endpoint_url=ENDPOINT, s3_prefix=PREFIX)
    start_s = time.perf_counter()
    found = len(waiting(Store(folder), settings)), len(sessions_left(settings)), len(days_left(settings))
    print(json.dumps({"found": found, "wall_s": time.perf_counter() - start_s}))


def list_all(folder: Path) -> tuple[str, float]:
    """What `tape ls` says of how many days and sessions, and its wall time."""
    command = [sys.executable, "-m", "tape.cli.app", "ls", "--json", "--data-dir", str(folder)]
    start_s = time.perf_counter()
    said = json.loads(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout)
    wall_s = time.perf_counter() - start_s
    batches = sum(each["batches"] for each in said["days"])
    assert all(each["balances"] for each in said["sessions"])
    return f"{len(said['days']):,} days, {batches:,} batches", wall_s


def look(folder: Path) -> tuple[str, float]:
    """Find the waiting batches in a fresh process, and measure the time."""
    command = [sys.executable, __file__, "--look", str(folder)]
    said = json.loads(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout)
    return "{} batches, {} sessions, {} days wait".format(*said["found"]), said["wall_s"]


WAYS = {"`tape ls`, the whole command": list_all, "what waits for upload, the function": look}


def measure(store: Store, made: Original, repeats: int) -> list[dict[str, Any]]:
    """Each way: the first time, the times after that, and with one batch more."""
    found: list[dict[str, Any]] = []
    for way, run in WAYS.items():
        shutil.rmtree(store.root / "cache", ignore_errors=True)
        _, first_s = run(store.root)
        said, again_s = "", []
        for _ in range(repeats):
            said, wall_s = run(store.root)
            again_s.append(wall_s)
        found.append({"way": way, "said": said, "first_s": first_s, "again_s": statistics.median(again_s)})
    newest = read(store.manifests()[-1], Manifest)
    name = replace(BatchName.parse(newest.batch), number=BatchName.parse(newest.batch).number + 1)
    date = dt.date.fromisoformat(newest.seal.date)
    put_batch(store, made, clone(made.manifest, name, date), kept=True, uploaded=False)
    record_path = store.sessions / name.session / "session.json"
    record = read(record_path, SessionRecord)
    record_path.write_bytes(encode(replace(record, batches=(record.batches[0] + 1,))))
    for each in found:
        each["more"], each["more_s"] = WAYS[each["way"]](store.root)
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--days", type=int, default=250)
    parser.add_argument("--batches", type=int, default=80)
    parser.add_argument("--symbols", type=int, default=50)
    parser.add_argument("--keep-days", type=int, default=30)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--look", type=Path)
    options = parser.parse_args()
    if options.look:
        look_for_what_waits(options.look)
        return
    with tempfile.TemporaryDirectory() as place:
        made = original(Path(place) / "one", options.symbols)
        store = Store(Path(place) / "year").prepare()
        make_year(store, made, options.days, options.batches, options.keep_days)
        time.sleep(SETTLES_S)
        results = measure(store, made, options.repeats)
    if options.json:
        print(json.dumps(results))
        return
    print(f"## What there is, of {options.days:,} days of {options.batches:,} batches of {options.symbols} symbols\n")
    print(f"{platform.machine()}, {os.cpu_count()} cores; all closed and uploaded, batch files of the last "
          f"{options.keep_days} days kept; median of {options.repeats}\n")  # fmt: skip
    print("| way | answer | first, s | again, s | one more batch | s |\n|---|---|---|---|---|---|")
    for row in results:
        print(f"| {row['way']} | {row['said']} | {row['first_s']:.2f} | {row['again_s']:.2f} | {row['more']} "
              f"| {row['more_s']:.2f} |")  # fmt: skip


if __name__ == "__main__":
    main()
