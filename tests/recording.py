"""Records one session from a fault server, and checks what must be true of it afterwards.

The session runs in a thread of the test's process, with short times and without waits between connections:

    recording = start(server.url, ("A",))
    server.connection(1).wait_heard("subscribe")
    record = recording.end()
    assert_all_there(store, record, server)
"""

import json
import os
import threading
import time
from base64 import b64decode
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from faults import PING, Connection, FaultServer, Frame, Send

from tasks.capture.clock import Clock
from tasks.capture.listener import Backoff
from tasks.capture.request import CaptureRequest, save_request
from tasks.capture.session import Session
from tasks.records.ledger import SessionRecord
from tasks.records.names import session_name
from tasks.records.status import Status, read_status
from tasks.records.trade import JOURNAL_HEADER, NS_PER_MS, NS_PER_S, Trade
from tasks.storage.store import Store
from tasks.verify.account import ledger_for

WITHIN_S = 20.0
FIN = "the feed ended the connection without a close frame"
RESET = "the connection broke: connection reset by peer"
BROKE = "the feed broke the protocol: "
AT_ONCE = Backoff(first_s=0.0)
_START_MS = 1_700_000_000_000


def trades(count: int, first: int = 0, symbols: Sequence[str] = ("A",)) -> list[Trade]:
    """So many trades from the `first`-th on, one each millisecond, the symbols in turn; no two are equal."""
    return [
        Trade((_START_MS + n) * NS_PER_MS, symbols[n % len(symbols)], f"{n}.{n % 7}0", str(n + 1), ("1", "12")[: n % 3])
        for n in range(first, first + count)
    ]


def ask(root: Path, url: str, symbols: Sequence[str] = ("A",), **changes: Any) -> CaptureRequest:
    """A request for a minute, saved."""
    now_ns = time.time_ns()
    request = CaptureRequest(
        session=session_name(now_ns, os.urandom), data_dir=root, feed_url=url, symbols=tuple(symbols),
        started_ns=now_ns, deadline_ns=now_ns + 60 * NS_PER_S, connect_timeout_s=5.0, ping_every_s=5.0,
    )  # fmt: skip
    request = replace(request, **changes)
    save_request(request)
    return request


class Fast:
    """A clock that runs twenty times as fast, so that a test need not wait for a silence to become strange."""

    def __init__(self) -> None:
        self._wall_ns, self._mono_ns = time.time_ns(), time.monotonic_ns()

    def _passed_ns(self) -> int:
        return (time.monotonic_ns() - self._mono_ns) * 20

    def clock(self) -> Clock:
        return Clock(lambda: self._wall_ns + self._passed_ns(), lambda: self._mono_ns + self._passed_ns())


