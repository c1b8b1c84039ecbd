"""Bytes of a `text/event-stream` become events, as far as they have come.

Pure: no I/O, no clock. Wherever the bytes are cut, the same events come out. The format is the HTML standard's
(section 9.2.6 "Interpreting an event stream"), with two liberties that language-model services need: an event whose
blank line is missing at the end of the stream still counts, and a field called `error` is not dropped but becomes an
event of that name. `id` and `retry` mean nothing here.

Lines are found in whole chunks rather than byte by byte, and are decoded one at a time. That is the same as decoding
the stream: no line end can be inside a character of UTF-8, also not of a broken one.
"""

from collections.abc import Iterator
from typing import Final

from turnwire.ports import Failure

LINE_BYTES_MAX: Final = 1_048_576
EVENT_BYTES_MAX: Final = 1_048_576

_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"


ServerSentEvent = tuple[str, str]
"""Name (`message` unless the stream said otherwise) and data (never empty, broken UTF-8 replaced by U+FFFD)."""


class EventDecoder:
    """One stream. Feed it every chunk, and call `end` once when no more will come."""

    def __init__(self, *, line_bytes_max: int = LINE_BYTES_MAX, event_bytes_max: int = EVENT_BYTES_MAX) -> None:
        self._line_bytes_max = line_bytes_max
        self._event_bytes_max = event_bytes_max
        self._pieces: list[bytes] = []
        """The line that has not ended yet, as it came: joined once, so that tiny chunks cost no copies."""
        self._pieces_bytes = 0
        self._begun = False
        self._after_cr = False
        self._name = "message"
        self._data: list[bytes] = []
        self._data_bytes = 0

    def feed(self, chunk: bytes) -> Iterator[ServerSentEvent]:
        """The events that `chunk` completes. Must be used up before the next call.

        Raises Failure("malformed") at a line or an event over its maximum, after the events before it.
        """
        if self._after_cr or b"\r" in chunk:
            chunk = self._with_plain_line_ends(chunk)
        lines = chunk.split(b"\n")
        rest = lines.pop()
        if lines and self._pieces:
            lines[0] = b"".join([*self._pieces, lines[0]])
            self._pieces.clear()
            self._pieces_bytes = 0
        for line in lines:
            if line:
                self._take(line)
            else:
                event = self._dispatch()
                if event is not None:
                    yield event
        if rest:
            self._pieces.append(rest)
            self._pieces_bytes += len(rest)
            self._check_line(self._pieces_bytes)

    def end(self) -> Iterator[ServerSentEvent]:
        """The event that the stream ended in the middle of, if there is anything of one."""
        line = b"".join(self._pieces)
        self._pieces.clear()
        if line:
            self._take(line)
        event = self._dispatch()
        if event is not None:
            yield event

    def _with_plain_line_ends(self, chunk: bytes) -> bytes:
        """Every CR LF and CR as LF. A CR counts at once; should its LF come with the next chunk, that is dropped."""
        if self._after_cr and chunk:
            chunk = chunk.removeprefix(b"\n")
            self._after_cr = False
        self._after_cr = self._after_cr or chunk.endswith(b"\r")
        return chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _take(self, line: bytes) -> None:
        """A line that is not blank."""
        self._check_line(len(line))
        if not self._begun:
            self._begun = True
            line = line.removeprefix(_BYTE_ORDER_MARK)
        if line.startswith(b"data: "):
            self._add(line[6:])
            return
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._add(value)
        elif name == b"event":
            self._name = value.decode("utf-8", "replace")
        elif name == b"error":
            # llama.cpp before September 2025: the line says that the stream failed, and how, in JSON.
            self._name = "error"
            self._add(value)

    def _add(self, value: bytes) -> None:
        self._data.append(value)
        self._data_bytes += len(value) + 1
        if self._data_bytes > self._event_bytes_max:
            raise Failure("malformed", f"an event of more than {self._event_bytes_max} bytes")

    def _dispatch(self) -> ServerSentEvent | None:
        self._begun = True
        if not self._data:
            self._name = "message"
            return None
        data = self._data[0] if len(self._data) == 1 else b"\n".join(self._data)
        event = self._name, data.decode("utf-8", "replace")
        self._name = "message"
        self._data.clear()
        self._data_bytes = 0
        return event if event[1] else None

    def _check_line(self, line_bytes: int) -> None:
        if line_bytes > self._line_bytes_max:
            raise Failure("malformed", f"a line of more than {self._line_bytes_max} bytes")
