"""The log of one session as a small pure model: what the scripts must do, without a store, time or concurrency.

Time is told to it: a lease runs out when `run_out` says so. It keeps what a reader could see, and nothing else.
"""

from dataclasses import dataclass, field
from typing import Literal

State = Literal["queued", "running", "parked", "done", "error"]
Place = tuple[str, str | None, str]
"""Type, turn (None for the session's own) and text (of a delta) of one entry."""

OVER = ("done", "error")


@dataclass
class ModelTurn:
    digest: str
    nonce: str
    answer: tuple[str, int, str | None]
    """What its accept answered: result, seq, parent."""
    seq: int
    parent: str | None
    state: State
    holder: str = ""
    """The nonce of whoever may write; empty when nobody may."""
    overdue: bool = False
    counter: int = 0
    last_batch: str = ""
    last_seq: int = 0
    cancel_by: str | None = None
    takes: int = 0
    asks: dict[str, str] = field(default_factory=dict[str, str])
    """Request to answer; empty while it waits."""

    @property
    def untaken(self) -> bool:
        """Nobody may write it, and somebody is to."""
        return not self.holder and self.state in ("queued", "running")


class ModelLog:
    def __init__(self, queue_max: int) -> None:
        self.queue_max = queue_max
        self.turns: dict[str, ModelTurn] = {}
        self.log: list[Place] = []
        self.queue: list[str] = []
        self.active: str | None = None
        self.leaf: str | None = None
        self.pending: dict[str, str] = {}
        self.title = ""

    # --- what is done ---------------------------------------------------------------------------------------------

    def accept(
        self, turn: str, nonce: str, digest: str, on_busy: str, by: str, put_back: bool
    ) -> tuple[str, int, str | None]:
        known = self.turns.get(turn)
        if known is not None:
            if known.nonce == nonce:
                return known.answer
            if put_back and known.untaken:
                if known.state == "queued":
                    return "busy", 0, None
                known.holder, known.overdue = nonce, False
            if put_back and known.holder == nonce:
                return "running", known.seq, known.parent
            if known.digest != digest:
                return "conflict", 0, None
            return "duplicate", known.seq, known.parent
        stop = turn in self.pending
        cancelled = stop and not put_back
        waits = self.active is not None
        if waits and not cancelled:
            if on_busy == "reject":
                return "busy", 0, None
            if on_busy == "queue" and len(self.queue) >= self.queue_max:
                return "queue_full", 0, None
            if on_busy == "interrupt":
                self._interrupt(by)
        self._write("turn.accepted", turn)
        result = "sealed" if cancelled else "queued" if waits else "running"
        answer = (result, len(self.log), self.leaf)
        self.turns[turn] = ModelTurn(digest, nonce, answer, len(self.log), self.leaf, "queued" if waits else "running")
        self.leaf = turn
        if cancelled:
            del self.pending[turn]
            self._end(turn, "done")
        elif waits:
            self.queue.append(turn)
        else:
            self.turns[turn].holder = nonce
            self.active = turn
            if stop:
                del self.pending[turn]
                self._ask_to_stop(turn, by)
        return answer

    def append(
        self, turn: str, nonce: str, batch: str, counter: int, texts: list[str], ending: str | None
    ) -> tuple[str, int, str | None]:
        """Result, first seq, next. `ending` is done, error, park or None; parking asks one request, `r<seq>`."""
        known = self.turns.get(turn)
        if known is None:
            return "lost", 0, None
        if known.holder != nonce and not (known.state == "parked" and known.last_batch == batch):
            return "lost" if known.untaken else "fenced", 0, None
        if known.last_batch == batch:
            return "dup", known.last_seq, None
        if known.state in OVER:
            return "sealed", 0, None
        if known.counter != counter:
            return "regressed", 0, None
        first = len(self.log) + 1
        for text in texts:
            self._write("turn.delta", turn, text)
        following = None
        if ending == "park":
            self._write("turn.asked", turn)
            known.asks[f"r{counter}"] = ""
            known.state, known.holder = "parked", ""
            known.overdue = known.cancel_by is not None
            following = turn if known.overdue else None
        elif ending is not None:
            following = self._end(turn, "done" if ending == "done" else "error")
        known.counter += len(texts) + (ending is not None)
        known.last_batch, known.last_seq = batch, first
        return "ok", first, following

    def cancel(self, turn: str, by: str, pending_max: int) -> tuple[str, str | None]:
        """Result, and the turn to take."""
        known = self.turns.get(turn)
        if known is None:
            if turn not in self.pending and len(self.pending) >= pending_max:
                return "too_many_pending", None
            self.pending[turn] = by
            return "pending", None
        if known.state in OVER:
            return "already_done", None
        if known.state == "queued" and not known.holder:
            self._end(turn, "done")
            return "cancelling", None
        return "cancelling", self._ask_to_stop(turn, by)

    def respond(self, turn: str, request: str, value: str) -> tuple[str, str | None]:
        known = self.turns.get(turn)
        if known is None:
            return "not_found", None
        if request not in known.asks:
            return "not_asked", None
        if known.asks[request]:
            if known.asks[request] != value:
                return "not_found", None
            return "ok", turn if known.state == "running" and not known.holder else None
        if known.state != "parked" or known.holder or known.cancel_by is not None:
            return "not_found", None
        known.asks[request] = value
        self._write("turn.responded", turn)
        known.state, known.overdue = "running", True
        return "ok", turn

    def take(self, turn: str, nonce: str, claim: str) -> tuple[str, str, int]:
        """Result, state before, takes."""
        known = self.turns.get(turn)
        if known is None:
            return "missing", "", 0
        if known.state in OVER:
            return "over", "", 0
        if known.holder != nonce:
            if not known.overdue:
                return "held", "", 0
            if known.holder and claim == "ownerless":
                return "foreign", "", 0
            known.takes += bool(known.holder)
            known.holder, known.overdue = nonce, False
        return "taken", known.state, known.takes

    def renew(self, turn: str, nonce: str) -> str:
        known = self.turns.get(turn)
        if known is None:
            return "lost"
        if known.holder != nonce:
            return "lost" if known.untaken else "fenced"
        if known.state in OVER:
            return "sealed"
        known.overdue = False
        return "ok"

    def update(self, title: str) -> bool | None:
        """Whether something was logged; None when there is no session."""
        if not self.log:
            return None
        if title == self.title:
            return False
        self.title = title
        self._write("session.updated", None)
        return True

    def run_out(self, turn: str) -> None:
        self.turns[turn].overdue = True

    # --- what is seen ---------------------------------------------------------------------------------------------

    def overdue(self) -> set[str]:
        return {name for name, turn in self.turns.items() if turn.overdue and turn.state not in OVER}

    # --- within ---------------------------------------------------------------------------------------------------

    def _write(self, kind: str, turn: str | None, text: str = "") -> None:
        self.log.append((kind, turn, text))

    def _interrupt(self, by: str) -> None:
        for waiting in [name for name in self.queue if not self.turns[name].holder]:
            self._end(waiting, "done")
        assert self.active is not None
        self._ask_to_stop(self.active, by)

    def _ask_to_stop(self, turn: str, by: str) -> str | None:
        known = self.turns[turn]
        if known.cancel_by is None:
            known.cancel_by = by
            self._write("turn.cancelling", turn)
        if not known.holder or known.overdue:
            known.overdue = True
            return turn
        return None

    def _end(self, turn: str, state: Literal["done", "error"]) -> str | None:
        self._write(f"turn.{state}", turn)
        self.turns[turn].state = state
        if turn in self.queue:
            self.queue.remove(turn)
        if self.active != turn:
            return None
        self.active = next((name for name in self.queue if not self.turns[name].holder), None)
        if self.active is not None:
            self.queue.remove(self.active)
            promoted = self.turns[self.active]
            promoted.state, promoted.overdue = "running", True
        return self.active
