"""A session or day of the archive, as the page shows it: read once, then shown up to any moment."""

import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

import polars as pl

from tape.dashboard.batch_rows import batch_rows, rows_of
from tape.dashboard.journal_tail import COLUMNS
from tape.dashboard.model import Bars, Board, Pace, Print
from tape.dashboard.series import Series, Symbols
from tape.dashboard.shown import gaps_shown, prints_shown, rate_and_lag, symbol_rows
from tape.dashboard.stages import batch_shown
from tasks.archive.batch_facts import reasons_of
from tasks.archive.catalog import Catalog
from tasks.feeds.registry import never_closes, zone_of
from tasks.query.day_view import gaps_on
from tasks.query.prints import quoted
from tasks.query.sources import sources_of
from tasks.query.views import connect
from tasks.records.ledger import Gap, SessionRecord
from tasks.records.names import BatchName, is_session_name
from tasks.records.trade import NS_PER_S
from tasks.spans import Span
from tasks.storage.store import Store
from tasks.zones import UTC, day_span

_ZONE = "America/New_York"
_SYMBOLS_KEPT = 2
_PRINTS = """SELECT epoch_ns(ts_recv) AS ts_recv, epoch_ns(ts_event) AS ts_event, symbol, price_text AS price,
size_text AS size, array_to_string(conditions, ';') AS conditions
FROM trades WHERE symbol = {symbol} ORDER BY ts_recv, session, connection, recv_seq"""
_TYPES: dict[str, type[pl.DataType]] = {name: pl.Int64 if name.startswith("ts_") else pl.String for name in COLUMNS}
# After every second.
_EVER_S = 1 << 33


