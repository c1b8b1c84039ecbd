"""The first minute of somebody who has no model and has read nothing: the demo models, from the empty chat on."""

import re
from collections.abc import AsyncGenerator

import pytest
import pytest_asyncio
from playwright.async_api import expect

from tests.browser.conftest import NewTab
from tests.browser.tab import Tab
from tests.support.processes import NodeProcess
from turnwire.core.entries import Message
from turnwire.providers.demo import demo_answer

pytestmark = pytest.mark.asyncio(loop_scope="session")

PROMPT = "Why does an answer survive a reload?"
WORD = re.compile(r"\w{4,}")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def demo(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[NodeProcess]:
    """A node as `make serve` starts it: it knows no provider."""
    async with NodeProcess.started(tmp_path_factory.mktemp("demo"), {"TURNWIRE_DRAIN_MS": "0"}) as started:
        yield started


@pytest_asyncio.fixture(loop_scope="session")
async def tab(new_tab: NewTab, demo: NodeProcess) -> Tab:
    made = await new_tab()
    await made.visit(demo.http_url)
    return made


async def test_a_prompt_is_answered_slowly_enough_to_pull_the_plug_reload_and_look_on(tab: Tab) -> None:
    await tab.button(PROMPT).click()
    await expect(tab.page.get_by_role("combobox", name="Model")).to_have_value("demo/slow")
    await expect(tab.answer(PROMPT)).to_have_text(WORD)
    await tab.button("Pull the plug").click()
    await expect(tab.page.locator("#healing")).to_have_text(re.compile(r"^Cut at seq \d+ · back in .* · replayed"))
    await tab.page.reload()
    other = await tab.another()
    await other.visit(tab.page.url)
    for one in (tab, other):
        await expect(one.turn(PROMPT)).to_have_attribute("data-status", "running")
    said = demo_answer([Message("user", ({"type": "text", "text": PROMPT},))])
    for one in (tab, other):
        await expect(one.turn(PROMPT)).to_have_attribute("data-status", "done", timeout=60_000)
        await one.is_proved(PROMPT)
        await expect(one.answer(PROMPT)).to_contain_text(said.splitlines()[0])
        await expect(one.answer(PROMPT).locator("li")).to_have_count(3)


async def test_a_tool_call_waits_for_an_answer_and_goes_on_with_it(tab: Tab) -> None:
    await tab.button("demo/tool").click()
    await expect(tab.message).to_be_focused()
    await tab.say("What time is it?")
    asked = tab.turn("What time is it?").get_by_role("region", name="The answer waits for you")
    await expect(tab.turn("What time is it?")).to_have_attribute("data-status", "parked")
    result = asked.get_by_role("textbox", name="Result (JSON)")
    await result.fill("half past ten")
    await asked.get_by_role("button", name="Answer").click()
    await expect(asked.get_by_role("alert")).to_contain_text("not JSON")
    await result.fill('"half past ten"')
    await asked.get_by_role("button", name="Answer").click()
    await expect(tab.turn("What time is it?")).to_have_attribute("data-status", "done")
    await expect(tab.answer("What time is it?").last).to_contain_text("half past ten")
    await expect(asked).to_have_count(0)
    await tab.is_proved("What time is it?")


async def test_a_failure_before_the_first_byte_is_retried_in_sight_and_says_what_to_do(tab: Tab) -> None:
    await tab.button("demo/error-before").click()
    await tab.say("Fail")
    status = tab.turn("Fail").locator(".status")
    await expect(status).to_contain_text(re.compile(r"Attempt \d in"))
    await expect(tab.turn("Fail")).to_have_attribute("data-status", "error", timeout=60_000)
    await expect(tab.turn("Fail").locator(".error")).to_contain_text("“Regenerate” asks again.")
    await tab.page.get_by_role("combobox", name="Model").select_option("demo")
    await tab.turn("Fail").get_by_role("button", name="Regenerate").click()
    await expect(tab.turns.last).to_contain_text("2 / 2")
    await expect(tab.turn("Fail")).to_have_attribute("data-status", "done")
    await tab.is_proved("Fail")
