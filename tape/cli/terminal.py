"""What may a command's output meet, and still end as a tool should: a closed pipe, another encoding, odd texts?"""

import os
import sys
from typing import Any


def take_any_text() -> None:
    """From now on a character that the terminal's encoding lacks is written as its escape, and ends no command.

    A stream that is closed (`>&-`) becomes one that takes everything and shows nothing.
    """
    for name in ("stdout", "stderr"):
        stream: Any = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115, PTH123 - as long as the process
        else:
            stream.reconfigure(errors="backslashreplace")
