"""How far each log of a store goes, read from its streams and from nothing that the server keeps beside them.

So whether a store has lost the end of its history is a comparison of two lists of numbers.
"""

from typing import Any, cast

import redis

Heads = dict[str, int]
"""Stream to the number of its last entry."""


def heads_of(client: redis.Redis) -> Heads:
    """Every log of the store."""
    with client:
        keys = [str(key) for key in client.scan_iter(match="tw:*", count=1_000, _type="stream")]
        pipeline = client.pipeline(transaction=False)
        for key in keys:
            pipeline.xrevrange(key, count=1)
        newest = cast("list[list[tuple[str, Any]]]", pipeline.execute())
    return {key: int(entries[0][0].partition("-")[0]) for key, entries in zip(keys, newest, strict=True) if entries}


def lost_entries(before: Heads, after: Heads) -> int:
    """How many entries stood in `before` and do not in `after`."""
    return sum(max(0, head - after.get(key, 0)) for key, head in before.items())
