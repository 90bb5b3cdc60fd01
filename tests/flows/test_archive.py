"""Archiving finishes whatever was left, once, whatever stood in its way."""

import hashlib
import json
import shutil
import signal
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from faults import FaultServer, Send, Subscribed
from recording import Answered, Recording, ask

from flows.bucket import bucket_of
from flows.settings import load_settings
from tasks.merge.day import merge
from tasks.records.ledger import Gap, Ledger, SessionRecord
from tasks.records.manifest import encode, read
from tasks.records.trade import Trade
from tasks.replay.generate import generate
from tasks.replay.run import serve_in_thread
from tasks.replay.server import ReplayOptions
from tasks.storage.store import Store, write_whole
from tasks.upload.audit import audit
from tasks.upload.restore import restore
from tasks.verify.laws import verify


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port of loopback on which nobody answers, kept from others for the test."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


@pytest.fixture(scope="module")
def session_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with a session of some 16 batches in four lanes, sealed and not archived."""
    folder, now_ns = tmp_path_factory.mktemp("recorded"), time.time_ns()
    symbols = ("SPY", "NVDA", "AAPL", "MSFT", "COINBASE:BTC-USD")
    given = [Trade(now_ns + n, symbols[n % 5], f"{n}.5", str(n + 1), ("1",) if n % 5 < 4 else ()) for n in range(600)]
    messages = (step for n in range(0, 600, 20) for step in (Send(given[n : n + 20]), Answered()))
    with FaultServer([Subscribed(*symbols), *messages]) as server:
        recording = Recording(ask(Store(folder).prepare().root, server.url, symbols, lanes=4, batch_bytes=1_500))
        recording.when(lambda status: status.trades == len(given))
        recording.end()
    assert len(Store(folder).sealed_batches()) > 10
    return folder


@pytest.fixture
def recorded(tape: Any, session_folder: Path) -> None:
    """That session in the test's own data folder."""
    shutil.copytree(session_folder, tape.data)


