"""`python -m tests.support.observed REPORT serve …` is `turnwire serve …` with a heartbeat in its event loop.

The server is the one that people run; nothing in it knows that it is watched. The heartbeat wants to run every few
milliseconds. When it comes late, something held the loop up, or the machine had no processor for this process: the
kernel says for how long the thread stood ready and waited for one (`/proc/…/schedstat`), and that time is taken off.
What is left is a stall of the server's own, whether it computed or blocked. It counts whole rounds of the loop, so
many callbacks of one round count together.

Linux alone has that file; elsewhere nothing is taken off.
"""

import asyncio
import json
import sys
import threading
import time
from collections.abc import Coroutine
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

BEAT_S: Final = 0.005
TOLD_FROM_MS: Final = 15.0
STALLS_MAX: Final = 2_000
WRITE_S: Final = 0.1
TASKS_EVERY_BEATS: Final = 10


@dataclass(slots=True)
class Stall:
    """The loop came `late_ms` after it was due, at `at_s` of time.monotonic(); of that it waited `unscheduled_ms` for a
    processor, and had one for `cpu_ms`."""

    at_s: float
    late_ms: float
    unscheduled_ms: float
    cpu_ms: float

    @property
    def own_ms(self) -> float:
        return self.late_ms - self.unscheduled_ms


@dataclass(slots=True)
class Report:
    """Up to the beat at `at_s`. `stalls` are those that may matter; `tasks` is of a moment ago, `tasks_max` and
    `threads_max` are over the whole life."""

    at_s: float = 0.0
    beats: int = 0
    tasks: int = 0
    tasks_max: int = 0
    threads_max: int = 0
    stalls: list[Stall] = field(default_factory=list[Stall])

    @classmethod
    def read(cls, path: Path) -> "Report":
        told: dict[str, Any] = json.loads(path.read_text())
        stalls = [Stall(**stall) for stall in told.pop("stalls")]
        return cls(**told, stalls=stalls)

    def worst_ms(self, since_s: float) -> float:
        """The longest own stall since then."""
        return max((stall.own_ms for stall in self.stalls if stall.at_s >= since_s), default=0.0)


class Heartbeat:
    """Beats in the running loop, and writes what it saw from a thread of its own."""

    def __init__(self, path: Path) -> None:
        self.report = Report()
        self._path = path
        self._loop = asyncio.get_running_loop()
        self._schedstat = Path(f"/proc/self/task/{threading.get_native_id()}/schedstat")
        self._unscheduled_ms = self._waited_ms()
        self._cpu_s = time.thread_time()
        self._due_s = self._loop.time() + BEAT_S
        self._loop.call_at(self._due_s, self._beat)
        self._ended = threading.Event()
        self._writing = threading.Thread(target=self._write_forever, daemon=True)
        self._writing.start()

    def end(self) -> None:
        self._ended.set()
        self._writing.join()

    def _beat(self) -> None:
        late_ms = 1_000 * (self._loop.time() - self._due_s)
        unscheduled_ms, cpu_s = self._waited_ms(), time.thread_time()
        report = self.report
        report.beats += 1
        report.at_s = time.monotonic()
        if late_ms >= TOLD_FROM_MS and len(report.stalls) < STALLS_MAX:
            waited_ms, had_ms = unscheduled_ms - self._unscheduled_ms, 1_000 * (cpu_s - self._cpu_s)
            report.stalls.append(Stall(report.at_s, late_ms, waited_ms, had_ms))
        if report.beats % TASKS_EVERY_BEATS == 0:
            report.tasks = len(asyncio.all_tasks())
            report.tasks_max = max(report.tasks_max, report.tasks)
            report.threads_max = max(report.threads_max, threading.active_count())
        self._unscheduled_ms, self._cpu_s = unscheduled_ms, cpu_s
        self._due_s = self._loop.time() + BEAT_S
        self._loop.call_at(self._due_s, self._beat)

    def _waited_ms(self) -> float:
        """How long this thread has stood in the run queue, in all (man 5 proc; the second number)."""
        try:
            return int(self._schedstat.read_bytes().split()[1]) / 1e6
        except OSError:
            return 0.0

    def _write_forever(self) -> None:
        last = False
        while not last:
            last = self._ended.wait(WRITE_S)
            beside = self._path.with_suffix(".new")
            beside.write_text(json.dumps(asdict(self.report)))
            beside.replace(self._path)


async def watched(work: Coroutine[Any, Any, None], path: Path) -> None:
    """`work`, with a heartbeat for as long as it takes."""
    heartbeat = Heartbeat(path)
    try:
        await work
    finally:
        heartbeat.end()


def main() -> None:
    from turnwire import app, cli

    path, run = Path(sys.argv.pop(1)), app.run
    app.run = lambda work: run(watched(work, path))
    cli.app()


if __name__ == "__main__":
    main()
