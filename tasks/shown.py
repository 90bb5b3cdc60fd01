"""How is a text from outside shown: a symbol, a reason, a path, a vendor's words? Nothing in it may act.

In a terminal or a log its control characters would move the cursor or forge a line; in Markdown, as the artifacts of a
run are, it could be a table's border, a link, an image or HTML.
"""

_ACTIVE = frozenset("\\`*_{}[]<>#|&~$!:@\"'")


def plain(text: object) -> str:
    """The text in one line, control characters and lone surrogates as their escapes."""
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in str(text))


def in_markdown(text: object) -> str:
    """The text as Markdown that shows it as it is, and is nothing else."""
    encoded = "".join(f"&#{ord(letter)};" if letter in _ACTIVE else letter for letter in plain(text))
    return encoded.replace("www.", "www&#46;")
