"""A node's backend on a real store, without sockets: what is refused, what is taken over, what ends by itself."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from tests.stores.making import (
    SESSION,
    SETTLED,
    append,
    asking,
    batch,
    caller,
    key,
    make_overdue,
    quotas_beside,
    request,
    sealing,
    text,
)
from tests.stores.server import StoreServer
from tests.support.waiting import until
from turnwire.app import Node, SystemClock
from turnwire.core.entries import Event
from turnwire.ports import Failure, Model, TurnKey
from turnwire.providers.demo import Demo
from turnwire.runtime.refusals import Refused, Unlearned
from turnwire.runtime.turn_runner import Spec
from turnwire.settings import Settings
from turnwire.stores.redis.link import Link
from turnwire.stores.redis.log import LogLimits, RedisSessionLog
from turnwire_protocol.commands import TurnCancel, TurnCreate, TurnRespond

MODELS = {
    "demo": Model("demo", Demo(delay_ms=0), images=True, client_params=frozenset(["temperature"])),
    "demo/stall": Model("demo/stall", Demo("stall")),
    "demo/slow": Model("demo/slow", Demo("slow", delay_ms=5)),
    "demo/tool": Model("demo/tool", Demo("tool", delay_ms=0)),
}
SETTINGS = Settings(lease_ms=2_000, renew_ms=200, sweep_ms=200, input_bytes_max=1_024)


@pytest.fixture
async def node(server: StoreServer) -> AsyncIterator[Node]:
    async with RedisSessionLog(Link(server.url), node="here", limits=SETTLED) as log:
        node = Node(SETTINGS, log, quotas_beside(log), MODELS, SystemClock())
        tasks = [asyncio.create_task(work, name=name) for name, work in node.tasks().items()]
        yield node
        await node.running.abandon()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def create(turn: str = "t1", **fields: Any) -> TurnCreate:
    values = {"type": "turn.create", "session": "s1", "turn": turn, "input": [{"type": "text", "text": "hi"}]}
    return TurnCreate.model_validate({**values, **fields})


async def refused(node: Node, command: TurnCreate) -> str:
    with pytest.raises(Refused) as error:
        await node.backend.create_turn(caller("alice"), command)
    return error.value.code


async def ended(log: RedisSessionLog, turn: str = "t1") -> Event:
    """The turn's terminal, once it is there."""
    found: list[Event] = []

    async def look() -> None:
        while not found:
            view = await log.read_view(SESSION, 50)
            for stored in view.turns:
                if stored.turn == turn and stored.terminal is not None:
                    assert isinstance(stored.terminal.entry, Event)
                    found.append(stored.terminal.entry)

    await asyncio.wait_for(look(), 20)
    return found[0]


async def test_what_a_client_may_not_choose_is_refused_and_leaves_no_trace(node: Node, log: RedisSessionLog) -> None:
    assert await refused(node, create(model="nobody")) == "unsupported"
    assert await refused(node, create(params={"base_url": "http://x"})) == "unsupported"
    assert await refused(node, create(input=[{"type": "text", "text": "x" * 2_000}])) == "too_large"
    assert await refused(node, create(input=[], again="t_never")) == "not_found"
    assert await refused(node, create(parent="t_never")) == "not_found"
    assert (await log.read_view(SESSION, 10)).gen is None
    await node.backend.create_turn(caller("alice"), create(params={"temperature": 1}))
    assert (await ended(log)).type == "turn.done"


async def test_a_deleted_session_takes_no_turn(node: Node, log: RedisSessionLog) -> None:
    await node.backend.create_turn(caller("alice"), create())
    await ended(log)
    await log.delete_session(SESSION, "n")
    assert await refused(node, create("t2")) == "not_found"


async def test_a_queue_has_an_end(node: Node) -> None:
    await node.backend.create_turn(caller("alice"), create(model="demo/stall"))
    for number in range(LogLimits().queue_turns_max):
        await node.backend.create_turn(caller("alice"), create(f"q{number}", on_busy="queue"))
    assert await refused(node, create("late", on_busy="queue")) == "busy"


async def test_a_node_that_drains_takes_no_turn(node: Node) -> None:
    node.backend.draining = True
    assert await refused(node, create()) == "draining"
    assert (await node.ready()).reason == "draining"


