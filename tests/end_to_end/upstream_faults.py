"""Every way in which a model's service can fail, over real HTTP, thousands of times: what a user is told, how often the
service was asked for it, and how soon the user knew.

`python -m tests.end_to_end.upstream_faults --turns 3200` runs it and prints a table. The tests run a part of it, and
`make prove` all, which writes the table into docs/upstream.md.

The expectations are written down beside each case and know nothing of the server's code. A case says what the service
does at the first, second, ... request of one turn. Each turn's prompt says which case it is, so one server plays all of
them at once.
"""

import argparse
import asyncio
import json
import random
import secrets
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any, Final, Literal

from tests.benchmarks.relay import percentile
from tests.support.processes import NodeProcess
from tests.support.provider_server import (
    Answer,
    Gate,
    Pause,
    Piece,
    ProviderServer,
    Received,
    Reply,
    chunk,
    sse,
    tls_context,
)
from tests.support.watched import Watched

CLIENTS: Final = 12
NO_FAULT: Final = "no fault"
CONNECT_MS: Final = 2_000
FIRST_CONTENT_MS: Final = 1_500
IDLE_MS: Final = 1_500
CONNECT_TOTAL_MS: Final = 6_000
TOTAL_MS: Final = 2_500
"""Of the model `brief`."""
ATTEMPTS: Final = 4
SLOW_ATTEMPTS: Final = 2
"""Of the model `slow`, whose attempts take as long as they may."""
AT_ONCE_MS: Final = 1_000
"""Waits between attempts, and this machine's own time with many turns at once, are well below it."""

NEVER: Final = asyncio.Event()
TEXT: Final = "Half a league, half a league onward"
WHOLE: Final = Reply.of_text(*TEXT.split(" "))
SAID: Final = TEXT.replace(" ", "")
FIRST: Final = sse(chunk("Half"))


@dataclass(frozen=True, slots=True)
class Expected:
    """What must become of one turn. `code` None: turn.done with `reason`. `within_ms` bounds the time to a failure."""

    requests: int
    code: str | None = None
    reason: str = "stop"
    partial: bool = False
    text: str | None = None
    fallback_requests: int = 0
    started: int | None = None
    """Attempts as told; where nothing else is said, as many as there were requests."""
    within_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Case:
    """`replies` at the first, second, ... request of a turn, and the last one ever after."""

    name: str
    model: str
    replies: Sequence[Answer]
    expected: Expected


def failed(code: str, requests: int = ATTEMPTS, **more: Any) -> Expected:
    return replace(Expected(requests, code, within_ms=AT_ONCE_MS), **more)


def answered(requests: int = 1, **more: Any) -> Expected:
    return replace(Expected(requests, text=SAID), **more)


def broken(code: str, **more: Any) -> Expected:
    """After the first byte: one request, and what came is kept."""
    return replace(failed(code, 1, partial=True, text="Half"), **more)


def html() -> Reply:
    return Reply((b"<html>Sorry!</html>",), headers={"content-type": "text/html"})


def gzip() -> Reply:
    return Reply((b"\x1f\x8b\x08",), headers={"content-type": "text/event-stream", "content-encoding": "gzip"})


def ten_megabytes() -> Reply:
    return Reply((b"data: " + b"x" * 10_000_000,))


def until_tomorrow() -> Reply:
    """An HTTP date, by the service's own clock, that lies a second ahead."""
    now = datetime.now(UTC).replace(microsecond=0) - timedelta(days=400)
    return Reply.of_status(
        429,
        date=format_datetime(now, usegmt=True),
        retry_after=format_datetime(now + timedelta(seconds=1), usegmt=True),
    )


def endless() -> Reply:
    pieces: list[Piece] = [piece for _ in range(400) for piece in (FIRST, Pause(20))]
    return Reply(pieces)


def cut_somewhere(drawn: random.Random) -> Case:
    """A whole answer cut at any byte. What must follow is read off the bytes: nothing may be asked again once the first
    delta was complete, and nothing is missing once the finish reason was."""
    events = [sse(chunk(word)) for word in TEXT.split(" ")] + [sse(chunk(finish_reason="stop")), sse("[DONE]")]
    whole = b"".join(events)
    at = drawn.randrange(len(whole))
    ends = [len(b"".join(events[: number + 1])) - 2 for number in range(len(events))]
    endings: list[Literal["cut", "end", "reset"]] = ["cut", "end", "reset"]
    ending = drawn.choice(endings)
    # A reset may overtake the bytes before it; these have arrived when it comes.
    reply = Reply((whole[:at], Pause(30)), ending=ending) if at else Reply((Pause(30),), ending=ending)
    complete = sum(end <= at for end in ends)
    if complete == 0:
        return Case("cut at a random byte", "main", [reply, WHOLE], answered(2))
    if complete <= len(TEXT.split(" ")):
        text = "".join(TEXT.split(" ")[:complete])
        return Case("cut at a random byte", "main", [reply], broken("upstream_truncated", text=text))
    return Case("cut at a random byte", "main", [reply], answered(1))


