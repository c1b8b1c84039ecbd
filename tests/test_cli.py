"""The command line: what it prints, what it exits with, and what it does not load."""

import asyncio
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from tests.chat.scripted_server import ScriptedServer
from turnwire import app as app_module
from turnwire import telemetry
from turnwire.chat import terminal
from turnwire.chat.connection import VERSION
from turnwire.cli import app
from turnwire.models import Record
from turnwire.settings import Settings
from turnwire.storage import StartError

PYTHON = sys.executable


@pytest.fixture(autouse=True)
def _bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No settings of whoever runs the tests, and their logging left alone."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(telemetry, "configure", lambda level: None)
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "TURNWIRE_CONFIG"):
        monkeypatch.delenv(name, raising=False)


def run(*arguments: str, **environment: str) -> Result:
    return CliRunner().invoke(app, list(arguments), env=dict(environment))


def test_the_version_is_the_packages() -> None:
    result = run("--version")
    assert (result.exit_code, result.stdout) == (0, f"{VERSION}\n")


@pytest.mark.parametrize("command", ["serve", "config"])
def test_a_wrong_setting_is_one_sentence_and_exit_code_2(command: str) -> None:
    result = run(command, TURNWIRE_PORT="x")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr == (
        "turnwire: TURNWIRE_PORT ([server] port) is 'x', but must be a whole number from 0 to 65535.\n"
    )


def test_config_prints_what_can_be_read_back() -> None:
    environment = {"OPENAI_API_KEY": "sk-hunter2", "TURNWIRE_REDIS_URL": "redis://:hunter2@h/1", "TURNWIRE_PORT": "81"}
    printed = run("config", **environment, TURNWIRE_DEMO_MODELS="1")
    assert printed.exit_code == 0
    assert "hunter2" not in printed.stdout
    assert '# url = "redis://:***@h/1"' in printed.stdout
    assert "# demo models: demo, demo/slow" in printed.stdout
    parsed: dict[str, Any] = tomllib.loads(printed.stdout)
    assert (parsed["server"]["port"], parsed["models"]["demo_models"]) == (81, True)
    Path("turnwire.toml").write_text(printed.stdout, encoding="utf-8")
    again = run("config", OPENAI_API_KEY="sk-hunter2", TURNWIRE_REDIS_URL="redis://:hunter2@h/1")
    assert again.stdout == printed.stdout


@pytest.fixture
def records() -> list[Record | None]:
    """Where each `serve` was told to record."""
    return []


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch, records: list[Record | None]) -> list[Settings]:
    """The settings that `serve` was called with; it returns at once."""
    seen: list[Settings] = []

    async def serve(settings: Settings, announce: Callable[[str], None], *, record: Record | None) -> None:
        seen.append(settings)
        records.append(record)
        announce("ready")

    monkeypatch.setattr(app_module, "serve", serve)
    return seen


def test_serve_takes_options_over_variables(served: list[Settings]) -> None:
    result = run("serve", "--port", "82", "--data-dir", "there", "--redis-url", "redis://h", TURNWIRE_PORT="81")
    assert (result.exit_code, result.stdout) == (0, "ready\n")
    (settings,) = served
    assert (settings.host, settings.port, settings.data_dir) == ("127.0.0.1", 82, Path("there"))
    assert settings.redis_url is not None and settings.redis_url.get_secret_value() == "redis://h"


def test_serve_logs_at_the_level_that_is_set(served: list[Settings], monkeypatch: pytest.MonkeyPatch) -> None:
    levels: list[str] = []
    monkeypatch.setattr(telemetry, "configure", levels.append)
    assert run("serve", TURNWIRE_LOG_LEVEL="warning").exit_code == 0
    assert levels == [served[0].log_level] == ["warning"]


def test_serve_reads_the_file_that_it_is_given(served: list[Settings]) -> None:
    Path("other.toml").write_text("[server]\nport = 83\n")
    assert run("serve", "--config", "other.toml").exit_code == 0
    assert served[0].port == 83


def test_a_server_that_cannot_start_says_why_and_exits_with_1(monkeypatch: pytest.MonkeyPatch) -> None:
    async def serve(_settings: Settings, _announce: Callable[[str], None], **_options: object) -> None:
        raise StartError("The port is taken.")

    monkeypatch.setattr(app_module, "serve", serve)
    result = run("serve")
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", "turnwire: The port is taken.\n")


