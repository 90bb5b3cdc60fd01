"""A run whose process could not report its end, because the API was away, is reported by the watchdog."""

import socket
import time
from typing import Any

import pytest
from prefect_server import free_port

from tasks.errors import TerminalError


@pytest.fixture
def api_away() -> Any:
    """In this block Prefect's API is at an address where nobody answers."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{free_port()}/api"}):
        yield


def test_the_outcome_of_a_run_is_noted(tape: Any) -> None:
    """Beside its process stands how each run ended, with its message; a flow within it has an outcome of its own."""
    from prefect import flow
    from prefect.states import Completed

    from flows.runs import independent_of_api, note_run, runs

    @flow
    @independent_of_api
    def inner(fails: bool) -> None:
        note_run(tape.store)
        if fails:
            raise TerminalError("no trades")

    @flow
    @independent_of_api
    def outer() -> Any:
        note_run(tape.store)
        inner(False)
        inner(True, return_state=True)
        assert {run.outcome for _, run in runs(tape.store)} == {None, "completed", "failed"}
        return Completed(message="12 trades of 2 symbols")

    tape.store.prepare()
    with tape.here():
        outer(return_state=True)
    found = sorted((str(run.outcome), run.message) for _, run in runs(tape.store))
    assert found == [("completed", ""), ("completed", "12 trades of 2 symbols"), ("failed", "no trades")]


def test_what_a_flow_runs_while_the_api_is_away_is_no_outcome_of_its_own(tape: Any) -> None:
    """A flow that runs as a part of another, without a run of its own, does not end the other's run."""
    from prefect import flow

    from flows.runs import independent_of_api, note_run, runs

    @independent_of_api
    def part() -> None:
        note_run(tape.store)

    @flow
    @independent_of_api
    def whole() -> None:
        part()
        (noted,) = [run for _, run in runs(tape.store)]
        assert noted.outcome is None

    tape.store.prepare()
    with tape.here():
        whole()
    assert [run.outcome for _, run in runs(tape.store)] == ["completed"]


def test_the_tags_of_a_run_are_not_those_of_its_tasks(tape: Any) -> None:
    """A run has its tags, and a task of it has none: with one, it could not begin while the API is away."""
    from prefect import flow, tags, task
    from prefect.runtime import flow_run, task_run

    from flows.runs import independent_of_api

    @task
    def tags_of_task() -> list[str]:
        return list(task_run.tags)

    @flow
    @independent_of_api
    def tagged() -> Any:
        return flow_run.tags, tags_of_task(), tags_of_task.submit().result()

    with tape.here(), tags("tape"):
        assert tagged() == (["tape"], [], [])


@pytest.mark.parametrize(
    ("outcome", "state", "said"),
    [
        (
            "completed",
            "COMPLETED",
            "12 trades (the API was away when process 999999999 ended; reported by the watchdog)",
        ),
        ("failed", "FAILED", "12 trades (the API was away when process 999999999 ended; reported by the watchdog)"),
        (None, "CRASHED", "process 999999999 on here, which executed this run, is gone; ended by the watchdog"),
    ],
)
def test_the_watchdog_ends_a_run_as_it_ended(tape: Any, outcome: Any, state: str, said: str) -> None:
    """A run that is shown as running, and whose process is gone, gets the state and message that it would have had."""
    from flows.runs import Run
    from flows.watchdog import end_gone_run

    flow = tape.server.ask("flows/", {"name": "ended"})
    run = tape.server.ask("flow_runs/", {"flow_id": flow["id"], "state": {"type": "RUNNING"}})
    with tape.here():
        assert end_gone_run(Run(run["id"], run["name"], "999999999/1/a-boot", "here", outcome, "12 trades"))
    (ended,) = tape.server.ask("flow_runs/filter", {"flow_runs": {"id": {"any_": [run["id"]]}}})
    assert (ended["state"]["type"], ended["state"]["message"]) == (state, said)


