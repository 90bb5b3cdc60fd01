"""What has a session already sealed, wherever its batches stand by now?"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from tasks.records.manifest import Manifest, Seal, read
from tasks.records.names import BatchName
from tasks.storage.store import Store


@dataclass(frozen=True, slots=True)
class Past:
    """The sealed batches of one session: how many each lane has, and the sums of what they hold."""

    batches: tuple[int, ...]
    connections: int = 0
    frames: int = 0
    per_symbol: Counter[str] = field(default_factory=Counter)


def past_of(store: Store, session: str, lanes: int) -> Past:
    """Adds up the seals of a session. Raises CorruptionError where one cannot be read."""
    seals = list(seals_of(store, session).values())
    numbers = [BatchName.parse(seal.batch) for seal in seals]
    per_symbol: Counter[str] = Counter()
    for seal in seals:
        per_symbol.update(seal.per_symbol)
    return Past(
        batches=tuple(max((n.number + 1 for n in numbers if n.lane == lane), default=0) for lane in range(lanes)),
        connections=max((each.connection for seal in seals for each in seal.connections), default=0),
        frames=sum(seal.frames.received for seal in seals),
        per_symbol=per_symbol,
    )


def seals_of(store: Store, session: str) -> dict[str, Seal]:
    """The seal of every batch of a session, by the batch's name.

    Looked for in the order in which batches move on: one that moves meanwhile is met in its new place.
    """
    found: dict[str, Seal] = {}
    for seal in _all(store, session):
        found.setdefault(seal.batch, seal)
    return found


def _all(store: Store, session: str) -> Iterator[Seal]:
    for folder in (store.sealed, store.validated):
        for path in sorted(folder.glob(f"{session}-*.seal.json")):
            try:
                yield read(path, Seal)
            except FileNotFoundError:
                continue
    for path in sorted(store.archive.glob(f"feed=*/date=*/_{session}-*.manifest.json")):
        yield read(path, Manifest).seal
