"""A model behind Anthropic's Messages API: ports.Provider."""

import secrets
from collections.abc import Mapping
from typing import Any, Final

from turnwire.ports import StepRequest
from turnwire.providers.anthropic_messages_decoder import AnthropicMessagesDecoder
from turnwire.providers.anthropic_messages_request import messages_body
from turnwire.providers.http_model import HttpModel
from turnwire.providers.upstream import Upstream
from turnwire.providers.upstream_requests import endpoint, host_of, key_headers

API_VERSION: Final = "2023-06-01"
"""Understood by every service that speaks this API, gateways included, and it still takes sampling parameters. Streams
are read alike in later versions."""


class AnthropicMessages(HttpModel):
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
    ) -> None:
        """`base_url` is what other programs call ANTHROPIC_BASE_URL, with or without `/v1`.

        Raises ValueError when it is no http or https address.
        """
        self._model = model
        # Without the model: this API passes over thinking that the model cannot read, and wants all other.
        self._maker = f"anthropic_messages {host_of(base_url)}"
        super().__init__(
            http,
            name=name,
            url=endpoint(base_url.rstrip("/").removesuffix("/v1"), "/v1/messages"),
            headers={
                "anthropic-version": api_version or API_VERSION,
                **(headers or {}),
                **key_headers("x-api-key", api_key),
            },
            params=params,
        )

    def _body(self, request: StepRequest) -> bytes:
        return messages_body(self._model, request, self._maker)

    def _decoder(self) -> AnthropicMessagesDecoder:
        return AnthropicMessagesDecoder(maker=self._maker, call_prefix=f"call_{secrets.token_hex(6)}")
