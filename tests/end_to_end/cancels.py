"""Thousands of cancels at random moments, in every phase of a request: what is left of them, and how soon the service
saw its connection close.

`python -m tests.end_to_end.cancels --cancels 10000` runs it and prints a table. The tests run a part of it, and
`make prove` all, which writes the table into docs/upstream.md. A node without its sockets runs in this process, on a
real store, so that its tasks and its places can be counted; the service is real HTTP, in this process too.
"""

import argparse
import asyncio
import random
import secrets
import socket
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.benchmarks.relay import percentile
from tests.stores.making import caller, quotas_beside
from tests.support.provider_server import Answer, Gate, Piece, ProviderServer, Received, Reply, Stamped
from tests.support.waiting import until
from turnwire.app import Node, SystemClock
from turnwire.models import open_models
from turnwire.ports import Model, TurnKey
from turnwire.settings import ModelSettings, Settings
from turnwire.stores.redis.embedded import start_embedded
from turnwire.stores.redis.link import Link
from turnwire.stores.redis.log import RedisSessionLog
from turnwire_protocol.commands import TurnCancel, TurnCreate

AT_ONCE: Final = 8
DELAY_MS_MAX: Final = 40
RESOLVING_S: Final = 0.3
SLOW_HOST: Final = "slow.invalid"
NEVER: Final = asyncio.Event()

HEAD: Final = (
    "cancelled while",
    "cancels",
    "cancel to close p50 (ms)",
    "p99 (ms)",
    "cancel to terminal p50 (ms)",
    "p99 (ms)",
)
PHASES: Final = ("resolving", "connecting", "waiting for headers", "before content", "mid-stream", "in back-off")


def reply_of(phase: str) -> Answer:
    before: list[Piece] = [b": hello\n\n", Gate(NEVER)]
    replies: dict[str, Answer] = {
        "waiting for headers": Reply(headers_after=Gate(NEVER)),
        "before content": Reply(before),
        "mid-stream": Stamped(tokens=100_000, rate_per_s=200),
        # Longer than this run: what went on sleeping would be found.
        "in back-off": Reply.of_status(429, retry_after="600"),
    }
    return replies[phase]


def answer(request: Received) -> Answer:
    return reply_of(str(request.body["model"]))


@dataclass(slots=True)
class Figures:
    """What was measured. `left` counts what should be gone, by name."""

    cancelled: Counter[str] = field(default_factory=Counter[str])
    closed_ms: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """From the cancel to the moment at which the service saw its connection close."""
    ended_ms: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """From the cancel to the terminal in the log."""
    left: dict[str, int] = field(default_factory=dict[str, int])
    not_cancelled: Counter[str] = field(default_factory=Counter[str])
    """Turns that ended in another way, by phase."""

    def rows(self) -> list[tuple[object, ...]]:
        """The table of docs/upstream.md."""
        rows: list[tuple[object, ...]] = []
        for phase in PHASES:
            cells: list[object] = [phase, self.cancelled[phase]]
            for values in (self.closed_ms[phase], self.ended_ms[phase]):
                cells += [f"{percentile(values, part):.1f}" if values else "" for part in (0.5, 0.99)]
            rows.append(tuple(cells))
        return rows


@asynccontextmanager
async def unaccepting() -> AsyncGenerator[str]:
    """The address of a host that answers no connection: its queue, which takes one more than it says, is full."""
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        waiting = [socket.socket() for _ in range(2)]
        for client in waiting:
            client.setblocking(False)
            client.connect_ex(full.getsockname())
        yield f"http://127.0.0.1:{full.getsockname()[1]}/v1"
        for client in waiting:
            client.close()


def resolve_slowly() -> set[object]:
    """Let this loop take its time with SLOW_HOST, and then not know it. What it is at."""
    loop = asyncio.get_running_loop()
    known = loop.getaddrinfo
    resolving: set[object] = set()

    async def getaddrinfo(host: Any, *arguments: Any, **options: Any) -> Any:
        if host != SLOW_HOST:
            return await known(host, *arguments, **options)
        name = object()
        resolving.add(name)
        await asyncio.sleep(RESOLVING_S)
        resolving.discard(name)
        raise socket.gaierror(socket.EAI_NONAME, "unknown")

    loop.getaddrinfo = getaddrinfo
    return resolving


def settings_of(service: str, unaccepting: str) -> Settings:
    addresses = {"resolving": f"http://{SLOW_HOST}/v1", "connecting": unaccepting}
    tables = {
        phase: ModelSettings.model_validate(
            {
                "provider": "openai_chat",
                "model": phase,
                "base_url": addresses.get(phase, service),
                "retries": {"budget_percent": 1_000, "failures_max": 0},
                "deadlines_ms": {"connect_total": 3_600_000, "total": 3_600_000},
            }
        )
        for phase in PHASES
    }
    return Settings(models=tables, log_level="error")


