"""A step's messages become the body of an OpenAI-compatible chat completion request.

Pure. The body says only what was asked for, because services refuse fields that they do not know; where services
differ, Dialect says how. Nothing that a client chose can change the model, the address, the credentials or whether the
answer is streamed.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson

from turnwire.core.entries import Message
from turnwire.ports import StepRequest
from turnwire.providers.opaque import state_of
from turnwire.providers.openai_chat_dialects import Dialect
from turnwire.providers.signed_reasoning import SIGNED_LISTS, restored
from turnwire.providers.upstream_requests import (
    OUTPUT_TOKENS_FIELDS,
    data_url,
    fitting_id,
    given,
    output_tokens_of,
    text_of,
)

NO_SIGNATURE: Final = {"google": {"thought_signature": "skip_thought_signature_validator"}}
"""Google's word for a call that was made elsewhere and so has no signature."""

_NOT_PARAMS: Final = frozenset(
    [*OUTPUT_TOKENS_FIELDS, "model", "messages", "n", "response_format", "stream", "stream_options", "tools"]
)
"""Decided here. `n` is left out: answers beside the first would be paid for and read by nobody."""


def chat_body(model: str, request: StepRequest, dialect: Dialect, maker: str = "") -> bytes:
    """The request's JSON. `maker` tells which opaque state is this service's own."""
    body: dict[str, Any] = {
        **{name: value for name, value in request.params.items() if name not in _NOT_PARAMS},
        "model": model,
        "messages": [_message(message, dialect, maker) for message in request.messages],
        "stream": True,
    }
    if dialect.stream_options is not None:
        body["stream_options"] = dialect.stream_options
    limit = output_tokens_of(request)
    if limit is not None:
        body[dialect.output_tokens_field] = limit
    if request.tools:
        body["tools"] = [{"type": "function", "function": given(tool)} for tool in request.tools]
    if request.response_format is not None:
        body["response_format"] = request.response_format
    return orjson.dumps(body)


def _message(message: Message, dialect: Dialect, maker: str) -> dict[str, Any]:
    if message.role == "assistant":
        return _assistant_message(message, dialect, maker)
    value: dict[str, Any] = {"role": message.role, "content": _content(message.parts)}
    if message.role == "tool":
        value["tool_call_id"] = _call_id(str(message.call), dialect)
    return value


def _content(parts: Sequence[Mapping[str, Any]]) -> str | list[dict[str, Any]]:
    """Text alone as a string, which every service understands."""
    if all(part["type"] == "text" for part in parts):
        return text_of(parts)
    return [_item(part) for part in parts]


def _item(part: Mapping[str, Any]) -> dict[str, Any]:
    if part["type"] == "text":
        return {"type": "text", "text": part["text"]}
    return {"type": "image_url", "image_url": {"url": data_url(part)}}


def _assistant_message(message: Message, dialect: Dialect, maker: str) -> dict[str, Any]:
    text = text_of(message.parts, between="\n\n")
    value: dict[str, Any] = {"role": "assistant", "content": text, **_reasoning(message, maker)}
    calls = [_call(part, dialect, maker) for part in message.parts if part["type"] == "tool_call"]
    if calls:
        if dialect.signs_calls:
            # Of calls that were made together only the first is signed.
            calls[0].setdefault("extra_content", NO_SIGNATURE)
        value["content"] = text or None
        value["tool_calls"] = calls
    return value


def _call(part: Mapping[str, Any], dialect: Dialect, maker: str) -> dict[str, Any]:
    state = state_of(part, maker)
    return {
        "id": _call_id(part["call"], dialect),
        "type": "function",
        "function": {"name": part["name"], "arguments": part["text"]},
        **given({"extra_content": state.get("extra_content")}),
    }


def _call_id(call: str, dialect: Dialect) -> str:
    return fitting_id(call, dialect.call_id, dialect.call_id_chars)


def _reasoning(message: Message, maker: str) -> dict[str, Any]:
    """The model's reasoning, where it wants it back, in the form that it wants."""
    state: dict[str, Any] = {}
    for part in message.parts:
        state |= state_of(part, maker)
    thought = "".join(part["text"] for part in message.parts if part["type"] == "reasoning")
    fields: dict[str, Any] = {name: restored(state[name], thought) for name in SIGNED_LISTS if name in state}
    if "reasoning" in state:
        fields["reasoning_content"] = thought
    return fields
