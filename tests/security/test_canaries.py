"""Hostile input 25 of docs/security.md: words that are private, put wherever a client, a token or a model's service can
put some, through every ending that a turn, a connection and a call can have; then looked for wherever others look.

That is: all that the server writes, at log level debug; all its pages; every error that it tells anybody; and what else
lies in its folder than the store's own files, which hold chats, because that is what they are for.

Two things are told back, to nobody but their sender: the name of a command or of a field that is not known (a typing
error is found by it), and the reason in a client's own close frame (RFC 6455 section 5.5.1).
"""

import asyncio
import base64
import json
import secrets
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Final

import aiohttp
import pytest
import pytest_asyncio
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from tests.protocol.generated import create, said
from tests.security.faulty_node import IN_CALL, IN_COMMAND, IN_RUNNER, IN_TASK, FaultyNode
from tests.support.by_hand import asked
from tests.support.peers import Json, Peer
from tests.support.provider_server import ProviderServer, Received, Reply, chunk, sse
from tests.support.serving import client_frame
from tests.support.tokens import SECRET, shared

pytestmark = pytest.mark.asyncio(loop_scope="module")

PLACES: Final = (
    *("prompt", "answer", "reasoning", "title", "metadata", "header", "client", "param", "tool", "result", "reason"),
    *("image", "unread", "field", "token", "upstream", "path", "user", "org", "key", "system"),
)
CANARIES: Final = {place: f"cnry{place}{secrets.token_hex(6)}" for place in PLACES}

CONFIG = """
[models.service]
provider = "openai_chat"
model = "m"
base_url = "{base_url}"
key_env = "SERVICES_KEY"
system_prompt = "{system}"
images = true
client_params = ["stop"]
retries = {{ attempts_max = 2, wait_first_ms = 1, budget_percent = 1000, failures_max = 0 }}
deadlines_ms = {{ connect = 2000, connect_total = 4000, first_content = 2000, idle = 1000, total = 4000 }}
"""
SETTINGS = {
    "TURNWIRE_AUTH": "jwt",
    "TURNWIRE_JWT_SECRET": SECRET,
    "TURNWIRE_DRAIN_MS": "0",
    "TURNWIRE_LOG_LEVEL": "debug",
    "SERVICES_KEY": CANARIES["key"],
    # Also what only development mode of Python and of asyncio would say.
    "PYTHONDEVMODE": "1",
    "PYTHONASYNCIODEBUG": "1",
}
OF_THE_STORE = ("appendonlydir", "dump.rdb", "redis.sock")

ANSWER, UPSTREAM = CANARIES["answer"], CANARIES["upstream"]
_BODY: Json = {"error": {"message": f"bad {UPSTREAM}", "type": UPSTREAM, "code": UPSTREAM, "param": UPSTREAM}}
_PIECES = tuple(sse(event) for event in (chunk(reasoning=CANARIES["reasoning"]), chunk(f"so {ANSWER} ")))

ENDINGS: Final[dict[str, Reply]] = {
    "done": Reply((*_PIECES, sse(chunk(finish_reason="stop")), sse("[DONE]"))),
    **{
        f"status {code}": Reply.of_status(code, _BODY, x_request_id=UPSTREAM) for code in (400, 401, 403, 404, 413, 422)
    },
    **{f"status {code}": Reply.of_status(code, _BODY, retry_after="0") for code in (429, 500, 503)},
    "text of an error": Reply((UPSTREAM.encode(),), status=500, headers={"content-type": "text/html"}),
    "error at once": Reply((sse(_BODY),)),
    "no http": Reply(raw=b"HTTP/9 " + UPSTREAM.encode() + b"\r\n\r\n", ending="cut"),
    "a header that is none": Reply(raw=b"HTTP/1.1 200 OK\r\n" + UPSTREAM.encode() + b"\r\n\r\n", ending="cut"),
    "another type": Reply((UPSTREAM.encode(),), headers={"content-type": f"text/{UPSTREAM}"}),
    "redirect": Reply(status=302, headers={"location": f"http://{UPSTREAM}.example/"}),
    "error in the answer": Reply((*_PIECES, sse(_BODY))),
    "no json": Reply((*_PIECES, b"data: {" + UPSTREAM.encode() + b"\n\n")),
    "odd json": Reply((*_PIECES, sse({"choices": [{"delta": {"content": {UPSTREAM: [UPSTREAM]}}}]}))),
    "odd finish": Reply((*_PIECES, sse(chunk(finish_reason=UPSTREAM)), sse("[DONE]"))),
    "cut": Reply(_PIECES, ending="cut"),
    "reset": Reply(_PIECES, ending="reset"),
    "stall": Reply(_PIECES, ending="stall"),
    "tool": Reply(
        (
            *_PIECES,
            sse(chunk(tool_calls=[{"index": 0, "id": "call_1", "type": "function", "function": {"name": "look_up"}}])),
            sse(chunk(tool_calls=[{"index": 0, "function": {"arguments": json.dumps({"q": ANSWER})}}])),
            sse(chunk(finish_reason="tool_calls")),
            sse("[DONE]"),
        )
    ),
}