class Archived:
    """A session, or a day (YYYY-MM-DD), of these batches, which may be at any stage (a `Source`). Used by one thread.

    `records` are those of its sessions, as far as they are here. `note` is called with the share that was read. It
    shows the end until `show_until` is called. Raises TerminalError if only the bucket has the rows, and
    CorruptionError if a file cannot be read.
    """

    def __init__(
        self, store: Store, what: str, names: Sequence[BatchName], records: Sequence[SessionRecord],
        note: Callable[[float], object] = lambda _: None,
    ) -> None:  # fmt: skip
        catalog = Catalog(store)
        self._store, self._what, self._names, self._records = store, what, names, records
        self._facts = {name: catalog.facts(name) for name in names}
        self.feed = records[0].feed if records else catalog.batch(names[0]).seal.feed if names else ""
        self._zone = records[0].zone if records else _ZONE
        self._series = Series(Symbols(), lambda symbol: zone_of(self.feed, symbol, self._zone))
        rows = max(1, sum(each.trades.journalled for each in self._facts.values()))
        for frame in rows_of(store, names):
            self._series.add(frame)
            note(self._series.rows / rows)
        self._series.compact()
        self._symbols = tuple(
            dict.fromkeys([*(each for record in records for each in record.symbols), *self._series.symbols.numbers])
        )
        self.span_ns = self._span()
        self._trades: dict[str, pl.DataFrame] = {}
        self.show_until(self.span_ns[1])

    def show_until(self, until_ns: int) -> None:
        """Show what there was at a moment (UTC ns): the seconds that were over."""
        self._until_ns = until_ns
        self._until_s = until_ns // NS_PER_S if until_ns < self.span_ns[1] else _EVER_S
        self._board = self._new_board()

    def board(self) -> Board:
        """Return the state at that moment."""
        return self._board

    def pace(self, last_s: int) -> Pace:
        """Return trades and lag of the last seconds before it, by time of receipt."""
        return self._series.pace(last_s, self._until_ns // NS_PER_S)

    def bars(self, symbol: str, every_ns: int, limit: int) -> Bars:
        """Return the last bars of a symbol before it, at most `limit`; empty for an unknown symbol."""
        return self._series.bars(symbol, every_ns, limit, self._until_s)

    def prints(self, symbol: str, limit: int) -> tuple[Print, ...]:
        """Return the latest trades of a symbol received before it, newest first."""
        if symbol not in self._series.symbols.numbers:
            return ()
        trades = self._trades_of(symbol)
        count = trades["ts_recv"].search_sorted(self._until_ns, "right")
        return prints_shown(trades.slice(max(0, count - limit), min(limit, count)).reverse(), self.feed)

    def _trades_of(self, symbol: str) -> pl.DataFrame:
        """Return all trades of a symbol in order of receipt; those of the last symbols asked for are kept."""
        if symbol not in self._trades:
            while len(self._trades) >= _SYMBOLS_KEPT:
                del self._trades[next(iter(self._trades))]
            self._trades[symbol] = pl.concat(self._read(symbol)).sort("ts_recv", maintain_order=True)
        return self._trades[symbol]

    def _read(self, symbol: str) -> Iterator[pl.DataFrame]:
        manifests = {name: self._store.manifest_of(name) for name in self._names}
        with connect(sources_of(self._store, [path for path in manifests.values() if path], (symbol,))) as database:
            found = database.sql(_PRINTS.format(symbol=quoted(symbol))).to_arrow_table()
        yield pl.DataFrame(pl.from_arrow(found)).cast(pl.Schema(_TYPES))
        for name in (name for name, path in manifests.items() if path is None):
            for frame in batch_rows(self._store, name):
                yield frame.filter(pl.col("symbol") == symbol).select(COLUMNS)

    def _span(self) -> Span:
        """Return from when until when (UTC ns) it was recorded: what the records say, or else the trades."""
        totals, newest_ns = self._series.totals(), self._series.newest_recv_ns or 0
        start_ns, end_ns = min(totals.first_ns, default=0), max([newest_ns, *totals.last_ns])
        if self._records:
            start_ns = min(each.started_ns for each in self._records)
            end_ns = max(each.ended_ns for each in self._records)
        if is_session_name(self._what):
            return start_ns, max(end_ns, newest_ns)
        always = all(never_closes(self.feed, symbol) for symbol in self._symbols)
        whole = day_span(self._what, UTC if always else self._zone)
        return max(start_ns, whole[0]), max(start_ns, min(end_ns, whole[1]))

    def _gaps(self) -> list[Gap]:
        """Return the gaps that had begun; those that lasted on have no end."""
        if is_session_name(self._what):
            gaps = [gap for record in self._records for gap in record.gaps]
        else:
            gaps = _alike(gap for record in self._records for gap in gaps_on(record, self._what, self._what))
        at_end = self._until_ns >= self.span_ns[1]
        return [
            gap if at_end or (gap.end_ns is not None and gap.end_ns <= self._until_ns) else replace(gap, end_ns=None)
            for gap in gaps
            if gap.start_ns <= self._until_ns
        ]

    def _new_board(self) -> Board:
        series, until_ns, gaps = self._series, self._until_ns, self._gaps()
        totals = series.totals_until(self._until_s)
        in_gap = {symbol for gap in gaps if gap.end_ns is None for symbol in gap.symbols}
        newest = dict(zip(totals.numbers, totals.last_ns, strict=True))
        rate, (p50, p95, p99) = rate_and_lag(series, until_ns // NS_PER_S)
        return Board(
            session=self._what, feed=self.feed, now_ns=until_ns, start_ns=self.span_ns[0], end_ns=self.span_ns[1],
            health="ended", status=None, trades=sum(totals.trades), trades_per_s=rate,
            lag_p50_ms=p50, lag_p95_ms=p95, lag_p99_ms=p99,
            rows=symbol_rows(series, totals, self._symbols, in_gap, until_ns, newest), gaps=gaps_shown(gaps),
            batches=tuple(batch_shown(name, facts) for name, facts in self._facts.items()),
            quarantine=reasons_of(self._facts.values()),
            disk_free_bytes=shutil.disk_usage(self._store.root).free, newest_recv_ns=series.newest_recv_ns,
        )  # fmt: skip


def _alike(gaps: Iterable[Gap]) -> list[Gap]:
    """Return one gap for all symbols that could not be received in the same interval."""
    found: dict[tuple[int, int | None, str], list[str]] = {}
    for gap in gaps:
        found.setdefault((gap.start_ns, gap.end_ns, gap.reason), []).extend(gap.symbols)
    return [
        Gap(symbols=tuple(symbols), start_ns=start_ns, end_ns=end_ns, reason=reason)
        for (start_ns, end_ns, reason), symbols in found.items()
    ]
