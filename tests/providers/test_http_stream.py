"""The way upstream over real sockets: every byte comes through, every failure has its kind, and leaving closes.

That a socket was closed is asked of the other end, never of the client.
"""

import asyncio
import socket
import ssl
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest

from tests.support.provider_server import (
    AUTHORITY,
    ISSUED,
    Gate,
    Pause,
    ProviderServer,
    Received,
    Reply,
    chunk,
    in_order,
    sse,
    tls_context,
)
from turnwire.ports import Deadlines, Failure
from turnwire.providers import upstream
from turnwire.providers.http_stream import HttpStream

PATIENT = Deadlines()
QUICK = Deadlines(connect=300, first_content=300)
CLOSE_MS_MAX = 10
"""Of the median; measured are 0.1 ms, but these machines are shared."""


@pytest.fixture
async def http() -> AsyncIterator[HttpStream]:
    client = HttpStream()
    yield client
    await client.aclose()


async def body_of(http: HttpStream, url: str, deadlines: Deadlines = PATIENT, content: bytes = b"{}") -> bytes:
    read = b""
    async with http.post(url, {}, content, deadlines) as body:
        while piece := await body.chunk():
            read += piece
    return read


async def failure_of(http: HttpStream, url: str, deadlines: Deadlines = QUICK) -> Failure:
    with pytest.raises(Failure) as failure:
        await body_of(http, url, deadlines)
    return failure.value


def ms_from(began_ns: int, request: Received) -> float:
    assert request.closed_ns is not None
    return (request.closed_ns - began_ns) / 1e6


async def closed(request: Received) -> None:
    async with asyncio.timeout(2):
        await request.closed.wait()


# --- what goes through -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("framing", ["chunked", "close"])
async def test_a_body_comes_through_byte_for_byte_and_the_request_is_as_given(http: HttpStream, framing: Any) -> None:
    pieces = (b"data: a\n\n", b"\x00\xff", b"x" * 300_000)
    content = b'{"long": "%b"}' % (b"y" * 3_000_000)
    async with ProviderServer(in_order(Reply(pieces, framing=framing))) as server:
        assert await body_of(http, server.base_url + "/chat/completions?a=1", content=content) == b"".join(pieces)
        request = server.requests[0]
    assert (request.method, request.path) == ("POST", "/v1/chat/completions?a=1")
    assert request.raw_body == content
    assert request.headers["content-type"] == "application/json"
    assert request.headers["accept-encoding"] == "identity"
    assert "cookie" not in request.headers


async def test_a_connection_whose_answer_was_read_to_the_end_is_used_again(http: HttpStream) -> None:
    headers = {"content-type": "text/event-stream", "set-cookie": "who=somebody"}
    async with ProviderServer(in_order(Reply((b"data: a\n\n",), headers=headers))) as server:
        for _ in range(3):
            await body_of(http, server.base_url)
        assert (server.connections, len(server.requests)) == (1, 3)
        assert "cookie" not in server.requests[2].headers


async def test_more_streams_than_a_hundred_run_at_once(http: HttpStream) -> None:
    go = asyncio.Event()
    async with ProviderServer(in_order(Reply((b"data: a\n\n", Gate(go), b"data: b\n\n")))) as server:
        streams = [asyncio.create_task(body_of(http, server.base_url)) for _ in range(150)]
        async with asyncio.timeout(10):
            await server.request(149)
        go.set()
        assert await asyncio.gather(*streams) == [b"data: a\n\ndata: b\n\n"] * 150


async def test_beyond_its_maximum_of_connections_a_request_waits_no_longer_than_for_a_connection() -> None:
    http = HttpStream(connections_max=1)
    async with ProviderServer(in_order(Reply(ending="stall"))) as server:
        async with http.post(server.base_url, {}, b"{}", PATIENT):
            assert (await failure_of(http, server.base_url, Deadlines(connect=100))).kind == "timeout_connect"
    await http.aclose()


async def test_a_proxy_is_used_if_and_only_if_it_is_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    async with ProviderServer(in_order(Reply((b"data: a\n\n",)))) as server:
        address = server.base_url.removesuffix("/v1")
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
        for http, url, path in [
            (HttpStream(), server.base_url, "/v1"),
            (HttpStream(proxy_url=address), "http://model.invalid/v1", "http://model.invalid/v1"),
        ]:
            assert await body_of(http, url) == b"data: a\n\n"
            assert server.requests[-1].path == path
            await http.aclose()


