"""Judges a run: what clients were shown against what the provider sent, without a line of the server's.

Each rule is one that a person at a client could check with a list of what the provider sent: every turn ends once and
the same for everyone, nothing follows the end, no place of a history holds two things, the text is one request's text
from its first byte, nobody is shown what is another session's. What a rule forbids becomes a fault, with the numbers
that lead to it. What a store that lost its tail may cost is counted too (`store_lost`), and is a fault where no loss
was proved.
"""

import hashlib
import json
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from tests.faults.provider import CANARY, Ask, Told, deltas_of
from tests.faults.reading import TERMINALS, Frame, Heard

EXPECTED_ERRORS = frozenset(["node_lost", "store_lost"])
"""How a turn may fail here: the provider never fails, and nobody's settings are wrong."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A broken promise."""

    kind: str
    what: str


@dataclass(frozen=True, slots=True)
class Loss:
    """A store has lost something, or may have, of what it acknowledged between these times."""

    from_ns: int
    to_ns: int


@dataclass(frozen=True, slots=True)
class Death:
    """A node was killed; or it stood still for longer than a lease, or could not reach the store for long, and came
    back (`wakes`)."""

    node: str
    at_ns: int
    wakes: bool = False


@dataclass(frozen=True, slots=True)
class Sign:
    """A turn.started or terminal: `seen_ns` by the monotonic clock of the first client, `at_ms` by the store's."""

    type: str
    gen: str
    seen_ns: int
    at_ms: int


@dataclass
class End:
    """How a turn ended for one client, and what it had of it then."""

    terminal: Frame
    text: str
    gen: str
    seen_ns: int

    @property
    def kind(self) -> str:
        if self.terminal["type"] == "turn.done":
            return str(self.terminal["finish_reason"])
        return str(self.terminal["error"]["code"])

    def same_as(self, other: "End") -> bool:
        return self.kind == other.kind and self.terminal["parts"] == other.terminal["parts"]


@dataclass
class TurnFacts:
    """All that is known of one turn. `watchers` are the clients that must see its end."""

    session: str
    ask: Ask
    watchers: tuple[str, ...]
    queued: bool
    begun_ns: int
    ends: dict[str, list[End]] = field(default_factory=dict[str, list[End]])
    lost: dict[str, int] = field(default_factory=dict[str, int])
    """Clients whose snapshot lacked it before it had ended, and when."""
    shown_to: set[str] = field(default_factory=set[str])
    requests: dict[int, list[Told]] = field(default_factory=dict[int, list[Told]])
    content_seen: list[tuple[int, str]] = field(default_factory=list[tuple[int, str]])
    """When which gen first showed a delta of it."""
    signs: list[Sign] = field(default_factory=list[Sign])
    acks: list[tuple[str, bool]] = field(default_factory=list[tuple[str, bool]])
    """Who was told that it is taken, and whether as a duplicate."""
    homes: list[str] = field(default_factory=list[str])
    """Nodes that had it, the newest last, as far as is known."""

    @property
    def node(self) -> str:
        return self.homes[-1] if self.homes else ""

    def runs_at(self, node: str) -> bool:
        """Whether that node has it, and is not done with it. A queued turn is nobody's until it begins."""
        return self.node == node and not self.over and (not self.queued or bool(self.requests))

    @property
    def over(self) -> bool:
        return bool(self.ends)


