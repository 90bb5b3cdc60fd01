"""Whatever a feed does, every whole message is sealed once and in order, and each loss is one named gap."""

import threading
import time
from dataclasses import dataclass

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
    Mute,
    Raw,
    Reset,
    Send,
    Signal,
    Stall,
    StartServer,
    Step,
    Subscribed,
    Text,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from recording import (
    BROKE,
    FIN,
    RESET,
    Answered,
    Babble,
    Recording,
    Stamp,
    StartSession,
    Wait,
    ask,
    assert_all_there,
    assert_counts_agree,
    assert_gaps_between,
    frame,
    quarantined,
    sealed_rows,
    trades,
)

from tasks.records.trade import NS_PER_S
from tasks.storage.store import Store


@dataclass(frozen=True, slots=True)
class Ending:
    """A way to lose a connection: what the server does, the gap's reason, and the quarantined bytes."""

    steps: list[Step]
    reason: str
    refused: bytes | None = None


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
    # Where the RST is here before our answer, the violation is still the reason.
    *[Ending([Raw(frame(TEXT, b"")[:1] + b"\xf0 garbage"), Reset()], BROKE + "a masked frame from the server")] * 6,
]


def test_each_way_to_lose_a_connection_is_one_gap_with_its_reason(
    store: Store, fault_server: StartServer, session: StartSession
) -> None:
    """After FIN, RST, close codes, or invalid frames nothing sent before is lost; what broke a rule is kept."""
    scripts = [
        [Subscribed("A", "B"), Send(trades(3, 3 * n, "AB")), Answered(b"%d" % n), *ending.steps]
        for n, ending in enumerate(ENDINGS)
    ]
    done = threading.Event()
    server = fault_server(*scripts, [Subscribed("A", "B"), Send(trades(3, 900, "AB")), Signal(done)])
    recording = session(server.url, ("A", "B"))
    assert done.wait(20)
    record = recording.end()
    assert_gaps_between(assert_all_there(store, record, server), record, [ending.reason for ending in ENDINGS])
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
    """Per RFC 6455, a close is echoed, a violation answered with 1002, invalid UTF-8 with 1007, too much with 1009."""
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
    """After half a message, a pause, and the end, no trade of it is recorded, and the gap begins before the pause."""
    half, broken, ended_ns = threading.Event(), threading.Event(), list[int]()
    server = fault_server(
        [Subscribed("A"), Send(trades(2)), Send(trades(5, 2), cut_after=100), Stall(half),
         Stamp(ended_ns), Drop()],
        [Subscribed("A"), Send(trades(2, 9)), Raw(frame(TEXT, b"one", fin=False)), Stall(broken),
         Stamp(ended_ns), Raw(frame(TEXT, b"another"))],
        [Subscribed("A"), Send(trades(2, 20))],
    )  # fmt: skip
    recording = session(server.url, ping_every_s=0.4)
    for connection, event in ((0, half), (1, broken)):
        server.connection(connection).wait_heard("ping")
        event.set()
    server.connection(2).wait_heard("subscribe")
    record = recording.end()
    rows = assert_all_there(store, record, server)
    assert server.cut == trades(5, 2)
    assert_gaps_between(rows, record, [FIN, BROKE + "a new message within a fragmented one"])
    for gap, ended in zip(record.gaps, ended_ns, strict=True):
        # Between the half and the end a ping was sent, 0.4 s after the half had come.
        assert gap.start_ns <= ended - NS_PER_S // 3
        assert ended <= (gap.end_ns or 0)


@pytest.mark.slow
@pytest.mark.parametrize("fate", ["drop", "reset"])
def test_a_message_cut_after_any_byte_is_recorded_whole_or_not_at_all(
    store: Store, fault_server: StartServer, session: StartSession, fate: str
) -> None:
    """A message cut after each of its bytes in turn is a row only if it is complete."""
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
    assert_gaps_between(rows, record, [FIN if fate == "drop" else RESET] * (size + 1))


@st.composite
def cut_messages(draw: st.DrawFn) -> tuple[int, int, int | None, int]:
    """How many trades, in how many fragments, how many bytes at a time, and where to cut (in thousandths)."""
    return (
        draw(st.integers(1, 400)), draw(st.integers(1, 9)), draw(st.none() | st.integers(700, 9000)),
        draw(st.integers(0, 1000)),
    )  # fmt: skip


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(cut_messages(), min_size=3, max_size=8))
def test_larger_messages_cut_anywhere(
    tmp_path_factory: pytest.TempPathFactory, messages: list[tuple[int, int, int | None, int]]
) -> None:
    """Fragmented messages with control frames in between, cut anywhere, are recorded as a whole or not at all."""
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
        assert_gaps_between(rows, record, [FIN] * len(scripts))


