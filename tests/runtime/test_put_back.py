"""A store that lost the newest it was given: what its writers still have they put back, and what readers see meanwhile.

The store loses by being started again on an earlier state of its file, as a replica that lagged becomes the primary.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

import orjson
import pytest

from tests.stores.making import SESSION, append, batch, caller, key, quotas_beside, request, sealing, text, types
from tests.stores.server import StoreServer
from tests.support.waiting import LOOK_S, PATIENCE_S, until
from turnwire.app import Node, SystemClock
from turnwire.core.entries import Content, Delta, Event, Finish, Logged, ProviderEvent
from turnwire.core.snapshots import folded
from turnwire.ports import Accepted, AcceptRequest, Appended, Failure, Model, StepRequest, StoredTurn, TurnKey
from turnwire.runtime.backend import Backend, Opening
from turnwire.runtime.refusals import Refused, Unlearned
from turnwire.runtime.session_hub import Feed
from turnwire.settings import Settings
from turnwire.stores.redis.link import Link
from turnwire.stores.redis.log import LogLimits, RedisSessionLog
from turnwire_protocol.at_rest import SessionPatch
from turnwire_protocol.commands import TurnCancel, TurnCreate, TurnRespond
from turnwire_protocol.events import TERMINAL_TYPES
from turnwire_protocol.values import Cursor

SETTINGS = Settings(lease_ms=3_000, renew_ms=200, sweep_ms=200)
SETTLE_MS = 1_500

Found = TypeVar("Found")


async def answered(call: Callable[[], Awaitable[Found]], enough: Callable[[Found], object] = lambda _: True) -> Found:
    """What the call says once that is enough. A store that is away just now is asked again."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            with suppress(Failure, Unlearned):
                if enough(found := await call()):
                    return found
            await asyncio.sleep(LOOK_S)


class Dictated:
    """A model that says what the test tells it to, and nothing before."""

    def __init__(self) -> None:
        self.name = "demo"
        self.requests = 0
        self.closed = 0
        self._told: asyncio.Queue[Sequence[ProviderEvent]] = asyncio.Queue()

    def say(self, *words: str) -> None:
        for word in words:
            self._told.put_nowait([Content(0, "text", word)])

    def call(self, tool: str) -> None:
        self._told.put_nowait([Content(1, "tool_call", "{}", "call1", tool), Finish("tool_calls")])

    def finish(self) -> None:
        self._told.put_nowait([Finish("stop")])

    @asynccontextmanager
    async def stream(self, request: StepRequest) -> AsyncGenerator[AsyncIterator[Sequence[ProviderEvent]]]:
        self.requests += 1
        try:
            yield self._events()
        finally:
            self.closed += 1

    async def _events(self) -> AsyncIterator[Sequence[ProviderEvent]]:
        while True:
            events = await self._told.get()
            yield events
            if isinstance(events[-1], Finish):
                return


class Reading:
    def wake(self) -> None:
        pass


class World:
    """A node on a store of its own, and the model that it asks."""

    def __init__(self, store: StoreServer, node: Node, log: RedisSessionLog, model: Dictated) -> None:
        self.store = store
        self.node = node
        self.log = log
        self.model = model

    async def create(self, turn: str = "t1", **fields: Any) -> None:
        values = {"type": "turn.create", "session": "s1", "turn": turn, "input": [{"type": "text", "text": "hi"}]}
        await self.node.backend.create_turn(caller("alice"), TurnCreate.model_validate({**values, **fields}))

    async def turns(self) -> dict[str, StoredTurn]:
        return {stored.turn: stored for stored in (await self.log.read_view(SESSION, 50)).turns}

    async def text(self, turn: str = "t1") -> str:
        """What the log has of the turn's answer."""
        stored = (await self.turns()).get(turn)
        if stored is None:
            return ""
        parts = folded(list(stored.entries))[0] if stored.parts is None else orjson.loads(stored.parts)["parts"]
        return "".join(part["text"] for part in parts)

    async def reaches(self, text: str, turn: str = "t1") -> None:
        await answered(lambda: self.text(turn), lambda found: found == text)

    async def ended(self, turn: str = "t1") -> Event:
        """The turn's terminal, once it is there."""
        turns = await answered(self.turns, lambda turns: turn in turns and turns[turn].terminal is not None)
        terminal = turns[turn].terminal
        assert terminal is not None and isinstance(terminal.entry, Event)
        return terminal.entry

    def resume(self, gen: str | None, seq: int) -> Callable[[], Awaitable[Opening]]:
        """Open with a cursor behind an entry of t1."""
        return lambda: self.node.backend.open(SESSION, Cursor(gen=gen, seq=seq, turn="t1"), 50, "o1")

    async def history_is_sound(self) -> list[Logged]:
        """No holes, one terminal a turn, and nothing of it afterwards."""
        logged = list((await self.log.read_range(SESSION, 0, 10_000)).entries)
        assert [entry.seq for entry in logged] == list(range(1, len(logged) + 1))
        over: set[str | None] = set()
        for entry in logged:
            assert entry.entry.turn not in over
            if not isinstance(entry.entry, Delta) and entry.entry.type in TERMINAL_TYPES:
                over.add(entry.entry.turn)
        return logged


