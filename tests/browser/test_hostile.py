"""What a model, a person or a server may send that must not hurt: markup, scripts, addresses, frames from nowhere.

Two walls stand: the sanitiser, and the policy that the server sends along. Here the first must hold alone: a violation
of the policy is an error in the console, and that fails a test.
"""

import asyncio
import json
import re
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import WebSocketRoute, expect
from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Request, Response

from tests.browser.conftest import NewTab
from tests.browser.provider import Script, deltas, end, reasons, says, words
from tests.browser.tab import NETWORK, Tab
from tests.support.processes import NodeProcess
from tests.support.provider_server import Reply
from tests.support.waiting import PATIENCE_S
from turnwire.transports.pages import MEDIA_TYPES

pytestmark = pytest.mark.asyncio(loop_scope="session")

WEB = Path(__file__).resolve().parents[2] / "server/turnwire/web"
RUN = "window.hurt=1"
PAYLOADS = {
    "script": f"<script>{RUN}</script>",
    "image": f'<img src="/nowhere.png" onerror="{RUN}">',
    "link": f'<a href="javascript:{RUN}">press</a>',
    "markdown-link": f"[press](javascript:{RUN})",
    "spaced-link": f"[press](<java\tscript:{RUN}>)",
    "data-link": f"[press](data:text/html,<script>{RUN}</script>)",
    "autolink": f"<javascript:{RUN}>",
    "reference": f"[press][r]\n\n[r]: javascript:{RUN} 'title'",
    "title": f"[press](https://example.invalid 'x\" onmouseover=\"{RUN}')",
    "alt": f'![x" onerror="{RUN}](/nowhere.png)',
    "remote-image": "![seen](http://127.0.0.1:9/seen.png)",
    "svg": f'<svg><animate onbegin="{RUN}" attributeName="x" dur="1s"></svg>',
    "frame": f'<iframe srcdoc="<script>parent.{RUN}</script>"></iframe>',
    "details": f'<details open ontoggle="{RUN}"><summary>x</summary></details>',
    "style": "<style>body{display:none}</style>",
    "form": '<form action="/v1/sessions"><input name=x><button>Send</button></form>',
    "refresh": '<meta http-equiv="refresh" content="0;url=/nowhere">',
    "base": '<base href="http://127.0.0.1:9/">',
    "clobber": '<a id="connection" name="body"></a><form id="forms"></form>',
    "mutation": f'<math><mtext><table><mglyph><style><!--</style><img title="--&gt;&lt;img src=1 onerror={RUN}&gt;">',
    "template": f'<template><img src="/nowhere.png" onerror="{RUN}"></template>',
    "fence": f'```"><img/src=x/onerror={RUN}>\ncode\n```',
    "entity": f"&lt;img src=x onerror={RUN}&gt;",
}

# Looks at each node as it comes into an answer: what is there for one frame only has been there.
WATCH = """
    window.found = [];
    // What Markdown gives. Everything else came in as markup, but for what the page makes of a block of code.
    const own = new Set(`A BLOCKQUOTE BR CODE DEL DIV EM FIGCAPTION FIGURE H1 H2 H3 H4 H5 H6 HR LI OL P PRE STRONG TABLE
      TBODY TD TH THEAD TR UL`.split(/\\s+/));
    const look = (element) => {
      const inside = element.closest(".text, .reasoning, .question p, nav[aria-label='Chats'] a");
      if (!inside || inside === element || element.closest("figure > figcaption > *")) return;
      const line = element.tagName === "SPAN" && element.closest("pre > code");
      if (!own.has(element.tagName) && !line) found.push(element.outerHTML);
      for (const { name, value } of element.attributes) {
        const bad = /^on|^style$|^srcdoc$|^formaction$/.test(name) || (name === "id" && value === "connection")
          || (/^(href|src|action)$/.test(name) && !/^(https?:|mailto:|#|blob:)/i.test(value));
        if (bad) found.push(element.outerHTML);
      }
    };
    new MutationObserver((changes) => {
      for (const { addedNodes, target, type } of changes) {
        if (type === "attributes") look(target);
        for (const node of addedNodes) {
          if (node.nodeType !== 1) continue;
          look(node);
          node.querySelectorAll("*").forEach(look);
        }
      }
    }).observe(document, { subtree: true, childList: true, attributes: true });
    """


