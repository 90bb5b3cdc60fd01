"""What do Finnhub's messages say? Its requests as text, its answers as trades and as journal lines.

Pure: no socket, no clock. Source: Finnhub's "Trades" websocket page; what users have measured is in the README.

A trade's numbers are kept as the digits that came (`msgspec.Raw`): a float would lose `1.10` and 20-digit sizes.
Reading is optimistic: the messages of one `recv` are decoded in one call and written as one block, and a few
searches over the whole block prove that its prices and sizes are numbers. Where anything is unusual, the same
messages are read again one by one, and each that cannot be a trade is refused with its reason, as received.
"""

import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Annotated, TypeVar
from urllib.parse import quote

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from tasks.trade import ODD_CONDITIONS

NAME = "finnhub"

TOO_MANY_SYMBOLS = "Subscribing to too many symbols"

# A JSON number, the only text that may stand in price and size.
_NUMBER = re.compile(rb"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
# What may stand in an unquoted CSV field: no comma, quote or control character; `;` separates conditions.
_SYMBOL = re.compile(r"[^\x00-\x1f\x7f\",]+")
_CONDITION = re.compile(r"[^\x00-\x1f\x7f\",;]+")
_MAX_SYMBOL_CHARS = 256
_MAX_CONDITIONS_CHARS = 1_024
_CACHE_ENTRIES = 65_536
_MOST_UNASKED = 10_000


class _Trade(Struct, gc=False):
    s: str
    p: Raw
    t: int
    v: Raw
    c: Raw = Raw(b"null")


class _PlainTrade(_Trade, gc=False):
    t: Annotated[int, Meta(ge=1)]


class _Message(Struct, gc=False):
    type: str
    data: list[_PlainTrade] | UnsetType = UNSET


class _LooseMessage(Struct, gc=False):
    type: str
    data: list[Raw] | UnsetType = UNSET
    msg: str | UnsetType = UNSET


@dataclass(frozen=True, slots=True)
class Refused:
    """A message (kind "frame"), or one trade of a readable message (kind "trade"), as received, and why."""

    kind: str
    reason: str
    payload: bytes


@dataclass(slots=True)
class Reading:
    """What some messages said: one journal line and one symbol a trade, in order, and `block`, the lines joined.

    `trade_frames`, `control_frames` and the refused of kind "frame" add up to the messages read. `errors` are the
    vendor's own error texts.
    """

    lines: list[bytes] = field(default_factory=list)
    symbols: list[str] = field(default_factory=list)
    block: bytes = b""
    trade_frames: int = 0
    control_frames: int = 0
    refused: list[Refused] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


def subscribe(symbol: str) -> str:
    """The request to send this symbol's trades. The vendor does not answer it."""
    return msgspec.json.encode({"type": "subscribe", "symbol": symbol}).decode()


def unsubscribe(symbol: str) -> str:
    """The request to send this symbol's trades no more."""
    return msgspec.json.encode({"type": "unsubscribe", "symbol": symbol}).decode()


def address(feed_url: str, key: str) -> str:
    """The URL to connect to. It holds the key: never log it."""
    return f"{feed_url}{'&' if '?' in feed_url else '?'}token={quote(key, safe='')}"


class Reader:
    """Reads messages into journal lines; remembers the symbols and condition lists that it has checked.

    Of symbols that are not among those `asked` for it takes the first few thousand: whoever counts by symbol needs
    memory for each.
    """

    def __init__(self, asked: Callable[[], tuple[str, ...]] = tuple) -> None:
        self._asked = asked
        self._known_to_be_asked: tuple[tuple[str, ...], frozenset[str]] = ((), frozenset())
        self._unasked: set[str] = set()
        self._decoder = msgspec.json.Decoder(_Message)
        self._loose = msgspec.json.Decoder(_LooseMessage)
        self._one_trade = msgspec.json.Decoder(_Trade)
        self._list_of_text = msgspec.json.Decoder(list[str] | None)
        self._symbols: dict[str, bytes] = {}
        self._conditions: dict[bytes, bytes] = {}

    def read(self, texts: Sequence[bytes], connection: int, first_seq: int, ts_recv_ns: int) -> Reading:
        """What these messages say. Their n-th trade gets `recv_seq` = `first_seq` + n, all get `ts_recv_ns`.

        Never raises: what cannot be read is refused.
        """
        line = b"%d,%%d,%d,%%d000000,%%b,%%b,%%b,%%b\n" % (connection, ts_recv_ns)
        reading = self._read_at_once(texts, line, first_seq)
        if reading is None:
            reading = Reading()
            for text in texts:
                self._read_one(text, line, first_seq + len(reading.lines), reading)
            reading.block = b"".join(reading.lines)
        return reading

    def _read_at_once(self, texts: Sequence[bytes], line: bytes, first_seq: int) -> Reading | None:
        """All messages by one call, or None where one of them needs a closer look."""
        messages = self._decode_at_once(texts)
        if messages is None:
            return None
        reading = Reading()
        trades: list[_PlainTrade] = []
        for message, text in zip(messages, texts, strict=True):
            if message.type == "trade" and message.data is not UNSET:
                trades += message.data
                reading.trade_frames += 1
            else:
                self._read_one(text, line, 0, reading)
        symbols, conditions = self._symbols, self._conditions
        try:
            lines = [
                line % (seq, t.t, symbols[t.s], t.p, t.v, conditions[bytes(t.c)])
                for seq, t in enumerate(trades, first_seq)
            ]
        except KeyError:  # A symbol or a condition list that was not checked yet.
            return None
        reading.block = b"".join(lines)
        if not _are_numbers(reading.block):
            return None
        reading.lines = lines
        reading.symbols = [t.s for t in trades]
        return reading

    def _decode_at_once(self, texts: Sequence[bytes]) -> list[_Message] | None:
        """Every message by one call, joined by line breaks; None where that cannot be shown to be right.

        JSON allows no raw line break within a string and no `}` right before a `{` within a value. So where every
        break stands between `}` and `{`, each is a border between two values, and as many values as messages
        then means that each message is exactly one value.
        """
        joined = b"\n".join(texts)
        borders = len(texts) - 1
        if joined.count(b"}\n{") != borders or joined.count(b"\n") != borders or not joined.isascii():
            return None
        try:
            messages = self._decoder.decode_lines(joined)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            return None
        return messages if len(messages) == len(texts) else None

    def _read_one(self, text: bytes, line: bytes, first_seq: int, reading: Reading) -> None:
        """Add what one message says to `reading`; the way for everything that is not plain."""
        try:
            text.decode("utf-8")  # The decoder checks only the fields that it keeps.
            message = self._loose.decode(text)
        except UnicodeDecodeError as error:
            reading.refused.append(Refused("frame", f"not UTF-8: {error.reason} at byte {error.start}", text))
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            reading.refused.append(Refused("frame", f"not a message: {_one_line(error)}", text))
        else:
            if message.type == "trade" and message.data is not UNSET:
                reading.trade_frames += 1
                self._read_trades(message.data, line, first_seq, reading)
            elif message.type in ("ping", "error"):
                reading.control_frames += 1
                if message.type == "error":
                    reading.errors.append("" if message.msg is UNSET else message.msg)
            else:
                why = "a trade message without data" if message.type == "trade" else "an unknown type of message"
                reading.refused.append(Refused("frame", why, text))

    def _read_trades(self, elements: Sequence[Raw], line: bytes, first_seq: int, reading: Reading) -> None:
        for element in elements:
            raw = bytes(element)
            try:
                trade = self._one_trade.decode(raw)
                symbol = self._checked_symbol(trade.s)
                conditions = self._checked_conditions(bytes(trade.c))
                price, size = _checked_number(trade.p, "p"), _checked_number(trade.v, "v")
            except (msgspec.MsgspecError, ValueError, RecursionError) as error:
                reading.refused.append(Refused("trade", f"not a trade: {_one_line(error)}", raw))
                continue
            # `%d000000` writes a time of 0 as 0000000, which a reader would give back as 0.
            written = line if trade.t else line.replace(b"%d000000", b"%d")
            reading.lines.append(written % (first_seq, trade.t, symbol, price, size, conditions))
            reading.symbols.append(trade.s)
            first_seq += 1

    def _checked_symbol(self, symbol: str) -> bytes:
        known = self._symbols.get(symbol)
        if known is None:
            if len(symbol) > _MAX_SYMBOL_CHARS or not _SYMBOL.fullmatch(symbol):
                raise ValueError("a symbol that is empty, too long or holds a comma, a quote or a control character")
            if symbol not in self._unasked and not self._is_asked(symbol):
                if len(self._unasked) >= _MOST_UNASKED:
                    raise ValueError(f"a symbol that was not asked for, beyond {_MOST_UNASKED:,} such symbols")
                self._unasked.add(symbol)
            known = _remember(self._symbols, symbol, symbol.encode())
        return known

    def _is_asked(self, symbol: str) -> bool:
        asked, known = self._asked(), self._known_to_be_asked
        if known[0] is not asked:
            known = self._known_to_be_asked = (asked, frozenset(asked))
        return symbol in known[1]

    def _checked_conditions(self, raw: bytes) -> bytes:
        known = self._conditions.get(raw)
        if known is None:
            known = _remember(self._conditions, raw, self._read_conditions(raw))
        return known

    def _read_conditions(self, raw: bytes) -> bytes:
        """The codes as one field. What is no list of plain codes costs no trade: it is kept in a field that says so."""
        with suppress(msgspec.MsgspecError, ValueError, RecursionError):
            codes = self._list_of_text.decode(raw) or []
            if all(_CONDITION.fullmatch(code) and code != ODD_CONDITIONS for code in codes):
                return ";".join(codes).encode()
        kept = [ODD_CONDITIONS, *(_in_a_field(part) for part in _parts(raw))]
        return ";".join(kept)[:_MAX_CONDITIONS_CHARS].encode()


def _parts(raw: bytes) -> list[str]:
    """The elements of a list of texts and numbers, else the whole value as it was sent."""
    with suppress(msgspec.MsgspecError, ValueError, RecursionError):
        values = msgspec.json.decode(raw, type=list[str | int | float])
        return [value if isinstance(value, str) else msgspec.json.encode(value).decode() for value in values]
    return [raw.decode("utf-8", "replace")]


def _in_a_field(text: str) -> str:
    """The text without what a field cannot hold: percent-encoded, as in a URL."""
    return quote(text, safe="".join(letter for letter in text if _CONDITION.fullmatch(letter) and letter != "%"))


def _are_numbers(block: bytes) -> bool:
    """Whether every price and size in the block is a number, and so no field can hold a comma or a line break.

    The decoder has checked that each is some JSON value: one that is no number starts with one of these, or is one of
    these words. The other fields are known to be clean.
    """
    if b'"' in block or b"[" in block or b"{" in block:
        return False
    if b"e" not in block and b"l" not in block:  # Each word has one of the two, and one byte is found fastest.
        return True
    return b",null," not in block and b",true," not in block and b",false," not in block


def _checked_number(raw: Raw, name: str) -> bytes:
    text = bytes(raw)
    if not _NUMBER.fullmatch(text):
        raise ValueError(f"{name} is not a number")
    return text


_Key = TypeVar("_Key", str, bytes)


def _remember(cache: dict[_Key, bytes], key: _Key, value: bytes) -> bytes:
    if len(cache) >= _CACHE_ENTRIES:  # A feed that invents symbols must not fill the memory.
        cache.clear()
    cache[key] = value
    return value


def _one_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
