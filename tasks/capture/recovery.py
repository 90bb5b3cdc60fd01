"""Recovery: seals what a killed recorder left, as far as its checksums vouch for it.

What follows the last valid checksum, a torn write, goes to quarantine unchanged. Recovery can be killed or run again at
any point: each step is either done already or done again.
"""

import io
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO

import msgspec

from tasks.capture.gaps import GapBook
from tasks.capture.journal import Heading, Sum, count_reason, discard, finish_seal, frames_open, read_heading, seal
from tasks.capture.request import CaptureRequest, WatchList, own_request, read_request
from tasks.records.ledger import FrameCounts, SessionRecord
from tasks.records.manifest import ConnectionRange, Manifest, Seal, encode, read
from tasks.records.names import BatchName
from tasks.records.requests import requests_of
from tasks.records.sessions import GAPS_FILE, RECORD_FILE, REQUEST_FILE, WATCHLIST_FILE, is_recording
from tasks.records.status import Status, boot_id, read_status
from tasks.storage.store import Store, sha256_of, sync, write_whole


@dataclass(frozen=True, slots=True)
class Trusted:
    """The part of a journal with valid checksums: `end` is its length, `last` its last sum."""

    heading: Heading
    last: Sum
    rows: int
    end: int


@dataclass(frozen=True, slots=True)
class Past:
    """What a session has sealed so far: the number of batches per lane, and the sums of their counts."""

    batches: tuple[int, ...]
    connections: int = 0
    frames: int = 0
    per_symbol: Counter[str] = field(default_factory=Counter)


# Only reserves space: deleting it on a full disk makes room for the session's seals, gaps, and record.
ROOM_FILE = ".room.tmp"
# Longer than a connection gathers reads (`feed.py`).
_GATHERED_NS = 100_000_000
KILLED = "the recorder was killed"
WENT_DOWN = "the machine went down"


def resume(store: Store, request: CaptureRequest, now_ns: int) -> Past:
    """Recover what an earlier recorder of this session left, if there was one; return what the session has sealed.

    A gap is then open from the time up to which that recorder's journals reach.
    """
    status = read_status(request.folder)
    spool = store.spool / request.session
    if status is not None or _left_in(spool):
        gaps = GapBook(request.folder / GAPS_FILE)
        through_ns = _through_ns(store, request, status)
        symbols = WatchList(request.folder / WATCHLIST_FILE, request.symbols).current
        gaps.open(symbols, through_ns, _why(status))
        _name_unwritten(gaps, through_ns, status)
        recover_spool(store, request.session, now_ns, gaps)
    return past_of(store, request.session, request.lanes)


def past_of(store: Store, session: str, lanes: int) -> Past:
    """Add up the seals of a session. Raises CorruptionError if one cannot be read."""
    seals = list(seals_of(store, session).values())
    numbers = [BatchName.parse(each.batch) for each in seals]
    per_symbol: Counter[str] = Counter()
    for each in seals:
        per_symbol.update(each.per_symbol)
    return Past(
        batches=tuple(max((n.number + 1 for n in numbers if n.lane == lane), default=0) for lane in range(lanes)),
        connections=max((each.connection for sealed in seals for each in sealed.connections), default=0),
        frames=sum(each.frames.received for each in seals),
        per_symbol=per_symbol,
    )


def seals_of(store: Store, session: str) -> dict[str, Seal]:
    """Return the seal of every batch of a session by the batch's name.

    Folders are searched in the order in which batches move: one that moves meanwhile is found in its new place.
    """
    found: dict[str, Seal] = {}
    for each in _all_seals(store, session):
        found.setdefault(each.batch, each)
    return found


def _all_seals(store: Store, session: str) -> Iterator[Seal]:
    for folder in (store.sealed, store.validated):
        for path in sorted(folder.glob(f"{session}-*.seal.json")):
            try:
                yield read(path, Seal)
            except FileNotFoundError:
                continue
    for path in store.manifests(session=session):
        yield read(path, Manifest).seal


