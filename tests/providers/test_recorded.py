"""Exchanges over real HTTP are written down, and played again without it: the same events, or a clear failure."""

import asyncio
import base64
import json
import stat
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.provider_server import Gate, Pause, ProviderServer, Reply, chunk, in_order, sse
from turnwire.core.entries import Content, Message, ProviderEvent
from turnwire.ports import Deadlines, Failure, StepRequest
from turnwire.providers import exchange_files, recording
from turnwire.providers.exchange_files import BadExchange, Exchange, key_of, masked, read, redacted, secrets_in, write
from turnwire.providers.http_stream import HttpStream
from turnwire.providers.openai_chat import OpenAIChat
from turnwire.providers.recorded import Recorded
from turnwire.providers.recording import Recording
from turnwire.providers.upstream import Upstream

KEY = "test-key-not-a-real-one"
HELLO = Reply.of_text("Grüß ", "dich 🧵")
USAGE = {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}


def asking(text: str = "hi", **fields: Any) -> StepRequest:
    return StepRequest([Message("user", ({"type": "text", "text": text},))], **fields)


@pytest.fixture
async def http() -> AsyncIterator[HttpStream]:
    client = HttpStream()
    yield client
    await client.aclose()


async def outcome(upstream: Upstream, base_url: str, request: StepRequest | None = None) -> list[ProviderEvent | str]:
    """The events of one request, and the kind of the failure that ended it."""
    events: list[ProviderEvent | str] = []
    provider = OpenAIChat(upstream, name="m", base_url=base_url, model="the-model", api_key=KEY)
    try:
        async with provider.stream(request or asking()) as batches:
            async for batch in batches:
                events.extend(batch)
    except Failure as failure:
        events.append(f"{failure.kind} {failure.retry_after_ms}")
    return joined(events)


def joined(events: Sequence[ProviderEvent | str]) -> list[ProviderEvent | str]:
    """Deltas of one part as one: how bytes were cut on their way makes no difference."""
    whole: list[ProviderEvent | str] = []
    for event in events:
        before = whole[-1] if whole else None
        if isinstance(event, Content) and isinstance(before, Content) and event.part == before.part:
            whole[-1] = replace(before, text=before.text + event.text, last=event.last)
        else:
            whole.append(event)
    return whole


def files_in(folder: Path) -> list[Path]:
    return list(folder.iterdir())


REPLIES = {
    "an answer": HELLO,
    "usage": Reply.of_events(chunk("a"), chunk(finish_reason="length"), USAGE, "[DONE]"),
    "a tool call": Reply.of_events(
        chunk(tool_calls=[{"index": 0, "id": "c", "function": {"name": "f", "arguments": "{}"}}]),
        chunk(finish_reason="tool_calls"),
        "[DONE]",
    ),
    "bytes that are no text": Reply((b'data: {"choices":[{"delta":{"content":"\xff\xfe"}}]}\n\n',)),
    "a cut": Reply((sse(chunk("a")),), ending="cut"),
    "an end without a reason": Reply((sse(chunk("a")),)),
    "an error inside": Reply.of_events(chunk("a"), {"error": {"code": 503}}),
    "a 429": Reply.of_status(429, retry_after="7"),
    "a 500 with a cut body": Reply((b"{",), 500, ending="cut"),
    "HTML": Reply((b"<html>",), headers={"content-type": "text/html"}),
    "gzip": Reply((b"\x1f\x8b",), headers={"content-type": "text/event-stream", "content-encoding": "gzip"}),
}


@pytest.mark.parametrize("name", REPLIES)
async def test_what_was_recorded_is_played_again_event_by_event(http: HttpStream, tmp_path: Path, name: str) -> None:
    async with ProviderServer(in_order(REPLIES[name])) as server:
        first = await outcome(Recording(http, tmp_path), server.base_url)
        base_url = server.base_url
    assert first
    assert await outcome(Recorded(tmp_path, timed=False), base_url) == first
    assert await outcome(Recorded(tmp_path, timed=True), base_url) == first


