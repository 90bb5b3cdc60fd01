"""Is every trade of a connection there once, from number 1 on without a hole, in order of receipt?

The lanes of a session share a connection's numbers, and their batches end at different times. So a number may be
missing until another lane's batch is read: receive times of what came early wait in a window, which is as long as
the lanes are apart, not as the session.
"""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.int64]


@dataclass(slots=True)
class _Connection:
    done_seq: int = 0
    done_ns: int = 0
    # Receive times of the numbers after `done_seq`, 0 where one has not been seen.
    window: Numbers = field(default_factory=lambda: np.zeros(0, np.int64))


class Order:
    """Takes the trades of a session's batches, and says what breaks their order. Times are UTC ns."""

    def __init__(self) -> None:
        self._connections: dict[int, _Connection] = {}

    def take(self, connection: int, seqs: Numbers, times_ns: Numbers) -> list[str]:
        """Note the `recv_seq` and `ts_recv` of some trades; gives a sentence for each law they break."""
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
        """Nothing more comes to fill holes; gives a sentence for each connection that has some.

        `tolerated` gives, for some connections, the number after which a killed lane may have lost trades.
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
