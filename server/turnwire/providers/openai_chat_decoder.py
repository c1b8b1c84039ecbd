"""The stream of an OpenAI-compatible chat completion becomes provider events.

It speaks every dialect at once, because services differ from each other, from their own documentation and from last
month: choices that are missing, null or empty, content as a string or a list, reasoning under two names, tool calls
without an index, errors inside a 200.

Parts are numbered by their first appearance. Their last deltas come at the very end, because only there is it known
that a part gets no more; they are empty, so nothing waits for them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

import orjson

from turnwire.core.entries import UsageReport
from turnwire.core.errors import FailureKind
from turnwire.ports import Failure
from turnwire.providers.signed_reasoning import SIGNED_LISTS, SignedReasoning
from turnwire.providers.stream_decoder import DONE, StreamDecoder, inside, objects_in, tokens
from turnwire.providers.upstream_errors import failure_of_error
from turnwire_protocol.values import FinishReason, Kind

CALLS_MAX: Final = 128
_FINISH_REASONS: Final[Mapping[str, FinishReason]] = {
    "stop": "stop",
    "eos": "stop",
    "length": "length",
    "max_tokens": "length",
    "model_length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
    "safety": "content_filter",
}
"""A reason that is not here proves the end as well as any, and counts as `stop`."""

_FAILED_REASONS: Final[Mapping[str, FailureKind]] = {
    "error": "upstream_failed",  # OpenRouter, Mistral, Together
    "abort": "truncated",  # vLLM
    "function_call_filter": "upstream_failed",  # Gemini: the model wrote a call that cannot be read
    "insufficient_system_resource": "upstream_busy",  # DeepSeek
}


@dataclass(slots=True)
class _Call:
    """A tool call. It becomes a part once its name is known, since a part's first delta must say it."""

    index: int | None
    call: str
    name: str = ""
    part: int | None = None
    held: str = ""
    extra: dict[str, Any] | None = None