async def test_the_same_request_gets_its_recordings_in_order_and_the_last_one_ever_after(
    http: HttpStream, tmp_path: Path
) -> None:
    replies = [Reply.of_status(429), Reply.of_text("one"), *[Reply.of_text(str(number)) for number in range(2, 12)]]
    recording = Recording(http, tmp_path)
    async with ProviderServer(in_order(*replies)) as server:
        then = [await outcome(recording, server.base_url) for _ in replies]
        await outcome(recording, server.base_url, asking("something else"))
    replay = Recorded(tmp_path, timed=False)
    now = [await outcome(replay, server.base_url) for _ in range(14)]
    assert now == [*then, then[-1], then[-1]]
    assert then[0] == ["upstream_busy None"]
    assert len(files_in(tmp_path)) == 13


async def test_a_new_run_replaces_what_it_records_anew_and_leaves_the_rest(http: HttpStream, tmp_path: Path) -> None:
    async with ProviderServer(in_order(Reply.of_text("a"), Reply.of_text("b"), Reply.of_text("c"))) as server:
        early = Recording(http, tmp_path)
        for _ in range(2):
            await outcome(early, server.base_url)
        await outcome(early, server.base_url, asking("other"))
        await outcome(Recording(http, tmp_path), server.base_url)
    assert sorted(path.name.rpartition("-")[2] for path in files_in(tmp_path)) == ["1.jsonl", "1.jsonl"]
    replay = Recorded(tmp_path, timed=False)
    assert "c" in str(await outcome(replay, server.base_url))


async def test_a_request_that_was_not_recorded_is_a_clear_failure(tmp_path: Path) -> None:
    provider = OpenAIChat(Recorded(tmp_path, timed=False), name="m", base_url="http://127.0.0.1:9/v1", model="m")
    with pytest.raises(Failure) as failure:
        async with provider.stream(asking()):
            pass
    assert (failure.value.kind, failure.value.may_retry) == ("not_recorded", False)
    assert failure.value.detail.startswith("no exchange ")


@pytest.mark.parametrize("content", ["", "[]", "{}\n{}\n", '{"turnwire_exchange":2}\n{"ending":"end"}', "\xff"])
async def test_a_recording_that_cannot_be_read_is_a_clear_failure(
    http: HttpStream, tmp_path: Path, content: str
) -> None:
    async with ProviderServer(in_order(HELLO)) as server:
        await outcome(Recording(http, tmp_path), server.base_url)
    (path,) = files_in(tmp_path)
    path.write_text(content, encoding="latin-1")
    with pytest.raises(BadExchange, match=path.name):
        read(path)
    assert await outcome(Recorded(tmp_path, timed=False), server.base_url) == ["not_recorded None"]


# --- time -------------------------------------------------------------------------------------------------------------


async def test_with_timing_each_piece_comes_no_sooner_than_it_did(http: HttpStream, tmp_path: Path) -> None:
    slow = Reply((sse(chunk("a")), Pause(150), sse(chunk("b")), Pause(150), sse(chunk(finish_reason="stop"))))
    async with ProviderServer(in_order(replace(slow, headers_after=Pause(100)))) as server:
        await outcome(Recording(http, tmp_path), server.base_url)
    (path,) = files_in(tmp_path)
    exchange = read(path)
    assert exchange.headers_ms >= 100
    assert exchange.pieces[-1][0] >= 400
    began = time.monotonic()
    timed = await outcome(Recorded(tmp_path, timed=True), server.base_url)
    assert time.monotonic() - began >= 0.39
    began = time.monotonic()
    assert await outcome(Recorded(tmp_path, timed=False), server.base_url) == timed
    assert time.monotonic() - began < 0.3


async def test_recorded_headers_that_come_too_late_are_too_late_again(http: HttpStream, tmp_path: Path) -> None:
    async with ProviderServer(in_order(replace(HELLO, headers_after=Pause(200)))) as server:
        await outcome(Recording(http, tmp_path), server.base_url)
    impatient = asking(deadlines=Deadlines(first_content=50))
    replay = Recorded(tmp_path, timed=True)
    assert await outcome(replay, server.base_url, impatient) == ["timeout_first_content None"]


