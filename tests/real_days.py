"""Two real days of US stocks, archived through the real stages; and the same trades as plain Python sees them."""

import gzip
import hashlib
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from tasks.compress.parquet import compress
from tasks.records.ledger import FrameCounts, Gap, Request, SessionRecord
from tasks.records.manifest import ConnectionRange, Seal, encode
from tasks.records.names import BatchName
from tasks.records.trade import JOURNAL_HEADER
from tasks.storage.store import Store, write_whole
from tasks.validate.schema import Limits
from tasks.validate.split import split

# The bits of the tapes' condition word, as the default feed's codes of the same names: 13, extended hours, is Form T.
CODES = {
    "0": "1", "1": "5", "2": "17", "3": "22", "4": "29", "5": "8", "6": "19", "7": "36", "8": "34", "9": "32",
    "10": "24", "11": "30", "12": "31", "13": "24", "14": "30", "15": "23", "16": "2", "17": "4", "18": "27",
    "19": "6", "20": "3", "21": "28", "22": "10", "23": "14", "24": "16", "25": "21", "26": "20", "27": "11",
    "28": "7", "29": "41", "31": "12",
}  # fmt: skip
TAPES = Path(__file__).parents[2] / "shared" / "tape"
DAYS = ("2013-10-07", "2013-10-08")
SYMBOLS = ("AIG", "IBM")
MS = 1_000_000
HOUR_NS = 3_600_000_000_000
# 04:00, 11:00 and 20:00 in New York, in summer time.
FROM_NS = {"2013-10-07": 1_381_132_800_000_000_000, "2013-10-08": 1_381_219_200_000_000_000}
GAP_AFTER_NS, GAP_FOR_NS = 7 * HOUR_NS, 300_000_000_000


@dataclass(frozen=True, slots=True)
class Print:
    """A trade of the tape as a plain record; `lag_ms` is how much later it was received."""

    day: str
    at_ns: int
    lag_ms: float
    symbol: str
    price: float
    size: float
    codes: tuple[str, ...]


def session_of(day: str) -> str:
    return f"{day.replace('-', '')}T080000Z-9f3c01ab"


def gap_of(day: str) -> tuple[int, int]:
    """The second day has a gap of five minutes from 11:00 in New York."""
    start_ns = FROM_NS[day] + GAP_AFTER_NS
    return (start_ns, start_ns + GAP_FOR_NS) if day == DAYS[1] else (0, 0)


def prints() -> list[Print]:
    """The trades that were received, from the tapes alone."""
    return [each for day in DAYS for each in _prints(day, SYMBOLS)]


def _prints(day: str, symbols: tuple[str, ...]) -> list[Print]:
    path, found = TAPES / f"us-equities-{day.replace('-', '')}.csv.gz", []
    gap = gap_of(day)
    with gzip.open(path, "rt") as file:
        next(file)
        for number, line in enumerate(file):
            at_ms, symbol, price, size, conditions, _ = line.rstrip("\n").split(",")
            at_ns = int(at_ms) * MS
            if symbol in symbols and not gap[0] <= at_ns < gap[1]:
                codes = tuple(CODES.get(bit, "99") for bit in conditions.split(";")) if conditions else ()
                found.append(Print(day, at_ns, 5 + number % 7, symbol, float(price), float(size), codes))
    return found


def archive(folder: Path, symbols: tuple[str, ...] = SYMBOLS) -> Store:
    """Archive both days of these symbols, one session each."""
    store = Store(folder).prepare()
    for day in DAYS:
        name = BatchName(session_of(day), 0, 0)
        _seal(store, name, day, symbols)
        split(store, name, Limits(None, None))
        compress(store, name)
        start_ns, end_ns = FROM_NS[day], FROM_NS[day] + 16 * HOUR_NS
        gap = gap_of(day)
        lost = Gap(symbols=symbols, start_ns=gap[0], end_ns=gap[1], reason="the connection was lost")
        hours = ((start_ns + 5 * HOUR_NS + HOUR_NS // 2, start_ns + 12 * HOUR_NS),)
        asked = Request(id="day", owner="day", symbols=symbols, start_ns=start_ns, until_ns=end_ns, hours=hours)
        record = SessionRecord(
            session=name.session, feed="finnhub", symbols=symbols, started_ns=start_ns, listening_ns=start_ns,
            ended_ns=end_ns, deadline_ns=end_ns, outcome="complete", error=None, connections=1, frames_received=1,
            batches=(1,), gaps=(lost,) if gap[0] else (), requests=(asked,),
        )  # fmt: skip
        (store.sessions / name.session).mkdir()
        write_whole(store.sessions / name.session / "session.json", encode(record))
    return store


def _seal(store: Store, name: BatchName, day: str, symbols: tuple[str, ...]) -> None:
    """Write the day's trades as a sealed batch, received in the order in which their messages arrived."""
    rows = sorted(_prints(day, symbols), key=lambda each: each.at_ns + each.lag_ms * MS)
    lines = [
        f"1,{seq},{each.at_ns + int(each.lag_ms) * MS},{each.at_ns},{each.symbol},{each.price:g},{each.size:g},"
        f"{';'.join(each.codes)}\n"
        for seq, each in enumerate(rows, 1)
    ]
    content = JOURNAL_HEADER + "".join(lines).encode()
    first, last = (rows[at].at_ns + int(rows[at].lag_ms) * MS for at in (0, -1))
    connection = ConnectionRange(
        connection=1, rows=len(rows), first_seq=1, last_seq=len(rows), first_recv_ns=first, last_recv_ns=last,
        before_seq=0, before_recv_ns=0,
    )  # fmt: skip
    counts = dict(pl.Series("symbol", [each.symbol for each in rows]).value_counts().iter_rows())
    write_whole(store.sealed / name.sealed, content)
    seal = Seal(
        batch=str(name), feed="finnhub", date=day, symbols=symbols, lanes=1, opened_ns=first, sealed_ns=last,
        rows=len(rows), bytes=len(content), sha256=hashlib.sha256(content).hexdigest(),
        frames=FrameCounts(received=len(rows), trade=len(rows)), trades_refused=0, connections=(connection,),
        per_symbol=counts,
    )  # fmt: skip
    write_whole(store.sealed / name.seal, encode(seal))
