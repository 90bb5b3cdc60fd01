"""The page of a run in Prefect's UI: one artifact, written anew each minute and at the end.

What it shows comes from the files beside the recording, read by the process that watches the recorder: it costs the
recorder nothing. It is written from a thread of its own, because an API that hangs must not hold up the capture.
"""

import datetime as dt
import shutil
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from prefect import get_run_logger
from prefect.artifacts import create_markdown_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactUpdate
from prefect.runtime import flow_run

from flows.bucket import bucket_of
from flows.orchestrator import beside, is_alone, meanwhile
from flows.pictures import gap_picture, lag_picture, trades_picture
from flows.runs import LastPage, keep_page
from flows.settings import Settings
from tasks.archive.batch_facts import BatchFacts, reasons_of, total_counts
from tasks.archive.catalog import Catalog
from tasks.market.hours import exchange_zone
from tasks.query.holdings import per_symbol
from tasks.query.minutes import Minute, Minutes
from tasks.records.coverage import coverage, notable
from tasks.records.ledger import Coverage, Gap, Ledger, Request, TradeCounts
from tasks.records.names import BatchName
from tasks.records.status import Status, read_status
from tasks.records.trade import NS_PER_S
from tasks.shown import count, in_markdown, share
from tasks.storage.store import Store
from tasks.verify.account import sessions_for

