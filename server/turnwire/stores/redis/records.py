"""Log entries as the store has them, and back.

A delta is its fields, any other entry a type, a turn and a body in JSON; both without seq, session or gen, which the
door adds. Encoding runs for every piece of every answer, so it makes no dict and no intermediate list.
"""

from collections.abc import Sequence
from typing import Any, Final, cast

from turnwire.core.entries import Delta, Entry, Event, Logged
from turnwire.stores.redis.wire import Argument
from turnwire_protocol.values import Kind

_KINDS: Final[dict[bytes, Kind]] = {
    b"text": "text",
    b"reasoning": "reasoning",
    b"refusal": "refusal",
    b"tool_call": "tool_call",
    b"data": "data",
}

_EVENT_NAMES: Final = frozenset((b"a", b"t", b"y", b"b", b"k"))


def packed(entries: Sequence[Entry]) -> list[Argument]:
    """Arguments of append_frames: for each entry how many fields and values it has, and these.

    The number of an event's is negative: the script stamps it with the time. All but bodies are strings, because those
    pack fastest.
    """
    arguments: list[Argument] = []
    for entry in entries:
        if isinstance(entry, Delta):
            if not entry.last and entry.call is None and entry.name is None:
                arguments += ("8", "t", entry.turn, "p", str(entry.part), "k", entry.kind, "x", entry.text)
            else:
                _pack_named(arguments, entry)
        else:
            size = str(-6 - 2 * len(entry.fields) - 2 * bool(entry.kept))
            arguments += (size, "t", entry.turn or "", "y", entry.type, "b", entry.body)
            if entry.kept:
                arguments += ("k", entry.kept)
            for item in entry.fields.items():
                arguments += item
    return arguments


def _pack_named(arguments: list[Argument], entry: Delta) -> None:
    extra: list[Argument] = []
    if entry.call is not None:
        extra += ("c", entry.call)
    if entry.name is not None:
        extra += ("n", entry.name)
    if entry.last:
        extra += ("l", "1")
    if entry.opaque is not None:
        extra += ("o", entry.opaque)
    size = str(8 + len(extra))
    arguments += (size, "t", entry.turn, "p", str(entry.part), "k", entry.kind, "x", entry.text, *extra)


def logged_of(raw: Sequence[Sequence[Any]]) -> list[Logged]:
    """What XRANGE says, as entries."""
    logged: list[Logged] = []
    turn_bytes, turn = b"", ""
    for place, fields in raw:
        seq = int(place[:-2])  # `seq-0`
        if fields[0] == b"t":
            if fields[1] != turn_bytes:
                # Runs of one turn share one string.
                turn_bytes, turn = fields[1], fields[1].decode()
            delta = Delta(turn, int(fields[3]), _KINDS[fields[5]], fields[7].decode())
            if len(fields) > 8:
                _add_names(delta, fields)
            logged.append(Logged(seq, seq, delta))
        else:
            logged.append(Logged(seq, seq, _event(fields)))
    return logged


def turn_of(fields: Sequence[bytes]) -> str | None:
    """The turn of an entry's fields; None for a session's entry."""
    return fields[fields.index(b"t") + 1].decode() or None if fields else None


def _add_names(delta: Delta, fields: Sequence[bytes]) -> None:
    for at in range(8, len(fields), 2):
        name = fields[at]
        if name == b"c":
            delta.call = fields[at + 1].decode()
        elif name == b"n":
            delta.name = fields[at + 1].decode()
        elif name == b"o":
            delta.opaque = fields[at + 1].decode()
        else:
            delta.last = True


def _event(fields: Sequence[bytes]) -> Event:
    values = dict(zip(fields[::2], fields[1::2], strict=True))
    others = {name.decode(): value.decode() for name, value in values.items() if name not in _EVENT_NAMES}
    kept = values.get(b"k", b"")
    return Event(values[b"y"].decode(), values[b"t"].decode() or None, values[b"b"], others, int(values[b"a"]), kept)


def answers_of(raw: Any) -> dict[str, bytes]:
    """Request to JSON value, from a turn's asks; those without an answer are left out.

    Lua gives a hash as names and values in turn. `request:by` tells who answered.
    """
    flat = cast("list[bytes]", raw)
    pairs = zip(flat[::2], flat[1::2], strict=True)
    return {name.decode(): value for name, value in pairs if value and not name.endswith(b":by")}
