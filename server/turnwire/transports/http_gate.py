"""What holds for every HTTP call under /v1, whatever it does: which pages may call, and how errors look.

The same pages may call that may connect by WebSocket; their browsers are told so (CORS, https://fetch.spec.whatwg.org),
and all others get an error that tells them nothing. Starlette's own middleware answers a refused preflight in plain
text and compares origins its own way, so the few headers are set here.

No answer is ever cached: all of them belong to one user.
"""

from collections.abc import Callable
from typing import Final

import structlog
from starlette.datastructures import Headers, MutableHeaders, QueryParams
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketClose

from turnwire.ports import Failure
from turnwire.runtime.refusals import Refused, Unlearned
from turnwire.transports.bearer import TOKEN_PARAMETERS
from turnwire.transports.problems import Problem
from turnwire_protocol.codes import ErrorCode

CallCheck = Callable[[str | None, str | None], bool]
"""Whether a call with this Origin may be made to this Host; None for a header that is not there."""

STORE_AWAY_MS: Final = 1_000

_STATUSES: Final[dict[ErrorCode, int]] = {
    "not_found": 404,
    "overloaded": 503,
    "rate_limited": 429,
    "quota_exceeded": 402,
}
"""Of what the backend refuses; anything else is a call that cannot be carried out as it is."""

_HEADERS: Final = {"cache-control": "no-store", "x-content-type-options": "nosniff", "vary": "Origin"}

_PREFLIGHT_HEADERS: Final = {
    "access-control-allow-methods": "GET, HEAD, PATCH, DELETE",
    "access-control-allow-headers": "Authorization, Content-Type",
    "access-control-max-age": "600",
}

_log = structlog.get_logger(__name__)


class HttpGate:
    """An ASGI application around `app`, which may raise Problem and the backend's exceptions."""

    def __init__(self, app: ASGIApp, permits: CallCheck) -> None:
        self._app = app
        self._permits = permits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await WebSocketClose()(scope, receive, send)
            return
        headers = Headers(scope=scope)
        origin = _only(headers, "origin")
        permitted = self._permits(origin, _only(headers, "host"))
        started = False

        async def send_with_headers(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                told = MutableHeaders(raw=message["headers"])
                told.update(_HEADERS)
                if permitted and origin is not None:
                    told["access-control-allow-origin"] = origin
                    told["access-control-expose-headers"] = "Retry-After"
            await send(message)

        try:
            if not permitted:
                raise Problem(403, "forbidden", _FOREIGN)
            if TOKEN_PARAMETERS & {name.lower() for name in QueryParams(scope["query_string"])}:
                raise Problem(400, "bad_frame", _NO_TOKEN_THERE)
            if scope["method"] == "OPTIONS" and "access-control-request-method" in headers:
                await Response(status_code=204, headers=_PREFLIGHT_HEADERS)(scope, receive, send_with_headers)
                return
            await self._app(scope, receive, send_with_headers)
        except ClientDisconnect:
            return
        except Exception as error:
            if started:
                raise
            await _problem_of(error).response()(scope, receive, send_with_headers)


_FOREIGN: Final = (
    "This server does not serve pages of that origin, or does not know that it is reached by that name. "
    "Its allowed_origins (TURNWIRE_ALLOWED_ORIGINS) name those that it serves."
)

_NO_TOKEN_THERE: Final = (
    "A token must not stand in the address, which ends up in logs: send it in the header Authorization, as Bearer."  # noqa: S105 - a sentence
)


def _only(headers: Headers, name: str) -> str | None:
    values = headers.getlist(name)
    # Two of them are nobody's honest request: joined they match nothing.
    return ",".join(values) if values else None


def _problem_of(error: Exception) -> Problem:
    if isinstance(error, Problem):
        return error
    if isinstance(error, Refused):
        status = _STATUSES.get(error.code, 400)
        return Problem(
            status,
            error.code,
            error.message,
            retry_after_ms=error.retry_after_ms,
            upgrade_url=error.upgrade_url,
        )
    if isinstance(error, Unlearned | Failure):
        text = "The store did not answer; send this again."
        return Problem(503, "overloaded", text, retry_after_ms=STORE_AWAY_MS)
    if isinstance(error, HTTPException) and error.status_code == 405:
        return Problem(405, "unsupported", "This address does not take that method.", headers=error.headers)
    if isinstance(error, HTTPException):
        return Problem(404, "not_found", "There is nothing at this address.")
    _log.exception("http_call_failed", kind=type(error).__name__, exc_info=error)
    return Problem(500, "internal", "Something went wrong on our side.")
