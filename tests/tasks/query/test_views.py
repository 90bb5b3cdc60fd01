"""The views: typed beside text, exact, of the manifests they are given, and read-only."""

import random
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import duckdb
import pyarrow.parquet as pq
import pytest
from real_days import Print

from tasks.archive.catalog import Catalog
from tasks.compress.parquet import compress
from tasks.errors import CorruptionError, SettingsError, TerminalError
from tasks.feeds.registry import feed_named
from tasks.market.hours import market_sessions
from tasks.merge.day import merge
from tasks.query.ask import ask
from tasks.query.holdings import holding, per_symbol
from tasks.query.record_views import Days, add_records
from tasks.query.sources import Sources, sources_of
from tasks.query.views import connect, lag_ms
from tasks.records.ledger import Gap, SessionRecord
from tasks.records.manifest import Manifest, Removed, encode, read
from tasks.records.names import BatchName
from tasks.storage.store import Store, write_whole
from tasks.validate.schema import Limits
from tasks.validate.split import split

ALL_DAYS = Days()


def rows(store: Store, sql: str, manifests: list[Path] | None = None, days: Days = ALL_DAYS) -> list[tuple[Any, ...]]:
    chosen = store.manifests() if manifests is None else manifests
    sessions = partial(market_sessions, calendar="XNYS")
    with connect(sources_of(store, chosen), sessions=sessions) as database:
        add_records(database, store, chosen, days, sessions)
        return list(ask(database, sql).rows)


def test_prices_and_sizes_are_numbers_beside_the_digits_as_received(archived: Store) -> None:
    """A price is the float nearest to its text, which stays beside it."""
    found = rows(archived, "SELECT price, price_text, size, size_text FROM trades WHERE date = '2026-11-24' LIMIT 1")
    assert found == [(100.1, "100.10", 10.0, "10")]
    value = rows(archived, "SELECT sum(price * size) FROM trades WHERE symbol = 'SHIB' AND date = '2026-11-24'")
    assert value == [(pytest.approx(617_250),)]


@pytest.mark.parametrize("text", ["1.0000000001", "12345678901", "1e30", "0.00000000012", "0.1234567890123456789"])
def test_a_text_of_any_length_is_kept(store: Store, sealed_batch: Any, text: str) -> None:
    """The number is as near as a float can be, and the text is as it came."""
    name = sealed_batch([f"1,1,1795530600000000000,1795530600000000000,A,{text},1,\n".encode()])
    split(store, name, Limits(None, None))
    compress(store, name)
    assert rows(store, "SELECT price, price_text FROM trades") == [(float(text), text)]


def test_times_keep_their_nanoseconds(archived: Store) -> None:
    """A receive time is shown to the nanosecond, in UTC."""
    assert rows(archived, "SELECT ts_recv FROM trades ORDER BY ts_recv LIMIT 1") == [("2026-11-24 14:30:00.007000001",)]


def test_gaps_and_sessions_tell_what_the_records_say(archived: Store) -> None:
    """A session with a record tells its outcome, one without is known by its batches; a gap is a row per symbol."""
    found = rows(archived, "SELECT session, outcome, batches, trades, gaps FROM sessions ORDER BY 1")
    assert found == [("20261124T143000Z-9f3c01ab", "complete", 1, 7, 1), ("20261125T143000Z-00c0ffee", None, 1, 7, 0)]
    gaps = rows(archived, "SELECT symbol, end_at, reason FROM gaps ORDER BY 1")
    assert gaps == [(symbol, "2026-11-24 14:30:02.000000003", "reconnect") for symbol in ("AAPL", "SHIB")]