class Oracle:
    """Takes in what every client and the provider saw; `judge` says what was wrong with it."""

    def __init__(self) -> None:
        self.faults: list[Fault] = []
        self.turns: dict[str, TurnFacts] = {}
        self.frames = 0
        self.losses: list[Loss] = []
        self.deaths: list[Death] = []
        self._canaries: dict[str, str] = {}
        """Session to its canary."""
        self._terminal_seqs: dict[tuple[str, str], dict[str, int]] = defaultdict(dict)
        self._places: dict[tuple[str, str], dict[int, str]] = defaultdict(dict)

    # --- what is told to it -----------------------------------------------------------------------------------------

    def expect(self, session: str, ask: Ask, watchers: Iterable[str], *, queued: bool) -> None:
        """A turn that is about to be sent."""
        self._canaries[session] = ask.canary
        self.turns[ask.turn] = TurnFacts(session, ask, tuple(watchers), queued, time.monotonic_ns())

    def provider_told(self, told: Told) -> None:
        facts = self.turns[told.turn]
        facts.requests.setdefault(told.request, []).append(told)
        if facts.node != told.node:
            facts.homes.append(told.node)
        if told.foreign:
            self.fault("foreign canary upstream", f"request {told.request} of {told.turn} holds {told.foreign}")

    def acknowledged(self, client: str, turn: str, duplicate: bool, node: str) -> None:
        facts = self.turns[turn]
        facts.acks.append((client, duplicate))
        if not facts.homes:
            facts.homes.append(node)

    def frame_came(self, client: str, frame: Frame) -> None:
        """Every frame of a server, before it is read: nothing of another session may stand in it."""
        self.frames += 1
        session = frame.get("session")
        strange = set(CANARY.findall(json.dumps(frame))) - {self._canaries.get(str(session), "")}
        if strange:
            self.fault("foreign canary", f"{client} was sent {sorted(strange)} in a {frame['type']} of {session}")

    # reading.Sink

    def fault(self, kind: str, what: str) -> None:
        self.faults.append(Fault(kind, what))

    def shown(self, client: str, turn: str) -> None:
        self.turns[turn].shown_to.add(client)

    def stands(self, session: str, gen: str, frame: Frame) -> None:
        seq, turn, log = frame["seq"], frame.get("turn"), (session, gen)
        if turn is None:
            return
        terminals = self._terminal_seqs[log]
        if frame["type"] in TERMINALS and terminals.setdefault(turn, seq) != seq:
            self.fault("second terminal", f"{turn} in {log} at {terminals[turn]} and {seq}")
        if seq > terminals.get(turn, seq):
            self.fault(
                "frame behind its terminal", f"{turn} in {log} ended at {terminals[turn]}, {frame['type']} at {seq}"
            )
        if frame["type"] == "turn.delta":
            self._content(turn, gen)
        else:
            said = json.dumps(frame, sort_keys=True)
            if self._places[log].setdefault(seq, said) != said:
                self.fault("two frames at one place", f"{log} seq {seq}: {self._places[log][seq]} and {said}")
        if frame["type"] in ("turn.started", *TERMINALS):
            self._sign(turn, gen, frame)

    def ended(self, client: str, session: str, gen: str, turn: str, heard: Heard) -> None:
        terminal = heard.terminal
        assert terminal is not None
        self._sign(turn, gen, terminal)
        ends = self.turns[turn].ends.setdefault(client, [])
        end = End(terminal, heard.text, gen, time.monotonic_ns())
        if not ends or not ends[-1].same_as(end):
            ends.append(end)

    def lacks(self, client: str, session: str, gen: str | None, turn: str, heard: Heard) -> None:
        if heard.terminal is None:
            self.turns[turn].lost.setdefault(client, time.monotonic_ns())

    # --- judgement --------------------------------------------------------------------------------------------------

    def judge(self) -> None:
        """Everything has been told: find what is wrong with the turns as wholes."""
        for turn, facts in self.turns.items():
            self._judge_ends(turn, facts)
            self._judge_requests(turn, facts)
            taken = [client for client, duplicate in facts.acks if not duplicate]
            if len(taken) > 1 and not self._lost_between(facts.begun_ns, time.monotonic_ns()):
                self.fault("taken twice", f"{turn} was acknowledged as new to {taken}")

    def outcomes(self) -> Counter[str]:
        """How many turns ended how, as the first client saw it that was to see it."""
        found: Counter[str] = Counter()
        for facts in self.turns.values():
            ends = next((ends for client in facts.watchers if (ends := facts.ends.get(client))), None)
            if ends:
                found[ends[0].kind] += 1
            else:
                found["store_lost, by its absence" if facts.lost else "missing"] += 1
        return found

    def came_back(self) -> int:
        """Turns that some client was told to be lost, and then again not."""
        return sum(any(client in facts.ends for client in facts.lost) for facts in self.turns.values())

    def changed(self) -> int:
        """Turns that ended in one way before a loss, and in another after it."""
        return sum(any(len(ends) > 1 for ends in facts.ends.values()) for facts in self.turns.values())

    def _lost_between(self, from_ns: int, to_ns: int) -> bool:
        return any(loss.from_ns < to_ns and loss.to_ns > from_ns for loss in self.losses)

    def _excused(self, facts: TurnFacts, seen_ns: int) -> bool:
        """Whether what was seen then of this turn may be so: a store has lost what it was, and whoever could have put
        it back has died or never was."""
        if not self._lost_between(facts.begun_ns, seen_ns):
            return False
        if facts.queued and not any(request[0].at_ns < seen_ns for request in facts.requests.values()):
            return True  # no writer had it yet
        return any(death.node in facts.homes and facts.begun_ns < death.at_ns < seen_ns for death in self.deaths)

    def _times(self, facts: TurnFacts, client: str) -> str:
        """When what happened, in seconds since the turn was sent."""

        def since(at_ns: int) -> str:
            return f"{(at_ns - facts.begun_ns) / 1e9:.2f} s"

        asked = [f"{number} at {told[0].node} {since(told[0].at_ns)}" for number, told in facts.requests.items()]
        losses = [f"{since(loss.from_ns)} to {since(loss.to_ns)}" for loss in self.losses]
        deaths = [f"{death.node} {since(death.at_ns)}" for death in self.deaths]
        lost = since(facts.lost[client])
        return f"queued {facts.queued}, lost {lost}, requests {asked}, losses {losses}, deaths {deaths}"

    def _content(self, turn: str, gen: str) -> None:
        seen = self.turns[turn].content_seen
        if all(gen != known for _, known in seen):
            seen.append((time.monotonic_ns(), gen))

    def _sign(self, turn: str, gen: str, frame: Frame) -> None:
        signs = self.turns[turn].signs
        if all((sign.type, sign.at_ms) != (frame["type"], frame["at"]) for sign in signs):
            signs.append(Sign(frame["type"], gen, time.monotonic_ns(), frame["at"]))

    def _judge_ends(self, turn: str, facts: TurnFacts) -> None:
        for client in facts.watchers:
            ends = facts.ends.get(client, [])
            # Whoever was not shown a turn before it was lost has nothing to be told of.
            if not ends and client not in facts.lost and not (facts.lost and client not in facts.shown_to):
                asked = [f"{number} at {told[-1].node}: {told[-1].phase}" for number, told in facts.requests.items()]
                self.fault("missing end", f"{client} never saw that of {turn}; acks {facts.acks}, requests {asked}")
            if client in facts.lost and not self._excused(facts, facts.lost[client]):
                self.fault(
                    "lost without its writer",
                    f"{client}: a snapshot lacks {turn}, whose nodes {facts.homes} live; {self._times(facts, client)}",
                )
            if len(ends) > 1 and not self._excused(facts, ends[-1].seen_ns):
                kinds = [f"{end.kind} in gen {end.gen}" for end in ends]
                self.fault("end that changed", f"{client} saw {turn} end as {', then '.join(kinds)}")
            for end in ends:
                self._judge_text(turn, facts, client, end)
        newest = {client: ends[-1] for client, ends in facts.ends.items()}
        if any(not end.same_as(next(iter(newest.values()))) for end in newest.values()):
            seen_ns = max(end.seen_ns for end in newest.values())
            if not self._excused(facts, seen_ns):
                kinds = {client: end.kind for client, end in newest.items()}
                self.fault("different ends", f"{turn}: {kinds}")

    def _judge_text(self, turn: str, facts: TurnFacts, client: str, end: End) -> None:
        if end.terminal["type"] == "turn.error" and end.kind not in EXPECTED_ERRORS:
            self.fault("unexpected error", f"{client} saw {turn} fail with {end.kind}")
        if end.kind == "store_lost" and not self._excused(facts, end.seen_ns):
            self.fault(
                "lost without its writer", f"{client} saw {turn} end in gen {end.gen} with {end.terminal['error']}"
            )
        for told in (told for request in facts.requests.values() for told in request):
            whole = deltas_of(facts.ask, told.request)[: told.sent]
            if hashlib.sha256("".join(whole).encode()).hexdigest() != told.sha256:
                self.fault("harness", f"request {told.request} of {turn} sent something else than was expected")
        newest = [request[-1] for request in facts.requests.values()]
        if end.kind == "stop":
            sha256 = hashlib.sha256(end.text.encode()).hexdigest()
            right = any(told.phase == "answered" and told.sha256 == sha256 for told in newest)
        else:
            right = not end.text or any(self._could_be(facts, told, end.text) for told in newest)
        if not right:
            self.fault("wrong text", f"{client}: {turn} ({end.kind}) has {len(end.text)} characters that nobody sent")

    def _could_be(self, facts: TurnFacts, told: Told, text: str) -> bool:
        """Whether the text is the beginning of what a request was sent."""
        sent = told.sent if told.phase in ("answered", "closed") else facts.ask.deltas
        return "".join(deltas_of(facts.ask, told.request)[:sent]).startswith(text)

    def _judge_requests(self, turn: str, facts: TurnFacts) -> None:
        """A model that has begun to answer is not asked again, but by a node that slept through it, to no effect."""
        if not facts.content_seen:
            return
        seen_ns = min(at_ns for at_ns, _ in facts.content_seen)
        for number, request in facts.requests.items():
            asked = request[0]
            slept = any(
                death.wakes and death.node == asked.node and facts.begun_ns < death.at_ns < asked.at_ns
                for death in self.deaths
            )
            if asked.at_ns > seen_ns and not slept and not self._excused(facts, asked.at_ns):
                told = [
                    [f"{step.phase} by {step.node} at {step.at_ns / 1e9:.2f}" for step in steps]
                    for steps in facts.requests.values()
                ]
                seen = f"text was seen at {seen_ns / 1e9:.2f} s"
                self.fault("asked again after content", f"{turn}: request {number} came after {seen}: {told}")