@asynccontextmanager
async def node_of(settings: Settings, models: dict[str, Model], folder: Path) -> AsyncGenerator[Node]:
    embedded = await start_embedded(folder)
    async with RedisSessionLog(Link(embedded.url), node="here") as log, quotas_beside(log) as quotas:
        await quotas.unsettled(1)  # opens the connection that the node would open with its first upkeep
        node = Node(settings, log, quotas, models, SystemClock())
        tasks = [asyncio.create_task(work, name=name) for name, work in node.tasks().items()]
        try:
            yield node
        finally:
            await node.running.abandon()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    await embedded.stop_if_last()


async def run(cancels: int, seed: str) -> Figures:
    figures = Figures()
    drawn = random.Random(seed)
    waiting = [(PHASES[number % len(PHASES)], drawn.uniform(0, DELAY_MS_MAX)) for number in range(cancels)]
    with tempfile.TemporaryDirectory(prefix="tw-cancels-") as folder:
        async with ProviderServer(answer) as service, unaccepting() as address:
            resolving = resolve_slowly()
            settings = settings_of(service.base_url, address)
            async with open_models(settings) as models, node_of(settings, models, Path(folder)) as node:
                for phase in PHASES:  # so that all that begins once has begun
                    await cancel_one(node, service, Figures(), phase, DELAY_MS_MAX)
                await until(lambda: not resolving)
                tasks, descriptors = len(asyncio.all_tasks()), open_descriptors() - 2 * kept_alive(models)

                async def work() -> None:
                    while waiting:
                        await cancel_one(node, service, figures, *waiting.pop())

                # Each worker is a task too, and has gone when this is over.
                await asyncio.gather(*(work() for _ in range(AT_ONCE)))
                await until(lambda: len(asyncio.all_tasks()) <= tasks)
                figures.left = {
                    "turns of the node": len(node.running),
                    "tasks": len(asyncio.all_tasks()) - tasks,
                    "connections in use": service.open_connections - kept_alive(models),
                    "places of the HTTP client": len(connector_of(models)._acquired),
                    # Both ends of a kept connection are in this process.
                    "file descriptors": max(0, open_descriptors() - descriptors - 2 * kept_alive(models)),
                }
    return figures


async def cancel_one(node: Node, service: ProviderServer, figures: Figures, phase: str, delay_ms: float) -> None:
    names = {"session": f"s_{secrets.token_hex(6)}", "turn": "t"}
    key = TurnKey("user", names["session"], names["turn"])
    inputs = [{"type": "text", "text": names["session"]}]
    create = TurnCreate.model_validate({"type": "turn.create", **names, "model": phase, "input": inputs})
    await node.backend.create_turn(caller("user"), create)
    await asyncio.sleep(delay_ms / 1000)
    began_ns = time.monotonic_ns()
    await node.backend.cancel_turn("user", "user", TurnCancel(type="turn.cancel", **names))
    await until(lambda: not node.running.runs(key))
    ended_ns = time.monotonic_ns()
    (stored,) = await node.backend._log.read_branch(key, 1)
    finish = b'"finish_reason":"cancelled"' in getattr(getattr(stored.terminal, "entry", None), "body", b"")
    if not finish:
        figures.not_cancelled[phase] += 1
        return
    figures.cancelled[phase] += 1
    figures.ended_ms[phase].append((ended_ns - began_ns) / 1e6)
    for request in service.take(names["session"]):
        if request.answered:
            continue  # its connection may serve others
        await asyncio.wait_for(request.closed.wait(), 20)
        if request.closed_ns is not None:
            figures.closed_ms[phase].append((request.closed_ns - began_ns) / 1e6)


def connector_of(models: dict[str, Model]) -> Any:
    """What the one HTTP client keeps its connections in: private, and one adapter's only."""
    http: Any = getattr(next(iter(models.values())).provider, "_http")  # noqa: B009
    return http._session.connector


def kept_alive(models: dict[str, Model]) -> int:
    """Connections that wait for the next request, because their answers were read to the end."""
    return sum(map(len, connector_of(models)._conns.values()))


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def all_gone(figures: Figures) -> bool:
    return not any(figures.left.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cancels", type=int, default=10_000)
    parser.add_argument("--seed", default=secrets.token_hex(4))
    chosen = parser.parse_args()
    figures = asyncio.run(run(chosen.cancels, chosen.seed))
    for row in (HEAD, *figures.rows()):
        print(*row, sep=" | ")
    print(f"left: {figures.left}; ended otherwise: {dict(figures.not_cancelled)}; seed {chosen.seed}")
    sys.exit(not all_gone(figures))


if __name__ == "__main__":
    main()
