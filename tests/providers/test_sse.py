"""The event decoder gives the same events wherever its bytes are cut, and nothing can make it hold more than it may."""

import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnwire.ports import Failure
from turnwire.providers.sse import EventDecoder, ServerSentEvent


def decoded(*chunks: bytes) -> list[tuple[str, str]]:
    decoder = EventDecoder()
    events: list[ServerSentEvent] = []
    for chunk in chunks:
        events.extend(decoder.feed(chunk))
    events.extend(decoder.end())
    return events


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        (b"data: a\n\n", [("message", "a")]),
        (b"data:a\n\ndata:  b\n\n", [("message", "a"), ("message", " b")]),
        (b"data: a\r\rdata: b\r\n\r\ndata: c\n\r\n", [("message", "a"), ("message", "b"), ("message", "c")]),
        (b"data: a\ndata: b\ndata\n\n", [("message", "a\nb\n")]),
        (b"data: a\r\ndata: b\r\n\r\n", [("message", "a\nb")]),
        (b"event: error\ndata: x\n\ndata: y\n\n", [("error", "x"), ("message", "y")]),
        (b"event: lost\n\ndata: y\n\n", [("message", "y")]),
        (b": ping\n\n:\n\ndata: a\n\n", [("message", "a")]),
        (b"id: 7\nretry: 10\nunknown: z\ndata: a\n\n", [("message", "a")]),
        (b"data:\n\ndata\n\n\n\n", []),
        (b"error: {}\n\ndata: [DONE]", [("error", "{}"), ("message", "[DONE]")]),
        (b"data: no blank line\n", [("message", "no blank line")]),
        (b"data: not even an end", [("message", "not even an end")]),
        (b"\xef\xbb\xbfdata: a\n\n", [("message", "a")]),
        (b"data: \xef\xbb\xbf\n\n", [("message", "\ufeff")]),
        (b"data: \xc3\xa4\xff\xe4\xbd\n\ndata: ok\n\n", [("message", "ä\ufffd\ufffd"), ("message", "ok")]),
        (b"data: one\xe2\x80\xa8line\x0b\x0c\x85\n\n", [("message", "one\u2028line\x0b\x0c\ufffd")]),
        (b"", []),
    ],
)
def test_a_stream_gives_its_events_whole_and_byte_by_byte(stream: bytes, events: list[tuple[str, str]]) -> None:
    assert decoded(stream) == events
    assert decoded(*(bytes([byte]) for byte in stream)) == events


tokens = st.sampled_from(
    [b"\r", b"\n", b"\r\n", b"data: x", b"data:", b"event: e", b":", b"error: ", "é🌍".encode(), b"\xff"]
)
streams = st.lists(tokens, max_size=24).map(b"".join)


@given(stream=streams, cuts=st.lists(st.integers(0, 60), max_size=6))
def test_no_way_to_cut_a_stream_changes_its_events(stream: bytes, cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(stream)]
    assert decoded(*(stream[start:end] for start, end in pairwise(edges))) == decoded(stream)


@given(stream=st.binary(max_size=200))
def test_any_bytes_at_all_are_taken_without_an_exception(stream: bytes) -> None:
    decoded(stream)


@pytest.mark.parametrize("chunk_bytes", [1, 7, 4096, 10_000_000])
def test_a_line_over_its_maximum_is_malformed_and_not_kept(chunk_bytes: int) -> None:
    decoder = EventDecoder(line_bytes_max=1000)
    assert list(decoder.feed(b"data: " + b"x" * 994 + b"\n\n"))
    stream = b"data: " + b"x" * 10_000
    with pytest.raises(Failure) as failure:
        for start in range(0, len(stream), chunk_bytes):
            list(decoder.feed(stream[start : start + chunk_bytes]))
    assert failure.value.kind == "malformed"


def test_an_event_over_its_maximum_is_malformed_also_when_its_lines_are_empty() -> None:
    decoder = EventDecoder(event_bytes_max=1000)
    with pytest.raises(Failure) as failure:
        for _ in range(1001):
            list(decoder.feed(b"data:\n"))
    assert failure.value.kind == "malformed"


def test_events_before_a_line_that_is_too_long_still_count() -> None:
    decoder = EventDecoder(line_bytes_max=10)
    events: list[ServerSentEvent] = []
    with pytest.raises(Failure):
        for event in decoder.feed(b"data: a\n\ndata: " + b"x" * 20):
            events.append(event)
    assert events == [("message", "a")]


def test_a_long_line_in_tiny_chunks_costs_time_in_proportion_to_its_length() -> None:
    def seconds(length: int) -> float:
        decoder = EventDecoder()
        began = time.process_time()
        for _ in range(length):
            list(decoder.feed(b"x"))
        return time.process_time() - began

    seconds(1000)
    # Copying the line for every byte would make eight times the bytes cost sixty-four times as much.
    assert seconds(160_000) < 8 * 3 * max(seconds(20_000), 0.005)
