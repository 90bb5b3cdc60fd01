"""The frame cutter gives what websocket-client gives, wherever the stream is cut."""

import socket
import tracemalloc

import pytest
import websocket
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.capture import frames
from tasks.capture.frames import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, Cut, FrameCutter

MAX = 1 << 20


def frame(opcode: int, payload: bytes, *, fin: bool = True, rsv: int = 0, masked: bool = False) -> bytes:
    """Return one frame as a server may send it, or must not."""
    size = len(payload)
    mask = 0x80 if masked else 0
    head = bytes([(0x80 if fin else 0) | rsv << 4 | opcode])
    if size < 126:
        head += bytes([mask | size])
    elif size < 65536:
        head += bytes([mask | 126]) + size.to_bytes(2, "big")
    else:
        head += bytes([mask | 127]) + size.to_bytes(8, "big")
    return head + (bytes(4) if masked else b"") + payload


def cut_in(stream: bytes, cuts: list[int], max_bytes: int = MAX) -> Cut:
    """Return everything in the stream, passed in pieces that end at `cuts`."""
    cutter, whole = FrameCutter(max_bytes), Cut()
    ends = sorted({min(cut, len(stream)) for cut in cuts} | {len(stream)})
    start = 0
    for end in ends:
        cut = cutter.cut(stream[start:end])
        start = end
        whole.texts += cut.texts
        whole.binaries += cut.binaries
        whole.controls += cut.controls
        whole.refused += cut.refused
        whole.violation = cut.violation
        if cut.violation is not None:
            break
    return whole


def library_reads(stream: bytes) -> tuple[list[tuple[int, bytes]], bool]:
    """Return what websocket-client returns for the stream: (opcode, payload) of each message, and whether it failed."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        client = websocket.WebSocket(skip_utf8_validation=True, enable_multithread=False)
        client.sock, client.connected = theirs, True
        theirs.settimeout(5)
        ours.settimeout(5)
        read: list[tuple[int, bytes]] = []
        position = 0
        ours.setblocking(False)
        while position < len(stream):
            try:
                position += ours.send(stream[position:])
            except BlockingIOError:
                break
        assert position == len(stream), "the test's streams fit into a socket's buffer"
        ours.shutdown(socket.SHUT_WR)
        while True:
            try:
                opcode, got = client.recv_data_frame(control_frame=True)
            except websocket.WebSocketConnectionClosedException:
                return read, False
            except (websocket.WebSocketException, OSError):
                return read, True
            read.append((opcode, bytes(got.data)))
            if opcode == CLOSE:
                return read, False


payloads = st.binary(max_size=140) | st.sampled_from([0, 1, 125, 126, 127, 4000]).map(lambda n: b"x" * n)
controls = st.tuples(st.sampled_from([PING, PONG]), st.binary(max_size=125)).map(lambda each: frame(*each))


@st.composite
def messages(draw: st.DrawFn) -> bytes:
    """One message in one or more fragments, with control frames between them."""
    kind = draw(st.sampled_from([TEXT, BINARY]))
    parts = draw(st.lists(payloads, min_size=1, max_size=4))
    stream = b""
    for index, part in enumerate(parts):
        opcode = kind if index == 0 else CONTINUATION
        stream += frame(opcode, part, fin=index == len(parts) - 1)
        stream += b"".join(draw(st.lists(controls, max_size=2)))
    return stream


broken = st.sampled_from(
    [
        frame(TEXT, b"a", rsv=4),
        frame(3, b"reserved"),
        frame(11, b""),
        frame(PING, b"", fin=False),
        frame(CONTINUATION, b"of nothing"),
        frame(TEXT, b"one", fin=False) + frame(TEXT, b"another"),
        frame(CLOSE, b"\x03"),
        frame(CLOSE, (1006).to_bytes(2, "big")),
        frame(CLOSE, (2999).to_bytes(2, "big")),
        frame(CLOSE, (5000).to_bytes(2, "big")),
    ]
)


@settings(deadline=None, max_examples=200)
@given(
    st.lists(messages() | controls, max_size=8),
    broken | st.just(b"") | st.sampled_from([frame(CLOSE, b""), frame(CLOSE, (1012).to_bytes(2, "big") + b"restart")]),
    st.data(),
)
def test_any_cutting_gives_what_the_library_gives(parts: list[bytes], end: bytes, data: st.DataObject) -> None:
    """Any stream, cut at any bytes, gives the library's messages, and an error if the library has one."""
    stream = b"".join(parts) + end
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=12))
    read, failed = library_reads(stream)
    cut = cut_in(stream, cuts)
    assert cut.texts == [payload for opcode, payload in read if opcode == TEXT]
    assert cut.binaries == [payload for opcode, payload in read if opcode == BINARY]
    assert cut.controls == [(opcode, payload) for opcode, payload in read if opcode >= CLOSE]
    assert (cut.violation is not None) == failed


