"""Websocket frames (RFC 6455), cut from whatever one `recv` returned. Pure: bytes in, messages out, no socket.

websocket-client reads a frame with two or more `recv` calls; reading all that the socket has and cutting it here costs
a tenth of that for small frames (`make bench`).

The rules are those the library enforces and two from the RFC that it does not: a server's frame must not be masked
(§5.1), and a length must not have its highest bit set (§5.2). What came before a violation is delivered. UTF-8 is
checked where text is decoded.
"""

from dataclasses import dataclass, field

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA

_FIN = 0x80
_WHOLE_TEXT = _FIN | TEXT
# Far above what any server sends; without a limit, empty fragments could keep a message open forever.
_MAX_FRAGMENTS = 1 << 20
_VALID_CLOSE_CODES = frozenset({1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014})


@dataclass(frozen=True, slots=True)
class Violation:
    """Why the connection must be closed: RFC 6455's close code, and what was seen."""

    code: int
    reason: str


@dataclass(slots=True)
class Cut:
    """What one chunk completed, each kind in order: text messages, binary messages, control frames.

    `controls` has (opcode, payload). After a `violation` nothing more is cut; `refused` then has the bytes of the
    offending frame and everything after it.
    """

    texts: list[bytes] = field(default_factory=list)
    binaries: list[bytes] = field(default_factory=list)
    controls: list[tuple[int, bytes]] = field(default_factory=list)
    refused: list[bytes] = field(default_factory=list)
    violation: Violation | None = None

    @property
    def frames(self) -> int:
        """The number of messages and control frames, including the offending one."""
        return len(self.texts) + len(self.binaries) + len(self.controls) + len(self.refused)


class FrameCutter:
    """Cuts the stream of one connection; buffers the incomplete rest, at most one message of `max_bytes`.

    A message above `max_bytes` is a violation with code 1009.
    """

    def __init__(self, max_bytes: int, max_fragments: int = _MAX_FRAGMENTS) -> None:
        self._max_bytes, self._max_fragments = max_bytes, max_fragments
        self._rest = bytearray()
        self._wanted = 2  # Below this many bytes in `_rest`, cutting again cannot succeed.
        # Not a list: thousands of fragments of two bytes would cost thirty times their content.
        self._fragments = bytearray()
        self._fragment_count = 0
        self._fragmented: int | None = None
        self._broken = False

    @property
    def is_within_message(self) -> bool:
        """Whether a message has begun and not ended; always true after a violation."""
        return bool(self._rest or self._fragment_count or self._broken)

    def cut(self, chunk: bytes) -> Cut:
        """Return the messages that `chunk` completes. Pass every chunk of the stream, in order."""
        cut = Cut()
        if self._rest:
            self._rest += chunk
            if len(self._rest) < self._wanted:  # A large frame arrives in many chunks: joining each again is O(n²).
                return cut
            chunk = bytes(self._rest)
            self._rest.clear()
        taken = self._cut_all(chunk, cut)
        if cut.violation is not None:
            cut.refused.append(bytes(self._fragments) + chunk[taken:])
            self._fragments.clear()
            self._broken = True
        elif taken < len(chunk):
            self._rest += chunk[taken:]
        return cut

    def _cut_all(self, buffer: bytes, cut: Cut) -> int:
        """Cut `buffer` into `cut`; return how many bytes were complete frames."""
        texts = cut.texts
        max_bytes = self._max_bytes
        size = len(buffer)
        at = 0
        while at + 2 <= size:
            # Server frames start with FIN|opcode, then the mask bit (must be 0) and the length.
            first = buffer[at]
            length = buffer[at + 1]
            start = at + 2
            if length > 125:
                if length > 127:
                    cut.violation = Violation(1002, "a masked frame from the server")
                    break
                start += 2 if length == 126 else 8
                if start > size:
                    self._wanted = start - at
                    return at
                length = int.from_bytes(buffer[at + 2 : start], "big")
                if length >> 63:
                    cut.violation = Violation(1002, "a frame length of 2^63 and more")
                    break
            if length > max_bytes or (length and len(self._fragments) + length > max_bytes and not first & 0x08):
                cut.violation = self._header_violation(first, length) or Violation(
                    1009, f"a message above the limit of {max_bytes:,} bytes"
                )
                break
            end = start + length
            if end > size:
                if first != _WHOLE_TEXT:  # Refuse at once what no further byte can repair.
                    cut.violation = self._header_violation(first, length)
                    if cut.violation is not None:
                        break
                self._wanted = end - at
                return at
            if first == _WHOLE_TEXT and self._fragmented is None:
                texts.append(buffer[start:end])
            else:
                self._one(first, buffer[start:end], length, cut)
                if cut.violation is not None:
                    break
            at = end
        self._wanted = 2
        return at

    def _one(self, first: int, payload: bytes, length: int, cut: Cut) -> None:
        """Handle any frame except the most common one, an unfragmented text message."""
        violation = self._header_violation(first, length)
        if violation is None and first & 0x0F == CLOSE:
            violation = _close_violation(payload)
        if violation is not None:
            cut.violation = violation
            return
        opcode = first & 0x0F
        if opcode >= CLOSE:
            cut.controls.append((opcode, payload))
            return
        kind = opcode if opcode != CONTINUATION else self._fragmented
        if not first & _FIN:
            self._fragmented = kind
            if self._fragment_count == self._max_fragments:
                cut.violation = Violation(1009, f"a message of more than {self._max_fragments:,} fragments")
                return
            self._fragments += payload
            self._fragment_count += 1
            return
        message = bytes(self._fragments) + payload
        self._fragments.clear()
        self._fragment_count = 0
        self._fragmented = None
        (cut.texts if kind == TEXT else cut.binaries).append(message)

    def _header_violation(self, first: int, length: int) -> Violation | None:
        opcode = first & 0x0F
        if first & 0x70:
            return Violation(1002, "reserved bits set, though no extension was agreed")
        if opcode in (CLOSE, PING, PONG):
            if not first & _FIN:
                return Violation(1002, "a fragmented control frame")
            if length > 125:
                return Violation(1002, f"a control frame of {length:,} bytes, above 125")
            return None
        if opcode not in (CONTINUATION, TEXT, BINARY):
            return Violation(1002, f"an unknown opcode, {opcode}")
        if opcode == CONTINUATION and self._fragmented is None:
            return Violation(1002, "a continuation of no message")
        if opcode != CONTINUATION and self._fragmented is not None:
            return Violation(1002, "a new message within a fragmented one")
        return None


def _close_violation(payload: bytes) -> Violation | None:
    if not payload:
        return None
    if len(payload) == 1:
        return Violation(1002, "a close frame with half a code")
    code = int.from_bytes(payload[:2], "big")
    if code not in _VALID_CLOSE_CODES and not 3000 <= code < 5000:
        return Violation(1002, f"a close frame with the invalid code {code}")
    try:
        payload[2:].decode("utf-8")
    except UnicodeDecodeError:
        return Violation(1007, "a close frame whose reason is not UTF-8")
    return None
