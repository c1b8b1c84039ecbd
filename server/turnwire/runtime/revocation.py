"""Closes the connections of tokens that were revoked while they were open.

Each node reads every two seconds what was revoked, so a token ends everywhere within five, also where the store takes
its time. What runs goes on: a turn belongs to its user, not to the token that began it.
"""

import asyncio
from collections.abc import Collection
from typing import Final

import structlog

from turnwire.ports import Authenticator, Failure
from turnwire.runtime.connection_driver import ConnectionDriver

REFRESH_MS: Final = 2_000
REVOKED_WITHIN_MS: Final = 5_000
"""By then a token is over everywhere, and so is what it began to ask for."""

_log = structlog.get_logger(__name__)


async def close_revoked(authenticator: Authenticator, connections: Collection[ConnectionDriver]) -> None:
    """Look for ever."""
    while True:
        await asyncio.sleep(REFRESH_MS / 1000)
        try:
            changed = await authenticator.refresh()
        except Failure as failure:
            _log.warning("revocations_not_read", kind=failure.kind)
            continue
        if changed:
            for connection in list(connections):
                connection.check_identity()
