"""The trades of a session as bars of a second, totals by symbol, lag by second, and the latest prints.

A series is built from pieces, such as a batch or what came since the last look. Pieces can be added in any order, if
each is said to be earlier or later than what is there: among trades of one time, the first received opens a bar and
the last received closes it. Every valid trade counts, as in `tape bars --prints all`; so do price updates of size 0.
"""

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt
import polars as pl

from tape.dashboard.journal_tail import COLUMNS
from tape.dashboard.model import Bars, Floats, Ints, Pace
from tasks.records.trade import NS_PER_MS, NS_PER_S
from tasks.spans import Span
from tasks.zones import UTC, dates_between, day_span

DAY_NS, _HOUR_S = 86_400 * NS_PER_S, 3_600
# A key is a symbol's number and a second.
_SECONDS = 1 << 34
# Pieces of like size are merged, up to this many bars: a merge must not hold up the page.
_ALIKE, _MOST_BARS, _FINAL = 8, 1_000_000, 99
_PRINTS, _PRINT_FRAMES = 200, 16
# The lags that are told apart, in ms: steps of an eighth of a doubling, so that a lag is known to 4.5 %. Negative ones,
# from a clock that is slow, in steps of a doubling.
_STEPS = 2.0 ** (np.arange(8 * 20 + 1) / 8 - 3)
_BEHIND = -_STEPS[::-8]
_EDGES = np.concatenate([_BEHIND, _STEPS])
_MIDDLES = np.concatenate([
    _EDGES[:1], -np.sqrt(_BEHIND[1:] * _BEHIND[:-1]), [0.0], np.sqrt(_STEPS[1:] * _STEPS[:-1]), _EDGES[-1:]
])  # fmt: skip
_BLOCK_S = 600
_MOST_DECIMALS = 15
ANY_LAG: Span = (-(1 << 62), 1 << 62)


@dataclass(slots=True)
class Parts:
    """Bars of any symbols and lengths as arrays of one length; `first_ns` and `last_ns` are of open and close.

    The volume is `units`, whole ones, and `nanos`, billionths: their sums are exact in any order, so that a session has
    the same volume to the last bit whether it was read live, from batches, or from a day's file.
    """

    key: Ints
    first_ns: Ints
    last_ns: Ints
    open: Floats
    high: Floats
    low: Floats
    close: Floats
    units: Floats
    nanos: Ints
    trades: Ints

    def __len__(self) -> int:
        return len(self.key)

    def cut(self, start: int, stop: int) -> "Parts":
        """Return the bars of these places."""
        return Parts(*(getattr(self, each.name)[start:stop] for each in fields(self)))

    def keyed(self, key: Ints) -> "Parts":
        """Return the same bars under other keys."""
        return Parts(key, *(getattr(self, each.name) for each in fields(self)[1:]))


