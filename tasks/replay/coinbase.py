"""Imitates Coinbase Exchange's websocket: acknowledgments, one match per message, trade numbers, heartbeats."""

import json
from collections import Counter
from datetime import UTC, datetime
from typing import Any

from tasks.replay.tape_file import TapeRow
from tasks.replay.vendor import EventTimes

# A tape row followed by the trade's number and the product's sequence.
NumberedRow = tuple[int, str, str, str, str, int, int]


class Coinbase:
    """Coinbase Exchange's websocket. Every trade of the tape gets its product's next number, sent or not.

    Heartbeats are sent every second, as the vendor does. The maker's side, which a tape does not have, alternates.
    """

    needs_token = False
    beat_every_s = 1.0

    def __init__(self) -> None:
        self._numbers = Counter[str]()
        self._last: dict[str, tuple[NumberedRow, EventTimes]] = {}

    def answer(self, message: str | bytes, symbols: set[str], most: int) -> list[str]:
        try:
            said = json.loads(message)
            kind, products = str(said["type"]), [str(each) for each in said["product_ids"]]
        except (ValueError, RecursionError, KeyError, TypeError):
            return [_error("Failed to subscribe", "malformed request")]
        if kind == "unsubscribe":
            symbols.difference_update(products)
            return [_subscriptions(symbols)]
        wrong = next((each for each in products if "-" not in each), None)
        if wrong is not None or len({*symbols, *products}) > most:
            return [_error("Failed to subscribe", f"{wrong or products[-1]} is not a valid product")]
        new = [each for each in products if each not in symbols]
        symbols.update(products)
        last = [self._match(*self._last[each], "last_match") for each in new if each in self._last]
        return [*last, _subscriptions(symbols)]

    def numbered(self, rows: list[TapeRow], times: EventTimes) -> list[NumberedRow]:
        numbered = []
        for row in rows:
            self._numbers[row[1]] += 1
            number = self._numbers[row[1]]
            numbered.append((*row, number, 10 * number))
        self._last.update((row[1], (row, times)) for row in numbered)  # Whether or not anybody listens.
        return numbered

    def messages(self, rows: list[NumberedRow], times: EventTimes) -> list[bytes]:
        return [self._match(row, times, "match").encode() for row in rows]

    def beat(self, symbols: set[str], now_ms: int) -> list[bytes]:
        return [
            _compact({
                "type": "heartbeat", "sequence": 10 * self._numbers[each], "last_trade_id": self._numbers[each],
                "product_id": each, "time": _time(now_ms),
            }).encode()
            for each in sorted(symbols)
        ]  # fmt: skip

    def _match(self, row: NumberedRow, times: EventTimes, kind: str) -> str:
        at_ms, symbol, price, size, _, number, sequence = row
        return _compact({
            "type": kind, "trade_id": number, "maker_order_id": _order(2 * number), "taker_order_id":
            _order(2 * number + 1), "side": ("buy", "sell")[number % 2], "size": size, "price": price,
            "product_id": symbol, "sequence": sequence, "time": _time(times.ms(at_ms)),
        })  # fmt: skip


def _order(number: int) -> str:
    return f"{number:08x}-0000-4000-8000-000000000000"


def _time(ms: int) -> str:
    second = datetime.fromtimestamp(ms // 1000, UTC)
    return f"{second:%Y-%m-%dT%H:%M:%S}.{ms % 1000:03d}000Z"


def _subscriptions(symbols: set[str]) -> str:
    channels = [{"name": name, "product_ids": sorted(symbols)} for name in ("matches", "heartbeat")]
    return _compact({"type": "subscriptions", "channels": channels if symbols else []})


def _error(message: str, reason: str) -> str:
    return _compact({"type": "error", "message": message, "reason": reason})


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
