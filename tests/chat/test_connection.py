"""The client's connection against a server that does what the test says: greeting, loss, return, outbox, silence."""

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Literal, TypeVar

import pytest

from tests.chat.scripted_log import ScriptedLog
from tests.chat.scripted_server import Frame, Peer, ScriptedServer
from turnwire.chat import connection as connection_module
from turnwire.chat import wire as wire_module
from turnwire.chat.connection import ChatConnection, ServerClosed
from turnwire.chat.handle import Delta, TurnHandle
from turnwire.chat.outbox import TRIES_MAX, WAITING_MAX, CommandRefused
from turnwire.chat.turns import GONE, LOST
from turnwire.chat.wire import FullJitter, Unreachable, endpoint_of

WAIT_S = 10
Answer = TypeVar("Answer")


def at_once(_tries: int) -> float:
    return 0.0


async def soon(work: Coroutine[Any, Any, Answer]) -> Answer:
    async with asyncio.timeout(WAIT_S):
        return await work


class Met:
    """A client, its server, and the server's end of the client's first connection."""

    def __init__(self, server: ScriptedServer, peer: Peer, chat: ChatConnection) -> None:
        self.server = server
        self.peer = peer
        self.chat = chat
        self.log = ScriptedLog()

    async def opened(self) -> None:
        """The client follows session "s"."""
        opening = asyncio.create_task(self.chat.open("s"))
        await self.peer.say(*self.log.answer(await self.peer.expect("session.open")))
        await soon(_waited(opening))

    async def sent(self, text: str = "hello", turn: str = "t1") -> TurnHandle:
        """The client has sent a turn, and the server has taken it."""
        handle = await self.chat.send("s", text, turn=turn)
        command = await self.peer.expect("turn.create")
        first = not self.log.frames
        accepted = self.log.accept(turn, text)
        if first:
            await self.peer.say(self.log.opened("snapshot", 0, None, seq=0))
        await self.peer.ack(command, seq=accepted["seq"], duplicate=False)
        await self.peer.say(accepted)
        return handle

    async def came_back(self) -> Peer:
        """The server's end of the next connection, greeted."""
        self.peer = await self.server.accepted()
        await self.peer.greet()
        return self.peer


async def _waited(task: "asyncio.Task[Answer]") -> Answer:
    return await task


@asynccontextmanager
async def met(codec: Literal["json", "msgpack"] = "json", **options: Any) -> AsyncGenerator[Met]:
    welcome: Frame = options.pop("welcome", {})
    options.setdefault("backoff", at_once)
    async with ScriptedServer.started() as server:
        chat = ChatConnection(server.url, codec=codec, **options)
        connecting = asyncio.create_task(chat.connect())
        peer = await server.accepted()
        await peer.greet(**welcome)
        await soon(_waited(connecting))
        try:
            yield Met(server, peer, chat)
        finally:
            await chat.close()


# --- greeting ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", ["json", "msgpack"])
async def test_hello_goes_first_and_the_welcome_is_kept(codec: Literal["json", "msgpack"]) -> None:
    seen: list[tuple[str, str]] = []
    async with met(codec, on_frame=lambda side, frame: seen.append((side, frame["type"]))) as here:
        assert here.peer.socket.subprotocol == f"turnwire.v1.{codec}"
        assert here.peer.received[0]["client"]["name"] == "turnwire-chat"
        assert here.chat.welcome["models"] == ["demo", "demo/slow"]
        assert here.chat.status == "live"
        await here.opened()
    assert seen[:4] == [
        ("client", "hello"),
        ("server", "welcome"),
        ("client", "session.open"),
        ("server", "session.opened"),
    ]


async def test_a_token_is_asked_for_on_every_connection() -> None:
    tokens = iter(["first", "second"])

    async def token() -> str:
        return next(tokens)

    async with met(token=token) as here:
        assert here.peer.received[0]["token"] == "first"
        here.peer.cut()
        await here.came_back()
        assert here.peer.received[0]["token"] == "second"


