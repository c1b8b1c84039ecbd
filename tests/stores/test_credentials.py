"""API keys and the ends of users' tokens, on a real store."""

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from tests.stores.server import StoreServer
from turnwire.core.credentials import ApiKey, Credentials, user_hash
from turnwire.ports import Failure
from turnwire.stores.redis import credentials as module
from turnwire.stores.redis.credentials import RedisCredentials
from turnwire.stores.redis.link import Link

KEY = ApiKey("k1", "web", "d" * 64, b"\x00\xffsigning", "key_k1", None, frozenset(["tokens"]), 1_790_000_000_000)
OTHER = replace(KEY, id="k2", name="“other”", user="bob", org="acme", scopes=frozenset(["read", "write"]))


@pytest.fixture
async def credentials(server: StoreServer) -> AsyncIterator[RedisCredentials]:
    async with RedisCredentials(Link(server.url)) as credentials:
        yield credentials


async def read(credentials: RedisCredentials, version: str = "?", since_ms: int = 0) -> Credentials:
    found = await credentials.read(version, since_ms)
    assert found is not None
    return found


async def test_a_store_that_has_nothing_says_so_once(credentials: RedisCredentials) -> None:
    assert await read(credentials) == Credentials("")
    assert await credentials.read("", 0) is None


async def test_keys_are_read_as_they_were_stored_until_they_are_removed(credentials: RedisCredentials) -> None:
    assert await credentials.add_key(KEY) and await credentials.add_key(OTHER)
    both = await read(credentials)
    assert both.keys == {"k1": KEY, "k2": OTHER}
    assert await credentials.read(both.version, 0) is None

    assert await credentials.remove_key("k1")
    assert not await credentials.remove_key("k1")

    left = await read(credentials, both.version)
    assert left.keys == {"k2": OTHER}
    assert left.version != both.version


async def test_the_end_of_a_users_tokens_has_the_stores_time_and_not_the_users_name(
    credentials: RedisCredentials, server: StoreServer
) -> None:
    before = await credentials.now_ms()
    first = await credentials.end_tokens("alice")
    second = await credentials.end_tokens("bob")
    assert before <= first <= second <= await credentials.now_ms()
    found = await read(credentials)
    assert found.ended == {user_hash("alice"): first, user_hash("bob"): second}
    assert (await read(credentials, since_ms=second)).ended[user_hash("bob")] == second
    assert "alice" not in str(server.contents())
    again = await credentials.end_tokens("alice")
    assert (await read(credentials, found.version)).ended[user_hash("alice")] == again


async def test_keys_and_ends_are_bounded_and_the_oldest_end_goes_first(
    credentials: RedisCredentials, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "API_KEYS_MAX", 1)
    monkeypatch.setattr(module, "ENDED_USERS_MAX", 2)
    assert await credentials.add_key(KEY)
    assert not await credentials.add_key(OTHER)
    assert await credentials.add_key(KEY)  # a lost reply: the same key again
    for user in ("a", "b", "c"):
        first = await credentials.now_ms()
        while await credentials.now_ms() == first:
            pass
        await credentials.end_tokens(user)
    assert set((await read(credentials)).ended) == {user_hash("b"), user_hash("c")}


async def test_an_end_is_forgotten_when_no_token_of_that_time_can_live_any_more(
    credentials: RedisCredentials, server: StoreServer
) -> None:
    with server.client() as client:
        client.zadd(module.ENDS, {"old": 1_000})
    await credentials.end_tokens("alice")
    assert set((await read(credentials)).ended) == {user_hash("alice")}


async def test_a_full_store_still_revokes_but_takes_no_key(credentials: RedisCredentials, server: StoreServer) -> None:
    await credentials.add_key(KEY)
    with server.client() as client:
        client.config_set("maxmemory", "1")
    with pytest.raises(Failure) as full:
        await credentials.add_key(OTHER)
    assert full.value.kind == "store_full"
    assert await credentials.end_tokens("alice") > 0
    assert await credentials.remove_key("k1")
    assert (await read(credentials)).keys == {}
