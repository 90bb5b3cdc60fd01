"""The views `trades`, `gaps`, and `sessions` over the archive, which SQL can read but not change.

`trades` has the archived rows of the given manifests, with `date` and `feed` from the folders, so that a condition on
them skips other files, and a condition on `symbol` skips other row groups. `price` and `size` are exact decimals, NULL
if a text needs more digits; `price_text` and `size_text` hold the digits as received. Times are UTC. DuckDB is imported
only in this package.
"""

import datetime as dt
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import duckdb

from tasks.errors import CorruptionError
from tasks.query.day_view import days_of, gaps_on
from tasks.query.sources import Sources
from tasks.records.ledger import Gap, SessionRecord
from tasks.records.manifest import Manifest, read
from tasks.records.names import BatchName
from tasks.records.sessions import record_of
from tasks.records.trade import EXTRA_COLUMNS, NS_PER_S
from tasks.storage.store import Store

# Their product has 38 digits, the maximum, and is exact; so is a sum of sizes.
PRICE, SIZE = "DECIMAL(18,9)", "DECIMAL(20,9)"
_WIDE = "DECIMAL(38,18)"

_TRADES = """
SELECT {date} AS date, {feed} AS feed, symbol, {event} AS ts_event, {recv} AS ts_recv, {price} AS price, {size} AS size,
       conditions, {extra}, {resent} AS resent, connection, recv_seq, {batch} AS batch,
       price AS price_text, size AS size_text
FROM {source} WHERE {condition}
"""
_KINDS = ("numbers", "before numbers", "before resent")
# The digits as received, and the conditions joined as in the journal.
_AS_TEXT = r"""(SELECT * REPLACE (
    coalesce(price_text, regexp_replace(price::VARCHAR, '\.0$', '')) AS price,
    coalesce(size_text, regexp_replace(size::VARCHAR, '\.0$', '')) AS size,
    array_to_string(conditions, ';') AS conditions
) FROM {source})"""
_NO_EXTRA = "NULL::BIGINT AS trade_id, NULL::BIGINT AS sequence, NULL::VARCHAR AS side"
_EMPTY = """(SELECT NULL::DATE AS date, NULL::VARCHAR AS feed, NULL::VARCHAR AS symbol, NULL::TIMESTAMP_NS AS ts_event,
NULL::TIMESTAMP_NS AS ts_recv, NULL::VARCHAR AS price, NULL::VARCHAR AS size, NULL::VARCHAR AS conditions,
NULL::BIGINT AS trade_id, NULL::BIGINT AS sequence, NULL::VARCHAR AS side,
NULL::BOOLEAN AS resent, NULL::INTEGER AS connection, NULL::BIGINT AS recv_seq, NULL::VARCHAR AS filename
WHERE false)"""
_GAPS = (
    "CREATE TABLE gaps (session VARCHAR, symbol VARCHAR, start_at TIMESTAMP_NS, end_at TIMESTAMP_NS, reason VARCHAR)"
)
# Receive time minus event time, in ms.
_LAG = """
SELECT quantile_cont(lag_ms, [0.5, 0.9, 0.99]), max(lag_ms)
FROM (SELECT (epoch_ns(ts_recv) - epoch_ns(ts_event)) / 1e6 AS lag_ms FROM trades)
"""
_SESSIONS = """CREATE TABLE sessions (session VARCHAR, feed VARCHAR, outcome VARCHAR, started_at TIMESTAMP_NS,
ended_at TIMESTAMP_NS, symbols VARCHAR[], batches BIGINT, trades BIGINT, bytes BIGINT, gaps BIGINT)"""


def connect(sources: Sources, spill: Path | None = None) -> duckdb.DuckDBPyConnection:
    """Open an in-memory database with the view `trades` over these files, locked so that it can open no others.

    A statement that needs more than memory spills to the folder `spill`; without one it fails. Raises CorruptionError
    if the files cannot be opened.
    """
    # Do not load or download extensions: everything needed is built in.
    settings: dict[str, str | bool | int | float | list[str]] = {
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
        "temp_directory": "" if spill is None else str(spill),
    }
    database = duckdb.connect(":memory:", config=settings)
    try:
        database.execute("CREATE VIEW trades AS " + " UNION ALL ".join(_selects(sources)))
        for rule in (
            f"allowed_paths = [{_listed((*sources.batches, *sources.days))}]",
            "enable_external_access = false",
            "lock_configuration = true",
        ):
            database.execute(f"SET {rule}")
    except duckdb.Error as error:
        first = next(iter((*sources.batches, *sources.days)), "the archive")
        raise CorruptionError(f"{first}: cannot be read ({_line(error)}); run `tape verify`") from error
    return database


def lag_ms(sources: Sources) -> dict[str, float]:
    """Return percentiles ("p50", "p90", "p99", "max") of receive time minus event time over these files."""
    with connect(sources) as database:
        row = database.execute(_LAG).fetchone()
    if row is None or row[1] is None:
        return {}
    return dict(zip(("p50", "p90", "p99", "max"), (*row[0], row[1]), strict=True))


