"""What a browser or an orchestrator gets over plain HTTP: the page, /livez and /readyz."""

from collections.abc import Awaitable, Callable
from importlib.resources import files
from typing import Final

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

Ready = Callable[[], Awaitable[str | None]]
"""None when this node can serve, else the reason why not, fit for anyone to read."""

MEDIA_TYPES: Final = {
    "index.html": "text/html; charset=utf-8",
    "chat.js": "text/javascript; charset=utf-8",
    "chat.css": "text/css; charset=utf-8",
}

HEADERS: Final = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


def page_routes(ready: Ready) -> list[Route]:
    """Routes of the page and of the two probes."""

    async def livez(_request: Request) -> Response:
        return PlainTextResponse("alive\n")

    async def readyz(_request: Request) -> Response:
        reason = await ready()
        return JSONResponse({"ready": reason is None, "reason": reason}, status_code=200 if reason is None else 503)

    routes = [Route("/livez", livez), Route("/readyz", readyz), Route("/", _file("index.html"))]
    return [*routes, *(Route(f"/{name}", _file(name)) for name in MEDIA_TYPES if name != "index.html")]


def _file(name: str) -> Callable[[Request], Awaitable[Response]]:
    """A file of the web folder, read once: it cannot change while the server runs."""
    content = files("turnwire.web").joinpath(name).read_bytes()

    async def endpoint(_request: Request) -> Response:
        return Response(content, media_type=MEDIA_TYPES[name], headers=HEADERS)

    return endpoint