async def test_without_a_token_there_is_no_connection() -> None:
    async def token() -> str:
        raise LookupError("not for you")

    async with ScriptedServer.started() as server:
        with pytest.raises(Unreachable, match=r"no token to be had \(LookupError\)"):
            await soon(ChatConnection(server.url, token=token).connect())


# --- turns ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", ["json", "msgpack"])
async def test_a_turn_streams_and_ends(codec: Literal["json", "msgpack"]) -> None:
    async with met(codec) as here:
        await here.opened()
        turn = await here.sent()
        assert (await soon(turn.acknowledged()))["seq"] == 1
        await here.peer.say(here.log.delta("t1", "Hel"), here.log.delta("t1", "lo"), here.log.end("t1"))
        outcome = await soon(turn.done())
        assert (outcome.ok, outcome.text, outcome.finish_reason, outcome.fault) == (True, "Hello", "stop", None)
        assert outcome.terminal is not None
        assert "".join([delta.text async for delta in turn]) == "Hello"


async def test_pieces_come_one_by_one_to_every_reader() -> None:
    async with met() as here:
        await here.opened()
        turn = await here.sent()
        first, second = aiter(turn), aiter(turn)
        await here.peer.say(here.log.delta("t1", "Hel"))
        assert await soon(anext_of(first)) == Delta(0, "text", "Hel")
        await here.peer.say(here.log.delta("t1", "lo"), here.log.delta("t1", "hm", part=1, kind="reasoning"))
        assert await soon(anext_of(first)) == Delta(0, "text", "lo")
        assert await soon(anext_of(first)) == Delta(1, "reasoning", "hm")
        await here.peer.say(here.log.end("t1"))
        assert [(delta.part, delta.text) async for delta in second] == [(0, "Hello"), (1, "hm")]
        with pytest.raises(StopAsyncIteration):
            await soon(anext_of(first))


async def anext_of(iterator: Any) -> Any:
    return await anext(iterator)


async def test_options_and_parts_travel_as_they_are() -> None:
    async with met() as here:
        await here.opened()
        parts: list[Frame] = [
            {"type": "text", "text": "a"},
            {"type": "image", "media_type": "image/png", "data": "AA=="},
        ]
        await here.chat.send("s", parts, model="demo/slow", params={"temperature": 1}, on_busy="queue")
        command = await here.peer.expect("turn.create")
        assert command["input"] == parts
        assert (command["model"], command["params"], command["on_busy"]) == ("demo/slow", {"temperature": 1}, "queue")
        await here.chat.regenerate("s", "t0")
        again = await here.peer.expect("turn.create")
        assert (again["again"], again["input"]) == ("t0", [])
        assert again["turn"] != command["turn"]


async def test_a_session_is_opened_for_its_first_turn() -> None:
    async with met() as here:
        await here.chat.send("s", "hello")
        assert (await here.peer.expect("session.open"))["session"] == "s"
        await here.peer.expect("turn.create")


async def test_a_refused_turn_ends_with_what_helps() -> None:
    async with met() as here:
        await here.opened()
        turn = await here.chat.send("s", "hello")
        await here.peer.refuse(await here.peer.expect("turn.create"), "busy", "same_frame", retry_after_ms=700)
        outcome = await soon(turn.done())
        assert outcome.fault is not None
        assert (outcome.fault.code, outcome.fault.retry, outcome.fault.retry_after_ms) == ("busy", "same_frame", 700)
        assert (outcome.turn, outcome.text, outcome.terminal, outcome.finish_reason) == (None, "", None, None)
        assert [delta async for delta in turn] == []
        with pytest.raises(CommandRefused, match="busy"):
            await soon(turn.acknowledged())


async def test_a_turn_that_fails_keeps_what_it_had() -> None:
    async with met() as here:
        await here.opened()
        turn = await here.sent()
        await here.peer.say(here.log.delta("t1", "Hel"), here.log.fail("t1", "upstream_truncated"))
        outcome = await soon(turn.done())
        assert outcome.fault is not None
        assert (outcome.ok, outcome.text, outcome.fault.code) == (False, "Hel", "upstream_truncated")


