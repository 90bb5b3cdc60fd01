"""Bars: by event time, of the exchange's days, from the prints that may set them; compared with plain Python."""

import datetime as dt
import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from conftest import archive_sealed
from real_days import DAYS, SYMBOLS, Print, gap_of

from tasks.feeds.registry import feed_named
from tasks.market.hours import market_sessions
from tasks.query.bars import DAY_NS, Bar, Wanted, bars
from tasks.query.day_view import records_touching
from tasks.query.plot import plot
from tasks.query.sources import Sources, sources_of
from tasks.storage.store import Store

MINUTE_NS = 60_000_000_000
START_NS = 1_795_530_600_000_000_000
NEW_YORK = ZoneInfo("America/New_York")
SESSIONS = partial(market_sessions, calendar="XNYS")


def wanted(*symbols: str, days: tuple[str, ...] = ("2026-11-24",), every_ns: int = MINUTE_NS, **more: Any) -> Wanted:
    return Wanted(symbols=symbols, days=days, every_ns=every_ns, zone=NEW_YORK.key, **more)


def found(store: Store, asked: Wanted) -> list[Bar]:
    records = records_touching(store, asked.days[0], asked.days[-1])
    return list(bars(sources_of(store, store.manifests(), asked.symbols), asked, SESSIONS, records).rows())


def prices(bar: Bar) -> tuple[Any, ...]:
    return bar.open, bar.high, bar.low, bar.close


def ns(text: str, zone: ZoneInfo = NEW_YORK) -> int:
    return int(dt.datetime.fromisoformat(text).replace(tzinfo=zone).timestamp()) * 1_000_000_000


@pytest.fixture
def taped(store: Store, sealed_batch: Any) -> Callable[..., Store]:
    """Archives prints of one day: `taped((time, symbol, price, size, conditions), …, feed=…, date=…) -> Store`."""

    def archive(*prints: tuple[int, str, Any, Any, str], **options: Any) -> Store:
        lines = [
            f"1,{seq},{max(START_NS, at)},{at},{symbol},{price},{size},{codes}\n".encode()
            for seq, (at, symbol, price, size, codes) in enumerate(sorted(prints, key=lambda each: each[0]), 1)
        ]
        archive_sealed(store, sealed_batch(lines, **options))
        return store

    return archive


# Small days.
def test_minute_bars_are_what_the_trades_make(archived: Store) -> None:
    """Open, high, low, close, volume, vwap, and count; a price without a trade and an empty minute make none."""
    got = found(archived, wanted("AAPL"))
    assert [(bar.start_ns, *prices(bar), bar.volume, bar.trades) for bar in got] == [
        (START_NS, 100.1, 100.3, 100.1, 100.2, 16.0, 3),
        (START_NS + MINUTE_NS, 99.9, 99.9, 99.9, 99.9, 2.5, 1),
        (START_NS + 2 * MINUTE_NS, 101.0, 101.0, 101.0, 101.0, 1.0, 1),
    ]
    assert [bar.vwap for bar in got] == [pytest.approx(each) for each in (100.16875, 99.9, 101)]
    assert [bar.end_ns - bar.start_ns for bar in got] == [MINUTE_NS] * 3


def test_a_bar_says_how_much_of_it_could_not_be_received(archived: Store) -> None:
    """Seconds in a gap, and before and after the recording; None where a session has left no record."""
    first, second, third, fourth = found(archived, wanted("AAPL", fill=True, until_ns=START_NS + 4 * MINUTE_NS))
    assert (first.gap_s, second.gap_s, third.gap_s) == (pytest.approx(2.000000002), 0, 0)
    assert fourth.gap_s == 40, "the session ended after 200 s"
    asked = wanted("AAPL")
    (bar, *_) = bars(sources_of(archived, archived.manifests()), asked, SESSIONS, None).rows()
    assert bar.gap_s is None


