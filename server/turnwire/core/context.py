"""Turns of a branch become the messages that a provider is given.

The estimate of tokens errs on the safe side: a context that is refused for its length costs the user an answer, one
that is a little short costs nothing. The oldest turns are dropped whole, because half an exchange misleads a model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from turnwire.core.entries import Message
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
    `opaque` is what providers want back, by part.
    """

    input: Sequence[Mapping[str, Any]]
    parts: Sequence[Mapping[str, Any]] = ()
    steps: Sequence[int] = ()
    results: Mapping[str, str] = field(default_factory=dict[str, str])
    opaque: Mapping[int, str] = field(default_factory=dict[int, str])


def request_of(part: Mapping[str, Any]) -> str:
    """The ask for a tool call's result. A provider's call id may hold anything, so the part's number names it."""
    return f"part-{part['part']}"


def exchange_of(inputs: Sequence[Mapping[str, Any]], record: Mapping[str, Any]) -> Exchange:
    """A turn with its final record; see Turn.record."""
    opaque = {int(part): text for part, text in record.get("opaque", {}).items()}
    return Exchange(inputs, record["parts"], record.get("steps", ()), record.get("results", {}), opaque)


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
        step = exchange.parts[start:end]
        said = tuple(_said_in(step, exchange))
        before = messages[-1]
        if said and before.role == "assistant":
            # Its calls are forgotten, and services want the roles to take turns.
            messages[-1] = Message("assistant", (*before.parts, *said))
        elif said:
            messages.append(Message("assistant", said))
        messages += [_result_of(part, exchange) for part in step if _is_answered(part, exchange)]
        start = end
    return messages


def _said_in(step: Sequence[Mapping[str, Any]], exchange: Exchange) -> list[dict[str, Any]]:
    """An assistant message's parts.

    A call without a result is left out, because services refuse a conversation in which one is open. Reasoning is its
    provider's own: it is there where the provider wants it back and all that it led to is there too.
    """
    whole = all(part["kind"] != "tool_call" or _is_answered(part, exchange) for part in step)
    said: list[dict[str, Any]] = []
    for part in step:
        value: dict[str, Any] = {"type": part["kind"], "text": part["text"]}
        opaque = exchange.opaque.get(part["part"])
        if opaque is not None:
            value["opaque"] = opaque
        match part["kind"]:
            case "text" | "refusal" if part["text"]:
                value["type"] = "text"
            case "reasoning" if opaque is not None and whole:
                pass
            case "tool_call" if _is_answered(part, exchange):
                value |= {"call": str(part["call"]), "name": str(part["name"])}
            case _:
                continue
        said.append(value)
    while said and said[-1]["type"] == "reasoning":
        said.pop()
    return said


def _is_answered(part: Mapping[str, Any], exchange: Exchange) -> bool:
    return part["kind"] == "tool_call" and request_of(part) in exchange.results


def _result_of(part: Mapping[str, Any], exchange: Exchange) -> Message:
    result = {"type": "text", "text": exchange.results[request_of(part)]}
    return Message("tool", (result,), call=str(part["call"]))


def _seen(part: Mapping[str, Any], takes_images: bool) -> Mapping[str, Any]:
    if part["type"] == "image" and not takes_images:
        return {"type": "text", "text": _IMAGE_LEFT_OUT}
    return dict(part)


def _hundredths_of(messages: Sequence[Message]) -> int:
    hundredths = 0
    for message in messages:
        hundredths += _MESSAGE
        for part in message.parts:
            match part["type"]:
                case "image":
                    hundredths += _IMAGE
                case "tool_call":
                    hundredths += _MESSAGE + hundredths_of(part["name"] + part["text"])
                case _:
                    hundredths += hundredths_of(str(part["text"]))
            hundredths += hundredths_of(part.get("opaque", ""))
    return hundredths
