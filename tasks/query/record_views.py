"""The views `sessions`, `gaps`, `coverage`, and `days`: what the records say, as tables that SQL can join with trades.

All are limited to the same days as the trades. They are built from the sessions' records and the manifests alone.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from tasks.archive.catalog import Catalog
from tasks.query.coverage import minutes_of
from tasks.query.day_view import gaps_on, records_touching
from tasks.records.ledger import Gap, SessionRecord
from tasks.records.manifest import Manifest, read
from tasks.records.market_session import MarketSessions, no_sessions
from tasks.records.names import BatchName
from tasks.storage.store import Store

VIEWS = ("sessions", "gaps", "coverage", "days")

_TIME = pa.timestamp("ns")
_GAPS = pa.schema(
    [("session", pa.string()), ("symbol", pa.string()), ("start_at", _TIME), ("end_at", _TIME), ("reason", pa.string())]
)
_SESSIONS = pa.schema(
    [
        ("session", pa.string()), ("feed", pa.string()), ("outcome", pa.string()), ("started_at", _TIME),
        ("ended_at", _TIME), ("symbols", pa.list_(pa.string())), ("batches", pa.int64()), ("trades", pa.int64()),
        ("bytes", pa.int64()), ("gaps", pa.int64()),
    ]
)  # fmt: skip
_DAYS = pa.schema(
    [
        ("feed", pa.string()), ("date", pa.string()), ("sessions", pa.int64()), ("symbols", pa.int64()),
        ("batches", pa.int64()), ("trades", pa.int64()), ("bytes", pa.int64()), ("closed", pa.bool_()),
    ]
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Days:
    """Days (YYYY-MM-DD) from `first` to `last`, both included; two empty texts stand for all."""

    first: str = ""
    last: str = ""


def add_records(
    database: duckdb.DuckDBPyConnection,
    store: Store,
    manifests: Iterable[Path],
    days: Days = Days(),
    sessions: MarketSessions = no_sessions,
    only: Sequence[str] = VIEWS,
    feed: str | None = None,
) -> None:
    """Add these views of these days and of this feed, or all, including running sessions. Counts are of the manifests.

    A gap has one row per symbol, is clipped to the days, and lasts from its start until just before its end.
    """
    found = [read(path, Manifest) for path in manifests]
    records = records_touching(store, days.first, days.last, feed)
    tables = {
        "sessions": lambda: _table(_SESSIONS, _sessions(records, found, days)),
        "gaps": lambda: _table(
            _GAPS, (_gap(record, gap) for record in records for gap in gaps_on(record, days.first, days.last))
        ),
        "coverage": lambda: minutes_of(records, days.first, days.last, sessions),
        "days": lambda: _table(_DAYS, _days(store, found)),
    }
    for name in only:
        # A copy: the connection must not depend on a Python object that goes out of scope.
        database.register("incoming", tables[name]())
        exclude = "* REPLACE (CAST(date AS DATE) AS date)" if name in ("days", "coverage") else "*"
        database.execute(f"CREATE TABLE {name} AS SELECT {exclude} FROM incoming")  # noqa: S608 - our own names
        database.unregister("incoming")


def _sessions(records: Sequence[SessionRecord], manifests: Iterable[Manifest], days: Days) -> list[tuple[Any, ...]]:
    by_session: dict[str, list[Manifest]] = {record.session: [] for record in records}
    for manifest in manifests:
        by_session.setdefault(BatchName.parse(manifest.batch).session, []).append(manifest)
    known = {record.session: record for record in records}
    return [_session(session, known.get(session), some, days) for session, some in sorted(by_session.items())]


def _session(session: str, record: SessionRecord | None, batches: list[Manifest], days: Days) -> tuple[Any, ...]:
    seals = [each.seal for each in batches]
    gaps = gaps_on(record, days.first, days.last) if record else []
    symbols = record.symbols if record else sorted({symbol for seal in seals for symbol in seal.symbols})
    return (
        session, record.feed if record else seals[0].feed, record.outcome if record else None,
        record.started_ns if record else min(seal.opened_ns for seal in seals),
        record.ended_ns if record else max(seal.sealed_ns for seal in seals), list(symbols), len(batches),
        sum(each.rows for each in batches), sum(each.bytes for each in batches),
        len({(gap.start_ns, gap.end_ns, gap.reason) for gap in gaps}),
    )  # fmt: skip


def _gap(record: SessionRecord, gap: Gap) -> tuple[Any, ...]:
    return (record.session, gap.symbols[0], gap.start_ns, gap.end_ns, gap.reason)


def _days(store: Store, manifests: Iterable[Manifest]) -> list[tuple[Any, ...]]:
    by_day: dict[tuple[str, str], list[Manifest]] = {}
    for manifest in manifests:
        by_day.setdefault((manifest.seal.feed, manifest.seal.date), []).append(manifest)
    catalog = Catalog(store)
    return [
        (
            *day, len({BatchName.parse(each.batch).session for each in some}),
            len({symbol for each in some for symbol in each.report.per_symbol}), len(some),
            sum(each.rows for each in some), sum(each.bytes for each in some), catalog.is_closed(*day),
        )
        for day, some in sorted(by_day.items())
    ]  # fmt: skip


def _table(schema: pa.Schema, rows: Iterable[tuple[Any, ...]]) -> pa.Table:
    columns = list(zip(*rows, strict=True)) or [()] * len(schema)
    arrays = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
    return pa.table(arrays, schema=schema)
