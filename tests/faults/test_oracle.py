"""The oracle: it is content with what is right, and finds each thing that may not be."""

import hashlib
import zlib
from typing import Any

import pytest

from tests.faults.oracle import Death, Loss, Oracle
from tests.faults.provider import Ask, Phase, Told, deltas_of
from tests.faults.reading import Frame, Reading

CANARY, FOREIGN = "cnry" + "0" * 16, "cnry" + "f" * 16
ASK = Ask(CANARY, "t1", deltas=4, first_ms=0, gap_ms=0, hold_ms=0)
DELTAS = deltas_of(ASK, 7)


def told(phase: Phase, sent: int = 4, request: int = 7, at_ns: int = 0, foreign: str = "") -> Told:
    sha256 = hashlib.sha256("".join(deltas_of(ASK, request)[:sent]).encode()).hexdigest()
    return Told(phase, request, "n0", "t1", CANARY, at_ns, sent, sha256, foreign)


def opened(seq: int = 0, *, gen: str = "g1", mode: str = "snapshot", turns: int = 0, to: str | None = None) -> Frame:
    reply = {} if to is None else {"reply_to": to}
    return {"type": "session.opened", "session": "s", "gen": gen, "seq": seq, "mode": mode, "turns": turns, **reply}


def frame(type: str, seq: int, **fields: Any) -> Frame:
    return {"type": type, "session": "s", "turn": "t1", "seq": seq, "at": 1_000 + seq, **fields}


def delta(seq: int, text: str, **fields: Any) -> Frame:
    return frame("turn.delta", seq, part=0, kind="text", text=text, **fields)


def parts(text: str) -> list[Frame]:
    data = text.encode()
    return [{"part": 0, "kind": "text", "bytes": len(data), "crc32": zlib.crc32(data)}]


def done(seq: int, text: str = "".join(DELTAS)) -> Frame:
    return frame("turn.done", seq, finish_reason="stop", parts=parts(text))


def failed(seq: int, text: str, code: str = "node_lost") -> Frame:
    return frame("turn.error", seq, error={"code": code}, parts=parts(text))


def snapshot(text: str, terminal: Frame | None = None) -> Frame:
    over = {} if terminal is None else {"terminal": terminal}
    return {"type": "turn.snapshot", "session": "s", "turn": "t1", "parts": [{"part": 0, "text": text}], **over}


WHOLE: tuple[Frame, ...] = (
    frame("turn.accepted", 1),
    frame("turn.started", 2),
    *(delta(3 + number, text) for number, text in enumerate(DELTAS)),
    done(7),
)


class World:
    """An oracle and a client of the session, which has just opened it."""

    def __init__(self, *watchers: str) -> None:
        self.oracle = Oracle()
        self.oracle.expect("s", ASK, watchers or ("a",), queued=False)
        self.oracle.provider_told(told("answered"))
        self.readings = {name: Reading(name, self.oracle) for name in watchers or ("a",)}
        self.opens = 0
        for name in self.readings:
            self.open(name)
            self.show(opened(to=f"o{self.opens}"), client=name)

    def open(self, client: str = "a") -> None:
        self.opens += 1
        self.readings[client].connected()
        self.readings[client].sent({"type": "session.open", "id": f"o{self.opens}", "session": "s"})

    def show(self, *frames: Frame, client: str = "a") -> None:
        for one in frames:
            self.oracle.frame_came(client, one)
            self.readings[client].received(one)

    def faults(self) -> set[str]:
        self.oracle.judge()
        return {fault.kind for fault in self.oracle.faults}


def test_it_is_content_with_a_whole_answer_whichever_way_it_comes() -> None:
    world = World("a", "b", "c")
    world.show(*WHOLE)
    world.show(*WHOLE[:3], client="b")
    world.open("b")
    world.show(*WHOLE[3:5], client="b")  # of the old cursor, or not for this client at all
    world.show(opened(3, mode="replay", to="o4"), delta(6, "".join(DELTAS[1:]), first_seq=4), done(7), client="b")
    world.open("c")
    world.show(opened(7, turns=1, to="o5"), snapshot("".join(DELTAS), done(7)), client="c")
    assert world.faults() == set()
    assert world.oracle.outcomes() == {"stop": 1}


def test_it_is_content_with_the_beginning_of_an_answer_whose_node_was_lost() -> None:
    world = World()
    world.show(*WHOLE[:4], failed(5, "".join(DELTAS[:2])))
    assert world.faults() == set()
    assert world.oracle.outcomes() == {"node_lost": 1}