def cases(drawn: random.Random) -> list[Case]:
    """One of each; made anew for each turn, because some are drawn and some look at the clock."""
    handshakes = CONNECT_MS * SLOW_ATTEMPTS + AT_ONCE_MS
    late = FIRST_CONTENT_MS * SLOW_ATTEMPTS + AT_ONCE_MS
    busy, down = Reply.of_status(429, retry_after_ms="20"), Reply.of_status(500)
    return [
        Case(NO_FAULT, "main", [WHOLE], answered()),
        Case("429 with retry-after-ms, then success", "main", [busy, WHOLE], answered(2)),
        Case("429 with retry-after in seconds", "main", [Reply.of_status(429, retry_after="0.05"), WHOLE], answered(2)),
        Case("429 with retry-after as a date", "main", [until_tomorrow(), WHOLE], answered(2)),
        Case(
            "429 that asks for too long a wait",
            "main",
            [Reply.of_status(429, retry_after="600")],
            failed("upstream_unavailable", 1),
        ),
        Case("500 three times, then success", "main", [down, down, down, WHOLE], answered(4)),
        Case("500 to exhaustion", "main", [down], failed("upstream_unavailable")),
        Case(
            "503 with x-should-retry: false",
            "main",
            [Reply.of_status(503, x_should_retry="false")],
            failed("upstream_unavailable", 1),
        ),
        Case("400", "main", [Reply.of_status(400)], failed("upstream_rejected", 1)),
        Case("401", "main", [Reply.of_status(401)], failed("upstream_rejected", 1)),
        Case(
            "a redirect", "main", [Reply.of_status(307, location="http://127.0.0.1:9")], failed("upstream_rejected", 1)
        ),
        Case(
            "fallback after exhaustion",
            "falling",
            [down],
            answered(SLOW_ATTEMPTS, fallback_requests=1, started=SLOW_ATTEMPTS + 1),
        ),
        Case(
            "fallback after a refusal", "falling", [Reply.of_status(404)], answered(1, fallback_requests=1, started=2)
        ),
        Case("connection refused", "refused", [], failed("upstream_unavailable", 0, started=ATTEMPTS)),
        Case("unknown host", "unknown", [], failed("upstream_unavailable", 0, started=ATTEMPTS)),
        Case("untrusted certificate", "untrusted", [], failed("upstream_unavailable", 0, started=1)),
        Case("TLS that is never answered", "plain", [], failed("upstream_timeout", 0, started=2, within_ms=handshakes)),
        Case("slow headers", "slow", [Reply(headers_after=Gate(NEVER))], failed("upstream_timeout", 2, within_ms=late)),
        Case("pings only", "slow", [Reply(ending="ping")], failed("upstream_timeout", 2, within_ms=late)),
        Case("pings only, then success", "slow", [Reply(ending="ping"), WHOLE], answered(2)),
        Case(
            "stall after content",
            "main",
            [Reply((FIRST,), ending="stall")],
            broken("upstream_timeout", within_ms=IDLE_MS + AT_ONCE_MS),
        ),
        Case(
            "pings after content",
            "main",
            [Reply((FIRST,), ending="ping")],
            broken("upstream_timeout", within_ms=IDLE_MS + AT_ONCE_MS),
        ),
        Case(
            "content without end",
            "brief",
            [endless()],
            failed("upstream_timeout", 1, partial=True, within_ms=TOTAL_MS + AT_ONCE_MS),
        ),
        cut_somewhere(drawn),
        Case("clean end without a reason", "main", [Reply((FIRST,))], broken("upstream_truncated")),
        Case("clean end without content", "main", [Reply(), WHOLE], answered(2)),
        Case("reset in the middle", "main", [Reply((FIRST, Pause(30)), ending="reset")], broken("upstream_truncated")),
        Case("reset before headers", "main", [Reply(raw=b"", ending="reset"), WHOLE], answered(2)),
        Case(
            "error inside a 200, before content",
            "main",
            [Reply.of_events({"error": {"code": 503}}), WHOLE],
            answered(2),
        ),
        Case(
            "error inside a 200, after content",
            "main",
            [Reply((FIRST, sse({"error": {"code": 503}})))],
            broken("upstream_unavailable"),
        ),
        Case("garbage before content", "main", [Reply.of_events("garbage"), WHOLE], answered(2)),
        Case("garbage after content", "main", [Reply((FIRST, sse("garbage")))], broken("upstream_malformed")),
        Case("a line of ten megabytes", "main", [ten_megabytes(), WHOLE], answered(2)),
        Case("a wrong content type", "main", [html()], failed("upstream_malformed")),
        Case("gzip", "main", [gzip()], failed("upstream_malformed")),
        Case("an empty answer", "main", [Reply.of_text()], answered(text="")),
        Case(
            "cut for length",
            "main",
            [Reply.of_text("Half", finish_reason="length")],
            answered(text="Half", reason="length"),
        ),
        Case(
            "filtered",
            "main",
            [Reply.of_text("Half", finish_reason="content_filter")],
            answered(text="Half", reason="content_filter"),
        ),
    ]


