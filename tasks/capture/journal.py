"""Journals: append-only files with checksums, so that no crash can make a batch claim more than it has.

A journal is three files in `spool/<session>/`:

- `<batch>.csv.open`: the rows, one `write` per block;
- `<batch>.frames.jsonl.open`: what could not be a row, as received;
- `<batch>.sums`: a heading, then one line per block with its offset, length, rows, CRC-32, and the counts so far.

A block is written first, its line in the sums second. A `write` is not atomic: a kill can tear it. So recovery trusts a
block only if its line is complete and matches the CRC-32 of the block and of the rejected frames so far, and cuts the
rest. Once closed and synced, the CSV moves to `sealed/` beside its seal. The idea is from kdb+tick's log and dlt's
packages.
"""

import base64
import logging
import os
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import msgspec

from tasks.feeds.base import Rejected
from tasks.records.checked_line import checked_line, text_of
from tasks.records.ledger import FrameCounts, Gap
from tasks.records.manifest import ConnectionRange, Seal, encode
from tasks.records.names import BatchName, check_day
from tasks.records.trade import journal_header
from tasks.storage.store import Store, sync, write_whole

log = logging.getLogger(__name__)

_MOST_REASONS = 50
_SAMPLE_EVERY, _SAMPLE_BYTES = 4_096, 4_096


