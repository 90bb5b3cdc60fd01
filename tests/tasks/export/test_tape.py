"""An export gives back the tape that was recorded."""

import gzip
import random
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest

from tasks.compress.parquet import compress
from tasks.errors import CorruptionError, TerminalError
from tasks.export.tape import export
from tasks.merge.day import merge
from tasks.records.names import BatchName
from tasks.storage.store import Store
from tasks.validate.schema import Limits
from tasks.validate.split import split

SealBatch = Callable[..., BatchName]
T_MS = 1_764_000_000_000
REAL = Path(__file__).parents[4] / "shared" / "tape" / "us-equities-20131007.csv.gz"
HEADER = "ts_event_ms,symbol,price,size,conditions\n"


def archive(store: Store, name: BatchName) -> None:
    split(store, name, Limits(None, None))
    compress(store, name)


def generated(count: int) -> list[str]:
    """The rows of a tape, without line feeds."""
    draw = random.Random(7)
    return [
        f"{T_MS + n // 3},{draw.choice('ABC')},{draw.choice(['1', '1.0', '1e-05', '0.30'])},{draw.randrange(9)},"
        f"{draw.choice(['', '1', '1;13'])}"
        for n in range(count)
    ]


def journal(rows: list[str], connection: int = 1, first_seq: int = 1) -> list[bytes]:
    """Journal lines for a tape's rows, received in that order."""
    lines = []
    for seq, row in enumerate(rows, first_seq):
        milliseconds, rest = row.split(",", 1)
        lines.append(f"{connection},{seq},{(T_MS + seq) * 10**6},{int(milliseconds) * 10**6},{rest}\n".encode())
    return lines


@pytest.mark.parametrize("ending", ["csv", "csv.gz"])
def test_batches_come_back_in_order(store: Store, sealed_batch: SealBatch, tmp_path: Path, ending: str) -> None:
    """Sessions and their batches come back in the order of recording, whatever the order of archiving."""
    rows = generated(90)
    sessions = ["20261124T143000Z-9f3c01ab", "20261125T143000Z-00000000"]
    names = [BatchName(sessions[0], 0, 0), BatchName(sessions[0], 0, 1), BatchName(sessions[1], 0, 0)]
    seqs = [1, 31, 1]
    for index in (2, 0, 1):
        lines = journal(rows[index * 30 : index * 30 + 30], first_seq=seqs[index])
        archive(store, sealed_batch(lines, name=names[index], date=f"2026-11-2{4 + index // 2}"))
    out = tmp_path / f"tape.{ending}"
    assert export(store, out, None) == 90
    text = gzip.decompress(out.read_bytes()) if ending.endswith("gz") else out.read_bytes()
    assert text.decode() == HEADER + "".join(row + "\n" for row in rows)
    assert export(store, out, "2026-11-25") == 30
    assert [path.name for path in tmp_path.glob("*tape*")] == [out.name]
    first = out.read_bytes()
    export(store, out, "2026-11-25")
    assert out.read_bytes() == first


def test_lanes_are_merged(store: Store, sealed_batch: SealBatch, tmp_path: Path) -> None:
    """Trades of several lanes, connections and batches come back by connection and recv_seq."""
    rows = generated(120)
    lines = journal(rows[:80]) + journal(rows[80:], connection=2)
    draw = random.Random(3)
    lane_of = [draw.randrange(3) for _ in lines]
    for lane in range(3):
        mine = [line for line, at in zip(lines, lane_of, strict=True) if at == lane]
        for number, part in enumerate((mine[:9], mine[9:])):
            name = BatchName("20261124T143000Z-9f3c01ab", lane, number)
            archive(store, sealed_batch(part, name=name, lanes=3))
    assert export(store, tmp_path / "tape.csv", None, window_trades=13) == 120
    assert (tmp_path / "tape.csv").read_text() == HEADER + "".join(row + "\n" for row in rows)


