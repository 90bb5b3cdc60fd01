"""What a trade sets in a bar, as SQL: the condition rules of each feed.

`CODES` and the columns it reads are those of the view `trades`; see `views.py`.
"""

from collections.abc import Callable, Iterable
from typing import Literal

from tasks.feeds.conditions import ConditionRules
from tasks.feeds.registry import FEEDS

Part = Literal["volume", "high_low", "open_close"]
_Rule = Callable[[ConditionRules], str]


def quoted(text: str) -> str:
    """Return a text as an SQL literal."""
    return "'" + text.replace("'", "''") + "'"


def listed(texts: Iterable[object]) -> str:
    """Return texts as SQL literals, separated by commas."""
    return ", ".join(quoted(str(text)) for text in texts)


def sets(part: Part, codes: str, *, daily: bool = False) -> str:
    """Return SQL for whether a trade sets that part of a bar of its own market session, or of its day.

    `codes` is SQL for the list of its condition codes.
    """
    return _by_feed(lambda rules: _sets(rules, part, codes, daily))


def is_unknown(codes: str) -> str:
    """Return SQL for whether a trade has codes, none of which its feed's rules know: it counts as volume only."""
    return f"NOT ({_by_feed(lambda rules: _is_known(rules, codes))})"


def is_of_the_day(codes: str) -> str:
    """Return SQL for whether a trade outside of regular hours belongs to the regular day, by its own codes.

    The closing auction is reported right after the close, without a code of extended hours.
    """
    is_official = _by_feed(lambda rules: f"{_has(codes, rules.names)} AND NOT {_has(codes, rules.extended)}", "false")
    return f"({is_official})"


def _by_feed(sql: _Rule, otherwise: str = "true") -> str:
    cases = [
        f"WHEN {quoted(name)} THEN {sql(feed.condition_rules)}"
        for name, feed in FEEDS.items()
        if feed.condition_rules is not None
    ]
    return f"CASE feed {' '.join(cases)} ELSE {otherwise} END" if cases else otherwise


def _is_known(rules: ConditionRules, codes: str) -> str:
    return f"(len({codes}) = 0 OR {_has(codes, rules.names)})"


def _sets(rules: ConditionRules, part: Part, codes: str, daily: bool) -> str:
    if part == "volume":
        return f"NOT {_has(codes, rules.no_volume)}"
    forbidden = rules.no_high_low if part == "high_low" else rules.no_open_close
    outside = _has(codes, rules.extended)
    intraday = f"({_has(codes, rules.daily_only)} OR (market_session = 'regular' AND {outside}))"
    also = outside if daily else intraday
    return f"{_is_known(rules, codes)} AND NOT {_has(codes, forbidden)} AND NOT {also}"


def _has(codes: str, any_of: Iterable[str]) -> str:
    wanted = listed(any_of)
    return f"list_has_any({codes}, [{wanted}])" if wanted else "false"
