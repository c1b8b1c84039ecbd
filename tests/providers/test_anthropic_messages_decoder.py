"""What an Anthropic message says, block by block, and what is no answer: see also test_recordings."""

from typing import Any

import pytest

from tests.providers.recorded import MAKER, Outcome, call, citation, contents, last, outcome_of, text, thought
from tests.support.provider_server import sse
from turnwire.core.entries import Content, Finish, UsageReport
from turnwire.providers.anthropic_messages_decoder import BLOCKS_OPEN_MAX, AnthropicMessagesDecoder

STOP = {"type": "message_stop"}


def outcome_of_events(*events: dict[str, Any] | str) -> Outcome:
    return outcome_of([b"".join(map(sse, events))], AnthropicMessagesDecoder(maker=MAKER))


def start(index: int, kind: str, **fields: Any) -> dict[str, Any]:
    return {"type": "content_block_start", "index": index, "content_block": {"type": kind, **fields}}


def delta(index: int, kind: str, **fields: Any) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": index, "delta": {"type": kind, **fields}}


def stop(index: int) -> dict[str, Any]:
    return {"type": "content_block_stop", "index": index}


def end(reason: str | None, **fields: Any) -> dict[str, Any]:
    return {"type": "message_delta", "delta": {"stop_reason": reason}, **fields}


def a_text(index: int, *texts: str) -> list[dict[str, Any]]:
    return [start(index, "text", text=""), *(delta(index, "text_delta", text=piece) for piece in texts), stop(index)]


# --- the end ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("pause_turn", "length"),
        ("tool_use", "tool_calls"),
        ("refusal", "content_filter"),
        ("something_new", "stop"),
    ],
)
def test_each_stop_reason_has_its_meaning(said: str, meant: Any) -> None:
    events, failure = outcome_of_events(*a_text(0, "a"), end(said), STOP)
    assert (events[-1], failure) == (Finish(meant), None)


def test_a_stop_reason_proves_the_end_and_so_does_the_last_event_without_one() -> None:
    whole = [text(0, "a"), last(0), Finish("stop")]
    assert outcome_of_events(*a_text(0, "a"), end("end_turn")) == (whole, None)
    assert outcome_of_events(*a_text(0, "a"), STOP) == (whole, None)
    assert outcome_of_events(*a_text(0, "a"), end(None)) == ([text(0, "a")], "truncated")
    assert outcome_of_events(*a_text(0, "a"), "[DONE]") == ([text(0, "a")], "truncated")


def test_an_answer_without_a_block_is_an_answer() -> None:
    assert outcome_of_events(end("end_turn"), STOP) == ([Finish("stop")], None)


def test_nothing_behind_the_last_event_counts() -> None:
    events = outcome_of_events(*a_text(0, "a"), end("end_turn"), STOP, *a_text(1, "b"), {"error": {"type": "x"}})
    assert events == ([text(0, "a"), last(0), Finish("stop")], None)


def test_a_refusal_without_an_explanation_is_only_a_filtered_end() -> None:
    assert outcome_of_events(end("refusal", stop_details=None), STOP) == ([Finish("content_filter")], None)


# --- errors and rubbish ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ("overloaded_error", "upstream_busy"),
        ("rate_limit_error", "upstream_busy"),
        ("api_error", "upstream_failed"),
        ("timeout_error", "upstream_failed"),
        ("invalid_request_error", "upstream_rejected"),
        ("request_too_large", "upstream_rejected"),
        ("billing_error", "upstream_rejected"),
        ("authentication_error", "upstream_unauthorised"),
        ("permission_error", "upstream_unauthorised"),
    ],
)
def test_an_error_event_is_a_failure_and_its_words_stay_inside(error: str, kind: str) -> None:
    decoder = AnthropicMessagesDecoder()
    event = {"type": "error", "error": {"type": error, "message": "my secret prompt"}}
    stream = b"".join(map(sse, [*a_text(0, "a"), event, STOP]))
    assert outcome_of([stream], decoder) == ([text(0, "a")], kind)
    assert "secret" not in str(decoder.failure)


@pytest.mark.parametrize(
    "odd",
    [
        {},
        {"type": "ping"},
        {"type": "something_new", "index": 0, "delta": {"type": "text_delta", "text": "x"}},
        {"type": "message_start"},
        {"type": "message_start", "message": {"usage": {"input_tokens": "many"}}},
        {"type": "message_delta"},
        {"type": "message_delta", "delta": {"stop_reason": ""}, "usage": None},
        {"type": "content_block_start"},
        {"type": "content_block_start", "index": 9, "content_block": {"type": "something_new", "text": "x"}},
        {"type": "content_block_delta", "index": 9, "delta": {"type": "text_delta", "text": "x"}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "something_new", "text": "x"}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "x"}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": None}},
        {"type": "content_block_stop", "index": 7},
        {"type": "content_block_stop", "index": [0]},
    ],
)
def test_odd_events_say_nothing_and_break_nothing(odd: dict[str, Any]) -> None:
    events, failure = outcome_of_events(
        odd, start(0, "text", text=""), odd, delta(0, "text_delta", text="a"), odd, stop(0), odd, end("end_turn"), STOP
    )
    assert failure is None
    assert [event for event in events if not isinstance(event, UsageReport)] == [text(0, "a"), last(0), Finish("stop")]


def test_half_a_character_is_repaired() -> None:
    stream = (
        sse(start(0, "text")) + sse(delta(0, "text_delta", text="§")).replace("§".encode(), b"\\ud83d!") + sse(STOP)
    )
    assert contents(outcome_of([stream], AnthropicMessagesDecoder())) == [text(0, "\ufffd!")]


