"""From the socket to the archive and back, by the commands that users type."""

import gzip
import itertools
import json
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from faults import Subscribed, Text

from tasks.export.tape import export
from tasks.merge.day import merge
from tasks.query.sources import sources_of
from tasks.query.views import connect
from tasks.replay.generate import SYMBOLS, generate
from tasks.replay.run import serve_in_thread
from tasks.replay.server import ReplayOptions
from tasks.replay.tape_file import write_tape

KEY = "the-secret-key-of-these-tests"
REAL_TAPE = Path(__file__).parents[2] / ".." / "shared" / "tape" / "us-equities-20131007.csv.gz"
MAX = ReplayOptions(speed=None, original_times=True)
ANY_TIME = {"TAPE_MAX_EVENT_AGE": "off", "TAPE_MAX_EVENT_AHEAD": "off"}


@pytest.fixture
def part_of_a_day(tmp_path: Path) -> Path:
    """A part of the real tape where it is at hand, a generated one where it is not: 60,000 trades."""
    path = tmp_path / "given.csv.gz"
    if REAL_TAPE.exists():
        with gzip.open(REAL_TAPE, "rt") as day, gzip.open(path, "wt") as part:
            for line in itertools.islice(day, 60_001):
                part.write(",".join(line.rstrip("\n").split(",")[:5]) + "\n")
    else:
        write_tape(itertools.islice(generate(7, 300), 60_000), path)
    return path


@pytest.fixture
def archive_here(tape: Any) -> Callable[[], Any]:
    """What `tape archive` runs, in this process: the ledgers that it gives."""

    def archive(**settings: str) -> Any:
        from flows.archive_batches import archive_batches

        with tape.here(**settings):
            return archive_batches()

    return archive


@pytest.mark.slow
def test_a_tape_comes_back_as_it_was(tape: Any, until: Any, part_of_a_day: Path) -> None:
    """A tape served at full speed, recorded, archived and exported is equal to itself, byte for byte."""
    given = gzip.decompress(part_of_a_day.read_bytes())
    symbols = sorted({line.split(b",")[1].decode() for line in given.splitlines()[1:]})
    with serve_in_thread(part_of_a_day, MAX) as server:
        recording = tape.start(
            "record", *symbols, "--for", "60s", "--feed-url", server.url, "--batch-for", "1s", "--json", **ANY_TIME
        )
        until(lambda: tape.status().get("trades") == 60_000)
        recording.send_signal(signal.SIGINT)
        ledger = tape.printed(recording)
    assert ledger["balances"]
    assert ledger["imbalances"] == []
    assert ledger["trades"]["archived"] == ledger["trades"]["received"] == 60_000
    assert ledger["frames"]["trade"] == server.counts.messages
    assert (ledger["gaps"], ledger["outcome"]) == ([], "stopped")
    assert tape.run("export", "back.csv.gz").returncode == 0
    assert gzip.decompress((tape.folder / "back.csv.gz").read_bytes()) == given
    verdict = tape.json("verify")
    assert verdict["holds"]
    assert verdict["trades"] == 60_000


@pytest.mark.slow
def test_a_symbol_with_a_space_goes_the_whole_way(tape: Any, until: Any) -> None:
    """`IC MARKETS:1`, among symbols that commas separate, is recorded, archived, closed, asked and replayed."""
    given = "ts_event_ms,symbol,price,size,conditions\n" + "".join(
        f"{1_700_000_000_000 + n},{symbol},{n}.5,{n + 1},\n"
        for n in range(100)
        for symbol in ("IC MARKETS:1", "AAPL", "MSFT", "BINANCE:BTCUSDT")
    )
    (tape.folder / "given.csv").write_text(given)
    words = ("AAPL,IC MARKETS:1", "MSFT", "BINANCE:BTCUSDT,", "--lanes", "ticker")
    with serve_in_thread(tape.folder / "given.csv", MAX) as server:
        recording = tape.start("record", *words, "--for", "60s", "--feed-url", server.url, "--json", **ANY_TIME)
        until(lambda: tape.status().get("trades") == 400)
        recording.send_signal(signal.SIGINT)
        ledger = tape.printed(recording)
    assert set(ledger["per_symbol"]) == {"AAPL", "IC MARKETS:1", "MSFT", "BINANCE:BTCUSDT"}
    assert (ledger["trades"]["archived"], ledger["balances"]) == (400, True)
    days = {path.name.removeprefix("date=") for path in tape.data.glob("archive/*/date=*")}
    for date in days:
        assert merge(tape.store, "finnhub", date) is not None
    with connect(sources_of(tape.store, tape.store.manifests(), ("IC MARKETS:1",))) as database:
        counted = database.execute("SELECT count(*) FROM trades WHERE symbol = 'IC MARKETS:1'").fetchone()
    assert counted == (100,)
    assert tape.verdict().holds
    assert export(tape.store, tape.folder / "back.csv", None) == 400
    assert sorted((tape.folder / "back.csv").read_text().splitlines()) == sorted(given.splitlines())


