"""JSON Web Tokens (RFC 7519): who a signed token says that its bearer is.

The algorithms are the server's choice, never the token's, and are of one family for one key: a public key used as an
HMAC secret would let everyone sign. `exp`, `iat` and `sub` are demanded: a token without an end, or of which nobody
knows when it was issued, could not be ended by the server either.

Every reason to refuse is told to the log alone, as a word of this file; whoever brings the token learns only that it
was not accepted.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

import jwt
import structlog

from turnwire.core.admission import Bucket
from turnwire.core.credentials import OF_USERS, TOKEN_LIFE_MAX_MS, Scope
from turnwire.core.quotas import Plan, plan_of_claims
from turnwire.ports import Identity
from turnwire_protocol import limits

SCOPE_PREFIX: Final = "turnwire:"
TIME_S_MAX: Final = 2**40

_lines = Bucket.full(1, 20, 0)

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Demands:
    """What a token has to fulfil beside its signature. `leeway_s` is how far the issuer's clock may differ; of our own
    tokens the time of issue is the store's, and is believed."""

    algorithms: Sequence[str]
    issuer: str | None
    audience: str | None
    leeway_s: float
    issued_here: bool = False


class Unacceptable(Exception):
    """A token that is nobody's. The text is a constant of this code base, for logs."""


def header_of(token: str) -> Mapping[str, Any]:
    """The header, which nobody has vouched for yet. Raises Unacceptable."""
    if len(token) > limits.TOKEN_BYTES_MAX:
        raise Unacceptable("too long")
    try:
        return jwt.get_unverified_header(token)
    except Exception as error:  # whatever a parser says of what strangers wrote
        raise Unacceptable("no JWT") from error


def identity_in(token: str, key: jwt.PyJWK | bytes, demands: Demands) -> Identity:
    """Who the token belongs to, its signature and claims checked. Raises Unacceptable."""
    try:
        claims: dict[str, Any] = jwt.decode(
            token,
            key,
            algorithms=list(demands.algorithms),
            issuer=demands.issuer,
            audience=demands.audience,
            leeway=demands.leeway_s,
            options={
                "require": ["exp", "iat", "sub"],
                "verify_iat": not demands.issued_here,
                "enforce_minimum_key_length": True,
            },
        )
    except jwt.PyJWTError as error:
        raise Unacceptable(_words_of(error)) from error
    except Exception as error:  # whatever a parser says of what strangers wrote
        raise Unacceptable("unreadable") from error
    return _identity_of(claims, demands.leeway_s)


def told(refusal: Unacceptable) -> None:
    """Log why a token was refused; of many at once only some, because strangers decide how many there are."""
    if not _lines.take(1, time.monotonic_ns() // 1_000_000):
        _log.info("token_refused", why=str(refusal))


def _words_of(error: jwt.PyJWTError) -> str:
    """The type's name says it (ExpiredSignatureError, InvalidIssuerError, …); its text may quote the token."""
    return type(error).__name__


def _identity_of(claims: Mapping[str, Any], leeway_s: float) -> Identity:
    user, org = claims["sub"], claims.get("org")
    if not _is_name(user):
        raise Unacceptable("sub is no name")
    if org is not None and not _is_name(org):
        raise Unacceptable("org is no name")
    issued_at, expires_at = _ms_of(claims["iat"]), _ms_of(claims["exp"])
    if expires_at - issued_at > TOKEN_LIFE_MAX_MS:
        raise Unacceptable("lives too long")
    return Identity(
        user,
        org,
        _scopes_of(claims.get("scope")),
        expires_at + int(leeway_s * 1000),
        issued_at,
        plan=_plan_of(claims.get("plan")),
        org_plan=_plan_of(claims.get("org_plan")),
    )


def _plan_of(claim: object) -> str | Plan | None:
    """The name of a plan, or a plan with its limits. One that cannot be read is no reason to let its bearer in without
    limits."""
    if claim is None or _is_name(claim):
        return cast("str | None", claim)
    if not isinstance(claim, dict):
        raise Unacceptable("plan is no plan")
    try:
        return plan_of_claims(cast("dict[str, Any]", claim))
    except ValueError as error:
        raise Unacceptable("plan is no plan") from error


def _ms_of(time_s: object) -> int:
    """A NumericDate in ms. PyJWT has seen that it can be read as a number, which is not the same as being one."""
    if isinstance(time_s, bool) or not isinstance(time_s, int | float) or not 0 <= time_s < TIME_S_MAX:
        raise Unacceptable("a time is no number")
    return int(time_s * 1000)


def _is_name(value: object) -> bool:
    """Ids of users and organisations may be any short text that can be shown: mail addresses, UUIDs, URLs."""
    return isinstance(value, str) and 0 < len(value) <= limits.NAME_CHARS_MAX and value.isprintable()


def _scopes_of(scope: object) -> frozenset[Scope]:
    """RFC 8693 section 4.2: words with spaces between. Those of other services say nothing here; without any of ours
    a person may do all that people may."""
    words = scope.split(" ") if isinstance(scope, str) else []
    ours = {word.removeprefix(SCOPE_PREFIX) for word in words if word.startswith(SCOPE_PREFIX)}
    return frozenset(one for one in OF_USERS if one in ours) if ours else OF_USERS
