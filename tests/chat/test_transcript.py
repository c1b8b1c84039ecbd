"""The client rule: whatever the road does to the frames, what is shown is a piece of a history that was.

The property at the top is the promise; the examples below it name the single rules.
"""

from collections import deque
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.chat.scripted_log import Frame, ScriptedLog, merged
from turnwire.chat.transcript import BadFrame, Broken, Effect, Ended, Open, Opened, Session, Transcript, Updated
from turnwire.chat.turns import GONE, LOST

LATER_MS = 20_000
"""Past the window in which reopens are counted."""


# --- the property --------------------------------------------------------------------------------------------------

ACTS = ["accept", "delta", "delta", "delta", "delta2", "end", "fail", "lose"]
FATES = ["deliver", "deliver", "deliver", "drop", "twice", "swap", "merge", "cut"]


class Road:
    """A server with its log, a client, and a road between them that does to frames what it is told to."""

    def __init__(self) -> None:
        self.log = ScriptedLog()
        self.client = Transcript()
        self.flying: deque[Frame] = deque()
        self.pieces = 1
        self.now_ms = 0
        self.ended: list[str] = []
        self._carry_out([self.client.open("s")])

    @property
    def session(self) -> Session:
        return self.client.sessions["s"]

    def act(self, what: str, text: str) -> None:
        """The server appends something legal, and the new frames fly."""
        before, gen = len(self.log.frames), self.log.gen
        running = self.log.open_turns()
        if what == "lose":
            self.log.lose(len(text))
            self.flying.extend(self.log.snapshot(pieces=self.pieces))
        elif what == "accept" and not running:
            self.log.accept(f"t{len(self.log.turns())}-{self.log.generation}")
            if len(self.log.frames) == 1 and gen == "g1":
                self.flying.append(self.log.opened("snapshot", 0, None, seq=0) | {"gen": gen})
        elif running and what == "delta":
            self.log.delta(running[0], text)
        elif running and what == "delta2":
            self.log.delta(running[0], text, part=1, kind="reasoning")
        elif running and what == "end":
            self.log.end(running[0])
        elif running and what == "fail":
            self.log.fail(running[0])
        if gen == self.log.gen:
            self.flying.extend(self.log.frames[before:])

    def travel(self, fate: str) -> None:
        self.now_ms += LATER_MS
        if fate == "cut":
            self.flying.clear()
            self._carry_out(self.client.resume())
            return
        if not self.flying:
            return
        if fate == "swap" and len(self.flying) > 1:
            self.flying[0], self.flying[1] = self.flying[1], self.flying[0]
        elif fate == "merge" and len(self.flying) > 1 and "reply_to" not in self.flying[1]:
            pair = [self.flying.popleft(), self.flying.popleft()]
            self.flying.extendleft(reversed(merged(pair) if pair[0].get("seq", 0) + 1 == pair[1].get("seq") else pair))
        elif fate == "drop":
            self.flying.popleft()
        elif fate == "twice":
            self.flying.appendleft(self.flying[0])
        else:
            self._deliver()

    def arrive(self) -> None:
        """The road is good from here on."""
        self.travel("cut")
        while self.flying:
            self.now_ms += LATER_MS
            self._deliver()

    def _deliver(self) -> None:
        self._carry_out(self.client.receive(self.flying.popleft(), self.now_ms))
        self._check()

    def _carry_out(self, effects: list[Any]) -> None:
        for effect in effects:
            if isinstance(effect, Open):
                # What flies already comes first, as it does on a real connection.
                self.flying.extend(self.log.answer(effect.frame(), self.pieces))
            elif isinstance(effect, Ended):
                self.ended.append(effect.turn.id)
            assert not isinstance(effect, Broken), effect.reason

    def _check(self) -> None:
        """All that is shown is the beginning of what was said, in the generation that the client stands in."""
        known = self.session
        history = self.log.histories.get(known.gen or "", {})
        for turn in known.turns.values():
            for part in turn.parts.values():
                assert part.chars == len(part.text) and part.bytes == len(part.text.encode())
                assert history[turn.id, part.part].startswith(part.text)
            if turn.terminal is not None:
                assert turn.proved_by(turn.terminal)


