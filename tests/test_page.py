"""The page's files: what they may load, and that no text of a model can become markup.

They are only read here. How they are served is tested in tests/transports/test_pages.py, what they do in tests/browser.
"""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
WEB = ROOT / "server/turnwire/web"
PLAYGROUND = ROOT / "clients/js/playground"
INDEX = (WEB / "index.html").read_text(encoding="utf-8")
STYLE = (WEB / "playground.css").read_text(encoding="utf-8")
MADE_HERE = sorted(path for path in PLAYGROUND.glob("*.ts") if not path.name.endswith(".test.ts"))

# All ways in which a string becomes markup or code.
MARKUP = re.compile(
    r"innerHTML|outerHTML|insertAdjacentHTML|createContextualFragment|DOMParser|setHTML|srcdoc|document\.write"
    r"|\beval\b|new Function|setAttribute\(\s*[\"'`]on"
)


class Outline(HTMLParser):
    """What a page refers to, and what a policy without `unsafe-inline` would refuse."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.inline: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("src", "srcset", "data") or (name == "href" and tag == "link"):
                self.loaded.append(value or "")
            elif name == "style" or name.startswith("on"):
                self.inline.append(f"{tag} {name}")
            elif name == "id":
                self.ids.append(value or "")
        if tag == "style" or (tag == "script" and not any(name == "src" for name, _ in attrs)):
            self.inline.append(tag)


@pytest.fixture
def outline() -> Outline:
    parser = Outline()
    parser.feed(INDEX)
    return parser


def test_the_page_loads_its_own_files_and_no_others(outline: Outline) -> None:
    own = [
        address.removeprefix("/").removeprefix("./") for address in outline.loaded if not address.startswith("data:")
    ]
    assert {"playground.css", "playground.js"} <= set(own)
    for name in own:
        assert (WEB / name).is_file(), name
    assert re.findall(r"url\((?!['\"]?data:)|@import", STYLE) == []
    for text in (INDEX, STYLE):
        assert not re.search(r"\b(src|href|action)\s*=\s*['\"]?\s*(https?:)?//", text)


def test_the_page_needs_nothing_inline(outline: Outline) -> None:
    assert outline.inline == []


def test_every_id_of_the_page_is_there_once(outline: Outline) -> None:
    assert sorted(set(outline.ids)) == sorted(outline.ids)


def test_no_string_becomes_markup_but_in_the_sanitiser() -> None:
    assert len(MADE_HERE) > 2
    for path in MADE_HERE:
        code = path.read_text(encoding="utf-8")
        assert not MARKUP.search(code), path.name
        assert ('from "dompurify"' in code) == (path.name == "markdown.ts"), path.name


def test_the_served_scripts_import_each_other_and_nothing_else() -> None:
    imported = {
        name: set(re.findall(r"(?:from|import)\s*\(?\s*[\"']([^\"']+)[\"']", (WEB / name).read_text(encoding="utf-8")))
        for name in ("playground.js", "turnwire.js")
    }
    assert imported == {"playground.js": {"./turnwire.js", "./markdown.js"}, "turnwire.js": set()}


def test_the_licences_of_bundled_packages_go_along() -> None:
    licences = (WEB / "markdown.LICENSE.txt").read_text(encoding="utf-8")
    for package in ("marked", "dompurify"):
        assert re.search(rf"^--- {package} \d+\.\d+\.\d+ \(.+\) ---$", licences, re.MULTILINE)
    assert "@license DOMPurify" in (WEB / "markdown.js").read_text(encoding="utf-8")
