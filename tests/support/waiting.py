"""Waiting for what no event tells of: another process's state, or a value deep inside what is tested."""

import asyncio
from collections.abc import Callable

PATIENCE_S = 20
LOOK_S = 0.003
LOOK_BLOCKING_S = 0.05


async def until(condition: Callable[[], object], patience_s: float = PATIENCE_S) -> None:
    """Return as soon as `condition()` is true. Fails after a while, so that a broken feature is a failed test."""
    try:
        async with asyncio.timeout(patience_s):
            while not condition():  # noqa: ASYNC110 - there is no event; this is the one place that looks again and again
                await asyncio.sleep(LOOK_S)
    except TimeoutError:
        raise AssertionError(f"did not come true within {patience_s} s") from None


async def until_in_a_thread(condition: Callable[[], object], patience_s: float = PATIENCE_S) -> None:
    """The same for a condition that blocks, for example because it asks a server: the loop goes on meanwhile."""
    try:
        async with asyncio.timeout(patience_s):
            while not await asyncio.to_thread(condition):  # noqa: ASYNC110 - as above
                await asyncio.sleep(LOOK_BLOCKING_S)
    except TimeoutError:
        raise AssertionError(f"did not come true within {patience_s} s") from None
