"""Several nodes on one machine and one port: a supervisor that starts them, replaces one that dies, and stops all.

The supervisor binds the port and serves nothing itself. Each worker is a node like any other, in a process of its own,
that takes connections from the same listening socket; they share the store, and need not know of each other. A worker
whose supervisor dies drains by itself: nobody would stop it otherwise.
"""

import asyncio
import multiprocessing
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Coroutine
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any, Final

import structlog

from turnwire import telemetry
from turnwire.app import listen, run, serve
from turnwire.settings import Settings, SettingsError
from turnwire.storage import StartError

BACKOFF_MS: Final = (100, 500, 1_000, 2_000, 5_000)
"""How long a worker's place stays empty, by how often in a row a worker ended there before it was ready."""

_log = structlog.get_logger(__name__)


async def supervise(settings: Settings, announce: Callable[[str], None]) -> None:
    """Run `settings.workers` nodes until told to stop. `announce` gets the banner once all of them are ready.

    SIGTERM and Ctrl-C drain all of them; a second one ends them at once. Raises StartError when a first one cannot
    start.
    """
    with listen(settings) as listening:
        await _Supervisor(settings, listening, announce).run()


class _Supervisor:
    def __init__(self, settings: Settings, listening: socket.socket, announce: Callable[[str], None]) -> None:
        self._settings = settings
        self._listening = listening
        self._announce = announce
        self._loop = asyncio.get_running_loop()
        self._workers: set[SpawnProcess] = set()
        self._stopping = False
        self._fault: StartError | None = None
        self._ready = 0
        self._failures = 0
        self._restarts: set[asyncio.TimerHandle] = set()
        self._over = asyncio.Event()

    async def run(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._stop)
        for _ in range(self._settings.workers):
            self._start()
        await self._over.wait()
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.remove_signal_handler(number)
        if self._fault is not None:
            raise self._fault

    def _start(self) -> None:
        spawning = multiprocessing.get_context("spawn")
        ours, theirs = spawning.Pipe()
        worker = spawning.Process(target=_work, args=(self._settings, self._listening, theirs), name="turnwire worker")
        worker.start()
        theirs.close()
        self._workers.add(worker)
        said: list[str] = []

        def on_word() -> None:
            """Its banner, or the end of the pipe, which it leaves open for as long as it lives."""
            try:
                said.append(ours.recv())
            except (EOFError, OSError):
                self._loop.remove_reader(ours.fileno())
                ours.close()
                worker.join()
                self._on_end(worker, was_ready=bool(said))
            else:
                self._on_ready(said[-1])

        self._loop.add_reader(ours.fileno(), on_word)

    def _on_ready(self, banner: str) -> None:
        self._failures = 0
        self._ready += 1
        if self._ready == self._settings.workers:
            self._announce(banner)

    def _on_end(self, worker: SpawnProcess, *, was_ready: bool) -> None:
        self._workers.discard(worker)
        if self._stopping:
            self._look_whether_over()
            return
        _log.error("worker_ended", pid=worker.pid, code=worker.exitcode)
        if not was_ready and self._ready < self._settings.workers:
            # It has said why itself. The others would fail in the same way, or serve less than was asked for.
            self._fault = StartError("A worker could not start, so none is left running.")
            self._stop()
            return
        self._failures += not was_ready
        wait_ms = BACKOFF_MS[min(self._failures, len(BACKOFF_MS) - 1)]

        def start_again() -> None:
            self._restarts.discard(handle)
            self._start()

        handle = self._loop.call_later(wait_ms / 1000, start_again)
        self._restarts.add(handle)

    def _stop(self) -> None:
        self._stopping = True
        for handle in self._restarts:
            handle.cancel()
        for worker in self._workers:
            worker.terminate()
        self._look_whether_over()

    def _look_whether_over(self) -> None:
        if not self._workers:
            self._over.set()


def _work(settings: Settings, listening: socket.socket, supervisor: Connection) -> None:
    """One worker's process. A session of its own keeps the terminal's Ctrl-C away: the supervisor tells what to do."""
    os.setsid()
    # The store that a worker starts outlives it, and would keep them open.
    os.set_inheritable(supervisor.fileno(), False)
    listening.set_inheritable(False)
    telemetry.configure(settings.log_level)

    def until_supervisor_ends() -> None:
        try:
            supervisor.recv()
        except (EOFError, OSError):
            os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=until_supervisor_ends, daemon=True, name="supervisor").start()
    work: Coroutine[Any, Any, None] = serve(settings, supervisor.send, listening)
    try:
        run(work)
    except (StartError, SettingsError) as error:
        print(f"turnwire: {error}", file=sys.stderr)
        sys.exit(1)
