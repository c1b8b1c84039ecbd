"""Tokens that others issue: what holds, and every way in which one is nobody's."""

import base64
import hashlib
import hmac
import json
import warnings
from collections.abc import Iterator
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.tokens import SECRET, Issuer, claims, shared
from turnwire.identity.credentials import KnownCredentials
from turnwire.identity.jwt_auth import SharedSecret, WebTokens
from turnwire.identity.web_tokens import Demands, Unacceptable, header_of, identity_in
from turnwire.ports import Identity
from turnwire.stores.redis.credentials import RedisCredentials

DEMANDS = Demands(["HS256"], None, None, leeway_s=30)
STRICT = Demands(["HS256"], "https://id.example/", "chat", leeway_s=30)
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


YEARS_S = 400 * 86_400
NOW_S = claims()["iat"]

NOBODYS: dict[str, tuple[str, Demands]] = {
    "expired": (shared(exp=NOW_S - 31), DEMANDS),
    "not yet issued": (shared(iat=NOW_S + 3_600, exp=NOW_S + 7_200), DEMANDS),
    "not valid yet": (shared(nbf=NOW_S + 3_600), DEMANDS),
    "without an end": (shared(exp=None), DEMANDS),
    "of unknown age": (shared(iat=None), DEMANDS),
    "without a user": (shared(sub=None), DEMANDS),
    "of an empty user": (shared(""), DEMANDS),
    "of a user with line ends": (shared("a\r\nb"), DEMANDS),
    "of a user with bidi marks": (shared("\u202ebob"), DEMANDS),
    "of a long user": (shared("x" * 129), DEMANDS),
    "of a user that is a number": (shared(sub=7), DEMANDS),
    "of an organisation that is a list": (shared(org=["acme"]), DEMANDS),
    "of an empty organisation": (shared(org=""), DEMANDS),
    "that lives for years": (shared(exp=NOW_S + YEARS_S), DEMANDS),
    "with an end that is text": (shared(exp=str(NOW_S + 60)), DEMANDS),
    "with an end that is a truth": (shared(exp=True), DEMANDS),
    "with an age that is text": (shared(iat=str(NOW_S)), DEMANDS),
    "with an end beyond numbers": (shared(exp=1e308), DEMANDS),
    "with an endless end": (shared(exp=float("inf")), DEMANDS),
    "with an age before time": (shared(iat=-5), DEMANDS),
    "of another issuer": (shared(iss="https://evil.example/", aud="chat"), STRICT),
    "of no issuer": (shared(aud="chat"), STRICT),
    "of an issuer with more behind it": (shared(iss="https://id.example/evil", aud="chat"), STRICT),
    "for another audience": (shared(iss="https://id.example/", aud="other"), STRICT),
    "for no audience": (shared(iss="https://id.example/"), STRICT),
    "for an audience where none is known": (shared(aud="other"), DEMANDS),
    "of another secret": (shared(secret=SECRET[::-1]), DEMANDS),
    "of another algorithm of the family": (shared(secret=SECRET * 2, algorithm="HS512"), DEMANDS),
    "that is no token": ("hello", DEMANDS),
    "that is half a token": (shared().rpartition(".")[0], DEMANDS),
    "that is empty": ("", DEMANDS),
    "of 100 kB": (shared(junk="x" * 100_000), DEMANDS),
}


@pytest.mark.parametrize(("token", "demands"), NOBODYS.values(), ids=NOBODYS)
def test_a_token_is_nobodys(token: str, demands: Demands) -> None:
    why = refused(token, demands)
    assert why.isprintable() and len(why) < 40 and "alice" not in why


def part(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


def test_a_token_without_a_signature_is_nobodys() -> None:
    for algorithm in ("none", "None", "NONE", "", None):
        token = f"{part({'alg': algorithm, 'typ': 'JWT'})}.{part(claims())}."
        refused(token)


def test_a_public_key_used_as_a_secret_signs_nothing() -> None:
    issuer = Issuer("RS256")
    public = issuer.private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    forged_parts = f"{part({'alg': 'HS256', 'kid': 'k1'})}.{part(claims())}"
    for secret in (public, json.dumps(issuer.published).encode()):
        signature = base64.urlsafe_b64encode(hmac.digest(secret, forged_parts.encode(), hashlib.sha256)).decode()
        forged = f"{forged_parts}.{signature.rstrip('=')}"
        key = jwt.PyJWK(issuer.published)
        assert refused(forged, Demands(["RS256"], None, None, 30), key) == "InvalidAlgorithmError"
        # Not even where somebody allowed both: the key says which algorithm is its own.
        assert refused(forged, Demands(["RS256", "HS256"], None, None, 30), key) == "InvalidAlgorithmError"


def test_a_header_that_demands_what_nobody_knows_is_refused() -> None:
    token = jwt.encode(claims(), SECRET, headers={"crit": ["urn:example:must"], "urn:example:must": True})
    refused(token)
    refused(jwt.encode(claims(), SECRET, headers={"crit": ["b64"], "b64": False}))


@pytest.mark.parametrize("depth", [1_000, 5_900])
def test_deep_nesting_before_the_signature_is_one_more_bad_token(depth: int) -> None:
    nested = base64.urlsafe_b64encode(b'{"alg":"HS256","x":' + b"[" * depth + b"]" * depth + b"}").decode()
    refused(f"{nested.rstrip('=')}.{part(claims())}.AAAA")
    refused(f"{part({'alg': 'HS256'})}.{nested.rstrip('=')}.AAAA")


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
