"""One step of a turn: the attempts that it takes to get its answer, and the deadlines of each.

Until the first content, whatever fails is tried again: the same model after a wait, then its fallbacks in order. After
it nothing is, for a second answer would speak over what was shown. Two clocks bound the time before it. The repeats of
a model, and the waits between them, end with `connect_total`; a wait that does not fit is not begun. A fallback's
beginning too, except that time which an earlier model was given to come up with content does not count: a model that
accepts and then hangs is what fallbacks are for.

A service in trouble is spared (core.upstream_health): repeats have a budget, and a service that rests is not asked. Its
fallbacks take over at once; where there are none, the step waits for the end of the rest, if that fits.
"""

import asyncio
import random
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Final, Protocol

import structlog
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception

from turnwire.core.entries import Content, Finish, ProviderEvent
from turnwire.core.errors import describe
from turnwire.ports import Deadlines, Failure, Model, StepRequest
from turnwire.runtime.content_timer import ContentTimer
from turnwire.runtime.upstreams import Upstreams
from turnwire_protocol.codes import ErrorCode

STOOD_STILL_S: Final = 1.0
"""A timer that fires later than this shows that the process stood still: time that is not the service's."""

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


async def run_step(
    models: Sequence[Model], request_for: Callable[[Model], StepRequest], sink: StepSink, upstreams: Upstreams
) -> Finish:
    """Ask the first model, and the others if it fails before its first content, until one has answered.

    The deadlines `connect_total` and `total` of the first request hold for the whole step, the others for each request.
    Raises Failure with the last attempt's reason. Leaving it, also by cancelling, the upstream socket is closed.
    """
    return await _Step(models, request_for, sink, upstreams).run()


