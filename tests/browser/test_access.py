"""The page without a mouse and without eyes: keys alone, names and contrasts, and what a screen reader is told."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Locator, expect

from tests.browser.conftest import NewTab
from tests.browser.provider import Script, deltas, reasons, says, words
from tests.browser.tab import Tab
from tests.support.processes import NodeProcess
from tests.support.provider_server import Reply

pytestmark = pytest.mark.asyncio(loop_scope="session")

AXE = Path(__file__).resolve().parents[2] / "clients/js/node_modules/axe-core/axe.min.js"
WIDTHS = (1280, 360)
SCHEMES = ("light", "dark")
STOPS_MAX = 60

RICH = (
    "# A title\n\nSome *words* with a [link](https://example.invalid), `code` and\n\n"
    "- one\n- two\n\n> quoted\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n```py\nprint(1)\n```\n"
)
# Keeps each thing that comes into the live region, in the order in which it does.
LISTEN = """
    window.heard = [];
    new MutationObserver((changes) => {
      for (const { target, addedNodes, type } of changes) {
        const inside = target.nodeType === 1 ? target : target.parentElement;
        if (!inside?.closest(".announcer")) continue;
        if (type === "characterData") window.heard.push(target.data);
        for (const node of addedNodes) window.heard.push(node.textContent);
      }
    }).observe(document, { subtree: true, childList: true, characterData: true });