async def test_cancel_and_respond_are_answered() -> None:
    async with met() as here:
        await here.opened()
        turn = await here.sent()
        cancelling = asyncio.create_task(turn.cancel())
        command = await here.peer.expect("turn.cancel")
        assert (command["session"], command["turn"]) == ("s", "t1")
        await here.peer.ack(command, result="cancelling")
        assert await soon(_waited(cancelling)) == "cancelling"
        responding = asyncio.create_task(here.chat.respond("s", "t1", "r1", {"answer": 42}))
        command = await here.peer.expect("turn.respond")
        assert (command["request"], command["value"]) == ("r1", {"answer": 42})
        await here.peer.refuse(command, "not_found")
        with pytest.raises(CommandRefused, match="not_found"):
            await soon(_waited(responding))


async def test_a_closed_session_is_followed_no_longer() -> None:
    async with met() as here:
        await here.opened()
        closing = asyncio.create_task(here.chat.close_session("s"))
        await here.peer.ack(await here.peer.expect("session.close"))
        await soon(_waited(closing))
        assert "s" not in here.chat.transcript.sessions


async def test_a_refused_open_raises() -> None:
    async with met() as here:
        opening = asyncio.create_task(here.chat.open("s"))
        await here.peer.refuse(await here.peer.expect("session.open"), "rate_limited", "same_frame")
        with pytest.raises(CommandRefused, match="It is rate_limited"):
            await soon(_waited(opening))


async def test_an_open_that_the_server_wants_on_another_connection_goes_there() -> None:
    async with met() as here:
        await here.opened()
        turn = await here.sent()
        here.chat.abort()
        peer = await here.came_back()
        await peer.refuse(await peer.expect("session.open"), "internal", "reconnect")
        await peer.gone()
        peer = await here.came_back()
        here.log.end("t1")
        await peer.say(*here.log.answer(await peer.expect("session.open")))
        assert (await soon(turn.done())).ok


# --- loss and return -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", ["json", "msgpack"])
@pytest.mark.parametrize("who", ["client", "server"])
async def test_after_a_cut_the_answer_goes_on_where_it_was(codec: Literal["json", "msgpack"], who: str) -> None:
    statuses: list[str] = []
    async with met(codec, on_status=lambda status, _reason: statuses.append(status)) as here:
        await here.opened()
        turn = await here.sent()
        pieces = aiter(turn)
        await here.peer.say(here.log.delta("t1", "Hel"))
        assert (await soon(anext_of(pieces))).text == "Hel"
        here.chat.abort() if who == "client" else here.peer.cut()
        here.log.delta("t1", "lo")
        here.log.end("t1")
        peer = await here.came_back()
        opening = await peer.expect("session.open")
        assert opening["after"] == {"gen": "g1", "seq": 2, "turn": "t1"}
        await peer.say(*here.log.answer(opening))
        assert [delta.text async for delta in pieces] == ["lo"]
        assert (await soon(turn.done())).text == "Hello"
    assert statuses == ["connecting", "live", "offline", "connecting", "live", "closed"]


async def test_a_turn_that_nobody_acknowledged_is_sent_again_as_it_was() -> None:
    async with met() as here:
        await here.opened()
        turn = await here.chat.send("s", "hello", model="demo")
        first = await here.peer.expect("turn.create")
        here.peer.cut()
        peer = await here.came_back()
        await peer.say(*here.log.answer(await peer.expect("session.open")))
        assert await peer.expect("turn.create") == first
        await peer.ack(first, seq=1, duplicate=True)
        assert (await soon(turn.acknowledged()))["duplicate"] is True


async def test_an_acknowledged_turn_is_not_sent_again() -> None:
    async with met() as here:
        await here.opened()
        turn = await here.sent()
        await soon(turn.acknowledged())
        here.peer.cut()
        peer = await here.came_back()
        await peer.expect("session.open")
        pinging = asyncio.create_task(here.chat.command({"type": "ping"}))
        ping = await peer.expect("ping")
        await peer.say({"type": "pong", "reply_to": ping["id"]})
        assert (await soon(_waited(pinging)))["type"] == "pong"


