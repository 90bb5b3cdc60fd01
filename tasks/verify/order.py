"""Checks that a connection's trades are complete: each number from 1 once, without holes, in order of receipt.

The lanes of a session share a connection's numbers, and their batches end at different times, so a number may be
missing until another lane's batch is read. Until then, the receive times of later numbers wait in a window, whose size
depends on how far the lanes are apart and not on the length of the session.
"""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.int64]


@dataclass(slots=True)
class _Connection:
    done_seq: int = 0
    done_ns: int = 0
    # Receive times of the numbers after `done_seq`; 0 for numbers not seen yet.
    window: Numbers = field(default_factory=lambda: np.zeros(0, np.int64))


class Order:
    """Checks the order of the trades of a session's batches. Times are UTC ns."""

    def __init__(self) -> None:
        self._connections: dict[int, _Connection] = {}

    def add(self, connection: int, seqs: Numbers, times_ns: Numbers) -> list[str]:
        """Add the `recv_seq` and `ts_recv` of some trades; return one sentence for each law that they break."""
        known = self._connections.setdefault(connection, _Connection())
        places = seqs - known.done_seq - 1
        twice = int((places < 0).sum())
        places, times_ns = places[places >= 0], times_ns[places >= 0]
        if len(places):
            missing = int(places.max()) + 1 - len(known.window)
            if missing > 0:
                known.window = np.concatenate([known.window, np.zeros(missing, np.int64)])
            twice += len(places) - int((known.window[np.unique(places)] == 0).sum())
            known.window[places] = times_ns
        said = [f"connection {connection}: {twice:,} numbers of recv_seq are there twice"] if twice else []
        return said + self._advance(connection, known)

    def settle(self, tolerated: dict[int, int]) -> list[str]:
        """End the check; return one sentence for each connection that still has holes.

        `tolerated` has, for some connections, the number after which a killed lane may have lost trades.
        """
        said = []
        for connection, known in self._connections.items():
            holes = np.flatnonzero(known.window == 0) + known.done_seq + 1
            holes = holes[holes <= tolerated.get(connection, int(np.iinfo(np.int64).max))]
            if len(holes):
                said.append(f"connection {connection}: {len(holes):,} trades from recv_seq {holes[0]} on are missing")
            known.window, skipped = known.window[known.window != 0], len(known.window)
            last_seq = known.done_seq + skipped
            said += self._advance(connection, known)
            known.done_seq = last_seq
        return said

    @staticmethod
    def _advance(connection: int, known: _Connection) -> list[str]:
        absent = np.flatnonzero(known.window == 0)
        whole = int(absent[0]) if len(absent) else len(known.window)
        if not whole:
            return []
        times_ns = np.concatenate([[known.done_ns], known.window[:whole]])
        known.done_seq, known.done_ns, known.window = known.done_seq + whole, int(times_ns[-1]), known.window[whole:]
        back = int((np.diff(times_ns) < 0).sum())
        return [f"connection {connection}: ts_recv runs backwards {back:,} times"] if back else []
