"""Which server is the primary, as Redis Sentinel tells it.

Theory: https://redis.io/docs/latest/develop/reference/sentinel-clients/. The Sentinel that answered last is asked
first; whether the server that it names really is a primary, whoever connects to it has to see (a Sentinel that was cut
off names the old one).
"""

import asyncio
from typing import Final

from turnwire.ports import Failure
from turnwire.stores.redis.address import Address
from turnwire.stores.redis.wire import Command, Wire, is_no_answer

ANSWER_MS: Final = 1_000
"""A Sentinel that takes longer is passed over."""


class PrimaryFinder:
    """Asks the Sentinels of an address. Keeps one connection, to the one that answered last."""

    def __init__(self, address: Address) -> None:
        assert address.sentinels is not None  # noqa: S101 - for the type checker: link.py asks before
        self._sentinels = address.sentinels
        self._tls = address.tls
        self._places = list(address.sentinels.places)
        self._wire: Wire | None = None
        self._asking = asyncio.Lock()

    async def find(self) -> tuple[str, int]:
        """Host and port. Raises Failure("store_away") when no Sentinel knows."""
        async with self._asking:
            for place in list(self._places):
                found = await self._ask(place)
                if found is not None:
                    self._places.remove(place)
                    self._places.insert(0, place)
                    return found
                self.close()
        raise Failure("store_away", f"no Sentinel knows a master called {self._sentinels.master}")

    def close(self) -> None:
        if self._wire is not None:
            self._wire.close()
            self._wire = None

    async def _ask(self, place: tuple[str, int]) -> tuple[str, int] | None:
        commands: list[Command] = [("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._sentinels.master)]
        try:
            async with asyncio.timeout(ANSWER_MS / 1000):
                if self._wire is None or self._wire.lost:
                    self._wire = await self._connected(place)
                    if self._sentinels.password is not None:
                        user = (self._sentinels.username,) if self._sentinels.username else ()
                        commands.insert(0, ("AUTH", *user, self._sentinels.password))
                reply = (await self._wire.call(commands))[-1]
        except (OSError, TimeoutError):
            return None
        if is_no_answer(reply) or not reply:
            return None
        host, port = reply
        return host.decode(), int(port)

    async def _connected(self, place: tuple[str, int]) -> Wire:
        loop = asyncio.get_running_loop()
        _, wire = await loop.create_connection(lambda: Wire(timeout_ms=ANSWER_MS), *place, ssl=self._tls)
        return wire
