"""Formats counts, shares, and remaining time, and escapes untrusted text for display.

Untrusted are symbols, reasons, paths, and vendor messages.

In a terminal or log, control characters could move the cursor or forge a line. In Markdown, as in a run's artifacts,
the text could become a table border, a link, an image, or HTML.
"""

import re

_BACKTICKS = re.compile("`+")


def plain(text: object) -> str:
    """Return the text in one line, with control characters and lone surrogates escaped."""
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in str(text))


def in_markdown(text: object) -> str:
    """Return the text as a code span, which shows it literally, also within a table.

    Entities do not work: of Prefect's two user interfaces, one shows their code and the other makes links. A `|` is
    shown as its escape, because renderers disagree on when a backslash keeps it from ending a table cell.
    """
    shown = plain(text).replace("|", "\\x7c")
    fence = "`" * (1 + max(map(len, _BACKTICKS.findall(shown)), default=0))
    space = " " if "`" in shown or not shown.strip() else ""
    return f"{fence}{space}{shown}{space}{fence}"


def count(number: int, noun: str) -> str:
    """Format a count with its noun: `1 symbol`, `2 symbols`, `3 batches`."""
    plural = noun + ("es" if noun.endswith(("ch", "s", "x")) else "s")
    return f"{number:,} {noun if number == 1 else plural}"


def share(part: float | None) -> str:
    """Format a share from 0 to 1 as a percentage; less than the whole never rounds up to 100 %."""
    if part is None:
        return "–"
    return "100 %" if part >= 1 else f"{min(part, 0.999) * 100:.1f} %"


def countdown(left_s: float) -> str:
    """Format the time that is left as `h:mm:ss`."""
    whole = max(0, round(left_s))
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"
