"""The whole of each provider over real HTTP: however the network cuts an answer, its events are the recorded ones."""

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, Final, cast

import pytest

from tests.providers.recorded import EXPECTED, MAKER, RECORDINGS, Outcome, dialect_of, proved_at, recording
from tests.support.provider_server import Pause, ProviderServer, Received, Reply, chunk, in_order, sse
from turnwire.core.entries import Content, Finish, Message, ProviderEvent
from turnwire.ports import Deadlines, Failure, Provider, StepRequest
from turnwire.providers import http_model
from turnwire.providers.anthropic_messages import AnthropicMessages
from turnwire.providers.http_model import HttpModel
from turnwire.providers.http_stream import HttpStream
from turnwire.providers.openai_chat import OpenAIChat
from turnwire.providers.openai_responses import OpenAIResponses
from turnwire.providers.upstream import Body

HELLO = StepRequest([Message("user", ({"type": "text", "text": "hi"},))])
AT_ONCE = 25

APIS: Final[Mapping[str, type[OpenAIChat | OpenAIResponses | AnthropicMessages]]] = {
    "anthropic_messages": AnthropicMessages,
    "openai_chat": OpenAIChat,
    "openai_responses": OpenAIResponses,
}
PATHS: Final = {
    "anthropic_messages": "/v1/messages",
    "openai_chat": "/v1/chat/completions",
    "openai_responses": "/v1/responses",
}
MAKERS: Final = {
    "anthropic_messages": "anthropic_messages 127.0.0.1",
    "openai_chat": "openai_chat 127.0.0.1 service-model",
    "openai_responses": "openai_responses 127.0.0.1 service-model",
}
WHOLE: Final = {
    "anthropic_messages": "anthropic",
    "openai_chat": "openai",
    "openai_responses": "responses_refusal",
}
"""A recording of a success, for each API."""


def api_of(name: str) -> str:
    return {"anthropic": "anthropic_messages", "responses": "openai_responses"}.get(dialect_of(name), "openai_chat")


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


def provider_of(http: HttpStream, server: ProviderServer, api: str = "openai_chat", **options: Any) -> HttpModel:
    return APIS[api](http, name="m", base_url=server.base_url, model="service-model", **options)


async def outcome_of(provider: Provider, request: StepRequest = HELLO) -> Outcome:
    events: list[ProviderEvent] = []
    try:
        async with provider.stream(request) as batches:
            async for batch in batches:
                assert batch, "a provider yields no empty lists"
                events.extend(batch)
    except Failure as failure:
        return events, failure.kind
    return events, None


async def outcomes_of(http: HttpStream, api: str, replies: list[Reply], **options: Any) -> list[Outcome]:
    """What each reply is to the provider; the request's user field says which reply it gets."""
    async with ProviderServer(lambda request: replies[int(request.body["user"])]) as server:
        provider = provider_of(http, server, api, **options)
        places = asyncio.Semaphore(AT_ONCE)

        async def outcome(number: int) -> Outcome:
            async with places:
                return await outcome_of(provider, StepRequest(HELLO.messages, params={"user": str(number)}))

        return await asyncio.gather(*(outcome(number) for number in range(len(replies))))


def as_recorded(outcome: Outcome, api: str) -> Outcome:
    """The same, with the maker of opaque state and the ids of nameless calls as they stand in EXPECTED."""

    def plain(event: ProviderEvent) -> ProviderEvent:
        if not isinstance(event, Content):
            return event
        opaque = event.opaque and event.opaque.replace(f'["{MAKERS[api]}"', f'["{MAKER}"')
        return replace(event, opaque=opaque, call=event.call and re.sub("^call-[0-9a-f]{12}-", "call-", event.call))

    return [plain(event) for event in outcome[0]], outcome[1]


@pytest.mark.parametrize("name", ["openai", "vllm", "ollama_v1", "anthropic", "responses_refusal"])
async def test_a_recording_cut_at_every_byte_on_the_wire_gives_the_same_events(http: CountingHttp, name: str) -> None:
    stream = recording(name)
    replies = [Reply((stream[:at], Pause(), stream[at:]), framing="close") for at in range(1, len(stream))]
    outcomes = await outcomes_of(http, api_of(name), replies)
    for at, outcome in enumerate(outcomes, start=1):
        assert outcome == EXPECTED[name], at
    assert http.reads >= 1.9 * len(replies)


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("framing", ["chunked", "close"])
async def test_an_answer_broken_off_at_every_byte_is_truncated_or_proved(
    http: CountingHttp, framing: Any, api: str
) -> None:
    stream = recording(WHOLE[api])
    proof = proved_at(stream)
    ats = range(0, len(stream), 3)
    outcomes = await outcomes_of(http, api, [Reply((stream[:at],), framing=framing, ending="cut") for at in ats])
    expected = [event for event in EXPECTED[WHOLE[api]][0] if isinstance(event, Content)]
    for at, (events, failure) in zip(ats, outcomes, strict=True):
        assert failure == ("truncated" if at < proof else None), at
        contents = [event for event in events if isinstance(event, Content)]
        assert contents == expected[: len(contents)], at
        assert (events[-1:] == [Finish("stop")]) is (at >= proof), at


