"""Resumes, snapshots, merged deltas, several readers: whoever reads a log, whenever and however, reads the same log."""

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.protocol.conversations import (
    Json,
    Log,
    Step,
    client,
    created,
    creates,
    greeted,
    merged,
    opens,
    play,
    reading,
    server,
)
from tests.protocol.generated import at_some_length, properly
from turnwire_protocol.grammar import History, RuleBroken
from turnwire_protocol.limits import SNAPSHOT_BYTES_MAX


def busy_log() -> Log:
    """A finished turn, a failed one, a parked one, two in the queue, and a title."""
    log = Log()
    log.answer("t1", "Hel", "lo", "!")
    log.updated()
    log.accepted("t2", parent="t1")
    log.started("t2")
    log.delta("t2", "half", last=True)
    log.error("t2", "upstream_truncated")
    log.accepted("t3", again="t1")
    log.started("t3")
    log.delta("t3", "hm", 0, "reasoning", last=True)
    log.delta("t3", '{"a":', 1, "tool_call", call="k", name="pay")
    log.delta("t3", "1}", 1, "tool_call", last=True)
    log.accepted("t4", "queued")
    log.accepted("t5", "queued")
    log.asked("t3", "r1")
    log.asked("t3", "r2")
    log.responded("t3", "r1")
    return log


def finished(log: Log) -> Log:
    """What may come behind busy_log."""
    log.responded("t3", "r2")
    log.started("t3", 2)
    log.delta("t3", "Paid", 2)
    log.delta("t3", ".", 2, last=True)
    log.done("t3")
    log.started("t4")
    log.cancelling("t4")
    log.done("t4", "cancelled")
    log.done("t5", "cancelled")
    log.deleted()
    return log


def resuming(log: Log, seq: int, frames: list[Json] | None = None) -> list[Step]:
    """Another connection, which goes on behind `seq`."""
    more = log.after(seq) if frames is None else frames
    return greeted() + client(opens(after=log.cursor(seq))) + server(log.opened(seq, reply_to="o"), *more)


def showing(log: Log, seq: int, frames: list[Json] | None = None, **asked: Any) -> list[Step]:
    """Another connection, which gets a snapshot of `seq` and what follows."""
    shown = log.snapshot(seq, reply_to="o")
    more = log.after(seq) if frames is None else frames
    return greeted() + client(opens(**asked)) + server(*shown, *more)


def rule_of(steps: list[Step], history: History | None = None) -> str:
    """Which rule the last step breaks, and only that one."""
    *before, (_, last) = steps
    verifier = play(before, history)
    with pytest.raises(RuleBroken) as caught:
        verifier.server_sent(last)
    return caught.value.rule


def read(log: Log) -> History:
    """What is known when the log was read from its beginning."""
    history = History()
    play(reading(log), history).finish()
    return history


# --- what passes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seq", range(finished(busy_log()).head + 1))
def test_a_reader_may_go_on_from_any_place(seq: int) -> None:
    log = finished(busy_log())
    history = read(log)
    play(resuming(log, seq), history).finish()
    play(resuming(log, seq, merged(log.after(seq))), history).finish()


@pytest.mark.parametrize("seq", range(busy_log().head + 1))
def test_a_snapshot_of_any_place_may_be_gone_on_from(seq: int) -> None:
    log = finished(busy_log())
    play(showing(log, seq)).finish()
    play(showing(log, seq), read(log)).finish()
    history = History()
    play(showing(log, seq), history).finish()
    play(reading(log), history).finish()


def test_a_late_reader_is_not_held_to_what_it_was_not_told() -> None:
    """A create in a session that is not open tells nothing of what was before."""
    log = busy_log()
    start = log.accepted("t6", "queued")["seq"]
    finished(log)
    log.frames.pop()
    log.started("t6")
    log.done("t6")
    for known, duplicate in ((History(), False), (read(log), True)):
        ack = created("t6", start, duplicate=duplicate)
        play(
            greeted() + client(creates("t6")) + server(log.opened(start - 1), ack, *log.after(start - 1)), known
        ).finish()
    for seq in range(log.head):
        play(resuming(log, seq)).finish()
        play(resuming(log, seq, merged(log.after(seq)))).finish()


