"""Speaks as Finnhub's websocket does. Its JSON is compact, its keys in alphabetical order."""

import json
from dataclasses import dataclass
from typing import Literal, cast

from tasks.replay.tape_file import TapeRow
from tasks.replay.vendor import EventTimes

PING = b'{"type":"ping"}'
TOO_MANY_SYMBOLS = "Subscribing to too many symbols"


@dataclass(frozen=True, slots=True)
class Request:
    """A client's wish for one symbol."""

    kind: Literal["subscribe", "unsubscribe"]
    symbol: str


class Finnhub:
    """Finnhub's websocket: one connection a token, several trades a message, no acknowledgements."""

    needs_token = True
    beat_every_s = 60.0

    def __init__(self) -> None:
        self._writer = TradeWriter()

    def answer(self, message: str | bytes, symbols: set[str], most: int) -> list[str]:
        try:
            request = read_request(message)
        except ValueError as error:
            return [error_message(str(error))]
        if request is not None and request.kind == "unsubscribe":
            symbols.discard(request.symbol)
        elif request is not None and request.symbol not in symbols and len(symbols) >= most:
            return [error_message(TOO_MANY_SYMBOLS)]
        elif request is not None:
            symbols.add(request.symbol)
        return []

    def numbered(self, rows: list[TapeRow]) -> list[TapeRow]:
        return rows

    def messages(self, rows: list[TapeRow], times: EventTimes) -> list[bytes]:
        return [self._writer.message(rows, times)]

    def beat(self, symbols: set[str], now_ms: int) -> list[bytes]:  # noqa: ARG002 - a ping names nothing.
        return [PING]


def read_request(message: str | bytes) -> Request | None:
    """What the client wants; None for JSON that means nothing here, which the vendor passes over.

    Raises ValueError for what is no request at all; its text is the vendor's answer.
    """
    try:
        said = json.loads(message)
    except (ValueError, RecursionError) as error:
        raise ValueError("Invalid message") from error
    if not isinstance(said, dict):
        raise ValueError("Invalid message")  # noqa: TRY004 - the peer's mistake, not a caller's
    if said.get("type") not in ("subscribe", "unsubscribe"):
        return None
    symbol = said.get("symbol")
    if not isinstance(symbol, str) or not symbol:
        raise ValueError("Invalid symbol")
    return Request(cast(Literal["subscribe", "unsubscribe"], said["type"]), symbol)


def error_message(text: str) -> str:
    """The vendor's answer to what it will not do."""
    return _compact({"msg": text, "type": "error"})


class TradeWriter:
    """Writes messages of trades. What repeats is formatted once: a symbol and a set of conditions."""

    def __init__(self) -> None:
        self._symbols = _SymbolPieces()
        self._conditions = _ConditionPieces()

    def message(self, rows: list[TapeRow], times: EventTimes) -> bytes:
        """One message of these rows, price and size digit by digit as the tape has them."""
        symbols, conditions = self._symbols, self._conditions
        base_ms, tape_ms, speed = times.base_ms, times.tape_ms, times.speed
        trades = [
            f'{conditions[c]}{p}{symbols[s]}{base_ms + int((t - tape_ms) / speed)},"v":{v}}}' for t, s, p, v, c in rows
        ]
        return f'{{"data":[{",".join(trades)}],"type":"trade"}}'.encode()


class _SymbolPieces(dict[str, str]):
    def __missing__(self, symbol: str) -> str:
        self[symbol] = piece = f',"s":{_compact(symbol)},"t":'
        return piece


class _ConditionPieces(dict[str, str]):
    def __missing__(self, conditions: str) -> str:
        # Where there are none, as for crypto, the vendor sends null.
        self[conditions] = piece = f'{{"c":{_compact(conditions.split(";") if conditions else None)},"p":'
        return piece


def _compact(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