steps = st.lists(
    st.one_of(
        st.tuples(st.just("act"), st.sampled_from(ACTS), st.text("abcä€😀", min_size=1, max_size=4)),
        st.tuples(st.just("travel"), st.sampled_from(FATES), st.just("")),
    ),
    max_size=60,
)


@settings(max_examples=300, deadline=None)
@given(steps, st.integers(1, 3))
def test_whatever_the_road_does_the_client_ends_with_the_servers_history(
    journey: list[tuple[str, str, str]], pieces: int
) -> None:
    road = Road()
    road.pieces = pieces
    for what, how, text in journey:
        if what == "act":
            road.act(how, text)
        else:
            road.travel(how)
    road.arrive()

    known = road.session
    assert list(known.turns) == road.log.turns()[-known.history :]
    for turn in known.turns.values():
        shown = {number: part.text for number, part in turn.parts.items()}
        assert shown == {number: part["text"] for number, part in road.log.parts(turn.id).items()}
        assert turn.ended == (turn.id not in road.log.open_turns())
    assert known.seq == len(road.log.frames)
    assert known.waiting_for is None and known.staged is None


@settings(max_examples=200, deadline=None)
@given(st.data(), st.text("abcdefgh", min_size=1, max_size=30))
def test_at_every_moment_the_text_is_the_beginning_of_the_answer(data: st.DataObject, answer: str) -> None:
    log = ScriptedLog()
    log.accept("t")
    for character in answer:
        log.delta("t", character)
    log.end("t")
    frames = data.draw(st.lists(st.sampled_from(log.frames), max_size=3 * len(log.frames)))
    client = opened(ScriptedLog(), log)

    asked = False
    for frame in frames:
        asked = asked or any(isinstance(effect, Open) for effect in client.receive(frame, 0))
        turn = client.sessions["s"].turns.get("t")
        if turn is not None:
            assert answer.startswith(turn.text)
            assert turn.terminal is None or turn.text == answer
    # A frame that did not fit was not passed over in silence.
    in_order = [frame["seq"] for frame in frames if frame["seq"] > 0]
    reached = 0
    for seq in in_order:
        if seq > reached + 1:
            assert asked
            break
        reached = max(reached, seq)


# --- single rules --------------------------------------------------------------------------------------------------


def opened(log: ScriptedLog, later: ScriptedLog | None = None) -> Transcript:
    """A client that follows `log`; with `later`, one that stands at the beginning of that log."""
    client = Transcript()
    opening = client.open("s")
    answer = log.answer(opening.frame())
    if later is not None:
        answer = [later.opened("snapshot", 0, opening.id, seq=0)]
    for frame in answer:
        client.receive(frame, 0)
    return client


def running(text: str = "Hello") -> tuple[ScriptedLog, Transcript]:
    """A turn that has said `text`, and a client that knows it."""
    log = ScriptedLog()
    log.accept("t1")
    log.delta("t1", text)
    return log, opened(log)


def only(effects: list[Effect]) -> Effect:
    assert len(effects) == 1, effects
    return effects[0]


def test_a_frame_that_continues_is_applied_and_one_that_is_known_is_dropped() -> None:
    log, client = running()
    frame = log.delta("t1", ", world")
    assert only(client.receive(frame, 0)) == Updated(client.sessions["s"].turns["t1"])
    assert client.receive(frame, 0) == []
    assert client.sessions["s"].turns["t1"].text == "Hello, world"


def test_a_gap_reopens_from_the_cursor_and_drops_everything_until_the_answer() -> None:
    log, client = running()
    log.delta("t1", ", ")
    missing = log.delta("t1", "world")
    effect = only(client.receive(missing, 0))
    assert isinstance(effect, Open)
    assert effect.frame()["after"] == {"gen": "g1", "seq": 2, "turn": "t1"}
    assert client.receive(log.frames[2], 0) == []
    assert client.sessions["s"].turns["t1"].text == "Hello"
    for frame in log.answer(effect.frame()):
        client.receive(frame, 0)
    assert client.sessions["s"].turns["t1"].text == "Hello, world"


def test_a_merged_delta_that_is_half_known_reopens() -> None:
    log, client = running()
    log.delta("t1", ", world")
    (half_known,) = merged(log.frames[1:])
    assert half_known["first_seq"] == 2
    assert isinstance(only(client.receive(half_known, 0)), Open)
    assert client.sessions["s"].turns["t1"].text == "Hello"


