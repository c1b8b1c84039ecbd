"""Where services that speak OpenAI's chat completions want to be asked in their own way.

Pure. Each difference is one that a service refuses requests for, as its documentation or its users tell; what they
answer in their own way needs no dialect, because the decoder takes it from anyone.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from turnwire.providers.upstream_requests import host_of

DialectName = Literal["common", "openai", "azure", "mistral", "gemini", "deepseek"]

_ANY_ID: Final = re.compile(r".*", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Dialect:
    """What a service wants to be asked in its own way."""

    output_tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    stream_options: Mapping[str, bool] | None = field(default_factory=lambda: {"include_usage": True})
    """None where the service refuses the field, or tells usage without being asked."""
    key_header: Literal["authorization", "api-key"] = "authorization"
    call_id: re.Pattern[str] = _ANY_ID
    """What a tool call's id must look like."""
    call_id_chars: int = 24
    """How long one is made that does not."""
    returns_reasoning: bool = False
    """Whether reasoning must come back, as `reasoning_content`, with the tool calls that it led to."""
    signs_calls: bool = False
    """Whether tool calls must come back with the signature of the model, or a word that none was given."""


DIALECTS: Final[Mapping[DialectName, Dialect]] = {
    # vLLM, Ollama, llama.cpp, LiteLLM, OpenRouter, Groq, Together and most others.
    "common": Dialect(),
    "openai": Dialect(
        "max_completion_tokens",
        {"include_usage": True, "include_obfuscation": False},
        call_id=re.compile(r".{1,40}", re.DOTALL),
    ),
    "azure": Dialect("max_completion_tokens", key_header="api-key", call_id=re.compile(r".{1,40}", re.DOTALL)),
    "mistral": Dialect(stream_options=None, call_id=re.compile(r"[A-Za-z0-9]{9}"), call_id_chars=9),
    "gemini": Dialect(signs_calls=True),
    "deepseek": Dialect(returns_reasoning=True),
}

_HOSTS: Final[Mapping[str, DialectName]] = {
    "api.openai.com": "openai",
    "api.mistral.ai": "mistral",
    "generativelanguage.googleapis.com": "gemini",
    "api.deepseek.com": "deepseek",
}
_AZURE_HOSTS: Final = (".openai.azure.com", ".cognitiveservices.azure.com", ".services.ai.azure.com")


def dialect_of(base_url: str) -> DialectName:
    """The dialect of a known host, else the common one."""
    host = host_of(base_url)
    if host.endswith(_AZURE_HOSTS):
        return "azure"
    return _HOSTS.get(host, "common")
