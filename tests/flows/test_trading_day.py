"""An exchange's day is recorded from its open to its close, and no other day."""

import datetime as dt
import re
import secrets
from collections.abc import Callable, Iterator
from typing import Any
from zoneinfo import ZoneInfo

import exchange_calendars as calendars
import pandas as pd
import pytest
from prefect_server import free_port

from tasks.market.hours import trading_day_for
from tasks.records.manifest import Day, read
from tasks.records.names import BatchName
from tasks.replay.generate import generate
from tasks.replay.run import serve_in_thread
from tasks.replay.server import ReplayOptions

HOLIDAY, PAST = dt.date(2024, 11, 28), dt.date(2024, 11, 27)


@pytest.fixture
def trades_on() -> Iterator[Callable[..., str]]:
    """Registers exchanges of the test's own, each of one zone and one day's hours; gives their names."""
    registered: list[str] = []

    def register(opens: dt.datetime, closes: dt.datetime, early: bool = False) -> str:
        # The library keeps a calendar that it has built, also when its name is registered anew: each gets its own name.
        called = f"TAPETEST{secrets.token_hex(4).upper()}"

        class Exchange(calendars.ExchangeCalendar):
            name = called
            tz = opens.tzinfo
            open_times = ((None, opens.time()),)
            close_times = ((None, dt.time(23, 59) if early else closes.time()),)
            weekmask = "1111111"

            @property
            def special_closes_adhoc(self) -> Any:
                return [(closes.time(), pd.DatetimeIndex([str(closes.date())]))] if early else []

        calendars.register_calendar_type(called, Exchange)
        registered.append(called)
        return called

    yield register
    for called in registered:
        calendars.deregister_calendar(called)


def elsewhere(now: dt.datetime) -> dt.datetime:
    """That time where it is another date than UTC's, and not near midnight."""
    ahead = -12 if now.hour < 11 else 14
    return now.astimezone(ZoneInfo(f"Etc/GMT{-ahead:+d}"))


def run_of(tape: Any, state: Any) -> dict[str, Any]:
    """The run that ended in that state, as the API has it."""
    (run,) = tape.server.ask(
        "flow_runs/filter", {"flow_runs": {"id": {"any_": [str(state.state_details.flow_run_id)]}}}
    )
    found: dict[str, Any] = run
    return found


def test_a_holiday_is_skipped(tape: Any) -> None:
    """A day without trading ends as Completed, named Skipped, with the calendar and the day; no session."""
    from flows.trading_day import trading_day

    with tape.here(TAPE_SYMBOLS="SPY"):
        run = run_of(tape, trading_day(date=HOLIDAY, return_state=True))
    assert run["name"] == f"XNYS {HOLIDAY}, 1 symbol"
    assert (run["state"]["type"], run["state"]["name"]) == ("COMPLETED", "Skipped")
    for part in ("does not trade", "XNYS", str(HOLIDAY)):
        assert part in run["state"]["message"]
    assert not list(tape.data.glob("sessions/*"))


def test_a_day_that_was_over_before_the_run_began_is_not_green_unless_it_was_recorded(tape: Any) -> None:
    """A run that comes too late fails where nobody recorded the day, and says so; no session is begun."""
    from flows.trading_day import trading_day

    with tape.here(TAPE_SYMBOLS="SPY"):
        run = run_of(tape, trading_day(date=PAST, return_state=True))
    assert run["state"]["type"] == "FAILED"
    assert f"{PAST} was over before this run began, and had not been recorded" in run["state"]["message"]
    assert not list(tape.data.glob("sessions/*"))


@pytest.mark.parametrize(
    ("calendar", "now", "today", "opens"),
    [
        ("XTKS", "2026-11-24T14:59:59", "2026-11-24", "2026-11-24T00:00"),
        ("XTKS", "2026-11-24T15:00:00", "2026-11-25", "2026-11-25T00:00"),
        ("XNZE", "2026-11-24T11:00:00", "2026-11-25", "2026-11-24T21:00"),
        ("XNYS", "2026-11-25T04:59:59", "2026-11-24", "2026-11-24T14:30"),
    ],
)
def test_today_is_the_exchanges_own_date(calendar: str, now: str, today: str, opens: str) -> None:
    """Where it is another date than UTC's the day is the exchange's, and so are the hours that follow from it."""
    from flows import trading_day

    day = trading_day.today(calendar, ns_of(now))
    hours = trading_day_for(day, calendar)
    assert hours is not None
    assert (str(day), hours.open_ns) == (today, ns_of(opens))


def ns_of(utc: str) -> int:
    return int(dt.datetime.fromisoformat(utc).replace(tzinfo=dt.UTC).timestamp()) * 10**9


