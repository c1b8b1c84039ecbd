"""A herd that is cut off comes back: all clients lose their connections at once, and all resume within a minute, while
answers go on.

The short version is part of every gate; the long one, with 5,000 clients, writes its figures into docs/security.md. Its
server has the settings that it has by itself: the door lets 200 clients in each second, and sends those away for a
while that would wait longer than 5 s. Sessions are written into the store beforehand. Some of those that are cut off
watch an answer that is being written; others keep their connections, and it is in what they see that a node shows which
falls over. The herd has a process of its own, and all share one machine.
"""

import asyncio
import math
import secrets
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.stores.making import append, request, sealing
from tests.stores.server import StoreServer, binaries
from tests.support.herd import HerdProcess, names_of
from tests.support.processes import NodeProcess, ProviderProcess
from tests.support.report import write_table
from tests.support.tokens import SECRET, shared
from tests.support.waiting import until
from tests.support.watched import Watched
from turnwire.chat.handle import TurnHandle
from turnwire.chat.wire import FullJitter
from turnwire.core.log_values import SessionKey
from turnwire.stores.redis.link import Link
from turnwire.stores.redis.log import RedisSessionLog

resource = pytest.importorskip("resource", reason="there are no limits on open files to ask for")

PAGE = Path(__file__).parents[2] / "docs" / "security.md"
RESUMED_S = 60
TOKENS_PER_S = 10
FILES_BESIDE = 500


@dataclass
class Figures:
    """What a herd did. Times in s from the cut on, latencies in ms, memory in MB."""

    members: int
    resumed_s: list[float] = field(default_factory=list)
    connected_s: float = 0.0
    dials: int = 0
    sent_away: int = 0
    ends: dict[str, int] = field(default_factory=dict[str, int])
    idle_mb: float = 0.0
    connected_mb: float = 0.0
    peak_mb: float = 0.0
    cut_answers_resumed_s: float = 0.0
    latencies_ms: list[float] = field(default_factory=list)
    """Of each piece of the answers whose readers stayed, while the herd came back."""


async def run_herd(
    folder: Path, *, members: int, stay: int, cut: int, answer_s: int, accepts_per_s: int = 200
) -> Figures:
    """`members` idle clients and `cut` that watch an answer are cut off, `stay` that watch one are not."""
    figures = Figures(members)
    store = StoreServer(binaries()[0], folder, fsync="everysec")
    store.start()
    try:
        async with AsyncExitStack() as stack:
            provider = await stack.enter_async_context(
                ProviderProcess.streaming(rate_per_s=TOKENS_PER_S, tokens=TOKENS_PER_S * answer_s)
            )
            node = await stack.enter_async_context(
                NodeProcess.started(folder / "data", settings(store, provider, accepts_per_s))
            )
            await write_sessions(store, members)
            figures.idle_mb = resident_mb(node.pid)
            herd = await stack.enter_async_context(HerdProcess.started(node.port, members, RESUMED_S))
            figures.connected_s = await herd.connected()
            figures.connected_mb = resident_mb(node.pid)
            stayers = [await stack.enter_async_context(reading(node)) for _ in range(stay)]
            cut_ones = [await stack.enter_async_context(reading(node)) for _ in range(cut)]
            await until(lambda: all(reader.pieces for reader in (*stayers, *cut_ones)))
            await cut_and_resume(node, herd, stayers, cut_ones, figures)
            await see_the_answers_end([*stayers, *cut_ones], TOKENS_PER_S * answer_s)
            assert node.process.returncode is None
    finally:
        store.stop()
    return figures


def settings(store: StoreServer, provider: ProviderProcess, accepts_per_s: int) -> dict[str, str]:
    return {
        "TURNWIRE_REDIS_URL": store.url,
        "TURNWIRE_AUTH": "jwt",
        "TURNWIRE_JWT_SECRET": SECRET,
        "TURNWIRE_DRAIN_MS": "0",
        "TURNWIRE_ACCEPTS_PER_S": str(accepts_per_s),
        "OPENAI_API_KEY": "test-key",
        "OPENAI_BASE_URL": provider.base_url,
        "TURNWIRE_MODEL": "stamps",
    }


async def write_sessions(store: StoreServer, count: int) -> None:
    """A session of each member, in which there is one turn."""
    keys = [SessionKey(*names_of(number)) for number in range(count)]
    async with RedisSessionLog(Link(store.url), node="writer") as log:
        for start in range(0, count, 200):
            some = [key.turn("t1") for key in keys[start : start + 200]]
            body = b'{"input":[{"type":"text","text":"hi"}],"model":"stamps","author":"user"}'
            await asyncio.gather(*(log.accept_turn(request(turn, body=body)) for turn in some))
            answers = await append(log, *(sealing(turn) for turn in some))
            assert {answer.result for answer in answers} == {"ok"}


class Reader:
    """A client that watches an answer of its own, checks each frame, and notes when the pieces came."""

    def __init__(self, url: str) -> None:
        self.pieces: list[tuple[float, int]] = []
        """When it came (loop's clock), and when the provider wrote it (ns, monotonic)."""
        self.watched = Watched(url, backoff=FullJitter(), on_frame=self._on_frame)
        user = f"reader-{secrets.token_hex(4)}"
        self.watched.chat._token = lambda: token_of(user)
        self.turn: TurnHandle | None = None

    def _on_frame(self, sender: str, frame: dict[str, Any]) -> None:
        if sender == "server" and frame["type"] == "turn.delta":
            now_s = asyncio.get_running_loop().time()
            self.pieces += [(now_s, int(word)) for word in frame["text"].split() if word.isdigit()]


