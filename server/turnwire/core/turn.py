"""The life of one turn, as its writer sees it.

Laws, each of which the table below upholds:

1. A turn has one terminal, and nothing follows it.
2. Content comes only from a started step.
3. Once a step has emitted content it is never retried (a retry would speak over what was shown).
4. A parked turn has no writer: it goes on only by an answer, or ends.
5. Cancel and failure are legal from every state that is not terminal.

What is not in the table is illegal: IllegalTurn is raised and nothing has changed. The table knows no content, no
time and no store; Turn below adds them, and turns happenings into log entries.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import orjson

from turnwire.core.answer import Answer
from turnwire.core.context import Exchange, request_of
from turnwire.core.entries import Content, Delta, Entry, Event, Logged, UsageReport
from turnwire.core.quotas import NOTHING
from turnwire.core.spending import Budget, Price, Spending
from turnwire.core.tokens import hundredths_of
from turnwire_protocol.codes import ErrorCode
from turnwire_protocol.events import TERMINAL_TYPES
from turnwire_protocol.values import ErrorBody, FinishReason

State = Literal["accepted", "started", "answering", "parked", "over"]
Happening = Literal["start", "retry", "content", "park", "answer", "end"]

TABLE: Final[dict[tuple[State, Happening], State]] = {
    ("accepted", "start"): "started",
    ("accepted", "end"): "over",
    ("started", "start"): "started",
    ("started", "retry"): "started",
    ("started", "content"): "answering",
    ("started", "park"): "parked",
    ("started", "end"): "over",
    ("answering", "content"): "answering",
    ("answering", "park"): "parked",
    ("answering", "end"): "over",
    ("parked", "answer"): "accepted",
    ("parked", "end"): "over",
}
"""`accepted` here means: between steps. The wire's states are coarser: started and answering are both running."""


RESULTS_BYTES_MAX: Final = 262_144
"""Results of tool calls that a turn's record keeps for later turns. Larger ones are forgotten, and their calls too."""


class IllegalTurn(Exception):
    """A happening that its state does not know: a fault of this server, never of a peer."""


