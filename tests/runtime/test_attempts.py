"""Retries and deadlines of a step: against scripted providers, and against a real service over HTTP.

The promises held here: P5 (a retry only before the first byte, and then exactly one request), P4 (a cancel closes the
provider's socket) and P6 (every wait ends).
"""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from tests.support.provider_server import Gate, ProviderServer, Received, Reply, chunk, in_order, sse
from tests.support.waiting import until
from turnwire.core.entries import Content, Finish, Message, ProviderEvent, UsageReport
from turnwire.core.upstream_health import REST_MS
from turnwire.ports import Deadlines, Failure, Model, Provider, Retries, StepRequest
from turnwire.providers.demo import Demo
from turnwire.providers.http_stream import HttpStream
from turnwire.providers.openai_chat import OpenAIChat
from turnwire.runtime.attempts import STOOD_STILL_S, StepSink, run_step
from turnwire.runtime.content_timer import ContentTimer
from turnwire.runtime.upstreams import Upstreams
from turnwire_protocol.codes import ErrorCode

HURRIED = Retries(wait_first_ms=1, wait_ms_max=4)
SHORT = Deadlines(connect=400, connect_total=2_000, first_content=150, idle=150, total=5_000)
PATIENT = Deadlines(connect=5_000, connect_total=20_000, first_content=1_500, idle=5_000, total=60_000)
"""For services that are to be waited for, also by a machine that has much else to do."""
A, B = Content(0, "text", "a"), Content(0, "text", "b")
END = Finish("stop")
USAGE = UsageReport(1, 1)

Step = Sequence[ProviderEvent] | Exception | Callable[[], Awaitable[object]]


class Scripted:
    """A provider that plays one script an attempt, and the last one ever after."""

    def __init__(self, *scripts: Sequence[Step], name: str = "scripted") -> None:
        self.name = name
        self.requests: list[StepRequest] = []
        self.left = 0
        self._scripts = list(scripts)

    @asynccontextmanager
    async def stream(self, request: StepRequest) -> AsyncGenerator[AsyncIterator[Sequence[ProviderEvent]]]:
        self.requests.append(request)
        script = self._scripts.pop(0) if len(self._scripts) > 1 else self._scripts[0]
        try:
            if script and isinstance(script[0], Exception):
                raise script[0]
            yield self._played(script)
        finally:
            self.left += 1

    async def _played(self, script: Sequence[Step]) -> AsyncGenerator[Sequence[ProviderEvent]]:
        for step in script:
            if isinstance(step, Exception):
                raise step
            if callable(step):
                await step()
            else:
                yield step


