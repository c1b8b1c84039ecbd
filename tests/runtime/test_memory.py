"""What a provider is given of earlier steps and turns: also their opaque state, which no client sees."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest

from tests.providers.recorded import recording
from tests.stores.making import SESSION, caller, quotas_beside
from tests.stores.server import StoreServer
from tests.support.provider_server import ProviderServer, Reply, in_order
from turnwire.app import Node, SystemClock
from turnwire.core.context import exchange_of
from turnwire.core.entries import Content, Finish, Message, ProviderEvent
from turnwire.core.framing import encode_logged
from turnwire.core.turn import Turn
from turnwire.ports import Model, Provider, StepRequest
from turnwire.providers.anthropic_messages import AnthropicMessages
from turnwire.providers.http_stream import HttpStream
from turnwire.settings import Settings
from turnwire.stores.redis.link import Link
from turnwire.stores.redis.log import LogLimits, RedisSessionLog
from turnwire_protocol.codec import JSON, MSGPACK
from turnwire_protocol.commands import TurnCreate, TurnRespond

SIGNED = '["scripted",{"signature":"secret-of-the-provider"}]'
STEPS: Sequence[Sequence[ProviderEvent]] = (
    (
        Content(0, "reasoning", "Hm."),
        Content(0, "reasoning", "", last=True, opaque=SIGNED),
        Content(1, "text", "I look."),
        Content(2, "tool_call", "{}", "call-1", "look"),
        Content(1, "text", "", last=True),
        Content(2, "tool_call", "", last=True, opaque=SIGNED),
        Finish("tool_calls"),
    ),
    (Content(0, "text", "A cat.", last=True), Finish("stop")),
    (Content(0, "text", "Bye.", last=True), Finish("stop")),
)


class Scripted:
    """ports.Provider: one script a request, which it keeps."""

    name = "scripted"

    def __init__(self) -> None:
        self.requests: list[StepRequest] = []

    @asynccontextmanager
    async def stream(self, request: StepRequest) -> AsyncGenerator[AsyncIterator[Sequence[ProviderEvent]]]:
        self.requests.append(request)
        yield self._events(STEPS[len(self.requests) - 1])

    async def _events(self, script: Sequence[ProviderEvent]) -> AsyncGenerator[Sequence[ProviderEvent]]:
        for event in script:
            yield [event]


@pytest.fixture
def provider() -> Scripted:
    return Scripted()


@asynccontextmanager
async def running(server: StoreServer, provider: Provider) -> AsyncGenerator[Node]:
    async with RedisSessionLog(Link(server.url), node="here", limits=LogLimits(lease_ms=10_000)) as log:
        node = Node(Settings(), log, quotas_beside(log), {"scripted": Model("scripted", provider)}, SystemClock())
        tasks = [asyncio.create_task(work, name=name) for name, work in node.tasks().items()]
        yield node
        await node.running.abandon()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture
async def node(server: StoreServer, provider: Scripted) -> AsyncIterator[Node]:
    async with running(server, provider) as node:
        yield node


async def create(node: Node, turn: str, text: str, **fields: Any) -> None:
    values = {"type": "turn.create", "session": "s1", "turn": turn, "input": [{"type": "text", "text": text}], **fields}
    await node.backend.create_turn(caller("alice"), TurnCreate.model_validate(values))
    await node.running.idle()


async def answer(node: Node, **results: str) -> None:
    for request, value in results.items():
        named = request.replace("_", "-")
        respond = TurnRespond(type="turn.respond", session="s1", turn="t1", request=named, value=value)
        await node.backend.respond("alice", "alice", respond)
    await node.running.idle()


async def ask_and_answer(node: Node) -> None:
    await create(node, "t1", "What is there?", tools=[{"name": "look"}])
    await answer(node, part_2="cat")


def text(said: str) -> dict[str, Any]:
    return {"type": "text", "text": said}


EXCHANGE = [
    Message("user", (text("What is there?"),)),
    Message(
        "assistant",
        (
            {"type": "reasoning", "text": "Hm.", "opaque": SIGNED},
            text("I look."),
            {"type": "tool_call", "text": "{}", "opaque": SIGNED, "call": "call-1", "name": "look"},
        ),
    ),
    Message("tool", (text('"cat"'),), call="call-1"),
]


async def test_opaque_state_and_results_go_with_the_next_step_and_the_next_turn(node: Node, provider: Scripted) -> None:
    await ask_and_answer(node)
    assert list(provider.requests[1].messages) == EXCHANGE
    await create(node, "t2", "Thanks")
    answered = [*EXCHANGE, Message("assistant", (text("A cat."),)), Message("user", (text("Thanks"),))]
    assert list(provider.requests[2].messages) == answered


async def test_a_turn_is_remembered_from_its_log_as_from_its_record(node: Node, log: RedisSessionLog) -> None:
    await ask_and_answer(node)
    stored = (await log.read_branch(SESSION.turn("t1"), 1))[0]
    assert stored.parts is not None
    heir = Turn("t1", "scripted", began_ms=0, answers={"part-2": b'"cat"'})
    heir.fold((await log.read_range(SESSION, 0, 1_000)).entries)
    assert exchange_of((), orjson.loads(stored.parts)) == heir.exchange(())


async def test_what_a_provider_wants_back_is_stored_and_never_shown(
    node: Node, provider: Scripted, log: RedisSessionLog
) -> None:
    await ask_and_answer(node)
    stored = (await log.read_branch(SESSION.turn("t1"), 1))[0]
    assert stored.parts is not None
    assert orjson.loads(stored.parts)["opaque"] == {"0": SIGNED, "2": SIGNED}
    entries = (await log.read_range(SESSION, 0, 1_000)).entries
    assert sum("secret-of-the-provider" in str(logged.entry) for logged in entries) == 2
    snapshot = await node.backend.snapshot(SESSION, 10, None)
    page = await node.backend.read_turns(SESSION, None, 10)
    live = [encode_logged(codec, "s1", logged) for logged in entries for codec in (JSON, MSGPACK)]
    for frames in (snapshot.frames, page.frames, live):
        assert len(frames) > 0
        assert "secret-of-the-provider" not in str(frames)


async def test_signed_thinking_goes_through_the_store_and_back_to_its_service_as_it_came(server: StoreServer) -> None:
    replies = [Reply((recording(name),)) for name in ("anthropic_thinking_tools", "anthropic", "anthropic")]
    http = HttpStream()
    async with ProviderServer(in_order(*replies)) as service:
        model = AnthropicMessages(http, name="scripted", base_url=service.base_url, model="m")
        async with running(server, model) as node:
            await create(node, "t1", "When?", tools=[{"name": "get_time"}, {"name": "get_date"}])
            await answer(node, part_2="noon", part_3="today")
            await create(node, "t2", "Thanks")
        await http.aclose()
        bodies = [request.body["messages"] for request in service.requests]
    said = [
        {"type": "text", "text": "I look."},
        {"type": "tool_use", "id": "toolu_01A", "name": "get_time", "input": {"zone": "CET"}},
        {"type": "tool_use", "id": "toolu_01B", "name": "get_date", "input": {}},
    ]
    thinking = [
        {"type": "thinking", "thinking": "The clock will tell.", "signature": "EqQB-test=="},
        {"type": "redacted_thinking", "data": "EmwK-test=="},
    ]
    results = [
        {"type": "tool_result", "tool_use_id": "toolu_01A", "content": '"noon"'},
        {"type": "tool_result", "tool_use_id": "toolu_01B", "content": '"today"'},
    ]
    asked = {"role": "user", "content": [{"type": "text", "text": "When?"}]}
    told = {"role": "user", "content": results}
    assert bodies[1] == [asked, {"role": "assistant", "content": [*thinking, *said]}, told]
    answered = {"role": "assistant", "content": [{"type": "text", "text": "Grüß dich 🌍"}]}
    thanks = {"role": "user", "content": [{"type": "text", "text": "Thanks"}]}
    assert bodies[2] == [asked, {"role": "assistant", "content": said}, told, answered, thanks]
