"""What must not show in the page: connections that are cut, refused or never come, and a server that dies."""

import asyncio
import random
import secrets
from pathlib import Path

import pytest
from playwright.async_api import expect

from tests.browser.conftest import NewTab
from tests.browser.provider import Script, deltas, end, question_of, says, words
from tests.browser.tab import AWAY, NETWORK, Tab
from tests.support.cutting_proxy import CuttingProxy
from tests.support.processes import NodeProcess
from tests.support.provider_server import Gate, Piece, ProviderServer, Reply
from tests.support.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="session")

CUTS = 20
WORDS_PER_CUT = 12


def asked(provider: ProviderServer, question: str) -> int:
    return sum(question_of(request) == question for request in provider.requests)


def in_bursts(gates: list[asyncio.Event]) -> tuple[list[str], Reply]:
    """An answer in bursts of words, each sent when its gate is opened, over long enough to be cut in the middle."""
    said: list[str] = []
    pieces: list[Piece] = []
    for number, gate in enumerate(gates):
        burst = words(WORDS_PER_CUT, f"b{number}ü")
        said += burst
        pieces += [Gate(gate), *deltas(burst, every_ms=6)]
    return said, Reply([*pieces, *end(len(said))])


async def test_pulling_the_plug_twenty_times_in_one_answer_leaves_it_whole_and_proved(tab: Tab, script: Script) -> None:
    gates = [asyncio.Event() for _ in range(CUTS + 1)]
    said, reply = in_bursts(gates)
    script.plays("Pull", reply)
    await tab.say("Pull")
    for number in range(CUTS):
        sockets = len(tab.sockets)
        gates[number].set()
        await expect(tab.answer("Pull")).to_contain_text(f"b{number}ü1 ")
        await tab.button("Pull the plug").click()
        await until(lambda sockets=sockets: len(tab.sockets) > sockets)
        await expect(tab.answer("Pull")).to_contain_text(f"b{number}ü{WORDS_PER_CUT - 1}")
        await tab.is_live()
    gates[CUTS].set()
    await tab.ends("Pull", "".join(said))
    await tab.is_proved("Pull")
    assert len(tab.sockets) > CUTS


async def test_a_network_that_cuts_again_and_again_leaves_the_answer_whole_and_proved(
    new_tab: NewTab, proxy: CuttingProxy, script: Script
) -> None:
    tab = await new_tab()
    tab.expected.append(NETWORK)
    await tab.visit(proxy.http_url)
    seed = secrets.token_hex(4)
    drawn = random.Random(seed)
    gates = [asyncio.Event() for _ in range(9)]
    said, reply = in_bursts(gates)
    script.plays("Cut", reply)
    await tab.say("Cut")
    for number, gate in enumerate(gates):
        gate.set()
        await expect(tab.answer("Cut")).to_contain_text(f"b{number}ü{drawn.randrange(WORDS_PER_CUT // 2)}")
        if number < len(gates) - 1:
            assert proxy.cut() == 1, seed
            await until(lambda: proxy.websockets == 1)
    await tab.ends("Cut", "".join(said))
    await tab.is_proved("Cut")


async def test_a_message_typed_offline_is_sent_once_when_the_server_is_back(
    new_tab: NewTab, proxy: CuttingProxy, provider: ProviderServer
) -> None:
    tab = await new_tab()
    tab.expected.append(NETWORK)
    await tab.visit(proxy.http_url)
    proxy.refusing = True
    proxy.cut()
    await expect(tab.connection).to_have_text(AWAY)
    await tab.say("Typed offline")
    await expect(tab.turn("Typed offline")).to_have_attribute("data-status", "sending")
    refused = proxy.refused
    await until(lambda: proxy.refused > refused)
    assert asked(provider, "Typed offline") == 0
    proxy.refusing = False
    await tab.ends("Typed offline", "This was not rehearsed.")
    assert asked(provider, "Typed offline") == 1
    await expect(tab.turns).to_have_count(1)


async def test_a_message_typed_offline_survives_a_reload_and_is_sent_once(
    new_tab: NewTab, proxy: CuttingProxy, provider: ProviderServer
) -> None:
    tab = await new_tab()
    tab.expected.append(NETWORK)
    await tab.visit(proxy.http_url)
    proxy.refusing = True
    proxy.cut()
    await tab.say("Typed before a reload")
    await tab.page.reload()
    await expect(tab.turn("Typed before a reload")).to_have_attribute("data-status", "sending")
    proxy.refusing = False
    await tab.ends("Typed before a reload", "This was not rehearsed.")
    await tab.page.reload()
    await tab.ends("Typed before a reload", "This was not rehearsed.")
    await expect(tab.turns).to_have_count(1)
    assert asked(provider, "Typed before a reload") == 1


async def test_a_message_stopped_before_it_was_sent_goes_when_it_is_told_to_or_is_forgotten(
    new_tab: NewTab, proxy: CuttingProxy, provider: ProviderServer
) -> None:
    tab = await new_tab()
    tab.expected.append(NETWORK)
    await tab.visit(proxy.http_url)
    proxy.refusing = True
    proxy.cut()
    await expect(tab.connection).to_have_text(AWAY)
    for question in ("Keep me back", "Forget me"):
        await tab.say(question)
        await tab.button("Stop").click()
        await expect(tab.turn(question)).to_have_attribute("data-status", "error")
        await expect(tab.turn(question).locator(".error")).to_contain_text("Stopped before it was sent.")
    await tab.turn("Forget me").get_by_role("button", name="Discard").click()
    await expect(tab.turn("Forget me")).to_have_count(0)
    proxy.refusing = False
    await tab.is_live()
    await expect(tab.turn("Keep me back")).to_have_attribute("data-status", "error")
    await tab.turn("Keep me back").get_by_role("button", name="Send again").click()
    await tab.ends("Keep me back", "This was not rehearsed.")
    await tab.page.reload()
    await tab.ends("Keep me back", "This was not rehearsed.")
    await expect(tab.turns).to_have_count(1)
    assert (asked(provider, "Keep me back"), asked(provider, "Forget me")) == (1, 0)


async def test_a_server_that_is_killed_and_restarted_leaves_one_clear_error_and_a_chat_that_goes_on(
    new_tab: NewTab, proxy: CuttingProxy, script: Script, settings: dict[str, str], tmp_path: Path
) -> None:
    tab = await new_tab()
    tab.expected.append(NETWORK)
    said = words(8)
    script.plays("Killed", says(said, held=asyncio.Event()))
    async with NodeProcess.started(tmp_path / "data", settings) as node:
        proxy.target_port = node.port
        await tab.visit(proxy.http_url)
        await tab.say("Killed")
        await expect(tab.answer("Killed")).to_have_text("".join(said).strip())
        await node.kill()
        await expect(tab.connection).to_have_text(AWAY)
        successor = await NodeProcess.start(tmp_path / "data", settings)
        try:
            proxy.target_port = successor.port
            await tab.is_live()
            await tab.ends("Killed", "".join(said), "error")
            await expect(tab.page.locator(".error:visible")).to_have_count(1)
            await tab.say("After it")
            await tab.ends("After it", "This was not rehearsed.")
            await tab.page.reload()
            await tab.ends("Killed", "".join(said), "error")
            await tab.ends("After it", "This was not rehearsed.")
            # An open page would hold the server's orderly end back.
            await tab.page.close()
        finally:
            await successor.stop()