def test_batches_are_archived_while_the_session_records(tape: Any, until: Any) -> None:
    """Sealed batches are validated and archived while recording goes on, and the session ends at its time."""
    with serve_in_thread(generate(3, 120), ReplayOptions(speed=1.0)) as server:
        recording = tape.start(
            "record", *SYMBOLS[:8], "--for", "8s", "--feed-url", server.url, "--batch-for", "700ms", "--json"
        )
        until(lambda: list(tape.data.glob("archive/**/*.manifest.json")))
        assert tape.status()["state"] == "recording"
        out, err = recording.communicate(timeout=60)
    assert recording.returncode == 0, err[-3000:]
    ledger = json.loads(out)
    assert ledger["outcome"] == "complete"
    assert ledger["batches"]["archived"] >= 3
    assert 8 <= (ledger["ended_ns"] - ledger["started_ns"]) / 1e9 < 20
    assert "trades" in err
    assert not list(tape.data.glob("sealed/*"))
    assert not list(tape.data.glob("validated/*"))
    assert not list(tape.data.glob("locks/*"))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_kill_anything_then_archive(tape: Any, until: Any, archive_here: Callable[[], Any], seed: int) -> None:
    """Flow and recorder killed, either first, at a random moment: `tape archive` archives what was journalled, once."""
    data = tape.data
    with serve_in_thread(generate(seed, 120), ReplayOptions(speed=1.0)) as server:
        recording = tape.start("record", *SYMBOLS, "--for", "60s", "--feed-url", server.url, "--batch-for", "700ms")
        enough = 400 + 917 * seed
        until(lambda: tape.status().get("trades", 0) > enough)
        pid = tape.status()["pid"]
        for victim in (recording.pid, pid) if seed % 2 else (pid, recording.pid):
            os.kill(victim, signal.SIGKILL)
        recording.communicate(timeout=60)
    until(lambda: not Path(f"/proc/{pid}").exists())
    torn = {path: path.read_bytes() for path in data.glob("spool/*/*.csv.open")}
    (ledger,) = tape.json("archive")["sessions"]
    assert (ledger["outcome"], ledger["balances"]) == ("killed", True)
    (gap,) = ledger["gaps"]
    assert gap["reason"] == "the recorder was killed"
    assert gap["symbols"] == list(SYMBOLS)
    assert gap["start_ns"] < gap["end_ns"] == ledger["deadline_ns"]
    assert tape.verdict().holds
    assert archive_here() == []
    rows = exported(tape)
    assert len(rows) == ledger["trades"]["archived"] >= enough
    assert torn
    for journal, content in torn.items():
        heard = [line.split(",")[4:8] for line in content.decode().split("\n")[1:-1]]
        cut = sum(path.read_bytes().count(b"\n") for path in data.glob(f"quarantine/{journal.name[:-9]}.cut"))
        kept = heard[: len(heard) - cut]
        # A lane's symbols: those that never close, or the others.
        of_lane = [row for row in rows if not kept or (":" in row[0]) == (":" in kept[0][0])]
        assert of_lane[len(of_lane) - len(kept) :] == kept


