import asyncio
import json
import subprocess
import sys
import threading
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import pytest
from tape_trades import read_trades
from websockets.exceptions import ConnectionClosedOK, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from tasks.errors import TerminalError
from tasks.records.trade import NS_PER_MS, Trade
from tasks.replay.generate import generate
from tasks.replay.run import Replay, serve_in_thread
from tasks.replay.server import Clock, ReplayOptions
from tasks.replay.tape_file import write_tape

REPO = Path(__file__).parents[3]
REAL_TAPE = REPO / ".." / "shared" / "tape" / "us-equities-20131007.csv.gz"
WAIT_S = 20
START_MS = 1_700_000_000_000
TO_THE_END = ReplayOptions(speed=None, original_times=True, exit_at_end=True)


def trade(symbol: str, at_ms: int = 0, price: str = "1.10", size: str = "2", *conditions: str) -> Trade:
    return Trade((START_MS + at_ms) * NS_PER_MS, symbol, price, size, conditions)


def join(replay: Replay, *symbols: str, token: str = "a") -> ClientConnection:
    client = connect(f"{replay.url}/?token={token}", compression=None, max_size=None, open_timeout=WAIT_S)
    for symbol in symbols:
        ask(client, "subscribe", symbol)
    return client


def ask(client: ClientConnection, kind: str, symbol: object) -> None:
    client.send(json.dumps({"type": kind, "symbol": symbol}))


def hear(client: ClientConnection) -> dict:
    return json.loads(client.recv(WAIT_S), parse_float=str, parse_int=str)


def trades_in(messages: Iterable[str | bytes]) -> Iterator[Trade]:
    for message in messages:
        said = json.loads(message, parse_float=str, parse_int=str)
        for one in said["data"] if said["type"] == "trade" else ():
            yield Trade(int(one["t"]) * NS_PER_MS, one["s"], one["p"], one["v"], tuple(one["c"] or ()))


def by_symbol(trades: Iterable[Trade]) -> dict[str, list[Trade]]:
    found = defaultdict(list)
    for one in trades:
        found[one.symbol].append(one)
    return found


# The door


@pytest.mark.parametrize(
    ("key", "query"),
    [
        (None, ""),
        (None, "?token="),
        (None, "?key=right"),
        ("right", ""),
        ("right", "?token="),
        ("right", "?token=wrong"),
    ],
)
def test_without_the_right_token_there_is_no_connection(key: str | None, query: str) -> None:
    """A missing or empty token, or a wrong one if a key is set, gets HTTP 401 at the handshake."""
    with serve_in_thread([], ReplayOptions(key=key)) as replay:
        with pytest.raises(InvalidStatus) as caught:
            connect(f"{replay.url}/{query}")
        assert caught.value.response.status_code == 401
        join(replay, token="right").close()
        assert (replay.counts.connections, replay.counts.refused) == (1, 1)


def test_a_second_connection_on_a_token_is_refused() -> None:
    """A second connection with the same token gets HTTP 429; other tokens, or later ones, do not."""
    with serve_in_thread([]) as replay:
        with join(replay):
            with pytest.raises(InvalidStatus) as caught:
                join(replay)
            assert caught.value.response.status_code == 429
            join(replay, token="b").close()
        join(replay).close()


def test_it_listens_on_loopback_only() -> None:
    """The URL names 127.0.0.1, and a port in use raises one clear error."""
    with serve_in_thread([]) as replay:
        host, port = replay.url.removeprefix("ws://").split(":")
        assert host == "127.0.0.1"
        with (
            pytest.raises(TerminalError, match=f"127.0.0.1:{port}: cannot listen"),
            serve_in_thread([], port=int(port)),
        ):
            pass


# What is said


def test_only_what_is_subscribed_is_sent_in_order_and_digit_by_digit() -> None:
    """The client gets its symbols' trades and no others, in the tape's order, with the tape's digits."""
    odd = [trade("AAPL", 1, "1.100", "1e2"), trade("BINANCE:X\\Y", 2, "12345678901234567890.10", "0.00000001")]
    tape = [*odd, *generate(1, 10)]
    wanted = {"AAPL", "SPY", "BINANCE:X\\Y", "BINANCE:BTCUSDT"}
    with serve_in_thread(tape, TO_THE_END) as replay, join(replay, *wanted, "NEVER") as client:
        heard = list(trades_in(client))
        replay.join(WAIT_S)
    expected = [one for one in tape if one.symbol in wanted]
    assert heard == expected
    assert replay.sent == len(expected)
    assert replay.counts.per_symbol == Counter(one.symbol for one in expected)


