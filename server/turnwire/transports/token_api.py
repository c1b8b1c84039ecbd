"""Tokens over HTTP, for servers that have an API key with the scope `tokens`: `POST /v1/tokens` makes one for a
browser, `POST /v1/tokens/end` ends all tokens of a user. docs/http.md shows both.

What comes in and goes out here is never logged.
"""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from turnwire.ports import Authenticator, Bearer, TokenMint
from turnwire.transports.requests import identified, json_answer, nobodys, valid_body
from turnwire_protocol.at_rest import TokenEnd, TokenRequest


class TokenApi:
    """The calls, as routes for HttpApi."""

    def __init__(self, authenticator: Authenticator, mint: TokenMint) -> None:
        self._authenticator = authenticator
        self._mint = mint

    def routes(self) -> list[Route]:
        return [
            Route("/tokens", self._make, methods=["POST"]),
            Route("/tokens/end", self._end, methods=["POST"]),
        ]

    async def _make(self, request: Request) -> Response:
        by = await identified(request, self._authenticator, "tokens")
        wanted = await valid_body(request, TokenRequest)
        bearer = Bearer(wanted.user, by.org if wanted.org is None else wanted.org, wanted.plan, wanted.org_plan)
        minted = await self._mint.mint(by, bearer, frozenset(wanted.scopes), wanted.ttl_ms)
        if minted is None:
            raise nobodys()
        return json_answer({"token": minted.token, "user": wanted.user, "expires_at": minted.expires_at}, 201)

    async def _end(self, request: Request) -> Response:
        await identified(request, self._authenticator, "tokens")
        wanted = await valid_body(request, TokenEnd)
        await self._mint.end_tokens(wanted.user)
        return Response(status_code=204)
