"""Whatever a feed does to us: what was wholly sent is sealed, once and in order, and each loss is one named gap."""

import json
import os
import random
import re
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from faults import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    Accept,
    Answer,
    Close,
    Connection,
    Drop,
    FaultServer,
    Frame,
    Mute,
    Raw,
    Reset,
    Send,
    Signal,
    Stall,
    Step,
    Subscribed,
    Text,
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
    assert_in_order,
    quarantined,
    sealed_rows,
    trades,
    wait_for,
)

from tasks.capture.feed import connect
from tasks.capture.finnhub import Reader
from tasks.capture.listener import Backoff
from tasks.errors import TransientError
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


@dataclass(frozen=True, slots=True)
class Wait:
    """A step: wait until the client has sent so many of that kind."""

    kind: str
    count: int = 1

    def run(self, connection: Connection) -> None:
        connection.wait_until(lambda: sum(heard.kind == self.kind for heard in connection.heard) >= self.count, "it")


@dataclass(frozen=True, slots=True)
class Drip:
    """A step before the handshake's answer: a header that never ends, byte by byte."""

    def run(self, connection: Connection) -> None:
        connection.read_request()
        for byte in b"HTTP/1.1 101 Switching Protocols\r\nX: " + b"x" * 1000:
            connection.write(bytes([byte]))
            time.sleep(0.02)


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


def test_a_stalled_feed_that_answers_pings_is_no_gap(
    store: Store, fault_server: StartServer, session: StartSession
) -> None:
    """Silence for many ping intervals, each ping answered, then more trades: one connection, no gap."""
    server = fault_server([Subscribed("A"), Send(trades(3)), Wait("ping", 5), Send(trades(3, 3)), Answered(b"last")])
    recording = session(server.url, ping_every_s=0.05)
    server.connection(0).wait_heard("pong", b"last")
    record = recording.end()
    assert_all_there(store, record, server)
    assert (record.connections, record.gaps) == (1, ())


def test_a_half_open_connection_is_found_by_ping_and_the_gap_begins_with_the_silence(
    store: Store, fault_server: StartServer, session: StartSession
) -> None:
    """A peer that neither sends nor answers is given up within two ping intervals; the gap begins at its last bytes."""
    muted_ns, over, again = list[int](), threading.Event(), threading.Event()
    server = fault_server(
        [Subscribed("A"), Send(trades(3)), Answered(), Stamp(muted_ns), Mute(over)],
        [Subscribed("A"), Signal(again), Send(trades(3, 3)), Answered(b"last")],
    )
    recording = session(server.url, ping_every_s=0.3)
    assert again.wait(5)
    took_s = (time.time_ns() - muted_ns[0]) / NS_PER_S
    server.connection(1).wait_heard("pong", b"last")
    over.set()
    record = recording.end()
    rows = assert_all_there(store, record, server)
    gaps_between(rows, record, ["no answer to a ping within 0.3 s"])
    assert rows[2].ts_recv_ns <= record.gaps[0].start_ns <= muted_ns[0] + NS_PER_S // 20
    assert 0.55 <= took_s <= 0.6 + 0.5


def test_fragments_control_frames_between_them_and_slow_bytes_are_no_fault(
    store: Store, fault_server: StartServer, session: StartSession
) -> None:
    """However a message is divided on the wire it is one message, and each ping is answered with its own payload."""
    pings = [Frame(PING, payload) for payload in (b"", b"\x00\xff", b"x" * 125)]
    server = fault_server(
        [
            Subscribed("A"),
            Send(trades(40), fragments=7, between=[*pings, Frame(PONG, b"unasked")]),
            Send(trades(2, 40), slowly=1, pause_s=0.0005),
            Send(trades(40, 42), fragments=4000, between=[Frame(PING, b"more")], slowly=3),
            Raw(frame(TEXT, b'{"type"', fin=False) + frame(CONTINUATION, b"", fin=False)),
            Raw(frame(CONTINUATION, b':"ping"}')),
            Raw(frame(TEXT, b'{"type":"ping"}', length_bytes=8)),
            Answered(b"last"),
        ]
    )
    recording = session(server.url)
    connection = server.connection(0)
    connection.wait_heard("pong", b"last")
    record = recording.end()
    assert_all_there(store, record, server)
    assert (record.gaps, quarantined(store, record.session)) == ((), [])
    payloads = [heard.what for heard in connection.heard if heard.kind == "pong"]
    assert payloads == [b"", b"\x00\xff", b"x" * 125, b"more", b"last"]
    # Three messages of trades, two of the vendor's pings, six control frames, and the answers to our leaving.
    assert record.frames_received == 3 + 2 + 6 + 2


