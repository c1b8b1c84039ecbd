"""A way to a model's service, as providers use it: one POST, whose answer is a stream of events.

The ways differ in where the answer comes from: over HTTP (http_stream), over HTTP and into a file (recording), out of a
file (recorded). What an answer means that is no stream of events is the same for all of them, and stands here.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime
from typing import Final, Protocol

from turnwire.ports import Deadlines, Failure
from turnwire.providers.upstream_errors import failure_of_status

ERROR_BODY_BYTES_MAX: Final = 65_536
ERROR_BODY_MS: Final = 2_000


class Body(Protocol):
    """The bytes of one answer, as they come."""

    async def chunk(self) -> bytes:
        """What has come since, at least a byte; nothing at the end. Raises Failure when the connection broke."""
        ...

    async def read_out(self) -> None:
        """Take in the end of a finished answer, so that its connection can serve the next one."""
        ...


class Answer(Body, Protocol):
    """One answer, whatever it says. `headers` are by lower-case name."""

    @property
    def status(self) -> int: ...
    @property
    def headers(self) -> Mapping[str, str]: ...


class Upstream(ABC):
    """A way to services."""

    @abstractmethod
    def ask(
        self, url: str, headers: Mapping[str, str], content: bytes, deadlines: Deadlines
    ) -> AbstractAsyncContextManager[Answer]:
        """Post JSON and hand out the answer, whatever it says, once its headers are there.

        Raises Failure: on connecting within `deadlines.connect`, on headers within `deadlines.first_content`. When the
        context has been left, the connection is closed, unless its answer was read to the end.
        """

    @asynccontextmanager
    async def post(
        self, url: str, headers: Mapping[str, str], content: bytes, deadlines: Deadlines
    ) -> AsyncGenerator[Body]:
        """The same for an answer that is sure to be a stream of events; any other one raises its Failure."""
        async with self.ask(url, headers, content, deadlines) as answer:
            await _check(answer)
            yield answer


async def _check(answer: Answer) -> None:
    """Raise the failure that an answer means, unless it is a stream of events."""
    if answer.status != 200:
        body = await _error_body(answer)
        raise failure_of_status(answer.status, answer.headers, body, datetime.now(UTC))
    kind = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "text/event-stream":
        raise Failure("malformed", "the answer is no stream of events")
    if answer.headers.get("content-encoding", "identity") != "identity":
        raise Failure("malformed", "the answer is compressed, which was not asked for")


async def _error_body(answer: Answer) -> bytes:
    """The beginning of an error's body. It only refines what the status says, so it may be missing."""
    pieces: list[bytes] = []
    left = ERROR_BODY_BYTES_MAX
    try:
        async with asyncio.timeout(ERROR_BODY_MS / 1000):
            while left > 0 and (piece := await answer.chunk()):
                pieces.append(piece[:left])
                left -= len(piece)
    except (TimeoutError, Failure):
        pass
    return b"".join(pieces)
