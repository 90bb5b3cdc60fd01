"""Checks that a vendor's values are valid journal fields.

The journal is CSV without quoting, so no field may contain a comma, a quote, or a line break. For every feed, symbols,
numbers, and lists of conditions are checked here, once for each distinct value.
"""

import re
from collections.abc import Callable, Iterable
from typing import TypeVar
from urllib.parse import quote

from tasks.records.trade import ODD_CONDITIONS

# A JSON number, the only valid text for price and size.
NUMBER = re.compile(rb"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_SYMBOL = re.compile(r"[^\x00-\x1f\x7f\",]+")
# `;` separates conditions.
_CONDITION = re.compile(r"[^\x00-\x1f\x7f\",;]+")
_MAX_SYMBOL_CHARS = 256
_MAX_CONDITIONS_CHARS = 1_024
_CACHE_ENTRIES = 65_536
_MOST_UNASKED = 10_000

_Key = TypeVar("_Key", str, bytes)


class Symbols(dict[str, bytes]):
    """The checked symbols, each with the bytes of its field.

    Only the first few thousand symbols that were not requested are accepted, because counting by symbol takes memory
    for each.
    """

    def __init__(self, asked: Callable[[], tuple[str, ...]]) -> None:
        super().__init__()
        self._asked = asked
        self._known_to_be_asked: tuple[tuple[str, ...], frozenset[str]] = ((), frozenset())
        self._unasked: set[str] = set()

    def checked(self, symbol: str) -> bytes:
        """Return the symbol's field. Raises ValueError if it is not valid in one."""
        known = self.get(symbol)
        if known is None:
            if len(symbol) > _MAX_SYMBOL_CHARS or not _SYMBOL.fullmatch(symbol):
                raise ValueError(
                    "a symbol that is empty, too long, or contains a comma, a quote, or a control character"
                )
            if symbol not in self._unasked and not self._is_asked(symbol):
                if len(self._unasked) >= _MOST_UNASKED:
                    raise ValueError(f"a symbol that was not requested, beyond {_MOST_UNASKED:,} such symbols")
                self._unasked.add(symbol)
            known = remember(self, symbol, symbol.encode())
        return known

    def _is_asked(self, symbol: str) -> bool:
        asked, known = self._asked(), self._known_to_be_asked
        if known[0] is not asked:
            known = self._known_to_be_asked = (asked, frozenset(asked))
        return symbol in known[1]


def checked_number(text: bytes, name: str) -> bytes:
    """Return the text. Raises ValueError if it is not a JSON number; `name` is the vendor's name for it."""
    if not NUMBER.fullmatch(text):
        raise ValueError(f"{name} is not a number")
    return text


def are_plain_conditions(codes: Iterable[str]) -> bool:
    """Return whether each of these codes is valid in a field as it is."""
    return all(_CONDITION.fullmatch(code) and code != ODD_CONDITIONS for code in codes)


def odd_conditions(parts: Iterable[str]) -> bytes:
    """Return a field for conditions that are not a list of plain codes: marked as such, with what was sent.

    Characters that are not valid in a field are percent-encoded, as in a URL.
    """
    return ";".join([ODD_CONDITIONS, *map(_in_a_field, parts)])[:_MAX_CONDITIONS_CHARS].encode()


def _in_a_field(text: str) -> str:
    return quote(text, safe="".join(letter for letter in text if _CONDITION.fullmatch(letter) and letter != "%"))


def remember(cache: dict[_Key, bytes], key: _Key, value: bytes) -> bytes:
    """Cache the value and return it; a feed that invents keys must not fill up memory."""
    if len(cache) >= _CACHE_ENTRIES:
        cache.clear()
    cache[key] = value
    return value


def first_line(error: Exception) -> str:
    """Return the first line of an error's text, or its type if it has none."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__