def _name_unwritten(gaps: GapBook, through_ns: int, status: Status | None) -> None:
    """Add gaps for what was received but not written before an open gap began: it was lost with the recorder."""
    if status is not None and status.boot == boot_id() and not status.queue_bytes:
        # At that time nothing waited in the queues, at most in what had just been read and not been handed on.
        through_ns = max(through_ns, status.updated_ns - _GATHERED_NS)
    why, found = _why(status), gaps.all()
    for gap in (each for each in found if each.end_ns is None and each.start_ns > through_ns and each.reason != why):
        # A second recovery knows less about the end of the journals and has nothing to add.
        named = {name for each in found if (each.end_ns, each.reason) == (gap.start_ns, why) for name in each.symbols}
        gaps.add([symbol for symbol in gap.symbols if symbol not in named], through_ns, gap.start_ns, why)


def close_killed(store: Store, session: str, now_ns: int, why: str | None = None) -> SessionRecord:
    """Write the record of a session whose recorder is gone. Its gap lasts until the session's deadline.

    If no recorder could be started, `why` says so, and the session has failed. Raises OSError or CorruptionError if
    what the recorder left cannot be read or written; then this can be run again.
    """
    folder = store.sessions / session
    request = read_request(folder)
    status = read_status(folder)
    (folder / ROOM_FILE).unlink(missing_ok=True)
    past = resume(store, request, now_ns)
    gaps, watch = GapBook(folder / GAPS_FILE), WatchList(folder / WATCHLIST_FILE, request.symbols)
    requests = requests_of(folder) or (own_request(request),)
    ended_ns = max(*(each.end_ns for each in requests), status.through_ns if status else 0)
    if status is None and not gaps.all():  # It died before it received anything.
        gaps.open(watch.current, request.started_ns, why or KILLED)
    gaps.finish(ended_ns)
    failed = why is not None or (status is not None and status.error is not None)  # It could not write its record.
    received = max(past.frames, status.frames) if failed and status else past.frames
    record = SessionRecord(
        session=session, feed=request.feed, symbols=watch.ever, started_ns=request.started_ns,
        listening_ns=status.listening_ns if status else None, ended_ns=ended_ns,
        deadline_ns=max(each.until_ns for each in requests), error=why or _why(status),
        outcome="failed" if failed else "killed",
        connections=max(past.connections, status.connection if status else 0),
        frames_received=received, frames_lost=received - past.frames, batches=past.batches, gaps=gaps.all(),
        never_heard=tuple(symbol for symbol in watch.ever if not past.per_symbol[symbol]),
        refused=status.refused_symbols if status else (), changes=watch.changes,
        requests=requests, zone=request.zone, vendor_errors=status.vendor_errors if status else {},
    )  # fmt: skip
    write_whole(folder / RECORD_FILE, encode(record))
    with suppress(FileNotFoundError):
        (store.spool / session).rmdir()
    return record


def _why(status: Status | None) -> str:
    """Return why the recorder is gone: the error in its last status, if there is one."""
    if status is not None and status.error is not None:
        return status.error
    return KILLED if status is None or status.boot == boot_id() else WENT_DOWN


def killed_sessions(store: Store) -> list[str]:
    """The sessions that have no record, and no recorder that could still write one."""
    return sorted(
        path.parent.name
        for path in store.sessions.glob(f"*/{REQUEST_FILE}")
        if not (path.parent / RECORD_FILE).exists() and not is_recording(path.parent)
    )


def _through_ns(store: Store, request: CaptureRequest, status: Status | None) -> int:
    """Return the time up to which everything received is in a journal."""
    reached = _reached_ns(store, request.session)
    # A lane without any writes may have had trades waiting; then only the status tells.
    in_journals = min(reached.values()) if len(reached) == request.lanes else 0
    # If the machine went down, the disk may have kept the status but lost what it counts.
    said = 0 if status is None else status.through_ns if status.boot == boot_id() else status.durable_ns
    return max(request.started_ns, said, in_journals)