def test_a_merged_delta_that_continues_is_applied_whole() -> None:
    log, client = running()
    log.delta("t1", ", ")
    log.delta("t1", "world")
    (whole,) = merged(log.frames[2:])
    client.receive(whole, 0)
    assert client.sessions["s"].turns["t1"].text == "Hello, world"
    assert client.sessions["s"].seq == 4


def test_an_answer_to_another_open_is_dropped_with_its_snapshot() -> None:
    log, client = running()
    (opening,) = client.resume()
    other = log.snapshot("open-999")
    log.delta("t1", "!")
    for frame in [*other, *log.snapshot(None), log.frames[-1]]:
        assert client.receive(frame, 0) == []
    for frame in log.answer(opening.frame()):
        client.receive(frame, 0)
    assert client.sessions["s"].turns["t1"].text == "Hello!"


def test_an_unasked_snapshot_replaces_what_was_known() -> None:
    log, client = running()
    log.lose(1)
    log.delta("t1", "Goodbye")
    effects = [effect for frame in log.snapshot() for effect in client.receive(frame, 0)]
    assert effects == [Opened("s"), Updated(client.sessions["s"].turns["t1"])]
    assert client.sessions["s"].turns["t1"].text == "Goodbye"
    assert client.sessions["s"].cursor == {"gen": "g2", "seq": 2, "turn": "t1"}


def test_a_snapshot_that_was_cut_leaves_the_old_cursor_in_force() -> None:
    log, client = running()
    log.lose(1)
    log.delta("t1", "Goodbye")
    client.receive(log.snapshot()[0], 0)
    (opening,) = client.resume()
    assert opening.frame()["after"]["gen"] == "g1"
    assert client.sessions["s"].turns["t1"].text == "Hello"


def test_a_live_frame_within_a_snapshot_reopens() -> None:
    log, client = running()
    client.receive(log.snapshot()[0], 0)
    assert isinstance(only(client.receive(log.delta("t1", "!"), 0)), Open)


def test_a_snapshot_frame_that_nobody_announced_reopens() -> None:
    log, client = running()
    assert isinstance(only(client.receive(log.snapshot()[1], 0)), Open)


def test_a_first_piece_that_comes_twice_is_not_taken_for_the_next_turn() -> None:
    log = ScriptedLog()
    for turn in ("t1", "t2"):
        log.accept(turn)
        log.end(turn)
    client = Transcript()
    head, first, _second = log.snapshot(client.open("s").id)
    client.receive(head, 0)
    client.receive(first, 0)
    assert isinstance(only(client.receive(first, 0)), Open)


def test_a_long_turn_comes_in_pieces() -> None:
    log = ScriptedLog()
    log.accept("t1")
    log.delta("t1", "Hello, world", last=True)
    log.end("t1")
    client = Transcript()
    for frame in log.snapshot(client.open("s").id, pieces=3):
        client.receive(frame, 0)
    turn = client.sessions["s"].turns["t1"]
    assert (turn.text, turn.question, turn.ended) == ("Hello, world", "hello", True)


def test_a_wrong_checksum_reopens_without_a_cursor_and_is_not_believed() -> None:
    log, client = running()
    wrong = log.end("t1")
    wrong["parts"] = [{**wrong["parts"][0], "crc32": 1}]
    effect = only(client.receive(wrong, 0))
    assert isinstance(effect, Open) and effect.after is None
    assert not client.sessions["s"].turns["t1"].ended


@pytest.mark.parametrize("field", ["bytes", "crc32"])
def test_length_and_checksum_are_both_checked(field: str) -> None:
    log, client = running()
    wrong = log.end("t1")
    wrong["parts"] = [{**wrong["parts"][0], field: wrong["parts"][0][field] + 1}]
    assert isinstance(only(client.receive(wrong, 0)), Open)


def test_a_part_that_only_one_side_knows_is_a_wrong_checksum() -> None:
    for parts in (
        [],
        [{"part": 0, "kind": "text", "bytes": 5, "crc32": 4157704578}, {"part": 1, "bytes": 1, "crc32": 7}],
    ):
        log, client = running()
        assert isinstance(only(client.receive(log.end("t1", parts=parts), 0)), Open)