async def test_a_store_that_is_away_is_no_answer(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    async def away(*_: Any, **__: Any) -> Any:
        raise Failure("store_away", "cut by the test")

    log = node.backend._log
    for name in ("accept_turn", "cancel_turn", "respond_turn", "read_branch"):
        monkeypatch.setattr(log, name, away)
    cancel = TurnCancel(type="turn.cancel", session="s1", turn="t1")
    respond = TurnRespond(type="turn.respond", session="s1", turn="t1", request="r", value=1)
    with pytest.raises(Unlearned):
        await node.backend.create_turn(caller("alice"), create())
    with pytest.raises(Unlearned):
        await node.backend.create_turn(caller("alice"), create(input=[], again="t0"))
    with pytest.raises(Unlearned):
        await node.backend.cancel_turn("alice", "alice", cancel)
    with pytest.raises(Unlearned):
        await node.backend.respond("alice", "alice", respond)


async def test_an_accept_whose_reply_was_lost_is_asked_again_and_runs_once(
    node: Node, log: RedisSessionLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    accept = node.backend._log.accept_turn
    calls: list[str] = []

    async def lossy(request: Any) -> Any:
        calls.append(request.nonce)
        answer = await accept(request)
        if len(calls) == 1:
            raise Failure("store_away", "the reply was lost")
        return answer

    monkeypatch.setattr(node.backend._log, "accept_turn", lossy)
    created = await node.backend.create_turn(caller("alice"), create())
    assert not created.duplicate and calls[0] == calls[1]
    assert (await ended(log)).type == "turn.done"


async def test_a_full_store_refuses_new_turns_with_a_wait(node: Node, server: StoreServer) -> None:
    with server.client() as client:
        client.config_set("maxmemory", "1mb")
    with pytest.raises(Refused) as error:
        await node.backend.create_turn(caller("alice"), create())
    assert error.value.code == "overloaded" and error.value.retry_after_ms


async def test_a_turn_that_nobody_watches_is_cancelled_if_it_said_so(node: Node, log: RedisSessionLog) -> None:
    watched = create("t1", model="demo/stall", on_disconnect="cancel", cancel_after_ms=300)
    await node.backend.create_turn(caller("alice"), watched)
    terminal = await ended(log)
    assert terminal.type == "turn.done" and b'"cancelled"' in terminal.body
    stays = create("t2", model="demo/stall", on_disconnect="continue")
    await node.backend.create_turn(caller("alice"), stays)
    assert node.running.runs(key("t2"))


async def accepted_elsewhere(other: RedisSessionLog, turn: TurnKey | None = None, model: str = "demo") -> None:
    """A turn whose lease is another node's."""
    spec = Spec([{"type": "text", "text": "hi"}], model).to_json()
    answer = await other.accept_turn(request(turn, spec=spec))
    assert answer.result == "running"


@pytest.mark.parametrize("content", [True, False])
async def test_a_turn_whose_node_is_gone_is_run_again_only_before_its_first_byte(
    node: Node, log: RedisSessionLog, other: RedisSessionLog, server: StoreServer, content: bool
) -> None:
    await accepted_elsewhere(other)
    started = Event("turn.started", "t1", b'{"step":1,"attempt":1,"model":"demo"}')
    await append(other, batch(entries=[started, *(text(key(), "half") if content else [])]))
    make_overdue(server, key())
    terminal = await ended(log)
    assert terminal.type == ("turn.error" if content else "turn.done")
    if content:
        assert b"node_lost" in terminal.body and b'"bytes":4' in terminal.body
    else:
        assert b'"attempts":2' in terminal.body


async def test_a_turn_that_took_two_nodes_down_is_not_given_to_a_third(
    node: Node, log: RedisSessionLog, other: RedisSessionLog, server: StoreServer
) -> None:
    await accepted_elsewhere(other)
    with server.client() as client:  # as if it had been taken twice, and neither node lived to say a word
        (turn,) = client.keys("tw:*:t:t1")
        client.hset(str(turn), "takes", 1)
    make_overdue(server, key())
    assert b"node_lost" in (await ended(log)).body


async def test_a_cancelled_turn_whose_node_is_gone_ends_as_cancelled(
    node: Node, log: RedisSessionLog, other: RedisSessionLog, server: StoreServer
) -> None:
    await accepted_elsewhere(other, model="demo/stall")
    make_overdue(server, key())
    command = TurnCancel(type="turn.cancel", session="s1", turn="t1")
    assert await node.backend.cancel_turn("alice", "bob", command) == "cancelling"
    terminal = await ended(log)
    assert terminal.type == "turn.done" and b'"cancelled"' in terminal.body


async def test_a_turn_that_waited_too_long_in_the_queue_ends_with_an_error(
    node: Node, log: RedisSessionLog, server: StoreServer
) -> None:
    await node.backend.create_turn(caller("alice"), create(model="demo/stall"))
    await node.backend.create_turn(caller("alice"), create("t2", on_busy="queue"))
    make_overdue(server, key("t2"))
    assert b"queue_expired" in (await ended(log, "t2")).body


async def test_a_turn_that_waited_too_long_for_an_answer_ends_with_an_error(
    node: Node, log: RedisSessionLog, other: RedisSessionLog, server: StoreServer
) -> None:
    await accepted_elsewhere(other)
    await append(other, asking(key(), "r1"))
    make_overdue(server, key())
    assert b"input_expired" in (await ended(log)).body


async def test_a_queued_turn_runs_when_the_node_that_ended_the_one_before_is_gone(
    node: Node, log: RedisSessionLog, other: RedisSessionLog
) -> None:
    """T1 is sealed, its node dies before it takes T2: T2 still ends."""
    await accepted_elsewhere(other)
    spec = Spec([{"type": "text", "text": "next"}], "demo").to_json()
    await other.accept_turn(request(key("t2"), on_busy="queue", spec=spec))
    assert (await append(other, sealing())).next == "t2"
    assert (await ended(log, "t2")).type == "turn.done"


async def test_a_runner_that_was_fenced_off_stops_its_model_and_says_nothing(
    node: Node, log: RedisSessionLog, other: RedisSessionLog, server: StoreServer
) -> None:
    await node.backend.create_turn(caller("alice"), create(model="demo/stall"))
    make_overdue(server, key())
    taken = await other.take_turn(key(), "other")
    if taken.result == "taken":
        await until(lambda: not node.running.runs(key()))
        view = await log.read_view(SESSION, 5)
        assert view.turns[0].terminal is None
    else:  # this node had renewed its lease in between
        assert taken.result == "held" and node.running.runs(key())


async def test_a_model_that_this_node_does_not_have_is_a_clear_error(
    node: Node, log: RedisSessionLog, other: RedisSessionLog, server: StoreServer
) -> None:
    await accepted_elsewhere(other, model="elsewhere")
    make_overdue(server, key())
    assert b"upstream_rejected" in (await ended(log)).body


async def test_a_fault_of_ours_ends_the_turn_with_internal(
    node: Node, log: RedisSessionLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: Any) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr(node.backend._log, "read_branch", broken)
    await node.backend.create_turn(caller("alice"), create())
    terminal = await ended(log)
    assert terminal.type == "turn.error" and b'"internal"' in terminal.body and b"ZeroDivision" not in terminal.body


async def test_an_answer_longer_than_allowed_is_cut_with_an_error_and_kept(
    node: Node, log: RedisSessionLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("turnwire.runtime.turn_runner.OUTPUT_BYTES_MAX", 100)
    await node.backend.create_turn(caller("alice"), create())
    terminal = await ended(log)
    assert terminal.type == "turn.error" and b'"partial":true' in terminal.body


async def test_a_turn_goes_on_when_its_tool_has_answered(node: Node, log: RedisSessionLog) -> None:
    await node.backend.create_turn(caller("alice"), create(model="demo/tool", tools=[{"name": "get_time"}]))
    waiting: list[str] = []

    async def look() -> None:
        while not waiting:
            for stored in (await log.read_view(SESSION, 5)).turns:
                waiting.extend(
                    entry.entry.fields["request"]
                    for entry in stored.entries
                    if isinstance(entry.entry, Event) and entry.entry.type == "turn.asked"
                )

    await asyncio.wait_for(look(), 10)
    respond = TurnRespond(type="turn.respond", session="s1", turn="t1", request=waiting[0], value="12:00")
    await node.backend.respond("alice", "alice", respond)
    assert (await ended(log)).type == "turn.done"
    late = respond.model_copy(update={"value": "13:00"})
    with pytest.raises(Refused):
        await node.backend.respond("alice", "alice", late)


async def test_too_many_cancels_of_turns_that_never_came_are_refused(node: Node) -> None:
    for number in range(LogLimits().pending_cancels_max):
        cancel = TurnCancel(type="turn.cancel", session="s1", turn=f"never{number}")
        assert await node.backend.cancel_turn("alice", "alice", cancel) == "pending"
    with pytest.raises(Refused) as error:
        await node.backend.cancel_turn("alice", "alice", TurnCancel(type="turn.cancel", session="s1", turn="one_more"))
    assert error.value.code == "rate_limited"


async def test_another_users_session_looks_like_one_that_never_was(node: Node, log: RedisSessionLog) -> None:
    await node.backend.create_turn(caller("alice"), create(model="demo/stall"))
    theirs = await node.backend.open(replace(SESSION, owner="mallory"), None, 50, "o1")
    never = await node.backend.open(replace(SESSION, session="never"), None, 50, "o1")
    assert [{**frame, "session": ""} for frame in theirs.frames] == [{**frame, "session": ""} for frame in never.frames]
    cancel = TurnCancel(type="turn.cancel", session="s1", turn="t1")
    assert await node.backend.cancel_turn("mallory", "mallory", cancel) == "pending"
    assert node.running.runs(key())


async def test_a_turn_that_was_taken_over_still_stops_when_nobody_watches(
    node: Node, log: RedisSessionLog, other: RedisSessionLog, server: StoreServer
) -> None:
    spec = Spec([{"type": "text", "text": "hi"}], "demo/stall").to_json()
    await other.accept_turn(request(spec=spec, cancel_after_ms=300))
    make_overdue(server, key())
    terminal = await ended(log)
    assert terminal.type == "turn.done" and b'"cancelled"' in terminal.body
