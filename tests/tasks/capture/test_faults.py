"""Whatever a feed does to us: what was wholly sent is sealed, once and in order, and each loss is one named gap."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from faults import (
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    Close,
    Drop,
    FaultServer,
    Frame,
    Raw,
    Reset,
    Send,
    Signal,
    Stall,
    Step,
    Subscribed,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from recording import (
    Answered,
    Recording,
    Row,
    Stamp,
    ask,
    assert_all_there,
    assert_counts_agree,
    quarantined,
    sealed_rows,
    trades,
    wait_for,
)

from tasks.ledger import SessionRecord
from tasks.store import Store
from tasks.trade import NS_PER_S

StartServer = Callable[..., FaultServer]
StartSession = Callable[..., Recording]

FIN = "the feed ended the connection without a close frame"
RESET = "the connection broke: connection reset by peer"
BROKE = "the feed broke the protocol: "


def gaps_between(rows: list[Row], record: SessionRecord, reasons: list[str]) -> None:
    """One gap for each lost connection, of all symbols, between its last row and the next connection's first."""
    assert [gap.reason for gap in record.gaps] == reasons
    for number, gap in enumerate(record.gaps, 1):
        before = [row.ts_recv_ns for row in rows if row.connection == number]
        after = [row.ts_recv_ns for row in rows if row.connection == number + 1]
        assert gap.symbols == record.symbols
        assert gap.end_ns is not None
        assert max(before, default=0) <= gap.start_ns <= gap.end_ns <= min(after, default=record.ended_ns)


@dataclass(frozen=True, slots=True)
class Ending:
    """A way to lose a connection: what the server does, the gap's reason, and the bytes that are quarantined."""

    steps: list[Step]
    reason: str
    refused: bytes | None = None


def frame(*arguments: Any, **options: Any) -> bytes:
    return bytes(Frame(*arguments, **options))


def closing(code: int | None) -> Ending:
    return Ending([Close(code, "bye" if code else "")], f"the feed closed the connection with code {code or 1005}")


def breaking(content: bytes, reason: str, refused: bytes | None = None) -> Ending:
    return Ending([Raw(content)], BROKE + reason, content if refused is None else refused)


ENDINGS = [
    Ending([Drop()], FIN),
    Ending([Reset()], RESET),
    *map(closing, (None, 1000, 1001, 1002, 1003, 1007, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 4999)),
    *(
        breaking(frame(CLOSE, code.to_bytes(2, "big")), f"a close frame with the invalid code {code}")
        for code in (0, 999, 1004, 1005, 1006, 1015, 2999, 5000, 65535)
    ),
    breaking(frame(CLOSE, b"\x03"), "a close frame with half a code"),
    breaking(frame(CLOSE, b"\x03\xe8\xff\xfe"), "a close frame whose reason is not UTF-8"),
    breaking(b"\xff\xfe\xfd garbage \x00", "a masked frame from the server"),
    breaking(frame(TEXT, b'{"type":"ping"}', masked=True), "a masked frame from the server"),
    breaking(frame(TEXT, b"{}", rsv=4), "reserved bits set, though no extension was agreed"),
    breaking(frame(PING, b"", rsv=1), "reserved bits set, though no extension was agreed"),
    breaking(frame(3, b"?"), "an unknown opcode, 3"),
    breaking(frame(11, b"?"), "an unknown opcode, 11"),
    breaking(frame(PING, b"?", fin=False), "a fragmented control frame"),
    breaking(frame(PONG, b"x" * 126), "a control frame of 126 bytes, above 125"),
    breaking(frame(CONTINUATION, b"of nothing"), "a continuation of no message"),
    breaking(frame(TEXT, b"", length=1 << 63), "a frame length of 2^63 and more"),
    breaking(
        frame(TEXT, b"one", fin=False) + frame(TEXT, b"another"),
        "a new message within a fragmented one",
        b"one" + frame(TEXT, b"another"),
    ),
    Ending([Raw(frame(TEXT, b"")[:1] + b"\xf0 garbage"), Reset()], BROKE + "a masked frame from the server"),
]


def test_each_way_to_lose_a_connection_is_one_gap_with_its_reason(
    store: Store, fault_server: StartServer, session: StartSession
) -> None:
    """FIN, RST, close codes, frames that must not be: nothing sent before is lost, and what broke a rule is kept."""
    scripts = [
        [Subscribed("A", "B"), Send(trades(3, 3 * n, "AB")), Answered(b"%d" % n), *ending.steps]
        for n, ending in enumerate(ENDINGS)
    ]
    done = threading.Event()
    server = fault_server(*scripts, [Subscribed("A", "B"), Send(trades(3, 900, "AB")), Signal(done)])
    recording = session(server.url, ("A", "B"))
    assert done.wait(20)
    record = recording.end()
    gaps_between(assert_all_there(store, record, server), record, [ending.reason for ending in ENDINGS])
    kept = [ending for ending in ENDINGS if ending.reason.startswith(BROKE)]
    found = quarantined(store, record.session)
    assert [BROKE + reason for _, reason, _ in found] == [ending.reason for ending in kept]
    for ending, (_, _, content) in zip(kept, found, strict=True):
        assert ending.refused in (None, content)
    for number, ending in enumerate(ENDINGS):
        if ending.reason.startswith("the feed closed") or ending.refused:
            server.connection(number).wait_heard("close")


