"""One conversation as every request builder is given it, and pieces to make others of."""

from typing import Any

from turnwire.core.entries import Message
from turnwire.ports import StepRequest
from turnwire.providers.opaque import packed


def words(text: str, **more: str) -> dict[str, Any]:
    return {"type": "text", "text": text, **more}


def thought(text: str, **more: str) -> dict[str, Any]:
    return {"type": "reasoning", "text": text, **more}


def call(name: str, function: str, arguments: str, **more: str) -> dict[str, Any]:
    return {"type": "tool_call", "call": name, "name": function, "text": arguments, **more}


def user(*parts: dict[str, Any]) -> Message:
    return Message("user", parts)


def assistant(*parts: dict[str, Any]) -> Message:
    return Message("assistant", parts)


def result(name: str, text: str) -> Message:
    return Message("tool", (words(text),), call=name)


def left(maker: str, **state: Any) -> str:
    """What `maker` left on a part."""
    opaque = packed(maker, state)
    assert opaque is not None
    return opaque


IMAGE: dict[str, Any] = {"type": "image", "media_type": "image/png", "data": "aGk="}
SCHEMA: dict[str, Any] = {"type": "object", "properties": {"at": {"type": "integer"}}}
TOOLS: list[dict[str, Any]] = [
    {"name": "look", "description": "Looks.", "parameters": SCHEMA},
    {"name": "wait", "description": None, "parameters": None},
]
FORMAT: dict[str, Any] = {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA, "strict": True}}

CONVERSATION = StepRequest(
    [
        Message("system", (words("Be kind."),)),
        user(words("What is "), words("this?")),
        assistant(words("Let me see."), call("c1", "look", '{"at":1}'), call("c2", "look", '{"at":2}')),
        result("c1", '"a cat"'),
        result("c2", '"a dog"'),
        assistant(call("c3", "wait", "{}")),
        result("c3", "null"),
        user(words("And this?"), IMAGE),
    ],
    tools=TOOLS,
    response_format=FORMAT,
    output_tokens_max=1_000,
)