def hashes(tape: Any) -> dict[str, str]:
    """The SHA-256 of every file of archive and quarantine."""
    folders = (tape.store.archive, tape.store.quarantine)
    paths = sorted(path for folder in folders for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(tape.data)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


@pytest.mark.slow
def test_two_at_once_archive_everything_once_and_again_changes_nothing(tape: Any, recorded: None) -> None:
    """Two `tape archive` on one folder: none fails, every batch is archived once; a third run leaves every byte."""
    names = tape.store.sealed_batches()
    both = [tape.start("archive", "--json") for _ in range(2)]
    printed = [tape.printed(process) for process in both]
    sessions = [ledger for each in printed for ledger in each["sessions"]]
    assert sessions
    assert all(ledger["balances"] for ledger in sessions)
    assert len(tape.store.manifests()) == len(names)
    assert not tape.store.sealed_batches()
    assert not tape.store.validated_batches()
    assert tape.verdict().holds
    before = hashes(tape)
    assert archived_here(tape) == []
    assert hashes(tape) == before


def archived_here(tape: Any, **settings: str) -> list[Ledger]:
    """What `tape archive` runs, in this process: the ledgers that it gives."""
    from flows.archive_batches import archive_batches

    with tape.here(**settings):
        return archive_batches()


def test_what_a_run_shows_can_be_read_in_the_api(tape: Any, recorded: None) -> None:
    """A run that archives shows one artifact, with a row for each session; no batch has a card of its own."""
    path = next(tape.data.glob("sessions/*/session.json"))
    record = read(path, SessionRecord)
    gap = Gap(symbols=("SPY",), start_ns=record.started_ns, end_ns=record.started_ns + 10**9, reason="a test's own")
    write_whole(path, encode(replace(record, gaps=(gap,))))
    with tape.here():
        from flows.archive_batches import archive_batches

        state = archive_batches(return_state=True)
    (ledger,) = state.result()
    of_run = {"flow_runs": {"id": {"any_": [str(state.state_details.flow_run_id)]}}}
    (shown,) = tape.server.ask("artifacts/filter", of_run)
    assert (shown["key"], shown["type"]) == ("archived-sessions", "table")
    (row,) = json.loads(shown["data"])
    assert (row["session"], row["balances"], row["gaps"]) == (ledger.record.session, True, 1)
    assert (row["trades"], row["batches"], row["waiting"]) == (ledger.trades.archived, ledger.batches.archived, 0)


@pytest.mark.slow
def test_an_unreachable_bucket_loses_nothing(
    tape: Any, until: Any, bucket_settings: dict[str, str], closed_port: int
) -> None:
    """The upload fails after its retries with one clear message; `tape archive` finishes it once it can."""
    away = {
        **bucket_settings,
        "TAPE_S3_ENDPOINT_URL": f"http://127.0.0.1:{closed_port}",
        "TAPE_UPLOAD_RETRIES": "2",
    }
    with serve_in_thread(generate(2, 60), ReplayOptions(speed=1.0)) as server:
        recording = tape.start(
            "record", "SPY", "NVDA", "--for", "5m", "--feed-url", server.url, "--batch-for", "1s", "--json", **away
        )
        until(lambda: tape.status().get("trades", 0) > 50)
        recording.send_signal(signal.SIGINT)
        out, err = recording.communicate(timeout=90)
    assert recording.returncode == 1
    left = json.loads(out)
    assert (left["outcome"], left["balances"], left["batches"]["uploaded"]) == ("stopped", False, 0)
    assert left["trades"]["archived"] == left["trades"]["received"] > 0
    said = [line for line in err.splitlines() if line.startswith("tape:")][-1]
    for part in (bucket_settings["TAPE_S3_BUCKET"], f"127.0.0.1:{closed_port}", "nothing is lost", "tape archive"):
        assert part in said
    assert "Traceback" not in err
    assert tape.store.manifests()
    assert not tape.store.sealed_batches()
    assert tape.verdict().holds
    (ledger,) = tape.json("archive", **bucket_settings)["sessions"]
    assert ledger["balances"]
    assert ledger["batches"]["uploaded"] == ledger["batches"]["archived"] == len(tape.store.manifests())
    assert tape.verdict().holds
    before = hashes(tape)
    assert archived_here(tape, **bucket_settings) == []
    assert hashes(tape) == before


@pytest.mark.slow
def test_records_and_closed_days_go_to_the_bucket_with_the_batches(
    tape: Any, recorded: None, bucket_settings: dict[str, str], object_store: Any
) -> None:
    """What ended, or was closed, while the bucket was away or unset is sent by the next run; then nothing waits."""
    archived_here(tape)
    day = next(tape.store.archive.glob("feed=*/date=*"))
    feed, date = day.parent.name.removeprefix("feed="), day.name.removeprefix("date=")
    assert merge(tape.store, feed, date) is not None
    (ledger,) = archived_here(tape, **bucket_settings)
    assert ledger.balances
    assert ledger.batches.uploaded == len(tape.store.manifests())
    with tape.here(**bucket_settings):
        bucket = bucket_of(load_settings(data_dir=tape.data))
        assert bucket is not None
        verdict = audit(tape.store, bucket)
        assert (verdict.wrong, verdict.sessions, verdict.days) == ((), 1, 1)
    before = {path: path.stat().st_mtime_ns for path in tape.data.rglob("*receipt.json")}
    assert archived_here(tape, **bucket_settings) == []
    assert {path: path.stat().st_mtime_ns for path in tape.data.rglob("*receipt.json")} == before
    elsewhere = Store(tape.folder / "elsewhere").prepare()
    assert restore(elsewhere, bucket, None, time.time_ns).notes == ()
    assert verify(elsewhere).holds


def test_a_record_that_the_bucket_refuses_is_named(
    tape: Any, recorded: None, bucket_settings: dict[str, str], object_store: Any
) -> None:
    """A different object in its place is reported in one line; the batches are uploaded anyway."""
    session = next(tape.data.glob("sessions/*")).name
    key = f"trades/_sessions/{session}/session.json"
    object_store.server.client().put_object(Bucket=object_store.bucket, Key=key, Body=b"another's")
    with pytest.raises(Exception, match="1 of 1 records are not uploaded") as raised:
        archived_here(tape, **bucket_settings)
    assert key in str(raised.value)
    assert raised.value.ledgers[0].batches.uploaded == len(tape.store.manifests())  # type: ignore[attr-defined]


def test_a_batch_that_cannot_be_archived_is_named_with_its_reason(tape: Any, recorded: None) -> None:
    """A batch that is not what its seal says stays where it is, the others are archived, and the run says why."""
    names = tape.store.sealed_batches()
    spoilt = tape.store.sealed / names[0].sealed
    spoilt.write_bytes(spoilt.read_bytes().replace(b"SPY", b"SPX"))
    with pytest.raises(Exception, match=spoilt.name) as raised:
        archived_here(tape)
    assert f"1 of {len(names)} batches" in str(raised.value)
    (ledger,) = raised.value.ledgers  # type: ignore[attr-defined]
    assert ledger.batches.waiting == 1
    assert ledger.balances, "what waits is not lost"
    assert ledger.batches.archived == len(names) - 1
    assert tape.store.sealed_batches() == [names[0]]
