"""What a killed run left is finished, and a run that lost something fails, in Prefect and for a shell."""

import json
import os
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest

from tasks.records.names import BatchName
from tasks.replay.generate import generate
from tasks.replay.run import serve_in_thread
from tasks.replay.server import ReplayOptions
from tasks.storage.locks import SESSION_LOCK, acquire
from tasks.storage.store import Store
from tasks.validate.schema import Limits
from tasks.validate.split import split

LINES = [b"1,%d,%d,%d,SPY,1.50,1,1\n" % (n, n * 10, n * 10) for n in range(1, 21)]


@pytest.mark.slow
@pytest.mark.parametrize("left", ["validated", "both", "archived"])
def test_what_a_killed_run_left_between_validation_and_archive_is_taken_up(
    tape: Any, store: Store, sealed_batch: Callable[..., BatchName], left: str
) -> None:
    """A batch that was validated and no more, or whose remains still lie there, is archived by the next run."""
    name = sealed_batch(LINES)
    sealed = {path.name: path.read_bytes() for path in store.sealed.iterdir()}
    split(store, name, Limits(None, None))
    if left == "archived":  # Killed within the removal: the rows are gone, the report still lies there.
        from tasks.compress.parquet import compress

        report = (store.validated / name.report).read_bytes()
        compress(store, name)
        (store.validated / name.report).write_bytes(report)
    elif left == "both":  # Killed before the sealed batch was removed.
        for file, content in sealed.items():
            (store.sealed / file).write_bytes(content)
    done = tape.run("archive", TAPE_MAX_EVENT_AGE="off")
    assert done.returncode == 0, done.stderr
    assert store.manifest_of(name) is not None
    assert not store.sealed_batches()
    assert not store.validated_batches()
    assert not list(store.validated.iterdir())
    again = tape.run("archive")
    assert (again.returncode, "nothing to archive" in again.stdout) == (0, True)


@pytest.mark.slow
def test_a_session_whose_accounts_do_not_balance_fails(tape: Any, until: Any) -> None:
    """A batch that vanishes while the session records fails the run, which names the law; so does the exit status."""
    with serve_in_thread(generate(41, 120), ReplayOptions(speed=1.0)) as server:
        recording = tape.start(
            "record", "SPY", "NVDA", "--for", "5m", "--feed-url", server.url, "--batch-for", "500ms", "--json"
        )
        path = until(lambda: next(iter(tape.store.manifests()), None))
        name = BatchName.parse(path.name)
        until(lambda: not (tape.store.validated / name.report).exists())
        for each in path.parent.glob(f"*{name}*"):
            each.unlink()
        recording.send_signal(signal.SIGINT)
        out, err = recording.communicate(timeout=90)
    assert recording.returncode == 1, err[-3000:]
    ledger = json.loads(out)
    assert (ledger["outcome"], ledger["balances"]) == ("stopped", False)
    assert any("frames at the socket" in each for each in ledger["imbalances"])
    said = [line for line in err.splitlines() if line.startswith("tape:")][-1]
    assert f"{ledger['session']} does not balance: frames at the socket" in said
    assert "Finished in state Failed" in err


@pytest.mark.slow
def test_a_session_that_was_killed_and_could_not_go_on_fails(tape: Any, until: Any) -> None:
    """A recorder that is stopped until its time is over and then killed leaves a killed session: the run fails."""
    with serve_in_thread(generate(42, 120), ReplayOptions(speed=1.0)) as server:
        recording = tape.start("record", "SPY", "--for", "6s", "--feed-url", server.url, "--json")
        until(lambda: tape.status().get("trades", 0) > 3)
        status = tape.status()
        os.kill(status["pid"], signal.SIGSTOP)
        until(lambda: time.time_ns() > status["deadline_ns"])
        os.kill(status["pid"], signal.SIGKILL)
        out, err = recording.communicate(timeout=90)
    assert recording.returncode == 1, err[-3000:]
    ledger = json.loads(out)
    assert (ledger["outcome"], ledger["balances"]) == ("killed", True)
    assert ledger["trades"]["archived"] > 0
    assert f"{ledger['session']}: killed: the recorder was killed" in err.splitlines()[-1]
    assert "Finished in state Failed" in err


def test_archiving_a_session_that_does_not_balance_is_no_success(tape: Any, sealed_session: Callable[[], str]) -> None:
    """Of two sessions one has lost a batch: all that is left of both is archived, then the run fails, and names it."""
    from flows.archive_batches import archive_batches

    lost, whole = sealed_session(), sealed_session()
    name = next(each for each in tape.store.sealed_batches() if each.session == lost)
    for each in (name.sealed, name.seal):
        (tape.store.sealed / each).unlink()
    left = tape.store.sealed_batches()
    assert {each.session for each in left} == {lost, whole}
    with tape.here(TAPE_MAX_EVENT_AGE="off", TAPE_MAX_EVENT_AHEAD="off"):
        state = archive_batches(return_state=True)
    wanted = {"flow_runs": {"id": {"any_": [str(state.state_details.flow_run_id)]}}}
    (run,) = tape.server.ask("flow_runs/filter", wanted)
    assert run["state"]["type"] == "FAILED"
    assert f"{lost} does not balance: frames at the socket" in run["state"]["message"]
    assert whole not in run["state"]["message"]
    assert sorted(BatchName.parse(path.name) for path in tape.store.manifests()) == left
    failure = state.result(raise_on_failure=False)
    assert {each.record.session: each.balances for each in failure.ledgers} == {lost: False, whole: True}


def test_a_session_that_others_are_at_work_on_is_not_judged(tape: Any, sealed_session: Callable[[], str]) -> None:
    """While a recorder holds a session its counts are on the way: a run beside it archives, and fails for nothing."""
    from flows.archive_batches import archive_batches

    session = sealed_session()
    name = tape.store.sealed_batches()[0]
    for each in (name.sealed, name.seal):
        (tape.store.sealed / each).unlink()
    lock = acquire(tape.store.sessions / session / SESSION_LOCK)
    assert lock is not None
    with tape.here(TAPE_MAX_EVENT_AGE="off", TAPE_MAX_EVENT_AHEAD="off"):
        (ledger,) = archive_batches()
    lock.release()
    assert (ledger.balances, ledger.batches.waiting) == (False, 0)


@pytest.mark.slow
def test_the_command_says_which_session_does_not_balance(tape: Any, sealed_session: Callable[[], str]) -> None:
    """`tape archive` prints its ledgers all the same, exits 1, and says why in one line."""
    lost = sealed_session()
    name = tape.store.sealed_batches()[0]
    for each in (name.sealed, name.seal):
        (tape.store.sealed / each).unlink()
    done = tape.run("archive", "--json", TAPE_MAX_EVENT_AGE="off", TAPE_MAX_EVENT_AHEAD="off")
    assert done.returncode == 1, done.stderr
    (ledger,) = json.loads(done.stdout)["sessions"]
    assert any("batches sealed" in each for each in ledger["imbalances"])
    assert done.stderr.splitlines()[-1].startswith(f"tape: {lost} does not balance: frames at the socket")
    assert "Traceback" not in done.stderr
