"""The views: typed beside text, exact, of the manifests they are given, and read-only."""

from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tasks.errors import CorruptionError, SettingsError
from tasks.manifest import Manifest, encode, read
from tasks.query.ask import ask
from tasks.query.holdings import by_day, holding, lag_ms
from tasks.query.views import add_sessions, connect, readable
from tasks.store import Store, write_whole


def rows(store: Store, sql: str, manifests: list[Path] | None = None) -> list[tuple[Any, ...]]:
    chosen = store.manifests() if manifests is None else manifests
    with connect(readable(store, chosen)) as database:
        add_sessions(database, store, chosen)
        return list(ask(database, sql).rows)


def test_prices_and_sizes_are_exact_beside_the_digits_as_received(archived: Store) -> None:
    """A price is the decimal that its text is, and a sum of products is exact."""
    found = rows(archived, "SELECT price, price_text, size, size_text FROM trades WHERE date = '2026-11-24' LIMIT 1")
    assert found == [(Decimal("100.1"), "100.10", Decimal(10), "10")]
    value = rows(archived, "SELECT sum(price * size) FROM trades WHERE symbol = 'SHIB' AND date = '2026-11-24'")
    assert value == [(Decimal("617250"),)]


@pytest.mark.parametrize("text", ["1.0000000001", "12345678901", "1e30", "0.00000000012"])
def test_what_would_have_to_be_rounded_is_null(store: Store, sealed_batch: Any, text: str) -> None:
    """A text with more digits than the type is NULL as a number, and itself as text."""
    from tasks.compress.parquet import compress
    from tasks.validate.split import Limits, split

    name = sealed_batch([f"1,1,1795530600000000000,1795530600000000000,A,{text},1,\n".encode()])
    split(store, name, Limits(None, None))
    compress(store, name)
    assert rows(store, "SELECT price, price_text FROM trades") == [(None, text)]


def test_times_keep_their_nanoseconds(archived: Store) -> None:
    """A receive time is shown to the nanosecond, in UTC."""
    assert rows(archived, "SELECT ts_recv FROM trades ORDER BY ts_recv LIMIT 1") == [("2026-11-24 14:30:00.007000001",)]


def test_gaps_and_sessions_tell_what_the_records_say(archived: Store) -> None:
    """A session with a record tells its outcome, one without is told of by its batches; a gap is a row per symbol."""
    found = rows(archived, "SELECT session, outcome, batches, trades, gaps FROM sessions ORDER BY 1")
    assert found == [("20261124T143000Z-9f3c01ab", "complete", 1, 7, 1), ("20261125T143000Z-00c0ffee", None, 1, 7, 0)]
    gaps = rows(archived, "SELECT symbol, end_at, reason FROM gaps ORDER BY 1")
    assert gaps == [(symbol, "2026-11-24 14:30:02.000000003", "reconnect") for symbol in ("AAPL", "SHIB")]


def test_gaps_are_those_of_the_manifests_where_there_is_no_record(archived: Store) -> None:
    """A bucket holds no session's record: its gaps are those that its batches' seals tell of."""
    (archived.sessions / "20261124T143000Z-9f3c01ab" / "session.json").unlink()
    assert rows(archived, "SELECT count(*) FROM gaps") == [(2,)]


def test_an_empty_archive_has_empty_views(store: Store) -> None:
    """Before the first batch every view is there, without rows."""
    for view in ("trades", "gaps", "sessions"):
        assert rows(store, f"SELECT * FROM {view}") == []


def test_only_the_given_days_are_read(archived: Store) -> None:
    """Manifests of one day give that day's trades."""
    manifests = by_day(archived)["2026-11-25"]
    assert rows(archived, "SELECT DISTINCT date FROM trades", manifests) == [("2026-11-25",)]


def test_a_condition_on_the_date_leaves_other_files_unopened(archived: Store) -> None:
    """A damaged file of another day does not matter to a query of one day."""
    file = next(by_day(archived)["2026-11-25"][0].parent.glob("*.parquet"))
    file.write_bytes(b"PAR1 no more PAR1")
    assert rows(archived, "SELECT count(price) FROM trades WHERE date = '2026-11-24'") == [(7,)]
    with pytest.raises(SettingsError, match="Footer"):
        rows(archived, "SELECT count(price) FROM trades")


def test_a_damaged_first_file_is_named(archived: Store) -> None:
    """The file that the columns are taken from cannot be read: it is named, in one line."""
    file = next(by_day(archived)["2026-11-24"][0].parent.glob("*.parquet"))
    file.write_bytes(b"PAR1 no more PAR1")
    with pytest.raises(CorruptionError, match=file.name) as caught:
        rows(archived, "SELECT 1")
    assert "\n" not in str(caught.value)


def test_a_file_without_a_manifest_is_no_part_of_the_archive(archived: Store) -> None:
    """What a killed step left beside is not seen."""
    folder = by_day(archived)["2026-11-24"][0].parent
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
        "EXPORT DATABASE '{there}'",
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
    with connect([]) as database:
        answer = ask(database, "SELECT i, i + 1 AS next FROM range(100000000000) t(i)")
        assert answer.columns == ("i", "next")
        assert [next(answer.rows) for _ in range(3)] == [(0, 1), (1, 2), (2, 3)]


def test_another_layout_is_decoded_once(archived: Store) -> None:
    """A batch that is not of layout A is read by the archive's own reader into a cache, and asked there."""
    path = archived.manifests()[0]
    write_whole(path, encode(replace(read(path, Manifest), layout="B")))
    expected = rows(archived, "SELECT * EXCLUDE batch FROM trades WHERE date = '2026-11-24'", archived.manifests()[:1])
    (decoded,) = readable(archived, [path])
    assert "cache" in decoded.parts
    changed_ns = decoded.stat().st_mtime_ns
    assert readable(archived, [path]) == [decoded]
    assert decoded.stat().st_mtime_ns == changed_ns
    assert len(expected) == 7
    assert expected[0][:3] == ("2026-11-24", "finnhub", "AAPL")


def test_a_holding_adds_up(archived: Store) -> None:
    """Rows, reasons, symbols and gaps of two batches are added, and balance; each has the lag that it had."""
    held = holding(archived.manifests())
    assert (held.batches, held.trades, held.journalled, held.quarantined, held.uploaded) == (2, 14, 16, 2, 0)
    assert held.per_symbol == {"AAPL": 12, "SHIB": 2}
    assert list(held.reasons.values()) == [2]
    assert held.balances
    assert not replace(held, quarantined=1).balances
    assert lag_ms(readable(archived, archived.manifests())) == dict.fromkeys(("p50", "p90", "p99", "max"), 7.000001)
    assert lag_ms([]) == {}
