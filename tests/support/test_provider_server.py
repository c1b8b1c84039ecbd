"""The tests' own model service, as the process that feeds benchmarks."""

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from turnwire.core.entries import Content, Finish, ProviderEvent, UsageReport
from turnwire.ports import StepRequest
from turnwire.providers.http_stream import HttpStream
from turnwire.providers.openai_chat import OpenAIChat

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture
async def base_url() -> AsyncIterator[str]:
    server = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.support.provider_server", "--port", "0", "--tokens", "3", "--rate", "1000"),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    assert server.stdout is not None
    async with asyncio.timeout(20):
        yield (await server.stdout.readline()).decode().strip()
        server.terminate()
        assert await server.wait() == 0


async def test_it_streams_stamped_tokens_at_the_rate_that_is_asked_for(base_url: str) -> None:
    http = HttpStream()
    for model, tokens, padding in [("m", 3, "token"), ("tokens=5,rate=100,padding=4", 5, "xxxx")]:
        events: list[ProviderEvent] = []
        began_ns = time.monotonic_ns()
        async with OpenAIChat(http, name="m", base_url=base_url, model=model).stream(StepRequest([])) as batches:
            async for batch in batches:
                events.extend(batch)
        ended_ns = time.monotonic_ns()
        texts = [event.text.split(" ") for event in events if isinstance(event, Content) and event.text]
        assert [text[1] for text in texts] == [padding] * tokens
        stamps_ns = [int(text[0]) for text in texts]
        assert began_ns < stamps_ns[0] < stamps_ns[-1] < ended_ns
        assert events[-1] == Finish("stop")
        assert UsageReport(1, tokens) in events
    # Five tokens at a hundred a second.
    assert stamps_ns[-1] - stamps_ns[0] > 35e6
    await http.aclose()


async def test_it_tells_when_its_clients_sockets_closed(base_url: str) -> None:
    http = HttpStream()
    slow = OpenAIChat(http, name="m", base_url=base_url, model="tokens=100,rate=1")
    async with slow.stream(StepRequest([])) as batches:
        await anext(batches)
        began_ns = time.monotonic_ns()
    reader, writer = await asyncio.open_connection(*base_url.removeprefix("http://").removesuffix("/v1").split(":"))
    writer.write(b"GET /requests HTTP/1.1\r\n\r\n")
    answer = (await reader.readuntil(b"0\r\n\r\n")).decode()
    writer.close()
    await writer.wait_closed()
    assert '"tokens_sent": 1' in answer
    assert '"answered": false' in answer
    closed_ns = int(answer.split('"closed_ns": ')[1].split(",")[0])
    assert 0 < closed_ns - began_ns < 1e9
    await http.aclose()