@settings(deadline=None, max_examples=50)
@given(st.lists(messages() | controls, min_size=1, max_size=5))
def test_one_byte_at_a_time(parts: list[bytes]) -> None:
    """A stream that arrives byte by byte gives the same as one that arrives at once."""
    stream = b"".join(parts)
    slow, fast = cut_in(stream, list(range(len(stream)))), cut_in(stream, [])
    assert (slow.texts, slow.binaries, slow.controls) == (fast.texts, fast.binaries, fast.controls)
    assert slow.violation is fast.violation is None


# Sizes, fragmentation and the rest as in the Autobahn test suite's client cases 1 to 7 and 9.
@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 128, 65535, 65536, 65537, 1 << 20])
@pytest.mark.parametrize("chunk", [997, 65536])
def test_sizes(size: int, chunk: int) -> None:
    """A message of any size up to the limit arrives whole, text as text and binary as binary (Autobahn 1.*, 9.*)."""
    stream = frame(TEXT, b"*" * size) + frame(BINARY, b"\xfe" * size)
    cut = cut_in(stream, list(range(0, len(stream), chunk)))
    assert cut.texts == [b"*" * size]
    assert cut.binaries == [b"\xfe" * size]


@pytest.mark.parametrize(
    ("stream", "code"),
    [
        (frame(PING, b"p" * 126), 1002),
        (frame(PONG, b"p" * 126), 1002),
        (frame(CLOSE, b"\x03\xe8" + b"r" * 124), 1002),
        (frame(TEXT, b"a", rsv=1), 1002),
        (frame(TEXT, b"a", rsv=7), 1002),
        (frame(PING, b"", rsv=2), 1002),
        *((frame(opcode, b""), 1002) for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)),
        (frame(CLOSE, (1000).to_bytes(2, "big") + b"\xff"), 1007),
        *((frame(CLOSE, code.to_bytes(2, "big")), 1002) for code in (0, 999, 1004, 1005, 1006, 1016, 2000, 65535)),
        (frame(TEXT, b"masked", masked=True), 1002),
        (b"\x81\x7f" + (1 << 63).to_bytes(8, "big"), 1002),
    ],
)
def test_violations_are_refused_and_what_came_before_is_kept(stream: bytes, code: int) -> None:
    """What RFC 6455 forbids is a violation with its close code, and the messages before it are delivered."""
    cut = cut_in(frame(TEXT, b"before") + stream + frame(TEXT, b"after"), [3, 9])
    assert cut.texts == [b"before"]
    assert cut.violation is not None
    assert cut.violation.code == code
    assert cut.refused[0].startswith(stream[:1])
    assert cut.frames == 2


@pytest.mark.parametrize("code", [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 4999])
def test_valid_close_codes(code: int) -> None:
    """Every close code that a peer may send is accepted (Autobahn 7.7.*)."""
    cut = cut_in(frame(CLOSE, code.to_bytes(2, "big") + "grüße".encode()), [])
    assert cut.violation is None
    assert cut.controls[0][0] == CLOSE


