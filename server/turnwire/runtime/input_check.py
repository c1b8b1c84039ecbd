"""Asks a guard of the operator's own about a turn, for so long and no longer.

The guard is code that Turnwire does not know. It may raise, answer nonsense, never answer, or go on after it was told
to stop; whatever it does, a turn is accepted or refused by the deadline, and how many checks are under way is bounded.
What failed is logged by ids and by the exception's type, because its text may quote what a person wrote.
"""

import asyncio
from typing import Final, Literal, cast

import structlog

from turnwire.ports import InputGuard, ProposedTurn, Refusal

CHECKS_MAX: Final = 256
"""Checks under way at once; the next one waits for its turn, and its deadline runs meanwhile."""
AGAIN_MS: Final = 2_000
"""When a client is to come back whose turn could not be checked."""

NOT_CHECKED: Final = Refusal("This could not be checked in time. Try again in a moment.", "overloaded", AGAIN_MS)

_log = structlog.get_logger(__name__)


class InputCheck:
    """`fails` says what becomes of a turn about which the guard did not answer: `closed` it is refused, `open` it is
    accepted."""

    def __init__(self, guard: InputGuard, *, deadline_ms: int, fails: Literal["closed", "open"]) -> None:
        self._guard = guard
        self._deadline_ms = deadline_ms
        self._fails = fails
        self._places = asyncio.Semaphore(CHECKS_MAX)
        self._checks: set[asyncio.Task[object]] = set()
        """Also those whose deadline is over, until they end."""

    async def refusal_of(self, turn: ProposedTurn) -> Refusal | None:
        """What the client is told; None: the turn may be accepted."""
        check = asyncio.create_task(self._check(turn), name="input guard")
        self._checks.add(check)
        check.add_done_callback(self._forget)
        try:
            # Not cancelled by a time-out around it: a guard may take its time to stop, or never do it.
            await asyncio.wait((check,), timeout=self._deadline_ms / 1000)
        finally:
            in_time = check.done()
            check.cancel()
        if not in_time:
            return self._failed(turn, "deadline")
        if check.cancelled():
            return self._failed(turn, "CancelledError")
        error = check.exception()
        if error is not None:
            return self._failed(turn, type(error).__name__)
        answer = check.result()
        if answer is not None and not isinstance(answer, Refusal):
            return self._failed(turn, type(answer).__name__)
        if answer is not None:
            _log.info("turn_refused_by_guard", session=turn.session, turn=turn.turn, code=answer.code)
        return answer

    async def _check(self, turn: ProposedTurn) -> object:
        async with self._places:
            return cast("object", await self._guard(turn))

    def _failed(self, turn: ProposedTurn, kind: str) -> Refusal | None:
        refusal = NOT_CHECKED if self._fails == "closed" else None
        becomes = "accepted" if refusal is None else "refused"
        _log.warning("input_guard_failed", session=turn.session, turn=turn.turn, kind=kind, becomes=becomes)
        return refusal

    def _forget(self, check: asyncio.Task[object]) -> None:
        self._checks.discard(check)
        if not check.cancelled():
            check.exception()  # looked at, or the loop would log it