def _reached_ns(store: Store, session: str) -> dict[int, int]:
    """Return the time up to which each lane has written; a lane without any writes is absent."""
    spool = store.spool / session
    seals = [*seals_of(store, session).values(), *(read(path, Seal) for path in spool.glob("*.seal.json"))]
    ends = {BatchName.parse(each.batch): each.connections[-1].last_recv_ns for each in seals if each.connections}
    for name in map(BatchName.parse, (path.name for path in spool.glob("*.sums"))):
        trusted = trust(spool, name)
        if trusted is not None:
            ends[name] = trusted.last.through_ns
    return {name.lane: end_ns for name, end_ns in sorted(ends.items())}


def recover_spool(store: Store, session: str, now_ns: int, gaps: GapBook) -> list[Seal]:
    """Seal every journal in a session's spool and return the seals. The session's recorder must not be running.

    Raises OSError if the disk fails; then this can be run again.
    """
    folder = store.spool / session
    recovered = [_recover(store, name, now_ns, gaps) for name in _left_in(folder)]
    return [each for each in recovered if each is not None]


def _left_in(folder: Path) -> list[BatchName]:
    """Return the batches with any file in a session's spool: a kill may have come between the creation of two."""
    kinds = ("*.csv.open", "*.frames.jsonl.open", "*.sums")
    return sorted({BatchName.parse(path.name) for kind in kinds for path in folder.glob(kind)})


def _recover(store: Store, name: BatchName, now_ns: int, gaps: GapBook) -> Seal | None:
    folder = store.spool / name.session
    if (folder / name.seal).exists():  # Killed between two moves of the seal.
        record = read(folder / name.seal, Seal)
        finish_seal(store, name)
        return record
    if not (folder / name.journal).exists():  # Killed before the last move.
        finish_seal(store, name)
        return None
    trusted = trust(folder, name)
    cut = _cut(store, name, trusted)
    # A batch of which something was cut is kept even without rows: a new journal of that name would overwrite the cut.
    if trusted is None or (not trusted.rows and not trusted.last.received and not cut):
        discard(store, name)
        return None
    watch = WatchList(store.sessions / name.session / WATCHLIST_FILE, trusted.heading.symbols)
    record = _seal_of(trusted, folder / name.journal, now_ns, gaps, watch.ever)
    quarantined = {name.rejected_frames: folder / frames_open(name), **cut}
    hashes = {key: sha256_of(path) for key, path in quarantined.items() if path.exists() and path.stat().st_size}
    cut_bytes = sum(path.stat().st_size for path in cut.values())
    record = replace(record, quarantine=hashes, cut_bytes=cut_bytes)
    for path in (folder / name.journal, folder / frames_open(name)):
        if path.exists():
            sync(path)  # Its writer may have died before it could, and the seal vouches for it.
    seal(store, name, record)
    return record


def trust(folder: Path, name: BatchName) -> Trusted | None:
    """Return how far journal and rejected frames match the sums; None if not even the first lines do."""
    journal, frames, sums = folder / name.journal, folder / frames_open(name), folder / name.sums
    if not (journal.exists() and sums.exists()):  # Killed while they were created or moved.
        return None
    lines = sums.read_bytes().split(b"\n")[:-1]  # What follows the last line break is torn.
    if not lines:
        return None
    heading = read_heading(lines[0])
    if heading is None:
        return None
    trusted: Trusted | None = None
    end = rows = frames_end = frames_crc32 = 0
    with journal.open("rb") as content, _opened(frames) as refused:
        for line in lines[1:]:
            try:
                entry = msgspec.json.decode(line, type=Sum)
            except (msgspec.MsgspecError, UnicodeDecodeError):
                break
            grown = entry.frames_bytes - frames_end
            if entry.offset != end or entry.length < 0 or grown < 0:  # A damaged line may have any values.
                break
            block = content.read(entry.length)
            if len(block) != entry.length or zlib.crc32(block) != entry.crc32:
                break
            frames_crc32 = zlib.crc32(refused.read(grown), frames_crc32)
            if refused.tell() != entry.frames_bytes or frames_crc32 != entry.frames_crc32:
                break
            end, frames_end = end + entry.length, entry.frames_bytes
            rows += entry.rows
            trusted = Trusted(heading, entry, rows, end)
    return trusted


