"""The pages of the archive: the calendar, and any session or day with a scrubber and a replay."""

import asyncio
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from nicegui import ui
from nicegui.events import GenericEventArguments
from starlette.background import BackgroundTask
from starlette.responses import FileResponse, PlainTextResponse, Response

from tape.dashboard import archive_markup
from tape.dashboard.archived import Archived
from tape.dashboard.choice import INTERVALS_S, Choice
from tape.dashboard.hub import TICK_S, Hub
from tape.dashboard.markup import safe
from tape.dashboard.model import Board
from tape.dashboard.parts import State
from tape.dashboard.session_page import BARS, SessionPage
from tape.dashboard.tags import Markup, Tag
from tape.dashboard.wording import day_and_clock
from tasks.errors import RecorderError
from tasks.records.trade import NS_PER_S
from tasks.shown import count

if TYPE_CHECKING:  # Importing it takes a second, which whoever watches a running session need not wait for.
    from tape.dashboard.archive import Archive

SPEEDS = (1, 10, 60, 300, 3_600)
_STEPS = 2_000


async def calendar_page(archive: "Archive", prefix: str, *, has_bucket: bool, look_in_bucket: bool) -> None:
    """Build the page of the calendar below its header."""
    with Tag("div", "archive", id="main"):
        said = Tag("p", "muted", "Reading what is there …", role="status", data_testid="reading")
        place = Tag("div", "columns")
    await ui.context.client.connected()
    try:
        days, sessions = await asyncio.to_thread(archive.calendar)
        remote = await asyncio.to_thread(archive.in_bucket) if has_bucket and look_in_bucket else {}
    except (RecorderError, OSError) as error:
        said.say(str(error))
        return
    known = {each.session for each in sessions}
    only_there = {session: days for session, days in remote.items() if session not in known}
    said.say(f"{count(len(days), 'day')}, {count(len(sessions), 'session')}")
    with place:
        with Tag("section", "panel pad", aria_label="Calendar"):
            Markup("legend").show(archive_markup.legend())
            Markup("calendar", data_testid="calendar").show(archive_markup.calendar(days, prefix))
        with Tag("section", "panel pad wide", aria_label="Sessions"):
            with Tag("div", "head"):
                Tag("h2", text="Sessions")
                Tag("span", "grow")
                if has_bucket:
                    Tag("a", text="Look in the bucket too", href=f"{prefix}/archive?remote=1", data_testid="bucket")
            Markup("scroll", tabindex="0", data_testid="sessions").show(
                archive_markup.sessions_table(sessions, prefix, only_there)
            )


async def archived_page(
    hub: Hub, archive: "Archive", what: str, choice: Choice, state: State, prefix: str, *, remote: bool
) -> "ArchivedPage | None":
    """Build the page of a session or day below its header, once it is read; None if it cannot be."""
    said = Tag("p", "muted pad", f"Reading {what} …", role="status", data_testid="reading")
    place = Tag("div")
    await ui.context.client.connected()
    share = [0.0]

    def note(read: float) -> None:
        share[0] = read

    opening = asyncio.create_task(asyncio.to_thread(archive.open, what, remote=remote, note=note))
    while not opening.done():
        said.say(f"Reading {what}: {100 * share[0]:.0f} %")
        await asyncio.wait([opening], timeout=TICK_S)
    try:
        archived = opening.result()
    except (RecorderError, OSError) as error:
        said.say(str(error))
        return None
    said.delete()
    if choice.every == "":
        choice = replace(choice, every=_fitting(archived))
    with place:
        return ArchivedPage(hub, what, archived, choice, state, prefix, archive, remote=remote)


def _fitting(archived: Archived) -> str:
    """Return the shortest interval of which the whole session or day is on the chart."""
    start_ns, end_ns = archived.span_ns
    fits = (name for name, every_s in INTERVALS_S.items() if (end_ns - start_ns) / NS_PER_S <= every_s * BARS)
    return next(fits, "1d")


