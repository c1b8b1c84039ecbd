"""The proxy that cuts: what goes through, what is refused, and that a cut is a reset."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.support.cutting_proxy import CuttingProxy
from tests.support.waiting import until


@pytest.fixture
async def echo_port() -> AsyncIterator[int]:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(1000):
                writer.write(data)
        except ConnectionResetError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()


async def connect(proxy: CuttingProxy, line: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection(*proxy.http_url.removeprefix("http://").split(":"))
    writer.write(line)
    return reader, writer


async def test_it_passes_on_and_cuts_websockets_only(echo_port: int) -> None:
    async with CuttingProxy(echo_port) as proxy:
        page, socket = await connect(proxy, b"GET / HTTP/1.1\n"), await connect(proxy, b"GET /v1/ws HTTP/1.1\n")
        assert await page[0].readline() == b"GET / HTTP/1.1\n"
        assert await socket[0].readline() == b"GET /v1/ws HTTP/1.1\n"
        assert proxy.websockets == proxy.cut() == 1
        with pytest.raises(ConnectionResetError):
            await socket[0].read()
        await until(lambda: proxy.websockets == 0)
        page[1].write(b"still here\n")
        assert await page[0].readline() == b"still here\n"
        for _, writer in (page, socket):
            writer.close()


async def test_it_refuses_websockets_while_told_to_and_leads_elsewhere(echo_port: int) -> None:
    async with CuttingProxy(1) as proxy:
        proxy.refusing = True
        reader, writer = await connect(proxy, b"GET /v1/ws HTTP/1.1\n")
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.close()
        assert (proxy.refused, proxy.websockets) == (1, 0)
        proxy.refusing = False
        proxy.target_port = echo_port
        reader, writer = await connect(proxy, b"GET /v1/ws HTTP/1.1\n")
        assert await reader.readline() == b"GET /v1/ws HTTP/1.1\n"
        writer.close()