def test_gaps_are_clipped_to_the_days(archived: Store) -> None:
    """A gap over midnight ends with the day asked for, and belongs to the next day too."""
    path = archived.sessions / "20261124T143000Z-9f3c01ab" / "session.json"
    record = read(path, SessionRecord)
    midnight_ns = 1_795_582_800_000_000_000  # 2026-11-25 00:00 in New York
    long = Gap(symbols=("AAPL",), start_ns=midnight_ns - 5, end_ns=midnight_ns + 7, reason="long")
    write_whole(path, encode(replace(record, gaps=(long,), ended_ns=midnight_ns + 10**12)))
    sql = "SELECT epoch_ns(start_at), epoch_ns(end_at) FROM gaps"
    assert rows(archived, sql, days=Days("2026-11-24", "2026-11-24")) == [(midnight_ns - 5, midnight_ns)]
    assert rows(archived, sql, days=Days("2026-11-25", "2026-11-25")) == [(midnight_ns, midnight_ns + 7)]
    assert rows(archived, sql, days=Days("2026-11-24", "2026-11-25")) == [(midnight_ns - 5, midnight_ns + 7)]
    assert rows(archived, sql, days=Days("2026-11-26", "2026-11-27")) == []


def test_coverage_has_each_minute_of_market_hours(archived: Store) -> None:
    """A session of 200 s with a gap of 2 s: a minute in it, two received, one partly, the rest not recorded."""
    sql = "SELECT minute, state, received_s, gap_s, not_recorded_s FROM coverage WHERE symbol = 'AAPL' ORDER BY minute"
    found = rows(archived, sql)
    assert len(found) == 390
    assert found[0][:2] == ("2026-11-24 14:30:00.000000000", "gap")
    assert found[0][2:] == (pytest.approx(58, abs=1e-6), pytest.approx(2, abs=1e-6), 0)
    assert [row[1:] for row in found[1:4]] == [("received", 60, 0, 0)] * 2 + [("not recorded", 20, 0, 40)]
    assert {row[1:] for row in found[4:]} == {("not recorded", 0, 0, 60)}


def test_trades_say_when_they_were_and_what_they_set(archived: Store) -> None:
    """The market session, the lag, and whether a trade counts; a price without a trade sets nothing."""
    sql = """SELECT DISTINCT market_session, lag_ms, sets_volume, sets_high_low, sets_open_close, size > 0
             FROM trades ORDER BY ALL"""
    nothing, everything = (False, False, False, False), (True, True, True, True)
    assert rows(archived, sql) == [("regular", 7.000001, *each) for each in (nothing, everything)]


def test_days_tell_what_is_archived(archived: Store) -> None:
    """A row for each feed and day, with its counts and whether it is closed."""
    merge(archived, "finnhub", "2026-11-24")
    found = rows(archived, "SELECT date, sessions, symbols, batches, trades, closed FROM days ORDER BY date")
    assert found == [("2026-11-24", 1, 2, 1, 7, True), ("2026-11-25", 1, 2, 1, 7, False)]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["volume", "high_low", "open_close"])
def test_sql_and_python_agree_about_every_real_print(real_days: Store, real_prints: list[Print], name: str) -> None:
    """How many prints of each list of codes and session set a volume, a high, and an open, by both."""
    rules = feed_named("finnhub").condition_rules
    assert rules is not None
    expected = Counter[tuple[str, bool]]()
    for each in real_prints:
        is_regular = 13.5 * 3600 <= each.at_ns // 10**9 % 86_400 < 20 * 3600  # 09:30 to 16:00 in summer
        sets = rules.sets_volume(each.codes) if name == "volume" else (
            getattr(rules, f"sets_{name}")(each.codes, regular=is_regular)
        )  # fmt: skip
        expected[";".join(each.codes), sets] += 1
    found = rows(real_days, f"SELECT conditions, sets_{name}, count(*) FROM trades GROUP BY ALL")
    assert {(";".join(codes), sets): count for codes, sets, count in found} == dict(expected)


def test_a_session_without_a_record_tells_of_no_gap(archived: Store) -> None:
    """Seals know only the gaps that had been noticed when they were made: without a record there is nothing to say."""
    (archived.sessions / "20261124T143000Z-9f3c01ab" / "session.json").unlink()
    assert rows(archived, "SELECT count(*) FROM gaps") == [(0,)]


def test_an_empty_archive_has_empty_views(store: Store) -> None:
    """Before the first batch every view is there, without rows."""
    for view in ("trades", "gaps", "sessions", "coverage", "days"):
        assert rows(store, f"SELECT * FROM {view}") == []


