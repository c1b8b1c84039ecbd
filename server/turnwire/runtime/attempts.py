"""One step of a turn: the attempts that it takes to get its answer, and the deadlines of each.

Until the first content, whatever fails is tried again: the same model after a wait, then its fallbacks in order. After
it nothing is, for a second answer would speak over what was shown. Two clocks bound the time before it. The repeats of
a model, and the waits between them, end with `connect_total`; a wait that does not fit is not begun. A fallback's
beginning too, except that time which an earlier model was given to come up with content does not count: a model that
accepts and then hangs is what fallbacks are for.

Only content moves a deadline. Pings never get here, and usage reports do not count. The timer is looked at when it
rings, not set anew for each token: it costs a stream nothing.
"""

import asyncio
import random
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Final, Literal, Protocol, Self

import structlog
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception

from turnwire.core.entries import Content, Finish, ProviderEvent
from turnwire.core.errors import describe
from turnwire.ports import Deadlines, Failure, Model, StepRequest
from turnwire_protocol.codes import ErrorCode

_log = structlog.get_logger(__name__)


class StepSink(Protocol):
    """What a step is told to. Whatever these raise ends the step as it is: it is never retried."""

    def started(self, attempt: int, model: str) -> None:
        """An upstream request begins; attempts count from 1, over all models of the step."""
        ...

    def retrying(self, attempt: int, delay_ms: int, code: ErrorCode) -> None:
        """An attempt failed with `code`, and `attempt` begins in `delay_ms`."""
        ...

    async def events(self, batch: Sequence[ProviderEvent]) -> None:
        """Content and usage in order. May wait while the journal is behind; of the deadlines, only `total` goes on."""
        ...


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often one model is asked, and how long is waited in between when it did not say."""

    attempts_max: int = 4
    wait_first_ms: int = 500
    """Doubles with each attempt."""
    wait_ms_max: int = 8_000
    jitter: float = 0.25
    """The part of a wait that is left to chance, so that those who failed together do not return together."""


DEFAULT_POLICY: Final = RetryPolicy()


async def run_step(
    models: Sequence[Model],
    request_for: Callable[[Model], StepRequest],
    sink: StepSink,
    *,
    policy: RetryPolicy = DEFAULT_POLICY,
) -> Finish:
    """Ask the first model, and the others if it fails before its first content, until one has answered.

    The deadlines `connect_total` and `total` of the first request hold for the whole step, the others for each request.
    Raises Failure with the last attempt's reason. Leaving it, also by cancelling, the upstream socket is closed.
    """
    return await _Step(models, request_for, sink, policy).run()


class _Step:
    def __init__(
        self,
        models: Sequence[Model],
        request_for: Callable[[Model], StepRequest],
        sink: StepSink,
        policy: RetryPolicy,
    ) -> None:
        self._models = models
        self._request_for = request_for
        self._sink = sink
        self._policy = policy
        self._now = asyncio.get_running_loop().time
        self._began = self._now()
        self._deadlines: Deadlines | None = None
        self._attempt = 0
        self._awaited_content_s = 0.0
        self._final = False
        """Whether nothing may be tried again: content was seen, or the sink raised."""
        self._sink_raised = False

    async def run(self) -> Finish:
        failure = Failure("internal", "a step without models")
        for number, model in enumerate(self._models):
            if number > 0:
                if not self._may_fall_back(failure):
                    break
                self._sink.retrying(self._attempt + 1, 0, describe(failure.kind).code)
            try:
                return await self._ask(model)
            except Failure as error:
                if self._final:
                    raise
                failure = error
        raise failure

    async def _ask(self, model: Model) -> Finish:
        """One model, as often as its failures and the time allow."""
        request = self._request_for(model)
        self._deadlines = self._deadlines or request.deadlines
        retrying = AsyncRetrying(
            retry=retry_if_exception(self._may_repeat),
            wait=self._wait_s,
            stop=self._is_enough,
            before_sleep=self._tell_retry,
            sleep=asyncio.sleep,
            reraise=True,
        )
        return await retrying(self._attempt_once, model, request)

    # --- what tenacity asks ---------------------------------------------------------------------------------------

    def _may_repeat(self, error: BaseException) -> bool:
        return isinstance(error, Failure) and error.may_retry and not self._final

    def _wait_s(self, state: RetryCallState) -> float:
        """What the service asked for, else exponential backoff with jitter."""
        asked_ms = _failure_of(state).retry_after_ms
        if asked_ms:
            return asked_ms / 1000
        wait_ms = min(self._policy.wait_first_ms * 2 ** (state.attempt_number - 1), self._policy.wait_ms_max)
        return wait_ms / 1000 * (1 - self._policy.jitter * random.random())

    def _is_enough(self, state: RetryCallState) -> bool:
        return state.attempt_number >= self._policy.attempts_max or state.upcoming_sleep >= self._left_s()

    def _tell_retry(self, state: RetryCallState) -> None:
        code = describe(_failure_of(state).kind).code
        with self._telling():
            self._sink.retrying(self._attempt + 1, round(state.upcoming_sleep * 1000), code)

    # --- time -----------------------------------------------------------------------------------------------------

    def _left_s(self) -> float:
        """Until `connect_total`, or `total` where that is sooner."""
        assert self._deadlines is not None
        limit_ms = min(self._deadlines.connect_total, self._deadlines.total)
        return limit_ms / 1000 - (self._now() - self._began)

    def _may_fall_back(self, failure: Failure) -> bool:
        """Also after a refusal: models differ in what they refuse (a long context, an image, a key that is gone)."""
        return failure.kind != "timeout_total" and self._left_s() + self._awaited_content_s > 0

    # --- one attempt ----------------------------------------------------------------------------------------------

    async def _attempt_once(self, model: Model, request: StepRequest) -> Finish:
        assert self._deadlines is not None
        self._attempt += 1
        with self._telling():
            self._sink.started(self._attempt, model.name)
        began = self._now()
        connect_s = self._left_s() + self._awaited_content_s
        limits = replace(request.deadlines, connect=max(1, min(request.deadlines.connect, round(connect_s * 1000))))
        try:
            return await self._stream(model, replace(request, deadlines=limits))
        except Exception as error:
            if self._sink_raised:
                raise
            # An unexpected exception's text may hold anything, so only its type is told.
            name = type(error).__name__
            failure = error if isinstance(error, Failure) else Failure("internal", f"{name} in a provider")
            _log.info(
                "attempt_failed", model=model.name, attempt=self._attempt, kind=failure.kind, detail=failure.detail
            )
            if failure.kind == "timeout_first_content":
                self._awaited_content_s += self._now() - began
            if failure is error:
                raise
            raise failure from error

    async def _stream(self, model: Model, request: StepRequest) -> Finish:
        assert self._deadlines is not None
        total_at = self._began + self._deadlines.total / 1000
        async with _ContentTimer(request.deadlines, total_at) as timer, model.provider.stream(request) as batches:
            async for batch in batches:
                finish = batch[-1] if batch and isinstance(batch[-1], Finish) else None
                passed = batch if finish is None else batch[:-1]
                if passed:
                    timer.hold()
                    if await self._pass_on(passed):
                        timer.begin_anew()
                    else:
                        timer.go_on()
                if finish is not None:
                    return finish
        raise Failure("truncated", "the provider's events ended without a finish")

    async def _pass_on(self, batch: Sequence[ProviderEvent]) -> bool:
        """To the sink; whether there was content in it."""
        has_content = False
        for event in batch:
            if isinstance(event, Content):
                has_content = self._final = True
                break
        try:
            await self._sink.events(batch)
        except BaseException:
            self._final = self._sink_raised = True
            raise
        return has_content

    @contextmanager
    def _telling(self) -> Generator[None]:
        try:
            yield
        except BaseException:
            self._final = self._sink_raised = True
            raise


class _ContentTimer:
    """Ends its context with a Failure when content does not come in time.

    Between `hold` and what follows it the sink has the time, not the model. Only the total deadline runs on there, to
    strike when the sink is done.
    """

    def __init__(self, deadlines: Deadlines, total_at: float) -> None:
        """`total_at` is a time of the running loop, in seconds."""
        self._deadlines = deadlines
        self._total_at = total_at
        self._loop = asyncio.get_running_loop()
        self._timeout = asyncio.timeout(None)
        self._kind: Literal["timeout_first_content", "timeout_idle"] = "timeout_first_content"
        self._allowed_s = deadlines.first_content / 1000
        self._idle_s = deadlines.idle / 1000
        self._since = self._loop.time()
        self._held_at: float | None = None
        self._handle: asyncio.TimerHandle | None = None
        self._handle_at = 0.0
        self._rang = False

    async def __aenter__(self) -> Self:
        await self._timeout.__aenter__()
        self._set()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._clear()
        try:
            await self._timeout.__aexit__(kind, error, trace)
        except TimeoutError as late:
            if self._loop.time() >= self._total_at:
                raise Failure("timeout_total", f"no end within {self._deadlines.total} ms") from late
            raise Failure(self._kind, f"no content for {round(self._allowed_s * 1000)} ms") from late

    def hold(self) -> None:
        self._held_at = self._loop.time()
        if self._rang:
            # In the same moment there was something after all.
            self._rang = False
            self._timeout.reschedule(None)

    def begin_anew(self) -> None:
        """There was content: from now on the idle deadline counts."""
        self._kind = "timeout_idle"
        self._allowed_s = self._idle_s
        self._since = self._loop.time()
        self._held_at = None
        self._look()

    def go_on(self) -> None:
        """There was none: the time before counts on."""
        if self._held_at is not None:
            self._since += self._loop.time() - self._held_at
            self._held_at = None
        self._look()

    def _look(self) -> None:
        """A timer that rings too early is no harm, one that rings too late is."""
        if self._handle is None or self._due() < self._handle_at:
            self._set()

    def _due(self) -> float:
        return min(self._since + self._allowed_s, self._total_at)

    def _set(self) -> None:
        self._clear()
        self._handle_at = self._due()
        self._handle = self._loop.call_at(self._handle_at, self._ring)

    def _clear(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _ring(self) -> None:
        self._handle = None
        if self._held_at is not None:
            return
        if self._loop.time() < self._due():
            self._set()
        else:
            self._rang = True
            self._timeout.reschedule(self._loop.time())


def _failure_of(state: RetryCallState) -> Failure:
    """Why the last attempt failed. tenacity asks how to go on only where _may_repeat saw a Failure."""
    assert state.outcome is not None
    failure = state.outcome.exception()
    assert isinstance(failure, Failure)
    return failure
