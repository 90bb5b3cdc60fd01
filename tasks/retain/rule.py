"""What may be removed when, by which copy, and what came of it?

| rule             | what goes                   | once                           | proven before, each time       |
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
    """How long files are kept (ns) and how much of the disk must be free (bytes); None: for ever, and no matter."""

    batches_for_ns: int | None = None
    local_for_ns: int | None = None
    free_bytes: int | None = None

    @property
    def is_off(self) -> bool:
        """Whether everything is kept for ever."""
        return self == Rule()


@dataclass(frozen=True, slots=True)
class Remote:
    """The bucket: `stands` asks it now whether it holds an object as acknowledged, `remove` takes keys from it.

    Both raise TransientError where it cannot be asked now, and TerminalError where it refuses.
    """

    name: str
    place: Place
    stands: Callable[[ObjectReceipt], bool]
    remove: Callable[[Sequence[str]], None]


@dataclass(frozen=True, slots=True)
class Gone:
    """A file that was removed, where it lay below the data folder, and in which places its rows are proven to be."""

    file: str
    bytes: int
    why: Why
    held_in: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Kept:
    """A file that was due and yet is kept, and for what reason; `wrong` where something is not as it should be."""

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
        """How much was removed here."""
        return sum(each.bytes for each in self.removed)
