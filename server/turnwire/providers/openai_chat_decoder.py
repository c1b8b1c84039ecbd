"""The stream of an OpenAI-compatible chat completion becomes provider events.

Pure: bytes in, events out, equal wherever the bytes are cut. It speaks every dialect at once, because services differ
from each other, from their own documentation and from last month: choices that are missing, null or empty, content as
a string or a list, reasoning under two names, tool calls without an index, errors inside a 200. What it does not know
it ignores, except an end that was not proved: that is a failure.

Parts are numbered by their first appearance. Their last deltas come at the very end, because only there is it known
that a part gets no more; they are empty, so nothing waits for them.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

import orjson

from turnwire.core.entries import Content, Finish, ProviderEvent, UsageReport
from turnwire.core.errors import FailureKind
from turnwire.ports import Failure
from turnwire.providers.sse import EventDecoder, ServerSentEvent
from turnwire.providers.upstream_errors import failure_of_error
from turnwire_protocol.limits import INTEGER_MAX, NAME_CHARS_MAX
from turnwire_protocol.values import FinishReason, Kind

OUTPUT_BYTES_MAX: Final = 8 * 1024 * 1024
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
    "error": "upstream_failed",  # OpenRouter, Mistral
    "abort": "truncated",  # vLLM
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


class OpenAIChatDecoder:
    """One response body.

    Feed it every chunk and call `end` at the end of the body. `failure` is set when the stream cannot be gone on with;
    the events returned so far still count. `over` is set behind the Finish. `proved` means that only usage and the
    protocol's own end can be missing: a connection that breaks now has lost no answer.
    """

    def __init__(
        self, *, call_prefix: str = "call", output_bytes_max: int = OUTPUT_BYTES_MAX, calls_max: int = CALLS_MAX
    ) -> None:
        """`call_prefix` begins the ids of tool calls to which the service gave none."""
        self.failure: Failure | None = None
        self.over = False
        self._frames = EventDecoder()
        self._call_prefix = call_prefix
        self._output_bytes_left = output_bytes_max
        self._calls_max = calls_max
        self._reason: FinishReason | None = None
        self._parts: list[Kind] = []
        self._numbers: dict[Kind, int] = {}
        self._calls: list[_Call] = []
        self._at_end = False

    @property
    def proved(self) -> bool:
        return self._reason is not None

    def feed(self, chunk: bytes) -> list[ProviderEvent]:
        """The events that `chunk` completes."""
        return self._decode(self._frames.feed(chunk))

    def end(self) -> list[ProviderEvent]:
        """What remains at the end of the body: the Finish, or a failure because the answer was cut."""
        self._at_end = True
        events = self._decode(self._frames.end())
        if not self.over and self.failure is None:
            if self._reason is None:
                self.failure = Failure("truncated", "the stream ended without a finish reason")
            else:
                self._finish(self._reason, events)
        return events

    def _decode(self, frames: Iterable[ServerSentEvent]) -> list[ProviderEvent]:
        events: list[ProviderEvent] = []
        try:
            for frame in frames:
                if self.over or self.failure is not None:
                    break
                self._take(frame, events)
        except Failure as failure:
            self.failure = failure
        return events

    # --- one frame ------------------------------------------------------------------------------------------------

    def _take(self, frame: ServerSentEvent, events: list[ProviderEvent]) -> None:
        name, data = frame
        if data.startswith("[DONE]"):
            self._done(events)
            return
        value = self._parsed(data)
        if value is None:
            return
        _refuse_errors(name, value)
        choices = value.get("choices")
        if isinstance(choices, list):
            for choice in cast("list[Any]", choices):
                if isinstance(choice, dict):
                    self._take_choice(cast("dict[str, Any]", choice), events)
        usage = value.get("usage") or _inside(value.get("x_groq"), "usage")
        if isinstance(usage, dict):
            events.append(_usage_of(cast("dict[str, Any]", usage)))

    def _parsed(self, data: str) -> dict[str, Any] | None:
        """The frame's object; None for what is left of one that was cut by the end of the body."""
        try:
            value: Any = orjson.loads(data)
        except orjson.JSONDecodeError:
            value = _parsed_with_repair(data)
        if isinstance(value, dict):
            return cast("dict[str, Any]", value)
        if self._at_end:
            return None
        raise Failure("malformed", "a frame that is no JSON object")

    def _take_choice(self, choice: dict[str, Any], events: list[ProviderEvent]) -> None:
        if choice.get("index"):
            # One answer beside the first, which is the turn's.
            return
        delta = choice.get("delta")
        if isinstance(delta, dict):
            self._take_delta(cast("dict[str, Any]", delta), events)
        reason = choice.get("finish_reason")
        if isinstance(reason, str) and reason:
            failed = _FAILED_REASONS.get(reason)
            if failed is not None:
                raise Failure(failed, f"finish reason {reason}")
            self._reason = _FINISH_REASONS.get(reason.lower(), "stop")

    def _take_delta(self, delta: dict[str, Any], events: list[ProviderEvent]) -> None:
        # vLLM renamed reasoning_content to reasoning; some services send the same text under both names.
        reasoning = delta.get("reasoning") or delta.get("reasoning_content")
        if reasoning:
            self._add_text("reasoning", reasoning, events)
        content = delta.get("content")
        if isinstance(content, list):
            self._add_items(cast("list[Any]", content), events)
        elif content:
            self._add_text("text", content, events)
        refusal = delta.get("refusal")
        if refusal:
            self._add_text("refusal", refusal, events)
        calls = delta.get("tool_calls")
        if isinstance(calls, list):
            for call in cast("list[Any]", calls):
                if isinstance(call, dict):
                    self._add_call(cast("dict[str, Any]", call), events)
        function = delta.get("function_call")
        if isinstance(function, dict):
            self._add_call({"index": 0, "function": function}, events)

    def _add_items(self, items: list[Any], events: list[ProviderEvent]) -> None:
        """Mistral's list content: text, and thinking that is itself a list of texts."""
        for item in items:
            text, thinking = _inside(item, "text"), _inside(item, "thinking")
            if isinstance(thinking, list):
                for thought in cast("list[Any]", thinking):
                    self._add_text("reasoning", _inside(thought, "text"), events)
            elif thinking:
                self._add_text("reasoning", thinking, events)
            elif text:
                self._add_text("text", text, events)

    def _add_text(self, kind: Kind, text: Any, events: list[ProviderEvent]) -> None:
        if not isinstance(text, str) or not text:
            return
        part = self._numbers.get(kind)
        if part is None:
            part = self._numbers[kind] = self._new_part(kind)
        self._count(text)
        events.append(Content(part, kind, text))

    # --- tool calls -----------------------------------------------------------------------------------------------

    def _add_call(self, delta: dict[str, Any], events: list[ProviderEvent]) -> None:
        name, arguments = _inside(delta, "function", "name"), _inside(delta, "function", "arguments")
        call = self._call_of(delta, name)
        if isinstance(arguments, dict | list):
            arguments = orjson.dumps(arguments).decode()
        text = arguments if isinstance(arguments, str) else ""
        self._count(text)
        if call.part is not None:
            if text:
                events.append(Content(call.part, "tool_call", text))
            return
        call.held += text
        if isinstance(name, str) and name:
            if len(name) > NAME_CHARS_MAX or len(call.call) > NAME_CHARS_MAX:
                raise Failure("malformed", f"a tool call's name or id of more than {NAME_CHARS_MAX} characters")
            call.name = name
            call.part = self._new_part("tool_call")
            events.append(Content(call.part, "tool_call", call.held, call.call, name))
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

    # --- the end --------------------------------------------------------------------------------------------------

    def _done(self, events: list[ProviderEvent]) -> None:
        if self._reason is None and not self._parts:
            raise Failure("truncated", "the stream ended without a finish reason and without content")
        self._finish(self._reason or "stop", events)

    def _finish(self, reason: FinishReason, events: list[ProviderEvent]) -> None:
        if any(call.part is None for call in self._calls):
            self.failure = Failure("malformed", "a tool call without a name")
            return
        # Gemini's compatible endpoint says stop also where it calls tools.
        if reason == "stop" and self._calls:
            reason = "tool_calls"
        events.extend(Content(number, kind, "", last=True) for number, kind in enumerate(self._parts))
        events.append(Finish(reason))
        self.over = True

    def _new_part(self, kind: Kind) -> int:
        self._parts.append(kind)
        return len(self._parts) - 1

    def _count(self, text: str) -> None:
        self._output_bytes_left -= len(text) if text.isascii() else len(text.encode())
        if self._output_bytes_left < 0:
            raise Failure("output_too_large", "the service sent more than allowed")