def test_a_close_is_answered_with_its_code_and_a_violation_with_the_fitting_one(
    fault_server: StartServer, session: StartSession
) -> None:
    """RFC 6455: a close is echoed, a broken rule is told with 1002, text that is not UTF-8 with 1007, too much 1009."""
    codes = [b"\x03\xf4", b"", b"\x03\xea", b"\x03\xef", b"\x03\xf1"]
    server = fault_server(
        [Subscribed("A"), Close(1012)],
        [Subscribed("A"), Close(None)],
        [Subscribed("A"), Raw(frame(3))],
        [Subscribed("A"), Raw(frame(CLOSE, b"\x03\xe8\xff"))],
        [Subscribed("A"), Raw(frame(TEXT, b"x", length=5000))],
        [Subscribed("A")],
    )
    session(server.url, max_message_bytes=1000)
    for number, code in enumerate(codes):
        server.connection(number).wait_heard("close", code)


def test_a_torn_message_is_not_recorded_and_its_time_lies_in_the_gap(
    store: Store, fault_server: StartServer, session: StartSession
) -> None:
    """Half a message, then a pause and the end: no trade of it is recorded, and the gap begins before the pause."""
    half, broken, begun_ns, ended_ns = threading.Event(), threading.Event(), list[int](), list[int]()
    server = fault_server(
        [Subscribed("A"), Send(trades(2)), Send(trades(5, 2), cut_after=100), Stamp(begun_ns), Stall(half),
         Stamp(ended_ns), Drop()],
        [Subscribed("A"), Send(trades(2, 9)), Raw(frame(TEXT, b"one", fin=False)), Stamp(begun_ns), Stall(broken),
         Stamp(ended_ns), Raw(frame(TEXT, b"another"))],
        [Subscribed("A"), Send(trades(2, 20))],
    )  # fmt: skip
    recording = session(server.url, ping_every_s=0.05)
    for connection, event in ((0, half), (1, broken)):
        server.connection(connection)
        wait_for(lambda connection=connection: len(begun_ns) > connection)
        server.connection(connection).wait_heard("ping")
        event.set()
    server.connection(2).wait_heard("subscribe")
    record = recording.end()
    rows = assert_all_there(store, record, server)
    assert server.cut == trades(5, 2)
    gaps_between(rows, record, [FIN, BROKE + "a new message within a fragmented one"])
    for gap, begun, ended in zip(record.gaps, begun_ns, ended_ns, strict=True):
        assert gap.start_ns <= begun + NS_PER_S // 50
        assert ended <= (gap.end_ns or 0)
        assert gap.start_ns < ended


@pytest.mark.parametrize("fate", ["drop", "reset"])
def test_a_message_cut_after_any_byte_is_recorded_whole_or_not_at_all(
    store: Store, fault_server: StartServer, session: StartSession, fate: str
) -> None:
    """A message of one trade, cut after each of its bytes in turn: only what came whole is a row."""
    size = len(Send(trades(1, 5)).content())
    end: Step = Drop() if fate == "drop" else Reset()
    scripts = [
        [Subscribed("A"), Send(trades(1, 2 * n)), Answered(), Send(trades(1, 5), cut_after=n), end]
        for n in range(size + 1)
    ]
    server = fault_server(*scripts, [Subscribed("A")])
    recording = session(server.url)
    server.connection(size + 1).wait_heard("subscribe")
    record = recording.end()
    if fate == "drop":
        rows = assert_all_there(store, record, server)
        assert len(server.cut) == size
    else:  # A RST may overtake the last, whole message.
        rows = sealed_rows(store, record.session)
        assert [row.trade for row in rows] in (server.sent, server.sent[:-1])
        assert_counts_agree(store, record)
    gaps_between(rows, record, [FIN if fate == "drop" else RESET] * (size + 1))


@st.composite
def cut_messages(draw: st.DrawFn) -> tuple[int, int, int | None, int]:
    """How many trades, in how many fragments, by how many bytes at a time, cut where (as a share of 1,000)."""
    return (
        draw(st.integers(1, 400)), draw(st.integers(1, 9)), draw(st.none() | st.integers(700, 9000)),
        draw(st.integers(0, 1000)),
    )  # fmt: skip


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(cut_messages(), min_size=3, max_size=8))
def test_larger_messages_cut_anywhere(
    tmp_path_factory: pytest.TempPathFactory, messages: list[tuple[int, int, int | None, int]]
) -> None:
    """Messages of hundreds of trades in fragments, with control frames between, cut anywhere: whole or not at all."""
    scripts: list[list[Step]] = []
    first = 0
    for count, fragments, slowly, share in messages:
        between = [Frame(PING, b"between"), Frame(PONG, b"unasked")] if fragments > 1 else []
        whole = Send(trades(count, first, "AB"), fragments, between, slowly)
        cut = Send(trades(count, first + count, "AB"), fragments, between, slowly)
        cut = Send(cut.trades, fragments, between, slowly, cut_after=len(cut.content()) * share // 1000)
        scripts.append([Subscribed("A", "B"), whole, cut, Drop()])
        first += 2 * count
    root = tmp_path_factory.mktemp("cut")
    with FaultServer(*scripts, [Subscribed("A", "B")]) as server:
        recording = Recording(ask(root, server.url, "AB"))
        server.connection(len(scripts)).wait_heard("subscribe")
        record = recording.end()
        rows = assert_all_there(Store(root), record, server)
        gaps_between(rows, record, [FIN] * len(scripts))
