"""A conversation with a service, recorded by one server and played by another that knows no service."""

import secrets
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.support.processes import NodeProcess, end_store, read_until, start_python
from tests.support.provider_server import Answer, ProviderServer, Received, Reply
from tests.support.watched import Watched
from turnwire.chat.handle import Outcome

TABLE = """
[models.fast]
provider = "{provider}"
base_url = "{base_url}"
model = "some-model"
retries = {{ wait_first_ms = 1 }}
"""


@asynccontextmanager
async def recording(folder: Path, exchanges: Path, config: Path) -> AsyncGenerator[NodeProcess]:
    command = ["-m", "turnwire", "record-exchanges", str(exchanges), "--redact-prompts", "--port", "0"]
    process = await start_python([*command, "--data-dir", str(folder), "--config", str(config)], None)
    banner = await read_until(process, "ready")
    assert f"every exchange with a model, in {exchanges}" in banner
    node = NodeProcess(process, folder, banner)
    try:
        yield node
    finally:
        await node.stop()
        await end_store(folder)


async def talk(node: NodeProcess, *texts: str) -> list[Outcome]:
    watched = Watched(node.url)
    session = f"s_{secrets.token_hex(4)}"
    outcomes: list[Outcome] = []
    async with watched.chat as chat:
        for text in texts:
            outcomes.append(await (await chat.send(session, text)).done())
    watched.check()
    return outcomes


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    return tmp_path / "first", tmp_path / "second"


async def test_a_recorded_conversation_is_played_without_its_service(
    tmp_path: Path, folders: tuple[Path, Path]
) -> None:
    asked: list[Received] = []

    def answer(request: Received) -> Answer:
        asked.append(request)
        if len(asked) == 1:
            return Reply.of_status(503)
        return Reply.of_text("You wrote: ", str(request.body["messages"][-1]["content"]))

    config, exchanges = tmp_path / "turnwire.toml", tmp_path / "exchanges"
    async with ProviderServer(answer) as service:
        config.write_text(TABLE.format(provider="openai_chat", base_url=service.base_url))
        async with recording(folders[0], exchanges, config) as node:
            then = await talk(node, "Hello there!", "And again?")
        config.write_text(
            TABLE.format(provider="recorded", base_url=service.base_url)
            + f'recorded = {{ provider = "openai_chat", folder = "{exchanges}" }}\n'
        )
    assert len(asked) == 3
    assert [outcome.text for outcome in then] == ["You wrote: Hello there!", "You wrote: And again?"]
    async with NodeProcess.started(folders[1], {"TURNWIRE_CONFIG": str(config)}) as node:
        now = await talk(node, "Hello there!", "And again?")
        (missing,) = await talk(node, "Something else")
    assert [outcome.text for outcome in now] == [outcome.text for outcome in then]
    assert [outcome.terminal["attempts"] for outcome in now if outcome.terminal] == [2, 1]
    assert missing.terminal is not None
    assert missing.terminal["error"]["message"] == "There is no recorded exchange of this request."
    assert "Hello there" not in "".join(path.read_text().split("\n", 1)[0] for path in exchanges.glob("*.jsonl"))
