"""API keys and the tokens that they make."""

import time
from dataclasses import replace

import jwt
import pytest

from tests.support.tokens import claims
from turnwire.identity import credentials as module
from turnwire.identity.api_keys import ALGORITHM, ISSUER, PREFIX, ApiKeys, NewKey, new_key
from turnwire.identity.credentials import KnownCredentials
from turnwire.ports import Bearer, Failure, Identity, Minted, Scope
from turnwire.stores.redis.credentials import RedisCredentials

BOTH: frozenset[Scope] = frozenset(["read", "write"])


@pytest.fixture
async def key(store: RedisCredentials) -> NewKey:
    new = new_key("web", None, None, frozenset(["tokens"]), 0)
    await store.add_key(new.key)
    return new


@pytest.fixture
async def keys(known: KnownCredentials, key: NewKey) -> ApiKeys:
    await known.refresh()
    return ApiKeys(known)


async def minted(keys: ApiKeys, key: NewKey, user: str = "alice", life_ms: int = 60_000) -> Minted:
    by = await keys.identify(key.shown)
    assert by is not None
    token = await keys.mint(by, Bearer(user, "acme"), frozenset(["read"]), life_ms)
    assert token is not None
    return token


async def test_a_key_is_itself_and_the_store_has_no_way_to_its_secret(keys: ApiKeys, key: NewKey) -> None:
    identity = await keys.identify(key.shown)
    assert identity == Identity(f"key_{key.key.id}", None, frozenset(["tokens"]), key=key.key.id)
    secret = key.shown.removeprefix(f"{PREFIX}{key.key.id}_")
    assert len(secret) >= 43 and secret not in str(key.key)


async def test_a_key_may_stand_for_a_user(keys: ApiKeys, store: RedisCredentials) -> None:
    new = new_key("cron", "alice", "acme", BOTH, 0)
    await store.add_key(new.key)
    await keys.refresh()
    assert await keys.identify(new.shown) == Identity("alice", "acme", BOTH, key=new.key.id)


async def test_keys_that_begin_alike_are_not_the_same(keys: ApiKeys, key: NewKey, store: RedisCredentials) -> None:
    """A cache or a store that knows keys by their first characters would take one for the other."""
    twin = new_key("twin", "bob", None, BOTH, 0)
    await store.add_key(twin.key)
    await keys.refresh()
    for wrong in (
        key.shown[:-1],
        f"{key.shown}x",
        f"{key.shown[:-1]}{'a' if key.shown[-1] != 'a' else 'b'}",
        f"{PREFIX}{key.key.id}_",
        f"{PREFIX}{key.key.id}",
        f"{PREFIX}{key.key.id}_{twin.shown.rpartition('_')[2]}",
        f"{PREFIX}_",
        PREFIX,
        key.key.digest,
        f"{PREFIX}{key.key.id}_{key.key.digest}",
        f"{PREFIX}{'9' * 16}_{key.shown.rpartition('_')[2]}",
    ):
        assert await keys.identify(wrong) is None, wrong


async def test_a_minted_token_is_its_users_until_it_ends(keys: ApiKeys, key: NewKey) -> None:
    before_ms = time.time_ns() // 1_000_000 - 1_000
    token = await minted(keys, key)
    identity = await keys.identify(token.token)
    assert identity is not None
    assert (identity.user, identity.org, identity.scopes, identity.key) == ("alice", "acme", {"read"}, key.key.id)
    assert identity.expires_at == token.expires_at
    assert identity.issued_at is not None and before_ms < identity.issued_at == token.expires_at - 60_000
    assert await keys.identify((await minted(keys, key, life_ms=-1_000)).token) is None


async def test_a_token_is_made_by_a_key_of_ours_or_by_nobody(keys: ApiKeys, key: NewKey) -> None:
    good = {**claims(), "iss": ISSUER}
    ours = jwt.encode(good, key.key.signing, algorithm=ALGORITHM, headers={"kid": key.key.id})
    assert await keys.identify(ours) is not None
    for forged in (
        jwt.encode(good, b"x" * 32, algorithm=ALGORITHM, headers={"kid": key.key.id}),
        jwt.encode(good, key.key.signing, algorithm=ALGORITHM),
        jwt.encode(good, key.key.signing, algorithm=ALGORITHM, headers={"kid": "k"}),
        jwt.encode({**good, "iss": "other"}, key.key.signing, algorithm=ALGORITHM, headers={"kid": key.key.id}),
        jwt.encode(good, key.key.digest.encode(), algorithm=ALGORITHM, headers={"kid": key.key.id}),
        "hello",
        None,
    ):
        assert await keys.identify(forged) is None


async def test_a_revoked_key_takes_its_tokens_with_it(keys: ApiKeys, key: NewKey, store: RedisCredentials) -> None:
    token = await minted(keys, key)
    maker, identity = await keys.identify(key.shown), await keys.identify(token.token)
    assert maker is not None and identity is not None and keys.holds(identity)
    await store.remove_key(key.key.id)
    assert await keys.refresh()
    assert not keys.holds(identity)
    assert await keys.identify(token.token) is None and await keys.identify(key.shown) is None
    # Also where the key was asked for just before: a body may take its time.
    assert await keys.mint(maker, Bearer("alice"), BOTH, 60_000) is None


async def test_ending_a_users_tokens_ends_no_other_ones(keys: ApiKeys, key: NewKey, store: RedisCredentials) -> None:
    alices, bobs = await minted(keys, key), await minted(keys, key, "bob")
    await keys.end_tokens("alice")
    await keys.refresh()
    assert await keys.identify(alices.token) is None
    assert await keys.identify(bobs.token) is not None
    ended_by_ms = await store.now_ms()
    while await store.now_ms() == ended_by_ms:
        pass
    assert await keys.identify((await minted(keys, key)).token) is not None


async def test_where_the_store_is_away_an_unknown_key_is_no_answer(
    known: KnownCredentials, monkeypatch: pytest.MonkeyPatch, store: RedisCredentials
) -> None:
    async def away(*_: object) -> None:
        raise Failure("store_away")

    monkeypatch.setattr(store, "read", away)
    monkeypatch.setattr(module, "MISS_MS", 0)
    with pytest.raises(Failure):
        await ApiKeys(known).identify(new_key("n", None, None, BOTH, 0).shown)


def test_no_two_keys_are_alike() -> None:
    first, second = (new_key("same", None, None, BOTH, 0) for _ in range(2))
    assert first.key.id != second.key.id and first.key.digest != second.key.digest
    assert replace(first.key, id="", digest="", signing=b"", user="") == replace(
        second.key, id="", digest="", signing=b"", user=""
    )