# --- what fails ------------------------------------------------------------------------------------------------------


async def test_a_refused_connection_and_an_unknown_host_are_connect_failures(http: HttpStream) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        refused = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        for url in (refused, "http://model.invalid/v1"):
            failure = await failure_of(http, url, PATIENT)
            assert (failure.kind, failure.may_retry) == ("upstream_connect", True)


async def test_a_host_that_does_not_accept_is_a_connect_timeout(http: HttpStream) -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        # The queue of an unaccepted listener takes one connection more than it says; the next one gets no answer.
        waiting = [socket.socket() for _ in range(2)]
        for client in waiting:
            client.setblocking(False)
            client.connect_ex(full.getsockname())
        began = time.monotonic()
        failure = await failure_of(http, f"http://127.0.0.1:{full.getsockname()[1]}/v1", Deadlines(connect=200))
        for client in waiting:
            client.close()
    assert failure.kind == "timeout_connect"
    assert 0.15 < time.monotonic() - began < 2


async def test_a_certificate_that_is_not_trusted_is_not_tried_again(http: HttpStream) -> None:
    async with ProviderServer(in_order(Reply()), tls=tls_context()) as server:
        failure = await failure_of(http, server.base_url, PATIENT)
    assert (failure.kind, failure.may_retry) == ("upstream_connect", False)
    assert server.requests == []


async def test_an_authority_that_is_named_is_trusted_and_no_other(http: HttpStream) -> None:
    named = HttpStream(ca_file=AUTHORITY)
    async with ProviderServer(in_order(Reply((b"data: a\n\n",))), tls=tls_context(ISSUED)) as server:
        assert (await failure_of(http, server.base_url, PATIENT)).kind == "upstream_connect"
        assert await body_of(named, server.base_url, PATIENT) == b"data: a\n\n"
    async with ProviderServer(in_order(Reply()), tls=tls_context()) as server:
        assert (await failure_of(named, server.base_url, PATIENT)).kind == "upstream_connect"
    await named.aclose()


@pytest.mark.parametrize(("content", "error"), [(None, OSError), ("no certificate", ssl.SSLError)])
def test_an_authority_that_cannot_be_read_is_told_at_once(
    tmp_path: Path, content: str | None, error: type[Exception]
) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_text(content)
    with pytest.raises(error):
        HttpStream(ca_file=path)


async def test_a_service_that_does_not_speak_tls_is_a_connect_failure(http: HttpStream) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.setblocking(False)
        request = asyncio.create_task(failure_of(http, f"https://127.0.0.1:{listener.getsockname()[1]}", PATIENT))
        accepted, _ = await asyncio.get_running_loop().sock_accept(listener)
        accepted.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        assert (await request).kind == "upstream_connect"
        accepted.close()


async def test_headers_that_do_not_come_are_a_first_content_timeout_and_close_the_socket(http: HttpStream) -> None:
    async with ProviderServer(in_order(Reply(headers_after=Gate(asyncio.Event())))) as server:
        failure = await failure_of(http, server.base_url)
        assert failure.kind == "timeout_first_content"
        await closed(server.requests[0])


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        pytest.param(Reply(raw=b"\x16\x03\x01 rubbish\r\n\r\n", ending="cut"), "malformed", id="garbage"),
        pytest.param(Reply(raw=b"HTTP/1.1 abc\r\n\r\n", ending="cut"), "malformed", id="no status"),
        pytest.param(Reply(raw=b"", ending="cut"), "upstream_failed", id="hangs up without an answer"),
        pytest.param(Reply(raw=b"", ending="reset"), "upstream_failed", id="resets without an answer"),
        pytest.param(
            Reply(raw=b"HTTP/1.1 200 OK\r\nx: " + b"y" * 99_999, ending="stall"), "malformed", id="long header"
        ),
        pytest.param(Reply((b"{}",), headers={"content-type": "application/json"}), "malformed", id="JSON"),
        pytest.param(Reply((b"hi",), headers={"content-type": "text/html"}), "malformed", id="HTML"),
        pytest.param(Reply(headers={}), "malformed", id="no content type"),
        pytest.param(
            Reply(headers={"content-type": "text/event-stream", "content-encoding": "gzip"}), "malformed", id="gzip"
        ),
        pytest.param(Reply.of_status(401), "upstream_unauthorised", id="401"),
        pytest.param(Reply.of_status(429), "upstream_busy", id="429"),
        pytest.param(Reply.of_status(500), "upstream_failed", id="500"),
        pytest.param(Reply((b"x" * 200_000,), 500), "upstream_failed", id="500 with a large body"),
        pytest.param(Reply((b"x" * 9,), 500, ending="cut"), "upstream_failed", id="500 with a cut body"),
    ],
)
async def test_an_answer_that_is_no_stream_has_its_kind(http: HttpStream, reply: Reply, kind: str) -> None:
    async with ProviderServer(in_order(reply)) as server:
        assert (await failure_of(http, server.base_url, PATIENT)).kind == kind


