"""Shows a running session in the terminal: a live view, or plain lines if stdout is not a terminal.

A thread reads the recorder's status file; the flow, which owns the main thread, is unaware of it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tasks.shown import count, countdown, plain
from tasks.storage.store import Store

if TYPE_CHECKING:
    from tasks.records.status import Status

_LIVE_EVERY_S = 0.25
_LINE_EVERY_S = 5.0
_SYMBOLS_SHOWN = 12

# Returns the status of the session to show, and its data folder, or None before there is one.
Current = Callable[[], "tuple[Status, Store] | None"]


@contextmanager
def session_shown(*, live: bool) -> Iterator[None]:
    """Show the session that this process records, as a live view or as lines, while the block runs.

    With a live view, the terminal shows only logged warnings; Prefect keeps the complete log of the run.
    """
    from tasks.capture.supervise import watched

    if live:
        for handler in _console_handlers():
            handler.setLevel(logging.WARNING)

    def current() -> tuple[Status, Store] | None:
        status = watched[-1].status() if watched else None
        return None if status is None else (status, Store(watched[-1].request.data_dir))

    with session_watched(current, live=live):
        yield


@contextmanager
def session_watched(current: Current, *, live: bool) -> Iterator[None]:
    """Show a session, as a live view or as lines, while the block runs."""
    over = threading.Event()
    thread = threading.Thread(target=_show_live if live else _show_lines, args=(current, over), daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(5)


def _console_handlers() -> list[Any]:
    """Return Prefect's log handlers that print through a rich console."""
    handlers = [handler for name in ("", "prefect") for handler in logging.getLogger(name).handlers]
    return [handler for handler in handlers if isinstance(getattr(handler, "console", None), Console)]


class _Above:
    """Replaces the console of Prefect's handler: a line written past the live view would break its display."""

    def __init__(self, view: Live) -> None:
        self._console = view.console

    def print(self, message: str, **_: Any) -> None:
        self._console.print(Text(message))


@contextmanager
def _logged_above(view: Live) -> Iterator[None]:
    shown = [(handler, handler.console) for handler in _console_handlers() if handler.console.is_terminal]
    for handler, _ in shown:
        handler.console = _Above(view)
    try:
        yield
    finally:
        for handler, console in shown:
            handler.console = console


def _statuses(current: Current, over: threading.Event, every_s: float) -> Iterator[tuple[Status, Store]]:
    """Yield the status of the session at each step, and once more after the end."""
    ended = False
    while not ended:
        ended = over.wait(every_s)
        if (found := current()) is not None:
            yield found


def _show_lines(current: Current, over: threading.Event) -> None:
    console = Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)
    rate = _Rate()
    for status, store in _statuses(current, over, _LINE_EVERY_S):
        sealed, validated, archived = batches_of(store, status.session)
        console.print(
            f"{_left(status)} left: {status.state}, {status.trades:,} trades, {rate.of(status):,.0f}/s, "
            f"{_speaking(status)} of {len(status.per_symbol)} symbols, queue {_percent(status):.0f} %, "
            f"gaps {status.gaps + len(status.open_gaps)}, batches: {sealed} sealed, {validated} validated, "
            f"{archived} archived" + (f"; {plain(status.notice)}" if status.notice else "")
        )


def _show_live(current: Current, over: threading.Event) -> None:
    rate = _Rate()
    with Live(Text("starting the recorder …"), refresh_per_second=4, transient=True) as view, _logged_above(view):
        for status, store in _statuses(current, over, _LIVE_EVERY_S):
            view.update(_picture(status, store, rate))


def _picture(status: Status, store: Store, rate: _Rate) -> Group:
    sealed, validated, archived = batches_of(store, status.session)
    head = Table.grid(padding=(0, 3))
    head.add_row("[b]left[/b]", "[b]state[/b]", "[b]trades[/b]", "[b]trades/s[/b]", "[b]symbols[/b]", "[b]queue[/b]", "[b]gaps[/b]")  # fmt: skip # noqa: E501
    head.add_row(
        _left(status),
        Text(status.state, "green" if status.state == "recording" else "yellow"),
        f"{status.trades:,}",
        f"{rate.of(status):,.0f}",
        f"{_speaking(status)} of {len(status.per_symbol)}",
        f"{_percent(status):.0f} %",
        str(status.gaps + len(status.open_gaps)),
    )
    whole_ns = max(1, status.deadline_ns - status.started_ns)
    bar = Table.grid()  # A bar on its own does not end its line.
    bar.add_row(ProgressBar(total=whole_ns, completed=min(whole_ns, status.updated_ns - status.started_ns), width=60))
    symbols = Table.grid(padding=(0, 2))
    busiest = sorted(status.per_symbol.items(), key=lambda item: (-item[1], item[0]))[:_SYMBOLS_SHOWN]
    for name, number in busiest:
        symbols.add_row(
            Text(plain(name)), f"{number:,}", ProgressBar(total=max(1, busiest[0][1]), completed=number, width=30)
        )
    lines: list[RenderableType] = [
        Text(f"session {status.session}, process {status.pid}, connection {status.connection}"),
        head,
        bar,
        Text(f"batches so far: {sealed} sealed → {validated} validated → {archived} archived"),
        symbols,
    ]
    for gap in status.open_gaps[:3]:
        lines.append(Text(plain(f"cannot receive {count(len(gap.symbols), 'symbol')}: {gap.reason}"), style="red"))
    if status.notice:
        lines.append(Text(plain(status.notice), style="yellow"))
    return Group(*lines)


class _Rate:
    """Computes trades per second over the last few seconds."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque(maxlen=20)

    def of(self, status: Status) -> float:
        self._seen.append((time.monotonic(), status.trades))
        (since_s, before), (now_s, now) = self._seen[0], self._seen[-1]
        return (now - before) / (now_s - since_s) if now_s > since_s else 0.0


def batches_of(store: Store, session: str) -> tuple[int, int, int]:
    """Count the session's batches that wait for validation, wait for compression, and are archived."""
    sealed = sum(name.session == session for name in store.sealed_batches())
    validated = sum(name.session == session for name in store.validated_batches())
    archived = len(store.manifests(session=session))
    return sealed, validated, archived


def _left(status: Status) -> str:
    return countdown((status.deadline_ns - status.updated_ns) / 1e9)


def _speaking(status: Status) -> int:
    return sum(count > 0 for count in status.per_symbol.values())


def _percent(status: Status) -> float:
    return 100 * status.queue_bytes / max(1, status.queue_limit_bytes)
