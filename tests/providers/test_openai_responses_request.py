"""What the Responses API is asked, field by field, and how reasoning goes back."""

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
from turnwire.ports import StepRequest
from turnwire.providers.openai_responses_request import response_body


def body_of(request: StepRequest, **options: Any) -> dict[str, Any]:
    return orjson.loads(response_body("service-model", request, "me", **options))


def input_of(*messages: Message) -> list[dict[str, Any]]:
    return body_of(StepRequest(messages))["input"]


def test_a_whole_conversation_is_said_in_the_service_s_words() -> None:
    def called(name: str, function: str, arguments: str) -> dict[str, Any]:
        return {"type": "function_call", "call_id": name, "name": function, "arguments": arguments}

    def told(name: str, text: str) -> dict[str, Any]:
        return {"type": "function_call_output", "call_id": name, "output": text}

    def asked(*texts: str) -> list[dict[str, Any]]:
        return [{"type": "input_text", "text": text} for text in texts]

    image = {"type": "input_image", "image_url": "data:image/png;base64,aGk="}
    assert body_of(CONVERSATION, obfuscation=False) == {
        "model": "service-model",
        "instructions": "Be kind.",
        "input": [
            {"role": "user", "content": asked("What is ", "this?")},
            {"role": "assistant", "content": "Let me see."},
            called("c1", "look", '{"at":1}'),
            called("c2", "look", '{"at":2}'),
            told("c1", '"a cat"'),
            told("c2", '"a dog"'),
            called("c3", "wait", "{}"),
            told("c3", "null"),
            {"role": "user", "content": [*asked("And this?"), image]},
        ],
        "tools": [
            {"type": "function", "name": "look", "description": "Looks.", "parameters": SCHEMA, "strict": False},
            {"type": "function", "name": "wait", "parameters": {"type": "object", "properties": {}}, "strict": False},
        ],
        "text": {"format": {"type": "json_schema", "name": "answer", "schema": SCHEMA, "strict": True}},
        "max_output_tokens": 1_000,
        "store": False,
        "stream": True,
        "stream_options": {"include_obfuscation": False},
    }


def test_nothing_is_said_that_nobody_set_and_nothing_is_stored_there() -> None:
    assert body_of(StepRequest([user(words("hi"))])) == {
        "model": "service-model",
        "input": [{"role": "user", "content": [{"type": "input_text", "text": "hi"}]}],
        "store": False,
        "stream": True,
    }


def test_params_are_passed_on_but_never_decide_what_is_not_theirs() -> None:
    params = {
        "reasoning": {"effort": "low", "summary": "auto"},
        "text": {"verbosity": "low"},
        "max_tokens": 50,
        "model": "other",
        "input": "other",
        "instructions": "Be rude.",
        "previous_response_id": "resp_other",
        "conversation": "conv_other",
        "background": True,
        "store": True,
        "stream": False,
        "tools": [1],
    }
    request = StepRequest(
        [user(words("hi"))], params=params, output_tokens_max=100, response_format={"type": "json_object"}
    )
    assert body_of(request) == {
        "model": "service-model",
        "input": [{"role": "user", "content": [{"type": "input_text", "text": "hi"}]}],
        "reasoning": {"effort": "low", "summary": "auto"},
        "text": {"verbosity": "low", "format": {"type": "json_object"}},
        "max_output_tokens": 50,
        "store": False,
        "stream": True,
    }


def test_ids_over_the_service_s_maximum_are_made_to_fit() -> None:
    long = "x" * 65
    said, told = input_of(assistant(call(long, "look", "{}")), result(long, "1"))
    assert said["call_id"] == told["call_id"]
    assert len(said["call_id"]) == 24


@pytest.mark.parametrize(
    ("name", "kind", "other"), [("summary", "summary_text", {}), ("content", "reasoning_text", {"summary": []})]
)
def test_reasoning_goes_back_encrypted_and_in_its_texts(name: str, kind: str, other: dict[str, Any]) -> None:
    state = {"id": "rs_0", "encrypted_content": "gAAA-test==", name: [2, 5]}
    sent = input_of(assistant(thought("Hm\n\nAha: ", opaque=left("me", **state)), words("Yes.")))
    assert sent == [
        {
            "type": "reasoning",
            "id": "rs_0",
            **other,
            name: [{"type": kind, "text": "Hm"}, {"type": kind, "text": "Aha: "}],
            "encrypted_content": "gAAA-test==",
        },
        {"role": "assistant", "content": "Yes."},
    ]


def test_hidden_reasoning_goes_back_in_front_of_what_it_led_to_and_a_phase_with_its_text() -> None:
    hidden = {"id": "rs_1", "encrypted_content": "gAAB-test=="}
    state = left("me", before=[hidden], phase="commentary")
    assert input_of(assistant(words("I look.", opaque=state), call("c1", "look", "{}"))) == [
        {"type": "reasoning", "summary": [], **hidden},
        {"role": "assistant", "content": "I look.", "phase": "commentary"},
        {"type": "function_call", "call_id": "c1", "name": "look", "arguments": "{}"},
    ]


def test_state_of_another_service_is_not_sent() -> None:
    foreign = left("another", id="rs_1", encrypted_content="gAAB-test==", phase="commentary")
    sent = input_of(assistant(thought("Hm", opaque=foreign), words("Yes.", opaque=foreign)))
    assert sent == [{"role": "assistant", "content": "Yes."}]
