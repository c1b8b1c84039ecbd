"""A user at a WebSocket, frame by frame."""

import asyncio
import json
from typing import Any

from websockets.asyncio.client import ClientConnection, connect

from tests.support.processes import NodeProcess
from tests.support.tokens import shared

Json = dict[str, Any]
PATIENCE_S = 30


class Peer:
    """A user's connection. `ask` sends a command and collects what comes up to its answer."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.welcome: Json = {}
        self._asked = 0

    @classmethod
    async def of(cls, node: NodeProcess, user: str, **claims: Any) -> "Peer":
        """Greeted, with a token of the shared secret."""
        peer = cls(await connect(node.url, compression=None, max_size=None))
        peer.welcome = (await peer.ask("hello", token=shared(user, **claims)))[-1]
        if peer.welcome.get("user") != user:
            await peer.socket.close()
            raise AssertionError(peer.welcome)
        return peer

    async def receive(self) -> Json:
        return json.loads(await asyncio.wait_for(self.socket.recv(), PATIENCE_S))

    async def send(self, kind: str, **fields: Any) -> str:
        """The id that the answer will name: i1, i2, ..."""
        self._asked += 1
        id = f"i{self._asked}"
        await self.socket.send(json.dumps({"type": kind, "id": id, **fields}))
        return id

    async def ask(self, kind: str, **fields: Any) -> list[Json]:
        return await self._up_to_answer(await self.send(kind, **fields))

    async def answer_to(self, id: str) -> Json:
        return (await self._up_to_answer(id))[-1]

    async def until(self, kind: str, **fields: Any) -> list[Json]:
        frames = [await self.receive()]
        while not (frames[-1]["type"] == kind and fields.items() <= frames[-1].items()):
            frames.append(await self.receive())
        return frames

    async def _up_to_answer(self, id: str) -> list[Json]:
        frames = [await self.receive()]
        while frames[-1].get("reply_to") != id:
            frames.append(await self.receive())
        return frames