async def test_what_is_said_offline_is_sent_on_return_in_order() -> None:
    release = asyncio.Event()
    offline = asyncio.Event()

    async def token() -> str:
        await release.wait()
        return "x"

    release.set()
    async with met(token=token, on_status=lambda status, _: offline.set() if status == "offline" else None) as here:
        await here.opened()
        release.clear()
        here.peer.cut()
        await soon(_waited(asyncio.ensure_future(offline.wait())))
        turns = [await here.chat.send("s", text) for text in ("one", "two")]
        cancelling = asyncio.create_task(turns[0].cancel())
        opening = asyncio.create_task(here.chat.open("other"))
        release.set()
        peer = await here.came_back()
        assert {(await peer.expect("session.open"))["session"] for _ in range(2)} == {"s", "other"}
        texts = [(await peer.expect("turn.create"))["input"][0]["text"] for _ in range(2)]
        assert texts == ["one", "two"]
        await peer.ack(await peer.expect("turn.cancel"), result="pending")
        assert await soon(_waited(cancelling)) == "pending"
        opening.cancel()


async def test_what_cannot_be_repeated_fails_with_its_connection() -> None:
    async with met() as here:
        await here.opened()
        responding = asyncio.create_task(here.chat.respond("s", "t1", "r1", True))
        await here.peer.expect("turn.respond")
        here.peer.cut()
        with pytest.raises(CommandRefused, match="lost before the answer"):
            await soon(_waited(responding))


async def test_a_cancel_survives_a_cut() -> None:
    async with met() as here:
        await here.opened()
        cancelling = asyncio.create_task(here.chat.cancel("s", "t1", "enough"))
        first = await here.peer.expect("turn.cancel")
        here.peer.cut()
        peer = await here.came_back()
        await peer.expect("session.open")
        assert await peer.expect("turn.cancel") == first
        await peer.ack(first, result="already_done")
        assert await soon(_waited(cancelling)) == "already_done"


async def test_a_draining_server_is_left_and_the_turn_goes_to_the_next() -> None:
    async with met() as here:
        await here.opened()
        turn = await here.chat.send("s", "hello")
        first = await here.peer.expect("turn.create")
        await here.peer.refuse(first, "draining", "reconnect")
        await here.peer.gone()
        peer = await here.came_back()
        await peer.expect("session.open")
        assert await peer.expect("turn.create") == first
        assert turn.outcome is None


async def test_a_turn_is_not_carried_round_for_ever() -> None:
    async with met() as here:
        await here.opened()
        turn = await here.chat.send("s", "hello")
        for tries in range(TRIES_MAX + 1):
            if tries:
                peer = await here.came_back()
                await peer.expect("session.open")
            command = await here.peer.expect("turn.create")
            await here.peer.refuse(command, "draining", "reconnect")
        outcome = await soon(turn.done())
        assert outcome.fault is not None and outcome.fault.code == "draining"


async def test_goaway_is_followed_within_its_bounds() -> None:
    async with met() as here:
        await here.opened()
        await here.peer.say({"type": "goaway", "reason": "shutdown", "reconnect_min_ms": 0, "reconnect_max_ms": 1})
        await here.peer.gone()
        peer = await here.came_back()
        assert (await peer.expect("session.open"))["session"] == "s"


async def test_the_waits_between_tries_are_the_backoffs_and_grow() -> None:
    asked: list[int] = []

    def backoff(tries: int) -> float:
        asked.append(tries)
        return 0.0

    async with met(backoff=backoff) as here:
        for _ in range(3):
            here.peer.cut()
            await here.came_back()
    assert asked == [1, 2, 3]


async def test_a_server_that_says_when_to_return_is_heard() -> None:
    slept: list[float] = []
    sleep = asyncio.sleep

    async def noted(seconds: float) -> None:
        slept.append(seconds)
        await sleep(0)

    with pytest.MonkeyPatch.context() as patch:
        async with met() as here:
            patch.setattr(asyncio, "sleep", noted)
            error = {"code": "overloaded", "message": "Too much.", "retry": "reconnect", "retry_after_ms": 7_000}
            await here.peer.say({"type": "error", "error": error})
            await here.peer.close(4503)
            await here.came_back()
    assert slept[0] == 7.0


