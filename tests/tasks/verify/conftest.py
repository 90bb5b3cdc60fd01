"""Small complete sessions on disk, sealed like a capture's, then split and archived by the real stages."""

import hashlib
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from tasks.compress.parquet import compress
from tasks.records.ledger import FrameCounts, Gap, SessionRecord
from tasks.records.manifest import ConnectionRange, Seal, encode
from tasks.records.names import BatchName
from tasks.records.trade import JOURNAL_HEADER
from tasks.storage.store import Store, write_whole
from tasks.validate.schema import Limits
from tasks.validate.split import split

SESSION = "20261124T143000Z-9f3c01ab"
START_NS = 1_795_530_600_000_000_000
REFUSED = (b'{"kind":"frame","reason":"no JSON","raw":"{"}\n', b'{"kind":"trade","reason":"no price","raw":"{}"}\n')

# (connection, recv_seq, symbol, price): a row of a journal.
Row = tuple[int, int, str, str]


def seal_of(name: BatchName, rows: Sequence[Row], lanes: int, before: dict[int, tuple[int, int]]) -> tuple[bytes, Seal]:
    lines, ranges = [JOURNAL_HEADER], dict[int, ConnectionRange]()
    for connection, seq, symbol, price in rows:
        recv_ns = START_NS + connection * 10**12 + seq * 1_000_000
        lines.append(f"{connection},{seq},{recv_ns},{recv_ns - 5_000_000},{symbol},{price},100,1;2\n".encode())
        known = ranges.get(connection)
        before_seq, before_ns = before.get(connection, (0, 0))
        ranges[connection] = replace(known, rows=known.rows + 1, last_seq=seq, last_recv_ns=recv_ns) if known else (
            ConnectionRange(
                connection=connection, rows=1, first_seq=seq, last_seq=seq, first_recv_ns=recv_ns,
                last_recv_ns=recv_ns, before_seq=before_seq, before_recv_ns=before_ns,
            )
        )  # fmt: skip
    content = b"".join(lines)
    before.update({each.connection: (each.last_seq, each.last_recv_ns) for each in ranges.values()})
    return content, Seal(
        batch=str(name), feed="finnhub", date="2026-11-24", symbols=("AAPL", "MSFT"), lanes=lanes,
        opened_ns=START_NS + name.number, sealed_ns=START_NS + name.number + 1, rows=len(rows), bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        frames=FrameCounts(received=len(rows) + 2, trade=len(rows), control=1, rejected=1), trades_refused=1,
        connections=tuple(ranges.values()), per_symbol=dict(Counter(row[2] for row in rows)),
        quarantine={name.rejected_frames: hashlib.sha256(b"".join(REFUSED)).hexdigest()},
    )  # fmt: skip


def plain_rows() -> list[list[Row]]:
    """Three batches of one lane over two connections; every seventh price is invalid."""
    numbers = [(1, seq) for seq in range(1, 41)] + [(2, seq) for seq in range(1, 21)]
    rows = [
        (connection, seq, ("AAPL", "MSFT")[seq % 2], "-1" if seq % 7 == 0 else f"{100 + seq}.50")
        for connection, seq in numbers
    ]
    return [rows[:20], rows[20:45], rows[45:]]


@pytest.fixture(scope="session")
def plain_session(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The session of `plain_rows`, archived once for all tests, which must not change it."""
    return _build(Store(tmp_path_factory.mktemp("plain") / "data").prepare())


@pytest.fixture
def recorded(store: Store, plain_session: Store) -> Callable[..., Store]:
    """Puts one session of batches into `store`: `recorded(lanes=[[rows, …], …], archived=True, record={…})`."""

    def build(*lanes: Any, **changes: Any) -> Store:
        if lanes or changes:
            return _build(store, *lanes, **changes)
        shutil.copytree(plain_session.root, store.root, dirs_exist_ok=True)
        return store

    return build


def _build(
    store: Store, lanes: Iterable[Sequence[Sequence[Row]]] | None = None, *, archived: bool = True,
    seal_changes: Any = None, record_changes: dict[str, Any] | None = None,
) -> Store:  # fmt: skip
    per_lane = [list(lane) for lane in (lanes if lanes is not None else [plain_rows()])]
    seals = []
    for lane, batches in enumerate(per_lane):
        before: dict[int, tuple[int, int]] = {}
        for number, rows in enumerate(batches):
            name = BatchName(SESSION, lane, number)
            content, seal = seal_of(name, rows, len(per_lane), before)
            seal = replace(seal, **(seal_changes or {}).get((lane, number), {}))
            write_whole(store.quarantine / name.rejected_frames, b"".join(REFUSED))
            write_whole(store.sealed / name.sealed, content)
            write_whole(store.sealed / name.seal, encode(seal))
            seals.append(seal)
    record = SessionRecord(
        session=SESSION, feed="finnhub", symbols=("AAPL", "MSFT"), started_ns=START_NS, listening_ns=START_NS,
        ended_ns=START_NS + 10**13, deadline_ns=START_NS + 10**13, outcome="complete", error=None, connections=2,
        frames_received=sum(seal.frames.received for seal in seals),
        batches=tuple(len(batches) for batches in per_lane),
        gaps=(Gap(symbols=("AAPL", "MSFT"), start_ns=START_NS, end_ns=START_NS + 10**9, reason="cut"),),
    )  # fmt: skip
    folder = store.sessions / SESSION
    folder.mkdir(exist_ok=True)
    write_whole(folder / "session.json", encode(replace(record, **(record_changes or {}))))
    for name in store.sealed_batches() if archived else ():
        split(store, name, Limits(None, None))
        compress(store, name)
    return store
