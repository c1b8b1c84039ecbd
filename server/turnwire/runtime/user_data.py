"""All that is stored of one user: given whole, or removed.

It works on the log alone, beside nodes that serve the same user meanwhile, and holds no more than one page of turns.
Both go by the owner's list of sessions, in which a session rises when it is written to, maybe past the one who reads:
so the list is read again until there is nothing new in it.
"""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any, Final, cast

import orjson

from turnwire.core.snapshots import state_of, whole_snapshot
from turnwire.ports import CredentialStore, ListPlace, SessionInfo, SessionKey, SessionLog, StoredTurn
from turnwire.runtime.running_turns import new_nonce

FORMAT: Final = 1
SESSIONS_AT_ONCE: Final = 100
TURNS_AT_ONCE: Final = 50
PASSES_MAX: Final = 8
"""How often the list of sessions is read. More are needed only while somebody goes on making new ones."""


class NothingStored(Exception):
    """There is no session of that user."""


class StillActive(Exception):
    """Sessions were made as fast as they were removed. `removed` says how many were."""

    def __init__(self, removed: int) -> None:
        super().__init__(f"{removed} sessions removed, and there are new ones")
        self.removed = removed


async def exported(log: SessionLog, user: str, now_ms: int) -> AsyncGenerator[dict[str, Any]]:
    """Records of `type` user, session, turn and, at last, end, which counts the others: what lacks it is not whole.

    A session's turns follow it. Sessions stand newest write first, turns newest first. Raises NothingStored before
    the first record, and Failure.
    """
    sessions, turns = 0, 0
    async for info in _sessions(log, user):
        if not sessions:
            yield {"type": "user", "user": user, "exported_at": now_ms, "format": FORMAT}
        sessions += 1
        yield _session_record(info)
        async for turn in _turns(log, SessionKey(user, info.session)):
            turns += 1
            yield turn
    if not sessions:
        raise NothingStored
    yield {"type": "end", "sessions": sessions, "turns": turns}


async def erase(log: SessionLog, credentials: CredentialStore, user: str, settle_ms: int) -> int:
    """Log the user out, and remove all that is stored of it; how many sessions that were.

    `settle_ms` is how long nodes may take to learn that the user's tokens are ended: whatever comes until then is
    removed, too. Raises NothingStored, StillActive and Failure; to repeat it does no harm.
    """
    # What a user has beside sessions is little, and may be all there is.
    if not await log.forget_owner(user) and not [info async for info in _some_sessions(log, user)]:
        raise NothingStored
    await credentials.end_tokens(user)
    removed = await _delete_sessions(log, user)
    await asyncio.sleep(settle_ms / 1000)
    for _ in range(PASSES_MAX):
        found = await _delete_sessions(log, user)
        removed += found
        if not found:
            await log.forget_owner(user)
            return removed
    raise StillActive(removed)


async def _delete_sessions(log: SessionLog, user: str) -> int:
    """One pass. Whoever runs or reads one of them is told by the store."""
    removed = 0
    async for info in _listed(log, user):
        removed += await log.delete_session(SessionKey(user, info.session), new_nonce()) is not None
    return removed


async def _sessions(log: SessionLog, user: str) -> AsyncGenerator[SessionInfo]:
    """Each session once. Of those that are made after the beginning, none has to be there."""
    seen: set[str] = set()
    for _ in range(PASSES_MAX):
        known = len(seen)
        async for info in _listed(log, user):
            if info.session not in seen:
                seen.add(info.session)
                yield info
        if len(seen) == known:
            return


async def _some_sessions(log: SessionLog, user: str) -> AsyncGenerator[SessionInfo]:
    """The newest one, if there is any."""
    async for info in _listed(log, user):
        yield info
        return


async def _listed(log: SessionLog, user: str) -> AsyncGenerator[SessionInfo]:
    """The list, from its top to its end."""
    place: ListPlace | None = None
    while True:
        page = await log.list_sessions(user, place, SESSIONS_AT_ONCE)
        for info in page.sessions:
            yield info
        place = page.next
        if place is None:
            return


async def _turns(log: SessionLog, key: SessionKey) -> AsyncGenerator[dict[str, Any]]:
    """The newest first, because then a turn that is accepted meanwhile moves no page."""
    before: str | None = None
    while True:
        page = await log.read_turns(key, before, TURNS_AT_ONCE)
        if page is None:  # deleted meanwhile
            return
        for stored in reversed(page.turns):
            yield await _turn_record(log, key, stored)
        before = page.next
        if before is None:
            return


def _session_record(info: SessionInfo) -> dict[str, Any]:
    return {
        "type": "session",
        "session": info.session,
        "title": info.title,
        "preview": info.preview,
        "metadata": orjson.loads(info.metadata),
        "created_at": info.created_at,
        "updated_at": info.updated_at,
    }


async def _turn_record(log: SessionLog, key: SessionKey, stored: StoredTurn) -> dict[str, Any]:
    """A turn as snapshots show it, and what they leave out: what else was asked for, and the results of tools.

    What a provider wants back with later requests stays out: it is sealed, and only its provider can read it.
    """
    turn = state_of(stored)
    record = {**whole_snapshot(key.session, turn), "type": "turn"}
    spec = cast("dict[str, Any]", orjson.loads(stored.spec))
    record.update({name: spec[name] for name in ("params", "tools", "response_format") if spec.get(name)})
    if turn.pending or any(part["kind"] == "tool_call" for part in turn.parts):
        answers = await log.read_answers(key.turn(stored.turn))
        record["results"] = {request: orjson.loads(value) for request, value in answers.items()}
    return record
