"""A node's backend on a real store, for what is at rest: reading, changing, deleting, and stopping what runs."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import orjson
import pytest

from tests.runtime.test_backend import MODELS, SETTINGS, create, ended
from tests.stores.making import SESSION, SETTLED, append, asking, batch, caller, key, quotas_beside, request, text
from tests.stores.server import StoreServer
from tests.support.waiting import until
from turnwire.app import Node, SystemClock
from turnwire.core.entries import Event
from turnwire.ports import Failure, SessionKey
from turnwire.runtime.refusals import Refused, Unlearned
from turnwire.runtime.turn_runner import Spec
from turnwire.stores.redis.link import Link
from turnwire.stores.redis.log import RedisSessionLog
from turnwire_protocol.at_rest import SessionPatch, validate_body
from turnwire_protocol.grammar import check_shape

NEVER = replace(SESSION, session="never")
BOBS = replace(SESSION, owner="bob")


async def running(log: RedisSessionLog) -> AsyncIterator[Node]:
    node = Node(SETTINGS, log, quotas_beside(log), MODELS, SystemClock())
    tasks = [asyncio.create_task(work, name=name) for name, work in node.tasks().items()]
    yield node
    await node.running.abandon()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture
async def node(server: StoreServer) -> AsyncIterator[Node]:
    async with RedisSessionLog(Link(server.url), node="here", limits=SETTLED) as log:
        async for started in running(log):
            yield started


@pytest.fixture
async def second(server: StoreServer) -> AsyncIterator[Node]:
    """Another node on the same store."""
    async with RedisSessionLog(Link(server.url), node="there", limits=SETTLED) as log:
        async for started in running(log):
            yield started


async def refusal(call: Any) -> str:
    with pytest.raises(Refused) as refused:
        await call
    assert refused.value.message.endswith(".")
    return refused.value.code


async def test_a_preview_is_how_the_first_text_begins_on_one_line(node: Node, log: RedisSessionLog) -> None:
    image = {"type": "image", "media_type": "image/png", "data": "AAAA"}
    await node.backend.create_turn(caller("alice"), create(input=[image]))
    await ended(log)
    assert (await node.backend.read_session(SESSION)).preview is None
    long = {"type": "text", "text": "  Why\n\tis the \u00a0 sky " + "blue " * 100}
    await node.backend.create_turn(caller("alice"), create("t2", input=[image, long, {"type": "text", "text": "x"}]))
    preview = (await node.backend.read_session(SESSION)).preview
    assert preview is not None and len(preview) == 120
    assert preview.startswith("Why is the sky blue blue ")


async def test_turns_are_whole_snapshots_finished_or_not(
    node: Node, log: RedisSessionLog, other: RedisSessionLog
) -> None:
    await node.backend.create_turn(caller("alice"), create())
    await ended(log)
    spec = Spec([{"type": "text", "text": "hi"}], "demo").to_json()
    body = orjson.dumps({"input": [{"type": "text", "text": "hi"}], "model": "demo", "author": "alice"})
    await other.accept_turn(request(key("t2"), spec=spec, body=body))
    await append(other, batch(key("t2"), entries=text(key("t2"), "ha", "lf")))
    await append(other, asking(key("t2"), "r1", counter=2))

    page = await node.backend.read_turns(SESSION, None, 20)

    assert page.next is None
    done, parked = page.frames
    assert (done["turn"], done["state"], done["terminal"]["type"]) == ("t1", "done", "turn.done")
    assert (parked["state"], parked["parts"][0]["text"], parked["parent"]) == ("parked", "half", "t1")
    assert [ask["request"] for ask in parked["pending"]] == ["r1"]
    check_shape(done)
    assert "terminal" not in parked
    before = await node.backend.read_turns(SESSION, "t2", 20)
    assert [frame["turn"] for frame in before.frames] == ["t1"]


async def test_somebody_elses_session_is_refused_like_one_that_never_was(node: Node) -> None:
    await node.backend.create_turn(caller("alice"), create(model="demo/stall"))
    patch = validate_body(SessionPatch, {"title": "mine"})
    backend = node.backend

    async def refusals(session: SessionKey) -> list[tuple[str, str]]:
        told: list[tuple[str, str]] = []
        for call in (
            backend.read_session(session),
            backend.read_turns(session, None, 5),
            backend.read_turns(session, "t1", 5),
            backend.update_session(session, patch),
            backend.delete_session(session),
        ):
            with pytest.raises(Refused) as refused:
                await call
            told.append((refused.value.code, refused.value.message))
        return told

    assert await refusals(BOBS) == await refusals(NEVER)
    assert not (await backend.list_sessions("bob", None, 50)).sessions
    assert node.running.runs(key())
    assert (await backend.read_session(SESSION)).title is None
    assert await refusal(backend.read_turns(SESSION, "t_never", 5)) == "not_found"


async def test_the_same_metadata_in_another_order_changes_nothing(node: Node, log: RedisSessionLog) -> None:
    await node.backend.create_turn(caller("alice"), create())
    await ended(log)
    head = (await log.read_view(SESSION, 0)).head
    for patch in ({"metadata": {"b": 1, "a": {"d": 1, "c": 2}}}, {"metadata": {"a": {"c": 2, "d": 1}, "b": 1}}, {}):
        info = await node.backend.update_session(SESSION, validate_body(SessionPatch, patch))
        assert orjson.loads(info.metadata) == {"a": {"c": 2, "d": 1}, "b": 1}
    assert (await log.read_view(SESSION, 0)).head == head + 1


@pytest.mark.parametrize("where", ["here", "there"])
async def test_a_deletion_stops_the_running_turn_and_nothing_is_left(
    node: Node, second: Node, server: StoreServer, where: str
) -> None:
    await node.backend.create_turn(caller("alice"), create(model="demo/stall"))
    await node.backend.create_turn(caller("alice"), create("t2", on_busy="queue"))
    assert node.running.runs(key())
    await (node if where == "here" else second).backend.delete_session(SESSION)
    await asyncio.wait_for(node.running.idle(), 5)
    assert await refusal(node.backend.create_turn(caller("alice"), create("t3"))) == "not_found"
    assert await refusal(second.backend.delete_session(SESSION)) == "not_found"
    await node.reaper.sweep()
    assert [name for name in server.contents() if ":s1" in name] == ["tw:{47}:alice:s1:deleted"]
    assert len(node.running) == len(second.running) == 0


async def test_a_runner_that_no_nudge_told_of_a_deletion_stops_at_its_next_renewal(
    node: Node, log: RedisSessionLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node.hub, "_on_cancel", lambda *_: None)
    await node.backend.create_turn(caller("alice"), create(model="demo/stall"))
    await log.delete_session(SESSION, "n")
    await asyncio.wait_for(node.running.idle(), 5)


async def test_a_deletion_whose_reply_was_lost_is_asked_again_and_counts_as_done(
    node: Node, log: RedisSessionLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    await node.backend.create_turn(caller("alice"), create())
    await ended(log)
    delete = node.backend._log.delete_session
    nonces: list[str] = []

    async def lossy(session: SessionKey, nonce: str) -> Any:
        nonces.append(nonce)
        deleted = await delete(session, nonce)
        if len(nonces) == 1:
            raise Failure("store_away", "the reply was lost")
        return deleted

    monkeypatch.setattr(node.backend._log, "delete_session", lossy)
    await node.backend.delete_session(SESSION)
    assert len(nonces) == 2 and nonces[0] == nonces[1]


async def test_a_store_that_is_away_or_full_is_no_answer(
    node: Node, log: RedisSessionLog, server: StoreServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    await node.backend.create_turn(caller("alice"), create())
    await ended(log)
    with server.client() as client:
        client.config_set("maxmemory", "1mb")
    with pytest.raises(Refused) as full:
        await node.backend.update_session(SESSION, validate_body(SessionPatch, {"title": "T"}))
    assert full.value.code == "overloaded" and full.value.retry_after_ms

    async def away(*_: Any) -> Any:
        raise Failure("store_away", "cut by the test")

    for name in ("list_sessions", "read_session", "read_turns", "update_session", "delete_session"):
        monkeypatch.setattr(node.backend._log, name, away)
    for call in (
        node.backend.list_sessions("alice", None, 5),
        node.backend.read_session(SESSION),
        node.backend.read_turns(SESSION, None, 5),
        node.backend.update_session(SESSION, validate_body(SessionPatch, {})),
        node.backend.delete_session(SESSION),
    ):
        with pytest.raises(Unlearned):
            await call


async def test_what_is_there_is_told_at_once_also_while_the_store_recovers(
    node: Node, log: RedisSessionLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    await node.backend.create_turn(caller("alice"), create())
    await ended(log)
    monkeypatch.setattr(RedisSessionLog, "recovering", property(lambda _: True))
    for call in (
        node.backend.read_session(SESSION),
        node.backend.read_turns(SESSION, None, 5),
        node.backend.update_session(SESSION, validate_body(SessionPatch, {"title": "T"})),
        node.backend.delete_session(SESSION),
    ):
        await asyncio.wait_for(call, 5)


async def test_a_turn_that_is_taken_over_amid_renames_keeps_its_answer(
    node: Node, log: RedisSessionLog, other: RedisSessionLog, server: StoreServer
) -> None:
    """What a session's own frames stand between is folded without them."""
    spec = Spec([{"type": "text", "text": "hi"}], "demo").to_json()
    await other.accept_turn(request(spec=spec))
    await append(other, batch(entries=text(key(), "one ")))
    await node.backend.update_session(SESSION, validate_body(SessionPatch, {"title": "T"}))
    await append(other, batch(entries=text(key(), "two"), counter=1))
    await node.backend.update_session(SESSION, validate_body(SessionPatch, {"title": "U"}))
    with server.client() as client:
        for index in client.keys("tw:{*}.leases"):
            client.zadd(index, {"alice:s1:t1": 1}, xx=True)
    terminal = await ended(log)
    assert isinstance(terminal, Event) and terminal.type == "turn.error" and b'"bytes":7' in terminal.body


async def test_nothing_private_is_logged_and_a_runner_that_lost_its_session_is_no_fault(
    node: Node, capsys: pytest.CaptureFixture[str]
) -> None:
    secret = "sekret-title-and-prompt"
    await node.backend.create_turn(
        caller("alice"), create(model="demo/stall", input=[{"type": "text", "text": secret}])
    )
    await node.backend.update_session(
        SESSION, validate_body(SessionPatch, {"title": secret, "metadata": {secret: secret}})
    )
    await node.backend.delete_session(SESSION)
    await asyncio.wait_for(node.running.idle(), 5)
    await until(lambda: not node.running._tasks)
    told = capsys.readouterr()
    assert secret not in told.out + told.err
    assert "failed" not in told.out + told.err
