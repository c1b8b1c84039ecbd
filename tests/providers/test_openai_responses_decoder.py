"""What a response says, item by item, and what is no answer: see also test_recordings."""

from typing import Any

import pytest

from tests.providers.recorded import MAKER, Outcome, call, citation, contents, last, outcome_of, text, thought
from tests.support.provider_server import sse
from turnwire.core.entries import Content, Finish, UsageReport
from turnwire.providers.openai_responses_decoder import EVENT_BYTES_MAX, OpenAIResponsesDecoder
from turnwire.providers.sse import EVENT_BYTES_MAX as COMMON_EVENT_BYTES_MAX


def outcome_of_events(*events: dict[str, Any] | str) -> Outcome:
    return outcome_of([b"".join(map(sse, events))], OpenAIResponsesDecoder(maker=MAKER))


def event(kind: str, place: int | None = None, **fields: Any) -> dict[str, Any]:
    at = {} if place is None else {"output_index": place}
    return {"type": f"response.{kind}", **at, **fields}


def says(place: int, piece: str, kind: str = "output_text") -> dict[str, Any]:
    return event(f"{kind}.delta", place, item_id=f"i{place}", content_index=0, delta=piece)


def done(place: int, kind: str, **item: Any) -> dict[str, Any]:
    return event("output_item.done", place, item={"type": kind, **item})


COMPLETED = event("completed", response={"status": "completed"})


def added(**item: Any) -> dict[str, Any]:
    return event("output_item.added", 0, item={"type": "function_call", "call_id": "c1", "name": "f", **item})


def called(place: int, arguments: str) -> dict[str, Any]:
    return done(place, "function_call", call_id="c1", name="f", arguments=arguments)


# --- the end ---------------------------------------------------------------------------------------------------------


def test_only_the_response_s_own_last_event_proves_the_end() -> None:
    message = [says(0, "a"), done(0, "message", content=[{"type": "output_text", "text": "a"}])]
    assert outcome_of_events(*message) == ([text(0, "a"), last(0)], "truncated")
    assert outcome_of_events(*message, "[DONE]") == ([text(0, "a"), last(0)], "truncated")
    assert outcome_of_events(*message, COMPLETED) == ([text(0, "a"), last(0), Finish("stop")], None)


@pytest.mark.parametrize(
    ("reason", "meant"),
    [
        ("max_output_tokens", "length"),
        ("max_messages", "length"),
        ("steered", "length"),
        ("something_new", "length"),
        (None, "length"),
        ("content_filter", "content_filter"),
    ],
)
def test_an_incomplete_response_is_an_answer_that_says_why_it_ended(reason: str | None, meant: Any) -> None:
    incomplete = event("incomplete", response={"incomplete_details": {"reason": reason}})
    assert outcome_of_events(says(0, "a"), incomplete) == ([text(0, "a"), last(0), Finish(meant)], None)


def test_an_empty_response_is_an_answer() -> None:
    assert outcome_of_events(COMPLETED) == ([Finish("stop")], None)
    assert outcome_of_events(event("completed")) == ([Finish("stop")], None)


def test_nothing_behind_the_last_event_counts() -> None:
    assert outcome_of_events(says(0, "a"), COMPLETED, says(0, "b")) == ([text(0, "a"), last(0), Finish("stop")], None)


def test_a_response_that_was_cancelled_elsewhere_is_cut() -> None:
    assert outcome_of_events(says(0, "a"), event("cancelled")) == ([text(0, "a")], "truncated")


@pytest.mark.parametrize(
    ("failed", "kind"),
    [
        (event("failed", response={"error": {"code": "server_error"}}), "upstream_failed"),
        (event("failed", response={"error": {"code": "rate_limit_exceeded"}}), "upstream_busy"),
        (event("failed", response={"error": {"code": "invalid_prompt"}}), "upstream_rejected"),
        (event("failed", response={"error": {"code": "image_too_large"}}), "upstream_rejected"),
        (event("failed", response={"error": None}), "upstream_failed"),
        (event("failed"), "upstream_failed"),
        ({"type": "error", "code": "server_is_overloaded", "message": "my secret prompt"}, "upstream_busy"),
        ({"type": "error", "code": "slow_down"}, "upstream_busy"),
        ({"type": "error", "code": None, "message": "my secret prompt"}, "upstream_failed"),
        ({"type": "error", "error": {"type": "invalid_request_error", "code": None}}, "upstream_rejected"),
        ({"error": {"code": "429", "type": "None"}}, "upstream_busy"),
    ],
)
def test_a_failed_response_and_a_bare_error_are_failures_and_their_words_stay_inside(
    failed: dict[str, Any], kind: str
) -> None:
    decoder = OpenAIResponsesDecoder()
    stream = b"".join(map(sse, [says(0, "a"), failed, COMPLETED]))
    assert outcome_of([stream], decoder) == ([text(0, "a")], kind)
    assert "secret" not in str(decoder.failure)


