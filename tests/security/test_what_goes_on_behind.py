"""Hostile input 23 to 27 of docs/security.md: what reaches models' services, logs and the store. 25, what must be in no
log, is tests/security/test_canaries.py."""

import ast
import asyncio
import json
import os
import pickle
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from redis.asyncio import Redis
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from tests.protocol.generated import create, said
from tests.support.by_hand import asked
from tests.support.peers import Json, Peer
from tests.support.processes import NodeProcess
from tests.support.provider_server import ProviderServer, Received, Reply, Stamped, chunk, in_order, sse
from tests.support.tokens import SECRET, shared
from tests.support.waiting import until
from turnwire.runtime.turn_runner import OUTPUT_BYTES_MAX
from turnwire_protocol import limits

pytestmark = pytest.mark.asyncio(loop_scope="module")

ROOT = Path(__file__).parents[2]
SHIPPED = [path for folder in ("server", "protocol") for path in (ROOT / folder).rglob("*.py")]

NODE = {
    "TURNWIRE_AUTH": "jwt",
    "TURNWIRE_JWT_SECRET": SECRET,
    "TURNWIRE_DRAIN_MS": "0",
    "TURNWIRE_LOG_LEVEL": "debug",
    "TURNWIRE_TURNS_RUNNING_MAX": "3",
    "OPERATORS_KEY": "operators-key",
}
TABLE = """
[models]
demo_models = true
"""
MODEL = """
[models.{name}]
provider = "openai_chat"
model = "m"
base_url = "{base_url}"
key_env = "OPERATORS_KEY"
retries = {{ attempts_max = 1 }}
"""


class World:
    """A node and the services behind it: `open` answers, `leads_away` redirects to `elsewhere`, `endless` never ends,
    `babbles` as much as it can, and so does `spends`, which has a budget."""

    node: NodeProcess
    services: dict[str, ProviderServer]


def _babble(_: Received) -> Reply:
    piece = sse(chunk("x" * 60_000))
    return Reply(piece for _ in range(1_000))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[World]:
    folder = tmp_path_factory.mktemp("node")
    world = World()
    async with AsyncExitStack() as stack:
        elsewhere = await stack.enter_async_context(ProviderServer(in_order(Reply.of_text("stolen"))))
        away = Reply(status=307, headers={"location": f"{elsewhere.base_url}/chat/completions"})
        world.services = {
            "elsewhere": elsewhere,
            "open": await stack.enter_async_context(ProviderServer(in_order(Reply.of_text("Hello.")))),
            "leads_away": await stack.enter_async_context(ProviderServer(in_order(away))),
            "endless": await stack.enter_async_context(ProviderServer(in_order(Stamped(10_000, 50)))),
            "babbles": await stack.enter_async_context(ProviderServer(_babble)),
            "spends": await stack.enter_async_context(ProviderServer(in_order(Stamped(10_000, 200)))),
        }
        more = {"endless": "deadlines_ms = { total = 2000 }\n", "spends": "turn_budget = { tokens = 300 }\n"}
        config = TABLE + "".join(
            MODEL.format(name=name, base_url=service.base_url) + more.get(name, "")
            for name, service in world.services.items()
            if name != "elsewhere"
        )
        (folder / "turnwire.toml").write_text(config + 'client_params = ["temperature"]\n')
        options = ("--config", str(folder / "turnwire.toml"))
        world.node = await stack.enter_async_context(NodeProcess.started(folder / "data", NODE, *options))
        yield world


def turn(**fields: Any) -> Json:
    """The fields of a turn.create."""
    return {name: value for name, value in create(**fields).items() if name != "type"}


async def ended(peer: Peer, session: str, **fields: Any) -> Json:
    """The terminal of a turn, or the error that refused it."""
    answer = await peer.answer("turn.create", **turn(session=session, **fields))
    if answer["type"] == "error":
        return answer
    while (frame := await peer.receive())["type"] not in ("turn.done", "turn.error"):
        pass
    return frame


# --- 23 ---------------------------------------------------------------------------------------------------------------

ELSEWHERE = (
    "api_base",
    "base_url",
    "api_key",
    "headers",
    "extra_headers",
    "extra_body",
    "organization",
    "proxy",
    "url",
)