def one_of_each() -> list[Case]:
    return cases(random.Random(0))


# --- the run ----------------------------------------------------------------------------------------------------------

TABLE: Final = """
[models.{name}]
provider = "openai_chat"
base_url = "{base_url}"
model = "{name}"
fallback = {fallback}
retries = {{ attempts_max = {attempts}, wait_first_ms = 5, wait_ms_max = 20, budget_percent = 1000, failures_max = 0 }}

[models.{name}.deadlines_ms]
connect = {connect}
connect_total = {connect_total}
first_content = {first}
idle = {idle}
total = {total}
"""


def table(name: str, base_url: str, *, attempts: int = ATTEMPTS, total: int = 60_000, fallback: str = "") -> str:
    return TABLE.format(
        name=name,
        base_url=base_url,
        attempts=attempts,
        fallback=json.dumps([fallback] if fallback else []),
        connect=CONNECT_MS,
        connect_total=CONNECT_TOTAL_MS,
        first=FIRST_CONTENT_MS,
        idle=IDLE_MS,
        total=total,
    )


@dataclass(slots=True)
class Script:
    """The service: it plays each turn's case, and knows what it was asked."""

    playing: dict[str, Case] = field(default_factory=dict[str, Case])
    requests: defaultdict[str, list[Received]] = field(default_factory=lambda: defaultdict(list))

    def answer(self, request: Received) -> Answer:
        prompt = str(request.body["messages"][-1]["content"])
        asked = self.requests[prompt]
        asked.append(request)
        replies = self.playing[prompt].replies
        return replies[min(len(asked), len(replies)) - 1]


@dataclass(slots=True)
class Result:
    """What became of one turn. `fault` is what is wrong with that, or empty."""

    case: Case
    ms: float
    fault: str


@asynccontextmanager
async def faulty_world(script: Script, fallback: Script, folder: Path) -> AsyncGenerator[NodeProcess]:
    """A node whose models are every kind of reachable and unreachable."""
    async with AsyncExitStack() as stack:
        service = await stack.enter_async_context(ProviderServer(script.answer))
        second = await stack.enter_async_context(ProviderServer(fallback.answer))
        untrusted = await stack.enter_async_context(ProviderServer(script.answer, tls=tls_context()))
        async with ProviderServer(script.answer) as gone:
            refused = gone.base_url
        config = folder / "turnwire.toml"
        config.write_text(
            table("main", service.base_url)
            + table("slow", service.base_url, attempts=SLOW_ATTEMPTS)
            + table("brief", service.base_url, total=TOTAL_MS)
            + table("falling", service.base_url, attempts=SLOW_ATTEMPTS, fallback="second")
            + table("second", second.base_url)
            + table("refused", refused)
            + table("unknown", "http://model.invalid/v1")
            + table("untrusted", untrusted.base_url)
            + table("plain", service.base_url.replace("http:", "https:"), attempts=SLOW_ATTEMPTS),
            encoding="utf-8",
        )
        environment = {
            "TURNWIRE_CONFIG": str(config),
            "TURNWIRE_LOG_LEVEL": "error",
            "TURNWIRE_FRAMES_PER_S": "100000",
            "TURNWIRE_BYTES_PER_S": "100000000",
        }
        (folder / "data").mkdir()
        yield await stack.enter_async_context(NodeProcess.started(folder / "data", environment))