def _play(request: Received) -> Reply:
    """The ending that the newest question asks for; a question that has a tool's result is answered."""
    text = request.raw_body.decode()
    if CANARIES["result"] in text:
        return ENDINGS["done"]
    return next((reply for name, reply in ENDINGS.items() if f"ending={name};" in text), ENDINGS["done"])


class World:
    """What was met: `errors` are all that anybody was told went wrong, `pages` all that was served."""

    node: FaultyNode
    service: ProviderServer
    errors: list[str]
    pages: list[str]
    answers: list[str]


def private(user: str = "alice") -> str:
    """A token of somebody whose name is private, too."""
    return shared(f"{user}-{CANARIES['user']}", org=CANARIES["org"])


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[World]:
    folder = tmp_path_factory.mktemp("node")
    async with ProviderServer(_play) as service:
        config = CONFIG.format(base_url=service.base_url, system=CANARIES["system"])
        (folder / "turnwire.toml").write_text(config)
        options = ("--config", str(folder / "turnwire.toml"))
        async with FaultyNode.started(folder / "data", SETTINGS, *options) as node:
            world = World()
            world.node, world.service = node, service
            world.errors, world.pages, world.answers = [], [], []
            yield world


# --- what is done -----------------------------------------------------------------------------------------------------


async def peer_of(world: World, token: str) -> Peer:
    """Connected with canaries in every place of a handshake and a hello."""
    headers = {"User-Agent": CANARIES["header"], "Cookie": f"id={CANARIES['header']}", "X-Secret": CANARIES["header"]}
    peer = Peer(await connect(world.node.url, compression=None, additional_headers=headers, max_queue=None))
    client = {"name": CANARIES["client"], "version": CANARIES["client"]}
    welcome = await peer.answer("hello", token=token, client=client, features=[CANARIES["client"]])
    assert welcome["type"] == "welcome"
    return peer


def asking(ending: str, word: str = "") -> Json:
    """A turn's fields, with canaries wherever there may be some."""
    picture = base64.b64encode(CANARIES["image"].encode()).decode()
    inputs: list[Json] = [said(f"{CANARIES['prompt']} ending={ending}; {word}")]
    inputs.append({"type": "image", "media_type": "image/png", "data": picture})
    tools = [{"name": "look_up", "description": CANARIES["tool"], "parameters": {"title": CANARIES["tool"]}}]
    fields = create(input=inputs, params={"stop": CANARIES["param"]}, tools=tools, turn=secrets.token_hex(8))
    return {name: value for name, value in fields.items() if name not in ("type", "session")}


async def run_turn(world: World, session: str, ending: str, word: str = "") -> None:
    """One turn to its end; where it asks for something, that is answered; where it would stall, it is cancelled."""
    peer = await peer_of(world, private())
    fields = asking(ending, word)
    await peer.ask("turn.create", session=session, **fields)
    while (frame := await peer.receive())["type"] not in ("turn.done", "turn.error"):
        match frame["type"]:
            case "turn.delta":
                world.answers.append(frame["text"])
                if ending == "stall":
                    place = {"session": session, "turn": fields["turn"]}
                    await peer.socket.send(json.dumps({"type": "turn.cancel", **place, "reason": CANARIES["reason"]}))
            case "turn.asked":
                place = {"session": session, "turn": fields["turn"], "request": frame["request"]}
                await peer.socket.send(json.dumps({"type": "turn.respond", **place, "value": [CANARIES["result"]]}))
            case _:
                pass
    world.errors.append(json.dumps(frame.get("error", {})))
    await peer.socket.close()


