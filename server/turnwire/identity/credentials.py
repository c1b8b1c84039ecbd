"""What this node knows of keys and ended tokens: a copy of the credential store, read again every few seconds.

So no command and no frame waits for the store because of who sends it, and a token is refused on every node within the
time between two reads. While the store is away, what was known last holds: nothing can be read or written meanwhile.
"""

import asyncio
import time
from typing import Final

from turnwire.core.credentials import TOKEN_LIFE_MAX_MS, ApiKey, Credentials, user_hash
from turnwire.ports import CredentialStore, Identity

OVERLAP_MS: Final = 60_000
"""Ends are read again from so far before the newest one that is known: the store's clock may be set back."""

MISS_MS: Final = 500
"""A key that is not known may be a new one, and is looked for, but no more often than this: who brings it waits."""


class KnownCredentials:
    """Use from one event loop. Nothing is known before the first `refresh`."""

    def __init__(self, store: CredentialStore) -> None:
        self.store = store
        self._known = Credentials(version="never read")
        self._ended: dict[str, int] = {}
        self._newest_end = 0
        self._changed = False
        self._looking: asyncio.Task[None] | None = None
        self._read_at_s = -MISS_MS / 1000

    async def refresh(self) -> bool:
        """Read what changed; whether anything did since this was called last. Raises Failure."""
        await self._read()
        changed, self._changed = self._changed, False
        return changed

    async def key(self, key_id: str) -> ApiKey | None:
        """The API key of this id. Raises Failure."""
        if key_id not in self._known.keys:
            if self._looking is None:
                self._looking = asyncio.create_task(self._look(), name="credentials")
                self._looking.add_done_callback(self._on_looked)
            # All who wait share one look, which goes on when one of them leaves.
            await asyncio.shield(self._looking)
        return self._known.keys.get(key_id)

    def holds(self, identity: Identity) -> bool:
        """ports.Authenticator.holds, the token's own end aside."""
        if identity.key is not None and identity.key not in self._known.keys:
            return False
        if identity.issued_at is None:
            return True
        ended_at = self._ended.get(user_hash(identity.user))
        return ended_at is None or identity.issued_at > ended_at

    async def _look(self) -> None:
        await asyncio.sleep(self._read_at_s + MISS_MS / 1000 - time.monotonic())
        await self._read()

    def _on_looked(self, looked: asyncio.Task[None]) -> None:
        self._looking = None
        if not looked.cancelled():
            looked.exception()  # told to those who waited; nobody may be left

    async def _read(self) -> None:
        self._read_at_s = time.monotonic()
        found = await self.store.read(self._known.version, self._newest_end - OVERLAP_MS)
        if found is None:
            return
        self._known = found
        self._changed = True
        self._newest_end = max((self._newest_end, *found.ended.values()))
        self._ended.update(found.ended)
        forgotten = self._newest_end - TOKEN_LIFE_MAX_MS - OVERLAP_MS
        for user in [user for user, at in self._ended.items() if at < forgotten]:
            del self._ended[user]
