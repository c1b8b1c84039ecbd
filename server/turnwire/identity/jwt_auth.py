"""Users whose tokens somebody else issues: the application's own server, or an identity provider."""

from typing import Protocol

import jwt

from turnwire.identity.credentials import KnownCredentials
from turnwire.identity.known_tokens import KnownTokens
from turnwire.identity.web_tokens import Demands, Unacceptable, header_of, identity_in
from turnwire.ports import Identity


class KeySource(Protocol):
    """Where the key is that a token claims to be signed with."""

    async def key(self, key_id: str | None, algorithm: str) -> jwt.PyJWK | bytes | None:
        """None: there is no such key."""
        ...


class SharedSecret:
    """KeySource of HMAC tokens: one secret, which both servers know."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    async def key(self, key_id: str | None, algorithm: str) -> bytes:
        return self._secret


class WebTokens(KnownTokens):
    """ports.Authenticator."""

    def __init__(self, keys: KeySource, demands: Demands, known: KnownCredentials) -> None:
        super().__init__(known)
        self._keys = keys
        self._demands = demands

    async def _identify(self, token: str) -> Identity:
        header = header_of(token)
        algorithm, key_id = str(header.get("alg")), header.get("kid")
        if algorithm not in self._demands.algorithms:  # before a key is looked for, which may cost a request
            raise Unacceptable("algorithm")
        key = await self._keys.key(key_id, algorithm)
        if key is None:
            raise Unacceptable("unknown key")
        return identity_in(token, key, self._demands)