@pytest.mark.parametrize(
    ("frames", "kinds"),
    [
        (WHOLE[:-1], {"missing end"}),
        ((*WHOLE[:3], *WHOLE[4:]), {"hole", "checksum", "wrong text"}),
        ((*WHOLE[:4], WHOLE[3], *WHOLE[4:]), {"frame twice", "checksum", "wrong text"}),
        ((*WHOLE, delta(8, "more")), {"frame behind its terminal"}),
        ((*WHOLE, done(8)), {"frame behind its terminal", "second terminal"}),
        ((*WHOLE[:-1], done(7, "other")), {"checksum"}),
        ((*WHOLE[:6], delta(7, FOREIGN), done(8, "".join([*DELTAS, FOREIGN]))), {"foreign canary", "wrong text"}),
        ((*WHOLE[:3], done(4, DELTAS[0])), {"wrong text"}),
        ((*WHOLE[:2], delta(3, "unsaid"), failed(4, "unsaid")), {"wrong text"}),
        ((*WHOLE[:3], failed(4, DELTAS[0], "internal")), {"unexpected error"}),
        ((*WHOLE[:3], failed(4, DELTAS[0], "store_lost")), {"lost without its writer"}),
        ((*WHOLE[:3], opened(2, turns=1), snapshot("")), {"snapshot from the past", "missing end"}),
        ((*WHOLE[:3], snapshot("")), {"snapshot out of place", "missing end"}),
        ((*WHOLE[:3], opened(3)), {"lost without its writer"}),
        (
            (*WHOLE, opened(7, gen="g2", turns=1), snapshot(DELTAS[0], failed(7, DELTAS[0]))),
            {"end that changed"},
        ),
    ],
)
def test_it_finds_what_a_client_may_not_be_shown(frames: tuple[Frame, ...], kinds: set[str]) -> None:
    world = World()
    world.show(*frames)
    assert world.faults() == kinds


def test_a_text_of_two_requests_is_no_text() -> None:
    world = World()
    spliced = [*DELTAS[:2], *deltas_of(ASK, 8)[2:]]
    world.oracle.provider_told(told("answered", request=8))
    world.show(*WHOLE[:2], *(delta(3 + number, text) for number, text in enumerate(spliced)), done(7, "".join(spliced)))
    assert world.faults() == {"wrong text"}


def test_a_replay_goes_on_where_the_client_stands() -> None:
    world = World()
    world.show(*WHOLE[:3])
    world.open()
    world.show(opened(2, mode="replay", to="o2"))
    assert world.faults() == {"replay from another place", "missing end"}


def test_two_clients_are_shown_the_same() -> None:
    world = World("a", "b")
    world.show(*WHOLE)
    world.show(frame("turn.accepted", 1, model="other"), *WHOLE[1:3], failed(4, DELTAS[0]), client="b")
    assert world.faults() == {
        "two frames at one place",
        "second terminal",
        "different ends",
    }


def test_a_model_that_is_asked_again_after_its_first_word_is_a_fault() -> None:
    world = World()
    world.show(*WHOLE)
    world.oracle.provider_told(told("asked", 0, request=8, at_ns=2**62))
    assert world.faults() == {"asked again after content"}


def test_a_node_that_slept_through_the_answer_may_ask_in_vain() -> None:
    world = World()
    world.show(*WHOLE)
    world.oracle.deaths.append(Death("n0", world.oracle.turns["t1"].begun_ns + 1, wakes=True))
    world.oracle.provider_told(told("asked", 0, request=8, at_ns=2**62))
    assert world.faults() == set()


def test_a_canary_upstream_and_two_accepts_are_faults() -> None:
    world = World("a", "b")
    world.show(*WHOLE)
    world.show(*WHOLE, client="b")
    world.oracle.provider_told(told("answered", foreign=FOREIGN))
    for client in ("a", "b"):
        world.oracle.acknowledged(client, "t1", False, "n0")
    assert world.faults() == {"foreign canary upstream", "taken twice"}


def test_what_was_lost_with_its_writer_is_no_fault_and_is_counted() -> None:
    world = World()
    facts = world.oracle.turns["t1"]
    world.oracle.losses.append(Loss(facts.begun_ns, facts.begun_ns + 1))
    world.oracle.deaths.append(Death("n0", facts.begun_ns + 1))
    world.show(*WHOLE[:3], opened(3, gen="g2"))
    assert world.faults() == set()
    assert world.oracle.outcomes() == {"store_lost, by its absence": 1}
