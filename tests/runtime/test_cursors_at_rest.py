"""Connections whose session is deleted under them, in every way that a deletion can come to a cursor.

The socket is a list; everything behind it is a real node on a real store, and every frame is held to the rules.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.runtime.test_backend import MODELS
from tests.stores.making import SETTLED, quotas_beside
from tests.stores.server import StoreServer
from tests.support.waiting import until
from turnwire.app import Node, SystemClock
from turnwire.core.entries import Delta, Logged
from turnwire.identity.anonymous import USER
from turnwire.ports import SessionKey, SessionView
from turnwire.settings import Settings
from turnwire.stores.redis.link import Link
from turnwire.stores.redis.log import RedisSessionLog
from turnwire_protocol.codec import JSON
from turnwire_protocol.grammar import History, Verifier

SESSION = SessionKey(USER, "s1")
OPEN: dict[str, Any] = {"type": "session.open", "session": "s1"}
STALL: dict[str, Any] = {
    "type": "turn.create",
    "session": "s1",
    "turn": "t1",
    "model": "demo/stall",
    "input": [{"type": "text", "text": "hi"}],
}


class Client:
    """runtime.sender.Socket, and what a test says and hears by it."""

    def __init__(self, history: History) -> None:
        self.frames: list[dict[str, Any]] = []
        self._verifier = Verifier(history)
        self._sent: asyncio.Queue[bytes] = asyncio.Queue()

    def say(self, **frame: Any) -> None:
        self._verifier.client_sent(frame)
        self._sent.put_nowait(JSON.encode(frame))

    async def heard(self, kind: str, **fields: Any) -> dict[str, Any]:
        """The newest frame of this kind with these fields, once it has come."""

        def found() -> list[dict[str, Any]]:
            return [frame for frame in self.frames if frame["type"] == kind and fields.items() <= frame.items()]

        await until(found)
        return found()[-1]

    async def receive(self) -> str | bytes:
        return (await self._sent.get()).decode()

    def write(self, messages: Sequence[bytes]) -> bool:
        for message in messages:
            frame = JSON.decode_object(message.decode())
            self._verifier.server_sent(frame)
            self.frames.append(frame)
        return True

    async def drained(self) -> None: ...
    async def close(self, code: int) -> None: ...
    def abort(self) -> None: ...


class Served:
    """A node that acts on nudges only when a test gives them. `views` counts reads of whole sessions."""

    def __init__(self, log: RedisSessionLog, monkeypatch: pytest.MonkeyPatch) -> None:
        self.views = 0
        self.history = History()
        self.node = Node(Settings(turns_running_max=1), log, quotas_beside(log), MODELS, SystemClock())
        read_view = log.read_view

        async def counted(*arguments: Any) -> SessionView:
            self.views += 1
            return await read_view(*arguments)

        monkeypatch.setattr(log, "read_view", counted)

    @asynccontextmanager
    async def client(self) -> AsyncGenerator[Client]:
        client = Client(self.history)
        driver = self.node._make_driver(client, JSON, None, "")
        running = asyncio.create_task(driver.run())
        client.say(type="hello", id="h")
        await client.heard("welcome")
        yield client
        assert not running.done(), running
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


@pytest.fixture
async def served(server: StoreServer, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Served]:
    async with RedisSessionLog(Link(server.url), node="here", limits=SETTLED) as log:
        served = Served(log, monkeypatch)
        journal = asyncio.create_task(served.node.journal.run())
        yield served
        await served.node.running.abandon()
        journal.cancel()
        await asyncio.gather(journal, return_exceptions=True)


async def test_who_stands_at_the_head_is_told_and_may_create_elsewhere_at_once(served: Served) -> None:
    async with served.client() as client:
        client.say(**OPEN, id="o")
        client.say(**STALL, id="c")
        await client.heard("turn.started")
        client.say(**{**STALL, "session": "s2"}, id="limited")
        assert (await client.heard("error", reply_to="limited"))["error"]["code"] == "rate_limited"
        await served.node.backend.delete_session(SESSION)
        deleted = await client.heard("session.deleted")
        assert deleted["seq"] == 3 and "turn" not in deleted
        client.say(**{**STALL, "session": "s2"}, id="free")
        await client.heard("ack", reply_to="free")


async def test_who_opens_a_deleted_session_beside_its_readers_finds_none_and_rests(served: Served) -> None:
    async with served.client() as told, served.client() as late:
        told.say(**OPEN, id="o")
        told.say(**STALL, id="c")
        await told.heard("turn.started")
        await served.node.backend.delete_session(SESSION)
        await told.heard("session.deleted")
        views = served.views
        for number in range(3):
            late.say(**OPEN, id=f"o{number}")
            opened = await late.heard("session.opened", reply_to=f"o{number}")
            assert (opened["gen"], opened["seq"], opened["turns"]) == (None, 0, 0)
        late.say(type="ping", id="p")
        await late.heard("pong")
        assert served.views == views + 3
        assert [frame["type"] for frame in late.frames[1:]] == ["session.opened"] * 3 + ["pong"]


async def test_a_reader_whose_nudge_was_lost_gets_an_empty_session_unasked(
    served: Served, other: RedisSessionLog
) -> None:
    async with served.client() as client:
        client.say(**OPEN, id="o")
        client.say(**STALL, id="c")
        await client.heard("turn.started")
        await other.delete_session(SESSION, "n")
        served.node.hub.catch_up(served.node.hub._feeds[SESSION])
        opened = await client.heard("session.opened", gen=None, seq=0, mode="snapshot", turns=0)
        await until(lambda: client.frames[-1].get("gen", "") is None)
        assert "reply_to" not in client.frames[-1] and opened["turn"] is None
        served.node.running.cancel(SESSION.turn("t1"), "delete")
        client.say(**{**STALL, "session": "s2"}, id="free")
        await client.heard("ack", reply_to="free")


async def test_an_append_that_is_told_after_its_sessions_end_makes_nobody_read_again_and_again(
    served: Served, other: RedisSessionLog
) -> None:
    async with served.client() as client:
        client.say(**OPEN, id="o")
        client.say(**STALL, id="c")
        await client.heard("turn.started")
        await other.delete_session(SESSION, "n")
        feed = served.node.hub._feeds[SESSION]
        served.node.hub.catch_up(feed)
        await until(lambda: client.frames[-1].get("gen", "") is None)
        views = served.views

        served.node.hub.feed(SESSION, "a_gen_of_before", [Logged(9, 9, Delta("t1", 0, "text", "late"))])

        await until(lambda: feed.gen is None and served.views > views)
        client.say(type="ping", id="p")
        await client.heard("pong")
        assert served.views <= views + 2
        assert not [frame for frame in client.frames if frame["type"] == "turn.delta"]
