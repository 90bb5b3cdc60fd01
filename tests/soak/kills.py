"""Kills recorders at random with `kill -9`, and checks byte by byte what they leave.

    python tests/soak/kills.py [--kills 1000] [--seed S]

One warmed process forks a child for each kill. The child appends blocks of random rows, syncs and seals, as fast as
it can, by hand or as the recorder does (`Lane` and `JournalKeeper`), and tells by a pipe what is synced. It is killed
after a random moment of up to 25 ms; every fourth recovery is killed as well. After half of the kills, what was not
synced is damaged as by a loss of power: cut short, zeroed, or garbled, rows and sums apart. What the files then vouch
for is worked out here, without the recovery's code. Exit status 0 where every law held; the seed is printed first.
"""

import argparse
import hashlib
import json
import os
import random
import signal
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import NoReturn

sys.path.insert(0, str(Path(__file__).parents[2]))

from tasks.capture import keeper as keeping
from tasks.capture.clock import Clock
from tasks.capture.frames import Cut
from tasks.capture.gaps import GapBook
from tasks.capture.journal import Block, Heading, Journal, discard, frames_open, seal
from tasks.capture.lanes import Lane, Received, Router
from tasks.capture.recovery import recover_spool, resume
from tasks.capture.request import CaptureRequest, save_request
from tasks.capture.routes import Routes
from tasks.feeds.base import Rejected
from tasks.feeds.finnhub import Finnhub
from tasks.records.manifest import Seal, read
from tasks.records.names import BatchName
from tasks.records.sessions import GAPS_FILE
from tasks.records.trade import JOURNAL_HEADER, NS_PER_S
from tasks.storage.store import Store

SESSION = "20260102T150405Z-00c0ffee"
SYMBOLS = ("AAPL", "MSFT", "BINANCE:BTCUSDT")
KILL_WITHIN_S = 0.025
SEAL = ".seal.json"
_START_NS = 1_767_366_245 * NS_PER_S


@dataclass(frozen=True, slots=True)
class Piece:
    """One received message: its rows as the journal must have them, its text, and what is rejected in it."""

    ts_recv_ns: int
    first_seq: int
    symbols: list[str]
    rows: list[bytes]
    block: bytes
    message: bytes
    refused: tuple[Rejected, ...]


@dataclass(frozen=True, slots=True)
class Synced:
    """What a child has reported as durable: total rows, and the bytes of each file of batch `number`."""

    rows: int = 0
    number: int = -1
    csv_bytes: int = 0
    sums_bytes: int = 0
    frames_bytes: int = 0


@dataclass(slots=True)
class Figures:
    """The result of a run."""

    kills: int = 0
    torn: int = 0
    within_a_row: int = 0
    cut_bytes: int = 0
    rows: int = 0
    synced: int = 0
    in_a_seal: int = 0
    before_a_sum: int = 0
    recoveries_killed: int = 0
    damaged: int = 0
    took_s: list[float] = field(default_factory=list)


def pieces(chance: random.Random, count: int) -> list[Piece]:
    """Make messages, most with a few rows, some with thousands, because only long writes are torn."""
    found, seq = [], 1
    for number in range(count):
        size = min(20_000, int(chance.lognormvariate(2.5, 1.8)) + 1)
        ts_recv_ns = _START_NS + number * 1_000_000
        symbols = chance.choices(SYMBOLS, k=size)
        rows, said = [], []
        for at, symbol in enumerate(symbols):
            price, volume, time_ms = chance.randrange(10**7), chance.randrange(1, 10**5), 1_767_366_000_000 + at
            rows.append(b"1,%d,%d,%d000000,%s,%d.50,%d,1;12\n"
                        % (seq + at, ts_recv_ns, time_ms, symbol.encode(), price, volume))  # fmt: skip
            said.append(f'{{"c":["1","12"],"p":{price}.50,"s":"{symbol}","t":{time_ms},"v":{volume}}}')
        message = f'{{"data":[{",".join(said)}],"type":"trade"}}'.encode()
        refused = (Rejected("frame", "no message", chance.randbytes(20)),) if chance.random() < 0.3 else ()
        found.append(Piece(ts_recv_ns, seq, symbols, rows, b"".join(rows), message, refused))
        seq += size
    return found


