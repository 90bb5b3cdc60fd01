"""What does Finnhub's websocket say, and what does it make of what a client says?

Pure: no socket, no clock. Finnhub's JSON is compact, its keys in alphabetical order.
"""

import json
from dataclasses import dataclass
from typing import Literal, cast

from tasks.replay.tape_file import TapeRow

PING = b'{"type":"ping"}'
TOO_MANY_SYMBOLS = "Subscribing to too many symbols"


@dataclass(frozen=True, slots=True)
class Request:
    """A client's wish for one symbol."""

    kind: Literal["subscribe", "unsubscribe"]
    symbol: str


@dataclass(frozen=True, slots=True)
class EventTimes:
    """Which event time is sent for a tape's: `base_ms + (t − tape_ms) / speed`.

    The original ones have `base_ms = tape_ms` and speed 1; at an infinite speed all are `base_ms`.
    """

    base_ms: int
    tape_ms: int
    speed: float


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
