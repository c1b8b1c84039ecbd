"""The composition root: the only place that knows which adapter stands behind which port.

`serve` builds one node from its settings and runs it until it is told to stop. What a node does in the background is
supervised: a task that ends by itself stops the node with its reason, because a node that no longer renews its leases
or reads its nudges looks healthy and is not.
"""

import asyncio
import gc
import os
import secrets
import signal
import socket
import sys
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from importlib import metadata
from typing import Any, Final

import structlog
import uvicorn
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute

from turnwire.core.connection import Greeting
from turnwire.entrance import Entrance, door_of, open_entrance
from turnwire.guard import load_guard
from turnwire.identity.origins import OriginPolicy
from turnwire.models import Record, open_models
from turnwire.ports import Clock, Failure, InputGuard, Model, QuotaStore, SessionKey, SessionLog, TurnKey
from turnwire.runtime.backend import Backend
from turnwire.runtime.connection_driver import ConnectionDriver, DriverLimits
from turnwire.runtime.drain import drain
from turnwire.runtime.input_check import InputCheck
from turnwire.runtime.journal import Journal
from turnwire.runtime.quotas import Quotas
from turnwire.runtime.reaper import Reaper
from turnwire.runtime.revocation import close_revoked
from turnwire.runtime.running_turns import RunningTurns
from turnwire.runtime.sender import Socket
from turnwire.runtime.session_hub import SessionHub
from turnwire.runtime.turn_requests import TurnRequests
from turnwire.settings import Settings
from turnwire.storage import StartError, Store, open_store
from turnwire.transports.http_api import HttpApi
from turnwire.transports.pages import Readiness, page_routes
from turnwire.transports.token_api import TokenApi
from turnwire.transports.uvicorn_http import TurnwireConfig
from turnwire.transports.uvicorn_protocol import TurnwireProtocol
from turnwire.transports.websocket import WebSocketEndpoint
from turnwire_protocol.codec import Codec
from turnwire_protocol.values import Limits

if sys.platform != "win32":
    import resource

PING_S: Final = 20
PONG_S: Final = 20
TRANSPORT_FRAME_BYTES_FACTOR: Final = 2
"""The transport takes more than the protocol does, so that a frame that is a little too large gets a clear answer."""

HISTORY_TURNS: Final = 50
CHECK_MS: Final = 3_000
BACKLOG: Final = 2_048
ACCEPTS_AT_ONCE: Final = 32
"""uvloop takes one new connection a round from a listening socket. A herd would wait in the kernel then, longer than
clients do, before the door could tell anybody when to come back: so the socket is listened to so many times over."""
GARBAGE_THRESHOLDS: Final = (10_000, 10, 10)
"""Python's own are (700, 10, 10). With them a herd of clients has all objects of the process looked through every other
second, which takes most of the time that there is, and each time holds up every answer."""
FILES_BESIDE: Final = 1_000
"""Open files that are no client's: upstream connections, the store, libraries."""


_log = structlog.get_logger(__name__)


class SystemClock:
    """ports.Clock."""

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic_ms(self) -> int:
        return time.monotonic_ns() // 1_000_000


