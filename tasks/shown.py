"""How is a text from outside shown: a symbol, a reason, a path, a vendor's words? Nothing in it may act.

In a terminal or a log its control characters would move the cursor or forge a line; in Markdown, as the artifacts of a
run are, it could be a table's border, a link, an image or HTML.
"""

import re

_BACKTICKS = re.compile("`+")


def plain(text: object) -> str:
    """The text in one line, control characters and lone surrogates as their escapes."""
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in str(text))


def in_markdown(text: object) -> str:
    """The text as a code span, which shows it as it is, and as nothing else, also in a table.

    Both of Prefect's pages were looked at: of entities one shows the code, and the other makes links. A `|` is shown as
    its escape: within a table no renderer agrees with another on when a backslash keeps it from ending the cell.
    """
    shown = plain(text).replace("|", "\\x7c")
    fence = "`" * (1 + max(map(len, _BACKTICKS.findall(shown)), default=0))
    space = " " if "`" in shown or not shown.strip() else ""
    return f"{fence}{space}{shown}{space}{fence}"
