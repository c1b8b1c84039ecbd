"""Volleys without number, drawn from a seed: frames of Hypothesis, damaged; bytes beneath messages; requests.

Damage knows what it damages: values become others of nearly the right kind, keys go, come twice or move, encodings are
cut, spliced and stuffed with what means something to their parser. A message behind which the server closes is the last
of its volley, by the word of the decoder itself, so that each one that counts was read.
"""

import json
import random
from collections.abc import Iterator
from typing import Any, Final, cast

import msgpack
from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.protocol.bad_frames import TABLE
from tests.protocol.generated import commands
from tests.security.attack import Volley
from tests.security.bad_bytes import BAD_FRAMES, BAD_REQUESTS, framed
from turnwire_protocol.codec import CODECS, JSON, MSGPACK, Codec, FrameRefused
from turnwire_protocol.commands import Ping

MESSAGES_MAX: Final = 16
KINDS: Final = {"json": 45, "msgpack": 45, "websocket": 7, "http": 3}

NASTY: Final[tuple[Any, ...]] = (
    *(None, True, False, 0, -1, 2**53 - 1, 2**53, -(2**53), 2**64 - 1, 10**30),
    *(1.5, -0.0, 1e308, float("nan"), float("inf")),
    *("", " ", "x" * 65, "x" * 5_000, "é", "\ud800", "\x00", "\r\n", "\u202e", "{}", "null", "__proto__", "😀" * 40),
    *([], {}, [[]], {"": ""}, [0] * 200, {"a": {"a": {"a": []}}}, [{}] * 40, dict.fromkeys(map(str, range(70)), 0)),
    json.loads("[" * 40 + "]" * 40),
)
PIECES: Final[dict[str, tuple[bytes, ...]]] = {
    "json": (
        *(b"{", b"}", b"[", b'"', b"\\u", b"\\ud800", b"\\", b",", b":"),
        *(b"NaN", b"1e999", b"-", b"\xff", b"\x00", b"\xef\xbb\xbf"),
    ),
    "msgpack": (
        *(b"\xc1", b"\xc7", b"\xd4\x05", b"\xd6\xff", b"\xdf\xff\xff\xff\xff"),
        *(b"\xdd\x7f\xff", b"\xdb", b"\xc4\x01", b"\x81", b"\xcb\x7f\xf8"),
    ),
}


def valid_frames(count: int, drawn_from: int) -> list[dict[str, Any]]:
    """Commands that Hypothesis makes from the schema."""
    found: list[dict[str, Any]] = []

    @seed(drawn_from)
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=(HealthCheck.too_slow, HealthCheck.data_too_large),
    )
    @given(commands)
    def collect(frame: dict[str, Any]) -> None:
        found.append(frame)

    collect()
    return found


