"""Continuity of one connection: from when on messages may be missing once it is lost. Pure: events in, a gap out.

A gap must begin no later than the first message that was sent but not recorded. The receive time of the last bytes is
not always early enough:

- Before all subscriptions were sent, nothing of this connection counts.
- Bytes that waited in our socket were sent earlier than they are read, and so were those lost behind them.
- A message of which only a part was received began earlier than its last bytes.
- A feed that stays silent although it answers pings may have been cut off at its last trade.
"""

from tasks.records.trade import NS_PER_S

# Bytes read this long after the socket was last empty count as delayed.
_BEHIND_NS = NS_PER_S // 4
# Only a wait for the queues as long as this one is mentioned in a gap's reason, and only for so long after it.
_LONG_WAIT_NS = NS_PER_S
_MENTIONED_FOR_NS = 30 * NS_PER_S


class Continuity:
    """The events of one connection so far. Times are UTC ns; those named `mono` are of the monotonic clock.

    `received_ns` is the receive time of the last bytes. Before `subscribed`, a gap begins at the given start.
    """

    def __init__(self, start_ns: int) -> None:
        self.received_ns = start_ns
        self.latest_ns = 0
        self.silence: tuple[int, str] | None = None
        self._covered_from_ns = start_ns
        self._fresh_ns = 0
        self._message_began_ns = 0
        self._is_within_message = False
        self._ended_in_order = False
        self._wait_ns = self._waited_until_mono_ns = 0

    def stamp(self, wall_ns: int) -> int:
        """Return that time, but never one before an earlier stamp: the wall clock may be put back."""
        self.latest_ns = max(self.latest_ns, wall_ns)
        return self.latest_ns

    def subscribed(self, at_ns: int) -> None:
        """All symbols were subscribed by then: from then on the feed owes us their trades."""
        self._covered_from_ns = self.received_ns = self._fresh_ns = at_ns

    def read(self, wall_ns: int, was_empty: bool) -> int:
        """Bytes, or the end, were read; `was_empty` if none had waited in the socket. Returns their receive time."""
        self.received_ns = self.stamp(wall_ns)
        if was_empty:
            self._fresh_ns = self.received_ns
        return self.received_ns

    def cut(self, completed: bool, is_within_message: bool) -> None:
        """These bytes completed messages or not, and the last message is now incomplete or not."""
        if completed or not self._is_within_message:
            self._message_began_ns = self.received_ns
        self._is_within_message = is_within_message

    def waited(self, wait_ns: int, mono_ns: int) -> None:
        """Handing on took this long, until `mono_ns`: the queues were full, and the vendor had to wait as well."""
        if wait_ns > _LONG_WAIT_NS:
            self._wait_ns, self._waited_until_mono_ns = wait_ns, mono_ns

    def silent(self, since_ns: int, reason: str) -> None:
        """No trades have come since then, against expectation, although the connection is open: it must be replaced."""
        self.silence = since_ns, reason

    def ended_in_order(self) -> None:
        """The peer ended the connection, so that everything it had sent was received before its end."""
        self._ended_in_order = True

    @property
    def through_ns(self) -> int:
        """The time up to which everything sent has been read: earlier than the last bytes if older data waits."""
        return self.latest_ns if self.latest_ns - self._fresh_ns < _BEHIND_NS else self._fresh_ns

    def gap(self, reason: str, mono_ns: int) -> tuple[int, str]:
        """Return the start and the reason of the gap that the loss of this connection leaves."""
        if self.silence is not None:
            return self.silence[0], reason
        if self._wait_ns and mono_ns - self._waited_until_mono_ns < _MENTIONED_FOR_NS:
            reason += f"; for {self._wait_ns / NS_PER_S:.1f} s before, the journal had held up the reading"
        whole_ns = self.received_ns if self._ended_in_order else min(self.received_ns, self.through_ns)
        if self._is_within_message:  # No part of an incomplete message is recorded.
            whole_ns = min(whole_ns, self._message_began_ns)
        return max(self._covered_from_ns, whole_ns), reason