async def told_off(world: World, message: str, *, greets: bool) -> None:
    """A bad message, before or after hello, and all that is answered to it."""
    peer = await peer_of(world, private()) if greets else Peer(await connect(world.node.url, compression=None))
    with suppress(ConnectionClosed):
        await peer.socket.send(message)
        await peer.socket.send('{"type":"ping","id":"end"}')
        while (frame := await peer.receive()).get("reply_to") != "end":
            world.errors.append(json.dumps(frame) if frame["type"] == "error" else "")
    world.errors.append(str(peer.socket.close_reason))
    await peer.socket.close()


async def called(world: World, method: str, path: str, *, body: bytes | None = None, **headers: str) -> None:
    """A call, whose answer is a page or an error."""
    own = {
        "X-Secret": CANARIES["header"],
        "Referer": f"http://x/{CANARIES['header']}",
        "User-Agent": CANARIES["header"],
    }
    async with (
        aiohttp.ClientSession() as http,
        http.request(method, f"{world.node.http_url}{path}", data=body, headers={**own, **headers}) as answer,
    ):
        text = f"{answer.reason} {dict(answer.headers)} {await answer.text(errors='replace')}"
        (world.errors if answer.status >= 400 else world.pages).append(text)


def bad_messages() -> list[str]:
    """Canaries in messages that cannot be read, or not be carried out."""
    field, unread = CANARIES["field"], CANARIES["unread"]
    return [
        unread,
        json.dumps([unread]),
        f'{{"type":"ping","{unread}":1,"{unread}":2}}',
        f'{{"type":"ping","x":"{unread}',
        f'{{"type":"ping","x":"\\ud800{unread}"}}',
        f'{{"type":"ping","x":NaN,"y":"{unread}"}}',
        json.dumps({"type": "ping", "x": json.loads("[" * 50 + "]" * 50), unread: unread}),
        *(
            json.dumps({**create(input=[said(CANARIES["prompt"])]), **wrong})
            for wrong in (
                {"input": field},
                {"input": [{"type": field, field: field}]},
                {"input": [{"type": "image", "media_type": field, "data": field}]},
                {"input": [said(field), 7]},
                {"parent": f"{field}!"},
                {"model": field},
                {"params": {field: field}},
                {"params": [field]},
                {"tools": [{"name": {field: field}}]},
                {"on_busy": field},
                {"response_format": field},
                {"session": f"{field} {field}"},
                {"again": field},
                {"cancel_after_ms": field},
            )
        ),
        json.dumps({"type": "hello", "token": f"{CANARIES['token']} x"}),
        json.dumps({"type": "hello", "token": CANARIES["token"]}),
        json.dumps({"type": "auth.refresh", "token": CANARIES["token"]}),
        json.dumps({"type": "session.open", "session": "s", "after": {"gen": field, "seq": field}}),
        json.dumps({"type": "turn.respond", "session": "s", "turn": "t", "request": "r", "value": CANARIES["result"]}),
        json.dumps({"type": "turn.cancel", "session": "s", "turn": "t", "reason": field * 20}),
        json.dumps({"type": "turn.cancel", "session": "s", "turn": "t", "reason": f"{IN_COMMAND} {field}"}),
        json.dumps({"type": "turn.cancel", "session": "s", "turn": "t", "reason": f"{IN_TASK} {field}"}),
    ]


async def at_the_door(world: World) -> None:
    """Requests that are none, tokens that are nobody's."""
    token = CANARIES["token"]
    bearer: Json = {"Authorization": f"Bearer {token}"}
    credentials: list[Json] = [bearer, {"Authorization": token}, {"Cookie": token}]
    for headers in credentials:
        await called(world, "GET", "/v1/sessions", **headers)
        peer = Peer(await connect(world.node.url, additional_headers=headers))
        with suppress(ConnectionClosed):
            world.errors.append(json.dumps(await peer.answer("hello", token=f"{private('eve')}x")))
        await peer.socket.close()
    for path in (
        f"/v1/sessions?token={token}",
        f"/v1/ws?token={token}",
        f"/v1/sessions/{CANARIES['path']}?key={token}",
    ):
        await called(world, "GET", path)
    path = CANARIES["path"].encode()
    for request in (
        b"GET /%b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" % path,
        b"%b %b\r\n\r\n" % (path, path),
        b"GET / HTTP/1.1\r\n%b\r\n\r\n" % path,
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: %b\r\n\r\n" % path,
        b"GET /v1/ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: %b\r\n"
        b"Sec-WebSocket-Version: 13\r\nConnection: close\r\n\r\n" % path,
    ):
        world.errors.append((await asyncio.to_thread(asked, world.node.port, request)).decode("latin-1"))
    for frame in (client_frame(1, b"\xff" + path), client_frame(3, path), client_frame(8, b"\x00\x01" + path)):
        peer = await peer_of(world, private())
        peer.socket.transport.write(frame)
        with suppress(ConnectionClosed):
            while True:
                await peer.receive()
        world.errors.append(str(peer.socket.close_reason))


