"""A model behind the OpenAI chat completions API, which most services speak: ports.Provider."""

import secrets
from collections.abc import Mapping
from typing import Any

from turnwire.ports import StepRequest
from turnwire.providers.http_model import HttpModel
from turnwire.providers.openai_chat_decoder import OpenAIChatDecoder
from turnwire.providers.openai_chat_dialects import DIALECTS, DialectName, dialect_of
from turnwire.providers.openai_chat_request import chat_body
from turnwire.providers.upstream import Upstream
from turnwire.providers.upstream_requests import endpoint, host_of, key_headers


class OpenAIChat(HttpModel):
    """One model of one service. `headers` and `params` are added to every request."""

    def __init__(
        self,
        http: Upstream,
        *,
        name: str,
        base_url: str,
        model: str,
        api_key: str | None = None,
        api_version: str | None = None,
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, Any] | None = None,
        dialect: DialectName | None = None,
    ) -> None:
        """`model` is the service's own name for it. Raises ValueError when `base_url` is no http or https address."""
        self._dialect = DIALECTS[dialect or dialect_of(base_url)]
        self._model = model
        self._maker = f"openai_chat {host_of(base_url)} {model}"
        super().__init__(
            http,
            name=name,
            url=endpoint(base_url, "/chat/completions", api_version),
            headers={**(headers or {}), **key_headers(self._dialect.key_header, api_key)},
            params=params,
        )

    def _body(self, request: StepRequest) -> bytes:
        return chat_body(self._model, request, self._dialect, self._maker)

    def _decoder(self) -> OpenAIChatDecoder:
        return OpenAIChatDecoder(
            maker=self._maker,
            call_prefix=f"call-{secrets.token_hex(6)}",
            returns_reasoning=self._dialect.returns_reasoning,
        )
