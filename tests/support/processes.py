"""Real processes for tests and benchmarks: a Turnwire node as a person starts it, and a provider.

Each runs while its context lasts and is ended by its process id; a node's embedded store, which outlives a killed node
on purpose, is ended with the folder that it lives in.
"""

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Self

from tests.support.waiting import until

START_S = 30
STOP_S = 20


class NodeProcess:
    """`turnwire serve` on a free port. `url` is its WebSocket endpoint, `http_url` its page."""

    def __init__(self, process: asyncio.subprocess.Process, folder: Path, banner: str) -> None:
        self.process = process
        self.folder = folder
        self.banner = banner
        found = re.search(r"open (http://127\.0\.0\.1:(\d+))", banner)
        assert found is not None, banner
        self.port = int(found[2])
        self.http_url = found[1]
        self.url = f"ws://127.0.0.1:{self.port}/v1/ws"
        self.output = folder / "output.log"
        """All that it says after its banner."""
        self._reading = asyncio.create_task(_keep(process.stdout, self.output))

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def store_pid(self) -> int:
        """The embedded store that serves this node's folder."""
        return store_pids(self.folder)[0]

    @classmethod
    async def _begin(
        cls, folder: Path, arguments: Sequence[str], environment: Mapping[str, str] | None, cpu: int | None
    ) -> asyncio.subprocess.Process:
        return await start_python(["-m", "turnwire", *arguments], environment, cpu=cpu)

    @classmethod
    async def start(
        cls,
        folder: Path,
        environment: Mapping[str, str] | None = None,
        *arguments: str,
        cpu: int | None = None,
    ) -> Self:
        """Start a node whose data is in `folder`; returns when it says that it is ready."""
        command = ["serve", "--port", "0", "--data-dir", str(folder), *arguments]
        process = await cls._begin(folder, command, environment, cpu)
        try:
            return cls(process, folder, await read_until(process, "ready"))
        except BaseException:  # nobody else knows of it yet
            if process.returncode is None:
                process.kill()
                await process.wait()
            raise

    async def kill(self) -> None:
        """SIGKILL: the process ends without a word."""
        self.process.kill()
        await self._ended()

    def pause(self) -> None:
        """SIGSTOP: it stands still, its sockets stay open."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT: it goes on as if no time had passed."""
        self.process.send_signal(signal.SIGCONT)

    async def stop(self, patience_s: float = STOP_S) -> int:
        """SIGTERM; its exit code. `patience_s`: how long its turns may take to end."""
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
        return await self._ended(patience_s)

    async def _ended(self, patience_s: float = STOP_S) -> int:
        code = await asyncio.wait_for(self.process.wait(), patience_s)
        await self._reading
        return code

    @classmethod
    @asynccontextmanager
    async def started(
        cls,
        folder: Path,
        environment: Mapping[str, str] | None = None,
        *arguments: str,
        cpu: int | None = None,
    ) -> AsyncGenerator[Self]:
        """A node for the length of a context; its store ends with it."""
        try:
            node = await cls.start(folder, environment, *arguments, cpu=cpu)
            try:
                yield node
            finally:
                if node.process.returncode is None:
                    await node.stop()
        finally:
            await end_store(folder)


class ProviderProcess:
    """tests.support.provider_server as its own process, streaming stamped tokens."""

    def __init__(self, process: asyncio.subprocess.Process, base_url: str) -> None:
        self.process = process
        self.base_url = base_url

    @property
    def pid(self) -> int:
        return self.process.pid

    @classmethod
    @asynccontextmanager
    async def streaming(cls, *, rate_per_s: float, tokens: int, padding: str = "") -> AsyncGenerator[Self]:
        command = ["-m", "tests.support.provider_server", "--rate", str(rate_per_s), "--tokens", str(tokens)]
        process = await start_python([*command, f"--padding={padding}"], None)
        try:
            yield cls(process, (await read_until(process, "http")).strip())
        finally:
            process.terminate()
            await asyncio.wait_for(process.wait(), STOP_S)


async def start_python(
    arguments: Sequence[str],
    environment: Mapping[str, str] | None,
    *,
    cpu: int | None = None,
    without: tuple[str, ...] = ("TURNWIRE_", "OPENAI_"),
) -> asyncio.subprocess.Process:
    """This interpreter with `arguments`; of the caller's variables that begin as in `without`, only what `environment`
    says gets through."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(without)}
    prefix = [] if cpu is None else ["taskset", "-c", str(cpu)]
    return await asyncio.create_subprocess_exec(
        *prefix,
        sys.executable,
        *arguments,
        env={**kept, "PYTHONUNBUFFERED": "1", **(environment or {})},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )


async def read_until(process: asyncio.subprocess.Process, word: str) -> str:
    """All output up to and with the first line that holds `word`."""
    assert process.stdout is not None
    lines: list[str] = []
    try:
        async with asyncio.timeout(START_S):
            while line := (await process.stdout.readline()).decode():
                lines.append(line)
                if word in line.lower():
                    return "".join(lines)
    except TimeoutError:
        process.kill()
        await process.wait()
        raise AssertionError(f"no {word!r} within {START_S} s:\n{''.join(lines)}") from None
    raise AssertionError(f"ended with {await process.wait()} before {word!r}:\n{''.join(lines)}")


async def _keep(stream: asyncio.StreamReader | None, path: Path) -> None:
    """Keep a pipe empty, so that whoever writes to it never waits, and what came out of it in a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab", buffering=0) as output:
        while stream is not None and (data := await stream.read(65_536)):
            output.write(data)


def store_pids(folder: Path) -> list[int]:
    """Embedded stores whose socket or folder is `folder`."""
    found: list[int] = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            inside = (entry / "cwd").readlink() == folder.resolve()
        except OSError:  # ended meanwhile, or not ours to look at
            continue
        if ("redis-server" in command or "valkey" in command) and (inside or str(folder) in command):
            found.append(int(entry.name))
    return found


async def end_store(folder: Path) -> None:
    """End the embedded stores of a folder and wait until they are gone."""
    for pid in store_pids(folder):
        os.kill(pid, signal.SIGKILL)
        await until(lambda pid=pid: pid not in store_pids(folder))
