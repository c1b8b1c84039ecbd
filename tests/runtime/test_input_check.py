"""The wait for a guard: whatever it does, there is an answer by the deadline, and no log has what a person wrote."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest
from structlog.testing import capture_logs

from tests.support.waiting import until
from turnwire.ports import InputGuard, ProposedTurn, Refusal
from turnwire.runtime import input_check
from turnwire.runtime.input_check import NOT_CHECKED, InputCheck

SECRET = "what alice wrote"
TURN = ProposedTurn("alice", "acme", "s1", "t1", [{"type": "text", "text": SECRET}], "demo")
NO = Refusal(f"Not that: {SECRET}.")


def check_of(guard: Callable[[ProposedTurn], Awaitable[Any]], fails: Any = "closed", deadline_ms: int = 50) -> Any:
    return InputCheck(cast("InputGuard", guard), deadline_ms=deadline_ms, fails=fails)


async def accepts(_: ProposedTurn) -> None:
    return None


async def refuses(_: ProposedTurn) -> Refusal:
    return NO


async def raises(turn: ProposedTurn) -> None:
    raise LookupError(turn.input[0]["text"])


async def answers_nonsense(turn: ProposedTurn) -> Any:
    return turn.input[0]["text"]


async def makes_no_refusal(_: ProposedTurn) -> Refusal:
    return Refusal("")


async def cancels_itself(_: ProposedTurn) -> None:
    raise asyncio.CancelledError(SECRET)


async def never_answers(_: ProposedTurn) -> None:
    await asyncio.Event().wait()


@pytest.mark.parametrize("fails", ["closed", "open"])
@pytest.mark.parametrize(
    ("guard", "kind"),
    [
        (raises, "LookupError"),
        (answers_nonsense, "str"),
        (makes_no_refusal, "ValueError"),
        (cancels_itself, "CancelledError"),
        (never_answers, "deadline"),
    ],
)
async def test_a_guard_that_gives_no_answer_refuses_or_accepts_as_the_setting_says(
    guard: Any, kind: str, fails: str
) -> None:
    with capture_logs() as logs:
        refusal = await check_of(guard, fails).refusal_of(TURN)
    assert refusal == (NOT_CHECKED if fails == "closed" else None)
    becomes = "refused" if fails == "closed" else "accepted"
    told = {"session": "s1", "turn": "t1", "kind": kind, "becomes": becomes}
    assert logs == [{"event": "input_guard_failed", "log_level": "warning", **told}]


async def test_an_answer_is_passed_on_and_a_refusal_logged_by_its_ids() -> None:
    with capture_logs() as logs:
        assert await check_of(accepts).refusal_of(TURN) is None
        assert await check_of(refuses).refusal_of(TURN) is NO
    assert [log["event"] for log in logs] == ["turn_refused_by_guard"] and SECRET not in str(logs)


async def test_a_guard_that_does_not_stop_when_told_is_left_behind_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(input_check, "CHECKS_MAX", 2)
    running = 0
    let_go = asyncio.Event()

    async def stubborn(_: ProposedTurn) -> None:
        nonlocal running
        running += 1
        try:
            while not let_go.is_set():
                try:
                    await let_go.wait()
                except asyncio.CancelledError:
                    continue
        finally:
            running -= 1

    check = check_of(stubborn)
    try:
        refusals = await asyncio.gather(*(check.refusal_of(TURN) for _ in range(5)))
        assert refusals == [NOT_CHECKED] * 5
        assert running == 2
    finally:
        let_go.set()
    await until(lambda: running == 0)
    # Its places are free again.
    assert await check.refusal_of(TURN) is None


async def test_whoever_stops_waiting_stops_the_guard() -> None:
    stopped = asyncio.Event()
    began = asyncio.Event()

    async def waits(_: ProposedTurn) -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    asking = asyncio.create_task(check_of(waits, deadline_ms=60_000).refusal_of(TURN))
    await began.wait()
    asking.cancel()
    await asyncio.wait_for(stopped.wait(), 20)
    assert (await asyncio.gather(asking, return_exceptions=True))[0].__class__ is asyncio.CancelledError
