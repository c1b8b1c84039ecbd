"""The command line: `turnwire serve`, `turnwire chat`, `turnwire config`.

Every command imports what it needs itself, so that the terminal client starts without the server's libraries. What goes
wrong is told in one sentence on standard error: exit code 2 for a setting, 1 for everything else.
"""

import asyncio
import sys
from collections.abc import Coroutine
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

app = typer.Typer(
    help="The WebSocket backend between chat UIs and language models.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

Host = Annotated[str | None, typer.Option(help="Address to listen on (TURNWIRE_HOST).")]
Port = Annotated[int | None, typer.Option(help="Port to listen on; 0 takes a free one (TURNWIRE_PORT).")]
RedisUrl = Annotated[str | None, typer.Option(help="A Redis 7 or Valkey, else one is started (TURNWIRE_REDIS_URL).")]
DataDir = Annotated[Path | None, typer.Option(help="Where the started store lives (TURNWIRE_DATA_DIR).")]
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
    config: Config = None,
) -> None:
    """Run a server until Ctrl-C or SIGTERM."""
    from turnwire import telemetry
    from turnwire.app import StartError
    from turnwire.app import serve as serve_until_stopped
    from turnwire.settings import SettingsError, load

    given = {"host": host, "port": port, "redis_url": redis_url, "data_dir": data_dir}
    try:
        settings = load(config, given)
    except SettingsError as error:
        _give_up(str(error), 2)
    telemetry.configure(settings.log_level)
    try:
        _run(serve_until_stopped(settings, lambda text: print(text, flush=True)))
    except StartError as error:
        _give_up(str(error), 1)


@app.command(name="config")
def show_config(config: Config = None) -> None:
    """Print the settings that are in force, secrets masked."""
    import json

    from turnwire.settings import SettingsError, load

    try:
        print(json.dumps(load(config).masked(), indent=2, default=str, ensure_ascii=False))
    except SettingsError as error:
        _give_up(str(error), 2)


def _run(work: Coroutine[Any, Any, None]) -> None:
    """On uvloop, where there is one."""
    try:
        import uvloop
    except ImportError:
        asyncio.run(work)
    else:
        uvloop.run(work)


def _give_up(why: str, code: int) -> NoReturn:
    print(f"turnwire: {why}", file=sys.stderr)
    raise typer.Exit(code)
