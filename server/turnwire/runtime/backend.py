"""The application: what a client may do, whichever transport it came by.

Everything here is for one owner, whose name stands in every key; another owner's sessions do not exist from here. What
is refused raises Refused with the error a client sees. Unlearned says that the store may or may not have taken a write:
the client must ask again, which it can, because every write here is idempotent. While writers still put back what the
store lost, no call is refused because what it names is not there: it waits.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeVar

import orjson
import structlog

from turnwire.core.replay import mode_of
from turnwire.core.snapshots import snapshot_frames, state_of, whole_snapshot
from turnwire.ports import (
    Accepted,
    AcceptRequest,
    Failure,
    ListPlace,
    ProposedTurn,
    Responded,
    SessionChange,
    SessionInfo,
    SessionKey,
    SessionLog,
    SessionPage,
    TurnKey,
)
from turnwire.runtime.input_check import InputCheck
from turnwire.runtime.quotas import Caller, Claim, Quotas
from turnwire.runtime.refusals import Refused, TurnMissing, Unlearned
from turnwire.runtime.running_turns import RunningTurns, new_nonce
from turnwire.runtime.session_hub import SETTLE_LOOK_MS, SessionHub
from turnwire.runtime.turn_requests import TurnRequests
from turnwire.runtime.turn_runner import Spec
from turnwire_protocol.at_rest import SessionPatch
from turnwire_protocol.commands import TurnCancel, TurnCreate, TurnRespond
from turnwire_protocol.events import Frame
from turnwire_protocol.values import Cursor, Left

WRITE_TRIES: Final = 2
STORE_FULL_MS: Final = 10_000

Answer = TypeVar("Answer")

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Created:
    """An accepted turn: where its turn.accepted stands."""

    gen: str
    seq: int
    duplicate: bool
    left: Left | None = None
    """What its user may still use."""


@dataclass(frozen=True, slots=True)
class Opening:
    """Where a cursor stands and what it is given first: `session.opened` and its snapshots."""

    gen: str | None
    seq: int
    frames: Sequence[Frame]


@dataclass(frozen=True, slots=True)
class Turns:
    """A page of turns, each a whole `turn.snapshot`, oldest first. `next`: before which turn there are more."""

    frames: Sequence[Frame]
    next: str | None


class Backend:
    """Open, create, cancel, respond; and what is at rest. One a node; holds no state of any user."""

    def __init__(
        self,
        log: SessionLog,
        hub: SessionHub,
        running: RunningTurns,
        quotas: Quotas,
        requests: TurnRequests,
        input_check: InputCheck | None = None,
    ) -> None:
        self._log = log
        self._hub = hub
        self._running = running
        self._quotas = quotas
        self._requests = requests
        self._input_check = input_check
        self.draining = False
        """Set when the node is to stop: no turn is accepted any more."""

    # --- reading --------------------------------------------------------------------------------------------------

    async def open(self, key: SessionKey, after: Cursor | None, history: int, reply_to: str | None) -> Opening:
        """Where a reader goes on that has `after`. Put its cursor on the hub first."""
        if after is not None:
            place = await self._hub.place(key, after.seq)
            mode = mode_of(
                after,
                gen=place.gen,
                head=place.head,
                floor=place.floor,
                turn_at=place.turn_at,
                at_known=place.at_known,
            )
            if mode == "replay":
                frame = _opened(key, place.gen, after.seq, after.turn, "replay", 0, reply_to)
                return Opening(place.gen, after.seq, [frame])
        return await self.snapshot(key, history, reply_to)

    async def open_at(self, key: SessionKey, gen: str, seq: int, history: int) -> Opening:
        """A cursor just before a turn that this reader has created: nothing earlier is sent."""
        place = await self._log.read_range(key, seq, 1)
        known = seq == 0 or place.at_known
        if place.gen != gen or not known or seq < place.floor:
            return await self.snapshot(key, history, None)
        return Opening(gen, seq, [_opened(key, gen, seq, place.turn_at, "replay", 0, None)])

    async def snapshot(self, key: SessionKey, history: int, reply_to: str | None) -> Opening:
        """The session as of its head."""
        view = await self._log.read_view(key, history)
        frames: list[Frame] = []
        for stored in view.turns:
            frames.extend(snapshot_frames(key.session, state_of(stored)))
        opened = _opened(key, view.gen, view.head, view.turn_at_head, "snapshot", len(frames), reply_to)
        return Opening(view.gen, view.head, [opened, *frames])

    # --- turns ----------------------------------------------------------------------------------------------------

    async def create_turn(self, caller: Caller, command: TurnCreate) -> Created:
        """Store the turn, and run it if it is its time. Raises Refused, Unlearned.

        It comes behind what its client has seen: where the store has just lost that, it waits until that is back.
        """
        try:
            return await self._create_turn(caller, command)
        except TurnMissing as missing:
            if not await self._learn(self._hub.has(TurnKey(caller.user, command.session, missing.turn))):
                raise
            return await self._create_turn(caller, command)

    async def _create_turn(self, caller: Caller, command: TurnCreate) -> Created:
        if self.draining:
            raise Refused("draining", "This server is about to stop; reconnect to another.")
        key = TurnKey(caller.user, command.session, command.turn)
        asked, spec = await self._learn(self._requests.of(key, caller.user, command))
        await self._ask_guard(asked, caller.org)
        claim = await self._learn(self._quotas.claim(caller, key, self._requests.estimate(spec)))
        request = replace(asked, counted=claim.counted)

        async def accept() -> Accepted:
            await self._hub.is_back(key.session_key)
            return await self._log.accept_turn(request)

        accepted = await self._surely(accept)
        await self._quotas.after(claim, accepted)
        if accepted.result == "limited":
            raise self._limited(claim, accepted)
        _raise_if_refused(accepted, request)
        self._hub.feed(key.session_key, accepted.gen, accepted.logged)
        if accepted.result == "running":
            self._running.start(request.placed(accepted), spec)
        if accepted.interrupted is not None:
            self._running.cancel(key.session_key.turn(accepted.interrupted), caller.user)
        if accepted.next is not None:
            await self._running.take_quietly(key.session_key.turn(accepted.next))
        return Created(accepted.gen, accepted.seq, accepted.result == "duplicate", claim.left(accepted))

    async def cancel_turn(self, owner: str, by: str, command: TurnCancel) -> str:
        """Stop a turn, wherever it runs; stored before this returns. The `result` of its ack."""
        key = TurnKey(owner, command.session, command.turn)
        cancelled = await self._learn(self._log.cancel_turn(key, by, command.reason or ""))
        if cancelled.result == "too_many_pending":
            raise Refused("rate_limited", "Too many cancels of turns that do not exist.", retry_after_ms=60_000)
        self._hub.feed(key.session_key, cancelled.gen, cancelled.logged)
        if cancelled.result == "cancelling":
            self._running.cancel(key, by)
        if cancelled.take is not None:
            await self._running.take_quietly(TurnKey(owner, command.session, cancelled.take))
        return cancelled.result

    async def respond(self, owner: str, by: str, command: TurnRespond) -> None:
        """Answer what a turn asked; the first answer wins, a later one is told not_found."""
        key = TurnKey(owner, command.session, command.turn)
        value = orjson.dumps(command.value)

        async def answer() -> Responded | None:
            responded = await self._log.respond_turn(key, command.request, by, value)
            return responded if responded.result == "ok" else None

        responded = await self._find(answer)
        if responded is None:
            raise Refused("not_found", "Nothing waits for this answer (any more).")
        self._hub.feed(key.session_key, responded.gen, responded.logged)
        if responded.take is not None:
            await self._running.take_quietly(TurnKey(owner, command.session, responded.take))

    # --- at rest --------------------------------------------------------------------------------------------------

    async def list_sessions(self, owner: str, before: ListPlace | None, limit: int) -> SessionPage:
        """The owner's sessions, newest write first. Raises Unlearned."""
        return await self._learn(self._log.list_sessions(owner, before, limit))

    async def read_session(self, key: SessionKey) -> SessionInfo:
        """Raises Refused, Unlearned."""
        info = await self._find(lambda: self._log.read_session(key))
        if info is None:
            raise _no_session()
        return info

    async def read_turns(self, key: SessionKey, before: str | None, limit: int) -> Turns:
        """Turns in the order of their acceptance, up to `before` or the newest. Raises Refused, Unlearned."""
        page = await self._find(lambda: self._log.read_turns(key, before, limit))
        if page is None:
            raise _no_session() if before is None else Refused("not_found", "There is no such session or turn.")
        return Turns([whole_snapshot(key.session, state_of(stored)) for stored in page.turns], page.next)

    async def update_session(self, key: SessionKey, patch: SessionPatch) -> SessionInfo:
        """Change what the patch sets; the session after it. Raises Refused, Unlearned."""
        given = patch.model_fields_set
        change = SessionChange(
            orjson.dumps(patch.title) if "title" in given else None,
            # Sorted, so that the same object in another order changes nothing.
            orjson.dumps(patch.metadata, option=orjson.OPT_SORT_KEYS) if "metadata" in given else None,
        )
        updated = await self._find(lambda: self._log.update_session(key, change))
        if updated is None:
            raise _no_session()
        self._hub.feed(key, updated.gen, updated.logged)
        return updated.info

    async def delete_session(self, key: SessionKey) -> None:
        """Remove the session and stop its turns, wherever they run. Raises Refused, Unlearned."""
        nonce = new_nonce()
        deleted = await self._find(lambda: self._surely(lambda: self._log.delete_session(key, nonce)))
        if deleted is None:
            raise _no_session()
        self._hub.end(key, deleted.gen, deleted.seq, deleted.at)
        if deleted.active is not None:
            self._running.cancel(key.turn(deleted.active), "delete")

    # --- within ---------------------------------------------------------------------------------------------------

    def _limited(self, claim: Claim, accepted: Accepted) -> Refused:
        limited = claim.limited(accepted)
        self._quotas.tell(claim.caller, limited)
        return Refused(
            limited.code,
            limited.message,
            retry_after_ms=limited.told_after_ms,
            upgrade_url=limited.upgrade_url if limited.code == "quota_exceeded" else None,
        )

    async def _ask_guard(self, request: AcceptRequest, org: str | None) -> None:
        """Raises Refused for a turn that the operator's guard refuses. One that was accepted before is none of its
        business any more: whoever sends it again must hear the same as the first time."""
        if self._input_check is None:
            return
        key = request.key
        spec = Spec.from_json(request.spec)  # a copy: what is stored and run is out of the guard's reach
        proposed = ProposedTurn(
            key.owner,
            org,
            key.session,
            key.turn,
            spec.input,
            spec.model,
            spec.params,
            spec.tools,
            spec.response_format,
        )
        refusal = await self._input_check.refusal_of(proposed)
        if refusal is not None and not await self._learn(self._log.read_branch(key, 1)):
            raise Refused(refusal.code, refusal.message, retry_after_ms=refusal.retry_after_ms)

    async def _find(self, ask: Callable[[], Awaitable[Answer | None]]) -> Answer | None:
        """What the store has, once it has it, or is not to get it back. Raises what `ask` raises, and Unlearned."""
        while True:
            found = await self._learn(ask())
            if found is not None or not self._log.recovering:
                return found
            await asyncio.sleep(SETTLE_LOOK_MS / 1000)

    async def _surely(self, write: Callable[[], Awaitable[Answer]]) -> Answer:
        """A write that has a nonce is safe to repeat: its answer is the same."""
        tries = 0
        while True:
            tries += 1
            try:
                return await write()
            except Failure as failure:
                if failure.kind == "store_full":
                    raise _store_full() from failure
                if tries == WRITE_TRIES:
                    _log.warning("write_unlearned", kind=failure.kind)
                    raise Unlearned from failure

    async def _learn(self, call: Awaitable[Answer]) -> Answer:
        try:
            return await call
        except Failure as failure:
            if failure.kind == "store_full":
                raise _store_full() from failure
            _log.warning("store_call_failed", kind=failure.kind)
            raise Unlearned from failure


def _raise_if_refused(accepted: Accepted, request: AcceptRequest) -> None:
    match accepted.result:
        case "conflict":
            raise Refused("turn_conflict", "A turn of this id with other content exists.")
        case "busy":
            raise Refused("busy", "Another turn is running; on_busy can queue or interrupt.")
        case "queue_full":
            raise Refused("busy", "Too many turns are waiting in this session.")
        case "deleted":
            raise Refused("not_found", "The session was deleted.")
        case "no_parent":
            raise TurnMissing(request.parent[0], "The parent turn does not exist.")
        case _:
            return


def _no_session() -> Refused:
    """One answer for what never was, what is deleted and what is another's."""
    return Refused("not_found", "There is no such session.")


def _store_full() -> Refused:
    return Refused("overloaded", "The store is full.", retry_after_ms=STORE_FULL_MS)


def _opened(
    key: SessionKey, gen: str | None, seq: int, turn: str | None, mode: str, turns: int, reply_to: str | None
) -> Frame:
    frame: Frame = {"type": "session.opened"}
    if reply_to is not None:
        frame["reply_to"] = reply_to
    frame.update(session=key.session, gen=gen, seq=seq, turn=turn, mode=mode, turns=turns)
    return frame
