"""One conversation of a run: a client that sends turns, perhaps another that looks on, and what befalls both.

They are ordinary clients: they reconnect to whichever node serves, resume, send again what was not acknowledged. All
that they are sent goes to the grammar verifier and to the oracle.
"""

import asyncio
import random
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, Literal, Protocol

from tests.faults.fleet import Fleet
from tests.faults.oracle import Oracle
from tests.faults.plan import Moment, TalkPlan, TurnPlan
from tests.faults.reading import Frame, Reading
from tests.support.waiting import until
from tests.support.watched import Watched
from turnwire.chat.outbox import CommandRefused
from turnwire.chat.wire import Unreachable
from turnwire_protocol.grammar import History, RuleBroken

PATIENCE_S: Final = 75
"""Far beyond every promise: whoever waits longer waits for ever."""
AGAIN_S: Final = 0.3
QUIET_S: Final = 5


class GaveUp(Exception):
    """Somebody has waited for too long."""


class Stage(Protocol):
    """The run, as a conversation sees it."""

    fleet: Fleet
    oracle: Oracle

    def began(self, plan: TurnPlan) -> None: ...

    def reached(self, moment: Moment, turn: str, node: str) -> None: ...

    def counted(self, what: str) -> None: ...


class Voice:
    """One client of a conversation."""

    def __init__(
        self,
        name: str,
        stage: Stage,
        history: History,
        codec: Literal["json", "msgpack"],
        drawn: random.Random,
        on_turn_frame: Callable[[str], None] = lambda _turn: None,
    ) -> None:
        self.name = name
        self._stage = stage
        self._node = ""
        self._on_turn_frame = on_turn_frame
        self.reading = Reading(name, stage.oracle)
        self.watched = Watched(
            self._choose_node,
            codec=codec,
            history=history,
            backoff=lambda tries: drawn.random() * min(1.0, 0.05 * 2**tries),
            on_connect=self.reading.connected,
            on_frame=self._on_frame,
        )
        self.chat = self.watched.chat

    async def join(self, session: str) -> None:
        """Connect, however often that takes, and follow the session."""
        while True:
            try:
                await self.chat.connect()
                break
            except Unreachable:
                await asyncio.sleep(AGAIN_S)
        while True:
            try:
                await self.chat.open(session)
                return
            except CommandRefused as refused:  # an open is no command that is sent again
                if self.chat.status in ("refused", "closed"):
                    raise
                self._stage.oracle.fault("open refused", f"{self.name}: {refused}")
                return

    async def saw_end(self, session: str, turn: str) -> None:
        """Wait until this client was shown the end, or the absence of what it had been shown."""
        facts = self._stage.oracle.turns[turn]

        def saw() -> bool:
            heard = self.reading.heard(session, turn)
            if heard is None:
                # Lost for another client, before this one was shown it.
                return bool(facts.lost) and self.reading.at_rest(session)
            return heard.terminal is not None

        await until(saw, PATIENCE_S)

    def is_quiet(self) -> bool:
        """Whether nothing that the grammar asks for is missing just now."""
        with suppress(RuleBroken):
            self.watched.check()
            return True
        return False

    def described(self, session: str) -> str:
        """Where this client stands, for whoever has to find out why it waits."""
        known = self.chat.transcript.sessions.get(session)
        if known is None:
            return f"{self.name} is {self.chat.status} at {self._node}, without the session"
        turns = {turn.id: turn.state for turn in known.turns.values()}
        return (
            f"{self.name} is {self.chat.status} at {self._node}, cursor {known.cursor}, waits for {known.waiting_for}, "
            f"broken {known.broken}, turns {turns}"
        )

    def _choose_node(self) -> str:
        slot = self._stage.fleet.any_slot()
        self._node = slot.name
        return slot.url

    def _on_frame(self, sender: Literal["client", "server"], frame: Frame) -> None:
        if sender == "client":
            self.reading.sent(frame)
            return
        self._stage.oracle.frame_came(self.name, frame)
        self.reading.received(frame)
        if frame["type"] == "ack" and "duplicate" in frame:
            self._stage.oracle.acknowledged(self.name, frame["turn"], frame["duplicate"], self._node)
            self._stage.reached("accepted", frame["turn"], self._node)
        elif "seq" in frame and frame.get("turn") is not None:
            self._on_turn_frame(frame["turn"])


