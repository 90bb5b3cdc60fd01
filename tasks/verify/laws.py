"""Checks every conservation law, recomputed from the files alone."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from tasks.archive.catalog import Batch, Catalog
from tasks.errors import CorruptionError, TerminalError
from tasks.records.ledger import SessionRecord
from tasks.records.manifest import read
from tasks.records.names import DAY_FOLDERS, BatchName
from tasks.records.sessions import PARTIAL_FILE
from tasks.storage.locks import SESSION_LOCK, is_held
from tasks.storage.store import Store
from tasks.verify.account import balance
from tasks.verify.batch_laws import batch_laws, gap_laws
from tasks.verify.broken import Broken, broken
from tasks.verify.day_laws import day_laws
from tasks.verify.order import Numbers, Order
from tasks.verify.rows import Rows

_LOOKS, _LOOK_AGAIN_S = 20, 0.25


@dataclass(frozen=True, slots=True)
class Verdict:
    """How many sessions, batches, and archived trades were checked, and which laws do not hold.

    `recording` are sessions that are still running; only their archived batches were checked. `in_bucket_alone` counts
    batches whose rows were removed here after the upload: only their records were checked, `tape verify --remote`
    checks the objects. `partial` are sessions of which only some days were restored: their batches were checked, but
    not their totals.
    """

    sessions: int
    batches: int
    trades: int
    broken: tuple[Broken, ...]
    recording: tuple[str, ...]
    in_bucket_alone: int = 0
    partial: tuple[str, ...] = ()

    @property
    def holds(self) -> bool:
        """Whether every law holds."""
        return not self.broken


@dataclass(slots=True)
class _Count:
    """Running counts, and the batches read so far of the current session."""

    sessions: int = 0
    batches: int = 0
    trades: int = 0
    recording: list[str] = field(default_factory=list)
    partial: list[str] = field(default_factory=list)

    def add(self, other: "_Count") -> None:
        self.sessions += other.sessions
        self.batches += other.batches
        self.trades += other.trades
        self.recording += other.recording
        self.partial += other.partial


def verify(store: Store, note: Callable[[int, int], None] = lambda _done, _total: None) -> Verdict:
    """Recompute every law for each session and batch in the data folder; an unreadable file breaks one.

    `note` is called with how many sessions are done, and the total. Memory is bounded by a row group and one session's
    records.
    """
    count = _Count()
    # Not in the data folder, which may be read-only.
    with TemporaryDirectory(prefix="tape-verify-") as folder:
        rows = Rows(store, Path(folder))
        found, sessions = list[Broken](), list(Catalog(store).sessions())
        for done, session in enumerate(sessions):
            note(done, len(sessions))
            found += _settled_laws(store, session, count, rows)
    found += day_laws(store)
    in_bucket = len(rows.in_bucket)
    return Verdict(
        count.sessions,
        count.batches,
        count.trades,
        tuple(found),
        tuple(count.recording),
        in_bucket,
        tuple(count.partial),
    )


def _settled_laws(store: Store, session: str, count: _Count, rows: Rows) -> list[Broken]:
    """Return the broken laws of a session, checked again as long as another process is moving its batches.

    While a batch moves to its next stage, its records and files disagree for a moment; that is not a broken law.
    """
    judged = _Count()
    found = list(_session_laws(store, session, judged, rows))
    for _ in range(_LOOKS):
        if not found:
            break
        before, judged = _moved(store, session), _Count()
        found = list(_session_laws(store, session, judged, rows))
        after = _moved(store, session)
        if after == before and not any(name.endswith(".lock") for name in after):
            break
        time.sleep(_LOOK_AGAIN_S)
    count.add(judged)
    return found


def _moved(store: Store, session: str) -> frozenset[str]:
    """Return the names of a session's files, and of the locks held on its batches."""
    folders = (store.spool / session, store.sealed, store.validated, store.quarantine, store.locks)
    names = {path.name for folder in folders for path in folder.glob(f"*{session}*")}
    return frozenset(names | {path.name for path in store.archive.glob(f"{DAY_FOLDERS}/*{session}*")})


def _session_laws(store: Store, session: str, count: _Count, rows: Rows) -> Iterator[Broken]:
    count.sessions += 1
    path = store.sessions / session / "session.json"
    record, recording, partial = None, False, False
    try:
        record = read(path, SessionRecord)
    except FileNotFoundError:
        recording = is_held(path.with_name(SESSION_LOCK))
        partial = path.with_name(PARTIAL_FILE).exists()
        if recording:
            count.recording.append(session)
        elif partial:
            count.partial.append(session)
        else:
            yield broken("recorded", path, "the session was not recovered: run `tape archive`")
    except (CorruptionError, OSError) as error:
        yield broken("readable", path, str(error))
    batches: list[Batch] = []
    catalog = Catalog(store)
    names = catalog.names(session).get(session, [])
    for name in names:
        count.batches += 1
        try:
            batches.append(catalog.batch(name))
        except (TerminalError, OSError) as error:
            yield _unreadable(store, error, str(name))
    # In order of opening, so that the lanes advance together.
    batches.sort(key=lambda batch: (batch.seal.opened_ns, batch.name.number, batch.name.lane))
    yield from _laws_of_all(store, batches, record, recording, count, rows, partial)
    if record is not None:
        yield from _record_laws(path, record, batches)
        yield from _numbers(path, record, names)
        # Totals over the batches require all of them.
        if len(batches) == len(names):
            yield from _chain(batches)
            yield from (broken("ledger", path, said) for said in balance(record, batches).imbalances())
        for left in (store.spool / session).glob("*.csv.open"):
            yield broken("sealed", left, "was left in the spool: run `tape archive`")


