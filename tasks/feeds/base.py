"""The contract between the recorder and the code that knows one vendor's feed.

A feed is pure: no sockets, no clocks, no files. It says where the vendor is, what to send, and what the vendor's
messages mean; connections, receive times, gaps and files belong to the recorder. To add a feed, write one module with
a class like `Feed` and name it in `registry.py`.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

# When a symbol's market trades: in the hours of the exchange's calendar, from Sunday to Friday, or around the clock.
MarketHours = Literal["exchange", "currencies", "always"]
# What follows from a vendor's error: the session ends; no room for the newest symbols, or for the named ones; the
# next connection waits longer; or nothing, and the text is only counted.
ErrorKind = Literal["key refused", "too many symbols", "unknown symbol", "second connection", "other"]


@dataclass(frozen=True, slots=True)
class VendorError:
    """An error message of the vendor: its own text, what kind it is, and the symbols that it names."""

    text: str
    kind: ErrorKind = "other"
    symbols: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Rejected:
    """A message (kind "frame"), or one trade of a readable message (kind "trade"), as received, and the reason."""

    kind: str
    reason: str
    payload: bytes


@dataclass(slots=True)
class Reading:
    """What some messages said: one journal line and one symbol a trade, in order, and `block`, the lines joined.

    `trade_frames`, `control_frames` and the rejected of kind "frame" add up to the messages read. `subscribed` are the
    symbols whose subscription the vendor acknowledged. Where the vendor numbers its trades, `trade_ids` has the number
    of each, and `last_ids` the newest number of a symbol that a message other than a trade told, such as a heartbeat.
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


class Parser(Protocol):
    """Reads the messages of one session. Keeps what makes it fast, such as the symbols it has checked."""

    def read(self, texts: Sequence[bytes], connection: int, first_seq: int, ts_recv_ns: int) -> Reading:
        """Return what these messages say. Never raises: what cannot be read is rejected.

        Their n-th trade gets `recv_seq` = `first_seq` + n; all get `ts_recv_ns` (UTC ns).
        """
        ...


class Feed(Protocol):
    """One vendor's feed.

    `url` is its websocket without a key. `hosts` are the vendor's: they, and hosts below them, may be given a key,
    whose setting is `key_setting`; None where the feed is public. `acknowledges`: a symbol counts as received from the
    vendor's acknowledgement on, not from the request. `extra_columns`: those of `EXTRA_COLUMNS` that its trades have.
    `numbers_trades`: trade IDs are contiguous per symbol, so that a missing number is a missing trade.
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

    def address(self, url: str, key: str) -> str:
        """Return the URL to connect to. It may hold the key: never log it."""
        ...

    def greeting(self, key: str) -> list[str]:
        """Return what to send right after connecting, such as an authentication.

        Its success is not waited for: a refusal comes as an error of kind "key refused".
        """
        ...

    def subscribe(self, symbols: Iterable[str]) -> list[str]:
        """Return the requests that ask for these symbols' trades."""
        ...

    def unsubscribe(self, symbols: Iterable[str]) -> list[str]:
        """Return the requests that end these symbols' subscriptions."""
        ...

    def parser(self, asked: Callable[[], tuple[str, ...]]) -> Parser:
        """Return a parser for one session; `asked` gives the symbols asked for so far."""
        ...

    def market_hours(self, symbol: str) -> MarketHours:
        """Return when the symbol's market trades, by what its name tells."""
        ...