def test_a_cursor_is_moved_by_opening_again_and_by_a_snapshot_unasked() -> None:
    log = finished(busy_log())
    steps = (
        reading(log, log.frames[:9])
        + client(opens(id="o2", after=log.cursor(3)))
        + server(*log.after(9, 12), log.opened(3, reply_to="o2"), *log.after(3, 14), *log.snapshot(20), *log.after(20))
    )
    play(steps).finish()


def test_the_pieces_of_a_long_turn_are_put_together() -> None:
    log = busy_log()
    opened, first, second, third, *queued = log.snapshot(reply_to="o")
    parked = {**third, "again": "t1"}
    reasoning, call = third["parts"]
    pieces = [
        {**parked, "parts": [reasoning, {**call, "text": '{"', "last": False}], "pending": []},
        {**parked, "input": [], "parts": [{**call, "text": 'a":1', "last": False}], "pending": [], "continued": True},
        {**parked, "input": [], "parts": [{**call, "text": "}"}], "continued": True},
    ]
    steps = greeted() + client(opens()) + server({**opened, "turns": 7}, first, second, *pieces, *queued)
    log = finished(log)
    play(steps + server(*log.after(opened["seq"]))).finish()


def read_in_any_way(data: st.DataObject) -> None:
    log = data.draw(logs())
    history = History()
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, log.head))
        until = data.draw(st.integers(start, log.head))
        joins = data.draw(st.sets(st.integers(0, log.head)))
        frames = merged(log.after(start, until), joins.__contains__)
        way = resuming if data.draw(st.booleans()) else showing
        play(way(log, start, frames), history)
    play(reading(log), history).finish()


@properly
@given(st.data())
def test_whatever_was_read_before_a_legal_reading_breaks_no_rule(data: st.DataObject) -> None:
    read_in_any_way(data)


@pytest.mark.prove
@at_some_length
@given(st.data())
def test_whatever_was_read_before_a_legal_reading_breaks_no_rule_at_length(data: st.DataObject) -> None:
    read_in_any_way(data)


# --- what does not ---------------------------------------------------------------------------------------------------


@properly
@given(st.data())
def test_another_text_at_a_known_place_is_found_out(data: st.DataObject) -> None:
    log = data.draw(logs())
    deltas = [frame for frame in log.frames if frame["type"] == "turn.delta"]
    if not deltas:
        return
    changed = data.draw(st.sampled_from(deltas))
    history = read(log)
    frames = log.frames[: changed["seq"]]
    frames[-1] = {**changed, "text": changed["text"] + data.draw(st.sampled_from("xé"))}

    assert rule_of(reading(log, frames), history) == "SEQ-2"
    start = data.draw(st.integers(0, changed["seq"] - 1))
    assert rule_of(resuming(log, start, frames[start:]), history) == "SEQ-2"


@pytest.mark.parametrize("place", range(busy_log().head))
def test_another_event_at_a_known_place_is_found_out(place: int) -> None:
    log = busy_log()
    history = read(log)
    frame = log.frames[place]
    if frame["type"] == "turn.delta":
        frame = log.updated()
        frame["seq"] = place + 1
    else:
        frame = {**frame, "at": frame["at"] + 1}
    assert rule_of(reading(log, [*log.frames[:place], frame]), history) == "SEQ-2"


def test_a_delta_where_an_event_was_is_found_out() -> None:
    log = Log()
    log.answer("t", "a")
    delta = {**log.frames[2], "seq": 4}
    assert rule_of(resuming(log, 3, [delta]), read(log)) == "SEQ-2"


