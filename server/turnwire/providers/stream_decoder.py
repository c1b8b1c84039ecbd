"""What the decoders of all APIs share: frames become objects, parts are numbered, sizes are bounded, the end is proved.

Pure: bytes in, events out, equal wherever the bytes are cut. A subclass says what one frame of its API means. Whatever
the API, an error is looked for first in each frame, what nobody knows is ignored, broken text is repaired, and a body
that ends without proof is a failure, never a finish.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final, cast

import orjson

from turnwire.core.entries import Content, Finish, ProviderEvent, UsageReport
from turnwire.ports import Failure
from turnwire.providers.opaque import packed
from turnwire.providers.sse import EVENT_BYTES_MAX, EventDecoder, ServerSentEvent
from turnwire.providers.upstream_errors import failure_of_error
from turnwire_protocol.limits import INTEGER_MAX, NAME_CHARS_MAX
from turnwire_protocol.values import FinishReason, Kind

OUTPUT_BYTES_MAX: Final = 8 * 1024 * 1024
PARTS_MAX: Final = 256
DONE: Final = "[DONE]"
"""The end, for the APIs that have it; elsewhere a gateway adds it, and it proves nothing."""

CITATIONS_MAX: Final = 64
"""More are left out: they are no part of the answer."""


@dataclass(slots=True)
class _Part:
    kind: Kind
    said: bool = False
    closed: bool = False
    state: dict[str, Any] = field(default_factory=dict[str, Any])


class StreamDecoder(ABC):
    """One response body.

    Feed it every chunk and call `end` at the end of the body. `failure` is set when the stream cannot be gone on with;
    the events returned so far still count. `over` is set behind the Finish. `proved` means that only usage and the
    protocol's own end can be missing: a connection that breaks now has lost no answer.
    """

    def __init__(
        self,
        *,
        maker: str = "",
        call_prefix: str = "call",
        output_bytes_max: int = OUTPUT_BYTES_MAX,
        parts_max: int = PARTS_MAX,
        event_bytes_max: int = EVENT_BYTES_MAX,
    ) -> None:
        """`maker` signs opaque state (opaque.py); `call_prefix` begins the ids of tool calls that the service gave
        none."""
        self.failure: Failure | None = None
        self.over = False
        self._reason: FinishReason | None = None
        self._maker = maker
        self._call_prefix = call_prefix
        self._citations_left = CITATIONS_MAX
        self._output_bytes_left = output_bytes_max
        self._parts_max = parts_max
        self._parts: list[_Part] = []
        self._hidden: list[dict[str, Any]] = []
        self._frames = EventDecoder(line_bytes_max=event_bytes_max, event_bytes_max=event_bytes_max)
        self._events: list[ProviderEvent] = []
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
        return self._decode(self._frames.end())

    def _decode(self, frames: Iterable[ServerSentEvent]) -> list[ProviderEvent]:
        events = self._events = []
        if self.over or self.failure is not None:
            return events
        try:
            for name, data in frames:
                self._take_frame(name, data)
                if self.over:
                    return events
            if self._at_end:
                self._end_of_body()
        except Failure as failure:
            self.failure = failure
        return events

    def _end_of_body(self) -> None:
        if self._reason is None:
            raise Failure("truncated", "the stream ended without a finish reason")
        self._finish(self._reason)

    # --- one frame ------------------------------------------------------------------------------------------------

    def _take_frame(self, name: str, data: str) -> None:
        if data.startswith(DONE):
            self._take(DONE, {})
            return
        value = self._parsed(data)
        if value is None:
            return
        error = value.get("error")
        if error:
            raise failure_of_error(error)
        if name == "error" or value.get("type") == "error" or value.get("object") == "error":
            raise failure_of_error(value)
        self._take(name, value)

    @abstractmethod
    def _take(self, name: str, value: dict[str, Any]) -> None:
        """One frame that is no error: the SSE event's name and its object. The frame `[DONE]` has that name."""

    def _parsed(self, data: str) -> dict[str, Any] | None:
        """The frame's object; None for what is left of one that was cut by the end of the body."""
        try:
            value: Any = orjson.loads(data)
        except orjson.JSONDecodeError:
            value = _parsed_with_repair(data)
        if isinstance(value, list) and value:
            # Gemini's errors are objects in a list.
            value = cast("list[Any]", value)[0]
            value = value if inside(value, "error") else None
        if isinstance(value, dict):
            return cast("dict[str, Any]", value)
        if self._at_end:
            return None
        raise Failure("malformed", "a frame that is no JSON object")

    # --- parts ----------------------------------------------------------------------------------------------------

    def _begin(self, kind: Kind) -> int:
        """A new part. Nothing is said of it yet."""
        if len(self._parts) >= self._parts_max:
            raise Failure("output_too_large", f"more than {self._parts_max} parts")
        part = _Part(kind)
        if self._hidden:
            part.state["before"], self._hidden = self._hidden, []
        self._parts.append(part)
        return len(self._parts) - 1

    def _begin_call(self, call: Any, name: Any, text: str = "") -> int:
        """A new tool call whose name is known, with as much of its arguments as there is."""
        if not isinstance(name, str) or not name:
            raise Failure("malformed", "a tool call without a name")
        call = call if isinstance(call, str) and call else f"{self._call_prefix}-{len(self._parts)}"
        if len(name) > NAME_CHARS_MAX or len(call) > NAME_CHARS_MAX:
            raise Failure("malformed", f"a tool call's name or id of more than {NAME_CHARS_MAX} characters")
        part = self._begin("tool_call")
        self._parts[part].said = bool(text)
        self._events.append(Content(part, "tool_call", text, call, name))
        return part

    def _say(self, number: int, text: Any) -> None:
        """A piece of a part. What is no text, or empty, says nothing."""
        if not isinstance(text, str) or not text:
            return
        part = self._parts[number]
        if part.closed:
            raise Failure("malformed", "a piece of a part that had ended")
        self._count(text)
        part.said = True
        self._events.append(Content(number, part.kind, text))

    def _keep(self, number: int, **state: Any) -> None:
        """State of a part that the service wants back."""
        self._parts[number].state |= state

    def _hide(self, state: dict[str, Any]) -> None:
        """What the service wants back and there is nothing to show of: kept with the part that comes next."""
        self._count(orjson.dumps(state).decode())
        self._hidden.append(state)

    def _close(self, number: int) -> None:
        """A part gets no more. A call without arguments waits for the finish, which tells whether it is whole."""
        part = self._parts[number]
        if part.said or part.kind != "tool_call":
            self._say_last(number, "")

    def _say_last(self, number: int, text: str) -> None:
        part = self._parts[number]
        if part.closed:
            return
        part.closed = True
        opaque = packed(self._maker, part.state)
        if opaque is not None:
            self._count(opaque)
        self._events.append(Content(number, part.kind, text, last=True, opaque=opaque))

    def _cite(self, **fields: Any) -> None:
        """A source, as a part of its own; unknown fields are None, and nothing known is no source."""
        known = {name: value for name, value in fields.items() if isinstance(value, str | int) and value != ""}
        if self._citations_left == 0 or not {"url", "title", "text"} & known.keys():
            return
        self._citations_left -= 1
        number = self._begin("data")
        text = orjson.dumps(known).decode()
        self._count(text)
        self._parts[number].closed = True
        self._events.append(Content(number, "data", text, name="citation", last=True))

    def _count(self, text: str) -> None:
        self._output_bytes_left -= len(text) if text.isascii() else len(text.encode())
        if self._output_bytes_left < 0:
            raise Failure("output_too_large", "the service sent more than allowed")

    # --- the end --------------------------------------------------------------------------------------------------

    def _used(self, report: UsageReport) -> None:
        self._events.append(report)

    def _finish(self, reason: FinishReason) -> None:
        """The answer is whole, or as whole as `reason` says."""
        # Gemini's compatible endpoint says stop also where it calls tools, and the Responses API has no word for it.
        if reason == "stop" and any(part.kind == "tool_call" for part in self._parts):
            reason = "tool_calls"
        for number, part in enumerate(self._parts):
            whole_call = part.kind == "tool_call" and not part.said and reason in ("stop", "tool_calls")
            self._say_last(number, "{}" if whole_call else "")
        self._events.append(Finish(reason))
        self.over = True


def inside(value: Any, *keys: str) -> Any:
    """What stands at a path of keys; None where anything on the way is missing or of another shape."""
    for key in keys:
        if not isinstance(value, dict):
            return None
        value = cast("dict[str, Any]", value).get(key)
    return value


def objects_in(value: Any) -> list[dict[str, Any]]:
    """The objects of a list; none where it is no list."""
    items = cast("list[Any]", value) if isinstance(value, list) else []
    return [cast("dict[str, Any]", item) for item in items if isinstance(item, dict)]


def place_of(value: Any) -> int | str | None:
    """An index or an id, if it is one."""
    return value if isinstance(value, int | str) else None


def tokens(value: Any) -> int | None:
    """A count of tokens, if it is one."""
    return value if isinstance(value, int) and 0 <= value <= INTEGER_MAX else None


def _parsed_with_repair(data: str) -> Any:
    """JSON with escapes that are half a character (\\ud800): U+FFFD takes their place. None if it is no JSON."""
    try:
        text = json.dumps(json.loads(data), ensure_ascii=False)
        return orjson.loads(text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace"))
    except (ValueError, RecursionError):
        return None