class Node:
    """One server process, put together. `tasks` are to be run for as long as the node serves."""

    def __init__(
        self,
        settings: Settings,
        log: SessionLog,
        quotas: QuotaStore,
        models: Mapping[str, Model],
        clock: Clock,
        entrance: Entrance | None = None,
        guard: InputGuard | None = None,
    ) -> None:
        self._settings = settings
        self._entrance = entrance = entrance or Entrance()
        self._log = log
        self._clock = clock
        self._models = models
        self.quotas = Quotas(quotas, settings.plans_of(asks=entrance.asks))
        self.journal = Journal(log, self._feed, self._look_at, clock, grace_ms=settings.store_grace_ms)
        self.running = RunningTurns(
            log,
            self.journal,
            models,
            self.quotas,
            clock,
            renew_ms=settings.renew_ms,
            input_wait_ms=settings.input_wait_ms,
        )
        self.reaper = Reaper(log, self.running, clock, sweep_ms=settings.sweep_ms, lease_ms=settings.lease_ms)
        self.hub = SessionHub(
            log,
            check_ms=CHECK_MS,
            on_overdue=self.reaper.look_at_quietly,
            on_cancel=self.running.cancel,
            on_reset=self.running.look_now,
            on_deleted=self.journal.forget_session,
            writes=self.running.writes,
        )
        self.backend = Backend(
            log,
            self.hub,
            self.running,
            self.quotas,
            TurnRequests(log, models, default_model=next(iter(models)), input_bytes_max=settings.input_bytes_max),
            None if guard is None else _check_of(settings, guard),
        )
        self.greeting = Greeting(
            models=list(models),
            limits=Limits(
                frame_bytes_max=settings.command_bytes_max,
                input_bytes_max=settings.input_bytes_max,
                frames_per_s=settings.frames_per_s,
                bytes_per_s=settings.bytes_per_s,
                sessions_open_max=settings.sessions_open_max,
                turns_running_max=settings.turns_running_max,
                history_turns_max=HISTORY_TURNS,
            ),
            ping_ms=settings.ping_ms,
            terminal_within_ms=settings.lease_ms + 2 * settings.sweep_ms + 1_000,
            hello_ms=settings.hello_ms,
        )
        self.origins = OriginPolicy(frozenset(settings.allowed_origins))
        self.door = door_of(settings)
        self.endpoint = WebSocketEndpoint(self._make_driver, self.origins.permits, self.door.wait_for_turn)
        self.api = HttpApi(
            self.backend,
            entrance.authenticator,
            self.origins.permits if entrance.asks else self.origins.permits_without_token,
            TokenApi(entrance.authenticator, entrance.mint).routes() if entrance.mint is not None else (),
        )

    def tasks(self) -> dict[str, Coroutine[Any, Any, None]]:
        return {
            "journal": self.journal.run(),
            "leases": self.running.renew_forever(),
            "nudges": self.hub.follow_nudges(),
            "check": self.hub.check_forever(),
            "reaper": self.reaper.run(),
            "door": self.door.sweep_forever(),
            "quotas": self.quotas.keep_forever(),
            "revocation": close_revoked(self._entrance.authenticator, self.endpoint.connections),
        }

    async def ready(self) -> Readiness:
        """Whether this node should get new clients."""
        reason = None
        if self.backend.draining:
            reason = "draining"
        else:
            try:
                await self._log.ping()
            except Failure:
                reason = "the store does not answer"
        return Readiness(reason, self._log.unreplicated)

    def application(self) -> Starlette:
        return Starlette(routes=[WebSocketRoute("/v1/ws", self.endpoint), self.api.mount(), *page_routes(self.ready)])

    def _feed(self, key: SessionKey, gen: str, logged: Any) -> None:
        self.hub.feed(key, gen, logged)

    async def _look_at(self, key: TurnKey) -> None:
        await self.reaper.look_at_quietly(key)

    def _make_driver(self, connection: Socket, codec: Codec, token: str | None, address: str) -> ConnectionDriver:
        return ConnectionDriver(
            f"c_{secrets.token_urlsafe(9)}",
            connection,
            codec,
            backend=self.backend,
            hub=self.hub,
            authenticator=self._entrance.authenticator,
            quotas=self.quotas,
            greeting=self.greeting,
            clock=self._clock,
            limits=DriverLimits(
                command_bytes_max=self._settings.command_bytes_max,
                send_timeout_ms=self._settings.send_timeout_ms,
                history=HISTORY_TURNS,
            ),
            token=token,
            address=address,
        )


def _check_of(settings: Settings, guard: InputGuard) -> InputCheck:
    return InputCheck(guard, deadline_ms=settings.input_guard_ms, fails=settings.input_guard_fails)


class _Server(uvicorn.Server):
    """uvicorn without its own signal handlers: it would close every socket before the turns could end."""

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


def run(work: Coroutine[Any, Any, None]) -> None:
    """Run to the end, on uvloop where there is one."""
    try:
        import uvloop
    except ImportError:
        asyncio.run(work)
    else:
        uvloop.run(work)


async def serve(
    settings: Settings,
    announce: Callable[[str], None],
    listening: socket.socket | None = None,
    *,
    record: Record | None = None,
) -> None:
    """Run a node until it is told to stop. `announce` gets the banner; `listening` is `listen`'s, for several nodes on
    one port; `record` says where to write down every exchange with a model. Raises StartError, SettingsError.

    SIGTERM and Ctrl-C drain; a second one ends at once.
    """
    async with AsyncExitStack() as stack:
        if listening is None:
            listening = listen(settings)
        stack.callback(listening.close)
        _allow_files(settings.connections_max + FILES_BESIDE)
        guard = load_guard(settings)
        store = await stack.enter_async_context(open_store(settings))
        models = await stack.enter_async_context(open_models(settings, record))
        try:
            entrance = await stack.enter_async_context(open_entrance(settings, store.credentials))
        except Failure as failure:
            raise StartError(f"The keys could not be read from the store: {failure.kind}.") from failure
        node = Node(settings, store.log, store.quotas, models, SystemClock(), entrance, guard)
        server = _Server(
            TurnwireConfig(
                node.application(),
                door=node.door,
                ws=TurnwireProtocol,
                ws_max_size=TRANSPORT_FRAME_BYTES_FACTOR * settings.command_bytes_max,
                ws_per_message_deflate=False,
                ws_ping_interval=PING_S,
                ws_ping_timeout=PONG_S,
                backlog=BACKLOG,
            )
        )
        stopping = _stop_on_signals(stack)
        background = await stack.enter_async_context(_background(node))
        listening.setblocking(False)  # or each copy would make it block, for other workers too
        listening_ones = [listening, *(listening.dup() for _ in range(ACCEPTS_AT_ONCE - 1))]
        serving = asyncio.create_task(server.serve(sockets=listening_ones), name="uvicorn")
        await _until_started(server, serving)
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GARBAGE_THRESHOLDS)
        announce(_banner(settings, store, entrance, models, listening, record))
        await asyncio.wait((serving, stopping, background), return_when=asyncio.FIRST_COMPLETED)
        if not serving.done() and not background.done():
            await drain(node.backend, node.running, node.endpoint.connections, drain_ms=settings.drain_ms)
        server.should_exit = True
        await serving
        if background.done():
            raise StartError(f"The node stopped, because {background.result()}.")


