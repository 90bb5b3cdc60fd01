"""Makes output survive a closed stream and a terminal encoding that lacks a character."""

import os
import sys
from typing import Any


def take_any_text() -> None:
    """Write characters that the terminal's encoding lacks as escapes, instead of failing.

    A closed stream (`>&-`) becomes one that discards everything.
    """
    for name in ("stdout", "stderr"):
        stream: Any = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115, PTH123 - as long as the process
        else:
            stream.reconfigure(errors="backslashreplace")
