"""A way upstream that writes down what passes, for tests that are to run without a model later.

It changes nothing of what passes, and a recording that cannot be written is no reason to fail: it is logged. Exchanges
that were left before their end (a cancel, a deadline of ours) are not kept, because their end is not known.
"""

import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import orjson
import structlog

from turnwire.ports import Deadlines, Failure
from turnwire.providers import exchange_files as files
from turnwire.providers.exchange_files import Ending, Exchange
from turnwire.providers.upstream import Answer, Upstream

BYTES_MAX: Final = 32 * 1024 * 1024
"""Of one body: four times what a decoder takes."""

_log = structlog.get_logger(__name__)


class Recording(Upstream):
    """`upstream`, and a file in `folder` for each exchange. With `redact_prompts` files have nothing of requests but
    their hashes, sizes and numbers. What is recorded of a request anew replaces what earlier runs recorded of it."""

    def __init__(self, upstream: Upstream, folder: Path, *, redact_prompts: bool = False) -> None:
        """Raises OSError when the folder cannot be made or written to."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        (folder / ".writable").touch()
        (folder / ".writable").unlink()
        self._upstream = upstream
        self._folder = folder
        self._redact_prompts = redact_prompts
        self._numbers: dict[str, int] = {}
        """How many recordings of each request this run has made."""

    @asynccontextmanager
    async def ask(
        self, url: str, headers: Mapping[str, str], content: bytes, deadlines: Deadlines
    ) -> AsyncGenerator[Answer]:
        """See Upstream."""
        began = time.monotonic()
        async with self._upstream.ask(url, headers, content, deadlines) as answer:
            tape = _Tape(answer, began)
            try:
                yield tape
            except Failure:
                # The answer was no good, and that is worth recording.
                tape.ending = tape.ending or "end"
                raise
            finally:
                self._keep(tape, url, headers, content)

    def _keep(self, tape: "_Tape", url: str, headers: Mapping[str, str], content: bytes) -> None:
        key = files.key_of(content)
        if tape.ending is None or tape.size > BYTES_MAX:
            why = "it was left before its end" if tape.ending is None else f"it has more than {BYTES_MAX} bytes"
            _log.warning("exchange_not_recorded", exchange=key, why=why)
            return
        pieces = files.masked([piece for _, piece in tape.pieces], files.secrets_in(headers))
        request = orjson.loads(content)
        exchange = Exchange(
            files.without_query(url),
            files.redacted(request) if self._redact_prompts else request,
            tape.status,
            {name: value for name, value in tape.headers.items() if name in files.KEPT_HEADERS},
            tape.headers_ms,
            [(ms, piece) for (ms, _), piece in zip(tape.pieces, pieces, strict=True)],
            tape.ending,
        )
        try:
            path = self._next_path(key)
            files.write(path, exchange)
        except OSError as error:
            _log.error("exchange_not_recorded", exchange=key, why=error.strerror)
        else:
            _log.info("exchange_recorded", exchange=key, code=tape.status, output_bytes=tape.size)

    def _next_path(self, key: str) -> Path:
        if key not in self._numbers:
            for earlier in files.found_in(self._folder, key):
                earlier.unlink()
        self._numbers[key] = self._numbers.get(key, 0) + 1
        return files.path_of(self._folder, key, self._numbers[key])


class _Tape:
    """An answer that remembers what it handed out."""

    def __init__(self, answer: Answer, began: float) -> None:
        self.status = answer.status
        self.headers = answer.headers
        self.ending: Ending | None = None
        """Once it is known."""
        self.pieces: list[tuple[float, bytes]] = []
        self.size = 0
        self._answer = answer
        self._began = began
        self.headers_ms = self._ms()

    async def chunk(self) -> bytes:
        try:
            piece = await self._answer.chunk()
        except Failure:
            self.ending = "cut"
            raise
        if not piece:
            self.ending = "end"
            return piece
        self.size += len(piece)
        if self.size <= BYTES_MAX:
            self.pieces.append((self._ms(), piece))
        return piece

    async def read_out(self) -> None:
        self.ending = "end"
        await self._answer.read_out()

    def _ms(self) -> float:
        return round((time.monotonic() - self._began) * 1000, 1)
