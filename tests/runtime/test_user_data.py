"""Exporting and erasing a user on a real store, while that user goes on."""

from collections.abc import AsyncIterator, Sequence
from typing import Any

import orjson
import pytest

from tests.stores.making import append, asking, batch, request, sealing, text
from tests.stores.server import StoreServer
from turnwire.core.credentials import user_hash
from turnwire.core.entries import Delta
from turnwire.core.log_values import SessionChange, SessionKey, SessionPage, TurnKey
from turnwire.ports import CredentialStore, Failure
from turnwire.runtime import user_data
from turnwire.runtime.user_data import NothingStored, StillActive, erase, exported
from turnwire.stores.redis.credentials import RedisCredentials
from turnwire.stores.redis.link import Link
from turnwire.stores.redis.log import RedisSessionLog

USER = "al:ice {ü}"
QUOTED = "al%3Aice%20%7B%C3%BC%7D"


@pytest.fixture
async def credentials(server: StoreServer) -> AsyncIterator[CredentialStore]:
    async with RedisCredentials(Link(server.url)) as credentials:
        yield credentials


def turn_of(session: str, turn: str = "t1", user: str = USER) -> TurnKey:
    return SessionKey(user, session).turn(turn)


async def write(log: RedisSessionLog, turn: TurnKey) -> None:
    """A turn with its end."""
    body = orjson.dumps({"input": [{"type": "text", "text": turn.turn}], "model": "demo", "author": turn.owner})
    spec = orjson.dumps({"input": [], "model": "demo", "params": {"temperature": 1}})
    assert (await log.accept_turn(request(turn, body=body, spec=spec))).result == "running"
    assert (await append(log, sealing(turn))).result == "ok"


async def everything(log: RedisSessionLog, user: str = USER) -> list[dict[str, Any]]:
    return [record async for record in exported(log, user, 7)]


def names(records: Sequence[dict[str, Any]]) -> list[tuple[str, ...]]:
    return [
        (record["session"],) if record["type"] == "session" else (record["session"], record["turn"])
        for record in records[1:-1]
    ]


