"""When does a symbol's market trade, by what its name says of its venue?

Stocks trade in the hours of their exchange's calendar. Finnhub names crypto and currencies as VENUE:PAIR
(`BINANCE:BTCUSDT`, `OANDA:EUR_USD`); crypto never rests, currencies rest over the weekend. Source: the exchanges that
Finnhub's `/crypto/exchange` lists. A venue that is not known is taken for one of currencies: to overlook a silence
over a weekend costs nothing, to reconnect through it does.
"""

from collections.abc import Iterable
from datetime import datetime
from zoneinfo import ZoneInfo

from tasks.trade import NS_PER_S
from tasks.zones import never_closes

_CRYPTO = frozenset({
    "BINANCE", "BINANCEUS", "BITFINEX", "BITMEX", "BITSTAMP", "BITTREX", "BYBIT", "COINBASE", "FTX", "GATEIO", "GEMINI",
    "HITBTC", "HUOBI", "KRAKEN", "KUCOIN", "OKEX", "OKX", "POLONIEX", "UPBIT", "ZB",
})  # fmt: skip
# The hosts that may be given a key of this vendor: this one, and those below it.
KEYS_GO_TO = "finnhub.io"
# Currencies trade from Sunday to Friday, five in the afternoon in New York.
_NEW_YORK = ZoneInfo("America/New_York")
_FRIDAY, _SATURDAY, _SUNDAY, _ROLLOVER_HOUR = 4, 5, 6, 17


def may_have_key(host: str) -> bool:
    """Whether a host (small letters, ASCII, no final dot) is the vendor's, and may be given its key."""
    return host == KEYS_GO_TO or host.endswith(f".{KEYS_GO_TO}")


def is_trading(symbol: str, ns: int, hours: Iterable[tuple[int, int]]) -> bool:
    """Whether the symbol's market trades at `ns` (UTC ns); `hours` are those of the exchange (UTC ns)."""
    if not never_closes(symbol):
        return any(start <= ns < end for start, end in hours)
    return symbol.partition(":")[0].upper() in _CRYPTO or _currencies_trade(ns)


def _currencies_trade(ns: int) -> bool:
    now = datetime.fromtimestamp(ns // NS_PER_S, _NEW_YORK)
    day, is_past_five = now.weekday(), now.hour >= _ROLLOVER_HOUR
    return day != _SATURDAY and not (day == _FRIDAY and is_past_five) and (day != _SUNDAY or is_past_five)
