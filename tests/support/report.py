"""Tables in the pages of docs/ that long runs write anew, between markers that name them."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

PAGE: Final = Path(__file__).parents[2] / "docs" / "reliability.md"


def write_table(name: str, head: Sequence[str], rows: Sequence[Sequence[object]], *, page: Path = PAGE) -> None:
    """Put a table where `<!-- begin NAME -->` … `<!-- end NAME -->` stands."""
    text, found = _place(name, page)
    table = "\n".join([_row(head), _row(["---"] * len(head)), *(_row(row) for row in rows)]) + "\n"
    page.write_text(f"{text[: found.start(2)]}{table}{text[found.end(2) :]}", encoding="utf-8")


def read_table(name: str, *, page: Path = PAGE) -> list[tuple[str, ...]]:
    """The rows that stand there, without the head."""
    _, found = _place(name, page)
    return [_cells(line) for line in found[2].splitlines()[2:]]


def _place(name: str, page: Path) -> tuple[str, re.Match[str]]:
    text = page.read_text(encoding="utf-8")
    found = re.search(rf"(<!-- begin {re.escape(name)} -->\n)(.*?)(<!-- end {re.escape(name)} -->)", text, re.DOTALL)
    if found is None:
        raise LookupError(f"{page} has no place for a table called {name}")
    return text, found


def _row(cells: Sequence[object]) -> str:
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"


def _cells(line: str) -> tuple[str, ...]:
    return tuple(cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1])
