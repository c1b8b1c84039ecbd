"""What the tests of the log write into it, and how they make time pass and replies get lost."""

from collections.abc import Sequence
from itertools import count
from typing import Any, Literal

from tests.stores.server import StoreServer
from turnwire.core.entries import Delta, Entry, Event, Logged
from turnwire.core.log_values import AcceptRequest, Batch, Seal, SessionKey, TurnKey
from turnwire.core.quotas import UNLIMITED, Plan
from turnwire.runtime.quotas import Caller
from turnwire.stores.redis.limits import RedisQuotas
from turnwire.stores.redis.link import Lane
from turnwire.stores.redis.log import LogLimits, RedisSessionLog

SESSION = SessionKey("alice", "s1")
SETTLED = LogLimits(lease_ms=2_000, readers_settle_ms=200)
"""For a store that has lost nothing, though the node has just come up: readers wait for nothing to be put back."""
RECORD = b'{"parts":[{"part":0,"kind":"text","text":"hi","last":true}]}'

_numbers = count()


def caller(user: str, plan: Plan = UNLIMITED, org: str | None = None) -> Caller:
    """Somebody of no address, under a plan that is nobody else's."""
    return Caller(user, org, "", [("user", user, plan)])


def quotas_beside(log: RedisSessionLog) -> RedisQuotas:
    """On the same store. It opens nothing before it is asked, so a test that has it asked must close it."""
    return RedisQuotas(log._link)


def key(turn: str = "t1", session: SessionKey = SESSION) -> TurnKey:
    return session.turn(turn)


def request(turn: TurnKey | None = None, nonce: str | None = None, **changes: Any) -> AcceptRequest:
    turn = turn or key()
    values: dict[str, Any] = {
        "key": turn,
        "nonce": nonce or f"nonce-{turn.turn}",
        "digest": f"digest-{turn.turn}",
        "body": b'{"input":[],"model":"demo","author":"alice"}',
        "spec": b'{"input":[],"model":"demo"}',
        "cancelled_body": b'{"finish_reason":"cancelled"}',
        "parent": "leaf",
        "author": "alice",
    }
    return AcceptRequest(**(values | changes))


def text(turn: TurnKey, *texts: str) -> list[Entry]:
    return [Delta(turn.turn, 0, "text", piece) for piece in texts]


def batch(
    turn: TurnKey | None = None,
    *,
    nonce: str | None = None,
    name: str | None = None,
    counter: int = 0,
    entries: Sequence[Entry] | None = None,
    seal: Seal | None = None,
    park_until_ms: int | None = None,
) -> Batch:
    turn = turn or key()
    return Batch(
        turn,
        nonce or f"nonce-{turn.turn}",
        name or f"batch-{next(_numbers)}",
        counter,
        text(turn, "hi") if entries is None else entries,
        seal,
        park_until_ms,
    )


def sealing(
    turn: TurnKey | None = None,
    *,
    state: Literal["done", "error"] = "done",
    entries: Sequence[Entry] | None = None,
    **values: Any,
) -> Batch:
    turn = turn or key()
    if entries is None:
        entries = [*text(turn, "hi"), Event(f"turn.{state}", turn.turn, b'{"parts":[]}')]
    return batch(turn, entries=entries, seal=Seal(state, RECORD), **values)


def asking(turn: TurnKey | None = None, *requests: str, until_ms: int = 2**52, **values: Any) -> Batch:
    turn = turn or key()
    asks = [Event("turn.asked", turn.turn, b'{"kind":"approval"}', {"request": name}) for name in requests]
    return batch(turn, entries=asks, park_until_ms=until_ms, **values)


async def append(log: RedisSessionLog, *batches: Batch) -> Any:
    """The answer, or the answers if there are several batches."""
    answers = await log.append_many(batches)
    return answers[0] if len(batches) == 1 else answers


async def entries_of(log: RedisSessionLog, session: SessionKey = SESSION) -> Sequence[Logged]:
    return (await log.read_range(session, 0, 10_000)).entries


def types(logged: Sequence[Logged]) -> list[tuple[str, str | None]]:
    """What stands there, in short: type and turn."""
    return [
        ("turn.delta" if isinstance(entry.entry, Delta) else entry.entry.type, entry.entry.turn) for entry in logged
    ]


def make_overdue(server: StoreServer, turn: TurnKey) -> None:
    """Let the turn's time run out, whichever it waits for: the store's clock cannot be moved."""
    with server.client() as client:
        for index in client.keys("tw:{*}.leases"):
            client.zadd(index, {f"{turn.owner}:{turn.session}:{turn.turn}": 1}, xx=True)


def drop_replies(lane: Lane) -> None:
    """Cut the lane's connection when the next reply comes in: the store did what it was asked, and nobody knows."""
    wire = lane._wire
    assert wire is not None
    wire.data_received = lambda data: wire.close()
