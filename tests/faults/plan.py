"""What is going to happen in a run, drawn from one seed: the same seed draws the same plan.

A plan is written in turns, not in seconds: a store dies when so many turns have begun, a node when its provider's
request has come so far. So a slow machine takes longer and sees the same things.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Final, Literal

from tests.faults.provider import Ask

Moment = Literal["accepted", "asked", "mid", "last"]
"""When a node is struck: right after it took a turn · before its first byte · in the middle of the answer · between the
last delta and the end."""

MOMENTS: Final[tuple[Moment, ...]] = ("accepted", "asked", "mid", "last")

STOP_MOMENTS: Final[tuple[Moment, ...]] = ("asked", "mid")

NodeStrike = Literal["kill", "stop"]

StoreStrike = Literal["restart", "long restart", "power cut", "failover", "failover with loss"]
"""SIGKILL and a start on its files · the same with a longer pause · the same, and the last it wrote is gone · the
primary is killed and a replica takes its place · the same, and what it wrote last never reached the replicas."""

CutKind = Literal["reset", "lost request", "lost reply", "half open", "slow"]
CUTS: Final[tuple[CutKind, ...]] = ("reset", "lost request", "lost reply", "half open", "slow")

STALL_MS: Final = 700
"""For how long the provider holds where something is to strike, so that it strikes there."""


@dataclass(frozen=True, slots=True)
class Targets:
    """How much of everything a run has."""

    turns: int
    kills: int = 0
    stops: int = 0
    client_drops: int = 0
    duplicates: int = 0
    cuts: int = 0
    store_strikes: tuple[tuple[StoreStrike, int], ...] = ()
    talks_at_once: int = 12
    turns_a_talk: int = 4
    stop_ms: tuple[int, int] = (13_000, 16_000)
    """How long a node stands still: longer than a lease and a sweep."""
    away_ms: tuple[int, int] = (4_000, 14_000)
    """How long a `long restart` takes."""
    settle_ms: int = 16_000
    """From one strike at the store to the next, at least: longer than a lease, two sweeps and a renewal."""
    run_s_max: int = 3_600
    """When to give up waiting for strikes that do not come to their turn."""


@dataclass(frozen=True, slots=True)
class TurnPlan:
    """One turn and what befalls it. `drops`: the client is cut off after so many frames of it."""

    ask: Ask
    queued: bool
    """Sent while the turn before it is running."""
    strike: NodeStrike | None = None
    moment: Moment = "mid"
    strike_after_ms: float = 0
    stop_ms: int = 0
    drops: tuple[int, ...] = ()
    duplicate: bool = False
    """Sent a second time, over another connection."""


@dataclass(frozen=True, slots=True)
class TalkPlan:
    """One conversation. `onlooker`: another client, elsewhere, follows all of it."""

    session: str
    canary: str
    codec: Literal["json", "msgpack"]
    onlooker: bool
    turns: tuple[TurnPlan, ...]


@dataclass(frozen=True, slots=True)
class StorePlan:
    """Strikes when so many turns have begun."""

    at_turn: int
    strike: StoreStrike
    away_ms: int


@dataclass(frozen=True, slots=True)
class CutPlan:
    """Between a node (by its place) and the store, for so long."""

    at_turn: int
    node: int
    kind: CutKind
    for_ms: int


@dataclass(frozen=True, slots=True)
class Plan:
    seed: str
    targets: Targets
    talks: tuple[TalkPlan, ...]
    store: tuple[StorePlan, ...] = ()
    cuts: tuple[CutPlan, ...] = ()


def draw(seed: str, targets: Targets, nodes: int) -> Plan:
    """The plan that a seed means."""
    drawn = random.Random(seed)
    talks = _draw_talks(drawn, targets, seed, "")
    strikes: list[StoreStrike] = [strike for strike, times in targets.store_strikes for _ in range(times)]
    drawn.shuffle(strikes)
    store = tuple(
        StorePlan(at_turn, strike, drawn.randint(*(targets.away_ms if strike == "long restart" else (0, 500))))
        for at_turn, strike in zip(_spread(drawn, len(strikes), targets.turns), strikes, strict=True)
    )
    cuts = tuple(
        CutPlan(at_turn, drawn.randrange(nodes), CUTS[number % len(CUTS)], drawn.randint(1_000, 8_000))
        for number, at_turn in enumerate(_spread(drawn, targets.cuts, targets.turns))
    )
    return Plan(seed, targets, talks, store, cuts)


def fillers(plan: Plan) -> Iterator[TalkPlan]:
    """Conversations without end, to go on with while some strike has not come to its turn."""
    quiet = replace(plan.targets, turns=plan.targets.turns_a_talk, kills=0, stops=0, client_drops=0, duplicates=0)
    for number in count():
        yield from _draw_talks(random.Random(f"{plan.seed} {number}"), quiet, plan.seed, f"f{number}_")


def _draw_talks(drawn: random.Random, targets: Targets, seed: str, prefix: str) -> tuple[TalkPlan, ...]:
    turns = _draw_turns(drawn, targets)
    talks: list[TalkPlan] = []
    while turns:
        some, turns = turns[: targets.turns_a_talk], turns[targets.turns_a_talk :]
        number = len(talks)
        canary = f"cnry{drawn.randbytes(8).hex()}"
        codec = drawn.choice(("json", "msgpack"))
        # Whoever sends a turn twice sends it from another place.
        onlooker = drawn.random() < 0.4 or any(turn.duplicate for turn in some)
        named = tuple(_named(turn, canary, f"t_{prefix}{number}_{place}") for place, turn in enumerate(some))
        talks.append(TalkPlan(f"s_{seed}_{prefix}{number}", canary, codec, onlooker, named))
    return tuple(talks)


def _draw_turns(drawn: random.Random, targets: Targets) -> list[TurnPlan]:
    struck = drawn.sample(range(targets.turns), targets.kills + targets.stops)
    strikes: dict[int, tuple[NodeStrike, Moment]] = {}
    for number, turn in enumerate(struck[: targets.kills]):
        strikes[turn] = "kill", MOMENTS[number % len(MOMENTS)]
    for number, turn in enumerate(struck[targets.kills :]):
        # One that stands still before its first byte is taken over and run again; one in the middle is sealed.
        strikes[turn] = "stop", STOP_MOMENTS[number % len(STOP_MOMENTS)]
    duplicates = set(drawn.sample(range(targets.turns), targets.duplicates))
    drops: list[list[int]] = [[] for _ in range(targets.turns)]
    for _ in range(targets.client_drops):
        drops[drawn.randrange(targets.turns)].append(drawn.randint(1, 25))
    return [
        _draw_turn(drawn, strikes.get(number), targets, number in duplicates, tuple(sorted(drops[number])))
        for number in range(targets.turns)
    ]


def _draw_turn(
    drawn: random.Random,
    strike: tuple[NodeStrike, Moment] | None,
    targets: Targets,
    duplicate: bool,
    drops: tuple[int, ...],
) -> TurnPlan:
    kind, moment = strike if strike is not None else (None, "mid")
    ask = Ask(
        canary="",
        turn="",
        deltas=drawn.randint(4, 60),
        first_ms=STALL_MS if kind is not None and moment == "asked" else drawn.randint(0, 150),
        gap_ms=drawn.choice((2, 10, 30, 60)),
        hold_ms=STALL_MS if kind is not None and moment == "last" else 0,
    )
    # A strike at the end may also meet the terminal on its way into the store.
    at_the_edge = moment == "last" and drawn.random() < 0.4
    after_ms = drawn.uniform(-4, 4) + STALL_MS if at_the_edge else drawn.uniform(0, 40)
    return TurnPlan(
        ask,
        queued=drawn.random() < 0.15,
        strike=kind,
        moment=moment,
        strike_after_ms=after_ms,
        stop_ms=drawn.randint(*targets.stop_ms) if kind == "stop" else 0,
        drops=drops,
        duplicate=duplicate,
    )


def _named(turn: TurnPlan, canary: str, name: str) -> TurnPlan:
    return replace(turn, ask=replace(turn.ask, canary=canary, turn=name))


def _spread(drawn: random.Random, number: int, turns: int) -> Sequence[int]:
    """Places for so many things, one in each equal stretch of the run, leaving its first and last turns alone."""
    width = turns * 0.9 / max(number, 1)
    return [round(turns * 0.05 + (place + drawn.random()) * width) for place in range(number)]