class Turn:
    """One turn in the hands of its writer: what happens goes in, log entries come out.

    Times are ms of one monotonic clock; the caller says which. An entry that is returned must be appended, in order.
    `prices` are by model; `answers` are the results of earlier asks, by request, as JSON text.
    """

    def __init__(
        self,
        turn: str,
        model: str,
        *,
        began_ms: int,
        prices: Mapping[str, Price] | None = None,
        budget: Budget | None = None,
        answers: Mapping[str, bytes] | None = None,
    ) -> None:
        self.turn = turn
        self.model = model
        self.state: State = "accepted"
        self.answer = Answer()
        self.step = 0
        self.attempts = 0
        self.used_up = NOTHING
        """By all its steps; known once it is over."""
        self._began_ms = began_ms
        self._first_token_ms: int | None = None
        self._attempt_of_step = 0
        self._bases: list[int] = []
        """The number of the first part of each step."""
        self._spending = Spending(prices or {}, budget)
        self._has_budget = budget is not None
        self._answers = dict(answers or {})

    # --- what happens ---------------------------------------------------------------------------------------------

    def start(self, model: str, attempt: int) -> Event:
        """An upstream request begins: the first of a step when `attempt` is 1."""
        self._to("start")
        if attempt == 1:
            self.step += 1
            self._bases.append(self.answer.parts_count)
        self._attempt_of_step = attempt
        self.attempts += 1
        self.model = model
        started = self._event("turn.started", {"step": self.step, "attempt": attempt, "model": model})
        started.kept = orjson.dumps(self._spending.begin(model))
        return started

    def retry(self, attempt: int, delay_ms: int, code: ErrorCode) -> Event:
        """The attempt failed before its first byte; `attempt` is the number of the next one."""
        self._to("retry")
        return self._event("turn.retrying", {"attempt": attempt, "delay_ms": delay_ms, "code": code})

    def content(self, content: Content, now_ms: int) -> Delta:
        """A piece of the answer, its part moved behind those of earlier steps."""
        if self.state != "answering":
            self._to("content")
        if self._first_token_ms is None:
            self._first_token_ms = now_ms - self._began_ms
        delta = Delta(
            self.turn,
            content.part + self._bases[-1],
            content.kind,
            content.text,
            content.call,
            content.name,
            content.last,
            content.opaque,
        )
        self.answer.add(delta)
        if self._has_budget:
            self._spending.add(hundredths_of(content.text))
        return delta

    def asked_for(self, input_tokens_guess: int) -> None:
        """What the next request is guessed to have as input, in case its provider never says."""
        self._spending.expect(input_tokens_guess)

    def used(self, report: UsageReport) -> None:
        self._spending.report(report)

    def park(self, asks: Sequence[dict[str, Any]]) -> list[Entry]:
        """Ask for tool results or approvals; `asks` are values.Ask. With these entries the lease is given up."""
        self._to("park")
        entries: list[Entry] = list(self._closing_deltas())
        # With the first of them, because a step's usage is lost when another node goes on without it.
        kept = orjson.dumps(self._spending.settle(self._text_of_step()))
        for ask in asks:
            fields = {"request": str(ask["request"])}
            body = orjson.dumps({"kind": ask["kind"], "detail": ask["detail"]})
            entries.append(Event("turn.asked", self.turn, body, fields, kept=kept))
            kept = b""
        return entries

    def answered(self) -> None:
        """The last ask was answered; the next step may start."""
        self._to("answer")

    def done(self, reason: FinishReason, now_ms: int, *, upstream_stopped: bool | None = None) -> list[Entry]:
        """The terminal of an answer that ended, behind the last deltas of its open parts."""
        self._to("end")
        entries: list[Entry] = list(self._closing_deltas())
        body: dict[str, Any] = {
            "finish_reason": reason,
            **self._spent(proved=reason not in ("cancelled", "budget")),
            "model": self.model,
            "attempts": self.attempts,
            "first_token_ms": self._first_token_ms,
            "duration_ms": max(0, now_ms - self._began_ms),
            "parts": self.answer.summaries(),
        }
        if upstream_stopped is not None:
            body["upstream_stopped"] = upstream_stopped
        entries.append(self._event("turn.done", body))
        return entries

    def failed(self, error: ErrorBody) -> list[Entry]:
        """The terminal of an answer that failed, behind the last deltas of its open parts."""
        self._to("end")
        entries: list[Entry] = list(self._closing_deltas())
        body: dict[str, Any] = {
            "error": error.model_dump(exclude_none=True),
            **self._spent(proved=False),
            "partial": not self.answer.empty,
            "parts": self.answer.summaries(),
        }
        entries.append(self._event("turn.error", body))
        return entries

    def fold(self, history: Sequence[Logged]) -> None:
        """Take in what the log already has of this turn, for whoever takes it over."""
        waiting: set[str] = set()
        for logged in history:
            entry = logged.entry
            if isinstance(entry, Delta):
                self.state = "answering"
                self.answer.add(entry)
            elif entry.type == "turn.started":
                self._fold_started(entry)
            elif entry.type == "turn.asked":
                self.state = "parked"
                waiting.add(entry.fields["request"])
                if entry.kept:
                    self._spending.was_settled(orjson.loads(entry.kept))
            elif entry.type == "turn.responded":
                waiting.discard(orjson.loads(entry.body)["request"])
                if not waiting:
                    self.answered()
            elif entry.type in TERMINAL_TYPES:
                self.state = "over"

    # --- what is known --------------------------------------------------------------------------------------------

    @property
    def attempt_of_step(self) -> int:
        """How many attempts the current step has had, here and elsewhere."""
        return self._attempt_of_step

    def open_calls(self) -> list[dict[str, Any]]:
        """The tool calls that have no result, as parts."""
        parts = self.answer.as_parts()
        return [part for part in parts if part["kind"] == "tool_call" and request_of(part) not in self._answers]

    def overspent(self) -> bool:
        """Whether the turn is to end because its budget is spent."""
        return self._spending.overspent()

    def exchange(self, inputs: Sequence[Mapping[str, Any]]) -> Exchange:
        """The turn as a context has it."""
        results = {request: value.decode() for request, value in self._answers.items()}
        return Exchange(inputs, self.answer.as_parts(), self._bases, results, self.answer.opaque())

    def record(self) -> bytes:
        """The final record: `parts`, which clients are shown, and beside them what only later contexts need."""
        results: dict[str, str] = {}
        left = RESULTS_BYTES_MAX
        for request, value in self._answers.items():
            if len(value) <= left:
                results[request] = value.decode()
                left -= len(value)
        record: dict[str, Any] = {"parts": self.answer.as_parts(), "steps": self._bases, "results": results}
        opaque = self.answer.opaque()
        if opaque:
            record["opaque"] = {str(part): text for part, text in opaque.items()}
        return orjson.dumps(record)

    def _text_of_step(self) -> str:
        base = self._bases[-1] if self._bases else 0
        return "".join(str(part["text"]) for part in self.answer.as_parts()[base:])

    def _spent(self, *, proved: bool) -> dict[str, Any]:
        text = self._text_of_step()
        self.used_up = self._spending.used(text, proved=proved)
        return self._spending.as_told(text, proved=proved)

    def _fold_started(self, entry: Event) -> None:
        started = orjson.loads(entry.body)
        self.state = "started"
        if started["step"] > self.step:
            self._bases.append(self.answer.parts_count)
        self.step = started["step"]
        self._attempt_of_step = started["attempt"]
        self.model = started["model"]
        self.attempts += 1
        self._spending.begun(self.model, orjson.loads(entry.kept or b"{}"))

    def _closing_deltas(self) -> list[Delta]:
        """An empty last delta for each part that is still open, so that a reader sees every part end."""
        closing = [Delta(self.turn, number, kind, "", last=True) for number, kind in self.answer.open_parts()]
        self.answer.add_all(closing)
        return closing

    def _to(self, happening: Happening) -> None:
        following = TABLE.get((self.state, happening))
        if following is None:
            raise IllegalTurn(f"turn {self.turn}: {happening} while {self.state}")
        self.state = following

    def _event(self, kind: str, body: dict[str, Any]) -> Event:
        return Event(kind, self.turn, orjson.dumps(body))


