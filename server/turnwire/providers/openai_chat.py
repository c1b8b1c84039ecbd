"""A model behind the OpenAI chat completions API, which most services speak: ports.Provider.

This file only joins its parts: the request (openai_chat_request), the way there (http_stream) and the answer
(openai_chat_decoder). It never waits for what is not content: content deadlines are its caller's.
"""

import asyncio
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Final

from turnwire.core.entries import ProviderEvent
from turnwire.ports import Failure, StepRequest
from turnwire.providers.openai_chat_decoder import OpenAIChatDecoder
from turnwire.providers.openai_chat_request import Dialect, chat_body, completions_url, dialect_of
from turnwire.providers.upstream import Body, Upstream

TAIL_MS: Final = 2_000
"""How long usage and the protocol's end may come after the finish reason. The answer is whole without them."""


class OpenAIChat:
    """One model of one service. `headers` are added to every request, for services that want their own."""

    def __init__(
        self,
        http: Upstream,
        *,
        name: str,
        base_url: str,
        model: str,
        api_key: str | None = None,
        headers: Mapping[str, str] | None = None,
        dialect: Dialect | None = None,
    ) -> None:
        """`model` is the service's own name for it. Raises ValueError when `base_url` is no http or https address."""
        self.name = name
        self._http = http
        self._url = completions_url(base_url)
        self._model = model
        self._dialect = dialect or dialect_of(base_url)
        self._headers = dict(headers or {})
        if api_key is not None:
            bearer = self._dialect.key_header == "authorization"
            self._headers[self._dialect.key_header] = f"Bearer {api_key}" if bearer else api_key

    @asynccontextmanager
    async def stream(self, request: StepRequest) -> AsyncGenerator[AsyncIterator[Sequence[ProviderEvent]]]:
        """See ports.Provider."""
        content = chat_body(self._model, request, self._dialect)
        decoder = OpenAIChatDecoder(call_prefix=f"call-{secrets.token_hex(6)}")
        async with (
            self._http.post(self._url, self._headers, content, request.deadlines) as body,
            aclosing(_events_of(body, decoder)) as events,
        ):
            yield events


async def _events_of(body: Body, decoder: OpenAIChatDecoder) -> AsyncGenerator[Sequence[ProviderEvent]]:
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
