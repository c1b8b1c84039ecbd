"""The wire inspector: every frame as it passes, in both directions."""

import json

import pytest
from playwright.async_api import expect

from tests.browser.provider import Script
from tests.browser.tab import Tab

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_it_shows_each_frame_of_a_turn_in_the_order_of_the_wire(tab: Tab, script: Script) -> None:
    toggle = tab.button("Inspector")
    await expect(toggle).to_have_attribute("aria-expanded", "false")
    await expect(tab.inspector).to_be_hidden()
    await toggle.click()
    await expect(toggle).to_have_attribute("aria-expanded", "true")
    await tab.button("Clear").click()
    await expect(tab.frames).to_have_count(0)
    script.says("Look", "closely")
    await tab.say("Look")
    await tab.ends("Look", "closely")
    await expect(tab.frames.and_(tab.page.locator("[data-type='turn.done']"))).to_have_count(1)
    rows = await tab.frames.evaluate_all("(rows) => rows.map(({ dataset: { type, direction } }) => [direction, type])")
    order = [("out", "turn.create"), ("in", "turn.accepted"), ("in", "turn.started"), ("in", "turn.delta")]
    places = [rows.index(list(row)) for row in [*order, ("in", "turn.done")]]
    assert sorted(places) == places

    await tab.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    created = tab.frames.and_(tab.page.locator("[data-type='turn.create']"))
    await created.get_by_role("button", name="turn.create").click()
    await expect(created).to_contain_text('"Look"')
    await created.get_by_role("button", name="Copy frame").click()
    await tab.page.wait_for_function(
        "() => navigator.clipboard.readText().then((text) => text.includes('turn.create'))"
    )
    frame = json.loads(await tab.evaluate("navigator.clipboard.readText()"))
    assert (frame["type"], frame["input"]) == ("turn.create", [{"type": "text", "text": "Look"}])


async def test_it_can_be_filtered_paused_and_copied_whole(tab: Tab, script: Script) -> None:
    await tab.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    await tab.button("Inspector").click()
    await tab.say("Before the pause")
    await tab.ends("Before the pause", "This was not rehearsed.")
    done = tab.frames.and_(tab.page.locator("[data-type='turn.done']"))
    await expect(done).to_have_count(1)

    await (
        tab.page.get_by_role("textbox", name="Filter frames")
        .or_(tab.page.get_by_role("searchbox", name="Filter frames"))
        .fill("turn.done")
    )
    await expect(tab.frames.locator("visible=true")).to_have_count(1)
    await tab.page.get_by_label("Filter frames").fill("")

    await tab.button("Pause").click()
    await tab.say("While it rests")
    await tab.ends("While it rests", "This was not rehearsed.")
    await expect(done).to_have_count(1)
    await tab.button("Go on").click()
    await tab.say("And on")
    await tab.ends("And on", "This was not rehearsed.")
    # What passed while it rested was kept for later.
    await expect(done).to_have_count(3)

    await tab.button("Copy frames").click()
    await tab.page.wait_for_function("() => navigator.clipboard.readText().then((text) => text.includes('turn.done'))")
