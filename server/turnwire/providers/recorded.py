"""A way upstream that leads nowhere: every answer comes out of a file, where providers.recording put it.

The same request gets its recordings one after the other, and the last of them ever after, so that a retry meets what it
met then. A request that was not recorded fails, and the log names the key that was looked for: nothing is made up.
"""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import structlog

from turnwire.ports import Deadlines, Failure
from turnwire.providers import exchange_files as files
from turnwire.providers.exchange_files import BadExchange, Exchange
from turnwire.providers.upstream import Answer, Upstream

_log = structlog.get_logger(__name__)


class Recorded(Upstream):
    """The exchanges in `folder`; `timed`: each piece comes when it came then, else at once."""

    def __init__(self, folder: Path, *, timed: bool) -> None:
        self._folder = folder
        self._timed = timed
        self._played: dict[str, int] = {}
        """How often each request was made."""

    @asynccontextmanager
    async def ask(
        self, url: str, headers: Mapping[str, str], content: bytes, deadlines: Deadlines
    ) -> AsyncGenerator[Answer]:
        """See Upstream."""
        exchange = self._next(files.key_of(content))
        began = asyncio.get_running_loop().time()
        answer = _Replay(exchange, began if self._timed else None)
        try:
            async with asyncio.timeout(deadlines.first_content / 1000):
                await answer.until(exchange.headers_ms)
        except TimeoutError as error:
            raise Failure("timeout_first_content", f"no answer within {deadlines.first_content} ms") from error
        yield answer

    def _next(self, key: str) -> Exchange:
        found = files.found_in(self._folder, key)
        if not found:
            _log.warning("exchange_missing", exchange=key, directory=str(self._folder))
            raise Failure("not_recorded", f"no exchange {key}")
        number = self._played.get(key, 0)
        self._played[key] = number + 1
        try:
            return files.read(found[min(number, len(found) - 1)])
        except BadExchange as error:
            _log.error("exchange_unreadable", exchange=key, why=str(error))
            raise Failure("not_recorded", f"exchange {key} is unreadable") from error


class _Replay:
    """One answer, piece by piece. `began`: a time of the running loop, None to hurry."""

    def __init__(self, exchange: Exchange, began: float | None) -> None:
        self.status = exchange.status
        self.headers = exchange.headers
        self._began = began
        self._pieces = list(exchange.pieces)[::-1]
        self._ending = exchange.ending

    async def until(self, ms: float) -> None:
        """Let the time come, and others have their turn."""
        left = 0.0 if self._began is None else self._began + ms / 1000 - asyncio.get_running_loop().time()
        await asyncio.sleep(max(0.0, left))

    async def chunk(self) -> bytes:
        if self._pieces:
            ms, piece = self._pieces.pop()
            await self.until(ms)
            return piece
        if self._ending == "cut":
            raise Failure("truncated", "the connection broke, as recorded")
        return b""

    async def read_out(self) -> None:
        self._pieces.clear()
