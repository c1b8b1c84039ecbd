"""What is at rest, over HTTP: sessions, listed, renamed and deleted, and their earlier turns.

docs/http.md shows the calls. A call is one call of the backend, made by whoever its bearer token belongs to. Which
pages may call, and how errors look, stands in http_gate.py; how tokens are made, in token_api.py. Nothing of a request
or an answer is logged.
"""

import base64
import re
from collections.abc import Sequence
from typing import Any, Final

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route, Router

from turnwire.ports import Authenticator, ListPlace, Scope, SessionInfo, SessionKey
from turnwire.runtime.backend import Backend
from turnwire.transports.http_gate import CallCheck, HttpGate
from turnwire.transports.problems import Problem
from turnwire.transports.requests import identified, json_answer, only_parameter, valid_body
from turnwire_protocol import limits
from turnwire_protocol.at_rest import SessionPatch

SESSIONS_DEFAULT: Final = 50
TURNS_DEFAULT: Final = 20

_ID: Final = re.compile(limits.ID_PATTERN)
_PLACE: Final = re.compile(r"([0-9]{1,16})\.([A-Za-z0-9_-]{1,64})", re.ASCII)
_COUNT: Final = re.compile(r"[0-9]{1,6}", re.ASCII)

_SCOPES: Final[dict[str, Scope]] = {"PATCH": "write", "DELETE": "write"}
"""What a token must allow for a method; `read` for the others."""


class HttpApi:
    """The calls. `permits` decides by Origin and Host who may make any; `others` are calls that stand elsewhere."""

    def __init__(
        self, backend: Backend, authenticator: Authenticator, permits: CallCheck, others: Sequence[Route] = ()
    ) -> None:
        self._backend = backend
        self._authenticator = authenticator
        self._permits = permits
        self._others = others

    def mount(self) -> Mount:
        """All of /v1 but its WebSocket."""
        router = Router(
            [
                Route("/sessions", self._list, methods=["GET"]),
                Route("/sessions/{session}", self._session, methods=["GET", "PATCH", "DELETE"]),
                Route("/sessions/{session}/turns", self._turns, methods=["GET"]),
                Route("/ws", _websocket_only),
                *self._others,
            ],
            redirect_slashes=False,
        )
        mount = Mount("/v1", HttpGate(router, self._permits))
        # Starlette's pattern ends at a line break, and what it lets by would get an answer that is no problem.
        mount.path_regex = re.compile(mount.path_regex.pattern, re.DOTALL)
        return mount

    # --- calls ----------------------------------------------------------------------------------------------------

    async def _list(self, request: Request) -> Response:
        identity = await identified(request, self._authenticator, "read")
        before = only_parameter(request, "before")
        limit = _limit(request, SESSIONS_DEFAULT, limits.LISTED_SESSIONS_MAX)
        page = await self._backend.list_sessions(identity.user, None if before is None else _place_of(before), limit)
        following = None if page.next is None else _opaque(page.next)
        return json_answer({"sessions": [_shown(info) for info in page.sessions], "next": following})

    async def _session(self, request: Request) -> Response:
        key = await self._key(request)
        match request.method:
            case "PATCH":
                patch = await valid_body(request, SessionPatch)
                return json_answer(_shown(await self._backend.update_session(key, patch)))
            case "DELETE":
                await self._backend.delete_session(key)
                return Response(status_code=204)
            case _:
                return json_answer(_shown(await self._backend.read_session(key)))

    async def _turns(self, request: Request) -> Response:
        key = await self._key(request)
        before = only_parameter(request, "before")
        if before is not None and _ID.fullmatch(before) is None:
            raise Problem(400, "bad_frame", "The parameter before must be a turn's id.")
        limit = _limit(request, TURNS_DEFAULT, limits.LISTED_TURNS_MAX)
        page = await self._backend.read_turns(key, before, limit)
        return json_answer({"turns": page.frames, "next": page.next})

    async def _key(self, request: Request) -> SessionKey:
        identity = await identified(request, self._authenticator, _SCOPES.get(request.method, "read"))
        session: str = request.path_params["session"]
        if _ID.fullmatch(session) is None:
            text = "A session's id has 1 to 64 characters, of A-Z, a-z, 0-9, _ and -."
            raise Problem(400, "bad_frame", text)
        return SessionKey(identity.user, session)


async def _websocket_only(_request: Request) -> Response:
    text = "This address is for WebSockets; docs/protocol.md tells what to say there."
    raise Problem(426, "unsupported", text, headers={"upgrade": "websocket"})


# --- what comes in ------------------------------------------------------------------------------------------------


def _limit(request: Request, default: int, highest: int) -> int:
    text = only_parameter(request, "limit")
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