def test_equal_messages_are_all_kept(store: Store, fault_server: StartServer, session: StartSession) -> None:
    """Two prints that are equal in every field can both be real: what comes thrice is recorded thrice."""
    server = fault_server([Subscribed("A"), *[Send(trades(3))] * 3, Answered()])
    recording = session(server.url)
    server.connection(0).wait_heard("pong")
    record = recording.end()
    assert len(assert_all_there(store, record, server)) == 9


def test_refused_handshakes_are_tried_again_with_growing_waits(
    store: Store, fault_server: StartServer, session: StartSession
) -> None:
    """Any answer but a right 101 is one gap, from the start until the feed is there, with full-jitter waits."""
    statuses = (200, 204, 302, 400, 404, 500, 502, 503, 504, 520, 524)
    most_s: list[float] = []
    elsewhere = b"Location: ws://127.0.0.1:1/\r\n"
    server = fault_server(
        *[[Answer(status, extra=elsewhere)] for status in statuses],
        [Accept(wrong_key=True)],
        [Accept(), Subscribed("A"), Send(trades(3)), Answered()],
    )
    backoff = Backoff(0.5, 30.0, uniform=lambda least_s, at_most_s: (most_s.append(at_most_s), least_s)[1])
    recording = session(server.url, backoff=backoff)
    server.connection(len(statuses) + 1).wait_heard("pong")
    record = recording.end()
    assert_all_there(store, record, server)
    (gap,) = record.gaps
    assert (gap.start_ns, gap.end_ns) == (record.started_ns, record.listening_ns)
    assert gap.reason == "the feed answered the handshake with HTTP 200"
    assert most_s[:12] == [1, 2, 4, 8, 16, 30, 30, 30, 30, 30, 30, 30]
    assert record.connections == 1


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_ends_the_session_at_once(
    store: Store, fault_server: StartServer, session: StartSession, status: int
) -> None:
    """Where the key is refused, trying again is no use: the session fails at once and says what to do."""
    server = fault_server([Answer(status)])
    record = session(server.url).record()
    assert record.outcome == "failed"
    assert record.error == (
        f"the feed refused the API key (HTTP {status}); set FINNHUB_API_KEY to the key of your dashboard"
    )
    (gap,) = record.gaps
    assert (gap.start_ns, gap.end_ns, gap.reason) == (record.started_ns, record.deadline_ns, record.error)
    assert len(server.connections) == 1


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ([Answer(429)], "the feed counts another connection on this API key (HTTP 429)"),
        ([Subscribed("A"), Close(1008)], "the feed closed the connection with code 1008"),
    ],
)
def test_a_second_connection_on_the_key_waits_for_minutes_and_says_so(
    fault_server: StartServer, session: StartSession, script: list[Step], reason: str
) -> None:
    """At 429, and at the close code for it, the next try is a minute and more away; a stop still ends it at once."""
    server = fault_server(script)
    recording = session(server.url, backoff=Backoff(30.0, uniform=lambda _least_s, most_s: most_s / 4))
    notice = recording.when(lambda status: status.state == "reconnecting" and status.notice)
    assert notice == f"{reason}; next try in 67.5 s"
    started_s = time.monotonic()
    record = recording.end()
    assert time.monotonic() - started_s < 2
    assert [gap.reason for gap in record.gaps] == [reason]
    assert len(server.connections) == 1


