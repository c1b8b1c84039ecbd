"""Waiting for what no event tells of: another process's state, or a value deep inside what is tested."""

import asyncio
from collections.abc import Callable

PATIENCE_S = 20
LOOK_S = 0.003


async def until(condition: Callable[[], object]) -> None:
    """Return as soon as `condition()` is true. Fails after a while, so that a broken feature is a failed test."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            while not condition():  # noqa: ASYNC110 - there is no event; this is the one place that looks again and again
                await asyncio.sleep(LOOK_S)
    except TimeoutError:
        raise AssertionError(f"did not come true within {PATIENCE_S} s") from None
