"""`tape ls`, `show`, `bars`, `query`, `restore`, `verify --remote` as typed by a user; what is still to upload."""

import csv
import io
import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from click.testing import Result
from typer.testing import CliRunner

from flows.archive_batches import waiting
from flows.bucket import bucket_of
from flows.settings import load_settings
from tape import research
from tape.cli.app import app
from tasks.compress.parquet import compress
from tasks.errors import ConflictError, RecorderError, SettingsError, TerminalError
from tasks.merge.day import merge
from tasks.records.ledger import Gap, SessionRecord
from tasks.records.manifest import encode
from tasks.records.names import BatchName
from tasks.storage.store import Store, write_whole
from tasks.upload.uploads import upload_batch, upload_session
from tasks.validate.schema import Limits
from tasks.validate.split import split

SESSION = "20261124T143000Z-9f3c01ab"
NAME = BatchName(SESSION, 0, 0)
START_NS = 1_795_530_600_000_000_000
Use = Callable[..., Any]


@pytest.fixture
def use(store: Store, sealed_batch: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Use:
    """Runs a command over one archived session: `use("ls") -> stdout`; what a command raises is raised."""
    rows = [("AAPL", "100.1", "10"), ("MSFT", "400", "3"), ("AAPL", "100.3", "5"), ("AAPL", "-1", "5")]
    lines = [
        f"1,{seq},{START_NS + seq * 10**9},{START_NS + seq * 10**9 - 5_000_000},{symbol},{price},{size},1\n".encode()
        for seq, (symbol, price, size) in enumerate(rows, 1)
    ]
    sealed_batch(
        lines, name=NAME, opened_ns=START_NS, sealed_ns=START_NS + 10**10, per_symbol={"AAPL": 3, "MSFT": 1}
    )  # fmt: skip
    split(store, NAME, Limits(None, None))
    compress(store, NAME)
    record = SessionRecord(
        session=SESSION, feed="finnhub", symbols=("AAPL", "MSFT"), started_ns=START_NS, listening_ns=START_NS,
        ended_ns=START_NS + 10**10, deadline_ns=START_NS + 10**10, outcome="complete", error=None, connections=1,
        frames_received=4, batches=(1,), gaps=(),
    )  # fmt: skip
    (store.sessions / SESSION).mkdir()
    write_whole(store.sessions / SESSION / "session.json", encode(record))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TAPE_DATA_DIR", str(store.root))

    def run(*words: str, code: int = 0) -> str:
        result: Result = CliRunner().invoke(app, words)
        if isinstance(result.exception, RecorderError):
            raise result.exception
        assert result.exit_code == code, result.output
        return result.stdout

    return run


@pytest.fixture
def in_bucket(use: Use, bucket_settings: dict[str, str], monkeypatch: pytest.MonkeyPatch, store: Store) -> Any:
    """The settings name the test's own bucket, which has the batch and its session's record."""
    for name, value in bucket_settings.items():
        monkeypatch.setenv(name, value)
    bucket = bucket_of(load_settings())
    assert bucket is not None
    upload_batch(store, NAME, bucket, lambda: 1)
    upload_session(store, SESSION, bucket, lambda: 1)
    return bucket


def test_ls_lists_days_and_sessions(use: Use) -> None:
    """A day and a session with their batches, trades and balance; as text and as JSON."""
    shown = json.loads(use("ls", "--json"))
    assert [day["date"] for day in shown["days"]] == ["2026-11-24"]
    (session,) = shown["sessions"]
    assert {name: session[name] for name in ("session", "outcome", "batches", "trades", "uploaded", "balances")} == {
        "session": SESSION, "outcome": "complete", "batches": 1, "trades": 3, "uploaded": 0, "balances": True,
    }  # fmt: skip
    assert SESSION in use("ls")


def test_ls_tells_which_days_are_closed(use: Use, store: Store) -> None:
    """A day is closed once its merged file holds all of its batches."""
    assert [day["closed"] for day in json.loads(use("ls", "--json"))["days"]] == [False]
    merge(store, "finnhub", "2026-11-24")
    assert [day["closed"] for day in json.loads(use("ls", "--json"))["days"]] == [True]


def test_ls_shows_a_session_that_does_not_balance(use: Use, store: Store) -> None:
    """A session of which a batch is missing says so, whether any file of it is left or none."""
    for path in store.archive.rglob(f"*{NAME}*"):
        path.unlink()
    (session,) = json.loads(use("ls", "--json"))["sessions"]
    assert (session["outcome"], session["balances"]) == ("unreadable", False)
    for path in store.quarantine.rglob(f"*{NAME}*"):
        path.unlink()
    (session,) = json.loads(use("ls", "--json"))["sessions"]
    assert (session["outcome"], session["balances"]) == ("complete", False)
    assert "NO" in use("ls")


@pytest.mark.parametrize("what", [SESSION, "2026-11-24"])
def test_show_tells_of_a_session_and_of_a_day(use: Use, what: str) -> None:
    """Symbols with their trades, lag percentiles, reasons of the quarantine, and for a session its ledger."""
    shown = json.loads(use("show", what, "--json"))
    assert shown["per_symbol"] == {"AAPL": 2, "MSFT": 1}
    assert shown["lag_ms"] == {"p50": 5.0, "p90": 5.0, "p99": 5.0, "max": 5.0}
    assert list(shown["reasons"].values()) == [1]
    assert (shown["ledger"] is not None) == (what == SESSION)
    text = use("show", what)
    for each in ("AAPL", "p99 5.0", "quarantined: 1", "the ledger balances"):
        assert each in text


def test_show_of_what_is_not_there_says_where_to_look(use: Use) -> None:
    """An unknown day is an error that names what is near, or `tape ls`; what is no day is a wrong argument."""
    with pytest.raises(TerminalError, match="tape ls"):
        use("show", "2013-01-03")
    with pytest.raises(TerminalError, match=r"did you mean 2026-11-24\?"):
        use("show", "2026-11-25")
    with pytest.raises(SettingsError, match="YYYY-MM-DD"):
        use("show", "the day before")
    with pytest.raises(TerminalError, match="not found in"):
        use("show", "yesterday")


def test_bars_as_text_csv_json_and_plot(use: Use) -> None:
    """One bar in four forms; its start has the exchange's time, and its offset where no heading says the zone."""
    command = ("bars", "AAPL", "--date", "2026-11-24", "--every", "1m")
    (row,) = csv.DictReader(io.StringIO(use(*command, "--csv")))
    assert row == {
        "symbol": "AAPL", "start": "2026-11-24 09:30:00-05:00", "session": "regular", "open": "100.1", "high": "100.3",
        "low": "100.1", "close": "100.3", "volume": "15", "vwap": "100.166666667", "trades": "2", "gap_s": "50",
    }  # fmt: skip
    assert '"close":100.3,' in use(*command, "--json")
    heading, shown = use(*command).splitlines()
    assert heading.split() == ["start", "(America/New_York)", *list(row)[3:]]
    assert shown.startswith("2026-11-24 09:30:00 ")
    assert "100.3 +O" in use(*command, "--plot")


def test_bars_of_several_symbols_and_days_are_written_to_a_file(use: Use, tmp_path: Path) -> None:
    """A range of days and two symbols; Parquet has UTC times, text has the exchange's; nothing is overwritten."""
    command = ("bars", "AAPL", "MSFT", "--date", "2026-11-23..2026-11-24", "--every", "1d")
    assert use(*command, "--out", "bars.parquet") == "bars.parquet: 2 bars\n"
    table = pl.read_parquet(tmp_path / "bars.parquet")
    assert table["symbol"].to_list() == ["AAPL", "MSFT"]
    assert table["start"].dt.timestamp("ms").to_list() == [1_795_496_400_000] * 2
    use(*command, "--out", "bars.csv")
    assert (
        (tmp_path / "bars.csv").read_text().splitlines()[1].startswith("AAPL,2026-11-24 00:00:00-05:00,regular,100.1")
    )
    with pytest.raises(ConflictError, match="exists already"):
        use(*command, "--out", "bars.csv")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("bars", "AAPL", "--date", "2026-11-24", "--every", "0s"), "--every"),
        (("bars", "AAPL", "--date", "24.11.2026"), "YYYY-MM-DD"),
        (("bars", "AAPL", "--date", "2026-11-24", "--json", "--csv"), "one of"),
        (("bars", "AAPL", "--date", "2026-11-25..2026-11-24"), "earlier day first"),
        (("bars", "AAPL", "--date", "2026-11-24", "--prints", "some"), "consolidated, all"),
        (("bars", "AAPL", "--date", "2026-11-24", "--session", "night"), "regular, extended, all"),
        (("query", "SELECT 1", "--out", "x.xlsx"), "parquet"),
        (("query", "SELECT 1", "--out", "nowhere/x.csv"), "no such folder"),
        (("query", "DROP VIEW trades", "--out", "x.csv"), "one SELECT"),
        (("query", "EXPLAIN SELECT 1", "--out", "x.csv"), "one SELECT"),
        (("query", "SELEC 1"), "syntax error"),
        (("query", "SELECT 1", "--remote"), "TAPE_S3_BUCKET"),
        (("restore", "--date", "2026-11-24"), "TAPE_S3_BUCKET"),
        (("verify", "--remote"), "TAPE_S3_BUCKET"),
        (("ls", "--data-dir", "nowhere"), "no such data folder"),
    ],
)
def test_a_wrong_use_is_said_in_a_line(use: Use, words: tuple[str, ...], says: str) -> None:
    """Each slip names what is wrong and how it is written."""
    with pytest.raises(SettingsError, match=says):
        use(*words)