def test_the_event_s_name_counts_where_its_object_has_no_type() -> None:
    stream = b'event: response.output_text.delta\ndata: {"output_index":0,"delta":"a"}\n\n'
    assert contents(outcome_of([stream], OpenAIResponsesDecoder())) == [text(0, "a")]


@pytest.mark.parametrize(
    "odd",
    [
        {},
        {"type": "response.something_new", "output_index": 0, "delta": "x"},
        {"type": "keepalive", "sequence_number": 3},
        event("queued"),
        event("output_item.added", 5, item=None),
        event("output_item.added", 5, item={"type": "web_search_call"}),
        event("output_item.done", 5, item={"type": "something_new"}),
        event("output_item.done", 5, item={"type": "message", "content": [None, {"type": "output_text"}]}),
        event("output_item.done", 5, item={"type": "reasoning", "summary": None, "encrypted_content": ""}),
        event("function_call_arguments.delta", 5, delta="x"),
        event("reasoning_summary_text.delta", 5, delta=None),
        event("output_text.annotation.added", 0, annotation=None),
        event("output_text.delta", 0, delta=None),
        event("audio.delta", delta="AAAA"),
        {"type": "response.output_item.done", "output_index": {}, "item": {"type": "reasoning"}},
    ],
)
def test_odd_events_say_nothing_and_break_nothing(odd: dict[str, Any]) -> None:
    events = outcome_of_events(odd, says(0, "a"), odd, says(0, "b"), odd, COMPLETED)
    assert contents(events) == [text(0, "a"), text(0, "b")]
    assert (events[0][-1], events[1]) == (Finish("stop"), None)


# --- items -----------------------------------------------------------------------------------------------------------


def test_items_are_told_apart_by_their_place_though_their_ids_change() -> None:
    first = {**says(0, "a"), "item_id": "x1"}
    second = {**says(0, "b"), "item_id": "x2"}
    assert contents(outcome_of_events(first, second, says(1, "c"))) == [text(0, "a"), text(0, "b"), text(1, "c")]


def test_items_without_a_place_are_told_apart_by_their_ids() -> None:
    pieces = [{"type": "response.output_text.delta", "item_id": name, "delta": name} for name in ("x", "y", "x")]
    assert contents(outcome_of_events(*pieces)) == [text(0, "x"), text(1, "y"), text(0, "x")]


def test_what_came_in_pieces_is_not_said_again_and_what_came_whole_is_said_once() -> None:
    whole = [{"type": "output_text", "text": "ab"}, {"type": "refusal", "refusal": "no"}]
    response = {"output": [{"type": "message", "content": whole}]}
    once = [text(0, "ab"), Content(1, "refusal", "no")]
    completed = event("completed", response=response)
    pieces = [says(0, "ab"), says(0, "no", "refusal")]
    assert contents(outcome_of_events(*pieces, done(0, "message", content=whole), completed)) == once
    assert contents(outcome_of_events(done(0, "message", content=whole), completed)) == once
    assert contents(outcome_of_events(completed)) == once


def test_a_message_without_a_word_makes_no_part() -> None:
    nothing = done(0, "message", content=[{"type": "output_text", "text": ""}])
    assert outcome_of_events(says(0, ""), nothing, COMPLETED) == ([Finish("stop")], None)


def test_a_call_s_arguments_come_in_pieces_or_whole() -> None:
    begun = added(arguments="")
    pieces = [event("function_call_arguments.delta", 0, delta=piece) for piece in ("{", "}")]
    ended = called(0, "{}")
    whole = [call(0, "", "c1", "f"), call(0, "{}"), last(0, "tool_call"), Finish("tool_calls")]
    in_pieces = [call(0, "", "c1", "f"), call(0, "{"), call(0, "}"), last(0, "tool_call"), Finish("tool_calls")]
    assert outcome_of_events(begun, *pieces, ended, COMPLETED) == (in_pieces, None)
    assert outcome_of_events(begun, ended, COMPLETED) == (whole, None)
    assert outcome_of_events(ended, COMPLETED) == (whole, None)