async def test_an_export_has_each_session_and_turn_newest_first_in_one_page_or_many(
    log: RedisSessionLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    for session in ("s1", "s2", "s3"):
        for turn in ("t1", "t2", "t3"):
            await write(log, turn_of(session, turn))
    await write(log, turn_of("s1", user="bob"))
    whole = await everything(log)
    assert whole[0] == {"type": "user", "user": USER, "exported_at": 7, "format": 1}
    assert whole[-1] == {"type": "end", "sessions": 3, "turns": 9}
    each = [[(session,), *((session, turn) for turn in ("t3", "t2", "t1"))] for session in ("s3", "s2", "s1")]
    assert names(whole) == [name for session in each for name in session]
    assert whole[2]["params"] == {"temperature": 1} and whole[2]["parts"][0]["text"] == "hi"
    assert "tools" not in whole[2] and "results" not in whole[2]
    monkeypatch.setattr(user_data, "SESSIONS_AT_ONCE", 1)
    monkeypatch.setattr(user_data, "TURNS_AT_ONCE", 2)
    assert await everything(log) == whole


async def test_a_session_that_is_written_to_while_it_is_waited_for_is_exported_all_the_same_and_once(
    log: RedisSessionLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It rises in the list past the reader, which is why the list is read again."""
    monkeypatch.setattr(user_data, "SESSIONS_AT_ONCE", 2)
    for number in range(6):
        await write(log, turn_of(f"s{number}"))
    listing = log.list_sessions
    rising = ["s0", "s1"]

    async def listed(*given: Any) -> SessionPage:
        page = await listing(*given)
        if rising:
            await log.update_session(SessionKey(USER, rising.pop()), SessionChange(title=b'"risen"'))
        return page

    monkeypatch.setattr(log, "list_sessions", listed)
    records = await everything(log)
    sessions = [record["session"] for record in records if record["type"] == "session"]
    assert sorted(sessions) == [f"s{number}" for number in range(6)]
    assert records[-1] == {"type": "end", "sessions": 6, "turns": 6}


async def test_unfinished_turns_are_exported_as_they_stand_with_what_tools_were_answered(log: RedisSessionLog) -> None:
    running, parked = turn_of("running"), turn_of("parked")
    await log.accept_turn(request(running))
    await append(log, batch(running, entries=text(running, "so ", "far")))
    await log.accept_turn(request(parked, spec=b'{"input":[],"model":"demo","tools":[{"name":"look"}]}'))
    calls = [Delta("t1", part, "tool_call", "{}", f"c{part}", "look", True) for part in (0, 1)]
    await append(log, batch(parked, entries=calls, name="calls"))
    await append(log, asking(parked, "part-0", "part-1", counter=2))
    assert (await log.respond_turn(parked, "part-0", USER, b'{"found":"it"}')).result == "ok"
    found = {record["session"]: record for record in await everything(log) if record["type"] == "turn"}
    assert found["running"]["state"] == "running" and "terminal" not in found["running"]
    assert found["running"]["parts"] == [{"part": 0, "kind": "text", "text": "so far", "last": False}]
    assert found["parked"]["state"] == "parked" and found["parked"]["tools"] == [{"name": "look"}]
    assert [ask["request"] for ask in found["parked"]["pending"]] == ["part-1"]
    assert found["parked"]["results"] == {"part-0": {"found": "it"}}


async def test_what_a_provider_sealed_for_itself_is_not_exported(log: RedisSessionLog) -> None:
    turn = turn_of("s1")
    await log.accept_turn(request(turn))
    sealed = [Delta("t1", 0, "reasoning", "thought", last=True, opaque="sealed-by-the-provider")]
    await append(log, batch(turn, entries=sealed))
    records = await everything(log)
    assert "thought" in str(records) and "sealed-by-the-provider" not in str(records)


async def test_a_session_that_is_deleted_meanwhile_ends_where_it_is(
    log: RedisSessionLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(user_data, "TURNS_AT_ONCE", 1)
    for turn in ("t1", "t2"):
        await write(log, turn_of("s1", turn))
    records: list[dict[str, Any]] = []
    async for record in exported(log, USER, 0):
        records.append(record)
        if record["type"] == "turn":
            await log.delete_session(SessionKey(USER, "s1"), "n")
    assert records[-1] == {"type": "end", "sessions": 1, "turns": 1}


async def test_of_a_user_that_is_not_there_nothing_is_exported_or_erased(
    log: RedisSessionLog, credentials: CredentialStore, server: StoreServer
) -> None:
    await write(log, turn_of("s1", user="bob"))
    before = server.contents()
    with pytest.raises(NothingStored):
        await everything(log)
    with pytest.raises(NothingStored):
        await erase(log, credentials, USER, 0)
    assert server.contents() == before


async def test_an_erasure_leaves_the_tombstones_and_the_end_of_the_tokens_and_nobody_elses_changed(
    log: RedisSessionLog, other: RedisSessionLog, credentials: CredentialStore, server: StoreServer
) -> None:
    await write(log, turn_of("s1", user="bob"))
    bobs = server.contents()
    for session in ("s1", "s2"):
        await write(log, turn_of(session))
    await log.accept_turn(request(turn_of("s3")))
    await other.accept_turn(request(turn_of("s3", "t2"), on_busy="queue"))
    await log.accept_turn(request(turn_of("s4")))
    await append(log, asking(turn_of("s4"), "r1"))
    assert (await log.cancel_turn(turn_of("s5"), USER, "")).result == "pending"
    assert sum(QUOTED in name for name in server.contents()) > 10

    assert await erase(log, credentials, USER, 0) == 4

    left = server.contents()
    tombstones = {name for name in left if name.endswith(":deleted")}
    assert {name.rpartition(f"{QUOTED}:")[2] for name in tombstones} == {f"s{number}:deleted" for number in range(1, 5)}
    assert [user for user, _ in left.pop("tw:{credentials}:ends")] == [user_hash(USER)]  # pyright: ignore
    assert left.pop("tw:{credentials}:version")
    assert {name: value for name, value in left.items() if name not in tombstones} == bobs
    with server.client() as client:
        assert all(0 < client.pttl(name) <= 86_400_000 for name in tombstones)
    # What still runs finds no session any more.
    assert (await append(log, batch(turn_of("s3")))).result == "gone"


async def test_a_user_with_nothing_but_a_cancel_can_be_erased(
    log: RedisSessionLog, credentials: CredentialStore, server: StoreServer
) -> None:
    await log.cancel_turn(turn_of("s1"), USER, "")
    assert await erase(log, credentials, USER, 0) == 0
    assert QUOTED not in str(server.contents())


async def test_sessions_that_are_made_until_the_tokens_have_ended_are_erased_too(
    log: RedisSessionLog, credentials: CredentialStore, server: StoreServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    await write(log, turn_of("s0"))
    delete = log.delete_session
    late = [f"late{number}" for number in range(3)]

    async def deleted(key: SessionKey, nonce: str) -> Any:
        answer = await delete(key, nonce)
        if late:
            await write(log, turn_of(late.pop()))
            await log.cancel_turn(turn_of("never"), USER, "")
        return answer

    monkeypatch.setattr(log, "delete_session", deleted)
    assert await erase(log, credentials, USER, 0) == 4
    assert all(name.endswith(":deleted") for name in server.contents() if QUOTED in name)


async def test_an_erasure_that_never_gets_to_the_end_says_so(
    log: RedisSessionLog, credentials: CredentialStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await write(log, turn_of("s0"))
    delete = log.delete_session
    made = 0

    async def deleted(key: SessionKey, nonce: str) -> Any:
        nonlocal made
        made += 1
        await write(log, turn_of(f"late{made}"))
        return await delete(key, nonce)

    monkeypatch.setattr(log, "delete_session", deleted)
    with pytest.raises(StillActive) as error:
        await erase(log, credentials, USER, 0)
    assert error.value.removed == made > 0


async def test_a_store_that_goes_away_is_told_and_the_erasure_can_be_done_again(
    log: RedisSessionLog, credentials: CredentialStore, server: StoreServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for session in ("s1", "s2", "s3"):
        await write(log, turn_of(session))
    delete = log.delete_session
    calls = 0

    async def lossy(key: SessionKey, nonce: str) -> Any:
        nonlocal calls
        calls += 1
        answer = await delete(key, nonce)
        if calls == 2:
            raise Failure("store_away", "the reply was lost")
        return answer

    monkeypatch.setattr(log, "delete_session", lossy)
    with pytest.raises(Failure):
        await erase(log, credentials, USER, 0)
    assert await erase(log, credentials, USER, 0) == 1
    assert all(name.endswith(":deleted") for name in server.contents() if QUOTED in name)
