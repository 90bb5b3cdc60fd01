"""Reads what came before a batch: the last minute of the valid rows of the session's and lane's earlier batches.

The rows are taken from the validated or archived file of each earlier batch, whichever is there; both hold the same
rows and never change, so whenever a batch is validated it is compared with the same rows. For that an earlier batch
that is still sealed is validated first (`split.py`). A batch that is no longer here (its day was merged and its file
removed, or it could not be validated because it is damaged) ends the search: the batch is then compared with what
came after it.
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
# As many as a minute of the busiest feeds has; more would be kept in memory beside the batch.
MOST_ROWS = 1_000_000


@dataclass(frozen=True, slots=True)
class RowsBefore:
    """Earlier rows, in order of receipt."""

    hashes: Hashes
    ts_event_ns: Times
    ts_recv_ns: Times


_NONE = RowsBefore(np.empty(0, np.uint64), np.empty(0, np.int64), np.empty(0, np.int64))


def rows_before(store: Store, name: BatchName) -> RowsBefore:
    """The rows that came within `LOOK_BACK_NS` before the last one before that batch."""
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
    """The rows after the last one that came too long ago."""
    times = rows.ts_recv_ns
    old = np.flatnonzero(times < times.max(initial=0) - LOOK_BACK_NS)
    start = max(int(old[-1]) + 1 if len(old) else 0, len(times) - MOST_ROWS)
    return RowsBefore(rows.hashes[start:], rows.ts_event_ns[start:], times[start:])


def _rows_of(store: Store, name: BatchName) -> RowsBefore | None:
    """The last valid rows of that batch, None where they are not here."""
    try:
        if (store.validated / name.report).exists():
            return _read(_validated(store.validated / name.validated))
    except FileNotFoundError:
        pass  # Archived meanwhile: the manifest is written before this file is removed.
    except (CorruptionError, pa.ArrowException):
        return None  # Its compression says so.
    return _archived_rows_of(store, name)


def _archived_rows_of(store: Store, name: BatchName) -> RowsBefore | None:
    path = store.manifest_of(name)
    if path is None:
        return None
    try:
        file = read(path, Manifest).file
        return _NONE if file is None else _read(read_groups(path.with_name(file), coded=True, last_rows=MOST_ROWS))
    except (FileNotFoundError, CorruptionError):
        return None  # `tape verify` says so, where it was not removed on purpose.


def _validated(path: Path) -> Iterator[pa.Table]:
    with pa.memory_map(str(path)) as file, pa.ipc.open_stream(file) as stream:
        for batch in stream:
            yield pa.Table.from_batches([batch])


def _read(tables: Iterator[pa.Table]) -> RowsBefore:
    """The last rows of these tables: of each only what could be needed is kept."""
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
    """The rows of a table that came within the time before its last one, and a few more."""
    recv, event = (pl.Series(table[name].cast(pa.int64())).to_numpy() for name in ("ts_recv", "ts_event"))
    old = np.flatnonzero(recv < recv.max(initial=0) - LOOK_BACK_NS)
    # One row more, so that whoever joins tables sees that no more are needed.
    start = int(old[-1]) if len(old) else 0
    texts = {name: _coded(table[name].slice(start)) for name in TEXTS}
    return RowsBefore(hashes(event[start:], texts), event[start:], recv[start:])


def _coded(column: pa.ChunkedArray) -> Coded:
    joined = column.combine_chunks()
    joined.validate(full=True)  # An index beyond the texts would end the process.
    return Coded.of_dictionary(joined)


def _joined(first: RowsBefore, then: RowsBefore) -> RowsBefore:
    return RowsBefore(
        np.concatenate([first.hashes, then.hashes]),
        np.concatenate([first.ts_event_ns, then.ts_event_ns]),
        np.concatenate([first.ts_recv_ns, then.ts_recv_ns]),
    )
