"""Rehearses a trading day of minutes with the whole service and its faults, and compares what is shown with what is.

    python tests/rehearsal/rehearsal.py [--seconds 300] [--seed 7] [--keep FOLDER]

A real Prefect server on PostgreSQL, a real worker, the watchdog, a real object store, and a feed that replays a minute
of a tape each second. The day begins by its schedule and ends by its exchange's early close. Between them the feed is
dropped, the recorder killed, the store and the API away, worker and flow killed; over the end the API is away, too.
After each fault the states and the page in Prefect are compared with processes and files, and in the end every trade
that the feed sent with the archive. A line for each phase says what was checked; at the first mismatch it ends with 1.
"""

import argparse
import datetime as dt
import os
import re
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2]))

from conftest import WeedServer
from feed import KEY, SYMBOLS, Feed
from installation import Installation, at_noon
from recorded import Recorded
from rehearsal_exchange import NAME
from shown import Api, gap_rows
from tape_trades import read_trades
from webhook import Receiver

from flows.run_page import summary
from tasks.records.coverage import BEGAN_LATE, NO_RECORDING, notable
from tasks.records.ledger import Gap, Request
from tasks.records.trade import NS_PER_S, Trade
from tasks.shown import in_markdown
from tasks.verify.account import account_of, ledger_for

OPENS_AFTER_S, OPEN_BEFORE_S, CLOSE_AFTER_S = 15, 5, 10
# Ceilings for a hang: a busy machine takes a multiple of what is usual.
WITHIN_S = 120.0
# Where a server with a new database takes longer to start, the day is longer: the machine is busy.
_STARTS_IN_S = 20.0
# What was on its way when a gap began is lost with it; on a loaded machine the recorder may have waited for its turn.
TRANSIT_NS, RETURN_NS = 2 * NS_PER_S, NS_PER_S // 2


# What comes before the first connection is in no session's list of gaps.
_BEGINNING = {in_markdown(reason) for reason in (NO_RECORDING, BEGAN_LATE)}


class Mismatch(Exception):
    """Raised where something is not as it should be, or is not shown as it is."""


def check(holds: object, what: str) -> None:
    """Raise Mismatch unless it holds."""
    if not holds:
        raise Mismatch(what)


def until(condition: Callable[[], Any], what: str, within_s: float = WITHIN_S) -> Any:
    """Wait until a condition is true, and return its value."""
    end_s = time.monotonic() + within_s
    while not (value := condition()):
        check(time.monotonic() < end_s, f"not within {within_s:.0f} s: {what}")
        time.sleep(0.05)
    return value


@dataclass(frozen=True, slots=True)
class Plan:
    """When the schedule fires, and when the exchange opens and closes; each in the exchange's zone."""

    fires: dt.datetime
    opens: dt.datetime
    closes: dt.datetime


@dataclass(frozen=True, slots=True)
class Known:
    """How things stood at a time (Unix seconds): trades journaled, and gaps."""

    at_s: float
    trades: int
    gaps: tuple[Gap, ...]


