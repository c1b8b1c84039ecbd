"""Break each guard once and see that some test fails; the table goes to docs/reliability.md.

Each mutant runs on a copy of the server's package, which stands before the real one on the import path, so that many
can be tried side by side and the working tree is never touched. Tests that know the file best go first, and the first
one that fails ends a mutant. It has to pass on an unbroken copy, or it has caught nothing. A mutant that makes the
tests hang is caught, too.

    python -m tests.mutants                 all of them
    python -m tests.mutants take_turn hub   those of files whose names hold one of these words; other rows stay
"""

import argparse
import asyncio
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tests.mutants.mutations import Mutant, mutants_of
from tests.support.report import read_table, write_table

ROOT: Final = Path(__file__).parents[2]
PACKAGE: Final = ROOT / "server" / "turnwire"
SCRIPTS: Final = PACKAGE / "stores" / "redis" / "lua"
MODULES: Final = (
    PACKAGE / "core" / "replay.py",
    PACKAGE / "runtime" / "session_hub.py",
    PACKAGE / "runtime" / "writer.py",
    PACKAGE / "runtime" / "reaper.py",
)
HANGS_S: Final = 100
"""How long a test may go on; far longer than any of these takes."""
FIRST: Final = {
    script: file
    for file, scripts in {
        "accept": "accept _turns",
        "append": "append _append seal",
        "at_rest": "delete expire update _forget",
        "cancel": "cancel",
        "credentials": "add end remove",
        "history": "_session",
        "listing": "list _summary",
        "nudges": "look",
        "park": "park respond",
        "quotas": "claim hold settle _quota",
        "reads": "read _views",
        "take": "take renew",
    }.items()
    for script in scripts.split()
}
"""Which file of tests/stores knows a script best, by the first word of its name."""
KNOWING: Final = {
    "session_hub": ("session_hub", "hub_at_rest", "cursors_at_rest", "put_back"),
    "writer": ("journal", "put_back", "backend"),
    "reaper": ("reaper", "backend", "put_back"),
}
"""Which files of tests/runtime know a module best."""


def suites_of(path: Path) -> list[list[str]]:
    """The tests that are asked, one suite after the other, those that are likely to know first."""
    if path.suffix == ".lua":
        words = path.stem.split("_")
        first = FIRST[words[0] or f"_{words[1]}"]
        return [[f"tests/stores/test_{first}.py"], ["tests/stores"], ["tests/runtime"]]
    if path.parent.name == "core":
        return [["tests/core"], ["tests/runtime"]]
    own = [f"tests/runtime/test_{name}.py" for name in KNOWING[path.stem]]
    return [own, ["tests/runtime"], ["tests/end_to_end", "tests/conformance"]]


@dataclass(frozen=True, slots=True)
class Verdict:
    mutant: Mutant
    caught_by: str
    """The test that failed; empty when none did."""


class Bench:
    """A copy of the package for one mutant at a time. `sound` are tests that pass without any."""

    def __init__(self, folder: Path, sound: set[str]) -> None:
        self._folder = folder
        self._sound = sound
        shutil.copytree(PACKAGE, folder / "turnwire", ignore=shutil.ignore_patterns("__pycache__"))

    async def try_out(self, mutant: Mutant) -> Verdict:
        place = self._folder / "turnwire" / mutant.path.relative_to(PACKAGE)
        whole = place.read_text(encoding="utf-8")
        caught_by = ""
        place.write_text(mutant.text, encoding="utf-8")
        for suite in suites_of(mutant.path):
            caught_by = caught_by or await self._run(suite)
        place.write_text(whole, encoding="utf-8")
        if "::" in caught_by and caught_by not in self._sound:
            if await self._run([f"tests/{caught_by}"]):
                raise SystemExit(f"{caught_by} fails without any mutant")
            self._sound.add(caught_by)
        return Verdict(mutant, caught_by)

    async def _run(self, tests: Sequence[str]) -> str:
        command = [sys.executable, "-m", "pytest", "-x", "-q", "--tb=no", "-p", "no:cacheprovider"]
        command += ["--hypothesis-profile=unshrunk", "-o", f"faulthandler_timeout={HANGS_S}"]
        said = self._folder / "said.txt"
        with said.open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                *command,
                *tests,
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(self._folder), "PYTHONDONTWRITEBYTECODE": "1"},
                stdout=output,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            await process.wait()
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # what a test that hung had started
        if process.returncode == 0:
            return ""
        text = said.read_text(encoding="utf-8", errors="replace")
        if failed := re.search(r"^(?:FAILED|ERROR) tests/([^\s\[]+)", text, re.MULTILINE):
            return failed[1]
        return "a test that hangs" if "Timeout (" in text else f"pytest ended with {process.returncode}"


async def run(mutants: Sequence[Mutant], workers: int, on_verdict: Callable[[Verdict], None]) -> None:
    waiting: asyncio.Queue[Mutant] = asyncio.Queue()
    for mutant in mutants:
        waiting.put_nowait(mutant)
    sound: set[str] = set()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with tempfile.TemporaryDirectory() as folder, Progress(*columns) as progress:
        bar = progress.add_task("mutants", total=len(mutants))

        async def work(number: int) -> None:
            bench = Bench(Path(folder) / str(number), sound)
            while not waiting.empty():
                mutant = waiting.get_nowait()
                verdict = await bench.try_out(mutant)
                on_verdict(verdict)
                progress.advance(bar)
                if not verdict.caught_by:
                    progress.console.print(f"NOT CAUGHT {mutant.named}: {mutant.was} -> {mutant.becomes}")

        await asyncio.gather(*(work(number) for number in range(workers)))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("words", nargs="*", help="only files whose names hold one of these")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--list", action="store_true", help="print the mutants and stop")
    given = parser.parse_args()
    files = [path for path in (*sorted(SCRIPTS.glob("*.lua")), *MODULES) if _is_wanted(path, given.words)]
    mutants = [mutant for path in files for mutant in mutants_of(path)]
    if given.list:
        for mutant in mutants:
            print(f"{mutant.named}\t{mutant.was}\t{mutant.becomes}")
        return 0
    began = time.monotonic()
    # Files that are not tried now keep their rows.
    tried = {path.name for path in files}
    kept = [row for row in read_table("mutants") if row[0].partition(":")[0] not in tried]
    verdicts: list[Verdict] = []

    def on_verdict(verdict: Verdict) -> None:
        verdicts.append(verdict)
        rows = [*kept, *(_row_of(verdict) for verdict in verdicts)]
        write_table("mutants", ("where", "condition", "becomes", "caught by"), sorted(rows, key=_by_place))

    asyncio.run(run(mutants, given.workers, on_verdict))
    left = [verdict for verdict in verdicts if not verdict.caught_by]
    print(f"{len(verdicts) - len(left)} of {len(verdicts)} caught in {time.monotonic() - began:.0f} s")
    return 1 if left else 0


def _row_of(verdict: Verdict) -> tuple[str, ...]:
    mutant = verdict.mutant
    return mutant.named, f"`{mutant.was}`", f"`{mutant.becomes}`", verdict.caught_by or "**none**"


def _by_place(row: Sequence[str]) -> tuple[str, int, str]:
    file, _, line = row[0].partition(":")
    return file, int(line), row[2]


def _is_wanted(path: Path, words: Sequence[str]) -> bool:
    return not words or any(word in path.name for word in words)


if __name__ == "__main__":
    sys.exit(main())
