"""The operator's commands, on the store of a data directory that no server runs on."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from tests.stores.server import StoreServer, binaries
from tests.support.processes import store_pids
from turnwire import telemetry
from turnwire.cli import app
from turnwire.core import credentials


@pytest.fixture(autouse=True)
def _bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No settings of whoever runs the tests, and their logging left alone."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(telemetry, "configure", lambda level: None)
    for name in [name for name in os.environ if name.startswith(("TURNWIRE_", "OPENAI_"))]:
        monkeypatch.delenv(name)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[StoreServer]:
    server = StoreServer(binaries()[0], tmp_path)
    server.start()
    yield server
    server.stop()


def run(*arguments: str, url: str | None = None) -> Result:
    given = {} if url is None else {"TURNWIRE_REDIS_URL": url}
    return CliRunner().invoke(app, list(arguments), env=given)


def test_a_key_is_shown_once_listed_without_its_secret_and_revoked(server: StoreServer) -> None:
    made = run("key", "create", "web", url=server.url)
    assert made.exit_code == 0, made.output
    shown = made.stdout.strip()
    assert shown.startswith("twk_") and "\n" not in shown
    _, key_id, secret = shown.split("_", 2)
    assert key_id in made.stderr and "scopes tokens" in made.stderr and secret not in made.stderr
    cron = run("key", "create", "cron", "--user", "bob", "--org", "acme", url=server.url).stdout.split("_")[1]
    reader = run("key", "create", "r", "--user", "bob", "--scope", "read", url=server.url).stdout.split("_")[1]

    rows = [row.split("\t") for row in run("key", "list", url=server.url).stdout.splitlines()]

    assert [row[:5] for row in rows] == [
        [key_id, "web", "tokens", f"key_{key_id}", "-"],
        [cron, "cron", "read,write", "bob", "acme"],
        [reader, "r", "read", "bob", "-"],
    ]
    assert secret not in str(rows) + str(server.contents())
    assert run("key", "revoke", key_id, url=server.url).exit_code == 0
    again = run("key", "revoke", key_id, url=server.url)
    assert (again.exit_code, again.stderr.count("\n")) == (1, 1) and "turnwire key list" in again.stderr
    assert key_id not in run("key", "list", url=server.url).stdout
    assert run("user", "logout", "alice", url=server.url).exit_code == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ("create", "web", "--scope", "admin"),
        ("create", ""),
        ("create", "x" * 129),
        ("create", "a\nb"),
        ("create", "web", "--user", "a\x1b[31m"),
        ("create", "web", "--org", ""),
    ],
    ids=str,
)
def test_a_key_that_makes_no_sense_is_one_sentence_and_makes_nothing(
    server: StoreServer, arguments: tuple[str, ...]
) -> None:
    result = run("key", *arguments, url=server.url)
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (2, "", 1)
    assert server.contents() == {}


def test_there_are_not_too_many_keys(server: StoreServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("turnwire.stores.redis.credentials.API_KEYS_MAX", 1)
    assert run("key", "create", "one", url=server.url).exit_code == 0
    result = run("key", "create", "two", url=server.url)
    assert result.exit_code == 1 and str(credentials.API_KEYS_MAX) in result.stderr


def test_a_store_that_cannot_be_used_is_one_sentence(tmp_path: Path, server: StoreServer) -> None:
    away = run("key", "list", url=f"unix://{tmp_path}/nothing")
    assert (away.exit_code, away.stderr.count("\n")) == (1, 1)
    wrong = run("key", "list", url="http://x")
    assert wrong.exit_code == 2 and "TURNWIRE_REDIS_URL" in wrong.stderr
    with server.client() as client:
        client.config_set("maxmemory", "1")
    full = run("key", "create", "web", url=server.url)
    assert (full.exit_code, full.stdout) == (1, "") and "store_full" in full.stderr


def test_the_store_of_a_directory_runs_for_the_moment_and_keeps_what_it_took(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    key_id = run("key", "create", "web", "--data-dir", str(folder)).stdout.split("_")[1]
    assert store_pids(folder) == []
    assert key_id in run("key", "list", "--data-dir", str(folder)).stdout
