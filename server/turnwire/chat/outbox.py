"""Commands that wait for their answer. What may be repeated survives a lost connection; the rest fails with it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from turnwire.chat.turns import Fault
from turnwire_protocol.events import Frame

WAITING_MAX: Final = 256
TRIES_MAX: Final = 5
"""How often a command is sent that the server wants on another connection."""

LOST_ANSWER: Final = Fault("internal", "The connection was lost before the answer came.", "same_frame")

REPEATABLE: Final = frozenset(["turn.create", "turn.cancel"])
"""Idempotent by the protocol: twice is once."""


class CommandRefused(Exception):
    """A command was answered with an error, or never."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(f"{fault.code}: {fault.message}")
        self.fault = fault


OnAnswer = Callable[[Frame | Fault], None]


@dataclass(slots=True)
class Waiting:
    """A command without its answer. `sent` says whether it went out on the connection that is there now."""

    frame: Frame
    on_answer: OnAnswer
    sent: bool = False
    tries: int = 0


class Outbox:
    """Waiting commands by id, in the order in which they were given."""

    def __init__(self) -> None:
        self._waiting: dict[str, Waiting] = {}
        self._numbered = 0

    def add(self, frame: Frame, on_answer: OnAnswer) -> Waiting:
        """Give the command its id. Raises CommandRefused when too many wait already."""
        if len(self._waiting) >= WAITING_MAX:
            message = f"{len(self._waiting)} commands are waiting for the server already."
            raise CommandRefused(Fault("overloaded", message, "same_frame"))
        self._numbered += 1
        waiting = Waiting({**frame, "id": f"c{self._numbered}"}, on_answer)
        self._waiting[waiting.frame["id"]] = waiting
        return waiting

    def unsent(self) -> list[Waiting]:
        return [waiting for waiting in self._waiting.values() if not waiting.sent]

    def holds(self, session: str, turn: str) -> bool:
        """Whether the turn.create of this turn has no answer yet."""
        return any(
            (waiting.frame["type"], waiting.frame.get("session"), waiting.frame.get("turn"))
            == ("turn.create", session, turn)
            for waiting in self._waiting.values()
        )

    def answer(self, frame: Frame) -> bool:
        """An ack or an error. False when the server wants the command on another connection, where it will go next."""
        waiting = self._waiting.get(str(frame.get("reply_to")))
        if waiting is None:
            return True
        if frame["type"] == "error":
            fault = Fault.from_body(frame["error"])
            again = fault.retry == "reconnect" and waiting.frame["type"] in REPEATABLE
            if again and waiting.tries < TRIES_MAX:
                return False
            self._settle(waiting, fault)
        else:
            self._settle(waiting, frame)
        return True

    def disconnect(self) -> None:
        """The connection is gone, and with it the answers of what was sent on it."""
        for waiting in list(self._waiting.values()):
            if waiting.sent and waiting.frame["type"] not in REPEATABLE:
                self._settle(waiting, LOST_ANSWER)
            waiting.tries += waiting.sent
            waiting.sent = False

    def fail_all(self, why: Fault) -> None:
        """There will be no other connection."""
        for waiting in list(self._waiting.values()):
            self._settle(waiting, why)

    def _settle(self, waiting: Waiting, answer: Frame | Fault) -> None:
        del self._waiting[waiting.frame["id"]]
        waiting.on_answer(answer)
