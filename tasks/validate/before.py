"""Reads the rows before a batch: the last minute of valid rows in earlier batches of the same session and lane.

They come from each earlier batch's validated or archived file. Both hold the same rows and never change, so the
result does not depend on when a batch is validated; an earlier batch that is still sealed is validated first
(`split.py`). The search ends at a batch without a local file (removed after its day was merged, or damaged and never
validated): only the rows after it are used.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa

from tasks.archive.encodings import read_groups
from tasks.archive.schema import TEXTS
from tasks.errors import CorruptionError
from tasks.records.manifest import Manifest, read
from tasks.records.names import BatchName
from tasks.records.trade import NS_PER_S
from tasks.storage.store import Store
from tasks.validate.coded import Coded
from tasks.validate.prints import Hashes, Times, hashes

LOOK_BACK_NS = 60 * NS_PER_S
# About a minute of the busiest feeds; these rows are kept in memory together with the batch.
MOST_ROWS = 1_000_000


@dataclass(frozen=True, slots=True)
class RowsBefore:
    """Earlier rows, in order of receipt."""

    hashes: Hashes
    ts_event_ns: Times
    ts_recv_ns: Times


_NONE = RowsBefore(np.empty(0, np.uint64), np.empty(0, np.int64), np.empty(0, np.int64))


def rows_before(store: Store, name: BatchName) -> RowsBefore:
    """Return the rows received in the last `LOOK_BACK_NS` before the batch, counted back from the latest of them."""
    found = _NONE
    for number in range(name.number - 1, -1, -1):
        earlier = _rows_of(store, BatchName(name.session, name.lane, number))
        if earlier is None:
            break
        joined = _joined(earlier, found)
        found = _last(joined)
        if len(found.hashes) < len(joined.hashes):
            break
    return found


def _last(rows: RowsBefore) -> RowsBefore:
    """Return the trailing rows that are recent enough."""
    times = rows.ts_recv_ns
    old = np.flatnonzero(times < times.max(initial=0) - LOOK_BACK_NS)
    start = max(int(old[-1]) + 1 if len(old) else 0, len(times) - MOST_ROWS)
    return RowsBefore(rows.hashes[start:], rows.ts_event_ns[start:], times[start:])


def _rows_of(store: Store, name: BatchName) -> RowsBefore | None:
    """Return the last valid rows of a batch, or None if no local file has them."""
    try:
        if (store.validated / name.report).exists():
            return _read(_validated(store.validated / name.validated))
    except FileNotFoundError:
        pass  # Archived meanwhile: the manifest is written before this file is removed.
    except (CorruptionError, pa.ArrowException):
        return None  # Damaged; its compression reports it.
    return _archived_rows_of(store, name)


def _archived_rows_of(store: Store, name: BatchName) -> RowsBefore | None:
    path = store.manifest_of(name)
    if path is None:
        return None
    try:
        file = read(path, Manifest).file
        return _NONE if file is None else _read(read_groups(path.with_name(file), coded=True, last_rows=MOST_ROWS))
    except (FileNotFoundError, CorruptionError):
        return None  # `tape verify` reports it unless it was removed on purpose.


def _validated(path: Path) -> Iterator[pa.Table]:
    with pa.memory_map(str(path)) as file, pa.ipc.open_stream(file) as stream:
        for batch in stream:
            yield pa.Table.from_batches([batch])


def _read(tables: Iterator[pa.Table]) -> RowsBefore:
    """Return the last rows of these tables, keeping no more of each than could be needed."""
    kept = list[pa.Table]()
    for table in tables:
        kept.append(table)
        while len(kept) > 1 and sum(len(each) for each in kept[1:]) >= MOST_ROWS:
            del kept[0]
    found = _NONE
    for table in reversed(kept):
        joined = _joined(_of_table(table), found)
        found = _last(joined)
        if len(found.hashes) < len(joined.hashes):
            break
    return found


def _of_table(table: pa.Table) -> RowsBefore:
    """Return the rows of a table within the look-back time of its last row, plus one."""
    recv, event = (pl.Series(table[name].cast(pa.int64())).to_numpy() for name in ("ts_recv", "ts_event"))
    old = np.flatnonzero(recv < recv.max(initial=0) - LOOK_BACK_NS)
    # The extra row shows the caller that no earlier rows are needed.
    start = int(old[-1]) if len(old) else 0
    texts = {name: _coded(table[name].slice(start)) for name in TEXTS}
    return RowsBefore(hashes(event[start:], texts), event[start:], recv[start:])


def _coded(column: pa.ChunkedArray) -> Coded:
    joined = column.combine_chunks()
    joined.validate(full=True)  # An index out of range would crash the process.
    return Coded.of_dictionary(joined)


def _joined(first: RowsBefore, then: RowsBefore) -> RowsBefore:
    return RowsBefore(
        np.concatenate([first.hashes, then.hashes]),
        np.concatenate([first.ts_event_ns, then.ts_event_ns]),
        np.concatenate([first.ts_recv_ns, then.ts_recv_ns]),
    )
