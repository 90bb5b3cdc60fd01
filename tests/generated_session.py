"""A source whose every figure is known: a page needs no recording to be tested for what it shows."""

import math
import time
from dataclasses import dataclass, field

import numpy as np

from tape.dashboard.model import Bars, BatchShown, Board, Health, Pace, Print, ShownGap, SymbolRow
from tasks.records.status import Status
from tasks.records.trade import NS_PER_S

HOSTILE = '<img src=x onerror="window.hacked=1">'
SYMBOLS = {
    "AAPL": (182.31, 2), "MSFT": (415.2, 2), "NVDA": (118.42, 2), "SPY": (561.08, 2),
    "BINANCE:BTCUSDT": (64_211.5, 2), "OANDA:EUR_USD": (1.08412, 5), "BTC-USD": (64_200.11, 2), HOSTILE: (7.5, 1),
}  # fmt: skip


@dataclass
class Generated:
    """A session that has been recorded for `age_s` seconds when it is opened."""

    session: str = "20261124T143000Z-9f3c01ab"
    age_s: int = 600
    extra: int = 0
    health: Health = "up"
    moving: bool = True
    now_ns: int = 0
    symbols: dict[str, tuple[float, int]] = field(default_factory=lambda: dict(SYMBOLS))

    def __post_init__(self) -> None:
        self.start_ns = (time.time_ns() // NS_PER_S - self.age_s) * NS_PER_S
        self.symbols |= {f"SYM{n:03}": (10.0 + n, 2) for n in range(self.extra)}
        self.refresh()

    def refresh(self) -> None:
        """Move on to now."""
        if self.moving or not self.now_ns:
            self.now_ns = time.time_ns()

    def close(self) -> None:
        """Nothing is open."""

    def _heard(self, second: np.ndarray) -> np.ndarray:
        """Whether trades were received: not in the last 17 s of each 113 s since the start."""
        heard: np.ndarray = (second - self.start_ns // NS_PER_S) % 113 < 96
        return heard

    def _price(self, symbol: str, second: np.ndarray) -> np.ndarray:
        base, decimals = self.symbols[symbol]
        phase = sum(symbol.encode()) % 97
        x = second % 86_400 + phase * 1000
        wave = 0.004 * np.sin(x / 97) + 0.0015 * np.sin(x / 11 + phase) + 0.0006 * np.sin(x * 1.7 + phase)
        return np.round(base * (1 + wave), decimals)

    def _seconds(self) -> np.ndarray:
        seconds = np.arange(self.start_ns // NS_PER_S, self.now_ns // NS_PER_S)
        return seconds[self._heard(seconds)]

    def gaps(self) -> tuple[ShownGap, ...]:
        seconds = np.arange(self.start_ns // NS_PER_S, self.now_ns // NS_PER_S + 1)
        lost = seconds[~self._heard(seconds)]
        runs = np.split(lost, np.where(np.diff(lost) > 1)[0] + 1) if len(lost) else []
        found = []
        for run in runs:
            is_open = run[-1] == seconds[-1]
            reason = "the feed ended the connection without a close frame"
            found.append(
                ShownGap(symbols=tuple(self.symbols), start_ns=int(run[0]) * NS_PER_S,
                         end_ns=None if is_open else (int(run[-1]) + 1) * NS_PER_S, reason=reason)
            )  # fmt: skip
        return tuple(found)

    def board(self) -> Board:
        """Everything, at the last refresh."""
        seconds, gaps = self._seconds(), self.gaps()
        rows = []
        for n, symbol in enumerate(self.symbols):
            if symbol.startswith("SYM"):  # It has traded before, and does not now.
                rows.append(
                    SymbolRow(
                        symbol=symbol, last=self.symbols[symbol][0], change=0.001 * (n % 7 - 3), volume=1_000.0 + n,
                        trades=100, rhythm_s=3.0, silent_s=3_600.0, in_gap=False, decimals=2,
                    )
                )  # fmt: skip
                continue
            prices = self._price(symbol, seconds[[0, -1]])
            rhythm = 0.05 * (1 + n % 40)
            rows.append(
                SymbolRow(symbol=symbol, last=float(prices[1]), change=float(prices[1] / prices[0] - 1),
                          volume=float(len(seconds) * (n + 1) * 37), trades=len(seconds) * (40 - n % 40),
                          rhythm_s=rhythm, silent_s=float(n % 7), in_gap=any(gap.end_ns is None for gap in gaps),
                          decimals=self.symbols[symbol][1])
            )  # fmt: skip
        trades = sum(row.trades for row in rows)
        status = Status(
            session=self.session, pid=1, state="recording", started_ns=self.start_ns, updated_ns=self.now_ns,
            deadline_ns=self.start_ns + 3_600 * NS_PER_S, connection=1 + len(gaps), trades=trades, queue_bytes=700_000,
            queue_limit_bytes=64 << 20, symbols=tuple(self.symbols),
        )  # fmt: skip
        batches = tuple(
            BatchShown(name=f"{self.session}-{n:02}-00000{n}", stage=stage, rows=18_230 + n * 411, quarantined=n % 3)
            for n, stage in enumerate(["uploaded"] * 5 + ["archived", "archived", "validated", "sealed", "recording"])
        )
        return Board(
            session=self.session, feed="finnhub", now_ns=self.now_ns, start_ns=self.start_ns,
            end_ns=status.deadline_ns, status=status,
            health="down" if gaps and gaps[-1].end_ns is None else self.health,
            trades=trades, trades_per_s=951.0 + self.now_ns // NS_PER_S % 7, lag_p50_ms=41.0, lag_p95_ms=88.2,
            lag_p99_ms=140.0, rows=tuple(rows), gaps=gaps, batches=batches,
            quarantine={"event time too old": 3, "price is not positive": 1}, disk_free_bytes=412 << 30,
        )  # fmt: skip

    def pace(self, last_s: int) -> Pace:
        """Trades and lag of the last seconds."""
        now_s = self.now_ns // NS_PER_S
        seconds = np.arange(max(now_s - last_s, self.start_ns // NS_PER_S), now_s)
        heard = self._heard(seconds)
        rate = np.where(heard, 900 + 300 * np.sin(seconds / 23) + 120 * np.sin(seconds * 1.3), 0).astype(np.int64)
        lag = np.where(heard, 40 + 8 * np.sin(seconds / 7), math.nan)
        return Pace(second_ns=seconds * NS_PER_S, trades=rate, lag_p50_ms=lag, lag_p95_ms=lag * 2.1,
                    lag_p99_ms=lag * (3.2 + np.sin(seconds * 0.9)))  # fmt: skip

    def bars(self, symbol: str, every_ns: int, limit: int) -> Bars:
        """The last bars of a symbol."""
        none = np.empty(0)
        if symbol not in self.symbols:
            return Bars(every_ns=every_ns, start_ns=none.astype(np.int64), open=none, high=none, low=none, close=none,
                        volume=none, trades=none.astype(np.int64))  # fmt: skip
        seconds = self._seconds()
        starts = seconds * NS_PER_S // every_ns * every_ns
        close, before = self._price(symbol, seconds), self._price(symbol, seconds - 0.6)
        kinds, first = np.unique(starts, return_index=True)
        rows = np.split(np.column_stack((before, close)), first[1:])
        take = slice(-limit, None)
        return Bars(
            every_ns=every_ns, start_ns=kinds[take], open=np.array([r[0, 0] for r in rows])[take],
            high=np.array([r.max() for r in rows])[take], low=np.array([r.min() for r in rows])[take],
            close=np.array([r[-1, 1] for r in rows])[take],
            volume=100.0 * np.array([len(r) for r in rows])[take] * (2 + np.sin(kinds[take] // NS_PER_S * 1.1)),
            trades=np.array([len(r) for r in rows])[take],
        )  # fmt: skip

    def prints(self, symbol: str, limit: int) -> tuple[Print, ...]:
        """The latest trades of a symbol, newest first."""
        if symbol not in self.symbols:
            return ()
        seconds = self._seconds()[-limit:][::-1]
        prices, decimals = self._price(symbol, seconds), self.symbols[symbol][1]
        return tuple(
            Print(symbol=symbol, ts_event_ns=int(s) * NS_PER_S + 123_000_000,
                  ts_recv_ns=int(s) * NS_PER_S + 164_000_000, price=f"{p:.{decimals}f}",
                  size=str(100 + int(s) % 9 * 25),
                  conditions=("1 regular", "12 extended hours") if s % 5 == 0 else ("1 regular",))
            for s, p in zip(seconds, prices, strict=True)
        )  # fmt: skip