def test_a_final_page_that_was_not_sent_is_sent_by_the_watchdog(tape: Any) -> None:
    """The page of a run that ended while the API was away is kept beside its process, sent once, and then removed."""
    from flows.runs import FOLDER, LastPage, Run, page_beside
    from flows.watchdog import Watchdog
    from tasks.records.manifest import encode

    flow = tape.server.ask("flows/", {"name": "ended"})
    run = tape.server.ask("flow_runs/", {"flow_id": flow["id"], "state": {"type": "RUNNING"}})
    path = tape.store.prepare().root / FOLDER / f"{run['id']}.json"
    path.parent.mkdir()
    noted = Run(run["id"], run["name"], "999999999/1/a-boot", socket.gethostname(), "completed", "12 trades")
    path.write_bytes(encode(noted))
    page_beside(path).write_bytes(encode(LastPage(f"day-{run['id']}", "a day", "# the final page")))
    watchdog = Watchdog()
    with tape.here():
        watchdog.look(time.time_ns())
        watchdog._gone = dict.fromkeys(watchdog._gone, 0.0)
        watchdog.look(time.time_ns())
    (page,) = tape.server.ask("artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [run["id"]]}}})
    assert (page["key"], page["data"], page["description"]) == (f"day-{run['id']}", "# the final page", "a day")
    assert not list(path.parent.iterdir())


def test_the_final_page_is_kept_while_the_api_is_away(tape: Any) -> None:
    """A final page that the API did not take is left beside the run; one that it took is not."""
    from prefect.logging import disable_run_logger
    from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    from flows.run_page import RunPage
    from flows.runs import FOLDER
    from flows.settings import load_settings
    from tasks.records.ledger import Request

    flow = tape.server.ask("flows/", {"name": "paged"})
    run = tape.server.ask("flow_runs/", {"flow_id": flow["id"], "state": {"type": "RUNNING"}})["id"]
    tape.store.prepare()
    wanted = Request(id="1", owner="a run", symbols=("A",), start_ns=1, until_ns=2)
    away = {PREFECT_API_URL: f"http://127.0.0.1:{free_port()}/api", PREFECT_CLIENT_MAX_RETRIES: 0}
    with tape.here(PREFECT__FLOW_RUN_ID=run), disable_run_logger():
        page = RunPage(load_settings(), wanted, f"page-{run}", "a page")
        page.write(failed="no trades")
        assert not list((tape.data / FOLDER).glob("*.page"))
        with temporary_settings(away):
            page.write(failed="no trades")
    (kept,) = (tape.data / FOLDER).glob("*.page")
    assert kept.stem == run
    assert "no trades" in kept.read_text()


def test_a_flow_within_another_needs_no_api(tape: Any, api_away: None) -> None:
    """While the API is away the work of an inner flow is done at once, and its error is the outer flow's to handle."""
    from prefect import flow
    from prefect.logging import disable_run_logger

    from flows.orchestrator import subflow

    @flow
    def inner(fails: bool) -> str:
        if fails:
            raise TerminalError("no trades")
        return "done"

    with disable_run_logger():
        assert subflow(inner, fails=False) == "done"
        with pytest.raises(TerminalError, match="no trades"):
            subflow(inner, fails=True)


def test_a_flow_within_another_has_a_run_of_its_own(tape: Any) -> None:
    """While the API answers, an inner flow is a run that the UI shows, and its error is raised."""
    from prefect import flow
    from prefect.runtime import flow_run

    from flows.orchestrator import subflow

    @flow
    def inner(fails: bool) -> str:
        if fails:
            raise TerminalError("no trades")
        return str(flow_run.id)

    @flow
    def outer() -> tuple[str, str]:
        with pytest.raises(TerminalError, match="no trades"):
            subflow(inner, fails=True)
        return str(flow_run.id), subflow(inner, fails=False)

    with tape.here():
        mine, its = outer()
    assert mine != its
    (shown,) = tape.server.ask("flow_runs/filter", {"flow_runs": {"id": {"any_": [its]}}})
    assert shown["state"]["type"] == "COMPLETED"
