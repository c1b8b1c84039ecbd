"""A verifier of one connection: both directions' frames in, RuleBroken out where the server broke a rule.

It never does I/O and knows no clock, so it cannot see what is late, only what is wrong. It believes the client
anything: a client may send what it likes, and it is the server that has to answer properly. Give verifiers of one user
a History in common, and what different connections were told is compared too.
"""

from collections.abc import Callable
from typing import Any, Final, cast

from pydantic import TypeAdapter, ValidationError

from turnwire_protocol import limits
from turnwire_protocol.codec import JSON, Codec, FrameRefused
from turnwire_protocol.codes import LAST_ERRORS, CloseCode
from turnwire_protocol.commands import Hello, SessionOpen
from turnwire_protocol.events import NUMBERED_TYPES, AnyEvent, Frame
from turnwire_protocol.grammar_answers import Answers, Asked, asked_by, check_ack, refused_by
from turnwire_protocol.grammar_history import History, Reader
from turnwire_protocol.grammar_snapshots import SnapshotReader
from turnwire_protocol.rules import RuleBroken
from turnwire_protocol.values import Value

__all__ = ["History", "RuleBroken", "Verifier"]

_events: Final[TypeAdapter[Any]] = TypeAdapter(AnyEvent)
_BEFORE_WELCOME: Final = frozenset(["welcome", "pong", "error", "goaway"])
_CUT: Final = range(1000, 1016)
"""Codes of the transport: the connection was lost, or the client closed it."""


