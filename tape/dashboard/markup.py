"""Tables and the timeline as HTML; every text from a feed is escaped here."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape

from tape.dashboard.model import BatchShown, Board, Print, ShownGap, Stage
from tape.dashboard.wording import clock, number, seconds
from tasks.records.trade import NS_PER_S
from tasks.shown import plain

STAGES: tuple[Stage, ...] = ("recording", "sealed", "validated", "archived", "uploaded")


def safe(text: object) -> str:
    """Escape a text for HTML and attributes; control characters become visible."""
    return escape(plain(text))


def prints_table(prints: Sequence[Print]) -> str:
    """The latest trades, newest first; an arrow shows the direction to the trade before."""
    if not prints:
        return empty("No trade yet.")
    rows = []
    for trade, before in zip(prints, [*prints[1:], None], strict=True):
        step = float(trade.price) - float(before.price) if before else 0.0
        name, arrow = ("up", "▲") if step > 0 else ("down", "▼") if step < 0 else ("", "")
        codes = "".join(f"<span>{safe(code)}</span>" for code in trade.conditions)
        lag_ms = (trade.ts_recv_ns - trade.ts_event_ns) / 1e6
        rows.append(
            f'<tr title="received {lag_ms:,.0f} ms after the event"><td>{clock(trade.ts_event_ns, 3)}</td>'
            f'<td class="n {name}"><i>{arrow}</i>{safe(trade.price)}</td><td class="n">{safe(trade.size)}</td>'
            f'<td class="codes" title="{safe(", ".join(trade.conditions))}">{codes}</td></tr>'
        )
    return table(("time", "n:price", "n:size", "conditions"), rows)


def gaps_table(gaps: Sequence[ShownGap], now_ns: int) -> str:
    """The gaps, newest first, the open ones on top."""
    if not gaps:
        return empty("No gaps: every symbol could be received the whole time.")
    rows = []
    for gap in sorted(gaps, key=lambda gap: (gap.end_ns is not None, -gap.start_ns))[:100]:
        lasted = seconds(((gap.end_ns or now_ns) - gap.start_ns) / NS_PER_S)
        state, until = ("open", f"open, {lasted}") if gap.end_ns is None else ("closed", lasted)
        names = ", ".join(gap.symbols[:8]) + (" …" if len(gap.symbols) > 8 else "")
        told = names if len(gap.symbols) == 1 else f"{len(gap.symbols):,} symbols"
        rows.append(
            f'<tr class="{state}" data-gap="{state}"><td>{clock(gap.start_ns)}</td><td class="n">{until}</td>'
            f'<td class="n" title="{safe(names)}">{safe(told)}</td></tr>'
            f'<tr class="why {state}"><td class="long" colspan="3">{safe(gap.reason)}</td></tr>'
        )
    return table(("from", "n:lasted", "n:missed"), rows)


def batches_table(batches: Sequence[BatchShown]) -> str:
    """The stage of each batch, newest first: filled dots for the stages it has passed."""
    if not batches:
        return empty("No batch yet.")
    rows = []
    for batch in reversed(batches[-100:]):
        passed = STAGES.index(batch.stage) + 1
        dots = "●" * passed + "○" * (len(STAGES) - passed)
        rows.append(
            f'<tr><td>{safe(short_name(batch.name))}</td><td class="n">{number(batch.rows)}</td>'
            f'<td class="n">{number(batch.quarantined)}</td>'
            f'<td><span class="dots" aria-hidden="true">{dots}</span> {batch.stage}</td></tr>'
        )
    heads = ("batch", "n:rows", 'n:<abbr title="quarantined">quar.</abbr>', "stage")
    return table(heads, rows)


def quarantine_table(reasons: Mapping[str, int]) -> str:
    """How many trades were quarantined, by reason."""
    if not reasons:
        return empty("Nothing was quarantined.")
    ordered = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
    rows = [f'<tr><td class="long">{safe(why)}</td><td class="n">{number(count)}</td></tr>' for why, count in ordered]
    return table(("reason", "n:trades"), rows)


def short_name(batch: str) -> str:
    """A batch's name without its session's, which all have in common."""
    return "-".join(batch.split("-")[2:]) or batch


def timeline(board: Board) -> str:
    """The session from its start to its deadline: what has passed, and each gap with its reason."""
    start_ns, whole_ns = board.start_ns, max(1, board.end_ns - board.start_ns)

    def at(time_ns: int) -> float:
        return round(1000 * min(1.0, max(0.0, (time_ns - start_ns) / whole_ns)), 1)

    parts = [f'<rect class="passed" x="0" y="4" width="{at(board.now_ns)}" height="10"/>']
    for gap in board.gaps:
        left, right = at(gap.start_ns), at(gap.end_ns or board.now_ns)
        state = "open" if gap.end_ns is None else "closed"
        parts.append(
            f'<rect class="gap {state}" data-gap="{state}" x="{left}" y="0" width="{max(1.5, right - left):.1f}" '
            f'height="18"><title>{clock(gap.start_ns)}, {safe(gap.reason)}</title></rect>'
        )
    return f'<svg viewBox="0 0 1000 18" preserveAspectRatio="none" aria-hidden="true">{"".join(parts)}</svg>'


def timeline_told(board: Board) -> str:
    """The timeline for whoever cannot see it."""
    open_now = sum(gap.end_ns is None for gap in board.gaps)
    return (
        f"Timeline from {clock(board.start_ns)} to {clock(board.end_ns)} UTC: {len(board.gaps)} gaps, "
        f"{open_now} of them open"
    )


def table(heads: Iterable[str], rows: Iterable[str]) -> str:
    """A table; a head that begins with `n:` is one of numbers."""
    cells = "".join(
        f'<th class="{"n" if head.startswith("n:") else ""}" scope="col">{head.removeprefix("n:")}</th>'
        for head in heads
    )
    return f"<table><thead><tr>{cells}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def empty(text: str) -> str:
    """A line where there is nothing to list."""
    return f'<p class="empty">{text}</p>'
