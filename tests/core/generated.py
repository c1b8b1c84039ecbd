"""Values that Hypothesis makes for the tests of core: texts, ids, histories."""

from collections.abc import Sequence
from typing import Any, get_args

from hypothesis import settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from turnwire.core.entries import Delta, Entry, Event, Logged
from turnwire_protocol.events import AnyEvent, Frame
from turnwire_protocol.values import Kind

properly = settings(deadline=None)
"""No deadline for one example: the machine may be busy with something else."""

few = settings(deadline=None, max_examples=40)
"""For properties whose examples are long."""

_adapter: TypeAdapter[Any] = TypeAdapter(AnyEvent)

NULLABLE = frozenset(["parent", "first_token_ms", "gen", "turn", "title"])
"""The only fields that are ever sent as null: events.py."""

KINDS: tuple[Kind, ...] = get_args(Kind)

ids = st.text("abcXYZ019_-", min_size=1, max_size=64)

NASTY = (
    '"',
    "\\",
    "\n",
    "\x00",
    "\x1f",
    "\x7f",
    "\u2028",
    "\u2029",
    "é",
    "漢",
    "😀",
    "👨‍👩‍👧",
    "</script>",
    "\\u0000",
    "",
)

texts = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
    st.lists(st.sampled_from(NASTY), max_size=6).map("".join),
)
"""Anything that a provider may say, lone surrogates excepted: those are repaired before they get here."""

names = st.one_of(st.none(), st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12))


def validated(frame: Frame) -> Any:
    """The frame's model. Fails when the frame has a field too many or too few, or a null where none may be."""
    model = _adapter.validate_python(frame)
    assert model.model_dump(exclude_unset=True) == frame
    assert [name for name, value in frame.items() if value is None and name not in NULLABLE] == []
    return model


def deltas(turns: Sequence[str] = ("t1", "t2")) -> st.SearchStrategy[Delta]:
    """Deltas of few strands, so that many of them meet."""
    return st.builds(
        _delta,
        st.sampled_from(turns),
        st.sampled_from([0, 0, 1]),
        st.sampled_from(["text", "text", "reasoning"]),
        st.sampled_from(NASTY),
        st.sampled_from([None, None, "call"]),
        st.sampled_from([None, None, "name"]),
        st.sampled_from(["", "", "", "last", "opaque"]),
    )


def _delta(turn: str, part: int, kind: Kind, text: str, call: str | None, name: str | None, ending: str) -> Delta:
    return Delta(turn, part, kind, text, call, name, bool(ending), '["m",{"k":1}]' if ending == "opaque" else None)


events = st.builds(
    Event,
    st.sampled_from(["turn.started", "turn.cancelling", "session.updated"]),
    st.sampled_from(["t1", "t2"]),
    st.just(b'{"n":1}'),
)

entries: st.SearchStrategy[Entry] = deltas(("t1",)) | deltas(("t1",)) | deltas() | events


def _logged(start: int, pieces: Sequence[tuple[Entry, int]]) -> list[Logged]:
    logged: list[Logged] = []
    for entry, width in pieces:
        seqs = width if isinstance(entry, Delta) else 1
        logged.append(Logged(start + seqs, start + 1, entry))
        start += seqs
    return logged


histories = st.builds(_logged, st.integers(0, 1_000), st.lists(st.tuples(entries, st.integers(1, 3)), max_size=25))
"""Adjacent entries of one log. A delta may be a merged one, which stands for several seqs."""
