"""Whether quotas add up: after a run its user's balance is that of every turn settled once.

Each turn of the store tells in its terminal what it has used. Nothing else is looked at: no claim, no note, no frame.
"""

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, cast

import redis

QUIET_S: Final = 60
"""Far longer than the last turn's node may take to die and be followed."""

PLAN: Final = """
[plans.counted]
tokens_per_month = 1_000_000_000
[limits]
user_plan = "counted"
"""
"""A turnwire.toml with which everything is counted and nothing refused."""


async def fault_of_balances(client_of: Callable[[], redis.Redis]) -> str | None:
    """What does not add up once all turns are over; None: it does."""
    fault = None
    for _ in range(QUIET_S):
        with suppress(redis.RedisError):  # asked again
            fault = await asyncio.to_thread(_fault_of, client_of())
            if fault is None:
                return None
        await asyncio.sleep(1)
    return fault


def _fault_of(client: redis.Redis) -> str | None:
    with client:
        used, unfinished, running = 0, 0, 0
        for key in client.scan_iter(match="tw:*:t:*", count=1_000, _type="hash"):
            state, body = cast("list[str | None]", client.hmget(key, ["state", "end_body"]))
            if state in ("done", "error"):
                usage = json.loads(body or "{}").get("usage", {})
                used += usage.get("input_tokens", 0) + usage.get("output_tokens", 0)
            else:
                unfinished += 1
        told: dict[str, Any] = {}
        for key in client.scan_iter(match="tw:*::quota", count=1_000):
            told = cast("dict[str, Any]", client.hgetall(str(key)))
        for key in client.scan_iter(match="tw:*::running", count=1_000):
            running += client.zcard(str(key))
    found = {
        "used": int(told.get("month_tokens", -1)),
        "claimed": int(told.get("claimed_tokens", -1)),
        "running": running,
    }
    right = {"used": used, "claimed": 0, "running": 0}
    if found == right and not unfinished:
        return None
    return f"the store has {found}, its turns {right}, and {unfinished} of these are not over"