def test_empty_intervals_carry_the_price_on(archived: Store) -> None:
    """With `fill` every interval of the session has a bar; before the first trade it has no price."""
    got = found(archived, wanted("AAPL", "SHIB", fill=True))
    assert len(got) == 2 * 390
    apple = got[:390]
    assert [bar.start_ns for bar in apple] == [START_NS + each * MINUTE_NS for each in range(390)]
    assert {prices(bar) for bar in apple[3:]} == {(101.0, 101.0, 101.0, 101.0)}
    assert {(bar.volume, bar.vwap, bar.trades) for bar in apple[3:]} == {(0.0, None, 0)}
    assert prices(got[390]) == (None, None, None, None), "nothing of SHIB had traded yet"


def test_a_symbol_without_trades_has_no_bars(archived: Store) -> None:
    """No file is even opened for it."""
    assert sources_of(archived, archived.manifests(), ("MSFT",)) == Sources([])
    assert found(archived, wanted("MSFT")) == []


def test_prints_of_one_time_open_and_close_in_order_of_receipt(taped: Callable[..., Store]) -> None:
    """If several prints have one event time, the first received opens and the last received closes."""
    store = taped(*((START_NS, "A", price, 1, "") for price in (3, 9, 1, 5)))
    assert [prices(bar) for bar in found(store, wanted("A"))] == [(3, 9, 1, 5)]


def test_conditions_decide_what_a_print_sets(taped: Callable[..., Store]) -> None:
    """An odd lot sets no price, an official close not even volume, an unknown code volume alone; `all` counts all."""
    store = taped(
        (START_NS, "A", 10, 100, "1"), (START_NS + 1, "A", 99, 3, "1;12"), (START_NS + 2, "A", 98, 5, "16"),
        (START_NS + 3, "A", 97, 7, "77"), (START_NS + 4, "A", 12, 100, ""), (START_NS + 5, "A", 14, 100, "30"),
    )  # fmt: skip
    got = bars(sources_of(store, store.manifests()), wanted("A"), SESSIONS)
    assert got.unknown == 1
    (bar,) = got.rows()
    assert (*prices(bar), bar.volume, bar.trades) == (10, 14, 10, 12, 310, 5)
    (bar,) = found(store, wanted("A", prints="all"))
    assert (*prices(bar), bar.volume, bar.trades) == (10, 99, 10, 14, 315, 6)


def test_a_bar_without_a_print_that_sets_a_price_has_volume_alone(taped: Callable[..., Store]) -> None:
    """Odd lots alone make a minute without prices; a day takes its open and close from the best there is."""
    store = taped((START_NS, "A", 10, 3, "12"), (START_NS + MINUTE_NS, "A", 11, 100, "30"))
    odd, sold = found(store, wanted("A"))
    assert (*prices(odd), odd.volume) == (None, None, None, None, 3)
    assert prices(sold) == (None, 11, 11, None)
    (day,) = found(store, wanted("A", every_ns=DAY_NS))
    assert prices(day) == (11, 11, 11, 11), "the only print that qualifies may open and close a day"


def test_sessions_begin_their_own_intervals(taped: Callable[..., Store]) -> None:
    """An hour of regular hours begins at the open; before the open and after the close it begins with theirs."""
    times = ("08:15", "09:29", "09:30", "10:29", "10:30", "15:59", "16:00", "19:59", "20:00", "03:00")
    store = taped(*((ns(f"2026-11-24T{time}"), "A", 10, 1, "") for time in times))
    hour = wanted("A", every_ns=60 * MINUTE_NS)

    def starts(session: Any) -> list[str]:
        asked = wanted("A", every_ns=hour.every_ns, session=session)
        return [f"{dt.datetime.fromtimestamp(bar.start_ns / 1e9, NEW_YORK):%H:%M}" for bar in found(store, asked)]

    regular = ["09:30", "10:30", "15:30"]
    extended = ["08:00", "09:00", *regular, "16:00", "19:00"]
    assert starts("regular") == regular
    assert starts("extended") == extended
    assert starts("all") == ["03:00", *extended, "20:00"]


