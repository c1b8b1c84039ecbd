"""Who is taken for dead: leases that ran out, and the cases in which that says nothing of their writers."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from tests.stores.making import SESSION, SETTLED, append, key, make_overdue, quotas_beside, request, sealing
from tests.stores.server import StoreServer
from tests.support.waiting import until
from turnwire.app import Node
from turnwire.core.entries import Event
from turnwire.ports import Model
from turnwire.providers.demo import Demo
from turnwire.runtime.turn_runner import HANG_MS, Spec
from turnwire.settings import Settings
from turnwire.stores.redis.link import Link
from turnwire.stores.redis.log import RedisSessionLog

SETTINGS = Settings()
MODELS = {"demo": Model("demo", Demo("stall"))}


class MovedClock:
    """A clock that goes as far as the test moves it."""

    def __init__(self) -> None:
        self.ms = 1_000_000

    def now_ms(self) -> int:
        return self.ms

    def monotonic_ms(self) -> int:
        return self.ms


@pytest.fixture
def clock() -> MovedClock:
    return MovedClock()


@pytest.fixture
async def node(log: RedisSessionLog, clock: MovedClock) -> AsyncIterator[Node]:
    async with on(log, clock) as node:
        yield node


@asynccontextmanager
async def on(log: RedisSessionLog, clock: MovedClock) -> AsyncGenerator[Node]:
    """A node whose tasks do not run, but for the journal: a test sweeps and renews by itself."""
    node = Node(SETTINGS, log, quotas_beside(log), MODELS, clock)
    journal = asyncio.create_task(node.journal.run())
    yield node
    await node.running.abandon()
    journal.cancel()
    await asyncio.gather(journal, return_exceptions=True)


async def running_elsewhere(other: RedisSessionLog, server: StoreServer) -> None:
    """A turn whose lease has run out."""
    await other.accept_turn(request(spec=Spec([{"type": "text", "text": "hi"}], "demo").to_json()))
    make_overdue(server, key())


async def never() -> None:
    await asyncio.Event().wait()


async def state_of(log: RedisSessionLog) -> str:
    return (await log.read_view(SESSION, 1)).turns[0].state


async def test_a_turn_is_taken_at_once_by_a_node_that_was_in_touch_with_the_store(
    node: Node, clock: MovedClock, other: RedisSessionLog, server: StoreServer
) -> None:
    await node.reaper.sweep()
    clock.ms += SETTINGS.sweep_ms
    await running_elsewhere(other, server)
    await node.reaper.sweep()
    assert node.running.runs(key())


async def test_after_a_time_without_the_store_living_writers_get_a_lease_to_come_back(
    node: Node, clock: MovedClock, other: RedisSessionLog, server: StoreServer
) -> None:
    await running_elsewhere(other, server)
    clock.ms += SETTINGS.lease_ms
    await node.reaper.look_at(key())  # an open that is faster than the sweep is no way around it
    await node.reaper.sweep()
    clock.ms += SETTINGS.sweep_ms
    await node.reaper.sweep()
    assert not node.running.runs(key())
    # The writer was alive: what it has, it keeps.
    assert (await other.renew_leases([(key(), "nonce-t1")]))[0].result == "ok"
    clock.ms += SETTINGS.lease_ms
    await node.reaper.sweep()
    assert not node.running.runs(key())


async def test_after_a_time_without_the_store_a_writer_that_does_not_come_back_is_dead(
    node: Node, clock: MovedClock, other: RedisSessionLog, server: StoreServer
) -> None:
    await running_elsewhere(other, server)
    clock.ms += SETTINGS.lease_ms
    await node.reaper.sweep()
    for _ in range(SETTINGS.lease_ms // SETTINGS.sweep_ms):
        clock.ms += SETTINGS.sweep_ms
        await node.reaper.sweep()
    assert node.running.runs(key())


async def test_a_node_that_came_up_after_a_restart_of_the_store_gives_each_writer_a_lease_to_come_back(
    own_store: StoreServer, log_on_own_store: RedisSessionLog, clock: MovedClock
) -> None:
    await running_elsewhere(log_on_own_store, own_store)
    own_store.kill()
    own_store.start()
    async with RedisSessionLog(Link(own_store.url), node="there", limits=SETTLED) as there, on(there, clock) as node:
        for _ in range(SETTINGS.lease_ms // SETTINGS.sweep_ms):
            await node.reaper.sweep()
            assert not node.running.runs(key())
            clock.ms += SETTINGS.sweep_ms
        await node.reaper.sweep()
        assert node.running.runs(key()) and await state_of(there) == "running"


async def test_a_node_that_saw_the_store_restart_takes_nothing_while_writers_come_back(
    own_store: StoreServer, log_on_own_store: RedisSessionLog, clock: MovedClock
) -> None:
    limits = replace(SETTLED, settle_ms=3_000)
    async with RedisSessionLog(Link(own_store.url), node="there", limits=limits) as there, on(there, clock) as node:
        for _ in range(SETTINGS.lease_ms // SETTINGS.sweep_ms):
            await node.reaper.sweep()
            clock.ms += SETTINGS.sweep_ms
        await running_elsewhere(log_on_own_store, own_store)
        own_store.kill()
        own_store.start()
        await until(lambda: there.recovering)
        await node.reaper.sweep()
        assert not node.running.runs(key()) and there.recovering
        await until(lambda: not there.recovering)
        await node.reaper.sweep()
        assert node.running.runs(key()) and await state_of(there) == "running"


async def test_a_turn_that_nobody_has_is_taken_also_then(
    node: Node, clock: MovedClock, other: RedisSessionLog, server: StoreServer
) -> None:
    await other.accept_turn(request(nonce="nonce-t1"))
    spec = Spec([{"type": "text", "text": "hi"}], "demo").to_json()
    await other.accept_turn(request(key("t2"), on_busy="queue", spec=spec))
    assert (await append(other, sealing())).next == "t2"
    clock.ms += SETTINGS.lease_ms
    await node.reaper.sweep()
    assert node.running.runs(key("t2"))


async def test_a_runner_that_is_beyond_its_deadlines_is_told_to_end(
    node: Node, clock: MovedClock, log: RedisSessionLog
) -> None:
    spec = Spec([{"type": "text", "text": "hi"}], "demo")
    accept = request(spec=spec.to_json())
    await log.accept_turn(accept)
    node.running.start(accept, spec)
    writer = node.running._writers[key()]
    await until(lambda: writer.hung_at_ms is not None)
    await node.running._renew()
    assert node.running.runs(key()) and not writer.stopped.done()

    clock.ms += MODELS["demo"].deadlines.total + HANG_MS + 1  # as after timers that did not ring
    await node.running._renew()

    await node.running.idle()
    terminal = (await log.read_view(SESSION, 1)).turns[0].terminal
    assert terminal is not None and isinstance(terminal.entry, Event)
    assert b"upstream_timeout" in terminal.entry.body


async def test_a_node_that_was_slow_to_renew_takes_nothing_from_itself(
    node: Node, log: RedisSessionLog, server: StoreServer
) -> None:
    accept = request(spec=Spec([{"type": "text", "text": "hi"}], "demo").to_json())
    await log.accept_turn(accept)
    writer = node.journal.writer(accept, accept.nonce)
    node.running._spawn(key(), writer, never())
    make_overdue(server, key())
    await node.reaper.sweep()
    assert node.running._writers[key()] is writer
    assert (await log.renew_leases([(key(), accept.nonce)]))[0].result == "ok"


async def test_a_runner_that_cannot_even_end_loses_its_turn(
    node: Node, clock: MovedClock, log: RedisSessionLog, server: StoreServer
) -> None:
    accept = request(spec=Spec([{"type": "text", "text": "hi"}], "demo").to_json())
    await log.accept_turn(accept)
    writer = node.journal.writer(accept, accept.nonce)
    node.running._spawn(key(), writer, never())
    writer.hung_at_ms = clock.ms
    make_overdue(server, key())
    await node.running._renew()  # would hold on to it
    await node.reaper.sweep()
    assert node.running._writers[key()] is writer

    clock.ms += 1
    make_overdue(server, key())
    await node.running._renew()
    await node.reaper.sweep()

    assert node.running._writers[key()] is not writer


async def test_a_node_that_goes_down_takes_nothing(node: Node, other: RedisSessionLog, server: StoreServer) -> None:
    await node.reaper.sweep()
    await running_elsewhere(other, server)
    node.running.stop_taking()
    await node.reaper.sweep()
    await node.running.take_quietly(key())
    assert not node.running.runs(key())
    assert await state_of(other) == "running"
