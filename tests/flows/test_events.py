"""What a receiver of alarms must know is an event at the server, complete, and emitted once."""

import os
import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from faults import Drop, FaultServer, Send, Subscribed
from recording import trades

from flows.events import Event, Limits, Seen, SessionEvents
from tasks.records.ledger import Gap
from tasks.records.status import Status

S = 1_000_000_000
SESSION = "20261124T143000Z-9f3c01ab"
STATUS = Status(
    session=SESSION, pid=7, state="recording", started_ns=0, deadline_ns=9_999 * S, updated_ns=100 * S,
    symbols=("A", "B"), trades=5,
)  # fmt: skip
SEEN = Seen(now_ns=100 * S, status=STATUS, hours=((0, 9_000 * S),))
LIMITS = Limits(silent_status_ns=10 * S, unconnected_ns=20 * S, nothing_ns=30 * S, quiet_ns=60 * S)


def looks(*seen: Seen) -> list[list[Event]]:
    """What each of these looks at one session finds, whose run began at 90 s."""
    events = SessionEvents(SESSION, 90 * S, LIMITS)
    return [events.look(each) for each in seen]


def at(second: int, **status: Any) -> Seen:
    """The session at that second, its status just written."""
    return replace(SEEN, now_ns=second * S, status=replace(STATUS, updated_ns=second * S, **status))


def test_new_gaps_are_one_event_and_each_is_told_once() -> None:
    """Gaps of one look are told together, with symbols, times and reason; those from before the run are not."""
    before = Gap(symbols=("A",), start_ns=1 * S, end_ns=2 * S, reason="long ago")
    one = Gap(symbols=("A",), start_ns=95 * S, end_ns=None, reason="reset by peer")
    two = Gap(symbols=("B",), start_ns=96 * S, end_ns=97 * S, reason="silent")
    first, second, third = looks(
        replace(SEEN, gaps=(before, one, two)),
        replace(SEEN, gaps=(before, replace(one, end_ns=99 * S), two)),
        replace(SEEN, gaps=(replace(one, start_ns=99 * S),)),
    )
    assert first == [
        Event(
            "tape.gap", f"tape.session.{SESSION}", "reset by peer",
            {"symbols": ["A", "B"], "symbol_count": 2, "start": "1970-01-01T00:01:35.000Z", "end": "", "gaps": 2},
        )
    ]  # fmt: skip
    assert second == []
    assert [each.name for each in third] == ["tape.gap"]


@pytest.mark.parametrize(
    ("looked", "name", "reason"),
    [
        ((SEEN, replace(SEEN, now_ns=111 * S)), "tape.stalled", "has not reported for 11s"),
        ((at(100), at(121, state="reconnecting", notice="refused")), "tape.stalled", "not connected for 21s: refused"),
        ((at(100), at(161)), "tape.stalled", "no trade for 1m1s"),
        ((at(100, trades=0), at(131, trades=0)), "tape.nothing-received", "no trade since the recording began"),
        ((replace(SEEN, free_bytes=3, reserve_bytes=2),), "tape.disk.low", "GiB free"),
        ((replace(SEEN, is_dead=True),), "tape.recorder.died", "process 7"),
    ],
)
def test_a_condition_is_told_when_it_begins_and_again_only_after_it_was_over(
    looked: tuple[Seen, ...], name: str, reason: str
) -> None:
    """Each condition is one event however long it lasts; after it was over, a new one is another."""
    over = at(170, trades=6)
    *_, told, again, fine, _, anew = looks(*looked, looked[-1], over, at(200, trades=7), *looked[-1:])
    assert [each.name for each in told] == [name]
    assert reason in told[0].reason
    assert (again, fine) == ([], [])
    assert {each.name for each in anew} <= {name}


def test_outside_market_hours_nobody_must_trade() -> None:
    """Over night, and in a lunch break, neither silence nor an empty session is an event."""
    closed = [replace(at(second, trades=0), hours=((0, 50 * S),)) for second in (100, 500, 5_000)]
    assert looks(*closed) == [[], [], []]


def told(tape: Any, name: str, resource: str = "") -> list[dict[str, Any]]:
    """The events of that name at the server, of a resource whose name begins so."""
    wanted = {"filter": {"event": {"name": [name]}, "order": "ASC"}, "limit": 50}
    found = tape.server.ask("events/filter", wanted)["events"]
    return [each for each in found if each["resource"]["prefect.resource.id"].startswith(resource)]