def test_only_the_given_days_are_read(archived: Store) -> None:
    """Manifests of one day give that day's trades."""
    manifests = archived.manifests(date="2026-11-25")
    assert rows(archived, "SELECT DISTINCT date FROM trades", manifests) == [("2026-11-25",)]


def test_a_condition_on_the_date_leaves_other_files_unopened(archived: Store) -> None:
    """A damaged file of another day does not matter to a query of one day."""
    file = next(archived.manifests(date="2026-11-25")[0].parent.glob("*.parquet"))
    file.write_bytes(b"PAR1 no more PAR1")
    assert rows(archived, "SELECT count(price) FROM trades WHERE date = '2026-11-24'") == [(7,)]
    with pytest.raises(SettingsError, match="Footer"):
        rows(archived, "SELECT count(price) FROM trades")


def test_a_damaged_first_file_is_named(archived: Store) -> None:
    """The file that the columns are taken from cannot be read: it is named, in one line."""
    file = next(archived.manifests(date="2026-11-24")[0].parent.glob("*.parquet"))
    file.write_bytes(b"PAR1 no more PAR1")
    with pytest.raises(CorruptionError, match=file.name) as caught:
        rows(archived, "SELECT 1")
    assert "\n" not in str(caught.value)


def test_a_file_without_a_manifest_is_no_part_of_the_archive(archived: Store) -> None:
    """What a killed step left beside is not seen."""
    folder = archived.manifests(date="2026-11-24")[0].parent
    parquet = next(folder.glob("*.parquet"))
    parquet.with_name("20261124T143000Z-9f3c01ab-0-000009.parquet").write_bytes(parquet.read_bytes())
    assert rows(archived, "SELECT count(*) FROM trades") == [(14,)]


def test_a_missing_file_is_named(archived: Store) -> None:
    """A manifest whose file is gone is an error that says how to bring it back."""
    next(archived.archive.rglob("*.parquet")).unlink()
    with pytest.raises(CorruptionError, match="tape restore"):
        rows(archived, "SELECT 1")


@pytest.mark.parametrize(
    "sql",
    [
        "DROP VIEW trades", "DELETE FROM sessions", "COPY trades TO '{there}'", "ATTACH '{there}'", "INSTALL httpfs",
        "CREATE TABLE t AS SELECT 1", "SET memory_limit = '1GB'", "SELECT 1; DROP VIEW trades",
        "EXPORT DATABASE '{there}'", "EXPLAIN ANALYZE COPY (SELECT 1) TO '{there}'",
        "explain (analyze, format json) copy (select 1) to '{there}'",
        "/* a */ EXPLAIN /* b */ COPY trades TO '{there}'",
        "EXPLAIN ANALYZE CREATE TABLE t AS SELECT 1", "EXPLAIN SELECT 1; COPY trades TO '{there}'",
        "WITH x AS (SELECT 1) INSERT INTO sessions (session) SELECT 'x'",
    ],
)  # fmt: skip
def test_whatever_changes_something_is_refused(archived: Store, tmp_path: Path, sql: str) -> None:
    """A statement that is no SELECT does nothing, and says what to give instead."""
    there = tmp_path / "there"
    with pytest.raises(SettingsError, match="one SELECT"):
        rows(archived, sql.format(there=there))
    assert not there.exists()


@pytest.mark.parametrize(
    "source",
    [
        "read_text('{other}')", "read_csv('{other}')", "read_blob('{other}')", "glob('{folder}/*')", "'{other}'",
        "read_parquet('{archive}/../../other.csv')", "read_json('http://127.0.0.1:1/x')", "'https://127.0.0.1:1/x.parquet'",
        "read_text('{archive}/unlisted.csv')", "duckdb_secrets()", "sqlite_scan('{other}', 't')",
    ],
)  # fmt: skip
def test_nothing_is_read_but_the_files_of_the_view(archived: Store, tmp_path: Path, source: str) -> None:
    """Other files, folders and hosts cannot be read, not even what lies beside the archived files."""
    other, unlisted = tmp_path / "other.csv", archived.archive / "unlisted.csv"
    for path in (other, unlisted):
        path.write_text("a,b\n1,PRIVATE\n")
    named = source.format(other=other, folder=tmp_path, archive=archived.archive)
    with pytest.raises(SettingsError) as caught:
        rows(archived, f"SELECT * FROM {named}")
    assert "PRIVATE" not in str(caught.value)


