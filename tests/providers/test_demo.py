"""The demo model: the same answer to the same question, and each failure under its own name."""

import asyncio
from collections import Counter

import pytest

from turnwire.core.answer import Answer
from turnwire.core.entries import Content, Delta, Finish, Message, ProviderEvent, UsageReport
from turnwire.ports import Failure, Provider, StepRequest
from turnwire.providers.demo import LONG_DELTAS, VARIANTS, Demo, Variant, demo_answer


def asking(*texts: str) -> StepRequest:
    messages: list[Message] = []
    for text in texts:
        messages += [Message("user", ({"type": "text", "text": text},)), Message("assistant", ())]
    return StepRequest(messages[:-1])


async def events_of(demo: Provider, request: StepRequest) -> tuple[list[ProviderEvent], str | None]:
    events: list[ProviderEvent] = []
    try:
        async with demo.stream(request) as batches:
            async for batch in batches:
                events.extend(batch)
    except Failure as failure:
        return events, failure.kind
    return events, None


def text_of(answer: Answer) -> str:
    return "".join(part["text"] for part in answer.as_parts() if part["kind"] == "text")


def answer_of(events: list[ProviderEvent]) -> Answer:
    answer = Answer()
    for event in events:
        if isinstance(event, Content):
            answer.add(Delta("t", event.part, event.kind, event.text, event.call, event.name, event.last))
    return answer


def test_each_variant_has_its_name() -> None:
    assert [Demo(variant).name for variant in VARIANTS] == [
        "demo",
        "demo/slow",
        "demo/error-before",
        "demo/error-after",
        "demo/stall",
        "demo/long",
        "demo/tool",
        "demo/reasoning",
    ]


@pytest.mark.parametrize("variant", ["plain", "slow", "reasoning", "tool", "long"])
async def test_an_answer_is_the_same_twice_and_each_of_its_parts_ends_once(variant: Variant) -> None:
    first = await events_of(Demo(variant, delay_ms=0), asking("Why is the sky blue?"))
    assert first == await events_of(Demo(variant, delay_ms=0), asking("Why is the sky blue?"))
    events, failure = first
    assert failure is None
    assert isinstance(events[-2], UsageReport)
    assert isinstance(events[-1], Finish)
    assert not answer_of(events).open_parts()
    lasts = Counter(event.part for event in events if isinstance(event, Content) and event.last)
    assert set(lasts.values()) == {1}


@pytest.mark.parametrize("question", ["hi", "Why is the sky blue?", "ä" * 3_000, "many words " * 300, ""])
async def test_the_plain_answer_is_some_dozens_of_small_deltas_of_text_beyond_ascii(question: str) -> None:
    events, _ = await events_of(Demo(delay_ms=0), asking(question))
    deltas = [event for event in events if isinstance(event, Content)]
    assert 60 <= len(deltas) <= 200
    assert max(len(delta.text) for delta in deltas) <= 12
    text = text_of(answer_of(events))
    assert text == demo_answer(asking(question).messages)
    assert not text.isascii()
    assert len(question) > 200 or question in text
    assert events[-1] == Finish("stop")


def test_different_questions_get_different_answers_and_earlier_turns_are_counted() -> None:
    answers = {demo_answer(asking(text).messages) for text in ("one", "two", "three")}
    assert len(answers) == 3
    assert "number **3**" in demo_answer(asking("one", "two", "three").messages)
    assert "number **" not in demo_answer(asking("one").messages)


def test_images_are_counted() -> None:
    image: dict[str, object] = {"type": "image", "media_type": "image/png", "data": "aGk="}
    assert "2 image(s)" in demo_answer([Message("user", ({"type": "text", "text": "look"}, image, image))])


async def test_error_before_fails_before_the_first_byte_and_may_be_tried_again() -> None:
    with pytest.raises(Failure) as failure:
        async with Demo("error-before").stream(asking("hi")):
            pass
    assert (failure.value.kind, failure.value.may_retry) == ("upstream_failed", True)


async def test_error_after_breaks_off_behind_some_text_without_a_finish() -> None:
    events, failure = await events_of(Demo("error-after", delay_ms=0), asking("hi"))
    assert failure == "truncated"
    assert demo_answer(asking("hi").messages).startswith(text_of(answer_of(events)))
    assert 5 < len(events) < 60
    assert all(isinstance(event, Content) for event in events)


async def test_stall_says_nothing_until_it_is_cancelled() -> None:
    async with Demo("stall").stream(asking("hi")) as batches:
        waiting = asyncio.ensure_future(anext(batches))
        for _ in range(20):
            await asyncio.sleep(0)
        assert not waiting.done()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting


async def test_long_is_ten_thousand_deltas() -> None:
    events, _ = await events_of(Demo("long", delay_ms=0), asking("hi"))
    assert sum(isinstance(event, Content) for event in events) == LONG_DELTAS == 10_000


async def test_reasoning_comes_beside_the_text() -> None:
    events, _ = await events_of(Demo("reasoning", delay_ms=0), asking("hi"))
    answer = answer_of(events)
    assert [part["kind"] for part in answer.as_parts()] == ["reasoning", "text"]
    assert text_of(answer) == demo_answer(asking("hi").messages)


async def test_tool_asks_for_the_time_and_goes_on_with_the_result() -> None:
    demo = Demo("tool", delay_ms=0)
    events, _ = await events_of(demo, asking("What time is it?"))
    text, call = answer_of(events).as_parts()
    assert (text["kind"], call["kind"], call["name"], call["text"]) == (
        "text",
        "tool_call",
        "get_time",
        '{"zone": "UTC"}',
    )
    assert events[-1] == Finish("tool_calls")

    result = Message("tool", ({"type": "text", "text": '"12:00"'},), call=call["call"])
    called = Message("assistant", ({**call, "type": "tool_call"},))
    events, _ = await events_of(demo, StepRequest([*asking("What time is it?").messages, called, result]))
    assert '"12:00"' in text_of(answer_of(events))
    assert events[-1] == Finish("stop")


async def test_the_delay_is_kept_between_deltas() -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with Demo("slow", delay_ms=20).stream(asking("hi")) as batches:
        for _ in range(3):
            await anext(batches)
    assert loop.time() - began >= 0.055
