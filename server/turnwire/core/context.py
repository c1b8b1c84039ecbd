"""Turns of a branch become the messages that a provider is given.

The estimate of tokens errs on the safe side: a context that is refused for its length costs the user an answer, one
that is a little short costs nothing. The oldest turns are dropped whole, because half an exchange misleads a model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from turnwire.core.entries import Message, ToolCall
from turnwire.core.tokens import hundredths_of, likely_of

_MESSAGE: Final = 800
"""Hundredths of a token that stand around each message and each call."""

_IMAGE: Final = 160_000
"""More than a provider counts for an image of common size."""

_IMAGE_LEFT_OUT: Final = "[An image, which this model cannot see.]"


@dataclass(frozen=True, slots=True)
class Exchange:
    """One turn: what was asked, and the answer's parts as far as it came.

    `input` holds input parts and `parts` answer parts, both as on the wire. `steps` are the numbers of the first parts
    of the turn's upstream requests. `results` are those of tool calls, as JSON text, by the request that asked for it.
    """

    input: Sequence[Mapping[str, Any]]
    parts: Sequence[Mapping[str, Any]] = ()
    steps: Sequence[int] = ()
    results: Mapping[str, str] = field(default_factory=dict[str, str])


def request_of(part: Mapping[str, Any]) -> str:
    """The ask for a tool call's result. A provider's call id may hold anything, so the part's number names it."""
    return f"part-{part['part']}"


def exchange_of(inputs: Sequence[Mapping[str, Any]], record: Mapping[str, Any]) -> Exchange:
    """A turn with its final record; see Turn.record."""
    return Exchange(inputs, record["parts"], record.get("steps", ()), record.get("results", {}))


def messages_of(
    branch: Sequence[Exchange], system_prompt: str | None, tokens_max: int, *, takes_images: bool
) -> list[Message]:
    """The context for the newest exchange of `branch` (oldest first), within `tokens_max` as estimated.

    The system prompt and the newest exchange are always there, even when they alone are too long: then it is the
    provider that says so.
    """
    system = [Message("system", ({"type": "text", "text": system_prompt},))] if system_prompt else []
    left = tokens_max * 100 - _hundredths_of(system)
    kept: list[list[Message]] = []
    for exchange in reversed(branch):
        messages = _messages_of_exchange(exchange, takes_images)
        left -= _hundredths_of(messages)
        if left < 0 and kept:
            break
        kept.append(messages)
    return system + [message for messages in reversed(kept) for message in messages]


def likely_tokens(messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> int:
    """What a request is likely to be counted as, in case its provider never says."""
    return likely_of(_hundredths_of(messages) + hundredths_of_tools(tools))


def hundredths_of_tools(tools: Sequence[Mapping[str, Any]]) -> int:
    """The upper guess for the tools of a request, which take their share of its context."""
    return hundredths_of(orjson.dumps(tools).decode()) if tools else 0


def _messages_of_exchange(exchange: Exchange, takes_images: bool) -> list[Message]:
    """The user's message, and for each step what the assistant said and the results of its tool calls."""
    messages = [Message("user", tuple(_seen(part, takes_images) for part in exchange.input))]
    bounds = [*exchange.steps[1:], len(exchange.parts)]
    start = 0
    for end in bounds:
        messages += _messages_of_step(exchange.parts[start:end], exchange.results)
        start = end
    return messages


def _messages_of_step(parts: Sequence[Mapping[str, Any]], results: Mapping[str, str]) -> list[Message]:
    """Reasoning is the provider's own and is not sent back. A call without a result is left out, because providers
    refuse a conversation in which one is open."""
    text = "".join(str(part["text"]) for part in parts if part["kind"] in ("text", "refusal"))
    answered = [part for part in parts if part["kind"] == "tool_call" and request_of(part) in results]
    calls = tuple(ToolCall(str(part["call"]), str(part["name"]), str(part["text"])) for part in answered)
    messages: list[Message] = []
    if text or calls:
        messages.append(Message("assistant", ({"type": "text", "text": text},) if text else (), calls))
    for part in answered:
        result = {"type": "text", "text": results[request_of(part)]}
        messages.append(Message("tool", (result,), call=str(part["call"])))
    return messages


def _seen(part: Mapping[str, Any], takes_images: bool) -> Mapping[str, Any]:
    if part["type"] == "image" and not takes_images:
        return {"type": "text", "text": _IMAGE_LEFT_OUT}
    return dict(part)


def _hundredths_of(messages: Sequence[Message]) -> int:
    hundredths = 0
    for message in messages:
        hundredths += _MESSAGE
        for part in message.parts:
            hundredths += hundredths_of(str(part["text"])) if part["type"] == "text" else _IMAGE
        for call in message.tool_calls:
            hundredths += _MESSAGE + hundredths_of(call.name + call.arguments)
    return hundredths
