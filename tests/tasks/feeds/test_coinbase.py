"""Coinbase's messages become journal lines, or are rejected with a reason; nothing in between."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.feeds.base import Reading, VendorError
from tasks.feeds.coinbase import Coinbase, Parser

TS = 1_700_000_000_123_456_789
# As in the vendor's documentation.
MATCH: dict[str, Any] = {
    "type": "match", "trade_id": 10, "sequence": 50, "maker_order_id": "ac928c66-ca53-498f-9c13-a110027a60e8",
    "taker_order_id": "132fb6ae-456b-4654-b4e0-d681ac05cea1", "time": "2014-11-07T08:19:27.028459Z",
    "product_id": "BTC-USD", "size": "5.23512", "price": "400.23", "side": "sell",
}  # fmt: skip
HEARTBEAT = {
    "type": "heartbeat", "sequence": 90, "last_trade_id": 20, "product_id": "BTC-USD",
    "time": "2014-11-07T08:19:28.464459Z",
}  # fmt: skip


def message(**changes: Any) -> bytes:
    return json.dumps({name: value for name, value in (MATCH | changes).items() if value is not ...}).encode()


def read(*texts: bytes) -> Reading:
    return Parser().read(texts, 1, 5, TS)


def test_a_match_is_one_line_with_its_digits_its_numbers_and_the_side_of_the_aggressor() -> None:
    """A maker who sold was hit by a buyer; microseconds stay, and so does every digit of price and size."""
    reading = read(message(), message(trade_id=11, sequence=51, side="buy", price="400.230", size="0.00000001"))
    assert reading.lines == [
        b"1,5,1700000000123456789,1415348367028459000,BTC-USD,400.23,5.23512,,10,50,buy\n",
        b"1,6,1700000000123456789,1415348367028459000,BTC-USD,400.230,0.00000001,,11,51,sell\n",
    ]
    assert reading.block == b"".join(reading.lines)
    assert (reading.symbols, reading.trade_ids) == (["BTC-USD"] * 2, [10, 11])
    assert (reading.trade_frames, reading.control_frames, reading.rejected) == (2, 0, [])


@pytest.mark.parametrize(
    ("time", "ns"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("2014-11-07T08:19:27Z", 1_415_348_367_000_000_000),
        ("2014-11-07T08:19:27.1Z", 1_415_348_367_100_000_000),
        ("2014-11-07T08:19:27.123456789Z", 1_415_348_367_123_456_789),
        ("2016-02-29T23:59:59.999999Z", 1_456_790_399_999_999_000),
    ],
)
def test_times_are_exact_to_the_nanosecond(time: str, ns: int) -> None:
    """Whatever the number of digits after the second, up to nine, none is lost in a float."""
    assert read(message(time=time)).lines[0].split(b",")[3] == str(ns).encode()


@pytest.mark.parametrize(
    "changes",
    [
        {"trade_id": 0}, {"trade_id": "10"}, {"trade_id": 1 << 63}, {"trade_id": ...}, {"sequence": -1},
        {"sequence": ...}, {"time": "2014-11-07 08:19:27Z"}, {"time": "2014-11-07T08:19:27"}, {"time": ...},
        {"time": "2014-13-07T08:19:27Z"}, {"time": "2014-11-07T08:19:27.0123456789Z"}, {"time": 1}, {"price": "4e"},
        {"price": "NaN"}, {"price": "4,0"}, {"price": 400.23}, {"size": ""}, {"size": " 1"}, {"product_id": ""},
        {"product_id": "A,B"}, {"product_id": "A\nB"}, {"side": "maker"}, {"side": ...},
    ],
)  # fmt: skip
def test_a_match_that_cannot_be_a_row_is_rejected_alone(changes: dict[str, Any]) -> None:
    """It is kept as received, with the reason; the matches beside it become lines."""
    bad = message(**changes)
    reading = read(message(), bad, message(trade_id=12))
    assert [(each.kind, each.payload) for each in reading.rejected] == [("trade", bad)]
    assert reading.rejected[0].reason.startswith("not a trade: ")
    assert (reading.trade_ids, reading.trade_frames) == ([10, 12], 3)


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"[]", b"1", b'{"type":1}', b'{"type":"status"}', b'{"no":"type"}', b'{"type":"match\xff"}', b"null"],
)
def test_what_is_no_message_is_rejected_as_received(text: bytes) -> None:
    """Malformed and unknown messages are rejected whole; their neighbors are read."""
    reading = read(message(), text, message(trade_id=11))
    assert [(each.kind, each.payload) for each in reading.rejected] == [("frame", text)]
    assert reading.trade_ids == [10, 11]


def test_what_tells_the_newest_number_is_no_trade() -> None:
    """The match from before the subscription and heartbeats tell numbers; a heartbeat's 0 tells nothing."""
    reading = read(
        message(type="last_match", trade_id=9, product_id="ETH-USD"),
        json.dumps(HEARTBEAT).encode(),
        json.dumps(HEARTBEAT | {"product_id": "SOL-USD", "last_trade_id": 0}).encode(),
    )
    assert reading.last_ids == {"ETH-USD": 9, "BTC-USD": 20}
    assert (reading.lines, reading.control_frames, reading.trade_frames) == ([], 3, 0)


