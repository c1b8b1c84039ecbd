"""The curated bad bytes beneath messages: WebSocket frames, handshakes and HTTP requests that are none, or hostile.

Beside each stands what becomes of it: how a WebSocket closes, or with which statuses a request may be answered.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from tests.support.serving import client_frame, handshake

TEXT, BINARY, CONT, CLOSE, PING, PONG = 1, 2, 0, 8, 9, 10
HELLO: Final = b'{"type":"ping","id":"p"}'


@dataclass(frozen=True, slots=True)
class BadFrames:
    """Bytes behind a good handshake, before the sender hangs up. `closes` are the codes that may answer; None: it just
    ends."""

    name: str
    sent: bytes
    closes: Sequence[int | None]


@dataclass(frozen=True, slots=True)
class BadRequest:
    """Bytes of a whole connection. `statuses` are those that may come first; 0: none at all."""

    name: str
    sent: bytes
    statuses: Sequence[int]


def framed(
    first: int, payload: bytes = b"", *, length: int | None = None, width: int = 0, mask: bytes | None = bytes(4)
) -> bytes:
    """A frame as one likes: any first byte, a length that may lie, told in 7, 16 or 64 bits, masked or not."""
    size = len(payload) if length is None else length
    bit = 0 if mask is None else 0x80
    if width == 16 or (width == 0 and 125 < size < 65_536):
        head = bytes((first, bit | 126)) + size.to_bytes(2, "big")
    elif width == 64 or (width == 0 and size >= 65_536):
        head = bytes((first, bit | 127)) + size.to_bytes(8, "big")
    else:
        head = bytes((first, bit | size))
    key = mask or bytes(4)
    return head + (mask or b"") + bytes(byte ^ key[at % 4] for at, byte in enumerate(payload))


def _closing(name: str, payload: bytes, code: int) -> BadFrames:
    return BadFrames(f"close with {name}", framed(0x88, payload), [code])


_RESERVED = [
    BadFrames(f"opcode {opcode}", framed(0x80 | opcode, HELLO), [1002])
    for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)
]
_BITS = [
    BadFrames(f"reserved bits {bits >> 4:03b} on opcode {opcode}", framed(0x80 | bits | opcode, HELLO), [1002])
    for bits in (0x40, 0x20, 0x10, 0x70)
    for opcode in (TEXT, BINARY, PING)
]
_CLOSES = [
    _closing("one byte", b"\x03", 1002),
    *(
        _closing(f"code {code}", code.to_bytes(2, "big"), 1002)
        for code in (0, 1, 999, 1004, 1005, 1006, 1015, 2999, 65_535)
    ),
    _closing("a reason that is not UTF-8", b"\x03\xe8\xff", 1007),
    _closing("a surrogate as reason", b"\x03\xe8\xed\xa0\x80", 1007),
    BadFrames("close that is too long", framed(0x88, b"\x03\xe8" + b"x" * 124), [1002]),
    BadFrames("close without a code", framed(0x88), [1005, 1000, None]),
    BadFrames("close, and more", framed(0x88, b"\x03\xe8") + framed(0x81, HELLO) * 50, [1000]),
    BadFrames("two closes", framed(0x88, b"\x03\xe8") * 2, [1000]),
]
_TEXTS = [
    BadFrames(f"text: {name}", framed(0x81, text), [1007])
    for name, text in {
        "not UTF-8": b"\xff",
        "overlong": b"\xc0\xaf",
        "cut short": b"\xe2\x82",
        "a surrogate": b"\xed\xa0\x80",
        "beyond Unicode": b"\xf4\x90\x80\x80",
        "good, then not": HELLO + b"\x80",
    }.items()
]
_TEXTS.append(
    BadFrames("text: not UTF-8, and good-bye", framed(0x81, b"\xff") + framed(0x88, b"\x03\xe8"), [1000, 1007])
)
_LENGTHS = [
    BadFrames("length of 7 in 16 bits", framed(0x81, HELLO, width=16), [1002, None]),
    BadFrames("length of 7 in 64 bits", framed(0x81, HELLO, width=64), [1002, None]),
    BadFrames("length of 2^63", framed(0x82, b"", length=2**63, width=64), [1002, 1009]),
    BadFrames("length of 2^64 - 1", framed(0x82, b"", length=2**64 - 1, width=64), [1002, 1009]),
    BadFrames("length of 4 GiB", framed(0x82, b"", length=2**32, width=64), [1009]),
    BadFrames("length of 3 MB, and nothing", framed(0x82, b"", length=3_000_000, width=64), [1009]),
    BadFrames("length of 1 MB, and a byte", framed(0x82, b"x", length=1_000_000, width=64), [None]),
]
_CONTROLS = [
    BadFrames("ping that is too long", framed(0x89, bytes(126)), [1002]),
    BadFrames("pong that is too long", framed(0x8A, bytes(126)), [1002]),
    BadFrames("ping of 64 KiB", framed(0x89, bytes(65_536)), [1002]),
    BadFrames("ping in fragments", framed(0x09, b"a"), [1002]),
    BadFrames("pong in fragments", framed(0x0A, b"a"), [1002]),
    BadFrames("close in fragments", framed(0x08, b"\x03\xe8"), [1002]),
    BadFrames("pongs that nobody asked for", framed(0x8A, b"x") * 100, [None]),
    BadFrames("a flood of pings", framed(0x89, b"x") * 5_000, [None]),
    BadFrames("a flood of pongs", framed(0x8A) * 5_000, [None]),
]
_ORDER = [
    BadFrames("continuation of nothing", framed(0x80, HELLO), [1002]),
    BadFrames("unfinished continuation of nothing", framed(0x00, HELLO), [1002]),
    BadFrames("text within text", framed(0x01, b"{") + framed(0x81, HELLO), [1002]),
    BadFrames("binary within text", framed(0x01, b"{") + framed(0x82, HELLO), [1002]),
    BadFrames("text within binary", framed(0x02, b"{") + framed(0x81, HELLO), [1002]),
    BadFrames("a fragment, and good-bye", framed(0x01, b"{") + framed(0x88, b"\x03\xe8"), [1002]),
    BadFrames("a fragment, and nothing", framed(0x01, HELLO), [None]),
    BadFrames(
        "a fragment in half a character, and its other half", framed(0x01, b"\xe2") + framed(0x80, b"\x82"), [1007]
    ),
    BadFrames("empty fragments", client_frame(TEXT, fin=False) + client_frame(CONT, fin=False) * 3_000, [1009, None]),
    BadFrames(
        "fragments of a byte", client_frame(TEXT, fin=False) + client_frame(CONT, b"x", fin=False) * 3_000, [1009, None]
    ),
]
_MASKS = [
    BadFrames("text without a mask", framed(0x81, HELLO, mask=None), [1002]),
    BadFrames("ping without a mask", framed(0x89, b"x", mask=None), [1002]),
    BadFrames("close without a mask", framed(0x88, b"\x03\xe8", mask=None), [1002]),
]
_HALVES = [
    *(
        BadFrames(f"{size} bytes of a head", framed(0x81, bytes(70_000))[:size], [None])
        for size in (1, 2, 3, 9, 10, 13)
    ),
    BadFrames("half a message", framed(0x81, HELLO)[:-5], [None]),
    BadFrames("a second handshake", handshake("/v1/ws"), [1002]),
    BadFrames("an HTTP request", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", [1002]),
    BadFrames("a TLS greeting", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500), [1002]),
    BadFrames("zeros", bytes(5_000), [1002]),
    BadFrames("ones", b"\xff" * 5_000, [1002]),
    BadFrames("line ends", b"\r\n" * 500, [1002]),
]
_FLOODS = [
    BadFrames("empty messages", framed(0x81) * 2_000, [4400]),
    BadFrames("empty binary messages", framed(0x82) * 2_000, [4400]),
]

BAD_FRAMES: Final = [
    *_RESERVED, *_BITS, *_CLOSES, *_TEXTS, *_LENGTHS, *_CONTROLS, *_ORDER, *_MASKS, *_HALVES, *_FLOODS
]  # fmt: skip


# --- handshakes -------------------------------------------------------------------------------------------------------


def _without(name: str) -> bytes:
    return b"\r\n".join(
        line for line in handshake("/v1/ws").split(b"\r\n") if not line.lower().startswith(name.encode())
    )


def _with(header: bytes) -> bytes:
    return handshake("/v1/ws").removesuffix(b"\r\n") + header + b"\r\n\r\n"


REFUSED: Final = (400, 403, 404, 405, 413, 414, 426, 431)
"""What a request may be refused with that is nobody's."""
ANYHOW: Final = (*REFUSED, 0, 101, 200)
"""Odd, but not wrong: servers differ."""

