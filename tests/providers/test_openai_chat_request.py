"""What is asked of a service, field by field, and that no client decides what is not a client's to decide."""

from typing import Any

import orjson
import pytest

from turnwire.core.entries import Message
from turnwire.ports import StepRequest
from turnwire.providers.openai_chat_request import (
    AZURE,
    COMMON,
    MISTRAL,
    OPENAI,
    Dialect,
    chat_body,
    completions_url,
    dialect_of,
)


def user(*parts: dict[str, object]) -> Message:
    return Message("user", parts)


def words(text: str) -> dict[str, object]:
    return {"type": "text", "text": text}


def call(name: str, function: str, arguments: str, **more: str) -> dict[str, object]:
    return {"type": "tool_call", "call": name, "name": function, "text": arguments, **more}


def body_of(request: StepRequest, dialect: Dialect = COMMON) -> dict[str, Any]:
    return orjson.loads(chat_body("service-model", request, dialect))


def test_a_whole_conversation_is_said_in_the_service_s_words() -> None:
    image: dict[str, object] = {"type": "image", "media_type": "image/png", "data": "aGk="}
    request = StepRequest(
        [
            Message("system", (words("Be kind."),)),
            user(words("What is "), words("this?")),
            Message("assistant", (words("Let me see."), call("c1", "look", '{"at":1}'))),
            Message("tool", (words('"a cat"'),), call="c1"),
            Message("assistant", (call("c2", "look", "{}"),)),
            Message("tool", (words("null"),), call="c2"),
            user(words("And this?"), image),
        ],
        tools=[
            {"name": "look", "description": "Looks.", "parameters": {"type": "object"}},
            {"name": "wait", "description": None, "parameters": None},
        ],
        response_format={"type": "json_object"},
    )
    called = {"type": "function", "function": {"name": "look", "arguments": '{"at":1}'}}
    assert body_of(request) == {
        "model": "service-model",
        "stream": True,
        "stream_options": {"include_usage": True},
        "messages": [
            {"role": "system", "content": "Be kind."},
            {"role": "user", "content": "What is this?"},
            {"role": "assistant", "content": "Let me see.", "tool_calls": [{"id": "c1", **called}]},
            {"role": "tool", "tool_call_id": "c1", "content": '"a cat"'},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": "c2", "type": "function", "function": {"name": "look", "arguments": "{}"}}],
            },
            {"role": "tool", "tool_call_id": "c2", "content": "null"},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "And this?"},
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}},
                ],
            },
        ],
        "tools": [
            {
                "type": "function",
                "function": {"name": "look", "description": "Looks.", "parameters": {"type": "object"}},
            },
            {"type": "function", "function": {"name": "wait"}},
        ],
        "response_format": {"type": "json_object"},
    }


def test_params_are_passed_on_but_never_decide_what_is_not_theirs() -> None:
    params = {"temperature": 0.5, "model": "other", "stream": False, "messages": [], "tools": [1], "n": 9}
    body = body_of(StepRequest([user(words("hi"))], params=params))
    assert body["temperature"] == 0.5
    assert (body["model"], body["stream"], body["stream_options"]) == ("service-model", True, {"include_usage": True})
    assert body["messages"] == [{"role": "user", "content": "hi"}]
    assert not {"tools", "n"} & set(body)


def test_a_service_without_stream_options_is_sent_none_even_by_a_client() -> None:
    assert "stream_options" not in body_of(StepRequest([], params={"stream_options": {}}), MISTRAL)


@pytest.mark.parametrize(
    ("params", "configured", "sent"),
    [
        ({}, None, None),
        ({}, 100, 100),
        ({"max_tokens": 50}, 100, 50),
        ({"max_tokens": 5000}, 100, 100),
        ({"max_completion_tokens": 7}, 100, 7),
        ({"max_tokens": 9}, None, 9),
    ],
)
@pytest.mark.parametrize("dialect", [COMMON, OPENAI])
def test_the_lowest_limit_of_output_tokens_is_sent_under_the_service_s_name(
    dialect: Dialect, params: dict[str, Any], configured: int | None, sent: int | None
) -> None:
    body = body_of(StepRequest([], params=params, output_tokens_max=configured), dialect)
    limits = {name: value for name, value in body.items() if name in ("max_tokens", "max_completion_tokens")}
    assert limits == ({} if sent is None else {dialect.output_tokens_field: sent})


@pytest.mark.parametrize(
    ("base_url", "dialect"),
    [
        ("https://api.openai.com/v1", OPENAI),
        ("https://x.openai.azure.com/openai/v1", AZURE),
        ("https://api.mistral.ai/v1", MISTRAL),
        ("http://127.0.0.1:11434/v1", COMMON),
        ("https://api.openai.com.example.org/v1", COMMON),
    ],
)
def test_a_known_host_has_its_dialect(base_url: str, dialect: Dialect) -> None:
    assert dialect_of(base_url) == dialect


@pytest.mark.parametrize(
    ("base_url", "url"),
    [
        ("https://a.example/v1", "https://a.example/v1/chat/completions"),
        ("https://a.example/v1/", "https://a.example/v1/chat/completions"),
        ("http://a.example:8000", "http://a.example:8000/chat/completions"),
        ("https://a.example/d?api-version=1#x", "https://a.example/d/chat/completions?api-version=1"),
    ],
)
def test_the_address_is_built_from_the_base(base_url: str, url: str) -> None:
    assert completions_url(base_url) == url


@pytest.mark.parametrize("base_url", ["", "a.example/v1", "ftp://a.example", "https://", "file:///etc/passwd"])
def test_what_is_no_http_address_is_refused(base_url: str) -> None:
    with pytest.raises(ValueError, match="is no http or https address"):
        completions_url(base_url)