@pytest.mark.skipif(not REAL.exists(), reason="the real tape is not beside this checkout")
def test_a_real_tape_comes_back(store: Store, sealed_batch: SealBatch, tmp_path: Path) -> None:
    """The first 60,000 trades of a real day, archived and exported, are equal to the tape row for row."""
    with gzip.open(REAL, "rt") as file:
        rows = [row.rstrip("\n").rsplit(",", 1)[0] for row in islice(file, 1, 60_001)]
    archive(store, sealed_batch(journal(rows)))
    assert export(store, tmp_path / "tape.csv", None) == 60_000
    assert (tmp_path / "tape.csv").read_text().splitlines()[1:] == rows


def test_nothing_archived(store: Store, sealed_batch: SealBatch, tmp_path: Path) -> None:
    """If nothing is archived, at all or for the day, an error says so and no file is written."""
    with pytest.raises(TerminalError, match="nothing is archived"):
        export(store, tmp_path / "out.csv", None)
    archive(store, sealed_batch(journal(generated(3))))
    with pytest.raises(TerminalError, match="2020-01-01"):
        export(store, tmp_path / "out.csv", "2020-01-01")
    assert not (tmp_path / "out.csv").exists()


def test_a_changed_or_missing_file_is_named(store: Store, sealed_batch: SealBatch, tmp_path: Path) -> None:
    """An archived file that does not match its manifest is named, and an older export is untouched."""
    name = sealed_batch(journal(generated(3)))
    archive(store, name)
    out = tmp_path / "out.csv"
    out.write_text("older")
    place = store.manifest_of(name)
    assert place is not None
    path = place.with_name(name.archived)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(CorruptionError, match=path.name):
        export(store, out, None)
    path.unlink()
    with pytest.raises(CorruptionError, match=path.name):
        export(store, out, None)
    assert out.read_text() == "older"


def test_a_place_that_cannot_be_written(store: Store, sealed_batch: SealBatch, tmp_path: Path) -> None:
    """A missing folder raises an error that says so."""
    archive(store, sealed_batch(journal(generated(3))))
    with pytest.raises(TerminalError, match="cannot be written"):
        export(store, tmp_path / "nowhere" / "out.csv", None)


@pytest.mark.parametrize("lanes", [1, 2])
def test_removed_batches_come_back_from_their_day(
    store: Store, sealed_batch: SealBatch, tmp_path: Path, lanes: int
) -> None:
    """A closed day without its batch files gives the same tape byte for byte and leaves nothing behind."""
    session, rows = "20261124T143000Z-9f3c01ab", generated(120)
    for number in range(4):
        lines = journal(rows)[number::4] if lanes > 1 else journal(rows)[number * 30 : number * 30 + 30]
        name = BatchName(session, number % lanes, number // lanes)
        archive(store, sealed_batch(lines, name=name, date="2026-11-24", lanes=4))
    export(store, tmp_path / "before.csv", None)
    merge(store, "finnhub", "2026-11-24")
    for file in [*store.archive.rglob("*.parquet")][: 5 - 2 * lanes]:
        file.unlink()
    assert export(store, tmp_path / "after.csv", None) == 120
    assert (tmp_path / "after.csv").read_bytes() == (tmp_path / "before.csv").read_bytes()
    assert not [*(store.root / "cache").iterdir()]


def test_a_day_that_is_not_what_its_record_says_is_not_exported(
    store: Store, sealed_batch: SealBatch, tmp_path: Path
) -> None:
    """A merged file with a flipped bit is named, and no tape is left."""
    archive(store, sealed_batch(journal(generated(30)), name=BatchName("20261124T143000Z-9f3c01ab", 0, 0)))
    day = merge(store, "finnhub", "2026-11-24")
    assert day is not None
    file = store.day_folder("finnhub", "2026-11-24") / str(day.file)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    next(store.archive.rglob("*.parquet")).unlink()
    with pytest.raises(CorruptionError, match=file.name):
        export(store, tmp_path / "out.csv", None)
    assert not [*tmp_path.glob("*out*")]
