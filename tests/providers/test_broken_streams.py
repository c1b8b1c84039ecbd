"""Whatever a service sends, a decoder raises nothing, says the same however it is cut, and proves no end of its own."""

import json
import random
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.core.generated import NASTY, properly
from tests.providers.recorded import DECODERS, EXPECTED, decoder_of, dialect_of, outcome_of, recording
from turnwire.core.entries import Content, Finish

ODD: list[Any] = [
    None,
    True,
    0,
    -1,
    1.5,
    2**60,
    "",
    "x",
    "\ud83d!",
    "stop",
    "error",
    *NASTY,
    [],
    [None],
    [{}],
    {},
    {"error": ""},
]
"""What may stand where something else was meant to."""

NAMES = {dialect: [name for name in EXPECTED if dialect_of(name) == dialect] for dialect in DECODERS}


def with_one_odd_value(value: Any, pick: random.Random) -> Any:
    """The same JSON, but for one value somewhere in it, which is another one, missing, or there twice."""
    if isinstance(value, dict) and value and pick.random() < 0.9:
        fields = dict(cast("dict[str, Any]", value))
        name = pick.choice(list(fields))
        if pick.random() < 0.1:
            del fields[name]
        else:
            fields[name] = with_one_odd_value(fields[name], pick)
        return fields
    if isinstance(value, list) and value and pick.random() < 0.9:
        items = list(cast("list[Any]", value))
        place = pick.randrange(len(items))
        items[place : place + 1] = [with_one_odd_value(items[place], pick)] * pick.choice([1, 1, 2])
        return items
    return pick.choice(ODD)


def broken(name: str, pick: random.Random) -> bytes:
    """A recording, some of whose frames are odd, missing, doubled or in another place."""
    lines = recording(name).split(b"\n")
    for _ in range(pick.randint(1, 4)):
        at = pick.randrange(len(lines))
        if lines[at].startswith(b"data: {"):
            odd = with_one_odd_value(json.loads(lines[at][6:]), pick)
            lines[at] = b"data: " + json.dumps(odd, ensure_ascii=pick.random() < 0.5).encode("utf-8", "surrogatepass")
        elif pick.random() < 0.3:
            lines.insert(pick.randrange(len(lines)), lines.pop(at))
    return b"\n".join(lines)


@pytest.mark.parametrize("dialect", DECODERS)
@properly
@given(seed=st.integers(0, 2**32))
def test_a_broken_stream_is_an_answer_or_a_failure_and_the_same_however_it_is_cut(dialect: str, seed: int) -> None:
    pick = random.Random(seed)
    name = pick.choice(NAMES[dialect])
    stream = broken(name, pick)
    whole = outcome_of([stream], decoder_of(name))
    at = pick.randrange(len(stream))
    assert outcome_of([stream[:at], stream[at:]], decoder_of(name)) == whole
    events, failure = whole
    finishes = [number for number, event in enumerate(events) if isinstance(event, Finish)]
    assert finishes == ([len(events) - 1] if failure is None else [])
    ended: set[int] = set()
    for event in events:
        if isinstance(event, Content):
            event.text.encode()
            assert event.part not in ended
            if event.last:
                ended.add(event.part)


@pytest.mark.parametrize("dialect", ["openai", "anthropic", "responses"])
@properly
@given(stream=st.binary(max_size=300))
def test_noise_is_no_answer(dialect: str, stream: bytes) -> None:
    events, failure = outcome_of([stream], decoder_of(dialect))
    assert (events, failure is None) == ([], False)
