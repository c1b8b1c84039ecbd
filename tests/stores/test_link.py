"""Addresses, what is demanded of a store, and connections that come back."""

import asyncio
import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from tests.stores.making import key, request
from tests.stores.server import StoreServer
from turnwire.core.log_values import Nudge
from turnwire.ports import Failure
from turnwire.stores.redis.address import Sentinels, StartError, address_of
from turnwire.stores.redis.link import Lane, Link
from turnwire.stores.redis.log import RedisSessionLog

CERTIFICATE = Path(__file__).parents[1] / "support/untrusted.pem"


def test_an_address_is_read_from_its_url() -> None:
    plain = address_of("redis://me:s%20ecret@store.example:6380/3")
    assert (plain.host, plain.port, plain.db, plain.username, plain.password) == (
        "store.example",
        6380,
        3,
        "me",
        "s ecret",
    )
    assert (plain.tls, plain.path, plain.described) == (None, None, "store.example:6380")
    unix = address_of("unix:///a%20b/s?db=2")
    assert (unix.path, unix.db, unix.described) == ("/a b/s", 2, "/a b/s")
    assert (address_of("redis://").host, address_of("redis://").port) == ("localhost", 6379)
    secure = address_of("rediss://store.example?ssl_cert_reqs=none").tls
    assert secure is not None
    assert secure.verify_mode == ssl.CERT_NONE
    default = address_of("rediss://store.example").tls
    assert default is not None
    assert default.verify_mode == ssl.CERT_REQUIRED


def test_an_address_may_be_the_sentinels() -> None:
    found = address_of("redis+sentinel://me:s%20ecret@a.example:26380,b.example,[::1]:7/my%20store/3")
    assert found.sentinels == Sentinels(
        (("a.example", 26_380), ("b.example", 26_379), ("::1", 7)), "my store", None, None
    )
    assert (found.db, found.username, found.password, found.tls) == (3, "me", "s ecret", None)
    assert found.described == "my store of the Sentinels a.example:26380, b.example:26379, ::1:7"
    secure = address_of("rediss+sentinel://a/m?sentinel_username=u&sentinel_password=p&ssl_cert_reqs=none")
    assert secure.sentinels == Sentinels((("a", 26_379),), "m", "u", "p")
    assert secure.tls is not None and secure.tls.verify_mode == ssl.CERT_NONE


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("redis+sentinel://a.example", "NAME_OF_THE_MASTER"),
        ("redis+sentinel:///m", "NAME_OF_THE_MASTER"),
        ("redis+sentinel://a:x/m", "'a:x' is no host:port"),
        ("redis+sentinel://a:70000/m", "is no host:port"),
        ("redis+sentinel://a,/m", "is no host:port"),
        ("redis+sentinel://a/m/x", "cannot be read"),
        ("redis+sentinel://a/m?retries=3", "not known: retries"),
        ("http://store.example", "must begin with redis://"),
        ("redis://store.example?retries=3", "not known: retries"),
        ("redis://store.example?db=x", "cannot be read"),
        ("rediss://store.example?ssl_ca_certs=/nowhere", "TLS files"),
        ("rediss://store.example?ssl_certfile=/nowhere", "TLS files"),
    ],
)
def test_an_address_that_cannot_be_used_says_why(url: str, said: str) -> None:
    with pytest.raises(StartError, match=said):
        address_of(url)


async def test_a_store_that_is_not_there_is_said_so_at_start(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"cannot be used: FileNotFoundError at .*nowhere"):
        async with RedisSessionLog(Link(f"unix://{tmp_path}/nowhere"), node="here"):
            pass


async def test_a_store_that_would_forget_turns_is_refused(server: StoreServer) -> None:
    with server.client() as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        async with RedisSessionLog(Link(server.url), node="here") as log:  # without a limit nothing is evicted
            assert log.version.startswith(("Redis 7", "Valkey 9", "Redis 8"))
        client.config_set("maxmemory", "100mb")
    with pytest.raises(StartError, match="set it to noeviction"):
        async with RedisSessionLog(Link(server.url), node="here"):
            pass


async def test_a_password_is_needed_where_the_store_wants_one(own_server: StoreServer) -> None:
    with own_server.client() as client:
        client.config_set("requirepass", "s ecret")
    with pytest.raises(StartError, match=r"refused at .*HELLO|NOAUTH"):
        await Link(own_server.url).check()

    path = own_server.socket
    assert await Link(f"unix://:s%20ecret@{path}?db=3").check()
    async with RedisSessionLog(Link(f"unix://:s%20ecret@{path}?db=3"), node="here") as log:
        await log.accept_turn(request())