def test_bars_say_their_zone_and_are_shown_in_another(use: Use) -> None:
    """The heading shows the time zone; --tz changes it, and an unknown zone gets suggestions."""
    command = ("bars", "AAPL", "--date", "2026-11-24", "--every", "1m")
    assert use(*command).startswith("start (America/New_York)")
    shown = use(*command, "--tz", "UTC")
    assert shown.startswith("start (UTC)")
    assert "2026-11-24 14:30:00" in shown
    with pytest.raises(SettingsError, match=r"did you mean America/New_York"):
        use(*command, "--tz", "America/New_Yrk")
    with pytest.raises(TerminalError, match=r"did you mean AAPL\?"):
        use("bars", "APPL", "--date", "2026-11-24")


def test_bars_of_a_symbol_that_has_none_say_so(use: Use) -> None:
    """Without a trade there is no empty table but an error that says where symbols are listed."""
    with pytest.raises(TerminalError, match="tape show 2026-11-24"):
        use("bars", "NOPE", "--date", "2026-11-24")


def test_query_in_three_forms(use: Use) -> None:
    """A table, CSV with a header, and one JSON object a line; decimals are numbers with all their digits."""
    sql = "SELECT symbol, price, ts_event, resent FROM trades WHERE symbol = 'AAPL' ORDER BY ts_event"
    assert use("query", sql, "--csv").splitlines()[:2] == [
        "symbol,price,ts_event,resent",
        "AAPL,100.1,2026-11-24 14:30:00.995000000,false",
    ]
    assert use("query", sql, "--json").splitlines()[1] == (
        '{"symbol":"AAPL","price":100.3,"ts_event":"2026-11-24 14:30:02.995000000","resent":false}'
    )
    assert len(use("query", sql).splitlines()) == 3
    assert use("query", "SELECT outcome FROM sessions", "--csv") == "outcome\ncomplete\n"
    assert use("query", "SELECT count(*) AS n FROM trades", "--date", "2026-11-25", "--csv") == "n\n0\n"