def test_recording_is_serving_with_a_folder(served: list[Settings], records: list[Record | None]) -> None:
    assert run("serve").exit_code == 0
    assert run("record-exchanges", "there", "--port", "82").exit_code == 0
    assert run("record-exchanges", "there", "--redact-prompts").exit_code == 0
    assert records == [None, Record(Path("there")), Record(Path("there"), redact_prompts=True)]
    assert [settings.port for settings in served] == [8000, 82, 8000]


def test_a_setting_that_shows_to_be_wrong_only_at_the_start_exits_with_2_too() -> None:
    result = run("record-exchanges", "there", "--port", "0", "--redis-url", "redis://127.0.0.1:1")
    assert result.exit_code == 1  # the store is opened first
    table = '[models.m]\nprovider = "openai_chat"\nmodel = "m"\nbase_url = "http://127.0.0.1:9"\n'
    Path("turnwire.toml").write_text(table + "turn_budget = { usd = 1 }\n")
    result = run("serve", "--port", "0")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "turn_budget limits usd" in result.stderr


@pytest.mark.parametrize(
    ("error", "code"), [(KeyboardInterrupt(), terminal.INTERRUPTED), (None, 7)], ids=["ctrl-c", "its-own"]
)
def test_chat_exits_as_the_conversation_ended(
    error: BaseException | None, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, dict[str, Any]]] = []

    async def talk(url: str, **options: Any) -> int:
        seen.append((url, options))
        if error is not None:
            raise error
        return 7

    monkeypatch.setattr(terminal, "run", talk)
    result = run("chat", "h:1", "--once", "hi", "--model", "m", "--session", "s", "--msgpack", TURNWIRE_TOKEN="t")
    assert result.exit_code == code
    assert seen == [("h:1", {"once": "hi", "model": "m", "session": "s", "codec": "msgpack", "token": "t"})]


def test_chat_goes_to_this_machine_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    async def talk(url: str, **_options: Any) -> int:
        seen.append(url)
        return 0

    monkeypatch.setattr(terminal, "run", talk)
    assert run("chat").exit_code == 0
    assert seen == ["ws://127.0.0.1:8000/v1/ws"]


async def test_a_reader_that_has_had_enough_ends_the_chat_quietly() -> None:
    async with ScriptedServer.started() as server:
        process = await asyncio.create_subprocess_exec(
            *(PYTHON, "-m", "turnwire", "chat", server.url, "--once", "hi", "--session", "s"),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        peer = await server.accepted()
        await peer.greet()
        opening = await peer.expect("session.open")
        assert process.stdout is not None and process.stderr is not None
        process.stdout._transport.close()  # pyright: ignore[reportAttributeAccessIssue] - on purpose
        place = {"session": "s", "gen": "g", "turn": "t"}
        opened = {
            "type": "session.opened",
            "reply_to": opening["id"],
            **place,
            "seq": 2,
            "mode": "snapshot",
            "turns": 0,
        }
        await peer.say(opened)
        turn = (await peer.expect("turn.create"))["turn"]
        await peer.say(
            {"type": "ack", "reply_to": "c1", "session": "s", "turn": turn, "seq": 3, "duplicate": False},
            {
                **{
                    "type": "turn.accepted",
                    "session": "s",
                    "turn": turn,
                    "seq": 3,
                    "at": 1,
                    "parent": None,
                    "input": [],
                },
                **{"model": "demo", "author": "a", "state": "running"},
            },
            *(
                {
                    "type": "turn.delta",
                    "session": "s",
                    "turn": turn,
                    "seq": seq,
                    "part": 0,
                    "kind": "text",
                    "text": "x" * 999,
                }
                for seq in range(4, 400)
            ),
        )
        async with asyncio.timeout(20):
            code = await process.wait()
        assert (code, await process.stderr.read()) == (1, b"")


def test_the_terminal_client_loads_nothing_of_the_server() -> None:
    script = (
        "import sys, turnwire.cli, turnwire.chat.terminal\n"
        "print([name for name in sys.modules if name.partition('.')[0] in "
        "('starlette', 'uvicorn', 'redis', 'structlog', 'aiohttp', 'httpx2', 'uvloop')"
        " or name.startswith('turnwire.') and not name.startswith(('turnwire.chat', 'turnwire.cli'))])"
    )
    loaded = subprocess.run([PYTHON, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert loaded.stdout == "[]\n"