class Talk:
    """A conversation from its first turn to its last."""

    def __init__(self, plan: TalkPlan, stage: Stage) -> None:
        self._plan = plan
        self._stage = stage
        self._drawn = random.Random(plan.session)
        self._turns = {turn.ask.turn: turn for turn in plan.turns}
        self._frames: dict[str, int] = {}
        history = History()
        self._sender = Voice(f"{plan.session}/a", stage, history, plan.codec, self._drawn, self._count_frame)
        self._voices = [self._sender]
        if plan.onlooker:
            self._voices.append(Voice(f"{plan.session}/b", stage, history, plan.codec, self._drawn))

    async def run(self) -> None:
        session = self._plan.session
        tasks: list[asyncio.Task[None]] = []
        try:
            await asyncio.gather(*(voice.join(session) for voice in self._voices))
            for number, turn in enumerate(self._plan.turns):
                follows = number + 1 < len(self._plan.turns) and self._plan.turns[number + 1].queued
                tasks.append(asyncio.create_task(self._one(turn), name=turn.ask.turn))
                if follows:
                    await self._is_taken(turn.ask.turn)
                else:
                    await asyncio.gather(*tasks)
            await until(lambda: all(voice.reading.at_rest(session) for voice in self._voices), PATIENCE_S)
            # A ping may be on its way: what is then still without an answer is a fault.
            with suppress(AssertionError):
                await until(lambda: all(voice.is_quiet() for voice in self._voices), QUIET_S)
            for voice in self._voices:
                voice.watched.check()
        except GaveUp:
            pass
        except Exception as error:
            self._stage.oracle.fault("talk broke", f"{session}: {type(error).__name__}: {error}")
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for voice in self._voices:
                await voice.chat.close()

    async def _one(self, plan: TurnPlan) -> None:
        """One turn, until everyone has seen its end."""
        session, turn = self._plan.session, plan.ask.turn
        self._stage.oracle.expect(session, plan.ask, [voice.name for voice in self._voices], queued=plan.queued)
        self._stage.began(plan)
        again = asyncio.create_task(self._send_again(plan)) if plan.duplicate else None
        try:
            async with asyncio.timeout(PATIENCE_S):
                await self._send(plan)
                for voice in self._voices:
                    await voice.saw_end(session, turn)
                if again is not None:
                    await again
        except (TimeoutError, AssertionError):
            # The oracle finds what is missing; behind it nothing more can be tried.
            for voice in self._voices:
                self._stage.oracle.fault("gave up", f"{turn}: {voice.described(session)}")
            raise GaveUp from None
        finally:
            if again is not None:
                again.cancel()

    async def _send(self, plan: TurnPlan) -> None:
        while True:
            handle = await self._sender.chat.send(
                self._plan.session, plan.ask.prompt(), turn=plan.ask.turn, on_busy=_on_busy(plan)
            )
            outcome = await handle.done()
            if outcome.fault is None or outcome.terminal is not None or outcome.fault.code == "store_lost":
                return
            if outcome.fault.retry not in ("same_frame", "reconnect"):
                self._stage.oracle.fault("turn refused", f"{plan.ask.turn}: {outcome.fault}")
                return
            # The store was away for long, or a turn that the client believes to be lost still runs.
            await asyncio.sleep(AGAIN_S)

    async def _send_again(self, plan: TurnPlan) -> None:
        """The same turn over the onlooker's connection: at once, or when it is taken."""
        if self._drawn.random() < 0.7:
            await self._is_taken(plan.ask.turn)
        text = [{"type": "text", "text": plan.ask.prompt()}]
        command: dict[str, Any] = {"type": "turn.create", "session": self._plan.session, "turn": plan.ask.turn}
        try:
            await self._voices[-1].chat.command({**command, "input": text, "on_busy": _on_busy(plan)})
        except CommandRefused as refused:
            if refused.fault.code != "busy":
                self._stage.oracle.fault("duplicate refused", f"{plan.ask.turn}: {refused}")
        else:
            self._stage.counted("duplicates")

    async def _is_taken(self, turn: str) -> None:
        turns = self._stage.oracle.turns
        await until(lambda: turn in turns and (turns[turn].acks or turns[turn].over), PATIENCE_S)

    def _count_frame(self, turn: str) -> None:
        plan = self._turns.get(turn)
        self._frames[turn] = self._frames.get(turn, 0) + 1
        if plan is not None and self._frames[turn] in plan.drops:
            self._stage.counted("client drops")
            self._sender.chat.abort()


def _on_busy(plan: TurnPlan) -> str:
    return "queue" if plan.queued else "reject"
