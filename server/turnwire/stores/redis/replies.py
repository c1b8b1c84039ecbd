"""What the scripts answer, as the values of turnwire.core.log_values.

A script answers with an array whose first element names the result; refusals are shorter than successes. Empty strings
stand for what is not there, because an array in Lua ends at its first nil.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Final, Literal

import orjson

from turnwire.core.entries import Event, Logged
from turnwire.core.log_values import (
    Accepted,
    AcceptRequest,
    Appended,
    Cancelled,
    Deleted,
    ListPlace,
    LogRange,
    Renewed,
    Responded,
    SessionInfo,
    SessionPage,
    SessionView,
    StoredTurn,
    Taken,
    TurnKey,
    TurnPage,
    Updated,
)
from turnwire.stores.redis.counted import counted_of, left_of, limit_of
from turnwire.stores.redis.records import answers_of, logged_of, turn_of

AppendResult = Literal["ok", "dup", "gone", "lost", "fenced", "sealed", "regressed"]

_APPEND_RESULTS: Final[dict[bytes, AppendResult]] = {
    b"ok": "ok",
    b"dup": "dup",
    b"gone": "gone",
    b"lost": "lost",
    b"fenced": "fenced",
    b"sealed": "sealed",
    b"regressed": "regressed",
}


def _text(value: bytes) -> str | None:
    return value.decode() or None


def accepted_of(reply: Sequence[Any]) -> Accepted:
    result = reply[0].decode()
    if len(reply) == 1:
        return Accepted(result)
    if result == "busy":
        return Accepted(result, active=_text(reply[1]))
    if result == "limited":
        return Accepted(result, limit=limit_of(reply[1]), retry_after_ms=reply[2])
    _, gen, seq, parent, entries, interrupted, following, left, predecessor = reply
    return Accepted(
        result,
        gen.decode(),
        seq,
        _text(parent),
        logged_of(entries),
        _text(interrupted),
        _text(following),
        left=left_of(left),
        predecessor=_text(predecessor),
    )


def appended_of(reply: Sequence[Any]) -> Appended:
    result = _APPEND_RESULTS[reply[0]]
    match len(reply):
        case 1:
            return Appended(result)
        case 2:
            return Appended(result, reply[1].decode())
        case 3 if result == "fenced":
            return Appended(result, reply[1].decode(), holder=_text(reply[2]))
        case 3:
            return Appended(result, reply[1].decode(), counter=reply[2])
        case 6:
            _, gen, first_seq, at, counter, cancel_by = reply
            return Appended(result, gen.decode(), first_seq, at, counter, _text(cancel_by))
        case _:
            _, gen, first_seq, at, counter, cancel_by, following = reply
            return Appended(result, gen.decode(), first_seq, at, counter, _text(cancel_by), _text(following))


def renewed_of(reply: Sequence[Any]) -> Renewed:
    result = reply[0].decode()
    match len(reply):
        case 1:
            return Renewed(result)
        case 2:
            return Renewed(result, holder=_text(reply[1]))
        case _:
            return Renewed(result, _text(reply[1]), reply[2])


def taken_of(key: TurnKey, nonce: str, reply: Sequence[Any], entries: Sequence[Logged]) -> Taken:
    """`entries` are the turn's, for one that was taken."""
    result = reply[0].decode()
    if result != "taken":
        return Taken(result, reply[1].decode() if len(reply) > 1 else "")
    _, gen, state, counter, seq, at, takes, cancel_by, _, answers, *accepted = reply
    digest, body, spec, cancelled_body, parent, cancel_after_ms, *counted, taken_from, predecessor = accepted
    request = AcceptRequest(
        key,
        nonce,
        digest.decode(),
        body,
        spec,
        cancelled_body,
        (parent.decode(),) if parent else "root",
        author=orjson.loads(body)["author"],
        cancel_after_ms=int(cancel_after_ms) if cancel_after_ms else None,
        counted=counted_of(*counted) if counted[0] else None,
        taken_from=_text(taken_from),
        predecessor=_text(predecessor),
    )
    return Taken(
        result,
        gen.decode(),
        state.decode(),
        request,
        counter,
        seq,
        at,
        takes,
        _text(cancel_by),
        entries,
        answers_of(answers),
    )


