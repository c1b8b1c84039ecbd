"""Bad frames and bytes, curated and drawn without number, against a real server on which others have turns running.

Whatever comes: the process lives, it logs no error and no exception, its loop is never held up for 50 ms, its memory
does not grow by 64 MB, every connection ends for a fault of its client's, and the others' answers come whole.

The heartbeat of tests/support/observed.py measures the loop; it takes off the time that the machine had no processor
for it. `make prove` sends 200 000 cases and writes docs/security.md.
"""

import asyncio
import json
import os
import platform
import secrets
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import pytest
import pytest_asyncio

from tests.protocol.bad_frames import FAULTY, TABLE, UNREADABLE, Bad, pack
from tests.security import coverage_guided
from tests.security.attack import Attack, Seen, Volley, ended_with
from tests.security.bad_bytes import BAD_FRAMES, BAD_REQUESTS, BadFrames, BadRequest
from tests.security.fuzz import KINDS, Fuzz
from tests.security.victims import Victims, chatting, long_lived
from tests.support.observed import TOLD_FROM_MS
from tests.support.observed_node import ObservedNode
from tests.support.report import write_table
from tests.support.tokens import SECRET
from turnwire_protocol.codec import CODECS, JSON, Codec
from turnwire_protocol.codes import CloseCode

pytestmark = pytest.mark.asyncio(loop_scope="module")

PAGE = Path(__file__).parents[2] / "docs" / "security.md"
GROWTH_MB_MAX = 64
STALL_MS_MAX = 50
CASES = 200_000
"""Of the long run."""

