"""What our HTTP protocol class adds to uvicorn's, on real sockets and both event loops: nobody waits for ever."""

import socket
import time
from collections.abc import Generator
from typing import Any

import pytest

from tests.support.serving import LOOPS, Loop, Served, handshake, read_all, read_head, serving
from turnwire.transports import uvicorn_http as module

LARGE_BYTES = 12_000_000


async def application(scope: Any, receive: Any, send: Any) -> None:
    """/large answers a lot, everything else a little; a WebSocket is kept."""
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while (await receive())["type"] != "websocket.disconnect":
            pass
        return
    body = bytes(LARGE_BYTES) if scope["path"] == "/large" else b"hello"
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@pytest.fixture(params=LOOPS)
def served(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Generator[Served]:
    loop: Loop = request.param
    monkeypatch.setattr(module, "HEAD_MS", 300)
    monkeypatch.setattr(module, "STALLED_MS", 300)
    with serving(application, loop) as served:
        yield served


def ask(raw: socket.socket, path: str = "/") -> bytes:
    raw.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    head = read_head(raw)
    assert raw.recv(5) == b"hello"
    return head


def test_a_connection_that_says_nothing_is_dropped(served: Served) -> None:
    with served.connect() as raw:
        assert read_all(raw) == b""
    served.inside_are(0)


@pytest.mark.parametrize("begun", [b"", b"GET / HTTP/1.1\r\nHost: x\r\n"], ids=["line", "headers"])
def test_a_head_that_trickles_is_dropped_however_it_goes_on(served: Served, begun: bytes) -> None:
    with served.connect() as raw:
        raw.sendall(begun)
        began_s = time.monotonic()
        with pytest.raises(OSError):
            while time.monotonic() < began_s + 20:
                raw.sendall(b"A")
                raw.settimeout(0.02)
                try:
                    if raw.recv(100) == b"":
                        raise ConnectionError
                except TimeoutError:
                    continue
        assert time.monotonic() < began_s + 20


def test_the_next_requests_head_has_its_deadline_too_and_waiting_for_it_does_not_count(served: Served) -> None:
    with served.connect() as raw:
        assert ask(raw).startswith(b"HTTP/1.1 200 ")
        raw.settimeout(0.5)  # longer than a head may take, shorter than uvicorn keeps a connection
        with pytest.raises(TimeoutError):
            raw.recv(1)
        raw.settimeout(20)
        assert ask(raw).startswith(b"HTTP/1.1 200 ")
        raw.sendall(b"GET / HT")
        assert read_all(raw) == b""


def test_two_requests_at_once_are_both_answered(served: Served) -> None:
    with served.connect() as raw:
        raw.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 2)
        for _ in range(2):
            assert read_head(raw).startswith(b"HTTP/1.1 200 ")
            assert raw.recv(5) == b"hello"
        assert ask(raw).startswith(b"HTTP/1.1 200 ")


def test_an_answer_that_nobody_reads_is_dropped(served: Served) -> None:
    with served.connect(receive_bytes=4_096) as raw:
        raw.sendall(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
        served.inside_are(1)
        served.inside_are(0)
        assert len(read_all(raw)) < LARGE_BYTES


def test_an_answer_that_is_read_slowly_arrives_whole(served: Served) -> None:
    with served.connect() as raw:
        raw.sendall(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
        read_head(raw)
        began_s, left = time.monotonic(), LARGE_BYTES
        while left:
            # Three times as long as a peer may read nothing at all.
            if time.monotonic() < began_s + 0.9:
                time.sleep(0.05)
            left -= len(raw.recv(400_000))


def test_a_head_that_is_too_large_is_refused(served: Served) -> None:
    with served.connect() as raw:
        raw.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n")
        try:
            for _ in range(40):
                raw.sendall(b"X-Long: " + b"y" * 1_000 + b"\r\n")
        except ConnectionError:
            pass
        assert read_all(raw)[:13] in (b"HTTP/1.1 400 ", b"")
    served.inside_are(0)


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/", "X-Long: " + "y" * 9_000 + "\r\n", b"431"),
        ("/", "X-Many: y\r\n" * 200, b"431"),
        ("/" + "y" * 9_000, "", b"414"),
    ],
    ids=["a long line", "many", "a long address"],
)
def test_a_websockets_head_that_is_too_large_for_it_is_answered_and_closed(
    served: Served, path: str, headers: str, status: bytes
) -> None:
    """uvicorn would wait for another one, for ever."""
    with served.connect() as raw:
        raw.sendall(handshake(path, headers))
        assert read_all(raw).startswith(b"HTTP/1.1 " + status)
    served.inside_are(0)


@pytest.mark.parametrize("broken", ["Sec-WebSocket-Version: 12", "Sec-WebSocket-Key: short", "Upgrade: other"])
def test_a_websockets_handshake_that_is_none_is_answered_and_closed(served: Served, broken: str) -> None:
    name = broken.partition(":")[0]
    lines = [line for line in handshake().decode().split("\r\n") if not line.startswith(name)]
    with served.connect() as raw:
        raw.sendall("\r\n".join([*lines[:-2], broken, "", ""]).encode())
        head = read_head(raw)
        assert head.startswith((b"HTTP/1.1 4", b"HTTP/1.1 200 "))


def test_a_websocket_is_not_dropped_for_being_silent(served: Served) -> None:
    with served.websocket() as raw:
        raw.settimeout(0.7)
        with pytest.raises(TimeoutError):
            raw.recv(1)
        served.inside_are(1)
