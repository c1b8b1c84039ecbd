"""The only way upstream: one POST whose answer is a stream of events, over HTTP/1.1.

No other file knows an HTTP library, and no exception of one gets out. The library is aiohttp itself, without the httpx
API on top of it, for three measured reasons: the layer costs 8 µs more a token (29 instead of 20 at 150 streams), it
reports a server that hung up as a connect timeout, and it offers no hold on the socket: a cancelled request whose body
the service does not read would stay connected, since closing first sends what is left. Here leaving the context, or
being cancelled anywhere inside it, aborts the connection, and waits until it is closed.

Nothing of the environment counts: no proxy variables, no .netrc. A proxy is used if it is configured. Redirects are not
followed, for they would carry the key and the prompt to another host, and cookies are not kept.
"""

import asyncio
import socket
import ssl
import struct
from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Final, NoReturn, cast

import aiohttp
from aiohttp.abc import AbstractStreamWriter
from aiohttp.client_proto import ResponseHandler
from aiohttp.http_writer import StreamWriter

from turnwire.ports import Deadlines, Failure
from turnwire.providers.upstream import Upstream

CONNECTIONS_MAX: Final = 4_096
"""Of one process, to all services. Whoever finds none free waits for one as for a connection."""

KEPT_ALIVE_MS: Final = 30_000
"""How long an unused connection is kept: less than any common load balancer does, which would close it first."""

READ_OUT_MS: Final = 50
CLOSE_MS: Final = 1_000
_WRITE_BYTES: Final = 65_536
_LINGER_NOT: Final = struct.pack("ii", 1, 0)
"""struct linger of SO_LINGER: on, for no time."""


class HttpStream(Upstream):
    """One HTTP client for the whole process. It belongs to the event loop in which it is first used."""

    def __init__(
        self,
        *,
        connections_max: int = CONNECTIONS_MAX,
        proxy_url: str | None = None,
        ca_file: Path | None = None,
    ) -> None:
        """`ca_file`: certificates (PEM) of authorities that are trusted beside the system's. Raises OSError when it
        cannot be read, ssl.SSLError when there is none in it."""
        self._connections_max = connections_max
        self._proxy_url = proxy_url
        self._trusted = ssl.create_default_context()
        if ca_file is not None:
            self._trusted.load_verify_locations(cafile=ca_file)
        self._session: aiohttp.ClientSession | None = None

    @asynccontextmanager
    async def ask(
        self, url: str, headers: Mapping[str, str], content: bytes, deadlines: Deadlines
    ) -> AsyncGenerator["_Answer"]:
        """See Upstream."""
        upload = _Upload(content)
        response: aiohttp.ClientResponse | None = None
        try:
            response = await self._request(url, headers, upload, deadlines)
            with _ended_by_its_connection(response):
                yield _Answer(response)
        finally:
            await _hang_up(response, upload)

    async def aclose(self) -> None:
        """Close every connection. The client is not to be used again."""
        if self._session is not None:
            await self._session.close()

    async def _request(
        self, url: str, headers: Mapping[str, str], upload: "_Upload", deadlines: Deadlines
    ) -> aiohttp.ClientResponse:
        try:
            async with asyncio.timeout(deadlines.first_content / 1000):
                return await self._opened_session().post(
                    url,
                    data=upload,
                    headers={**_HEADERS, **headers},
                    timeout=aiohttp.ClientTimeout(connect=deadlines.connect / 1000),
                    allow_redirects=False,
                    proxy=self._proxy_url,
                )
        except aiohttp.ConnectionTimeoutError as error:
            raise Failure("timeout_connect", f"no connection within {deadlines.connect} ms") from error
        except TimeoutError as error:
            raise Failure("timeout_first_content", f"no answer within {deadlines.first_content} ms") from error
        except aiohttp.ClientError as error:
            _fail(error)

    def _opened_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=self._connections_max, keepalive_timeout=KEPT_ALIVE_MS / 1000, ssl=self._trusted
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                trust_env=False,
            )
        return self._session


_HEADERS: Final[Mapping[str, str]] = {
    "content-type": "application/json",
    "accept": "text/event-stream",
    # A compressed stream would be held back until a block is full.
    "accept-encoding": "identity",
    "user-agent": "turnwire",
}


