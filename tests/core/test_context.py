"""A context always asks the newest question, and forgets the oldest exchanges whole."""

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tests.core.generated import few, properly, texts
from turnwire.core.context import (
    Exchange,
    exchange_of,
    hundredths_of_tools,
    likely_tokens,
    messages_of,
    request_of,
)
from turnwire.core.entries import Message
from turnwire.core.tokens import hundredths_of, tokens_likely

PLENTY = 10**9
IMAGE = {"type": "image", "media_type": "image/png", "data": "AAAA"}
TOOLS = [{"name": "clock", "parameters": {"type": "object"}}]


def said(text: str, **more: str) -> dict[str, Any]:
    return {"type": "text", "text": text, **more}


def called(call: str, name: str, arguments: str, **more: str) -> dict[str, Any]:
    return {"type": "tool_call", "text": arguments, "call": call, "name": name, **more}


def part(kind: str, text: str, **named: str) -> dict[str, Any]:
    return {"part": 0, "kind": kind, "text": text, "last": True, **named}


def numbered(parts: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [{**one, "part": number} for number, one in enumerate(parts)]


inputs = st.lists(st.one_of(texts.map(said), st.just(IMAGE)), min_size=1, max_size=3)
calls = st.builds(lambda text, number: part("tool_call", text, call=f"c{number}", name="add"), texts, st.integers(0, 3))
answers = st.lists(
    st.one_of(st.builds(part, st.sampled_from(["text", "refusal", "reasoning"]), texts), calls), max_size=5
).map(numbered)
bases = st.lists(st.integers(1, 5), max_size=2, unique=True).map(lambda rest: [0, *sorted(rest)])
exchanges = st.builds(
    Exchange,
    inputs,
    answers,
    bases,
    st.dictionaries(st.sampled_from(["part-0", "part-1", "part-2", "part-9"]), texts, max_size=4),
    st.dictionaries(st.integers(0, 4), st.just("signed"), max_size=3),
)
branches = st.lists(exchanges, min_size=1, max_size=6)
prompts = st.one_of(st.none(), texts)


def messages_for(branch: Sequence[Exchange], prompt: str | None, tokens_max: int) -> list[Message]:
    return messages_of(branch, prompt, tokens_max, takes_images=True)


def cost_of(messages: Sequence[Message]) -> int:
    """Hundredths of tokens, counted once more: 8 tokens a message or call, 1600 an image, and the texts."""
    total = 800 * len(messages)
    for one in (one for message in messages for one in message.parts):
        total += 160_000 if one["type"] == "image" else hundredths_of(one.get("name", "") + one["text"])
        total += 800 * (one["type"] == "tool_call") + hundredths_of(one.get("opaque", ""))
    return total


def alone(exchange: Exchange) -> list[Message]:
    return messages_for([exchange], None, PLENTY)


@properly
@given(branches, prompts, st.integers(0, 5), st.integers(-2, 2))
def test_the_prompt_and_the_newest_exchange_are_there_and_before_them_as_many_as_fit(
    branch: list[Exchange], prompt: str | None, kept: int, spare: int
) -> None:
    system = [Message("system", (said(prompt),))] if prompt else []
    possible = [
        system + [one for exchange in branch[start:] for one in alone(exchange)] for start in range(len(branch))
    ]
    # As many tokens as some of them need, but for one or two.
    tokens_max = cost_of(possible[kept % len(possible)]) // 100 + spare
    fitting = [whole for whole in possible if cost_of(whole) <= tokens_max * 100]
    assert messages_for(branch, prompt, tokens_max) == (fitting[0] if fitting else possible[-1])


@few
@given(branches, prompts)
def test_with_room_for_all_nothing_is_dropped(branch: list[Exchange], prompt: str | None) -> None:
    messages = messages_for(branch, prompt, PLENTY)
    users = [message for message in messages if message.role == "user"]
    assert [list(message.parts) for message in users] == [list(exchange.input) for exchange in branch]


@properly
@given(exchanges)
def test_every_call_that_is_sent_has_its_result_behind_it_before_anything_else_is_said(exchange: Exchange) -> None:
    messages = alone(exchange)
    sent: list[dict[str, Any]] = []
    for number, message in enumerate(messages):
        here = [dict(one) for one in message.parts if one["type"] == "tool_call"]
        behind = messages[number + 1 : number + 1 + len(here)]
        assert [(one.role, one.call) for one in behind] == [("tool", one["call"]) for one in here]
        sent += here
    answered = [one for one in exchange.parts if one["kind"] == "tool_call" and request_of(one) in exchange.results]
    assert [(one["call"], one["name"], one["text"]) for one in sent] == [
        (one["call"], one["name"], one["text"]) for one in answered
    ]
    results = [list(one.parts) for one in messages if one.role == "tool"]
    assert results == [[said(exchange.results[request_of(one)])] for one in answered]


@properly
@given(exchanges)
def test_the_assistant_never_speaks_twice_in_a_row_nor_without_a_word(exchange: Exchange) -> None:
    messages = alone(exchange)
    roles = [message.role for message in messages]
    assert roles[0] == "user"
    assert ("assistant", "assistant") not in pairwise(roles)
    assert all(message.parts for message in messages)


@few
@given(exchanges)
def test_what_the_assistant_said_is_its_text_and_refusals_in_order(exchange: Exchange) -> None:
    said_ = [one for message in alone(exchange) if message.role == "assistant" for one in message.parts]
    spoken = [one["text"] for one in said_ if one["type"] == "text"]
    assert spoken == [one["text"] for one in exchange.parts if one["kind"] in ("text", "refusal") and one["text"]]


def test_an_exchange_that_was_never_answered_is_only_its_question() -> None:
    unanswered = Exchange([said("hm?")], [part("reasoning", "..."), part("tool_call", "{}", call="c", name="n")])
    assert alone(unanswered) == [Message("user", (said("hm?"),))]


def test_the_steps_of_a_turn_follow_each_other_as_they_happened() -> None:
    parts = numbered(
        [
            part("text", "Let me look."),
            part("tool_call", "{}", call="c", name="clock"),
            part("tool_call", '{"in": "days"}', call="d", name="date"),
            part("reasoning", "So it is late."),
            part("tool_call", "[]", call="e", name="bed"),
            part("text", "Good night!"),
        ]
    )
    results = {"part-1": '"late"', "part-2": "1", "part-4": "true"}
    assert alone(Exchange([said("hm?")], parts, [0, 3, 5], results)) == [
        Message("user", (said("hm?"),)),
        Message("assistant", (said("Let me look."), called("c", "clock", "{}"), called("d", "date", '{"in": "days"}'))),
        Message("tool", (said('"late"'),), call="c"),
        Message("tool", (said("1"),), call="d"),
        Message("assistant", (called("e", "bed", "[]"),)),
        Message("tool", (said("true"),), call="e"),
        Message("assistant", (said("Good night!"),)),
    ]


def test_steps_whose_results_are_forgotten_are_one_message() -> None:
    parts = numbered([part("text", "I look."), part("tool_call", "{}", call="c", name="n"), part("text", "A cat.")])
    assert alone(Exchange([said("?")], parts, [0, 2])) == [
        Message("user", (said("?"),)),
        Message("assistant", (said("I look."), said("A cat."))),
    ]


def test_reasoning_goes_back_where_its_provider_wants_it_and_something_came_of_it() -> None:
    call = part("tool_call", "{}", call="c", name="n")
    kept = {"type": "reasoning", "text": "Hm", "opaque": "signed"}

    def sent(*parts: dict[str, Any], answered: bool = False, opaque: Mapping[int, str]) -> list[Any]:
        results = {"part-1": "0"} if answered else {}
        messages = alone(Exchange([said("?")], numbered([part("reasoning", "Hm"), *parts]), [0], results, opaque))
        return list(messages[1].parts) if len(messages) > 1 else []

    assert sent(part("text", "Yes."), opaque={0: "signed"}) == [kept, said("Yes.")]
    assert sent(part("text", "Yes."), opaque={1: "phase"}) == [said("Yes.", opaque="phase")]
    signed = {0: "signed", 1: "call"}
    assert sent(call, answered=True, opaque=signed) == [kept, called("c", "n", "{}", opaque="call")]
    # The call that it led to is forgotten.
    assert sent(part("text", "Yes."), call, opaque={0: "signed"}) == [said("Yes.")]
    # The answer was cut behind it.
    assert sent(opaque={0: "signed"}) == []


def test_a_record_of_before_steps_were_kept_is_one_step() -> None:
    record = {"parts": [part("text", "old")]}
    assert exchange_of([said("hm?")], record) == Exchange([said("hm?")], record["parts"])
    assert alone(exchange_of([said("hm?")], record))[1:] == [Message("assistant", (said("old"),))]


def test_a_partial_answer_can_be_gone_on_with() -> None:
    partial = Exchange([said("Count to ten.")], [part("text", "1 2 3")], [0])
    assert messages_for([partial, Exchange([said("Continue.")])], "Be brief.", 1_000) == [
        Message("system", (said("Be brief."),)),
        Message("user", (said("Count to ten."),)),
        Message("assistant", (said("1 2 3"),)),
        Message("user", (said("Continue."),)),
    ]


def test_a_model_that_takes_no_images_is_told_where_they_were() -> None:
    branch = [Exchange([said("What is this?"), IMAGE]), Exchange([said("And now?")])]
    messages = messages_of(branch, None, 100, takes_images=False)
    assert [[one["type"] for one in message.parts] for message in messages] == [["text", "text"], ["text"]]
    assert "image" in messages[0].parts[1]["text"].lower()


def test_the_newest_exchange_is_asked_even_when_it_is_too_long() -> None:
    branch = [Exchange([said("old")]), Exchange([said("new " * 1_000)])]
    assert messages_for(branch, "Be brief.", 10) == [
        Message("system", (said("Be brief."),)),
        Message("user", (said("new " * 1_000),)),
    ]


def test_an_older_exchange_that_would_fit_is_not_kept_behind_one_that_does_not() -> None:
    branch = [Exchange([said("tiny")]), Exchange([said("long " * 1_000)]), Exchange([said("new")])]
    assert messages_for(branch, None, 100) == [Message("user", (said("new"),))]


def test_what_a_request_is_likely_to_be_counted_as_has_its_tools_and_images_in_it() -> None:
    text = [Message("user", (said("word " * 100),))]
    assert likely_tokens(text, []) == tokens_likely("word " * 100) + 5
    tools = json.dumps(TOOLS, separators=(",", ":"))
    assert likely_tokens(text, TOOLS) - likely_tokens(text, []) in (tokens_likely(tools), tokens_likely(tools) - 1)
    assert likely_tokens([Message("user", (IMAGE,))], []) == 1_005
    assert (hundredths_of_tools([]), hundredths_of_tools(TOOLS)) == (0, hundredths_of(tools))
