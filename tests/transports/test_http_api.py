"""The HTTP calls on real sockets.

Who may call and what is refused is asked of a whole node; one in this process has users with tokens, and a store that
fails on demand.
"""

import asyncio
import io
import json
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
import structlog
import uvicorn
from starlette.requests import Request

from tests.runtime.test_backend import MODELS, create
from tests.stores.making import caller, quotas_beside
from tests.stores.server import StoreServer, binaries
from tests.support.processes import NodeProcess
from tests.support.waiting import until
from tests.support.watched import Watched
from turnwire import telemetry
from turnwire.app import Node, SystemClock
from turnwire.ports import Failure, Identity, ListPlace
from turnwire.runtime.refusals import Refused
from turnwire.settings import Settings
from turnwire.stores.redis.link import Link
from turnwire.stores.redis.log import RedisSessionLog
from turnwire.transports import http_api, requests
from turnwire.transports.http_api import HttpApi
from turnwire.transports.problems import Problem
from turnwire.transports.requests import BODY_BYTES_MAX
from turnwire_protocol.codes import RETRY_ADVICE
from turnwire_protocol.grammar import check_shape
from turnwire_protocol.limits import METADATA_BYTES_MAX

pytestmark = pytest.mark.asyncio(loop_scope="module")

ALLOWED = "https://chat.example.com"


class Answer:
    """A response that was read whole."""

    def __init__(self, response: aiohttp.ClientResponse, body: bytes) -> None:
        self.status = response.status
        self.headers = response.headers
        self.body = body

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def problem(self) -> tuple[int, str]:
        """Status and code, of what must be a whole problem (RFC 9457)."""
        assert self.headers["content-type"] == "application/problem+json"
        told = self.json
        assert set(told) - {"retry_after_ms", "upgrade_url"} == {"type", "title", "status", "detail", "code", "retry"}
        assert told["status"] == self.status and told["title"] and told["type"] == "about:blank"
        assert told["code"] in RETRY_ADVICE and told["retry"] in RETRY_ADVICE.values()
        assert told["detail"] and "Traceback" not in told["detail"] and "Error" not in told["detail"]
        return self.status, told["code"]


