"""`turnwire serve --workers 2`: one port, two processes, one store."""

import asyncio
import json
import os
import signal
from pathlib import Path
from typing import Any

from websockets.asyncio.client import ClientConnection, connect

from tests.support.processes import NodeProcess, start_python, store_pids
from tests.support.waiting import until
from turnwire.chat.connection import ChatConnection

FAST = {
    "TURNWIRE_LEASE_MS": "3000",
    "TURNWIRE_RENEW_MS": "500",
    "TURNWIRE_SWEEP_MS": "300",
    "TURNWIRE_DRAIN_MS": "20000",
}
CONNECTIONS = 24
PATIENCE_S = 60


def at_once(_tries: int) -> float:
    return 0.05


def workers_of(node: NodeProcess) -> list[int]:
    """Processes of the supervisor that serve; the other child only cleans up after it."""
    children = Path(f"/proc/{node.pid}/task/{node.pid}/children").read_text().split()
    return [int(pid) for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]


async def test_workers_share_the_port_and_the_sessions_and_one_that_dies_is_replaced(tmp_path: Path) -> None:
    async with NodeProcess.started(tmp_path / "data", FAST, "--workers", "2") as node:
        assert "2 processes" in node.banner
        first = workers_of(node)
        assert len(first) == 2
        async with ChatConnection(node.url, backoff=at_once) as chat:
            turn = await chat.send("s", "a", model="demo/slow")
            await turn.acknowledged()
            # However the connections fall on the two, each of them shows the same session.
            for _ in range(CONNECTIONS):
                async with ChatConnection(node.url) as watching:
                    assert turn.id in (await watching.open("s")).turns
            text = (await turn.done()).text
            for pid in first:
                os.kill(pid, signal.SIGKILL)
                await until(lambda pid=pid: pid not in workers_of(node) and len(workers_of(node)) == 2)
            again = await (await chat.send("s", "b")).done()
            assert again.finish_reason == "stop" and text
        assert await node.stop() == 0
        assert store_pids(node.folder) == []


async def test_sigterm_drains_every_worker(tmp_path: Path) -> None:
    async with NodeProcess.started(tmp_path / "data", FAST, "--workers", "2") as node:
        async with connect(node.url, compression=None) as one, connect(node.url, compression=None) as other:
            for number, peer in enumerate((one, other)):
                await create(peer, f"s{number}", "demo")
                await heard(peer, "turn.started")
            stopping = asyncio.create_task(node.stop())
            for peer in (one, other):  # who stays in spite of goaway hears the end
                assert (await heard(peer, "turn.done"))["finish_reason"] == "stop"
        assert await stopping == 0


async def test_workers_whose_supervisor_is_killed_do_not_stay(tmp_path: Path) -> None:
    async with NodeProcess.started(tmp_path / "data", FAST, "--workers", "2") as node:
        workers = workers_of(node)
        await node.kill()
        await until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))
        assert store_pids(node.folder) == []


async def test_workers_that_cannot_start_say_why_once_each_and_none_stays(tmp_path: Path) -> None:
    process = await start_python(
        ["-m", "turnwire", "serve", "--port", "0", "--workers", "2", "--redis-url", "redis://127.0.0.1:1"], None
    )
    said, _ = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 1
    assert b"The store cannot be used" in said and b"none is left running" in said


async def test_a_drain_that_takes_too_long_keeps_what_an_answer_has(tmp_path: Path) -> None:
    async with (
        NodeProcess.started(tmp_path / "data", {**FAST, "TURNWIRE_DRAIN_MS": "300"}) as node,
        connect(node.url, compression=None) as peer,
    ):
        await create(peer, "s", "demo/slow")
        await heard(peer, "turn.delta")
        stopping = asyncio.create_task(node.stop())
        terminal = await heard(peer, "turn.error")
        assert terminal["error"]["code"] == "node_lost" and terminal["partial"]
        assert terminal["parts"][0]["bytes"] > 0
        assert await stopping == 0


async def create(peer: ClientConnection, session: str, model: str) -> None:
    """Say hello and begin a turn. A peer of no kind of its own: it does not leave when it is asked to."""
    await peer.send('{"type":"hello"}')
    turn = {"type": "turn.create", "id": "c", "session": session, "turn": "t", "model": model}
    await peer.send(json.dumps({**turn, "input": [{"type": "text", "text": "a"}]}))


async def heard(peer: ClientConnection, kind: str) -> dict[str, Any]:
    async with asyncio.timeout(PATIENCE_S):
        while (frame := json.loads(await peer.recv()))["type"] != kind:
            pass
    return frame