def _parsed_with_repair(data: str) -> Any:
    """JSON with escapes that are half a character (\\ud800): U+FFFD takes their place. None if it is no JSON."""
    try:
        text = json.dumps(json.loads(data), ensure_ascii=False)
        return orjson.loads(text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace"))
    except (ValueError, RecursionError):
        return None


def _refuse_errors(name: str, value: dict[str, Any]) -> None:
    error = value.get("error")
    if error:
        raise failure_of_error(error)
    if name == "error" or value.get("object") == "error":
        raise failure_of_error(value)
    error = _inside(value.get("x_groq"), "error")
    if error:
        raise failure_of_error(error)


def _usage_of(usage: dict[str, Any]) -> UsageReport:
    cached = _inside(usage, "prompt_tokens_details", "cached_tokens")
    return UsageReport(
        _tokens(usage.get("prompt_tokens")) or 0,
        _tokens(usage.get("completion_tokens")) or 0,
        _tokens(usage.get("prompt_cache_hit_tokens") if cached is None else cached),
        _tokens(_inside(usage, "completion_tokens_details", "reasoning_tokens")),
    )


def _tokens(value: Any) -> int | None:
    return value if isinstance(value, int) and 0 <= value <= INTEGER_MAX else None


def _inside(value: Any, *keys: str) -> Any:
    """What stands at a path of keys; None where anything on the way is missing or of another shape."""
    for key in keys:
        if not isinstance(value, dict):
            return None
        value = cast("dict[str, Any]", value).get(key)
    return value