@pytest.fixture
async def world(own_store: StoreServer) -> AsyncIterator[World]:
    limits = LogLimits(lease_ms=SETTINGS.lease_ms, settle_ms=SETTLE_MS, readers_settle_ms=SETTLE_MS)
    model = Dictated()
    async with RedisSessionLog(Link(own_store.url), node="here", limits=limits) as log:
        node = Node(SETTINGS, log, quotas_beside(log), {"demo": Model("demo", model)}, SystemClock())
        tasks = [asyncio.create_task(work, name=name) for name, work in node.tasks().items()]
        yield World(own_store, node, log, model)
        await node.running.abandon()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_the_lost_tail_of_a_running_answer_is_put_back(world: World) -> None:
    await world.create()
    world.model.say("one ", "two ")
    await world.reaches("one two ")
    gen = (await world.log.read_view(SESSION, 1)).gen
    world.store.keep()
    world.model.say("three ", "four ")
    await world.reaches("one two three four ")
    world.store.go_back()
    world.model.say("five")
    await world.reaches("one two three four five")
    assert (await world.log.read_view(SESSION, 1)).gen != gen
    world.model.finish()
    assert orjson.loads((await world.ended()).body)["finish_reason"] == "stop"
    await world.history_is_sound()
    assert world.model.requests == 1


async def test_the_lost_tail_is_put_back_while_the_model_is_silent(world: World) -> None:
    """Nobody appends: the renewal that follows the new connection finds it."""
    await world.create()
    world.model.say("one ")
    await world.reaches("one ")
    world.store.keep()
    world.model.say("two")
    await world.reaches("one two")
    world.store.go_back()
    await world.reaches("one two")
    assert world.model.requests == 1


@pytest.mark.parametrize("silent", [False, True])
async def test_a_turn_that_the_store_forgot_is_accepted_again_with_all_that_it_said(world: World, silent: bool) -> None:
    world.store.keep()
    await world.create()
    world.model.say(*(f"{number} " for number in range(700)))
    whole = "".join(f"{number} " for number in range(700))
    await world.reaches(whole)
    world.store.go_back()
    if not silent:
        world.model.say("and on")
        whole += "and on"
    await world.reaches(whole)
    world.model.finish()
    assert (await world.ended()).type == "turn.done"
    await world.history_is_sound()
    assert world.model.requests == 1


async def test_an_end_that_the_store_forgot_is_written_again_and_the_model_is_not_asked_again(world: World) -> None:
    await world.create()
    world.model.say("one ")
    await world.reaches("one ")
    world.store.keep()
    world.model.say("two")
    world.model.finish()
    first = await world.ended()
    world.store.go_back()
    again = await world.ended()
    assert again.body == first.body
    assert await world.text() == "one two"
    await world.history_is_sound()
    assert world.model.requests == 1


async def test_a_whole_turn_that_is_over_and_was_forgotten_is_put_back(world: World) -> None:
    world.store.keep()
    await world.create()
    world.model.say("all of it")
    world.model.finish()
    first = await world.ended()
    world.store.go_back()
    assert (await world.ended()).body == first.body
    assert await world.text() == "all of it"
    await world.history_is_sound()


async def test_two_turns_in_a_row_that_were_forgotten_come_back_in_their_order(world: World) -> None:
    """The second finds the first in its place, until that one's end is back."""
    await world.create("t1")
    world.model.say("first")
    await world.reaches("first")
    world.store.keep()
    world.model.finish()
    await world.ended("t1")
    await world.create("t2")
    world.model.say("second")
    await world.reaches("second", "t2")
    world.store.go_back()
    world.model.say(" goes on")
    await world.reaches("second goes on", "t2")
    world.model.finish()
    assert (await world.ended("t2")).type == "turn.done"
    assert (await world.turns())["t2"].parent == "t1"
    await world.history_is_sound()
    assert world.model.requests == 2


