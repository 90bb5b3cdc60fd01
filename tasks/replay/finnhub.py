"""Imitates Finnhub's websocket: compact JSON with keys in alphabetical order."""

import json
from dataclasses import dataclass
from typing import Literal, cast

from tasks.replay.tape_file import TapeRow
from tasks.replay.vendor import EventTimes

PING = b'{"type":"ping"}'
TOO_MANY_SYMBOLS = "Subscribing to too many symbols"


@dataclass(frozen=True, slots=True)
class Request:
    """A client's request for one symbol."""

    kind: Literal["subscribe", "unsubscribe"]
    symbol: str


class Finnhub:
    """Finnhub's websocket: one connection per token, several trades per message, no acknowledgments."""

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

    def numbered(self, rows: list[TapeRow], times: EventTimes) -> list[TapeRow]:  # noqa: ARG002 - has no numbers.
        return rows

    def messages(self, rows: list[TapeRow], times: EventTimes) -> list[bytes]:
        return [self._writer.message(rows, times)]

    def beat(self, symbols: set[str], now_ms: int) -> list[bytes]:  # noqa: ARG002 - a ping names nothing.
        return [PING]


def read_request(message: str | bytes) -> Request | None:
    """Parse a client's request; return None for JSON with no meaning here, which the vendor ignores.

    Raises ValueError if it is not a request at all; the error's text is the vendor's answer.
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
    """Return the vendor's error message."""
    return _compact({"msg": text, "type": "error"})


class TradeWriter:
    """Writes trade messages; symbols and sets of conditions are formatted once and cached."""

    def __init__(self) -> None:
        self._symbols = _SymbolPieces()
        self._conditions = _ConditionPieces()

    def message(self, rows: list[TapeRow], times: EventTimes) -> bytes:
        """Return one message with these rows; prices and sizes have the digits of the tape."""
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
        # If there are none, as for crypto, the vendor sends null.
        self[conditions] = piece = f'{{"c":{_compact(conditions.split(";") if conditions else None)},"p":'
        return piece


def _compact(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