Takeover = Literal["run", "cancelled", "node_lost", "queue_expired", "input_expired"]

RUNS_AGAIN_MAX: Final = 1
"""A request that took two nodes down is not given to a third."""


def takeover_of(
    turn: Turn, stored: Literal["queued", "running", "parked"], cancel_by: str | None, takes: int
) -> Takeover:
    """What becomes of a turn whose lease ran out, once its entries are folded into `turn`.

    `stored` is the state that the store had it in; a queued or parked turn is overdue when its wait was too long.
    """
    if cancel_by is not None:
        return "cancelled"
    if stored == "queued":
        return "queue_expired"
    if stored == "parked":
        return "input_expired"
    if turn.state == "answering":
        return "node_lost"
    return "run" if takes <= RUNS_AGAIN_MAX else "node_lost"


_OF_OTHERS: Final = frozenset(["turn.accepted", "turn.cancelling", "turn.responded"])
"""Entries of a turn that its writers do not append: clients' commands do."""


def written_of(history: Sequence[Logged]) -> list[Entry]:
    """What the turn's writers have appended, of all its entries."""
    return [
        logged.entry for logged in history if isinstance(logged.entry, Delta) or logged.entry.type not in _OF_OTHERS
    ]


def cancelled_before_start(model: str, prices: Mapping[str, Price]) -> bytes:
    """The body of turn.done for a turn that was cancelled before it ran: it cost nothing."""
    return orjson.dumps(
        {
            "finish_reason": "cancelled",
            **Spending(prices).as_told("", proved=False),
            "model": model,
            "attempts": 0,
            "first_token_ms": None,
            "duration_ms": 0,
            "parts": [],
        }
    )
