"""Quotas on real nodes: exact whoever races, true waits, and nothing lost or free because a node died."""

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from tests.support.peers import Json, Peer
from tests.support.processes import NodeProcess
from tests.support.tokens import SECRET, shared

SETTINGS = {
    "TURNWIRE_AUTH": "jwt",
    "TURNWIRE_JWT_SECRET": SECRET,
    "TURNWIRE_LEASE_MS": "3000",
    "TURNWIRE_RENEW_MS": "500",
    "TURNWIRE_SWEEP_MS": "300",
    "TURNWIRE_DRAIN_MS": "0",
    "TURNWIRE_FRAMES_PER_S": "10000",
    "TURNWIRE_TURNS_RUNNING_MAX": "1000",
    "TURNWIRE_SESSIONS_OPEN_MAX": "1000",
}
CONFIG = """
[models.endless]
provider = "demo"
model = "demo/stall"
deadlines_ms = { first_content = 3600000, total = 3600000 }
output_tokens_max = 1000
[models.brief]
provider = "demo"
model = "demo"
output_tokens_max = 1000
[plans.ten]
turns_running = 10
[plans.quick]
turns_per_minute = 3
[plans.poor]
tokens_per_day = 1500
upgrade_url = "https://example.com/upgrade"
[plans.pair]
connections = 2
[plans.crowd]
turns_per_minute = 5
turns_running = 4
[limits]
address_plan = "busy"
[plans.busy]
turns_per_minute = 600
"""
TEXT = [{"type": "text", "text": "How much is left?"}]


@asynccontextmanager
async def nodes(folder: Path, count: int) -> AsyncGenerator[list[NodeProcess]]:
    """Nodes on one folder, and so on one store."""
    (folder / "turnwire.toml").write_text(CONFIG)
    arguments = ("--config", str(folder / "turnwire.toml"))
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(NodeProcess.started(folder / "data", SETTINGS, *arguments))
        started = [first]
        for _ in range(count - 1):
            node = await NodeProcess.start(folder / "data", SETTINGS, *arguments)
            stack.push_async_callback(ended, node)
            started.append(node)
        yield started


async def ended(node: NodeProcess) -> None:
    if node.process.returncode is None:
        await node.stop()


def create(number: int, model: str = "endless", **fields: Any) -> Json:
    return {"session": f"s{number}", "turn": f"t{number}", "model": model, "input": TEXT, **fields}


async def answer(peer: Peer, **fields: Any) -> Json:
    return await peer.answer("turn.create", **fields)


async def test_200_creates_from_4_nodes_against_a_limit_of_10_and_a_node_that_dies(tmp_path: Path) -> None:
    """By user and by organisation; and when a node was killed and its turns were taken, no place has come or gone."""
    async with nodes(tmp_path, 4) as started:
        for claims, owners in (({"plan": "ten"}, ["alice"]), ({"org": "acme", "org_plan": "ten"}, ["bob", "carol"])):
            peers = [await Peer.of(node, owners[at % len(owners)], **claims) for at, node in enumerate(started * 5)]

            async def send_ten(peer: Peer, place: int) -> list[Json]:
                ids = [await peer.send("turn.create", **create(place * 10 + number)) for number in range(10)]
                return [(await peer.up_to_answer(id))[-1] for id in ids]

            answers = [
                frame
                for frames in await asyncio.gather(*(send_ten(peer, place) for place, peer in enumerate(peers)))
                for frame in frames
            ]
            taken = [frame for frame in answers if frame["type"] == "ack"]
            refused = [frame["error"] for frame in answers if frame["type"] == "error"]
            assert (len(taken), len(refused)) == (10, 190), claims
            assert {error["code"] for error in refused} == {"rate_limited"}
            assert min(frame["left"]["turns_running"] for frame in taken) == 0
            if "org" not in claims:
                await started[3].kill()
                left = [peer for at, peer in enumerate(peers) if at % 4 != 3]
                # What it ran is run by others, in the same places: for none of the time there is room for one more.
                for _ in range(8):
                    assert (await answer(left[0], **create(900)))["error"]["code"] == "rate_limited"
                    await asyncio.sleep(0.5)  # in all longer than the dead one's leases, and the sweep behind them
                over = await left[0].ask("turn.cancel", session=taken[0]["session"], turn=taken[0]["turn"])
                assert over[-1]["result"] == "cancelling"
                await until_taken(left[0])
                started[3] = await NodeProcess.start(
                    tmp_path / "data", SETTINGS, "--config", str(tmp_path / "turnwire.toml")
                )
            for peer in peers:
                await peer.socket.close()
        await ended(started[3])


