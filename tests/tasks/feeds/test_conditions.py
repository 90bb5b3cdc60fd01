"""The condition rules of US stocks: what each code allows a trade to set."""

import pytest

from tasks.feeds.conditions import ConditionRules
from tasks.feeds.registry import FEEDS, feed_named

# By name, as the guidelines of the consolidated tapes print them: (volume, high and low, open and close) in a minute of
# regular hours.
TABLE = {
    "Regular": (True, True, True),
    "Intermarket Sweep": (True, True, True),
    "Opening Prints": (True, True, True),
    "Closing Prints": (True, True, True),
    "Cross": (True, True, True),
    "Stock Option": (True, True, True),
    "Average Price": (True, False, False),
    "Cash": (True, False, False),
    "Price Variation": (True, False, False),
    "Odd Lot": (True, False, False),
    "Next Day": (True, False, False),
    "Contingent": (True, False, False),
    "Qualified Contingent": (True, False, False),
    "Form T": (True, False, False),
    "Extended Hours (Sold Out of Sequence)": (True, False, False),
    "Bunched Sold": (True, True, False),
    "Prior Reference Price": (True, True, False),
    "Seller": (True, True, False),
    "Sold (Out of Sequence)": (True, True, False),
    "Derivatively Priced": (True, True, False),
    "Market Center Official Close": (False, False, False),
    "Market Center Official Open": (False, False, False),
    "Corrected Consolidated Close": (False, False, False),
}


@pytest.fixture
def rules() -> ConditionRules:
    """The default feed's rules."""
    found = feed_named("finnhub").condition_rules
    assert found is not None
    return found


def test_each_condition_sets_what_the_consolidated_tapes_say(rules: ConditionRules) -> None:
    """Each code alone, in a minute of regular hours; and beside Regular, since one forbidding code is enough."""
    codes = {name: code for code, name in rules.names.items()}
    for name, expected in TABLE.items():
        for given in ([codes[name]], ["1", codes[name]]):
            found = (
                rules.sets_volume(given),
                rules.sets_high_low(given, regular=True),
                rules.sets_open_close(given, regular=True),
            )
            assert found == expected, name


def test_form_t_sets_only_bars_outside_of_regular_hours(rules: ConditionRules) -> None:
    """A trade before the open sets that minute, unless another code forbids it; never one of the day."""
    for given, outside in ((["24"], True), (["1", "8", "24", "12"], False), (["24", "25"], False)):
        assert rules.sets_high_low(given, regular=False) is outside
        assert rules.sets_open_close(given, regular=False) is outside
        assert not rules.sets_high_low(given, regular=False, daily=True)


def test_a_corrected_close_belongs_to_the_day(rules: ConditionRules) -> None:
    """It sets the bar of the day, without volume, and no bar of minutes."""
    assert rules.sets_open_close(["39"], regular=True, daily=True)
    assert not rules.sets_open_close(["39"], regular=False)
    assert not rules.sets_volume(["39"])


def test_unknown_codes_count_as_volume_and_no_code_sets_everything(rules: ConditionRules) -> None:
    """A code that nobody has described never sets a price; beside a known one, the known one decides."""
    for given, prices in ((["77"], False), (["?", "x"], False), ([], True), (["1", "77"], True)):
        assert rules.sets_volume(given)
        assert rules.sets_high_low(given, regular=True) is prices
        assert rules.sets_open_close(given, regular=True) is prices


def test_every_feed_says_what_its_conditions_mean() -> None:
    """A feed has rules with a version, or none because its trades have no codes; all codes of rules have names."""
    for feed in FEEDS.values():
        assert feed.condition_rules is None or feed.condition_rules.version >= "2026"
    with pytest.raises(ValueError, match="99"):
        ConditionRules(version="1", names={"1": "Regular"}, no_volume=("99",))
