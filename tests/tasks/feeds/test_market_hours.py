"""When markets trade, by the names of their symbols."""

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from tasks.feeds.finnhub import Finnhub
from tasks.feeds.market_hours import is_trading


def new_york_ns(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo("America/New_York")).timestamp()) * 10**9


@pytest.mark.parametrize(
    ("symbol", "at", "trades"),
    [
        ("OANDA:EUR_USD", "2026-11-27T16:59", True),
        ("OANDA:EUR_USD", "2026-11-27T17:00", False),
        ("OANDA:EUR_USD", "2026-11-28T12:00", False),
        ("OANDA:EUR_USD", "2026-11-29T16:59", False),
        ("OANDA:EUR_USD", "2026-11-29T17:00", True),
        ("IC MARKETS:1", "2026-11-28T12:00", False),
        ("UNKNOWN:X", "2026-11-28T12:00", False),
        ("BINANCE:BTCUSDT", "2026-11-28T12:00", True),
        ("coinbase:BTC-USD", "2026-11-28T12:00", True),
    ],
)
def test_currencies_rest_over_the_weekend_and_crypto_does_not(symbol: str, at: str, trades: bool) -> None:
    """From Friday to Sunday, five in New York, currencies rest; so does what nobody knows."""
    assert is_trading(Finnhub().market_hours(symbol), new_york_ns(at), ()) == trades


def test_a_stock_trades_in_the_hours_of_its_exchange() -> None:
    """From an opening until just before its close, whatever the day."""
    assert [is_trading("exchange", ns, ((10, 20), (30, 40))) for ns in (9, 10, 19, 20, 30, 40)] == [
        False, True, True, False, True, False,
    ]  # fmt: skip
