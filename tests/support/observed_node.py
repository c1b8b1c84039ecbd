"""A node with a heartbeat in its loop (observed.py), and what the kernel says of its memory and threads."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.support.observed import Report
from tests.support.processes import NodeProcess, start_python
from tests.support.waiting import until


class ObservedNode(NodeProcess):
    """`turnwire serve`, observed. Coverage does not follow it: a stopwatch is no use where every line is slowed."""

    @classmethod
    async def _begin(
        cls, folder: Path, arguments: Sequence[str], environment: Mapping[str, str] | None, cpu: int | None
    ) -> asyncio.subprocess.Process:
        command = ["-m", "tests.support.observed", str(_report_of(folder)), *arguments]
        return await start_python(command, environment, cpu=cpu, without=("TURNWIRE_", "OPENAI_", "COVERAGE_"))

    async def report(self) -> Report:
        """What the heartbeat saw up to now."""
        now_s = time.monotonic()
        await until(lambda: self._told().at_s > now_s)
        return self._told()

    async def tasks_are(self, most: int) -> None:
        """Return when there are no more than so many tasks. Fails after a while."""
        await until(lambda: self._told().tasks <= most)

    def _told(self) -> Report:
        path = _report_of(self.folder)
        return Report.read(path) if path.exists() else Report()

    def memory_mb(self) -> float:
        """Resident memory."""
        return self._kilobytes("VmRSS") / 1024

    def memory_peak_mb(self) -> float:
        """The most that was resident since `forget_memory_peak`."""
        return self._kilobytes("VmHWM") / 1024

    def forget_memory_peak(self) -> None:
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    def threads(self) -> int:
        return len(list(Path(f"/proc/{self.pid}/task").iterdir()))

    def _kilobytes(self, name: str) -> int:
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def _report_of(folder: Path) -> Path:
    """Beside the folder: the folder itself is the store's, and made by the node."""
    return folder.with_name(f"{folder.name}.heartbeat")