def _allow_files(wanted: int) -> None:
    """Let this process have as many open files as it may have connections, as far as it may raise that itself."""
    if sys.platform == "win32":
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if resource.RLIM_INFINITY != soft < most:
        with suppress(OSError, ValueError):  # some systems have a bound of their own below what they call unlimited
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    if most < wanted:
        _log.warning("few_files", connections=most - FILES_BESIDE, setting="connections_max")


def listen(settings: Settings) -> socket.socket:
    """The listening socket, bound before anything else is started, so that a busy port costs nothing."""
    try:
        return socket.create_server((settings.host, settings.port), backlog=BACKLOG, reuse_port=False)
    except OSError as error:
        raise StartError(
            f"Cannot listen on {settings.host}:{settings.port}: {error.strerror or error}. "
            "Choose another with --port or TURNWIRE_PORT."
        ) from error


@asynccontextmanager
async def _background(node: Node) -> AsyncGenerator[asyncio.Future[str]]:
    """Run the node's tasks. The future resolves, with the reason, when one of them ends by itself."""
    ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def on_done(task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            _log.error("background_task_failed", task=task.get_name(), kind=type(error).__name__, exc_info=error)
        if not ended.done() and not task.cancelled():
            ended.set_result(f"its {task.get_name()} task failed")

    tasks = [asyncio.create_task(work, name=name) for name, work in node.tasks().items()]
    for task in tasks:
        task.add_done_callback(on_done)
    try:
        yield ended
    finally:
        await node.running.abandon()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _stop_on_signals(stack: AsyncExitStack) -> asyncio.Future[None]:
    """Resolves at the first SIGTERM or Ctrl-C. The second ends the process: whoever sends it will not wait."""
    loop = asyncio.get_running_loop()
    stopping: asyncio.Future[None] = loop.create_future()

    def on_signal() -> None:
        if stopping.done():
            os._exit(1)
        stopping.set_result(None)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
        stack.callback(loop.remove_signal_handler, number)
    return stopping


async def _until_started(server: uvicorn.Server, serving: asyncio.Task[None]) -> None:
    """uvicorn has no event for this; it takes a few ms."""
    while not server.started:
        if serving.done():
            serving.result()
            raise StartError("The HTTP server ended while it started; its log says why.")
        await asyncio.sleep(0.005)


# --- what is said -------------------------------------------------------------------------------------------------


def _banner(
    settings: Settings,
    store: Store,
    entrance: Entrance,
    models: Mapping[str, Model],
    listening: socket.socket,
    record: Record | None,
) -> str:
    """What a person needs to know at the start; the last line says that the node is ready, and where."""
    port: int = listening.getsockname()[1]
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    default = next(iter(models.values()))
    table = settings.models[default.name]
    others = f" (and {len(models) - 1} more)" if len(models) > 1 else ""
    where = "no model is asked" if table.provider == "demo" else table.base_url
    if table.recorded is not None:
        where = f"out of {table.recorded.folder}"
    rows = {
        "store": store.described,
        "model": f"{default.name}{others}, {where}",
        "auth": entrance.described,
        "socket": f"ws://{host}:{port}/v1/ws",
    }
    if settings.workers > 1:
        rows["workers"] = f"{settings.workers} processes"
    if settings.input_guard is not None:
        rows["guard"] = f"{settings.input_guard}, fails {settings.input_guard_fails}"
    if record is not None:
        rows["records"] = f"every exchange with a model, in {record.folder}"
    lines = [f"  {name:<7} {text}" for name, text in rows.items()]
    version = metadata.version("turnwire")
    return "\n".join([f"Turnwire {version}", *lines, f"Ready: open http://{host}:{port}"])
