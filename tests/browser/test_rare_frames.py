"""What the wire may carry and this server seldom says, or not yet: said by a wire that is rewritten on its way."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from playwright.async_api import WebSocketRoute, expect

from tests.browser.conftest import NewTab
from tests.browser.provider import Script
from tests.browser.tab import Tab
from tests.support.processes import NodeProcess

pytestmark = pytest.mark.asyncio(loop_scope="session")

Frame = dict[str, Any]


async def rewritten(
    new_tab: NewTab,
    node: NodeProcess,
    told: Callable[[Frame], list[Frame]],
    said: Callable[[Frame], list[Frame]] = lambda frame: [frame],
) -> Tab:
    """A tab whose page is told `told` of each frame of the server's, and the server `said` of each command."""
    tab = await new_tab()

    def between(page: WebSocketRoute) -> None:
        server = page.connect_to_server()

        def down(text: str | bytes) -> None:
            for frame in told(json.loads(text)):
                page.send(json.dumps(frame))

        def up(text: str | bytes) -> None:
            for frame in said(json.loads(text)):
                server.send(json.dumps(frame))

        server.on_message(down)
        page.on_message(up)

    await tab.page.route_web_socket("**/v1/ws", between)
    await tab.visit(node.http_url)
    return tab


async def test_what_an_answer_cost_stands_under_it(new_tab: NewTab, node: NodeProcess, script: Script) -> None:
    def told(frame: Frame) -> list[Frame]:
        if frame["type"] == "turn.done":
            frame["cost"] = {"amount": "0.00120", "currency": "USD"}
            frame["usage"] |= {"cached_input_tokens": 8}
        return [frame]

    tab = await rewritten(new_tab, node, told)
    script.says("Dear", "one")
    await tab.say("Dear")
    await tab.ends("Dear", "one")
    usage = tab.turn("Dear").locator(".usage")
    await expect(usage).to_contain_text("$0.00120")
    await expect(usage).to_contain_text("12 tokens in (8 cached), 1 out")


@pytest.mark.parametrize("button", ["Approve", "Deny"])
async def test_an_approval_is_asked_for_and_given(new_tab: NewTab, node: NodeProcess, button: str) -> None:
    """The question stands where the answer's first delta was."""
    answers: list[Frame] = []
    asking_at: list[int] = []
    asked = {"request": "r_1", "kind": "approval", "detail": {"name": "send_mail", "to": "everyone <b>"}}

    def told(frame: Frame) -> list[Frame]:
        if frame["type"] == "turn.delta" and not asking_at:
            asking_at.append(frame["seq"])
            place = {name: frame[name] for name in ("session", "turn", "seq")}
            return [{"type": "turn.asked", "at": 1, **place, **asked}]
        # However many pieces the answer comes in.
        return [] if frame["type"] in ("turn.delta", "turn.done") else [frame]

    def said(frame: Frame) -> list[Frame]:
        if frame["type"] != "turn.respond":
            return [frame]
        answers.append(frame)
        return []

    tab = await rewritten(new_tab, node, told, said)
    await tab.message.fill(f"May I? {button}")
    await tab.button("Send").click()
    asking = tab.page.get_by_role("region", name="The answer waits for you")
    await expect(asking).to_contain_text("May “send_mail” go ahead?")
    await expect(asking).to_contain_text("everyone <b>")
    await asking.get_by_role("button", name=button).click()
    # Whoever answered once is not asked again before the server has said something.
    await expect(asking.get_by_role("button", name=button)).to_be_disabled()
    assert [(answer["request"], answer["value"]) for answer in answers] == [("r_1", {"approved": button == "Approve"})]


async def test_frames_that_pass_by_the_hundred_are_shown_newest_first_and_older_ones_when_asked_for(
    new_tab: NewTab, node: NodeProcess
) -> None:
    def told(frame: Frame) -> list[Frame]:
        return [frame, *({"type": "weather", "number": n} for n in range(450) if frame["type"] == "welcome")]

    tab = await rewritten(new_tab, node, told)
    toggle = tab.button("Inspector")
    weather = tab.frames.and_(tab.page.locator("[data-type='weather']"))
    await toggle.click()
    await tab.inspector.get_by_role("textbox", name="Filter frames").fill("weather")
    await expect(weather).to_have_count(200)
    await expect(weather.last).to_be_in_viewport()
    older = tab.button("Show older frames")
    for count in (400, 450):
        await older.click()
        await expect(weather).to_have_count(count)
    numbers = await weather.evaluate_all("(rows) => rows.map(({ dataset }) => Number(dataset.number))")
    assert numbers == sorted(numbers)
    # What was in view stays there.
    await expect(weather.first).not_to_be_in_viewport()
    await tab.inspector.get_by_role("textbox", name="Filter frames").press("Escape")
    await expect(tab.inspector).to_be_hidden()
    await expect(toggle).to_be_focused()
