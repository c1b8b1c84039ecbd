"""P8, whole: what another user has is answered exactly like what never was, by every command and every HTTP call.

Alice has one of everything: a turn that ended, one that runs, one in the queue, one that waits for a tool, a session
that was deleted. Others say each thing twice, once with her ids and once with ids that nobody ever used, and get the
same answers, frame by frame and byte by byte, but for the ids that they sent themselves and the times.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from starlette.routing import Route

from tests.support.peers import Json, Peer
from tests.support.processes import NodeProcess
from tests.support.tokens import SECRET, shared
from turnwire.transports.http_api import HttpApi
from turnwire.transports.token_api import TokenApi
from turnwire_protocol.commands import COMMAND_TYPES
from turnwire_protocol.events import TERMINAL_TYPES

pytestmark = pytest.mark.asyncio(loop_scope="module")

SETTINGS = {
    "TURNWIRE_AUTH": "jwt",
    "TURNWIRE_JWT_SECRET": SECRET,
    "TURNWIRE_DRAIN_MS": "0",
    "TURNWIRE_FRAMES_PER_S": "10000",
}
TEXT = [{"type": "text", "text": "What is alice's secret?"}]
MODELS = """
[models]
default = "demo"
demo_models = true
[models.endless]
provider = "demo"
model = "demo/stall"
deadlines_ms = { first_content = 3600000, total = 3600000 }
"""


class Alice:
    """Her cursor at the end of `done`, and the request that her parked turn waits for."""

    cursor: Json
    request: str


SESSIONS = ("s_done", "s_running", "s_parked", "s_gone")
"""Alice's sessions; each has a turn `t1`, `s_running` a queued `t2` behind it."""


