"""Drives one turn from its lease to its terminal, or until it parks.

The runner owns the turn: it starts upstream requests, puts what they say into the journal, and ends the turn exactly
once. It stops when told to (a cancel, another writer, a store that is gone) by cancelling the request and waiting until
its socket is closed. Whatever goes wrong in here becomes a terminal; only a writer that was fenced off leaves none,
because the turn is no longer its own.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import orjson
import structlog

from turnwire.core.context import (
    Exchange,
    exchange_of,
    hundredths_of_tools,
    likely_tokens,
    messages_of,
    request_of,
)
from turnwire.core.entries import Content, Finish, ProviderEvent, UsageReport
from turnwire.core.errors import describe, error_body
from turnwire.core.turn import Turn
from turnwire.ports import Appended, Clock, Failure, Model, Seal, SessionLog, StepRequest, StoredTurn, TurnKey
from turnwire.runtime.attempts import run_step
from turnwire.runtime.upstreams import Upstreams
from turnwire.runtime.writer import Ending, Stopped, Writer
from turnwire_protocol.codes import ErrorCode

BRANCH_TURNS_MAX: Final = 200
OUTPUT_BYTES_MAX: Final = 8 * 1024 * 1024
ARGUMENTS_CHARS_MAX: Final = 65_536
"""A tool call's arguments travel whole, in one turn.asked."""
STEPS_MAX: Final = 32
UPSTREAM_STOP_MS: Final = 5_000
"""How long a cancelled request may take to close its socket before the turn is sealed without it."""
HANG_MS: Final = 15_000
"""Beyond the deadlines of its step a runner has this long to notice them; then it hangs."""
BRANCH_AGAIN_MS: Final = 250
"""How long after a store that did not answer it is asked for the branch again."""

NODE_STOPPED: Final = error_body("node_lost", "The server that was answering was stopped.")

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Spec:
    """All that a run of a turn needs, as stored with it."""

    input: Sequence[Mapping[str, Any]]
    model: str
    params: dict[str, Any] = field(default_factory=dict[str, Any])
    tools: Sequence[dict[str, Any]] = ()
    response_format: dict[str, Any] | None = None

    def to_json(self) -> bytes:
        return orjson.dumps(self)

    @classmethod
    def from_json(cls, text: bytes) -> "Spec":
        return cls(**orjson.loads(text))


class _BudgetSpent(Exception):
    """The turn's budget is spent. It ends with what was said so far."""


