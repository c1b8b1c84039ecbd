"""What chat completions say in all their dialects, and what is no answer: see also test_recordings."""

from typing import Any

import pytest

from tests.providers.recorded import Outcome, contents, last, outcome_of, text
from tests.support.provider_server import chunk, sse
from turnwire.core.entries import Content, Finish, UsageReport
from turnwire.providers.openai_chat_decoder import OpenAIChatDecoder


def outcome_of_events(*events: dict[str, Any] | str) -> Outcome:
    return outcome_of([b"".join(map(sse, events))], OpenAIChatDecoder())


# --- the end ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("stop", "stop"),
        ("length", "length"),
        ("model_length", "length"),
        ("max_tokens", "length"),
        ("tool_calls", "tool_calls"),
        ("function_call", "tool_calls"),
        ("content_filter", "content_filter"),
        ("SAFETY", "content_filter"),
        ("eos", "stop"),
        ("something_new", "stop"),
    ],
)
def test_each_service_s_finish_reason_has_its_meaning(said: str, meant: str) -> None:
    events, failure = outcome_of_events(chunk("a"), chunk(finish_reason=said), "[DONE]")
    assert (events[-1], failure) == (Finish(meant), None)  # pyright: ignore[reportArgumentType] - built from a table


@pytest.mark.parametrize(
    ("said", "kind"),
    [("error", "upstream_failed"), ("abort", "truncated"), ("insufficient_system_resource", "upstream_busy")],
)
def test_a_finish_reason_that_means_failure_is_one(said: str, kind: str) -> None:
    events, failure = outcome_of_events(chunk("a"), chunk(finish_reason=said), "[DONE]")
    assert (events, failure) == ([text(0, "a")], kind)


def test_done_behind_content_proves_the_end_without_a_finish_reason() -> None:
    assert outcome_of_events(chunk("a"), "[DONE]") == ([text(0, "a"), last(0), Finish("stop")], None)


def test_done_alone_proves_nothing() -> None:
    assert outcome_of_events(chunk(role="assistant"), "[DONE]") == ([], "truncated")


def test_an_empty_answer_with_a_finish_reason_is_an_answer() -> None:
    assert outcome_of_events(chunk(finish_reason="stop"), "[DONE]") == ([Finish("stop")], None)


def test_a_finish_reason_that_is_empty_or_null_is_none() -> None:
    assert outcome_of_events(chunk("a", finish_reason=""))[1] == "truncated"


def test_text_behind_the_finish_reason_still_counts_and_nothing_behind_done_does() -> None:
    events, failure = outcome_of_events(chunk(finish_reason="stop"), chunk("late"), "[DONE]", chunk("later"))
    assert (events, failure) == ([text(0, "late"), last(0), Finish("stop")], None)


# --- errors and rubbish ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("event", "kind"),
    [
        ({"error": {"code": 429, "message": "secret"}}, "upstream_busy"),
        ({"error": {"code": "400", "type": "BadRequestError", "message": "secret"}}, "upstream_rejected"),
        ({"error": {"code": None, "type": "server_is_overloaded"}}, "upstream_busy"),
        ({"error": {"code": "context_length_exceeded"}}, "upstream_rejected"),
        ({"error": {"type": "authentication_error"}}, "upstream_unauthorised"),
        ({"error": {"type": "insufficient_quota", "code": 429}}, "upstream_rejected"),
        ({"error": "a lone sentence"}, "upstream_failed"),
        ({"error": {"message": "secret"}, "choices": [{"delta": {"content": "x"}}]}, "upstream_failed"),
        ({"object": "error", "message": "secret", "code": 503}, "upstream_busy"),
        ({"choices": [], "x_groq": {"id": "r", "error": "over capacity"}}, "upstream_failed"),
    ],
)
def test_an_error_inside_the_stream_is_a_failure_and_its_words_stay_inside(event: dict[str, Any], kind: str) -> None:
    decoder = OpenAIChatDecoder()
    assert outcome_of([sse(chunk("a")), sse(event), sse("[DONE]")], decoder) == ([text(0, "a")], kind)
    assert "secret" not in str(decoder.failure)
    assert "sentence" not in str(decoder.failure)


def test_an_event_named_error_is_a_failure_whatever_it_holds() -> None:
    assert outcome_of([b'event: error\ndata: {"message": "no"}\n\n'], OpenAIChatDecoder()) == ([], "upstream_failed")


