"""The views have typed and text columns, are exact, cover the given manifests, and are read-only."""

from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

import duckdb
import pytest

from tasks.archive.catalog import Catalog
from tasks.compress.parquet import compress
from tasks.errors import CorruptionError, SettingsError, TerminalError
from tasks.merge.day import merge
from tasks.query.ask import ask
from tasks.query.holdings import holding, per_symbol
from tasks.query.sources import Sources, sources_of
from tasks.query.views import add_sessions, connect, lag_ms
from tasks.records.manifest import Manifest, Removed, encode, read
from tasks.records.names import BatchName
from tasks.storage.store import Store, write_whole
from tasks.validate.schema import Limits
from tasks.validate.split import split


def rows(store: Store, sql: str, manifests: list[Path] | None = None) -> list[tuple[Any, ...]]:
    chosen = store.manifests() if manifests is None else manifests
    with connect(sources_of(store, chosen)) as database:
        add_sessions(database, store, chosen)
        return list(ask(database, sql).rows)


def test_prices_and_sizes_are_exact_beside_the_digits_as_received(archived: Store) -> None:
    """A price is exactly the decimal of its text, and a sum of products is exact."""
    found = rows(archived, "SELECT price, price_text, size, size_text FROM trades WHERE date = '2026-11-24' LIMIT 1")
    assert found == [(Decimal("100.1"), "100.10", Decimal(10), "10")]
    value = rows(archived, "SELECT sum(price * size) FROM trades WHERE symbol = 'SHIB' AND date = '2026-11-24'")
    assert value == [(Decimal("617250"),)]


@pytest.mark.parametrize("text", ["1.0000000001", "12345678901", "1e30", "0.00000000012"])
def test_what_would_have_to_be_rounded_is_null(store: Store, sealed_batch: Any, text: str) -> None:
    """A text with more digits than the type is NULL as a number, and itself as text."""
    name = sealed_batch([f"1,1,1795530600000000000,1795530600000000000,A,{text},1,\n".encode()])
    split(store, name, Limits(None, None))
    compress(store, name)
    assert rows(store, "SELECT price, price_text FROM trades") == [(None, text)]


def test_times_keep_their_nanoseconds(archived: Store) -> None:
    """A receive time is shown to the nanosecond, in UTC."""
    assert rows(archived, "SELECT ts_recv FROM trades ORDER BY ts_recv LIMIT 1") == [("2026-11-24 14:30:00.007000001",)]


def test_gaps_and_sessions_tell_what_the_records_say(archived: Store) -> None:
    """A session with a record has an outcome, one without has its batches; a gap is one row per symbol."""
    found = rows(archived, "SELECT session, outcome, batches, trades, gaps FROM sessions ORDER BY 1")
    assert found == [("20261124T143000Z-9f3c01ab", "complete", 1, 7, 1), ("20261125T143000Z-00c0ffee", None, 1, 7, 0)]
    gaps = rows(archived, "SELECT symbol, end_at, reason FROM gaps ORDER BY 1")
    assert gaps == [(symbol, "2026-11-24 14:30:02.000000003", "reconnect") for symbol in ("AAPL", "SHIB")]


def test_a_session_without_a_record_tells_of_no_gap(archived: Store) -> None:
    """Without a session record there are no gaps, because seals may lack gaps noticed later."""
    (archived.sessions / "20261124T143000Z-9f3c01ab" / "session.json").unlink()
    assert rows(archived, "SELECT count(*) FROM gaps") == [(0,)]


def test_an_empty_archive_has_empty_views(store: Store) -> None:
    """Before the first batch every view is there, without rows."""
    for view in ("trades", "gaps", "sessions"):
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
    """An unreadable first file raises a one-line error that names it."""
    file = next(archived.manifests(date="2026-11-24")[0].parent.glob("*.parquet"))
    file.write_bytes(b"PAR1 no more PAR1")
    with pytest.raises(CorruptionError, match=file.name) as caught:
        rows(archived, "SELECT 1")
    assert "\n" not in str(caught.value)


