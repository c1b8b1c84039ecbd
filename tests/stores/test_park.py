"""park_turn and respond_turn: a turn that waits for answers has no writer."""

from tests.stores.making import SESSION, append, asking, batch, key, make_overdue, request, sealing, types
from tests.stores.server import StoreServer
from turnwire.core.entries import Event
from turnwire.stores.redis.log import RedisSessionLog


async def test_a_parked_turn_gives_up_its_lease_and_stays_the_active_one(log: RedisSessionLog) -> None:
    await log.accept_turn(request())

    assert (await append(log, asking(key(), "r1"))).result == "ok"

    assert (await log.accept_turn(request(key("t2")))).result == "busy"
    assert (await log.renew_leases([(key(), "nonce-t1")]))[0].result == "fenced"
    assert (await log.take_turn(key(), "n2")).result == "held"
    assert await log.overdue_turns(5) == []
    assert (await log.read_view(SESSION, 1)).turns[0].state == "parked"


async def test_the_last_answer_lets_any_node_go_on(log: RedisSessionLog, other: RedisSessionLog) -> None:
    await log.accept_turn(request())
    await append(log, asking(key(), "r1", "r2"))

    first = await other.respond_turn(key(), "r2", "bob", b'{"x":1}')
    assert (first.result, first.take) == ("ok", None)
    assert types(first.logged) == [("turn.responded", "t1")]
    assert first.logged[0].entry == Event(
        "turn.responded",
        "t1",
        b'{"request":"r2","by":"bob"}',
        {},
        first.logged[0].entry.at,  # type: ignore[union-attr]
    )
    assert (await log.take_turn(key(), "n2")).result == "held"

    last = await other.respond_turn(key(), "r1", "eve", b"null")
    assert last.take == "t1"
    assert await log.overdue_turns(5) == [key()]
    taken = await other.take_turn(key(), "n2")
    assert (taken.result, taken.state, taken.takes, taken.counter) == ("taken", "running", 0, 2)
    assert taken.answers == {"r1": b"null", "r2": b'{"x":1}'}
    assert types(taken.entries)[1:] == [("turn.asked", "t1")] * 2 + [("turn.responded", "t1")] * 2
    assert (await append(other, sealing(nonce="n2", counter=2))).result == "ok"


async def test_a_turn_may_ask_again_and_keeps_its_answers(log: RedisSessionLog) -> None:
    await log.accept_turn(request())
    await append(log, asking(key(), "r1"))
    await log.respond_turn(key(), "r1", "bob", b"1")
    assert (await log.take_turn(key(), "n2")).takes == 0
    await append(log, asking(key(), "r2", nonce="n2", counter=1))

    assert (await log.respond_turn(key(), "r1", "bob", b"2")).result == "not_found"
    assert (await log.respond_turn(key(), "r2", "bob", b"2")).take == "t1"

    assert (await log.take_turn(key(), "n3")).answers == {"r1": b"1", "r2": b"2"}


async def test_the_first_answer_wins_and_may_be_repeated(log: RedisSessionLog, server: StoreServer) -> None:
    await log.accept_turn(request())
    await append(log, asking(key(), "r1", "r2"))
    await log.respond_turn(key(), "r1", "bob", b"1")
    before = server.contents()

    again = await log.respond_turn(key(), "r1", "bob", b"1")
    assert (again.result, again.logged, again.take) == ("ok", [], None)
    assert (await log.respond_turn(key(), "r1", "bob", b"2")).result == "not_found"
    assert (await log.respond_turn(key(), "r1", "eve", b"1")).result == "not_found"
    assert (await log.respond_turn(key(), "r3", "bob", b"1")).result == "not_asked"
    assert (await log.respond_turn(key("t2"), "r1", "bob", b"1")).result == "not_found"
    assert server.contents() == before


async def test_a_repeated_last_answer_names_the_turn_while_nobody_has_taken_it(log: RedisSessionLog) -> None:
    await log.accept_turn(request())
    await append(log, asking(key(), "r1"))

    assert (await log.respond_turn(key(), "r1", "bob", b"1")).take == "t1"
    assert (await log.respond_turn(key(), "r1", "bob", b"1")).take == "t1"
    await log.take_turn(key(), "n2")
    assert (await log.respond_turn(key(), "r1", "bob", b"1")).take is None


async def test_a_turn_that_is_being_ended_takes_no_answer(log: RedisSessionLog, server: StoreServer) -> None:
    await log.accept_turn(request())
    await append(log, asking(key(), "r1"))
    make_overdue(server, key())
    taken = await log.take_turn(key(), "n2")
    assert (taken.result, taken.state, taken.answers) == ("taken", "parked", {})

    assert (await log.respond_turn(key(), "r1", "bob", b"1")).result == "not_found"
    assert (await append(log, sealing(nonce="n2", counter=1, state="error"))).result == "ok"
    assert (await log.respond_turn(key(), "r1", "bob", b"1")).result == "not_found"


async def test_a_cancelled_parked_turn_takes_no_answer(log: RedisSessionLog) -> None:
    await log.accept_turn(request())
    await append(log, asking(key(), "r1"))
    await log.cancel_turn(key(), "bob", "")

    assert (await log.respond_turn(key(), "r1", "bob", b"1")).result == "not_found"


async def test_a_turn_that_parks_after_its_cancel_is_to_be_taken_at_once(log: RedisSessionLog) -> None:
    await log.accept_turn(request())
    await log.cancel_turn(key(), "bob", "")
    parking = asking(key(), "r1")

    answer = await append(log, parking)

    assert (answer.result, answer.cancel_by, answer.next) == ("ok", "bob", "t1")
    assert (await append(log, parking)).next == "t1"
    taken = await log.take_turn(key(), "n2")
    assert (taken.state, taken.cancel_by) == ("parked", "bob")


async def test_a_parked_turn_is_overdue_at_its_deadline(log: RedisSessionLog) -> None:
    await log.accept_turn(request())
    await append(log, asking(key(), "r1", until_ms=1))

    assert await log.overdue_turns(5) == [key()]
    assert (await append(log, batch(counter=1))).result == "fenced"