@pytest.mark.slow
def test_a_trading_day_is_recorded_from_its_open_until_its_own_early_close(
    tape: Any, trades_on: Callable[..., str]
) -> None:
    """A scheduled run waits for the open, and records until the close of that very day, whatever date UTC has."""
    from flows.trading_day import trading_day

    begun = elsewhere(dt.datetime.now(dt.UTC).replace(microsecond=0))
    opens, closes = (begun + dt.timedelta(seconds=seconds) for seconds in (5, 11))
    calendar = trades_on(opens, closes, early=True)
    with serve_in_thread(generate(11, 60), ReplayOptions(speed=1.0)) as server:
        settings = {
            "TAPE_CALENDAR": calendar, "TAPE_OPEN_BEFORE": "1s", "TAPE_CLOSE_AFTER": "2s", "TAPE_BATCH_FOR": "1s",
            "TAPE_FEED_URL": server.url, "TAPE_MIN_COVERAGE": "0%",
        }  # fmt: skip
        with tape.here(TAPE_SYMBOLS="SPY,NVDA", **settings):
            state = trading_day(return_state=True)
            ledger = state.result()
    opens_ns, closes_ns = (int(each.timestamp()) * 10**9 for each in (opens, closes))
    assert (ledger.record.outcome, ledger.balances) == ("complete", True)
    (request,) = ledger.record.requests
    assert (request.start_ns, request.until_ns) == (opens_ns - 10**9, closes_ns + 2 * 10**9)
    assert request.hours == ((opens_ns, closes_ns),)
    assert ledger.record.started_ns >= request.start_ns
    assert ledger.record.ended_ns >= ledger.record.deadline_ns == request.until_ns
    assert ledger.trades.archived > 0
    closed = [read(path, Day) for path in tape.data.glob("days/*/*/_*.day.json")]
    assert [(day.date, day.rows) for day in closed] == [(str(begun.date()), ledger.trades.archived)]
    assert tape.verdict().holds
    run = run_of(tape, state)
    assert (run["name"], run["state"]["name"]) == (f"{calendar} {begun.date()}, 2 symbols", "Completed")
    assert {"finnhub", calendar, str(begun.date())} <= set(run["tags"])
    trades = f"{ledger.trades.archived:,} trades of 2 symbols, "
    assert run["state"]["message"].startswith(trades)
    assert run["state"]["message"].endswith("of market hours")
    # One page for the day, on the run that was scheduled, rewritten in place until it is final.
    (page,) = tape.server.ask("artifacts/filter", {"flow_runs": {"id": {"any_": [run["id"]]}}})
    assert page["key"] == f"day-finnhub-{calendar}-{begun.date()}".lower()
    assert page["updated"] > page["created"]
    assert page["data"].startswith(f"# ✅ {calendar} {begun.date()}")
    for text in (trades, "| ended, 100 % of ", "![Trades a minute", "![Lag from event", "![Timeline", "balances"):
        assert text in page["data"]


@pytest.fixture
def open_for(trades_on: Callable[..., str]) -> Callable[..., dict[str, str]]:
    """Settings of a day that began so many seconds ago and ends in so many, on an exchange of the test's own."""

    def settings(ago_s: int, ahead_s: int, url: str, **more: str) -> dict[str, str]:
        now = elsewhere(dt.datetime.now(dt.UTC).replace(microsecond=0))
        begins, ends = (now + dt.timedelta(seconds=seconds) for seconds in (-ago_s, ahead_s))
        return {
            "TAPE_CALENDAR": trades_on(begins, ends), "TAPE_FEED_URL": url, "TAPE_BATCH_FOR": "1s",
            "TAPE_OPEN_BEFORE": "0s", "TAPE_CLOSE_AFTER": "0s", "TAPE_SYMBOLS": "SPY,NVDA", **more,
        }  # fmt: skip

    return settings


