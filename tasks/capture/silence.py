"""Silences: reconnect once if the whole feed is silent; resubscribe and note a symbol that is silent alone.

A feed that is as silent on the new connection has a halt, a holiday, or a fault of its own. That is noted too, and no
third connection is made before it sends trades again.
"""

import logging
from collections.abc import Mapping
from dataclasses import replace

from tasks.capture.clock import Clock
from tasks.capture.listener import Listener
from tasks.capture.request import CaptureRequest
from tasks.capture.rhythm import Rhythm
from tasks.feeds.base import Feed
from tasks.feeds.market_hours import is_trading
from tasks.records.ledger import Gap
from tasks.records.trade import NS_PER_S

log = logging.getLogger(__name__)

_LOOK_EVERY_NS = NS_PER_S


class SilenceWatch:
    """Checks the trade counts once a second, on the recorder's main thread."""

    def __init__(self, listener: Listener, clock: Clock, request: CaptureRequest, feed: Feed) -> None:
        self._listener = listener
        self._clock = clock
        self._hours = request.market_hours
        self._feed = feed
        self._rhythm = Rhythm(self._is_open)
        self._connection = 0
        self._looked_ns = 0
        self._counts: Mapping[str, int] = {}
        self._last_ns: dict[str, int] = {}
        self._silences: list[Gap] = []

    def look(self, counts: Mapping[str, int]) -> None:
        """Note which symbols have traded, and act on an unusual silence."""
        mono_ns, wall_ns = self._clock.monotonic_ns(), self._clock.wall_ns()
        if mono_ns - self._looked_ns < _LOOK_EVERY_NS:
            return
        self._looked_ns = mono_ns
        if self._listener.state != "recording" or self._listener.connection != self._connection:
            self._connection = self._listener.connection
            self._rhythm.restart(mono_ns)
        self._note(counts, wall_ns)
        silence = self._rhythm.look(mono_ns, wall_ns, counts)
        if self._listener.state != "recording":
            return
        since_ns = max(self._last_ns.values(), default=wall_ns)
        if silence.again:
            log.warning("the whole feed is silent on the new connection too: noted, no further reconnect")
            reason = "the whole feed silent against its rhythm, on a new connection too: a halt, or a feed that is down"
            self._silences.append(Gap(symbols=tuple(counts), start_ns=since_ns, end_ns=None, reason=reason))
        elif silence.feed_expected is not None:
            self._listener.renew(
                f"silent for {(wall_ns - since_ns) / NS_PER_S:.0f} s, with pings answered, "
                f"though about {silence.feed_expected:,.0f} trades were to be expected",
                since_ns,
            )
        elif silence.symbols:
            log.warning("silent against their rhythm, subscribed again: %s", ", ".join(silence.symbols))
            self._listener.resubscribe(silence.symbols)
            reason = "silent against its rhythm: a halt, or a feed that does not send it"
            self._silences += [
                Gap(symbols=(each,), start_ns=self._last_ns.get(each, wall_ns), end_ns=None, reason=reason)
                for each in silence.symbols
            ]

    def ended(self, ended_ns: int) -> tuple[Gap, ...]:
        """Return every noted silence; those that last end with the session."""
        return tuple(replace(gap, end_ns=ended_ns) if gap.end_ns is None else gap for gap in self._silences)

    def _note(self, counts: Mapping[str, int], wall_ns: int) -> None:
        traded = {symbol for symbol, count in counts.items() if count > self._counts.get(symbol, 0)}
        self._counts = counts
        self._last_ns.update(dict.fromkeys(traded, wall_ns))
        self._silences = [
            replace(gap, end_ns=wall_ns) if gap.end_ns is None and traded.intersection(gap.symbols) else gap
            for gap in self._silences
        ]

    def _is_open(self, symbol: str, wall_ns: int) -> bool:
        return is_trading(self._feed.market_hours(symbol), wall_ns, self._hours)
