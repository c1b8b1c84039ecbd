"""Sets a run up, carries it out and takes it down again: processes, proxies, provider, store."""

import random
import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.faults.balances import PLAN, fault_of_balances
from tests.faults.fleet import Fleet, Slot
from tests.faults.oracle import Oracle
from tests.faults.plan import Targets, draw
from tests.faults.provider import CANARY, StoryProvider, Told
from tests.faults.run import Run, Store
from tests.faults.stores import ReplicatedStore, SingleStore
from tests.stores.server import binaries
from tests.support.sentinel_group import SentinelGroup, free_port
from tests.support.tcp_proxy import TcpProxy

NODES: Final = 3
WATCHFUL: Final = {"TURNWIRE_PING_MS": "2000", "TURNWIRE_FRAMES_PER_S": "1000"}
"""Clients notice a connection that stands still within seconds."""

OnProgress = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Outcome:
    """A run that is over."""

    run: Run
    wall_s: float
    starts: int


async def on_one_store(
    seed: str,
    targets: Targets,
    folder: Path,
    *,
    settings: Mapping[str, str],
    fsync: str,
    on_progress: OnProgress = lambda _turns: None,
) -> Outcome:
    """Nodes on a single store, each by a proxy of its own."""
    drawn = random.Random(f"{seed} store")
    async with AsyncExitStack() as stack:
        store = SingleStore(binaries()[0], folder / "store", port=free_port(), fsync=fsync, drawn=drawn)
        store.server.start()
        stack.callback(store.server.stop)
        for _ in range(NODES):
            store.proxies.append(await stack.enter_async_context(TcpProxy(store.server.port)))
        ways = [Way(f"redis://127.0.0.1:{proxy.port}/0", proxy) for proxy in store.proxies]
        return await _carry_out(seed, targets, folder, store, ways, settings, on_progress)


async def on_sentinel(
    seed: str,
    targets: Targets,
    folder: Path,
    *,
    settings: Mapping[str, str],
    on_progress: OnProgress = lambda _turns: None,
) -> Outcome:
    """Nodes on a primary with two replicas, which three Sentinels watch."""
    async with SentinelGroup(binaries()[0], folder / "store") as group:
        store = ReplicatedStore(group, random.Random(f"{seed} store"))
        return await _carry_out(seed, targets, folder, store, [Way(group.url, None)] * NODES, settings, on_progress)


@dataclass(frozen=True, slots=True)
class Way:
    """How a node gets to the store; `proxy`, where it has one of its own."""

    url: str
    proxy: TcpProxy | None


async def _carry_out(
    seed: str,
    targets: Targets,
    folder: Path,
    store: Store,
    ways: Sequence[Way],
    settings: Mapping[str, str],
    on_progress: OnProgress,
) -> Outcome:
    plan = draw(seed, targets, NODES)
    config = folder / "turnwire.toml"
    config.write_text(PLAN)
    oracle = Oracle()
    runs: list[Run] = []

    def on_told(told: Told) -> None:
        runs[0].provider_told(told)

    async with AsyncExitStack() as stack:
        provider = await stack.enter_async_context(StoryProvider.started(on_told))
        slots = [
            Slot(name, folder / name, _node_settings(provider.base_url(name), way.url, config, settings), way.proxy)
            for name, way in ((f"n{number}", way) for number, way in enumerate(ways))
        ]
        drawn = random.Random(f"{seed} fleet")
        fleet = Fleet(slots, drawn, lambda name, words: oracle.fault("node died", f"{name} {words}"))
        await stack.enter_async_context(fleet)
        run = Run(plan, fleet, store, oracle, on_progress)
        runs.append(run)
        began_s = time.monotonic()
        await run.carry_out()
        outcome = Outcome(run, time.monotonic() - began_s, fleet.starts)
        if (wrong := await fault_of_balances(store.client)) is not None:
            oracle.fault("balance", wrong)
    _look_at_output(oracle, slots)
    oracle.judge()
    return outcome


def _node_settings(provider_url: str, store_url: str, config: Path, settings: Mapping[str, str]) -> dict[str, str]:
    return {
        "OPENAI_API_KEY": "test-key-not-a-real-one",
        "OPENAI_BASE_URL": provider_url,
        "TURNWIRE_MODEL": "test-model",
        "TURNWIRE_REDIS_URL": store_url,
        "TURNWIRE_CONFIG": str(config),
        **WATCHFUL,
        **settings,
    }


def _look_at_output(oracle: Oracle, slots: list[Slot]) -> None:
    """Nothing private may stand in what nodes print, and no node may have met a fault of its own."""
    for slot in slots:
        for line in (slot.folder / "output.log").read_text(errors="replace").splitlines():
            if CANARY.search(line):
                oracle.fault("canary in a log", f"{slot.name}: {line[:200]}")
            if re.search(r'"level": "(error|critical)"|Traceback', line):
                oracle.fault("error in a log", f"{slot.name}: {line[:1_000]}")
