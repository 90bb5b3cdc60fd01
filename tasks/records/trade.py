"""The columns of a trade: their order, types and units.

The journal is CSV in UTF-8 without quoting: no field contains a comma, a quote, or a line break, because the feed's
parser rejects such trades (`feeds/fields.py`). It has one header line and `\\n` line endings. The last three columns
are present if the feed has them.

| column     | type  | unit and meaning                                                                        |
| ---------- | ----- | --------------------------------------------------------------------------------------- |
| connection | int   | number of the connection within the session, from 1                                     |
| recv_seq   | int   | our counter of trades in order of receipt, from 1 within a connection, without holes    |
| ts_recv    | int   | UTC ns, when the bytes left the socket; never decreases within a connection             |
| ts_event   | int   | UTC ns, the venue's time, as exact as the feed sends it                                 |
| symbol     | text  | the vendor's string                                                                     |
| price      | text  | the received digits, unchanged: quote currency per unit                                 |
| size       | text  | the received digits, unchanged: units; 0 for a price update without a trade             |
| conditions | text  | the vendor's condition codes, `;`-joined; empty if there are none                       |
| trade_id   | int   | the venue's number of the trade, from 1                                                 |
| sequence   | int   | the venue's number of the message, from 1                                               |
| side       | text  | the aggressor: buy or sell                                                              |
"""

from collections.abc import Collection
from dataclasses import dataclass

# The first condition of a trade whose conditions are not a plain list of codes, but numbers, an object, or codes that a
# field cannot contain. What the vendor sent follows, percent-encoded where necessary.
ODD_CONDITIONS = "?"
JOURNAL_COLUMNS = ("connection", "recv_seq", "ts_recv", "ts_event", "symbol", "price", "size", "conditions")
EXTRA_COLUMNS = ("trade_id", "sequence", "side")


def journal_columns(extra: Collection[str] = ()) -> tuple[str, ...]:
    """Return the columns of a journal that has these of `EXTRA_COLUMNS`."""
    return (*JOURNAL_COLUMNS, *(name for name in EXTRA_COLUMNS if name in extra))


def journal_header(extra: Collection[str] = ()) -> bytes:
    """Return the first line of such a journal."""
    return ",".join(journal_columns(extra)).encode() + b"\n"


JOURNAL_HEADER = journal_header()

# The columns of a tape file: the vendor's trade, without the columns that the recorder adds.
TAPE_COLUMNS = ("ts_event_ms", "symbol", "price", "size", "conditions")

NS_PER_MS = 1_000_000
NS_PER_S = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Trade:
    """One print as a vendor reports it: what a replay sends and an export writes.

    `price` and `size` are decimal text exactly as received; `conditions` has the vendor's codes.
    """

    ts_event_ns: int
    symbol: str
    price: str
    size: str
    conditions: tuple[str, ...] = ()
