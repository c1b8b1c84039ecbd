"""The curated bad messages, each with how it is refused: for the decoder's tests, and for those of a whole server, over
sockets (tests/security)."""

import json
import struct
from dataclasses import dataclass
from typing import Any

import msgpack

from tests.protocol.generated import create, said
from turnwire_protocol import limits
from turnwire_protocol.codec import JSON, MSGPACK, Codec
from turnwire_protocol.codes import CloseCode, ErrorCode


@dataclass(frozen=True)
class Bad:
    """A message, how it is refused, and what the refusal must say."""

    name: str
    message: bytes | str
    says: str
    code: ErrorCode = "bad_frame"
    close: CloseCode | None = CloseCode.BAD_FRAME
    reply_to: str | None = None

    @property
    def codec(self) -> Codec:
        return MSGPACK if isinstance(self.message, bytes) else JSON


def fault(name: str, frame: dict[str, Any], says: str, code: ErrorCode = "bad_frame", **more: Any) -> Bad:
    """An object that is no valid command: the connection goes on, and the answer carries the id."""
    return Bad(name, json.dumps({"id": "c1", **frame}), says, code, None, **{"reply_to": "c1", **more})


def pack(value: Any) -> bytes:
    packed = msgpack.packb(value)
    assert packed is not None
    return packed


SIZE = limits.COMMAND_BYTES_MAX - 8

