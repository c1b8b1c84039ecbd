"""Tokens that are nobody's, each for a reason of its own: for the check itself, and for the doors of a server."""

import base64
import hashlib
import hmac
import json
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization

from tests.support.tokens import SECRET, Issuer, claims, shared
from turnwire.identity.web_tokens import Demands

DEMANDS = Demands(["HS256"], None, None, leeway_s=30)
STRICT = Demands(["HS256"], "https://id.example/", "chat", leeway_s=30)

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


def part(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


def unsigned(algorithm: str | None) -> str:
    """A token that says that it needs no signature."""
    return f"{part({'alg': algorithm, 'typ': 'JWT'})}.{part(claims())}."


def signed_with_the_public_key(issuer: Issuer, **more: Any) -> list[str]:
    """What anyone can sign who takes the issuer's published key for a shared secret."""
    public = issuer.private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    signed = f"{part({'alg': 'HS256', 'kid': issuer.key_id})}.{part(claims(**more))}"
    forged: list[str] = []
    for secret in (public, json.dumps(issuer.published).encode()):
        signature = base64.urlsafe_b64encode(hmac.digest(secret, signed.encode(), hashlib.sha256)).decode()
        forged.append(f"{signed}.{signature.rstrip('=')}")
    return forged


DEMANDING = (
    jwt.encode(claims(), SECRET, headers={"crit": ["urn:example:must"], "urn:example:must": True}),
    jwt.encode(claims(), SECRET, headers={"crit": ["b64"], "b64": False}),
)
"""Signed as they should be, with a header that must be understood and is not (RFC 7515 section 4.1.11)."""


def nested(depth: int) -> list[str]:
    """Deep JSON where nobody has checked a signature yet."""
    text = base64.urlsafe_b64encode(b'{"alg":"HS256","x":' + b"[" * depth + b"]" * depth + b"}").decode().rstrip("=")
    return [f"{text}.{part(claims())}.AAAA", f"{part({'alg': 'HS256'})}.{text}.AAAA"]