def test_a_file_without_a_manifest_is_no_part_of_the_archive(archived: Store) -> None:
    """Leftovers of a killed step are ignored."""
    folder = archived.manifests(date="2026-11-24")[0].parent
    parquet = next(folder.glob("*.parquet"))
    parquet.with_name("20261124T143000Z-9f3c01ab-0-000009.parquet").write_bytes(parquet.read_bytes())
    assert rows(archived, "SELECT count(*) FROM trades") == [(14,)]


def test_a_missing_file_is_named(archived: Store) -> None:
    """A manifest without its file raises an error that says how to restore it."""
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
    """A statement other than SELECT is rejected with a hint and changes nothing."""
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
    """Other files, folders, and hosts cannot be read, not even files beside the archived ones."""
    other, unlisted = tmp_path / "other.csv", archived.archive / "unlisted.csv"
    for path in (other, unlisted):
        path.write_text("a,b\n1,PRIVATE\n")
    named = source.format(other=other, folder=tmp_path, archive=archived.archive)
    with pytest.raises(SettingsError) as caught:
        rows(archived, f"SELECT * FROM {named}")
    assert "PRIVATE" not in str(caught.value)


def test_an_explanation_of_a_select_is_given(archived: Store) -> None:
    """EXPLAIN, with or without ANALYZE, works for read-only statements."""
    for words in ("EXPLAIN", "explain analyze", "EXPLAIN (FORMAT json)"):
        assert rows(archived, f"{words} SELECT count(*) FROM trades WHERE symbol = 'SHIB'")


def test_what_memory_does_not_hold_lies_in_the_folder_given(archived: Store, tmp_path: Path) -> None:
    """The spill folder cannot be changed by a statement and is not the working directory."""
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
    """An error is one line, with the probable intention."""
    with pytest.raises(SettingsError) as caught:
        rows(archived, sql)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_rows_come_before_all_are_found(store: Store) -> None:
    """The first rows of an answer larger than memory arrive at once."""
    with connect(Sources()) as database:
        answer = ask(database, "SELECT i, i + 1 AS next FROM range(100000000000) t(i)")
        assert answer.columns == ("i", "next")
        assert [next(answer.rows) for _ in range(3)] == [(0, 1), (1, 2), (2, 3)]


def test_another_layout_is_decoded_once(archived: Store) -> None:
    """A batch in another encoding than A is converted into a cache and queried there."""
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
    """Rows, reasons, and symbols of two batches are added up."""
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
    """Close the first day, so that its batches of two sessions are in its merged file too."""
    merge(archived, "finnhub", "2026-11-24")
    return archived


def remove(store: Store, date: str, why: Literal["merged", "age", "space"] = "merged") -> None:
    """Remove that day's batch files as the retention rule does."""
    for path in store.manifests(date=date):
        name = BatchName.parse(path.name)
        write_whole(
            path.with_name(name.removed),
            encode(Removed(batch=str(name), file=f"{name}.parquet", removed_ns=1, why=why, held_in=("bucket x",))),
        )
        path.with_name(f"{name}.parquet").unlink()


def test_a_closed_day_is_read_from_its_merged_file(archived: Store) -> None:
    """Rows, columns, and types are the same before a day is closed, after it, and without its batch files."""
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


def test_of_a_closed_day_only_the_wanted_batches_are_seen(closed: Store, sealed_batch: Any) -> None:
    """A session's trades on a shared day are only its own; a later batch is read in addition to the day's file."""
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
    """Rows that are only in the bucket raise an error with the command that restores them."""
    remove(archived, "2026-11-24", "age")
    with pytest.raises(TerminalError, match=r"bucket x; `tape restore --date 2026-11-24`"):
        rows(archived, "SELECT 1")
