"""Who may come in, put together from the settings: the one place that knows which authenticator stands behind the port.

Nothing decides here; app.py opens it and hands it to the node.
"""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

from turnwire.identity.anonymous import Anonymous
from turnwire.identity.api_keys import ApiKeys
from turnwire.identity.credentials import KnownCredentials
from turnwire.identity.jwks import KeySet
from turnwire.identity.jwt_auth import KeySource, SharedSecret, WebTokens
from turnwire.identity.web_tokens import Demands
from turnwire.ports import Authenticator, CredentialStore, TokenMint
from turnwire.settings import Settings
from turnwire.transports.door import Door, DoorLimits


@dataclass(frozen=True, slots=True)
class Entrance:
    """`mint` only where tokens are made here. `described` is what the banner says."""

    authenticator: Authenticator = field(default_factory=Anonymous)
    mint: TokenMint | None = None
    described: str = "anonymous: everyone who gets here is one and the same user"

    @property
    def asks(self) -> bool:
        """Whether anybody is asked who they are."""
        return not isinstance(self.authenticator, Anonymous)


def door_of(settings: Settings) -> Door:
    """The door that all connections of a process come through."""
    limits = DoorLimits(
        connections_max=settings.connections_max,
        per_address_max=settings.connections_per_address_max,
        accepts_per_s=settings.accepts_per_s,
        trusted_proxies=settings.proxy_networks,
    )
    return Door(limits)


@asynccontextmanager
async def open_entrance(settings: Settings, store: CredentialStore) -> AsyncGenerator[Entrance]:
    """The entrance, with all read that was revoked before. Raises ports.Failure."""
    if settings.auth in (None, "anonymous"):
        yield Entrance()
        return
    known = KnownCredentials(store)
    await known.refresh()
    if settings.auth == "api_key":
        keys = ApiKeys(known)
        yield Entrance(keys, keys, "api_key: servers come with a key (turnwire key create), browsers with their tokens")
        return
    async with AsyncExitStack() as stack:
        source, described = await _key_source(settings, stack)
        demands = Demands(
            settings.algorithms, settings.jwt_issuer, settings.jwt_audience, settings.jwt_leeway_ms / 1000
        )
        yield Entrance(WebTokens(source, demands, known), described=described)


async def _key_source(settings: Settings, stack: AsyncExitStack) -> tuple[KeySource, str]:
    algorithms = ", ".join(settings.algorithms)
    if settings.jwt_secret is not None:
        return SharedSecret(settings.jwt_secret.get_secret_value().encode()), f"jwt: {algorithms} with a shared secret"
    assert settings.jwt_jwks_url is not None, "settings have one of the two"  # noqa: S101 - they checked it
    published = KeySet(settings.jwt_jwks_url, settings.algorithms)
    stack.push_async_callback(published.aclose)
    # Where this fails, that is logged; the first token that comes tries again.
    await published.fetch_if_due()
    return published, f"jwt: {algorithms} with the keys of {settings.jwt_issuer}"
