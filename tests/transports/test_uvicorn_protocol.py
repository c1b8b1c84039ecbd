"""What our WebSocket protocol class adds to uvicorn's, on real sockets.

Our close code where no pong comes, whole frames of every length, and a drop that does not wait."""

import asyncio
import base64
import os
import socket
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest
import uvicorn
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from turnwire.transports.door import Door, DoorLimits
from turnwire.transports.uvicorn_http import TurnwireConfig
from turnwire.transports.uvicorn_protocol import EXTENSION, OPCODE_BINARY, OPCODE_TEXT, TurnwireProtocol, frame_header

LENGTHS = (0, 1, 125, 126, 65_535, 65_536, 200_000)


class App:
    """Accepts, writes a message of each length, and keeps the protocol for the test."""

    def __init__(self) -> None:
        self.protocol: TurnwireProtocol | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        self.protocol = cast("TurnwireProtocol", scope["extensions"][EXTENSION])
        self.protocol.write_messages(OPCODE_BINARY, [b"x" * length for length in LENGTHS])
        self.protocol.write_messages(OPCODE_TEXT, ["ü".encode()])
        while (await receive())["type"] != "websocket.disconnect":
            pass
        with pytest.raises(ConnectionError):
            self.protocol.write_messages(OPCODE_TEXT, [b"late"])


@pytest.fixture
async def served() -> AsyncIterator[tuple[App, int]]:
    app = App()
    listening = socket.create_server(("127.0.0.1", 0))
    config = TurnwireConfig(
        app, door=Door(DoorLimits()), ws=TurnwireProtocol, ws_ping_interval=0.2, ws_ping_timeout=0.2
    )
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    yield app, listening.getsockname()[1]
    server.should_exit = True
    await serving
    listening.close()


async def test_messages_of_every_length_arrive_whole(served: tuple[App, int]) -> None:
    _, port = served
    async with connect(f"ws://127.0.0.1:{port}/", max_size=None) as peer:
        assert [len(await peer.recv()) for _ in LENGTHS] == list(LENGTHS)
        assert await peer.recv() == "ü"


def test_headers_are_those_of_rfc_6455() -> None:
    assert frame_header(OPCODE_TEXT, 125) == b"\x81\x7d"
    assert frame_header(OPCODE_BINARY, 126) == b"\x82\x7e\x00\x7e"
    assert frame_header(OPCODE_BINARY, 65_536) == b"\x82\x7f" + (65_536).to_bytes(8, "big")


async def test_a_peer_that_sends_no_pong_is_closed_with_4510(served: tuple[App, int]) -> None:
    _, port = served
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    key = base64.b64encode(os.urandom(16)).decode()
    writer.write(
        f"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: {key}\r\n"
        "Sec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    try:
        said = await asyncio.wait_for(reader.read(), 10)  # to the end of the connection
    finally:
        writer.close()
    ping = said.rindex(b"\x89\x04")
    close = said[ping + 6 :]
    assert close[0] == 0x88
    assert int.from_bytes(close[2:4], "big") == 4510


async def test_an_aborted_connection_is_gone_at_once(served: tuple[App, int]) -> None:
    app, port = served
    async with connect(f"ws://127.0.0.1:{port}/", max_size=None) as peer:
        await peer.recv()
        assert app.protocol is not None
        app.protocol.abort()
        with pytest.raises(ConnectionClosed):
            while True:
                await peer.recv()
        assert peer.close_code == 1006