def test_blocks_that_never_stop_are_bounded() -> None:
    events = [start(number, "something_new") for number in range(BLOCKS_OPEN_MAX + 1)]
    assert outcome_of_events(*events[:-1])[1] == "truncated"
    assert outcome_of_events(*events)[1] == "malformed"


# --- blocks ----------------------------------------------------------------------------------------------------------


def test_text_in_several_blocks_is_one_part_until_something_else_comes() -> None:
    tool = [start(2, "tool_use", id="t1", name="f", input={}), delta(2, "input_json_delta", partial_json="{}"), stop(2)]
    events = outcome_of_events(*a_text(0, "a"), *a_text(1, "b"), *tool, *a_text(3, "c"), end("tool_use"), STOP)
    assert events == (
        [
            text(0, "a"),
            text(0, "b"),
            last(0),
            call(1, "", "t1", "f"),
            call(1, "{}"),
            last(1, "tool_call"),
            text(2, "c"),
            last(2),
            Finish("tool_calls"),
        ],
        None,
    )


def test_blocks_whose_start_says_it_all_are_read_too() -> None:
    events = outcome_of_events(
        start(0, "thinking", thinking="Hm", signature="sig-test=="),
        stop(0),
        start(1, "text", text="a"),
        stop(1),
        start(2, "tool_use", id="t1", name="f", input={"b": 1}),
        stop(2),
        end("tool_use"),
        STOP,
    )
    assert events == (
        [
            thought(0, "Hm"),
            last(0, "reasoning", signature="sig-test=="),
            text(1, "a"),
            last(1),
            call(2, "", "t1", "f"),
            call(2, '{"b":1}'),
            last(2, "tool_call"),
            Finish("tool_calls"),
        ],
        None,
    )


def test_a_call_without_arguments_is_whole_only_if_the_answer_is() -> None:
    begun = [start(0, "tool_use", id="t1", name="f", input={}), stop(0)]
    whole = [call(0, "", "t1", "f"), last(0, "tool_call", "{}"), Finish("tool_calls")]
    cut = [call(0, "", "t1", "f"), last(0, "tool_call"), Finish("length")]
    assert outcome_of_events(*begun, end("tool_use"), STOP) == (whole, None)
    assert outcome_of_events(*begun, end("max_tokens"), STOP) == (cut, None)


def test_a_call_without_a_name_is_malformed_and_one_without_an_id_gets_one() -> None:
    assert outcome_of_events(start(0, "tool_use", id="t1"))[1] == "malformed"
    assert outcome_of_events(start(0, "tool_use", id="t1", name="f" * 129))[1] == "malformed"
    assert outcome_of_events(start(0, "tool_use", name="f"))[0] == [call(0, "", "call-0", "f")]


def test_thinking_that_is_not_shown_is_kept_with_what_it_led_to() -> None:
    hidden = [start(0, "thinking", thinking="", signature=""), delta(0, "signature_delta", signature="s1"), stop(0)]
    redacted = [start(1, "redacted_thinking", data="d1"), stop(1)]
    before = [
        {"type": "thinking", "thinking": "", "signature": "s1"},
        {"type": "redacted_thinking", "data": "d1"},
    ]
    events = outcome_of_events(*hidden, *redacted, *a_text(2, "a"), end("end_turn"), STOP)
    assert events == ([text(0, "a"), last(0, before=before), Finish("stop")], None)
    # Nothing came of it.
    assert outcome_of_events(*hidden, *redacted, end("end_turn"), STOP) == ([Finish("stop")], None)


def test_thinking_that_was_cut_has_no_signature_to_go_back_with() -> None:
    events = outcome_of_events(start(0, "thinking"), delta(0, "thinking_delta", thinking="Hm"), end("max_tokens"), STOP)
    assert events == ([thought(0, "Hm"), last(0, "reasoning"), Finish("length")], None)


def test_a_citation_is_a_part_of_its_own_and_breaks_no_text() -> None:
    source = {"type": "char_location", "cited_text": "b", "document_title": "D", "document_index": 0}
    events = outcome_of_events(
        start(0, "text"),
        delta(0, "text_delta", text="a"),
        delta(0, "citations_delta", citation=source),
        delta(0, "citations_delta", citation=None),
        delta(0, "text_delta", text="b"),
        stop(0),
        STOP,
    )
    assert events == (
        [text(0, "a"), citation(1, title="D", text="b"), text(0, "b"), last(0), Finish("stop")],
        None,
    )


# --- usage -----------------------------------------------------------------------------------------------------------


def test_usage_is_cumulative() -> None:
    begun = {"type": "message_start", "message": {"usage": {"input_tokens": 3, "output_tokens": 1}}}
    events = outcome_of_events(
        begun,
        end(None, usage={"output_tokens": 5, "cache_read_input_tokens": 7}),
        end("end_turn", usage={"output_tokens": 9, "cache_read_input_tokens": None}),
        STOP,
    )[0]
    assert [event for event in events if isinstance(event, UsageReport)] == [
        UsageReport(3, 1),
        UsageReport(10, 5, 7),
        UsageReport(10, 9, 7),
    ]


def test_a_part_s_first_delta_alone_names_it() -> None:
    tool = [
        start(0, "tool_use", id="t1", name="f"),
        *(delta(0, "input_json_delta", partial_json=p) for p in ("{", "}")),
    ]
    named = [(event.call, event.name) for event in outcome_of_events(*tool)[0] if isinstance(event, Content)]
    assert named == [("t1", "f"), (None, None), (None, None)]
