"""The store, opened as the settings say: one that they name, or one of this node's own.

For everyone who needs it: a server, and the commands of operators.
"""

import secrets
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Final

from turnwire.ports import CredentialStore, QuotaStore, SessionLog
from turnwire.settings import Settings
from turnwire.stores.redis.address import StartError as StoreStartError
from turnwire.stores.redis.credentials import RedisCredentials
from turnwire.stores.redis.embedded import start_embedded
from turnwire.stores.redis.limits import RedisQuotas
from turnwire.stores.redis.link import Link
from turnwire.stores.redis.log import LogLimits, RedisSessionLog

SETTLE_EXTRA_MS: Final = 2_000
"""After a change of the store's history: a writer that lives is back within its lease, and then puts back its own."""
READERS_EXTRA_MS: Final = 3_000
"""How much longer readers wait: a turn is put back only behind the end of the one before it, which then has to be
written if nobody has it any more."""


class StartError(Exception):
    """The node cannot start; the text says why and what to do, in a sentence."""


@dataclass(frozen=True, slots=True)
class Store:
    """A log, what is counted and the credentials beside it, and the sentence that the banner says of them."""

    log: SessionLog
    quotas: QuotaStore
    credentials: CredentialStore
    described: str


@asynccontextmanager
async def open_store(settings: Settings) -> AsyncGenerator[Store]:
    """The log, in the store that the settings name or else in one of this node's own."""
    async with AsyncExitStack() as stack:
        try:
            if settings.redis_url is not None:
                link = Link(settings.redis_url.get_secret_value())
                described = link.address.described
            else:
                embedded = await start_embedded(settings.data_dir)
                stack.push_async_callback(embedded.stop_if_last)
                link, described = Link(embedded.url), embedded.described
            replicas = settings.replicas
            if replicas is None:  # whoever runs Sentinels has a replica
                replicas = 0 if link.address.sentinels is None else 1
            settle_ms = settings.lease_ms + SETTLE_EXTRA_MS
            limits = LogLimits(
                lease_ms=settings.lease_ms,
                replicas=replicas,
                settle_ms=settle_ms,
                readers_settle_ms=settle_ms + READERS_EXTRA_MS,
            )
            log = RedisSessionLog(link, node=secrets.token_urlsafe(9), limits=limits)
            await stack.enter_async_context(log)
            quotas = await stack.enter_async_context(RedisQuotas(link))
            credentials = await stack.enter_async_context(RedisCredentials(link))
        except StoreStartError as error:
            raise StartError(str(error)) from error
        yield Store(log, quotas, credentials, described)
