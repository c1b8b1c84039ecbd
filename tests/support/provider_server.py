"""A language model's service for tests: real HTTP/1.1 on a real socket, which plays a script and notes what it saw.

It speaks raw bytes on an asyncio protocol, so that it can cut an answer at any byte, hold it, reset it, and see the
moment at which its client's socket closes. It never parses what a test does not need, and it is light enough to feed a
benchmark: 200 streams of 50 tokens a second are well below half a core.

In a test:

    async with ProviderServer(in_order(Reply.of_status(429), Reply.of_events(CHUNKS))) as server:
        ...                                          # server.base_url ends in /v1
        assert len(server.requests) == 2

As a process, `python -m tests.support.provider_server --port 0 --tokens 250 --rate 50` prints its base URL and streams
stamped tokens to whoever posts to it: every delta is `<CLOCK_MONOTONIC in ns> ` and padding. A request may choose
otherwise with its model's name, `tokens=1000,rate=200`. `GET /requests` tells when each client's socket closed.
"""

import argparse
import asyncio
import json
import signal
import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, cast

CERTIFICATE = Path(__file__).with_name("untrusted.pem")
AUTHORITY = Path(__file__).with_name("authority.pem")
ISSUED = Path(__file__).with_name("issued.pem")
SSE_HEADERS: Mapping[str, str] = {"content-type": "text/event-stream; charset=utf-8"}


# --- what a test can say ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait before the next piece. 0 lets every ready task of this loop run a few times, and no time pass."""

    ms: float = 0


@dataclass(frozen=True, slots=True)
class Gate:
    """Wait until the test sets `event`."""

    event: asyncio.Event


Piece = bytes | Pause | Gate


@dataclass(frozen=True, slots=True)
class Reply:
    """One response.

    `ending`: `end` completes it · `cut` closes the socket where it stands · `reset` does so with a TCP reset · `stall`
    holds it until the client goes away · `ping` does too, sending an SSE comment every 5 ms. `framing` `close` sends
    the body bare and ends it by closing.
    """

    pieces: Iterable[Piece] = ()
    """A generator learns by the way when each of its pieces has been written."""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=lambda: SSE_HEADERS)
    ending: Literal["end", "cut", "reset", "stall", "ping"] = "end"
    framing: Literal["chunked", "close"] = "chunked"
    headers_after: Piece | None = None
    """What to wait for before anything is sent."""
    raw: bytes | None = None
    """Sent instead of a status line and headers."""

    @classmethod
    def of_events(cls, *events: Mapping[str, Any] | str, **options: Any) -> Self:
        """An SSE stream of one `data:` event for each value."""
        return cls(pieces=tuple(sse(event) for event in events), **options)

    @classmethod
    def of_status(cls, status: int, body: Mapping[str, Any] | None = None, **headers: str) -> Self:
        """An error as services answer it; `retry_after="1"` becomes the header retry-after."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        text = json.dumps(body if body is not None else {"error": {"message": "no", "type": "some_error"}})
        return cls((text.encode(),), status, {"content-type": "application/json", **named})

    @classmethod
    def of_text(cls, *texts: str, finish_reason: str = "stop") -> Self:
        """A whole chat completion stream whose deltas are `texts`."""
        return cls.of_events(*(chunk(text) for text in texts), chunk(finish_reason=finish_reason), "[DONE]")


@dataclass(frozen=True, slots=True)
class Stamped:
    """Tokens at a steady rate, each with the time at which it was written."""

    tokens: int = 250
    rate_per_s: float = 50
    padding: str = "token"


Answer = Reply | Stamped


def tls_context(certificate: Path = CERTIFICATE) -> ssl.SSLContext:
    """A server's, with a certificate that nobody trusts, or ISSUED for who trusts AUTHORITY."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


def sse(event: Mapping[str, Any] | str) -> bytes:
    return f"data: {event if isinstance(event, str) else json.dumps(event, ensure_ascii=False)}\n\n".encode()


