"""Checks the conservation laws of one archived batch against its own files."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path

import msgspec
import numpy as np
import polars as pl
import pyarrow as pa

from tasks.archive import quarantine
from tasks.archive.catalog import Batch
from tasks.archive.encodings import count_rows, read_groups
from tasks.archive.journal_text import journal_bytes
from tasks.archive.trade_numbers import TradeNumbers
from tasks.errors import CorruptionError
from tasks.records.ledger import Gap
from tasks.records.manifest import Manifest
from tasks.records.names import DAY_FOLDERS
from tasks.records.trade import journal_columns
from tasks.storage.store import Store
from tasks.verify.broken import Broken, broken, sha256_of
from tasks.verify.order import Numbers
from tasks.verify.rows import Rows

# Called with connection, recv_seq, and ts_recv of the journal's rows, in order.
OnRows = Callable[[Numbers, Numbers, Numbers], None]


class _Kind(msgspec.Struct):
    kind: str


def batch_laws(store: Store, batch: Batch, on_rows: OnRows, rows: Rows) -> Iterator[Broken]:
    """Yield the broken laws of an archived batch; passes its journal's rows to `on_rows` unless a file is damaged.

    Rows come from the batch's own file, or from its day's file if that was removed; a batch that is only in the bucket
    has none. At most one row group is in memory.
    """
    assert batch.manifest is not None  # noqa: S101 - the caller's word
    found = rows.of(batch, batch.manifest)
    damaged = [*found.said, *_files(store, batch, batch.manifest, found.own)]
    yield from damaged
    yield from chain(_place(store, batch), _counts(batch, batch.manifest), _refused(store, batch))
    yield from gap_laws(batch.seal.gaps, set(batch.seal.symbols), batch.record, ended=False)
    if batch.receipt is not None:
        yield from _receipt(store, batch, batch.manifest)
    # A journal rebuilt from a damaged file would prove nothing.
    if not damaged and batch.manifest.batch not in rows.in_bucket:
        yield from _archived_rows(batch.manifest, found.readable)
        yield from _journal(store, batch, found.readable, on_rows)


def gap_laws(gaps: tuple[Gap, ...], symbols: set[str], file: Path, *, ended: bool) -> Iterator[Broken]:
    """Yield invalid gaps: without a reason or symbol, with an unsubscribed symbol, or ending before they start."""
    for gap in gaps:
        unknown = sorted(set(gap.symbols) - symbols)
        wrong = [
            (not gap.reason, "has no reason"),
            (not gap.symbols, "names no symbol"),
            (bool(unknown), f"names {', '.join(unknown[:5])}, not subscribed"),
            (gap.end_ns is not None and gap.end_ns < gap.start_ns, f"ends at {gap.end_ns}, before that"),
            (ended and gap.end_ns is None, "has no end, though the session has"),
        ]
        yield from (broken("gaps", file, f"the gap from {gap.start_ns} {what}") for is_so, what in wrong if is_so)


def _files(store: Store, batch: Batch, manifest: Manifest, file: Path | None) -> Iterator[Broken]:
    """Compare every file of the batch with the hash that a record has of it."""
    hashed = {store.quarantine / name: sha256 for name, sha256 in batch.seal.quarantine.items()}
    if file is not None:
        hashed[file] = manifest.sha256
        if file.exists() and file.stat().st_size != manifest.bytes:
            yield broken("bytes", file, f"has {file.stat().st_size:,} bytes, its manifest says {manifest.bytes:,}")
    if manifest.report.quarantine_sha256 is not None:
        hashed[store.quarantine / batch.name.rejected_rows] = manifest.report.quarantine_sha256
    if manifest.report.structural is not None:
        hashed[store.quarantine / batch.name.rejected_batch] = batch.seal.sha256
    for path, expected in hashed.items():
        actual = sha256_of(path)
        if actual is None:
            yield broken("present", path, f"is missing, though {batch.record.name} lists it; restore it from a copy")
        elif actual != expected:
            yield broken("sha256", path, f"is {actual}, {batch.record.name} says {expected}; restore it from a copy")
    for path in store.quarantine.glob(f"{batch.name}.*"):
        # A cut file without a record belongs to a journal of that number that was entirely unreadable.
        if path not in hashed and path.suffix != ".cut":
            yield broken("quarantine", path, f"is listed in no record; compare it with {batch.record}")


def _place(store: Store, batch: Batch) -> Iterator[Broken]:
    place = store.archive_folder(batch.seal.feed, batch.seal.date) / batch.name.manifest
    if batch.record != place:
        yield broken("place", batch.record, f"belongs to {place} by its seal")
    for path in store.archive.glob(f"{DAY_FOLDERS}/*{batch.name}.*"):
        if path.parent != batch.record.parent:
            yield broken("place", path, f"is a second copy beside {batch.record}")
    assert batch.manifest is not None  # noqa: S101 - archived
    if {batch.manifest.batch, batch.seal.batch} != {str(batch.name)}:
        yield broken("name", batch.record, f"speaks of {batch.manifest.batch} and {batch.seal.batch}")


def _counts(batch: Batch, manifest: Manifest) -> Iterator[Broken]:
    seal, report, frames = batch.seal, manifest.report, batch.seal.frames
    equal = [
        ("rows archived", manifest.rows, "valid", report.valid),
        ("rows sealed", seal.rows, "valid + quarantined", report.valid + report.quarantined),
        ("rows split", report.rows, "rows sealed", seal.rows),
        ("rows sealed", seal.rows, "their sum over the connections", sum(each.rows for each in seal.connections)),
        ("rows sealed", seal.rows, "their sum over the symbols", sum(seal.per_symbol.values())),
        ("rows valid", report.valid, "their sum over the symbols", sum(report.per_symbol.values())),
        ("frames received", frames.received, "trade + control + rejected",
         frames.trade + frames.control + frames.rejected),
        ("files archived", int(manifest.file is not None), "whether any row was valid", int(report.valid > 0)),
    ]  # fmt: skip
    for left, a, right, b in equal:
        if a != b:
            yield broken("counts", batch.record, f"{left} ({a:,}) ≠ {right} ({b:,})")


def _refused(store: Store, batch: Batch) -> Iterator[Broken]:
    """Compare the counts of rejected frames and trades with the quarantined lines, and cuts with their length."""
    path = store.quarantine / batch.name.rejected_frames
    kinds: Counter[str] = Counter()
    try:
        with path.open("rb") as lines:
            kinds.update(msgspec.json.decode(line, type=_Kind).kind for line in lines)
    except FileNotFoundError:
        pass
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        yield broken("quarantine", path, f"has a line that cannot be read ({error})")
        return
    expected = Counter(frame=batch.seal.frames.rejected, trade=batch.seal.trades_refused)
    expected.subtract(batch.seal.not_kept)
    if +kinds != +expected:
        yield broken("quarantine", path, f"holds {dict(kinds)}, {batch.record.name} counts {dict(expected)}")
    cuts = [store.quarantine / name for name in batch.seal.quarantine if name.endswith(".cut")]
    cut_bytes = sum(cut.stat().st_size for cut in cuts if cut.exists())
    if cut_bytes != batch.seal.cut_bytes:
        yield broken("quarantine", batch.record, f"{cut_bytes:,} bytes were cut, {batch.seal.cut_bytes:,} by the seal")


def _receipt(store: Store, batch: Batch, manifest: Manifest) -> Iterator[Broken]:
    assert batch.receipt is not None  # noqa: S101 - the caller's word
    path, receipt = batch.record.with_name(batch.name.receipt), batch.receipt
    sent = {batch.record: (receipt.manifest, sha256_of(batch.record), batch.record.stat().st_size)}
    if manifest.file is not None and receipt.object is not None:
        sent[batch.record.with_name(manifest.file)] = (receipt.object, manifest.sha256, manifest.bytes)
    if (manifest.file is None) != (receipt.object is None) or receipt.batch != str(batch.name):
        yield broken("receipt", path, "is of another batch than its manifest")
    for file, (said, sha256, size) in sent.items():
        if (said.sha256, said.bytes) != (sha256, size):
            yield broken("receipt", path, f"acknowledges other bytes than {file.name} has; upload it again")
        if not said.key.endswith(f"/{file.relative_to(store.archive).as_posix()}"):
            yield broken("receipt", path, f"acknowledges the key {said.key} for {file.name}")


def _archived_rows(manifest: Manifest, file: Path | None) -> Iterator[Broken]:
    """Compare the manifest's summary of its rows with the rows."""
    if file is None:
        return
    per_symbol: Counter[str] = Counter()
    times: dict[str, list[int]] = {"ts_event": [], "ts_recv": []}
    try:
        held = count_rows(file)
        if held != manifest.rows:
            yield broken("rows", file, f"holds {held:,} rows, its manifest says {manifest.rows:,}")
            return
        for table in read_groups(file):
            counted = table["symbol"].value_counts().to_pylist()
            per_symbol.update({each["values"]: each["counts"] for each in counted})
            for name, seen in times.items():
                values = table[name].cast(pa.int64()).to_numpy()
                seen[:] = [min([int(values.min()), *seen]), max([int(values.max()), *seen])]
    except CorruptionError as error:
        yield broken("readable", file, str(error))
        return
    said = [manifest.first_event_ns, manifest.last_event_ns, manifest.first_recv_ns, manifest.last_recv_ns]
    if dict(per_symbol) != manifest.report.per_symbol or [*times["ts_event"], *times["ts_recv"]] != said:
        yield broken("rows", file, "holds other symbols or times than its manifest says")


