"""Coinbase Exchange's websocket: builds requests and parses messages into journal lines.

The feed is public and needs no key. Source: docs.cdp.coinbase.com/exchange/websocket-feed. Each match is one message
with its number (`trade_id`, contiguous per product), the product's `sequence`, and the *maker's* side. Every second a
heartbeat has the number of the product's last match; some clients have reported a 0 there, which is ignored.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from math import ceil
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from tasks.feeds.base import MarketHours, Reading, Rejected, VendorError
from tasks.feeds.fields import Symbols, checked_number, first_line
from tasks.records.trade import EXTRA_COLUMNS, NS_PER_S

# A client may send a hundred messages per second.
_MOST_REQUESTS = 50
_CHANNELS = ("matches", "heartbeat")
# RFC 3339 in UTC: whole seconds, then at most nine digits.
_TIME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?Z")
_UNKNOWN_PRODUCT = re.compile(r"(\S+) is not a valid product")
_AGGRESSOR = {"buy": b"sell", "sell": b"buy"}  # Keyed by the maker's side, which the vendor sends.

_Number = Annotated[int, Meta(ge=1, le=(1 << 63) - 1)]


class _Match(Struct, gc=False):
    trade_id: _Number
    sequence: _Number
    time: str
    product_id: str
    size: str
    price: str
    side: str


class _Heartbeat(Struct, gc=False):
    product_id: str
    last_trade_id: Annotated[int, Meta(ge=0, le=(1 << 63) - 1)] = 0


class _Channel(Struct, gc=False):
    name: str
    product_ids: list[str] = []


class _Subscriptions(Struct, gc=False):
    channels: list[_Channel]


class _Error(Struct, gc=False):
    message: str = ""
    reason: str = ""


class _Kind(Struct, gc=False):
    type: str


class Coinbase:
    """Coinbase Exchange: acknowledged subscriptions, numbered trades, markets that never close."""

    name = "coinbase"
    url = "wss://ws-feed.exchange.coinbase.com"
    hosts = ("coinbase.com",)
    key_setting = None
    acknowledges = True
    extra_columns = EXTRA_COLUMNS
    numbers_trades = True

    def address(self, url: str, key: str) -> str:  # noqa: ARG002 - public.
        return url

    def greeting(self, key: str) -> list[str]:  # noqa: ARG002 - public.
        return []

    def subscribe(self, symbols: Iterable[str]) -> list[str]:
        return _requests("subscribe", list(symbols))

    def unsubscribe(self, symbols: Iterable[str]) -> list[str]:
        return _requests("unsubscribe", list(symbols))

    def parser(self, asked: Callable[[], tuple[str, ...]]) -> "Parser":
        return Parser(asked)

    def market_hours(self, symbol: str) -> MarketHours:  # noqa: ARG002 - every product trades around the clock.
        return "always"


def _requests(kind: str, symbols: list[str]) -> list[str]:
    size = max(1, ceil(len(symbols) / _MOST_REQUESTS))
    groups = [symbols[start : start + size] for start in range(0, len(symbols), size)]
    return [
        msgspec.json.encode({"type": kind, "product_ids": group, "channels": _CHANNELS}).decode() for group in groups
    ]


class Parser:
    """Parses messages into journal lines, and remembers checked symbols."""

    def __init__(self, asked: Callable[[], tuple[str, ...]] = tuple) -> None:
        self._symbols = Symbols(asked)
        self._kind = msgspec.json.Decoder(_Kind)
        self._match = msgspec.json.Decoder(_Match)
        self._heartbeat = msgspec.json.Decoder(_Heartbeat)
        self._subscriptions = msgspec.json.Decoder(_Subscriptions)
        self._error = msgspec.json.Decoder(_Error)
        self._second = ("", 0)

    def read(self, texts: Sequence[bytes], connection: int, first_seq: int, ts_recv_ns: int) -> Reading:
        """Parse these messages; see `base.Parser`."""
        reading = Reading()
        line = b"%d,%%d,%d,%%d,%%b,%%b,%%b,,%%d,%%d,%%b\n" % (connection, ts_recv_ns)
        for text in texts:
            try:
                text.decode("utf-8")  # The decoder checks only the fields that it keeps.
                self._read_one(text, line, first_seq, reading)
            except UnicodeDecodeError as error:
                reading.rejected.append(Rejected("frame", f"not UTF-8: {error.reason} at byte {error.start}", text))
            except (msgspec.MsgspecError, ValueError, RecursionError) as error:
                reading.rejected.append(Rejected("frame", f"not a message: {first_line(error)}", text))
        reading.block = b"".join(reading.lines)
        return reading

    def _read_one(self, text: bytes, line: bytes, first_seq: int, reading: Reading) -> None:
        kind = self._kind.decode(text).type
        if kind == "match":
            self._read_match(text, line, first_seq + len(reading.lines), reading)
        elif kind == "last_match":  # The last trade before the subscription: numbers count from here.
            match = self._match.decode(text)
            self._symbols.checked(match.product_id)
            reading.before_ids[match.product_id] = reading.last_ids[match.product_id] = match.trade_id
            reading.control_frames += 1
        elif kind == "heartbeat":
            beat = self._heartbeat.decode(text)
            self._symbols.checked(beat.product_id)  # A tracker of numbers needs memory for each.
            if beat.last_trade_id:
                reading.last_ids[beat.product_id] = beat.last_trade_id
            reading.control_frames += 1
        elif kind == "subscriptions":
            channels = self._subscriptions.decode(text).channels
            served = (each.product_ids for each in channels if each.name == _CHANNELS[0])
            reading.subscribed = tuple(product for products in served for product in products)
            reading.control_frames += 1
        elif kind == "error":
            reading.errors.append(_vendor_error(self._error.decode(text)))
            reading.control_frames += 1
        else:
            raise ValueError("an unknown type of message")

    def _read_match(self, text: bytes, line: bytes, seq: int, reading: Reading) -> None:
        """Add a match; one that cannot be a row is rejected as a trade, because its message is readable."""
        try:
            match = self._match.decode(text)
            written = line % (
                seq,
                self._time_ns(match.time),
                self._symbols.checked(match.product_id),
                checked_number(match.price.encode(), "price"),
                checked_number(match.size.encode(), "size"),
                match.trade_id,
                match.sequence,
                _aggressor(match.side),
            )
        except (msgspec.MsgspecError, ValueError) as error:
            reading.rejected.append(Rejected("trade", f"not a trade: {first_line(error)}", text))
        else:
            reading.lines.append(written)
            reading.symbols.append(match.product_id)
            reading.trade_ids.append(match.trade_id)
        reading.trade_frames += 1

    def _time_ns(self, text: str) -> int:
        found = _TIME.fullmatch(text)
        if found is None:
            raise ValueError("time is not RFC 3339 in UTC")
        second, fraction = found[1], found[2] or "0"
        if second != self._second[0]:  # Most messages are from the same second as the previous one.
            self._second = (second, int(datetime.fromisoformat(f"{second}+00:00").timestamp()))
        return self._second[1] * NS_PER_S + int(fraction.ljust(9, "0"))


def _aggressor(makers_side: str) -> bytes:
    side = _AGGRESSOR.get(makers_side)
    if side is None:
        raise ValueError("side is neither buy nor sell")
    return side


def _vendor_error(error: _Error) -> VendorError:
    text = ": ".join(part for part in (error.message, error.reason) if part)
    unknown = _UNKNOWN_PRODUCT.match(error.reason)
    return VendorError(text, "unknown symbol", (unknown[1],)) if unknown else VendorError(text)
