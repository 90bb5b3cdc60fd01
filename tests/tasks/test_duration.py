"""Durations are parsed and formatted as a person would expect."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.duration import duration_ns, duration_or_off, format_duration
from tasks.errors import SettingsError

SECOND = 1_000_000_000


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("90s", 90 * SECOND),
        ("5m", 300 * SECOND),
        ("1h30m", 5_400 * SECOND),
        ("1h 30m", 5_400 * SECOND),
        ("250ms", SECOND // 4),
        ("2d", 172_800 * SECOND),
        ("90", 90 * SECOND),
        ("0.5", SECOND // 2),
        ("1.5h", 5_400 * SECOND),
        (" 0s ", 0),
        ("1m30.000000001s", 90 * SECOND + 1),
        ("3us7ns", 3_007),
    ],
)
def test_reads_what_people_write(text: str, ns: int) -> None:
    """A number with its unit, several of them, or a plain number of seconds is read exactly."""
    assert duration_ns(text) == ns


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "5x",
        "m",
        "-5m",
        "5m1h",
        "5m5m",
        "1e3",
        "1,5s",
        "nan",
        "inf",
        "5M",
        "٣s",
        ".5s",
        "4000d",
        "9" * 40,
        "off",
    ],
)
def test_refuses_other_text_with_examples(text: str) -> None:
    """Invalid text raises a one-line error with examples."""
    with pytest.raises(SettingsError, match=r"write 90s, 5m, 1h30m") as caught:
        duration_ns(text)
    assert "\n" not in str(caught.value)


def test_off_is_none() -> None:
    """For an optional limit, `off` means none, and the error for other text mentions it."""
    assert duration_or_off(" OFF ") is None
    assert duration_or_off("5m") == 300 * SECOND
    with pytest.raises(SettingsError, match=r"or off$"):
        duration_or_off("never")


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (0, "0s"),
        (7, "7ns"),
        (1_500, "1.5us"),
        (250_000_000, "250ms"),
        (90 * SECOND, "1m30s"),
        (5_400 * SECOND, "1h30m"),
        (86_400 * SECOND, "1d"),
        (90 * SECOND + SECOND // 4, "1m30.25s"),
        (-5 * SECOND, "-5s"),
    ],
)
def test_shows_what_people_read(ns: int, text: str) -> None:
    """A duration is formatted in the units a person would choose."""
    assert format_duration(ns) == text


@given(st.integers(min_value=0, max_value=3_650 * 86_400 * SECOND))
def test_what_is_shown_is_read_back(ns: int) -> None:
    """Formatting and parsing a duration gives the same duration."""
    assert duration_ns(format_duration(ns)) == ns
