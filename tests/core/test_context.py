"""A context always asks the newest question, and forgets the oldest exchanges whole."""

from collections.abc import Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tests.core.generated import few, properly, texts
from turnwire.core.context import Exchange, estimated_tokens, messages_of
from turnwire.core.entries import Message, ToolCall

PLENTY = 10**9
IMAGE = {"type": "image", "media_type": "image/png", "data": "AAAA"}


def said(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def part(kind: str, text: str, **named: str) -> dict[str, Any]:
    return {"part": 0, "kind": kind, "text": text, "last": True, **named}


inputs = st.lists(st.one_of(texts.map(said), st.just(IMAGE)), min_size=1, max_size=3)
calls = st.builds(lambda text, number: part("tool_call", text, call=f"c{number}", name="add"), texts, st.integers(0, 3))
answers = st.lists(
    st.one_of(st.builds(part, st.sampled_from(["text", "refusal", "reasoning"]), texts), calls), max_size=5
)
exchanges = st.builds(
    Exchange, inputs, answers, st.dictionaries(st.sampled_from(["c0", "c1", "c9"]), texts, max_size=3)
)
branches = st.lists(exchanges, min_size=1, max_size=6)
prompts = st.one_of(st.none(), texts)


def cost_of(messages: Sequence[Message]) -> int:
    """Tokens by a count of its own: 8 a message or call, 1600 an image, a third of the bytes of each text."""
    total = 0
    for message in messages:
        total += 8 + sum(
            1_600 if one["type"] == "image" else -(-len(one["text"].encode()) // 3) for one in message.parts
        )
        total += sum(8 + -(-len((call.name + call.arguments).encode()) // 3) for call in message.tool_calls)
    return total


def alone(exchange: Exchange) -> list[Message]:
    return messages_of([exchange], None, PLENTY)


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
    tokens_max = cost_of(possible[kept % len(possible)]) + spare
    fitting = [whole for whole in possible if cost_of(whole) <= tokens_max]
    assert messages_of(branch, prompt, tokens_max) == (fitting[0] if fitting else possible[-1])


@few
@given(branches, prompts)
def test_with_room_for_all_nothing_is_dropped(branch: list[Exchange], prompt: str | None) -> None:
    messages = messages_of(branch, prompt, PLENTY)
    users = [message for message in messages if message.role == "user"]
    assert [list(message.parts) for message in users] == [list(exchange.input) for exchange in branch]


@few
@given(exchanges)
def test_every_call_that_is_sent_has_its_result_right_behind_it_and_no_other_is_sent(exchange: Exchange) -> None:
    messages = alone(exchange)
    sent = [call for message in messages for call in message.tool_calls]
    made = [one for one in exchange.parts if one["kind"] == "tool_call"]
    assert sent == [ToolCall(one["call"], one["name"], one["text"]) for one in made if one["call"] in exchange.answers]
    results = messages[2:] if sent else []
    assert [(one.role, one.call) for one in results] == [("tool", call.call) for call in sent]
    assert [list(one.parts) for one in results] == [[said(exchange.answers[call.call])] for call in sent]


@few
@given(exchanges)
def test_what_the_assistant_said_is_its_text_and_refusals_but_never_its_reasoning(exchange: Exchange) -> None:
    messages = alone(exchange)
    text = "".join(one["text"] for one in exchange.parts if one["kind"] in ("text", "refusal"))
    spoken = [one for message in messages if message.role == "assistant" for one in message.parts]
    assert spoken == ([said(text)] if text else [])
    assert [message.role for message in messages].count("assistant") <= 1


def test_an_exchange_that_was_never_answered_is_only_its_question() -> None:
    unanswered = Exchange([said("hm?")], [part("reasoning", "..."), part("tool_call", "{}", call="c", name="n")])
    assert alone(unanswered) == [Message("user", (said("hm?"),))]


def test_calls_without_text_make_a_message_without_parts() -> None:
    exchange = Exchange([said("2+2?")], [part("tool_call", "{}", call="c", name="add")], {"c": "4"})
    assert alone(exchange) == [
        Message("user", (said("2+2?"),)),
        Message("assistant", (), (ToolCall("c", "add", "{}"),)),
        Message("tool", (said("4"),), call="c"),
    ]


def test_the_newest_exchange_is_asked_even_when_it_is_too_long() -> None:
    branch = [Exchange([said("old")]), Exchange([said("new " * 1_000)])]
    assert messages_of(branch, "Be brief.", 10) == [
        Message("system", (said("Be brief."),)),
        Message("user", (said("new " * 1_000),)),
    ]


def test_an_older_exchange_that_would_fit_is_not_kept_behind_one_that_does_not() -> None:
    branch = [Exchange([said("tiny")]), Exchange([said("long " * 1_000)]), Exchange([said("new")])]
    assert messages_of(branch, None, 100) == [Message("user", (said("new"),))]


@properly
@given(texts, texts)
def test_the_estimate_errs_on_the_safe_side_and_grows_with_the_text(text: str, more: str) -> None:
    assert len(text.encode()) <= estimated_tokens(text) * 3 < len(text.encode()) + 3
    assert estimated_tokens(text + more) >= max(estimated_tokens(text), estimated_tokens(more))
