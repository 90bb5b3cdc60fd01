"""The calendar, the sessions, and the report of the archive as HTML; what comes from files is escaped here."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from itertools import groupby
from urllib.parse import quote

from tape import report
from tape.dashboard.markup import empty, safe, table
from tape.dashboard.model import DayShown, DayState, SessionShown
from tape.dashboard.wording import NOTHING, milliseconds, number, size
from tape.holdings import Row
from tasks.records.ledger import Gap, Ledger
from tasks.shown import share

# A sign and a word show a state, not its color alone.
STATES: Mapping[DayState, tuple[str, str]] = {
    "complete": ("●", "complete"),
    "gaps": ("◐", "with gaps"),
    "short": ("◔", "short of market hours"),
    "missing": ("○", "missing"),
    "closed": ("·", "no market hours"),
    "unknown": ("?", "no record here"),
}


def calendar(days: Sequence[DayShown], prefix: str) -> str:
    """The days by month, newest month first; each day that has a session is a link."""
    if not days:
        return empty("Nothing is archived here yet.")
    months = [(month, list(each)) for month, each in groupby(days, lambda day: day.date[:7])]
    return "".join(_month(month, each, prefix) for month, each in reversed(months))


def legend() -> str:
    """What the signs of the calendar mean."""
    return "".join(f'<span class="{name}"><i>{sign}</i> {word}</span>' for name, (sign, word) in STATES.items())


def _month(month: str, days: Sequence[DayShown], prefix: str) -> str:
    first = date.fromisoformat(f"{month}-01")
    cells = ["<span></span>"] * first.weekday()
    by_date = {day.date: day for day in days}
    for number_of_day in range(1, 32):
        try:
            at = first.replace(day=number_of_day).isoformat()
        except ValueError:
            break
        day = by_date.get(at)
        cells.append(_day(day, prefix) if day else f'<span class="day none"><b>{number_of_day}</b></span>')
    heads = "".join(f'<span class="weekday">{name}</span>' for name in ("Mo", "Tu", "We", "Th", "Fr", "Sa", "Su"))
    return f'<section class="month"><h3>{first:%B %Y}</h3><div class="days">{heads}{"".join(cells)}</div></section>'


def _day(day: DayShown, prefix: str) -> str:
    sign, word = STATES[day.state]
    told = f"{day.date}: {word}, {number(day.trades)} trades" + (", being recorded" if day.is_recording else "")
    received = share(day.share) if day.sessions and day.share is not None else ""
    inside = f"<b>{int(day.date[8:])}</b><i>{sign}</i><small>{received}</small>"
    names = f'class="day {day.state}" data-state="{day.state}" title="{told}" aria-label="{told}"'
    if not day.sessions:
        return f"<span {names}>{inside}</span>"
    return f'<a {names} href="{_address(prefix, day.date)}">{inside}</a>'


def sessions_table(sessions: Sequence[SessionShown], prefix: str, only_in_bucket: Mapping[str, Iterable[str]]) -> str:
    """Every session, newest first, those that only the bucket has included."""
    rows = []
    for each in reversed(sessions):
        balances = {True: "yes", False: '<span class="down">NO</span>', None: NOTHING}[each.balances]
        rows.append(
            f'<tr><td><a href="{_address(prefix, each.session)}">{safe(each.session)}</a></td>'
            f"<td>{safe(each.outcome)}</td>{_numbers(each.trades, each.gaps)}"
            f'<td class="n">{each.archived:,} / {each.batches:,}</td><td class="n">{each.uploaded:,}</td>'
            f'<td class="n">{share(each.coverage)}</td><td>{balances}</td></tr>'
        )
    for session, days in sorted(only_in_bucket.items(), reverse=True):
        where = f"bucket only: {', '.join(sorted(days))}"
        rows.append(
            f'<tr><td><a href="{_address(prefix, session)}?remote=1">{safe(session)}</a></td>'
            f'<td colspan="7">{safe(where)}</td></tr>'
        )
    heads = ("session", "outcome", "n:trades", "n:gaps", "n:archived", "n:uploaded", "n:received", "balances")
    return table(heads, rows) if rows else empty("No session yet.")


def report_tables(found: Row, ledger: Ledger | None) -> str:
    """What `tape show` says: completeness, laws, counts, and reasons of quarantine."""
    parts = []
    whole = found["completeness"]
    if whole is not None and whole.is_complete is not None:
        verdict = "complete" if whole.is_complete else f"{share(whole.share)} of market hours"
        missing = [f"{symbol}: {report.gap_line(_gap(symbol, piece))}" for symbol, pieces in whole.missing.items()
                   for piece in pieces][:50]  # fmt: skip
        parts.append(f"<h3>The day is {safe(verdict)}</h3>" + "".join(f"<p>{safe(line)}</p>" for line in missing))
    if ledger is not None:
        laws = [
            f'<tr><td>{safe(left)}</td><td class="n">{a:,}</td><td>{safe(right)}</td><td class="n">{b:,}</td>'
            f"<td>{'holds' if a == b else '<b class=down>BROKEN</b>'}</td></tr>"
            for left, a, right, b in ledger.laws()
        ]
        verdict = "balances" if ledger.balances else "does NOT balance"
        parts.append(f"<h3>The ledger {verdict}</h3>" + table(("law", "n:count", "must equal", "n:count", ""), laws))
    lag = ", ".join(f"{name} {milliseconds(value)}" for name, value in found["lag_ms"].items())
    facts = {
        "sessions": number(len(found["sessions"])), "batches archived": number(found["batches"]),
        "batches uploaded": number(found["uploaded"]), "batches that wait": number(found["waiting"]),
        "trades": number(found["trades"]), "bytes": size(found["bytes"]), "resent": number(found["resent"]),
        "out of order": number(found["out_of_order"]), "late": number(found["late"]),
        "received of the requested time": share(found["coverage"]),
        "received of market hours": share(found["market_hours"]), "lag, ms": lag or NOTHING,
        "quarantined": number(found["quarantined"]),
    }  # fmt: skip
    facts |= {f"quarantined: {reason}": number(count) for reason, count in found["reasons"].items()}
    rows = [f'<tr><td>{safe(name)}</td><td class="n">{safe(value)}</td></tr>' for name, value in facts.items()]
    return "".join(parts) + "<h3>Validation</h3>" + table(("", "n:"), rows)


def _gap(symbol: str, piece: tuple[tuple[int, int], str]) -> Gap:
    (start_ns, end_ns), reason = piece
    return Gap(symbols=(symbol,), start_ns=start_ns, end_ns=end_ns, reason=reason)


def _numbers(*values: int) -> str:
    return "".join(f'<td class="n">{value:,}</td>' for value in values)


def _address(prefix: str, what: str) -> str:
    return f"{prefix}/archive/{quote(what, safe='')}"
