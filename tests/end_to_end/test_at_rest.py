"""Renaming and deleting on one node, while a turn runs on another: two processes, one store, a real provider."""

import asyncio
import random
import secrets
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager

import aiohttp
import pytest
import pytest_asyncio

from tests.support.processes import NodeProcess
from tests.support.provider_server import Answer, Pause, Piece, ProviderServer, Received, Reply, chunk, sse
from tests.support.waiting import PATIENCE_S, until
from tests.support.watched import Watched
from turnwire.chat.transcript import Session

pytestmark = pytest.mark.asyncio(loop_scope="module")

DELTAS = 2_000
DELETIONS = 6


def answer(request: Received) -> Answer:
    """Nothing ever, or an answer that goes on for longer than any test."""
    if request.body["messages"][-1]["content"] == "stall":
        return Reply(ending="stall")
    pieces: list[Piece] = []
    for number in range(DELTAS):
        pieces += [sse(chunk(f"{number} ")), Pause(5)]
    return Reply(pieces=pieces, ending="stall")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def provider() -> AsyncGenerator[ProviderServer]:
    async with ProviderServer(answer) as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def nodes(
    provider: ProviderServer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncGenerator[tuple[NodeProcess, NodeProcess]]:
    """Two nodes on one store: the second joins the first's."""
    settings = {
        "OPENAI_API_KEY": "test-key-not-a-real-one",
        "OPENAI_BASE_URL": provider.base_url,
        "TURNWIRE_MODEL": "test-model",
        "TURNWIRE_DRAIN_MS": "0",
    }
    folder = tmp_path_factory.mktemp("nodes")
    async with NodeProcess.started(folder, settings) as first:
        second = await NodeProcess.start(folder, settings)
        yield first, second
        await second.stop()


@asynccontextmanager
async def watching(*nodes: NodeProcess) -> AsyncGenerator[list[Watched]]:
    """A client on each node, all of one user; every frame is held to the rules."""
    first = Watched(nodes[0].url)
    all_of_them = [first, *(Watched(node.url, history=first.history) for node in nodes[1:])]
    async with AsyncExitStack() as stack:
        for watched in all_of_them:
            await stack.enter_async_context(watched.chat)
        yield all_of_them
    for watched in all_of_them:
        watched.check()


async def call(node: NodeProcess, method: str, path: str, body: object = None) -> tuple[int, object]:
    async with (
        aiohttp.ClientSession() as http,
        http.request(method, f"{node.http_url}/v1/sessions{path}", json=body) as response,
    ):
        return response.status, await response.json(content_type=None) if response.status != 204 else None


def known(watched: Watched, session: str) -> Session:
    return watched.chat.transcript.sessions[session]


async def test_a_rename_on_one_node_is_live_on_all_while_a_turn_runs(
    nodes: tuple[NodeProcess, NodeProcess], provider: ProviderServer
) -> None:
    here, there = nodes
    session = f"s_{secrets.token_hex(4)}"
    number = len(provider.requests)
    async with watching(here, there, here) as (runs, watches, late):
        turn = await runs.chat.send(session, "stall")
        await watches.chat.open(session)
        request = await provider.request(number)
        for title in ("Sky", "Sea ☁", None):
            status, told = await call(there, "PATCH", f"/{session}", {"title": title, "metadata": {"n": [title]}})
            assert status == 200 and isinstance(told, dict) and told["title"] == title
            for watched in (runs, watches):
                await until(lambda watched=watched, title=title: known(watched, session).metadata == {"n": [title]})
                assert known(watched, session).title == title
        assert not request.closed.is_set()
        # Who opens it now stands at a frame of the session's own, and goes on from there.
        opened = await late.chat.open(session)
        assert opened.turn is None and opened.seq == known(runs, session).seq
        await turn.cancel()
        await until(lambda: all(known(watched, session).turns[turn.id].ended for watched in (runs, watches, late)))
        await asyncio.wait_for(request.closed.wait(), PATIENCE_S)
        await call(there, "DELETE", f"/{session}")


async def test_a_deletion_on_another_node_stops_the_turn_closes_its_request_and_is_told_to_all(
    nodes: tuple[NodeProcess, NodeProcess], provider: ProviderServer
) -> None:
    here, there = nodes
    session = f"s_{secrets.token_hex(4)}"
    number = len(provider.requests)
    async with watching(here, there) as (runs, watches):
        turn = await runs.chat.send(session, "stall")
        await watches.chat.open(session)
        request = await provider.request(number)
        # Both stand behind turn.started, which the second was told as a frame or in its snapshot.
        await until(lambda: known(runs, session).seq == known(watches, session).seq == 2)
        assert await call(here, "GET", f"/{session}") == await call(there, "GET", f"/{session}")

        assert (await call(there, "DELETE", f"/{session}"))[0] == 204

        await asyncio.wait_for(request.closed.wait(), PATIENCE_S)
        outcome = await turn.done()
        assert outcome.fault is not None and outcome.fault.code == "not_found"
        await until(lambda: known(runs, session).deleted and known(watches, session).deleted)
        assert known(runs, session).seq == known(watches, session).seq == 3
        for node in nodes:
            assert (await call(node, "DELETE", f"/{session}"))[0] == 404
            assert (await call(node, "GET", f"/{session}/turns"))[0] == 404
            _, listed = await call(node, "GET", "")
            assert isinstance(listed, dict) and session not in [found["session"] for found in listed["sessions"]]
        again = await (await watches.chat.send(session, "stall")).done()
        assert again.fault is not None and again.fault.code == "not_found"
    assert len(provider.requests) == number + 1


async def test_a_deletion_amid_an_answer_leaves_nothing_of_it_anywhere(
    nodes: tuple[NodeProcess, NodeProcess], provider: ProviderServer
) -> None:
    """A reader that was told all before it sees the deletion, any other an empty session; nobody is left waiting."""
    drawn = random.Random(7)
    ends: list[str] = []
    for _ in range(DELETIONS):
        here, there = drawn.sample(nodes, 2)
        session = f"s_{secrets.token_hex(4)}"
        number = len(provider.requests)
        async with watching(here, there) as clients:
            runs, watches = clients
            turn = await runs.chat.send(session, "long")
            await watches.chat.open(session)
            request = await provider.request(number)
            enough = runs.frames + drawn.randint(1, 60)
            await until(lambda runs=runs, enough=enough: runs.frames >= enough)
            assert (await call(drawn.choice(nodes), "DELETE", f"/{session}"))[0] == 204
            await asyncio.wait_for(request.closed.wait(), PATIENCE_S)
            assert (await turn.done()).fault is not None
            for told in [known(watched, session) for watched in clients]:
                await until(lambda told=told: told.deleted or not told.gen)
                ends.append("deleted" if told.deleted else "empty")
                assert not told.active
    print(f"{ends.count('deleted')} of {len(ends)} readers saw session.deleted")
    assert "deleted" in ends