def test_full_jitter_stays_below_a_bound_that_doubles_up_to_a_cap() -> None:
    backoff = FullJitter(base_s=0.25, cap_s=10.0)
    for tries, bound in [(0, 0.25), (1, 0.5), (4, 4.0), (6, 10.0), (10_000, 10.0)]:
        waits = [backoff(tries) for _ in range(200)]
        assert 0 <= min(waits) < bound / 4 and bound / 2 < max(waits) <= bound


# --- histories that change -----------------------------------------------------------------------------------------


async def test_a_turn_that_the_store_lost_ends_as_lost() -> None:
    async with met() as here:
        await here.opened()
        turn = await here.sent()
        await soon(turn.acknowledged())
        here.log.lose(1)
        await here.peer.say(*here.log.snapshot())
        outcome = await soon(turn.done())
        assert outcome.fault == LOST and outcome.turn is not None


async def test_a_turn_lost_before_its_acknowledgement_is_taken_again() -> None:
    async with met() as here:
        await here.opened()
        turn = await here.chat.send("s", "hello", turn="t1")
        await here.peer.expect("turn.create")
        here.log.accept("t1")
        await here.peer.say(here.log.opened("snapshot", 0, None, seq=0), here.log.frames[0])
        here.peer.cut()
        here.log.lose(1)
        peer = await here.came_back()
        await peer.say(*here.log.answer(await peer.expect("session.open")))
        command = await peer.expect("turn.create")
        accepted = here.log.accept("t1")
        await peer.ack(command, seq=accepted["seq"], duplicate=False)
        await peer.say(accepted, here.log.delta("t1", "Hello"), here.log.end("t1"))
        assert (await soon(turn.done())).text == "Hello"


async def test_a_turn_that_ended_out_of_sight_is_told_as_gone() -> None:
    async with met() as here:
        opening = asyncio.create_task(here.chat.open("s", history=1))
        await here.peer.say(*here.log.answer(await here.peer.expect("session.open")))
        await soon(_waited(opening))
        turn = await here.chat.send("s", "hello", turn="t1")
        await here.peer.expect("turn.create")
        here.peer.cut()
        for one in ("t1", "t2"):
            here.log.accept(one)
            here.log.end(one)
        peer = await here.came_back()
        await peer.say(*here.log.answer(await peer.expect("session.open")))
        await peer.ack(await peer.expect("turn.create"), seq=1, duplicate=True)
        outcome = await soon(turn.done())
        assert (outcome.fault, outcome.turn) == (GONE, None)


async def test_a_reader_is_told_when_an_answer_was_replaced() -> None:
    async with met() as here:
        await here.opened()
        turn = await here.sent()
        pieces = aiter(turn)
        await here.peer.say(here.log.delta("t1", "Hello"), here.log.delta("t1", "hm", part=1, kind="reasoning"))
        assert [(await soon(anext_of(pieces))).text for _ in range(2)] == ["Hello", "hm"]
        here.log.lose(2)
        here.log.delta("t1", "Good bye")
        await here.peer.say(*here.log.snapshot())
        assert await soon(anext_of(pieces)) == Delta(0, "text", "Good bye", replaces=True)
        assert await soon(anext_of(pieces)) == Delta(1, "reasoning", "", replaces=True)


async def test_a_snapshot_that_says_the_same_and_more_is_no_replacement() -> None:
    async with met() as here:
        await here.opened()
        turn = await here.sent()
        pieces = aiter(turn)
        await here.peer.say(here.log.delta("t1", "Hel"))
        assert (await soon(anext_of(pieces))).text == "Hel"
        here.log.delta("t1", "lo")
        await here.peer.say(*here.log.snapshot())
        assert await soon(anext_of(pieces)) == Delta(0, "text", "lo")


async def test_a_session_that_cannot_be_followed_ends_its_turns_plainly() -> None:
    async with met() as here:
        await here.opened()
        turn = await here.sent()
        here.log.delta("t1", "a")
        gap = here.log.delta("t1", "b")
        early = ScriptedLog()
        early.frames = here.log.frames[:1]
        await here.peer.say(gap)
        for _ in range(2):
            await here.peer.say(*early.answer(await here.peer.expect("session.open")), gap)
        outcome = await soon(turn.done())
        assert outcome.fault is not None
        assert "cannot be followed: frames after 1 are missing, for the third time" in outcome.fault.message


