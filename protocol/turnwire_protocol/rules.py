"""The rules of the wire, by id. docs/protocol.md is where they are explained; a test holds the two lists equal.

An id is for ever: recorded sessions name the rules that they prove, and so do failing tests. A rule that is dropped
leaves its number unused.
"""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Rule:
    """One sentence that a client or a server can break."""

    id: str
    text: str
    checked: bool
    """Whether grammar.Verifier can see it broken. The others need a clock, a store, a second user or a client."""


class RuleBroken(Exception):
    """What a server sent is not Turnwire. `rule` is the id, `detail` says where, in numbers and ids only."""

    def __init__(self, rule: str, detail: str) -> None:
        super().__init__(f"{rule}: {detail}. The rule: {RULES[rule].text}")
        self.rule = rule
        self.detail = detail


_SEEN: Final = {
    # connection and envelope
    "HELLO-1": "Before `hello` only `ping` is served: any other command is answered with `unauthenticated` and close "
    "4401.",
    "HELLO-2": "`welcome` comes once, in answer to `hello`, and only `pong`, `error` and `goaway` may come before it.",
    "FRAME-1": "Every server frame fits the schema of its type, and a field that has nothing to say is absent, never "
    "null, unless its type has a null.",
    "FRAME-3": "A message that is no object within the limits of its encoding is answered with `bad_frame` and close "
    "4400.",
    "FRAME-4": "An object that is no valid command is answered with an `error`, with its `id` where that can be "
    "read, and the connection goes on.",
    "SIZE-1": "A message above the size limit is answered with `too_large` and close 4413.",
    "SIZE-2": "A `turn.snapshot` is at most 512 000 bytes of JSON.",
    # answers
    "ANSWER-1": "Each command gets exactly one answer, of the type that its row names or `error`, unless the "
    "connection closes first.",
    "ANSWER-2": "An answer repeats the command's `id` as `reply_to`, and no `reply_to` names anything else.",
    "ANSWER-3": "An `ack` carries exactly the fields that its command's row names, and the `seq` of a `turn.create` "
    "is that of the turn's `turn.accepted`.",
    "ANSWER-4": "An `error` that answers no command is the last frame before the close.",
    # opening and snapshots
    "OPEN-1": "Numbered frames come only for sessions that are open on the connection and have been given a gen there.",
    "OPEN-2": "`session.opened` answers a `session.open`, or precedes the ack of a `turn.create` in a session that "
    "is not open, or comes unasked for an open session, and is then a snapshot.",
    "OPEN-3": "A `turn.create` in a session that is not open opens it before the ack, by a replay that stands one "
    "before the ack's `seq`, or by a snapshot where that place is gone.",
    "OPEN-4": "A session without any turn opens as gen null, seq 0, turn null and an empty snapshot.",
    "SNAP-1": "Exactly `turns` frames `turn.snapshot` of that session follow a `session.opened` at once.",
    "SNAP-2": "A snapshot shows each turn once; the pieces of a long turn come one after the other, all but the "
    "first marked `continued`, and agree in everything but input, parts, and what only the last one has.",
    "SNAP-3": "A snapshot is the state as of exactly its `seq`: what a reader of the log up to there would have.",
    "SNAP-4": "A snapshot holds every unfinished turn and at most the last `history` others, oldest first.",
    # order
    "SEQ-1": "The frames of a cursor go on at `seq` + 1, without holes and without repeats.",
    "SEQ-2": "Within one gen, a seq names one frame: every reader gets the same there, merging aside.",
    "SEQ-3": "`session.opened.turn` is the turn of the entry at its `seq`.",
    "SEQ-4": "A cursor comes to each `seq` that an ack on its connection named.",
    "DELTA-1": "`first_seq` stands only on a delta that was merged, and is less than its `seq`.",
    "DELTA-2": "A merged delta stands for adjacent deltas of one part, with nothing else between them.",
    "RESUME-1": "A `session.open` is answered by a replay only from exactly the cursor that it named, gen, seq and "
    "turn alike.",
    "RESUME-2": "Within one gen nothing goes back: a snapshot never stands before what the connection was sent.",
    # turns
    "TURN-1": "A turn begins with `turn.accepted`, which comes once.",
    "TURN-2": "Retries, deltas and asks come only from a step that has started.",
    "TURN-3": "Steps count up from 1 by one, and attempts count up from 1 within their step.",
    "RETRY-1": "A step that has sent a delta is not attempted again.",
    "TERM-1": "A turn ends in one terminal, and no numbered frame of the turn follows it.",
    "TERM-2": "`session.deleted` ends the unfinished turns of its session, and the log.",
    "PART-1": "Parts are numbered from 0 in the order of their first deltas, and each keeps its kind.",
    "PART-2": "The first delta of a `tool_call` part has `call` and `name`, that of a `data` part has `name`, and no "
    "other delta has either.",
    "PART-3": "Nothing follows the delta of a part that is marked `last`, and every part has had it when its turn "
    "asks or ends.",
    "CHECKSUM-1": "A terminal lists each part of the turn with the kind, length and checksum of the text that was "
    "sent.",
    "PARTIAL-1": "`partial` of a `turn.error` says whether the turn has any part.",
    "ASK-1": "A turn asks for a `request` once, and a `turn.responded` answers one that is open.",
    "ASK-2": "A turn with an open request starts no step, retries nothing and sends no delta.",
    "ASK-3": "The first `turn.respond` to a request wins: the same again is acknowledged, another is refused.",
    "BUSY-1": "While one turn of a session is accepted as running, running or parked, no other starts.",
    "BUSY-2": "Queued turns start in the order in which they were accepted.",
    "IDEM-1": "A `turn.create` of a turn that exists, with the same content, is acknowledged as a `duplicate`.",
    "IDEM-2": "A `turn.create` of a turn that exists, with other content, is refused with `turn_conflict`.",
    "CANCEL-1": "The ack of a `turn.cancel` says `already_done` of a turn that has ended, and `pending` only of one "
    "that does not exist yet.",
    "CANCEL-2": "The terminal of a turn follows the ack of its `turn.cancel`, unless that said `pending`.",
    # the end
    "CLOSE-1": "A server closes only with codes of the table.",
    "CLOSE-2": "An `error` with the code that the table names is the last frame before a close in the range "
    "4000-4999, 4510 and 4513 excepted, where the client does not read.",
    "CLOSE-3": "Nothing follows the close.",
}

