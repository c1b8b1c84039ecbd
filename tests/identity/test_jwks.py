"""Published keys, from a real server that does what real ones do: rotate, fail, hang, redirect, answer nonsense."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web

from tests.support.tokens import SECRET, Issuer, key_set, shared
from tests.support.waiting import until
from turnwire.identity import jwks
from turnwire.identity.credentials import KnownCredentials
from turnwire.identity.jwks import BYTES_MAX, KeySet
from turnwire.identity.jwt_auth import WebTokens
from turnwire.identity.web_tokens import Demands

ALGORITHMS = ("RS256", "ES256", "EdDSA")
RSA, EC, ED = (Issuer(algorithm, f"key-{algorithm}") for algorithm in ALGORITHMS)

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Published:
    """A server of keys. `answer` may be replaced; `asked` counts its requests."""

    def __init__(self, body: str) -> None:
        self.body = body
        self.asked = 0
        self.answer: Answer = self._answer
        self.url = ""

    async def _answer(self, _request: web.Request) -> web.StreamResponse:
        return web.Response(text=self.body, content_type="application/json")

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.asked += 1
        return await self.answer(request)


@pytest.fixture
async def published() -> AsyncIterator[Published]:
    server = Published(key_set(RSA, EC, ED))
    application = web.Application()
    application.router.add_get("/jwks.json", server.handle)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}/jwks.json"
    yield server
    await runner.cleanup()


@pytest.fixture
async def keys(published: Published) -> AsyncIterator[KeySet]:
    keys = KeySet(published.url, ALGORITHMS)
    yield keys
    await keys.aclose()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that every look may be a request."""
    monkeypatch.setattr(jwks, "COOLDOWN_S", 0)


def web_tokens(keys: KeySet, known: KnownCredentials) -> WebTokens:
    return WebTokens(keys, Demands(ALGORITHMS, None, None, 30), known)


@pytest.mark.parametrize("issuer", [RSA, EC, ED], ids=lambda issuer: issuer.algorithm)
async def test_each_kind_of_key_is_found_by_its_id(issuer: Issuer, keys: KeySet, known: KnownCredentials) -> None:
    identity = await web_tokens(keys, known).identify(issuer.token("alice"))
    assert identity is not None and identity.user == "alice"


async def test_one_request_serves_all_who_wait_and_all_who_come(published: Published, keys: KeySet) -> None:
    found = await asyncio.gather(*(keys.key(RSA.key_id, "RS256") for _ in range(50)))
    assert all(found)
    assert await keys.key(EC.key_id, "ES256") is not None
    assert published.asked == 1


async def test_invented_key_ids_cause_one_request_in_a_while(published: Published, keys: KeySet) -> None:
    for number in range(100):
        assert await keys.key(f"invented-{number}", "RS256") is None
    assert published.asked == 1


@pytest.mark.usefixtures("impatient")
async def test_a_new_key_is_fetched_and_one_that_was_withdrawn_is_gone(published: Published, keys: KeySet) -> None:
    published.body = key_set(RSA)
    assert await keys.key(RSA.key_id, "RS256") is not None
    rotated = Issuer("RS256", "rotated")
    published.body = key_set(rotated)
    assert await keys.key("rotated", "RS256") is not None
    assert await keys.key(RSA.key_id, "RS256") is None


async def test_keys_are_used_while_the_issuer_is_away_but_not_for_ever(
    published: Published, keys: KeySet, monkeypatch: pytest.MonkeyPatch, known: KnownCredentials
) -> None:
    tokens = web_tokens(keys, known)
    assert await tokens.identify(RSA.token()) is not None

    async def away(_request: web.Request) -> web.StreamResponse:
        raise web.HTTPServiceUnavailable

    published.answer = away
    monkeypatch.setattr(jwks, "COOLDOWN_S", 0)
    monkeypatch.setattr(jwks, "FRESH_S", 0)
    assert await tokens.identify(RSA.token()) is not None
    await keys.fetch_if_due()
    assert published.asked == 2
    monkeypatch.setattr(jwks, "USABLE_S", 0)
    assert await tokens.identify(RSA.token()) is None


async def _broken(_request: web.Request) -> web.StreamResponse:
    raise web.HTTPInternalServerError


async def _elsewhere(request: web.Request) -> web.StreamResponse:
    raise web.HTTPFound(f"{request.path}?again")


async def _endless(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    for _ in range(BYTES_MAX // 65_536 + 2):
        await response.write(b" " * 65_536)
    return response


async def _hung(_request: web.Request) -> web.StreamResponse:
    await asyncio.sleep(20)
    raise web.HTTPInternalServerError


def _says(body: bytes) -> Answer:
    async def answer(_request: web.Request) -> web.StreamResponse:
        return web.Response(body=body)

    return answer


def _published(**changes: Any) -> bytes:
    return json.dumps({"keys": [{**RSA.published, **changes}]}).encode()


BAD_ANSWERS: dict[str, Answer] = {
    "broken": _broken,
    "a redirect": _elsewhere,
    "endless": _endless,
    "hung": _hung,
    "nothing": _says(b""),
    "no UTF-8": _says(b"\xff"),
    "a list": _says(b"[]"),
    "an empty object": _says(b"{}"),
    "no keys": _says(b'{"keys":[]}'),
    "keys that are numbers": _says(b'{"keys":[1]}'),
    "nested": _says(b"[" * 100_000),
    "keys of an algorithm that is not allowed": _says(_published(alg="RS512")),
    "a secret": _says(
        json.dumps({"keys": [{"kty": "oct", "k": "c2VjcmV0", "kid": RSA.key_id, "alg": "HS256"}]}).encode()
    ),
}


@pytest.mark.parametrize("answer", BAD_ANSWERS.values(), ids=BAD_ANSWERS)
async def test_what_is_no_set_of_keys_leaves_nobody_in_and_nothing_broken(
    published: Published, keys: KeySet, answer: Answer, monkeypatch: pytest.MonkeyPatch, known: KnownCredentials
) -> None:
    good, published.answer = published.answer, answer
    monkeypatch.setattr(jwks, "FETCH_S", 0.3)
    tokens = web_tokens(keys, known)
    assert await tokens.identify(RSA.token()) is None
    assert await tokens.identify(shared(secret=SECRET)) is None
    published.answer = good
    monkeypatch.setattr(jwks, "FETCH_S", 5)
    monkeypatch.setattr(jwks, "COOLDOWN_S", 0)
    assert await tokens.identify(RSA.token()) is not None


async def test_an_address_that_nobody_serves_leaves_nobody_in(known: KnownCredentials) -> None:
    keys = KeySet("http://127.0.0.1:9/none", ALGORITHMS)
    assert await web_tokens(keys, known).identify(RSA.token()) is None
    await keys.aclose()


async def test_without_a_key_id_only_a_single_key_is_meant(
    published: Published, known: KnownCredentials, keys: KeySet
) -> None:
    published.body = key_set(RSA, Issuer("RS256", "second"), EC)
    tokens = web_tokens(keys, known)
    assert await tokens.identify(RSA.token(named=False)) is None
    assert await tokens.identify(EC.token(named=False)) is not None
    forged = Issuer("RS256", RSA.key_id)
    assert await tokens.identify(forged.token()) is None


async def test_closing_ends_a_request_that_is_under_way(published: Published, keys: KeySet) -> None:
    published.answer = _hung
    waiting = asyncio.create_task(keys.key("k", "RS256"))
    await until(lambda: published.asked)
    await keys.aclose()
    with pytest.raises(asyncio.CancelledError):
        await waiting
