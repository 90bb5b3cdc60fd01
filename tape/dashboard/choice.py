"""What a tab shows: kept in its address, so that it survives a reload."""

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlencode

INTERVALS_S = {"1s": 1, "5s": 5, "15s": 15, "1m": 60, "5m": 300, "15m": 900, "1h": 3_600, "1d": 86_400}


@dataclass(frozen=True, slots=True)
class Choice:
    """The symbol, the length of a bar, and how they are drawn; an empty name is still to be chosen."""

    symbol: str
    every: str = "1s"
    as_line: bool = False
    dark: bool = False

    def address(self, session: str, *, remote: bool = False) -> str:
        """Return the query of a page that shows the same."""
        words = {
            "session": session, "symbol": self.symbol, "every": self.every, "line": "1" if self.as_line else "",
            "remote": "1" if remote else "",
        }  # fmt: skip
        return "?" + urlencode({name: word for name, word in words.items() if word})


def choice_of(query: Mapping[str, str], cookies: Mapping[str, str], usual: str) -> Choice:
    """Return what an address chooses; `usual` is the length of a bar if it names none that exists."""
    every = query.get("every", "")
    return Choice(
        symbol=query.get("symbol", ""),
        every=every if every in INTERVALS_S else usual,
        as_line=query.get("line") == "1",
        dark=cookies.get("tape_dark") == "1",
    )
