"""A store with replicas and Sentinels: which server is asked, what is waited for, and what a failover is told as."""

import asyncio
from contextlib import suppress
from pathlib import Path

import pytest

from tests.stores.making import SESSION, append, batch, key, request, sealing
from tests.stores.server import binaries
from tests.support.sentinel_group import MASTER, SentinelGroup
from tests.support.waiting import LOOK_S, PATIENCE_S
from turnwire.core.log_values import Appended, Batch, SessionKey
from turnwire.ports import Failure
from turnwire.stores.redis.address import StartError
from turnwire.stores.redis.link import Link
from turnwire.stores.redis.log import LogLimits, RedisSessionLog


async def answered(log: RedisSessionLog, turns: int) -> int:
    """How many turns a view has, once the store answers (again)."""
    while True:
        try:
            found = len((await log.read_view(SESSION, turns)).turns)
        except Failure:
            await asyncio.sleep(LOOK_S)
            continue
        return found


async def seal(log: RedisSessionLog, sealed: Batch) -> Appended:
    return (await log.seal_many([sealed]))[0]


async def test_ends_wait_for_a_replica_for_a_while_and_a_failover_changes_the_history(tmp_path: Path) -> None:
    async with SentinelGroup(binaries()[0], tmp_path) as group:
        async with RedisSessionLog(Link(group.url), node="here", limits=LogLimits(replicas=1)) as log:
            await log.accept_turn(request())
            assert (await seal(log, sealing())).result == "ok"
            assert log.unreplicated == 0

            old = group.primary()
            group.stall_replication(old)
            for number in (2, 3):
                await log.accept_turn(request(key(f"t{number}")))
                assert (await append(log, batch(key(f"t{number}")))).result == "ok"
                # The first is waited for in vain; then nothing waits, and both are told.
                assert (await seal(log, sealing(key(f"t{number}"), counter=1))).result == "ok"
                assert log.unreplicated == number - 1
            history = log.history
            assert not log.recovering
            assert await answered(log, 9) == 3

            promoted = await group.fail_over(old)

            assert promoted is not old
            assert await answered(log, 9) == 1
            assert log.history != history and log.recovering
            assert (await log.read_view(SESSION, 9)).turns[0].turn == "t1"
            elsewhere = SessionKey("alice", "s2").turn("t1")
            assert (await log.accept_turn(request(elsewhere))).result == "running"
            async with asyncio.timeout(PATIENCE_S):
                while True:  # the subscription comes back by itself
                    with suppress(Failure):
                        await log.ping()
                        break
                    await asyncio.sleep(LOOK_S)

        places = group.url.removesuffix(f"/{MASTER}/0")
        with pytest.raises(StartError, match="no Sentinel knows a master called another"):
            await Link(f"{places}/another").check()


async def test_where_there_is_no_replica_an_end_is_stored_and_told_all_the_same(log: RedisSessionLog) -> None:
    alone = log._appends
    alone._replicas = 1
    await log.accept_turn(request())
    assert (await seal(log, sealing())).result == "ok"
    assert log.unreplicated == 1


async def test_sentinels_that_do_not_answer_are_said_so_at_start() -> None:
    with pytest.raises(StartError, match=f"no Sentinel knows a master called {MASTER}"):
        await Link(f"redis+sentinel://127.0.0.1:1,127.0.0.1:2/{MASTER}").check()
