"""The colors of the charts, one set for each theme; those of the page are in page.css.

Up is blue and hollow, down orange and filled, a gap reddish purple: told apart with any color vision, and in gray.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Palette:
    """The colors of a theme."""

    surface: str
    text: str
    muted: str
    line: str
    up: str
    down: str
    gap: str
    accent: str


DARK = Palette(
    surface="#14171b", text="#e7eaee", muted="#8a939e", line="#242a31",
    up="#6cb2f0", down="#f0903f", gap="#c878b4", accent="#6cb2f0",
)  # fmt: skip
LIGHT = Palette(
    surface="#ffffff", text="#14181d", muted="#5d6772", line="#e4e7eb",
    up="#0b63b5", down="#c4560c", gap="#a3458b", accent="#0b63b5",
)  # fmt: skip
