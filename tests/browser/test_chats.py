"""The list of chats: new ones, titles, deleting, and what a second tab sees of it."""

import pytest
from playwright.async_api import expect

from tests.browser.conftest import NewTab
from tests.browser.provider import Script
from tests.browser.tab import Tab
from tests.support.processes import NodeProcess
from turnwire.chat.connection import ChatConnection

pytestmark = pytest.mark.asyncio(loop_scope="session")

UNREHEARSED = "This was not rehearsed."


async def test_chats_are_listed_by_how_they_begin_and_can_be_gone_back_to(tab: Tab) -> None:
    await tab.say("The first of chats")
    await tab.ends("The first of chats", UNREHEARSED)
    first = tab.session
    await tab.has_chat("The first of chats")
    await tab.button("New chat").click()
    await expect(tab.turns).to_have_count(0)
    assert tab.session != first
    await tab.say("The second of chats")
    await tab.ends("The second of chats", UNREHEARSED)
    await tab.has_chat("The second of chats")
    await tab.chat("The first of chats").click()
    await tab.ends("The first of chats", UNREHEARSED)
    assert tab.session == first
    await expect(tab.turns).to_have_count(1)
    await tab.page.go_back()
    await tab.ends("The second of chats", UNREHEARSED)


async def test_a_chat_is_renamed_for_every_tab(tab: Tab) -> None:
    await tab.say("A chat to rename")
    await tab.ends("A chat to rename", UNREHEARSED)
    other = await tab.another()
    await other.visit(tab.page.url)
    await other.has_chat("A chat to rename")
    await tab.to_front()

    await tab.option("A chat to rename", "Rename")
    title = tab.page.get_by_role("textbox", name="Title")
    await expect(title).to_be_focused()
    await title.fill("Never mind")
    await title.press("Escape")
    await tab.has_chat("A chat to rename")

    await tab.option("A chat to rename", "Rename")
    await title.fill("Renamed <b>for</b> all")
    await title.press("Enter")
    for one in (tab, other):
        await one.has_chat("Renamed <b>for</b> all")
        await expect(one.chat("A chat to rename")).to_have_count(0)
    await tab.page.reload()
    await tab.has_chat("Renamed <b>for</b> all")


async def test_a_deleted_chat_is_gone_for_every_tab(tab: Tab) -> None:
    await tab.say("A chat to delete")
    await tab.ends("A chat to delete", UNREHEARSED)
    deleted = tab.session
    other = await tab.another()
    await other.visit(tab.page.url)
    await other.has_chat("A chat to delete")
    await tab.to_front()

    asking = tab.page.get_by_role("dialog")
    await tab.option("A chat to delete", "Delete")
    await asking.get_by_role("button", name="Cancel").click()
    await expect(asking).to_be_hidden()
    await tab.has_chat("A chat to delete")

    await tab.option("A chat to delete", "Delete")
    await asking.get_by_role("button", name="Delete").click()
    for one in (tab, other):
        await expect(one.chat("A chat to delete")).to_have_count(0)
    await expect(tab.turns).to_have_count(0)
    assert tab.session != deleted
    await tab.page.reload()
    await tab.is_live()
    await expect(tab.chat("A chat to delete")).to_have_count(0)
    await tab.say("Life goes on")
    await tab.ends("Life goes on", UNREHEARSED)


async def test_earlier_messages_of_a_long_chat_are_loaded_when_asked_for(
    new_tab: NewTab, node: NodeProcess, script: Script
) -> None:
    async with ChatConnection(node.url) as chat:
        for number in range(25):
            script.says(f"Question {number}", f"Answer {number}.")
            await (await chat.send("s_long", f"Question {number}")).done()
    tab = await new_tab()
    await tab.visit(f"{node.http_url}/#s_long")
    await tab.ends("Question 24", "Answer 24.")
    await expect(tab.turn("Question 0")).to_have_count(0)
    await tab.button("Load earlier messages").click()
    await tab.ends("Question 0", "Answer 0.")
    await expect(tab.turns.locator(".question p")).to_have_text([f"Question {number}" for number in range(25)])
    await expect(tab.button("Load earlier messages")).to_be_hidden()