@pytest_asyncio.fixture(loop_scope="session")
async def watched(new_tab: NewTab, node: NodeProcess) -> AsyncGenerator[Tab]:
    """A tab in which nothing may come to harm, looked at all the time."""
    tab = await new_tab()
    await tab.page.add_init_script(WATCH)
    await tab.visit(node.http_url)
    yield tab
    assert await tab.evaluate("window.hurt") is None
    assert await tab.evaluate("window.found") == []
    assert [address for address in tab.requested if not address.startswith((node.http_url, "data:", "blob:"))] == []
    assert not [address for address in tab.requested if "nowhere" in address]


@pytest.mark.parametrize("payload", PAYLOADS.values(), ids=PAYLOADS.keys())
async def test_an_answer_is_never_executed_nor_markup(watched: Tab, script: Script, payload: str) -> None:
    answer = f"Before.\n\n{payload}\n\nAfter {payload} it."
    script.plays("Whole", says([answer, "\n\nThe end."]))
    await watched.say("Whole")
    await expect(watched.answer("Whole")).to_contain_text("The end.")
    await expect(watched.turn("Whole")).to_have_attribute("data-status", "done")
    for link in await watched.answer("Whole").locator("a").all():
        await link.hover()
    await expect(watched.message).to_be_visible()


@pytest.mark.parametrize("size", [1, 7])
async def test_an_answer_that_comes_in_pieces_is_never_markup_for_a_moment(
    watched: Tab, script: Script, size: int
) -> None:
    answer = "\n\n".join([*PAYLOADS.values(), "The end."])
    pieces = [answer[at : at + size] for at in range(0, len(answer), size)]
    script.plays("Pieces", Reply([*deltas(pieces, every_ms=size), *end(len(pieces))]))
    await watched.say("Pieces")
    await expect(watched.turn("Pieces")).to_have_attribute("data-status", "done")
    await expect(watched.answer("Pieces")).to_contain_text("The end.")


async def test_what_people_type_and_what_a_model_thinks_is_never_markup_either(watched: Tab, script: Script) -> None:
    for number, payload in enumerate(PAYLOADS.values()):
        question = f"{number}: {payload}"
        script.plays(question, Reply([*reasons(payload), *deltas(["Yes."]), *end(2)]))
    await watched.say(question := f"0: {PAYLOADS['script']}")
    await watched.ends(question, "Yes.")
    await watched.has_chat(question)
    await watched.say(question := f"1: {PAYLOADS['image']}")
    await watched.ends(question, "Yes.")


async def test_links_of_an_answer_leave_the_page_and_tell_nobody_where_they_were_pressed(
    watched: Tab, script: Script
) -> None:
    script.says("Link", "See [there](https://example.invalid/x).")
    await watched.say("Link")
    link = watched.answer("Link").get_by_role("link", name="there")
    await expect(link).to_have_attribute("href", "https://example.invalid/x")
    await expect(link).to_have_attribute("target", "_blank")
    relation = await link.get_attribute("rel") or ""
    assert {"noopener", "noreferrer"} <= set(relation.split())


async def test_the_browser_itself_takes_no_string_as_markup_or_code(new_tab: NewTab, node: NodeProcess) -> None:
    tab = await new_tab()
    tab.expected.append(re.compile("Trusted|violates the following Content Security Policy"))
    await tab.visit(node.http_url)
    for attempt in (
        "document.body.innerHTML = '<b>in</b>'",
        "new DOMParser().parseFromString('<b>in</b>', 'text/html')",
        "document.createElement('script').src = '/turnwire.js'",
        "setTimeout('window.hurt = 1')",
        "trustedTypes.createPolicy('own', {})",
    ):
        refused = f"() => {{ try {{ {attempt}; return null }} catch (error) {{ return error.name }} }}"
        assert await tab.evaluate(refused) == "TypeError", attempt


# --- a server's mischief -------------------------------------------------------------------------------------------


async def test_frames_of_unknown_types_are_skipped_and_their_numbers_count(
    new_tab: NewTab, node: NodeProcess, script: Script
) -> None:
    tab = await new_tab()

    def between(page: WebSocketRoute) -> None:
        server = page.connect_to_server()
        shift = 0

        def pass_on(text: str | bytes) -> None:
            nonlocal shift
            frame: dict[str, Any] = json.loads(text)
            if frame["type"] == "turn.delta":
                # In front of each delta a number is taken, and all that follow move up by one.
                own = {"seq": frame.get("first_seq", frame["seq"]) + shift}
                named = {"session": frame["session"], "turn": frame["turn"], **own}
                page.send(json.dumps({"type": "turn.sparkled", "at": 1, **named, "colour": {"is": "red"}}))
                page.send('{"type": "weather", "seq": "none"}')
                shift += 1
            for field in ("seq", "first_seq"):
                if field in frame:
                    frame[field] += shift
            page.send(json.dumps({**frame, "unknown_field": [1, 2]}))

        server.on_message(pass_on)

    await tab.page.route_web_socket("**/v1/ws", between)
    await tab.visit(node.http_url)
    script.plays("Sparkle", says(words(20), every_ms=5))
    await tab.say("Sparkle")
    await tab.ends("Sparkle", "".join(words(20)))
    await tab.is_proved("Sparkle")