def test_a_print_that_arrived_after_midnight_is_in_the_bar_of_its_day(
    use: Use, store: Store, sealed_batch: Any
) -> None:
    """A day's bars have its last trades, which are in the first batch of the next day, and not those of that day."""
    midnight_ns, symbol = 1_795_564_800_000_000_000, "BINANCE:BTCUSDT"  # 2026-11-25 in UTC
    lines = [
        f"1,{seq},{midnight_ns + 10**9},{midnight_ns + at},{symbol},90000.5,{size},\n".encode()
        for seq, (at, size) in enumerate(((-1, 2), (0, 5)), 1)
    ]
    name = BatchName("20261125T000000Z-9f3c01ab", 0, 0)
    sealed_batch(lines, name=name, date="2026-11-25", opened_ns=midnight_ns + 10**9, per_symbol={symbol: 2})
    split(store, name, Limits(None, None))
    compress(store, name)
    for date, volume in (("2026-11-24", "2"), ("2026-11-25", "5")):
        (row,) = csv.DictReader(io.StringIO(use("bars", symbol, "--date", date, "--every", "1d", "--csv")))
        assert (row["start"], row["volume"]) == (f"2026-11-{int(date[-2:]) - 1} 19:00:00-05:00", volume)


def test_an_answer_is_written_to_a_new_file_or_not_at_all(use: Use, tmp_path: Path) -> None:
    """Each format has the rows of the SELECT; a failure leaves nothing, and a file that exists is kept."""
    sql = "SELECT symbol, price FROM trades ORDER BY symbol, price -- ends in a comment"
    readers: dict[str, Callable[[Path], pl.DataFrame]] = {
        "parquet": pl.read_parquet, "csv": pl.read_csv, "csv.gz": pl.read_csv, "csv.zst": pl.read_csv,
        "jsonl": pl.read_ndjson,
    }  # fmt: skip
    for end, reader in readers.items():
        assert use("query", sql, "--out", f"a.{end}") == f"a.{end}: 3 rows\n"
        assert reader(tmp_path / f"a.{end}").rows() == [("AAPL", 100.1), ("AAPL", 100.3), ("MSFT", 400.0)]
    with pytest.raises(ConflictError, match="exists already"):
        use("query", sql, "--out", "a.csv")
    with pytest.raises(SettingsError, match="Conversion"):
        use("query", "SELECT symbol::INT FROM trades", "--out", "b.csv")
    assert sorted(path.name for path in tmp_path.iterdir()) == [*sorted(f"a.{end}" for end in readers), "data"]


