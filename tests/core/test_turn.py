"""Whatever happens to a turn, its log reads well: one terminal, parts that end, and sums that are right."""

import zlib
from collections.abc import Callable, Sequence
from decimal import Decimal
from itertools import product
from typing import Any, get_args

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.core.generated import KINDS, few, properly, texts, validated
from turnwire.core.context import exchange_of
from turnwire.core.entries import Content, Delta, Entry, Event, Logged, UsageReport
from turnwire.core.errors import describe, error_body
from turnwire.core.framing import body_of, frame_of
from turnwire.core.merge import merge_logged
from turnwire.core.spending import Budget, Price, Rates
from turnwire.core.tokens import tokens_likely
from turnwire.core.turn import (
    RESULTS_BYTES_MAX,
    RUNS_AGAIN_MAX,
    TABLE,
    Happening,
    IllegalTurn,
    State,
    Turn,
    cancelled_before_start,
    takeover_of,
)
from turnwire_protocol.events import TERMINAL_TYPES
from turnwire_protocol.values import FinishReason

STATES: tuple[State, ...] = get_args(State)
HAPPENINGS: tuple[Happening, ...] = get_args(Happening)
ASKS = [{"request": "part-0", "kind": "tool_result", "detail": {"call": "c", "name": "n", "arguments": "{}"}}]

# --- the table --------------------------------------------------------------------------------------------------------


def fresh() -> Turn:
    return Turn("t1", "m", began_ms=1_000)


def turn_in(state: State) -> Turn:
    turn = fresh()
    if state == "accepted":
        return turn
    turn.start("m", 1)
    if state in ("answering", "over"):
        turn.content(Content(0, "text", "hi"), 1_010)
    if state == "parked":
        turn.park(ASKS)
    if state == "over":
        turn.done("stop", 1_020)
    assert turn.state == state
    return turn


def make(turn: Turn, happening: Happening) -> Any:
    acts: dict[Happening, Callable[[], Any]] = {
        "start": lambda: turn.start("m2", turn.attempt_of_step + 1),
        "retry": lambda: turn.retry(2, 10, "upstream_timeout"),
        "content": lambda: turn.content(Content(0, "text", "more"), 2_000),
        "park": lambda: turn.park(ASKS),
        "answer": turn.answered,
        "end": lambda: turn.done("stop", 2_000),
    }
    return acts[happening]()


def everything_of(turn: Turn) -> dict[str, Any]:
    known = {name: repr(value) for name, value in vars(turn).items() if name != "answer"}
    return known | {"parts": turn.answer.as_parts(), "sums": turn.answer.summaries(), "bytes": turn.answer.bytes}


@pytest.mark.parametrize(("state", "happening"), sorted(TABLE))
def test_what_stands_in_the_table_leads_where_it_says(state: State, happening: Happening) -> None:
    turn = turn_in(state)
    make(turn, happening)
    assert turn.state == TABLE[state, happening]


@pytest.mark.parametrize(("state", "happening"), sorted(set(product(STATES, HAPPENINGS)) - TABLE.keys()))
def test_what_does_not_stand_in_the_table_is_illegal_and_changes_nothing(state: State, happening: Happening) -> None:
    turn = turn_in(state)
    before = everything_of(turn)
    with pytest.raises(IllegalTurn, match=f"turn t1: {happening} while {state}"):
        make(turn, happening)
    assert everything_of(turn) == before


@pytest.mark.parametrize("state", STATES)
def test_a_failure_ends_a_turn_in_any_state_but_the_last(state: State) -> None:
    turn = turn_in(state)
    before = everything_of(turn)
    if state == "over":
        with pytest.raises(IllegalTurn):
            turn.failed(describe("internal"))
        assert everything_of(turn) == before
    else:
        assert turn.failed(describe("internal"))[-1] == turn_error(turn)
        assert turn.state == "over"


