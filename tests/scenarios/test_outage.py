"""A recording is not affected by an outage of Prefect's API."""

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tasks.replay.generate import SYMBOLS, generate
from tasks.replay.run import serve_in_thread
from tasks.replay.server import ReplayOptions


@pytest.fixture
def own_server(tape: Any, tmp_path: Path) -> Iterator[Any]:
    """This test's own Prefect server, which `tape` uses."""
    server = type(tape.server)(tmp_path / "prefect")
    tape.server = server
    server.start()
    yield server
    server.stop()


@pytest.mark.slow
def test_an_outage_of_the_api_does_not_touch_the_recording(tape: Any, until: Any, own_server: Any) -> None:
    """If the API is killed and returns mid-session, nothing is missed, and the run ends Completed and balances."""
    with serve_in_thread(generate(12, 120), ReplayOptions(speed=1.0)) as server:
        recording = tape.start(
            "record", *SYMBOLS[:6], "--for", "5m", "--feed-url", server.url, "--batch-for", "1s", "--json"
        )
        until(lambda: tape.status().get("trades", 0) > 100)
        own_server.stop()
        heard, sealed = tape.status()["trades"], tape.status()["batches_sealed"]
        until(lambda: tape.status()["trades"] > heard + 300 and tape.status()["batches_sealed"] > sealed + 1)
        assert tape.status()["state"] == "recording"
        own_server.start()
        recording.send_signal(signal.SIGINT)
        ledger = tape.printed(recording)
    assert (ledger["outcome"], ledger["balances"], ledger["gaps"]) == ("stopped", True, [])
    assert ledger["connections"] == 1
    assert tape.verdict().holds
    (run,) = own_server.ask("flow_runs/filter", {"flows": {"name": {"any_": ["record-session"]}}})
    assert run["state"]["type"] == "COMPLETED"
