"""The long runs: `python -m tests.faults [nodes|sentinel|all] [--seed SEED]`; the tables go to docs/reliability.md.

`nodes` kills, stops and cuts nodes on one store that dies too; `sentinel` fails the store over, half of the times with
replication stalled before, so that the newest writes are lost. Both use the settings that a server has by itself. A
seed draws the same plan again; what it meets is the machine's.
"""

import argparse
import asyncio
import platform
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Final

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from tests.faults.campaign import NODES, OnProgress, Outcome, on_one_store, on_sentinel
from tests.faults.figures import rows_of
from tests.faults.plan import Targets
from tests.stores.server import binaries
from tests.support.report import read_table, write_table

TABLE: Final = "faults"
FAULTS_SHOWN: Final = 20

ON_ONE_STORE: Final = Targets(
    turns=2_400,
    kills=310,
    stops=52,
    client_drops=950,
    duplicates=220,
    cuts=55,
    store_strikes=(("restart", 36), ("long restart", 6), ("power cut", 12)),
    talks_at_once=24,
    away_ms=(4_000, 14_000),
)
ON_SENTINEL: Final = Targets(
    turns=900,
    kills=24,
    stops=4,
    client_drops=200,
    duplicates=60,
    store_strikes=(("failover", 10), ("failover with loss", 14)),
    talks_at_once=12,
)


async def run(campaign: str, seed: str, folder: Path, on_progress: OnProgress) -> Outcome:
    if campaign == "nodes":
        return await on_one_store(seed, ON_ONE_STORE, folder, settings={}, fsync="everysec", on_progress=on_progress)
    return await on_sentinel(seed, ON_SENTINEL, folder, settings={}, on_progress=on_progress)


def conditions(seed: str) -> list[tuple[str, str]]:
    store = subprocess.run([str(binaries()[0]), "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"(\w+) server v=(\S+)", store)
    name = f"{found[1]} {found[2]}" if found is not None else store.strip()
    return [
        ("versions", f"Turnwire {version('turnwire')}, {name}, Python {platform.python_version()}"),
        ("settings", f"{NODES} nodes, AOF everysec; the server's own: lease 10 s, renewed every 3 s, sweep every 2 s"),
        ("seed", f"`{seed}`"),
    ]


def report(campaign: str, rows: list[tuple[str, str]]) -> None:
    """One column of the table; the other campaign's stays as it is."""
    names = {"nodes": "nodes on one store", "sentinel": "nodes on Sentinel"}
    place = list(names).index(campaign)
    known = {row[0]: [row[1], row[2]] for row in read_table(TABLE)}
    table = {name: known.get(name, ["", ""]) for name, _ in rows} | known
    for name, value in rows:
        table[name][place] = value
    write_table(TABLE, ["", *names.values()], [(name, *values) for name, values in table.items()])


async def carry_out(campaign: str, seed: str) -> bool:
    """One campaign with its bar. Whether the oracle was content."""
    folder = Path(tempfile.mkdtemp(prefix="tw-faults-"))
    targets = ON_ONE_STORE if campaign == "nodes" else ON_SENTINEL
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    print(f"{campaign}: seed {seed}, what the processes say is in {folder}", flush=True)
    with Progress(*columns, TimeRemainingColumn()) as progress:
        bar = progress.add_task(f"turns of {campaign}", total=targets.turns)
        outcome = await run(campaign, seed, folder, on_progress=lambda turns: progress.update(bar, completed=turns))
    faults = outcome.run.oracle.faults
    report(campaign, rows_of(outcome, conditions(seed)))
    for fault in faults[:FAULTS_SHOWN]:
        print(f"  {fault.kind}: {fault.what}")
    if not faults:
        shutil.rmtree(folder)
    print(
        f"{campaign}: {len(faults)} faults in {outcome.run.counts['turns']} turns, {outcome.wall_s:.0f} s", flush=True
    )
    return not faults


def main() -> None:
    parser = argparse.ArgumentParser(description="Kills everything that can die, and watches what clients see.")
    parser.add_argument("campaign", nargs="?", choices=("nodes", "sentinel", "all"), default="all")
    parser.add_argument("--seed", default=secrets.token_hex(4), help="letters and digits; draws the same plan again")
    options = parser.parse_args()
    campaigns = ("nodes", "sentinel") if options.campaign == "all" else (options.campaign,)
    runner: Callable[..., object] = asyncio.run
    try:
        import uvloop
    except ImportError:  # Windows has none.
        pass
    else:
        runner = uvloop.run
    content = [runner(carry_out(campaign, options.seed)) for campaign in campaigns]
    sys.exit(0 if all(content) else 1)


if __name__ == "__main__":
    main()
