"""The page as people use it: ask, watch, stop, ask otherwise, look on from a second tab."""

import asyncio
import re

import pytest
from playwright.async_api import expect

from tests.browser.provider import Script, deltas, end, reasons, says, words
from tests.browser.tab import Tab
from tests.support.provider_server import Gate, ProviderServer, Reply
from tests.support.waiting import PATIENCE_S

pytestmark = pytest.mark.asyncio(loop_scope="session")

# The markup of an answer without what only groups it for the browser's sake.
MARKUP = """(answer) => {
    const copy = answer.cloneNode(true);
    for (const group of copy.querySelectorAll(".chunk, .run")) group.replaceWith(...group.childNodes);
    return copy.innerHTML;
}"""


async def test_an_answer_streams_in_and_is_proved_when_it_ends(tab: Tab, script: Script) -> None:
    held, first = asyncio.Event(), words(20)
    script.plays("Stream it", Reply([*deltas(first), Gate(held), *deltas(["**the end**"]), *end(21)]))
    await tab.say("Stream it")
    await expect(tab.answer("Stream it")).to_have_text("".join(first).strip())
    await expect(tab.turn("Stream it")).to_have_attribute("data-status", "running")
    held.set()
    await tab.ends("Stream it", "".join(first) + "the end")
    await expect(tab.answer("Stream it").locator("strong")).to_have_text("the end")
    await tab.is_proved("Stream it")
    await expect(tab.turn("Stream it").locator(".usage")).to_contain_text("21")
    await expect(tab.message).to_be_focused()


async def test_stop_keeps_what_was_said_and_closes_the_providers_socket(
    tab: Tab, script: Script, provider: ProviderServer
) -> None:
    number, said = len(provider.requests), words(5)
    script.plays("Stop me", says(said, held=asyncio.Event()))
    await tab.say("Stop me")
    await expect(tab.answer("Stop me")).to_have_text("".join(said).strip())
    request = await provider.request(number)
    assert not request.closed.is_set()
    await tab.button("Stop").click()
    await asyncio.wait_for(request.closed.wait(), PATIENCE_S)
    await tab.ends("Stop me", "".join(said), "cancelled")
    assert not request.answered
    await expect(tab.button("Stop")).to_be_hidden()
    await expect(tab.button("Send")).to_be_visible()


async def test_a_reload_in_the_middle_of_an_answer_goes_on_with_it(tab: Tab, script: Script) -> None:
    held, first, rest = asyncio.Event(), words(30), words(30, "v")
    script.plays("Reload me", Reply([*deltas(first), Gate(held), *deltas(rest), *end(60)]))
    await tab.say("Reload me")
    await expect(tab.answer("Reload me")).to_contain_text("w29")
    session = tab.session
    assert re.fullmatch(r"s_[A-Za-z0-9_-]+", session)
    await tab.page.reload()
    assert tab.session == session
    await expect(tab.answer("Reload me")).to_have_text("".join(first).strip())
    held.set()
    await tab.ends("Reload me", "".join(first + rest))
    await tab.is_proved("Reload me")


async def test_a_second_tab_shows_the_answer_live_and_can_stop_it(tab: Tab, script: Script) -> None:
    held, first, more = asyncio.Event(), words(5), words(5, "v")
    script.plays("Two of us", Reply([*deltas(first), Gate(held), *deltas(more)], ending="stall"))
    await tab.say("Two of us")
    await expect(tab.answer("Two of us")).to_contain_text("w4")
    other = await tab.another()
    await other.visit(tab.page.url)
    await expect(other.answer("Two of us")).to_have_text("".join(first).strip())
    held.set()
    for one in (tab, other):
        await expect(one.answer("Two of us")).to_have_text("".join(first + more).strip())
    await other.button("Stop").click()
    for one in (tab, other):
        await one.ends("Two of us", "".join(first + more), "cancelled")
    await other.say("And I?")
    for one in (tab, other):
        await one.ends("And I?", "This was not rehearsed.")
        await expect(one.turns).to_have_count(2)


async def test_an_edited_message_and_a_regenerated_answer_are_branches_to_go_back_from(
    tab: Tab, script: Script
) -> None:
    script.plays("Which way?", says(["Left."]), says(["Right."]))
    script.says("Which way now?", "Straight on.")
    await tab.say("Which way?")
    await tab.ends("Which way?", "Left.")

    await tab.turn("Which way?").get_by_role("button", name="Regenerate").click()
    await tab.ends("Which way?", "Right.")
    turn = tab.turns.first
    await expect(turn).to_contain_text("2 / 2")

    await turn.get_by_role("button", name="Edit").click()
    editing = tab.page.get_by_role("textbox", name="Edit message")
    await expect(editing).to_have_value("Which way?")
    await editing.fill("Which way now?")
    await tab.button("Send edit").click()
    await tab.ends("Which way now?", "Straight on.")
    await expect(turn).to_contain_text("3 / 3")
    await expect(tab.turns).to_have_count(1)

    for place, answer in (("2 / 3", "Right."), ("1 / 3", "Left.")):
        await turn.get_by_role("button", name="Previous version").click()
        await expect(turn).to_contain_text(place)
        await tab.ends("Which way?", answer)
    await turn.get_by_role("button", name="Next version").click()
    await tab.ends("Which way?", "Right.")

    # What is said next follows the branch that is shown.
    await tab.say("Then on from here")
    await expect(tab.turns).to_have_count(2)
    await tab.ends("Then on from here", "This was not rehearsed.")