def test_a_call_without_arguments_is_whole_only_if_the_response_is() -> None:
    ended = called(0, "")
    incomplete = event("incomplete", response={"incomplete_details": {"reason": "max_output_tokens"}})
    assert outcome_of_events(ended, COMPLETED)[0][1:] == [last(0, "tool_call", "{}"), Finish("tool_calls")]
    assert outcome_of_events(ended, incomplete)[0][1:] == [last(0, "tool_call"), Finish("length")]


def test_a_call_without_a_name_is_malformed() -> None:
    assert outcome_of_events(added(name=None))[1] == "malformed"


def test_citations_are_parts_of_their_own() -> None:
    source = {"type": "url_citation", "url": "https://example.com/a", "title": "A", "start_index": 0, "end_index": 3}
    assert contents(outcome_of_events(says(0, "abc"), event("output_text.annotation.added", 0, annotation=source))) == [
        text(0, "abc")
    ]
    events, _ = outcome_of_events(says(0, "abc"), event("output_text.annotation.added", 0, annotation=source))
    assert events[1:] == [citation(1, url="https://example.com/a", title="A", start=0, end=3)]


# --- reasoning -------------------------------------------------------------------------------------------------------


def reasons(index: int, piece: str, kind: str = "reasoning_summary_text") -> dict[str, Any]:
    name = "summary_index" if kind == "reasoning_summary_text" else "content_index"
    return event(f"{kind}.delta", 0, item_id="rs", delta=piece, **{name: index})


def test_summaries_are_one_part_and_their_lengths_are_kept() -> None:
    events = outcome_of_events(
        reasons(0, "a"),
        reasons(0, "b"),
        reasons(1, "c"),
        done(0, "reasoning", id="rs", encrypted_content="e-test=="),
        says(1, "t"),
        COMPLETED,
    )
    assert events[0][:5] == [
        thought(0, "a"),
        thought(0, "b"),
        thought(0, "\n\n"),
        thought(0, "c"),
        last(0, "reasoning", id="rs", encrypted_content="e-test==", summary=[2, 1]),
    ]


def test_a_thought_that_is_told_in_full_and_in_short_is_shown_once() -> None:
    events = outcome_of_events(
        reasons(0, "full", "reasoning_text"),
        reasons(0, "short"),
        done(0, "reasoning", id="rs", encrypted_content="e-test=="),
        COMPLETED,
    )
    assert events[0][:2] == [
        thought(0, "full"),
        last(0, "reasoning", id="rs", encrypted_content="e-test==", content=[4]),
    ]


def test_reasoning_without_ciphertext_is_shown_and_not_kept() -> None:
    assert outcome_of_events(reasons(0, "a"), done(0, "reasoning", id="rs"))[0] == [
        thought(0, "a"),
        last(0, "reasoning"),
    ]


def test_reasoning_that_is_not_shown_is_kept_with_what_it_led_to() -> None:
    hidden = done(0, "reasoning", id="rs", summary=[], encrypted_content="e-test==")
    ended = called(1, "{}")
    before = [{"id": "rs", "encrypted_content": "e-test=="}]
    assert outcome_of_events(hidden, ended, COMPLETED)[0] == [
        call(0, "", "c1", "f"),
        call(0, "{}"),
        last(0, "tool_call", before=before),
        Finish("tool_calls"),
    ]
    assert outcome_of_events(hidden, COMPLETED) == ([Finish("stop")], None)


# --- usage and bounds ------------------------------------------------------------------------------------------------


def test_usage_is_told_at_the_end_of_every_kind() -> None:
    usage = {
        "input_tokens": 3,
        "output_tokens": 4,
        "input_tokens_details": {"cached_tokens": 1},
        "output_tokens_details": {"reasoning_tokens": 2},
    }
    for kind in ("completed", "incomplete", "failed"):
        events, _ = outcome_of_events(event(kind, response={"usage": usage}))
        assert events[0] == UsageReport(3, 4, 1, 2)


def test_the_last_event_may_repeat_a_long_answer() -> None:
    long = "x" * (2 * COMMON_EVENT_BYTES_MAX)
    pieces = [says(0, long[start : start + 100_000]) for start in range(0, len(long), 100_000)]
    response = {"output": [{"type": "message", "content": [{"type": "output_text", "text": long}]}]}
    events, failure = outcome_of_events(*pieces, event("completed", response=response))
    assert (events[-1], failure) == (Finish("stop"), None)


def test_an_event_over_the_maximum_is_malformed() -> None:
    line = b"data: " + b"x" * (EVENT_BYTES_MAX + 1)
    pieces = (line[start : start + 1_000_000] for start in range(0, len(line), 1_000_000))
    assert outcome_of(pieces, OpenAIResponsesDecoder()) == ([], "malformed")