def write_by_hand(store: Store, todo: list[Piece], chance: random.Random, tell: Callable[[Synced], None]) -> None:
    """Append blocks; sometimes sync, and sometimes seal or discard and open the next journal."""
    number = rows = 0
    before: dict[int, tuple[int, int]] = {}
    while todo:
        name = BatchName(SESSION, 0, number)
        heading = Heading(
            batch=str(name), feed="finnhub", date="2026-01-02", symbols=SYMBOLS, lanes=1,
            opened_ns=todo[0].ts_recv_ns, before=dict(before),
        )  # fmt: skip
        journal = Journal(store.spool / SESSION, name, heading)
        at_once, sync_each = chance.choice((1, 1, 50, 400)), chance.choice((0.0, 0.02, 0.1))
        for _ in range(chance.choice((0, 5, 40, 400))):
            if not todo:
                break
            block = Block()
            for piece in todo[:at_once]:
                last_seq = piece.first_seq + len(piece.rows) - 1
                journal.take(1, piece.first_seq, piece.ts_recv_ns, piece.symbols, last_seq)
                block.lines.append(piece.block)
                block.rows += len(piece.rows)
                block.received, block.trade = block.received + 1 + len(piece.refused), block.trade + 1
                block.rejected += [(1, piece.ts_recv_ns, each) for each in piece.refused]
                block.through_ns = piece.ts_recv_ns
                before[1] = (last_seq, piece.ts_recv_ns)
            del todo[:at_once]
            journal.append(block)
            rows += block.rows
            if chance.random() < sync_each:
                journal.sync()
                sums, frames = (store.spool / SESSION / each for each in (name.sums, frames_open(name)))
                tell(Synced(rows, number, journal.bytes, sums.stat().st_size, frames.stat().st_size))
        journal.close()
        if journal.is_empty:
            discard(store, name)
            continue
        seal(store, name, journal.sealed_as(before[1][1], SYMBOLS, ()))
        number += 1
        tell(Synced(rows, number))


def write_as_the_recorder(store: Store, request: CaptureRequest, todo: list[Piece], fail: Callable[..., None]) -> None:
    """Write with the lane's thread while the keeper's thread syncs and seals."""
    keeping._SYNC_EVERY_NS = 2_000_000
    clock = Clock(wall_ns=lambda: _START_NS)
    gaps = GapBook(request.folder / GAPS_FILE)
    keeper = keeping.JournalKeeper(store, lambda: SYMBOLS, gaps, clock, fail, lambda: 0)
    router = Router(
        lambda *_: None, Routes("finnhub", SYMBOLS, 1, request.zone), Finnhub().parser(tuple), lambda *_: None
    )
    lane = Lane(0, request, request.zone, router, keeper, clock, fail)
    keeper.start()
    lane.start()
    for piece in todo:
        cut = Cut([piece.message], [each.payload for each in piece.refused], [])
        lane.queue.put(Received(1, piece.ts_recv_ns, cut, len(piece.message)))
    lane.queue.close()
    lane.join()
    keeper.finish()
    keeper.join()


@dataclass(frozen=True, slots=True)
class Left:
    """One journal's files after a kill: the checksummed part, and the rest."""

    rows: list[bytes]
    cut: bytes
    cut_frames: bytes
    is_known: bool = False


def left_of(store: Store, name: BatchName, damaged: bool) -> Left:
    """Read the three files; a row counts if its block's checksum line is complete and correct."""
    folder = store.spool / SESSION
    journal, frames, sums = (
        path.read_bytes() if path.exists() else b""
        for path in (folder / name.journal, folder / frames_open(name), folder / name.sums)
    )
    if (folder / name.seal).exists():
        whole = journal or (store.sealed / name.sealed).read_bytes()
        return Left(whole.splitlines(keepends=True)[1:], b"", b"")
    if not (folder / name.journal).exists():  # Sealed, and counted there; or discarded.
        return Left([], b"", b"")
    end = frames_end = 0
    for line in sums.split(b"\n")[1:-1] if _is_right(sums.split(b"\n")[0]) else ():
        if damaged and not _is_json(line):
            break
        offset, length, _, crc, *_, frames_bytes, _, frames_crc, _, _ = json.loads(line)
        is_right = (offset, crc) == (end, zlib.crc32(journal[end : end + length])) and end + length <= len(journal)
        if not is_right or frames_bytes > len(frames) or frames_crc != zlib.crc32(frames[:frames_bytes]):
            # Before a line of sums is written, its block is: a kill, unlike a loss of power, cannot leave them apart.
            assert damaged, f"{name}: sums without their rows"
            break
        end, frames_end = end + length, frames_bytes
    rows = journal[:end].splitlines(keepends=True)[1:]
    return Left(rows, journal[end:], frames[frames_end:], is_known=end > 0)