_HANDSHAKES = [
    *(
        BadRequest(f"handshake without {name}", _without(name), (*REFUSED, 0))
        for name in ("sec-websocket-key", "sec-websocket-version")
    ),
    *(BadRequest(f"handshake without {name}", _without(name), (*REFUSED, 0)) for name in ("upgrade", "connection")),
    BadRequest("handshake without host", _without("host"), (400,)),
    BadRequest("handshake of version 12", handshake("/v1/ws").replace(b"Version: 13", b"Version: 12"), (400, 426)),
    BadRequest(
        "handshake with a short key", _without("sec-websocket-key")[:-2] + b"Sec-WebSocket-Key: eA==\r\n\r\n", (400,)
    ),
    BadRequest(
        "handshake with a key that is none",
        _without("sec-websocket-key")[:-2] + b"Sec-WebSocket-Key: ~\r\n\r\n",
        (400,),
    ),
    BadRequest("handshake with two keys", _with(b"Sec-WebSocket-Key: eHh4eHh4eHh4eHh4eHh4eA=="), (400,)),
    BadRequest("handshake by POST", handshake("/v1/ws").replace(b"GET", b"POST"), (*REFUSED, 0)),
    BadRequest("handshake in HTTP/1.0", handshake("/v1/ws").replace(b"HTTP/1.1", b"HTTP/1.0"), ANYHOW),
    BadRequest("handshake with a body", _with(b"Content-Length: 5") + b"hello", (*REFUSED, 0)),
    BadRequest(
        "handshake with chunks", _with(b"Transfer-Encoding: chunked") + b"5\r\nhello\r\n0\r\n\r\n", (*REFUSED, 0)
    ),
    BadRequest("handshake elsewhere", handshake("/"), REFUSED),
    BadRequest("handshake at a call", handshake("/v1/sessions"), REFUSED),
    BadRequest("handshake behind dots", handshake("/v1/../v1/ws"), REFUSED),
    BadRequest("handshake with extensions that are none", _with(b"Sec-WebSocket-Extensions: ;;=,"), (400, 101)),
    BadRequest(
        "handshake with a thousand extensions", _with(b"Sec-WebSocket-Extensions: " + b"a;b=c," * 1_000 + b"a"), ANYHOW
    ),
    BadRequest(
        "handshake with a thousand subprotocols", _with(b"Sec-WebSocket-Protocol: " + b"x," * 1_000 + b"x"), ANYHOW
    ),
    BadRequest("handshake with a subprotocol twice", _with(b"Sec-WebSocket-Protocol: a, a"), ANYHOW),
    BadRequest("handshake with two origins", _with(b"Origin: http://a\r\nOrigin: http://b"), (400, 403)),
    BadRequest("handshake with an origin of 8 kB", _with(b"Origin: http://" + b"a" * 8_000), REFUSED),
]

