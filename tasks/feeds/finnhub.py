"""Finnhub's websocket: builds requests and parses messages into journal lines.

Source: Finnhub's "Trades" websocket page; docs/feeds.md has a summary.

Numbers are kept as the digits received (`msgspec.Raw`): a float would lose `1.10` and 20-digit sizes. Parsing is
optimistic: the messages of one `recv` are decoded in one call and written as one block, and a few searches over the
whole block prove that its prices and sizes are numbers. If anything is unusual, the same messages are parsed again one
by one, and each that cannot be a trade is rejected with its reason, as received.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import cached_property
from typing import Annotated
from urllib.parse import quote

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from tasks.feeds.base import ErrorKind, MarketHours, Reading, Rejected, VendorError
from tasks.feeds.conditions import ConditionRules, read_rules
from tasks.feeds.fields import Symbols, are_plain_conditions, checked_number, first_line, odd_conditions, remember

# The exchanges listed by Finnhub's `/crypto/exchange`.
_CRYPTO = frozenset({
    "BINANCE", "BINANCEUS", "BITFINEX", "BITMEX", "BITSTAMP", "BITTREX", "BYBIT", "COINBASE", "FTX", "GATEIO", "GEMINI",
    "HITBTC", "HUOBI", "KRAKEN", "KUCOIN", "OKEX", "OKX", "POLONIEX", "UPBIT", "ZB",
})  # fmt: skip


class Finnhub:
    """Finnhub's websocket: one connection per key, no acknowledgments of subscriptions, times in milliseconds."""

    name = "finnhub"
    url = "wss://ws.finnhub.io"
    hosts = ("finnhub.io",)
    key_setting = "FINNHUB_API_KEY"
    acknowledges = False
    extra_columns = ()
    numbers_trades = False
    carries = (
        "what your plan includes: of US stocks that may be IEX alone (2 to 3 % of the volume), and never cancels or "
        "corrections"
    )

    @cached_property
    def condition_rules(self) -> ConditionRules:
        return read_rules("finnhub_conditions.toml")

    def address(self, url: str, key: str) -> str:
        return f"{url}{'&' if '?' in url else '?'}token={quote(key, safe='')}"

    def greeting(self, key: str) -> list[str]:  # noqa: ARG002 - the key is part of the address.
        return []

    def subscribe(self, symbols: Iterable[str]) -> list[str]:
        return [_request("subscribe", symbol) for symbol in symbols]

    def unsubscribe(self, symbols: Iterable[str]) -> list[str]:
        return [_request("unsubscribe", symbol) for symbol in symbols]

    def parser(self, asked: Callable[[], tuple[str, ...]]) -> "Parser":
        return Parser(asked)

    def market_hours(self, symbol: str) -> MarketHours:
        """Return the market's hours: crypto and currencies are named VENUE:PAIR, as in `BINANCE:BTCUSDT`.

        An unknown venue is assumed to trade currencies: missing a silence on a weekend costs nothing, but reconnecting
        throughout the weekend does.
        """
        venue, colon, _ = symbol.partition(":")
        if not colon:
            return "exchange"
        return "always" if venue.upper() in _CRYPTO else "currencies"


def _request(kind: str, symbol: str) -> str:
    return msgspec.json.encode({"type": kind, "symbol": symbol}).decode()


def _error_kind(text: str) -> ErrorKind:
    return "too many symbols" if "too many symbols" in text.lower() else "other"


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


