"""A browser's tab with the page in it, in the words of the page: what a person sees and does there.

Tests ask for roles and names, as a screen reader does, and for the few marks that the page puts on its turns. A tab
keeps what its console says: a test that did not expect an error there fails.
"""

import re
from pathlib import Path
from typing import Any

from playwright.async_api import ConsoleMessage, Error, Locator, Page, WebSocket, expect

LIVE = re.compile(r"^\s*Live")
AWAY = re.compile(r"^\s*(Offline|Connecting)")
# What the browser itself writes when a socket or a request comes to nothing.
NETWORK = re.compile(r"WebSocket connection to|Failed to load resource|net::ERR_")


class Tab:
    """`faults` are its console's errors and uncaught exceptions, but for those that match `expected`."""

    def __init__(self, page: Page, tabs: "list[Tab]") -> None:
        """`tabs` are all of a test, to which this one is added."""
        self.page = page
        self._tabs = tabs
        tabs.append(self)
        self.faults: list[str] = []
        self.expected_faults: list[str] = []
        self.expected: list[re.Pattern[str]] = []
        self.sockets: list[WebSocket] = []
        """Every WebSocket that the page has opened."""
        self.requested: list[str] = []
        """The address of everything that it asked for."""
        page.on("console", self._heard)
        page.on("pageerror", self._threw)
        page.on("websocket", lambda socket: self.sockets.append(socket))
        page.on("request", lambda request: self.requested.append(request.url))

    def _heard(self, said: ConsoleMessage) -> None:
        if said.type in ("error", "warning"):
            self._note(f"console.{said.type}: {said.text}")

    def _threw(self, error: Error) -> None:
        self._note(f"uncaught: {error}")

    def _note(self, fault: str) -> None:
        known = any(pattern.search(fault) for pattern in self.expected)
        (self.expected_faults if known else self.faults).append(fault)

    # --- what is there ----------------------------------------------------------------------------------------------

    @property
    def connection(self) -> Locator:
        return self.page.locator("#connection")

    @property
    def message(self) -> Locator:
        return self.page.get_by_role("textbox", name="Message", exact=True)

    @property
    def turns(self) -> Locator:
        return self.page.locator("main article[data-turn]")

    @property
    def chats(self) -> Locator:
        return self.page.get_by_role("navigation", name="Chats")

    @property
    def inspector(self) -> Locator:
        return self.page.get_by_role("complementary", name="Wire inspector")

    @property
    def frames(self) -> Locator:
        return self.inspector.locator("li[data-type]")

    @property
    def session(self) -> str:
        """The id in the address."""
        return self.page.url.partition("#")[2]

    def button(self, name: str) -> Locator:
        return self.page.get_by_role("button", name=name, exact=True)

    def turn(self, question: str) -> Locator:
        return self.turns.filter(has=self.page.locator(".question").get_by_text(question, exact=True))

    def answer(self, question: str) -> Locator:
        return self.turn(question).locator(".answer .text")

    def chat(self, name: str) -> Locator:
        return self.chats.get_by_role("link", name=name, exact=True)

    # --- what is done -----------------------------------------------------------------------------------------------

    async def visit(self, url: str) -> None:
        """Open the page and wait until it is connected."""
        await self.page.goto(url)
        await self.is_live()

    async def is_live(self) -> None:
        await expect(self.connection).to_have_text(LIVE)

    async def say(self, question: str) -> None:
        """Type and send; returns when the page shows the turn."""
        await self.message.fill(question)
        await self.button("Send").click()
        await expect(self.turn(question)).to_have_count(1)

    async def ends(self, question: str, text: str, status: str = "done") -> None:
        """The turn comes to its end, with exactly this text."""
        await expect(self.turn(question)).to_have_attribute("data-status", status)
        await expect(self.answer(question)).to_have_text(text.strip())

    async def is_proved(self, question: str) -> None:
        await expect(self.turn(question).locator(".usage")).to_contain_text("✓ proved")

    async def has_chat(self, name: str) -> None:
        await expect(self.chat(name)).to_have_count(1)

    async def option(self, chat: str, item: str) -> None:
        """Choose from a chat's menu."""
        await self.chats.get_by_role("button", name=f"Options for {chat}", exact=True).click()
        await self.page.get_by_role("menuitem", name=item, exact=True).click()

    async def evaluate(self, expression: str) -> Any:
        return await self.page.evaluate(expression)

    async def another(self) -> "Tab":
        """A second tab of the same profile, on nothing yet."""
        return Tab(await self.page.context.new_page(), self._tabs)

    async def to_front(self) -> None:
        """Look at this tab again: a browser draws one at a time, and a click waits for what is drawn."""
        await self.page.bring_to_front()

    async def picture(self, path: Path) -> None:
        await self.page.screenshot(path=path)
