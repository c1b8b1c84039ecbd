"""The whole provider over real HTTP: however the network cuts an answer, its events are the recorded ones."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from tests.providers.test_openai_chat_decoder import EXPECTED, recording
from tests.support.provider_server import Pause, ProviderServer, Reply, chunk, in_order, sse
from turnwire.core.entries import Content, Finish, Message, ProviderEvent
from turnwire.ports import Deadlines, Failure, Provider, StepRequest
from turnwire.providers import openai_chat
from turnwire.providers.http_stream import HttpStream
from turnwire.providers.openai_chat import OpenAIChat
from turnwire.providers.openai_chat_request import AZURE, COMMON
from turnwire.providers.upstream import Body

HELLO = StepRequest([Message("user", ({"type": "text", "text": "hi"},))])
AT_ONCE = 25


class CountedBody:
    def __init__(self, body: Body, owner: "CountingHttp") -> None:
        self._body = body
        self._owner = owner

    async def chunk(self) -> bytes:
        piece = await self._body.chunk()
        self._owner.reads += bool(piece)
        return piece

    async def read_out(self) -> None:
        await self._body.read_out()


class CountingHttp(HttpStream):
    """Counts the reads that brought something, to show that the cuts of a test did arrive as cuts."""

    reads = 0

    @asynccontextmanager
    async def post(
        self, url: str, headers: Mapping[str, str], content: bytes, deadlines: Deadlines
    ) -> AsyncGenerator[Body]:
        async with super().post(url, headers, content, deadlines) as body:
            yield cast("Body", CountedBody(body, self))


@pytest.fixture
async def http() -> AsyncIterator[CountingHttp]:
    client = CountingHttp()
    yield client
    await client.aclose()


def provider_of(http: HttpStream, server: ProviderServer, **options: Any) -> OpenAIChat:
    return OpenAIChat(http, name="m", base_url=server.base_url, model="service-model", **options)


async def outcome_of(provider: Provider, request: StepRequest = HELLO) -> tuple[list[ProviderEvent], str | None]:
    events: list[ProviderEvent] = []
    try:
        async with provider.stream(request) as batches:
            async for batch in batches:
                assert batch, "a provider yields no empty lists"
                events.extend(batch)
    except Failure as failure:
        return events, failure.kind
    return events, None


async def outcomes_of(http: HttpStream, replies: list[Reply]) -> list[tuple[list[ProviderEvent], str | None]]:
    """What each reply is to the provider; the request's user field says which reply it gets."""
    async with ProviderServer(lambda request: replies[int(request.body["user"])]) as server:
        provider = provider_of(http, server)
        places = asyncio.Semaphore(AT_ONCE)

        async def outcome(number: int) -> tuple[list[ProviderEvent], str | None]:
            async with places:
                return await outcome_of(provider, StepRequest(HELLO.messages, params={"user": str(number)}))

        return await asyncio.gather(*(outcome(number) for number in range(len(replies))))


@pytest.mark.parametrize("name", ["openai", "vllm", "ollama_v1"])
async def test_a_recording_cut_at_every_byte_on_the_wire_gives_the_same_events(http: CountingHttp, name: str) -> None:
    stream = recording(name)
    replies = [Reply((stream[:at], Pause(), stream[at:]), framing="close") for at in range(1, len(stream))]
    outcomes = await outcomes_of(http, replies)
    for at, outcome in enumerate(outcomes, start=1):
        assert outcome == EXPECTED[name], at
    assert http.reads >= 1.9 * len(replies)


@pytest.mark.parametrize("framing", ["chunked", "close"])
async def test_an_answer_broken_off_at_every_byte_is_truncated_or_proved(http: CountingHttp, framing: Any) -> None:
    stream = recording("openai")
    proved_at = stream.index(b"\n", stream.index(b'"finish_reason":"stop"'))
    ats = range(0, len(stream), 3)
    outcomes = await outcomes_of(http, [Reply((stream[:at],), framing=framing, ending="cut") for at in ats])
    expected = [event for event in EXPECTED["openai"][0] if isinstance(event, Content)]
    for at, (events, failure) in zip(ats, outcomes, strict=True):
        assert failure == ("truncated" if at < proved_at else None), at
        contents = [event for event in events if isinstance(event, Content)]
        assert contents == expected[: len(contents)], at
        assert (events[-1:] == [Finish("stop")]) is (at >= proved_at), at


