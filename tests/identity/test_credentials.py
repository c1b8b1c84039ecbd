"""What a node knows of keys and ended tokens follows the store, and no stranger can make it ask all the time."""

import asyncio
import time
from typing import Any

import pytest

from turnwire.core.credentials import TOKEN_LIFE_MAX_MS, user_hash
from turnwire.identity import credentials as module
from turnwire.identity.api_keys import new_key
from turnwire.identity.credentials import KnownCredentials
from turnwire.ports import Failure, Identity
from turnwire.stores.redis.credentials import ENDS, VERSION, RedisCredentials


def made(name: str = "web") -> Any:
    return new_key(name, None, None, frozenset(["tokens"]), 0).key


async def test_a_key_made_elsewhere_is_found_and_a_removed_one_is_not(
    known: KnownCredentials, store: RedisCredentials
) -> None:
    key = made()
    await store.add_key(key)
    assert await known.key(key.id) == key
    identity = Identity("u", key=key.id)
    assert known.holds(identity)
    assert await known.refresh(), "that it was read on the way must not hide the change"
    assert not await known.refresh()
    await store.remove_key(key.id)
    assert known.holds(identity)
    assert await known.refresh()
    assert not known.holds(identity) and await known.key(key.id) is None


async def test_unknown_keys_are_looked_for_now_and_then_only(
    known: KnownCredentials, store: RedisCredentials, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = 0
    read = store.read

    async def counted(*arguments: Any) -> Any:
        nonlocal reads
        reads += 1
        return await read(*arguments)

    monkeypatch.setattr(store, "read", counted)
    found = await asyncio.gather(*(known.key(f"invented{number}") for number in range(100)))
    assert found == [None] * 100
    assert reads == 1


async def test_who_waits_for_a_key_is_told_when_the_store_is_away_and_may_leave_before(
    known: KnownCredentials, store: RedisCredentials, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: Any) -> Any:
        raise Failure("store_away")

    monkeypatch.setattr(store, "read", away)
    leaving, staying = (asyncio.create_task(known.key("k")) for _ in range(2))
    await asyncio.sleep(0)
    leaving.cancel()
    with pytest.raises(Failure):
        await staying
    assert leaving.cancelled()


async def test_what_was_issued_up_to_an_end_is_over_and_what_came_later_holds(
    known: KnownCredentials, store: RedisCredentials
) -> None:
    ended_at = await store.end_tokens("alice")
    earlier, then, later = (Identity("alice", issued_at=ended_at + shift) for shift in (-1, 0, 1))
    assert known.holds(earlier)  # not known here yet
    assert await known.refresh()
    assert [known.holds(identity) for identity in (earlier, then, later)] == [False, False, True]
    assert known.holds(Identity("bob", issued_at=ended_at - 1))
    assert known.holds(Identity("alice")), "an API key was not issued at some time: it is revoked by itself"


async def test_only_new_ends_are_read_and_old_ones_are_forgotten(
    known: KnownCredentials, store: RedisCredentials, shared_server: Any
) -> None:
    now_ms = int(time.time() * 1000)
    with shared_server.client() as client:
        client.zadd(ENDS, {user_hash("old"): now_ms})
        client.set(VERSION, "v1")
        await known.refresh()
        client.zadd(ENDS, {user_hash("new"): now_ms + TOKEN_LIFE_MAX_MS + module.OVERLAP_MS + 1})
        client.set(VERSION, "v2")
        await known.refresh()
    assert set(known._ended) == {user_hash("new")}


async def test_a_store_that_lost_everything_leaves_no_key(
    known: KnownCredentials, store: RedisCredentials, shared_server: Any
) -> None:
    key = made()
    await store.add_key(key)
    await known.refresh()
    assert known.holds(Identity("u", key=key.id))
    shared_server.clear()
    assert await known.refresh()
    assert not known.holds(Identity("u", key=key.id))
