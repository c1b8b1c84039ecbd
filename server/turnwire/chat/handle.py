"""What a caller holds of a turn it has sent: its pieces as they come, and how it ended.

A handle outlives connections and snapshots: it looks its turn up in the transcript each time, because a snapshot puts
another one in its place.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

from turnwire.chat.outbox import CommandRefused, Outbox
from turnwire.chat.transcript import Transcript
from turnwire.chat.turns import GONE, LOST, Fault, Part, Turn
from turnwire_protocol.events import Frame


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of an answer. With `replaces` it is the part's whole text, in place of what was told of it before."""

    part: int
    kind: str
    text: str
    replaces: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a turn ended. `turn` is None when the server never had it; without `fault` it ended with turn.done."""

    turn: Turn | None
    fault: Fault | None = None

    @property
    def ok(self) -> bool:
        return self.fault is None

    @property
    def text(self) -> str:
        return "" if self.turn is None else self.turn.text

    @property
    def terminal(self) -> Frame | None:
        return None if self.turn is None else self.turn.terminal

    @property
    def finish_reason(self) -> str | None:
        return None if self.terminal is None else self.terminal.get("finish_reason")


class TurnHandle:
    """One turn that this client sent. Iterate over it for its pieces from the beginning; any number may."""

    def __init__(
        self,
        session: str,
        turn: str,
        *,
        find: Callable[[], Turn | None],
        cancel: Callable[[], Awaitable[str]],
    ) -> None:
        self.session = session
        self.id = turn
        self.ack: Frame | None = None
        """Of its turn.create; empty for a turn that this client did not send."""
        self.outcome: Outcome | None = None
        self._find = find
        self._cancel = cancel
        self._changed = asyncio.Event()

    @property
    def turn(self) -> Turn | None:
        """As far as it has come; None before the server has told of it."""
        return self._find() if self.outcome is None else self.outcome.turn

    async def acknowledged(self) -> Frame:
        """The `ack` of its turn.create. Raises CommandRefused when there will be none."""
        await self._until(lambda: self.ack is not None or self.outcome is not None)
        if self.ack is None:
            assert self.outcome is not None and self.outcome.fault is not None  # noqa: S101 - an end without an ack has one
            raise CommandRefused(self.outcome.fault)
        return self.ack

    async def done(self) -> Outcome:
        """How it ended. Never raises: what went wrong is the outcome's fault."""
        await self._until(lambda: self.outcome is not None)
        assert self.outcome is not None  # noqa: S101 - for the type checker: that was waited for
        return self.outcome

    async def cancel(self) -> str:
        """Stop it; what the server says to that. Raises CommandRefused."""
        return await self._cancel()

    async def __aiter__(self) -> AsyncIterator[Delta]:
        told: dict[int, tuple[Part, int]] = {}
        while True:
            changed, over = self._changed, self.outcome is not None
            turn = self.turn
            for delta in _news(turn, told) if turn is not None else ():
                yield delta
            if over:
                return
            await changed.wait()

    # --- for the connection ----------------------------------------------------------------------------------------

    def acknowledge(self, ack: Frame) -> None:
        self.ack = ack
        self.wake()

    def end(self, outcome: Outcome) -> None:
        """Only the first end counts."""
        if self.outcome is None:
            self.outcome = outcome
            self.wake()

    def wake(self) -> None:
        """Something is new."""
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def _until(self, reached: Callable[[], bool]) -> None:
        while not reached():
            await self._changed.wait()


class Handles:
    """All turns that were sent and have not ended, kept in step with transcript and outbox."""

    def __init__(self, transcript: Transcript, outbox: Outbox) -> None:
        self._transcript = transcript
        self._outbox = outbox
        self._open: dict[tuple[str, str], TurnHandle] = {}

    def add(self, handle: TurnHandle) -> None:
        self._open[handle.session, handle.id] = handle

    def wake(self, turn: Turn) -> None:
        handle = self._open.get((turn.session, turn.id))
        if handle is not None:
            handle.wake()

    def taken(self, handle: TurnHandle, answer: Frame | Fault) -> None:
        """The answer to its turn.create."""
        if isinstance(answer, Fault):
            self._end(handle, Outcome(handle.turn, answer))
            return
        handle.acknowledge(answer)
        if handle.turn is not None and handle.turn.ended:
            self.end(handle.turn)
        else:
            self._miss(handle)

    def end(self, turn: Turn) -> None:
        """The turn has ended, or is lost."""
        handle = self._open.get((turn.session, turn.id))
        # What a store has lost before it was acknowledged, it will take again from the outbox.
        comes_again = turn.terminal is None and self._outbox.holds(turn.session, turn.id)
        if handle is not None and not comes_again:
            self._end(handle, Outcome(turn, turn.fault))

    def miss(self, session: str) -> None:
        """The session is up to date: look for turns that it should show and does not."""
        for handle in self._of_session(session):
            self._miss(handle)

    def break_off(self, session: str, why: Fault) -> None:
        for handle in self._of_session(session):
            self._end(handle, Outcome(handle.turn, why))

    def end_all(self, why: Fault) -> None:
        for handle in list(self._open.values()):
            self._end(handle, Outcome(handle.turn, why))

    def _miss(self, handle: TurnHandle) -> None:
        """A turn that was taken, in a session that is past that and does not show it, has ended out of sight."""
        known = self._transcript.sessions.get(handle.session)
        if not handle.ack or handle.turn is not None or known is None:
            return
        if known.waiting_for is None and known.staged is None and known.seq >= int(handle.ack["seq"]):
            self._end(handle, Outcome(None, LOST if len(known.turns) < known.history else GONE))

    def _end(self, handle: TurnHandle, outcome: Outcome) -> None:
        self._open.pop((handle.session, handle.id), None)
        handle.end(outcome)

    def _of_session(self, session: str) -> list[TurnHandle]:
        return [handle for handle in self._open.values() if handle.session == session]


def _news(turn: Turn, told: dict[int, tuple[Part, int]]) -> list[Delta]:
    """What `told` (part and how many characters of it) does not have yet; brings `told` up to date."""
    deltas: list[Delta] = []
    for number, part in turn.parts.items():
        before, chars = told.get(number, (part, 0))
        replaced = before is not part and not part.text.startswith(before.text[:chars])
        if replaced or part.chars > chars:
            deltas.append(Delta(number, part.kind, part.text if replaced else part.text[chars:], replaced))
        told[number] = part, part.chars
    for number in told.keys() - turn.parts.keys():
        before, _ = told.pop(number)
        deltas.append(Delta(number, before.kind, "", replaces=True))
    return deltas