async def test_23_clients_choose_a_model_by_name_and_no_address_header_or_key(world: World) -> None:
    peer, place = await Peer.of(world.node, "mallory"), world.services["elsewhere"].base_url
    for name in (*ELSEWHERE, "model", "messages", "stream", "max_tokens", "n"):
        refused = await ended(peer, "s", params={name: place}, model="open")
        assert refused["error"]["code"] == "unsupported", name
    for model in ("m", "gpt-5", "openai/m", place, "../open", "open ", "OPEN", "elsewhere", "key_env", "0"):
        assert (await ended(peer, "s", model=model))["error"]["code"] == "unsupported", model
    for part in (
        {"type": "image_url", "image_url": {"url": place}},
        {"type": "image", "url": place},
        {"type": "image", "media_type": "image/png", "data": place},
        {"type": "text", "text": "x", "url": 7, "type ": "image_url"},
        {"type": "file", "path": "/etc/passwd"},
    ):
        frame = await ended(peer, "s", model="open", input=[part])
        assert frame["type"] == "turn.done" or frame["error"]["code"] in ("bad_frame", "unsupported"), part
    assert world.services["elsewhere"].requests == []
    await peer.socket.close()


async def test_23_the_operators_key_goes_to_the_operators_host_and_no_further(world: World) -> None:
    peer, service = await Peer.of(world.node, "mallory"), world.services["open"]
    service.requests.clear()
    fields = {name: world.services["elsewhere"].base_url for name in ELSEWHERE}
    terminal = await ended(peer, "t23", model="open", **fields, tools=[{"name": "f", **fields}], turn="t23")
    assert terminal["type"] == "turn.done"
    (request,) = service.requests
    assert request.headers["authorization"] == "Bearer operators-key"
    assert request.path == "/v1/chat/completions" and world.services["elsewhere"].base_url not in str(request.raw_body)
    assert not {"cookie", "x-forwarded-for", "referer", "origin"} & set(request.headers)
    # A service that sends it elsewhere is not followed; nor is what it says repeated.
    terminal = await ended(peer, "t23", model="leads_away", turn="t23b")
    assert terminal["type"] == "turn.error" and terminal["error"]["code"].startswith("upstream_")
    assert "127.0.0.1" not in json.dumps(terminal)
    assert len(world.services["leads_away"].requests) == 1 and world.services["elsewhere"].requests == []
    await peer.socket.close()


# --- 24 ---------------------------------------------------------------------------------------------------------------

INJECTED = '\r\n{"event": "injected", "level": "error"}\r\n\x1b[31m\x1b]0;title\x07\u202egnp\u2066\u2028\x00'


async def test_24_line_ends_escapes_and_bidi_marks_write_no_line_of_a_log(world: World) -> None:
    node = world.node
    for kind, fields in (
        ("hello", {"client": {"name": INJECTED, "version": INJECTED}, "features": [INJECTED]}),
        ("hello", {"token": INJECTED}),
        ("hello", {"token": shared("a" + INJECTED)}),
        (INJECTED, {}),
        ("ping", {INJECTED: INJECTED}),
    ):
        peer = Peer(await connect(node.url, additional_headers={"Authorization": f"Bearer {shared('alice')}"}))
        with suppress(ConnectionClosed):
            await peer.answer(kind, **fields)
        await peer.socket.close()
    peer = await Peer.of(node, "alice")
    for fields in (
        {"model": INJECTED},
        {"params": {INJECTED: INJECTED}},
        {"tools": [{"name": INJECTED, "description": INJECTED}]},
        {"turn": INJECTED},
        {"input": [said(INJECTED)], "model": "demo/error-after"},
        {"input": [said(INJECTED)], "model": "leads_away", "turn": "t2"},
    ):
        await ended(peer, "s24", **fields)
    assert (await ended(peer, INJECTED))["error"]["code"] == "bad_frame"
    await peer.answer("turn.cancel", session="s24", turn="t9", reason=INJECTED)
    async with aiohttp.ClientSession() as http:
        header = {"Authorization": f"Bearer {shared('alice')}"}
        body = json.dumps({"title": INJECTED, "metadata": {INJECTED: INJECTED}})
        async with http.patch(f"{node.http_url}/v1/sessions/s24", data=body, headers=header) as answer:
            assert answer.status in (200, 422)
    heads = (b"GET /%b HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\nX: %b\r\n\r\n", b"GET /v1/%%0d%%0a%b\r\n\r\n")
    await asyncio.gather(*(asyncio.to_thread(asked, node.port, head % INJECTED.encode()) for head in heads))
    refused = node.output.read_bytes().count(b"token_refused")
    assert await Peer.bearing(node, "nobodys") is None
    await until(lambda: node.output.read_bytes().count(b"token_refused") > refused)
    for line in node.output.read_bytes().split(b"\n")[:-1]:
        assert json.loads(line)["event"] != "injected"
        text = line.decode()
        assert text.isprintable() and "injected" not in text, text
    await peer.socket.close()


