"""The list of hostile inputs in docs/security.md: each of the 27 has tests that are named after it, and says which."""

import ast
import re
from pathlib import Path

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "security.md"
NUMBERS = range(1, 28)

NAMED = re.compile(r"test_(\d\d)_")
ROW = re.compile(r"^\| (\d+) \| (.+?) \| (.+?) \| `(test_\w+\.py)` \|$", re.MULTILINE)


def numbered() -> dict[int, set[str]]:
    """The files with tests of each number."""
    found: dict[int, set[str]] = {}
    for path in HERE.glob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.AsyncFunctionDef | ast.FunctionDef) and (named := NAMED.match(node.name)):
                found.setdefault(int(named[1]), set()).add(path.name)
    return found


def test_every_number_has_a_test_and_a_row_that_says_where() -> None:
    rows = ROW.findall(PAGE.read_text(encoding="utf-8"))
    assert [int(number) for number, *_ in rows] == list(NUMBERS)
    assert numbered() == {int(number): {file} for number, _, _, file in rows}
