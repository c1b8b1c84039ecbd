"""What an answer costs the page: `python -m tests.benchmarks.page`.

Two questions, asked of the real page in a real browser, against a real node:

* How much of a frame does the main thread spend while 10,000 deltas of Markdown stream in? Chromium's own trace tells:
  every task of the renderer's main thread (script, style, layout, paint, collecting garbage), summed from one frame's
  beginning to the next one's. A page cannot measure itself so: requestAnimationFrame sees scripts only, and
  long-animation-frame tells of nothing under 50 ms. `work` is the CPU time that the thread used; `passed` is what the
  clock says of the same tasks, which holds the time too in which it waited for the compositor or was not let run.
* What is left in memory after each of many such answers, each in a chat of its own? V8's heap after a forced collection
  and the number of DOM nodes, over the DevTools protocol.

Nothing here asserts a figure. The browser paints without a GPU here, and shares this machine's cores with the node, its
store and the provider: `passed` says more about that than about the page.
"""

import argparse
import asyncio
import itertools
import json
import re
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from playwright.async_api import Browser, CDPSession, async_playwright, expect

from tests.browser.provider import end
from tests.browser.tab import Tab
from tests.support.browser import launch
from tests.support.processes import NodeProcess
from tests.support.provider_server import Pause, Piece, ProviderServer, Received, Reply, chunk, sse

PATIENCE_S = 180
CATEGORIES = (
    "disabled-by-default-devtools.timeline",
    "disabled-by-default-devtools.timeline.frame",
    "devtools.timeline",
)
FRAME = "BeginMainThreadFrame"
TASK = "RunTask"

CHAPTER = """## Chapter {number}

It begins *softly* with **a few words** of `code` and a [link](https://example.invalid/{number}), and goes on for as
long as it takes to fill a line or two with things that a model may well say.

1. First one thing,
2. then another,
   - with something below it

> And a word of somebody else.

```py
def chapter_{number}(words: list[str]) -> str:
    return " ".join(word for word in words if word)  # {number}
```

| number | square |
|---|---|
| {number} | {square} |

"""


def markdown_deltas(count: int) -> list[str]:
    """A long text in pieces of a word each."""
    chapters = (CHAPTER.format(number=number, square=number * number) for number in itertools.count(1))
    words = itertools.chain.from_iterable([*re.findall(r"\s*\S+", chapter), "\n\n"] for chapter in chapters)
    return list(itertools.islice(words, count))


