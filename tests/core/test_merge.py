"""What is merged reads as before, in as few entries as may be."""

from collections.abc import Sequence
from itertools import pairwise

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.core.generated import deltas, histories, properly
from turnwire.core.entries import Delta, Event, Logged
from turnwire.core.merge import MERGED_CHARS_MAX, join, may_join, merge_logged
from turnwire_protocol.limits import SNAPSHOT_BYTES_MAX

Heard = dict[tuple[str, int], list[object]]


def heard(logged: Sequence[Logged]) -> Heard:
    """What a reader makes of each part: its kind, its names, its text, where it ended, and what came with that."""
    parts: Heard = {}
    for entry in (piece.entry for piece in logged):
        if isinstance(entry, Delta):
            part = parts.setdefault((entry.turn, entry.part), [entry.call, entry.name, []])
            runs = part[2]
            assert isinstance(runs, list)
            if runs and runs[-1][0] == entry.kind and not runs[-1][2]:
                runs[-1] = (entry.kind, runs[-1][1] + entry.text, entry.last, entry.opaque)
            else:
                runs.append((entry.kind, entry.text, entry.last, entry.opaque))
    return parts


def order_of(logged: Sequence[Logged]) -> list[object]:
    """Which strand speaks when, told apart where another one comes in between; events by themselves."""
    order: list[object] = []
    for piece in logged:
        entry = piece.entry
        strand = (entry.turn, entry.part, entry.kind) if isinstance(entry, Delta) else piece.seq
        if not order or order[-1] != strand:
            order.append(strand)
    return order


@properly
@given(histories)
def test_a_merged_history_says_the_same_in_the_same_order(logged: list[Logged]) -> None:
    merged = merge_logged(logged)
    assert heard(merged) == heard(logged)
    assert order_of(merged) == order_of(logged)


@properly
@given(histories)
def test_merged_entries_stand_for_the_same_seqs_without_a_hole(logged: list[Logged]) -> None:
    merged = merge_logged(logged)
    assert [piece.first_seq for piece in merged[:1]] == [piece.first_seq for piece in logged[:1]]
    assert [piece.seq for piece in merged[-1:]] == [piece.seq for piece in logged[-1:]]
    assert all(before.seq + 1 == after.first_seq for before, after in pairwise(merged))
    borders = {piece.seq for piece in logged}
    assert all(piece.first_seq <= piece.seq and piece.seq in borders for piece in merged)


@properly
@given(histories)
def test_nothing_is_left_that_could_be_joined_so_merging_again_changes_nothing(logged: list[Logged]) -> None:
    merged = merge_logged(logged)
    assert merge_logged(merged) == merged
    for before, after in pairwise(merged):
        if isinstance(before.entry, Delta) and isinstance(after.entry, Delta):
            assert not may_join(before.entry, after.entry)


def joined_by_hand(logged: Sequence[Logged]) -> list[Logged]:
    """Merged as the journal does it: each entry joins the one before it, if it may."""
    merged: list[Logged] = []
    for piece in logged:
        newest = merged[-1] if merged else None
        if (
            newest is not None
            and isinstance(newest.entry, Delta)
            and isinstance(piece.entry, Delta)
            and may_join(newest.entry, piece.entry)
        ):
            merged[-1] = Logged(piece.seq, newest.first_seq, join(newest.entry, piece.entry))
        else:
            merged.append(piece)
    return merged


@properly
@given(histories)
@example([Logged(seq, seq, Delta("t", 0, "text", "a", last=seq == 2)) for seq in range(1, 5)])
def test_a_cursor_that_lags_and_a_journal_that_waits_merge_alike(logged: list[Logged]) -> None:
    assert merge_logged(logged) == joined_by_hand(logged)


@properly
@given(histories)
def test_the_history_that_was_given_is_not_changed(logged: list[Logged]) -> None:
    before = repr(logged)
    merge_logged(logged)
    assert repr(logged) == before


@properly
@given(deltas(), deltas())
@example(Delta("t", 0, "text", "a", "c", "n"), Delta("t", 0, "text", "b", last=True))
def test_only_what_follows_in_the_same_open_part_may_be_joined(first: Delta, second: Delta) -> None:
    same = (first.turn, first.part, first.kind) == (second.turn, second.part, second.kind)
    assert may_join(first, second) is (same and not first.last)
    if may_join(first, second):
        whole = join(first, second)
        assert (whole.turn, whole.part, whole.kind) == (first.turn, first.part, first.kind)
        assert (whole.call, whole.name) == (first.call, first.name)
        assert (whole.text, whole.last) == (first.text + second.text, second.last)


@pytest.mark.parametrize("field", ["turn", "part", "kind"])
def test_deltas_that_differ_in_one_thing_that_names_their_strand_stay_apart(field: str) -> None:
    first, second = Delta("t1", 0, "text", "a"), Delta("t1", 0, "text", "b")
    setattr(second, field, {"turn": "t2", "part": 1, "kind": "reasoning"}[field])
    logged = [Logged(1, 1, first), Logged(2, 2, second)]
    assert not may_join(first, second)
    assert merge_logged(logged) == logged


def test_an_event_in_between_keeps_deltas_apart() -> None:
    event = Event("turn.cancelling", "t", b"{}")
    logged = [Logged(1, 1, Delta("t", 0, "text", "a")), Logged(2, 2, event), Logged(3, 3, Delta("t", 0, "text", "b"))]
    assert merge_logged(logged) == logged


sizes_about_the_bound = st.one_of(
    st.integers(0, 2), st.integers(MERGED_CHARS_MAX // 2 - 1, MERGED_CHARS_MAX // 2 + 1), st.just(MERGED_CHARS_MAX + 1)
)


@properly
@given(st.lists(sizes_about_the_bound, max_size=8))
@example([MERGED_CHARS_MAX, 0, 0, 1])
@example([MERGED_CHARS_MAX + 1, 0])
@example([1, MERGED_CHARS_MAX, MERGED_CHARS_MAX - 1, 1])
def test_a_merged_delta_is_bounded_and_none_ends_sooner_than_it_must(sizes: list[int]) -> None:
    logged = [Logged(seq, seq, Delta("t", 0, "text", "x" * size)) for seq, size in enumerate(sizes, 1)]
    merged = merge_logged(logged)
    lengths = [sum(sizes[piece.first_seq - 1 : piece.seq]) for piece in merged]
    assert [len(piece.entry.text) for piece in merged if isinstance(piece.entry, Delta)] == lengths
    for number, piece in enumerate(merged):
        assert lengths[number] <= MERGED_CHARS_MAX or piece.first_seq == piece.seq
        if number + 1 < len(merged):
            assert lengths[number] + sizes[piece.seq] > MERGED_CHARS_MAX
    assert joined_by_hand(logged) == merged


def test_the_bound_keeps_a_merged_delta_far_below_the_largest_frame() -> None:
    dearest_char_bytes = len(orjson.dumps("\x00")) - 2
    assert MERGED_CHARS_MAX * dearest_char_bytes < SNAPSHOT_BYTES_MAX


def test_a_run_of_thousands_becomes_one_entry_with_the_whole_text() -> None:
    logged = [Logged(seq, seq, Delta("t", 0, "text", str(seq % 10))) for seq in range(1, 20_001)]
    assert merge_logged(logged) == [Logged(20_000, 1, Delta("t", 0, "text", "1234567890" * 2_000))]
