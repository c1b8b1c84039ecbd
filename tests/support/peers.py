"""A user's connection that says what a test tells it to, frame by frame, and keeps what comes back."""

import asyncio
import json
from contextlib import suppress
from typing import Any, Self

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.support.processes import NodeProcess
from tests.support.tokens import shared

Json = dict[str, Any]

PATIENCE_S = 30


class Peer:
    """`ask` sends a command and collects what comes up to its answer."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.welcome: Json = {}
        self._asked = 0

    @classmethod
    async def of(cls, node: NodeProcess, user: str, **claims: Any) -> Self:
        """Connected as a user, by a token of a secret that the node shares."""
        peer = await cls.bearing(node, shared(user, **claims))
        assert peer is not None
        return peer

    @classmethod
    async def bearing(cls, node: NodeProcess, token: str) -> Self | None:
        """Connected with a token in hello; None where it is nobody's."""
        # However much it leaves unread, it still hears of the end.
        peer = cls(await connect(node.url, compression=None, max_size=None, max_queue=None))
        with suppress(ConnectionClosed):
            peer.welcome = await peer.answer("hello", token=token)
            if peer.welcome["type"] == "welcome":
                return peer
        await peer.socket.close()
        return None

    async def receive(self) -> Json:
        return json.loads(await asyncio.wait_for(self.socket.recv(), PATIENCE_S))

    async def send(self, kind: str, **fields: Any) -> str:
        """The id that the answer will name."""
        self._asked += 1
        id = f"i{self._asked}"
        await self.socket.send(json.dumps({"type": kind, "id": id, **fields}))
        return id

    async def up_to_answer(self, id: str) -> list[Json]:
        """What comes up to the answer of a command that was sent."""
        frames = [await self.receive()]
        while frames[-1].get("reply_to") != id:
            frames.append(await self.receive())
        return frames

    async def ask(self, kind: str, **fields: Any) -> list[Json]:
        return await self.up_to_answer(await self.send(kind, **fields))

    async def answer(self, kind: str, **fields: Any) -> Json:
        """The one frame that answers."""
        return (await self.ask(kind, **fields))[-1]

    async def until(self, kind: str, **fields: Any) -> list[Json]:
        frames = [await self.receive()]
        while not (frames[-1]["type"] == kind and fields.items() <= frames[-1].items()):
            frames.append(await self.receive())
        return frames

    async def closed_with(self) -> tuple[int, str]:
        """The close code, and the code of the error before it."""
        last: Json = {}
        try:
            while True:
                last = await self.receive()
        except ConnectionClosed as closed:
            return (closed.rcvd.code if closed.rcvd else 1006), last.get("error", {}).get("code", "")
