"""A turn, from a client to a provider and back, all of it real: process, store, sockets, HTTP."""

import asyncio
import random
import secrets
import time
import zlib
from collections.abc import AsyncGenerator, Iterator
from typing import Literal

import pytest
import pytest_asyncio

from tests.support.processes import NodeProcess
from tests.support.provider_server import Answer, Gate, Pause, Piece, ProviderServer, Received, Reply, chunk, sse
from tests.support.waiting import until
from tests.support.watched import Watched
from turnwire.chat.handle import Outcome

pytestmark = pytest.mark.asyncio(loop_scope="module")

CODECS: tuple[Literal["json", "msgpack"], ...] = ("json", "msgpack")
CUTS_PER_CHAT = 15
CHATS_PER_CODEC = 10
DELTAS = 240
WORDS = (
    "Zürich ",
    "naïve ",
    "日本 ",
    "🧵🪡 ",
    "plain ",
    "…",
    "e\u0301 ",
    "\u202eabc\u202c ",
    "line\nbreak ",
    '"q" \\ ',
)


def text_of(seed: str) -> list[str]:
    """An answer's deltas: deterministic, of one to four bytes a character, and none alike."""
    drawn = random.Random(seed)
    return [f"{number}{drawn.choice(WORDS)}" for number in range(DELTAS)]