def test_an_empty_part_needs_no_mention() -> None:
    log, client = running("")
    assert isinstance(only(client.receive(log.end("t1", parts=[]), 0)), Ended)


def test_a_snapshot_with_a_wrong_checksum_is_not_believed_either() -> None:
    log = ScriptedLog()
    log.accept("t1")
    log.delta("t1", "Hello")
    log.end("t1")
    client = Transcript()
    frames = log.snapshot(client.open("s").id)
    frames[1]["parts"][0]["text"] = "Hallo"
    client.receive(frames[0], 0)
    effect = only(client.receive(frames[1], 0))
    assert isinstance(effect, Open) and effect.after is None
    assert client.sessions["s"].turns == {}


def test_the_second_reopen_in_ten_seconds_omits_the_cursor_and_the_third_is_an_error() -> None:
    log, client = running()
    before = log.snapshot()
    log.delta("t1", "a")
    gap = log.delta("t1", "b")

    first = only(client.receive(gap, 0))
    assert isinstance(first, Open) and first.after is not None
    client.receive(log.opened("replay", 0, first.id, seq=2), 0)

    second = only(client.receive(gap, 4_000))
    assert isinstance(second, Open) and second.after is None
    for frame in (before[0] | {"reply_to": second.id}, before[1]):
        client.receive(frame, 4_000)

    assert client.receive(gap, 9_999) == [Broken("s", "frames after 2 are missing, for the third time within 10 s")]
    for frame in (log.frames[2], *log.snapshot()):
        assert client.receive(frame, 9_999) == []
    assert client.resume() == []


def test_reopens_that_are_far_apart_keep_their_cursor() -> None:
    log, client = running()
    log.delta("t1", "a")
    gap = log.delta("t1", "b")
    for now_ms in (0, 10_000, 20_000, 30_000):
        effect = only(client.receive(gap, now_ms))
        assert isinstance(effect, Open) and effect.after is not None
        client.receive(log.opened("replay", 0, effect.id, seq=2), now_ms)


def test_opening_again_by_hand_forgives_a_broken_session() -> None:
    log, client = running()
    client.sessions["s"].broken = "whatever"
    for frame in log.answer(client.open("s").frame()):
        client.receive(frame, 0)
    assert client.sessions["s"].broken is None
    assert client.sessions["s"].turns["t1"].text == "Hello"


def test_a_replay_from_another_place_is_not_taken_up() -> None:
    log, client = running()
    (opening,) = client.resume()
    effect = only(client.receive(log.opened("replay", 0, opening.id, seq=1), 0))
    assert isinstance(effect, Open) and effect.after is None


def test_a_refused_open_breaks_the_session_with_its_reason() -> None:
    client = Transcript()
    opening = client.open("s")
    assert client.refused(opening.id, "too many sessions") == [Broken("s", "too many sessions")]
    assert client.refused(opening.id, "again") == []


def test_an_unfinished_turn_that_a_whole_snapshot_lacks_is_lost() -> None:
    log, client = running()
    turn = client.sessions["s"].turns["t1"]
    log.lose(2)
    effects = [effect for frame in log.snapshot() for effect in client.receive(frame, 0)]
    assert effects == [Opened("s"), Ended(turn)]
    assert (turn.fault, turn.state, turn.text) == (LOST, "error", "Hello")


def test_an_unfinished_turn_beyond_the_history_asked_for_is_only_further_back() -> None:
    log = ScriptedLog()
    log.accept("t1")
    client = Transcript()
    for frame in log.answer(client.open("s", history=1).frame()):
        client.receive(frame, 0)
    turn = client.sessions["s"].turns["t1"]
    log.end("t1")
    log.accept("t2")
    log.end("t2")
    (opening,) = client.resume()
    for frame in log.snapshot(opening.id, history=1):
        client.receive(frame, 0)
    assert turn.fault == GONE


def test_a_turn_that_ended_meanwhile_is_told_once() -> None:
    log, client = running()
    log.end("t1")
    told = [
        effect
        for _ in range(2)
        for frame in log.snapshot()
        for effect in client.receive(frame, 0)
        if isinstance(effect, Ended)
    ]
    assert [effect.turn.id for effect in told] == ["t1"]