# --- silence, nonsense, the end ------------------------------------------------------------------------------------


async def test_silence_is_broken_by_a_ping_and_an_answer_keeps_the_connection() -> None:
    async with met(welcome={"ping_ms": 20}) as here:
        for _ in range(3):
            await here.peer.expect("ping")
            await here.peer.say({"type": "pong"})
        assert here.server.connections == 1


async def test_a_server_that_does_not_answer_a_ping_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire_module, "PONG_MS", 20)
    reasons: list[str] = []
    async with met(welcome={"ping_ms": 20}, on_status=lambda _status, reason: reasons.append(reason)) as here:
        await here.peer.expect("ping")
        await here.peer.gone()
        await here.came_back()
    assert any("does not answer any more" in reason for reason in reasons)


@pytest.mark.parametrize(
    "nonsense",
    [
        b"\xff\xfe",
        "[]",
        "not json",
        '{"type": "turn.delta", "session": "s", "seq": "x"}',
        '{"no": "type"}',
        '{"type": "goaway"}',
        '{"type": "error"}',
    ],
)
async def test_nonsense_costs_the_connection_and_no_more(nonsense: str | bytes) -> None:
    async with met() as here:
        await here.opened()
        await here.peer.socket.send(nonsense)
        await here.came_back()


@pytest.mark.parametrize("code", [4400, 4401, 4403, 4406, 4413, 1009])
async def test_a_close_that_says_do_not_come_back_is_obeyed(code: int) -> None:
    refused = asyncio.Event()
    reasons: list[str] = []

    def on_status(status: str, reason: str) -> None:
        reasons.append(reason)
        if status == "refused":
            refused.set()

    async with met(on_status=on_status) as here:
        await here.opened()
        turn = await here.sent()
        error = {"code": "forbidden", "message": "Not you.", "retry": "none"}
        await here.peer.say({"type": "error", "error": error})
        await here.peer.close(code)
        await soon(_waited(asyncio.ensure_future(refused.wait())))
        assert reasons[-1] == "Not you."
        outcome = await soon(turn.done())
        assert outcome.fault is not None and outcome.fault.message == "The connection is gone: Not you."
        assert here.server.connections == 1


@pytest.mark.parametrize("code", [1000, 1001, 1011, 1012, 1013, 4500, 4501, 4503, 4510, 4513, 4529, 4999, 3000])
async def test_any_other_close_is_followed_by_a_return(code: int) -> None:
    async with met() as here:
        await here.peer.close(code)
        await here.came_back()


async def test_without_backoff_the_first_loss_is_the_last() -> None:
    offline = asyncio.Event()
    async with met(backoff=None, on_status=lambda status, _: offline.set() if status == "offline" else None) as here:
        here.peer.cut()
        await soon(_waited(asyncio.ensure_future(offline.wait())))
        assert here.server.connections == 1


async def test_closing_ends_everything_that_waits() -> None:
    async with met() as here:
        await here.opened()
        turn = await here.sent()
        opening = asyncio.create_task(here.chat.open("other"))
        await here.peer.expect("session.open")
        await here.chat.close()
        assert here.chat.status == "closed"
        outcome = await soon(turn.done())
        assert outcome.fault is not None and "closed before the end" in outcome.fault.message
        with pytest.raises(CommandRefused):
            await soon(_waited(opening))
        await here.peer.gone()
        await here.chat.close()


async def test_too_many_waiting_commands_are_refused() -> None:
    async with met() as here:
        for number in range(WAITING_MAX):
            await here.chat.send("s", "x", turn=f"t{number}")
        with pytest.raises(CommandRefused, match=f"{WAITING_MAX} commands are waiting"):
            await here.chat.send("s", "x")


# --- no server -----------------------------------------------------------------------------------------------------


