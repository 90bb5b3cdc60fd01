"""Does every law of conservation hold, recomputed from the files alone?"""

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
    """What was judged, how many sessions, batches and archived trades, and which laws do not hold.

    `recording` are sessions that still record: what they have archived was judged, the rest cannot be yet.
    `in_bucket_alone` counts batches whose rows were removed here once the bucket held them: `tape verify --remote`
    proves these, here their records were judged. `partial` are sessions of which a restore has brought some days: their
    batches were judged, what adds up over all of them cannot be.
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
    """What is counted on the way, and the batches read of the session at hand."""

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
    """Recompute every law, for each session and each batch found anywhere; a file that cannot be read breaks one.

    `note` is told how many sessions are judged, and of how many.

    Memory is bounded by a row group and by one session's records, whatever the sizes of its batches.
    """
    count = _Count()
    # Not in the data folder, which may be one that nobody may write.
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
    """What a session breaks while nothing of it moves: an archive that is at work beside us is no broken law.

    A batch that is validated, compressed or uploaded is for moments where one record says, and its file is not.
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
    """The names of all files of a session, and of the locks under which any of its batches is worked on."""
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
    # In the order in which they were opened, so that lanes keep together.
    batches.sort(key=lambda batch: (batch.seal.opened_ns, batch.name.number, batch.name.lane))
    yield from _laws_of_all(store, batches, record, recording, count, rows, partial)
    if record is not None:
        yield from _record_laws(path, record, batches)
        yield from _numbers(path, record, names)
        # What adds up over the batches can be said only of all of them.
        if len(batches) == len(names):
            yield from _chain(batches)
            yield from (broken("ledger", path, said) for said in balance(record, batches).imbalances())
        for left in (store.spool / session).glob("*.csv.open"):
            yield broken("sealed", left, "was left in the spool: run `tape archive`")


def _laws_of_all(
    store: Store, batches: list[Batch], record: SessionRecord | None, recording: bool, count: _Count, rows: Rows,
    partial: bool,
) -> Iterator[Broken]:  # fmt: skip
    """The laws of each batch, and of the order of trades over all of them."""
    order, order_broken = Order(), list[Broken]()
    complete = True
    for batch in batches:
        if batch.manifest is None:
            complete = False
            if not recording:
                yield broken("archived", batch.record, "the batch is not yet archived: run `tape archive`")
            continue
        count.trades += batch.manifest.rows
        taken = _Taking(order, batch)
        laws = _laws_of(store, batch, taken, rows)
        yield from laws
        known = batch.manifest.batch not in rows.in_bucket
        complete = complete and known and not laws and not batch.manifest.report.structural
        order_broken += [broken("order", batch.record, said) for said in taken.said]
    if not partial:  # Of its connections some begin, or end, in what is not here.
        yield from order_broken
    if complete and record is not None:
        tolerated = _tolerated(batches, record)
        path = store.sessions / record.session / "session.json"
        yield from (broken("order", path, said) for said in order.settle(tolerated))


def _laws_of(store: Store, batch: Batch, taken: "_Taking", rows: Rows) -> list[Broken]:
    try:
        return list(batch_laws(store, batch, taken, rows))
    except OSError as error:
        return [broken("readable", Path(error.filename or batch.record), f"cannot be read ({error.strerror})")]


class _Taking:
    """Takes a batch's rows into the session's order; `said` is what they break."""

    def __init__(self, order: Order, batch: Batch) -> None:
        self._order, self._last = order, {each.connection: each.last_seq for each in batch.seal.connections}
        self.said: list[str] = []

    def __call__(self, connections: Numbers, seqs: Numbers, times_ns: Numbers) -> None:
        for connection in np.unique(connections).tolist():
            mine = connections == connection
            # What the seal does not know of is said elsewhere, and could make the window as long as it likes.
            mine &= (seqs >= 1) & (seqs <= self._last.get(connection, 0))
            self.said += self._order.take(connection, seqs[mine], times_ns[mine])


def _tolerated(batches: list[Batch], record: SessionRecord) -> dict[int, int]:
    """For each connection in which a kill or a failure may have cut a lane's end: the number up to which all is there.

    With one lane nothing can be missing but the end, and no tolerance is needed.
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
    """The session's own record beside its batches."""
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
    """The batches of each lane are numbered from 0 on, as many as the record says."""
    for lane, expected in enumerate(record.batches):
        numbers = sorted(name.number for name in names if name.lane == lane)
        if numbers != list(range(expected)):
            missing = sorted(set(range(expected)) - set(numbers))
            which = f"without {missing[:5]}" if missing else f"has {len(numbers)} batches"
            yield broken("batches", path, f"lane {lane} {which}, the record says {expected} from 0 on")


def _chain(batches: list[Batch]) -> Iterator[Broken]:
    """Each batch begins where the one before it in its lane ended, connection by connection."""
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
    """A record that cannot be read; its message begins with the file."""
    file, _, _ = str(error).partition(": ")
    return Broken("readable", file if file.startswith(str(store.root)) else f"{store.root}: {name}", str(error))
