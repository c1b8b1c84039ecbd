"""Hostile input 1 to 8 of docs/security.md: pages, tokens, heads and herds at the door of a real server."""

import asyncio
import json
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import aiohttp
import jwt
import pytest
import pytest_asyncio
from aiohttp import web
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from tests.identity.bad_tokens import DEMANDING, DEMANDS, NOBODYS, nested, signed_with_the_public_key, unsigned
from tests.identity.look_alikes import LOOK_ALIKES
from tests.security.slack import Slack
from tests.support.by_hand import Opened, asked, dialled, opened, told_to_close
from tests.support.peers import Peer
from tests.support.processes import NodeProcess, end_store
from tests.support.serving import handshake, read_all
from tests.support.tokens import SECRET, Issuer, claims, key_set, shared
from tests.support.waiting import until
from turnwire import admin
from turnwire.identity.api_keys import ALGORITHM, ISSUER, NewKey
from turnwire.settings import Settings

pytestmark = pytest.mark.asyncio(loop_scope="module")

SERVER = Path(__file__).parents[2] / "server" / "turnwire"

NODE = {
    "TURNWIRE_AUTH": "jwt",
    "TURNWIRE_JWT_SECRET": SECRET,
    "TURNWIRE_DRAIN_MS": "0",
    "TURNWIRE_ALLOWED_ORIGINS": "https://app.example.com",
    "TURNWIRE_LOG_LEVEL": "debug",
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def node(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[NodeProcess]:
    async with NodeProcess.started(tmp_path_factory.mktemp("node"), NODE) as started:
        yield started


@pytest_asyncio.fixture(loop_scope="module")
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def by_hand(node: NodeProcess, headers: bytes = b"", **options: Any) -> Opened:
    return await asyncio.to_thread(opened, node.port, headers, **options)


async def refused(node: NodeProcess, token: str) -> None:
    """A token is nobody's at each of the three doors, as far as it can be said there at all."""
    call = f"GET /v1/sessions HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nAuthorization: Bearer {token}\r\n\r\n"
    answered = await asyncio.to_thread(asked, node.port, call.encode())
    assert answered[:13] in (b"HTTP/1.1 401 ", b"HTTP/1.1 400 ", b""), token[:60]  # the latter two: over any head
    with suppress(ConnectionClosed):
        async with connect(node.url, compression=None) as plain:
            assert_nobodys(await Peer(plain).answer("hello", token=token))
    with suppress(ConnectionClosed, InvalidStatus, ValueError):  # ValueError: no subprotocol of that text
        offered = [Subprotocol("turnwire.v1.json"), Subprotocol(f"turnwire.bearer.{token}")]
        async with connect(node.url, compression=None, subprotocols=offered) as offering:
            assert_nobodys(await Peer(offering).answer("hello"))


def assert_nobodys(answer: dict[str, Any]) -> None:
    assert answer["type"] == "error" and answer["error"]["code"] in ("unauthenticated", "bad_frame")


# --- 1 ----------------------------------------------------------------------------------------------------------------

FOREIGN = [origin for origin in LOOK_ALIKES if origin == origin.strip()]
"""Those that a header can say: white space around a value belongs to the header."""


@pytest.mark.parametrize("origin", FOREIGN)
async def test_01_foreign_origin_with_a_cookie_is_refused_before_the_upgrade(node: NodeProcess, origin: str) -> None:
    token = shared().encode()
    credentials = b"Cookie: token=%b; session=%b\r\nAuthorization: Bearer %b\r\n" % (token, token, token)
    line = b"Origin: %b\r\n" % origin.encode()
    with await by_hand(node, line + credentials) as answer:
        assert answer.status == 403
        assert b"101" not in answer.head and b"access-control" not in answer.head.lower()
    request = b"GET /v1/sessions HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n%b%b\r\n" % (line, credentials)
    said = await asyncio.to_thread(asked, node.port, request)
    assert said.startswith(b"HTTP/1.1 403 ") and b"access-control-allow" not in said.lower()


async def test_01_two_origins_are_none_and_without_one_only_a_token_lets_in(node: NodeProcess) -> None:
    good = b"Origin: https://app.example.com\r\n"
    with await by_hand(node, good) as answer:
        assert answer.status == 101
    with await by_hand(node, good * 2) as answer:
        assert answer.status in (400, 403)
    cookie = {"Cookie": f"token={shared()}; authorization=Bearer {shared()}"}
    peer = Peer(await connect(node.url, additional_headers=cookie))
    with suppress(ConnectionClosed):
        await peer.ask("hello")
    assert (await peer.closed_with())[0] == 4401
    peer = Peer(await connect(node.url, additional_headers={"Authorization": f"Bearer {shared('carol')}"}))
    assert (await peer.answer("hello"))["user"] == "carol"
    await peer.socket.close()


# --- 2 ----------------------------------------------------------------------------------------------------------------


async def test_02_a_token_in_the_address_is_refused_and_in_no_log(
    node: NodeProcess, http: aiohttp.ClientSession
) -> None:
    token = shared("query-canary")
    good = {"Authorization": f"Bearer {shared()}"}
    for name in ("token", "access_token", "api_key", "Authorization", "jwt"):
        peer = Peer(await connect(f"{node.url}?{name}={token}", additional_headers=good))
        assert await peer.closed_with() == (4401, "unauthenticated")
        async with http.get(f"{node.http_url}/v1/sessions?{name}={token}", headers=good) as answer:
            assert answer.status == 400 and token not in await answer.text()
    peer = Peer(await connect(f"{node.url}?{token}", additional_headers=good))
    assert await peer.closed_with() == (4401, "unauthenticated")
    # What a server of the same kind would log by itself: a path that is none, and a request that is none.
    for line in (b"GET /nothing?token=%b HTTP/1.1", b"GET  /v1/ws?token=%b", b"BREW /v1/ws?token=%b HTTP/1.1"):
        await asyncio.to_thread(
            asked, node.port, line % token.encode() + b"\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
        )
    before = node.output.read_bytes().count(b"token_refused")
    assert await Peer.bearing(node, "nobodys") is None
    await until(lambda: node.output.read_bytes().count(b"token_refused") > before)
    log = node.output.read_bytes()
    assert token.encode() not in log and b"query-canary" not in log and b"?" not in log


# --- 3 ----------------------------------------------------------------------------------------------------------------

HOSTILE_TOKENS = {
    **{name: token for name, (token, demands) in NOBODYS.items() if demands is DEMANDS and token},
    **{f"unsigned, {algorithm!r}": unsigned(algorithm) for algorithm in ("none", "None", "NONE", "", None)},
    **{f"demanding {number}": token for number, token in enumerate(DEMANDING)},
    **{f"nested {depth}, {number}": token for depth in (1_000, 5_900) for number, token in enumerate(nested(depth))},
}


@pytest.mark.parametrize("name", HOSTILE_TOKENS)
async def test_03_a_forged_or_broken_token_is_nobodys(node: NodeProcess, name: str) -> None:
    await refused(node, HOSTILE_TOKENS[name])


async def test_03_a_public_key_and_another_issuers_or_audiences_token_open_nothing(tmp_path: Path) -> None:
    issuer, other = Issuer("RS256"), Issuer("RS256")
    named: dict[str, Any] = {"iss": "https://id.example/", "aud": "chat"}
    application = web.Application()

    async def keys(_: web.Request) -> web.Response:
        return web.json_response(json.loads(key_set(issuer)))

    application.router.add_get("/keys", keys)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    settings = {
        "TURNWIRE_AUTH": "jwt",
        "TURNWIRE_JWT_JWKS_URL": f"http://127.0.0.1:{runner.addresses[0][1]}/keys",
        "TURNWIRE_JWT_ISSUER": "https://id.example/",
        "TURNWIRE_JWT_AUDIENCE": "chat",
        "TURNWIRE_DRAIN_MS": "0",
    }
    try:
        async with NodeProcess.started(tmp_path / "data", settings) as node:
            good = await Peer.bearing(node, issuer.token(**named))
            assert good is not None
            await good.socket.close()
            for forged in (
                *signed_with_the_public_key(issuer, **named),
                other.token(**named),
                issuer.token(iss="https://id.example/evil", aud="chat"),
                issuer.token(aud="chat"),
                issuer.token(iss="https://id.example/", aud="other"),
                issuer.token(iss="https://id.example/"),
                issuer.token(**named, exp=claims()["iat"] - 31),
                jwt.encode(claims(**named), SECRET, algorithm="HS256", headers={"kid": issuer.key_id}),
            ):
                await refused(node, forged)
    finally:
        await runner.cleanup()


async def test_03_the_library_that_takes_such_tokens_is_not_here() -> None:
    assert find_spec("jose") is None
    assert "python-jose" not in (SERVER.parents[1] / "requirements.lock").read_text()


# --- 4 ----------------------------------------------------------------------------------------------------------------


async def test_04_tokens_that_begin_alike_are_never_the_same_identity(
    node: NodeProcess, http: aiohttp.ClientSession
) -> None:
    """Through whatever is cached: in both orders, at once, and again."""
    users = [f"user-{number}" for number in range(6)] * 2
    tokens = {user: shared(user) for user in users}
    assert len({token[:20] for token in tokens.values()}) == 1
    peers = await asyncio.gather(*(Peer.of(node, user) for user in users))
    for user, peer in zip(users, peers, strict=True):
        cancelled = await peer.answer("turn.cancel", session=user, turn="t")
        assert cancelled["type"] == "ack"
        await peer.ask("turn.create", session=user, turn="t", input=[{"type": "text", "text": user}])
    for user, peer in zip(users, peers, strict=True):
        header = {"Authorization": f"Bearer {tokens[user]}"}
        async with http.get(f"{node.http_url}/v1/sessions", headers=header) as answer:
            assert [found["session"] for found in (await answer.json())["sessions"]] == [user]
        await peer.socket.close()
    first, second = tokens["user-0"], tokens["user-1"]
    await refused(node, f"{first.rpartition('.')[0]}.{second.rpartition('.')[2]}")
    await refused(node, first[:20] + second[20:-1])


# --- 5 ----------------------------------------------------------------------------------------------------------------


class Keyed:
    """Two nodes on one store; each of them is asked for everything."""

    def __init__(self, nodes: list[NodeProcess], folder: Path, http: aiohttp.ClientSession) -> None:
        self.nodes = nodes
        self.operators = Settings(data_dir=folder)
        self.http = http

    async def key(self, *scopes: Any, user: str | None = None) -> NewKey:
        return await admin.create_key(self.operators, "test", user, None, list(scopes))

    async def call(self, node: int, key: NewKey, path: str, **body: Any) -> dict[str, Any]:
        header = {"Authorization": f"Bearer {key.shown}"}
        async with self.http.post(f"{self.nodes[node].http_url}/v1{path}", json=body, headers=header) as answer:
            assert answer.status in (201, 204), await answer.text()
            return await answer.json() if answer.status == 201 else {}

    async def connected(self, token: str) -> list[Peer]:
        peers = [await Peer.bearing(node, token) for node in self.nodes]
        return [peer for peer in peers if peer is not None]

    async def end_in_time(self, peers: list[Peer], token: str, since_s: float) -> None:
        """All are closed within 5 s, and the token opens nothing any more, on either node and either road."""
        assert len(peers) == 2
        with Slack() as slack:
            assert [await peer.closed_with() for peer in peers] == [(4501, "token_expired")] * 2
        assert time.monotonic() - since_s - slack.lost_s < 5
        assert await self.connected(token) == []
        for node in self.nodes:
            header = {"Authorization": f"Bearer {token}"}
            async with self.http.get(f"{node.http_url}/v1/sessions", headers=header) as answer:
                assert answer.status == 401


async def _expiry(keyed: Keyed) -> None:
    key = await keyed.key("tokens")
    ends_s = int(time.time()) + 4
    said = {**claims("erin"), "iss": ISSUER, "exp": ends_s}
    token = jwt.encode(said, key.key.signing, algorithm=ALGORITHM, headers={"kid": key.key.id})
    peers = await keyed.connected(token)
    await keyed.end_in_time(peers, token, time.monotonic() + ends_s - time.time())


async def _logout(keyed: Keyed) -> None:
    key = await keyed.key("tokens")
    token = (await keyed.call(0, key, "/tokens", user="louis"))["token"]
    others = await keyed.connected((await keyed.call(1, key, "/tokens", user="lea"))["token"])
    peers = await keyed.connected(token)
    await keyed.call(0, key, "/tokens/end", user="louis")
    await keyed.end_in_time(peers, token, time.monotonic())
    for other in others:
        assert (await other.answer("ping"))["type"] == "pong"
        await other.socket.close()


async def _demotion(keyed: Keyed) -> None:
    """Open WebUI's kept administrator: rights were those of the handshake for as long as the socket lasted."""
    key = await keyed.key("tokens")
    token = (await keyed.call(0, key, "/tokens", user="dan"))["token"]
    peers, staying = await keyed.connected(token), await keyed.connected(token)
    less = (await keyed.call(0, key, "/tokens", user="dan", scopes=["read"]))["token"]
    for peer in staying:  # at once, on a connection that is told of it
        assert (await peer.answer("turn.cancel", session="s", turn="t"))["type"] == "ack"
        assert (await peer.answer("auth.refresh", token=less))["type"] == "ack"
        assert (await peer.answer("turn.cancel", session="s", turn="t"))["error"]["code"] == "forbidden"
        await peer.socket.close()
    await keyed.call(1, key, "/tokens/end", user="dan")
    await keyed.end_in_time(peers, token, time.monotonic())
    ended_ms = time.time_ns() // 1_000_000
    await until(lambda: time.time_ns() // 1_000_000 > ended_ms + 5)
    for peer in await keyed.connected((await keyed.call(0, key, "/tokens", user="dan", scopes=["read"]))["token"]):
        assert (await peer.answer("turn.cancel", session="s", turn="t"))["error"]["code"] == "forbidden"
        await peer.socket.close()


async def _deletion(keyed: Keyed) -> None:
    """Of a key that is a user, and of one whose tokens are users'."""
    itself, maker = await keyed.key("read", "write", user="kim"), await keyed.key("tokens")
    token = (await keyed.call(0, maker, "/tokens", user="kay"))["token"]
    of_itself, of_token = await keyed.connected(itself.shown), await keyed.connected(token)
    await admin.revoke_key(keyed.operators, itself.key.id)
    await keyed.end_in_time(of_itself, itself.shown, time.monotonic())
    await admin.revoke_key(keyed.operators, maker.key.id)
    await keyed.end_in_time(of_token, token, time.monotonic())


async def test_05_what_ends_a_token_ends_its_live_sockets_on_every_node_within_5_s(
    tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    folder = tmp_path / "data"
    settings = {"TURNWIRE_AUTH": "api_key", "TURNWIRE_DRAIN_MS": "0"}
    try:
        async with AsyncExitStack() as stack:
            nodes: list[NodeProcess] = []
            for _ in range(2):
                nodes.append(await NodeProcess.start(folder, settings))
                stack.push_async_callback(nodes[-1].stop)
            keyed = Keyed(nodes, folder, http)
            ways: list[Callable[[Keyed], Awaitable[None]]] = [_expiry, _logout, _demotion, _deletion]
            await asyncio.gather(*(way(keyed) for way in ways))
    finally:
        await end_store(folder)


# --- 6 ----------------------------------------------------------------------------------------------------------------

HOSTS = [
    b"a/?x=",
    b"127.0.0.1/readyz?x=",
    b"127.0.0.1#",
    b"alice@127.0.0.1",
    b"127.0.0.1/v1/tokens",
    b"127.0.0.1:99999999",
    b"",
    b"[",
    b"\xff\xfe",
]


@pytest.mark.parametrize("host", HOSTS)
async def test_06_a_host_that_is_none_leaves_who_may_come_in_as_it_is(node: NodeProcess, host: bytes) -> None:
    """Starlette's `request.url` is made of this header, so that nothing may be decided by it."""
    call = b"GET /v1/sessions HTTP/1.1\r\nHost: %b\r\nConnection: close\r\n%b\r\n"
    bearer = b"Authorization: Bearer %b\r\n" % shared("host").encode()
    without = await asyncio.to_thread(asked, node.port, call % (host, b""))
    with_token = await asyncio.to_thread(asked, node.port, call % (host, bearer))
    assert without[:13] in (b"HTTP/1.1 401 ", b"HTTP/1.1 400 ")
    assert with_token.startswith(b"HTTP/1.1 200 ") or without.startswith(b"HTTP/1.1 400 ")
    with await by_hand(node, host=host) as answer:
        if answer.status == 101:
            answer.raw.sendall(b"\x81\x90" + bytes(4) + b'{"type":"hello"}')
            assert told_to_close(answer.raw) == 4401
        else:
            assert 400 <= answer.status < 500


async def test_06_nothing_is_decided_by_what_a_framework_makes_of_the_host() -> None:
    made_of_it = re.compile(r"\b(request|scope|websocket)\.(url|base_url)\b|url_for\(|url_path_for\(")
    assert [path.name for path in SERVER.rglob("*.py") if made_of_it.search(path.read_text())] == []


# --- 7 ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "offered",
    [
        "turnwire.v1.jsön".encode(),
        "turnwire.v1.jsön".encode("latin-1"),
        b"\xff\xfe",
        b"turnwire.v1.json, \xc3\x28",
        b"\x00",
        b"a b",
        b"(",
        b'"turnwire.v1.json"',
        b",",
        b"",
        b"x" * 200,
        b"\xf0\x9f\x98\x80" * 30,
        b"turnwire.bearer.\xff",
    ],
)
async def test_07_a_subprotocol_that_is_no_token_is_answered_and_the_server_lives(
    node: NodeProcess, offered: bytes
) -> None:
    with await by_hand(node, b"Sec-WebSocket-Protocol: %b\r\n" % offered) as answer:
        if answer.status == 101:  # as if none had been offered
            assert b"sec-websocket-protocol" not in answer.head.lower()
        else:
            assert 400 <= answer.status < 500
    assert node.process.returncode is None
    peer = await Peer.of(node, "alice")
    await peer.socket.close()


# --- 8 ----------------------------------------------------------------------------------------------------------------

PER_ADDRESS = 40
DOOR = {
    **NODE,
    "TURNWIRE_CONNECTIONS_PER_ADDRESS_MAX": str(PER_ADDRESS),
    "TURNWIRE_ACCEPTS_PER_S": "5",
}


def _trickled(port: int) -> float:
    """How long a handshake may take that never ends, a byte at a time."""
    began_s = time.monotonic()
    request = handshake("/v1/ws")[:-2]
    with dialled(port, source="127.0.0.3", patience_s=0.25) as raw:
        for number in range(200):
            try:
                raw.sendall(request[number : number + 1])
                if raw.recv(100) == b"":
                    break
            except TimeoutError:
                continue
            except OSError:
                break
    return time.monotonic() - began_s


def _silent(port: int, head: bytes) -> float:
    """After how long somebody is told, or dropped, who says no hello, or nothing at all."""
    began_s = time.monotonic()
    with dialled(port, source="127.0.0.4", patience_s=30) as raw:
        raw.sendall(head)
        assert told_to_close(raw) == (4508 if head else None)
    return time.monotonic() - began_s


def _flood(port: int) -> None:
    """One address takes as many places as it may have; others still get in, and so does it when it has left."""
    with _held(port, PER_ADDRESS, "127.0.0.5"):
        for _ in range(5):
            with dialled(port, source="127.0.0.5") as refused_:
                assert read_all(refused_).startswith(b"HTTP/1.1 429 ")
        with dialled(port, source="127.0.0.6") as other:
            other.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert read_all(other).startswith(b"HTTP/1.1 200 ")


class _held:
    """So many connections of one address."""

    def __init__(self, port: int, count: int, source: str) -> None:
        self._raws = [dialled(port, source=source) for _ in range(count)]

    def __enter__(self) -> None:
        for raw in self._raws:
            raw.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
            assert raw.recv(12) == b"HTTP/1.1 200"

    def __exit__(self, *_: object) -> None:
        for raw in self._raws:
            raw.close()


def _herd(port: int) -> list[int | None]:
    """The close codes of many handshakes at once, each from a place of its own."""
    raws = [dialled(port, source=f"127.0.1.{1 + number % 8}") for number in range(60)]
    for raw in raws:
        raw.sendall(handshake("/v1/ws"))
    codes = [told_to_close(raw) for raw in raws]
    for raw in raws:
        raw.close()
    return codes


async def test_08_who_says_nothing_trickles_or_comes_in_floods_is_sent_away(tmp_path: Path) -> None:
    async with NodeProcess.started(tmp_path / "data", DOOR) as node:
        silent, mute, trickled, codes, _ = await asyncio.gather(
            asyncio.to_thread(_silent, node.port, handshake("/v1/ws")),
            asyncio.to_thread(_silent, node.port, b""),
            asyncio.to_thread(_trickled, node.port),
            asyncio.to_thread(_herd, node.port),
            asyncio.to_thread(_flood, node.port),
        )
        assert 4.5 < silent < 15 and 9 < mute < 25 and 9 < trickled < 25
        # The burst, and those whose turn came within 5 s, had it and said no hello; the rest is told to come back.
        assert set(codes) == {4508, 4503} and 5 <= codes.count(4508) <= 40
        peer = await Peer.of(node, "alice")
        await peer.socket.close()
        with pytest.raises(InvalidStatus) as crowded:  # by a client's eyes
            with _held(node.port, PER_ADDRESS, "127.0.0.1"):
                await connect(node.url)
        assert crowded.value.response.status_code == 429