async def token_of(user: str) -> str:
    return shared(user)


@asynccontextmanager
async def reading(node: NodeProcess) -> AsyncGenerator[Reader]:
    reader = Reader(node.url)
    async with reader.watched.chat as chat:
        reader.turn = await chat.send(f"s-{secrets.token_hex(4)}", "go")
        yield reader


async def cut_and_resume(
    node: NodeProcess, herd: HerdProcess, stayers: Sequence[Reader], cut_ones: Sequence[Reader], figures: Figures
) -> None:
    peak = asyncio.create_task(watch_memory(node.pid, figures))
    try:
        returning = asyncio.create_task(herd.cut())
        for reader in cut_ones:
            reader.watched.chat.abort()
        returned = await returning
        cut_at_s = returned.cut_at_s
        await until(lambda: all(reader.pieces[-1][0] > cut_at_s for reader in cut_ones), RESUMED_S)
    finally:
        peak.cancel()
    figures.resumed_s, figures.dials = returned.resumed_s, returned.dials
    figures.ends, figures.sent_away = returned.ends, returned.ends.get("4503", 0)
    assert len(returned.resumed_s) == figures.members and max(returned.resumed_s) <= RESUMED_S
    # Each of them went on from where it was: nothing was sent again, and nothing read but the place.
    assert returned.modes == {"replay": figures.members}
    assert not returned.statuses
    for reader in cut_ones:
        assert reader.watched.connections > 1
        gap_s = max(after - before for (before, _), (after, _) in pairwise(reader.pieces))
        figures.cut_answers_resumed_s = max(figures.cut_answers_resumed_s, gap_s)
    for reader in stayers:
        assert reader.watched.connections == 1
        figures.latencies_ms += [at_s * 1000 - wrote / 1e6 for at_s, wrote in reader.pieces if at_s > cut_at_s]


async def see_the_answers_end(readers: Sequence[Reader], tokens: int) -> None:
    """Every answer comes to its end, with each of its pieces once and the checksums that its terminal tells."""
    for reader in readers:
        assert reader.turn is not None
        outcome = await asyncio.wait_for(reader.turn.done(), 120)
        assert outcome.ok, outcome
        stamps = [int(word) for word in outcome.text.split() if word.isdigit()]
        assert len(stamps) == tokens and stamps == sorted(stamps)
        reader.watched.check()


def resident_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


async def watch_memory(pid: int, figures: Figures) -> None:
    while True:
        figures.peak_mb = max(figures.peak_mb, resident_mb(pid))
        await asyncio.sleep(0.1)


def allow_files(wanted: int) -> None:
    """Fails with a way out where this process and the server may not have so many connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.fail(f"{wanted} open files are needed and {hard} allowed: raise the limit (ulimit -Hn {wanted})")
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def at(values: Sequence[float], share: float) -> float:
    """By nearest rank."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def told(figures: Figures) -> str:
    resumed, late = figures.resumed_s, figures.latencies_ms
    return (
        f"{figures.members} clients: connected in {figures.connected_s:.1f} s; after the cut half of them resumed in "
        f"{at(resumed, 0.5):.1f} s, 99 % in {at(resumed, 0.99):.1f} s, the last in {resumed[-1]:.1f} s, answers in "
        f"{figures.cut_answers_resumed_s:.1f} s; {figures.dials} dials, {figures.sent_away} sent away, ends "
        f"{figures.ends}; memory {figures.idle_mb:.0f} MB, {figures.connected_mb:.0f} connected, {figures.peak_mb:.0f} "
        f"at most; pieces late by {at(late, 0.5):.1f} ms, 99 % {at(late, 0.99):.1f} ms, at most {max(late):.1f} ms"
    )


async def test_clients_that_are_cut_off_together_all_resume_while_answers_go_on(tmp_path: Path) -> None:
    """A door that lets 10 clients in each second: of 80, some are sent away."""
    figures = await run_herd(tmp_path, members=80, stay=2, cut=3, answer_s=15, accepts_per_s=10)
    print(told(figures))
    assert figures.sent_away > 0


@pytest.mark.prove
async def test_five_thousand_clients_that_are_cut_off_together_resume_within_a_minute(tmp_path: Path) -> None:
    members, stay, cut = 5_000, 10, 20
    allow_files(members + FILES_BESIDE)
    began_s = time.monotonic()
    figures = await run_herd(tmp_path, members=members, stay=stay, cut=cut, answer_s=90)
    print(f"{told(figures)}; all of it took {time.monotonic() - began_s:.0f} s")
    resumed, late = figures.resumed_s, figures.latencies_ms
    rows = [
        ("clients cut off at once", f"{members}, and {cut} in the middle of an answer"),
        ("half of them, 99 % and the last had resumed", " / ".join(f"{at(resumed, n):.1f} s" for n in (0.5, 0.99, 1))),
        ("the last answer that was cut went on after", f"{figures.cut_answers_resumed_s:.1f} s"),
        ("dials, of which were told to come back later", f"{figures.dials}, {figures.sent_away}"),
        (
            "memory of the server without clients, with all, at most while they came back",
            f"{figures.idle_mb:.0f} / {figures.connected_mb:.0f} / {figures.peak_mb:.0f} MB",
        ),
        (
            f"pieces of {stay} answers whose readers stayed came late by (half, 99 %, at most)",
            " / ".join(f"{at(late, n):.0f} ms" for n in (0.5, 0.99, 1)),
        ),
    ]
    write_table("herd", ("", "measured"), rows, page=PAGE)
