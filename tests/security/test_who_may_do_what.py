"""Hostile input 9 to 12 of docs/security.md: what is another's, and what a token does not allow.

Whose ids exist is tested command by command in tests/transports/test_two_users.py; here are the attacks by name.
"""

import json
import secrets
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from websockets.exceptions import ConnectionClosed

from tests.support.peers import Json, Peer
from tests.support.processes import NodeProcess
from tests.support.tokens import SECRET, shared
from turnwire.core.entries import Message
from turnwire.identity.api_keys import new_key
from turnwire.providers.demo import demo_answer

pytestmark = pytest.mark.asyncio(loop_scope="module")

NODE = {
    "TURNWIRE_AUTH": "jwt",
    "TURNWIRE_JWT_SECRET": SECRET,
    "TURNWIRE_DRAIN_MS": "0",
    # Whoever comes with a cursor on what is not there waits for a lease, in case that the store has just lost it.
    "TURNWIRE_LEASE_MS": "1000",
    "TURNWIRE_RENEW_MS": "300",
    "TURNWIRE_SWEEP_MS": "300",
}

ALICES = "What is alice's secret?"
BOBS = "Something else of bob's."


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def node(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[NodeProcess]:
    async with NodeProcess.started(tmp_path_factory.mktemp("node"), NODE) as started:
        yield started


@pytest_asyncio.fixture(loop_scope="module")
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


def said(text: str) -> list[Json]:
    return [{"type": "text", "text": text}]


def answer_to(text: str) -> str:
    return demo_answer([Message("user", tuple(said(text)))])


async def told(http: aiohttp.ClientSession, node: NodeProcess, user: str, method: str, path: str) -> tuple[Any, ...]:
    """Status, headers and body of a call, without the date."""
    header = {"Authorization": f"Bearer {shared(user)}"}
    body = b'{"title":"mine"}' if method == "PATCH" else None
    async with http.request(method, f"{node.http_url}/v1{path}", headers=header, data=body) as answer:
        headers = {name: value for name, value in answer.headers.items() if name != "Date"}
        return answer.status, headers, await answer.read()


async def running(peer: Peer, session: str, text: str) -> None:
    """A turn `t` that is under way, and will be for seconds."""
    await peer.ask("turn.create", session=session, turn="t", model="demo", input=said(text))
    await peer.until("turn.delta", session=session)


async def whole_text(peer: Peer, session: str) -> str:
    """The text of the turn in `session` at its end, which is an orderly one."""
    text = ""
    if (await peer.answer("session.open", session=session))["mode"] == "snapshot":
        snapshot = (await peer.until("turn.snapshot", session=session))[-1]
        text = "".join(part["text"] for part in snapshot["parts"])
        if snapshot["state"] == "done":
            return text
    frames = await peer.until("turn.done", session=session)
    assert frames[-1]["finish_reason"] == "stop"
    return text + "".join(frame["text"] for frame in frames if frame["type"] == "turn.delta")


async def test_09_another_who_resumes_a_stream_is_told_what_nobodys_id_gets(
    node: NodeProcess, http: aiohttp.ClientSession
) -> None:
    alice, bob = await Peer.of(node, "alice9"), await Peer.of(node, "bob9")
    opened = await alice.answer("session.open", session="s_hers")
    await running(alice, "s_hers", ALICES)
    opened = await alice.answer("session.open", session="s_hers")
    cursors: list[Json | None] = [None, {"gen": opened["gen"], "seq": 1, "turn": "t"}]
    cursors.append({"gen": opened["gen"], "seq": opened["seq"], "turn": opened["turn"]})
    for cursor in cursors:
        more = {} if cursor is None else {"after": cursor}
        hers = await bob.answer("session.open", session="s_hers", **more)
        nobodys = await bob.answer("session.open", session="s_none", **more)
        for answer in (hers, nobodys):
            del answer["session"], answer["reply_to"]
        assert hers == nobodys
        assert (hers["gen"], hers["seq"], hers["turns"]) == (None, 0, 0)
    # Nothing of hers comes, while it runs and when it ends.
    assert await whole_text(alice, "s_hers") == answer_to(ALICES)
    assert len(await bob.ask("ping")) == 1
    for path in ("/sessions/{}", "/sessions/{}/turns", "/sessions/{}/turns?before=t"):
        hers = await told(http, node, "bob9", "GET", path.format("s_hers"))
        assert hers == await told(http, node, "bob9", "GET", path.format("s_none")) and hers[0] == 404
    for peer in (alice, bob):
        await peer.socket.close()


async def test_10_another_who_cancels_lists_or_deletes_finds_nothing_and_stops_nothing(
    node: NodeProcess, http: aiohttp.ClientSession
) -> None:
    alice, bob = await Peer.of(node, "alice10"), await Peer.of(node, "bob10")
    await running(alice, "s", ALICES)
    for _ in range(3):
        hers = await bob.answer("turn.cancel", session="s", turn="t", reason="mine")
        nobodys = await bob.answer("turn.cancel", session="none", turn="t", reason="mine")
        assert hers["result"] == nobodys["result"] == "pending"
    assert json.loads((await told(http, node, "bob10", "GET", "/sessions"))[2]) == {"sessions": [], "next": None}
    for method in ("DELETE", "PATCH"):
        assert (await told(http, node, "bob10", method, "/sessions/s"))[0] == 404
    refused = await bob.answer("turn.respond", session="s", turn="t", request="r", value="mine")
    assert refused["error"]["code"] == "not_found"
    assert await whole_text(alice, "s") == answer_to(ALICES)
    for peer in (alice, bob):
        await peer.socket.close()


async def test_11_who_may_read_may_not_write_and_who_may_write_may_not_read(
    node: NodeProcess, http: aiohttp.ClientSession
) -> None:
    """Each action is asked for by itself: having a session open gives no right to it."""
    both = await Peer.of(node, "ann")
    reader = await Peer.of(node, "ann", scope="turnwire:read")
    writer = await Peer.of(node, "ann", scope="turnwire:write")
    await reader.ask("session.open", session="s")
    await running(both, "s", ALICES)
    await reader.until("turn.delta", session="s")  # subscribed, and served
    for kind, fields in (
        ("turn.create", {"turn": "t2", "input": said("x")}),
        ("turn.create", {"turn": "t", "input": said(ALICES), "model": "demo"}),
        ("turn.create", {"turn": "t2", "input": said("x"), "on_busy": "interrupt"}),
        ("turn.cancel", {"turn": "t"}),
        ("turn.respond", {"turn": "t", "request": "r", "value": 1}),
    ):
        assert (await reader.answer(kind, session="s", **fields))["error"]["code"] == "forbidden", kind
    for kind, fields in (("session.open", {}), ("turn.create", {"turn": "t3", "input": said("x")})):
        assert (await writer.answer(kind, session="s", **fields))["error"]["code"] == "forbidden", kind
    calls = [("PATCH", "read", 403), ("DELETE", "read", 403), ("GET", "write", 403), ("GET", "read", 200)]
    for method, scope, status in [*calls, ("GET", "tokens", 403), ("DELETE", "tokens", 403)]:
        header = {"Authorization": f"Bearer {shared('ann', scope=f'turnwire:{scope}')}"}
        async with http.request(method, f"{node.http_url}/v1/sessions/s", headers=header, data=b"{}") as answer:
            assert answer.status == status, (method, scope)
    assert await whole_text(both, "s") == answer_to(ALICES)
    for peer in (both, reader, writer):
        await peer.socket.close()


async def test_12_ids_are_their_owners_so_that_guessing_them_finds_nothing(
    node: NodeProcess, http: aiohttp.ClientSession
) -> None:
    """Knowing an id whole is not enough, and two users may have the same one."""
    alice, bob = await Peer.of(node, "alice12"), await Peer.of(node, "bob12")
    for peer, text in ((alice, ALICES), (bob, BOBS)):
        await peer.ask("turn.create", session="same", turn="t", model="demo", input=said(text))
    for peer, text in ((alice, ALICES), (bob, BOBS)):
        assert await whole_text(peer, "same") == answer_to(text)
    assert (await told(http, node, "bob12", "DELETE", "/sessions/same"))[0] == 204
    assert await whole_text(alice, "same") == answer_to(ALICES)
    # Guesses, and her very ids among them, as fast as they can be sent.
    await alice.ask("turn.create", session="secret", turn="t", model="demo", input=said(ALICES))
    mallory = await Peer.of(node, "mallory12")
    assert (await mallory.answer("session.open", session="secret"))["gen"] is None
    names = ["secret" if number % 5 == 0 else secrets.token_hex(4) for number in range(3_000)]
    frames: list[Json] = []
    try:
        for name in names:
            await mallory.socket.send(json.dumps({"type": "session.open", "id": "g", "session": name, "history": 1}))
        while True:
            frames.append(await mallory.receive())
    except ConnectionClosed as closed:
        assert closed.rcvd is not None and closed.rcvd.code == 4529
    found = [frame for frame in frames if frame["type"] == "session.opened"]
    assert len({frame["session"] for frame in found}) <= 64
    assert {(frame["gen"], frame["seq"]) for frame in found} <= {(None, 0)}
    assert {frame["error"]["code"] for frame in frames if frame["type"] == "error"} == {"rate_limited"}
    for peer in (alice, bob):
        await peer.socket.close()


async def test_12_what_the_server_draws_as_a_secret_cannot_be_guessed() -> None:
    drawn = [new_key("k", None, None, frozenset(["read"]), 0) for _ in range(64)]
    assert len({key.shown for key in drawn}) == 64
    for key in drawn:
        secret = key.shown.split("_", 2)[2]
        assert len(secret) * 6 >= 256  # base64 has six bits a character
        assert len(key.key.signing) * 8 >= 256