def exported(tape: Any) -> list[list[str]]:
    """Symbol, price, size and conditions of every archived trade, as `tape export` writes them."""
    export(tape.store, tape.folder / "out.csv", None)
    return [line.split(",")[1:5] for line in (tape.folder / "out.csv").read_text().splitlines()[1:]]


@pytest.mark.slow
def test_a_killed_recorder_is_started_again_and_the_session_goes_on(tape: Any, until: Any) -> None:
    """Kill -9 of the recorder alone: the task starts another into the same session; the gap is named and ends."""
    with serve_in_thread(generate(5, 120), ReplayOptions(speed=1.0)) as server:
        recording = tape.start(
            "record", *SYMBOLS, "--for", "5m", "--feed-url", server.url, "--batch-for", "1s", "--json"
        )
        until(lambda: tape.status().get("trades", 0) > 500)
        pid = tape.status()["pid"]
        os.kill(pid, signal.SIGKILL)
        until(lambda: tape.status()["pid"] != pid and tape.status()["state"] == "recording")
        recording.send_signal(signal.SIGINT)
        ledger = tape.printed(recording)
    assert (ledger["outcome"], ledger["connections"], ledger["balances"]) == ("stopped", 2, True)
    (gap,) = ledger["gaps"]
    assert gap["reason"] == "the recorder was killed"
    assert gap["start_ns"] < gap["end_ns"] < ledger["ended_ns"]
    assert tape.verdict().holds


@pytest.mark.slow
def test_a_killed_flow_leaves_the_recorder_recording_and_the_next_run_attaches(tape: Any, until: Any) -> None:
    """Kill -9 of the flow alone: the recorder goes on; a new run attaches to it and archives everything."""
    with serve_in_thread(generate(6, 120), ReplayOptions(speed=1.0)) as server:
        words = ("record", *SYMBOLS, "--for", "5m", "--feed-url", server.url, "--batch-for", "1s", "--json")
        first = tape.start(*words)
        until(lambda: tape.status().get("trades", 0) > 500)
        first.kill()
        first.communicate()
        archived = len(list(tape.data.glob("archive/**/*.manifest.json")))
        second = tape.start(*words)
        before = tape.status()
        assert tape.verdict().recording == (before["session"],)
        until(lambda: len(list(tape.data.glob("archive/**/*.manifest.json"))) > archived)
        second.send_signal(signal.SIGINT)
        ledger = tape.printed(second)
    assert (ledger["session"], ledger["outcome"], ledger["gaps"]) == (before["session"], "stopped", [])
    assert ledger["connections"] == 1
    assert tape.verdict().holds


@pytest.mark.slow
def test_a_recording_that_never_connected_is_no_success(tape: Any) -> None:
    """Where the feed's host was never reached the command fails, and says why last."""
    done = tape.run("record", "AAPL", "--for", "3s", "--feed-url", "ws://127.0.0.1:9")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "never connected: no connection: connection refused" in done.stderr.splitlines()[-1]


@pytest.mark.slow
def test_a_recording_of_which_nothing_could_be_kept_is_no_success(tape: Any, fault_server: Any) -> None:
    """Where every trade that came is refused the command fails, with how many they were."""
    refused = json.dumps({"type": "trade", "data": [{"s": "AAPL", "p": "x", "t": 1, "v": 1}]})
    server = fault_server([Subscribed("AAPL"), Text(refused), Text(refused)])
    done = tape.run("record", "AAPL", "--for", "4s", "--feed-url", server.url)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "none of the 2 trades received were valid" in done.stderr.splitlines()[-1]


