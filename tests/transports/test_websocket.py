"""The endpoint at its borders, on real sockets against a real node: who gets in, and what ends a connection."""

import asyncio
import base64
import json
import os
import socket
import struct
from collections.abc import AsyncGenerator
from typing import Any

import pytest
import pytest_asyncio
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Origin, Subprotocol

from tests.support.processes import NodeProcess
from turnwire_protocol.codec import JSON, MSGPACK
from turnwire_protocol.limits import COMMAND_BYTES_MAX

pytestmark = pytest.mark.asyncio(loop_scope="module")

SETTINGS = {
    "TURNWIRE_DRAIN_MS": "0",
    "TURNWIRE_HELLO_MS": "400",
    "TURNWIRE_SEND_TIMEOUT_MS": "400",
    "TURNWIRE_FRAMES_PER_S": "50",
    "TURNWIRE_SESSIONS_OPEN_MAX": "3",
    "TURNWIRE_TURNS_RUNNING_MAX": "2",
    "TURNWIRE_BYTES_PER_S": "50000000",
    "TURNWIRE_ALLOWED_ORIGINS": "https://chat.example.com",
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def node(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[NodeProcess]:
    async with NodeProcess.started(tmp_path_factory.mktemp("node"), SETTINGS) as started:
        yield started


async def receive(peer: ClientConnection) -> dict[str, Any]:
    return json.loads(await peer.recv())


async def send(peer: ClientConnection, kind: str, **fields: Any) -> None:
    await peer.send(json.dumps({"type": kind, **fields}))


async def until(peer: ClientConnection, kind: str) -> dict[str, Any]:
    while (frame := await receive(peer))["type"] != kind:
        pass
    return frame


async def greeted(node: NodeProcess, **options: Any) -> ClientConnection:
    peer = await connect(node.url, compression=None, max_size=None, **options)
    await send(peer, "hello", id="h")
    assert (await receive(peer))["reply_to"] == "h"
    return peer


async def closed_with(peer: ClientConnection) -> tuple[int, list[dict[str, Any]]]:
    """The close code, and the frames before it."""
    frames: list[dict[str, Any]] = []
    try:
        while True:
            frames.append(await receive(peer))
    except ConnectionClosed as closed:
        return (closed.rcvd.code if closed.rcvd else 1006), frames


@pytest.mark.parametrize(
    "origin",
    ["https://evil.example", "null", "https://chat.example.com.evil.example", "https://chat.example.com:444"],
)
async def test_a_foreign_origin_is_refused_before_the_upgrade(node: NodeProcess, origin: str) -> None:
    with pytest.raises(InvalidStatus) as refused:
        await connect(node.url, origin=Origin(origin))
    assert refused.value.response.status_code == 403


@pytest.mark.parametrize("origin", ["https://chat.example.com", None])
async def test_an_allowed_origin_and_a_program_without_one_get_in(node: NodeProcess, origin: str | None) -> None:
    peer = await greeted(node, origin=None if origin is None else Origin(origin))
    await peer.close()


async def test_the_page_that_the_node_delivers_may_connect(node: NodeProcess) -> None:
    peer = await greeted(node, origin=Origin(node.http_url))
    await peer.close()


async def test_an_unknown_subprotocol_is_echoed_told_and_closed_with_4406(node: NodeProcess) -> None:
    peer = await connect(node.url, subprotocols=[Subprotocol("turnwire.v9.json")])
    assert peer.subprotocol == "turnwire.v9.json"
    code, frames = await closed_with(peer)
    assert code == 4406
    assert [frame["error"]["code"] for frame in frames] == ["unsupported"]


async def test_the_first_known_subprotocol_is_chosen(node: NodeProcess) -> None:
    offered = [Subprotocol("other.v1"), Subprotocol("turnwire.v1.msgpack"), Subprotocol("turnwire.v1.json")]
    async with connect(node.url, subprotocols=offered) as peer:
        assert peer.subprotocol == "turnwire.v1.msgpack"
        await peer.send(MSGPACK.encode({"type": "hello", "id": "h"}))
        assert MSGPACK.decode_object(await peer.recv())["reply_to"] == "h"


async def test_silence_instead_of_hello_closes_with_4508(node: NodeProcess) -> None:
    code, frames = await closed_with(await connect(node.url))
    assert code == 4508
    assert frames[-1]["error"]["code"] == "unauthenticated"


async def test_pings_do_not_put_off_the_hello_deadline(node: NodeProcess) -> None:
    peer = await connect(node.url)

    async def ping_until_closed() -> None:
        try:
            while True:
                await send(peer, "ping")
                await asyncio.sleep(0.05)
        except ConnectionClosed:
            return

    pinging = asyncio.create_task(ping_until_closed())
    code, _ = await closed_with(peer)
    await pinging
    assert code == 4508


async def test_a_command_over_the_size_limit_closes_with_4413(node: NodeProcess) -> None:
    peer = await greeted(node)
    await peer.send(JSON.encode({"type": "ping", "x": "y" * COMMAND_BYTES_MAX}).decode())
    code, frames = await closed_with(peer)
    assert code == 4413
    assert frames[-1]["error"]["code"] == "too_large"


async def test_a_message_over_the_transport_limit_closes_with_1009(node: NodeProcess) -> None:
    peer = await greeted(node)
    with pytest.raises(ConnectionClosed):
        await peer.send("x" * (2 * COMMAND_BYTES_MAX + 1))
        await receive(peer)
    assert peer.close_code == 1009


async def test_a_flood_is_refused_with_a_wait_and_then_closed_with_4529(node: NodeProcess) -> None:
    peer = await greeted(node)
    for _ in range(1_000):
        await send(peer, "ping")
    code, frames = await closed_with(peer)
    assert code == 4529
    refusals = [frame for frame in frames if frame["type"] == "error"]
    assert refusals[0]["error"]["code"] == "rate_limited"
    assert refusals[0]["error"]["retry_after_ms"] > 0


async def test_sessions_and_turns_of_a_connection_are_limited_and_given_back(node: NodeProcess) -> None:
    peer = await greeted(node)
    for number in range(3):
        await send(peer, "session.open", id=f"o{number}", session=f"many_{number}")
        assert (await receive(peer))["type"] == "session.opened"
    await send(peer, "session.open", id="o4", session="many_4")
    assert (await receive(peer))["error"]["code"] == "rate_limited"
    create = {"model": "demo/stall", "input": [{"type": "text", "text": "x"}]}
    for number in range(2):
        await send(peer, "turn.create", id=f"c{number}", session=f"many_{number}", turn="t1", **create)
        await until(peer, "turn.started")
    await send(peer, "turn.create", id="c3", session="many_2", turn="t1", **create)
    assert (await until(peer, "error"))["error"]["code"] == "rate_limited"
    await send(peer, "turn.cancel", session="many_0", turn="t1")
    await until(peer, "turn.done")
    await send(peer, "session.close", id="k", session="many_0")
    await until(peer, "ack")
    await send(peer, "turn.create", id="c4", session="many_2", turn="t1", **create)
    assert (await until(peer, "ack"))["reply_to"] == "c4"
    await peer.close()


async def big_session(node: NodeProcess, session: str, turns: int) -> None:
    """A session whose snapshot has `turns` times 400 kB, by turns that were cancelled before they came."""
    async with await greeted(node) as peer:
        for number in range(turns):
            await send(peer, "turn.cancel", session=session, turn=f"t{number}")
            await until(peer, "ack")
            text = [{"type": "text", "text": "x" * 400_000}]
            await send(peer, "turn.create", id=f"c{number}", session=session, turn=f"t{number}", input=text)
            assert (await until(peer, "turn.done"))["finish_reason"] == "cancelled"


def handshake(node: NodeProcess) -> socket.socket:
    """A WebSocket by hand, whose system buffers are small."""
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    raw.connect(("127.0.0.1", node.port))
    key = base64.b64encode(os.urandom(16)).decode()
    raw.sendall(
        f"GET /v1/ws HTTP/1.1\r\nHost: 127.0.0.1:{node.port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    assert raw.recv(4_096).startswith(b"HTTP/1.1 101")
    return raw


def masked(text: str) -> bytes:
    """A client's text message (RFC 6455 section 5.3), masked with zeros."""
    data = text.encode()
    return struct.pack("!BBH4x", 0x81, 0x80 | 126, len(data)) + data


async def test_a_client_that_does_not_read_is_cut_off_and_nobody_else_notices(node: NodeProcess) -> None:
    await big_session(node, "big", 20)
    raw = await asyncio.to_thread(handshake, node)
    with raw:
        raw.sendall(masked('{"type":"hello"}') + masked('{"type":"session.open","session":"big","history":50}'))
        async with await greeted(node) as other:
            # The one that reads gets its answers while the other one's snapshot is stuck.
            for _ in range(20):
                await send(other, "ping", id="p")
                assert (await until(other, "pong"))["reply_to"] == "p"
                await asyncio.sleep(0.05)
        # 8 MB do not fit into any buffer: what is left was thrown away with the connection.
        total = await asyncio.to_thread(read_all, raw)
        assert total < 7_000_000


def read_all(raw: socket.socket) -> int:
    """How many bytes come until the connection ends, in whichever way."""
    raw.settimeout(10)
    total = 0
    try:
        while data := raw.recv(65_536):
            total += len(data)
    except ConnectionResetError:
        pass
    return total