def chunk(text: str | None = None, *, finish_reason: str | None = None, **delta: Any) -> dict[str, Any]:
    """A chat.completion.chunk with `text` and whatever else stands in its delta."""
    content = {} if text is None else {"content": text}
    choice = {"index": 0, "delta": content | delta, "finish_reason": finish_reason}
    return {"id": "c-1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}


@dataclass(slots=True)
class Received:
    """One request, and what became of its connection. Times are time.monotonic_ns()."""

    method: str
    path: str
    headers: Mapping[str, str]
    raw_body: bytes
    at_ns: int
    closed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the client's end of the connection closed, or broke."""
    closed_ns: int | None = None
    answered: bool = False
    """Whether the whole answer was written."""
    tokens_sent: int = 0

    @property
    def body(self) -> dict[str, Any]:
        return cast("dict[str, Any]", json.loads(self.raw_body))


def in_order(*answers: Answer) -> Callable[[Received], Answer]:
    """Plays the answers one after the other, and the last one ever after."""
    waiting = list(answers)
    return lambda _request: waiting.pop(0) if len(waiting) > 1 else waiting[0]


# --- the server ------------------------------------------------------------------------------------------------------


class ProviderServer:
    """Listens on a free port of 127.0.0.1 while its context lasts; with `tls` it shows that certificate."""

    def __init__(
        self,
        answer: Callable[[Received], Answer],
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.requests: list[Received] = []
        self.connections = 0
        self._answer = answer
        self._host = host
        self._port = port
        self._tls = tls
        self._server: asyncio.Server | None = None
        self._open: set[_Connection] = set()
        self._arrival = asyncio.Event()

    @property
    def base_url(self) -> str:
        return f"{'http' if self._tls is None else 'https'}://{self._host}:{self._port}/v1"

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: _Connection(self), self._host, self._port, backlog=4096, ssl=self._tls
        )
        self._port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        players = [connection.player for connection in self._open if connection.player is not None]
        for connection in list(self._open):
            connection.abort()
        await asyncio.gather(*players, return_exceptions=True)
        await self._server.wait_closed()

    async def request(self, number: int) -> Received:
        """Request `number`, from 0; waits until it has come in."""
        while len(self.requests) <= number:
            self._arrival.clear()
            await self._arrival.wait()
        return self.requests[number]

    @property
    def open_connections(self) -> int:
        return len(self._open)

    def take(self, word: str) -> list[Received]:
        """The requests whose body holds `word`, which are forgotten here."""
        found = [request for request in self.requests if word.encode() in request.raw_body]
        self.requests = [request for request in self.requests if request not in found]
        return found

    def opened(self, connection: "_Connection") -> None:
        self.connections += 1
        self._open.add(connection)

    def lost(self, connection: "_Connection") -> None:
        self._open.discard(connection)

    def answer_to(self, request: Received) -> Answer:
        if request.method == "GET":
            seen = [_as_seen(earlier) for earlier in self.requests]
            return Reply((json.dumps(seen).encode(),), headers={"content-type": "application/json"})
        self.requests.append(request)
        self._arrival.set()
        return self._answer(request)


def _as_seen(request: Received) -> dict[str, Any]:
    return {
        "path": request.path,
        "at_ns": request.at_ns,
        "closed_ns": request.closed_ns,
        "answered": request.answered,
        "tokens_sent": request.tokens_sent,
    }


class _Connection(asyncio.Protocol):
    """One client. Requests come one after the other, as HTTP/1.1 without pipelining has it."""

    def __init__(self, server: ProviderServer) -> None:
        self._server = server
        self._buffer = bytearray()
        self._writable = asyncio.Event()
        self._writable.set()
        self._current: Received | None = None
        self.player: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._server.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._gone()
        self._server.lost(self)
        if self.player is not None:
            self.player.cancel()

    def eof_received(self) -> None:
        self._gone()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def abort(self) -> None:
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head_end = self._buffer.find(b"\r\n\r\n")
        if head_end < 0:
            return
        request_line, *lines = self._buffer[:head_end].decode("latin-1").split("\r\n")
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        length = int(headers.get("content-length", "0"))
        if len(self._buffer) < head_end + 4 + length:
            return
        method, path, _ = request_line.split(" ", 2)
        body = bytes(self._buffer[head_end + 4 : head_end + 4 + length])
        self._buffer.clear()
        self._current = Received(method, path, headers, body, time.monotonic_ns())
        answer = self._server.answer_to(self._current)
        if isinstance(answer, Stamped):
            _Ticker(self._transport, self._current, answer).begin()
        else:
            self.player = asyncio.get_running_loop().create_task(self._play(answer, self._current))

    def _gone(self) -> None:
        if self._current is not None and self._current.closed_ns is None:
            self._current.closed_ns = time.monotonic_ns()
            self._current.closed.set()

    async def _play(self, reply: Reply, request: Received) -> None:
        if reply.headers_after is not None:
            await self._wait_for(reply.headers_after)
        chunked = reply.framing == "chunked" and reply.raw is None
        self._transport.write(_head(reply) if reply.raw is None else reply.raw)
        for piece in reply.pieces:
            if isinstance(piece, bytes):
                self._transport.write(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
                await self._writable.wait()
            else:
                await self._wait_for(piece)
        await self._end(reply, request, chunked)

    async def _end(self, reply: Reply, request: Received, chunked: "bool") -> None:
        match reply.ending:
            case "end" if chunked:
                request.answered = True
                self._transport.write(b"0\r\n\r\n")
            case "end":
                request.answered = True
                self._transport.close()
            case "cut":
                self._transport.close()
            case "reset":
                linger = struct.pack("ii", 1, 0)
                self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                self._transport.abort()
            case "stall":
                await request.closed.wait()
            case "ping":
                while not request.closed.is_set():
                    self._transport.write(b"8\r\n: ping\n\n\r\n")
                    await asyncio.sleep(0.005)

    async def _wait_for(self, piece: Piece) -> None:
        match piece:
            case Gate(event):
                await event.wait()
            case Pause(0):
                for _ in range(6):
                    await asyncio.sleep(0)
            case Pause(ms):
                await asyncio.sleep(ms / 1000)
            case bytes():
                self._transport.write(piece)


def _head(reply: Reply) -> bytes:
    lines = [f"HTTP/1.1 {reply.status} Whatever", *(f"{name}: {value}" for name, value in reply.headers.items())]
    lines.append("transfer-encoding: chunked" if reply.framing == "chunked" else "connection: close")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


class _Ticker:
    """Writes stamped tokens on a fixed schedule; one that is late is written at once and says its true time."""

    def __init__(self, transport: asyncio.Transport, request: Received, answer: Stamped) -> None:
        self._transport = transport
        self._request = request
        self._answer = answer
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        frame = json.dumps(chunk("\0 " + answer.padding))
        before, after = frame.split("\\u0000")
        self._before = b"data: " + before.encode()
        self._after = after.encode() + b"\n\n"

    def begin(self) -> None:
        self._transport.write(_head(Reply()))
        self._tick()

    def _tick(self) -> None:
        request = self._request
        if self._transport.is_closing():
            return
        while request.tokens_sent < self._answer.tokens:
            at = self._began + request.tokens_sent / self._answer.rate_per_s
            if at > self._loop.time():
                self._loop.call_at(at, self._tick)
                return
            event = b"%b%d%b" % (self._before, time.monotonic_ns(), self._after)
            self._transport.write(b"%x\r\n%b\r\n" % (len(event), event))
            request.tokens_sent += 1
        usage = {"prompt_tokens": 1, "completion_tokens": self._answer.tokens}
        for event in (sse(chunk(finish_reason="stop")), sse({"choices": [], "usage": usage}), sse("[DONE]")):
            self._transport.write(b"%x\r\n%b\r\n" % (len(event), event))
        self._transport.write(b"0\r\n\r\n")
        request.answered = True


# --- as a process ----------------------------------------------------------------------------------------------------


def stamped_as_asked(default: Stamped) -> Callable[[Received], Answer]:
    """Stamped tokens, as many and as fast as the request's model says (`tokens=1000,rate=200,padding=32`)."""

    def answer(request: Received) -> Answer:
        model = str(request.body.get("model", ""))
        asked = dict(pair.split("=", 1) for pair in model.split(",") if "=" in pair)
        return Stamped(
            int(asked.get("tokens", default.tokens)),
            float(asked.get("rate", default.rate_per_s)),
            "x" * int(asked["padding"]) if "padding" in asked else default.padding,
        )

    return answer


async def _serve(host: str, port: int, default: Stamped) -> None:
    async with ProviderServer(stamped_as_asked(default), host=host, port=port) as server:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        print(server.base_url, flush=True)
        await stop.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description="Streams stamped tokens to whoever asks.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--tokens", type=int, default=250)
    parser.add_argument("--rate", type=float, default=50, help="tokens a second and stream")
    parser.add_argument("--padding", default="token", help="text behind each stamp")
    options = parser.parse_args()
    serve = _serve(options.host, options.port, Stamped(options.tokens, options.rate, options.padding))
    try:
        import uvloop
    except ImportError:  # Windows has none.
        asyncio.run(serve)
    else:
        uvloop.run(serve)


if __name__ == "__main__":
    main()