async def over_http(world: World) -> None:
    """Each call with canaries in title, metadata, ids and bodies; and every page."""
    header: Json = {"Authorization": f"Bearer {private()}"}
    title, field, path = CANARIES["title"], CANARIES["field"], CANARIES["path"]
    good = json.dumps({"title": title, "metadata": {CANARIES["metadata"]: CANARIES["metadata"]}}).encode()
    await called(world, "PATCH", "/v1/sessions/s_done", body=good, **header)
    world.pages.clear()  # what a user is shown of her own
    for body in (
        json.dumps({"title": f"{IN_CALL} {title}"}),
        json.dumps({"title": [title]}),
        json.dumps({"titel": field}),
        f'{{"title": "{field}',
        field,
        json.dumps({"title": title * 99}),
    ):
        await called(world, "PATCH", "/v1/sessions/s_done", body=body.encode(), **header)
    for method, address in (
        ("GET", f"/v1/sessions?before={field}"),
        ("GET", f"/v1/sessions?limit={field}"),
        ("GET", f"/v1/sessions/{path}"),
        ("GET", f"/v1/sessions/{path}!"),
        ("DELETE", f"/v1/sessions/{path}"),
        ("GET", f"/v1/sessions/s_done/turns?before={field}"),
        ("POST", f"/v1/{path}"),
        ("GET", f"/{path}"),
    ):
        await called(world, method, address, **header)
    for page in ("/", "/readyz", "/livez", "/metrics", "/docs", "/openapi.json", "/protocol", "/debug", "/turnwire.js"):
        await called(world, "GET", page)


# --- what is looked at ------------------------------------------------------------------------------------------------


def needles() -> dict[str, str]:
    """All that must be found nowhere, by what it is."""
    picture = base64.b64encode(CANARIES["image"].encode()).decode()
    _, claims, signature = private().split(".")
    return {**CANARIES, "image as sent": picture, "a token's claims": claims[:60], "a token's signature": signature}


def hits(haystack: str) -> list[str]:
    return [what for what, needle in needles().items() if needle in haystack]


async def test_25_private_words_are_in_no_log_page_error_or_file(world: World) -> None:
    node = world.node
    for ending in ENDINGS:
        await run_turn(world, f"s_{ending.replace(' ', '_')}", ending)
    await run_turn(world, "s_crash", "done", IN_RUNNER)
    for message in bad_messages():
        for greets in (True, False):
            await told_off(world, message, greets=greets)
    await at_the_door(world)
    await over_http(world)
    # All of this has been there.
    assert ANSWER in "".join(world.answers)
    asked_of_it = "".join(f"{request.raw_body.decode()} {request.headers}" for request in world.service.requests)
    met = ("prompt", "result", "param", "tool", "system", "key")
    assert [place for place in met if CANARIES[place] not in asked_of_it] == []
    codes = [error for error in world.errors if '"code"' in error]
    for code in ("internal", "bad_frame", "unsupported", "unauthenticated", "upstream_rejected", "upstream_malformed"):
        assert any(f'"{code}"' in error for error in codes), code
    await node.stop()
    log = node.output.read_text()
    events = {json.loads(line)["event"] for line in log.splitlines() if line.startswith("{")}
    assert {"turn_failed", "turn_runner_failed", "command_failed", "http_call_failed", "token_refused"} <= events
    assert "never retrieved" in log or "library_line" in events  # what was forgotten was told of
    assert log.count("ValueError") >= 3 and "caused by KeyError" in log
    assert hits(node.banner + log) == []
    assert [(hits(error), error) for error in world.errors if hits(error)] == []
    assert [page for page in world.pages if hits(page)] == [] and len(world.pages) >= 4
    beside = [
        path
        for path in node.folder.rglob("*")
        if path.is_file() and not any(part.startswith(OF_THE_STORE) for part in path.relative_to(node.folder).parts)
    ]
    assert [path.name for path in beside if hits(path.read_text(errors="replace"))] == []
    assert "output.log" in [path.name for path in beside]


async def test_25_what_is_looked_for_would_be_found() -> None:
    for place, needle in needles().items():
        assert place in hits(f"... {needle} ...")