@pytest.mark.parametrize("rubbish", ["<html>", "{", "[1]", "3", '"a"', '{"a": NaN}', "[" * 100_000, "\x00"])
def test_what_is_no_json_object_is_malformed_and_what_came_before_counts(rubbish: str) -> None:
    assert outcome_of_events(chunk("a"), rubbish, chunk("b")) == ([text(0, "a")], "malformed")


@pytest.mark.parametrize(
    "odd",
    [
        {},
        {"choices": None},
        {"choices": []},
        {"choices": "x"},
        {"choices": [None, 3, {}]},
        {"choices": [{"index": 0}]},
        {"choices": [{"index": 0, "delta": None}]},
        {"choices": [{"index": 0, "delta": {"content": None, "tool_calls": None}}]},
        {"choices": [{"index": 0, "delta": {"content": 3, "reasoning": {}, "tool_calls": ["x"]}}]},
        {"choices": [{"index": 0, "delta": {"content": [{"type": "reference"}, "x", {"type": "text"}]}}]},
        {"choices": [{"index": 1, "delta": {"content": "another answer"}, "finish_reason": "length"}]},
        {"usage": {"prompt_tokens": -1}, "error": None},
    ],
)
def test_odd_frames_say_nothing_and_break_nothing(odd: dict[str, Any]) -> None:
    events, failure = outcome_of_events(odd, chunk("a"), odd, chunk(finish_reason="stop"), "[DONE]")
    assert failure is None
    assert [event for event in events if not isinstance(event, UsageReport)] == [text(0, "a"), last(0), Finish("stop")]


def test_broken_utf8_and_half_characters_are_repaired() -> None:
    stream = sse(chunk("§")).replace("§".encode(), b"\xf0\x9f|") + sse(chunk("§")).replace("§".encode(), b"\\udc00!")
    events, failure = outcome_of([stream, sse("[DONE]")], OpenAIChatDecoder())
    assert failure is None
    assert contents((events, failure)) == [text(0, "\ufffd|"), text(0, "\ufffd!")]
    for event in contents((events, failure)):
        assert isinstance(event, Content)
        event.text.encode()


# --- parts -----------------------------------------------------------------------------------------------------------


def test_parts_that_interleave_keep_their_numbers() -> None:
    events, _ = outcome_of_events(
        chunk(reasoning="r1"),
        chunk("t1"),
        chunk(reasoning_content="r2"),
        chunk(refusal="no"),
        chunk("t2"),
        chunk(finish_reason="stop"),
    )
    assert [(event.part, event.kind, event.text) for event in events if isinstance(event, Content)] == [
        (0, "reasoning", "r1"),
        (1, "text", "t1"),
        (0, "reasoning", "r2"),
        (2, "refusal", "no"),
        (1, "text", "t2"),
        (0, "reasoning", ""),
        (1, "text", ""),
        (2, "refusal", ""),
    ]


def test_reasoning_under_both_names_is_said_once() -> None:
    assert contents(outcome_of_events(chunk(reasoning="x", reasoning_content="x"))) == [Content(0, "reasoning", "x")]


def calls(*deltas: dict[str, Any]) -> Outcome:
    events = [chunk(tool_calls=[delta]) for delta in deltas]
    return outcome_of_events(*events, chunk(finish_reason="tool_calls"), "[DONE]")


def said(outcome: Outcome) -> dict[int, tuple[str | None, str | None, str]]:
    """Part to id, name and arguments."""
    parts: dict[int, tuple[str | None, str | None, str]] = {}
    for event in outcome[0]:
        if isinstance(event, Content):
            call, name, arguments = parts.get(event.part, (event.call, event.name, ""))
            parts[event.part] = (call, name, arguments + event.text)
    return parts


def delta(index: int | None, call: str | None, name: str | None, arguments: Any) -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    return {
        "index": index,
        "id": call,
        "function": {key: value for key, value in function.items() if value is not None},
    }


