"""What the store's history is worth: failover, restart, a script cache that was emptied, a full store."""

import pytest

from tests.stores.making import (
    RECORD,
    SESSION,
    append,
    asking,
    batch,
    drop_replies,
    entries_of,
    key,
    make_overdue,
    request,
    sealing,
    text,
    types,
)
from tests.stores.server import StoreServer
from turnwire.core.entries import Event
from turnwire.core.log_values import SessionKey
from turnwire.ports import Failure
from turnwire.stores.redis.link import Link
from turnwire.stores.redis.log import RedisSessionLog
from turnwire.stores.redis.wire import Command, Reply


async def test_after_a_restart_of_the_store_every_session_has_another_gen(own_server: StoreServer) -> None:
    async with RedisSessionLog(Link(own_server.url), node="here") as log:
        gen = (await log.accept_turn(request())).gen
        await append(log, batch())
        second = SessionKey("alice", "s2")
        await log.accept_turn(request(second.turn("t1")))
        own_server.kill()
        assert (await append(log, batch(name="b2", counter=1))).result == "away"
        assert (await log.renew_leases([(key(), "nonce-t1")]))[0].result == "away"
        with pytest.raises(Failure) as failure:
            await log.read_view(SESSION, 1)
        assert failure.value.kind == "store_away"
        own_server.start()

        answer = await append(log, batch(name="b2", counter=1))

        assert answer.result == "ok"
        assert answer.gen not in ("", gen)
        assert (await log.read_range(SESSION, 0, 9)).gen == answer.gen
        assert (await log.read_view(SESSION, 9)).gen == answer.gen
        assert (await log.note_watched([second]))[0].gen not in (gen, answer.gen)
        assert types(await entries_of(log))[1:] == [("turn.delta", "t1")] * 2


async def test_a_lease_from_before_the_restart_is_foreign_until_it_is_renewed_or_waited_for(
    own_server: StoreServer,
) -> None:
    async with RedisSessionLog(Link(own_server.url), node="here") as log:
        await log.accept_turn(request())
        second = SessionKey("alice", "s2").turn("t1")
        await log.accept_turn(request(second))
        waiting = SessionKey("alice", "s3").turn("t1")
        await log.accept_turn(request(waiting))
        await append(log, asking(waiting, "r1", until_ms=1))
        own_server.kill()
        own_server.start()

        with pytest.raises(Failure):  # the first call finds that its connection is gone
            await log.take_turn(key(), "n2")
        assert (await log.take_turn(key(), "n2")).result == "foreign"
        assert (await log.read_range(SESSION, 0, 1)).overdue is None
        assert (await log.renew_leases([(key(), "nonce-t1")]))[0].result == "ok"
        assert (await log.take_turn(key(), "n2", "foreign")).result == "held"

        taken = await log.take_turn(second, "n2", "foreign")
        assert (taken.result, taken.takes) == ("taken", 1)
        # Nobody had it, so nobody can be alive who writes it.
        assert (await log.take_turn(waiting, "n2")).state == "parked"


@pytest.mark.parametrize(
    "call", ["accept", "append", "renew", "take", "cancel", "view", "range", "branch", "look", "due", "delete"]
)
async def test_a_store_that_forgot_its_scripts_is_given_them_again(
    log: RedisSessionLog, server: StoreServer, call: str
) -> None:
    await log.accept_turn(request())
    await append(log, batch())
    await log.read_view(SESSION, 1)
    with server.client() as client:
        client.script_flush()

    match call:
        case "accept":
            assert (await log.accept_turn(request(key("t2")))).result == "busy"
        case "append":
            answers = await append(log, batch(counter=1), batch(key("t2")), batch(key("t3")))
            assert [answer.result for answer in answers] == ["ok", "lost", "lost"]
        case "renew":
            assert (await log.renew_leases([(key(), "nonce-t1")]))[0].result == "ok"
        case "take":
            assert (await log.take_turn(key(), "n")).result == "held"
        case "cancel":
            assert (await log.cancel_turn(key(), "bob", "")).result == "cancelling"
        case "view":
            assert (await log.read_view(SESSION, 1)).head == 2
        case "range":
            assert (await log.read_range(SESSION, 0, 9)).head == 2
        case "branch":
            assert len(await log.read_branch(key(), 9)) == 1
        case "look":
            assert (await log.note_watched([SESSION]))[0].head == 2
        case "due":
            assert await log.overdue_turns(9) == []
        case _:
            assert await log.delete_session(SESSION, "n")