@pytest.mark.parametrize("fragmented", [False, True])
def test_a_message_above_the_limit_is_refused_in_bounded_memory(fragmented: bool) -> None:
    """A message above the limit, whole or in fragments, is violation 1009, and no more than the limit is buffered."""
    part = b"x" * 600
    stream = (
        frame(TEXT, part, fin=False) + frame(CONTINUATION, part) if fragmented else frame(TEXT, part + part)
    ) + frame(TEXT, b"after")
    cutter = FrameCutter(1000)
    cut = cutter.cut(stream[:700])
    assert len(cutter._fragments) + len(cutter._rest) <= 1000
    if cut.violation is None:
        cut = cutter.cut(stream[700:])
    assert cut.violation is not None
    assert cut.violation.code == 1009
    assert part in cut.refused[0]
    assert cut.texts == []


def test_an_absurd_length_is_refused_before_its_bytes_come() -> None:
    """A header that announces more than the limit is refused at once, without waiting for the payload."""
    cut = FrameCutter(MAX).cut(b"\x81\x7f" + (1 << 40).to_bytes(8, "big"))
    assert cut.violation is not None
    assert cut.violation.code == 1009


def test_the_pieces_of_a_message_take_little_more_memory_than_their_bytes() -> None:
    """Fragments of two bytes, or endless empty ones, cost no memory for their number."""
    cutter = FrameCutter(16 << 20)
    cutter.cut(frame(TEXT, b"ab", fin=False))
    tracemalloc.start()
    try:
        for _ in range(100):
            assert cutter.cut(frame(CONTINUATION, b"ab", fin=False) * 1_000).violation is None
        assert tracemalloc.get_traced_memory()[0] < 1 << 20
    finally:
        tracemalloc.stop()
    assert cutter.cut(frame(CONTINUATION, b"!")).texts == [b"ab" * 100_001 + b"!"]


def test_a_message_of_endless_empty_fragments_is_a_violation() -> None:
    """A message that never ends and never grows ends its connection; its bytes are refused as received."""
    cutter = FrameCutter(MAX)
    cutter.cut(frame(TEXT, b"so far", fin=False))
    chunk = frame(CONTINUATION, b"", fin=False) * 10_000
    cut = next(cut for _ in range(1_000) if (cut := cutter.cut(chunk)).violation is not None)
    assert cut.violation is not None
    assert (cut.violation.code, cut.violation.reason) == (1009, "a message of more than 1,048,576 fragments")
    assert cut.refused[0].startswith(b"so far\x00\x00")


