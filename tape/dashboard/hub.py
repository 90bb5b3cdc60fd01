"""What all tabs share: the sources that are watched, refreshed once a tick, and what was made of them in this tick."""

import asyncio
import logging
from collections.abc import Callable, Hashable
from contextlib import suppress
from typing import Any, Protocol, TypeVar

from tape.dashboard.model import Source

Made = TypeVar("Made")
TICK_S = 0.5
log = logging.getLogger(__name__)


class Refreshed(Source, Protocol):
    """A source that follows a running session."""

    def refresh(self) -> None:
        """Read what was written since the last refresh."""

    def close(self) -> None:
        """Close what is open."""


class View(Protocol):
    """What a tab shows."""

    session: str

    def show(self) -> None:
        """Send what has changed since the last time."""


class Hub:
    """Refreshes what is watched and lets each tab show it, twice a second or when a tab asks for it.

    A source is read in a thread, so `lock` is held by whoever reads or shows one.
    """

    def __init__(
        self, running: Callable[[], tuple[str, ...]], follow: Callable[[str], Refreshed], *, follow_all: bool = False
    ) -> None:
        """`running` names the sessions that are being recorded, oldest first; `follow` opens one.

        With `follow_all` each of them is followed also while nobody watches it, for whoever asks now and then.
        """
        self._running, self._follow, self._follow_all = running, follow, follow_all
        self._sources: dict[str, Refreshed] = {}
        self._made: dict[Hashable, Any] = {}
        self.running: tuple[str, ...] = running()
        self.views: set[View] = set()
        self.lock, self.wanted = asyncio.Lock(), asyncio.Event()

    def is_running(self, session: str) -> bool:
        """Return whether a session is being recorded now, not at the last tick."""
        return session in self._running()

    async def source(self, session: str) -> Refreshed:
        """Return the source of a session, opened and read if nobody else watches it; the caller holds `lock`."""
        if session not in self._sources:
            self._sources[session] = await asyncio.to_thread(self._follow, session)
        return self._sources[session]

    def once(self, key: Hashable, make: Callable[[], Made]) -> Made:
        """Return what `make` makes, made only once a tick for all tabs that need the same."""
        if key not in self._made:
            self._made[key] = make()
        made: Made = self._made[key]
        return made

    async def run(self) -> None:
        """Tick until cancelled."""
        while True:
            async with self.lock:
                await self._tick()
            self.wanted.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self.wanted.wait(), TICK_S)

    async def _tick(self) -> None:
        self._made.clear()
        try:
            await asyncio.to_thread(self._refresh)
        except Exception:
            log.exception("the data could not be read; the next tick tries again")
        for view in tuple(self.views):
            try:
                view.show()
            except Exception:
                log.exception("a tab could not be updated")

    def _refresh(self) -> None:
        self.running = self._running()
        watched = {view.session for view in tuple(self.views)} | {*(self.running if self._follow_all else ())}
        for session in self._sources.keys() - watched:
            self._sources.pop(session).close()
        for source in self._sources.values():
            source.refresh()
