"""What is at rest, over HTTP: sessions, listed, renamed and deleted, and their earlier turns.

docs/http.md shows the calls. A call is one call of the backend, made by whoever its bearer token belongs to. Which
pages may call, and how errors look, stands in http_gate.py. Nothing of a request or an answer is logged.
"""

import asyncio
import base64
import re
from typing import Any, Final, cast

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route, Router

from turnwire.ports import Authenticator, Identity, ListPlace, SessionInfo, SessionKey
from turnwire.runtime.backend import Backend
from turnwire.transports.http_gate import CallCheck, HttpGate
from turnwire.transports.problems import Problem
from turnwire_protocol import limits
from turnwire_protocol.at_rest import SessionPatch, validate_patch
from turnwire_protocol.codec import JSON, FrameRefused, check_value

BODY_BYTES_MAX: Final = 131_072
"""Metadata of the largest size fits also where every character is escaped."""
BODY_MS: Final = 10_000

SESSIONS_DEFAULT: Final = 50
TURNS_DEFAULT: Final = 20

_ID: Final = re.compile(limits.ID_PATTERN)
_PLACE: Final = re.compile(r"([0-9]{1,16})\.([A-Za-z0-9_-]{1,64})", re.ASCII)
_COUNT: Final = re.compile(r"[0-9]{1,6}", re.ASCII)
_TOKEN: Final = re.compile(limits.TOKEN_PATTERN)


class HttpApi:
    """The calls. `permits` decides by Origin and Host who may make any."""

    def __init__(self, backend: Backend, authenticator: Authenticator, permits: CallCheck) -> None:
        self._backend = backend
        self._authenticator = authenticator
        self._permits = permits

    def mount(self) -> Mount:
        """All of /v1 but its WebSocket."""
        router = Router(
            [
                Route("/sessions", self._list, methods=["GET"]),
                Route("/sessions/{session}", self._session, methods=["GET", "PATCH", "DELETE"]),
                Route("/sessions/{session}/turns", self._turns, methods=["GET"]),
                Route("/ws", _websocket_only),
            ],
            redirect_slashes=False,
        )
        mount = Mount("/v1", HttpGate(router, self._permits))
        # Starlette's pattern ends at a line break, and what it lets by would get an answer that is no problem.
        mount.path_regex = re.compile(mount.path_regex.pattern, re.DOTALL)
        return mount

    # --- calls ----------------------------------------------------------------------------------------------------

    async def _list(self, request: Request) -> Response:
        identity = await self._identify(request)
        before = _parameter(request, "before")
        limit = _limit(request, SESSIONS_DEFAULT, limits.LISTED_SESSIONS_MAX)
        page = await self._backend.list_sessions(identity.user, None if before is None else _place_of(before), limit)
        following = None if page.next is None else _opaque(page.next)
        return _json({"sessions": [_shown(info) for info in page.sessions], "next": following})

    async def _session(self, request: Request) -> Response:
        key = await self._key(request)
        match request.method:
            case "PATCH":
                return _json(_shown(await self._backend.update_session(key, await _patch_of(request))))
            case "DELETE":
                await self._backend.delete_session(key)
                return Response(status_code=204)
            case _:
                return _json(_shown(await self._backend.read_session(key)))

    async def _turns(self, request: Request) -> Response:
        key = await self._key(request)
        before = _parameter(request, "before")
        if before is not None and _ID.fullmatch(before) is None:
            raise Problem(400, "bad_frame", "The parameter before must be a turn's id.")
        limit = _limit(request, TURNS_DEFAULT, limits.LISTED_TURNS_MAX)
        page = await self._backend.read_turns(key, before, limit)
        return _json({"turns": page.frames, "next": page.next})

    # --- who, and which session -----------------------------------------------------------------------------------

    async def _identify(self, request: Request) -> Identity:
        identity = await self._authenticator.identify(_bearer_token(request))
        if identity is None:
            text = "Say who you are: with the header Authorization, as Bearer and a token of yours that is valid."
            raise Problem(401, "unauthenticated", text, headers={"www-authenticate": "Bearer"})
        return identity

    async def _key(self, request: Request) -> SessionKey:
        identity = await self._identify(request)
        session: str = request.path_params["session"]
        if _ID.fullmatch(session) is None:
            text = "A session's id has 1 to 64 characters, of A-Z, a-z, 0-9, _ and -."
            raise Problem(400, "bad_frame", text)
        return SessionKey(identity.user, session)


