"""Reading sessions: as a whole, along a branch, page by page, or from a cursor on; and lists of them.

A script says where a session stands and which turns it has; entries are read beside it with XRANGE, because passed
through Lua each would cost six times as much, and the store does nothing else meanwhile. Entries of one gen never
change, so what is read a moment later is what the script saw, provided that the gen is the same before and after and
that none of them was trimmed. Both are checked, and otherwise all of it is read again. (A transaction would save the
second look at the gen, but a full store refuses transactions, and must still be readable.)
"""

from collections.abc import Sequence
from typing import Any, Final

from turnwire.core.entries import Logged
from turnwire.core.log_values import (
    ListPlace,
    LogRange,
    SessionInfo,
    SessionKey,
    SessionPage,
    SessionView,
    StoredTurn,
    TurnKey,
    TurnPage,
)
from turnwire.ports import Failure
from turnwire.stores.redis import scripts
from turnwire.stores.redis.keys import answers_name, session_keys, session_name, sessions_name
from turnwire.stores.redis.link import Lane
from turnwire.stores.redis.records import answers_of, logged_of
from turnwire.stores.redis.replies import info_of, page_of, range_of, stored_turns_of, turn_page_of, view_of
from turnwire.stores.redis.scripts import fresh_gen
from turnwire.stores.redis.wire import Command

TRIES: Final = 3
"""How often a read starts anew because the log changed under it; it changes so once in a session's life or rarer."""

ENTRIES_AT_ONCE: Final = 4_000
"""Read in one command: the store answers nobody else for about 4 ms."""


class SessionReads:
    """`bytes_max` is what finished turns may weigh in one read; older ones are left out."""

    def __init__(self, lane: Lane, *, bytes_max: int) -> None:
        self._lane = lane
        self._bytes_max = bytes_max

    async def read_view(self, key: SessionKey, history: int) -> SessionView:
        arguments = (fresh_gen(), history, self._bytes_max)
        found = await self._whole(key, scripts.READ_VIEW.command(session_keys(key), arguments))
        return SessionView(None, 0, 0, None, None) if found is None else view_of(*found)

    async def read_branch(self, key: TurnKey, count_max: int) -> Sequence[StoredTurn]:
        session = key.session_key
        arguments = (fresh_gen(), key.turn, count_max, self._bytes_max)
        found = await self._whole(session, scripts.READ_BRANCH.command(session_keys(session), arguments))
        return () if found is None else stored_turns_of(found[0][3], found[1])

    async def read_turns(self, key: SessionKey, before: str | None, count_max: int) -> TurnPage | None:
        arguments = (fresh_gen(), before or "", count_max, self._bytes_max)
        found = await self._whole(key, scripts.READ_TURNS.command(session_keys(key), arguments))
        return None if found is None else turn_page_of(*found)

    async def list_sessions(self, owner: str, before: ListPlace | None, count_max: int) -> SessionPage:
        place = ("", "") if before is None else (before.at, before.session)
        command = scripts.LIST_SESSIONS.command([sessions_name(owner)], (count_max, *place))
        return page_of(await self._lane.one(command))

    async def read_session(self, key: SessionKey) -> SessionInfo | None:
        summary = await self._lane.one(scripts.READ_SESSION.command([session_name(key)], ()))
        return info_of(key.session, summary) if summary else None

    async def read_answers(self, key: TurnKey) -> dict[str, bytes]:
        asks = await self._lane.one(("HGETALL", answers_name(key)))
        return answers_of([item for pair in asks.items() for item in pair])

    async def read_range(self, key: SessionKey, after_seq: int, count_max: int) -> LogRange:
        for _ in range(TRIES):
            found = await self._look(key, max(after_seq, 1), count_max + (after_seq > 0))
            if found is not None:
                return range_of(found[0], after_seq, found[1])
        raise _changed()

    async def entries(self, key: SessionKey, gen: bytes, first: int, last: int) -> list[Logged] | None:
        """Entries `first` to `last` of that gen; None when they are not there (any more)."""
        found: list[Logged] = []
        while first <= last:
            seen = await self._look(key, first, min(ENTRIES_AT_ONCE, last - first + 1))
            if seen is None or not seen[0] or seen[0][0] != gen:
                return None
            some = logged_of(seen[1])
            if not some or some[0].seq != first:
                return None
            found += some
            first = some[-1].seq + 1
        return found

    async def _whole(self, key: SessionKey, command: Command) -> tuple[Sequence[Any], list[Logged]] | None:
        """The answer of a script that reads turns, and the entries of the unfinished ones among them."""
        for _ in range(TRIES):
            reply = await self._lane.one(command)
            if not reply:
                return None
            gen, head, oldest = reply[:3]
            entries = await self.entries(key, gen, oldest, head)
            if entries is not None:
                return reply, entries
        raise _changed()

    async def _look(
        self, key: SessionKey, first: int, count_max: int
    ) -> tuple[Sequence[Any], Sequence[Sequence[Any]]] | None:
        """Where the session stands, and entries from `first` to its head; None when its gen changed between the two."""
        keys = session_keys(key)
        look = scripts.LOOK_AT.command(keys, (fresh_gen(), ""))
        read = ("XRANGE", f"{keys[0]}:log", f"{first}-0", "+", "COUNT", count_max)
        before, raw, after = await self._lane.in_order([look, read, look])
        if not before:
            return before, ()
        if not after or after[0] != before[0]:
            return None
        # Others may have appended between the look and the read.
        known = max(0, before[1] - first + 1)
        return before, raw[:known]


def _changed() -> Failure:
    return Failure("store_away", f"the log changed {TRIES} times while it was read")
