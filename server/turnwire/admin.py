"""What an operator does to the store beside running servers: API keys, and the end of a user's tokens.

Each call opens the store that the settings name, or joins the embedded one of the data directory, which runs or is
started for the moment. Running nodes learn of it by themselves within seconds.
"""

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

from turnwire.core.credentials import API_KEYS_MAX, ApiKey, Scope
from turnwire.identity.api_keys import NewKey, new_key
from turnwire.ports import CredentialStore, Failure
from turnwire.settings import Settings
from turnwire.storage import StartError, open_store


class AdminError(Exception):
    """It could not be done; the text is a sentence for whoever asked."""


async def create_key(
    settings: Settings, name: str, user: str | None, org: str | None, scopes: Sequence[Scope]
) -> NewKey:
    """Draw and store a key. Raises AdminError."""
    new = new_key(name, user, org, frozenset(scopes), time.time_ns() // 1_000_000)
    async with _credentials(settings) as credentials:
        if not await credentials.add_key(new.key):
            raise AdminError(f"There are {API_KEYS_MAX} keys, which is the most there may be: revoke some first.")
    return new


async def list_keys(settings: Settings) -> list[ApiKey]:
    """All keys, the oldest first. Raises AdminError."""
    async with _credentials(settings) as credentials:
        found = await credentials.read("unknown", 0)
    return [] if found is None else sorted(found.keys.values(), key=lambda key: key.created_at)


async def revoke_key(settings: Settings, key_id: str) -> None:
    """Forget a key, and with it all tokens that it made. Raises AdminError."""
    async with _credentials(settings) as credentials:
        if not await credentials.remove_key(key_id):
            raise AdminError(f"There is no key {key_id!r}: turnwire key list shows their ids.")


async def end_tokens(settings: Settings, user: str) -> None:
    """End all tokens that were issued to a user up to now. Raises AdminError."""
    async with _credentials(settings) as credentials:
        await credentials.end_tokens(user)


@asynccontextmanager
async def _credentials(settings: Settings) -> AsyncGenerator[CredentialStore]:
    try:
        async with open_store(settings) as store:
            yield store.credentials
    except StartError as error:
        raise AdminError(str(error)) from error
    except Failure as failure:
        raise AdminError(f"The store did not take it ({failure.kind}): try again.") from failure
