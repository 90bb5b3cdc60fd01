"""Finnhub's messages become journal lines, or are refused with a reason; nothing in between."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.feeds.base import Reading, VendorError
from tasks.feeds.finnhub import Finnhub, Parser

TS = 1_700_000_000_123_456_789


def message(*trades: str) -> bytes:
    return ('{"data":[' + ",".join(trades) + '],"type":"trade"}').encode()


def trade(s: str = "AAPL", p: str = "189.5", t: str = "1575526691134", v: str = "100", c: str = '["1","12"]') -> str:
    return f'{{"c":{c},"p":{p},"s":"{s}","t":{t},"v":{v}}}'


def read(*texts: bytes) -> Reading:
    """Read twice by one reader: the second time every symbol is known, and the fast way is taken where it can be."""
    reader = Parser()
    first, second = reader.read(texts, 1, 5, TS), reader.read(texts, 1, 5, TS)
    assert first == second, "a message means the same whichever way it is read"
    assert first.block == b"".join(first.lines)
    assert len(first.lines) == len(first.symbols)
    return first


def test_every_trade_of_every_message_is_a_line_with_its_digits_unchanged() -> None:
    """Each trade of a message of many becomes one line, numbered in order, price and size as they were written."""
    reading = read(
        message(trade(p="1.10", v="0.00021000"), trade(s="BINANCE:BTCUSDT", p="1e-8", c="null")),
        message(trade(s="OANDA:EUR_USD", p="-0.5", v="0", c="[]")),
        b'{"data":[{"p":7,"s":"X","t":-1,"v":12345678901234567890123}],"type":"trade"}',
    )
    assert reading.lines == [
        b"1,5,%d,1575526691134000000,AAPL,1.10,0.00021000,1;12\n" % TS,
        b"1,6,%d,1575526691134000000,BINANCE:BTCUSDT,1e-8,100,\n" % TS,
        b"1,7,%d,1575526691134000000,OANDA:EUR_USD,-0.5,0,\n" % TS,
        b"1,8,%d,-1000000,X,7,12345678901234567890123,\n" % TS,
    ]
    assert (reading.trade_frames, reading.control_frames, reading.rejected) == (3, 0, [])


def test_pings_and_errors_are_control_frames() -> None:
    """The vendor's JSON ping and error count as control frames, and the error's text is passed on."""
    reading = read(b'{"type":"ping"}', message(trade()), b'{"type":"error","msg":"Subscribing to too many symbols"}')
    assert (reading.trade_frames, reading.control_frames) == (1, 2)
    assert reading.errors == [VendorError("Subscribing to too many symbols", "too many symbols")]
    assert len(reading.lines) == 1


@pytest.mark.parametrize(
    "text",
    [
        b"", b"null", b"[]", b"{}", b"nonsense", b'{"type":1}', b'{"type":"news","data":[]}', b'{"type":"trade"}',
        b'{"type":"trade","data":{}}', b'{"type":"trade","data":null}', b'{"type":"trade","data":[1,2',
        b'{"type":"trade","data":[]}{"type":"trade","data":[]}', b'{"type":"trade","data":[]}\n{"type":"ping"}',
        b'{"type":"trade","x":"\xff","data":[]}', b'{"type":"ping","x":"\xc3("}',
        b'{"type":"ping","x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ],
)  # fmt: skip
def test_what_is_no_message_is_refused_as_received(text: bytes) -> None:
    """Malformed, unknown and hostile messages are refused whole, as received; their neighbours are read."""
    reading = read(message(trade()), text, message(trade()))
    assert [(refused.kind, refused.payload) for refused in reading.rejected] == [("frame", text)]
    assert reading.rejected[0].reason
    assert (reading.trade_frames, reading.control_frames, len(reading.lines)) == (2, 0, 2)


@pytest.mark.parametrize(
    "bad",
    [
        trade(p='"189.5"'), trade(p="null"), trade(p="true"), trade(p="[1]"), trade(p="[1,2]"), trade(p="{}"),
        trade(v="false"), trade(v='"a,b"'), trade(t="1.5"), trade(t='"now"'), trade(t="null"), trade(s=""),
        trade(s="a,b"), trade(s='a\\"b'), trade(s="a\\nb"), trade(s="a\\u0000b"), trade(s="x" * 10_000),
        "{}", "1", '"text"', "null", "[]", '{"s":"A","p":1,"t":1}', '{"s":"A","p":1,"v":1}',
    ],
)  # fmt: skip
def test_a_bad_trade_is_refused_alone(bad: str) -> None:
    """A trade that cannot be a row is refused as received; the others of its message become lines."""
    reading = read(message(trade(), bad, trade(s="MSFT")), message(trade()))
    assert [(refused.kind, refused.payload) for refused in reading.rejected] == [("trade", bad.encode())]
    assert reading.symbols == ["AAPL", "MSFT", "AAPL"]
    assert reading.trade_frames == 2


@pytest.mark.parametrize(
    ("odd", "kept"),
    [
        ("[1]", "?;1"), ("[1,12]", "?;1;12"), ('["1",12,0.5]', "?;1;12;0.5"), ('["a,b"]', "?;a%2Cb"),
        ('["1;2"]', "?;1%3B2"), ('["\\n"]', "?;%0A"), ("{}", "?;{}"), ('{"a":1}', "?;{%22a%22:1}"), ("7", "?;7"),
        ('"1"', "?;%221%22"), ('[""]', "?;"), ("[[1]]", "?;[[1]]"), ('["50%"]', "50%"), ('["?"]', "?;?"),
        ("true", "?;true"), ('["日本"]', "日本"), ("null", ""), ("[]", ""),
    ],
)  # fmt: skip
def test_odd_conditions_cost_no_trade(odd: str, kept: str) -> None:
    """Whatever stands in place of the codes, the trade is a line, marked, with what was sent in a clean field."""
    reading = read(message(trade(), trade(c=odd)), message(trade(c=odd)))
    assert reading.rejected == []
    assert [line.rstrip(b"\n").split(b",")[7].decode() for line in reading.lines] == ["1;12", kept, kept]


def test_a_huge_list_of_conditions_is_cut() -> None:
    """A field has an end, whatever a feed sends."""
    (line,) = read(message(trade(c="[" + "1," * 100_000 + "1]"))).lines
    assert len(line) < 2_000


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "CON", "null", "true", "A[1]", "Ä-ß", "日本", "a b;c", "'quoted'"]
)
def test_odd_symbols_that_a_field_can_hold_are_lines(name: str) -> None:
    """A symbol is only text in a field: odd ones are written as they are, whichever way they are read."""
    reading = read(message(trade(s=name)), message(trade(s=name, p="2")))
    assert reading.symbols == [name, name]
    assert reading.lines[1].split(b",")[4] == name.encode()


def test_a_time_of_zero_is_written_as_zero() -> None:
    """An event time of 0 is `0`, so that the archive gives the same bytes back."""
    assert read(message(trade(t="0"), trade(t="-0"))).lines == [
        b"1,5,%d,0,AAPL,189.5,100,1;12\n" % TS,
        b"1,6,%d,0,AAPL,189.5,100,1;12\n" % TS,
    ]


numbers = st.floats(allow_nan=True, allow_infinity=True) | st.integers() | st.decimals(allow_nan=False).map(float)
values = st.recursive(
    st.none() | st.booleans() | numbers | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
plain = st.fixed_dictionaries(
    {
        "s": st.sampled_from(["AAPL", "MSFT", "BINANCE:BTCUSDT"]),
        "p": st.integers(1, 10**6) | st.floats(0.01, 1e6),
        "t": st.integers(0, 2 * 10**12),
        "v": st.integers(0, 10**6),
    },
    optional={"c": st.none() | st.lists(st.sampled_from(["1", "8", "12"]), max_size=3)},
)
strange = st.dictionaries(st.sampled_from(["s", "p", "t", "v", "c", "x"]), values, max_size=6)
texts = (
    st.fixed_dictionaries({"type": st.just("trade"), "data": st.lists(plain | plain | strange, max_size=4)})
    | st.fixed_dictionaries({"type": values, "data": values})
    | values
).map(lambda each: json.dumps(each).encode()) | st.binary(max_size=40)


@settings(deadline=None, max_examples=300)
@given(st.lists(texts, max_size=6))
def test_every_message_and_every_trade_is_accounted_for(messages: list[bytes]) -> None:
    """Whatever arrives: each message is a trade, control or refused frame, each trade a line or refused."""
    reading = read(*messages)
    refused = [each.kind for each in reading.rejected]
    assert reading.trade_frames + reading.control_frames + refused.count("frame") == len(messages)
    assert len(reading.lines) + refused.count("trade") == sum(map(trades_in, messages))
    for line in reading.lines:
        assert line.count(b",") == 7
        assert line.count(b"\n") == 1
        assert b'"' not in line


def trades_in(text: bytes) -> int:
    """How many elements a readable trade message holds, by the standard library's reader."""
    try:
        decoded: Any = json.loads(text.decode(), parse_constant=_not_json)
    except (ValueError, RecursionError):
        return 0
    if not isinstance(decoded, dict) or decoded.get("type") != "trade" or not isinstance(decoded.get("data"), list):
        return 0
    return len(decoded["data"])


def _not_json(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def test_requests_and_address() -> None:
    """Requests are the vendor's JSON, and the key is quoted into the address."""
    assert json.loads(Finnhub().subscribe(['A"B'])[0]) == {"type": "subscribe", "symbol": 'A"B'}
    assert json.loads(Finnhub().unsubscribe(["AAPL"])[0]) == {"type": "unsubscribe", "symbol": "AAPL"}
    assert Finnhub().address("wss://ws.finnhub.io", "a&b=c") == "wss://ws.finnhub.io?token=a%26b%3Dc"