async def test_nobody_there_is_told_in_a_sentence() -> None:
    async with ScriptedServer.started() as server:
        url = server.url
    with pytest.raises(Unreachable, match=r"Nobody answers at ws://127\.0\.0\.1:\d+/v1/ws \(connection refused\)\."):
        await soon(ChatConnection(url).connect())


async def test_a_websocket_that_speaks_something_else_is_told() -> None:
    async with ScriptedServer.started("") as server:
        with pytest.raises(Unreachable, match=r"speaks WebSocket, but not turnwire\.v1\.json"):
            await soon(ChatConnection(server.url).connect())


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n", "HTTP status 404 instead of a WebSocket. Is it a"),
        (b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n", "does not let this client in"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "is no Turnwire server"),
        (b"", "is no Turnwire server"),
    ],
)
async def test_something_else_at_the_address_is_told(answer: bytes, sentence: str) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with listening:
        port = listening.sockets[0].getsockname()[1]
        with pytest.raises(Unreachable, match=sentence):
            await soon(ChatConnection(f"127.0.0.1:{port}").connect())


async def test_a_server_that_never_greets_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "WELCOME_MS", 20)
    monkeypatch.setattr(wire_module, "PONG_MS", 20)
    async with ScriptedServer.started() as server:
        with pytest.raises(Unreachable, match="does not answer any more"):
            await soon(ChatConnection(server.url).connect())


async def test_a_server_that_does_not_want_this_client_is_told_with_its_reason() -> None:
    async with ScriptedServer.started() as server:
        connecting = asyncio.create_task(ChatConnection(server.url).connect())
        peer = await server.accepted()
        await peer.expect("hello")
        error = {"code": "unauthenticated", "message": "the token was not accepted", "retry": "none"}
        await peer.say({"type": "error", "error": error})
        await peer.close(4401)
        with pytest.raises(ServerClosed, match="the token was not accepted") as caught:
            await soon(_waited(connecting))
        assert caught.value.code == 4401


async def test_connecting_can_be_cancelled() -> None:
    async with ScriptedServer.started() as server:
        chat = ChatConnection(server.url)
        connecting = asyncio.create_task(chat.connect())
        peer = await server.accepted()
        await peer.expect("hello")
        connecting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await connecting
        await peer.gone()
        assert chat.status == "closed"


@pytest.mark.parametrize(
    ("address", "endpoint"),
    [
        ("127.0.0.1:8000", "ws://127.0.0.1:8000/v1/ws"),
        ("localhost", "ws://localhost/v1/ws"),
        ("[::1]:8000", "ws://[::1]:8000/v1/ws"),
        ("http://127.0.0.1:8000", "ws://127.0.0.1:8000/v1/ws"),
        ("https://chat.example.com/", "wss://chat.example.com/v1/ws"),
        ("wss://chat.example.com/behind/v1/ws", "wss://chat.example.com/behind/v1/ws"),
        ("ws://127.0.0.1:8000/v1/ws#part", "ws://127.0.0.1:8000/v1/ws"),
    ],
)
def test_an_address_is_understood_as_people_write_it(address: str, endpoint: str) -> None:
    assert endpoint_of(address) == endpoint
    assert ChatConnection(address).url == endpoint


@pytest.mark.parametrize("address", ["", "ftp://h", "http://", "127.0.0.1:80000", "h:port", "ws://[::1", "file:///etc"])
def test_what_is_no_address_is_told(address: str) -> None:
    with pytest.raises(Unreachable, match="is no address of a server"):
        endpoint_of(address)


async def test_a_fault_of_the_client_itself_leaves_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    async with met() as here:
        await here.opened()
        turn = await here.sent()

        async def dial(*_: object) -> None:
            raise RuntimeError("client_failed")

        monkeypatch.setattr(wire_module.Wire, "dial", dial)
        here.peer.cut()
        outcome = await soon(turn.done())
        assert outcome.fault is not None and "The client failed (RuntimeError)." in outcome.fault.message
        with pytest.raises(RuntimeError, match="client_failed"):
            await here.chat.close()
        with pytest.raises(RuntimeError, match="client_failed"):
            await soon(ChatConnection(here.server.url).connect())