def test_a_merged_delta_that_hides_something_is_found_out() -> None:
    log = Log()
    log.accepted("t")
    log.started("t")
    log.delta("t", "a")
    log.updated()
    log.delta("t", "b")
    log.delta("t", "c", 1)
    log.delta("t", "d")
    joined = {**log.frames[2], "first_seq": 3, "seq": 5, "text": "ab"}
    history = read(log)
    assert rule_of(reading(log, [*log.frames[:2], joined]), history) == "DELTA-2"
    other_part = {**log.frames[4], "first_seq": 5, "seq": 7, "text": "bcd"}
    assert rule_of(reading(log, [*log.frames[:4], other_part]), history) == "SEQ-2"
    other_turn = {**log.frames[5], "turn": "u", "part": 0, "first_seq": 6, "seq": 7}
    assert rule_of(resuming(log, 5, [other_turn]), history) == "DELTA-2"


def test_a_second_terminal_is_found_out_whoever_read_the_first() -> None:
    log = busy_log()
    history = read(log)
    terminal = log.frames[5]
    assert rule_of(resuming(log, log.head, [{**terminal, "seq": log.head + 1}]), history) == "TERM-1"
    history = History()
    play(showing(log, 6), history)
    earlier = {**terminal, "seq": 3, "parts": []}
    assert rule_of(reading(log, [*log.frames[:2], earlier]), history) == "TERM-1"


def test_a_turn_that_is_accepted_twice_is_found_out_whoever_read_the_first() -> None:
    log = busy_log()
    history = read(log)
    again = {**log.frames[11], "seq": log.head + 1}
    assert again["turn"] == "t3"
    assert rule_of(resuming(log, log.head, [again]), history) == "TURN-1"
    opened = {**log.opened(0), "seq": 98, "turn": "t8"}
    unknown_place = greeted() + client(creates("t9")) + server(opened, {**again, "seq": 99})
    assert rule_of(unknown_place, history) == "TURN-1"


RESUMES: dict[str, tuple[str, Json, Json]] = {
    "without a cursor": ("RESUME-1", {}, {}),
    "of another gen": ("RESUME-1", {"gen": "g0"}, {}),
    "from another seq": ("RESUME-1", {"seq": 3}, {}),
    "from another turn": ("RESUME-1", {"turn": "t9"}, {}),
    "with snapshots": ("SNAP-1", {"seq": 4}, {"turns": 1}),
}


@pytest.mark.parametrize(("rule", "after", "opened"), RESUMES.values(), ids=RESUMES)
def test_a_replay_that_was_not_asked_for_is_found_out(rule: str, after: Json, opened: Json) -> None:
    log = busy_log()
    asked = opens(after={**log.cursor(4), **after}) if after else opens()
    assert rule_of(greeted() + client(asked) + server(log.opened(4, reply_to="o", **opened))) == rule


def test_a_replay_or_snapshot_at_another_turns_entry_is_found_out() -> None:
    log = busy_log()
    history = read(log)
    wrong = {**log.cursor(4), "turn": "t9"}
    assert (
        rule_of(greeted() + client(opens(after=wrong)) + server(log.opened(4, reply_to="o", turn="t9")), history)
        == "SEQ-3"
    )
    shown = log.snapshot(reply_to="o", turn="t9")
    assert rule_of(greeted() + client(opens()) + server(*shown), history) == "SEQ-3"


def test_a_snapshot_that_goes_back_is_found_out() -> None:
    log = busy_log()
    assert rule_of(reading(log) + server(log.snapshot(4)[0])) == "RESUME-2"


# --- snapshots -------------------------------------------------------------------------------------------------------

OPENED, FIRST, SECOND, THIRD, FOURTH, FIFTH = busy_log().snapshot(reply_to="o")


def with_part(shown: Json, number: int, **fields: Any) -> Json:
    parts = [*shown["parts"]]
    parts[number] = {**parts[number], **fields}
    return {**shown, "parts": parts}


def ended(shown: Json, **fields: Any) -> Json:
    return {**shown, "terminal": {**shown["terminal"], **fields}}