@dataclass
class Rehearsal:
    """One day; `say` prints a line for each phase."""

    house: Installation
    feed: Feed
    store: WeedServer
    receiver: Receiver
    seconds: float
    api: Api = field(init=False)
    recorded: Recorded = field(init=False)
    plan: Plan = field(init=False)
    begun_s: float = field(default_factory=time.monotonic)
    known: "list[Known]" = field(default_factory=list)

    def __post_init__(self) -> None:
        self.api, self.recorded = Api(self.house), Recorded(self.house.store)

    def say(self, phase: str, what: str) -> None:
        """Print a phase that is over."""
        self.mark()
        print(f"{time.monotonic() - self.begun_s:5.0f} s  {phase}: {what}", flush=True)

    def run(self) -> None:
        """The day, phase by phase. Raises Mismatch."""
        self.set_up()
        self.scheduled_start()
        self.open()
        self.feed_dropped()
        self.recorder_killed()
        self.store_away()
        self.worker_and_flow_killed()
        self.api_away()
        self.api_away_over_the_end()
        self.closed()
        self.alarms()
        self.archive_is_what_was_sent()
        self.verified()

    # Before the open

    def set_up(self) -> None:
        """Start the server, deploy, and start worker and watchdog."""
        begun_s = time.monotonic()
        self.house.start_server()
        database = "PostgreSQL" if self.house.database else "SQLite, as PostgreSQL is not installed"
        # Deploying takes as long as the server's start, or less; a schedule in the past never fires.
        started_s = time.monotonic() - begun_s
        self.seconds *= max(1.0, started_s / _STARTS_IN_S)
        least_s = 15 + 1.5 * started_s
        while not self.deployed(least_s):
            least_s *= 2
            self.api.delete_runs()
        self.house.start_worker()
        self.house.start_watchdog()
        self.say(
            "set up",
            f"server on {database}, deployed to fire at {self.plan.fires:%H:%M}; a worker and the watchdog run",
        )

    def deployed(self, least_s: float) -> bool:
        """Deploy with a schedule that fires at the first full minute in so many seconds; False if that was too slow."""
        now = at_noon(dt.datetime.now(dt.UTC))
        fires = (now + dt.timedelta(seconds=least_s + 60)).replace(second=0, microsecond=0)
        opens = fires + dt.timedelta(seconds=round(max(OPENS_AFTER_S, least_s / 2)))  # A run takes seconds to begin.
        self.plan = Plan(fires, opens, opens + dt.timedelta(seconds=round(self.seconds)))
        self.house.schedule(fires, opens, self.plan.closes)
        done = self.house.tape("deploy")
        check(done.returncode == 0, f"tape deploy: {done.stdout}{done.stderr}")
        return dt.datetime.now(dt.UTC) < fires - dt.timedelta(seconds=5)

    def scheduled_start(self) -> None:
        """The schedule makes the run, and the worker starts it; it waits for the open."""
        (run,) = until(self.api.runs, "the schedule's run has begun", WITHIN_S + 85)
        check(run.auto_scheduled, "the run was not made by the schedule")
        check(run.expected_start_time == self.plan.fires, f"the run was due at {run.expected_start_time}")
        check(dt.datetime.now(dt.UTC) < self.plan.closes, "the day was over before the run began")
        name = f"{NAME} {self.plan.opens.date()}, {len(SYMBOLS)} symbols"
        check(run.name == name, f"the run is named {run.name!r}, not {name!r}")
        until(lambda: self.house.executors().get(str(run.id)), "a process of the worker executes the run")
        self.states_are_true()
        self.say(
            "scheduled start", f"{run.name!r} was made by the schedule for {self.plan.fires:%H:%M}, and is executed"
        )

    def open(self) -> None:
        """The recording begins with the open."""
        self.goes_on(50, "trades of the open are recorded")
        (request,) = self.recorded.requests()
        opens_ns, closes_ns = ns_of(self.plan.opens), ns_of(self.plan.closes)
        check(request.hours == ((opens_ns, closes_ns),), f"the market hours are {request.hours}")
        check(request.until_ns == closes_ns + CLOSE_AFTER_S * NS_PER_S, "the recording ends at another time")
        self.states_are_true()
        self.page_is_true()
        self.say(
            "open", f"recording since {self.plan.opens:%H:%M:%S}, until the early close at {self.plan.closes:%H:%M:%S}"
        )

    # Faults

    def feed_dropped(self) -> None:
        """Every connection to the feed is reset, and new ones are refused for some seconds."""
        self.feed.wire.cut()
        until(lambda: self.recorded.open_gaps(), "the recorder names a gap")
        (gap,) = self.recorded.open_gaps()
        self.alarm("tape.gap", lambda: self.recorded.gaps()[-1].reason)
        self.feed.wire.mend()
        self.goes_on(20, "the recording goes on")
        self.states_are_true()
        self.say("feed dropped", f"a gap, {gap.reason!r}, ended with the next connection; its alarm was received")

    def recorder_killed(self) -> None:
        """SIGKILL to the recorder: the run starts it again."""
        status = self.recorded.status()
        assert status is not None
        os.kill(status.pid, signal.SIGKILL)
        until(lambda: self.recorded.is_recorded_by_another_than(status.pid), "another recorder records")
        self.goes_on(20, "the recording goes on")
        self.alarm("tape.recorder.died", lambda: f"process {status.pid}")
        self.alarm("tape.gap", lambda: self.recorded.gaps()[-1].reason)
        self.states_are_true()
        self.say(
            "recorder killed", f"another records; a gap, {self.recorded.gaps()[-1].reason!r}; its alarm was received"
        )

    def store_away(self) -> None:
        """The store is killed, and comes back with what it had acknowledged."""
        sealed = self.recorded.sealed()
        self.store.kill()
        until(
            lambda: self.recorded.sealed() > sealed + 1 and self.recorded.waiting_for_upload() > 1,
            "batches wait for the store",
        )
        check(self.recorded.is_recording(), "the recording ended with the store")
        left = self.recorded.waiting_for_upload()
        self.states_are_true()
        self.store.start()
        self.say("store away", f"the recording went on; {left} batches were waiting when the store came back")

    def worker_and_flow_killed(self) -> None:
        """SIGKILL to worker and run: the recorder goes on, and the watchdog has another run watch over it."""
        (request,) = self.recorded.watching()
        recorder, gaps = self.recorded.status(), len(self.recorded.gaps())
        assert recorder is not None
        (running,) = [each for each in self.api.runs() if each.state_name == "Running"]
        self.house.kill("worker")
        os.kill(int(request.process.partition("/")[0]), signal.SIGKILL)
        killed, killed_s = dt.datetime.now(dt.UTC), time.monotonic()
        until(lambda: self.recorded.is_watched_by_another_than(request), "another run watches over the day")
        taken_s = time.monotonic() - killed_s
        check(taken_s < 60, f"it took {taken_s:.0f} s until another run watched over the day")
        crashed = until(lambda: self.api.run_if(running.id, "CRASHED"), "the killed run is shown as crashed")
        shown_s = time.monotonic() - killed_s
        message = crashed.state.message
        check("is gone; ended by the watchdog" in message, f"the killed run says {message!r}")
        # Whether its alarm comes is not asked: Prefect orders the events of a run by the states before them, and sends
        # none for a Scheduled that is less than five minutes old. A day's run is scheduled long before it begins.
        until(lambda: "prefect.flow-run.Crashed" in self.api.events(running.id), "the server has the event of it")
        status = self.recorded.status()
        assert status is not None
        check((status.pid, len(self.recorded.gaps())) == (recorder.pid, gaps), "the recorder did not go on")
        self.house.start_worker()
        self.states_are_true()
        self.page_is_true(since=killed)
        until(lambda: self.api.worker_polled(killed), "the new worker polls")
        self.say(
            "worker and flow killed",
            f"the recorder went on; a run watched over it after {taken_s:.0f} s, the killed one was shown as Crashed "
            f"after {shown_s:.0f} s",
        )

    def api_away(self) -> None:
        """The server is killed in the middle of the recording, and comes back."""
        self.house.kill("server")
        sealed, archived = self.recorded.sealed(), self.recorded.archived()
        self.goes_on(100, "the recording goes on without the API")
        until(lambda: self.recorded.sealed() > sealed + 1, "batches are sealed without the API")
        until(lambda: self.recorded.archived() > archived + 1, "batches are archived without the API")
        self.house.start_server()
        check(
            self.recorded.is_recording() and not self.recorded.open_gaps(),
            "the recording suffered from the API's absence",
        )
        self.states_are_true()
        self.say("API away", "the recording went on; the run is shown as running, which is true")

    def api_away_over_the_end(self) -> None:
        """The server is killed before the end, and comes back when the day's run has given up on reporting to it."""
        left_s = self.plan.closes.timestamp() - time.time()
        check(left_s > 0, f"the exchange closed {-left_s:.0f} s ago: the machine is too slow for a day of this length")
        until(lambda: time.time() > self.plan.closes.timestamp() - 3, "the end is near", left_s + WITHIN_S)
        self.states_are_true()
        self.page_is_true()
        self.house.kill("server")
        check(self.recorded.is_recording(), "the recording ended early")
        until(lambda: not self.recorded.is_recording(), "the recording ends by itself", WITHIN_S + CLOSE_AFTER_S)
        until(lambda: self.house.has_given_up, "the run has ended, and given up on reporting it", 2 * WITHIN_S)
        check(not self.recorded.store.sealed_batches(), "batches are left, though the run has ended")
        check(self.recorded.days(), "the day is not closed, though the run has ended")
        self.house.start_server()
        self.say("API away over the end", "recorded until the exchange's early close, archived, and closed without it")

    # After the close

    def closed(self) -> None:
        """The run, which could not say so itself, is shown as it ended; so is its page; the day is one file."""
        run = until(lambda: self.api.run_if(self.api.runs()[-1].id, "COMPLETED", "FAILED", "CRASHED"), "the run ends")
        check(run.state_name == "Completed", f"the run is {run.state_name}: {run.state.message}")
        check("reported by the watchdog" in run.state.message, f"the run reported itself: {run.state.message}")
        self.states_are_true()
        account = account_of(self.recorded.store, self.recorded.requests()[-1])
        said = summary(account.trades, len(SYMBOLS), account.coverage)
        check(said in run.state.message, f"the run says {run.state.message!r}, and the files {said!r}")
        check({"finnhub", NAME, str(self.plan.opens.date())} <= set(run.tags), f"the run has the tags {run.tags}")
        check(len(self.recorded.days()) == 1, f"the day has the files {self.recorded.days()}")
        check(not self.recorded.waiting_for_upload(), "batches wait for the store, though the run has ended")
        self.final_page_is_true(account)
        self.say("closed", f"shown as {run.state_name}: {run.state.message}; run, page, and files agree")

    def alarms(self) -> None:
        """Say which alarms came, and that none told of what did not happen."""
        subjects = Counter(each.partition(": ")[0] for each in self.receiver.subjects())
        check(not subjects["tape.ledger.unbalanced"], "an alarm says that a ledger is unbalanced")
        check(not subjects["tape.day.short"], "an alarm says that the day is short")
        told = ", ".join(f"{count} × {subject}" for subject, count in sorted(subjects.items()))
        self.say("alarms", f"received: {told}")

    def archive_is_what_was_sent(self) -> None:
        """Each archived trade was sent, and each that was sent and is not archived lies in a named gap."""
        request = self.recorded.requests()[-1]
        (day,) = self.recorded.days()
        archived = Counter(read_trades(day))
        sent = Counter(self.feed.sent(request.until_ns))
        check(not archived - sent, f"archived, but never sent: {next(iter(archived - sent), None)}")
        gaps = account_of(self.recorded.store, request).coverage.gaps
        missing = list((sent - archived).elements())
        for trade in missing:
            check(is_explained(trade, gaps, request), f"sent, not archived, and in no gap: {trade}")
        self.say("archive", f"{archived.total():,} trades as sent; {len(missing):,} more were sent, all within gaps")

    def verified(self) -> None:
        """The commands that an operator has for it agree."""
        for words in (("verify", "--remote"), ("check",)):
            done = self.house.tape(*words)
            check(done.returncode == 0, f"tape {' '.join(words)}: {done.stdout}{done.stderr}")
        self.say("verified", "`tape verify --remote` and `tape check` exit with 0")

    def goes_on(self, more: int, what: str) -> None:
        """Wait until no gap is open and so many more trades are recorded."""
        before = self.recorded.trades()
        until(lambda: not self.recorded.open_gaps() and self.recorded.trades() >= before + more, what)

    # What is shown, compared with what is

    def states_are_true(self) -> None:
        """Wait until each run that is shown as running has its process, and each process its run."""

        def differing() -> list[str]:
            executors = self.house.executors()
            runs = self.api.runs()
            wrong = [
                f"{run.name} is {run.state_name}, and its process is {'there' if there else 'gone'}"
                for run in runs
                if (there := executors.get(str(run.id), False)) != (run.state_type.value == "RUNNING")
            ]
            running = sum(run.state_type.value == "RUNNING" for run in runs)
            if self.recorded.is_recording() and running != 1:
                wrong.append(f"a recorder runs, and {running} runs are shown as running")
            return wrong

        until(lambda: not differing(), f"the states are true: {differing()}")

    def page_is_true(self, since: dt.datetime | None = None) -> None:
        """Compare the page, written since then, with what was known half a minute before and with what is known now.

        Its facts are read some seconds before it is written.
        """

        def written() -> Any:
            page = self.api.page(self.key())
            return page if page is not None and (since is None or page.updated > since) else None

        page = until(written, "the page is written")
        found = re.search(r"\*\*([\d,]+) trades? of (\d+) symbols?, (\d+) gaps?, ", page.data)
        check(found, f"the page has no summary: {page.data[:300]}")
        assert found is not None
        shown = int(found[1].replace(",", ""))
        old = page.updated.timestamp() - 30
        before = [each for each in self.known if each.at_s < old]
        now = self.mark()
        least = before[-1].trades if before else 0
        check(
            least <= shown <= now.trades,
            f"the page has {shown} trades; {least} were known before, {now.trades} are now",
        )
        check(int(found[2]) == len(SYMBOLS), f"the page tells of {found[2]} symbols")
        rows = set(gap_rows(page.data))
        listed = {(clock(gap.start_ns, self.plan), in_markdown(gap.reason)) for gap in now.gaps}
        unknown = {row for row in rows - listed if row[1] not in _BEGINNING}
        check(not unknown, f"the page has the gaps {unknown}, which the files do not have")
        early = {
            (clock(gap.start_ns, self.plan), in_markdown(gap.reason)) for gap in (before[-1].gaps if before else ())
        }
        check(early <= rows, f"the page lacks the gaps {early - rows}")
        check(len(rows) == int(found[3]), f"the page tells of {found[3]} gaps, and lists {rows}")

    def mark(self) -> "Known":
        """Remember how things stand now."""
        self.known.append(Known(time.time(), self.recorded.trades(), tuple(self.recorded.gaps())))
        return self.known[-1]

    def final_page_is_true(self, account: Any) -> None:
        """The final page has the figures of the ledger, exactly."""
        session = self.recorded.folders()[-1].name
        ledger = ledger_for(self.recorded.store, session)
        check(ledger.balances, f"{session} does not balance: {ledger.imbalances()}")
        end = f"**{session}: the ledger balances**"
        text = until(
            lambda: (page := self.api.page(self.key())) and end in page.data and page.data, "the final page is written"
        )
        gaps = notable(account.coverage.gaps)
        for part in (f"**{account.trades:,} trades of {len(SYMBOLS)} symbols, {len(gaps)} gap", "| ended, 100 % of "):
            check(part in text, f"{part!r} is not on the final page: {text[:600]}")
        rows = gap_rows(text)
        wanted = [(clock(gap.start_ns, self.plan), in_markdown(gap.reason)) for gap in gaps]
        check(sorted(rows) == sorted(wanted), f"the final page has the gaps {rows}, and the files {wanted}")
        check(text.startswith("# ✅"), f"the final page begins with {text[:40]!r}")
        for title in ("Trades a minute", "Timeline", "Lag from event"):
            check(f"![{title}" in text, f"the final page has no picture {title!r}")

    def alarm(self, event: str, body: Callable[[], str]) -> None:
        """Wait until an alarm of that event, with that text, was received."""

        def received() -> bool:
            return any(
                str(each.get("subject")).startswith(event) and body() in str(each.get("body"))
                for each in self.receiver.received
            )

        until(received, f"the alarm of {event} is received; {self.receiver.subjects()}")

    def key(self) -> str:
        """The key of the day's page."""
        return f"day-finnhub-{NAME}-{self.plan.opens.date()}".lower()


