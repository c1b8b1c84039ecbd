"""What holds for every API: bounds, what services want back, citations, and an end that happens once."""

from typing import Any

import pytest

from tests.providers.recorded import citation, outcome_of
from tests.support.provider_server import chunk, sse
from turnwire.core.entries import OPAQUE_BYTES_MAX, Content, Finish
from turnwire.providers.opaque import packed, state_of
from turnwire.providers.openai_chat_decoder import OpenAIChatDecoder
from turnwire.providers.stream_decoder import CITATIONS_MAX, PARTS_MAX, StreamDecoder


class Plain(StreamDecoder):
    """An API whose frames are method calls."""

    def _take(self, name: str, value: dict[str, Any]) -> None:
        for method, arguments in value.items():
            getattr(self, f"_{method}")(*arguments)


def events_of(*calls: dict[str, Any], **options: Any) -> tuple[list[Any], str | None]:
    return outcome_of([sse(call) for call in calls], Plain(maker="me", **options))


def test_parts_are_bounded() -> None:
    assert events_of(*[{"begin": ["text"]}] * PARTS_MAX)[1] == "truncated"
    assert events_of(*[{"begin": ["text"]}] * (PARTS_MAX + 1)) == ([], "output_too_large")


def test_a_piece_behind_a_part_s_last_one_is_malformed() -> None:
    events, failure = events_of({"begin": ["text"], "say": [0, "a"], "close": [0]}, {"say": [0, "b"]})
    assert (len(events), failure) == (2, "malformed")


def test_output_is_bounded_in_bytes_with_what_is_kept() -> None:
    begun = {"begin": ["text"], "say": [0, "äää"]}
    assert events_of(begun, {"say": [0, "ää"]}, output_bytes_max=10)[1] == "truncated"
    assert events_of(begun, {"say": [0, "ääx"]}, output_bytes_max=10)[1] == "output_too_large"
    assert events_of(begun, {"hide": [{"k": 1}]}, output_bytes_max=10)[1] == "output_too_large"


def test_state_over_its_maximum_is_not_kept_and_the_answer_goes_on() -> None:
    class Keeping(Plain):
        def _remember(self, chars: int) -> None:
            self._keep(0, signature="x" * chars)

    for chars, kept in ((10, True), (OPAQUE_BYTES_MAX, False)):
        decoder = Keeping(maker="me")
        frames = [{"begin": ["reasoning"], "remember": [chars], "close": [0]}, {"finish": ["stop"]}]
        events, failure = outcome_of(map(sse, frames), decoder)
        assert failure is None
        assert isinstance(events[0], Content)
        assert (events[0].opaque is not None) is kept
        assert events[-1] == Finish("stop")


def test_citations_are_bounded_and_know_something() -> None:
    sources = [{"type": "url_citation", "url_citation": {"url": f"https://example.com/{n}"}} for n in range(100)]
    empty = [{"type": "url_citation", "url_citation": {"start_index": 1}}, {"type": "other"}]
    frames = [chunk("a", annotations=[*empty, *sources]), chunk(finish_reason="stop")]
    events, failure = outcome_of(map(sse, frames), OpenAIChatDecoder())
    cited = [event for event in events if isinstance(event, Content) and event.kind == "data"]
    assert (len(cited), failure) == (CITATIONS_MAX, None)
    assert cited[0] == citation(1, url="https://example.com/0")


def test_a_decoder_that_is_over_or_has_failed_says_no_more() -> None:
    for first in (sse({"finish": ["stop"]}), sse("garbage")):
        decoder = Plain()
        decoder.feed(first)
        assert (decoder.over, decoder.failure is None) in ((True, True), (False, False))
        assert decoder.feed(sse({"begin": ["text"], "say": [0, "a"]})) == []
        assert decoder.end() == []


@pytest.mark.parametrize(
    "frame", ['[{"error": {"code": 503}}]', '{"error": "x"}', '{"type": "error"}', '{"object": "error", "code": 1}']
)
def test_an_error_is_looked_for_first_in_every_form(frame: str) -> None:
    assert outcome_of([sse(frame)], Plain())[1] in ("upstream_busy", "upstream_failed")


@pytest.mark.parametrize("frame", ["[]", "[1]", '[{"a": 1}]', "null", "3"])
def test_a_frame_that_is_no_object_is_malformed(frame: str) -> None:
    assert outcome_of([sse(frame)], Plain())[1] == "malformed"


def test_opaque_state_is_read_by_its_maker_alone() -> None:
    opaque = packed("me", {"signature": "é"})
    assert state_of({"opaque": opaque}, "me") == {"signature": "é"}
    assert state_of({"opaque": opaque}, "another") == {}
    assert state_of({}, "me") == {}
    assert packed("me", {}) is None
    assert packed("me", {"k": "x" * OPAQUE_BYTES_MAX}) is None