@pytest.mark.slow
def test_the_vendors_own_words_and_odd_conditions_stand_in_the_account(tape: Any, fault_server: Any) -> None:
    """The vendor's refusal is counted and shown; a trade whose conditions are numbers is kept, and counted as odd."""
    said = {"type": "error", "msg": "You don't have access to this resource."}
    odd = {"type": "trade", "data": [{"s": "AAPL", "p": 1.5, "t": 1, "v": 1, "c": [1, 12]}]}
    server = fault_server([Subscribed("AAPL"), *(Text(json.dumps(each)) for each in (said, odd, said))])
    words = ("record", "AAPL", "--for", "5s", "--feed-url", server.url)
    done = tape.run(*words, **ANY_TIME)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the feed reported 2 times: You don't have access to this resource." in done.stdout
    assert "1 with unexpected conditions" in done.stdout
    (session,) = json.loads(tape.run("ls", "--json").stdout)["sessions"]
    ledger = tape.json("show", session["session"])["ledger"]
    assert ledger["vendor_errors"] == {said["msg"]: 2}
    assert (ledger["trades"]["odd_conditions"], ledger["trades"]["archived"]) == (1, 1)
    assert tape.verdict().holds


@pytest.mark.slow
def test_a_connected_and_silent_recording_says_so_last(tape: Any, fault_server: Any) -> None:
    """A market without trades is nobody's failure: exit 0, and the last lines say that none came."""
    server = fault_server([Subscribed("AAPL")])
    done = tape.run("record", "AAPL", "--for", "3s", "--feed-url", server.url)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "received no trades" in " ".join(done.stdout.splitlines()[-2:])


@pytest.mark.slow
def test_whose_recorder_is_stopped_from_outside_fails(tape: Any, until: Any) -> None:
    """A SIGTERM to the recorder itself ends it in order, before its time: its run is no success."""
    with serve_in_thread(generate(9, 60), ReplayOptions(speed=1.0)) as server:
        recording = tape.start("record", "SPY", "--for", "60s", "--feed-url", server.url, "--json")
        until(lambda: tape.status().get("trades", 0) > 5)
        os.kill(tape.status()["pid"], signal.SIGTERM)
        ledger = tape.printed(recording, code=1)
    assert ledger["outcome"] == "stopped"
    assert ledger["balances"]


WRONG: tuple[tuple[tuple[str, ...], str], ...] = (
    (("record", "AAPL"), "--for"),
    (("record", "AAPL", "--for", "5m", "--until", "16:00"), "--until"),
    (("record", "AAPL", "--for", "soon"), "soon"),
    (("record", "AAPL", "--until", "25:00"), "25:00"),
    (("record", "--for", "5m"), "TAPE_SYMBOLS"),
    (("record", "AAPL MSFT", "--for", "5m"), "separate symbols with commas"),
    (("record", "AAPL;MSFT", "--for", "5m"), "separate symbols with commas"),
    (("record", "AAPL", ",", "--for", "5m", "--feed-url", "wss://ws.finnhub.io:99999"), "TAPE_FEED_URL"),
    (("symbols", "add", "AAPL MSFT"), "separate symbols with commas"),
    (("symbols", "remove", ","), "names no symbol"),
    (("record", "AAPL", "--for", "5m", "--feed-url", f"wss://ws.finnhub.io?token={KEY}"), "TAPE_FEED_URL"),
    (("verify", "--data-dir", "nowhere"), "nowhere"),
    (("export", "--data-dir", "nowhere", "out.csv"), "nowhere"),
    (("replay", "none.csv"), "none.csv"),
    (("replay", "none.csv", "--speed", "fast"), "--speed"),
)


@pytest.mark.parametrize(("words", "said"), WRONG, ids=lambda value: " ".join(value) if value is tuple else None)
def test_wrong_use_is_one_clear_line_before_anything_starts(
    tape: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], said: str
) -> None:
    """A wrong or missing setting ends with exit 1 or 2, one line that says what to do, and nothing on disk."""
    from tape.cli import app

    monkeypatch.setattr("sys.argv", ["tape", *words])
    with tape.here(), pytest.raises(SystemExit) as ended:
        app.main()
    shown = capsys.readouterr()
    assert ended.value.code in (1, 2), shown.err
    assert said in shown.err
    assert len(shown.err.strip().splitlines()) == 1, shown.err
    assert KEY not in shown.out + shown.err
    assert not tape.data.exists()


