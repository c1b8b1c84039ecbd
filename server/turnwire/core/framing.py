"""Log entries become wire frames: the door adds session, seq and first_seq.

Frames are built by hand, because this runs for every piece of every answer; the tests hold what comes out to the
models of turnwire_protocol. A delta's JSON is put together from text, so that only the delta's own text is escaped.
"""

from typing import Any, cast

import orjson

from turnwire.core.entries import Delta, Event, Logged
from turnwire_protocol.codec import JSON, Codec
from turnwire_protocol.events import Frame


def frame_of(session: str, logged: Logged) -> Frame:
    """The frame that a client of `session` receives for an entry."""
    entry = logged.entry
    if isinstance(entry, Delta):
        return _delta_frame(session, logged, entry)
    frame: Frame = {"type": entry.type, "session": session}
    if entry.turn is not None:
        frame["turn"] = entry.turn
    frame["seq"] = logged.seq
    frame["at"] = entry.at
    frame.update((name, value or None) for name, value in entry.fields.items())
    frame.update(body_of(entry))
    return frame


def body_of(event: Event) -> dict[str, Any]:
    """An event's stored body. It was written by this server, so it is an object."""
    return cast("dict[str, Any]", orjson.loads(event.body))


def encode_logged(codec: Codec, session: str, logged: Logged) -> bytes:
    """The frame's bytes in one codec."""
    entry = logged.entry
    if codec is not JSON or not isinstance(entry, Delta) or entry.call or entry.name:
        return codec.encode(frame_of(session, logged))
    # Ids are [A-Za-z0-9_-] and kinds are ours: nothing but the text can need escaping.
    first = f'"first_seq":{logged.first_seq},' if logged.first_seq != logged.seq else ""
    head = (
        f'{{"type":"turn.delta","session":"{session}","turn":"{entry.turn}","seq":{logged.seq},{first}'
        f'"part":{entry.part},"kind":"{entry.kind}","text":'
    )
    return head.encode() + orjson.dumps(entry.text) + (b',"last":true}' if entry.last else b"}")


def _delta_frame(session: str, logged: Logged, delta: Delta) -> Frame:
    frame: Frame = {"type": "turn.delta", "session": session, "turn": delta.turn, "seq": logged.seq}
    if logged.first_seq != logged.seq:
        frame["first_seq"] = logged.first_seq
    frame["part"] = delta.part
    frame["kind"] = delta.kind
    frame["text"] = delta.text
    if delta.call:
        frame["call"] = delta.call
    if delta.name:
        frame["name"] = delta.name
    if delta.last:
        frame["last"] = True
    return frame
