"""What Turnwire adds to an answer: `python -m tests.benchmarks.relay`.

A provider process streams tokens at a steady rate, each carrying the CLOCK_MONOTONIC time at which it was written; all
processes share one machine, so received minus written is the added latency, exactly. The server and its store are
processes of their own and are charged for the CPU that they used, by /proc. Clients and provider share the other core:
a run in which they have no time left over measures them and not the server, and says so.

Nothing here asserts a figure: time is only comparable side by side in one run.
"""

import argparse
import asyncio
import math
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import orjson

from tests.support.processes import NodeProcess, ProviderProcess

CLOCK_TICKS_S = os.sysconf("SC_CLK_TCK")
SETTLE_S = 1.0


@dataclass
class Figures:
    """What one load gave. Latencies in ms."""

    chats: int
    sent_to_first: list[float] = field(default_factory=list)
    added_first: list[float] = field(default_factory=list)
    added: list[float] = field(default_factory=list)
    tokens: int = 0
    frames: int = 0
    wall_s: float = 0.0
    node_cpu_s: float = 0.0
    store_cpu_s: float = 0.0
    others_cpu_share: float = 0.0


def cpu_s(pid: int) -> float:
    """User and system time of a process so far, from /proc/PID/stat."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / CLOCK_TICKS_S


def own_cpu_s() -> float:
    times = os.times()
    return times.user + times.system


async def chat(session: aiohttp.ClientSession, url: str, number: int, figures: Figures, ready: asyncio.Barrier) -> None:
    """One client: one turn, every stamp in every delta noted, the whole text checked at the end."""
    async with session.ws_connect(url, protocols=("turnwire.v1.json",), max_msg_size=0) as socket:
        await socket.send_str('{"type":"hello"}')
        await socket.receive()
        await socket.send_str(f'{{"type":"session.open","session":"s_{number}"}}')
        await socket.receive()
        await ready.wait()
        sent_ns = time.monotonic_ns()
        create = {"type": "turn.create", "session": f"s_{number}", "turn": "t_1"}
        await socket.send_str(orjson.dumps({**create, "input": [{"type": "text", "text": "go"}]}).decode())
        text: list[str] = []
        first = True
        while True:
            frame = orjson.loads((await socket.receive_str()).encode())
            kind = frame["type"]
            if kind == "turn.delta":
                received_ns = time.monotonic_ns()
                figures.frames += 1
                text.append(frame["text"])
                for stamp in frame["text"].split():
                    latency_ms = (received_ns - int(stamp)) / 1e6
                    if first:
                        figures.added_first.append(latency_ms)
                        figures.sent_to_first.append((received_ns - sent_ns) / 1e6)
                        first = False
                    else:
                        figures.added.append(latency_ms)
                    figures.tokens += 1
            elif kind in ("turn.done", "turn.error", "error"):
                if kind != "turn.done":
                    raise RuntimeError(f"chat {number} ended with {frame['error']}")
                whole = "".join(text).encode()
                if len(whole) != sum(part["bytes"] for part in frame["parts"]):
                    raise RuntimeError(f"chat {number} lost text")
                return


async def load(chats: int, rate: int, seconds: int) -> Figures:
    """One load on a fresh server."""
    figures = Figures(chats)
    with tempfile.TemporaryDirectory(prefix="tw-bench-") as folder:
        async with (
            ProviderProcess.streaming(rate_per_s=rate, tokens=rate * seconds) as provider,
            NodeProcess.started(
                Path(folder),
                {
                    "OPENAI_API_KEY": "test-key",
                    "OPENAI_BASE_URL": provider.base_url,
                    "TURNWIRE_MODEL": "stamps",
                    "TURNWIRE_LOG_LEVEL": "warning",
                },
                cpu=0,
            ) as node,
        ):
            os.sched_setaffinity(provider.pid, {1})
            os.sched_setaffinity(0, {1})
            connector = aiohttp.TCPConnector(limit=0)
            async with aiohttp.ClientSession(connector=connector) as session:
                ready = asyncio.Barrier(chats + 1)
                clients = [
                    asyncio.create_task(chat(session, node.url, number, figures, ready)) for number in range(chats)
                ]
                await ready.wait()
                began = time.monotonic()
                node_0, store_0, others_0 = cpu_s(node.pid), cpu_s(node.store_pid), own_cpu_s() + cpu_s(provider.pid)
                await asyncio.gather(*clients)
                figures.wall_s = time.monotonic() - began
                figures.node_cpu_s = cpu_s(node.pid) - node_0
                figures.store_cpu_s = cpu_s(node.store_pid) - store_0
                others = own_cpu_s() + cpu_s(provider.pid) - others_0
                figures.others_cpu_share = (others + figures.store_cpu_s) / figures.wall_s
    return figures


def percentile(values: Sequence[float], share: float) -> float:
    """By nearest rank: a value that was measured, never one in between."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def print_table(rows: Sequence[Figures], rate: int) -> None:
    print(f"\n{rate} tokens/s a chat; store on, AOF everysec; latencies in ms, CPU in µs a token")
    print(
        "| chats | tokens | frames | first token added p50 / p99 | send to first p50 / p99 | token added p50 / p99 "
        "| server CPU | store CPU | clients' core busy |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for row in rows:
        busy = f"{row.others_cpu_share:.0%}" + (" (void: saturated)" if row.others_cpu_share > 0.95 else "")
        print(
            f"| {row.chats} | {row.tokens} | {row.frames} "
            f"| {percentile(row.added_first, 0.5):.2f} / {percentile(row.added_first, 0.99):.2f} "
            f"| {percentile(row.sent_to_first, 0.5):.2f} / {percentile(row.sent_to_first, 0.99):.2f} "
            f"| {percentile(row.added, 0.5):.2f} / {percentile(row.added, 0.99):.2f} "
            f"| {row.node_cpu_s / row.tokens * 1e6:.0f} | {row.store_cpu_s / row.tokens * 1e6:.0f} | {busy} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chats", type=int, nargs="+", default=[1, 50, 200])
    parser.add_argument("--rate", type=int, default=50, help="tokens a second and chat")
    parser.add_argument("--seconds", type=int, default=10, help="length of each answer")
    options = parser.parse_args()
    rows: list[Figures] = []
    for chats in options.chats:
        rows.append(asyncio.run(load(chats, options.rate, options.seconds)))
        print(f"{chats} chats: {rows[-1].tokens} tokens in {rows[-1].wall_s:.1f} s", flush=True)
    print_table(rows, options.rate)


if __name__ == "__main__":
    main()
