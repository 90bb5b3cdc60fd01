"""Keeper: a thread that syncs the journals every second and seals those that their lanes have finished.

A sync takes 1–600 ms (measured on shared disks), so it happens off the lanes' threads. Only this thread closes a
journal's files, so it never syncs a closed one.
"""

import queue
import threading
from collections.abc import Callable

from tasks.capture.clock import Clock
from tasks.capture.gaps import GapBook
from tasks.capture.journal import Journal, discard, seal
from tasks.records.trade import NS_PER_S
from tasks.storage.store import Store


class JournalKeeper(threading.Thread):
    """Syncs and seals the journals of a session. A failure ends it and is passed to `on_failure`.

    `through_ns` returns the time (UTC ns) up to which everything received is written; `durable_ns` is the time up to
    which it survives a power loss. A sync begins a second after the previous one has ended, by the clock.
    """

    def __init__(
        self,
        store: Store,
        symbols: Callable[[], tuple[str, ...]],
        gaps: GapBook,
        clock: Clock,
        on_failure: Callable[[BaseException], None],
        through_ns: Callable[[], int],
        sync_every_ns: int = NS_PER_S,
    ) -> None:
        super().__init__(name="keeper", daemon=True)
        self.sealed = 0
        self.durable_ns = 0
        self._through_ns = through_ns
        self._store = store
        self._symbols = symbols
        self._gaps = gaps
        self._clock = clock
        self._on_failure = on_failure
        self._sync_every_ns = sync_every_ns
        self._inbox: queue.SimpleQueue[Journal | Callable[[], object] | None] = queue.SimpleQueue()
        self._open: list[Journal] = []

    def watch(self, journal: Journal) -> None:
        """Sync this journal, by default every second, from now on."""
        self._open.append(journal)

    def seal(self, journal: Journal) -> None:
        """Seal this journal; its lane must not write to it anymore."""
        self._inbox.put(journal)

    def call_when_sealed(self, done: Callable[[], object]) -> None:
        """Call `done` once everything handed in before is sealed."""
        self._inbox.put(done)

    def finish(self) -> None:
        """Seal what was handed in, then end; `join` waits for it."""
        self._inbox.put(None)

    def run(self) -> None:
        try:
            synced_ns = self._clock.monotonic_ns()
            while True:
                # Sealing many journals must not delay the sync of the others.
                left_ns = synced_ns + self._sync_every_ns - self._clock.monotonic_ns()
                if left_ns <= 0:
                    self._sync()
                    synced_ns = self._clock.monotonic_ns()
                    continue
                try:
                    journal = self._inbox.get(timeout=left_ns / NS_PER_S)
                except queue.Empty:
                    continue
                if journal is None:
                    return
                if isinstance(journal, Journal):
                    self._open.remove(journal)
                    self._seal(journal)
                else:
                    journal()
        except BaseException as error:
            self._on_failure(error)

    def _sync(self) -> None:
        through_ns = self._through_ns()  # Before the list is copied: what is written by now is in a watched journal.
        for journal in tuple(self._open):
            journal.sync()
        self.durable_ns = max(self.durable_ns, through_ns)

    def _seal(self, journal: Journal) -> None:
        journal.close()
        if journal.is_empty:
            discard(self._store, journal.name)
            return
        now_ns = max(self._clock.wall_ns(), journal.heading.opened_ns)  # The wall clock may have been put back.
        gaps = self._gaps.touching(journal.heading.opened_ns, now_ns)
        seal(self._store, journal.name, journal.sealed_as(now_ns, self._symbols(), gaps))
        self.sealed += 1
