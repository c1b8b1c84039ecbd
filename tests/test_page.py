"""The plain page: what it may load, and that nothing a model says can become markup or script.

It is only read here. That it streams and resumes is tested where there is a browser.
"""

import re
from html.parser import HTMLParser
from importlib.resources import files

import pytest

WEB = files("turnwire.web")
INDEX, SCRIPT, STYLE = (
    WEB.joinpath(name).read_text(encoding="utf-8") for name in ("index.html", "chat.js", "chat.css")
)


class Outline(HTMLParser):
    """What a page refers to, and what a policy without `unsafe-inline` would refuse."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.inline: list[str] = []
        self.ids: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "src" or (name == "href" and tag == "link"):
                self.loaded.append(value or "")
            elif name == "style" or name.startswith("on"):
                self.inline.append(f"{tag} {name}")
            elif name == "id":
                self.ids.add(value or "")
        if tag == "style" or (tag == "script" and not any(name == "src" for name, _ in attrs)):
            self.inline.append(tag)


@pytest.fixture
def outline() -> Outline:
    parser = Outline()
    parser.feed(INDEX)
    return parser


def test_the_page_loads_its_own_files_and_no_others(outline: Outline) -> None:
    assert set(outline.loaded) == {"data:,", "chat.css", "chat.js"}
    for text in (INDEX, SCRIPT, STYLE):
        assert not re.search(r"https?://|//[a-z]+\.[a-z]", text)


def test_the_page_needs_nothing_inline(outline: Outline) -> None:
    assert outline.inline == []


def test_what_comes_in_is_only_ever_text() -> None:
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function", SCRIPT)
    assert "setAttribute" not in SCRIPT


def test_every_element_that_the_script_asks_for_is_there(outline: Outline) -> None:
    asked = set(re.findall(r'element\("(\w+)"\)', SCRIPT))
    assert asked <= outline.ids
    assert len(asked) > 5
