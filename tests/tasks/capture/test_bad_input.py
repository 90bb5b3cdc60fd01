"""What nobody should send is counted, kept as received, and harms nothing."""

import json
import random
from collections import Counter
from collections.abc import Callable

import pytest
from faults import (
    BINARY,
    TEXT,
    FaultServer,
    Raw,
    Send,
    Subscribed,
)
from recording import (
    Answered,
    Recording,
    assert_counts_agree,
    assert_in_order,
    frame,
    quarantined,
    sealed_rows,
    trades,
)

from tasks.capture.finnhub import Reader
from tasks.store import Store

StartServer = Callable[..., FaultServer]
StartSession = Callable[..., Recording]


HOSTILE = ("../../etc/passwd", "..", "/", "CON", "nul\x00", "a,b", "x" * 10_000, "\ud83d", "𝔄", "", "A\nB", '"', "-rf")


def fuzzed(seed: int) -> list[bytes]:
    """Messages that nobody should send, from a seed."""
    roll = random.Random(seed)
    numbers = [
        "NaN",
        "Infinity",
        "-1",
        "1e400",
        "-0",
        "0.1e-7",
        "9" * 400,
        "null",
        "true",
        '"1"',
        "[1]",
        "{}",
        "1.",
        "01",
    ]

    def trade() -> str:
        symbol = json.dumps(roll.choice([*"ABCDEFGHIJKLMNOPQRSTUVWXYZ", *HOSTILE]))
        fields = {
            '"s"': symbol,
            '"p"': "1.50",
            '"t"': "1700000000000",
            '"v"': "7",
            '"c"': roll.choice(["null", "[]", '["1"]']),
            '"unknown"': roll.choice(["{}", '"x"', "1"]),
        }
        fields |= {name: roll.choice(numbers) for name in fields if roll.random() < 0.03}
        chosen = [each for each in fields.items() if roll.random() < 0.97]
        roll.shuffle(chosen)
        return "{" + ",".join(f"{name}:{value}" for name, value in chosen) + "}"

    def one() -> bytes:
        kind = roll.randrange(8)
        if kind < 4:
            whole = f'{{"type":"trade","data":[{",".join(trade() for _ in range(roll.randrange(5)))}]}}'.encode()
            return whole if kind else whole[: roll.randrange(len(whole))]
        if kind == 4:
            return roll.randbytes(roll.randrange(200))
        if kind == 5:
            return b"[" * 50_000 + b"]" * roll.choice([0, 50_000])
        if kind == 6:
            return roll.choice([b'{"type":"ping"}', b'{"type":"error","msg":"x"}', b'{"type":"\xff\xfe"}', b"", b"{}"])
        return b'{"type":"trade","data":' + roll.choice([b"[[[]]]", b"{}", b"1", b'"' + b"x" * 300_000 + b'"']) + b"}"

    return [one() for _ in range(300)]


@pytest.mark.parametrize("lanes", [1, 2])
def test_bad_input_is_counted_and_quarantined_as_received(
    store: Store, fault_server: StartServer, session: StartSession, lanes: int
) -> None:
    """Huge, deep, wrong, not UTF-8, hostile symbols, over the socket: all accounted for, and no file out of place."""
    messages = fuzzed(seed=lanes)
    symbols = ("A", *(symbol for symbol in HOSTILE if symbol not in ("", "\ud83d")))
    binary = b"\x00binary"
    server = fault_server(
        [Subscribed(*symbols), *(Raw(frame(TEXT, each)) for each in messages), Raw(frame(BINARY, binary)), Answered(),
         Send(trades(6, 0, ("../../etc/passwd", "CON", "A"))), Answered(b"last")]
    )  # fmt: skip
    outside = sorted(path for path in store.root.parent.iterdir())
    recording = session(server.url, symbols, lanes=lanes, batch_bytes=10_000)
    server.connection(0).wait_heard("pong", b"last")
    record = recording.end()
    assert (record.outcome, record.connections, record.gaps) == ("stopped", 1, ())
    assert_counts_agree(store, record)
    assert record.frames_received == len(messages) + 1 + 1 + 2 + 2
    rows = sealed_rows(store, record.session)
    assert_in_order(rows)
    found = quarantined(store, record.session)
    refused_frames = [content for kind, _, content in found if kind == "frame"]
    # Each refused frame is one of those sent, byte for byte and as often; each refused trade a part of one.
    assert not Counter(refused_frames) - Counter([*messages, binary])
    assert binary in refused_frames
    expected = Reader().read(messages, 1, 1, 0)
    assert len(rows) == len(expected.lines) + 6
    assert Counter(content for _, _, content in found) == Counter(
        [each.payload for each in expected.refused] + [binary]
    )
    assert len(expected.refused) > 100 < len(rows), (len(expected.refused), len(rows))
    assert sorted(path for path in store.root.parent.iterdir()) == outside
    known = {"archive", "locks", "quarantine", "sealed", "sessions", "spool", "validated", record.session}
    names = [path.name for path in store.root.rglob("*") if path.name not in known]
    assert all(name.startswith(record.session) or path_is_ours(name) for name in names), names


def path_is_ours(name: str) -> bool:
    return name in {"request.json", "gaps.json", "watchlist.json", "status.json", "session.json"}