def reply_of(texts: Sequence[str], rate_per_s: int) -> Reply:
    """`texts` at about this rate, a few at once where single ones would come too fast for a timer."""
    at_once = max(1, rate_per_s // 500)
    pieces: list[Piece] = []
    for start in range(0, len(texts), at_once):
        pieces.append(b"".join(sse(chunk(text)) for text in texts[start : start + at_once]))
        pieces.append(Pause(1000 * at_once / rate_per_s))
    return Reply([*pieces, *end(len(texts))])


@dataclass
class Frame:
    """The main thread's tasks from the beginning of a frame to the next one's, in ms."""

    begins: float
    work: float = 0.0
    passed: float = 0.0


def frames_of(trace: bytes) -> list[Frame]:
    """The frames of the page's renderer; the last one, which has no end, is left out."""
    events: list[dict[str, Any]] = json.loads(trace)["traceEvents"]
    frames: dict[tuple[int, int], list[Frame]] = {
        (event["pid"], event["tid"]): []
        for event in events
        if event["name"] == "thread_name" and event["args"]["name"] == "CrRendererMain"
    }
    events = [event for event in events if (event["pid"], event["tid"]) in frames and "ts" in event]
    events.sort(key=lambda event: event["ts"])
    for event in events:
        thread = frames[event["pid"], event["tid"]]
        if event["name"] == FRAME:
            thread.append(Frame(event["ts"]))
        elif event["name"] == TASK and thread:
            thread[-1].work += event.get("tdur", 0) / 1000
            thread[-1].passed += event.get("dur", 0) / 1000
    return max(frames.values(), key=len)[:-1]


def percentile(values: Iterable[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


class Wire:
    """What comes in on the tab's WebSockets. The page is left alone meanwhile: whoever asks it costs it a frame."""

    def __init__(self, tab: Tab) -> None:
        self.deltas = 0
        self._ended = asyncio.Event()
        for socket in tab.sockets:
            socket.on("framereceived", self._received)

    async def ended(self) -> None:
        """The next turn's end has come."""
        async with asyncio.timeout(PATIENCE_S):
            await self._ended.wait()
        self._ended.clear()

    def _received(self, payload: str | bytes) -> None:
        kind = json.loads(payload)["type"]
        self.deltas += kind == "turn.delta"
        if kind in ("turn.done", "turn.error"):
            self._ended.set()


async def ask(tab: Tab, wire: Wire, question: str) -> None:
    await tab.message.fill(question)
    await tab.button("Send").click()
    await wire.ended()
    await expect(tab.turns.last.locator(".usage")).to_contain_text("✓ proved")


async def frame_work(browser: Browser, tab: Tab, wire: Wire, deltas: int, rate: int) -> None:
    await browser.start_tracing(page=tab.page, categories=list(CATEGORIES))
    await ask(tab, wire, "stream")
    frames = frames_of(await browser.stop_tracing())
    print(f"{deltas} deltas of Markdown at {rate} a second, which came as {wire.deltas} frames of the wire:")
    print(f"  main thread, of {len(frames)} frames:")
    for name, values in (("work", [frame.work for frame in frames]), ("passed", [frame.passed for frame in frames])):
        print(
            f"  {name:>8} a frame: p50 {percentile(values, 0.5):.1f} ms, p95 {percentile(values, 0.95):.1f} ms, "
            f"p99 {percentile(values, 0.99):.1f} ms, most {max(values):.1f} ms",
            flush=True,
        )


async def heap(devtools: CDPSession) -> tuple[float, int]:
    """Used V8 heap in MB and DOM nodes, after a collection."""
    await devtools.send("HeapProfiler.collectGarbage")
    used = await devtools.send("Runtime.getHeapUsage")
    counters = await devtools.send("Memory.getDOMCounters")
    return used["usedSize"] / 1e6, counters["nodes"]


async def memory(tab: Tab, wire: Wire, answers: int) -> None:
    devtools = await tab.page.context.new_cdp_session(tab.page)
    await devtools.send("HeapProfiler.enable")
    print("heap after each answer, each in a chat of its own (MB, DOM nodes):")
    for number in range(1, answers + 1):
        await tab.button("New chat").click()
        await expect(tab.turns).to_have_count(0)
        await ask(tab, wire, "pour")
        used, nodes = await heap(devtools)
        print(f"  {number:3}  {used:6.1f} MB  {nodes:7}", flush=True)


async def run(answers: int, deltas: int, rate: int) -> None:
    texts = markdown_deltas(deltas)

    def answer(request: Received) -> Reply:
        return reply_of(texts, rate if request.body["messages"][-1]["content"] == "stream" else 10 * rate)

    async with AsyncExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="tw-page-"))
        provider = await stack.enter_async_context(ProviderServer(answer))
        settings = {"OPENAI_API_KEY": "test-key", "OPENAI_BASE_URL": provider.base_url, "TURNWIRE_MODEL": "bench"}
        node = await stack.enter_async_context(
            NodeProcess.started(Path(folder), {**settings, "TURNWIRE_LOG_LEVEL": "warning", "TURNWIRE_DRAIN_MS": "0"})
        )
        playwright = await stack.enter_async_context(async_playwright())
        browser = await launch(playwright)
        stack.push_async_callback(browser.close)
        context = await browser.new_context()
        tab = Tab(await context.new_page(), [])
        await tab.visit(node.http_url)
        print(f"{browser.version} without a window, {len(''.join(texts)) / 1000:.0f} kB an answer")
        wire = Wire(tab)
        await frame_work(browser, tab, wire, deltas, rate)
        if answers:
            await memory(tab, wire, answers)
        await context.close()


def main() -> None:
    parser = argparse.ArgumentParser(description="What an answer costs the page.")
    parser.add_argument("--answers", type=int, default=50, help="for the heap; 0 leaves it out")
    parser.add_argument("--deltas", type=int, default=10_000)
    parser.add_argument("--rate", type=int, default=400, help="deltas a second while frames are measured")
    options = parser.parse_args()
    asyncio.run(run(options.answers, options.deltas, options.rate))


if __name__ == "__main__":
    main()
