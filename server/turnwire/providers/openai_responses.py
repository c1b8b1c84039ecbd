"""A model behind OpenAI's Responses API: ports.Provider."""

import secrets
from collections.abc import Mapping
from typing import Any

from turnwire.ports import StepRequest
from turnwire.providers.http_model import HttpModel
from turnwire.providers.openai_chat_dialects import DIALECTS, DialectName, dialect_of
from turnwire.providers.openai_responses_decoder import OpenAIResponsesDecoder
from turnwire.providers.openai_responses_request import response_body
from turnwire.providers.upstream import Upstream
from turnwire.providers.upstream_requests import endpoint, host_of, key_headers


class OpenAIResponses(HttpModel):
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
        named = dialect or dialect_of(base_url)
        self._model = model
        self._maker = f"openai_responses {host_of(base_url)} {model}"
        self._obfuscation = False if named == "openai" else None
        super().__init__(
            http,
            name=name,
            url=endpoint(base_url, "/responses", api_version),
            headers={**(headers or {}), **key_headers(DIALECTS[named].key_header, api_key)},
            params=params,
        )

    def _body(self, request: StepRequest) -> bytes:
        return response_body(self._model, request, self._maker, obfuscation=self._obfuscation)

    def _decoder(self) -> OpenAIResponsesDecoder:
        return OpenAIResponsesDecoder(maker=self._maker, call_prefix=f"call_{secrets.token_hex(6)}")
