"""OHLCV bars by event time, of some symbols over some days."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from tasks.query.coverage import within
from tasks.query.hours import CLOSED
from tasks.query.prints import is_of_the_day, is_unknown, listed, sets
from tasks.query.sources import Sources
from tasks.query.views import CODES, connect
from tasks.records.coverage import recorded_and_received
from tasks.records.ledger import SessionRecord
from tasks.records.market_session import MarketSessions
from tasks.records.trade import NS_PER_S
from tasks.spans import Span, Spans, intersect, subtract, union
from tasks.zones import UTC, day_span

Prints = Literal["consolidated", "all"]
Session = Literal["regular", "extended", "all"]

DAY_NS = 86_400 * NS_PER_S
_EXTENDED = ("pre", "regular", "post")

_SEGMENTS = pa.schema(
    [
        ("always", pa.bool_()), ("session", pa.string()), ("start_ns", pa.int64()), ("end_ns", pa.int64()),
        ("day_ns", pa.int64()), ("day_end_ns", pa.int64()), ("only_of_the_day", pa.bool_()),
    ]
)  # fmt: skip

# Prints with equal times are ordered by receipt. A size of 0 reports a price without a trade. What sets nothing else
# may open and close a day that has no better print.
_BARS = """
WITH prints AS (
    SELECT t.*, s.session, s.end_ns AS session_end_ns, s.day_ns, s.day_end_ns,
           s.start_ns + (t.at_ns - s.start_ns) // $every * $every AS bar_ns
    FROM (
        SELECT symbol, price, size, epoch_ns(ts_event) AS at_ns, (ts_event, ts_recv, connection, recv_seq) AS place,
               symbol IN ({always}) AS always, {volume} AS volume, {high_low} AS high_low,
               {open_close} AS open_close, {unknown} AS unknown, {of_the_day} AS of_the_day
        FROM trades
        WHERE symbol IN ({symbols}) AND size > 0
    ) t
    ASOF JOIN segments s ON t.always = s.always AND t.at_ns >= s.start_ns
    WHERE t.at_ns < s.end_ns AND (t.of_the_day OR NOT s.only_of_the_day)
)
SELECT symbol, CASE WHEN $daily THEN $name ELSE session END AS session,
       CASE WHEN $daily THEN day_ns ELSE bar_ns END AS start_ns,
       any_value(CASE WHEN $daily THEN day_end_ns ELSE least(bar_ns + $every, session_end_ns) END) AS end_ns,
       coalesce(arg_min(price, place) FILTER (open_close), arg_min(price, place) FILTER (high_low AND $daily)) AS open,
       max(price) FILTER (high_low) AS high, min(price) FILTER (high_low) AS low,
       coalesce(arg_max(price, place) FILTER (open_close), arg_max(price, place) FILTER (high_low AND $daily)) AS close,
       coalesce(fsum(size) FILTER (volume), 0) AS volume,
       fsum(price * size) FILTER (volume) / fsum(size) FILTER (volume) AS vwap,
       count(*) FILTER (volume) AS trades, count(*) FILTER (unknown) AS unknown
FROM prints GROUP BY ALL
"""
# Every interval of the wanted time, with the last price carried into those without a trade.
_FILLED = """
WITH intervals AS (
    SELECT g.symbol, CASE WHEN $daily THEN $name ELSE s.session END AS session,
           unnest(CASE WHEN $daily THEN [s.day_ns] ELSE range(s.start_ns, s.end_ns, $every) END) AS bar_ns,
           CASE WHEN $daily THEN s.day_end_ns ELSE s.end_ns END AS last_ns
    FROM (SELECT unnest([{symbols}]) AS symbol) g
    JOIN segments s ON s.always = (g.symbol IN ({always})) AND NOT s.only_of_the_day
), joined AS (
    SELECT DISTINCT i.symbol, i.session, i.bar_ns AS start_ns,
           CASE WHEN $daily THEN i.last_ns ELSE least(i.bar_ns + $every, i.last_ns) END AS end_ns, b.open, b.high,
           b.low, b.close, coalesce(b.volume, 0) AS volume, b.vwap, coalesce(b.trades, 0) AS trades,
           coalesce(b.unknown, 0) AS unknown
    FROM intervals i LEFT JOIN ({bars}) b ON b.symbol = i.symbol AND b.start_ns = i.bar_ns
    WHERE i.bar_ns < $until
), carried AS (
    SELECT *, last_value(close IGNORE NULLS) OVER (PARTITION BY symbol ORDER BY start_ns) AS last FROM joined
)
SELECT symbol, session, start_ns, end_ns, coalesce(open, last) AS open, coalesce(high, last) AS high,
       coalesce(low, last) AS low, coalesce(close, last) AS close, volume, vwap, trades, unknown
FROM carried
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which bars: of these symbols and days (YYYY-MM-DD), each `every_ns` long.

    Days are those of the exchange's `zone`, and of UTC for symbols whose market never closes.
    `prints`: those that set the consolidated tape's prices and volume, or all. `session`: the exchange's regular hours,
    also those before the open and after the close, or all day. An interval begins with its session, so that none
    crosses an open or a close; `every_ns` of a day gives one bar for each day. `fill`: also intervals without a trade,
    until `until_ns` (UTC ns).
    """

    symbols: tuple[str, ...]
    days: tuple[str, ...]
    every_ns: int
    zone: str
    prints: Prints = "consolidated"
    session: Session = "regular"
    fill: bool = False
    until_ns: int = 1 << 62


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar of `symbol` from `start_ns` until just before `end_ns` (UTC ns, event time).

    A price is None if no print may set it; `vwap` is that of all prints that count as volume, as `trades` counts them.
    `gap_s` is how many seconds of it could not be received, None if no record says.
    """

    symbol: str
    session: str
    start_ns: int
    end_ns: int
    open: float | None
    high: float | None
    low: float | None
    close: float | None
    volume: float
    vwap: float | None
    trades: int
    gap_s: float | None


