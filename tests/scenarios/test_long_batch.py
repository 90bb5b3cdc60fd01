"""A batch of five million rows is archived in bounded memory, and gives its journal back."""

import hashlib
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from journal_hash import journal_sha256

from tasks.records.ledger import FrameCounts
from tasks.records.manifest import ConnectionRange, Manifest, Seal, encode, read
from tasks.records.names import BatchName
from tasks.storage.store import Store, write_whole

NAME = BatchName("20261124T143000Z-9f3c01ab", 0, 0)
ROWS = 5_000_000
START_NS = 1_795_530_600_000_000_000
SYMBOLS = [f"S{number:02d}" for number in range(100)]
STEP = """
import sys
from pathlib import Path
from tasks.records.names import BatchName
from tasks.storage.store import Store

store, name = Store(Path(sys.argv[2])), BatchName.parse(sys.argv[3])
if sys.argv[1] == "split":
    from tasks.validate.split import Limits, split
    split(store, name, Limits(86_400_000_000_000, 60_000_000_000))
else:
    from tasks.compress.parquet import compress
    compress(store, name)
print(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
"""


def seal(store: Store) -> Seal:
    """Put the batch into `sealed/`; every fiftieth price is invalid."""
    row = pl.int_range(ROWS, eager=True)
    cents = 10_000 + (row // 7) % 900
    journal = store.sealed / NAME.sealed
    pl.DataFrame({"connection": pl.repeat(1, ROWS, eager=True), "recv_seq": row + 1}).with_columns(
        ts_recv=START_NS + row * 4_000_000 + 30_000_001,
        ts_event=START_NS + row * 4_000_000,
        symbol=pl.Series(SYMBOLS).gather((row * 37) % 100),
        price=pl.when(row % 50 == 49).then(pl.lit("-1")).otherwise((cents / 100).cast(pl.String)),
        size=(row % 700).cast(pl.String),
        conditions=pl.when(row % 3 == 0).then(pl.lit("1;12")).otherwise(pl.lit("")),
    ).write_csv(journal, quote_style="never")
    with journal.open("rb") as content:
        sha256 = hashlib.file_digest(content, "sha256").hexdigest()
    first_ns, last_ns = START_NS + 30_000_001, START_NS + (ROWS - 1) * 4_000_000 + 30_000_001
    record = Seal(
        batch=str(NAME), feed="finnhub", date="2026-11-24", symbols=tuple(SYMBOLS), lanes=1, opened_ns=START_NS,
        sealed_ns=last_ns, rows=ROWS, bytes=journal.stat().st_size, sha256=sha256, frames=FrameCounts(),
        trades_refused=0, per_symbol=dict.fromkeys(SYMBOLS, ROWS // 100),
        connections=(
            ConnectionRange(
                connection=1, rows=ROWS, first_seq=1, last_seq=ROWS, first_recv_ns=first_ns, last_recv_ns=last_ns
            ),
        ),
    )  # fmt: skip
    write_whole(store.sealed / NAME.seal, encode(record))
    return record


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells a process's peak memory so")
def test_five_million_rows(store: Store) -> None:
    """Validate and compress stay below 800 MB, no row is lost, and both parts rebuild the journal."""
    record = seal(store)
    for step in ("split", "compress"):
        command = [sys.executable, "-c", STEP, step, str(store.root), str(NAME)]
        printed = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True)
        assert int(printed.stdout) * 1024 < 800_000_000, step
    path = store.manifest_of(NAME)
    assert path is not None
    manifest = read(path, Manifest)
    assert (manifest.rows, manifest.report.reasons) == (ROWS * 49 // 50, {"price": ROWS // 50})
    assert sum(manifest.report.per_symbol.values()) == manifest.rows
    rejected = store.quarantine / NAME.rejected_rows
    assert journal_sha256(path.with_name(str(manifest.file)), rejected) == record.sha256
