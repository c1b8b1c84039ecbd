"""Who comes under which plans, and what of them is claimed, held and settled.

A user's own turns are counted by the log, in the step that accepts or ends them. Here is what goes around that step:
the claims on what several users share, before and after it; the places that this node's connections and turns hold; and
the turns of nodes that died between the end and its settling.
"""

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from turnwire.core.admission import Bucket
from turnwire.core.credentials import user_hash
from turnwire.core.quotas import Limited, Plan, Plans, SubjectKind, Used, least_left
from turnwire.ports import Accepted, Claimed, Counted, Failure, Identity, QuotaStore, TurnKey
from turnwire_protocol.values import Left

KEEP_MS: Final = 10_000
"""How often places of connections are kept, and what others left is settled."""
UNSETTLED_MAX: Final = 200
WHO_CHARS: Final = 16

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sends commands, from where, and the plans that hold for it: its own, its organisation's, its address's."""

    user: str
    org: str | None
    address: str
    plans: Sequence[tuple[SubjectKind, str, Plan]]

    @property
    def own(self) -> Plan:
        return self.plans[0][2]

    @property
    def shared(self) -> Sequence[tuple[SubjectKind, str, Plan]]:
        """The plans of others that count turns."""
        return [subject for subject in self.plans[1:] if subject[2].counts_turns]


@dataclass(frozen=True, slots=True)
class Claim:
    """What was claimed for a turn that is to be accepted. `counted` None: nothing counts it."""

    caller: Caller
    key: TurnKey
    counted: Counted | None
    answers: Sequence[tuple[SubjectKind, str, Plan, Claimed]] = ()

    def left(self, accepted: Accepted) -> Left | None:
        """What is left to the caller once the turn is accepted."""
        lefts = [accepted.left, *(claimed.left for *_, claimed in self.answers)]
        return least_left([left for left in lefts if left])

    def limited(self, accepted: Accepted) -> Limited:
        """By what the turn was refused."""
        if accepted.limit is not None:
            return Limited("user", accepted.limit, accepted.retry_after_ms, self.caller.own.upgrade_url)
        # Of several the one that takes longest: before it is over the turn would be refused again.
        broken = [
            Limited(kind, claimed.limit, claimed.retry_after_ms, plan.upgrade_url)
            for kind, _, plan, claimed in self.answers
            if claimed.limit is not None
        ]
        return max(broken, key=lambda limited: limited.retry_after_ms)


class Quotas:
    """One a node. `plans` may be empty: then nothing is counted."""

    def __init__(self, store: QuotaStore, plans: Plans) -> None:
        self._store = store
        self._plans = plans
        self._places: dict[str, list[tuple[SubjectKind, str, str]]] = {}
        """The places that each connection of this node holds."""
        self._lines = Bucket.full(1, 20, _now_ms())

    def caller(self, identity: Identity, address: str) -> Caller:
        plans: list[tuple[SubjectKind, str, Plan]] = [
            ("user", identity.user, self._plans.of("user", identity.plan)),
        ]
        if identity.org is not None:
            plans.append(("org", identity.org, self._plans.of("org", identity.org_plan)))
        if address:
            plans.append(("address", address, self._plans.of("address", None)))
        return Caller(identity.user, identity.org, address, plans)

    # --- turns ----------------------------------------------------------------------------------------------------

    async def claim(self, caller: Caller, key: TurnKey, estimate: Used) -> Claim:
        """Claim for a turn what others than its user have to give. Raises Failure."""
        shared = caller.shared
        if not shared and not caller.own.counts_turns:
            return Claim(caller, key, None)
        answers: list[tuple[SubjectKind, str, Plan, Claimed]] = []
        for kind, name, plan in shared:
            answers.append((kind, name, plan, await self._store.claim(kind, name, plan, key, estimate)))
        names = {kind: name for kind, name, _ in shared}
        broken = {claimed.limit for *_, claimed in answers} - {None}
        others = "" if not broken else "wait" if broken == {"turns_running"} else "refuse"
        counted = Counted(estimate, caller.own, names.get("org"), names.get("address"), others)
        return Claim(caller, key, counted, answers)

    async def after(self, claim: Claim, accepted: Accepted) -> None:
        """What became of the turn: give back what it does not need, keep what it does. What fails here comes free by
        itself, or is confirmed by whoever runs the turn."""
        if claim.counted is None:
            return
        try:
            match accepted.result:
                case "running" | "duplicate" | "conflict":
                    # Confirmed by its runner. Of a turn that was there before, the claim may be that turn's.
                    pass
                case "queued":
                    await self._store.confirm(claim.key, claim.counted)
                case _:
                    for kind, name, plan, claimed in claim.answers:
                        if claimed.limit in (None, "turns_running"):
                            await self._store.give_back(kind, name, plan, claim.key, claim.counted.estimate)
        except Failure as failure:
            _log.warning("claim_not_settled", turn=claim.key.turn, kind=failure.kind)

    async def hold(self, turns: Sequence[tuple[TurnKey, Counted | None]]) -> None:
        """Keep the places of turns that run here. What fails is tried again with the next renewal."""
        shared = [(key, counted) for key, counted in turns if counted is not None and counted.shared]
        if not shared:
            return
        try:
            await self._store.hold(shared)
        except Failure as failure:
            _log.warning("places_not_kept", turns=len(shared), kind=failure.kind)

    async def settle(self, key: TurnKey, counted: Counted | None, used: Used) -> None:
        """A turn of this node is over. What fails is left to the sweep."""
        if counted is None or not counted.shared:
            return
        try:
            await self._store.settle(key, counted, used)
        except Failure as failure:
            _log.warning("quota_not_settled", turn=key.turn, kind=failure.kind)

    async def left(self, caller: Caller) -> Left | None:
        """What is left to a caller. Raises Failure."""
        counting = [subject for subject in caller.plans if subject[2].counts_turns]
        return least_left([await self._store.left(kind, name, plan) for kind, name, plan in counting])

    # --- connections ----------------------------------------------------------------------------------------------

    async def enter(self, caller: Caller, connection: str) -> Limited | None:
        """Take the places of a connection; or the limit that it breaks. Raises Failure."""
        places = self._places.setdefault(connection, [])
        for kind, name, plan in caller.plans:
            if plan.connections is None:
                continue
            if not await self._store.enter(kind, name, connection, plan.connections):
                await self.leave(connection)
                return Limited(kind, "connections", 0)
            places.append((kind, name, connection))
        return None

    async def leave(self, connection: str) -> None:
        """The connection is over. What fails comes free by itself."""
        places = self._places.pop(connection, [])
        if not places:
            return
        try:
            await self._store.leave(places)
        except Failure as failure:
            _log.warning("places_not_left", kind=failure.kind)

    # --- in the background ----------------------------------------------------------------------------------------

    async def keep_forever(self) -> None:
        """Keep the places of connections, and settle what other nodes have left."""
        while True:
            await asyncio.sleep(KEEP_MS * random.uniform(0.75, 1.25) / 1000)  # noqa: S311 - a jitter is no secret
            try:
                await self._store.stay([place for places in self._places.values() for place in places])
                for key, counted, used in await self._store.unsettled(UNSETTLED_MAX):
                    await self._store.settle(key, counted, used)
            except Failure as failure:
                _log.warning("quotas_not_kept", kind=failure.kind)

    # --- what is told ---------------------------------------------------------------------------------------------

    def tell(self, caller: Caller, limited: Limited) -> None:
        """Log who was limited, by a hash that can be compared with that of a known id. Of many at once only some."""
        if self._lines.take(1, _now_ms()):
            return
        name = next(name for kind, name, _ in caller.plans if kind == limited.kind)
        _log.info("limited", kind=limited.kind, why=limited.limit, who=user_hash(name)[:WHO_CHARS])


def _now_ms() -> int:
    return time.monotonic_ns() // 1_000_000