class Fuzz:
    """An endless draw. `token` is a user's, who attacks as one that was let in."""

    def __init__(self, drawn_from: int, token: str, *, frames: int) -> None:
        self._random = random.Random(drawn_from)
        self._valid = valid_frames(frames, drawn_from)
        self._hellos = {codec: codec.encode({"type": "hello", "token": token}) for codec in CODECS.values()}

    def volleys(self, cases: int) -> Iterator[Volley]:
        """Volleys with at least so many cases in all."""
        sent = 0
        while sent < cases:
            volley = self._volley()
            sent += volley.cases
            yield volley

    def message(self, codec: Codec) -> bytes:
        """One damaged message."""
        draw, kind = self._random, "msgpack" if codec.binary else "json"
        frame = draw.choice(self._valid)
        for _ in range(draw.choice((1, 1, 2, 3))):
            frame = self._damaged(frame)
        encoded = _packed(frame) if codec.binary else self._written(frame)
        if draw.random() < 0.15:
            for _ in range(draw.choice((1, 1, 2, 5))):
                encoded = self._cut_up(encoded, PIECES[kind])
        return encoded

    # --- volleys --------------------------------------------------------------------------------------------------

    def _volley(self) -> Volley:
        draw = self._random
        kind = draw.choices(list(KINDS), list(KINDS.values()))[0]
        codec = MSGPACK if kind == "msgpack" else JSON
        hello = self._hellos[codec] if draw.random() < 0.7 else b""
        match kind:
            case "http":
                return Volley(
                    kind, 1, self._cut_up(draw.choice(BAD_REQUESTS).sent[:9_000], (b"\r\n", b":", b"\x00", b" "))
                )
            case "websocket":
                return Volley(kind, 1, self._frames(), codec.subprotocol, hello)
            case _:
                messages, is_open = self._messages(codec, greeted=bool(hello))
                return Volley(kind, len(messages), b"", codec.subprotocol, hello, messages, is_open)

    def _messages(self, codec: Codec, *, greeted: bool) -> tuple[list[bytes], bool]:
        """Up to one that closes, and whether the connection is open behind them."""
        messages: list[bytes] = []
        for _ in range(self._random.randint(1, MESSAGES_MAX)):
            message = self.message(codec)
            closes = _closes(codec, message, greeted)
            if closes and messages and self._random.random() < 0.6:  # or most volleys would be short
                continue
            messages.append(message)
            if closes:
                return messages, False
        return messages, True

    def _frames(self) -> bytes:
        """WebSocket frames, each with one thing or another wrong, or none."""
        draw, parts = self._random, list[bytes]()
        for _ in range(draw.randint(1, 8)):
            payload = draw.choice((b"", b"x", b'{"type":"ping"}', draw.randbytes(draw.randint(0, 300)), b"y" * 126))
            first = draw.choice((0x81, 0x82, 0x80, 0x01, 0x02, 0x00, 0x88, 0x89, 0x8A, draw.randrange(256)))
            length = draw.choice((None, None, None, len(payload) + draw.randint(1, 9), draw.randrange(126)))
            mask = draw.choice((bytes(4), draw.randbytes(4), draw.randbytes(4), None))
            width = draw.choice((0, 0, 0, 16, 64))
            if width == 0 and length is not None:
                width = 16
            parts.append(framed(first, payload, length=length, width=width, mask=mask))
        stream = b"".join(parts)
        match draw.randrange(4):
            case 0:
                return stream[: draw.randint(0, len(stream))]
            case 1:
                return self._cut_up(stream, (b"\x88", b"\xff", b"\x00"))
            case 2:
                return stream + draw.choice(BAD_FRAMES).sent[:9_000]
            case _:
                return stream

    # --- damage ---------------------------------------------------------------------------------------------------

    def _damaged(self, frame: Any) -> Any:
        """A copy with one value, key or place changed."""
        draw = self._random
        if not isinstance(frame, dict | list) or not frame or draw.random() < 0.08:
            return draw.choice(NASTY)
        if isinstance(frame, list):
            items = list(cast("list[Any]", frame))
            at = draw.randrange(len(items))
            items[at] = self._damaged(items[at])
            return items * 2 if draw.random() < 0.1 else items
        fields = dict(cast("dict[str, Any]", frame))
        name = draw.choice(list(fields))
        match draw.randrange(8):
            case 0:
                del fields[name]
            case 1:
                fields[draw.choice((name.upper(), f"{name} ", "", "type", "id", "\ud800", "x" * 300))] = fields.pop(
                    name
                )
            case 2:
                other = draw.choice(list(fields))
                fields[name], fields[other] = fields[other], fields[name]
            case 3:
                fields[name] = draw.choice(self._valid).get(name, draw.choice(NASTY))
            case 4:
                fields[name] = [fields[name]]
            case _:
                fields[name] = self._damaged(fields[name])
        return fields

    def _written(self, frame: Any) -> bytes:
        """As JSON, in one of several hands, sometimes with a key twice."""
        draw = self._random
        text = json.dumps(frame, ensure_ascii=draw.random() < 0.8, separators=draw.choice(((",", ":"), (" , ", " : "))))
        if draw.random() < 0.03 and text.startswith("{"):
            text = text.replace("{", '{"id":"x",', 2)
        return text.encode("utf-8", "surrogatepass")

    def _cut_up(self, data: bytes, pieces: tuple[bytes, ...]) -> bytes:
        draw = self._random
        at = draw.randint(0, len(data))
        to = min(len(data), at + draw.choice((0, 1, 1, 2, 8, 64)))
        match draw.randrange(6):
            case 0:
                return data[:at]
            case 1:
                return data[:at] + data[to:]
            case 2:
                return data[:at] + draw.choice(pieces) + data[to:]
            case 3:
                return data[:at] + draw.randbytes(to - at) + data[to:]
            case 4:
                return data[:to] + data[at:]
            case _:
                other = draw.choice(TABLE).message
                spliced = other if isinstance(other, bytes) else other.encode("utf-8", "surrogatepass")
                return data[:at] + spliced[: draw.randint(0, 400)] + data[to:]


def _packed(frame: Any) -> bytes:
    """As msgpack, with what it cannot say put otherwise."""

    def fit(value: Any) -> Any:
        if isinstance(value, dict):
            return {fit(key): fit(item) for key, item in cast("dict[Any, Any]", value).items()}
        if isinstance(value, list):
            return [fit(item) for item in cast("list[Any]", value)]
        if isinstance(value, str) and not value:
            return msgpack.ExtType(5, b"nothing")
        return float(value) if isinstance(value, int) and abs(value) >= 2**64 else value

    return cast("bytes", msgpack.packb(fit(frame), unicode_errors="surrogatepass"))


def _closes(codec: Codec, message: bytes, greeted: bool) -> bool:
    """Whether nothing behind this message is read any more."""
    try:
        command = codec.decode_command(message if codec.binary else message.decode())
    except UnicodeDecodeError:
        return True
    except FrameRefused as refusal:
        return refusal.close is not None
    return not (greeted or isinstance(command, Ping))
