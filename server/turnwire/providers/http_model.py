"""A model behind an HTTP API that streams events: ports.Provider, for every API.

This file only joins the parts: a subclass's request, the way there (http_stream), and a subclass's decoder. It never
waits for what is not content: content deadlines are its caller's.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from typing import Any, Final

from turnwire.core.entries import ProviderEvent
from turnwire.ports import Failure, StepRequest
from turnwire.providers.stream_decoder import StreamDecoder
from turnwire.providers.upstream import Body, Upstream

TAIL_MS: Final = 2_000
"""How long usage and the protocol's end may come after the finish reason. The answer is whole without them."""


class HttpModel(ABC):
    """One model of one service."""

    def __init__(
        self,
        http: Upstream,
        *,
        name: str,
        url: str,
        headers: Mapping[str, str],
        params: Mapping[str, Any] | None = None,
    ) -> None:
        """`params` go with every request that does not set them itself."""
        self.name = name
        self._http = http
        self._url = url
        self._headers = dict(headers)
        self._params = dict(params or {})

    @abstractmethod
    def _body(self, request: StepRequest) -> bytes:
        """The request's JSON. Raises Failure when the API cannot say what is asked."""

    @abstractmethod
    def _decoder(self) -> StreamDecoder:
        """A decoder for one response."""

    @asynccontextmanager
    async def stream(self, request: StepRequest) -> AsyncGenerator[AsyncIterator[Sequence[ProviderEvent]]]:
        """See ports.Provider."""
        content = self._body(replace(request, params={**self._params, **request.params}))
        decoder = self._decoder()
        async with (
            self._http.post(self._url, self._headers, content, request.deadlines) as body,
            aclosing(_events_of(body, decoder)) as events,
        ):
            yield events


async def _events_of(body: Body, decoder: StreamDecoder) -> AsyncGenerator[Sequence[ProviderEvent]]:
    tail_until: float | None = None
    while not decoder.over:
        if decoder.proved and tail_until is None:
            tail_until = asyncio.get_running_loop().time() + TAIL_MS / 1000
        broken: Failure | None = None
        try:
            chunk = await (body.chunk() if tail_until is None else _tail(body, tail_until))
        except Failure as failure:
            # What had come may be a whole answer all the same: the decoder knows.
            chunk, broken = b"", failure
        events = decoder.feed(chunk) if chunk else decoder.end()
        if decoder.over:
            await body.read_out()
        if events:
            yield events
        if decoder.failure is not None:
            raise decoder.failure from broken


async def _tail(body: Body, until: float) -> bytes:
    """The next chunk behind a finish reason. To be late there is as good as the end."""
    try:
        async with asyncio.timeout_at(until):
            return await body.chunk()
    except TimeoutError:
        return b""
