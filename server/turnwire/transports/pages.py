"""What a browser or an orchestrator gets over plain HTTP: the page with its files, /livez and /readyz.

The files are read and compressed once, when the server starts, and never built here: what clients/js makes is
committed. The policy that goes with them is the page's second wall. An answer that got past the sanitiser still could
not run a script, load from elsewhere or send anything there.
"""

import gzip
import re
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import asdict, dataclass
from hashlib import sha256
from importlib.resources import files
from pathlib import PurePath
from typing import Final

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

MEDIA_TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".ico": "image/x-icon",
    ".js": "text/javascript; charset=utf-8",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}
"""Files of the web folder with another suffix are not served."""

PAGE: Final = "index.html"
CLIENT: Final = "turnwire.js"
"""The one file that pages of other origins may import: it holds no secret and does nothing by itself."""

HEADERS: Final = {
    "cache-control": "no-cache",
    "referrer-policy": "no-referrer",
    "vary": "accept-encoding",
    "x-content-type-options": "nosniff",
}
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'{sockets}; img-src 'self' data: blob:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    # Where browsers know it, no string becomes markup but through the sanitiser.
    "require-trusted-types-for 'script'; trusted-types dompurify"
)
HOST: Final = re.compile(r"[\w.-]+(:\d+)?|\[[\da-fA-F:]+\](:\d+)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Readiness:
    """What /readyz says, fit for anyone to read."""

    reason: str | None
    """Why this node cannot serve; None when it can."""
    ends_not_replicated: int = 0
    """How many turns ended here whose ends the store's replicas did not confirm in time. It serves all the same."""


Ready = Callable[[], Awaitable[Readiness]]


@dataclass(frozen=True, slots=True)
class Body:
    """One form of a file. `tag` is a strong entity tag: other bytes have another."""

    content: bytes
    tag: str
    headers: dict[str, str]

    @classmethod
    def of(cls, content: bytes, **headers: str) -> "Body":
        return cls(content, f'"{sha256(content).hexdigest()[:32]}"', headers)


def page_routes(ready: Ready) -> list[Route]:
    """Routes of the page's files and of the two probes."""

    async def livez(_request: Request) -> Response:
        return PlainTextResponse("alive\n")

    async def readyz(_request: Request) -> Response:
        found = await ready()
        is_ready = found.reason is None
        return JSONResponse({"ready": is_ready, **asdict(found)}, status_code=200 if is_ready else 503)

    return [Route("/livez", livez), Route("/readyz", readyz), *_file_routes()]


def _file_routes() -> Iterator[Route]:
    for file in sorted(files("turnwire.web").iterdir(), key=lambda file: file.name):
        if (suffix := PurePath(file.name).suffix) in MEDIA_TYPES:
            path = "/" if file.name == PAGE else f"/{file.name}"
            yield Route(path, _endpoint(file.name, MEDIA_TYPES[suffix], file.read_bytes()))


def _endpoint(name: str, media_type: str, content: bytes) -> Callable[[Request], Awaitable[Response]]:
    plain = Body.of(content)
    packed = Body.of(gzip.compress(content, 9, mtime=0), **{"content-encoding": "gzip"})
    cross_origin = {"access-control-allow-origin": "*"} if name == CLIENT else {}

    async def endpoint(request: Request) -> Response:
        body = packed if len(packed.content) < len(content) and _takes_gzip(request) else plain
        headers = {**HEADERS, **cross_origin, "content-security-policy": _policy(request), "etag": body.tag}
        if _has(request, body.tag):
            return Response(status_code=304, headers=headers)
        return Response(body.content, media_type=media_type, headers=headers | body.headers)

    return endpoint


def _policy(request: Request) -> str:
    """The policy for the host that was asked: Safari before 15.4 does not count a page's own WebSockets as 'self'."""
    host = request.headers.get("host", "")
    return POLICY.format(sockets=f" ws://{host} wss://{host}" if HOST.fullmatch(host) else "")


def _takes_gzip(request: Request) -> bool:
    """RFC 9110 section 12.5.3, for the one coding there is; a client that refuses it says q=0."""
    for item in request.headers.get("accept-encoding", "").lower().split(","):
        coding, _, weight = item.replace(" ", "").partition(";q=")
        if coding == "gzip":
            return not re.fullmatch(r"0(\.0*)?", weight)
    return False


def _has(request: Request, tag: str) -> bool:
    """Whether the client names this very body in If-None-Match (RFC 9110 section 13.1.2: compared weakly)."""
    named = [item.strip().removeprefix("W/") for item in request.headers.get("if-none-match", "").split(",")]
    return tag in named or "*" in named