class ArchivedPage(SessionPage):
    """A tab that shows a session or day of the archive at a moment that the user chooses, or as it passes by."""

    def __init__(
        self, hub: Hub, what: str, source: Archived, choice: Choice, state: State, prefix: str, archive: "Archive",
        *, remote: bool,
    ) -> None:  # fmt: skip
        """Build the page."""
        self._archived, self._prefix, self._archive, self._remote = source, prefix, archive, remote
        self._speed, self._is_playing = SPEEDS[2], False
        super().__init__(hub, what, source, choice, state)
        self._show_moment(source.board())
        with Tag("details", "panel pad report", data_part="report"):
            Tag("summary", text="Validation report", data_testid="report-summary")
            self._report = Markup("reported", data_testid="report")
            self._report.show("<p>Computing …</p>")

    async def load_report(self) -> None:
        """Show what the validation and the ledger say, once it is computed."""
        try:
            found = await asyncio.to_thread(self._archive.report, self.session, remote=self._remote)
            self._report.show(archive_markup.report_tables(*found))
        except (RecorderError, OSError) as error:
            self._report.show(f"<p>{safe(error)}</p>")

    def show(self) -> None:
        """Move on if it is replayed, then send what has changed."""
        if self._is_playing and self._visible:
            self._move_to(self._source.board().now_ns + int(TICK_S * self._speed * NS_PER_S))
        super().show()
        self._show_moment(self._source.board())

    def _address(self) -> str:
        return self._choice.address("", remote=self._remote)

    def _build_tools(self) -> None:
        self._links = [Tag("a", text=form, data_testid=f"download-{form.lower()}") for form in ("CSV", "Parquet")]

    def _build_controls(self) -> None:
        with Tag("div", "replay"):
            self._play = Tag("button", text="Replay", aria_pressed="false", data_testid="replay")
            self._play.on("click", self._switch)
            speed = Tag("select", aria_label="Speed of the replay", data_testid="speed")
            with speed:
                for each in SPEEDS:
                    Tag("option", text=f"{each} ×", value=str(each), selected=each == self._speed or None)
            speed.on("change", self._set_speed, js_handler="(e) => emit(e.target.value)")
            self._scrubber = Tag(
                "input", "grow", type="range", min="0", max=str(_STEPS), value=str(_STEPS), data_testid="scrubber",
                aria_label="Moment that is shown",
            )  # fmt: skip
            self._scrubber.on("input", self._scrub, throttle=0.1, js_handler="(e) => emit(e.target.value)")
            self._moment = Tag("span", "moment", data_testid="moment")

    def _show_moment(self, board: Board) -> None:
        self._moment.say(f"{day_and_clock(board.now_ns)} UTC")
        day = self._archive.day_of(self.session, board.now_ns)
        words = {"symbol": self._choice.symbol, "day": day, "remote": "1" if self._remote else ""}
        for link, form in zip(self._links, ("csv", "parquet"), strict=True):
            link.set(href=f"{self._prefix}/download?{urlencode({**words, 'form': form})}")
            link.set(aria_label=f"Download {day} of the symbol as {form}", download="")

    def _scrub(self, event: GenericEventArguments) -> None:
        start_ns, end_ns = self._archived.span_ns
        share = min(1.0, max(0.0, float(event.args) / _STEPS))
        self._move_to(start_ns + int(share * (end_ns - start_ns)), from_user=True)
        self._hub.wanted.set()

    def _set_speed(self, event: GenericEventArguments) -> None:
        self._speed = next((each for each in SPEEDS if str(each) == event.args), self._speed)

    def _switch(self) -> None:
        start_ns, end_ns = self._archived.span_ns
        self._is_playing = not self._is_playing
        if self._is_playing and self._source.board().now_ns >= end_ns:
            self._move_to(start_ns)
        self._say_playing()
        self._hub.wanted.set()

    def _move_to(self, at_ns: int, *, from_user: bool = False) -> None:
        start_ns, end_ns = self._archived.span_ns
        self._archived.show_until(min(at_ns, end_ns))
        if at_ns >= end_ns and self._is_playing:
            self._is_playing = False
            self._say_playing()
        if not from_user:  # The browser has moved it already.
            place = round(_STEPS * (min(at_ns, end_ns) - start_ns) / max(1, end_ns - start_ns))
            self._scrubber.set(value=str(place))

    def _say_playing(self) -> None:
        self._play.say("Pause" if self._is_playing else "Replay")
        self._play.set(aria_pressed="true" if self._is_playing else "false")


async def download(archive: "Archive", asked: Any) -> Response:
    """Return a symbol's trades of a day as a file."""
    form = "parquet" if asked.get("form") == "parquet" else "csv"
    symbol, day = asked.get("symbol", ""), asked.get("day", "")
    folder = tempfile.TemporaryDirectory(prefix="tape-download-")
    out = Path(folder.name) / f"trades.{form}"
    try:
        await asyncio.to_thread(archive.download, symbol, day, out, remote=asked.get("remote") == "1")
    except (RecorderError, OSError) as error:
        folder.cleanup()
        return PlainTextResponse(f"{error}\n", 404)
    name = "".join(letter if letter.isalnum() or letter in "-." else "_" for letter in f"{symbol}-{day}")
    cleanup = BackgroundTask(folder.cleanup)
    return FileResponse(out, filename=f"{name}.{form}", media_type="application/octet-stream", background=cleanup)