@pytest.mark.parametrize("api", APIS)
async def test_each_recording_is_the_same_over_http_as_in_memory(http: CountingHttp, api: str) -> None:
    names = [name for name in EXPECTED if api_of(name) == api]
    for deepseek in (False, True):
        some = [name for name in names if name.startswith("deepseek") is deepseek]
        options = {"dialect": "deepseek"} if deepseek and some else {}
        outcomes = await outcomes_of(http, api, [Reply((recording(name),)) for name in some], **options)
        recorded = [as_recorded(outcome, api) for outcome in outcomes]
        assert dict(zip(some, recorded, strict=True)) == {name: EXPECTED[name] for name in some}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("openai_quota", "upstream_rejected"),
        ("gemini_rate_limit", "upstream_busy"),
        ("anthropic_overloaded", "upstream_busy"),
    ],
)
async def test_a_recorded_refusal_is_the_same_over_http(http: CountingHttp, name: str, kind: str) -> None:
    head, body = (RECORDINGS / f"{name}.http").read_bytes().split(b"\n\n", 1)
    raw = head.replace(b"\n", b"\r\n") + b"\r\nconnection: close\r\n\r\n"
    async with ProviderServer(in_order(Reply((body,), raw=raw, framing="close"))) as server:
        assert await outcome_of(provider_of(http, server, api_of(name))) == ([], kind)


async def test_finished_answers_share_one_connection_though_the_end_of_the_body_comes_later(http: CountingHttp) -> None:
    events = (chunk("a"), chunk(finish_reason="stop"), "[DONE]")
    async with ProviderServer(in_order(Reply((*map(sse, events), Pause())))) as server:
        provider = provider_of(http, server)
        for _ in range(3):
            events, failure = await outcome_of(provider)
            assert (events[-1], failure) == (Finish("stop"), None)
        assert (server.connections, len(server.requests)) == (1, 3)


# --- what is asked ---------------------------------------------------------------------------------------------------


async def asked(http: HttpStream, api: str, path: str = "/v1", **options: Any) -> Received:
    async with ProviderServer(in_order(Reply((recording(WHOLE[api]),)))) as server:
        base_url = server.base_url.removesuffix("/v1") + path
        provider = APIS[api](http, name="m", base_url=base_url, model="service-model", **options)
        assert (await outcome_of(provider))[1] is None
        return server.requests[0]


@pytest.mark.parametrize(
    ("api", "options", "sent"),
    [
        ("openai_chat", {}, {}),
        ("openai_chat", {"api_key": "k-1"}, {"authorization": "Bearer k-1"}),
        ("openai_chat", {"api_key": "k-1", "dialect": "azure"}, {"api-key": "k-1"}),
        (
            "openai_chat",
            {"api_key": "k-1", "headers": {"x-title": "t"}},
            {"authorization": "Bearer k-1", "x-title": "t"},
        ),
        ("openai_responses", {"api_key": "k-1"}, {"authorization": "Bearer k-1"}),
        ("openai_responses", {"api_key": "k-1", "dialect": "azure"}, {"api-key": "k-1"}),
        ("anthropic_messages", {}, {"anthropic-version": "2023-06-01"}),
        (
            "anthropic_messages",
            {"api_key": "k-1", "api_version": "2026-10-21", "headers": {"anthropic-beta": "b"}},
            {"x-api-key": "k-1", "anthropic-version": "2026-10-21", "anthropic-beta": "b"},
        ),
    ],
)
async def test_key_and_version_travel_in_the_headers_that_their_service_wants(
    http: CountingHttp, api: str, options: dict[str, Any], sent: dict[str, str]
) -> None:
    request = await asked(http, api, **options)
    known = ("authorization", "api-key", "x-api-key", "x-title", "anthropic-version", "anthropic-beta")
    assert {name: request.headers[name] for name in known if name in request.headers} == sent
    assert request.path == PATHS[api]
    assert request.body["model"] == "service-model"
    assert request.body["stream"] is True


@pytest.mark.parametrize(
    ("api", "base", "version", "path"),
    [
        ("openai_chat", "/openai/v1/", None, "/openai/v1/chat/completions"),
        ("openai_chat", "/d?api-version=1", None, "/d/chat/completions?api-version=1"),
        ("openai_chat", "/d", "2024-10-21", "/d/chat/completions?api-version=2024-10-21"),
        ("openai_responses", "/openai/v1?x=1", "preview", "/openai/v1/responses?x=1&api-version=preview"),
        ("anthropic_messages", "", None, "/v1/messages"),
        ("anthropic_messages", "/anthropic/", "2026-10-21", "/anthropic/v1/messages"),
        ("anthropic_messages", "/anthropic/v1/", None, "/anthropic/v1/messages"),
    ],
)
async def test_the_address_is_built_from_the_base_and_the_version(
    http: CountingHttp, api: str, base: str, version: str | None, path: str
) -> None:
    assert (await asked(http, api, base, api_version=version)).path == path


