"""The stream of an Anthropic message becomes provider events.

A message is a row of content blocks, each with an index, a start, deltas and a stop. Text that is split over several
blocks (a cited passage is a block of its own) stays one part. Thinking comes with a signature, and goes back with it;
where there is nothing to read of it (redacted, or not displayed) it makes no part but is kept with the next one.
Blocks, deltas and events of unknown types are ignored, as the API's versioning asks of its readers. A refusal ends the
answer as a content filter does, and its explanation is a part of kind refusal.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

from turnwire.core.entries import UsageReport
from turnwire.ports import Failure
from turnwire.providers.stream_decoder import StreamDecoder, inside, place_of, tokens
from turnwire_protocol.values import FinishReason

_FINISH_REASONS: Final[Mapping[str, FinishReason]] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    # The model would go on if it were asked to: its answer is not whole.
    "pause_turn": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}
"""A reason that is not here proves the end as well as any, and counts as `stop`."""

_COUNTS: Final = (
    ("input_tokens",),
    ("cache_creation_input_tokens",),
    ("cache_read_input_tokens",),
    ("output_tokens",),
    ("output_tokens_details", "thinking_tokens"),
)
"""Where usage says its counts. The input is the sum of the first three."""

BLOCKS_OPEN_MAX: Final = 64
"""Real services stop one before they start the next."""


@dataclass(slots=True)
class _Block:
    """A content block that has not stopped. `part` None: nothing of it is shown (yet)."""

    kind: str
    part: int | None = None
    signature: str = ""
    given: Any = None
    """A call's input as its start says it; real services leave it empty and send pieces."""


class AnthropicMessagesDecoder(StreamDecoder):
    """See StreamDecoder."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._blocks: dict[int | str | None, _Block] = {}
        self._text: int | None = None
        """The part that the next text goes on with, unless something else comes first."""
        self._usage: dict[tuple[str, ...], int] = {}

    def _take(self, name: str, value: dict[str, Any]) -> None:
        index = place_of(value.get("index"))
        match value.get("type") or name:
            case "content_block_delta":
                self._take_delta(self._blocks.get(index), inside(value, "delta"))
            case "content_block_start":
                self._start(index, inside(value, "content_block"))
            case "content_block_stop":
                self._stop(self._blocks.pop(index, None))
            case "message_start":
                self._use(inside(value, "message", "usage"))
            case "message_delta":
                self._take_end(value)
            case "message_stop":
                self._finish(self._reason or "stop")
            case _:
                pass

    # --- blocks ---------------------------------------------------------------------------------------------------

    def _start(self, index: int | str | None, block: Any) -> None:
        kind = inside(block, "type")
        if len(self._blocks) >= BLOCKS_OPEN_MAX:
            raise Failure("malformed", f"more than {BLOCKS_OPEN_MAX} blocks at once")
        opened = self._blocks[index] = _Block(str(kind))
        if kind in ("thinking", "redacted_thinking", "tool_use"):
            self._end_text()
        if kind == "tool_use":
            opened.part = self._begin_call(inside(block, "id"), inside(block, "name"))
            opened.given = inside(block, "input")
        elif kind == "redacted_thinking":
            self._hide({"type": "redacted_thinking", "data": inside(block, "data")})
        elif kind == "text":
            self._add_text(inside(block, "text"))
        elif kind == "thinking":
            self._add_thought(opened, inside(block, "thinking"))
            opened.signature = inside(block, "signature") or ""

    def _take_delta(self, block: _Block | None, delta: Any) -> None:
        if block is None:
            return
        match block.kind, inside(delta, "type"):
            case "text", "text_delta":
                self._add_text(inside(delta, "text"))
            case "thinking", "thinking_delta":
                self._add_thought(block, inside(delta, "thinking"))
            case "thinking", "signature_delta":
                block.signature = str(inside(delta, "signature"))
            case "tool_use", "input_json_delta" if block.part is not None:
                self._say(block.part, inside(delta, "partial_json"))
            case "text", "citations_delta":
                self._add_citation(inside(delta, "citation"))
            case _:
                pass

    def _stop(self, block: _Block | None) -> None:
        if block is None:
            return
        if block.kind == "thinking" and block.part is not None:
            self._keep(block.part, signature=block.signature)
            self._close(block.part)
        elif block.kind == "thinking" and block.signature:
            self._hide({"type": "thinking", "thinking": "", "signature": block.signature})
        elif block.kind == "tool_use" and block.part is not None:
            if block.given and not self._parts[block.part].said:
                self._say(block.part, orjson.dumps(block.given).decode())
            self._close(block.part)

    def _add_text(self, text: Any) -> None:
        if not isinstance(text, str) or not text:
            return
        if self._text is None:
            self._text = self._begin("text")
        self._say(self._text, text)

    def _end_text(self) -> None:
        if self._text is not None:
            self._close(self._text)
            self._text = None

    def _add_thought(self, block: _Block, text: Any) -> None:
        if not isinstance(text, str) or not text:
            return
        if block.part is None:
            block.part = self._begin("reasoning")
        self._say(block.part, text)

    def _add_citation(self, citation: Any) -> None:
        self._cite(
            url=inside(citation, "url"),
            title=inside(citation, "title") or inside(citation, "document_title"),
            text=inside(citation, "cited_text"),
        )

    # --- the end --------------------------------------------------------------------------------------------------

    def _take_end(self, value: dict[str, Any]) -> None:
        reason = inside(value, "delta", "stop_reason")
        explanation = inside(value, "delta", "stop_details", "explanation")
        if isinstance(reason, str) and reason:
            self._reason = _FINISH_REASONS.get(reason, "stop")
        if reason == "refusal" and isinstance(explanation, str) and explanation:
            self._end_text()
            self._say(self._begin("refusal"), explanation)
        self._use(value.get("usage"))

    def _use(self, usage: Any) -> None:
        """Counts are cumulative: what is said anew replaces what was said before."""
        if not isinstance(usage, dict):
            return
        self._usage |= {path: count for path in _COUNTS if (count := tokens(inside(usage, *path))) is not None}
        fresh, written, cached, output, thinking = (self._usage.get(path) for path in _COUNTS)
        input_tokens = sum(count or 0 for count in (fresh, written, cached))
        self._used(UsageReport(input_tokens, output or 0, cached, thinking))
