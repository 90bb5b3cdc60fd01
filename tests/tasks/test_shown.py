"""Untrusted text is displayed literally and has no other effect."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.shown import in_markdown, plain


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "[click](javascript:alert(1))",
        "![x](http://evil/x)", "a | b |", "# heading", "`code`", "**bold**", "http://evil.example", "www.evil.example",
        "me@evil.example", "&lt;", "line\nbreak", "\x1b[2J", "~~gone~~", "$x$", "``two``", "`", "\\|",
    ],
)  # fmt: skip
def test_nothing_in_a_text_is_markdown_or_html(text: str) -> None:
    """Tags, links, table borders, and line breaks are shown literally."""
    shown = in_markdown(text)
    fence = shown[: len(shown) - len(shown.lstrip("`"))]
    inner = shown[len(fence) : -len(fence)]
    assert shown.endswith(fence)
    assert fence not in inner  # Nothing in it ends the span.
    assert not set(inner) & set("|\n\x1b")
    assert inner.strip().replace("\\x7c", "|") == plain(text)


@given(st.text())
def test_a_text_is_shown_in_one_line_of_printable_letters(text: str) -> None:
    """Any text, including lone surrogates, can be encoded and is one table cell."""
    assert plain(text).isprintable()
    assert len(plain(text).splitlines()) <= 1
    plain(text).encode()
    assert in_markdown(text).isprintable()
    assert "|" not in in_markdown(text)
