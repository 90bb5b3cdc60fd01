"""What `tape doctor` finds: one line for each thing that it checks."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Finding:
    """One line: what was checked, its state, and the result or the next step."""

    name: str
    state: Literal["ok", "note", "wrong"]
    text: str