class Verifier:
    """One connection, from its first frame to its end."""

    def __init__(self, history: History | None = None, *, codec: Codec = JSON) -> None:
        self._history = History() if history is None else history
        self._codec = codec
        self._bytes_max = limits.COMMAND_BYTES_MAX
        self._answers = Answers()
        self._readers: dict[str, Reader] = {}
        self._snapshot: SnapshotReader | None = None
        self._greeted = False
        self._welcomed = False
        self._newest: Frame | None = None
        self._last_words: str | None = None
        """The rule by which the close must come next."""
        self._close: CloseCode | None = None
        """Which close that is, where it is known."""
        self._closed = False
        self._handlers: Final[dict[str, Callable[[Frame], None]]] = {
            "welcome": self._on_welcome,
            "session.opened": self._on_opened,
            "turn.snapshot": self._on_snapshot,
            "ack": self._on_ack,
            "error": self._on_error,
            "pong": self._on_pong,
        }

    # --- what happens ---------------------------------------------------------------------------------------------

    def client_sent(self, frame: Frame | None = None, raw: bytes | str | None = None) -> None:
        """A frame, or a message as it was sent, which may be anything."""
        if raw is None:
            encoded = self._codec.encode(frame or {})
            raw = encoded if self._codec.binary else encoded.decode()
        try:
            command = self._codec.decode_command(raw, self._bytes_max)
        except FrameRefused as refusal:
            self._answers.expect(refused_by(refusal))
            return
        self._answers.expect(asked_by(command, self._history, greeted=self._greeted))
        self._greeted = self._greeted or isinstance(command, Hello)

    def server_sent(self, frame: Frame) -> None:
        """A frame from the server. Raises RuleBroken."""
        check_shape(frame)
        kind = frame["type"]
        if self._closed:
            raise RuleBroken("CLOSE-3", f"{kind} comes behind the close")
        if self._last_words is not None:
            raise RuleBroken(self._last_words, f"{kind} comes where only the close may")
        if not self._welcomed and kind not in _BEFORE_WELCOME:
            raise RuleBroken("HELLO-2", f"{kind} comes before welcome")
        if self._snapshot is not None and kind != "turn.snapshot":
            raise RuleBroken("SNAP-1", f"{kind} comes where {self._snapshot.left} turn.snapshot are left")
        if kind in NUMBERED_TYPES:
            reader = self._readers.get(frame["session"])
            if reader is None:
                raise RuleBroken("OPEN-1", f"{kind} of session {frame['session']}, which is not open")
            reader.take(frame)
        elif kind in self._handlers:
            self._handlers[kind](frame)
        self._newest = frame

    def closed(self, code: int) -> None:
        """The connection is over; 1006 where it was cut. Raises RuleBroken."""
        self._closed = True
        if code in _CUT:
            return
        if code not in CloseCode.__members__.values():
            raise RuleBroken("CLOSE-1", f"close {code} is not in the table")
        if self._close is not None and code != self._close:
            raise RuleBroken(self._last_words or "CLOSE-1", f"close {code} comes in place of {self._close}")
        wanted = LAST_ERRORS.get(CloseCode(code))
        if wanted is None:
            return
        if self._newest is None or self._newest["type"] != "error" or self._newest["error"]["code"] not in wanted:
            raise RuleBroken("CLOSE-2", f"close {code} comes without an error of {sorted(wanted)}")

    def finish(self) -> None:
        """Nothing more is on its way in either direction. Raises RuleBroken for what should have come."""
        if self._closed:
            return
        if self._last_words is not None:
            raise RuleBroken(self._last_words, "the close has not come")
        if self._snapshot is not None:
            raise RuleBroken("SNAP-1", f"{self._snapshot.left} turn.snapshot are left")
        self._answers.at_rest()
        for reader in self._readers.values():
            reader.at_rest()

    # --- answers --------------------------------------------------------------------------------------------------

    def _on_welcome(self, frame: Frame) -> None:
        if self._welcomed:
            raise RuleBroken("HELLO-2", "welcome comes again")
        self._answers.settle(frame)
        self._welcomed = True
        self._bytes_max = min(self._bytes_max, frame["limits"]["frame_bytes_max"])

    def _on_pong(self, frame: Frame) -> None:
        self._answers.settle(frame)

    def _on_error(self, frame: Frame) -> None:
        asked = self._answers.settle_error(frame)
        code = frame["error"]["code"]
        if asked is None:
            self._last_words = "ANSWER-4"
            return
        if asked.close is not None and code != "rate_limited":
            self._last_words, self._close = asked.rule, asked.close
        if isinstance(asked.command, Hello) and not self._welcomed:
            self._greeted = False
        log = self._history.newest(asked.session)
        if code == "turn_conflict" and asked.existed and log is not None:
            known = self._history.digests.get((asked.session, asked.about("turn")))
            if known == asked.digest:
                raise RuleBroken("IDEM-1", f"turn {asked.about('turn')} is refused, and says the same as before")

    def _on_ack(self, frame: Frame) -> None:
        asked = self._answers.settle(frame)
        check_ack(asked, frame)
        session = asked.session
        if asked.name == "session.close":
            self._readers.pop(session, None)
        elif asked.name == "turn.create":
            self._created(asked, frame)
        elif asked.name == "turn.cancel":
            self._cancelled(asked, frame)
        elif asked.name == "turn.respond" and asked.gen is not None:
            said = asked.about("value")
            response = (asked.gen, session, frame["turn"], asked.about("request"))
            if self._history.responses.setdefault(response, said) != said:
                raise RuleBroken("ASK-3", f"turn {frame['turn']}: another answer to {response[3]} is acknowledged")

    def _created(self, asked: Asked, ack: Frame) -> None:
        session, turn, seq = ack["session"], ack["turn"], ack["seq"]
        reader = self._readers.get(session)
        if reader is None:
            raise RuleBroken("OPEN-3", f"turn {turn} is acknowledged and session {session} is not open")
        if asked.opened_at is not None and seq != asked.opened_at + 1:
            raise RuleBroken("OPEN-3", f"turn {turn} is at seq {seq}, its session was opened at {asked.opened_at}")
        key, known = (session, turn), self._history.digests.get((session, turn))
        if reader.log is not None and asked.gen in (None, reader.gen):
            place = reader.log.accepted.get(turn)
            if place is not None and place != seq:
                raise RuleBroken("ANSWER-3", f"turn {turn} is acknowledged at seq {seq} and was accepted at {place}")
            if asked.existed and known is not None and known != asked.digest:
                raise RuleBroken("IDEM-2", f"turn {turn} is acknowledged, and said something else before")
            if asked.existed and not ack["duplicate"]:
                raise RuleBroken("IDEM-1", f"turn {turn} existed and is no duplicate")
        reader.acked[turn] = seq
        if known is None or not ack["duplicate"]:
            self._history.digests[key] = asked.digest

    def _cancelled(self, asked: Asked, ack: Frame) -> None:
        session, turn, result = ack["session"], ack["turn"], ack["result"]
        if asked.gen is not None and asked.gen == self._history.gens.get(session):
            if asked.had_ended and result != "already_done":
                raise RuleBroken("CANCEL-1", f"turn {turn} has ended, its cancel says {result}")
            if asked.existed and result == "pending":
                raise RuleBroken("CANCEL-1", f"turn {turn} exists, its cancel says {result}")
        reader = self._readers.get(session)
        if reader is not None and result == "cancelling":
            reader.to_end.add(turn)

    # --- opening --------------------------------------------------------------------------------------------------

    def _on_opened(self, frame: Frame) -> None:
        session, gen, seq = frame["session"], frame["gen"], frame["seq"]
        asked = self._asked_to_open(frame)
        if gen is None:
            if (seq, frame["turn"], frame["turns"], frame["mode"]) != (0, None, 0, "snapshot"):
                raise RuleBroken("OPEN-4", f"session {session} has no gen and opens at seq {seq}")
            self._history.gens.pop(session, None)
            self._stand(Reader(session, None, None, 0, None))
            return
        log = self._history.log(session, gen)
        if frame["mode"] == "replay":
            self._check_replay(frame, asked)
            stop = log.stops.get(seq)
            if stop is not None and stop.turn != frame["turn"]:
                raise RuleBroken("SEQ-3", f"session {session} seq {seq} is turn {stop.turn}'s, not {frame['turn']}'s")
            self._stand(Reader(session, gen, log, seq, stop))
            return
        old = self._readers.get(session)
        if old is not None and old.gen == gen and seq < old.seq:
            raise RuleBroken("RESUME-2", f"session {session}: a snapshot at seq {seq}, {old.seq} was sent")
        history = asked.command.history if asked is not None and isinstance(asked.command, SessionOpen) else None
        self._snapshot = SnapshotReader(frame, log, history)
        self._end_snapshot()

    def _asked_to_open(self, frame: Frame) -> Asked | None:
        """What a session.opened answers: a session.open, a turn.create, or None where it comes unasked."""
        session = frame["session"]
        if "reply_to" in frame or (session in self._readers and self._answers.waits_to_open(session)):
            return self._answers.settle(frame)
        if session in self._readers:
            return None
        asked = self._answers.opens(session)
        if asked is None:
            raise RuleBroken("OPEN-2", f"session {session} is opened, which nothing has asked for")
        return self._answers.settle(frame) if isinstance(asked.command, SessionOpen) else asked

    def _check_replay(self, frame: Frame, asked: Asked | None) -> None:
        session, place = frame["session"], (frame["gen"], frame["seq"], frame["turn"])
        if asked is None:
            raise RuleBroken("OPEN-2", f"session {session} is open and gets a replay unasked")
        if frame["turns"]:
            raise RuleBroken("SNAP-1", f"a replay of session {session} has {frame['turns']} snapshots")
        if not isinstance(asked.command, SessionOpen):
            asked.opened_at = frame["seq"]
            return
        after = asked.command.after
        if after is None or place != (after.gen, after.seq, after.turn):
            raise RuleBroken("RESUME-1", f"session {session} is replayed from {place}")

    def _on_snapshot(self, frame: Frame) -> None:
        if self._snapshot is None:
            raise RuleBroken("SNAP-1", f"turn.snapshot of turn {frame['turn']} comes behind no session.opened")
        self._snapshot.take(frame)
        self._end_snapshot()

    def _end_snapshot(self) -> None:
        snapshot = self._snapshot
        if snapshot is None or snapshot.left:
            return
        self._snapshot = None
        opened = snapshot.opened
        self._stand(Reader(opened["session"], opened["gen"], snapshot.log, opened["seq"], snapshot.stop()))

    def _stand(self, reader: Reader) -> None:
        """A new cursor in place of the old one; what acks said goes on within one gen."""
        old = self._readers.get(reader.session)
        if old is not None and (old.gen is None or old.gen == reader.gen):
            reader.acked, reader.to_end = old.acked, old.to_end
        self._readers[reader.session] = reader


def check_shape(frame: Frame) -> None:
    """Whether a server frame fits its schema, absent fields being absent. Raises RuleBroken."""
    try:
        JSON.encode(frame)
        event: Value = _events.validate_python(frame)
    except TypeError as error:  # a lone surrogate, or a value that is none of JSON's
        raise RuleBroken("FRAME-1", f"a server frame cannot be written: {error}") from None
    except ValidationError as error:
        fault = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(step) for step in fault["loc"])
        raise RuleBroken("FRAME-1", f"{where or 'a server frame'}: {fault['type']}") from None
    if frame["type"] != "turn.delta" or None in frame.values():
        _check_absent(event, frame["type"])


def _check_absent(value: Value, where: str) -> None:
    for name in value.model_fields_set:
        field: Any = getattr(value, name)
        if field is None and not type(value).model_fields[name].is_required():
            raise RuleBroken("FRAME-1", f"{where}.{name} is null where it should be absent")
        items = cast("list[Any]", field) if isinstance(field, list) else [field]
        for item in items:
            if isinstance(item, Value):
                _check_absent(item, f"{where}.{name}")
