"""Tables in a page: what is written there is what is read, and nothing around it changes."""

from pathlib import Path

import pytest

from tests.support.report import read_table, write_table


def test_a_table_is_written_between_its_markers_and_read_back(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- begin a -->\nold\n<!-- end a -->\nbetween\n<!-- begin b -->\n<!-- end b -->\nafter\n")
    rows = [("x or y", "`a | b`"), ("", "2")]

    write_table("a", ("one", "two"), rows, page=page)
    write_table("b", ("three",), [], page=page)

    assert read_table("a", page=page) == rows
    assert read_table("b", page=page) == []
    text = page.read_text()
    assert text.startswith("before\n<!-- begin a -->\n| one | two |\n| --- | --- |\n")
    assert "<!-- end a -->\nbetween\n" in text and text.endswith("<!-- end b -->\nafter\n")
    with pytest.raises(LookupError, match="no place for a table called c"):
        write_table("c", ("one",), [], page=page)