async def comes_true(look: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(20):
        while not await look():  # noqa: ASYNC110 - only asking shows it
            await asyncio.sleep(0.05)


async def until_taken(peer: Peer) -> None:
    """One more turn fits, as soon as the one that was stopped is over."""

    async def fits() -> bool:
        return (await answer(peer, **create(901)))["type"] == "ack"

    await comes_true(fits)
    assert (await answer(peer, **create(902)))["error"]["code"] == "rate_limited"


async def test_the_rate_is_told_before_it_is_reached_and_a_wait_as_told_is_enough(tmp_path: Path) -> None:
    async with nodes(tmp_path, 2) as (node, other):
        peer, elsewhere = await Peer.of(node, "alice", plan="quick"), await Peer.of(other, "alice", plan="quick")
        assert peer.welcome["limits"]["left"]["turns_per_minute"] == 3
        lefts = [(await answer(peer, **create(number, "brief")))["left"]["turns_per_minute"] for number in range(2)]
        lefts.append((await answer(elsewhere, **create(2, "brief")))["left"]["turns_per_minute"])
        assert lefts == [2, 1, 0]
        error = (await answer(peer, **create(3, "brief")))["error"]
        assert (error["code"], error["retry"]) == ("rate_limited", "same_frame")
        await asyncio.sleep(error["retry_after_ms"] / 1000)
        assert (await answer(peer, **create(3, "brief")))["type"] == "ack"
        # Another user is another matter.
        assert (await answer(await Peer.of(node, "bob", plan="quick"), **create(0, "brief")))["type"] == "ack"


async def test_a_day_that_is_used_up_says_where_more_can_be_had(tmp_path: Path) -> None:
    async with nodes(tmp_path, 1) as (node,):
        peer = await Peer.of(node, "alice", plan="poor")
        first = await answer(peer, **create(0, "brief"))
        assert 0 < first["left"]["tokens_per_day"] < 500  # by estimate
        error = (await answer(peer, **create(1, "brief")))["error"]
        assert (error["code"], error["retry"]) == ("quota_exceeded", "none")
        assert error["upgrade_url"] == "https://example.com/upgrade"
        assert 0 < error["retry_after_ms"] <= 86_400_000
        (done,) = [frame for frame in await peer.until("turn.done") if frame["type"] == "turn.done"]
        used = done["usage"]["input_tokens"] + done["usage"]["output_tokens"]
        later = await Peer.of(node, "alice", plan="poor")
        assert later.welcome["limits"]["left"]["tokens_per_day"] == 1_500 - used  # by what it was
        assert (await answer(later, **create(1, "brief")))["type"] == "ack"


async def test_an_organisation_and_an_address_have_their_own_limits(tmp_path: Path) -> None:
    async with nodes(tmp_path, 1) as (node,):
        peers = [await Peer.of(node, user, org="acme", org_plan={"turns_per_minute": 2}) for user in ("ann", "bob")]
        results = [(await answer(peers[number % 2], **create(number)))["type"] for number in range(3)]
        assert results == ["ack", "ack", "error"]
        # All of them come from here: what this address may is counted over users.
        assert peers[0].welcome["limits"]["left"]["turns_per_minute"] == 2
        stranger = await Peer.of(node, "carol", plan={})
        assert stranger.welcome["limits"]["left"]["turns_per_minute"] == 598


async def test_a_user_has_so_many_connections_on_all_nodes_together(tmp_path: Path) -> None:
    async with nodes(tmp_path, 2) as (node, other):
        first, second = await Peer.of(node, "alice", plan="pair"), await Peer.of(other, "alice", plan="pair")
        async with connect(node.url, compression=None) as socket:
            await socket.send(json.dumps({"type": "hello", "id": "h", "token": shared("alice", plan="pair")}))
            refused = json.loads(await socket.recv())
            assert (refused["reply_to"], refused["error"]["code"]) == ("h", "rate_limited")
            with pytest.raises(ConnectionClosed) as closed:
                await socket.recv()
            assert closed.value.rcvd is not None and closed.value.rcvd.code == 4529
        await first.socket.close()

        async def gets_in() -> bool:
            try:
                peer = await Peer.of(other, "alice", plan="pair")
            except AssertionError:
                return False
            await peer.socket.close()
            return True

        await comes_true(gets_in)
        await second.socket.close()


async def test_whoever_was_limited_is_logged_by_a_hash_and_by_no_name(tmp_path: Path) -> None:
    async with nodes(tmp_path, 1) as (node,):
        peer = await Peer.of(node, "alice@example.com", plan="quick")
        for number in range(5):
            await answer(peer, **create(number, "brief"))
        assert await node.stop() == 0
        told = node.output.read_text()
        assert "alice" not in told
        (line, *_) = [json.loads(line) for line in told.splitlines() if '"limited"' in line]
        assert (line["kind"], line["why"], line["who"]) == ("user", "turns_per_minute", "ff8d9819fc0e12bf")
