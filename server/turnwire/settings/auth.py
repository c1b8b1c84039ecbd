"""Who may come in: the settings of [auth], and what must hold between them.

A token is checked with one kind of key: a secret that the issuer shares, or public keys that it publishes. With both, a
public key could be used as a secret.
"""

from collections.abc import Callable
from ipaddress import ip_address
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, StringConstraints, field_validator

from turnwire.settings.kinds import Frozen, Texts, Whole

HMAC_ALGORITHMS: Final = {"HS256": 32, "HS384": 48, "HS512": 64}
"""With a shared secret: algorithm -> the least length of its secret in bytes (RFC 7518 section 3.2)."""

PUBLIC_ALGORITHMS: Final = (
    *("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    *("ES256", "ES384", "ES512", "EdDSA"),
)
PUBLIC_DEFAULT: Final = ("RS256", "ES256", "EdDSA")

Text = Annotated[str, StringConstraints(min_length=1, max_length=512)]


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach, or be reached by, that name."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


class AuthSettings(Frozen):
    """[auth]."""

    auth: Literal["anonymous", "api_key", "jwt"] | None = None
    jwt_secret: SecretStr | None = None
    jwt_jwks_url: Text | None = None
    jwt_issuer: Text | None = None
    jwt_audience: Text | None = None
    jwt_algorithms: Texts = ()
    """Empty: HS256 with a secret, PUBLIC_DEFAULT with published keys."""
    jwt_leeway_ms: Annotated[Whole, Field(ge=0, le=300_000)] = 30_000

    @property
    def algorithms(self) -> tuple[str, ...]:
        """Those that are in force."""
        return self.jwt_algorithms or (("HS256",) if self.jwt_secret is not None else PUBLIC_DEFAULT)

    @field_validator("jwt_algorithms")
    @classmethod
    def _known_algorithms(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := [name for name in value if name not in HMAC_ALGORITHMS and name not in PUBLIC_ALGORITHMS]:
            known = ", ".join((*HMAC_ALGORITHMS, *PUBLIC_ALGORITHMS))
            raise ValueError(f"must be of {known}; {unknown[0]!r} is none of these")
        return value

    @field_validator("jwt_jwks_url")
    @classmethod
    def _safe_address(cls, value: str | None) -> str | None:
        parts = urlsplit(value or "https://none")
        safe = parts.scheme == "https" or (parts.scheme == "http" and is_loopback(parts.hostname or ""))
        if not safe or not parts.hostname or "@" in parts.netloc or parts.fragment:
            raise ValueError("must be an https address without user or password; http is for this machine alone")
        return value


def fault_of_auth(settings: AuthSettings, named: Callable[[str], str]) -> str | None:
    """What does not fit together, in a sentence; None: nothing."""
    fields = AuthSettings.model_fields
    set_ones = [name for name in fields if name != "auth" and getattr(settings, name) != fields[name].default]
    if settings.auth != "jwt":
        if set_ones:
            return f"{named(set_ones[0])} is set, but {named('auth')} is not jwt, so it would mean nothing."
        return None
    if (settings.jwt_secret is None) == (settings.jwt_jwks_url is None):
        return (
            f"{named('auth')} is jwt, which needs one of {named('jwt_secret')}, shared with whoever issues the tokens, "
            f"and {named('jwt_jwks_url')}, where the issuer publishes its keys; not both."
        )
    if settings.jwt_secret is None and settings.jwt_issuer is None:
        return (
            f"{named('jwt_jwks_url')} is set, but not {named('jwt_issuer')}: name the issuer, because the same keys "
            "may sign tokens for others."
        )
    fitting = tuple(HMAC_ALGORITHMS) if settings.jwt_secret is not None else PUBLIC_ALGORITHMS
    if foreign := [name for name in settings.algorithms if name not in fitting]:
        return f"{named('jwt_algorithms')} has {foreign[0]}, but must be of {', '.join(fitting)} with this kind of key."
    if settings.jwt_secret is not None:
        least = max(HMAC_ALGORITHMS[name] for name in settings.algorithms)
        if len(settings.jwt_secret.get_secret_value().encode()) < least:
            return f"{named('jwt_secret')} must have at least {least} bytes, drawn at random."
    return None
