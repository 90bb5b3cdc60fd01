"""Alarms reach a receiver once each, and deploying them again makes no doubles."""

import datetime as dt
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import SecretStr
from webhook import MailBox, Receiver

from flows.alerts import send
from flows.events import EVENTS
from flows.service import FOLDER
from flows.settings import load_settings
from tasks.errors import TransientError

ARCHIVE = """
from prefect import tags
from flows.archive_batches import archive_batches
with tags("tape"):
    archive_batches(return_state=True)
"""


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A receiver of webhooks of this test's own."""
    with Receiver() as it:
        yield it


@pytest.fixture
def own_server(tape: Any, tmp_path: Path) -> Iterator[None]:
    """A Prefect server of this test's own: its automations are no other test's."""
    tape.server = type(tape.server)(tmp_path / "prefect")
    tape.server.start()
    yield
    tape.server.stop()


def test_every_event_has_an_alarm() -> None:
    """The alarm listens to each event that is emitted, and to no other of ours."""
    (alarm, *_) = yaml.safe_load((FOLDER / "automations.yaml").read_text())
    assert alarm["trigger"]["expect"] == list(EVENTS)


@pytest.mark.parametrize("kind", ["http://127.0.0.1:{port}/x", "json://127.0.0.1:{port}/x"])
def test_an_alarm_needs_no_server(receiver: Receiver, kind: str) -> None:
    """Without Prefect's server an alarm is sent as well, to a plain webhook and by Apprise."""
    send(SecretStr(kind.format(port=receiver.port)), "a subject", "a body")
    assert receiver.subjects() == ["a subject"]


def test_an_alarm_goes_by_mail() -> None:
    """A mailto address gets one message, with the subject and body of the alarm."""
    with MailBox() as box:
        send(SecretStr(box.url), "a subject", "a body")
    (message,) = box.received
    body = message.get_body(("plain", "html"))
    assert body is not None
    assert (message["subject"], message["to"]) == ("a subject", "desk@example.org")
    assert "a body" in body.get_content()


def test_an_alarm_that_cannot_be_sent_says_so_without_its_address() -> None:
    """Nobody listens: the error names the setting, and shows nothing of its value."""
    for address in ("http://127.0.0.1:9/a-token", "json://127.0.0.1:9/a-token"):
        with pytest.raises(TransientError, match="TAPE_ALERT_URL") as caught:
            send(SecretStr(address), "a subject", "a body")
        assert "a-token" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.usefixtures("own_server")
def test_deployed_twice_each_alarm_is_sent_once(
    tape: Any, until: Any, receiver: Receiver, sealed_session: Callable[[], str]
) -> None:
    """`tape deploy` again makes no doubles; an event, a failed run and a silence each reach the receiver."""
    for _ in range(2):
        done = tape.run("deploy", TAPE_ALERT_URL=receiver.url)
        assert done.returncode == 0, done.stdout + done.stderr
    assert "a-secret-path" not in done.stdout + done.stderr
    listed = tape.server.ask("automations/filter", {})
    wanted = [each["name"] for each in yaml.safe_load((FOLDER / "automations.yaml").read_text())]
    assert sorted(each["name"] for each in listed) == sorted(wanted)
    assert "a-secret-path" not in str(listed) + str(tape.server.ask("block_documents/filter", {}))
    (silence,) = [each for each in listed if each["name"] == "tape: nothing runs"]
    (net,) = [each for each in tape.server.ask("deployments/filter", {}) if each["name"] == "safety-net"]

    session = sealed_session()
    name = tape.store.sealed_batches()[0]
    for each in (name.sealed, name.seal):
        (tape.store.sealed / each).unlink()
    # In a process of its own: one that has run flows keeps sending events to the server that those had.
    environment = {**tape.server.environment, "FINNHUB_API_KEY": "a-key", "TAPE_MAX_EVENT_AGE": "off"}
    subprocess.run([sys.executable, "-c", ARCHIVE], cwd=tape.folder, env=environment, timeout=120, check=True)
    subject = f"tape.ledger.unbalanced: tape.session.{session}"
    until(lambda: subject in receiver.subjects())
    until(lambda: any(each.startswith("prefect.flow-run.Failed") for each in receiver.subjects()))
    assert receiver.subjects().count(subject) == 1
    (body,) = [each["body"] for each in receiver.received if each["subject"] == subject]
    assert "batches sealed" in body
    # The switch fires where no run of the net begins in its time: here in seconds instead of three quarters of an hour.
    silence["trigger"]["within"] = 10
    tape.server.ask(
        f"automations/{silence['id']}", {key: silence[key] for key in ("name", "trigger", "actions")}, "PUT"
    )
    until(lambda: "tape: no worker runs anything" in receiver.subjects())
    # A recorder that died has the net run at once.
    begun = dt.datetime.now(dt.UTC).isoformat()
    event = {
        "event": "tape.recorder.died", "occurred": begun, "id": "0190f4a0-0000-7000-8000-000000000001",
        "resource": {"prefect.resource.id": f"tape.session.{session}"}, "payload": {"reason": "killed"},
    }  # fmt: skip
    tape.server.ask("events", [event])

    def started() -> Any:
        runs = tape.server.ask("flow_runs/filter", {"deployments": {"id": {"any_": [net["id"]]}}})
        return [each for each in runs if not each["auto_scheduled"]]

    (run,) = until(started)
    assert run["created_by"]["type"] == "AUTOMATION"


def test_without_a_receiver_nothing_is_promised(tape: Any, until: Any) -> None:
    """Where no TAPE_ALERT_URL is set, automations that only send are left out."""
    from flows import automations

    with tape.here():
        settings = load_settings()
        assert settings.alert_url is None
        sending = [each for each in automations.automations() if each["actions"][0]["type"] == "send-notification"]
        assert len(sending) >= 3
        resolved = [automations._resolved(each, None, None) for each in sending]
    assert [each["actions"] for each in resolved] == [[] for _ in sending]