def _is_right(heading: bytes) -> bool:
    text, _, crc = heading.rpartition(b"\t")
    return crc == b"%08x" % zlib.crc32(text)


def _is_json(line: bytes) -> bool:
    with suppress(ValueError):
        return isinstance(json.loads(line), dict | list)
    return False


def judge(
    store: Store, request: CaptureRequest, written: list[bytes], synced: int, damaged: bool, figures: Figures
) -> None:
    """Recover, and compare with the checksummed content. Raises AssertionError."""
    folder = store.spool / SESSION
    sealed_before = {path.name: path.read_bytes() for path in store.sealed.iterdir()}
    names = sorted({BatchName.parse(path.name.lstrip(".")) for path in folder.iterdir()})
    left = {name: left_of(store, name, damaged) for name in names}
    figures.in_a_seal += any((folder / name.seal).exists() or not (folder / name.journal).exists() for name in names)
    figures.before_a_sum += any(not (folder / name.sums).exists() for name in names)
    if figures.kills % 4 == 0:
        killed_in(lambda _: resume(store, request, _START_NS + NS_PER_S), random.Random(figures.kills), 0.004)
        figures.recoveries_killed += 1
    resume(store, request, _START_NS + NS_PER_S)

    sealed = {BatchName.parse(path.name): path.read_bytes() for path in sorted(store.sealed.glob("*.csv"))}
    recovered: list[bytes] = []
    for content in sealed.values():
        assert content.startswith(JOURNAL_HEADER)
        recovered += content[len(JOURNAL_HEADER) :].splitlines(keepends=True)
    assert recovered == written[: len(recovered)], "a row that was not written, torn, doubled or out of order"
    vouched = sum(len(each.rows) for each in left.values())
    vouched += sum(
        content.count(b"\n") - 1
        for file, content in sealed_before.items()
        if file.endswith(".csv") and not left.get(BatchName.parse(file), Left([], b"", b"")).rows
    )
    assert len(recovered) == vouched, f"{len(recovered)} rows recovered, {vouched} had right sums"
    assert len(recovered) >= synced, f"{len(recovered)} rows recovered, {synced} were synced"
    for name, each in left.items():
        for file, cut in ((name.cut, each.cut), (name.cut_frames, each.cut_frames)):
            path = store.quarantine / file
            assert (path.read_bytes() if path.exists() else b"") == cut, f"{file}: not what was cut"
        if each.is_known and (each.cut or each.cut_frames):
            record = read(store.sealed / name.seal, Seal)
            assert record.cut_bytes == len(each.cut) + len(each.cut_frames), (
                f"{name}: its seal does not know of the cut"
            )
        figures.torn += bool(each.cut)
        figures.within_a_row += bool(each.cut) and not each.cut.endswith(b"\n")
        figures.cut_bytes += len(each.cut)
    for name, content in sealed.items():
        _judge_seal(store, name, content)
    assert all((store.sealed / file).read_bytes() == content for file, content in sealed_before.items())
    assert list(folder.iterdir()) == [], f"left in the spool: {list(folder.iterdir())}"

    before = tree(store.root)
    assert recover_spool(store, SESSION, _START_NS + 2 * NS_PER_S, GapBook(request.folder / GAPS_FILE)) == []
    resume(store, request, _START_NS + 2 * NS_PER_S)
    assert tree(store.root) == before, "a second recovery changed something"
    figures.rows += len(recovered)
    figures.synced += synced


