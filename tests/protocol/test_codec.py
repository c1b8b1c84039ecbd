"""What is legal goes through both codecs unchanged, and what they write is what the other side reads."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.protocol.generated import COMMANDS, EVENTS, commands, create, events, json_values, properly, thoroughly
from turnwire_protocol import limits
from turnwire_protocol.codec import CODECS, JSON, MSGPACK, Codec, FrameRefused, check_value, printable, validate_command
from turnwire_protocol.commands import COMMAND_TYPES, TurnCreate
from turnwire_protocol.events import NUMBERED_TYPES, TERMINAL_TYPES
from turnwire_protocol.fingerprint import digest_of
from turnwire_protocol.grammar import check_shape


def sent(codec: Codec, frame: dict[str, Any]) -> bytes | str:
    """The message that a WebSocket would carry."""
    return codec.encode(frame) if codec.binary else codec.encode(frame).decode()


@thoroughly
@given(commands)
def test_every_command_means_the_same_in_both_codecs(frame: dict[str, Any]) -> None:
    in_json = JSON.decode_command(sent(JSON, frame))
    in_msgpack = MSGPACK.decode_command(sent(MSGPACK, frame))

    assert in_json == in_msgpack == validate_command(frame)
    assert in_json.model_fields_set == in_msgpack.model_fields_set == set(frame)
    if isinstance(in_json, TurnCreate) and isinstance(in_msgpack, TurnCreate):
        assert digest_of(in_json) == digest_of(in_msgpack)


@thoroughly
@given(events)
def test_every_server_frame_goes_through_both_codecs_unchanged(frame: dict[str, Any]) -> None:
    check_shape(frame)
    for codec in CODECS.values():
        assert codec.decode_object(sent(codec, frame), bytes_max=10**9) == frame


@properly
@given(json_values)
def test_a_value_is_legal_in_both_codecs_or_in_neither(value: Any) -> None:
    for codec in CODECS.values():
        assert codec.decode_object(sent(codec, {"value": value})) == {"value": value}


def test_every_type_of_frame_is_generated() -> None:
    assert set(COMMANDS) == COMMAND_TYPES
    assert NUMBERED_TYPES | TERMINAL_TYPES < set(EVENTS)


def test_a_browsers_way_to_write_a_frame_is_read() -> None:
    """JSON.stringify leaves no spaces and no escapes but those it must; other languages write both."""
    spaced = '{ "type" : "ping",\n\t"id" : "\\u0061\\u002d1" }'
    assert JSON.decode_command(spaced) == JSON.decode_command('{"type":"ping","id":"a-1"}')
    assert JSON.decode_command('{"type":"hello","client":{"name":"\\ud83d\\ude00","version":"1"}}')


@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
def test_a_frame_of_the_largest_size_is_read_and_one_byte_more_is_not(codec: Codec) -> None:
    frame = create(input=[{"type": "text", "text": "x" * 1000}])
    message = sent(codec, frame)

    assert codec.decode_object(message, bytes_max=len(message)) == frame
    with pytest.raises(FrameRefused, match=f"has {len(message)} bytes, {len(message) - 1} are allowed"):
        codec.decode_object(message, bytes_max=len(message) - 1)


@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
def test_a_long_text_full_of_marks_is_no_frame_of_many_values(codec: Codec) -> None:
    text = ',[{"\\' * 60_000
    frame = create(input=[{"type": "text", "text": text}])
    assert codec.decode_object(sent(codec, frame)) == frame


@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
def test_as_many_values_as_allowed_are_read_and_one_more_is_not(codec: Codec) -> None:
    def holding(count: int) -> dict[str, Any]:
        return {"list": [0] * (count - 2)}

    assert codec.decode_object(sent(codec, holding(limits.VALUE_ITEMS_MAX)))
    with pytest.raises(FrameRefused, match="more than 10000 values"):
        codec.decode_object(sent(codec, holding(limits.VALUE_ITEMS_MAX + 1)))


@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
def test_as_deep_as_allowed_is_read_and_one_level_more_is_not(codec: Codec) -> None:
    def nested(levels: int) -> dict[str, Any]:
        value: Any = 0
        for _ in range(levels - 1):
            value = [value]
        return {"value": value}

    assert codec.decode_object(sent(codec, nested(limits.VALUE_DEPTH_MAX)))
    with pytest.raises(FrameRefused, match="deeper than 32"):
        codec.decode_object(sent(codec, nested(limits.VALUE_DEPTH_MAX + 1)))


@pytest.mark.parametrize(
    "number", [limits.INTEGER_MAX, -limits.INTEGER_MAX, 0, -0.0, 0.1, 5e-324, 1e15], ids=lambda number: repr(number)
)
def test_a_number_within_the_limits_is_read_exactly(number: float) -> None:
    for codec in CODECS.values():
        read = codec.decode_object(sent(codec, {"number": number}))["number"]
        assert read == number
        assert math.copysign(1, read) == math.copysign(1, number)


def test_every_type_of_msgpack_that_json_has_too_is_read() -> None:
    short, long, longest = "s" * 31, "s" * 300, "s" * 70_000
    value = {
        "none": [None, True, False],
        "integers": [0, 127, -1, -32, 200, 60_000, 2**31, 2**53 - 1, -100, -30_000, -(2**31), -(2**53 - 1)],
        "floats": [1.5, -1.5],
        "strings": ["", short, "s" * 200, long, longest],
        "arrays": [[], [0] * 15, [0] * 16, [[0] * 70]],
        "maps": [{}, {str(number): number for number in range(16)}],
    }
    single = b"\x81\xa1f\xca\x3f\xc0\x00\x00"
    # A writer may use wider heads than it needs.
    wide = b"\xdf\x00\x00\x00\x01\xdb\x00\x00\x00\x01f\xdd\x00\x00\x00\x01\xd2\x00\x00\x00\x01"

    assert MSGPACK.decode_object(MSGPACK.encode(value)) == value
    assert MSGPACK.decode_object(single) == {"f": 1.5}
    assert MSGPACK.decode_object(wide) == {"f": [1]}


@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
@pytest.mark.parametrize("value", [object(), 2**80, "\ud800", {1, 2}], ids=["object", "2^80", "surrogate", "set"])
def test_what_the_wire_does_not_know_is_not_written(codec: Codec, value: Any) -> None:
    with pytest.raises(TypeError):
        codec.encode({"value": value})


def test_check_value_names_what_no_wire_can_carry() -> None:
    with pytest.raises(ValueError, match="type set cannot travel"):
        check_value({"value": {1}})


@properly
@given(st.text(st.characters(), max_size=80))
def test_a_strangers_text_is_made_fit_for_a_message(text: str) -> None:
    fit = printable(text)
    assert len(fit) <= 64
    assert fit.isascii()
    assert fit.isprintable()


def test_codecs_write_compactly() -> None:
    assert JSON.encode({"type": "pong", "reply_to": "é"}) == '{"type":"pong","reply_to":"é"}'.encode()
    assert len(MSGPACK.encode({"type": "pong"})) == 11