def _journal(store: Store, batch: Batch, file: Path | None, on_rows: OnRows) -> Iterator[Broken]:
    """Rebuild the sealed journal: it must be equal byte for byte, with the rows that the seal counts."""
    report = batch.report
    if report is None or report.structural is not None:
        return
    rejected = store.quarantine / batch.name.rejected_rows if report.quarantine_sha256 is not None else None
    digest, size, rows = hashlib.sha256(), 0, 0
    ranges: dict[int, tuple[int, int, int, int, int]] = {}
    numbers = TradeNumbers()
    try:
        lines = sum(len(part) for part in quarantine.read(rejected)) if rejected is not None else 0
        for index, piece in enumerate(journal_bytes(file, rejected, batch.seal.extra_columns)):
            digest.update(piece)
            size += len(piece)
            if index and piece:
                frame = _lines(piece, journal_columns(batch.seal.extra_columns))
                if report.trade_ids:
                    numbers.note(frame)
                columns = _receipts(frame)
                rows += _note(ranges, columns)
                on_rows(*columns)
    except (CorruptionError, pa.ArrowException, pl.exceptions.PolarsError) as error:
        yield broken("journal", batch.record, f"cannot be built again: {' '.join(str(error).split())[:200]}")
        return
    if lines != report.quarantined:
        yield broken("rows", batch.record, f"{lines:,} lines in quarantine, its report says {report.quarantined:,}")
    if (digest.hexdigest(), size) != (batch.seal.sha256, batch.seal.bytes):
        yield broken("journal", batch.record, "archive and quarantine together are not the journal that was sealed")
    said = {
        each.connection: (each.rows, each.first_seq, each.last_seq, each.first_recv_ns, each.last_recv_ns)
        for each in batch.seal.connections
    }
    if rows == batch.seal.rows and ranges != said:
        yield broken("connections", batch.record, "the seal's connections are not those of its rows")
    if (numbers.ranges(), tuple(numbers.missing)) != (report.trade_ids, report.missing_ids):
        yield broken("trade_ids", batch.record, "the report's trade numbers are not those of its rows")


