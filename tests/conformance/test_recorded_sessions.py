"""Every recorded session, played against a real server, in both codecs."""

import secrets
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.conformance.recorded import Player, Recorded, read_recorded
from tests.support.processes import NodeProcess
from turnwire_protocol.codec import JSON, MSGPACK, Codec
from turnwire_protocol.rules import RULES

FOLDER = Path(__file__).parents[2] / "protocol" / "sessions"
RECORDED = [read_recorded(path) for path in sorted(FOLDER.glob("*.jsonl"))]

# A killed node's turns are found after one lease: short ones make the test short.
SHORT_LEASE = {"TURNWIRE_LEASE_MS": "1000", "TURNWIRE_RENEW_MS": "300", "TURNWIRE_SWEEP_MS": "200"}

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_node(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[NodeProcess]:
    """One node for all sessions that leave it alive: every session draws its own ids."""
    async with NodeProcess.started(tmp_path_factory.mktemp("shared"), SHORT_LEASE) as node:
        yield node


@pytest_asyncio.fixture(loop_scope="module")
async def own_node(tmp_path: Path) -> AsyncGenerator[list[NodeProcess]]:
    """A node that may be killed, followed by its successors."""
    async with NodeProcess.started(tmp_path / "data", SHORT_LEASE) as node:
        nodes = [node]
        yield nodes
        for successor in nodes[1:]:
            await successor.stop()


def draw_id() -> str:
    return f"i_{secrets.token_hex(6)}"


async def never() -> str:
    raise AssertionError("this session does not kill its node")


@pytest.mark.parametrize("codec", [JSON, MSGPACK], ids=["json", "msgpack"])
@pytest.mark.parametrize("recorded", [r for r in RECORDED if not r.kills], ids=lambda recorded: recorded.path.stem)
async def test_a_server_answers_as_recorded(recorded: Recorded, codec: Codec, shared_node: NodeProcess) -> None:
    await Player(shared_node.url, codec, draw_id, never).play(recorded)


@pytest.mark.parametrize("codec", [JSON, MSGPACK], ids=["json", "msgpack"])
@pytest.mark.parametrize("recorded", [r for r in RECORDED if r.kills], ids=lambda recorded: recorded.path.stem)
async def test_a_killed_server_comes_back_as_recorded(
    recorded: Recorded, codec: Codec, own_node: list[NodeProcess]
) -> None:
    async def restart_node() -> str:
        await own_node[-1].kill()
        own_node.append(await NodeProcess.start(own_node[0].folder, SHORT_LEASE))
        return own_node[-1].url

    await Player(own_node[0].url, codec, draw_id, restart_node).play(recorded)


async def test_every_session_proves_rules_that_exist() -> None:
    unknown = {recorded.path.name: set(recorded.proves) - set(RULES) for recorded in RECORDED}
    assert {name: rules for name, rules in unknown.items() if rules} == {}
    assert [recorded.path.name for recorded in RECORDED if not recorded.proves] == []