def turn_error(turn: Turn) -> Event:
    error = describe("internal").model_dump(exclude_none=True)
    body = {
        "error": error,
        **turn._spent(proved=False),
        "partial": not turn.answer.empty,
        "parts": turn.answer.summaries(),
    }
    return Event("turn.error", "t1", orjson.dumps(body))


def test_the_table_keeps_the_laws_that_stand_above_it() -> None:
    to: dict[Happening, set[State]] = {name: {a for a, b in TABLE if b == name} for name in HAPPENINGS}
    assert "over" not in {state for state, _ in TABLE}  # 1
    assert {following for (_, name), following in TABLE.items() if name == "end"} == {"over"}  # 1
    assert to["content"] == {"started", "answering"}  # 2
    assert to["retry"].isdisjoint({"answering", "parked", "over"})  # 3
    assert to["start"].isdisjoint({"answering", "parked", "over"})  # 3
    assert {name for state, name in TABLE if state == "parked"} == {"answer", "end"}  # 4
    assert to["end"] == set(STATES) - {"over"}  # 5


# --- any legal life ---------------------------------------------------------------------------------------------------


class Life:
    """One turn that is told what happens, with the log that it writes, and its facts kept a second time.

    The writer may be lost at any moment: then another one folds the log and goes on.
    """

    def __init__(self, draw: Callable[[st.SearchStrategy[Any]], Any]) -> None:
        self.draw = draw
        self.turn = fresh()
        self.logged: list[Logged] = []
        self.now_ms = 1_000
        self.step_parts: list[str] = []
        """Kinds of the parts of this step, in the order of their first delta."""
        self.open_parts: set[int] = set()
        self.base = 0
        self.step = 0
        self.attempts_of_step = 0
        self.starts: list[tuple[int, int, str]] = []
        self.waiting: list[str] = []
        self.first_token_ms: int | None = None
        self.inherited = False

    def log(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            seq = len(self.logged) + 1
            if isinstance(entry, Event):
                entry.at = 1_700_000_000_000 + seq
            self.logged.append(Logged(seq, seq, entry))

    def start(self) -> None:
        if self.turn.state == "accepted":
            self.step += 1
            self.attempts_of_step = 0
            self.base += len(self.step_parts)
            self.step_parts, self.open_parts = [], set()
        self.attempts_of_step += 1
        model = self.draw(st.sampled_from(["m", "m2"]))
        self.starts.append((self.step, self.attempts_of_step, model))
        self.log([self.turn.start(model, self.attempts_of_step)])

    def retry(self) -> None:
        self.log([self.turn.retry(self.attempts_of_step + 1, 500, "upstream_unavailable")])

    def content(self) -> None:
        self.now_ms += self.draw(st.integers(0, 50))
        part = self.draw(st.sampled_from([*sorted(self.open_parts), len(self.step_parts)]))
        first = part == len(self.step_parts)
        if first:
            self.step_parts.append(self.draw(st.sampled_from(KINDS)))
            self.open_parts.add(part)
        kind: Any = self.step_parts[part]
        call = "c" if first and kind == "tool_call" else None
        last = self.draw(st.booleans())
        if last:
            self.open_parts.discard(part)
        text = self.draw(texts)
        if self.first_token_ms is None and not self.inherited:
            self.first_token_ms = self.now_ms - 1_000
        delta = self.turn.content(Content(part, kind, text, call, call, last), self.now_ms)
        assert delta == Delta("t1", self.base + part, kind, text, call, call, last)
        self.log([delta])

    def park(self) -> None:
        self.waiting = [f"r{number}" for number in range(self.draw(st.integers(1, 3)))]
        self.log(self.turn.park([{**ASKS[0], "request": request} for request in self.waiting]))

    def answer(self) -> None:
        request = self.draw(st.sampled_from(self.waiting))
        self.waiting.remove(request)
        self.log([Event("turn.responded", "t1", orjson.dumps({"request": request, "by": "ann"}))])
        if not self.waiting:
            self.turn.answered()

    def end(self) -> None:
        self.now_ms += 5
        if self.draw(st.booleans()):
            reason: FinishReason = self.draw(st.sampled_from(get_args(FinishReason)))
            stopped = self.draw(st.sampled_from([None, True, False]))
            self.log(self.turn.done(reason, self.now_ms, upstream_stopped=stopped))
        else:
            self.log(self.turn.failed(error_body("node_lost", "It went away.")))

    def hand_over(self) -> None:
        heir = fresh()
        heir.fold(merge_logged(self.logged) if self.draw(st.booleans()) else self.logged)
        same_known(heir, self.turn)
        if heir.state == "answering":
            self.turn = heir
            self.end()
        self.turn = heir
        self.inherited = True

    def live(self) -> None:
        choices: dict[State, list[Callable[[], None]]] = {
            "accepted": [self.start],
            "started": [self.start, self.retry, self.content, self.content, self.park],
            "answering": [self.content, self.content, self.content, self.park],
            "parked": [self.answer],
        }
        for _ in range(self.draw(st.integers(0, 25))):
            if self.turn.state != "over":
                rare = [self.hand_over] if self.draw(st.integers(0, 9)) == 7 else []
                self.draw(st.sampled_from(rare or choices[self.turn.state]))()
        if self.turn.state != "over":
            self.end()


def same_known(one: Turn, other: Turn) -> None:
    """Both know the same of their turn, but for times and tokens, which are their writer's own."""
    assert (one.state, one.step, one.attempts) == (other.state, other.step, other.attempts)
    assert (one.attempt_of_step, one.model) == (other.attempt_of_step, other.model)
    assert one.answer.summaries() == other.answer.summaries()
    assert one.record() == other.record()
    assert one._spent(proved=False)["usage"] == other._spent(proved=False)["usage"]


@st.composite
def lives(draw: st.DrawFn) -> Life:
    life = Life(draw)
    life.live()
    return life


def deltas_of(life: Life) -> list[Delta]:
    return [piece.entry for piece in life.logged if isinstance(piece.entry, Delta)]


@properly
@given(lives())
def test_every_life_ends_with_its_one_terminal(life: Life) -> None:
    kinds = [piece.entry.type for piece in life.logged if isinstance(piece.entry, Event)]
    assert [kind in TERMINAL_TYPES for kind in kinds] == [False] * (len(kinds) - 1) + [True]
    assert isinstance(life.logged[-1].entry, Event)
    assert life.turn.state == "over"


@properly
@given(lives())
def test_the_terminal_sums_up_the_texts_that_were_sent(life: Life) -> None:
    whole: dict[int, tuple[str, bytes]] = {}
    for delta in deltas_of(life):
        kind, said = whole.get(delta.part, (delta.kind, b""))
        assert kind == delta.kind
        whole[delta.part] = (kind, said + delta.text.encode())
    terminal = frame_of("s", life.logged[-1])
    assert terminal["parts"] == [
        {"part": part, "kind": kind, "bytes": len(said), "crc32": zlib.crc32(said)}
        for part, (kind, said) in whole.items()
    ]
    if terminal["type"] == "turn.error":
        assert terminal["partial"] is bool(whole)
    else:
        assert terminal["attempts"] == len(life.starts)
        assert terminal["model"] == (life.starts[-1][2] if life.starts else "m")
        assert terminal["duration_ms"] == life.now_ms - 1_000
        if not life.inherited:
            assert terminal["first_token_ms"] == life.first_token_ms


@properly
@given(lives())
def test_parts_are_numbered_in_the_order_they_begin_and_each_ends_once(life: Life) -> None:
    deltas = deltas_of(life)
    assert list(dict.fromkeys(delta.part for delta in deltas)) == list(range(len({delta.part for delta in deltas})))
    for part in {delta.part for delta in deltas}:
        of_part = [delta for delta in deltas if delta.part == part]
        assert [delta.last for delta in of_part] == [False] * (len(of_part) - 1) + [True]


@properly
@given(lives())
def test_every_part_has_ended_before_the_turn_waits_or_ends(life: Life) -> None:
    still_open: set[int] = set()
    for entry in (piece.entry for piece in life.logged):
        if isinstance(entry, Delta):
            (still_open.discard if entry.last else still_open.add)(entry.part)
        elif entry.type in ("turn.asked", "turn.done", "turn.error"):
            assert not still_open


@properly
@given(lives())
def test_steps_and_their_attempts_are_counted_from_one_whoever_writes(life: Life) -> None:
    started = [frame_of("s", piece) for piece in life.logged if frame_of("s", piece)["type"] == "turn.started"]
    assert [(frame["step"], frame["attempt"], frame["model"]) for frame in started] == life.starts


@properly
@given(lives())
def test_every_frame_of_a_life_is_what_its_model_says(life: Life) -> None:
    for piece in life.logged:
        validated(frame_of("s", piece))


@properly
@given(lives(), st.data())
def test_whoever_folds_the_log_knows_what_its_writer_knew(life: Life, data: st.DataObject) -> None:
    heir = fresh()
    heir.fold(data.draw(st.sampled_from([life.logged, merge_logged(life.logged)])))
    same_known(heir, life.turn)
    for happening in HAPPENINGS:
        with pytest.raises(IllegalTurn):
            make(heir, happening)


# --- what else it says ------------------------------------------------------------------------------------------------


def test_a_step_that_another_node_began_goes_on_behind_the_parts_of_earlier_steps() -> None:
    life = turn_in("started")
    log: list[Entry] = [life.content(Content(0, "text", "first"), 1_010), *life.park(ASKS)]
    log += [Event("turn.responded", "t1", b'{"request":"part-0","by":"ann"}')]
    log += [Event("turn.started", "t1", b'{"step":2,"attempt":1,"model":"m"}')]
    heir = fresh()
    heir.fold([Logged(seq, seq, entry) for seq, entry in enumerate(log, 1)])
    heir.start("m", heir.attempt_of_step + 1)
    assert heir.step == 2
    assert heir.content(Content(0, "text", "second"), 1_050).part == 1


def test_an_ask_is_stored_with_its_request_where_the_store_can_read_it() -> None:
    turn = turn_in("started")
    (asked,) = turn.park(ASKS)
    assert isinstance(asked, Event)
    assert asked.fields == {"request": "part-0"}
    assert body_of(asked) == {"kind": "tool_result", "detail": ASKS[0]["detail"]}


@pytest.mark.parametrize(
    ("stopped", "field"), [(None, {}), (True, {"upstream_stopped": True}), (False, {"upstream_stopped": False})]
)
def test_whether_the_provider_was_stopped_is_said_only_where_it_was_tried(
    stopped: bool | None, field: dict[str, bool]
) -> None:
    terminal = turn_in("answering").done("cancelled", 2_000, upstream_stopped=stopped)[-1]
    assert isinstance(terminal, Event)
    assert {name: value for name, value in body_of(terminal).items() if name == "upstream_stopped"} == field


def test_a_clock_that_began_later_makes_no_negative_duration() -> None:
    terminal = fresh().done("stop", 900)[-1]
    assert isinstance(terminal, Event)
    assert body_of(terminal)["duration_ms"] == 0


def test_the_final_record_holds_the_answers_parts() -> None:
    turn = turn_in("over")
    assert orjson.loads(turn.record())["parts"] == [{"part": 0, "kind": "text", "text": "hi", "last": True}]


def test_a_turn_that_was_cancelled_before_it_ran_cost_nothing() -> None:
    frame = frame_of("s", Logged(2, 2, Event("turn.done", "t1", cancelled_before_start("m", PRICES), at=5)))
    model = validated(frame)
    assert (model.finish_reason, model.model, model.attempts, model.parts) == ("cancelled", "m", 0, [])
    assert (model.usage.input_tokens, model.usage.output_tokens, model.usage.estimated) == (0, 0, False)
    assert model.cost.amount == "0"
    assert b"cost" not in cancelled_before_start("m", {})


# --- usage ------------------------------------------------------------------------------------------------------------

PRICES: dict[str, Price] = {"m": Rates(Decimal(1), Decimal(2))}


def body(entries: Sequence[Entry]) -> dict[str, Any]:
    terminal = entries[-1]
    assert isinstance(terminal, Event)
    return body_of(terminal)


def priced(**options: Any) -> Turn:
    return Turn("t1", "m", began_ms=1_000, prices=PRICES, **options)


def in_two_steps() -> tuple[Turn, list[Entry]]:
    """A turn in its second step, and its log: the first had 1,000,000 tokens of input and said `said`."""
    turn = priced()
    turn.asked_for(20)
    log: list[Entry] = [turn.start("m", 1), turn.content(Content(0, "text", "said"), 1_010)]
    turn.used(UsageReport(1_000_000, 5))
    log += turn.park([*ASKS, {**ASKS[0], "request": "part-1"}])
    turn.answered()
    turn.asked_for(30)
    log += [Event("turn.responded", "t1", orjson.dumps({"request": f"part-{n}", "by": "ann"})) for n in range(2)]
    log += [turn.start("m", 1), turn.content(Content(0, "text", "more of it"), 1_020)]
    return turn, log


@pytest.mark.parametrize("reason", ["stop", "length", "content_filter", "tool_calls"])
def test_an_answer_that_ended_has_the_usage_and_cost_that_its_services_told(reason: FinishReason) -> None:
    turn, _ = in_two_steps()
    turn.used(UsageReport(40, 500_000))
    told = body(turn.done(reason, 2_000))
    assert told["usage"] == {"input_tokens": 1_000_040, "output_tokens": 500_005, "estimated": False}
    assert told["cost"] == {"amount": "2.00005", "currency": "USD"}


@pytest.mark.parametrize("end", ["cancelled", "budget", "failed"])
def test_an_answer_that_was_ended_has_them_estimated_for_its_last_step(end: Any) -> None:
    turn, _ = in_two_steps()
    turn.used(UsageReport(40, 1))
    told = body(turn.failed(describe("truncated")) if end == "failed" else turn.done(end, 2_000))
    output_tokens = 5 + tokens_likely("more of it")
    assert told["usage"] == {"input_tokens": 1_000_040, "output_tokens": output_tokens, "estimated": True}
    assert Decimal(told["cost"]["amount"]) == Decimal("1.00004") + Decimal(output_tokens) * 2 / 1_000_000


def test_whoever_takes_a_turn_over_tells_the_usage_of_its_earlier_steps_too() -> None:
    turn, log = in_two_steps()
    heir = priced()
    heir.fold([Logged(seq, seq, entry) for seq, entry in enumerate(log, 1)])
    error = error_body("node_lost", "It went away.")
    told = body(heir.failed(error))
    assert told == body(turn.failed(error))
    assert told["usage"]["input_tokens"] == 1_000_030


def test_what_is_kept_for_other_writers_is_in_no_frame() -> None:
    _, log = in_two_steps()
    kept = [entry for entry in log if isinstance(entry, Event) and entry.kept]
    assert [entry.type for entry in kept] == ["turn.started", "turn.asked", "turn.started"]
    for entry in kept:
        validated(frame_of("s", Logged(1, 1, Event(entry.type, "t1", entry.body, entry.fields, 5, entry.kept))))


def test_a_budget_is_told_of_when_it_is_spent() -> None:
    turn = priced(budget=Budget(tokens=100))
    turn.asked_for(20)
    turn.start("m", 1)
    assert not turn.overspent()
    turn.content(Content(0, "text", "word " * 200), 1_010)
    assert turn.overspent()
    assert not priced().overspent()


# --- what contexts need -----------------------------------------------------------------------------------------------


def test_the_record_has_the_results_of_tools_and_where_each_step_began() -> None:
    turn = Turn("t1", "m", began_ms=1_000, answers={"part-1": b'"noon"'})
    turn.start("m", 1)
    turn.content(Content(0, "text", "Let me look."), 1_010)
    turn.content(Content(1, "tool_call", "{}", "c", "clock"), 1_010)
    turn.content(Content(2, "tool_call", "{}", "d", "clock"), 1_010)
    assert [call["call"] for call in turn.open_calls()] == ["d"]
    turn.park(ASKS)
    turn.answered()
    turn.start("m", 1)
    turn.content(Content(0, "text", "It is noon."), 1_020)
    record = orjson.loads(turn.record())
    assert (record["steps"], record["results"]) == ([0, 3], {"part-1": '"noon"'})
    assert [part["part"] for part in record["parts"]] == [0, 1, 2, 3]
    assert turn.exchange([{"type": "text", "text": "hi"}]) == exchange_of([{"type": "text", "text": "hi"}], record)


def test_the_record_has_what_providers_want_back_beside_the_parts_that_clients_see() -> None:
    turn = Turn("t1", "m", began_ms=1_000)
    turn.start("m", 1)
    turn.content(Content(0, "reasoning", "Hm", last=True, opaque="signed"), 1_010)
    record = orjson.loads(turn.record())
    assert record["opaque"] == {"0": "signed"}
    assert "signed" not in str(record["parts"])
    assert turn.exchange([]) == exchange_of([], record)


def test_results_over_a_record_s_maximum_are_forgotten_and_smaller_ones_kept() -> None:
    half = b"1" * (RESULTS_BYTES_MAX // 2 + 1)
    turn = Turn("t1", "m", began_ms=1_000, answers={"part-0": half, "part-1": half, "part-2": b"0"})
    assert orjson.loads(turn.record())["results"] == {"part-0": half.decode(), "part-2": "0"}
    assert set(turn.exchange([]).results) == {"part-0", "part-1", "part-2"}


# --- taking over ------------------------------------------------------------------------------------------------------


@few
@given(
    st.sampled_from([state for state in STATES if state != "over"]),
    st.sampled_from(["queued", "running", "parked"]),
    st.sampled_from([None, "ann", ""]),
    st.integers(0, 4),
)
def test_a_stored_cancel_is_carried_out_whatever_else_is_true(
    state: State, stored: Any, cancel_by: str | None, takes: int
) -> None:
    assert (takeover_of(turn_in(state), stored, cancel_by, takes) == "cancelled") is (cancel_by is not None)


@pytest.mark.parametrize(
    ("state", "stored", "takes", "becomes"),
    [
        ("accepted", "queued", 0, "queue_expired"),
        ("accepted", "queued", 9, "queue_expired"),
        ("parked", "parked", 0, "input_expired"),
        ("parked", "parked", 9, "input_expired"),
        # A queued turn whose time has come: its first run.
        ("accepted", "running", 0, "run"),
        # Its node went away before the first byte: once more, and not twice.
        ("accepted", "running", RUNS_AGAIN_MAX, "run"),
        ("started", "running", RUNS_AGAIN_MAX, "run"),
        ("accepted", "running", RUNS_AGAIN_MAX + 1, "node_lost"),
        ("started", "running", RUNS_AGAIN_MAX + 1, "node_lost"),
        # After the first byte never.
        ("answering", "running", 0, "node_lost"),
        ("answering", "running", 1, "node_lost"),
    ],
)
def test_an_overdue_turn_is_run_again_only_before_its_first_byte_and_once(
    state: State, stored: Any, takes: int, becomes: str
) -> None:
    assert takeover_of(turn_in(state), stored, None, takes) == becomes


def test_a_request_that_took_two_nodes_down_is_not_given_to_a_third() -> None:
    assert RUNS_AGAIN_MAX == 1