def _lines(piece: bytes, columns: tuple[str, ...]) -> pl.DataFrame:
    """Return the fields of the lines as text."""
    return pl.read_csv(
        piece, has_header=False, quote_char=None, encoding="utf8-lossy", truncate_ragged_lines=True,
        schema=dict.fromkeys(columns, pl.String),
    )  # fmt: skip


def _receipts(lines: pl.DataFrame) -> tuple[Numbers, Numbers, Numbers]:
    """Return connection, recv_seq and ts_recv of the lines where all three are numbers."""
    numbers = lines.select(pl.col("connection", "recv_seq", "ts_recv").cast(pl.Int64, strict=False)).drop_nulls()
    connection, seq, time_ns = (numbers[name].to_numpy() for name in numbers.columns)
    return connection, seq, time_ns


def _note(ranges: dict[int, tuple[int, int, int, int, int]], columns: tuple[Numbers, Numbers, Numbers]) -> int:
    """Add rows to the ranges of their connections; return the number of rows."""
    connections, seqs, times_ns = columns
    for connection in np.unique(connections).tolist():
        at = np.flatnonzero(connections == connection)
        rows, first_seq, _, first_ns, _ = ranges.get(connection, (0, int(seqs[at[0]]), 0, int(times_ns[at[0]]), 0))
        ranges[connection] = (rows + len(at), first_seq, int(seqs[at[-1]]), first_ns, int(times_ns[at[-1]]))
    return len(connections)
