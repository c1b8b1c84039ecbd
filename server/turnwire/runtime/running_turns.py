"""The turns that this node runs: their tasks, their leases, and what follows when one ends.

A turn is here from the moment its lease is this node's until its terminal is in the log. While it is here its lease is
renewed; when a renewal says that a cancel is stored, or that the lease is another's, its runner is told. A runner that
is beyond all its own deadlines hangs: it is told to end, and its lease is left to run out in case that it cannot.

A renewal also shows what a store that lost its newest writes does not know any more. Whoever still has that puts it
back: running turns at once, and those that ended lately when the store's history has changed.
"""

import asyncio
import secrets
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, Final

import structlog

from turnwire.core.errors import error_body
from turnwire.core.turn import Turn, takeover_of, written_of
from turnwire.ports import (
    AcceptRequest,
    Appended,
    Claim,
    Clock,
    Failure,
    Model,
    Renewed,
    Seal,
    SessionKey,
    SessionLog,
    Taken,
    TurnKey,
)
from turnwire.runtime.journal import Journal
from turnwire.runtime.quotas import Quotas
from turnwire.runtime.turn_runner import Spec, TurnRunner
from turnwire.runtime.upstreams import Upstreams
from turnwire.runtime.writer import Ending, Writer

_log = structlog.get_logger(__name__)

TAKEOVER_ERRORS: Final = {
    "node_lost": error_body("node_lost", "The server that was answering went away."),
    "queue_expired": error_body("queue_expired", "The turn waited too long for its place."),
    "input_expired": error_body("input_expired", "The turn waited too long for an answer."),
}


def new_nonce() -> str:
    """128 random bits. Compared for equality only: a counter kept in the store would go back with the store."""
    return secrets.token_urlsafe(16)