def merged(pieces: Sequence[Parts]) -> Parts:
    """Return one bar for each key, by key. Among bars of equal times, those of earlier pieces were received earlier."""
    whole = Parts(*(np.concatenate([getattr(each, field.name) for each in pieces]) for field in fields(Parts)))
    if not len(whole):
        return whole
    # Both sorts are stable, so the order of receipt decides between equal times.
    by_first, by_last = np.lexsort((whole.first_ns, whole.key)), np.lexsort((whole.last_ns, whole.key))
    key = whole.key[by_first]
    starts = np.flatnonzero(np.concatenate([[True], key[1:] != key[:-1]]))
    first, last = by_first[starts], by_last[np.concatenate([starts[1:], [len(key)]]) - 1]
    return Parts(
        key[starts], whole.first_ns[first], whole.last_ns[last], whole.open[first],
        np.maximum.reduceat(whole.high[by_first], starts), np.minimum.reduceat(whole.low[by_first], starts),
        whole.close[last],
        *(np.add.reduceat(each[by_first], starts) for each in (whole.units, whole.nanos, whole.trades)),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Totals:
    """The trades of each symbol that has any, by its number in `numbers`; the times are of its first and last trade."""

    numbers: list[int]
    first_ns: list[int]
    last_ns: list[int]
    first: list[float]
    last: list[float]
    volume: list[float]
    trades: list[int]


class Symbols:
    """The symbols of a session, numbered as they appear. Safe to use from any thread."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}
        self._lock = threading.Lock()

    def of(self, names: Sequence[str]) -> Ints:
        """Return the number of each of these."""
        numbers = self.numbers
        for new in set(names) - numbers.keys():
            with self._lock:
                numbers.setdefault(new, len(numbers))
        return np.fromiter((numbers[each] for each in names), np.int64, len(names))


class Lags:
    """How many trades of each second of receipt had which lag, known to the width of a step."""

    def __init__(self) -> None:
        self._blocks: dict[int, npt.NDArray[np.uint32]] = {}

    def note(self, ts_recv_ns: Ints, lag_ns: Ints) -> None:
        """Count these trades."""
        seconds, steps = ts_recv_ns // NS_PER_S, np.searchsorted(_EDGES, lag_ns / NS_PER_MS, side="right")
        for number in np.unique(seconds // _BLOCK_S).tolist():
            mine = seconds // _BLOCK_S == number
            np.add.at(self._block(number), (seconds[mine] % _BLOCK_S, steps[mine]), 1)

    def add(self, other: "Lags") -> None:
        """Count what another has counted."""
        for number, block in other._blocks.items():
            self._block(number)[:] += block

    def counts(self, first_s: int, last_s: int) -> npt.NDArray[np.uint32]:
        """Return the counts of these seconds, one row each."""
        found = np.zeros((last_s - first_s + 1, len(_MIDDLES)), np.uint32)
        for number in range(first_s // _BLOCK_S, last_s // _BLOCK_S + 1):
            if number in self._blocks:
                start, stop = max(first_s, number * _BLOCK_S), min(last_s + 1, (number + 1) * _BLOCK_S)
                block = self._blocks[number]
                found[start - first_s : stop - first_s] = block[start - number * _BLOCK_S :][: stop - start]
        return found

    def _block(self, number: int) -> npt.NDArray[np.uint32]:
        if number not in self._blocks:
            self._blocks[number] = np.zeros((_BLOCK_S, len(_MIDDLES)), np.uint32)
        return self._blocks[number]


def percentile(counts: npt.NDArray[np.uint32], share: float) -> Floats:
    """Return a percentile of the lag (ms) for each row of counts, NaN where there is no trade."""
    sums = np.cumsum(counts, axis=-1, dtype=np.int64)
    total = sums[..., -1:]
    at = np.argmax(sums >= np.maximum(1, np.ceil(share * total)), axis=-1)
    return np.where(total[..., 0] > 0, _MIDDLES[at], np.nan)


class Series:
    """The trades of one session. Used by one thread; a series that is added to another may have had its own.

    `zone_of` gives the time zone of a symbol's days. `lags_ns` are the lags (ns) that validation accepts.
    """

    def __init__(
        self, symbols: Symbols, zone_of: Callable[[str], str] = lambda _: UTC, lags_ns: Span = ANY_LAG
    ) -> None:
        self.symbols = symbols
        self.rows = 0
        self.newest_recv_ns: int | None = None
        self.lags = Lags()
        self._zone_of, self._lags_ns = zone_of, lags_ns
        self._totals = _NONE
        # With each piece, how often it was merged.
        self._pieces: list[tuple[int, Parts]] = []
        self._prints: list[pl.DataFrame] = []
        self._recv_ns = _Most()
        self._decimals = _Most()

    def add(self, frame: pl.DataFrame) -> None:
        """Add trades in order of receipt, received later than those that are there; what is not valid is left out."""
        self.rows += len(frame)
        price, size = (frame[name].cast(pl.Float64, strict=False) for name in ("price", "size"))
        lag_ns = frame["ts_recv"] - frame["ts_event"]
        valid = price.is_finite() & (price > 0) & size.is_finite() & (size >= 0)
        valid &= (frame["ts_recv"] >= 0) & (frame["ts_event"] >= 0) & lag_ns.is_between(*self._lags_ns)
        if not valid.all() or valid.null_count():
            valid = valid.fill_null(value=False)
            frame, price, size = frame.filter(valid), price.filter(valid), size.filter(valid)
        if not len(frame):
            return
        numbers = self.symbols.of(frame["symbol"].to_list())
        recv_ns, event_ns, prices = frame["ts_recv"].to_numpy(), frame["ts_event"].to_numpy(), price.to_numpy()
        units = np.floor(sizes := size.to_numpy())
        trades = Parts(
            numbers * _SECONDS + event_ns // NS_PER_S, event_ns, event_ns, prices, prices, prices, prices,
            units, np.rint((sizes - units) * 1e9).astype(np.int64), np.ones(len(frame), np.int64),
        )  # fmt: skip
        self._totals = merged([self._totals, trades.keyed(numbers)])
        self._append(merged([trades]))
        self.lags.note(recv_ns, recv_ns - event_ns)
        self._recv_ns.note(numbers, recv_ns)
        self._decimals.note(numbers, _decimals(frame["price"]))
        self.newest_recv_ns = max(self.newest_recv_ns or 0, int(recv_ns.max()))
        self._prints.append(frame.select(*COLUMNS, pl.Series("number", numbers)))
        if len(self._prints) > _PRINT_FRAMES:
            self._prints = [_latest(self._prints)]

    def prepend(self, other: "Series") -> None:
        """Add a series of the same symbols that was received before this one. The other must not be used anymore."""
        self.rows += other.rows
        self._totals = merged([other._totals, self._totals])
        self._pieces = [*other._pieces, *self._pieces]
        self.lags.add(other.lags)
        for mine, theirs in ((self._recv_ns, other._recv_ns), (self._decimals, other._decimals)):
            mine.note(np.arange(len(theirs.values)), theirs.values)
        if other.newest_recv_ns is not None:
            self.newest_recv_ns = max(self.newest_recv_ns or 0, other.newest_recv_ns)
        if other._prints or self._prints:
            self._prints = [_latest([*other._prints, *self._prints])]

    def compact(self) -> None:
        """Merge all bars into one piece."""
        self._pieces = [(_FINAL, merged([piece for _, piece in self._pieces]))] if self._pieces else []

    def bars(self, symbol: str, every_ns: int, limit: int, until_s: int = _SECONDS - 1) -> Bars:
        """Return the last bars of a symbol, at most `limit`, of the seconds before `until_s`."""
        number = self.symbols.numbers.get(symbol)
        # No more seconds of any piece can be in the last bars; a day can have an hour more.
        most = limit * (-(-every_ns // NS_PER_S) + (_HOUR_S if every_ns >= DAY_NS else 0))
        seconds = _NONE if number is None else merged([_NONE, *self._cuts(number, most, until_s)])
        starts_ns = self._starts(symbol, seconds.key % _SECONDS * NS_PER_S, every_ns)
        found = merged([seconds.keyed(starts_ns)])
        found = found.cut(max(0, len(found) - limit), len(found))
        return Bars(
            every_ns=every_ns, start_ns=found.key, open=found.open, high=found.high, low=found.low, close=found.close,
            volume=found.units + found.nanos / 1e9, trades=found.trades,
        )  # fmt: skip

    def totals(self) -> Totals:
        """Return the totals of all trades."""
        return _totals(self._totals)

    def totals_until(self, until_s: int) -> Totals:
        """Return the totals of the seconds before `until_s`, of a series that is one piece."""
        piece = self._pieces[0][1] if self._pieces else _NONE
        bounds = self._totals.key * _SECONDS
        starts, stops = np.searchsorted(piece.key, bounds), np.searchsorted(piece.key, bounds + until_s)
        numbers, starts, stops = (each[stops > starts] for each in (self._totals.key, starts, stops))
        if not len(numbers):
            return _totals(_NONE)
        # Every other sum is of what lies between two symbols' seconds. The last symbol's may reach to the end.
        edges = np.stack([starts, stops], axis=1).ravel()
        sums = (
            np.add.reduceat(np.append(each, each[:1] * 0), edges)[::2]
            for each in (piece.units, piece.nanos, piece.trades)
        )
        first, last = piece.open[starts], piece.close[stops - 1]
        # Nobody asks for highs and lows of a whole day at a moment.
        return _totals(
            Parts(numbers, piece.first_ns[starts], piece.last_ns[stops - 1], first, first, last, last, *sums)
        )

    def prints(self, symbol: str, limit: int) -> pl.DataFrame:
        """Return the latest trades of a symbol, newest first, at most two hundred."""
        number = self.symbols.numbers.get(symbol)
        if number is None or not self._prints:
            return pl.DataFrame()
        return pl.concat(self._prints).filter(pl.col("number") == number).tail(limit).reverse()

    def decimals(self, number: int) -> int:
        """Return how many digits after the point the prices of a symbol have."""
        return self._decimals.of(number)

    def newest_of_each(self) -> list[int]:
        """Return when (UTC ns) the latest trade of each symbol was received, by its number."""
        return self._recv_ns.values.tolist()

    def pace(self, last_s: int, until_s: int) -> Pace:
        """Return trades and lag of so many seconds before `until_s`."""
        seconds = np.arange(until_s - last_s, until_s, dtype=np.int64)
        counts = self.lags.counts(until_s - last_s, until_s - 1)
        p50, p95, p99 = (percentile(counts, share) for share in (0.5, 0.95, 0.99))
        return Pace(
            second_ns=seconds * NS_PER_S, trades=counts.sum(axis=1, dtype=np.int64),
            lag_p50_ms=p50, lag_p95_ms=p95, lag_p99_ms=p99,
        )  # fmt: skip

    def _append(self, piece: Parts) -> None:
        self._pieces.append((0, piece))
        while len(alike := self._pieces[-_ALIKE:]) == _ALIKE and len({level for level, _ in alike}) == 1:
            level = alike[0][0]
            if level == _FINAL:
                return
            pieces = [piece for _, piece in alike]
            is_large = sum(map(len, pieces)) > _MOST_BARS
            self._pieces[-_ALIKE:] = [(_FINAL, each) for each in pieces] if is_large else [(level + 1, merged(pieces))]

    def _cuts(self, number: int, most: int, until_s: int) -> list[Parts]:
        """Return of each piece what can be among the last so many seconds of a symbol before `until_s`."""
        cuts, first, end = list[Parts](), number * _SECONDS, number * _SECONDS + until_s
        for _, piece in reversed(self._pieces):
            start, stop = np.searchsorted(piece.key, [first, end]).tolist()
            cuts.append(piece.cut(max(start, stop - most), stop))
            if len(cuts[-1]) == most:  # So many seconds are known already: older ones are not needed.
                first = int(cuts[-1].key[0])
        return cuts[::-1]

    def _starts(self, symbol: str, times_ns: Ints, every_ns: int) -> Ints:
        """Return when the bars of these times begin; a day is the exchange's, or of UTC."""
        if every_ns < DAY_NS or not len(times_ns):
            return times_ns // every_ns * every_ns
        zone = self._zone_of(symbol)
        days = dates_between(zone, int(times_ns.min()), int(times_ns.max()) + 1)
        edges = np.array([day_span(day, zone)[0] for day in days], np.int64)
        return edges[np.searchsorted(edges, times_ns, side="right") - 1]


class _Most:
    """The largest value so far for each number; 0 where there is none."""

    def __init__(self) -> None:
        self.values = np.zeros(64, np.int64)

    def note(self, numbers: Ints, values: Ints) -> None:
        most = int(numbers.max(initial=0))
        if most >= len(self.values):
            self.values = np.concatenate([self.values, np.zeros(most + 1, np.int64)])
        np.maximum.at(self.values, numbers, values)

    def of(self, number: int) -> int:
        return int(self.values[number]) if number < len(self.values) else 0


def _totals(parts: Parts) -> Totals:
    volume = parts.units + parts.nanos / 1e9
    columns = (parts.key, parts.first_ns, parts.last_ns, parts.open, parts.close, volume, parts.trades)
    return Totals(*(each.tolist() for each in columns))


def _decimals(texts: pl.Series) -> Ints:
    """Return how many digits after the point each number has, written without an exponent."""
    point = texts.str.find(".", literal=True)
    digits = (texts.str.len_bytes().cast(pl.Int64) - point.cast(pl.Int64) - 1).fill_null(0)
    if texts.str.contains("[eE]").any():
        exponent = texts.str.extract(r"[eE]\+?(-?\d+)").cast(pl.Int64).fill_null(0)
        digits = texts.str.extract(r"\.(\d+)").str.len_bytes().cast(pl.Int64).fill_null(0) - exponent
    return digits.clip(0, _MOST_DECIMALS).to_numpy()


def _latest(frames: Iterable[pl.DataFrame]) -> pl.DataFrame:
    """Return the latest trades of each symbol."""
    whole = pl.concat(frames)
    return whole.group_by("number", maintain_order=True).tail(_PRINTS).select(whole.columns)


_TIMES, _NUMBERS = np.empty(0, np.int64), np.empty(0, np.float64)
_NONE = Parts(_TIMES, _TIMES, _TIMES, _NUMBERS, _NUMBERS, _NUMBERS, _NUMBERS, _NUMBERS, _TIMES, _TIMES)