"""


async def tab_to(tab: Tab, target: Locator, key: str = "Tab") -> None:
    """Press Tab until `target` has the focus."""
    for _ in range(STOPS_MAX):
        if await target.evaluate("(element) => element === document.activeElement"):
            return
        await tab.page.keyboard.press(key)
    raise AssertionError(f"{target} cannot be reached with {key}")


async def test_keys_alone_ask_stop_edit_and_choose(tab: Tab, script: Script) -> None:
    keyboard = tab.page.keyboard
    script.plays("By key", says(words(4), held=asyncio.Event()), says(["Again."]))
    await tab_to(tab, tab.message)
    await keyboard.type("By key")
    await keyboard.press("Enter")
    await expect(tab.answer("By key")).to_contain_text("w3")
    await tab_to(tab, tab.button("Stop"))
    await keyboard.press("Enter")
    await tab.ends("By key", "".join(words(4)), "cancelled")

    await tab_to(tab, tab.turn("By key").get_by_role("button", name="Regenerate"), "Shift+Tab")
    await keyboard.press("Enter")
    await tab.ends("By key", "Again.")
    await tab_to(tab, tab.turn("By key").get_by_role("button", name="Previous version"), "Shift+Tab")
    await keyboard.press("Space")
    await tab.ends("By key", "".join(words(4)), "cancelled")

    await tab_to(tab, tab.turn("By key").get_by_role("button", name="Edit"), "Shift+Tab")
    await keyboard.press("Enter")
    await expect(tab.page.get_by_role("textbox", name="Edit message")).to_be_focused()
    await keyboard.press("Escape")
    await expect(tab.page.get_by_role("textbox", name="Edit message")).to_have_count(0)
    # Whoever leaves comes back to where they were, not to the top of the page.
    await expect(tab.turn("By key").get_by_role("button", name="Edit")).to_be_focused()


async def test_the_first_stop_skips_to_the_message_box_and_stays_in_the_chat(tab: Tab) -> None:
    session = tab.session
    await tab_to(tab, tab.page.get_by_role("link", name="Skip to the message box"), "Shift+Tab")
    await tab.page.keyboard.press("Enter")
    await expect(tab.message).to_be_focused()
    assert tab.session == session


async def test_keys_alone_write_lines_rename_and_delete(tab: Tab) -> None:
    keyboard = tab.page.keyboard
    await tab_to(tab, tab.message)
    await keyboard.type("One line")
    await keyboard.press("Shift+Enter")
    await keyboard.type("and another")
    await expect(tab.message).to_have_value("One line\nand another")
    await keyboard.press("Enter")
    await tab.ends("One line and another", "This was not rehearsed.")
    name = (await tab.chats.get_by_role("link").filter(has_text="One line").first.inner_text()).strip()

    options = tab.chats.get_by_role("button", name=f"Options for {name}", exact=True)
    await tab_to(tab, options, "Shift+Tab")
    await keyboard.press("Enter")
    await expect(tab.page.get_by_role("menuitem", name="Rename", exact=True)).to_be_focused()
    await keyboard.press("Escape")
    await expect(tab.page.get_by_role("menuitem", name="Rename", exact=True)).to_be_hidden()
    await expect(options).to_be_focused()
    await keyboard.press("Enter")
    await keyboard.press("ArrowDown")
    await expect(tab.page.get_by_role("menuitem", name="Delete", exact=True)).to_be_focused()
    await keyboard.press("Enter")
    await expect(tab.page.get_by_role("dialog")).to_be_visible()
    await keyboard.press("Escape")
    await expect(tab.page.get_by_role("dialog")).to_be_hidden()
    await tab.has_chat(name)
    await keyboard.press("ArrowUp")
    await expect(tab.page.get_by_role("menuitem", name="Rename", exact=True)).to_be_focused()
    await keyboard.press("End")
    await keyboard.press("Enter")
    await tab_to(tab, tab.page.get_by_role("dialog").get_by_role("button", name="Delete"))
    await keyboard.press("Enter")
    await expect(tab.chat(name)).to_have_count(0)
    await expect(tab.message).to_be_focused()


async def test_a_menu_opens_again_at_once_and_closes_where_it_was_opened(tab: Tab) -> None:
    await tab.say("A chat with a menu")
    await tab.has_chat("A chat with a menu")
    options = tab.chats.get_by_role("button", name="Options for A chat with a menu", exact=True)
    rename = tab.page.get_by_role("menuitem", name="Rename", exact=True)
    await options.click()
    await expect(rename).to_be_focused()
    await options.click()
    await expect(rename).to_have_count(0)
    await expect(options).to_have_attribute("aria-expanded", "false")
    await options.focus()
    # In one task: no event that the browser sends later comes in between.
    await options.evaluate("(button) => { button.click(); button.nextSibling.hidePopover(); button.click(); }")
    await expect(rename).to_be_focused()
    await expect(options).to_have_attribute("aria-expanded", "true")


async def test_on_a_phone_the_chats_are_a_drawer_that_takes_the_focus_and_gives_it_back(
    new_tab: NewTab, node: NodeProcess
) -> None:
    tab = await new_tab()
    await tab.page.set_viewport_size({"width": 390, "height": 800})
    await tab.visit(node.http_url)
    await tab.say("On the phone")
    await tab.ends("On the phone", "This was not rehearsed.")
    toggle = tab.page.get_by_role("button", name="Chats", exact=True)
    await expect(tab.chats).to_be_hidden()

    await toggle.click()
    await expect(tab.button("New chat")).to_be_focused()
    await expect(toggle).to_have_attribute("aria-expanded", "true")
    await expect(tab.page.locator("#main")).to_have_attribute("inert", "")
    await tab.has_chat("On the phone")
    await tab.page.keyboard.press("Escape")
    await expect(tab.chats).to_be_hidden()
    await expect(toggle).to_be_focused()

    await toggle.click()
    await tab.option("On the phone", "Delete")
    await tab.page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
    await expect(tab.chats).to_be_visible()
    await tab.button("New chat").click()
    await expect(tab.chats).to_be_hidden()
    await expect(tab.message).to_be_focused()

    # A chat that is not on the page goes, and the list stays.
    await toggle.click()
    await tab.option("On the phone", "Delete")
    await tab.page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    await expect(tab.chat("On the phone")).to_have_count(0)
    await expect(tab.chats.locator(":focus")).to_have_count(1)
    await tab.page.keyboard.press("Escape")
    await expect(tab.chats).to_be_hidden()


async def test_a_screen_reader_is_told_of_each_answer_once_and_when_it_is_whole(
    new_tab: NewTab, node: NodeProcess, script: Script
) -> None:
    tab = await new_tab()
    await tab.page.add_init_script(LISTEN)
    await tab.visit(node.http_url)
    region = tab.page.locator(".announcer")
    await expect(region).to_have_attribute("aria-live", "polite")

    async def heard(text: str) -> int:
        return sum(text in said for said in await tab.evaluate("window.heard"))

    for question, name in (("Tell", "t"), ("Tell more", "m")):
        said = words(30, name)
        script.plays(question, says(said, every_ms=5))
        await tab.say(question)
        await tab.ends(question, "".join(said))
        await expect(region).to_contain_text(f"{name}29")
        assert await heard(f"{name}0 ") == 1
    assert await heard("t0 ") == 1
    # What is read back after a reload was told before.
    await tab.page.reload()
    await tab.ends("Tell more", "".join(words(30, "m")))
    await tab.is_proved("Tell more")
    assert await heard("m29") == 0


async def is_accessible(tab: Tab, state: str) -> None:
    """No serious or critical fault by axe-core, at each width and in each scheme."""
    assert AXE.exists(), "axe-core is not installed: run `make client-test` once"
    for width in WIDTHS:
        await tab.page.set_viewport_size({"width": width, "height": 800})
        for scheme in SCHEMES:
            await tab.page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
            await tab.evaluate(AXE.read_text(encoding="utf-8"))
            result: dict[str, Any] = await tab.evaluate("axe.run({ resultTypes: ['violations'] })")
            found = [
                f"{fault['impact']} {fault['id']}: {[node['html'] for node in fault['nodes']]}"
                for fault in result["violations"]
                if fault["impact"] in ("serious", "critical")
            ]
            assert found == [], f"{state}, {scheme}, {width} px wide"


async def test_axe_finds_no_serious_fault_in_an_empty_chat(tab: Tab) -> None:
    await tab.button("Inspector").click()
    await is_accessible(tab, "empty")


async def test_axe_finds_no_serious_fault_while_an_answer_streams(tab: Tab, script: Script) -> None:
    held = asyncio.Event()
    script.plays("Rich", Reply([*reasons("Let me see."), *deltas([RICH])], ending="stall"))
    await tab.say("Rich")
    await expect(tab.answer("Rich").locator("table")).to_be_visible()
    await tab.message.fill("Then this")
    await is_accessible(tab, "streaming")
    held.set()


async def test_axe_finds_no_serious_fault_when_an_answer_failed(tab: Tab, script: Script) -> None:
    script.plays("Fail", Reply(deltas(["So far "]), ending="cut"))
    script.plays("Fine", says([RICH]))
    await tab.say("Fine")
    await tab.is_proved("Fine")
    await tab.say("Fail")
    await tab.ends("Fail", "So far", "error")
    await is_accessible(tab, "error")


@pytest.mark.parametrize("width", [320, 768, 1920])
async def test_nothing_is_cut_off_at_any_width(tab: Tab, script: Script, width: int) -> None:
    script.says(
        "Wide", "```\n", "x" * 400, "\n```\n\n", "y" * 300, "\n\n", "| a | b |\n|---|---|\n", f"| {'z' * 200} | 2 |"
    )
    await tab.say("Wide")
    await tab.is_proved("Wide")
    await tab.page.set_viewport_size({"width": width, "height": 700})
    await expect(tab.message).to_be_in_viewport()
    await expect(tab.button("Send")).to_be_in_viewport(ratio=1)
    assert await tab.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0
