"""A short run of each campaign, with short leases.

Every run draws its own plan; the seed that is printed draws it again
(`TURNWIRE_FAULTS_SEED=… pytest tests/faults/test_short_run.py`). The long ones are `python -m tests.faults`.
"""

import os
import secrets
from pathlib import Path

import pytest

from tests.faults.campaign import Outcome, on_one_store, on_sentinel
from tests.faults.plan import MOMENTS, Targets

SETTINGS = {"TURNWIRE_LEASE_MS": "3000", "TURNWIRE_RENEW_MS": "1000", "TURNWIRE_SWEEP_MS": "500"}
STOP_MS = (4_000, 5_000)
SETTLE_MS = 7_000
RUN_S_MAX = 150

ON_ONE_STORE = Targets(
    turns=60,
    kills=8,
    stops=2,
    client_drops=20,
    duplicates=8,
    cuts=5,
    store_strikes=(("restart", 2), ("power cut", 1)),
    stop_ms=STOP_MS,
    settle_ms=SETTLE_MS,
    run_s_max=RUN_S_MAX,
)
ON_SENTINEL = Targets(
    turns=40,
    kills=4,
    client_drops=10,
    duplicates=4,
    store_strikes=(("failover", 1), ("failover with loss", 1)),
    settle_ms=SETTLE_MS,
    run_s_max=RUN_S_MAX,
)


@pytest.fixture
def seed() -> str:
    drawn = os.environ.get("TURNWIRE_FAULTS_SEED") or secrets.token_hex(4)
    print(f"seed {drawn}")
    return drawn


def is_sound(outcome: Outcome) -> None:
    """No fault, and all of the plan was carried out."""
    run = outcome.run
    print(dict(run.counts), dict(run.oracle.outcomes()), [struck.lost for struck in run.store_strikes])
    faults = [f"{fault.kind}: {fault.what}" for fault in run.oracle.faults]
    print(*faults, sep="\n")
    assert faults == []
    targets = run.plan.targets
    assert run.counts["strikes left out"] == 0
    assert run.counts["turns"] >= targets.turns
    assert sum(run.counts[f"kill {moment}"] for moment in MOMENTS) == targets.kills
    assert sum(run.counts[f"stop {moment}"] for moment in MOMENTS) == targets.stops
    assert [run.counts[strike] for strike, _ in targets.store_strikes] == [count for _, count in targets.store_strikes]


async def test_nodes_die_and_stop_and_are_cut_off_and_their_store_dies_too(seed: str, tmp_path: Path) -> None:
    outcome = await on_one_store(seed, ON_ONE_STORE, tmp_path, settings=SETTINGS, fsync="always")
    is_sound(outcome)
    assert sum(count for name, count in outcome.run.counts.items() if name.startswith("cut: ")) == ON_ONE_STORE.cuts


async def test_the_store_fails_over_and_loses_what_no_replica_had(seed: str, tmp_path: Path) -> None:
    is_sound(await on_sentinel(seed, ON_SENTINEL, tmp_path, settings=SETTINGS))