class _Step:
    def __init__(
        self,
        models: Sequence[Model],
        request_for: Callable[[Model], StepRequest],
        sink: StepSink,
        upstreams: Upstreams,
    ) -> None:
        self._models = models
        self._request_for = request_for
        self._sink = sink
        self._upstreams = upstreams
        self._now = asyncio.get_running_loop().time
        self._began = self._now()
        self._deadlines: Deadlines | None = None
        self._attempt = 0
        self._untold: ErrorCode | None = None
        """Why the last attempt failed, until that is told: with the next one, if there is one."""
        self._awaited_content_s = 0.0
        self._final = False
        """Whether nothing may be tried again: content was seen, or the sink raised."""
        self._sink_raised = False

    async def run(self) -> Finish:
        failure = Failure("internal", "a step without models")
        for number, model in enumerate(self._models):
            if number > 0 and not self._may_fall_back(failure):
                break
            try:
                return await self._ask(model)
            except Failure as error:
                if self._final:
                    raise
                failure = error
        raise failure

    async def _ask(self, model: Model) -> Finish:
        """One model, as often as its failures, its health and the time allow."""
        request = self._request_for(model)
        self._deadlines = self._deadlines or request.deadlines
        self._model = model
        self._health = self._upstreams.health_of(model)
        self._health.begin_step()
        retrying = AsyncRetrying(
            retry=retry_if_exception(self._may_repeat),
            wait=self._wait_s,
            stop=self._is_enough,
            before_sleep=self._tell_retry,
            sleep=self._sleep,
            reraise=True,
        )
        return await retrying(self._attempt_once, request)

    # --- what tenacity asks ---------------------------------------------------------------------------------------

    def _may_repeat(self, error: BaseException) -> bool:
        return isinstance(error, Failure) and error.may_retry and not self._final

    def _wait_s(self, state: RetryCallState) -> float:
        """What the service asked for, else exponential backoff with jitter; at least until its rest is over."""
        retries = self._model.retries
        wait_ms: float = _failure_of(state).retry_after_ms or 0
        if not wait_ms:
            wait_ms = min(retries.wait_first_ms * 2 ** (state.attempt_number - 1), retries.wait_ms_max)
            wait_ms *= 1 - retries.jitter * random.random()  # noqa: S311 - a jitter is no secret
        return max(wait_ms, self._health.rest_ms(self._now_ms())) / 1000

    def _is_enough(self, state: RetryCallState) -> bool:
        return (
            state.attempt_number >= self._model.retries.attempts_max
            or state.upcoming_sleep >= self._left_s()
            or not self._health.may_repeat
            or (self._has_another and self._health.rest_ms(self._now_ms()) > 0)
        )

    def _tell_retry(self, state: RetryCallState) -> None:
        self._health.repeat()
        code = describe(_failure_of(state).kind).code
        self._untold = None
        with self._telling():
            self._sink.retrying(self._attempt + 1, round(state.upcoming_sleep * 1000), code)

    # --- time -----------------------------------------------------------------------------------------------------

    def _left_s(self) -> float:
        """Until `connect_total`, or `total` where that is sooner."""
        assert self._deadlines is not None  # noqa: S101 - for the type checker: an attempt has begun
        limit_ms = min(self._deadlines.connect_total, self._deadlines.total)
        return limit_ms / 1000 - (self._now() - self._began)

    def _now_ms(self) -> int:
        return round(self._now() * 1000)

    async def _sleep(self, wait_s: float) -> None:
        began = self._now()
        await asyncio.sleep(wait_s)
        self._forgive(self._now() - began - wait_s)

    def _forgive(self, late_s: float) -> None:
        """A timer has fired so late. Small delays are a busy machine's, and count."""
        if late_s > STOOD_STILL_S:
            self._began += late_s

    @property
    def _has_another(self) -> bool:
        """Whether there is a fallback behind the model that is asked now."""
        return self._model is not self._models[-1]

    def _may_fall_back(self, failure: Failure) -> bool:
        """Also after a refusal: models differ in what they refuse (a long context, an image, a key that is gone)."""
        return failure.kind != "timeout_total" and self._left_s() + self._awaited_content_s > 0

    # --- one attempt ----------------------------------------------------------------------------------------------

    async def _attempt_once(self, request: StepRequest) -> Finish:
        await self._rested()
        number = self._health.sent()
        try:
            self._attempt += 1
            self._tell_start()
            return await self._attempt_sent(request, number)
        finally:
            self._health.left(number)

    async def _rested(self) -> None:
        """A service that rests is waited for, where there is none other to ask and the time is there; else Failure."""
        while rest_ms := self._health.rest_ms(self._now_ms()):
            if self._has_another or rest_ms / 1000 >= self._left_s():
                kind = self._health.trouble
                raise Failure(kind, "not asked: the service rests", retry_after_ms=rest_ms, may_retry=False)
            await self._sleep(rest_ms / 1000)

    def _tell_start(self) -> None:
        with self._telling():
            if self._untold is not None:
                self._sink.retrying(self._attempt, 0, self._untold)
                self._untold = None
            self._sink.started(self._attempt, self._model.name)

    async def _attempt_sent(self, request: StepRequest, number: int) -> Finish:
        began = self._now()
        connect_s = self._left_s() + self._awaited_content_s
        limits = replace(request.deadlines, connect=max(1, min(request.deadlines.connect, round(connect_s * 1000))))
        try:
            return await self._stream(replace(request, deadlines=limits))
        except Exception as error:
            if self._sink_raised:
                raise
            # An unexpected exception's text may hold anything, so only its type is told.
            name = type(error).__name__
            failure = error if isinstance(error, Failure) else Failure("internal", f"{name} in a provider")
            _log.info(
                "attempt_failed",
                model=self._model.name,
                attempt=self._attempt,
                kind=failure.kind,
                detail=failure.detail,
            )
            if failure.kind == "timeout_connect":
                self._forgive(self._now() - began - limits.connect / 1000)
            if failure.kind == "timeout_first_content":
                self._awaited_content_s += self._now() - began
            if not self._final:
                self._health.failed(number, failure.kind, failure.retry_after_ms, self._now_ms())
                self._untold = describe(failure.kind).code
            if failure is error:
                raise
            raise failure from error

    async def _stream(self, request: StepRequest) -> Finish:
        assert self._deadlines is not None  # noqa: S101 - for the type checker: an attempt has begun
        total_at = self._began + self._deadlines.total / 1000
        async with (
            ContentTimer(request.deadlines, total_at) as timer,
            self._model.provider.stream(request) as batches,
        ):
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
                    self._health.answered()
                    return finish
        raise Failure("truncated", "the provider's events ended without a finish")

    async def _pass_on(self, batch: Sequence[ProviderEvent]) -> bool:
        """To the sink; whether there was content in it."""
        has_content = False
        for event in batch:
            if isinstance(event, Content):
                has_content = True
                if not self._final:
                    self._final = True
                    self._health.answered()
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


def _failure_of(state: RetryCallState) -> Failure:
    """Why the last attempt failed. tenacity asks how to go on only where _may_repeat saw a Failure."""
    assert state.outcome is not None  # noqa: S101 - for the type checker: there was an attempt
    failure = state.outcome.exception()
    assert isinstance(failure, Failure)  # noqa: S101 - for the type checker: see above
    return failure