@pytest.mark.parametrize(
    ("session", "date", "volume"),
    [
        ("regular", "2026-11-24", 1 + 8), ("extended", "2026-11-24", 1 + 2 + 4 + 8), ("all", "2026-11-24", 31),
        ("regular", "2026-11-26", None), ("all", "2026-11-26", 31), ("regular", "2026-11-27", None),
        ("extended", "2026-11-27", 2 + 1 + 4),
    ],
)  # fmt: skip
def test_a_day_is_one_bar(taped: Callable[..., Store], session: Any, date: str, volume: int | None) -> None:
    """It spans the exchange's day; holidays have none in hours, and trades after an early close are not regular.

    Prints: regular at 15:00 (1), before the open (2), after the close (4), the closing auction (8), at night (16).
    """
    store = taped(
        (ns(f"{date}T03:00"), "A", 50, 16, "24"), (ns(f"{date}T08:00"), "A", 90, 2, "24"),
        (ns(f"{date}T15:00"), "A", 10, 1, "24" if date.endswith("27") else "1"),
        (ns(f"{date}T16:00:01"), "A", 12, 8, "36"), (ns(f"{date}T16:30"), "A", 95, 4, "24"), date=date,
    )  # fmt: skip
    got = found(store, wanted("A", days=(date,), every_ns=DAY_NS, session=session))
    if date == "2026-11-27":  # The auction's time is in the hours after an early close.
        volume = (volume or 0) + 8
    assert [bar.volume for bar in got] == ([] if volume is None else [volume])
    for bar in got:
        assert (bar.start_ns, bar.end_ns) == (ns(f"{date}T00:00"), ns(f"{date}T00:00") + DAY_NS)
        assert (bar.high, bar.close) == ((12, 12) if date != "2026-11-26" else (bar.high, bar.close))


def test_what_never_closes_has_days_of_utc(taped: Callable[..., Store]) -> None:
    """A crypto symbol's day is UTC's, and all of it is regular."""
    utc = ZoneInfo("UTC")
    store = taped(
        *((ns(f"2026-11-2{at}", utc), "BINANCE:BTCUSDT", 10, 1, "") for at in ("4T00:00", "4T23:59:59", "3T23:59:59")),
    )
    symbol = "BINANCE:BTCUSDT"
    (bar,) = found(store, wanted(symbol, every_ns=DAY_NS))
    assert (bar.start_ns, bar.volume) == (ns("2026-11-24T00:00", utc), 2)
    assert [bar.session for bar in found(store, wanted(symbol))] == ["regular", "regular"]


# Real days.
RULES = feed_named("finnhub").condition_rules


