"""The proxy that breaks things: each way of breaking, for its kind of connection and for no other."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.support.sentinel_group import kind_of
from tests.support.tcp_proxy import TcpProxy
from tests.support.waiting import until

Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Echo:
    """A server that says everything back, and what it was said."""

    def __init__(self) -> None:
        self.heard = b""
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(1000):
                self.heard += data
                writer.write(data)
        except ConnectionResetError:
            pass
        finally:
            writer.close()


@pytest.fixture
async def echo() -> AsyncIterator[Echo]:
    echo = Echo()
    server = await asyncio.start_server(echo.serve, "127.0.0.1", 0)
    echo.port = server.sockets[0].getsockname()[1]
    yield echo
    server.close()


@pytest.fixture
async def proxy(echo: Echo) -> AsyncIterator[TcpProxy]:
    async with TcpProxy(echo.port, lambda head: head.split(b" ")[0].decode() if b" " in head else None) as proxy:
        yield proxy


async def connected(proxy: TcpProxy, kind: str) -> Ends:
    """A connection of this kind that works."""
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    await answered((reader, writer), f"{kind} hello\n".encode())
    return reader, writer


async def answered(ends: Ends, line: bytes = b"hello\n") -> None:
    ends[1].write(line)
    async with asyncio.timeout(10):
        assert await ends[0].readline() == line


async def is_reset(ends: Ends) -> None:
    async with asyncio.timeout(10):
        with pytest.raises(ConnectionResetError):
            await ends[0].read()
    ends[1].close()


async def test_a_cut_resets_its_kind_alone(proxy: TcpProxy) -> None:
    one, other = await connected(proxy, "one"), await connected(proxy, "other")
    assert (proxy.count("one"), proxy.cut("one")) == (1, 1)
    await is_reset(one)
    await answered(other)
    await until(lambda: proxy.count("one") == 0)
    other[1].close()


async def test_a_request_is_cut_off_before_it_arrives_and_a_reply_after_it_did(proxy: TcpProxy, echo: Echo) -> None:
    for way, arrives in (("onward", False), ("back", True)):
        ends = await connected(proxy, "one")
        echo.heard = b""
        cut = proxy.cut_next("onward" if way == "onward" else "back", "one")
        ends[1].write(b"request\n")
        await is_reset(ends)
        assert cut.is_set()
        await until(lambda arrives=arrives: (echo.heard == b"request\n") is arrives)
        again = await connected(proxy, "one")  # one cut, and no other
        again[1].close()


async def test_what_is_swallowed_never_comes_and_healing_resets_only_who_lost_something(
    proxy: TcpProxy, echo: Echo
) -> None:
    losing, quiet, other = await connected(proxy, "one"), await connected(proxy, "one"), await connected(proxy, "other")
    proxy.rule("one").swallow = frozenset(("back",))
    losing[1].write(b"into the void\n")
    await until(lambda: echo.heard.endswith(b"into the void\n"))  # it arrives: only the answer is lost
    await answered(other)
    losing[1].write(b"once more\n")
    await until(lambda: echo.heard.endswith(b"once more\n"))
    proxy.heal("one")
    await is_reset(losing)
    await answered(quiet)
    for ends in (quiet, other):
        ends[1].close()


async def test_a_refused_kind_never_arrives(proxy: TcpProxy, echo: Echo) -> None:
    proxy.rule("one").refuse = True
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    writer.write(b"one hello\n")
    await is_reset((reader, writer))
    assert (proxy.refused, echo.heard) == (1, b"")
    proxy.heal("one")
    assert proxy.rule("one").refuse
    proxy.rule("one").refuse = False
    ends = await connected(proxy, "one")
    ends[1].close()


async def test_what_is_delayed_comes_in_its_order(proxy: TcpProxy) -> None:
    reader, writer = await connected(proxy, "one")
    proxy.rule("one").delay_ms = 20
    writer.write(b"a\n")
    writer.write(b"b\n")
    async with asyncio.timeout(10):
        assert [await reader.readline(), await reader.readline()] == [b"a\n", b"b\n"]
    writer.close()


async def test_without_a_target_it_resets(proxy: TcpProxy) -> None:
    proxy.target_port = 1
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    writer.write(b"one hello\n")
    await is_reset((reader, writer))


def resp(*words: str) -> bytes:
    return b"".join([b"*%d\r\n" % len(words), *(b"$%d\r\n%b\r\n" % (len(word), word.encode()) for word in words)])


@pytest.mark.parametrize(
    ("commands", "kind"),
    [
        ([resp("PING")], None),
        ([resp("PING"), resp("REPLCONF", "listening-port", "1")], "replica"),
        ([resp("PING"), resp("PSYNC", "?", "-1")], "replica"),
        ([resp("CLIENT", "SETNAME", "sentinel-0a1b2c3d-cmd")], "sentinel"),
        ([resp("HELLO", "3", "SETNAME", "turnwire-appends")], "client"),
        ([b"x" * 500], "client"),
    ],
)
def test_a_store_s_connections_are_told_apart(commands: list[bytes], kind: str | None) -> None:
    assert kind_of(b"".join(commands)) == kind