class Caller:
    """One base URL, and headers that go with every call."""

    def __init__(self, http: aiohttp.ClientSession, base: str, **headers: str) -> None:
        self.http = http
        self.base = base
        self.headers = headers

    async def __call__(self, method: str, path: str, **options: Any) -> Answer:
        headers = {**self.headers, **options.pop("headers", {})}
        async with self.http.request(method, f"{self.base}{path}", headers=headers, **options) as response:
            answer = Answer(response, await response.read())
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["vary"] == "Origin"
        return answer


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def node(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[NodeProcess]:
    settings = {"TURNWIRE_ALLOWED_ORIGINS": ALLOWED}
    async with NodeProcess.started(tmp_path_factory.mktemp("node"), settings) as started:
        watched = Watched(started.url)
        async with watched.chat as chat:
            for session in ("s_told", "s_other"):
                await (await chat.send(session, f"What  of\n{session}?")).done()
        watched.check()
        yield started


@pytest_asyncio.fixture(loop_scope="module")
async def call(node: NodeProcess) -> AsyncIterator[Caller]:
    async with aiohttp.ClientSession() as http:
        yield Caller(http, f"{node.http_url}/v1")


# --- what is answered -------------------------------------------------------------------------------------------------


async def test_a_list_tells_the_newest_first_and_goes_on_page_by_page(call: Caller) -> None:
    whole = (await call("GET", "/sessions")).json
    assert [found["session"] for found in whole["sessions"]][-1] == "s_told"
    assert whole["next"] is None
    told = whole["sessions"][-1]
    assert set(told) == {"session", "title", "preview", "metadata", "created_at", "updated_at"}
    assert (told["preview"], told["metadata"]) == ("What of s_told?", {})

    first = (await call("GET", "/sessions?limit=1")).json
    second = (await call("GET", "/sessions", params={"limit": "1", "before": first["next"]})).json
    assert first["sessions"] + second["sessions"] == whole["sessions"][:2]


async def test_a_session_is_read_changed_and_read_again(call: Caller) -> None:
    before = (await call("GET", "/sessions/s_told")).json
    metadata = {"a": [1, None, {"b": "☁"}]}
    changed = await call("PATCH", "/sessions/s_told", json={"title": "Sky ☁", "metadata": metadata})
    assert changed.status == 200 and changed.headers["content-type"] == "application/json"
    assert (changed.json["title"], changed.json["metadata"]) == ("Sky ☁", metadata)
    assert changed.json["updated_at"] > before["updated_at"]
    kept = await call("PATCH", "/sessions/s_told", json={})
    assert kept.json == changed.json == (await call("GET", "/sessions/s_told")).json
    removed = await call("PATCH", "/sessions/s_told", json={"title": None})
    assert (removed.json["title"], removed.json["metadata"]) == (None, metadata)


async def test_turns_are_whole_snapshots_page_by_page(call: Caller) -> None:
    page = (await call("GET", "/sessions/s_told/turns")).json
    (turn,) = page["turns"]
    check_shape(turn)
    assert (page["next"], turn["type"], turn["state"]) == (None, "turn.snapshot", "done")
    assert turn["input"] == [{"type": "text", "text": "What  of\ns_told?"}]
    earlier = await call("GET", f"/sessions/s_told/turns?before={turn['turn']}&limit=200")
    assert earlier.json == {"turns": [], "next": None}


@pytest.mark.parametrize("path", ["/sessions", "/sessions/s_told", "/sessions/s_told/turns", "/sessions/never"])
async def test_head_answers_as_get_does_without_the_body(call: Caller, path: str) -> None:
    got, head = await call("GET", path), await call("HEAD", path)
    assert (head.status, head.body) == (got.status, b"")
    assert head.headers["content-length"] == got.headers["content-length"] == str(len(got.body))


async def test_a_deleted_session_is_gone_like_one_that_never_was(node: NodeProcess, call: Caller) -> None:
    watched = Watched(node.url)
    async with watched.chat as chat:
        await (await chat.send("s_gone", "hi")).done()
        deleted = await call("DELETE", "/sessions/s_gone")
        assert (deleted.status, deleted.body) == (204, b"")
        await until(lambda: "session.deleted" in watched.seen)
    watched.check()
    for method, path in (("GET", ""), ("DELETE", ""), ("PATCH", ""), ("GET", "/turns")):
        gone, never = [
            await call(method, f"/sessions/{session}{path}", json={} if method == "PATCH" else None)
            for session in ("s_gone", "s_never")
        ]
        assert gone.problem() == (404, "not_found")
        assert gone.body == never.body
    listed = (await call("GET", "/sessions")).json["sessions"]
    assert "s_gone" not in [found["session"] for found in listed]


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/", (404, "not_found")),
        ("GET", "/session", (404, "not_found")),
        ("GET", "/sessions/", (404, "not_found")),
        ("GET", "/sessions/a/b", (404, "not_found")),
        ("GET", "/sessions/a%2Fb", (404, "not_found")),
        ("GET", "/ws", (426, "unsupported")),
        ("POST", "/sessions", (405, "unsupported")),
        ("PUT", "/sessions/s_told", (405, "unsupported")),
        ("DELETE", "/sessions/s_told/turns", (405, "unsupported")),
        ("OPTIONS", "/sessions", (405, "unsupported")),
        ("GET", "/sessions/s%20told", (400, "bad_frame")),
        ("GET", "/sessions/s_told%0A", (400, "bad_frame")),
        ("GET", "/sessions/s_%0Atold", (400, "bad_frame")),
        ("GET", f"/sessions/{'s' * 65}", (400, "bad_frame")),
        ("GET", "/sessions/%C3%A9/turns", (400, "bad_frame")),
        ("DELETE", "/sessions/a:b", (400, "bad_frame")),
        ("GET", "/sessions?limit=0", (400, "bad_frame")),
        ("GET", "/sessions?limit=101", (400, "bad_frame")),
        ("GET", "/sessions?limit=", (400, "bad_frame")),
        ("GET", "/sessions?limit=5.0", (400, "bad_frame")),
        ("GET", "/sessions?limit=-1", (400, "bad_frame")),
        ("GET", "/sessions?limit=%D9%A3", (400, "bad_frame")),
        ("GET", f"/sessions?limit={'9' * 5000}", (400, "bad_frame")),
        ("GET", "/sessions?limit=5&limit=5", (400, "bad_frame")),
        ("GET", "/sessions?before=", (400, "bad_frame")),
        ("GET", "/sessions?before=!!!!", (400, "bad_frame")),
        ("GET", "/sessions?before=MS5h%0A", (400, "bad_frame")),
        ("GET", "/sessions?before=AAAA", (400, "bad_frame")),
        ("GET", "/sessions?before=MS5hYR", (400, "bad_frame")),
        ("GET", "/sessions?before=é", (400, "bad_frame")),
        ("GET", "/sessions?before=MS5h&before=MS5h", (400, "bad_frame")),
        ("GET", "/sessions/s_told/turns?limit=201", (400, "bad_frame")),
        ("GET", "/sessions/s_told/turns?before=a%20b", (400, "bad_frame")),
        ("GET", "/sessions/s_told/turns?before=t_never", (404, "not_found")),
    ],
)
async def test_a_call_that_makes_no_sense_is_a_problem(
    call: Caller, method: str, path: str, expected: tuple[int, str]
) -> None:
    answer = await call(method, path)
    assert answer.problem() == expected
    if expected[0] == 405:
        assert "GET" in answer.headers["allow"]


