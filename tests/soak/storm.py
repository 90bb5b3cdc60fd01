"""Plays random faults as a stormy feed, and logs what it sent.

`Storm` is a step for `FaultServer`: on each connection random messages, then a random end. Each trade's price is a
running number, so that loss, doubling and disorder can be told apart. What it does, it notes as `Event`s.
"""

import random
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count

from faults import (
    PING,
    TEXT,
    Accept,
    Answer,
    Close,
    Connection,
    Drop,
    Frame,
    Mute,
    Raw,
    Reset,
    Send,
    Step,
    Subscribed,
    Text,
)

from tasks.records.trade import NS_PER_MS, Trade

_GONE_WITHIN_S = 5.0
# What each kind of end looks like to a client that tells the truth about it.
REASONS = {
    "fin": ("without a close frame",),
    # A RST that finds the client within a send, or a client that meets it in the middle of a request.
    "rst": ("the connection broke",),
    "mute": ("no answer to a ping",),
    "garbage": ("the feed broke the protocol",),
    "close": ("the feed closed the connection with code",),
    "503": ("HTTP 503",),
    "kill": ("the recorder was killed",),
}
_BROKEN_FRAMES = (
    bytes(Frame(TEXT, b"x", rsv=4)),
    bytes(Frame(3, b"x")),
    bytes(Frame(TEXT, b"x", masked=True)),
    bytes(Frame(PING, b"x" * 126)),
    bytes(Frame(0, b"continues nothing")),
    b"HTTP/1.1 400 Bad Request\r\n\r\n",
)
_NONSENSE = ("no json", '{"type":"trade","data":[{"s":5}]}', '{"type":"trade","data":7}', "[" * 3000, '{"type":"ping"}')


@dataclass(frozen=True, slots=True)
class Event:
    """Something that ends or prevents a connection: its kind (a key of REASONS) and time (UTC ns)."""

    kind: str
    at_ns: int


@dataclass(slots=True)
class Weather:
    """State shared by all connections of a run; with `calm` set, no new fault starts."""

    seed: int
    symbols: tuple[str, ...]
    calm: threading.Event = field(default_factory=threading.Event)
    events: list[Event] = field(default_factory=list)
    steps: dict[str, int] = field(default_factory=dict)
    _numbers: Iterator[int] = field(default_factory=lambda: count(1))
    _connections: Iterator[int] = field(default_factory=count)

    def chance(self) -> random.Random:
        """The next connection's own random source, independent of how threads interleave."""
        return random.Random(f"{self.seed} {next(self._connections)}")

    def note(self, kind: str) -> None:
        """Record that something ends now."""
        self.events.append(Event(kind, time.time_ns()))

    def trades(self, chance: random.Random, size: int) -> list[Trade]:
        """Make new, unique trades."""
        now_ns = time.time_ns() // NS_PER_MS * NS_PER_MS
        numbers = [next(self._numbers) for _ in range(size)]
        return [Trade(now_ns, chance.choice(self.symbols), f"{n}.{n % 100:02}", str(n), ("1",)) for n in numbers]


@dataclass(frozen=True, slots=True)
class Storm(Accept):
    """The script of a connection, including its handshake."""

    weather: Weather = field(default_factory=lambda: Weather(0, ()))

    def run(self, connection: Connection) -> None:
        weather, chance = self.weather, self.weather.chance()
        if chance.random() < 0.15 and not weather.calm.is_set():
            weather.note("503")
            Answer(503).run(connection)
            return
        Accept().run(connection)
        Subscribed(*weather.symbols).run(connection)
        end_s = time.monotonic() + chance.choice((0.0, 0.3, 1.0, 2.5))
        while time.monotonic() < end_s or weather.calm.is_set():
            if connection.gone.is_set() or connection.subscribed < set(weather.symbols):
                return  # The client leaves: what was sent before it said so, it still takes.
            self._say(connection, chance)
        self._end(connection, chance)

    def _say(self, connection: Connection, chance: random.Random) -> None:
        kind = chance.choice(("plain",) * 6 + ("fragments", "slow", "twice", "burst", "nonsense", "pause"))
        self.weather.steps[kind] = self.weather.steps.get(kind, 0) + 1
        trades = self.weather.trades(chance, chance.randint(1, 20))
        steps: Sequence[Step] = [Send(trades)]
        if kind == "fragments":
            steps = [Send(trades, fragments=chance.randint(2, 6), between=(Frame(PING, b"between"),))]
        elif kind == "slow":
            steps = [Send(trades[:3], slowly=chance.randint(1, 40), pause_s=0.001)]
        elif kind == "twice":
            steps = [Send(trades), Send(trades)]
        elif kind == "burst":
            steps = [Send(self.weather.trades(chance, 200)) for _ in range(10)]
        elif kind == "nonsense":
            steps = [Text(chance.choice(_NONSENSE))]
        elif kind == "pause":
            self.weather.calm.wait(chance.uniform(0, 0.2))
        for step in steps:
            step.run(connection)
        time.sleep(chance.uniform(0, 0.01))

    def _end(self, connection: Connection, chance: random.Random) -> None:
        trades = self.weather.trades(chance, 10)
        last = Send(trades)
        if chance.random() < 0.5:  # In the middle of a message, at any of its bytes.
            last = Send(trades, cut_after=chance.randrange(1, len(last.content())))
        last.run(connection)
        whole = last.cut_after is None
        kind = chance.choice(("fin", "rst", "mute", "garbage", "close") if whole else ("fin", "rst", "mute"))
        self.weather.note(kind)
        if kind == "garbage":
            Raw(chance.choice(_BROKEN_FRAMES)).run(connection)
        elif kind == "close":
            Close(chance.choice((None, 1000, 1001, 1011, 1012, 4000)), "a storm").run(connection)
        elif kind == "mute":
            until = threading.Event()
            threading.Timer(2.5, until.set).start()
            Mute(until).run(connection)
        else:
            (Drop() if kind == "fin" else Reset()).run(connection)
        connection.gone.wait(_GONE_WITHIN_S)
