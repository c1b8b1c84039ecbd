"""The model's service of a run, as a process of its own: what it answers is known, and it tells how far it is.

A prompt says what the answer is to be like (`Ask`). Each request is answered with another text, made from the canary of
its session and the number of the request, so that a text which was put together from two requests equals neither. How
far a request has come is told on standard output, a JSON object a line, the moment it is so: that is when a fault
strikes. A node asks below a path of its own (`/NAME/v1`), so it is known who asks.
"""

import asyncio
import hashlib
import json
import random
import re
import signal
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from typing import Final, Literal, Self

from tests.support.processes import STOP_S, read_until, start_python
from tests.support.provider_server import Answer, Pause, Piece, ProviderServer, Received, Reply, chunk, sse

Phase = Literal["asked", "content", "mid", "last", "answered", "closed"]
"""A request came · its first delta was written · some were · all were, but not the end · the end was · it was left."""

CANARY: Final = re.compile(r"cnry[0-9a-f]{16}")
WORDS: Final = ("Zürich", "naïve", "日本", "🧵🪡", "plain", "…", "e\u0301", "\u202eabc\u202c", "line\nbreak", '"q" \\')


@dataclass(frozen=True, slots=True)
class Ask:
    """What a prompt asks for. Pauses in ms: before the first delta, between deltas, between the last and the end."""

    canary: str
    turn: str
    deltas: int
    first_ms: int
    gap_ms: int
    hold_ms: int

    def prompt(self) -> str:
        return " ".join(f"{name}={value}" for name, value in asdict(self).items())

    @classmethod
    def of_prompt(cls, prompt: str) -> Self:
        canary, turn, *numbers = (pair.partition("=")[2] for pair in prompt.split(" "))
        return cls(canary, turn, *map(int, numbers))


@dataclass(frozen=True, slots=True)
class Told:
    """How far a request has come. `sha256` is of the `sent` deltas so far; `foreign` lists canaries of other sessions
    that stood in the request. Times are time.monotonic_ns(), which all processes of a machine share."""

    phase: Phase
    request: int
    node: str
    turn: str
    canary: str
    at_ns: int
    sent: int
    sha256: str
    foreign: str = ""


def deltas_of(ask: Ask, request: int) -> list[str]:
    """The answer to a request, in pieces of which no two are alike."""
    drawn = random.Random(f"{ask.canary} {request}")
    return [f"{ask.canary}:{request}:{number} {drawn.choice(WORDS)} " for number in range(ask.deltas)]


class Story:
    """One answer while it is told."""

    def __init__(self, received: Received, request: int) -> None:
        self._request = request
        self._node = received.path.split("/")[1]
        messages = received.body["messages"]
        self._ask = Ask.of_prompt(messages[-1]["content"])
        self._foreign = " ".join(sorted(set(CANARY.findall(received.raw_body.decode())) - {self._ask.canary}))
        self._sent = 0
        self._hash = hashlib.sha256()
        self._over = False
        self._watching = asyncio.create_task(self._watch(received), name=f"request {request}")

    def pieces(self) -> Iterator[Piece]:
        ask = self._ask
        self._tell("asked")
        yield Pause(ask.first_ms)
        for delta in deltas_of(ask, self._request):
            yield sse(chunk(delta))
            self._hash.update(delta.encode())
            self._sent += 1
            if self._sent == 1:
                self._tell("content")
            if self._sent == max(2, ask.deltas // 2):
                self._tell("mid")
            yield Pause(ask.gap_ms)
        self._tell("last")
        yield Pause(ask.hold_ms)
        yield sse(chunk(finish_reason="stop"))
        yield sse({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": ask.deltas}})
        yield sse("[DONE]")
        self._over = True
        self._tell("answered")

    async def _watch(self, received: Received) -> None:
        await received.closed.wait()
        if not self._over:
            self._over = True
            self._tell("closed", received.closed_ns)

    def _tell(self, phase: Phase, at_ns: int | None = None) -> None:
        told = Told(
            phase,
            self._request,
            self._node,
            self._ask.turn,
            self._ask.canary,
            time.monotonic_ns() if at_ns is None else at_ns,
            self._sent,
            self._hash.hexdigest(),
            self._foreign,
        )
        print(json.dumps(asdict(told)), flush=True)


async def _serve() -> None:
    stories: list[Story] = []

    def answer(received: Received) -> Answer:
        stories.append(Story(received, len(stories)))
        return Reply(pieces=stories[-1].pieces())

    async with ProviderServer(answer) as server:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        print(server.base_url.removesuffix("/v1"), flush=True)
        await stop.wait()


class StoryProvider:
    """That process, seen from the harness: `on_told` is called with all that it tells, as it comes."""

    def __init__(self, process: asyncio.subprocess.Process, address: str, on_told: Callable[[Told], None]) -> None:
        self.process = process
        self._address = address
        self._on_told = on_told

    def base_url(self, node: str) -> str:
        """Where the node of that name asks."""
        return f"{self._address}/{node}/v1"

    @classmethod
    @asynccontextmanager
    async def started(cls, on_told: Callable[[Told], None]) -> AsyncGenerator[Self]:
        process = await start_python(["-m", "tests.faults.provider"], None)
        provider = cls(process, (await read_until(process, "http")).strip(), on_told)
        listening = asyncio.create_task(provider._listen(), name="provider")
        try:
            yield provider
        finally:
            process.terminate()
            await asyncio.wait_for(process.wait(), STOP_S)
            await listening

    async def _listen(self) -> None:
        assert self.process.stdout is not None
        while line := await self.process.stdout.readline():
            self._on_told(Told(**json.loads(line)))


if __name__ == "__main__":
    asyncio.run(_serve())