def test_acknowledged_are_the_products_whose_matches_come() -> None:
    """Of the channels that the vendor lists, only that of the matches counts."""
    channels = [{"name": "heartbeat", "product_ids": ["A-B", "C-D"]}, {"name": "matches", "product_ids": ["A-B"]}]
    reading = read(json.dumps({"type": "subscriptions", "channels": channels}).encode())
    assert (reading.subscribed, reading.control_frames) == (("A-B",), 1)


@pytest.mark.parametrize(
    ("reason", "error"),
    [
        (
            "FOO-USD is not a valid product",
            VendorError("Failed to subscribe: FOO-USD is not a valid product", "unknown symbol", ("FOO-USD",)),
        ),
        ("slow down", VendorError("Failed to subscribe: slow down")),
    ],
)
def test_errors_are_control_frames_that_may_name_a_product(reason: str, error: VendorError) -> None:
    """An unknown product is named, so that the others can be asked for again."""
    reading = read(json.dumps({"type": "error", "message": "Failed to subscribe", "reason": reason}).encode())
    assert (reading.errors, reading.control_frames) == ([error], 1)


@given(st.lists(st.text("ABC", min_size=1, max_size=6), unique=True, max_size=300))
def test_requests_name_each_product_once_in_at_most_fifty_messages(products: list[str]) -> None:
    """A client that sends a hundred messages a second is cut off."""
    requests = [json.loads(each) for each in Coinbase().subscribe(products)]
    assert len(requests) <= 50
    assert [name for each in requests for name in each["product_ids"]] == products
    assert all(each["channels"] == ["matches", "heartbeat"] and each["type"] == "subscribe" for each in requests)


@given(st.lists(st.one_of(st.binary(max_size=40), st.builds(message, trade_id=st.integers(-1, 5))), max_size=8))
def test_no_message_goes_uncounted(messages: list[bytes]) -> None:
    """Whatever arrives: each message is a trade, control or rejected frame, each match a line or rejected."""
    reading = read(*messages)
    kinds = [each.kind for each in reading.rejected]
    assert reading.trade_frames + reading.control_frames + kinds.count("frame") == len(messages)
    assert len(reading.lines) + kinds.count("trade") == reading.trade_frames


def test_heartbeats_of_invented_products_do_not_fill_the_memory() -> None:
    """As of their trades, some thousand are taken; the others, and names that no field can hold, are rejected."""
    names = [*(f"X{n}-USD" for n in range(10_050)), "A,B"]
    beats = [json.dumps(HEARTBEAT | {"product_id": name}).encode() for name in names]
    reading = read(*beats, message(type="last_match", product_id="C\n"))
    assert len(reading.last_ids) == 10_000
    assert len(reading.before_ids) == 0
    assert (len(reading.rejected), reading.control_frames) == (52, 10_000)
