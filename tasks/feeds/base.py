"""The contract between the recorder and the code that knows one vendor's feed.

A feed is pure: no sockets, no clocks, no files. It knows the vendor's URL, what to send, and what the vendor's messages
mean; connections, receive times, gaps, and files belong to the recorder. To add a feed, write one module with a class
that follows `Feed` and list it in `registry.py`.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from tasks.feeds.conditions import ConditionRules

# When a symbol's market trades: in the calendar's exchange hours, from Sunday to Friday, or around the clock.
MarketHours = Literal["exchange", "currencies", "always"]
# The kinds of vendor errors, in this order: the session ends; the newest symbols, or the named ones, are refused; the
# next connection waits longer; the text is only counted.
ErrorKind = Literal["key refused", "too many symbols", "unknown symbol", "second connection", "other"]


@dataclass(frozen=True, slots=True)
class VendorError:
    """An error message from the vendor: its text, its kind, and the symbols that it names."""

    text: str
    kind: ErrorKind = "other"
    symbols: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Rejected:
    """A rejected message (kind "frame") or one trade of a readable message (kind "trade"), as received."""

    kind: str
    reason: str
    payload: bytes


@dataclass(slots=True)
class Reading:
    """The parsed content of some messages: one journal line and one symbol per trade, and `block`, the joined lines.

    `trade_frames`, `control_frames`, and `rejected` of kind "frame" add up to the messages read. `subscribed` has the
    symbols whose subscription the vendor acknowledged. If the vendor numbers its trades, `trade_ids` has the number of
    each, `last_ids` the newest number of a symbol from other messages, such as heartbeats, and `before_ids` the number
    of a symbol's last trade before its subscription.
    """

    lines: list[bytes] = field(default_factory=list)
    symbols: list[str] = field(default_factory=list)
    block: bytes = b""
    trade_frames: int = 0
    control_frames: int = 0
    rejected: list[Rejected] = field(default_factory=list)
    errors: list[VendorError] = field(default_factory=list)
    subscribed: tuple[str, ...] = ()
    trade_ids: list[int] = field(default_factory=list)
    last_ids: dict[str, int] = field(default_factory=dict)
    before_ids: dict[str, int] = field(default_factory=dict)


class Parser(Protocol):
    """Parses the messages of one session, and may cache what makes it fast, such as checked symbols."""

    def read(self, texts: Sequence[bytes], connection: int, first_seq: int, ts_recv_ns: int) -> Reading:
        """Parse these messages. Never raises: a message that cannot be parsed is rejected.

        The n-th trade gets `recv_seq` = `first_seq` + n; all get `ts_recv_ns` (UTC ns).
        """
        ...


class Feed(Protocol):
    """One vendor's feed.

    `url` is its websocket URL without a key. The key is sent only to `hosts` and hosts below them; `key_setting` names
    its setting, or is None if the feed is public. `acknowledges`: a symbol counts as received from the vendor's
    acknowledgment on, not from the request. `extra_columns`: those of `EXTRA_COLUMNS` that its trades have.
    `numbers_trades`: trade IDs are contiguous per symbol, so that a missing number is a missing trade.
    `condition_rules`: what a trade's condition codes allow it to set in a bar, or None if its trades have no codes;
    then every trade counts. `carries`: which trades of the market it can send at best, for people.
    """

    @property
    def name(self) -> str: ...
    @property
    def url(self) -> str: ...
    @property
    def hosts(self) -> tuple[str, ...]: ...
    @property
    def key_setting(self) -> str | None: ...
    @property
    def acknowledges(self) -> bool: ...
    @property
    def extra_columns(self) -> tuple[str, ...]: ...
    @property
    def numbers_trades(self) -> bool: ...
    @property
    def condition_rules(self) -> ConditionRules | None: ...
    @property
    def carries(self) -> str: ...

    def address(self, url: str, key: str) -> str:
        """Return the URL to connect to. It may contain the key: never log it."""
        ...

    def greeting(self, key: str) -> list[str]:
        """Return the messages to send right after connecting, such as authentication.

        The recorder does not wait for success: a refusal arrives as an error of kind "key refused".
        """
        ...

    def subscribe(self, symbols: Iterable[str]) -> list[str]:
        """Return the requests that subscribe to these symbols' trades."""
        ...

    def unsubscribe(self, symbols: Iterable[str]) -> list[str]:
        """Return the requests that end these symbols' subscriptions."""
        ...

    def parser(self, asked: Callable[[], tuple[str, ...]]) -> Parser:
        """Return a parser for one session; `asked` returns the symbols requested so far."""
        ...

    def market_hours(self, symbol: str) -> MarketHours:
        """Return when the symbol's market trades, judging by its name."""
        ...
