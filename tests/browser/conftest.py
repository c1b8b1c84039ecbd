"""One browser, server and provider for the session, a fresh profile for a test. All tests share one list of chats.

A test fails when a tab's console held an error that it did not expect, and leaves pictures of its tabs when it fails.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser, BrowserContext, async_playwright, expect

from tests.browser.provider import Script
from tests.browser.tab import Tab
from tests.support.browser import launch
from tests.support.cutting_proxy import CuttingProxy
from tests.support.processes import NodeProcess
from tests.support.provider_server import ProviderServer

PATIENCE_MS = 20_000
FAILED = pytest.StashKey[bool]()

NewTab = Callable[[], Awaitable[Tab]]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    item.stash[FAILED] = item.stash.get(FAILED, False) or report.failed
    return report


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncGenerator[Browser]:
    expect.set_options(timeout=PATIENCE_MS)
    async with async_playwright() as playwright:
        try:
            launched = await launch(playwright)
        except LookupError as missing:
            pytest.skip(str(missing))
        yield launched
        await launched.close()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def script() -> Script:
    return Script()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def provider(script: Script) -> AsyncGenerator[ProviderServer]:
    async with ProviderServer(script.answer) as server:
        yield server


@pytest.fixture(scope="session")
def settings(provider: ProviderServer) -> dict[str, str]:
    """A node that asks the provider, notices the death of another soon, and stops at once."""
    return {
        "OPENAI_API_KEY": "test-key-not-a-real-one",
        "OPENAI_BASE_URL": provider.base_url,
        "TURNWIRE_MODEL": "test-model",
        "TURNWIRE_LEASE_MS": "1000",
        "TURNWIRE_RENEW_MS": "300",
        "TURNWIRE_SWEEP_MS": "200",
        "TURNWIRE_DRAIN_MS": "0",
    }


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def node(settings: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[NodeProcess]:
    async with NodeProcess.started(tmp_path_factory.mktemp("node"), settings) as started:
        yield started


@pytest_asyncio.fixture(loop_scope="session")
async def proxy(node: NodeProcess) -> AsyncGenerator[CuttingProxy]:
    async with CuttingProxy(node.port) as between:
        yield between


@pytest_asyncio.fixture(loop_scope="session")
async def new_tab(request: pytest.FixtureRequest, browser: Browser, tmp_path: Path) -> AsyncGenerator[NewTab]:
    """Makes tabs, each in a fresh profile and on nothing yet."""
    contexts: list[BrowserContext] = []
    tabs: list[Tab] = []

    async def make() -> Tab:
        context = await browser.new_context()
        context.set_default_timeout(PATIENCE_MS)
        contexts.append(context)
        return Tab(await context.new_page(), tabs)

    yield make
    if request.node.stash.get(FAILED, False):
        for number, tab in enumerate(tabs):
            path = tmp_path / f"tab-{number}.png"
            await tab.picture(path)
            print(f"picture: {path}; its console: {tab.faults + tab.expected_faults}")
    for context in contexts:
        await context.close()
    assert [tab.faults for tab in tabs] == [[] for _ in tabs]


@pytest_asyncio.fixture(loop_scope="session")
async def tab(new_tab: NewTab, node: NodeProcess) -> Tab:
    """A tab that shows the page, connected, with an empty chat."""
    made = await new_tab()
    await made.visit(node.http_url)
    return made
