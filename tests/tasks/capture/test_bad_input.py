"""Invalid input is counted, kept as received, and harms nothing."""

import json
import random
from collections import Counter
from decimal import Decimal
from typing import Any

import pytest
from faults import (
    BINARY,
    TEXT,
    Raw,
    Send,
    StartServer,
    Subscribed,
)
from recording import (
    Answered,
    StartSession,
    assert_counts_agree,
    assert_in_order,
    frame,
    quarantined,
    sealed_rows,
    trades,
)

from tasks.storage.store import Store
from tasks.validate.schema import Limits
from tasks.validate.split import split
from tasks.verify.account import ledger_for

HOSTILE = ("../../etc/passwd", "..", "/", "CON", "nul\x00", "a,b", "x" * 10_000, "𝔄", "", "A\nB", '"', "-rf")


def fuzzed(seed: int) -> list[bytes]:
    """Return invalid messages, generated from a seed."""
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
        if roll.random() < 0.05:
            fields['"c"'] = roll.choice(['["1,2"]', '["1;2"]', '[""]', '["1\\n"]'])
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
            return roll.choice(
                [
                    b'{"type":"ping"}',
                    b'{"type":"error","msg":"x"}',
                    b'{"type":"\xff\xfe"}',
                    b'{"type":"ping","x":"\xff"}',
                    b"",
                    b"{}",
                ]
            )
        return b'{"type":"trade","data":' + roll.choice([b"[[[]]]", b"{}", b"1", b'"' + b"x" * 300_000 + b'"']) + b"}"

    return [one() for _ in range(300)]


@pytest.mark.parametrize("lanes", [1, 2])
def test_bad_input_is_counted_and_quarantined_as_received(
    store: Store, fault_server: StartServer, session: StartSession, lanes: int
) -> None:
    """Huge, deep, invalid, non-UTF-8, and hostile messages are all accounted for, and no file is out of place."""
    messages = fuzzed(seed=lanes)
    symbols = ("A", *(symbol for symbol in HOSTILE if symbol))
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
    refused_trades = [content.decode() for kind, _, content in found if kind == "trade"]
    assert Counter(refused_frames) == Counter([each for each in messages if not is_readable(each)] + [binary])
    said = [trade for each in messages if is_readable(each) for trade in trades_in(each)]
    assert Counter(map(as_text, refused_trades)) == Counter(as_text(each) for each in said if not is_a_row(each))
    symbols_of_rows = [each["s"] for each in said if is_a_row(each)] + ["../../etc/passwd", "CON", "A"] * 2
    assert [row.trade.symbol for row in rows] == symbols_of_rows
    assert len(found) > 100 < len(rows), (len(found), len(rows))
    # What is a number but no time, such as one of 400 digits, is a row that the next stage turns down.
    for name in store.sealed_batches():
        split(store, name, Limits(None, None))
    ledger = ledger_for(store, record.session)
    assert [law for law in ledger.laws()[:4] if law[1] != law[3]] == []
    assert ledger.trades.quarantined > 0
    assert sorted(path for path in store.root.parent.iterdir()) == outside
    known = {"archive", "locks", "quarantine", "sealed", "sessions", "spool", "validated", "requests", record.session}
    names = [path.name for path in store.root.rglob("*") if path.name not in known]
    assert all(name.startswith(record.session) or path_is_ours(name) for name in names), names


def as_text(trade: Any) -> str:
    """A trade, sent or kept, in one form; numbers as they were written."""
    return json.dumps(read_json(trade) if isinstance(trade, str) else trade, sort_keys=True, default=str)


def read_json(text: str) -> Any:
    """Parse with the standard library, accepting only JSON's own numbers."""

    def no_number(name: str) -> Any:
        raise ValueError(name)

    return json.loads(text, parse_float=Decimal, parse_constant=no_number)


def is_readable(message: bytes) -> bool:
    """Return whether it is a message of the vendor's: a ping, an error, or a list of trades."""
    try:
        said = read_json(message.decode())
    except (ValueError, RecursionError):
        return False
    kind = said.get("type") if isinstance(said, dict) else None
    return kind in ("ping", "error") or (kind == "trade" and isinstance(said.get("data"), list))


def trades_in(message: bytes) -> list[Any]:
    data = read_json(message.decode()).get("data", [])
    assert isinstance(data, list)
    return data


def is_a_row(trade: Any) -> bool:
    """Return whether a trade has all that a row needs; odd conditions do not matter."""
    if not isinstance(trade, dict):
        return False
    symbol, at_ms = trade.get("s"), trade.get("t")
    return (
        isinstance(symbol, str)
        and 0 < len(symbol) <= 256
        and not set(symbol) & {",", '"', "\n", "\x00"}
        and type(at_ms) is int
        and all(type(trade.get(name)) in (int, Decimal) for name in "pv")
    )


def path_is_ours(name: str) -> bool:
    return name in {"request.json", "gaps.log", "watchlist.json", "status.json", "session.json", ".lock", "closed"}
