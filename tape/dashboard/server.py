"""The server of the page: NiceGUI behind the guard, on one socket, in a process of its own."""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import PlainTextResponse, RedirectResponse, Response
from nicegui import Client, ui

from tape.dashboard.archive_pages import archived_page, calendar_page, download
from tape.dashboard.choice import choice_of
from tape.dashboard.guard import Access, Guard
from tape.dashboard.hub import Hub, View
from tape.dashboard.metrics import exposition
from tape.dashboard.parts import State
from tape.dashboard.session_page import SessionPage
from tape.dashboard.tags import Tag

if TYPE_CHECKING:
    from tape.dashboard.archive import Archive

# On a busy machine, of which the recorder has the most.
_ANSWER_WITHIN_S = 60.0

_HERE = Path(__file__).parent
_LOGO = (
    '<svg viewBox="0 0 18 18" aria-hidden="true" fill="none" stroke="currentColor" stroke-width="1.6">'
    '<path d="M4 2v14M4 5h0M14 3v13"/><rect x="2" y="6" width="4" height="6" rx=".5" fill="var(--surface)"/>'
    '<rect x="12" y="5" width="4" height="7" rx=".5" fill="currentColor"/></svg>'
)
# Adds or removes symbols of a session: the session, what is done, and the symbols; returns a line to show.
Change = Callable[[str, str, list[str]], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What the server shows: running sessions, a way to change one, and how the last session ended."""

    hub: Callable[[], Hub]
    change: Change
    last_end: Callable[[], str]
    archive: Callable[[], "Archive"]
    has_bucket: bool = False
    metrics: bool = False


def serve(offer: Offer, access: Access, listening: socket.socket) -> None:
    """Serve the page on this socket until the process is asked to end."""
    guarded = Guard(_application(offer, access), access)
    config = uvicorn.Config(
        guarded, log_level="warning", access_log=False, ws_max_size=1 << 20, timeout_graceful_shutdown=2,
        server_header=False,
    )  # fmt: skip
    uvicorn.Server(config).run([listening])


def _application(offer: Offer, access: Access) -> FastAPI:
    shared: list[Hub] = []

    @asynccontextmanager
    async def ticking(_: FastAPI) -> AsyncIterator[None]:
        shared.append(offer.hub())
        ticker = asyncio.create_task(shared[0].run())
        try:
            yield
        finally:
            ticker.cancel()
            with suppress(asyncio.CancelledError):
                await ticker

    app = FastAPI(lifespan=ticking, openapi_url=None, docs_url=None, redoc_url=None)
    if offer.metrics:

        @app.get("/metrics")
        async def metrics() -> PlainTextResponse:
            hub = shared[0]
            async with hub.lock:
                boards = [(await hub.source(session)).board() for session in hub.running]
            return PlainTextResponse(exposition(boards), media_type="text/plain; version=0.0.4")

    @ui.page("/", title="Tape", response_timeout=_ANSWER_WITHIN_S)
    async def live(request: Request) -> Response | None:
        asked = request.query_params.get("session", "")
        if asked and not await asyncio.to_thread(shared[0].is_running, asked):
            return RedirectResponse(f"{access.prefix}/archive/{quote(asked, safe='')}")
        await _live(shared[0], offer, request, access.prefix)
        return None

    @ui.page("/archive", title="Tape: archive", response_timeout=_ANSWER_WITHIN_S)
    async def calendar(request: Request) -> None:
        _header(access.prefix, "archive", None, ())
        archive = await asyncio.to_thread(offer.archive)
        looks = request.query_params.get("remote") == "1"
        await calendar_page(archive, access.prefix, has_bucket=offer.has_bucket, look_in_bucket=looks)

    @ui.page("/archive/{what}", title="Tape: archive", response_timeout=_ANSWER_WITHIN_S)
    async def archived(request: Request, what: str) -> None:
        state = _header(access.prefix, "archive", what, ())
        archive, remote = await asyncio.to_thread(offer.archive), request.query_params.get("remote") == "1"
        client = ui.context.client
        page = await archived_page(
            shared[0],
            archive,
            what,
            choice_of(request.query_params, request.cookies, ""),
            state,
            access.prefix,
            remote=remote,
        )
        if page is not None:
            _until_left(shared[0], page, client)
            client.run_javascript("tape.watch()")
            await page.load_report()

    @app.get("/download")
    async def downloaded(request: Request) -> Response:
        return await download(await asyncio.to_thread(offer.archive), request.query_params)

    ui.add_head_html(f"<style>{(_HERE / 'page.css').read_text()}</style>", shared=True)
    ui.add_head_html(f"<script>{(_HERE / 'page.js').read_text()}</script>", shared=True)
    logging.getLogger("nicegui").setLevel(logging.WARNING)
    ui.run_with(
        app, title="Tape", favicon=_HERE / "favicon.svg", language="en-US", tailwind=False, dark=False,
        binding_refresh_interval=None, reconnect_timeout=10.0, gzip_middleware_factory=None, show_welcome_message=False,
    )  # fmt: skip
    return app


async def _live(hub: Hub, offer: Offer, request: Request, prefix: str) -> None:
    asked = request.query_params
    async with hub.lock:
        running = hub.running
        session = asked.get("session") if asked.get("session") in running else (running[-1] if running else None)
        state = _header(prefix, "live", session, running)
        if session is None:
            _welcome(offer.last_end(), prefix)
            _until_left(hub, _Waiting(hub))
            return

        async def change(action: str, symbols: list[str]) -> str:
            return await asyncio.to_thread(offer.change, session, action, symbols)

        page = SessionPage(
            hub,
            session,
            await hub.source(session),
            choice_of(request.query_params, request.cookies, "1s"),
            state,
            change,
        )
    _until_left(hub, page)
    ui.context.client.on_connect(lambda: ui.run_javascript("tape.watch()"))


class _Waiting:
    """Loads the page anew once a session is being recorded."""

    session = ""

    def __init__(self, hub: Hub) -> None:
        self._hub, self._client = hub, ui.context.client

    def show(self) -> None:
        if self._hub.running:
            # Once: told again while a busy machine still answers, the browser would begin anew each time.
            self._hub.views.discard(self)
            self._client.run_javascript("location.reload()")


def _until_left(hub: Hub, view: View, client: Client | None = None) -> None:
    hub.views.add(view)
    (client or ui.context.client).on_delete(lambda: hub.views.discard(view))


def _header(prefix: str, here: str, session: str | None, running: tuple[str, ...]) -> State:
    Tag("a", "skip", "Skip to the content", href="#main")
    with Tag("header", "top"):
        with Tag("a", "brand", href=f"{prefix}/"):
            ui.html(_LOGO, sanitize=False)
            Tag("span", text="Tape")
        state = State()
        if len(running) > 1:
            chooser = Tag("select", "session", aria_label="Session", data_testid="chooser")
            with chooser:
                for name in running:
                    Tag("option", text=name, value=name, selected=name == session or None)
            chooser.on(
                "change", js_handler="(e) => { location.search = '?session=' + encodeURIComponent(e.target.value); }"
            )
        elif session:
            Tag("span", "session", session, data_testid="session")
        Tag("span", "grow")
        with Tag("nav", aria_label="Pages"):
            Tag("a", text="Live", href=f"{prefix}/", aria_current="page" if here == "live" else None)
            Tag("a", text="Archive", href=f"{prefix}/archive", aria_current="page" if here == "archive" else None)
        theme = Tag("button", text="Auto", data_testid="theme")
        theme.on("click", js_handler="(e) => tape.theme(e.currentTarget)")
        ui.context.client.on_connect(lambda: ui.run_javascript(f"tape.label(getHtmlElement({theme.id}))"))
    return state


def _welcome(last_end: str, prefix: str) -> None:
    with Tag("div", "welcome", id="main", data_testid="welcome"):
        Tag("h1", text="No session is being recorded")
        Tag("p", "muted", last_end)
        with Tag("p", "muted"):
            Tag("span", text="Start one with ")
            Tag("code", text="tape record")
            Tag("span", text="; this page shows it by itself. Until then: ")
            Tag("a", text="the archive", href=f"{prefix}/archive")
