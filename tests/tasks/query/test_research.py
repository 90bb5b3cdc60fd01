"""The examples of docs/research.md run, and their answers are those of plain Python on two real days."""

import json
import math
import re
import shlex
import shutil
import statistics
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from conftest import ObjectStoreForTest
from real_days import DAYS, SYMBOLS, Print, gap_of, session_of
from typer.testing import CliRunner

from tape import research
from tape.cli.app import app
from tasks.errors import SettingsError, TerminalError
from tasks.feeds.registry import feed_named
from tasks.merge.day import merge
from tasks.storage.store import Store

PAGE = (Path(__file__).parents[3] / "docs" / "research.md").read_text()
RULES = feed_named("finnhub").condition_rules
NS_PER_S, MINUTE_NS = 1_000_000_000, 60_000_000_000
# 09:30 and 16:00 in New York, in ns after midnight of UTC, in summer.
OPEN_NS, CLOSE_NS, DAY_NS = 48_600 * NS_PER_S, 72_000 * NS_PER_S, 86_400 * NS_PER_S


def example(title: str, number: int = 0) -> str:
    """The code below the paragraph that begins with `title`, with the names and days of the real tapes."""
    blocks = re.findall(r"```(?:sh|python)\n(.*?)```", PAGE[PAGE.index(title) :], re.DOTALL)
    code: str = blocks[number]
    for ours, theirs in (("NVDA", "IBM"), ("AAPL", "AIG"), ("2026-11-24", DAYS[1]), ("2026-11-23", DAYS[0])):
        code = code.replace(ours, theirs)
    return code


# Whole days of the real tape are archived for these.
pytestmark = pytest.mark.slow