class OpenAIChatDecoder(StreamDecoder):
    """See StreamDecoder. `returns_reasoning` where the service wants its reasoning back beside tool calls."""

    def __init__(self, *, calls_max: int = CALLS_MAX, returns_reasoning: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self._calls_max = calls_max
        self._returns_reasoning = returns_reasoning
        self._reasoned = False
        """Whether the model said that it thinks, if only with an empty text."""
        self._numbers: dict[Kind, int] = {}
        self._calls: list[_Call] = []
        self._thoughts: list[str] = []
        self._signed = {name: SignedReasoning() for name in SIGNED_LISTS}

    # --- one frame ------------------------------------------------------------------------------------------------

    def _take(self, name: str, value: dict[str, Any]) -> None:
        if name == DONE:
            self._take_done()
            return
        usage, x_groq = value.get("usage"), value.get("x_groq")
        if x_groq:
            if error := inside(x_groq, "error"):
                raise failure_of_error(error)
            usage = usage or inside(x_groq, "usage")
        choices = value.get("choices")
        if isinstance(choices, list):
            for choice in cast("list[Any]", choices):
                if isinstance(choice, dict):
                    self._take_choice(cast("dict[str, Any]", choice))
        if isinstance(usage, dict):
            self._used(_usage_of(cast("dict[str, Any]", usage)))

    def _take_choice(self, choice: dict[str, Any]) -> None:
        if choice.get("index"):
            # One answer beside the first, which is the turn's.
            return
        delta = choice.get("delta")
        if isinstance(delta, dict):
            self._take_delta(cast("dict[str, Any]", delta))
        reason = choice.get("finish_reason")
        if isinstance(reason, str) and reason:
            # Gemini adds what it was in particular, as in `content_filter: RECITATION`.
            reason = reason.partition(":")[0].lower()
            failed = _FAILED_REASONS.get(reason)
            if failed is not None:
                raise Failure(failed, f"finish reason {reason}")
            self._reason = _FINISH_REASONS.get(reason, "stop")

    def _take_delta(self, delta: dict[str, Any]) -> None:
        content = delta.get("content")
        if len(delta) == 1 and isinstance(content, str):
            # As nearly all are.
            self._add_text("text", content)
            return
        # vLLM renamed reasoning_content to reasoning; some services send the same text under both names.
        reasoning = delta.get("reasoning") or delta.get("reasoning_content")
        if isinstance(reasoning, str) and reasoning:
            self._add_thought(reasoning)
        self._reasoned = self._reasoned or isinstance(delta.get("reasoning_content"), str)
        if isinstance(content, list):
            self._add_items(cast("list[Any]", content))
        elif content:
            self._add_text("text", content)
        self._add_text("refusal", delta.get("refusal"))
        for call in objects_in(delta.get("tool_calls")):
            self._add_call(call)
        function = delta.get("function_call")
        if isinstance(function, dict):
            self._add_call({"index": 0, "function": function})
        for name in SIGNED_LISTS:
            for item in objects_in(delta.get(name)):
                self._count(self._signed[name].add(item))
        if delta.get("annotations"):
            self._add_annotations(objects_in(delta["annotations"]))

    def _add_items(self, items: list[Any]) -> None:
        """Mistral's list content: text, and thinking that is itself a list of texts."""
        for item in items:
            text, thinking = inside(item, "text"), inside(item, "thinking")
            if isinstance(thinking, list):
                for thought in cast("list[Any]", thinking):
                    self._add_thought(inside(thought, "text"))
            elif thinking:
                self._add_thought(thinking)
            elif text:
                self._add_text("text", text)

    def _add_text(self, kind: Kind, text: Any) -> None:
        if not isinstance(text, str) or not text:
            return
        part = self._numbers.get(kind)
        if part is None:
            part = self._numbers[kind] = self._begin(kind)
        self._say(part, text)

    def _add_thought(self, text: Any) -> None:
        if isinstance(text, str):
            self._thoughts.append(text)
            self._add_text("reasoning", text)

    def _add_annotations(self, annotations: list[dict[str, Any]]) -> None:
        for annotation in annotations:
            source = annotation.get("url_citation")
            self._cite(
                url=inside(source, "url"),
                title=inside(source, "title"),
                start=inside(source, "start_index"),
                end=inside(source, "end_index"),
            )

    # --- tool calls -----------------------------------------------------------------------------------------------

    def _add_call(self, delta: dict[str, Any]) -> None:
        name, arguments = inside(delta, "function", "name"), inside(delta, "function", "arguments")
        call = self._call_of(delta, name)
        # Gemini signs its calls, and refuses one that comes back without its signature.
        if isinstance(delta.get("extra_content"), dict):
            call.extra = delta["extra_content"]
        if isinstance(arguments, dict | list):
            arguments = orjson.dumps(arguments).decode()
        text = arguments if isinstance(arguments, str) else ""
        if call.part is not None:
            self._say(call.part, text)
            return
        self._count(text)
        call.held += text
        if isinstance(name, str) and name:
            call.name = name
            call.part = self._begin_call(call.call, name, call.held)
            call.held = ""

    def _call_of(self, delta: dict[str, Any], name: Any) -> _Call:
        """The call that a delta goes on with, or a new one.

        An index says it best. But some services leave it out, or give every call index 0 and tell them apart by id or
        only by name, and others put a new random id on each piece; so another id counts only together with a name.
        """
        index, given = delta.get("index"), delta.get("id")
        given = given if isinstance(given, str) and given else None
        known = self._known_call(index if isinstance(index, int) else None, given)
        if known is not None and (given is not None or isinstance(index, int) or not name):
            another = name and known.name and (given not in (None, known.call) or name != known.name)
            if not another:
                known.call = given if given is not None and known.part is None else known.call
                return known
        if len(self._calls) >= self._calls_max:
            raise Failure("output_too_large", f"more than {self._calls_max} tool calls")
        call = _Call(index if isinstance(index, int) else None, given or f"{self._call_prefix}-{len(self._calls)}")
        self._calls.append(call)
        return call

    def _known_call(self, index: int | None, given: str | None) -> _Call | None:
        for call in reversed(self._calls):
            if call.call == given or (index is not None and call.index == index):
                return call
        return self._calls[-1] if self._calls and index is None else None

    # --- what the service wants back ------------------------------------------------------------------------------

    def _keep_all(self) -> None:
        """Put it on the parts: on the first one what belongs to the whole message."""
        for call in self._calls:
            if call.part is not None and call.extra:
                self._keep(call.part, extra_content=call.extra)
        thought = "".join(self._thoughts)
        for name, signed in self._signed.items():
            if signed.items and self._parts:
                self._keep(0, **{name: signed.state(thought)})
        if self._returns_reasoning and self._reasoned and self._calls:
            for number, part in enumerate(self._parts):
                if part.kind in ("reasoning", "tool_call"):
                    self._keep(number, reasoning=True)

    # --- the end --------------------------------------------------------------------------------------------------

    def _take_done(self) -> None:
        if self._reason is None and not self._parts:
            raise Failure("truncated", "the stream ended without a finish reason and without content")
        self._finish(self._reason or "stop")

    def _finish(self, reason: FinishReason) -> None:
        if any(call.part is None for call in self._calls):
            raise Failure("malformed", "a tool call without a name")
        self._keep_all()
        super()._finish(reason)


def _usage_of(usage: dict[str, Any]) -> UsageReport:
    cached = inside(usage, "prompt_tokens_details", "cached_tokens")
    for name in ("prompt_cache_hit_tokens", "cached_tokens"):  # DeepSeek, Together
        cached = usage.get(name) if cached is None else cached
    return UsageReport(
        tokens(usage.get("prompt_tokens")) or 0,
        tokens(usage.get("completion_tokens")) or 0,
        tokens(cached),
        tokens(inside(usage, "completion_tokens_details", "reasoning_tokens")),
    )
