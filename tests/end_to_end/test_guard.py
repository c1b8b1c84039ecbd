"""A guard of the operator's own in a real server: what a client hears, what a log does not, and that nobody waits for
somebody else's guard."""

import asyncio
import json
from pathlib import Path
from typing import Any

from websockets.asyncio.client import ClientConnection, connect

from tests.end_to_end.test_serve import fails_to_start
from tests.support.processes import NodeProcess
from tests.support.tokens import SECRET, shared

CANARY = "canary-4711"

GUARD = '''
"""Refuses what is about weather, and gets stuck or breaks where it is told to."""

import time

from turnwire.ports import Refusal


def check(turn):
    text = turn.input[0]["text"]
    if "stuck" in text:
        time.sleep(3)
    if "break" in text:
        raise ValueError(text)
    if "weather" in text and turn.org == "acme":
        return Refusal("Ask about our shop.")
'''


def settings(folder: Path, **more: str) -> dict[str, str]:
    (folder / "shop.py").write_text(GUARD)
    return {
        "PYTHONPATH": str(folder),
        "TURNWIRE_AUTH": "jwt",
        "TURNWIRE_JWT_SECRET": SECRET,
        "TURNWIRE_DRAIN_MS": "0",
        "TURNWIRE_INPUT_GUARD": "shop:check",
        "TURNWIRE_INPUT_GUARD_MS": "500",
        **more,
    }


async def peer_of(node: NodeProcess, user: str, org: str) -> ClientConnection:
    peer = await connect(node.url, compression=None)
    await peer.send(json.dumps({"type": "hello", "token": shared(user, org=org)}))
    await answer(peer, "welcome")
    return peer


async def answer(peer: ClientConnection, *types: str) -> dict[str, Any]:
    async with asyncio.timeout(20):
        while (frame := json.loads(await peer.recv()))["type"] not in types:
            pass
    return frame


async def create(peer: ClientConnection, turn: str, text: str) -> dict[str, Any]:
    parts = [{"type": "text", "text": f"{text} {CANARY}"}]
    command = {"type": "turn.create", "id": turn, "session": f"s-{turn}", "turn": turn, "input": parts}
    await peer.send(json.dumps(command))
    return await answer(peer, "ack", "error")


async def test_a_guard_refuses_turns_and_fails_closed_and_no_log_has_what_they_asked(tmp_path: Path) -> None:
    async with NodeProcess.started(tmp_path / "data", settings(tmp_path)) as node:
        assert "shop:check, fails closed" in node.banner
        alice, bob = await peer_of(node, "alice", "acme"), await peer_of(node, "bob", "other")
        assert (await create(alice, "t1", "hello"))["type"] == "ack"
        refused = await create(alice, "t2", "weather")
        assert refused["error"] == {"code": "forbidden", "message": "Ask about our shop.", "retry": "none"}
        assert (await create(bob, "t1", "weather"))["type"] == "ack"
        broken = await create(alice, "t3", "break")
        assert (broken["error"]["code"], broken["error"]["retry"]) == ("overloaded", "same_frame")
        assert broken["error"]["retry_after_ms"] > 0

        # Bob's turn is accepted while the guard is stuck with alice's.
        stuck = asyncio.create_task(create(alice, "t4", "stuck"))
        assert (await create(bob, "t2", "hello"))["type"] == "ack"
        assert not stuck.done()
        assert (await stuck)["error"]["code"] == "overloaded"

        alice.transport.abort()
        bob.transport.abort()
        await node.stop()
        lines = [json.loads(line) for line in node.output.read_text().splitlines() if line.startswith("{")]
        failures = [(line["turn"], line["kind"]) for line in lines if line["event"] == "input_guard_failed"]
        assert failures == [("t3", "ValueError"), ("t4", "deadline")]
        assert CANARY not in node.output.read_text()


async def test_a_guard_that_fails_open_lets_turns_in(tmp_path: Path) -> None:
    environment = settings(tmp_path, TURNWIRE_INPUT_GUARD_FAILS="open", TURNWIRE_INPUT_GUARD_MS="50")
    async with NodeProcess.started(tmp_path / "data", environment) as node:
        alice = await peer_of(node, "alice", "acme")
        for turn, text in (("t1", "break"), ("t2", "stuck")):
            assert (await create(alice, turn, text))["type"] == "ack"
            await answer(alice, "turn.done")
        assert (await create(alice, "t3", "weather"))["error"]["code"] == "forbidden"
        alice.transport.abort()


async def test_a_guard_that_is_not_there_stops_the_start_with_a_sentence(tmp_path: Path) -> None:
    environment = settings(tmp_path, TURNWIRE_INPUT_GUARD="shop:cheque")
    code, said = await fails_to_start("--port", "0", "--data-dir", str(tmp_path), environment=environment)
    assert code == 2
    assert said.count("\n") == 1 and "TURNWIRE_INPUT_GUARD" in said and "shop has no cheque" in said
