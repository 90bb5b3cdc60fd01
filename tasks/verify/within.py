"""How many trades of one batch were received in a stretch of time?"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pyarrow as pa

from tasks.archive import read_groups
from tasks.store import Store
from tasks.verify.standing import Standing


def trades_between(store: Store, batch: Standing, start_ns: int, end_ns: int) -> Counter[str]:
    """The trades of a batch by symbol whose `ts_recv` (UTC ns) is in [start_ns, end_ns).

    Its rows are read only where some lie outside; of a batch whose file was removed since, all count.
    Raises CorruptionError where the file cannot be read.
    """
    ranges = batch.seal.connections
    if not any(each.first_recv_ns < end_ns and each.last_recv_ns >= start_ns for each in ranges):
        return Counter()
    whole = batch.report.per_symbol if batch.report is not None else batch.seal.per_symbol
    if all(start_ns <= each.first_recv_ns and each.last_recv_ns < end_ns for each in ranges):
        return Counter(whole)
    counts: Counter[str] = Counter()
    try:
        for symbols, times_ns in _rows(store, batch):
            counts.update(symbols.filter((times_ns >= start_ns) & (times_ns < end_ns)).to_list())
    except FileNotFoundError:
        return Counter(whole)
    return counts


def _rows(store: Store, batch: Standing) -> Iterator[tuple[pl.Series, pl.Series]]:
    """Symbol and receive time (UTC ns) of each row, part by part."""
    if batch.manifest is not None:
        if batch.manifest.file is not None:
            for table in read_groups(batch.record.with_name(batch.manifest.file)):
                yield _series(table["symbol"], pa.string()), _series(table["ts_recv"], pa.int64())
        return
    if batch.report is not None:
        yield from _validated(store.validated / batch.name.validated)
        return
    frame = pl.read_csv(
        store.sealed / batch.name.sealed, quote_char=None, infer_schema=False, encoding="utf8-lossy",
        columns=["symbol", "ts_recv"], truncate_ragged_lines=True,
    )  # fmt: skip
    yield frame["symbol"], frame["ts_recv"].cast(pl.Int64, strict=False).fill_null(0)


def _validated(path: Path) -> Iterator[tuple[pl.Series, pl.Series]]:
    if path.exists():  # Of a batch without a valid row there is none.
        frame = pl.read_ipc(path, columns=["symbol", "ts_recv"])
        yield frame["symbol"].cast(pl.String), frame["ts_recv"].cast(pl.Int64)


def _series(column: pa.ChunkedArray, kind: pa.DataType) -> pl.Series:
    return pl.Series(pl.from_arrow(column.cast(kind)))