SETTINGS = {
    "TURNWIRE_AUTH": "jwt",
    "TURNWIRE_JWT_SECRET": SECRET,
    "TURNWIRE_DRAIN_MS": "0",
    # The limits on how much are for others to test: here all of it is to get through to whoever reads it.
    "TURNWIRE_FRAMES_PER_S": "1000000",
    "TURNWIRE_BYTES_PER_S": "1000000000",
    "TURNWIRE_CONNECTIONS_PER_ADDRESS_MAX": "5000",
    "TURNWIRE_ACCEPTS_PER_S": "100000",
}
CONFIG = """
[models]
default = "demo/error-before"
demo_models = true
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def node(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[ObservedNode]:
    folder = tmp_path_factory.mktemp("node")
    (folder / "turnwire.toml").write_text(CONFIG)
    options = ("--config", str(folder / "turnwire.toml"))
    async with ObservedNode.started(folder / "data", SETTINGS, *options) as started:
        yield started


@dataclass(slots=True)
class Figures:
    """Of an attack. `stall_ms` is the longest that the loop was held up by what it did itself."""

    stall_ms: float = 0.0
    growth_mb: float = 0.0
    peak_mb: float = 0.0
    took_s: float = 0.0
    victims: Victims = field(default_factory=Victims)


@asynccontextmanager
async def unharmed(node: ObservedNode) -> AsyncGenerator[Figures]:
    """An attack happens within; figures are there when it is over."""
    async with chatting(node):  # once round, so that what is made at first use is there
        pass
    figures = Figures()
    began, before_mb = await node.report(), node.memory_mb()
    node.forget_memory_peak()
    began_s = time.monotonic()
    async with chatting(node) as victims:
        figures.victims = victims
        yield figures
        figures.took_s = time.monotonic() - began_s
    assert node.process.returncode is None
    await node.tasks_are(began.tasks)
    figures.stall_ms = (await node.report()).worst_ms(began.at_s)
    figures.growth_mb, figures.peak_mb = node.memory_mb() - before_mb, node.memory_peak_mb() - before_mb
    lines = [json.loads(line) for line in node.output.read_text().splitlines() if line]
    assert [line for line in lines if line["level"] == "error" or "exception" in line] == []
    assert (victims.wrong, victims.answers >= 3) == ([], True)
    assert figures.stall_ms < STALL_MS_MAX
    assert max(figures.growth_mb, figures.peak_mb) < GROWTH_MB_MAX


def hello(codec: Codec) -> bytes:
    return codec.encode({"type": "hello", "id": "h", "token": long_lived("mallory")})


# --- curated ----------------------------------------------------------------------------------------------------------

Case = tuple[str, Volley, Callable[[bytes], bool]]
"""A name, what is sent, and whether that is an answer to it."""


def _message_cases(bad: Bad, codec: Codec) -> Iterator[Case]:
    """Before hello, where it is answered just the same, and after it."""
    message = bad.message if codec is bad.codec else pack(json.loads(bad.message))
    sent = message if isinstance(message, bytes) else message.encode("utf-8", "surrogatepass")
    closes: int | None = bad.close
    if isinstance(message, str) and any("\ud800" <= character <= "\udfff" for character in message):
        closes = 1007  # no text of a WebSocket's
    for when, first in (("before", b""), ("after", hello(codec))):

        def fits(said: bytes, closes: int = closes or CloseCode.NORMAL) -> bool:
            told = bad.code.encode() in said and (bad.reply_to is None or bad.reply_to.encode() in said)
            return ended_with(said) == closes and (told or closes == 1007)

        volley = Volley(codec.subprotocol, 1, b"", codec.subprotocol, first, [sent], closes is None)
        yield f"{bad.name}, {codec.subprotocol}, {when} hello", volley, fits


def _frames_case(bad: BadFrames, greets: bool) -> Case:
    volley = Volley("websocket", 1, bad.sent, JSON.subprotocol, hello(JSON) if greets else b"")
    return f"{bad.name}, {'after' if greets else 'before'} hello", volley, lambda said: ended_with(said) in bad.closes


def _request_case(bad: BadRequest) -> Case:
    def fits(said: bytes) -> bool:
        return (int(said[9:12]) if said.startswith(b"HTTP/1.1 ") else 0) in bad.statuses

    return bad.name, Volley("http", 1, bad.sent), fits


def curated() -> list[Case]:
    cases: list[Case] = []
    for bad in TABLE:
        for codec in CODECS.values() if bad in FAULTY else (bad.codec,):
            cases += _message_cases(bad, codec)
    cases += [_frames_case(bad, greets) for bad in BAD_FRAMES for greets in (False, True)]
    return cases + [_request_case(bad) for bad in BAD_REQUESTS]


async def test_everything_curated_is_answered_as_it_should_be_and_harms_nobody(node: ObservedNode) -> None:
    cases = curated()
    assert len({name for name, *_ in cases}) == len(cases) >= 400 and len(UNREADABLE) >= 80
    attack = Attack(node.port)
    wrong: list[str] = []
    async with unharmed(node):
        for name, volley, fits in cases:
            said = await asyncio.wait_for(attack.send(volley), 30)
            if not fits(said):
                wrong.append(f"{name}: {ended_with(said)} {said[:100]!r}")
    assert not wrong, "\n".join(wrong)


# --- drawn ------------------------------------------------------------------------------------------------------------


async def test_drawn_cases_harm_nobody(node: ObservedNode) -> None:
    drawn_from = secrets.randbits(32)
    fuzz, attack = Fuzz(drawn_from, long_lived("mallory"), frames=100), Attack(node.port)
    async with unharmed(node):
        await attack.send_all(fuzz.volleys(1_500), at_once=6)
    assert attack.seen.faults == [], f"seed {drawn_from}"
    assert attack.seen.total >= 1_500 and set(attack.seen.cases) == set(KINDS)


@pytest.mark.prove
async def test_two_hundred_thousand_drawn_cases_harm_nobody(
    node: ObservedNode, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn_from = secrets.randbits(32)
    fuzz, attack = Fuzz(drawn_from, long_lived("mallory"), frames=2_000), Attack(node.port)
    async with unharmed(node) as figures:
        while attack.seen.total < CASES:
            await attack.send_all(fuzz.volleys(min(CASES // 20, CASES - attack.seen.total)), at_once=8)
            assert (figures.victims.wrong, attack.seen.faults) == ([], []), f"seed {drawn_from}"
            with capsys.disabled():
                print(f"\n{attack.seen.total} of {CASES} cases", end="", flush=True)
    guided = "none: atheris has no wheel for this machine"
    if coverage_guided.is_installed():
        said = await asyncio.to_thread(coverage_guided.run, CASES, tmp_path / "corpus", seed=drawn_from)
        assert f"Done {CASES} runs" in said
        guided = f"{CASES:,}, nothing found"
    write_table("drawn input", ("", "what was met"), rows_of(attack.seen, figures, guided, drawn_from), page=PAGE)


def rows_of(seen: Seen, figures: Figures, guided: str, drawn_from: int) -> list[tuple[str, str]]:
    """The table of docs/security.md."""
    victims = figures.victims
    closes = Counter({"hung up" if code is None else str(code): count for code, count in seen.closes.items()})
    stall = f"{figures.stall_ms:.0f} ms" if figures.stall_ms >= TOLD_FROM_MS else f"under {TOLD_FROM_MS:.0f} ms"
    return [
        (
            "cases over sockets",
            f"{seen.total:,}: " + ", ".join(f"{count:,} {kind}" for kind, count in seen.cases.items()),
        ),
        ("connections", f"{seen.connections:,} in {figures.took_s:.0f} s"),
        ("how WebSockets ended", ", ".join(f"{code}: {count:,}" for code, count in closes.most_common(8))),
        ("exits, exceptions, lines of level error, closes with 1011 or 4500, connections that did not end", "0"),
        ("longest time that the server held up its own loop", stall),
        ("memory: growth at the end, and at most", f"{figures.growth_mb:.1f} MB, {figures.peak_mb:.1f} MB"),
        ("others' answers meanwhile", f"{victims.answers:,} whole, {len(victims.wrong)} not"),
        ("coverage-guided runs of codecs and connection", guided),
        ("seed", str(drawn_from)),
        (
            "versions",
            f"Turnwire {version('turnwire')}, Python {platform.python_version()}, {os.cpu_count()} processors",
        ),
    ]
