"""Pictures of the page in its states: `python -m tests.browser.screenshots FOLDER`.

Wide and narrow, light and dark: what a newcomer sees, an empty chat, one that streams, one that failed, and with the
wire inspector open. `playground.png` is the one of the README. The pictures are for eyes: no test compares them.
"""

import argparse
import asyncio
import itertools
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from playwright.async_api import Browser, async_playwright, expect

from tests.browser.provider import Script, deltas, reasons, says
from tests.browser.tab import Tab
from tests.support.browser import launch
from tests.support.processes import NodeProcess
from tests.support.provider_server import Gate, Pause, ProviderServer, Reply

Scheme = Literal["light", "dark"]
SCHEMES: tuple[Scheme, ...] = ("light", "dark")
SIZES = {"wide": (1280, 800), "narrow": (390, 844)}

EARLIER = {
    "Three things to see in Lisbon": "**Belém**, *Alfama*, and the Sunday market under the bridge.",
    "Rename every file in a folder": '```sh\nfor file in *.jpeg; do mv "$file" "${file%.jpeg}.jpg"; done\n```',
    "A toast for a small wedding": "To the two who know that the best answers take their time.",
}
QUESTION = "Why is the sky blue?"
THOUGHT = "They ask about scattering. Keep it short, with the formula and a bit of code."
ANSWER = (
    "Sunlight is a mix of colours, and air **scatters** the short wavelengths most: the strength grows with "
    "1/λ⁴. So blue light reaches you from *every* direction.\n\n"
    "| colour | wavelength | scattered |\n|---|---|---|\n| red | 700 nm | 1.0 × |\n| blue | 450 nm | 5.9 × |\n\n"
)
AFTER_THE_CUT = (
    "```py\ndef scattered(nm: float) -> float:\n    return (700 / nm) ** 4\n```\n\n"
    "At **sunset** the light comes a longer way through the air, and "
)
LAST_WORDS = "a longer way through the air, and"
FAILING = "And on Mars?"

# The end of what grows is followed in steps: a picture waits for the last one.
AT_THE_END = """() => [...document.querySelectorAll("#scroller, .frames")].every(
    ({ scrollTop, clientHeight, scrollHeight }) => scrollHeight - clientHeight - scrollTop < 2)"""


class Play(Script):
    """What is said in each picture. The answer goes on when its first half is there and the plug was pulled."""

    def __init__(self) -> None:
        super().__init__()
        self.cut = asyncio.Event()
        for question, answer in EARLIER.items():
            self.plays(question, says(_pieces(answer)))
        # The rest comes at once, while the connection is away: so the pictures show how it is replayed.
        before, after = deltas(_pieces(ANSWER), every_ms=2), deltas(_pieces(AFTER_THE_CUT))
        self.plays(QUESTION, Reply([*reasons(THOUGHT), *before, Gate(self.cut), *after], ending="stall"))
        self.plays(FAILING, Reply([*deltas(["There it is the other way round: "]), Pause(50)], ending="cut"))


def _pieces(text: str) -> Sequence[str]:
    return [text[at : at + 6] for at in range(0, len(text), 6)]


async def shoot(browser: Browser, url: str, demo_url: str, play: Play, folder: Path, size: str, scheme: Scheme) -> None:
    width, height = SIZES[size]
    context = await browser.new_context(
        viewport={"width": width, "height": height}, color_scheme=scheme, device_scale_factor=2, reduced_motion="reduce"
    )
    tab = Tab(await context.new_page(), [])

    async def shot(state: str) -> None:
        await tab.picture(folder / f"{state}-{size}-{scheme}.png")

    await tab.visit(demo_url)
    await expect(tab.button("demo/slow")).to_be_attached()
    await shot("newcomer")
    await tab.visit(url)
    await shot("empty")
    for number, earlier in enumerate(EARLIER):
        await tab.say(earlier)
        await tab.is_proved(earlier)
        # By its address: on a narrow screen the list of chats is behind a button.
        await tab.visit(f"{url}/#s_{number}")
    await tab.say(QUESTION)
    await expect(tab.answer(QUESTION)).to_contain_text("5.9 ×")
    await tab.button("Pull the plug").click()
    play.cut.set()
    await expect(tab.answer(QUESTION)).to_contain_text(LAST_WORDS)
    await tab.is_live()
    await tab.page.wait_for_function(AT_THE_END)
    await shot("streaming")
    await tab.button("Inspector").click()
    await expect(tab.frames.last).to_be_in_viewport()
    await tab.page.wait_for_function(AT_THE_END)
    await shot("inspector")
    if (size, scheme) == ("wide", "light"):
        await tab.picture(folder / "playground.png")
    await tab.button("Inspector").click()
    await tab.button("Stop").click()
    await expect(tab.turn(QUESTION)).to_have_attribute("data-status", "cancelled")
    await tab.say(FAILING)
    await expect(tab.turn(FAILING)).to_have_attribute("data-status", "error")
    await tab.page.wait_for_function(AT_THE_END)
    await shot("error")
    await context.close()
    if tab.faults:
        raise RuntimeError(f"the console said: {tab.faults}")


async def run(folder: Path) -> None:
    async with async_playwright() as playwright:
        browser = await launch(playwright)
        for size, scheme in itertools.product(SIZES, SCHEMES):
            play = Play()
            # A server of its own, so that each list of chats begins empty.
            with tempfile.TemporaryDirectory(prefix="tw-shots-") as data:
                async with (
                    ProviderServer(play.answer) as provider,
                    NodeProcess.started(Path(data) / "demo", {"TURNWIRE_DRAIN_MS": "0"}) as demo,
                ):
                    settings = {
                        "OPENAI_API_KEY": "test-key",
                        "OPENAI_BASE_URL": provider.base_url,
                        "TURNWIRE_MODEL": "a-model",
                        "TURNWIRE_DRAIN_MS": "0",
                    }
                    async with NodeProcess.started(Path(data) / "node", settings) as node:
                        await shoot(browser, node.http_url, demo.http_url, play, folder, size, scheme)
        await browser.close()


def main() -> None:
    parser = argparse.ArgumentParser(description="Pictures of the page in its states.")
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    asyncio.run(run(folder))
    for picture in sorted(folder.glob("*.png")):
        print(picture)


if __name__ == "__main__":
    main()