class Script:
    """The provider's answers, by the prompt's first word."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()

    def answer(self, request: Received) -> Answer:
        kind, _, seed = str(request.body["messages"][-1]["content"]).partition(" ")
        if kind == "stall":
            return Reply(ending="stall")
        if kind == "hold":
            return Reply(pieces=[sse(chunk("held ")), Gate(self.gate), *end()])
        pieces: list[Piece] = []
        for delta in text_of(seed):
            pieces += [sse(chunk(delta)), Pause(4)]
        return Reply(pieces=[*pieces, *end()])


def end() -> Iterator[Piece]:
    yield sse(chunk(finish_reason="stop"))
    yield sse({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": DELTAS}})
    yield sse("[DONE]")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def script() -> Script:
    return Script()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def provider(script: Script) -> AsyncGenerator[ProviderServer]:
    async with ProviderServer(script.answer) as server:
        yield server


@pytest.fixture
def environment(provider: ProviderServer) -> dict[str, str]:
    return {
        "OPENAI_API_KEY": "test-key-not-a-real-one",
        "OPENAI_BASE_URL": provider.base_url,
        "TURNWIRE_MODEL": "test-model",
        "TURNWIRE_LEASE_MS": "1000",
        "TURNWIRE_RENEW_MS": "300",
        "TURNWIRE_SWEEP_MS": "200",
        "TURNWIRE_DRAIN_MS": "0",
        "TURNWIRE_FRAMES_PER_S": "10000",
    }


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def node(provider: ProviderServer, tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[NodeProcess]:
    settings = {"OPENAI_BASE_URL": provider.base_url, "TURNWIRE_MODEL": "test-model", "TURNWIRE_DRAIN_MS": "0"}
    async with NodeProcess.started(tmp_path_factory.mktemp("node"), settings) as started:
        yield started


async def cut_often(watched: Watched, drawn: random.Random, cuts: int, done: asyncio.Future[Outcome]) -> int:
    """Cut the connection `cuts` times, each after a drawn number of further frames; how often it was."""
    for number in range(cuts):
        wanted = watched.frames + drawn.randint(1, 12)
        await until(lambda wanted=wanted: watched.frames >= wanted or done.done())
        if done.done():
            return number
        watched.chat.abort()
    return cuts


@pytest.mark.parametrize("codec", CODECS)
async def test_an_answer_cut_off_again_and_again_is_whole_in_the_end(
    node: NodeProcess, codec: Literal["json", "msgpack"]
) -> None:
    seed = secrets.token_hex(4)
    drawn = random.Random(seed)
    cuts = 0
    for number in range(CHATS_PER_CODEC):
        session = f"s_{seed}_{number}"
        watched = Watched(node.url, codec=codec)
        onlooker = Watched(node.url, codec=codec, history=watched.history)
        async with watched.chat as chat, onlooker.chat as other:
            await other.open(session)
            turn = await chat.send(session, f"text {seed}{number}")
            done = asyncio.ensure_future(turn.done())
            cuts += await cut_often(watched, drawn, CUTS_PER_CHAT, done)
            outcome = await asyncio.wait_for(done, 30)
            whole = "".join(text_of(f"{seed}{number}"))
            assert outcome.text == whole, f"seed {seed}, chat {number}"
            terminal = outcome.terminal
            assert terminal is not None and terminal["finish_reason"] == "stop"
            encoded = whole.encode()
            assert terminal["parts"] == [
                {"part": 0, "kind": "text", "bytes": len(encoded), "crc32": zlib.crc32(encoded)}
            ]
            # The second device has followed all of it live, uncut.
            seen = other.transcript.sessions[session].turns[turn.id]
            await until(lambda seen=seen: seen.ended)
            assert "".join(part.text for part in seen.parts.values()) == whole
            assert onlooker.connections == 1
        watched.check()
        onlooker.check()
    print(f"{cuts} cuts, codec {codec}, seed {seed}")
    assert cuts >= CHATS_PER_CODEC * CUTS_PER_CHAT * 0.9, f"only {cuts} cuts: the answers were over too soon"


async def test_a_resent_create_asks_the_provider_once(node: NodeProcess, provider: ProviderServer) -> None:
    """The connection is cut right behind the create, so that its ack is lost; the outbox sends it again."""
    before = len(provider.requests)
    for number in range(10):
        session = f"s_{secrets.token_hex(4)}"
        watched = Watched(node.url)
        async with watched.chat as chat:
            await chat.open(session)
            turn = await chat.send(session, f"text once{number}")
            if number % 2:
                await provider.request(before + number)
            chat.abort()
            outcome = await asyncio.wait_for(turn.done(), 30)
            assert outcome.text == "".join(text_of(f"once{number}"))
        watched.check()
    assert len(provider.requests) == before + 10


@pytest.mark.parametrize("prompt", ["stall", "text mid"])
async def test_stop_closes_the_providers_socket_and_keeps_what_was_said(
    node: NodeProcess, provider: ProviderServer, prompt: str
) -> None:
    number = len(provider.requests)
    watched = Watched(node.url)
    async with watched.chat as chat:
        turn = await chat.send(f"s_{secrets.token_hex(4)}", prompt)
        request = await provider.request(number)
        if prompt != "stall":
            async for _ in turn:
                break
        assert await turn.cancel() == "cancelling"
        await asyncio.wait_for(request.closed.wait(), 5)
        outcome = await turn.done()
        assert outcome.finish_reason == "cancelled"
        assert outcome.terminal is not None and outcome.terminal["upstream_stopped"] is True
        assert "".join(text_of("mid")).startswith(outcome.text)
        assert bool(outcome.text) == (prompt != "stall")
        assert not request.answered
    watched.check()


async def test_a_lost_connection_cancels_nothing(node: NodeProcess, provider: ProviderServer, script: Script) -> None:
    script.gate.clear()
    number = len(provider.requests)
    session = f"s_{secrets.token_hex(4)}"
    first = Watched(node.url)
    async with first.chat as chat:
        turn = await chat.send(session, "hold")
        async for _ in turn:
            break
    request = await provider.request(number)
    assert not request.closed.is_set()
    script.gate.set()
    second = Watched(node.url, history=first.history)
    async with second.chat as chat:
        opened = await chat.open(session)
        await until(lambda: opened.turns[turn.id].ended)
        assert "".join(part.text for part in opened.turns[turn.id].parts.values()) == "held "
    second.check()


async def test_a_killed_node_leaves_one_terminal_and_a_working_session(
    environment: dict[str, str], provider: ProviderServer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("killed")
    session = "s_killed"
    number = len(provider.requests)
    async with NodeProcess.started(folder, environment) as node:
        watched = Watched(node.url)
        async with watched.chat as chat:
            turn = await chat.send(session, "text killed")
            async for _ in turn:
                break
            await node.kill()
        await (await provider.request(number)).closed.wait()
        successor = await NodeProcess.start(folder, environment)
        try:
            again = Watched(successor.url, history=watched.history)
            async with again.chat as chat:
                began = time.monotonic()
                opened = await chat.open(session)
                await until(lambda: opened.turns[turn.id].ended)
                print(f"terminal {time.monotonic() - began:.1f} s after the session was opened")
                lost = opened.turns[turn.id]
                assert lost.terminal is not None
                assert (lost.terminal["type"], lost.terminal["error"]["code"]) == ("turn.error", "node_lost")
                text = "".join(part.text for part in lost.parts.values())
                assert text and "".join(text_of("killed")).startswith(text)
                outcome = await (await chat.send(session, "text after")).done()
                assert outcome.text == "".join(text_of("after"))
                # What was said before the kill is part of the next turn's context.
                asked = provider.requests[-1].body["messages"]
                assert [message["content"] for message in asked] == ["text killed", text, "text after"]
            again.check()
        finally:
            await successor.stop()


async def test_a_turn_that_its_node_never_began_to_answer_is_run_again_by_the_next(
    environment: dict[str, str], provider: ProviderServer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("again")
    number = len(provider.requests)
    async with NodeProcess.started(folder, environment) as node:
        watched = Watched(node.url)
        async with watched.chat as chat:
            turn = await chat.send("s_again", "stall")
            await provider.request(number)
            await until(lambda: "turn.started" in watched.seen)
            await node.kill()
        successor = await NodeProcess.start(folder, environment)
        try:
            again = Watched(successor.url, history=watched.history)
            async with again.chat as chat:
                await chat.open("s_again")
                await asyncio.wait_for(provider.request(number + 1), 15)
                assert await chat.cancel("s_again", turn.id) == "cancelling"
                found = chat.transcript.sessions["s_again"].turns[turn.id]
                await until(lambda: found.ended)
                assert found.terminal is not None and found.terminal["attempts"] == 2
            again.check()
        finally:
            await successor.stop()
