"""Adjacent deltas of one part become one.

Merging happens twice: behind an append that is on its way (the entries have no seq yet) and in front of a cursor that
lags (they have, and the merged delta stands for first_seq to seq). Both join only what a reader would have joined
anyway: the same turn, the same part, nothing in between, nothing after a part's last delta.
"""

from collections.abc import Sequence
from typing import Final

from turnwire.core.entries import Delta, Entry, Logged

MERGED_CHARS_MAX: Final = 65_536
"""A merged delta stays well below the frame size that every client takes."""


def may_join(first: Delta, second: Delta) -> bool:
    """Whether `second` may be appended to `first` without changing what a reader sees."""
    return (
        first.part == second.part
        and not first.last
        and first.turn == second.turn
        and first.kind == second.kind
        and len(first.text) + len(second.text) <= MERGED_CHARS_MAX
    )


def join(first: Delta, second: Delta) -> Delta:
    """What stands for both; the first one's names stay, the second one may be the part's last."""
    text = first.text + second.text
    return Delta(first.turn, first.part, first.kind, text, first.call, first.name, second.last, second.opaque)


def merge(entries: Sequence[Entry]) -> list[Entry]:
    """The same entries in as few as may be, for those that have no place in a log (any more)."""
    return [logged.entry for logged in merge_logged([Logged(0, 0, entry) for entry in entries])]


def merge_logged(logged: Sequence[Logged]) -> list[Logged]:
    """The same history in as few entries as may be. The input is not changed."""
    merged: list[Logged] = []
    index = 0
    while index < len(logged):
        end = _end_of_run(logged, index)
        merged.append(logged[index] if end == index + 1 else _joined(logged[index:end]))
        index = end
    return merged


def _end_of_run(logged: Sequence[Logged], start: int) -> int:
    """One past the last entry that joins the one at `start`."""
    first = logged[start].entry
    end = start + 1
    if not isinstance(first, Delta):
        return end
    chars = len(first.text)
    last = first.last
    while end < len(logged):
        piece = logged[end].entry
        if not isinstance(piece, Delta) or last:
            break
        if piece.part != first.part or piece.turn != first.turn or piece.kind != first.kind:
            break
        chars += len(piece.text)
        if chars > MERGED_CHARS_MAX:
            break
        last = piece.last
        end += 1
    return end


def _joined(run: Sequence[Logged]) -> Logged:
    """One entry for a run, its texts joined once: growing a string piece by piece would copy it every time."""
    deltas = [piece.entry for piece in run if isinstance(piece.entry, Delta)]
    first = deltas[0]
    text = "".join(delta.text for delta in deltas)
    last = deltas[-1]
    whole = Delta(first.turn, first.part, first.kind, text, first.call, first.name, last.last, last.opaque)
    return Logged(run[-1].seq, run[0].first_seq, whole)
