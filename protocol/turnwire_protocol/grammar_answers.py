"""What a client has asked on one connection, and which of it a frame answers.

Every command is answered once. One with an `id` is found by it; those without are found by what they are about, the
oldest first, because nothing else tells them apart.
"""

from dataclasses import dataclass
from typing import Any, Final

from turnwire_protocol.codec import FrameRefused
from turnwire_protocol.codes import CloseCode
from turnwire_protocol.commands import ANSWERED_BY, AnyCommand, Hello, Ping, SessionOpen, TurnCreate
from turnwire_protocol.events import Frame
from turnwire_protocol.fingerprint import digest_of
from turnwire_protocol.grammar_history import History
from turnwire_protocol.rules import RuleBroken

_ACK_FIELDS: Final[dict[str, frozenset[str]]] = {
    "auth.refresh": frozenset(()),
    "session.close": frozenset(["session"]),
    "turn.create": frozenset(["session", "turn", "seq", "duplicate"]),
    "turn.cancel": frozenset(["session", "turn", "result"]),
    "turn.respond": frozenset(["session", "turn"]),
}
_ACK_FIELDS_ANY: Final = frozenset(["session", "turn", "seq", "duplicate", "result"])


@dataclass(slots=True)
class Asked:
    """One message of the client, and what was known when it was sent.

    `command` is None for what is no valid command. `rule` is broken by whoever does not answer as expected; where
    `codes` are given, only an error with one of them will do, and `close`, if any, must follow it.
    """

    name: str
    reply_to: str | None
    command: AnyCommand | None
    rule: str = "ANSWER-1"
    codes: frozenset[str] | None = None
    close: CloseCode | None = None
    gen: str | None = None
    """The session's newest gen at that time."""
    existed: bool = False
    """The turn was known to exist in that gen."""
    had_ended: bool = False
    digest: str = ""
    opened_at: int | None = None
    """Where a turn.create's own replay stands, once it was sent."""

    @property
    def session(self) -> str:
        """The session that the command is about; empty where it is about none."""
        return self.about("session") or ""

    def about(self, name: str) -> Any:
        """The command's own field of this name, None where it has none."""
        return getattr(self.command, name, None)

    def takes(self, kind: str) -> bool:
        """Whether a frame of this type may answer."""
        return kind == "error" or (self.codes is None and kind == ANSWERED_BY[self.name])

    def is_named_by(self, frame: Frame) -> bool:
        """Whether the frame speaks of nothing else than the command does."""
        return all(frame.get(name) in (None, self.about(name)) for name in _names_in(frame))

    def is_named_in_full(self, frame: Frame) -> bool:
        """Whether the frame also speaks of all that the command does."""
        return all(frame.get(name) == self.about(name) for name in _names_in(frame))


def _names_in(frame: Frame) -> tuple[str, ...]:
    # The turn of a session.opened is the cursor's, not the command's.
    return ("session",) if frame["type"] == "session.opened" else ("session", "turn")


def asked_by(command: AnyCommand, history: History, *, greeted: bool) -> Asked:
    """A valid command. `greeted`: a hello went before it."""
    asked = Asked(command.type, command.id, command)
    if not greeted and not isinstance(command, Hello | Ping):
        asked.rule, asked.close = "HELLO-1", CloseCode.UNAUTHENTICATED
        asked.codes = frozenset(["unauthenticated", "rate_limited"])
        return asked
    session, turn = asked.session, asked.about("turn")
    asked.gen = history.gens.get(session)
    log = history.newest(session)
    if log is not None:
        asked.existed = turn in log.accepted
        asked.had_ended = turn in log.over
    if isinstance(command, TurnCreate):
        asked.digest = digest_of(command)
    return asked


def refused_by(refusal: FrameRefused) -> Asked:
    """A message that is no valid command."""
    codes = frozenset([refusal.code, "rate_limited"] if refusal.close is None else [refusal.code])
    rule = {None: "FRAME-4", CloseCode.BAD_FRAME: "FRAME-3", CloseCode.TOO_LARGE: "SIZE-1"}[refusal.close]
    return Asked(f"refused ({refusal.message})", refusal.reply_to, None, rule, codes, refusal.close)


class Answers:
    """The commands of one connection that still wait for their answer."""

    def __init__(self) -> None:
        self._waiting: list[Asked] = []
        self._answered: set[str] = set()

    def expect(self, asked: Asked) -> None:
        self._waiting.append(asked)

    def settle(self, frame: Frame) -> Asked:
        """What the frame answers. Raises RuleBroken."""
        asked = self._find(frame)
        if asked is None:
            raise RuleBroken("ANSWER-1", f"{frame['type']} answers nothing that was asked")
        return asked

    def settle_error(self, frame: Frame) -> Asked | None:
        """What an error answers; None where that is nothing. Raises RuleBroken."""
        asked = self._find(frame)
        if asked is not None and asked.codes is not None and frame["error"]["code"] not in asked.codes:
            raise RuleBroken(asked.rule, f"{asked.name} is answered with {frame['error']['code']}")
        return asked

    def _find(self, frame: Frame) -> Asked | None:
        kind, reply_to = frame["type"], frame.get("reply_to")
        candidates = [asked for asked in self._waiting if asked.reply_to == reply_to]
        if reply_to is not None and not candidates:
            why = "was answered before" if reply_to in self._answered else "was never asked"
            raise RuleBroken("ANSWER-2", f"{kind} in reply to {reply_to}, which {why}")
        fitting = [asked for asked in candidates if asked.takes(kind)]
        named = [asked for asked in fitting if asked.is_named_by(frame)]
        chosen = next((asked for asked in named if asked.is_named_in_full(frame)), named[0] if named else None)
        if chosen is not None:
            self._waiting.remove(chosen)
            if reply_to is not None:
                self._answered.add(reply_to)
        elif reply_to is not None and fitting:
            raise RuleBroken("ANSWER-3", f"{kind} in reply to {reply_to} speaks of another session or turn")
        elif reply_to is not None:
            raise RuleBroken(candidates[0].rule, f"{kind} answers {candidates[0].name} {reply_to}")
        return chosen

    def opens(self, session: str) -> Asked | None:
        """The oldest waiting command that may open this session without being named: an open without id, a create."""
        for asked in self._waiting:
            named = isinstance(asked.command, SessionOpen) and asked.reply_to is not None
            if asked.session == session and not named and isinstance(asked.command, SessionOpen | TurnCreate):
                return asked
        return None

    def waits_to_open(self, session: str) -> bool:
        """Whether an open without id waits."""
        return any(
            isinstance(asked.command, SessionOpen) and asked.reply_to is None and asked.command.session == session
            for asked in self._waiting
        )

    def at_rest(self) -> None:
        """Nothing more is on its way. Raises RuleBroken for the first command without an answer."""
        for asked in self._waiting:
            raise RuleBroken(asked.rule, f"{asked.name} {asked.reply_to or 'without id'} has no answer")


def check_ack(asked: Asked, ack: Frame) -> None:
    """Whether an ack carries what its command calls for. Raises RuleBroken."""
    present = _ACK_FIELDS_ANY.intersection(ack)
    strange = ("expires_at" in ack and asked.name != "auth.refresh") or ("left" in ack and asked.name != "turn.create")
    if strange or present != _ACK_FIELDS[asked.name]:
        raise RuleBroken("ANSWER-3", f"the ack of {asked.name} has {sorted(present)}")