@pytest.mark.parametrize(
    ("stream", "code", "reason"),
    [
        (frame(TEXT, b"a", masked=True), 1002, "a masked frame from the server"),
        (frame(TEXT, b"", masked=True), 1002, "a masked frame from the server"),
        (frame(BINARY, b"a" * 126, masked=True), 1002, "a masked frame from the server"),
        (b"\x81\x7f" + (1 << 63).to_bytes(8, "big"), 1002, "a frame length of 2^63 and more"),
        (frame(TEXT, b"a" * 1001), 1009, "a message above the limit of 1,000 bytes"),
        (frame(TEXT, b"a" * 501, fin=False) + frame(CONTINUATION, b"a" * 500), 1009,
         "a message above the limit of 1,000 bytes"),
        (frame(TEXT, b"a", rsv=1), 1002, "reserved bits set, though no extension was agreed"),
        (frame(PING, b"", fin=False), 1002, "a fragmented control frame"),
        (frame(PONG, b"a" * 126), 1002, "a control frame of 126 bytes, above 125"),
        (frame(PING, b"a" * 1500), 1002, "a control frame of 1,500 bytes, above 125"),
        (frame(3, b""), 1002, "an unknown opcode, 3"),
        (frame(11, b""), 1002, "an unknown opcode, 11"),
        (frame(CONTINUATION, b"a"), 1002, "a continuation of no message"),
        (frame(TEXT, b"a", fin=False) + frame(TEXT, b"b"), 1002, "a new message within a fragmented one"),
        (frame(TEXT, b"a", fin=False) + frame(BINARY, b"b"), 1002, "a new message within a fragmented one"),
        (frame(CLOSE, b"\x03"), 1002, "a close frame with half a code"),
        (frame(CLOSE, (2999).to_bytes(2, "big")), 1002, "a close frame with the invalid code 2999"),
        (frame(CLOSE, (5000).to_bytes(2, "big")), 1002, "a close frame with the invalid code 5000"),
        (frame(CLOSE, (1000).to_bytes(2, "big") + b"\xff"), 1007, "a close frame whose reason is not UTF-8"),
    ],
)  # fmt: skip
def test_a_violation_says_what_was_seen(stream: bytes, code: int, reason: str) -> None:
    """At once or byte by byte, the same rule is broken with the same text, and no byte of it is lost."""
    for cuts in ([], list(range(len(stream)))):
        cut = cut_in(stream, cuts, 1000)
        assert (cut.violation and cut.violation.code, cut.violation and cut.violation.reason) == (code, reason)
        assert (cut.texts, cut.binaries, cut.controls, cut.frames) == ([], [], [], 1)
    whole = FrameCutter(1000)
    whole.cut(stream)
    assert whole.is_within_message


@pytest.mark.parametrize("code", [3000, 3999, 4000, 4999])
def test_a_close_frame_needs_no_reason(code: int) -> None:
    """A close frame, empty or with only a code, is a control frame like others."""
    cut = cut_in(frame(CLOSE, b"") + frame(CLOSE, code.to_bytes(2, "big")), [])
    assert (cut.violation, cut.controls) == (None, [(CLOSE, b""), (CLOSE, code.to_bytes(2, "big"))])


def test_fragments_and_what_stands_between_them() -> None:
    """A fragmented message of either kind is joined; controls within it come first, and the next message is whole."""
    stream = (
        frame(TEXT, b"a", fin=False) + frame(PING, b"p") + frame(CONTINUATION, b"", fin=False) + frame(PONG, b"q")
        + frame(CONTINUATION, b"b") + frame(TEXT, b"c") + frame(BINARY, b"d", fin=False) + frame(CONTINUATION, b"e")
        + frame(TEXT, b"", fin=False) + frame(CONTINUATION, b"") + frame(BINARY, b"f" * 300)
    )  # fmt: skip
    for cuts in ([], list(range(len(stream))), list(range(0, len(stream), 5))):
        cut = cut_in(stream, cuts)
        assert (cut.texts, cut.binaries) == ([b"ab", b"c", b""], [b"de", b"f" * 300])
        assert (cut.controls, cut.refused, cut.violation, cut.frames) == ([(PING, b"p"), (PONG, b"q")], [], None, 7)


def test_a_message_of_the_limit_is_taken_and_controls_do_not_count() -> None:
    """The limit counts a message's bytes, in one frame or in several with pings between; one byte more is too many."""
    exact = frame(TEXT, b"a" * 600, fin=False) + frame(PING, b"p" * 125) + frame(CONTINUATION, b"b" * 400)
    for stream in (frame(TEXT, b"a" * 1000), exact, frame(BINARY, b"a" * 999)):
        assert cut_in(stream, [], 1000).violation is None
    ends_empty = frame(TEXT, b"a" * 1000, fin=False) + frame(CONTINUATION, b"")
    assert cut_in(ends_empty, [], 1000).texts == [b"a" * 1000]


