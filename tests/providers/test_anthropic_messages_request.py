"""What Anthropic is asked, field by field, and which thinking goes back."""

import re
from typing import Any

import orjson
import pytest

from tests.providers.conversations import (
    CONVERSATION,
    SCHEMA,
    assistant,
    call,
    left,
    result,
    thought,
    user,
    words,
)
from turnwire.core.entries import Message
from turnwire.ports import Failure, StepRequest
from turnwire.providers.anthropic_messages_request import OUTPUT_TOKENS, messages_body


def body_of(request: StepRequest) -> dict[str, Any]:
    return orjson.loads(messages_body("service-model", request, "me"))


def messages_of(*messages: Message, **params: Any) -> list[dict[str, Any]]:
    return body_of(StepRequest(messages, params=params))["messages"]


def test_a_whole_conversation_is_said_in_the_service_s_words() -> None:
    def used(name: str, function: str, arguments: dict[str, Any]) -> dict[str, Any]:
        return {"type": "tool_use", "id": name, "name": function, "input": arguments}

    def told(name: str, text: str) -> dict[str, Any]:
        return {"type": "tool_result", "tool_use_id": name, "content": text}

    assert body_of(CONVERSATION) == {
        "model": "service-model",
        "max_tokens": 1_000,
        "stream": True,
        "system": "Be kind.",
        "messages": [
            {"role": "user", "content": [words("What is "), words("this?")]},
            {
                "role": "assistant",
                "content": [words("Let me see."), used("c1", "look", {"at": 1}), used("c2", "look", {"at": 2})],
            },
            {"role": "user", "content": [told("c1", '"a cat"'), told("c2", '"a dog"')]},
            {"role": "assistant", "content": [used("c3", "wait", {})]},
            {
                "role": "user",
                "content": [
                    told("c3", "null"),
                    words("And this?"),
                    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}},
                ],
            },
        ],
        "tools": [
            {"name": "look", "description": "Looks.", "input_schema": SCHEMA},
            {"name": "wait", "input_schema": {"type": "object", "properties": {}}},
        ],
        "output_config": {"format": {"type": "json_schema", "schema": SCHEMA}},
    }


def test_nothing_is_said_that_nobody_set_but_the_limit_that_the_service_demands() -> None:
    assert body_of(StepRequest([user(words("hi"))])) == {
        "model": "service-model",
        "max_tokens": OUTPUT_TOKENS,
        "stream": True,
        "messages": [{"role": "user", "content": [words("hi")]}],
    }


def test_params_are_passed_on_but_never_decide_what_is_not_theirs() -> None:
    params = {
        "temperature": 0.5,
        "thinking": {"type": "adaptive"},
        "output_config": {"effort": "low"},
        "max_tokens": 50,
        "model": "other",
        "stream": False,
        "messages": [],
        "system": "Be rude.",
        "tools": [1],
    }
    response_format = {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}
    request = StepRequest([user(words("hi"))], params=params, output_tokens_max=100, response_format=response_format)
    assert body_of(request) == {
        "model": "service-model",
        "max_tokens": 50,
        "stream": True,
        "temperature": 0.5,
        "thinking": {"type": "adaptive"},
        "output_config": {"effort": "low", "format": {"type": "json_schema", "schema": SCHEMA}},
        "messages": [{"role": "user", "content": [words("hi")]}],
    }


@pytest.mark.parametrize("response_format", [{"type": "json_object"}, {"type": "json_schema"}, {}])
def test_a_response_format_that_the_service_does_not_know_is_refused(response_format: dict[str, Any]) -> None:
    with pytest.raises(Failure) as failure:
        body_of(StepRequest([user(words("hi"))], response_format=response_format))
    assert (failure.value.kind, failure.value.may_retry) == ("upstream_rejected", False)


def test_calls_of_other_models_are_made_to_fit() -> None:
    odd = "functions.get_time:0"
    said, told = messages_of(assistant(call(odd, "look", '{"at":')), result(odd, "1"))
    assert said["content"][0]["input"] == {"unreadable": '{"at":'}
    assert said["content"][0]["id"] == told["content"][0]["tool_use_id"]
    assert re.fullmatch("[a-zA-Z0-9_-]{24}", said["content"][0]["id"])
    assert messages_of(assistant(call("c", "look", "[1]")))[0]["content"][0]["input"] == {"unreadable": "[1]"}


def test_text_without_a_word_and_messages_without_a_block_are_left_out() -> None:
    sent = messages_of(user(words("a")), assistant(words(" \n")), user(words("b")))
    assert sent == [{"role": "user", "content": [words("a"), words("b")]}]


def test_tools_of_earlier_turns_are_named_where_there_are_no_others_and_none_may_be_called() -> None:
    turns = [user(words("?")), assistant(call("c1", "look", "{}")), result("c1", "1"), user(words("Thanks"))]
    body = body_of(StepRequest(turns, params={"tool_choice": {"type": "any"}}))
    empty = {"type": "object", "properties": {}}
    assert body["tools"] == [{"name": "look", "input_schema": empty}]
    assert body["tool_choice"] == {"type": "none"}
    body = body_of(StepRequest(turns, params={"tool_choice": {"type": "any"}}, tools=[{"name": "wait"}]))
    assert body["tools"] == [{"name": "wait", "input_schema": empty}]
    assert body["tool_choice"] == {"type": "any"}


# --- thinking --------------------------------------------------------------------------------------------------------

REDACTED = {"type": "redacted_thinking", "data": "EmwK-test=="}
STEP = assistant(
    thought("Hm.", opaque=left("me", signature="EqQB-test==")),
    words("I look.", opaque=left("me", before=[REDACTED])),
    call("c1", "look", "{}"),
)
THOUGHT = {"type": "thinking", "thinking": "Hm.", "signature": "EqQB-test=="}
PLAIN = [words("I look."), {"type": "tool_use", "id": "c1", "name": "look", "input": {}}]


def test_thinking_goes_back_in_its_place_as_long_as_its_turn_goes_on() -> None:
    sent = messages_of(user(words("?")), STEP, result("c1", "1"))
    assert sent[1]["content"] == [THOUGHT, REDACTED, *PLAIN]


def test_thinking_of_earlier_turns_stays_here_unless_the_service_may_drop_it() -> None:
    turns = (user(words("?")), STEP, result("c1", "1"), assistant(words("A cat.")), user(words("Thanks")))
    assert messages_of(*turns)[1]["content"] == PLAIN
    thinking = {"type": "adaptive", "block_binding": {"prefix_mismatch_behavior": "drop_block"}}
    assert messages_of(*turns, thinking=thinking)[1]["content"] == [THOUGHT, REDACTED, *PLAIN]


def test_thinking_of_another_service_is_not_sent() -> None:
    foreign = assistant(thought("Hm.", opaque=left("another", signature="s")), words("Yes."))
    assert messages_of(user(words("?")), foreign)[1]["content"] == [words("Yes.")]
