"""The retention rule, and the records of its results.

| rule             | removes                     | when                           | proven before each removal     |
| ---------------- | --------------------------- | ------------------------------ | ------------------------------ |
| `batches_for_ns` | batch files, here and there | the day was closed so long ago | the day's file, here and there |
| `local_for_ns`   | batch and day files, here   | the file lay here so long      | the bucket's copy              |
| `free_bytes`     | batch and day files, here   | less is free; oldest day first | the bucket's copy              |

"There" is the bucket, where one is set. Manifests, receipts, days' records and quarantine are never removed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from tasks.records.manifest import ObjectReceipt, Place

Why = Literal["merged", "age", "space"]


@dataclass(frozen=True, slots=True)
class Rule:
    """How long files are kept (ns), and how much disk space must be free (bytes); None means no limit."""

    batches_for_ns: int | None = None
    local_for_ns: int | None = None
    free_bytes: int | None = None

    @property
    def is_off(self) -> bool:
        """Whether everything is kept forever."""
        return self == Rule()


@dataclass(frozen=True, slots=True)
class Remote:
    """The bucket: `stands` asks it whether an object is still as acknowledged, `remove` removes keys.

    Both raise TransientError if the bucket is unreachable, and TerminalError if it denies access.
    """

    name: str
    place: Place
    stands: Callable[[ObjectReceipt], bool]
    remove: Callable[[Sequence[str]], None]


@dataclass(frozen=True, slots=True)
class Gone:
    """A removed file, its path below the data folder, and the places where its rows are proven to be."""

    file: str
    bytes: int
    why: Why
    held_in: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Kept:
    """A file that is due but kept, and the reason; `wrong` if the reason is a fault."""

    file: str
    reason: str
    wrong: bool


@dataclass(frozen=True, slots=True)
class Retained:
    """What was removed, and what was due but kept."""

    removed: tuple[Gone, ...] = ()
    kept: tuple[Kept, ...] = ()

    @property
    def bytes(self) -> int:
        """The bytes removed locally."""
        return sum(each.bytes for each in self.removed)
