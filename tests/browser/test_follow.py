"""Whose reading the page follows: the answer's end, until the person scrolls away from it, and again when asked to."""

import asyncio

import pytest
from playwright.async_api import Locator, expect

from tests.browser.provider import Script, deltas, end
from tests.browser.tab import Tab
from tests.support.provider_server import Gate, Reply

pytestmark = pytest.mark.asyncio(loop_scope="session")


def lines(first: int, count: int) -> list[str]:
    """Paragraphs, each higher than nothing: a hundred of them fill several screens."""
    return [f"line {number}\n\n" for number in range(first, first + count)]


async def test_the_end_is_followed_until_the_person_scrolls_away_and_again_when_asked_for(
    tab: Tab, script: Script
) -> None:
    more, last = asyncio.Event(), asyncio.Event()
    pieces = [
        *deltas(lines(0, 100)),
        Gate(more),
        *deltas(lines(100, 100)),
        Gate(last),
        *deltas(lines(200, 50)),
        *end(250),
    ]
    script.plays("Go on", Reply(pieces))

    await tab.say("Go on")
    await expect(line(tab, 99)).to_be_in_viewport()

    # A person scrolls back and reads; what comes below does not move them.
    await tab.page.mouse.move(400, 300)
    await tab.page.mouse.wheel(0, -1_500)
    await expect(tab.button("Latest ↓")).to_be_visible()
    await expect(line(tab, 99)).not_to_be_in_viewport()
    before = await top(tab)
    more.set()
    await expect(tab.answer("Go on")).to_contain_text("line 199")
    assert await top(tab) == before
    await expect(tab.button("Latest ↓")).to_be_visible()

    await tab.button("Latest ↓").click()
    await expect(line(tab, 199)).to_be_in_viewport()
    await expect(tab.button("Latest ↓")).to_be_hidden()
    last.set()
    await expect(line(tab, 249)).to_be_in_viewport()


def line(tab: Tab, number: int) -> Locator:
    return tab.page.get_by_text(f"line {number}", exact=True)


async def top(tab: Tab) -> float:
    return float(await tab.evaluate("document.querySelector('#scroller').scrollTop"))
