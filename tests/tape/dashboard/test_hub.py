"""What tabs share: sources that are opened once, refreshed each tick, and closed when nobody watches."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable

import pytest
from generated_session import Generated

from tape.dashboard.hub import Hub


class Source(Generated):
    """A source that counts what happens to it."""

    def refresh(self) -> None:
        super().refresh()
        DONE[f"refresh {self.session}"] += 1

    def close(self) -> None:
        DONE[f"close {self.session}"] += 1


DONE: Counter[str] = Counter()


class View:
    """A tab that notes when it is shown, and may fail."""

    def __init__(self, session: str, *, fails: bool = False) -> None:
        self.session, self._fails = session, fails
        self.shown = 0

    def show(self) -> None:
        self.shown += 1
        if self._fails:
            raise RuntimeError("a view that fails")


def follow(session: str) -> Source:
    DONE[f"open {session}"] += 1
    return Source(session=session)


def ticking(work: Callable[[Hub], Awaitable[None]], *, follow_all: bool = False) -> None:
    """Run a hub while that works."""
    DONE.clear()

    async def run() -> None:
        hub = Hub(lambda: ("a", "b"), follow, follow_all=follow_all)
        task = asyncio.create_task(hub.run())
        try:
            await asyncio.wait_for(work(hub), 60)
        finally:
            task.cancel()

    asyncio.run(run())


async def until(hub: Hub, condition: Callable[[], bool]) -> None:
    while not condition():
        hub.wanted.set()
        await asyncio.sleep(0.01)


async def watch(hub: Hub, view: View) -> None:
    async with hub.lock:
        await hub.source(view.session)
    hub.views.add(view)


def test_tabs_share_a_source_and_the_last_one_closes_it() -> None:
    """Two tabs of a session open it once; it is refreshed for both, and closed after both have gone."""

    async def work(hub: Hub) -> None:
        one, two = View("a"), View("a")
        await watch(hub, one)
        await watch(hub, two)
        await until(hub, lambda: one.shown > 2 and two.shown > 2)
        assert DONE["open a"] == 1
        hub.views.discard(one)
        seen = two.shown
        await until(hub, lambda: two.shown > seen + 2)
        assert DONE["close a"] == 0
        hub.views.discard(two)
        await until(hub, lambda: DONE["close a"] == 1)
        refreshed = DONE["refresh a"]
        ticks = View("")
        hub.views.add(ticks)
        await until(hub, lambda: ticks.shown > 2)
        assert DONE["refresh a"] == refreshed

    ticking(work)


def test_a_tab_that_fails_keeps_no_other_from_being_shown(caplog: pytest.LogCaptureFixture) -> None:
    """The error is logged, and the next tab and the next tick go on."""

    async def work(hub: Hub) -> None:
        bad, good = View("a", fails=True), View("a")
        await watch(hub, bad)
        await watch(hub, good)
        await until(hub, lambda: good.shown > 3 and bad.shown > 3)

    ticking(work)
    assert "could not be updated" in caplog.text


def test_what_is_made_for_one_tab_is_there_for_the_others_of_a_tick() -> None:
    """Within a tick it is made once; the next tick makes it anew."""
    made: list[int] = []

    class Maker(View):
        def __init__(self, hub: Hub) -> None:
            super().__init__("a")
            self.hub, self.got = hub, list[int]()

        def show(self) -> None:
            super().show()
            self.got.append(self.hub.once("key", lambda: made.append(len(made)) or len(made)))

    async def work(hub: Hub) -> None:
        one, two = Maker(hub), Maker(hub)
        await watch(hub, one)
        await watch(hub, two)
        await until(hub, lambda: one.shown > 3 and two.shown > 3)
        assert set(one.got) & set(two.got)
        assert len(set(one.got)) == len(one.got)

    ticking(work)


@pytest.mark.parametrize("follow_all", [True, False])
def test_metrics_are_of_sessions_that_nobody_watches(*, follow_all: bool) -> None:
    """A session that is asked for now and then stays open if all are followed, and is closed otherwise."""

    async def work(hub: Hub) -> None:
        async with hub.lock:
            await hub.source("b")
        ticks = View("")
        hub.views.add(ticks)
        await until(hub, lambda: ticks.shown > 3)
        assert (DONE["close b"], DONE["refresh b"] > 2) == ((0, True) if follow_all else (1, False))

    ticking(work, follow_all=follow_all)