async def test_an_error_body_that_does_not_end_is_not_waited_for(
    http: HttpStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upstream, "ERROR_BODY_MS", 50)
    async with ProviderServer(in_order(Reply((b"{",), 503, ending="stall"))) as server:
        assert (await failure_of(http, server.base_url)).kind == "upstream_busy"
        await closed(server.requests[0])


async def test_of_a_long_error_body_only_the_beginning_is_read(http: HttpStream) -> None:
    async with ProviderServer(in_order(Reply((b"x" * 200_000,), 503, ending="stall"))) as server:
        began = time.monotonic()
        assert (await failure_of(http, server.base_url)).kind == "upstream_busy"
        assert time.monotonic() - began < upstream.ERROR_BODY_MS / 1000 / 2
        await closed(server.requests[0])


async def test_advice_in_headers_and_body_gets_through(http: HttpStream) -> None:
    replies = (
        Reply.of_status(429, retry_after="7"),
        Reply.of_status(503, retry_after_ms="250", x_should_retry="false"),
        Reply.of_status(429, {"error": {"code": "insufficient_quota"}}),
    )
    async with ProviderServer(in_order(*replies)) as server:
        failures = [await failure_of(http, server.base_url) for _ in replies]
    assert [(failure.kind, failure.retry_after_ms, failure.may_retry) for failure in failures] == [
        ("upstream_busy", 7_000, True),
        ("upstream_busy", 250, False),
        ("upstream_rejected", None, False),
    ]


async def test_a_redirect_is_not_followed(http: HttpStream) -> None:
    async with ProviderServer(in_order(Reply((b"data: stolen\n\n",)))) as elsewhere:
        async with ProviderServer(in_order(Reply.of_status(307, location=elsewhere.base_url))) as server:
            failure = await failure_of(http, server.base_url)
        assert (failure.kind, failure.may_retry) == ("upstream_rejected", False)
        assert elsewhere.requests == []


@pytest.mark.parametrize("ending", ["cut", "reset"])
async def test_a_connection_that_breaks_in_the_middle_is_a_truncated_answer(http: HttpStream, ending: Any) -> None:
    arrived = asyncio.Event()
    async with ProviderServer(in_order(Reply((b"data: a\n\n", Gate(arrived)), ending=ending))) as server:
        async with http.post(server.base_url, {}, b"{}", PATIENT) as body:
            assert await body.chunk() == b"data: a\n\n"
            arrived.set()
            with pytest.raises(Failure) as failure:
                await body.chunk()
    assert failure.value.kind == "truncated"


@pytest.mark.parametrize("ending", ["cut", "reset"])
async def test_what_came_before_a_connection_broke_is_read_first(http: HttpStream, ending: Any) -> None:
    arrived = asyncio.Event()
    pieces = (b"data: a\n\n", Gate(arrived), b"data: b\n\n", Pause(), b"data: c\n\n", Pause())
    reply = Reply(pieces, ending=ending)
    async with ProviderServer(in_order(reply)) as server, http.post(server.base_url, {}, b"{}", PATIENT) as body:
        assert await body.chunk() == b"data: a\n\n"
        arrived.set()
        # Both come in, and the end behind them, while nobody reads.
        await closed(server.requests[0])
        for _ in range(20):
            await asyncio.sleep(0)
        assert cast("Any", body)._content.exception() is not None
        assert await body.chunk() == b"data: b\n\ndata: c\n\n"
        for _ in range(2):
            with pytest.raises(Failure) as failure:
                await body.chunk()
            assert failure.value.kind == "truncated"