ASK = THIRD["pending"][0]
REASONING = THIRD["parts"][0]
PIECE = {**THIRD, "parts": [], "input": [], "continued": True}

SNAPSHOTS: dict[str, tuple[str, list[Json]]] = {
    "another frame in between": ("SNAP-1", [FIRST, busy_log().updated()]),
    "of another session": ("SNAP-1", [FIRST, {**SECOND, "session": "x"}]),
    "one too many": ("SNAP-1", [FIRST, SECOND, THIRD, FOURTH, FIFTH, {**FIFTH, "turn": "t6"}]),
    "a turn twice": ("SNAP-2", [FIRST, SECOND, FIRST]),
    "a piece of nothing": ("SNAP-2", [{**FIRST, "continued": True}]),
    "a piece behind another turn": ("SNAP-2", [FIRST, THIRD, {**FIRST, "continued": True}]),
    "a piece behind the last": ("SNAP-2", [FIRST, SECOND, THIRD, PIECE]),
    "a piece behind the terminal": ("SNAP-2", [FIRST, {**FIRST, "continued": True}]),
    "a piece that disagrees": ("SNAP-2", [FIRST, SECOND, {**THIRD, "pending": []}, {**PIECE, "author": "bob"}]),
    "too large": ("SIZE-2", [with_part(FIRST, 0, text="x" * SNAPSHOT_BYTES_MAX)]),
    "a part left out": ("PART-1", [FIRST, SECOND, {**THIRD, "parts": THIRD["parts"][1:]}]),
    "a part that changes its kind": (
        "PART-1",
        [
            FIRST,
            SECOND,
            {**THIRD, "parts": [{**THIRD["parts"][0], "last": False}, {**THIRD["parts"][0], "kind": "text"}]},
        ],
    ),
    "a tool call without its name": (
        "PART-2",
        [FIRST, SECOND, {**THIRD, "parts": [{k: v for k, v in THIRD["parts"][1].items() if k != "name"}]}],
    ),
    "a part that goes on behind its end": (
        "PART-3",
        [FIRST, SECOND, {**THIRD, "parts": [REASONING, REASONING]}],
    ),
}

LAST_ONES: dict[str, tuple[str, list[Json]]] = {
    "a text that the terminal does not have": ("CHECKSUM-1", [with_part(FIRST, 0, text="Hel!")]),
    "an open part in a finished turn": ("PART-3", [with_part(FIRST, 0, last=False)]),
    "partial without parts": (
        "PARTIAL-1",
        [{**ended(SECOND, parts=[]), "parts": []}],
    ),
    "a finished turn without its terminal": ("SNAP-3", [{k: v for k, v in FIRST.items() if k != "terminal"}]),
    "done with an error": ("SNAP-3", [{**SECOND, "state": "done"}]),
    "finished and asking": ("SNAP-3", [{**FIRST, "pending": [ASK]}]),
    "another turn's terminal": ("SNAP-3", [ended(FIRST, turn="t2")]),
    "another session's terminal": ("SNAP-3", [ended(FIRST, session="x")]),
    "a terminal that comes later": ("SNAP-3", [ended(FIRST, seq=OPENED["seq"] + 1)]),
    "running with a terminal": ("SNAP-3", [{**FIRST, "state": "running"}]),
    "running and asking": ("SNAP-3", [{**THIRD, "state": "running"}]),
    "parked and not asking": ("SNAP-3", [{**THIRD, "pending": []}]),
}


@pytest.mark.parametrize(("rule", "shown"), SNAPSHOTS.values(), ids=SNAPSHOTS)
def test_a_bad_snapshot_frame_breaks_its_rule_at_once(rule: str, shown: list[Json]) -> None:
    assert rule_of(greeted() + client(opens()) + server(OPENED, *shown)) == rule


@pytest.mark.parametrize(("rule", "shown"), LAST_ONES.values(), ids=LAST_ONES)
def test_a_bad_snapshot_breaks_its_rule_when_it_is_whole(rule: str, shown: list[Json]) -> None:
    opened = {**OPENED, "turns": len(shown)}
    assert rule_of(greeted() + client(opens()) + server(opened, *shown)) == rule