async def run(turns: int, seed: str, tell: Callable[[str], None] = print) -> list[Result]:
    """That many turns, cases in turn and in no order, a few at a time; each in a session of its own."""
    drawn = random.Random(seed)
    waiting: list[Case] = []
    while len(waiting) < turns:
        waiting += cases(drawn)
    waiting = waiting[:turns]
    drawn.shuffle(waiting)
    script, fallback = Script(), Script()
    results: list[Result] = []
    with tempfile.TemporaryDirectory(prefix="tw-faults-") as folder:
        async with faulty_world(script, fallback, Path(folder)) as node:

            async def work() -> None:
                watched = Watched(node.url)
                async with watched.chat:
                    while waiting:
                        results.append(await play(watched, waiting.pop(), script, fallback))
                        if len(results) % 400 == 0:
                            tell(f"{len(results)} of {turns} turns")
                watched.check()

            await asyncio.gather(*(work() for _ in range(CLIENTS)))
    return results


async def play(watched: Watched, case: Case, script: Script, fallback: Script) -> Result:
    prompt = f"{case.name} {secrets.token_hex(6)}"
    script.playing[prompt] = case
    fallback.playing[prompt] = replace(case, replies=[WHOLE])
    began = time.monotonic()
    handle = await watched.chat.send(f"s_{secrets.token_hex(6)}", prompt, model=case.model)
    async with asyncio.timeout(60):
        outcome = await handle.done()
    ms = (time.monotonic() - began) * 1000
    asked = script.requests.pop(prompt, [])
    asked_fallback = fallback.requests.pop(prompt, [])
    expected = case.expected
    terminal = outcome.terminal or {}
    started = watched.started[handle.id]
    told = {
        "code": terminal.get("error", {}).get("code"),
        "reason": terminal.get("finish_reason", "stop"),
        "partial": terminal.get("partial", False),
        "requests": len(asked),
        "fallback requests": len(asked_fallback),
        "started": started,
        "text": outcome.text if expected.text is not None else None,
    }
    wanted = {
        "code": expected.code,
        "reason": expected.reason,
        "partial": expected.partial,
        "requests": expected.requests,
        "fallback requests": expected.fallback_requests,
        "started": expected.requests if expected.started is None else expected.started,
        "text": expected.text,
    }
    wrong = [f"{name} {told[name]!r}, wanted {wanted[name]!r}" for name in wanted if told[name] != wanted[name]]
    for request in asked:
        if not request.answered:
            async with asyncio.timeout(20):
                await request.closed.wait()
    await watched.chat.close_session(handle.session)
    return Result(case, ms, "; ".join(wrong))


# --- the table --------------------------------------------------------------------------------------------------------


HEAD: Final = ("the service", "the user is told", "requests", "right", "p50 (ms)", "p99 (ms)", "deadline (ms)")


def rows_of(results: Sequence[Result]) -> list[tuple[object, ...]]:
    """The table of docs/upstream.md, in the order of the cases."""
    by_case: defaultdict[str, list[Result]] = defaultdict(list)
    for result in results:
        by_case[result.case.name].append(result)
    return [_row(case, some) for case in one_of_each() if (some := by_case[case.name])]


def _row(case: Case, results: Sequence[Result]) -> tuple[object, ...]:
    times = [result.ms for result in results]
    numbers = sorted({result.case.expected.requests + result.case.expected.fallback_requests for result in results})
    return (
        case.name,
        " or ".join(sorted({_told(result.case.expected) for result in results})),
        " or ".join(map(str, numbers)),
        f"{sum(not result.fault for result in results)} of {len(results)}",
        f"{percentile(times, 0.5):.0f}",
        f"{percentile(times, 0.99):.0f}",
        case.expected.within_ms or "",
    )


def _told(expected: Expected) -> str:
    if expected.code is None:
        return f"`{expected.reason}`"
    return f"`{expected.code}`" + (", partial kept" if expected.partial else "")


def faults_of(results: Sequence[Result]) -> list[str]:
    return [f"{result.case.name}: {result.fault}" for result in results if result.fault]


def usual_ms(results: Sequence[Result]) -> float:
    """What this machine takes for nearly every turn without a fault."""
    return percentile([result.ms for result in results if result.case.name == NO_FAULT] or [0.0], 0.99)


def late(results: Sequence[Result], allowed_ms: float) -> list[str]:
    """Failures that came more than `allowed_ms` after their deadline."""
    return [
        f"{result.case.name} after {result.ms:.0f} ms"
        for result in results
        if (limit := result.case.expected.within_ms) and result.ms > limit + allowed_ms
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=3_200)
    parser.add_argument("--seed", default=secrets.token_hex(4))
    chosen = parser.parse_args()
    results = asyncio.run(run(chosen.turns, chosen.seed))
    for row in (HEAD, *rows_of(results)):
        print(*row, sep=" | ")
    for fault in faults_of(results)[:20]:
        print(fault)
    print(f"{len(late(results, usual_ms(results)))} came after their deadline; seed {chosen.seed}")
    sys.exit(bool(faults_of(results)))


if __name__ == "__main__":
    main()