class Parser:
    """Parses messages into journal lines, and remembers checked symbols and condition lists."""

    def __init__(self, asked: Callable[[], tuple[str, ...]] = tuple) -> None:
        self._decoder = msgspec.json.Decoder(_Message)
        self._loose = msgspec.json.Decoder(_LooseMessage)
        self._one_trade = msgspec.json.Decoder(_Trade)
        self._list_of_text = msgspec.json.Decoder(list[str] | None)
        self._symbols = Symbols(asked)
        self._conditions: dict[bytes, bytes] = {}

    def read(self, texts: Sequence[bytes], connection: int, first_seq: int, ts_recv_ns: int) -> Reading:
        """Parse these messages; see `base.Parser`."""
        line = b"%d,%%d,%d,%%d000000,%%b,%%b,%%b,%%b\n" % (connection, ts_recv_ns)
        reading = self._read_at_once(texts, line, first_seq)
        if reading is None:
            reading = Reading()
            for text in texts:
                self._read_one(text, line, first_seq + len(reading.lines), reading)
            reading.block = b"".join(reading.lines)
        return reading

    def _read_at_once(self, texts: Sequence[bytes], line: bytes, first_seq: int) -> Reading | None:
        """Parse all messages in one call, or return None if one of them needs a closer look."""
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
        except KeyError:  # A symbol or condition list that was not checked yet.
            return None
        reading.block = b"".join(lines)
        if not _are_numbers(reading.block):
            return None
        reading.lines = lines
        reading.symbols = [t.s for t in trades]
        return reading

    def _decode_at_once(self, texts: Sequence[bytes]) -> list[_Message] | None:
        """Decode all messages in one call, joined by line breaks; None if that is not provably correct.

        JSON allows no raw line break inside a string and no `}` right before a `{` inside a value. So if every line
        break is between `}` and `{`, each separates two values; and if there are as many values as messages, each
        message is exactly one value.
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
        """Parse one message into `reading`; used for everything unusual."""
        try:
            text.decode("utf-8")  # The decoder checks only the fields that it keeps.
            message = self._loose.decode(text)
        except UnicodeDecodeError as error:
            reading.rejected.append(Rejected("frame", f"not UTF-8: {error.reason} at byte {error.start}", text))
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            reading.rejected.append(Rejected("frame", f"not a message: {first_line(error)}", text))
        else:
            if message.type == "trade" and message.data is not UNSET:
                reading.trade_frames += 1
                self._read_trades(message.data, line, first_seq, reading)
            elif message.type in ("ping", "error"):
                reading.control_frames += 1
                if message.type == "error":
                    said = "" if message.msg is UNSET else message.msg
                    reading.errors.append(VendorError(said, _error_kind(said)))
            else:
                why = "a trade message without data" if message.type == "trade" else "an unknown type of message"
                reading.rejected.append(Rejected("frame", why, text))

    def _read_trades(self, elements: Sequence[Raw], line: bytes, first_seq: int, reading: Reading) -> None:
        for element in elements:
            raw = bytes(element)
            try:
                trade = self._one_trade.decode(raw)
                symbol = self._symbols.checked(trade.s)
                conditions = self._checked_conditions(bytes(trade.c))
                price, size = checked_number(bytes(trade.p), "p"), checked_number(bytes(trade.v), "v")
            except (msgspec.MsgspecError, ValueError, RecursionError) as error:
                reading.rejected.append(Rejected("trade", f"not a trade: {first_line(error)}", raw))
                continue
            # `%d000000` would write a time of 0 as 0000000, which does not survive a round trip.
            written = line if trade.t else line.replace(b"%d000000", b"%d")
            reading.lines.append(written % (first_seq, trade.t, symbol, price, size, conditions))
            reading.symbols.append(trade.s)
            first_seq += 1

    def _checked_conditions(self, raw: bytes) -> bytes:
        known = self._conditions.get(raw)
        if known is None:
            known = remember(self._conditions, raw, self._read_conditions(raw))
        return known

    def _read_conditions(self, raw: bytes) -> bytes:
        """Return the codes as one field. Anything but a list of plain codes is kept in a marked field."""
        with suppress(msgspec.MsgspecError, ValueError, RecursionError):
            codes = self._list_of_text.decode(raw) or []
            if are_plain_conditions(codes):
                return ";".join(codes).encode()
        return odd_conditions(_parts(raw))


def _parts(raw: bytes) -> list[str]:
    """Return the elements of a list of texts and numbers, or else the whole value as sent."""
    with suppress(msgspec.MsgspecError, ValueError, RecursionError):
        values = msgspec.json.decode(raw, type=list[str | int | float])
        return [value if isinstance(value, str) else msgspec.json.encode(value).decode() for value in values]
    return [raw.decode("utf-8", "replace")]


def _are_numbers(block: bytes) -> bool:
    """Whether every price and size in the block is a number, so that no field contains a comma or a line break.

    The decoder has checked that each is a JSON value: one that is not a number starts with one of these characters or
    is one of these words. The other fields are known to be clean.
    """
    if b'"' in block or b"[" in block or b"{" in block:
        return False
    if b"e" not in block and b"l" not in block:  # Each word has one of the two; one byte is found fastest.
        return True
    return b",null," not in block and b",true," not in block and b",false," not in block
