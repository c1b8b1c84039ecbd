"""A step's messages become the body of an OpenAI-compatible chat completion request.

Pure. The body says only what was asked for, because services refuse fields that they do not know; where services
differ, Dialect says how. Nothing that a client chose can change the model, the address, the credentials or whether the
answer is streamed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal
from urllib.parse import urlsplit, urlunsplit

import orjson

from turnwire.core.entries import Message
from turnwire.ports import StepRequest


@dataclass(frozen=True, slots=True)
class Dialect:
    """What a service wants to be asked in its own way."""

    output_tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    stream_options: Mapping[str, bool] | None = field(default_factory=lambda: {"include_usage": True})
    """None where the service refuses the field, or tells usage without being asked."""
    key_header: Literal["authorization", "api-key"] = "authorization"


OPENAI: Final = Dialect("max_completion_tokens", {"include_usage": True, "include_obfuscation": False})
AZURE: Final = Dialect("max_completion_tokens", key_header="api-key")
MISTRAL: Final = Dialect(stream_options=None)
COMMON: Final = Dialect()
"""vLLM, Ollama, llama.cpp, OpenRouter, Groq, DeepSeek, Together and most others."""

_OUTPUT_TOKENS_FIELDS: Final = ("max_tokens", "max_completion_tokens")
_NOT_PARAMS: Final = frozenset(
    [*_OUTPUT_TOKENS_FIELDS, "model", "messages", "n", "response_format", "stream", "stream_options", "tools"]
)
"""Decided here. `n` is left out: answers beside the first would be paid for and read by nobody."""


def dialect_of(base_url: str) -> Dialect:
    """The dialect of a known host, else the common one."""
    host = urlsplit(base_url).hostname or ""
    if host == "api.openai.com":
        return OPENAI
    if host.endswith((".openai.azure.com", ".cognitiveservices.azure.com", ".services.ai.azure.com")):
        return AZURE
    return MISTRAL if host == "api.mistral.ai" else COMMON


def completions_url(base_url: str) -> str:
    """Where to post; a query (Azure's api-version) stays. Raises ValueError unless it is an http or https address."""
    parts = urlsplit(base_url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{base_url!r} is no http or https address")
    return urlunsplit(parts._replace(path=parts.path.rstrip("/") + "/chat/completions", fragment=""))


def chat_body(model: str, request: StepRequest, dialect: Dialect) -> bytes:
    """The request's JSON."""
    asked = [request.params[name] for name in _OUTPUT_TOKENS_FIELDS if isinstance(request.params.get(name), int)]
    limits = [value for value in [*asked, request.output_tokens_max] if value is not None]
    body: dict[str, Any] = {
        **{name: value for name, value in request.params.items() if name not in _NOT_PARAMS},
        "model": model,
        "messages": messages_of(request.messages),
        "stream": True,
    }
    if dialect.stream_options is not None:
        body["stream_options"] = dialect.stream_options
    if limits:
        body[dialect.output_tokens_field] = min(limits)
    if request.tools:
        body["tools"] = [{"type": "function", "function": _given(tool)} for tool in request.tools]
    if request.response_format is not None:
        body["response_format"] = request.response_format
    return orjson.dumps(body)


def messages_of(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Messages as the service takes them; those of text alone as a string, which every service understands."""
    return [_message(message) for message in messages]


def _message(message: Message) -> dict[str, Any]:
    if message.role == "assistant":
        return _assistant_message(message)
    value: dict[str, Any] = {"role": message.role, "content": _content(message.parts)}
    if message.role == "tool":
        value["tool_call_id"] = message.call
    return value


def _assistant_message(message: Message) -> dict[str, Any]:
    text = "\n\n".join(part["text"] for part in message.parts if part["type"] == "text")
    calls = [
        {"id": part["call"], "type": "function", "function": {"name": part["name"], "arguments": part["text"]}}
        for part in message.parts
        if part["type"] == "tool_call"
    ]
    if not calls:
        return {"role": "assistant", "content": text}
    return {"role": "assistant", "content": text or None, "tool_calls": calls}


def _content(parts: Sequence[Mapping[str, Any]]) -> str | list[dict[str, Any]]:
    if all(part["type"] == "text" for part in parts):
        return "".join(str(part["text"]) for part in parts)
    return [_item(part) for part in parts]


def _item(part: Mapping[str, Any]) -> dict[str, Any]:
    if part["type"] == "text":
        return {"type": "text", "text": part["text"]}
    return {"type": "image_url", "image_url": {"url": f"data:{part['media_type']};base64,{part['data']}"}}


def _given(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}
