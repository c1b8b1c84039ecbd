"""The page's files over HTTP: types, packing, tags, and the policy that goes along."""

import asyncio
import gzip
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import pytest
import pytest_asyncio

from tests.support.processes import NodeProcess

pytestmark = pytest.mark.asyncio(loop_scope="module")

WEB = Path(__file__).resolve().parents[2] / "server/turnwire/web"


class Answer(NamedTuple):
    status: int
    headers: Any
    body: bytes


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def node(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[NodeProcess]:
    async with NodeProcess.started(tmp_path_factory.mktemp("node"), {"TURNWIRE_DRAIN_MS": "0"}) as started:
        yield started


async def get(url: str, **headers: str) -> Answer:
    """As it came: nothing is unpacked."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    skipped = ("Accept-Encoding", "Host") if "host" in named else ("Accept-Encoding",)
    async with (
        aiohttp.ClientSession(auto_decompress=False, skip_auto_headers=skipped) as session,
        session.get(url, headers=named, allow_redirects=False) as answer,
    ):
        return Answer(answer.status, answer.headers, await answer.read())


FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/playground.css": ("playground.css", "text/css; charset=utf-8"),
    "/playground.js": ("playground.js", "text/javascript; charset=utf-8"),
    "/turnwire.js": ("turnwire.js", "text/javascript; charset=utf-8"),
    "/markdown.js": ("markdown.js", "text/javascript; charset=utf-8"),
    "/markdown.LICENSE.txt": ("markdown.LICENSE.txt", "text/plain; charset=utf-8"),
}


@pytest.mark.parametrize(("path", "file"), FILES.items())
async def test_a_file_comes_whole_and_with_its_type(node: NodeProcess, path: str, file: tuple[str, str]) -> None:
    answer = await get(node.http_url + path)
    assert (answer.status, answer.body) == (200, (WEB / file[0]).read_bytes())
    assert answer.headers["content-type"] == file[1]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-cache"


async def test_every_file_of_the_folder_is_served_but_python_and_unknown_ones(node: NodeProcess) -> None:
    for path in WEB.iterdir():
        if path.is_file() and path.name != "index.html":
            status = (await get(f"{node.http_url}/{path.name}")).status
            assert status == (404 if path.suffix in (".py", ".pyc") else 200), path.name
    for path in ("/index.html", "/__init__.py", "/..%2fapp.py", "/web/index.html", "/nothing.js"):
        assert (await get(node.http_url + path)).status == 404, path


@pytest.mark.parametrize(
    ("accepted", "packed"),
    [
        ("gzip", True),
        ("br, gzip;q=0.5", True),
        ("GZIP ; q=1", True),
        ("gzip;q=0", False),
        ("gzip; q=0.000", False),
        ("identity", False),
        ("x-gzip, deflate", False),
        ("", False),
    ],
)
async def test_a_file_is_packed_for_who_can_unpack_it(node: NodeProcess, accepted: str, packed: bool) -> None:
    answer = await get(f"{node.http_url}/playground.js", accept_encoding=accepted)
    assert answer.headers["vary"] == "accept-encoding"
    assert (answer.headers.get("content-encoding") == "gzip") == packed
    assert (gzip.decompress(answer.body) if packed else answer.body) == (WEB / "playground.js").read_bytes()


async def test_what_a_browser_has_is_not_sent_again(node: NodeProcess) -> None:
    url = f"{node.http_url}/turnwire.js"
    plain, packed = await get(url), await get(url, accept_encoding="gzip")
    tag = plain.headers["etag"]
    # A strong tag is of the very bytes: packed ones have another.
    assert re.fullmatch(r'"[0-9a-f]+"', tag) and packed.headers["etag"] != tag
    for known in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        answer = await get(url, if_none_match=known)
        assert (answer.status, answer.body) == (304, b""), known
        assert answer.headers["etag"] == tag
        assert "content-security-policy" in answer.headers
    for unknown in ('"other"', packed.headers["etag"], tag.strip('"')):
        assert (await get(url, if_none_match=unknown)).status == 200, unknown
    assert (await get(url, if_none_match=packed.headers["etag"], accept_encoding="gzip")).status == 304


async def test_the_policy_lets_the_page_reach_this_server_and_nothing_else(node: NodeProcess) -> None:
    policy = dict(
        directive.strip().split(" ", 1)
        for directive in (await get(node.http_url)).headers["content-security-policy"].split(";")
    )
    host = node.http_url.removeprefix("http://")
    assert policy == {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "connect-src": f"'self' ws://{host} wss://{host}",
        "img-src": "'self' data: blob:",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
        "require-trusted-types-for": "'script'",
        "trusted-types": "dompurify",
    }


async def policy_for(node: NodeProcess, host: str) -> str:
    """The page's policy when the request names this host."""
    reader, writer = await asyncio.open_connection("127.0.0.1", node.port)
    try:
        writer.write(f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
    finally:
        writer.close()
        await writer.wait_closed()
    found = re.search(r"connect-src ([^;]*);", head)
    assert found, head
    return found[1]


async def test_a_host_that_is_none_gets_nothing_into_the_policy(node: NodeProcess) -> None:
    assert await policy_for(node, "chat.example.com:8443") == (
        "'self' ws://chat.example.com:8443 wss://chat.example.com:8443"
    )
    assert await policy_for(node, "[::1]:8000") == "'self' ws://[::1]:8000 wss://[::1]:8000"
    for host in ("x; script-src *", "x 'unsafe-inline'", "*", "a,b", "x/y"):
        assert await policy_for(node, host) == "'self'"


async def test_other_pages_may_import_the_client_and_nothing_else(node: NodeProcess) -> None:
    for path in FILES:
        answer = await get(node.http_url + path, origin="https://elsewhere.example")
        allowed = answer.headers.get("access-control-allow-origin")
        assert allowed == ("*" if path == "/turnwire.js" else None), path
