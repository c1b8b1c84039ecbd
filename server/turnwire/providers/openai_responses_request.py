"""A step's messages become the body of an OpenAI response request.

Pure. Nothing is stored at the service: the whole conversation goes with each request, and reasoning goes back encrypted
in front of what it led to. Nothing that a client chose can change the model, the conversation, the tools, whether the
service keeps it, or whether the answer is streamed.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson

from turnwire.core.entries import Message
from turnwire.ports import StepRequest
from turnwire.providers.opaque import state_of
from turnwire.providers.stream_decoder import inside
from turnwire.providers.upstream_requests import (
    OUTPUT_TOKENS_FIELDS,
    data_url,
    fitting_id,
    given,
    output_tokens_of,
    text_of,
)

_NOT_PARAMS: Final = frozenset(
    [
        *OUTPUT_TOKENS_FIELDS,
        "background",
        "conversation",
        "input",
        "instructions",
        "model",
        "previous_response_id",
        "response_format",
        "store",
        "stream",
        "stream_options",
        "tools",
    ]
)
_CALL_ID: Final = re.compile(r".{1,64}", re.DOTALL)
_CALL_ID_CHARS: Final = 24
_TEXT_TYPES: Final = {"summary": "summary_text", "content": "reasoning_text"}
_BETWEEN_CHARS: Final = 2
"""Between the texts of one reasoning part."""


def response_body(model: str, request: StepRequest, maker: str = "", *, obfuscation: bool | None = None) -> bytes:
    """The request's JSON. `maker` tells which opaque state is this service's own; `obfuscation` None says nothing of
    it, for services that do not know the field."""
    params = {name: value for name, value in request.params.items() if name not in _NOT_PARAMS}
    system = [text_of(message.parts) for message in request.messages if message.role == "system"]
    body: dict[str, Any] = {
        **params,
        "model": model,
        "input": [item for message in request.messages for item in _items(message, maker)],
        "store": False,
        "stream": True,
    }
    if system:
        body["instructions"] = "\n\n".join(system)
    if obfuscation is not None:
        body["stream_options"] = {"include_obfuscation": obfuscation}
    limit = output_tokens_of(request)
    if limit is not None:
        body["max_output_tokens"] = limit
    if request.tools:
        body["tools"] = [_tool(tool) for tool in request.tools]
    if request.response_format is not None:
        said = params.get("text")
        body["text"] = {**(said if isinstance(said, dict) else {}), "format": _format(request.response_format)}
    return orjson.dumps(body)


def _items(message: Message, maker: str) -> list[dict[str, Any]]:
    match message.role:
        case "system":
            return []
        case "user":
            return [{"role": "user", "content": [_input(part) for part in message.parts]}]
        case "tool":
            call = _call_id(str(message.call))
            return [{"type": "function_call_output", "call_id": call, "output": text_of(message.parts)}]
        case "assistant":
            return [item for part in message.parts for item in _said(part, state_of(part, maker))]


def _input(part: Mapping[str, Any]) -> dict[str, Any]:
    if part["type"] == "text":
        return {"type": "input_text", "text": part["text"]}
    return {"type": "input_image", "image_url": data_url(part)}


def _said(part: Mapping[str, Any], state: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A part as an item, behind the reasoning that nothing was shown of."""
    items: list[dict[str, Any]] = [{"type": "reasoning", "summary": [], **hidden} for hidden in state.get("before", [])]
    match part["type"]:
        case "text":
            phase = given({"phase": state.get("phase")})
            items.append({"role": "assistant", "content": part["text"], **phase})
        case "tool_call":
            named = {"call_id": _call_id(part["call"]), "name": part["name"], "arguments": part["text"]}
            items.append({"type": "function_call", **named})
        case "reasoning" if "encrypted_content" in state:
            items.append(_reasoning(part["text"], state))
        case _:
            pass
    return items


def _reasoning(text: str, state: Mapping[str, Any]) -> dict[str, Any]:
    item: dict[str, Any] = {"type": "reasoning", "id": state["id"], "summary": []}
    for name, kind in _TEXT_TYPES.items():
        if name in state:
            item[name] = [{"type": kind, "text": piece} for piece in _pieces(text, state[name])]
    return {**item, "encrypted_content": state["encrypted_content"]}


def _pieces(text: str, lengths: Sequence[int]) -> list[str]:
    pieces: list[str] = []
    start = 0
    for length in lengths:
        pieces.append(text[start : start + length])
        start += length + _BETWEEN_CHARS
    return pieces


def _call_id(call: str) -> str:
    return fitting_id(call, _CALL_ID, _CALL_ID_CHARS)


def _tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    """`strict` is said, because this API takes its absence for true, which most schemas do not fit."""
    named = given({"type": "function", "name": tool["name"], "description": tool.get("description")})
    return {**named, "parameters": tool.get("parameters") or {"type": "object", "properties": {}}, "strict": False}


def _format(response_format: Mapping[str, Any]) -> dict[str, Any]:
    """The same as chat completions has it, but flat."""
    schema = inside(response_format, "json_schema")
    return {"type": response_format.get("type"), **(schema if isinstance(schema, dict) else {})}
