"""Tokens that others issue: what holds, and every way in which one is nobody's."""

import base64
import warnings
from collections.abc import Iterator
from typing import Any

import jwt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.identity.bad_tokens import (
    DEMANDING,
    DEMANDS,
    NOBODYS,
    NOW_S,
    STRICT,
    nested,
    signed_with_the_public_key,
    unsigned,
)
from tests.support.tokens import SECRET, Issuer, claims, shared
from turnwire.identity.credentials import KnownCredentials
from turnwire.identity.jwt_auth import SharedSecret, WebTokens
from turnwire.identity.web_tokens import Demands, Unacceptable, header_of, identity_in
from turnwire.ports import Identity
from turnwire.stores.redis.credentials import RedisCredentials

KEY = SECRET.encode()


def identity_of(token: str, demands: Demands = DEMANDS, key: Any = KEY) -> Identity:
    return identity_in(token, key, demands)


def refused(token: str, demands: Demands = DEMANDS, key: Any = KEY) -> str:
    with pytest.raises(Unacceptable) as caught:
        header_of(token)
        identity_in(token, key, demands)
    return str(caught.value)


def test_a_token_says_who_until_when_and_since_when() -> None:
    said = claims("alice@example.com", org="acme")
    identity = identity_of(jwt.encode(said, SECRET))
    assert identity == Identity(
        "alice@example.com",
        "acme",
        frozenset(["read", "write"]),
        expires_at=said["exp"] * 1000 + 30_000,
        issued_at=said["iat"] * 1000,
    )


@pytest.mark.parametrize(
    ("scope", "scopes"),
    [
        (None, {"read", "write"}),
        ("openid profile", {"read", "write"}),
        ("openid turnwire:read", {"read"}),
        ("turnwire:read turnwire:write", {"read", "write"}),
        ("turnwire:tokens", set()),
        ("turnwire:nothing", set()),
        (["turnwire:read"], {"read", "write"}),
    ],
)
def test_scopes_of_ours_narrow_what_a_token_may_do_and_never_widen_it(scope: Any, scopes: set[str]) -> None:
    assert identity_of(shared(scope=scope)).scopes == scopes


def test_issuer_and_audience_are_those_that_were_demanded() -> None:
    for audience in ("chat", ["other", "chat"]):
        assert identity_of(shared(iss="https://id.example/", aud=audience), STRICT).user == "alice"


@pytest.mark.parametrize(("token", "demands"), NOBODYS.values(), ids=NOBODYS)
def test_a_token_is_nobodys(token: str, demands: Demands) -> None:
    why = refused(token, demands)
    assert why.isprintable() and len(why) < 40 and "alice" not in why


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "", None], ids=repr)
def test_a_token_without_a_signature_is_nobodys(algorithm: str | None) -> None:
    refused(unsigned(algorithm))


def test_a_public_key_used_as_a_secret_signs_nothing() -> None:
    issuer = Issuer("RS256")
    for forged in signed_with_the_public_key(issuer):
        key = jwt.PyJWK(issuer.published)
        assert refused(forged, Demands(["RS256"], None, None, 30), key) == "InvalidAlgorithmError"
        # Not even where somebody allowed both: the key says which algorithm is its own.
        assert refused(forged, Demands(["RS256", "HS256"], None, None, 30), key) == "InvalidAlgorithmError"


def test_a_header_that_demands_what_nobody_knows_is_refused() -> None:
    for token in DEMANDING:
        refused(token)


@pytest.mark.parametrize("depth", [1_000, 5_900])
def test_deep_nesting_before_the_signature_is_one_more_bad_token(depth: int) -> None:
    for token in nested(depth):
        refused(token)


@settings(deadline=None, max_examples=300)
@given(st.one_of(st.text(max_size=60), st.lists(st.binary(max_size=30), min_size=3, max_size=3)), st.integers(0, 200))
def test_no_text_is_refused_in_another_way(junk: Any, at: int) -> None:
    good = shared()
    if isinstance(junk, list):
        junk = ".".join(base64.urlsafe_b64encode(piece).decode().rstrip("=") for piece in junk)
    for token in (junk, good[:at] + junk[:3] + good[at + len(junk[:3]) :]):
        try:
            header_of(token)
            identity_in(token, KEY, DEMANDS)
        except Unacceptable as refusal:
            assert str(refusal).isprintable()


def test_tokens_that_begin_alike_are_not_the_same() -> None:
    alice, bob = shared("alice"), shared("bob")
    assert alice[:20] == bob[:20]
    assert (identity_of(alice).user, identity_of(bob).user) == ("alice", "bob")
    mixed = f"{alice.rpartition('.')[0]}.{bob.rpartition('.')[2]}"
    assert refused(mixed) == "InvalidSignatureError"


def test_no_key_is_too_short_for_its_algorithm() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        token = shared(secret="short")
    assert refused(token, key=b"short") == "InvalidKeyError"


# --- as an authenticator ----------------------------------------------------------------------------------------------


@pytest.fixture
def web_tokens(known: KnownCredentials) -> Iterator[WebTokens]:
    yield WebTokens(SharedSecret(KEY), DEMANDS, known)


async def test_a_bearer_is_who_the_token_says_and_without_one_nobody(web_tokens: WebTokens) -> None:
    identity = await web_tokens.identify(shared("alice"))
    assert identity is not None and identity.user == "alice" and web_tokens.holds(identity)
    assert await web_tokens.identify(None) is None
    assert await web_tokens.identify("hello") is None
    assert await web_tokens.identify(shared(algorithm="HS512", secret=SECRET * 2)) is None


async def test_a_user_whose_tokens_were_ended_needs_a_new_one(web_tokens: WebTokens, store: RedisCredentials) -> None:
    token, bobs = shared("alice", iat=NOW_S - 60), shared("bob", iat=NOW_S - 60)
    identity = await web_tokens.identify(token)
    assert identity is not None
    await store.end_tokens("alice")
    assert await web_tokens.refresh()
    assert not web_tokens.holds(identity)
    assert await web_tokens.identify(token) is None
    assert await web_tokens.identify(bobs) is not None
    assert await web_tokens.identify(shared("alice", iat=claims()["iat"] + 20)) is not None
