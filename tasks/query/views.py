"""The view `trades` over the archive, which SQL can read but not change.

It has the archived rows of the given manifests, with `date` and `feed` from the folders, so that a condition on them
skips other files, and a condition on `symbol` skips other row groups. All use of the archive's columns is in
`_ARCHIVED`; the rest is derived from it. Times are UTC. DuckDB is imported only in this package.
"""

from collections.abc import Sequence
from pathlib import Path

import duckdb

from tasks.errors import CorruptionError
from tasks.query.hours import SessionAt
from tasks.query.prints import listed, quoted, sets
from tasks.query.sources import Sources
from tasks.records.market_session import MarketSessions, no_sessions
from tasks.records.trade import EXTRA_COLUMNS

# The archive's columns as one type each, whatever wrote the file.
_ARCHIVED = """
SELECT CAST(date AS DATE) AS date, feed, symbol, CAST(ts_event AS TIMESTAMP_NS) AS ts_event,
       CAST(ts_recv AS TIMESTAMP_NS) AS ts_recv, {values}, {extra}, {resent} AS resent, connection, recv_seq,
       {batch} AS batch
FROM {source} WHERE {condition}
"""
_NUMBERS = r"""price, size, coalesce(price_text, regexp_replace(price::VARCHAR, '\.0$', '')) AS price_text,
       coalesce(size_text, regexp_replace(size::VARCHAR, '\.0$', '')) AS size_text, conditions, session"""
# Before format 2.
_TEXTS = """TRY_CAST(price AS DOUBLE) AS price, TRY_CAST(size AS DOUBLE) AS size, price AS price_text,
       size AS size_text, CASE WHEN conditions = '' THEN [] ELSE string_split(conditions, ';') END AS conditions,
       regexp_extract({batch}, '^[^-]+-[^-]+') AS session"""
_KINDS = ("numbers", "before numbers", "before resent")
_TRADES = """
CREATE VIEW trades AS
SELECT date, feed, symbol, ts_event, ts_recv, (epoch_ns(ts_recv) - epoch_ns(ts_event)) / 1e6 AS lag_ms, price, size,
       conditions, CASE WHEN {always} THEN 'regular' ELSE session_at(epoch_ns(ts_event)) END AS market_session,
       size > 0 AND {volume} AS sets_volume, size > 0 AND {high_low} AS sets_high_low,
       size > 0 AND {open_close} AS sets_open_close,
       trade_id, sequence, side, resent, session, connection, recv_seq, batch,
       price_text, size_text
FROM ({archived})
"""
_NO_EXTRA = "NULL::BIGINT AS trade_id, NULL::BIGINT AS sequence, NULL::VARCHAR AS side"
_EMPTY = """(SELECT NULL::DATE AS date, NULL::VARCHAR AS feed, NULL::VARCHAR AS symbol, NULL::TIMESTAMP_NS AS ts_event,
NULL::TIMESTAMP_NS AS ts_recv, NULL::VARCHAR AS price, NULL::VARCHAR AS size, NULL::VARCHAR AS conditions,
NULL::BIGINT AS trade_id, NULL::BIGINT AS sequence, NULL::VARCHAR AS side,
NULL::BOOLEAN AS resent, NULL::INTEGER AS connection, NULL::BIGINT AS recv_seq, NULL::VARCHAR AS filename
WHERE false)"""
# The list of a trade's condition codes, in the columns of `trades`.
CODES = "conditions"
_LAG = "SELECT quantile_cont(lag_ms, [0.5, 0.9, 0.99]), max(lag_ms) FROM trades"


def connect(
    sources: Sources, spill: Path | None = None, sessions: MarketSessions = no_sessions, out: Path | None = None
) -> duckdb.DuckDBPyConnection:
    """Open an in-memory database with the view `trades` over these files, locked so that it can open no others.

    A statement that needs more than memory spills to the folder `spill`; without one it fails. `sessions` gives the
    exchange's market sessions. `out` is the one file that may be written. Raises CorruptionError if the files cannot be
    opened.
    """
    # Do not load or download extensions: everything needed is built in.
    settings: dict[str, str | bool | int | float | list[str]] = {
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
        "temp_directory": "" if spill is None else str(spill),
    }
    database = duckdb.connect(":memory:", config=settings)
    try:
        at_time = SessionAt(sessions)
        database.create_function("session_at", at_time, ["BIGINT"], "VARCHAR", type="arrow")  # type: ignore[call-overload]
        database.execute(_view(sources))
        readable = (*sources.batches, *sources.days, *([] if out is None else [out]))
        for rule in (
            # For a column of lists, DuckDB would read ahead a megabyte in each row group, often more than all else.
            "disable_parquet_prefetching = true",
            "parquet_metadata_cache = true",  # A footer is read for the view, and would be read again for a query.
            "enable_progress_bar = false",  # It would be drawn into the rows on stdout.
            f"allowed_paths = [{listed(readable)}]",
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


def _view(sources: Sources) -> str:
    by_feed: dict[str, list[str]] = {}
    for feed, symbol in sorted(sources.always_open):
        by_feed.setdefault(feed, []).append(symbol)
    always = [f"(feed = {quoted(feed)} AND symbol IN ({listed(some)}))" for feed, some in by_feed.items()]
    return _TRADES.format(
        always=" OR ".join(always) or "false", archived=" UNION ALL ".join(_selects(sources)),
        volume=sets("volume", CODES), high_low=sets("high_low", CODES), open_close=sets("open_close", CODES),
    )  # fmt: skip


def _selects(sources: Sources) -> list[str]:
    """Return the parts of the view: each partly wanted day, all whole days, and all batch files.

    Files with other columns are separate parts: those with prices as text, and those from before `resent` existed, in
    which it is false.
    """
    parts = [
        _select([day], "batch", _kind(sources, day), f"batch IN ({listed(some)})")
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
    source = f"read_parquet([{listed(files)}], hive_partitioning = true, filename = true)" if files else _EMPTY
    old = kind == "before resent"
    return _ARCHIVED.format(
        values=_NUMBERS if kind == "numbers" else _TEXTS.format(batch=batch),
        batch=batch, source=source, condition=condition, resent="false" if old else "resent",
        extra=_NO_EXTRA if old else ", ".join(EXTRA_COLUMNS),
    )  # fmt: skip


def _line(error: Exception) -> str:
    return " ".join(str(error).splitlines()[0].split())[:300]