@pytest.mark.slow
def test_a_day_is_recorded_archived_and_closed_without_prefect(
    tape: Any, open_for: Callable[..., dict[str, str]]
) -> None:
    """Where no API answers, as for a day that the watchdog starts then, the day is recorded, archived, and closed."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from flows.orchestrator import orchestrated, run
    from flows.trading_day import trading_day

    told: list[str] = []
    away = {PREFECT_API_URL: f"http://127.0.0.1:{free_port()}/api"}
    with (
        serve_in_thread(generate(24, 60), ReplayOptions(speed=1.0)) as server,
        tape.here(**open_for(0, 15, server.url, TAPE_MIN_COVERAGE="0%")),
        temporary_settings(away),
        orchestrated(told.append),
    ):
        ledger = run(trading_day, told.append)
    assert [line.endswith("continuing without Prefect") for line in told] == [True]
    assert (ledger.record.outcome, ledger.balances) == ("complete", True)
    assert not tape.store.sealed_batches()
    (day,) = [read(path, Day) for path in tape.data.glob("days/*/*/_*.day.json")]
    assert day.rows == ledger.trades.archived > 0
    assert tape.verdict().holds


@pytest.mark.slow
def test_what_earlier_days_left_is_archived_and_keeps_this_one_from_nothing(
    tape: Any, open_for: Callable[..., dict[str, str]], sealed_session: Callable[[], str]
) -> None:
    """Of two sessions that were left one has lost a batch: all is archived, the day is closed, then the run fails."""
    from flows.trading_day import trading_day

    lost, whole = sealed_session(), sealed_session()
    name = next(each for each in tape.store.sealed_batches() if each.session == lost)
    for each in (name.sealed, name.seal):
        (tape.store.sealed / each).unlink()
    left = set(tape.store.sealed_batches())
    with (
        serve_in_thread(generate(23, 60), ReplayOptions(speed=1.0)) as server,
        tape.here(**open_for(0, 15, server.url, TAPE_MIN_COVERAGE="0%", TAPE_MAX_EVENT_AGE="off")),
    ):
        run = run_of(tape, trading_day(return_state=True))
    archived = {BatchName.parse(path.name) for path in tape.store.manifests()}
    assert {each.session for each in left} == {lost, whole}
    assert left < archived
    (day,) = [read(path, Day) for path in tape.data.glob("days/*/*/_*.day.json")]
    assert {BatchName.parse(each.batch) for each in day.batches} >= archived - left
    assert run["state"]["type"] == "FAILED"
    assert f"{lost} does not balance" in run["state"]["message"]
    assert whole not in run["state"]["message"]


@pytest.mark.slow
def test_a_day_whose_recording_began_late_fails_with_its_coverage(
    tape: Any, open_for: Callable[..., dict[str, str]]
) -> None:
    """What of market hours was over before the recording began is missing: below the least coverage the run fails."""
    from flows.trading_day import trading_day

    with (
        serve_in_thread(generate(21, 60), ReplayOptions(speed=1.0)) as server,
        tape.here(**open_for(300, 15, server.url)),
    ):
        run = run_of(tape, trading_day(return_state=True))
    assert run["state"]["type"] == "FAILED"
    assert re.search(r"coverage of market hours is \d{1,2}\.\d%, 2 of 2 symbols are below 95%", run["state"]["message"])
    assert "began late" in run["state"]["message"]


@pytest.mark.slow
def test_a_day_without_a_trade_fails(tape: Any, open_for: Callable[..., dict[str, str]]) -> None:
    """A feed that is connected all the time and sends nothing is no recorded day."""
    from flows.trading_day import trading_day

    with (
        serve_in_thread([], ReplayOptions(speed=1.0)) as server,
        tape.here(**open_for(60, 10, server.url, TAPE_MIN_COVERAGE="0%")),
    ):
        run = run_of(tape, trading_day(return_state=True))
    assert run["state"]["type"] == "FAILED"
    assert "no trades were received" in run["state"]["message"]


@pytest.mark.slow
def test_a_day_joins_a_session_that_was_begun_by_hand_and_goes_on_to_its_own_end(
    tape: Any, until: Any, open_for: Callable[..., dict[str, str]]
) -> None:
    """A session of a few seconds, of another symbol, is on when the day begins: one recorder serves both to the end."""
    from flows.trading_day import trading_day

    with serve_in_thread(generate(22, 120), ReplayOptions(speed=1.0)) as server:
        by_hand = tape.start("record", "TSLA", "--for", "12s", "--feed-url", server.url, "--batch-for", "1s", "--json")
        until(lambda: tape.status().get("state") == "recording")
        with tape.here(**open_for(60, 20, server.url, TAPE_MIN_COVERAGE="0%")):
            ledger = trading_day()
        short = tape.printed(by_hand)
    (folder,) = tape.data.glob("sessions/*")
    assert ledger.record.session == short["session"] == folder.name
    assert (ledger.record.outcome, ledger.record.connections, ledger.balances) == ("complete", 1, True)
    hand, day = sorted(ledger.record.requests, key=lambda request: request.until_ns)
    assert (hand.symbols, day.symbols) == (("TSLA",), ("SPY", "NVDA"))
    assert ledger.record.ended_ns >= day.until_ns > hand.until_ns
    assert {"TSLA", "SPY", "NVDA"} == set(ledger.per_symbol)
    assert tape.verdict().holds
