"""What an operator does to the store beside running servers: API keys, the end of a user's tokens, a user's data.

Each call opens the store that the settings name, or joins the embedded one of the data directory, which runs or is
started for the moment. Running nodes learn of it by themselves within seconds.
"""

import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import orjson

from turnwire.core.credentials import API_KEYS_MAX, ApiKey, Scope
from turnwire.identity.api_keys import NewKey, new_key
from turnwire.ports import CredentialStore, Failure
from turnwire.runtime import user_data
from turnwire.runtime.revocation import REVOKED_WITHIN_MS
from turnwire.runtime.user_data import NothingStored, StillActive
from turnwire.settings import Settings
from turnwire.storage import StartError, Store, open_store


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


@dataclass(frozen=True, slots=True)
class Erased:
    """How many sessions were removed, and the ids of API keys that stand for the user and hold on."""

    sessions: int
    keys: Sequence[str]


async def export_user(settings: Settings, user: str, write: Callable[[bytes], object]) -> dict[str, int]:
    """Write all that is stored of a user, a line of JSON at a time; how many sessions and turns there were. Raises
    AdminError."""
    async with _store(settings) as store:
        record: dict[str, int] = {}
        try:
            async for record in user_data.exported(store.log, user, await store.credentials.now_ms()):
                write(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE))
        except NothingStored:
            raise _nothing_stored(user) from None
    return record


async def erase_user(settings: Settings, user: str) -> Erased:
    """Remove all that is stored of a user. Raises AdminError."""
    # A turn that was on its way when its user's tokens ended may still be with the guard.
    settle_ms = REVOKED_WITHIN_MS + (0 if settings.input_guard is None else settings.input_guard_ms)
    async with _store(settings) as store:
        try:
            removed = await user_data.erase(store.log, store.credentials, user, settle_ms)
        except NothingStored:
            raise _nothing_stored(user) from None
        except StillActive as error:
            raise AdminError(
                f"{error.removed} sessions of {user!r} were erased, but somebody goes on making new ones: find out who "
                "still gets tokens, or a key, of this user, and do it again."
            ) from None
        found = await store.credentials.read("unknown", 0)
    keys = [] if found is None else [key.id for key in found.keys.values() if key.user == user]
    return Erased(removed, sorted(keys))


def _nothing_stored(user: str) -> AdminError:
    return AdminError(f"Nothing is stored of {user!r}. A user is called as in its tokens, letter by letter.")


@asynccontextmanager
async def _credentials(settings: Settings) -> AsyncGenerator[CredentialStore]:
    async with _store(settings) as store:
        yield store.credentials


@asynccontextmanager
async def _store(settings: Settings) -> AsyncGenerator[Store]:
    try:
        async with open_store(settings) as store:
            yield store
    except StartError as error:
        raise AdminError(str(error)) from error
    except Failure as failure:
        raise AdminError(f"The store did not take it ({failure.kind}): try again.") from failure