async def test_each_recording_is_the_same_over_http_as_in_memory(http: CountingHttp) -> None:
    # All but the one with a call that gets its id here, which is another one each time.
    names = [name for name in EXPECTED if name != "gemini_tools"]
    outcomes = await outcomes_of(http, [Reply((recording(name),)) for name in names])
    assert dict(zip(names, outcomes, strict=True)) == {name: EXPECTED[name] for name in names}


async def test_finished_answers_share_one_connection_though_the_end_of_the_body_comes_later(http: CountingHttp) -> None:
    events = (chunk("a"), chunk(finish_reason="stop"), "[DONE]")
    async with ProviderServer(in_order(Reply((*map(sse, events), Pause())))) as server:
        provider = provider_of(http, server)
        for _ in range(3):
            events, failure = await outcome_of(provider)
            assert (events[-1], failure) == (Finish("stop"), None)
        assert (server.connections, len(server.requests)) == (1, 3)


@pytest.mark.parametrize(
    ("options", "sent"),
    [
        ({}, {}),
        ({"api_key": "k-1"}, {"authorization": "Bearer k-1"}),
        ({"api_key": "k-1", "dialect": AZURE}, {"api-key": "k-1"}),
        ({"api_key": "k-1", "headers": {"x-title": "t"}}, {"authorization": "Bearer k-1", "x-title": "t"}),
    ],
)
async def test_the_key_travels_in_the_header_that_its_service_wants(
    http: CountingHttp, options: dict[str, Any], sent: dict[str, str]
) -> None:
    async with ProviderServer(in_order(Reply.of_text("a"))) as server:
        await outcome_of(provider_of(http, server, **options))
        request = server.requests[0]
    headers = {
        name: request.headers[name] for name in ("authorization", "api-key", "x-title") if name in request.headers
    }
    assert headers == sent
    assert request.path == "/v1/chat/completions"
    assert request.body["model"] == "service-model"


def test_an_address_that_is_none_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="is no http or https address"):
        OpenAIChat(HttpStream(), name="m", base_url="localhost:8000", model="x", dialect=COMMON)


async def test_calls_without_ids_get_different_ones_in_each_step(http: CountingHttp) -> None:
    call = chunk(tool_calls=[{"index": 0, "function": {"name": "f", "arguments": "{}"}}])
    async with ProviderServer(in_order(Reply.of_events(call, chunk(finish_reason="tool_calls"), "[DONE]"))) as server:
        first, second = [await outcome_of(provider_of(http, server)) for _ in range(2)]
    assert isinstance(first[0][0], Content)
    assert isinstance(second[0][0], Content)
    assert first[0][0].call != second[0][0].call


@pytest.mark.parametrize("ending", ["stall", "ping", "cut", "reset"])
async def test_a_proved_answer_whose_protocol_end_does_not_come_is_an_answer(
    http: CountingHttp, monkeypatch: pytest.MonkeyPatch, ending: Any
) -> None:
    monkeypatch.setattr(openai_chat, "TAIL_MS", 100)
    pieces = (sse(chunk("a")), sse(chunk(finish_reason="stop")), Pause())
    async with ProviderServer(in_order(Reply(pieces, ending=ending))) as server:
        began = time.monotonic()
        events, failure = await outcome_of(provider_of(http, server))
        assert (events[-1], failure) == (Finish("stop"), None)
        assert time.monotonic() - began < 2
        async with asyncio.timeout(2):
            await server.requests[0].closed.wait()


@pytest.mark.parametrize(
    ("reply", "outcome"),
    [
        pytest.param(Reply.of_events(chunk("a")), ([Content(0, "text", "a")], "truncated"), id="no finish"),
        pytest.param(
            Reply.of_events(chunk("a"), {"error": {"code": 503}}, "[DONE]"),
            ([Content(0, "text", "a")], "upstream_busy"),
            id="error in a 200",
        ),
        pytest.param(Reply.of_events("garbage"), ([], "malformed"), id="garbage"),
        pytest.param(
            Reply((b"data: ", *([b"x" * 100_000] * 100), b"\n\n")), ([], "malformed"), id="a line of ten megabytes"
        ),
        pytest.param(Reply(), ([], "truncated"), id="empty body"),
    ],
)
async def test_a_stream_that_fails_has_its_kind_and_closes_its_socket(
    http: CountingHttp, reply: Reply, outcome: tuple[list[ProviderEvent], str | None]
) -> None:
    async with ProviderServer(in_order(reply)) as server:
        assert await outcome_of(provider_of(http, server)) == outcome
        await http.aclose()
        async with asyncio.timeout(2):
            await server.requests[0].closed.wait()