@pytest.fixture
def asked(real_days: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[dict[str, Any]]]:
    """Runs the SQL example below a title: `asked("**VWAP") -> rows`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TAPE_DATA_DIR", str(real_days.root))

    def run(title: str, *changed: str) -> list[dict[str, Any]]:
        words = shlex.split(example(title).replace(*changed) if changed else example(title))
        result = CliRunner().invoke(app, [*words[1:], "--json"])
        assert result.exit_code == 0, result.output
        return [json.loads(line) for line in result.stdout.splitlines()]

    return run


@pytest.fixture
def counting(real_prints: list[Print]) -> list[Print]:
    """The real trades that count as volume."""
    assert RULES is not None
    return [each for each in real_prints if RULES.sets_volume(each.codes)]


def of_day(prints: list[Print], day: str = DAYS[1]) -> list[Print]:
    return [each for each in prints if each.day == day]


def test_realized_volatility(real_days: Store, real_prints: list[Print], monkeypatch: pytest.MonkeyPatch) -> None:
    """The root of the sum of squared returns between the last prices of five minutes."""
    assert RULES is not None
    monkeypatch.setenv("TAPE_DATA_DIR", str(real_days.root))
    last: dict[int, set[float]] = {}
    times: dict[int, int] = {}
    for each in of_day(real_prints):
        at_ns = each.at_ns % DAY_NS
        if each.symbol == "IBM" and OPEN_NS <= at_ns < CLOSE_NS and RULES.sets_open_close(each.codes, regular=True):
            bar = (at_ns - OPEN_NS) // (5 * MINUTE_NS)
            if at_ns > times.get(bar, 0):
                last[bar] = set()
            times[bar] = at_ns
            last[bar].add(each.price)
    closes = research.bars("IBM", DAYS[1], "5m")["close"].to_list()
    # Of prints in one millisecond, the order of receipt decides, which the tape does not say.
    assert all(close in last[bar] for bar, close in zip(sorted(last), closes, strict=True))
    returns = [math.log(after / before) for before, after in pairwise(closes)]
    names = {"bars": research.bars}
    found = eval(example("**Realized volatility"), names)
    assert found == pytest.approx(math.sqrt(sum(each**2 for each in returns)))
    assert 0.005 < found < 0.05


def test_vwap_of_half_an_hour(asked: Any, counting: list[Print]) -> None:
    """10:00 to 10:30 in New York."""
    start_ns = OPEN_NS + 30 * MINUTE_NS
    mine = [
        each for each in of_day(counting)
        if each.symbol == "IBM" and start_ns <= each.at_ns % DAY_NS < start_ns + 30 * MINUTE_NS
    ]  # fmt: skip
    expected = math.fsum(each.price * each.size for each in mine) / math.fsum(each.size for each in mine)
    assert asked("**VWAP") == [{"vwap": pytest.approx(expected)}]


def test_largest_prints(asked: Any, counting: list[Print]) -> None:
    """The five largest trades of the day, official closes left out."""
    expected = sorted(of_day(counting), key=lambda each: (-each.size, each.at_ns))[:5]
    found = asked("**The largest prints")
    assert [(row["symbol"], row["price"], row["size"]) for row in found] == [
        (each.symbol, each.price, each.size) for each in expected
    ]


def test_latency(asked: Any, real_prints: list[Print]) -> None:
    """The quantiles of receive time minus event time of each symbol."""
    for row in asked("**How late"):
        lags = [each.lag_ms for each in real_prints if each.symbol == row["symbol"]]
        cuts = statistics.quantiles(lags, n=100, method="inclusive")
        assert row["lag_ms"] == [pytest.approx(cuts[each - 1]) for each in (50, 90, 99)]


@pytest.mark.parametrize("below", [100, 300])
def test_odd_lots(asked: Any, counting: list[Print], below: int) -> None:
    """The share of trades and of shares in prints of fewer than a hundred; as 2013 has none, also of 300."""
    found = asked("**The share of odd lots", "< 100", f"< {below}")
    assert [row["symbol"] for row in found] == list(SYMBOLS)
    for row in found:
        mine = [each for each in counting if each.symbol == row["symbol"] and OPEN_NS <= each.at_ns % DAY_NS < CLOSE_NS]
        odd = [each for each in mine if each.size < below]
        assert row["of_trades"] == pytest.approx(len(odd) / len(mine))
        assert row["of_volume"] == pytest.approx(sum(each.size for each in odd) / sum(each.size for each in mine))
        assert (row["of_trades"] > 0.1) == (below == 300)


def test_around_a_gap(asked: Any, real_prints: list[Print]) -> None:
    """What was received last before the gap and first after it."""
    found = asked("**Around a gap")
    assert [row["symbol"] for row in found] == list(SYMBOLS)
    start_ns, end_ns = gap_of(DAYS[1])
    for row in found:
        received = [
            each.at_ns + int(each.lag_ms) * 10**6 for each in of_day(real_prints) if each.symbol == row["symbol"]
        ]
        before, after = (
            max(each for each in received if each < start_ns),
            min(each for each in received if each >= end_ns),
        )
        times = [pl.Series([row[name]]).str.to_datetime(time_unit="ns")[0] for name in ("last_before", "first_after")]
        assert times == [pl.Series([each]).cast(pl.Datetime("ns"))[0] for each in (before, after)]
        assert abs(row["moved"]) < 1


def test_two_sessions(asked: Any, counting: list[Print], real_prints: list[Print]) -> None:
    """Trades, volume, and lag of each session."""
    volume = defaultdict[str, float](float)
    for each in counting:
        volume[each.day] += each.size
    assert asked("**Two sessions") == [
        {
            "session": session_of(day), "trades": len(of_day(real_prints, day)), "volume": volume[day],
            "lag_ms": statistics.median(each.lag_ms for each in of_day(real_prints, day)),
        }
        for day in DAYS
    ]  # fmt: skip


def test_coverage_by_symbol(asked: Any) -> None:
    """Five of 390 minutes were lost in a gap."""
    expected = [
        {"symbol": symbol, "received": pytest.approx(385 / 390), "gap_s": 300, "rest_s": 0} for symbol in SYMBOLS
    ]
    assert asked("**Coverage by symbol") == expected


def test_the_door_for_python(real_days: Store, real_prints: list[Print], monkeypatch: pytest.MonkeyPatch) -> None:
    """Trades, bars, gaps, and coverage as frames, in the exchange's time or another."""
    monkeypatch.setenv("TAPE_DATA_DIR", str(real_days.root))
    names: dict[str, Any] = {}
    exec(example("## In Python"), names)
    trades = names["trades"].collect()
    mine = [each for each in of_day(real_prints) if each.symbol == "IBM"]
    assert trades["ts_event"].dtype == pl.Datetime("ns", "America/New_York")
    assert sorted(trades["price"]) == sorted(each.price for each in mine)
    assert set(names["minutes"]["session"]) == {"pre", "regular", "post"}
    assert names["lost"]["reason"].to_list() == ["the connection was lost"] * 2
    assert names["by_minute"]["minute"].dtype == pl.Datetime("ns", "UTC")
    assert names["by_minute"]["minute"].len() == 390
    with pytest.raises(TerminalError, match=r"did you mean IBM\?"):
        research.load("IBMM", DAYS[1])
    with pytest.raises(SettingsError, match="is none of"):
        research.bars("IBM", DAYS[1], session="night")  # type: ignore[arg-type]


