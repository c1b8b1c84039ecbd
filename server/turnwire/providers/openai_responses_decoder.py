"""The stream of an OpenAI response becomes provider events.

A response is a row of output items (messages, function calls, reasoning), each told by its place. Every piece of text
is sent again whole at the end of its part, its item and the response; those repetitions only count where no pieces
came. Reasoning is shown as far as the service sums it up, and goes back encrypted; what there is nothing to read of is
kept with the next part. The response's own last event proves the end, and no `[DONE]` does.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from turnwire.core.entries import UsageReport
from turnwire.ports import Failure
from turnwire.providers.stream_decoder import OUTPUT_BYTES_MAX, StreamDecoder, inside, objects_in, place_of, tokens
from turnwire.providers.upstream_errors import failure_of_error
from turnwire_protocol.values import FinishReason, Kind

EVENT_BYTES_MAX: Final = 2 * OUTPUT_BYTES_MAX
"""The last event repeats the whole response, and every event of the response itself its instructions and tools."""

_INCOMPLETE_REASONS: Final[Mapping[str, FinishReason]] = {"content_filter": "content_filter"}
"""Of an incomplete response; any other reason, known or not, says that there would have been more: `length`."""

_BETWEEN_TEXTS: Final = "\n\n"

_Place = int | str | None
"""Which item an event is about: its number in the response, or else its id."""


@dataclass(slots=True)
class _Reasoning:
    """A reasoning item. Its texts are one part, each set off from the one before."""

    part: int | None = None
    name: Literal["summary", "content"] = "summary"
    index: Any = None
    lengths: list[int] = field(default_factory=list[int])
    """Of each text, so that they can go back apart."""


class OpenAIResponsesDecoder(StreamDecoder):
    """See StreamDecoder."""

    def __init__(self, **options: Any) -> None:
        super().__init__(event_bytes_max=EVENT_BYTES_MAX, **options)
        self._places: dict[tuple[_Place, Kind], int] = {}
        """Part of each (item, kind)."""
        self._reasonings: dict[_Place, _Reasoning] = {}

    def _take(self, name: str, value: dict[str, Any]) -> None:
        place = place_of(value.get("output_index"))
        place = place_of(value.get("item_id")) if place is None else place
        match value.get("type") or name:
            case "response.output_text.delta":
                self._add_text(place, "text", value.get("delta"))
            case "response.refusal.delta":
                self._add_text(place, "refusal", value.get("delta"))
            case "response.function_call_arguments.delta" if (place, "tool_call") in self._places:
                self._say(self._places[place, "tool_call"], value.get("delta"))
            case "response.reasoning_summary_text.delta":
                self._reason_on(place, "summary", value.get("summary_index"), value.get("delta"))
            case "response.reasoning_text.delta":
                self._reason_on(place, "content", value.get("content_index"), value.get("delta"))
            case "response.output_item.added":
                self._add_call(place, inside(value, "item"))
            case "response.output_item.done":
                self._end_item(place, inside(value, "item"))
            case "response.output_text.annotation.added":
                self._add_annotation(inside(value, "annotation"))
            case "response.completed" | "response.incomplete" | "response.failed" | "response.cancelled" as kind:
                self._end_response(kind, inside(value, "response"))
            case _:
                pass

    # --- items ----------------------------------------------------------------------------------------------------

    def _add_text(self, place: _Place, kind: Kind, text: Any) -> None:
        if not isinstance(text, str) or not text:
            return
        part = self._places.get((place, kind))
        if part is None:
            part = self._places[place, kind] = self._begin(kind)
        self._say(part, text)

    def _add_call(self, place: _Place, item: Any) -> None:
        if inside(item, "type") == "function_call" and (place, "tool_call") not in self._places:
            self._places[place, "tool_call"] = self._begin_call(inside(item, "call_id"), inside(item, "name"))

    def _end_item(self, place: _Place, item: Any) -> None:
        match inside(item, "type"):
            case "message":
                self._end_message(place, item)
            case "function_call":
                self._add_call(place, item)
                part = self._places[place, "tool_call"]
                if not self._parts[part].said:
                    self._say(part, inside(item, "arguments"))
                self._close(part)
            case "reasoning":
                self._end_reasoning(place, item)
            case _:
                pass

    def _end_message(self, place: _Place, item: Any) -> None:
        if not {(place, "text"), (place, "refusal")} & self._places.keys():
            # No pieces came.
            for content in objects_in(inside(item, "content")):
                kind = "refusal" if content.get("type") == "refusal" else "text"
                self._add_text(place, kind, content.get(kind))
        phase = inside(item, "phase")
        for kind in ("text", "refusal"):
            part = self._places.get((place, kind))
            if part is not None:
                if isinstance(phase, str):
                    self._keep(part, phase=phase)
                self._close(part)

    def _add_annotation(self, annotation: Any) -> None:
        self._cite(
            url=inside(annotation, "url"),
            title=inside(annotation, "title") or inside(annotation, "filename"),
            start=inside(annotation, "start_index"),
            end=inside(annotation, "end_index"),
        )

    # --- reasoning ------------------------------------------------------------------------------------------------

    def _reason_on(self, place: _Place, name: Literal["summary", "content"], index: Any, text: Any) -> None:
        if not isinstance(text, str) or not text:
            return
        reasoning = self._reasonings.setdefault(place, _Reasoning())
        if reasoning.part is None:
            reasoning.part, reasoning.name = self._begin("reasoning"), name
        elif reasoning.name != name:
            # The same thought, once in full and once in short: the first is shown.
            return
        if not reasoning.lengths or index != reasoning.index:
            if reasoning.lengths:
                self._say(reasoning.part, _BETWEEN_TEXTS)
            reasoning.lengths.append(0)
            reasoning.index = index
        reasoning.lengths[-1] += len(text)
        self._say(reasoning.part, text)

    def _end_reasoning(self, place: _Place, item: Any) -> None:
        if place not in self._reasonings:
            for index, summary in enumerate(objects_in(inside(item, "summary"))):
                self._reason_on(place, "summary", index, summary.get("text"))
        reasoning = self._reasonings.get(place, _Reasoning())
        encrypted = inside(item, "encrypted_content")
        state = {"id": inside(item, "id"), "encrypted_content": encrypted}
        wanted = isinstance(encrypted, str) and encrypted != ""
        if reasoning.part is not None:
            if wanted:
                self._keep(reasoning.part, **state, **{reasoning.name: reasoning.lengths})
            self._close(reasoning.part)
        elif wanted:
            self._hide(state)

    # --- the end --------------------------------------------------------------------------------------------------

    def _end_response(self, kind: str, response: Any) -> None:
        usage = inside(response, "usage")
        if isinstance(usage, dict):
            self._used(_usage_of(usage))
        if kind == "response.failed":
            raise failure_of_error(inside(response, "error"))
        if kind == "response.cancelled":
            raise Failure("truncated", "the response was cancelled")
        if not self._parts:
            for place, item in enumerate(objects_in(inside(response, "output"))):
                self._end_item(place, item)
        if kind == "response.incomplete":
            reason = inside(response, "incomplete_details", "reason")
            self._finish(_INCOMPLETE_REASONS.get(str(reason), "length"))
        else:
            self._finish("stop")


def _usage_of(usage: Any) -> UsageReport:
    return UsageReport(
        tokens(inside(usage, "input_tokens")) or 0,
        tokens(inside(usage, "output_tokens")) or 0,
        tokens(inside(usage, "input_tokens_details", "cached_tokens")),
        tokens(inside(usage, "output_tokens_details", "reasoning_tokens")),
    )