def test_a_message_has_begun_until_its_last_fragment() -> None:
    """Between messages the cutter is not within one; it is after any byte or empty fragment of the next."""
    cutter = FrameCutter(1000)
    assert not cutter.is_within_message
    cutter.cut(frame(TEXT, b"one")[:2])
    assert cutter.is_within_message
    assert cutter.cut(b"one").texts == [b"one"]
    assert not cutter.is_within_message
    cutter.cut(frame(TEXT, b"", fin=False))
    assert cutter.is_within_message
    cutter.cut(frame(CONTINUATION, b"two", fin=False) + b"\x80")
    assert cutter.is_within_message
    assert cutter.cut(b"\x01!").texts == [b"two!"]
    assert not cutter.is_within_message


def test_what_breaks_a_rule_is_refused_as_it_came() -> None:
    """The fragments before a violation and everything after it are refused together, once."""
    cutter = FrameCutter(1000)
    cutter.cut(frame(TEXT, b"so far", fin=False))
    cut = cutter.cut(frame(PING, b"p") + frame(TEXT, b"new") + b"rest")
    assert (cut.refused, cut.controls, cut.frames) == ([b"so far" + frame(TEXT, b"new") + b"rest"], [(PING, b"p")], 2)
    assert cutter.is_within_message


def test_what_no_further_byte_can_mend_is_refused_at_once() -> None:
    """A header that breaks a rule ends the connection before its payload arrives; a valid header waits."""
    assert FrameCutter(1000).cut(frame(3, b"x" * 50)[:2]).violation is not None
    assert FrameCutter(1000).cut(frame(BINARY, b"x" * 50)[:2]).violation is None
    assert FrameCutter(1000).cut(frame(TEXT, b"x" * 50)[:-1]).violation is None


def test_a_message_has_so_many_fragments_and_no_more() -> None:
    """Every fragment counts, even an empty one, and each message starts counting anew."""
    cutter = FrameCutter(1000, max_fragments=3)
    for _ in range(2):
        head = frame(TEXT, b"a", fin=False) + frame(CONTINUATION, b"", fin=False) * 2
        assert cutter.cut(head + frame(CONTINUATION, b"b")).texts == [b"ab"]
    cut = cutter.cut(head + frame(CONTINUATION, b"c", fin=False))
    assert cut.violation == frames.Violation(1009, "a message of more than 3 fragments")
    assert cut.refused == [b"a" + frame(CONTINUATION, b"c", fin=False)]


@pytest.mark.parametrize(
    "bad",
    [
        frame(TEXT, b"a", masked=True),
        b"\x81\x7f" + (1 << 63).to_bytes(8, "big"),
        frame(TEXT, b"a" * 1001),
        frame(11, b"")[:1] + b"\x09",
        frame(CLOSE, b"\x03"),
    ],
)
def test_what_came_before_a_violation_in_one_chunk_is_not_refused_with_it(bad: bytes) -> None:
    """The refused bytes begin with the frame that broke a rule."""
    cut = FrameCutter(1000).cut(frame(TEXT, b"good") + bad)
    assert (cut.texts, cut.refused) == ([b"good"], [bad])


def test_a_frame_is_cut_as_soon_as_it_is_whole() -> None:
    """The length of an incomplete frame does not depend on what stood before its header in the chunk."""
    for torn in (1, 3, 5):
        cutter, late = FrameCutter(1000), frame(TEXT, b"b" * 130)
        assert cutter.cut(frame(TEXT, b"a" * 600) + late[:torn]).texts == [b"a" * 600]
        assert cutter.cut(late[torn:]).texts == [b"b" * 130]


def test_a_message_that_grows_too_long_is_refused_by_its_heads() -> None:
    """A frame beyond the limit is refused at once, even if it begins another message."""
    for opcode in (CONTINUATION, TEXT):
        cutter = FrameCutter(1000)
        cutter.cut(frame(TEXT, b"a" * 600, fin=False))
        assert cutter.cut(frame(opcode, b"b" * 500)[:10]).violation is not None
