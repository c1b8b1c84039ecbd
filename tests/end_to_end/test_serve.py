"""`turnwire serve` as a person meets it: how it starts, what it says when it cannot, how it stops."""

import asyncio
import json
import os
import signal
import socket
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.support.processes import NodeProcess, end_store, read_until, start_python, store_pids
from tests.support.waiting import until as until_true
from turnwire.chat.connection import ChatConnection

DEMO = {"TURNWIRE_DRAIN_MS": "20000"}


async def fails_to_start(*arguments: str, environment: dict[str, str] | None = None) -> tuple[int, str]:
    """Exit code and all that was said."""
    process = await start_python(["-m", "turnwire", "serve", *arguments], environment)
    said, _ = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode is not None
    return process.returncode, said.decode()


def get(url: str) -> tuple[int, dict[str, str], bytes]:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 - the URL is the test's own node's
            return answer.status, dict(answer.headers), answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, dict(error.headers), error.read()


async def test_it_says_what_it_runs_on_and_answers_probes_and_page(tmp_path: Path) -> None:
    async with NodeProcess.started(tmp_path / "data") as node:
        for word in ("embedded", "AOF everysec", "demo", "anonymous", node.url, node.http_url):
            assert word in node.banner
        assert (await asyncio.to_thread(get, f"{node.http_url}/livez"))[0] == 200
        status, _, body = await asyncio.to_thread(get, f"{node.http_url}/readyz")
        assert (status, json.loads(body)) == (200, {"ready": True, "reason": None, "ends_not_replicated": 0})
        status, headers, body = await asyncio.to_thread(get, f"{node.http_url}/")
        assert status == 200 and b"<html" in body
        assert "default-src 'none'" in headers["content-security-policy"]
        assert (await asyncio.to_thread(get, f"{node.http_url}/nothing"))[0] == 404


async def test_a_node_without_its_store_is_alive_but_not_ready(tmp_path: Path) -> None:
    async with NodeProcess.started(tmp_path / "data") as node:
        os.kill(node.store_pid, signal.SIGSTOP)
        try:
            status, _, body = await asyncio.to_thread(get, f"{node.http_url}/readyz")
            assert status == 503 and json.loads(body)["reason"] == "the store does not answer"
            assert (await asyncio.to_thread(get, f"{node.http_url}/livez"))[0] == 200
        finally:
            os.kill(node.store_pid, signal.SIGCONT)


async def test_a_busy_port_is_one_clear_sentence(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, said = await fails_to_start("--port", str(port), "--data-dir", str(tmp_path))
    assert code == 1
    assert said.count("\n") == 1 and str(port) in said and "TURNWIRE_PORT" in said


async def test_a_data_directory_that_cannot_be_is_one_clear_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    code, said = await fails_to_start("--port", "0", "--data-dir", str(tmp_path / "file" / "data"))
    assert code == 1
    assert said.count("\n") == 1 and "file/data" in said


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"TURNWIRE_PORT": "many"}, ["TURNWIRE_PORT"]),
        ({"TURNWIRE_PROT": "8000"}, ["TURNWIRE_PROT", "TURNWIRE_PORT"]),
        ({"TURNWIRE_HOST": "0.0.0.0"}, ["TURNWIRE_AUTH", "anonymous"]),  # noqa: S104 - it is refused
        ({"TURNWIRE_REDIS_URL": "http://x"}, ["TURNWIRE_REDIS_URL", "redis://"]),
    ],
)
async def test_a_wrong_setting_is_named_with_a_way_out(
    tmp_path: Path, environment: dict[str, str], words: list[str]
) -> None:
    code, said = await fails_to_start("--data-dir", str(tmp_path), environment=environment)
    assert code == 2
    assert said.count("\n") == 1
    assert [word for word in words if word not in said] == []


async def test_a_store_that_is_not_there_is_one_clear_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    code, said = await fails_to_start("--port", "0", "--redis-url", f"redis://127.0.0.1:{port}")
    assert code == 1
    assert said.count("\n") == 1 and str(port) in said