# --- what is not recorded ---------------------------------------------------------------------------------------------


async def test_an_exchange_that_was_left_in_the_middle_is_not_recorded(http: HttpStream, tmp_path: Path) -> None:
    reply = Reply((sse(chunk("a")), Gate(asyncio.Event())))
    async with ProviderServer(in_order(reply)) as server:
        provider = OpenAIChat(Recording(http, tmp_path), name="m", base_url=server.base_url, model="m")
        async with provider.stream(asking()) as batches:
            async for _ in batches:
                break
        running = asyncio.create_task(outcome(Recording(http, tmp_path), server.base_url))
        await server.request(1)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    assert files_in(tmp_path) == []


async def test_a_body_that_is_too_long_is_not_recorded_and_passes_all_the_same(
    http: HttpStream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording, "BYTES_MAX", 100)
    async with ProviderServer(in_order(HELLO)) as server:
        assert "Grüß dich" in str(await outcome(Recording(http, tmp_path), server.base_url))
    assert files_in(tmp_path) == []


async def test_a_disk_that_takes_nothing_fails_no_turn(
    http: HttpStream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_path: Path, _exchange: Exchange) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(exchange_files, "write", full)
    async with ProviderServer(in_order(HELLO)) as server:
        assert "Grüß dich" in str(await outcome(Recording(http, tmp_path), server.base_url))


# --- what must not get in ---------------------------------------------------------------------------------------------


async def test_no_credential_gets_into_a_file_and_nobody_else_may_read_it(http: HttpStream, tmp_path: Path) -> None:
    answer = Reply((sse(chunk(f"your key is {KEY[:9]}")), sse(f"{KEY} Bearer {KEY}"), sse(chunk(finish_reason="stop"))))
    headers = {**answer.headers, "set-cookie": "c=hunter2", "openai-organization": "org-hunter2", "retry-after": "1"}
    recorder = Recording(http, tmp_path)
    async with ProviderServer(in_order(replace(answer, headers=headers))) as server:
        async with recorder.ask(
            server.base_url + "/chat/completions?key=hunter2",
            {"authorization": f"Bearer {KEY}", "x-team": "hunter2-team", "x-short": "ab"},
            b'{"model":"m"}',
            Deadlines(),
        ) as passed:
            while await passed.chunk():
                pass
    (path,) = files_in(tmp_path)
    text = path.read_text()
    assert KEY not in text and "hunter2" not in text
    assert "*" * len(f"Bearer {KEY}") in text
    assert set(read(path).headers) == {"content-type", "retry-after"}
    assert read(path).url == server.base_url + "/chat/completions"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_redacted_recordings_have_nothing_that_a_person_wrote_and_play_all_the_same(
    http: HttpStream, tmp_path: Path
) -> None:
    request = asking("my secret wish", params={"temperature": 0.5}, tools=[{"name": "secret_tool"}])
    async with ProviderServer(in_order(HELLO)) as server:
        first = await outcome(Recording(http, tmp_path, redact_prompts=True), server.base_url, request)
    (path,) = files_in(tmp_path)
    text = path.read_text()
    assert "secret" not in text
    kept = read(path).request
    assert (kept["model"], kept["temperature"], kept["stream"]) == ("the-model", 0.5, True)
    assert kept["messages"].keys() == {"redacted_bytes"}
    assert await outcome(Recorded(tmp_path, timed=False), server.base_url, request) == first


def test_only_the_models_name_numbers_and_switches_stay_in_a_redacted_request() -> None:
    request = {"model": "m", "n": 1, "x": 0.5, "on": True, "none": None, "user": "ann", "stop": ["ann"], "o": {"a": 1}}
    shown = redacted(request)
    assert {name: shown[name] for name in ("model", "n", "x", "on", "none")} == {
        name: request[name] for name in ("model", "n", "x", "on", "none")
    }
    assert [shown[name] for name in ("user", "stop", "o")] == [{"redacted_bytes": size} for size in (5, 7, 7)]


