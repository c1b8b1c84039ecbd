"""The commands of operators: `turnwire key …` and `turnwire user …`. As in cli.py, each imports what it needs itself.

What a program may want goes to standard output, what only a person wants to standard error.
"""

import asyncio
import os
import sys
from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import typer

keys = typer.Typer(help="API keys, with which servers make tokens for browsers.", no_args_is_help=True)
users = typer.Typer(help="What concerns one user.", no_args_is_help=True)

NAME_CHARS_MAX = 128

Answer = TypeVar("Answer")
RedisUrl = Annotated[str | None, typer.Option(help="The servers' Redis or Valkey (TURNWIRE_REDIS_URL).")]
DataDir = Annotated[Path | None, typer.Option(help="Where the started store lives (TURNWIRE_DATA_DIR).")]
Config = Annotated[Path | None, typer.Option(help="Another file than ./turnwire.toml (TURNWIRE_CONFIG).")]
KeyName = Annotated[str, typer.Argument(help="What you will know the key by, for example the server that gets it.")]
KeyId = Annotated[str, typer.Argument(help="As turnwire key list shows it.")]
UserName = Annotated[str, typer.Argument(help="The user's name, as in its tokens.")]
AsUser = Annotated[str | None, typer.Option("--user", help="Whom the key itself stands for; may read and write then.")]
Org = Annotated[str | None, typer.Option(help="The organisation of that user, and of tokens that name none.")]
OutputFile = Annotated[Path | None, typer.Option("--output", help="A new file that only you may read.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
Scopes = Annotated[list[str] | None, typer.Option("--scope", help="read, write or tokens; may be given again.")]


@keys.command(name="create")
def create_key(
    name: KeyName,
    user: AsUser = None,
    org: Org = None,
    scope: Scopes = None,
    redis_url: RedisUrl = None,
    data_dir: DataDir = None,
    config: Config = None,
) -> None:
    """Make a key and print it, this once: the store has only its hash."""
    from turnwire import admin

    scopes = _scopes(scope, user)
    for text in (name, user, org):
        if text is not None and not (0 < len(text) <= NAME_CHARS_MAX and text.isprintable()):
            _give_up(f"Names have 1 to {NAME_CHARS_MAX} characters that can be shown.", 2)
    settings = _settings(redis_url, data_dir, config)
    new = _done(admin.create_key(settings, name, user, org, scopes))
    print(new.shown, flush=True)
    print(
        f"Key {new.key.id}, scopes {', '.join(sorted(scopes))}. Keep it now: it cannot be shown again. "
        f"It ends with: turnwire key revoke {new.key.id}",
        file=sys.stderr,
    )


@keys.command(name="list")
def list_keys(redis_url: RedisUrl = None, data_dir: DataDir = None, config: Config = None) -> None:
    """List the keys: id, name, scopes, user, organisation, day of making; never a secret."""
    from turnwire import admin

    for key in _done(admin.list_keys(_settings(redis_url, data_dir, config))):
        day = datetime.fromtimestamp(key.created_at / 1000, UTC).date()
        print(key.id, key.name, ",".join(sorted(key.scopes)), key.user, key.org or "-", day, sep="\t")


@keys.command(name="revoke")
def revoke_key(key_id: KeyId, redis_url: RedisUrl = None, data_dir: DataDir = None, config: Config = None) -> None:
    """End a key and all tokens that it made, on every server within 5 seconds."""
    from turnwire import admin

    _done(admin.revoke_key(_settings(redis_url, data_dir, config), key_id))
    print(f"Key {key_id} is revoked.", file=sys.stderr)


@users.command(name="logout")
def log_out(user: UserName, redis_url: RedisUrl = None, data_dir: DataDir = None, config: Config = None) -> None:
    """End all tokens that were issued to a user up to now, on every server within 5 seconds."""
    from turnwire import admin

    _done(admin.end_tokens(_settings(redis_url, data_dir, config), user))
    print(f"The tokens of {user} are ended.", file=sys.stderr)


@users.command(name="export")
def export(
    user: UserName,
    output: OutputFile = None,
    redis_url: RedisUrl = None,
    data_dir: DataDir = None,
    config: Config = None,
) -> None:
    """Give all that is stored of a user, as lines of JSON, to standard output or a new file."""
    from turnwire import admin

    settings = _settings(redis_url, data_dir, config)
    try:
        with _writing(output) as write:
            told = _done(admin.export_user(settings, user, write))
    except BrokenPipeError:  # whoever read it has had enough; Python must not flush into the pipe any more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(1) from None
    except OSError as error:
        _give_up(f"{output or 'Standard output'} cannot be written: {error.strerror}.", 1)
    print(f"{told['sessions']} sessions with {told['turns']} turns of {user}.", file=sys.stderr)


@users.command(name="erase")
def erase(
    user: UserName, yes: Yes = False, redis_url: RedisUrl = None, data_dir: DataDir = None, config: Config = None
) -> None:
    """Remove all that is stored of a user: running turns are stopped, and its tokens end."""
    from turnwire import admin

    settings = _settings(redis_url, data_dir, config)
    if not yes:
        if not sys.stdin.isatty():
            _give_up("Nobody is here to confirm it: say --yes.", 2)
        typer.confirm(f"Remove all that is stored of {user}, for good?", abort=True, err=True)
    print("This takes some seconds, until every server knows that the user's tokens are ended.", file=sys.stderr)
    erased = _done(admin.erase_user(settings, user))
    print(f"{erased.sessions} sessions of {user} are erased.", file=sys.stderr)
    for key_id in erased.keys:
        print(
            f"Key {key_id} stands for {user} and holds on. It ends with: turnwire key revoke {key_id}", file=sys.stderr
        )


@contextmanager
def _writing(output: Path | None) -> Generator[Callable[[bytes], object]]:
    """Standard output, or a new file that only its owner may read and that is there whole or not at all."""
    if output is None:
        yield sys.stdout.buffer.write
        sys.stdout.flush()
        return
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with open(descriptor, "wb") as file:
            yield file.write
    except BaseException:
        output.unlink(missing_ok=True)
        raise


def _scopes(given: list[str] | None, user: str | None) -> list[Any]:
    from turnwire.core.credentials import OF_USERS, SCOPES

    if unknown := [scope for scope in given or () if scope not in SCOPES]:
        _give_up(f"There is no scope {unknown[0]!r}; there are {', '.join(SCOPES)}.", 2)
    if given:
        return list(given)
    return ["tokens"] if user is None else sorted(OF_USERS)


def _settings(redis_url: str | None, data_dir: Path | None, config: Path | None) -> Any:
    from turnwire import telemetry
    from turnwire.settings import SettingsError, load

    telemetry.configure("warning")
    try:
        return load(config, {"redis_url": redis_url, "data_dir": data_dir})
    except SettingsError as error:
        _give_up(str(error), 2)


def _done(work: Coroutine[Any, Any, Answer]) -> Answer:
    from turnwire.admin import AdminError

    try:
        return asyncio.run(work)
    except AdminError as error:
        _give_up(str(error), 1)


def _give_up(why: str, code: int) -> NoReturn:
    print(f"turnwire: {why}", file=sys.stderr)
    raise typer.Exit(code)