def _laws_of_all(
    store: Store, batches: list[Batch], record: SessionRecord | None, recording: bool, count: _Count, rows: Rows,
    partial: bool,
) -> Iterator[Broken]:  # fmt: skip
    """Check each batch, and the order of trades over all of them."""
    order, order_broken = Order(), list[Broken]()
    complete = True
    for batch in batches:
        if batch.manifest is None:
            complete = False
            if not recording:
                yield broken("archived", batch.record, "the batch is not yet archived: run `tape archive`")
            continue
        count.trades += batch.manifest.rows
        check = _OrderCheck(order, batch)
        laws = _laws_of(store, batch, check, rows)
        yield from laws
        known = batch.manifest.batch not in rows.in_bucket
        complete = complete and known and not laws and not batch.manifest.report.structural
        order_broken += [broken("order", batch.record, said) for said in check.said]
    if not partial:  # In a partial session, connections may begin or end in batches that are not here.
        yield from order_broken
    if complete and record is not None:
        tolerated = _tolerated(batches, record)
        path = store.sessions / record.session / "session.json"
        yield from (broken("order", path, said) for said in order.settle(tolerated))


def _laws_of(store: Store, batch: Batch, check: "_OrderCheck", rows: Rows) -> list[Broken]:
    try:
        return list(batch_laws(store, batch, check, rows))
    except OSError as error:
        return [broken("readable", Path(error.filename or batch.record), f"cannot be read ({error.strerror})")]


class _OrderCheck:
    """Adds a batch's rows to the session's order check; `said` collects the broken laws."""

    def __init__(self, order: Order, batch: Batch) -> None:
        self._order, self._last = order, {each.connection: each.last_seq for each in batch.seal.connections}
        self.said: list[str] = []

    def __call__(self, connections: Numbers, seqs: Numbers, times_ns: Numbers) -> None:
        for connection in np.unique(connections).tolist():
            mine = connections == connection
            # Connections unknown to the seal are reported elsewhere; here they could make the window grow forever.
            mine &= (seqs >= 1) & (seqs <= self._last.get(connection, 0))
            self.said += self._order.add(connection, seqs[mine], times_ns[mine])


def _tolerated(batches: list[Batch], record: SessionRecord) -> dict[int, int]:
    """Return, for each connection whose lanes a kill or failure may have cut, the number up to which it is complete.

    With one lane only the end can be missing, which needs no tolerance.
    """
    last = {connection: dict.fromkeys(range(len(record.batches)), 0) for connection in range(record.connections + 1)}
    torn = set()
    for batch in batches:
        for each in batch.seal.connections:
            lanes = last.setdefault(each.connection, {})
            lanes[batch.name.lane] = max(each.last_seq, lanes.get(batch.name.lane, 0))
        if batch.seal.recovered:
            torn.add(max((each.connection for each in batch.seal.connections), default=0))
    if record.outcome in {"killed", "failed"}:
        torn.add(max((connection for connection, lanes in last.items() if any(lanes.values())), default=0))
    return {connection: min(last[connection].values()) for connection in torn} if len(record.batches) > 1 else {}


def _record_laws(path: Path, record: SessionRecord, batches: list[Batch]) -> Iterator[Broken]:
    """Compare the session's own record with its batches."""
    if record.session != path.parent.name:
        yield broken("name", path, f"is the record of {record.session}")
    symbols = set(record.symbols).union(*(batch.seal.symbols for batch in batches))
    yield from gap_laws(record.gaps, symbols, path, ended=True)
    for batch in batches:
        if batch.seal.lanes != len(record.batches) or batch.name.lane >= len(record.batches):
            yield broken("lanes", batch.record, f"is of {batch.seal.lanes} lanes, {path.name} of {len(record.batches)}")
        if any(each.connection > record.connections for each in batch.seal.connections):
            yield broken("connections", batch.record, f"has more connections than {path} ({record.connections})")


def _numbers(path: Path, record: SessionRecord, names: list[BatchName]) -> Iterator[Broken]:
    """Check that each lane's batches are numbered from 0, as many as the record says."""
    for lane, expected in enumerate(record.batches):
        numbers = sorted(name.number for name in names if name.lane == lane)
        if numbers != list(range(expected)):
            missing = sorted(set(range(expected)) - set(numbers))
            which = f"without {missing[:5]}" if missing else f"has {len(numbers)} batches"
            yield broken("batches", path, f"lane {lane} {which}, the record says {expected} from 0 on")


def _chain(batches: list[Batch]) -> Iterator[Broken]:
    """Check that each batch begins where its lane's previous batch ended, for each connection."""
    ends: dict[tuple[int, int], tuple[int, int]] = {}
    for batch in sorted(batches, key=lambda batch: batch.name):
        for each in batch.seal.connections:
            key = (batch.name.lane, each.connection)
            before, now = ends.get(key, (0, 0)), (each.before_seq, each.before_recv_ns)
            if before != now:
                yield broken("chain", batch.record, f"connection {each.connection} follows on {now}, not on {before}")
            if batch.seal.lanes == 1 and each.first_seq != each.before_seq + 1:
                yield broken("chain", batch.record, f"connection {each.connection} begins at {each.first_seq}")
            ends[key] = (each.last_seq, each.last_recv_ns)


def _unreadable(store: Store, error: Exception, name: str) -> Broken:
    """Report an unreadable record; the error's message begins with the file."""
    file, _, _ = str(error).partition(": ")
    return Broken("readable", file if file.startswith(str(store.root)) else f"{store.root}: {name}", str(error))