async def test_a_place_is_read_as_it_was_written_and_in_no_other_way() -> None:
    place = ListPlace(1_795_000_000_000, "s_-Z9")
    text = http_api._opaque(place)
    assert http_api._place_of(text) == place
    for other in (f"{text}=", f" {text}", text[:-1]):
        with pytest.raises(Problem):
            http_api._place_of(other)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"\xff", 400),
        (b'{"title":"\\ud800"}', 400),
        (b'{"title":"a","title":"b"}', 400),
        (b'{"metadata":{"a":NaN}}', 400),
        (b'{"metadata":{"a":9007199254740992}}', 400),
        (b'{"metadata":{"a":' + b"[" * 40 + b"]" * 40 + b"}}", 400),
        (b"[" * 100_000, 400),
        (b"[]", 422),
        (b'"title"', 422),
        (b'{"titel":"a"}', 422),
        (b'{"title":5}', 422),
        (b'{"title":""}', 422),
        (b'{"metadata":null}', 422),
        (b'{"metadata":{"a":"' + b"x" * METADATA_BYTES_MAX + b'"}}', 422),
    ],
)
async def test_a_body_that_is_no_change_is_a_problem_and_changes_nothing(
    call: Caller, body: bytes, status: int
) -> None:
    before = (await call("GET", "/sessions/s_other")).json
    assert (await call("PATCH", "/sessions/s_other", data=body)).problem() == (status, "bad_frame")
    assert (await call("GET", "/sessions/s_other")).json == before


