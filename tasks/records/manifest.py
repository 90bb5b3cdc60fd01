"""The records that stages write: Seal (capture), Report (validate), Manifest (compress), Receipt (upload), and more.

Each is one JSON file, written once and atomically by its stage; times are UTC ns. The last field of each is the SHA-256
of the rest, so that damage to a record is found before it is used to check another file.
"""

import os
import re
from dataclasses import dataclass, field
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Literal, TypeVar

import msgspec

from tasks.errors import CorruptionError
from tasks.records.ledger import FrameCounts, Gap
from tasks.records.names import BatchName, Keys, check_day

# The format of archived files and their records, in the metadata of both. 1: digits as text, no session, and event
# times in ms or ns. 2: numbers beside the digits that are not canonical, a list of conditions, and event times in ns.
FORMAT_VERSION = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionRange:
    """The trades of one connection in one batch: first and last `recv_seq` and `ts_recv`, and how many.

    `before_seq` and `before_recv_ns` are the connection's last ones before this batch, or 0 in its first batch; with
    them the order can be checked across batches.
    """

    connection: int
    rows: int
    first_seq: int
    last_seq: int
    first_recv_ns: int
    last_recv_ns: int
    before_seq: int = 0
    before_recv_ns: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Seal:
    """The record of a sealed journal, `sealed/<batch>.csv`.

    `date` (YYYY-MM-DD) is the day on which the journal was opened, in the exchange's time zone, or in UTC if its
    symbols never close; a journal is closed at that zone's midnight. `bytes` and `sha256` (hex) are the CSV file's,
    including the header. `symbols` were subscribed at some time during the batch. `lanes` is the session's number of
    lanes: only with one lane is `recv_seq` without holes inside a batch. `recovered` means that a later start sealed
    what a killed recorder had left; `cut_bytes` of the journal's end then went to quarantine. `gaps` overlap the batch.
    `quarantine` has the SHA-256 (hex) of each file that the capture wrote to `quarantine/` for this batch (frames,
    cut), by name. `refused_reasons` counts why trades could not be rows. `not_kept` counts rejected input, of kind
    "frame" or "trade", that is not in quarantine because the session had used up its space there.
    """

    batch: str
    feed: str
    date: str
    symbols: tuple[str, ...]
    lanes: int
    opened_ns: int
    sealed_ns: int
    rows: int
    bytes: int
    sha256: str
    frames: FrameCounts
    trades_refused: int
    connections: tuple[ConnectionRange, ...]
    per_symbol: dict[str, int]
    gaps: tuple[Gap, ...] = ()
    recovered: bool = False
    cut_bytes: int = 0
    quarantine: dict[str, str] = field(default_factory=dict)
    refused_reasons: dict[str, int] = field(default_factory=dict)
    not_kept: dict[str, int] = field(default_factory=dict)
    extra_columns: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raise ValueError if it names a file of another batch: a record may come from an untrusted place."""
        name = BatchName.exactly(self.batch)
        check_day(self.feed, self.date)
        for each in self.quarantine:
            if each not in (name.rejected_frames, name.cut, name.cut_frames):
                raise ValueError(f"{each[:80]!r} is not a quarantine file of {name}")


@dataclass(frozen=True, slots=True)
class TradeIds:
    """The first and last trade number of one symbol in a batch, and when (UTC ns) they were received."""

    first_id: int
    last_id: int
    first_recv_ns: int
    last_recv_ns: int


@dataclass(frozen=True, slots=True)
class MissingIds:
    """Numbers missing between two trades of a symbol, received at `after_ns` and `before_ns` (UTC ns)."""

    symbol: str
    first_id: int
    last_id: int
    after_ns: int
    before_ns: int

    @property
    def count(self) -> int:
        """How many numbers are missing."""
        return self.last_id - self.first_id + 1

    @property
    def span_ns(self) -> tuple[int, int]:
        """Start and end (UTC ns) of their gap. Two trades of one receipt have one time; a gap has a length."""
        return self.after_ns, max(self.before_ns, self.after_ns + 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """How a batch was split: `rows` = `valid` + `quarantined`; `reasons` counts each rule that a row broke.

    `examples` shows a few quarantined lines with their reasons. `resent` rows are marked as delivered before;
    `odd_conditions` rows have conditions in an unexpected form. `out_of_order` rows have an event time before that of
    an earlier print of their symbol; `late` rows were received more than ten seconds after their event. `lag_ms` has
    percentiles ("p50", "p90", "p99", "max") of receive time minus event time. `per_symbol` counts valid rows.
    `structural` says why the whole batch was rejected, if it was. `quarantine_sha256` is that of
    `quarantine/<batch>.rows.csv`, `validated_sha256` that of `validated/<batch>.arrow`; None if there is no such file.
    `event_in_ms`: every event time is a whole millisecond. If the feed numbers its trades, `trade_ids` has the range of
    each symbol's numbers over all rows, and `missing_ids` the holes in it; `missing_ids_unlisted` counts the numbers in
    holes that are not listed.
    """

    rows: int
    valid: int
    quarantined: int
    reasons: dict[str, int] = field(default_factory=dict)
    examples: tuple[str, ...] = ()
    # From reports before `resent` existed: how many rows equaled an earlier one. It is kept as it was, so that the
    # record still has the bytes of its SHA-256 and its receipts.
    duplicates: int | msgspec.UnsetType = msgspec.UNSET
    resent: int | msgspec.UnsetType = msgspec.UNSET
    odd_conditions: int = 0
    out_of_order: int = 0
    late: int = 0
    lag_ms: dict[str, float] = field(default_factory=dict)
    per_symbol: dict[str, int] = field(default_factory=dict)
    structural: str | None = None
    quarantine_sha256: str | None = None
    validated_sha256: str | None = None
    event_in_ms: bool = False
    trade_ids: dict[str, TradeIds] = field(default_factory=dict)
    missing_ids: tuple[MissingIds, ...] = ()
    missing_ids_unlisted: int = 0

    @property
    def resent_rows(self) -> int:
        """How many rows are marked as delivered before; 0 in reports from before `resent` existed."""
        return 0 if self.resent is msgspec.UNSET else int(self.resent)


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What an archived batch holds. `file` is the name of the archived file, or None if no row was valid.

    `bytes` and `sha256` (hex) are that file's. First and last times are over its rows.
    """

    version: int = FORMAT_VERSION
    batch: str
    file: str | None
    layout: str
    software: str
    rows: int
    bytes: int
    sha256: str
    first_event_ns: int | None
    last_event_ns: int | None
    first_recv_ns: int | None
    last_recv_ns: int | None
    seal: Seal
    report: Report

    def __post_init__(self) -> None:
        """Raise ValueError as `Seal` does."""
        name = BatchName.exactly(self.batch)
        if self.file is not None and self.file not in name.archives:
            raise ValueError(f"{self.file[:80]!r} is not an archived file of {name}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectReceipt:
    """One object as the store acknowledged it. `sha256` is hex; `checked` says how it was compared."""

    key: str
    bytes: int
    sha256: str
    etag: str
    version: str | None
    checked: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where uploads go: a bucket, the endpoint of its store (None is AWS), and the prefix of every key."""

    bucket: str
    endpoint: str | None
    prefix: str

    def holds(self, bucket: str, endpoint: str | None, key: str) -> bool:
        """Return whether the key of a batch's, session's, or day's record in a bucket belongs to this place."""
        return Keys(self.prefix).holds_record(key) and (bucket, endpoint) == (self.bucket, self.endpoint)


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """An upload: the archived file first (None if there is none), its record last.

    For a batch, the record is its manifest, and `beside` has its quarantine files. For a day's file, it is the day's
    record, and `batch` is that file's stem. For a session, it is the session's record, and `batch` is its name.
    """

    batch: str
    bucket: str
    endpoint: str | None
    uploaded_ns: int
    object: ObjectReceipt | None
    manifest: ObjectReceipt
    beside: tuple[ObjectReceipt, ...] = ()

    @property
    def objects(self) -> tuple[ObjectReceipt, ...]:
        """Every acknowledged object, in order of upload."""
        return (*(() if self.object is None else (self.object,)), *self.beside, self.manifest)

    def is_of(self, place: Place) -> bool:
        """Return whether it is from that place: its bucket, endpoint, and prefix."""
        return place.holds(self.bucket, self.endpoint, self.manifest.key)


@dataclass(frozen=True, slots=True, kw_only=True)
class Day:
    """The archived batches of one feed and day in one file, `days/feed=…/date=…/<file>`, by symbol and event time.

    `batches` are the manifests of its batches, including seals and reports, in order of recording. Each row has the
    name of its batch. `file` is None if there are no rows.
    """

    version: int = FORMAT_VERSION
    feed: str
    date: str
    file: str | None
    software: str
    rows: int
    bytes: int
    sha256: str
    batches: tuple[Manifest, ...]

    def __post_init__(self) -> None:
        """Raise ValueError as `Seal` does."""
        check_day(self.feed, self.date)
        if self.file is not None and not re.fullmatch(rf"{self.date}-[0-9a-f]+\.parquet", self.file):
            raise ValueError(f"{self.file[:80]!r} is not a file of the day {self.date}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Removed:
    """Why a file of the archive or of a day is no longer in the data folder; written before the removal.

    `batch` is the name of the batch or the day file's stem, `file` the name of the removed file. `why`: its day file
    has its rows (merged), it was old enough (age), or the disk was too full (space). `held_in` lists where proven
    copies were at that moment: a path in the data folder, or a bucket and key.
    """

    batch: str
    file: str
    removed_ns: int
    why: Literal["merged", "age", "space"]
    held_in: tuple[str, ...]

    def __post_init__(self) -> None:
        """Raise ValueError if the file would be in another folder than this record."""
        if not self.file or set(self.file) & {"/", "\0"} or self.file in (".", ".."):
            raise ValueError(f"{self.file[:80]!r} is not a file next to its record")


def quarantined_files(manifest: Manifest) -> dict[str, str]:
    """Return the SHA-256 (hex) of each quarantine file of a batch, by name, from its records."""
    name, report = BatchName.parse(manifest.batch), manifest.report
    files = dict(manifest.seal.quarantine)
    if report.quarantine_sha256 is not None:
        files[name.rejected_rows] = report.quarantine_sha256
    if report.structural is not None:
        files[name.rejected_batch] = manifest.seal.sha256
    return files


class _Versioned(msgspec.Struct):
    version: int = 1


Record = TypeVar("Record")
SOFTWARE = f"stock-tracing {version('stock-tracing')}"

# A record is read into memory. A day of five hundred batches with eight thousand symbols is smaller.
MOST_BYTES = 256 << 20

_END = b"\n}\n"
_DIGEST = b',\n  "record_sha256": "%s"'
_TAIL_BYTES = len(_DIGEST % bytes(64) + _END)


def encode(record: object) -> bytes:
    """Encode a record as indented JSON in the order of its fields; equal values give equal bytes.

    Its last field, `record_sha256`, is the SHA-256 (hex) of the JSON without that field, so `read` finds any flipped
    bit.
    """
    body = msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n"
    return body.removesuffix(_END) + _DIGEST % sha256(body).hexdigest().encode() + _END


def record_sha256(record: object) -> str:
    """Return the `record_sha256` (hex) that `encode` gives this record."""
    return encode(record)[-_TAIL_BYTES:].split(b'"')[-2].decode()


def sha256_said(path: Path) -> str:
    """Return the `record_sha256` at the end of a record's file without reading the rest; else some other text.

    Raises FileNotFoundError.
    """
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
        return file.read().decode(errors="replace").split('"')[-2:][0]


def read(path: Path, kind: type[Record], most_bytes: int = MOST_BYTES) -> Record:
    """Read a record of that kind from `path`.

    Raises FileNotFoundError if there is none, and CorruptionError if it is not such a record or not the bytes that
    `encode` gave.
    """
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size > most_bytes:
            raise _too_large(path, most_bytes)
        return decode(file.read(), kind, path, most_bytes)


def _too_large(where: object, most_bytes: int) -> CorruptionError:
    return CorruptionError(
        f"{where}: is larger than {most_bytes:,} bytes, too large for a record; restore it from a copy"
    )


def check_version(version: int, where: object) -> None:
    """Raise CorruptionError if the file or record at `where` has a later format than this software knows."""
    if version > FORMAT_VERSION:
        raise CorruptionError(
            f"{where}: has format version {version}, and this software reads versions up to {FORMAT_VERSION}; "
            "update stock-tracing"
        )


def _version_of(content: bytes) -> int:
    try:
        return msgspec.json.decode(content, type=_Versioned).version
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return 1


def decode(content: bytes, kind: type[Record], where: object, most_bytes: int = MOST_BYTES) -> Record:
    """Decode a record of that kind; errors name `where` it came from. Raises CorruptionError."""
    if len(content) > most_bytes:
        raise _too_large(where, most_bytes)
    body = content[:-_TAIL_BYTES] + _END
    if content != body.removesuffix(_END) + _DIGEST % sha256(body).hexdigest().encode() + _END:
        raise CorruptionError(f"{where}: its record_sha256 does not match its content; restore it from a copy")
    try:
        record = msgspec.json.decode(content, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        check_version(_version_of(content), where)  # A later version may have other fields.
        raise CorruptionError(f"{where}: not a {kind.__name__} record ({error}); restore it from a copy") from error
    check_version(getattr(record, "version", 1), where)
    return record