def test_an_explanation_of_a_select_is_given(archived: Store) -> None:
    """EXPLAIN, with and without ANALYZE, answers for what only reads."""
    for words in ("EXPLAIN", "explain analyze", "EXPLAIN (FORMAT json)"):
        assert rows(archived, f"{words} SELECT count(*) FROM trades WHERE symbol = 'SHIB'")


def test_what_memory_does_not_hold_lies_in_the_folder_given(archived: Store, tmp_path: Path) -> None:
    """Where that is cannot be changed by a statement, and is not where the command was typed."""
    spill = tmp_path / "spill"
    spill.mkdir()
    with connect(sources_of(archived, archived.manifests()), spill) as database:
        assert database.sql("SELECT current_setting('temp_directory')").fetchall() == [(str(spill),)]
        with pytest.raises(duckdb.Error, match="locked"):
            database.execute("SET temp_directory = '/'")


@pytest.mark.parametrize(
    ("sql", "says"),
    [
        ("SELEC 1", "syntax error"),
        ("SELECT prize FROM trades", 'Candidate bindings: "price"'),
        ("SELECT * FROM trade", 'Did you mean "trades"'),
        ("SELECT symbol::INT FROM trades", "Conversion"),
        ("", "one SELECT"),
    ],
)
def test_wrong_sql_is_one_clear_line(archived: Store, sql: str, says: str) -> None:
    """What is wrong is said in a line, with what was probably meant."""
    with pytest.raises(SettingsError) as caught:
        rows(archived, sql)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_rows_come_before_all_are_found(store: Store) -> None:
    """The first rows of an answer that would fill any memory are there at once."""
    with connect(Sources()) as database:
        answer = ask(database, "SELECT i, i + 1 AS next FROM range(100000000000) t(i)")
        assert answer.columns == ("i", "next")
        assert [next(answer.rows) for _ in range(3)] == [(0, 1), (1, 2), (2, 3)]


def test_another_layout_is_decoded_once(archived: Store) -> None:
    """A batch that is not of layout A is read by the archive's own reader into a cache, and asked there."""
    path = archived.manifests()[0]
    write_whole(path, encode(replace(read(path, Manifest), layout="B")))
    expected = rows(archived, "SELECT * EXCLUDE batch FROM trades WHERE date = '2026-11-24'", archived.manifests()[:1])
    (decoded,) = sources_of(archived, [path]).batches
    assert "cache" in decoded.parts
    changed_ns = decoded.stat().st_mtime_ns
    assert sources_of(archived, [path]).batches == [decoded]
    assert decoded.stat().st_mtime_ns == changed_ns
    assert len(expected) == 7
    assert expected[0][:3] == ("2026-11-24", "finnhub", "AAPL")


def test_a_holding_adds_up(archived: Store) -> None:
    """Rows, reasons and symbols of two batches are added; each has the lag that it had."""
    catalog = Catalog(archived)
    names = [BatchName.parse(path.name) for path in archived.manifests()]
    held = holding([catalog.facts(name) for name in names])
    trades = held.trades
    assert (held.batches, trades.archived, trades.refused, trades.quarantined, held.uploaded) == (2, 14, 0, 2, 0)
    assert per_symbol(archived.manifests()) == {"AAPL": 12, "SHIB": 2}
    assert list(held.reasons.values()) == [2]
    assert lag_ms(sources_of(archived, archived.manifests())) == dict.fromkeys(("p50", "p90", "p99", "max"), 7.000001)
    assert lag_ms(Sources()) == {}


EVERYTHING = "SELECT * FROM trades ORDER BY batch, connection, recv_seq"


@pytest.fixture
def closed(archived: Store) -> Store:
    """The first day closed: its batches of two sessions are in its merged file too."""
    merge(archived, "finnhub", "2026-11-24")
    return archived