_EVERY_S = 60.0
_FINAL_WITHIN_S = 30.0
_LISTED = 10
# Of how many bytes at the end of a journal the lag of this moment is computed.
_TAIL_BYTES = 64 << 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is known of a run's request at `now_ns` (UTC ns): the content of its page.

    `lag_ms` is the median lag of the last trades in the journals; `rate` is in trades per second, `silent` has the
    symbols without a trade since the page was written before; each is None or empty if nothing is being recorded.
    `asked` counts the trades within the request's time, which are known once it has ended: a session can have more.
    """

    now_ns: int
    request: Request
    statuses: tuple[Status, ...]
    coverage: Coverage
    trades: TradeCounts
    per_symbol: Mapping[str, int]
    reasons: Mapping[str, int]
    waiting: int
    minutes: Sequence[Minute]
    free_bytes: int
    recorded_bytes: int
    to_upload: int | None = None
    asked: int | None = None
    rate: float | None = None
    lag_ms: float | None = None
    silent: tuple[str, ...] = ()


def summary(trades: int, symbols: int, covered: Coverage) -> str:
    """Return a recording in one line: `47,963 trades of 25 symbols, 0 gaps, 100 % of market hours`."""
    part, whole = covered.judged
    gaps = count(len(notable(covered.gaps)), "gap")
    return f"{count(trades, 'trade')} of {count(symbols, 'symbol')}, {gaps}, {share(part)} of {whole}"


class RunPage:
    """The artifact of one run. Without Prefect it shows nothing."""

    def __init__(self, settings: Settings, request: Request, key: str, title: str) -> None:
        self._settings, self._request, self._title = settings, request, title
        self._key = key.lower()
        self._id: Any = None
        self._minutes = Minutes()
        self._before: tuple[int, Counter[str]] | None = None
        self._writing = threading.Lock()

    @contextmanager
    def kept_up(self, every_s: float = _EVERY_S) -> Iterator[None]:
        """Write the page at once and every so many seconds while the block runs."""
        if is_alone() or flow_run.id is None:
            yield
            return
        with meanwhile(lambda over: self._keep_up(over, every_s), wait_s=0.0):
            yield

    def _keep_up(self, over: threading.Event, every_s: float) -> None:
        while True:
            self._write(over=over)
            if over.wait(every_s):
                return

    def write(self, ledger: Ledger | None = None, failed: str | None = None, trades: int | None = None) -> None:
        """Write the final page; `failed` says why the run fails, `trades` counts those that it asked for.

        An error is only logged, and an API that is away holds nothing up for long: a page is worth no trade.
        """
        if not is_alone() and flow_run.id is not None:
            beside(lambda: self._write(ledger, failed, trades), _FINAL_WITHIN_S)

    def _write(
        self,
        ledger: Ledger | None = None,
        failed: str | None = None,
        trades: int | None = None,
        over: threading.Event | None = None,
    ) -> None:
        try:
            text = page(self._title, replace(self._facts(), asked=trades), self._settings, ledger, failed)
            # The watchdog sends the final page if the API is away longer than the run goes on.
            last = LastPage(self._key, self._title, text)
            kept = keep_page(Store(self._settings.data_dir), last) if over is None else None
            with self._writing:
                if over is None or not over.is_set():  # The final page is not followed by an older one.
                    self._send(text)
            if kept is not None:
                kept.unlink(missing_ok=True)
        except Exception as error:
            get_run_logger().warning("the page of this run could not be written: %s", type(error).__name__)

    def _send(self, text: str) -> None:
        if self._id is None:
            self._id = create_markdown_artifact(text, key=self._key, description=self._title)
            return
        with get_client(sync_client=True) as client:
            client.update_artifact(self._id, ArtifactUpdate(data=text))

    def _facts(self) -> Facts:
        now_ns, store = time.time_ns(), Store(self._settings.data_dir)
        catalog, request = Catalog(store), self._request
        sessions = sessions_for(store, request)
        names = catalog.names()
        known = [catalog.facts(name) for each in sessions for name in names.get(each.session, [])]
        manifests = {each.session: store.manifests(session=each.session) for each in sessions}
        running = [each.session for each in sessions if each.outcome == "recording"]
        statuses = tuple(status for session in running if (status := read_status(store.sessions / session)) is not None)
        rate, silent = self._since_before(now_ns, statuses)
        bucket, usage = bucket_of(self._settings), shutil.disk_usage(self._settings.data_dir)
        ended = [path for session, paths in manifests.items() if session not in running for path in paths]
        counts = Counter(per_symbol(ended))
        for status in statuses:
            counts.update(status.per_symbol)
        return Facts(
            now_ns=now_ns, request=request, statuses=statuses,
            coverage=coverage([_until(request, now_ns)], sessions), trades=_counts(known, statuses),
            per_symbol=counts, reasons=reasons_of(known), waiting=sum(each.state != "archived" for each in known),
            minutes=self._minutes.of(_files(path for paths in manifests.values() for path in paths)),
            free_bytes=usage.free, recorded_bytes=sum(each.bytes for each in known),
            to_upload=None if bucket is None else len(catalog.awaiting_upload(bucket.place)),
            rate=rate, lag_ms=_lag_now(store, running), silent=silent,
        )  # fmt: skip

    def _since_before(self, now_ns: int, statuses: Sequence[Status]) -> tuple[float | None, tuple[str, ...]]:
        """Return the trades per second and the silent symbols since the page was written before."""
        counts = Counter[str]()
        for status in statuses:
            counts.update({symbol: status.per_symbol.get(symbol, 0) for symbol in status.symbols})
        before, self._before = self._before, (now_ns, counts)
        if before is None or not statuses or now_ns <= before[0]:
            return None, ()
        new = counts.total() - before[1].total()
        silent = tuple(symbol for symbol in counts if counts[symbol] == before[1].get(symbol, 0))
        return max(0, new) * NS_PER_S / (now_ns - before[0]), silent


def page(title: str, facts: Facts, settings: Settings, ledger: Ledger | None, failed: str | None) -> str:
    """Return the page as Markdown, the verdict first."""
    zone = exchange_zone(settings.calendar)
    trades = facts.trades.received if facts.asked is None else facts.asked
    line = summary(trades, len(facts.request.current), facts.coverage)
    open_gaps = [gap for status in facts.statuses for gap in status.open_gaps]
    parts = [
        f"# {_mark(facts, ledger, failed, open_gaps)} {title}",
        f"**{line}**",
        *([f"🔴 {in_markdown(failed)}"] if failed else []),
        *(f"🔴 **cannot receive {count(len(gap.symbols), 'symbol')}** since {_clock(gap.start_ns, zone)}: "
          f"{in_markdown(gap.reason)}" for gap in open_gaps[:_LISTED]),
        "\n".join(["| | |", "| --- | --- |", *(f"| {name} | {text} |" for name, text in _rows(facts, settings, zone))]),
        *_pictures(facts, zone),
        *_gap_table(facts, zone),
        *_ledger_table(ledger),
    ]  # fmt: skip
    return "\n\n".join(parts) + "\n"


def _mark(facts: Facts, ledger: Ledger | None, failed: str | None, open_gaps: Sequence[Gap]) -> str:
    if failed is not None or open_gaps:
        return "🔴"
    if ledger is None:
        return "🟢" if facts.statuses else "🟡"
    return "✅" if ledger.balances else "🔴"


def _rows(facts: Facts, settings: Settings, zone: ZoneInfo) -> Iterator[tuple[str, str]]:
    request, minutes, trades = facts.request, facts.minutes, facts.trades
    whole_ns = max(1, request.end_ns - request.start_ns)
    done = (facts.now_ns - request.start_ns) / whole_ns
    state = ", ".join(status.state for status in facts.statuses) or "ended"
    yield (
        "state",
        (
            f"{state}, {100 * min(1.0, max(0.0, done)):.0f} % of {_clock(request.start_ns, zone)} to "
            f"{_clock(request.end_ns, zone)} ({zone.key})"
        ),
    )
    rate = "" if facts.rate is None else f"; {facts.rate:,.1f}/s now"
    most = max((each.trades for each in minutes), default=0)
    yield "trades", f"{trades.received:,}{rate}" + (f"; at most {most:,} a minute" if most else "")
    shares = {name: part for name, each in facts.coverage.per_symbol.items() if (part := each.judged[0]) is not None}
    worst = sorted((part, name) for name, part in shares.items() if part < 1)[:3]
    named = ", ".join(f"{in_markdown(name)} {share(part)}" for part, name in worst)
    part, whole = facts.coverage.judged
    yield "coverage", f"{share(part)} of {whole}" + (f"; lowest: {named}" if named else "")
    now = "" if facts.lag_ms is None else f"{facts.lag_ms:,.0f} ms now; "
    yield "lag", now + (f"worst {max(each.most_ms for each in minutes):,.0f} ms" if minutes else "not known yet")
    if facts.statuses:
        more = f" and {len(facts.silent) - _LISTED:,} more" if len(facts.silent) > _LISTED else ""
        yield "silent since the last look", ", ".join(map(in_markdown, facts.silent[:_LISTED])) + more or "none"
    never = [symbol for symbol in request.current if not facts.per_symbol.get(symbol)]
    yield "no trade yet" if facts.statuses else "without a trade", (
        ", ".join(map(in_markdown, never[:_LISTED])) + (f" and {len(never) - _LISTED:,} more" if len(never) > _LISTED
                                                        else "") or "none"
    )  # fmt: skip
    reasons = ", ".join(f"{in_markdown(reason)} {number:,}" for reason, number in list(facts.reasons.items())[:_LISTED])
    yield "quarantined", f"{trades.quarantined + trades.refused:,}" + (f" ({reasons})" if reasons else "")
    yield (
        "batches waiting",
        f"{facts.waiting:,} to archive" + ("" if facts.to_upload is None else f", {facts.to_upload:,} to upload"),
    )
    yield "archive", f"{in_markdown(settings.data_dir / 'archive')}, {facts.recorded_bytes / 1e6:,.1f} MB of this"
    bucket = bucket_of(settings)
    if bucket is not None:
        yield "bucket", in_markdown(f"s3://{bucket.name}/{bucket.prefix}")
    yield "disk", f"{facts.free_bytes / 1e9:,.1f} GB free{_lasts(facts)}"


def _lasts(facts: Facts) -> str:
    """Return how long the free disk space lasts at this recording's pace, if that can be said."""
    passed_ns = min(facts.now_ns, facts.request.end_ns) - facts.request.start_ns
    if not facts.recorded_bytes or passed_ns <= 0:
        return ""
    whole_bytes = facts.recorded_bytes * (facts.request.end_ns - facts.request.start_ns) / passed_ns
    return f", enough for {facts.free_bytes / whole_bytes:,.0f} more recordings like this one"