def test_a_stalled_feed_that_answers_pings_is_no_gap(
    store: Store, fault_server: StartServer, session: StartSession
) -> None:
    """Silence for many ping intervals with each ping answered, then more trades: one connection, no gap."""
    server = fault_server([Subscribed("A"), Send(trades(3)), Wait("ping", 5), Send(trades(3, 3)), Answered(b"last")])
    recording = session(server.url, ping_every_s=1.0)
    server.connection(0).wait_heard("pong", b"last")
    record = recording.end()
    assert_all_there(store, record, server)
    assert (record.connections, record.gaps) == (1, ())


def test_a_half_open_connection_is_found_by_ping_and_the_gap_begins_with_the_silence(
    store: Store, fault_server: StartServer, session: StartSession
) -> None:
    """A peer that neither sends nor answers is dropped within two ping intervals; the gap begins at its last bytes."""
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
    assert_gaps_between(rows, record, ["no answer to a ping within 0.3 s"])
    assert rows[2].ts_recv_ns <= record.gaps[0].start_ns <= muted_ns[0]
    assert 0.55 <= took_s <= 0.6 + 2


def test_fragments_control_frames_between_them_and_slow_bytes_are_no_fault(
    store: Store, fault_server: StartServer, session: StartSession
) -> None:
    """However a message is divided on the wire it is one message, and each ping is answered with its payload."""
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
    """Prints that are equal in every field can all be real: three of them are three rows."""
    server = fault_server([Subscribed("A"), *[Send(trades(3))] * 3, Answered()])
    recording = session(server.url)
    server.connection(0).wait_heard("pong")
    record = recording.end()
    assert len(assert_all_there(store, record, server)) == 9


def test_a_message_above_the_limit_is_quarantined_as_far_as_it_came(
    store: Store, fault_server: StartServer, session: StartSession
) -> None:
    """A message too large for memory is refused from its header on, in one frame or in many; a reconnect follows."""
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
    assert_gaps_between(rows, record, [BROKE + reason] * 3)
    assert quarantined(store, record.session) == [
        ("frame", reason, whole),
        ("frame", reason, b"y" * 600 + second),
        ("frame", reason, frame(TEXT, b"", length=1 << 62)),
    ]


def test_symbols_too_many_are_named_and_the_others_go_on(
    store: Store, fault_server: StartServer, session: StartSession
) -> None:
    """An error that names no symbol means those subscribed last; the others are recorded on the same connection."""
    too_many = Text('{"type":"error","msg":"Subscribing to too many symbols"}')
    server = fault_server([Subscribed("A", "B", "C", "D"), too_many, too_many, Send(trades(4, 0, "AB")), Answered()])
    recording = session(server.url, tuple("ABCD"))
    recording.when(lambda status: set(status.refused_symbols) == {"C", "D"} and status.trades == 4)
    record = recording.end()
    assert_all_there(store, record, server)
    assert (set(record.refused), set(record.never_heard), record.connections) == ({"C", "D"}, {"C", "D"}, 1)
    assert {symbol for gap in record.gaps for symbol in gap.symbols} == {"C", "D"}
    assert all(gap.reason == "refused: too many symbols" for gap in record.gaps)
    assert all(gap.end_ns == record.ended_ns for gap in record.gaps)


@pytest.mark.parametrize("lanes", [1, 3])
def test_a_stop_under_load_archives_all_that_was_sent(
    store: Store, fault_server: StartServer, session: StartSession, lanes: int
) -> None:
    """Unsubscribe, receive what is in flight, close: every trade that the server sent before its end is sealed."""
    server = fault_server([Subscribed("A", "B", "C"), Babble(0.0, per_message=40)])
    recording = session(server.url, tuple("ABC"), lanes=lanes)
    recording.when(lambda status: status.trades > 2000)
    record = recording.end()
    assert (record.outcome, record.gaps) == ("stopped", ())
    assert len(assert_all_there(store, record, server)) > 2000
    kinds = [heard.kind for heard in server.connection(0).heard]
    assert kinds[-5:] == ["unsubscribe", "unsubscribe", "unsubscribe", "ping", "close"]


def test_a_feed_that_never_stops_sending_cannot_keep_a_session_open(
    store: Store, fault_server: StartServer, session: StartSession
) -> None:
    """If the peer ignores unsubscription and close and keeps sending, the session still ends."""
    server = fault_server([Subscribed("A"), Babble(0.005, deaf=True)])
    recording = session(server.url, leave_within_s=0.3)
    recording.when(lambda status: status.trades > 10)
    server.connection(0).hearing.clear()
    started_s = time.monotonic()
    record = recording.end()
    server.connection(0).hearing.set()
    assert time.monotonic() - started_s < 5
    rows = sealed_rows(store, record.session)
    assert [row.trade for row in rows] == server.sent[: len(rows)]
    assert record.outcome == "stopped"