def _judge_seal(store: Store, name: BatchName, content: bytes) -> None:
    record = read(store.sealed / name.seal, Seal)
    assert record.rows == content.count(b"\n") - 1
    assert (record.bytes, record.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    assert sum(record.per_symbol.values()) == sum(each.rows for each in record.connections) == record.rows
    assert record.frames.received == record.frames.trade + record.frames.control + record.frames.rejected
    frames = store.quarantine / name.rejected_frames
    assert record.frames.rejected == (frames.read_bytes().count(b"\n") if frames.exists() else 0)
    for file, digest in record.quarantine.items():
        assert hashlib.sha256((store.quarantine / file).read_bytes()).hexdigest() == digest


def tree(root: Path) -> dict[str, bytes]:
    """Return every file below a folder, with its content."""
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def killed_in(work: Callable[[int], object], chance: random.Random, within_s: float) -> bytes:
    """Run this in a forked child, kill it after a random time, and return what it wrote to its pipe."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        _work_until_killed(work, writing)
    os.close(writing)
    time.sleep(chance.uniform(0, within_s))
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    with os.fdopen(reading, "rb") as pipe:
        said = pipe.read()
    assert os.WIFSIGNALED(status), f"the child ended by itself, status {status}: {said.decode()}"
    return said


def _work_until_killed(work: Callable[[int], object], writing: int) -> NoReturn:
    try:
        work(writing)
        while True:
            signal.pause()
    except BaseException as error:
        os.write(writing, repr(error).encode())
    finally:
        os._exit(1)


def one_kill(root: Path, pool: list[Piece], written: list[bytes], chance: random.Random, figures: Figures) -> None:
    """Check one kill of one child in a fresh data folder."""
    store = Store(root).prepare()
    request = CaptureRequest(
        session=SESSION, data_dir=root, feed_url="ws://127.0.0.1:9", symbols=SYMBOLS, started_ns=_START_NS,
        deadline_ns=_START_NS + 60 * NS_PER_S, batch_bytes=chance.choice((20_000, 400_000, 4_000_000)),
    )  # fmt: skip
    save_request(request)
    (store.spool / SESSION).mkdir()
    chance_of_child = random.Random(chance.random())

    def work(writing: int) -> None:
        if figures.kills % 3 == 0:
            write_as_the_recorder(store, request, pool, lambda error: os.write(writing, repr(error).encode()))
        else:
            write_by_hand(store, list(pool), chance_of_child, lambda synced: _tell(writing, synced))

    said = killed_in(work, chance, KILL_WITHIN_S)
    told = [Synced(*map(int, each.split())) for each in said.split(b"\n")[:-1]]
    synced = told[-1] if told else Synced()
    damaged = chance.random() < 0.5 and lose_power(store, synced, chance)
    figures.damaged += damaged
    judge(store, request, written, synced.rows, damaged, figures)


def _tell(writing: int, synced: Synced) -> None:
    os.write(writing, " ".join(map(str, astuple(synced))).encode() + b"\n")


def lose_power(store: Store, synced: Synced, chance: random.Random) -> bool:
    """Damage what the open journal wrote since its last sync, as a power loss could; return whether it had any."""
    folder = store.spool / SESSION
    names = sorted(BatchName.parse(path.name) for path in folder.glob("*.sums"))
    if not names or not (folder / names[-1].journal).exists() or any(SEAL in path.name for path in folder.iterdir()):
        return False  # What is being sealed has been synced.
    mine = names[-1].number == synced.number
    path, kept = chance.choice((
        (folder / names[-1].journal, synced.csv_bytes if mine else 0),
        (folder / names[-1].sums, synced.sums_bytes if mine else 0),
        (folder / frames_open(names[-1]), synced.frames_bytes if mine else 0),
    ))  # fmt: skip
    content = path.read_bytes()
    at = chance.randint(kept, len(content))
    end = chance.randint(at, len(content))
    rest = chance.choice((b"", bytes(end - at) + content[end:], chance.randbytes(end - at) + content[end:]))
    path.write_bytes(content[:at] + rest)
    return True


def run(kills: int, seed: int) -> Figures:
    """Run some kills. Raises AssertionError at the first broken law and keeps that kill's folder."""
    chance = random.Random(seed)
    pool = pieces(chance, 800)
    written = [row for piece in pool for row in piece.rows]
    figures = Figures()
    for _ in range(kills):
        begun_s = time.monotonic()
        root = Path(tempfile.mkdtemp(prefix="tape-kill-"))
        one_kill(root, pool, written, chance, figures)
        figures.kills += 1
        for path in sorted(root.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        root.rmdir()
        figures.took_s.append(time.monotonic() - begun_s)
    return figures


def main() -> None:
    """Run, and print the result."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=None)
    asked = parser.parse_args()
    seed = random.SystemRandom().randrange(1 << 32) if asked.seed is None else asked.seed
    print(f"seed {seed}", flush=True)
    figures = run(asked.kills, seed)
    print(
        f"{figures.kills:,} kills, each {1000 * sum(figures.took_s) / figures.kills:.0f} ms; "
        f"{figures.damaged:,} with a loss of power, {figures.recoveries_killed:,} recoveries killed, too\n"
        f"{figures.torn:,} torn tails ({figures.within_a_row:,} within a row, {figures.cut_bytes:,} bytes, all in "
        f"quarantine); {figures.in_a_seal:,} kills within a seal, {figures.before_a_sum:,} before a journal's sums\n"
        f"{figures.rows:,} rows recovered, each as written; {figures.synced:,} had been synced"
    )


if __name__ == "__main__":
    main()