async def test_the_largest_change_fits_and_a_body_beyond_that_is_not_read(node: NodeProcess, call: Caller) -> None:
    largest = {"a": "é" * ((METADATA_BYTES_MAX - 8) // 2)}
    assert (await call("PATCH", "/sessions/s_other", data=json.dumps({"metadata": largest}))).status == 200
    told = await call("PATCH", "/sessions/s_other", data=b" " * (BODY_BYTES_MAX + 1))
    assert told.problem() == (413, "too_large")

    # One that never ends is stopped where it gets too long.
    reader, writer = await asyncio.open_connection("127.0.0.1", node.port)
    head = f"PATCH /v1/sessions/s_other HTTP/1.1\r\nHost: 127.0.0.1:{node.port}\r\nTransfer-Encoding: chunked\r\n\r\n"
    writer.write(head.encode())
    for _ in range(BODY_BYTES_MAX // 16_384 + 1):
        writer.write(b"4000\r\n" + b" " * 16_384 + b"\r\n")
    await writer.drain()
    answer = await asyncio.wait_for(reader.read(), 10)
    assert answer.startswith(b"HTTP/1.1 413 ") and b"too_large" in answer
    writer.close()


# --- who may call -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "HEAD", "PATCH", "DELETE", "OPTIONS"])
@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": f"{ALLOWED}:444"},
        {"Origin": f"{ALLOWED}.evil.example"},
        {"Host": "evil.example"},
        {"Host": "evil.example", "Origin": "http://evil.example"},
        {"Host": "localhost.evil.example"},
    ],
    ids=str,
)
async def test_a_foreign_page_gets_nothing_by_any_method(call: Caller, method: str, headers: dict[str, str]) -> None:
    preflight = {"Access-Control-Request-Method": "DELETE"} if method == "OPTIONS" else {}
    answer = await call(method, "/sessions/s_told", headers={**headers, **preflight})
    assert answer.status == 403
    assert "access-control-allow-origin" not in answer.headers
    if method != "HEAD":
        assert answer.problem() == (403, "forbidden")
    assert (await call("GET", "/sessions/s_told")).status == 200


async def test_two_origins_are_nobodys(node: NodeProcess) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", node.port)
    origins = f"Origin: {ALLOWED}\r\n" * 2
    writer.write(f"GET /v1/sessions HTTP/1.1\r\nHost: 127.0.0.1:{node.port}\r\n{origins}\r\n".encode())
    assert (await reader.readline()).startswith(b"HTTP/1.1 403 ")
    writer.close()


async def test_an_allowed_page_may_call_and_read_answers_and_errors(call: Caller) -> None:
    for path, status in (("/sessions", 200), ("/sessions/never", 404), ("/nothing", 404)):
        answer = await call("GET", path, headers={"Origin": ALLOWED})
        assert answer.status == status
        assert answer.headers["access-control-allow-origin"] == ALLOWED
        assert answer.headers["access-control-expose-headers"] == "Retry-After"
        assert "access-control-allow-credentials" not in answer.headers


@pytest.mark.parametrize("method", ["PATCH", "DELETE"])
async def test_a_preflight_is_answered_without_a_token(call: Caller, method: str) -> None:
    asked = {"Access-Control-Request-Method": method, "Access-Control-Request-Headers": "authorization,content-type"}
    answer = await call("OPTIONS", "/sessions/s_told", headers={"Origin": ALLOWED, **asked})
    assert (answer.status, answer.body) == (204, b"")
    assert answer.headers["access-control-allow-origin"] == ALLOWED
    assert method in answer.headers["access-control-allow-methods"]
    assert {"authorization", "content-type"} <= set(
        answer.headers["access-control-allow-headers"].lower().replace(" ", "").split(",")
    )


async def test_the_page_of_this_server_and_a_server_that_was_told_its_name_are_served(
    node: NodeProcess, call: Caller
) -> None:
    for headers in ({"Origin": node.http_url}, {"Host": "chat.example.com"}, {"Host": f"localhost:{node.port}"}):
        assert (await call("GET", "/sessions", headers=headers)).status == 200


async def test_a_websocket_that_is_none_of_ours_is_refused(node: NodeProcess) -> None:
    async with aiohttp.ClientSession() as http:
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await http.ws_connect(f"{node.http_url}/v1/sessions")
        assert refused.value.status == 403


# --- users with tokens, and a store that fails ------------------------------------------------------------------------


class Tokens:
    """ports.Authenticator: a token is its user's name with a prefix."""

    async def identify(self, token: str | None) -> Identity | None:
        return None if token is None or not token.startswith("of-") else Identity(token.removeprefix("of-"))

    async def refresh(self) -> bool:
        return False

    def holds(self, identity: Identity) -> bool:
        return True


@asynccontextmanager
async def served(app: Any) -> AsyncGenerator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        config = uvicorn.Config(
            app, lifespan="off", log_config=None, access_log=False, http="h11", timeout_graceful_shutdown=1
        )
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        await until(lambda: server.started)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
        server.should_exit = True
        await serving


@pytest_asyncio.fixture(loop_scope="module")
async def inside(tmp_path: Path) -> AsyncIterator[tuple[Node, Caller]]:
    """A node in this process, and Alice who calls it. Her session s1 has one turn, which runs."""
    store = StoreServer(binaries()[0], tmp_path)
    store.start()
    async with RedisSessionLog(Link(store.url), node="here") as log:
        node = Node(Settings(), log, quotas_beside(log), MODELS, SystemClock())
        node.api = HttpApi(node.backend, Tokens(), node.origins.permits)
        tasks = [asyncio.create_task(work) for work in node.tasks().values()]
        await node.backend.create_turn(caller("alice"), create(model="demo/stall"))
        async with served(node.application()) as base, aiohttp.ClientSession() as http:
            yield node, Caller(http, base, Authorization="Bearer of-alice")
        await node.running.abandon()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    store.stop()


@pytest.mark.parametrize(
    "header", [None, "Bearer", "Bearer ", "Bearer wrong", "Basic of-alice", "of-alice", f"Bearer of-{'x' * 17_000}"]
)
async def test_without_a_token_that_is_somebodys_nothing_is_told(
    inside: tuple[Node, Caller], header: str | None
) -> None:
    _, alice = inside
    nobody = Caller(alice.http, alice.base, **({} if header is None else {"Authorization": header}))
    for method, path in (
        ("GET", "/sessions"),
        ("GET", "/sessions/s1"),
        ("DELETE", "/sessions/s1"),
        ("GET", "/sessions/s1/turns"),
    ):
        answer = await nobody(method, path)
        assert answer.problem() == (401, "unauthenticated")
        assert answer.headers["www-authenticate"] == "Bearer"
    assert (await alice("GET", "/sessions/s1")).status == 200


async def test_another_users_session_is_byte_for_byte_one_that_never_was(inside: tuple[Node, Caller]) -> None:
    node, alice = inside
    bob = Caller(alice.http, alice.base, Authorization="bearer of-bob")
    calls = [
        ("GET", "", None),
        ("HEAD", "", None),
        ("PATCH", "", b'{"title":"mine"}'),
        ("PATCH", "", b'{"titel":"mine"}'),
        ("DELETE", "", None),
        ("GET", "/turns", None),
        ("GET", "/turns?before=t1", None),
        ("GET", "/turns?before=t_never", None),
    ]
    for method, path, body in calls:
        theirs = await bob(method, f"/sessions/s1{path}", data=body)
        never = await bob(method, f"/sessions/s_never{path}", data=body)
        assert (theirs.status, theirs.body) == (never.status, never.body)
        same = [{**answer.headers, "Date": ""} for answer in (theirs, never)]
        assert same[0] == same[1]
    assert (await bob("GET", "/sessions")).json == {"sessions": [], "next": None}
    assert (await alice("GET", "/sessions/s1")).json["title"] is None
    assert len(node.running) == 1


async def test_an_unfinished_turn_is_told_as_it_stands(inside: tuple[Node, Caller]) -> None:
    _, alice = inside
    (turn,) = (await alice("GET", "/sessions/s1/turns")).json["turns"]
    assert (turn["state"], turn["parts"], turn["author"]) == ("running", [], "alice")
    check_shape(turn)


@pytest.fixture
def logged() -> Iterator[io.StringIO]:
    """What a node's log would say."""
    stream = io.StringIO()
    structlog.configure(
        processors=[telemetry.tell_exception, telemetry.withhold_unknown, structlog.processors.JSONRenderer()],
        logger_factory=structlog.WriteLoggerFactory(stream),
    )
    yield stream
    structlog.reset_defaults()


async def test_a_store_that_is_away_asks_for_patience_and_a_fault_of_ours_says_nothing(
    inside: tuple[Node, Caller], monkeypatch: pytest.MonkeyPatch, logged: io.StringIO
) -> None:
    node, alice = inside
    calls = [("GET", "/sessions"), ("GET", "/sessions/s1"), ("DELETE", "/sessions/s1"), ("GET", "/sessions/s1/turns")]
    names = ("list_sessions", "read_session", "delete_session", "read_turns")
    for error, expected in (
        (Failure("store_away", "unix:///secret/place"), (503, "overloaded")),
        (Failure("store_full"), (503, "overloaded")),
        (ZeroDivisionError("secret place"), (500, "internal")),
    ):

        async def fail(*_: Any, error: Exception = error) -> Any:
            raise error

        for name in names:
            monkeypatch.setattr(node.backend._log, name, fail)
        for method, path in calls:
            answer = await alice(method, path)
            assert answer.problem() == expected
            assert b"secret" not in answer.body and b"ZeroDivision" not in answer.body
            if expected[0] == 503:
                assert int(answer.headers["retry-after"]) == answer.json["retry_after_ms"] // 1000 > 0
                assert answer.json["retry"] == "same_frame"
    told = logged.getvalue()
    assert "http_call_failed" in told and "ZeroDivisionError" in told
    assert "of-alice" not in told and "secret place" not in told


@pytest.mark.parametrize(("code", "status"), [("rate_limited", 429), ("quota_exceeded", 402)])
async def test_what_is_beyond_a_quota_says_so_in_the_words_of_http(
    inside: tuple[Node, Caller], monkeypatch: pytest.MonkeyPatch, code: Any, status: int
) -> None:
    node, alice = inside

    async def refuse(*_: Any) -> Any:
        raise Refused(code, "Enough for now.", retry_after_ms=1_500, upgrade_url="https://example.com/upgrade")

    monkeypatch.setattr(node.backend, "list_sessions", refuse)
    answer = await alice("GET", "/sessions")
    assert answer.problem() == (status, code)
    assert answer.headers["retry-after"] == "2" and answer.json["retry_after_ms"] == 1_500
    assert answer.json["upgrade_url"] == "https://example.com/upgrade"


async def test_a_body_that_does_not_come_is_not_waited_for(
    inside: tuple[Node, Caller], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, alice = inside
    monkeypatch.setattr(requests, "BODY_MS", 50)
    port = int(alice.base.rpartition(":")[2].partition("/")[0])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = "PATCH /v1/sessions/s1 HTTP/1.1", "Host: localhost", "Authorization: Bearer of-alice", "Content-Length: 9"
    writer.write("\r\n".join((*head, "", "")).encode())
    answer = await asyncio.wait_for(reader.read(), 10)
    assert answer.startswith(b"HTTP/1.1 408 ")
    writer.close()


async def test_a_client_that_leaves_amid_its_body_is_no_fault(
    inside: tuple[Node, Caller], monkeypatch: pytest.MonkeyPatch, logged: io.StringIO
) -> None:
    _, alice = inside
    began, left = asyncio.Event(), asyncio.Event()
    body_of = requests._body

    async def told(request: Request) -> bytes:
        began.set()
        try:
            return await body_of(request)
        finally:
            left.set()

    monkeypatch.setattr(requests, "_body", told)
    port = int(alice.base.rpartition(":")[2].partition("/")[0])
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    head = "PATCH /v1/sessions/s1 HTTP/1.1", "Host: localhost", "Authorization: Bearer of-alice", "Content-Length: 50"
    writer.write("\r\n".join((*head, "", '{"title":"half')).encode())
    await asyncio.wait_for(began.wait(), 10)
    writer.transport.abort()
    await asyncio.wait_for(left.wait(), 10)
    assert (await alice("GET", "/sessions/s1")).json["title"] is None
    assert logged.getvalue() == ""
