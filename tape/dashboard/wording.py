"""How the page writes numbers, times, and states. All times are UTC."""

import math
from datetime import UTC, datetime

from tape.dashboard.model import Board
from tasks.records.trade import NS_PER_S
from tasks.shown import countdown

NOTHING = "–"


def number(value: float | None, decimals: int = 0) -> str:
    """Format a number with a comma between thousands."""
    return NOTHING if value is None or math.isnan(value) else f"{value:,.{decimals}f}"


def milliseconds(value: float | None) -> str:
    """Format a lag: three significant digits are enough."""
    if value is None or math.isnan(value):
        return NOTHING
    return f"{value:.1f}" if abs(value) < 10 else f"{value:,.0f}"


def seconds(value: float | None) -> str:
    """Format a duration with its two largest units: `0.4 s`, `1 m 04 s`, `2 h 05 m`, `3 d 04 h`."""
    if value is None or math.isnan(value):
        return NOTHING
    if value < 60:
        return f"{value:.1f} s" if value < 10 else f"{value:.0f} s"
    whole = int(value)
    for unit_s, part_s, unit, part in ((86_400, 3_600, "d", "h"), (3_600, 60, "h", "m"), (60, 1, "m", "s")):
        if whole >= unit_s:
            return f"{whole // unit_s} {unit} {whole % unit_s // part_s:02} {part}"
    raise AssertionError


def size(count: float) -> str:
    """Format a number of bytes: `512 B`, `1.5 GiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:,.1f} TiB"


def clock(time_ns: int, digits: int = 0) -> str:
    """Format the time of day, with so many digits of a second."""
    whole = f"{datetime.fromtimestamp(time_ns // NS_PER_S, UTC):%H:%M:%S}"
    return f"{whole}.{time_ns % NS_PER_S:09}"[: len(whole) + 1 + digits] if digits else whole


def day_and_clock(time_ns: int) -> str:
    """Format a time with its day."""
    return f"{datetime.fromtimestamp(time_ns // NS_PER_S, UTC):%Y-%m-%d %H:%M:%S}"


def silence(value: float | None) -> float | None:
    """Round the time since the last trade: a quiet watch-list must not change twice a second."""
    if value is None:
        return None
    step = 1 if value < 10 else 5 if value < 60 else 60
    return value // step * step


def health(board: Board) -> tuple[str, str]:
    """Return the kind of state, and a word for it: a recorder that is up may still be without a connection."""
    state = board.status.state if board.status else "recording"
    reading = "" if board.loaded >= 1 else f", reading what came before: {100 * board.loaded:.0f} %"
    if board.health == "up":
        return ("up" if state == "recording" else "down"), state + reading
    return board.health, board.health + reading


def figures(board: Board) -> dict[str, str]:
    """Return the figures of the header by name."""
    status, now_ns = board.status, board.now_ns
    reconnects = max(0, status.connection - 1) if status else None
    queue = 100 * status.queue_bytes / max(1, status.queue_limit_bytes) if status else None
    archived = sum(batch.stage in ("archived", "uploaded") for batch in board.batches)
    open_now = sum(gap.end_ns is None for gap in board.gaps)
    ended = board.health == "ended"
    return {
        "left": NOTHING if ended else countdown((board.end_ns - now_ns) / NS_PER_S),
        "trades": number(board.trades),
        "rate": number(board.trades_per_s),
        "lag": " · ".join(map(milliseconds, (board.lag_p50_ms, board.lag_p95_ms, board.lag_p99_ms))),
        "queue": NOTHING if queue is None else f"{queue:.0f} %",
        "reconnects": number(reconnects),
        "gaps": f"{len(board.gaps):,}" + (f" ({open_now} open)" if open_now else ""),
        "batches": f"{archived} / {len(board.batches)}",
        "disk": size(board.disk_free_bytes),
    }