def cancelled_of(reply: Sequence[Any]) -> Cancelled:
    result = reply[0].decode()
    if len(reply) == 2:
        return Cancelled(result, reply[1].decode())
    _, gen, entries, node, take = reply
    return Cancelled(result, gen.decode(), logged_of(entries), _text(node), _text(take))


def responded_of(reply: Sequence[Any]) -> Responded:
    result = reply[0].decode()
    if result != "ok":
        return Responded(result, reply[1].decode() if len(reply) > 1 else "")
    _, gen, entries, take = reply
    return Responded(result, gen.decode(), logged_of(entries), _text(take))


def view_of(reply: Sequence[Any], entries: Sequence[Logged]) -> SessionView:
    """`entries` are all since the oldest unfinished turn was accepted."""
    gen, head, _, turns, floor, at_head, leaf = reply
    stored = stored_turns_of(turns, entries)
    stored.sort(key=lambda turn: turn.accepted.seq)
    return SessionView(gen.decode(), head, floor, turn_of(at_head), _text(leaf), stored)


def turn_page_of(reply: Sequence[Any], entries: Sequence[Logged]) -> TurnPage:
    """`entries` are all since the oldest unfinished turn was accepted."""
    _, _, _, turns, following = reply
    return TurnPage(stored_turns_of(turns, entries)[::-1], _text(following))


def info_of(session: str, summary: Sequence[Any]) -> SessionInfo:
    title, preview, metadata, created_at, updated_at = summary
    return SessionInfo(
        session,
        orjson.loads(title) if title else None,
        preview.decode() if preview else None,
        metadata or b"{}",
        int(created_at),
        int(updated_at),
    )


def page_of(reply: Sequence[Any]) -> SessionPage:
    found, at, session = reply
    following = ListPlace(int(at), session.decode()) if session else None
    return SessionPage([info_of(name.decode(), summary) for name, summary in found], following)


def updated_of(session: str, reply: Sequence[Any]) -> Updated | None:
    if not reply:
        return None
    gen, entries, summary = reply
    return Updated(info_of(session, summary), gen.decode(), logged_of(entries))


def deleted_of(reply: Sequence[Any]) -> Deleted | None:
    if not reply:
        return None
    gen, seq, at, active = reply
    return Deleted(gen.decode(), seq, at, _text(active))


def stored_turns_of(turns: Sequence[Sequence[Any]], entries: Sequence[Logged]) -> list[StoredTurn]:
    """Turns in the order given, each unfinished one with its share of the entries."""
    entries_by_turn: defaultdict[str | None, list[Logged]] = defaultdict(list)
    for logged in entries:
        entries_by_turn[logged.entry.turn].append(logged)
    return [_stored_turn(raw, entries_by_turn) for raw in turns]


def _stored_turn(raw: Sequence[Any], entries_by_turn: dict[str | None, list[Logged]]) -> StoredTurn:
    name, state, parent, seq, at, body, accepted_state, spec, record, end_type, end_body, end_seq, end_at = raw
    turn = name.decode()
    fields = {"parent": parent.decode(), "state": accepted_state.decode()}
    accepted = Logged(int(seq), int(seq), Event("turn.accepted", turn, body, fields, int(at)))
    common = (turn, state.decode(), _text(parent), accepted, spec)
    if not end_type:
        return StoredTurn(*common, None, None, entries_by_turn.get(turn, ()))
    terminal = Logged(int(end_seq), int(end_seq), Event(end_type.decode(), turn, end_body, {}, int(end_at)))
    return StoredTurn(*common, record, terminal)


def range_of(place: Sequence[Any], after_seq: int, raw: Sequence[Sequence[Any]]) -> LogRange:
    """`raw` are the entries from `after_seq` itself on, as far as the log has them."""
    if not place:
        return LogRange(None, 0, 0, None, after_seq == 0)
    gen, head, floor, overdue = place
    entries = raw
    at_known, turn_at = after_seq == 0, None
    if raw and after_seq and raw[0][0] == b"%d-0" % after_seq:
        at_known, turn_at = True, turn_of(raw[0][1])
        entries = raw[1:]
    logged = logged_of(entries)
    if logged and logged[0].seq != after_seq + 1:
        # What comes next was trimmed, and entries never stand behind a hole.
        logged = []
    return LogRange(gen.decode(), head, floor, turn_at, at_known, logged, _text(overdue))