KNOWN: dict[str, tuple[str, list[Json]]] = {
    "another text of a running turn": ("SNAP-3", [FIRST, SECOND, with_part(THIRD, 1, text="{}"), FOURTH, FIFTH]),
    "a request too many": (
        "SNAP-3",
        [FIRST, SECOND, {**THIRD, "pending": [ASK, {**ASK, "request": "r9"}]}, FOURTH, FIFTH],
    ),
    "a turn that there is not": ("SNAP-3", [FIRST, SECOND, THIRD, FOURTH, FIFTH, {**FIFTH, "turn": "t6"}]),
    "a turn that had ended": (
        "SNAP-3",
        [{k: v for k, v in {**FIRST, "state": "running"}.items() if k != "terminal"}, SECOND, THIRD, FOURTH, FIFTH],
    ),
    "another terminal": ("TERM-1", [ended(FIRST, at=1), SECOND, THIRD, FOURTH, FIFTH]),
    "an unfinished turn is missing": ("SNAP-4", [FIRST, SECOND, THIRD, FOURTH]),
    "turns in another order": ("SNAP-4", [SECOND, FIRST, THIRD, FOURTH, FIFTH]),
    "more turns than wanted": ("SNAP-4", [FIRST, SECOND, THIRD, FOURTH, FIFTH]),
}


@pytest.mark.parametrize(("name", "rule", "shown"), [(name, *what) for name, what in KNOWN.items()], ids=KNOWN)
def test_a_snapshot_of_a_log_that_was_read_is_compared_with_it(name: str, rule: str, shown: list[Json]) -> None:
    opened = {**OPENED, "turns": len(shown)}
    wanted: Json = {"history": 1} if name == "more turns than wanted" else {}
    assert rule_of(greeted() + client(opens(**wanted)) + server(opened, *shown), read(busy_log())) == rule


def test_a_turn_that_a_snapshot_showed_is_not_accepted_again() -> None:
    log = busy_log()
    again = {**log.frames[11], "seq": log.head + 1}
    assert rule_of(showing(log, log.head, [again])) == "TURN-1"


def test_a_turn_that_ended_in_one_snapshot_does_not_run_in_a_later_one() -> None:
    log = busy_log()
    history = History()
    play(showing(log, 6, []), history)
    running = {key: value for key, value in {**FIRST, "state": "running"}.items() if key != "terminal"}
    opened = {**log.opened(8, "snapshot", 1, reply_to="o")}
    assert rule_of(greeted() + client(opens()) + server(opened, running), history) == "SNAP-3"


def test_a_snapshot_that_was_cut_short_is_found_out_at_rest() -> None:
    with pytest.raises(RuleBroken) as caught:
        play(greeted() + client(opens()) + server(OPENED, FIRST)).finish()
    assert caught.value.rule == "SNAP-1"


def test_a_snapshot_frame_out_of_the_blue_is_found_out() -> None:
    assert rule_of(greeted() + server(FIRST)) == "SNAP-1"


# --- at length -------------------------------------------------------------------------------------------------------


def test_a_hundred_thousand_frames_are_verified_in_a_few_seconds() -> None:
    log = Log()
    log.accepted("t")
    log.started("t")
    start = log.head
    deltas = [
        {"type": "turn.delta", "session": "s", "turn": "t", "seq": seq, "part": 0, "kind": "text", "text": "word "}
        for seq in range(start + 1, start + 100_001)
    ]
    steps = reading(log, [*log.frames, *deltas])
    began_s = time.process_time()
    play(steps)
    assert time.process_time() - began_s < 10


@st.composite
def logs(draw: st.DrawFn) -> Log:
    """Any legal log."""
    writer = _Writer(Log(), draw)
    for _ in range(draw(st.integers(0, 40))):
        writer.write()
    return writer.log