@pytest.mark.slow
def test_a_gap_and_a_killed_recorder_are_events_of_their_session(
    tape: Any, until: Any, fault_server: Callable[..., FaultServer]
) -> None:
    """A broken connection and a killed recorder reach the server with the run they are of; the session goes on."""
    from flows.record_session import record_session

    go_on = [Subscribed("A"), Send(trades(9, 0))]
    server = fault_server([Subscribed("A"), Send(trades(9, 0)), Drop()], *([*go_on] for _ in range(4)))

    def kill() -> None:
        until(lambda: tape.status().get("gaps", 0) > 0 and tape.status()["trades"] == 18)
        os.kill(tape.status()["pid"], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    with tape.here(TAPE_FEED_URL=server.url, TAPE_SYMBOLS="A", TAPE_MAX_EVENT_AGE="off", TAPE_MAX_EVENT_AHEAD="off"):
        ledger = record_session(end={"record_for": "10s"})
    killer.join()
    resource = f"tape.session.{ledger.record.session}"
    gaps = until(lambda: len(found := told(tape, "tape.gap", resource)) > 1 and found)
    (died,) = until(lambda: told(tape, "tape.recorder.died", resource))
    assert gaps[0]["payload"]["symbols"] == died["payload"]["symbols"] == ["A"]
    assert any("the recorder was killed" in each["payload"]["reason"] for each in gaps)
    assert died["payload"]["trades"] == 18
    assert any(each["prefect.resource.id"].startswith("prefect.flow-run.") for each in died["related"])
    assert tape.verdict().holds


@pytest.mark.slow
def test_quarantine_and_a_broken_law_are_events(tape: Any, until: Any, sealed_session: Callable[[], str]) -> None:
    """What an archiving run quarantines, and a session of which a batch was lost, are told with their counts."""
    from flows.archive_batches import archive_batches

    session = sealed_session()
    name = tape.store.sealed_batches()[0]
    for each in (name.sealed, name.seal):
        (tape.store.sealed / each).unlink()
    with tape.here(TAPE_MAX_EVENT_AGE="1s"):  # The trades of these tests are of 2023.
        archive_batches(return_state=True)
    (quarantine,) = until(lambda: told(tape, "tape.quarantine", f"tape.session.{session}"))
    (broken,) = until(lambda: told(tape, "tape.ledger.unbalanced", f"tape.session.{session}"))
    assert quarantine["payload"]["quarantined"] > 0
    assert sum(quarantine["payload"]["reasons"].values()) >= quarantine["payload"]["quarantined"]
    assert "batches sealed" in broken["payload"]["reason"]
    assert broken["payload"]["start"] < broken["payload"]["end"]


def test_an_upload_that_failed_is_an_event_without_a_secret(
    tape: Any, until: Any, sealed_session: Callable[[], str]
) -> None:
    """A bucket that does not answer is reported with what waits for it, and nothing of its key."""
    from flows.archive_batches import archive_batches

    sealed_session()
    away = {
        "TAPE_S3_BUCKET": "away-today", "TAPE_S3_ENDPOINT_URL": "http://127.0.0.1:9", "TAPE_S3_REGION": "us-east-1",
        "TAPE_S3_ACCESS_KEY_ID": "an-id", "TAPE_S3_SECRET_ACCESS_KEY": "not-to-be-told", "TAPE_UPLOAD_RETRIES": "0",
        "TAPE_MAX_EVENT_AGE": "off",
    }  # fmt: skip
    with tape.here(**away):
        archive_batches(return_state=True)
    (failed,) = until(lambda: told(tape, "tape.upload.failed", "tape.bucket.away-today"))
    assert failed["payload"]["batches"] > 0
    assert "not archived" in failed["payload"]["reason"]
    assert "not-to-be-told" not in str(failed)


def test_a_day_that_was_not_recorded_is_an_event(tape: Any, until: Any) -> None:
    """A run that comes too late for a day that nobody recorded says so of the day, with its hours."""
    import datetime as dt

    from flows.trading_day import trading_day

    with tape.here(TAPE_SYMBOLS="SPY,NVDA"):
        trading_day(date=dt.date(2024, 11, 26), return_state=True)
    (short,) = until(lambda: told(tape, "tape.day.short", "tape.day.finnhub.2024-11-26"))
    assert short["payload"]["trades"] == 0
    assert set(short["payload"]["symbols"]) == {"SPY", "NVDA"}
    assert short["payload"]["start"] == "2024-11-26T14:25:00.000Z"