@dataclass(frozen=True, slots=True, kw_only=True)
class Heading:
    """The first line of the sums: what the batch is. `before` maps a connection to its last (recv_seq, ts_recv)."""

    batch: str
    feed: str
    date: str
    symbols: tuple[str, ...]
    lanes: int
    opened_ns: int
    before: dict[int, tuple[int, int]]
    extra_columns: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raises ValueError for an invalid batch, feed, or date: they become names of files and folders."""
        BatchName.exactly(self.batch)
        check_day(self.feed, self.date)


def heading_line(heading: Heading) -> bytes:
    """Return the heading as a line that ends in its own CRC-32."""
    return checked_line(msgspec.json.encode(heading))


def read_heading(line: bytes) -> Heading | None:
    """Parse a heading line without its line feed; return None if it is damaged.

    Earlier recorders wrote no CRC-32; their headings are still accepted.
    """
    text = text_of(line) if b"\t" in line else line
    if text is None:
        return None
    try:
        return msgspec.json.decode(text, type=Heading)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


class Sum(msgspec.Struct, frozen=True, array_like=True):
    """A later line of the sums: a block's place in the CSV, its rows and CRC-32, then the batch's counts after it.

    `through_ns` is the receive time up to which everything received is in the journal. `frames_crc32` covers the first
    `frames_bytes` of the rejected frames.
    """

    offset: int
    length: int
    rows: int
    crc32: int
    received: int
    trade: int
    control: int
    rejected: int
    refused_trades: int
    frames_bytes: int
    through_ns: int
    frames_crc32: int
    frames_not_kept: int = 0
    trades_not_kept: int = 0


class Room:
    """How much a session may still put into quarantine: a feed that sends garbage must not fill the disk.

    Beyond it everything is counted, and an occasional short line kept as a sample. Shared by all lanes.
    """

    def __init__(self, most_bytes: int) -> None:
        self._left_bytes, self._beyond = most_bytes, 0

    def has(self, size: int) -> bool:
        """Return whether a line of that size is kept; if so, its size is deducted."""
        if not self._beyond and size <= self._left_bytes:
            self._left_bytes -= size
            return True
        if not self._beyond:
            log.error("quarantine is full: further frames that are not trades are counted, but hardly any are kept")
        self._beyond += 1
        return size <= _SAMPLE_BYTES and self._beyond % _SAMPLE_EVERY == 0


@dataclass(slots=True, kw_only=True)
class Receipt:
    """What one read from one connection brought, or one lane's part of it: a stamp, trades, and counts.

    `block` holds one line per trade and `symbols` their symbols; their `recv_seq` run from `first_seq` to `last_seq`.
    `received`, `trade`, and `control` count frames; rejected ones are counted from `rejected`. `through_ns` is the time
    (UTC ns) up to which everything sent has then been received; it is earlier than `ts_recv_ns` while older data waits.
    """

    connection: int
    ts_recv_ns: int
    through_ns: int
    block: bytes = b""
    symbols: Sequence[str] = ()
    first_seq: int = 0
    last_seq: int = 0
    received: int = 0
    trade: int = 0
    control: int = 0
    rejected: Sequence[Rejected] = ()
    size_bytes: int = 0


class Journal:
    """One batch while it is written. Used by one thread, except `sync`, which any thread may call.

    Every method raises OSError if the disk fails; what was written before stays recoverable.
    """

    def __init__(self, folder: Path, name: BatchName, heading: Heading, room: Room | None = None) -> None:
        self.name = name
        self.heading = heading
        self.rows = 0
        self.bytes = 0
        self.per_symbol: Counter[str] = Counter()
        self.frames = FrameCounts()
        self.trades_refused = 0
        self.refused_reasons: Counter[str] = Counter()
        self.not_kept: Counter[str] = Counter()
        self._ranges: dict[int, ConnectionRange] = {}
        self._last: dict[int, tuple[int, int, int]] = {}
        self._room = room
        self._digest = sha256()
        self._refused_digest = sha256()
        self._frames_bytes = self._frames_crc32 = 0
        self._folder = folder
        self._is_listed = False
        self._csv = _create(folder / name.journal)
        self._refused = _create(folder / frames_open(name))
        self._sums = _create(folder / name.sums)
        self._write(self._sums, heading_line(heading))
        self._append(journal_header(heading.extra_columns), 0, heading.opened_ns)

    @property
    def is_empty(self) -> bool:
        """Whether there is no row and no frame that would have to be accounted for."""
        return not self.rows and not self.frames.received

    @property
    def ranges(self) -> tuple[ConnectionRange, ...]:
        """The range of trades of each connection so far."""
        return tuple(
            replace(self._ranges[connection], rows=rows, last_seq=last_seq, last_recv_ns=last_ns)
            for connection, (rows, last_seq, last_ns) in self._last.items()
        )

    def append(self, receipts: Sequence[Receipt]) -> None:
        """Write these receipts, at least one, as one block."""
        received = trade = control = 0
        for receipt in receipts:
            received, trade, control = received + receipt.received, trade + receipt.trade, control + receipt.control
            if receipt.symbols:
                self._count_trades(receipt)
        rejected = [(each, rejected) for each in receipts for rejected in each.rejected]
        if rejected:
            self._append_rejected(rejected)
        self.frames += FrameCounts(received=received, trade=trade, control=control)
        content = b"".join([receipt.block for receipt in receipts])
        # Counted from what is written, the ranges from what was parsed: the ledger compares the two.
        rows = content.count(b"\n")
        self.rows += rows
        self._append(content, rows, receipts[-1].through_ns)

    def _count_trades(self, receipt: Receipt) -> None:
        self.per_symbol.update(receipt.symbols)
        connection = receipt.connection
        if connection not in self._ranges:
            before_seq, before_ns = self.heading.before.get(connection, (0, 0))
            self._ranges[connection] = ConnectionRange(
                connection=connection, rows=0, first_seq=receipt.first_seq, last_seq=receipt.last_seq,
                first_recv_ns=receipt.ts_recv_ns, last_recv_ns=receipt.ts_recv_ns,
                before_seq=before_seq, before_recv_ns=before_ns,
            )  # fmt: skip
        # Only what changes with each receipt: building a frozen range for each would cost more than all the rest.
        rows = self._last[connection][0] if connection in self._last else 0
        self._last[connection] = (rows + len(receipt.symbols), receipt.last_seq, receipt.ts_recv_ns)

    def _append_rejected(self, items: Sequence[tuple[Receipt, Rejected]]) -> None:
        reasons = [rejected.reason for _, rejected in items if rejected.kind != "frame"]
        self.trades_refused += len(reasons)
        for reason in reasons:
            count_reason(self.refused_reasons, reason)
        lines = b"".join(self._kept(items))
        self._write(self._refused, lines)
        self._refused_digest.update(lines)
        self._frames_bytes += len(lines)
        self._frames_crc32 = zlib.crc32(lines, self._frames_crc32)
        self.frames += FrameCounts(rejected=len(items) - len(reasons))

    def _kept(self, items: Sequence[tuple[Receipt, Rejected]]) -> Iterator[bytes]:
        for receipt, rejected in items:
            line = _rejected_line(receipt.connection, receipt.ts_recv_ns, rejected)
            if self._room is None or self._room.has(len(line)):
                yield line
            else:
                self.not_kept[rejected.kind] += 1

    def _append(self, content: bytes, rows: int, through_ns: int) -> None:
        self._write(self._csv, content)
        entry = Sum(
            self.bytes, len(content), rows, zlib.crc32(content),
            self.frames.received, self.frames.trade, self.frames.control, self.frames.rejected,
            self.trades_refused, self._frames_bytes, through_ns, self._frames_crc32,
            self.not_kept["frame"], self.not_kept["trade"],
        )  # fmt: skip
        self._write(self._sums, msgspec.json.encode(entry) + b"\n")
        self._digest.update(content)
        self.bytes += len(content)

    def _write(self, descriptor: int, content: bytes) -> None:
        """Write all of it: one `write` may take less, on a full disk or at a signal."""
        try:
            written = os.write(descriptor, content) if content else 0
            while written < len(content):
                written += os.write(descriptor, memoryview(content)[written:])
        except OSError as error:
            raise self._named(error, descriptor) from None

    def _named(self, error: OSError, descriptor: int) -> OSError:
        """Return the error with its file name: a descriptor alone does not say which disk is full."""
        name = self.name
        path = {self._csv: name.journal, self._refused: frames_open(name)}.get(descriptor, name.sums)
        return OSError(error.errno, error.strerror, str(self._folder / path))

    def sync(self) -> None:
        """Make what was written survive a power loss: rows first, then the sums that vouch for them."""
        if not self._is_listed:  # Without their names the files would be lost.
            sync(self._folder)
            self._is_listed = True
        for descriptor in (self._csv, self._refused, self._sums):
            try:
                os.fdatasync(descriptor)
            except OSError as error:
                raise self._named(error, descriptor) from None

    def close(self) -> None:
        """Sync and close; `seal` comes next."""
        self.sync()
        self.abandon()

    def abandon(self) -> None:
        """Close without a sync, after a disk error; recovery then finds out what is there."""
        for descriptor in (self._csv, self._refused, self._sums):
            os.close(descriptor)

    def sealed_as(self, sealed_ns: int, symbols: tuple[str, ...], gaps: tuple[Gap, ...]) -> Seal:
        """Return the seal of this journal, once it is closed."""
        heading = self.heading
        return Seal(
            batch=heading.batch, feed=heading.feed, date=heading.date, symbols=symbols, lanes=heading.lanes,
            opened_ns=heading.opened_ns, sealed_ns=sealed_ns, rows=self.rows, bytes=self.bytes,
            sha256=self._digest.hexdigest(), frames=self.frames, trades_refused=self.trades_refused,
            connections=self.ranges, per_symbol=dict(sorted(self.per_symbol.items())), gaps=gaps,
            quarantine={self.name.rejected_frames: self._refused_digest.hexdigest()} if self._frames_bytes else {},
            refused_reasons=dict(self.refused_reasons.most_common()), not_kept=dict(+self.not_kept),
            extra_columns=heading.extra_columns,
        )  # fmt: skip


def seal(store: Store, name: BatchName, record: Seal) -> None:
    """Move a closed journal to `sealed/`. The seal is written first, in the spool, and moved last."""
    write_whole(store.spool / name.session / name.seal, encode(record))
    finish_seal(store, name)


def finish_seal(store: Store, name: BatchName) -> None:
    """Make the remaining moves of `seal`: a crash may have left any of them undone."""
    folder = store.spool / name.session
    for source, place in (
        (folder / frames_open(name), store.quarantine / name.rejected_frames),
        (folder / name.journal, store.sealed / name.sealed),
        (folder / name.seal, store.sealed / name.seal),
    ):
        if source.exists():
            if source.stat().st_size:
                source.replace(place)
                sync(place.parent)
            else:
                source.unlink()
    (folder / name.sums).unlink(missing_ok=True)


def discard(store: Store, name: BatchName) -> None:
    """Remove a closed, empty journal."""
    folder = store.spool / name.session
    for path in (folder / name.journal, folder / frames_open(name), folder / name.sums):
        path.unlink(missing_ok=True)


def count_reason(counts: Counter[str], reason: str) -> None:
    """Count why a trade was rejected; a feed that invents reasons must not fill the memory."""
    counts[reason if reason in counts or len(counts) < _MOST_REASONS else "other reasons"] += 1


def frames_open(name: BatchName) -> str:
    """Return the name in the spool of the later `quarantine/<batch>.frames.jsonl`."""
    return f"{name.rejected_frames}.open"


def _rejected_line(connection: int, ts_recv_ns: int, rejected: Rejected) -> bytes:
    """Return one line of JSON: the text if it is UTF-8, otherwise base64."""
    line: dict[str, object] = {
        "kind": rejected.kind, "connection": connection, "ts_recv": ts_recv_ns, "reason": rejected.reason,
    }  # fmt: skip
    try:
        line["text"] = rejected.payload.decode("utf-8")
    except UnicodeDecodeError:
        line["base64"] = base64.b64encode(rejected.payload).decode()
    return msgspec.json.encode(line) + b"\n"


def _create(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o644)