# --- keys and files ---------------------------------------------------------------------------------------------------


def test_a_key_goes_by_what_is_asked_and_by_no_id_of_a_call() -> None:
    def body(call: str, other: str = "d", text: str = "{}", **fields: Any) -> bytes:
        calls = [
            {"id": call, "function": {"name": "f", "arguments": text}},
            {"id": other, "function": {"name": "g", "arguments": "[]"}},
        ]
        messages = [{"role": "assistant", "tool_calls": calls}, {"role": "tool", "tool_call_id": other, "content": "1"}]
        return json.dumps({"messages": messages, **fields}).encode()

    assert key_of(body("a")) == key_of(body("b"))
    assert key_of(b'{"a":1,"b":2}') == key_of(b'{ "b": 2, "a": 1 }')
    different = [body("a"), body("a", "a"), body("a", text="[]"), body("a", model="m")]
    assert len({key_of(one) for one in different}) == len(different)


async def test_a_conversation_whose_calls_got_other_ids_is_found_again(http: HttpStream, tmp_path: Path) -> None:
    """Where a service gives no ids we draw them, each time others."""

    def second_step(call: str) -> StepRequest:
        question = Message("user", ({"type": "text", "text": "hi"},))
        said = Message("assistant", ({"type": "tool_call", "text": "{}", "call": call, "name": "f"},))
        return StepRequest([question, said, Message("tool", ({"type": "text", "text": "1"},), call=call)])

    async with ProviderServer(in_order(HELLO)) as server:
        first = await outcome(Recording(http, tmp_path), server.base_url, second_step("call-abc-0"))
    assert await outcome(Recorded(tmp_path, timed=False), server.base_url, second_step("call-xyz-0")) == first


@given(st.lists(st.binary(max_size=12), max_size=6), st.integers(0, 60), st.integers(1, 20))
def test_a_secret_is_masked_wherever_it_is_cut(pieces: list[bytes], at: int, length: int) -> None:
    secret = b"\xf0secret-" + b"k" * length
    whole = b"".join(pieces)
    at = min(at, len(whole))
    whole = whole[:at] + secret + whole[at:]
    bounds = sorted({0, len(whole), *(min(len(whole), 7 * number) for number in range(9))})
    cut = [whole[start:end] for start, end in pairwise(bounds)]
    shown = masked(cut, [secret])
    assert [len(piece) for piece in shown] == [len(piece) for piece in cut]
    assert secret not in b"".join(shown)
    assert masked(cut, []) == cut


def test_whatever_a_header_holds_that_could_be_a_credential_is_one() -> None:
    found = secrets_in({"authorization": "Bearer abcdefgh", "x": "short", "api-key": "ijklmnop"})
    assert found == [b"Bearer abcdefgh", *sorted([b"abcdefgh", b"ijklmnop"], key=found.index)]


@given(st.lists(st.tuples(st.floats(0, 10**6), st.binary(min_size=1, max_size=40)), max_size=5), st.booleans())
def test_a_recording_is_read_as_it_was_written(pieces: list[tuple[float, bytes]], cut: bool) -> None:
    exchange = Exchange("http://h/v1", {"a": [1]}, 200, {"x": "y"}, 1.5, pieces, "cut" if cut else "end")
    with TemporaryDirectory() as folder:
        path = Path(folder) / "k-1.jsonl"
        write(path, exchange)
        assert read(path) == exchange


def test_text_stays_readable_and_other_bytes_are_base64(tmp_path: Path) -> None:
    path = tmp_path / "k-1.jsonl"
    write(path, Exchange("http://h", None, 200, {}, 0.0, [(1.0, b"data: hi\n\n"), (2.0, b"\xff")], "end"))
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines[1:] == [
        {"ms": 1.0, "text": "data: hi\n\n"},
        {"ms": 2.0, "base64": base64.b64encode(b"\xff").decode()},
        {"ending": "end"},
    ]
