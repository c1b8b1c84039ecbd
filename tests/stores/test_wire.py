"""One connection: order, cancelled callers, errors, losses, lateness."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.stores.server import StoreServer
from turnwire.stores.redis import wire as wire_module
from turnwire.stores.redis.link import Link
from turnwire.stores.redis.wire import LOST, StoreError, Wire

Answering = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any]


@asynccontextmanager
async def wire_to(answering: Answering, tmp_path: Any, *, timeout_ms: int = 5_000) -> AsyncGenerator[Wire]:
    """A wire to a server that answers whatever the test wants."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await answering(reader, writer)
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_unix_server(serve, tmp_path / "w")
    lost = asyncio.Event()
    loop = asyncio.get_running_loop()
    _, wire = await loop.create_unix_connection(
        lambda: Wire(timeout_ms=timeout_ms, on_lost=lost.set), str(tmp_path / "w")
    )
    try:
        yield wire
    finally:
        wire.close()
        server.close()
        async with asyncio.timeout(5):
            await lost.wait()
            await server.wait_closed()


async def test_replies_come_to_whoever_asked_also_when_callers_are_cancelled(server: StoreServer) -> None:
    wire = await Link(server.url).connect("test")
    try:
        calls = [asyncio.create_task(wire.call([("ECHO", str(n)), ("ECHO", f"again {n}")])) for n in range(300)]
        await asyncio.sleep(0)
        for call in calls[::3]:
            call.cancel()

        replies = await asyncio.gather(*calls, return_exceptions=True)

        for number, reply in enumerate(replies):
            if number % 3 == 0:
                assert isinstance(reply, asyncio.CancelledError)
            else:
                assert reply == [str(number).encode(), f"again {number}".encode()]
    finally:
        wire.close()


async def test_an_error_is_a_reply_like_any_other(server: StoreServer) -> None:
    wire = await Link(server.url).connect("test")
    try:
        replies = await wire.call([("PING",), ("NONSENSE",), ("ECHO", "x")])
    finally:
        wire.close()

    assert (replies[0], replies[2]) == (b"PONG", b"x")
    assert isinstance(replies[1], StoreError)
    assert replies[1].code == "ERR"


async def test_what_was_answered_before_a_loss_stands_and_the_rest_is_lost(tmp_path: Any) -> None:
    async def half(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"PING\r\n")
        writer.write(b"+PONG\r\n$2\r\nh")

    async with wire_to(half, tmp_path) as wire:
        assert await wire.call([("PING",), ("PING",), ("PING",)]) == [b"PONG", LOST, LOST]
        assert wire.lost
        assert await wire.call([("PING",)]) == [LOST]
        assert await wire.call([]) == []
        wire.send([("PING",)])


@pytest.mark.parametrize("answer", [b"what is this\r\n", b"+PONG\r\n+PONG\r\n"], ids=["no RESP", "one too many"])
async def test_an_answer_that_cannot_be_trusted_ends_the_connection(tmp_path: Any, answer: bytes) -> None:
    async def nonsense(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"PING\r\n")
        writer.write(answer)
        await reader.read()

    async with wire_to(nonsense, tmp_path) as wire:
        (first,) = await wire.call([("PING",)])
        assert first == (b"PONG" if answer.startswith(b"+") else LOST)
        assert await wire.call([("PING",)]) == [LOST]


async def test_a_reply_that_is_late_ends_the_connection(tmp_path: Any) -> None:
    async def silence(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"PING\r\n")
        writer.write(b"+PONG\r\n")
        await reader.read()

    async with wire_to(silence, tmp_path, timeout_ms=60) as wire:
        assert await wire.call([("PING",)]) == [b"PONG"]
        # The clock of the second call runs from its own beginning.
        began = asyncio.get_running_loop().time()
        assert await wire.call([("PING",)]) == [LOST]
        assert asyncio.get_running_loop().time() - began > 0.05


async def test_only_so_many_calls_may_wait(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire_module, "OUTSTANDING_CALLS_MAX", 3)

    async def silence(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with wire_to(silence, tmp_path) as wire:
        waiting = [asyncio.create_task(wire.call([("PING",)])) for _ in range(3)]
        await asyncio.sleep(0)
        assert await wire.call([("PING",)]) == [LOST]
        wire.close()
        assert await asyncio.gather(*waiting) == [[LOST]] * 3