class Recording:
    """A session that runs in a thread of this process."""

    def __init__(self, request: CaptureRequest, backoff: Backoff = AT_ONCE, clock: Clock | None = None) -> None:
        self.request = request
        self.session = Session(request, "a-very-secret-key", clock, backoff)
        self.error: BaseException | None = None
        self._record: SessionRecord | None = None
        self._thread = threading.Thread(target=self._run, name="session", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._record = self.session.run()
        except BaseException as error:
            self.error = error

    def status(self) -> Status:
        """How it stands."""
        return wait_for(lambda: read_status(self.request.folder))

    def when(self, holds: Callable[[Status], Any]) -> Any:
        """Wait until that holds of the status; gives what it gave."""
        return wait_for(lambda: holds(self.status()))

    def end(self) -> SessionRecord:
        """Stop it in order; gives its record."""
        self.session.stop()
        return self.record()

    def record(self) -> SessionRecord:
        """Its record, once it has ended by itself."""
        self.join()
        if self.error is not None:
            raise self.error
        assert self._record is not None
        return self._record

    def join(self) -> None:
        self._thread.join(2 * WITHIN_S)
        assert not self._thread.is_alive(), "the session does not end"


def wait_for(condition: Callable[[], Any], within_s: float = WITHIN_S) -> Any:
    """What the condition gives once it is true."""
    end_s = time.monotonic() + within_s
    while not (value := condition()):
        assert time.monotonic() < end_s, "it did not happen in time"
        time.sleep(0.005)
    return value


@dataclass(frozen=True, slots=True)
class Row:
    """One sealed row: what our receipt added, and the vendor's trade."""

    connection: int
    seq: int
    ts_recv_ns: int
    trade: Trade


def sealed_rows(store: Store, session: str) -> list[Row]:
    """The rows of all sealed batches of a session, in order of receipt."""
    rows: list[Row] = []
    for name in store.sealed_batches():
        if name.session == session:
            content = (store.sealed / name.sealed).read_bytes()
            header, *lines = content.decode().splitlines()
            assert header.encode().startswith(JOURNAL_HEADER[:-1])
            rows += map(_row, lines)
    return sorted(rows, key=lambda row: (row.connection, row.seq))


def _row(line: str) -> Row:
    connection, seq, ts_recv, ts_event, symbol, price, size, conditions, *_ = line.split(",")
    codes = tuple(conditions.split(";")) if conditions else ()
    return Row(int(connection), int(seq), int(ts_recv), Trade(int(ts_event), symbol, price, size, codes))


def quarantined(store: Store, session: str) -> list[tuple[str, str, bytes]]:
    """What the capture refused, in order: kind, reason, and the bytes as received."""
    found = []
    for path in sorted(store.quarantine.glob(f"{session}-*.frames.jsonl")):
        for line in path.read_bytes().splitlines():
            said = json.loads(line)
            content = said["text"].encode() if "text" in said else b64decode(said["base64"])
            found.append((said["kind"], said["reason"], content))
    return found


def assert_all_there(store: Store, record: SessionRecord, server: FaultServer) -> list[Row]:
    """Every trade that was wholly on the wire is a sealed row, in order, and nothing else is; the counts agree."""
    rows = sealed_rows(store, record.session)
    assert [row.trade for row in rows] == server.sent
    assert_in_order(rows)
    assert_counts_agree(store, record)
    return rows


def assert_in_order(rows: Sequence[Row]) -> None:
    """Each connection's rows are numbered from 1 without a hole, and their receive times never decrease."""
    for connection in {row.connection for row in rows}:
        mine = [row for row in rows if row.connection == connection]
        assert [row.seq for row in mine] == list(range(1, len(mine) + 1))
        stamps = [row.ts_recv_ns for row in mine]
        assert stamps == sorted(stamps)


def assert_gaps_between(rows: list[Row], record: SessionRecord, reasons: list[str]) -> None:
    """One gap for each lost connection, of all symbols, between its last row and the next connection's first."""
    assert [gap.reason for gap in record.gaps] == reasons
    for number, gap in enumerate(record.gaps, 1):
        before = [row.ts_recv_ns for row in rows if row.connection == number]
        after = [row.ts_recv_ns for row in rows if row.connection == number + 1]
        assert gap.symbols == record.symbols
        assert gap.end_ns is not None
        assert max(before, default=0) <= gap.start_ns <= gap.end_ns <= min(after, default=record.ended_ns)


def assert_counts_agree(store: Store, record: SessionRecord) -> None:
    """What the socket counted is what the readers and writers counted, and what is lost is said to be."""
    ledger = ledger_for(store, record.session)
    assert [law for law in ledger.laws()[:3] if law[1] != law[3]] == []
    assert sum(record.batches) == ledger.batches.sealed


def frame(*arguments: Any, **options: Any) -> bytes:
    """A frame's bytes, right or wrong."""
    return bytes(Frame(*arguments, **options))


@dataclass(frozen=True, slots=True)
class Answered:
    """A step: send a ping with that payload and wait for its pong. What was sent before has then been read."""

    payload: bytes = b"read all of it?"

    def run(self, connection: Connection) -> None:
        connection.write(bytes(Frame(PING, self.payload)))
        connection.wait_heard("pong", self.payload)


@dataclass(frozen=True, slots=True)
class Stamp:
    """A step: note the time (UTC ns)."""

    times_ns: list[int]

    def run(self, connection: Connection) -> None:
        self.times_ns.append(time.time_ns())


@dataclass(frozen=True, slots=True)
class Until:
    """A step: wait until the client has sent that."""

    kind: str
    what: str | bytes | None = None

    def run(self, connection: Connection) -> None:
        connection.wait_heard(self.kind, self.what)


@dataclass(frozen=True, slots=True)
class Wait:
    """A step: wait until the client has sent so many of that kind."""

    kind: str
    count: int = 1

    def run(self, connection: Connection) -> None:
        connection.wait_until(lambda: sum(heard.kind == self.kind for heard in connection.heard) >= self.count, "it")


@dataclass(frozen=True, slots=True)
class Babble:
    """A step: send messages, one each `pause_s`, until all symbols are unsubscribed or, being `deaf`, for ever."""

    pause_s: float
    deaf: bool = False
    per_message: int = 1

    def run(self, connection: Connection) -> None:
        number = 0
        while self.deaf or connection.subscribed:
            Send(trades(self.per_message, number)).run(connection)
            number += self.per_message
            time.sleep(self.pause_s)
        Send(trades(3, number)).run(connection)  # in flight when the unsubscription came


StartSession = Callable[..., Recording]
