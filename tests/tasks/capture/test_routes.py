"""Which lane a symbol uses, and whose midnights end that lane's batches."""

import pytest

from tasks.capture.routes import Routes, lanes_for
from tasks.zones import UTC

NEW_YORK = "America/New_York"
MIXED = ("A", "X:A", "B", "C", "X:B", "D")


@pytest.mark.parametrize(
    ("symbols", "asked", "lanes"),
    [
        (("A",), 1, 1), (("A", "B"), 1, 1), (("X:A", "X:B"), 1, 1), (("A", "B"), 8, 2), (("A", "X:A"), 1, 2),
        (MIXED, 1, 2), (MIXED, 3, 3), (MIXED, 99, 6), (MIXED, "ticker", 6), (("A",), "ticker", 1),
    ],
)  # fmt: skip
def test_a_session_has_the_lanes_it_asks_for_and_one_for_each_kind(
    symbols: tuple[str, ...], asked: int, lanes: int
) -> None:
    """No lane is idle, and symbols that never close do not share one with others."""
    assert lanes_for("finnhub", symbols, asked) == lanes  # type: ignore[arg-type]
    routes = Routes("finnhub", symbols, lanes, NEW_YORK)
    assert {routes.lane(symbol) for symbol in symbols} == set(range(lanes))
    for symbol in symbols:
        assert routes.zones[routes.lane(symbol)] == (UTC if ":" in symbol else NEW_YORK)


def test_with_a_lane_for_each_ticker_none_is_shared() -> None:
    """With as many lanes as symbols, each symbol has its own, with the days of its kind."""
    routes = Routes("finnhub", MIXED, lanes_for("finnhub", MIXED, "ticker"), NEW_YORK)
    assert sorted(map(routes.lane, MIXED)) == list(range(6))
    assert routes.zones.count(UTC) == 2


def test_a_symbol_that_came_later_travels_with_its_kind() -> None:
    """A symbol added while the session records always uses the same lane of its kind."""
    routes = Routes("finnhub", MIXED, 4, NEW_YORK)
    for symbol in ("E", "F", "X:C", "X:D"):
        assert routes.zones[routes.lane(symbol)] == (UTC if ":" in symbol else NEW_YORK)
        assert routes.lane(symbol) == routes.lane(symbol)


@pytest.mark.parametrize(("symbols", "zone"), [(("A",), NEW_YORK), (("X:A",), UTC)])
def test_a_kind_without_a_lane_travels_with_the_others(symbols: tuple[str, ...], zone: str) -> None:
    """A session that began with one kind records the other kind too, dated as the first."""
    routes = Routes("finnhub", symbols, 1, NEW_YORK)
    assert (routes.lane("B"), routes.lane("X:B"), routes.zones) == (0, 0, (zone,))


def test_one_lane_for_both_kinds_has_the_days_of_the_exchange() -> None:
    """An old request with one lane for all symbols continues as it began."""
    routes = Routes("finnhub", MIXED, 1, NEW_YORK)
    assert ({routes.lane(symbol) for symbol in MIXED}, routes.zones) == ({0}, (NEW_YORK,))