# --- 26 ---------------------------------------------------------------------------------------------------------------

UNPACKERS = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "jsonpickle", "yaml", "copyreg"}
RUNNERS = {"eval", "exec", "compile", "__import__"}


def _used(tree: ast.AST) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=imported):
                names |= {alias.name for alias in imported}
            case ast.ImportFrom(module=str(module)):
                names.add(module)
            case ast.Call(func=ast.Name(id=called)):
                names.add(f"{called}()")
            case _:
                pass
    return names


async def test_26_nothing_that_is_shipped_unpickles_or_runs_text() -> None:
    forbidden = UNPACKERS | {f"{name}()" for name in RUNNERS}
    found = {path.name: _used(ast.parse(path.read_text(encoding="utf-8"))) & forbidden for path in SHIPPED}
    assert {name: used for name, used in found.items() if used} == {}
    assert _used(ast.parse("import pickle\neval('1')")) & forbidden == {"pickle", "eval()"}


class _Bomb:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self._path),))


LUA = (
    "'); redis.call('FLUSHALL') --",
    '"]] redis.call("SET", "owned", 1) --[[',
    "return redis.call('KEYS', '*')",
    "\r\n*1\r\n$8\r\nFLUSHALL\r\n",
    "{p}:*",
    "%s%d%n ${jndi:x} {{7*7}} $(id)",
)


async def test_26_what_clients_say_is_data_to_the_store_and_what_the_store_says_is_data_to_the_server(
    world: World, tmp_path: Path
) -> None:
    node = world.node
    peer = await Peer.of(node, "lua")
    socket_ = next(path for path in node.folder.rglob("*") if path.is_socket())
    assert socket_.parent.stat().st_mode & 0o077 == 0  # nobody else of this machine reaches it
    async with Redis(unix_socket_path=str(socket_)) as store:
        assert (await store.config_get("port"))["port"] == "0"  # and no other machine
        await ended(peer, "before", model="demo")
        scripts = (await store.info("memory"))["number_of_cached_scripts"]
        for number, text in enumerate(LUA):
            terminal = await ended(peer, "lua", turn=f"t{number}", input=[said(text)], model="demo/error-after")
            assert terminal["type"] == "turn.error"
            assert (await ended(peer, text, model="demo"))["error"]["code"] == "bad_frame"
            await peer.ask("turn.cancel", session="lua", turn=f"c{number}", reason=text)
            assert (await peer.answer("turn.respond", session="lua", turn="t", request="r", value=text))[
                "type"
            ] == "error"
        assert await store.exists("owned") == 0 and await store.dbsize() > 0
        statistics = await store.info("commandstats")
        assert "cmdstat_eval" not in statistics and "cmdstat_keys" not in statistics
        assert (await store.info("memory"))["number_of_cached_scripts"] == scripts
        # Whoever could write into the store could make turns of their own, but run nothing.
        bomb = pickle.dumps(_Bomb(tmp_path / "exploded"))
        victims = [await Peer.of(node, "lua") for _ in range(2)]
        await _poison(store, bomb)
        for session, victim in zip(("lua", "before"), victims, strict=True):
            with suppress(ConnectionClosed):
                await victim.ask("session.open", session=session)
            await victim.socket.close()
        await store.flushall()  # or the node would go on to say what is wrong with it
    assert not (tmp_path / "exploded").exists() and node.process.returncode is None
    pickle.loads(bomb)  # noqa: S301 - the bomb works, which is the point
    assert (tmp_path / "exploded").exists()
    await peer.socket.close()


async def _poison(store: "Redis", bomb: bytes) -> None:
    """Put it wherever the store has a value of the user's."""
    poisoned = 0
    async for key in store.scan_iter(match="*lua*"):
        if await store.type(key) == b"hash":
            for name in await store.hkeys(key):
                await store.hset(key, name, bomb)
                poisoned += 1
    assert poisoned > 10


