"""`turnwire user export` and `turnwire user erase` beside a server that serves the user meanwhile."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from websockets.exceptions import ConnectionClosed

from tests.stores.server import StoreServer, binaries
from tests.support.processes import NodeProcess, start_python
from tests.support.provider_server import ProviderServer, Reply, chunk, sse
from tests.support.tokens import SECRET, shared
from tests.transports.test_two_users import Peer
from turnwire.core.credentials import user_hash

USER = "al:ice {ü}"
QUOTED = "al%3Aice%20%7B%C3%BC%7D"
CANARY = "canary-4711"
"""In everything that alice writes or is answered."""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[StoreServer]:
    server = StoreServer(binaries()[0], tmp_path, fsync="no")
    server.start()
    yield server
    server.stop()


@pytest.fixture
async def provider() -> AsyncIterator[ProviderServer]:
    """Its answers begin and never end."""
    pieces = [sse(chunk(f"{CANARY} begins"))]
    async with ProviderServer(lambda _: Reply(pieces=pieces, ending="stall")) as server:
        yield server


@pytest.fixture
def environment(store: StoreServer, provider: ProviderServer, tmp_path: Path) -> dict[str, str]:
    config = tmp_path / "turnwire.toml"
    config.write_text(f"""
[models]
default = "demo"
demo_models = true
[models.real]
provider = "openai_chat"
base_url = "{provider.base_url}"
model = "m"
deadlines_ms = {{ idle = 600000 }}
""")
    return {
        "TURNWIRE_CONFIG": str(config),
        "TURNWIRE_REDIS_URL": store.url,
        "TURNWIRE_AUTH": "jwt",
        "TURNWIRE_JWT_SECRET": SECRET,
        "TURNWIRE_DRAIN_MS": "0",
        "TURNWIRE_FRAMES_PER_S": "10000",
    }


async def turnwire(environment: dict[str, str], *arguments: str) -> tuple[int, str]:
    """Exit code, and all that was said."""
    process = await start_python(["-m", "turnwire", *arguments], environment)
    said, _ = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode is not None
    return process.returncode, said.decode()


def asked(**fields: Any) -> dict[str, Any]:
    return {"input": [{"type": "text", "text": f"{CANARY} asks"}], "turn": "t1", **fields}


async def call(node: NodeProcess, method: str, path: str, body: object = None) -> int:
    headers = {"Authorization": f"Bearer {shared(USER)}"}
    async with (
        aiohttp.ClientSession(headers=headers) as http,
        http.request(method, f"{node.http_url}/v1/sessions{path}", json=body) as response,
    ):
        return response.status


async def one_of_everything(node: NodeProcess, alice: Peer) -> None:
    """A finished turn in a session that was renamed, one whose tool was answered, one that waits for a tool, one that
    runs with one in the queue behind it, a session that was deleted, and a cancel of nothing."""
    await alice.ask("turn.create", session="done", **asked())
    await alice.until("turn.done", session="done")
    assert await call(node, "PATCH", "/done", {"title": f"{CANARY} title", "metadata": {"of": CANARY}}) == 200
    for session in ("answered", "parked"):
        await alice.ask("turn.create", session=session, **asked(model="demo/tool", tools=[{"name": "look_up"}]))
        request = (await alice.until("turn.asked", session=session))[-1]["request"]
        if session == "answered":
            await alice.ask("turn.respond", session=session, turn="t1", request=request, value={"result": CANARY})
            await alice.until("turn.done", session=session)
    await alice.ask("turn.create", session="running", **asked(model="real"))
    await alice.until("turn.delta", session="running")
    await alice.ask("turn.create", session="running", **asked(turn="t2", on_busy="queue"))
    await alice.ask("turn.create", session="gone", **asked())
    assert await call(node, "DELETE", "/gone") == 204
    await alice.ask("turn.cancel", session="never", turn="never")


def exported(file: Path) -> tuple[dict[str, Any], dict[tuple[str, str], dict[str, Any]]]:
    """Sessions and turns of an export, which is whole."""
    first, *records, last = (json.loads(line) for line in file.read_text(encoding="utf-8").splitlines())
    assert (first["type"], first["user"], first["format"]) == ("user", USER, 1)
    sessions = {record["session"]: record for record in records if record["type"] == "session"}
    turns = {(record["session"], record["turn"]): record for record in records if record["type"] == "turn"}
    assert len(sessions) + len(turns) == len(records)
    assert last == {"type": "end", "sessions": len(sessions), "turns": len(turns)}
    return sessions, turns


async def test_an_export_has_all_that_is_stored_of_a_user_and_nothing_of_another(
    environment: dict[str, str], tmp_path: Path
) -> None:
    file = tmp_path / "alice.jsonl"
    async with NodeProcess.started(tmp_path / "data", environment) as node:
        alice, bob = await Peer.of(node, USER), await Peer.of(node, "bob")
        await one_of_everything(node, alice)
        await bob.ask("turn.create", session="done", turn="bobs", input=[{"type": "text", "text": "bob asks"}])
        before_ms = time.time() * 1_000

        code, said = await turnwire(environment, "user", "export", USER, "--output", str(file))

        assert code == 0 and said == f"4 sessions with 5 turns of {USER}.\n"
        assert file.stat().st_mode & 0o777 == 0o600
        sessions, turns = exported(file)
        assert set(sessions) == {"done", "answered", "parked", "running"}
        assert "bob" not in file.read_text(encoding="utf-8")
        renamed = sessions["done"]
        assert (renamed["title"], renamed["metadata"]) == (f"{CANARY} title", {"of": CANARY})
        assert renamed["preview"] == f"{CANARY} asks" and before_ms - 60_000 < renamed["created_at"] <= before_ms
        done = turns["done", "t1"]
        assert done["input"] == asked()["input"] and done["author"] == USER and CANARY in done["parts"][0]["text"]
        assert done["terminal"]["usage"]["output_tokens"] > 0 and done["at"] <= done["terminal"]["at"]
        assert list(turns["answered", "t1"]["results"].values()) == [{"result": CANARY}]
        assert turns["parked", "t1"]["state"] == "parked" and turns["parked", "t1"]["pending"]
        running = turns["running", "t1"]
        assert running["state"] == "running" and running["parts"][0]["text"] == f"{CANARY} begins"
        assert turns["running", "t2"]["state"] == "queued"

        again, why = await turnwire(environment, "user", "export", USER, "--output", str(file))
        assert again == 1 and str(file) in why and "File exists" in why
        alice.socket.transport.abort()
        bob.socket.transport.abort()


async def test_an_erasure_stops_what_runs_and_leaves_nothing_of_the_user_but_what_the_docs_list(
    environment: dict[str, str], tmp_path: Path, store: StoreServer, provider: ProviderServer
) -> None:
    async with NodeProcess.started(tmp_path / "data", environment) as node:
        bob = await Peer.of(node, "bob")
        await bob.ask("turn.create", session="done", turn="bobs", input=[{"type": "text", "text": "bob asks"}])
        await bob.until("turn.done")
        bobs = kept(store)
        alice, busy = await Peer.of(node, USER), await Peer.of(node, USER)
        await one_of_everything(node, alice)
        request = await provider.request(0)
        until_closed = asyncio.create_task(create_until_closed(busy))
        watched = asyncio.create_task(deleted_and_close_code(alice))

        code, said = await turnwire(environment, "user", "erase", USER, "--yes")

        assert code == 0 and f"sessions of {USER} are erased" in said
        await asyncio.wait_for(request.closed.wait(), 20)
        deleted, close_code = await asyncio.wait_for(watched, 20)
        assert {"done", "answered", "parked", "running"} <= deleted and close_code == 4501
        made = await asyncio.wait_for(until_closed, 20)
        print(f"{made} sessions were made while it erased")
        assert made > 0
        assert left_of_alice(store) == {"done", "answered", "parked", "running", "gone"}
        assert {name: value for name, value in kept(store).items() if name in bobs} == bobs
        assert (await turnwire(environment, "user", "erase", USER, "--yes"))[0] == 1
        assert await call(node, "GET", "") == 200  # with a new token
        bob.socket.transport.abort()


def kept(store: StoreServer) -> dict[str, Any]:
    """What does not change by itself while a client looks on."""
    contents: dict[str, Any] = {
        name: value for name, value in store.contents().items() if not name.endswith("::connections")
    }
    for value in contents.values():
        if isinstance(value, dict):
            value.pop("watched_at", None)
    return contents


async def create_until_closed(peer: Peer) -> int:
    """Makes sessions as fast as it can, for as long as it is let; how many there were."""
    made = 0
    try:
        while True:
            answer = (await peer.ask("turn.create", session=f"busy{made}", **asked()))[-1]
            made += answer["type"] == "ack"
            await peer.ask("session.close", session=f"busy{made - 1}")
    except ConnectionClosed:
        return made


async def deleted_and_close_code(peer: Peer) -> tuple[set[str], int | None]:
    deleted: set[str] = set()
    try:
        while True:
            frame = await peer.receive()
            if frame["type"] == "session.deleted":
                deleted.add(frame["session"])
    except ConnectionClosed as closed:
        return deleted, None if closed.rcvd is None else closed.rcvd.code


def left_of_alice(store: StoreServer) -> set[str]:
    """Everything in the store, key by key: what of it names alice is a tombstone, of a session whose name is returned
    unless it was made while she was erased."""
    contents = store.contents()
    ends: Any = contents.pop("tw:{credentials}:ends")
    assert [user for user, _ in ends] == [user_hash(USER)]
    sessions: set[str] = set()
    with store.client() as client:
        for name, value in contents.items():
            assert CANARY not in f"{name} {value}", name
            assert USER not in f"{name} {value}" and QUOTED not in str(value), name
            if QUOTED in name:
                session, _, what = name.rpartition(f"{QUOTED}:")[2].partition(":")
                assert what == "deleted", name
                assert 0 < client.pttl(name) <= 86_400_000
                sessions.add(session)
    return {session for session in sessions if not session.startswith("busy")}


async def test_an_export_works_on_the_store_of_a_directory_whether_a_server_runs_on_it_or_not(tmp_path: Path) -> None:
    data = tmp_path / "data"
    on_it = ("--data-dir", str(data))
    async with NodeProcess.started(data) as node:
        async with aiohttp.ClientSession() as http, http.ws_connect(node.url, autoclose=False) as socket:
            await socket.send_json({"type": "hello"})
            await socket.send_json({"type": "turn.create", "session": "s", **asked()})
            while (await socket.receive_json())["type"] != "turn.done":
                pass
        code, said = await turnwire({}, "user", "export", "anonymous", *on_it)
        assert code == 0 and CANARY in said and "1 sessions with 1 turns" in said
        assert (await turnwire({}, "user", "export", "anonymus", *on_it)) == (
            1,
            "turnwire: Nothing is stored of 'anonymus'. A user is called as in its tokens, letter by letter.\n",
        )
        await node.stop()
        code, again = await turnwire({}, "user", "export", "anonymous", *on_it)
        assert code == 0 and again.splitlines()[1:] == said.splitlines()[1:]