def _selects(sources: Sources) -> list[str]:
    """Return the parts of the view: each partly wanted day, all whole days, and all batch files.

    Files with other columns are separate parts: those with prices as text, and those from before `resent` existed, in
    which it is false.
    """
    parts = [
        _select([day], "batch", _kind(sources, day), f"batch IN ({_listed(some)})")
        for day, some in sources.days.items()
        if some
    ]
    whole = [day for day, wanted in sources.days.items() if not wanted]
    for kind in _KINDS:
        days = [day for day in whole if _kind(sources, day) == kind]
        batches = [file for file in sources.batches if _kind(sources, file) == kind]
        parts += [_select(days, "batch", kind)] if days else []
        parts += [_select(batches, "parse_filename(filename, true)", kind)] if batches else []
    return parts or [_select((), "parse_filename(filename, true)")]


def _kind(sources: Sources, file: Path) -> str:
    if file in sources.before_resent:
        return "before resent"
    return "before numbers" if file in sources.before_numbers else "numbers"


def _select(files: Sequence[Path], batch: str, kind: str = "before numbers", condition: str = "true") -> str:
    source = f"read_parquet([{_listed(files)}], hive_partitioning = true, filename = true)" if files else _EMPTY
    if kind == "numbers":
        source = _AS_TEXT.format(source=source)
    old = kind == "before resent"
    return _TRADES.format(
        date="CAST(date AS DATE)", feed="feed", event="CAST(ts_event AS TIMESTAMP_NS)",
        recv="CAST(ts_recv AS TIMESTAMP_NS)", price=_exact("price", PRICE), size=_exact("size", SIZE),
        batch=batch, source=source, condition=condition, resent="false" if old else "resent",
        extra=_NO_EXTRA if old else ", ".join(EXTRA_COLUMNS),
    )  # fmt: skip


def add_sessions(
    database: duckdb.DuckDBPyConnection, store: Store, manifests: Iterable[Path], date: str | None = None
) -> None:
    """Add `sessions` and `gaps` (one row per symbol) of one date or all, including running sessions.

    Both come from the sessions' records; counts come from these manifests. Gaps are clipped to the date.
    """
    found = [read(path, Manifest) for path in manifests]
    records = {
        record.session: record
        for folder in store.sessions.glob("*")
        if (record := record_of(folder)) is not None and (date is None or date in days_of(record, time.time_ns()))
    }
    by_session: dict[str, list[Manifest]] = {session: [] for session in records}
    for manifest in found:
        by_session.setdefault(BatchName.parse(manifest.batch).session, []).append(manifest)
    database.execute(_GAPS)
    database.execute(_SESSIONS)
    for session, batches in sorted(by_session.items()):
        record = records.get(session)
        gaps = gaps_on(record, date) if record else []
        count = len({(gap.start_ns, gap.end_ns, gap.reason) for gap in gaps})
        _insert(database, "sessions", [_session(session, record, batches, count)])
        _insert(database, "gaps", [row for gap in gaps for row in _gap(session, gap)])


def _session(session: str, record: SessionRecord | None, batches: list[Manifest], gaps: int) -> tuple[Any, ...]:
    seals = [each.seal for each in batches]
    symbols = record.symbols if record else sorted({symbol for seal in seals for symbol in seal.symbols})
    started_ns = record.started_ns if record else min(seal.opened_ns for seal in seals)
    ended_ns = record.ended_ns if record else max(seal.sealed_ns for seal in seals)
    return (
        session, record.feed if record else seals[0].feed, record.outcome if record else None, _time(started_ns),
        _time(ended_ns), list(symbols), len(batches), sum(each.rows for each in batches),
        sum(each.bytes for each in batches), gaps,
    )  # fmt: skip


def _gap(session: str, gap: Gap) -> list[tuple[Any, ...]]:
    end = None if gap.end_ns is None else _time(gap.end_ns)
    return [(session, symbol, _time(gap.start_ns), end, gap.reason) for symbol in gap.symbols]


def _insert(database: duckdb.DuckDBPyConnection, table: str, rows: list[tuple[Any, ...]]) -> None:
    if rows:
        places = ", ".join("?" * len(rows[0]))
        database.executemany(f"INSERT INTO {table} VALUES ({places})", rows)  # noqa: S608 - our own names


def _time(ns: int) -> str:
    """Format UTC ns as text that DuckDB parses without loss."""
    return f"{dt.datetime.fromtimestamp(ns // NS_PER_S, dt.UTC):%Y-%m-%d %H:%M:%S}.{ns % NS_PER_S:09d}"


def _exact(column: str, kind: str) -> str:
    """Return SQL for the decimal value of a text, NULL if it would have to be rounded."""
    return (
        f"CASE WHEN TRY_CAST({column} AS {kind}) = TRY_CAST({column} AS {_WIDE}) THEN TRY_CAST({column} AS {kind}) END"
    )


def _listed(texts: Iterable[object]) -> str:
    return ", ".join(_quoted(str(text)) for text in texts)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _line(error: Exception) -> str:
    return " ".join(str(error).splitlines()[0].split())[:300]
