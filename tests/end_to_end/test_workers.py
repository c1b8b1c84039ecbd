"""`turnwire serve --workers 2`: one port, two processes, one store."""

import asyncio
import os
import signal
from pathlib import Path

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
        # After goaway they leave, and come back to watch on whichever worker takes them.
        async with ChatConnection(node.url, backoff=at_once) as one, ChatConnection(node.url, backoff=at_once) as other:
            turns = [await chat.send(f"s{number}", "a") for number, chat in enumerate((one, other))]
            for turn in turns:
                await turn.acknowledged()
            stopping = asyncio.create_task(node.stop())
            assert [(await turn.done()).finish_reason for turn in turns] == ["stop", "stop"]
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
        ChatConnection(node.url, backoff=at_once) as chat,
    ):
        turn = await chat.send("s", "a", model="demo/long")
        await until(lambda: turn.id in chat.transcript.sessions["s"].turns)
        await until(lambda: chat.transcript.sessions["s"].turns[turn.id].parts)
        stopping = asyncio.create_task(node.stop())
        outcome = await turn.done()
        assert outcome.fault is not None and outcome.fault.code == "node_lost"
        assert outcome.text and outcome.text == "".join(
            part.text for part in chat.transcript.sessions["s"].turns[turn.id].parts.values()
        )
        assert await stopping == 0
