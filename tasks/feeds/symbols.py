"""Parses lists of symbols; every input of symbols uses this."""

import re

from tasks.errors import SettingsError

_LONGEST = 64
# Symbols appear in unquoted CSV fields and in comma-separated lists; `;` separates conditions.
_FORBIDDEN = set(";\"'\\")
_SEPARATORS = re.compile(r"[,\r\n]")
# Finnhub has one broker with a space, `IC MARKETS:1`. Any other space is assumed to be a missing comma.
_WITH_SPACE = re.compile(r"[^\s:]+ ([^\s:]+):[^\s:]+")
# Finnhub's names of other venues. A word before one of these is a separate symbol: `AAPL BINANCE:BTCUSDT`.
_ONE_WORD_VENUES = {
    "BINANCE", "BITFINEX", "BITMEX", "BITTREX", "CAPITAL.COM", "COINBASE", "FOREX.COM", "FXCM", "FXPIG", "FXPRO",
    "GEMINI", "HITBTC", "HUOBI", "KRAKEN", "KUCOIN", "OANDA", "OKEX", "PEPPERSTONE", "POLONIEX", "ZB",
}  # fmt: skip
_KINDS = {type(None): "null", bool: "true or false", int: "a number", float: "a number", dict: "an object"}


def read_symbols(given: object) -> tuple[str, ...]:
    """Parse the symbols in a text or a list of texts; return each once, in the order given.

    Commas and line breaks separate symbols, in a text and in each text of a list. An empty text or list has none.
    Raises SettingsError if `given` is something else or contains an invalid symbol.
    """
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list | tuple):
        raise SettingsError(f"is {_kind(given)}; give a list of symbols, or a text such as AAPL,MSFT")
    words: dict[str, None] = {}
    for text in texts:
        if not isinstance(text, str):
            raise SettingsError(f"lists {_kind(text)} as a symbol; each must be a text such as AAPL")
        words.update((_checked(word.strip()), None) for word in _SEPARATORS.split(text) if word.strip())
    if given and not words:
        raise SettingsError("names no symbol; write one such as AAPL")
    return tuple(words)


def _checked(word: str) -> str:
    shown = repr(word[:40])
    if len(word) > _LONGEST or not word.isprintable() or _FORBIDDEN & set(word):
        raise SettingsError(
            f"{shown} is not a symbol (at most {_LONGEST} printable characters, none of them a quote, a backslash or "
            "a semicolon); separate symbols with commas"
        )
    if " " in word:
        match = _WITH_SPACE.fullmatch(word)
        if match is None or match[1].upper() in _ONE_WORD_VENUES:
            raise SettingsError(
                f"{shown} is not one symbol: separate symbols with commas; only a venue's name can contain a space, "
                "as in IC MARKETS:1"
            )
    return word


def _kind(value: object) -> str:
    return _KINDS.get(type(value), "a list" if isinstance(value, list) else f"of type {type(value).__name__}")
