"""What a stranger may send. Each message is refused for what is wrong with it, by no other exception, and quickly."""

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.protocol.bad_frames import FAULTY, SECRET, TABLE, Bad, pack
from tests.protocol.generated import at_length, create, messages, said, thoroughly
from tests.support.stopwatch import fastest_ms
from turnwire_protocol.codec import CODECS, JSON, MSGPACK, Codec, FrameRefused, validate_command
from turnwire_protocol.codes import CloseCode
from turnwire_protocol.values import ErrorBody

CPU_MS_MAX = 50


def refusal_of(decode: Callable[[], object]) -> FrameRefused:
    with pytest.raises(FrameRefused) as caught:
        decode()
    return caught.value


@pytest.mark.parametrize("bad", TABLE, ids=lambda bad: bad.name)
def test_a_bad_message_is_refused_for_what_is_wrong_with_it(bad: Bad) -> None:
    refusal = refusal_of(lambda: bad.codec.decode_command(bad.message))

    assert (refusal.code, refusal.close, refusal.reply_to) == (bad.code, bad.close, bad.reply_to)
    assert_says(refusal, bad.says)
    assert SECRET not in refusal.message


@pytest.mark.parametrize("bad", TABLE, ids=lambda bad: bad.name)
def test_a_bad_message_costs_less_than_50_ms(bad: Bad) -> None:
    assert fastest_ms(lambda: refusal_of(lambda: bad.codec.decode_command(bad.message))) < CPU_MS_MAX


@pytest.mark.parametrize("bad", FAULTY, ids=lambda bad: bad.name)
def test_a_faulty_command_is_refused_the_same_in_msgpack(bad: Bad) -> None:
    packed = pack(json.loads(bad.message))
    in_json = refusal_of(lambda: JSON.decode_command(bad.message))
    in_msgpack = refusal_of(lambda: MSGPACK.decode_command(packed))

    assert vars(in_msgpack) == vars(in_json)


def assert_says(refusal: FrameRefused, says: str) -> None:
    """The message names the fault."""
    assert_fit(refusal)
    assert re.search(says, refusal.message), refusal.message


def assert_fit(refusal: FrameRefused) -> None:
    """The message can be sent and shown as it is."""
    assert ErrorBody(code=refusal.code, message=refusal.message, retry="none")
    assert refusal.message.isascii()
    assert refusal.message.isprintable()


def test_the_table_names_each_message_once_and_is_long() -> None:
    assert len({bad.name for bad in TABLE}) == len(TABLE) >= 60


@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
def test_a_message_of_the_wrong_kind_is_refused(codec: Codec) -> None:
    """Text where binary belongs, or binary where text does: another opcode."""
    message: bytes | str = codec.encode({"type": "ping"})
    wrong = message.decode("latin-1") if codec.binary else message

    refusal = refusal_of(lambda: codec.decode_command(wrong))

    assert (refusal.code, refusal.close) == ("bad_frame", CloseCode.BAD_FRAME)
    assert_says(refusal, f"{codec.subprotocol} takes {'binary' if codec.binary else 'text'} messages")


def test_bytes_that_are_no_utf_8_are_refused_where_json_bytes_are_read() -> None:
    """WebSocket text is checked by the transport; an HTTP body is not."""
    with pytest.raises(ValueError, match="not UTF-8"):
        JSON.parse(b'{"type":"\xff"}')


def test_fields_that_nobody_knows_are_ignored() -> None:
    plain = validate_command(create())
    more = validate_command(create(hint=1, input=[{**said("hello"), "lang": "en"}]))
    assert more == plain


def test_a_null_is_as_good_as_nothing() -> None:
    assert validate_command({"type": "ping", "id": None}) == validate_command({"type": "ping"})


def read_or_refuse(message: Any) -> None:
    encoded = message if isinstance(message, bytes | str) else json.dumps(message)
    for codec in CODECS.values():
        try:
            codec.decode_command(encoded)
        except FrameRefused as refusal:
            assert_fit(refusal)


def read_or_refuse_damaged(head: bytes, at: int, patch: bytes) -> None:
    good = MSGPACK.encode(create(params={"a": [1.5, None, {"b": "c"}]}))
    for damaged in (head, head + good, good[:at], good[:at] + patch + good[at + len(patch) :]):
        try:
            MSGPACK.decode_command(damaged)
        except FrameRefused as refusal:
            assert_fit(refusal)


damages = (st.binary(max_size=100), st.integers(0, 200), st.binary(max_size=4))


@thoroughly
@given(messages)
def test_no_message_is_ever_refused_in_another_way(message: Any) -> None:
    read_or_refuse(message)


@thoroughly
@given(*damages)
def test_no_damage_to_a_good_frame_is_ever_refused_in_another_way(head: bytes, at: int, patch: bytes) -> None:
    read_or_refuse_damaged(head, at, patch)


@pytest.mark.prove
@at_length
@given(messages)
def test_no_message_is_ever_refused_in_another_way_at_length(message: Any) -> None:
    read_or_refuse(message)


@pytest.mark.prove
@at_length
@given(*damages)
def test_no_damage_is_ever_refused_in_another_way_at_length(head: bytes, at: int, patch: bytes) -> None:
    read_or_refuse_damaged(head, at, patch)
