"""Stopping without breaking answers: say so, let the running turns end, then close.

uvicorn closes every socket as soon as it is told to stop, so this runs before it is told.
"""

import asyncio
from typing import Final

import structlog

from turnwire.runtime.backend import Backend
from turnwire.runtime.connection_driver import ConnectionDriver
from turnwire.runtime.running_turns import RunningTurns
from turnwire_protocol.codes import CloseCode

RECONNECT_MIN_MS: Final = 0
RECONNECT_MAX_MS: Final = 5_000
GIVE_UP_MS: Final = 3_000
"""How long turns that are told to end may take to close their upstream requests and to be sealed."""
CLOSE_MS: Final = 2_000
"""How long the closing handshakes may take together."""

_log = structlog.get_logger(__name__)


async def drain(backend: Backend, running: RunningTurns, connections: set[ConnectionDriver], *, drain_ms: int) -> None:
    """Accept and begin no turn any more, wait for the running ones up to `drain_ms`, close every connection with 1012.

    A turn that still runs then ends with what it has of an answer. One that has nothing yet is left to another node,
    which finds its lease overdue and runs it again.
    """
    backend.draining = True
    running.stop_taking()
    for connection in list(connections):
        connection.goaway("shutdown", RECONNECT_MIN_MS, RECONNECT_MAX_MS)
    _log.info("draining", turns=len(running), connections=len(connections))
    try:
        async with asyncio.timeout(drain_ms / 1000):
            await running.idle()
    except TimeoutError:
        _log.warning("drain_timed_out", turns=len(running))
        await _give_up(running)
    for connection in list(connections):
        connection.close(CloseCode.SERVICE_RESTART)
    try:
        async with asyncio.timeout(CLOSE_MS / 1000):
            while connections:
                await asyncio.wait({connection.over for connection in connections})
    except TimeoutError:
        _log.warning("connections_left", connections=len(connections))


async def _give_up(running: RunningTurns) -> None:
    running.give_up()
    try:
        async with asyncio.timeout(GIVE_UP_MS / 1000):
            await running.idle()
    except TimeoutError:
        _log.warning("turns_left", turns=len(running))