async def test_an_old_store_is_refused(server: StoreServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("turnwire.stores.redis.link.VERSION_MIN", (99, 0))

    with pytest.raises(StartError, match=r"is (Redis|Valkey) .*; Redis 7.0 or Valkey is needed"):
        await Link(server.url).check()


async def test_callers_share_one_attempt_to_connect_which_outlives_a_cancelled_one(server: StoreServer) -> None:
    lane = Lane(Link(server.url), "test")
    try:
        calls = [asyncio.create_task(lane.one(("ECHO", str(number)))) for number in range(5)]
        await asyncio.sleep(0)
        calls[0].cancel()

        replies = await asyncio.gather(*calls, return_exceptions=True)

        assert isinstance(replies[0], asyncio.CancelledError)
        assert replies[1:] == [b"1", b"2", b"3", b"4"]
        with server.client() as client:
            names = [found["name"] for found in client.client_list()]
        assert names.count("turnwire-test") == 1
    finally:
        await lane.aclose()


async def test_a_lane_connects_again_after_a_loss_but_sends_nothing_twice(server: StoreServer) -> None:
    lane = Lane(Link(server.url), "test")
    try:
        await lane.one(("PING",))
        with server.client() as client:
            for found in client.client_list():
                if found["name"] == "turnwire-test":
                    client.client_kill_filter(_id=found["id"])
        with pytest.raises(Failure) as failure:
            await lane.one(("INCR", "n"))
        assert failure.value.kind == "store_away"

        assert await lane.one(("INCR", "n")) == 1
    finally:
        await lane.aclose()


async def test_closing_a_lane_ends_its_attempt_to_connect(tmp_path: Path) -> None:
    async def never(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    silent = await asyncio.start_unix_server(never, tmp_path / "s")
    async with silent:
        lane = Lane(Link(f"unix://{tmp_path}/s"), "test")
        call = asyncio.create_task(lane.one(("PING",)))
        await asyncio.sleep(0)
        await lane.aclose()
        with pytest.raises(asyncio.CancelledError):
            await call


async def test_an_answer_of_the_wrong_kind_is_a_fault_of_ours(server: StoreServer) -> None:
    lane = Lane(Link(server.url), "test")
    try:
        await lane.one(("SET", "text", "x"))
        with pytest.raises(Failure) as failure:
            await lane.one(("LPUSH", "text", "x"))
        assert failure.value.kind == "internal"
    finally:
        await lane.aclose()


@asynccontextmanager
async def relay_to(socket: Path, tls: ssl.SSLContext | None) -> AsyncGenerator[int]:
    """A TCP port that leads to the store, with TLS where asked."""

    serving: set[asyncio.Task[None] | None] = set()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65_536):
                writer.write(data)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.add(asyncio.current_task())
        far_reader, far_writer = await asyncio.open_unix_connection(socket)
        pumps = [asyncio.create_task(pump(reader, far_writer)), asyncio.create_task(pump(far_reader, writer))]
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        for end in (writer, far_writer):
            end.transport.abort()
        await asyncio.gather(*pumps)

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        async with asyncio.timeout(5):
            await asyncio.gather(*(task for task in serving if task is not None))
            await server.wait_closed()


@pytest.mark.parametrize("scheme", ["redis", "rediss"])
async def test_a_store_is_reached_over_tcp_with_and_without_tls(server: StoreServer, scheme: str) -> None:
    tls = None
    if scheme == "rediss":
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(CERTIFICATE)
    async with relay_to(server.socket, tls) as port:
        if tls is not None:
            with pytest.raises(StartError, match="SSLCertVerificationError"):
                await Link(f"rediss://127.0.0.1:{port}").check()
        trust = f"?ssl_ca_certs={CERTIFICATE}" if tls is not None else ""
        async with RedisSessionLog(Link(f"{scheme}://127.0.0.1:{port}{trust}"), node="here") as log:
            await log.watch(key().session_key)
            gen = (await log.accept_turn(request())).gen
            assert await anext(log.nudges()) == Nudge("grown", key().session_key, gen, 1)


async def test_a_store_that_leaves_while_it_is_opened_is_said_so(
    server: StoreServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = RedisSessionLog(Link(server.url), node="here")

    async def away() -> None:
        raise Failure("store_away", "gone")

    monkeypatch.setattr(log._nudges, "open", away)

    with pytest.raises(StartError, match="went away while it was being opened: gone"):
        await log.__aenter__()