@pytest.mark.parametrize("api", APIS)
async def test_params_of_the_model_go_with_every_request_that_does_not_set_them_itself(
    http: CountingHttp, api: str
) -> None:
    async with ProviderServer(in_order(Reply((recording(WHOLE[api]),)))) as server:
        provider = provider_of(http, server, api, params={"temperature": 0.1, "thinking": {"type": "adaptive"}})
        await outcome_of(provider)
        await outcome_of(provider, StepRequest(HELLO.messages, params={"temperature": 0.9}))
        sent = [(request.body["temperature"], request.body["thinking"]) for request in server.requests]
    assert sent == [(0.1, {"type": "adaptive"}), (0.9, {"type": "adaptive"})]


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("base_url", ["", "localhost:8000", "a.example/v1", "ftp://a.example", "https://"])
def test_an_address_that_is_none_is_refused_at_once(api: str, base_url: str) -> None:
    with pytest.raises(ValueError, match="is no http or https address"):
        APIS[api](HttpStream(), name="m", base_url=base_url, model="x")


async def test_what_an_api_cannot_say_is_a_failure_and_nothing_is_sent(http: CountingHttp) -> None:
    async with ProviderServer(in_order(Reply())) as server:
        request = StepRequest(HELLO.messages, response_format={"type": "json_object"})
        assert await outcome_of(provider_of(http, server, "anthropic_messages"), request) == ([], "upstream_rejected")
        assert server.requests == []


async def test_what_a_provider_leaves_comes_back_to_it_alone(http: CountingHttp) -> None:
    async with ProviderServer(in_order(Reply((recording("anthropic_thinking_tools"),)))) as server:
        provider = provider_of(http, server, "anthropic_messages")
        events, _ = await outcome_of(provider)
        opaque = next(event.opaque for event in events if isinstance(event, Content) and event.opaque is not None)
        thought = {"type": "reasoning", "text": "The clock will tell.", "opaque": opaque}
        call = {"type": "tool_call", "text": "{}", "call": "toolu_01A", "name": "get_time"}
        result = Message("tool", ({"type": "text", "text": "1"},), call="toolu_01A")
        request = StepRequest([*HELLO.messages, Message("assistant", (thought, call)), result])
        await outcome_of(provider, request)
        await outcome_of(provider_of(http, server, "openai_responses"), request)
        sent = server.requests[1].body["messages"][1]["content"]
        assert sent[0] == {"type": "thinking", "thinking": "The clock will tell.", "signature": "EqQB-test=="}
        assert b"EqQB-test==" not in server.requests[2].raw_body


async def test_calls_without_ids_get_different_ones_in_each_step(http: CountingHttp) -> None:
    call = chunk(tool_calls=[{"index": 0, "function": {"name": "f", "arguments": "{}"}}])
    async with ProviderServer(in_order(Reply.of_events(call, chunk(finish_reason="tool_calls"), "[DONE]"))) as server:
        first, second = [await outcome_of(provider_of(http, server)) for _ in range(2)]
    assert isinstance(first[0][0], Content)
    assert isinstance(second[0][0], Content)
    assert first[0][0].call != second[0][0].call


# --- the end ---------------------------------------------------------------------------------------------------------

PROVED = {
    "openai_chat": (sse(chunk("a")), sse(chunk(finish_reason="stop"))),
    # All but message_stop.
    "anthropic_messages": (recording("anthropic").rpartition(b"event: message_stop")[0],),
}


@pytest.mark.parametrize("api", PROVED)
@pytest.mark.parametrize("ending", ["stall", "ping", "cut", "reset"])
async def test_a_proved_answer_whose_protocol_end_does_not_come_is_an_answer(
    http: CountingHttp, monkeypatch: pytest.MonkeyPatch, ending: Any, api: str
) -> None:
    monkeypatch.setattr(http_model, "TAIL_MS", 100)
    async with ProviderServer(in_order(Reply((*PROVED[api], Pause()), ending=ending))) as server:
        async with asyncio.timeout(20):
            events, failure = await outcome_of(provider_of(http, server, api))
            assert (events[-1], failure) == (Finish("stop"), None)
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
    http: CountingHttp, reply: Reply, outcome: Outcome
) -> None:
    async with ProviderServer(in_order(reply)) as server:
        assert await outcome_of(provider_of(http, server)) == outcome
        await http.aclose()
        async with asyncio.timeout(20):
            await server.requests[0].closed.wait()