async def test_a_malformed_frame_is_reported_once_and_the_answer_ends_whole(
    new_tab: NewTab, node: NodeProcess, script: Script
) -> None:
    tab = await new_tab()
    tab.expected.append(re.compile("no frame"))
    broken = 0

    def between(page: WebSocketRoute) -> None:
        server = page.connect_to_server()
        deltas_passed = 0

        def pass_on(text: str | bytes) -> None:
            nonlocal broken, deltas_passed
            deltas_passed += json.loads(text)["type"] == "turn.delta"
            if deltas_passed == 3 and broken < 2:
                broken += 1
                page.send('{"type": "turn.delta", "text": "w')
            page.send(text)

        server.on_message(pass_on)

    await tab.page.route_web_socket("**/v1/ws", between)
    await tab.visit(node.http_url)
    script.plays("Garble", says(words(100), every_ms=15))
    await tab.say("Garble")
    await tab.ends("Garble", "".join(words(100)))
    await tab.is_proved("Garble")
    assert broken == 2
    assert len(tab.expected_faults) == 1


async def page_and_socket(connection: ServerConnection, request: Request) -> Response | None:
    """The page's files, and a WebSocket for whoever asks for one."""
    return None if request.headers.get("upgrade") == "websocket" else await page_only(connection, request)


async def page_only(connection: ServerConnection, request: Request) -> Response:
    """The page's files, as any server of files has them."""
    name = request.path.partition("?")[0].removeprefix("/") or "index.html"
    found = (WEB / name).is_file()
    response = connection.respond(200 if found else 404, (WEB / name).read_text() if found else "Nothing here.\n")
    if found:
        del response.headers["content-type"]
        response.headers["content-type"] = MEDIA_TYPES[Path(name).suffix]
    return response


async def chatter(connection: ServerConnection) -> None:
    await connection.send("Welcome to the weather channel.")
    await connection.wait_closed()


async def hang_up(connection: ServerConnection) -> None:
    await connection.close(1000)


@pytest.mark.parametrize(
    ("handler", "subprotocols"),
    [
        (chatter, ["turnwire.v1.json"]),
        (chatter, None),
        (hang_up, ["turnwire.v1.json"]),
        (hang_up, None),
        (None, None),
    ],
    ids=["chatter", "chatter-in-no-protocol", "hang-up", "hang-up-in-no-protocol", "files-only"],
)
async def test_a_server_that_is_not_turnwire_gives_one_clear_sentence(
    new_tab: NewTab, handler: Any, subprotocols: list[Any] | None
) -> None:
    tab = await new_tab()
    tab.expected += [NETWORK, re.compile("no frame")]
    not_ours = re.compile(r"(No|not) .*Turnwire.*\.$")
    process = page_only if handler is None else page_and_socket
    async with serve(handler or hang_up, "127.0.0.1", 0, process_request=process, subprotocols=subprotocols) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        await tab.page.goto(f"http://127.0.0.1:{port}")
        said = tab.page.get_by_role("status").filter(has_text=not_ours)
        await expect(said.first).to_be_visible()
        sentences = {not_ours.search(text.strip()) for text in await said.all_inner_texts()}
        assert len({found[0] for found in sentences if found}) == 1
        await expect(tab.message).to_be_visible()
        await tab.page.close()


async def test_a_server_that_refuses_this_client_is_shown_to_have_refused(new_tab: NewTab, node: NodeProcess) -> None:
    tab = await new_tab()
    tab.expected.append(NETWORK)
    refusing = asyncio.Event()

    async def refuse(route: WebSocketRoute) -> None:
        refusing.set()
        await route.close(code=4401, reason="unauthenticated")

    await tab.page.route_web_socket("**/v1/ws", refuse)
    await tab.page.goto(node.http_url)
    await asyncio.wait_for(refusing.wait(), PATIENCE_S)
    await expect(tab.connection).to_contain_text("Refused")