# --- requests ---------------------------------------------------------------------------------------------------------

_CALL = b"GET /v1/sessions HTTP/1.1\r\nHost: x\r\n"
_PATCH = b"PATCH /v1/sessions/s HTTP/1.1\r\nHost: x\r\n"
_CHUNKS = b"Transfer-Encoding: chunked\r\n\r\n"
NOBODY: Final = (400, 401, 413, 414, 431, 0)

_ADDRESSES = (
    *("/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/v1/sessions/%00", "/v1/sessions/%ff", "//v1//sessions"),
    *("/v1/sessions/%0a", "http://x/v1/sessions", "*", "/turnwire.js%00.css", "/v1/sessions/a%2fb"),
)

_REQUESTS = [
    *(
        BadRequest(f"request line: {name}", line + b"\r\nHost: x\r\n\r\n", (400, 0))
        for name, line in {
            "one word": b"GET",
            "no version": b"GET /v1/sessions",
            "two spaces": b"GET  /v1/sessions HTTP/1.1",
            "no version at all": b"GET / HTTP/x",
            "a line's end within": b"GET /\r/ HTTP/1.1",
            "zeros": b"GET /\x00 HTTP/1.1",
            "bytes": b"GET /\xff\xfe HTTP/1.1",
            "a method of signs": b"G(T / HTTP/1.1",
            "nothing": b" ",
            "SSH": b"SSH-2.0-OpenSSH_9.9",
        }.items()
    ),
    BadRequest("a TLS greeting", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500) + b"\r\n\r\n", (400, 0)),
    BadRequest("an address of 40 kB", b"GET /" + b"a" * 40_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", (400, 404, 414, 0)),
    BadRequest("a header of 40 kB", _CALL + b"X: " + b"a" * 40_000 + b"\r\n\r\n", (400, 401, 431, 0)),
    BadRequest("two thousand headers", _CALL + b"X: a\r\n" * 2_000 + b"\r\n", NOBODY),
    BadRequest("a header without a name", _CALL + b": a\r\n\r\n", (400,)),
    BadRequest("a header with a space before its colon", _CALL + b"X : a\r\n\r\n", (400,)),
    BadRequest("a header with a zero", _CALL + b"X: a\x00b\r\n\r\n", (400,)),
    BadRequest("a header that goes on below", _CALL + b"X: a\r\n b\r\n\r\n", NOBODY),
    BadRequest("a header before its name", b"GET / HTTP/1.1\r\n X: a\r\nHost: x\r\n\r\n", (400,)),
    BadRequest("version 9", b"GET / HTTP/9.9\r\nHost: x\r\n\r\n", ANYHOW),
    BadRequest("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", ANYHOW),
    BadRequest("no host", b"GET / HTTP/1.1\r\n\r\n", (400,)),
    BadRequest("two hosts", b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", (400,)),
    BadRequest("two lengths", _PATCH + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nxx", (400,)),
    BadRequest("a length, and chunks", _PATCH + b"Content-Length: 4\r\n" + _CHUNKS + b"0\r\n\r\n", NOBODY),
    BadRequest("a length below nothing", _PATCH + b"Content-Length: -1\r\n\r\n", (400,)),
    BadRequest("a length with a sign", _PATCH + b"Content-Length: +1\r\n\r\nx", (400,)),
    BadRequest("a length that is no number", _PATCH + b"Content-Length: x\r\n\r\n", (400,)),
    BadRequest("a length of 40 digits", _PATCH + b"Content-Length: " + b"9" * 40 + b"\r\n\r\n", NOBODY),
    BadRequest("an encoding that is unknown", _PATCH + b"Transfer-Encoding: gzip\r\n\r\n", (400, 501)),
    BadRequest("an encoding that only looks chunked", _PATCH + b"Transfer-Encoding: xchunked\r\n\r\n", (400, 501)),
    BadRequest("a chunk of signs", _PATCH + _CHUNKS + b"zz\r\n", NOBODY),
    BadRequest("a chunk below nothing", _PATCH + _CHUNKS + b"-1\r\n", NOBODY),
    BadRequest("a chunk of 2^64", _PATCH + _CHUNKS + b"ffffffffffffffff\r\n", NOBODY),
    BadRequest("an endless chunk's name", _PATCH + _CHUNKS + b"1;" + b"x" * 40_000, NOBODY),
    BadRequest("half a head", _CALL, (0,)),
    BadRequest("a hundred requests at once", (_CALL + b"\r\n") * 100, NOBODY),
    BadRequest("a hundred bodies at once", (_PATCH + b"Content-Length: 2\r\n\r\n{}") * 100, NOBODY),
    BadRequest("a request behind a bad one", b"G(T / HTTP/1.1\r\n\r\n" + _CALL + b"\r\n", (400,)),
    BadRequest("two authorisations", _CALL + b"Authorization: Bearer a\r\nAuthorization: Bearer b\r\n\r\n", (401, 0)),
    BadRequest("an authorisation of bytes", _CALL + b"Authorization: Bearer \xff\xfe\r\n\r\n", (401, 0)),
    BadRequest("an authorisation of 20 kB", _CALL + b"Authorization: Bearer " + b"a" * 20_000 + b"\r\n\r\n", (401, 0)),
    *(
        BadRequest(f"address: {path}", b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n" % path.encode(), (400, 401, 403, 404, 0))
        for path in _ADDRESSES
    ),
]

BAD_REQUESTS: Final = [*_HANDSHAKES, *_REQUESTS]
