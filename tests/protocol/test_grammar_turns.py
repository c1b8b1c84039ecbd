"""What may happen to the turns of one log, and which rule is broken by what may not."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.protocol.conversations import Log, play, reading
from turnwire_protocol.rules import RuleBroken

Write = Callable[[Log], Any]


class _Then:
    """`then.delta("t", "a")` is what calls `log.delta("t", "a")` when it is given a log."""

    def __getattr__(self, name: str) -> Callable[..., Write]:
        return lambda *what, **more: lambda log: getattr(log, name)(*what, **more)


then = _Then()


def written(*writes: Write) -> Log:
    log = Log()
    for write in writes:
        write(log)
    return log


def begun(*writes: Write) -> tuple[Write, ...]:
    """A turn whose first step has started, and what follows."""
    return (then.accepted("t"), then.started("t"), *writes)


LEGAL: dict[str, tuple[Write, ...]] = {
    "an answer of several parts": begun(
        then.delta("t", "hm", 0, "reasoning"),
        then.delta("t", "", 0, "reasoning", last=True),
        then.delta("t", "Rayleigh", 1),
        then.delta("t", "{", 2, "tool_call", call="k", name="f"),
        then.delta("t", " scatters", 1, last=True),
        then.delta("t", "}", 2, "tool_call", last=True),
        then.delta("t", "[1]", 3, "data", name="chart", last=True),
        then.delta("t", "no", 4, "refusal", last=True),
        then.done("t"),
    ),
    "an answer that says nothing": begun(then.done("t")),
    "text beyond ASCII": begun(then.delta("t", "é漢"), then.delta("t", "😀", last=True), then.done("t")),
    "an error before the first step": (then.accepted("t"), then.error("t")),
    "an error behind a partial answer": begun(then.delta("t", "a", last=True), then.error("t", "upstream_truncated")),
    "retries, one of them on another node": begun(
        then.retrying("t", 2),
        then.started("t", 1, 2),
        then.started("t", 1, 3),
        then.retrying("t", 4),
        then.started("t", 1, 5),
        then.delta("t", "a", last=True),
        then.done("t", attempts=5),
    ),
    "a cancelled answer": begun(
        then.delta("t", "a"),
        then.cancelling("t"),
        then.delta("t", "b"),
        then.delta("t", "", last=True),
        then.done("t", "cancelled", upstream_stopped=True),
    ),
    "two requests and two steps": begun(
        then.delta("t", "{}", 0, "tool_call", call="k", name="f", last=True),
        then.asked("t", "r1"),
        then.asked("t", "r2"),
        then.responded("t", "r2"),
        then.responded("t", "r1"),
        then.started("t", 2, 1),
        then.retrying("t", 2),
        then.started("t", 2, 2),
        then.delta("t", "done", 1, last=True),
        then.done("t"),
    ),
    "a parked turn that is cancelled": begun(then.asked("t"), then.cancelling("t"), then.done("t", "cancelled")),
    "a queue": (
        then.accepted("a"),
        then.accepted("b", "queued"),
        then.accepted("c", "queued"),
        then.accepted("d", "queued"),
        then.started("a"),
        then.done("c", "cancelled"),
        then.done("a"),
        then.started("b"),
        then.done("b"),
        then.started("d"),
        then.done("d"),
    ),
    "an interrupt": begun(
        then.accepted("q", "queued"),
        then.done("q", "cancelled"),
        then.cancelling("t"),
        then.accepted("u", "queued"),
        then.done("t", "cancelled"),
        then.started("u"),
        then.done("u"),
    ),
    "a cancel that came before its turn": begun(
        then.accepted("u", "queued"),
        then.done("u", "cancelled"),
        then.done("t"),
    ),
    "what belongs to no turn": begun(
        then.updated(),
        then.delta("t", "a", last=True),
        then.updated(None),
        then.done("t"),
    ),
    "a deletion": (
        then.accepted("t"),
        then.accepted("u", "queued"),
        then.deleted(),
    ),
}

BROKEN: dict[str, tuple[str, tuple[Write, ...]]] = {
    "started before accepted": ("TURN-1", (then.started("t"),)),
    "updated, then a delta of nobody's": ("TURN-1", (then.updated(), then.delta("t", "a"))),
    "done before accepted": ("TURN-1", (then.done("t", parts=[]),)),
    "accepted twice": ("TURN-1", begun(then.accepted("t"))),
    "a delta before any step": ("TURN-2", (then.accepted("t"), then.delta("t", "a"))),
    "a delta of a queued turn": ("TURN-2", (then.accepted("t", "queued"), then.delta("t", "a"))),
    "a retry before any step": ("TURN-2", (then.accepted("t"), then.retrying("t"))),
    "an ask before any step": ("TURN-2", (then.accepted("t"), then.asked("t"))),
    "a delta between retry and start": (
        "TURN-2",
        begun(then.retrying("t"), then.delta("t", "a")),
    ),
    "a retry behind a retry": ("TURN-2", begun(then.retrying("t"), then.retrying("t", 3))),
    "an ask between retry and start": ("TURN-2", begun(then.retrying("t"), then.asked("t"))),
    "a delta between steps": (
        "TURN-2",
        begun(then.asked("t"), then.responded("t"), then.delta("t", "a")),
    ),
    "the first step is the second": ("TURN-3", (then.accepted("t"), then.started("t", 2))),
    "the first attempt is the second": ("TURN-3", (then.accepted("t"), then.started("t", 1, 2))),
    "an attempt again": ("TURN-3", begun(then.started("t", 1, 1))),
    "an attempt less": (
        "TURN-3",
        begun(then.started("t", 1, 3), then.started("t", 1, 2)),
    ),
    "a step left out": ("TURN-3", begun(then.started("t", 3))),
    "a step back": ("TURN-3", begun(then.started("t", 2), then.started("t", 1, 2))),
    "a new step begins with its second attempt": ("TURN-3", begun(then.started("t", 2, 2))),
    "a retry of the attempt itself": ("TURN-3", begun(then.retrying("t", 1))),
    "started again behind a delta": (
        "RETRY-1",
        begun(then.delta("t", "a"), then.started("t", 1, 2)),
    ),
    "retrying behind a delta": ("RETRY-1", begun(then.delta("t", "a"), then.retrying("t"))),
    "a delta behind done": ("TERM-1", begun(then.done("t"), then.delta("t", "a"))),
    "error behind done": ("TERM-1", begun(then.done("t"), then.error("t"))),
    "done behind error": ("TERM-1", begun(then.error("t"), then.done("t"))),
    "cancelling behind done": ("TERM-1", begun(then.done("t"), then.cancelling("t"))),
    "accepted again behind done": ("TERM-1", begun(then.done("t"), then.accepted("t"))),
    "a turn goes on behind the deletion": ("TERM-2", begun(then.deleted(), then.done("t"))),
    "a title behind the deletion": ("TERM-2", (then.deleted(), then.updated())),
    "a deletion behind the deletion": ("TERM-2", (then.deleted(), then.deleted())),
    "the first part is number 1": (
        "PART-1",
        begun(then.append("turn.delta", "t", part=1, kind="text", text="a")),
    ),
    "a part left out": (
        "PART-1",
        begun(then.delta("t", "a"), then.append("turn.delta", "t", part=2, kind="text", text="")),
    ),
    "a part changes its kind": (
        "PART-1",
        begun(then.delta("t", "a"), then.delta("t", "b", 0, "reasoning")),
    ),
    "a tool call without call": ("PART-2", begun(then.delta("t", "{", 0, "tool_call", name="f"))),
    "a tool call without name": ("PART-2", begun(then.delta("t", "{", 0, "tool_call", call="k"))),
    "data without name": ("PART-2", begun(then.delta("t", "{", 0, "data"))),
    "data with call": ("PART-2", begun(then.delta("t", "{", 0, "data", call="k", name="f"))),
    "text with name": ("PART-2", begun(then.delta("t", "a", name="f"))),
    "a tool call named again": (
        "PART-2",
        begun(
            then.delta("t", "{", 0, "tool_call", call="k", name="f"),
            then.delta("t", "}", 0, "tool_call", name="f"),
        ),
    ),
    "a part goes on behind its last delta": (
        "PART-3",
        begun(then.delta("t", "a", last=True), then.delta("t", "b")),
    ),
    "a part ends twice": (
        "PART-3",
        begun(then.delta("t", "a", last=True), then.delta("t", "", last=True)),
    ),
    "done while a part is open": ("PART-3", begun(then.delta("t", "a"), then.done("t"))),
    "error while a part is open": ("PART-3", begun(then.delta("t", "a"), then.error("t"))),
    "asked while a part is open": ("PART-3", begun(then.delta("t", "a"), then.asked("t"))),
    "a part too few in the terminal": (
        "CHECKSUM-1",
        begun(then.delta("t", "a", last=True), then.done("t", parts=[])),
    ),
    "a part too many in the terminal": (
        "CHECKSUM-1",
        begun(then.done("t", parts=[{"part": 0, "kind": "text", "bytes": 0, "crc32": 0}])),
    ),
    "partial without parts": ("PARTIAL-1", begun(then.error("t", partial=True))),
    "not partial with parts": (
        "PARTIAL-1",
        begun(then.delta("t", "a", last=True), then.error("t", partial=False)),
    ),
    "asked again while open": ("ASK-1", begun(then.asked("t"), then.asked("t"))),
    "asked again when answered": (
        "ASK-1",
        begun(
            then.asked("t"),
            then.responded("t"),
            then.started("t", 2),
            then.asked("t"),
        ),
    ),
    "responded to nothing": ("ASK-1", begun(then.responded("t"))),
    "responded twice": (
        "ASK-1",
        begun(
            then.asked("t", "r1"),
            then.asked("t", "r2"),
            then.responded("t", "r1"),
            then.responded("t", "r1"),
        ),
    ),
    "a step starts while a request is open": (
        "ASK-2",
        begun(then.asked("t"), then.started("t", 2)),
    ),
    "a delta while a request is open": ("ASK-2", begun(then.asked("t"), then.delta("t", "a"))),
    "a retry while a request is open": ("ASK-2", begun(then.asked("t"), then.retrying("t"))),
    "a second turn starts": (
        "BUSY-1",
        begun(then.accepted("u", "queued"), then.started("u")),
    ),
    "a second turn starts beside a parked one": (
        "BUSY-1",
        begun(then.accepted("u", "queued"), then.asked("t"), then.started("u")),
    ),
    "a second turn starts before the first has": (
        "BUSY-1",
        (then.accepted("t"), then.accepted("u"), then.started("u")),
    ),
    "a queued turn overtakes": (
        "BUSY-2",
        begun(
            then.accepted("u", "queued"),
            then.accepted("v", "queued"),
            then.done("t"),
            then.started("v"),
        ),
    ),
}


@pytest.mark.parametrize("writes", LEGAL.values(), ids=LEGAL)
def test_a_legal_log_breaks_no_rule(writes: tuple[Write, ...]) -> None:
    play(reading(written(*writes))).finish()


@pytest.mark.parametrize(("rule", "writes"), BROKEN.values(), ids=BROKEN)
def test_an_illegal_log_breaks_its_rule_at_its_last_frame(rule: str, writes: tuple[Write, ...]) -> None:
    log = written(*writes)
    play(reading(log, log.frames[:-1]))
    with pytest.raises(RuleBroken) as caught:
        play(reading(log))
    assert caught.value.rule == rule
    assert f"{log.head}" in caught.value.detail


@pytest.mark.parametrize("field", ["part", "kind", "bytes", "crc32"])
def test_each_field_of_a_checksum_counts(field: str) -> None:
    log = written(*begun(then.delta("t", "a", last=True), then.done("t")))
    terminal = log.frames[-1]
    other: Any = "reasoning" if field == "kind" else terminal["parts"][0][field] + 1
    log.frames[-1] = {**terminal, "parts": [{**terminal["parts"][0], field: other}]}

    with pytest.raises(RuleBroken) as caught:
        play(reading(log))
    assert caught.value.rule == "CHECKSUM-1"


def test_a_changed_letter_is_found_out_at_the_terminal() -> None:
    log = written(*LEGAL["an answer of several parts"])
    log.frames[4] = {**log.frames[4], "text": "Rayleigh".replace("y", "i")}
    with pytest.raises(RuleBroken) as caught:
        play(reading(log))
    assert caught.value.rule == "CHECKSUM-1"