async def test_broken_framing_in_the_middle_is_a_truncated_answer(http: HttpStream) -> None:
    arrived = asyncio.Event()
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    broken = Reply((Gate(arrived), b"not hex\r\n"), raw=head + b"2\r\nhi\r\n", ending="stall")
    async with ProviderServer(in_order(broken)) as server, http.post(server.base_url, {}, b"{}", PATIENT) as body:
        assert await body.chunk() == b"hi"
        arrived.set()
        with pytest.raises(Failure) as failure:
            await body.chunk()
    assert failure.value.kind == "truncated"


async def test_no_failure_tells_an_address_a_header_or_a_body(http: HttpStream) -> None:
    async with ProviderServer(in_order(Reply.of_status(400, {"error": {"message": "the prompt"}}))) as server:
        with pytest.raises(Failure) as failure:
            async with http.post(server.base_url, {"authorization": "Bearer sk-1"}, b"{}", QUICK):
                pass
    for word in ("127.0.0.1", "sk-1", "the prompt"):
        assert word not in str(failure.value)


# --- what closes -----------------------------------------------------------------------------------------------------


async def test_a_request_cancelled_before_its_first_byte_closes_its_socket_at_once(http: HttpStream) -> None:
    async with ProviderServer(in_order(Reply(headers_after=Gate(asyncio.Event())))) as server:
        took_ms: list[float] = []
        for number in range(20):
            request = asyncio.create_task(body_of(http, server.base_url))
            received = await server.request(number)
            began_ns = time.monotonic_ns()
            request.cancel()
            with pytest.raises(asyncio.CancelledError):
                await request
            await closed(received)
            took_ms.append(ms_from(began_ns, received))
        assert sorted(took_ms)[10] < CLOSE_MS_MAX


@pytest.mark.parametrize("tls", [None, tls_context(ISSUED)], ids=["plain", "TLS"])
async def test_leaving_in_the_middle_of_a_stream_closes_its_socket_at_once(tls: ssl.SSLContext | None) -> None:
    http = HttpStream(ca_file=AUTHORITY)
    took_ms: list[float] = []
    async with ProviderServer(in_order(Reply((b"data: a\n\n",), ending="ping")), tls=tls) as server:
        for number in range(20):
            async with http.post(server.base_url, {}, b"{}", PATIENT) as body:
                await body.chunk()
                began_ns = time.monotonic_ns()
            await closed(server.requests[number])
            took_ms.append(ms_from(began_ns, server.requests[number]))
        assert server.connections == 20
    assert sorted(took_ms)[10] < CLOSE_MS_MAX
    await http.aclose()


async def test_a_stream_that_is_left_with_much_unread_is_closed_too(http: HttpStream) -> None:
    flood = Reply(tuple(b"data: %b\n\n" % (b"x" * 60_000) for _ in range(200)), ending="stall")
    async with ProviderServer(in_order(flood)) as server:
        async with http.post(server.base_url, {}, b"{}", PATIENT) as body:
            await body.chunk()
            began_ns = time.monotonic_ns()
        await closed(server.requests[0])
        assert ms_from(began_ns, server.requests[0]) < 100 * CLOSE_MS_MAX


async def test_cancelling_while_the_service_does_not_read_the_request_resets_the_connection(http: HttpStream) -> None:
    loop = asyncio.get_running_loop()
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.setblocking(False)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        request = asyncio.create_task(body_of(http, url, content=b"x" * 16_000_000))
        accepted, _ = await loop.sock_accept(listener)
        await loop.sock_recv(accepted, 1)
        began = time.monotonic()
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
        assert time.monotonic() - began < 0.5
        # Without a reset the sixteen megabytes would come to their end first.
        with pytest.raises(ConnectionResetError):
            while await loop.sock_recv(accepted, 65_536):
                pass
        accepted.close()


async def test_closing_the_client_closes_kept_connections(http: HttpStream) -> None:
    async with ProviderServer(in_order(Reply((b"data: a\n\n",)))) as server:
        await body_of(http, server.base_url)
        assert not server.requests[0].closed.is_set()
        await http.aclose()
        await closed(server.requests[0])


async def test_a_service_that_leaves_a_finished_answer_open_costs_its_connection_only() -> None:
    http = HttpStream()
    end = sse(chunk("a", finish_reason="stop")) + sse("[DONE]")
    async with ProviderServer(in_order(Reply((end,), ending="stall"))) as server:
        async with http.post(server.base_url, {}, b"{}", PATIENT) as body:
            assert await body.chunk() == end
            began = time.monotonic()
            await body.read_out()
            assert time.monotonic() - began < 1
        await closed(server.requests[0])
    await http.aclose()