class RunningTurns:
    """Starts, renews, stops. `input_wait_ms` is how long a parked turn waits."""

    def __init__(
        self,
        log: SessionLog,
        journal: Journal,
        models: Mapping[str, Model],
        quotas: Quotas,
        clock: Clock,
        *,
        renew_ms: int,
        input_wait_ms: int,
    ) -> None:
        self._log = log
        self._journal = journal
        self._models = models
        self._quotas = quotas
        self._upstreams = Upstreams()
        self._prices = {model.name: model.price for model in models.values() if model.price is not None}
        self._clock = clock
        self._renew_ms = renew_ms
        self._input_wait_ms = input_wait_ms
        self._writers: dict[TurnKey, Writer] = {}
        self._sessions: dict[SessionKey, TurnKey] = {}
        """Which turn this node runs in a session: there is one active turn a session."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._look = asyncio.Event()
        self._history = log.history
        self._taking = True

    # --- starting -------------------------------------------------------------------------------------------------

    def start(self, request: AcceptRequest, spec: Spec) -> None:
        """Run a turn that was just accepted with this node's lease."""
        turn = self._turn(request.key, spec, {})
        self._run(turn, spec, self._journal.writer(request, request.nonce))

    async def take(self, key: TurnKey, claim: Claim = "overdue") -> Taken:
        """Take a turn that nobody runs, and run or seal it, whichever is right."""
        taken = await self._log.take_turn(key, new_nonce(), claim)
        request = taken.request
        if request is None:
            return taken
        spec = Spec.from_json(request.spec)
        turn = self._turn(key, spec, taken.answers)
        turn.fold(taken.entries)
        writer = self._journal.writer(request, request.nonce, written_of(taken.entries))
        what = takeover_of(turn, taken.state, taken.cancel_by, taken.takes)
        _log.info("turn_taken", turn=key.turn, takes=taken.takes, becomes=what)
        if what == "run":
            self._run(turn, spec, writer)
        else:
            self._spawn(key, writer, self._seal(turn, writer, what))
        return taken

    async def take_quietly(self, key: TurnKey) -> None:
        """Take a turn that the sweep would find anyway: a store that is away now is no reason to fail. A node that
        goes down leaves it to the others; and while writers put back what the store lost, to the one that had it."""
        if not self._taking or self._log.recovering:
            return
        try:
            await self.take(key)
        except Failure as failure:
            _log.warning("take_failed", turn=key.turn, kind=failure.kind)

    # --- stopping -------------------------------------------------------------------------------------------------

    def cancel(self, key: TurnKey, by: str) -> None:
        """Tell the runner, if the turn is here, that a cancel is stored."""
        writer = self._writers.get(key)
        if writer is not None:
            writer.tell("cancel", by)

    def runs(self, key: TurnKey) -> bool:
        """Whether the turn is in good hands here: it is written by this node, and its runner does not hang."""
        writer = self._writers.get(key)
        return writer is not None and not writer.hangs(self._clock.monotonic_ms())

    def writes(self, key: SessionKey) -> bool:
        """Whether this node appends to the session right now."""
        return key in self._sessions

    def __len__(self) -> int:
        return len(self._writers)

    async def idle(self) -> None:
        """Wait until no turn runs here."""
        await self._idle.wait()

    def stop_taking(self) -> None:
        """The node goes down: no turn of the queue, and none that other nodes left, begins here any more."""
        self._taking = False

    @property
    def taking(self) -> bool:
        return self._taking

    def give_up(self) -> None:
        """Let each running turn end where it is: one that has an answer keeps that part of it."""
        for writer in self._writers.values():
            writer.tell("draining")

    async def abandon(self) -> None:
        """Stop whatever still runs here, without a word to the log: another node finds the leases overdue."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # --- leases ---------------------------------------------------------------------------------------------------

    async def renew_forever(self) -> None:
        """Renew every lease each `renew_ms`, and whenever `look_now` says so. An overdue lease that nobody took is
        still good, so one that could not be renewed is simply renewed later; whether it still holds, the store decides
        at each append."""
        while True:
            try:
                async with asyncio.timeout(self._renew_ms / 1000):
                    await self._look.wait()
            except TimeoutError:
                pass
            self._look.clear()
            await self._renew()
            if self._log.history != self._history:
                await self._put_back()

    def look_now(self) -> None:
        """The connection to the store was lost and made again: see what the store still knows."""
        self._look.set()

    async def _renew(self) -> None:
        now_ms = self._clock.monotonic_ms()
        writers: list[Writer] = []
        for writer in self._writers.values():
            if writer.hangs(now_ms):
                _log.error("runner_hangs", turn=writer.key.turn)
                writer.tell("hung")
            elif not writer.ended.done():
                writers.append(writer)
        for writer, answer in zip(writers, await self._renewed(writers), strict=True):
            if answer.cancel_by is not None:
                writer.tell("cancel", answer.cancel_by)
            elif writer.was_lost(answer):
                writer.probe()  # whose answer says so to the journal
            elif answer.result in ("fenced", "gone"):
                writer.tell(answer.result)
            elif answer.result == "ok":
                await self._stop_if_unwatched(writer, answer.unwatched_ms)
        await self._quotas.hold([(writer.key, writer.request.counted) for writer in writers])

    async def _put_back(self) -> None:
        """The store's history has changed: see what it lacks of the turns that run here, and of those that ended."""
        history = self._log.history
        for writer in self._writers.values():
            writer.probe()
        writers = self._journal.lingering()
        for writer, answer in zip(writers, await self._renewed(writers), strict=True):
            if answer.result == "away":
                return  # asked again with the next renewal
            if answer.result == "ok" or writer.was_lost(answer):
                writer.probe()
            elif answer.result != "sealed":  # what is in may yet be lost by another change
                self._journal.forget(writer)
        self._history = history

    async def _renewed(self, writers: Sequence[Writer]) -> Sequence[Renewed]:
        return await self._log.renew_leases([(writer.key, writer.nonce) for writer in writers]) if writers else ()

    async def _stop_if_unwatched(self, writer: Writer, unwatched_ms: int) -> None:
        limit_ms = writer.request.cancel_after_ms
        if limit_ms is None or unwatched_ms <= limit_ms:
            return
        try:
            cancelled = await self._log.cancel_turn(writer.key, "disconnect", "nobody is watching")
        except Failure as failure:  # asked again at the next renewal
            _log.warning("unwatched_cancel_failed", turn=writer.key.turn, kind=failure.kind)
            return
        if cancelled.result == "cancelling":
            writer.tell("cancel", "disconnect")

    # --- within ---------------------------------------------------------------------------------------------------

    def _turn(self, key: TurnKey, spec: Spec, answers: Mapping[str, bytes]) -> Turn:
        model = self._models.get(spec.model)
        return Turn(
            key.turn,
            spec.model,
            began_ms=self._clock.monotonic_ms(),
            prices=self._prices,
            budget=None if model is None else model.budget,
            answers=answers,
        )

    def _run(self, turn: Turn, spec: Spec, writer: Writer) -> None:
        runner = TurnRunner(
            turn,
            spec,
            writer,
            log=self._log,
            models=self._models,
            upstreams=self._upstreams,
            clock=self._clock,
            input_wait_ms=self._input_wait_ms,
        )
        self._spawn(writer.key, writer, runner.run())

    async def _seal(self, turn: Turn, writer: Writer, what: str) -> Appended:
        """End a taken turn that is not to be run (again)."""
        if what == "cancelled":
            entries = turn.done("cancelled", self._clock.monotonic_ms(), upstream_stopped=False)
            return await writer.end(Ending(entries, Seal("done", turn.record(), turn.used_up)))
        entries = turn.failed(TAKEOVER_ERRORS[what])
        return await writer.end(Ending(entries, Seal("error", turn.record(), turn.used_up)))

    def _spawn(self, key: TurnKey, writer: Writer, work: Coroutine[Any, Any, Appended | None]) -> None:
        self._writers[key] = writer
        self._sessions[key.session_key] = key
        self._idle.clear()
        task = asyncio.create_task(self._see_through(key, writer, work), name=f"turn {key.turn}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _see_through(self, key: TurnKey, writer: Writer, work: Coroutine[Any, Any, Appended | None]) -> None:
        try:
            answer = await work
        finally:
            if self._writers.get(key) is writer:
                del self._writers[key]
                if self._sessions.get(key.session_key) == key:
                    del self._sessions[key.session_key]
            if not self._writers:
                self._idle.set()
        if answer is None:
            return
        if answer.next is not None:
            await self.take_quietly(TurnKey(key.owner, key.session, answer.next))
        if answer.result in ("ok", "dup") and (used := writer.used_up) is not None:
            await self._quotas.settle(key, writer.request.counted, used)
