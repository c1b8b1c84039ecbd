"""A step's messages become the body of an Anthropic message request.

Pure. Nothing that a client chose can change the model, the prompt, the tools or whether the answer is streamed.
Sampling parameters are there only where somebody set them, because newer API versions refuse them even at their
defaults.

Signed thinking goes back within the turn that it belongs to, where the API demands it beside tool calls. That of
earlier turns does not: newer models refuse it as soon as anything before it changed, and a context that loses its
oldest turns does change. A request that says what is to be done with such thinking
(thinking.block_binding.prefix_mismatch_behavior is `drop_block`) gets it all.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

import orjson

from turnwire.core.entries import Message
from turnwire.ports import Failure, StepRequest
from turnwire.providers.opaque import state_of
from turnwire.providers.stream_decoder import inside
from turnwire.providers.upstream_requests import (
    OUTPUT_TOKENS_FIELDS,
    fitting_id,
    given,
    output_tokens_of,
    text_of,
)

OUTPUT_TOKENS: Final = 4_096
"""Where nobody set a limit: this API demands one."""

_NOT_PARAMS: Final = frozenset(
    [*OUTPUT_TOKENS_FIELDS, "messages", "model", "response_format", "stream", "system", "tools"]
)
_CALL_ID: Final = re.compile(r"[A-Za-z0-9_-]+")
_CALL_ID_CHARS: Final = 24


def messages_body(model: str, request: StepRequest, maker: str = "") -> bytes:
    """The request's JSON. `maker` tells which opaque state is this service's own.

    Raises Failure when the answer is to have a form that the API does not offer.
    """
    params = {name: value for name, value in request.params.items() if name not in _NOT_PARAMS}
    system = [text_of(message.parts) for message in request.messages if message.role == "system"]
    limit = output_tokens_of(request)
    body: dict[str, Any] = {
        **params,
        "model": model,
        "max_tokens": OUTPUT_TOKENS if limit is None else limit,
        "messages": _messages(request.messages, maker, _first_with_thinking(request)),
        "stream": True,
    }
    if system:
        body["system"] = "\n\n".join(system)
    used = sorted({part["name"] for said in request.messages for part in said.parts if part["type"] == "tool_call"})
    if request.tools:
        body["tools"] = [_tool(tool) for tool in request.tools]
    elif used:
        # Calls of earlier turns are refused in a request without tools. They are named, and none may be called.
        body |= {"tools": [_tool({"name": name}) for name in used], "tool_choice": {"type": "none"}}
    if request.response_format is not None:
        config = params.get("output_config")
        said = cast("dict[str, Any]", config) if isinstance(config, dict) else {}
        body["output_config"] = {**said, "format": _format(request.response_format)}
    return orjson.dumps(body)


def _first_with_thinking(request: StepRequest) -> int:
    """From which message on thinking goes back: from the newest question on, or always."""
    if inside(request.params.get("thinking"), "block_binding", "prefix_mismatch_behavior") == "drop_block":
        return 0
    return max((at for at, message in enumerate(request.messages) if message.role == "user"), default=0)


def _messages(messages: Sequence[Message], maker: str, first_with_thinking: int) -> list[dict[str, Any]]:
    """User and assistant in turns: results of tools are the user's, in front of what the user says next."""
    body: list[dict[str, Any]] = []
    for at, message in enumerate(messages):
        match message.role:
            case "system":
                continue
            case "assistant":
                role, blocks = "assistant", _said(message, maker, thinking=at >= first_with_thinking)
            case "tool":
                role, blocks = "user", [_result(message)]
            case "user":
                role, blocks = "user", [_input(part) for part in message.parts]
        if body and body[-1]["role"] == role:
            body[-1]["content"] += blocks
        elif blocks:
            body.append({"role": role, "content": blocks})
    return body


def _input(part: Mapping[str, Any]) -> dict[str, Any]:
    if part["type"] == "text":
        return {"type": "text", "text": part["text"]}
    return {"type": "image", "source": {"type": "base64", "media_type": part["media_type"], "data": part["data"]}}


def _result(message: Message) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": _call_id(str(message.call)), "content": text_of(message.parts)}


def _said(message: Message, maker: str, *, thinking: bool) -> list[dict[str, Any]]:
    """An assistant message's blocks, thinking where the model left it."""
    blocks: list[dict[str, Any]] = []
    for part in message.parts:
        state = state_of(part, maker) if thinking else {}
        blocks += state.get("before", [])
        match part["type"]:
            case "reasoning" if "signature" in state:
                blocks.append({"type": "thinking", "thinking": part["text"], "signature": state["signature"]})
            case "tool_call":
                used = {"name": part["name"], "input": _arguments(part["text"])}
                blocks.append({"type": "tool_use", "id": _call_id(part["call"]), **used})
            # Text without a word is refused.
            case "text" if part["text"].strip():
                blocks.append({"type": "text", "text": part["text"]})
            case _:
                pass
    return blocks


def _arguments(text: str) -> dict[str, Any]:
    """A call's arguments as the object that this API wants, also those that another model wrote badly."""
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        value = None
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {"unreadable": text}


def _call_id(call: str) -> str:
    return fitting_id(call, _CALL_ID, _CALL_ID_CHARS)


def _tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    named = given({"name": tool["name"], "description": tool.get("description")})
    return {**named, "input_schema": tool.get("parameters") or {"type": "object", "properties": {}}}


def _format(response_format: Mapping[str, Any]) -> dict[str, Any]:
    """OpenAI's way of asking for JSON of a schema, which clients use whatever the model, in this API's."""
    schema = inside(response_format, "json_schema", "schema")
    if response_format.get("type") != "json_schema" or not isinstance(schema, dict):
        raise Failure("upstream_rejected", "this API knows no response format but json_schema")
    return {"type": "json_schema", "schema": schema}
