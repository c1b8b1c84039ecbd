"""A cursor is honoured only where its own entry stands, and a window never guesses."""

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.core.generated import few, properly
from turnwire.core.entries import Delta, Event, Logged
from turnwire.core.replay import Window, mode_of
from turnwire_protocol.values import Cursor

# --- mode_of ----------------------------------------------------------------------------------------------------------

LOG = {"gen": "g", "head": 9, "floor": 3, "turn_at": "t", "at_known": True}


@pytest.mark.parametrize(
    ("after", "log", "mode"),
    [
        (Cursor(gen="g", seq=5, turn="t"), {}, "replay"),
        (Cursor(gen="g", seq=9, turn="t"), {}, "replay"),
        (Cursor(gen="g", seq=3, turn="t"), {}, "replay"),
        (Cursor(gen="g", seq=5, turn=None), {"turn_at": None}, "replay"),
        (Cursor(gen="g", seq=0), {"floor": 0, "turn_at": None}, "replay"),
        (Cursor(gen="g", seq=0), {"floor": 0, "turn_at": None, "head": 0}, "replay"),
        # Another history.
        (None, {}, "snapshot"),
        (Cursor(gen="h", seq=5, turn="t"), {}, "snapshot"),
        (Cursor(gen=None, seq=5, turn="t"), {}, "snapshot"),
        (Cursor(gen="g", seq=5, turn="t"), {"gen": None}, "snapshot"),
        # A log that nobody has begun: nothing is its history, and a cursor of nothing is not its either.
        (Cursor(gen=None, seq=0), {"gen": None, "head": 0, "floor": 0, "turn_at": None}, "snapshot"),
        # The log lost its tail, or its beginning.
        (Cursor(gen="g", seq=10, turn="t"), {}, "snapshot"),
        (Cursor(gen="g", seq=2, turn="t"), {}, "snapshot"),
        (Cursor(gen="g", seq=0), {"turn_at": None}, "snapshot"),
        # The same seq, but of another turn: the tail was lost and written anew.
        (Cursor(gen="g", seq=5, turn="other"), {}, "snapshot"),
        (Cursor(gen="g", seq=5, turn=None), {}, "snapshot"),
        (Cursor(gen="g", seq=5, turn="t"), {"turn_at": None}, "snapshot"),
        (Cursor(gen="g", seq=5, turn="t"), {"at_known": False}, "snapshot"),
        (Cursor(gen="g", seq=5, turn=None), {"turn_at": None, "at_known": False}, "snapshot"),
        (Cursor(gen="g", seq=0, turn="t"), {"floor": 0, "turn_at": None}, "snapshot"),
        (Cursor(gen="g", seq=0, turn="t"), {"floor": 0}, "snapshot"),
    ],
)
def test_a_cursor_is_replayed_only_where_the_log_still_holds_its_entry(
    after: Cursor | None, log: dict[str, object], mode: str
) -> None:
    assert mode_of(after, **(LOG | log)) == mode  # pyright: ignore[reportArgumentType] - built from a table


# --- Window -----------------------------------------------------------------------------------------------------------


def logged_run(start: int, widths: Sequence[int]) -> list[Logged]:
    """Entries of these widths after `start`; every fourth place is an event's."""
    run: list[Logged] = []
    for width in widths:
        first, seq = start + 1, start + width
        entry = Event("turn.started", "t", b"{}" * (seq % 3)) if seq % 4 == 0 else Delta("t", 0, "text", "x" * width)
        run.append(Logged(seq, first, entry))
        start = seq
    return run


def weight(logged: Logged) -> int:
    return len(logged.entry.text if isinstance(logged.entry, Delta) else logged.entry.body)


class Model:
    """A window as a list, without any thought of speed."""

    def __init__(self, tail: int, entries_max: int, chars_max: int) -> None:
        self.held: list[Logged] = []
        self.tail = tail
        self.entries_max, self.chars_max = entries_max, chars_max

    def extend(self, run: Sequence[Logged]) -> bool:
        fresh = [logged for logged in run if logged.seq > self.tail]
        if fresh and fresh[0].first_seq != self.tail + 1:
            return False
        self.held += fresh
        self.tail = self.held[-1].seq if fresh else self.tail
        while len(self.held) > self.entries_max or sum(map(weight, self.held)) > self.chars_max:
            del self.held[0]
        return True

    def after(self, seq: int) -> list[Logged] | None:
        if seq >= self.tail:
            return []
        found = [logged for logged in self.held if logged.seq > seq]
        return found if found and found[0].first_seq == seq + 1 else None


@few
@given(
    st.integers(0, 50),
    st.integers(0, 12),
    st.integers(0, 40),
    st.lists(st.tuples(st.integers(-12, 2), st.lists(st.integers(1, 4), max_size=8)), max_size=15),
)
@example(5, 3, 40, [(0, [1, 1, 1, 1]), (0, [])])
@example(5, 12, 3, [(0, [1, 4]), (0, [1])])
def test_a_window_is_a_list_of_the_newest_entries_whatever_it_is_given(
    tail: int, entries_max: int, chars_max: int, runs: list[tuple[int, list[int]]]
) -> None:
    window = Window(tail, entries_max=entries_max, chars_max=chars_max)
    model = Model(tail, entries_max, chars_max)
    for offset, widths in runs:
        # Stale ones begin before the tail, and where entries were merged otherwise they reach over it; late ones leave
        # a gap.
        run = logged_run(max(0, model.tail + offset), widths)
        assert window.extend(run) == model.extend(run)
        assert window.tail == model.tail
        for seq in range(max(0, tail - 2), model.tail + 3):
            found = window.after(seq)
            expected = model.after(seq)
            assert (None if found is None else list(found)) == expected


@properly
@given(st.integers(1, 20), st.integers(0, 100), st.lists(st.integers(1, 30), min_size=1, max_size=40))
def test_a_window_holds_no_more_than_its_bounds(entries_max: int, chars_max: int, widths: list[int]) -> None:
    window = Window(0, entries_max=entries_max, chars_max=chars_max)
    for logged in logged_run(0, widths):
        assert window.extend([logged])
        reach = min(seq for seq in range(logged.seq + 1) if window.after(seq) is not None)
        held = list(window.after(reach) or ())
        assert len(held) <= entries_max
        assert sum(map(weight, held)) <= chars_max
        assert all(before.seq + 1 == after.first_seq for before, after in pairwise(held))


def test_a_run_that_leaves_a_gap_is_refused_and_leaves_the_window_as_it_was() -> None:
    window = Window(4, entries_max=10, chars_max=100)
    first = logged_run(4, [1, 1])
    assert window.extend(first)
    assert not window.extend(logged_run(7, [1]))
    assert window.tail == 6
    assert window.after(4) == first


def test_what_reaches_over_the_tail_is_refused_because_half_of_it_is_known() -> None:
    window = Window(5, entries_max=10, chars_max=100)
    assert not window.extend(logged_run(3, [3]))
    assert (window.tail, window.after(5)) == (5, ())


def test_a_cursor_inside_a_merged_entry_is_sent_to_the_log() -> None:
    window = Window(0, entries_max=10, chars_max=100)
    run = logged_run(0, [3, 2])
    assert window.extend(run)
    assert [window.after(seq) is None for seq in range(6)] == [False, True, True, False, True, False]


def test_an_entry_larger_than_the_window_is_not_kept_but_counted() -> None:
    window = Window(0, entries_max=10, chars_max=3)
    assert window.extend(logged_run(0, [5]))
    assert window.tail == 5
    assert window.after(0) is None
    assert window.after(5) == ()
