"""The command line: `turnwire serve`, `turnwire chat`, `turnwire config`, `turnwire record-exchanges`; `key` and `user`
stand in cli_admin.py.

Every command imports what it needs itself, so that the terminal client starts without the server's libraries. What goes
wrong is told in one sentence on standard error: exit code 2 for a setting, 1 for everything else.
"""

import asyncio
import json
import os
import re
import sys
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, cast

import typer

from turnwire import cli_admin

app = typer.Typer(
    help="The WebSocket backend between chat UIs and language models.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

app.add_typer(cli_admin.keys, name="key")
app.add_typer(cli_admin.users, name="user")

Host = Annotated[str | None, typer.Option(help="Address to listen on (TURNWIRE_HOST).")]
Port = Annotated[int | None, typer.Option(help="Port to listen on; 0 takes a free one (TURNWIRE_PORT).")]
RedisUrl = Annotated[str | None, typer.Option(help="A Redis 7 or Valkey, else one is started (TURNWIRE_REDIS_URL).")]
DataDir = Annotated[Path | None, typer.Option(help="Where the started store lives (TURNWIRE_DATA_DIR).")]
Workers = Annotated[int | None, typer.Option(help="Processes that serve, on one port (TURNWIRE_WORKERS).")]
Address = Annotated[str, typer.Argument(help="The server: ws://, http:// or just host:port.")]
Once = Annotated[str | None, typer.Option(help="Send this, print the answer and nothing else, and leave.")]
ModelName = Annotated[str | None, typer.Option(help="One of the server's models, else its default.")]
SessionId = Annotated[str | None, typer.Option(help="Go on with this conversation, else a new one begins.")]
Msgpack = Annotated[bool, typer.Option("--msgpack", help="Speak msgpack instead of JSON.")]
Folder = Annotated[Path, typer.Argument(help="Where the recordings go; made if it is not there.")]
RedactPrompts = Annotated[bool, typer.Option("--redact-prompts", help="Keep only hashes and sizes of what was asked.")]
Config = Annotated[Path | None, typer.Option(help="Another file than ./turnwire.toml (TURNWIRE_CONFIG).")]


@app.callback(invoke_without_command=True)
def main(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    if version:
        print(metadata.version("turnwire"))
        raise typer.Exit


@app.command()
def serve(
    host: Host = None,
    port: Port = None,
    redis_url: RedisUrl = None,
    data_dir: DataDir = None,
    workers: Workers = None,
    config: Config = None,
) -> None:
    """Run a server until Ctrl-C or SIGTERM."""
    given = {"host": host, "port": port, "redis_url": redis_url, "data_dir": data_dir, "workers": workers}
    _serve(config, given)


@app.command(name="record-exchanges")
def record_exchanges(
    folder: Folder,
    redact_prompts: RedactPrompts = False,
    host: Host = None,
    port: Port = None,
    redis_url: RedisUrl = None,
    data_dir: DataDir = None,
    config: Config = None,
) -> None:
    """Run a server that writes down every exchange with a model, for tests that replay them without one."""
    # One process, because it numbers what it writes.
    given = {"host": host, "port": port, "redis_url": redis_url, "data_dir": data_dir, "workers": 1}
    _serve(config, given, folder, redact_prompts)


@app.command()
def chat(
    url: Address = "ws://127.0.0.1:8000/v1/ws",
    once: Once = None,
    model: ModelName = None,
    session: SessionId = None,
    msgpack: Msgpack = False,
) -> None:
    """Talk to a running server from this terminal. Where the server asks who you are, TURNWIRE_TOKEN says it."""
    from turnwire.chat.terminal import INTERRUPTED, run

    codec: Literal["json", "msgpack"] = "msgpack" if msgpack else "json"
    # No option: other users of this machine can read the command lines of running programs.
    token = os.environ.get("TURNWIRE_TOKEN")
    try:
        code = asyncio.run(run(url, once=once, model=model, session=session, codec=codec, token=token))
    except KeyboardInterrupt:
        code = INTERRUPTED
    except BrokenPipeError:  # whoever read our answers has had enough; Python must not flush into the pipe any more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    raise typer.Exit(code)


@app.command(name="config")
def show_config(config: Config = None) -> None:
    """Print the settings that are in force, as a turnwire.toml; what may not stand in one is a comment."""
    from turnwire.settings import DEMO_MODELS, SettingsError, load

    try:
        shown = load(config).masked()
    except SettingsError as error:
        _give_up(str(error), 2)
    for section, values in shown.items():
        print(f"[{section}]")
        tables = {name: cast("dict[str, Any]", value) for name, value in values.items() if isinstance(value, dict)}
        _print_values({name: value for name, value in values.items() if name not in tables})
        for name, table in tables.items():
            if name not in DEMO_MODELS:
                print(f"\n[{section}.{_toml_key(name)}]")
                _print_values(table)
        if demos := [name for name in tables if name in DEMO_MODELS]:
            print(f"# demo models: {', '.join(demos)}")
        print()


def _serve(
    config: Path | None, given: dict[str, Any], record_in: Path | None = None, redact_prompts: bool = False
) -> None:
    from turnwire import telemetry
    from turnwire.app import run, serve
    from turnwire.models import Record
    from turnwire.settings import SettingsError, load
    from turnwire.storage import StartError
    from turnwire.workers import supervise

    def announce(banner: str) -> None:
        print(banner, flush=True)

    record = None if record_in is None else Record(record_in, redact_prompts)
    try:
        settings = load(config, given)
        telemetry.configure(settings.log_level)
        run(supervise(settings, announce) if settings.workers > 1 else serve(settings, announce, record=record))
    except SettingsError as error:
        _give_up(str(error), 2)
    except StartError as error:
        _give_up(str(error), 1)


def _print_values(values: dict[str, Any]) -> None:
    for name, value in values.items():
        hidden = "# " if value is None or name in ("url", "key", "secret") else ""
        print(f"{hidden}{name} = {_toml(value)}")


def _toml(value: Any) -> str:
    """A value as TOML, which has JSON's strings, numbers and booleans."""
    if isinstance(value, dict):
        inside = cast("dict[str, Any]", value)
        return "{ " + ", ".join(f"{name} = {_toml(item)}" for name, item in inside.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, cast("list[Any]", value))) + "]"
    return '"not set"' if value is None else json.dumps(value, ensure_ascii=False, default=str)


def _toml_key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else json.dumps(name, ensure_ascii=False)


def _give_up(why: str, code: int) -> NoReturn:
    print(f"turnwire: {why}", file=sys.stderr)
    raise typer.Exit(code)
