"""Counts the trades of a session that were received while a request asked for them, at whatever stage they are.

Trades count once they are journaled: every row before validation, and every valid row after it.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from tasks.archive.catalog import Batch, Catalog
from tasks.archive.encodings import read_groups
from tasks.archive.side_records import missing_rows_error
from tasks.errors import CorruptionError
from tasks.records.names import BatchName
from tasks.spans import Spans
from tasks.storage.store import Store
from tasks.verify.rows import Rows

_LOOKS = 5
Asked = Mapping[str, Spans]


def trades_within(store: Store, session: str, asked: Asked, rows: Rows) -> Counter[str]:
    """Count the session's trades by symbol whose `ts_recv` (UTC ns) is in the time requested for that symbol.

    Only batches that are partly within that time are read. Raises CorruptionError if a file cannot be read, and
    TerminalError if the rows of such a batch are only in the bucket.
    """
    found = Counter[str]()
    for counted in _by_batch(store, session, asked, rows):
        found.update(counted)
    return found


def _by_batch(store: Store, session: str, asked: Asked, rows: Rows) -> Iterator[Mapping[str, int]]:
    # Journals first: one that is sealed in the meantime appears again as a batch, and counts only as that.
    journals = _journals(store, session)
    names = _recorded(store, session)
    yield from (_within(frame, asked) for name, frame in journals.items() if name not in names)
    for name in sorted(names):
        batch = Catalog(store).batch(name)
        first_ns, last_ns, per_symbol = _said(batch)
        wanted = {symbol: spans for symbol, spans in asked.items() if symbol in per_symbol}
        inside = {symbol for symbol, spans in wanted.items() if _all_in(spans, first_ns, last_ns)}
        yield {symbol: per_symbol[symbol] for symbol in inside}
        partly = {s: spans for s, spans in wanted.items() if s not in inside and _any_in(spans, first_ns, last_ns)}
        if partly:
            yield _read(store, batch, partly, rows)


def _journals(store: Store, session: str) -> dict[BatchName, pl.DataFrame]:
    """Read the rows of journals without a seal: in the spool, or moved and about to be sealed."""
    found: dict[BatchName, pl.DataFrame] = {}
    for path in (*store.spool.glob(f"{session}/*.csv.open"), *store.sealed.glob(f"{session}-*.csv")):
        name = BatchName.parse(path.name)
        if not (store.sealed / name.seal).exists():
            with suppress(FileNotFoundError):  # It moved to the next stage.
                found[name] = _journal_rows(path)
    return found


def _recorded(store: Store, session: str) -> set[BatchName]:
    """Return the session's batches that have a record, searched in the order of the stages."""
    paths = [*store.sealed.glob(f"{session}-*.seal.json"), *store.validated.glob(f"{session}-*.report.json")]
    return {BatchName.parse(path.name) for path in (*paths, *store.manifests(session=session))}


def _read(store: Store, batch: Batch, asked: Asked, rows: Rows) -> dict[str, int]:
    """Read a batch and count the rows that were requested."""
    for _ in range(_LOOKS):
        found = Counter[str]()
        try:
            for frame in _rows_of(store, batch, rows):
                found.update(_within(frame, asked))
        except FileNotFoundError:
            batch = Catalog(store).batch(batch.name)  # It moved to the next stage while it was read.
        else:
            return found
    raise CorruptionError(f"{batch.record}: the rows of {batch.name} are not beside it; run `tape verify`")


def _said(batch: Batch) -> tuple[int, int, dict[str, int]]:
    """Return the first and last receive time of a batch's rows, and the rows per symbol (valid ones once known).

    The seal's times cover all rows, and so the valid ones too.
    """
    ranges = batch.seal.connections
    per_symbol = batch.report.per_symbol if batch.report is not None else batch.seal.per_symbol
    if not ranges:
        return 0, 0, {}
    return min(each.first_recv_ns for each in ranges), max(each.last_recv_ns for each in ranges), per_symbol


def _all_in(spans: Spans, first_ns: int, last_ns: int) -> bool:
    return any(start <= first_ns and last_ns < end for start, end in spans)


def _any_in(spans: Spans, first_ns: int, last_ns: int) -> bool:
    return any(start <= last_ns and first_ns < end for start, end in spans)


def _within(frame: pl.DataFrame, asked: Asked) -> dict[str, int]:
    """Count the rows of a frame (symbol, ts_recv) in the requested time, by symbol."""
    found = {}
    for (symbol,), rows in frame.filter(pl.col("symbol").is_in(list(asked))).group_by("symbol"):
        times_ns = np.sort(rows["ts_recv"].to_numpy())
        found[str(symbol)] = sum(
            int(np.searchsorted(times_ns, end) - np.searchsorted(times_ns, start)) for start, end in asked[str(symbol)]
        )
    return found


def _rows_of(store: Store, batch: Batch, rows: Rows) -> Iterable[pl.DataFrame]:
    """Yield symbol and ts_recv (UTC ns) of a batch's rows at whatever stage it is; valid ones once known."""
    if batch.manifest is not None:
        found = rows.of(batch, batch.manifest)
        if found.said:
            raise CorruptionError(f"{found.said[0].file}: {found.said[0].message}")
        if found.readable is None:
            raise missing_rows_error(batch.record, batch.manifest)
        return map(_columns, read_groups(found.readable))
    if batch.report is not None:
        return _validated(store.validated / batch.name.validated)
    return [_journal_rows(store.sealed / batch.name.sealed)]


def _validated(path: Path) -> Iterator[pl.DataFrame]:
    try:
        with pa.OSFile(str(path)) as file, pa.ipc.open_stream(file) as stream:
            for part in stream:
                yield _columns(pa.Table.from_batches([part]))
    except pa.ArrowException as error:
        said = " ".join(str(error).split())[:200]
        raise CorruptionError(f"{path}: cannot be read ({said}); restore it from a copy") from error


def _columns(table: pa.Table) -> pl.DataFrame:
    times = pc.cast(table["ts_recv"], pa.int64())
    frame = pl.from_arrow(pa.table({"symbol": table["symbol"].cast(pa.large_string()), "ts_recv": times}))
    assert isinstance(frame, pl.DataFrame)  # noqa: S101 - a table always gives a frame
    return frame


def _journal_rows(path: Path) -> pl.DataFrame:
    """Read symbol and ts_recv of a journal's complete lines."""
    content = path.read_bytes()
    header, _, lines = content[: content.rfind(b"\n") + 1].partition(b"\n")
    if not lines:
        return pl.DataFrame(schema={"symbol": pl.String, "ts_recv": pl.Int64})
    frame = pl.read_csv(
        lines, has_header=False, quote_char=None, encoding="utf8-lossy", truncate_ragged_lines=True,
        schema=dict.fromkeys(header.decode("ascii", "replace").split(","), pl.String),
    )  # fmt: skip
    return frame.select("symbol", pl.col("ts_recv").cast(pl.Int64, strict=False)).drop_nulls()