def _pictures(facts: Facts, zone: ZoneInfo) -> Iterator[str]:
    request = facts.request
    span = (request.start_ns, max(request.end_ns, request.start_ns + NS_PER_S))
    if facts.minutes:
        yield trades_picture(facts.minutes, span, zone)
    yield gap_picture(notable(facts.coverage.gaps), request.hours, span, facts.now_ns, zone)
    if facts.minutes:
        yield lag_picture(facts.minutes, span, zone)


def _gap_table(facts: Facts, zone: ZoneInfo) -> Iterator[str]:
    gaps = notable(facts.coverage.gaps)
    if not gaps:
        return
    lines = ["| gap from | to | lasted | symbols | reason |", "| --- | --- | --- | --- | --- |"]
    for gap in gaps[:50]:
        end_ns = facts.now_ns if gap.end_ns is None else gap.end_ns
        names = ", ".join(map(in_markdown, gap.symbols[:5]))
        more = f" and {len(gap.symbols) - 5:,} more" if len(gap.symbols) > 5 else ""
        lines.append(
            f"| {_clock(gap.start_ns, zone)} | {_clock(end_ns, zone)} | {(end_ns - gap.start_ns) / NS_PER_S:,.1f} s "
            f"| {names}{more} | {in_markdown(gap.reason)} |"
        )
    yield "\n".join(lines)
    if len(gaps) > 50:
        yield f"and {len(gaps) - 50:,} more gaps: `tape show` lists them"