def remove(store: Store, date: str, why: Literal["merged", "age", "space"] = "merged") -> None:
    """What the retention rule does to that day's batch files."""
    for path in store.manifests(date=date):
        name = BatchName.parse(path.name)
        write_whole(
            path.with_name(name.removed),
            encode(Removed(batch=str(name), file=f"{name}.parquet", removed_ns=1, why=why, held_in=("bucket x",))),
        )
        path.with_name(f"{name}.parquet").unlink()


def test_a_closed_day_is_read_from_its_merged_file(archived: Store) -> None:
    """The same rows, columns and types, whether a day is closed or not, and after its small files are gone."""
    before = rows(archived, EVERYTHING)
    merge(archived, "finnhub", "2026-11-24")
    (day,) = sources_of(archived, archived.manifests()).days
    assert "days" in day.parts
    assert rows(archived, EVERYTHING) == before
    remove(archived, "2026-11-24")
    assert rows(archived, EVERYTHING) == before
    assert [row[0] for row in rows(archived, "SELECT DISTINCT date FROM trades WHERE date < '2026-11-25'")] == [
        "2026-11-24"
    ]


def test_one_symbol_costs_its_own_bytes(store: Store, sealed_batch: Any) -> None:
    """Of a closed day, a query of one symbol reads little more than that symbol's row group."""
    chance, start_ns = random.Random(12), 1_795_530_600_000_000_000
    symbols = ("A", "B", "C", "D")
    times = sorted(chance.sample(range(10**12), 100_000))
    lines = [
        f"1,{seq},{start_ns + ns},{start_ns + ns},{symbols[seq % 4]},{seq % 90}.5,{seq % 70},1;2\n".encode()
        for seq, ns in enumerate(times, 1)
    ]
    name = sealed_batch(lines)
    split(store, name, Limits(None, None))
    compress(store, name)
    day = merge(store, "finnhub", "2026-11-24")
    assert day is not None
    file = next(store.days.rglob("*.parquet"))
    sizes = [pq.read_metadata(file).row_group(group).num_rows for group in range(2)]
    assert sizes == [50_000, 50_000]

    def asked(symbol: str) -> int:
        sql = f"SELECT count(*), max(conditions) FROM trades WHERE symbol = '{symbol}'"
        with connect(sources_of(store, store.manifests(), (symbol,))) as database:
            before = bytes_read()
            assert database.execute(sql).fetchall() == [(25_000, ["1", "2"])]
            return bytes_read() - before

    asked("D")  # What DuckDB imports for the first query.
    assert asked("A") < 0.2 * day.bytes


def bytes_read() -> int:
    """What this process has read by system calls."""
    return int(Path("/proc/self/io").read_text().split("rchar:")[1].split()[0])


def test_of_a_closed_day_only_the_wanted_batches_are_seen(closed: Store, sealed_batch: Any) -> None:
    """A session's trades of a day that has others' too are its own; a batch that came later is read beside the day."""
    name = BatchName("20261124T150000Z-0badcafe", 0, 0)
    sealed_batch(
        [b"1,1,1795530600000000000,1795530600000000000,A,7,1,\n"], name=name, date="2026-11-24", symbols=("A",)
    )
    split(closed, name, Limits(None, None))
    compress(closed, name)
    manifests = closed.manifests(date="2026-11-24")
    counted = "SELECT batch, count(*) FROM trades GROUP BY ALL ORDER BY 1"
    first = "20261124T143000Z-9f3c01ab-0-000000"
    assert rows(closed, counted, manifests) == [(first, 7), (str(name), 1)]
    merge(closed, "finnhub", "2026-11-24")
    assert rows(closed, counted, manifests) == [(first, 7), (str(name), 1)]
    assert rows(closed, counted, manifests[1:]) == [(str(name), 1)]
    assert not sources_of(closed, manifests).batches


def test_what_was_removed_here_is_asked_for_where_it_is(archived: Store) -> None:
    """Rows that only the bucket holds are an error that says so, with the command that brings them back."""
    remove(archived, "2026-11-24", "age")
    with pytest.raises(TerminalError, match=r"bucket x; `tape restore --date 2026-11-24`"):
        rows(archived, "SELECT 1")