def by_hand(prints: Iterable[Print], every_ns: int) -> dict[tuple[str, int], list[float | None]]:
    """Consolidated bars of regular hours, in plain Python: open, high, low, close, volume, trades."""
    assert RULES is not None
    made: dict[tuple[str, int], list[float | None]] = {}
    for each in sorted(prints, key=lambda each: each.at_ns):
        opens, closes = ns(f"{each.day}T09:30"), ns(f"{each.day}T16:00")
        if not opens <= each.at_ns < closes:
            continue
        bar = made.setdefault((each.symbol, opens + (each.at_ns - opens) // every_ns * every_ns), [None] * 4 + [0, 0])
        if RULES.sets_open_close(each.codes, regular=True):
            bar[0], bar[3] = each.price if bar[0] is None else bar[0], each.price
        if RULES.sets_high_low(each.codes, regular=True):
            bar[1], bar[2] = max(bar[1] or 0, each.price), min(bar[2] or math.inf, each.price)
        if RULES.sets_volume(each.codes):
            bar[4], bar[5] = (bar[4] or 0) + each.size, (bar[5] or 0) + 1
    return made


@pytest.mark.slow
@pytest.mark.parametrize("every_ns", [MINUTE_NS, 7 * MINUTE_NS], ids=["minutes", "7 minutes"])
def test_bars_of_real_days_are_those_made_by_hand(real_days: Store, real_prints: list[Print], every_ns: int) -> None:
    """Highs, lows, volumes, and counts of every bar; opens and closes too, where one time has one price."""
    expected = by_hand(real_prints, every_ns)
    got = found(real_days, wanted(*SYMBOLS, days=DAYS, every_ns=every_ns))
    assert {(bar.symbol, bar.start_ns) for bar in got} == set(expected)
    same = 0
    for bar in got:
        by_it = expected[bar.symbol, bar.start_ns]
        assert [bar.high, bar.low, bar.volume, bar.trades] == [*by_it[1:3], *by_it[4:]]
        same += [bar.open, bar.close] == [by_it[0], by_it[3]]
    # Prints of one millisecond open and close in the order of their receipt, which the tape does not say.
    assert same > 0.9 * len(got)


@pytest.mark.slow
def test_the_gap_of_a_real_day_stands_beside_its_bars(real_days: Store) -> None:
    """The bars in a gap of five minutes say 60 s each, and their volume is none."""
    start_ns, end_ns = gap_of(DAYS[1])
    got = found(real_days, wanted("IBM", days=DAYS, fill=True))
    lost = {bar.start_ns: (bar.gap_s, bar.trades) for bar in got if bar.gap_s}
    assert lost == dict.fromkeys(range(start_ns, end_ns, MINUTE_NS), (60, 0))


@pytest.mark.slow
def test_the_day_of_a_real_stock_closes_with_the_auction(real_days: Store, real_prints: list[Print]) -> None:
    """The day has the prints of regular hours and the auction after them, and none of those after hours."""
    assert RULES is not None
    got = found(real_days, wanted("IBM", days=DAYS, every_ns=DAY_NS))
    for bar, day in zip(got, DAYS, strict=True):
        mine = [
            each for each in real_prints
            if (each.symbol, each.day) == ("IBM", day) and each.at_ns >= ns(f"{day}T09:30")
            and (each.at_ns < ns(f"{day}T16:00") or "24" not in each.codes)
        ]  # fmt: skip
        setting = [each.price for each in mine if RULES.sets_high_low(each.codes, regular=True, daily=True)]
        assert (bar.high, bar.low) == (max(setting), min(setting))
        assert {bar.close} == {each.price for each in mine if "36" in each.codes}, "a print of the closing auction"
        assert bar.volume == sum(each.size for each in mine if RULES.sets_volume(each.codes))
    assert [bar.close for bar in got] == [182.01, 178.72]


# Plots.
def bar(start_ns: int, *values: float | None) -> Bar:
    first, high, low, last = values
    return Bar("A", "regular", start_ns, start_ns + 1, first, high, low, last, 1, 1, 1, 0)


def test_a_plot_shows_rise_fall_and_range() -> None:
    """A column for each bar: a rise from open to close, a fall, a range; highest and lowest price at the side."""
    rise, fall, none = bar(0, 1, 3, 0, 2), bar(1, 3, 3, 0, 1), bar(2, None, None, None, None)
    assert plot([rise, fall, none], 40, 4, str) == ["3 +|#", "  |O#", "  |O#", "0 +||", "  ++-", "   0"]
    assert plot([none], 40, 4, str) == []


def test_a_plot_has_a_true_axis_of_time() -> None:
    """An interval without a bar stays empty, and many bars share columns without losing the highest price."""
    (line, *_) = plot([bar(0, 1, 1, 1, 1), bar(3, 1, 1, 1, 1)], 60, 10, str)
    assert line == "1 +O  O"
    many = [bar(n, 1, 100 if n == 500 else 1, 1, 1) for n in range(1_000)]
    lines = plot(many, 60, 10, str)
    assert max(map(len, lines)) <= 63
    assert lines[0].startswith("100 +")
    assert lines[0].count("|") == 1