def _ledger_table(ledger: Ledger | None) -> Iterator[str]:
    if ledger is None:
        return
    yield f"**{ledger.record.session}: the ledger {'balances' if ledger.balances else 'DOES NOT BALANCE'}**"
    lines = ["| law | count | must equal | count | |", "| --- | ---: | --- | ---: | --- |"]
    lines += [
        f"| {left} | {a:,} | {right} | {b:,} | {'holds' if a == b else '🔴'} |" for left, a, right, b in ledger.laws()
    ]
    yield "\n".join(lines)


def _until(request: Request, now_ns: int) -> Request:
    """Return the request up to this moment: what is still to come is not missing."""
    return replace(request, until_ns=max(request.start_ns, min(request.until_ns, now_ns)))


def _counts(known: list[BatchFacts], statuses: Sequence[Status]) -> TradeCounts:
    """Return the trades of these batches; of a running session, those in open journals are received too."""
    counts = total_counts([each.trades for each in known], TradeCounts)
    written = sum(status.trades for status in statuses)
    return replace(counts, received=max(counts.received, written)) if statuses else counts


def _files(manifests: Iterable[Path]) -> Iterator[Path]:
    """Yield the archived files of these batches that are still here."""
    for path in manifests:
        for archived in BatchName.parse(path.name).archives:
            if (file := path.with_name(archived)).exists():
                yield file


def _lag_now(store: Store, running: Sequence[str]) -> float | None:
    """Return the median lag (ms) of the last trades in these sessions' open journals, or None without one."""
    lags = []
    for session in running:
        for path in (store.spool / session).glob("*.csv.open"):
            with suppress(OSError), path.open("rb") as file:
                file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
                for line in file.read().split(b"\n")[1:-1]:  # The first and the last may be parts of lines.
                    fields = line.split(b",", 4)
                    if len(fields) == 5 and fields[2].isdigit() and fields[3].isdigit():
                        lags.append(int(fields[2]) - int(fields[3]))
    return sorted(lags)[len(lags) // 2] / 1e6 if lags else None


def _clock(ns: int, zone: ZoneInfo) -> str:
    return f"{dt.datetime.fromtimestamp(ns // NS_PER_S, zone):%H:%M:%S}"
