"""What is asked of a service, field by field, and that no client decides what is not a client's to decide."""

import re
from typing import Any

import orjson
import pytest

from tests.providers.conversations import CONVERSATION, FORMAT, SCHEMA, assistant, call, left, result, user, words
from turnwire.ports import StepRequest
from turnwire.providers.openai_chat_dialects import DIALECTS, DialectName, dialect_of
from turnwire.providers.openai_chat_request import (
    NO_SIGNATURE,
    chat_body,
)


def body_of(request: StepRequest, dialect: DialectName = "common", maker: str = "") -> dict[str, Any]:
    return orjson.loads(chat_body("service-model", request, DIALECTS[dialect], maker))


def test_a_whole_conversation_is_said_in_the_service_s_words() -> None:
    def called(name: str, function: str, arguments: str) -> dict[str, Any]:
        return {"id": name, "type": "function", "function": {"name": function, "arguments": arguments}}

    assert body_of(CONVERSATION) == {
        "model": "service-model",
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": 1_000,
        "messages": [
            {"role": "system", "content": "Be kind."},
            {"role": "user", "content": "What is this?"},
            {
                "role": "assistant",
                "content": "Let me see.",
                "tool_calls": [called("c1", "look", '{"at":1}'), called("c2", "look", '{"at":2}')],
            },
            {"role": "tool", "tool_call_id": "c1", "content": '"a cat"'},
            {"role": "tool", "tool_call_id": "c2", "content": '"a dog"'},
            {"role": "assistant", "content": None, "tool_calls": [called("c3", "wait", "{}")]},
            {"role": "tool", "tool_call_id": "c3", "content": "null"},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "And this?"},
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}},
                ],
            },
        ],
        "tools": [
            {"type": "function", "function": {"name": "look", "description": "Looks.", "parameters": SCHEMA}},
            {"type": "function", "function": {"name": "wait"}},
        ],
        "response_format": FORMAT,
    }


def test_params_are_passed_on_but_never_decide_what_is_not_theirs() -> None:
    params = {"temperature": 0.5, "model": "other", "stream": False, "messages": [], "tools": [1], "n": 9}
    body = body_of(StepRequest([user(words("hi"))], params=params))
    assert body["temperature"] == 0.5
    assert (body["model"], body["stream"], body["stream_options"]) == ("service-model", True, {"include_usage": True})
    assert body["messages"] == [{"role": "user", "content": "hi"}]
    assert not {"tools", "n"} & set(body)


def test_a_service_without_stream_options_is_sent_none_even_by_a_client() -> None:
    assert "stream_options" not in body_of(StepRequest([], params={"stream_options": {}}), "mistral")


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
@pytest.mark.parametrize("dialect", ["common", "openai"])
def test_the_lowest_limit_of_output_tokens_is_sent_under_the_service_s_name(
    dialect: DialectName, params: dict[str, Any], configured: int | None, sent: int | None
) -> None:
    body = body_of(StepRequest([], params=params, output_tokens_max=configured), dialect)
    limits = {name: value for name, value in body.items() if name in ("max_tokens", "max_completion_tokens")}
    assert limits == ({} if sent is None else {DIALECTS[dialect].output_tokens_field: sent})


@pytest.mark.parametrize(
    ("base_url", "dialect"),
    [
        ("https://api.openai.com/v1", "openai"),
        ("https://x.openai.azure.com/openai/v1", "azure"),
        ("https://x.services.ai.azure.com/openai/v1", "azure"),
        ("https://api.mistral.ai/v1", "mistral"),
        ("https://generativelanguage.googleapis.com/v1beta/openai", "gemini"),
        ("https://api.deepseek.com", "deepseek"),
        ("http://127.0.0.1:11434/v1", "common"),
        ("https://api.openai.com.example.org/v1", "common"),
        ("not an address", "common"),
    ],
)
def test_a_known_host_has_its_dialect(base_url: str, dialect: str) -> None:
    assert dialect_of(base_url) == dialect


# --- what the service left ------------------------------------------------------------------------------------------


def test_tool_call_ids_of_another_service_are_made_to_fit() -> None:
    long = "functions.get_time:0" * 3
    request = StepRequest([assistant(call(long, "look", "{}")), result(long, "1")])

    def ids(dialect: DialectName) -> tuple[str, str]:
        said, result = body_of(request, dialect)["messages"]
        return said["tool_calls"][0]["id"], result["tool_call_id"]

    assert ids("common") == (long, long)
    assert ids("mistral")[0] == ids("mistral")[1]
    assert re.fullmatch("[a-zA-Z0-9]{9}", ids("mistral")[0])
    assert ids("openai")[0] == ids("openai")[1]
    assert len(ids("openai")[0]) == 24
    fitting = StepRequest([assistant(call("D681PevKs", "look", "{}"))])
    assert body_of(fitting, "mistral")["messages"][0]["tool_calls"][0]["id"] == "D681PevKs"


def test_a_signed_call_goes_back_with_its_signature_and_only_to_who_signed_it() -> None:
    signature = {"google": {"thought_signature": "CpMB-test=="}}
    message = assistant(call("c1", "look", "{}", opaque=left("me", extra_content=signature)), call("c2", "look", "{}"))
    request = StepRequest([message])
    first, second = body_of(request, "gemini", "me")["messages"][0]["tool_calls"]
    assert (first["extra_content"], "extra_content" in second) == (signature, False)
    first, second = body_of(request, "gemini", "another")["messages"][0]["tool_calls"]
    assert (first["extra_content"], "extra_content" in second) == (NO_SIGNATURE, False)
    assert "extra_content" not in body_of(request, "common", "another")["messages"][0]["tool_calls"][0]


def test_reasoning_goes_back_in_the_form_in_which_its_gateway_wants_it() -> None:
    def sent(maker: str = "me", **state: Any) -> dict[str, Any]:
        reasoning = {"type": "reasoning", "text": "Hm, so.", "opaque": left("me", **state)}
        return body_of(StepRequest([assistant(reasoning, words("Yes."))]), maker=maker)["messages"][0]

    item = {"type": "reasoning.text", "text": 7, "signature": "sig-test=="}
    assert sent(reasoning_details=[item]) == {
        "role": "assistant",
        "content": "Yes.",
        "reasoning_details": [{**item, "text": "Hm, so."}],
    }
    block = {"type": "thinking", "thinking": 2, "signature": "a"}
    assert sent(thinking_blocks=[block, {**block, "thinking": 5}])["thinking_blocks"] == [
        {**block, "thinking": "Hm"},
        {**block, "thinking": ", so."},
    ]
    assert sent(reasoning=True) == {"role": "assistant", "content": "Yes.", "reasoning_content": "Hm, so."}
    assert sent("another", reasoning=True) == {"role": "assistant", "content": "Yes."}


def test_a_model_that_thought_nothing_gets_its_nothing_back_beside_its_calls() -> None:
    message = assistant(call("c1", "look", "{}", opaque=left("me", reasoning=True)))
    assert body_of(StepRequest([message]), "deepseek", "me")["messages"][0]["reasoning_content"] == ""


def test_what_the_assistant_said_in_several_parts_is_one_text() -> None:
    request = StepRequest([assistant(words("I look."), words("A cat."))])
    assert body_of(request)["messages"] == [{"role": "assistant", "content": "I look.\n\nA cat."}]
