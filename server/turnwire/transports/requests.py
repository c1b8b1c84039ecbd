"""What the HTTP calls have in common: who calls, the parameters and the body of a request, a JSON answer."""

import asyncio
from typing import Any, Final, TypeVar, cast

import orjson
from starlette.requests import Request
from starlette.responses import Response

from turnwire.ports import Authenticator, Identity, Scope
from turnwire.transports.bearer import bearer_token
from turnwire.transports.problems import Problem
from turnwire_protocol.at_rest import validate_body
from turnwire_protocol.codec import JSON, FrameRefused, check_value
from turnwire_protocol.values import Value

Body = TypeVar("Body", bound=Value)

BODY_BYTES_MAX: Final = 131_072
"""Metadata of the largest size fits also where every character is escaped."""
BODY_MS: Final = 10_000


async def identified(request: Request, authenticator: Authenticator, scope: Scope) -> Identity:
    """Whose bearer token the request has, if it may do what `scope` says. Raises Problem, Failure."""
    identity = await authenticator.identify(bearer_token(request.headers.getlist("authorization")))
    if identity is None:
        raise nobodys()
    if scope not in identity.scopes:
        raise Problem(403, "forbidden", f"The token does not allow this call: it lacks the scope {scope}.")
    return identity


def nobodys() -> Problem:
    """The answer to a token that is nobody's, or not any more."""
    text = "Say who you are: with the header Authorization, as Bearer and a token of yours that is valid."
    return Problem(401, "unauthenticated", text, headers={"www-authenticate": "Bearer"})


def only_parameter(request: Request, name: str) -> str | None:
    """A parameter of the address. Raises Problem where there are two of it."""
    values = request.query_params.getlist(name)
    if len(values) > 1:
        raise Problem(400, "bad_frame", f"The parameter {name} may be given once.")
    return values[0] if values else None


async def _json_object(request: Request) -> dict[str, Any]:
    """The body, which must be a JSON object within the limits of check_value. Raises Problem."""
    body = await _body(request)
    try:
        value = JSON.parse(body)
        check_value(value)
    except ValueError as error:
        raise Problem(400, "bad_frame", f"The body cannot be read: {error}.") from None
    if not isinstance(value, dict):
        raise Problem(422, "bad_frame", "The body must be a JSON object.")
    return cast("dict[str, Any]", value)


async def valid_body(request: Request, model: type[Body]) -> Body:
    """The body as one of turnwire_protocol.at_rest. Raises Problem."""
    value = await _json_object(request)
    try:
        return validate_body(model, value)
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


def json_answer(value: dict[str, Any], status: int = 200) -> Response:
    return Response(orjson.dumps(value), status, media_type="application/json")