def _opened(path: Path) -> IO[bytes]:
    return path.open("rb") if path.exists() else io.BytesIO()


def _cut(store: Store, name: BatchName, trusted: Trusted | None) -> dict[str, Path]:
    """Copy what cannot be trusted to quarantine, then cut it; return the files written, by name."""
    folder = store.spool / name.session
    ends = {
        name.cut: (folder / name.journal, trusted.end if trusted else 0),
        name.cut_frames: (folder / frames_open(name), trusted.last.frames_bytes if trusted else 0),
    }
    for kept_as, (path, end) in ends.items():
        if path.exists() and path.stat().st_size > end:
            with path.open("r+b") as file:
                file.seek(end)
                write_whole(store.quarantine / kept_as, file.read())
                file.truncate(end)
    return {kept_as: path for kept_as in ends if (path := store.quarantine / kept_as).exists()}


def _seal_of(trusted: Trusted, journal: Path, now_ns: int, gaps: GapBook, symbols: tuple[str, ...]) -> Seal:
    heading, last = trusted.heading, trusted.last
    first: dict[int, tuple[int, int]] = {}
    last_of: dict[int, tuple[int, int]] = {}
    rows_of: Counter[int] = Counter()
    per_symbol: Counter[str] = Counter()
    for connection, seq, ts_recv_ns, symbol in _rows(journal):
        first.setdefault(connection, (seq, ts_recv_ns))
        last_of[connection] = (seq, ts_recv_ns)
        rows_of[connection] += 1
        per_symbol[symbol] += 1
    ranges = tuple(
        ConnectionRange(
            connection=connection, rows=rows_of[connection], first_seq=seq, last_seq=last_of[connection][0],
            first_recv_ns=ts_recv_ns, last_recv_ns=last_of[connection][1],
            before_seq=heading.before.get(connection, (0, 0))[0],
            before_recv_ns=heading.before.get(connection, (0, 0))[1],
        )
        for connection, (seq, ts_recv_ns) in first.items()
    )  # fmt: skip
    return Seal(
        batch=heading.batch, feed=heading.feed, date=heading.date, symbols=symbols, lanes=heading.lanes,
        opened_ns=heading.opened_ns, sealed_ns=now_ns, rows=trusted.rows, bytes=trusted.end,
        sha256=sha256_of(journal),
        frames=FrameCounts(received=last.received, trade=last.trade, control=last.control, rejected=last.rejected),
        trades_refused=last.refused_trades, connections=ranges,
        per_symbol=dict(sorted(per_symbol.items())), gaps=gaps.touching(heading.opened_ns, now_ns), recovered=True,
        refused_reasons=_refused_reasons(journal.with_name(frames_open(BatchName.parse(heading.batch)))),
        not_kept={kind: n for kind, n in (("frame", last.frames_not_kept), ("trade", last.trades_not_kept)) if n},
        extra_columns=heading.extra_columns,
    )  # fmt: skip


def _rows(journal: Path) -> Iterator[tuple[int, int, int, str]]:
    with journal.open("rb") as lines:
        next(lines)
        for line in lines:
            connection, seq, ts_recv_ns, _, symbol, _ = line.split(b",", 5)
            yield int(connection), int(seq), int(ts_recv_ns), symbol.decode()


def _refused_reasons(frames: Path) -> dict[str, int]:
    """Count why trades were refused, from the trusted lines, the only ones left."""
    counts: Counter[str] = Counter()
    if frames.exists():
        with frames.open("rb") as lines:
            for line in lines:
                refused = msgspec.json.decode(line)
                if refused["kind"] == "trade":
                    count_reason(counts, refused["reason"])
    return dict(counts.most_common())