def test_messages_are_the_vendors_to_the_byte() -> None:
    """Compact JSON, keys in alphabetical order, null where a trade has no conditions."""
    tape = [trade("AAPL", 1, "189.50", "100", "1", "12"), trade("BINANCE:BTCUSDT", 2, "9.7e4", "0.010")]
    with serve_in_thread(tape, TO_THE_END) as replay, join(replay, "AAPL", "BINANCE:BTCUSDT") as client:
        assert list(client) == [
            '{"data":[{"c":["1","12"],"p":189.50,"s":"AAPL","t":1700000000001,"v":100},'
            '{"c":null,"p":9.7e4,"s":"BINANCE:BTCUSDT","t":1700000000002,"v":0.010}],"type":"trade"}'
        ]


def test_trades_of_one_tick_leave_together_up_to_a_limit() -> None:
    """A message has trades of one tick of the tape, up to the limit."""
    tape = [trade("A", at_ms) for at_ms in (0, 10, 49, 50, 120, 5000, 4000, 5001, 5002)]
    options = ReplayOptions(speed=None, original_times=True, exit_at_end=True, tick_s=0.05, trades_a_message=3)
    with serve_in_thread(tape, options) as replay, join(replay, "A") as client:
        messages = [[one.ts_event_ns // NS_PER_MS - START_MS for one in trades_in([message])] for message in client]
    assert messages == [[0, 10, 49], [50], [120], [5000, 4000, 5001], [5002]]


def test_a_symbol_too_many_is_answered_and_another_may_make_room() -> None:
    """The symbol limit counts each symbol once, and unsubscribing frees a slot; the error names no symbol."""
    options = ReplayOptions(speed=None, exit_at_end=True, max_symbols=2, settle_s=0.5)
    tape = [trade(symbol) for symbol in "ABCD"]
    with serve_in_thread(tape, options) as replay, join(replay, "A", "B", "B", "C") as client:
        assert client.recv(WAIT_S) == '{"msg":"Subscribing to too many symbols","type":"error"}'
        ask(client, "unsubscribe", "A")
        ask(client, "subscribe", "D")
        assert [one.symbol for one in trades_in(client)] == ["B", "D"]


@pytest.mark.parametrize(
    ("message", "answer"),
    [
        ('{"type":"hello"}', None),
        ('{"no":"type"}', None),
        ("{", "Invalid message"),
        ("[1]", "Invalid message"),
        ("[" * 5000, "Invalid message"),
        (b"\xff\xfe", "Invalid message"),
        ('{"type":"subscribe"}', "Invalid symbol"),
        ('{"type":"subscribe","symbol":["A"]}', "Invalid symbol"),
    ],
)
def test_strange_messages_end_nothing(message: str | bytes, answer: str | None) -> None:
    """JSON of unknown type is ignored, anything else gets an error, and the stream goes on."""
    with serve_in_thread([trade("A")]) as replay, join(replay) as client:
        client.send(message)
        if answer is not None:
            assert hear(client) == {"type": "error", "msg": answer}
        ask(client, "subscribe", "A")
        assert hear(client)["type"] == "trade"


def test_it_pings_whether_or_not_there_are_trades() -> None:
    """The vendor's JSON ping is sent repeatedly, even before a subscription and after the tape's end."""
    with serve_in_thread([trade("A")], ReplayOptions(speed=None, beat_every_s=0.05)) as replay, join(replay) as client:
        assert client.recv(WAIT_S) == '{"type":"ping"}'
        ask(client, "subscribe", "A")
        kinds = [hear(client)["type"] for _ in range(12)]
        assert kinds.count("trade") == 1
        assert kinds[-2:] == ["ping", "ping"]


# Time


class StagedTime:
    """A clock that advances only by sleeps, which return at once and are recorded."""

    def __init__(self) -> None:
        self.now_ns = 10**18
        self.slept_s: list[float] = []
        self.on_sleep = lambda: None

    async def sleep(self, seconds: float) -> None:
        self.slept_s.append(seconds)
        self.now_ns += round(seconds * 1e9)
        self.on_sleep()
        await asyncio.sleep(0)

    @property
    def clock(self) -> Clock:
        return Clock(lambda: self.now_ns, lambda: self.now_ns, self.sleep)


@pytest.mark.parametrize("speed", [0.5, 1.0, 10.0])
def test_trades_leave_at_their_time_and_say_so(speed: float) -> None:
    """At X times real time, waits add up to the tape's length / X, and event times are scaled likewise."""
    tape = [trade("A", at_ms) for at_ms in (0, 1000, 700, 60_000)]
    time = StagedTime()
    options = ReplayOptions(speed=speed, exit_at_end=True, tick_s=0.001)
    with serve_in_thread(tape, options, clock=time.clock) as replay, join(replay, "A") as client:
        moved_ms = [(one.ts_event_ns - 10**18) / NS_PER_MS for one in trades_in(client)]
    assert moved_ms == [0, 1000 / speed, 700 / speed, 60_000 / speed]
    assert sum(time.slept_s) == pytest.approx(60 / speed, abs=0.01)
    assert replay.counts.last_ns == pytest.approx(10**18 + 60e9 / speed, abs=1e7)


def test_original_times_are_the_tapes() -> None:
    """With original times, the tape's event times are sent at any speed."""
    tape = [trade("A", at_ms) for at_ms in (0, 1000, 700)]
    options = ReplayOptions(speed=3, original_times=True, exit_at_end=True)
    with serve_in_thread(tape, options, clock=StagedTime().clock) as replay, join(replay, "A") as client:
        assert list(trades_in(client)) == tape


def test_at_full_speed_event_times_are_now() -> None:
    """At maximum speed, nothing waits, and event times are the times of sending."""
    tape = [trade("A", at_ms) for at_ms in (0, 1000, 10**9)]
    time = StagedTime()
    options = ReplayOptions(speed=None, exit_at_end=True)
    with serve_in_thread(tape, options, clock=time.clock) as replay, join(replay, "A") as client:
        assert {one.ts_event_ns for one in trades_in(client)} == {10**18}
    assert time.slept_s == []


def test_time_starts_when_the_burst_of_subscriptions_has_been_read() -> None:
    """No trade of the last symbol in a long subscription list is missed."""
    tape = [trade(f"S{number}") for number in range(50)]
    with serve_in_thread(tape, TO_THE_END) as replay, join(replay, *(f"S{number}" for number in range(50))) as client:
        assert list(trades_in(client)) == tape


def test_at_full_speed_time_stands_still_while_nobody_listens() -> None:
    """The tape pauses without subscribers: a client that leaves and returns gets all the rest."""
    tape = [trade("A", number, str(number + 1)) for number in range(20_000)]
    options = ReplayOptions(speed=None, exit_at_end=True, original_times=True, trades_a_message=5)
    with serve_in_thread(tape, options) as replay:
        with join(replay, "A") as first:
            heard = list(trades_in([first.recv(WAIT_S)]))
            ask(first, "unsubscribe", "A")
            first.send("{")  # its answer follows the last trade
            while "Invalid message" not in (message := first.recv(WAIT_S)):
                heard += trades_in([message])
        assert 0 < len(heard) == replay.sent < len(tape)
        with join(replay, "A") as second:
            heard += trades_in(second)
    assert heard == tape


def test_at_a_finite_speed_time_goes_on_while_the_client_is_away() -> None:
    """Trades between two connections are lost, as with the vendor."""
    asked, answered = threading.Event(), threading.Event()
    time = StagedTime()

    def hold_back_at_the_end() -> None:
        if time.now_ns >= 10**18 + 99 * 10**9:
            asked.set()
            assert answered.wait(WAIT_S)

    async def sleep(seconds: float) -> None:
        time.now_ns += round(seconds * 1e9)
        await asyncio.to_thread(hold_back_at_the_end)

    tape = [trade("A", 1000 * number, str(number)) for number in range(101)]
    clock = Clock(lambda: time.now_ns, lambda: time.now_ns, sleep)
    with serve_in_thread(tape, ReplayOptions(exit_at_end=True), clock=clock) as replay:
        with join(replay, "A") as first:
            first.recv(WAIT_S)
        assert asked.wait(WAIT_S)
        with join(replay, "A") as second:
            second.ping().wait(WAIT_S)  # the subscription before it has been read
            answered.set()
            assert [one.price for one in trades_in(second)] in (["99", "100"], ["100"])


# The end


def test_it_stays_open_at_the_end_unless_told_otherwise() -> None:
    """After the last trade the connection stays open, and stopping the server closes it cleanly."""
    with serve_in_thread([trade("A")], ReplayOptions(speed=None)) as replay, join(replay, "A") as client:
        hear(client)
        assert replay.ended.wait(WAIT_S)
        assert client.ping().wait(WAIT_S)
        replay.stop()
        with pytest.raises(ConnectionClosedOK) as caught:
            client.recv(WAIT_S)
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == 1001


def test_it_leaves_at_the_end_where_told_so() -> None:
    """With exit_at_end everything is sent, then the connection is closed with 1000, then the server is gone."""
    tape = list(generate(4, 10))
    with serve_in_thread(tape, TO_THE_END) as replay, join(replay, *{one.symbol for one in tape}) as client:
        assert sum(1 for _ in trades_in(client)) == len(tape) == replay.sent
        assert client.close_code == 1000
        replay.join(WAIT_S)
        with pytest.raises(OSError):
            join(replay)


def test_a_client_that_does_not_read_holds_the_server_back() -> None:
    """For a slow client, messages are neither dropped nor piled up in memory."""
    tape = [trade("A", number, "9" * 2000) for number in range(20_000)]
    with serve_in_thread(iter(tape), TO_THE_END) as replay, join(replay, "A") as client:
        assert not replay.ended.wait(1)
        assert replay.sent < len(tape) // 2
        assert sum(1 for _ in trades_in(client)) == len(tape)


def test_a_tape_that_turns_bad_ends_the_server_with_its_error(tmp_path: Path) -> None:
    """A bad first line fails before a client connects, a later one ends the replay; both errors name the line."""
    path = tmp_path / "tape.csv"
    write_tape([trade("A")] * 100_000, path)
    path.write_text(path.read_text() + "torn\n")
    with (
        pytest.raises(TerminalError, match="line 100002"),
        serve_in_thread(path) as replay,
        join(replay, "A") as client,
    ):
        list(trades_in(client))
    path.write_text("nothing\n")
    with pytest.raises(TerminalError, match="line 1"), serve_in_thread(path):
        pass


RUN = """
import sys
from pathlib import Path
from tasks.replay.run import run
from tasks.replay.server import ReplayOptions
run(Path(sys.argv[1]), 0, ReplayOptions(speed=None, exit_at_end=sys.argv[2] == "exit"))
"""


@pytest.mark.parametrize("end", ["exit", "signal"])
def test_a_process_announces_its_url_and_says_what_it_sent(tmp_path: Path, end: str) -> None:
    """The first line of output is the URL, the last one the counts; SIGTERM ends the replay cleanly."""
    write_tape([trade("A"), trade("B")], tmp_path / "tape.csv")
    command = [sys.executable, "-c", RUN, str(tmp_path / "tape.csv"), end]
    with subprocess.Popen(command, cwd=REPO, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        with connect(f"{url}/?token=a", open_timeout=WAIT_S) as client:
            ask(client, "subscribe", "A")
            hear(client)
            if end == "signal":
                process.terminate()
            with pytest.raises(Exception, match="1000" if end == "exit" else "1001"):
                client.recv(WAIT_S)
        assert process.stdout.read().startswith("sent 1 trades of 1 symbols in 1 messages")
        assert process.wait(WAIT_S) == 0


@pytest.mark.skipif(not REAL_TAPE.exists(), reason="the real tape is not on this machine")
def test_a_real_tape_goes_over_the_wire_whole() -> None:
    """A real day's first trades arrive trade for trade, in order, digits included."""
    tape = list(islice(read_trades(REAL_TAPE), 60_000))
    with serve_in_thread(tape, TO_THE_END) as replay, join(replay, *{one.symbol for one in tape}) as client:
        assert list(trades_in(client)) == tape
        assert replay.sent == len(tape)
