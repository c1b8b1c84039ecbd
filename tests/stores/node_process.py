"""A process that counts on the embedded store of argv[1]: it says so, and leaves in order when its input ends."""

import asyncio
import sys
from pathlib import Path

from turnwire.stores.redis.embedded import start_embedded


async def main() -> None:
    store = await start_embedded(Path(sys.argv[1]))
    print(store.url, flush=True)
    await asyncio.to_thread(sys.stdin.read)
    print("stopped" if await store.stop_if_last() else "left", flush=True)


asyncio.run(main())