UNREADABLE = [
    Bad("json: nothing", "", "not JSON: Expecting value at character 0"),
    Bad("json: white space", " \n", "not JSON"),
    Bad("json: a word", "hello", "not JSON"),
    Bad("json: cut short", '{"type":"ping"', "not JSON"),
    Bad("json: something behind", '{"type":"ping"} {}', "not JSON: Extra data at character 16"),
    Bad("json: byte order mark", '\ufeff{"type":"ping"}', "not JSON"),
    Bad("json: single quotes", "{'type':'ping'}", "not JSON"),
    Bad("json: trailing comma", '{"type":"ping",}', "not JSON"),
    Bad("json: comment", '{"type":"ping"} // hello', "not JSON"),
    Bad("json: control character in a string", '{"type":"pi\nng"}', "not JSON: Invalid control character"),
    Bad("json: bad escape", r'{"type":"\x70ing"}', "not JSON: Invalid"),
    Bad("json: leading zero", '{"type":"ping","n":01}', "not JSON"),
    Bad("json: array", '["ping"]', "must be an object"),
    Bad("json: null", "null", "must be an object"),
    Bad("json: string", '"ping"', "must be an object"),
    Bad("json: number", "1", "must be an object"),
    Bad("json: NaN", '{"type":"ping","n":NaN}', "not finite"),
    Bad("json: Infinity", '{"type":"ping","n":Infinity}', "not finite"),
    Bad("json: -Infinity", '{"type":"ping","n":-Infinity}', "not finite"),
    Bad("json: 1e999", '{"type":"ping","n":1e999}', "not finite"),
    Bad("json: 2^53", '{"type":"ping","n":9007199254740992}', r"beyond 2\^53 - 1"),
    Bad("json: -2^53", '{"type":"ping","n":-9007199254740992}', r"beyond 2\^53 - 1"),
    Bad("json: 2^64", '{"type":"ping","n":18446744073709551616}', r"beyond 2\^53 - 1"),
    Bad("json: 1e20", '{"type":"ping","n":1e20}', r"beyond 2\^53 - 1"),
    Bad("json: 5000 digits", '{"type":"ping","n":' + "9" * 5_000 + "}", r"beyond 2\^53 - 1"),
    Bad("json: a million digits", '{"n":' + "9" * (SIZE - 6) + "}", r"beyond 2\^53 - 1"),
    Bad("json: many integers of 4000 digits", '{"n":[' + ",".join(["9" * 4_000] * 250) + "]}", r"beyond 2\^53"),
    Bad("json: a million digits behind the point", "[0." + "0" * (SIZE - 20) + "1e999999]", "must be an object"),
    Bad("json: key twice", '{"type":"ping","type":"hello"}', "key twice"),
    Bad("json: key twice, escaped", '{"type":"ping","typ\\u0065":"hello"}', "key twice"),
    Bad("json: key twice within", '{"type":"ping","a":[{"b":1,"b":1}]}', "key twice"),
    Bad("json: lone surrogate, escaped", r'{"type":"ping","t":"\ud800"}', "lone surrogate"),
    Bad("json: lone low surrogate", r'{"type":"ping","t":"a\udfffb"}', "lone surrogate"),
    Bad("json: surrogates the wrong way round", r'{"t":"\udc00\ud800"}', "lone surrogate"),
    Bad("json: lone surrogate as a key", r'{"\ud800":1}', "lone surrogate"),
    Bad("json: lone surrogate as it is", '{"t":"\ud800"}', "lone surrogate"),
    Bad("json: 100 000 arrays deep", '{"a":' + "[" * 100_000 + "]" * 100_000 + "}", "more than 10000 values"),
    Bad("json: 5000 arrays deep", '{"a":' + "[" * 5_000 + "]" * 5_000 + "}", "deeper than 32"),
    Bad("json: 5000 objects deep", '{"a":' * 5_000 + "1" + "}" * 5_000, "deeper than 32"),
    Bad("json: 33 deep", '{"a":' + "[" * 32 + "]" * 32 + "}", "deeper than 32"),
    Bad("json: 65 keys", json.dumps({str(number): 0 for number in range(65)}), "65 keys, 64 are allowed"),
    Bad("json: 100 000 keys", "{" + ",".join(f'"{n:x}":0' for n in range(90_000)) + "}", "more than 10000 values"),
    Bad("json: 350 000 empty arrays", '{"a":[' + "[]," * (SIZE // 3 - 5) + "0]}", "more than 10000 values"),
    Bad("json: 350 000 empty objects", '{"a":[' + "{}," * (SIZE // 3 - 5) + "0]}", "more than 10000 values"),
    Bad("json: 350 000 empty strings", '{"a":[' + '"",' * (SIZE // 3 - 5) + "0]}", "more than 10000 values"),
    Bad("json: 500 000 numbers", '{"a":[' + "0," * (SIZE // 2 - 5) + "0]}", "more than 10000 values"),
    Bad("json: a string of escaped quotes without end", '{"a":"' + '\\"' * (SIZE // 2 - 5), "not JSON"),
    Bad("msgpack: nothing", b"", "cut short"),
    Bad("msgpack: never used byte", b"\xc1", "no value begins with 0xC1"),
    Bad("msgpack: never used byte within", b"\x81\xa1a\xc1", "no value begins with 0xC1"),
    Bad("msgpack: text", b'{"type":"ping"}', "bytes follow the frame"),
    Bad("msgpack: something behind", pack({"type": "ping"}) * 2, "bytes follow the frame"),
    Bad("msgpack: cut in a map", pack({"type": "ping"})[:-6], "cut short"),
    Bad("msgpack: cut in a string", pack({"type": "ping"})[:-1], "cut short"),
    Bad("msgpack: cut in a head", b"\x81\xa1a\xdb\x00\x00", "cut short"),
    Bad("msgpack: cut in a number", b"\x81\xa1a\xcf\x00", "cut short"),
    Bad("msgpack: array", pack(["ping"]), "must be an object"),
    Bad("msgpack: nil", b"\xc0", "must be an object"),
    Bad("msgpack: NaN", pack({"n": float("nan")}), "not finite"),
    Bad("msgpack: infinity", pack({"n": float("-inf")}), "not finite"),
    Bad("msgpack: infinity in 32 bits", b"\x81\xa1n\xca" + struct.pack(">f", float("inf")), "not finite"),
    Bad("msgpack: 2^53", pack({"n": 2**53}), r"beyond 2\^53 - 1"),
    Bad("msgpack: 2^64 - 1", pack({"n": 2**64 - 1}), r"beyond 2\^53 - 1"),
    Bad("msgpack: -2^63", pack({"n": -(2**63)}), r"beyond 2\^53 - 1"),
    Bad("msgpack: 1e20", pack({"n": 1e20}), r"beyond 2\^53 - 1"),
    Bad("msgpack: integer key", pack({1: 2}), "keys must be strings"),
    Bad("msgpack: nil key", b"\x81\xc0\x01", "keys must be strings"),
    Bad("msgpack: array as a key", b"\x81\x90\x01", "keys must be strings"),
    Bad("msgpack: map as a key", b"\x81\x80\x01", "keys must be strings"),
    Bad("msgpack: binary key", b"\x81\xc4\x01a\x01", "binary data and extension types"),
    Bad("msgpack: binary value", pack({"a": b"abc"}), "binary data and extension types"),
    Bad("msgpack: extension", pack({"a": msgpack.ExtType(5, b"abc")}), "binary data and extension types"),
    Bad("msgpack: time", pack({"a": msgpack.Timestamp(1)}), "binary data and extension types"),
    Bad("msgpack: time as a key", b"\x81\xd6\xff\x00\x00\x00\x00\x01", "binary data and extension types"),
    Bad("msgpack: time out of range", b"\x81\xa1a\xd7\xff" + b"\xff" * 8, "binary data and extension types"),
    Bad("msgpack: extension of 4 GiB", b"\x81\xa1a\xc9\xff\xff\xff\xff\x01", "binary data and extension types"),
    Bad("msgpack: key twice", b"\x82\xa1a\x01\xa1a\x02", "key twice"),
    Bad("msgpack: key twice in two widths", b"\x82\xa1a\x01\xd9\x01a\x02", "key twice"),
    Bad("msgpack: text is not UTF-8", b"\x81\xa1a\xa2\xc3\x28", "not UTF-8"),
    Bad("msgpack: key is not UTF-8", b"\x81\xa1\xff\x01", "not UTF-8"),
    Bad("msgpack: surrogate in UTF-8", b"\x81\xa1a\xa3\xed\xa0\x80", "not UTF-8"),
    Bad("msgpack: overlong UTF-8", b"\x81\xa1a\xa2\xc0\x80", "not UTF-8"),
    Bad("msgpack: array of 4 GiB", b"\x81\xa1a\xdd\xff\xff\xff\xff\x00", "cut short"),
    Bad("msgpack: map of 4 GiB", b"\xdf\xff\xff\xff\xff\x00", "cut short"),
    Bad("msgpack: string of 4 GiB", b"\x81\xa1a\xdb\xff\xff\xff\xffabc", "cut short"),
    Bad("msgpack: a thousand arrays of 64 Ki in each other", b"\xdc\xff\xff" * 1_000, "cut short"),
    Bad("msgpack: long arrays in each other", b"\xdc\xff\xff" * 300_000, "deeper than 32"),
    Bad("msgpack: 100 000 arrays deep", b"\x91" * 100_000 + b"\x00", "deeper than 32"),
    Bad("msgpack: 100 000 maps deep", b"\x81\xa1a" * 100_000 + b"\x00", "deeper than 32"),
    Bad("msgpack: 33 deep", pack({"a": json.loads("[" * 32 + "]" * 32)}), "deeper than 32"),
    Bad("msgpack: 65 keys", pack({str(number): 0 for number in range(65)}), "65 keys, 64 are allowed"),
    Bad("msgpack: a million numbers", b"\x81\xa1a\xdd\x00\x0f\xff\x00" + b"\x00" * 0xFFF00, "more than 10000"),
    Bad("msgpack: a million empty maps", b"\x81\xa1a\xdd\x00\x0f\xff\x00" + b"\x80" * 0xFFF00, "more than 10000"),
    Bad("msgpack: a million empty arrays", b"\x81\xa1a\xdd\x00\x0f\xff\x00" + b"\x90" * 0xFFF00, "more than 10000"),
]

SECRET = "the sender's own words"
LONG_ID = "x" * 65

FAULTY = [
    fault("no type", {"session": "s"}, "type is missing"),
    fault("type is a number", {"type": 1}, "type is missing or no string"),
    fault("type is null", {"type": None}, "type is missing or no string"),
    fault("unknown type", {"type": "turn.dance"}, "no command is called turn.dance", "unsupported"),
    fault("a server's type", {"type": "turn.done"}, "no command is called turn.done", "unsupported"),
    fault("type in another case", {"type": "Ping"}, "no command is called Ping", "unsupported"),
    fault("endless type", {"type": "x" * 100_000}, "no command is called x{64}$", "unsupported"),
    fault("type of emoji", {"type": "😀" * 100}, "no command is called", "unsupported"),
    fault("type with a terminal's escapes", {"type": "\x1b[31m\r\n"}, r"called \\x1b\[31m\\r\\n$", "unsupported"),
    fault("id too long", {"type": "ping", "id": LONG_ID}, "ping: id: .*pattern", reply_to=None),
    fault("id not ASCII", {"type": "ping", "id": "é"}, "ping: id: .*pattern", reply_to=None),
    fault("id with a line's end", {"type": "ping", "id": "a\n"}, "ping: id: .*pattern", reply_to=None),
    fault("id empty", {"type": "ping", "id": ""}, "ping: id: .*pattern", reply_to=None),
    fault("id is a number", {"type": "ping", "id": 7}, "ping: id: .*valid string", reply_to=None),
    fault("session missing", {"type": "session.open"}, "session.open: session: Field required"),
    fault("session too long", {"type": "session.open", "session": LONG_ID}, "session: .*pattern"),
    fault("session of another's key", {"type": "session.open", "session": "a:b{c}"}, "session: .*pattern"),
    fault("session null", {"type": "session.close", "session": None}, "session: .*valid string"),
    fault("cursor without gen", {"type": "session.open", "session": "s", "after": {"seq": 1}}, "after.gen: Field"),
    fault("cursor before the log", {"type": "session.open", "session": "s", "after": {"gen": "g", "seq": -1}}, "seq"),
    fault("cursor as a string", {"type": "session.open", "session": "s", "after": "g:1"}, "after: "),
    fault("seq a string", {"type": "session.open", "session": "s", "after": {"gen": "g", "seq": "1"}}, "valid integer"),
    fault("seq a bool", {"type": "session.open", "session": "s", "after": {"gen": "g", "seq": True}}, "valid integer"),
    fault("too much history", {"type": "session.open", "session": "s", "history": 201}, "history: .*200"),
    fault("half a turn of history", {"type": "session.open", "session": "s", "history": 1.5}, "valid integer"),
    fault("token empty", {"type": "auth.refresh", "token": ""}, "token: .*pattern"),
    fault("token with a line's end", {"type": "hello", "token": "abc\n"}, "token: .*pattern"),
    fault("token of 100 kB", {"type": "hello", "token": "x" * 100_000}, "token: .*at most 16384"),
    fault("33 features", {"type": "hello", "features": ["f"] * 33}, "features: .*at most 32"),
    fault("client without a name", {"type": "hello", "client": {"version": "1"}}, "client.name: Field required"),
    fault("no input", create(input=[]), "turn.create: input must hold at least one part"),
    fault("input missing", {"type": "turn.create", "session": "s", "turn": "t"}, "input must hold at least one"),
    fault("input a string", create(input="hello"), "input: .*valid list"),
    fault("33 input parts", create(input=[said("x")] * 33), "input: .*at most 32"),
    fault("input part without type", create(input=[{"text": "x"}]), "input.0: "),
    fault("input part of unknown type", create(input=[{"type": SECRET}]), "input.0: its type is none of those"),
    fault("input text empty", create(input=[said("")]), "input.0.text.text: .*at least 1"),
    fault("input text too long", create(input=[said("x" * 480_001)]), "text.text: .*at most 480000"),
    fault("input text too long in bytes", create(input=[said("漢" * 160_001)]), "has 480003 bytes as JSON, 480000"),
    fault("image of an unknown kind", create(input=[{"type": "image", "media_type": SECRET, "data": "AAAA"}]), "media"),
    fault("image not base64", create(input=[{"type": "image", "media_type": "image/png", "data": "A-A_"}]), "data"),
    fault("image cut short", create(input=[{"type": "image", "media_type": "image/png", "data": "AAA"}]), "data"),
    fault("image with line ends", create(input=[{"type": "image", "media_type": "image/png", "data": "AAAA\n"}]), "da"),
    fault("again with input", create(again="t0"), "again takes the earlier turn's input"),
    fault("again with parent", create(input=[], again="t0", parent=None), "again takes the earlier turn's parent"),
    fault("model empty", create(model=""), "model: .*at least 1"),
    fault("params a list", create(params=[1]), "params: .*valid dict"),
    fault("65 tools", create(tools=[{"name": "f"}] * 65), "tools: .*at most 64"),
    fault("tool without a name", create(tools=[{}]), "tools.0.name: Field required"),
    fault("on_busy unknown", create(on_busy=SECRET), "on_busy: Input should be 'reject', 'queue' or 'interrupt'"),
    fault("cancel after two days", create(on_disconnect="cancel", cancel_after_ms=172_800_000), "cancel_after_ms"),
    fault("reason too long", {"type": "turn.cancel", "session": "s", "turn": "t", "reason": "x" * 257}, "at most 256"),
    fault("respond without a value", {"type": "turn.respond", "session": "s", "turn": "t", "request": "r"}, "value: "),
]

LARGE = [
    Bad("json: too large", " " * (limits.COMMAND_BYTES_MAX + 1), "1048577 bytes", "too_large", CloseCode.TOO_LARGE),
    Bad("json: too large in bytes", "漢" * 350_000, "1050000 bytes", "too_large", CloseCode.TOO_LARGE),
    Bad("msgpack: too large", b"\x00" * 2_000_000, "2000000 bytes", "too_large", CloseCode.TOO_LARGE),
]

TABLE = UNREADABLE + FAULTY + LARGE