async def test_a_full_store_still_ends_turns(log: RedisSessionLog, server: StoreServer) -> None:
    await log.accept_turn(request())
    await log.accept_turn(request(key("t2"), on_busy="queue"))
    parked = SessionKey("alice", "s2").turn("t1")
    await log.accept_turn(request(parked))
    await append(log, asking(parked, "r1", until_ms=1))
    with server.client() as client:
        client.config_set("maxmemory", "1")

    plain = batch(name="plain")
    assert (await append(log, plain)).result == "full"
    assert (await append(log, asking(key(), "r1"))).result == "full"
    for refused in (log.accept_turn(request(key("t3"))), log.respond_turn(parked, "r1", "bob", b"1")):
        with pytest.raises(Failure) as failure:
            await refused
        assert failure.value.kind == "store_full"
    assert (await log.renew_leases([(key(), "nonce-t1")]))[0].result == "ok"
    assert (await log.note_watched([SESSION]))[0].head == 2
    assert (await log.read_range(SESSION, 0, 9)).head == 2
    assert (await log.read_view(SESSION, 9)).head == 2
    assert len(await log.read_branch(key("t2"), 9)) == 2
    assert await log.overdue_turns(9) == [parked]
    assert (await log.take_turn(parked, "n")).result == "taken"
    assert (await log.cancel_turn(key(), "bob", "")).result == "cancelling"
    assert (await log.cancel_turn(key("t2"), "bob", "")).result == "cancelling"
    assert (await append(log, sealing())).result == "ok"
    assert (await log.read_view(SESSION, 9)).turns[0].parts == RECORD
    assert await log.delete_session(SESSION, "n")
    with server.client() as client:
        client.config_set("maxmemory", "0")
    assert (await log.accept_turn(request(SessionKey("alice", "s4").turn("t1")))).result == "running"


async def test_one_full_answer_spoils_no_other_of_its_pipeline(log: RedisSessionLog, server: StoreServer) -> None:
    second = SessionKey("bob", "s1").turn("t1")
    await log.accept_turn(request())
    await log.accept_turn(request(second))
    with server.client() as client:
        client.config_set("maxmemory", "1")

    answers = await append(log, batch(), sealing(second), batch(key("t9")))

    assert [answer.result for answer in answers] == ["full", "ok", "full"]


async def test_a_store_that_takes_no_writes_is_away(log: RedisSessionLog, server: StoreServer) -> None:
    await log.accept_turn(request())
    await append(log, batch(entries=[Event("turn.started", "t1", b"{}")]))
    with server.client() as client:
        client.execute_command("REPLICAOF", "127.0.0.1", "1")
        try:
            assert (await append(log, batch(counter=1))).result == "away"
            assert (await log.renew_leases([(key(), "nonce-t1")]))[0].result == "away"
            with pytest.raises(Failure) as failure:
                await log.cancel_turn(key(), "bob", "")
            assert failure.value.kind == "store_away"
        finally:
            client.execute_command("REPLICAOF", "NO", "ONE")

    # A server that was made primary again may have lost writes meanwhile.
    gen = (await log.read_range(SESSION, 0, 1)).gen
    answer = await append(log, batch(counter=1, entries=text(key(), "x")))
    assert (answer.result, answer.gen) == ("ok", gen)


async def test_while_no_connection_can_be_made_every_call_says_so_at_once(own_server: StoreServer) -> None:
    async with RedisSessionLog(Link(own_server.url), node="here") as log:
        own_server.kill()

        assert [answer.result for answer in await append(log, batch(), batch(key("t2")))] == ["away", "away"]
        assert [answer.result for answer in await log.renew_leases([(key(), "n")] * 2)] == ["away", "away"]
        for call in (log.ping(), log.accept_turn(request()), log.note_watched([SESSION]), log.overdue_turns(1)):
            with pytest.raises(Failure) as failure:
                await call
            assert failure.value.kind == "store_away"


async def test_a_connection_that_is_cut_in_a_look_fails_the_look(log: RedisSessionLog) -> None:
    await log.accept_turn(request())
    drop_replies(log._calls)

    with pytest.raises(Failure) as failure:
        await log.note_watched([SESSION])

    assert failure.value.kind == "store_away"


async def test_a_turn_whose_history_changed_while_it_was_taken_is_not_run(
    log: RedisSessionLog, server: StoreServer
) -> None:
    await log.accept_turn(request())
    await append(log, batch())
    make_overdue(server, key())
    with server.client() as client:
        client.xdel("tw:{47}:alice:s1:log", "1-0")

    with pytest.raises(Failure) as failure:
        await log.take_turn(key(), "n2")

    assert failure.value.kind == "store_away"


async def test_an_append_that_fails_for_a_reason_of_ours_is_no_answer(
    log: RedisSessionLog, server: StoreServer
) -> None:
    await log.accept_turn(request())
    with server.client() as client:
        client.set("tw:{47}:alice:s2", "not a hash")

    answers = await append(log, batch(SessionKey("alice", "s2").turn("t1")), batch())

    assert [answer.result for answer in answers] == ["away", "ok"]


async def test_a_range_is_given_up_when_the_gen_changes_with_every_look(
    log: RedisSessionLog, server: StoreServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    await log.accept_turn(request())
    in_order = log._reads.in_order

    async def between(commands: list[Command]) -> list[Reply]:
        replies = await in_order(commands)
        replies[-1] = [b"another gen", *replies[-1][1:]]
        return replies

    monkeypatch.setattr(log._reads, "in_order", between)

    with pytest.raises(Failure) as failure:
        await log.read_range(SESSION, 0, 9)

    assert failure.value.kind == "store_away"
