"""Carries a plan out: conversations on one side, strikes on the other, and everything that happened written down."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Protocol

import redis

from tests.faults.fleet import Fleet, Slot
from tests.faults.oracle import Death, Loss, Oracle
from tests.faults.plan import CutPlan, Moment, NodeStrike, Plan, StorePlan, TalkPlan, TurnPlan, fillers
from tests.faults.provider import Told
from tests.faults.stores import Struck
from tests.faults.talk import Talk

OWED_STRIKE_AFTER_MS: Final = 5
LAST_STRIKE_S: Final = 20


class Store(Protocol):
    async def strike(self, plan: StorePlan) -> Struck:
        """Strike, and return when the store serves again."""
        ...

    def client(self) -> redis.Redis:
        """To whichever server serves now, past all proxies."""
        ...


@dataclass(frozen=True, slots=True)
class NodeStruck:
    """A node was killed or stopped at that time, by the monotonic and the wall clock, while it had these turns."""

    kind: NodeStrike
    moment: Moment
    node: str
    turn: str
    at_ns: int
    at_ms: int
    had: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Disturbance:
    """Something else that was wrong for a while."""

    what: str
    from_ns: int
    to_ns: int


class Run:
    """One run. `on_progress` gets the number of turns that have ended."""

    def __init__(
        self, plan: Plan, fleet: Fleet, store: Store, oracle: Oracle, on_progress: Callable[[int], None]
    ) -> None:
        self.plan = plan
        self.fleet = fleet
        self.oracle = oracle
        self.counts: Counter[str] = Counter()
        self.node_strikes: list[NodeStruck] = []
        self.store_strikes: list[Struck] = []
        self.disturbances: list[Disturbance] = []
        self.store = store
        self._on_progress = on_progress
        self._drawn = random.Random(f"{plan.seed} run")
        self._by_turn: dict[str, TurnPlan] = {}
        self._owed: list[TurnPlan] = []
        """Strikes that could not be carried out when their moment came: another turn's moment will do."""
        self._struck: set[str] = set()
        self._begun = 0
        self._more = asyncio.Condition()
        self._one_at_a_time = asyncio.Lock()
        self._cutting = {slot.name: asyncio.Lock() for slot in fleet.slots}
        self._tasks: set[asyncio.Task[None]] = set()
        self._striking: set[asyncio.Task[None]] = set()
        """Strikes at nodes whose moment has come and that are not carried out yet."""

    async def carry_out(self) -> None:
        """All conversations, and more of them until every strike has come to its turn."""
        at_store = [self._spawn(self._at(plan.at_turn, self._strike_store, plan)) for plan in self.plan.store]
        cuts = [self._spawn(self._at(plan.at_turn, self._cut, plan)) for plan in self.plan.cuts]
        strikes = (*at_store, *cuts)
        until_s = time.monotonic() + self.plan.targets.run_s_max

        planned, more = iter(self.plan.talks), fillers(self.plan)

        def next_talk() -> TalkPlan | None:
            # One whose moment has come may still find that its node is needed, and be owed again.
            left = self._owed or self._striking or not all(task.done() for task in strikes)
            return next(planned, None) or (next(more) if left and time.monotonic() < until_s else None)

        async def talk_on() -> None:
            while (plan := next_talk()) is not None:
                self._by_turn.update((turn.ask.turn, turn) for turn in plan.turns)
                await Talk(plan, self).run()
                for turn in plan.turns:
                    if turn.strike is not None and turn.ask.turn not in self._struck:
                        # Something else had ended it before its moment.
                        self._struck.add(turn.ask.turn)
                        self._owed.append(turn)
                self.counts["turns"] += len(plan.turns)
                self._on_progress(self.counts["turns"])

        await asyncio.gather(*(talk_on() for _ in range(self.plan.targets.talks_at_once)))
        # A strike that is under way is carried through; one that has not begun has nothing left to strike.
        await asyncio.wait((*strikes, *self._striking, self._spawn(self._tell())), timeout=LAST_STRIKE_S)
        self.counts["strikes left out"] = len(self._owed) + sum(not task.done() for task in strikes)
        for task in list(self._tasks):
            task.cancel()

    # --- Stage: what the conversations tell ---------------------------------------------------------------------------

    def began(self, plan: TurnPlan) -> None:
        self._begun += 1
        self._spawn(self._tell())

    def counted(self, what: str) -> None:
        self.counts[what] += 1

    def reached(self, moment: Moment, turn: str, node: str) -> None:
        plan = self._by_turn[turn]
        if plan.strike is not None and plan.moment == moment and turn not in self._struck:
            self._struck.add(turn)
            self._strike_soon(plan, plan.strike_after_ms, turn, node)
            return
        owed = next((owed for owed in self._owed if owed.moment == moment), None)
        if owed is not None and self.fleet.can_spare(self.fleet.named(node)):
            self._owed.remove(owed)
            self._strike_soon(owed, OWED_STRIKE_AFTER_MS, turn, node)

    def provider_told(self, told: Told) -> None:
        self.oracle.provider_told(told)
        if told.phase in ("asked", "mid", "last"):
            self.reached(told.phase, told.turn, told.node)

    # --- strikes ------------------------------------------------------------------------------------------------------

    def _strike_soon(self, plan: TurnPlan, after_ms: float, turn: str, node: str) -> None:
        task = self._spawn(self._strike_node(plan, after_ms, turn, node))
        self._striking.add(task)
        task.add_done_callback(self._striking.discard)

    async def _strike_node(self, plan: TurnPlan, after_ms: float, turn: str, node: str) -> None:
        await asyncio.sleep(after_ms / 1000)
        slot = self.fleet.named(node)
        if not self.fleet.can_spare(slot):
            self._owed.append(plan)
            return
        assert plan.strike is not None
        now_ns = time.monotonic_ns()
        had = tuple(name for name, facts in self.oracle.turns.items() if facts.runs_at(node))
        struck = NodeStruck(plan.strike, plan.moment, node, turn, now_ns, time.time_ns() // 1_000_000, had)
        self.node_strikes.append(struck)
        self.oracle.deaths.append(Death(node, now_ns, wakes=plan.strike == "stop"))
        self.counts[f"{plan.strike} {plan.moment}"] += 1
        if plan.strike == "kill":
            self.fleet.kill(slot)
        else:
            self.fleet.stop(slot, plan.stop_ms)
            self.disturbances.append(Disturbance("stop", now_ns, now_ns + plan.stop_ms * 1_000_000))

    async def _strike_store(self, plan: StorePlan) -> None:
        async with self._one_at_a_time:
            self.fleet.spared = self._drawn.choice(self.fleet.up or self.fleet.slots)
            from_ns = time.monotonic_ns()
            struck = await self.store.strike(plan)
            to_ns = time.monotonic_ns()
            # What is promised then takes its time, in which the store and one node live: leases of before it died are
            # looked at for one lease, and what it lost is put back.
            await asyncio.sleep(self.plan.targets.settle_ms / 1000)
            self.fleet.spared = None
        self.store_strikes.append(struck)
        if struck.may_lose:
            self.oracle.losses.append(Loss(from_ns, to_ns))
        self.disturbances.append(Disturbance(plan.strike, from_ns, to_ns))
        self.counts[plan.strike] += 1
        if struck.lost:
            self.counts[f"{plan.strike}, loss proved"] += 1

    async def _cut(self, plan: CutPlan) -> None:
        slot = self.fleet.slots[plan.node]
        if slot is self.fleet.spared:
            slot = next(other for other in self.fleet.slots if other is not slot)
        async with self._cutting[slot.name]:
            from_ns = time.monotonic_ns()
            await self._carry_out_cut(plan, slot)
        self.disturbances.append(Disturbance(plan.kind, from_ns, time.monotonic_ns()))
        self.counts[f"cut: {plan.kind}"] += 1

    async def _carry_out_cut(self, plan: CutPlan, slot: Slot) -> None:
        proxy = slot.proxy
        assert proxy is not None
        match plan.kind:
            case "reset":
                proxy.cut()
            case "lost request":
                await proxy.cut_next("onward").wait()
            case "lost reply":
                await proxy.cut_next("back").wait()
            case "half open":
                # As good as dead for as long as it lasts: whatever it has to say, the store does not hear it.
                self.oracle.deaths.append(Death(slot.name, time.monotonic_ns(), wakes=True))
                proxy.rule().swallow = frozenset(("onward", "back"))
                await asyncio.sleep(plan.for_ms / 1000)
                proxy.heal()
            case "slow":
                proxy.rule().delay_ms = 30
                await asyncio.sleep(plan.for_ms / 1000)
                proxy.heal()

    # --- within -------------------------------------------------------------------------------------------------------

    async def _at(self, turn: int, do: Callable[..., Awaitable[None]], plan: object) -> None:
        async with self._more:
            await self._more.wait_for(lambda: self._begun >= turn)
        await do(plan)

    async def _tell(self) -> None:
        async with self._more:
            self._more.notify_all()

    def _spawn(self, work: Awaitable[None]) -> asyncio.Task[None]:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._on_done)
        return task

    def _on_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.oracle.fault("harness", f"{type(error).__name__}: {error}")
