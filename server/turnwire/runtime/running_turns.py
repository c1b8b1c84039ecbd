"""The turns that this node runs: their tasks, their leases, and what follows when one ends.

A turn is here from the moment its lease is this node's until its terminal is in the log. While it is here its lease is
renewed; when a renewal says that a cancel is stored, or that the lease is another's, its runner is told.
"""

import asyncio
import secrets
from collections.abc import Coroutine, Mapping
from typing import Any, Final

import structlog

from turnwire.core.errors import error_body
from turnwire.core.turn import Turn, takeover_of
from turnwire.ports import Appended, Clock, Failure, Model, Seal, SessionKey, SessionLog, Taken, TurnKey
from turnwire.runtime.journal import Ending, Journal, Writer
from turnwire.runtime.turn_runner import Spec, TurnRunner

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
        clock: Clock,
        *,
        renew_ms: int,
        input_wait_ms: int,
    ) -> None:
        self._log = log
        self._journal = journal
        self._models = models
        self._clock = clock
        self._renew_ms = renew_ms
        self._input_wait_ms = input_wait_ms
        self._writers: dict[TurnKey, Writer] = {}
        self._sessions: dict[SessionKey, TurnKey] = {}
        """Which turn this node runs in a session: there is one active turn a session."""
        self._cancel_after_ms: dict[TurnKey, int] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._idle = asyncio.Event()
        self._idle.set()

    # --- starting -------------------------------------------------------------------------------------------------

    def start(self, key: TurnKey, nonce: str, spec: Spec, *, cancel_after_ms: int | None) -> None:
        """Run a turn that was just accepted with this node's lease."""
        turn = Turn(key.turn, spec.model, began_ms=self._clock.monotonic_ms())
        if cancel_after_ms is not None:
            self._cancel_after_ms[key] = cancel_after_ms
        self._run(turn, spec, self._journal.writer(key, nonce, 0), {})

    async def take(self, key: TurnKey, *, after_restart: bool = False) -> Taken:
        """Take a turn that nobody runs, and run or seal it, whichever is right."""
        nonce = new_nonce()
        taken = await self._log.take_turn(key, nonce, after_restart=after_restart)
        if taken.result != "taken":
            return taken
        spec = Spec.from_json(taken.spec)
        turn = Turn(key.turn, spec.model, began_ms=self._clock.monotonic_ms())
        turn.fold(taken.entries)
        writer = self._journal.writer(key, nonce, taken.counter)
        if taken.cancel_after_ms is not None:
            self._cancel_after_ms[key] = taken.cancel_after_ms
        what = takeover_of(turn, taken.state, taken.cancel_by, taken.takes)
        _log.info("turn_taken", turn=key.turn, takes=taken.takes, becomes=what)
        if what == "run":
            self._run(turn, spec, writer, taken.answers)
        else:
            self._spawn(key, writer, self._seal(turn, writer, what))
        return taken

    # --- stopping -------------------------------------------------------------------------------------------------

    def cancel(self, key: TurnKey, by: str) -> None:
        """Tell the runner, if the turn is here, that a cancel is stored."""
        writer = self._writers.get(key)
        if writer is not None:
            writer.tell("cancel", by)

    def __contains__(self, key: TurnKey) -> bool:
        return key in self._writers

    def writes(self, key: SessionKey) -> bool:
        """Whether this node appends to the session right now."""
        return key in self._sessions

    def __len__(self) -> int:
        return len(self._writers)

    async def idle(self) -> None:
        """Wait until no turn runs here."""
        await self._idle.wait()

    async def abandon(self) -> None:
        """Stop whatever still runs here, without a word to the log: another node finds the leases overdue."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # --- leases ---------------------------------------------------------------------------------------------------

    async def renew_forever(self) -> None:
        """Renew every lease each `renew_ms`. An overdue lease that nobody took is still good, so one that could not
        be renewed is simply renewed later; whether it still holds, the store decides at each append."""
        while True:
            await asyncio.sleep(self._renew_ms / 1000)
            writers = [writer for writer in self._writers.values() if not writer.ended.done()]
            if not writers:
                continue
            answers = await self._log.renew_leases([(writer.key, writer.nonce) for writer in writers])
            for writer, answer in zip(writers, answers, strict=True):
                if answer.cancel_by is not None:
                    writer.tell("cancel", answer.cancel_by)
                elif answer.result in ("fenced", "lost", "gone"):
                    writer.tell(answer.result)
                elif answer.result == "ok":
                    await self._stop_if_unwatched(writer, answer.unwatched_ms)

    async def _stop_if_unwatched(self, writer: Writer, unwatched_ms: int) -> None:
        limit_ms = self._cancel_after_ms.get(writer.key)
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

    def _run(self, turn: Turn, spec: Spec, writer: Writer, answers: Mapping[str, bytes]) -> None:
        runner = TurnRunner(
            turn,
            spec,
            writer,
            log=self._log,
            models=self._models,
            clock=self._clock,
            input_wait_ms=self._input_wait_ms,
            answers=answers,
        )
        self._spawn(writer.key, writer, runner.run())

    async def _seal(self, turn: Turn, writer: Writer, what: str) -> Appended:
        """End a taken turn that is not to be run (again)."""
        if what == "cancelled":
            entries = turn.done("cancelled", self._clock.monotonic_ms(), upstream_stopped=False)
            return await writer.end(Ending(entries, Seal("done", turn.record())))
        entries = turn.failed(TAKEOVER_ERRORS[what])
        return await writer.end(Ending(entries, Seal("error", turn.record())))

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
                self._cancel_after_ms.pop(key, None)
            if not self._writers:
                self._idle.set()
        if answer is not None and answer.next is not None:
            await self.take_quietly(TurnKey(key.owner, key.session, answer.next))

    async def take_quietly(self, key: TurnKey) -> None:
        """Take a turn that the sweep would find anyway: a store that is away now is no reason to fail."""
        try:
            await self.take(key)
        except Failure as failure:
            _log.warning("take_failed", turn=key.turn, kind=failure.kind)
