"""The replay's Coinbase numbers its trades like the vendor's."""

import json

from tasks.replay.coinbase import Coinbase
from tasks.replay.vendor import EventTimes

TIMES = EventTimes(0, 0, 1)


def test_the_last_match_is_the_last_that_happened_whoever_listened() -> None:
    """Trades without a subscriber have numbers too: the next trade's number follows the last match."""
    vendor, subscribe = Coinbase(), json.dumps({"type": "subscribe", "product_ids": ["A-USD"], "channels": ["matches"]})
    rows = [(n, "A-USD", f"{n}.5", "1", "") for n in range(1, 6)]
    vendor.messages(vendor.numbered(rows[:2], TIMES), TIMES)
    vendor.numbered(rows[2:4], TIMES)
    last, _acknowledged = map(json.loads, vendor.answer(subscribe, set(), 10))
    (after,) = map(json.loads, vendor.messages(vendor.numbered(rows[4:], TIMES), TIMES))
    assert (last["type"], last["trade_id"], last["price"]) == ("last_match", 4, "4.5")
    assert after["trade_id"] == 5
