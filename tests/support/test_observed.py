"""The heartbeat sees what holds a loop up, and does not take a busy machine for it."""

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.observed import Report, watched


def computed(for_s: float) -> None:
    until_s = time.thread_time() + for_s
    while time.thread_time() < until_s:
        pass


@pytest.mark.parametrize("hold_up", [time.sleep, computed], ids=["blocks", "computes"])
async def test_a_loop_that_is_held_up_is_seen(tmp_path: Path, hold_up: object) -> None:
    assert callable(hold_up)

    async def work() -> None:
        await asyncio.sleep(0.05)
        hold_up(0.12)
        await asyncio.sleep(0.05)

    await watched(work(), tmp_path / "report")
    report = Report.read(tmp_path / "report")
    assert report.beats > 5 and report.tasks_max > 0
    assert 100 < report.worst_ms(0) < 400
    assert report.worst_ms(time.monotonic()) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells how long a thread waited for a processor")
def test_a_machine_without_a_processor_to_spare_is_told_apart(tmp_path: Path) -> None:
    """Many processes on the one processor that this one may use: it waits for tens of milliseconds at a time."""

    async def work() -> None:
        until_s = time.monotonic() + 1.5
        while time.monotonic() < until_s:
            computed(0.002)
            await asyncio.sleep(0)

    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    burners = [subprocess.Popen([sys.executable, "-S", "-E", "-c", "while True: pass"]) for _ in range(12)]
    try:
        asyncio.run(watched(work(), tmp_path / "report"))
    finally:
        os.sched_setaffinity(0, allowed)
        for burner in burners:
            burner.kill()
            burner.wait()
    report = Report.read(tmp_path / "report")
    late_ms = max((stall.late_ms for stall in report.stalls), default=0.0)
    assert late_ms > 15  # or nothing was there to be told apart
    assert report.worst_ms(0) < max(20, late_ms / 2)