def ns_of(moment: dt.datetime) -> int:
    """A time in UTC ns."""
    return int(moment.timestamp()) * NS_PER_S


def clock(ns: int, plan: Plan) -> str:
    """A time as the page shows it."""
    return f"{dt.datetime.fromtimestamp(ns // NS_PER_S, plan.opens.tzinfo):%H:%M:%S}"


def is_explained(trade: Trade, gaps: Sequence[Gap], request: Request) -> bool:
    """Whether a trade that is not archived lies in a gap, or after the recording ended."""
    if trade.ts_event_ns >= request.until_ns - RETURN_NS:
        return True
    return any(
        trade.symbol in gap.symbols
        and gap.start_ns - TRANSIT_NS <= trade.ts_event_ns <= (gap.end_ns or 1 << 62) + RETURN_NS
        for gap in gaps
    )


@contextmanager
def stage(folder: Path, seconds: float, seed: int) -> Iterator[Rehearsal]:
    """Everything that a rehearsal needs; all of it is ended after the block."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(8)]
    ports = tuple(each.getsockname()[1] for each in sockets)
    for each in sockets:
        each.close()
    store = WeedServer(Path(sys.executable).with_name("weed"), folder / "weed", ports)
    feed = Feed(seed)
    with ExitStack() as stack:
        receiver = stack.enter_context(Receiver())
        stack.callback(store.kill)
        store.start()
        url = stack.enter_context(feed.served())
        settings = {
            "TAPE_FEED_URL": url, "TAPE_REPLAY_KEY": KEY, "TAPE_SYMBOLS": ",".join(SYMBOLS),
            "TAPE_CALENDAR": NAME, "TAPE_OPEN_BEFORE": f"{OPEN_BEFORE_S}s",
            "TAPE_CLOSE_AFTER": f"{CLOSE_AFTER_S}s", "TAPE_BATCH_FOR": "2s", "TAPE_MIN_COVERAGE": "50%",
            "TAPE_ALERT_URL": receiver.url, "TAPE_DATA_DIR": str(folder / "house/data"),
            "TAPE_S3_BUCKET": store.fresh_bucket(), "TAPE_S3_ENDPOINT_URL": store.endpoint_url,
            "TAPE_S3_REGION": "us-east-1", "TAPE_S3_ADDRESSING": "path",
            "TAPE_S3_ACCESS_KEY_ID": store.access_key_id, "TAPE_S3_SECRET_ACCESS_KEY": store.secret_access_key,
        }  # fmt: skip
        (folder / "house").mkdir()
        house = Installation(folder / "house", settings)
        stack.callback(house.close)
        house.install()
        yield Rehearsal(house, feed, store, receiver, seconds)


def main() -> int:
    """Rehearse; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=300.0, help="how long the exchange trades, at least")
    parser.add_argument("--seed", type=int, default=7, help="of the tape")
    parser.add_argument("--keep", type=Path, help="leave everything in this folder, which must not be there yet")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # Everything that was started is ended.
    folder = given.keep or Path(tempfile.mkdtemp(prefix="tape-rehearsal-"))
    folder.mkdir(parents=True, exist_ok=True)
    failed = True
    try:
        with stage(folder.absolute(), given.seconds, given.seed) as rehearsal:
            try:
                rehearsal.run()
            except Mismatch as mismatch:
                print(f"MISMATCH: {mismatch}", flush=True)
                for name in ("worker", "watchdog", "server"):
                    if (rehearsal.house.folder / f"{name}.log").exists():
                        print(f"--- {name}\n{rehearsal.house.log(name)[-4000:]}")
            else:
                failed = False
                print("all is as it should be, and is shown as it is")
    finally:
        if given.keep is None:
            shutil.rmtree(folder, ignore_errors=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
