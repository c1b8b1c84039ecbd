"""Users of an application whose server has an API key, and makes their tokens here.

A key is `twk_ID_SECRET`. The store has the SHA-256 of the secret, compared in constant time: the secret has 256 random
bits, so there is nothing to guess that a slow hash would protect. A token for a browser is a JWT signed with a secret
of the key that made it, so it needs no place in the store and ends with its key.
"""

import secrets
from dataclasses import dataclass, replace
from hashlib import sha256
from hmac import compare_digest
from typing import Any, Final

import jwt

from turnwire.core.credentials import ApiKey, Scope
from turnwire.identity.known_tokens import KnownTokens
from turnwire.identity.web_tokens import SCOPE_PREFIX, Demands, Unacceptable, header_of, identity_in
from turnwire.ports import Bearer, Identity, Minted

PREFIX: Final = "twk_"
ISSUER: Final = "turnwire"
ALGORITHM: Final = "HS256"
_DEMANDS: Final = Demands([ALGORITHM], ISSUER, None, leeway_s=0, issued_here=True)


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key, and the only sight of its secret."""

    key: ApiKey
    shown: str


def new_key(name: str, user: str | None, org: str | None, scopes: frozenset[Scope], now_ms: int) -> NewKey:
    """Draw a key. Without a user it is one of its own, which nobody else is."""
    key_id, secret = secrets.token_hex(8), secrets.token_urlsafe(32)
    key = ApiKey(
        key_id, name, _digest_of(secret), secrets.token_bytes(32), user or f"key_{key_id}", org, scopes, now_ms
    )
    return NewKey(key, f"{PREFIX}{key_id}_{secret}")


class ApiKeys(KnownTokens):
    """ports.Authenticator and ports.TokenMint."""

    async def mint(self, by: Identity, bearer: Bearer, scopes: frozenset[Scope], life_ms: int) -> Minted | None:
        key = None if by.key is None else await self._known.key(by.key)
        if key is None:  # revoked since it was asked who calls: the body of a call may take a while
            return None
        # By the store's clock, which also stamps the end of a user's tokens: the two are compared.
        issued_at = await self._known.store.now_ms()
        expires_at = issued_at + life_ms
        claims: dict[str, Any] = {
            "iss": ISSUER,
            "sub": bearer.user,
            "iat": issued_at / 1000,
            "exp": expires_at / 1000,
            "scope": " ".join(SCOPE_PREFIX + scope for scope in sorted(scopes)),
        }
        others = {"org": bearer.org, "plan": bearer.plan, "org_plan": bearer.org_plan}
        claims.update((name, value) for name, value in others.items() if value is not None)
        token = jwt.encode(claims, key.signing, algorithm=ALGORITHM, headers={"kid": key.id})
        return Minted(token, expires_at)

    async def end_tokens(self, user: str) -> None:
        await self._known.store.end_tokens(user)

    async def _identify(self, token: str) -> Identity:
        return await (self._of_key(token) if token.startswith(PREFIX) else self._of_minted(token))

    async def _of_key(self, token: str) -> Identity:
        key_id, _, secret = token.removeprefix(PREFIX).partition("_")
        key = await self._known.key(key_id)
        if key is None or not compare_digest(_digest_of(secret), key.digest):
            raise Unacceptable("unknown key")
        return Identity(key.user, key.org, key.scopes, key=key.id)

    async def _of_minted(self, token: str) -> Identity:
        key_id = header_of(token).get("kid")
        key = await self._known.key(key_id) if isinstance(key_id, str) else None
        if key is None:
            raise Unacceptable("unknown key")
        found = identity_in(token, key.signing, _DEMANDS)
        return replace(found, key=key.id)


def _digest_of(secret: str) -> str:
    return sha256(secret.encode()).hexdigest()
