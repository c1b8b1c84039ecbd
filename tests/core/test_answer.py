"""An answer adds up: its parts' texts, lengths and checksums are those of the deltas it was made of."""

import zlib

from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from tests.core.generated import KINDS, histories, properly, texts
from turnwire.core.answer import Answer
from turnwire.core.entries import Delta, Logged
from turnwire.core.merge import merge_logged
from turnwire_protocol.values import Part, PartSummary

part_adapter: TypeAdapter[list[Part]] = TypeAdapter(list[Part])
summary_adapter: TypeAdapter[list[PartSummary]] = TypeAdapter(list[PartSummary])


def answer_of(deltas: list[Delta]) -> Answer:
    answer = Answer()
    answer.add_all(deltas)
    return answer


def deltas_of(logged: list[Logged], turn: str) -> list[Delta]:
    return [piece.entry for piece in logged if isinstance(piece.entry, Delta) and piece.entry.turn == turn]


def test_an_answer_without_deltas_is_empty() -> None:
    answer = Answer()
    assert answer.empty
    assert (answer.parts_count, answer.bytes, answer.open_parts()) == (0, 0, [])
    assert (answer.summaries(), answer.as_parts()) == ([], [])


def test_a_delta_without_text_makes_a_part_all_the_same() -> None:
    answer = answer_of([Delta("t", 0, "text", "")])
    assert not answer.empty
    assert answer.open_parts() == [(0, "text")]
    assert answer.summaries() == [{"part": 0, "kind": "text", "bytes": 0, "crc32": 0}]


def test_a_part_is_named_by_its_first_delta_and_closed_by_its_last() -> None:
    answer = answer_of(
        [
            Delta("t", 0, "tool_call", '{"a":', "call-1", "add"),
            Delta("t", 1, "text", "x"),
            Delta("t", 0, "tool_call", "1}", last=True),
        ]
    )
    assert answer.as_parts() == [
        {"part": 0, "kind": "tool_call", "text": '{"a":1}', "call": "call-1", "name": "add", "last": True},
        {"part": 1, "kind": "text", "text": "x", "last": False},
    ]
    assert answer.open_parts() == [(1, "text")]


def test_a_part_may_have_a_name_and_no_call() -> None:
    assert answer_of([Delta("t", 0, "data", "{}", name="chart")]).as_parts() == [
        {"part": 0, "kind": "data", "text": "{}", "name": "chart", "last": False}
    ]


@properly
@given(st.lists(st.tuples(st.integers(0, 4), texts, st.booleans()), max_size=30))
def test_lengths_and_checksums_are_those_of_each_parts_whole_text(pieces: list[tuple[int, str, bool]]) -> None:
    answer = answer_of([Delta("t", part, KINDS[part], text, last=last) for part, text, last in pieces])
    order = list(dict.fromkeys(part for part, _, _ in pieces))
    whole = {part: "".join(text for number, text, _ in pieces if number == part).encode() for part in order}
    assert answer.summaries() == [
        {"part": part, "kind": KINDS[part], "bytes": len(whole[part]), "crc32": zlib.crc32(whole[part])}
        for part in order
    ]
    assert [(part["part"], part["text"].encode()) for part in answer.as_parts()] == list(whole.items())
    assert answer.bytes == sum(map(len, whole.values()))
    assert answer.parts_count == len(order)
    assert [part for part, _ in answer.open_parts()] == [
        part for part in order if not [last for number, _, last in pieces if number == part][-1]
    ]
    assert {part["part"]: part["text"].encode() for part in answer.as_parts()} == whole
    part_adapter.validate_python(answer.as_parts())
    summary_adapter.validate_python(answer.summaries())


@properly
@given(histories)
def test_merged_deltas_add_up_to_the_same_answer(logged: list[Logged]) -> None:
    for turn in ("t1", "t2"):
        plain, merged = answer_of(deltas_of(logged, turn)), answer_of(deltas_of(merge_logged(logged), turn))
        assert plain.as_parts() == merged.as_parts()
        assert plain.summaries() == merged.summaries()
        assert (plain.opaque(), plain.bytes) == (merged.opaque(), merged.bytes)


def test_what_a_provider_wants_back_is_kept_apart_from_what_is_shown_and_counts_as_output() -> None:
    answer = answer_of([Delta("t", 0, "reasoning", "Hm"), Delta("t", 0, "reasoning", "", last=True, opaque="é" * 5)])
    assert answer.as_parts() == [{"part": 0, "kind": "reasoning", "text": "Hm", "last": True}]
    assert answer.summaries() == [{"part": 0, "kind": "reasoning", "bytes": 2, "crc32": zlib.crc32(b"Hm")}]
    assert (answer.opaque(), answer.bytes) == ({0: "é" * 5}, 12)
