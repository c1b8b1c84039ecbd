"""What a run amounts to: counts, times, violations, and the rows in which docs/reliability.md shows them."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from tests.faults.campaign import Outcome
from tests.faults.oracle import Sign, TurnFacts
from tests.faults.plan import MOMENTS
from tests.faults.run import NodeStruck, Run

VIOLATIONS: Final = {
    "turns without exactly one end, the same for all": (
        "missing end",
        "second terminal",
        "end that changed",
        "different ends",
        "lost without its writer",
    ),
    "frames missing, doubled, or behind an end": (
        "hole",
        "frame twice",
        "frame behind its terminal",
        "frame out of place",
        "two frames at one place",
        "replay from another place",
        "snapshot from the past",
        "snapshot out of place",
    ),
    "wrong texts": ("wrong text", "checksum"),
    "canaries of another session, or in a log": ("foreign canary", "foreign canary upstream", "canary in a log"),
    "model asked again after a byte was seen": ("asked again after content",),
    "balance of a quota wrong at the end": ("balance",),
}
"""Row of the table to the oracle's kinds of fault; all others are in one more row."""

STRUCK: Final = {
    "accepted": "SIGKILL right after the accept",
    "asked": "SIGKILL before the first byte",
    "mid": "SIGKILL in the middle of the answer",
    "last": "SIGKILL between last delta and end",
}


@dataclass(frozen=True, slots=True)
class Recovery:
    """From the kill of its node to a turn's next sign of life (a new start, or its end) and to its end, as the first
    client saw it. `alone`: nothing else was wrong meanwhile."""

    turn: str
    sign_ms: float
    end_ms: float | None
    alone: bool


def recoveries(run: Run) -> list[Recovery]:
    """Of every turn that a killed node had."""
    found: list[Recovery] = []
    for struck in run.node_strikes:
        if struck.kind != "kill":
            continue
        for turn in struck.had:
            facts = run.oracle.turns[turn]
            signs = _signs_after(facts, struck.at_ms)
            if signs:
                found.append(_recovery(run, struck, turn, signs))
    return found


def percentile(values: Sequence[float], share: float) -> float:
    """By nearest rank: a value that was measured, never one in between."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def rows_of(outcome: Outcome, conditions: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """What was done, what came of it, what was wrong. `conditions` go first: versions, settings, seed."""
    run = outcome.run
    return [*conditions, *_done(outcome), *_became(run), *_times(run), *violations(run)]


def violations(run: Run) -> list[tuple[str, str]]:
    """One row for each kind; 0 of N trials bounds the rate."""
    kinds = Counter(fault.kind for fault in run.oracle.faults)
    turns = run.counts["turns"]
    rows: list[tuple[str, str]] = []
    for row, of in VIOLATIONS.items():
        count = sum(kinds.pop(kind, 0) for kind in of)
        trials = run.oracle.frames if row.startswith("frames") else turns
        rows.append((f"**{row}**", "yes" if count else "no") if "balance" in of else (f"**{row}**", _of(count, trials)))
    rows.append(("**anything else that the oracle knows of**", _of(sum(kinds.values()), turns)))
    return rows


def _of(count: int, trials: int) -> str:
    return f"{count} of {trials:,}" + ("" if count else f" (rate < {3 / trials:.1e})")


def _done(outcome: Outcome) -> Iterable[tuple[str, str]]:
    run = outcome.run
    counts = run.counts
    yield "turns, frames checked", f"{counts['turns']:,}, {run.oracle.frames:,}"
    yield "took", f"{outcome.wall_s / 60:.0f} min"
    for moment in MOMENTS:
        yield STRUCK[moment], str(counts[f"kill {moment}"])
    yield "SIGSTOP past the lease, then SIGCONT", str(sum(counts[f"stop {moment}"] for moment in MOMENTS))
    for strike, name in (
        ("restart", "store killed, started on its file"),
        ("long restart", "the same, away for 4 s and more"),
        ("power cut", "the same, without its newest writes"),
        ("failover", "failover: primary killed"),
        ("failover with loss", "failover: primary killed, replication stalled before"),
    ):
        lost = [struck.lost for struck in run.store_strikes if struck.strike == strike and struck.lost]
        proved = f", {len(lost)} with proved loss ({sum(lost):,} entries)" if lost else ""
        yield name, f"{counts[strike]}{proved}"
    yield "cuts between node and store", str(sum(count for name, count in counts.items() if name.startswith("cut: ")))
    yield "client connections cut", str(counts["client drops"])
    yield "turns sent twice", str(counts["duplicates"])


def _became(run: Run) -> Iterable[tuple[str, str]]:
    ends = run.oracle.outcomes()
    absent = ends.pop("store_lost, by its absence", 0)
    yield "ended complete", str(ends.pop("stop", 0))
    yield "ended `node_lost`, with what was stored", str(ends.pop("node_lost", 0))
    yield "`store_lost`, with a writer that died or before one had it", str(absent + ends.pop("store_lost", 0))
    yield "ended otherwise", str(sum(ends.values()))
    yield "of these ended twice, as a loss took the first end and its writer", str(run.oracle.changed())
    again = sum(len(facts.requests) > 1 for facts in run.oracle.turns.values())
    yield "run again on another node", str(again)


def _times(run: Run) -> Iterable[tuple[str, str]]:
    found = recoveries(run)
    for name, some in (
        ("kill → next sign of the turn, nothing else wrong", [one.sign_ms for one in found if one.alone]),
        ("kill → end of the turn, nothing else wrong", [one.end_ms for one in found if one.alone and one.end_ms]),
        ("kill → end of the turn, whatever else was wrong", [one.end_ms for one in found if one.end_ms]),
    ):
        if some:
            p50, p99 = percentile(some, 0.5) / 1_000, percentile(some, 0.99) / 1_000
            yield name, f"p50 {p50:.1f} s, p99 {p99:.1f} s, max {max(some) / 1_000:.1f} s (n = {len(some)})"


def _signs_after(facts: TurnFacts, at_ms: int) -> list[Sign]:
    return sorted((sign for sign in facts.signs if sign.at_ms >= at_ms), key=lambda sign: sign.seen_ns)


def _recovery(run: Run, struck: NodeStruck, turn: str, signs: Sequence[Sign]) -> Recovery:
    first = signs[0]
    end = next((sign for sign in signs if sign.type != "turn.started"), None)
    until_ns = (end or first).seen_ns
    others = any(other.from_ns < until_ns and other.to_ns > struck.at_ns for other in run.disturbances)
    again = any(
        other is not struck and turn in other.had and struck.at_ns < other.at_ns < until_ns
        for other in run.node_strikes
    )
    ms = 1e6
    return Recovery(
        turn,
        (first.seen_ns - struck.at_ns) / ms,
        None if end is None else (end.seen_ns - struck.at_ns) / ms,
        not others and not again,
    )
