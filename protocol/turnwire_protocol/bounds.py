"""How much a frame holds, counted before anything is built of it.

A parser makes an object for every two or three bytes of a hostile frame, and nothing can stop it halfway: a megabyte of
`[],[],` costs a quarter of a second and tens of megabytes. These scans cost a few milliseconds and no memory to speak
of. They are coarse (a key counts too); the codec's own check of the parsed value is the exact one.
"""

from typing import Final

from turnwire_protocol import limits

COUNT_MAX: Final = 2 * limits.VALUE_ITEMS_MAX
"""Twice the values allowed: in msgpack a value of an object comes with its key, in JSON one may open a container."""


def check_json(data: bytes) -> None:
    """Refuse JSON text of too many values. Raises ValueError with a reason fit for the sender."""
    if _marks(data) <= COUNT_MAX:
        return
    # Perhaps those marks stand in strings. Without escapes, strings are every second piece between quotes; there may be
    # as many as values and keys together.
    plain = data.replace(rb"\\", b"").replace(rb"\"", b"")
    if plain.count(b'"') > 2 * COUNT_MAX or _marks(b"".join(plain.split(b'"')[::2])) > COUNT_MAX:
        raise ValueError(f"the frame holds more than {limits.VALUE_ITEMS_MAX} values")


def _marks(data: bytes) -> int:
    """Each value but the first is announced by one of these."""
    return data.count(b",") + data.count(b"[") + data.count(b"{")


_TRUNCATED: Final = "the msgpack is cut short"

# First byte to the bytes that follow it: of a fixed size, or of a size that is told in so many bytes.
_FIXED: Final = {0xC0: 0, 0xC2: 0, 0xC3: 0, 0xCA: 4, 0xCB: 8}
_FIXED.update({0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8, 0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8})
_STRING_SIZES: Final = {0xD9: 1, 0xDA: 2, 0xDB: 4}
_ARRAY_SIZES: Final = {0xDC: 2, 0xDD: 4}
_MAP_SIZES: Final = {0xDE: 2, 0xDF: 4}


def check_msgpack(data: bytes) -> None:
    """Refuse msgpack that holds too much, nests too deep, ends too early or too late, or uses bin, ext or 0xC1.

    What passes is well-formed but for UTF-8 and keys. Raises ValueError with a reason fit for the sender.
    """
    place, count = 0, 0
    waiting = [1]  # how many values are still to come, at each open level
    while waiting:
        if not waiting[-1]:
            waiting.pop()
            continue
        waiting[-1] -= 1
        count += 1
        if count > COUNT_MAX:
            raise ValueError(f"the frame holds more than {limits.VALUE_ITEMS_MAX} values")
        place, children = _step(data, place)
        if children is None:
            continue
        if len(waiting) > limits.VALUE_DEPTH_MAX:
            raise ValueError(f"nested deeper than {limits.VALUE_DEPTH_MAX} levels")
        if children > len(data) - place:
            raise ValueError(_TRUNCATED)
        waiting.append(children)
    if place > len(data):
        raise ValueError(_TRUNCATED)
    if place < len(data):
        raise ValueError("bytes follow the frame")


def _step(data: bytes, place: int) -> tuple[int, int | None]:
    """Past the value that begins at `place`, or past the head of an array or map: then also how many values it has."""
    if place >= len(data):
        raise ValueError(_TRUNCATED)
    first = data[place]
    place += 1
    if first <= 0x7F or first >= 0xE0:
        return place, None
    if first <= 0x8F:
        return place, 2 * (first & 0x0F)
    if first <= 0x9F:
        return place, first & 0x0F
    if first <= 0xBF:
        return place + (first & 0x1F), None
    if first in _FIXED:
        return place + _FIXED[first], None
    if first in _STRING_SIZES:
        end = place + _STRING_SIZES[first]
        return end + int.from_bytes(data[place:end], "big"), None
    if first in _ARRAY_SIZES:
        end = place + _ARRAY_SIZES[first]
        return end, int.from_bytes(data[place:end], "big")
    if first in _MAP_SIZES:
        end = place + _MAP_SIZES[first]
        return end, 2 * int.from_bytes(data[place:end], "big")
    if first == 0xC1:
        raise ValueError("not msgpack: no value begins with 0xC1")
    raise ValueError("binary data and extension types cannot travel")
