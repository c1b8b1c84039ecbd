"""How fast Stop is: `python -m tests.benchmarks.cancel`.

From the moment at which the client sends `turn.cancel` to the moment at which the provider sees its socket close, over
real sockets: half of the turns before their first byte, half in the middle of their answer. One client and one turn at
a time, so the figure is latency and not queueing.
"""

import argparse
import asyncio
import tempfile
import time
from pathlib import Path

import aiohttp
import orjson

from tests.benchmarks.relay import percentile
from tests.support.processes import NodeProcess
from tests.support.provider_server import Answer, ProviderServer, Received, Reply, Stamped


def answer_to(request: Received) -> Answer:
    """The prompt says where the cancel will come."""
    before = request.body["messages"][-1]["content"] == "before"
    return Reply(ending="stall") if before else Stamped(tokens=10_000, rate_per_s=50)


async def cancel_one(
    socket: aiohttp.ClientWebSocketResponse, provider: ProviderServer, number: int, when: str
) -> float:
    """Ms from cancel to close."""
    turn = {"session": f"s_{number}", "turn": f"t_{number}"}
    create = {"type": "turn.create", **turn, "input": [{"type": "text", "text": when}]}
    await socket.send_str(orjson.dumps(create).decode())
    request = await provider.request(number)
    if when == "mid":
        while orjson.loads((await socket.receive_str()).encode())["type"] != "turn.delta":
            pass
    sent_ns = time.monotonic_ns()
    await socket.send_str(orjson.dumps({"type": "turn.cancel", **turn}).decode())
    await asyncio.wait_for(request.closed.wait(), 10)
    assert request.closed_ns is not None
    while True:
        frame = orjson.loads((await socket.receive_str()).encode())
        if frame["type"] == "turn.done":
            assert frame["finish_reason"] == "cancelled" and frame["upstream_stopped"], frame
            break
    await socket.send_str(orjson.dumps({"type": "session.close", "session": turn["session"]}).decode())
    return (request.closed_ns - sent_ns) / 1e6


async def run(turns: int) -> None:
    with tempfile.TemporaryDirectory(prefix="tw-bench-") as folder:
        async with ProviderServer(answer_to) as provider:
            environment = {
                "OPENAI_BASE_URL": provider.base_url,
                "TURNWIRE_MODEL": "m",
                "TURNWIRE_LOG_LEVEL": "warning",
            }
            async with (
                NodeProcess.started(Path(folder), environment) as node,
                aiohttp.ClientSession() as session,
                session.ws_connect(node.url, max_msg_size=0) as socket,
            ):
                await socket.send_str('{"type":"hello"}')
                figures: dict[str, list[float]] = {"before": [], "mid": []}
                for number in range(turns):
                    when = "before" if number % 2 == 0 else "mid"
                    figures[when].append(await cancel_one(socket, provider, number, when))
                    await asyncio.sleep(0.02)  # below the connection's limit of commands a second
    print("| cancelled | turns | cancel to close p50 | p99 | max (ms) |\n|---|---|---|---|---|")
    every = figures["before"] + figures["mid"]
    for name, values in (("before the first byte", figures["before"]), ("mid-stream", figures["mid"]), ("all", every)):
        print(
            f"| {name} | {len(values)} | {percentile(values, 0.5):.2f} | {percentile(values, 0.99):.2f} "
            f"| {max(values):.2f} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=200)
    asyncio.run(run(parser.parse_args().turns))


if __name__ == "__main__":
    main()
