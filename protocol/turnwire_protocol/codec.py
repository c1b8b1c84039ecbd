"""Frames to bytes and back, in JSON and msgpack, with limits.

Decoding is strict, because what comes in is hostile until it is proved: bounded size, depth and count; string keys
only, none of them twice; no NaN, no infinity, no integer that JavaScript could not hold; no lone surrogate, which
Python's own JSON parser lets through and which would blow up later in whoever encodes it again. Encoding is fast,
because it runs once for every piece of an answer.

A codec holds no state. Every decode makes its parser anew: a parser that met bad bytes is not used again.
"""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, cast

import msgpack
import orjson
from pydantic import TypeAdapter, ValidationError

from turnwire_protocol import bounds, limits
from turnwire_protocol.codes import CloseCode, ErrorCode
from turnwire_protocol.commands import COMMAND_TYPES, AnyCommand
from turnwire_protocol.events import Frame
from turnwire_protocol.values import Id

_command_adapter: TypeAdapter[AnyCommand] = TypeAdapter(AnyCommand)
_id_adapter: TypeAdapter[str] = TypeAdapter(Id)
# msgpack has no types of its own.
_pack = cast("Callable[[Any], bytes]", msgpack.packb)  # pyright: ignore[reportUnknownMemberType] - msgpack has no types
_unpack = cast("Callable[..., Any]", msgpack.unpackb)  # pyright: ignore[reportUnknownMemberType] - msgpack has no types


class FrameRefused(Exception):
    """An incoming frame that cannot be carried out.

    `reply_to` is the command's id where one could be read. `close` is the code to close with, or None when the
    connection can go on: the frame was an object, just not a valid command.
    """

    def __init__(
        self, code: ErrorCode, message: str, *, reply_to: str | None = None, close: CloseCode | None = None
    ) -> None:
        super().__init__(message)
        self.code: ErrorCode = code
        self.message = message
        self.reply_to = reply_to
        self.close = close


@dataclass(frozen=True, slots=True)
class Codec:
    """One encoding of frames; compare by identity with JSON and MSGPACK below."""

    subprotocol: str
    binary: bool
    """Whether frames travel as binary WebSocket messages (RFC 6455 opcode 2) rather than text."""
    encode: Callable[[Frame], bytes]
    """A frame's bytes. Raises TypeError on a value that the wire does not know."""
    parse: Callable[[bytes], Any]
    """Any value from bytes. Raises ValueError with a reason fit for the sender."""

    def decode_object(self, data: bytes | str, bytes_max: int = limits.COMMAND_BYTES_MAX) -> dict[str, Any]:
        """The frame as a checked object of plain values. Raises FrameRefused, always with a close code."""
        if isinstance(data, str) is self.binary:
            raise FrameRefused(
                "bad_frame",
                f"{self.subprotocol} takes {'binary' if self.binary else 'text'} messages",
                close=CloseCode.BAD_FRAME,
            )
        try:
            raw = data.encode() if isinstance(data, str) else data
        except UnicodeEncodeError:
            raise FrameRefused("bad_frame", "a string holds a lone surrogate", close=CloseCode.BAD_FRAME) from None
        if len(raw) > bytes_max:
            raise FrameRefused(
                "too_large", f"the frame has {len(raw)} bytes, {bytes_max} are allowed", close=CloseCode.TOO_LARGE
            )
        try:
            value = self.parse(raw)
            check_value(value)
        except ValueError as error:
            raise FrameRefused("bad_frame", str(error), close=CloseCode.BAD_FRAME) from None
        if not isinstance(value, dict):
            raise FrameRefused("bad_frame", "a frame must be an object", close=CloseCode.BAD_FRAME)
        return cast("dict[str, Any]", value)

    def decode_command(self, data: bytes | str, bytes_max: int = limits.COMMAND_BYTES_MAX) -> AnyCommand:
        """The command in `data`. Raises FrameRefused; `close` tells whether the connection can go on."""
        return validate_command(self.decode_object(data, bytes_max))


def validate_command(value: dict[str, Any]) -> AnyCommand:
    """The command in an object that came over a WebSocket or in an HTTP body. Raises FrameRefused without `close`."""
    try:
        reply_to = _id_adapter.validate_python(value.get("id"), strict=True)
    except ValidationError:
        reply_to = None
    kind = value.get("type")
    if not isinstance(kind, str):
        raise FrameRefused("bad_frame", "type is missing or no string", reply_to=reply_to)
    if kind not in COMMAND_TYPES:
        raise FrameRefused("unsupported", f"no command is called {printable(kind)}", reply_to=reply_to)
    try:
        return _command_adapter.validate_python(value)
    except ValidationError as error:
        raise FrameRefused("bad_frame", _reason(kind, error), reply_to=reply_to) from None


