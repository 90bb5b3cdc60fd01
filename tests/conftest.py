"""What many tests start from."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tasks.batch import BatchName
from tasks.ledger import FrameCounts
from tasks.manifest import ConnectionRange, Seal, encode
from tasks.store import Store, write_whole
from tasks.trade import JOURNAL_HEADER

SealBatch = Callable[..., BatchName]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty data folder."""
    return Store(tmp_path / "data").prepare()


@pytest.fixture
def sealed_batch(store: Store) -> SealBatch:
    """Puts a sealed batch into `store`, as a capture leaves it: `sealed_batch(lines, …) -> BatchName`.

    `lines` are the journal's lines as bytes with their line feeds; `header` replaces the journal's. The seal's
    symbols and connections are those that the readable lines name, unless `symbols` or `connections` are given.
    """

    def seal(
        lines: Sequence[bytes],
        *,
        name: BatchName | None = None,
        symbols: Sequence[str] | None = None,
        connections: Sequence[ConnectionRange] | None = None,
        lanes: int = 1,
        feed: str = "finnhub",
        date: str = "2026-11-24",
        header: bytes = JOURNAL_HEADER,
        **changes: object,
    ) -> BatchName:
        name = name or BatchName("20261124T143000Z-9f3c01ab", 0, 0)
        content = header + b"".join(lines)
        rows = [line.decode("utf-8", "replace").rstrip("\n").split(",") for line in lines]
        known = tuple(_ranges(rows) if connections is None else connections)
        facts: dict[str, object] = {
            "batch": str(name),
            "feed": feed,
            "date": date,
            "symbols": tuple(sorted({row[4] for row in rows if len(row) == 8}) if symbols is None else symbols),
            "lanes": lanes,
            "opened_ns": 0,
            "sealed_ns": 0,
            "rows": len(lines),
            "bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
            "frames": FrameCounts(received=len(lines), trade=len(lines)),
            "trades_refused": 0,
            "connections": known,
            "per_symbol": {},
        }
        write_whole(store.sealed / name.sealed, content)
        write_whole(store.sealed / name.seal, encode(Seal(**{**facts, **changes})))  # type: ignore[arg-type]
        return name

    return seal


def _ranges(rows: list[list[str]]) -> list[ConnectionRange]:
    """The ranges of lines that are numbered as a capture numbers them, each connection from its first line on."""
    numbers: dict[int, list[tuple[int, int]]] = {}
    for row in rows:
        if len(row) == 8 and all(field.isascii() and field.isdigit() for field in row[:3]):
            numbers.setdefault(int(row[0]), []).append((int(row[1]), int(row[2])))
    return [
        ConnectionRange(
            connection=connection,
            rows=len(pairs),
            first_seq=pairs[0][0],
            last_seq=pairs[-1][0],
            first_recv_ns=pairs[0][1],
            last_recv_ns=pairs[-1][1],
            before_seq=pairs[0][0] - 1,
            before_recv_ns=0,
        )
        for connection, pairs in sorted(numbers.items())
        if connection < 1 << 31
    ]