def test_a_deleted_session_ends_its_turns() -> None:
    log, client = running()
    (effect,) = client.receive(log.append("session.deleted", None), 0)
    assert isinstance(effect, Ended)
    assert effect.turn.fault is not None and effect.turn.fault.code == "not_found"
    assert client.sessions["s"].deleted


def test_title_and_metadata_are_the_sessions() -> None:
    log, client = running()
    assert client.receive(log.append("session.updated", None, title="Hi", metadata={"a": 1}), 0) == []
    assert (client.sessions["s"].title, client.sessions["s"].metadata) == ("Hi", {"a": 1})
    assert client.sessions["s"].cursor == {"gen": "g1", "seq": 3, "turn": None}


def test_a_kind_that_is_newer_than_the_client_is_counted_and_skipped() -> None:
    log, client = running()
    client.receive(log.append("turn.sparkled", "t1", colour="red"), 0)
    client.receive(log.append("session.sparkled", None), 0)
    client.receive(log.delta("t1", "!"), 0)
    assert client.sessions["s"].turns["t1"].text == "Hello!"


def test_unnumbered_frames_are_none_of_its_business() -> None:
    _, client = running()
    for kind in ("ack", "error", "pong", "welcome", "goaway", "auth.expiring"):
        assert client.receive({"type": kind, "session": "s", "turn": "t1", "seq": 99}, 0) == []
    assert client.receive({"type": "session.sparkled", "session": "s"}, 0) == []
    assert client.receive({"type": "turn.delta", "session": "unknown", "seq": 1}, 0) == []


def test_states_follow_the_frames() -> None:
    log = ScriptedLog()
    client = opened(log, log)
    frames = [
        (log.accept("t1") | {"state": "queued"}, "queued"),
        (log.append("turn.started", "t1", step=1, attempt=1, model="demo"), "running"),
        (log.append("turn.retrying", "t1", attempt=2, delay_ms=5, code="upstream_unavailable"), "running"),
        (log.append("turn.asked", "t1", request="r1", kind="approval", detail={}), "parked"),
        (log.append("turn.responded", "t1", request="r1", by="me"), "running"),
        (log.append("turn.cancelling", "t1", by="me"), "running"),
        (log.fail("t1"), "error"),
    ]
    client.receive(log.opened("snapshot", 0, None, seq=0), 0)
    for frame, state in frames:
        client.receive(frame, 0)
        turn = client.sessions["s"].turns["t1"]
        assert turn.state == state
        assert (turn.retrying is not None) == (frame["type"] == "turn.retrying")
    turn = client.sessions["s"].turns["t1"]
    assert turn.cancelling and turn.asks == {}
    assert turn.fault is not None and turn.fault.code == "node_lost"


def test_nothing_follows_the_end_of_a_turn() -> None:
    log, client = running()
    client.receive(log.end("t1"), 0)
    effect = only(client.receive(log.delta("t1", "more"), 0))
    assert isinstance(effect, Open) and effect.after is None
    assert client.sessions["s"].turns["t1"].text == "Hello"


def test_a_closed_session_is_forgotten() -> None:
    log, client = running()
    client.close("s")
    client.close("s")
    assert client.receive(log.delta("t1", "!"), 0) == []
    assert client.resume() == []


def test_beyond_its_bound_the_oldest_turns_that_ended_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("turnwire.chat.transcript.TURNS_MAX", 2)
    log = ScriptedLog()
    client = opened(log)
    log.accept("t1")
    client.receive(log.opened("snapshot", 0, None, seq=0), 0)
    client.receive(log.frames[0], 0)
    for turn in ("t2", "t3", "t4"):
        client.receive(log.accept(turn), 0)
        client.receive(log.end(turn), 0)
    assert list(client.sessions["s"].turns) == ["t1", "t4"]


@pytest.mark.parametrize(
    "frame",
    [
        {"type": "turn.delta", "session": "s", "turn": "t1", "seq": 3},
        {"type": "turn.delta", "session": "s", "turn": "t1", "seq": "x"},
        {"type": "turn.delta", "session": "s", "turn": "t1", "seq": 3, "part": 0, "kind": "text", "text": 5},
        {"type": "session.opened", "session": "s"},
        {"session": "s"},
    ],
)
def test_a_frame_that_lacks_what_it_needs_is_bad(frame: Frame) -> None:
    _, client = running()
    with pytest.raises(BadFrame):
        client.receive(frame, 0)