async def test_turns_that_were_forgotten_whole_come_back_in_their_order(world: World) -> None:
    """One that runs waits for those before it, though they are over."""
    await world.create("t0")
    world.model.finish()
    await world.ended("t0")
    world.store.keep()
    await world.create("t1")
    world.model.say("first")
    world.model.finish()
    await world.ended("t1")
    await world.create("t2", parent="t0")
    world.model.say("second")
    world.model.finish()
    await world.ended("t2")
    await world.create("t3", parent="t1")
    world.model.say("third")
    await world.reaches("third", "t3")
    world.store.go_back()
    await world.reaches("third", "t3")
    turns = await world.turns()
    assert [(turn, stored.parent) for turn, stored in turns.items()] == [
        ("t0", None),
        ("t1", "t0"),
        ("t2", "t0"),
        ("t3", "t1"),
    ]
    await world.create("t4", on_busy="queue")
    assert (await world.turns())["t4"].parent == "t3"
    assert [await world.text(turn) for turn in ("t1", "t2", "t3")] == ["first", "second", "third"]
    await world.history_is_sound()


async def test_a_turn_comes_back_without_the_one_before_it_that_nobody_has_any_more(world: World) -> None:
    world.store.keep()
    await world.create("t1")
    world.model.finish()
    await world.ended("t1")
    await world.create("t2")
    world.model.say("second")
    await world.reaches("second", "t2")
    world.node.journal.forget(world.node.journal.lingering()[0])  # as if another node had written it, which died
    world.store.go_back()
    await world.reaches("second", "t2")
    assert {turn: stored.parent for turn, stored in (await world.turns()).items()} == {"t2": None}
    world.model.finish()
    assert (await world.ended("t2")).type == "turn.done"


class Held(asyncio.Event):
    """Nothing is put back before this is set. Counts what waits for it."""

    waiting = 0


@pytest.fixture
async def held_back(world: World, monkeypatch: pytest.MonkeyPatch) -> Held:
    accept = world.log.accept_turn
    go = Held()

    async def waits(request: AcceptRequest) -> Accepted:
        if request.put_back:
            go.waiting += 1
            await go.wait()
        return await accept(request)

    monkeypatch.setattr(world.log, "accept_turn", waits)
    return go


async def test_a_turn_is_put_back_once_though_its_model_says_more_meanwhile(world: World, held_back: Held) -> None:
    world.store.keep()
    await world.create()
    world.model.say("one ")
    await world.reaches("one ")
    world.store.go_back()
    await until(lambda: held_back.waiting)
    for letter in "abcdefghij":
        world.model.say(letter)
        await answered(lambda: world.log.read_view(SESSION, 1))  # time for whatever is sent now to be refused
    assert held_back.waiting == 1
    held_back.set()
    await world.reaches("one abcdefghij")


async def test_a_new_turn_waits_for_the_one_that_its_client_has_seen(world: World, held_back: Held) -> None:
    world.store.keep()
    await world.create("t1")
    world.model.say("first")
    await world.reaches("first")
    await world.node.hub.attach(SESSION, Reading())
    world.store.go_back()
    await answered(lambda: world.log.read_view(SESSION, 1))
    creating = asyncio.create_task(world.create("t2", on_busy="queue"))
    assert await asyncio.wait({creating}, timeout=0.5) == (set(), {creating})
    held_back.set()
    await creating
    turns = await world.turns()
    assert [(turn, stored.state, stored.parent) for turn, stored in turns.items()] == [
        ("t1", "running", None),
        ("t2", "queued", "t1"),
    ]


async def test_a_turn_comes_back_to_its_own_parent_though_another_is_the_newest_now(
    world: World, held_back: Held
) -> None:
    await world.create("t1")
    world.model.finish()
    await world.ended("t1")
    world.store.keep()
    await world.create("t2")
    world.model.say("second")
    await world.reaches("second", "t2")
    world.store.go_back()
    await answered(lambda: world.log.accept_turn(request(key("t3"))))
    await append(world.log, sealing(key("t3")))
    held_back.set()
    await world.reaches("second", "t2")
    assert (await world.turns())["t2"].parent == "t1"