class _Answer:
    """See upstream.Answer."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.status = response.status
        self.headers = {name.lower(): value for name, value in response.headers.items()}
        self._content = response.content

    async def chunk(self) -> bytes:
        try:
            return await self._content.readany()
        except aiohttp.ClientError as error:
            unread = self._unread(error)
            if unread:
                return unread
            raise Failure("truncated", f"the connection broke: {type(error).__name__}") from error

    def _unread(self, error: aiohttp.ClientError) -> bytes:
        """What had come before the connection broke: aiohttp would raise first and never hand it out."""
        self._content.set_exception(cast("BaseException", None))
        unread = self._content.read_nowait()
        self._content.set_exception(error)
        return unread

    async def read_out(self) -> None:
        """Services send the end right behind their last event. One that does not costs this wait and its connection."""
        try:
            async with asyncio.timeout(READ_OUT_MS / 1000):
                while await self._content.readany():
                    pass
        except (TimeoutError, aiohttp.ClientError):
            return


class _Upload(aiohttp.Payload):
    """The request's body. It notes the connection on which it is written, which aiohttp does not tell otherwise."""

    def __init__(self, content: bytes) -> None:
        super().__init__(content, content_type="application/json")
        self._content = content
        self._size = len(content)
        self.transport: asyncio.Transport | None = None

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return self._content.decode(encoding, errors)

    async def write(self, writer: AbstractStreamWriter) -> None:
        await self.write_with_length(writer, None)

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:
        self.transport = cast("StreamWriter", writer).transport
        end = len(self._content) if content_length is None else content_length
        for start in range(0, end, _WRITE_BYTES):
            await writer.write(self._content[start : min(start + _WRITE_BYTES, end)])


def _fail(error: aiohttp.ClientError) -> NoReturn:
    """Translate what went wrong before the answer began. Exceptions' texts may hold addresses: only types get on."""
    detail = type(error).__name__
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        raise Failure("upstream_connect", detail, may_retry=False) from error
    if isinstance(error, aiohttp.ClientConnectorError):
        raise Failure("upstream_connect", detail) from error
    if isinstance(error, aiohttp.ClientConnectionError):
        raise Failure("upstream_failed", detail) from error
    raise Failure("malformed", detail) from error


async def _hang_up(response: aiohttp.ClientResponse | None, upload: _Upload) -> None:
    """Abort the connection and wait until it is closed; one whose answer was read to the end is already given back."""
    transport = upload.transport
    if response is not None:
        connection = response.connection
        transport = connection.transport if connection is not None else None
    closed: asyncio.Future[None] | None = None
    if transport is not None:
        protocol = transport.get_protocol()
        # It is none any more where the connection was lost before.
        closed = protocol.closed if isinstance(protocol, ResponseHandler) else None
        _reset(transport)
    if response is not None:
        response.close()
    if closed is not None:
        _look_at_later(closed)
        await asyncio.wait((closed,), timeout=CLOSE_MS / 1000)


def _reset(transport: asyncio.Transport) -> None:
    """Close with a TCP reset: what the system still held of the request is dropped, and the service cannot take the
    end of our sending for a half-closed connection on which it may go on answering."""
    connection = transport.get_extra_info("socket")
    # Each loop has its own way to say that the socket was closed in the meantime.
    with suppress(OSError, ValueError):
        if connection is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
    transport.abort()


@contextmanager
def _ended_by_its_connection(response: aiohttp.ClientResponse) -> Generator[None]:
    """Let whoever reads the body know when its connection is gone.

    aiohttp closes a connection whose chunked framing is broken and tells the request, but not the body: its reader
    would wait for a dead socket until the idle deadline.
    """
    connection = response.connection
    protocol = connection.protocol if connection is not None else None
    closed = protocol.closed if protocol is not None else None
    if closed is None:
        yield
        return
    break_off = partial(_break_off, response.content)
    closed.add_done_callback(break_off)
    _look_at_later(closed)
    try:
        yield
    finally:
        closed.remove_done_callback(break_off)


def _break_off(content: aiohttp.StreamReader, _closed: "asyncio.Future[None]") -> None:
    if not content.is_eof() and content.exception() is None:
        content.set_exception(aiohttp.ClientPayloadError("the connection was closed"))


def _look_at_later(closed: "asyncio.Future[None]") -> None:
    """Take note, once, of how a connection will end: of an exception that nobody asked for the loop would complain."""
    closed.remove_done_callback(_look_at)
    closed.add_done_callback(_look_at)


def _look_at(closed: "asyncio.Future[None]") -> None:
    if not closed.cancelled():
        closed.exception()