def _reason(kind: str, error: ValidationError) -> str:
    """The first fault, by field. What the sender wrote is not repeated: it may be private, and it may be long."""
    fault = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where = ".".join(str(step) for step in fault["loc"][1:])
    what = fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "union_tag_invalid":  # whose text quotes the tag
        what = "its type is none of those that are known here"
    return f"{kind}{': ' + printable(where) if where else ''}: {what}"[:400]


def printable(text: str, chars_max: int = 64) -> str:
    """A stranger's text made fit for a message: ASCII, at most `chars_max` characters, no control characters."""
    return ascii(text[:chars_max])[1:-1][:chars_max]


def check_value(value: Any) -> None:
    """Refuse what not every client could hold. Raises ValueError with a reason fit for the sender.

    Walks without recursion, so that depth costs no stack.
    """
    items = 0
    waiting: list[tuple[Any, int]] = [(value, 1)]
    while waiting:
        current, depth = waiting.pop()
        items += 1
        if isinstance(current, dict | list):
            if depth > limits.VALUE_DEPTH_MAX:
                raise ValueError(f"nested deeper than {limits.VALUE_DEPTH_MAX} levels")
            if isinstance(current, dict):
                children = _checked_values(cast("dict[Any, Any]", current))
            else:
                children = cast("list[Any]", current)
            if items + len(waiting) + len(children) > limits.VALUE_ITEMS_MAX:
                raise ValueError(f"the frame holds more than {limits.VALUE_ITEMS_MAX} values")
            waiting.extend((child, depth + 1) for child in children)
        else:
            _check_scalar(current)


def _checked_values(value: dict[Any, Any]) -> list[Any]:
    if len(value) > limits.VALUE_KEYS_MAX:
        raise ValueError(f"an object has {len(value)} keys, {limits.VALUE_KEYS_MAX} are allowed")
    for key in value:
        if not isinstance(key, str):
            raise ValueError("an object's keys must be strings")
        _check_scalar(key)
    return list(value.values())


def _check_scalar(value: Any) -> None:
    if value is None or isinstance(value, bool):
        return
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ValueError("a string holds a lone surrogate") from None
        return
    if isinstance(value, int | float):
        if not math.isfinite(value):
            raise ValueError("a number is not finite")
        # Floats too: JavaScript writes 1e20 as an integer in JSON and as a float in msgpack, and a frame that is legal
        # in one codec must be legal in the other.
        if abs(value) > limits.INTEGER_MAX:
            raise ValueError("a number is beyond 2^53 - 1")
        return
    raise ValueError(f"a value of type {type(value).__name__} cannot travel")


def _encode_json(frame: Frame) -> bytes:
    return orjson.dumps(frame)


def _parse_json(data: bytes) -> Any:
    bounds.check_json(data)
    # The standard library's parser, though slower, is the one that can be told to refuse doubled keys and NaN.
    try:
        return json.loads(
            data.decode(), object_pairs_hook=_unique_pairs, parse_int=_bounded_int, parse_constant=_refuse_constant
        )
    except UnicodeDecodeError:
        raise ValueError("the text is not UTF-8") from None
    except RecursionError:
        raise ValueError(f"nested deeper than {limits.VALUE_DEPTH_MAX} levels") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} at character {error.pos}") from None


def _unique_pairs(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("an object has a key twice")
    return value


def _bounded_int(digits: str) -> int:
    # Reading digits takes time quadratic in their number, and Python itself stops at 4300 with words of its own.
    if len(digits) > len(str(-limits.INTEGER_MAX)):
        raise ValueError("a number is beyond 2^53 - 1")
    return int(digits)


def _refuse_constant(_name: str) -> Any:
    raise ValueError("a number is not finite")


def _encode_msgpack(frame: Frame) -> bytes:
    try:
        return _pack(frame)
    except (OverflowError, ValueError) as error:
        raise TypeError(str(error)) from error


def _parse_msgpack(data: bytes) -> Any:
    bounds.check_msgpack(data)
    try:
        # check_value refuses other keys than strings, with a clearer reason.
        return _unpack(data, object_pairs_hook=_unique_pairs, strict_map_key=False)
    except UnicodeDecodeError:
        raise ValueError("a string is not UTF-8") from None
    except TypeError:  # a key that is an array or a map
        raise ValueError("an object's keys must be strings") from None


JSON: Final = Codec(limits.SUBPROTOCOL_JSON, False, _encode_json, _parse_json)
MSGPACK: Final = Codec(limits.SUBPROTOCOL_MSGPACK, True, _encode_msgpack, _parse_msgpack)
CODECS: Final = {codec.subprotocol: codec for codec in (JSON, MSGPACK)}
