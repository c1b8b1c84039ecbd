"""The nodes of a run, each a process of its own, and what can befall one: killed, stopped, cut off, started again.

A node that ends by itself is a fault, whatever ended it; it is started again all the same, so that the run goes on.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, Self

from tests.support.processes import NodeProcess
from tests.support.tcp_proxy import TcpProxy

STARTS_MAX: Final = 20
"""A node that meets no store when it starts says so and ends; whoever supervises it tries again."""
START_AGAIN_S: Final = 0.3


class Slot:
    """One node's place: its name, settings and folder stay when its process does not. `proxy`: its way to the store."""

    def __init__(self, name: str, folder: Path, environment: Mapping[str, str], proxy: TcpProxy | None) -> None:
        self.name = name
        self.folder = folder
        self.environment = environment
        self.proxy = proxy
        self.state: Literal["up", "stopped", "down"] = "down"
        self.process: NodeProcess | None = None

    @property
    def url(self) -> str:
        assert self.process is not None
        return self.process.url


class Fleet:
    """Use as an async context manager. `on_crash` gets the name of a node that ended by itself, and its last words."""

    def __init__(self, slots: list[Slot], drawn: random.Random, on_crash: Callable[[str, str], None]) -> None:
        self.slots = slots
        self._drawn = drawn
        self._on_crash = on_crash
        self._tasks: set[asyncio.Task[None]] = set()
        self._stack = AsyncExitStack()
        self.starts = 0
        self.spared: Slot | None = None
        """For now nothing may befall this one: it lives for as long as a promise takes."""

    def named(self, name: str) -> Slot:
        return next(slot for slot in self.slots if slot.name == name)

    @property
    def up(self) -> list[Slot]:
        return [slot for slot in self.slots if slot.state == "up"]

    def any_slot(self) -> Slot:
        """A node that serves, as a load balancer would find one; while there is none, whichever was last."""
        return self._drawn.choice(self.up or [slot for slot in self.slots if slot.process is not None])

    def can_spare(self, slot: Slot) -> bool:
        """Whether it serves and another one does too: what is promised is promised while one node lives."""
        return slot.state == "up" and len(self.up) > 1 and slot is not self.spared

    # --- what befalls a node ----------------------------------------------------------------------------------------

    def kill(self, slot: Slot) -> None:
        """SIGKILL, now; it is started again."""
        assert slot.process is not None
        slot.process.process.kill()
        slot.state = "down"

    def stop(self, slot: Slot, for_ms: int) -> None:
        """SIGSTOP, now, and SIGCONT later."""
        assert slot.process is not None
        process = slot.process
        process.pause()
        slot.state = "stopped"

        async def go_on() -> None:
            await asyncio.sleep(for_ms / 1000)
            process.resume()
            slot.state = "up"

        self._spawn(go_on())

    async def restart(self, slot: Slot) -> None:
        """SIGTERM, in order, and a new process when the old one has ended."""
        assert slot.process is not None
        slot.state = "down"
        code = await slot.process.stop()
        if code != 0:
            self._on_crash(slot.name, f"ended with {code} when it was told to stop:\n{_last_words(slot)}")

    # --- life -------------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        await asyncio.gather(*(self._start(slot) for slot in self.slots))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for slot in self.slots:
            if slot.process is not None and slot.process.process.returncode is None:
                slot.process.resume()
                await slot.process.kill()

    async def _start(self, slot: Slot) -> None:
        for left in reversed(range(STARTS_MAX)):
            try:
                slot.process = await NodeProcess.start(slot.folder, slot.environment)
            except AssertionError as error:
                if not left:
                    self._on_crash(slot.name, f"did not start: {error}")
                    return
                await asyncio.sleep(START_AGAIN_S)
            else:
                break
        slot.state = "up"
        self.starts += 1
        self._spawn(self._watch(slot))

    async def _watch(self, slot: Slot) -> None:
        """A process that ends is followed by another."""
        assert slot.process is not None
        code = await slot.process.process.wait()
        if slot.state != "down":
            slot.state = "down"
            self._on_crash(slot.name, f"ended by itself with {code}:\n{_last_words(slot)}")
        await self._start(slot)

    def _spawn(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _last_words(slot: Slot) -> str:
    assert slot.process is not None
    return "\n".join(slot.process.output.read_text(errors="replace").splitlines()[-15:])