@pytest.mark.parametrize("named", [{"parent": "t1"}, {"again": "t1", "input": []}])
async def test_a_turn_that_a_new_one_names_is_waited_for_until_it_is_back(
    world: World, held_back: Held, named: dict[str, Any]
) -> None:
    world.store.keep()
    await world.create("t1")
    world.model.say("first")
    world.model.finish()
    await world.ended("t1")
    world.store.go_back()
    await answered(lambda: world.log.read_view(SESSION, 1))
    creating = asyncio.create_task(world.create("t2", **named))
    assert await asyncio.wait({creating}, timeout=0.5) == (set(), {creating})
    held_back.set()
    await creating
    assert list(await world.turns()) == ["t1", "t2"]


@pytest.mark.parametrize(
    "call",
    [
        lambda backend: backend.read_session(SESSION),
        lambda backend: backend.read_turns(SESSION, None, 5),
        lambda backend: backend.update_session(SESSION, SessionPatch(title="Sky")),
        lambda backend: backend.delete_session(SESSION),
    ],
    ids=["read", "turns", "rename", "delete"],
)
async def test_a_session_that_is_on_its_way_back_is_not_said_to_be_none(
    world: World, held_back: Held, call: Callable[[Backend], Awaitable[object]]
) -> None:
    world.store.keep()
    await world.create("t1")
    world.model.say("first")
    await world.reaches("first")
    world.store.go_back()
    await until(lambda: held_back.waiting)
    calling = asyncio.ensure_future(call(world.node.backend))
    assert await asyncio.wait({calling}, timeout=0.3) == (set(), {calling})
    held_back.set()
    await calling