_UNSEEN: Final = {
    "CONNECT-1": "The first offered subprotocol that the server knows decides the encoding; with none offered it is "
    "JSON.",
    "CONNECT-2": "Where only unknown subprotocols are offered, the first is selected, and `unsupported` and close "
    "4406 follow.",
    "CONNECT-3": "A page of a foreign origin is refused with HTTP 403 before the upgrade; all else is refused after "
    "it.",
    "HELLO-3": "Without a `hello` within 5 s the connection closes with 4508.",
    "HELLO-4": "The commands of a connection are carried out in the order in which they were sent.",
    "FRAME-2": "A receiver ignores fields that it does not know; a client skips frames of unknown types and counts "
    "their `seq`.",
    "FRAME-5": "A command is legal in both encodings or in neither, and means the same in both.",
    "STORE-1": "A numbered frame is sent only after the store has acknowledged it.",
    "OWNER-1": "Another user's session or turn looks exactly like one that does not exist.",
    "RESUME-3": "A cursor whose place is not in the log any more, or is another history's, gets a snapshot, asked "
    "for or not.",
    "CLIENT-1": "A client drops frames at or before its cursor, applies the one that continues it, and reopens from "
    "the cursor on any other.",
    "CLIENT-2": "While a `session.open` is unanswered, its client drops that session's frames.",
    "CLIENT-3": "At a terminal a client compares each part's length and checksum with the text that it has.",
    "CLIENT-4": "A client adopts a gen only from `session.opened`, and a snapshot in place of all it had.",
    "CLIENT-5": "A turn that a client has as unfinished, and that a snapshot lacks, has ended with `store_lost`.",
    "CLIENT-6": "A client's second reopen of a session within 10 s, or one after a wrong checksum, names no cursor, "
    "and a third is shown as an error.",
    "TERM-3": "A terminal or another `turn.started` comes within `terminal_within_ms` of a node's death.",
    "BUSY-3": "`on_busy` decides about a turn that meets an active one: `reject` refuses it with `busy`, `queue` "
    "lets it wait, `interrupt` cancels the queued turns, then the active one, and lets it start.",
    "IDEM-3": "A turn id is remembered for 24 h after the turn's end, also after its session was deleted.",
    "IDEM-4": "A server that cannot learn whether a `turn.create` was stored closes with 4500, and the client sends "
    "it again.",
    "CANCEL-3": "A cancel is stored before it is answered, and closes the upstream request on whichever node has it.",
    "CANCEL-4": "A cancel of a turn that does not exist yet waits 60 s for it, and then ends it at once.",
    "CANCEL-5": "A lost connection cancels nothing, unless the turn said so with `on_disconnect`.",
    "AUTH-1": "An `auth.refresh` with another user's token closes with 4403.",
    "AUTH-2": "`auth.expiring` comes before a token ends, and close 4501 when it has ended or was revoked.",
    "AUTH-3": "A socket whose address has a query is refused with `unauthenticated` and close 4401.",
    "AUTH-4": "A command that its token does not allow is refused with `forbidden`, and the connection goes on.",
    "RATE-1": "A command over the rate is refused with `rate_limited` and `retry_after_ms`; going on regardless "
    "closes with 4529.",
    "QUOTA-1": "A turn beyond a quota is refused with `rate_limited` and the time after which it would be taken, or "
    "with `quota_exceeded`; it leaves no trace, and uses nothing up.",
    "ERROR-1": "An error's `message` is a sentence written for users, and its `retry` is what helps.",
    "CLOSE-4": "A client comes back after codes of 4500 and up and resumes, and stays away after 4000 to 4499 and "
    "1009.",
    "CLOSE-5": "`goaway` precedes the close of a server that stops, and its client comes back at a random time "
    "between the two that it names.",
    "LIVE-1": "A server pings after 20 s of silence and closes with 4510 where no pong comes.",
    "LIVE-2": "A client sends `ping` after `ping_ms` of silence, or on waking, and gives the connection up 3 s later.",
    "SLOW-1": "A client that takes over 10 s to read what is sent to it is cut off with 4513.",
}

RULES: Final[dict[str, Rule]] = {
    **{id: Rule(id, text, True) for id, text in _SEEN.items()},
    **{id: Rule(id, text, False) for id, text in _UNSEEN.items()},
}
