"""The public keys of whoever issues the tokens (RFC 7517), fetched from the address that the operator set.

PyJWT's own client waits for urllib inside the event loop. Here one request at a time is under way, whoever asks waits
for it, and strangers' tokens with invented key ids cannot cause more than one in a while. Keys that are known stay in
use while the issuer cannot be reached, for a bounded time: its outage is not ours, but a key that it withdrew must not
hold for ever.

The address is the operator's and the answer is public, so the request carries nothing. No redirects: they could lead
anywhere.
"""

import asyncio
import time
from collections.abc import Collection
from typing import Final

import aiohttp
import jwt
import structlog

from turnwire.ports import Failure

FRESH_S: Final = 300
"""Keys that are older are fetched anew, beside the requests that use them."""
USABLE_S: Final = 3_600
COOLDOWN_S: Final = 10
"""At least so long between two requests, whatever they bring."""
FETCH_S: Final = 5
BYTES_MAX: Final = 262_144
KEYS_MAX: Final = 64

_log = structlog.get_logger(__name__)


class KeySet:
    """jwt_auth.KeySource. `algorithms` are those that may be used; keys of others are left out."""

    def __init__(self, url: str, algorithms: Collection[str]) -> None:
        self._url = url
        self._algorithms = frozenset(algorithms)
        self._keys: list[jwt.PyJWK] = []
        self._fetched_at_s = float("-inf")
        self._asked_at_s = float("-inf")
        self._fetching: asyncio.Task[None] | None = None

    async def key(self, key_id: str | None, algorithm: str) -> jwt.PyJWK | None:
        """The key of this id; without an id, the only one there is."""
        now_s = time.monotonic()
        if now_s - self._fetched_at_s > USABLE_S:
            self._keys = []
        found = self._find(key_id, algorithm)
        if found is None:
            await self.fetch_if_due()
            return self._find(key_id, algorithm)
        if now_s - self._fetched_at_s > FRESH_S:
            self._start()
        return found

    async def fetch_if_due(self) -> None:
        """Fetch, unless that was tried a moment ago; what went wrong is logged."""
        task = self._start()
        if task is not None:
            # Whoever asked may be gone by now; others wait for the same answer.
            await asyncio.shield(task)

    async def aclose(self) -> None:
        if self._fetching is not None:
            self._fetching.cancel()
            await asyncio.wait((self._fetching,))

    def _find(self, key_id: str | None, algorithm: str) -> jwt.PyJWK | None:
        fit = [key for key in self._keys if key.algorithm_name == algorithm and key_id in (None, key.key_id)]
        # Without an id, of several keys none is meant more than another.
        return fit[0] if len(fit) == 1 else None

    def _start(self) -> asyncio.Task[None] | None:
        """The request that is under way, or a new one if it is time for one."""
        if self._fetching is None and time.monotonic() - self._asked_at_s >= COOLDOWN_S:
            self._asked_at_s = time.monotonic()
            self._fetching = asyncio.create_task(self._fetch(), name="jwks")
            self._fetching.add_done_callback(self._on_fetched)
        return self._fetching

    def _on_fetched(self, _task: asyncio.Task[None]) -> None:
        self._fetching = None

    async def _fetch(self) -> None:
        try:
            self._keys = _usable(await _get(self._url), self._algorithms)
        except Failure as failure:
            _log.warning("jwks_not_fetched", kind=failure.kind, detail=failure.detail)
        else:
            self._fetched_at_s = time.monotonic()


def _usable(body: bytes, algorithms: Collection[str]) -> list[jwt.PyJWK]:
    """The keys in a set that may be used. Raises Failure where there are none."""
    try:
        published = jwt.PyJWKSet.from_json(body.decode())
    except Exception as error:  # whatever a parser says of what another server wrote
        raise Failure("malformed", "no set of keys") from error
    keys = [key for key in published.keys if key.algorithm_name in algorithms]
    if not keys:
        raise Failure("malformed", "no key of an algorithm that is allowed")
    return keys[:KEYS_MAX]


async def _get(url: str) -> bytes:
    """The body of a 200, no larger than it may be. Raises Failure."""
    timeout = aiohttp.ClientTimeout(total=FETCH_S)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout, cookie_jar=aiohttp.DummyCookieJar(), trust_env=False) as http,
            http.get(url, allow_redirects=False, headers={"accept": "application/json"}) as response,
        ):
            if response.status != 200:
                raise Failure("upstream_failed", f"status {response.status}")
            parts: list[bytes] = []
            size = 0
            async for part in response.content.iter_any():
                parts.append(part)
                size += len(part)
                if size > BYTES_MAX:
                    raise Failure("malformed", f"over {BYTES_MAX} bytes")
            return b"".join(parts)
    except (aiohttp.ClientError, TimeoutError) as error:
        raise Failure("upstream_connect", type(error).__name__) from error
