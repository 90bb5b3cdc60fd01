"""The end of a recording, as a person gives it by this machine's clock."""

import datetime as dt
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from flows.deadline import deadline_for
from flows.settings import Settings, load_settings
from tasks.errors import SettingsError
from tasks.records.trade import NS_PER_S

NEW_YORK = ZoneInfo("America/New_York")


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings of a feed on this machine."""
    monkeypatch.chdir(tmp_path)
    return load_settings(feed_url="ws://127.0.0.1:1", symbols=("AAPL",))


@pytest.fixture
def zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Puts this machine's clock into a time zone, for as long as the test lasts."""

    def put(name: str) -> None:
        monkeypatch.setenv("TZ", name)
        time.tzset()

    yield put
    monkeypatch.undo()
    time.tzset()


def instant(text: str) -> int:
    """UTC ns of an ISO time: with an offset, or of New York's clock."""
    moment = dt.datetime.fromisoformat(text)
    return int((moment if moment.tzinfo else moment.replace(tzinfo=NEW_YORK)).timestamp()) * NS_PER_S


@pytest.mark.parametrize(
    ("now", "until", "ends"),
    [
        ("2026-11-24T15:00", "16:00", "2026-11-24T16:00"),
        ("2026-11-24T15:59:59", "16:00", "2026-11-24T16:00"),
        ("2026-11-24T15:59:59", "16:00:30", "2026-11-24T16:00:30"),
        ("2026-11-24T20:00", "21:00", "2026-11-24T21:00"),
        ("2026-11-24T16:00", "16:00", "2026-11-25T16:00"),
        ("2026-11-24T16:01", "16:00", "2026-11-25T16:00"),
        ("2026-12-31T23:59", "00:00", "2027-01-01T00:00"),
        ("2026-03-07T12:00", "11:00", "2026-03-08T11:00"),
        ("2026-10-31T12:00", "11:00", "2026-11-01T11:00"),
        ("2026-11-24T15:00", "2026-11-24T22:00:00+01:00", "2026-11-24T16:00"),
        ("2026-11-24T15:00", "22:00+01:00", "2026-11-24T16:00"),
        ("2026-11-24T23:00", "00:10+14:00", "2026-11-25T05:10"),
    ],
    ids=[
        "today", "in a second", "with seconds", "when it is tomorrow in UTC", "at that very time", "tomorrow",
        "next year", "over a clock put on", "over a clock put back", "with a date and an offset", "with an offset",
        "of a day that has begun elsewhere",
    ],
)  # fmt: skip
def test_until_is_when_the_clock_of_this_machine_next_shows_that_time(
    settings: Settings, zone: Callable[[str], None], now: str, until: str, ends: str
) -> None:
    """It is today's where that is still to come, and tomorrow's else, however long that day is."""
    zone("America/New_York")
    now_ns = instant(now)
    assert deadline_for(settings, None, until, now_ns) == instant(ends)


@pytest.mark.parametrize(
    ("now", "ends"),
    [
        ("2026-11-01T00:30:00-04:00", "2026-11-01T01:30:00-04:00"),
        ("2026-11-01T01:29:59-04:00", "2026-11-01T01:30:00-04:00"),
        ("2026-11-01T01:30:00-04:00", "2026-11-01T01:30:00-05:00"),
        ("2026-11-01T01:45:00-04:00", "2026-11-01T01:30:00-05:00"),
        ("2026-11-01T01:15:00-05:00", "2026-11-01T01:30:00-05:00"),
        ("2026-11-01T01:30:00-05:00", "2026-11-02T01:30:00-05:00"),
        ("2026-10-31T02:00:00-04:00", "2026-11-01T01:30:00-04:00"),
    ],
)
def test_a_time_that_comes_twice_is_the_one_that_comes_next(
    settings: Settings, zone: Callable[[str], None], now: str, ends: str
) -> None:
    """In the hour that a clock shows twice, half past one is first that before the clocks go back, then the other."""
    zone("America/New_York")
    assert deadline_for(settings, None, "01:30", instant(now)) == instant(ends)


@pytest.mark.parametrize(
    ("now", "ends"),
    [
        ("2026-03-08T01:00:00-05:00", "2026-03-08T03:30:00-04:00"),
        ("2026-03-08T01:45:00-05:00", "2026-03-08T03:30:00-04:00"),
        ("2026-03-07T12:00:00-05:00", "2026-03-08T03:30:00-04:00"),
        ("2026-03-08T03:30:00-04:00", "2026-03-09T02:30:00-04:00"),
    ],
)
def test_a_time_that_the_clock_leaves_out_is_as_long_after_the_hour_before(
    settings: Settings, zone: Callable[[str], None], now: str, ends: str
) -> None:
    """Half past two, in the hour that is missing, comes half an hour after two o'clock would have been."""
    zone("America/New_York")
    assert deadline_for(settings, None, "02:30", instant(now)) == instant(ends)


@pytest.mark.parametrize(("name", "ends"), [("Asia/Tokyo", 7), ("UTC", 16), ("America/Los_Angeles", 24)])
def test_the_clock_is_that_of_this_machine_and_not_the_exchanges(
    settings: Settings, zone: Callable[[str], None], name: str, ends: int
) -> None:
    """Four in the afternoon is that of the machine's own zone; hours are counted from midnight UTC."""
    zone(name)
    midnight_ns = instant("2026-11-24T00:00:00+00:00")
    assert deadline_for(settings, None, "16:00", midnight_ns + 1) == midnight_ns + ends * 3600 * NS_PER_S


@pytest.mark.parametrize("until", ["25:00", "noon", "", "2026-11-24T16:00", "2026-13-01T16:00:00+00:00"])
def test_what_is_no_time_is_refused_with_one_that_is(settings: Settings, until: str) -> None:
    """The error shows how a time is written."""
    with pytest.raises(SettingsError, match=r"until: .*write "):
        deadline_for(settings, None, until, instant("2026-11-24T15:00"))


def test_a_duration_is_counted_from_now_on(settings: Settings) -> None:
    """Either a duration or a time is given, and a session may not end before it begins."""
    now_ns = instant("2026-11-24T15:00")
    assert deadline_for(settings, "5m", None, now_ns) == now_ns + 300 * NS_PER_S
    for record_for, until in ((None, None), ("5m", "16:00")):
        with pytest.raises(SettingsError, match="give either"):
            deadline_for(settings, record_for, until, now_ns)
    with pytest.raises(SettingsError, match="end before it begins"):
        deadline_for(settings, None, "2026-11-24T15:00:00-05:00", now_ns)
