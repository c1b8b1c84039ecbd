"""The operator's guard before the accept: what it sees, what a refusal leaves, and that what was accepted stays so."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.runtime.test_backend import MODELS, SETTINGS, create, ended
from tests.stores.making import SESSION, SETTLED, caller, quotas_beside
from tests.stores.server import StoreServer
from turnwire.app import Node, SystemClock
from turnwire.ports import Failure, ProposedTurn, Refusal
from turnwire.runtime.refusals import Refused, Unlearned
from turnwire.stores.redis.link import Link
from turnwire.stores.redis.log import RedisSessionLog


class Guard:
    """Says what it is told to, and remembers what it was asked."""

    def __init__(self) -> None:
        self.says: Refusal | None = None
        self.raises: Exception | None = None
        self.seen: list[ProposedTurn] = []

    async def __call__(self, turn: ProposedTurn) -> Refusal | None:
        self.seen.append(turn)
        if self.raises is not None:
            raise self.raises
        return self.says


@pytest.fixture
def guard() -> Guard:
    return Guard()


@pytest.fixture
async def node(server: StoreServer, guard: Guard) -> AsyncIterator[Node]:
    async with RedisSessionLog(Link(server.url), node="here", limits=SETTLED) as log:
        node = Node(SETTINGS, log, quotas_beside(log), MODELS, SystemClock(), guard=guard)
        tasks = [asyncio.create_task(work, name=name) for name, work in node.tasks().items()]
        yield node
        await node.running.abandon()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def refused(node: Node, **fields: Any) -> Refused:
    with pytest.raises(Refused) as error:
        await node.backend.create_turn(caller("alice"), create(**fields))
    return error.value


TOOL = {"name": "look", "description": "Looks.", "parameters": {"type": "object"}}


async def test_a_guard_sees_what_would_be_used_and_its_refusal_leaves_no_trace(
    node: Node, guard: Guard, server: StoreServer
) -> None:
    guard.says = Refusal("Ask about our shop.", "rate_limited", 1_500)
    error = await refused(node, params={"temperature": 1}, tools=[TOOL])
    assert (error.code, error.message, error.retry_after_ms) == ("rate_limited", "Ask about our shop.", 1_500)
    assert server.contents() == {}
    with pytest.raises(Refused):
        await node.backend.create_turn(caller("alice", org="acme"), create())
    first, second = guard.seen
    assert (first.user, first.org, first.session, first.turn, first.model) == ("alice", None, "s1", "t1", "demo")
    assert first.input == [{"type": "text", "text": "hi"}]
    assert first.params == {"temperature": 1} and first.tools[0]["name"] == "look"
    assert second.org == "acme"


async def test_what_is_not_valid_is_refused_before_the_guard_is_asked(node: Node, guard: Guard) -> None:
    assert (await refused(node, model="nobody")).code == "unsupported"
    assert (await refused(node, input=[{"type": "text", "text": "x" * 2_000}])).code == "too_large"
    assert guard.seen == []


async def test_a_turn_that_was_accepted_once_stays_a_duplicate_whatever_the_guard_says_later(
    node: Node, guard: Guard, log: RedisSessionLog
) -> None:
    first = await node.backend.create_turn(caller("alice"), create())
    guard.says = Refusal("Not any more.")
    for _ in range(2):  # while it runs, or when it is over
        again = await node.backend.create_turn(caller("alice"), create())
        assert again.duplicate and (again.gen, again.seq) == (first.gen, first.seq)
        await ended(log)
    guard.says, guard.raises = None, RuntimeError("down")
    assert (await node.backend.create_turn(caller("alice"), create())).duplicate
    other = [{"type": "text", "text": "other"}]
    assert (await refused(node, input=other)).code == "turn_conflict"
    assert (await refused(node, turn="t2")).code == "overloaded"


async def test_a_regeneration_shows_the_guard_the_input_of_the_turn_it_answers_again(
    node: Node, guard: Guard, log: RedisSessionLog
) -> None:
    await node.backend.create_turn(caller("alice"), create())
    await ended(log)
    guard.says = Refusal("No.")
    assert (await refused(node, turn="t2", input=[], again="t1")).code == "forbidden"
    assert guard.seen[-1].turn == "t2" and guard.seen[-1].input == [{"type": "text", "text": "hi"}]


async def test_a_guard_that_changes_what_it_was_given_changes_nothing(
    node: Node, guard: Guard, log: RedisSessionLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def spoil(turn: ProposedTurn) -> None:
        inputs: Any = turn.input
        inputs[0]["text"] = "spoilt"
        inputs.append({"type": "text", "text": "more"})

    monkeypatch.setattr(node.backend._input_check, "_guard", spoil)
    await node.backend.create_turn(caller("alice"), create(input=[{"type": "text", "text": "zebra"}]))
    terminal = await ended(log)
    (turn,) = (await log.read_view(SESSION, 10)).turns
    assert b"spoilt" not in turn.spec + b"".join([turn.parts or b"", terminal.body])
    assert turn.parts is not None and b"zebra" in turn.parts


async def test_when_the_store_cannot_say_whether_a_refused_turn_exists_nobody_is_told_that_it_does_not(
    node: Node, guard: Guard, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: Any) -> Any:
        raise Failure("store_away", "cut by the test")

    guard.says = Refusal("No.")
    monkeypatch.setattr(node.backend._log, "read_branch", away)
    with pytest.raises(Unlearned):
        await node.backend.create_turn(caller("alice"), create())