# --- 27 ---------------------------------------------------------------------------------------------------------------


async def test_27_what_one_turn_may_take_in_and_give_out_is_capped(world: World) -> None:
    peer = await Peer.of(world.node, "greedy")
    too_long = [said("漢" * (limits.INPUT_PART_BYTES_MAX // 3 + 1))]
    assert (await ended(peer, "in", input=too_long))["error"]["code"] == "bad_frame"
    parts = [said("x" * 300_000), said("y" * 300_000)]
    assert (await ended(peer, "in", input=parts))["error"]["code"] == "too_large"
    service = world.services["babbles"]
    terminal = await ended(peer, "out", model="babbles", turn="t27")
    (request,) = service.requests
    assert request.body["max_tokens"] > 0  # the service is told, whether or not it listens
    said_bytes = sum(part["bytes"] for part in terminal["parts"])
    assert OUTPUT_BYTES_MAX / 2 < said_bytes <= OUTPUT_BYTES_MAX + 60_000
    assert (terminal["type"], terminal["partial"]) == ("turn.error", True)
    await asyncio.wait_for(request.closed.wait(), 20)
    assert not request.answered
    await peer.socket.close()


async def test_27_how_long_a_turn_runs_and_what_it_spends_is_capped(world: World) -> None:
    peer = await Peer.of(world.node, "patient")
    late, spent = await asyncio.gather(
        ended(peer, "late", model="endless"), ended(await Peer.of(world.node, "patient"), "spent", model="spends")
    )
    assert (late["type"], late["error"]["code"]) == ("turn.error", "upstream_timeout")
    assert (spent["type"], spent["finish_reason"]) == ("turn.done", "budget")
    usage: dict[str, Any] = spent["usage"]
    assert 300 <= usage["input_tokens"] + usage["output_tokens"] < 600
    for name in ("endless", "spends"):
        request = world.services[name].requests[-1]
        await asyncio.wait_for(request.closed.wait(), 20)
        assert request.tokens_sent < 10_000
    await peer.socket.close()


async def test_27_how_many_turns_a_connection_has_running_is_capped(world: World) -> None:
    peer = await Peer.of(world.node, "busy")
    answers = [
        await peer.answer("turn.create", **turn(session=f"s{number}", model="demo/stall")) for number in range(5)
    ]
    assert [answer["type"] for answer in answers] == ["ack"] * 3 + ["error"] * 2
    assert {answer["error"]["code"] for answer in answers[3:]} == {"rate_limited"}
    for number in range(3):
        await peer.ask("turn.cancel", session=f"s{number}", turn="t")
    await peer.socket.close()


async def test_27_a_turn_that_is_to_end_with_its_client_does_so_and_costs_nothing_further(world: World) -> None:
    """Which one that is, its client says; the others go on, because the answer is wanted (P4), within their caps."""
    service = world.services["spends"]
    before = len(service.requests)
    peer = await Peer.of(world.node, "gone")
    fields = {"model": "spends", "on_disconnect": "cancel", "cancel_after_ms": 0}
    await peer.ask("turn.create", **turn(session="gone", **fields))
    await peer.until("turn.started")
    await peer.socket.close()
    request = await asyncio.wait_for(service.request(before), 20)
    await asyncio.wait_for(request.closed.wait(), 30)
    assert not request.answered


async def test_27_what_a_user_has_running_and_spends_in_a_day_is_capped_over_all_connections(world: World) -> None:
    """tests/end_to_end/test_quotas.py has the races, over several nodes."""
    plan = {"turns_running": 2, "tokens_per_day": 100_000, "upgrade_url": "https://example.com/more"}
    first, second = [await Peer.of(world.node, "spender", plan=plan) for _ in range(2)]
    for number, (peer, kind) in enumerate([(first, "ack"), (second, "ack"), (first, "error"), (second, "error")]):
        answer = await peer.answer("turn.create", **turn(session=f"s{number}", model="demo/stall"))
        assert answer["type"] == kind
        assert kind == "ack" or answer["error"]["code"] == "rate_limited"
    poor = await Peer.of(world.node, "poor", plan={**plan, "tokens_per_day": 0})
    error = (await poor.answer("turn.create", **turn(session="s", model="demo")))["error"]
    assert (error["code"], error["upgrade_url"]) == ("quota_exceeded", "https://example.com/more")
    for peer in (first, second, poor):
        await peer.socket.close()