@pytest.mark.parametrize("words", [("record", "AAPL", "--for", "5m"), ("close",)])
def test_a_calendar_that_does_not_exist_is_said_before_prefect_starts(tape: Any, words: tuple[str, ...]) -> None:
    """Exit status 2 and one line with the nearest name; Prefect, which would start a server, is not even asked."""
    home = tape.folder / "home"
    done = tape.run(*words, TAPE_CALENDAR="xnyz", PREFECT_API_URL="", PREFECT_HOME=str(home))
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1), done.stderr
    assert "'xnyz' is not an exchange calendar; give one such as " in done.stderr
    assert "XNYS" in done.stderr
    assert not home.exists()
    assert not tape.data.exists()


def test_a_missing_key_and_a_missing_tape_are_said_by_the_command(tape: Any) -> None:
    """The same as a shell sees it: exit status, one line on stderr, no traceback, nothing on disk."""
    no_key = tape.start("record", "AAPL", "--for", "5m", FINNHUB_API_KEY="")
    no_tape = tape.start("replay", "none.csv")
    for process, code, said in ((no_key, 2, "FINNHUB_API_KEY"), (no_tape, 1, "none.csv")):
        out, err = process.communicate(timeout=60)
        assert (process.returncode, out, len(err.splitlines())) == (code, "", 1), err
        assert said in err
    assert not tape.data.exists()


@pytest.mark.slow
def test_a_refused_key_ends_with_exit_1_and_what_to_do(tape: Any) -> None:
    """A key that the feed refuses ends the run at once, with the next step and without the key."""
    with serve_in_thread(generate(1, 5), ReplayOptions(speed=1.0, key="another")) as server:
        done = tape.run("record", "AAPL", "--for", "60s", "--feed-url", server.url, "--json")
    assert done.returncode == 1
    assert "correct TAPE_REPLAY_KEY" in done.stderr
    assert KEY not in done.stdout + done.stderr
    assert json.loads(done.stdout)["outcome"] == "failed"


NEWEST: dict[str, dict[str, str]] = {
    "flow_runs": {"sort": "EXPECTED_START_TIME_DESC"},
    "task_runs": {"sort": "EXPECTED_START_TIME_DESC"},
    "artifacts": {"sort": "CREATED_DESC"},
    "logs": {"sort": "TIMESTAMP_DESC"},
}


@pytest.fixture
def seen_processes() -> Callable[[], bytes]:
    """Gives what a process list shows of every process: arguments only, as `ps aux` does."""

    def look() -> bytes:
        lines = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                lines.append(path.read_bytes())
            except OSError:
                continue
        return b"\n".join(lines)

    return look


@pytest.mark.slow
def test_no_secret_is_anywhere(
    tape: Any, until: Any, bucket_settings: dict[str, str], seen_processes: Callable[[], bytes]
) -> None:
    """Key and S3 secret stand in no file, log line, process list entry, flow parameter, artifact or database."""
    settings = bucket_settings
    secrets = [KEY.encode(), settings["TAPE_S3_SECRET_ACCESS_KEY"].encode()]
    with serve_in_thread(generate(8, 60), ReplayOptions(speed=1.0)) as server:
        recording = tape.start(
            "record", "SPY", "NVDA", "--for", "5m", "--feed-url", server.url, "--batch-for", "1s", **settings
        )
        until(lambda: tape.status().get("trades", 0) > 50)
        processes = seen_processes()
        recording.send_signal(signal.SIGINT)
        out, err = recording.communicate(timeout=60)
    assert recording.returncode == 0, err[-3000:]
    assert b"tasks.capture.recorder" in processes
    shown = {"processes": processes, "stdout": out.encode(), "stderr": err.encode()}
    shown |= {str(path): path.read_bytes() for path in tape.folder.rglob("*") if path.is_file()}
    shown |= tape.server.everything()
    shown |= {
        name: json.dumps(tape.server.ask(f"{name}/filter", {"limit": 200, **NEWEST[name]})).encode() for name in NEWEST
    }
    assert b"session-2" in shown["artifacts"]
    assert b"SPY" in shown["flow_runs"]
    for secret in secrets:
        assert [name for name, content in shown.items() if secret in content] == []
    assert re.search(rb"uploaded|are in", shown["logs"])