# Without our code.
@pytest.mark.parametrize("number", range(3), ids=["polars", "duckdb", "pandas"])
def test_any_reader_reads_the_files(
    real_days: Store, real_prints: list[Print], monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Each example gives what the tape has."""
    monkeypatch.chdir(real_days.root.parent)
    link = real_days.root.parent / "data"
    if not link.exists():
        link.symlink_to(real_days.root)
    found = last_value(example("## Without our code", number))
    if number == 0:
        assert found.height == sum(each.symbol == "IBM" for each in real_prints)
        assert found["size"].sum() == sum(each.size for each in real_prints if each.symbol == "IBM")
    elif number == 1:
        assert found["high"].to_list() == [
            max(each.price for each in real_prints if each.symbol == symbol) for symbol in SYMBOLS
        ]
    else:
        assert found.to_dict() == {
            symbol: sum(each.size for each in of_day(real_prints) if each.symbol == symbol) for symbol in SYMBOLS
        }


@pytest.fixture(scope="session")
def closed_days(real_days: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which `data` has the real days, closed."""
    folder = tmp_path_factory.mktemp("closed")
    shutil.copytree(real_days.root, folder / "data")
    for day in DAYS:
        assert merge(Store(folder / "data"), "finnhub", day)
    return folder


def test_half_an_hour(closed_days: Path, real_prints: list[Print], monkeypatch: pytest.MonkeyPatch) -> None:
    """Any reader finds the trades of a symbol and half an hour in a closed day."""
    monkeypatch.chdir(closed_days)
    start_ns = 15 * 60 * MINUTE_NS
    mine = [
        each for each in of_day(real_prints)
        if each.symbol == "IBM" and start_ns <= each.at_ns % DAY_NS < start_ns + 30 * MINUTE_NS
    ]  # fmt: skip
    found = last_value(example("**One symbol's half hour"))
    assert len(mine) > 100
    assert sorted(found.select("price", "size").iter_rows()) == sorted((each.price, each.size) for each in mine)


def test_as_of_join(closed_days: Path, real_prints: list[Print], monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside each trade stands a price that the other symbol had last, as a walk through the tape finds it."""
    monkeypatch.chdir(closed_days)
    found = last_value(example("**An as-of join"))
    # Of prints in one millisecond, the order of receipt decides, which the tape does not say.
    at_last: dict[int, set[float]] = defaultdict(set)
    for each in real_prints:
        if each.symbol == "AIG":
            at_last[each.at_ns].add(each.price)
    times = sorted(at_last)
    assert found.height == sum(each.symbol == "IBM" for each in real_prints)
    for at, price in found.select(pl.col("ts_event").to_physical(), "price_of_other").iter_rows():
        before = bisect_right(times, at)
        assert price in at_last[times[before - 1]] if before else price is None


def test_a_scan_of_all_days(closed_days: Path, real_prints: list[Print], monkeypatch: pytest.MonkeyPatch) -> None:
    """The average price of each day, of all prints."""
    monkeypatch.chdir(closed_days)
    found = last_value(example("**A year's scan"))
    expected = []
    for day in DAYS:
        mine = [each for each in of_day(real_prints, day) if each.symbol == "IBM"]
        expected.append(math.fsum(each.price * each.size for each in mine) / math.fsum(each.size for each in mine))
    assert [str(day) for day in found["date"]] == list(DAYS)
    assert found["vwap"].to_list() == pytest.approx(expected)


@pytest.mark.parametrize("number", [6, 7], ids=["polars", "pandas"])
def test_any_reader_reads_the_bucket(
    real_days: Store, real_prints: list[Print], object_store: ObjectStoreForTest, number: int
) -> None:
    """The same from a real object store."""
    server = object_store.server
    for path in sorted(real_days.archive.rglob("*.parquet")):
        key = f"trades/{path.relative_to(real_days.archive)}"
        server.client().put_object(Bucket=object_store.bucket, Key=key, Body=path.read_bytes())
    code = example("## Without our code", number)
    for name, value in (
        ("BUCKET", object_store.bucket), ("ENDPOINT", server.endpoint_url), ('"ID"', f'"{server.access_key_id}"'),
        ("SECRET", server.secret_access_key),
    ):  # fmt: skip
        code = code.replace(name, value)
    found = last_value(code)
    expected = real_prints if number == 6 else of_day(real_prints)
    assert (found["len"].sum() if number == 6 else len(found)) == len(expected)


def last_value(code: str) -> Any:
    """Run a program whose last line is an expression; give its value."""
    import ast

    tree, names = ast.parse(code), dict[str, Any]()
    last = tree.body.pop()
    assert isinstance(last, ast.Expr)
    exec(compile(tree, "example", "exec"), names)
    return eval(compile(ast.Expression(last.value), "example", "eval"), names)