def test_slow_handshakes_are_given_up_and_tried_again(
    store: Store, fault_server: StartServer, session: StartSession
) -> None:
    """A handshake that is not answered in time, or comes byte by byte for ever, is given up as a whole."""
    over = threading.Event()
    server = fault_server([Stall(over), Accept()], [Drip(), Accept()], [Accept(wrong_key=True)], [Subscribed("A")])
    recording = session(server.url, connect_timeout_s=0.2)
    server.connection(3).wait_heard("subscribe")
    over.set()
    record = recording.end()
    assert [gap.reason for gap in record.gaps] == ["no connection: it took too long"]
    assert record.gaps[0].end_ns == record.listening_ns


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("ws://nowhere.invalid", "no connection: the host's name was not found"),
        (f"ws://{'x' * 64}.invalid", "no connection: the host's name was not found"),
        ("ws://127.0.0.1:1", "no connection: connection refused"),
    ],
)
def test_no_host_is_a_gap_that_names_no_address(
    session: StartSession, monkeypatch: pytest.MonkeyPatch, url: str, reason: str
) -> None:
    """A name that is not found and a port that is refused are tried again; neither address nor key is told."""
    real = socket.getaddrinfo

    def resolve(host: str, *arguments: Any, **options: Any) -> Any:
        # A resolver without a network takes its time; this one answers at once.
        if host == "nowhere.invalid":
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return real(host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    recording = session(url)
    recording.when(lambda status: status.open_gaps)
    record = recording.end()
    (gap,) = record.gaps
    assert gap.reason == reason
    assert (gap.start_ns, gap.end_ns) == (record.started_ns, record.ended_ns)


def test_a_refused_port_is_a_gap_until_it_listens(
    store: Store, fault_server: StartServer, session: StartSession
) -> None:
    """The feed restarts: the connection is reset, the port refuses, then listens; that is one gap."""
    go, refused = threading.Event(), threading.Event()
    server = fault_server([Subscribed("A"), Send(trades(3)), Answered(), Stall(go), Reset()], [Subscribed("A")])
    recording = session(server.url, backoff=Backoff(0.02, uniform=lambda _least_s, most_s: most_s))
    server.connection(0).wait_heard("pong")
    server.refuse()
    go.set()
    recording.when(lambda status: "refused" in (status.notice or ""))
    refused.set()
    server.listen()
    server.connection(1).wait_heard("subscribe")
    record = recording.end()
    gaps_between(assert_all_there(store, record, server), record, [RESET])


def test_a_message_above_the_limit_is_quarantined_as_far_as_it_came(
    store: Store, fault_server: StartServer, session: StartSession
) -> None:
    """A message that would fill the memory is refused from its header on, in one frame or in many; then reconnect."""
    whole, fragment = frame(TEXT, b"x" * 1001), frame(TEXT, b"y" * 600, fin=False)
    second = frame(CONTINUATION, b"z" * 401)
    server = fault_server(
        [Subscribed("A"), Send(trades(3)), Answered(), Raw(whole)],
        [Subscribed("A"), Send(trades(3, 3)), Answered(), Raw(fragment), Answered(b"2"), Raw(second)],
        [Subscribed("A"), Raw(frame(TEXT, b"", length=1 << 62))],
        [Subscribed("A"), Raw(frame(TEXT, b'{"type":"ping"}' + b" " * 985)), Answered()],
    )
    recording = session(server.url, max_message_bytes=1000)
    server.connection(3).wait_heard("pong")
    record = recording.end()
    rows = assert_all_there(store, record, server)
    reason = "a message above the limit of 1,000 bytes"
    gaps_between(rows, record, [BROKE + reason] * 3)
    assert quarantined(store, record.session) == [
        ("frame", reason, whole),
        ("frame", reason, b"y" * 600 + second),
        ("frame", reason, frame(TEXT, b"", length=1 << 62)),
    ]


def test_symbols_too_many_are_named_and_the_others_go_on(
    store: Store, fault_server: StartServer, session: StartSession
) -> None:
    """The vendor's error names none: those subscribed last are meant; the others are recorded, on one connection."""
    too_many = Text('{"type":"error","msg":"Subscribing to too many symbols"}')
    server = fault_server([Subscribed("A", "B", "C", "D"), too_many, too_many, Send(trades(4, 0, "AB")), Answered()])
    recording = session(server.url, tuple("ABCD"))
    recording.when(lambda status: set(status.refused_symbols) == {"C", "D"} and status.trades == 4)
    record = recording.end()
    assert_all_there(store, record, server)
    assert (set(record.refused), set(record.never_heard), record.connections) == ({"C", "D"}, {"C", "D"}, 1)
    assert {symbol for gap in record.gaps for symbol in gap.symbols} == {"C", "D"}
    assert all(gap.reason == "refused: Subscribing to too many symbols" for gap in record.gaps)
    assert all(gap.end_ns == record.ended_ns for gap in record.gaps)


@pytest.mark.parametrize("lanes", [1, 3])
def test_a_stop_under_load_archives_all_that_was_sent(
    store: Store, fault_server: StartServer, session: StartSession, lanes: int
) -> None:
    """Unsubscribe, take what is in flight, close: every trade that the server sent until its end is sealed."""
    server = fault_server([Subscribed("A", "B", "C"), Babble(0.0, per_message=40)])
    recording = session(server.url, tuple("ABC"), lanes=lanes)
    recording.when(lambda status: status.trades > 2000)
    record = recording.end()
    assert (record.outcome, record.gaps) == ("stopped", ())
    assert len(assert_all_there(store, record, server)) > 2000
    kinds = [heard.kind for heard in server.connection(0).heard]
    assert kinds[-5:] == ["unsubscribe", "unsubscribe", "unsubscribe", "ping", "close"]


def test_a_feed_that_never_stops_sending_cannot_keep_a_session_open(
    store: Store, fault_server: StartServer, session: StartSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the peer hears neither unsubscription nor close and sends on, the session ends all the same."""
    monkeypatch.setattr("tasks.capture.listener._LEAVE_S", 0.3)
    server = fault_server([Subscribed("A"), Babble(0.005, deaf=True)])
    recording = session(server.url)
    recording.when(lambda status: status.trades > 10)
    server.connection(0).hearing.clear()
    started_s = time.monotonic()
    record = recording.end()
    server.connection(0).hearing.set()
    assert time.monotonic() - started_s < 5
    rows = sealed_rows(store, record.session)
    assert [row.trade for row in rows] == server.sent[: len(rows)]
    assert record.outcome == "stopped"


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two authorities, and a certificate for localhost from each: `ca`, `server`, `key`, `other_ca`."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl makes the certificates")
    folder = tmp_path_factory.mktemp("tls")
    made = {name: folder / f"{name}.pem" for name in ("key", "server", "ca_key", "ca", "other_ca")}
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")
    name = ("-addext", "subjectAltName=DNS:localhost")
    for arguments in (
        ("-x509", *curve, "-keyout", made["ca_key"], "-out", made["ca"], "-subj", "/CN=our own"),
        ("-x509", *curve, "-keyout", folder / "other", "-out", made["other_ca"], "-subj", "/CN=another"),
        ("-x509", *curve, "-keyout", made["key"], "-out", made["server"], "-subj", "/CN=localhost", *name,
         "-addext", "basicConstraints=critical,CA:FALSE", "-CA", made["ca"], "-CAkey", made["ca_key"]),
    ):  # fmt: skip
        subprocess.run(["openssl", "req", *arguments], check=True, capture_output=True)
    return made


def tls_of(certificates: dict[str, Path]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates["server"], certificates["key"])
    return context


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "WEBSOCKET_CLIENT_CA_BUNDLE"])
def test_tls_with_an_authority_of_ones_own(
    store: Store, fault_server: StartServer, session: StartSession, certificates: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch, variable: str,
) -> None:  # fmt: skip
    """Over TLS the same faults end the same way: FIN without a closing alert, RST, a torn message, a close, a stop."""
    monkeypatch.setenv(variable, str(certificates["ca"]))
    server = fault_server(
        [Subscribed("A"), Send(trades(2000)), Answered(), Send(trades(9), cut_after=99), Drop()],
        [Subscribed("A"), Send(trades(3, 2000)), Answered(), Reset()],
        [Subscribed("A"), Send(trades(3, 2003), fragments=5, between=[Frame(PING, b"x")], slowly=9), Close(1012)],
        [Subscribed("A"), Babble(0.001, per_message=300)],
        tls=tls_of(certificates),
    )
    recording = session(server.url)
    recording.when(lambda status: status.connection == 4 and status.trades > 3000)
    record = recording.end()
    rows = assert_all_there(store, record, server)
    # A RST may come as TLS's own alert before it.
    broke = record.gaps[1].reason
    assert broke.startswith("the connection broke: ")
    gaps_between(rows, record, [FIN, broke, "the feed closed the connection with code 1012"])


def test_an_authority_that_is_not_trusted_is_said_clearly_and_without_the_address(
    fault_server: StartServer, session: StartSession, certificates: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A certificate by another authority is no reason to end: it is tried again, and the gap says what was wrong."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates["other_ca"]))
    server = fault_server(tls=tls_of(certificates))
    recording = session(server.url)
    gap = recording.when(lambda status: status.open_gaps)[0]
    assert gap.reason == (
        "no connection: the TLS certificate was not accepted (unable to get local issuer certificate)"
    )
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates["ca"]))
    plain = fault_server(then=[Raw(b"HTTP/1.1 400 Bad Request\r\n\r\n"), Drop(), Accept()])
    no_tls = session(plain.url.replace("ws://127.0.0.1", "wss://localhost"))
    assert "TLS failed" in no_tls.when(lambda status: status.open_gaps)[0].reason
    for each in (recording, no_tls):
        assert "localhost" not in (each.end().gaps[0].reason)


def test_what_was_decrypted_before_an_error_is_not_thrown_away(
    fault_server: StartServer, certificates: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two whole TLS records, then garbage below TLS, all in one read: what the two held is given, then the error."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates["ca"]))
    sent = threading.Event()
    server = fault_server([RawBelowTls(b"y" * (20 << 10), b"garbage" * 10), Signal(sent)], tls=tls_of(certificates))
    connection = connect(server.url, 5.0)
    assert sent.wait(5)
    assert connection.read(2.0) == b"y" * (20 << 10)
    with pytest.raises(TransientError, match="the connection broke"):
        connection.read(2.0)
    connection.close()


@dataclass(frozen=True, slots=True)
class RawBelowTls:
    """A step: write content through TLS, then garbage to the socket below it."""

    content: bytes
    garbage: bytes

    def run(self, connection: Connection) -> None:
        connection.write(self.content)
        with socket.socket(fileno=os.dup(connection._socket.fileno())) as below:
            below.sendall(self.garbage)


def test_back_pressure_holds_the_sender_and_loses_nothing(
    store: Store, fault_server: StartServer, session: StartSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the disk takes nothing, the queue stays within its bound and the server cannot send; then all is there."""
    goes, real = threading.Event(), os.write

    def write(descriptor: int, content: bytes) -> int:
        if threading.current_thread().name.startswith("lane-"):
            goes.wait(20)
        return real(descriptor, content)

    monkeypatch.setattr(os, "write", write)
    # Two kernel buffers and ours are smaller than this: 20 MB of trades with many digits.
    fat = [replace(trade, price=trade.price + "0" * 400) for trade in trades(40_000, 0, "AB")]
    messages = [Send(fat[at : at + 100]) for at in range(0, len(fat), 100)]
    server = fault_server([Subscribed("A", "B"), *messages, Answered()])
    recording = session(server.url, ("A", "B"), queue_bytes=100_000, ping_every_s=0.1)
    connection = server.connection(0)
    sent = -1
    while sent != (sent := len(connection._sent)) or sent == 0:  # until the server can send no more
        time.sleep(0.3)
    assert sent < len(fat)
    status = recording.status()
    assert 0 < status.queue_bytes <= 100_000 + (32 << 10)
    goes.set()
    connection.wait_heard("pong")
    record = recording.end()
    assert_all_there(store, record, server)
    assert (record.connections, record.gaps) == (1, ())
    assert recording.status().blocked_s > 0.2


def test_a_feed_that_drops_us_for_slowness_is_a_gap_with_that_reason(
    store: Store, fault_server: StartServer, session: StartSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The journal holds up the reading for a second, the feed closes: the gap's reason says both."""
    goes, real = threading.Event(), os.write

    def write(descriptor: int, content: bytes) -> int:
        if threading.current_thread().name.startswith("lane-"):
            goes.wait(20)
        return real(descriptor, content)

    monkeypatch.setattr(os, "write", write)
    sends = [Send(trades(500, 500 * n)) for n in range(20)]
    server = fault_server([Subscribed("A"), *sends, Close(1008, "too slow")])
    recording = session(server.url, queue_bytes=10_000, backoff=Backoff(0.0))
    threading.Timer(1.3, goes.set).start()
    recording.when(lambda status: status.open_gaps)
    record = recording.end()
    assert_all_there(store, record, server)
    (gap,) = record.gaps
    assert re.fullmatch(
        r"the feed closed the connection with code 1008; for 1\.\d s before, the journal had held up the reading",
        gap.reason,
    )


HOSTILE = ("../../etc/passwd", "..", "/", "CON", "nul\x00", "a,b", "x" * 10_000, "\ud83d", "𝔄", "", "A\nB", '"', "-rf")


def fuzzed(seed: int) -> list[bytes]:
    """Messages that nobody should send, from a seed."""
    roll = random.Random(seed)
    numbers = [
        "NaN",
        "Infinity",
        "-1",
        "1e400",
        "-0",
        "0.1e-7",
        "9" * 400,
        "null",
        "true",
        '"1"',
        "[1]",
        "{}",
        "1.",
        "01",
    ]

    def trade() -> str:
        symbol = json.dumps(roll.choice([*"ABCDEFGHIJKLMNOPQRSTUVWXYZ", *HOSTILE]))
        fields = {
            '"s"': symbol,
            '"p"': "1.50",
            '"t"': "1700000000000",
            '"v"': "7",
            '"c"': roll.choice(["null", "[]", '["1"]']),
            '"unknown"': roll.choice(["{}", '"x"', "1"]),
        }
        fields |= {name: roll.choice(numbers) for name in fields if roll.random() < 0.03}
        chosen = [each for each in fields.items() if roll.random() < 0.97]
        roll.shuffle(chosen)
        return "{" + ",".join(f"{name}:{value}" for name, value in chosen) + "}"

    def one() -> bytes:
        kind = roll.randrange(8)
        if kind < 4:
            whole = f'{{"type":"trade","data":[{",".join(trade() for _ in range(roll.randrange(5)))}]}}'.encode()
            return whole if kind else whole[: roll.randrange(len(whole))]
        if kind == 4:
            return roll.randbytes(roll.randrange(200))
        if kind == 5:
            return b"[" * 50_000 + b"]" * roll.choice([0, 50_000])
        if kind == 6:
            return roll.choice([b'{"type":"ping"}', b'{"type":"error","msg":"x"}', b'{"type":"\xff\xfe"}', b"", b"{}"])
        return b'{"type":"trade","data":' + roll.choice([b"[[[]]]", b"{}", b"1", b'"' + b"x" * 300_000 + b'"']) + b"}"

    return [one() for _ in range(300)]


@pytest.mark.parametrize("lanes", [1, 2])
def test_bad_input_is_counted_and_quarantined_as_received(
    store: Store, fault_server: StartServer, session: StartSession, lanes: int
) -> None:
    """Huge, deep, wrong, not UTF-8, hostile symbols, over the socket: all accounted for, and no file out of place."""
    messages = fuzzed(seed=lanes)
    symbols = ("A", *(symbol for symbol in HOSTILE if symbol not in ("", "\ud83d")))
    binary = b"\x00binary"
    server = fault_server(
        [Subscribed(*symbols), *(Raw(frame(TEXT, each)) for each in messages), Raw(frame(BINARY, binary)), Answered(),
         Send(trades(6, 0, ("../../etc/passwd", "CON", "A"))), Answered(b"last")]
    )  # fmt: skip
    outside = sorted(path for path in store.root.parent.iterdir())
    recording = session(server.url, symbols, lanes=lanes, batch_bytes=10_000)
    server.connection(0).wait_heard("pong", b"last")
    record = recording.end()
    assert (record.outcome, record.connections, record.gaps) == ("stopped", 1, ())
    assert_counts_agree(store, record)
    assert record.frames_received == len(messages) + 1 + 1 + 2 + 2
    rows = sealed_rows(store, record.session)
    assert_in_order(rows)
    found = quarantined(store, record.session)
    refused_frames = [content for kind, _, content in found if kind == "frame"]
    # Each refused frame is one of those sent, byte for byte and as often; each refused trade a part of one.
    assert not Counter(refused_frames) - Counter([*messages, binary])
    assert binary in refused_frames
    expected = Reader().read(messages, 1, 1, 0)
    assert len(rows) == len(expected.lines) + 6
    assert Counter(content for _, _, content in found) == Counter(
        [each.payload for each in expected.refused] + [binary]
    )
    assert len(expected.refused) > 100 < len(rows), (len(expected.refused), len(rows))
    assert sorted(path for path in store.root.parent.iterdir()) == outside
    known = {"archive", "locks", "quarantine", "sealed", "sessions", "spool", "validated", record.session}
    names = [path.name for path in store.root.rglob("*") if path.name not in known]
    assert all(name.startswith(record.session) or path_is_ours(name) for name in names), names


def path_is_ours(name: str) -> bool:
    return name in {"request.json", "gaps.json", "watchlist.json", "status.json", "session.json"}


def test_what_is_lost_behind_a_held_up_reading_lies_in_the_gap(
    store: Store, fault_server: StartServer, session: StartSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """We do not read, the feed's own buffer fills, it resets: what it threw away was old, and the gap begins before."""
    goes, real = threading.Event(), os.write

    def write(descriptor: int, content: bytes) -> int:
        if threading.current_thread().name.startswith("lane-"):
            goes.wait(20)
        return real(descriptor, content)

    monkeypatch.setattr(os, "write", write)
    fat = [replace(trade, price=trade.price + "0" * 400) for trade in trades(40_000)]
    server = fault_server(
        [Subscribed("A"), *(Send(fat[at : at + 100]) for at in range(0, len(fat), 100))], [Subscribed("A")]
    )
    recording = session(server.url, queue_bytes=100_000)
    connection = server.connection(0)
    written = -1
    while written != (written := len(connection.written)) or not written:  # until the server can send no more
        time.sleep(0.3)
    reset_ns = time.time_ns()
    connection.reset()
    goes.set()
    server.connection(1).wait_heard("subscribe")
    record = recording.end()
    rows = sealed_rows(store, record.session)
    assert [row.trade for row in rows] == fat[: len(rows)]
    assert_counts_agree(store, record)
    lost = [each for each in connection.written if each.trades[-1] not in [row.trade for row in rows[-100:]]]
    lost = [each for each in lost if each.trades[0].ts_event_ns > rows[-1].trade.ts_event_ns]
    assert lost
    (gap,) = record.gaps
    assert lost[0].began_ns < reset_ns - NS_PER_S // 4
    assert gap.start_ns <= lost[0].began_ns
    assert gap.end_ns is not None
    assert gap.end_ns >= reset_ns