@pytest.mark.parametrize(
    ("deltas", "expected"),
    [
        pytest.param(
            [delta(0, "a", "f", ""), delta(1, "b", "g", "{"), delta(0, None, None, "{}"), delta(1, None, None, "}")],
            {0: ("a", "f", "{}"), 1: ("b", "g", "{}")},
            id="by index",
        ),
        pytest.param(
            [delta(None, "a", "f", "{"), delta(None, None, None, "}"), delta(None, "b", "f", "[]")],
            {0: ("a", "f", "{}"), 1: ("b", "f", "[]")},
            id="no index: what has neither id nor name goes on",
        ),
        pytest.param(
            [delta(None, "a", "f", "{"), delta(None, "b", "f", "["), delta(None, "a", None, "}")],
            {0: ("a", "f", "{}"), 1: ("b", "f", "[")},
            id="no index: by id",
        ),
        pytest.param(
            [delta(0, "a", "f", "{}"), delta(0, "b", "f", "[]")],
            {0: ("a", "f", "{}"), 1: ("b", "f", "[]")},
            id="index 0 for every call, told apart by id",
        ),
        pytest.param(
            [delta(0, None, "f", "{}"), delta(0, "", "g", "[]")],
            {0: ("call-0", "f", "{}"), 1: ("call-1", "g", "[]")},
            id="index 0 for every call, told apart by name",
        ),
        pytest.param(
            [delta(0, "x1", "f", "{"), delta(0, "x2", None, "}")], {0: ("x1", "f", "{}")}, id="another id on each piece"
        ),
        pytest.param(
            [delta(0, "a", "f", "{"), delta(0, "a", "f", "}")], {0: ("a", "f", "{}")}, id="id and name on each piece"
        ),
        pytest.param(
            [delta(0, None, None, "{"), delta(0, "a", "f", "}")], {0: ("a", "f", "{}")}, id="the name comes later"
        ),
        pytest.param([delta(0, "a", "f", {"b": 1})], {0: ("a", "f", '{"b":1}')}, id="arguments as an object"),
    ],
)
def test_tool_calls_are_told_apart(deltas: list[dict[str, Any]], expected: dict[int, Any]) -> None:
    outcome = calls(*deltas)
    assert said(outcome) == expected
    assert outcome[0][-1] == Finish("tool_calls")
    first = {}
    for event in outcome[0]:
        if isinstance(event, Content):
            first.setdefault(event.part, event)
            if event is not first[event.part]:
                assert (event.call, event.name) == (None, None)


def test_a_function_call_of_the_old_kind_is_a_tool_call() -> None:
    outcome = outcome_of_events(
        chunk(function_call={"name": "f", "arguments": "{"}),
        chunk(function_call={"arguments": "}"}),
        chunk(finish_reason="function_call"),
    )
    assert said(outcome) == {0: ("call-0", "f", "{}")}
    assert outcome[0][-1] == Finish("tool_calls")


def test_a_tool_call_without_a_name_is_malformed() -> None:
    assert calls(delta(0, "a", None, "{}"))[1] == "malformed"


def test_a_tool_call_s_name_or_id_over_the_wire_s_maximum_is_malformed() -> None:
    assert calls(delta(0, "a" * 129, "f", "{}"))[1] == "malformed"
    assert calls(delta(0, "a", "f" * 129, "{}"))[1] == "malformed"


# --- bounds ----------------------------------------------------------------------------------------------------------


def test_output_over_its_maximum_is_a_failure_counted_in_bytes_over_all_parts() -> None:
    def sent(*deltas: dict[str, Any]) -> Outcome:
        return outcome_of([b"".join(map(sse, deltas))], OpenAIChatDecoder(output_bytes_max=10))

    five = chunk("ä" * 2 + "a")
    assert sent(five, five)[1] == "truncated"
    assert sent(five, five, chunk(reasoning="x")) == ([text(0, "ääa")] * 2, "output_too_large")
    assert sent(five, chunk(tool_calls=[delta(0, "a", None, "123456")]))[1] == "output_too_large"


def test_more_tool_calls_than_allowed_are_a_failure() -> None:
    events = [sse(chunk(tool_calls=[delta(number, f"c{number}", "f", "")])) for number in range(4)]
    assert outcome_of(events, OpenAIChatDecoder(calls_max=4))[1] == "truncated"
    assert outcome_of(events, OpenAIChatDecoder(calls_max=3))[1] == "output_too_large"


def test_a_line_of_ten_megabytes_is_malformed() -> None:
    line = b"data: " + b"x" * 10_000_000
    pieces = (line[start : start + 65_536] for start in range(0, len(line), 65_536))
    assert outcome_of(pieces, OpenAIChatDecoder()) == ([], "malformed")
