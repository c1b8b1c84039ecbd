"""Tables in docs/reliability.md that long runs write anew, between markers that name them."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

PAGE: Final = Path(__file__).parents[2] / "docs" / "reliability.md"


def write_table(name: str, head: Sequence[str], rows: Sequence[Sequence[object]], *, page: Path = PAGE) -> None:
    """Put a table where `<!-- begin NAME -->` … `<!-- end NAME -->` stands."""
    lines = [_row(head), _row(["---"] * len(head)), *(_row(row) for row in rows)]
    text = page.read_text(encoding="utf-8")
    place = re.compile(rf"(<!-- begin {re.escape(name)} -->\n).*?(<!-- end {re.escape(name)} -->)", re.DOTALL)
    if place.search(text) is None:
        raise LookupError(f"{page} has no place for a table called {name}")
    table = "\n".join(lines) + "\n"
    page.write_text(place.sub(lambda found: f"{found[1]}{table}{found[2]}", text), encoding="utf-8")


def _row(cells: Sequence[object]) -> str:
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"