async def test_sigterm_tells_the_clients_lets_the_answer_end_and_closes_with_1012(tmp_path: Path) -> None:
    async with NodeProcess.started(tmp_path / "data", DEMO) as node, connect(node.url, compression=None) as peer:
        await peer.send('{"type":"hello"}')
        create = '{"type":"turn.create","id":"%s","session":"%s","turn":"t","input":[{"type":"text","text":"a"}]}'
        await peer.send(create % ("c1", "s1"))
        await until(peer, "turn.delta")
        stopping = asyncio.create_task(node.stop())
        goaway = await until(peer, "goaway")
        assert goaway["reconnect_min_ms"] < goaway["reconnect_max_ms"]
        assert (await asyncio.to_thread(get, f"{node.http_url}/readyz"))[0] == 503
        await peer.send(create % ("c2", "s2"))
        assert (await until(peer, "error"))["error"]["code"] == "draining"
        assert (await until(peer, "turn.done"))["finish_reason"] == "stop"
        with pytest.raises(ConnectionClosed):
            await until(peer, "nothing more")
        assert peer.close_code == 1012
        assert await stopping == 0
        assert store_pids(node.folder) == []


async def until(peer: ClientConnection, kind: str) -> dict[str, Any]:
    while (frame := json.loads(await peer.recv()))["type"] != kind:
        pass
    return frame


async def test_a_second_sigterm_ends_it_at_once(tmp_path: Path) -> None:
    async with NodeProcess.started(tmp_path / "data", DEMO) as node, ChatConnection(node.url, backoff=None) as chat:
        turn = await chat.send("s", "a", model="demo/stall")
        await turn.acknowledged()
        node.process.send_signal(signal.SIGTERM)
        while (await asyncio.to_thread(get, f"{node.http_url}/readyz"))[0] == 200:
            pass
        node.process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(node.process.wait(), 5) == 1


async def test_two_nodes_on_one_directory_share_sessions_and_cancels(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    try:
        first = await NodeProcess.start(folder, {"TURNWIRE_DRAIN_MS": "0"})
        second = await NodeProcess.start(folder, {"TURNWIRE_DRAIN_MS": "0"})
        assert store_pids(folder) == [first.store_pid]
        async with ChatConnection(first.url) as here, ChatConnection(second.url) as there:
            turn = await here.send("s", "a", model="demo/slow")
            await turn.acknowledged()
            followed = await there.open("s")
            await until_true(lambda: turn.id in followed.turns and followed.turns[turn.id].parts)
            assert await there.cancel("s", turn.id) == "cancelling"
            outcome = await turn.done()
            assert outcome.finish_reason == "cancelled"
            await until_true(lambda: followed.turns[turn.id].ended)
            assert "".join(part.text for part in followed.turns[turn.id].parts.values()) == outcome.text
        assert await first.stop() == 0
        assert len(store_pids(folder)) == 1
        assert await second.stop() == 0
        assert store_pids(folder) == []
    finally:
        await end_store(folder)


async def test_sessions_survive_an_orderly_restart(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    async with NodeProcess.started(folder) as node, ChatConnection(node.url, backoff=None) as chat:
        text = (await (await chat.send("s", "remember me")).done()).text
    async with NodeProcess.started(folder) as node, ChatConnection(node.url, backoff=None) as chat:
        (turn,) = (await chat.open("s")).turns.values()
        assert "".join(part.text for part in turn.parts.values()) == text


async def test_config_prints_what_is_in_force_and_no_secret() -> None:
    secret = "sk-test-not-a-real-key"
    process = await start_python(["-m", "turnwire", "config"], {"OPENAI_API_KEY": secret, "TURNWIRE_MODEL": "m"})
    said = await read_until(process, "}")
    rest = (await process.communicate())[0].decode()
    assert secret not in said + rest
    assert "***" in said + rest
