"""ports.QuotaStore on Redis 7 or Valkey: what is counted beside the log.

A user's own turns are counted by the scripts that accept and end them (lua/_quota.lua), in the user's slot. What
several users share, an organisation's or an address's quota, has a slot of its own: it is claimed before a turn is
accepted and settled after its end, each in a step that may be repeated. Between the two a claim is leased, so that a
node that dies holds nothing for long; and the script that ends a turn notes what is still to be settled, for the sweep
of any node.
"""

from collections.abc import Sequence
from typing import Final

from turnwire.core.log_values import Claimed, Counted, TurnKey
from turnwire.core.quotas import NOTHING, Plan, SubjectKind, Used
from turnwire.stores.redis import scripts
from turnwire.stores.redis.counted import counted_of, left_of, limit_of, limits_of, word
from turnwire.stores.redis.keys import (
    connections_name,
    quota_keys,
    turn_member,
    turn_of_member,
    unsettled_indexes,
    unsettled_name,
)
from turnwire.stores.redis.link import Lane, Link, failure_of
from turnwire.stores.redis.wire import Argument, Command, is_no_answer

PLACE_MS: Final = 30_000
"""How long a place holds that nobody keeps."""


class RedisQuotas:
    """Use as an async context manager. Calls raise Failure."""

    def __init__(self, link: Link) -> None:
        self._calls = Lane(link, "quotas")

    async def __aenter__(self) -> "RedisQuotas":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._calls.aclose()

    # --- turns ----------------------------------------------------------------------------------------------------

    async def claim(self, kind: SubjectKind, name: str, plan: Plan, turn: TurnKey, estimate: Used) -> Claimed:
        arguments = (turn_member(turn), PLACE_MS, *limits_of(plan), estimate.tokens, estimate.nano_usd)
        number, wait_ms, left = await self._calls.one(scripts.CLAIM_QUOTA.command(quota_keys(kind, name), arguments))
        return Claimed(limit_of(number), wait_ms, left_of(left))

    async def give_back(self, kind: SubjectKind, name: str, plan: Plan, turn: TurnKey, estimate: Used) -> None:
        per_minute = "" if plan.turns_per_minute is None else plan.turns_per_minute
        await self._calls.one(_settle(kind, name, turn, estimate, NOTHING, per_minute))

    async def confirm(self, turn: TurnKey, counted: Counted) -> None:
        await self._run(_holding(turn, counted, ""))

    async def hold(self, turns: Sequence[tuple[TurnKey, Counted]]) -> None:
        await self._run([command for turn, counted in turns for command in _holding(turn, counted, PLACE_MS)])

    async def settle(self, turn: TurnKey, counted: Counted, used: Used) -> None:
        await self._run([_settle(kind, name, turn, counted.estimate, used) for kind, name in counted.shared])
        await self._calls.one(("ZREM", unsettled_name(turn.owner), _told(turn, counted, used)))

    async def unsettled(self, count_max: int) -> Sequence[tuple[TurnKey, Counted, Used]]:
        found = await self._calls.one(scripts.LIST_DUE.command(unsettled_indexes(), (count_max,)))
        return [_untold(told) for told in found[::2][:count_max]]

    async def left(self, kind: SubjectKind, name: str, plan: Plan) -> Sequence[int | None]:
        quota, running, _ = quota_keys(kind, name)
        return left_of(await self._calls.one(scripts.READ_QUOTA.command((quota, running), limits_of(plan))))

    # --- connections ----------------------------------------------------------------------------------------------

    async def enter(self, kind: SubjectKind, name: str, connection: str, connections_max: int) -> bool:
        arguments = (connection, PLACE_MS, connections_max)
        return bool(await self._calls.one(scripts.HOLD_CONNECTION.command((connections_name(kind, name),), arguments)))

    async def stay(self, places: Sequence[tuple[SubjectKind, str, str]]) -> None:
        await self._run(
            [
                scripts.HOLD_CONNECTION.command((connections_name(kind, name),), (connection, PLACE_MS, ""))
                for kind, name, connection in places
            ]
        )

    async def leave(self, places: Sequence[tuple[SubjectKind, str, str]]) -> None:
        await self._run([("ZREM", connections_name(kind, name), connection) for kind, name, connection in places])

    # --- within ---------------------------------------------------------------------------------------------------

    async def _run(self, commands: Sequence[Command]) -> None:
        for reply in await self._calls.run(list(commands)) if commands else ():
            if is_no_answer(reply):
                raise failure_of(reply)


def _holding(turn: TurnKey, counted: Counted, place_ms: Argument) -> list[Command]:
    """`place_ms` is for how long it has a place to run; "" for none."""
    arguments = (turn_member(turn), counted.estimate.tokens, counted.estimate.nano_usd, place_ms)
    return [scripts.HOLD_QUOTA.command(quota_keys(kind, name), arguments) for kind, name in counted.shared]


def _settle(
    kind: SubjectKind, name: str, turn: TurnKey, estimate: Used, used: Used, per_minute: Argument = ""
) -> Command:
    arguments = (turn_member(turn), estimate.tokens, estimate.nano_usd, used.tokens, used.nano_usd, per_minute)
    return scripts.SETTLE_QUOTA.command(quota_keys(kind, name), arguments)


def _told(turn: TurnKey, counted: Counted, used: Used) -> str:
    """As _turns.lua notes it."""
    estimate = counted.estimate
    words = (turn_member(turn), word(counted.org), word(counted.address))
    return " ".join((*words, *map(str, (estimate.tokens, estimate.nano_usd, used.tokens, used.nano_usd))))


def _untold(told: bytes) -> tuple[TurnKey, Counted, Used]:
    member, org, address, tokens, nano, used_tokens, used_nano = told.split(b" ")
    used = Used(int(used_tokens), int(used_nano))
    return turn_of_member(member), counted_of(tokens, nano, org, address), used
