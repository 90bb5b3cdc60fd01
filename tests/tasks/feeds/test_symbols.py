"""Which symbols people may name, and which are rejected at every entry point."""

import pytest

from tasks.errors import SettingsError
from tasks.feeds.symbols import read_symbols


@pytest.mark.parametrize(
    ("given", "symbols"),
    [
        ("", ()),
        ([], ()),
        ("AAPL", ("AAPL",)),
        ("AAPL,MSFT", ("AAPL", "MSFT")),
        (" AAPL , MSFT,,AAPL\n", ("AAPL", "MSFT")),
        ("AAPL\r\nBRK.A\nBINANCE:BTCUSDT", ("AAPL", "BRK.A", "BINANCE:BTCUSDT")),
        ("IC MARKETS:1", ("IC MARKETS:1",)),
        ("AAPL, IC MARKETS:1 ,OANDA:EUR_USD", ("AAPL", "IC MARKETS:1", "OANDA:EUR_USD")),
        (["AAPL,MSFT", "IC MARKETS:1"], ("AAPL", "MSFT", "IC MARKETS:1")),
        (("^GSPC", "币安人生USDT"), ("^GSPC", "币安人生USDT")),
    ],
)
def test_commas_and_line_ends_separate_symbols(given: object, symbols: tuple[str, ...]) -> None:
    """Nothing else does; each symbol is kept once, in the order given."""
    assert read_symbols(given) == symbols


@pytest.mark.parametrize(
    "given",
    [
        "AAPL MSFT", "AAPL\tMSFT", ["AAPL MSFT"], "AAPL BINANCE:BTCUSDT", "BINANCE:BTCUSDT AAPL",
        "BINANCE:BTCUSDT BINANCE:ETHUSDT", "AAPL MSFT BINANCE:BTCUSDT", "aapl oanda:EUR_USD", "IC MARKETS :1",
        "AAPL;MSFT", "'AAPL','MSFT'", '["AAPL", "MSFT"]',
    ],
)  # fmt: skip
def test_two_symbols_without_a_comma_are_not_one(given: object) -> None:
    """A list in another form would be one symbol that never trades; the error says what separates symbols."""
    with pytest.raises(SettingsError, match="separate symbols with commas"):
        read_symbols(given)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (None, "null"), (5, "a number"), (1.5, "a number"), (True, "true or false"), ({"AAPL": 1}, "an object"),
        ([1], "lists a number"), (["AAPL", None], "lists null"), ([["AAPL"]], "lists a list"),
        (["AAPL", {"symbol": "MSFT"}], "lists an object"),
        (",", "names no symbol"), ([""], "names no symbol"), (" ", "names no symbol"),
        ("A" * 65, "at most 64"), ("AA\x00PL", "printable"), ('"AAPL"', "quote"), ("A\u00a0B", "printable"),
    ],
)  # fmt: skip
def test_what_is_no_list_of_symbols_is_refused_in_a_line(given: object, said: str) -> None:
    """The error says what was found in its place."""
    with pytest.raises(SettingsError, match=said) as caught:
        read_symbols(given)
    assert "\n" not in str(caught.value)