def test_a_statement_cannot_write_elsewhere(use: Use, tmp_path: Path) -> None:
    """With --out, too, there is one SELECT, and one file is written."""
    for sql in ("SELECT 1) TO 'other.csv' --", "COPY trades TO 'other.csv'", "SELECT 1; COPY trades TO 'other.csv'"):
        with pytest.raises(SettingsError):
            use("query", sql, "--out", "a.csv")
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_dates_limit_every_view(use: Use) -> None:
    """Trades, gaps, coverage, sessions, and days of the days asked for; a range has all of its days."""
    for view in ("trades", "coverage", "sessions", "days"):
        sql = f"SELECT count(*) > 0 AS any FROM {view}"
        for date, there in (("2026-11-24", "true"), ("2026-11-25", "false"), ("2026-11-20..2026-11-30", "true")):
            assert use("query", sql, "--csv", "--date", date) == f"any\n{there}\n", (view, date)


def test_an_unknown_symbol_is_said(use: Use, capfd: pytest.CaptureFixture[str]) -> None:
    """An empty answer about a symbol without trades names it, and what is near."""
    result = CliRunner().invoke(app, ["query", "SELECT * FROM trades WHERE symbol = 'APPL'"])
    assert "APPL: no trade of any day is archived; did you mean AAPL?" in result.stderr