@dataclass(frozen=True, slots=True)
class Bars:
    """Bars by symbol and time, as a table with the fields of `Bar`.

    `unknown` counts prints with condition codes that no rule knows: they are in the volume, and set no price.
    """

    table: pa.Table
    unknown: int

    def rows(self) -> Iterator[Bar]:
        """Yield the bars one by one."""
        return (Bar(*row) for row in zip(*(column.to_pylist() for column in self.table.columns), strict=True))


def bars(
    sources: Sources, wanted: Wanted, sessions: MarketSessions, records: Sequence[SessionRecord] | None = None
) -> Bars:
    """Return the bars of these files. Without `fill`, intervals without a trade have none.

    `sessions` gives the exchange's hours, `records` what could be received; None if it is not known for all of it.
    Rows marked `resent` count, because the mark is evidence, not proof.
    """
    daily = wanted.every_ns >= DAY_NS
    always = {symbol for _, symbol in sources.always_open}
    segments = [*_segments(wanted, sessions, always=False), *_segments(wanted, sessions, always=True)]
    values: dict[str, Any] = {"every": wanted.every_ns, "daily": daily, "name": wanted.session}
    lists = {"symbols": listed(wanted.symbols), "always": listed(sorted(always)) or "''"}
    query = _BARS.format(**lists, **_rules(wanted.prints, daily))
    if wanted.fill:
        query, values["until"] = _FILLED.format(bars=query, **lists), wanted.until_ns
    with connect(sources, sessions=sessions) as database:
        database.register("segments", pa.Table.from_pylist(segments, _SEGMENTS))
        found: pa.Table = database.sql(f"{query} ORDER BY symbol, start_ns", params=values).to_arrow_table()
    unknown = sum(found["unknown"].to_pylist())
    table = found.drop_columns(["unknown"])
    return Bars(table.append_column("gap_s", _gap_s(table, wanted, segments, always, records)), unknown)


def _rules(prints: Prints, daily: bool) -> dict[str, str]:
    """Return SQL for what a print sets, by the names in `_BARS`."""
    if prints == "all":
        everything = dict.fromkeys(("volume", "high_low", "open_close"), "true")
        return {**everything, "unknown": "false", "of_the_day": "false"}
    return {
        "volume": "sets_volume", "unknown": is_unknown(CODES), "of_the_day": is_of_the_day(CODES),
        "high_low": sets("high_low", CODES, daily=True) if daily else "sets_high_low",
        "open_close": sets("open_close", CODES, daily=True) if daily else "sets_open_close",
    }  # fmt: skip


def _segments(wanted: Wanted, sessions: MarketSessions, *, always: bool) -> list[dict[str, Any]]:
    """Return the parts of each day whose trades count, in order; intervals begin with their part."""
    found = []
    for day in wanted.days:
        whole = day_span(day, UTC if always else wanted.zone)
        for name, span in _parts_of_day(wanted, sessions, whole, always):
            counts = always or name in _names(wanted.session)
            # The closing auction is reported after the close.
            if counts or (name == "post" and wanted.every_ns >= DAY_NS):
                found.append(
                    {
                        "always": always, "session": name, "start_ns": span[0], "end_ns": span[1], "day_ns": whole[0],
                        "day_end_ns": whole[1], "only_of_the_day": not counts,
                    }
                )  # fmt: skip
    return found


def _names(session: Session) -> Collection[str]:
    return {"regular": ("regular",), "extended": _EXTENDED, "all": (*_EXTENDED, CLOSED)}[session]


def _parts_of_day(wanted: Wanted, sessions: MarketSessions, whole: Span, always: bool) -> list[tuple[str, Span]]:
    """Return the parts of a day from midnight to midnight, in order, each with its session's name."""
    if always:
        return [("regular", whole)]
    open_parts = [
        (each.name, span)
        for each in sessions(*whole)
        for span in intersect(((each.start_ns, each.end_ns),), (whole,))
    ]  # fmt: skip
    if not any(name == "regular" for name, _ in open_parts) and wanted.session != "all":
        return []
    closed = subtract((whole,), union(span for _, span in open_parts))
    return sorted([*open_parts, *((CLOSED, span) for span in closed)], key=lambda part: part[1])


def _gap_s(
    table: pa.Table,
    wanted: Wanted,
    segments: Sequence[dict[str, Any]],
    always: Collection[str],
    records: Sequence[SessionRecord] | None,
) -> pa.Array:
    """Return how many seconds of each bar's wanted time could not be received."""
    if records is None:
        return pa.nulls(len(table), pa.float64())
    symbols = np.array(table["symbol"].to_pylist(), object)
    starts, ends = table["start_ns"].to_numpy(), table["end_ns"].to_numpy()
    missing_ns = np.zeros(len(table), np.int64)
    for symbol, (_, received) in recorded_and_received(records, wanted.symbols).items():
        missing = subtract(_wanted_spans(segments, symbol in always), received)
        mine = symbols == symbol
        missing_ns[mine] = within(missing, starts[mine], ends[mine])
    return pa.array(missing_ns / NS_PER_S)


def _wanted_spans(segments: Sequence[dict[str, Any]], always: bool) -> Spans:
    return union(
        (each["start_ns"], each["end_ns"])
        for each in segments
        if each["always"] is always and not each["only_of_the_day"]
    )
