"""Turns of a branch become the messages that a provider is given.

The estimate of tokens errs on the safe side: a context that is refused for its length costs the user an answer, one
that is a little short costs nothing. The oldest turns are dropped whole, because half an exchange misleads a model.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from turnwire.core.entries import Message, ToolCall

_MESSAGE_TOKENS = 8
_IMAGE_TOKENS = 1_600
"""More than a provider counts for an image of common size."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """One turn: what was asked, and the answer's parts as far as it came.

    `input` holds input parts and `parts` answer parts, both as on the wire. `answers` maps a tool call to its result
    as JSON text.
    """

    input: Sequence[Mapping[str, Any]]
    parts: Sequence[Mapping[str, Any]] = ()
    answers: Mapping[str, str] = field(default_factory=dict[str, str])


def estimated_tokens(text: str) -> int:
    """An upper guess: three bytes of UTF-8 a token, where most text takes four."""
    return math.ceil(len(text.encode()) / 3)


def messages_of(branch: Sequence[Exchange], system_prompt: str | None, tokens_max: int) -> list[Message]:
    """The context for the newest exchange of `branch` (oldest first), within `tokens_max` as estimated.

    The system prompt and the newest exchange are always there, even when they alone are too long: then it is the
    provider that says so.
    """
    system = [Message("system", ({"type": "text", "text": system_prompt},))] if system_prompt else []
    left = tokens_max - sum(_tokens_of(message) for message in system)
    kept: list[list[Message]] = []
    for exchange in reversed(branch):
        messages = _messages_of_exchange(exchange)
        left -= sum(_tokens_of(message) for message in messages)
        if left < 0 and kept:
            break
        kept.append(messages)
    return system + [message for messages in reversed(kept) for message in messages]


def _messages_of_exchange(exchange: Exchange) -> list[Message]:
    """The user's message, the assistant's, and the results of its tool calls.

    Reasoning is the provider's own and is not sent back. A call without a result is left out, because providers refuse
    a conversation in which one is open.
    """
    messages = [Message("user", tuple(dict(part) for part in exchange.input))]
    text = "".join(str(part["text"]) for part in exchange.parts if part["kind"] in ("text", "refusal"))
    calls = tuple(
        ToolCall(str(part["call"]), str(part["name"]), str(part["text"]))
        for part in exchange.parts
        if part["kind"] == "tool_call" and part.get("call") in exchange.answers
    )
    if text or calls:
        messages.append(Message("assistant", ({"type": "text", "text": text},) if text else (), calls))
    for call in calls:
        result = {"type": "text", "text": exchange.answers[call.call]}
        messages.append(Message("tool", (result,), call=call.call))
    return messages


def _tokens_of(message: Message) -> int:
    tokens = _MESSAGE_TOKENS
    for part in message.parts:
        tokens += estimated_tokens(str(part["text"])) if part["type"] == "text" else _IMAGE_TOKENS
    for call in message.tool_calls:
        tokens += _MESSAGE_TOKENS + estimated_tokens(call.name + call.arguments)
    return tokens