def test_verify_remote_exits_0_only_where_all_holds(use: Use, in_bucket: Any, object_store: Any) -> None:
    """A whole bucket holds; with one object gone the key is printed and the exit status is 1."""
    assert "everything matches its receipt" in use("verify", "--remote")
    assert json.loads(use("verify", "--remote", "--json"))["holds"]
    key = f"trades/feed=finnhub/date=2026-11-24/{NAME.archived}"
    object_store.server.client().delete_object(Bucket=in_bucket.name, Key=key)
    assert f"missing {key}" in use("verify", "--remote", code=1)
    assert json.loads(use("verify", "--remote", "--json", code=1))["wrong"][0]["key"] == key


def test_a_lost_day_is_restored_and_asked_in_the_bucket(use: Use, in_bucket: Any, store: Store) -> None:
    """With the archive gone, bars and SQL are answered from the bucket; restored, `tape` uses it as before."""
    bars = ("bars", "AAPL", "--date", "2026-11-24", "--csv")
    before = use(*bars)
    shutil.rmtree(store.archive)
    store.prepare()
    assert use(*bars, "--remote") == before
    assert use("query", "SELECT count(*) AS n FROM trades", "--remote", "--csv") == "n\n3\n"
    assert use("query", "SELECT trades FROM sessions", "--remote", "--csv") == "trades\n3\n"
    assert "1 batches restored" in use("restore", "--date", "2026-11-24")
    assert "0 batches restored" in use("restore", "--date", "2026-11-24")
    assert use(*bars) == before


def test_python_reads_the_bucket(use: Use, in_bucket: Any, store: Store, tmp_path: Path) -> None:
    """From the bucket come the same frames as from the folder; coverage downloads no trade."""
    asked: dict[str, Callable[..., Any]] = {
        "coverage": partial(research.coverage, "AAPL", "2026-11-24"),
        "trades": lambda **where: research.load("AAPL", "2026-11-24", **where).collect(),
        "bars": partial(research.bars, "AAPL", "2026-11-24"),
    }
    elsewhere = tmp_path / "elsewhere"
    for name, ask in asked.items():
        here, there = ask(data_dir=store.root), ask(data_dir=elsewhere, remote=True)
        assert here.height
        assert there.equals(here), name
        assert bool([*elsewhere.rglob("*.parquet")]) == (name in {"trades", "bars"}), name
    assert {path.stat().st_mode & 0o077 for path in elsewhere.rglob("*")} == {0}
    with pytest.raises(TerminalError, match=r"AAPLE: no trade of 2026-11-24 is archived; did you mean AAPL\?"):
        research.load("AAPLE", "2026-11-24", data_dir=elsewhere, remote=True)


def test_a_session_without_a_trade_is_in_the_buckets_coverage(use: Use, in_bucket: Any, store: Store) -> None:
    """A session that received nothing on a day has no batch, and covers the day all the same."""
    quiet, minute_ns = "20261124T150000Z-00c0ffee", 60 * 10**9
    began_ns = START_NS + 30 * minute_ns
    gap = Gap(symbols=("MSFT",), start_ns=began_ns + 2 * minute_ns, end_ns=began_ns + 3 * minute_ns, reason="reconnect")
    record = SessionRecord(
        session=quiet, feed="finnhub", symbols=("MSFT",), started_ns=began_ns, listening_ns=began_ns,
        ended_ns=began_ns + 5 * minute_ns, deadline_ns=began_ns + 5 * minute_ns, outcome="complete", error=None,
        connections=1, frames_received=0, batches=(0,), gaps=(gap,),
    )  # fmt: skip
    (store.sessions / quiet).mkdir()
    write_whole(store.sessions / quiet / "session.json", encode(record))
    upload_session(store, quiet, in_bucket, lambda: 1)
    for remote in (False, True):
        states = research.coverage("MSFT", "2026-11-24", remote=remote)["state"].value_counts()
        assert dict(states.iter_rows()) == {"not recorded": 385, "received": 4, "gap": 1}
        assert research.gaps(date="2026-11-24", remote=remote)["session"].to_list() == [quiet]