async def test_what_answers_a_tool_call_waits_until_the_call_is_back(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    renew = world.log.renew_leases
    go = asyncio.Event()

    async def waits(leases: Any) -> Any:
        await go.wait()
        return await renew(leases)

    await world.create("t1", tools=[{"name": "get_time"}])
    world.model.say("first")
    await world.reaches("first")
    world.store.keep()
    world.model.call("get_time")
    logged = await answered(world.history_is_sound, lambda logged: types(logged)[-1][0] == "turn.asked")
    monkeypatch.setattr(world.log, "renew_leases", waits)  # which is how a writer of a parked turn learns of the loss
    world.store.go_back()
    await answered(lambda: world.log.read_view(SESSION, 1))
    asked = logged[-1].entry
    assert isinstance(asked, Event)
    answer = TurnRespond(type="turn.respond", session="s1", turn="t1", request=asked.fields["request"], value="12:00")
    responding = asyncio.create_task(world.node.backend.respond("alice", "alice", answer))
    assert await asyncio.wait({responding}, timeout=0.3) == (set(), {responding})
    go.set()
    await responding
    world.model.finish()
    assert (await world.ended("t1")).type == "turn.done"
    with pytest.raises(Refused, match="Nothing waits"):
        await world.node.backend.respond("alice", "alice", answer.model_copy(update={"value": "13:00"}))


async def test_nobody_waits_for_a_session_that_is_known_to_be_deleted(world: World) -> None:
    await world.create("t1")
    await world.node.hub.attach(SESSION, Reading())
    await world.node.backend.delete_session(SESSION)
    with pytest.raises(Refused, match="was deleted"):
        await world.create("t2")
    assert world.log.unsettled


async def test_a_turn_that_never_was_is_waited_for_only_while_it_may_be_on_its_way(world: World) -> None:
    await world.create("t1")
    world.store.keep()
    world.store.go_back()
    await answered(lambda: world.log.read_view(SESSION, 1))
    with pytest.raises(Refused, match="parent turn does not exist"):
        await asyncio.wait_for(world.create("t2", parent="none"), PATIENCE_S)
    assert not world.log.unsettled


async def test_a_turn_comes_back_behind_one_whose_end_nobody_has_any_more(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever puts it back sees to the other's end itself, and waits for no sweep."""
    await world.create("t1")
    world.model.say("first")
    await world.reaches("first")
    world.store.keep()
    world.model.finish()
    await world.ended("t1")
    await world.create("t2")
    world.model.say("second")
    await world.reaches("second", "t2")
    world.node.journal.forget(world.node.journal.lingering()[0])  # as if another node had written it, which died

    async def nothing_is_due(_count: int) -> Sequence[TurnKey]:
        return ()

    monkeypatch.setattr(world.log, "overdue_turns", nothing_is_due)
    world.store.go_back()
    await world.reaches("second", "t2")
    assert orjson.loads((await world.ended("t1")).body)["error"]["code"] == "node_lost"
    world.model.finish()
    assert (await world.ended("t2")).type == "turn.done"
    await world.history_is_sound()


async def test_a_promoted_turn_whose_start_was_forgotten_is_not_asked_for_twice(world: World) -> None:
    await world.create("t1")
    world.model.say("first")
    await world.reaches("first")
    await world.create("t2", on_busy="queue")
    world.store.keep()
    world.model.finish()
    await world.ended("t1")
    world.model.say("second")
    await world.reaches("second", "t2")
    # The promotion, the taking and all that was said are lost; the turn itself waits in the queue as before.
    world.store.go_back()
    world.model.say(" goes on")
    world.model.finish()
    assert (await world.ended("t2")).type == "turn.done"
    assert await world.text("t2") == "second goes on"
    await world.history_is_sound()
    assert world.model.requests == 2


async def test_nobody_else_takes_a_promoted_turn_before_its_writer_has_it_back(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first turn's end is put back, which promotes the second anew: whoever seals is not to run it again."""
    await world.create("t1")
    world.model.say("first")
    await world.reaches("first")
    await world.create("t2", on_busy="queue")
    world.store.keep()
    world.model.finish()
    await world.ended("t1")
    world.model.say("second")
    await world.reaches("second", "t2")
    accept = world.log.accept_turn
    late = asyncio.Event()

    async def waits(request: AcceptRequest) -> Accepted:
        await late.wait()
        return await accept(request)

    monkeypatch.setattr(world.log, "accept_turn", waits)
    world.store.go_back()
    await answered(world.turns, lambda turns: "t1" in turns and turns["t1"].terminal and turns["t2"].state == "running")
    await world.node.running.take_quietly(key("t2"))
    await world.node.reaper.look_at(key("t2"))
    late.set()
    await world.reaches("second", "t2")
    world.model.finish()
    await world.ended("t2")
    assert world.model.requests == 2


@pytest.mark.parametrize("over", [False, True])
async def test_a_take_that_the_store_forgot_holds_again_and_the_model_is_not_asked_again(
    world: World, over: bool
) -> None:
    """The store has the dead node as its writer again, of whom nothing more came: whoever took it goes on with it."""
    async with RedisSessionLog(Link(world.store.url), node="dead", limits=LogLimits(lease_ms=1_500)) as dead:
        await dead.accept_turn(request(key("t1")))
    world.store.keep()
    await until(lambda: world.model.requests == 1)  # the sweep took it
    world.model.say("one ", "two ")
    await world.reaches("one two ")
    if over:
        world.model.finish()
        first = await world.ended()
        world.store.go_back()
        assert (await world.ended()).body == first.body
    else:
        world.store.go_back()
        world.model.say("three")
        await world.reaches("one two three")
        world.model.finish()
        await world.ended()
    await world.history_is_sound()
    assert world.model.requests == 1


async def test_a_take_that_the_store_forgot_is_over_when_the_writer_before_goes_on(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It lives, and acted first in the new history: two writers must not both go on."""
    async with RedisSessionLog(Link(world.store.url), node="slow", limits=LogLimits(lease_ms=1_500)) as slow:
        await slow.accept_turn(request(key("t1"), nonce="n1"))
        world.store.keep()
        await until(lambda: world.model.requests == 1)
        world.model.say("of the second ")
        await world.reaches("of the second ")
        pause = asyncio.Event()
        renew, pipeline = world.log.renew_leases, world.node.journal._appends
        append = pipeline._send

        async def renews(leases: Any) -> Any:
            await pause.wait()
            return await renew(leases)

        async def appends(batches: Any) -> Any:
            await pause.wait()
            return await append(batches)

        monkeypatch.setattr(world.log, "renew_leases", renews)
        monkeypatch.setattr(pipeline, "_send", appends)
        world.store.go_back()
        first = batch(key("t1"), nonce="n1", entries=text(key("t1"), "of the first"))
        await answered(lambda: slow.append_many([first]), _is_in)
        pause.set()
        await until(lambda: world.model.closed == 1)
        assert await world.text() == "of the first"
        await world.history_is_sound()


def _is_in(answers: Sequence[Appended]) -> bool:
    return answers[0].result == "ok"


async def test_an_end_that_is_lost_twice_is_put_back_twice(world: World) -> None:
    await world.create()
    world.model.say("one")
    await world.reaches("one")
    world.store.keep()
    world.model.finish()
    first = await world.ended()
    for _ in range(2):
        world.store.go_back()
        assert (await world.ended()).body == first.body
    # A change that loses nothing is no reason to forget it either.
    world.store.kill()
    world.store.start()
    await answered(lambda: world.log.read_view(SESSION, 1))
    await until(lambda: world.node.running._history == world.log.history)
    world.store.go_back()
    assert (await world.ended()).body == first.body
    await world.history_is_sound()


async def test_a_cancel_that_comes_before_the_turn_is_back_is_kept(world: World) -> None:
    world.store.keep()
    await world.create()
    world.model.say("one ")
    await world.reaches("one ")
    world.store.go_back()
    cancel = TurnCancel(type="turn.cancel", session="s1", turn="t1")
    result = await answered(lambda: world.node.backend.cancel_turn("alice", "bob", cancel))
    assert result in ("pending", "cancelling")
    assert orjson.loads((await world.ended()).body)["finish_reason"] == "cancelled"
    assert await world.text() == "one "
    await until(lambda: world.model.closed == 1)


async def test_a_deleted_session_does_not_rise_from_its_writers_memory(world: World) -> None:
    await world.create()
    world.model.say("one ")
    await world.reaches("one ")
    await world.node.backend.delete_session(SESSION)
    world.store.keep()
    world.store.go_back()
    await until(lambda: world.model.closed == 1)
    world.node.running.look_now()
    await until(lambda: not world.node.running.runs(key()))
    assert (await world.log.read_view(SESSION, 1)).gen is None


async def test_a_deletion_that_the_store_lost_with_the_turn_raises_nothing_from_memory(world: World) -> None:
    world.store.keep()
    await world.create()
    world.model.say("all of it")
    world.model.finish()
    await world.ended()
    await world.node.backend.delete_session(SESSION)
    world.store.go_back()
    await answered(lambda: world.log.read_view(SESSION, 1))
    await until(lambda: world.node.running._history == world.log.history)  # everything was asked about
    assert (await world.log.read_view(SESSION, 1)).gen is None


async def test_a_reader_is_not_told_of_a_loss_that_is_made_good(world: World) -> None:
    """A live feed waits for what is put back, and so does the resume of a client that had seen it."""
    world.store.keep()
    await world.create()
    world.model.say("one ", "two ")
    await world.reaches("one two ")
    feed: Feed = await world.node.hub.attach(SESSION, Reading())
    gen, tail = feed.gen, feed.tail
    assert gen is not None and tail > 2
    gens: set[str | None] = {gen}
    restart = feed.restart

    def told(gen: str | None, head: int) -> None:
        gens.add(gen)
        restart(gen, head)

    feed.restart = told  # what readers would be told
    world.store.go_back()
    opening = await answered(world.resume(gen, tail))
    assert [frame["turn"] for frame in opening.frames] == ["t1", "t1"]
    assert opening.frames[0]["mode"] == "snapshot" and opening.frames[1]["parts"][0]["text"] == "one two "
    await until(lambda: feed.gen != gen)
    assert None not in gens


async def test_a_reader_waits_for_the_second_turn_when_the_first_ones_end_is_put_back_here(world: World) -> None:
    """What this node puts back itself is as little a new history as what others do, until all of it is there."""
    await world.create("t1")
    world.model.say("first")
    await world.reaches("first")
    world.store.keep()
    world.model.finish()
    await world.ended("t1")
    await world.create("t2")
    world.model.say("second")
    await world.reaches("second", "t2")
    feed: Feed = await world.node.hub.attach(SESSION, Reading())
    gen = feed.gen
    shown: list[asyncio.Task[Opening]] = []
    restart = feed.restart

    def told(gen: str | None, head: int) -> None:
        shown.append(asyncio.create_task(world.node.backend.snapshot(SESSION, 50, None)))  # as its cursors do
        restart(gen, head)

    feed.restart = told
    world.store.go_back()
    await until(lambda: feed.gen != gen)
    assert [[frame["turn"] for frame in (await task).frames[1:]] for task in shown] == [["t1", "t2"]]


async def test_what_nobody_can_put_back_is_told_as_gone(world: World) -> None:
    world.store.keep()
    await world.create()
    world.model.say("one ")
    await world.reaches("one ")
    place = await world.log.read_range(SESSION, 0, 10)
    await world.node.running.abandon()  # its writer died with it
    world.store.go_back()
    opening = await answered(world.resume(place.gen, place.head))
    assert (opening.gen, opening.seq, len(opening.frames)) == (None, 0, 1)
