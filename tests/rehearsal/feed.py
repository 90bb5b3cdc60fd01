"""The feed of a rehearsal: a generated tape, replayed a minute each second, behind a wire that can be cut."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

from wire import Wire

from tasks.records.trade import NS_PER_MS, NS_PER_S, Trade
from tasks.replay.generate import generate
from tasks.replay.run import serve_in_thread
from tasks.replay.server import Clock, ReplayOptions
from tasks.replay.vendor import EventTimes

SYMBOLS = ("NVDA", "TSLA", "AAPL", "QQQ", "AMD", "AMZN", "MSFT", "META")
KEY = "the-replays-own-key"
logging.getLogger("tasks.replay.server").setLevel(logging.WARNING)
# Some hundred trades each second of the rehearsal.
TAPE_SPEED, TAPE_RATE = 60.0, 0.01


class Feed:
    """A tape, replayed a minute each second, behind a wire that can be cut."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._asked_ns: list[int] = []
        self.wire: Wire

    def _trades(self) -> Iterator[Trade]:
        return (each for each in generate(self._seed, 86_400, rate=TAPE_RATE) if each.symbol in SYMBOLS)

    @contextmanager
    def served(self) -> Iterator[str]:
        """Serve it while the block runs; gives its address."""

        def wall_ns() -> int:
            self._asked_ns.append(time.time_ns())
            return self._asked_ns[-1]

        options = ReplayOptions(speed=TAPE_SPEED, key=KEY)
        with serve_in_thread(self._trades(), options, clock=Clock(wall_ns=wall_ns)) as replay:
            self.wire = Wire(int(replay.url.rpartition(":")[2]))
            yield f"ws://127.0.0.1:{self.wire.port}"

    def sent(self, until_ns: int) -> Iterator[Trade]:
        """What a client that was always connected would have been sent until then, with the event times as sent."""
        first = next(self._trades()).ts_event_ns // NS_PER_MS
        times = EventTimes(self._asked_ns[0] // NS_PER_MS, first, TAPE_SPEED)
        late_ns = until_ns + NS_PER_S  # Late prints come out of order.
        for each in self._trades():
            event_ns = times.ms(each.ts_event_ns // NS_PER_MS) * NS_PER_MS
            if event_ns > late_ns:
                return
            yield Trade(event_ns, each.symbol, each.price, each.size, each.conditions)