class Noting:
    """A sink that writes down all it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []
        self.content = asyncio.Event()

    def started(self, attempt: int, model: str) -> None:
        self.told.append(("started", attempt, model))

    def retrying(self, attempt: int, delay_ms: int, code: ErrorCode) -> None:
        self.told.append(("retrying", attempt, delay_ms, code))

    async def events(self, batch: Sequence[ProviderEvent]) -> None:
        assert batch
        assert not any(isinstance(event, Finish) for event in batch)
        self.told.append(("events", *batch))
        self.content.set()

    @property
    def delays_ms(self) -> list[int]:
        return [entry[2] for entry in self.told if entry[0] == "retrying"]

    @property
    def kinds(self) -> list[str]:
        return [entry[0] for entry in self.told]


def model_of(provider: Provider, **options: Any) -> Model:
    return Model(provider.name, provider, **options)


async def step(
    *providers: Provider,
    sink: StepSink | None = None,
    deadlines: Deadlines = SHORT,
    retries: Retries = HURRIED,
    upstreams: Upstreams | None = None,
) -> Finish:
    models = [model_of(provider, retries=retries) for provider in providers]
    request = StepRequest([Message("user", ({"type": "text", "text": "hi"},))], deadlines=deadlines)
    return await run_step(models, lambda _model: request, sink or Noting(), upstreams or Upstreams())


async def failure_of(step: Awaitable[Finish]) -> Failure:
    with pytest.raises(Failure) as failure:
        await step
    return failure.value


async def forever() -> None:
    await asyncio.Event().wait()


def seconds(pause: float) -> Callable[[], Awaitable[object]]:
    return lambda: asyncio.sleep(pause)


# --- the road without stones -----------------------------------------------------------------------------------------


async def test_everything_but_the_finish_reaches_the_sink_in_order() -> None:
    sink = Noting()
    provider = Scripted([[A], [B, USAGE], [END]])
    assert await step(provider, sink=sink) == END
    assert sink.told == [("started", 1, "scripted"), ("events", A), ("events", B, USAGE)]
    assert provider.left == 1

    sink = Noting()
    assert await step(Scripted([[A, USAGE, END]]), sink=sink) == END
    assert sink.told[1:] == [("events", A, USAGE)]


async def test_the_provider_has_been_left_when_the_step_returns_raises_or_is_cancelled() -> None:
    provider = Scripted([[A, END]], [[A], Failure("truncated")], [[A], forever])
    await step(provider)
    assert provider.left == 1
    await failure_of(step(provider))
    assert provider.left == 2
    sink = Noting()
    running = asyncio.create_task(step(provider, sink=sink))
    await sink.content.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert provider.left == 3


# --- before the first byte -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind",
    [
        "upstream_connect",
        "upstream_busy",
        "upstream_failed",
        "timeout_connect",
        "timeout_first_content",
        "truncated",
        "malformed",
    ],
)
@pytest.mark.parametrize("before", [[], [[USAGE]]], ids=["at once", "after usage"])
async def test_a_failure_before_the_first_byte_is_tried_again(kind: Any, before: list[Step]) -> None:
    sink = Noting()
    provider = Scripted([*before, Failure(kind)], [*before, Failure(kind)], [[A, END]])
    assert await step(provider, sink=sink) == END
    assert [entry[:2] for entry in sink.told if entry[0] != "events"] == [
        ("started", 1),
        ("retrying", 2),
        ("started", 2),
        ("retrying", 3),
        ("started", 3),
    ]


async def test_one_model_is_asked_four_times_with_growing_waits_and_then_its_last_failure_is_told() -> None:
    sink = Noting()
    provider = Scripted([Failure("upstream_failed")], [Failure("upstream_busy")])
    failure = await failure_of(step(provider, sink=sink, retries=replace(HURRIED, wait_first_ms=10, wait_ms_max=15)))
    assert failure.kind == "upstream_busy"
    assert len(provider.requests) == 4
    assert [entry[3] for entry in sink.told if entry[0] == "retrying"] == ["upstream_unavailable"] * 3
    for delay_ms, longest_ms in zip(sink.delays_ms, (10, 15, 15), strict=True):
        assert 0.7 * longest_ms <= delay_ms <= longest_ms


async def test_waits_differ_by_chance() -> None:
    sinks = [Noting() for _ in range(8)]
    patient = Retries(attempts_max=2, wait_first_ms=400, wait_ms_max=400)
    await asyncio.gather(*(failure_of(step(Scripted([Failure("truncated")]), sink=s, retries=patient)) for s in sinks))
    assert len({sink.delays_ms[0] for sink in sinks}) > 1


@pytest.mark.parametrize("kind", ["upstream_rejected", "upstream_unauthorised", "output_too_large", "internal"])
async def test_a_failure_that_would_repeat_itself_is_not_repeated(kind: Any) -> None:
    provider = Scripted([Failure(kind)])
    assert (await failure_of(step(provider))).kind == kind
    assert len(provider.requests) == 1


@pytest.mark.parametrize(
    ("kind", "advice", "requests"), [("upstream_rejected", True, 4), ("upstream_failed", False, 1)]
)
async def test_the_service_s_advice_decides(kind: Any, advice: bool, requests: int) -> None:
    provider = Scripted([Failure(kind, may_retry=advice)])
    await failure_of(step(provider))
    assert len(provider.requests) == requests


async def test_retry_after_is_waited_for_to_the_millisecond() -> None:
    sink = Noting()
    loop = asyncio.get_running_loop()
    began = loop.time()
    assert await step(Scripted([Failure("upstream_busy", retry_after_ms=120)], [[A, END]]), sink=sink) == END
    assert sink.delays_ms == [120]
    assert loop.time() - began >= 0.12


async def test_a_retry_after_that_does_not_fit_is_not_waited_for() -> None:
    sink = Noting()
    began = time.monotonic()
    failure = await failure_of(step(Scripted([Failure("upstream_busy", retry_after_ms=60_000)]), sink=sink))
    assert (failure.kind, failure.retry_after_ms) == ("upstream_busy", 60_000)
    assert time.monotonic() - began < 1
    assert sink.kinds == ["started"]

    sink = Noting()
    primary, fallback = Scripted([Failure("upstream_busy", retry_after_ms=60_000)]), Scripted([[A, END]], name="second")
    assert await step(primary, fallback, sink=sink) == END
    assert sink.told[:3] == [
        ("started", 1, "scripted"),
        ("retrying", 2, 0, "upstream_unavailable"),
        ("started", 2, "second"),
    ]


async def test_attempts_and_waits_end_with_connect_total() -> None:
    provider = Scripted([seconds(0.05), Failure("upstream_connect")])
    deadlines = replace(SHORT, connect_total=180)
    began = time.monotonic()
    failure = await failure_of(
        step(provider, deadlines=deadlines, retries=Retries(attempts_max=99, wait_first_ms=10, wait_ms_max=10))
    )
    assert failure.kind == "upstream_connect"
    assert time.monotonic() - began < 2
    assert 2 <= len(provider.requests) <= 4


async def test_the_time_for_which_the_process_stood_still_is_not_the_services() -> None:
    """As a machine that slept: nothing ran, and then all timers are over at once."""

    async def stand_still() -> None:
        time.sleep(STOOD_STILL_S + 0.5)  # noqa: ASYNC251 - nothing may run meanwhile
        raise Failure("timeout_connect")

    provider = Scripted([stand_still], [[A, END]])
    assert await step(provider, deadlines=replace(SHORT, connect=100, connect_total=500)) == END


async def test_nor_is_the_time_for_which_it_stood_still_between_two_attempts() -> None:
    async def fail() -> None:
        asyncio.get_running_loop().call_later(0.01, time.sleep, STOOD_STILL_S + 0.5)
        raise Failure("upstream_busy", retry_after_ms=50)

    provider = Scripted([fail], [[A, END]])
    assert await step(provider, deadlines=replace(SHORT, connect=400, connect_total=500)) == END
    assert provider.requests[1].deadlines.connect == 400


async def test_connecting_gets_no_more_than_what_is_left_of_connect_total() -> None:
    provider = Scripted([Failure("upstream_busy", retry_after_ms=100)], [[A, END]])
    await step(provider, deadlines=replace(SHORT, connect=400, connect_total=450))
    connects = [request.deadlines.connect for request in provider.requests]
    assert connects[0] == 400
    assert 200 < connects[1] <= 350


# --- fallbacks -------------------------------------------------------------------------------------------------------


async def test_fallbacks_are_asked_in_order_each_with_its_own_request() -> None:
    sink = Noting()
    providers = [
        Scripted([Failure("upstream_failed")], name="one"),
        Scripted([Failure("upstream_rejected")], name="two"),
        Scripted([[A, END]], name="three"),
    ]
    asked: list[str] = []

    def request_for(model: Model) -> StepRequest:
        asked.append(model.name)
        return StepRequest([], params={"for": model.name}, deadlines=SHORT)

    finish = await run_step([model_of(p, retries=HURRIED) for p in providers], request_for, sink, Upstreams())
    assert finish == END
    assert asked == ["one", "two", "three"]
    assert [len(provider.requests) for provider in providers] == [4, 1, 1]
    assert all(request.params == {"for": p.name} for p in providers for request in p.requests)
    starts = [entry[1:] for entry in sink.told if entry[0] == "started"]
    assert starts == [(1, "one"), (2, "one"), (3, "one"), (4, "one"), (5, "two"), (6, "three")]
    assert sink.kinds[:-1] == ["started", "retrying"] * 5 + ["started"]


async def test_when_every_model_failed_the_last_one_s_reason_is_told() -> None:
    providers = [Scripted([Failure("upstream_failed")]), Scripted([Failure("upstream_unauthorised")])]
    assert (await failure_of(step(*providers))).kind == "upstream_unauthorised"


async def test_a_model_that_hangs_is_not_asked_again_beyond_connect_total_but_its_fallback_is() -> None:
    hung, fallback = Scripted([forever], name="hung"), Scripted([[A, END]], name="second")
    deadlines = replace(SHORT, connect_total=100, first_content=200)
    assert await step(hung, fallback, deadlines=deadlines) == END
    assert len(hung.requests) == 1
    assert 1 <= fallback.requests[0].deadlines.connect <= 100


async def test_no_fallback_is_begun_once_connecting_took_all_its_time() -> None:
    slow, fallback = Scripted([seconds(0.15), Failure("timeout_connect")]), Scripted([[A, END]])
    failure = await failure_of(step(slow, fallback, deadlines=replace(SHORT, connect_total=100, first_content=1_000)))
    assert failure.kind == "timeout_connect"
    assert fallback.requests == []


# --- a service in trouble is spared -----------------------------------------------------------------------------------


async def test_a_storm_of_429_is_not_multiplied() -> None:
    upstreams, busy = Upstreams(), Scripted([Failure("upstream_busy")])
    failures = await asyncio.gather(
        *(failure_of(step(busy, upstreams=upstreams, retries=replace(HURRIED, failures_max=0))) for _ in range(200))
    )
    assert {failure.kind for failure in failures} == {"upstream_busy"}
    assert 200 < len(busy.requests) <= 200 + 200 * 0.1 + 10


async def test_steps_that_succeed_earn_the_repeats_of_those_that_fail() -> None:
    upstreams = Upstreams()
    frugal = replace(HURRIED, failures_max=0)
    repeats = 0
    for number in range(300):
        down = number % 30 == 0
        provider = Scripted([Failure("upstream_failed")] if down else [[A, END]])
        running = step(provider, upstreams=upstreams, retries=frugal)
        await (failure_of(running) if down else running)
        repeats += len(provider.requests) - 1
    assert repeats == 3 * 10


async def test_a_service_that_failed_again_and_again_rests_and_its_fallback_takes_over_at_once() -> None:
    upstreams, sink = Upstreams(), Noting()
    down, up = Scripted([Failure("upstream_failed")], name="down"), Scripted([[A, END]], name="up")
    assert await step(down, up, upstreams=upstreams) == END
    assert await step(down, up, upstreams=upstreams) == END
    asked = len(down.requests)
    assert asked == HURRIED.failures_max
    for _ in range(20):
        assert await step(down, up, sink=sink, upstreams=upstreams) == END
    assert len(down.requests) == asked
    assert sink.kinds == ["started", "events"] * 20
    assert {entry[2] for entry in sink.told if entry[0] == "started"} == {"up"}


async def test_a_rest_is_waited_for_where_there_is_no_other_and_ends_with_an_answer() -> None:
    upstreams = Upstreams()
    down = Scripted(*[[Failure("upstream_failed")]] * 5, [[A, END]])
    await failure_of(step(down, upstreams=upstreams))
    sink, loop = Noting(), asyncio.get_running_loop()
    began = loop.time()
    waiting = [step(down, sink=sink, deadlines=Deadlines(), upstreams=upstreams) for _ in range(5)]
    assert await asyncio.gather(*waiting) == [END] * 5
    assert loop.time() - began >= REST_MS / 1000
    # One of them failed and brought the rest; the others have not been told of it, because they had not begun.
    assert len(down.requests) == 5 + 5
    assert sink.kinds.count("retrying") == 1


async def test_a_rest_that_does_not_fit_ends_the_step_and_says_when_to_come_back() -> None:
    upstreams = Upstreams()
    down = Scripted([Failure("upstream_connect")])
    await failure_of(step(down, upstreams=upstreams))
    await failure_of(step(down, upstreams=upstreams))
    asked, sink = len(down.requests), Noting()
    failure = await failure_of(step(down, sink=sink, deadlines=replace(SHORT, connect_total=100), upstreams=upstreams))
    assert failure.kind == "upstream_connect"
    # On a slow machine a first rest may be over before the second step has begun; then the next one is twice as long.
    assert failure.retry_after_ms is not None and 0 < failure.retry_after_ms <= 2 * REST_MS
    assert (len(down.requests), sink.told) == (asked, [])


async def test_a_probe_that_is_cancelled_leaves_the_next_one_its_place() -> None:
    upstreams = Upstreams()
    down = Scripted(*[[Failure("upstream_failed")]] * 5, [forever], [[A, END]])
    impatient = replace(SHORT, connect_total=50)
    await failure_of(step(down, upstreams=upstreams))
    await failure_of(step(down, upstreams=upstreams, deadlines=impatient))
    probe = asyncio.create_task(step(down, upstreams=upstreams, deadlines=Deadlines()))
    await until(lambda: len(down.requests) == 6)
    probe.cancel()
    assert await asyncio.wait_for(step(down, upstreams=upstreams, deadlines=Deadlines()), 10) == END


# --- after the first byte --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind", ["upstream_failed", "upstream_busy", "truncated", "malformed", "timeout_first_content"]
)
@pytest.mark.parametrize("first", [A, Content(0, "reasoning", "hm"), Content(0, "tool_call", "", "c", "f")])
async def test_after_the_first_byte_nothing_is_tried_again(kind: Any, first: Content) -> None:
    sink = Noting()
    provider, fallback = Scripted([[first], Failure(kind)]), Scripted([[A, END]])
    assert (await failure_of(step(provider, fallback, sink=sink))).kind == kind
    assert (len(provider.requests), fallback.requests) == (1, [])
    assert sink.told == [("started", 1, "scripted"), ("events", first)]


async def test_events_that_end_without_a_finish_are_a_truncated_answer() -> None:
    assert (await failure_of(step(Scripted([[A]])))).kind == "truncated"


# --- faults of ours --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("script", [[ZeroDivisionError("a secret")], [[A], ZeroDivisionError("a secret")]])
async def test_an_unexpected_exception_is_internal_and_keeps_its_cause(script: Sequence[Step]) -> None:
    failure = await failure_of(step(Scripted(script)))
    assert failure.kind == "internal"
    assert isinstance(failure.__cause__, ZeroDivisionError)
    assert "secret" not in str(failure)


async def test_a_timeout_error_of_the_provider_s_own_is_no_deadline() -> None:
    assert (await failure_of(step(Scripted([TimeoutError()])))).kind == "internal"


async def test_a_step_without_models_is_a_fault_of_ours() -> None:
    assert (await failure_of(run_step([], lambda _model: StepRequest([]), Noting(), Upstreams()))).kind == "internal"


@pytest.mark.parametrize("method", ["started", "retrying", "events"])
@pytest.mark.parametrize("error", [KeyError("sink"), Failure("upstream_failed", "sink")])
async def test_what_the_sink_raises_goes_through_untouched_and_ends_the_step(method: str, error: Exception) -> None:
    class Raising(Noting):
        def started(self, attempt: int, model: str) -> None:
            super().started(attempt, model)
            if method == "started":
                raise error

        def retrying(self, attempt: int, delay_ms: int, code: ErrorCode) -> None:
            super().retrying(attempt, delay_ms, code)
            if method == "retrying":
                raise error

        async def events(self, batch: Sequence[ProviderEvent]) -> None:
            await super().events(batch)
            if method == "events":
                raise error

    provider, fallback = Scripted([Failure("upstream_failed")], [[USAGE], [A, END]]), Scripted([[A, END]])
    sink = Raising()
    with pytest.raises(type(error)) as raised:
        await step(provider, fallback, sink=sink)
    assert raised.value is error
    assert fallback.requests == []
    assert sink.kinds[-1] == method
    assert provider.left == len(provider.requests)


# --- deadlines -------------------------------------------------------------------------------------------------------


async def test_no_content_in_time_is_a_first_content_timeout_whatever_else_comes() -> None:
    async def chatter() -> AsyncGenerator[Sequence[ProviderEvent]]:
        while True:
            await asyncio.sleep(0.01)
            yield [USAGE]

    class Chatting(Scripted):
        def _played(self, script: Sequence[Step]) -> AsyncGenerator[Sequence[ProviderEvent]]:
            return chatter()

    for provider in (Scripted([forever]), Chatting([])):
        failure = await failure_of(step(provider, retries=replace(HURRIED, attempts_max=1)))
        assert failure.kind == "timeout_first_content"
        assert provider.left == 1


async def test_a_pause_in_the_middle_is_an_idle_timeout_whatever_else_comes() -> None:
    usage = [[USAGE], seconds(0.03)] * 20
    for script in ([[A], forever], [[A], *usage]):
        began = time.monotonic()
        provider = Scripted(script)
        assert (await failure_of(step(provider))).kind == "timeout_idle"
        assert 0.14 < time.monotonic() - began < 2
        assert (provider.left, len(provider.requests)) == (1, 1)


async def test_content_moves_the_idle_deadline_each_time() -> None:
    script: list[Step] = [step for _ in range(6) for step in ([A], seconds(0.08))]
    assert await step(Scripted([*script, [END]])) == END


async def test_an_idle_deadline_shorter_than_the_first_one_strikes_in_time() -> None:
    began = time.monotonic()
    failure = await failure_of(step(Scripted([[A], forever]), deadlines=replace(SHORT, first_content=5_000, idle=100)))
    assert failure.kind == "timeout_idle"
    assert time.monotonic() - began < 1


async def test_an_idle_deadline_longer_than_the_first_one_is_left_its_time() -> None:
    deadlines = replace(SHORT, first_content=80, idle=1_000)
    assert await step(Scripted([[A], seconds(0.2), [B], seconds(0.2), [END]]), deadlines=deadlines) == END


async def test_the_total_deadline_ends_an_answer_that_goes_on_and_on() -> None:
    script: list[Step] = [step for _ in range(40) for step in ([A], seconds(0.02))]
    began = time.monotonic()
    failure = await failure_of(step(Scripted(script), deadlines=replace(SHORT, total=200)))
    assert failure.kind == "timeout_total"
    assert 0.19 < time.monotonic() - began < 2


async def test_the_total_deadline_counts_all_attempts_and_ends_them() -> None:
    provider, fallback = Scripted([seconds(0.06), Failure("truncated")], [forever]), Scripted([[A, END]])
    failure = await failure_of(step(provider, fallback, deadlines=replace(SHORT, total=130)))
    assert failure.kind == "timeout_total"
    assert fallback.requests == []


async def test_no_fallback_is_begun_after_the_total_deadline_even_if_content_was_waited_for() -> None:
    hung, also_hung, fallback = Scripted([forever]), Scripted([forever]), Scripted([[A, END]])
    deadlines = replace(SHORT, connect_total=90, first_content=100, total=160)
    assert (await failure_of(step(hung, also_hung, fallback, deadlines=deadlines))).kind == "timeout_total"
    assert [len(provider.requests) for provider in (hung, also_hung, fallback)] == [1, 1, 0]


@pytest.mark.parametrize("first", [[A], [USAGE]], ids=["content", "usage"])
async def test_time_in_the_sink_counts_against_no_content_deadline(first: list[ProviderEvent]) -> None:
    class Slow(Noting):
        async def events(self, batch: Sequence[ProviderEvent]) -> None:
            await super().events(batch)
            await asyncio.sleep(0.3)

    sink = Slow()
    assert await step(Scripted([first, seconds(0.05), [B], seconds(0.05), [A, END]]), sink=sink) == END
    assert sink.kinds.count("events") == 3


async def test_a_deadline_still_strikes_after_a_long_wait_in_the_sink() -> None:
    class Slow(Noting):
        async def events(self, batch: Sequence[ProviderEvent]) -> None:
            await super().events(batch)
            await asyncio.sleep(0.3)

    began = time.monotonic()
    assert (await failure_of(step(Scripted([[A], forever]), sink=Slow()))).kind == "timeout_idle"
    assert 0.44 < time.monotonic() - began < 2


async def test_content_in_the_very_moment_of_its_deadline_is_in_time() -> None:
    async with ContentTimer(replace(SHORT, first_content=1), asyncio.get_running_loop().time() + 5) as timer:
        time.sleep(0.005)  # noqa: ASYNC251 - the deadline passes, and nothing else
        timer._ring()
        timer.hold()
        timer.begin_anew()
        for _ in range(5):
            await asyncio.sleep(0)


async def test_a_cancel_is_a_cancel_also_while_waiting_to_try_again() -> None:
    sink = Noting()
    patient = replace(HURRIED, wait_first_ms=1_000, wait_ms_max=1_000)
    running = asyncio.create_task(step(Scripted([Failure("upstream_failed")]), sink=sink, retries=patient))
    async with asyncio.timeout(2):
        while "retrying" not in sink.kinds:  # noqa: ASYNC110 - the sink's method is no coroutine
            await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


# --- over real HTTP --------------------------------------------------------------------------------------------------


@pytest.fixture
async def http() -> AsyncIterator[HttpStream]:
    client = HttpStream()
    yield client
    await client.aclose()


def at(http: HttpStream, server: ProviderServer, name: str = "real") -> OpenAIChat:
    return OpenAIChat(http, name=name, base_url=server.base_url, model="m")


async def closed(request: Received) -> None:
    async with asyncio.timeout(2):
        await request.closed.wait()


HELLO = Reply.of_text("Hel", "lo")


@pytest.mark.parametrize(
    ("replies", "kinds"),
    [
        pytest.param([HELLO], [], id="at once"),
        pytest.param([Reply.of_status(429, retry_after="0.05"), HELLO], ["upstream_unavailable"], id="429"),
        pytest.param([Reply.of_status(500)] * 3 + [HELLO], ["upstream_unavailable"] * 3, id="three 500s"),
        pytest.param([Reply.of_events({"error": {"code": 503}}), HELLO], ["upstream_unavailable"], id="error in a 200"),
        pytest.param([Reply.of_events("garbage"), HELLO], ["upstream_malformed"], id="garbage"),
        pytest.param([Reply.of_events("[DONE]"), HELLO], ["upstream_truncated"], id="empty"),
        pytest.param([Reply(ending="ping"), HELLO], ["upstream_timeout"], id="pings only"),
        pytest.param([Reply(headers_after=Gate(asyncio.Event())), HELLO], ["upstream_timeout"], id="no headers"),
        pytest.param([Reply(raw=b"", ending="reset"), HELLO], ["upstream_unavailable"], id="reset"),
        pytest.param([Reply(headers={"content-type": "text/html"}), HELLO], ["upstream_malformed"], id="HTML"),
        pytest.param([Reply((b"data: " + b"x" * 10_000_000,)), HELLO], ["upstream_malformed"], id="ten megabytes"),
    ],
)
async def test_a_service_that_recovers_before_its_first_byte_answers(
    http: HttpStream, replies: list[Reply], kinds: list[str]
) -> None:
    sink = Noting()
    async with ProviderServer(in_order(*replies)) as server:
        assert await step(at(http, server), sink=sink, deadlines=PATIENT) == END
        assert [entry[3] for entry in sink.told if entry[0] == "retrying"] == kinds
        assert len(server.requests) == len(replies)
        for request in server.requests[:-1]:
            assert request.answered or request.closed.is_set()
    text = "".join(
        event.text for entry in sink.told if entry[0] == "events" for event in entry[1:] if isinstance(event, Content)
    )
    assert text == "Hello"


async def test_a_service_that_stays_down_is_asked_four_times_and_then_the_fallback(http: HttpStream) -> None:
    sink = Noting()
    async with (
        ProviderServer(in_order(Reply.of_status(500))) as down,
        ProviderServer(in_order(HELLO)) as up,
    ):
        assert (await failure_of(step(at(http, down), sink=sink))).kind == "upstream_failed"
        assert len(down.requests) == 4
        assert await step(at(http, down), at(http, up)) == END
        assert (len(down.requests), len(up.requests)) == (8, 1)


async def test_a_service_that_refuses_connections_is_a_connect_failure(http: HttpStream) -> None:
    async with ProviderServer(in_order(HELLO)) as gone:
        pass
    sink = Noting()
    assert (await failure_of(step(at(http, gone), sink=sink))).kind == "upstream_connect"
    assert sink.kinds.count("started") == 4


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        pytest.param(Reply((sse(chunk("a")),), ending="stall"), "timeout_idle", id="stall"),
        pytest.param(Reply((sse(chunk("a")),), ending="ping"), "timeout_idle", id="pings only"),
        pytest.param(Reply((sse(chunk("a")),)), "truncated", id="end without a finish"),
        pytest.param(Reply((sse(chunk("a")),), ending="cut"), "truncated", id="cut"),
        pytest.param(Reply((sse(chunk("a")), sse({"error": "no"}))), "upstream_failed", id="error in a 200"),
        pytest.param(Reply((sse(chunk("a")), sse("garbage"))), "malformed", id="garbage"),
    ],
)
async def test_a_service_that_fails_after_its_first_byte_was_asked_exactly_once(
    http: HttpStream, reply: Reply, kind: str
) -> None:
    sink = Noting()
    async with ProviderServer(in_order(reply, HELLO)) as server, ProviderServer(in_order(HELLO)) as fallback:
        failure = await failure_of(step(at(http, server), at(http, fallback), sink=sink))
        assert failure.kind == kind
        assert sink.told == [("started", 1, "real"), ("events", A)]
        assert (len(server.requests), len(fallback.requests)) == (1, 0)
        if not server.requests[0].answered:
            await closed(server.requests[0])


@pytest.mark.parametrize("when", ["before the first byte", "in the middle"])
async def test_a_cancelled_step_has_closed_its_socket_when_it_is_over(http: HttpStream, when: str) -> None:
    waiting = Reply(headers_after=Gate(asyncio.Event()))
    talking = Reply((sse(chunk("a")),), ending="ping")
    took_ms: list[float] = []
    async with ProviderServer(in_order(waiting if when == "before the first byte" else talking)) as server:
        for number in range(20):
            sink = Noting()
            running = asyncio.create_task(step(at(http, server), sink=sink, deadlines=Deadlines()))
            request = await server.request(number)
            if when == "in the middle":
                await sink.content.wait()
            began_ns = time.monotonic_ns()
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
            await closed(request)
            assert request.closed_ns is not None
            took_ms.append((request.closed_ns - began_ns) / 1e6)
        assert len(server.requests) == 20
    assert sorted(took_ms)[10] < 10


async def test_the_demo_s_failures_are_what_they_say() -> None:
    for provider, kinds, failed in [
        (Demo("error-before"), ["started", "retrying"] * 3 + ["started"], "upstream_failed"),
        (Demo("error-after", delay_ms=0), ["started"] + ["events"] * 12, "truncated"),
        (Demo("stall"), ["started"], "timeout_first_content"),
    ]:
        sink = Noting()
        deadlines = replace(SHORT, connect_total=100)
        assert (await failure_of(step(provider, sink=sink, deadlines=deadlines))).kind == failed
        assert sink.kinds == kinds
