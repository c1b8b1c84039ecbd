"""Two nodes on one store, for tests that break one thing at a time: processes, sockets and a provider that obeys.

Each node has a proxy of its own to the store, which tells the node's connections apart by their purpose.
"""

import re
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.stores.server import StoreServer, binaries
from tests.support.processes import NodeProcess
from tests.support.provider_server import Answer, Piece, ProviderServer, Received, Reply, chunk, sse
from tests.support.sentinel_group import free_port
from tests.support.tcp_proxy import TcpProxy

PURPOSE: Final = re.compile(rb"turnwire-(\w+)")
SETTINGS: Final = {
    "TURNWIRE_LEASE_MS": "2000",
    "TURNWIRE_RENEW_MS": "600",
    "TURNWIRE_SWEEP_MS": "300",
    "TURNWIRE_FRAMES_PER_S": "1000",
}


@dataclass
class Pair:
    """`nodes` and `proxies` by place; `settings` are the nodes', for one that is started again."""

    store: StoreServer
    provider: ProviderServer
    nodes: list[NodeProcess]
    proxies: list[TcpProxy]
    folder: Path
    settings: list[dict[str, str]]

    async def start_again(self, place: int) -> NodeProcess:
        """Another process in the place of one that ended."""
        self.nodes[place] = await NodeProcess.start(self.folder / f"n{place}", self.settings[place])
        return self.nodes[place]


def purpose_of(head: bytes) -> str | None:
    """`appends`, `calls`, `reads`, `nudges`, …: a node says it in its first command."""
    found = PURPOSE.search(head)
    return None if found is None else found[1].decode()


@asynccontextmanager
async def pair_of_nodes(
    folder: Path, answer: Callable[[Received], Answer], settings: dict[str, str] | None = None
) -> AsyncGenerator[Pair]:
    async with AsyncExitStack() as stack:
        (folder / "store").mkdir()
        store = StoreServer(binaries()[0], folder / "store", port=free_port())
        store.start()
        stack.callback(store.stop)
        provider = await stack.enter_async_context(ProviderServer(answer))
        pair = Pair(store, provider, [], [], folder, [])
        for place in range(2):
            proxy = await stack.enter_async_context(TcpProxy(store.port, purpose_of))
            environment = {
                "OPENAI_API_KEY": "test-key-not-a-real-one",
                "OPENAI_BASE_URL": provider.base_url,
                "TURNWIRE_MODEL": "test-model",
                "TURNWIRE_REDIS_URL": f"redis://127.0.0.1:{proxy.port}/0",
                **SETTINGS,
                **(settings or {}),
            }
            pair.proxies.append(proxy)
            pair.settings.append(environment)
            pair.nodes.append(await NodeProcess.start(folder / f"n{place}", environment))
        try:
            yield pair
        finally:
            for node in pair.nodes:
                if node.process.returncode is None:
                    node.resume()
                    await node.kill()


def prompt_of(request: Received) -> str:
    return str(request.body["messages"][-1]["content"])


def told(*deltas: str | Piece, end: bool = True) -> Reply:
    """An answer of these deltas, with gates and pauses between them; without `end` it stays open."""
    pieces: list[Piece] = [sse(chunk(delta)) if isinstance(delta, str) else delta for delta in deltas]
    return Reply([*pieces, *_end()]) if end else Reply(pieces, ending="stall")


def _end() -> Iterable[Piece]:
    yield sse(chunk(finish_reason="stop"))
    yield sse("[DONE]")