class TurnRunner:
    """One turn on this node."""

    def __init__(
        self,
        turn: Turn,
        spec: Spec,
        writer: Writer,
        *,
        log: SessionLog,
        models: Mapping[str, Model],
        upstreams: Upstreams,
        clock: Clock,
        input_wait_ms: int,
    ) -> None:
        self.key: TurnKey = writer.key
        self.writer = writer
        self.turn = turn
        self._spec = spec
        self._log = log
        self._models = models
        self._upstreams = upstreams
        self._clock = clock
        self._input_wait_ms = input_wait_ms
        # A step that another node began is gone on with, as one more attempt.
        self._attempts_before = turn.attempt_of_step if turn.state == "started" else 0

    async def run(self) -> Appended | None:
        """Run to the end; the store's answer to the terminal, or None when the turn was no longer this node's."""
        try:
            step = asyncio.create_task(self._step(), name=f"step of {self.key.turn}")
            await asyncio.wait((step, self.writer.stopped), return_when=asyncio.FIRST_COMPLETED)
            if step.done():
                ending = self._ending_of(step)
            else:
                why, _ = self.writer.stopped.result()
                stopped = await self._stop(step)
                ending = self._ending_when_stopped(why, stopped)
        except Exception as error:  # a fault of ours must still end the turn
            _log.exception("turn_runner_failed", turn=self.key.turn, kind=type(error).__name__)
            ending = self._sealed_with_error(Failure("internal"))
        if ending is None:
            return None
        return await self.writer.end(ending)

    # --- one step -------------------------------------------------------------------------------------------------

    async def _step(self) -> Finish:
        model = self._models.get(self._spec.model)
        if model is None:
            raise Failure("upstream_rejected", f"model {self._spec.model!r} is not configured on this node")
        branch = await self._branch()
        self.writer.hung_at_ms = self._clock.monotonic_ms() + model.deadlines.total + HANG_MS
        exchanges = [_exchange_of(stored) for stored in reversed(branch[1:])]
        exchanges.append(self.turn.exchange(self._spec.input))
        if self.turn.overspent():
            raise _BudgetSpent
        fallbacks = [self._models[name] for name in model.fallback if name in self._models]
        # A model that cannot see what was asked would answer beside the point.
        models = [model, *(other for other in fallbacks if other.images or not has_images(self._spec.input))]
        return await run_step(models, lambda chosen: self._request_for(chosen, exchanges), self, self._upstreams)

    async def _branch(self) -> Sequence[StoredTurn]:
        """The turn and those before it. A store that is away may come back within the grace: the writer knows."""
        while True:
            try:
                return await self._log.read_branch(self.key, BRANCH_TURNS_MAX)
            except Failure as failure:
                if failure.kind != "store_away" or not self.writer.waits_for_store(self._clock.monotonic_ms()):
                    raise
                await asyncio.sleep(BRANCH_AGAIN_MS / 1000)

    def _request_for(self, model: Model, exchanges: Sequence[Exchange]) -> StepRequest:
        tools_tokens = -(-hundredths_of_tools(self._spec.tools) // 100)
        tokens_max = model.context_tokens - model.output_tokens_max - tools_tokens
        messages = messages_of(exchanges, model.system_prompt, tokens_max, takes_images=model.images)
        self.turn.asked_for(likely_tokens(messages, self._spec.tools))
        return StepRequest(
            messages,
            params={name: value for name, value in self._spec.params.items() if name in model.client_params},
            tools=self._spec.tools,
            response_format=self._spec.response_format,
            output_tokens_max=model.output_tokens_max,
            deadlines=model.deadlines,
        )

    # StepSink: what run_step tells.

    def started(self, attempt: int, model: str) -> None:
        self.writer.append(self.turn.start(model, attempt + self._attempts_before))

    def retrying(self, attempt: int, delay_ms: int, code: ErrorCode) -> None:
        self.writer.append(self.turn.retry(attempt + self._attempts_before, delay_ms, code))

    async def events(self, batch: Sequence[ProviderEvent]) -> None:
        # Not before something more comes: an answer that ends right where its budget does has ended by itself.
        if self.turn.overspent():
            raise _BudgetSpent
        now_ms = self._clock.monotonic_ms()
        for event in batch:
            if isinstance(event, Content):
                self.writer.append(self.turn.content(event, now_ms))
            elif isinstance(event, UsageReport):
                self.turn.used(event)
        if self.turn.answer.bytes > OUTPUT_BYTES_MAX:
            raise Failure("output_too_large", f"more than {OUTPUT_BYTES_MAX} bytes")
        await self.writer.room()

    # --- endings --------------------------------------------------------------------------------------------------

    def _ending_of(self, step: asyncio.Task[Finish]) -> Ending:
        try:
            finish = step.result()
            asks = self._asks() if finish.reason == "tool_calls" else []
            if asks and self.turn.overspent():
                raise _BudgetSpent
        except _BudgetSpent:
            return Ending(self.turn.done("budget", self._clock.monotonic_ms()), self._seal("done"))
        except Failure as failure:
            _log.info("turn_failed", turn=self.key.turn, kind=failure.kind, detail=failure.detail)
            return self._sealed_with_error(failure)
        if asks:
            entries = self.turn.park(asks)
            return Ending(entries, park_until_ms=self._clock.now_ms() + self._input_wait_ms)
        return Ending(self.turn.done(finish.reason, self._clock.monotonic_ms()), self._seal("done"))

    def _asks(self) -> list[dict[str, Any]]:
        """One ask for each tool call that has no result yet; none where the client gave no tools to call."""
        calls = self.turn.open_calls()
        if any(len(call["text"]) > ARGUMENTS_CHARS_MAX for call in calls):
            raise Failure("output_too_large", f"a tool call with more than {ARGUMENTS_CHARS_MAX} characters")
        if not self._spec.tools or self.turn.step >= STEPS_MAX:
            return []
        return [
            {
                "request": request_of(call),
                "kind": "tool_result",
                "detail": {"call": call["call"], "name": call["name"], "arguments": call["text"]},
            }
            for call in calls
        ]

    async def _stop(self, step: asyncio.Task[Finish]) -> bool:
        """Close the upstream socket. Whether it was closed in time."""
        step.cancel()
        done, _ = await asyncio.wait((step,), timeout=UPSTREAM_STOP_MS / 1000)
        if done and not step.cancelled() and step.exception() is not None:
            _log.info("step_failed_while_stopping", turn=self.key.turn, kind=type(step.exception()).__name__)
        return bool(done)

    def _ending_when_stopped(self, why: Stopped, upstream_stopped: bool) -> Ending | None:
        if why == "cancel":
            now_ms = self._clock.monotonic_ms()
            entries = self.turn.done("cancelled", now_ms, upstream_stopped=upstream_stopped)
            return Ending(entries, self._seal("done"))
        if why == "hung":
            return self._sealed_with_error(Failure("timeout_total"))
        if why == "full":
            return self._sealed_with_error(Failure("store_full"))
        if why == "store_away":
            return self._sealed_with_error(Failure("store_away"))
        if why == "draining" and not self.turn.answer.empty:
            return Ending(self.turn.failed(NODE_STOPPED), self._seal("error"))
        _log.info("turn_left", turn=self.key.turn, why=why)
        return None

    def _sealed_with_error(self, failure: Failure) -> Ending:
        error = describe(failure.kind, failure.retry_after_ms)
        return Ending(self.turn.failed(error), self._seal("error"))

    def _seal(self, state: Any) -> Seal:
        return Seal(state, self.turn.record(), self.turn.used_up)


def has_images(inputs: Sequence[Mapping[str, Any]]) -> bool:
    return any(part["type"] == "image" for part in inputs)


def _exchange_of(stored: StoredTurn) -> Exchange:
    spec = Spec.from_json(stored.spec)
    if stored.parts is not None:
        return exchange_of(spec.input, orjson.loads(stored.parts))
    turn = Turn(stored.turn, spec.model, began_ms=0)
    turn.fold(stored.entries)
    return turn.exchange(spec.input)
