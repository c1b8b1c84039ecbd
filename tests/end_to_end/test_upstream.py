"""What a user gets when the model's service fails, is cancelled, is not there, or is behind an authority of its own."""

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end import cancels, upstream_faults
from tests.support.processes import NodeProcess
from tests.support.provider_server import AUTHORITY, ISSUED, ProviderServer, Reply, in_order, tls_context
from tests.support.report import write_table
from tests.support.watched import Watched

PAGE = Path(__file__).parents[2] / "docs" / "upstream.md"

TABLE = """
[models.{name}]
provider = "openai_chat"
model = "m"
base_url = "{base_url}"
"""


@asynccontextmanager
async def node_of(folder: Path, config: str, **environment: str) -> AsyncGenerator[NodeProcess]:
    path = folder / "turnwire.toml"
    path.write_text(config, encoding="utf-8")
    data = folder / "data"
    data.mkdir()
    async with NodeProcess.started(data, {"TURNWIRE_CONFIG": str(path), **environment}) as node:
        yield node


async def terminal_of(node: NodeProcess, **options: Any) -> tuple[dict[str, Any], float, str]:
    """One turn's terminal, how many seconds it took, and what was said."""
    watched = Watched(node.url)
    async with watched.chat as chat:
        began = time.monotonic()
        turn = await chat.send(f"s_{secrets.token_hex(4)}", "hi", **options)
        outcome = await asyncio.wait_for(turn.done(), 60)
        took_s = time.monotonic() - began
    watched.check()
    assert outcome.terminal is not None
    return outcome.terminal, took_s, outcome.text


# --- faults -----------------------------------------------------------------------------------------------------------


async def test_whatever_a_service_does_a_turn_ends_as_it_must() -> None:
    """Each case twice; `make prove` has them all eighty times."""
    seed = secrets.token_hex(4)
    results = await upstream_faults.run(2 * len(upstream_faults.one_of_each()), seed)
    assert upstream_faults.faults_of(results) == [], f"seed {seed}"
    # However slow the machine is: a deadline that does not hold is the default one, which is longer.
    assert upstream_faults.late(results, 15_000) == [], f"seed {seed}"


@pytest.mark.prove
async def test_thousands_of_faults_end_as_they_must_and_in_time(capsys: pytest.CaptureFixture[str]) -> None:
    seed = secrets.token_hex(4)
    with capsys.disabled():
        results = await upstream_faults.run(3_200, seed)
    assert upstream_faults.faults_of(results) == [], f"seed {seed}"
    write_table("upstream faults", upstream_faults.HEAD, upstream_faults.rows_of(results), page=PAGE)
    assert len(upstream_faults.late(results, upstream_faults.usual_ms(results))) <= len(results) / 100


@pytest.mark.parametrize("name", [case.name for case in upstream_faults.one_of_each()])
def test_no_two_cases_of_faults_have_one_name(name: str) -> None:
    assert [case.name for case in upstream_faults.one_of_each()].count(name) == 1


# --- cancels ----------------------------------------------------------------------------------------------------------


async def test_nothing_is_left_of_cancels_in_any_phase() -> None:
    seed = secrets.token_hex(4)
    figures = await cancels.run(240, seed)
    assert not figures.not_cancelled
    assert figures.cancelled == dict.fromkeys(cancels.PHASES, 40)
    assert cancels.all_gone(figures), f"{figures.left}, seed {seed}"


@pytest.mark.prove
async def test_nothing_is_left_of_ten_thousand_cancels() -> None:
    seed = secrets.token_hex(4)
    figures = await cancels.run(10_000, seed)
    assert not figures.not_cancelled
    assert cancels.all_gone(figures), f"{figures.left}, seed {seed}"
    write_table("cancels", cancels.HEAD, figures.rows(), page=PAGE)


# --- nobody there -----------------------------------------------------------------------------------------------------


def unreachable(unaccepting: str) -> str:
    """Three models, of which none answers a connection: the first two are a fallback's way to the third."""
    fallbacks = {"first": 'fallback = ["second", "third"]\n', "second": "", "third": ""}
    addresses = {"first": unaccepting, "second": unaccepting, "third": "http://127.0.0.1:9/v1"}
    return "".join(
        TABLE.format(name=name, base_url=addresses[name]) + f"{fallbacks[name]}deadlines_ms = {{DEADLINES}}\n"
        for name in addresses
    )


async def test_where_no_service_can_be_reached_a_user_is_told_so(tmp_path: Path) -> None:
    """With deadlines a tenth of what they are by default."""
    async with cancels.unaccepting() as address:
        config = unreachable(address).replace("{DEADLINES}", "{ connect = 500, connect_total = 1200 }")
        async with node_of(tmp_path, config) as node:
            terminal, _, _ = await terminal_of(node)
    assert terminal["type"] == "turn.error"
    assert terminal["error"]["code"] in ("upstream_timeout", "upstream_unavailable")
    assert terminal["error"]["retry"] == "new_turn" and terminal["partial"] is False


@pytest.mark.prove
async def test_where_no_service_can_be_reached_a_user_knows_within_15_s(tmp_path: Path) -> None:
    async with cancels.unaccepting() as address:
        async with node_of(tmp_path, unreachable(address).replace("deadlines_ms = {DEADLINES}\n", "")) as node:
            terminal, took_s, _ = await terminal_of(node)
    print(f"told after {took_s:.1f} s")
    assert terminal["type"] == "turn.error"
    assert took_s < 15


# --- a private authority ----------------------------------------------------------------------------------------------


async def test_a_turn_goes_through_https_of_an_authority_that_a_setting_names(tmp_path: Path) -> None:
    async with ProviderServer(in_order(Reply.of_text("Hello ", "there.")), tls=tls_context(ISSUED)) as service:
        assert service.base_url.startswith("https://")
        config = f'[models]\nca_file = "{AUTHORITY}"\n' + TABLE.format(name="private", base_url=service.base_url)
        async with node_of(tmp_path, config) as node:
            terminal, _, text = await terminal_of(node)
    assert (terminal["type"], text) == ("turn.done", "Hello there.")


async def test_without_that_setting_the_authority_is_not_trusted(tmp_path: Path) -> None:
    async with ProviderServer(in_order(Reply.of_text("Hello.")), tls=tls_context(ISSUED)) as service:
        async with node_of(tmp_path, TABLE.format(name="private", base_url=service.base_url)) as node:
            terminal, _, _ = await terminal_of(node)
        assert service.requests == []
    assert terminal["error"]["code"] == "upstream_unavailable"
