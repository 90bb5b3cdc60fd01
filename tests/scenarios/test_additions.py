"""What CONTRIBUTING says of additions is true: a feed is one class and one line, a validation rule is one line."""

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from faults import StartServer, Text
from journal_hash import journal_sha256
from recording import Recording, Until, Wait, ask, quarantined

from tasks.archive import quarantine
from tasks.compress.parquet import compress
from tasks.feeds.base import MarketHours, Reading, Rejected
from tasks.feeds.fields import Symbols, checked_number, first_line
from tasks.feeds.registry import FEEDS
from tasks.records.manifest import Report, Seal, read
from tasks.records.names import BatchName
from tasks.storage.store import Store
from tasks.validate import split as split_module
from tasks.validate.schema import Limits, Rule, rules
from tasks.validate.split import split
from tasks.verify.account import ledger_for
from tasks.verify.laws import verify

ROOT = Path(__file__).parents[2]
OFF = Limits(None, None)
NS = 1_700_000_000_000_000_000


class PipeFeed:
    """A vendor that sends one trade per message, as `T|SYMBOL|PRICE|SIZE|TIME_NS`, and sometimes `H`."""

    name = "pipe"
    url = "wss://feed.example.com"
    hosts = ("example.com",)
    key_setting = None
    acknowledges = False
    extra_columns = ()
    numbers_trades = False
    condition_rules = None
    carries = "one trade a message"

    def address(self, url: str, key: str) -> str:
        return url

    def greeting(self, key: str) -> list[str]:
        return []

    def subscribe(self, symbols: Iterable[str]) -> list[str]:
        return [json.dumps({"type": "subscribe", "symbol": symbol}) for symbol in symbols]

    def unsubscribe(self, symbols: Iterable[str]) -> list[str]:
        return [json.dumps({"type": "unsubscribe", "symbol": symbol}) for symbol in symbols]

    def parser(self, asked: Callable[[], tuple[str, ...]]) -> "PipeParser":
        return PipeParser(asked)

    def market_hours(self, symbol: str) -> MarketHours:
        return "always"


class PipeParser:
    """Reads the messages of `PipeFeed`."""

    def __init__(self, asked: Callable[[], tuple[str, ...]]) -> None:
        self._symbols = Symbols(asked)

    def read(self, texts: Sequence[bytes], connection: int, first_seq: int, ts_recv_ns: int) -> Reading:
        reading = Reading()
        for text in texts:
            if text == b"H":
                reading.control_frames += 1
                continue
            try:
                _, symbol, price, size, time_ns = text.decode().split("|")
                fields = self._symbols.checked(symbol), checked_number(price.encode(), "price"), size.encode()
                reading.lines.append(
                    b"%d,%d,%d,%d,%b,%b,%b,\n"
                    % (connection, first_seq + len(reading.lines), ts_recv_ns, int(time_ns), *fields)
                )
                reading.symbols.append(symbol)
                reading.trade_frames += 1
            except ValueError as error:
                reading.rejected.append(Rejected("frame", first_line(error), text))
        reading.block = b"".join(reading.lines)
        return reading


def test_a_feed_is_one_class_and_one_line(
    monkeypatch: pytest.MonkeyPatch, store: Store, fault_server: StartServer
) -> None:
    """A feed added to the registry is recorded, archived, and verified; its bad messages are in quarantine."""
    monkeypatch.setitem(FEEDS, "pipe", PipeFeed())
    server = fault_server([
        Until("subscribe"), Text(f"T|A|1.50|10|{NS}"), Text("H"), Text("T|A|no price|10|1"),
        Text(f"T|A|1.60|20|{NS + 1}"), Wait("unsubscribe"),
    ])  # fmt: skip
    recording = Recording(ask(store.root, server.url, feed="pipe"))
    try:
        recording.when(lambda status: status.trades == 2)
    finally:
        record = recording.end()
    assert record.feed == "pipe"
    (name,) = store.sealed_batches()
    split(store, name, OFF)
    compress(store, name)
    place = store.manifest_of(name)
    assert place is not None
    assert place.parent.parent.name == "feed=pipe"
    assert pl.read_parquet(place.with_name(name.archived))["price_text"].to_list() == ["1.50", "1.60"]
    assert [reason for _, reason, _ in quarantined(store, record.session)] == ["price is not a number"]
    assert verify(store).broken == ()
    ledger = ledger_for(store, record.session)
    assert ledger.imbalances() == []
    assert (ledger.frames.trade, ledger.frames.rejected) == (2, 1)


def test_a_rule_is_one_line(
    monkeypatch: pytest.MonkeyPatch, store: Store, sealed_batch: Callable[..., BatchName]
) -> None:
    """An added rule checks each row, its name is the quarantine reason, and the journal can still be rebuilt."""

    def with_round_lots(seal: Seal, limits: Limits) -> tuple[Rule, ...]:
        return *rules(seal, limits), Rule("round_lot", "size is a round lot", pl.col("size_number") % 100 == 0)

    monkeypatch.setattr(split_module, "rules", with_round_lots)
    name = sealed_batch([b"1,%d,%d,%d,A,1.5,%d,\n" % (n, NS, NS, size) for n, size in enumerate((100, 7, 300), 1)])
    sha256 = read(store.sealed / name.seal, Seal).sha256
    report: Report = split(store, name, OFF)
    assert (report.valid, report.quarantined, report.reasons) == (2, 1, {"round_lot": 1})
    rejected = store.quarantine / name.rejected_rows
    (frame,) = quarantine.read(rejected)
    assert frame.select("line", "reasons").rows() == [(2, "round_lot")]
    compress(store, name)
    place = store.manifest_of(name)
    assert place is not None
    assert journal_sha256(place.with_name(name.archived), rejected) == sha256


def files_named() -> Any:
    """Return every path in backticks in CONTRIBUTING's section on additions."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    section = text[text.index("## Adding things") : text.index("## Style")]
    return sorted({word for line in section.splitlines() for word in line.split("`")[1::2] if "/" in word})


@pytest.mark.parametrize("path", files_named())
def test_the_files_to_touch_exist(path: str) -> None:
    """Each file that CONTRIBUTING says to edit exists; `x` stands for a vendor's name."""
    place = ROOT / path
    assert place.exists() or (place.stem.removeprefix("test_") == "x" and place.parent.is_dir()), path