class _Writer:
    """Writes one legal frame after the other, chosen by Hypothesis."""

    def __init__(self, log: Log, draw: st.DrawFn) -> None:
        self.log = log
        self._draw = draw
        self._accepted = 0
        self._queue: list[str] = []
        self._active = ""
        self._phase = ""
        self._step = 0
        self._attempt = 0
        self._parts: list[tuple[str, bool]] = []
        self._open: list[str] = []
        self._asked = 0

    def write(self) -> None:
        choices = ["accept", "update"]
        if self._queue:
            choices.append("drop")
        if self._active:
            choices.append("cancelling")
            choices += {
                "waiting": ["start", "start", "end"],
                "started": ["start again", "retry", "speak", "speak", "speak", "ask", "end"],
                "retrying": ["start again", "end"],
                "answering": ["speak", "speak", "speak", "speak", "ask", "end"],
                "parked": ["respond", "respond", "end"],
            }[self._phase]
        getattr(self, "_" + self._draw(st.sampled_from(choices)).replace(" ", "_"))()

    def _accept(self) -> None:
        self._accepted += 1
        turn = f"t{self._accepted}"
        self.log.accepted(turn, "queued" if self._active else "running")
        if self._active:
            self._queue.append(turn)
        else:
            self._begin(turn)

    def _begin(self, turn: str) -> None:
        self._active, self._phase, self._step, self._attempt = turn, "waiting", 0, 0
        self._parts, self._open, self._asked = [], [], 0

    def _update(self) -> None:
        self.log.updated()

    def _drop(self) -> None:
        turn = self._draw(st.sampled_from(self._queue))
        self._queue.remove(turn)
        self.log.done(turn, "cancelled")

    def _cancelling(self) -> None:
        self.log.cancelling(self._active)

    def _start(self) -> None:
        self._step, self._attempt, self._phase = self._step + 1, 1, "started"
        self.log.started(self._active, self._step, 1)

    def _start_again(self) -> None:
        self._attempt, self._phase = self._attempt + 1, "started"
        self.log.started(self._active, self._step, self._attempt)

    def _retry(self) -> None:
        self._phase = "retrying"
        self.log.retrying(self._active, self._attempt + 1)

    def _speak(self) -> None:
        self._phase = "answering"
        speaking = [number for number, (_, closed) in enumerate(self._parts) if not closed]
        number = self._draw(st.sampled_from([*speaking, *speaking, *speaking, len(self._parts)]))
        names: Json = {}
        if number == len(self._parts):
            kind = self._draw(st.sampled_from(["text", "reasoning", "refusal", "tool_call", "data"]))
            names = {"tool_call": {"call": "k", "name": "f"}, "data": {"name": "d"}}.get(kind, {})
            self._parts.append((kind, False))
        kind = self._parts[number][0]
        closed = self._draw(st.integers(0, 4)) == 0
        self._parts[number] = (kind, closed)
        text = self._draw(st.sampled_from(["", "a", "word ", "é", "漢字", "😀"]))
        self.log.delta(self._active, text, number, kind, **names, **({"last": True} if closed else {}))

    def _close_parts(self) -> None:
        for number, (kind, closed) in enumerate(self._parts):
            if not closed:
                self.log.delta(self._active, "", number, kind, last=True)
                self._parts[number] = (kind, True)

    def _ask(self) -> None:
        self._close_parts()
        for _ in range(self._draw(st.integers(1, 2))):
            self._asked += 1
            self._open.append(f"r{self._asked}")
            self.log.asked(self._active, self._open[-1])
        self._phase = "parked"

    def _respond(self) -> None:
        request = self._draw(st.sampled_from(self._open))
        self._open.remove(request)
        self.log.responded(self._active, request)
        self._phase = "parked" if self._open else "waiting"

    def _end(self) -> None:
        self._close_parts()
        if self._draw(st.booleans()):
            self.log.done(self._active)
        else:
            self.log.error(self._active)
        self._active = ""
        if self._queue:
            self._begin(self._queue.pop(0))