async def _websocket_only(_request: Request) -> Response:
    text = "This address is for WebSockets; docs/protocol.md tells what to say there."
    raise Problem(426, "unsupported", text, headers={"upgrade": "websocket"})


# --- what comes in ------------------------------------------------------------------------------------------------


def _bearer_token(request: Request) -> str | None:
    """The token, or None where there is none that anybody could know."""
    values = request.headers.getlist("authorization")
    if len(values) != 1:
        return None
    scheme, _, token = values[0].partition(" ")
    token = token.strip(" ")
    if scheme.lower() != "bearer" or len(token) > limits.TOKEN_BYTES_MAX or _TOKEN.fullmatch(token) is None:
        return None
    return token


def _parameter(request: Request, name: str) -> str | None:
    values = request.query_params.getlist(name)
    if len(values) > 1:
        raise Problem(400, "bad_frame", f"The parameter {name} may be given once.")
    return values[0] if values else None


def _limit(request: Request, default: int, highest: int) -> int:
    text = _parameter(request, "limit")
    if text is None:
        return default
    if _COUNT.fullmatch(text) is None or not 1 <= int(text) <= highest:
        raise Problem(400, "bad_frame", f"The parameter limit must be a number from 1 to {highest}.")
    return int(text)


def _opaque(place: ListPlace) -> str:
    return base64.urlsafe_b64encode(f"{place.at}.{place.session}".encode()).decode().rstrip("=")


def _place_of(text: str) -> ListPlace:
    """What `_opaque` made; nothing else passes."""
    try:
        found = _PLACE.fullmatch(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode())
    except ValueError:
        found = None
    place = None if found is None else ListPlace(int(found[1]), found[2])
    if place is None or _opaque(place) != text:
        raise Problem(400, "bad_frame", "The parameter before must be the next of an earlier page, as it was.")
    return place


async def _patch_of(request: Request) -> SessionPatch:
    body = await _body(request)
    try:
        value = JSON.parse(body)
        check_value(value)
    except ValueError as error:
        raise Problem(400, "bad_frame", f"The body cannot be read: {error}.") from None
    if not isinstance(value, dict):
        raise Problem(422, "bad_frame", "The body must be a JSON object.")
    try:
        return validate_patch(cast("dict[str, Any]", value))
    except FrameRefused as refused:
        raise Problem(422, refused.code, refused.message) from None


async def _body(request: Request) -> bytes:
    """The request's body, read no further than it may go, and for no longer than it may take."""
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(BODY_MS / 1000):
            async for part in request.stream():
                size += len(part)
                if size > BODY_BYTES_MAX:
                    text = f"The body is too large: {BODY_BYTES_MAX} bytes are allowed."
                    raise Problem(413, "too_large", text, headers={"connection": "close"})
                parts.append(part)
    except TimeoutError:
        text = f"The body did not come within {BODY_MS // 1000} s."
        raise Problem(408, "bad_frame", text, headers={"connection": "close"}) from None
    return b"".join(parts)


# --- what goes out ------------------------------------------------------------------------------------------------


def _shown(info: SessionInfo) -> dict[str, Any]:
    return {
        "session": info.session,
        "title": info.title,
        "preview": info.preview,
        "metadata": orjson.Fragment(info.metadata),
        "created_at": info.created_at,
        "updated_at": info.updated_at,
    }


def _json(value: dict[str, Any]) -> Response:
    return Response(orjson.dumps(value), media_type="application/json")
