"""The operator's commands, on the store of a data directory that no server runs on."""

import asyncio
import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from tests.stores.making import append, key, request, sealing
from tests.stores.server import StoreServer, binaries
from tests.support.processes import store_pids
from turnwire import admin, telemetry
from turnwire.cli import app
from turnwire.core import credentials
from turnwire.settings import Settings
from turnwire.storage import open_store


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


def write_a_turn_of_alice(settings: Settings) -> None:
    async def write() -> None:
        async with open_store(settings) as store:
            await store.log.accept_turn(request(body=b'{"input":[],"model":"demo","author":"alice"}'))
            await append(store.log, sealing())  # pyright: ignore[reportArgumentType]

    assert key().owner == "alice"
    asyncio.run(write())


def test_a_user_is_exported_as_lines_of_json_to_a_new_file_or_to_standard_output(
    server: StoreServer, tmp_path: Path
) -> None:
    write_a_turn_of_alice(Settings(redis_url=server.url))  # pyright: ignore[reportArgumentType]
    shown = run("user", "export", "alice", url=server.url)
    assert (shown.exit_code, shown.stderr) == (0, "1 sessions with 1 turns of alice.\n")
    records = [json.loads(line) for line in shown.stdout.splitlines()]
    assert [record["type"] for record in records] == ["user", "session", "turn", "end"]
    file = tmp_path / "alice.jsonl"
    written = run("user", "export", "alice", "--output", str(file), url=server.url)
    assert (written.exit_code, written.stdout) == (0, "")
    assert file.read_text().splitlines()[1:] == shown.stdout.splitlines()[1:]
    assert file.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("taken", ["file", "link", "folder"])
def test_an_export_overwrites_nothing_and_leaves_no_file_where_there_is_nothing_to_tell(
    server: StoreServer, tmp_path: Path, taken: str
) -> None:
    write_a_turn_of_alice(Settings(redis_url=server.url))  # pyright: ignore[reportArgumentType]
    file = tmp_path / "alice.jsonl"
    unknown = run("user", "export", "bob", "--output", str(file), url=server.url)
    assert unknown.exit_code == 1 and "Nothing is stored of 'bob'" in unknown.stderr and not file.exists()
    match taken:
        case "file":
            file.write_text("kept")
        case "link":
            file.symlink_to(tmp_path / "elsewhere")
        case _:
            file = tmp_path / "nowhere" / "alice.jsonl"
    result = run("user", "export", "alice", "--output", str(file), url=server.url)
    assert result.exit_code == 1 and result.stderr.count("\n") == 1 and str(file) in result.stderr
    assert not (tmp_path / "elsewhere").exists()
    if taken == "file":
        assert file.read_text() == "kept"


def test_an_erasure_names_the_keys_that_still_stand_for_the_user(
    server: StoreServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admin, "REVOKED_WITHIN_MS", 0)
    write_a_turn_of_alice(Settings(redis_url=server.url))  # pyright: ignore[reportArgumentType]
    hers = run("key", "create", "cron", "--user", "alice", url=server.url).stdout.split("_")[1]
    others = run("key", "create", "web", url=server.url).stdout.split("_")[1]
    erased = run("user", "erase", "alice", "--yes", url=server.url)
    assert (erased.exit_code, erased.stdout) == (0, "")
    assert "1 sessions of alice are erased" in erased.stderr
    assert f"turnwire key revoke {hers}" in erased.stderr and others not in erased.stderr
    again = run("user", "erase", "alice", "--yes", url=server.url)
    assert again.exit_code == 1 and "Nothing is stored of 'alice'" in again.stderr


def test_an_erasure_that_nobody_confirms_does_nothing(server: StoreServer) -> None:
    write_a_turn_of_alice(Settings(redis_url=server.url))  # pyright: ignore[reportArgumentType]
    before = server.contents()
    unattended = run("user", "erase", "alice", url=server.url)
    assert unattended.exit_code == 2 and "--yes" in unattended.stderr
    ours, terminal = pty.openpty()
    try:
        os.write(ours, b"n\n")
        command = [sys.executable, "-m", "turnwire", "user", "erase", "alice", "--redis-url", server.url]
        asked = subprocess.run(command, stdin=terminal, capture_output=True, timeout=60, check=False)
    finally:
        os.close(ours)
        os.close(terminal)
    assert asked.returncode == 1 and b"Remove all that is stored of alice, for good?" in asked.stderr
    assert server.contents() == before


def test_an_erasure_of_a_directory_without_a_server_lasts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin, "REVOKED_WITHIN_MS", 0)
    folder = tmp_path / "data"
    write_a_turn_of_alice(Settings(data_dir=folder))
    assert run("user", "erase", "alice", "--yes", "--data-dir", str(folder)).exit_code == 0
    assert store_pids(folder) == []
    assert run("user", "export", "alice", "--data-dir", str(folder)).exit_code == 1


def test_somebody_who_reads_only_the_beginning_of_an_export_is_no_fault(server: StoreServer) -> None:
    write_a_turn_of_alice(Settings(redis_url=server.url))  # pyright: ignore[reportArgumentType]
    readable, writable = os.pipe()
    os.close(readable)
    command = [sys.executable, "-m", "turnwire", "user", "export", "alice", "--redis-url", server.url]
    with os.fdopen(writable, "wb") as output:
        done = subprocess.run(command, stdout=output, stderr=subprocess.PIPE, timeout=60, check=False)
    assert done.returncode == 1 and b"Traceback" not in done.stderr and b"Exception" not in done.stderr
