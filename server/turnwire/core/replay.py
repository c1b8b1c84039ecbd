"""Where a reader goes on: replay or snapshot, and the window in which live entries meet replayed ones.

A cursor names the entry that its reader has last. It is honoured only if the log still holds that very entry: same
generation, same seq, same turn, nothing trimmed after it. Anything else is another history, and splicing two histories
is the one thing that must never happen (a promoted replica that lost its tail gives the same seqs to other text).
"""

from collections import deque
from collections.abc import Sequence
from typing import Literal

from turnwire.core.entries import Delta, Logged
from turnwire_protocol.values import Cursor


def mode_of(
    after: Cursor | None, *, gen: str | None, head: int, floor: int, turn_at: str | None, at_known: bool
) -> Literal["replay", "snapshot"]:
    """How a `session.open` is answered, given what the log says of the cursor's place.

    `turn_at` and `at_known` are what LogRange tells of the entry at `after.seq`.
    """
    if after is None or gen is None or after.gen != gen:
        return "snapshot"
    if after.seq > head or after.seq < floor:
        return "snapshot"
    if after.seq == 0:
        return "replay" if after.turn is None else "snapshot"
    return "replay" if at_known and turn_at == after.turn else "snapshot"


class Window:
    """The newest entries of one log, in memory, without holes: [start + 1 .. tail].

    It takes only what continues it, drops its oldest entries beyond its bounds, and never guesses: `after` answers None
    where it does not reach, and the caller reads the log.
    """

    def __init__(self, tail: int, *, entries_max: int, chars_max: int) -> None:
        self._entries: deque[Logged] = deque()
        self._start = tail
        self._chars = 0
        self._entries_max = entries_max
        self._chars_max = chars_max
        self.tail = tail

    def extend(self, logged: Sequence[Logged]) -> bool:
        """Take what is new of `logged` (in order, without holes in itself). False when it would leave a gap."""
        for entry in logged:
            if entry.seq <= self.tail:
                continue
            if entry.first_seq != self.tail + 1:
                return False
            self._entries.append(entry)
            self._chars += _weight(entry)
            self.tail = entry.seq
        while self._entries and (len(self._entries) > self._entries_max or self._chars > self._chars_max):
            oldest = self._entries.popleft()
            self._chars -= _weight(oldest)
            self._start = oldest.seq
        return True

    def after(self, seq: int) -> Sequence[Logged] | None:
        """All entries past `seq`, or None when the window does not reach back that far or not on its border."""
        if seq >= self.tail:
            return ()
        if seq < self._start:
            return None
        found: list[Logged] = []
        for entry in reversed(self._entries):
            if entry.seq <= seq:
                break
            found.append(entry)
        found.reverse()
        # A cursor inside a merged entry cannot be served from here: half of it is known already.
        return found if found[0].first_seq == seq + 1 else None


def _weight(logged: Logged) -> int:
    entry = logged.entry
    return len(entry.text) if isinstance(entry, Delta) else len(entry.body)