async def one_of_everything(peer: Peer) -> Alice:
    alice = Alice()
    for session, model in (
        ("s_done", "demo"),
        ("s_running", "endless"),
        ("s_parked", "demo/tool"),
        ("s_gone", "demo"),
    ):
        await peer.ask("session.open", session=session)
        await peer.socket.send(
            json.dumps(
                {"type": "turn.create", "session": session, "turn": "t1", "model": model, "input": TEXT}
                | ({"tools": [{"name": "look_up"}]} if session == "s_parked" else {})
            )
        )
        kind = {"demo": "turn.done", "endless": "turn.started", "demo/tool": "turn.asked"}[model]
        seen = await peer.until(kind, session=session)
        if session == "s_parked":
            alice.request = seen[-1]["request"]
        if session == "s_done":
            gen = next(frame["gen"] for frame in seen if frame["type"] == "session.opened")
            alice.cursor = {"gen": gen, "seq": seen[-1]["seq"], "turn": "t1"}
    queued = await peer.ask("turn.create", session="s_running", turn="t2", input=TEXT, on_busy="queue")
    assert queued[-1]["type"] == "ack"
    if not any(frame["type"] == "turn.accepted" for frame in queued):
        await peer.until("turn.accepted", turn="t2")
    return alice


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def node(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[NodeProcess]:
    folder = tmp_path_factory.mktemp("node")
    (folder / "turnwire.toml").write_text(MODELS)
    config = ("--config", str(folder / "turnwire.toml"))
    async with NodeProcess.started(folder / "data", SETTINGS, *config) as started:
        yield started


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def alice(node: NodeProcess) -> AsyncIterator[Alice]:
    peer = await Peer.of(node, "alice")
    found = await one_of_everything(peer)
    async with aiohttp.ClientSession() as http:
        header = {"Authorization": f"Bearer {shared('alice')}"}
        async with http.delete(f"{node.http_url}/v1/sessions/s_gone", headers=header) as answer:
            assert answer.status == 204
        before = await shown(http, node, "alice")
        yield found
        # Nothing of what Bob did has changed anything of hers.
        assert await shown(http, node, "alice") == before
    assert [frame async for frame in leftovers(peer) if frame["type"] != "session.deleted"] == []
    await peer.socket.close()


async def leftovers(peer: Peer) -> AsyncIterator[Json]:
    """What came for Alice since: nothing may."""
    for frame in (await peer.ask("ping"))[:-1]:
        yield frame


async def shown(http: aiohttp.ClientSession, node: NodeProcess, user: str) -> Json:
    """All of a user's sessions and turns."""
    header = {"Authorization": f"Bearer {shared(user)}"}
    async with http.get(f"{node.http_url}/v1/sessions", headers=header) as answer:
        sessions = (await answer.json())["sessions"]
    told: Json = {"sessions": sessions}
    for session in (found["session"] for found in sessions):
        async with http.get(f"{node.http_url}/v1/sessions/{session}/turns", headers=header) as answer:
            told[session] = (await answer.json())["turns"]
    return told


TIMES = ("at", "first_token_ms", "duration_ms", "created_at", "updated_at")


def alike(value: Any, names: dict[str, str]) -> Any:
    """A frame with the ids that were sent replaced by what they stand for, random names and times blotted out."""
    if isinstance(value, dict):
        cleaned = {key: alike(item, names) for key, item in value.items() if key not in TIMES}
        if cleaned.get("gen") is not None:
            cleaned["gen"] = "drawn"
        if cleaned.get("type") in TERMINAL_TYPES:
            del cleaned["seq"]  # it counts deltas, which merge as time goes
        return cleaned
    if isinstance(value, list):
        return [alike(item, names) for item in value]
    return names.get(value, value) if isinstance(value, str) else value


# Each is said with Alice's ids and with ids of nobody. (name, command, fields); {s}, {t}, {r} are the ids.
SAID: dict[str, list[tuple[str, Json]]] = {
    "open": [("session.open", {"session": "{s}"})],
    "open at her cursor": [("session.open", {"session": "{s}", "after": "{cursor}"})],
    "open much of it": [("session.open", {"session": "{s}", "history": 200})],
    "close": [("session.close", {"session": "{s}"})],
    "cancel": [("turn.cancel", {"session": "{s}", "turn": "{t}"})],
    "respond": [("turn.respond", {"session": "{s}", "turn": "{t}", "request": "{r}", "value": "mine"})],
    "answer again": [("turn.create", {"session": "{s}", "turn": "mine", "again": "{t}"})],
    "answer behind": [("turn.create", {"session": "{s}", "turn": "mine", "parent": "{t}", "input": TEXT})],
    "create the same": [("turn.create", {"session": "{s}", "turn": "{t}", "input": TEXT, "model": "demo"})],
    "create and queue": [("turn.create", {"session": "{s}", "turn": "{t}", "input": TEXT, "on_busy": "queue"})],
    "create and interrupt": [("turn.create", {"session": "{s}", "turn": "{t}", "input": TEXT, "on_busy": "interrupt"})],
    "open, create, cancel, respond": [
        ("session.open", {"session": "{s}"}),
        ("turn.create", {"session": "{s}", "turn": "{t}", "input": TEXT, "model": "endless"}),
        ("turn.cancel", {"session": "{s}", "turn": "{t}"}),
        ("turn.respond", {"session": "{s}", "turn": "{t}", "request": "{r}", "value": "mine"}),
    ],
    "refresh and ping": [("auth.refresh", {"token": "nobodys"}), ("ping", {})],
}


def filled(fields: Json, ids: dict[str, Any]) -> Json:
    return {key: ids.get(value, value) if isinstance(value, str) else value for key, value in fields.items()}


async def said_as(node: NodeProcess, user: str, name: str, ids: dict[str, Any]) -> list[Any]:
    """All that a fresh user is answered to one row, up to the end of the turns that it created."""
    peer = await Peer.of(node, user)
    names = {id: key for key, id in ids.items() if isinstance(id, str)} | {user: "{user}"}
    frames: list[Json] = []
    created = False
    for kind, fields in SAID[name]:
        answer = await peer.ask(kind, **filled(fields, ids))
        created = created or (kind == "turn.create" and answer[-1]["type"] == "ack")
        frames += answer
        if fields.get("model") == "endless":
            frames += await peer.until("turn.started")
    while created and not any(frame["type"] in TERMINAL_TYPES for frame in frames):
        frames.append(await peer.receive())
    await peer.socket.close()
    text = "".join(frame["text"] for frame in frames if frame["type"] == "turn.delta")
    # Which deltas are merged, and so which answer comes between which of them, is a matter of time.
    answers = [frame for frame in frames if "reply_to" in frame]
    numbered = [frame for frame in frames if "reply_to" not in frame and frame["type"] != "turn.delta"]
    told = [json.dumps(alike(frame, names), sort_keys=True) for frame in (*answers, *numbered)]
    return [*told, text]


@pytest.mark.parametrize("session", SESSIONS)
@pytest.mark.parametrize("name", SAID)
async def test_every_command_answers_to_her_ids_as_to_nobodys(
    node: NodeProcess, alice: Alice, name: str, session: str
) -> None:
    turn = "t2" if session == "s_running" and "cancel" in name else "t1"
    hers = {"{s}": session, "{t}": turn, "{r}": alice.request, "{cursor}": alice.cursor}
    nobodys_cursor = {"gen": "x" * len(alice.cursor["gen"]), "seq": alice.cursor["seq"], "turn": "never_turn"}
    nobodys = {"{s}": "never_session", "{t}": "never_turn", "{r}": "never_request", "{cursor}": nobodys_cursor}
    word = f"{name}_{session}".replace(" ", "_").replace(",", "")

    with_hers, with_nobodys = await asyncio.gather(
        said_as(node, f"bob_{word}", name, hers), said_as(node, f"carl_{word}", name, nobodys)
    )

    assert with_hers == with_nobodys
    assert "secret" not in str(with_hers) or "create" in name or "answer" in name


async def test_no_command_is_left_out() -> None:
    said = {kind for rows in SAID.values() for kind, _ in rows}
    assert said | {"hello"} == COMMAND_TYPES  # hello names nothing that anybody could have


# --- HTTP -------------------------------------------------------------------------------------------------------------

CALLS: list[tuple[str, str, bytes | None]] = [
    ("GET", "/sessions", None),
    ("GET", "/sessions?limit=1", None),
    ("GET", "/sessions/{session}", None),
    ("HEAD", "/sessions/{session}", None),
    ("PATCH", "/sessions/{session}", b'{"title":"mine"}'),
    ("PATCH", "/sessions/{session}", b'{"titel":"mine"}'),
    ("PATCH", "/sessions/{session}", b"{"),
    ("DELETE", "/sessions/{session}", None),
    ("GET", "/sessions/{session}/turns", None),
    ("GET", "/sessions/{session}/turns?before={turn}", None),
    ("GET", "/sessions/{session}/turns?limit=200", None),
    ("POST", "/sessions/{session}", b"{}"),
    ("GET", "/ws", None),
]

NAMES_NOTHING = {"/tokens", "/tokens/end"}
"""Calls for servers that vouch for all users, on a node with API keys; tests/transports/test_tokens.py."""


@pytest.mark.parametrize("session", SESSIONS)
@pytest.mark.parametrize(("method", "path", "body"), CALLS, ids=lambda value: str(value))
async def test_every_call_answers_to_her_ids_as_to_nobodys(
    node: NodeProcess, alice: Alice, session: str, method: str, path: str, body: bytes | None
) -> None:
    told: list[Any] = []
    async with aiohttp.ClientSession() as http:
        for ids in ({"session": session, "turn": "t1"}, {"session": "never_session", "turn": "never_turn"}):
            url = f"{node.http_url}/v1{path.format(**ids)}"
            header = {"Authorization": f"Bearer {shared('bob')}"}
            async with http.request(method, url, headers=header, data=body) as answer:
                headers = {name: value for name, value in answer.headers.items() if name != "Date"}
                told.append((answer.status, headers, await answer.read()))
    assert told[0] == told[1]


async def test_no_call_is_left_out() -> None:
    nothing: Any = None
    api = HttpApi(nothing, nothing, nothing, TokenApi(nothing, nothing).routes())
    gate: Any = api.mount().app
    routes: list[Any] = list(gate._app.routes)
    served = {
        (method, route.path) for route in routes if isinstance(route, Route) for method in (route.methods or {"GET"})
    }
    called = {(method, path.partition("?")[0]) for method, path, _ in CALLS}
    missing = {(method, path) for method, path in served if path not in NAMES_NOTHING and method != "HEAD"} - called
    assert missing == set()