async def test_an_edit_can_be_left(tab: Tab) -> None:
    await tab.say("As it was")
    await tab.ends("As it was", "This was not rehearsed.")
    await tab.turn("As it was").get_by_role("button", name="Edit").click()
    await tab.page.get_by_role("textbox", name="Edit message").fill("Something else")
    await tab.button("Cancel").click()
    await expect(tab.turn("As it was")).to_have_count(1)
    await expect(tab.page.get_by_role("textbox", name="Edit message")).to_have_count(0)


async def test_while_busy_a_message_can_wait_its_turn(tab: Tab, script: Script) -> None:
    held = asyncio.Event()
    script.plays("First", says(["one"], held=held))
    script.says("Second", "two")
    await tab.say("First")
    await expect(tab.answer("First")).to_have_text("one")
    await tab.message.fill("Second")
    await tab.button("Queue").click()
    await expect(tab.turn("Second")).to_have_attribute("data-status", "queued")
    held.set()
    await tab.ends("First", "one")
    await tab.ends("Second", "two")


async def test_while_busy_a_message_can_interrupt(tab: Tab, script: Script, provider: ProviderServer) -> None:
    number = len(provider.requests)
    script.plays("Long story", says(["Once upon"], held=asyncio.Event()))
    script.says("Make it short", "The end.")
    await tab.say("Long story")
    await expect(tab.answer("Long story")).to_have_text("Once upon")
    await tab.message.fill("Make it short")
    await tab.button("Interrupt").click()
    await tab.ends("Long story", "Once upon", "cancelled")
    await tab.ends("Make it short", "The end.")
    await asyncio.wait_for((await provider.request(number)).closed.wait(), PATIENCE_S)


async def test_reasoning_is_folded_away_and_can_be_read(tab: Tab, script: Script) -> None:
    script.plays("Think", Reply([*reasons("Hm, ", "let me see."), *deltas(["So."]), *end(3)]))
    await tab.say("Think")
    await tab.ends("Think", "So.")
    thought = tab.turn("Think").locator("details", has=tab.page.locator("summary", has_text="Reasoning"))
    await expect(thought.get_by_text("Hm, let me see.")).to_be_hidden()
    await thought.locator("summary").click()
    await expect(thought.get_by_text("Hm, let me see.")).to_be_visible()


async def test_an_answer_and_a_block_of_code_can_be_copied(tab: Tab, script: Script) -> None:
    await tab.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    script.says("Code", "Like *this*:\n\n```py\nprint(", '"<b>")\n', "```\n")
    await tab.say("Code")
    await expect(tab.turn("Code")).to_have_attribute("data-status", "done")
    await expect(tab.answer("Code").locator("pre code")).to_have_text('print("<b>")\n')
    for button, text in (
        ("Copy code", 'print("<b>")'),
        ("Copy answer", 'Like *this*:\n\n```py\nprint("<b>")\n```'),
    ):
        await tab.turn("Code").get_by_role("button", name=button).click()
        await tab.page.wait_for_function(
            "(text) => navigator.clipboard.readText().then((t) => t.trim() === text)", arg=text
        )


async def test_an_answer_that_came_in_pieces_looks_like_the_same_one_read_as_a_whole(tab: Tab, script: Script) -> None:
    plain = "".join(f"a plain sentence number {number}, and so on. " for number in range(150))
    items = "".join(f"{number}. item *{number}*\n" for number in range(3, 40))
    rows = "".join(f"| {number} | **{number * number}** |\n" for number in range(40))
    code = "".join(f"line({number})\n" for number in range(300))
    answer = (
        f"## {plain[:40]}\n\n{plain}\n\n{items}\n| n | n² |\n|---|--:|\n{rows}\n```py\n{code}```\n\n"
        "[end][e]\n\n[e]: https://example.invalid"
    )
    pieces = [answer[at : at + 7] for at in range(0, len(answer), 7)]
    script.plays("In pieces", says(pieces, every_ms=0.2))
    await tab.say("In pieces")
    await tab.is_proved("In pieces")
    await expect(tab.answer("In pieces").get_by_role("link", name="end")).to_have_count(1)
    streamed = await tab.answer("In pieces").evaluate(MARKUP)
    await tab.page.reload()
    await tab.is_proved("In pieces")
    await expect(tab.answer("In pieces").get_by_role("link", name="end")).to_have_count(1)
    assert await tab.answer("In pieces").evaluate(MARKUP) == streamed
    assert streamed.count("<li>") == 37 and streamed.count("<tr>") == 41 and '<ol start="3">' in streamed


async def test_an_error_says_what_to_do_and_the_chat_goes_on(tab: Tab, script: Script) -> None:
    script.plays("Break", Reply(deltas(["So far "]), ending="cut"))
    await tab.say("Break")
    await tab.ends("Break", "So far", "error")
    error = tab.turn("Break").locator(".error")
    await expect(error).to_have_count(1)
    await expect(error).to_have_text(re.compile(r"\w.*\."))
    await tab.say("Go on")
    await tab.ends("Go on", "This was not rehearsed.")


async def test_a_model_can_be_chosen(tab: Tab) -> None:
    models = tab.page.get_by_role("combobox", name="Model")
    await expect(models.locator("option")).not_to_have_count(0)
    await expect(models).to_have_value("test-model")