@pytest.fixture
def two_feeds(use: Use, sealed_batch: Any, store: Store) -> Use:
    """The same with one trade of AAPL from another feed."""
    other = BatchName("20261124T143100Z-00c0ffee", 0, 0)
    line = f"1,1,{START_NS + 10**9},{START_NS},AAPL,77,1,\n".encode()
    sealed_batch([line], name=other, feed="coinbase", opened_ns=START_NS, per_symbol={"AAPL": 1})
    split(store, other, Limits(None, None))
    compress(store, other)
    return use


def test_feeds_are_told_apart(two_feeds: Use, tmp_path: Path) -> None:
    """--feed limits every command to one feed; bars never mix two of them."""
    use, bars = two_feeds, ("bars", "AAPL", "--date", "2026-11-24", "--csv")
    with pytest.raises(SettingsError, match=r"AAPL: recorded from coinbase and finnhub; name one \(--feed\)"):
        use(*bars)
    assert len(use("bars", "MSFT", "--date", "2026-11-24", "--csv").splitlines()) == 2
    assert [row["volume"] for row in csv.DictReader(io.StringIO(use(*bars, "--feed", "coinbase")))] == ["1"]
    assert [row["volume"] for row in csv.DictReader(io.StringIO(use(*bars, "--feed", "finnhub")))] == ["15"]
    counted = ("query", "SELECT count(*) AS n, (SELECT count(*) FROM sessions) AS s FROM trades", "--csv")
    assert [use(*counted, *of) for of in ((), ("--feed", "finnhub"), ("--feed", "coinbase"))] == [
        "n,s\n4,2\n", "n,s\n3,1\n", "n,s\n1,1\n",
    ]  # fmt: skip
    assert json.loads(use("show", "2026-11-24", "--json"))["trades"] == 4
    shown = json.loads(use("show", "2026-11-24", "--feed", "finnhub", "--json"))
    assert (shown["trades"], shown["sessions"]) == (3, [SESSION])
    assert "1 trade" in use("export", str(tmp_path / "tape.csv"), "--feed", "coinbase")
    assert research.load("AAPL", feed="coinbase").collect()["price"].to_list() == [77]
    with pytest.raises(SettingsError, match=r"coinbass: no trade of 2026-11-24 is from this feed; did you mean coinb"):
        use(*bars, "--feed", "coinbass")
    with pytest.raises(TerminalError, match="nothing is archived from kraken"):
        use("export", str(tmp_path / "none.csv"), "--feed", "kraken")
    with pytest.raises(TerminalError, match=r"not found in .*, from kraken"):
        use("show", "2026-11-24", "--feed", "kraken")


def test_everything_comes_back_into_an_empty_folder(use: Use, in_bucket: Any, store: Store) -> None:
    """Without a date all is restored, quarantine and the session's record with it, and `tape verify` holds."""
    files = {path: path.read_bytes() for path in store.root.rglob("*") if path.is_file() and "receipt" not in path.name}
    shutil.rmtree(store.root)
    store.root.mkdir()
    said = use("restore")
    assert "everything: 1 batches restored" in said
    assert "0 merged days and 1 session records" in said
    assert {path: path.read_bytes() for path in store.root.rglob("*") if path.is_file()} == files
    assert json.loads(use("verify", "--json"))["holds"]


def test_a_receipt_of_an_earlier_bucket_is_no_receipt_of_this_one(
    use: Use, in_bucket: Any, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a change of bucket, endpoint or prefix every batch waits to be uploaded again; unchanged, none does."""
    assert waiting(store, load_settings()) == []
    changes = [
        ("TAPE_S3_BUCKET", "another-bucket"),
        ("TAPE_S3_PREFIX", "tape/trades"),
        ("TAPE_S3_ENDPOINT_URL", "http://127.0.0.1:1"),
    ]
    for name, value in changes:
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            assert waiting(store, load_settings()) == [NAME], name
    next(store.archive.rglob("*receipt.json")).write_bytes(b"{")
    assert waiting(store, load_settings()) == [NAME], "a receipt that cannot be read"
